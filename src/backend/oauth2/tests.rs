//! What goes over the wire, and what each answer comes to. Answers are those that real servers were seen to give.

use std::collections::BTreeMap;
use std::sync::Mutex;

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use super::*;
use crate::backend::classify::Row;
use crate::clock::{ManualClock, UnixTime};
use crate::dial::{Authorities, Roots};
use crate::secret::Secret;
use crate::token::{AccessToken, RefreshToken};

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

/// A request that came: its head in lower case, its path, its form.
#[derive(Clone, Debug)]
struct Came {
    head: String,
    authorization: Option<String>,
    form: BTreeMap<String, String>,
}

/// A server that says what it was told to, one answer after the other.
#[derive(Debug)]
struct Server {
    url: Url,
    came: Arc<Mutex<Vec<Came>>>,
    tasks: TaskTracker,
}

impl Server {
    async fn saying(answers: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url =
            Url::parse(&format!("http://{}/token?tenant=a", listener.local_addr().expect("an address")));
        let (came, tasks) = (Arc::<Mutex<Vec<Came>>>::default(), TaskTracker::new());
        let kept = Arc::clone(&came);
        tasks.spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let request = whole(&mut stream).await;
                kept.lock().expect("a lock").push(request);
                stream.write_all(answer.as_bytes()).await.expect("written");
            }
        });
        Self { url: url.expect("a URL"), came, tasks }
    }

    fn came(&self) -> Vec<Came> {
        self.came.lock().expect("a lock").clone()
    }
}

async fn whole(stream: &mut TcpStream) -> Came {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = vec![0; 4096];
        let n = stream.read(&mut chunk).await.expect("read");
        bytes.extend_from_slice(&chunk[..n]);
        let text = String::from_utf8(bytes.clone()).expect("text");
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let line = |name: &str| {
            let found = head.lines().find(|line| line.to_ascii_lowercase().starts_with(name))?;
            found.split_once(": ").map(|(_, value)| value.to_owned())
        };
        let length: usize = line("content-length:").map_or(0, |n| n.parse().expect("a length"));
        if body.len() == length {
            let pairs = form_urlencoded(body);
            return Came {
                head: head.to_ascii_lowercase(),
                authorization: line("authorization:"),
                form: pairs,
            };
        }
    }
}

fn form_urlencoded(body: &str) -> BTreeMap<String, String> {
    let pairs: Vec<_> = url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let form: BTreeMap<_, _> = pairs.iter().cloned().collect();
    assert_eq!(form.len(), pairs.len(), "no field comes twice: {body}");
    form
}

