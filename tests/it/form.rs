//! Signing in at the gateway's own page, with a real directory behind it.

use std::sync::Arc;
use std::time::Duration;

use doorkeep::assemble::Doorkeep;
use doorkeep::clock::{ManualClock, Stopwatch};
use doorkeep::config::Settings;
use serde_json::json;
use url::Url;

use crate::support::egov::Egov;
use crate::support::house::{OWN_SECRET, START};
use crate::support::{Answer, Ask, Fault, Gate, HOST, House, Jar, ORIGIN, Plan, Program, Spent, Step, ok};

const NONE: &[&str] = &[];
const SIGN_IN: &str = "/.doorkeep/sign-in";
const MARK: &str = "__Host-doorkeep_form";
const RIGHT: (&str, &str) = ("asha", "demo-asha");

async fn house() -> House {
    with("").await
}

/// A house with these lines under `[login]`.
async fn with(login: &str) -> House {
    start(login, Plan::default()).await
}

async fn start(login: &str, plan: Plan<'_>) -> House {
    let login = format!("mode = \"form\"\n{login}");
    House::start(Plan { login: &login, ..plan }).await
}

fn encode(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn unescape(text: &str) -> String {
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'");
    text.replace("&amp;", "&")
}

/// What stands behind `name="…"` of the page's tag with `mark` in it.
fn attribute(page: &str, mark: &str, name: &str) -> String {
    let tag = page.split('<').find(|tag| tag.contains(mark)).unwrap_or_else(|| panic!("{mark} in\n{page}"));
    let begin = format!("{name}=\"");
    let value = tag.split(&begin).nth(1).and_then(|rest| rest.split('"').next());
    unescape(value.unwrap_or_else(|| panic!("{name} in {tag}")))
}

/// A browser with the page open.
#[derive(Clone, Debug)]
struct Visitor {
    jar: Jar,
    action: String,
    form: String,
}

impl Visitor {
    async fn open(house: &House, redirect: &str) -> Self {
        Self::reopen(house, redirect, Jar::default()).await
    }

    async fn reopen(house: &House, redirect: &str, mut jar: Jar) -> Self {
        let ask = Ask::page(&format!("{SIGN_IN}?redirect={}", encode(redirect))).jar(&jar);
        let answer = house.ask(&ask).await.expect(200);
        jar.take(&answer);
        Self::of(&answer, jar)
    }

    fn of(answer: &Answer, jar: Jar) -> Self {
        let page = answer.text();
        let action = attribute(&page, "<form".trim_start_matches('<'), "action");
        Self { jar, action, form: attribute(&page, "name=\"form\"", "value") }
    }

    fn body(&self, user: &str, password: &str) -> String {
        format!("form={}&user={}&password={}", encode(&self.form), encode(user), encode(password))
    }

    fn send(&self, (user, password): (&str, &str)) -> Ask {
        let ask = Ask::form(&self.action, &self.body(user, password));
        ask.line("Origin", ORIGIN).jar(&self.jar)
    }
}

fn sets_no_session(answer: &Answer) {
    for name in ["access_token", "refresh_token", "session_id", "doorkeep_state"] {
        assert_eq!(answer.cookie(name), None);
    }
}

/// The page as it is for everybody: without what differs each time.
fn told(answer: &Answer, user: &str) -> String {
    let page = answer.text();
    let parts = [attribute(&page, "name=\"form\"", "value"), answer.line("x-request-id").unwrap().to_owned()];
    let page = parts.iter().fold(page, |page, part| page.replace(part.as_str(), "…"));
    page.replace(&format!("value=\"{user}\""), "value=\"…\"")
}

fn shows(answer: &Answer, text: &str) {
    let alert = answer.text().split("role=\"alert\">").nth(1).map(str::to_owned);
    let alert = alert.unwrap_or_else(|| panic!("no alert in {}", answer.text()));
    assert!(alert.split('<').next().unwrap().contains(text), "{text} in {alert}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signing_in_leads_back_to_the_very_page_and_the_session_is_kept_from_then_on() {
    let house = house().await;
    let target = "/a%20b/c?q=1&r=%2Fx%26y&s=a+b";
    let sent = house.ask(&Ask::page(target)).await.expect(302);
    let login = Url::parse(sent.line("location").unwrap()).unwrap();
    assert!(login.as_str().starts_with(&format!("{ORIGIN}{SIGN_IN}?redirect=")), "{login}");
    let mut jar = Jar::default();
    jar.take(&sent);
    let page = house.ask(&Ask::page(&login.as_str()[ORIGIN.len()..]).jar(&jar)).await.expect(200);
    jar.take(&page);
    assert!(page.is_never_stored());
    let policy = page.line("content-security-policy").unwrap();
    for part in ["default-src 'none'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"] {
        assert!(policy.split("; ").any(|directive| directive == part), "{part} in {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert!(!page.text().contains("<script"));
    let visitor = Visitor::of(&page, jar.clone());

    let answer = house.ask(&visitor.send(RIGHT)).await.expect(303);
    assert_eq!(answer.line("location"), Some(format!("{ORIGIN}{target}").as_str()));
    assert!(answer.is_never_stored());
    for name in ["access_token", "refresh_token", "session_id", "doorkeep_state"] {
        let line = answer.set_cookies().into_iter().find(|line| line.starts_with(name)).expect(name);
        for attribute in ["Max-Age=3600", "Path=/", "HttpOnly", "Secure", "SameSite=Lax"] {
            assert!(line.split("; ").any(|part| part == attribute), "{line}");
        }
    }
    jar.take(&answer);
    let arrived =
        house.ask(&Ask::page(target).with("Sec-Fetch-Site", Some("same-origin")).jar(&jar)).await.expect(200);
    assert_eq!(arrived.deleted(), ["doorkeep_returns"]);
    jar.take(&arrived);
    assert!(house.upstream.last().line("x-auth-user").is_some());
    assert_eq!(house.upstream.last().line("cookie"), None, "no cookie of ours reaches the app");
    house.later(610);
    jar.take(&house.ask(&Ask::page("/page").jar(&jar)).await.expect(200));
    house.later(610);
    house.ask(&Ask::script("/data").jar(&jar)).await.expect(200);
    assert_eq!((house.backend.renewals().len(), house.backend.reuses()), (2, 0));
    assert_eq!(house.door().meters.sign_ins("signed_in"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_and_a_form_are_told_where_to_sign_in() {
    let house = house().await;
    let page = format!("{ORIGIN}/list?page=2");
    let login = format!("{ORIGIN}{SIGN_IN}?redirect=https%3A%2F%2Fapp.test.example%2Flist%3Fpage%3D2");
    let script = house.ask(&Ask::script("/api").line("Referer", &page)).await.expect(401);
    assert_eq!(script.json()["login"], json!(login));
    let form = house.ask(&Ask::form("/api", "x=1").line("Referer", &page)).await.expect(303);
    assert_eq!(form.line("location"), Some(login.as_str()));
    house.ask(&Ask::websocket("/socket")).await.expect(401);
    assert_eq!(house.upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_can_be_corrected_and_is_never_shown() {
    let house = house().await;
    let mut visitor = Visitor::open(&house, "/page?x=1").await;
    let answer = house.ask(&visitor.send(("asha", "not it <\">"))).await.expect(422);
    shows(&answer, "user name or password is not right");
    sets_no_session(&answer);
    assert!(answer.is_never_stored());
    let page = answer.text();
    assert_eq!(attribute(&page, "id=\"user\"", "value"), "asha");
    assert!(!page.contains("not it"), "{page}");
    assert!(page.contains("<title>Error: Sign in"));
    visitor = Visitor::of(&answer, visitor.jar);
    let answer = house.ask(&visitor.send((" Asha ", "demo-asha"))).await.expect(303);
    assert_eq!(answer.line("location"), Some(format!("{ORIGIN}/page?x=1").as_str()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_tells_whether_a_user_exists() {
    let house = with("limit = { client = \"100 per 1m\", user = \"3 per 1m\" }").await;
    let mut seen = Vec::new();
    for user in ["asha", "ravi", "nobody", "asha@example.org", "nobody@example.org"] {
        let visitor = Visitor::open(&house, "/page").await;
        let mut one = Vec::new();
        for status in [422, 422, 422, 429, 429] {
            let answer = house.ask(&visitor.send((user, "wrong"))).await.expect(status);
            let line = |name: &str| answer.line(name).map(str::to_owned);
            one.push((
                told(&answer, user),
                line("retry-after"),
                answer.set_cookies().len(),
                line("content-length").is_some(),
            ));
        }
        seen.push(one);
    }
    for other in &seen[1..] {
        assert_eq!(other, &seen[0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_sites_page_signs_nobody_in() {
    let house = house().await;
    let visitor = Visitor::open(&house, "/page").await;
    let right = || visitor.send(RIGHT);
    let without = |name: &str| right().with(name, None);
    let evil = "https://evil.example";
    for ask in [
        right().with("Sec-Fetch-Site", Some("cross-site")),
        right().with("Sec-Fetch-Site", Some("same-site")),
        right().with("Sec-Fetch-Site", Some("cross-site")).with("Origin", None),
        right().with("Origin", Some(evil)),
        right().with("Origin", Some("https://other.test.example")),
        right().line("Origin", evil),
        without("Sec-Fetch-Site").with("Origin", Some(evil)),
        without("Sec-Fetch-Site").with("Origin", Some("null")),
    ] {
        let answer = house.ask(&ask).await.expect(403);
        assert_eq!(answer.set_cookies(), NONE, "{ask:?}");
        assert!(!answer.text().contains("<form"));
    }
    assert_eq!(house.door().meters.sign_ins("cross_site"), 8);
    assert!(house.backend.calls().is_empty());
    house.ask(&without("Sec-Fetch-Site").with("Origin", None)).await.expect(303);
    house.ask(&right().with("Origin", Some("null"))).await.expect(303);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_counts_in_the_browser_that_it_was_shown_to_and_not_for_ever() {
    let second = "[[site]]\nhost = \"two.test.example\"\norigin = \"https://two.test.example\"\nupstream = [\"http://127.0.0.1:9\"]";
    let house = start("", Plan { rules: second, ..Plan::default() }).await;
    let (visitor, other) = (Visitor::open(&house, "/page").await, Visitor::open(&house, "/page").await);
    assert!(visitor.jar.get(MARK).is_some() && visitor.jar.get(MARK) != other.jar.get(MARK));
    let elsewhere = Ask::page(SIGN_IN).with("Host", Some("two.test.example"));
    let elsewhere = house.ask(&elsewhere).await.expect(200);
    let line = elsewhere.set_cookies()[0].to_owned();
    for attribute in ["Path=/", "HttpOnly", "Secure", "SameSite=Lax", "Max-Age=7200"] {
        assert!(line.split("; ").any(|part| part == attribute), "{line}");
    }
    assert!(line.starts_with(MARK) && !line.contains("Domain"), "{line}");
    let mut of_two = Jar::default();
    of_two.take(&elsewhere);
    let of_two = Visitor::of(&elsewhere, of_two);

    let jar = |jar: &Jar| Visitor { jar: jar.clone(), ..visitor.clone() };
    let form = |form: &str| Visitor { form: form.to_owned(), ..visitor.clone() };
    let mut double = visitor.jar.line().unwrap();
    double.push_str(&format!("; {MARK}={}", other.jar.get(MARK).unwrap()));
    let strange = [
        jar(&Jar::default()).send(RIGHT),
        jar(&other.jar).send(RIGHT),
        jar(&of_two.jar).send(RIGHT),
        form(&other.form).send(RIGHT),
        form(&of_two.form).send(RIGHT),
        form(visitor.jar.get(MARK).unwrap()).send(RIGHT),
        form("").send(RIGHT),
        of_two.send(RIGHT),
        visitor.send(RIGHT).with("Cookie", Some(&double)),
    ];
    for ask in strange {
        let answer = house.ask(&ask).await.expect(403);
        sets_no_session(&answer);
        assert_eq!(attribute(&answer.text(), "id=\"user\"", "value"), "asha", "{ask:?}");
        assert!(!answer.text().contains("demo-asha"));
    }
    shows(&house.ask(&jar(&Jar::default()).send(RIGHT)).await.expect(403), "Allow cookies");
    assert!(house.backend.calls().is_empty());
    house.ask(&visitor.send(RIGHT)).await.expect(303);
    house.later(3600);
    let late = house.ask(&visitor.send(RIGHT)).await.expect(403);
    shows(&late, "open for too long");
    let mut again = Visitor::of(&late, visitor.jar.clone());
    again.jar.take(&late);
    house.ask(&again.send(RIGHT)).await.expect(303);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tabs_can_be_sent_in_any_order() {
    let house = house().await;
    let first = Visitor::open(&house, "/one").await;
    let second = Visitor::reopen(&house, "/two", first.jar.clone()).await;
    assert_eq!(first.jar, second.jar, "they share the browser's mark");
    for (tab, page) in [(&second, "/two"), (&first, "/one")] {
        let answer = house.ask(&tab.send(RIGHT)).await.expect(303);
        assert_eq!(answer.line("location"), Some(format!("{ORIGIN}{page}").as_str()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_goes_back_to_another_site() {
    let site = "trusted_origins = [\"https://listed.test.example\"]";
    let house = start("", Plan { site, ..Plan::default() }).await;
    let root = format!("{ORIGIN}/");
    for (text, wanted) in [
        ("//evil.example", root.as_str()),
        ("///evil.example", &root),
        ("/\\evil.example", &root),
        ("\\\\evil.example", &root),
        ("/\t/evil.example", &root),
        ("/\r\nSet-Cookie: a=b", &root),
        ("https://evil.example", &root),
        ("https:evil.example", &root),
        ("https://app.test.example.evil.example", &root),
        ("https://app.test.example@evil.example", &root),
        ("http://app.test.example/", &root),
        ("javascript:alert(1)", &root),
        ("data:text/html,x", &root),
        ("%2F%2Fevil.example", &root),
        ("", &root),
        ("/.doorkeep/sign-out", &root),
        ("/x/../.doorkeep/sign-in?redirect=/y", &root),
        ("https://app.test.example/.doorkeep/sign-in", &root),
        ("/bye?x=1&y=%2F", "https://app.test.example/bye?x=1&y=%2F"),
        ("https://app.test.example/bye#there", "https://app.test.example/bye#there"),
        ("/.//evil.example", "https://app.test.example//evil.example"),
        ("https://listed.test.example/x", "https://listed.test.example/x"),
    ] {
        let visitor = Visitor::open(&house, text).await;
        assert!(visitor.action.starts_with(SIGN_IN), "{}", visitor.action);
        let answer = house.ask(&visitor.send(RIGHT)).await.expect(303);
        assert_eq!(answer.line("location"), Some(wanted), "{text:?}");
    }
    let page = house.ask(&Ask::page(SIGN_IN)).await.expect(200);
    let policy = page.line("content-security-policy").unwrap();
    assert!(policy.ends_with("form-action 'self' https://listed.test.example"), "{policy}");
    let twice = house.ask(&Ask::page(&format!("{SIGN_IN}?redirect=/a&redirect=/b"))).await.expect(200);
    assert_eq!(attribute(&twice.text(), "form", "action"), SIGN_IN);
    let visitor = Visitor::open(&house, "/page").await;
    let moved = Visitor { action: format!("{SIGN_IN}?redirect=//evil.example"), ..visitor };
    let answer = house.ask(&moved.send(RIGHT)).await.expect(303);
    assert_eq!(answer.line("location"), Some(root.as_str()), "it is checked again when it comes back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_comes_in_is_markup() {
    let house = house().await;
    let hostile = "\"><script>alert(1)</script><x y='";
    let target = format!("{SIGN_IN}?redirect={}", encode(&format!("/{hostile}")));
    let page = house.ask(&Ask::page(&target)).await.expect(200);
    assert!(!page.text().contains("<script") && !page.text().contains("<x"), "{}", page.text());
    let visitor = Visitor::open(&house, "/page").await;
    for user in [hostile, "{{form}}", "javascript:alert(1)", "&quot;>"] {
        let answer = house.ask(&visitor.send((user, "wrong"))).await.expect(422);
        assert_eq!(attribute(&answer.text(), "id=\"user\"", "value"), user);
        assert!(!answer.text().contains("<script") && !answer.text().contains("<x"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_no_form_sends_are_refused() {
    let house = start("", Plan { listen: "body_idle = \"300ms\"", ..Plan::default() }).await;
    let visitor = Visitor::open(&house, "/page").await;
    let with_body = |body: &[u8]| Ask { body: Some(body.to_vec()), ..visitor.send(RIGHT) };
    let right = visitor.body("asha", "demo-asha");
    let more = |text: &str| format!("{right}&{text}").into_bytes();
    for (body, status) in [
        (more("user=asha"), 400),
        (more("password=x"), 400),
        (more("form=x"), 400),
        (more(&format!("padding={}", "x".repeat(16 * 1024))), 413),
        (b"user=%ff&password=x".to_vec(), 400),
        (b"user=a%00b&password=x".to_vec(), 400),
        (b"user=a%0d%0ab&password=x".to_vec(), 400),
        (vec![0xff, 0xfe, 0x00, b'='], 400),
        (format!("user={}", "x".repeat(300)).into_bytes(), 400),
    ] {
        let answer = house.ask(&with_body(&body)).await.expect(status);
        sets_no_session(&answer);
        assert_eq!(answer.line("connection"), Some("close"));
    }
    for kind in ["text/plain", "multipart/form-data; boundary=x", "application/json", ""] {
        house.ask(&visitor.send(RIGHT).with("Content-Type", Some(kind))).await.expect(415);
    }
    for (user, password) in [("", "x"), ("asha", ""), ("  ", "x")] {
        let answer = house.ask(&visitor.send((user, password))).await.expect(422);
        shows(&answer, "left empty");
    }
    assert!(house.backend.calls().is_empty());
    let charset = "application/x-www-form-urlencoded; charset=UTF-8";
    house.ask(&visitor.send(RIGHT).with("Content-Type", Some(charset))).await.expect(303);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_that_does_not_come_is_not_waited_for() {
    let house = start("", Plan { listen: "body_idle = \"400ms\"", ..Plan::default() }).await;
    let visitor = Visitor::open(&house, "/page").await;
    let whole = visitor.send(RIGHT).bytes();
    let mut still = house.conn().await;
    still.send(&whole[..whole.len() - 3]).await;
    still.answer("POST").await.expect(408);
    // Something comes all the time, and still no end.
    let mut slow = house.conn().await;
    let (head, rest) = whole.split_at(whole.len() - 40);
    slow.send(head).await;
    for byte in rest.iter().take(30) {
        slow.send_if_wanted(&[*byte]).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    slow.answer("POST").await.expect(408);
    assert!(house.backend.calls().is_empty());
    // Without an end that is told.
    let endless = visitor.send(RIGHT).with("Content-Length", None).line("Transfer-Encoding", "chunked");
    let head = String::from_utf8(Ask { body: None, ..endless }.bytes()).unwrap();
    let mut chunks = house.conn().await;
    chunks.send(head.as_bytes()).await;
    for _ in 0..20 {
        chunks.send_if_wanted(format!("400\r\n{}\r\n", "x".repeat(1024)).as_bytes()).await;
    }
    chunks.answer("POST").await.expect(413);
}

/// Somebody at this address, behind a proxy that is believed.
fn from(address: &str, ask: Ask) -> Ask {
    ask.line("X-Forwarded-For", address)
}

async fn behind_a_proxy(login: &str) -> House {
    start(login, Plan { listen: "trusted = [\"127.0.0.0/8\"]", ..Plan::default() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guessing_is_stopped_where_it_comes_from_and_the_user_signs_in_from_elsewhere() {
    let house = behind_a_proxy("limit = { client = \"100 per 1m\", user = \"3 per 10m\" }").await;
    let visitor = Visitor::open(&house, "/page").await;
    let (attacker, user) = ("192.0.2.66", "198.51.100.7");
    for name in ["asha", "ASHA", " Asha "] {
        house.ask(&from(attacker, visitor.send((name, "guess")))).await.expect(422);
    }
    let asked = house.backend.calls().len();
    let answer = house.ask(&from(attacker, visitor.send(RIGHT))).await.expect(429);
    shows(&answer, "too many attempts");
    assert_eq!(answer.line("retry-after"), Some("200"));
    sets_no_session(&answer);
    assert_eq!(house.backend.calls().len(), asked, "the backend is not asked");
    house.ask(&from(attacker, visitor.send(("ravi", "demo-ravi")))).await.expect(303);
    house.ask(&from(attacker, visitor.send(RIGHT))).await.expect(429);
    // Now that it has been guessed at, the user waits a little.
    let took = Stopwatch::start();
    house.ask(&from(user, visitor.send(RIGHT))).await.expect(303);
    assert!(took.elapsed() >= Duration::from_millis(990), "{:?}", took.elapsed());
    house.later(200);
    house.ask(&from(attacker, visitor.send(RIGHT))).await.expect(303);
    assert_eq!(house.door().meters.sign_ins("limited"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_tries_many_names_is_stopped() {
    let house = behind_a_proxy("limit = { client = \"5 per 1m\", user = \"100 per 1m\" }").await;
    let visitor = Visitor::open(&house, "/page").await;
    for n in 0..5 {
        let answer =
            house.ask(&from(&format!("2001:db8:0:1::{n}"), visitor.send((&format!("user{n}"), "x")))).await;
        answer.expect(422);
    }
    let answer = house.ask(&from("2001:db8:0:1:ffff::9", visitor.send(RIGHT))).await.expect(429);
    assert_eq!(answer.line("retry-after"), Some("12"));
    house.ask(&from("2001:db8:0:2::1", visitor.send(RIGHT))).await.expect(303);
    house.later(12);
    house.ask(&from("2001:db8:0:1::1", visitor.send(RIGHT))).await.expect(303);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_says_of_its_address_does_not_help_it() {
    let house = with("limit = { client = \"2 per 1m\" }").await;
    let visitor = Visitor::open(&house, "/page").await;
    for (n, status) in [(1, 422), (2, 422), (3, 429), (4, 429)] {
        house.ask(&from(&format!("192.0.2.{n}"), visitor.send(("asha", "x")))).await.expect(status);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_failures_count() {
    let house = with("limit = { client = \"2 per 1h\", user = \"2 per 1h\" }").await;
    let visitor = Visitor::open(&house, "/page").await;
    for _ in 0..5 {
        house.ask(&visitor.send(RIGHT)).await.expect(303);
        house.ask(&visitor.send(("asha", ""))).await.expect(422);
        house.ask(&Visitor { form: String::new(), ..visitor.clone() }.send(RIGHT)).await.expect(403);
    }
    house.ask(&visitor.send(("asha", "wrong"))).await.expect(422);
    house.ask(&visitor.send(RIGHT)).await.expect(303);
    house.ask(&visitor.send(("asha", "wrong"))).await.expect(422);
    house.ask(&visitor.send(RIGHT)).await.expect(429);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_guesses_are_no_more_than_single_ones() {
    let house = with("limit = { client = \"100 per 1h\", user = \"4 per 1h\" }").await;
    let visitor = Visitor::open(&house, "/page").await;
    let gate = Gate::closed();
    house.backend.fails(Fault::Late(gate.clone()));
    let mut conns = Vec::new();
    for _ in 0..20 {
        let mut conn = house.conn().await;
        conn.send(&visitor.send(("asha", "guess")).bytes()).await;
        conns.push(conn);
    }
    gate.reached_by(4).await;
    gate.open();
    let mut statuses = Vec::new();
    for conn in &mut conns {
        statuses.push(conn.answer("POST").await.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [vec![422; 4], vec![429; 16]].concat());
    assert_eq!(house.backend.calls().len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_backend_is_away_nothing_is_lost_and_nothing_counted() {
    let plan = Plan { renew: "timeout = \"300ms\"", ..Plan::default() };
    let house = start("limit = { client = \"2 per 1h\", user = \"2 per 1h\" }", plan).await;
    let visitor = Visitor::open(&house, "/page?x").await;
    let page = || vec![("Content-Type", "text/html".to_owned())];
    let faults = [
        Fault::Says(500, Vec::new(), "<html>".into()),
        Fault::Says(502, page(), "<html>".into()),
        Fault::Says(429, Vec::new(), String::new()),
        Fault::Says(302, vec![("Location", "https://evil.example/".to_owned())], String::new()),
        Fault::Says(200, page(), "<html>".into()),
        Fault::HalfJson(Spent::No),
        Fault::Cut(Spent::No),
        Fault::Huge(Spent::No),
        Fault::Silence(Spent::No),
        Fault::Answers(json!({"isSuccess": true})),
        Fault::Answers(
            json!({"isSuccess": true, "data": {"id": "x", "token": "a b", "refresh": {"token": "y"}}}),
        ),
    ];
    for fault in faults {
        let shown = format!("{fault:?}");
        house.backend.fails_next(fault);
        let answer = house.ask(&visitor.send(RIGHT)).await;
        assert_eq!(answer.status, 503, "{shown}");
        shows(&answer, "try again");
        assert!(answer.line("retry-after").is_some());
        sets_no_session(&answer);
        let form = answer.text();
        assert_eq!(attribute(&form, "id=\"user\"", "value"), "asha");
        assert!(!form.contains("demo-asha") && !form.contains("evil"));
        assert_eq!(Visitor::of(&answer, Jar::default()).action, visitor.action);
    }
    house.backend.close().await;
    house.ask(&visitor.send(RIGHT)).await.expect(503);
    house.backend.open();
    house.ask(&visitor.send(RIGHT)).await.expect(303);
    assert_eq!(house.door().meters.sign_ins("connect"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_do_not_verify_make_no_session() {
    let house = house().await;
    let visitor = Visitor::open(&house, "/page").await;
    let opaque =
        json!({"isSuccess": true, "data": {"id": "x", "token": "opaque", "refresh": {"token": "y"}}});
    for fault in [Fault::Resigned("not-the-access-secret-of-these-tests-01234"), Fault::Answers(opaque)] {
        house.backend.fails_next(fault);
        let answer = house.ask(&visitor.send(RIGHT)).await.expect(500);
        assert_eq!(answer.set_cookies(), NONE);
        assert!(answer.text().contains("Its settings have to be corrected"), "{}", answer.text());
    }
    // A token that is over when it comes is no session either.
    house.clock.set(doorkeep::clock::UnixTime::from_secs(1_800_000_000));
    let over = crate::support::token::signed(&json!({"userId": "u", "sessionId": "x", "iat": 1, "exp": 2}));
    house.backend.fails_next(Fault::Answers(
        json!({"isSuccess": true, "data": {"id": "x", "token": over, "refresh": {"token": "y"}}}),
    ));
    house.ask(&visitor.send(RIGHT)).await.expect(500);
    assert_eq!(house.door().meters.sign_ins("unverifiable"), 3);
    house.ask(&visitor.send(RIGHT)).await.expect(303);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_double_click_signs_in() {
    let house = house().await;
    let visitor = Visitor::open(&house, "/page").await;
    let gate = Gate::closed();
    for _ in 0..2 {
        house.backend.fails_next(Fault::Late(gate.clone()));
    }
    let (mut first, mut second) = (house.conn().await, house.conn().await);
    first.send(&visitor.send(RIGHT).bytes()).await;
    second.send(&visitor.send(RIGHT).bytes()).await;
    gate.reached_by(2).await;
    gate.open();
    for conn in [&mut first, &mut second] {
        let answer = conn.answer("POST").await.expect(303);
        let mut jar = visitor.jar.clone();
        jar.take(&answer);
        house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    }
    // The first click's browser may have its cookies already when the second is sent.
    let mut jar = visitor.jar.clone();
    jar.take(&house.ask(&visitor.send(RIGHT)).await.expect(303));
    let again = Visitor { jar: jar.clone(), ..visitor };
    let answer = house.ask(&again.send(RIGHT)).await.expect(303);
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    jar.take(&answer);
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_that_hangs_up_leaves_nothing_behind() {
    let house = with("limit = { client = \"2 per 1h\" }").await;
    let visitor = Visitor::open(&house, "/page").await;
    let gate = Gate::closed();
    house.backend.fails_next(Fault::Late(gate.clone()));
    let mut conn = house.conn().await;
    conn.send(&visitor.send(RIGHT).bytes()).await;
    gate.reached_by(1).await;
    drop(conn);
    crate::support::until("the gateway to notice", || house.door().meters.connections.get() == 0).await;
    gate.open();
    house.ask(&visitor.send(("asha", "wrong"))).await.expect(422);
    house.ask(&visitor.send(RIGHT)).await.expect(429);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_signed_in_already_goes_on() {
    let house = house().await;
    let jar = house.signed_in().await;
    let ask = |jar: &Jar| Ask::page(&format!("{SIGN_IN}?redirect=/page")).jar(jar);
    let answer = house.ask(&ask(&jar)).await.expect(303);
    assert_eq!(answer.line("location"), Some(format!("{ORIGIN}/page").as_str()));
    assert!(answer.is_never_stored());
    let head = house.ask(&ask(&jar).method("HEAD")).await.expect(303);
    assert!(head.body.is_empty());
    house.ask(&Ask::form("/.doorkeep/sign-out", "").jar(&jar)).await.expect(303);
    house.ask(&ask(&jar)).await.expect(200);
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(302);
    let expired = house.expired().await;
    house.ask(&ask(&expired)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signing_out_ends_at_the_page_and_somebody_else_can_sign_in() {
    let house = house().await;
    let visitor = Visitor::open(&house, "/page").await;
    let mut jar = visitor.jar.clone();
    jar.take(&house.ask(&visitor.send(RIGHT)).await.expect(303));
    let asha = jar.clone();
    let out = house.ask(&Ask::form("/.doorkeep/sign-out", "").jar(&jar)).await.expect(303);
    jar.take(&out);
    assert_eq!(jar.session(), [None; 3]);
    let root = Url::parse(ORIGIN).unwrap().join(out.line("location").unwrap()).unwrap();
    let sent = house.ask(&Ask::page(root.path()).jar(&jar)).await.expect(302);
    let login = sent.line("location").unwrap().strip_prefix(ORIGIN).unwrap().to_owned();
    jar.take(&sent);
    let page = house.ask(&Ask::page(&login).jar(&jar)).await.expect(200);
    let visitor = Visitor::of(&page, jar.clone());
    jar.take(&house.ask(&visitor.send(("ravi", "demo-ravi"))).await.expect(303));
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(house.upstream.last().line("x-auth-role"), Some("clerk"));
    house.ask(&Ask::page("/page").jar(&asha)).await.expect(302);
    jar.take(&house.ask(&Visitor { jar: jar.clone(), ..visitor }.send(RIGHT)).await.expect(303));
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(house.upstream.last().line("x-auth-role"), Some("admin"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_answer_to_the_old_user_does_not_take_the_new_users_place() {
    let house = start("", Plan { renew: "attach = \"10s\"", ..Plan::default() }).await;
    let old = house.due().await;
    let app = Gate::closed();
    house.upstream.on("/slow", vec![Step::Wait(app.clone()), Step::Send(ok("slow"))]);
    let mut late = house.conn().await;
    late.send(&Ask::page("/slow").jar(&old).bytes()).await;
    app.reached_by(1).await;
    crate::support::until("the flight's end", || house.door().meters.renewals("renewed") == 1).await;
    let mut visitor = Visitor::open(&house, "/page").await;
    for (name, value) in
        ["access_token", "refresh_token", "session_id"].map(|name| (name, old.get(name).unwrap()))
    {
        visitor.jar.set(name, value);
    }
    let mut jar = visitor.jar.clone();
    jar.take(&house.ask(&visitor.send(("ravi", "demo-ravi"))).await.expect(303));
    app.open();
    let answer = late.answer("GET").await.expect(200);
    assert_eq!(answer.set_cookies(), NONE);
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(house.upstream.last().line("x-auth-role"), Some("clerk"));
    house.ask(&Ask::page("/page").jar(&old)).await.expect(302);
    assert!(house.backend.sign_outs().is_empty(), "at the backend it goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_presents_anothers_session_id_sets_nobody_aside() {
    let house = house().await;
    let (victim, own) = (house.signed_in().await, house.backend.sign_in("ravi").await);
    for name in ["session_id", "refresh_token"] {
        let mut visitor = Visitor::open(&house, "/page").await;
        for own_name in ["access_token", "refresh_token", "session_id"] {
            visitor.jar.set(own_name, own.get(own_name).unwrap());
        }
        visitor.jar.set(name, victim.get(name).unwrap());
        house.ask(&visitor.send(RIGHT)).await.expect(303);
        visitor.jar = visitor.jar.without("access_token");
        house.ask(&visitor.send(RIGHT)).await.expect(303);
        if name == "session_id" {
            house.ask(&Ask::page("/page").jar(&victim)).await.expect(200);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_that_keeps_no_session_is_told_at_once() {
    let house = house().await;
    let sent = house.ask(&Ask::page("/page?x=%27'")).await.expect(302);
    let mut jar = Jar::default();
    jar.take(&sent);
    let login = sent.line("location").unwrap().strip_prefix(ORIGIN).unwrap().to_owned();
    let page = house.ask(&Ask::page(&login).jar(&jar)).await.expect(200);
    jar.take(&page);
    let answer = house.ask(&Visitor::of(&page, jar.clone()).send(RIGHT)).await.expect(303);
    jar.take(&answer);
    for name in ["access_token", "refresh_token", "session_id", "doorkeep_state"] {
        jar = jar.without(name);
    }
    let target = answer.line("location").unwrap().strip_prefix(ORIGIN).unwrap().to_owned();
    let back = Ask::page(&target).with("Sec-Fetch-Site", Some("same-origin")).jar(&jar);
    let stopped = house.ask(&back).await.expect(403);
    assert!(stopped.text().contains("the session cookies did not come back with you"), "{}", stopped.text());
    assert!(stopped.text().contains(&format!("href=\"{ORIGIN}{SIGN_IN}?redirect=")));
    jar.take(&stopped);
    house.ask(&Ask::page(&target).jar(&jar)).await.expect(302);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_of_cookies_go_and_the_new_ones_stay() {
    // Without a domain what is set takes the place of the host's own copy.
    for (cookies, deletions) in [("", 0), ("domain = \"test.example\"", 1)] {
        let house = start("", Plan { cookies, ..Plan::default() }).await;
        let visitor = Visitor::open(&house, "/page").await;
        let line = format!("{}; access_token=a; access_token=b", visitor.jar.line().unwrap());
        let answer = house.ask(&visitor.send(RIGHT).with("Cookie", Some(&line))).await.expect(303);
        let lines: Vec<&str> =
            answer.set_cookies().into_iter().filter(|l| l.starts_with("access_token")).collect();
        assert_eq!(lines.len(), deletions + 1, "{lines:?}");
        let (set, deleted) = lines.split_last().unwrap();
        assert!(set.contains("Max-Age=3600"), "{lines:?}");
        assert!(
            deleted.iter().all(|line| line.contains("Max-Age=0") && !line.contains("Domain")),
            "{lines:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_methods_and_other_modes_have_no_such_page() {
    let house = house().await;
    for method in ["PUT", "DELETE", "OPTIONS"] {
        let answer = house.ask(&Ask::page(SIGN_IN).method(method)).await.expect(405);
        assert_eq!(answer.line("allow"), Some("GET, HEAD, POST"));
    }
    let head = house.ask(&Ask::page(SIGN_IN).method("HEAD")).await.expect(200);
    assert!(head.body.is_empty());
    assert_eq!(house.upstream.count(), 0);
    let elsewhere = House::usual().await;
    elsewhere.ask(&Ask::page(SIGN_IN)).await.expect(404);
    elsewhere.ask(&Ask::form(SIGN_IN, "user=asha&password=demo-asha")).await.expect(404);
    assert!(elsewhere.backend.calls().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operators_own_page_and_further_fields() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("page.html");
    let html = "<!doctype html><style>p{}</style><b>{{site}}</b>{{alert}}<form method=\"post\" action=\"{{action}}\">\
        <input type=\"hidden\" name=\"form\" value=\"{{form}}\"><input id=\"user\" name=\"user\" value=\"{{ user }}\">\
        <input type=\"password\" name=\"password\">{{fields}}</form><i>{{request_id}}</i>";
    std::fs::write(&path, html).unwrap();
    let login = format!(
        "template = \"{}\"\n[[login.field]]\nname = \"tenantId\"\nvalue = \"pb\"\n[[login.field]]\nname = \"userType\"\n\
         label = \"You are\"\noption = [{{ value = \"CITIZEN\", label = \"a <citizen>\" }}, {{ value = \"EMPLOYEE\" }}]",
        path.display()
    );
    let (_egov, house) = before_egov(&login).await;
    let mut visitor = Visitor::open(&house, "/page").await;
    let hostile = "\"><script>";
    let body = visitor.body(hostile, "x") + "&further.userType=EMPLOYEE&further.tenantId=other";
    let answer = house.ask(&Ask { body: Some(body.into_bytes()), ..visitor.send(RIGHT) }).await.expect(422);
    let page = answer.text();
    assert!(
        !page.contains("<script") && page.contains("<b>app.test.example</b>") && !page.contains("{{"),
        "{page}"
    );
    assert_eq!(attribute(&page, "id=\"user\"", "value"), hostile);
    assert!(page.contains("<option value=\"CITIZEN\">a &lt;citizen&gt;</option>"), "{page}");
    assert!(page.contains("<option value=\"EMPLOYEE\" selected>EMPLOYEE</option>"), "{page}");
    assert!(!page.contains("tenantId") && !page.contains("pb\""));
    shows(&answer, "not right");
    visitor = Visitor::of(&answer, visitor.jar);
    for (further, status) in [("", 400), ("&further.userType=ROOT", 400), ("&further.userType=CITIZEN", 303)]
    {
        let body = visitor.body("asha", "p-asha") + further;
        house.ask(&Ask { body: Some(body.into_bytes()), ..visitor.send(RIGHT) }).await.expect(status);
    }
}

/// A gateway that signs people in at an egov-user, whose tokens are opaque and the same in every browser of a user.
async fn before_egov(fields: &str) -> (Egov, House) {
    let tasks = tokio_util::task::TaskTracker::new();
    let upstream = crate::support::Upstream::start(&tasks).await;
    let mut house = House::without_door(START, upstream, tasks.clone());
    let egov = Egov::start(Arc::clone(&house.clock), &tasks);
    let text = format!(
        r#"
secret = "{OWN_SECRET}"
listen = {{ http = "127.0.0.1:0" }}
session = {{ backend = "egov_user" }}
backend = {{ egov_user = {{ url = "http://{}" }} }}
identity = {{ headers = {{ "X-Auth-User" = "uuid" }} }}
[login]
mode = "form"
{fields}
[[site]]
host = "{HOST}"
origin = "{ORIGIN}"
upstream = ["http://{}"]
"#,
        egov.addr, house.upstream.addr
    );
    let settings = Settings::parse(&text).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
    let door = Doorkeep::start(settings, Arc::<ManualClock>::clone(&house.clock)).await.unwrap();
    house.addr = door.http;
    house.door = Some(door);
    (egov, house)
}

const FIELDS: &str = r#"field = [
    { name = "tenantId", label = "Town", option = [{ value = "pb.amritsar", label = "Amritsar" }, { value = "pb.jalandhar" }] },
    { name = "userType", value = "CITIZEN" },
]"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_else_a_backend_asks_for_is_sent_and_its_opaque_tokens_are_checked() {
    let (egov, house) = before_egov(FIELDS).await;
    let send = |visitor: &Visitor, user: &str, password: &str| {
        let body = visitor.body(user, password)
            + "&further.tenantId=pb.jalandhar&isInternal=true&further.isInternal=true";
        Ask { body: Some(body.into_bytes()), ..visitor.send(RIGHT) }
    };
    let (first, second) = (Visitor::open(&house, "/page").await, Visitor::open(&house, "/page").await);
    let refused = house.ask(&send(&first, "ana", "guess")).await.expect(422);
    let nobody = house.ask(&send(&first, "nobody", "guess")).await.expect(422);
    assert_eq!(told(&refused, "ana"), told(&nobody, "nobody"));
    let (mut one, mut other) = (first.jar.clone(), second.jar.clone());
    one.take(&house.ask(&send(&first, "ana", "p-ana")).await.expect(303));
    let asked = egov.calls("/user/oauth/token").pop().unwrap().form;
    let sent = ["username", "password", "tenantId", "userType"].map(|name| asked[name].as_str());
    assert_eq!(sent, ["ana", "p-ana", "pb.jalandhar", "CITIZEN"]);
    other.take(&house.ask(&send(&second, "ana", "p-ana")).await.expect(303));
    assert_eq!(one.get("access_token"), other.get("access_token"), "the service hands out one pair");
    for jar in [&one, &other] {
        house.ask(&Ask::page("/page").jar(jar)).await.expect(200);
        assert_eq!(house.upstream.last().line("x-auth-user"), Some("uuid-ana"));
    }
    // One signs in as somebody else: the pair is the other browser's still.
    let again = Visitor { jar: one.clone(), ..first };
    one.take(&house.ask(&send(&again, "bo", "p-bo")).await.expect(303));
    house.ask(&Ask::page("/page").jar(&one)).await.expect(200);
    assert_eq!(house.upstream.last().line("x-auth-user"), Some("uuid-bo"));
    house.ask(&Ask::page("/page").jar(&other)).await.expect(200);
    assert_eq!(house.upstream.last().line("x-auth-user"), Some("uuid-ana"));
    house.later(610);
    house.ask(&Ask::page("/page").jar(&other)).await.expect(200);
    other.take(&house.ask(&Ask::page("/page").jar(&other)).await.expect(200));
    // Signed out and in again, everything begins anew.
    let out = house.ask(&Ask::form("/.doorkeep/sign-out", "").jar(&other)).await.expect(303);
    house.ask(&Ask::page("/page").jar(&other)).await.expect(302);
    other.take(&out);
    other
        .take(&house.ask(&send(&Visitor { jar: other.clone(), ..second }, "ana", "p-ana")).await.expect(303));
    house.ask(&Ask::page("/page").jar(&other)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_that_the_backend_misses_is_the_settings_fault_and_nobodys_attempt() {
    let fields =
        "field = [{ name = \"tenantId\", value = \"pb\" }, { name = \"userType\", value = \"CITIZEN\" }]";
    let (egov, house) = before_egov(&format!("limit = {{ user = \"1 per 1h\" }}\n{fields}")).await;
    let misses = "{\"error\": \"invalid_request\", \"error_description\": \"Captcha is mandatory\"}";
    egov.fails("/user/oauth/token", Fault::Says(400, Vec::new(), misses.to_owned()));
    let visitor = Visitor::open(&house, "/page").await;
    for _ in 0..3 {
        house.ask(&visitor.send(("ana", "p-ana"))).await.expect(503);
    }
    assert_eq!(house.door().meters.sign_ins("client_rejected"), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_http_on_one_machine_works_too() {
    let house = start("", Plan { cookies: "secure = false", ..Plan::default() }).await;
    let visitor = Visitor::open(&house, "/page").await;
    assert!(visitor.jar.get("doorkeep_form").is_some() && visitor.jar.get(MARK).is_none());
    house.ask(&visitor.send(RIGHT)).await.expect(303);
    let ask = Ask::page("/public/x").line("Cookie", &format!("{MARK}=a; doorkeep_form=b; c=d"));
    house.ask(&ask).await.expect(200);
    assert_eq!(house.upstream.last().line("cookie"), Some("c=d"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_holds_no_password_name_or_mark_at_any_level() {
    let tasks = tokio_util::task::TaskTracker::new();
    let upstream = crate::support::Upstream::start(&tasks).await;
    let now = doorkeep::clock::Clock::now(&doorkeep::clock::SystemClock);
    let mut house = House::without_door(now, upstream, tasks);
    let plan = Plan {
        login: "mode = \"form\"\nlimit = { user = \"2 per 1h\" }",
        rules: "[log]\nformat = \"json\"\nlevel = \"trace\"",
        ..Plan::default()
    };
    let toml = crate::support::house::toml(plan, &house.backend.settings(), house.upstream.addr);
    let mut program = Program::run(&toml).await;
    house.addr = program.addr;
    let mut hushed = vec![OWN_SECRET.to_owned(), "demo-asha".to_owned(), "hush-password".to_owned()];
    let visitor = Visitor::open(&house, "/page?hush-in-the-query").await;
    hushed.extend([
        "hush-in-the-query".to_owned(),
        visitor.form.clone(),
        visitor.jar.get(MARK).unwrap().to_owned(),
    ]);
    let mut jar = visitor.jar.clone();
    jar.take(&house.ask(&visitor.send(RIGHT)).await.expect(303));
    for name in ["access_token", "refresh_token", "session_id", "doorkeep_state"] {
        hushed.push(jar.get(name).unwrap().to_owned());
    }
    for status in [422, 422, 429] {
        house.ask(&visitor.send(("hush-name", "hush-password"))).await.expect(status);
    }
    hushed.push("hush-name".to_owned());
    house.backend.close().await;
    house.ask(&visitor.send(RIGHT)).await.expect(503);
    house.ask(&visitor.send(RIGHT).with("Sec-Fetch-Site", Some("cross-site"))).await.expect(403);
    program.terminate();
    assert_eq!(program.ended().await.code(), Some(0));
    let said = program.said();
    let words = ["shown", "signed_in", "refused", "limited", "connect", "cross_site"];
    for word in words {
        let line = said.lines().find(|line| line.contains(&format!("\"sign_in\":\"{word}\"")));
        assert!(
            line.is_some_and(|line| line.contains("\"verdict\":\"sign_in\"") && line.contains(SIGN_IN)),
            "{word}"
        );
    }
    for secret in &hushed {
        if let Some(line) = said.lines().find(|line| line.contains(secret.as_str())) {
            panic!("{secret} is in the log:\n{line}");
        }
    }
    assert!(said.contains(HOST));
}
