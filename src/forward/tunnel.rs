//! A tunnel: after both ends have switched protocols, bytes are copied as they come.
//! In: both upgrades. Out: nothing. Errors: none; a tunnel that breaks is over. I/O: both connections.
//! Source: RFC 9110 §7.8 (`Upgrade`), RFC 6455 §1.3 (the opening handshake).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longest wait for both ends to be switched over: their heads have been written or read by then.
const SWITCH: Duration = Duration::from_secs(10);

/// Copies between a client and an app until one of them ends, or nothing has moved for `idle`.
pub async fn tunnel(client: OnUpgrade, app: OnUpgrade, idle: Duration) {
    let switched = tokio::time::timeout(SWITCH, async { tokio::try_join!(client, app) }).await;
    let (client, app) = match switched {
        Ok(Ok(both)) => both,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a connection could not be switched over");
            return;
        }
        Err(_elapsed) => {
            tracing::debug!("a connection was not switched over in time");
            return;
        }
    };
    let moved = Arc::new(AtomicU64::new(0));
    let mut client = Counting { stream: TokioIo::new(client), moved: Arc::clone(&moved) };
    let mut app = TokioIo::new(app);
    let copying = tokio::io::copy_bidirectional(&mut client, &mut app);
    tokio::pin!(copying);
    loop {
        let before = moved.load(Ordering::Relaxed);
        match tokio::time::timeout(idle, copying.as_mut()).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a tunnel broke");
                return;
            }
            Err(_elapsed) if moved.load(Ordering::Relaxed) > before => {}
            Err(_elapsed) => return,
        }
    }
}

/// A stream that counts what moves through it.
struct Counting<S> {
    stream: S,
    moved: Arc<AtomicU64>,
}

impl<S> Counting<S> {
    fn note(&self, bytes: usize) {
        self.moved.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counting<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.note(buf.filled().len().saturating_sub(before));
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counting<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(bytes)) = &written {
            self.note(*bytes);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
