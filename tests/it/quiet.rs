//! Nothing that the program writes, however much it is asked to tell, holds anything that opens a door.

use std::io::Write as _;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use doorkeep::clock::{Clock as _, ManualClock, SystemClock};
use doorkeep::config::Settings;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use crate::support::egov::Egov;
use crate::support::house::{ACCESS_SECRET, OWN_SECRET, REFRESH_SECRET, toml};
use crate::support::http2::{CONTINUATION, END_HEADERS, END_STREAM, Frames, H2, HEADERS, Outcome};
use crate::support::hush::Hushed;
use crate::support::program::{command, output};
use crate::support::token_endpoint::{CLIENT, Rotates, TokenEndpoint};
use crate::support::{
    Ask, Conn, Fault, HOST, House, Jar, ORIGIN, Plan, Program, Redis, Spent, Step, Upstream, answer, head_of,
    within,
};
use crate::tls::Authority;
use crate::websocket::switching;

const IN_QUERY: &str = "hush-in-the-query";
const IN_BODY: &str = "hush-in-the-body";
const IN_COOKIE: &str = "hush-in-a-cookie-of-the-app";
const IN_HEADER: &str = "hush-in-authorization";
const IN_BAD_TOKEN: &str = "hush.not-a-real.token";
const IN_HOST: &str = "hush-before-the-host";
const IN_ANSWER: &str = "hush-from-the-app";
const IN_FRAME: &str = "hush-through-a-tunnel";
const IN_TRAILER: &str = "hush-in-a-trailer";
const WRONG_PASSWORD: &str = "hush-a-wrong-password";
const OF_SHARE: &str = "hush-of-the-share";
const OTHER_KEY: &str = "not-the-access-secret-of-these-tests-01234";

/// Everything is told, and as JSON.
const TELLING: &str = "[log]\nformat = \"json\"\nlevel = \"trace\"";

const SENT: &[&str] = &[
    IN_QUERY,
    IN_BODY,
    IN_COOKIE,
    IN_HEADER,
    IN_BAD_TOKEN,
    IN_HOST,
    IN_ANSWER,
    IN_FRAME,
    IN_TRAILER,
    WRONG_PASSWORD,
    OF_SHARE,
    OTHER_KEY,
    ACCESS_SECRET,
    OWN_SECRET,
    REFRESH_SECRET,
];

/// A gateway that tells everything, and what it must not tell.
struct Told {
    house: House,
    program: Program,
    settings: String,
    hushed: Hushed,
    asker: Asker,
}

/// Who asks: of a session of which nothing tells whose it is, only a page view is renewed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asker {
    Script,
    Page,
}

impl Told {
    async fn before(mut house: House, plan: Plan<'_>) -> Self {
        let settings = toml(plan, &house.backend.settings(), house.upstream.addr);
        let program = Program::run(&settings).await;
        house.addr = program.addr;
        let mut hushed = Hushed::default();
        hushed.all(SENT.iter().copied());
        Self { house, program, settings, hushed, asker: Asker::Script }
    }

    /// Sets the counterparts' clock so many seconds back.
    fn back(&self, secs: u64) {
        self.house.clock.set(SystemClock.now().saturating_sub(Duration::from_secs(secs)));
    }

    /// A session whose access token is over.
    async fn expired(&mut self) -> Jar {
        self.back(700);
        let jar = self.house.signed_in().await;
        self.back(0);
        self.hushed.jar(&jar);
        jar
    }

    async fn live(&mut self) -> Jar {
        let jar = self.house.signed_in().await;
        self.hushed.jar(&jar);
        jar
    }

    /// A session whose renewal goes so.
    async fn renewal(&mut self, fault: Fault, wanted: u16) {
        let mut jar = self.expired().await;
        self.house.backend.fails(fault);
        let first = match self.asker {
            Asker::Script => ask(&jar).method("POST").body(IN_BODY.as_bytes()),
            Asker::Page => Ask::page(&target()).jar(&jar),
        };
        let answer = self.house.ask(&first).await.expect(wanted);
        jar.take(&answer);
        self.hushed.jar(&jar);
        let page = self.house.ask(&Ask::page(&target()).jar(&jar)).await;
        jar.take(&page);
        self.hushed.jar(&jar);
        self.house.backend.fails(Fault::None);
    }

