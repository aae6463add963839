//! Time limits of a client connection: how long it may be idle, and how long a request head may take once it has begun.
//! In: a stream. Out: the same stream, which fails with `TimedOut`. Errors: `io::Error`. I/O: the stream's.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::body::{BodyFault, ReplyBody};
use crate::server::Seat;

const IDLE: u8 = 0;
const HEAD: u8 = 1;
const BUSY: u8 = 2;
/// The connection has become a tunnel, which has limits of its own.
const TUNNEL: u8 = 3;

/// Knows what a connection is doing.
#[derive(Clone, Debug)]
pub(super) struct Pacer {
    state: Arc<State>,
    head: Duration,
    idle: Duration,
}

#[derive(Debug)]
struct State {
    doing: AtomicU8,
    /// Who read while a request was being answered: the limits begin anew when that ends, and nobody else would look.
    reader: Mutex<Option<Waker>>,
}

impl State {
    fn reader(&self) -> MutexGuard<'_, Option<Waker>> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_when_done(&self, waker: &Waker) {
        let mut reader = self.reader();
        // The state changes under the same lock, so nobody is forgotten in between.
        if self.doing.load(Ordering::Acquire) == BUSY {
            *reader = Some(waker.clone());
        } else {
            waker.wake_by_ref();
        }
    }

    fn done(&self) {
        let mut reader = self.reader();
        if self.doing.load(Ordering::Acquire) == TUNNEL {
            return;
        }
        self.doing.store(IDLE, Ordering::Release);
        if let Some(waker) = reader.take() {
            waker.wake();
        }
    }
}

impl Pacer {
    pub(super) fn new(head: Duration, idle: Duration) -> Self {
        let state = State { doing: AtomicU8::new(IDLE), reader: Mutex::new(None) };
        Self { state: Arc::new(state), head, idle }
    }

    /// A request head is whole: no limit until what this returns is dropped.
    pub(super) fn request(&self) -> Busy {
        self.state.doing.store(BUSY, Ordering::Release);
        Busy(Arc::clone(&self.state))
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Busy(Arc<State>);

impl Busy {
    /// The answer switches protocols: neither idle time nor heads are limited here from now on.
    pub(super) fn becomes_tunnel(&self) {
        self.0.doing.store(TUNNEL, Ordering::Release);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.done();
    }
}

/// An answer's body that marks its connection as busy until it is written.
#[derive(Debug)]
pub(super) struct Held {
    body: ReplyBody,
    _busy: Busy,
}

impl Held {
    pub(super) fn new(body: ReplyBody, busy: Busy) -> Self {
        Self { body, _busy: busy }
    }
}

impl Body for Held {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream under these limits.
#[derive(Debug)]
pub(super) struct Paced<S> {
    stream: S,
    pacer: Pacer,
    timer: Option<(u8, Pin<Box<Sleep>>)>,
    /// Longest wait for the client to take a byte.
    write: Duration,
    writing: Option<Pin<Box<Sleep>>>,
    _seat: Option<Seat>,
}

impl<S> Paced<S> {
    pub(super) fn new(stream: S, pacer: Pacer, write: Duration, seat: Option<Seat>) -> Self {
        Self { stream, pacer, timer: None, write, writing: None, _seat: seat }
    }

    /// Holds a write against its limit: the time runs while the client takes nothing.
    fn hold<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.writing = None;
            return written;
        }
        let limit = self.write;
        let timer = self.writing.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Whether what the connection is doing has taken too long.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let doing = self.pacer.state.doing.load(Ordering::Acquire);
        let limit = match doing {
            IDLE => self.pacer.idle,
            HEAD => self.pacer.head,
            TUNNEL => {
                self.timer = None;
                return Poll::Pending;
            }
            _ => {
                self.timer = None;
                self.pacer.state.tell_when_done(cx.waker());
                return Poll::Pending;
            }
        };
        if self.timer.as_ref().is_none_or(|(of, _)| *of != doing) {
            self.timer = Some((doing, Box::pin(tokio::time::sleep(limit))));
        }
        match &mut self.timer {
            Some((_, timer)) => timer.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Ready(read) => {
                if buf.filled().len() > before {
                    let doing = &self.pacer.state.doing;
                    let began = doing.compare_exchange(IDLE, HEAD, Ordering::AcqRel, Ordering::Acquire);
                    if began.is_ok() {
                        self.timer = None;
                    }
                }
                // A head that trickles in is held against its limit at every byte.
                match self.pacer.state.doing.load(Ordering::Acquire) == HEAD
                    && self.poll_overdue(cx).is_ready()
                {
                    true => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                    false => Poll::Ready(read),
                }
            }
            Poll::Pending => match self.poll_overdue(cx) {
                Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                Poll::Pending => Poll::Pending,
            },
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.hold(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.hold(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.hold(cx, shut)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.hold(cx, written)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn paced(stream: tokio::io::DuplexStream) -> Paced<tokio::io::DuplexStream> {
        Paced::new(stream, Pacer::new(Duration::from_secs(10), Duration::from_secs(75)), LIMIT, None)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up() {
        let (ours, _theirs) = tokio::io::duplex(1024);
        let mut ours = paced(ours);
        let written = tokio::time::timeout(LIMIT * 2, ours.write_all(&[0; 4096])).await.expect("it ends");
        assert_eq!(written.expect_err("given up").kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_little_is_not() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let mut ours = paced(ours);
        let reading = async {
            let mut some = [0; 512];
            for _ in 0..20 {
                tokio::time::sleep(LIMIT / 2).await;
                theirs.read_exact(&mut some).await.expect("bytes");
            }
        };
        let (written, ()) = tokio::join!(ours.write_all(&[0; 10 * 1024]), reading);
        written.expect("taken, if slowly");
    }
}
