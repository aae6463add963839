//! HTTP/1.1 to an app: for each of its servers the connections that nobody uses at the moment, apart for each thread that asks.
//! In: a request, and which server. Out: the answer's head and its body. Errors: [`Http1Fault`]. I/O: sockets.
//! An answer's head has at most a hundred fields, as the library takes them without memory of its own.
//! Source: RFC 9112 §9.3 (a connection is used again once request and answer are whole), §9.3.1 (what may be sent again: here only
//! what was not sent at all), §9.6 (closing).

use std::fmt;
use std::io::{self, IoSlice};
use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::rt::{Read, ReadBufCursor, Write};
use thread_local::ThreadLocal;
use tokio_util::task::TaskTracker;
use tower_service::Service as _;

use crate::body::{BodyLimits, Lease, Limited, ReplyBody, Replying};
use crate::clock::Deadline;
use crate::dial::Dialer;
use crate::gather::gathered;

/// Most of an app's answer that is read ahead of its client, in bytes; also the largest head of one.
const BUFFER: usize = 128 * 1024;
/// Most connections to a server that wait for a request of the same thread.
const MOST_IDLE: usize = 1024;

/// Shortest time from one look for old connections to the next where there are none: so much later one may be closed.
const SELDOM: Duration = Duration::from_millis(100);

/// Why an app gave no answer by HTTP/1.1.
#[derive(Debug, thiserror::Error)]
pub enum Http1Fault {
    /// No connection.
    #[error("no connection")]
    Connect(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The connection broke, or what came back is no HTTP.
    #[error("broken off")]
    Broken(#[source] hyper::Error),
}

/// The connections to an app's servers.
pub(super) struct Http1Client {
    dialer: Dialer,
    pools: Vec<Arc<Pool>>,
}

/// The connections to one server.
struct Pool {
    server: Uri,
    /// How long a connection waits for the next request.
    keep: Duration,
    /// For each thread its own: who drives a connection is who uses it, and wakes nobody else by that.
    idle: ThreadLocal<Mutex<Idle>>,
    /// Whether those that have waited too long are closed: from the first one on, by a task that is there as long as the pool.
    watched: AtomicBool,
    tasks: TaskTracker,
    myself: Weak<Self>,
}

/// Connections that wait for a request, the one that has waited longest first.
type Idle = Vec<(Box<Connection>, Deadline)>;

/// A connection, in use or not.
struct Connection {
    sender: SendRequest<Limited>,
    pool: Weak<Pool>,
}

impl fmt::Debug for Http1Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http1Client").field("servers", &self.pools.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Http1Client {
    /// Connections to these servers, each kept for `keep` between requests.
    pub(super) fn new(dialer: Dialer, servers: impl Iterator<Item = Uri>, keep: Duration) -> Self {
        let tasks = TaskTracker::new();
        let pool = |server| {
            Arc::new_cyclic(|myself| Pool {
                server,
                keep,
                idle: ThreadLocal::new(),
                watched: AtomicBool::new(false),
                tasks: tasks.clone(),
                myself: myself.clone(),
            })
        };
        Self { dialer, pools: servers.map(pool).collect() }
    }

    /// Sends a request, whose target is in origin form, to the server at this place. The answer's body has these limits, and
    /// its connection goes back once that is whole, unless it has become something else's. `now`: the present moment.
    pub(super) async fn request(
        &self,
        server: usize,
        mut request: Box<Request<Limited>>,
        limits: &BodyLimits,
        now: Deadline,
    ) -> Result<Replying, Http1Fault> {
        let Some(pool) = self.pools.get(server) else {
            return Err(Http1Fault::Connect("there is no such server".into()));
        };
        while let Some(mut connection) = pool.take(now) {
            match connection.sender.try_send_request(*request).await {
                Ok(response) => return Ok(connection.lends(response, limits)),
                // The connection had ended before anything of the request was written.
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) => request = Box::new(unsent),
                    None => return Err(Http1Fault::Broken(failed.into_error())),
                },
            }
        }
        Box::pin(self.request_anew(pool, request, limits)).await
    }

    /// The same on a connection of its own.
    async fn request_anew(
        &self,
        pool: &Pool,
        request: Box<Request<Limited>>,
        limits: &BodyLimits,
    ) -> Result<Replying, Http1Fault> {
        let mut connection = self.connect(pool).await?;
        let response = connection.sender.send_request(*request).await.map_err(Http1Fault::Broken)?;
        Ok(connection.lends(response, limits))
    }

    async fn connect(&self, pool: &Pool) -> Result<Box<Connection>, Http1Fault> {
        let stream = self.dialer.clone().call(pool.server.clone()).await.map_err(Http1Fault::Connect)?;
        let (sender, connection) = Builder::new()
            .max_buf_size(BUFFER)
            .handshake(Gathering(stream))
            .await
            .map_err(|error| Http1Fault::Connect(error.into()))?;
        // It ends once its sender is gone, and those are dropped with their pool.
        pool.tasks.spawn(connection.with_upgrades());
        Ok(Box::new(Connection { sender, pool: pool.myself.clone() }))
    }
}

