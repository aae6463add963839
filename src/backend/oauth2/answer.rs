//! What the answers of a token endpoint say.
//! In: JSON. Out: tokens, or the table of what else is meant. Errors: none. I/O: none.
//! Source: RFC 6749 §5.1 (success), §5.2 (errors), §7.1 (token types); RFC 7009 §2.2.1; RFC 7662 §2.2;
//! RFC 8628 §3.5; RFC 8707 §2.

use std::time::Duration;

use http::StatusCode;
use serde_json::Value;

use crate::backend::classify::{Meaning, Row, Table};
use crate::clock::UnixTime;
use crate::outcome::{BackendFault, Introspection};
use crate::token::{AccessToken, Pair, RefreshToken, TokenSet};

/// Longest life that is taken for one, against answers that overflow.
const LONGEST: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

pub(super) enum Read {
    Issued(Box<TokenSet>),
    Refused,
    Unavailable(BackendFault),
}

/// The meanings that need no setting.
///
/// `invalid_grant` refuses, under the statuses that servers send it with; it says that a refresh token is unknown,
/// spent, revoked or another client's. Whatever is wrong with the client, its request or its scope is about this
/// gateway's settings, not about the session, and so is a 401 that says no more.
#[must_use]
pub fn default_answers() -> Table {
    let error = |text: &str| Some(("error".to_owned(), text.to_owned()));
    let row = |text: &str, meaning| Row { status: None, member: error(text), meaning };
    let refused = [StatusCode::BAD_REQUEST, StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].map(|status| {
        Row { status: Some(status.as_u16()), member: error("invalid_grant"), meaning: Meaning::Refused }
    });
    let later =
        ["temporarily_unavailable", "slow_down", "server_error"].map(|text| row(text, Meaning::Unavailable));
    let ours = [
        "invalid_client",
        "unauthorized_client",
        "invalid_scope",
        "unsupported_grant_type",
        "invalid_request",
        "invalid_target",
    ];
    let who = Row { status: Some(StatusCode::UNAUTHORIZED.as_u16()), member: None, meaning: Meaning::Ours };
    let ours = ours.map(|text| row(text, Meaning::Ours));
    Table::new(refused.into_iter().chain(later).chain(ours).chain([who]).collect())
}

/// The tokens of an answer. `None` where it holds no bearer token that a cookie can hold.
pub(super) fn tokens(json: &Value, presented: &Pair, received_at: UnixTime) -> Option<TokenSet> {
    // A token that has to be used in another way is of no use here (RFC 6749 §7.1).
    let bearer = json.get("token_type")?.as_str()?.eq_ignore_ascii_case("bearer");
    let access = AccessToken::parse(json.get("access_token")?.as_str()?).filter(|_| bearer)?;
    let refresh = match json.get("refresh_token") {
        None | Some(Value::Null) => presented.refresh.clone(),
        Some(Value::String(text)) if text.is_empty() => presented.refresh.clone(),
        Some(value) => RefreshToken::parse(value.as_str()?)?,
    };
    let ends = |name: &str| life(json.get(name)?).map(|life| received_at.saturating_add(life));
    Some(TokenSet {
        access,
        rotated: refresh != presented.refresh,
        refresh,
        session: presented.session.clone(),
        access_expires: ends("expires_in"),
        // No standard names it; these two names are what servers use.
        refresh_expires: ends("refresh_expires_in").or_else(|| ends("refresh_token_expires_in")),
        received_at,
    })
}

/// A life in seconds, as a number or, as some servers write it, as text. An odd one, or none at all (0 stands for
/// "for ever" beside refresh tokens), is as good as not said.
fn life(value: &Value) -> Option<Duration> {
    let seconds = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    let life = Duration::try_from_secs_f64(seconds.floor()).ok()?;
    (!life.is_zero()).then_some(life.min(LONGEST))
}

/// What an introspection says. `None`: nothing that can be read.
pub(super) fn activity(json: &Value) -> Option<Introspection> {
    // A refresh token is active, too, and is not to be taken for an access token: some servers tell them apart here.
    let bearer = match json.get("token_type") {
        None | Some(Value::Null) => true,
        Some(kind) => kind.as_str()?.eq_ignore_ascii_case("bearer"),
    };
    if !json.get("active")?.as_bool()? || !bearer {
        return Some(Introspection::Inactive);
    }
    let moment = |name: &str| match json.get(name) {
        None | Some(Value::Null) => Some(None),
        Some(value) => {
            let seconds = Duration::try_from_secs_f64(value.as_f64()?.floor()).ok()?;
            Some(Some(UnixTime::from_secs(seconds.as_secs())))
        }
    };
    let (issued_at, expires_at) = (moment("iat")?, moment("exp")?);
    Some(Introspection::Active { claims: json.as_object()?.clone(), issued_at, expires_at })
}

