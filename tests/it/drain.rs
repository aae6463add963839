//! The orderly stop: what is under way is finished, and what no browser has yet outlives the process.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use doorkeep::server::Drained;
use tokio::task::JoinHandle;

use crate::support::house::toml;
use crate::support::{Ask, Conn, Fault, Gate, House, Plan, Program, Step, ok, refused, until, within};

type Draining = JoinHandle<Result<Drained, doorkeep::renew::PersistError>>;

fn drain(house: &mut House) -> Draining {
    let door = house.door.take().expect("a gateway");
    house.tasks.spawn(door.drain())
}

async fn drained(draining: Draining) -> Drained {
    within("the drain", draining).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_goes_first_then_the_listener_and_requests_are_finished() {
    let plan =
        Plan { listen: "admin = \"127.0.0.1:0\"", rules: "[drain]\ndelay = \"1s\"", ..Plan::default() };
    let mut house = House::start(plan).await;
    let admin = house.door().admin.unwrap();
    let ready = || async { Conn::open(admin).await.ask(&Ask::new("GET", "/readyz")).await.status };
    assert_eq!(ready().await, 200);
    let gate = Gate::closed();
    house.upstream.on("/public/slow", vec![Step::Wait(gate.clone()), Step::Send(ok("slow but whole"))]);
    let mut busy = house.conn().await;
    busy.send(&Ask::page("/public/slow").bytes()).await;
    gate.reached_by(1).await;
    let mut idle = house.conn().await;
    idle.ask(&Ask::page("/public/x")).await.expect(200);
    let draining = drain(&mut house);
    within("it to be not ready", async {
        while ready().await != 503 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(Conn::open(admin).await.ask(&Ask::new("GET", "/healthz")).await.status, 200);
    house.ask(&Ask::page("/public/x")).await.expect(200);
    refused(house.addr).await;
    idle.closed().await;
    gate.open();
    let answer = busy.answer("GET").await.expect(200);
    assert!(answer.whole && answer.text() == "slow but whole");
    busy.closed().await;
    assert_eq!(drained(draining).await, Drained::All);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_too_long_is_cut() {
    let plan = Plan {
        renew: "timeout = \"200ms\"\ngive_up = \"200ms\"",
        rules: "[drain]\ntimeout = \"300ms\"",
        ..Plan::default()
    };
    let mut house = House::start(plan).await;
    house.upstream.on("/public/hang", vec![Step::Hang]);
    let mut conn = house.conn().await;
    conn.send(&Ask::page("/public/hang").bytes()).await;
    until("the app to be asked", || house.upstream.count() == 1).await;
    let draining = drain(&mut house);
    assert_eq!(drained(draining).await, Drained::Cut);
    conn.closed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_session_that_no_browser_has_yet_outlives_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let top = format!("state_dir = \"{}\"", folder.path().display());
    let plan = Plan { top: &top, ..Plan::default() };
    let mut house = House::start(plan).await;
    let old = house.expired().await;
    let gate = Gate::closed();
    house.backend.fails_next(Fault::Slow(gate.clone()));
    let mut conn = house.conn().await;
    conn.send(&Ask::page("/page").jar(&old).bytes()).await;
    gate.reached_by(1).await;
    drop(conn);
    let draining = drain(&mut house);
    refused(house.addr).await;
    gate.open();
    assert_eq!(drained(draining).await, Drained::All);
    let written: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(written.len(), 1, "{written:?}");
    let kept = std::fs::read_to_string(&written[0]).unwrap();
    let bytes = URL_SAFE_NO_PAD.decode(kept.trim()).unwrap();

    let next = house.another(plan).await;
    assert!(!written[0].exists(), "what was taken over is not taken over again");
    house.addr = next.http;
    let mut jar = old.clone();
    jar.take(&house.ask(&Ask::page("/page").jar(&old)).await.expect(200));
    for token in old.session().into_iter().chain(jar.session()).flatten() {
        assert!(!String::from_utf8_lossy(&bytes).contains(token), "it is sealed: {kept}");
    }
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(house.backend.renewals().len(), 1, "nothing was presented again");
    assert_eq!(house.backend.reuses(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sign_out_outlives_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let top = format!("state_dir = \"{}\"", folder.path().display());
    let plan = Plan { top: &top, ..Plan::default() };
    let mut house = House::start(plan).await;
    let jar = house.signed_in().await;
    house.ask(&Ask::form("/.doorkeep/sign-out", "").jar(&jar)).await.expect(303);
    let draining = drain(&mut house);
    assert_eq!(drained(draining).await, Drained::All);
    let next = house.another(plan).await;
    house.addr = next.http;
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(302);
    assert_eq!(house.upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_kept_does_not_open_with_another_secret_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let top = format!("state_dir = \"{}\"", folder.path().display());
    let mut house = House::start(Plan { top: &top, ..Plan::default() }).await;
    let old = house.expired().await;
    house.ask(&Ask::page("/page").jar(&old)).await.expect(200);
    let draining = drain(&mut house);
    assert_eq!(drained(draining).await, Drained::All);
    let text = toml(Plan { top: &top, ..Plan::default() }, &house.backend.settings(), house.upstream.addr);
    let other = text.replace(crate::support::house::OWN_SECRET, "another-secret-0123456789abcdef0123456789");
    let settings = doorkeep::config::Settings::parse(&other).unwrap();
    let clock = std::sync::Arc::<doorkeep::clock::ManualClock>::clone(&house.clock);
    let failed = doorkeep::assemble::Doorkeep::start(settings, clock).await;
    let error = failed.expect_err("it does not start").to_string();
    assert!(error.contains("does not open with the configured secret"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_stops_in_order_when_told_to() {
    let mut house = House::usual().await;
    let log = "[log]\nformat = \"json\"";
    let text = toml(Plan { rules: log, ..Plan::default() }, &house.backend.settings(), house.upstream.addr);
    let mut program = Program::run(&text).await;
    house.addr = program.addr;
    let gate = Gate::closed();
    house.upstream.on("/public/slow", vec![Step::Wait(gate.clone()), Step::Send(ok("slow but whole"))]);
    let mut busy = house.conn().await;
    busy.send(&Ask::page("/public/slow").bytes()).await;
    gate.reached_by(1).await;
    program.terminate();
    refused(house.addr).await;
    gate.open();
    assert_eq!(busy.answer("GET").await.expect(200).text(), "slow but whole");
    let status = program.ended().await;
    assert_eq!(status.code(), Some(0), "{}", program.said());
}
