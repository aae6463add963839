//! The session backend refuses: browsers are sent to the login, scripts are told where it is, and the app sees nothing.

use serde_json::json;
use url::Url;

use crate::support::{Ask, Fault, House, Jar, LOGIN, ORIGIN, Plan};

const NONE: &[&str] = &[];

/// A session whose access token is over and which has been ended elsewhere.
async fn ended(house: &House) -> Jar {
    let jar = house.signed_in().await;
    house.backend.end(&jar).await;
    house.later(610);
    jar
}

/// The page that a login address leads back to. It has to be written so that any reader finds the same.
fn leads_back_to(login: &str) -> String {
    let (base, value) = login.split_once("?redirect=").expect("a redirect parameter");
    assert_eq!(base, LOGIN);
    let escaped = |b: u8| b.is_ascii_alphanumeric() || b"-._~%".contains(&b);
    assert!(value.bytes().all(escaped), "{value}");
    let url = Url::parse(login).unwrap();
    let pairs: Vec<_> = url.query_pairs().collect();
    assert_eq!(pairs.len(), 1);
    pairs[0].1.to_string()
}

fn all_session_cookies_are_deleted(answer: &crate::support::Answer, jar: &Jar) {
    let mut left = jar.clone();
    left.take(answer);
    assert_eq!(left.session(), [None; 3]);
    for name in ["access_token", "refresh_token", "session_id", "doorkeep_state"] {
        let line = answer.set_cookies().into_iter().find(|line| line.starts_with(name)).expect(name);
        for attribute in ["Max-Age=0", "Path=/", "HttpOnly", "Secure", "SameSite=Lax"] {
            assert!(line.contains(attribute), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_view_goes_to_the_login_and_back_to_the_very_page() {
    let house = House::usual().await;
    let jar = ended(&house).await;
    for target in ["/a%20b/c?q=1&r=%2Fx%26y&s=a+b", "/%C3%BC", "/p?next=https://elsewhere.example/&x='", "/"]
    {
        let answer = house.ask(&Ask::page(target).jar(&jar)).await.expect(302);
        assert_eq!(leads_back_to(answer.line("location").unwrap()), format!("{ORIGIN}{target}"));
        assert!(answer.is_never_stored());
        all_session_cookies_are_deleted(&answer, &jar);
    }
    assert_eq!(house.backend.renewals().len(), 1, "a refusal is remembered");
    assert_eq!(house.upstream.count(), 0, "nothing is forwarded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_to_come_back_to_is_made_from_the_sites_origin() {
    let house = House::usual().await;
    for host in ["APP.test.example:8443", "app.test.example.", "app.test.example:80"] {
        let answer = house.ask(&Ask::page("/x").with("Host", Some(host))).await.expect(302);
        assert_eq!(leads_back_to(answer.line("location").unwrap()), format!("{ORIGIN}/x"));
    }
    let absolute = Ask::page("http://app.test.example/y?z");
    let answer = house.ask(&absolute).await.expect(302);
    assert_eq!(leads_back_to(answer.line("location").unwrap()), format!("{ORIGIN}/y?z"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_is_told_where_the_login_is_and_cleared_once() {
    let house = House::usual().await;
    let jar = ended(&house).await;
    let page = format!("{ORIGIN}/list?page=2");
    let ask = Ask::script("/api/data?x=1").line("Referer", &format!("{page}#top")).jar(&jar);
    let first = house.ask(&ask).await.expect(401);
    assert_eq!(first.line("content-type"), Some("application/problem+json"));
    assert!(first.line("www-authenticate").is_some());
    assert!(first.is_never_stored());
    let json = first.json();
    assert_eq!(json["status"], json!(401));
    assert_eq!(leads_back_to(json["login"].as_str().unwrap()), page, "the page, not the script's address");
    assert_eq!(json["request_id"].as_str(), first.line("x-request-id"));
    all_session_cookies_are_deleted(&first, &jar);
    let second = house.ask(&ask).await.expect(401);
    assert_eq!(second.set_cookies(), NONE, "a late answer must not wipe a fresh sign-in");
    let shown = house.ask(&Ask::page("/page").jar(&jar)).await.expect(302);
    all_session_cookies_are_deleted(&shown, &jar);
    assert_eq!(house.upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_of_another_page_comes_back_to_the_root() {
    let house = House::usual().await;
    for referer in
        ["https://elsewhere.example/x", "https://app.test.example.evil/x", "//app.test.example/", ""]
    {
        let answer = house.ask(&Ask::script("/api").line("Referer", referer)).await.expect(401);
        let back = leads_back_to(answer.json()["login"].as_str().unwrap());
        assert_eq!(back, format!("{ORIGIN}/"), "{referer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_comes_back_to_its_own_page() {
    let house = House::usual().await;
    let jar = ended(&house).await;
    let own = format!("{ORIGIN}/form?id=7");
    for (referer, wanted) in
        [(own.as_str(), own.as_str()), ("https://elsewhere.example/form", "https://app.test.example/")]
    {
        let ask = Ask::form("/form/send", "amount=100").line("Referer", referer).jar(&jar);
        let answer = house.ask(&ask).await.expect(303);
        assert_eq!(leads_back_to(answer.line("location").unwrap()), wanted);
        all_session_cookies_are_deleted(&answer, &jar);
    }
    assert_eq!(house.upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_handshake_gets_401() {
    let house = House::usual().await;
    let jar = ended(&house).await;
    let answer = house.ask(&Ask::websocket("/socket").jar(&jar)).await.expect(401);
    assert!(answer.json()["login"].as_str().is_some());
    let nobody = house.ask(&Ask::websocket("/socket")).await.expect(401);
    assert_eq!(nobody.set_cookies(), NONE);
    assert_eq!(house.upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_never_signed_in_is_sent_without_asking_the_backend() {
    let house = House::usual().await;
    let page = house.ask(&Ask::page("/x")).await.expect(302);
    assert_eq!(page.deleted(), NONE, "there is nothing to delete");
    let head = house.ask(&Ask::page("/x").method("HEAD")).await.expect(302);
    assert!(head.body.is_empty());
    let script = house.ask(&Ask::script("/x")).await.expect(401);
    assert_eq!(script.set_cookies(), NONE);
    let tool = house.ask(&Ask::new("GET", "/x").line("Accept", "application/json")).await.expect(401);
    assert!(tool.json()["login"].is_string());
    let old_browser = house.ask(&Ask::new("GET", "/x").line("Accept", "text/html")).await.expect(302);
    assert!(old_browser.line("location").is_some());
    let jquery = Ask::new("GET", "/x").line("Accept", "text/html").line("X-Requested-With", "XMLHttpRequest");
    house.ask(&jquery).await.expect(401);
    assert!(house.backend.calls().is_empty());
    assert_eq!(house.upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_token_without_its_session_is_not_presented() {
    let house = House::usual().await;
    let jar = house.expired().await.without("access_token").without("session_id");
    house.ask(&Ask::page("/x").jar(&jar)).await.expect(302);
    assert!(house.backend.calls().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_an_optional_route_an_ended_session_is_nobody_and_is_cleared() {
    let house = House::usual().await;
    let jar = ended(&house).await;
    let answer = house.ask(&Ask::page("/optional/x").jar(&jar)).await.expect(200);
    assert_eq!(answer.text(), "app: /optional/x\n");
    assert_eq!(house.upstream.last().line("x-auth-user"), None);
    all_session_cookies_are_deleted(&answer, &jar);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_of_listed_origins_can_read_why() {
    let site = r#"trusted_origins = ["https://other.test.example"]"#;
    let house = House::start(Plan { site, ..Plan::default() }).await;
    let ask =
        |origin: &str| Ask::script("/api").with("Sec-Fetch-Site", Some("same-site")).line("Origin", origin);
    let listed = house.ask(&ask("https://other.test.example")).await.expect(401);
    assert_eq!(listed.line("access-control-allow-origin"), Some("https://other.test.example"));
    assert_eq!(listed.line("access-control-allow-credentials"), Some("true"));
    assert!(listed.all("vary").contains(&"Origin"));
    let unlisted = house.ask(&ask("https://evil.example")).await.expect(401);
    assert_eq!(unlisted.line("access-control-allow-origin"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_beside_a_live_token_counts_once_that_token_is_over() {
    let house = House::usual().await;
    let jar = house.due().await;
    house.backend.end(&jar).await;
    for _ in 0..3 {
        let answer = house.ask(&Ask::page("/x").jar(&jar)).await.expect(200);
        assert_eq!(answer.set_cookies(), NONE);
    }
    house.later(260);
    house.ask(&Ask::page("/x").jar(&jar)).await.expect(200);
    house.later(5);
    let answer = house.ask(&Ask::page("/x").jar(&jar)).await.expect(302);
    all_session_cookies_are_deleted(&answer, &jar);
    assert_eq!(house.backend.renewals().len(), 1, "nothing is presented again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_known_refusals_end_a_session_and_the_settings_can_add_some() {
    let gone = || {
        Fault::Says(
            410,
            vec![("Content-Type", "application/json".to_owned())],
            json!({"kind": "gone"}).to_string(),
        )
    };
    let house = House::usual().await;
    let jar = house.expired().await;
    house.backend.fails(gone());
    assert!(house.ask(&Ask::page("/x").jar(&jar)).await.expect(503).set_cookies().is_empty());
    let rules =
        "[[backend.directory.answer]]\nstatus = 410\nmember = \"kind\"\ntext = \"gone\"\nmeans = \"refused\"";
    let house = House::start(Plan { rules, ..Plan::default() }).await;
    let jar = house.expired().await;
    house.backend.fails(gone());
    let answer = house.ask(&Ask::page("/x").jar(&jar)).await.expect(302);
    all_session_cookies_are_deleted(&answer, &jar);
}
