//! The `oauth2` wire: the token endpoint of any OAuth 2 server.
//! In: a refresh token. Out: answers. Errors: none. I/O: HTTP.
//! Source: RFC 6749 §6 (refreshing), §5 (answers), RFC 7009 (revocation), RFC 7662 (introspection).
//!
//! A session is its refresh token: nothing else is presented for it. A new refresh token in an answer takes the place of
//! the presented one; without one the presented one stays. A server that rotates takes a second presentation of a spent
//! token for theft and ends the session, so rotation is assumed unless the settings say otherwise.

mod answer;
mod client;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::AUTHORIZATION;
use url::Url;

use crate::backend::call::{Answered, Body, Caller};
use crate::backend::classify::{Meaning, Table};
pub use crate::backend::oauth2::answer::default_answers;
use crate::backend::oauth2::answer::{Read, activity, says_unsupported, tokens};
use crate::backend::oauth2::client::Proof;
pub use crate::backend::oauth2::client::{Assertion, Client, ClientAuth, UnusableKey};
use crate::backend::{Reply, SessionBackend, SignIn};
use crate::clock::Clock;
use crate::dial::Dialer;
use crate::outcome::{
    Ahead, Answer, BackendFault, Believed, Capabilities, Introspection, Introspects, Loss, RefusalReason,
    Revocation,
};
use crate::token::{AccessToken, Credentials, Ending, Pair, TokenSet};

/// Where the endpoints are, as whom they are asked, and what their answers mean.
#[derive(Clone, Debug)]
pub struct OAuth2Settings {
    /// The token endpoint.
    pub token_url: Url,
    /// The revocation endpoint; `None`: signing out ends a session here only.
    pub revocation_url: Option<Url>,
    /// The introspection endpoint; `None`: access tokens are verified by their signature only.
    pub introspection_url: Option<Url>,
    /// This gateway as a client of the server.
    pub client: Client,
    /// What a renewal asks for; `None`: what the session had.
    pub scope: Option<String>,
    /// Further fields of a renewal.
    pub extra: Vec<(String, String)>,
    /// Whether each refresh token may be presented once.
    pub rotation: Rotation,
    /// What refusals and faults look like.
    pub answers: Table,
}

impl OAuth2Settings {
    /// Every endpoint.
    pub fn servers(&self) -> impl Iterator<Item = &Url> {
        [Some(&self.token_url), self.revocation_url.as_ref(), self.introspection_url.as_ref()]
            .into_iter()
            .flatten()
    }

    /// What such a backend can and needs.
    #[must_use]
    pub const fn capabilities(&self) -> Capabilities {
        Capabilities {
            rotates: match self.rotation {
                Rotation::Always | Rotation::Maybe => true,
                Rotation::Never => false,
            },
            needs_session: false,
            kills_access: false,
            renews_on_401: false,
            needs_access: false,
            revokes_with_live_access: false,
            introspects: match self.introspection_url {
                Some(_) => Introspects::Offered,
                None => Introspects::Never,
            },
            ahead: Ahead::Span(Duration::from_secs(30)),
        }
    }
}

/// Whether a server issues a new refresh token with each renewal and takes the old one no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// It does.
    Always,
    /// It does not.
    Never,
    /// Not known, or for some clients or tokens only: treated as if it did.
    Maybe,
}

/// The wire.
#[derive(Debug)]
pub struct OAuth2 {
    settings: OAuth2Settings,
    caller: Caller,
    clock: Arc<dyn Clock>,
    /// Whether it was told that answers contradict the settings.
    told: AtomicBool,
}

impl OAuth2 {
    /// What its services believe unverified: nothing that is known.
    pub const BELIEVED: Believed =
        Believed { names: &[], prefixes: &[], parameters: &[], parameter_prefixes: &[] };

    /// A wire to the endpoints of `settings`.
    #[must_use]
    pub fn new(settings: OAuth2Settings, dialer: Dialer, clock: Arc<dyn Clock>) -> Self {
        Self { settings, caller: Caller::new(dialer), clock, told: AtomicBool::new(false) }
    }

