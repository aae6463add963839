//! Cookies that contradict each other, and browsers that keep coming back without any.

use crate::support::{Answer, Ask, House, Jar, ORIGIN, Plan};

const NONE: &[&str] = &[];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_values_under_one_name_are_no_session() {
    // Without a domain the host's own cookies are the real ones: deleting them would let a sibling host's win.
    let repaired = ["access_token", "doorkeep_state", "refresh_token", "session_id"];
    for (cookies, deleted) in [("", NONE), ("domain = \"test.example\"", repaired.as_slice())] {
        let house = House::start(Plan { cookies, ..Plan::default() }).await;
        let (mine, other) = (house.signed_in().await, house.backend.sign_in("ravi").await);
        for name in ["access_token", "refresh_token", "session_id"] {
            let line = format!("{}; {name}={}", mine.line().unwrap(), other.get(name).unwrap());
            let page = house.ask(&Ask::page("/page").line("Cookie", &line)).await.expect(302);
            let script = house.ask(&Ask::script("/data").line("Cookie", &line)).await.expect(401);
            let optional = house.ask(&Ask::page("/optional/x").line("Cookie", &line)).await.expect(200);
            assert_eq!(house.upstream.last().line("x-auth-user"), None);
            assert_eq!(house.upstream.last().line("cookie"), None);
            for answer in [&page, &script, &optional] {
                assert_eq!(sorted(answer.deleted()), deleted);
                let deletions = answer.set_cookies().into_iter().filter(|line| line.contains("Max-Age=0"));
                for line in deletions {
                    assert!(!line.contains("Domain"), "the copies of this host alone: {line}");
                }
            }
        }
        assert!(house.backend.calls().is_empty());
    }
}