    async fn renewals(&mut self) {
        let (lines, page) = (Vec::new(), format!("<html>{IN_BODY}"));
        let elsewhere = format!("http://u:{IN_BODY}@127.0.0.1:1/?t={IN_QUERY}");
        self.renewal(Fault::None, 200).await;
        self.renewal(Fault::HalfJson(Spent::No), 503).await;
        self.renewal(Fault::Cut(Spent::No), 503).await;
        self.renewal(Fault::Silence(Spent::No), 503).await;
        self.renewal(Fault::Says(500, lines, page), 503).await;
        self.renewal(Fault::Says(302, vec![("Location", elsewhere)], String::new()), 503).await;
        self.renewal(Fault::Resigned(OTHER_KEY), 503).await;
    }

    async fn endings(&mut self) {
        let ended = self.expired().await;
        self.house.backend.end(&ended).await;
        match self.asker {
            Asker::Script => self.house.ask(&ask(&ended)).await.expect(401),
            Asker::Page => self.house.ask(&Ask::page(&target()).jar(&ended)).await.expect(302),
        };
        let out = self.live().await;
        let leave = format!("/.doorkeep/sign-out?return=/{IN_QUERY}");
        self.house.ask(&Ask::form(&leave, "").jar(&out)).await.expect(303);
        self.house.backend.close().await;
        let away = self.live().await;
        self.house.ask(&Ask::form(&leave, "").jar(&away)).await.expect(503);
        self.house.backend.open();
    }

    async fn oddities(&self) {
        let mut bad = Jar::default();
        bad.set("access_token", IN_BAD_TOKEN);
        self.house.ask(&ask(&bad)).await.expect(401);
        let malformed = Ask::page(&format!("/public/../x?{IN_QUERY}"));
        self.house.ask(&malformed.line("Cookie", &format!("theirs={IN_COOKIE}"))).await.expect(400);
        self.house.ask(&Ask::page("/public/esc%1b%5b2J")).await.expect(400);
        for (head, status) in bad_heads() {
            let mut conn = self.house.conn().await;
            conn.send_if_wanted(head.as_bytes()).await;
            assert_eq!(conn.answer("GET").await.status, status, "{head}");
        }
    }

    /// An app that fails in every way, and says what nobody is to read.
    async fn faults_of_the_app(&mut self) {
        let jar = self.live().await;
        let whole = answer("200 OK", &[("Set-Cookie", &format!("theirs={IN_ANSWER}"))], IN_ANSWER);
        let cases: [(&str, Vec<Step>, u16); 6] = [
            ("/f/dead", vec![Step::Close], 502),
            ("/f/said", vec![Step::ReadBody, Step::Send(whole.clone())], 200),
            (
                "/f/half",
                vec![Step::ReadBody, Step::Send(whole[..whole.len() - 3].to_vec()), Step::Close],
                200,
            ),
            ("/f/no-head", vec![Step::Send(format!("{IN_ANSWER} {IN_ANSWER}\r\n\r\n").into())], 502),
            (
                "/f/bad-line",
                vec![Step::Send(format!("HTTP/1.1 200 OK\r\nX {IN_ANSWER}\r\n\r\n").into())],
                502,
            ),
            ("/f/silent", vec![Step::Hang], 504),
        ];
        for (path, steps, status) in cases {
            self.house.upstream.on(path, steps);
            let got = self.house.ask(&Ask::script(&format!("{path}?{IN_QUERY}")).jar(&jar)).await;
            assert_eq!(got.status, status, "{path}");
        }
        self.house.upstream.answers("/socket", switching());
        let mut conn = self.house.conn().await;
        conn.send(&Ask::websocket(&format!("/socket?{IN_QUERY}")).jar(&jar).bytes()).await;
        conn.answer("GET").await.expect(101);
        conn.send_if_wanted(&[&[0x81, 0x80 | 20, 0, 0, 0, 0][..], IN_FRAME.as_bytes()].concat()).await;
        self.house
            .upstream
            .on("/refused", vec![Step::Send(head_of("403 No", &[("X-Why", IN_ANSWER)])), Step::Close]);
        let refused = Ask::websocket(&format!("/refused?{IN_QUERY}")).jar(&jar);
        self.house.ask(&refused).await.expect(403);
    }

