//! An app with sanic-jwt's endpoints, as they answer at version 1.8.0: one refresh token for each user, kept until the next
//! sign-in; access tokens without `iat` and `jti`; a renewal wants a genuine access token of any age.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use doorkeep::clock::{Clock, ManualClock};
use serde_json::{Value, json};

use super::backend::Call;
use super::house::ACCESS_LIFE;
use super::issuer::{BackendLines, Issuer, Said, Under};
use super::jar::Jar;
use super::token;

/// Where the app looks for tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Header,
    Cookies,
    Split,
}

/// The app.
#[derive(Debug)]
pub struct SanicApp {
    mode: Mode,
    clock: Arc<ManualClock>,
    /// By user, as the example of sanic-jwt's documentation keeps them.
    refresh: Mutex<HashMap<u64, String>>,
    gone: Mutex<Vec<u64>>,
    made: AtomicU64,
    more_settings: &'static str,
    /// Whether a gateway asks about tokens, for want of the key.
    asked: bool,
}

impl SanicApp {
    pub fn new(mode: Mode, clock: Arc<ManualClock>) -> Self {
        Self {
            mode,
            clock,
            refresh: Mutex::default(),
            gone: Mutex::default(),
            made: AtomicU64::new(0),
            more_settings: "",
            asked: false,
        }
    }

    /// With further lines in its table of the settings.
    pub fn with(self, more_settings: &'static str) -> Self {
        Self { more_settings, ..self }
    }

    /// Before a gateway that has no key and asks about tokens.
    pub fn asked(self) -> Self {
        Self { asked: true, ..self }
    }

    /// Takes a user out of the app.
    pub fn remove_user(&self, id: u64) {
        self.gone.lock().unwrap().push(id);
    }

    /// New tokens: the refresh token takes the place of the user's last one.
    fn begin(&self, user: u64) -> (String, String) {
        let refresh = format!("{:048x}", 0x00c0_ffee + self.made.fetch_add(1, Ordering::SeqCst));
        self.refresh.lock().unwrap().insert(user, refresh.clone());
        (self.access_token(user), refresh)
    }

    fn access_token(&self, user: u64) -> String {
        let exp = self.clock.now().saturating_add(ACCESS_LIFE).as_secs();
        let scopes = if user == 1 { vec!["user", "admin"] } else { vec!["user"] };
        token::signed(&json!({"user_id": user, "exp": exp, "scopes": scopes}))
    }

    fn tokens(&self, call: &Call) -> Result<(String, Option<String>), Said> {
        let missing =
            |where_: &str| Err(said(401, "Unauthorized", &format!("Authorization {where_} not present.")));
        if self.mode == Mode::Header {
            let Some(line) = call.head.one("authorization") else { return missing("header") };
            let Some(access) = line.strip_prefix("Bearer ") else {
                return Err(said(400, "InvalidAuthorizationHeader", "Authorization header is invalid."));
            };
            return Ok((access.to_owned(), call.json()["refresh_token"].as_str().map(str::to_owned)));
        }
        let cookies: HashMap<&str, &str> = call
            .head
            .one("cookie")
            .into_iter()
            .flat_map(|line| line.split("; "))
            .filter_map(|pair| pair.split_once('='))
            .collect();
        let Some(access) = cookies.get("access_token") else { return missing("cookie") };
        let refresh = cookies.get("refresh_token").map(|text| (*text).to_owned());
        let access = match self.mode {
            Mode::Split => {
                format!("{access}.{}", cookies.get("access_token_signature").unwrap_or(&""))
            }
            Mode::Header | Mode::Cookies => (*access).to_owned(),
        };
        Ok((access, refresh))
    }

    /// What is wrong with the access token of a call, or whose it is.
    fn looked_at(&self, call: &Call) -> Result<u64, (u16, &'static str)> {
        let (access, _) = self.tokens(call).map_err(|_missing| (401, "Authorization header not present."))?;
        if access.split('.').count() != 3 || !token::is_genuine(&access) {
            return Err((401, "Auth required."));
        }
        let claims = token::claims(&access);
        if claims["exp"].as_u64().unwrap() <= self.clock.now().as_secs() {
            return Err((401, "Signature has expired."));
        }
        Ok(claims["user_id"].as_u64().unwrap())
    }

    fn renewed(&self, call: &Call) -> Said {
        let (access, refresh) = match self.tokens(call) {
            Ok(tokens) => tokens,
            Err(said) => return said,
        };
        let genuine = access.split('.').count() == 3 && token::is_genuine(&access);
        if !genuine {
            return said(401, "Unauthorized", "Auth required.");
        }
        let user = token::claims(&access)["user_id"].as_u64().unwrap();
        if self.gone.lock().unwrap().contains(&user) {
            return said(500, "InvalidRetrieveUserObject", "The retrieve_user method should return …");
        }
        let Some(refresh) = refresh else {
            return said(400, "MissingAuthorizationHeader", "Authorization header not present.");
        };
        if self.refresh.lock().unwrap().get(&user) != Some(&refresh) {
            return said(401, "AuthenticationFailed", "Authentication failed.");
        }
        Said::json(200, json!({"access_token": self.access_token(user)}))
    }
}

