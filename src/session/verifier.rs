//! Decides whether an access token is genuine, for us, and whose.
//! In: token text, the moment. Out: [`Verified`]. Errors: [`TokenFault`]. I/O: none; keys come as a snapshot.
//! Source: RFC 7519 §4.1 (claims), §7.2 (validation); RFC 8725 §3.1 (one algorithm per key); RFC 9068 §4 (`at+jwt`).

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use jsonwebtoken::Algorithm;
use quick_cache::sync::Cache;
use quick_cache::{Equivalent, Weighter};
use serde_json::{Map, Value};

use crate::clock::{UnixTime, parse_iso};
use crate::identity::{Identity, claim_at, session_at, subject_at};
use crate::outcome::{BackendFault, TokenFault};
use crate::session::desk::{Asked, KeyDesk, Missed};
use crate::session::jwt::{Header, Unverified};
use crate::session::keys::{self, VerificationKey, name_of};
use crate::token::AccessToken;

/// How an access token is checked.
#[derive(Debug)]
pub struct TokenRules {
    /// The keys at the start, each with its one algorithm.
    pub keys: Vec<VerificationKey>,
    /// Every algorithm that a key may have.
    pub algorithms: Vec<Algorithm>,
    /// Whether other keys may come.
    pub supply: Supply,
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

/// Where keys come from once the gateway runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supply {
    /// They stay as they are.
    Fixed,
    /// Somebody fetches them, and is asked for those that are missing.
    Fetched,
}

impl TokenRules {
    /// Whether what a key verifies by these rules is the same, and kept the same, as by others.
    fn checks_alike(&self, other: &Self) -> bool {
        let of = |rules: &Self| {
            (
                (rules.algorithms.clone(), rules.issuer.clone(), rules.audience.clone(), rules.leeway),
                (rules.subject.clone(), rules.session.clone(), rules.expiry.clone()),
                (rules.max_size, rules.cache),
            )
        };
        of(self) == of(other)
    }
}

/// Whether what tells of tokens, published keys or a backend, is where it was by the settings before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// It is.
    Same,
    /// It is not.
    Other,
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

/// Whether other keys came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// They did.
    New,
    /// These are the keys that were there.
    Same,
}

/// Verifies access tokens and remembers those that are genuine.
#[derive(Debug)]
pub struct Verifier {
    rules: TokenRules,
    current: ArcSwap<Current>,
    desk: Option<KeyDesk>,
}

/// The keys of a moment, and the tokens that they verified. They go together: a token that is verified with keys which
/// are being replaced is remembered beside those, and not beside the new ones.
#[derive(Debug)]
struct Current {
    keys: Arc<Vec<VerificationKey>>,
    cache: Cache<Genuine, Known, TokenWeight>,
    /// The header of the last genuine token that had another one than the one before: most have the same.
    header: ArcSwapOption<Header>,
}

impl Current {
    fn new(keys: Arc<Vec<VerificationKey>>, cache: u64) -> Arc<Self> {
        let items = usize::try_from(cache / 2048).unwrap_or(usize::MAX).max(16);
        let cache = Cache::with_weighter(items, cache, TokenWeight);
        Arc::new(Self { keys, cache, header: ArcSwapOption::empty() })
    }
}

impl Verifier {
    /// A verifier with these rules.
    #[must_use]
    pub fn new(mut rules: TokenRules) -> Self {
        let keys = Arc::new(std::mem::take(&mut rules.keys));
        let current = ArcSwap::new(Current::new(keys, rules.cache));
        let desk = (rules.supply == Supply::Fetched).then(KeyDesk::default);
        Self { rules, current, desk }
    }

    /// A verifier with these rules that goes on where `before` is: with its keys where these come from the same `source` and
    /// the rules bring none, and with all that it remembers where keys and rules are the same.
    #[must_use]
    pub fn successor(rules: TokenRules, before: &Self, source: Source) -> Self {
        let same_rules = rules.checks_alike(&before.rules);
        let next = Self::new(rules);
        let old = before.current.load_full();
        let brings_none = next.current.load().keys.is_empty();
        let inherits =
            source == Source::Same && brings_none && next.rules.algorithms == before.rules.algorithms;
        if same_rules && (inherits || keys::are_same(&old.keys, &next.current.load().keys)) {
            next.current.store(old);
        } else if inherits {
            next.current.store(Current::new(Arc::clone(&old.keys), next.rules.cache));
        }
        next
    }

