//! The `directory` wire: OpenAge's JSON sessions API.
//! In: session id and refresh token. Out: answers. Errors: none. I/O: HTTP.
//!
//! A session is renewed with its id in the path and its refresh token in the body; each answer brings a new refresh
//! token and spends the old one. Every answer is an envelope whose `isSuccess` decides, under any status, and whose
//! `code` says why. The refresh token outlives the access token by minutes only, so sessions are renewed from half of
//! the access token's life on.

use std::sync::Arc;

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use crate::backend::call::{Answered, Body, Caller};
use crate::backend::classify::{Meaning, Row, Table};
use crate::backend::{Reply, SessionBackend, SignIn};
use crate::clock::{Clock, UnixTime};
use crate::dial::Dialer;
use crate::outcome::{
    Ahead, Answer, BackendFault, Believed, Capabilities, Introspects, Loss, RefusalReason, Revocation,
};
use crate::token::{AccessToken, Credentials, Ending, Pair, RefreshToken, SessionId, TokenSet};

/// Where the API is, and what its answers mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectorySettings {
    /// The API's base, such as `https://api.example`.
    pub url: Url,
    /// Paths with `{session}` and, for signing out, `{user}` in place of the ids.
    pub paths: DirectoryPaths,
    /// The value of `app` in a sign-in.
    pub app: String,
    /// What refusals and faults look like.
    pub answers: Table,
}

/// The paths of the calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryPaths {
    /// Renews a session.
    pub renew: String,
    /// Ends a session.
    pub sign_out: String,
    /// Starts a session.
    pub sign_in: String,
}

impl Default for DirectoryPaths {
    fn default() -> Self {
        Self {
            renew: "/directory/sessions/{session}/renew".into(),
            sign_out: "/directory/api/users/signOut/{session}".into(),
            sign_in: "/directory/api/users/signIn".into(),
        }
    }
}

/// The meanings that need no setting.
///
/// An envelope that says `isSuccess: false` under 401 refuses, whatever its code; elsewhere only known codes do.
/// A refusal of the caller's address or device, or of its rights, is about this gateway, not about the session.
#[must_use]
pub fn default_answers() -> Table {
    let code =
        |code: &str, meaning| Row { status: None, member: Some(("code".into(), code.into())), meaning };
    let refusals = [
        "SESSION_EXPIRED",
        "CLAIMS_EXPIRED",
        "INVALID_TOKEN",
        "DISGEXP",
        "DI_SG_EXP",
        "DISGINV",
        "DI_SG_INV",
        "SESSION_DOES_NOT_EXISTS",
        "NO_ACTIVE_SESSIONS",
        "USER_DOES_NOT_EXISTS",
    ];
    let ours = ["INVALID_DEVICE", "INVALID_IP", "ACCESS_DENIED"];
    let unauthorised = Row {
        status: Some(StatusCode::UNAUTHORIZED.as_u16()),
        member: Some(("isSuccess".into(), "false".into())),
        meaning: Meaning::Refused,
    };
    let rows = ours.map(|name| code(name, Meaning::Ours)).into_iter();
    Table::new(rows.chain(refusals.map(|name| code(name, Meaning::Refused))).chain([unauthorised]).collect())
}

/// The wire.
#[derive(Debug)]
pub struct Directory {
    settings: DirectorySettings,
    caller: Caller,
    clock: Arc<dyn Clock>,
}

impl Directory {
    /// What this kind of backend can and needs.
    pub const CAPABILITIES: Capabilities = Capabilities {
        rotates: true,
        needs_session: true,
        needs_access: false,
        revokes_with_live_access: true,
        kills_access: false,
        renews_on_401: true,
        introspects: Introspects::Never,
        ahead: Ahead::Percent(50),
    };

