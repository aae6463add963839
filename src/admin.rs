//! The listener for operators: health, readiness, metrics and drills, apart from the sites.
//! In: requests from inside. Out: short texts. Errors: none. I/O: none.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::{CONTENT_TYPE, ORIGIN};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};

use crate::body::{ReplyBody, Replying};
use crate::meter::Meters;
use crate::server::{Asking, Came, Handler, Workers};

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

/// What came of declaring a session's access token over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expired {
    /// Its next request renews the session.
    Yes,
    /// The token is none that is live here.
    NotLive,
}

/// Drills on sessions.
pub trait Drill: fmt::Debug + Send + Sync {
    /// Declares the access token in `text` over: the token itself, or a `Cookie` line that holds it.
    fn expire<'a>(&'a self, text: &'a str) -> Pin<Box<dyn Future<Output = Expired> + Send + 'a>>;
}

/// Longest wait for one.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest wait for a worker to turn.
const TURN: Duration = Duration::from_millis(500);

/// Largest `Cookie` line of a drill, in bytes.
const LINE: usize = 32 * 1024;

/// Answers operators.
#[derive(Clone, Debug)]
pub struct Admin {
    meters: Arc<Meters>,
    readiness: Arc<Readiness>,
    workers: Workers,
    drill: Arc<dyn Drill>,
}

impl Admin {
    /// An admin surface over these counters. Nothing is well where one of the workers does not turn.
    #[must_use]
    pub fn new(
        meters: Arc<Meters>,
        readiness: Arc<Readiness>,
        workers: Workers,
        drill: Arc<dyn Drill>,
    ) -> Self {
        Self { meters, readiness, workers, drill }
    }

    /// `POST /sessions/expire`: the access token in the body is over from now on, its refresh token stays.
    async fn expire(&self, request: Asking) -> Response<ReplyBody> {
        // A browser names where a page's request comes from: no page has any business here.
        if request.headers().contains_key(ORIGIN) || request.headers().contains_key("sec-fetch-site") {
            return text(StatusCode::FORBIDDEN, "not for web pages\n".into());
        }
        let body = tokio::time::timeout(PATIENCE, Limited::new(request.into_body(), LINE).collect()).await;
        let Ok(Ok(body)) = body else {
            return text(StatusCode::BAD_REQUEST, "no Cookie line of at most 32 KiB came\n".into());
        };
        let bytes = body.to_bytes();
        let Ok(line) = std::str::from_utf8(&bytes) else {
            return text(StatusCode::BAD_REQUEST, "no text\n".into());
        };
        match self.drill.expire(line.trim()).await {
            Expired::Yes => text(StatusCode::OK, "over: the next request renews this session\n".into()),
            Expired::NotLive => text(StatusCode::UNPROCESSABLE_ENTITY, "no live access token in it\n".into()),
        }
    }

    async fn answer(&self, method: &Method, path: &str) -> Response<ReplyBody> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return text(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET and HEAD, and POST /sessions/expire\n".into(),
            );
        }
        match path {
            "/healthz" | "/readyz" if let Err(stuck) = self.workers.turn(TURN).await => {
                text(StatusCode::SERVICE_UNAVAILABLE, format!("{stuck}\n"))
            }
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
            _ => text(
                StatusCode::NOT_FOUND,
                "here are /healthz, /readyz, /metrics and POST /sessions/expire\n".into(),
            ),
        }
    }
}

impl Handler for Admin {
    async fn handle(&self, request: Asking, _came: &Came) -> Replying {
        if request.method() == Method::POST && request.uri().path() == "/sessions/expire" {
            return Box::new(self.expire(request).await);
        }
        Box::new(self.answer(request.method(), request.uri().path()).await)
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
    use std::num::NonZeroUsize;
    use std::sync::mpsc;

    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::server::Crew;

    #[derive(Debug)]
    struct NoSessions;

    impl Drill for NoSessions {
        fn expire<'a>(&'a self, _: &'a str) -> Pin<Box<dyn Future<Output = Expired> + Send + 'a>> {
            Box::pin(async { Expired::NotLive })
        }
    }

    #[tokio::test]
    async fn readiness_goes_down_before_health() {
        let admin = Admin::new(Arc::default(), Arc::default(), Workers::here(), Arc::new(NoSessions));
        assert_eq!(admin.answer(&Method::GET, "/readyz").await.status(), 503);
        admin.readiness.set(Ready::Yes);
        assert_eq!(admin.answer(&Method::GET, "/readyz").await.status(), 200);
        assert_eq!(admin.answer(&Method::GET, "/healthz").await.status(), 200);
        assert_eq!(admin.answer(&Method::GET, "/metrics").await.status(), 200);
        assert_eq!(admin.answer(&Method::GET, "/").await.status(), 404);
        assert_eq!(admin.answer(&Method::POST, "/metrics").await.status(), 405);
    }

    #[tokio::test]
    async fn nothing_is_well_while_a_thread_that_serves_hangs() {
        let crew = Crew::of(NonZeroUsize::MIN).expect("a thread");
        let admin = Admin::new(Arc::default(), Arc::default(), crew.workers(), Arc::new(NoSessions));
        admin.readiness.set(Ready::Yes);
        let (release, released) = mpsc::channel::<()>();
        let tasks = TaskTracker::new();
        tasks.spawn_on(async move { released.recv() }, crew.workers().first());
        for path in ["/healthz", "/readyz"] {
            assert_eq!(admin.answer(&Method::GET, path).await.status(), 503, "{path}");
        }
        assert_eq!(admin.answer(&Method::GET, "/metrics").await.status(), 200);
        release.send(()).expect("it waits");
        assert_eq!(admin.answer(&Method::GET, "/readyz").await.status(), 200);
    }
}