    /// The allowance for clocks that differ.
    #[must_use]
    pub fn leeway(&self) -> Duration {
        self.rules.leeway
    }

    /// Every algorithm that a key may have.
    #[must_use]
    pub fn algorithms(&self) -> &[Algorithm] {
        &self.rules.algorithms
    }

    /// Where those who miss a key ask for it; `None`: the keys stay as they are.
    #[must_use]
    pub const fn desk(&self) -> Option<&KeyDesk> {
        self.desk.as_ref()
    }

    /// Verifies with these keys from now on. Nothing that other keys verified is remembered.
    pub fn replace(&self, keys: Vec<VerificationKey>) -> Replaced {
        if keys::are_same(&self.current.load().keys, &keys) {
            return Replaced::Same;
        }
        let next = Current::new(Arc::new(keys), self.rules.cache);
        self.current.store(Arc::clone(&next));
        if let Some(desk) = &self.desk {
            desk.published(|expected| next.keys.iter().any(|key| key.key_id() == Some(expected)));
        }
        Replaced::New
    }

    /// Verifies a presented token, from memory where this very token was verified before.
    /// What is remembered is keyed by the whole token, and its expiry is held against `now` each time.
    #[must_use]
    pub fn verify(&self, token: &AccessToken, now: UnixTime) -> (Verified, Seen) {
        let current = self.current.load();
        if let Some(known) = current.cache.get(&AsGenuine(token.expose().as_bytes())) {
            return (self.at(known.identity, now), Seen::Before);
        }
        let verified = self.verify_with(&current, token, now);
        if let Verified::Live(identity) = &verified {
            let known = Known { token: token.clone(), identity: identity.clone() };
            current.cache.insert(Genuine(token.clone()), known);
        }
        (verified, Seen::First)
    }

    /// The token of this text and what it is now, where it was verified before: such a text need not be read again.
    #[must_use]
    pub fn known(&self, text: &[u8], now: UnixTime) -> Option<(AccessToken, Verified)> {
        let Known { token, identity } = self.current.load().cache.get(&AsGenuine(text))?;
        Some((token, self.at(identity, now)))
    }

    /// Verifies a token without asking or filling the memory: for tokens that were just issued.
    #[must_use]
    pub fn verify_fresh(&self, token: &AccessToken, now: UnixTime) -> Verified {
        self.verify_with(&self.current.load(), token, now)
    }

    /// As [`verify_fresh`](Self::verify_fresh), for a token that the session backend has issued: where no known key made its
    /// signature, the keys are asked for at once. Its issuer may have begun to use another one this moment, under the old name even.
    pub async fn verify_issued(&self, token: &AccessToken, now: UnixTime) -> Verified {
        let verified = self.verify_fresh(token, now);
        let Some(desk) = &self.desk else { return verified };
        let missing = |verified: &Verified| {
            matches!(verified, Verified::Invalid(TokenFault::UnknownKey | TokenFault::Signature))
        };
        if !missing(&verified) {
            return verified;
        }
        let found = || !missing(&self.verify_fresh(token, now));
        desk.ask(Missed::Issued, now, found).await;
        let verified = self.verify_fresh(token, now);
        if let (Verified::Invalid(TokenFault::UnknownKey), Some(key_id)) = (&verified, key_id(token)) {
            desk.expect(key_id, now);
        }
        verified
    }

    /// As [`verify`](Self::verify), and where the token is signed with a key that is not known, its issuer's keys are asked
    /// for and it is verified again. Only such tokens wait.
    ///
    /// # Errors
    /// [`BackendFault`] where that leaves it open whether the key is the issuer's: nobody is renewed or sent to the login
    /// for want of keys.
    pub async fn verify_asking(
        &self,
        token: &AccessToken,
        now: UnixTime,
    ) -> Result<(Verified, Seen), BackendFault> {
        let verified = self.verify(token, now);
        if verified.0 != Verified::Invalid(TokenFault::UnknownKey) {
            return Ok(verified);
        }
        match Box::pin(self.ask_for_key(token, now)).await {
            Asked::Found => Ok(self.verify(token, now)),
            Asked::Missing => Ok(verified),
            Asked::Away(fault) => Err(fault),
        }
    }

