//! Apps that speak HTTP/2: requests share a connection, and pass with their trailers both ways.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::support::house::WORKERS;
use crate::support::http2::{H2, request, whole};
use crate::support::{Ask, Gate, HOST, House, Plan, within};
use crate::tls::Authority;

/// A request that reached the app, its body and trailers read.
type Got = (Request<()>, Vec<u8>, HeaderMap);

/// An app that answers with what it got, after a gate, with trailers.
#[derive(Clone)]
struct App {
    addr: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
    connections: Arc<AtomicUsize>,
    gate: Gate,
    tasks: TaskTracker,
}

impl App {
    async fn start(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = Self {
            addr: listener.local_addr().unwrap(),
            got: Arc::default(),
            connections: Arc::default(),
            gate: Gate::closed(),
            tasks: TaskTracker::new(),
        };
        let all = app.clone();
        app.tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                all.connections.fetch_add(1, Ordering::SeqCst);
                let (one, tls) = (all.clone(), tls.clone());
                all.tasks.spawn(async move {
                    match tls {
                        None => one.converse(stream).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => one.converse(stream).await,
                            Err(_refused) => {}
                        },
                    }
                });
            }
        });
        app
    }

    async fn converse(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok((request, respond))) = connection.accept().await {
            let one = self.clone();
            let goodbye = request.uri().path() == "/public/goodbye";
            self.tasks.spawn(one.answer(request, respond));
            if goodbye {
                connection.graceful_shutdown();
            }
        }
    }

    async fn answer(self, request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
        let (head, mut body) = request.into_parts();
        let mut bytes = Vec::new();
        while let Some(Ok(piece)) = body.data().await {
            body.flow_control().release_capacity(piece.len()).unwrap();
            bytes.extend_from_slice(&piece);
        }
        let trailers = body.trailers().await.ok().flatten().unwrap_or_default();
        let slow = head.uri.path().ends_with("slow");
        let dripping = head.uri.path().ends_with("dripping");
        let head = Request::from_parts(head, ());
        self.got.lock().unwrap().push((head, bytes.clone(), trailers));
        if slow {
            self.gate.pass().await;
        }
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        if dripping {
            stream.send_data(Bytes::from_static(b"first "), false).unwrap();
            self.gate.pass().await;
        }
        stream.send_data(Bytes::from(format!("{} bytes", bytes.len())), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        stream.send_trailers(trailers).unwrap();
    }

    fn last(&self) -> Got {
        let got = self.got.lock().unwrap();
        let (head, body, trailers) = got.last().expect("a request");
        let mut copy = Request::builder().method(head.method()).uri(head.uri()).body(()).unwrap();
        *copy.headers_mut() = head.headers().clone();
        (copy, body.clone(), trailers.clone())
    }
}

async fn before(app: &App, scheme: &str, rules: &str) -> House {
    let url = format!("{scheme}://{}", app.addr);
    let plan = Plan { upstream: Some(&url), site: "upstream_protocol = \"http2\"", rules, ..Plan::default() };
    House::start(plan).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_under_way_comes_whole_after_its_settings_have_gone() {
    let app = App::start(None).await;
    let house = before(&app, "http", "").await;
    let mut conn = house.conn().await;
    conn.send(&Ask::page("/public/dripping").bytes()).await;
    app.gate.reached_by(1).await;
    // The head has come, so no request is under way any more: its gateway goes, and the way to its app with it.
    within("the first piece", async {
        while !conn.reader.buf.windows(6).any(|bytes| bytes == b"first ") {
            assert!(conn.reader.more(&mut conn.stream).await.unwrap() > 0);
        }
    })
    .await;
    let url = format!("http://{}", app.addr);
    let site = "upstream_protocol = \"http2\"";
    for rules in ["", "[drain]\ntimeout = \"40s\""] {
        house.change(Plan { upstream: Some(&url), site, rules, ..Plan::default() });
    }
    house.ask(&Ask::page("/public/x")).await.expect(200);
    app.gate.open();
    let answer = conn.answer("GET").await.expect(200);
    assert!(answer.whole && answer.text() == "first 0 bytes", "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_passes_with_its_trailers_both_ways() {
    let app = App::start(None).await;
    let house = before(&app, "http", "").await;
    let jar = house.signed_in().await;
    let mut h2 = H2::open(house.addr).await;
    let ask = Ask::script("/package.Service/Call").method("POST").line("te", "trailers").jar(&jar);
    let (answer, mut body) = h2.begin(request(&ask.line("content-type", "application/grpc"))).await;
    body.send_data(Bytes::from_static(b"hello"), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "1".parse().unwrap());
    trailers.insert("x-auth-user", "eve".parse().unwrap());
    body.send_trailers(trailers).unwrap();
    let answer = whole(within("an answer", answer).await.unwrap()).await.unwrap().expect(200);
    assert_eq!(
        (answer.text().as_str(), answer.trailers.get("grpc-status").unwrap().as_bytes()),
        ("5 bytes", &b"0"[..])
    );
    let (head, body, trailers) = app.last();
    assert_eq!(head.uri().to_string(), format!("http://{HOST}/package.Service/Call"));
    assert_eq!(
        (body.as_slice(), trailers.len(), trailers.get("x-sum").unwrap().as_bytes()),
        (&b"hello"[..], 1, &b"1"[..])
    );
    let lines = head.headers();
    assert!(lines.get("te").unwrap() == "trailers" && lines.get("x-auth-role").unwrap() == "admin");
    assert!(
        !lines.contains_key("connection") && !lines.contains_key("host") && !lines.contains_key("cookie")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_a_worker_share_a_connection_and_do_not_wait_for_each_other() {
    let app = App::start(None).await;
    let house = before(&app, "http", "").await;
    let mut slow = house.conn().await;
    slow.send(&Ask::page("/public/slow").bytes()).await;
    app.gate.reached_by(1).await;
    for n in 0..20 {
        let ask = Ask::new("POST", &format!("/public/{n}")).body(&[b'x'; 50_000]);
        assert_eq!(house.ask(&ask).await.expect(200).text(), "50000 bytes");
    }
    app.gate.open();
    slow.answer("GET").await.expect(200);
    assert!(app.connections.load(Ordering::SeqCst) <= WORKERS, "one for each thread that serves");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_said_goodbye_is_replaced() {
    let app = App::start(None).await;
    let house = before(&app, "http", "").await;
    for _ in 0..3 {
        house.ask(&Ask::page("/public/goodbye")).await.expect(200);
        house.ask(&Ask::page("/public/x")).await.expect(200);
    }
    assert!(app.connections.load(Ordering::SeqCst) >= 2);
    assert_eq!(app.got.lock().unwrap().len(), 6, "nothing was sent twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_tls_the_app_has_to_agree() {
    let authority = Authority::new();
    let app = App::start(Some(authority.acceptor_for("127.0.0.1", &["h2"]))).await;
    let house = before(&app, "https", &authority.trust()).await;
    house.ask(&Ask::page("/public/x")).await.expect(200);
    assert_eq!(app.last().0.uri().scheme_str(), Some("https"));
    for protocols in [&[][..], &["http/1.1"]] {
        let app = App::start(Some(authority.acceptor_for("127.0.0.1", protocols))).await;
        let house = before(&app, "https", &authority.trust()).await;
        house.ask(&Ask::page("/public/x")).await.expect(502);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_speaks_http1_alone_is_a_502() {
    let house =
        House::start(Plan { site: "upstream_protocol = \"http2\"\nhead = \"2s\"", ..Plan::default() }).await;
    house.ask(&Ask::page("/public/x")).await.expect(502);
}
