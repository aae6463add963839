//! Many renewals at a time, and a backend that cannot take them: who waits, who is turned away, and who never notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use doorkeep::clock::Stopwatch;
use doorkeep::meter::{TurnedAway, Turns};
use tokio::task::JoinSet;

use crate::backend_away::landed;
use crate::support::token_endpoint::{Rotates, TokenEndpoint};
use crate::support::{Answer, Ask, Conn, Fault, Gate, House, Jar, Plan, Spent, until, within};

const NONE: &[&str] = &[];

/// A refresh token that nobody was ever given, beside a session id that nobody has.
fn stranger(n: u64) -> Jar {
    let mut jar = Jar::default();
    jar.set("refresh_token", &format!("made-up-{n:020}"));
    jar.set("session_id", &format!("{n:024x}"));
    jar
}

async fn expired(house: &House, count: usize) -> Vec<Jar> {
    let mut jars = Vec::new();
    for _ in 0..count {
        jars.push(house.signed_in().await);
    }
    house.later(610);
    jars
}

/// Asks for each of these at once, each over a connection of its own; `from`: the address that a listed proxy tells.
async fn ask_all(house: &House, jars: &[Jar], from: &str) -> JoinSet<Answer> {
    let mut asking = JoinSet::new();
    for jar in jars {
        let ask = Ask::script("/data").jar(jar).line("X-Forwarded-For", from);
        let mut conn = house.conn().await;
        conn.send(&ask.bytes()).await;
        asking.spawn(async move { conn.answer("GET").await });
    }
    asking
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_strangers_costs_users_nothing_and_the_backend_next_to_nothing() {
    let house =
        House::start(Plan { renew: "strangers = { burst = 30, per_second = 10 }", ..Plan::default() }).await;
    let addr = house.addr;
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut storm = JoinSet::new();
    for pool in 0..8_u64 {
        let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
        storm.spawn(async move {
            let mut conn = Conn::open(addr).await;
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let answer = conn.ask(&Ask::page("/page").jar(&stranger(pool << 32 | n))).await;
                assert!(matches!(answer.status, 302 | 503), "{}", answer.status);
                sent.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let watch = Stopwatch::start();
    let mut jars = expired(&house, 10).await;
    let mut served = 0;
    while watch.elapsed() < Duration::from_secs(3) {
        for jar in &mut jars {
            let answer = house.ask(&Ask::script("/data").jar(jar)).await.expect(200);
            jar.take(&answer);
            served += 1;
        }
        house.later(610);
    }
    stop.store(true, Ordering::Relaxed);
    storm.join_all().await;
    let took = watch.elapsed().as_secs() + 1;
    let made_up = |call: &&crate::support::backend::Call| call.token().starts_with("made-up-");
    let calls = house.backend.renewals();
    let by_strangers = calls.iter().filter(made_up).count();
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent > 500 && served > 20, "{sent} strangers, {served} users");
    assert!(by_strangers <= usize::try_from(30 + 10 * took).unwrap(), "{by_strangers} of {sent} in {took} s");
    let meters = &house.door().meters;
    assert!(meters.turned_away_for(Turns::Renewals, "stranger", TurnedAway::Rate) > 0);
    assert_eq!(meters.breaker_opened.get(), 0);
    assert_eq!(calls.len() - by_strangers, served, "each user's session was renewed each time");
    assert_eq!(house.backend.reuses(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_made_up_opaque_tokens_costs_users_nothing_and_the_backend_next_to_nothing() {
    // Nothing is kept of what the backend says: every request of a user asks.
    let plan = Plan {
        token: "[session.token.introspect]\ncache = \"0s\"",
        renew: "strangers = { burst = 30, per_second = 10 }",
        ..Plan::default()
    };
    let opaque = |clock| {
        Arc::new(Arc::new(TokenEndpoint::new(Rotates::Yes, clock).asked()))
            as Arc<dyn crate::support::issuer::Issuer>
    };
    let house = House::start_with(opaque, plan).await;
    let mut jars = Vec::new();
    for _ in 0..10 {
        let mut jar = house.signed_in().await;
        // The first answer brings our notes, which tell from then on that it is somebody's.
        jar.take(&house.ask(&Ask::page("/page").jar(&jar)).await.expect(200));
        jars.push(jar);
    }
    let addr = house.addr;
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let watch = Stopwatch::start();
    let mut flood = JoinSet::new();
    for pool in 0..8_u64 {
        let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
        flood.spawn(async move {
            let mut conn = Conn::open(addr).await;
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let mut jar = Jar::default();
                jar.set("access_token", &format!("made-up-{pool}-{n:020}"));
                let answer = conn.ask(&Ask::script("/data").jar(&jar)).await;
                assert!(matches!(answer.status, 401 | 503), "{}", answer.status);
                assert_eq!(answer.set_cookies(), NONE);
                sent.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let mut served = 0;
    while watch.elapsed() < Duration::from_secs(3) || served < 40 {
        for jar in &jars {
            house.ask(&Ask::script("/data").jar(jar)).await.expect(200);
            served += 1;
        }
    }
    stop.store(true, Ordering::Relaxed);
    flood.join_all().await;
    let took = watch.elapsed().as_secs() + 1;
    let calls = house.backend.calls();
    let questions = calls.iter().filter(|call| call.path == "/introspect");
    let (made_up, real): (Vec<_>, Vec<_>) = questions.partition(|call| call.text.contains("made-up-"));
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent > 300, "{sent} made-up tokens");
    assert!(made_up.len() <= usize::try_from(30 + 10 * took).unwrap(), "{} of {sent}", made_up.len());
    assert_eq!(real.len(), served + jars.len(), "each request of a user was asked about");
    let meters = &house.door().meters;
    assert!(meters.turned_away_for(Turns::Questions, "stranger", TurnedAway::Rate) > 0);
    assert_eq!(meters.breaker_opened.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_backend_is_spared_a_sign_out_is_answered_at_once_and_ends_nothing() {
    let plan = Plan { renew: "breaker = { faults = 3, pause = \"2s\" }", ..Plan::default() };
    let house = House::start(plan).await;
    let jars = expired(&house, 3).await;
    let live = house.signed_in().await;
    house.backend.close().await;
    for jar in &jars {
        house.ask(&Ask::script("/data").jar(jar)).await.expect(503);
        landed(&house).await;
    }
    assert_eq!(house.door().meters.breaker_opened.get(), 1);
    house.backend.open();
    let out = Ask::form("/.doorkeep/sign-out", "").jar(&live);
    let answer = house.ask(&out).await;
    // On a slow machine the pause may be over by now, and this one tries.
    if answer.status == 503 {
        assert!(answer.text().contains("still signed in"), "{}", answer.text());
        assert!(matches!(answer.line("retry-after"), Some("1" | "2")), "{:?}", answer.line("retry-after"));
        assert_eq!(answer.set_cookies(), NONE);
        assert!(house.backend.sign_outs().is_empty(), "the backend is not asked");
        house.ask(&Ask::page("/page").jar(&live)).await.expect(200);
        within("the pause to end", async {
            while house.ask(&out).await.status == 503 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    }
    assert_eq!(house.backend.sign_outs().len(), 1, "it was the one that tried");
    house.ask(&Ask::page("/page").jar(&live)).await.expect(302);
    for jar in &jars {
        house.ask(&Ask::script("/data").jar(jar)).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sign_outs_do_not_pile_up_on_a_backend_that_hangs() {
    let renew =
        "concurrency = 3\ntimeout = \"300ms\"\ngive_up = \"20s\"\nbreaker = { faults = 3, pause = \"2s\" }";
    let house = House::start(Plan { renew, ..Plan::default() }).await;
    let mut jars = Vec::new();
    for _ in 0..30 {
        jars.push(house.signed_in().await);
    }
    house.backend.fails(Fault::Silence(Spent::No));
    let mut leaving = JoinSet::new();
    for jar in &jars {
        let mut conn = house.conn().await;
        conn.send(&Ask::form("/.doorkeep/sign-out", "").jar(jar).bytes()).await;
        leaving.spawn(async move { conn.answer("POST").await });
    }
    for answer in within("all answers", leaving.join_all()).await {
        assert_eq!(answer.expect(503).set_cookies(), NONE);
    }
    // Three that hang are all, however many come: each of them counted as a fault.
    assert_eq!(house.backend.sign_outs().len(), 3);
    assert_eq!(house.door().meters.breaker_opened.get(), 1);
    house.backend.fails(Fault::None);
    for jar in &jars[3..] {
        house.ask(&Ask::page("/page").jar(jar)).await.expect(200);
    }
    within("the last one to be signed out", async {
        while house.ask(&Ask::form("/.doorkeep/sign-out", "").jar(&jars[29])).await.status == 503 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    house.ask(&Ask::page("/page").jar(&jars[29])).await.expect(302);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_what_nobody_has_and_what_was_refused_is_told_in_figures() {
    let house = House::usual().await;
    let jars = expired(&house, 2).await;
    let gate = Gate::closed();
    house.backend.fails_next(Fault::Slow(gate.clone()));
    let crowd: Vec<Jar> = std::iter::repeat_n(jars[0].clone(), 6).collect();
    let asking = ask_all(&house, &crowd, "192.0.2.1").await;
    gate.reached_by(1).await;
    let figure = |line: &str| {
        let text = house.door().meters.text();
        assert!(text.contains(&format!("doorkeep_{line}\n")), "{line} in\n{text}");
    };
    until("the others to wait", || house.door().meters.joined.get() == 5).await;
    figure("renewal_flights 1");
    gate.open();
    assert!(within("all answers", asking.join_all()).await.iter().all(|answer| answer.status == 200));
    figure("renewal_joined_total 5");
    figure("renewal_undelivered 0");
    figure("renewal_flights 0");
    // One whose client is gone before its answer: nobody has it yet.
    let gate = Gate::closed();
    house.backend.fails_next(Fault::Slow(gate.clone()));
    let mut conn = house.conn().await;
    conn.send(&Ask::page("/lost").jar(&jars[1]).bytes()).await;
    gate.reached_by(1).await;
    drop(conn);
    gate.open();
    landed(&house).await;
    figure("renewal_undelivered 1");
    house.ask(&Ask::page("/page").jar(&jars[1])).await.expect(200);
    figure("renewal_undelivered 0");
    figure("renewal_replays_total 1");
    let over = house.expired().await;
    house.backend.end(&over).await;
    house.ask(&Ask::page("/page").jar(&over)).await.expect(302);
    figure("renewal_refusals_total{reason=\"backend\"} 1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_backend_gets_no_more_at_a_time_than_it_takes_and_all_come_through() {
    let house = House::start(Plan { renew: "concurrency = 3", ..Plan::default() }).await;
    let jars = expired(&house, 40).await;
    let gate = Gate::closed();
    house.backend.fails(Fault::Slow(gate.clone()));
    let asking = ask_all(&house, &jars, "192.0.2.1").await;
    gate.reached_by(3).await;
    until("the others to wait", || house.door().meters.waits("expired") == 37).await;
    gate.open();
    let answers = within("all answers", asking.join_all()).await;
    assert!(answers.into_iter().all(|answer| answer.status == 200));
    assert_eq!(house.backend.most_busy(), 3);
    assert_eq!(house.backend.renewals().len(), 40);
    let text = house.door().meters.text();
    for line in [
        "doorkeep_renewal_waiting{lane=\"expired\"} 0",
        "doorkeep_renewal_wait_seconds_count{lane=\"expired\"} 40",
        "doorkeep_backend_breaker 0",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_the_bound_users_are_asked_to_come_again_and_keep_their_sessions() {
    let house = House::start(Plan { renew: "concurrency = 1\nqueue = 5", ..Plan::default() }).await;
    let jars = expired(&house, 9).await;
    let gate = Gate::closed();
    house.backend.fails(Fault::Slow(gate.clone()));
    let mut asking = ask_all(&house, &jars, "192.0.2.1").await;
    for _ in 0..3 {
        let answer = within("a 503", asking.join_next()).await.unwrap().unwrap().expect(503);
        assert_eq!(answer.set_cookies(), NONE);
        assert!(answer.line("retry-after").is_some());
    }
    gate.open();
    let answers = within("all other answers", asking.join_all()).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    for jar in &jars {
        house.ask(&Ask::page("/page").jar(jar)).await.expect(200);
    }
    assert_eq!(house.backend.reuses(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_network_with_hundreds_waiting_does_not_hold_up_another() {
    let plan = Plan { renew: "concurrency = 1", listen: "trusted = [\"127.0.0.1/32\"]", ..Plan::default() };
    let house = House::start(plan).await;
    let jars = expired(&house, 301).await;
    let gate = Gate::closed();
    house.backend.fails(Fault::Slow(gate.clone()));
    let (crowd, lonely) = jars.split_at(300);
    let crowd = ask_all(&house, crowd, "192.0.2.1").await;
    until("the crowd to wait", || house.door().meters.waits("expired") == 299).await;
    let lonely = ask_all(&house, lonely, "198.51.100.1").await;
    until("the other one to wait", || house.door().meters.waits("expired") == 300).await;
    gate.open();
    for answer in within("its answer", lonely.join_all()).await {
        answer.expect(200);
    }
    let calls = house.backend.renewals();
    let turn = calls.iter().position(|call| Some(call.token()) == jars[300].get("refresh_token")).unwrap();
    assert!(turn <= 2, "it was number {turn}");
    assert!(within("all others", crowd.join_all()).await.iter().all(|answer| answer.status == 200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_is_down_is_spared_and_found_again_within_moments() {
    let house =
        House::start(Plan { renew: "breaker = { faults = 5, pause = \"500ms\" }", ..Plan::default() }).await;
    let mut jars = expired(&house, 8).await;
    let live = house.signed_in().await;
    house.backend.close().await;
    for jar in jars.iter().take(5) {
        house.ask(&Ask::script("/data").jar(jar)).await.expect(503);
        landed(&house).await;
    }
    assert_eq!(house.door().meters.breaker_opened.get(), 1);
    house.backend.open();
    let answer = house.ask(&Ask::script("/data").jar(&jars[5])).await;
    // On a slow machine the pause may be over by now, and this one tries.
    if answer.status == 503 {
        assert_eq!(answer.line("retry-after"), Some("1"));
        assert_eq!(answer.set_cookies(), NONE);
        assert!(house.backend.renewals().is_empty(), "nothing is presented");
    }
    house.ask(&Ask::page("/page").jar(&live)).await.expect(200);
    let watch = Stopwatch::start();
    within("the backend to be found", async {
        while house.ask(&Ask::script("/data").jar(&jars[6])).await.status == 503 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(watch.elapsed() < Duration::from_secs(4), "{:?}", watch.elapsed());
    for jar in &mut jars {
        let answer = house.ask(&Ask::script("/data").jar(jar)).await.expect(200);
        jar.take(&answer);
    }
    assert_eq!(house.door().meters.breaker.get(), 0);
    assert_eq!(house.backend.reuses(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_asks_for_a_pause_gets_it() {
    let house = House::usual().await;
    let jars = expired(&house, 2).await;
    let live = house.signed_in().await;
    let lines = vec![("Content-Type", "text/plain".to_owned()), ("Retry-After", "2".to_owned())];
    house.backend.fails_next(Fault::Says(429, lines, "slow down".to_owned()));
    let watch = Stopwatch::start();
    let told = house.ask(&Ask::script("/data").jar(&jars[0])).await.expect(503);
    assert_eq!(told.line("retry-after"), Some("2"));
    landed(&house).await;
    let mut waited = 0;
    within("the pause to end", async {
        loop {
            let answer = house.ask(&Ask::script("/data").jar(&jars[1])).await;
            if answer.status == 200 {
                return;
            }
            assert_eq!(house.backend.renewals().len(), 1, "nobody's token is presented");
            house.ask(&Ask::page("/page").jar(&live)).await.expect(200);
            waited += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(waited > 0 && watch.elapsed() >= Duration::from_secs(2), "{waited}, {:?}", watch.elapsed());
    house.ask(&Ask::script("/data").jar(&jars[0])).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_serves_those_who_wait_for_their_turn() {
    let mut house = House::start(Plan { renew: "concurrency = 1", ..Plan::default() }).await;
    let jars = expired(&house, 20).await;
    let gate = Gate::closed();
    house.backend.fails(Fault::Slow(gate.clone()));
    let asking = ask_all(&house, &jars, "192.0.2.1").await;
    until("the others to wait", || house.door().meters.waits("expired") == 19).await;
    let door = house.door.take().unwrap();
    let draining = house.tasks.spawn(door.drain());
    crate::support::refused(house.addr).await;
    gate.open();
    assert!(within("all answers", asking.join_all()).await.iter().all(|answer| answer.status == 200));
    within("the drain", draining).await.unwrap().unwrap();
    assert_eq!(house.backend.most_busy(), 1);
}

const STALE: Plan<'static> = Plan {
    top: "",
    listen: "",
    cookies: "",
    token: "",
    renew: "timeout = \"500ms\"\ngive_up = \"800ms\"",
    identity: "",
    identity_headers: "",
    site: "",
    rules: "[[site.rule]]\npath = \"/stale/*\"\nstale_while_unavailable = \"100s\"\n\
            [[site.rule]]\npath = \"/stale/admin/*\"\nstale_while_unavailable = \"100s\"\nrequire = { roleKey = [\"nobody\"] }",
    upstream: None,
    lifetime: "",
    login: "",
    key: None,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_backend_is_away_a_rule_may_serve_sessions_that_are_just_over() {
    let house = House::start(STALE).await;
    let jar = house.expired().await;
    house.backend.close().await;
    for ask in [Ask::page("/stale/x"), Ask::script("/stale/x"), Ask::form("/stale/x", "a=1")] {
        let answer = house.ask(&ask.jar(&jar)).await.expect(200);
        assert_eq!(answer.set_cookies(), NONE);
        assert!(house.upstream.last().line("x-auth-user").is_some(), "told as usual who is there");
    }
    assert_eq!(house.door().meters.stale.get(), 3);
    house.ask(&Ask::page("/stale/admin/x").jar(&jar)).await.expect(403);
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(503);
    house.ask(&Ask::websocket("/stale/x").jar(&jar)).await.expect(503);
    let mut forged = jar.clone();
    let (signed, signature) = jar.get("access_token").unwrap().rsplit_once('.').unwrap();
    let other = if signature.starts_with('A') { 'B' } else { 'A' };
    forged.set("access_token", &format!("{signed}.{other}{}", &signature[1..]));
    house.ask(&Ask::page("/stale/x").jar(&forged)).await.expect(503);
    house.ask(&Ask::page("/stale/x").jar(&jar.clone().without("access_token"))).await.expect(503);
    house.later(89);
    house.ask(&Ask::page("/stale/x").jar(&jar)).await.expect(200);
    house.later(1);
    house.ask(&Ask::page("/stale/x").jar(&jar)).await.expect(503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_served_stale_once_the_backend_has_decided_or_the_session_was_signed_out() {
    let house = House::start(STALE).await;
    let (refused, left) = (house.signed_in().await, house.backend.sign_in("ravi").await);
    house.later(590);
    let out = Ask::script("/.doorkeep/sign-out").method("POST").jar(&left);
    house.ask(&out).await.expect(204);
    house.later(20);
    house.backend.end(&refused).await;
    house.ask(&Ask::page("/stale/x").jar(&refused)).await.expect(302);
    house.backend.close().await;
    for jar in [&refused, &left] {
        house.ask(&Ask::page("/stale/x").jar(jar)).await.expect(302);
    }
    assert_eq!(house.door().meters.stale.get(), 0);
    assert_eq!(house.upstream.count(), 0);
}
