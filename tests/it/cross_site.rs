//! Other sites' pages cannot act with the user's cookies.

use crate::support::{Answer, Ask, HOST, House, Jar, ORIGIN, Plan};

const NONE: &[&str] = &[];
const OTHER: &str = "https://other.test.example";
const EVIL: &str = "https://evil.example";

fn post(target: &str, site: Option<&str>, origin: Option<&str>) -> Ask {
    let ask = Ask::new("POST", target).body(b"amount=100");
    let ask =
        site.map_or(ask.clone(), |site| ask.line("Sec-Fetch-Site", site).line("Sec-Fetch-Mode", "cors"));
    origin.map_or(ask.clone(), |origin| ask.line("Origin", origin))
}

/// Whether a request got through to the app.
async fn passes(house: &House, ask: Ask, jar: &Jar) -> bool {
    let before = house.upstream.count();
    let answer: Answer = house.ask(&ask.clone().jar(jar)).await;
    let reached = house.upstream.count() > before;
    assert_eq!(answer.status, if reached { 200 } else { 403 }, "{ask:?}");
    assert_eq!(answer.set_cookies(), NONE);
    reached
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_change_something_has_to_come_from_the_site_itself() {
    let house = House::usual().await;
    let jar = house.signed_in().await;
    for (site, origin, fine) in [
        (Some("same-origin"), Some(ORIGIN), true),
        (Some("same-origin"), Some("null"), true),
        (Some("none"), None, true),
        (Some("same-site"), Some(OTHER), true),
        (Some("cross-site"), Some(EVIL), false),
        (Some("cross-site"), None, false),
        (Some("cross-site"), Some(ORIGIN), false),
        (Some("what"), None, false),
        (None, Some(ORIGIN), true),
        (None, None, true),
        (None, Some(EVIL), false),
        (None, Some("null"), false),
        (None, Some("http://app.test.example"), false),
        (None, Some("https://app.test.example.evil.example"), false),
    ] {
        assert_eq!(passes(&house, post("/transfer", site, origin), &jar).await, fine, "{site:?} {origin:?}");
    }
    for method in ["PUT", "PATCH", "DELETE", "PURGE"] {
        assert!(!passes(&house, post("/x", Some("cross-site"), None).method(method), &jar).await, "{method}");
    }
    for method in ["GET", "HEAD", "OPTIONS"] {
        let ask = Ask::new(method, "/x").line("Sec-Fetch-Site", "cross-site");
        assert!(passes(&house, ask, &jar).await, "{method} changes nothing");
    }
    let doubled = post("/x", None, Some(ORIGIN)).line("Origin", ORIGIN);
    assert!(!passes(&house, doubled, &jar).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_renewed_for_another_sites_request() {
    let house = House::usual().await;
    let jar = house.expired().await;
    assert!(!passes(&house, post("/transfer", Some("cross-site"), Some(EVIL)), &jar).await);
    assert!(house.backend.calls().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_settings_make_it_stricter_or_laxer() {
    let site = "csrf = \"same-site\"\ntrusted_origins = [\"https://partner.example\"]";
    let rules = "[[site.rule]]\npath = \"/hooks/*\"\ncsrf = \"off\"";
    let house = House::start(Plan { site, rules, ..Plan::default() }).await;
    let jar = house.signed_in().await;
    assert!(!passes(&house, post("/x", Some("same-site"), Some(OTHER)), &jar).await);
    assert!(passes(&house, post("/x", Some("cross-site"), Some("https://partner.example")), &jar).await);
    assert!(passes(&house, post("/x", None, Some("https://partner.example")), &jar).await);
    assert!(passes(&house, post("/hooks/x", Some("cross-site"), Some(EVIL)), &jar).await);
    assert!(!passes(&house, post("/x", Some("cross-site"), Some(EVIL)), &jar).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_an_optional_route_another_sites_request_is_nobodys() {
    let house = House::usual().await;
    let jar = house.signed_in().await;
    let ask = post("/optional/x", Some("cross-site"), Some(EVIL)).jar(&jar);
    house.ask(&ask).await.expect(200);
    let seen = house.upstream.last();
    assert_eq!(seen.line("x-auth-user"), None);
    assert_eq!(seen.line("cookie"), None);
    house.ask(&post("/optional/x", Some("same-origin"), Some(ORIGIN)).jar(&jar)).await.expect(200);
    assert!(house.upstream.last().line("x-auth-user").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_was_set_aside_is_kept_from_apps_that_may_see_sessions() {
    let rules = "[[site.rule]]\npath = \"/sees/*\"\naccess = \"optional\"\ncookies = \"pass\"";
    let house = House::start(Plan { rules, ..Plan::default() }).await;
    let jar = house.signed_in().await;
    house.ask(&post("/sees/x", Some("same-origin"), Some(ORIGIN)).jar(&jar)).await.expect(200);
    assert!(house.upstream.last().line("cookie").unwrap().contains("access_token="));
    house.ask(&post("/sees/x", Some("cross-site"), Some(EVIL)).jar(&jar)).await.expect(200);
    assert_eq!(house.upstream.last().line("cookie"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_public_route_is_nobodys_business() {
    let house = House::usual().await;
    let jar = house.signed_in().await;
    assert!(passes(&house, post("/public/x", Some("cross-site"), Some(EVIL)), &jar).await);
    assert_eq!(house.upstream.last().line("x-auth-user"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_sites_websocket_handshake_is_refused() {
    let house = House::usual().await;
    let jar = house.signed_in().await;
    for ask in [
        Ask::websocket("/socket").with("Origin", Some(EVIL)),
        Ask::websocket("/socket").with("Origin", Some("null")),
        Ask::websocket("/socket").line("Sec-Fetch-Site", "cross-site"),
    ] {
        let answer = house.ask(&ask.jar(&jar)).await.expect(403);
        assert_eq!(answer.set_cookies(), NONE);
    }
    assert_eq!(house.upstream.count(), 0);
}

fn preflight(target: &str, origin: &str) -> Ask {
    Ask::new("OPTIONS", target)
        .line("Origin", origin)
        .line("Access-Control-Request-Method", "PUT")
        .line("Access-Control-Request-Headers", "content-type,x-thing")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preflights_are_answered_for_listed_origins_alone() {
    let site = r#"trusted_origins = ["https://partner.example"]"#;
    let house = House::start(Plan { site, ..Plan::default() }).await;
    for origin in ["https://partner.example", ORIGIN] {
        let answer = house.ask(&preflight("/api", origin)).await.expect(204);
        assert_eq!(answer.line("access-control-allow-origin"), Some(origin));
        assert_eq!(answer.line("access-control-allow-credentials"), Some("true"));
        assert_eq!(answer.line("access-control-allow-methods"), Some("PUT"));
        assert_eq!(answer.line("access-control-allow-headers"), Some("content-type,x-thing"));
        assert!(answer.all("vary").contains(&"Origin"));
    }
    for origin in [EVIL, "null", "https://partner.example.evil.example", "http://partner.example"] {
        let answer = house.ask(&preflight("/api", origin)).await.expect(403);
        assert_eq!(answer.line("access-control-allow-origin"), None);
    }
    assert_eq!(house.upstream.count(), 0);
    assert!(house.backend.calls().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_app_answers_preflights_it_is_told_of_nobody() {
    let rules = "[[site.rule]]\npath = \"/api/*\"\npreflight = \"upstream\"";
    let house = House::start(Plan { rules, ..Plan::default() }).await;
    let jar = house.expired().await;
    house
        .upstream
        .answers("/api", crate::support::answer("204 Fine", &[("Access-Control-Allow-Origin", EVIL)], ""));
    let answer = house.ask(&preflight("/api/x", EVIL).jar(&jar)).await.expect(204);
    assert_eq!(answer.line("access-control-allow-origin"), Some(EVIL));
    let seen = house.upstream.last();
    assert_eq!(
        (seen.method.as_str(), seen.line("x-auth-user"), seen.line("cookie")),
        ("OPTIONS", None, None)
    );
    assert!(house.backend.calls().is_empty());
    let request = Ask::script("/api/x").line("Host2", HOST);
    house.ask(&request).await.expect(401);
}
