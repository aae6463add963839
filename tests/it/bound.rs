//! Tunnels and event streams live as long as their session, whoever renews it, and end cleanly with it.

use std::time::Duration;

use bytes::Bytes;
use http::Request;

use crate::support::http2::H2;
use crate::support::{Answer, Ask, Conn, Gate, HOST, House, Jar, ORIGIN, Plan, Step, head_of, until, within};
use crate::websocket::{Echo, switching};

/// The close frame of a session that is over.
pub const OVER: &[u8] = b"\x88\x0f\x11\x31session ended";

const AWAY: &[u8] = b"\x88\x0c\x03\xe9going away";
const HELLO: &[u8] = b"\x81\x05hello";

/// What still comes until the other end closes.
pub async fn rest(conn: &mut Conn) -> Vec<u8> {
    within("the connection's end", async {
        while matches!(conn.reader.more(&mut conn.stream).await, Ok(n) if n > 0) {}
    })
    .await;
    std::mem::take(&mut conn.reader.buf)
}

/// A gateway before an app that echoes.
async fn echoing(rules: &str) -> House {
    let echo = Echo::start(switching()).await;
    House::start(Plan { upstream: Some(&echo.url()), rules, ..Plan::default() }).await
}

async fn open(house: &House, path: &str, jar: &Jar) -> Conn {
    let mut conn = house.conn().await;
    conn.send(&Ask::websocket(path).jar(jar).bytes()).await;
    conn.answer("GET").await.expect(101);
    conn
}

async fn lives(conn: &mut Conn) {
    conn.send(HELLO).await;
    let mut back: Vec<u8> = Vec::new();
    let whole = conn.reader.exactly(&mut conn.stream, HELLO.len() as u64, |piece| back.extend(piece));
    assert!(within("an echo", whole).await);
    assert_eq!(back, HELLO);
}

async fn sign_out(house: &House, jar: &Jar) {
    house.ask(&Ask::script("/.doorkeep/sign-out").method("POST").jar(jar)).await.expect(204);
}

async fn nothing_is_bound(house: &House) {
    until("all bonds to be gone", || house.door().meters.bound.get() == 0).await;
}

