//! The directory's behaviour, request by request. In: requests. Out: verdicts. Errors: panics. I/O: none.

use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};

use super::*;
use crate::clock::{ManualClock, UnixTime};
use crate::demo::exchange::BODY_CAP;
use crate::demo::people::PEOPLE;

const START: u64 = 1_800_000_000;

struct Bench {
    directory: Directory,
    clock: Arc<ManualClock>,
    told: Arc<Mutex<Vec<Event>>>,
}

struct SignedIn {
    id: String,
    access: String,
    refresh: String,
}

fn bench() -> Bench {
    let clock = Arc::new(ManualClock::at(UnixTime::from_secs(START)));
    let told = Arc::new(Mutex::new(Vec::new()));
    let hear = Arc::clone(&told);
    let settings = DirectorySettings {
        access_secret: Secret::new("access secret of the tests".to_owned()),
        refresh_secret: Secret::new("refresh secret of the tests".to_owned()),
        access_life: Duration::from_secs(60),
        refresh_life: Duration::from_secs(90),
    };
    let narrator: Narrator = Arc::new(move |event| hear.lock().unwrap().push(event));
    Bench { directory: Directory::new(settings, Arc::clone(&clock) as Arc<dyn Clock>, narrator), clock, told }
}

impl Bench {
    async fn send(&self, request: Request<Full<Bytes>>) -> (u16, Value) {
        let answer = self.directory.answer(request).await;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn post(&self, path: &str, body: &str) -> (u16, Value) {
        self.send(json_request("POST", path, body, None)).await
    }

    async fn with_token(&self, method: &str, path: &str, token: &str) -> (u16, Value) {
        self.send(json_request(method, path, "{}", Some(token))).await
    }

    async fn sign_in(&self, code: &str) -> SignedIn {
        let body = json!({ "purpose": "login", "app": "chrome", "user": { "code": code, "password": format!("demo-{code}") } });
        let (status, answer) = self.post("/directory/api/users/signIn", &body.to_string()).await;
        assert_eq!(status, 200, "{answer}");
        SignedIn {
            id: text(&answer["data"]["id"]),
            access: text(&answer["data"]["token"]),
            refresh: text(&answer["data"]["refresh"]["token"]),
        }
    }

    async fn renew(&self, id: &str, refresh: &str) -> (u16, Value) {
        let body = json!({ "refresh": { "token": refresh } }).to_string();
        self.post(&format!("/directory/sessions/{id}/renew"), &body).await
    }

    fn heard(&self, event: &Event) -> bool {
        self.told.lock().unwrap().contains(event)
    }
}

fn json_request(method: &str, path: &str, body: &str, token: Option<&str>) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    if let Some(token) = token {
        request = request.header("x-access-token", token);
    }
    request.body(Full::new(Bytes::from(body.to_owned()))).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

fn signed_with(secret: &str, algorithm: Algorithm, claims: &Value) -> String {
    encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

#[track_caller]
fn failed(answer: &(u16, Value), status: u16, code: &str) {
    assert_eq!(answer.0, status, "{}", answer.1);
    assert_eq!(answer.1["isSuccess"], false);
    assert_eq!(answer.1["code"], code);
    assert_eq!(answer.1["error"], code);
    assert!(answer.1["message"].is_string());
    assert_eq!(answer.1.as_object().unwrap().len(), 4);
}

#[tokio::test]
async fn signing_in_answers_with_the_whole_session() {
    let bench = bench();
    let body = r#"{"purpose":"login","app":"chrome","device":"x","user":{"email":"Asha@example.org","password":"demo-asha"}}"#;
    for path in ["/directory/api/users/signIn", "/directory/api/sessions"] {
        let (status, answer) = bench.post(path, body).await;
        assert_eq!(status, 200);
        assert_eq!(answer["isSuccess"], true);
        let data = &answer["data"];
        assert_eq!(text(&data["id"]).len(), 24);
        assert_eq!(data["status"], "active");
        assert_eq!(data["expiry"], iso(UnixTime::from_secs(START + 60)));
        assert_eq!(data["refresh"]["expiry"], iso(UnixTime::from_secs(START + 90)));
        assert_eq!(data["user"]["id"], PEOPLE[0].id);
        assert_eq!(data["user"]["profile"]["firstName"], "Asha");
        assert_eq!(data["role"]["key"], "admin");
        assert_eq!(data["role"]["organization"]["code"], "harbour");
    }
}

#[tokio::test]
async fn the_access_token_holds_the_documented_claims() {
    let bench = bench();
    let one = bench.sign_in("asha").await;
    let said = claims(&one.access);
    assert_eq!(said["sessionId"], one.id.as_str());
    assert_eq!(said["exp"], START + 60);
    assert_eq!(said["iat"], START);
    assert_eq!(said["expiry"], iso(UnixTime::from_secs(START + 60)));
    assert_eq!(said["userId"], PEOPLE[0].id);
    assert_eq!(said["email"], "asha@example.org");
    assert_eq!(said["purpose"], "login");
    assert_eq!(said["roleKey"], "admin");
    assert_eq!(said["permissions"][0], "organization.admin");
    assert_eq!(said["organizationCode"], "harbour");
    assert_eq!(said["tenantCode"], "demo");
    let (_, answer) = bench.renew(&one.id, &one.refresh).await;
    assert_ne!(answer["data"]["token"], one.access.as_str(), "two tokens of one second differ");
}

#[tokio::test]
async fn wrong_names_and_wrong_passwords_get_the_same_answer() {
    let bench = bench();
    let wrong = r#"{"user":{"code":"asha","password":"no"}}"#;
    let unknown = r#"{"user":{"code":"nobody","password":""}}"#;
    let one = bench.post("/directory/api/users/signIn", wrong).await;
    failed(&one, 400, "DILOINV");
    assert_eq!(one, bench.post("/directory/api/users/signIn", unknown).await);
    assert!(bench.heard(&Event::SignInRefused));
}

#[tokio::test]
async fn a_renewal_answers_with_the_pair_and_nothing_else() {
    let bench = bench();
    let one = bench.sign_in("ravi").await;
    bench.clock.advance(Duration::from_secs(10));
    let (status, answer) = bench.renew(&one.id, &one.refresh).await;
    assert_eq!(status, 200);
    let mut members: Vec<_> = answer["data"].as_object().unwrap().keys().cloned().collect();
    members.sort();
    assert_eq!(members, ["expiry", "id", "refresh", "token"]);
    assert_eq!(answer["data"]["expiry"], iso(UnixTime::from_secs(START + 70)));
    assert_eq!(answer["data"]["refresh"]["expiry"], iso(UnixTime::from_secs(START + 100)));
    assert_ne!(answer["data"]["refresh"]["token"], one.refresh.as_str());
    assert!(bench.heard(&Event::Renewed { user: "Ravi Menon".to_owned(), session: 1, times: 1 }));
    assert_eq!(
        (bench.directory.presentations(), bench.directory.renewals(), bench.directory.reuses()),
        (1, 1, 0)
    );
}

#[tokio::test]
async fn the_renew_path_is_answered_with_and_without_api() {
    let bench = bench();
    let one = bench.sign_in("asha").await;
    let body = json!({ "refresh": { "token": one.refresh } }).to_string();
    let (status, _) = bench.post(&format!("/directory/api/sessions/{}/renew", one.id), &body).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_spent_refresh_token_ends_the_session_and_all_its_tokens() {
    let bench = bench();
    let one = bench.sign_in("asha").await;
    let (_, renewed) = bench.renew(&one.id, &one.refresh).await;
    let (access, refresh) = (text(&renewed["data"]["token"]), text(&renewed["data"]["refresh"]["token"]));
    assert_eq!(bench.with_token("GET", "/directory/api/sessions/my", &access).await.0, 200);

    failed(&bench.renew(&one.id, &one.refresh).await, 403, "SESSION_EXPIRED");
    assert!(bench.heard(&Event::ReuseDetected { user: "Asha Rao".to_owned(), session: 1 }));
    failed(&bench.renew(&one.id, &refresh).await, 403, "SESSION_EXPIRED");
    failed(&bench.with_token("GET", "/directory/api/sessions/my", &access).await, 403, "SESSION_EXPIRED");
    assert_eq!(
        (bench.directory.presentations(), bench.directory.renewals(), bench.directory.reuses()),
        (3, 1, 1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_parallel_renewals_with_one_token_exactly_one_is_issued() {
    let bench = Arc::new(bench());
    let one = bench.sign_in("asha").await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (bench, id, refresh) = (Arc::clone(&bench), one.id.clone(), one.refresh.clone());
        calls.spawn(async move { bench.renew(&id, &refresh).await });
    }
    let answers = calls.join_all().await;
    let issued: Vec<_> = answers.iter().filter(|answer| answer.0 == 200).collect();
    assert_eq!(issued.len(), 1);
    assert!(answers.iter().all(|answer| answer.0 == 200 || answer.1["code"] == "SESSION_EXPIRED"));
    let newest = text(&issued[0].1["data"]["refresh"]["token"]);
    failed(&bench.renew(&one.id, &newest).await, 403, "SESSION_EXPIRED");
    assert_eq!(
        (bench.directory.presentations(), bench.directory.renewals(), bench.directory.reuses()),
        (17, 1, 1)
    );
}

#[tokio::test]
async fn tokens_live_until_the_second_before_their_expiry() {
    let bench = bench();
    let one = bench.sign_in("asha").await;
    bench.clock.advance(Duration::from_secs(59));
    assert_eq!(bench.with_token("GET", "/directory/api/sessions/my", &one.access).await.0, 200);
    bench.clock.advance(Duration::from_secs(1));
    failed(&bench.with_token("GET", "/directory/api/sessions/my", &one.access).await, 403, "SESSION_EXPIRED");
    bench.clock.advance(Duration::from_secs(30));
    failed(&bench.renew(&one.id, &one.refresh).await, 403, "SESSION_EXPIRED");
    assert!(bench.heard(&Event::RenewalRefused { reason: Refusal::Expired }));
    assert_eq!(bench.directory.reuses(), 0);
}

#[tokio::test]
async fn an_expired_access_token_does_not_stop_a_renewal() {
    let bench = bench();
    let one = bench.sign_in("asha").await;
    bench.clock.advance(Duration::from_secs(89));
    assert_eq!(bench.renew(&one.id, &one.refresh).await.0, 200);
}

#[tokio::test]
async fn refresh_tokens_that_were_not_made_here_are_invalid() {
    let bench = bench();
    let one = bench.sign_in("asha").await;
    let said = claims(&one.refresh);
    let parts: Vec<_> = one.refresh.split('.').collect();
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
    let tampered = URL_SAFE_NO_PAD.encode(said.to_string().replace("refresh", "Refresh"));
    let forged = [
        signed_with("access secret of the tests", Algorithm::HS256, &said),
        signed_with("guess", Algorithm::HS256, &said),
        signed_with("refresh secret of the tests", Algorithm::HS512, &said),
        format!("{none}.{}.", parts[1]),
        format!("{none}.{}.{}", parts[1], parts[2]),
        format!("{}.{tampered}.{}", parts[0], parts[2]),
        format!("{}.{}.", parts[0], parts[1]),
        one.access.clone(),
        String::new(),
        "a.b.c".to_owned(),
        "x".repeat(10_000),
    ];
    for token in forged {
        failed(&bench.renew(&one.id, &token).await, 401, "INVALID_TOKEN");
    }
    assert!(bench.heard(&Event::RenewalRefused { reason: Refusal::NotOurs }));
    assert_eq!(bench.renew(&one.id, &one.refresh).await.0, 200, "none of them touched the session");
}

#[tokio::test]
async fn a_refresh_token_renews_its_own_session_only() {
    let bench = bench();
    let (one, two) = (bench.sign_in("asha").await, bench.sign_in("ravi").await);
    failed(&bench.renew(&two.id, &one.refresh).await, 401, "INVALID_TOKEN");
    failed(&bench.renew("000000000000000000000000", &one.refresh).await, 401, "INVALID_TOKEN");
    assert_eq!(bench.renew(&one.id, &one.refresh).await.0, 200);
    assert_eq!(bench.renew(&two.id, &two.refresh).await.0, 200);
}

#[tokio::test]
async fn a_session_nobody_remembers_is_over() {
    let before = bench();
    let one = before.sign_in("asha").await;
    let after = bench();
    failed(&after.renew(&one.id, &one.refresh).await, 403, "SESSION_EXPIRED");
    failed(&after.with_token("GET", "/directory/api/sessions/my", &one.access).await, 403, "SESSION_EXPIRED");
}

#[tokio::test]
async fn an_access_token_is_taken_from_header_bearer_or_query() {
    let bench = bench();
    let one = bench.sign_in("asha").await;
    let id = &one.id;
    for path in ["my", "current", id] {
        let (status, answer) =
            bench.with_token("GET", &format!("/directory/api/sessions/{path}"), &one.access).await;
        assert_eq!(status, 200);
        assert_eq!(answer["data"]["id"], id.as_str());
        assert_eq!(answer["data"]["user"]["code"], "asha");
        assert!(answer["data"].get("token").is_none() && answer["data"].get("refresh").is_none());
    }
    let bearer =
        Request::get("/directory/api/sessions/my").header("authorization", format!("Bearer {}", one.access));
    assert_eq!(bench.send(bearer.body(Full::default()).unwrap()).await.0, 200);
    for name in ["access-token", "access_token"] {
        let path = format!("/directory/api/sessions/my?{name}={}", one.access);
        assert_eq!(bench.send(Request::get(path).body(Full::default()).unwrap()).await.0, 200);
    }
}

#[tokio::test]
async fn unusable_access_tokens_are_refused() {
    let bench = bench();
    let (one, two) = (bench.sign_in("asha").await, bench.sign_in("ravi").await);
    let own = "/directory/api/sessions/my";
    failed(&bench.send(json_request("GET", own, "", None)).await, 401, "INVALID_TOKEN");
    failed(&bench.with_token("GET", own, &one.refresh).await, 401, "INVALID_TOKEN");
    let forged = signed_with("guess", Algorithm::HS256, &claims(&one.access));
    failed(&bench.with_token("GET", own, &forged).await, 401, "INVALID_TOKEN");
    let both = format!("{own}?access-token={}", two.access);
    failed(&bench.with_token("GET", &both, &one.access).await, 401, "INVALID_TOKEN");
    let others = format!("/directory/api/sessions/{}", two.id);
    failed(&bench.with_token("GET", &others, &one.access).await, 400, "ACCESS_DENIED");
}

#[tokio::test]
async fn signing_out_by_session_id_ends_that_session() {
    let bench = bench();
    let (one, two) = (bench.sign_in("asha").await, bench.sign_in("asha").await);
    let path = format!("/directory/api/users/signOut/{}", one.id);
    assert_eq!(bench.post(&path, "{}").await.0, 200);
    assert!(bench.heard(&Event::SignedOut { user: "Asha Rao".to_owned(), session: 1 }));
    failed(&bench.post(&path, "{}").await, 400, "NO_ACTIVE_SESSIONS");
    failed(&bench.renew(&one.id, &one.refresh).await, 403, "SESSION_EXPIRED");
    assert_eq!(bench.directory.reuses(), 0);
    assert_eq!(bench.renew(&two.id, &two.refresh).await.0, 200);
}

#[tokio::test]
async fn signing_out_by_user_id_takes_that_users_token_and_ends_all() {
    let bench = bench();
    let (one, two) = (bench.sign_in("asha").await, bench.sign_in("asha").await);
    let ravi = bench.sign_in("ravi").await;
    let path = format!("/directory/api/users/signOut/{}", PEOPLE[0].id);
    failed(&bench.post(&path, "{}").await, 401, "INVALID_TOKEN");
    failed(&bench.with_token("POST", &path, &ravi.access).await, 400, "ACCESS_DENIED");
    bench.clock.advance(Duration::from_secs(61));
    assert_eq!(bench.with_token("POST", &path, &one.access).await.0, 200, "an expired token signs out");
    failed(&bench.with_token("POST", &path, &one.access).await, 400, "NO_ACTIVE_SESSIONS");
    failed(&bench.renew(&two.id, &two.refresh).await, 403, "SESSION_EXPIRED");
    assert_eq!(bench.renew(&ravi.id, &ravi.refresh).await.0, 200);
    failed(&bench.post("/directory/api/users/signOut/nobody", "{}").await, 400, "USER_DOES_NOT_EXISTS");
}

#[tokio::test]
async fn a_session_can_be_put_to_expired_and_to_nothing_else() {
    let bench = bench();
    let (one, ravi) = (bench.sign_in("asha").await, bench.sign_in("ravi").await);
    let path = format!("/directory/api/sessions/{}", one.id);
    let active = json_request("PUT", &path, r#"{"status":"active"}"#, Some(&one.access));
    failed(&bench.send(active).await, 400, "BAD_REQUEST");
    let strange = json_request("PUT", &path, r#"{"status":"expired"}"#, Some(&ravi.access));
    failed(&bench.send(strange).await, 400, "ACCESS_DENIED");
    let (status, answer) =
        bench.send(json_request("PUT", &path, r#"{"status":"expired"}"#, Some(&one.access))).await;
    assert_eq!((status, &answer["data"]["status"]), (200, &Value::from("expired")));
    failed(&bench.with_token("GET", "/directory/api/sessions/my", &one.access).await, 403, "SESSION_EXPIRED");
}

#[tokio::test]
async fn what_cannot_be_understood_is_400_and_never_500() {
    let bench = bench();
    let bodies =
        ["", "{", "null", "[]", "{}", r#"{"user":null}"#, r#"{"user":{"code":7,"password":"x"}}"#, "\u{0}"];
    for body in bodies {
        failed(&bench.post("/directory/api/users/signIn", body).await, 400, "BAD_REQUEST");
        failed(&bench.post("/directory/sessions/abc/renew", body).await, 400, "BAD_REQUEST");
    }
    let two_names = r#"{"user":{"code":"asha","email":"asha@example.org","password":"demo-asha"}}"#;
    failed(&bench.post("/directory/api/users/signIn", two_names).await, 400, "BAD_REQUEST");
    let taken = r#"{"purpose":"refresh","user":{"code":"asha","password":"demo-asha"}}"#;
    failed(&bench.post("/directory/api/users/signIn", taken).await, 400, "BAD_REQUEST");
    let deep = "[".repeat(60_000);
    failed(&bench.post("/directory/api/users/signIn", &deep).await, 400, "BAD_REQUEST");
    let form = Request::post("/directory/api/users/signIn").header("content-type", "text/plain");
    let form = form
        .body(Full::new(Bytes::from_static(br#"{"user":{"code":"asha","password":"demo-asha"}}"#)))
        .unwrap();
    failed(&bench.send(form).await, 400, "BAD_REQUEST");
}

#[tokio::test]
async fn a_body_over_64_kib_is_413() {
    let bench = bench();
    let body = format!(r#"{{"refresh":{{"token":"{}"}}}}"#, "x".repeat(BODY_CAP));
    failed(&bench.post("/directory/sessions/abc/renew", &body).await, 413, "BAD_REQUEST");
}

#[tokio::test]
async fn unknown_paths_are_404_and_wrong_methods_405() {
    let bench = bench();
    let unknown = [
        "/",
        "/directory",
        "/directory/api",
        "/directory/sessions/abc",
        "/directory/sessions//renew",
        "/directory/sessions/a/b/renew",
        "/directory/api/sessions/",
        "/directory/api/sessions/a/b",
        "/directory/api/users/signOut/",
        "/Directory/api/sessions",
    ];
    for path in unknown {
        failed(&bench.post(path, "{}").await, 404, "NOT_FOUND");
    }
    for path in ["/directory/api/users/signIn", "/directory/sessions/abc/renew", "/directory/api/sessions"] {
        failed(&bench.send(json_request("GET", path, "", None)).await, 405, "METHOD_NOT_SUPPORTED");
    }
    failed(&bench.post("/directory/api/sessions/my", "{}").await, 405, "METHOD_NOT_SUPPORTED");
}

#[tokio::test]
async fn nothing_that_is_told_or_printed_holds_a_token_or_session_id() {
    let bench = bench();
    let one = bench.sign_in("asha").await;
    bench.renew(&one.id, &one.refresh).await;
    bench.renew(&one.id, &one.refresh).await;
    let lines: Vec<_> = bench.told.lock().unwrap().iter().map(|event| format!("{event} {event:?}")).collect();
    assert_eq!(lines.len(), 3);
    for line in lines.iter().chain([&format!("{:?}", bench.directory)]) {
        for secret in [&one.id, &one.access, &one.refresh, &"secret of the tests".to_owned()] {
            assert!(!line.contains(secret.as_str()), "{line}");
        }
    }
}