    /// The same secrets by TLS and HTTP/2, in order and not.
    async fn by_http2(&mut self, authority: &Authority) {
        let jar = self.live().await;
        let tcp = TcpStream::connect(self.program.https.unwrap()).await.unwrap();
        let name = ServerName::try_from(HOST).unwrap();
        let stream = within("a handshake", authority.browser(&["h2"]).connect(name, tcp)).await.unwrap();
        let mut h2 = H2::over(stream).await;
        h2.ask(&ask(&jar)).await.expect(200);
        let old = self.expired().await;
        let renewed = h2.ask(&ask(&old).method("POST").body(IN_BODY.as_bytes())).await.expect(200);
        for line in renewed.headers.get_all("set-cookie") {
            let value = line.to_str().unwrap().split(';').next().unwrap().split_once('=').unwrap().1;
            self.hushed.all((value.len() > 8).then_some(value));
        }
        h2.ask(&ask(&Jar::default())).await.expect(401);
        for fields in bad_fields() {
            let fields: Vec<(&[u8], &[u8])> =
                fields.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())).collect();
            let mut frames = Frames::open(self.program.addr).await;
            frames.head(1, END_STREAM, &fields).await;
            frames.outcome(1).await;
        }
        let mut frames = Frames::open(self.program.addr).await;
        frames.send(HEADERS, END_STREAM, 1, IN_HEADER.as_bytes()).await;
        frames.send(CONTINUATION, END_HEADERS, 3, IN_HEADER.as_bytes()).await;
        assert_eq!(frames.outcome(1).await, Outcome::Closed);
    }

    /// Somebody signs in at the gateway's own page, at first with a wrong password.
    async fn with_password(&mut self) {
        let mut jar = Jar::default();
        let open = format!("/.doorkeep/sign-in?redirect=/page%3Fq%3D{IN_QUERY}");
        let page = self.house.ask(&Ask::page(&open)).await.expect(200);
        jar.take(&page);
        let text = page.text();
        let form =
            text.split("name=\"form\" value=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        for (password, status) in [(WRONG_PASSWORD, 422), ("demo-asha", 303)] {
            let body = format!("form={form}&user=asha&password={password}");
            let ask = Ask::form(&open, &body).line("Origin", ORIGIN).jar(&jar);
            let got = self.house.ask(&ask).await;
            assert_eq!(got.status, status, "{}", got.text());
            jar.take(&got);
        }
        self.hushed.all(["demo-asha", form]);
        self.hushed.jar(&jar);
    }

    /// What operators are shown, beside the log.
    async fn shown(&mut self) {
        let jar = self.live().await;
        let admin = self.program.admin.unwrap();
        for path in ["/metrics", "/healthz", "/readyz", "/nothing"] {
            let ask = Ask::new("GET", &format!("{path}?{IN_QUERY}")).jar(&jar);
            let shown = Conn::open(admin).await.ask(&ask).await;
            self.hushed.are_not_in(path, &shown.text());
        }
        let words = ["expire", "--admin", &admin.to_string()];
        for line in [jar.line().unwrap(), format!("access_token={IN_COOKIE}")] {
            let mut drill = command(&words);
            let pipes = drill.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = pipes.spawn().unwrap();
            child.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
            let got = child.wait_with_output().unwrap();
            self.hushed.are_not_in("the drill", &both(&got));
        }
    }

    /// Ends it, and looks at all that it wrote.
    async fn ends_quiet(mut self, parts: &[&str]) {
        self.program.terminate();
        assert_eq!(self.program.ended().await.code(), Some(0));
        let said = self.program.said();
        assert!(said.lines().count() > 100, "it told a lot: {} lines", said.lines().count());
        for part in parts {
            assert!(said.contains(part), "{part} is told");
        }
        self.hushed.are_not_in("the log", &said);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &self.settings).unwrap();
        let got = output(&["check", "--config", file.path().to_str().unwrap()]);
        assert!(got.status.success(), "{}", both(&got));
        self.hushed.are_not_in("what check says", &both(&got));
        let settings = Settings::parse(&self.settings).unwrap();
        self.hushed
            .are_not_in("the settings as a programmer sees them", &format!("{settings:?} {settings:#?}"));
    }
}

