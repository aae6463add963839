//! The strict reader on a connection: what is not framed in the one way that all readers agree about never reaches HTTP.
//! In: an HTTP/1.1 connection's stream. Out: the same stream, cut before the first byte that must not go on. Errors: the
//! stream's. I/O: the stream's. Source: RFC 9112 §6.3 (what to refuse), §9.6 (closing without losing the answer).
//!
//! In the place of that byte the HTTP library gets one that is allowed nowhere, so it answers 400 and closes, after the
//! answers to the requests before. What the library says so itself, here or of a head that it cannot read, is said in the
//! gateway's own words, as far as it does not come in one piece with an answer before.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::clock::{Alarm, Deadline};
use crate::server::framing::{Fault, Framing, Refused};
use crate::server::pace::Pacer;

/// Refused in every place of a head; the line ends make the library look.
const IN_HEAD: &[u8] = b"\0\r\n\r\n";
/// Refused in every place of a chunked body but in its data, which nothing is refused in: a size line, the line ends around
/// data, and trailers may go on with CR, if with anything, and then with nothing but LF.
const IN_BODY: &[u8] = b"\r\0";

/// How long and how much a client may go on sending after its last answer: a connection that is closed over bytes that
/// nobody read is reset, and the answer may be lost with it.
const LINGER: Duration = Duration::from_secs(3);
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// Words an answer to what could not be read.
pub(super) type Wording = Box<dyn Fn(StatusCode) -> Bytes + Send + Sync>;

/// What is left of a stream once HTTP has let go of it, seen from outside.
#[derive(Debug)]
pub(super) struct Left<S>(Arc<Mutex<Leaving<S>>>);

#[derive(Debug)]
struct Leaving<S> {
    fault: Option<Fault>,
    stream: Option<S>,
}

impl<S> Left<S> {
    fn lock(&self) -> MutexGuard<'_, Leaving<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why bytes of it were refused.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.lock().fault
    }

    /// The stream itself, where it only came to rest. Nothing of it was lost, and nothing is waiting to be written.
    pub(super) fn at_rest(&self) -> Option<S> {
        self.lock().stream.take()
    }
}

/// A stream read strictly, until it becomes a tunnel.
pub(super) struct Strict<S> {
    /// `None`: it is at rest, and whoever waits for its next byte has it.
    stream: Option<S>,
    pacer: Pacer,
    framing: Framing,
    left: Left<S>,
    /// What is left to say in the place of what was refused; `None`: nothing was.
    poison: Option<&'static [u8]>,
    /// Requests of this connection that were taken up before this stream began.
    before: u64,
    nap: Duration,
    napping: Option<Alarm>,
    /// Whether bytes have come since the nap began.
    stirred: bool,
    /// Whether bytes may wait for the client.
    unwritten: bool,
    wording: Wording,
    /// Requests that had been taken up when all answers were last written; what is written then without another is the library's.
    settled: Option<u64>,
    /// What is said in its place.
    instead: Bytes,
    closing: Closing,
}

/// How far the connection's end has come.
#[derive(Debug)]
enum Closing {
    Not,
    /// HTTP lets go of the stream, which stays open.
    ToRest,
    /// Our side is shut; what the client still sends is dropped.
    Lingering(Pin<Box<Sleep>>, usize),
    Done,
}

impl<S> Strict<S> {
    /// Reads from the beginning of a request on. What is left of it in the end comes to the other half.
    ///
    /// A connection on which nothing is under way for `nap`, or up to twice that, comes to rest: everything that the HTTP library
    /// holds for its next request goes, which is several times what a connection needs that only waits.
    pub(super) fn new(stream: S, pacer: Pacer, nap: Duration, wording: Wording) -> (Self, Left<S>) {
        let left = Arc::new(Mutex::new(Leaving { fault: None, stream: None }));
        let strict = Self {
            stream: Some(stream),
            before: pacer.requests(),
            settled: Some(pacer.requests()),
            wording,
            instead: Bytes::new(),
            pacer,
            framing: Framing::new(),
            left: Left(Arc::clone(&left)),
            poison: None,
            nap,
            napping: None,
            stirred: false,
            unwritten: false,
            closing: Closing::Not,
        };
        (strict, Left(left))
    }

