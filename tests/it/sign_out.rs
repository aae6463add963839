//! Signing out: the session ends at its backend and here, and nothing of it comes back.

use crate::support::{Answer, Ask, Fault, Gate, House, Jar, ORIGIN, Plan, until};

const NONE: &[&str] = &[];
const OUT: &str = "/.doorkeep/sign-out";

fn button() -> Ask {
    Ask::form(OUT, "")
}

/// Nothing of the session gets in any more, whatever is presented of it.
async fn is_out(house: &House, jar: &Jar) {
    let forwarded = house.upstream.count();
    house.ask(&Ask::page("/page").jar(jar)).await.expect(302);
    house.ask(&Ask::script("/data").jar(jar)).await.expect(401);
    for name in ["doorkeep_state", "refresh_token", "access_token", "session_id"] {
        house.ask(&Ask::page("/page").jar(&jar.clone().without(name))).await.expect(302);
    }
    let mut bare = Jar::default();
    bare.set("access_token", jar.get("access_token").unwrap());
    house.ask(&Ask::page("/page").jar(&bare)).await.expect(302);
    assert_eq!(house.upstream.count(), forwarded);
}

fn deletes_the_session(answer: &Answer, jar: &Jar) {
    let mut left = jar.clone();
    left.take(answer);
    assert_eq!(left.session(), [None; 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_session_ends_everywhere() {
    let house = House::usual().await;
    let (jar, other) = (house.signed_in().await, house.signed_in().await);
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    let answer = house.ask(&button().jar(&jar)).await.expect(303);
    assert!(
        matches!(answer.line("location"), Some("/" | "https://app.test.example/")),
        "{:?}",
        answer.line("location")
    );
    assert!(answer.is_never_stored());
    deletes_the_session(&answer, &jar);
    let calls = house.backend.sign_outs();
    assert_eq!(calls.len(), 1);
    assert!(calls[0].path.ends_with(jar.get("session_id").unwrap()));
    assert_eq!(calls[0].head.one("x-access-token"), jar.get("access_token"));
    is_out(&house, &jar).await;
    house.later(610);
    is_out(&house, &jar).await;
    assert!(house.backend.renewals().is_empty(), "nothing is presented for a session that was signed out");
    house.later(0);
    house.ask(&Ask::page("/page").jar(&other)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_gets_204() {
    let house = House::usual().await;
    let jar = house.signed_in().await;
    let answer = house.ask(&Ask::script(OUT).method("POST").body(b"").jar(&jar)).await.expect(204);
    deletes_the_session(&answer, &jar);
    is_out(&house, &jar).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_cookies_of_one_name_end_no_session_and_nobody_says_so() {
    let house = House::start(Plan { cookies: "domain = \"test.example\"", ..Plan::default() }).await;
    let jar = house.signed_in().await;
    for name in ["access_token", "refresh_token", "session_id"] {
        let two = format!("{}; {name}=another", jar.line().unwrap());
        let page = house.ask(&button().line("Cookie", &two)).await.expect(409);
        assert!(page.text().contains("Still signed in") && page.text().contains("two different"));
        let script = Ask::script(OUT).method("POST").body(b"").line("Cookie", &two);
        let script = house.ask(&script).await.expect(409);
        assert_eq!(script.json()["title"], "Still signed in");
        for answer in [page, script] {
            assert!(answer.is_never_stored());
            assert!(answer.deleted().contains(&name), "{:?}", answer.set_cookies());
            let host_only = |line: &&str| line.contains("Max-Age=0") && !line.contains("Domain");
            assert!(answer.set_cookies().iter().all(host_only), "{:?}", answer.set_cookies());
        }
    }
    assert!(house.backend.calls().is_empty());
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_sites_cannot_sign_anybody_out() {
    let rules = "[[site.rule]]\npath = \"/.doorkeep/*\"\ncsrf = \"off\"";
    for rules in ["", rules] {
        let house = House::start(Plan { rules, ..Plan::default() }).await;
        let jar = house.signed_in().await;
        let bare = || button().with("Sec-Fetch-Site", None);
        for ask in [
            button().with("Sec-Fetch-Site", Some("cross-site")),
            bare().line("Origin", "https://evil.example"),
            bare().line("Origin", "null"),
        ] {
            let answer = house.ask(&ask.jar(&jar)).await.expect(403);
            assert_eq!(answer.set_cookies(), NONE);
        }
        assert!(house.backend.calls().is_empty());
        house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_knows_a_session_id_alone_ends_nobodys_session() {
    let house = House::usual().await;
    let victim = house.signed_in().await;
    let id = victim.session().into_iter().nth(2).flatten().expect("a session id").to_owned();
    for cookies in [format!("session_id={id}"), format!("refresh_token=garbage; session_id={id}")] {
        let ask = Ask::new("POST", "/.doorkeep/sign-out").line("Cookie", &cookies);
        house.ask(&ask).await.expect(204);
        house.ask(&Ask::page("/page").jar(&victim)).await.expect(200);
    }
    assert_eq!(house.backend.reuses(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_signs_nobody_out() {
    let house = House::usual().await;
    let jar = house.signed_in().await;
    for method in ["GET", "HEAD"] {
        let answer = house.ask(&Ask::page(OUT).method(method).jar(&jar)).await.expect(405);
        assert_eq!(answer.line("allow"), Some("POST"));
        assert_eq!(answer.set_cookies(), NONE);
    }
    assert!(house.backend.calls().is_empty());
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_backend_is_away_the_session_stays() {
    let house = House::usual().await;
    for jar in [house.expired().await, house.signed_in().await] {
        house.backend.close().await;
        for ask in [button(), Ask::script(OUT).method("POST").body(b"")] {
            let answer = house.ask(&ask.jar(&jar)).await.expect(503);
            assert!(answer.line("retry-after").is_some());
            assert_eq!(answer.set_cookies(), NONE);
        }
        house.backend.open();
        house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
        house.ask(&button().jar(&jar)).await.expect(303);
        is_out(&house, &jar).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_is_no_decision_does_not_count_as_signed_out() {
    let house = House::usual().await;
    let jar = house.signed_in().await;
    house.backend.fails_next(Fault::Says(500, Vec::new(), "<html>".to_owned()));
    let answer = house.ask(&button().jar(&jar)).await.expect(503);
    assert_eq!(answer.set_cookies(), NONE);
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_an_expired_access_token_it_works_too() {
    let house = House::usual().await;
    let jar = house.expired().await;
    let answer = house.ask(&button().jar(&jar)).await.expect(303);
    deletes_the_session(&answer, &jar);
    assert_eq!(house.backend.renewals().len(), 1, "ending a session takes a live token here");
    let calls = house.backend.sign_outs();
    assert_eq!(calls.len(), 1);
    assert_ne!(calls[0].head.one("x-access-token"), jar.get("access_token"));
    is_out(&house, &jar).await;
    assert_eq!(house.backend.renewals().len(), 1);
    assert_eq!(house.backend.reuses(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_over_anyway_is_cleared() {
    let house = House::usual().await;
    let jar = house.expired().await;
    house.backend.end(&jar).await;
    let answer = house.ask(&button().jar(&jar)).await.expect(303);
    deletes_the_session(&answer, &jar);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_session_there_is_nothing_to_end() {
    let house = House::usual().await;
    house.ask(&button()).await.expect(303);
    assert!(house.backend.calls().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_cookies_end_the_newest_of_their_session() {
    let house = House::usual().await;
    let old = house.expired().await;
    let mut new = old.clone();
    new.take(&house.ask(&Ask::page("/page").jar(&old)).await.expect(200));
    house.ask(&Ask::page("/page").jar(&new)).await.expect(200);
    house.ask(&button().jar(&old)).await.expect(303);
    is_out(&house, &new).await;
    is_out(&house, &old).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_sign_in_works_at_once() {
    let house = House::usual().await;
    let jar = house.signed_in().await;
    house.ask(&button().jar(&jar)).await.expect(303);
    let again = house.signed_in().await;
    house.ask(&Ask::page("/page").jar(&again)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_to_go_afterwards_never_leaves_the_site() {
    let house = House::usual().await;
    let encode = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let goes = |text: &str| {
        let ask = Ask::form(&format!("{OUT}?return={}", encode(text)), "");
        let house = &house;
        async move {
            let answer = house.ask(&ask).await.expect(303);
            let location = answer.line("location").expect("a place to go").to_owned();
            url::Url::parse(ORIGIN).unwrap().join(&location).unwrap()
        }
    };
    for text in [
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "/\r\nLocation: https://evil.example",
        " https://evil.example",
        "https://evil.example",
        "https:evil.example",
        "https://app.test.example.evil.example",
        "https://app.test.example@evil.example",
        "https://app.test.example:444/",
        "http://app.test.example/",
        "javascript:alert(1)",
        "data:text/html,x",
        "",
    ] {
        assert_eq!(goes(text).await.as_str(), format!("{ORIGIN}/"), "{text:?}");
    }
    assert_eq!(goes("/bye?x=1&y=%2F").await.as_str(), format!("{ORIGIN}/bye?x=1&y=%2F"));
    assert_eq!(goes("https://app.test.example/bye").await.as_str(), format!("{ORIGIN}/bye"));
    assert_eq!(goes("/.//evil.example").await.host_str(), Some("app.test.example"));
}

/// A sign-out while a renewal of the same session is under way: whatever the renewal brings does not outlive it.
async fn racing(house: &House, jar: &Jar) {
    let gate = Gate::closed();
    house.backend.fails_next(Fault::Slow(gate.clone()));
    let mut page = house.conn().await;
    page.send(&Ask::page("/page").jar(jar).bytes()).await;
    gate.reached_by(1).await;
    let mut out = house.conn().await;
    out.send(&button().jar(jar).bytes()).await;
    gate.open();
    let (page, out) = (page.answer("GET").await, out.answer("POST").await.expect(303));
    deletes_the_session(&out, jar);
    let mut late = jar.clone();
    late.take(&page);
    if page.status == 200 && !late.is_empty() {
        is_out(house, &late).await;
    }
    is_out(house, jar).await;
    let session = jar.get("session_id").unwrap();
    assert!(house.backend.sign_outs().iter().any(|call| call.path.ends_with(session)));
    assert_eq!(house.backend.reuses(), 0);
    assert_eq!(house.backend.renewals().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_under_way_does_not_bring_a_session_back() {
    let house = House::start(Plan { renew: r#"attach = "10s""#, ..Plan::default() }).await;
    racing(&house, &house.expired().await).await;
    let house = House::start(Plan { renew: r#"attach = "10s""#, ..Plan::default() }).await;
    racing(&house, &house.due().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_that_lands_after_the_sign_out_is_revoked_and_not_stored() {
    let house = House::start(Plan { renew: r#"attach = "10s""#, ..Plan::default() }).await;
    let jar = house.due().await;
    // The answer of the app is what is slow here: its head is written after the sign-out.
    let app = Gate::closed();
    let slow =
        vec![crate::support::Step::Wait(app.clone()), crate::support::Step::Send(crate::support::ok("slow"))];
    house.upstream.on("/slow", slow);
    let mut page = house.conn().await;
    page.send(&Ask::page("/slow").jar(&jar).bytes()).await;
    app.reached_by(1).await;
    until("the flight's end", || house.door().meters.renewals("renewed") == 1).await;
    house.ask(&button().jar(&jar)).await.expect(303);
    app.open();
    let late = page.answer("GET").await.expect(200);
    assert_eq!(late.set_cookies(), NONE, "a late answer does not bring a session back");
    is_out(&house, &jar).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hangs_up_is_signed_out_all_the_same() {
    let house = House::usual().await;
    let jar = house.signed_in().await;
    let gate = Gate::closed();
    house.backend.fails_next(Fault::Late(gate.clone()));
    let mut conn = house.conn().await;
    conn.send(&button().jar(&jar).bytes()).await;
    gate.reached_by(1).await;
    drop(conn);
    until("the gateway to notice", || house.door().meters.connections.get() == 0).await;
    gate.open();
    let mut tries = 0;
    while house.ask(&Ask::page("/page").jar(&jar)).await.status == 200 {
        tries += 1;
        assert!(tries < 1000, "it was signed out in the end");
    }
    is_out(&house, &jar).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_paths_of_the_gateway_are_not_the_apps() {
    let house = House::usual().await;
    let jar = house.signed_in().await;
    for path in ["/.doorkeep/", "/.doorkeep/sign-out/x", "/.doorkeep/else"] {
        house.ask(&Ask::page(path).jar(&jar)).await.expect(404);
    }
    assert_eq!(house.upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn knowing_the_id_of_a_session_signs_nobody_out() {
    let house = House::usual().await;
    let (victim, own) = (house.signed_in().await, house.backend.sign_in("ravi").await);
    let id = victim.get("session_id").unwrap();
    let mut only_id = Jar::default();
    only_id.set("session_id", id);
    let mut with_garbage = only_id.clone();
    with_garbage.set("refresh_token", "garbage");
    let mut with_own = own.clone();
    with_own.set("session_id", id);
    let mut with_own_refresh = with_own.clone().without("access_token");
    with_own_refresh.set("doorkeep_state", "garbage");
    for jar in [only_id, with_garbage, with_own_refresh, with_own] {
        house.ask(&button().jar(&jar)).await;
        house.ask(&Ask::page("/page").jar(&victim)).await.expect(200);
    }
    house.later(610);
    house.ask(&Ask::page("/page").jar(&victim)).await.expect(200);
    assert_eq!(house.backend.reuses(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_counts_only_by_the_leeway_still_signs_out() {
    let house = House::usual().await;
    let jar = house.signed_in().await;
    house.later(602);
    let answer = house.ask(&button().jar(&jar)).await.expect(303);
    deletes_the_session(&answer, &jar);
    let calls = house.backend.sign_outs();
    assert_ne!(calls.last().unwrap().head.one("x-access-token"), jar.get("access_token"));
    is_out(&house, &jar).await;
}
