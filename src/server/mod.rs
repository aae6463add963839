//! Listeners and connections: who may connect, for how long, and how it ends.
//! In: settings and a handler. Out: answered requests. Errors: [`ListenError`] at start; later faults end one connection.
//! I/O: sockets. Source: RFC 9112 (HTTP/1.1), RFC 9113 (HTTP/2); RFC 9110 §15.5.9 (408), RFC 6585 §5 (431).

mod batch;
mod bell;
mod converse;
mod crew;
pub mod framing;
mod http2;
mod pace;
mod proxy;
mod rewound;
mod seats;
mod seldom;
mod strict;
pub mod tls;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::{ReplyBody, Replying};
use crate::certificate::ClientCertificate;
use crate::meter::Meters;
use crate::server::converse::{Conversation, Stage, Stages};
pub use crate::server::crew::{Crew, Stuck, Workers};
pub use crate::server::http2::{Http2Limits, WithoutTls};
pub use crate::server::proxy::ProxySenders;
pub use crate::server::seats::{SeatLimits, Seats};
use crate::server::tls::Tls;

/// For those who came at the last moment to bring their first request, once nobody else is let in.
const LAST_MOMENT: Duration = Duration::from_millis(200);

/// For letting in those who are at the door when it closes, and most of them.
const LAST_LOOK: Duration = Duration::from_millis(20);
const LAST_ONES: usize = 1024;

/// How long before the end of a drain tunnels are told to go.
const NOTICE: Duration = Duration::from_secs(1);
/// For what was cut to be gone, which takes it no time.
const AFTER_CUT: Duration = Duration::from_secs(5);

/// What a client connection may take.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// From the first byte of a request head to its last.
    pub head: Duration,
    /// Without a request.
    pub idle: Duration,
    /// Without a byte that the client takes, while there are bytes for it.
    pub write: Duration,
    /// Bytes of a request head.
    pub head_bytes: usize,
    /// Fields of a request head.
    pub head_fields: usize,
    /// `None`: HTTP/1.1 alone is spoken.
    pub http2: Option<Http2Limits>,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            write: Duration::from_secs(60),
            head_bytes: 32 * 1024,
            head_fields: 100,
            http2: Some(Http2Limits::default()),
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

/// A request as it came. In a box, for it is handed on through many steps.
pub type Asking = Box<Request<Incoming>>;

/// Answers requests.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Answers one request that came by this connection.
    fn handle(&self, request: Asking, came: &Came) -> impl Future<Output = Replying> + Send;

    /// The answer to a head that cannot be read, or is too large.
    fn unread(&self, status: StatusCode, _came: &Came) -> Response<ReplyBody> {
        let mut response = Response::new(ReplyBody::empty());
        *response.status_mut() = status;
        response
    }
}

/// How a connection's requests come.
#[derive(Clone, Debug)]
pub struct Came {
    /// The other end: the one on the socket, or the one that a listed proxy named in a PROXY protocol head.
    pub peer: SocketAddr,
    /// Whether they come by TLS.
    pub by: By,
    /// Whom the client's certificate is for, where it has shown one.
    pub certificate: Option<Arc<ClientCertificate>>,
}

/// Whether a connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// It is not.
    Plain,
    /// It is, and ends here.
    Tls,
}

/// The life of a server's connections: first asked to finish, then cut.
#[derive(Clone, Debug, Default)]
pub struct Life {
    /// Stops accepting.
    pub shut: CancellationToken,
    /// Lets each connection finish the request that it has begun.
    pub finish: CancellationToken,
    /// Tells what is left that the end is near, to those who can be told: tunnels.
    pub leave: CancellationToken,
    /// Ends what is left.
    pub cut: CancellationToken,
    /// Every task of the server.
    pub tasks: TaskTracker,
}

