//! What a connection writes in one turn, sent in one piece. A library that sends frame by frame makes a TLS record and a call
//! into the system of each of them.
//! In: a stream. Out: the same stream. Errors: the stream's, at the next look where nobody waits for the write. I/O: the stream's.

use std::io::{self, IoSlice};
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes that wait: as many as a TLS record takes (RFC 8446 §5.1).
const MOST: usize = 16 * 1024;

/// A stream that holds back small writes until [`Batch::send`], or until they are many. A flush sends nothing: whoever owns the
/// connection sends after each of its turns.
#[derive(Debug)]
pub(super) struct Batch<S>(Arc<Mutex<Held<S>>>);

/// What becomes of the memory in which writes wait, once all have gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// It is kept until nothing is written in a turn: others come soon.
    Kept,
    /// It is given back.
    Freed,
}

#[derive(Debug)]
struct Held<S> {
    stream: S,
    /// What waits, from `sent` on.
    bytes: Vec<u8>,
    sent: usize,
    /// Whether the stream was given something that it may not have sent.
    unflushed: bool,
    /// What became of a write that nobody waited for.
    fault: Option<io::Error>,
}

impl<S> Clone for Batch<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> Batch<S> {
    pub(super) fn new(stream: S) -> Self {
        let held = Held { stream, bytes: Vec::new(), sent: 0, unflushed: false, fault: None };
        Self(Arc::new(Mutex::new(held)))
    }

