//! The `egov_user` wire: DIGIT's egov-user, an OAuth 2 token endpoint with opaque tokens and a few calls of its own.
//! In: refresh token, access token. Out: answers. Errors: none. I/O: HTTP.
//! Source: RFC 6749 §2.3.1 (client), §5.2 (errors), §6 (refresh); otherwise what the service itself answers.
//!
//! A renewal keeps the refresh token and ends the old access token at once. Two sign-ins of one person share one pair. The
//! sign-out call ends the access token alone: the refresh token would go on working, so it is this gateway that remembers
//! it as signed out. No call tells when a token ends, but for the answer that issues it.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use url::Url;

use crate::backend::call::{Answered, Body, Caller};
use crate::backend::classify::{Meaning, Row, Table};
use crate::backend::{Reply, SessionBackend, SignIn};
use crate::clock::Clock;
use crate::dial::Dialer;
use crate::outcome::{
    Ahead, Answer, BackendFault, Believed, Capabilities, Guarded, Introspection, Introspects, Loss,
    RefusalReason, Revocation,
};
use crate::secret::Secret;
use crate::token::{AccessToken, Credentials, Ending, Pair, RefreshToken, TokenSet};

/// Where the service is, as whom it is asked, and what its answers mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgovUserSettings {
    /// Its base, such as `https://digit.example`.
    pub url: Url,
    /// The paths of its calls.
    pub paths: EgovUserPaths,
    /// This gateway's name as a client (RFC 6749 §2.2).
    pub client_id: String,
    /// Its secret; empty where the service wants none.
    pub client_secret: Secret<String>,
    /// `tenantId` of a sign-in that names none.
    pub tenant: Option<String>,
    /// `userType` of a sign-in that names none.
    pub user_type: Option<String>,
    /// What refusals and faults look like.
    pub answers: Table,
}

impl EgovUserSettings {
    /// What is sent for each field of [`EgovUser::FURTHER`] that a sign-in does not name.
    #[must_use]
    pub const fn defaults(&self) -> [Option<&String>; 2] {
        [self.tenant.as_ref(), self.user_type.as_ref()]
    }
}

/// The paths of the calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgovUserPaths {
    /// Issues and renews.
    pub token: String,
    /// Says whose an access token is.
    pub details: String,
    /// Ends an access token.
    pub logout: String,
}

impl Default for EgovUserPaths {
    fn default() -> Self {
        Self {
            token: "/user/oauth/token".into(),
            details: "/user/_details".into(),
            logout: "/user/_logout".into(),
        }
    }
}

/// The meanings that need no setting.
///
/// 401 at the token endpoint is about this gateway's own client name and secret, but for a refresh token that was found
/// over. An account that was locked since is refused as an invalid request. What the sign-out call says of a token that it
/// does not know is a refusal of that token, too.
#[must_use]
pub fn default_answers() -> Table {
    let row = |status: Option<u16>, member: &str, text: &str, meaning| Row {
        status,
        member: Some((member.into(), text.into())),
        meaning,
    };
    let error = |status: u16, text: &str, meaning| row(Some(status), "error", text, meaning);
    let described = |text: &str| row(Some(400), "error_description", text, Meaning::Refused);
    Table::new(vec![
        error(400, "invalid_grant", Meaning::Refused),
        error(401, "invalid_token", Meaning::Refused),
        described("Account locked"),
        described("Please activate your account"),
        described("Invalid login credentials"),
        row(None, "Errors.code", "InvalidAccessTokenException", Meaning::Refused),
        row(None, "error.fields.code", "ACCESS_TOKEN_NOT_FOUND", Meaning::Refused),
        row(Some(400), "error.description", "Logout failed", Meaning::Refused),
        error(400, "invalid_request", Meaning::Ours),
        error(400, "invalid_scope", Meaning::Ours),
        error(400, "unsupported_grant_type", Meaning::Ours),
        error(401, "invalid_client", Meaning::Ours),
        error(401, "unauthorized", Meaning::Ours),
        error(401, "Unauthorized", Meaning::Ours),
    ])
}

