//! One connection, from its first byte to its last: whose it is, what it speaks, and its requests.
//! In: a TCP stream. Out: answered requests. Errors: none; a fault ends the connection. I/O: the stream.
//! Source: RFC 9112 (HTTP/1.1), RFC 9113 §3.2 and §3.3 (how HTTP/2 begins), RFC 7301 (ALPN).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::body::ReplyBody;
use crate::meter::Meters;
use crate::server::framing::Fault;
use crate::server::http2::{Http2, WithoutTls};
use crate::server::pace::{Held, Paced, Pacer};
use crate::server::rewound::{Protocol, Rewound, Stirring, sniff};
use crate::server::seats::Seat;
use crate::server::seldom::Seldom;
use crate::server::strict::Strict;
use crate::server::tls::{Greeted, Tls};
use crate::server::{By, Came, Hall, Handler};

/// Most fields of a head where the library is not told otherwise.
const LIBRARY_FIELDS: usize = 100;

/// A connection that has a place.
pub(super) struct Conversation<H> {
    pub(super) socket: SocketAddr,
    pub(super) hall: Hall<H>,
    pub(super) seat: Seat,
}

/// A stage of a connection's life, which ends with the next one. Each has memory of its own, which goes with it: most connections
/// spend most of their life waiting for a request, and that stage takes the least. None of them runs inside another, so that what
/// wakes a connection is with it at once.
pub(super) struct Stage(Pin<Box<dyn Future<Output = Option<Self>> + Send>>);

impl Stage {
    pub(super) fn new(stage: impl Future<Output = Option<Self>> + Send + 'static) -> Self {
        Self(Box::pin(stage))
    }
}

/// All stages of a connection, one after the other, until it is cut.
pub(super) struct Stages {
    now: Stage,
    cut: Seldom<WaitForCancellationFutureOwned>,
}

impl Stages {
    pub(super) fn new(first: Stage, cut: CancellationToken) -> Self {
        Self { now: first, cut: Seldom::new(cut.cancelled_owned()) }
    }
}

impl Future for Stages {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        while let Poll::Ready(next) = self.now.0.as_mut().poll(cx) {
            let Some(next) = next else { return Poll::Ready(()) };
            self.now = next;
        }
        Pin::new(&mut self.cut).poll(cx)
    }
}

impl<H: Handler> Conversation<H> {
    /// Begins a connection: with a PROXY protocol head from those who send one, with a handshake where the door has TLS.
    pub(super) async fn greet(self, stream: TcpStream, tls: Option<Tls>) -> Option<Stage> {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        let finish = self.hall.life.finish.clone();
        let begun = tokio::select! {
            begun = self.begin(stream) => begun,
            () = finish.cancelled() => None,
        };
        let (speaker, stream) = begun?;
        let Some(tls) = tls else { return Some(Stage::new(speaker.plain(stream))) };
        let greeted = tokio::select! {
            greeted = tls.accept(stream) => greeted,
            () = finish.cancelled() => None,
        };
        Some(speaker.encrypted(greeted?))
    }

    /// Learns whose connection it is, and takes one of that client's places.
    async fn begin(self, stream: TcpStream) -> Option<(Speaker<H>, Rewound<TcpStream>)> {
        let Self { socket, hall, seat } = self;
        let (peer, stream) = if hall.senders.lists(socket) {
            match hall.senders.client(stream, socket).await {
                Ok(named) => named,
                Err(fault) => {
                    tracing::debug!(%fault, proxy = %socket.ip(), "a connection was closed");
                    return None;
                }
            }
        } else {
            (socket, Rewound::new(stream))
        };
        let seat = hall.seats.take_for(seat, peer.ip())?;
        Some((Speaker { peer, hall, seat }, stream))
    }
}

/// A connection of a known client.
struct Speaker<H> {
    peer: SocketAddr,
    hall: Hall<H>,
    seat: Seat,
}

impl<H: Handler> Speaker<H> {
    /// Without TLS, HTTP/2 is known by its preface.
    async fn plain(self, stream: Rewound<TcpStream>) -> Option<Stage> {
        let Self { peer, hall, seat } = self;
        let limits = hall.limits;
        let pacer = Pacer::new(limits.head, limits.idle);
        let stream = Paced::new(stream, pacer.clone(), limits.write, Some(seat));
        let by_preface = limits.http2.is_some_and(|http2| http2.without_tls == WithoutTls::ByPreface);
        let begun = match by_preface {
            false => Ok((Protocol::Http1, Rewound::new(stream))),
            true => {
                let finish = hall.life.finish.clone();
                tokio::select! {
                    begun = sniff(stream) => begun,
                    () = finish.cancelled() => return None,
                }
            }
        };
        let talk = Talk { came: Came { peer, by: By::Plain, certificate: None }, hall, pacer };
        match begun {
            Ok((protocol, stream)) => Some(talk.serve(protocol, stream)),
            Err(error) => {
                tracing::debug!(%error, "a client connection ended before its first request");
                None
            }
        }
    }

