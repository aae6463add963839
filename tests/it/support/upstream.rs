//! An app that records every byte of what reaches it and answers as it is told.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::gate::Gate;
use super::wire::{Head, Reader};

/// A request that reached the app.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub head: Head,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    pub state: State,
}

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Arriving,
    Whole,
    Cut,
}

impl Seen {
    pub fn line(&self, name: &str) -> Option<&str> {
        self.head.one(name)
    }
}

/// What the app does about a request.
#[derive(Clone, Debug)]
pub enum Step {
    /// Reads the request's body: the first step where no other is.
    ReadBody,
    /// Writes.
    Send(Vec<u8>),
    /// Writes the same piece so many times.
    Repeat(Vec<u8>, usize),
    /// Waits.
    Wait(Gate),
    /// Closes the connection.
    Close,
    /// Says and reads nothing more until the other end closes.
    Hang,
}

#[derive(Debug, Default)]
struct Record {
    seen: Mutex<Vec<Seen>>,
    plays: Mutex<HashMap<String, Vec<Step>>>,
    connections: AtomicUsize,
    ended: AtomicUsize,
    sent: AtomicUsize,
}

/// The app.
#[derive(Clone, Debug)]
pub struct Upstream {
    pub addr: SocketAddr,
    record: Arc<Record>,
}

impl Upstream {
    pub async fn start(tasks: &TaskTracker) -> Self {
        Self::start_with(tasks, None).await
    }

    pub async fn start_with(tasks: &TaskTracker, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let record: Arc<Record> = Arc::default();
        let upstream = Self { addr, record: Arc::clone(&record) };
        let tracker = tasks.clone();
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                record.connections.fetch_add(1, Ordering::SeqCst);
                let (record, tls) = (Arc::clone(&record), tls.clone());
                tracker.spawn(async move {
                    match tls {
                        None => converse(stream, &record).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                converse(stream, &record).await;
                            }
                        }
                    }
                    record.ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        upstream
    }

    /// What to do about requests whose path begins so. The longest beginning counts.
    pub fn on(&self, path: &str, steps: Vec<Step>) {
        self.record.plays.lock().unwrap().insert(path.to_owned(), steps);
    }

    /// Answers requests for that path with these bytes.
    pub fn answers(&self, path: &str, bytes: Vec<u8>) {
        self.on(path, vec![Step::ReadBody, Step::Send(bytes)]);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.record.seen.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.record.seen.lock().unwrap().len()
    }

    pub fn last(&self) -> Seen {
        self.seen().pop().expect("a request that reached the app")
    }

    pub fn connections(&self) -> usize {
        self.record.connections.load(Ordering::SeqCst)
    }

    /// Bytes that it could write so far.
    pub fn sent(&self) -> usize {
        self.record.sent.load(Ordering::SeqCst)
    }

    pub fn ended(&self) -> usize {
        self.record.ended.load(Ordering::SeqCst)
    }
}

async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, record: &Record) {
    let mut reader = Reader::default();
    while let Some(head) = reader.head(&mut stream).await {
        let mut words = head.first.split(' ');
        let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
        let steps = play(record, &target);
        let seen = Seen {
            method,
            target,
            head: head.clone(),
            body: Vec::new(),
            trailers: Vec::new(),
            state: State::Arriving,
        };
        let index = {
            let mut all = record.seen.lock().unwrap();
            all.push(seen);
            all.len() - 1
        };
        for step in steps {
            let goes_on = match step {
                Step::ReadBody => read_body(&mut stream, &mut reader, &head, index, record).await,
                Step::Send(bytes) => send(&mut stream, &bytes, record).await,
                Step::Repeat(bytes, times) => {
                    let mut left = times;
                    while left > 0 && send(&mut stream, &bytes, record).await {
                        left -= 1;
                    }
                    left == 0
                }
                Step::Wait(gate) => {
                    gate.pass().await;
                    true
                }
                Step::Close => {
                    let _gone = stream.shutdown().await;
                    false
                }
                Step::Hang => {
                    while matches!(reader.more(&mut stream).await, Ok(n) if n > 0) {}
                    false
                }
            };
            if !goes_on {
                return;
            }
        }
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8], record: &Record) -> bool {
    let sent = stream.write_all(bytes).await.is_ok() && stream.flush().await.is_ok();
    record.sent.fetch_add(bytes.len(), Ordering::SeqCst);
    sent
}

fn play(record: &Record, target: &str) -> Vec<Step> {
    let path = target.split('?').next().unwrap_or_default();
    let plays = record.plays.lock().unwrap();
    let told =
        plays.iter().filter(|(begin, _)| path.starts_with(*begin)).max_by_key(|(begin, _)| begin.len());
    match told {
        Some((_, steps)) => steps.clone(),
        None => vec![Step::ReadBody, Step::Send(ok(&format!("app: {target}\n")))],
    }
}

async fn read_body(
    stream: &mut (impl AsyncRead + Unpin),
    reader: &mut Reader,
    head: &Head,
    index: usize,
    record: &Record,
) -> bool {
    let took = |piece: &[u8]| record.seen.lock().unwrap()[index].body.extend_from_slice(piece);
    let whole = if head.one("transfer-encoding").is_some() {
        let trailers = reader.chunks(stream, took).await;
        let whole = trailers.is_some();
        record.seen.lock().unwrap()[index].trailers = trailers.unwrap_or_default();
        whole
    } else {
        let length = head.one("content-length").map_or(0, |n| n.parse().unwrap());
        reader.exactly(stream, length, took).await
    };
    record.seen.lock().unwrap()[index].state = if whole { State::Whole } else { State::Cut };
    whole
}

/// A head with its blank line.
pub fn head_of(status: &str, lines: &[(&str, &str)]) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status}\r\n");
    for (name, value) in lines {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    (text + "\r\n").into_bytes()
}

/// A whole answer with its length.
pub fn answer(status: &str, lines: &[(&str, &str)], body: &str) -> Vec<u8> {
    let length = body.len().to_string();
    let mut all = lines.to_vec();
    all.push(("Content-Length", &length));
    let mut bytes = head_of(status, &all);
    bytes.extend_from_slice(body.as_bytes());
    bytes
}

pub fn ok(body: &str) -> Vec<u8> {
    answer("200 OK", &[("Content-Type", "text/plain")], body)
}
