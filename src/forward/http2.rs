//! HTTP/2 to an app: one connection for each of its servers, shared by all requests of a thread.
//! In: a request, and where to. Out: the answer's head and its body. Errors: [`Http2Fault`]. I/O: sockets.
//! Source: RFC 9113 §3.3 (prior knowledge), §8.3.1 (`:authority`), §8.7 (which requests were surely not processed).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::header::{CONNECTION, HOST};
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::Executor;
use hyper_util::client::legacy::connect::Connection as _;
use hyper_util::rt::TokioTimer;
use thread_local::ThreadLocal;
use tokio::sync::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tower_service::Service as _;

use crate::body::Limited;
use crate::dial::Dialer;

/// Bytes of one answer that are held here for a slow client.
const STREAM_WINDOW: u32 = 256 * 1024;
/// All answers together are held back one by one, never by each other.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// Largest head of an answer.
const HEAD: u32 = 64 * 1024;
/// While requests are under way: between two questions whether the app is there, and for its answer.
const PING: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// Why an app gave no answer by HTTP/2.
#[derive(Debug, thiserror::Error)]
pub enum Http2Fault {
    /// No connection. Those who waited for it share the cause.
    #[error("no connection")]
    Connect(#[source] Cause),
    /// The connection or the stream broke.
    #[error("broken off")]
    Broken(#[source] hyper::Error),
}

impl Http2Fault {
    /// Whether no connection came about, so that nothing was sent.
    pub(super) const fn is_connect(&self) -> bool {
        matches!(self, Self::Connect(_))
    }
}

/// A connection, but the other end does not agree to HTTP/2 by ALPN.
#[derive(Debug, thiserror::Error)]
#[error("the server does not speak HTTP/2")]
struct NotSpoken;

/// What came of dialling: a connection, or why there is none.
type Dialled = Result<SendRequest<Limited>, Cause>;

/// Where a server's connection is kept.
#[derive(Debug, Default)]
struct Place {
    last: Mutex<Option<Dialled>>,
    /// How often dialling has failed so far. Who waits for `last` sees by it what happened meanwhile.
    failed: AtomicUsize,
}

/// The connections to an app's servers.
#[derive(Debug)]
pub(super) struct Http2Client {
    dialer: Dialer,
    /// For each thread its own: who drives a connection is who uses it, and wakes nobody else by that.
    places: HashMap<Authority, ThreadLocal<Place>>,
    tasks: Tasks,
    ends_tasks: Arc<DropGuard>,
}

/// Runs what a connection needs to make progress, for as long as its client lives, or an answer that came by it.
#[derive(Clone, Debug)]
struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl<F: Future + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                _ended = task => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

impl Http2Client {
    pub(super) fn new(dialer: Dialer, servers: impl Iterator<Item = Authority>) -> Self {
        let stop = CancellationToken::new();
        let places = servers.map(|authority| (authority, ThreadLocal::new())).collect();
        let tasks = Tasks { tracker: TaskTracker::new(), stop: stop.clone() };
        Self { dialer, places, tasks, ends_tasks: Arc::new(stop.drop_guard()) }
    }

    /// Keeps the connections going for whoever still reads an answer.
    pub(super) fn hold(&self) -> Arc<DropGuard> {
        Arc::clone(&self.ends_tasks)
    }

    /// Sends a request whose URI names the server; its `Host` becomes the authority.
    pub(super) async fn request(
        &self,
        mut request: Box<Request<Limited>>,
    ) -> Result<Response<Incoming>, Http2Fault> {
        let server = request.uri().clone();
        *request.version_mut() = Version::HTTP_2;
        // It names `TE`, which stays here, and has itself no place in HTTP/2 (RFC 9113 §8.2.2).
        request.headers_mut().remove(CONNECTION);
        if let Some(host) = request.headers_mut().remove(HOST)
            && let Ok(authority) = Authority::try_from(host.as_bytes())
        {
            let mut parts = server.clone().into_parts();
            parts.authority = Some(authority);
            *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        }
        let mut sender = self.connection(&server).await?;
        match sender.try_send_request(*request).await {
            Ok(response) => Ok(response),
            // The connection had ended before anything of the request was written.
            Err(mut failed) => match failed.take_message() {
                Some(request) => {
                    let mut sender = self.connection(&server).await?;
                    sender.send_request(request).await.map_err(Http2Fault::Broken)
                }
                None => Err(Http2Fault::Broken(failed.into_error())),
            },
        }
    }

    /// The connection to a server, a new one where there is none. Others wait meanwhile, at most as long as dialling takes.
    async fn connection(&self, server: &Uri) -> Result<SendRequest<Limited>, Http2Fault> {
        let place = server
            .authority()
            .and_then(|authority| self.places.get(authority))
            .map(ThreadLocal::get_or_default);
        let Some(place) = place else {
            return Box::pin(self.dial(server)).await.map_err(Http2Fault::Connect);
        };
        let failed = || place.failed.load(Ordering::Acquire);
        let before = failed();
        let mut last = place.last.lock().await;
        match last.as_ref() {
            Some(Ok(sender)) if !sender.is_closed() => return Ok(sender.clone()),
            // To dial once more for each of them takes as long again each time, one after the other.
            Some(Err(cause)) if failed() != before => return Err(Http2Fault::Connect(Arc::clone(cause))),
            Some(Ok(_) | Err(_)) | None => {}
        }
        let dialled = Box::pin(self.dial(server)).await;
        if dialled.is_err() {
            place.failed.fetch_add(1, Ordering::AcqRel);
        }
        last.insert(dialled).clone().map_err(Http2Fault::Connect)
    }

    async fn dial(&self, server: &Uri) -> Dialled {
        let stream = self.dialer.clone().call(server.clone()).await?;
        if server.scheme() == Some(&Scheme::HTTPS) && !stream.connected().is_negotiated_h2() {
            return Err(Arc::new(NotSpoken));
        }
        let (sender, connection) = http2::Builder::new(self.tasks.clone())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEAD)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING_TIMEOUT)
            .handshake(stream)
            .await
            .map_err(|error| -> Cause { Arc::new(error) })?;
        self.tasks.execute(connection);
        Ok(sender)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use url::Url;

    use super::*;
    use crate::dial::{Authorities, Roots};
    use crate::text::with_causes;

    #[tokio::test]
    async fn those_who_wait_for_a_connection_fail_with_it_and_the_next_one_tries_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = format!("https://{}/", listener.local_addr().expect("an address"));
        let url: Url = server.parse().expect("a URL");
        let authorities = Authorities::new(Roots::Only(Vec::new()));
        let dialer = Dialer::for_http2(&authorities, [&url], Duration::from_secs(5)).expect("a dialer");
        let server: Uri = server.parse().expect("a URI");
        let client = Http2Client::new(dialer, server.authority().cloned().into_iter());
        let dialled = AtomicUsize::new(0);
        let hanging_up = async {
            loop {
                drop(listener.accept().await.expect("a client"));
                dialled.fetch_add(1, Ordering::Relaxed);
            }
        };
        let asking = async {
            let ask = || client.connection(&server);
            let (one, other, third) = tokio::join!(ask(), ask(), ask());
            let faults = [one, other, third].map(|got| with_causes(&got.expect_err("it hangs up")));
            assert!(faults.iter().all(|fault| *fault == faults[0] && fault.starts_with("no connection")));
            assert_eq!(dialled.load(Ordering::Relaxed), 1, "once for all of them");
            ask().await.expect_err("it hangs up");
            assert_eq!(dialled.load(Ordering::Relaxed), 2, "and once for who comes after");
        };
        // All of them wait before the first is let down.
        tokio::select! {
            biased;
            () = asking => {}
            () = hanging_up => {}
        }
    }
}