/// The wire.
#[derive(Debug)]
pub struct EgovUser {
    settings: EgovUserSettings,
    /// `Authorization` of the token endpoint.
    client: Secret<String>,
    caller: Caller,
    clock: Arc<dyn Clock>,
}

impl EgovUser {
    /// What this kind of backend can and needs.
    pub const CAPABILITIES: Capabilities = Capabilities {
        rotates: false,
        needs_session: false,
        needs_access: false,
        revokes_with_live_access: false,
        kills_access: true,
        renews_on_401: true,
        introspects: Introspects::Needed,
        ahead: Ahead::Span(Duration::from_secs(30)),
    };

    /// What a sign-in carries beside name and password. The service signs nobody in without both.
    pub const FURTHER: [&'static str; 2] = ["tenantId", "userType"];

    /// What its services take from headers, as said by the gateway that usually stands before them.
    pub const BELIEVED: Believed = Believed {
        names: &[],
        prefixes: &["x_user_info", "x_pass_through_gateway", "tenantid"],
        parameters: &[],
        parameter_prefixes: &[],
    };

    /// A wire to the service at `settings.url`.
    #[must_use]
    pub fn new(settings: EgovUserSettings, dialer: Dialer, clock: Arc<dyn Clock>) -> Self {
        // Name and secret are form-encoded before they are joined (RFC 6749 §2.3.1).
        let encoded = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let pair = format!("{}:{}", encoded(&settings.client_id), encoded(settings.client_secret.expose()));
        let client = Secret::new(format!("Basic {}", STANDARD.encode(pair)));
        Self { settings, client, caller: Caller::new(dialer), clock }
    }

    async fn renew_pair(&self, refresh: &RefreshToken) -> Answer {
        let fields = [("grant_type", "refresh_token"), ("refresh_token", refresh.expose())];
        match self.token(&fields).await {
            Read::Said(json) => match self.issued(&json, Some(refresh)) {
                Some((tokens, Some(user))) => Answer::IssuedTo(tokens, user),
                Some((tokens, None)) => Answer::Issued(tokens),
                None => Answer::Unavailable(BackendFault::Lost(Loss::Unreadable)),
            },
            Read::Refused => Answer::Refused(RefusalReason::ByBackend),
            Read::Unavailable(fault) => Answer::Unavailable(fault),
        }
    }

    async fn start(&self, credentials: &Credentials) -> SignIn {
        let mut fields = vec![
            ("grant_type", "password"),
            ("scope", "read"),
            ("username", credentials.user.as_str()),
            ("password", credentials.password.expose()),
        ];
        // Nothing else that a client sends goes on: `isInternal` would skip the password.
        for (name, default) in Self::FURTHER.into_iter().zip(self.settings.defaults()) {
            let given = credentials.further.iter().find(|(key, _)| key == name).map(|(_, value)| value);
            fields.extend(given.or(default).map(|value| (name, value.as_str())));
        }
        match self.token(&fields).await {
            Read::Said(json) => match self.issued(&json, None) {
                Some((tokens, _)) => SignIn::Issued(tokens),
                None => SignIn::Unavailable(BackendFault::Lost(Loss::Unreadable)),
            },
            Read::Refused => SignIn::Refused,
            Read::Unavailable(fault) => SignIn::Unavailable(fault),
        }
    }

    async fn ask(&self, access: &AccessToken) -> Introspection {
        // As a form: a token in the address would stand in logs on the way.
        let fields = [("access_token", access.expose())];
        match self.form(&self.settings.paths.details, &[], &fields).await {
            // Somebody is named, or this is not the answer that was asked for.
            Read::Said(Value::Object(claims)) if claims.contains_key("userName") => {
                Introspection::Active { claims, issued_at: None, expires_at: None }
            }
            Read::Said(_) => Introspection::Unavailable(BackendFault::Lost(Loss::Unreadable)),
            Read::Refused => Introspection::Inactive,
            Read::Unavailable(fault) => Introspection::Unavailable(fault),
        }
    }

    /// Ends the session's access token. One that the service does not know was replaced or is over: then the session is
    /// renewed once and what that brings is ended, so that the next sign-in does not bring the same pair again.
    async fn end(&self, ending: &Ending) -> Revocation {
        if let Some(access) = &ending.access {
            match self.log_out(access).await {
                Read::Said(_) => return Revocation::Ended,
                Read::Refused => {}
                Read::Unavailable(fault) => return Revocation::Unavailable(fault),
            }
        }
        let Some(refresh) = &ending.refresh else { return Revocation::Ended };
        let access = match self.renew_pair(refresh).await {
            Answer::Issued(tokens) | Answer::IssuedTo(tokens, _) => tokens.access,
            Answer::Refused(_) => return Revocation::Ended,
            Answer::Unavailable(fault) => return Revocation::Unavailable(fault),
        };
        match self.log_out(&access).await {
            Read::Said(_) | Read::Refused => Revocation::Ended,
            Read::Unavailable(fault) => Revocation::Unavailable(fault),
        }
    }

    async fn log_out(&self, access: &AccessToken) -> Read {
        let Some(url) = self.url(&self.settings.paths.logout) else {
            return Read::Unavailable(BackendFault::Internal);
        };
        let token = access.expose();
        let body = json!({"access_token": token, "RequestInfo": {"authToken": token}});
        match self.caller.json(Method::POST, &url, &[], &body).await {
            Ok(answered) => self.read(answered),
            Err(fault) => Read::Unavailable(fault),
        }
    }

    async fn token(&self, fields: &[(&str, &str)]) -> Read {
        self.form(&self.settings.paths.token, &[(AUTHORIZATION.as_str(), self.client.expose())], fields).await
    }

    async fn form(&self, path: &str, headers: &[(&'static str, &str)], fields: &[(&str, &str)]) -> Read {
        let Some(url) = self.url(path) else { return Read::Unavailable(BackendFault::Internal) };
        match self.caller.form(&url, headers, fields).await {
            Ok(answered) => self.read(answered),
            Err(fault) => Read::Unavailable(fault),
        }
    }

    fn url(&self, path: &str) -> Option<Url> {
        let base = self.settings.url.as_str().trim_end_matches('/');
        Url::parse(&format!("{base}{path}")).ok()
    }

    fn read(&self, answered: Answered) -> Read {
        let status = answered.status;
        let no_decision = answered.no_decision();
        // A proxy before the service speaks here: what came of the request behind it is not known.
        if matches!(status, StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT) {
            return Read::Unavailable(BackendFault::Lost(Loss::Broken));
        }
        let json = match answered.body {
            Body::Json(json) => json,
            // Success that says nothing readable may have renewed all the same, unless it is plainly somebody's page.
            Body::Empty | Body::Other if status.is_success() => {
                return Read::Unavailable(BackendFault::Lost(Loss::Unreadable));
            }
            Body::Empty | Body::Other | Body::Page => return Read::Unavailable(no_decision),
        };
        if status.is_success() {
            return Read::Said(json);
        }
        match self.settings.answers.classify(status, &json) {
            Meaning::Refused => Read::Refused,
            Meaning::Unavailable => Read::Unavailable(no_decision),
            Meaning::Ours => Read::Unavailable(BackendFault::ClientRejected { status: status.as_u16() }),
        }
    }

    /// The tokens of an answer and whom it names. Beside a renewal without a refresh token the presented one stays.
    fn issued(
        &self,
        json: &Value,
        presented: Option<&RefreshToken>,
    ) -> Option<(TokenSet, Option<Map<String, Value>>)> {
        let text = |name: &str| json.get(name).and_then(Value::as_str);
        let received_at = self.clock.now();
        let refresh = match text("refresh_token") {
            Some(text) => RefreshToken::parse(text)?,
            None => presented?.clone(),
        };
        let life = json.get("expires_in").and_then(Value::as_u64).map(Duration::from_secs);
        let tokens = TokenSet {
            access: AccessToken::parse(text("access_token")?)?,
            rotated: presented != Some(&refresh),
            refresh,
            session: None,
            access_expires: life.map(|life| received_at.saturating_add(life)),
            refresh_expires: None,
            received_at,
        };
        let user = json.get("UserRequest").and_then(Value::as_object);
        Some((tokens, user.filter(|user| user.contains_key("userName")).cloned()))
    }
}

impl SessionBackend for EgovUser {
    fn capabilities(&self) -> Capabilities {
        Self::CAPABILITIES
    }

    fn guarded(&self) -> Option<Guarded> {
        Some(Guarded { path: self.settings.paths.token.clone(), parameters: &["isinternal"] })
    }

    fn renew<'a>(&'a self, pair: &'a Pair) -> Reply<'a, Answer> {
        Box::pin(self.renew_pair(&pair.refresh))
    }

    fn introspect<'a>(&'a self, access: &'a AccessToken) -> Reply<'a, Introspection> {
        Box::pin(self.ask(access))
    }

    fn revoke<'a>(&'a self, ending: &'a Ending) -> Reply<'a, Revocation> {
        Box::pin(self.end(ending))
    }

    fn sign_in<'a>(&'a self, credentials: &'a Credentials) -> Reply<'a, SignIn> {
        Box::pin(self.start(credentials))
    }
}

enum Read {
    /// A success, and what it says.
    Said(Value),
    Refused,
    Unavailable(BackendFault),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classify(status: u16, json: &Value) -> Meaning {
        default_answers().classify(StatusCode::from_u16(status).expect("a status"), json)
    }

    #[test]
    fn each_row_of_the_table() {
        let oauth = |error: &str, text: &str| json!({"error": error, "error_description": text});
        let tracer = |code: &str| json!({"ResponseInfo": null, "Errors": [{"code": "x"}, {"code": code}]});
        let adapter = json!({"error": {"code": 400, "message": "Access Token Not Found",
            "fields": [{"code": "ACCESS_TOKEN_NOT_FOUND", "field": "access_token"}]}});
        let logout = json!({"error": {"code": 400, "message": null, "description": "Logout failed"}});
        for (status, json, meaning) in [
            (400, oauth("invalid_grant", "Invalid refresh token: x"), Meaning::Refused),
            (401, oauth("invalid_token", "Invalid refresh token (expired): x"), Meaning::Refused),
            (400, oauth("invalid_request", "Account locked"), Meaning::Refused),
            (400, oauth("invalid_request", "Please activate your account"), Meaning::Refused),
            (400, oauth("invalid_request", "Invalid login credentials"), Meaning::Refused),
            (400, tracer("InvalidAccessTokenException"), Meaning::Refused),
            (401, tracer("InvalidAccessTokenException"), Meaning::Refused),
            (400, adapter.clone(), Meaning::Refused),
            (401, adapter, Meaning::Refused),
            (400, logout.clone(), Meaning::Refused),
            (400, oauth("invalid_request", "Missing grant type"), Meaning::Ours),
            (400, oauth("invalid_request", "TenantId is mandatory"), Meaning::Ours),
            (400, oauth("invalid_scope", "x"), Meaning::Ours),
            (400, oauth("unsupported_grant_type", "x"), Meaning::Ours),
            (401, oauth("invalid_client", "x"), Meaning::Ours),
            (401, oauth("unauthorized", "x"), Meaning::Ours),
            (
                401,
                json!({"status": 401, "error": "Unauthorized", "path": "/user/oauth/token"}),
                Meaning::Ours,
            ),
            // What decides nothing.
            (500, oauth("server_error", "x"), Meaning::Unavailable),
            (500, oauth("invalid_grant", "x"), Meaning::Unavailable),
            (500, logout, Meaning::Unavailable),
            (403, oauth("access_denied", "x"), Meaning::Unavailable),
            (400, tracer("HttpRequestMethodNotSupportedException"), Meaning::Unavailable),
            (400, tracer(""), Meaning::Unavailable),
            (401, json!({"error": "who are you"}), Meaning::Unavailable),
            (429, json!({}), Meaning::Unavailable),
        ] {
            assert_eq!(classify(status, &json), meaning, "{status} {json}");
        }
    }
}
