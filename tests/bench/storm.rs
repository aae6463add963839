//! Two bad mornings, on loopback and bounded in time: `cargo bench --bench storm`.
//!
//! 1. 10,000 sessions end within ten seconds, before a backend that renews 2,000 a second: all are renewed within seven
//!    seconds of being asked for, none is lost, and other users' requests hardly notice.
//! 2. One network sends 5,000 made-up refresh tokens a second for twenty seconds: users get only 200s.
//!
//! Prints its figures; the exit code says whether they hold. The p99 of live requests is compared with a run of the same
//! traffic in which no session ends, so that what the machine itself cannot do counts in both.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stdout,
    reason = "what is missing or wrong here has to end the run at once"
)]

use std::collections::HashMap;
use std::future::Future;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use doorkeep::clock::{Clock as _, Stopwatch, SystemClock};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

const KEY: &str = "the key of this run, long enough for HS256";
const SECONDS: u64 = 10;
const PER_SECOND: u64 = 1000;
const BACKEND_RATE: u64 = 2000;
const STRANGERS: u64 = 5000;
const STRANGERS_FOR: Duration = Duration::from_secs(20);
const WITHIN: Duration = Duration::from_secs(7);
const RATIO: f64 = 1.5;
const MEMORY: u64 = 256 << 20;

/// A session as its browser holds it.
#[derive(Clone, Debug)]
struct Cookies {
    access: String,
    refresh: String,
    session: String,
}

/// A backend that rotates, ends a session when a spent token comes back, and renews so many a second.
#[derive(Debug, Default)]
struct Backend {
    /// The unspent token of each session.
    current: Mutex<HashMap<String, String>>,
    /// When the next renewal is due, since the start.
    next: Mutex<Duration>,
    renewed: AtomicUsize,
    reused: AtomicUsize,
    strangers: AtomicUsize,
    busy: AtomicUsize,
    most_busy: AtomicUsize,
}

fn access_token(session: &str, issued: u64, ends: u64) -> String {
    let claims =
        json!({"userId": format!("user-{session}"), "sessionId": session, "iat": issued, "exp": ends});
    encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(KEY.as_bytes())).unwrap()
}

fn now() -> u64 {
    SystemClock.now().as_secs()
}

fn random() -> String {
    format!("{:032x}", fastrand::u128(..))
}

impl Backend {
    /// A session that was issued some time ago and ends at that moment.
    fn session(&self, ends: u64) -> Cookies {
        let (session, refresh) = (random()[..24].to_owned(), random());
        self.current.lock().unwrap().insert(session.clone(), refresh.clone());
        let access = access_token(&session, ends.min(now()) - 600, ends);
        Cookies { access, refresh, session }
    }

    async fn renew(&self, path: &str, body: &[u8], started: Stopwatch) -> (u16, String) {
        let busy = self.busy.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_busy.fetch_max(busy, Ordering::SeqCst);
        let turn = {
            let mut next = self.next.lock().unwrap();
            let turn = (*next).max(started.elapsed());
            *next = turn + Duration::from_micros(1_000_000 / BACKEND_RATE);
            turn
        };
        tokio::time::sleep(turn.saturating_sub(started.elapsed())).await;
        self.busy.fetch_sub(1, Ordering::SeqCst);
        let session = path.split('/').nth(3).unwrap_or_default();
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let presented = body["refresh"]["token"].as_str().unwrap_or_default();
        let fresh = random();
        let mut current = self.current.lock().unwrap();
        match current.get_mut(session) {
            Some(unspent) if unspent == presented => unspent.clone_from(&fresh),
            Some(_) => {
                current.remove(session);
                self.reused.fetch_add(1, Ordering::SeqCst);
                return refused();
            }
            None => {
                self.strangers.fetch_add(1, Ordering::SeqCst);
                return refused();
            }
        }
        drop(current);
        self.renewed.fetch_add(1, Ordering::SeqCst);
        let token = access_token(session, now(), now() + 600);
        let data = json!({"id": session, "token": token, "refresh": {"token": fresh}});
        (200, json!({"isSuccess": true, "data": data}).to_string())
    }
}

