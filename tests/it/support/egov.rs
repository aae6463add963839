//! An egov-user that keeps its tokens in memory, and an app that asks it about each token: both fail on demand.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use doorkeep::clock::{Clock, ManualClock, UnixTime};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::backend::{Fault, Spent};
use super::gate::Gate;
use super::jar::Jar;
use super::wire::{Head, Reader};

/// How long access tokens live.
pub const LIFE: u64 = 600;

/// A call that came in.
#[derive(Clone, Debug)]
pub struct Call {
    pub path: String,
    pub head: Head,
    pub form: HashMap<String, String>,
    pub json: Value,
}

#[derive(Debug, Default)]
struct State {
    made: u32,
    /// Refresh token of each access token, and when it ends.
    access: HashMap<String, (String, UnixTime)>,
    /// User of each refresh token.
    refresh: HashMap<String, String>,
    calls: Vec<Call>,
    faults: HashMap<&'static str, Fault>,
    /// Requests that the strict app refused.
    refusals: usize,
    /// Whether renewals name the user.
    silent_about_users: bool,
    stop: Option<CancellationToken>,
}

/// The service.
#[derive(Clone, Debug)]
pub struct Egov {
    pub addr: SocketAddr,
    state: Arc<Mutex<State>>,
    clock: Arc<ManualClock>,
    tasks: TaskTracker,
    _reserved: Arc<TcpSocket>,
}

fn socket(addr: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(addr).unwrap();
    socket
}

