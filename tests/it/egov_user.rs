//! Before an egov-user: opaque tokens, a renewal that ends the old one, and a sign-out that leaves the refresh token alive.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use doorkeep::assemble::Doorkeep;
use doorkeep::clock::ManualClock;
use doorkeep::config::Settings;
use serde_json::json;
use tokio_util::task::TaskTracker;

use crate::support::egov::{Egov, LIFE, strict_app};
use crate::support::house::{OWN_SECRET, START};
use crate::support::{
    Answer, Ask, Conn, Fault, Gate, HOST, Jar, LOGIN, ORIGIN, Redis, Spent, Step, Upstream, answer, until,
    within,
};

/// Which app stands behind.
#[derive(Clone, Copy)]
enum App {
    /// One that records what reaches it.
    Records,
    /// One that takes live tokens only.
    Asks,
}

/// Clock, egov-user, an app that records, an app that asks about tokens, and the gateway before either.
struct House {
    clock: Arc<ManualClock>,
    egov: Egov,
    upstream: Upstream,
    gate: Gate,
    door: Doorkeep,
    addr: SocketAddr,
}

/// A gateway between these: `rules` are further tables of its settings.
async fn opened(
    (backend, app): (SocketAddr, SocketAddr),
    (kind, rules): (App, &str),
    clock: &Arc<ManualClock>,
) -> Doorkeep {
    // Where faults are tried, silence is over soon.
    let (timeout, give_up) = match kind {
        App::Records => ("400ms", "500ms"),
        App::Asks => ("10s", "11s"),
    };
    let text = format!(
        r#"
secret = "{OWN_SECRET}"
[listen]
http = "127.0.0.1:0"
[session]
backend = "egov_user"
[session.token.introspect]
timeout = "{timeout}"
[session.renew]
timeout = "{timeout}"
give_up = "{give_up}"
[login]
url = "{LOGIN}"
[backend.egov_user]
url = "http://{backend}"
[identity.headers]
"X-Auth-User" = "uuid"
"X-Auth-Roles" = "roles.code"
[[site]]
host = "{HOST}"
origin = "{ORIGIN}"
upstream = ["http://{app}"]
token = "bearer"
[[site.rule]]
path = "/optional/*"
access = "optional"
[[site.rule]]
path = "/clerks/*"
require = {{ "roles.code" = ["CLERK"] }}
[[site.rule]]
path = "/root/*"
require = {{ "roles.code" = ["ROOT"] }}
{rules}
"#
    );
    let settings = Settings::parse(&text).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
    Doorkeep::start(settings, Arc::<ManualClock>::clone(clock)).await.unwrap()
}

impl House {
    /// Before an app that records what reaches it.
    async fn usual() -> Self {
        Self::start(App::Records, "").await
    }

    /// Before an app that takes live tokens only.
    async fn strict() -> Self {
        Self::start(App::Asks, "").await
    }

    async fn start(kind: App, rules: &str) -> Self {
        let tasks = TaskTracker::new();
        let clock = Arc::new(ManualClock::at(START));
        let egov = Egov::start(Arc::clone(&clock), &tasks);
        let upstream = Upstream::start(&tasks).await;
        let gate = Gate::closed();
        let app = match kind {
            App::Records => upstream.addr,
            App::Asks => strict_app(&egov, &gate, &tasks).await,
        };
        let door = opened((egov.addr, app), (kind, rules), &clock).await;
        let addr = door.http;
        Self { clock, egov, upstream, gate, door, addr }
    }

    async fn ask(&self, ask: &Ask) -> Answer {
        Conn::open(self.addr).await.ask(ask).await
    }

    fn later(&self, secs: u64) {
        self.clock.advance(Duration::from_secs(secs));
    }

    /// A session that this gateway has seen, so that the browser has our notes.
    async fn known(&self) -> Jar {
        let mut jar = self.egov.sign_in("ana");
        jar.take(&self.ask(&Ask::page("/page").jar(&jar)).await.expect(200));
        assert!(jar.get("doorkeep_state").is_some(), "the tokens do not tell whose they are");
        jar
    }

