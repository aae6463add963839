//! Decides whether an access token is genuine, for us, and whose.
//! In: token text, the moment. Out: [`Verified`]. Errors: [`TokenFault`]. I/O: none; keys are part of the verifier.
//! Source: RFC 7519 §4.1 (claims), §7.2 (validation); RFC 8725 §3.1 (one algorithm per key); RFC 9068 §4 (`at+jwt`).

use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use serde_json::{Map, Value};

use crate::clock::{UnixTime, parse_iso};
use crate::identity::{Identity, claim_at};
use crate::outcome::TokenFault;
use crate::session::jwt::Unverified;
use crate::token::{AccessToken, SessionId};

/// How an access token is checked.
#[derive(Debug)]
pub struct TokenRules {
    /// The keys, each with its one algorithm.
    pub keys: Vec<VerificationKey>,
    /// `iss`, exactly; `None`: not checked.
    pub issuer: Option<String>,
    /// One of these has to be in `aud`; empty: not checked.
    pub audience: Vec<String>,
    /// Allowance for clocks that differ.
    pub leeway: Duration,
    /// Path of the claim that names the user.
    pub subject: String,
    /// Path of the claim that names the session, where the backend has one.
    pub session: Option<String>,
    /// Path of a claim that gives the expiry as ISO 8601 text, taken beside `exp`; the earlier one counts.
    pub expiry: Option<String>,
    /// Longest token taken, in bytes.
    pub max_size: usize,
    /// Memory for verified tokens, in bytes.
    pub cache: u64,
}

/// A key and the one algorithm it is used with.
pub struct VerificationKey {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// The key's name; a token that names a key is checked with that one only, where any key has a name.
    pub key_id: Option<String>,
    /// The key.
    pub key: DecodingKey,
}

impl std::fmt::Debug for VerificationKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerificationKey")
            .field("algorithm", &self.algorithm)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

/// What a token turned out to be at a given moment.
#[derive(Clone, Debug, PartialEq)]
pub enum Verified {
    /// Genuine and not over.
    Live(Identity),
    /// Genuine, but over.
    Expired(Identity),
    /// Not to be believed.
    Invalid(TokenFault),
}

/// Whether the answer came from memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// This very token was verified before.
    Before,
    /// It was verified just now.
    First,
}

/// Verifies access tokens and remembers those that are genuine.
#[derive(Debug)]
pub struct Verifier {
    rules: TokenRules,
    cache: Cache<AccessToken, Identity, TokenWeight>,
}

impl Verifier {
    /// A verifier with these rules.
    #[must_use]
    pub fn new(rules: TokenRules) -> Self {
        let items = usize::try_from(rules.cache / 2048).unwrap_or(usize::MAX).max(16);
        let cache = Cache::with_weighter(items, rules.cache, TokenWeight);
        Self { rules, cache }
    }

    /// The allowance for clocks that differ.
    #[must_use]
    pub fn leeway(&self) -> Duration {
        self.rules.leeway
    }

    /// Verifies a presented token, from memory where this very token was verified before.
    /// What is remembered is keyed by the whole token, and its expiry is held against `now` each time.
    #[must_use]
    pub fn verify(&self, token: &AccessToken, now: UnixTime) -> (Verified, Seen) {
        if let Some(identity) = self.cache.get(token) {
            return (self.at(identity, now), Seen::Before);
        }
        let verified = self.verify_fresh(token, now);
        if let Verified::Live(identity) = &verified {
            self.cache.insert(token.clone(), identity.clone());
        }
        (verified, Seen::First)
    }

    /// Verifies a token without asking or filling the memory: for tokens that were just issued.
    #[must_use]
    pub fn verify_fresh(&self, token: &AccessToken, now: UnixTime) -> Verified {
        match self.check(token.expose(), now) {
            Ok(identity) => self.at(identity, now),
            Err(fault) => Verified::Invalid(fault),
        }
    }

    fn at(&self, identity: Identity, now: UnixTime) -> Verified {
        if now < identity.expires_at().saturating_add(self.rules.leeway) {
            Verified::Live(identity)
        } else {
            Verified::Expired(identity)
        }
    }

    /// Everything but the expiry's comparison with `now`.
    fn check(&self, text: &str, now: UnixTime) -> Result<Identity, TokenFault> {
        if text.len() > self.rules.max_size {
            return Err(TokenFault::TooLong);
        }
        let token = Unverified::parse(text)?;
        self.check_signature(&token)?;
        let claims = token.claims;
        if let Some(from) = number(&claims, "nbf")?
            && now.saturating_add(self.rules.leeway) < from
        {
            return Err(TokenFault::NotYet);
        }
        self.check_issuer(&claims)?;
        self.check_audience(&claims)?;
        self.identify(claims)
    }

