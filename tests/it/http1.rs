//! Clients of all ages, and what is passed on of what they say.

use crate::support::{Ask, HOST, House, Plan, Step, Upstream, answer, head_of, ok};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_client_gets_an_answer_that_it_can_read() {
    let house = House::usual().await;
    let body = "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let pieces = [head_of("200 OK", &[("Transfer-Encoding", "chunked")]), body.as_bytes().to_vec()].concat();
    house.upstream.answers("/public/x", pieces);
    let mut conn = house.conn().await;
    conn.send(format!("GET /public/x HTTP/1.0\r\nHost: {HOST}\r\n\r\n").as_bytes()).await;
    let got = conn.answer("GET").await.expect(200);
    assert_eq!(got.line("transfer-encoding"), None);
    assert_eq!(got.text(), "abcde");
    conn.closed().await;
    let mut conn = house.conn().await;
    conn.send(b"GET /public/x HTTP/1.0\r\n\r\n").await;
    conn.answer("GET").await.expect(400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_asks_to_close_is_closed() {
    let house = House::usual().await;
    let mut conn = house.conn().await;
    conn.ask(&Ask::page("/public/x").line("Connection", "close")).await.expect(200);
    conn.closed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_and_methods_pass_as_they_are() {
    let house = House::usual().await;
    let mut conn = house.conn().await;
    let mut bytes = format!("BREW /public/x HTTP/1.1\r\nHost: {HOST}\r\nX-Name: J").into_bytes();
    bytes.extend_from_slice(b"\xfcrgen \t x\r\nX-Empty:\r\n\r\n");
    conn.send(&bytes).await;
    conn.answer("BREW").await.expect(200);
    let seen = house.upstream.last();
    assert_eq!(seen.method, "BREW");
    let sent = b"J\xfcrgen \t x\r\n";
    assert!(seen.head.raw.windows(sent.len()).any(|part| part == sent), "{:?}", seen.head.lines);
    assert_eq!(seen.line("x-empty"), Some(""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_head_without_end_is_a_502() {
    let house = House::usual().await;
    let begin = b"HTTP/1.1 200 OK\r\nX-Long: ".to_vec();
    house
        .upstream
        .on("/public/long", vec![Step::Send(begin), Step::Repeat(vec![b'x'; 64 * 1024], 1000), Step::Close]);
    house.ask(&Ask::page("/public/long")).await.expect(502);
    let many: Vec<u8> = (0..2000).flat_map(|n| format!("X-{n}: 1\r\n").into_bytes()).collect();
    let head = [b"HTTP/1.1 200 OK\r\n".to_vec(), many, b"Content-Length: 0\r\n\r\n".to_vec()].concat();
    house.upstream.answers("/public/many", head);
    house.ask(&Ask::page("/public/many")).await.expect(502);
    house.ask(&Ask::page("/public/fine")).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_and_errors_of_the_app_are_its_own() {
    let house = House::usual().await;
    for status in
        ["301 Moved", "302 Found", "307 There", "401 Who", "403 No", "404 Where", "500 Oh", "503 Later"]
    {
        let lines = [
            ("Location", "https://elsewhere.example/x?y"),
            ("Retry-After", "7"),
            ("WWW-Authenticate", "Basic"),
        ];
        house.upstream.answers("/public/x", answer(status, &lines, "theirs"));
        let got = house.ask(&Ask::page("/public/x")).await.expect(status[..3].parse().unwrap());
        assert_eq!((got.text().as_str(), got.line("retry-after")), ("theirs", Some("7")));
        assert_eq!(got.line("location"), Some("https://elsewhere.example/x?y"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_goes_on_and_each_request_has_an_id() {
    let house = House::usual().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let ask = Ask::page("/public/x").line("traceparent", &format!("00-{trace}-00f067aa0ba902b7-01"));
    let got = house.ask(&ask.line("tracestate", "a=1")).await.expect(200);
    let seen = house.upstream.last();
    let parent = seen.line("traceparent").unwrap().to_owned();
    assert!(parent.starts_with(&format!("00-{trace}-")) && !parent.contains("00f067aa0ba902b7"), "{parent}");
    assert_eq!(seen.line("tracestate"), Some("a=1"));
    assert_eq!(seen.line("x-request-id"), got.line("x-request-id"));
    let next = house.ask(&Ask::page("/public/x")).await.expect(200);
    assert_ne!(next.line("x-request-id"), got.line("x-request-id"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_host_has_its_own_app_and_rules() {
    let tasks = tokio_util::task::TaskTracker::new();
    let other = Upstream::start(&tasks).await;
    other.answers("/", ok("the other app"));
    let rules = format!(
        "[[site]]\nhost = \"other.test.example\"\norigin = \"https://other.test.example\"\nupstream = [\"http://{}\"]\n\
         [[site.rule]]\npath = \"/open\"\naccess = \"public\"",
        other.addr
    );
    let cookies = "domain = \"test.example\"";
    let house = House::start(Plan { cookies, rules: &rules, ..Plan::default() }).await;
    let there = |ask: Ask| ask.with("Host", Some("other.test.example"));
    assert_eq!(house.ask(&there(Ask::page("/open"))).await.expect(200).text(), "the other app");
    house.ask(&there(Ask::page("/public/x"))).await.expect(302);
    house.ask(&Ask::page("/open")).await.expect(302);
    // One session for both, and our note about it with it.
    let mut jar = house.expired().await;
    jar.take(&house.ask(&Ask::page("/page").jar(&jar)).await.expect(200));
    assert_eq!(house.ask(&there(Ask::page("/page").jar(&jar))).await.expect(200).text(), "the other app");
    house.later(610);
    let jar = jar.without("access_token");
    house.ask(&there(Ask::script("/data").jar(&jar))).await.expect(200);
    assert_eq!(house.backend.renewals().len(), 2);
    assert_eq!((house.upstream.count(), other.count()), (1, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_of_an_app_take_turns() {
    let tasks = tokio_util::task::TaskTracker::new();
    let second = Upstream::start(&tasks).await;
    let first = Upstream::start(&tasks).await;
    let both = format!("http://{}\", \"http://{}", first.addr, second.addr);
    let house = House::start(Plan { upstream: Some(&both), ..Plan::default() }).await;
    for _ in 0..6 {
        house.ask(&Ask::page("/public/x")).await.expect(200);
    }
    assert_eq!((first.count(), second.count()), (3, 3));
}