fn both(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn target() -> String {
    format!("/page?q={IN_QUERY}&access-token={IN_QUERY}")
}

fn ask(jar: &Jar) -> Ask {
    let line = format!("{}; theirs={IN_COOKIE}", jar.line().unwrap_or_default());
    Ask::script(&target()).line("Cookie", &line).line("Authorization", &format!("Bearer {IN_HEADER}"))
}

/// Heads that nobody answers but with a refusal.
fn bad_heads() -> Vec<(String, u16)> {
    let rest = format!("Cookie: access_token={IN_COOKIE}\r\nAuthorization: {IN_HEADER}\r\n");
    let get =
        |target: &str, fields: &str| format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n{rest}{fields}\r\n");
    vec![
        (get(&format!("/x?{IN_QUERY}"), "Content-Length: x\r\n"), 400),
        (get(&format!("/x?{IN_QUERY}"), &format!("{IN_HEADER}\r\n")), 400),
        (get(&format!("/x?{IN_QUERY}"), &format!("{IN_HEADER}\0: x\r\n")), 400),
        (get(&format!("/x?{IN_QUERY}"), &format!("X: {IN_HEADER}\x01\r\n")), 400),
        (get(&format!("/x?{IN_QUERY} {IN_QUERY}"), ""), 400),
        (get(&format!("/x?{IN_QUERY}\x7f"), ""), 400),
        (get(&format!("/x?{IN_QUERY}"), &"X: y\r\n".repeat(200)), 431),
        (get(&format!("/x?{IN_QUERY}"), &format!("X: {IN_HEADER}{}\r\n", "y".repeat(40_000))), 431),
        (get(&format!("/{}?{IN_QUERY}", "x".repeat(20_000)), ""), 414),
        (get(&format!("http://u:{IN_HOST}@{HOST}/x?{IN_QUERY}"), ""), 400),
        (format!("GET /x?{IN_QUERY} HTTP/1.1\r\nHost: u:{IN_HOST}@{HOST}\r\n{rest}\r\n"), 400),
        (format!("GET /x?{IN_QUERY} HTTP/1.1\r\nHost: other.test.example\r\n{rest}\r\n"), 421),
        (format!("GET /x?{IN_QUERY} HTTP/3.7\r\nHost: {HOST}\r\n{rest}\r\n"), 400),
        (
            format!(
                "POST /public/x?{IN_QUERY} HTTP/1.1\r\nHost: {HOST}\r\n{rest}Transfer-Encoding: chunked\r\n\r\n\
                 {IN_BODY}\r\n"
            ),
            400,
        ),
        (
            format!(
                "POST /public/x?{IN_QUERY} HTTP/1.1\r\nHost: {HOST}\r\n{rest}Trailer: X-Sum\r\n\
                 Transfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: {IN_TRAILER}\r\nCookie: {IN_TRAILER}\r\n\r\n"
            ),
            200,
        ),
    ]
}

/// Heads of HTTP/2 that are malformed in one field.
fn bad_fields() -> Vec<Vec<(&'static str, String)>> {
    let path = format!("/x?{IN_QUERY}");
    let authority = format!("u:{IN_HOST}@{HOST}");
    let with = |path: &str, authority: &str, more: &[(&'static str, &str)]| {
        let mut fields =
            vec![(":method", "GET"), (":scheme", "https"), (":authority", authority), (":path", path)];
        fields.extend([("cookie", IN_COOKIE), ("authorization", IN_HEADER)]);
        fields.extend(more);
        owned(&fields)
    };
    vec![
        with(&format!("{path} {IN_QUERY}"), HOST, &[]),
        with(&format!("{path}\u{7f}"), HOST, &[]),
        with(&format!("x?{IN_QUERY}"), HOST, &[]),
        with(&path, &authority, &[]),
        with(&path, &format!("{authority} {IN_HOST}"), &[]),
        with(&path, HOST, &[("X-Upper", IN_HEADER)]),
        with(&path, HOST, &[("x-control", &format!("{IN_HEADER}\u{1}"))]),
        with(&path, HOST, &[("te", IN_HEADER)]),
        with(&path, HOST, &[("connection", IN_HEADER)]),
        with(&path, HOST, &[("content-length", IN_HEADER)]),
        with(&path, HOST, &[(":path", &path)]),
        with(&path, HOST, &[(":unknown", IN_HEADER)]),
        owned(&[(":method", IN_HEADER), (":path", &path)]),
        owned(&[(":method", "G ET"), (":scheme", IN_HEADER), (":authority", HOST), (":path", &path)]),
        owned(&[(":status", "200"), ("cookie", IN_COOKIE)]),
    ]
}

fn owned(fields: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_cookie_query_or_secret_is_in_the_log_at_any_level() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let redis = Redis::start().await;
    redis.say(&format!("CONFIG SET requirepass {OF_SHARE}")).await.expect("it runs");
    let tasks = TaskTracker::new();
    let upstream = Upstream::start(&tasks).await;
    let rules = format!(
        "{}password = \"{OF_SHARE}\"\n{}{TELLING}\n",
        redis.table(),
        authority.listener(folder.path(), &[HOST])
    );
    let plan = Plan {
        listen: "https = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"",
        login: "mode = \"form\"",
        renew: "timeout = \"1s\"\ngive_up = \"1500ms\"\nbreaker = { pause = \"1ms\" }",
        site: "token = \"x-access-token\"\nhead = \"1s\"",
        rules: &rules,
        ..Plan::default()
    };
    let mut told = Told::before(House::without_door(SystemClock.now(), upstream, tasks), plan).await;
    let admin = told.program.admin.unwrap();
    let shared = async {
        while !Conn::open(admin).await.ask(&Ask::new("GET", "/metrics")).await.text().contains("share_up 1") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the share", shared).await;
    // A store that is new is trusted after a moment.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    told.renewals().await;
    told.endings().await;
    told.oddities().await;
    told.faults_of_the_app().await;
    told.by_http2(&authority).await;
    told.with_password().await;
    told.shown().await;
    drop(redis);
    told.renewal(Fault::None, 503).await;
    assert!(told.hushed.len() > 50);
    told.ends_quiet(&[
        "\"/page\"",
        "\"renewed\"",
        "\"sign_out\"",
        "\"signed_in\"",
        "\"refused\"",
        "hyper",
        "doorkeep::share",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_is_what_an_oauth2_server_is_asked_with() {
    let issuer = |clock: Arc<ManualClock>| {
        Arc::new(Arc::new(TokenEndpoint::new(Rotates::Yes, clock).asked()))
            as Arc<dyn crate::support::issuer::Issuer>
    };
    let house = House::of_issuer(SystemClock.now(), issuer).await;
    let plan = Plan {
        renew: "timeout = \"1s\"\ngive_up = \"1500ms\"\nbreaker = { pause = \"1ms\" }",
        listen: "admin = \"127.0.0.1:0\"",
        site: "token = \"bearer\"",
        rules: TELLING,
        ..Plan::default()
    };
    let mut told = Told::before(house, plan).await;
    told.asker = Asker::Page;
    told.hushed.add(CLIENT.1);
    let live = told.live().await;
    told.house.ask(&ask(&live)).await.expect(200);
    told.renewals().await;
    told.endings().await;
    told.shown().await;
    let calls = told.house.backend.calls();
    let proofs = calls.iter().filter_map(|call| call.head.one("authorization")?.strip_prefix("Basic "));
    told.hushed.all(proofs);
    told.ends_quiet(&["\"renewed\"", "\"sign_out\"", "hyper"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_is_what_proves_the_gateway_by_key() {
    let issuer = |clock: Arc<ManualClock>| {
        Arc::new(Arc::new(TokenEndpoint::new(Rotates::Yes, clock))) as Arc<dyn crate::support::issuer::Issuer>
    };
    let house = House::of_issuer(SystemClock.now(), issuer).await;
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let mut settings =
        toml(Plan { rules: TELLING, ..Plan::default() }, &house.backend.settings(), house.upstream.addr);
    let secret = format!("client_secret = \"{}\"", CLIENT.1);
    settings = settings.replace(
        &secret,
        &format!("auth = \"private_key_jwt\"\nalgorithm = \"ES256\"\nprivate_key = \"\"\"\n{key}\"\"\""),
    );
    let mut program = Program::run(&settings).await;
    house.clock.set(SystemClock.now().saturating_sub(Duration::from_secs(700)));
    let jar = house.signed_in().await;
    house.clock.set(SystemClock.now());
    Conn::open(program.addr).await.ask(&ask(&jar)).await.expect(503);
    let mut hushed = Hushed::default();
    hushed.jar(&jar);
    hushed.all(key.lines().filter(|line| !line.starts_with("-----")));
    let calls = house.backend.calls();
    let form = url::form_urlencoded::parse(calls.last().expect("a renewal").text.as_bytes());
    let assertion =
        form.into_owned().find(|(name, _)| name == "client_assertion").expect("it proves itself").1;
    hushed.all([assertion.as_str()]);
    program.terminate();
    program.ended().await;
    hushed.are_not_in("the log", &program.said());
    assert!(program.said().contains("client"), "its proof was refused, and operators are told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_is_what_an_egov_user_is_asked_with() {
    let clock = Arc::new(ManualClock::at(SystemClock.now()));
    let tasks = TaskTracker::new();
    let egov = Egov::start(Arc::clone(&clock), &tasks);
    let upstream = Upstream::start(&tasks).await;
    let settings = |secret: &str| {
        format!(
            r#"
secret = "{OWN_SECRET}"
listen = {{ http = "127.0.0.1:0" }}
session = {{ backend = "egov_user", renew = {{ timeout = "1s", give_up = "1500ms" }} }}
backend.egov_user = {{ url = "http://{}", tenant = "pb", user_type = "CITIZEN"{secret} }}
identity.headers = {{ "X-Auth-User" = "uuid" }}
login = {{ mode = "form" }}
site = [{{ host = "{HOST}", origin = "{ORIGIN}", upstream = ["http://{}"], token = "bearer" }}]
{TELLING}
"#,
            egov.addr, upstream.addr
        )
    };
    let (user, password, secret) = ("hush-anand", "p-hush-anand", "hush-of-the-client");
    let mut hushed = Hushed::default();
    hushed.all([user, password, secret, OWN_SECRET, IN_QUERY, IN_COOKIE, IN_HEADER, WRONG_PASSWORD]);
    for proof in ["", ", client_secret = \"hush-of-the-client\""] {
        let mut program = Program::run(&settings(proof)).await;
        let mut jar = egov.sign_in(user);
        hushed.jar(&jar);
        let answer = Conn::open(program.addr).await.ask(&ask(&jar)).await.expect(200);
        jar.take(&answer);
        hushed.jar(&jar);
        sign_in(program.addr, (user, password), &mut hushed).await;
        let leave = Ask::form(&format!("/.doorkeep/sign-out?return=/{IN_QUERY}"), "").jar(&jar);
        Conn::open(program.addr).await.ask(&leave).await;
        egov.fails("/token", Fault::HalfJson(Spent::No));
        Conn::open(program.addr).await.ask(&ask(&egov.sign_in("hush-bela"))).await;
        egov.fails("/token", Fault::None);
        program.terminate();
        assert_eq!(program.ended().await.code(), Some(0));
        assert!(program.said().lines().count() > 30);
        hushed.are_not_in("the log", &program.said());
    }
}

/// Signs in at the gateway's own page, wrongly at first; the second answer may be any.
async fn sign_in(addr: std::net::SocketAddr, (user, password): (&str, &str), hushed: &mut Hushed) {
    let mut jar = Jar::default();
    let page = Conn::open(addr).await.ask(&Ask::page("/.doorkeep/sign-in?redirect=/")).await.expect(200);
    jar.take(&page);
    let text = page.text();
    let form = text.split("name=\"form\" value=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    for password in [WRONG_PASSWORD, password] {
        let body = format!("form={form}&user={user}&password={password}");
        let ask = Ask::form("/.doorkeep/sign-in?redirect=/", &body).line("Origin", ORIGIN).jar(&jar);
        jar.take(&Conn::open(addr).await.ask(&ask).await);
    }
    hushed.add(form);
    hushed.jar(&jar);
}
