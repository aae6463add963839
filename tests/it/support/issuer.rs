//! What a session backend does behind its listener: one of these for each wire that the gateway speaks.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use doorkeep::demo::Directory;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};

use super::backend::Call;
use super::jar::Jar;

pub type Under<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An answer.
#[derive(Clone, Debug)]
pub struct Said {
    pub status: u16,
    /// Lines beside the content type.
    pub lines: Vec<(&'static str, String)>,
    pub body: Value,
}

impl Said {
    pub fn json(status: u16, body: Value) -> Self {
        Self { status, lines: Vec::new(), body }
    }
}

/// Lines of settings that belong to a kind of backend.
#[derive(Clone, Debug)]
pub struct BackendLines {
    /// Its name in `session.backend`.
    pub id: &'static str,
    /// Its tables.
    pub tables: String,
    /// Lines of `[session.token]` in place of algorithm and key.
    pub token: Option<&'static str>,
    /// Lines of `[session.cookies]`.
    pub cookies: &'static str,
    /// The claim that names the user.
    pub subject: &'static str,
    /// The claim that names the role.
    pub role: &'static str,
}

/// Issues sessions over one kind of wire. The listener before it does everything that can go wrong.
pub trait Issuer: fmt::Debug + Send + Sync {
    /// The right answer to a call.
    fn answer<'a>(&'a self, call: &'a Call) -> Under<'a, Said>;

    /// The refresh token that a call presents, if it is a renewal.
    fn presented(&self, call: &Call) -> Option<String>;

    /// Whether a call wants to end a session.
    fn is_sign_out(&self, call: &Call) -> bool;

    /// The body of a success that lacks its tokens.
    fn without_tokens(&self) -> Value;

    /// Where in the body of a renewal's answer the access token stands (RFC 6901).
    fn access_token_at(&self) -> &'static str;

    /// Signs one of its people in, past the listener.
    fn sign_in<'a>(&'a self, user: &'a str) -> Under<'a, Jar>;

    /// Ends a session, past the listener.
    fn end<'a>(&'a self, jar: &'a Jar) -> Under<'a, ()>;

    /// How often it saw a spent token.
    fn reuses(&self) -> u64;

    /// What a gateway before it, at this address, needs in its settings.
    fn settings(&self, addr: SocketAddr) -> BackendLines;
}

/// The directory of the demo: a real one.
impl Issuer for Arc<Directory> {
    fn answer<'a>(&'a self, call: &'a Call) -> Under<'a, Said> {
        Box::pin(async move {
            let tokens = call.head.all("x-access-token").into_iter();
            let lines: Vec<(&str, &str)> = tokens.map(|token| ("x-access-token", token)).collect();
            let (status, body) = ask(self, &call.path, &lines, &call.json()).await;
            Said::json(status, body)
        })
    }

    fn presented(&self, call: &Call) -> Option<String> {
        let token = call.json()["refresh"]["token"].as_str().unwrap_or_default().to_owned();
        call.path.ends_with("/renew").then_some(token)
    }

    fn is_sign_out(&self, call: &Call) -> bool {
        call.path.contains("/signOut/")
    }

    fn without_tokens(&self) -> Value {
        json!({"isSuccess": true, "data": {"id": "x", "token": "y"}})
    }

    fn access_token_at(&self) -> &'static str {
        "/data/token"
    }

    fn sign_in<'a>(&'a self, user: &'a str) -> Under<'a, Jar> {
        Box::pin(async move {
            let body =
                json!({"purpose": "login", "user": {"code": user, "password": format!("demo-{user}")}});
            let (_, envelope) = ask(self, "/directory/api/users/signIn", &[], &body).await;
            let mut jar = Jar::default();
            jar.set("access_token", envelope["data"]["token"].as_str().unwrap());
            jar.set("refresh_token", envelope["data"]["refresh"]["token"].as_str().unwrap());
            jar.set("session_id", envelope["data"]["id"].as_str().unwrap());
            jar
        })
    }

    fn end<'a>(&'a self, jar: &'a Jar) -> Under<'a, ()> {
        Box::pin(async move {
            let path = format!("/directory/api/users/signOut/{}", jar.get("session_id").unwrap());
            let (status, _) = ask(self, &path, &[], &json!({})).await;
            assert_eq!(status, 200);
        })
    }

    fn reuses(&self) -> u64 {
        Directory::reuses(self)
    }

    fn settings(&self, addr: SocketAddr) -> BackendLines {
        directory_lines(addr)
    }
}

/// What a gateway before a directory at this address needs in its settings.
pub fn directory_lines(addr: SocketAddr) -> BackendLines {
    BackendLines {
        id: "directory",
        tables: format!("[backend.directory]\nurl = \"http://{addr}\"\n"),
        token: None,
        cookies: "",
        subject: "userId",
        role: "roleKey",
    }
}

async fn ask(directory: &Directory, path: &str, lines: &[(&str, &str)], body: &Value) -> (u16, Value) {
    let mut request = http::Request::post(path).header("content-type", "application/json");
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body.to_string()))).unwrap();
    let (head, body) = directory.answer(request).await.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status.as_u16(), serde_json::from_slice(&body).unwrap())
}
