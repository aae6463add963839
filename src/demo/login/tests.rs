//! The login page as a browser meets it. In: requests. Out: verdicts. Errors: panics. I/O: loopback sockets.

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, LOCATION, REFERRER_POLICY};
use http_body_util::{BodyExt as _, Full};
use tokio::net::TcpListener;

use super::*;
use crate::clock::{ManualClock, UnixTime};
use crate::demo::counterparts::wire;
use crate::demo::directory::{Directory, DirectorySettings};
use crate::demo::exchange::BODY_CAP;
use crate::demo::serve::serve;
use crate::server::Life;
use crate::token::{AccessToken, RefreshToken, SessionId};

const OWN: &str = "http://id.localhost:9000";

struct Bench {
    login: Login,
    told: Arc<Mutex<Vec<Event>>>,
}

/// A login page before a directory that answers on a socket.
async fn bench() -> Bench {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let settings = DirectorySettings {
        access_secret: Secret::new("a".repeat(32)),
        refresh_secret: Secret::new("b".repeat(32)),
        access_life: Duration::from_secs(60),
        refresh_life: Duration::from_secs(90),
    };
    let clock = Arc::new(ManualClock::at(UnixTime::from_secs(1_800_000_000)));
    let quiet: Narrator = Arc::new(|_| {});
    let directory = Arc::new(Directory::new(settings, Arc::clone(&clock) as Arc<dyn Clock>, quiet));
    let answer = move |request| {
        let directory = Arc::clone(&directory);
        async move { directory.answer(request).await }
    };
    serve(listener, answer, &Life::default());
    login_before(&base, clock, CookieSettings { domain: None, secure: false, ..cookies() })
}

fn cookies() -> CookieSettings {
    CookieSettings {
        access: "access_token".to_owned(),
        refresh: "refresh_token".to_owned(),
        session: "session_id".to_owned(),
        domain: Some("domain.com".to_owned()),
        secure: true,
    }
}

fn login_before(directory: &Url, clock: Arc<dyn Clock>, cookies: CookieSettings) -> Bench {
    let told = Arc::new(Mutex::new(Vec::new()));
    let hear = Arc::clone(&told);
    let narrator: Narrator = Arc::new(move |event| hear.lock().unwrap().push(event));
    let settings = LoginSettings {
        origin: Url::parse(OWN).unwrap(),
        app: Url::parse("http://app.localhost:8080/").unwrap(),
        allowed: vec![],
        cookies,
    };
    let wire = wire(directory, &clock).unwrap();
    Bench { login: Login::new(settings, wire, clock, narrator), told }
}

fn form(body: &str) -> http::request::Builder {
    Request::post("/login")
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header("content-length", body.len())
}

async fn post(bench: &Bench, body: &str) -> Answer {
    let request = form(body).header("origin", OWN).header("sec-fetch-site", "same-origin");
    bench.login.answer(request.body(Full::new(Bytes::from(body.to_owned()))).unwrap()).await
}

