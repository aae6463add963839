//! Bodies stream through unchanged in both directions, under limits, and whatever breaks is told as what it is.

use std::time::Duration;

use tokio::time::timeout;

use crate::support::{
    Answer, Ask, Conn, Gate, HOST, House, Plan, State, Step, answer, closed_port, head_of, ok, until, within,
};

const MIB: usize = 1 << 20;

/// Bytes that repeat nowhere near.
fn bytes(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(count).collect()
}

fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + body.len() / size * 16 + 16);
    for piece in body.chunks(size) {
        out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

/// The head of an upload to a public path.
fn upload(target: &str, framing: &str) -> Vec<u8> {
    format!("POST {target} HTTP/1.1\r\nHost: {HOST}\r\n{framing}\r\n\r\n").into_bytes()
}

fn names_itself(answer: &Answer) {
    assert_eq!(answer.line("x-request-id").expect("a request id").len(), 32);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_megabytes_go_up_byte_for_byte() {
    let house = House::usual().await;
    let body = bytes(20 * MIB);
    let jar = house.signed_in().await;
    let got = house.ask(&Ask::script("/upload").method("PUT").jar(&jar).body(&body)).await.expect(200);
    assert!(got.whole);
    let seen = house.upstream.last();
    assert_eq!(seen.line("content-length"), Some(body.len().to_string().as_str()));
    assert!(seen.state == State::Whole && seen.body == body);
    let mut conn = house.conn().await;
    conn.send(&upload("/public/upload", "Transfer-Encoding: chunked")).await;
    conn.send(&chunked(&body, 70_001)).await;
    conn.answer("POST").await.expect(200);
    let seen = house.upstream.last();
    assert_eq!(seen.line("transfer-encoding"), Some("chunked"));
    assert!(seen.state == State::Whole && seen.body == body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_megabytes_come_down_byte_for_byte() {
    let house = House::usual().await;
    let body = bytes(20 * MIB);
    let length = body.len().to_string();
    let whole = [head_of("200 OK", &[("Content-Length", &length)]), body.clone()].concat();
    let pieces = [head_of("200 OK", &[("Transfer-Encoding", "chunked")]), chunked(&body, 65_537)].concat();
    let open_end = [head_of("200 OK", &[("Connection", "close")]), body.clone()].concat();
    house.upstream.answers("/public/whole", whole);
    house.upstream.answers("/public/pieces", pieces);
    house.upstream.on("/public/open", vec![Step::Send(open_end), Step::Close]);
    for target in ["/public/whole", "/public/pieces", "/public/open"] {
        let got = house.ask(&Ask::script(target)).await.expect(200);
        assert!(got.whole && got.body == body, "{target}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_piece_is_passed_on_as_it_comes() {
    let house = House::usual().await;
    let gate = Gate::closed();
    house.upstream.on(
        "/public/events",
        vec![
            Step::Send(head_of(
                "200 OK",
                &[("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")],
            )),
            Step::Send(b"5\r\nfirst\r\n".to_vec()),
            Step::Wait(gate.clone()),
            Step::Send(b"6\r\nsecond\r\n0\r\nX-Sum: 7\r\n\r\n".to_vec()),
        ],
    );
    let mut conn = house.conn().await;
    conn.send(&Ask::script("/public/events").line("TE", "trailers").bytes()).await;
    let head = conn.head().await.expect("a head");
    assert_eq!(head.one("content-type"), Some("text/event-stream"));
    let first = within("the first piece", conn.reader.through(&mut conn.stream, b"first")).await;
    assert!(first.is_some());
    gate.open();
    let second = within("the second piece", conn.reader.through(&mut conn.stream, b"second")).await;
    assert!(second.is_some());

    let mut conn = house.conn().await;
    conn.send(&upload("/public/up", "Content-Length: 11")).await;
    conn.send(b"first").await;
    until("the first piece", || house.upstream.seen().iter().any(|seen| seen.body == b"first")).await;
    conn.send(b"second").await;
    conn.answer("POST").await.expect(200);
    assert_eq!(house.upstream.last().body, b"firstsecond");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_of_an_answer_pass_unless_they_belong_in_its_head() {
    let house = House::usual().await;
    let body = "3\r\nabc\r\n0\r\nX-Sum: 7\r\nSet-Cookie: access_token=fixed\r\nContent-Length: 9\r\n\r\n";
    let head = head_of("200 OK", &[("Transfer-Encoding", "chunked"), ("Trailer", "X-Sum, Set-Cookie")]);
    house.upstream.answers("/public/x", [head, body.as_bytes().to_vec()].concat());
    let got = house.ask(&Ask::script("/public/x").line("TE", "trailers")).await.expect(200);
    assert!(got.whole && got.body == b"abc");
    assert_eq!(got.trailers, [("x-sum".to_owned(), "7".to_owned())]);
    assert_eq!(got.line("trailer"), Some("X-Sum"));
    assert_eq!(house.upstream.last().line("te"), Some("trailers"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_framings_of_an_answer_the_chunks_count() {
    let house = House::usual().await;
    for length in ["3", "30"] {
        let head = head_of("200 OK", &[("Transfer-Encoding", "chunked"), ("Content-Length", length)]);
        house.upstream.answers("/public/x", [head, b"5\r\nhello\r\n0\r\n\r\n".to_vec()].concat());
        let got = house.ask(&Ask::script("/public/x")).await.expect(200);
        assert!(got.whole && got.body == b"hello", "Content-Length: {length}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_is_given_up_and_the_app_with_it() {
    let house = House::start(Plan { listen: "write = \"300ms\"", ..Plan::default() }).await;
    let head = head_of("200 OK", &[("Content-Length", &(256 * MIB).to_string())]);
    house.upstream.on("/public/x", vec![Step::Send(head), Step::Repeat(vec![b'x'; 64 * 1024], 256 * 16)]);
    let mut conn = house.conn().await;
    conn.send(&Ask::script("/public/x").bytes()).await;
    conn.head().await.expect("a head");
    until("the connection's end", || house.door().meters.connections.get() == 0).await;
    assert!(house.upstream.sent() < 64 * MIB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_holds_the_app_back() {
    let house = House::usual().await;
    let head = head_of("200 OK", &[("Content-Length", &(256 * MIB).to_string())]);
    house.upstream.on("/public/x", vec![Step::Send(head), Step::Repeat(vec![b'x'; 64 * 1024], 256 * 16)]);
    let mut conn = house.conn().await;
    conn.send(&Ask::script("/public/x").bytes()).await;
    conn.head().await.expect("a head");
    let mut before = 0;
    within("the app to be held back", async {
        while before != house.upstream.sent() {
            before = house.upstream.sent();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
    assert!(before < 64 * MIB, "{before} bytes are on their way to nobody");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_limit_is_refused_and_ends_the_connection() {
    let house = House::start(Plan { listen: r#"body = "64KiB""#, ..Plan::default() }).await;
    let fits = bytes(64 * 1024);
    house.ask(&Ask::script("/public/x").method("POST").body(&fits)).await.expect(200);
    let asked = house.upstream.count();
    let mut conn = house.conn().await;
    conn.send(&upload("/public/x", "Content-Length: 65537")).await;
    let got = conn.answer("POST").await.expect(413);
    names_itself(&got);
    assert_eq!(got.line("connection"), Some("close"));
    conn.closed().await;
    assert_eq!(house.upstream.count(), asked, "the app is not asked for what is known to be too much");

    let mut conn = house.conn().await;
    conn.send(&upload("/public/x", "Transfer-Encoding: chunked")).await;
    conn.send_if_wanted(&chunked(&bytes(128 * 1024), 1000)).await;
    let got = conn.answer("POST").await.expect(413);
    names_itself(&got);
    assert_eq!(got.line("connection"), Some("close"));
    until("the app's connection to end", || house.upstream.last().state == State::Cut).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_stalls_is_ended_on_both_sides() {
    let house = House::start(Plan { listen: r#"body_idle = "200ms""#, ..Plan::default() }).await;
    let mut conn = house.conn().await;
    conn.send(&upload("/public/x", "Content-Length: 10")).await;
    conn.send(b"half").await;
    let got = conn.answer("POST").await.expect(408);
    names_itself(&got);
    until("the app's connection to end", || house.upstream.last().state == State::Cut).await;
    assert_eq!(house.upstream.last().body, b"half");
    conn.closed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_cut_reaches_the_app_as_cut() {
    let house = House::usual().await;
    for framing in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let mut conn = house.conn().await;
        conn.send(&upload("/public/x", framing)).await;
        conn.send(if framing.starts_with('C') { b"half" } else { b"4\r\nhalf\r\n" }).await;
        until("half of it", || house.upstream.seen().last().is_some_and(|seen| seen.body == b"half")).await;
        drop(conn);
        until("the app's connection to end", || house.upstream.last().state == State::Cut).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_that_nobody_wants_any_more_is_ended_at_the_app() {
    let house = House::usual().await;
    let head = head_of("200 OK", &[("Transfer-Encoding", "chunked")]);
    house
        .upstream
        .on("/public/endless", vec![Step::Send(head), Step::Send(b"1\r\nx\r\n".to_vec()), Step::Hang]);
    let mut conn = house.conn().await;
    conn.send(&Ask::script("/public/endless").bytes()).await;
    conn.head().await.expect("a head");
    drop(conn);
    until("the app's connection to end", || house.upstream.ended() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_cannot_be_reached_is_a_502() {
    let (_kept, addr) = closed_port();
    let gone = format!("http://{addr}");
    let house = House::start(Plan { upstream: Some(&gone), ..Plan::default() }).await;
    let page = house.ask(&Ask::page("/public/x")).await.expect(502);
    names_itself(&page);
    assert!(page.line("content-type").unwrap().starts_with("text/html"));
    assert!(page.text().contains(page.line("x-request-id").unwrap()));
    assert!(!page.text().contains("127.0.0.1"), "nothing of what is behind is shown: {}", page.text());
    let script = house.ask(&Ask::script("/public/x").method("POST").body(b"x")).await.expect(502);
    assert_eq!(script.line("content-type"), Some("application/problem+json"));
    names_itself(&script);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_says_nothing_is_a_504() {
    let house = House::start(Plan { site: r#"head = "200ms""#, ..Plan::default() }).await;
    house.upstream.on("/public/silent", vec![Step::ReadBody, Step::Hang]);
    let got = house.ask(&Ask::page("/public/silent")).await.expect(504);
    names_itself(&got);
    until("the app's connection to end", || house.upstream.ended() == 1).await;
    let got = house.ask(&Ask::script("/public/silent").method("POST").body(b"x")).await.expect(504);
    names_itself(&got);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_is_not_hurried_while_its_request_is_still_coming() {
    let house = House::start(Plan { site: r#"head = "250ms""#, ..Plan::default() }).await;
    let mut conn = house.conn().await;
    conn.send(&upload("/public/x", "Content-Length: 8")).await;
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(70)).await;
        conn.send(b"x").await;
    }
    conn.answer("POST").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_makes_no_sense_is_a_502() {
    let house = House::usual().await;
    for bytes in [
        &b"nonsense\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\n Folded: 1\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"",
    ] {
        house.upstream.on("/public/odd", vec![Step::ReadBody, Step::Send(bytes.to_vec()), Step::Close]);
        let got = house.ask(&Ask::page("/public/odd")).await.expect(502);
        names_itself(&got);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_cut_is_not_made_whole() {
    let house = House::usual().await;
    let gate = Gate::closed();
    let cut = |head: Vec<u8>, body: &[u8]| {
        vec![Step::Send(head), Step::Send(body.to_vec()), Step::Wait(gate.clone()), Step::Close]
    };
    house.upstream.on("/public/length", cut(head_of("200 OK", &[("Content-Length", "10")]), b"half"));
    house
        .upstream
        .on("/public/chunks", cut(head_of("200 OK", &[("Transfer-Encoding", "chunked")]), b"4\r\nhalf\r\n"));
    let mut conns = Vec::new();
    for target in ["/public/length", "/public/chunks"] {
        let mut conn = house.conn().await;
        conn.send(&Ask::script(target).bytes()).await;
        let head = conn.head().await.expect("a head");
        assert!(head.first.starts_with("HTTP/1.1 200"));
        let half = within("half of it", conn.reader.through(&mut conn.stream, b"half")).await;
        assert!(half.is_some());
        conns.push(conn);
    }
    gate.open();
    for mut conn in conns {
        within("the end", async {
            while matches!(conn.reader.more(&mut conn.stream).await, Ok(n) if n > 0) {}
        })
        .await;
        let rest = String::from_utf8_lossy(&conn.reader.buf).into_owned();
        assert!(!rest.contains("0\r\n\r\n"), "no proper end: {rest:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_stalls_is_cut() {
    let house = House::start(Plan { site: r#"idle = "200ms""#, ..Plan::default() }).await;
    let head = head_of("200 OK", &[("Content-Length", "10")]);
    house.upstream.on("/public/x", vec![Step::Send(head), Step::Send(b"half".to_vec()), Step::Hang]);
    let got = house.ask(&Ask::script("/public/x")).await.expect(200);
    assert!(!got.whole && got.body == b"half");
    until("the app's connection to end", || house.upstream.ended() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_without_a_body_have_none_and_keep_the_connection() {
    let house = House::usual().await;
    house.upstream.answers("/public/head", head_of("200 OK", &[("Content-Length", "5"), ("ETag", "\"v\"")]));
    house.upstream.answers("/public/204", head_of("204 No Content", &[("X-Is", "204")]));
    house.upstream.answers("/public/304", head_of("304 Not Modified", &[("ETag", "\"v\"")]));
    let mut conn = house.conn().await;
    for _ in 0..2 {
        let head = conn.ask(&Ask::script("/public/head").method("HEAD")).await.expect(200);
        assert_eq!((head.line("content-length"), head.line("etag")), (Some("5"), Some("\"v\"")));
        let none = conn.ask(&Ask::script("/public/204")).await.expect(204);
        assert_eq!((none.line("x-is"), none.line("content-length")), (Some("204"), None));
        let same = conn.ask(&Ask::script("/public/304").line("If-None-Match", "\"v\"")).await.expect(304);
        assert_eq!(same.line("etag"), Some("\"v\""));
        let next = conn.ask(&Ask::script("/public/next")).await.expect(200);
        assert_eq!(next.text(), "app: /public/next\n");
    }
    assert_eq!(house.upstream.last().head.one("if-none-match"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_used_again_on_both_sides() {
    let house = House::usual().await;
    let mut conn = house.conn().await;
    for n in 0..5 {
        let got = conn.ask(&Ask::script("/public/x").method("POST").body(&bytes(n * 1000))).await.expect(200);
        assert_eq!(got.text(), "app: /public/x\n");
    }
    assert_eq!(house.upstream.connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_the_app_has_closed_costs_nobody_an_answer() {
    let house = House::usual().await;
    house.upstream.on("/public/last", vec![Step::ReadBody, Step::Send(ok("last")), Step::Close]);
    for n in 1..=20 {
        // Whatever the method: nothing of the request went by the closed connection.
        let ask = Ask::script("/public/last").method("POST").body(&bytes(n * 100));
        assert_eq!(house.ask(&ask).await.expect(200).text(), "last");
        until("the app has closed", || house.upstream.ended() == n).await;
    }
    assert_eq!((house.upstream.connections(), house.upstream.count()), (20, 20), "nothing was sent twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_nobody_needs_are_closed() {
    let house = House::start(Plan { site: "pool_idle = \"100ms\"", ..Plan::default() }).await;
    let ask = || async { house.ask(&Ask::script("/public/x")).await.expect(200) };
    let mut opened = 0;
    // Also when there was none for a while.
    for _ in 0..3 {
        tokio::join!(ask(), ask(), ask(), ask());
        assert!(house.upstream.connections() > opened, "a request after that has a connection of its own");
        opened = house.upstream.connections();
        until("all are closed", || house.upstream.ended() == opened).await;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_none_is_kept_no_connection_is_used_again() {
    let house = House::start(Plan { site: "pool_idle = \"0s\"", ..Plan::default() }).await;
    let ask = || async { house.ask(&Ask::script("/public/x")).await.expect(200) };
    for _ in 0..50 {
        tokio::join!(ask(), ask(), ask(), ask());
    }
    assert_eq!((house.upstream.connections(), house.upstream.count()), (200, 200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_with_bytes_left_over_is_not_used_again() {
    let house = House::usual().await;
    let poisoned = [ok("first"), answer("200 OK", &[], "poison")].concat();
    house.upstream.answers("/public/poison", poisoned);
    let got = house.ask(&Ask::script("/public/poison")).await.expect(200);
    assert_eq!(got.text(), "first");
    for _ in 0..3 {
        let got = house.ask(&Ask::script("/public/clean")).await.expect(200);
        assert_eq!(got.text(), "app: /public/clean\n");
    }
    house.upstream.answers("/public/none", [head_of("204 No Content", &[]), ok("poison")].concat());
    house.ask(&Ask::script("/public/none")).await.expect(204);
    let got = house.ask(&Ask::script("/public/clean")).await.expect(200);
    assert_eq!(got.text(), "app: /public/clean\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_waits_for_100_gets_it_when_its_body_is_wanted() {
    let house = House::usual().await;
    let mut conn = house.conn().await;
    conn.send(&upload("/public/x", "Content-Length: 5\r\nExpect: 100-continue")).await;
    let interim = conn.head().await.expect("an interim answer");
    assert!(interim.first.starts_with("HTTP/1.1 100"), "{}", interim.first);
    conn.send(b"hello").await;
    conn.answer("POST").await.expect(200);
    let seen = house.upstream.last();
    assert_eq!((seen.body.as_slice(), seen.line("expect")), (&b"hello"[..], None));

    let mut conn = house.conn().await;
    conn.send(&upload("/protected", "Content-Length: 5\r\nExpect: 100-continue")).await;
    let head = conn.head().await.expect("an answer");
    assert!(head.first.starts_with("HTTP/1.1 401"), "no body is asked for in vain: {}", head.first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_body_of_a_declined_request_is_never_read_as_the_next_request() {
    let house = House::usual().await;
    let smuggled = format!("GET /public/smuggled HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let next = Ask::script("/public/next").bytes();
    let by_length = format!("Content-Length: {}", smuggled.len());
    for (framing, body) in [
        (by_length.as_str(), smuggled.clone().into_bytes()),
        ("Transfer-Encoding: chunked", chunked(smuggled.as_bytes(), 10)),
    ] {
        for target in ["/protected", "/public/../x", "/.doorkeep/none"] {
            for split in [false, true] {
                let mut conn = house.conn().await;
                conn.send(&upload(target, framing)).await;
                if split {
                    // The answer is there before the body is.
                    let early = timeout(Duration::from_millis(20), conn.reader.more(&mut conn.stream)).await;
                    drop(early);
                }
                conn.send_if_wanted(&body).await;
                conn.send_if_wanted(&next).await;
                let declined = conn.answer("POST").await;
                assert!(matches!(declined.status, 401 | 400 | 404), "{target}: {}", declined.status);
                if let Some(second) = conn.try_answer("GET").await {
                    assert_eq!((second.status, second.text().as_str()), (200, "app: /public/next\n"));
                }
            }
        }
    }
    assert!(house.upstream.seen().iter().all(|seen| seen.target == "/public/next"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_declined_upload_that_is_large_does_not_have_to_be_sent_whole() {
    let house = House::usual().await;
    let mut conn: Conn = house.conn().await;
    conn.send(&upload("/protected", "Content-Length: 50000000")).await;
    let got = conn.answer("POST").await.expect(401);
    names_itself(&got);
    assert_eq!(house.upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_may_answer_before_it_has_read_the_whole_upload() {
    let house = House::usual().await;
    house.upstream.on(
        "/public/early",
        vec![Step::Send(answer("403 No", &[("Connection", "close")], "no")), Step::Close],
    );
    let mut conn = house.conn().await;
    conn.send(&upload("/public/early", "Content-Length: 1000000")).await;
    conn.send_if_wanted(&bytes(100_000)).await;
    let got = conn.answer("POST").await;
    assert!(matches!(got.status, 403 | 502), "{}", got.status);
    assert!(house.upstream.seen().len() == 1, "and it is not asked twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_sent_twice_when_the_app_dies() {
    let house = House::usual().await;
    house.ask(&Ask::script("/public/warm")).await.expect(200);
    house.upstream.on("/public/die", vec![Step::ReadBody, Step::Close]);
    for ask in [Ask::script("/public/die"), Ask::script("/public/die").method("POST").body(b"pay")] {
        let before = house.upstream.count();
        house.ask(&ask).await.expect(502);
        assert_eq!(house.upstream.count(), before + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hop_by_hop_fields_of_an_answer_end_here() {
    let house = House::usual().await;
    let lines = [
        ("Connection", "X-Hop, keep-alive"),
        ("X-Hop", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authenticate", "Basic"),
        ("X-End", "2"),
        ("Date", "Wed, 21 Oct 2026 07:28:00 GMT"),
    ];
    house.upstream.answers("/public/x", answer("200 OK", &lines, "hello"));
    let got = house.ask(&Ask::script("/public/x")).await.expect(200);
    for name in ["x-hop", "keep-alive", "proxy-authenticate"] {
        assert_eq!(got.line(name), None, "{name}");
    }
    assert_eq!(got.line("x-end"), Some("2"));
    assert_eq!(got.line("date"), Some("Wed, 21 Oct 2026 07:28:00 GMT"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interim_answers_of_the_app_do_no_harm() {
    let house = House::usual().await;
    let hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x.css>; rel=preload\r\n\r\n".to_vec();
    house.upstream.on("/public/x", vec![Step::ReadBody, Step::Send([hints, ok("done")].concat())]);
    let got = house.ask(&Ask::script("/public/x")).await.expect(200);
    assert_eq!(got.text(), "done");
}
