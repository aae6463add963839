//! The session backend fails: nobody is signed out by it, no spent token comes back, and nothing waits for ever.

use serde_json::json;

use crate::support::{Ask, Fault, Gate, House, Jar, Plan, Spent, within};

/// Short limits, so that silence is over soon.
const HURRIED: Plan<'static> = Plan {
    top: "",
    listen: "",
    cookies: "",
    token: "",
    renew: "timeout = \"200ms\"\ngive_up = \"400ms\"",
    lifetime: "",
    login: "",
    identity: "",
    identity_headers: "",
    site: "",
    rules: "",
    upstream: None,
    key: None,
};

macro_rules! facts {
    ($check:ident: $($name:ident => $fault:expr,)+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $check($fault).await;
        })+
    };
}

pub fn page(status: u16) -> Fault {
    let lines = vec![("Content-Type", "text/html; charset=utf-8".to_owned())];
    Fault::Says(status, lines, "<!doctype html><title>Elsewhere</title>".to_owned())
}

pub fn json_says(status: u16, json: &serde_json::Value) -> Fault {
    Fault::Says(status, vec![("Content-Type", "application/json".to_owned())], json.to_string())
}

/// What a client sees while the backend is away: its cookies stay, and it is told when to come again.
pub async fn everybody_is_asked_to_wait(house: &House, jar: &Jar) {
    let forwarded = house.upstream.count();
    let shown = house.ask(&Ask::page("/page?q=1").jar(jar)).await.expect(503);
    assert!(shown.line("content-type").unwrap().starts_with("text/html"));
    let after: u64 = shown.line("retry-after").unwrap().parse().unwrap();
    assert!(after >= 1);
    assert!(
        shown.text().contains(&format!("<meta http-equiv=\"refresh\" content=\"{after}\">")),
        "{}",
        shown.text()
    );
    landed(house).await;
    let told = house.ask(&Ask::script("/data").jar(jar)).await.expect(503);
    assert_eq!(told.line("content-type"), Some("application/problem+json"));
    assert_eq!(told.json()["status"], json!(503));
    assert!(told.line("retry-after").is_some());
    landed(house).await;
    for answer in [&shown, &told] {
        assert_eq!(answer.set_cookies(), Vec::<&str>::new());
        assert!(answer.is_never_stored());
        assert!(answer.line("x-request-id").is_some());
    }
    assert_eq!(house.upstream.count(), forwarded, "nothing is forwarded");
}

/// No flight is under way.
pub async fn landed(house: &House) {
    crate::support::until("every flight's end", || house.door().meters.flights.get() == 0).await;
}

pub async fn renews_now(house: &House, old: &Jar) {
    let answer = house.ask(&Ask::page("/back").jar(old)).await.expect(200);
    let mut jar = old.clone();
    jar.take(&answer);
    assert!(old.session().iter().zip(jar.session()).take(2).all(|(old, new)| *old != new), "a new pair");
    house.ask(&Ask::page("/on").jar(&jar)).await.expect(200);
    assert_eq!(house.backend.reuses(), 0);
}

/// The backend decided nothing: it may be asked again at once.
async fn no_decision(fault: Fault) {
    no_decision_in(House::start(HURRIED).await, fault).await;
}

pub async fn no_decision_in(house: House, fault: Fault) {
    let old = house.expired().await;
    house.backend.fails(fault);
    everybody_is_asked_to_wait(&house, &old).await;
    let anonymous = house.ask(&Ask::page("/optional/x").jar(&old)).await.expect(200);
    assert!(anonymous.set_cookies().is_empty());
    assert_eq!(house.upstream.last().line("x-auth-user"), None);
    landed(&house).await;
    house.backend.fails(Fault::None);
    renews_now(&house, &old).await;
    assert_eq!(house.backend.most_busy(), 1);
}