async fn text(answer: Answer) -> String {
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

fn lines(answer: &Answer) -> Vec<&str> {
    answer.headers().get_all(SET_COOKIE).iter().map(|line| line.to_str().unwrap()).collect()
}

#[tokio::test]
async fn a_sign_in_sets_three_cookies_and_goes_back() {
    let bench = bench().await;
    let back = "redirect=http%3A%2F%2Fapp.localhost%3A8080%2Fsettings%3Fa%3D1";
    let answer = post(&bench, &format!("name=asha&password=demo-asha&{back}")).await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    assert_eq!(answer.headers()[LOCATION], "http://app.localhost:8080/settings?a=1");
    assert_eq!(answer.headers()[CACHE_CONTROL], "no-store");
    let lines = lines(&answer);
    assert_eq!(lines.len(), 3);
    for (line, name) in lines.iter().zip(["access_token=ey", "refresh_token=ey", "session_id="]) {
        assert!(line.starts_with(name), "{line}");
        let attributes: Vec<_> = line.split("; ").skip(1).collect();
        assert_eq!(attributes, ["HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=90"]);
    }
}

#[tokio::test]
async fn domain_and_secure_are_set_where_asked_for() {
    let directory = Url::parse("http://127.0.0.1:1").unwrap();
    let clock = Arc::new(ManualClock::at(UnixTime::from_secs(100)));
    let bench = login_before(&directory, clock, cookies());
    let tokens = TokenSet {
        access: AccessToken::parse("a").unwrap(),
        refresh: RefreshToken::parse("b").unwrap(),
        rotated: true,
        session: SessionId::parse("c"),
        access_expires: None,
        refresh_expires: Some(UnixTime::from_secs(130)),
        received_at: UnixTime::from_secs(100),
    };
    let answer = bench.login.send_back(&Url::parse("http://app.localhost:8080/").unwrap(), &tokens);
    assert_eq!(
        lines(&answer)[0],
        "access_token=a; HttpOnly; SameSite=Lax; Secure; Path=/; Domain=domain.com; Max-Age=30"
    );
}

#[tokio::test]
async fn a_hostile_redirect_ends_at_the_app() {
    let bench = bench().await;
    let hostile = [
        "%2F%2Fevil.example",
        "https%3A%2F%2Fevil.example",
        "http%3A%2F%2Fapp.localhost%3A8081%2F",
        "javascript%3A1",
    ];
    for redirect in hostile {
        let answer = post(&bench, &format!("name=asha&password=demo-asha&redirect={redirect}")).await;
        assert_eq!(answer.headers()[LOCATION], "http://app.localhost:8080/");
        let shown =
            Request::get(format!("/login?redirect={redirect}")).body(Full::<Bytes>::default()).unwrap();
        assert!(!text(bench.login.answer(shown).await).await.contains("evil"));
    }
    let twice =
        "redirect=http%3A%2F%2Fapp.localhost%3A8080%2Fa&redirect=http%3A%2F%2Fapp.localhost%3A8080%2Fb";
    let answer = post(&bench, &format!("name=asha&password=demo-asha&{twice}")).await;
    assert_eq!(answer.headers()[LOCATION], "http://app.localhost:8080/");
}

#[tokio::test]
async fn wrong_name_and_wrong_password_get_one_401_page() {
    let bench = bench().await;
    let one = post(&bench, "name=asha&password=no").await;
    assert_eq!(one.status(), StatusCode::UNAUTHORIZED);
    assert!(lines(&one).is_empty());
    let one = text(one).await;
    assert!(one.contains("Name or password is not right."));
    let two = text(post(&bench, "name=zora&password=no").await).await;
    assert_eq!(one, two.replace("zora", "asha"));
}

#[tokio::test]
async fn what_was_typed_is_escaped_and_the_password_is_not_shown() {
    let bench = bench().await;
    let answer = post(&bench, "name=%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E&password=very-secret").await;
    let page = text(answer).await;
    assert!(page.contains("value=\"&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;\""));
    assert!(!page.contains("<script") && !page.contains("very-secret"));
    assert!(!page.contains("{{"));
}

#[tokio::test]
async fn forms_of_other_sites_are_refused() {
    let bench = bench().await;
    let body = "name=asha&password=demo-asha";
    let strangers: [&[(&str, &str)]; 6] = [
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "cross-site"), ("origin", OWN)],
        &[("origin", "http://app.localhost:8080")],
        &[("origin", "null")],
        &[("origin", OWN), ("origin", "http://evil.example")],
    ];
    for headers in strangers {
        let mut request = form(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer =
            bench.login.answer(request.body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap()).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{headers:?}");
        assert!(lines(&answer).is_empty());
    }
    let script = form(body).body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap();
    assert_eq!(bench.login.answer(script).await.status(), StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_silent_directory_is_503_and_no_wrong_password() {
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = Url::parse(&format!("http://{}", unused.local_addr().unwrap())).unwrap();
    drop(unused);
    let clock = Arc::new(ManualClock::at(UnixTime::from_secs(0)));
    let answer = post(&login_before(&base, clock, cookies()), "name=asha&password=demo-asha").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()[RETRY_AFTER], "2");
}

#[tokio::test]
async fn bodies_that_are_no_form_are_refused() {
    let bench = bench().await;
    let json =
        Request::post("/login").header(CONTENT_TYPE, "application/json").body(Full::<Bytes>::default());
    assert_eq!(bench.login.answer(json.unwrap()).await.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let long = format!("name=asha&password={}", "x".repeat(BODY_CAP));
    assert_eq!(post(&bench, &long).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let put = Request::put("/login").body(Full::<Bytes>::default()).unwrap();
    assert_eq!(bench.login.answer(put).await.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn the_page_is_guarded_and_tells_whom_it_is_shown_for() {
    let bench = bench().await;
    let wanted = "/login?redirect=http%3A%2F%2Fapp.localhost%3A8080%2Fsettings%3Fsecret%3D1";
    let answer = bench.login.answer(Request::get(wanted).body(Full::<Bytes>::default()).unwrap()).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let headers = answer.headers();
    assert_eq!(headers[CACHE_CONTROL], "no-store");
    assert_eq!(headers["x-frame-options"], "DENY");
    assert_eq!(headers["x-content-type-options"], "nosniff");
    assert_eq!(headers[REFERRER_POLICY], "same-origin");
    let policy = headers[CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.ends_with("form-action 'self' http://app.localhost:8080"), "{policy}");
    assert!(!policy.contains("unsafe"));
    let told = bench.told.lock().unwrap().clone();
    assert_eq!(told, [Event::Redirected { to_login_for: "http://app.localhost:8080/settings".to_owned() }]);
}
