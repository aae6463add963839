//! The `sanic_jwt` wire: the endpoints that sanic-jwt adds to a Sanic app.
//! In: access token and refresh token. Out: answers. Errors: none; a fault is an answer. I/O: HTTP.
//!
//! A session is renewed with both its tokens: the access token, which has to be genuine and may be over for as long as it
//! likes, and the refresh token, of which the app usually keeps one for each user. The answer brings a new access token and
//! nothing else. Where the app reads headers, the access token is presented in one and the refresh token in the body; where
//! it reads cookies, both are, and the access token may be in two. There is no endpoint that ends a session. Where this
//! gateway has no key, the app says whether a token is genuine; what it holds is read only then.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::COOKIE;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use url::Url;

use crate::backend::call::{Answered, Body, Caller};
use crate::backend::classify::{Meaning, Row, Table};
use crate::backend::{Further, Reply, SessionBackend, SignIn};
use crate::clock::{Clock, UnixTime};
use crate::dial::Dialer;
use crate::outcome::{
    Ahead, Answer, BackendFault, Believed, Capabilities, Introspection, Introspects, Loss, RefusalReason,
    Revocation,
};
use crate::token::{AccessToken, Credentials, Ending, Pair, RefreshToken, TokenSet};

/// How early a token is renewed: an app renews an expired one just as well.
const AHEAD: Duration = Duration::from_secs(30);

/// The reason that an app gives for a genuine token that is over.
const EXPIRED: &str = "Signature has expired.";

/// Where the app is, how it wants its tokens, and what its answers mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SanicJwtSettings {
    /// The app's base, such as `https://api.example`.
    pub url: Url,
    /// Where sanic-jwt's endpoints are below it (`url_prefix`): empty, or with a slash in front.
    pub prefix: String,
    /// An endpoint of the app's own that ends a session; `None`: the app has none.
    pub sign_out: Option<String>,
    /// Where the app looks for tokens.
    pub tokens: TokenPlace,
    /// Whose word about a user is asked for when a token is asked about.
    pub profile: Profile,
    /// The names of what is in requests and answers.
    pub members: Members,
    /// What refusals and faults look like.
    pub answers: Table,
}

impl SanicJwtSettings {
    /// What this app can and needs.
    #[must_use]
    pub const fn capabilities(&self) -> Capabilities {
        Capabilities {
            rotates: false,
            needs_session: false,
            kills_access: false,
            renews_on_401: false,
            needs_access: true,
            revokes_with_live_access: self.sign_out.is_some(),
            introspects: Introspects::Offered,
            ahead: Ahead::Span(AHEAD),
        }
    }
}

impl Members {
    /// What a sign-in carries beside name and password.
    #[must_use]
    pub fn further(&self) -> Further<'_> {
        Further::AllBut([&self.user, &self.password])
    }
}

/// What a token that was asked about tells of its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// The claims that it holds.
    Claims,
    /// Besides, what the app says of the user (`/me`).
    Me,
}

/// Where the app looks for tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenPlace {
    /// The access token in a header, the refresh token in the body.
    Header {
        /// The header's name (`authorization_header`).
        name: String,
        /// What stands before the token (`authorization_header_prefix`); empty: nothing.
        scheme: String,
    },
    /// Each in a cookie (`cookie_set`).
    Cookies {
        /// `cookie_access_token_name`.
        access: String,
        /// `cookie_refresh_token_name`.
        refresh: String,
        /// `cookie_split_signature_name`, where the app splits the access token (`cookie_split`).
        signature: Option<String>,
    },
}

/// The names of JSON members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// The access token (`access_token_name`).
    pub access: String,
    /// The refresh token (`refresh_token_name`).
    pub refresh: String,
    /// The user's name in a sign-in, as the app reads it.
    pub user: String,
    /// The password in a sign-in, as the app reads it.
    pub password: String,
}

impl Default for Members {
    fn default() -> Self {
        Self {
            access: "access_token".into(),
            refresh: "refresh_token".into(),
            user: "username".into(),
            password: "password".into(),
        }
    }
}

