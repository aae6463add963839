//! The app of the benches, and nothing more than they need of one: `upstream 127.0.0.1:PORT`.
//!
//! `/echo` answers with the head that it got, `/down/N` with N bytes (both below `/open`, too); everything else, once its
//! body is read and thrown away, with the same 1 KiB. Each answer says `X-Upstream: app`. One thread, so that it can be pinned
//! beside the load.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "what is missing or wrong here has to end the run at once"
)]

use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::LocalSet;

const PIECE: usize = 256 * 1024;

fn answer(body: &[u8]) -> Vec<u8> {
    [head(body.len()).as_slice(), body].concat()
}

fn head(length: usize) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Upstream: app\r\nContent-Length: {length}\r\n\r\n"
    )
    .into_bytes()
}

/// What is said of a request's body.
enum Size {
    Bytes(usize),
    Chunked,
}

/// One connection, and what was read of it ahead.
struct Wire {
    stream: TcpStream,
    buf: Vec<u8>,
}

impl Wire {
    async fn more(&mut self) -> Option<()> {
        let read = self.stream.read_buf(&mut self.buf).await.ok()?;
        (read > 0).then_some(())
    }

    async fn head(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.buf, b"\r\n\r\n") {
                return Some(self.buf.drain(..at + 4).collect());
            }
            self.more().await?;
        }
    }

    async fn skip(&mut self, mut bytes: usize) -> Option<()> {
        loop {
            let have = self.buf.len().min(bytes);
            self.buf.drain(..have);
            bytes -= have;
            if bytes == 0 {
                return Some(());
            }
            self.more().await?;
        }
    }

    /// Chunks as RFC 9112 §7.1 has them, without trailers: nobody here sends any.
    async fn skip_chunks(&mut self) -> Option<()> {
        loop {
            let end = loop {
                match memchr::memmem::find(&self.buf, b"\r\n") {
                    Some(at) => break at,
                    None => self.more().await?,
                }
            };
            let line: Vec<u8> = self.buf.drain(..end + 2).collect();
            let size = usize::from_str_radix(std::str::from_utf8(&line[..end]).ok()?.trim(), 16).ok()?;
            self.skip(size + 2).await?;
            if size == 0 {
                return Some(());
            }
        }
    }

    async fn converse(mut self, usual: Rc<Vec<u8>>, piece: Rc<Vec<u8>>) -> Option<()> {
        loop {
            let asked = self.head().await?;
            match size(&asked) {
                Size::Bytes(0) => {}
                Size::Bytes(bytes) => self.skip(bytes).await?,
                Size::Chunked => self.skip_chunks().await?,
            }
            let path = asked.strip_prefix(b"GET ").unwrap_or_default();
            let path = path.strip_prefix(b"/open").unwrap_or(path);
            if path.starts_with(b"/echo") {
                self.stream.write_all(&answer(&asked)).await.ok()?;
            } else if let Some(rest) = path.strip_prefix(b"/down/") {
                let digits: Vec<u8> = rest.iter().copied().take_while(u8::is_ascii_digit).collect();
                let mut left: usize = std::str::from_utf8(&digits).ok()?.parse().ok()?;
                self.stream.write_all(&head(left)).await.ok()?;
                while left > 0 {
                    let now = left.min(piece.len());
                    self.stream.write_all(&piece[..now]).await.ok()?;
                    left -= now;
                }
            } else {
                self.stream.write_all(&usual).await.ok()?;
            }
        }
    }
}

fn size(head: &[u8]) -> Size {
    // The requests of the load have neither field, and are not looked at further.
    if memchr::memmem::find(head, b"ength:").is_none() && memchr::memmem::find(head, b"ncoding:").is_none() {
        return Size::Bytes(0);
    }
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    if head.contains("\r\ntransfer-encoding:") {
        return Size::Chunked;
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    Size::Bytes(length.unwrap_or(0))
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let addr: SocketAddr = std::env::args().nth(1).expect("an address").parse().expect("IP:PORT");
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(addr).expect("a free port");
    let listener = socket.listen(4096).unwrap();
    let usual = Rc::new(answer(&[b"x".repeat(1023).as_slice(), b"\n"].concat()));
    let piece = Rc::new(vec![0xa5; PIECE]);
    LocalSet::new()
        .run_until(async {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let wire = Wire { stream, buf: Vec::with_capacity(16 * 1024) };
                tokio::task::spawn_local(wire.converse(Rc::clone(&usual), Rc::clone(&piece)));
            }
        })
        .await;
}
