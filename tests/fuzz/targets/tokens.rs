//! Access tokens: what verifies was made with our key, and says what the settings ask for.
//! Input: a letter, then a header and claims on a line each, which are signed as the letter says, or after `t` a whole token.
#![no_main]

use std::cell::LazyCell;
use std::collections::BTreeSet;
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use doorkeep::clock::UnixTime;
use doorkeep::identity::Identity;
use doorkeep::session::keys::{VerificationKey, read_set};
use doorkeep::session::verifier::{Supply, TokenRules, Verified, Verifier};
use doorkeep::token::AccessToken;
use doorkeep_fuzz::Dice;
use jsonwebtoken::Algorithm;
use libfuzzer_sys::fuzz_target;
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value, json};

const SECRET: &[u8] = b"a secret of the fuzz targets alone";
const NOW: u64 = 1_800_000_000;
const LEEWAY: u64 = 5;

thread_local! {
    static ED: LazyCell<Ed25519KeyPair> =
        LazyCell::new(|| Ed25519KeyPair::from_seed_unchecked(&[42; 32]).expect("a key"));
    static BY_SECRET: LazyCell<Verifier> = LazyCell::new(|| {
        let key = VerificationKey::secret(Algorithm::HS256, SECRET).expect("a key");
        Verifier::new(rules(vec![key], vec![Algorithm::HS256]))
    });
    static BY_KEY: LazyCell<Verifier> = LazyCell::new(|| {
        let algorithms = vec![Algorithm::EdDSA, Algorithm::ES256, Algorithm::RS256];
        let set = read_set(&json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": public()}]}), &algorithms);
        Verifier::new(rules(set.expect("a set").keys, algorithms))
    });
}

fn public() -> String {
    ED.with(|key| URL_SAFE_NO_PAD.encode(key.public_key().as_ref()))
}

fn rules(keys: Vec<VerificationKey>, algorithms: Vec<Algorithm>) -> TokenRules {
    TokenRules {
        keys,
        algorithms,
        supply: Supply::Fixed,
        issuer: Some("https://id.example".into()),
        audience: vec!["app".into()],
        leeway: Duration::from_secs(LEEWAY),
        subject: "userId".into(),
        session: Some("sessionId".into()),
        expiry: Some("expiry".into()),
        max_size: 8 * 1024,
        cache: 1024 * 1024,
    }
}

fn mac(secret: &[u8], signed: &str) -> String {
    URL_SAFE_NO_PAD.encode(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes()).as_ref())
}

fn by_ed(signed: &str) -> String {
    ED.with(|key| URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).as_ref()))
}

/// Who it is, whatever the time; asked twice, for the second answer comes from memory.
fn known(verifier: &Verifier, text: &str) -> Option<(Identity, bool)> {
    let token = AccessToken::parse(text)?;
    let now = UnixTime::from_secs(NOW);
    let first = verifier.verify(&token, now).0;
    assert_eq!(verifier.verify(&token, now).0, first);
    assert_eq!(verifier.verify_fresh(&token, now), first);
    match first {
        Verified::Live(identity) => Some((identity, true)),
        Verified::Expired(identity) => Some((identity, false)),
        Verified::Invalid(_) => None,
    }
}

struct Names;

impl<'de> Visitor<'de> for Names {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<String>, A::Error> {
        let mut names = Vec::new();
        while let Some((name, IgnoredAny)) = map.next_entry()? {
            names.push(name);
        }
        Ok(names)
    }
}

/// The object in a part of a token, whose names are all different.
fn object(part: &str) -> Map<String, Value> {
    let bytes = URL_SAFE_NO_PAD.decode(part).expect("base64url");
    assert_eq!(URL_SAFE_NO_PAD.encode(&bytes), part, "written in the one way");
    let names = serde_json::Deserializer::from_slice(&bytes).deserialize_map(Names).expect("an object");
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "no member twice");
    serde_json::from_slice(&bytes).expect("an object")
}

