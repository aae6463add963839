//! Who is asking, as a verified token says.
//! In: verified claims. Out: [`Identity`], cheap to clone. Errors: none. I/O: none.
//! Source: RFC 7519 §4 (claims).

use std::fmt;
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value};

use crate::clock::UnixTime;
use crate::outcome::SessionKey;
use crate::token::SessionId;

/// The facts of a verified access token (its expiry may have passed: see [`crate::outcome::TokenState`]).
#[derive(Clone, PartialEq)]
pub struct Identity(Arc<Facts>);

struct Facts {
    subject: String,
    session: Option<SessionId>,
    issued_at: Option<UnixTime>,
    expires_at: UnixTime,
    claims: Map<String, Value>,
    /// What the log calls this user, once it was asked for.
    label: OnceLock<String>,
}

impl PartialEq for Facts {
    fn eq(&self, other: &Self) -> bool {
        self.subject == other.subject
            && self.session == other.session
            && self.issued_at == other.issued_at
            && self.expires_at == other.expires_at
            && self.claims == other.claims
    }
}

impl Identity {
    /// An identity from verified claims. Only the verifier and tests make one.
    #[must_use]
    pub fn new(
        subject: String,
        session: Option<SessionId>,
        issued_at: Option<UnixTime>,
        expires_at: UnixTime,
        claims: Map<String, Value>,
    ) -> Self {
        Self(Arc::new(Facts { subject, session, issued_at, expires_at, claims, label: OnceLock::new() }))
    }

    /// The user, from the claim that the settings name.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// The session's id, where a claim names it.
    #[must_use]
    pub fn session(&self) -> Option<&SessionId> {
        self.0.session.as_ref()
    }

    /// `iat`, where the token has it.
    #[must_use]
    pub fn issued_at(&self) -> Option<UnixTime> {
        self.0.issued_at
    }

    /// The moment from which the token is no longer taken, leeway not counted.
    #[must_use]
    pub fn expires_at(&self) -> UnixTime {
        self.0.expires_at
    }

    /// What logs call this user: the beginning of a keyed digest, made once for each token.
    pub(crate) fn label(&self, digest: impl FnOnce() -> SessionKey) -> &str {
        self.0.label.get_or_init(|| digest().0.iter().take(6).map(|byte| format!("{byte:02x}")).collect())
    }

    /// The claim at a dotted path such as `role.key`. A claim whose own name holds the dots wins over the nested one.
    #[must_use]
    pub fn claim(&self, path: &str) -> Option<&Value> {
        claim_at(&self.0.claims, path)
    }
}

/// The claim at a dotted path, as [`Identity::claim`] finds it.
#[must_use]
pub fn claim_at<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    path.match_indices('.').find_map(|(dot, _)| {
        let (head, rest) = path.split_at_checked(dot)?;
        claim_at(claims.get(head)?.as_object()?, rest.get(1..)?)
    })
}

impl fmt::Debug for Identity {
    /// Claims are personal: they stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("expires_at", &self.0.expires_at).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_are_found_by_path() {
        let Value::Object(claims) =
            json!({"role": {"key": "admin", "a.b": 1}, "x.y": "flat", "x": {"y": "deep"}})
        else {
            panic!("an object")
        };
        let who = Identity::new("u".into(), None, None, UnixTime::from_secs(1), claims);
        assert_eq!(who.claim("role.key"), Some(&json!("admin")));
        assert_eq!(who.claim("role.a.b"), Some(&json!(1)));
        assert_eq!(who.claim("x.y"), Some(&json!("flat")));
        assert_eq!(who.claim("role.none"), None);
        assert_eq!(who.claim("role."), None);
        assert!(!format!("{who:?}").contains("admin"));
    }
}
