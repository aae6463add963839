//! HTTP/2 to an app: one connection for each of its servers, shared by all requests.
//! In: a request, and where to. Out: the answer's head and its body. Errors: [`Http2Fault`]. I/O: sockets.
//! Source: RFC 9113 §3.3 (prior knowledge), §8.3.1 (`:authority`), §8.7 (which requests were surely not processed).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HOST};
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::Executor;
use hyper_util::client::legacy::connect::Connection as _;
use hyper_util::rt::TokioTimer;
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

/// Why an app gave no answer by HTTP/2.
#[derive(Debug, thiserror::Error)]
pub enum Http2Fault {
    /// No connection.
    #[error("no connection")]
    Connect(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A connection, but the other end does not agree to HTTP/2 by ALPN.
    #[error("the server does not speak HTTP/2")]
    NotSpoken,
    /// The connection or the stream broke.
    #[error("broken off")]
    Broken(#[source] hyper::Error),
}

impl Http2Fault {
    /// Whether no connection came about, so that nothing was sent.
    pub(super) const fn is_connect(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::NotSpoken)
    }
}

/// The connections to an app's servers.
#[derive(Debug)]
pub(super) struct Http2Client {
    dialer: Dialer,
    open: HashMap<Authority, Mutex<Option<SendRequest<Limited>>>>,
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
        let open = servers.map(|authority| (authority, Mutex::new(None))).collect();
        let tasks = Tasks { tracker: TaskTracker::new(), stop: stop.clone() };
        Self { dialer, open, tasks, ends_tasks: Arc::new(stop.drop_guard()) }
    }

    /// Keeps the connections going for whoever still reads an answer.
    pub(super) fn hold(&self) -> Arc<DropGuard> {
        Arc::clone(&self.ends_tasks)
    }

    /// Sends a request whose URI names the server; its `Host` becomes the authority.
    pub(super) async fn request(
        &self,
        mut request: Request<Limited>,
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
        match sender.try_send_request(request).await {
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
        let place = server.authority().and_then(|authority| self.open.get(authority));
        let Some(place) = place else { return Box::pin(self.connect(server)).await };
        let mut open = place.lock().await;
        match open.as_ref().filter(|sender| !sender.is_closed()) {
            Some(sender) => Ok(sender.clone()),
            None => Ok(open.insert(Box::pin(self.connect(server)).await?).clone()),
        }
    }

    async fn connect(&self, server: &Uri) -> Result<SendRequest<Limited>, Http2Fault> {
        let stream = self.dialer.clone().call(server.clone()).await.map_err(Http2Fault::Connect)?;
        if server.scheme() == Some(&Scheme::HTTPS) && !stream.connected().is_negotiated_h2() {
            return Err(Http2Fault::NotSpoken);
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
            .map_err(|error| Http2Fault::Connect(error.into()))?;
        self.tasks.execute(connection);
        Ok(sender)
    }
}
