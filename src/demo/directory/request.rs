//! What a request asks of the directory: which place, with which body, under which token.
//! In: request heads and bodies. Out: [`Place`], bodies, the presented access token. Errors: [`Failure`], for what cannot
//! be understood. I/O: reads the request body.

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::request::Parts;
use http_body::Body;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::demo::directory::envelope::Failure;
use crate::demo::directory::jwt::FOR_REFRESH;
use crate::demo::exchange::{BoxError, read_body};
use crate::secret::Secret;

/// Longest `purpose` and `app` taken over from a sign-in, in bytes.
const LABEL_CAP: usize = 64;

/// What a path names. Ids are not checked here: an unknown one is refused where it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place<'a> {
    SignIn,
    Sessions,
    Renew(&'a str),
    OwnSession,
    Session(&'a str),
    SignOut(&'a str),
}

impl<'a> Place<'a> {
    pub(super) fn of(path: &'a str) -> Option<Self> {
        let inner = path.strip_prefix("/directory/")?;
        // The renew path is documented without `api`, unlike every other; with it, it is answered too.
        let Some(inner) = inner.strip_prefix("api/") else { return renewed(inner).map(Self::Renew) };
        match inner {
            "users/signIn" => Some(Self::SignIn),
            "sessions" => Some(Self::Sessions),
            "sessions/my" | "sessions/current" => Some(Self::OwnSession),
            other => renewed(other)
                .map(Self::Renew)
                .or_else(|| other.strip_prefix("sessions/").and_then(one_segment).map(Self::Session))
                .or_else(|| other.strip_prefix("users/signOut/").and_then(one_segment).map(Self::SignOut)),
        }
    }
}

/// The session id in `sessions/{id}/renew`.
fn renewed(path: &str) -> Option<&str> {
    path.strip_prefix("sessions/")?.strip_suffix("/renew").and_then(one_segment)
}

fn one_segment(id: &str) -> Option<&str> {
    (!id.is_empty() && !id.contains('/')).then_some(id)
}

#[derive(Deserialize)]
pub(super) struct SignInBody {
    pub(super) purpose: Option<String>,
    pub(super) app: Option<String>,
    pub(super) user: Credentials,
}

#[derive(Deserialize)]
pub(super) struct Credentials {
    pub(super) code: Option<String>,
    pub(super) email: Option<String>,
    pub(super) mobile: Option<String>,
    pub(super) password: String,
}

#[derive(Deserialize)]
pub(super) struct RenewBody {
    pub(super) refresh: PresentedRefresh,
}

#[derive(Deserialize)]
pub(super) struct PresentedRefresh {
    pub(super) token: String,
}

#[derive(Deserialize)]
pub(super) struct SessionBody {
    pub(super) status: String,
}

/// The access token of a request, from any of the places the directory's clients put it. Two different ones are nobody's.
pub(super) fn presented(head: &Parts) -> Result<Option<Secret<String>>, Failure> {
    let mut tokens = Vec::new();
    for line in head.headers.get_all("x-access-token") {
        tokens.push(line.to_str().ok().ok_or(Failure::InvalidToken)?.to_owned());
    }
    for line in head.headers.get_all(AUTHORIZATION) {
        let parts = line.to_str().ok().and_then(|line| line.split_once(' '));
        let (scheme, token) = parts.ok_or(Failure::InvalidToken)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Failure::InvalidToken);
        }
        tokens.push(token.to_owned());
    }
    for (name, value) in url::form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()) {
        if name == "access-token" || name == "access_token" {
            tokens.push(value.into_owned());
        }
    }
    let first = tokens.pop();
    if tokens.iter().any(|token| Some(token) != first.as_ref()) {
        return Err(Failure::InvalidToken);
    }
    Ok(first.map(Secret::new))
}

pub(super) async fn from_json<B, T>(head: &Parts, body: B) -> Result<T, Failure>
where
    B: Body,
    B::Error: Into<BoxError>,
    T: DeserializeOwned,
{
    let kind = head.headers.get(CONTENT_TYPE).map_or(&b""[..], |kind| kind.as_bytes());
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if !kind.eq_ignore_ascii_case(b"application/json") {
        return Err(Failure::BadRequest("the body must be application/json"));
    }
    let bytes = read_body(body).await.map_err(Failure::Body)?;
    let value = serde_json::from_slice(&bytes).ok();
    value.ok_or(Failure::BadRequest("the body is not the JSON this path takes"))
}

/// A word the client chose, or the usual one. The word for refresh tokens is taken.
pub(super) fn label(given: Option<String>, usual: &str) -> Result<String, Failure> {
    let label = given.unwrap_or_else(|| usual.to_owned());
    let fits = (1..=LABEL_CAP).contains(&label.len())
        && label != FOR_REFRESH
        && !label.chars().any(char::is_control);
    if fits { Ok(label) } else { Err(Failure::BadRequest("purpose or app cannot be used")) }
}