    fn held(&self) -> MutexGuard<'_, Held<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncWrite + Unpin> Batch<S> {
    /// Sends what waits, as far as the stream takes it; wakes when it takes more.
    pub(super) fn send(&self, cx: &mut Context<'_>, room: Room) {
        let mut held = self.held();
        let freed = room == Room::Freed || held.bytes.is_empty();
        match held.poll_send(cx) {
            Poll::Ready(Ok(())) if freed => held.bytes = Vec::new(),
            Poll::Ready(Ok(())) | Poll::Pending => {}
            Poll::Ready(Err(fault)) => {
                // Whoever reads next is told, and that is at once.
                held.fault = Some(fault);
                cx.waker().wake_by_ref();
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> Held<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        if mem::take(&mut self.unflushed) {
            let flushed = Pin::new(&mut self.stream).poll_flush(cx);
            self.unflushed = flushed.is_pending();
            return flushed;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest @ [_, ..]) = self.bytes.get(self.sent..) {
            self.unflushed = true;
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.sent += count,
            }
        }
        self.bytes.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    /// Makes room for so many bytes. `false`: they are so many that they go by themselves, and nothing waits before them.
    fn poll_room(&mut self, cx: &mut Context<'_>, count: usize) -> Poll<io::Result<bool>> {
        if self.bytes.len().saturating_add(count) <= MOST {
            return Poll::Ready(Ok(true));
        }
        ready!(self.poll_drain(cx))?;
        self.unflushed = true;
        Poll::Ready(Ok(count <= MOST))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Batch<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut held = self.held();
        match held.fault.take() {
            Some(fault) => Poll::Ready(Err(fault)),
            None => Pin::new(&mut held.stream).poll_read(cx, buf),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Batch<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut held = self.held();
        if !ready!(held.poll_room(cx, buf.len()))? {
            return Pin::new(&mut held.stream).poll_write(cx, buf);
        }
        held.bytes.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = self.held();
        ready!(held.poll_send(cx))?;
        Pin::new(&mut held.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.held().stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut held = self.held();
        let count = bufs.iter().fold(0_usize, |sum, buf| sum.saturating_add(buf.len()));
        if !ready!(held.poll_room(cx, count))? {
            return Pin::new(&mut held.stream).poll_write_vectored(cx, bufs);
        }
        bufs.iter().for_each(|buf| held.bytes.extend_from_slice(buf));
        Poll::Ready(Ok(count))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;

    /// Takes so many bytes of each write, as often as it may; then it waits, or breaks.
    #[derive(Debug)]
    struct Taking {
        got: Vec<u8>,
        writes: usize,
        most: usize,
        times: usize,
        breaks: bool,
        shut: bool,
    }

    impl Taking {
        fn new(most: usize, times: usize) -> Self {
            Self { got: Vec::new(), writes: 0, most, times, breaks: false, shut: false }
        }
    }

    impl AsyncRead for Taking {
        fn poll_read(
            self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            _buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Taking {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            if self.times == 0 {
                return if self.breaks {
                    Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
                } else {
                    Poll::Pending
                };
            }
            self.times -= 1;
            self.writes += 1;
            let count = buf.len().min(self.most);
            self.got.extend_from_slice(&buf[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.shut = true;
            Poll::Ready(Ok(()))
        }
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn quiet() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    fn write(batch: &mut Batch<Taking>, bytes: &[u8]) -> Poll<usize> {
        let (head, rest) = bytes.split_at(bytes.len() / 3);
        let slices = [IoSlice::new(head), IoSlice::new(rest)];
        Pin::new(batch).poll_write_vectored(&mut quiet(), &slices).map(|count| count.expect("written"))
    }

    #[test]
    fn what_is_written_in_a_turn_goes_in_one_piece_and_a_flush_does_not_part_it() {
        let mut batch = Batch::new(Taking::new(usize::MAX, usize::MAX));
        for byte in 1..=9 {
            assert_eq!(write(&mut batch, &[byte; 100]), Poll::Ready(100));
            assert!(Pin::new(&mut batch).poll_flush(&mut quiet()).is_ready());
        }
        assert!(batch.held().stream.got.is_empty());
        batch.send(&mut quiet(), Room::Kept);
        let wanted: Vec<u8> = (1..=9).flat_map(|byte| [byte; 100]).collect();
        let held = batch.held();
        assert_eq!((held.stream.writes, &held.stream.got), (1, &wanted));
        assert!(held.bytes.capacity() > 0);
        drop(held);
        batch.send(&mut quiet(), Room::Kept);
        assert_eq!(batch.held().bytes.capacity(), 0, "nothing was written in that turn");
        assert_eq!(write(&mut batch, b"one more"), Poll::Ready(8));
        batch.send(&mut quiet(), Room::Freed);
        let held = batch.held();
        assert_eq!((held.stream.writes, held.bytes.capacity()), (2, 0));
    }

    #[test]
    fn every_byte_comes_once_and_in_order_however_little_is_taken() {
        for (most, times) in [(1, 7), (3, 1), (1000, 2), (MOST, 1), (usize::MAX, 3), (1, 0)] {
            let mut batch = Batch::new(Taking::new(most, times));
            let (mut wanted, mut byte) = (Vec::new(), 0_u8);
            for size in [1, 500, 3000, MOST - 1, MOST, MOST + 1, 5 * MOST, 2, 700] {
                byte += 1;
                let bytes = vec![byte; size];
                let mut left = &bytes[..];
                while !left.is_empty() {
                    match write(&mut batch, left) {
                        Poll::Ready(count) => left = &left[count..],
                        Poll::Pending => {
                            assert!(batch.held().bytes.len() <= MOST, "no more waits than may");
                            batch.held().stream.times += 1;
                        }
                    }
                }
                wanted.extend_from_slice(&bytes);
                batch.send(&mut quiet(), Room::Kept);
            }
            while !batch.held().bytes.is_empty() {
                batch.held().stream.times += 1;
                batch.send(&mut quiet(), Room::Kept);
            }
            assert!(batch.held().stream.got == wanted, "{most} {times}");
        }
    }

    #[test]
    fn the_end_comes_after_what_waits() {
        let mut batch = Batch::new(Taking::new(usize::MAX, 0));
        assert_eq!(write(&mut batch, b"last words"), Poll::Ready(10));
        assert!(Pin::new(&mut batch).poll_shutdown(&mut quiet()).is_pending());
        assert!(!batch.held().stream.shut);
        batch.held().stream.times = 1;
        assert!(Pin::new(&mut batch).poll_shutdown(&mut quiet()).is_ready());
        let held = batch.held();
        assert_eq!((held.stream.shut, held.stream.got.as_slice()), (true, &b"last words"[..]));
    }

    #[test]
    fn a_write_that_fails_is_met_by_whoever_reads_and_that_is_at_once() {
        let mut batch = Batch::new(Taking { breaks: true, ..Taking::new(usize::MAX, 0) });
        assert_eq!(write(&mut batch, b"lost"), Poll::Ready(4));
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        batch.send(&mut Context::from_waker(&waker), Room::Kept);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        let (mut space, mut cx) = ([0; 8], quiet());
        let mut buf = ReadBuf::new(&mut space);
        let Poll::Ready(Err(fault)) = Pin::new(&mut batch).poll_read(&mut cx, &mut buf) else {
            panic!("no fault")
        };
        assert_eq!(fault.kind(), io::ErrorKind::BrokenPipe);
    }
}