fn refused() -> (u16, String) {
    (403, json!({"isSuccess": false, "code": "SESSION_EXPIRED", "message": "over"}).to_string())
}

/// Reads heads and bodies of one connection.
struct Wire {
    stream: TcpStream,
    buf: Vec<u8>,
}

impl Wire {
    async fn more(&mut self) -> Option<()> {
        let read = self.stream.read_buf(&mut self.buf).await.ok()?;
        (read > 0).then_some(())
    }

    /// The next head and body; `None` where the connection ends.
    async fn message(&mut self) -> Option<(String, Vec<u8>)> {
        let end = loop {
            match self.buf.windows(4).position(|four| four == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => self.more().await?,
            }
        };
        let head = String::from_utf8(self.buf.drain(..end).collect()).ok()?;
        let line = |name: &str| {
            let of = |line: &str| {
                line.split_once(':')
                    .filter(|(n, _)| n.eq_ignore_ascii_case(name))
                    .map(|(_, v)| v.trim().to_owned())
            };
            head.lines().find_map(of)
        };
        assert!(line("transfer-encoding").is_none(), "nobody here sends in chunks: {head}");
        let length: usize = line("content-length").map_or(0, |n| n.parse().unwrap());
        while self.buf.len() < length {
            self.more().await?;
        }
        Some((head, self.buf.drain(..length).collect()))
    }
}

/// Serves a listener.
fn serve<A, F>(listener: TcpListener, tasks: &TaskTracker, answer: A)
where
    A: Fn(String, Vec<u8>) -> F + Clone + Send + 'static,
    F: Future<Output = (u16, String)> + Send,
{
    let each = tasks.clone();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let answer = answer.clone();
            each.spawn(async move {
                let mut wire = Wire { stream, buf: Vec::new() };
                while let Some((head, body)) = wire.message().await {
                    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                    let (status, body) = answer(path, body).await;
                    let text = format!(
                        "HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    if wire.stream.write_all(text.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// A browser's connection.
struct Browser {
    wire: Wire,
}

impl Browser {
    async fn open(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.expect("the gateway takes connections");
        stream.set_nodelay(true).unwrap();
        Self { wire: Wire { stream, buf: Vec::new() } }
    }

    async fn ask(&mut self, cookies: &str) -> (u16, String) {
        let text = format!(
            "GET /page HTTP/1.1\r\nHost: app.bench.example\r\nAccept: text/html\r\nSec-Fetch-Mode: navigate\r\nCookie: {cookies}\r\n\r\n"
        );
        self.wire.stream.write_all(text.as_bytes()).await.expect("sent");
        let (head, _) = self.wire.message().await.expect("an answer");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        (status, head)
    }
}

impl Cookies {
    fn line(&self) -> String {
        format!("access_token={}; refresh_token={}; session_id={}", self.access, self.refresh, self.session)
    }

    /// Takes what an answer sets.
    fn take(&mut self, head: &str) -> bool {
        let value = |name: &str| {
            let begin = format!("set-cookie: {name}=");
            let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(&begin))?;
            Some(line[begin.len()..].split(';').next()?.to_owned())
        };
        let pair = value("access_token").zip(value("refresh_token"));
        let brought = pair.is_some();
        if let Some((access, refresh)) = pair {
            (self.access, self.refresh) = (access, refresh);
        }
        brought
    }
}

/// The gateway, a process of its own: killed with this run.
struct Gateway {
    child: Child,
    addr: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ended_before = self.child.kill();
        let _ended_before = self.child.wait();
    }
}

impl Gateway {
    async fn start(backend: SocketAddr, app: SocketAddr) -> Self {
        let addr = StdListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).unwrap();
        let settings = format!(
            r#"
secret = "the gateway's own secret in this run, long enough"
[listen]
http = "{addr}"
connections_per_client = 4000
[log]
level = "warn"
[session]
backend = "directory"
[session.token]
algorithms = ["HS256"]
key = "{KEY}"
leeway = "0s"
[session.renew]
ahead = "0s"
[login]
url = "https://id.bench.example/login"
[backend.directory]
url = "http://{backend}"
[[site]]
host = "app.bench.example"
origin = "https://app.bench.example"
upstream = ["http://{app}"]
"#
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("doorkeep.toml");
        std::fs::write(&path, settings).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_doorkeep"))
            .args(["run", "--config", path.to_str().unwrap()])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("the gateway starts");
        let watch = Stopwatch::start();
        while TcpStream::connect(addr).await.is_err() {
            assert!(watch.elapsed() < Duration::from_secs(10), "the gateway does not listen");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Self { child, addr, _folder: folder }
    }

    /// Most memory that it has had, in bytes, where the system tells.
    fn memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
    }
}

fn quantile(sorted: &[Duration], q: f64) -> f64 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into a list that fits into memory"
    )]
    let at = ((sorted.len() as f64 - 1.0) * q) as usize;
    sorted.get(at).map_or(f64::NAN, |took| took.as_secs_f64() * 1000.0)
}

