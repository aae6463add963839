//! The sample app as the gateway meets it. In: requests. Out: verdicts. Errors: panics. I/O: none.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;

use super::*;
use crate::clock::ManualClock;
use crate::demo::exchange::BODY_CAP;

const START: u64 = 1_800_000_000;

fn app() -> (App, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(UnixTime::from_secs(START)));
    let settings = AppSettings {
        user: HeaderName::from_static("x-auth-user"),
        email: HeaderName::from_static("x-auth-email"),
        role: HeaderName::from_static("x-auth-roles"),
        expires: HeaderName::from_static("x-auth-expires"),
        session: HeaderName::from_static("x-auth-session"),
        sign_out: "/.doorkeep/sign-out".to_owned(),
    };
    (App::new(settings, Arc::clone(&clock) as Arc<dyn Clock>), clock)
}

fn from_asha(path: &str, expires: u64) -> http::request::Builder {
    Request::get(path)
        .header("x-auth-user", "Asha")
        .header("x-auth-email", "asha@example.org")
        .header("x-auth-roles", "admin")
        .header("x-auth-expires", expires)
        .header("x-auth-session", "one")
}

async fn got(app: &App, request: http::request::Builder) -> (u16, String) {
    let answer = app.answer(request.body(Full::<Bytes>::default()).unwrap()).await;
    (answer.status().as_u16(), text(answer).await)
}

async fn text(answer: Answer) -> String {
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn the_page_says_who_is_there_and_for_how_long() {
    let (app, _) = app();
    let (status, page) = got(&app, from_asha("/", START + 42)).await;
    assert_eq!(status, 200);
    for part in ["Asha", "asha@example.org", "admin", "data-left=\"42\"", "action=\"/.doorkeep/sign-out\""] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("{{"));
}

#[tokio::test]
async fn the_status_counts_renewals_per_session() {
    let (app, clock) = app();
    got(&app, from_asha("/status", START + 60)).await;
    clock.advance(Duration::from_secs(30));
    let (_, body) = got(&app, from_asha("/status", START + 90)).await;
    let status: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status["renewals"], 1);
    assert_eq!((&status["left"], &status["life"]), (&Value::from(60), &Value::from(60)));
    assert_eq!(status["happened"][0]["what"], "Token renewed (renewal 1)");
    assert_eq!(status["happened"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn without_identity_nobody_is_there() {
    let (app, _) = app();
    assert!(got(&app, Request::get("/")).await.1.contains("Nobody is here"));
    assert_eq!(got(&app, Request::get("/status")).await.1, r#"{"user":null}"#);
    let twice = from_asha("/status", START).header("x-auth-user", "Ravi");
    assert_eq!(got(&app, twice).await.1, r#"{"user":null}"#);
    let (status, style) = got(&app, Request::get("/assets/app.css")).await;
    assert!(status == 200 && style.starts_with(":root"));
}

#[tokio::test]
async fn a_broken_expiry_is_no_expiry() {
    let (app, _) = app();
    for expires in ["", "soon", "-1", "1e9", "99999999999999999999999"] {
        let request = Request::get("/status").header("x-auth-user", "Asha").header("x-auth-expires", expires);
        let status: Value = serde_json::from_str(&got(&app, request).await.1).unwrap();
        assert_eq!((&status["expires"], &status["left"]), (&Value::Null, &Value::from(0)));
    }
}

#[tokio::test]
async fn whatever_a_header_or_a_note_holds_is_escaped() {
    let (app, _) = app();
    let hostile = "<img src=x onerror=alert(1)>\"'";
    let request = Request::get("/headers").header("x-auth-user", hostile).header("x-other", hostile);
    let (_, page) = got(&app, request).await;
    assert!(!page.contains("<img src=x"));
    assert_eq!(page.matches("&lt;img src=x onerror=alert(1)&gt;&quot;&#39;").count(), 3);
    let note = "note=%3Cscript%3E%7B%7Bwho%7D%7D%3C%2Fscript%3E";
    let request = from_asha("/note", START + 60)
        .method("POST")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Full::new(Bytes::from(note)));
    let page = text(app.answer(request.unwrap()).await).await;
    assert!(page.contains("<pre class=\"echo\">&lt;script&gt;{{who}}&lt;/script&gt;</pre>"));
}

#[tokio::test]
async fn a_note_over_64_kib_is_refused() {
    let (app, _) = app();
    let request =
        from_asha("/note", START + 60).method("POST").body(Full::new(Bytes::from(vec![b'x'; BODY_CAP + 1])));
    assert_eq!(app.answer(request.unwrap()).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn unknown_paths_are_404_and_wrong_methods_405() {
    let (app, _) = app();
    for path in ["/nothing", "/assets/", "/assets/../app.css", "/admin"] {
        assert_eq!(got(&app, from_asha(path, START)).await.0, 404, "{path}");
    }
    assert_eq!(got(&app, from_asha("/note", START)).await.0, 405);
    assert_eq!(got(&app, from_asha("/", START).method("DELETE")).await.0, 405);
}
