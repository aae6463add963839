//! A JWK set: the public keys of a token issuer.
//! In: JSON. Out: [`KeySet`]. Errors: [`NoSet`]; a member that is not used is told and left out. I/O: none.
//! Source: RFC 7517 §4 (members), §5 (sets; unknown kinds are ignored), RFC 7518 §6 and RFC 8037 §2 (parts of a key).

use std::fmt;

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use crate::session::keys::{KeyFault, PublicKey, VerificationKey};

/// Most keys of a set that are used: each may cost a verification for a token that names no key.
const MOST_KEYS: usize = 64;

/// What a key set holds.
#[derive(Debug, Default)]
pub struct KeySet {
    /// The keys that are used.
    pub keys: Vec<VerificationKey>,
    /// The members that are not.
    pub left_out: Vec<LeftOut>,
}

/// A member of a key set that is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its `kid`.
    pub key_id: Option<String>,
    /// Why it is not used.
    pub fault: KeyFault,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key_id {
            Some(kid) => write!(f, "\"{}\": {}", kid.escape_debug(), self.fault),
            None => write!(f, "without a kid: {}", self.fault),
        }
    }
}

/// A JSON value that is no set of keys that could be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSet {
    /// It is no object with a list under `keys`.
    #[error("it is no JWK set: there is no list under \"keys\"")]
    NoList,
    /// None of its members can be used.
    #[error("it holds no key that can be used with the listed algorithms")]
    NoKey,
}

/// Reads a key set. Secrets in it are never used, whatever is listed.
///
/// # Errors
/// [`NoSet`] where nothing of it can be used.
pub fn read_set(json: &Value, listed: &[Algorithm]) -> Result<KeySet, NoSet> {
    let members = json.get("keys").and_then(Value::as_array).ok_or(NoSet::NoList)?;
    let mut set = KeySet::default();
    for member in members {
        let key_id = member.get("kid").and_then(Value::as_str).map(str::to_owned);
        match read_key(member, listed) {
            Ok(key) if set.keys.len() < MOST_KEYS => set.keys.push(key),
            Ok(_) => set.left_out.push(LeftOut { key_id, fault: KeyFault::TooMany }),
            Err(fault) => set.left_out.push(LeftOut { key_id, fault }),
        }
    }
    if set.keys.is_empty() { Err(NoSet::NoKey) } else { Ok(set) }
}

fn read_key(member: &Value, listed: &[Algorithm]) -> Result<VerificationKey, KeyFault> {
    let Value::Object(member) = member else { return Err(KeyFault::Unreadable) };
    let kind = text(member, "kty")?.ok_or(KeyFault::Unreadable)?;
    if !matches!(text(member, "use")?, None | Some("sig")) {
        return Err(KeyFault::Use);
    }
    match member.get("key_ops") {
        None => {}
        Some(Value::Array(uses)) if uses.iter().any(|operation| operation == "verify") => {}
        Some(Value::Array(_)) => return Err(KeyFault::Use),
        Some(_) => return Err(KeyFault::Unreadable),
    }
    if kind == "oct" {
        return Err(KeyFault::Secret);
    }
    if member.contains_key("d") {
        return Err(KeyFault::Private);
    }
    let key_id = text(member, "kid")?.map(str::to_owned);
    let own = text(member, "alg")?;
    let der = match (kind, text(member, "crv")?) {
        ("RSA", _) => rsa(member)?,
        ("EC", Some("P-256")) => curve(member, &ECDSA_P256_SHA256_FIXED, 32)?,
        ("EC", Some("P-384")) => curve(member, &ECDSA_P384_SHA384_FIXED, 48)?,
        ("OKP", Some("Ed25519")) => spki(&ED25519, &bytes(member, "x", Some(32))?)?,
        _ => return Err(KeyFault::Kind),
    };
    PublicKey::from_spki(&der)?.pin(listed, own, key_id)
}

fn rsa(member: &Map<String, Value>) -> Result<Vec<u8>, KeyFault> {
    let number = |name| -> Result<Vec<u8>, KeyFault> {
        let bytes = bytes(member, name, None)?;
        // Some issuers write the zero octet of a signed number (against RFC 7518 §6.3.1.1): it changes nothing.
        Ok(bytes.into_iter().skip_while(|byte| *byte == 0).collect())
    };
    let key = PublicKeyComponents { n: number("n")?, e: number("e")? };
    let der: PublicKeyX509Der<'_> = key.as_der().map_err(|_rejected| KeyFault::Unreadable)?;
    Ok(der.as_ref().to_vec())
}

/// A point, uncompressed (RFC 7518 §6.2.1: coordinates in full length).
fn curve(
    member: &Map<String, Value>,
    algorithm: &'static dyn VerificationAlgorithm,
    size: usize,
) -> Result<Vec<u8>, KeyFault> {
    let (x, y) = (bytes(member, "x", Some(size))?, bytes(member, "y", Some(size))?);
    spki(algorithm, &[&[4], x.as_slice(), y.as_slice()].concat())
}

fn spki(algorithm: &'static dyn VerificationAlgorithm, raw: &[u8]) -> Result<Vec<u8>, KeyFault> {
    let key = ParsedPublicKey::new(algorithm, raw).map_err(|_rejected| KeyFault::Unreadable)?;
    let der: PublicKeyX509Der<'_> = key.as_der().map_err(|_rejected| KeyFault::Unreadable)?;
    Ok(der.as_ref().to_vec())
}

/// A member that has to be text where it is there.
fn text<'a>(member: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, KeyFault> {
    match member.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(KeyFault::Unreadable),
    }
}

fn bytes(member: &Map<String, Value>, name: &str, size: Option<usize>) -> Result<Vec<u8>, KeyFault> {
    let text = text(member, name)?.ok_or(KeyFault::Unreadable)?;
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_not_canonical| KeyFault::Unreadable)?;
    if size.is_some_and(|size| size != bytes.len()) {
        return Err(KeyFault::Unreadable);
    }
    Ok(bytes)
}