/// Longer than the gateway takes to look at the clock.
async fn a_while() {
    tokio::time::sleep(Duration::from_millis(1200)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_ends_with_a_sign_out() {
    let house = echoing("").await;
    let jar = house.signed_in().await;
    let (mut one, mut two) = (open(&house, "/a", &jar).await, open(&house, "/b", &jar).await);
    let other = house.backend.sign_in("ravi").await;
    let mut others = open(&house, "/a", &other).await;
    lives(&mut one).await;
    lives(&mut two).await;
    assert_eq!(house.door().meters.bound.get(), 3);
    sign_out(&house, &jar).await;
    assert_eq!(rest(&mut one).await, OVER);
    assert_eq!(rest(&mut two).await, OVER);
    a_while().await;
    lives(&mut others).await;
    drop(others);
    nothing_is_bound(&house).await;
    assert_eq!(house.door().meters.bound_ended.get(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_ends_with_the_backends_refusal() {
    let house = echoing("").await;
    let jar = house.signed_in().await;
    let mut conn = open(&house, "/socket", &jar).await;
    lives(&mut conn).await;
    house.backend.end(&jar).await;
    house.later(400);
    // Another tab comes with the token that still lives, and is renewed beside: in vain.
    let mut tab = open(&house, "/other", &jar).await;
    assert_eq!(rest(&mut conn).await, OVER);
    assert_eq!(rest(&mut tab).await, OVER);
    nothing_is_bound(&house).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_ends_with_its_token_where_nobody_renews() {
    let house = echoing("").await;
    let jar = house.signed_in().await;
    let mut conn = open(&house, "/socket", &jar).await;
    house.later(602);
    a_while().await;
    lives(&mut conn).await;
    house.later(4);
    assert_eq!(rest(&mut conn).await, OVER, "the leeway is over, too");
    assert!(house.backend.renewals().is_empty(), "a tunnel renews nothing");
    nothing_is_bound(&house).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_is_carried_over_by_whatever_renews_its_session() {
    let house = echoing("").await;
    let first = house.signed_in().await;
    let mut conn = open(&house, "/socket", &first).await;
    let mut jar = first.clone();
    for turn in 1..=5 {
        house.later(400);
        // A tab whose answer is never seen by this test's jar renews; the next one is told of it again.
        drop(open(&house, "/tab", &jar).await);
        until("the renewal", || house.door().meters.renewals("renewed") == turn).await;
        let mut tab = house.conn().await;
        tab.send(&Ask::websocket("/tab").jar(&jar).bytes()).await;
        let answer: Answer = tab.answer("GET").await.expect(101);
        jar.take(&answer);
        a_while().await;
        lives(&mut conn).await;
    }
    assert_ne!(jar.session(), first.session());
    assert_eq!(house.backend.renewals().len(), 5);
    // Signing out with the newest cookies ends what was opened with the first.
    sign_out(&house, &jar).await;
    assert_eq!(rest(&mut conn).await, OVER);
    nothing_is_bound(&house).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_opened_with_a_renewed_session_is_bound_to_it() {
    let house = echoing("").await;
    let old = house.expired().await;
    let mut conn = open(&house, "/socket", &old).await;
    house.later(500);
    a_while().await;
    lives(&mut conn).await;
    sign_out(&house, &old).await;
    assert_eq!(rest(&mut conn).await, OVER);
    nothing_is_bound(&house).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_rule_says_so_or_nobody_is_there_nothing_is_bound() {
    let house = echoing("[[site.rule]]\npath = \"/keep/*\"\non_session_end = \"keep\"").await;
    let jar = house.signed_in().await;
    let mut kept = open(&house, "/keep/socket", &jar).await;
    let mut public = open(&house, "/public/socket", &jar).await;
    let mut nobody = open(&house, "/optional/socket", &Jar::default()).await;
    assert_eq!(house.door().meters.bound.get(), 0);
    sign_out(&house, &jar).await;
    house.later(700);
    a_while().await;
    for conn in [&mut kept, &mut public, &mut nobody] {
        lives(conn).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_stream_comes_to_a_clean_end() {
    let house = House::usual().await;
    let lines = [("Content-Type", "Text/Event-Stream; charset=utf-8"), ("Transfer-Encoding", "chunked")];
    let begun = [head_of("200 OK", &lines), b"9\r\ndata: a\n\n\r\n".to_vec()].concat();
    house.upstream.on("/events", vec![Step::Send(begun), Step::Hang]);
    let jar = house.signed_in().await;
    let mut conn = house.conn().await;
    conn.send(&Ask::script("/events").jar(&jar).bytes()).await;
    until("the bond", || house.door().meters.bound.get() == 1).await;
    let mut h2 = H2::open(house.addr).await;
    let (answer, _none) = h2.begin(crate::support::http2::request(&Ask::script("/events").jar(&jar))).await;
    let answer = within("an answer", answer).await.unwrap();
    sign_out(&house, &jar).await;
    let ended = conn.answer("GET").await.expect(200);
    assert!(ended.whole && ended.text() == "data: a\n\n", "{}", ended.text());
    let ended = within("the end", crate::support::http2::whole(answer)).await.unwrap();
    assert_eq!(ended.text(), "data: a\n\n");
    until("the app to see it", || house.upstream.ended() == 2).await;
    nothing_is_bound(&house).await;
    // What is no such stream is finished.
    let gate = Gate::closed();
    let other = house.signed_in().await;
    let slow = [head_of("200 OK", &[("Content-Length", "4")]), b"ab".to_vec()].concat();
    let steps = vec![Step::Send(slow), Step::Wait(gate.clone()), Step::Send(b"cd".to_vec())];
    house.upstream.on("/download", steps);
    let mut conn = house.conn().await;
    conn.send(&Ask::script("/download").jar(&other).bytes()).await;
    gate.reached_by(1).await;
    sign_out(&house, &other).await;
    a_while().await;
    gate.open();
    assert_eq!(conn.answer("GET").await.expect(200).text(), "abcd");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_stream_is_carried_over_and_ends_with_its_token() {
    let house = House::usual().await;
    let lines = [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")];
    house.upstream.on("/events", vec![Step::Send(head_of("200 OK", &lines)), Step::Hang]);
    let mut jar = house.signed_in().await;
    let mut conn = house.conn().await;
    conn.send(&Ask::script("/events").jar(&jar).bytes()).await;
    until("the bond", || house.door().meters.bound.get() == 1).await;
    for _ in 0..3 {
        house.later(400);
        jar.take(&house.ask(&Ask::page("/page").jar(&jar)).await.expect(200));
        a_while().await;
        assert_eq!(house.door().meters.bound.get(), 1);
    }
    house.later(610);
    assert!(conn.answer("GET").await.expect(200).whole);
    nothing_is_bound(&house).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_of_the_app_under_way_is_finished_or_left_without_a_word() {
    let house = House::usual().await;
    let large = [&b"\x82\x7f\x00\x00\x00\x00\x00\x0f\x42\x40"[..], &vec![0x88; 1_000_000]].concat();
    for finished in [true, false] {
        let jar = house.signed_in().await;
        let gate = Gate::closed();
        let begun = [&switching()[..], &large[..700_000]].concat();
        let mut steps = vec![Step::Send(begun), Step::Wait(gate.clone())];
        if finished {
            steps.push(Step::Send([&large[700_000..], HELLO].concat()));
        }
        steps.push(Step::Hang);
        house.upstream.on("/socket", steps);
        let mut conn = open(&house, "/socket", &jar).await;
        let mut got = Vec::new();
        let begun = conn.reader.exactly(&mut conn.stream, 700_000, |piece| got.extend_from_slice(piece));
        assert!(within("the frame's beginning", begun).await);
        gate.reached_by(1).await;
        if finished {
            // The sign-out comes in the middle of the frame, the rest of it at once after that.
            sign_out(&house, &jar).await;
            gate.open();
            got.extend(rest(&mut conn).await);
            let apps = got.strip_suffix(OVER).expect("our frame at the end");
            assert!(apps == large || apps == [&large[..], HELLO].concat());
        } else {
            sign_out(&house, &jar).await;
            assert!(rest(&mut conn).await.is_empty());
            gate.open();
        }
        nothing_is_bound(&house).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_by_http2_ends_with_its_session() {
    let house = echoing("").await;
    let jar = house.signed_in().await;
    let mut h2 = H2::open(house.addr).await;
    until("extended CONNECT to be allowed", || h2.send.is_extended_connect_protocol_enabled()).await;
    let ask = Request::connect(format!("https://{HOST}/socket"))
        .version(http::Version::HTTP_2)
        .extension(h2::ext::Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .header("origin", ORIGIN)
        .header("cookie", jar.line().unwrap())
        .body(())
        .unwrap();
    let (answer, mut to) = h2.begin(ask).await;
    let mut from = within("an answer", answer).await.unwrap().into_body();
    to.send_data(Bytes::from_static(HELLO), false).unwrap();
    assert_eq!(within("an echo", from.data()).await.unwrap().unwrap(), HELLO);
    sign_out(&house, &jar).await;
    let mut got = Vec::new();
    while let Some(Ok(piece)) = within("the end", from.data()).await {
        got.extend_from_slice(&piece);
    }
    assert_eq!(got, OVER);
    nothing_is_bound(&house).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_tells_tunnels_to_go_away() {
    let echo = Echo::start(switching()).await;
    let plan = Plan {
        upstream: Some(&echo.url()),
        renew: "give_up = \"1s\"\ntimeout = \"1s\"",
        rules: "[drain]\ntimeout = \"2s\"",
        ..Plan::default()
    };
    let mut house = House::start(plan).await;
    let jar = house.signed_in().await;
    let mut bound = open(&house, "/socket", &jar).await;
    let mut public = open(&house, "/public/socket", &Jar::default()).await;
    lives(&mut bound).await;
    let door = house.door.take().unwrap();
    let draining = house.tasks.spawn(door.drain());
    assert_eq!(rest(&mut bound).await, AWAY);
    assert_eq!(rest(&mut public).await, AWAY);
    let drained = within("the drain", draining).await.unwrap().unwrap();
    assert_eq!(drained, doorkeep::server::Drained::All);
}
