//! Which keys are used, with which algorithm, and which tokens they verify.

use std::time::Duration;

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaEncoding,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData as _};
use serde_json::{Value, json};

use super::*;
use crate::clock::UnixTime;
use crate::outcome::TokenFault;
use crate::session::verifier::{Supply, TokenRules, Verified, Verifier};
use crate::token::AccessToken;

const NOW: u64 = 1_800_000_000;

/// A pair of keys of each kind.
enum Pair {
    Rsa(Box<RsaKeyPair>),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Pair {
    fn rsa() -> Self {
        Self::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key")))
    }

    fn p256() -> Self {
        Self::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key"))
    }

    fn of(algorithm: Algorithm) -> Self {
        match public(algorithm).expect("a public key").0 {
            Kind::Rsa => Self::rsa(),
            Kind::P256 => Self::p256(),
            Kind::P384 => {
                Self::P384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("a key"))
            }
            Kind::Ed25519 => Self::Ed25519(Ed25519KeyPair::generate().expect("a key")),
        }
    }

    fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let rsa = |pair: &RsaKeyPair, encoding: &'static dyn RsaEncoding| {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(encoding, &random, message, &mut signature).expect("signed");
            signature
        };
        match (self, algorithm) {
            (Self::Rsa(pair), Algorithm::RS384) => rsa(pair, &RSA_PKCS1_SHA384),
            (Self::Rsa(pair), Algorithm::RS512) => rsa(pair, &RSA_PKCS1_SHA512),
            (Self::Rsa(pair), Algorithm::PS256) => rsa(pair, &RSA_PSS_SHA256),
            (Self::Rsa(pair), Algorithm::PS384) => rsa(pair, &RSA_PSS_SHA384),
            (Self::Rsa(pair), Algorithm::PS512) => rsa(pair, &RSA_PSS_SHA512),
            (Self::Rsa(pair), _) => rsa(pair, &RSA_PKCS1_SHA256),
            (Self::P256(pair) | Self::P384(pair), _) => {
                pair.sign(&random, message).expect("signed").as_ref().to_vec()
            }
            (Self::Ed25519(pair), _) => pair.sign(message).as_ref().to_vec(),
        }
    }

    fn spki(&self) -> Vec<u8> {
        let der: PublicKeyX509Der<'_> = match self {
            Self::Rsa(pair) => pair.public_key().as_der(),
            Self::P256(pair) | Self::P384(pair) => pair.public_key().as_der(),
            Self::Ed25519(pair) => pair.public_key().as_der(),
        }
        .expect("a key");
        der.as_ref().to_vec()
    }

    fn pem(&self) -> String {
        pem("PUBLIC KEY", &self.spki())
    }

    /// The public key as a JWK, with these members beside it.
    fn jwk(&self, beside: Value) -> Value {
        let point = |raw: &[u8], crv: &str| {
            let (x, y) = raw[1..].split_at((raw.len() - 1) / 2);
            json!({"kty": "EC", "crv": crv, "x": B64.encode(x), "y": B64.encode(y)})
        };
        let mut jwk = match self {
            Self::Rsa(pair) => {
                let key = pair.public_key();
                let n = B64.encode(key.modulus().big_endian_without_leading_zero());
                let e = B64.encode(key.exponent().big_endian_without_leading_zero());
                json!({"kty": "RSA", "n": n, "e": e})
            }
            Self::P256(pair) => point(pair.public_key().as_ref(), "P-256"),
            Self::P384(pair) => point(pair.public_key().as_ref(), "P-384"),
            Self::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": B64.encode(pair.public_key().as_ref())})
            }
        };
        let Value::Object(beside) = beside else { panic!("an object") };
        jwk.as_object_mut().expect("an object").extend(beside);
        jwk
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

