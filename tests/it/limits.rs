//! What a client may take: bytes, fields, time and connections.

use std::time::Duration;

use crate::support::http2::{H2, request, whole};
use crate::support::{Ask, Conn, Gate, HOST, House, Plan, Step, head_of, ok, until, within};

fn limited(listen: &'static str) -> Plan<'static> {
    Plan { listen, ..Plan::default() }
}

/// The connection is ended, with or without an answer, and the app sees nothing.
async fn too_much(house: &House, bytes: &[u8], statuses: &[u16]) {
    let mut conn = house.conn().await;
    conn.send_if_wanted(bytes).await;
    let answer = conn.try_answer("GET").await.expect("an answer");
    assert!(statuses.contains(&answer.status), "{}", answer.status);
    assert!(answer.line("x-request-id").is_some(), "{}", String::from_utf8_lossy(&answer.head.raw));
    conn.closed().await;
    assert_eq!(house.upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_has_its_limits() {
    let house = House::start(limited("head_bytes = \"16KiB\"\nhead_fields = 20")).await;
    let fits = Ask::page("/public/x").line("X-Long", &"x".repeat(10_000));
    house.ask(&fits).await.expect(200);
    let house = House::start(limited("head_bytes = \"16KiB\"\nhead_fields = 20")).await;
    let long = Ask::page("/public/x").line("X-Long", &"x".repeat(17_000));
    too_much(&house, &long.bytes(), &[431, 400]).await;
    let mut many = Ask::page("/public/x");
    for n in 0..21 {
        many = many.line(&format!("X-{n}"), "1");
    }
    too_much(&house, &many.bytes(), &[431, 400]).await;
    let endless = format!("GET /public/x HTTP/1.1\r\nHost: {HOST}\r\nX-Long: {}", "x".repeat(200_000));
    too_much(&house, endless.as_bytes(), &[431, 400]).await;
    let long = format!("GET /public/{} HTTP/1.1\r\nHost: {HOST}\r\n\r\n", "x".repeat(17_000));
    too_much(&house, long.as_bytes(), &[414, 431, 400]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_is_too_long_is_told_so() {
    let house = House::usual().await;
    let long = format!("GET /public/{} HTTP/1.1\r\nHost: {HOST}\r\n\r\n", "x".repeat(17_000));
    too_much(&house, long.as_bytes(), &[414]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_does_not_end_is_not_waited_for() {
    let house = House::start(limited("head = \"200ms\"\nidle = \"60s\"")).await;
    let mut silent = house.conn().await;
    silent.send(b"GET /public/x HTTP/1.1\r\nHost: ").await;
    within("the end of a silent head", ended(&mut silent)).await;
    let mut trickling = house.conn().await;
    within("the end of a trickling head", async {
        while tokio::io::AsyncWriteExt::write_all(&mut trickling.stream, b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(house.upstream.count(), 0);
    until("both to be gone", || house.door().meters.connections.get() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let house = House::start(limited("head = \"60s\"\nidle = \"300ms\"")).await;
    let mut never = house.conn().await;
    within("the end of a connection that asks nothing", ended(&mut never)).await;
    let mut idle = house.conn().await;
    idle.ask(&Ask::page("/public/x")).await.expect(200);
    within("the end of an idle connection", ended(&mut idle)).await;
    let gate = Gate::closed();
    house.upstream.on("/public/slow", vec![Step::Wait(gate.clone()), Step::Send(ok("slow"))]);
    let mut busy = house.conn().await;
    busy.send(&Ask::page("/public/slow").bytes()).await;
    gate.reached_by(1).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    gate.open();
    busy.answer("GET").await.expect(200);
}

async fn ended(conn: &mut Conn) {
    while matches!(conn.reader.more(&mut conn.stream).await, Ok(n) if n > 0) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_connections_and_no_more() {
    let house = House::start(limited("connections = 2")).await;
    let mut one = house.conn().await;
    one.ask(&Ask::page("/public/x")).await.expect(200);
    let mut two = house.conn().await;
    two.ask(&Ask::page("/public/x")).await.expect(200);
    let mut three = house.conn().await;
    within("the end of one too many", ended(&mut three)).await;
    assert!(three.reader.buf.is_empty());
    assert_eq!(house.door().meters.connections_refused.get(), 1);
    one.ask(&Ask::page("/public/x")).await.expect(200);
    drop(two);
    until("room", || house.door().meters.connections.get() == 1).await;
    house.ask(&Ask::page("/public/x")).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_sent_ahead_are_answered_in_order() {
    let house = House::usual().await;
    let mut conn = house.conn().await;
    let both =
        [Ask::page("/public/1").bytes(), Ask::page("/protected").bytes(), Ask::page("/public/3").bytes()];
    conn.send(&both.concat()).await;
    assert_eq!(conn.answer("GET").await.expect(200).text(), "app: /public/1\n");
    conn.answer("GET").await.expect(302);
    assert_eq!(conn.answer("GET").await.expect(200).text(), "app: /public/3\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_see_health_readiness_and_counters_elsewhere() {
    let house = House::start(limited("admin = \"127.0.0.1:0\"")).await;
    let admin = house.door().admin.expect("an admin listener");
    let ask =
        |target: &'static str| async move { Conn::open(admin).await.ask(&Ask::new("GET", target)).await };
    ask("/healthz").await.expect(200);
    ask("/readyz").await.expect(200);
    let jar = house.expired().await;
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    let metrics = ask("/metrics").await.expect(200).text();
    assert!(metrics.contains("doorkeep_renewals_total{outcome=\"renewed\"} 1"), "{metrics}");
    assert!(metrics.contains("doorkeep_requests_total{verdict=\"admit\",status=\"200\"} 1"), "{metrics}");
    for path in ["/healthz", "/readyz", "/metrics"] {
        house.ask(&Ask::page(path)).await.expect(302);
    }
}

/// A connection that begins with these bytes, and its answer to a public page.
async fn begun_with(house: &House, head: &[u8]) -> Option<u16> {
    let mut conn = house.conn().await;
    conn.send_if_wanted(&[head, &Ask::page("/public/x").bytes()].concat()).await;
    conn.try_answer("GET").await.map(|answer| answer.status)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listed_load_balancers_say_whose_a_connection_is() {
    let house = House::start(limited("proxy_protocol = \"127.0.0.0/8\"\nhead = \"400ms\"")).await;
    let head = b"PROXY TCP4 198.51.100.7 10.0.0.1 8080 80\r\n";
    assert_eq!(begun_with(&house, head).await, Some(200));
    let seen = house.upstream.last();
    assert_eq!(seen.line("x-forwarded-for"), Some("198.51.100.7"));
    assert_eq!(seen.line("x-real-ip"), Some("198.51.100.7"));
    let v2 =
        [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[203, 0, 113, 9, 10, 0, 0, 1, 1, 1, 0, 80]].concat();
    assert_eq!(begun_with(&house, &v2).await, Some(200));
    assert_eq!(house.upstream.last().line("x-forwarded-for"), Some("203.0.113.9"));
    // From there a head has to come, whole and in time.
    assert_eq!(begun_with(&house, b"").await, None);
    assert_eq!(begun_with(&house, b"PROXY TCP4 1.1.1.1\r\n").await, None);
    let mut silent = house.conn().await;
    silent.send(b"PROXY TCP4 ").await;
    silent.closed().await;
    // A second head is no request.
    assert_eq!(begun_with(&house, &[head, &head[..]].concat()).await, Some(400));
    assert_eq!(house.upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_says_whose_a_connection_is() {
    let house = House::start(limited("proxy_protocol = \"10.0.0.0/8\"")).await;
    assert_eq!(begun_with(&house, b"PROXY TCP4 198.51.100.7 10.0.0.1 8080 80\r\n").await, Some(400));
    assert_eq!(begun_with(&house, b"").await, Some(200));
    assert_eq!(house.upstream.last().line("x-forwarded-for"), Some("127.0.0.1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_connections_for_each_client() {
    let house = House::start(limited("connections_per_client = 2\nproxy_protocol = \"127.0.0.0/8\"")).await;
    let from = |ip: &'static str| {
        let addr = house.addr;
        async move {
            let mut conn = Conn::open(addr).await;
            conn.send_if_wanted(format!("PROXY TCP4 {ip} 10.0.0.1 8080 80\r\n").as_bytes()).await;
            conn.send_if_wanted(&Ask::page("/public/x").bytes()).await;
            let answered = conn.try_answer("GET").await.is_some();
            (conn, answered)
        }
    };
    let (one, two, three) =
        (from("198.51.100.7").await, from("198.51.100.7").await, from("198.51.100.7").await);
    assert_eq!((one.1, two.1, three.1), (true, true, false));
    assert!(from("198.51.100.8").await.1, "another client has places of its own");
    drop(one);
    until("room", || house.door().meters.connections.get() == 1).await;
    assert!(from("198.51.100.7").await.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_have_limits_by_site_and_rule() {
    let plan = Plan {
        listen: "body = \"1KiB\"",
        site: "body = \"4KiB\"",
        rules: "[[site.rule]]\npath = \"/public/small/*\"\naccess = \"public\"\nbody = \"16B\"\n\
                [[site.rule]]\npath = \"/public/large/*\"\naccess = \"public\"\nbody = \"64KiB\"",
        ..Plan::default()
    };
    let house = House::start(plan).await;
    for (path, size, status) in [
        ("/public/x", 4096, 200),
        ("/public/x", 4097, 413),
        ("/public/small/x", 16, 200),
        ("/public/small/x", 17, 413),
        ("/public/large/x", 65536, 200),
        ("/public/large/x", 65537, 413),
    ] {
        house.ask(&Ask::new("POST", path).body(&vec![0; size])).await.expect(status);
        let chunked = [
            format!("POST {path} HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n")
                .as_bytes(),
            &vec![0; size],
            b"\r\n0\r\n\r\n",
        ]
        .concat();
        let mut conn = house.conn().await;
        conn.send_if_wanted(&chunked).await;
        conn.answer("POST").await.expect(status);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_without_tls_is_sent_to_it() {
    let house = House::start(limited("redirect = true")).await;
    let answer =
        house.ask(&Ask::page("/page?a=b").with("Host", Some("APP.test.example:8080"))).await.expect(308);
    assert_eq!(answer.line("location"), Some("https://app.test.example/page?a=b"));
    house.ask(&Ask::form("/public/x", "a=b")).await.expect(308);
    house.ask(&Ask::page("/x").with("Host", Some("evil.example"))).await.expect(421);
    assert_eq!(house.upstream.count(), 0);
    let challenge = "[[site.rule]]\npath = \"/.well-known/acme-challenge/*\"\naccess = \"public\"";
    let behind = Plan { listen: "redirect = true", rules: challenge, ..Plan::default() };
    let house = House::start(behind).await;
    house.ask(&Ask::page("/.well-known/acme-challenge/token")).await.expect(200);
    let proxied = Plan { listen: "redirect = true\ntrusted = \"127.0.0.1\"", ..Plan::default() };
    House::start(proxied).await.ask(&Ask::page("/public/x")).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_that_write_forwarded_are_read_so() {
    let house = House::start(limited("trusted = \"127.0.0.1\"\ntrusted_header = \"forwarded\"")).await;
    let ask = Ask::page("/public/x")
        .line("Forwarded", "for=6.6.6.6, for=\"[2001:db8::7]:99\"")
        .line("X-Forwarded-For", "7.7.7.7");
    house.ask(&ask).await.expect(200);
    let seen = house.upstream.last();
    assert_eq!(seen.line("x-forwarded-for"), Some("2001:db8::7, 127.0.0.1"));
    assert_eq!(seen.line("x-real-ip"), Some("2001:db8::7"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_after_a_body_has_limits_both_ways() {
    let house = House::start(limited("trailer_bytes = \"256B\"\ntrailer_fields = 4")).await;
    let fields = |count: usize, size: usize| -> Vec<(String, String)> {
        (0..count).map(|n| (format!("x-{n}"), "y".repeat(size))).collect()
    };
    let chunked = |fields: &[(String, String)]| {
        let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("3\r\nabc\r\n0\r\n{fields}\r\n").into_bytes()
    };
    let head = format!("POST /public/x HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (count, size, fits) in [(4, 60, true), (5, 1, false), (2, 130, false)] {
        let fields = fields(count, size);
        let status = if fits { 200 } else { 431 };
        let mut conn = house.conn().await;
        conn.send_if_wanted(&[head.as_bytes(), &chunked(&fields)].concat()).await;
        conn.answer("POST").await.expect(status);
        let mut h2 = H2::open(house.addr).await;
        let (answer, mut body) = h2.begin(request(&Ask::new("POST", "/public/x"))).await;
        body.send_data("abc".into(), false).unwrap();
        let named = fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        body.send_trailers(named.collect()).unwrap();
        whole(within("an answer", answer).await.unwrap()).await.unwrap().expect(status);
        // An answer's head has gone when its trailers come: it is broken off.
        let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(", ");
        let answer = head_of("200 OK", &[("Transfer-Encoding", "chunked"), ("Trailer", &names)]);
        house.upstream.answers("/public/down", [answer, chunked(&fields)].concat());
        let got = house.ask(&Ask::script("/public/down").line("TE", "trailers")).await.expect(200);
        assert_eq!((got.whole, got.trailers.len()), (fits, if fits { count } else { 0 }));
        let got = h2.try_ask(&Ask::script("/public/down").line("te", "trailers")).await;
        assert_eq!(got.map(|answer| answer.trailers.len()).ok(), fits.then_some(count));
    }
}
