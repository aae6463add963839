//! Sessions of an app with sanic-jwt: renewed with both tokens, never rotated, one refresh token for each user.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use doorkeep::backend::sanic_jwt::{
    Members, Profile, SanicJwt, SanicJwtSettings, TokenPlace, default_answers,
};
use doorkeep::backend::{SessionBackend as _, SignIn};
use doorkeep::clock::ManualClock;
use doorkeep::dial::{Authorities, Dialer, Roots};
use doorkeep::secret::Secret;
use doorkeep::token::Credentials;
use serde_json::json;

use crate::support::house::ACCESS_LIFE;
use crate::support::issuer::Issuer;
use crate::support::sanic_app::{Mode, SanicApp};
use crate::support::{Answer, Ask, Fault, Gate, House, Jar, Plan, Spent, token, until};

const MODES: [Mode; 3] = [Mode::Header, Mode::Cookies, Mode::Split];

async fn house(mode: Mode) -> House {
    with_plan(mode, Plan::default()).await
}

async fn with_plan(mode: Mode, plan: Plan<'_>) -> House {
    House::start_with(|clock| Arc::new(Arc::new(SanicApp::new(mode, clock))), plan).await
}

/// A house, and the app behind it to meddle with.
async fn with_app(settings: &'static str) -> (House, Arc<SanicApp>) {
    let mut app = None;
    let house = House::start_with(
        |clock| {
            let made = Arc::new(SanicApp::new(Mode::Header, clock).with(settings));
            app = Some(Arc::clone(&made));
            Arc::new(made)
        },
        Plan::default(),
    )
    .await;
    (house, app.unwrap())
}

fn hurried() -> Plan<'static> {
    Plan { renew: "timeout = \"300ms\"\ngive_up = \"600ms\"", ..Plan::default() }
}

/// The access token in a jar, wherever it is.
fn access(jar: &Jar) -> String {
    let first = jar.get("access_token").unwrap();
    match jar.get("access_token_signature") {
        Some(signature) => format!("{first}.{signature}"),
        None => first.to_owned(),
    }
}

fn is_cleared(answer: &Answer, jar: &Jar) {
    let mut left = jar.clone();
    left.take(answer);
    assert!(left.line().is_none_or(|line| !line.contains("_token")), "{left:?}");
}

