//! Clients that speak HTTP/2 get what others get: sessions, limits, streams of bytes, tunnels, and an orderly end.

use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use h2::client::ResponseFuture;
use http::{HeaderMap, Request};

use crate::support::http2::{
    CONTINUATION, DATA, END_STREAM, Frames, GOAWAY, H2, HEADERS, Outcome, RST_STREAM, block, pseudo, request,
    whole,
};
use crate::support::{
    Ask, Conn, Gate, HOST, House, Jar, ORIGIN, Plan, Step, head_of, ok, refused, until, within,
};
use crate::tls::{Authority, handshake, with_tls};
use crate::websocket::{Echo, switching};

async fn client(house: &House) -> H2 {
    H2::open(house.addr).await
}

fn limited(listen: &'static str) -> Plan<'static> {
    Plan { listen, ..Plan::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_renewed_and_the_app_sees_one_cookie_line() {
    let house = House::usual().await;
    let old = house.expired().await;
    let mut h2 = client(&house).await;
    let mut ask = Ask::page("/page");
    // Browsers send each cookie in a field of its own (RFC 9113 §8.2.3).
    for crumb in format!("theme=dark; {}; lang=en", old.line().unwrap()).split("; ") {
        ask = ask.line("Cookie", crumb);
    }
    let answer = h2.ask(&ask.line("X-Auth-User", "eve").line("x_auth_user", "eve")).await.expect(200);
    let set = answer
        .headers
        .get_all("set-cookie")
        .iter()
        .filter(|line| line.as_bytes().starts_with(b"access_token="));
    assert_eq!(set.count(), 1);
    assert!(answer.line("x-request-id").is_some() && answer.line("connection").is_none());
    let seen = house.upstream.last();
    assert_eq!(seen.head.first, "GET /page HTTP/1.1");
    assert_eq!(seen.line("cookie"), Some("theme=dark; lang=en"));
    assert_eq!(seen.line("host"), Some(HOST));
    assert_ne!(seen.line("x-auth-user"), Some("eve"));
    assert_eq!(seen.head.folded_names().iter().filter(|name| *name == "x_auth_user").count(), 1);
    let counted = "doorkeep_requests_by_version_total{version=\"2\"} 1";
    assert!(house.door().meters.text().contains(counted), "{}", house.door().meters.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_tls_the_client_chooses() {
    let authority = Authority::new();
    let (house, _folder) = with_tls(&authority, &[HOST], "").await;
    let stream = handshake(&house, &authority, HOST, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    H2::over(stream).await.ask(&Ask::page("/public/x")).await.expect(200);
    let stream = handshake(&house, &authority, HOST, &["http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    Conn::over(stream).ask(&Ask::page("/public/x")).await.expect(200);
    // Without an agreement it is HTTP/1.1, also for a client that only says that it speaks HTTP/2.
    let mut conn = Conn::over(handshake(&house, &authority, HOST, &[]).await.unwrap());
    conn.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    conn.closed().await;
    assert_eq!(house.upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_settings_say_so_it_is_not_spoken() {
    let authority = Authority::new();
    let (house, _folder) = with_tls(&authority, &[HOST], "[listen.http2]\nenabled = false").await;
    let stream = handshake(&house, &authority, HOST, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let plain = House::start(limited("[listen.http2]\nwithout_tls = false")).await;
    for house in [&house, &plain] {
        let mut conn = house.conn().await;
        conn.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        conn.closed().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_to_it_is_not_followed() {
    let house = House::usual().await;
    let ask = Ask::page("/public/x")
        .line("Connection", "Upgrade, HTTP2-Settings")
        .line("Upgrade", "h2c")
        .line("HTTP2-Settings", "AAMAAABkAAQAAP__");
    house.ask(&ask).await.expect(200);
    let seen = house.upstream.last();
    assert_eq!((seen.line("upgrade"), seen.line("http2-settings")), (None, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_slow_answer_holds_nobody_back() {
    let house = House::usual().await;
    let gate = Gate::closed();
    house.upstream.on("/public/slow", vec![Step::Wait(gate.clone()), Step::Send(ok("slow"))]);
    let mut h2 = client(&house).await;
    let (slow, _body) = h2.begin(request(&Ask::page("/public/slow"))).await;
    gate.reached_by(1).await;
    for n in 0..50 {
        h2.ask(&Ask::page(&format!("/public/{n}"))).await.expect(200);
    }
    gate.open();
    assert_eq!(whole(within("the slow one", slow).await.unwrap()).await.unwrap().expect(200).text(), "slow");
    assert_eq!(house.door().meters.connections.get(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_and_trailers_pass_both_ways() {
    let house = House::usual().await;
    let piece = vec![b'x'; 100_000];
    let mut steps = vec![Step::ReadBody];
    let lines = [("Transfer-Encoding", "chunked"), ("Trailer", "X-Sum, Grpc-Status")];
    steps.push(Step::Send(head_of("200 OK", &lines)));
    steps.push(Step::Repeat([format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat(), 20));
    steps.push(Step::Send(b"0\r\nX-Sum: 7\r\nGrpc-Status: 0\r\nContent-Length: 3\r\n\r\n".to_vec()));
    house.upstream.on("/public/rpc", steps);
    let mut h2 = client(&house).await;
    let ask = Ask::new("POST", "/public/rpc").line("te", "trailers").line("trailer", "x-own, x-auth-user");
    let (answer, mut body) = h2.begin(request(&ask)).await;
    let sent = house.tasks.spawn(async move {
        for _ in 0..20 {
            let mut left = Bytes::from(vec![b'y'; 100_000]);
            while !left.is_empty() {
                body.reserve_capacity(left.len());
                let room = std::future::poll_fn(|cx| body.poll_capacity(cx)).await.unwrap().unwrap();
                body.send_data(left.split_to(room.min(left.len())), false).unwrap();
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-own", "1".parse().unwrap());
        trailers.insert("x-auth-user", "eve".parse().unwrap());
        body.send_trailers(trailers).unwrap();
    });
    let answer = whole(within("an answer", answer).await.unwrap()).await.unwrap().expect(200);
    sent.await.unwrap();
    assert_eq!(answer.body.len(), 2_000_000);
    assert_eq!(answer.trailers.get("x-sum").unwrap(), "7");
    assert_eq!(answer.trailers.get("grpc-status").unwrap(), "0");
    assert!(!answer.trailers.contains_key("content-length"));
    let seen = house.upstream.last();
    assert_eq!((seen.body.len(), seen.line("te")), (2_000_000, Some("trailers")));
    assert_eq!(seen.trailers, [("x-own".to_owned(), "1".to_owned())]);
    assert_eq!(seen.line("transfer-encoding"), Some("chunked"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_piece_is_passed_on_as_it_comes() {
    let house = House::usual().await;
    let (first, second) = (Gate::closed(), Gate::closed());
    let lines = [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")];
    house.upstream.on(
        "/public/events",
        vec![
            Step::Send(head_of("200 OK", &lines)),
            Step::Wait(first.clone()),
            Step::Send(b"7\r\ndata: 1\r\n".to_vec()),
            Step::Wait(second.clone()),
            Step::Send(b"7\r\ndata: 2\r\n0\r\n\r\n".to_vec()),
        ],
    );
    let mut h2 = client(&house).await;
    let (answer, _body) = h2.begin(request(&Ask::page("/public/events"))).await;
    let mut stream = within("the head", answer).await.unwrap().into_body();
    first.open();
    assert_eq!(within("a piece", stream.data()).await.unwrap().unwrap(), "data: 1");
    second.open();
    assert_eq!(within("a piece", stream.data()).await.unwrap().unwrap(), "data: 2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_without_a_body_have_none() {
    let house = House::usual().await;
    house.upstream.answers("/public/204", head_of("204 No Content", &[]));
    house.upstream.answers("/public/304", head_of("304 Not Modified", &[("ETag", "\"1\"")]));
    house.upstream.answers("/public/head", head_of("200 OK", &[("Content-Length", "1000")]));
    let mut h2 = client(&house).await;
    assert!(h2.ask(&Ask::page("/public/204")).await.expect(204).body.is_empty());
    assert!(h2.ask(&Ask::page("/public/304")).await.expect(304).body.is_empty());
    let head = h2.ask(&Ask::page("/public/head").method("HEAD")).await.expect(200);
    assert_eq!((head.line("content-length"), head.body.len()), (Some("1000"), 0));
    h2.ask(&Ask::page("/public/x")).await.expect(200);
    let expecting = Ask::new("POST", "/public/y").line("expect", "100-continue").body(b"abc");
    h2.ask(&expecting).await.expect(200);
    assert_eq!(house.upstream.last().body, b"abc");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_says_goodbye_and_finishes_what_has_begun() {
    let mut house = House::usual().await;
    let gate = Gate::closed();
    house.upstream.on("/public/slow", vec![Step::Wait(gate.clone()), Step::Send(ok("slow but whole"))]);
    let mut idle = client(&house).await;
    idle.ask(&Ask::page("/public/x")).await.expect(200);
    let mut busy = Frames::open(house.addr).await;
    busy.head(1, END_STREAM, &pseudo("GET", "/public/slow")).await;
    gate.reached_by(1).await;
    let addr = house.addr;
    let draining = house.tasks.spawn(house.door.take().unwrap().drain());
    refused(addr).await;
    while busy.next().await.expect("a goodbye").kind != GOAWAY {}
    within("the end of an idle connection", idle.connection).await.unwrap().unwrap();
    gate.open();
    let mut whole = Vec::new();
    while let Some(frame) = busy.next().await {
        if frame.kind == DATA {
            whole.extend_from_slice(&frame.payload);
        }
    }
    assert_eq!(whole, b"slow but whole");
    assert_eq!(within("the drain", draining).await.unwrap().unwrap(), doorkeep::server::Drained::All);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_requests_ends_whatever_else_its_client_sends() {
    let house = House::start(limited("idle = \"300ms\"")).await;
    let mut frames = Frames::open(house.addr).await;
    frames.head(1, END_STREAM, &pseudo("GET", "/public/x")).await;
    assert_eq!(frames.outcome(1).await, Outcome::Status(200));
    let pinging = async {
        loop {
            frames.send(6, 0, 0, &[0; 8]).await;
            if matches!(tokio::time::timeout(Duration::from_millis(20), frames.next()).await, Ok(None)) {
                return;
            }
        }
    };
    within("the end", pinging).await;
    // One that is asking is left alone.
    let gate = Gate::closed();
    house.upstream.on("/public/slow", vec![Step::Wait(gate.clone()), Step::Send(ok("slow"))]);
    let mut h2 = client(&house).await;
    let (answer, _body) = h2.begin(request(&Ask::page("/public/slow"))).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    gate.open();
    assert_eq!(within("an answer", answer).await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_does_not_end_is_not_waited_for() {
    let house = House::start(limited("idle = \"300ms\"\nhead = \"300ms\"")).await;
    let mut silent = house.conn().await;
    silent.send(b"PRI * HTTP/2.0\r\n").await;
    silent.closed().await;
    let mut frames = Frames::open(house.addr).await;
    frames.send(HEADERS, END_STREAM, 1, &block(&pseudo("GET", "/public/x"))).await;
    let trickling = async {
        while frames.conn.stream_is_open().await {
            frames.send(CONTINUATION, 0, 1, &[]).await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(12), trickling).await;
    assert!(ended.is_ok(), "an endless head was waited for");
    assert_eq!(house.upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_opens_no_window_is_given_up() {
    let house = House::start(limited("write = \"400ms\"\nidle = \"60s\"")).await;
    house.upstream.on(
        "/public/large",
        vec![
            Step::Send(head_of("200 OK", &[("Content-Length", "100000000")])),
            Step::Repeat(vec![0; 1_000_000], 100),
        ],
    );
    let mut frames = Frames::open(house.addr).await;
    frames.head(1, END_STREAM, &pseudo("GET", "/public/large")).await;
    frames.head(3, END_STREAM, &pseudo("GET", "/public/other")).await;
    let reset = async {
        loop {
            let frame = frames.next().await.expect("a frame");
            if frame.kind == RST_STREAM && frame.stream == 1 {
                return;
            }
        }
    };
    within("the end of a stream that is not taken", reset).await;
    until("the app to be let go", || house.upstream.ended() >= 1).await;
    assert!(house.upstream.sent() < 30_000_000, "{}", house.upstream.sent());
    frames.head(5, END_STREAM, &pseudo("HEAD", "/public/large")).await;
    assert_eq!(frames.outcome(5).await, Outcome::Status(200), "the connection itself is in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_is_not_given_up() {
    let house = House::start(limited("write = \"500ms\"")).await;
    house.upstream.answers("/public/large", ok(&"x".repeat(600_000)));
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(16 * 1024).initial_connection_window_size(1 << 16);
    let stream = tokio::net::TcpStream::connect(house.addr).await.unwrap();
    let mut h2 = H2::with(builder, stream).await;
    let (answer, _body) = h2.begin(request(&Ask::page("/public/large"))).await;
    let mut body = within("the head", answer).await.unwrap().into_body();
    let mut came = 0;
    while let Some(piece) = within("a piece", body.data()).await {
        let piece = piece.unwrap();
        came += piece.len();
        if came < 120_000 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        body.flow_control().release_capacity(piece.len()).unwrap();
    }
    assert_eq!(came, 600_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_and_bodies_have_their_limits() {
    let house = House::start(limited("head_bytes = \"16KiB\"\nhead_fields = 20\nbody = \"100KiB\"")).await;
    let mut h2 = client(&house).await;
    let mut many = Ask::page("/public/x");
    for n in 0..21 {
        many = many.line(&format!("X-{n}"), "1");
    }
    h2.ask(&many).await.expect(431);
    let long = Ask::page("/public/x").line("X-Long", &"x".repeat(17_000));
    h2.ask(&long).await.expect(431);
    h2.ask(&Ask::new("POST", "/public/x").body(&[0; 100 * 1024 + 1])).await.expect(413);
    // Without a declared length it is found out on the way.
    let (answer, mut body) = h2.begin(request(&Ask::new("POST", "/public/y"))).await;
    body.send_data(Bytes::from(vec![0; 120 * 1024]), true).unwrap();
    assert_eq!(within("an answer", answer).await.unwrap().status(), 413);
    assert!(house.upstream.seen().iter().all(|seen| seen.body.len() <= 100 * 1024));
    h2.ask(&Ask::page("/public/z")).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_requests_at_a_time_and_no_more() {
    let house = House::start(limited("[listen.http2]\nstreams = 3")).await;
    let gate = Gate::closed();
    house.upstream.on("/public/slow", vec![Step::Wait(gate.clone()), Step::Send(ok("slow"))]);
    let mut frames = Frames::open(house.addr).await;
    for stream in [1, 3, 5, 7] {
        frames.head(stream, END_STREAM, &pseudo("GET", "/public/slow")).await;
    }
    assert_eq!(frames.outcome(7).await, Outcome::Reset);
    gate.reached_by(3).await;
    assert_eq!(house.upstream.count(), 3);
    gate.open();
    assert_eq!(frames.outcome(5).await, Outcome::Status(200));
}

/// Begins a WebSocket's handshake (RFC 8441 §4).
async fn opening(h2: &mut H2, jar: &Jar, origin: &str) -> (ResponseFuture, SendStream<Bytes>) {
    // The setting that allows it comes with the first frames of the other end.
    until("extended CONNECT to be allowed", || h2.send.is_extended_connect_protocol_enabled()).await;
    let handshake = Request::connect(format!("https://{HOST}/socket"))
        .version(http::Version::HTTP_2)
        .extension(h2::ext::Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .header("origin", origin)
        .header("cookie", jar.line().unwrap())
        .body(())
        .unwrap();
    h2.begin(handshake).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_is_opened_by_extended_connect() {
    let echo = Echo::start(switching()).await;
    let plan = Plan { upstream: Some(&echo.url()), listen: "idle = \"200ms\"", ..Plan::default() };
    let house = House::start(plan).await;
    let jar = house.signed_in().await;
    let mut h2 = client(&house).await;
    let (refused, _body) = opening(&mut h2, &jar, "https://elsewhere.example").await;
    assert_eq!(within("an answer", refused).await.unwrap().status(), 403);
    let (answer, mut to) = opening(&mut h2, &jar, ORIGIN).await;
    let answer = within("an answer", answer).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(
        !answer.headers().contains_key("sec-websocket-accept") && !answer.headers().contains_key("upgrade")
    );
    let mut from = answer.into_body();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        to.send_data(Bytes::from_static(b"hello"), false).unwrap();
        let mut back = Vec::new();
        while back.len() < 5 {
            let piece = within("an echo", from.data()).await.unwrap().unwrap();
            from.flow_control().release_capacity(piece.len()).unwrap();
            back.extend_from_slice(&piece);
        }
        assert_eq!(back, b"hello");
    }
    let head = echo.head();
    assert!(head.starts_with("GET /socket HTTP/1.1\r\n"), "{head}");
    assert!(head.to_ascii_lowercase().contains("sec-websocket-key: "), "{head}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_does_not_switch_opens_no_websocket() {
    for (status, body) in [("200 OK", ""), ("200 OK", "hello"), ("204 No Content", "")] {
        let length = body.len().to_string();
        let lines = [("Content-Length", &*length), ("Content-Type", "a/b"), ("Set-Cookie", "theme=dark")];
        let echo = Echo::start([&head_of(status, &lines), body.as_bytes()].concat()).await;
        let house = House::start(Plan { upstream: Some(&echo.url()), ..Plan::default() }).await;
        let jar = house.signed_in().await;
        let mut h2 = client(&house).await;
        let (answer, _body) = opening(&mut h2, &jar, ORIGIN).await;
        let answer = whole(within("an answer", answer).await.unwrap()).await.unwrap().expect(502);
        assert_eq!((answer.body.len(), answer.line("content-type")), (0, None));
        assert_eq!(answer.line("set-cookie"), Some("theme=dark"));
        assert!(answer.line("x-request-id").is_some());
        assert!(echo.head().to_ascii_lowercase().contains("upgrade: websocket"), "{}", echo.head());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_that_names_a_length_opens_a_websocket_all_the_same() {
    let lines = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Content-Length", "5")];
    let echo = Echo::start(head_of("101 Switching Protocols", &lines)).await;
    let house = House::start(Plan { upstream: Some(&echo.url()), ..Plan::default() }).await;
    let jar = house.signed_in().await;
    let (answer, _body) = opening(&mut client(&house).await, &jar, ORIGIN).await;
    let answer = within("an answer", answer).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers().get("content-length")), (200, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_other_connect_is_refused() {
    let house = House::usual().await;
    let mut frames = Frames::open(house.addr).await;
    let plain: [(&[u8], &[u8]); 2] = [(b":method", b"CONNECT"), (b":authority", HOST.as_bytes())];
    frames.head(1, END_STREAM, &plain).await;
    assert_eq!(frames.outcome(1).await, Outcome::Status(400));
    let mut other = pseudo("CONNECT", "/x");
    other.push((b":protocol", b"connect-udp"));
    frames.head(3, END_STREAM, &other).await;
    assert_eq!(frames.outcome(3).await, Outcome::Status(400));
    assert_eq!(house.upstream.count(), 0);
}