impl Egov {
    pub fn start(clock: Arc<ManualClock>, tasks: &TaskTracker) -> Self {
        let reserved = socket("127.0.0.1:0".parse().unwrap());
        let addr = reserved.local_addr().unwrap();
        let egov =
            Self { addr, state: Arc::default(), clock, tasks: tasks.clone(), _reserved: Arc::new(reserved) };
        egov.open();
        egov
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Listens.
    pub fn open(&self) {
        let stop = CancellationToken::new();
        self.state().stop = Some(stop.clone());
        let listener = socket(self.addr).listen(1024).unwrap();
        let this = self.clone();
        self.tasks.spawn(async move {
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    () = stop.cancelled() => return,
                };
                let (each, stop) = (this.clone(), stop.clone());
                this.tasks.spawn(async move {
                    tokio::select! {
                        () = each.converse(stream) => {}
                        () = stop.cancelled() => {}
                    }
                });
            }
        });
    }

    /// Listens no more.
    pub async fn close(&self) {
        self.state().stop.take().expect("it is open").cancel();
        super::refused(self.addr).await;
    }

    /// What goes wrong with calls whose path ends so.
    pub fn fails(&self, path: &'static str, fault: Fault) {
        self.state().faults.insert(path, fault);
    }

    /// Renewals say nothing of whom the tokens belong to.
    pub fn names_nobody(&self) {
        self.state().silent_about_users = true;
    }

    /// Calls whose path ends so.
    pub fn calls(&self, end: &str) -> Vec<Call> {
        self.state().calls.iter().filter(|call| call.path.ends_with(end)).cloned().collect()
    }

    /// Signs somebody in: as the service does, a second time with the same pair.
    pub fn sign_in(&self, user: &str) -> Jar {
        let (access, refresh) = begin(&mut self.state(), user, self.clock.now());
        let mut jar = Jar::default();
        jar.set("access_token", &access);
        jar.set("refresh_token", &refresh);
        jar
    }

    /// Ends an access token behind the gateway's back.
    pub fn end(&self, access: &str) {
        self.state().access.remove(access).expect("it was there");
    }

    /// Ends a refresh token behind the gateway's back.
    pub fn end_refresh(&self, refresh: &str) {
        self.state().refresh.remove(refresh).expect("it was there");
    }

    pub fn refusals(&self) -> usize {
        self.state().refusals
    }

    pub fn is_live(&self, access: &str) -> bool {
        let now = self.clock.now();
        self.state().access.get(access).is_some_and(|(_, ends)| now < *ends)
    }

    async fn converse(&self, mut stream: TcpStream) {
        let mut reader = Reader::default();
        while let Some(head) = reader.head(&mut stream).await {
            let mut bytes = Vec::new();
            let length = head.one("content-length").map_or(0, |n| n.parse().unwrap());
            if !reader.exactly(&mut stream, length, |piece| bytes.extend_from_slice(piece)).await {
                return;
            }
            let path = head.first.split(' ').nth(1).unwrap().to_owned();
            let form = url::form_urlencoded::parse(&bytes).into_owned().collect();
            let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            let call = Call { path, head, form, json };
            let fault = {
                let mut state = self.state();
                state.calls.push(call.clone());
                let told = state.faults.iter().find(|(end, _)| call.path.ends_with(**end));
                told.map_or(Fault::None, |(_, fault)| fault.clone())
            };
            let Some(answer) = self.act(&mut stream, &mut reader, &call, fault).await else { return };
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
    }

    async fn act(
        &self,
        stream: &mut TcpStream,
        reader: &mut Reader,
        call: &Call,
        fault: Fault,
    ) -> Option<Vec<u8>> {
        let acted = |spent| match spent {
            Spent::Yes => self.really(call).1,
            Spent::No => json!({"access_token": "x", "refresh_token": "y", "userName": "z"}),
        };
        match fault {
            Fault::None => {
                let (status, body) = self.really(call);
                Some(written(status, &body.to_string()))
            }
            Fault::Says(status, lines, body) => {
                let lines: Vec<_> = lines.iter().map(|(name, value)| (*name, value.as_str())).collect();
                Some(super::upstream::answer(&format!("{status} Status"), &lines, &body))
            }
            Fault::Answers(body) => Some(written(200, &body.to_string())),
            Fault::HalfJson(spent) => {
                let body = acted(spent).to_string();
                Some(written(200, &body[..body.len() / 2]))
            }
            Fault::Huge(spent) => {
                let body = acted(spent).to_string();
                Some(written(
                    200,
                    &format!("{},\"padding\":\"{}\"}}", &body[..body.len() - 1], "x".repeat(2 << 20)),
                ))
            }
            Fault::Cut(spent) => {
                let body = acted(spent).to_string();
                let bytes = written(200, &body);
                let _gone = stream.write_all(&bytes[..bytes.len() - body.len() / 2]).await;
                let _gone = stream.shutdown().await;
                None
            }
            Fault::Silence(spent) => {
                acted(spent);
                while matches!(reader.more(stream).await, Ok(n) if n > 0) {}
                None
            }
            Fault::Slow(gate) | Fault::Late(gate) => {
                gate.pass().await;
                let (status, body) = self.really(call);
                Some(written(status, &body.to_string()))
            }
            Fault::Resigned(_) => panic!("nothing here is signed"),
        }
    }

    /// What the service says to a call.
    fn really(&self, call: &Call) -> (u16, Value) {
        let mut state = self.state();
        let now = self.clock.now();
        let unknown = |_: &str| {
            (400, json!({"ResponseInfo": null, "Errors": [{"code": "InvalidAccessTokenException"}]}))
        };
        let given = |name: &str| call.form.get(name).cloned().unwrap_or_default();
        match call.path.as_str() {
            "/user/oauth/token" => {
                if call.head.one("authorization") != Some("Basic ZWdvdi11c2VyLWNsaWVudDo=") {
                    return (401, json!({"status": 401, "error": "Unauthorized"}));
                }
                if given("grant_type") == "password" {
                    return with_password(&mut state, &call.form, now);
                }
                let refresh = given("refresh_token");
                let Some(user) = state.refresh.get(&refresh).cloned() else {
                    let said = format!("Invalid refresh token: {refresh}");
                    return (400, json!({"error": "invalid_grant", "error_description": said}));
                };
                state.access.retain(|_, (of, _)| *of != refresh);
                let access = issue(&mut state, &refresh, now);
                let mut answer = json!({
                    "access_token": access, "token_type": "bearer", "refresh_token": refresh,
                    "expires_in": LIFE, "scope": "read",
                });
                if !state.silent_about_users {
                    answer["UserRequest"] = who(&user);
                }
                (200, answer)
            }
            "/user/_details" => {
                let access = given("access_token");
                match state.access.get(&access) {
                    Some((refresh, ends)) if now < *ends => (200, who(&state.refresh[refresh])),
                    Some(_) | None => unknown(&access),
                }
            }
            "/user/_logout" => {
                let access = call.json["access_token"].as_str().unwrap_or_default();
                let live = state.access.get(access).is_some_and(|(_, ends)| now < *ends);
                match live.then(|| state.access.remove(access)) {
                    Some(_) => (200, json!({"status": "Logout successfully"})),
                    None => (400, json!({"error": {"code": 400, "description": "Logout failed"}})),
                }
            }
            other => panic!("no such call: {other}"),
        }
    }
}