/// A stream to which a head goes as one piece, with its body where that is small. The library's own way to write without lists
/// would copy bodies of any size.
struct Gathering<S>(S);

impl<S: Read + Unpin> Read for Gathering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: Write + Unpin> Write for Gathering<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = &mut self.0;
        gathered(bufs, |together| Pin::new(&mut *stream).poll_write(cx, together))
            .unwrap_or_else(|| Pin::new(&mut self.0).poll_write_vectored(cx, bufs))
    }
}

impl Pool {
    /// The connection that was used last: so those that are not needed grow old.
    fn take(&self, now: Deadline) -> Option<Box<Connection>> {
        let idle = self.idle.get()?;
        loop {
            let (connection, until) = lock(idle).pop()?;
            // The one that closes the old ones may be late.
            if until > now && connection.sender.is_ready() {
                return Some(connection);
            }
        }
    }

    fn keep(&self, connection: Box<Connection>) {
        if self.keep.is_zero() {
            return;
        }
        let mut idle = lock(self.idle.get_or_default());
        if idle.len() < MOST_IDLE {
            idle.push((connection, Deadline::after(self.keep)));
        }
        drop(idle);
        // To read it takes it from no other thread.
        if !self.watched.load(Ordering::Relaxed) && !self.watched.swap(true, Ordering::Relaxed) {
            self.tasks.spawn(close_old(self.myself.clone()));
        }
    }

    /// Closes what has waited too long, or was closed by its server. When to look again.
    fn close_old(&self) -> Deadline {
        let mut next = Deadline::after(self.keep.max(SELDOM));
        for idle in &self.idle {
            let mut idle = lock(idle);
            let (kept, old) = mem::take(&mut *idle)
                .into_iter()
                .partition(|(connection, until)| connection.sender.is_ready() && !until.reached());
            *idle = kept;
            next = idle.first().map_or(next, |(_, until)| next.min(*until));
            drop(idle);
            drop::<Vec<_>>(old);
        }
        next
    }
}

fn lock(idle: &Mutex<Idle>) -> MutexGuard<'_, Idle> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes old connections for as long as there is a pool.
async fn close_old(pool: Weak<Pool>) {
    while let Some(next) = pool.upgrade().map(|pool| pool.close_old()) {
        next.wait().await;
    }
}

impl Connection {
    /// An answer that came by it.
    fn lends(self: Box<Self>, response: Response<Incoming>, limits: &BodyLimits) -> Replying {
        // After a switch of protocols the connection is no longer HTTP's.
        let switched = response.status().is_informational();
        Box::new(response.map(|body| {
            let body = Limited::new(body, limits);
            ReplyBody::Upstream(if switched { body } else { body.leased(self) })
        }))
    }
}

impl Lease for Connection {
    /// The answer is whole. The connection is free once its task has seen that, too, and the request has gone whole.
    fn give_back(mut self: Box<Self>) {
        let Some(pool) = self.pool.upgrade() else { return };
        if self.sender.is_ready() {
            pool.keep(self);
        } else if !self.sender.is_closed() {
            let tasks = pool.tasks.clone();
            tasks.spawn(async move {
                if let Ok(Ok(())) = tokio::time::timeout(pool.keep, self.sender.ready()).await {
                    pool.keep(self);
                }
            });
        }
    }
}
