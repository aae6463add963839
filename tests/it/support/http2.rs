//! HTTP/2 clients: one that keeps the rules, and one that writes whatever frames it is told to.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use super::client::{Ask, Conn, Stream};
use super::{HOST, within};

/// A client that keeps the rules.
pub struct H2 {
    pub send: SendRequest<Bytes>,
    pub connection: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

/// What came back.
#[derive(Debug)]
pub struct H2Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
}

impl H2Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn line(&self, name: &str) -> Option<&str> {
        assert!(self.headers.get_all(name).iter().count() < 2, "{name} came more than once");
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?} {}", self.headers, self.text());
        self
    }
}

impl H2 {
    /// By prior knowledge.
    pub async fn open(addr: SocketAddr) -> Self {
        Self::over(within("a connection", TcpStream::connect(addr)).await.unwrap()).await
    }

    pub async fn over(stream: impl Stream + 'static) -> Self {
        Self::with(h2::client::Builder::new(), stream).await
    }

    pub async fn with(builder: h2::client::Builder, stream: impl Stream + 'static) -> Self {
        let (send, connection) = within("a preface", builder.handshake(stream)).await.unwrap();
        Self { send, connection: TaskTracker::new().spawn(connection) }
    }

    /// Begins a request whose body is still to come.
    pub async fn begin(&mut self, request: Request<()>) -> (ResponseFuture, SendStream<Bytes>) {
        self.send = within("room for a stream", self.send.clone().ready()).await.unwrap();
        self.send.send_request(request, false).unwrap()
    }

    pub async fn ask(&mut self, ask: &Ask) -> H2Answer {
        self.try_ask(ask).await.unwrap()
    }

    pub async fn try_ask(&mut self, ask: &Ask) -> Result<H2Answer, h2::Error> {
        let request = request(ask);
        self.send = within("room for a stream", self.send.clone().ready()).await?;
        let (response, mut body) = self.send.send_request(request, ask.body.is_none())?;
        if let Some(bytes) = &ask.body {
            body.send_data(Bytes::from(bytes.clone()), true)?;
        }
        whole(within("an answer", response).await?).await
    }
}

/// The same request in HTTP/2's form.
pub fn request(ask: &Ask) -> Request<()> {
    let mut request = Request::builder()
        .method(ask.method.as_str())
        .uri(format!("https://{HOST}{}", ask.target))
        .version(http::Version::HTTP_2);
    for (name, value) in ask.lines.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("host")) {
        request = request.header(name.as_str(), value.as_str());
    }
    if let Some(body) = &ask.body {
        request = request.header("content-length", body.len());
    }
    request.body(()).unwrap()
}

/// Reads an answer to its end.
pub async fn whole(response: Response<RecvStream>) -> Result<H2Answer, h2::Error> {
    let (head, mut stream) = response.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = within("a piece of an answer", stream.data()).await {
        let piece = piece?;
        body.extend_from_slice(&piece);
        stream.flow_control().release_capacity(piece.len())?;
    }
    let trailers = within("trailers", stream.trailers()).await?.unwrap_or_default();
    Ok(H2Answer { status: head.status.as_u16(), headers: head.headers, body, trailers })
}

/// A frame (RFC 9113 §4.1).
#[derive(Clone, Debug)]
pub struct RawFrame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A client that writes whatever frames it is told to.
pub struct Frames {
    pub conn: Conn,
    /// Whether questions of the other end are answered.
    pub polite: bool,
}

impl Frames {
    pub async fn open(addr: SocketAddr) -> Self {
        let mut conn = Conn::open(addr).await;
        conn.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        let mut frames = Self { conn, polite: true };
        frames.send(SETTINGS, 0, 0, &[]).await;
        frames
    }