facts! { no_decision:
    a_500_keeps_the_session => page(500),
    a_500_with_an_envelope_keeps_the_session =>
        json_says(500, &json!({"isSuccess": false, "code": "UNKNOWN", "message": "Internal Server Error"})),
    a_503_page_keeps_the_session => page(503),
    a_429_keeps_the_session => page(429),
    a_page_with_200_keeps_the_session => page(200),
    a_401_without_an_envelope_keeps_the_session => json_says(401, &json!({"error": "who are you"})),
    a_403_page_keeps_the_session => page(403),
    another_code_keeps_the_session => json_says(400, &json!({"isSuccess": false, "code": "BAD_REQUEST"})),
    a_refusal_of_the_gateway_itself_keeps_the_session =>
        json_says(403, &json!({"isSuccess": false, "code": "INVALID_IP"})),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connection_keeps_the_session() {
    let house = House::start(HURRIED).await;
    let old = house.expired().await;
    house.backend.close().await;
    everybody_is_asked_to_wait(&house, &old).await;
    assert!(house.backend.renewals().is_empty());
    house.backend.open();
    renews_now(&house, &old).await;
    assert_eq!(house.backend.renewals().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_is_not_followed_and_keeps_the_session() {
    for status in [301, 302, 303, 307, 308] {
        let house = House::start(HURRIED).await;
        let old = house.expired().await;
        let to = format!("http://{}/elsewhere", house.upstream.addr);
        house.backend.fails(Fault::Says(status, vec![("Location", to)], String::new()));
        everybody_is_asked_to_wait(&house, &old).await;
        assert_eq!(house.upstream.connections(), 0, "nobody asks there");
        house.backend.fails(Fault::None);
        renews_now(&house, &old).await;
    }
}

/// What came of presenting the token is not known. The access token is over, so it is presented once more at once, and
/// from then on every thirty seconds, whoever asks and however often.
async fn lost_when_expired(fault: Fault) {
    lost_when_expired_in(House::start(HURRIED).await, fault).await;
}

pub async fn lost_when_expired_in(house: House, fault: Fault) {
    let old = house.expired().await;
    house.backend.fails(fault);
    let presented = || house.backend.renewals().len();
    house.ask(&Ask::script("/data").jar(&old)).await.expect(503);
    landed(&house).await;
    assert_eq!(presented(), 1);
    everybody_is_asked_to_wait(&house, &old).await;
    assert_eq!(presented(), 2, "once more at once, the next one is held back");
    let held = house.ask(&Ask::script("/data").jar(&old)).await.expect(503);
    assert_eq!(held.line("retry-after"), Some("30"));
    house.later(29);
    everybody_is_asked_to_wait(&house, &old).await;
    assert_eq!(presented(), 2);
    house.later(1);
    everybody_is_asked_to_wait(&house, &old).await;
    assert_eq!(presented(), 3);
    house.backend.fails(Fault::None);
    house.ask(&Ask::script("/data").jar(&old)).await.expect(503);
    assert_eq!(presented(), 3);
    house.later(30);
    renews_now(&house, &old).await;
    assert_eq!(house.backend.most_busy(), 1, "never two at a time");
    let at: Vec<u64> = house.backend.renewals().iter().map(|call| call.at.as_secs()).collect();
    let gaps: Vec<u64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(gaps, [0, 30, 30]);
}

/// The same while the access token lives: everybody goes on as before, and the token rests until the access token is over.
async fn lost_when_due(fault: Fault) {
    lost_when_due_in(House::start(HURRIED).await, fault).await;
}

pub async fn lost_when_due_in(house: House, fault: Fault) {
    let old = house.due().await;
    house.backend.fails(fault);
    let presented = || house.backend.renewals().len();
    for turn in 0..26 {
        let answer = house.ask(&Ask::page("/page").jar(&old)).await.expect(200);
        assert!(answer.text().starts_with("app: "));
        assert!(answer.set_cookies().is_empty(), "{:?}", answer.set_cookies());
        landed(&house).await;
        assert_eq!(presented(), 1, "turn {turn}");
        house.later(10);
    }
    // Now the access token ends, but for the leeway.
    house.later(4);
    house.ask(&Ask::page("/page").jar(&old)).await.expect(200);
    landed(&house).await;
    assert_eq!(presented(), 1);
    house.later(1);
    house.ask(&Ask::page("/page").jar(&old)).await.expect(503);
    landed(&house).await;
    assert_eq!(presented(), 2, "once more");
    house.backend.fails(Fault::None);
    house.ask(&Ask::page("/page").jar(&old)).await.expect(503);
    house.later(30);
    renews_now(&house, &old).await;
    assert_eq!(presented(), 3);
    assert_eq!(house.backend.most_busy(), 1);
}

facts! { lost_when_expired:
    half_an_answer_is_presented_again_sparingly => Fault::HalfJson(Spent::No),
    a_cut_answer_is_presented_again_sparingly => Fault::Cut(Spent::No),
    a_huge_answer_is_presented_again_sparingly => Fault::Huge(Spent::No),
    a_502_is_presented_again_sparingly => page(502),
    a_504_is_presented_again_sparingly => page(504),
    silence_is_presented_again_sparingly => Fault::Silence(Spent::No),
    a_strange_envelope_is_presented_again_sparingly => json_says(200, &json!({"ok": true, "token": "abc"})),
    a_502_may_hide_an_answer_and_is_presented_again_sparingly => page(502),
    a_504_may_hide_an_answer_and_is_presented_again_sparingly => page(504),
    success_without_tokens_is_presented_again_sparingly => json_says(200, &json!({"isSuccess": true, "data": {}})),
}

facts! { lost_when_due:
    half_an_answer_lets_live_sessions_go_on => Fault::HalfJson(Spent::No),
    a_cut_answer_lets_live_sessions_go_on => Fault::Cut(Spent::No),
    a_huge_answer_lets_live_sessions_go_on => Fault::Huge(Spent::No),
    a_502_lets_live_sessions_go_on => page(502),
    silence_lets_live_sessions_go_on => Fault::Silence(Spent::No),
    a_504_lets_live_sessions_go_on => page(504),
    a_strange_envelope_lets_live_sessions_go_on => json_says(200, &json!({"ok": true, "token": "abc"})),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_after_a_lost_answer_is_counted_as_such() {
    let house = House::start(HURRIED).await;
    let old = house.expired().await;
    house.backend.fails_next(Fault::Cut(Spent::Yes));
    house.ask(&Ask::page("/page").jar(&old)).await.expect(503);
    landed(&house).await;
    house.ask(&Ask::page("/page").jar(&old)).await.expect(302);
    assert_eq!(house.door().meters.lost_answers.get(), 1);
    assert_eq!(house.backend.reuses(), 1, "to this backend it is a spent token that comes back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_is_away_does_not_touch_live_sessions() {
    let house = House::start(HURRIED).await;
    let (fresh, due) = {
        let due = house.due().await;
        (house.signed_in().await, due)
    };
    house.backend.close().await;
    for jar in [&fresh, &due] {
        for ask in [Ask::page("/page"), Ask::script("/data")] {
            let answer = house.ask(&ask.jar(jar)).await.expect(200);
            assert!(answer.set_cookies().is_empty());
        }
    }
    house.backend.open();
    landed(&house).await;
    // Whoever can wait leaves a backend alone that was away just now.
    assert!(house.ask(&Ask::page("/page").jar(&due)).await.expect(200).set_cookies().is_empty());
    house.later(2);
    let answer = house.ask(&Ask::page("/page").jar(&due)).await.expect(200);
    let mut jar = due.clone();
    jar.take(&answer);
    assert_ne!(jar.session(), due.session());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_answer_is_used_when_it_comes_in_time() {
    let house = House::usual().await;
    let old = house.expired().await;
    let gate = Gate::closed();
    house.backend.fails_next(Fault::Late(gate.clone()));
    let mut conn = house.conn().await;
    conn.send(&Ask::page("/page").jar(&old).bytes()).await;
    gate.reached_by(1).await;
    assert_eq!(house.upstream.count(), 0, "the app is not asked before it is known for whom");
    gate.open();
    let answer = within("the answer", conn.answer("GET")).await.expect(200);
    assert!(answer.cookie("refresh_token").is_some());
}
