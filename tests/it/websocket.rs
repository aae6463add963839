//! Tunnels: opened by a session's own page, only once the app has switched, and then nothing but bytes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use crate::support::wire::Reader;
use crate::support::{Ask, Conn, House, Plan, head_of, until, within};

/// An app that answers each handshake with the same bytes and then echoes, and what it was asked.
pub struct Echo {
    addr: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Echo {
    pub async fn start(answer: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&heads);
        let tasks = TaskTracker::new();
        let connections = tasks.clone();
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (told, answer) = (Arc::clone(&told), answer.clone());
                connections.spawn(async move {
                    let mut reader = Reader::default();
                    let Some(head) = reader.head(&mut stream).await else { return };
                    told.lock().unwrap().push(String::from_utf8_lossy(&head.raw).into_owned());
                    stream.write_all(&answer).await.unwrap();
                    let mut some = [0; 4096];
                    while let Ok(n @ 1..) = stream.read(&mut some).await {
                        if stream.write_all(&some[..n]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { addr, heads }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn head(&self) -> String {
        self.heads.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

pub fn switching() -> Vec<u8> {
    let lines = [
        ("Upgrade", "WebSocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    ];
    head_of("101 Switching Protocols", &lines)
}

async fn comes_back(conn: &mut Conn, bytes: &[u8]) {
    conn.send(bytes).await;
    let mut back = Vec::new();
    let whole = within(
        "an echo",
        conn.reader.exactly(&mut conn.stream, bytes.len() as u64, |piece| {
            back.extend_from_slice(piece);
        }),
    )
    .await;
    assert!(whole && back == bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_go_both_ways_once_the_app_has_switched() {
    let echo = Echo::start(switching()).await;
    let house = House::start(Plan { upstream: Some(&echo.url()), ..Plan::default() }).await;
    let jar = house.signed_in().await;
    let mut conn = house.conn().await;
    conn.send(&Ask::websocket("/socket").jar(&jar).line("X-Auth-User", "eve-the-intruder").bytes()).await;
    let answer = conn.answer("GET").await.expect(101);
    assert_eq!(answer.line("upgrade"), Some("websocket"));
    assert_eq!(answer.line("connection"), Some("upgrade"));
    assert_eq!(answer.line("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    comes_back(&mut conn, b"hello").await;
    comes_back(&mut conn, &vec![7; 300_000]).await;
    let head = echo.head().to_ascii_lowercase();
    assert!(head.contains("upgrade: websocket\r\n") && head.contains("connection: upgrade\r\n"), "{head}");
    assert!(head.contains("sec-websocket-key: ") && head.contains("x-auth-user: "), "{head}");
    assert!(!head.contains("eve-the-intruder") && !head.contains("access_token"), "{head}");
    drop(conn);
    until("the connection's end", || house.door().meters.connections.get() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_session_comes_with_the_switch() {
    let echo = Echo::start(switching()).await;
    let house = House::start(Plan { upstream: Some(&echo.url()), ..Plan::default() }).await;
    let old = house.expired().await;
    let mut conn = house.conn().await;
    conn.send(&Ask::websocket("/socket").jar(&old).bytes()).await;
    let answer = conn.answer("GET").await.expect(101);
    let mut jar = old.clone();
    jar.take(&answer);
    assert_ne!(jar.session(), old.session());
    comes_back(&mut conn, b"hello").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_does_not_switch_gets_no_tunnel() {
    let echo = Echo::start(head_of("403 Forbidden", &[("Content-Length", "0")])).await;
    let house = House::start(Plan { upstream: Some(&echo.url()), ..Plan::default() }).await;
    let jar = house.signed_in().await;
    let mut conn = house.conn().await;
    conn.send(&Ask::websocket("/socket").jar(&jar).bytes()).await;
    conn.answer("GET").await.expect(403);
    // What comes next is a request of its own, judged as such.
    conn.send(&Ask::script("/data").bytes()).await;
    conn.answer("GET").await.expect(401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_that_nobody_asked_for_is_a_fault() {
    for (line, asks) in [("WebSocket", false), ("h2c", true)] {
        let lines = [("Upgrade", line), ("Connection", "Upgrade")];
        let echo = Echo::start(head_of("101 Switching Protocols", &lines)).await;
        let house = House::start(Plan { upstream: Some(&echo.url()), ..Plan::default() }).await;
        let jar = house.signed_in().await;
        let ask = if asks { Ask::websocket("/x") } else { Ask::script("/x") };
        house.ask(&ask.jar(&jar)).await.expect(502);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_handshake_is_a_plain_request() {
    let house = House::usual().await;
    let jar = house.signed_in().await;
    for ask in [Ask::websocket("/x").method("POST"), Ask::websocket("/x").body(b"GET /y HTTP/1.1\r\n\r\n")] {
        house.ask(&ask.jar(&jar)).await.expect(200);
        let seen = house.upstream.last();
        assert_eq!((seen.line("upgrade"), seen.line("connection")), (None, None));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_settings_say_so_a_handshake_is_a_plain_request() {
    let echo = Echo::start(head_of("200 OK", &[("Content-Length", "0")])).await;
    let plan = Plan { upstream: Some(&echo.url()), site: "websocket = false", ..Plan::default() };
    let house = House::start(plan).await;
    let jar = house.signed_in().await;
    house.ask(&Ask::websocket("/socket").jar(&jar)).await.expect(200);
    assert!(!echo.head().to_ascii_lowercase().contains("upgrade"), "{}", echo.head());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_outlives_idle_time_but_not_its_own_limit() {
    let echo = Echo::start(switching()).await;
    let plan = Plan {
        upstream: Some(&echo.url()),
        listen: "idle = \"100ms\"\nhead = \"100ms\"",
        site: "idle = \"600ms\"",
        ..Plan::default()
    };
    let house = House::start(plan).await;
    let jar = house.signed_in().await;
    let mut conn = house.conn().await;
    conn.send(&Ask::websocket("/socket").jar(&jar).bytes()).await;
    conn.answer("GET").await.expect(101);
    for _ in 0..4 {
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
        comes_back(&mut conn, b"still here").await;
    }
    conn.closed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_tunnels_at_its_limit() {
    let echo = Echo::start(switching()).await;
    let plan = Plan {
        upstream: Some(&echo.url()),
        renew: "give_up = \"200ms\"\ntimeout = \"200ms\"",
        rules: "[drain]\ntimeout = \"400ms\"",
        ..Plan::default()
    };
    let mut house = House::start(plan).await;
    let jar = house.signed_in().await;
    let mut conn = house.conn().await;
    conn.send(&Ask::websocket("/socket").jar(&jar).bytes()).await;
    conn.answer("GET").await.expect(101);
    comes_back(&mut conn, b"hello").await;
    let door = house.door.take().unwrap();
    within("the drain", door.drain()).await.unwrap();
    conn.closed().await;
}
