//! The directory's tokens: two kinds of JWT, each under its own secret, both HS256.
//! In: claims; token texts. Out: token texts; [`Reading`]. Errors: [`Failure::Unknown`] where signing or the system's
//! random numbers fail. I/O: none.
//! Source: RFC 7519 §4.1 (registered claims); RFC 7515 §10.1 (why `alg` is pinned); OpenAge `parsers/claims.js` (the rest).

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::clock::UnixTime;
use crate::demo::directory::DirectorySettings;
use crate::demo::directory::envelope::Failure;
use crate::demo::people::{ORGANIZATION, Person, TENANT};
use crate::random;
use crate::secret::Secret;

/// Longest token looked at, in bytes; ours stay far below.
const TOKEN_CAP: usize = 4096;

/// What an access token says.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AccessClaims {
    pub(super) session_id: String,
    /// ISO 8601 with milliseconds; the same moment as `exp`.
    expiry: String,
    exp: UnixTime,
    iat: UnixTime,
    jti: String,
    pub(super) user_id: String,
    email: String,
    purpose: String,
    role_key: String,
    permissions: Vec<String>,
    organization_code: String,
    tenant_code: String,
}

/// What a refresh token says.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RefreshClaims {
    pub(super) session_id: String,
    pub(super) jti: String,
    expiry: String,
    exp: UnixTime,
    iat: UnixTime,
    /// Always [`FOR_REFRESH`], so that the kinds stay apart even where both secrets are the same.
    purpose: String,
}

/// The `purpose` of a refresh token.
pub(super) const FOR_REFRESH: &str = "refresh";

/// What became of a token that was read.
pub(super) enum Reading<C> {
    /// Ours, and its time is not over.
    Current(C),
    /// Ours, but its time is over.
    Expired(C),
    /// Not ours, or not of this kind.
    Invalid,
}

/// Two tokens for one session, not handed out yet.
pub(super) struct Pair {
    pub(super) access: Secret<String>,
    pub(super) access_expires: UnixTime,
    pub(super) refresh: Secret<String>,
    pub(super) refresh_expires: UnixTime,
    /// Which refresh token this is, for the session to remember.
    pub(super) refresh_jti: String,
}

/// Whom and what a pair is for.
pub(super) struct Bearer<'a> {
    pub(super) session_id: &'a str,
    pub(super) person: &'a Person,
    pub(super) purpose: &'a str,
}

/// Signs and reads both kinds.
pub(super) struct Signer {
    access: Keys,
    refresh: Keys,
    validation: Validation,
}

struct Keys {
    sign: EncodingKey,
    verify: DecodingKey,
}

impl Keys {
    fn of(secret: &Secret<String>) -> Self {
        let bytes = secret.expose().as_bytes();
        Self { sign: EncodingKey::from_secret(bytes), verify: DecodingKey::from_secret(bytes) }
    }
}

impl Signer {
    pub(super) fn new(settings: &DirectorySettings) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        // The library would ask the system for the time; here the clock is a parameter.
        validation.validate_exp = false;
        Self {
            access: Keys::of(&settings.access_secret),
            refresh: Keys::of(&settings.refresh_secret),
            validation,
        }
    }

    /// A new pair, alive from `now` for as long as the settings say.
    pub(super) fn issue(
        &self,
        bearer: &Bearer<'_>,
        settings: &DirectorySettings,
        now: UnixTime,
    ) -> Result<Pair, Failure> {
        let access_expires = now.saturating_add(settings.access_life);
        let refresh_expires = now.saturating_add(settings.refresh_life);
        let person = bearer.person;
        let access = AccessClaims {
            session_id: bearer.session_id.to_owned(),
            expiry: iso(access_expires),
            exp: access_expires,
            iat: now,
            jti: random_hex::<16>()?,
            user_id: person.id.to_owned(),
            email: person.email.to_owned(),
            purpose: bearer.purpose.to_owned(),
            role_key: person.role_key.to_owned(),
            permissions: person.permissions.iter().map(|permission| (*permission).to_owned()).collect(),
            organization_code: ORGANIZATION.1.to_owned(),
            tenant_code: TENANT.1.to_owned(),
        };
        let refresh_jti = random_hex::<16>()?;
        let refresh = RefreshClaims {
            session_id: bearer.session_id.to_owned(),
            jti: refresh_jti.clone(),
            expiry: iso(refresh_expires),
            exp: refresh_expires,
            iat: now,
            purpose: FOR_REFRESH.to_owned(),
        };
        Ok(Pair {
            access: signed(&access, &self.access)?,
            access_expires,
            refresh: signed(&refresh, &self.refresh)?,
            refresh_expires,
            refresh_jti,
        })
    }

    /// Reads an access token.
    pub(super) fn access(&self, token: &str, now: UnixTime) -> Reading<AccessClaims> {
        match self.verified::<AccessClaims>(token, &self.access) {
            Some(claims) if claims.purpose == FOR_REFRESH => Reading::Invalid,
            Some(claims) if claims.exp <= now => Reading::Expired(claims),
            Some(claims) => Reading::Current(claims),
            None => Reading::Invalid,
        }
    }

    /// Reads a refresh token.
    pub(super) fn refresh(&self, token: &str, now: UnixTime) -> Reading<RefreshClaims> {
        match self.verified::<RefreshClaims>(token, &self.refresh) {
            Some(claims) if claims.purpose != FOR_REFRESH => Reading::Invalid,
            Some(claims) if claims.exp <= now => Reading::Expired(claims),
            Some(claims) => Reading::Current(claims),
            None => Reading::Invalid,
        }
    }

    fn verified<C: DeserializeOwned>(&self, token: &str, keys: &Keys) -> Option<C> {
        if token.len() > TOKEN_CAP {
            return None;
        }
        decode::<C>(token, &keys.verify, &self.validation).ok().map(|token| token.claims)
    }
}

fn signed<C: Serialize>(claims: &C, keys: &Keys) -> Result<Secret<String>, Failure> {
    encode(&Header::new(Algorithm::HS256), claims, &keys.sign).map(Secret::new).map_err(|fault| {
        tracing::error!(%fault, "demo: a token could not be signed");
        Failure::Unknown
    })
}

/// `BYTES` random bytes as lower-case hexadecimal digits.
pub(super) fn random_hex<const BYTES: usize>() -> Result<String, Failure> {
    let mut bytes = [0; BYTES];
    random::fill(&mut bytes).map_err(|fault| {
        tracing::error!(%fault, "demo: the system gave no random numbers");
        Failure::Unknown
    })?;
    Ok(bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]).filter_map(hex_digit).collect())
}

fn hex_digit(nibble: u8) -> Option<char> {
    char::from_digit(u32::from(nibble), 16)
}

/// The moment as the directory writes it: `2023-03-21T15:13:47.000Z`.
pub(super) fn iso(moment: UnixTime) -> String {
    let seconds = i64::try_from(moment.as_secs()).unwrap_or(i64::MAX);
    format!("{:.3}", Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_with_milliseconds_and_z() {
        assert_eq!(iso(UnixTime::from_secs(1_679_411_627)), "2023-03-21T15:13:47.000Z");
        assert!(iso(UnixTime::from_secs(u64::MAX)).ends_with('Z'));
    }

    #[test]
    fn random_ids_have_their_length_and_differ() {
        let one = random_hex::<12>().unwrap();
        assert_eq!(one.len(), 24);
        assert!(one.bytes().all(|b| b.is_ascii_hexdigit()));
        assert_ne!(one, random_hex::<12>().unwrap());
    }
}