/// The meanings that need no setting.
///
/// The access token was verified here before it is presented, so an app that does not take it has another key, or looks for
/// it elsewhere. A user who is gone comes as status 500. Under which status what comes depends on the app's `debug`.
#[must_use]
pub fn default_answers() -> Table {
    let member = |path: &str, text: &str, meaning| Row {
        status: None,
        member: Some((path.into(), text.into())),
        meaning,
    };
    let refused = ["AuthenticationFailed", "InvalidRetrieveUserObject"];
    // The app does not take this genuine token any more, and says why.
    let reasons = [EXPIRED, "Verifications were not met.", "Custom claim value was not met."];
    let ours = [
        "Unauthorized",
        "MissingAuthorizationHeader",
        "MissingAuthorizationCookie",
        "MissingAuthorizationQueryArg",
        "InvalidAuthorizationHeader",
        "InvalidToken",
        "RefreshTokenNotImplemented",
        "MeEndpointNotSetup",
        "AuthenticateNotImplemented",
        "UserSecretNotImplemented",
    ];
    let nowhere = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED];
    let rows = refused.map(|name| member("exception", name, Meaning::Refused)).into_iter();
    let rows = rows.chain(reasons.map(|text| member("reasons", text, Meaning::Refused)));
    let rows = rows.chain(ours.map(|name| member("exception", name, Meaning::Ours)));
    let nowhere =
        nowhere.map(|status| Row { status: Some(status.as_u16()), member: None, meaning: Meaning::Ours });
    Table::new(rows.chain(nowhere).collect())
}

/// The wire.
#[derive(Debug)]
pub struct SanicJwt {
    settings: SanicJwtSettings,
    caller: Caller,
    clock: Arc<dyn Clock>,
}

impl SanicJwt {
    /// Apps verify what they are sent.
    pub const BELIEVED: Believed =
        Believed { names: &[], prefixes: &[], parameters: &[], parameter_prefixes: &[] };

    /// A wire to the app at `settings.url`.
    #[must_use]
    pub fn new(settings: SanicJwtSettings, dialer: Dialer, clock: Arc<dyn Clock>) -> Self {
        Self { settings, caller: Caller::new(dialer), clock }
    }

    async fn renew_pair(&self, pair: &Pair) -> Answer {
        let Some(access) = &pair.access else { return Answer::Unavailable(BackendFault::Internal) };
        let shown = self.shown(access, Some(&pair.refresh));
        match self.post(&format!("{}/refresh", self.settings.prefix), &shown).await {
            Read::Success(json) => match self.tokens(&json, Some(pair)) {
                Some(tokens) => Answer::Issued(tokens),
                None => Answer::Unavailable(BackendFault::Lost(Loss::Unreadable)),
            },
            Read::Refused => Answer::Refused(RefusalReason::ByBackend),
            Read::Unavailable(fault) => Answer::Unavailable(fault),
        }
    }

    async fn tell(&self, access: &AccessToken) -> Introspection {
        let shown = self.shown(access, None);
        let answered = match self.get("verify", &shown).await {
            Ok(answered) => answered,
            Err(fault) => return Introspection::Unavailable(fault),
        };
        // The app looks at the signature first: what is only over is genuine.
        let over = match &answered.body {
            Body::Json(json) if json.get("valid") == Some(&Value::Bool(true)) => false,
            Body::Json(json) if json.get("valid") == Some(&Value::Bool(false)) => {
                if !says(json, EXPIRED) {
                    return Introspection::Inactive;
                }
                true
            }
            Body::Json(_) | Body::Empty | Body::Page | Body::Other => return self.undecided(answered),
        };
        let Some(claims) = held(access) else { return Introspection::Inactive };
        let moment = |name: &str| claims.get(name).and_then(Value::as_u64).map(UnixTime::from_secs);
        let issued_at = moment("iat");
        // The app's word counts, whatever our clock says.
        let now = self.clock.now();
        let ended = moment("exp").filter(|end| *end <= now).unwrap_or(UnixTime::from_secs(0));
        let expires_at = if over { Some(ended) } else { moment("exp") };
        let claims = match self.settings.profile {
            Profile::Me if !over => match self.with_profile(claims, &shown).await {
                Ok(claims) => claims,
                Err(other) => return other,
            },
            Profile::Me | Profile::Claims => claims,
        };
        Introspection::Active { claims, issued_at, expires_at }
    }

    /// Claims, and what the app says of the user beside them. What a token holds comes first.
    async fn with_profile(
        &self,
        claims: Map<String, Value>,
        shown: &Shown,
    ) -> Result<Map<String, Value>, Introspection> {
        let answered = self.get("me", shown).await.map_err(Introspection::Unavailable)?;
        match &answered.body {
            Body::Json(json) if answered.status.is_success() => match json.get("me") {
                Some(Value::Object(me)) => {
                    let mut all = me.clone();
                    all.extend(claims);
                    Ok(all)
                }
                // Nobody whom the app knows.
                Some(_) | None => Err(Introspection::Inactive),
            },
            Body::Json(_) | Body::Empty | Body::Page | Body::Other => Err(self.undecided(answered)),
        }
    }