    async fn renew_pair(&self, pair: &Pair) -> Answer {
        let mut fields = vec![("grant_type", "refresh_token"), ("refresh_token", pair.refresh.expose())];
        fields.extend(self.settings.scope.as_deref().map(|scope| ("scope", scope)));
        fields.extend(self.settings.extra.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let answered = match self.ask(&self.settings.token_url, fields).await {
            Ok(answered) => answered,
            Err(fault) => return Answer::Unavailable(fault),
        };
        match self.read(&answered, pair) {
            Read::Issued(tokens) => {
                self.compare(&tokens);
                Answer::Issued(*tokens)
            }
            Read::Refused => Answer::Refused(RefusalReason::ByBackend),
            Read::Unavailable(fault) => Answer::Unavailable(fault),
        }
    }

    async fn look(&self, access: &AccessToken) -> Introspection {
        let Some(url) = &self.settings.introspection_url else {
            return Introspection::Unavailable(BackendFault::Internal);
        };
        let fields = vec![("token", access.expose()), ("token_type_hint", "access_token")];
        let answered = match self.ask(url, fields).await {
            Ok(answered) => answered,
            Err(fault) => return Introspection::Unavailable(fault),
        };
        let status = answered.status.as_u16();
        if let Body::Json(json) = &answered.body
            && answered.status.is_success()
            && let Some(introspection) = activity(json)
        {
            return introspection;
        }
        // Whatever else is said, nothing was said about the token.
        let ours = matches!(&answered.body, Body::Json(json) if says_unsupported(json))
            || self.meaning(&answered) == Some(Meaning::Ours);
        Introspection::Unavailable(if ours {
            BackendFault::ClientRejected { status }
        } else {
            answered.no_decision()
        })
    }

    /// Revokes the refresh token, which ends the session, and then the access token, as far as the server can.
    async fn end(&self, ending: &Ending) -> Revocation {
        // Without such an endpoint, what this gateway remembers of the sign-out is all there is.
        let Some(url) = &self.settings.revocation_url else { return Revocation::Ended };
        let refresh = ending.refresh.as_ref().map(|token| (token.expose(), "refresh_token"));
        let access = ending.access.as_ref().map(|token| (token.expose(), "access_token"));
        let mut revocation = Revocation::Ended;
        for (n, (token, hint)) in [refresh, access].into_iter().flatten().enumerate() {
            match self.revoke_one(url, token, hint).await {
                Revocation::Ended => {}
                Revocation::Unavailable(fault) if n == 0 => {
                    revocation = Revocation::Unavailable(fault);
                    break;
                }
                // The session cannot be renewed any more, and its access token ends by itself.
                Revocation::Unavailable(fault) => {
                    tracing::warn!(%fault, "a signed-out session's access token could not be revoked");
                }
            }
        }
        revocation
    }

    async fn revoke_one(&self, url: &Url, token: &str, hint: &'static str) -> Revocation {
        let answered = match self.ask(url, vec![("token", token), ("token_type_hint", hint)]).await {
            Ok(answered) => answered,
            Err(fault) => return Revocation::Unavailable(fault),
        };
        let status = answered.status.as_u16();
        match &answered.body {
            // What a success says besides is of no meaning (RFC 7009 §2.2), unless it is somebody else's page.
            Body::Json(_) | Body::Empty | Body::Other if answered.status.is_success() => Revocation::Ended,
            // It cannot revoke tokens of this kind (RFC 7009 §2.2.1): what is remembered here is what is left.
            Body::Json(json) if says_unsupported(json) => {
                tracing::debug!(hint, "the session backend revokes no tokens of this kind");
                Revocation::Ended
            }
            Body::Json(_) | Body::Empty | Body::Page | Body::Other => match self.meaning(&answered) {
                Some(Meaning::Refused) => Revocation::Ended,
                Some(Meaning::Ours) => Revocation::Unavailable(BackendFault::ClientRejected { status }),
                Some(Meaning::Unavailable) | None => Revocation::Unavailable(answered.no_decision()),
            },
        }
    }

    /// Posts a form as this gateway's client.
    async fn ask(&self, url: &Url, mut fields: Vec<(&str, &str)>) -> Result<Answered, BackendFault> {
        let Proof { authorization, fields: proof } =
            self.settings.client.prove(self.clock.now()).map_err(|_unproven| BackendFault::Internal)?;
        fields.extend(proof.iter().map(|(name, value)| (*name, value.expose().as_str())));
        let header = authorization.as_ref().map(|line| (AUTHORIZATION.as_str(), line.expose().as_str()));
        self.caller.form(url, header.as_slice(), &fields).await
    }

    fn read(&self, answered: &Answered, presented: &Pair) -> Read {
        let status = answered.status;
        // A proxy before the backend speaks here: the request may have reached the backend and spent the token.
        if matches!(status.as_u16(), 502 | 504) {
            return Read::Unavailable(BackendFault::Lost(Loss::Broken));
        }
        if status.is_success()
            && let Body::Json(json) = &answered.body
            && let Some(tokens) = tokens(json, presented, self.clock.now())
        {
            return Read::Issued(Box::new(tokens));
        }
        match self.meaning(answered) {
            Some(Meaning::Refused) => Read::Refused,
            Some(Meaning::Ours) => {
                Read::Unavailable(BackendFault::ClientRejected { status: status.as_u16() })
            }
            // A success that says nothing readable may have spent the token, unless it is plainly somebody's page.
            None if status.is_success() && !matches!(answered.body, Body::Page) => {
                Read::Unavailable(BackendFault::Lost(Loss::Unreadable))
            }
            Some(Meaning::Unavailable) | None => Read::Unavailable(answered.no_decision()),
        }
    }

    /// What the table says of an answer; `None`: nothing, or the answer is not the backend's.
    fn meaning(&self, answered: &Answered) -> Option<Meaning> {
        let nothing = serde_json::Value::Null;
        let json = match &answered.body {
            Body::Json(json) => json,
            Body::Empty => &nothing,
            Body::Page | Body::Other => return None,
        };
        self.settings.answers.find(answered.status, json)
    }

    /// Tells, once, that the backend does not do what the settings say of it.
    fn compare(&self, issued: &TokenSet) {
        let rotated = issued.rotated;
        let as_told = match self.settings.rotation {
            Rotation::Always => rotated,
            Rotation::Never => !rotated,
            Rotation::Maybe => true,
        };
        if !as_told && !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(rotated, "a renewal contradicts backend.oauth2.rotates: check that setting");
        }
    }
}

impl SessionBackend for OAuth2 {
    fn capabilities(&self) -> Capabilities {
        self.settings.capabilities()
    }

    fn renew<'a>(&'a self, pair: &'a Pair) -> Reply<'a, Answer> {
        Box::pin(self.renew_pair(pair))
    }

    fn introspect<'a>(&'a self, access: &'a AccessToken) -> Reply<'a, Introspection> {
        Box::pin(self.look(access))
    }

    fn revoke<'a>(&'a self, ending: &'a Ending) -> Reply<'a, Revocation> {
        Box::pin(self.end(ending))
    }

    fn sign_in<'a>(&'a self, _credentials: &'a Credentials) -> Reply<'a, SignIn> {
        Box::pin(std::future::ready(SignIn::NotOffered))
    }
}
