//! An OAuth 2 server that rotates refresh tokens and takes a second presentation of a spent one for theft: it then ends
//! everything that came from the same sign-in (RFC 9700 §4.14.2). Its refresh tokens are opaque.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use doorkeep::clock::{Clock, ManualClock};
use serde_json::{Value, json};

use super::backend::Call;
use super::house::{ACCESS_LIFE, REFRESH_LIFE};
use super::issuer::{BackendLines, Issuer, Said, Under};
use super::jar::Jar;
use super::token;

/// Whether refresh tokens are rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotates {
    Yes,
    No,
}

/// All that descends from one sign-in.
#[derive(Debug)]
struct Family {
    user: String,
    current: String,
    ended: bool,
}

#[derive(Debug, Default)]
struct Store {
    families: Vec<Family>,
    /// Every refresh token ever issued, and its family.
    issued: HashMap<String, usize>,
}

/// The server.
#[derive(Debug)]
pub struct TokenEndpoint {
    rotates: Mutex<Rotates>,
    clock: Arc<ManualClock>,
    store: Mutex<Store>,
    made: AtomicU64,
    reuses: AtomicU64,
    more_settings: &'static str,
    /// How a gateway asks about tokens, for want of the key.
    asked: Option<&'static str>,
}

/// The gateway's id and secret there.
pub const CLIENT: (&str, &str) = ("gate:way", "a+b c%");

impl TokenEndpoint {
    pub fn new(rotates: Rotates, clock: Arc<ManualClock>) -> Self {
        Self {
            rotates: Mutex::new(rotates),
            clock,
            store: Mutex::default(),
            made: AtomicU64::new(0),
            reuses: AtomicU64::new(0),
            more_settings: "",
            asked: None,
        }
    }

    /// Another way from now on.
    pub fn changes_to(&self, rotates: Rotates) {
        *self.rotates.lock().unwrap() = rotates;
    }

    /// With further lines in its table of the settings.
    pub fn with(self, more_settings: &'static str) -> Self {
        Self { more_settings, ..self }
    }

    /// Before a gateway that has no key and asks about tokens.
    pub fn asked(self) -> Self {
        self.asked_by("mode = \"introspect\"")
    }

    /// The same, by these lines of `[session.token]`.
    pub fn asked_by(self, lines: &'static str) -> Self {
        Self { asked: Some(lines), ..self }
    }

    /// Whether the session of a refresh token stands.
    pub fn stands(&self, refresh: &str) -> bool {
        let store = self.store.lock().unwrap();
        store.issued.get(refresh).is_some_and(|family| !store.families[*family].ended)
    }

    fn number(&self) -> u64 {
        self.made.fetch_add(1, Ordering::SeqCst)
    }

    fn access_token(&self, user: &str) -> String {
        let now = self.clock.now();
        let role = if user == "asha" { "admin" } else { "clerk" };
        let exp = now.saturating_add(ACCESS_LIFE).as_secs();
        token::signed(
            &json!({"sub": user, "role": role, "iat": now.as_secs(), "exp": exp, "jti": self.number().to_string()}),
        )
    }

    fn refresh_token(&self) -> String {
        format!("refresh/token+{}==", self.number())
    }

    fn renewed(&self, form: &BTreeMap<String, String>) -> Said {
        let Some(presented) = form.get("refresh_token") else { return error(400, "invalid_request") };
        let mut store = self.store.lock().unwrap();
        let Some(family) = store.issued.get(presented).copied() else { return error(400, "invalid_grant") };
        if store.families[family].ended {
            return error(400, "invalid_grant");
        }
        if store.families[family].current != *presented {
            self.reuses.fetch_add(1, Ordering::SeqCst);
            store.families[family].ended = true;
            return error(400, "invalid_grant");
        }
        let mut body = json!({
            "access_token": self.access_token(&store.families[family].user),
            "token_type": "Bearer",
            "expires_in": ACCESS_LIFE.as_secs(),
        });
        if *self.rotates.lock().unwrap() == Rotates::Yes {
            let next = self.refresh_token();
            store.issued.insert(next.clone(), family);
            store.families[family].current.clone_from(&next);
            body["refresh_token"] = Value::from(next);
            body["refresh_expires_in"] = Value::from(REFRESH_LIFE.as_secs());
        }
        Said::json(200, body)
    }