fn is_kept(answer: &Answer) {
    assert_eq!(answer.set_cookies(), Vec::<&str>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_goes_on_over_many_expiries_with_the_refresh_token_it_began_with() {
    for mode in MODES {
        let house = house(mode).await;
        let mut jar = house.signed_in().await;
        let refresh = jar.get("refresh_token").unwrap().to_owned();
        let mut tokens = BTreeSet::from([access(&jar)]);
        for turn in 1..=5 {
            house.later(ACCESS_LIFE.as_secs() + 10);
            let answer = house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
            assert_eq!(answer.cookie("refresh_token"), None, "it is not set again");
            for name in ["access_token", "doorkeep_state"] {
                let lines = answer.set_cookies();
                let line = lines.iter().find(|line| line.starts_with(&format!("{name}="))).unwrap();
                assert!(line.contains("Max-Age=86400"), "as long as the refresh token's: {line}");
            }
            jar.take(&answer);
            assert!(tokens.insert(access(&jar)), "a new access token");
            assert_eq!(house.backend.renewals().len(), turn);
            is_kept(&house.ask(&Ask::script("/data").jar(&jar)).await.expect(200));
        }
        assert!(house.backend.renewals().iter().all(|call| call.token() == refresh), "{mode:?}");
        assert_eq!(house.upstream.last().line("x-auth-user"), Some("1"));
        assert_eq!(house.upstream.last().line("x-auth-role"), Some("user,admin"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_presented_where_the_app_looks_for_them_and_nowhere_else() {
    for mode in MODES {
        let house = house(mode).await;
        let jar = house.expired().await;
        house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
        let calls = house.backend.calls();
        let call = &calls[0];
        assert_eq!((calls.len(), call.path.as_str()), (1, "/auth/refresh"));
        assert!(call.head.first.starts_with("POST "));
        let refresh = jar.get("refresh_token").unwrap();
        if mode == Mode::Header {
            assert_eq!(call.head.one("authorization"), Some(format!("Bearer {}", access(&jar)).as_str()));
            assert_eq!(call.json(), json!({"refresh_token": refresh}));
            assert_eq!(call.head.one("cookie"), None);
        } else {
            let line = call.head.one("cookie").unwrap();
            let sent: BTreeSet<&str> = line.split("; ").collect();
            let held = jar.line().unwrap();
            assert_eq!(sent, held.split("; ").collect(), "as the browser would have sent them");
            assert_eq!((call.json(), call.head.one("authorization")), (json!({}), None));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_member_and_cookie_names_are_the_apps() {
    let settings =
        "prefix = \"/v1/\"\nheader = \"X-Token\"\nscheme = \"\"\nmembers = { refresh = \"again\" }";
    let (house, _) = with_app(settings).await;
    let jar = house.expired().await;
    house.backend.fails(Fault::Answers(json!({"access_token": "x"})));
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(503);
    let call = &house.backend.calls()[0];
    assert_eq!(call.path, "/v1/refresh");
    assert_eq!(call.head.one("x-token"), Some(access(&jar).as_str()));
    assert_eq!(call.json(), json!({"again": jar.get("refresh_token").unwrap()}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_for_a_month_is_no_end() {
    let house = house(Mode::Header).await;
    let mut jar = house.signed_in().await;
    house.later(30 * 24 * 3600);
    let answer = house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    jar.take(&answer);
    is_kept(&house.ask(&Ask::page("/page").jar(&jar)).await.expect(200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_genuine_access_token_the_backend_is_not_asked() {
    for mode in MODES {
        let house = house(mode).await;
        let jar = house.expired().await;
        let tampered = {
            let mut claims = token::claims(&access(&jar));
            claims["user_id"] = json!(2);
            token::signed_with(&claims, "another key of at least 32 bytes!")
        };
        let mut forged = jar.clone();
        match (mode, tampered.rsplit_once('.')) {
            (Mode::Split, Some((signed, signature))) => {
                forged.set("access_token", signed);
                forged.set("access_token_signature", signature);
            }
            _ => forged.set("access_token", &tampered),
        }
        let mut cut = jar.clone();
        cut.set("access_token", "e30");
        for jar in [&forged, &cut, &jar.clone().without("access_token")] {
            let answer = house.ask(&Ask::page("/page").jar(jar)).await.expect(302);
            assert!(answer.set_cookies().iter().all(|line| !line.contains("_token=")), "nothing is cleared");
            house.ask(&Ask::script("/data").jar(jar)).await.expect(401);
            house.ask(&Ask::page("/optional/x").jar(jar)).await.expect(200);
            assert_eq!(house.upstream.last().line("x-auth-user"), None);
            house.ask(&Ask::page("/.doorkeep/sign-out").method("POST").jar(jar)).await.expect(303);
        }
        assert!(house.backend.calls().is_empty(), "{mode:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_requests_make_one_renewal_and_the_old_token_leads_to_the_new_one() {
    let house = house(Mode::Split).await;
    let old = house.expired().await;
    let gate = Gate::closed();
    house.backend.fails_next(Fault::Slow(gate.clone()));
    let mut conns = Vec::new();
    for n in 0..100 {
        let mut conn = house.conn().await;
        let ask = if n % 2 == 0 { Ask::page("/page") } else { Ask::script("/data") };
        conn.send(&ask.jar(&old).bytes()).await;
        conns.push(conn);
    }
    gate.reached_by(1).await;
    gate.open();
    let mut pairs = BTreeSet::new();
    let mut new = old.clone();
    for conn in &mut conns {
        let answer = conn.answer("GET").await.expect(200);
        new = old.clone();
        new.take(&answer);
        pairs.insert(access(&new));
    }
    assert_eq!(pairs.len(), 1);
    assert_ne!(access(&new), access(&old));
    is_kept(&house.ask(&Ask::page("/page").jar(&new)).await.expect(200));
    house.later(50);
    let straggler = house.ask(&Ask::script("/data").jar(&old)).await.expect(200);
    let mut again = old.clone();
    again.take(&straggler);
    assert_eq!(access(&again), access(&new));
    assert_eq!(house.backend.renewals().len(), 1);
    // Both over: whichever of them comes, one renewal serves both.
    house.later(ACCESS_LIFE.as_secs());
    let gate = Gate::closed();
    house.backend.fails_next(Fault::Slow(gate.clone()));
    let mut one = house.conn().await;
    one.send(&Ask::script("/data").jar(&new).bytes()).await;
    gate.reached_by(1).await;
    let mut two = house.conn().await;
    two.send(&Ask::script("/data").jar(&new).bytes()).await;
    gate.open();
    one.answer("GET").await.expect(200);
    two.answer("GET").await.expect(200);
    assert_eq!(house.backend.renewals().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_access_token_joins_the_renewal_of_the_newer_one() {
    let house = house(Mode::Header).await;
    let first = house.expired().await;
    let mut second = first.clone();
    second.take(&house.ask(&Ask::page("/page").jar(&first)).await.expect(200));
    house.later(ACCESS_LIFE.as_secs() + 10);
    let gate = Gate::closed();
    house.backend.fails_next(Fault::Slow(gate.clone()));
    let mut newer = house.conn().await;
    newer.send(&Ask::script("/data").jar(&second).bytes()).await;
    gate.reached_by(1).await;
    let mut older = house.conn().await;
    older.send(&Ask::script("/data").jar(&first).bytes()).await;
    gate.open();
    let (newer, older) = (newer.answer("GET").await.expect(200), older.answer("GET").await.expect(200));
    assert_eq!(newer.cookie("access_token"), older.cookie("access_token"));
    assert_eq!(house.backend.renewals().len(), 2);
    assert_eq!(house.backend.most_busy(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_takes_a_cookie_is_renewed_for_as_long_as_it_comes() {
    let house = house(Mode::Header).await;
    let jar = house.signed_in().await;
    for turn in 1..=20 {
        house.later(ACCESS_LIFE.as_secs() + 10);
        house.ask(&Ask::script("/data").jar(&jar)).await.expect(200);
        house.ask(&Ask::script("/data").jar(&jar)).await.expect(200);
        // Where its chain grows too long to be followed, it is presented anew.
        let renewals = house.backend.renewals().len();
        assert!((turn..=turn + turn / 8).contains(&renewals), "one for each expiry: {renewals} of {turn}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_without_iat_is_renewed_shortly_before_its_end() {
    let house = house(Mode::Split).await;
    let mut jar = house.signed_in().await;
    // What the token does not say, the notes do from the first request on.
    jar.take(&house.ask(&Ask::page("/page").jar(&jar)).await.expect(200));
    assert!(jar.get("doorkeep_state").is_some());
    for _ in 0..3 {
        house.later(ACCESS_LIFE.as_secs() - 31);
        is_kept(&house.ask(&Ask::page("/page").jar(&jar)).await.expect(200));
        let before = (house.backend.renewals().len(), access(&jar));
        house.later(11);
        let ask = Ask::page("/page").jar(&jar);
        let answer = house.ask(&ask).await.expect(200);
        until("the flight's end", || house.door().meters.flights.get() == 0).await;
        jar.take(&answer);
        jar.take(&house.ask(&Ask::page("/page").jar(&jar)).await.expect(200));
        assert_ne!(access(&jar), before.1);
        assert_eq!(house.backend.renewals().len(), before.0 + 1);
    }
}

fn says(status: u16, exception: &str, reason: &str) -> Fault {
    let body = json!({"reasons": [reason], "exception": exception});
    Fault::Says(status, vec![("Content-Type", "application/json".to_owned())], body.to_string())
}

fn page(status: u16) -> Fault {
    let lines = vec![("Content-Type", "text/html; charset=utf-8".to_owned())];
    Fault::Says(status, lines, "<!doctype html><title>Elsewhere</title>".to_owned())
}

/// Nobody is signed out by it, and the next renewal may come at once: a second presentation harms nobody here.
async fn keeps_the_session(fault: Fault) {
    let house = with_plan(Mode::Header, hurried()).await;
    let old = house.expired().await;
    house.backend.fails(fault.clone());
    for turn in 1..=3 {
        let ask = if turn % 2 == 0 { Ask::page("/page") } else { Ask::script("/data") };
        let answer = house.ask(&ask.jar(&old)).await.expect(503);
        is_kept(&answer);
        assert!(answer.line("retry-after").is_some());
        until("the flight's end", || house.door().meters.flights.get() == 0).await;
        assert_eq!(house.backend.renewals().len(), turn, "{fault:?}");
    }
    is_kept(&house.ask(&Ask::page("/optional/x").jar(&old)).await.expect(200));
    assert_eq!(house.upstream.count(), 1, "and that one as nobody");
    until("the flight's end", || house.door().meters.flights.get() == 0).await;
    house.backend.fails(Fault::None);
    let mut new = old.clone();
    new.take(&house.ask(&Ask::page("/page").jar(&old)).await.expect(200));
    is_kept(&house.ask(&Ask::page("/page").jar(&new)).await.expect(200));
    assert_eq!(house.backend.most_busy(), 1);
}

macro_rules! facts {
    ($check:ident: $($name:ident => $fault:expr,)+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $check($fault).await;
        })+
    };
}

facts! { keeps_the_session:
    a_500_of_the_app_keeps_the_session =>
        Fault::Says(500, vec![("Content-Type", "text/plain; charset=utf-8".to_owned())], "Internal Server Error".to_owned()),
    another_exception_keeps_the_session => says(500, "ServerError", "redis is away"),
    a_502_keeps_the_session => page(502),
    a_503_keeps_the_session => page(503),
    a_429_keeps_the_session => page(429),
    a_page_with_200_keeps_the_session => page(200),
    half_an_answer_keeps_the_session => Fault::HalfJson(Spent::Yes),
    a_cut_answer_keeps_the_session => Fault::Cut(Spent::Yes),
    a_huge_answer_keeps_the_session => Fault::Huge(Spent::Yes),
    silence_keeps_the_session => Fault::Silence(Spent::Yes),
    success_without_a_token_keeps_the_session => Fault::Answers(json!({"valid": true})),
    another_key_than_ours_keeps_the_session => says(401, "Unauthorized", "Auth required."),
    another_place_for_tokens_keeps_the_session => says(401, "Unauthorized", "Authorization cookie not present."),
    no_refresh_tokens_at_all_keeps_the_session =>
        says(500, "RefreshTokenNotImplemented", "Refresh tokens have not been enabled."),
    another_prefix_keeps_the_session =>
        Fault::Says(404, vec![("Content-Type", "application/json".to_owned())], json!({"status": 404}).to_string()),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_is_away_signs_nobody_out() {
    let house = with_plan(Mode::Cookies, hurried()).await;
    let over = house.expired().await;
    let live = house.backend.sign_in("ravi").await;
    house.backend.close().await;
    for _ in 0..3 {
        is_kept(&house.ask(&Ask::page("/page").jar(&over)).await.expect(503));
    }
    house.ask(&Ask::page("/page").jar(&live)).await.expect(200);
    house.backend.open();
    house.ask(&Ask::page("/page").jar(&over)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_app_refuses_is_over() {
    for fault in [
        says(401, "AuthenticationFailed", "Authentication failed."),
        says(500, "InvalidRetrieveUserObject", "The retrieve_user method should return …"),
        says(401, "Unauthorized", "Verifications were not met."),
    ] {
        let house = house(Mode::Split).await;
        let jar = house.expired().await;
        house.backend.fails(fault);
        is_cleared(&house.ask(&Ask::page("/page").jar(&jar)).await.expect(302), &jar);
        house.ask(&Ask::script("/data").jar(&jar)).await.expect(401);
        assert_eq!(house.backend.renewals().len(), 1, "a refusal is remembered");
        assert_eq!(house.upstream.count(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_is_gone_is_over_although_the_app_says_500() {
    let (house, app) = with_app("").await;
    let jar = house.expired().await;
    app.remove_user(1);
    is_cleared(&house.ask(&Ask::page("/page").jar(&jar)).await.expect(302), &jar);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_settings_can_say_more_about_answers() {
    let settings =
        "[[backend.sanic_jwt.answer]]\nmember = \"reasons\"\ntext = \"Locked.\"\nmeans = \"refused\"";
    let (house, _) = with_app(settings).await;
    let jar = house.expired().await;
    house.backend.fails(says(403, "Locked", "Locked."));
    is_cleared(&house.ask(&Ask::page("/page").jar(&jar)).await.expect(302), &jar);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_sign_in_ends_the_first_browsers_session_at_its_next_renewal() {
    let house = house(Mode::Header).await;
    let first = house.signed_in().await;
    house.later(5);
    let second = house.signed_in().await;
    is_kept_but_for_notes(&house.ask(&Ask::page("/page").jar(&first)).await.expect(200));
    house.later(ACCESS_LIFE.as_secs() + 10);
    is_cleared(&house.ask(&Ask::page("/page").jar(&first)).await.expect(302), &first);
    house.ask(&Ask::page("/page").jar(&second)).await.expect(200);
}

fn is_kept_but_for_notes(answer: &Answer) {
    assert!(answer.set_cookies().iter().all(|line| line.starts_with("doorkeep_state=")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_token_beside_another_users_access_token_brings_nothing_of_its_owner() {
    let house = house(Mode::Header).await;
    let asha = house.expired().await;
    house.ask(&Ask::page("/page").jar(&asha)).await.expect(200);
    let mut ravi = house.backend.sign_in("ravi").await;
    house.later(ACCESS_LIFE.as_secs() + 10);
    ravi.set("refresh_token", asha.get("refresh_token").unwrap());
    house.ask(&Ask::page("/page").jar(&ravi)).await.expect(302);
    house.ask(&Ask::page("/page").jar(&asha)).await.expect(200);
    assert!(house.upstream.seen().iter().all(|seen| seen.line("x-auth-user") == Some("1")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_out_session_comes_back_with_none_of_its_access_tokens() {
    let house = house(Mode::Header).await;
    let first = house.expired().await;
    let mut second = first.clone();
    second.take(&house.ask(&Ask::page("/page").jar(&first)).await.expect(200));
    house.ask(&Ask::page("/page").jar(&second)).await.expect(200);
    // So long ago that nothing is remembered of the first token.
    house.later(ACCESS_LIFE.as_secs() - 200);
    house.ask(&Ask::page("/page").jar(&second)).await.expect(200);
    let answer = house.ask(&Ask::page("/.doorkeep/sign-out").method("POST").jar(&second)).await.expect(303);
    is_cleared(&answer, &second);
    let asked = house.backend.calls().len();
    for jar in [&first, &second, &second.clone().without("doorkeep_state")] {
        house.ask(&Ask::page("/page").jar(jar)).await.expect(302);
        house.ask(&Ask::script("/data").jar(jar)).await.expect(401);
    }
    assert_eq!(house.backend.calls().len(), asked, "the backend has no endpoint for it and is not asked");
    let next = house.signed_in().await;
    house.ask(&Ask::page("/page").jar(&next)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_app_can_end_sessions_it_is_asked_to_with_a_live_token() {
    let (house, _) = with_app("sign_out_path = \"/logout\"").await;
    let jar = house.expired().await;
    house.ask(&Ask::page("/.doorkeep/sign-out").method("POST").jar(&jar)).await.expect(303);
    assert_eq!((house.backend.renewals().len(), house.backend.sign_outs().len()), (1, 1));
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(302);
    // Tokens of one second are the same text.
    house.later(1);
    let jar = house.expired().await;
    house.backend.close().await;
    is_kept(&house.ask(&Ask::page("/.doorkeep/sign-out").method("POST").jar(&jar)).await.expect(503));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_halves_of_a_split_token_are_kept_from_the_app_and_have_to_agree() {
    let house = house(Mode::Split).await;
    let jar = house.signed_in().await;
    let line = format!("theme=dark; {}", jar.line().unwrap());
    house.ask(&Ask::page("/page").line("Cookie", &line)).await.expect(200);
    assert_eq!(house.upstream.last().line("cookie"), Some("theme=dark"));
    let twice = format!("{line}; access_token_signature=another");
    house.ask(&Ask::page("/page").line("Cookie", &twice)).await.expect(302);
    house.ask(&Ask::page("/public/x").line("Cookie", &twice)).await.expect(200);
    assert_eq!(house.upstream.last().line("cookie"), Some("theme=dark"));
    let half = jar.clone().without("access_token_signature");
    house.ask(&Ask::page("/page").jar(&half)).await.expect(302);
    // The claims stay readable for scripts, as the app has them; the signature does not.
    house.later(ACCESS_LIFE.as_secs() + 10);
    let answer = house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    let lines = answer.set_cookies();
    let find = |name: &str| *lines.iter().find(|line| line.starts_with(&format!("{name}="))).unwrap();
    assert!(!find("access_token").contains("HttpOnly"));
    assert!(find("access_token_signature").contains("HttpOnly"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cookie_of_the_apps_own_session_is_not_ours() {
    let house = house(Mode::Header).await;
    let jar = house.signed_in().await;
    let line = format!("session_id=of-the-app; {}", jar.line().unwrap());
    house.ask(&Ask::page("/page").line("Cookie", &line)).await.expect(200);
    assert_eq!(house.upstream.last().line("cookie"), Some("session_id=of-the-app"));
}

async fn asking(settings: &'static str, plan: Plan<'_>) -> (House, Arc<SanicApp>) {
    let mut app = None;
    let make = |clock| -> Arc<dyn Issuer> {
        let made = Arc::new(SanicApp::new(Mode::Header, clock).with(settings).asked());
        app = Some(Arc::clone(&made));
        Arc::new(made)
    };
    let house = House::start_with(make, plan).await;
    (house, app.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_key_the_app_is_asked_what_a_token_is_and_an_expired_one_is_renewed() {
    let (house, _) = asking("", Plan::default()).await;
    let mut jar = house.signed_in().await;
    for turn in 0..3 {
        house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
        assert_eq!(house.upstream.last().line("x-auth-user"), Some("1"));
        assert_eq!(house.backend.renewals().len(), turn);
        house.later(ACCESS_LIFE.as_secs() + 10);
        jar.take(&house.ask(&Ask::page("/page").jar(&jar)).await.expect(200));
        assert_eq!(house.backend.renewals().len(), turn + 1);
    }
    let verify = house.backend.calls().into_iter().find(|call| call.path == "/auth/verify").unwrap();
    assert!(verify.head.first.starts_with("GET ") && verify.text.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_the_app_does_not_take_renews_nothing() {
    let (house, _) = asking("", Plan::default()).await;
    let mut jar = house.expired().await;
    let claims = token::claims(&access(&jar));
    jar.set("access_token", &token::signed_with(&claims, "another key of at least 32 bytes!"));
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(302);
    jar.set("access_token", "opaque");
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(302);
    assert_eq!(house.backend.renewals().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_apps_word_about_an_expiry_counts_whatever_our_clock_says() {
    let (house, _) = asking("", Plan::default()).await;
    let jar = house.signed_in().await;
    let body = json!({"valid": false, "reasons": ["Signature has expired."], "exception": "InvalidToken"});
    let lines = vec![("Content-Type", "application/json".to_owned())];
    house.backend.fails_next(Fault::Says(401, lines, body.to_string()));
    house.later(1);
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(house.backend.renewals().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_is_away_or_asked_wrongly_admits_nobody_and_ends_nothing() {
    for fault in [
        page(500),
        page(200),
        says(401, "Unauthorized", "Authorization cookie not present."),
        says(400, "MissingAuthorizationHeader", "Authorization header not present."),
        Fault::HalfJson(Spent::No),
        Fault::Answers(json!({"ok": true})),
    ] {
        let (house, _) = asking("", hurried()).await;
        let jar = house.signed_in().await;
        house.backend.fails(fault);
        is_kept(&house.ask(&Ask::page("/page").jar(&jar)).await.expect(503));
        assert_eq!((house.backend.renewals().len(), house.upstream.count()), (0, 0));
        house.backend.fails(Fault::None);
        house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_app_says_of_a_user_stands_beside_the_claims_and_never_over_them() {
    let headers = "\"X-Auth-Name\" = \"username\"";
    let plan = Plan { identity_headers: headers, ..Plan::default() };
    let (house, app) = asking("profile = \"me\"", plan).await;
    let jar = house.expired().await;
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    let seen = house.upstream.last();
    assert_eq!((seen.line("x-auth-user"), seen.line("x-auth-name")), (Some("1"), Some("asha")));
    // Somebody whom the app does not know any more.
    let ravi = house.backend.sign_in("ravi").await;
    app.remove_user(2);
    house.ask(&Ask::page("/page").jar(&ravi)).await.expect(302);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_reads_the_cookies_itself_gets_the_renewed_token() {
    let rules = "[[site.rule]]\npath = \"/own/*\"\ncookies = \"pass\"";
    for mode in [Mode::Cookies, Mode::Split] {
        let house = with_plan(mode, Plan { rules, ..Plan::default() }).await;
        let mut jar = house.expired().await;
        let line = format!("theme=dark; {}", jar.line().unwrap());
        let answer = house.ask(&Ask::page("/own/page").line("Cookie", &line)).await.expect(200);
        jar.take(&answer);
        let seen = house.upstream.last();
        let cookies: BTreeSet<&str> = seen.line("cookie").unwrap().split("; ").collect();
        let expected = format!("theme=dark; {}", jar.clone().without("doorkeep_state").line().unwrap());
        assert_eq!(cookies, expected.split("; ").collect(), "what the browser holds from now on");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sign_out_is_remembered_for_as_long_as_cookies_live() {
    let plan = Plan { lifetime: "refresh = \"30d\"", ..Plan::default() };
    let house = with_plan(Mode::Header, plan).await;
    let jar = house.signed_in().await;
    house.ask(&Ask::page("/.doorkeep/sign-out").method("POST").jar(&jar)).await.expect(303);
    house.later(29 * 24 * 3600);
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(302);
    assert!(house.backend.calls().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_token_that_does_not_verify_costs_nobody_the_old_one() {
    let house = house(Mode::Header).await;
    let jar = house.expired().await;
    house.backend.fails(Fault::Resigned("a key that this gateway has never heard of"));
    for _ in 0..2 {
        is_kept(&house.ask(&Ask::page("/page").jar(&jar)).await.expect(503));
    }
    house.backend.fails(Fault::None);
    let mut new = jar.clone();
    new.take(&house.ask(&Ask::page("/page").jar(&jar)).await.expect(200));
    is_kept(&house.ask(&Ask::page("/page").jar(&new)).await.expect(200));
}

/// The wire itself, to the app of a house.
fn wire(house: &House) -> SanicJwt {
    let settings = SanicJwtSettings {
        url: format!("http://{}", house.backend.addr).parse().unwrap(),
        prefix: "/auth".to_owned(),
        sign_out: None,
        tokens: TokenPlace::Header { name: "authorization".to_owned(), scheme: "Bearer".to_owned() },
        profile: Profile::Claims,
        members: Members::default(),
        answers: default_answers(),
    };
    let authorities = Authorities::new(Roots::System);
    let dialer = Dialer::new(&authorities, [&settings.url], Duration::from_secs(1)).unwrap();
    SanicJwt::new(settings, dialer, Arc::<ManualClock>::clone(&house.clock))
}

fn credentials(password: &str, tenant: &str) -> Credentials {
    Credentials {
        user: "asha".to_owned(),
        password: Secret::new(password.to_owned()),
        further: vec![("tenant".to_owned(), tenant.to_owned())],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wire_signs_people_in() {
    let house = house(Mode::Header).await;
    let wire = wire(&house);
    let SignIn::Issued(tokens) = wire.sign_in(&credentials("pw-asha", "open")).await else {
        panic!("name and password are right")
    };
    let call = house.backend.calls().pop().unwrap();
    assert_eq!((call.path.as_str(), call.head.one("authorization")), ("/auth", None));
    assert_eq!(call.json(), json!({"username": "asha", "password": "pw-asha", "tenant": "open"}));
    let mut jar = Jar::default();
    jar.set("access_token", tokens.access.expose());
    jar.set("refresh_token", tokens.refresh.expose());
    house.later(ACCESS_LIFE.as_secs() + 10);
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    for (password, tenant) in [("pw-ravi", "open"), ("pw-asha", "closed")] {
        let refused = wire.sign_in(&credentials(password, tenant)).await;
        assert!(matches!(refused, SignIn::Refused), "{refused:?}");
    }
    for fault in
        [page(500), page(429), Fault::HalfJson(Spent::No), Fault::Answers(json!({"access_token": "a"}))]
    {
        house.backend.fails(fault);
        let away = wire.sign_in(&credentials("pw-asha", "open")).await;
        assert!(matches!(away, SignIn::Unavailable(_)), "{away:?}");
    }
}
