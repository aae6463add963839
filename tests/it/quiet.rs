//! Nothing that the program writes, however much it is asked to tell, holds anything that opens a door.

use doorkeep::clock::{Clock as _, SystemClock};
use tokio_util::task::TaskTracker;

use crate::support::house::{ACCESS_SECRET, OWN_SECRET, REFRESH_SECRET, toml};
use crate::support::{Ask, Fault, House, Jar, Plan, Program, Spent, Upstream};

const IN_QUERY: &str = "hush-in-the-query";
const IN_BODY: &str = "hush-in-the-body";
const IN_COOKIE: &str = "hush-in-a-cookie-of-the-app";
const IN_HEADER: &str = "hush-in-authorization";
const IN_BAD_TOKEN: &str = "hush.not-a-real.token";

/// Everything of a session that must not be seen.
fn secrets(jar: &Jar, all: &mut Vec<String>) {
    for name in ["access_token", "refresh_token", "session_id", "doorkeep_state"] {
        all.extend(jar.get(name).map(str::to_owned));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_cookie_query_or_secret_is_in_the_log_at_any_level() {
    let tasks = TaskTracker::new();
    let upstream = Upstream::start(&tasks).await;
    let mut house = House::without_door(SystemClock.now(), upstream, tasks);
    let plan = Plan {
        renew: "timeout = \"300ms\"\ngive_up = \"400ms\"",
        site: "token = \"x-access-token\"",
        rules: "[log]\nformat = \"json\"\nlevel = \"trace\"",
        ..Plan::default()
    };
    let mut program = Program::run(&toml(plan, house.backend.addr, house.upstream.addr)).await;
    house.addr = program.addr;
    let mut hushed: Vec<String> =
        [ACCESS_SECRET, OWN_SECRET, REFRESH_SECRET, IN_QUERY, IN_BODY, IN_COOKIE, IN_HEADER]
            .map(str::to_owned)
            .into();
    hushed.push(IN_BAD_TOKEN.to_owned());

    let back =
        |secs: u64| house.clock.set(SystemClock.now().saturating_sub(std::time::Duration::from_secs(secs)));
    let target = format!("/page?q={IN_QUERY}&access-token={IN_QUERY}");
    let ask = |jar: &Jar| {
        let line = format!("{}; theirs={IN_COOKIE}", jar.line().unwrap_or_default());
        Ask::script(&target).line("Cookie", &line).line("Authorization", &format!("Bearer {IN_HEADER}"))
    };
    // A session that is renewed, one whose answers are lost in every way, one that is refused, one that is signed out.
    for (fault, wanted) in [
        (Fault::None, 200),
        (Fault::HalfJson(Spent::No), 503),
        (Fault::Cut(Spent::No), 503),
        (Fault::Silence(Spent::No), 503),
        (Fault::Says(500, Vec::new(), format!("<html>{IN_BODY}")), 503),
        (Fault::Resigned("not-the-access-secret-of-these-tests-01234"), 503),
    ] {
        back(700);
        let mut jar = house.signed_in().await;
        secrets(&jar, &mut hushed);
        back(0);
        house.backend.fails(fault);
        let answer = house.ask(&ask(&jar).method("POST").body(IN_BODY.as_bytes())).await.expect(wanted);
        jar.take(&answer);
        secrets(&jar, &mut hushed);
        let page = house.ask(&Ask::page(&target).jar(&jar)).await;
        jar.take(&page);
        secrets(&jar, &mut hushed);
        house.backend.fails(Fault::None);
    }
    back(700);
    let ended = house.signed_in().await;
    house.backend.end(&ended).await;
    back(0);
    house.ask(&ask(&ended)).await.expect(401);
    let out = house.signed_in().await;
    house.ask(&Ask::form(&format!("/.doorkeep/sign-out?return=/{IN_QUERY}"), "").jar(&out)).await.expect(303);
    house.backend.close().await;
    let away = house.signed_in().await;
    house.ask(&Ask::form("/.doorkeep/sign-out", "").jar(&away)).await.expect(503);
    for jar in [&ended, &out, &away] {
        secrets(jar, &mut hushed);
    }
    let mut bad = Jar::default();
    bad.set("access_token", IN_BAD_TOKEN);
    house.ask(&ask(&bad)).await.expect(401);
    let malformed =
        Ask::page(&format!("/public/../x?{IN_QUERY}")).line("Cookie", &format!("theirs={IN_COOKIE}"));
    house.ask(&malformed).await.expect(400);
    house.upstream.on("/public/dead", vec![crate::support::Step::Close]);
    house.ask(&Ask::page(&format!("/public/dead?{IN_QUERY}"))).await.expect(502);
    house.ask(&Ask::page("/public/esc%1b%5b2J")).await.expect(400);

    program.terminate();
    assert_eq!(program.ended().await.code(), Some(0));
    let said = program.said();
    assert!(said.lines().count() > 100, "it told a lot: {} lines", said.lines().count());
    for part in ["\"/page\"", "\"renewed\"", "\"sign_out\"", "hyper"] {
        assert!(said.contains(part), "{part} is told");
    }
    hushed.sort();
    hushed.dedup();
    assert!(hushed.len() > 30);
    for secret in &hushed {
        if let Some(line) = said.lines().find(|line| line.contains(secret.as_str())) {
            panic!("{secret} is in the log:\n{line}");
        }
    }
    // Neither is the part of a token that anybody can read.
    for secret in hushed.iter().filter(|secret| secret.starts_with("eyJ")) {
        for part in secret.split('.').filter(|part| part.len() > 40) {
            assert!(!said.contains(part), "a part of a token: {part}");
        }
    }
}