/// Which figures hold.
#[derive(Default)]
struct Verdicts {
    failed: usize,
}

impl Verdicts {
    fn say(&mut self, what: &str, figure: &str, holds: Result<(), &str>) {
        match holds {
            Ok(()) => println!("ok     {what}: {figure}"),
            Err(wanted) => {
                self.failed += 1;
                println!("not ok {what}: {figure} (wanted: {wanted})");
            }
        }
    }
}

/// Users whose sessions live, each asking 25 times a second, until told to stop: how long their answers took.
fn live_users(
    addr: SocketAddr,
    backend: &Arc<Backend>,
    tasks: &TaskTracker,
    stop: &Arc<AtomicBool>,
) -> Arc<Mutex<Vec<Duration>>> {
    let took: Arc<Mutex<Vec<Duration>>> = Arc::default();
    for n in 0..20 {
        let (took, stop, line) = (Arc::clone(&took), Arc::clone(stop), backend.session(now() + 3600).line());
        tasks.spawn(async move {
            let mut browser = Browser::open(addr).await;
            tokio::time::sleep(Duration::from_millis(2 * n)).await;
            while !stop.load(Ordering::Relaxed) {
                let watch = Stopwatch::start();
                let (status, head) = browser.ask(&line).await;
                took.lock().unwrap().push(watch.elapsed());
                assert_eq!(status, 200, "a live session: {head}");
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
        });
    }
    took
}

/// What came of the sessions of one morning.
#[derive(Debug, Default)]
struct Morning {
    took: Vec<Duration>,
    lost: usize,
    asked_again: usize,
    live: Vec<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    /// Each second a thousand end.
    Each,
    /// None does: the same traffic.
    None,
}

/// Everybody asks within a fifth of a second after the end of their session, then once more.
async fn morning(addr: SocketAddr, backend: &Arc<Backend>, ends: Ends) -> Morning {
    let (users, crowd, stop) = (TaskTracker::new(), TaskTracker::new(), Arc::new(AtomicBool::new(false)));
    let first = now() + 4;
    let later = if ends == Ends::Each { 0 } else { 3600 };
    let (came, result): (Arc<AtomicUsize>, Arc<Mutex<Morning>>) = (Arc::default(), Arc::default());
    let mut all: Vec<Vec<Cookies>> = Vec::new();
    for _ in 0..PER_SECOND {
        all.push((0..SECONDS).map(|second| backend.session(first + second + later)).collect());
    }
    let live = live_users(addr, backend, &users, &stop);
    while now() + 1 < first {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    live.lock().unwrap().clear();
    for sessions in all {
        let (came, result) = (Arc::clone(&came), Arc::clone(&result));
        crowd.spawn(async move {
            let mut browser = Browser::open(addr).await;
            let late = Duration::from_micros(fastrand::u64(..200_000));
            for (second, cookies) in (0..).zip(sessions) {
                while now() < first + second {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                tokio::time::sleep(late).await;
                visit(&mut browser, cookies, ends, &result).await;
                came.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    crowd.close();
    let whole = tokio::time::timeout(Duration::from_secs(60), crowd.wait()).await;
    stop.store(true, Ordering::Relaxed);
    users.close();
    users.wait().await;
    assert!(whole.is_ok(), "not over after a minute: {} came", came.load(Ordering::Relaxed));
    let mut result = std::mem::take(&mut *result.lock().unwrap());
    result.live = std::mem::take(&mut *live.lock().unwrap());
    result.live.sort_unstable();
    result.took.sort_unstable();
    result
}

/// One user's two requests: the first waits for the renewal, the second shows that its cookies are good.
async fn visit(browser: &mut Browser, mut cookies: Cookies, ends: Ends, result: &Mutex<Morning>) {
    let watch = Stopwatch::start();
    let mut again = 0;
    let (mut status, mut head) = browser.ask(&cookies.line()).await;
    while status == 503 && watch.elapsed() < Duration::from_secs(20) {
        again += 1;
        tokio::time::sleep(Duration::from_secs(1)).await;
        (status, head) = browser.ask(&cookies.line()).await;
    }
    let took = watch.elapsed();
    let brought = cookies.take(&head);
    let (second, _) = browser.ask(&cookies.line()).await;
    let lost = status != 200 || second != 200 || brought != (ends == Ends::Each);
    let mut result = result.lock().unwrap();
    result.took.push(took);
    result.lost += usize::from(lost);
    result.asked_again += again;
}

/// Strangers by the thousand, and users among them.
async fn strangers(addr: SocketAddr, backend: &Arc<Backend>, verdicts: &mut Verdicts) {
    let (tasks, stop) = (TaskTracker::new(), Arc::new(AtomicBool::new(false)));
    let (sent, renewed, other): (Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
    let before = backend.strangers.load(Ordering::SeqCst);
    let watch = Stopwatch::start();
    for _ in 0..50 {
        let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
        tasks.spawn(async move {
            let mut browser = Browser::open(addr).await;
            let mut made = 0;
            while !stop.load(Ordering::Relaxed) {
                let line = format!("refresh_token={}; session_id={}", random(), &random()[..24]);
                browser.ask(&line).await;
                sent.fetch_add(1, Ordering::Relaxed);
                made += 1;
                let due = Duration::from_micros(made * 50 * 1_000_000 / STRANGERS);
                tokio::time::sleep(due.saturating_sub(watch.elapsed())).await;
            }
        });
    }
    for _ in 0..20 {
        let (stop, renewed, other) = (Arc::clone(&stop), Arc::clone(&renewed), Arc::clone(&other));
        let backend = Arc::clone(backend);
        tasks.spawn(async move {
            let mut browser = Browser::open(addr).await;
            while !stop.load(Ordering::Relaxed) {
                let mut cookies = backend.session(now() - 5);
                for _ in 0..2 {
                    let (status, head) = browser.ask(&cookies.line()).await;
                    let counter = if status == 200 { &renewed } else { &other };
                    counter.fetch_add(1, Ordering::Relaxed);
                    cookies.take(&head);
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }
    let live = live_users(addr, backend, &tasks, &stop);
    tokio::time::sleep(STRANGERS_FOR).await;
    stop.store(true, Ordering::Relaxed);
    tasks.close();
    tasks.wait().await;
    let seconds = watch.elapsed().as_secs().max(1);
    let rate = sent.load(Ordering::Relaxed) as u64 / seconds;
    let reached = backend.strangers.load(Ordering::SeqCst) - before;
    let enough =
        if rate >= STRANGERS * 9 / 10 { Ok(()) } else { Err("5000; this machine is too slow or too busy") };
    verdicts.say("strangers sent each second", &rate.to_string(), enough);
    let few = if reached as u64 <= 100 + 20 * (seconds + 1) { Ok(()) } else { Err("100 and 20 a second") };
    verdicts.say("of which reached the backend", &format!("{reached} in {seconds} s"), few);
    let (renewed, other) = (renewed.load(Ordering::Relaxed), other.load(Ordering::Relaxed));
    let only = if other == 0 && renewed > 0 { Ok(()) } else { Err("only 200s") };
    let live = live.lock().unwrap().len();
    verdicts.say(
        "users meanwhile",
        &format!("{} answers, {other} of them no 200", renewed + other + live),
        only,
    );
}

/// Backend, app, and the gateway between them.
async fn house() -> (Arc<Backend>, Gateway) {
    let (tasks, started) = (TaskTracker::new(), Stopwatch::start());
    let backend = Arc::new(Backend::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend_addr = listener.local_addr().unwrap();
    let renewing = Arc::clone(&backend);
    serve(listener, &tasks, move |path, body| {
        let backend = Arc::clone(&renewing);
        async move { backend.renew(&path, &body, started).await }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    serve(listener, &tasks, |_, _| async { (200, "{}".to_owned()) });
    let gateway = Gateway::start(backend_addr, app).await;
    (backend, gateway)
}

async fn run() -> usize {
    let (backend, gateway) = house().await;
    let mut verdicts = Verdicts::default();
    let quiet = morning(gateway.addr, &backend, Ends::None).await;
    let storm = morning(gateway.addr, &backend, Ends::Each).await;
    let slowest = storm.took.last().copied().unwrap_or_default();
    let count = storm.took.len();
    let figure = format!(
        "{count} in at most {:.2} s, half in {:.0} ms, 99% in {:.0} ms, {} asked again after a 503",
        slowest.as_secs_f64(),
        quantile(&storm.took, 0.5),
        quantile(&storm.took, 0.99),
        storm.asked_again
    );
    let all = count as u64 == SECONDS * PER_SECOND && slowest <= WITHIN;
    verdicts.say("sessions renewed", &figure, if all { Ok(()) } else { Err("all within 7 s") });
    let reused = backend.reused.load(Ordering::SeqCst);
    let none = if storm.lost + quiet.lost + reused == 0 { Ok(()) } else { Err("none") };
    verdicts.say(
        "sessions lost",
        &format!("{}, spent tokens presented: {reused}", storm.lost + quiet.lost),
        none,
    );
    let most = backend.most_busy.load(Ordering::SeqCst);
    verdicts.say(
        "renewals at a time",
        &most.to_string(),
        if most <= 64 { Ok(()) } else { Err("at most 64") },
    );
    let (before, after) = (quantile(&quiet.live, 0.99), quantile(&storm.live, 0.99));
    let figure = format!(
        "{:.2} times: {after:.2} ms after {before:.2} ms (medians {:.2}, {:.2})",
        after / before,
        quantile(&storm.live, 0.5),
        quantile(&quiet.live, 0.5)
    );
    verdicts.say(
        "p99 of live requests",
        &figure,
        if after <= before * RATIO { Ok(()) } else { Err("at most 1.5 times") },
    );
    strangers(gateway.addr, &backend, &mut verdicts).await;
    let memory = gateway.memory();
    let figure =
        memory.map_or_else(|| "not told here".to_owned(), |bytes| format!("{} MiB at most", bytes >> 20));
    verdicts.say(
        "the gateway's memory",
        &figure,
        if memory.is_none_or(|m| m <= MEMORY) { Ok(()) } else { Err("256 MiB") },
    );
    verdicts.failed
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let failed = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(180), run()).await });
    match failed {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(_elapsed) => {
            println!("not ok: not over after three minutes");
            ExitCode::FAILURE
        }
    }
}
