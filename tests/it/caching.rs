//! What caches are told, and which cookies an answer carries.

use crate::support::{Ask, Gate, House, Plan, Step, answer, head_of};

const NONE: &[&str] = &[];

fn directives(line: Option<&str>) -> Vec<String> {
    line.unwrap_or_default().split(',').map(|item| item.trim().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_on_session_routes_are_for_this_user_alone() {
    let house = House::usual().await;
    let jar = house.signed_in().await;
    let lines = [
        ("Cache-Control", "public, max-age=60"),
        ("Cache-Control", "s-maxage=100, must-revalidate"),
        ("CDN-Cache-Control", "max-age=1000"),
        ("Surrogate-Control", "max-age=1000"),
        ("ETag", "\"v1\""),
    ];
    house.upstream.answers("/", answer("200 OK", &lines, "hello"));
    for target in ["/page", "/optional/x"] {
        let got = house.ask(&Ask::page(target).jar(&jar)).await.expect(200);
        assert_eq!(directives(got.line("cache-control")), ["private", "max-age=60", "must-revalidate"]);
        assert_eq!((got.line("cdn-cache-control"), got.line("surrogate-control")), (None, None));
        assert_eq!(got.line("etag"), Some("\"v1\""));
    }
    let nobody = house.ask(&Ask::page("/optional/x")).await.expect(200);
    assert_eq!(directives(nobody.line("cache-control"))[0], "private", "nobody's answer is not somebody's");
    let public = house.ask(&Ask::page("/public/x").jar(&jar)).await.expect(200);
    assert_eq!(public.all("cache-control"), ["public, max-age=60", "s-maxage=100, must-revalidate"]);
    assert_eq!(public.line("cdn-cache-control"), Some("max-age=1000"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_without_a_word_about_caching_are_private_too() {
    let house = House::usual().await;
    let jar = house.signed_in().await;
    let got = house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(got.line("cache-control"), Some("private"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_may_leave_caching_to_the_app_but_not_with_our_cookies() {
    let rules = "[[site.rule]]\npath = \"/shared/*\"\ncache = \"upstream\"";
    let house = House::start(Plan { rules, ..Plan::default() }).await;
    house.upstream.answers("/shared", answer("200 OK", &[("Cache-Control", "public, max-age=60")], "hello"));
    let jar = house.signed_in().await;
    let got = house.ask(&Ask::page("/shared/x").jar(&jar)).await.expect(200);
    assert_eq!(got.line("cache-control"), Some("public, max-age=60"));
    house.later(610);
    let got = house.ask(&Ask::page("/shared/x").jar(&jar)).await.expect(200);
    assert!(got.cookie("access_token").is_some());
    assert_eq!(directives(got.line("cache-control")), ["private", "max-age=60", "no-store"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_cookies_ride_on_every_kind_of_answer() {
    let house = House::usual().await;
    for (target, steps, status) in [
        ("/found", vec![Step::ReadBody, Step::Send(answer("302 Found", &[("Location", "/x")], ""))], 302),
        (
            "/same",
            vec![Step::Send(
                b"HTTP/1.1 304 Not Modified\r\nETag: \"v\"\r\nCache-Control: max-age=60\r\n\r\n".to_vec(),
            )],
            304,
        ),
        ("/none", vec![Step::Send(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec())], 204),
        ("/gone", vec![Step::Send(answer("404 Not Found", &[], "no"))], 404),
        ("/broken", vec![Step::Send(answer("500 Oh", &[], "no"))], 500),
        ("/dead", vec![Step::Close], 502),
    ] {
        let jar = house.expired().await;
        house.upstream.on(target, steps);
        let got = house.ask(&Ask::page(target).jar(&jar)).await.expect(status);
        for name in ["access_token", "refresh_token", "session_id", "doorkeep_state"] {
            assert!(got.cookie(name).is_some_and(|value| !value.is_empty()), "{target}: {name}");
        }
        let stored = directives(got.line("cache-control"));
        if status == 304 {
            assert_eq!(
                stored,
                ["private", "max-age=60"],
                "a 304 would take no-store over into what it refreshes"
            );
        } else {
            assert!(stored.contains(&"no-store".to_owned()), "{target}: {stored:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_cookies_are_there_before_the_body_is() {
    let house = House::usual().await;
    let jar = house.expired().await;
    let gate = Gate::closed();
    let head = head_of("200 OK", &[("Content-Length", "10")]);
    house.upstream.on("/cut", vec![Step::Send(head), Step::Wait(gate.clone()), Step::Close]);
    let mut conn = house.conn().await;
    conn.send(&Ask::page("/cut").jar(&jar).bytes()).await;
    let head = conn.head().await.expect("a head, though no body is there yet");
    assert_eq!(head.all("set-cookie").len(), 4);
    gate.open();
    conn.closed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_cannot_set_session_cookies_and_its_others_pass() {
    let house = House::usual().await;
    let lines = [
        ("Set-Cookie", "theirs=1; Path=/; Expires=Wed, 21 Oct 2026 07:28:00 GMT"),
        ("Set-Cookie", "access_token=fixed; Path=/"),
        ("Set-Cookie", "refresh_token =fixed"),
        ("set-cookie", "session_id=; Max-Age=0"),
        ("Set-Cookie", "doorkeep_state=x"),
        ("Set-Cookie", "doorkeep_returns=x"),
        ("Set-Cookie", "access_tokens=2"),
        ("Set-Cookie", "ACCESS_TOKEN=3"),
    ];
    house.upstream.answers("/", answer("200 OK", &lines, "hello"));
    let theirs =
        ["theirs=1; Path=/; Expires=Wed, 21 Oct 2026 07:28:00 GMT", "access_tokens=2", "ACCESS_TOKEN=3"];
    let jar = house.signed_in().await;
    for ask in [Ask::page("/page").jar(&jar), Ask::page("/public/x"), Ask::page("/optional/x")] {
        let got = house.ask(&ask).await.expect(200);
        assert_eq!(got.set_cookies(), theirs);
    }
    house.later(610);
    let got = house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(got.set_cookies()[..3], theirs, "beside ours");
    assert_ne!(got.cookie("access_token"), Some("fixed"));
    assert_eq!(got.set_cookies().len(), 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_cookies_have_the_attributes_that_the_settings_say() {
    let cookies = "domain = \"test.example\"\nsame_site = \"strict\"";
    let house = House::start(Plan { cookies, ..Plan::default() }).await;
    let jar = house.expired().await;
    let got = house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(got.set_cookies().len(), 4);
    for line in got.set_cookies() {
        for attribute in
            ["HttpOnly", "Secure", "SameSite=Strict", "Path=/", "Domain=test.example", "Max-Age=3600"]
        {
            assert!(line.contains(attribute), "{attribute}: {line}");
        }
    }
    house.backend.end(&jar).await;
    house.later(1200);
    let mut new = jar.clone();
    new.take(&got);
    let cleared = house.ask(&Ask::page("/page").jar(&new)).await.expect(302);
    for name in ["access_token", "refresh_token", "session_id", "doorkeep_state"] {
        let line = cleared.set_cookies().into_iter().find(|line| line.starts_with(name)).expect(name);
        assert!(line.contains("Max-Age=0") && line.contains("Domain=test.example"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_public_route_neither_looks_at_a_session_nor_renews_it() {
    let house = House::usual().await;
    let jar = house.expired().await;
    let got = house.ask(&Ask::page("/public/x").jar(&jar)).await.expect(200);
    assert_eq!(got.set_cookies(), NONE);
    assert_eq!(got.line("cache-control"), None);
    assert!(house.backend.calls().is_empty());
}
