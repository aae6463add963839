//! What the three counterparts share of HTTP: capped bodies in, small full answers out.
//! In: request bodies, markup, JSON. Out: bytes and responses. Errors: [`BodyFault`]. I/O: reads the request body.
//! Source: RFC 9110 §15 (status codes), RFC 9111 §5.2 (Cache-Control), W3C CSP 3.

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use http::{HeaderValue, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};

use crate::demo::html::Markup;

/// Any error, as body types report theirs.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What every counterpart answers with.
pub type Answer = Response<Full<Bytes>>;

/// Largest body read, in bytes (64 KiB), of requests and of the directory's answers.
pub(super) const BODY_CAP: usize = 64 * 1024;

/// Longest time a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);

/// Why a body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyFault {
    /// Larger than [`BODY_CAP`].
    TooLarge,
    /// Not there within [`BODY_TIME`].
    Slow,
    /// The connection broke.
    Cut,
}

impl BodyFault {
    /// The status that tells the client.
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Cut => StatusCode::BAD_REQUEST,
        }
    }
}

/// Reads a whole body of at most [`BODY_CAP`] bytes.
pub(super) async fn read_body<B>(body: B) -> Result<Bytes, BodyFault>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    match tokio::time::timeout(BODY_TIME, Limited::new(body, BODY_CAP).collect()).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(fault)) if fault.is::<LengthLimitError>() => Err(BodyFault::TooLarge),
        Ok(Err(_)) => Err(BodyFault::Cut),
        Err(_) => Err(BodyFault::Slow),
    }
}

/// A page for one person: never stored, never framed, with the given content security policy.
pub(super) fn page(status: StatusCode, markup: Markup, policy: &HeaderValue) -> Answer {
    let mut answer = answer(status, "text/html; charset=utf-8", markup.into_string());
    let headers = answer.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, policy.clone());
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    answer
}

/// JSON text, never stored.
pub(super) fn json(status: StatusCode, text: String) -> Answer {
    answer(status, "application/json; charset=utf-8", text)
}

/// One line for whoever reads answers by hand.
pub(super) fn plain(status: StatusCode, line: &str) -> Answer {
    answer(status, "text/plain; charset=utf-8", format!("{line}\n"))
}

/// A file of this program, which anybody may keep for five minutes.
pub(super) fn asset(kind: &'static str, text: &'static str) -> Answer {
    let mut answer = answer(StatusCode::OK, kind, text);
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    answer
}

/// Sends the browser on with GET (RFC 9110 §15.4.4).
pub(super) fn see_other(location: HeaderValue) -> Answer {
    let mut answer = answer(StatusCode::SEE_OTHER, "text/plain; charset=utf-8", Bytes::new());
    answer.headers_mut().insert(LOCATION, location);
    answer
}

/// `same-origin` and not `no-referrer`: under the latter a browser sends `Origin: null` with a form of our own.
fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_of_exactly_the_cap_is_read_and_one_byte_more_is_not() {
        let fits = read_body(Full::new(Bytes::from(vec![b'x'; BODY_CAP]))).await;
        assert_eq!(fits.map(|body| body.len()), Ok(BODY_CAP));
        let over = read_body(Full::new(Bytes::from(vec![b'x'; BODY_CAP + 1]))).await;
        assert_eq!(over, Err(BodyFault::TooLarge));
    }
}
