//! The listener for operators: health, readiness and metrics, apart from the sites.
//! In: requests from inside. Out: short texts. Errors: none. I/O: none.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::body::ReplyBody;
use crate::meter::Meters;
use crate::server::Handler;

/// Whether new requests are welcome.
#[derive(Debug, Default)]
pub struct Readiness(AtomicBool);

impl Readiness {
    /// From now on they are, or are not.
    pub fn set(&self, ready: Ready) {
        self.0.store(ready == Ready::Yes, Ordering::Release);
    }

    /// Whether they are.
    #[must_use]
    pub fn get(&self) -> Ready {
        if self.0.load(Ordering::Acquire) { Ready::Yes } else { Ready::No }
    }
}

/// Ready or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// Send requests.
    Yes,
    /// Send them elsewhere: starting or draining.
    No,
}

/// Answers operators.
#[derive(Clone, Debug)]
pub struct Admin {
    meters: Arc<Meters>,
    readiness: Arc<Readiness>,
}

impl Admin {
    /// An admin surface over these counters.
    #[must_use]
    pub const fn new(meters: Arc<Meters>, readiness: Arc<Readiness>) -> Self {
        Self { meters, readiness }
    }

    fn answer(&self, method: &Method, path: &str) -> Response<ReplyBody> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".into());
        }
        match path {
            "/healthz" => text(StatusCode::OK, "ok\n".into()),
            "/readyz" => match self.readiness.get() {
                Ready::Yes => text(StatusCode::OK, "ready\n".into()),
                Ready::No => {
                    text(StatusCode::SERVICE_UNAVAILABLE, "not ready: starting or draining\n".into())
                }
            },
            "/metrics" => {
                let mut response = text(StatusCode::OK, self.meters.text());
                let media =
                    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, media);
                response
            }
            _ => text(StatusCode::NOT_FOUND, "here are /healthz, /readyz and /metrics\n".into()),
        }
    }
}

impl Handler for Admin {
    async fn handle(&self, request: Request<Incoming>, _peer: SocketAddr) -> Response<ReplyBody> {
        self.answer(request.method(), request.uri().path())
    }
}

fn text(status: StatusCode, body: String) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_goes_down_before_health() {
        let admin = Admin::new(Arc::default(), Arc::default());
        assert_eq!(admin.answer(&Method::GET, "/readyz").status(), 503);
        admin.readiness.set(Ready::Yes);
        assert_eq!(admin.answer(&Method::GET, "/readyz").status(), 200);
        assert_eq!(admin.answer(&Method::GET, "/healthz").status(), 200);
        assert_eq!(admin.answer(&Method::GET, "/metrics").status(), 200);
        assert_eq!(admin.answer(&Method::GET, "/").status(), 404);
        assert_eq!(admin.answer(&Method::POST, "/metrics").status(), 405);
    }
}
