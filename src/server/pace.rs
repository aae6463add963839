//! Time limits of a client connection: how long it may be idle, and how long a request head may take once it has begun.
//! In: a stream. Out: the same stream, which fails with `TimedOut`. Errors: `io::Error`. I/O: the stream's.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::body::{BodyFault, ReplyBody};
use crate::clock::{Alarm, Deadline, Uptime};
use crate::gather::gathered;
use crate::server::seats::Seat;

const IDLE: u8 = 0;
const HEAD: u8 = 1;
const BUSY: u8 = 2;
/// The connection has become a tunnel, which has limits of its own.
const TUNNEL: u8 = 3;
/// The connection carries many requests at a time, and is limited by who knows of them all.
const STREAMS: u8 = 4;

/// So many bytes of frames are read before other connections have their turn. They can be a thousand frames, each of which
/// costs its sender less than its reader.
const BURST: usize = 8 * 1024;

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
    /// Requests that were taken up.
    requests: AtomicU64,
    begun: Uptime,
    /// Since when nothing is asked, in milliseconds since the beginning.
    idle_since: AtomicU64,
}

impl State {
    /// What comes of a request is written, or nothing ever will be. Whoever writes it looks at the limits that begin now once it
    /// has gone: [`Paced::poll_flush`].
    fn done(&self) {
        let now = u64::try_from(self.begun.now().as_millis()).unwrap_or(u64::MAX);
        self.idle_since.store(now, Ordering::Release);
        // A tunnel stays one.
        let _tunnel = self.doing.compare_exchange(BUSY, IDLE, Ordering::AcqRel, Ordering::Acquire);
    }
}

impl Pacer {
    pub(super) fn new(head: Duration, idle: Duration) -> Self {
        let state = State {
            doing: AtomicU8::new(IDLE),
            requests: AtomicU64::new(0),
            begun: Uptime::start(),
            idle_since: AtomicU64::new(0),
        };
        Self { state: Arc::new(state), head, idle }
    }

    fn doing(&self) -> u8 {
        self.state.doing.load(Ordering::Acquire)
    }

    /// Whether the connection has become a tunnel.
    pub(super) fn is_tunnel(&self) -> bool {
        self.doing() == TUNNEL
    }

    /// Whether nothing is under way after so many requests.
    pub(super) fn is_idle_after(&self, requests: u64) -> bool {
        self.state.doing.load(Ordering::Acquire) == IDLE
            && self.state.requests.load(Ordering::Acquire) == requests
    }