fn said(status: u16, exception: &str, reason: &str) -> Said {
    Said::json(status, json!({"reasons": [reason], "exception": exception}))
}

fn id_of(user: &str) -> u64 {
    if user == "asha" { 1 } else { 2 }
}

impl Issuer for Arc<SanicApp> {
    fn answer<'a>(&'a self, call: &'a Call) -> Under<'a, Said> {
        Box::pin(async move {
            match call.path.as_str() {
                "/auth" => {
                    let body = call.json();
                    let user = body["username"].as_str().unwrap_or_default();
                    if body["password"] != format!("pw-{user}") || body["tenant"] == "closed" {
                        return said(401, "AuthenticationFailed", "Password is incorrect.");
                    }
                    let (access, refresh) = self.begin(id_of(user));
                    Said::json(200, json!({"access_token": access, "refresh_token": refresh}))
                }
                "/auth/refresh" => self.renewed(call),
                "/auth/verify" => match self.looked_at(call) {
                    Ok(_) => Said::json(200, json!({"valid": true})),
                    Err((status, reason)) => Said::json(
                        status,
                        json!({"valid": false, "reasons": [reason], "exception": "InvalidToken"}),
                    ),
                },
                "/auth/me" => match self.looked_at(call) {
                    Ok(user) if self.gone.lock().unwrap().contains(&user) => {
                        Said::json(200, json!({"me": null}))
                    }
                    Ok(user) => {
                        let name = if user == 1 { "asha" } else { "ravi" };
                        Said::json(200, json!({"me": {"user_id": 99, "username": name}}))
                    }
                    Err((status, reason)) => said(status, "Unauthorized", reason),
                },
                "/logout" => match self.tokens(call) {
                    Ok((access, _)) => {
                        let claims = token::claims(&access);
                        if claims["exp"].as_u64().unwrap() <= self.clock.now().as_secs() {
                            return said(401, "Unauthorized", "Signature has expired.");
                        }
                        self.refresh.lock().unwrap().remove(&claims["user_id"].as_u64().unwrap());
                        Said::json(200, json!({"bye": true}))
                    }
                    Err(said) => said,
                },
                _ => Said::json(404, json!({"description": "Not Found", "status": 404})),
            }
        })
    }

    fn presented(&self, call: &Call) -> Option<String> {
        if call.path != "/auth/refresh" {
            return None;
        }
        let refresh = self.tokens(call).ok().and_then(|(_, refresh)| refresh);
        Some(refresh.unwrap_or_default())
    }

    fn is_sign_out(&self, call: &Call) -> bool {
        call.path == "/logout"
    }

    fn without_tokens(&self) -> Value {
        json!({"valid": true, "more": "of this answer"})
    }

    fn access_token_at(&self) -> &'static str {
        "/access_token"
    }

    fn sign_in<'a>(&'a self, user: &'a str) -> Under<'a, Jar> {
        Box::pin(async move {
            let (access, refresh) = self.begin(id_of(user));
            let mut jar = Jar::default();
            if self.mode == Mode::Split {
                let (signed, signature) = access.rsplit_once('.').unwrap();
                jar.set("access_token", signed);
                jar.set("access_token_signature", signature);
            } else {
                jar.set("access_token", &access);
            }
            jar.set("refresh_token", &refresh);
            jar
        })
    }

    fn end<'a>(&'a self, jar: &'a Jar) -> Under<'a, ()> {
        Box::pin(async move {
            let refresh = jar.get("refresh_token").unwrap();
            self.refresh.lock().unwrap().retain(|_, kept| kept != refresh);
        })
    }

    fn reuses(&self) -> u64 {
        0
    }

    fn settings(&self, addr: SocketAddr) -> BackendLines {
        let how = match self.mode {
            Mode::Header => "",
            Mode::Cookies => "tokens = \"cookies\"",
            Mode::Split => "tokens = \"cookies\"\ncookies = { signature = \"access_token_signature\" }",
        };
        let more = self.more_settings;
        BackendLines {
            id: "sanic_jwt",
            tables: format!("[backend.sanic_jwt]\nurl = \"http://{addr}\"\n{how}\n{more}\n"),
            token: self.asked.then_some("mode = \"introspect\""),
            cookies: if self.mode == Mode::Split { "signature = \"access_token_signature\"" } else { "" },
            subject: "user_id",
            role: "scopes",
        }
    }
}