    /// What an answer means that says nothing of the token itself.
    fn undecided(&self, answered: Answered) -> Introspection {
        let no_decision = answered.no_decision();
        match self.read(answered) {
            Read::Success(_) => Introspection::Unavailable(no_decision),
            Read::Refused => Introspection::Inactive,
            Read::Unavailable(fault) => Introspection::Unavailable(fault),
        }
    }

    async fn end(&self, ending: &Ending) -> Revocation {
        // Without an endpoint there is nothing more to end: what this gateway remembers has to do.
        let Some(path) = &self.settings.sign_out else { return Revocation::Ended };
        let Some(access) = &ending.access else { return Revocation::Unavailable(BackendFault::Internal) };
        match self.post(path, &self.shown(access, ending.refresh.as_ref())).await {
            Read::Success(_) | Read::Refused => Revocation::Ended,
            Read::Unavailable(fault) => Revocation::Unavailable(fault),
        }
    }

    async fn start(&self, credentials: &Credentials) -> SignIn {
        let names = &self.settings.members;
        let mut body: Map<String, Value> =
            credentials.further.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        body.insert(names.user.clone(), credentials.user.as_str().into());
        body.insert(names.password.clone(), credentials.password.expose().as_str().into());
        let path = if self.settings.prefix.is_empty() { "/" } else { &self.settings.prefix };
        match self.post(path, &Shown { lines: Vec::new(), body: body.into() }).await {
            Read::Success(json) => match self.tokens(&json, None) {
                Some(tokens) => SignIn::Issued(tokens),
                None => SignIn::Unavailable(BackendFault::Lost(Loss::Unreadable)),
            },
            Read::Refused => SignIn::Refused,
            Read::Unavailable(fault) => SignIn::Unavailable(fault),
        }
    }

    /// Tokens where the app looks for them.
    fn shown(&self, access: &AccessToken, refresh: Option<&RefreshToken>) -> Shown {
        let token = access.expose();
        match &self.settings.tokens {
            TokenPlace::Header { name, scheme } => {
                let value = if scheme.is_empty() { token.to_owned() } else { format!("{scheme} {token}") };
                let name_of_refresh = self.settings.members.refresh.as_str();
                let body = refresh.map(|refresh| json!({name_of_refresh: refresh.expose()}));
                Shown { lines: vec![(name.clone(), value)], body: body.unwrap_or_else(|| json!({})) }
            }
            TokenPlace::Cookies { access, refresh: name, signature } => {
                let mut cookies = match signature.as_ref().zip(token.rsplit_once('.')) {
                    Some((name, (signed, signature))) => format!("{access}={signed}; {name}={signature}"),
                    None => format!("{access}={token}"),
                };
                if let Some(refresh) = refresh {
                    cookies = format!("{cookies}; {name}={}", refresh.expose());
                }
                Shown { lines: vec![(COOKIE.to_string(), cookies)], body: json!({}) }
            }
        }
    }

    async fn post(&self, path: &str, shown: &Shown) -> Read {
        let Some(url) = self.url(path) else { return Read::Unavailable(BackendFault::Internal) };
        match self.caller.json(Method::POST, &url, &shown.lines(), &shown.body).await {
            Ok(answered) => self.read(answered),
            Err(fault) => Read::Unavailable(fault),
        }
    }

    async fn get(&self, endpoint: &str, shown: &Shown) -> Result<Answered, BackendFault> {
        let path = format!("{}/{endpoint}", self.settings.prefix);
        let url = self.url(&path).ok_or(BackendFault::Internal)?;
        self.caller.get(&url, &shown.lines()).await
    }

    fn url(&self, path: &str) -> Option<Url> {
        let base = self.settings.url.as_str().trim_end_matches('/');
        Url::parse(&format!("{base}{path}")).ok()
    }

    fn read(&self, answered: Answered) -> Read {
        let status = answered.status;
        let no_decision = Read::Unavailable(answered.no_decision());
        let Body::Json(json) = answered.body else { return no_decision };
        if status.is_success() {
            return Read::Success(json);
        }
        match self.settings.answers.classify(status, &json) {
            Meaning::Refused => Read::Refused,
            Meaning::Unavailable => no_decision,
            Meaning::Ours => Read::Unavailable(BackendFault::ClientRejected { status: status.as_u16() }),
        }
    }

    /// The tokens of an answer; beside a renewal without a new refresh token the presented one stays.
    fn tokens(&self, json: &Value, presented: Option<&Pair>) -> Option<TokenSet> {
        let names = &self.settings.members;
        let issued = json.get(&names.refresh).and_then(Value::as_str).and_then(RefreshToken::parse);
        let old = presented.map(|pair| &pair.refresh);
        let rotated = issued.as_ref().is_some_and(|new| Some(new) != old);
        Some(TokenSet {
            access: AccessToken::parse(json.get(&names.access)?.as_str()?)?,
            refresh: issued.or_else(|| old.cloned())?,
            rotated,
            session: presented.and_then(|pair| pair.session.clone()),
            access_expires: None,
            refresh_expires: None,
            received_at: self.clock.now(),
        })
    }
}