    /// Requests that were taken up so far.
    pub(super) fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Acquire)
    }

    /// Whether a request is being answered, or the connection is no longer HTTP's.
    pub(super) fn is_busy(&self) -> bool {
        !matches!(self.state.doing.load(Ordering::Acquire), IDLE | HEAD)
    }

    /// A head has begun to come before the answer to the request before it ended: its time runs once nothing else is done.
    pub(super) fn head_has_begun(&self) {
        // Where something else is being done, that goes on.
        let _other = self.state.doing.compare_exchange(IDLE, HEAD, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Somebody else limits this connection from now on.
    pub(super) fn let_go(&self) {
        self.state.doing.store(STREAMS, Ordering::Release);
    }

    /// A request head is whole: no limit until what this returns is dropped.
    pub(super) fn request(&self) -> Busy {
        self.state.requests.fetch_add(1, Ordering::AcqRel);
        self.state.doing.store(BUSY, Ordering::Release);
        Busy(Arc::clone(&self.state))
    }

    /// Until when an idle connection may be so.
    fn idle_until(&self) -> Deadline {
        let since = Duration::from_millis(self.state.idle_since.load(Ordering::Acquire));
        self.state.begun.at(since + self.idle)
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
    /// Goes off before the time is over, or when it is: it is moved when it goes off, and not with each request.
    timer: Option<Alarm>,
    /// Until when the head that has begun has to be whole, and how many requests came before it.
    head_until: Option<(u64, Deadline)>,
    /// Longest wait for the client to take a byte.
    write: Duration,
    writing: Option<Pin<Box<Sleep>>>,
    /// Bytes read since others had their turn.
    burst: usize,
    _seat: Option<Seat>,
}

impl<S> Paced<S> {
    pub(super) fn new(stream: S, pacer: Pacer, write: Duration, seat: Option<Seat>) -> Self {
        Self { stream, pacer, timer: None, head_until: None, write, writing: None, burst: 0, _seat: seat }
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

    /// Whether what the connection is doing has taken too long. Wakes when that may be.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let doing = self.pacer.doing();
            let due = match doing {
                IDLE => self.pacer.idle_until(),
                HEAD => self.head_due(),
                TUNNEL | STREAMS => {
                    self.timer = None;
                    return Poll::Pending;
                }
                _ => return Poll::Pending,
            };
            let timer = self.timer.get_or_insert_with(|| Alarm::at(due));
            timer.limit(due);
            ready!(timer.poll(cx));
            if due.reached() {
                return Poll::Ready(());
            }
        }
    }

    fn head_due(&mut self) -> Deadline {
        let before = self.pacer.requests();
        match self.head_until {
            Some((of, due)) if of == before => due,
            Some(_) | None => {
                let due = Deadline::after(self.pacer.head);
                self.head_until = Some((before, due));
                due
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.burst >= BURST && self.pacer.state.doing.load(Ordering::Acquire) == STREAMS {
            self.burst = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Ready(read) => {
                self.burst += buf.filled().len() - before;
                if buf.filled().len() > before {
                    let doing = &self.pacer.state.doing;
                    let began = doing.compare_exchange(IDLE, HEAD, Ordering::AcqRel, Ordering::Acquire);
                    // Most heads are whole by now. The time of one that is not begins with the next look at the stream.
                    if began.is_ok() {
                        return Poll::Ready(read);
                    }
                }
                // A head that trickles in is held against its limit at every byte.
                match self.pacer.doing() == HEAD && self.head_due().reached() {
                    true => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                    false => Poll::Ready(read),
                }
            }
            Poll::Pending => {
                self.burst = 0;
                self.poll_overdue(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
            }
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
        ready!(self.hold(cx, flushed))?;
        // The answer has gone, and whoever has read before it was under no limit: that begins now.
        if matches!(self.pacer.doing(), IDLE | HEAD) && self.poll_overdue(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
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
        let stream = &mut self.stream;
        let written = gathered(bufs, |together| Pin::new(&mut *stream).poll_write(cx, together))
            .unwrap_or_else(|| Pin::new(&mut self.stream).poll_write_vectored(cx, bufs));
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
    async fn idle_time_is_counted_from_the_last_answer_and_no_timer_is_late() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let (head, idle) = (Duration::from_secs(10), Duration::from_secs(75));
        let pacer = Pacer::new(head, idle);
        let mut ours = Paced::new(ours, pacer.clone(), LIMIT, None);
        let began = Uptime::start();
        // Three requests, each of which takes longer than a connection may be idle.
        for _ in 0..3 {
            theirs.write_all(b"head").await.expect("written");
            ours.read_exact(&mut [0; 4]).await.expect("read");
            let busy = pacer.request();
            let more = tokio::time::timeout(idle * 2, ours.read_u8()).await;
            assert!(more.is_err(), "a busy connection has no limit");
            drop(busy);
            tokio::time::sleep(idle / 2).await;
        }
        assert_eq!(ours.read_u8().await.expect_err("idle").kind(), io::ErrorKind::TimedOut);
        let expected = (idle * 2 + idle / 2) * 3 + idle / 2;
        assert!(began.now().abs_diff(expected) < Duration::from_millis(20), "{:?}", began.now());
        // A head that trickles in has its own, shorter limit.
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let mut ours = Paced::new(ours, Pacer::new(head, idle), LIMIT, None);
        let first = tokio::time::timeout(idle / 2, ours.read_u8()).await;
        assert!(first.is_err(), "nothing has come yet");
        theirs.write_all(b"G").await.expect("written");
        assert_eq!(ours.read_u8().await.expect("a byte"), b'G');
        let began = Uptime::start();
        assert_eq!(ours.read_u8().await.expect_err("slow").kind(), io::ErrorKind::TimedOut);
        assert!(began.now().abs_diff(head) < Duration::from_millis(20), "{:?}", began.now());
    }

    #[tokio::test(start_paused = true)]
    async fn limits_begin_with_the_end_of_an_answer_though_nobody_reads_anew() {
        let (head, idle) = (Duration::from_secs(10), Duration::from_secs(75));
        for (begun, limit) in [(false, idle), (true, head)] {
            let (ours, _theirs) = tokio::io::duplex(1024);
            let pacer = Pacer::new(head, idle);
            let mut ours = Paced::new(ours, pacer.clone(), LIMIT, None);
            let mut busy = Some(pacer.request());
            let before = Uptime::start();
            // As HTTP does: it reads while the answer is made, writes the answer, and waits.
            let ended = std::future::poll_fn(|cx| {
                let mut space = [0; 16];
                let read = Pin::new(&mut ours).poll_read(cx, &mut ReadBuf::new(&mut space));
                if read.is_pending() && busy.take().is_some() {
                    if begun {
                        pacer.head_has_begun();
                    }
                    assert!(Pin::new(&mut ours).poll_flush(cx).is_ready());
                }
                read
            });
            let ended = tokio::time::timeout(idle * 2, ended).await.expect("the limit wakes whoever waits");
            assert_eq!(ended.expect_err("over").kind(), io::ErrorKind::TimedOut);
            assert!(before.now().abs_diff(limit) < Duration::from_millis(20), "{:?}", before.now());
        }
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
