//! What a client may take: bytes, fields, time and connections.

use std::time::Duration;

use crate::support::{Ask, Conn, Gate, HOST, House, Plan, Step, ok, until, within};

fn limited(listen: &'static str) -> Plan<'static> {
    Plan { listen, ..Plan::default() }
}

/// The connection is ended, with or without an answer, and the app sees nothing.
async fn too_much(house: &House, bytes: &[u8], statuses: &[u16]) {
    let mut conn = house.conn().await;
    conn.send_if_wanted(bytes).await;
    let answer = conn.try_answer("GET").await.expect("an answer");
    assert!(statuses.contains(&answer.status), "{}", answer.status);
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
