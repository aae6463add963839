//! One renewal for one refresh token, whatever many requests, hung-up clients and cut answers make of it.

use std::collections::BTreeSet;

use tokio::task::JoinSet;

use crate::support::{Answer, Ask, Conn, Fault, Gate, House, Jar, Plan, until};

pub const CROWD: usize = 100;

/// Sends the same request many times at once, each on a connection of its own.
pub async fn crowd(house: &House, jar: &Jar, count: usize) -> Vec<Conn> {
    let mut conns = Vec::new();
    for n in 0..count {
        let mut conn = house.conn().await;
        let ask = if n % 2 == 0 { Ask::page("/page") } else { Ask::script("/data") };
        conn.send(&ask.jar(jar).bytes()).await;
        conns.push(conn);
    }
    conns
}

pub async fn answers(conns: Vec<Conn>) -> Vec<Answer> {
    let mut waiting = JoinSet::new();
    for mut conn in conns {
        waiting.spawn(async move { conn.answer("GET").await });
    }
    waiting.join_all().await
}

/// All were answered by the app, and whatever order their cookies arrive in, the browser ends with the one new pair.
pub async fn all_end_with_the_newest(house: &House, old: &Jar, answers: &[Answer]) {
    let mut pairs = BTreeSet::new();
    for answer in answers {
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.text().starts_with("app: "));
        let mut jar = old.clone();
        jar.take(answer);
        assert_ne!(jar.session(), old.session(), "every answer brings the new pair");
        pairs.insert(jar.session().map(|value| value.map(str::to_owned)));
    }
    assert_eq!(pairs.len(), 1, "there is one new pair");
    let renewals = house.backend.renewals().len();
    for last in [0, answers.len() / 2, answers.len() - 1] {
        let mut jar = old.clone();
        let order = answers.iter().cycle().skip(last + 1).take(answers.len());
        order.for_each(|answer| jar.take(answer));
        let answer = house.ask(&Ask::page("/after").jar(&jar)).await.expect(200);
        assert!(answer.set_cookies().is_empty(), "the pair is fresh: {:?}", answer.set_cookies());
    }
    assert_eq!(house.backend.renewals().len(), renewals);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_requests_with_one_expired_session_make_one_renewal() {
    let house = House::usual().await;
    let old = house.expired().await;
    let gate = Gate::closed();
    house.backend.fails(Fault::Slow(gate.clone()));
    let conns = crowd(&house, &old, CROWD).await;
    gate.reached_by(1).await;
    gate.open();
    let answers = answers(conns).await;
    assert_eq!(house.backend.renewals().len(), 1);
    assert_eq!(house.upstream.count(), CROWD, "each request reached the app once");
    all_end_with_the_newest(&house, &old, &answers).await;
    assert_eq!(house.backend.reuses(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_renewal_goes_on_when_the_client_that_started_it_hangs_up() {
    let house = House::usual().await;
    let old = house.expired().await;
    let gate = Gate::closed();
    house.backend.fails(Fault::Slow(gate.clone()));
    let mut first = house.conn().await;
    first.send(&Ask::page("/first").jar(&old).bytes()).await;
    gate.reached_by(1).await;
    drop(first);
    until("the gateway to notice", || house.door().meters.connections.get() == 0).await;
    let conns = crowd(&house, &old, CROWD).await;
    gate.open();
    let answers = answers(conns).await;
    assert_eq!(house.backend.renewals().len(), 1);
    all_end_with_the_newest(&house, &old, &answers).await;
    assert_eq!(house.backend.reuses(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_that_nobody_waited_for_is_there_for_whoever_comes_next() {
    let house = House::usual().await;
    let old = house.expired().await;
    let gate = Gate::closed();
    house.backend.fails(Fault::Slow(gate.clone()));
    let mut only = house.conn().await;
    only.send(&Ask::page("/only").jar(&old).bytes()).await;
    gate.reached_by(1).await;
    drop(only);
    gate.open();
    until("the flight's end", || house.door().meters.renewals("renewed") == 1).await;
    house.backend.fails(Fault::None);
    let answer = house.ask(&Ask::page("/next").jar(&old)).await.expect(200);
    let mut jar = old.clone();
    jar.take(&answer);
    assert_ne!(jar.session(), old.session());
    assert_eq!(house.backend.renewals().len(), 1);
}

/// The client that was sent the new cookies never gets them; much later it comes back with the old ones.
pub async fn old_cookies_still_work_after_a_cut_answer(house: &House, old: &Jar) {
    until("the app's answer", || house.door().meters.connections.get() == 0).await;
    assert_eq!(house.backend.renewals().len(), 1);
    house.later(20 * 60);
    let answer = house.ask(&Ask::page("/again").jar(old)).await.expect(200);
    let mut jar = old.clone();
    jar.take(&answer);
    house.ask(&Ask::page("/and-on").jar(&jar)).await.expect(200);
    let tokens: Vec<_> = house.backend.renewals().iter().map(|call| call.token().to_owned()).collect();
    let distinct: BTreeSet<_> = tokens.iter().collect();
    assert_eq!(distinct.len(), tokens.len(), "no token is presented twice");
    assert_eq!(tokens.len(), 2, "the pair that nobody got was over meanwhile and was renewed in turn");
    assert_eq!(house.backend.reuses(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_its_answer_keeps_its_session() {
    let house = House::usual().await;
    let old = house.expired().await;
    let mut conn = house.conn().await;
    conn.send(&Ask::page("/lost").jar(&old).bytes()).await;
    until("the app to be asked", || house.upstream.count() == 1).await;
    drop(conn);
    old_cookies_still_work_after_a_cut_answer(&house, &old).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_half_a_head_keeps_its_session() {
    let house = House::usual().await;
    let old = house.expired().await;
    let mut conn = house.conn().await;
    conn.send(&Ask::page("/lost").jar(&old).bytes()).await;
    let half = conn.reader.exactly(&mut conn.stream, 120, |_| ()).await;
    assert!(half, "the head is longer than that");
    drop(conn);
    old_cookies_still_work_after_a_cut_answer(&house, &old).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_while_the_app_is_answering_keeps_its_session() {
    let house = House::usual().await;
    let old = house.expired().await;
    let gate = Gate::closed();
    house.upstream.on("/lost", vec![crate::support::Step::Wait(gate.clone())]);
    let mut conn = house.conn().await;
    conn.send(&Ask::page("/lost").jar(&old).bytes()).await;
    gate.reached_by(1).await;
    drop(conn);
    old_cookies_still_work_after_a_cut_answer(&house, &old).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_overtake_each_other_leave_a_working_session() {
    let house = House::usual().await;
    let a = house.expired().await;
    // The first answer is on its way with pair B …
    let slow = house.ask(&Ask::page("/slow").jar(&a)).await.expect(200);
    let mut b = a.clone();
    b.take(&slow);
    // … while another tab already has B, uses it, and gets C.
    house.later(400);
    let early = house.ask(&Ask::page("/quick").jar(&b)).await.expect(200);
    let mut c = b.clone();
    c.take(&early);
    assert_ne!(c.session(), b.session(), "B was due");
    house.ask(&Ask::page("/settled").jar(&c)).await.expect(200);
    // The slow answer arrives last and puts B back.
    let mut jar = c.clone();
    jar.take(&slow);
    let back = house.ask(&Ask::page("/back").jar(&jar)).await.expect(200);
    jar.take(&back);
    assert_eq!(jar.session(), c.session(), "B leads to C, and nothing is presented for it");
    assert_eq!(house.backend.renewals().len(), 2);
    assert_eq!(house.backend.reuses(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sessions_are_renewed_apart() {
    let house = House::usual().await;
    let (asha, ravi) = (house.signed_in().await, house.backend.sign_in("ravi").await);
    house.later(610);
    let gate = Gate::closed();
    house.backend.fails(Fault::Slow(gate.clone()));
    let mut one = house.conn().await;
    one.send(&Ask::script("/mine").jar(&asha).bytes()).await;
    let mut two = house.conn().await;
    two.send(&Ask::script("/mine").jar(&ravi).bytes()).await;
    gate.reached_by(2).await;
    gate.open();
    let (one, two) = (one.answer("GET").await.expect(200), two.answer("GET").await.expect(200));
    assert_ne!(one.cookie("session_id"), two.cookie("session_id"));
    let roles: BTreeSet<_> =
        house.upstream.seen().iter().map(|seen| seen.line("x-auth-role").unwrap().to_owned()).collect();
    assert_eq!(roles, ["admin", "clerk"].map(str::to_owned).into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_renewals_are_waited_for_only_so_long_and_finished_all_the_same() {
    let house = House::start(Plan { renew: r#"timeout = "200ms""#, ..Plan::default() }).await;
    let old = house.expired().await;
    let gate = Gate::closed();
    house.backend.fails_next(Fault::Slow(gate.clone()));
    let answer = house.ask(&Ask::script("/x").jar(&old)).await.expect(503);
    assert!(answer.line("retry-after").is_some());
    assert!(answer.set_cookies().is_empty());
    gate.open();
    until("the flight's end", || house.door().meters.renewals("renewed") == 1).await;
    let answer = house.ask(&Ask::script("/x").jar(&old)).await.expect(200);
    assert!(answer.cookie("access_token").is_some());
    assert_eq!(house.backend.renewals().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_waited_for_a_renewal_reach_the_app_whole_and_once() {
    let house = House::usual().await;
    let old = house.expired().await;
    let gate = Gate::closed();
    house.backend.fails_next(Fault::Slow(gate.clone()));
    let mut conns = Vec::new();
    for n in 0..10_u8 {
        let mut conn = house.conn().await;
        conn.send(&Ask::script("/upload").method("PUT").jar(&old).body(&vec![n; 50_000]).bytes()).await;
        conns.push(conn);
    }
    gate.reached_by(1).await;
    assert_eq!(house.upstream.count(), 0);
    gate.open();
    for conn in &mut conns {
        conn.answer("PUT").await.expect(200);
    }
    let mut bodies: Vec<_> = house.upstream.seen().into_iter().map(|seen| seen.body).collect();
    bodies.sort();
    assert_eq!(bodies, (0..10_u8).map(|n| vec![n; 50_000]).collect::<Vec<_>>());
    assert_eq!(house.backend.renewals().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_cookies_are_answered_for_a_while_after_the_new_ones_were_used() {
    let house = House::usual().await;
    let old = house.expired().await;
    let mut new = old.clone();
    new.take(&house.ask(&Ask::page("/page").jar(&old)).await.expect(200));
    house.ask(&Ask::page("/page").jar(&new)).await.expect(200);
    house.later(59);
    let straggler = house.ask(&Ask::script("/data").jar(&old)).await.expect(200);
    assert_eq!(straggler.cookie("refresh_token"), new.get("refresh_token"));
    assert_eq!(house.backend.renewals().len(), 1);
    assert_eq!(house.backend.reuses(), 0);
}
