//! Nothing that the program writes, however much it is asked to tell, holds anything that opens a door.

use std::time::Duration;

use doorkeep::clock::{Clock as _, SystemClock};
use tokio_util::task::TaskTracker;

use crate::support::house::{ACCESS_SECRET, OWN_SECRET, REFRESH_SECRET, toml};
use crate::support::{Ask, Fault, House, Jar, Plan, Program, Spent, Step, Upstream};

const IN_QUERY: &str = "hush-in-the-query";
const IN_BODY: &str = "hush-in-the-body";
const IN_COOKIE: &str = "hush-in-a-cookie-of-the-app";
const IN_HEADER: &str = "hush-in-authorization";
const IN_BAD_TOKEN: &str = "hush.not-a-real.token";

/// A gateway that tells everything, and what it must not tell.
struct Told {
    house: House,
    program: Program,
    hushed: Vec<String>,
}

impl Told {
    async fn start() -> Self {
        let tasks = TaskTracker::new();
        let upstream = Upstream::start(&tasks).await;
        let mut house = House::without_door(SystemClock.now(), upstream, tasks);
        let plan = Plan {
            renew: "timeout = \"300ms\"\ngive_up = \"400ms\"",
            site: "token = \"x-access-token\"",
            rules: "[log]\nformat = \"json\"\nlevel = \"trace\"",
            ..Plan::default()
        };
        let program = Program::run(&toml(plan, house.backend.addr, house.upstream.addr)).await;
        house.addr = program.addr;
        let secrets = [
            ACCESS_SECRET,
            OWN_SECRET,
            REFRESH_SECRET,
            IN_QUERY,
            IN_BODY,
            IN_COOKIE,
            IN_HEADER,
            IN_BAD_TOKEN,
        ];
        Self { house, program, hushed: secrets.map(str::to_owned).into() }
    }

    /// Sets the counterparts' clock so many seconds back.
    fn back(&self, secs: u64) {
        self.house.clock.set(SystemClock.now().saturating_sub(Duration::from_secs(secs)));
    }

    fn hush(&mut self, jar: &Jar) {
        for name in ["access_token", "refresh_token", "session_id", "doorkeep_state"] {
            self.hushed.extend(jar.get(name).map(str::to_owned));
        }
    }

    /// A session whose access token is over.
    async fn expired(&mut self) -> Jar {
        self.back(700);
        let jar = self.house.signed_in().await;
        self.back(0);
        self.hush(&jar);
        jar
    }

    /// A session whose renewal goes so.
    async fn renewal(&mut self, fault: Fault, wanted: u16) {
        let mut jar = self.expired().await;
        self.house.backend.fails(fault);
        let answer = self.house.ask(&ask(&jar).method("POST").body(IN_BODY.as_bytes())).await.expect(wanted);
        jar.take(&answer);
        self.hush(&jar);
        let page = self.house.ask(&Ask::page(&target()).jar(&jar)).await;
        jar.take(&page);
        self.hush(&jar);
        self.house.backend.fails(Fault::None);
    }

    async fn endings(&mut self) {
        let ended = self.expired().await;
        self.house.backend.end(&ended).await;
        self.house.ask(&ask(&ended)).await.expect(401);
        let out = self.house.signed_in().await;
        let leave = format!("/.doorkeep/sign-out?return=/{IN_QUERY}");
        self.house.ask(&Ask::form(&leave, "").jar(&out)).await.expect(303);
        self.house.backend.close().await;
        let away = self.house.signed_in().await;
        self.house.ask(&Ask::form(&leave, "").jar(&away)).await.expect(503);
        self.hush(&out);
        self.hush(&away);
    }

    async fn oddities(&self) {
        let mut bad = Jar::default();
        bad.set("access_token", IN_BAD_TOKEN);
        self.house.ask(&ask(&bad)).await.expect(401);
        let malformed = Ask::page(&format!("/public/../x?{IN_QUERY}"));
        self.house.ask(&malformed.line("Cookie", &format!("theirs={IN_COOKIE}"))).await.expect(400);
        self.house.upstream.on("/public/dead", vec![Step::Close]);
        self.house.ask(&Ask::page(&format!("/public/dead?{IN_QUERY}"))).await.expect(502);
        self.house.ask(&Ask::page("/public/esc%1b%5b2J")).await.expect(400);
    }
}

fn target() -> String {
    format!("/page?q={IN_QUERY}&access-token={IN_QUERY}")
}

fn ask(jar: &Jar) -> Ask {
    let line = format!("{}; theirs={IN_COOKIE}", jar.line().unwrap_or_default());
    Ask::script(&target()).line("Cookie", &line).line("Authorization", &format!("Bearer {IN_HEADER}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_cookie_query_or_secret_is_in_the_log_at_any_level() {
    let mut told = Told::start().await;
    told.renewal(Fault::None, 200).await;
    told.renewal(Fault::HalfJson(Spent::No), 503).await;
    told.renewal(Fault::Cut(Spent::No), 503).await;
    told.renewal(Fault::Silence(Spent::No), 503).await;
    told.renewal(Fault::Says(500, Vec::new(), format!("<html>{IN_BODY}")), 503).await;
    told.renewal(Fault::Resigned("not-the-access-secret-of-these-tests-01234"), 503).await;
    told.endings().await;
    told.oddities().await;
    told.program.terminate();
    assert_eq!(told.program.ended().await.code(), Some(0));
    let said = told.program.said();
    assert!(said.lines().count() > 100, "it told a lot: {} lines", said.lines().count());
    for part in ["\"/page\"", "\"renewed\"", "\"sign_out\"", "hyper"] {
        assert!(said.contains(part), "{part} is told");
    }
    assert!(told.hushed.len() > 30);
    for secret in &told.hushed {
        if let Some(line) = said.lines().find(|line| line.contains(secret.as_str())) {
            panic!("{secret} is in the log:\n{line}");
        }
        // Neither is the part of a token that anybody can read.
        for part in secret.split('.').filter(|part| part.len() > 40) {
            assert!(!said.contains(part), "a part of a token: {part}");
        }
    }
}
