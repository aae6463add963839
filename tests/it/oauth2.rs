//! Sessions of an OAuth 2 server that rotates and detects reuse: one presentation for each refresh token, whatever happens
//! on either side, and only the server's own refusal ends a session.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::backend_away::{
    everybody_is_asked_to_wait, json_says, landed, lost_when_due_in, lost_when_expired_in, no_decision_in,
    page, renews_now,
};
use crate::one_flight::{
    CROWD, all_end_with_the_newest, answers, crowd, old_cookies_still_work_after_a_cut_answer,
};
use crate::storm::{Dice, QUICK, storm_in};
use crate::support::house::ACCESS_LIFE;
use crate::support::issuer::Issuer as _;
use crate::support::token_endpoint::{Rotates, TokenEndpoint};
use crate::support::{Ask, Fault, Gate, House, Jar, Plan, Spent, token, until};

/// A house, and the server behind it to meddle with.
async fn before(
    made: impl FnOnce(TokenEndpoint) -> TokenEndpoint,
    rotates: Rotates,
    plan: Plan<'_>,
) -> (House, Arc<TokenEndpoint>) {
    let mut server = None;
    let house = House::start_with(
        |clock| {
            let new = Arc::new(made(TokenEndpoint::new(rotates, clock)));
            server = Some(Arc::clone(&new));
            Arc::new(new)
        },
        plan,
    )
    .await;
    (house, server.unwrap())
}

async fn with_plan(plan: Plan<'_>) -> House {
    before(|server| server, Rotates::Yes, plan).await.0
}

/// Renewed from half of a token's life on, so that the same moments fit as for other backends.
async fn house() -> House {
    with_plan(Plan { renew: "ahead = \"50%\"", ..Plan::default() }).await
}

async fn hurried() -> House {
    let renew = "timeout = \"200ms\"\ngive_up = \"400ms\"\nahead = \"50%\"";
    with_plan(Plan { renew, ..Plan::default() }).await
}

fn error(status: u16, error: &str) -> Fault {
    json_says(status, &json!({"error": error}))
}

macro_rules! facts {
    ($check:ident: $($name:ident => $fault:expr,)+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $check(hurried().await, $fault).await;
        })+
    };
}

facts! { no_decision_in:
    a_500_keeps_the_session => page(500),
    a_503_keeps_the_session => error(503, "temporarily_unavailable"),
    a_429_keeps_the_session => error(429, "slow_down"),
    a_refusal_under_a_500_is_none => error(500, "invalid_grant"),
    a_page_with_200_keeps_the_session => page(200),
    a_page_with_400_keeps_the_session => page(400),
    a_404_keeps_the_session => page(404),
    a_silent_400_keeps_the_session => Fault::Says(400, Vec::new(), String::new()),
    another_error_keeps_the_session => error(400, "interaction_required"),
    a_wrong_secret_of_the_gateway_keeps_the_session => error(401, "invalid_client"),
    a_client_that_may_not_refresh_keeps_the_session => error(400, "unauthorized_client"),
    a_wrong_scope_of_the_gateway_keeps_the_session => error(400, "invalid_scope"),
    a_wrong_request_of_the_gateway_keeps_the_session => error(400, "invalid_request"),
    a_server_that_knows_no_refreshing_keeps_the_session => error(400, "unsupported_grant_type"),
    a_redirect_keeps_the_session =>
        Fault::Says(302, vec![("Location", "http://127.0.0.1:1/login".to_owned())], String::new()),
}

facts! { lost_when_expired_in:
    half_an_answer_is_presented_again_sparingly => Fault::HalfJson(Spent::No),
    a_cut_answer_is_presented_again_sparingly => Fault::Cut(Spent::No),
    a_huge_answer_is_presented_again_sparingly => Fault::Huge(Spent::No),
    silence_is_presented_again_sparingly => Fault::Silence(Spent::No),
    a_502_is_presented_again_sparingly => page(502),
    a_504_with_a_refusal_is_presented_again_sparingly => error(504, "invalid_grant"),
    another_kind_of_token_is_presented_again_sparingly =>
        Fault::Answers(json!({"access_token": "a", "token_type": "DPoP", "refresh_token": "b"})),
    success_without_tokens_is_presented_again_sparingly => Fault::Answers(json!({"token_type": "Bearer"})),
}