fn sorted(mut names: Vec<&str>) -> Vec<&str> {
    names.sort_unstable();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_value_twice_is_one() {
    let house = House::usual().await;
    let jar = house.signed_in().await;
    let line = jar.line().unwrap();
    let twice = Ask::page("/page").line("Cookie", &format!("{line}; {line}")).line("Cookie", &line);
    let answer = house.ask(&twice).await.expect(200);
    assert_eq!(answer.set_cookies(), NONE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cookies_in_several_lines_are_one_list() {
    let house = House::usual().await;
    let jar = house.expired().await;
    let mut ask = Ask::page("/page");
    for name in ["access_token", "refresh_token", "session_id"] {
        ask = ask.line("Cookie", &format!("{name}={}", jar.get(name).unwrap()));
    }
    house.ask(&ask).await.expect(200);
    assert_eq!(house.backend.renewals().len(), 1);
}

/// Opens the page as a browser that keeps the counting cookie and never a session.
async fn comes_back(house: &House, jar: &mut Jar, target: &str, with: &str) -> Answer {
    let mut ask = Ask::page(target).with("Sec-Fetch-Site", Some("cross-site"));
    let own = jar.get("doorkeep_returns").map(|value| format!("doorkeep_returns={value}"));
    let line: Vec<String> = own.into_iter().chain((!with.is_empty()).then(|| with.to_owned())).collect();
    if !line.is_empty() {
        ask = ask.line("Cookie", &line.join("; "));
    }
    let answer = house.ask(&ask).await;
    jar.take(&answer);
    answer
}

async fn circles(house: &House, with: &str) -> Answer {
    let mut jar = Jar::default();
    for _ in 0..3 {
        comes_back(house, &mut jar, "/page?x=1", with).await.expect(302);
        house.later(10);
    }
    let stopped = comes_back(house, &mut jar, "/page?x=1", with).await.expect(403);
    assert!(jar.get("doorkeep_returns").is_none(), "the next try counts from the start");
    assert!(stopped.is_never_stored());
    assert!(stopped.text().contains(stopped.line("x-request-id").unwrap()));
    let login = format!("{}?redirect=", crate::support::LOGIN);
    assert!(stopped.text().contains(&login), "there is a way on");
    comes_back(house, &mut jar, "/page?x=1", with).await.expect(302);
    stopped
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_third_return_within_half_a_minute_gets_a_page_that_says_why() {
    let house = House::usual().await;
    let none = circles(&house, "").await;
    assert!(none.text().contains("did not come back"), "{}", none.text());
    let bad = circles(&house, "access_token=garbage").await;
    assert!(bad.text().contains("does not accept"), "{}", bad.text());
    let two = circles(&house, "access_token=a; access_token=b").await;
    assert!(two.text().contains("two different"), "{}", two.text());
    let over = house.expired().await.get("access_token").unwrap().to_owned();
    let over = circles(&house, &format!("access_token={over}")).await;
    assert!(over.text().contains("already over"), "{}", over.text());
    assert_eq!(house.upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slower_returns_and_other_pages_are_no_loop() {
    let house = House::usual().await;
    let mut jar = Jar::default();
    for _ in 0..3 {
        comes_back(&house, &mut jar, "/page", "").await.expect(302);
    }
    house.later(31);
    comes_back(&house, &mut jar, "/page", "").await.expect(302);
    let mut jar = Jar::default();
    for n in 0..9 {
        let target = format!("/page/{n}");
        let answer = comes_back(&house, &mut jar, &target, "").await.expect(302);
        let location = answer.line("location").unwrap().to_owned();
        let url = url::Url::parse(&location).unwrap();
        assert_eq!(url.query_pairs().next().unwrap().1, format!("{ORIGIN}{target}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_typed_again_and_again_is_no_loop() {
    let house = House::usual().await;
    let mut jar = Jar::default();
    for _ in 0..9 {
        let answer = house.ask(&Ask::page("/page").jar(&jar)).await.expect(302);
        jar.take(&answer);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_is_shown_ends_the_count() {
    let house = House::usual().await;
    let mut jar = Jar::default();
    for _ in 0..2 {
        comes_back(&house, &mut jar, "/page", "").await.expect(302);
    }
    let session = house.signed_in().await.line().unwrap();
    let shown = comes_back(&house, &mut jar, "/page", &session).await.expect(200);
    assert_eq!(shown.deleted(), ["doorkeep_returns"]);
    for _ in 0..3 {
        comes_back(&house, &mut jar, "/page", "").await.expect(302);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_count_is_a_cookie_of_this_host_alone_and_short_lived() {
    let house = House::start(Plan { cookies: r#"domain = "test.example""#, ..Plan::default() }).await;
    let answer = house.ask(&Ask::page("/page")).await.expect(302);
    let line = answer.set_cookies()[0];
    assert!(line.starts_with("doorkeep_returns="), "{line}");
    assert!(!line.contains("Domain") && line.contains("Max-Age=30") && line.contains("HttpOnly"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cookies_go_by_the_names_that_the_settings_say() {
    let cookies =
        "access = \"__Host-at\"\nrefresh = \"__Host-rt\"\nsession = \"__Host-sid\"\nstate = \"__Host-st\"";
    let house = House::start(Plan { cookies, ..Plan::default() }).await;
    let jar = house.expired().await;
    let line = format!(
        "__Host-at={}; __Host-rt={}; __Host-sid={}; access_token=theirs",
        jar.get("access_token").unwrap(),
        jar.get("refresh_token").unwrap(),
        jar.get("session_id").unwrap()
    );
    let answer = house.ask(&Ask::page("/page").line("Cookie", &line)).await.expect(200);
    assert!(answer.cookie("__Host-at").is_some());
    assert!(answer.set_cookies().iter().all(|line| line.starts_with("__Host-") && !line.contains("Domain")));
    assert_eq!(house.upstream.last().line("cookie"), Some("access_token=theirs"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cookie_that_is_too_large_or_strange_is_no_token_and_no_harm() {
    let house = House::usual().await;
    for value in
        ["x".repeat(7_000), "\"quoted\"".into(), "a b".into(), "\u{fc}".into(), "a,b".into(), String::new()]
    {
        let line = format!(
            "access_token={value}; refresh_token={value}; session_id=../../x; doorkeep_state={value}"
        );
        house.ask(&Ask::page("/page").line("Cookie", &line)).await.expect(302);
    }
    assert!(house.backend.calls().is_empty());
}
