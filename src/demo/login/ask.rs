//! Signs somebody in at the directory, over HTTP like any app would.
//! In: name and password. Out: [`SignIn`]. Errors: none; what goes wrong is an outcome. I/O: one HTTP exchange.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use url::Url;

use crate::clock::UnixTime;
use crate::demo::exchange::read_body;
use crate::secret::Secret;

/// Longest wait for the directory's answer, body included.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest wait for a connection to it.
const CONNECT_TIME: Duration = Duration::from_secs(2);

/// What the directory said.
#[derive(Debug)]
pub(super) enum SignIn {
    /// A session has begun.
    Begun(Tokens),
    /// Wrong name or password.
    Refused,
    /// No usable answer came.
    Unavailable,
}

/// What a browser needs in order to have the session.
#[derive(Debug)]
pub(super) struct Tokens {
    pub(super) access: Secret<String>,
    pub(super) refresh: Secret<String>,
    pub(super) session: Secret<String>,
    pub(super) refresh_expires: UnixTime,
}

/// A connection pool to one directory.
#[derive(Debug)]
pub(super) struct Asker {
    client: Client<HttpConnector, Full<Bytes>>,
    sign_in: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    is_success: bool,
    code: Option<String>,
    data: Option<Session>,
}

#[derive(Deserialize)]
struct Session {
    id: String,
    token: String,
    refresh: Refresh,
}

#[derive(Deserialize)]
struct Refresh {
    token: String,
    /// ISO 8601.
    expiry: String,
}

impl Asker {
    pub(super) fn new(directory: &Url) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIME));
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(4).build(connector);
        let sign_in = format!("{}/directory/api/users/signIn", directory.as_str().trim_end_matches('/'));
        Self { client, sign_in }
    }

    /// Asks once. A name with an `@` is an address, any other a code.
    pub(super) async fn sign_in(&self, name: &str, password: &Secret<String>) -> SignIn {
        let kind = if name.contains('@') { "email" } else { "code" };
        let body = json!({
            "purpose": "login",
            "app": "doorkeep-demo",
            "user": { kind: name, "password": password.expose() },
        });
        let request = Request::post(&self.sign_in)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.to_string())));
        let Ok(request) = request else { return SignIn::Unavailable };
        match tokio::time::timeout(PATIENCE, self.exchange(request)).await {
            Ok(Some((status, body))) => understood(status, &body),
            Ok(None) | Err(_) => {
                tracing::warn!("demo: the directory did not answer the login page");
                SignIn::Unavailable
            }
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Option<(StatusCode, Bytes)> {
        let answer = self.client.request(request).await.ok()?;
        let status = answer.status();
        Some((status, read_body(answer.into_body()).await.ok()?))
    }
}

/// The code decides, not the status: the directory uses 400 for several things.
fn understood(status: StatusCode, body: &[u8]) -> SignIn {
    let Ok(envelope) = serde_json::from_slice::<Envelope>(body) else { return SignIn::Unavailable };
    match envelope.data {
        Some(session) if envelope.is_success && status.is_success() => begun(session),
        _ if envelope.code.as_deref() == Some("DILOINV") => SignIn::Refused,
        Some(_) | None => SignIn::Unavailable,
    }
}

fn begun(session: Session) -> SignIn {
    let expiry = session.refresh.expiry.parse::<Timestamp>().ok();
    let expires = expiry.and_then(|moment| u64::try_from(moment.as_second()).ok());
    let Some(expires) = expires else { return SignIn::Unavailable };
    if ![&session.token, &session.refresh.token, &session.id].into_iter().all(|value| fits_cookie(value)) {
        return SignIn::Unavailable;
    }
    SignIn::Begun(Tokens {
        access: Secret::new(session.token),
        refresh: Secret::new(session.refresh.token),
        session: Secret::new(session.id),
        refresh_expires: UnixTime::from_secs(expires),
    })
}

/// Not empty, and `cookie-octet` throughout (RFC 6265 §4.1.1).
fn fits_cookie(value: &str) -> bool {
    let fits = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b',' | b';' | b'\\');
    !value.is_empty() && value.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(token: &str) -> String {
        json!({ "isSuccess": true, "data": {
            "id": "6418782b80fa6a6b1679f608", "token": token,
            "refresh": { "token": "b", "expiry": "2023-03-21T15:18:47.409Z" },
        }})
        .to_string()
    }

    #[test]
    fn only_a_whole_session_is_a_sign_in() {
        let SignIn::Begun(tokens) = understood(StatusCode::OK, session("a").as_bytes()) else { panic!() };
        assert_eq!(tokens.refresh_expires, UnixTime::from_secs(1_679_411_927));
        assert!(matches!(understood(StatusCode::OK, session("a; Domain=b").as_bytes()), SignIn::Unavailable));
        assert!(matches!(understood(StatusCode::OK, session("").as_bytes()), SignIn::Unavailable));
        assert!(matches!(understood(StatusCode::BAD_GATEWAY, session("a").as_bytes()), SignIn::Unavailable));
        assert!(matches!(
            understood(StatusCode::OK, br#"{"isSuccess":true,"data":{}}"#),
            SignIn::Unavailable
        ));
    }

    #[test]
    fn only_the_directory_says_that_a_password_is_wrong() {
        let wrong = br#"{"isSuccess":false,"message":"m","code":"DILOINV","error":"DILOINV"}"#;
        assert!(matches!(understood(StatusCode::BAD_REQUEST, wrong), SignIn::Refused));
        let other = br#"{"isSuccess":false,"message":"m","code":"UNKNOWN","error":"UNKNOWN"}"#;
        assert!(matches!(understood(StatusCode::INTERNAL_SERVER_ERROR, other), SignIn::Unavailable));
        assert!(matches!(understood(StatusCode::UNAUTHORIZED, b"<html>"), SignIn::Unavailable));
    }
}