/// A token with this header whose signature `sign` makes.
fn token(header: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> AccessToken {
    let claims = json!({"sub": "u1", "exp": NOW + 60});
    let signed = format!("{}.{}", B64.encode(header.to_string()), B64.encode(claims.to_string()));
    let signature = sign(signed.as_bytes());
    AccessToken::parse(&format!("{signed}.{}", B64.encode(signature))).expect("a token")
}

fn signed(pair: &Pair, algorithm: Algorithm, header: &Value) -> AccessToken {
    token(header, |message| pair.sign(algorithm, message))
}

fn verifier(keys: Vec<VerificationKey>, algorithms: &[Algorithm]) -> Verifier {
    Verifier::new(TokenRules {
        keys,
        algorithms: algorithms.to_vec(),
        supply: Supply::Fixed,
        issuer: None,
        audience: Vec::new(),
        leeway: Duration::ZERO,
        subject: "sub".into(),
        session: None,
        expiry: None,
        max_size: 8192,
        cache: 1 << 20,
    })
}

/// The fault of a token under these keys; `None`: it is genuine.
fn fault(verifier: &Verifier, token: &AccessToken) -> Option<TokenFault> {
    match verifier.verify_fresh(token, UnixTime::from_secs(NOW)) {
        Verified::Live(_) => None,
        Verified::Expired(_) => panic!("it has not ended"),
        Verified::Invalid(fault) => Some(fault),
    }
}

fn set(members: &[Value], listed: &[Algorithm]) -> KeySet {
    read_set(&json!({"keys": members}), listed).expect("a usable set")
}

/// Why the only member of a set is not used.
fn refused(member: Value, listed: &[Algorithm]) -> KeyFault {
    let good = Pair::p256().jwk(json!({"kid": "good", "alg": "ES256"}));
    let listed = [listed, &[Algorithm::ES256]].concat();
    let set = set(&[member, good], &listed);
    assert_eq!((set.keys.len(), set.left_out.len()), (1, 1), "one bad member spoils no other");
    set.left_out[0].fault.clone()
}

fn public_algorithms() -> impl Iterator<Item = Algorithm> {
    ALGORITHMS.iter().map(|(_, algorithm)| *algorithm).filter(|algorithm| !takes_secret(*algorithm))
}

#[test]
fn each_algorithm_verifies_its_own_tokens_from_a_jwk_and_from_pem() {
    for algorithm in public_algorithms() {
        let pair = Pair::of(algorithm);
        let name = name_of(algorithm);
        let all: Vec<Algorithm> = public_algorithms().collect();
        let jwk = set(&[pair.jwk(json!({"alg": name, "kid": "k"}))], &all).keys;
        let pem = vec![read_pem(&pair.pem(), &[algorithm]).expect("usable")];
        let good = signed(&pair, algorithm, &json!({"alg": name, "kid": "k"}));
        let other = signed(&Pair::of(algorithm), algorithm, &json!({"alg": name, "kid": "k"}));
        let nameless = signed(&pair, algorithm, &json!({"alg": name}));
        let by_jwk = verifier(jwk, &all);
        let by_pem = verifier(pem, &[algorithm]);
        assert_eq!(fault(&by_jwk, &good), None, "{name}");
        assert_eq!(fault(&by_pem, &good), None, "{name}");
        assert_eq!(fault(&by_jwk, &nameless), None, "{name}");
        assert_eq!(fault(&by_jwk, &other), Some(TokenFault::Signature), "{name}");
        assert_eq!(fault(&by_pem, &other), Some(TokenFault::UnknownKey), "{name}");
        // Under every other algorithm's name it is nothing.
        for lie in all.iter().filter(|lie| **lie != algorithm) {
            let lie = signed(&pair, algorithm, &json!({"alg": name_of(*lie), "kid": "k"}));
            assert_eq!(fault(&by_jwk, &lie), Some(TokenFault::Header), "{name}");
        }
    }
}

#[test]
fn a_public_key_is_never_a_secret() {
    let pair = Pair::rsa();
    let algorithms = [Algorithm::RS256];
    let Pair::Rsa(rsa) = &pair else { panic!("RSA") };
    let modulus = rsa.public_key().modulus().big_endian_without_leading_zero().to_vec();
    let verifier = verifier(vec![read_pem(&pair.pem(), &algorithms).expect("usable")], &algorithms);
    for secret in [pair.pem().into_bytes(), pair.pem().trim_end().into(), pair.spki(), modulus] {
        for (alg, hash) in
            [("HS256", hmac::HMAC_SHA256), ("RS256", hmac::HMAC_SHA256), ("HS512", hmac::HMAC_SHA512)]
        {
            let forged = token(&json!({"alg": alg}), |message| {
                hmac::sign(&hmac::Key::new(hash, &secret), message).as_ref().to_vec()
            });
            let wanted = if alg == "RS256" { TokenFault::Signature } else { TokenFault::Header };
            assert_eq!(fault(&verifier, &forged), Some(wanted));
        }
    }
}

#[test]
fn no_algorithm_is_an_algorithm_that_is_not_listed() {
    let pair = Pair::p256();
    let verifier = verifier(set(&[pair.jwk(json!({}))], &[Algorithm::ES256]).keys, &[Algorithm::ES256]);
    for alg in ["none", "None", "NONE", "es256", "ES256 ", "", "HS256", "ES512", "ES256K", "Ed25519"] {
        let forged = signed(&pair, Algorithm::ES256, &json!({"alg": alg}));
        assert_eq!(fault(&verifier, &forged), Some(TokenFault::Header), "{alg:?}");
    }
    let unsigned = token(&json!({"alg": "ES256"}), |_| vec![0; 64]);
    assert_eq!(fault(&verifier, &unsigned), Some(TokenFault::Signature), "zeros are no signature");
}

#[test]
fn one_rsa_key_is_used_with_one_padding() {
    let pair = Pair::rsa();
    let both = [Algorithm::RS256, Algorithm::PS256];
    let keys = set(&[pair.jwk(json!({"alg": "PS256"}))], &both).keys;
    let verifier = verifier(keys, &both);
    let good = signed(&pair, Algorithm::PS256, &json!({"alg": "PS256"}));
    let other = signed(&pair, Algorithm::RS256, &json!({"alg": "RS256"}));
    let lie = signed(&pair, Algorithm::RS256, &json!({"alg": "PS256"}));
    assert_eq!(fault(&verifier, &good), None);
    assert_eq!(fault(&verifier, &other), Some(TokenFault::Header));
    assert_eq!(fault(&verifier, &lie), Some(TokenFault::Signature));
    assert_eq!(refused(pair.jwk(json!({})), &both), KeyFault::Ambiguous, "the token may not choose");
    assert_eq!(read_pem(&pair.pem(), &both).expect_err("several fit"), KeyFault::Ambiguous);
    assert_eq!(set(&[pair.jwk(json!({}))], &[Algorithm::RS256, Algorithm::ES256]).keys.len(), 1);
}

#[test]
fn a_key_under_its_own_name_only() {
    let (one, two) = (Pair::p256(), Pair::p256());
    let listed = [Algorithm::ES256];
    let keys = set(&[one.jwk(json!({"kid": "1"})), two.jwk(json!({"kid": "2"}))], &listed).keys;
    let verifier = verifier(keys, &listed);
    let by = |pair: &Pair, kid: &str| signed(pair, Algorithm::ES256, &json!({"alg": "ES256", "kid": kid}));
    assert_eq!(fault(&verifier, &by(&one, "1")), None);
    assert_eq!(fault(&verifier, &by(&two, "2")), None);
    assert_eq!(fault(&verifier, &by(&two, "1")), Some(TokenFault::Signature));
    assert_eq!(fault(&verifier, &by(&one, "3")), Some(TokenFault::UnknownKey));
    assert_eq!(fault(&verifier, &by(&one, "")), Some(TokenFault::UnknownKey));
    assert_eq!(fault(&verifier, &signed(&two, Algorithm::ES256, &json!({"alg": "ES256"}))), None);
}

#[test]
fn keys_of_one_name_are_all_tried() {
    let pairs = [Pair::p256(), Pair::rsa(), Pair::p256()];
    let listed = [Algorithm::ES256, Algorithm::RS256];
    let members: Vec<Value> = pairs.iter().map(|pair| pair.jwk(json!({"kid": "same"}))).collect();
    let verifier = verifier(set(&members, &listed).keys, &listed);
    for (pair, algorithm) in pairs.iter().zip([Algorithm::ES256, Algorithm::RS256, Algorithm::ES256]) {
        let good = signed(pair, algorithm, &json!({"alg": name_of(algorithm), "kid": "same"}));
        assert_eq!(fault(&verifier, &good), None);
    }
}

#[test]
fn a_key_in_the_token_itself_counts_for_nothing() {
    let (ours, theirs) = (Pair::p256(), Pair::p256());
    let listed = [Algorithm::ES256];
    let verifier = verifier(set(&[ours.jwk(json!({"kid": "1"}))], &listed).keys, &listed);
    let header = json!({"alg": "ES256", "kid": "1", "jwk": theirs.jwk(json!({"kid": "1"})), "jku": "https://evil.example/"});
    assert_eq!(fault(&verifier, &signed(&theirs, Algorithm::ES256, &header)), Some(TokenFault::Signature));
}

#[test]
fn what_is_not_for_verifying_is_left_out() {
    let pair = Pair::rsa();
    let listed = [Algorithm::RS256];
    let fault = |beside: Value| refused(pair.jwk(beside), &listed);
    assert_eq!(fault(json!({"use": "enc"})), KeyFault::Use);
    assert_eq!(fault(json!({"use": "enc", "alg": "RSA-OAEP"})), KeyFault::Use);
    assert_eq!(fault(json!({"key_ops": ["sign"]})), KeyFault::Use);
    assert_eq!(fault(json!({"key_ops": []})), KeyFault::Use);
    assert_eq!(fault(json!({"alg": "RSA-OAEP"})), KeyFault::NoAlgorithm);
    assert_eq!(fault(json!({"alg": "RS512"})), KeyFault::NoAlgorithm, "it is not listed");
    assert_eq!(fault(json!({"alg": "ES256"})), KeyFault::OtherKind);
    assert_eq!(fault(json!({"alg": "HS256"})), KeyFault::NoAlgorithm);
    assert_eq!(fault(json!({"d": "AQAB"})), KeyFault::Private);
    let secret = json!({"kty": "oct", "k": B64.encode([7; 32]), "alg": "HS256"});
    assert_eq!(refused(secret, &[Algorithm::HS256]), KeyFault::Secret);
    let usable = pair.jwk(json!({"use": "sig", "key_ops": ["verify"], "alg": "RS256", "x5c": ["?"]}));
    assert_eq!(set(&[usable], &listed).keys.len(), 1);
}

#[test]
fn a_member_that_is_no_key_is_left_out() {
    let rsa = Pair::rsa();
    let ec = Pair::p256();
    let all: Vec<Algorithm> = public_algorithms().filter(|a| !matches!(a, Algorithm::ES256)).collect();
    let with = |pair: &Pair, name: &str, value: Value| pair.jwk(json!({name: value, "alg": "ES256"}));
    let short = B64.encode([1; 31]);
    for (member, wanted) in [
        (json!(null), KeyFault::Unreadable),
        (json!("RSA"), KeyFault::Unreadable),
        (json!({}), KeyFault::Unreadable),
        (json!({"kty": 3}), KeyFault::Unreadable),
        (json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"}), KeyFault::Kind),
        (json!({"kty": "rsa", "n": "AA", "e": "AQAB"}), KeyFault::Kind),
        (json!({"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"}), KeyFault::Kind),
        (json!({"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}), KeyFault::Kind),
        (json!({"kty": "OKP", "crv": "X25519", "x": "AA"}), KeyFault::Kind),
        (json!({"kty": "OKP", "crv": "Ed25519", "x": short}), KeyFault::Unreadable),
        (json!({"kty": "RSA", "e": "AQAB"}), KeyFault::Unreadable),
        (json!({"kty": "RSA", "n": "", "e": "AQAB"}), KeyFault::Unreadable),
        (json!({"kty": "RSA", "n": [1], "e": "AQAB"}), KeyFault::Unreadable),
        (with(&rsa, "e", json!("")), KeyFault::Unreadable),
        (with(&rsa, "n", json!("no base64!")), KeyFault::Unreadable),
        (with(&rsa, "kid", json!(7)), KeyFault::Unreadable),
        (with(&rsa, "use", json!(["sig"])), KeyFault::Unreadable),
        (with(&rsa, "key_ops", json!("verify")), KeyFault::Unreadable),
        (with(&ec, "x", json!(B64.encode([1; 32]))), KeyFault::Unreadable),
        (with(&ec, "y", json!(B64.encode([0; 33]))), KeyFault::Unreadable),
        (with(&ec, "crv", json!("P-384")), KeyFault::Unreadable),
        (with(&ec, "y", json!(null)), KeyFault::Unreadable),
    ] {
        assert_eq!(refused(member.clone(), &all), wanted, "{member}");
    }
    let even = B64.encode([2]);
    assert_eq!(refused(with(&rsa, "e", json!(even)), &all), KeyFault::Kind, "no exponent");
}

#[test]
fn a_short_rsa_key_is_refused() {
    let mut modulus = vec![0xff; 128];
    modulus[5] = 3;
    let weak = json!({"kty": "RSA", "n": B64.encode(&modulus), "e": "AQAB", "alg": "RS256"});
    assert_eq!(refused(weak, &[Algorithm::RS256]), KeyFault::Weak { bits: 1024 });
    let key = rsa::PublicKeyComponents { n: modulus, e: vec![1, 0, 1] };
    let der: PublicKeyX509Der<'_> = key.as_der().expect("a key");
    let fault = read_pem(&pem("PUBLIC KEY", der.as_ref()), &[Algorithm::RS256]).expect_err("short");
    assert_eq!(fault, KeyFault::Weak { bits: 1024 });
}

#[test]
fn a_zero_octet_before_the_modulus_changes_nothing() {
    let pair = Pair::rsa();
    let Pair::Rsa(rsa) = &pair else { panic!("RSA") };
    let n = [&[0], rsa.public_key().modulus().big_endian_without_leading_zero()].concat();
    let keys = set(&[pair.jwk(json!({"n": B64.encode(n)}))], &[Algorithm::RS256]).keys;
    let good = signed(&pair, Algorithm::RS256, &json!({"alg": "RS256"}));
    assert_eq!(fault(&verifier(keys, &[Algorithm::RS256]), &good), None);
}

#[test]
fn a_value_without_usable_keys_is_no_set() {
    let listed = [Algorithm::ES256];
    for json in [json!([]), json!({}), json!({"keys": {}}), json!({"keys": "x"}), json!(null)] {
        assert_eq!(read_set(&json, &listed).expect_err("no list"), NoSet::NoList, "{json}");
    }
    let rsa = Pair::rsa().jwk(json!({}));
    for json in [json!({"keys": []}), json!({"keys": [rsa]}), json!({"keys": [1, null]})] {
        assert_eq!(read_set(&json, &listed).expect_err("no key"), NoSet::NoKey);
    }
}

#[test]
fn a_set_of_very_many_keys_is_used_in_part() {
    let pair = Pair::p256();
    let members: Vec<Value> = (0..1000).map(|n| pair.jwk(json!({"kid": n.to_string()}))).collect();
    let set = set(&members, &[Algorithm::ES256]);
    assert_eq!((set.keys.len(), set.left_out.len()), (64, 936));
    assert_eq!(set.left_out[0].to_string(), "\"64\": there are enough keys before it");
}

#[test]
fn pem_is_one_public_key_or_certificate() {
    let pair = Pair::p256();
    let listed = [Algorithm::ES256];
    let fault = |text: &str| read_pem(text, &listed).expect_err(text);
    assert_eq!(fault(&format!("{}{}", pair.pem(), Pair::p256().pem())), KeyFault::Several);
    assert_eq!(fault("-----BEGIN NOTHING-----\nAAAA\n-----END NOTHING-----\n"), KeyFault::Empty);
    assert_eq!(fault("-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----\n"), KeyFault::Unreadable);
    assert_eq!(fault(&pem("PUBLIC KEY", b"no key")), KeyFault::Kind);
    assert_eq!(fault(&pem("CERTIFICATE", b"no certificate")), KeyFault::Certificate);
    let private = rcgen::KeyPair::generate().expect("a key").serialize_pem();
    assert_eq!(fault(&private), KeyFault::Private);
    assert_eq!(fault(&format!("{}{private}", pair.pem())), KeyFault::Private);
    assert_eq!(fault(&Pair::rsa().pem()), KeyFault::NoAlgorithm);
}

#[test]
fn of_a_certificate_its_own_key_counts_and_not_its_signers() {
    let params = || rcgen::CertificateParams::new(vec!["id.example".to_owned()]).expect("parameters");
    let signer = rcgen::KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let authority = rcgen::CertifiedIssuer::self_signed(params(), signer).expect("a certificate");
    let own = rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let certificate = params().signed_by(&own, &authority).expect("a certificate");
    let listed = [Algorithm::ES256, Algorithm::EdDSA];
    let key = read_pem(&certificate.pem(), &listed).expect("usable");
    assert_eq!(key.algorithm(), Algorithm::ES256);
    let alone = read_pem(&pem("PUBLIC KEY", &own.subject_public_key_info()), &listed).expect("usable");
    assert!(key.is(&alone));
}

#[test]
fn nothing_of_a_key_is_shown() {
    let key = VerificationKey::secret(Algorithm::HS256, b"hunter2").expect("a secret");
    assert!(!format!("{key:?}{key}").contains("hunter2"));
    let pair = Pair::p256();
    let named = set(&[pair.jwk(json!({"kid": "a\nb\u{1b}"}))], &[Algorithm::ES256]).keys;
    assert_eq!(named[0].to_string(), r#"ES256 "a\nb\u{1b}""#, "controls are escaped");
}