    /// Asks for the key of a presented token that is [`TokenFault::UnknownKey`].
    async fn ask_for_key(&self, token: &AccessToken, now: UnixTime) -> Asked {
        let Some(desk) = &self.desk else { return Asked::Missing };
        let known = || self.verify_fresh(token, now) != Verified::Invalid(TokenFault::UnknownKey);
        let expected = key_id(token).is_some_and(|key_id| desk.expects(&key_id, now));
        let missed = if expected { Missed::Expected } else { Missed::Presented };
        desk.ask(missed, now, known).await
    }

    fn verify_with(&self, current: &Current, token: &AccessToken, now: UnixTime) -> Verified {
        match self.check(current, token.expose(), now) {
            Ok(identity) => self.at(identity, now),
            Err(fault) => Verified::Invalid(fault),
        }
    }

    fn at(&self, identity: Identity, now: UnixTime) -> Verified {
        if identity.expires_at().is_some_and(|end| now < end.saturating_add(self.rules.leeway)) {
            Verified::Live(identity)
        } else {
            Verified::Expired(identity)
        }
    }

    /// Everything but the expiry's comparison with `now`.
    fn check(&self, current: &Current, text: &str, now: UnixTime) -> Result<Identity, TokenFault> {
        if text.len() > self.rules.max_size {
            return Err(TokenFault::TooLong);
        }
        let before = current.header.load();
        let token = Unverified::parse(text, before.as_ref())?;
        self.check_signature(&current.keys, &token)?;
        if before.as_ref().is_none_or(|before| !Arc::ptr_eq(before, &token.header)) {
            current.header.store(Some(Arc::clone(&token.header)));
        }
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

    /// A token that names a key is held against the keys of that name, and those without one; each with its own algorithm.
    fn check_signature(&self, keys: &[VerificationKey], token: &Unverified<'_>) -> Result<(), TokenFault> {
        if !self.rules.algorithms.iter().any(|listed| name_of(*listed) == token.header.algorithm) {
            return Err(TokenFault::Header);
        }
        let mut fault = TokenFault::UnknownKey;
        for key in keys {
            // A key without a name may be the one that a token names: only the signature tells.
            let surely_meant = match (&token.header.key_id, key.key_id()) {
                (Some(asked), Some(name)) if asked != name => continue,
                (Some(_), Some(_)) | (None, _) => true,
                (Some(_), None) => false,
            };
            let tried = token.header.algorithm == name_of(key.algorithm());
            if tried && key.verifies(token.signed.as_bytes(), &token.signature) {
                return Ok(());
            }
            match (surely_meant, tried) {
                (true, true) => fault = TokenFault::Signature,
                (true, false) if fault == TokenFault::UnknownKey => fault = TokenFault::Header,
                (true | false, _) => {}
            }
        }
        Err(fault)
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
        let subject = subject_at(&claims, &self.rules.subject)?;
        let session = match &self.rules.session {
            Some(path) => session_at(&claims, path)?,
            None => None,
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

/// The name of the key that a token says it is signed with.
fn key_id(token: &AccessToken) -> Option<String> {
    Unverified::parse(token.expose(), None).ok()?.header.key_id.clone()
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

/// A token's share of the cache: its text as key and, taken apart into claims, several times over as value, with what is kept
/// beside it.
#[derive(Clone, Debug)]
struct TokenWeight;

impl Weighter<Genuine, Known> for TokenWeight {
    fn weight(&self, Genuine(token): &Genuine, _: &Known) -> u64 {
        1024 + 6 * token.expose().len() as u64
    }
}

/// A token that was verified. It is found by the end of its signature, in which all that are genuine differ, and compared as a whole.
#[derive(Debug, PartialEq, Eq)]
struct Genuine(AccessToken);

/// What is remembered of it.
#[derive(Clone, Debug)]
struct Known {
    /// The same token.
    token: AccessToken,
    identity: Identity,
}

/// A text that may be one of them.
struct AsGenuine<'a>(&'a [u8]);

/// So many bytes at the end tell genuine tokens apart: 192 bits of their signature.
const TELLING: usize = 32;

impl Hash for AsGenuine<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.0.last_chunk::<TELLING>().map_or(self.0, <[u8; TELLING]>::as_slice));
    }
}

impl Hash for Genuine {
    fn hash<H: Hasher>(&self, state: &mut H) {
        AsGenuine(self.0.expose().as_bytes()).hash(state);
    }
}

impl Equivalent<Genuine> for AsGenuine<'_> {
    fn equivalent(&self, known: &Genuine) -> bool {
        let known = known.0.expose().as_bytes();
        std::ptr::eq(self.0, known) || self.0 == known
    }
}

#[cfg(test)]
mod tests;