fn holds_what_is_asked_for(text: &str, algorithm: &str, identity: &Identity, live: bool) {
    assert!(text.len() <= 8 * 1024);
    let mut parts = text.split('.');
    let (header, claims) = (object(parts.next().unwrap()), object(parts.next().unwrap()));
    assert_eq!(parts.count(), 1);
    assert_eq!(header["alg"], algorithm);
    assert!(["crit", "zip", "b64", "cty", "enc"].iter().all(|name| !header.contains_key(*name)));
    if let Some(typ) = header.get("typ") {
        assert!(["jwt", "at+jwt"].contains(&typ.as_str().expect("a text").to_ascii_lowercase().as_str()));
    }
    assert_eq!(claims["iss"], "https://id.example");
    match &claims["aud"] {
        Value::Array(many) => assert!(many.iter().all(Value::is_string) && many.contains(&json!("app"))),
        one => assert_eq!(one, "app"),
    }
    let moment = |name: &str| claims.get(name).map(|value| value.as_f64().expect("a number"));
    assert!(moment("exp").is_some() || claims["expiry"].is_string());
    let (now, leeway) = (NOW as f64, LEEWAY as f64);
    if let Some(end) = moment("exp") {
        assert!(!live || end + leeway > now - 1.0, "{end}");
    }
    if let Some(from) = moment("nbf") {
        assert!(from - leeway < now + 1.0, "{from}");
    }
    let user = match &claims["userId"] {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        other => panic!("{other} is nobody"),
    };
    assert!(!user.is_empty() && identity.subject() == user);
    let session = claims.get("sessionId").and_then(Value::as_str);
    assert_eq!(identity.session().map(|id| id.expose()), session);
    assert_eq!(identity.claims(), &claims);
}

fn check(text: &str, dice: &mut Dice) {
    for (verifier, algorithm) in [(&BY_SECRET, "HS256"), (&BY_KEY, "EdDSA")] {
        verifier.with(|verifier| {
            let Some((identity, live)) = known(verifier, text) else { return };
            let (signed, signature) = text.rsplit_once('.').expect("a signature");
            let ours = if algorithm == "HS256" { mac(SECRET, signed) } else { by_ed(signed) };
            assert_eq!(signature, ours, "made with our key, and written in the one way");
            holds_what_is_asked_for(text, algorithm, &identity, live);
            // Any other text is another token.
            let mut other = text.as_bytes().to_vec();
            let at = dice.below(other.len());
            other[at] = b"AZaz09-_.=~"[dice.below(11)];
            if other != text.as_bytes() {
                let other = String::from_utf8(other).expect("ASCII");
                assert!(known(verifier, &other).is_none(), "{other}");
            }
        });
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((letter, rest)) = data.split_first() else { return };
    let mut dice = Dice::of(data);
    if *letter == b't' {
        if let Ok(text) = std::str::from_utf8(rest) {
            check(text.trim_ascii_end(), &mut dice);
        }
        return;
    }
    let mut lines = rest.splitn(2, |byte| *byte == b'\n');
    let mut part = || URL_SAFE_NO_PAD.encode(lines.next().unwrap_or_default().trim_ascii());
    let signed = format!("{}.{}", part(), part());
    let signature = match letter {
        b'h' => mac(SECRET, &signed),
        b'e' => by_ed(&signed),
        // A public key is no secret (RFC 8725 §2.1), in whatever form it is taken for one.
        b'p' => mac(&URL_SAFE_NO_PAD.decode(public()).expect("bytes"), &signed),
        b'q' => mac(public().as_bytes(), &signed),
        _ => String::new(),
    };
    let text = format!("{signed}.{signature}");
    if matches!(letter, b'p' | b'q') {
        assert!(BY_SECRET.with(|verifier| known(verifier, &text)).is_none());
        assert!(BY_KEY.with(|verifier| known(verifier, &text)).is_none());
    }
    check(&text, &mut dice);
});
