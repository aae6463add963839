//! A real directory behind a listener that can fail in every way that a network and a bad day have.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use doorkeep::clock::{Clock, ManualClock, UnixTime};
use doorkeep::demo::Directory;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::gate::Gate;
use super::jar::Jar;
use super::wire::{Head, Reader};

/// What goes wrong with a call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing.
    None,
    /// A whole answer that is no decision: status, further lines, body.
    Says(u16, Vec<(&'static str, String)>, String),
    /// The first half of a renewal's JSON, as a whole body.
    HalfJson(Spent),
    /// A renewal's answer, its connection closed half-way through the body.
    Cut(Spent),
    /// More bytes than anybody should read.
    Huge(Spent),
    /// No answer at all, until the caller goes.
    Silence(Spent),
    /// The right answer, once the gate is open.
    Slow(Gate),
    /// The request is heard once the gate is open, and answered rightly.
    Late(Gate),
    /// This body as a 200, whatever was asked.
    Answers(Value),
    /// The right answer, its access token signed with another key.
    Resigned(&'static str),
}

/// Whether the directory acted before its answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spent {
    Yes,
    No,
}

/// A call that came in.
#[derive(Clone, Debug)]
pub struct Call {
    pub path: String,
    pub head: Head,
    pub body: Value,
    pub at: UnixTime,
}

impl Call {
    /// The refresh token that it presented.
    pub fn token(&self) -> &str {
        self.body["refresh"]["token"].as_str().unwrap_or_default()
    }
}

#[derive(Debug)]
struct Inner {
    directory: Arc<Directory>,
    clock: Arc<ManualClock>,
    calls: Mutex<Vec<Call>>,
    fault: Mutex<Fault>,
    next: Mutex<VecDeque<Fault>>,
    busy: AtomicUsize,
    most_busy: AtomicUsize,
    tasks: TaskTracker,
    open: Mutex<Option<CancellationToken>>,
    /// Keeps the port while nobody listens on it.
    _reserved: TcpSocket,
}

/// The session backend.
#[derive(Clone, Debug)]
pub struct Backend {
    pub addr: SocketAddr,
    inner: Arc<Inner>,
}

impl Backend {
    pub fn start(directory: Arc<Directory>, clock: Arc<ManualClock>, tasks: &TaskTracker) -> Self {
        let reserved = socket("127.0.0.1:0".parse().unwrap());
        let addr = reserved.local_addr().unwrap();
        let inner = Inner {
            directory,
            clock,
            calls: Mutex::default(),
            fault: Mutex::new(Fault::None),
            next: Mutex::default(),
            busy: AtomicUsize::new(0),
            most_busy: AtomicUsize::new(0),
            tasks: tasks.clone(),
            open: Mutex::new(None),
            _reserved: reserved,
        };
        let backend = Self { addr, inner: Arc::new(inner) };
        backend.open();
        backend
    }

    /// Listens.
    pub fn open(&self) {
        let stop = CancellationToken::new();
        *self.inner.open.lock().unwrap() = Some(stop.clone());
        let listener = socket(self.addr).listen(1024).unwrap();
        let inner = Arc::clone(&self.inner);
        self.inner.tasks.spawn(async move {
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    () = stop.cancelled() => return,
                };
                let (each, stop) = (Arc::clone(&inner), stop.clone());
                inner.tasks.spawn(async move {
                    tokio::select! {
                        () = converse(stream, &each) => {}
                        () = stop.cancelled() => {}
                    }
                });
            }
        });
    }

    /// Listens no more: connections are refused, open ones end.
    pub async fn close(&self) {
        self.inner.open.lock().unwrap().take().expect("it is open").cancel();
        super::refused(self.addr).await;
    }

    /// What goes wrong from now on.
    pub fn fails(&self, fault: Fault) {
        *self.inner.fault.lock().unwrap() = fault;
    }

    /// What goes wrong with the next calls, one each.
    pub fn fails_next(&self, fault: Fault) {
        self.inner.next.lock().unwrap().push_back(fault);
    }

    /// Renewals that were asked for.
    pub fn renewals(&self) -> Vec<Call> {
        self.calls_to("/renew")
    }

    /// Sign-outs that were asked for.
    pub fn sign_outs(&self) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.path.contains("/signOut/")).collect()
    }

    pub fn calls(&self) -> Vec<Call> {
        self.inner.calls.lock().unwrap().clone()
    }

    fn calls_to(&self, end: &str) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.path.ends_with(end)).collect()
    }

    /// Most calls that were under way at one time.
    pub fn most_busy(&self) -> usize {
        self.inner.most_busy.load(Ordering::SeqCst)
    }

    /// How often the directory saw a spent token.
    pub fn reuses(&self) -> u64 {
        self.inner.directory.reuses()
    }

    /// Signs one of the directory's people in.
    pub async fn sign_in(&self, code: &str) -> Jar {
        let body = json!({"purpose": "login", "user": {"code": code, "password": format!("demo-{code}")}});
        let (_, envelope) = ask(&self.inner.directory, "/directory/api/users/signIn", &[], &body).await;
        let mut jar = Jar::default();
        jar.set("access_token", envelope["data"]["token"].as_str().unwrap());
        jar.set("refresh_token", envelope["data"]["refresh"]["token"].as_str().unwrap());
        jar.set("session_id", envelope["data"]["id"].as_str().unwrap());
        jar
    }

    /// Ends a session behind the gateway's back.
    pub async fn end(&self, jar: &Jar) {
        let path = format!("/directory/api/users/signOut/{}", jar.get("session_id").unwrap());
        let (status, _) = ask(&self.inner.directory, &path, &[], &json!({})).await;
        assert_eq!(status, 200);
    }
}