    fn revoked(&self, form: &BTreeMap<String, String>) -> Said {
        let mut store = self.store.lock().unwrap();
        let hint = form.get("token_type_hint").map(String::as_str);
        match store.issued.get(&form["token"]).copied() {
            Some(family) => store.families[family].ended = true,
            None if hint == Some("access_token") => return error(400, "unsupported_token_type"),
            None => {}
        }
        Said::json(200, json!({}))
    }

    fn told(&self, form: &BTreeMap<String, String>) -> Said {
        // What is no token of anybody's is active nowhere (RFC 7662 §2.2).
        if form["token"].split('.').count() != 3 {
            return Said::json(200, json!({"active": false}));
        }
        let claims = token::claims(&form["token"]);
        let live = claims["exp"].as_u64().unwrap() > self.clock.now().as_secs();
        let mut body = if live { claims } else { json!({}) };
        body["active"] = Value::from(live);
        Said::json(200, body)
    }
}

fn error(status: u16, error: &str) -> Said {
    Said::json(status, json!({"error": error, "error_description": "words for people"}))
}

fn form(call: &Call) -> BTreeMap<String, String> {
    url::form_urlencoded::parse(call.text.as_bytes()).into_owned().collect()
}

fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

impl Issuer for Arc<TokenEndpoint> {
    fn answer<'a>(&'a self, call: &'a Call) -> Under<'a, Said> {
        Box::pin(async move {
            let proof = STANDARD.encode(format!("{}:{}", encoded(CLIENT.0), encoded(CLIENT.1)));
            if call.head.one("authorization") != Some(format!("Basic {proof}").as_str()) {
                return error(401, "invalid_client");
            }
            assert_eq!(call.head.one("content-type"), Some("application/x-www-form-urlencoded"));
            let form = form(call);
            match (call.path.as_str(), form.get("grant_type").map(String::as_str)) {
                ("/token", Some("refresh_token")) => self.renewed(&form),
                ("/token", _) => error(400, "unsupported_grant_type"),
                ("/revoke", _) => self.revoked(&form),
                ("/introspect", _) => self.told(&form),
                (_, _) => error(404, "not_found"),
            }
        })
    }

    fn presented(&self, call: &Call) -> Option<String> {
        (call.path == "/token").then(|| form(call).remove("refresh_token").unwrap_or_default())
    }

    fn is_sign_out(&self, call: &Call) -> bool {
        call.path == "/revoke"
    }

    fn without_tokens(&self) -> Value {
        json!({"access_token": "x", "expires_in": 10})
    }

    fn access_token_at(&self) -> &'static str {
        "/access_token"
    }

    fn sign_in<'a>(&'a self, user: &'a str) -> Under<'a, Jar> {
        Box::pin(async move {
            let (access, refresh) = (self.access_token(user), self.refresh_token());
            let mut store = self.store.lock().unwrap();
            let family = store.families.len();
            store.issued.insert(refresh.clone(), family);
            let new = Family { user: user.to_owned(), current: refresh.clone(), ended: false };
            store.families.push(new);
            let mut jar = Jar::default();
            jar.set("access_token", &access);
            jar.set("refresh_token", &refresh);
            jar
        })
    }

    fn end<'a>(&'a self, jar: &'a Jar) -> Under<'a, ()> {
        Box::pin(async move {
            let mut store = self.store.lock().unwrap();
            let family = store.issued[jar.get("refresh_token").unwrap()];
            store.families[family].ended = true;
        })
    }

    fn reuses(&self) -> u64 {
        self.reuses.load(Ordering::SeqCst)
    }

    fn settings(&self, addr: SocketAddr) -> BackendLines {
        let (id, secret) = CLIENT;
        let more = self.more_settings;
        BackendLines {
            id: "oauth2",
            tables: format!(
                "[backend.oauth2]\ntoken_url = \"http://{addr}/token\"\nrevocation_url = \"http://{addr}/revoke\"\n\
                 introspection_url = \"http://{addr}/introspect\"\nclient_id = \"{id}\"\n\
                 client_secret = \"{secret}\"\n{more}\n"
            ),
            token: self.asked,
            cookies: "",
            subject: "sub",
            role: "role",
        }
    }
}
