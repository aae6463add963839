//! A stream whose first bytes have been looked at, and are read again.
//! In: a stream. Out: the same stream. Errors: the stream's. I/O: the stream's.
//! Source: RFC 9113 §3.4 (the preface by which HTTP/2 is known without TLS).

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// What a client says first who speaks HTTP/2 and has not agreed on it by TLS.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// So much is read of what wakes a stream that was at rest: most heads.
const GLANCE: usize = 1024;

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/1.1 or 1.0.
    Http1,
    /// HTTP/2.
    Http2,
}

/// A stream that begins with what was read from it already.
#[derive(Debug)]
pub(super) struct Rewound<S> {
    first: Bytes,
    stream: S,
}

impl<S> Rewound<S> {
    pub(super) const fn new(stream: S) -> Self {
        Self { first: Bytes::new(), stream }
    }

    /// Puts bytes before what comes.
    pub(super) fn unread(&mut self, bytes: BytesMut) {
        self.first = bytes.freeze();
    }
}

impl<S: AsyncRead + Unpin> Rewound<S> {
    /// Waits until there is something to read. Nothing is held for it while nothing comes.
    ///
    /// # Errors
    /// Those of the stream. Its limits are the stream's own.
    pub(super) async fn stirs(&mut self) -> io::Result<Stirring> {
        if !self.first.is_empty() {
            return Ok(Stirring::Bytes);
        }
        poll_fn(|cx| {
            let mut space = [MaybeUninit::uninit(); GLANCE];
            let mut buf = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                return Poll::Ready(Ok(Stirring::End));
            }
            self.first = Bytes::copy_from_slice(buf.filled());
            Poll::Ready(Ok(Stirring::Bytes))
        })
        .await
    }
}

/// What woke a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stirring {
    /// Bytes, which are read again.
    Bytes,
    /// Its end.
    End,
}

/// Reads until it is plain what the client speaks: HTTP/2 begins with its preface, and nothing else does.
///
/// # Errors
/// Those of the stream. Its limits are the caller's.
pub(super) async fn sniff<S: AsyncRead + Unpin>(stream: S) -> io::Result<(Protocol, Rewound<S>)> {
    let mut stream = Rewound::new(stream);
    let mut seen = BytesMut::with_capacity(PREFACE.len());
    let protocol = loop {
        let room = PREFACE.len() - seen.len();
        let came = (&mut stream.stream).take(room as u64).read_buf(&mut seen).await?;
        if !PREFACE.starts_with(&seen) || came == 0 {
            break Protocol::Http1;
        }
        if seen.len() == PREFACE.len() {
            break Protocol::Http2;
        }
    };
    stream.unread(seen);
    Ok((protocol, stream))
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = self.first.len().min(buf.remaining());
        buf.put_slice(self.first.get(..count).unwrap_or_default());
        self.first.advance(count);
        // Most first bytes are followed by others that are there already.
        // A fault is met again at the next look.
        let _later = Pin::new(&mut self.stream).poll_read(cx, buf);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}
