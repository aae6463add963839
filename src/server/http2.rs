//! HTTP/2 connections: their limits, their streams as tasks, and requests in the form that every later step knows.
//! In: a stream that speaks HTTP/2. Out: answered requests. Errors: none; what breaks the rules ends the stream or the connection.
//! I/O: the connection. Source: RFC 9113 (HTTP/2), §8.2.3 (cookies in crumbs), §10.5 (denial of service); RFC 8441 (WebSocket).

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::Sleep;
use tokio_util::task::TaskTracker;

use crate::body::{BodyFault, ReplyBody, Replying};
use crate::fields::Names;
use crate::random;
use crate::server::batch::{Batch, Room};
use crate::server::seldom::Seldom;
use crate::server::{Asking, Came, ConnectionLimits, Handler, Life};

/// For a client to take leave once it was told to, with nothing under way any more.
const LEAVE: Duration = Duration::from_secs(5);

/// So much of an answer is handed over at a time: a frame, as most clients take them (RFC 9113 §4.2).
const PIECE: usize = 16 * 1024;

/// What says something about a connection in an answer of HTTP/1.1.
const OF_CONNECTION: Names = Names::listed(&["connection", "upgrade"]);

/// What an HTTP/2 connection may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Limits {
    /// Whether it is spoken without TLS to clients that begin with it.
    pub without_tls: WithoutTls,
    /// Requests at a time.
    pub streams: u32,
    /// Requests that the client may take back before they were looked at (CVE-2023-44487).
    pub resets: usize,
    /// Streams that the client may break over the connection's life (CVE-2025-8671).
    pub error_resets: usize,
    /// Bytes of a frame.
    pub frame: u32,
    /// Bytes of one request's body that are held here.
    pub stream_window: u32,
    /// Bytes of all request bodies of a connection that are held here.
    pub connection_window: u32,
    /// Bytes of one answer that wait for the client.
    pub send_buffer: usize,
    /// Between two questions whether the client is still there.
    pub ping: Duration,
    /// For its answer.
    pub ping_timeout: Duration,
}

/// Whether HTTP/2 is spoken without TLS (RFC 9113 §3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithoutTls {
    /// To clients that begin with its preface.
    ByPreface,
    /// To nobody.
    Never,
}

impl Default for Http2Limits {
    fn default() -> Self {
        Self {
            without_tls: WithoutTls::ByPreface,
            streams: 100,
            resets: 20,
            error_resets: 100,
            frame: 16 * 1024,
            stream_window: 256 * 1024,
            connection_window: 1024 * 1024,
            send_buffer: 64 * 1024,
            ping: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(15),
        }
    }
}

/// What a connection needs beside its stream.
pub(super) struct Http2<H> {
    pub(super) came: Came,
    pub(super) handler: H,
    pub(super) limits: ConnectionLimits,
    pub(super) http2: Http2Limits,
    pub(super) life: Life,
}

impl<H: Handler> Http2<H> {
    /// Serves one connection until its client leaves, has been idle for too long, or the server stops.
    pub(super) async fn serve<S>(self, stream: S) -> Result<(), hyper::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { came, handler, limits, http2, life } = self;
        let streams = Streams::new(&life, limits.write);
        let service = service_fn(move |request: Request<Incoming>| {
            let (handler, came, request) = (handler.clone(), came.clone(), Box::new(request));
            // A request's memory goes once its answer has begun: a slow client can hold a thousand answers.
            Box::pin(async move {
                let progress = Progress::of_this_stream();
                let response = answer(&handler, request, &came, limits.head_fields).await;
                Ok::<_, Infallible>(response.map(|body| Given { body, rest: Bytes::new(), progress }))
            })
        });
        let stream = Batch::new(stream);
        let served = builder(&http2, limits.head_bytes, streams.clone())
            .serve_connection(TokioIo::new(stream.clone()), service);
        // It is large, and lies where it is from here on.
        let mut served = pin!(served);
        let limited = pin!(async {
            tokio::select! {
                ended = served.as_mut() => return ended,
                () = Seldom::new(life.finish.cancelled()) => {}
                () = streams.quiet(limits.idle) => {}
            }
            // GOAWAY: what has begun is finished, nothing more begins (RFC 9113 §6.8).
            served.as_mut().graceful_shutdown();
            tokio::select! {
                ended = served.as_mut() => ended,
                () = streams.quiet(LEAVE) => Ok(()),
            }
        });
        streams.together(limited, &stream).await
    }
}

