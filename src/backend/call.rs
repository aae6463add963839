//! One exchange with a backend: capped, without redirects, and exact about whether anything was sent.
//! In: a request. Out: status and JSON. Errors: [`BackendFault`]: `Connect` before the first byte, `Lost` after it.
//! I/O: HTTP/1.1. Source: RFC 9110 §9.2.2 (what may be repeated), RFC 9112 §9.6 (a connection that ends early).

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;
use url::Url;

use crate::dial::Dialer;
use crate::outcome::{BackendFault, Loss};

/// Largest answer read, in bytes.
const CAP: usize = 64 * 1024;

/// A connection idle for longer may be closed by the other end just as a token is written to it.
const IDLE: Duration = Duration::from_secs(1);

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: StatusCode,
    pub(crate) body: Body,
}

/// What a whole answer holds.
#[derive(Debug)]
pub(crate) enum Body {
    Json(Value),
    /// A page or nothing: whoever sent this decided nothing.
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
        headers: &[(&'static str, &str)],
        json: &Value,
    ) -> Result<Answered, BackendFault> {
        let mut request = Request::builder()
            .method(method)
            .uri(url.as_str())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("doorkeep/", env!("CARGO_PKG_VERSION")));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request =
            request.body(Full::from(json.to_string())).map_err(|_not_sendable| BackendFault::Connect)?;
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
        // Success that says nothing readable may still have spent the token, unless it is plainly somebody's page.
        Ok(_) | Err(_) if head.status.is_success() && media.as_deref() != Some("text/html") => {
            return Err(BackendFault::Lost(Loss::Unreadable));
        }
        Ok(_) | Err(_) => Body::Other,
    };
    Ok(Answered { status: head.status, body })
}

fn media_type(value: &str) -> String {
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}
