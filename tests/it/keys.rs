//! Keys that an issuer publishes: missing, changed, late, flooded for, and away. Nobody is signed out for want of a key.

use std::sync::Arc;
use std::time::Duration;

use doorkeep::assemble::Doorkeep;
use doorkeep::clock::ManualClock;
use doorkeep::config::Settings;
use serde_json::Value;
use tokio_util::task::TaskTracker;

use crate::support::house::{ACCESS_SECRET, START, toml};
use crate::support::token::claims;
use crate::support::{
    Ask, Gate, House, Jar, Plan, Program, Signer, Step, Upstream, answer, closed_port, key_set, until, within,
};

const NONE: Vec<&str> = Vec::new();

/// The usual house before an issuer that publishes keys.
struct Issuer {
    house: House,
    server: Upstream,
}

impl Issuer {
    /// Publishes these, signs with the first, and waits for nothing.
    async fn of(signers: &[&Signer]) -> Self {
        let (house, server) = Self::before().await;
        let issuer = Self { house, server };
        issuer.publishes(signers);
        issuer.house.backend.signs_with(signers[0]);
        let url = issuer.url();
        issuer.start(&format!("jwks = \"{url}\"\njwks_refresh = \"1h\"")).await
    }

    async fn before() -> (House, Upstream) {
        let tasks = TaskTracker::new();
        let app = Upstream::start(&tasks).await;
        let server = Upstream::start(&tasks).await;
        (House::without_door(START, app, tasks), server)
    }

    fn url(&self) -> String {
        format!("http://{}/jwks", self.server.addr)
    }

    async fn start(mut self, lines: &str) -> Self {
        let text = settings(&self.house, lines);
        let clock = Arc::<ManualClock>::clone(&self.house.clock);
        let door = Doorkeep::start(Settings::parse(&text).unwrap(), clock).await.unwrap();
        self.house.addr = door.http;
        self.house.door = Some(door);
        self
    }

    fn publishes(&self, signers: &[&Signer]) {
        self.says(&key_set(signers));
    }

    fn says(&self, body: &str) {
        let bytes = answer("200 OK", &[("Content-Type", "application/jwk-set+json")], body);
        self.server.answers("/jwks", bytes);
    }

    /// No decision about keys from now on.
    fn is_away(&self) {
        self.server.answers("/jwks", answer("503 Service Unavailable", &[], "later"));
    }

    fn fetches(&self) -> usize {
        self.server.count()
    }

    /// A session whose access token is known to the gateway already.
    async fn known(&self) -> Jar {
        let jar = self.house.signed_in().await;
        self.house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
        jar
    }
}

fn settings(house: &House, lines: &str) -> String {
    let text = toml(Plan::default(), &house.backend.settings(), house.upstream.addr);
    let usual = format!("algorithms = [\"HS256\"]\nkey = \"{ACCESS_SECRET}\"");
    assert!(text.contains(&usual));
    text.replace(&usual, &format!("algorithms = [\"ES256\", \"RS256\"]\n{lines}"))
}

/// The same session with its access token signed by this key.
fn resigned(jar: &Jar, signer: &Signer) -> Jar {
    let mut other = jar.clone();
    other.set("access_token", &signer.sign(&claims(jar.get("access_token").unwrap())));
    other
}