impl Life {
    /// Stops accepting, waits for the connections at most `limit`, then cuts what is left. Tunnels are told before.
    pub async fn drain(&self, limit: Duration) -> Drained {
        self.shut.cancel();
        let (late, notice) = (LAST_MOMENT.min(limit / 4), NOTICE.min(limit / 2));
        tokio::time::sleep(late).await;
        self.finish.cancel();
        self.tasks.close();
        let drained = match tokio::time::timeout(limit - late - notice, self.tasks.wait()).await {
            Ok(()) => Drained::All,
            Err(_elapsed) => {
                self.leave.cancel();
                match tokio::time::timeout(notice, self.tasks.wait()).await {
                    Ok(()) => Drained::All,
                    Err(_elapsed) => Drained::Cut,
                }
            }
        };
        self.cut.cancel();
        // Whatever is wrong with a task that is still there, the process ends.
        match tokio::time::timeout(AFTER_CUT, self.tasks.wait()).await {
            Ok(()) => drained,
            Err(_elapsed) => Drained::Cut,
        }
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

/// Takes a listening socket that another process opened, such as a service manager.
///
/// # Errors
/// [`io::Error`] where it is none that can be waited for.
pub fn adopt(socket: std::net::TcpListener) -> io::Result<TcpListener> {
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

/// Opens a listening socket.
///
/// # Errors
/// [`ListenError`] where the address is taken or not this machine's.
pub async fn listen(addr: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(addr).await.map_err(|source| ListenError { addr, source })
}

/// What all listeners of a server have in common. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hall<H> {
    /// Answers the requests.
    pub handler: H,
    /// What a connection may take.
    pub limits: ConnectionLimits,
    /// The places of all connections.
    pub seats: Seats,
    /// Who says first whose a connection is.
    pub senders: Arc<ProxySenders>,
    /// The counters.
    pub meters: Arc<Meters>,
    /// The life of the connections.
    pub life: Life,
}

impl<H> Hall<H> {
    /// A hall for so many connections, without PROXY protocol.
    pub fn new(
        handler: H,
        limits: ConnectionLimits,
        connections: usize,
        meters: Arc<Meters>,
        life: Life,
    ) -> Self {
        let seats = SeatLimits { connections, per_client: connections, unlimited: Vec::new() };
        let seats = Seats::new(seats, Arc::clone(&meters));
        Self { handler, limits, seats, senders: Arc::default(), meters, life }
    }
}

/// A listening socket, what is spoken there, and who serves those who come.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    by: By,
    workers: Workers,
}

/// What a connection gets that comes now. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Welcome<H> {
    /// Its limits, and who answers it.
    pub hall: Hall<H>,
    /// What makes streams TLS; `None`: no door is for TLS.
    pub tls: Option<Tls>,
}

/// What connections get, all of it of the same settings: replaced as a whole, and each connection keeps what it was given.
#[derive(Debug)]
pub struct Entrance<H>(Arc<ArcSwap<Welcome<H>>>);

impl<H> Clone for Entrance<H> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<H: Clone> Entrance<H> {
    /// An entrance where this is given.
    #[must_use]
    pub fn new(welcome: Welcome<H>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(welcome)))
    }

    /// What is given now.
    #[must_use]
    pub fn now(&self) -> Arc<Welcome<H>> {
        self.0.load_full()
    }

    /// Gives this from now on.
    pub fn change(&self, welcome: Welcome<H>) {
        self.0.store(Arc::new(welcome));
    }
}

impl Door {
    /// A door through which people come to these workers, the first of whom has its socket and lets everybody in. `by`: whether
    /// its streams are TLS.
    #[must_use]
    pub const fn new(listener: TcpListener, by: By, workers: Workers) -> Self {
        Self { listener, by, workers }
    }

    /// Accepts connections until the life that its hall has says to shut.
    pub fn open<H: Handler>(self, entrance: &Entrance<H>) {
        let life = entrance.now().hall.life.clone();
        let first = self.workers.first().clone();
        life.tasks.spawn_on(self.accept(entrance.clone(), life.shut.clone()), &first);
    }

    /// Who is at the door when it is to shut is let in: a listener that closes turns them away with an error.
    async fn accept<H: Handler>(self, entrance: Entrance<H>, shut: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = shut.cancelled() => break,
            };
            if let Err(error) = accepted.and_then(|(stream, socket)| self.let_in(stream, socket, &entrance)) {
                // Out of descriptors, most likely: wait for some connection to end instead of asking in a circle.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        let last_ones = async {
            for _ in 0..LAST_ONES {
                let Ok((stream, socket)) = self.listener.accept().await else { return };
                drop(self.let_in(stream, socket, &entrance));
            }
        };
        drop(tokio::time::timeout(LAST_LOOK, last_ones).await);
    }

    /// Gives a connection what connections get now, and a task of its own at one of the workers.
    fn let_in<H: Handler>(
        &self,
        stream: TcpStream,
        socket: SocketAddr,
        entrance: &Entrance<H>,
    ) -> io::Result<()> {
        let welcome = entrance.now();
        let tls = match (self.by, &welcome.tls) {
            (By::Plain, _) => None,
            (By::Tls, Some(tls)) => Some(tls.clone()),
            (By::Tls, None) => return Ok(()),
        };
        let Some(seat) = welcome.hall.seats.take() else { return Ok(()) };
        let life = &welcome.hall.life;
        let begin = |stream| {
            let conversation = Conversation { socket, hall: welcome.hall.clone(), seat };
            let greeting = Stage::new(conversation.greet(stream, tls));
            life.tasks.spawn(Stages::new(greeting, life.cut.clone()));
        };
        match self.workers.freer() {
            None => begin(stream),
            Some(other) => {
                let stream = stream.into_std()?;
                let _there = other.enter();
                begin(TcpStream::from_std(stream)?);
            }
        }
        Ok(())
    }
}
