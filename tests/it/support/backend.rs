//! A session backend behind a listener that can fail in every way that a network and a bad day have. Which wire it speaks
//! is its issuer's affair: see [`Issuer`].

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use doorkeep::clock::{Clock, ManualClock, UnixTime};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::gate::Gate;
use super::issuer::{BackendLines, Issuer, Said};
use super::jar::Jar;
use super::keys::Signer;
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

/// Whether the backend acted before its answer was lost.
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
    /// The body as it came.
    pub text: String,
    pub at: UnixTime,
    /// The refresh token that it presented, if it was a renewal.
    pub presented: Option<String>,
}

impl Call {
    /// The refresh token that it presented.
    pub fn token(&self) -> &str {
        self.presented.as_deref().unwrap_or_default()
    }

    /// The body as JSON; null where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }
}

#[derive(Debug)]
struct Inner {
    issuer: Arc<dyn Issuer>,
    clock: Arc<ManualClock>,
    calls: Mutex<Vec<Call>>,
    fault: Mutex<Fault>,
    next: Mutex<VecDeque<Fault>>,
    signer: Mutex<Option<Signer>>,
    busy: AtomicUsize,
    most_busy: AtomicUsize,
    tasks: TaskTracker,
    open: Mutex<Option<CancellationToken>>,
    /// Keeps the port while nobody listens on it.
    _reserved: TcpSocket,
}

impl Inner {
    /// Signs the access token of an answer with the key of the day, where there is one.
    fn sign(&self, body: &mut Value) {
        if let (Some(signer), Some(token)) =
            (&*self.signer.lock().unwrap(), body.pointer_mut(self.issuer.access_token_at()))
            && let Some(text) = token.as_str()
        {
            *token = Value::from(signer.sign(&super::token::claims(text)));
        }
    }
}

/// The session backend.
#[derive(Clone, Debug)]
pub struct Backend {
    pub addr: SocketAddr,
    inner: Arc<Inner>,
}

impl Backend {
    pub fn start(issuer: Arc<dyn Issuer>, clock: Arc<ManualClock>, tasks: &TaskTracker) -> Self {
        let reserved = socket("127.0.0.1:0".parse().unwrap());
        let addr = reserved.local_addr().unwrap();
        let inner = Inner {
            issuer,
            clock,
            calls: Mutex::default(),
            fault: Mutex::new(Fault::None),
            next: Mutex::default(),
            signer: Mutex::default(),
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

    /// Access tokens are signed with this key from now on, instead of the shared secret.
    pub fn signs_with(&self, signer: &Signer) {
        *self.inner.signer.lock().unwrap() = Some(signer.clone());
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
        self.calls().into_iter().filter(|call| call.presented.is_some()).collect()
    }

    /// Sign-outs that were asked for.
    pub fn sign_outs(&self) -> Vec<Call> {
        self.calls().into_iter().filter(|call| self.inner.issuer.is_sign_out(call)).collect()
    }

    pub fn calls(&self) -> Vec<Call> {
        self.inner.calls.lock().unwrap().clone()
    }

    /// Most calls that were under way at one time.
    pub fn most_busy(&self) -> usize {
        self.inner.most_busy.load(Ordering::SeqCst)
    }

    /// How often it saw a spent token.
    pub fn reuses(&self) -> u64 {
        self.inner.issuer.reuses()
    }

    /// Signs one of its people in.
    pub async fn sign_in(&self, user: &str) -> Jar {
        let mut jar = self.inner.issuer.sign_in(user).await;
        if let Some(signer) = &*self.inner.signer.lock().unwrap() {
            let claims = super::token::claims(jar.get("access_token").unwrap());
            jar.set("access_token", &signer.sign(&claims));
        }
        jar
    }

    /// Ends a session behind the gateway's back.
    pub async fn end(&self, jar: &Jar) {
        self.inner.issuer.end(jar).await;
    }

    /// The lines of settings that a gateway before it needs.
    pub fn settings(&self) -> BackendLines {
        self.inner.issuer.settings(self.addr)
    }
}

fn socket(addr: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(addr).unwrap();
    socket
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
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let mut call = Call { path, head, text, at: inner.clock.now(), presented: None };
        call.presented = inner.issuer.presented(&call);
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
    let issuer = &inner.issuer;
    let really = || async {
        let mut said = issuer.answer(call).await;
        inner.sign(&mut said.body);
        said
    };
    let acted = |spent| async move {
        match spent {
            Spent::Yes => really().await.body,
            Spent::No => issuer.without_tokens(),
        }
    };
    match fault {
        Fault::None => Some(spoken(&really().await)),
        Fault::Slow(gate) => {
            let said = really().await;
            gate.pass().await;
            Some(spoken(&said))
        }
        Fault::Late(gate) => {
            gate.pass().await;
            Some(spoken(&really().await))
        }
        Fault::Says(status, lines, body) => {
            let lines: Vec<_> = lines.iter().map(|(name, value)| (*name, value.as_str())).collect();
            Some(written(status, &lines, &body))
        }
        Fault::Resigned(key) => {
            let mut said = really().await;
            let token = said.body.pointer_mut(issuer.access_token_at()).expect("an access token");
            let claims = super::token::claims(token.as_str().unwrap());
            *token = Value::from(super::token::signed_with(&claims, key));
            Some(spoken(&said))
        }
        Fault::Answers(body) => Some(spoken(&Said::json(200, body))),
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
            let bytes = spoken(&Said::json(200, body.clone()));
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

fn spoken(said: &Said) -> Vec<u8> {
    let mut lines = vec![("Content-Type", "application/json")];
    lines.extend(said.lines.iter().map(|(name, value)| (*name, value.as_str())));
    written(said.status, &lines, &said.body.to_string())
}

fn written(status: u16, lines: &[(&str, &str)], body: &str) -> Vec<u8> {
    super::upstream::answer(&format!("{status} Status"), lines, body)
}