/// Everybody's password is `p-` and the name.
fn with_password(state: &mut State, form: &HashMap<String, String>, now: UnixTime) -> (u16, Value) {
    let given = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let refused = |said: &str| (400, json!({"error": "invalid_request", "error_description": said}));
    let user = given("username");
    assert!(!form.contains_key("isInternal"), "it would skip the password");
    match (given("tenantId"), given("userType")) {
        ("", _) => refused("TenantId is mandatory"),
        (_, "CITIZEN" | "EMPLOYEE") if given("password") == format!("p-{user}") => {
            let (access, refresh) = begin(state, user, now);
            let ends = state.access[&access].1;
            let expires_in = ends.since(now).as_secs();
            let answer = json!({
                "access_token": access, "token_type": "bearer", "refresh_token": refresh,
                "expires_in": expires_in, "scope": "read", "UserRequest": who(user),
            });
            (200, answer)
        }
        (_, _) => refused("Invalid login credentials"),
    }
}

/// A session's tokens: the same for every browser of a user.
fn begin(state: &mut State, user: &str, now: UnixTime) -> (String, String) {
    let live = state.access.iter().find(|(_, (refresh, ends))| {
        now < *ends && state.refresh.get(refresh).is_some_and(|whose| whose == user)
    });
    match live {
        Some((access, (refresh, _))) => (access.clone(), refresh.clone()),
        None => {
            state.made += 1;
            let refresh = format!("r-{user}-{}", state.made);
            state.refresh.insert(refresh.clone(), user.to_owned());
            (issue(state, &refresh, now), refresh)
        }
    }
}

fn issue(state: &mut State, refresh: &str, now: UnixTime) -> String {
    state.made += 1;
    let access = format!("a-{}-of-{refresh}", state.made);
    let ends = now.saturating_add(std::time::Duration::from_secs(LIFE));
    state.access.insert(access.clone(), (refresh.to_owned(), ends));
    access
}

fn who(user: &str) -> Value {
    json!({
        "id": 1, "uuid": format!("uuid-{user}"), "userName": user, "name": user, "type": "CITIZEN",
        "roles": [{"name": "Citizen", "code": "CITIZEN", "tenantId": "pb"},
                  {"name": "Clerk", "code": "CLERK", "tenantId": "pb"}],
        "active": true, "tenantId": "pb",
    })
}

fn written(status: u16, body: &str) -> Vec<u8> {
    super::upstream::answer(&format!("{status} Status"), &[("Content-Type", "application/json")], body)
}

/// An app that takes a request only with a token that the service knows. Requests below `/slow` wait for the gate before
/// they are looked at.
pub async fn strict_app(egov: &Egov, gate: &Gate, tasks: &TaskTracker) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (egov, gate, tracker) = (egov.clone(), gate.clone(), tasks.clone());
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (egov, gate) = (egov.clone(), gate.clone());
            tracker.spawn(async move {
                let mut reader = Reader::default();
                while let Some(head) = reader.head(&mut stream).await {
                    let length = head.one("content-length").map_or(0, |n| n.parse().unwrap());
                    reader.exactly(&mut stream, length, |_| ()).await;
                    if head.first.contains(" /slow") {
                        gate.pass().await;
                    }
                    let token = head.one("authorization").and_then(|line| line.strip_prefix("Bearer "));
                    let answer = match token {
                        Some(token) if egov.is_live(token) && !head.first.contains(" /never") => {
                            super::upstream::ok(token)
                        }
                        Some(_) | None => {
                            egov.state().refusals += 1;
                            super::upstream::answer("401 Unauthorized", &[], "not with this")
                        }
                    };
                    if stream.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    addr
}
