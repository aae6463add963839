//! What is believed, and what is not.

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use super::*;

const NOW: u64 = 1_800_000_000;
const SECRET: &[u8] = b"a secret that is long enough for HS512, which wants sixty-four bytes of it";

fn rules() -> TokenRules {
    TokenRules {
        keys: vec![VerificationKey {
            algorithm: Algorithm::HS256,
            key_id: None,
            key: DecodingKey::from_secret(SECRET),
        }],
        issuer: None,
        audience: Vec::new(),
        leeway: Duration::from_secs(5),
        subject: "userId".into(),
        session: Some("sessionId".into()),
        expiry: Some("expiry".into()),
        max_size: 8192,
        cache: 1 << 20,
    }
}

fn sign(algorithm: Algorithm, secret: &[u8], claims: &Value) -> AccessToken {
    let text = encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret)).expect("signed");
    AccessToken::parse(&text).expect("a token")
}

fn claims() -> Value {
    json!({"userId": "u1", "sessionId": "65f0", "iat": NOW - 60, "exp": NOW + 60, "iss": "id", "aud": ["app", "x"]})
}

fn with(change: impl FnOnce(&mut Map<String, Value>)) -> AccessToken {
    let mut claims = claims();
    change(claims.as_object_mut().expect("an object"));
    sign(Algorithm::HS256, SECRET, &claims)
}

fn verify(rules: TokenRules, token: &AccessToken) -> Verified {
    Verifier::new(rules).verify(token, UnixTime::from_secs(NOW)).0
}

#[test]
fn a_genuine_token_tells_who_it_is() {
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let mut rules = rules();
        rules.keys[0].algorithm = algorithm;
        let Verified::Live(who) = verify(rules, &sign(algorithm, SECRET, &claims())) else { panic!("live") };
        assert_eq!((who.subject(), who.session()), ("u1", SessionId::parse("65f0").as_ref()));
    }
}

#[test]
fn another_algorithm_or_key_is_refused() {
    let token = sign(Algorithm::HS512, SECRET, &claims());
    assert_eq!(verify(rules(), &token), Verified::Invalid(TokenFault::Header));
    let token = sign(Algorithm::HS256, b"another secret", &claims());
    assert_eq!(verify(rules(), &token), Verified::Invalid(TokenFault::Signature));
    let none = format!("eyJhbGciOiJub25lIn0.{}.AA", "eyJ1c2VySWQiOiJ1MSJ9");
    let none = AccessToken::parse(&none).expect("a token");
    assert_eq!(verify(rules(), &none), Verified::Invalid(TokenFault::Header));
}

#[test]
fn any_changed_byte_is_refused() {
    let token = with(|_| ());
    for at in 0..token.expose().len() {
        let mut bytes = token.expose().as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).expect("ASCII");
        if changed != token.expose() {
            let changed = AccessToken::parse(&changed).expect("a token");
            assert!(matches!(verify(rules(), &changed), Verified::Invalid(_)), "byte {at}");
        }
    }
}

#[test]
fn the_expiry_is_exp_or_the_written_one_whichever_is_earlier() {
    let iso = |secs: i64| {
        let moment =
            jiff::Timestamp::from_second(i64::try_from(NOW).expect("small") + secs).expect("in range");
        json!(format!("{moment:.3}"))
    };
    let state = |token: &AccessToken| verify(rules(), token);
    let only_written = |secs| {
        with(|c| {
            c.remove("exp");
            c.insert("expiry".into(), iso(secs));
        })
    };
    assert!(matches!(state(&only_written(60)), Verified::Live(_)));
    assert!(matches!(state(&only_written(-60)), Verified::Expired(_)));
    assert!(matches!(
        state(&with(|c| {
            c.insert("expiry".into(), iso(-60));
        })),
        Verified::Expired(_)
    ));
    assert!(matches!(
        state(&with(|c| {
            c.insert("exp".into(), json!(NOW - 5));
        })),
        Verified::Expired(_)
    ));
    assert!(
        matches!(
            state(&with(|c| {
                c.insert("exp".into(), json!(NOW - 4));
            })),
            Verified::Live(_)
        ),
        "leeway"
    );
    assert!(matches!(
        state(&with(|c| {
            c.insert("exp".into(), json!(NOW as f64 + 0.5));
        })),
        Verified::Live(_)
    ));
    assert_eq!(
        state(&with(|c| {
            c.remove("exp");
        })),
        Verified::Invalid(TokenFault::NoExpiry)
    );
}