    /// Sends a frame; the other end may have had enough already.
    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.conn.send_if_wanted(&bytes(kind, flags, stream, payload)).await;
    }

    /// Sends a head in one frame.
    pub async fn head(&mut self, stream: u32, flags: u8, fields: &[(&[u8], &[u8])]) {
        self.send(HEADERS, flags | END_HEADERS, stream, &block(fields)).await;
    }

    /// The next frame; `None` at the connection's end.
    pub async fn next(&mut self) -> Option<RawFrame> {
        loop {
            let frame = within("a frame", self.read()).await?;
            match (frame.kind, frame.flags & 1) {
                (SETTINGS, 0) if self.polite => self.send(SETTINGS, 1, 0, &[]).await,
                (PING, 0) if self.polite => self.send(PING, 1, 0, &frame.payload).await,
                (SETTINGS | PING, _) => {}
                (_, _) => return Some(frame),
            }
        }
    }

    async fn read(&mut self) -> Option<RawFrame> {
        while self.conn.reader.buf.len() < 9 {
            if !matches!(self.conn.reader.more(&mut self.conn.stream).await, Ok(n) if n > 0) {
                return None;
            }
        }
        let head: Vec<u8> = self.conn.reader.buf.drain(..9).collect();
        let length = u64::from(u32::from_be_bytes([0, head[0], head[1], head[2]]));
        let mut payload = Vec::new();
        let took = |piece: &[u8]| payload.extend_from_slice(piece);
        if !self.conn.reader.exactly(&mut self.conn.stream, length, took).await {
            return None;
        }
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(RawFrame { kind: head[3], flags: head[4], stream, payload })
    }

    /// What becomes of a stream: the status of its answer, or how it ended.
    pub async fn outcome(&mut self, stream: u32) -> Outcome {
        loop {
            let Some(frame) = self.next().await else { return Outcome::Closed };
            match frame.kind {
                HEADERS if frame.stream == stream => return Outcome::Status(status(&frame.payload)),
                RST_STREAM if frame.stream == stream => return Outcome::Reset,
                GOAWAY => return Outcome::Closed,
                _ => {}
            }
        }
    }
}

/// How a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Status(u16),
    Reset,
    Closed,
}

/// A frame's bytes.
pub fn bytes(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Fields, each as a literal without indexing (RFC 7541 §6.2.2).
pub fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            length(&mut block, text.len());
            block.extend_from_slice(text);
        }
    }
    block
}

/// A length with a prefix of seven bits (RFC 7541 §5.1).
fn length(block: &mut Vec<u8>, mut length: usize) {
    if length < 127 {
        block.push(u8::try_from(length).unwrap());
        return;
    }
    block.push(127);
    length -= 127;
    while length >= 128 {
        block.push(u8::try_from(length % 128).unwrap() | 128);
        length /= 128;
    }
    block.push(u8::try_from(length).unwrap());
}

/// The status that a block begins with: in the static table, or a literal in digits, Huffman-coded or not (RFC 7541 §5.2).
fn status(block: &[u8]) -> u16 {
    // The dynamic table's size may be set first.
    let block = if block[0] & 0xe0 == 0x20 { &block[1..] } else { block };
    match block[0] {
        0x88 => 200,
        0x89 => 204,
        0x8a => 206,
        0x8b => 304,
        0x8c => 400,
        0x8d => 404,
        0x8e => 500,
        indexed if indexed & 0x80 != 0 => 0,
        _ => digits(&block[1..]),
    }
}

fn digits(text: &[u8]) -> u16 {
    let bytes = &text[1..=usize::from(text[0] & 0x7f)];
    if text[0] & 0x80 == 0 {
        return String::from_utf8_lossy(bytes).parse().unwrap();
    }
    // Digits have codes of five bits (0, 1, 2) and of six (3 to 9): RFC 7541, appendix B.
    let mut bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |n| u16::from(byte >> n & 1)));
    let mut take = |count: usize| bits.by_ref().take(count).fold(0, |all, bit| all << 1 | bit);
    let mut number = 0;
    for _ in 0..3 {
        let five = take(5);
        number = number * 10 + if five < 3 { five } else { (five << 1 | take(1)) - 0b01_1001 + 3 };
    }
    number
}

/// The pseudo-fields of a request that is in order.
pub fn pseudo<'a>(method: &'a str, path: &'a str) -> Vec<(&'a [u8], &'a [u8])> {
    vec![
        (b":method", method.as_bytes()),
        (b":scheme", b"https"),
        (b":authority", HOST.as_bytes()),
        (b":path", path.as_bytes()),
    ]
}