    /// What a sign-in carries beside name and password: nothing, for what its API would make of more is not known.
    pub const FURTHER: [&'static str; 0] = [];

    /// What its services take from headers and from the query, without a look at any signature.
    pub const BELIEVED: Believed = Believed {
        names: &["x_access_token"],
        prefixes: &["x_role_", "x_session_", "x_context_", "x_organization_", "x_tenant_"],
        parameters: &["access_token", "token"],
        parameter_prefixes: &["role_", "session_", "context_", "organization_", "tenant_"],
    };

    /// A wire to the API at `settings.url`.
    #[must_use]
    pub fn new(settings: DirectorySettings, dialer: Dialer, clock: Arc<dyn Clock>) -> Self {
        Self { settings, caller: Caller::new(dialer), clock }
    }

    async fn renew_pair(&self, pair: &Pair) -> Answer {
        let Some(url) =
            pair.session.as_ref().and_then(|id| self.url(&self.settings.paths.renew, Some(id), None))
        else {
            return Answer::Unavailable(BackendFault::Internal);
        };
        let body = json!({"refresh": {"token": pair.refresh.expose()}});
        match self.caller.json(Method::POST, &url, &[], &body).await {
            Ok(answered) => match self.read(&answered) {
                Read::Session(session) => match session.tokens(Some(pair), self.clock.now()) {
                    Some(tokens) => Answer::Issued(tokens),
                    None => Answer::Unavailable(BackendFault::Lost(Loss::Unreadable)),
                },
                Read::Done => Answer::Unavailable(BackendFault::Lost(Loss::Unreadable)),
                Read::Refused => Answer::Refused(RefusalReason::ByBackend),
                Read::Unavailable(fault) => Answer::Unavailable(fault),
            },
            Err(fault) => Answer::Unavailable(fault),
        }
    }

    async fn end(&self, ending: &Ending) -> Revocation {
        let path = &self.settings.paths.sign_out;
        let Some(url) = self.url(path, ending.session.as_ref(), ending.subject.as_deref()) else {
            return Revocation::Unavailable(BackendFault::Internal);
        };
        let token = ending.access.as_ref().map(|token| ("x-access-token", token.expose()));
        match self.caller.json(Method::POST, &url, token.as_slice(), &json!({})).await {
            Ok(answered) => match self.read(&answered) {
                Read::Session(_) | Read::Done | Read::Refused => Revocation::Ended,
                Read::Unavailable(fault) => Revocation::Unavailable(fault),
            },
            Err(fault) => Revocation::Unavailable(fault),
        }
    }

    async fn start(&self, credentials: &Credentials) -> SignIn {
        let Some(url) = self.url(&self.settings.paths.sign_in, None, None) else {
            return SignIn::Unavailable(BackendFault::Internal);
        };
        let name = if credentials.user.contains('@') { "email" } else { "code" };
        let body = json!({
            "purpose": "login",
            "app": self.settings.app,
            "user": {name: credentials.user, "password": credentials.password.expose()},
        });
        let answered = match self.caller.json(Method::POST, &url, &[], &body).await {
            Ok(answered) => answered,
            Err(fault) => return SignIn::Unavailable(fault),
        };
        if let Body::Json(json) = &answered.body
            && json.get("isSuccess") == Some(&Value::Bool(false))
            && json.get("code").and_then(Value::as_str).is_some_and(|code| {
                ["DILOINV", "DI_LO_INV", "DILOPNT", "DI_LO_PNT", "USER_DOES_NOT_EXISTS"].contains(&code)
            })
        {
            return SignIn::Refused;
        }
        match self.read(&answered) {
            Read::Session(session) => match session.tokens(None, self.clock.now()) {
                Some(tokens) => SignIn::Issued(tokens),
                None => SignIn::Unavailable(BackendFault::Lost(Loss::Unreadable)),
            },
            Read::Done => SignIn::Unavailable(BackendFault::Lost(Loss::Unreadable)),
            Read::Refused => SignIn::Refused,
            Read::Unavailable(fault) => SignIn::Unavailable(fault),
        }
    }

    /// The URL of a call. `None` where an id is missing or could change the path.
    fn url(&self, path: &str, session: Option<&SessionId>, user: Option<&str>) -> Option<Url> {
        let mut path = path.to_owned();
        if path.contains("{session}") {
            path = path.replace("{session}", session?.expose());
        }
        if path.contains("{user}") {
            path = path.replace("{user}", SessionId::parse(user?)?.expose());
        }
        let base = self.settings.url.as_str().trim_end_matches('/');
        Url::parse(&format!("{base}{path}")).ok()
    }

    fn read(&self, answered: &Answered) -> Read {
        let status = answered.status;
        let no_decision = Read::Unavailable(answered.no_decision());
        // A proxy before the backend speaks here: the request may have reached the backend and spent the token.
        if matches!(status, StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT) {
            return Read::Unavailable(BackendFault::Lost(Loss::Broken));
        }
        let Body::Json(json) = &answered.body else { return no_decision };
        if status.is_success() && json.get("isSuccess") == Some(&Value::Bool(true)) {
            return match json.get("data").and_then(|data| Session::deserialize(data).ok()) {
                Some(session) => Read::Session(session),
                None => Read::Done,
            };
        }
        // Without an envelope's own `isSuccess: false`, a success may have spent the token.
        if status.is_success() && json.get("isSuccess") != Some(&Value::Bool(false)) {
            return Read::Unavailable(BackendFault::Lost(Loss::Unreadable));
        }
        match self.settings.answers.classify(status, json) {
            Meaning::Refused => Read::Refused,
            Meaning::Unavailable => no_decision,
            Meaning::Ours => Read::Unavailable(BackendFault::ClientRejected { status: status.as_u16() }),
        }
    }
}

impl SessionBackend for Directory {
    fn capabilities(&self) -> Capabilities {
        Self::CAPABILITIES
    }