    fn encrypted<S>(self, greeted: Greeted<S>) -> Stage
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { peer, hall, seat } = self;
        let Greeted { stream, certificate } = greeted;
        let protocol = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Protocol::Http2,
            Some(_) | None => Protocol::Http1,
        };
        let limits = hall.limits;
        let pacer = Pacer::new(limits.head, limits.idle);
        let stream = Paced::new(Box::new(stream), pacer.clone(), limits.write, Some(seat));
        let talk = Talk { came: Came { peer, by: By::Tls, certificate }, hall, pacer };
        talk.serve(protocol, Rewound::new(stream))
    }
}

/// A connection whose protocol is known.
struct Talk<H> {
    came: Came,
    hall: Hall<H>,
    pacer: Pacer,
}

impl<H: Handler> Talk<H> {
    fn serve<S>(self, protocol: Protocol, stream: Rewound<S>) -> Stage
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match (protocol, self.hall.limits.http2) {
            (Protocol::Http2, Some(http2)) => Stage::new(async move {
                self.pacer.let_go();
                let Self { came, hall, .. } = self;
                let Hall { handler, limits, life, meters, .. } = hall;
                let peer = came.peer;
                let ended = Http2 { came, handler, limits, http2, life }.serve(stream).await;
                told(ended, None, &meters, peer);
                None
            }),
            (Protocol::Http1, _) | (Protocol::Http2, None) => self.rest(stream),
        }
    }

    /// Waits for the next request of an HTTP/1.1 connection.
    fn rest<S>(self, mut stream: Rewound<S>) -> Stage
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Stage::new(async move {
            let stirred = tokio::select! {
                stirred = stream.stirs() => stirred,
                () = self.hall.life.finish.cancelled() => Ok(Stirring::End),
            };
            match stirred {
                Ok(Stirring::Bytes) => Some(Stage::new(self.requests(stream))),
                Ok(Stirring::End) => {
                    // The other end is told in the words of TLS, too. Where it is gone, nobody has to be.
                    let _gone = stream.shutdown().await;
                    None
                }
                Err(error) => {
                    tracing::debug!(%error, "a client connection ended at rest");
                    None
                }
            }
        })
    }

    /// Serves requests until the connection ends or comes to rest: what it takes is freed while none come.
    async fn requests<S>(self, stream: Rewound<S>) -> Option<Stage>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { came, hall, pacer } = &self;
        let Hall { handler, limits, life, meters, .. } = hall;
        let asked = (handler.clone(), came.clone());
        let wording = Box::new(move |status| worded(asked.0.unread(status, &asked.1)));
        let (stream, left) = Strict::new(stream, pacer.clone(), hall.seats.nap(), wording);
        let service = service_fn(|request: Request<Incoming>| {
            let (handler, came, busy) = (handler.clone(), came.clone(), pacer.request());
            let request = Box::new(request);
            // A request's memory goes with it: the library keeps the room of what it is given until the connection ends.
            Box::pin(async move {
                let reply = handler.handle(request, &came).await;
                if reply.status() == StatusCode::SWITCHING_PROTOCOLS {
                    busy.becomes_tunnel();
                }
                Ok::<_, Infallible>((*reply).map(|body| Held::new(body, busy)))
            })
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(None).max_header_size(limits.head_bytes);
        // The library's own bound costs it nothing, any other one is room to be made for each head.
        if limits.head_fields != LIBRARY_FIELDS {
            builder.max_headers(limits.head_fields);
        }
        builder.max_buf_size(limits.head_bytes.max(64 * 1024));
        let ended = {
            let mut served = pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
            tokio::select! {
                biased;
                ended = served.as_mut() => ended,
                () = Seldom::new(life.finish.cancelled()) => {
                    served.as_mut().graceful_shutdown();
                    served.await
                }
            }
        };
        told(ended, left.fault(), meters, came.peer);
        left.at_rest().map(|stream| self.rest(stream))
    }
}

/// An answer of our own as bytes, after which the connection ends (RFC 9112 §9.6).
fn worded(response: Response<ReplyBody>) -> Bytes {
    let (mut head, mut body) = response.into_parts();
    let frame = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
    let content = match frame {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        Poll::Ready(None | Some(Err(_))) | Poll::Pending => Bytes::new(),
    };
    head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    head.headers.insert(CONTENT_LENGTH, HeaderValue::from(content.len()));
    let mut bytes = BytesMut::from(format!("HTTP/1.1 {}\r\n", head.status).as_bytes());
    for (name, value) in &head.headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&content);
    bytes.freeze()
}

/// Notes how a connection's requests ended.
fn told(ended: Result<(), hyper::Error>, fault: Option<Fault>, meters: &Meters, peer: SocketAddr) {
    let Err(error) = ended else { return };
    let fault = fault.map(|fault| fault.to_string());
    if error.is_parse() || fault.is_some() {
        meters.refused_unread.inc();
        tracing::debug!(%error, fault, peer = %peer.ip(), "a request was refused before it could be read");
    } else {
        tracing::debug!(%error, "a client connection ended early");
    }
}

#[cfg(test)]
mod tests;