/// Whether an answer says that nothing can be done with tokens of this kind.
pub(super) fn says_unsupported(json: &Value) -> bool {
    json.get("error").and_then(Value::as_str) == Some("unsupported_token_type")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn classify(status: u16, error: &str) -> Option<Meaning> {
        let status = StatusCode::from_u16(status).expect("a status");
        default_answers().find(status, &json!({"error": error, "error_description": "told to nobody"}))
    }

    #[test]
    fn each_row_of_the_table() {
        for status in [400, 401, 403] {
            assert_eq!(classify(status, "invalid_grant"), Some(Meaning::Refused), "{status}");
        }
        for status in [200, 302, 404, 409, 429, 500, 503] {
            assert_eq!(classify(status, "invalid_grant"), None, "{status}: no server sends it so");
        }
        for text in [
            "invalid_client",
            "unauthorized_client",
            "invalid_scope",
            "unsupported_grant_type",
            "invalid_request",
            "invalid_target",
        ] {
            for status in [400, 401, 403] {
                assert_eq!(classify(status, text), Some(Meaning::Ours), "{status} {text}");
            }
        }
        for text in ["temporarily_unavailable", "slow_down", "server_error"] {
            for status in [400, 401, 429, 500, 503] {
                assert_eq!(classify(status, text), Some(Meaning::Unavailable), "{status} {text}");
            }
        }
        assert_eq!(classify(401, "Unauthorized"), Some(Meaning::Ours), "a framework's own words");
        for status in [400, 403, 404, 429, 500] {
            assert_eq!(classify(status, "whatever"), None, "{status}");
        }
        let nothing = default_answers().find(StatusCode::UNAUTHORIZED, &Value::Null);
        assert_eq!(nothing, Some(Meaning::Ours));
        assert_eq!(default_answers().find(StatusCode::BAD_REQUEST, &Value::Null), None);
    }

    #[test]
    fn rows_from_the_settings_come_first() {
        let silent = Row { status: Some(400), member: None, meaning: Meaning::Refused };
        let odd = Row {
            status: None,
            member: Some(("error".into(), "bad_refresh_token".into())),
            meaning: Meaning::Refused,
        };
        let table = default_answers().after(vec![odd, silent]);
        assert_eq!(table.find(StatusCode::BAD_REQUEST, &Value::Null), Some(Meaning::Refused));
        let odd = json!({"error": "bad_refresh_token"});
        assert_eq!(table.find(StatusCode::OK, &odd), Some(Meaning::Refused));
    }

    fn presented() -> Pair {
        Pair { refresh: RefreshToken::parse("r1").expect("a token"), access: None, session: None }
    }

    fn read(json: &Value) -> Option<TokenSet> {
        tokens(json, &presented(), UnixTime::from_secs(1000))
    }

    #[test]
    fn a_new_refresh_token_takes_the_place_of_the_presented_one() {
        let json = json!({"access_token": "a2", "token_type": "Bearer", "refresh_token": "r2", "expires_in": 10,
            "refresh_expires_in": 1800, "id_token": "x.y.z", "scope": "openid"});
        let set = read(&json).expect("tokens");
        assert_eq!((set.access.expose(), set.refresh.expose(), set.rotated), ("a2", "r2", true));
        assert_eq!(set.access_expires, Some(UnixTime::from_secs(1010)));
        assert_eq!(set.refresh_expires, Some(UnixTime::from_secs(2800)));
    }

    #[test]
    fn without_a_new_refresh_token_the_presented_one_stays() {
        for refresh in [json!(null), json!(""), json!("r1")] {
            let json = json!({"access_token": "a2", "token_type": "bearer", "refresh_token": refresh});
            let set = read(&json).expect("tokens");
            assert_eq!((set.refresh.expose(), set.rotated), ("r1", false), "{refresh}");
            assert_eq!((set.access_expires, set.refresh_expires), (None, None));
        }
        let set = read(&json!({"access_token": "a2", "token_type": "BEARER"})).expect("tokens");
        assert!(!set.rotated);
    }

    #[test]
    fn odd_lives_are_as_good_as_not_said() {
        for odd in [json!(0), json!("0"), json!(-5), json!("soon"), json!(null), json!([10]), json!(true)] {
            let json = json!({"access_token": "a", "token_type": "bearer", "expires_in": odd});
            assert_eq!(read(&json).expect("tokens").access_expires, None, "{odd}");
        }
        for ten in [json!(10), json!(10.9), json!("10"), json!(" 10 ")] {
            let json = json!({"access_token": "a", "token_type": "bearer", "expires_in": ten});
            assert_eq!(read(&json).expect("tokens").access_expires, Some(UnixTime::from_secs(1010)), "{ten}");
        }
        for endless in [json!(u64::MAX), json!(1e300), json!("inf"), json!("NaN")] {
            let json = json!({"access_token": "a", "token_type": "bearer", "expires_in": endless});
            let ends = read(&json).expect("tokens").access_expires;
            assert!(ends.is_none_or(|ends| ends <= UnixTime::from_secs(1000).saturating_add(LONGEST)));
        }
    }

    #[test]
    fn what_is_no_bearer_token_is_no_token() {
        for json in [
            json!({}),
            json!({"access_token": "a"}),
            json!({"access_token": "a", "token_type": "DPoP"}),
            json!({"access_token": "a", "token_type": ["bearer"]}),
            json!({"access_token": 3, "token_type": "bearer"}),
            json!({"access_token": "", "token_type": "bearer"}),
            json!({"access_token": "a b", "token_type": "bearer"}),
            json!({"access_token": "a\r\nb", "token_type": "bearer"}),
            json!({"access_token": "a", "token_type": "bearer", "refresh_token": 5}),
            json!({"access_token": "a", "token_type": "bearer", "refresh_token": "r;2"}),
            json!({"token_type": "bearer", "refresh_token": "r2"}),
        ] {
            assert_eq!(read(&json), None, "{json}");
        }
    }
}