fn socket(addr: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(addr).unwrap();
    socket
}

async fn ask(directory: &Directory, path: &str, lines: &[(&str, &str)], body: &Value) -> (u16, Value) {
    let mut request = http::Request::post(path).header("content-type", "application/json");
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body.to_string()))).unwrap();
    let (head, body) = directory.answer(request).await.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status.as_u16(), serde_json::from_slice(&body).unwrap())
}

struct Busy<'a>(&'a Inner);

impl<'a> Busy<'a> {
    fn new(inner: &'a Inner) -> Self {
        let now = inner.busy.fetch_add(1, Ordering::SeqCst) + 1;
        inner.most_busy.fetch_max(now, Ordering::SeqCst);
        Self(inner)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn converse(mut stream: TcpStream, inner: &Inner) {
    let mut reader = Reader::default();
    while let Some(head) = reader.head(&mut stream).await {
        let mut bytes = Vec::new();
        let length = head.one("content-length").map_or(0, |n| n.parse().unwrap());
        if !reader.exactly(&mut stream, length, |piece| bytes.extend_from_slice(piece)).await {
            return;
        }
        let path = head.first.split(' ').nth(1).unwrap().to_owned();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let call = Call { path, head, body, at: inner.clock.now() };
        inner.calls.lock().unwrap().push(call.clone());
        let fault = match inner.next.lock().unwrap().pop_front() {
            Some(fault) => fault,
            None => inner.fault.lock().unwrap().clone(),
        };
        let busy = Busy::new(inner);
        let Some(answer) = act(&mut stream, &mut reader, inner, &call, fault).await else { return };
        drop(busy);
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

/// The answer to write, or none where the connection is done with.
async fn act(
    stream: &mut TcpStream,
    reader: &mut Reader,
    inner: &Inner,
    call: &Call,
    fault: Fault,
) -> Option<Vec<u8>> {
    let json =
        |status, body: &Value| written(status, &[("Content-Type", "application/json")], &body.to_string());
    let really = || really(inner, call);
    let acted = |spent| async move {
        match spent {
            Spent::Yes => really().await.1,
            Spent::No => json!({"isSuccess": true, "data": {"id": "x", "token": "y"}}),
        }
    };
    match fault {
        Fault::None => {
            let (status, body) = really().await;
            Some(json(status, &body))
        }
        Fault::Slow(gate) => {
            let (status, body) = really().await;
            gate.pass().await;
            Some(json(status, &body))
        }
        Fault::Late(gate) => {
            gate.pass().await;
            let (status, body) = really().await;
            Some(json(status, &body))
        }
        Fault::Says(status, lines, body) => {
            let lines: Vec<_> = lines.iter().map(|(name, value)| (*name, value.as_str())).collect();
            Some(written(status, &lines, &body))
        }
        Fault::Resigned(key) => {
            let (status, mut body) = really().await;
            let claims = super::token::claims(body["data"]["token"].as_str().unwrap());
            body["data"]["token"] = Value::from(super::token::signed_with(&claims, key));
            Some(json(status, &body))
        }
        Fault::Answers(body) => Some(json(200, &body)),
        Fault::HalfJson(spent) => {
            let body = acted(spent).await.to_string();
            Some(written(200, &[("Content-Type", "application/json")], &body[..body.len() / 2]))
        }
        Fault::Huge(spent) => {
            let body = acted(spent).await.to_string();
            let padded = format!("{},\"padding\":\"{}\"}}", &body[..body.len() - 1], "x".repeat(2 << 20));
            Some(written(200, &[("Content-Type", "application/json")], &padded))
        }
        Fault::Cut(spent) => {
            let body = acted(spent).await;
            let bytes = json(200, &body);
            let _gone = stream.write_all(&bytes[..bytes.len() - body.to_string().len() / 2]).await;
            let _gone = stream.shutdown().await;
            None
        }
        Fault::Silence(spent) => {
            acted(spent).await;
            while matches!(reader.more(stream).await, Ok(n) if n > 0) {}
            None
        }
    }
}

/// What the directory says to a call.
async fn really(inner: &Inner, call: &Call) -> (u16, Value) {
    let tokens = call.head.all("x-access-token").into_iter();
    let lines: Vec<(&str, &str)> = tokens.map(|token| ("x-access-token", token)).collect();
    ask(&inner.directory, &call.path, &lines, &call.body).await
}

fn written(status: u16, lines: &[(&str, &str)], body: &str) -> Vec<u8> {
    super::upstream::answer(&format!("{status} Status"), lines, body)
}