fn builder(http2: &Http2Limits, head_bytes: usize, streams: Streams) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(http2.streams)
        .max_pending_accept_reset_streams(http2.resets)
        .max_local_error_reset_streams(http2.error_resets)
        .max_header_list_size(u32::try_from(head_bytes).unwrap_or(u32::MAX))
        .max_frame_size(http2.frame)
        .initial_stream_window_size(http2.stream_window)
        .initial_connection_window_size(http2.connection_window)
        .max_send_buf_size(http2.send_buffer)
        .keep_alive_interval(http2.ping)
        .keep_alive_timeout(http2.ping_timeout)
        .enable_connect_protocol();
    builder
}

/// Answers a request after giving it the form that it would have had by HTTP/1.1.
async fn answer<H: Handler>(handler: &H, mut request: Asking, came: &Came, fields: usize) -> Replying {
    if request.headers().len() > fields {
        let mut response = handler.unread(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, came);
        response.headers_mut().remove(CONNECTION);
        return Box::new(response);
    }
    join_crumbs(request.headers_mut());
    let handshake = as_handshake(&mut request);
    let mut response = handler.handle(request, came).await;
    let headers = response.headers_mut();
    // Connection-specific fields have no place in HTTP/2 (RFC 9113 §8.2.2), and most answers have none left.
    if Names::of(headers).may_meet(OF_CONNECTION) {
        headers.remove(CONNECTION);
        headers.remove(UPGRADE);
    }
    if handshake == Handshake::Yes {
        as_connected(&mut response);
    }
    response
}

/// Joins the lines of `Cookie` to one: other readers than HTTP/2's expect one (RFC 9113 §8.2.3).
fn join_crumbs(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() < 2 {
        return;
    }
    if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// Whether a request opens a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handshake {
    Yes,
    No,
}

/// Turns the extended CONNECT of a WebSocket into the handshake that it stands for (RFC 8441 §5). The key and its answer,
/// which HTTP/2 does without, are between this gateway and the app.
fn as_handshake<B>(request: &mut Request<B>) -> Handshake {
    let websocket =
        request.extensions().get::<Protocol>().is_some_and(|protocol| protocol.as_ref() == b"websocket");
    if *request.method() != Method::CONNECT || !websocket {
        return Handshake::No;
    }
    let mut key = [0; 16];
    if random::fill(&mut key).is_err() {
        return Handshake::No;
    }
    let Ok(key) = HeaderValue::try_from(STANDARD.encode(key)) else { return Handshake::No };
    *request.method_mut() = Method::GET;
    let headers = request.headers_mut();
    headers.insert(SEC_WEBSOCKET_KEY, key);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    Handshake::Yes
}

/// Says of a handshake what came of it: to the client any success is an open tunnel (RFC 8441 §5, RFC 9113 §8.5), and the app
/// has opened one by switching alone.
fn as_connected(response: &mut Response<ReplyBody>) {
    response.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
    let status = match response.status() {
        StatusCode::SWITCHING_PROTOCOLS => StatusCode::OK,
        status if status.is_success() => StatusCode::BAD_GATEWAY,
        _ => return,
    };
    *response.status_mut() = status;
    *response.body_mut() = ReplyBody::empty();
    // None of it is true of a tunnel (RFC 9110 §9.3.6), nor of an answer without its body.
    for name in [CONTENT_LENGTH, CONTENT_TYPE, CONTENT_ENCODING, TRANSFER_ENCODING] {
        response.headers_mut().remove(name);
    }
}

/// Runs a connection's streams as tasks of the server, and knows whether any is under way. They end with their connection: the
/// library wakes each of them then, and tells it so.
#[derive(Clone, Debug)]
struct Streams(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    tasks: TaskTracker,
    write: Duration,
    open: AtomicUsize,
    begun: AtomicUsize,
    ended: Notify,
}

impl Streams {
    fn new(life: &Life, write: Duration) -> Self {
        Self(Arc::new(Shared {
            tasks: life.tasks.clone(),
            write,
            open: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            ended: Notify::new(),
        }))
    }

