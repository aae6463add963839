//! A client that sees the exact bytes and can hang up whenever it likes.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::jar::Jar;
use super::wire::{Head, Reader};
use super::{HOST, within};

/// A request to make.
#[derive(Clone, Debug)]
pub struct Ask {
    pub method: String,
    pub target: String,
    pub lines: Vec<(String, String)>,
    pub body: Option<Vec<u8>>,
}

impl Ask {
    pub fn new(method: &str, target: &str) -> Self {
        let lines = vec![("Host".to_owned(), HOST.to_owned())];
        Self { method: method.to_owned(), target: target.to_owned(), lines, body: None }
    }

    /// A browser opening a page.
    pub fn page(target: &str) -> Self {
        Self::new("GET", target)
            .line("Accept", "text/html,application/xhtml+xml")
            .line("Sec-Fetch-Mode", "navigate")
            .line("Sec-Fetch-Site", "none")
    }

    /// A script of the site asking.
    pub fn script(target: &str) -> Self {
        Self::new("GET", target)
            .line("Accept", "*/*")
            .line("Sec-Fetch-Mode", "cors")
            .line("Sec-Fetch-Site", "same-origin")
    }

    /// A form of the site being sent.
    pub fn form(target: &str, body: &str) -> Self {
        Self::new("POST", target)
            .line("Accept", "text/html")
            .line("Sec-Fetch-Mode", "navigate")
            .line("Sec-Fetch-Site", "same-origin")
            .line("Content-Type", "application/x-www-form-urlencoded")
            .body(body.as_bytes())
    }

    /// A WebSocket handshake of the site's page.
    pub fn websocket(target: &str) -> Self {
        Self::new("GET", target)
            .line("Connection", "keep-alive, Upgrade")
            .line("Upgrade", "websocket")
            .line("Sec-WebSocket-Version", "13")
            .line("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
            .line("Origin", super::ORIGIN)
    }

    pub fn method(mut self, method: &str) -> Self {
        method.clone_into(&mut self.method);
        self
    }

    pub fn line(mut self, name: &str, value: &str) -> Self {
        self.lines.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Replaces a line, or takes it away.
    pub fn with(mut self, name: &str, value: Option<&str>) -> Self {
        self.lines.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        match value {
            Some(value) => self.line(name, value),
            None => self,
        }
    }

    pub fn jar(self, jar: &Jar) -> Self {
        match jar.line() {
            Some(line) => self.line("Cookie", &line),
            None => self,
        }
    }

    pub fn body(mut self, body: &[u8]) -> Self {
        self.body = Some(body.to_vec());
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.lines {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = &self.body {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        let mut bytes = (text + "\r\n").into_bytes();
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub head: Head,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// Whether the body came to its proper end.
    pub whole: bool,
}

impl Answer {
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.head.all(name)
    }

    pub fn line(&self, name: &str) -> Option<&str> {
        self.head.one(name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn set_cookies(&self) -> Vec<&str> {
        self.all("set-cookie")
    }

    /// The value that a cookie is set to by this answer.
    pub fn cookie(&self, name: &str) -> Option<&str> {
        let begin = format!("{name}=");
        self.set_cookies()
            .into_iter()
            .find_map(|line| line.strip_prefix(&begin))
            .map(|rest| rest.split(';').next().unwrap_or_default())
    }

    /// The cookies that are deleted.
    pub fn deleted(&self) -> Vec<&str> {
        self.set_cookies()
            .into_iter()
            .filter(|line| line.contains("Max-Age=0"))
            .map(|line| line.split('=').next().unwrap_or_default())
            .collect()
    }

    /// Whether no cache may keep it.
    pub fn is_never_stored(&self) -> bool {
        self.line("cache-control").is_some_and(|line| line.split(',').any(|item| item.trim() == "no-store"))
    }

    /// Asserts the status; a failure shows the whole answer.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}{}", String::from_utf8_lossy(&self.head.raw), self.text());
        self
    }
}

/// Bytes both ways.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection to the gateway.
pub struct Conn {
    pub stream: Box<dyn Stream>,
    pub reader: Reader,
}

impl Conn {
    pub async fn open(addr: SocketAddr) -> Self {
        let stream = within("a connection", TcpStream::connect(addr)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    /// A connection over something that is open already.
    pub fn over(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), reader: Reader::default() }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        within("sending", self.stream.write_all(bytes)).await.unwrap();
    }

    /// Sends where the other end may have had enough already.
    pub async fn send_if_wanted(&mut self, bytes: &[u8]) {
        let _had_enough = within("sending", self.stream.write_all(bytes)).await;
    }

    /// The next head; `None` where the connection ends.
    pub async fn head(&mut self) -> Option<Head> {
        within("an answer's head", self.reader.head(&mut self.stream)).await
    }

    /// The next answer to a request of that method, interim ones skipped; `None` where the connection ends before its head.
    pub async fn try_answer(&mut self, method: &str) -> Option<Answer> {
        let mut head = self.head().await?;
        while status(&head) / 100 == 1 && status(&head) != 101 {
            head = self.head().await?;
        }
        Some(within("an answer's body", self.rest(head, method)).await)
    }

    pub async fn answer(&mut self, method: &str) -> Answer {
        self.try_answer(method).await.expect("an answer")
    }

    /// Makes a request and waits for its answer.
    pub async fn ask(&mut self, ask: &Ask) -> Answer {
        self.send(&ask.bytes()).await;
        self.answer(&ask.method).await
    }

    async fn rest(&mut self, head: Head, method: &str) -> Answer {
        let status = status(&head);
        let mut body = Vec::new();
        let mut trailers = Vec::new();
        let none = method == "HEAD" || matches!(status, 101 | 204 | 304);
        let whole = if none {
            true
        } else if head.one("transfer-encoding").is_some() {
            let came = self.reader.chunks(&mut self.stream, |piece| body.extend_from_slice(piece)).await;
            let whole = came.is_some();
            trailers = came.unwrap_or_default();
            whole
        } else if let Some(length) = head.one("content-length") {
            let length = length.parse().unwrap();
            self.reader.exactly(&mut self.stream, length, |piece| body.extend_from_slice(piece)).await
        } else {
            while matches!(self.reader.more(&mut self.stream).await, Ok(n) if n > 0) {}
            body.append(&mut self.reader.buf);
            true
        };
        Answer { status, head, body, trailers, whole }
    }

    /// Whether the other end has not closed within some milliseconds; what it says is dropped.
    pub async fn stream_is_open(&mut self) -> bool {
        let more = tokio::time::timeout(Duration::from_millis(20), self.reader.more(&mut self.stream)).await;
        !matches!(more, Ok(Ok(0) | Err(_)))
    }

    /// Waits until the other end closes, and asserts that it says nothing more.
    pub async fn closed(&mut self) {
        within("the connection's end", async {
            while matches!(self.reader.more(&mut self.stream).await, Ok(n) if n > 0) {}
        })
        .await;
        let left = String::from_utf8_lossy(&self.reader.buf);
        assert!(left.is_empty(), "more came before the end: {left}");
    }
}

fn status(head: &Head) -> u16 {
    let code = head.first.split(' ').nth(1).and_then(|code| code.parse().ok());
    code.unwrap_or_else(|| panic!("no status line: {}", head.first))
}
