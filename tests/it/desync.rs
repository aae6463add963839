//! Requests made to be read differently by two readers: nothing but one clean request leaves, or none, and never a 500.
//! The app records every byte that reaches it, so a request that was hidden in another one would be seen.

use crate::support::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, Outcome, block, pseudo,
};
use crate::support::{Ask, Conn, HOST, House, Plan, Seen, State, Step, answer, head_of, ok, until, within};

const PUBLIC: &str = "/public/x";
/// What a hidden request would ask for.
const HIDDEN: &str = "GET /admin/hidden HTTP/1.1\r\nHost: app.test.example\r\nConnection: close\r\n\r\n";

fn post(fields: &str, body: &str) -> String {
    format!("POST {PUBLIC} HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n{body}")
}

fn get(fields: &str) -> String {
    format!("GET {PUBLIC} HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n")
}

/// Sends bytes, and what may hide behind them; the statuses until the connection ends.
async fn statuses(house: &House, bytes: &[u8], piece: usize) -> Vec<u16> {
    let mut conn = house.conn().await;
    for piece in bytes.chunks(piece) {
        conn.send_if_wanted(piece).await;
        if piece.len() < bytes.len() {
            tokio::task::yield_now().await;
        }
    }
    let mut statuses = Vec::new();
    while let Some(answer) = conn.try_answer("POST").await {
        statuses.push(answer.status);
    }
    statuses
}

/// Nothing of what reached the app may be the hidden request, and each has one framing.
#[track_caller]
fn clean(seen: &[Seen]) {
    for request in seen {
        assert!(!request.target.contains("hidden"), "{request:?}");
        let lengths = request.head.all("content-length").len();
        let codings = request.head.all("transfer-encoding");
        assert!(
            lengths + codings.len() <= 1 && codings.iter().all(|coding| *coding == "chunked"),
            "{request:?}"
        );
        assert_eq!(request.head.all("host"), [HOST]);
        let text = String::from_utf8_lossy(&request.head.raw).into_owned();
        assert_eq!(text.matches('\n').count(), text.matches("\r\n").count(), "{text:?}");
        assert!(!request.body.windows(6).any(|bytes| bytes == b"hidden") || request.state == State::Whole);
    }
}

