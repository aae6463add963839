//! Keys that verify access tokens, each pinned to the one algorithm that it is used with.
//! In: secrets, public keys, key sets. Out: [`VerificationKey`]. Errors: [`KeyFault`]. I/O: none.
//! Source: RFC 8725 §3.1 (one algorithm per key), §2.1 (confusion); RFC 7518 §3 (algorithms), RFC 8037 §3.1 (`EdDSA`).
//!
//! A public key is used with the algorithm that it names itself, if the settings list that one and the key is of its kind.
//! A key that names none is used with the one listed algorithm that fits it. Where several fit, it is left out: a choice
//! made by the token would be the sender's. Only RSA keys can be in that place; a curve has one algorithm.

mod pem;
mod set;

use std::fmt;

use aws_lc_rs::hmac;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{self as sig, EcdsaVerificationAlgorithm, ParsedPublicKey, VerificationAlgorithm};
use jsonwebtoken::Algorithm;

pub use crate::session::keys::pem::{looks_like_pem, read_pem};
pub use crate::session::keys::set::{KeySet, LeftOut, NoSet, read_set};

/// Fewest bits of an RSA key (RFC 7518 §3.3).
const RSA_BITS: usize = 2048;

/// A key and the one algorithm that it is used with.
pub struct VerificationKey {
    algorithm: Algorithm,
    key_id: Option<String>,
    material: Material,
}

enum Material {
    Secret(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

impl fmt::Debug for VerificationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerificationKey")
            .field("algorithm", &self.algorithm)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for VerificationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name_of(self.algorithm))?;
        match &self.key_id {
            Some(kid) => write!(f, " \"{}\"", kid.escape_debug()),
            None => f.write_str(" without a kid"),
        }
    }
}

impl VerificationKey {
    /// A secret for HS256, HS384 or HS512; `None` for every other algorithm.
    #[must_use]
    pub fn secret(algorithm: Algorithm, secret: &[u8]) -> Option<Self> {
        let hash = match name_of(algorithm) {
            "HS256" => hmac::HMAC_SHA256,
            "HS384" => hmac::HMAC_SHA384,
            "HS512" => hmac::HMAC_SHA512,
            _ => return None,
        };
        Some(Self {
            algorithm,
            key_id: None,
            material: Material::Secret(Box::new(hmac::Key::new(hash, secret))),
        })
    }

    /// The algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The key's name. A token that names a key is checked with the keys of that name and those without one.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// Whether this is the same public key with the same name and algorithm.
    fn is(&self, other: &Self) -> bool {
        let same = match (&self.material, &other.material) {
            (Material::Public(own), Material::Public(theirs)) => own.as_ref() == theirs.as_ref(),
            (Material::Secret(_), _) | (_, Material::Secret(_)) => false,
        };
        same && self.algorithm == other.algorithm && self.key_id == other.key_id
    }

    /// Whether this key made `signature` over `message`.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            Material::Public(key) => key.verify_sig(message, signature).is_ok(),
        }
    }
}

/// Whether both lists hold the same public keys in the same order.
pub(crate) fn are_same(some: &[VerificationKey], others: &[VerificationKey]) -> bool {
    some.len() == others.len() && some.iter().zip(others).all(|(one, other)| one.is(other))
}

/// Why a key is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// Its parts are missing, of the wrong type, no canonical base64url, or no key.
    #[error("it cannot be read")]
    Unreadable,
    /// Another kind of key than RSA, P-256, P-384 and Ed25519.
    #[error("it is of a kind that is not used here")]
    Kind,
    /// An RSA key that is too short.
    #[error("it has {bits} bits, and fewer than 2048 are too few for RSA (RFC 7518 §3.3)")]
    Weak {
        /// How many it has.
        bits: usize,
    },
    /// It is for something else than verifying signatures.
    #[error("it is not for verifying signatures")]
    Use,
    /// A shared secret: whoever can read it can sign.
    #[error("it is a secret, and none is taken from a key set")]
    Secret,
    /// A key with its private part: whoever can read it can sign.
    #[error("its private part is with it, so anybody could have signed")]
    Private,
    /// The algorithm that it names is not listed, or none of those listed is for its kind.
    #[error("no listed algorithm is for it")]
    NoAlgorithm,
    /// The algorithm that it names is for another kind of key.
    #[error("it names an algorithm for another kind of key")]
    OtherKind,
    /// It names no algorithm, and several of those listed fit.
    #[error("it names no algorithm, and several of those listed fit it")]
    Ambiguous,
    /// A key of a set that has enough of them.
    #[error("there are enough keys before it")]
    TooMany,
    /// A certificate that cannot be read.
    #[error("the certificate cannot be read")]
    Certificate,
    /// No section that is a public key or a certificate.
    #[error("it holds no public key and no certificate")]
    Empty,
    /// More than one section.
    #[error("it holds more than one key or certificate")]
    Several,
}

