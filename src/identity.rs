//! Who is asking, as a verified token says.
//! In: verified claims. Out: [`Identity`], cheap to clone. Errors: none. I/O: none.
//! Source: RFC 7519 §4 (claims).

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use crate::clock::UnixTime;
use crate::marks::Marks;
use crate::outcome::{SessionKey, TokenFault};
use crate::token::SessionId;

/// The facts of a verified access token (its expiry may have passed: see [`crate::outcome::TokenState`]).
#[derive(Clone, PartialEq)]
pub struct Identity(Arc<Facts>, Option<UnixTime>);

struct Facts {
    subject: String,
    session: Option<SessionId>,
    issued_at: Option<UnixTime>,
    claims: Map<String, Value>,
    /// What the log calls this user, once it was asked for.
    label: OnceLock<String>,
    /// What apps are told of this user, once it was asked for, and the number of the settings that say what.
    told: OnceLock<(u64, Box<[Line]>)>,
    /// The names of the session that was last presented with this token, once they were asked for.
    marks: OnceLock<ArcSwapOption<Marks>>,
}

/// A header line that names a user.
pub type Line = (HeaderName, HeaderValue);

impl PartialEq for Facts {
    fn eq(&self, other: &Self) -> bool {
        self.subject == other.subject
            && self.session == other.session
            && self.issued_at == other.issued_at
            && self.claims == other.claims
    }
}

impl Identity {
    /// An identity from verified claims, or from those that its backend tells. `expires_at`: where anybody says.
    #[must_use]
    pub fn new(
        subject: String,
        session: Option<SessionId>,
        issued_at: Option<UnixTime>,
        expires_at: impl Into<Option<UnixTime>>,
        claims: Map<String, Value>,
    ) -> Self {
        let facts = Facts {
            subject,
            session,
            issued_at,
            claims,
            label: OnceLock::new(),
            told: OnceLock::new(),
            marks: OnceLock::new(),
        };
        Self(Arc::new(facts), expires_at.into())
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

    /// The moment from which the token is no longer taken, leeway not counted. `None`: nobody says; it lives until its
    /// backend says otherwise.
    #[must_use]
    pub const fn expires_at(&self) -> Option<UnixTime> {
        self.1
    }

    /// The same, for a token that itself does not say when it ends.
    #[must_use]
    pub fn until(self, end: UnixTime) -> Self {
        Self(self.0, self.1.or(Some(end)))
    }

    /// About how many bytes the claims take, as text.
    pub(crate) fn weight(&self) -> u64 {
        serde_json::to_string(&self.0.claims).map_or(0, |text| text.len() as u64)
    }

    /// What logs call this user: the beginning of a keyed digest, made once for each token.
    pub(crate) fn label(&self, digest: impl FnOnce() -> SessionKey) -> &str {
        self.0.label.get_or_init(|| {
            let hex = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or_default();
            digest().0.iter().take(6).flat_map(|byte| [hex(byte >> 4), hex(byte & 15)]).collect()
        })
    }

    /// What apps are told of this user by the settings with this number: written once for each token.
    ///
    /// # Errors
    /// Those of writing it.
    pub(crate) fn told<E>(
        &self,
        settings: u64,
        write: impl Fn() -> Result<Vec<Line>, E>,
    ) -> Result<Cow<'_, [Line]>, E> {
        if self.0.told.get().is_none() {
            // Where somebody else was faster, theirs stays.
            drop(self.0.told.set((settings, write()?.into())));
        }
        match self.0.told.get() {
            Some((of, told)) if *of == settings => Ok(Cow::Borrowed(told)),
            Some(_) | None => write().map(Cow::Owned),
        }
    }

    /// The names of the session that is presented with this token: those that are kept where they fit, else made, and kept
    /// where they may be.
    pub(crate) fn marks(&self, fit: impl Fn(&Marks) -> bool, make: impl FnOnce() -> Marks) -> Arc<Marks> {
        let kept = self.0.marks.get_or_init(ArcSwapOption::empty);
        if let Some(marks) = kept.load().as_ref().filter(|marks| fit(marks)) {
            return Arc::clone(marks);
        }
        let marks = Arc::new(make());
        if marks.brought().is_some() {
            kept.store(Some(Arc::clone(&marks)));
        }
        marks
    }

