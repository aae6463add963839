//! What is believed, and what is not.

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use super::*;
use crate::token::SessionId;

const NOW: u64 = 1_800_000_000;
const SECRET: &[u8] = b"a secret that is long enough for HS512, which wants sixty-four bytes of it";

fn rules() -> TokenRules {
    TokenRules {
        keys: vec![VerificationKey::secret(Algorithm::HS256, SECRET).expect("a secret")],
        algorithms: vec![Algorithm::HS256],
        supply: Supply::Fixed,
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
        rules.keys = vec![VerificationKey::secret(algorithm, SECRET).expect("a secret")];
        rules.algorithms = vec![algorithm];
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
    assert_eq!(verifier.verify(&token, UnixTime::from_secs(NOW)).1, Seen::First);
    assert!(matches!(verifier.verify(&token, at(64)), (Verified::Live(_), Seen::Before)));
    assert!(matches!(verifier.verify(&token, at(65)), (Verified::Expired(_), Seen::Before)));
    let mut forged = token.expose().to_owned();
    forged.pop();
    forged.push(if token.expose().ends_with('A') { 'E' } else { 'A' });
    let forged = AccessToken::parse(&forged).expect("a token");
    assert!(matches!(verifier.verify(&forged, at(0)), (Verified::Invalid(_), Seen::First)));
}

#[test]
fn a_genuine_signature_lends_its_place_to_no_other_token() {
    let verifier = Verifier::new(rules());
    let (token, other) = (with(|_| ()), with(|claims| drop(claims.insert("sub".into(), json!("root")))));
    let now = UnixTime::from_secs(NOW);
    assert!(matches!(verifier.verify(&token, now).0, Verified::Live(_)));
    let (_, signature) = token.expose().rsplit_once('.').expect("three parts");
    let (claims, _) = other.expose().rsplit_once('.').expect("three parts");
    for forged in [format!("{claims}.{signature}"), format!("x{}", token.expose()), signature.to_owned()] {
        let forged = AccessToken::parse(&forged).expect("a token");
        assert_eq!(verifier.known(forged.expose().as_bytes(), now), None, "{}", forged.expose());
        assert!(matches!(verifier.verify(&forged, now), (Verified::Invalid(_), Seen::First)));
    }
}

#[test]
fn a_text_is_known_once_its_token_was_verified_and_until_the_keys_change() {
    let verifier = fetched(SECRET);
    let (token, now) = (with(|_| ()), UnixTime::from_secs(NOW));
    let known = |now| verifier.known(token.expose().as_bytes(), now);
    assert_eq!(known(now), None);
    assert!(matches!(verifier.verify(&token, now).0, Verified::Live(_)));
    let (same, verified) = known(now).expect("it was verified");
    assert!(same == token && matches!(verified, Verified::Live(_)));
    let (_, verified) = known(UnixTime::from_secs(u64::MAX)).expect("it was verified");
    assert!(matches!(verified, Verified::Expired(_)));
    assert_eq!(verifier.replace(secret(b"another")), Replaced::New);
    assert_eq!(known(now), None);
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
    assert!(
        verifier.current.load().cache.weight() <= 64 * 1024,
        "{}",
        verifier.current.load().cache.weight()
    );
}

/// A verifier whose keys are fetched, beginning with this secret.
fn fetched(secret: &[u8]) -> Verifier {
    let keys = vec![VerificationKey::secret(Algorithm::HS256, secret).expect("a secret")];
    Verifier::new(TokenRules { keys, supply: Supply::Fetched, ..rules() })
}

fn secret(secret: &[u8]) -> Vec<VerificationKey> {
    vec![VerificationKey::secret(Algorithm::HS256, secret).expect("a secret")]
}

#[test]
fn what_a_removed_key_verified_counts_no_longer_from_the_next_request_on() {
    let verifier = fetched(SECRET);
    let (token, now) = (with(|_| ()), UnixTime::from_secs(NOW));
    assert!(matches!(verifier.verify(&token, now), (Verified::Live(_), Seen::First)));
    assert!(matches!(verifier.verify(&token, now), (Verified::Live(_), Seen::Before)));
    assert_eq!(verifier.replace(secret(b"another")), Replaced::New);
    assert_eq!(verifier.verify(&token, now).0, Verified::Invalid(TokenFault::Signature));
    assert_eq!(verifier.replace(secret(SECRET)), Replaced::New);
    assert!(matches!(verifier.verify(&token, now), (Verified::Live(_), Seen::First)), "nothing came back");
}

#[test]
fn a_verification_under_way_leaves_nothing_with_the_new_keys() {
    let verifier = fetched(SECRET);
    let now = UnixTime::from_secs(NOW);
    let tokens: Vec<AccessToken> = (0..8)
        .map(|n| {
            with(|c| {
                c.insert("n".into(), json!(n));
            })
        })
        .collect();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    for token in &tokens {
                        let _either = verifier.verify(token, now);
                    }
                }
            });
        }
        for _ in 0..300 {
            verifier.replace(secret(SECRET));
            verifier.replace(secret(b"another"));
            for token in &tokens {
                let refused = Verified::Invalid(TokenFault::Signature);
                assert_eq!(verifier.verify(token, now).0, refused, "the removed key's tokens");
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn a_token_under_a_strange_algorithm_is_no_matter_of_missing_keys() {
    let verifier = Verifier::new(TokenRules { keys: Vec::new(), supply: Supply::Fetched, ..rules() });
    let now = UnixTime::from_secs(NOW);
    let known = with(|_| ());
    assert_eq!(verifier.verify(&known, now).0, Verified::Invalid(TokenFault::UnknownKey));
    let strange = sign(Algorithm::HS512, SECRET, &claims());
    assert_eq!(verifier.verify(&strange, now).0, Verified::Invalid(TokenFault::Header));
}

#[test]
fn by_other_settings_nothing_is_believed_that_they_would_not_believe() {
    let token = sign(Algorithm::HS256, SECRET, &claims());
    let before = Verifier::new(rules());
    assert_eq!(before.verify(&token, UnixTime::from_secs(NOW)).1, Seen::First);
    let after = |rules, source| Verifier::successor(rules, &before, source);
    let stricter = after(TokenRules { issuer: Some("another".into()), ..rules() }, Source::Same);
    assert_eq!(stricter.verify(&token, UnixTime::from_secs(NOW)).0, Verified::Invalid(TokenFault::Issuer));
    let other_key = VerificationKey::secret(Algorithm::HS256, b"another secret of these tests, long enough");
    let rekeyed = after(TokenRules { keys: other_key.into_iter().collect(), ..rules() }, Source::Same);
    assert_eq!(rekeyed.verify(&token, UnixTime::from_secs(NOW)).0, Verified::Invalid(TokenFault::Signature));
}

#[test]
fn fetched_keys_go_on_only_where_they_come_from_the_same_place_for_the_same_algorithms() {
    let fetched = || TokenRules { keys: Vec::new(), supply: Supply::Fetched, ..rules() };
    let before = Verifier::new(fetched());
    before.replace(rules().keys);
    let token = sign(Algorithm::HS256, SECRET, &claims());
    assert_eq!(before.verify(&token, UnixTime::from_secs(NOW)).1, Seen::First);
    let after =
        |rules, source| Verifier::successor(rules, &before, source).verify(&token, UnixTime::from_secs(NOW));
    assert!(
        matches!(after(fetched(), Source::Same), (Verified::Live(_), Seen::Before)),
        "and what they verified"
    );
    let stricter = TokenRules { audience: vec!["x".into()], ..fetched() };
    assert!(matches!(after(stricter, Source::Same), (Verified::Live(_), Seen::First)));
    assert_eq!(after(fetched(), Source::Other).0, Verified::Invalid(TokenFault::UnknownKey));
    let others = TokenRules { algorithms: vec![Algorithm::HS384], ..fetched() };
    assert!(matches!(after(others, Source::Same).0, Verified::Invalid(_)));
}