fn says(status: &str, media: &str, body: &str) -> String {
    let media = if media.is_empty() { String::new() } else { format!("Content-Type: {media}\r\n") };
    format!("HTTP/1.1 {status}\r\n{media}Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn json(status: &str, body: &str) -> String {
    says(status, "application/json;charset=UTF-8", body)
}

fn issued() -> String {
    json("200 OK", r#"{"access_token":"a2","token_type":"Bearer","refresh_token":"r2","expires_in":10}"#)
}

fn settings(url: &Url) -> OAuth2Settings {
    OAuth2Settings {
        token_url: url.clone(),
        revocation_url: None,
        introspection_url: None,
        client: Client { id: "gate way".into(), auth: ClientAuth::Basic(Secret::new("s:cr+t".to_owned())) },
        scope: None,
        extra: Vec::new(),
        rotation: Rotation::Maybe,
        answers: default_answers(),
    }
}

fn wire(settings: OAuth2Settings) -> OAuth2 {
    let authorities = Authorities::new(Roots::Only(Vec::new()));
    let dialer = Dialer::new(&authorities, settings.servers(), Duration::from_secs(5)).expect("a dialer");
    OAuth2::new(settings, dialer, Arc::new(ManualClock::at(NOW)))
}

fn pair() -> Pair {
    Pair {
        refresh: RefreshToken::parse("r1+/=&").expect("a token"),
        access: AccessToken::parse("a1"),
        session: None,
    }
}

async fn renewed_by(answer: String) -> Answer {
    let server = Server::saying(vec![answer]).await;
    wire(settings(&server.url)).renew(&pair()).await
}

/// One word for what an answer came to.
fn word(answer: &Answer) -> &'static str {
    match answer {
        Answer::Issued(_) | Answer::IssuedTo(..) => "issued",
        Answer::Refused(_) => "refused",
        Answer::Unavailable(fault) => fault.word(),
    }
}

#[tokio::test]
async fn a_renewal_is_a_form_with_the_refresh_token_and_nothing_of_the_access_token() {
    let server = Server::saying(vec![issued()]).await;
    let settings = OAuth2Settings {
        scope: Some("openid email".into()),
        extra: vec![("resource".into(), "https://api.example/?a=b&c".into())],
        ..settings(&server.url)
    };
    let Answer::Issued(tokens) = wire(settings).renew(&pair()).await else { panic!("not issued") };
    assert_eq!((tokens.access.expose(), tokens.refresh.expose(), tokens.rotated), ("a2", "r2", true));
    let came = server.came().remove(0);
    assert!(came.head.starts_with("post /token?tenant=a http/1.1"), "{}", came.head);
    assert!(came.head.contains("content-type: application/x-www-form-urlencoded"));
    assert!(came.head.contains("accept: application/json"));
    let form = [
        ("grant_type", "refresh_token"),
        ("refresh_token", "r1+/=&"),
        ("scope", "openid email"),
        ("resource", "https://api.example/?a=b&c"),
    ];
    assert_eq!(came.form, form.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    assert_eq!(came.authorization.as_deref(), Some("Basic Z2F0ZSt3YXk6cyUzQWNyJTJCdA=="));
}

#[tokio::test]
async fn a_client_proves_itself_as_the_settings_say() {
    let secret = Secret::new("s:cr+t".to_owned());
    for (auth, fields) in [
        (ClientAuth::Post(secret), vec![("client_id", "gate way"), ("client_secret", "s:cr+t")]),
        (ClientAuth::None, vec![("client_id", "gate way")]),
    ] {
        let server = Server::saying(vec![issued()]).await;
        let client = Client { id: "gate way".into(), auth };
        let answer = wire(OAuth2Settings { client, ..settings(&server.url) }).renew(&pair()).await;
        assert_eq!(word(&answer), "issued");
        let came = server.came().remove(0);
        assert_eq!(came.authorization, None);
        let fixed = [("grant_type", "refresh_token"), ("refresh_token", "r1+/=&")];
        let all = fixed.into_iter().chain(fields).map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(came.form, all.collect());
    }
}

#[tokio::test]
async fn an_assertion_is_signed_for_each_call() {
    let keys = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let pem = Secret::new(keys.serialize_pem());
    let audience = "https://id.example/token".to_owned();
    let assertion =
        Assertion::new(Algorithm::ES256, &pem, Some("k1".into()), audience.clone()).expect("a usable key");
    assert!(!format!("{assertion:?}").contains("BEGIN"));
    let server = Server::saying(vec![issued(), issued()]).await;
    let client = Client { id: "gateway".into(), auth: ClientAuth::PrivateKey(Box::new(assertion)) };
    let wire = wire(OAuth2Settings { client, ..settings(&server.url) });
    for _ in 0..2 {
        assert_eq!(word(&wire.renew(&pair()).await), "issued");
    }
    let public = DecodingKey::from_ec_pem(keys.public_key_pem().as_bytes()).expect("a public key");
    let mut rules = Validation::new(Algorithm::ES256);
    rules.validate_exp = false;
    rules.set_audience(&[audience]);
    let mut ids = Vec::new();
    for came in server.came() {
        assert_eq!(came.authorization, None);
        assert_eq!(
            came.form["client_assertion_type"],
            "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        );
        let token = jsonwebtoken::decode::<Value>(&came.form["client_assertion"], &public, &rules);
        let token = token.expect("a genuine assertion");
        assert_eq!(token.header.kid.as_deref(), Some("k1"));
        let claims = token.claims;
        assert_eq!((claims["iss"].as_str(), claims["sub"].as_str()), (Some("gateway"), Some("gateway")));
        assert_eq!(claims["iat"], NOW.as_secs());
        assert_eq!(claims["exp"], NOW.as_secs() + 60);
        ids.push(claims["jti"].as_str().expect("an id").to_owned());
    }
    assert_ne!(ids[0], ids[1], "no assertion is used twice");
}

#[tokio::test]
async fn what_real_servers_refuse_a_refresh_token_with() {
    for body in [
        r#"{"error":"invalid_grant","error_description":"Maximum allowed refresh token reuse exceeded"}"#,
        r#"{"error":"invalid_grant","error_description":"Session doesn't have required client"}"#,
        r#"{"error":"invalid_grant","error_description":"Session not active"}"#,
        r#"{"error":"invalid_grant","error_description":"Token is not active"}"#,
        r#"{"error":"invalid_grant","error_description":"grant request is invalid"}"#,
        r#"{"error": "invalid_grant"}"#,
    ] {
        assert_eq!(word(&renewed_by(json("400 Bad Request", body)).await), "refused", "{body}");
    }
    let body = r#"{"error":"invalid_grant"}"#;
    assert_eq!(word(&renewed_by(json("401 Unauthorized", body)).await), "refused");
    assert_eq!(word(&renewed_by(says("400 Bad Request", "", body)).await), "refused", "whatever it calls it");
}

#[tokio::test]
async fn a_rejection_of_this_gateway_ends_no_session() {
    for (status, body) in [
        (
            "401 Unauthorized",
            r#"{"error":"unauthorized_client","error_description":"Invalid client or Invalid client credentials"}"#,
        ),
        (
            "401 Unauthorized",
            r#"{"error":"invalid_client","error_description":"client authentication failed"}"#,
        ),
        ("400 Bad Request", r#"{"error":"invalid_client"}"#),
        ("400 Bad Request", r#"{"error":"invalid_request","error_description":"No refresh token"}"#),
        ("400 Bad Request", r#"{"error":"invalid_scope","error_description":"Invalid scope: admin"}"#),
        ("400 Bad Request", r#"{"error":"unsupported_grant_type"}"#),
        ("400 Bad Request", r#"{"error":"unauthorized_client"}"#),
        (
            "401 Unauthorized",
            r#"{"timestamp":1795245540368,"status":401,"error":"Unauthorized","message":"Bad credentials"}"#,
        ),
        ("401 Unauthorized", ""),
    ] {
        let answer = renewed_by(json(status, body)).await;
        assert_eq!(word(&answer), "client_rejected", "{status} {body}");
    }
}

#[tokio::test]
async fn whatever_else_is_said_ends_no_session() {
    let page = "<!doctype html><title>Not here</title>";
    for (answer, came_to) in [
        (json("429 Too Many Requests", r#"{"error":"slow_down"}"#), "no_decision"),
        (json("503 Service Unavailable", r#"{"error":"temporarily_unavailable"}"#), "no_decision"),
        (json("400 Bad Request", r#"{"error":"temporarily_unavailable"}"#), "no_decision"),
        (json("500 Internal Server Error", r#"{"error":"invalid_grant"}"#), "no_decision"),
        (json("500 Internal Server Error", r#"{"error":"server_error"}"#), "no_decision"),
        (json("503 Service Unavailable", r#"{"error":"invalid_grant"}"#), "no_decision"),
        (json("429 Too Many Requests", r#"{"error":"invalid_grant"}"#), "no_decision"),
        (says("404 Not Found", "text/html; charset=utf-8", page), "no_decision"),
        (says("401 Unauthorized", "text/html", page), "no_decision"),
        (says("400 Bad Request", "text/plain", "invalid_grant"), "no_decision"),
        (says("400 Bad Request", "", ""), "no_decision"),
        (says("403 Forbidden", "", ""), "no_decision"),
        (says("200 OK", "text/html", page), "no_decision"),
        (says("302 Found\r\nLocation: /login", "", ""), "no_decision"),
        (says("502 Bad Gateway", "text/html", page), "lost"),
        (json("502 Bad Gateway", r#"{"error":"invalid_grant"}"#), "lost"),
        (json("504 Gateway Timeout", r#"{"error":"invalid_client"}"#), "lost"),
        (json("200 OK", r#"{"access_token":"a2","token_type":"DPoP","refresh_token":"r2"}"#), "lost"),
        (json("200 OK", r#"{"access_token":"a2"}"#), "lost"),
        (json("200 OK", r#"{"access_token":"a2","#), "lost"),
        (json("200 OK", "[]"), "lost"),
        (says("200 OK", "", ""), "lost"),
        (says("204 No Content", "", ""), "lost"),
        (json("200 OK", r#"{"error":"bad_refresh_token"}"#), "lost"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"access".into(), "lost"),
        (
            "HTTP/1.1 400 Bad Request\r\nContent-Length: 100\r\n\r\n{\"error\":\"invalid_grant\"}".into(),
            "lost",
        ),
        (String::new(), "lost"),
        (format!("HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n{}", " ".repeat(70_000)), "lost"),
    ] {
        let shown: String = answer.chars().take(80).collect();
        assert_eq!(word(&renewed_by(answer).await), came_to, "{shown}");
    }
}

#[tokio::test]
async fn a_refused_connection_presents_nothing() {
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let url = Url::parse(&format!("http://{closed}/token")).expect("a URL");
    let answer = wire(settings(&url)).renew(&pair()).await;
    assert_eq!(word(&answer), "connect");
}

#[tokio::test]
async fn an_operator_can_say_what_a_silent_400_means() {
    // Seen at a server that refuses without a body.
    let silent = Row { status: Some(400), member: None, meaning: Meaning::Refused };
    for (answer, came_to) in [
        (says("400 Bad Request", "", ""), "refused"),
        (says("400 Bad Request", "text/html", "<h1>Bad Request</h1>"), "no_decision"),
    ] {
        let server = Server::saying(vec![answer]).await;
        let answers = default_answers().after(vec![silent.clone()]);
        let answer = wire(OAuth2Settings { answers, ..settings(&server.url) }).renew(&pair()).await;
        assert_eq!(word(&answer), came_to, "a page is still nobody's decision");
    }
}

#[tokio::test]
async fn nobody_signs_in_here_with_a_password() {
    let url = Url::parse("http://127.0.0.1:1/token").expect("a URL");
    let credentials =
        Credentials { user: "a".into(), password: Secret::new("b".to_owned()), further: Vec::new() };
    assert!(matches!(wire(settings(&url)).sign_in(&credentials).await, SignIn::NotOffered));
}

async fn revoked_by(answers: &[String], ending: &Ending) -> (Revocation, Vec<Came>) {
    let server = Server::saying(answers.to_vec()).await;
    let settings = OAuth2Settings { revocation_url: Some(server.url.clone()), ..settings(&server.url) };
    let revocation = wire(settings).revoke(ending).await;
    server.tasks.close();
    (revocation, server.came())
}

#[tokio::test]
async fn the_refresh_token_is_revoked_and_then_the_access_token() {
    let ok = says("200 OK", "text/plain", "");
    let (revocation, came) = revoked_by(&[ok.clone(), ok], &Ending::of(pair(), None)).await;
    assert_eq!(revocation, Revocation::Ended);
    let asked: Vec<_> = came
        .iter()
        .map(|came| (came.form["token"].as_str(), came.form["token_type_hint"].as_str()))
        .collect();
    assert_eq!(asked, [("r1+/=&", "refresh_token"), ("a1", "access_token")]);
    assert!(came.iter().all(|came| came.authorization.is_some()));
}

#[tokio::test]
async fn what_answers_to_a_revocation_mean() {
    let ok = says("200 OK", "", "");
    let unsupported = json("400 Bad Request", r#"{"error":"unsupported_token_type"}"#);
    let gone = json("400 Bad Request", r#"{"error":"invalid_grant"}"#);
    let away = says("503 Service Unavailable", "", "");
    let who = json("401 Unauthorized", r#"{"error":"invalid_client"}"#);
    let page = says("200 OK", "text/html", "<h1>Sign in</h1>");
    let both = Ending::of(pair(), None);
    let no_decision =
        |status| Revocation::Unavailable(BackendFault::NoDecision { status, retry_after: None });
    for (answers, came_to, calls) in [
        (vec![ok.clone(), unsupported.clone()], Revocation::Ended, 2),
        (vec![unsupported.clone(), ok.clone()], Revocation::Ended, 2),
        (vec![gone.clone(), ok.clone()], Revocation::Ended, 2),
        // What was refreshed with is gone, so the session is over.
        (vec![ok.clone(), away.clone()], Revocation::Ended, 2),
        (vec![away.clone()], no_decision(503), 1),
        (vec![page], no_decision(200), 1),
        (vec![who], Revocation::Unavailable(BackendFault::ClientRejected { status: 401 }), 1),
        (vec![String::new()], Revocation::Unavailable(BackendFault::Lost(Loss::Broken)), 1),
    ] {
        let (revocation, came) = revoked_by(&answers, &both).await;
        assert_eq!(revocation, came_to, "{answers:?}");
        assert_eq!(came.len(), calls, "{answers:?}");
    }
    let bare = Ending { refresh: None, ..both };
    assert_eq!(revoked_by(&[away], &bare).await.0, no_decision(503), "all there is to revoke");
}

#[tokio::test]
async fn without_a_revocation_endpoint_nobody_is_asked() {
    let url = Url::parse("http://127.0.0.1:1/token").expect("a URL");
    assert_eq!(wire(settings(&url)).revoke(&Ending::of(pair(), None)).await, Revocation::Ended);
}

async fn told_by(answer: String) -> (Introspection, Came) {
    let server = Server::saying(vec![answer]).await;
    let settings = OAuth2Settings { introspection_url: Some(server.url.clone()), ..settings(&server.url) };
    let introspection = wire(settings).introspect(&AccessToken::parse("a1").expect("a token")).await;
    (introspection, server.came().remove(0))
}

#[tokio::test]
async fn an_active_token_tells_whose_it_is() {
    let body =
        r#"{"active":true,"sub":"u1","username":"asha","exp":1800000010,"iat":1800000000.5,"scope":"a b"}"#;
    let (introspection, came) = told_by(json("200 OK", body)).await;
    let Introspection::Active { claims, issued_at, expires_at } = introspection else { panic!("not active") };
    assert_eq!((claims["sub"].as_str(), claims["username"].as_str()), (Some("u1"), Some("asha")));
    assert_eq!(issued_at, Some(NOW));
    assert_eq!(expires_at, Some(UnixTime::from_secs(NOW.as_secs() + 10)));
    assert_eq!((came.form["token"].as_str(), came.form["token_type_hint"].as_str()), ("a1", "access_token"));
    assert!(came.authorization.is_some());
    let (introspection, _) =
        told_by(json("200 OK", r#"{"active":true,"sub":"u1","token_type":"bearer"}"#)).await;
    assert!(matches!(introspection, Introspection::Active { issued_at: None, expires_at: None, .. }));
}

#[tokio::test]
async fn only_the_servers_own_word_makes_a_token_inactive() {
    for body in [r#"{"active":false}"#, r#"{"active":true,"sub":"u1","token_type":"Refresh"}"#] {
        assert!(matches!(told_by(json("200 OK", body)).await.0, Introspection::Inactive), "{body}");
    }
    for (answer, came_to) in [
        (json("401 Unauthorized", r#"{"error":"invalid_client"}"#), "client_rejected"),
        (says("401 Unauthorized", "", ""), "client_rejected"),
        (json("400 Bad Request", r#"{"error":"unsupported_token_type"}"#), "client_rejected"),
        (json("400 Bad Request", r#"{"error":"invalid_grant"}"#), "no_decision"),
        (json("400 Bad Request", r#"{"active":false}"#), "no_decision"),
        (json("500 Internal Server Error", r#"{"active":false}"#), "no_decision"),
        (json("200 OK", "{}"), "no_decision"),
        (json("200 OK", r#"{"active":"false"}"#), "no_decision"),
        (json("200 OK", r#"{"active":true,"exp":"soon"}"#), "no_decision"),
        (says("200 OK", "text/html", "<h1>Sign in</h1>"), "no_decision"),
        (says("302 Found\r\nLocation: /login", "", ""), "no_decision"),
        (String::new(), "lost"),
    ] {
        let shown: String = answer.chars().take(80).collect();
        let Introspection::Unavailable(fault) = told_by(answer).await.0 else {
            panic!("a decision: {shown}")
        };
        assert_eq!(fault.word(), came_to, "{shown}");
    }
}