/// Each is refused with 400, the connection ends there, and the app sees nothing at all.
async fn refused(heads: &[String]) {
    let house = House::usual().await;
    for head in heads {
        for piece in [usize::MAX, 1] {
            let got = statuses(&house, format!("{head}{HIDDEN}").as_bytes(), piece.min(4096)).await;
            assert_eq!(got, [400], "{head:?}");
            assert_eq!(house.upstream.count(), 0, "{head:?} {:?}", house.upstream.seen());
        }
    }
    until("them to be counted", || house.door().meters.refused_unread.get() > 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_framings_are_refused() {
    let te = "Transfer-Encoding: chunked\r\n";
    refused(&[
        post(&format!("Content-Length: 5\r\n{te}"), "0\r\n\r\n"),
        post(&format!("{te}Content-Length: 5\r\n"), "0\r\n\r\n"),
        post("Content-Length: 0\r\nTransfer-Encoding: identity\r\n", ""),
        post("Content-Length: 3\r\nContent-Length: 3\r\n", "abc"),
        post("Content-Length: 3\r\nContent-Length: 0\r\n", "abc"),
        post("Content-Length: 3, 3\r\n", "abc"),
        post(&format!("{te}{te}"), "0\r\n\r\n"),
        post(&format!("{te}Transfer-Encoding: x\r\n"), "0\r\n\r\n"),
        get(&format!("Content-Length: 0\r\n{te}")),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lengths_that_are_no_number_are_refused() {
    for value in
        ["+3", "-3", "0x3", "3 ", "3 3", "3,", "", "three", "3\u{b}", "\"3\"", "18446744073709551619", "3;"]
    {
        let head = post(&format!("Content-Length: {value}\r\n"), "abc");
        if value != "3 " {
            refused(&[head]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codings_in_disguise_are_refused() {
    let codings = [
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked\u{b}",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding: x\r\n\tchunked",
        " Transfer-Encoding: chunked",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "Transfer-Encoding\u{0}: chunked",
        "Transfer-Encoding: chunked\u{0}",
        "Transfer-Encoding;: chunked",
        "Transfer Encoding: chunked",
        "Transfer-Encoding",
    ];
    let heads: Vec<String> =
        codings.iter().map(|line| post(&format!("{line}\r\nContent-Length: 5\r\n"), "0\r\n\r\n")).collect();
    refused(&heads).await;
    let alone: Vec<String> = codings.iter().map(|line| post(&format!("{line}\r\n"), "0\r\n\r\n")).collect();
    refused(&alone).await;
    refused(&[format!(
        "POST {PUBLIC} HTTP/1.0\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_readers_differ_about_are_refused() {
    let mut heads: Vec<String> = [
        "X: a\r\n b\r\n",
        "X : a\r\n",
        "X\u{e9}: a\r\n",
        "X: a\u{0}b\r\n",
        "X: a\u{1}b\r\n",
        "X: a\u{7f}b\r\n",
        "X: a\rb\r\n",
        "X: a\nY: b\r\n",
        ": a\r\n",
        "X\r\n",
        "Host: app.test.example\r\n",
        "Host: other.test.example\r\n",
    ]
    .iter()
    .map(|fields| get(fields))
    .collect();
    heads.extend([
        format!("GET {PUBLIC} HTTP/1.1\nHost: {HOST}\r\n\r\n"),
        format!("GET {PUBLIC} HTTP/1.1\r\nHost: {HOST}\n\n"),
        format!("GET {PUBLIC} HTTP/1.1\r\nHost: {HOST}\r\n\n"),
        format!("\nGET {PUBLIC} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        format!("\r\n\r\nGET {PUBLIC} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        format!("GET  {PUBLIC} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        format!("GET\t{PUBLIC} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        format!("GET {PUBLIC} HTTP/1.1 \r\nHost: {HOST}\r\n\r\n"),
        format!("GET {PUBLIC} HTTP/1.2\r\nHost: {HOST}\r\n\r\n"),
        format!("GET {PUBLIC}\r\nHost: {HOST}\r\n\r\n"),
        format!("GET http://other.test.example{PUBLIC} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        format!("GET {PUBLIC} HTTP/1.1\r\n\r\n"),
        format!("GET {PUBLIC} HTTP/1.1\r\nHost: {HOST}, {HOST}\r\n\r\n"),
        format!("GET {HOST} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
    ]);
    refused(&heads).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_that_readers_differ_about_ends_the_request_and_the_connection() {
    let house = House::usual().await;
    for (count, bad) in [
        "x\r\n",
        "-1\r\n",
        "0x0\r\n\r\n",
        "1 1\r\na\r\n",
        "10000000000000000\r\n",
        "fffffffffffffffff\r\n",
        "3\nabc\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabcd0\r\n\r\n",
        "3;a\nb\r\nabc\r\n0\r\n\r\n",
        "3;a\u{0}b\r\nabc\r\n0\r\n\r\n",
        "\r\n0\r\n\r\n",
        "0\n\r\n",
        "0\r\n\n",
        "0\r\nX: y\n\r\n",
        "0;\u{1}\r\n\r\n",
    ]
    .iter()
    .enumerate()
    {
        let bytes = format!("{}5\r\nfirst\r\n{bad}{HIDDEN}", post("Transfer-Encoding: chunked\r\n", ""));
        for piece in [4096, 1] {
            let got = statuses(&house, bytes.as_bytes(), piece).await;
            assert!(got == [400], "{got:?} {bad:?}");
        }
        let cut = || house.upstream.seen().iter().all(|seen| seen.state != State::Arriving);
        until("the app to see the end", cut).await;
        let seen = house.upstream.seen();
        clean(&seen);
        assert!(
            seen.iter().all(|seen| seen.state != State::Whole),
            "no part of a body is taken for the whole: {count}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_order_passes_however_it_is_cut() {
    let house = House::usual().await;
    let three = [
        post("Content-Length: 5\r\n", "0\r\n\r\n"),
        post("transfer-encoding:\tChunked \r\n", "A;x=\"y\"\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n"),
        format!(
            "\r\n{}",
            get("Content_Length: 100\r\nTransfer_Encoding: chunked\r\nX-Empty:\r\nConnection: close\r\n")
        ),
    ]
    .concat();
    for piece in [usize::MAX, 1, 2, 3, 7, 64, 65] {
        let before = house.upstream.count();
        assert_eq!(statuses(&house, three.as_bytes(), piece.min(4096)).await, [200, 200, 200], "{piece}");
        let seen = house.upstream.seen();
        let bodies: Vec<&[u8]> = seen[before..].iter().map(|seen| seen.body.as_slice()).collect();
        assert_eq!(bodies, [&b"0\r\n\r\n"[..], b"0123456789", b""]);
        clean(&seen);
        let last = &seen[before + 2];
        assert_eq!(
            last.head.folded_names().iter().filter(|n| *n == "content_length").count(),
            0,
            "an alias of framing"
        );
        assert_eq!(last.head.folded_names().iter().filter(|n| *n == "transfer_encoding").count(), 0);
    }
    assert_eq!(house.door().meters.refused_unread.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn junk_behind_a_request_is_a_request_of_its_own() {
    let house = House::usual().await;
    let got =
        statuses(&house, format!("{}junk\r\n\r\n", post("Content-Length: 3\r\n", "abc")).as_bytes(), 4096)
            .await;
    assert_eq!(got, [200, 400]);
    // A body of a GET is its body, whatever it looks like.
    let body = format!(
        "GET {PUBLIC} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{HIDDEN}",
        HIDDEN.len()
    );
    assert_eq!(statuses(&house, body.as_bytes(), 4096).await, [200]);
    assert_eq!((house.upstream.count(), house.upstream.last().body.as_slice()), (2, HIDDEN.as_bytes()));
    // So is what stands behind a head that declares none.
    let got = statuses(&house, format!("{}{HIDDEN}", get("")).as_bytes(), 4096).await;
    assert_eq!(got, [200, 401], "the hidden one is judged like any other");
    assert!(house.upstream.seen().iter().all(|seen| seen.target == PUBLIC));
    let trailers = "0\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\nHost: b\r\nCookie: a=b\r\nX-Auth-User: eve\r\n\r\n";
    let bytes = post(
        "Connection: close\r\nTransfer-Encoding: chunked\r\nTrailer: Content-Length, Host, Cookie, X-Auth-User\r\n",
        trailers,
    );
    assert_eq!(statuses(&house, bytes.as_bytes(), 4096).await, [200]);
    assert!(house.upstream.last().trailers.is_empty(), "{:?}", house.upstream.last());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_not_lost_while_the_client_still_sends() {
    let house = House::start(Plan { listen: "body = \"1MiB\"", ..Plan::default() }).await;
    for head in [
        format!("POST {PUBLIC} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 8000000\r\n\r\n"),
        format!(
            "POST {PUBLIC} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 8000000\r\nTransfer-Encoding: chunked\r\n\r\n"
        ),
    ] {
        let mut conn = house.conn().await;
        conn.send(head.as_bytes()).await;
        for _ in 0..80 {
            conn.send(&[b'x'; 100_000]).await;
        }
        let status = conn.answer("POST").await.status;
        assert!(status == 413 || status == 400, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_with_bytes_behind_it_is_not_the_next_one() {
    let house = House::usual().await;
    for (path, first) in [
        ("/public/204", head_of("204 No Content", &[])),
        ("/public/304", head_of("304 Not Modified", &[])),
        ("/public/head", head_of("200 OK", &[("Content-Length", "5")])),
    ] {
        let smuggled = answer("200 OK", &[], "smuggled");
        house.upstream.on(path, vec![Step::ReadBody, Step::Send([first, smuggled].concat())]);
        let method = if path.ends_with("head") { "HEAD" } else { "GET" };
        house.ask(&Ask::page(path).method(method)).await;
        house.upstream.answers("/public/next", ok("the next"));
        assert_eq!(house.ask(&Ask::page("/public/next")).await.expect(200).text(), "the next");
    }
}

/// What becomes of a request in frames, sent on a connection of its own.
async fn framed(house: &House, fields: &[(&[u8], &[u8])], data: &[&[u8]]) -> Outcome {
    let mut frames = Frames::open(house.addr).await;
    let end = if data.is_empty() { END_STREAM } else { 0 };
    frames.head(1, end, fields).await;
    for (n, piece) in data.iter().enumerate() {
        let end = if n + 1 == data.len() { END_STREAM } else { 0 };
        frames.send(DATA, end, 1, piece).await;
    }
    frames.outcome(1).await
}

fn with<'a>(method: &'a str, more: &[(&'a [u8], &'a [u8])]) -> Vec<(&'a [u8], &'a [u8])> {
    let mut fields = pseudo(method, PUBLIC);
    fields.extend_from_slice(more);
    fields
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_fields_do_not_become_lines() {
    let house = House::usual().await;
    let more: [(&[u8], &[u8]); 20] = [
        (b"x-a", b"b\r\nX-Auth-User: eve"),
        (b"x-a", b"b\nx: y"),
        (b"x-a", b"b\rx: y"),
        (b"x-a", b"b\0"),
        (b"x-a\r\nhost", b"b"),
        (b"x-a: b\r\nx", b"b"),
        (b"x a", b"b"),
        (b"x-a:", b"b"),
        (b"X-Upper", b"b"),
        (b"", b"b"),
        (b"\xff", b"b"),
        (b"transfer-encoding", b"chunked"),
        (b"connection", b"close"),
        (b"keep-alive", b"5"),
        (b"proxy-connection", b"close"),
        (b"upgrade", b"h2c"),
        (b"te", b"gzip"),
        (b":path", b"/other"),
        (b":method", b"GET"),
        (b":unknown", b"x"),
    ];
    for field in more {
        let got = framed(&house, &with("GET", &[field]), &[]).await;
        let refused = matches!(got, Outcome::Reset | Outcome::Closed | Outcome::Status(400));
        assert!(refused, "{got:?} {:?}", String::from_utf8_lossy(field.0));
        assert_eq!(house.upstream.count(), 0, "{:?}", house.upstream.seen());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pseudo_fields_name_one_target() {
    let house = House::usual().await;
    let usual = |name: &'static [u8], value: &'static [u8]| -> Vec<(&[u8], &[u8])> {
        let mut fields = pseudo("GET", PUBLIC);
        fields.retain(|(n, _)| *n != name);
        if value != b"-" {
            fields.push((name, value));
        }
        fields
    };
    for fields in [
        usual(b":path", b"-"),
        usual(b":path", b""),
        usual(b":path", b"*"),
        usual(b":path", b"public/x"),
        usual(b":path", b"http://app.test.example/public/x"),
        usual(b":path", b"/public/x HTTP/1.1\r\nHost: a"),
        usual(b":path", b"/public/ x"),
        usual(b":method", b"-"),
        usual(b":method", b"GET /admin/hidden HTTP/1.1\r\n"),
        usual(b":method", b"G T"),
        usual(b":scheme", b"-"),
        usual(b":scheme", b"ftp"),
        usual(b":authority", b""),
        usual(b":authority", b"-"),
        usual(b":authority", b"user@app.test.example"),
        usual(b":authority", b"app.test.example/x"),
        usual(b":authority", b"app.test.example, b"),
        with("GET", &[(b"host", b"other.test.example")]),
        with("GET", &[(b"host", HOST.as_bytes()), (b"host", HOST.as_bytes())]),
        with("GET", &[(b"content-length", b"0"), (b"content-length", b"0")]),
        with("GET", &[(b"content-length", b"+0")]),
        [&[(&b"x-early"[..], &b"1"[..])], &pseudo("GET", PUBLIC)[..]].concat(),
    ] {
        let got = framed(&house, &fields, &[]).await;
        let refused = matches!(got, Outcome::Reset | Outcome::Closed | Outcome::Status(400));
        let shown: Vec<_> =
            fields.iter().map(|(n, v)| (String::from_utf8_lossy(n), String::from_utf8_lossy(v))).collect();
        assert!(refused, "{got:?} {shown:?}");
        assert_eq!(house.upstream.count(), 0, "{shown:?}");
    }
    let same = with("GET", &[(b"host", HOST.as_bytes())]);
    assert_eq!(framed(&house, &same, &[]).await, Outcome::Status(200));
    let by_host =
        usual(b":authority", b"-").into_iter().chain([(&b"host"[..], HOST.as_bytes())]).collect::<Vec<_>>();
    assert_eq!(framed(&house, &by_host, &[]).await, Outcome::Status(200));
    // A fragment is nobody's to send; it is left out before anything is judged.
    assert_eq!(framed(&house, &usual(b":path", b"/public/x#/../../admin"), &[]).await, Outcome::Status(200));
    assert_eq!(house.upstream.last().target, PUBLIC);
    clean(&house.upstream.seen());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_length_that_is_declared_is_the_length_that_comes() {
    let house = House::usual().await;
    for (declared, data) in [
        (&b"3"[..], &[&b"abcd"[..]][..]),
        (b"5", &[b"abc"]),
        (b"3", &[b"ab", b"cd"]),
        (b"3", &[]),
        (b"0", &[b"GET /admin/hidden HTTP/1.1\r\n\r\n"]),
        (b"4, 4", &[b"abcd"]),
        (b"-1", &[b"abcd"]),
        (b"0x4", &[b"abcd"]),
        (b"99999999999999999999", &[b"abcd"]),
    ] {
        let got = framed(&house, &with("POST", &[(b"content-length", declared)]), data).await;
        assert!(
            matches!(got, Outcome::Reset | Outcome::Closed | Outcome::Status(400)),
            "{got:?} {declared:?}"
        );
    }
    let settled = || house.upstream.seen().iter().all(|seen| seen.state != State::Arriving);
    until("the app to see the end", settled).await;
    let seen = house.upstream.seen();
    clean(&seen);
    assert!(seen.iter().all(|seen| seen.state == State::Cut), "{seen:?}");
    let got = framed(&house, &with("POST", &[(b"content-length", b"4")]), &[b"ab", b"", b"cd"]).await;
    assert_eq!(got, Outcome::Status(200));
    assert_eq!(house.upstream.last().body, b"abcd");
    assert_eq!(framed(&house, &with("POST", &[]), &[HIDDEN.as_bytes()]).await, Outcome::Status(200));
    assert_eq!(house.upstream.last().line("transfer-encoding"), Some("chunked"));
    clean(&house.upstream.seen());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_name_nothing_that_belongs_in_a_head() {
    let house = House::usual().await;
    let trailers: [(&[u8], &[u8]); 6] = [
        (b"x-sum", b"1"),
        (b"content-length", b"9"),
        (b"host", b"b"),
        (b"cookie", b"a=b"),
        (b"x-auth-user", b"eve"),
        (b"x_auth_user", b"eve"),
    ];
    for bad in [(&b":path"[..], &b"/x"[..]), (b"transfer-encoding", b"chunked"), (b"X", b"y")] {
        let mut frames = Frames::open(house.addr).await;
        frames.head(1, 0, &with("POST", &[(b"trailer", b"x-sum")])).await;
        frames.send(DATA, 0, 1, b"abc").await;
        frames.head(1, END_STREAM, &[bad]).await;
        match frames.outcome(1).await {
            Outcome::Reset | Outcome::Closed | Outcome::Status(400 | 408) => {}
            // The library drops a pseudo-field that comes after a body, instead of refusing it (RFC 9113 §8.1).
            Outcome::Status(200) if bad.0 == b":path" => {
                assert!(house.upstream.last().trailers.is_empty());
                assert_eq!(house.upstream.last().target, PUBLIC);
            }
            Outcome::Status(other) => panic!("{other} {bad:?}"),
        }
    }
    let mut frames = Frames::open(house.addr).await;
    frames
        .head(
            1,
            0,
            &with("POST", &[(b"trailer", b"x-sum, content-length, host, cookie, x-auth-user, x_auth_user")]),
        )
        .await;
    frames.send(DATA, 0, 1, b"abc").await;
    frames.head(1, END_STREAM, &trailers).await;
    assert_eq!(frames.outcome(1).await, Outcome::Status(200));
    let seen = house.upstream.last();
    assert_eq!(seen.trailers, [("x-sum".to_owned(), "1".to_owned())]);
    clean(&house.upstream.seen());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_out_of_place_end_the_connection() {
    let house = House::usual().await;
    let head = block(&pseudo("GET", PUBLIC));
    let (one, two) = head.split_at(9);
    // A head in two frames is one head.
    let mut frames = Frames::open(house.addr).await;
    frames.send(HEADERS, END_STREAM, 1, one).await;
    frames.send(CONTINUATION, END_HEADERS, 1, two).await;
    assert_eq!(frames.outcome(1).await, Outcome::Status(200));
    // Nothing may come between them (RFC 9113 §6.10).
    let mut frames = Frames::open(house.addr).await;
    frames.send(HEADERS, END_STREAM, 1, one).await;
    frames.send(DATA, 0, 1, b"abc").await;
    frames.send(CONTINUATION, END_HEADERS, 1, two).await;
    assert_eq!(frames.outcome(1).await, Outcome::Closed);
    for stream in [0, 2] {
        let mut frames = Frames::open(house.addr).await;
        frames.head(stream, END_STREAM, &pseudo("GET", PUBLIC)).await;
        assert_eq!(frames.outcome(stream).await, Outcome::Closed);
    }
    assert_eq!(house.upstream.count(), 1);
    // HTTP/1.1 behind the preface is no frame.
    let mut conn = Conn::open(house.addr).await;
    conn.send(format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{HIDDEN}").as_bytes()).await;
    within("the end", async { while conn.stream_is_open().await {} }).await;
    assert_eq!(house.upstream.count(), 1);
}