/// A public key of a kind that is known here.
struct PublicKey {
    kind: Kind,
    der: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
    Ed25519,
}

/// Every algorithm with a public key, its kind of key, and what verifies its signatures.
fn public(algorithm: Algorithm) -> Option<(Kind, &'static dyn VerificationAlgorithm)> {
    let ecdsa = |a: &'static EcdsaVerificationAlgorithm| a as &'static dyn VerificationAlgorithm;
    Some(match name_of(algorithm) {
        "RS256" => (Kind::Rsa, &sig::RSA_PKCS1_2048_8192_SHA256),
        "RS384" => (Kind::Rsa, &sig::RSA_PKCS1_2048_8192_SHA384),
        "RS512" => (Kind::Rsa, &sig::RSA_PKCS1_2048_8192_SHA512),
        "PS256" => (Kind::Rsa, &sig::RSA_PSS_2048_8192_SHA256),
        "PS384" => (Kind::Rsa, &sig::RSA_PSS_2048_8192_SHA384),
        "PS512" => (Kind::Rsa, &sig::RSA_PSS_2048_8192_SHA512),
        "ES256" => (Kind::P256, ecdsa(&sig::ECDSA_P256_SHA256_FIXED)),
        "ES384" => (Kind::P384, ecdsa(&sig::ECDSA_P384_SHA384_FIXED)),
        "EdDSA" => (Kind::Ed25519, &sig::ED25519),
        _ => return None,
    })
}

/// Whether an algorithm's key is a shared secret.
#[must_use]
pub fn takes_secret(algorithm: Algorithm) -> bool {
    public(algorithm).is_none()
}

impl PublicKey {
    /// The key in a `SubjectPublicKeyInfo` (RFC 5280 §4.1.2.7).
    fn from_spki(der: &[u8]) -> Result<Self, KeyFault> {
        let is = |algorithm: &'static dyn VerificationAlgorithm| ParsedPublicKey::new(algorithm, der).is_ok();
        let kind = if is(&sig::ED25519) {
            Kind::Ed25519
        } else if is(&sig::ECDSA_P256_SHA256_FIXED) {
            Kind::P256
        } else if is(&sig::ECDSA_P384_SHA384_FIXED) {
            Kind::P384
        } else if is(&sig::RSA_PKCS1_2048_8192_SHA256) {
            Kind::Rsa
        } else {
            return Err(KeyFault::Kind);
        };
        if kind == Kind::Rsa {
            let key = rsa::PublicKey::from_der(der).map_err(|_rejected| KeyFault::Unreadable)?;
            let modulus = key.modulus().big_endian_without_leading_zero();
            let spare = modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
            let bits = (modulus.len() * 8).saturating_sub(spare);
            if bits < RSA_BITS {
                return Err(KeyFault::Weak { bits });
            }
        }
        Ok(Self { kind, der: der.to_vec() })
    }

    /// This key with the one algorithm that it is used with: its `own`, else the only listed one that fits.
    fn pin(
        self,
        listed: &[Algorithm],
        own: Option<&str>,
        key_id: Option<String>,
    ) -> Result<VerificationKey, KeyFault> {
        let fits = |algorithm: &&Algorithm| public(**algorithm).is_some_and(|(kind, _)| kind == self.kind);
        let algorithm = match own {
            Some(name) => {
                let named = listed.iter().find(|algorithm| name_of(**algorithm) == name);
                let named = named.ok_or(KeyFault::NoAlgorithm)?;
                if !fits(&named) {
                    return Err(KeyFault::OtherKind);
                }
                *named
            }
            None => {
                let mut fitting = listed.iter().filter(fits);
                match (fitting.next(), fitting.next()) {
                    (Some(only), None) => *only,
                    (Some(_), Some(_)) => return Err(KeyFault::Ambiguous),
                    (None, _) => return Err(KeyFault::NoAlgorithm),
                }
            }
        };
        let (_, verifying) = public(algorithm).ok_or(KeyFault::NoAlgorithm)?;
        let key = ParsedPublicKey::new(verifying, &self.der).map_err(|_rejected| KeyFault::Unreadable)?;
        Ok(VerificationKey { algorithm, key_id, material: Material::Public(key) })
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

/// Every algorithm that can be listed.
pub const ALGORITHMS: [(&str, Algorithm); 12] = [
    ("HS256", Algorithm::HS256),
    ("HS384", Algorithm::HS384),
    ("HS512", Algorithm::HS512),
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

#[cfg(test)]
mod tests;