/// Nothing but the access token.
fn bare(jar: &Jar) -> Jar {
    jar.clone().without("refresh_token").without("session_id")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_published_keys_are_taken_and_no_others() {
    let (ours, theirs) = (Signer::new("1"), Signer::new("1"));
    let issuer = Issuer::of(&[&ours]).await;
    let jar = issuer.known().await;
    assert_eq!(issuer.house.upstream.last().line("x-auth-user").map(str::is_empty), Some(false));
    let forged = bare(&resigned(&jar, &theirs));
    issuer.house.ask(&Ask::page("/page").jar(&forged)).await.expect(302);
    let mut secret = bare(&jar);
    secret.set("access_token", &crate::support::token::signed(&claims(jar.get("access_token").unwrap())));
    issuer.house.ask(&Ask::page("/page").jar(&secret)).await.expect(302);
    issuer.house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(issuer.fetches(), 1);
    let metrics = issuer.house.door().meters.text();
    assert!(metrics.contains("doorkeep_key_fetches_total{outcome=\"new\"} 1"), "{metrics}");
    assert!(metrics.contains(&format!("doorkeep_keys_fetched_at_seconds {}", START.as_secs())), "{metrics}");
}

/// While no key is there nobody gets in, and nobody loses anything.
async fn everybody_is_asked_to_wait(house: &House, jar: &Jar) {
    for ask in [Ask::page("/page"), Ask::script("/data")] {
        for jar in [jar.clone(), bare(jar)] {
            let answer = house.ask(&ask.clone().jar(&jar)).await.expect(503);
            assert!(answer.line("retry-after").is_some());
            assert_eq!(answer.set_cookies(), NONE);
        }
    }
    let before = house.upstream.count();
    house.ask(&Ask::page("/optional/x").jar(jar)).await.expect(200);
    assert_eq!(house.upstream.last().line("x-auth-user"), None);
    assert_eq!(house.upstream.count(), before + 1);
    assert!(house.backend.renewals().is_empty(), "a renewal would not help");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_that_is_away_at_the_start_signs_nobody_out() {
    let signer = Signer::new("1");
    let (house, server) = Issuer::before().await;
    let issuer = Issuer { house, server };
    issuer.is_away();
    issuer.house.backend.signs_with(&signer);
    let url = issuer.url();
    let issuer = issuer.start(&format!("jwks = \"{url}\"")).await;
    let jar = issuer.house.signed_in().await;
    everybody_is_asked_to_wait(&issuer.house, &jar).await;
    // Without any cookie it is the login, as ever.
    issuer.house.ask(&Ask::page("/page")).await.expect(302);
    issuer.publishes(&[&signer]);
    let served = async {
        while issuer.house.ask(&Ask::page("/page").jar(&jar)).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within("the keys", served).await;
    assert!(issuer.house.backend.renewals().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_that_nobody_can_connect_to_stops_no_start() {
    let signer = Signer::new("1");
    let (house, server) = Issuer::before().await;
    let issuer = Issuer { house, server };
    issuer.house.backend.signs_with(&signer);
    let (_reserved, addr) = closed_port();
    let issuer = issuer.start(&format!("jwks = \"http://{addr}/jwks\"")).await;
    let jar = issuer.house.signed_in().await;
    everybody_is_asked_to_wait(&issuer.house, &jar).await;
    let metrics = issuer.house.door().meters.text();
    assert!(metrics.contains("doorkeep_key_fetches_total{outcome=\"connect\"}"), "{metrics}");
    assert!(metrics.contains("doorkeep_keys_fetched_at_seconds 0"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_that_goes_away_later_leaves_its_keys() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let issuer = Issuer::of(&[&old]).await;
    let jar = issuer.known().await;
    issuer.is_away();
    issuer.house.later(11);
    let fresh = resigned(&jar, &new);
    let answer = issuer.house.ask(&Ask::page("/page").jar(&fresh)).await.expect(503);
    assert_eq!(answer.set_cookies(), NONE);
    assert!(issuer.house.backend.renewals().is_empty());
    assert!(issuer.fetches() >= 2);
    // Whoever has a token of a known key notices nothing, remembered or not.
    issuer.house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    issuer.house.ask(&Ask::page("/page").jar(&issuer.house.backend.sign_in("ravi").await)).await.expect(200);
    issuer.publishes(&[&old, &new]);
    issuer.house.later(11);
    issuer.house.ask(&Ask::page("/page").jar(&fresh)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_is_found_and_a_removed_one_counts_no_longer() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let issuer = Issuer::of(&[&old]).await;
    let jar = issuer.known().await;
    issuer.house.later(11);
    issuer.publishes(&[&new, &old]);
    issuer.house.backend.signs_with(&new);
    issuer.house.ask(&Ask::page("/page").jar(&issuer.house.signed_in().await)).await.expect(200);
    assert_eq!(issuer.fetches(), 2);
    issuer.house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    issuer.house.ask(&Ask::page("/page").jar(&bare(&jar))).await.expect(200);
    // The old one goes; somebody's strange token makes that known.
    issuer.publishes(&[&new]);
    issuer.house.later(11);
    issuer
        .house
        .ask(&Ask::page("/page").jar(&bare(&resigned(&jar, &old.named("strange")))))
        .await
        .expect(302);
    assert_eq!(issuer.fetches(), 3);
    issuer.house.ask(&Ask::page("/page").jar(&bare(&jar))).await.expect(302);
    assert!(issuer.house.backend.renewals().is_empty());
    let renewed = issuer.house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(issuer.house.backend.renewals().len(), 1);
    assert!(renewed.cookie("access_token").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_with_a_brand_new_key_waits_for_it_and_for_no_pause() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let issuer = Issuer::of(&[&old]).await;
    let jar = issuer.known().await;
    issuer.house.later(605);
    // A strange token has just used up what presented tokens may fetch.
    issuer
        .house
        .ask(&Ask::page("/page").jar(&bare(&resigned(&jar, &Signer::new("strange")))))
        .await
        .expect(302);
    assert_eq!(issuer.fetches(), 2);
    issuer.house.backend.signs_with(&new);
    issuer.publishes(&[&new, &old]);
    let mut later = jar.clone();
    let renewed = issuer.house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    later.take(&renewed);
    issuer.house.ask(&Ask::page("/page").jar(&later)).await.expect(200);
    assert_eq!((issuer.fetches(), issuer.house.backend.renewals().len()), (3, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_replaced_under_its_own_name_is_found_by_a_renewal() {
    let old = Signer::new("same");
    let new = Signer::new("same");
    let issuer = Issuer::of(&[&old]).await;
    let jar = issuer.known().await;
    issuer.house.later(605);
    issuer.house.backend.signs_with(&new);
    issuer.publishes(&[&new]);
    issuer.house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(issuer.fetches(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_renewals_with_a_new_key_cost_few_fetches() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let issuer = Issuer::of(&[&old]).await;
    let mut jars = Vec::new();
    for _ in 0..30 {
        jars.push(issuer.known().await);
    }
    issuer.house.later(605);
    issuer.house.backend.signs_with(&new);
    issuer.publishes(&[&new, &old]);
    let asks = jars.iter().map(|jar| Ask::page("/page").jar(jar)).collect::<Vec<_>>();
    let answers = asks.iter().map(|ask| async { issuer.house.ask(ask).await.expect(200) });
    side_by_side(answers.collect()).await;
    assert_eq!(issuer.house.backend.renewals().len(), 30);
    // One that found the key, and at most one that was wanted while it was under way.
    assert!(issuer.fetches() <= 3, "{}", issuer.fetches());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_published_set_one_rotation_behind_costs_nobody_the_session() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let issuer = Issuer::of(&[&old]).await;
    let mut jar = issuer.known().await;
    issuer.house.later(605);
    issuer.house.backend.signs_with(&new);
    let answer = issuer.house.ask(&Ask::page("/page").jar(&jar)).await.expect(503);
    assert_eq!(issuer.house.upstream.count(), 1, "nobody gets in with it");
    jar.take(&answer);
    assert_eq!(claims(jar.get("access_token").unwrap())["iat"], START.as_secs() + 605, "the pair is kept");
    assert_eq!(issuer.fetches(), 2);
    // Whoever tries again, or has no refresh token, waits: another renewal would bring the same.
    for jar in [jar.clone(), bare(&jar)] {
        let answer = issuer.house.ask(&Ask::page("/page").jar(&jar)).await.expect(503);
        assert_eq!(answer.set_cookies(), NONE);
    }
    assert_eq!(issuer.house.backend.renewals().len(), 1);
    issuer.publishes(&[&new, &old]);
    let healed = issuer.house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(healed.set_cookies(), NONE);
    assert_eq!(issuer.house.backend.renewals().len(), 1, "the kept pair was enough");
    assert_eq!(issuer.house.backend.reuses(), 0);
}

/// Waits for all of these, side by side.
async fn side_by_side<T>(waiting: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<_> = waiting.into_iter().map(|one| (Box::pin(one), None)).collect();
    std::future::poll_fn(|cx| {
        let mut open = false;
        for (one, done) in &mut waiting {
            if done.is_none() {
                match one.as_mut().poll(cx) {
                    std::task::Poll::Ready(value) => *done = Some(value),
                    std::task::Poll::Pending => open = true,
                }
            }
        }
        if open { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    waiting.into_iter().filter_map(|(_, done)| done).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_strange_keys_costs_one_fetch_and_holds_nobody_up() {
    let signer = Signer::new("1");
    let issuer = Issuer::of(&[&signer]).await;
    let jar = issuer.known().await;
    let strange = Signer::new("x");
    let forged = |n: usize| bare(&resigned(&jar, &strange.named(&format!("strange-{n}"))));
    // Within the pause there is no fetch at all.
    for n in 0..20 {
        issuer.house.ask(&Ask::page("/page").jar(&forged(n))).await.expect(302);
    }
    assert_eq!(issuer.fetches(), 1);
    // After it there is one, and while that takes its time everybody else is served.
    issuer.house.later(10);
    let gate = Gate::closed();
    let late = answer("200 OK", &[], &key_set(&[&signer]));
    issuer.server.on("/jwks", vec![Step::ReadBody, Step::Wait(gate.clone()), Step::Send(late)]);
    let asks: Vec<Ask> = (0..100).map(|n| Ask::page("/page").jar(&forged(n))).collect();
    let flood = side_by_side(asks.iter().map(|ask| issuer.house.ask(ask)).collect());
    let served = async {
        gate.reached_by(1).await;
        for _ in 0..20 {
            issuer.house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
        }
        issuer
            .house
            .ask(&Ask::page("/page").jar(&issuer.house.backend.sign_in("ravi").await))
            .await
            .expect(200);
        gate.open();
    };
    let (answers, ()) = within("the flood", async { tokio::join!(flood, served) }).await;
    assert!(answers.into_iter().all(|answer| answer.expect(302).deleted() == NONE));
    assert_eq!(issuer.fetches(), 2);
    for n in 0..20 {
        issuer.house.ask(&Ask::page("/page").jar(&forged(200 + n))).await.expect(302);
    }
    assert_eq!(issuer.fetches(), 2);
    assert!(issuer.house.backend.calls().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_issuer_is_waited_for_in_bounds_and_by_few() {
    let signer = Signer::new("1");
    let issuer = Issuer::of(&[&signer]).await;
    let jar = issuer.known().await;
    issuer.house.later(11);
    issuer.server.on("/jwks", vec![Step::ReadBody, Step::Hang]);
    let strange = resigned(&jar, &Signer::new("2"));
    let ask = Ask::page("/page").jar(&strange);
    let waiting = issuer.house.ask(&ask);
    let served = async {
        until("the fetch", || issuer.fetches() == 2).await;
        issuer.house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    };
    let (answer, ()) = within("an answer", async { tokio::join!(waiting, served) }).await;
    assert_eq!(answer.expect(503).set_cookies(), NONE);
    assert!(issuer.house.backend.calls().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_no_key_set_changes_nothing() {
    let (signer, other) = (Signer::new("1"), Signer::new("2"));
    let issuer = Issuer::of(&[&signer]).await;
    let jar = issuer.known().await;
    let strange = resigned(&jar, &other);
    let both = key_set(&[&signer, &other]);
    let whole = answer("200 OK", &[], &both);
    let (half, _) = whole.split_at(whole.len() - 20);
    let to = format!("http://{}/other", issuer.server.addr);
    issuer.server.answers("/other", whole.clone());
    let huge = both.replacen('{', &format!("{{\"padding\": \"{}\",", "x".repeat(100_000)), 1);
    let says = |body: &str| vec![Step::ReadBody, Step::Send(answer("200 OK", &[], body))];
    for steps in [
        vec![Step::ReadBody, Step::Send(half.to_vec()), Step::Close],
        vec![Step::ReadBody, Step::Close],
        vec![Step::ReadBody, Step::Send(answer("302 Found", &[("Location", &to)], ""))],
        vec![Step::ReadBody, Step::Send(answer("404 Not Found", &[], &both))],
        vec![Step::ReadBody, Step::Send(answer("200 OK", &[("Content-Type", "text/html")], "<html>"))],
        says(&huge),
        says(&both[..both.len() - 1]),
        says("[]"),
        says(""),
    ] {
        issuer.server.on("/jwks", steps.clone());
        issuer.house.later(11);
        let shown = format!("{steps:?}").chars().take(300).collect::<String>();
        let before = issuer.fetches();
        let answer = issuer.house.ask(&Ask::page("/page").jar(&strange)).await;
        assert_eq!(answer.status, 503, "{shown}");
        assert_eq!(answer.set_cookies(), NONE);
        assert!(issuer.fetches() > before);
        issuer.house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    }
    assert!(issuer.server.seen().iter().all(|seen| seen.target == "/jwks"), "no redirect is followed");
    issuer.server.answers("/jwks", whole);
    issuer.house.later(11);
    issuer.house.ask(&Ask::page("/page").jar(&strange)).await.expect(200);
    assert!(issuer.house.backend.calls().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_without_a_usable_key_ends_the_trust_in_the_old_ones_and_nobodys_session() {
    let signer = Signer::new("1");
    for body in ["{\"keys\": []}", "{\"keys\": [{\"kty\": \"oct\", \"k\": \"AAAA\", \"kid\": \"1\"}]}"] {
        let issuer = Issuer::of(&[&signer]).await;
        let jar = issuer.known().await;
        issuer.says(body);
        issuer.house.later(11);
        // Somebody's strange token makes that known.
        let strange = bare(&resigned(&jar, &Signer::new("2")));
        issuer.house.ask(&Ask::page("/page").jar(&strange)).await.expect(503);
        everybody_is_asked_to_wait(&issuer.house, &jar).await;
        issuer.publishes(&[&signer]);
        issuer.house.later(11);
        issuer.house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
        assert!(issuer.house.backend.renewals().is_empty(), "the session is as it was");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_file_of_keys_is_taken_and_a_bad_one_is_not() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.json");
    std::fs::write(&path, key_set(&[&old])).unwrap();
    let (house, server) = Issuer::before().await;
    house.backend.signs_with(&old);
    let issuer = Issuer { house, server }.start(&format!("jwks_file = \"{}\"", path.display())).await;
    let jar = issuer.known().await;
    let fresh = resigned(&jar, &new);
    std::fs::write(&path, "{\"keys\": [").unwrap();
    issuer.house.later(11);
    issuer.house.ask(&Ask::page("/page").jar(&fresh)).await.expect(503);
    issuer.house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    std::fs::write(&path, key_set(&[&new])).unwrap();
    // Nobody asks for a key here: the file is looked at every few seconds.
    let gone = async {
        while issuer.house.ask(&Ask::page("/page").jar(&bare(&jar))).await.status != 302 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    within("the old key to go", gone).await;
    issuer.house.ask(&Ask::page("/page").jar(&fresh)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_fetched_again_by_themselves() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let (house, server) = Issuer::before().await;
    house.backend.signs_with(&old);
    let issuer = Issuer { house, server };
    issuer.publishes(&[&old]);
    let url = issuer.url();
    let issuer = issuer.start(&format!("jwks = \"{url}\"\njwks_refresh = \"1s\"")).await;
    let jar = issuer.known().await;
    issuer.publishes(&[&new]);
    let asked = issuer.fetches();
    until("two more fetches", || issuer.fetches() >= asked + 2).await;
    issuer.house.ask(&Ask::page("/page").jar(&bare(&jar))).await.expect(302);
    issuer.house.ask(&Ask::page("/page").jar(&resigned(&jar, &new))).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_that_fails_again_is_told_once_and_nothing_secret_with_it() {
    let (house, server) = Issuer::before().await;
    server.answers("/jwks", answer("500 Oh", &[], "secret"));
    let lines = format!("jwks = \"http://{}/jwks?key=hunter2\"\njwks_refresh = \"1s\"", server.addr);
    let text = settings(&house, &lines)
        .replace("[session]", "[log]\nformat = \"json\"\nlevel = \"debug\"\n[session]");
    let program = Program::run(&text).await;
    until("some fetches", || server.count() >= 4).await;
    server.answers("/jwks", answer("200 OK", &[], &key_set(&[&Signer::new("k-1")])));
    until("the keys", || program.said().contains("verified with new keys")).await;
    let said = program.said();
    let failed = said.lines().filter(|line| line.contains("keys could not be fetched")).count();
    assert_eq!(failed, 1, "{said}");
    assert!(said.contains("answered 500") && said.contains("k-1"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn the_check_shows_keys_and_asks_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let set = key_set(&[&Signer::new("k-1"), &Signer::new("k-2")]);
    std::fs::write(dir.path().join("keys.json"), &set).unwrap();
    let path = dir.path().join("doorkeep.toml");
    let addr: std::net::SocketAddr = "127.0.0.1:9".parse().unwrap();
    let usual = format!("algorithms = [\"HS256\"]\nkey = \"{ACCESS_SECRET}\"");
    let check = |lines: &str| {
        let text = toml(Plan::default(), &crate::support::issuer::directory_lines(addr), addr)
            .replace(&usual, lines);
        std::fs::write(&path, text).unwrap();
        let output = crate::support::program::output(&["check", "--config", path.to_str().unwrap()]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let file = dir.path().join("keys.json");
    let said = check(&format!("algorithms = \"ES256\"\njwks_file = \"{}\"", file.display()));
    let x: Value = serde_json::from_str(&set).unwrap();
    for kid in ["k-1", "k-2"] {
        assert!(
            said.contains(&format!("access tokens: public key ES256 \"{kid}\" from {}", file.display())),
            "{said}"
        );
    }
    assert!(!said.contains(x["keys"][0]["x"].as_str().unwrap()));
    let said = check("algorithms = \"ES256\"\njwks = \"http://127.0.0.1:9/jwks\"");
    assert!(
        said.contains("public keys from http://127.0.0.1:9/jwks, asked every 10m, for ES256 (not asked now)"),
        "{said}"
    );
    let said = check(&usual);
    assert!(
        said.contains("access tokens: secret for HS256 from session.token.key")
            && !said.contains(ACCESS_SECRET),
        "{said}"
    );
}
