//! Listeners and connections: who may connect, for how long, and how it ends.
//! In: settings and a handler. Out: answered requests. Errors: [`ListenError`] at start; later faults end one connection.
//! I/O: sockets. Source: RFC 9112 (HTTP/1.1); RFC 9110 §15.5.9 (408), RFC 6585 §5 (431).

mod pace;
pub mod tls;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::ReplyBody;
use crate::meter::Meters;
use crate::server::pace::{Paced, Pacer};
use crate::server::tls::Tls;

/// What a client connection may take.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// From the first byte of a request head to its last.
    pub head: Duration,
    /// Without a request.
    pub idle: Duration,
    /// Without a byte that the client takes, while there are bytes for it.
    pub write: Duration,
    /// Open connections at a time.
    pub connections: usize,
    /// Bytes of a request head.
    pub head_bytes: usize,
    /// Fields of a request head.
    pub head_fields: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            write: Duration::from_secs(60),
            connections: 10_000,
            head_bytes: 32 * 1024,
            head_fields: 100,
        }
    }
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr}")]
pub struct ListenError {
    /// The address.
    pub addr: SocketAddr,
    /// Why not.
    pub source: io::Error,
}

/// Answers requests.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Answers one request that came from `peer`.
    fn handle(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> impl Future<Output = Response<ReplyBody>> + Send;
}

/// The life of a server's connections: first asked to finish, then cut.
#[derive(Clone, Debug, Default)]
pub struct Life {
    /// Stops accepting and lets each connection finish the request that it has begun.
    pub finish: CancellationToken,
    /// Ends what is left.
    pub cut: CancellationToken,
    /// Every task of the server.
    pub tasks: TaskTracker,
}

impl Life {
    /// Stops accepting, waits for the connections at most `limit`, then cuts what is left.
    pub async fn drain(&self, limit: Duration) -> Drained {
        self.finish.cancel();
        self.tasks.close();
        let drained = match tokio::time::timeout(limit, self.tasks.wait()).await {
            Ok(()) => Drained::All,
            Err(_elapsed) => Drained::Cut,
        };
        self.cut.cancel();
        self.tasks.wait().await;
        drained
    }
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every request was finished.
    All,
    /// Some were cut at the limit.
    Cut,
}

/// Opens a listening socket.
///
/// # Errors
/// [`ListenError`] where the address is taken or not this machine's.
pub async fn listen(addr: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(addr).await.map_err(|source| ListenError { addr, source })
}

/// Accepts plain connections until `life` says to finish.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    handler: H,
    limits: ConnectionLimits,
    meters: Arc<Meters>,
    life: Life,
) {
    accept(Door { listener, tls: None }, handler, limits, meters, life).await;
}

/// A listening socket, and what makes its streams TLS.
#[derive(Debug)]
pub struct Door {
    /// The socket.
    pub listener: TcpListener,
    /// `None`: plain HTTP.
    pub tls: Option<Tls>,
}

/// Accepts connections through this door until `life` says to finish.
pub async fn accept<H: Handler>(
    door: Door,
    handler: H,
    limits: ConnectionLimits,
    meters: Arc<Meters>,
    life: Life,
) {
    let Door { listener, tls } = door;
    let permits = Arc::new(Semaphore::new(limits.connections));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = life.finish.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: wait for some connection to end instead of asking in a circle.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            meters.connections_refused.inc();
            drop(stream);
            continue;
        };
        let seat = Seat { _counted: Counted::new(&meters), _permit: permit };
        let (handler, tls) = (handler.clone(), tls.clone());
        let (finish, cut) = (life.finish.clone(), life.cut.clone());
        life.tasks.spawn(async move {
            tokio::select! {
                () = greet(stream, tls, Conversation { peer, handler, limits, finish, seat }) => {}
                () = cut.cancelled() => {}
            }
        });
    }
}

/// A connection that is counted as open for as long as this lives, whatever ends it.
#[derive(Debug)]
struct Counted(Arc<Meters>);

impl Counted {
    fn new(meters: &Arc<Meters>) -> Self {
        meters.connections.inc();
        Self(Arc::clone(meters))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}

/// What a connection needs beside its stream.
struct Conversation<H> {
    peer: SocketAddr,
    handler: H,
    limits: ConnectionLimits,
    finish: CancellationToken,
    seat: Seat,
}

/// A connection's place among those that may be open. It goes with the stream, into a tunnel too.
#[derive(Debug)]
struct Seat {
    _counted: Counted,
    _permit: OwnedSemaphorePermit,
}

/// Begins a connection: with a handshake where the door has TLS. The protocol is chosen here, once there are several.
async fn greet<H: Handler>(stream: TcpStream, tls: Option<Tls>, conversation: Conversation<H>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    match tls {
        None => converse(stream, conversation).await,
        Some(tls) => {
            let greeted = tokio::select! {
                greeted = tls.accept(stream) => greeted,
                () = conversation.finish.cancelled() => None,
            };
            if let Some(stream) = greeted {
                converse(stream, conversation).await;
            }
        }
    }
}

/// Serves one connection.
async fn converse<S, H>(stream: S, conversation: Conversation<H>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let Conversation { peer, handler, limits, finish, seat } = conversation;
    let pacer = Pacer::new(limits.head, limits.idle);
    let service = service_fn(|request: Request<Incoming>| {
        let (handler, busy) = (handler.clone(), pacer.request());
        async move {
            let response = handler.handle(request, peer).await;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                busy.becomes_tunnel();
            }
            Ok::<_, Infallible>(response.map(|body| pace::Held::new(body, busy)))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_headers(limits.head_fields)
        .max_header_size(limits.head_bytes)
        .max_buf_size(limits.head_bytes.max(64 * 1024))
        .serve_connection(TokioIo::new(Paced::new(stream, pacer.clone(), limits.write, Some(seat))), service)
        .with_upgrades();
    tokio::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = finish.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a client connection ended early");
    }
}
