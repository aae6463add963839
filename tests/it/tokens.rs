//! Which tokens count, for how long, and whose session it stays.

use serde_json::{Value, json};

use crate::support::house::{ACCESS_SECRET, START};
use crate::support::token::{claims, signed, signed_with};
use crate::support::{Ask, Fault, House, Jar, Plan, until};

const NONE: &[&str] = &[];
const OTHER_SECRET: &str = "not-the-access-secret-of-these-tests-01234";

fn with_token(token: &str) -> Jar {
    let mut jar = Jar::default();
    jar.set("access_token", token);
    jar
}

async fn status(house: &House, jar: &Jar) -> u16 {
    let before = house.upstream.count();
    let answer = house.ask(&Ask::page("/page").jar(jar)).await;
    assert_eq!(house.upstream.count() - before, usize::from(answer.status == 200));
    answer.status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_counts_until_its_end_and_the_leeway() {
    for (setting, leeway) in [("", 5), ("leeway = \"0s\"", 0), ("leeway = \"60s\"", 60)] {
        let house = House::start(Plan { token: setting, ..Plan::default() }).await;
        let jar = with_token(&signed(&json!({"userId": "u", "exp": START.as_secs() + 100})));
        house.later(99);
        assert_eq!(status(&house, &jar).await, 200);
        house.later(leeway);
        assert_eq!(status(&house, &jar).await, 200, "{leeway} s of leeway");
        house.later(1);
        assert_eq!(status(&house, &jar).await, 302, "{leeway} s of leeway");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_written_expiry_counts_like_a_number_and_the_earlier_one_wins() {
    let house = House::usual().await;
    let at = START.as_secs();
    // START is 2027-01-15T08:00:00Z.
    let written = with_token(&signed(&json!({"userId": "u", "expiry": "2027-01-15T08:01:40.000Z"})));
    let both =
        with_token(&signed(&json!({"userId": "u", "expiry": "2027-01-15T08:01:40.000Z", "exp": at + 5000})));
    let other =
        with_token(&signed(&json!({"userId": "u", "expiry": "2027-01-15T09:00:00Z", "exp": at + 100})));
    for (later, wanted) in [(0, 200), (104, 200), (1, 302)] {
        house.later(later);
        for jar in [&written, &both, &other] {
            assert_eq!(status(&house, jar).await, wanted);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_without_iat_is_due_by_our_own_note_of_when_it_came() {
    let house = House::usual().await;
    let session = house.signed_in().await;
    let whole = claims(session.get("access_token").unwrap());
    let bare = json!({"userId": whole["userId"], "sessionId": whole["sessionId"], "exp": whole["exp"]});
    let mut jar = session.clone();
    jar.set("access_token", &signed(&bare));
    let forgetful = jar.clone();
    let first = house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(first.set_cookies().len(), 1);
    assert!(first.cookie("doorkeep_state").is_some());
    assert!(first.is_never_stored());
    jar.take(&first);
    let second = house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(second.set_cookies(), NONE, "noted once");
    house.later(340);
    house.ask(&Ask::page("/page").jar(&forgetful)).await.expect(200);
    assert!(house.backend.renewals().is_empty(), "without the note nobody knows how old it is");
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(house.backend.renewals().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_are_not_genuine_or_not_for_us_are_none() {
    let token = "issuer = \"https://id.test.example\"\naudience = [\"app\"]";
    let house = House::start(Plan { token, ..Plan::default() }).await;
    let exp = START.as_secs() + 600;
    let good = json!({"userId": "u", "exp": exp, "iss": "https://id.test.example", "aud": "app"});
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        signed(&claims)
    };
    assert_eq!(status(&house, &with_token(&signed(&good))).await, 200);
    assert_eq!(status(&house, &with_token(&with("aud", json!(["x", "app"])))).await, 200);
    let genuine = signed(&good);
    let parts: Vec<&str> = genuine.split('.').collect();
    let encode = |text: &str| base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, text);
    let none = encode(r#"{"alg":"none","typ":"JWT"}"#);
    let hs512 = jsonwebtoken::encode(
        &jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS512),
        &good,
        &jsonwebtoken::EncodingKey::from_secret(ACCESS_SECRET.as_bytes()),
    );
    let foreign = encode(&good.to_string().replace("\"u\"", "\"root\""));
    let twice = format!(
        r#"{{"userId":"u","userId":"root","exp":{exp},"iss":"https://id.test.example","aud":"app"}}"#
    );
    for bad in [
        signed_with(&good, OTHER_SECRET),
        format!("{none}.{}.", parts[1]),
        format!("{none}.{}.{}", parts[1], parts[2]),
        hs512.unwrap(),
        format!("{}.{foreign}.{}", parts[0], parts[2]),
        format!("{}.{}.{}", parts[0], encode(&twice), parts[2]),
        format!("{genuine}="),
        format!("{genuine}."),
        format!("{}.{}", parts[0], parts[1]),
        with("iss", json!("https://id.test.example/")),
        with("iss", json!(["https://id.test.example"])),
        with("aud", json!("other")),
        with("aud", Value::Null),
        with("exp", json!(exp.to_string())),
        with("exp", Value::Null),
        with("exp", json!(START.as_secs() - 600)),
        with("nbf", json!(START.as_secs() + 60)),
        with("userId", json!("")),
        with("userId", json!({"a": 1})),
        with("userId", Value::Null),
        with("sessionId", json!("../x")),
    ] {
        assert_eq!(status(&house, &with_token(&bad)).await, 302, "{bad}");
    }
    assert!(house.backend.calls().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_somebody_else_are_refused_and_revoked() {
    let house = House::usual().await;
    let (mine, theirs) = (house.signed_in().await, house.backend.sign_in("ravi").await);
    house.later(610);
    let fresh = house.backend.sign_in("ravi").await;
    let envelope = json!({"isSuccess": true, "data": {
        "id": fresh.get("session_id"),
        "token": fresh.get("access_token"),
        "expiry": "2027-01-15T08:20:00.000Z",
        "refresh": {"token": fresh.get("refresh_token"), "expiry": "2027-01-15T09:20:00.000Z"},
    }});
    house.backend.fails_next(Fault::Answers(envelope));
    let answer = house.ask(&Ask::page("/page").jar(&mine)).await.expect(302);
    let mut left = mine.clone();
    left.take(&answer);
    assert_eq!(left.session(), [None; 3]);
    assert_eq!(house.upstream.count(), 0);
    until("they are revoked", || house.backend.sign_outs().len() == 1).await;
    let revoked = house.backend.sign_outs();
    assert!(revoked[0].path.ends_with(fresh.get("session_id").unwrap()));
    assert_eq!(revoked[0].head.one("x-access-token"), fresh.get("access_token"));
    house.ask(&Ask::page("/page").jar(&mine)).await.expect(302);
    assert_eq!(house.backend.renewals().len(), 1, "nothing is presented again");
    house.ask(&Ask::page("/page").jar(&theirs)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_token_of_nobody_known_is_presented_for_page_views_only() {
    let house = House::usual().await;
    let mut jar = house.expired().await.without("access_token");
    let script = house.ask(&Ask::script("/data").jar(&jar)).await.expect(401);
    let form = house.ask(&Ask::form("/form", "x=1").jar(&jar)).await.expect(303);
    assert_eq!((script.set_cookies(), form.set_cookies()), (vec![], vec![]), "the cookies stay");
    assert!(house.backend.calls().is_empty());
    jar.take(&house.ask(&Ask::page("/page").jar(&jar)).await.expect(200));
    assert_eq!(house.backend.renewals().len(), 1);
    // Now our own note says whose session it is.
    house.later(610);
    let jar = jar.without("access_token");
    house.ask(&Ask::script("/data").jar(&jar)).await.expect(200);
    assert_eq!(house.backend.renewals().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_note_about_one_session_says_nothing_about_another() {
    let house = House::usual().await;
    let (mut mine, theirs) = (house.signed_in().await, house.backend.sign_in("ravi").await);
    house.later(610);
    mine.take(&house.ask(&Ask::page("/page").jar(&mine)).await.expect(200));
    let mut mixed = theirs.without("access_token");
    mixed.set("doorkeep_state", mine.get("doorkeep_state").unwrap());
    house.ask(&Ask::script("/data").jar(&mixed)).await.expect(401);
    assert_eq!(house.backend.renewals().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_pair_that_does_not_verify_yet_is_kept_all_the_same() {
    let house = House::usual().await;
    let old = house.expired().await;
    house.backend.fails_next(Fault::Resigned(OTHER_SECRET));
    let mut jar = old.clone();
    for ask in [Ask::page("/page"), Ask::script("/data")] {
        let answer = house.ask(&ask.jar(&old)).await.expect(503);
        assert!(answer.line("retry-after").is_some());
        assert!(answer.is_never_stored());
        jar.take(&answer);
    }
    assert_ne!(jar.get("refresh_token"), old.get("refresh_token"), "the old one is spent");
    assert_eq!(house.upstream.count(), 0, "nobody gets in with it");
    assert_eq!(house.backend.renewals().len(), 1);
    // The backend signs with the right key again: the kept refresh token carries the session on.
    let answer = house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    jar.take(&answer);
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(house.backend.renewals().len(), 2);
    assert_eq!(house.backend.reuses(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_that_brings_a_dead_token_lets_nobody_in() {
    let house = House::usual().await;
    let old = house.expired().await;
    let whole = claims(old.get("access_token").unwrap());
    let envelope = json!({"isSuccess": true, "data": {
        "id": old.get("session_id"),
        "token": old.get("access_token"),
        "refresh": {"token": "a-new-refresh-token"},
    }});
    assert!(whole["exp"].as_u64().unwrap() < START.as_secs() + 610);
    house.backend.fails_next(Fault::Answers(envelope));
    house.ask(&Ask::page("/page").jar(&old)).await.expect(503);
    assert_eq!(house.upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_somebody_else_renews_this_gateway_does_not() {
    let house = House::start(Plan { renew: r#"mode = "never""#, ..Plan::default() }).await;
    let jar = house.due().await;
    let due = house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(due.set_cookies(), NONE);
    house.later(300);
    let over = house.ask(&Ask::page("/page").jar(&jar)).await.expect(302);
    assert_eq!(over.deleted(), NONE, "they may be renewed by the other in this moment");
    let script = house.ask(&Ask::script("/data").jar(&jar)).await.expect(401);
    assert_eq!(script.set_cookies(), NONE);
    house.ask(&Ask::page("/optional/x").jar(&jar)).await.expect(200);
    assert_eq!(house.upstream.last().line("x-auth-user"), None);
    assert!(house.backend.calls().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_session_is_the_one_that_the_token_names_not_the_cookie_beside_it() {
    let house = House::usual().await;
    let (mine, theirs) = (house.signed_in().await, house.backend.sign_in("ravi").await);
    house.later(610);
    let mut odd = mine.clone();
    odd.set("session_id", theirs.get("session_id").unwrap());
    house.ask(&Ask::page("/page").jar(&odd)).await.expect(200);
    let path = &house.backend.renewals()[0].path;
    assert!(path.contains(mine.get("session_id").unwrap()), "{path}");
    // One's access token with another's refresh token is nobody's session.
    let mut mixed = theirs.clone();
    mixed.set("access_token", mine.get("access_token").unwrap());
    house.ask(&Ask::page("/page").jar(&mixed)).await.expect(302);
    assert_eq!(house.upstream.count(), 1);
    house.ask(&Ask::page("/page").jar(&theirs)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_keeps_the_refresh_token_is_asked_with_it_again() {
    let house = House::usual().await;
    let mut jar = house.expired().await;
    let old = claims(jar.get("access_token").unwrap());
    for turn in 1..=3 {
        let mut new = old.clone();
        new["iat"] = json!(START.as_secs() + 610 * turn);
        new["exp"] = json!(START.as_secs() + 610 * turn + 600);
        new["expiry"] = Value::from("2027-01-15T23:00:00.000Z");
        let envelope = json!({"isSuccess": true, "data": {"id": old["sessionId"], "token": signed(&new)}});
        house.backend.fails_next(Fault::Answers(envelope));
        let answer = house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
        assert_eq!(answer.cookie("refresh_token"), None, "it stays as it is");
        jar.take(&answer);
        let fresh = house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
        assert_eq!(fresh.set_cookies(), NONE);
        assert_eq!(house.backend.renewals().len(), usize::try_from(turn).unwrap());
        house.later(610);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_token_that_is_over_ends_the_session() {
    let house = House::usual().await;
    let jar = house.signed_in().await;
    house.later(3601);
    let answer = house.ask(&Ask::page("/page").jar(&jar)).await.expect(302);
    assert!(answer.deleted().contains(&"refresh_token"));
}