    /// The same after a renewal, so that it is known when its access token ends.
    async fn renewed(&self) -> Jar {
        let mut jar = self.known().await;
        self.later(LIFE);
        jar.take(&self.ask(&Ask::page("/page").jar(&jar)).await.expect(200));
        jar
    }

    async fn landed(&self) {
        until("every flight's end", || self.door.meters.flights.get() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_app_is_told_who_is_there() {
    let house = House::usual().await;
    let jar = house.egov.sign_in("ana");
    let answer = house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    let seen = house.upstream.last();
    assert_eq!(seen.line("x-auth-user"), Some("uuid-ana"));
    assert_eq!(seen.line("x-auth-roles"), Some("CITIZEN,CLERK"));
    assert_eq!(seen.line("authorization"), Some(&*format!("Bearer {}", jar.get("access_token").unwrap())));
    assert!(answer.cookie("doorkeep_state").is_some() && answer.set_cookies().len() == 1);
    house.ask(&Ask::page("/clerks/page").jar(&jar)).await.expect(200);
    house.ask(&Ask::page("/root/page").jar(&jar)).await.expect(403);
    let asked = house.egov.calls("/_details");
    assert_eq!(asked.len(), 1, "its word is kept");
    assert_eq!(asked[0].path, "/user/_details", "no token stands in an address");
    // A session id is nothing to this backend: a cookie of that name is the app's own.
    let mut with_cookie = jar.clone();
    with_cookie.set("session_id", "of the app");
    house.ask(&Ask::page("/page").jar(&with_cookie)).await.expect(200);
    assert_eq!(house.upstream.last().line("cookie"), Some("session_id=of the app"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_token_is_leads_to_the_login_and_the_backend_is_asked_once() {
    let house = House::usual().await;
    let mut jar = Jar::default();
    jar.set("access_token", "made-up");
    for _ in 0..3 {
        house.ask(&Ask::page("/page").jar(&jar)).await.expect(302);
        house.ask(&Ask::script("/data").jar(&jar)).await.expect(401);
    }
    assert_eq!(house.egov.calls("/_details").len(), 1);
    assert_eq!(house.upstream.count(), 0);
    house.ask(&Ask::page("/optional/page").jar(&jar)).await.expect(200);
    assert_eq!(house.upstream.last().line("x-auth-user"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_goes_on_over_several_expiries_and_its_refresh_token_stays() {
    let house = House::usual().await;
    let mut jar = house.known().await;
    let refresh = jar.get("refresh_token").unwrap().to_owned();
    for turn in 1..6 {
        house.later(LIFE);
        let answer = house.ask(&Ask::script("/data").jar(&jar)).await.expect(200);
        assert_eq!(answer.cookie("refresh_token"), None, "it is the same, and its end has not moved");
        let old = jar.get("access_token").unwrap().to_owned();
        jar.take(&answer);
        assert_ne!(jar.get("access_token"), Some(&*old));
        assert_eq!(house.egov.calls("/token").len(), turn);
        house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    }
    assert_eq!(jar.get("refresh_token"), Some(&*refresh));
    assert_eq!(house.egov.calls("/_details").len(), 6, "what was issued is told beside it: {:?}", {
        let paths: Vec<_> = house.egov.calls("").into_iter().map(|call| call.path).collect();
        paths
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issued_token_that_came_without_a_name_is_asked_about() {
    let house = House::usual().await;
    house.egov.names_nobody();
    let mut jar = house.known().await;
    house.later(LIFE);
    jar.take(&house.ask(&Ask::script("/data").jar(&jar)).await.expect(200));
    assert_eq!(house.upstream.last().line("x-auth-user"), Some("uuid-ana"));
    // Where nobody can say just now, the new token is kept: the old one is dead.
    house.later(LIFE);
    house.egov.fails("/_details", Fault::Answers(json!({"odd": 1})));
    let old = jar.get("access_token").unwrap().to_owned();
    let answer = house.ask(&Ask::page("/page").jar(&jar)).await.expect(503);
    assert!(answer.set_cookies().is_empty(), "nobody could even say whether the old one is over");
    house.egov.fails("/_details", Fault::None);
    house.ask(&Ask::page("/optional/page").jar(&jar)).await.expect(200);
    assert_ne!(jar.get("access_token"), None);
    assert!(!house.egov.is_live(&old));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_whose_tokens_cannot_be_asked_about_is_stored_and_not_made_twice() {
    let house = House::usual().await;
    house.egov.names_nobody();
    let mut jar = house.known().await;
    house.later(LIFE);
    // The old token is known to be over, then the backend stops telling.
    let without_refresh = jar.clone().without("refresh_token");
    house.ask(&Ask::page("/page").jar(&without_refresh)).await.expect(302);
    house.egov.fails("/_details", Fault::Says(500, vec![], String::new()));
    let answer = house.ask(&Ask::page("/page").jar(&jar)).await.expect(503);
    jar.take(&answer);
    assert!(house.egov.is_live(jar.get("access_token").unwrap()), "the browser has the new one");
    house.egov.fails("/_details", Fault::None);
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(house.egov.calls("/token").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_due_token_is_renewed_before_its_request_goes_on() {
    let house = House::strict().await;
    let mut jar = house.renewed().await;
    let renewals = house.egov.calls("/token").len();
    house.later(LIFE - 20);
    let old = jar.get("access_token").unwrap().to_owned();
    let answer = house.ask(&Ask::script("/data").jar(&jar)).await.expect(200);
    jar.take(&answer);
    assert_eq!(answer.text(), jar.get("access_token").unwrap(), "the app got the new one");
    assert!(answer.text() != old && !house.egov.is_live(&old));
    assert_eq!(house.egov.calls("/token").len(), renewals + 1);
    // Whoever still brings the old one is given the new one, POST or not.
    let mut late = jar.clone();
    late.set("access_token", &old);
    let answer = house.ask(&Ask::script("/data").method("POST").jar(&late)).await.expect(200);
    assert_eq!(answer.text(), jar.get("access_token").unwrap());
    assert_eq!(answer.cookie("access_token"), jar.get("access_token"));
    assert_eq!(house.egov.calls("/token").len(), renewals + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_is_ended_under_a_request_that_is_upstream_until_the_last_moment() {
    let house = House::strict().await;
    let jar = house.renewed().await;
    let renewals = house.egov.calls("/token").len();
    house.later(LIFE - 20);
    // It went out a moment ago, and the app has not looked at its token yet.
    let mut slow = Conn::open(house.addr).await;
    let fresh = {
        // As if it had been sent before the token was due.
        house.clock.set(doorkeep::clock::UnixTime::from_secs(START.as_secs() + LIFE + 10));
        slow.send(&Ask::script("/slow").method("POST").jar(&jar).bytes()).await;
        house.gate.reached_by(1).await;
        house.clock.set(doorkeep::clock::UnixTime::from_secs(START.as_secs() + 2 * LIFE - 20));
        jar.get("access_token").unwrap().to_owned()
    };
    let answer = house.ask(&Ask::script("/data").jar(&jar)).await.expect(200);
    assert_eq!(answer.text(), fresh, "the old one goes on being used");
    assert_eq!(house.egov.calls("/token").len(), renewals);
    house.gate.open();
    within("the slow answer", slow.answer("POST")).await.expect(200);
    let answer = house.ask(&Ask::script("/data").jar(&jar)).await.expect(200);
    assert_ne!(answer.text(), fresh, "now nobody is in the way");
    assert_eq!(house.egov.calls("/token").len(), renewals + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_its_last_moment_a_token_is_renewed_whoever_is_upstream() {
    let house = House::strict().await;
    let jar = house.renewed().await;
    let renewals = house.egov.calls("/token").len();
    let mut slow = Conn::open(house.addr).await;
    slow.send(&Ask::script("/slow").jar(&jar).bytes()).await;
    house.gate.reached_by(1).await;
    house.later(LIFE - 5);
    let answer = house.ask(&Ask::script("/data").jar(&jar)).await.expect(200);
    assert_eq!(answer.text(), jar.get("access_token").unwrap(), "five seconds are left: it can wait");
    house.later(1);
    let answer = house.ask(&Ask::script("/data").jar(&jar)).await.expect(200);
    assert_ne!(answer.text(), jar.get("access_token").unwrap());
    assert_eq!(house.egov.calls("/token").len(), renewals + 1);
    // The one that was upstream with the old token is refused there, and sent once more with the new one.
    house.gate.open();
    let second = within("the slow answer", slow.answer("GET")).await.expect(200);
    assert_eq!(second.text(), answer.text());
    assert_eq!(second.cookie("access_token"), Some(&*answer.text()));
    assert_eq!(house.egov.calls("/token").len(), renewals + 1, "the newest is there already");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_parallel_requests_at_the_end_of_a_token_see_no_401() {
    let house = Arc::new(House::strict().await);
    let jar = house.renewed().await;
    for secs in [LIFE - 20, 20] {
        house.later(secs);
        let tasks = TaskTracker::new();
        let asking: Vec<_> = (0..100)
            .map(|n| {
                let (house, jar) = (Arc::clone(&house), jar.clone());
                let ask = Ask::script("/data").method(if n % 2 == 0 { "GET" } else { "POST" }).jar(&jar);
                tasks.spawn(async move { house.ask(&ask).await })
            })
            .collect();
        for answer in asking {
            let answer = answer.await.unwrap().expect(200);
            assert!(house.egov.is_live(&answer.text()));
        }
    }
    assert_eq!(house.egov.calls("/token").len(), 2, "one for the house, one for them all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_died_elsewhere_is_renewed_when_the_app_refuses_it() {
    let house = House::strict().await;
    let mut jar = house.known().await;
    // Another browser's renewal ended it; the word that it is active is kept here for some seconds yet.
    house.egov.end(jar.get("access_token").unwrap());
    let answer = house.ask(&Ask::script("/data").jar(&jar)).await.expect(200);
    jar.take(&answer);
    assert_eq!(answer.text(), jar.get("access_token").unwrap());
    assert_eq!(house.egov.calls("/token").len(), 1);
    // A request that changes something is not sent twice.
    house.egov.end(jar.get("access_token").unwrap());
    house.ask(&Ask::script("/data").method("POST").jar(&jar)).await.expect(401);
    house.ask(&Ask::script("/data").method("GET").body(b"x").jar(&jar)).await.expect(401);
    assert_eq!(house.egov.calls("/token").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_at_one_replica_ends_what_the_others_keep_of_the_old_token() {
    let redis = Redis::start().await;
    let house = House::start(App::Records, &redis.table()).await;
    let other =
        opened((house.egov.addr, house.upstream.addr), (App::Records, &redis.table()), &house.clock).await;
    for door in [&house.door, &other] {
        until("the share to be up", || door.meters.share_up.get() == 1).await;
    }
    // A store that is new is trusted after a moment: owners of claims could be on their way back.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let old = house.known().await;
    let ask = async |ask: Ask| Conn::open(other.http).await.ask(&ask.jar(&old)).await;
    let bearer = |jar: &Jar| format!("Bearer {}", jar.get("access_token").unwrap());
    ask(Ask::script("/before")).await.expect(200);
    let asked = house.egov.calls("/_details").len();
    ask(Ask::script("/before")).await.expect(200);
    assert_eq!(house.egov.calls("/_details").len(), asked, "what was said of it is kept there");
    // The clock stands still here: only the word of the first replica makes the second one ask again.
    house.upstream.on("/denies", vec![Step::ReadBody, Step::Send(answer("401 Unauthorized", &[], ""))]);
    let mut jar = old.clone();
    jar.take(&house.ask(&Ask::script("/denies").jar(&old)).await);
    assert_ne!(jar.get("access_token"), old.get("access_token"), "it was renewed, which ended the old one");
    assert!(!house.egov.is_live(old.get("access_token").unwrap()));
    within("the other replica to know", async {
        loop {
            let answer = ask(Ask::script("/after")).await.expect(200);
            if house.upstream.last().line("authorization") == Some(bearer(&jar).as_str()) {
                let mut own = old.clone();
                own.take(&answer);
                assert_eq!(own.get("access_token"), jar.get("access_token"), "the first replica's result");
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(house.egov.calls("/token").len(), 1, "nobody renewed it again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_told_that_he_is_signed_out_of_a_session_that_nobody_can_tell_of() {
    let house = House::usual().await;
    let jar = house.known().await.without("refresh_token");
    house.later(10);
    house.egov.fails("/_details", Fault::Says(500, vec![], String::new()));
    let out = Ask::form("/.doorkeep/sign-out", "").jar(&jar);
    let told = house.ask(&out).await.expect(503);
    assert!(told.set_cookies().is_empty() && told.line("retry-after").is_some());
    assert!(house.egov.is_live(jar.get("access_token").unwrap()));
    house.egov.fails("/_details", Fault::None);
    house.ask(&out).await.expect(303);
    assert!(!house.egov.is_live(jar.get("access_token").unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_refuses_everybody_costs_one_renewal() {
    let house = House::strict().await;
    let mut jar = house.known().await;
    let answer = house.ask(&Ask::script("/never").jar(&jar)).await.expect(401);
    jar.take(&answer);
    assert_eq!(house.egov.calls("/token").len(), 1);
    assert!(house.egov.is_live(jar.get("access_token").unwrap()), "what was renewed reaches the browser");
    for _ in 0..5 {
        let answer = house.ask(&Ask::script("/never").jar(&jar)).await.expect(401);
        jar.take(&answer);
        assert_eq!(house.egov.calls("/token").len(), 1, "it is not the token that it dislikes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_upstream_of_a_session_that_is_over_leads_to_the_login() {
    let house = House::strict().await;
    let jar = house.known().await;
    house.egov.end(jar.get("access_token").unwrap());
    house.egov.end_refresh(jar.get("refresh_token").unwrap());
    let answer = house.ask(&Ask::page("/page").jar(&jar)).await.expect(302);
    assert!(answer.deleted().contains(&"refresh_token"), "the backend has said so");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_is_refused_after_the_time_that_words_are_kept() {
    let house = House::usual().await;
    let jar = house.known().await.without("refresh_token");
    house.egov.end(jar.get("access_token").unwrap());
    house.later(9);
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    house.later(1);
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(302);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signing_out_ends_the_token_and_the_refresh_token_comes_back_for_nobody() {
    let house = House::usual().await;
    let jar = house.known().await;
    let answer = house.ask(&Ask::form("/.doorkeep/sign-out", "").jar(&jar)).await.expect(303);
    assert_eq!(answer.deleted().len(), 3);
    assert!(!house.egov.is_live(jar.get("access_token").unwrap()));
    assert_eq!(house.egov.calls("/_logout").len(), 1);
    // Another browser that shares the pair, and a copy of the cookies: over for both, though the service would renew.
    let before = house.egov.calls("/token").len();
    house.later(20);
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(302);
    house.ask(&Ask::page("/page").jar(&jar.clone().without("access_token"))).await.expect(302);
    assert_eq!(house.egov.calls("/token").len(), before);
    // A new sign-in brings a new pair, and that is let in.
    let anew = house.egov.sign_in("ana");
    assert_ne!(anew.get("refresh_token"), jar.get("refresh_token"));
    house.ask(&Ask::page("/page").jar(&anew)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signing_out_with_a_token_that_was_replaced_ends_the_one_that_replaced_it() {
    let house = House::usual().await;
    let jar = house.known().await;
    // Renewed by somebody else: the service would hand the same pair out at the next sign-in.
    house.egov.end(jar.get("access_token").unwrap());
    let answer = house.ask(&Ask::form("/.doorkeep/sign-out", "").jar(&jar)).await.expect(303);
    assert_eq!(answer.deleted().len(), 3);
    let calls: Vec<_> = house.egov.calls("").into_iter().map(|call| call.path).collect();
    assert!(calls.ends_with(&["/user/_logout".into(), "/user/oauth/token".into(), "/user/_logout".into()]));
    let anew = house.egov.sign_in("ana");
    house.ask(&Ask::page("/page").jar(&anew)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sign_out_that_is_not_confirmed_signs_nobody_out() {
    let house = House::usual().await;
    let jar = house.known().await;
    house.egov.fails("/_logout", Fault::Says(500, vec![], String::new()));
    let answer = house.ask(&Ask::form("/.doorkeep/sign-out", "").jar(&jar)).await.expect(503);
    assert!(answer.set_cookies().is_empty());
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
}

/// While the backend tells nothing of a token, everybody waits and nobody is signed out; then all goes on.
async fn details_away(fault: Fault) {
    let house = House::usual().await;
    let jar = house.known().await;
    let stranger = house.egov.sign_in("bo");
    house.later(10);
    house.egov.fails("/_details", fault);
    let before = house.upstream.count();
    for who in [&jar, &stranger] {
        for ask in [Ask::page("/page"), Ask::script("/data")] {
            let answer = house.ask(&ask.jar(who)).await.expect(503);
            assert!(answer.set_cookies().is_empty(), "{:?}", answer.set_cookies());
            assert!(answer.line("retry-after").is_some() && answer.is_never_stored());
        }
    }
    assert_eq!(house.upstream.count(), before, "nobody is let in by a fault");
    let answer = house.ask(&Ask::page("/optional/page").jar(&jar)).await.expect(200);
    assert!(answer.set_cookies().is_empty());
    assert_eq!(house.upstream.last().line("x-auth-user"), None);
    assert!(house.egov.calls("/token").is_empty(), "no fault renews");
    house.egov.fails("/_details", Fault::None);
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    house.ask(&Ask::page("/page").jar(&stranger)).await.expect(200);
}

/// While a renewal gets no decision, nobody is signed out; once it gets one, the session goes on.
async fn token_away(fault: Fault) {
    let house = House::usual().await;
    let jar = house.known().await;
    house.later(LIFE);
    house.egov.fails("/token", fault);
    let before = house.upstream.count();
    for ask in [Ask::page("/page"), Ask::script("/data")] {
        let answer = house.ask(&ask.jar(&jar)).await.expect(503);
        assert!(answer.set_cookies().is_empty() && answer.line("retry-after").is_some());
        house.landed().await;
    }
    assert_eq!(house.upstream.count(), before);
    house.egov.fails("/token", Fault::None);
    house.later(31);
    let answer = house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert!(answer.cookie("access_token").is_some());
}

fn page(status: u16) -> Fault {
    let lines = vec![("Content-Type", "text/html; charset=utf-8".to_owned())];
    Fault::Says(status, lines, "<!doctype html><title>Elsewhere</title>".to_owned())
}

fn says(status: u16, json: &serde_json::Value) -> Fault {
    Fault::Says(status, vec![("Content-Type", "application/json".to_owned())], json.to_string())
}

macro_rules! faults {
    ($($name:ident => $fault:expr,)+) => {
        mod details {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                details_away($fault).await;
            })+
        }
        mod token {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                token_away($fault).await;
            })+
        }
    };
}

faults! {
    a_500_page_keeps_the_session => page(500),
    a_500_of_the_service_keeps_the_session => says(500, &json!({"error": "server_error"})),
    a_502_keeps_the_session => page(502),
    a_503_keeps_the_session => page(503),
    a_504_keeps_the_session => page(504),
    a_429_keeps_the_session => page(429),
    a_404_keeps_the_session => says(404, &json!({"error": "Not Found"})),
    a_403_page_keeps_the_session => page(403),
    a_401_about_the_gateway_keeps_the_session => says(401, &json!({"status": 401, "error": "Unauthorized"})),
    a_401_page_keeps_the_session => page(401),
    a_400_about_the_request_keeps_the_session =>
        says(400, &json!({"error": "invalid_request", "error_description": "Missing grant type"})),
    a_page_with_200_keeps_the_session => page(200),
    an_empty_200_keeps_the_session => Fault::Says(200, vec![], String::new()),
    success_that_says_nothing_keeps_the_session => Fault::Answers(json!({"ok": true})),
    a_redirect_is_not_followed_and_keeps_the_session =>
        Fault::Says(302, vec![("Location", "/elsewhere".to_owned())], String::new()),
    half_an_answer_keeps_the_session => Fault::HalfJson(Spent::No),
    a_cut_answer_keeps_the_session => Fault::Cut(Spent::No),
    a_huge_answer_keeps_the_session => Fault::Huge(Spent::No),
    silence_keeps_the_session => Fault::Silence(Spent::No),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_not_there_signs_nobody_out() {
    let house = House::usual().await;
    let jar = house.known().await;
    house.egov.close().await;
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    house.later(10);
    let answer = house.ask(&Ask::page("/page").jar(&jar)).await.expect(503);
    assert!(answer.set_cookies().is_empty());
    house.egov.open();
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_was_locked_is_over() {
    let house = House::usual().await;
    let jar = house.known().await;
    house.later(LIFE);
    house.egov.fails(
        "/token",
        says(400, &json!({"error": "invalid_request", "error_description": "Account locked"})),
    );
    let answer = house.ask(&Ask::page("/page").jar(&jar)).await.expect(302);
    assert!(answer.deleted().contains(&"access_token"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_somebody_else_are_refused_and_ended() {
    let house = House::usual().await;
    let jar = house.known().await;
    house.later(LIFE);
    let other = house.egov.sign_in("bo");
    let answer = json!({
        "access_token": other.get("access_token").unwrap(), "refresh_token": jar.get("refresh_token").unwrap(),
        "expires_in": 60, "UserRequest": {"uuid": "uuid-bo", "userName": "bo"},
    });
    house.egov.fails("/token", Fault::Answers(answer));
    let told = house.ask(&Ask::page("/page").jar(&jar)).await.expect(302);
    assert!(told.deleted().contains(&"access_token"));
    until("they are ended", || !house.egov.is_live(other.get("access_token").unwrap())).await;
}

/// Sends bytes of a type to a path, as somebody or nobody.
fn post(path: &str, media: &str, body: &str) -> Ask {
    Ask::script(path).method("POST").line("Content-Type", media).body(body.as_bytes())
}

const FORM: &str = "application/x-www-form-urlencoded";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_skips_the_password_of_a_sign_in_that_is_passed_on() {
    let open = "[[site.rule]]\npath = \"/user/*\"\naccess = \"public\"";
    let house = House::start(App::Records, open).await;
    let good = "grant_type=password&username=ana&password=isInternal";
    house.ask(&post("/user/oauth/token?x=1", FORM, good)).await.expect(200);
    assert_eq!(house.upstream.last().body, good.as_bytes());
    assert_eq!(house.upstream.last().line("content-length"), Some(&*good.len().to_string()));
    let before = house.upstream.count();
    for (path, media, body, status) in [
        ("/user/oauth/token?isInternal=true", FORM, good, 400),
        ("/user/oauth/token?is%49nternal=true", FORM, good, 400),
        ("/user/oauth/token", FORM, "username=ana&isInternal=true", 400),
        ("/user/oauth/token", FORM, "username=ana&%69sInternal=true", 400),
        ("/user/oauth/token", FORM, "username=ana&isInternal[]=true", 400),
        ("/user/oauth/token", "application/json", r#"{"isInter\u006eal":true}"#, 400),
        ("/user/oauth/token", "application/json", "{", 400),
        ("/user/oauth/token", "multipart/form-data; boundary=x", "--x", 415),
        ("/user/oauth/token", "application/x-www-form-urlencoded; charset=utf-16", "x", 415),
        ("/user/oauth/token", FORM, &"x".repeat(70_000), 413),
    ] {
        house.ask(&post(path, media, body)).await.expect(status);
    }
    let packed = post("/user/oauth/token", FORM, "x").line("Content-Encoding", "gzip");
    house.ask(&packed).await.expect(415);
    assert_eq!(house.upstream.count(), before, "none of them reached the app");
    // Elsewhere it is a word like any other.
    house.ask(&post("/user/_search", FORM, "isInternal=true")).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_are_told_in_the_body_who_asks() {
    let rules = "[[site.rule]]\npath = \"/api/*\"\ndigit_body = \"1KiB\"\n\
                 [[site.rule]]\npath = \"/open/*\"\naccess = \"public\"\ndigit_body = \"1KiB\"";
    let house = House::start(App::Records, rules).await;
    let jar = house.known().await;
    let claim =
        r#"{"RequestInfo":{"apiId":"x","authToken":"mine","userInfo":{"uuid":"root"}},"amount":1.10}"#;
    let json = "application/json;charset=UTF-8";
    house.ask(&post("/api/pay", json, claim).jar(&jar)).await.expect(200);
    let sent = house.upstream.last();
    let body: serde_json::Value = serde_json::from_slice(&sent.body).unwrap();
    let info = &body["RequestInfo"];
    assert_eq!(info["authToken"].as_str(), jar.get("access_token"));
    assert_eq!((&info["userInfo"]["uuid"], &info["apiId"]), (&json!("uuid-ana"), &json!("x")));
    assert_eq!(info["userInfo"]["roles"][1]["code"], json!("CLERK"));
    assert!(String::from_utf8_lossy(&sent.body).ends_with(r#","amount":1.10}"#), "the rest is as it came");
    assert_eq!(sent.line("content-length"), Some(&*sent.body.len().to_string()));
    // Nobody is told of nobody.
    house.ask(&post("/open/see", json, claim)).await.expect(200);
    assert_eq!(house.upstream.last().body, br#"{"RequestInfo":{"apiId":"x"},"amount":1.10}"#);
    house.ask(&Ask::page("/api/page").jar(&jar)).await.expect(200);
    let before = house.upstream.count();
    let twice = r#"{"RequestInfo":{},"RequestInfo":{"authToken":"mine"}}"#;
    house.ask(&post("/api/pay", json, twice).jar(&jar)).await.expect(400);
    house.ask(&post("/api/pay", "text/plain", claim).jar(&jar)).await.expect(415);
    house.ask(&post("/api/pay", json, claim).line("Content-Encoding", "gzip").jar(&jar)).await.expect(415);
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(1024));
    house.ask(&post("/api/pay", json, &long).jar(&jar)).await.expect(413);
    assert_eq!(house.upstream.count(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_who_are_refused_while_a_renewal_is_under_way_wait_for_it() {
    let house = Arc::new(House::strict().await);
    let jar = house.known().await;
    let gate = Gate::closed();
    house.egov.fails("/token", Fault::Slow(gate.clone()));
    let tasks = TaskTracker::new();
    let asking: Vec<_> = (0..20)
        .map(|_| {
            let (house, ask) = (Arc::clone(&house), Ask::script("/slow").jar(&jar));
            tasks.spawn(async move { house.ask(&ask).await })
        })
        .collect();
    // All of them are with the app when their token dies.
    house.gate.reached_by(20).await;
    house.egov.end(jar.get("access_token").unwrap());
    house.gate.open();
    gate.reached_by(1).await;
    // All of them are refused by the app before the service has answered.
    until("twenty refusals", || house.egov.refusals() >= 20).await;
    gate.open();
    for answer in asking {
        let answer = answer.await.unwrap().expect(200);
        assert!(house.egov.is_live(&answer.text()));
    }
    assert_eq!(house.egov.calls("/token").len(), 1);
}
