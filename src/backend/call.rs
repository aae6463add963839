//! One exchange with a backend: capped, without redirects, and exact about whether anything was sent.
//! In: a request with JSON or a form. Out: status and JSON. Errors: [`BackendFault`]: `Connect` before the first byte, `Lost` after it.
//! I/O: HTTP/1.1. Source: RFC 9110 §9.2.2 (what may be repeated), RFC 9112 §9.6 (a connection that ends early).

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{Method, Request, Response, StatusCode, request};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;
use url::{Url, form_urlencoded};

use crate::dial::Dialer;
use crate::outcome::{BackendFault, Loss};

/// Largest answer read, in bytes.
pub(crate) const CAP: usize = 64 * 1024;

/// A connection idle for longer may be closed by the other end just as a token is written to it.
const IDLE: Duration = Duration::from_secs(1);

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: StatusCode,
    pub(crate) body: Body,
    /// How long the backend asks to be left alone, where it says so in seconds (RFC 9110 §10.2.3).
    pub(crate) retry_after: Option<Duration>,
}

impl Answered {
    /// That this answer decides nothing.
    pub(crate) fn no_decision(&self) -> BackendFault {
        BackendFault::NoDecision { status: self.status.as_u16(), retry_after: self.retry_after }
    }

    /// For calls whose success has to say something: a success that says nothing readable may still have spent what
    /// was presented, unless it is plainly somebody's page.
    pub(crate) fn that_says_something(self) -> Result<Self, BackendFault> {
        match self.body {
            Body::Empty | Body::Other if self.status.is_success() => {
                Err(BackendFault::Lost(Loss::Unreadable))
            }
            Body::Json(_) | Body::Empty | Body::Page | Body::Other => Ok(self),
        }
    }
}

/// What a whole answer holds.
#[derive(Debug)]
pub(crate) enum Body {
    Json(Value),
    Empty,
    /// A page for people: whoever sent this decided nothing.
    Page,
    /// Neither of these.
    Other,
}

/// Makes exchanges.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    client: Client<Dialer, Full<Bytes>>,
}

impl Caller {
    pub(crate) fn new(dialer: Dialer) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .http1_max_headers(100)
            .build(dialer);
        Self { client }
    }

    /// Sends JSON and reads JSON. `headers` are added as they are.
    pub(crate) async fn json(
        &self,
        method: Method,
        url: &Url,
        headers: &[(&str, &str)],
        json: &Value,
    ) -> Result<Answered, BackendFault> {
        let request = Request::builder().method(method).header(CONTENT_TYPE, "application/json");
        self.exchange(url, headers, (request, json.to_string())).await?.that_says_something()
    }

    /// Asks for JSON. `headers` are added as they are.
    pub(crate) async fn get(&self, url: &Url, headers: &[(&str, &str)]) -> Result<Answered, BackendFault> {
        self.exchange(url, headers, (Request::builder(), String::new())).await?.that_says_something()
    }

    /// Posts a form, encoded as HTML forms are, and reads JSON or nothing. `headers` are added as they are.
    pub(crate) async fn form(
        &self,
        url: &Url,
        headers: &[(&str, &str)],
        fields: &[(&str, &str)],
    ) -> Result<Answered, BackendFault> {
        let request =
            Request::builder().method(Method::POST).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.exchange(url, headers, (request, body)).await
    }

    async fn exchange(
        &self,
        url: &Url,
        headers: &[(&str, &str)],
        (mut request, body): (request::Builder, String),
    ) -> Result<Answered, BackendFault> {
        request = request
            .uri(url.as_str())
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("doorkeep/", env!("CARGO_PKG_VERSION")));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(body)).map_err(|_not_sendable| BackendFault::Connect)?;
        self.send(request, url).await
    }

    /// Reads the JSON that is published under a URL.
    pub(crate) async fn read(&self, url: &Url) -> Result<Answered, BackendFault> {
        let request = Request::get(url.as_str())
            .header(ACCEPT, "application/jwk-set+json, application/json")
            .header(USER_AGENT, concat!("doorkeep/", env!("CARGO_PKG_VERSION")))
            .body(Full::default())
            .map_err(|_not_sendable| BackendFault::Connect)?;
        self.send(request, url).await
    }

    async fn send(&self, request: Request<Full<Bytes>>, url: &Url) -> Result<Answered, BackendFault> {
        let response = self.client.request(request).await.map_err(|error| {
            // A pooled connection that closed before the request was taken is tried anew by the pool itself.
            let fault = if error.is_connect() {
                BackendFault::Connect
            } else {
                BackendFault::Lost(Loss::Broken)
            };
            tracing::debug!(host = url.host_str(), cause = %root(&error), "exchange with the session backend failed");
            fault
        })?;
        read(response).await
    }
}

/// The deepest cause: such texts hold addresses and system errors, never what was sent.
fn root<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    let mut cause = error;
    while let Some(deeper) = std::error::Error::source(cause) {
        cause = deeper;
    }
    cause
}

async fn read(response: Response<Incoming>) -> Result<Answered, BackendFault> {
    let (head, body) = response.into_parts();
    let media = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(media_type);
    let bytes = match Limited::new(body, CAP).collect().await {
        Ok(whole) => whole.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(BackendFault::Lost(Loss::Unreadable)),
        Err(_cut) => return Err(BackendFault::Lost(Loss::Broken)),
    };
    let body = match serde_json::from_slice(&bytes) {
        Ok(json @ Value::Object(_)) => Body::Json(json),
        Ok(_) | Err(_) if bytes.is_empty() => Body::Empty,
        Ok(_) | Err(_) if media.as_deref() == Some("text/html") => Body::Page,
        Ok(_) | Err(_) => Body::Other,
    };
    let retry_after =
        head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    Ok(Answered { status: head.status, body, retry_after: retry_after.map(Duration::from_secs) })
}

fn media_type(value: &str) -> String {
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}