    fn renew<'a>(&'a self, pair: &'a Pair) -> Reply<'a, Answer> {
        Box::pin(self.renew_pair(pair))
    }

    fn revoke<'a>(&'a self, ending: &'a Ending) -> Reply<'a, Revocation> {
        Box::pin(self.end(ending))
    }

    fn sign_in<'a>(&'a self, credentials: &'a Credentials) -> Reply<'a, SignIn> {
        Box::pin(self.start(credentials))
    }
}

enum Read {
    Session(Session),
    /// Success that brought no session.
    Done,
    Refused,
    Unavailable(BackendFault),
}

/// The session object of an answer, as far as it is about tokens.
#[derive(Deserialize)]
struct Session {
    #[serde(default)]
    id: Value,
    token: String,
    #[serde(default)]
    expiry: Value,
    refresh: Option<Refresh>,
}

#[derive(Deserialize)]
struct Refresh {
    token: String,
    #[serde(default)]
    expiry: Value,
}

impl Session {
    /// The tokens; beside a renewal without a new refresh token, or without an id, the presented one stays.
    fn tokens(self, presented: Option<&Pair>, received_at: UnixTime) -> Option<TokenSet> {
        // An odd id or expiry is as good as none: the tokens beside it are the only ones left.
        let moment = |value: &Value| value.as_str().and_then(crate::clock::parse_iso);
        let session = self.id.as_str().and_then(SessionId::parse);
        let (refresh, rotated, refresh_expires) = match self.refresh {
            Some(refresh) => (RefreshToken::parse(&refresh.token)?, true, moment(&refresh.expiry)),
            None => (presented?.refresh.clone(), false, None),
        };
        Some(TokenSet {
            access: AccessToken::parse(&self.token)?,
            refresh,
            rotated,
            session: session.or_else(|| presented.and_then(|pair| pair.session.clone())),
            access_expires: moment(&self.expiry),
            refresh_expires,
            received_at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classify(status: u16, json: &Value) -> Meaning {
        default_answers().classify(StatusCode::from_u16(status).expect("a status"), json)
    }

    #[test]
    fn each_row_of_the_table() {
        let failure = |code: &str| json!({"isSuccess": false, "code": code});
        for code in ["SESSION_EXPIRED", "CLAIMS_EXPIRED", "INVALID_TOKEN", "DISGEXP", "DISGINV", "DI_SG_INV"]
        {
            for status in [200, 400, 401, 403, 500] {
                assert_eq!(classify(status, &failure(code)), Meaning::Refused, "{status} {code}");
            }
        }
        for code in ["INVALID_DEVICE", "INVALID_IP", "ACCESS_DENIED"] {
            for status in [200, 400, 401, 403] {
                assert_eq!(classify(status, &failure(code)), Meaning::Ours, "{status} {code}");
            }
        }
        assert_eq!(classify(401, &failure("WHATEVER")), Meaning::Refused);
        assert_eq!(classify(401, &json!({"error": "x"})), Meaning::Unavailable, "no envelope, no decision");
        for status in [200, 400, 403, 404, 429, 500, 502, 503] {
            assert_eq!(classify(status, &failure("UNKNOWN")), Meaning::Unavailable, "{status}");
            assert_eq!(classify(status, &json!({"isSuccess": false})), Meaning::Unavailable, "{status}");
        }
    }

    #[test]
    fn rows_from_the_settings_come_first() {
        let row = Row {
            status: Some(409),
            member: Some(("error.kind".into(), "gone".into())),
            meaning: Meaning::Refused,
        };
        let table = default_answers().after(vec![row]);
        let status = StatusCode::CONFLICT;
        assert_eq!(table.classify(status, &json!({"error": {"kind": "gone"}})), Meaning::Refused);
        assert_eq!(table.classify(status, &json!({"error": {"kind": "busy"}})), Meaning::Unavailable);
    }
}