    /// Runs a connection so that answers which are ready at about the same time go out in one piece: by the time that it has its
    /// turn, all streams that were woken before it have had theirs.
    async fn together<S, T>(&self, mut connection: Pin<&mut impl Future<Output = T>>, stream: &Batch<S>) -> T
    where
        S: AsyncWrite + Unpin,
    {
        poll_fn(|cx| {
            let room = if self.open() > 1 { Room::Kept } else { Room::Freed };
            let polled = connection.as_mut().poll(cx);
            stream.send(cx, room);
            polled
        })
        .await
    }

    fn open(&self) -> usize {
        self.0.open.load(Ordering::Acquire)
    }

    /// Ends once no stream has been under way for so long, whatever else the client sends.
    async fn quiet(&self, limit: Duration) {
        loop {
            let begun = self.0.begun.load(Ordering::Acquire);
            if self.open() > 0 {
                self.0.ended.notified().await;
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(limit) => {}
                () = self.0.ended.notified() => continue,
            }
            let same = self.0.begun.load(Ordering::Acquire) == begun;
            if same && self.open() == 0 {
                return;
            }
        }
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, task: F) {
        let stream = Stream {
            task: Box::pin(task),
            progress: Arc::default(),
            asked: false,
            timer: None,
            open: Open::new(&self.0),
        };
        self.0.tasks.spawn(stream);
    }
}

/// The task of a stream. It is given up where the client takes nothing of its answer for as long as a write may wait: a window
/// that is never opened holds an answer as well as a socket that is never read, and costs a client nothing.
struct Stream<F> {
    task: Pin<Box<F>>,
    progress: Arc<Progress>,
    /// Whether the library has asked for the answer: it does so at once, or never.
    asked: bool,
    timer: Option<(usize, Pin<Box<Sleep>>)>,
    open: Open,
}

impl<F: Future<Output = ()>> Future for Stream<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let me = &mut *self;
        let polled = match mem::replace(&mut me.asked, true) {
            true => me.task.as_mut().poll(cx),
            false => PROGRESS.sync_scope(Arc::clone(&me.progress), || me.task.as_mut().poll(cx)),
        };
        if polled.is_ready() {
            return Poll::Ready(());
        }
        if !me.progress.waits.load(Ordering::Acquire) {
            me.timer = None;
            return Poll::Pending;
        }
        let given = me.progress.given.load(Ordering::Acquire);
        let limit = me.open.0.write;
        match &mut me.timer {
            Some((of, timer)) if *of == given => timer.as_mut().poll(cx),
            timer => {
                let (_, timer) = timer.insert((given, Box::pin(tokio::time::sleep(limit))));
                timer.as_mut().poll(cx)
            }
        }
    }
}

/// A stream that is counted as open while this lives.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.begun.fetch_add(1, Ordering::AcqRel);
        shared.open.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(shared))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.ended.notify_one();
        }
    }
}

/// How far the client has taken an answer.
#[derive(Debug, Default)]
struct Progress {
    /// Pieces that were handed over.
    given: AtomicUsize,
    /// Whether the last of them waits for the client.
    waits: AtomicBool,
}

tokio::task_local! {
    /// The progress of the stream that is asked for its answer. A tunnel's task has one too, which stays as it is.
    static PROGRESS: Arc<Progress>;
}

impl Progress {
    /// The library asks for an answer, and makes it, within the task of its stream.
    fn of_this_stream() -> Arc<Self> {
        PROGRESS.try_with(Arc::clone).unwrap_or_default()
    }
}

/// An answer's body that tells whom it waits for, in pieces of which a slow client takes one before its time is over.
#[derive(Debug)]
struct Given {
    body: ReplyBody,
    rest: Bytes,
    progress: Arc<Progress>,
}

impl Body for Given {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let me = &mut *self;
        let frame = if me.rest.is_empty() {
            let frame = Pin::new(&mut me.body).poll_frame(cx);
            frame.map_ok(|frame| match frame.into_data() {
                Ok(mut data) => {
                    me.rest = data.split_off(data.len().min(PIECE));
                    Frame::data(data)
                }
                Err(other) => other,
            })
        } else {
            let piece = me.rest.split_to(me.rest.len().min(PIECE));
            Poll::Ready(Some(Ok(Frame::data(piece))))
        };
        self.progress.given.fetch_add(1, Ordering::AcqRel);
        self.progress.waits.store(frame.is_ready(), Ordering::Release);
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    /// Asked before the first piece only.
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