/// Header lines and a body that present tokens.
struct Shown {
    lines: Vec<(String, String)>,
    body: Value,
}

impl Shown {
    fn lines(&self) -> Vec<(&str, &str)> {
        self.lines.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }
}

/// Whether an answer gives this reason among its reasons.
fn says(json: &Value, reason: &str) -> bool {
    json.get("reasons").and_then(Value::as_array).is_some_and(|all| all.iter().any(|one| one == reason))
}

/// What a JWT holds, unverified.
fn held(token: &AccessToken) -> Option<Map<String, Value>> {
    let middle = token.expose().split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(middle).ok()?).ok()
}

enum Read {
    Success(Value),
    Refused,
    Unavailable(BackendFault),
}

impl SessionBackend for SanicJwt {
    fn capabilities(&self) -> Capabilities {
        self.settings.capabilities()
    }

    fn renew<'a>(&'a self, pair: &'a Pair) -> Reply<'a, Answer> {
        Box::pin(self.renew_pair(pair))
    }

    fn introspect<'a>(&'a self, access: &'a AccessToken) -> Reply<'a, Introspection> {
        Box::pin(self.tell(access))
    }

    fn revoke<'a>(&'a self, ending: &'a Ending) -> Reply<'a, Revocation> {
        Box::pin(self.end(ending))
    }

    fn sign_in<'a>(&'a self, credentials: &'a Credentials) -> Reply<'a, SignIn> {
        Box::pin(self.start(credentials))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classify(status: u16, json: &Value) -> Meaning {
        default_answers().classify(StatusCode::from_u16(status).expect("a status"), json)
    }

    fn says(exception: &str, reason: &str) -> Value {
        json!({"reasons": [reason], "exception": exception})
    }

    #[test]
    fn each_row_of_the_table() {
        for (status, exception, reason) in [
            (401, "AuthenticationFailed", "Authentication failed."),
            (401, "AuthenticationFailed", "User not found."),
            (500, "InvalidRetrieveUserObject", "The retrieve_user method should return either a dict …"),
            (401, "Unauthorized", "Signature has expired."),
            (401, "Unauthorized", "Verifications were not met."),
            (401, "Unauthorized", "Custom claim value was not met."),
        ] {
            assert_eq!(classify(status, &says(exception, reason)), Meaning::Refused, "{exception} {reason}");
        }
        for (status, exception, reason) in [
            (401, "Unauthorized", "Auth required."),
            (401, "Unauthorized", "Authorization header not present."),
            (400, "MissingAuthorizationHeader", "Authorization header not present."),
            (401, "MissingAuthorizationCookie", "Authorization cookie not present."),
            (400, "MissingAuthorizationQueryArg", "Authorization query argument not present."),
            (400, "InvalidAuthorizationHeader", "Authorization header is invalid."),
            (401, "InvalidToken", "Auth required."),
            (500, "RefreshTokenNotImplemented", "Refresh tokens have not been enabled."),
            (500, "MeEndpointNotSetup", "/me endpoint has not been setup."),
            (500, "AuthenticateNotImplemented", "…"),
            (500, "UserSecretNotImplemented", "…"),
        ] {
            assert_eq!(classify(status, &says(exception, reason)), Meaning::Ours, "{exception} {reason}");
        }
        for status in [404, 405] {
            assert_eq!(classify(status, &json!({"description": "Not Found"})), Meaning::Ours, "{status}");
        }
        for status in [400, 401, 403, 429, 500, 503] {
            assert_eq!(classify(status, &says("ServerError", "x")), Meaning::Unavailable, "{status}");
            assert_eq!(classify(status, &json!({})), Meaning::Unavailable, "{status}");
        }
    }

    #[test]
    fn any_item_of_a_list_counts_and_rows_from_the_settings_come_first() {
        let row = Row {
            status: Some(401),
            member: Some(("reasons".into(), "Auth required.".into())),
            meaning: Meaning::Refused,
        };
        let table = default_answers().after(vec![row]);
        let two = json!({"reasons": ["x", "Auth required."], "exception": "Unauthorized"});
        assert_eq!(table.classify(StatusCode::UNAUTHORIZED, &two), Meaning::Refused);
        assert_eq!(classify(401, &two), Meaning::Ours);
        let nested = json!({"reasons": [["Auth required."]], "exception": "Unauthorized"});
        assert_eq!(table.classify(StatusCode::UNAUTHORIZED, &nested), Meaning::Ours);
    }
}