    fn check_signature(&self, token: &Unverified<'_>) -> Result<(), TokenFault> {
        let named = |key: &&VerificationKey| match (&token.key_id, &key.key_id) {
            (Some(asked), Some(name)) => asked == name,
            (_, None) | (None, _) => true,
        };
        let mut known_algorithm = false;
        for key in self.rules.keys.iter().filter(named) {
            if token.algorithm != name_of(key.algorithm) {
                continue;
            }
            known_algorithm = true;
            if matches!(
                crypto::verify(token.signature, token.signed.as_bytes(), &key.key, key.algorithm),
                Ok(true)
            ) {
                return Ok(());
            }
        }
        Err(if known_algorithm { TokenFault::Signature } else { TokenFault::Header })
    }

    fn check_issuer(&self, claims: &Map<String, Value>) -> Result<(), TokenFault> {
        match (&self.rules.issuer, claims.get("iss")) {
            (None, None | Some(Value::String(_))) => Ok(()),
            (Some(wanted), Some(Value::String(issuer))) if wanted == issuer => Ok(()),
            (_, Some(Value::String(_)) | None) => Err(TokenFault::Issuer),
            (_, Some(_)) => Err(TokenFault::ClaimType),
        }
    }

    fn check_audience(&self, claims: &Map<String, Value>) -> Result<(), TokenFault> {
        let listed: Vec<&str> = match claims.get("aud") {
            None => Vec::new(),
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(many)) => {
                many.iter().map(Value::as_str).collect::<Option<_>>().ok_or(TokenFault::ClaimType)?
            }
            Some(_) => return Err(TokenFault::ClaimType),
        };
        let wanted = &self.rules.audience;
        let ours = wanted.is_empty() || listed.iter().any(|aud| wanted.iter().any(|own| own == aud));
        if ours { Ok(()) } else { Err(TokenFault::Audience) }
    }

    fn identify(&self, claims: Map<String, Value>) -> Result<Identity, TokenFault> {
        let expires_at = self.expiry(&claims)?;
        let issued_at = number(&claims, "iat")?;
        let subject = match claim_at(&claims, &self.rules.subject) {
            None | Some(Value::Null) => return Err(TokenFault::NoSubject),
            Some(Value::String(text)) if text.is_empty() => return Err(TokenFault::NoSubject),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => return Err(TokenFault::ClaimType),
        };
        let session = match self.rules.session.as_deref().and_then(|path| claim_at(&claims, path)) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(SessionId::parse(text).ok_or(TokenFault::ClaimType)?),
            Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                return Err(TokenFault::ClaimType);
            }
        };
        Ok(Identity::new(subject, session, issued_at, expires_at, claims))
    }

    fn expiry(&self, claims: &Map<String, Value>) -> Result<UnixTime, TokenFault> {
        let numeric = number(claims, "exp")?;
        let written = match self.rules.expiry.as_deref().and_then(|path| claim_at(claims, path)) {
            None => None,
            Some(Value::String(text)) => Some(parse_iso(text).ok_or(TokenFault::ClaimType)?),
            Some(_) => return Err(TokenFault::ClaimType),
        };
        match (numeric, written) {
            (Some(a), Some(b)) => Ok(a.min(b)),
            (Some(one), None) | (None, Some(one)) => Ok(one),
            (None, None) => Err(TokenFault::NoExpiry),
        }
    }
}

/// The `NumericDate` under `name` (RFC 7519 §2): a JSON number, fractions dropped. Another type is a refusal.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked before")]
fn number(claims: &Map<String, Value>, name: &str) -> Result<Option<UnixTime>, TokenFault> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    if let Some(secs) = value.as_u64() {
        return Ok(Some(UnixTime::from_secs(secs)));
    }
    match value.as_f64() {
        Some(secs) if (0.0..9.0e15).contains(&secs) => Ok(Some(UnixTime::from_secs(secs as u64))),
        Some(_) | None => Err(TokenFault::ClaimType),
    }
}

/// `alg` as RFC 7518 §3.1 and RFC 8037 §3.1 write it.
#[must_use]
pub const fn name_of(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::HS256 => "HS256",
        Algorithm::HS384 => "HS384",
        Algorithm::HS512 => "HS512",
        Algorithm::ES256 => "ES256",
        Algorithm::ES384 => "ES384",
        Algorithm::RS256 => "RS256",
        Algorithm::RS384 => "RS384",
        Algorithm::RS512 => "RS512",
        Algorithm::PS256 => "PS256",
        Algorithm::PS384 => "PS384",
        Algorithm::PS512 => "PS512",
        Algorithm::EdDSA => "EdDSA",
        _ => "",
    }
}

/// A token's share of the cache: its text as key and, taken apart into claims, several times over as value.
#[derive(Clone, Debug)]
struct TokenWeight;

impl Weighter<AccessToken, Identity> for TokenWeight {
    fn weight(&self, token: &AccessToken, _: &Identity) -> u64 {
        512 + 6 * token.expose().len() as u64
    }
}

#[cfg(test)]
mod tests;