#[test]
fn a_claim_of_the_wrong_type_is_a_refusal() {
    for (name, value) in [
        ("exp", json!("4102444800")),
        ("exp", json!(-1)),
        ("exp", json!(1e300)),
        ("exp", json!(null)),
        ("expiry", json!(NOW + 60)),
        ("expiry", json!("tomorrow")),
        ("nbf", json!("0")),
        ("iat", json!([1])),
        ("iss", json!(["id"])),
        ("aud", json!({"app": 1})),
        ("aud", json!(["app", 1])),
        ("userId", json!(["u1"])),
        ("sessionId", json!(7)),
        ("sessionId", json!("../admin")),
    ] {
        let token = with(|c| {
            c.insert(name.into(), value.clone());
        });
        assert_eq!(verify(rules(), &token), Verified::Invalid(TokenFault::ClaimType), "{name} = {value}");
    }
}

fn fault(rules: TokenRules, token: &AccessToken) -> Option<TokenFault> {
    match verify(rules, token) {
        Verified::Invalid(fault) => Some(fault),
        Verified::Live(_) | Verified::Expired(_) => None,
    }
}

#[test]
fn issuer_and_audience_are_exact() {
    let issuer = |text: &str| TokenRules { issuer: Some(text.into()), ..rules() };
    assert_eq!(fault(issuer("id"), &with(|_| ())), None);
    assert_eq!(fault(issuer("ID"), &with(|_| ())), Some(TokenFault::Issuer));
    assert_eq!(
        fault(
            issuer("id"),
            &with(|c| {
                c.remove("iss");
            })
        ),
        Some(TokenFault::Issuer)
    );
    let audience = |text: &str| TokenRules { audience: vec![text.into()], ..rules() };
    assert_eq!(fault(audience("app"), &with(|_| ())), None);
    assert_eq!(
        fault(
            audience("app"),
            &with(|c| {
                c.insert("aud".into(), json!("app"));
            })
        ),
        None
    );
    assert_eq!(fault(audience("ap"), &with(|_| ())), Some(TokenFault::Audience));
    assert_eq!(
        fault(
            audience("app"),
            &with(|c| {
                c.remove("aud");
            })
        ),
        Some(TokenFault::Audience)
    );
}

#[test]
fn start_subject_and_size_are_checked() {
    assert_eq!(
        fault(
            rules(),
            &with(|c| {
                c.insert("nbf".into(), json!(NOW + 6));
            })
        ),
        Some(TokenFault::NotYet)
    );
    assert_eq!(
        fault(
            rules(),
            &with(|c| {
                c.insert("nbf".into(), json!(NOW + 5));
            })
        ),
        None
    );
    assert_eq!(
        fault(
            rules(),
            &with(|c| {
                c.remove("userId");
            })
        ),
        Some(TokenFault::NoSubject)
    );
    assert_eq!(
        fault(
            rules(),
            &with(|c| {
                c.insert("userId".into(), json!(""));
            })
        ),
        Some(TokenFault::NoSubject)
    );
    let short = TokenRules { max_size: 64, ..rules() };
    assert_eq!(fault(short, &with(|_| ())), Some(TokenFault::TooLong));
}

#[test]
fn memory_is_by_the_whole_token_and_minds_the_expiry_each_time() {
    let verifier = Verifier::new(rules());
    let token = with(|_| ());
    let at = |secs| UnixTime::from_secs(NOW + secs);
    assert_eq!(verifier.verify(&token, at(0)).1, Seen::First);
    assert!(matches!(verifier.verify(&token, at(64)), (Verified::Live(_), Seen::Before)));
    assert!(matches!(verifier.verify(&token, at(65)), (Verified::Expired(_), Seen::Before)));
    let mut forged = token.expose().to_owned();
    forged.pop();
    forged.push(if token.expose().ends_with('A') { 'E' } else { 'A' });
    let forged = AccessToken::parse(&forged).expect("a token");
    assert!(matches!(verifier.verify(&forged, at(0)), (Verified::Invalid(_), Seen::First)));
}

#[test]
fn a_just_issued_token_is_not_remembered_before_it_is_presented() {
    let verifier = Verifier::new(rules());
    let token = with(|_| ());
    assert!(matches!(verifier.verify_fresh(&token, UnixTime::from_secs(NOW)), Verified::Live(_)));
    assert_eq!(verifier.verify(&token, UnixTime::from_secs(NOW)).1, Seen::First);
}

#[test]
fn the_memory_stays_within_its_bound() {
    let verifier = Verifier::new(TokenRules { cache: 64 * 1024, ..rules() });
    for n in 0..2000 {
        let token = with(|c| {
            c.insert("n".into(), json!(n));
        });
        assert!(matches!(verifier.verify(&token, UnixTime::from_secs(NOW)).0, Verified::Live(_)));
    }
    assert!(verifier.cache.weight() <= 64 * 1024, "{}", verifier.cache.weight());
}