    /// The stream. Nobody asks for it once it is at rest.
    fn stream(&mut self) -> io::Result<Pin<&mut S>>
    where
        S: Unpin,
    {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// The next head may have begun to come before the last answer had gone.
    fn note_head(&self) {
        if self.framing.within() && self.framing.in_head() {
            self.pacer.head_has_begun();
        }
    }

    /// Whether what is written now answers no request that was taken up, and then says something else instead.
    fn words(&mut self, said: &[u8]) -> bool {
        if self.settled.take() != Some(self.pacer.requests()) || self.pacer.is_busy() {
            return false;
        }
        let status = said.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3));
        let Some(status) = status.and_then(|digits| StatusCode::from_bytes(digits).ok()) else {
            return false;
        };
        self.instead = (self.wording)(status);
        true
    }

    /// Whether nothing has begun that has not ended: every head that came was taken up, answered, and the answer written.
    fn rests(&self) -> bool {
        let requests = self.before + self.framing.heads();
        !self.framing.within()
            && !self.unwritten
            && self.poison.is_none()
            && self.pacer.is_idle_after(requests)
    }

    /// Notices that the connection has been at rest for a while: HTTP is told that it has ended, and lets go of it.
    fn poll_nap(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.rests() {
            return Poll::Pending;
        }
        loop {
            let nap = self.nap;
            let napping = self.napping.get_or_insert_with(|| Alarm::at(Deadline::after(nap)));
            ready!(napping.poll(cx));
            if !std::mem::take(&mut self.stirred) {
                self.closing = Closing::ToRest;
                return Poll::Ready(());
            }
            // Under load a timer is set once in a while, not at each request.
            self.napping = None;
        }
    }

    /// Says poison, then the end.
    fn say(poison: &mut &'static [u8], buf: &mut ReadBuf<'_>) {
        let (now, later) = poison.split_at_checked(buf.remaining()).unwrap_or((poison, &[]));
        buf.put_slice(now);
        *poison = later;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Strict<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = &mut *self;
        if let Some(poison) = &mut me.poison {
            Self::say(poison, buf);
            return Poll::Ready(Ok(()));
        }
        if matches!(me.closing, Closing::ToRest) {
            return Poll::Ready(Ok(()));
        }
        me.note_head();
        let before = buf.filled().len();
        match me.stream()?.poll_read(cx, buf) {
            Poll::Pending => return me.poll_nap(cx).map(Ok),
            Poll::Ready(read) => read?,
        }
        me.stirred = true;
        if me.pacer.is_tunnel() {
            me.napping = None;
            return Poll::Ready(Ok(()));
        }
        let piece = buf.filled().get(before..).unwrap_or_default();
        if let Err(Refused { good, fault }) = me.framing.scan(piece) {
            me.left.lock().fault = Some(fault);
            buf.set_filled(before + good);
            let poison = me.poison.insert(if me.framing.in_head() { IN_HEAD } else { IN_BODY });
            Self::say(poison, buf);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> Strict<S> {
    /// Drops what the client still sends, until it closes, has sent too much, or takes too long.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (Closing::Lingering(timer, left), Some(stream)) = (&mut self.closing, &mut self.stream) else {
            return Poll::Ready(());
        };
        let mut space = [std::mem::MaybeUninit::uninit(); 4096];
        while timer.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::uninit(&mut space);
            let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut buf));
            let came = buf.filled().len();
            if read.is_err() || came == 0 || came > *left {
                break;
            }
            *left -= came;
        }
        Poll::Ready(())
    }
}

impl<S: AsyncWrite + Unpin> Strict<S> {
    /// Writes what is said instead of something else.
    fn poll_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.instead.is_empty() {
            let some = self.instead.clone();
            let count = ready!(self.stream()?.poll_write(cx, &some))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.instead.advance(count.min(some.len()));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Strict<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.unwritten = true;
        ready!(self.poll_instead(cx))?;
        if self.words(buf) {
            return Poll::Ready(Ok(buf.len()));
        }
        self.stream()?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(cx))?;
        self.note_head();
        ready!(self.stream()?.poll_flush(cx))?;
        self.unwritten = false;
        // The library has nothing in hand when it asks for this.
        self.settled = (!self.pacer.is_busy()).then(|| self.pacer.requests());
        // Where that was the last answer, the rest begins, and HTTP is to read once it is over.
        if self.poll_nap(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = &mut *self;
        if matches!(me.closing, Closing::ToRest) {
            me.left.lock().stream = me.stream.take();
            me.closing = Closing::Done;
        }
        if matches!(me.closing, Closing::Not) {
            ready!(me.poll_instead(cx))?;
            ready!(me.stream()?.poll_shutdown(cx))?;
            // A message that has not come whole is one whose sender may still be at it.
            let sending = (me.framing.within() || me.poison.is_some()) && !me.pacer.is_tunnel();
            me.closing = match sending {
                true => Closing::Lingering(Box::pin(tokio::time::sleep(LINGER)), LINGER_BYTES),
                false => Closing::Done,
            };
        }
        ready!(me.poll_linger(cx));
        me.closing = Closing::Done;
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.unwritten = true;
        ready!(self.poll_instead(cx))?;
        if self.words(bufs.first().map_or(&[], |first| first)) {
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        self.stream()?.poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests;
