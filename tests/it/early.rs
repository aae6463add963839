//! A token is renewed before it ends, and nobody waits for that longer than was agreed.

use std::time::Duration;

use doorkeep::clock::Stopwatch;
use tokio::time::timeout;

use crate::support::{Ask, Fault, Gate, House, Plan, Step, until};

const NONE: &[&str] = &[];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_quick_backend_the_same_answer_brings_the_new_pair() {
    let house = House::start(Plan { renew: r#"attach = "10s""#, ..Plan::default() }).await;
    let mut jar = house.due().await;
    let old = jar.clone();
    let answer = house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(answer.text(), "app: /page\n");
    jar.take(&answer);
    assert_ne!(jar.session(), old.session());
    assert!(answer.is_never_stored());
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(house.backend.renewals().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_slow_backend_the_answer_does_not_wait_and_the_next_one_brings_the_pair() {
    let house = House::start(Plan { renew: r#"attach = "150ms""#, ..Plan::default() }).await;
    let mut jar = house.due().await;
    let gate = Gate::closed();
    house.backend.fails_next(Fault::Slow(gate.clone()));
    let watch = Stopwatch::start();
    let answer = house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    let took = watch.elapsed();
    assert_eq!(answer.text(), "app: /page\n", "the whole answer is here, and the backend still says nothing");
    assert_eq!(answer.set_cookies(), NONE);
    assert!(took >= Duration::from_millis(150), "it was held for the pair: {took:?}");
    assert!(took < Duration::from_secs(4), "and no longer than agreed: {took:?}");
    gate.open();
    until("the flight's end", || house.door().meters.renewals("renewed") == 1).await;
    let next = house.ask(&Ask::page("/next").jar(&jar)).await.expect(200);
    jar.take(&next);
    assert!(next.cookie("refresh_token").is_some());
    house.ask(&Ask::page("/on").jar(&jar)).await.expect(200);
    assert_eq!(house.backend.renewals().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_request_that_started_the_renewal_is_held_for_it() {
    let house = House::start(Plan { renew: r#"attach = "10s""#, ..Plan::default() }).await;
    let jar = house.due().await;
    let gate = Gate::closed();
    house.backend.fails_next(Fault::Slow(gate.clone()));
    let mut starter = house.conn().await;
    starter.send(&Ask::page("/starter").jar(&jar).bytes()).await;
    gate.reached_by(1).await;
    for _ in 0..5 {
        let other = house.ask(&Ask::script("/other").jar(&jar)).await.expect(200);
        assert_eq!(other.set_cookies(), NONE);
    }
    let held = timeout(Duration::from_millis(50), starter.reader.more(&mut starter.stream)).await;
    assert!(held.is_err(), "the starter's head waits for the pair");
    gate.open();
    let answer = starter.answer("GET").await.expect(200);
    assert!(answer.cookie("access_token").is_some());
    assert_eq!(house.backend.renewals().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_held_where_the_settings_say_so() {
    let house = House::start(Plan { renew: r#"attach = "0s""#, ..Plan::default() }).await;
    let jar = house.due().await;
    let gate = Gate::closed();
    house.backend.fails_next(Fault::Slow(gate.clone()));
    let answer = house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(answer.set_cookies(), NONE);
    gate.reached_by(1).await;
    gate.open();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_app_is_asked_while_the_renewal_is_under_way() {
    let house = House::start(Plan { renew: r#"attach = "10s""#, ..Plan::default() }).await;
    let jar = house.due().await;
    let (backend, app) = (Gate::closed(), Gate::closed());
    house.backend.fails_next(Fault::Slow(backend.clone()));
    let slow = vec![Step::Wait(app.clone()), Step::Send(crate::support::ok("slow"))];
    house.upstream.on("/slow", slow);
    let mut conn = house.conn().await;
    conn.send(&Ask::page("/slow").jar(&jar).bytes()).await;
    backend.reached_by(1).await;
    app.reached_by(1).await;
    // The pair is there before the app has answered: it is in time.
    backend.open();
    until("the flight's end", || house.door().meters.renewals("renewed") == 1).await;
    app.open();
    let answer = conn.answer("GET").await.expect(200);
    assert!(answer.cookie("access_token").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_due_once_about_half_of_its_life_is_left_and_each_at_its_own_moment() {
    let house = House::usual().await;
    let jar = house.signed_in().await;
    house.later(270);
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert!(house.backend.renewals().is_empty());
    house.later(61);
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(house.backend.renewals().len(), 1);

    let house = House::start(Plan { renew: r#"ahead = "30s""#, ..Plan::default() }).await;
    let jar = house.signed_in().await;
    house.later(567);
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert!(house.backend.renewals().is_empty());
    house.later(7);
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(house.backend.renewals().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_renewed_for_whoever_may_not_come_in_or_needs_no_session() {
    let house = House::usual().await;
    let jar = house.backend.sign_in("ravi").await;
    house.later(400);
    let answer = house.ask(&Ask::page("/admin/x").jar(&jar)).await.expect(403);
    assert_eq!(answer.set_cookies(), NONE);
    assert!(answer.is_never_stored());
    let script = house.ask(&Ask::script("/admin/x").jar(&jar)).await.expect(403);
    assert_eq!(script.line("content-type"), Some("application/problem+json"));
    assert_eq!(house.upstream.count(), 0);
    house.ask(&Ask::page("/public/x").jar(&jar)).await.expect(200);
    assert!(house.backend.calls().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_for_whoever_may_not_come_in_is_stored_all_the_same() {
    let house = House::usual().await;
    let mut jar = house.backend.sign_in("ravi").await;
    house.later(610);
    let answer = house.ask(&Ask::page("/admin/x").jar(&jar)).await.expect(403);
    jar.take(&answer);
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(house.backend.renewals().len(), 1);
    assert_eq!(house.upstream.count(), 1);
}