    /// The claim at a dotted path such as `role.key`. A claim whose own name holds the dots wins over the nested one. Where
    /// the path leads through a list of objects (`roles.code`), the claim is the list of what they hold there.
    #[must_use]
    pub fn claim(&self, path: &str) -> Option<Cow<'_, Value>> {
        find_claim(&self.0.claims, path)
    }

    /// Every claim.
    #[must_use]
    pub fn claims(&self) -> &Map<String, Value> {
        &self.0.claims
    }
}

/// The claim at a dotted path through objects alone.
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

/// The claim at a dotted path, as [`Identity::claim`] finds it.
#[must_use]
pub fn find_claim<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<Cow<'a, Value>> {
    claim_at(claims, path).map(Cow::Borrowed).or_else(|| in_lists(claims, path).map(Cow::Owned))
}

/// What the objects of a list on the way hold at the rest of the path; an object that holds nothing there is left out.
fn in_lists(claims: &Map<String, Value>, path: &str) -> Option<Value> {
    path.match_indices('.').find_map(|(dot, _)| {
        let (head, rest) = path.split_at_checked(dot)?;
        let rest = rest.get(1..)?;
        match claims.get(head)? {
            Value::Object(inner) => in_lists(inner, rest),
            Value::Array(items) => {
                let mut found = Vec::new();
                for item in items.iter().filter_map(Value::as_object) {
                    match find_claim(item, rest).map(Cow::into_owned) {
                        Some(Value::Array(several)) => found.extend(several),
                        Some(one) => found.push(one),
                        None => {}
                    }
                }
                (!found.is_empty()).then_some(Value::Array(found))
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        }
    })
}

/// The user that the claim at `path` names.
///
/// # Errors
/// [`TokenFault::NoSubject`] where it names none, [`TokenFault::ClaimType`] where it is neither text nor number.
pub fn subject_at(claims: &Map<String, Value>, path: &str) -> Result<String, TokenFault> {
    match claim_at(claims, path) {
        None | Some(Value::Null) => Err(TokenFault::NoSubject),
        Some(Value::String(text)) if text.is_empty() => Err(TokenFault::NoSubject),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => Err(TokenFault::ClaimType),
    }
}

/// The session that the claim at `path` names, if it is there.
///
/// # Errors
/// [`TokenFault::ClaimType`] where it is there and no id.
pub fn session_at(claims: &Map<String, Value>, path: &str) -> Result<Option<SessionId>, TokenFault> {
    match claim_at(claims, path) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => SessionId::parse(text).map(Some).ok_or(TokenFault::ClaimType),
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Err(TokenFault::ClaimType)
        }
    }
}

impl fmt::Debug for Identity {
    /// Claims are personal: they stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("expires_at", &self.1).finish_non_exhaustive()
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
        let claim = |path: &str| who.claim(path).map(Cow::into_owned);
        assert_eq!(claim("role.key"), Some(json!("admin")));
        assert_eq!(claim("role.a.b"), Some(json!(1)));
        assert_eq!(claim("x.y"), Some(json!("flat")));
        assert_eq!(claim("role.none"), None);
        assert_eq!(claim("role."), None);
        assert!(!format!("{who:?}").contains("admin"));
    }

    #[test]
    fn a_path_leads_through_lists_of_objects() {
        let Value::Object(claims) = json!({
            "roles": [{"code": "CITIZEN", "of": [{"x": 1}, {"x": 2}]}, "odd", {"name": "no code"}, {"code": "CLERK", "of": []}],
            "in": {"roles": [{"code": "A"}]},
            "none": [],
        }) else {
            panic!("an object")
        };
        let found = |path: &str| find_claim(&claims, path).map(Cow::into_owned);
        assert_eq!(found("roles.code"), Some(json!(["CITIZEN", "CLERK"])));
        assert_eq!(found("roles.of.x"), Some(json!([1, 2])));
        assert_eq!(found("in.roles.code"), Some(json!(["A"])));
        assert_eq!(found("roles.nothing"), None);
        assert_eq!(found("none.code"), None);
        assert_eq!(found("roles"), claims.get("roles").cloned());
    }
}