facts! { lost_when_due_in:
    half_an_answer_lets_live_sessions_go_on => Fault::HalfJson(Spent::No),
    a_cut_answer_lets_live_sessions_go_on => Fault::Cut(Spent::No),
    silence_lets_live_sessions_go_on => Fault::Silence(Spent::No),
    a_502_lets_live_sessions_go_on => page(502),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_token_is_presented_once_though_its_access_token_comes_no_more() {
    // The token names a session, which this wire does not present.
    let house = with_plan(Plan { token: "session = \"jti\"", ..Plan::default() }).await;
    let jar = house.expired().await;
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    // The answer was lost on its way, and then the browser dropped the access cookie.
    let mut jar = jar.without("access_token");
    let answer = house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    jar.take(&answer);
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!((house.backend.renewals().len(), house.backend.reuses()), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_refresh_token_reaches_its_browser_though_the_last_renewal_rotated_none() {
    let (house, server) = before(|server| server, Rotates::Yes, Plan::default()).await;
    let mut jar = house.expired().await;
    // Nobody gets what this brings.
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    house.later(ACCESS_LIFE.as_secs() + 10);
    server.changes_to(Rotates::No);
    let before = jar.get("refresh_token").unwrap().to_owned();
    let answer = house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    jar.take(&answer);
    assert_ne!(jar.get("refresh_token"), Some(before.as_str()), "the spent one is replaced");
    // A day later nothing is remembered any more.
    house.later(25 * 3600);
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(house.backend.reuses(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_header_that_hands_on_the_token_is_no_clients_to_set() {
    let house = with_plan(Plan { site: "token = \"x-access-token\"", ..Plan::default() }).await;
    let jar = house.signed_in().await;
    let token = jar.get("access_token").unwrap().to_owned();
    for (path, expected) in [("/public/x", None), ("/optional/x", None), ("/page", Some(token.as_str()))] {
        let ask = if expected.is_some() { Ask::page(path).jar(&jar) } else { Ask::page(path) };
        let ask = ask.line("X-Access-Token", "forged").line("x_access.token", "forged");
        house.ask(&ask).await.expect(200);
        let seen = house.upstream.last();
        assert!(!String::from_utf8_lossy(&seen.head.raw).contains("forged"), "{path}");
        assert_eq!(seen.line("x-access-token"), expected, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connection_keeps_the_session() {
    let house = hurried().await;
    let old = house.expired().await;
    house.backend.close().await;
    everybody_is_asked_to_wait(&house, &old).await;
    house.backend.open();
    renews_now(&house, &old).await;
    assert_eq!(house.backend.renewals().len(), 1);
}

/// How a refusal is seen: the cookies go, and nothing is presented a second time.
async fn is_refused(house: &House, old: &Jar) {
    let answer = house.ask(&Ask::page("/page").jar(old)).await.expect(302);
    let mut jar = old.clone();
    jar.take(&answer);
    assert_eq!(jar.session(), [None; 3]);
    let presented = house.backend.renewals().len();
    house.ask(&Ask::script("/data").jar(old)).await.expect(401);
    assert_eq!(house.backend.renewals().len(), presented);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_servers_refusal_ends_a_session() {
    let house = house().await;
    let old = house.expired().await;
    house.backend.end(&old).await;
    is_refused(&house, &old).await;
    for status in [401, 403] {
        let old = house.expired().await;
        house.backend.fails_next(error(status, "invalid_grant"));
        is_refused(&house, &old).await;
    }
    assert_eq!(house.upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reuse_ends_the_session_here_so_these_tests_could_fail() {
    let (house, server) = before(|server| server, Rotates::Yes, Plan::default()).await;
    let old = house.expired().await;
    let mut new = old.clone();
    new.take(&house.ask(&Ask::page("/page").jar(&old)).await.expect(200));
    assert!(server.stands(new.get("refresh_token").unwrap()));
    // Another gateway that knows nothing of this renewal presents the old token again.
    let other = house.another(Plan::default()).await;
    let mut conn = crate::support::Conn::open(other.http).await;
    conn.ask(&Ask::page("/page").jar(&old)).await.expect(302);
    assert_eq!(server.reuses(), 1);
    assert!(!server.stands(new.get("refresh_token").unwrap()), "the newest token is over, too");
    house.later(ACCESS_LIFE.as_secs() + 10);
    house.ask(&Ask::page("/page").jar(&new)).await.expect(302);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_requests_with_one_expired_session_make_one_renewal() {
    let house = house().await;
    let old = house.expired().await;
    let gate = Gate::closed();
    house.backend.fails(Fault::Slow(gate.clone()));
    let conns = crowd(&house, &old, CROWD).await;
    gate.reached_by(1).await;
    gate.open();
    let answers = answers(conns).await;
    assert_eq!(house.backend.renewals().len(), 1);
    assert_eq!(house.upstream.count(), CROWD, "each request reached the app once");
    house.backend.fails(Fault::None);
    all_end_with_the_newest(&house, &old, &answers).await;
    assert_eq!(house.backend.reuses(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_its_answer_keeps_its_session() {
    let house = house().await;
    let old = house.expired().await;
    let mut conn = house.conn().await;
    conn.send(&Ask::page("/lost").jar(&old).bytes()).await;
    until("the app to be asked", || house.upstream.count() == 1).await;
    drop(conn);
    old_cookies_still_work_after_a_cut_answer(&house, &old).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_are_renewed_once_each() {
    let house = house().await;
    let mut jars = Vec::new();
    for _ in 0..40 {
        jars.push(house.signed_in().await);
    }
    house.later(610);
    let mut asking = JoinSet::new();
    for jar in jars.iter().cycle().take(160) {
        let (mut conn, ask) = (house.conn().await, Ask::script("/data").jar(jar));
        asking.spawn(async move { conn.ask(&ask).await.expect(200) });
    }
    asking.join_all().await;
    assert_eq!(house.backend.renewals().len(), 40);
    assert_eq!(house.backend.reuses(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_bad_networks_every_session_goes_on() {
    let house = storm_in(house().await, 0x1234_5678_9abc_def1, |_| Fault::None, &[200]).await;
    assert!(house.backend.renewals().len() > 20, "there was something to renew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_bad_server_too_nobody_is_signed_out() {
    let weather = |dice: &mut Dice| match dice.roll(7) {
        0 => error(503, "temporarily_unavailable"),
        1 => Fault::Cut(Spent::No),
        2 => Fault::HalfJson(Spent::No),
        3 => error(401, "invalid_client"),
        _ => Fault::None,
    };
    let house = storm_in(
        with_plan(Plan { renew: QUICK, ..Plan::default() }).await,
        0x5eed_5eed_5eed_5eed,
        weather,
        &[200, 503],
    )
    .await;
    assert!(house.door().meters.renewals("lost") > 0 && house.door().meters.renewals("client_rejected") > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nothing_rotates_one_refresh_token_serves_for_good() {
    let (house, _) = before(|server| server.with("rotates = false"), Rotates::No, Plan::default()).await;
    let mut jar = house.signed_in().await;
    let refresh = jar.get("refresh_token").unwrap().to_owned();
    for turn in 1..=5 {
        house.later(ACCESS_LIFE.as_secs() + 10);
        let answer = house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
        assert_eq!(answer.cookie("refresh_token"), None, "it is not set again");
        assert!(answer.cookie("access_token").is_some());
        jar.take(&answer);
        assert_eq!(house.backend.renewals().len(), turn);
        assert!(house.ask(&Ask::script("/data").jar(&jar)).await.expect(200).set_cookies().is_empty());
    }
    assert!(house.backend.renewals().iter().all(|call| call.token() == refresh));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_token_is_renewed_thirty_seconds_before_its_end() {
    let house = with_plan(Plan::default()).await;
    let mut jar = house.signed_in().await;
    house.later(ACCESS_LIFE.as_secs() - 33);
    assert!(house.ask(&Ask::page("/page").jar(&jar)).await.expect(200).set_cookies().is_empty());
    house.later(7);
    let answer = house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    let old = jar.clone();
    jar.take(&answer);
    assert_ne!(jar.session(), old.session());
    assert_eq!(house.backend.renewals().len(), 1);
    assert_eq!(house.upstream.last().line("x-auth-user"), Some("asha"));
    assert_eq!(house.upstream.last().line("x-auth-role"), Some("admin"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pair_for_somebody_else_is_refused_and_revoked() {
    let (house, server) = before(|server| server, Rotates::Yes, Plan::default()).await;
    let old = house.expired().await;
    let stolen = house.backend.sign_in("ravi").await;
    let pair = json!({"access_token": stolen.get("access_token"), "token_type": "bearer",
        "refresh_token": stolen.get("refresh_token")});
    house.backend.fails_next(Fault::Answers(pair));
    house.ask(&Ask::page("/page").jar(&old)).await.expect(302);
    landed(&house).await;
    assert_eq!(house.upstream.count(), 0);
    until("it is revoked", || !server.stands(stolen.get("refresh_token").unwrap())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signing_out_revokes_the_newest_refresh_token_and_the_access_token() {
    let (house, server) = before(|server| server, Rotates::Yes, Plan::default()).await;
    let old = house.expired().await;
    let mut new = old.clone();
    new.take(&house.ask(&Ask::page("/page").jar(&old)).await.expect(200));
    // From a tab that still has the old cookies.
    let answer = house.ask(&Ask::form("/.doorkeep/sign-out", "").jar(&old)).await.expect(303);
    let mut left = old.clone();
    left.take(&answer);
    assert_eq!(left.session(), [None; 3]);
    let asked: Vec<String> = house.backend.sign_outs().iter().map(|call| call.text.clone()).collect();
    let form = |name: &str, hint: &str| {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.extend_pairs([("token", new.get(name).unwrap()), ("token_type_hint", hint)]).finish()
    };
    assert_eq!(asked, [form("refresh_token", "refresh_token"), form("access_token", "access_token")]);
    assert!(!server.stands(new.get("refresh_token").unwrap()));
    for jar in [&old, &new] {
        house.ask(&Ask::page("/page").jar(jar)).await.expect(302);
        house.ask(&Ask::script("/data").jar(jar)).await.expect(401);
    }
    assert_eq!(house.backend.renewals().len(), 1, "nothing of it is presented any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sign_out_that_the_server_does_not_confirm_keeps_the_session() {
    let (house, server) = before(|server| server, Rotates::Yes, Plan::default()).await;
    let jar = house.signed_in().await;
    house.backend.fails_next(page(503));
    let answer = house.ask(&Ask::form("/.doorkeep/sign-out", "").jar(&jar)).await.expect(503);
    assert!(answer.set_cookies().is_empty());
    assert!(server.stands(jar.get("refresh_token").unwrap()));
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_can_be_asked_about() {
    let (house, _) = before(TokenEndpoint::asked, Rotates::Yes, Plan::default()).await;
    let mut jar = house.signed_in().await;
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(house.upstream.last().line("x-auth-user"), Some("asha"));
    house.later(ACCESS_LIFE.as_secs() + 10);
    let answer = house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    jar.take(&answer);
    assert_eq!(house.backend.renewals().len(), 1);
    let asked: Vec<Value> = house
        .backend
        .calls()
        .iter()
        .filter(|call| call.path == "/introspect")
        .map(|call| {
            token::claims(&url::form_urlencoded::parse(call.text.as_bytes()).next().unwrap().1)["sub"].clone()
        })
        .collect();
    assert!(!asked.is_empty() && asked.iter().all(|sub| sub == "asha"));
    // A server that says no more than 401 rejects this gateway, not the token.
    house.later(20);
    house.backend.fails(error(401, "invalid_client"));
    let answer = house.ask(&Ask::script("/data").jar(&jar)).await.expect(503);
    assert!(answer.set_cookies().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_asked_about_is_for_this_app_only_where_the_server_says_so() {
    let tell = "mode = \"introspect\"\nissuer = \"https://id.test.example\"\naudience = \"app\"";
    let (house, _) = before(|server| server.asked_by(tell), Rotates::Yes, Plan::default()).await;
    let told = |claims: Value| {
        let mut body = json!({"active": true, "sub": "asha", "iss": "https://id.test.example", "aud": "app"});
        body.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        Fault::Answers(body)
    };
    for (claims, status) in [
        (json!({}), 200),
        (json!({"aud": ["x", "app"]}), 200),
        (json!({"aud": "other"}), 302),
        (json!({"aud": null}), 302),
        (json!({"iss": "https://evil.test.example"}), 302),
        (json!({"iss": null}), 302),
    ] {
        let jar = house.signed_in().await.without("refresh_token");
        house.backend.fails(told(claims.clone()));
        let answer = house.ask(&Ask::page("/page").jar(&jar)).await;
        assert_eq!(answer.status, status, "{claims}");
        house.backend.fails(Fault::None);
    }
}
