//! Sees to it that nobody slips a parameter into a sign-in endpoint behind the gateway that would skip its checks.
//! In: a path, a query, a body. Out: whether they may pass. Errors: [`GuardFault`]. I/O: none.
//! Source: WHATWG URL §5.1 (urlencoded parsing); RFC 9110 §8.3 (`Content-Type`), §8.4 (`Content-Encoding`).

use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::Value;

use crate::forward::names::NameSet;
use crate::forward::query::{CleanQuery, clean_query};
use crate::outcome::Guarded;

/// A guarded endpoint.
#[derive(Clone, Debug)]
pub struct Guard {
    /// The letters and digits of its path.
    letters: String,
    names: NameSet,
}

/// Why a request may not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuardFault {
    /// A parameter is there that nobody may send.
    #[error("the request holds a parameter that only services may send")]
    Forbidden,
    /// The body is not what its type says.
    #[error("the request's body cannot be read")]
    Unreadable,
    /// The body is of a kind that is not looked into.
    #[error("only forms and JSON in UTF-8 are taken here")]
    Kind,
}

impl GuardFault {
    /// What the client is told.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Forbidden | Self::Unreadable => StatusCode::BAD_REQUEST,
            Self::Kind => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
    }
}

/// Most bytes of a body that is looked into: names and passwords are short.
pub const GUARDED_BODY: usize = 64 * 1024;

/// How often an app might take escapes away.
const DECODINGS: usize = 3;

impl Guard {
    /// The guard of an endpoint.
    #[must_use]
    pub fn new(guarded: &Guarded) -> Self {
        let names = NameSet::new(guarded.parameters.iter().copied(), []);
        Self { letters: letters(&guarded.path), names }
    }

    /// Whether any reader could take `path` for the endpoint's: by its letters and digits alone, its parameters
    /// (`;a=b`) set aside, and whatever leads up (`..`).
    #[must_use]
    pub fn covers(&self, path: &str) -> bool {
        let mut decoded = path.to_owned();
        for _ in 0..DECODINGS {
            decoded = percent_decode_str(&decoded).decode_utf8_lossy().into_owned();
        }
        let plain: Vec<&str> =
            decoded.split(['/', '\\']).map(|segment| segment.split(';').next().unwrap_or_default()).collect();
        plain.contains(&"..") || letters(&plain.concat()).contains(&self.letters)
    }

    /// Looks at a query.
    ///
    /// # Errors
    /// [`GuardFault::Forbidden`].
    pub fn query(&self, query: &str) -> Result<(), GuardFault> {
        match clean_query(query, &self.names) {
            CleanQuery::AsSent => Ok(()),
            CleanQuery::Changed(_) => Err(GuardFault::Forbidden),
        }
    }

    /// Looks into a body.
    ///
    /// # Errors
    /// [`GuardFault`].
    pub fn body(&self, headers: &HeaderMap, body: &[u8]) -> Result<(), GuardFault> {
        if body.is_empty() {
            return Ok(());
        }
        match Kind::of(headers).ok_or(GuardFault::Kind)? {
            Kind::Form => {
                let text = std::str::from_utf8(body).ok().ok_or(GuardFault::Unreadable)?;
                // A reader that parts fields at line ends finds more of them.
                text.split(['\r', '\n']).try_for_each(|line| self.query(line))
            }
            Kind::Json => {
                let json = serde_json::from_slice(body).ok().ok_or(GuardFault::Unreadable)?;
                if self.holds(&json) { Err(GuardFault::Forbidden) } else { Ok(()) }
            }
        }
    }

    /// Whether a member of that name stands anywhere. Of two members with one name the last is seen, which is why names count
    /// and values do not.
    fn holds(&self, json: &Value) -> bool {
        match json {
            Value::Object(members) => {
                members.iter().any(|(name, value)| self.names.holds(name.as_bytes()) || self.holds(value))
            }
            Value::Array(items) => items.iter().any(|item| self.holds(item)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        }
    }
}

/// A body that can be looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Form,
    Json,
}

impl Kind {
    /// The kind that exactly one `Content-Type` names, in UTF-8 and not packed.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut types = headers.get_all(CONTENT_TYPE).iter();
        let (Some(one), None) = (types.next(), types.next()) else { return None };
        if headers.contains_key(CONTENT_ENCODING) {
            return None;
        }
        let mut parts = one.to_str().ok()?.split(';').map(|part| part.trim().to_ascii_lowercase());
        let kind = match parts.next()?.as_str() {
            "application/x-www-form-urlencoded" => Self::Form,
            "application/json" => Self::Json,
            _ => return None,
        };
        parts.all(|part| matches!(part.as_str(), "charset=utf-8" | "charset=\"utf-8\"")).then_some(kind)
    }
}

fn letters(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn guard() -> Guard {
        Guard::new(&Guarded { path: "/user/oauth/token".into(), parameters: &["isinternal"] })
    }

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
    const JSON: (&str, &str) = ("content-type", "application/json; charset=UTF-8");

    #[test]
    fn every_reading_of_its_path_is_covered() {
        for path in [
            "/user/oauth/token",
            "/USER/OAuth/token",
            "/user//oauth/token/",
            "/user/oauth/%74oken",
            "/user/oauth/%2574oken",
            "/user%2foauth%2Ftoken",
            "/user;x=1/oauth;y/token;jsessionid=2",
            "/user/./oauth/token",
            "/a/../user/oauth/token",
            "/user/%2e%2e/user/oauth/token",
            "/user\\oauth\\token",
            "/gateway/user/oauth/token",
            "/user/oauth/token.json",
        ] {
            assert!(guard().covers(path), "{path}");
        }
        for path in ["/", "/user/_details", "/user/oauth", "/oauth/token-info", "/assets/user.js"] {
            assert!(!guard().covers(path), "{path}");
        }
    }

    #[test]
    fn the_parameter_is_found_in_every_spelling() {
        for text in [
            "isInternal=true",
            "username=a&isInternal=true",
            "a;isInternal",
            "is%49nternal=1",
            "isInternal[]=1",
            "%69%73%49%6e%74%65%72%6e%61%6c=1",
            "+isInternal=1",
            "ISINTERNAL=1",
            "isInternal%00=1",
            "isInternal%0b=1",
            "\u{85}isInternal\u{2003}=1",
        ] {
            assert_eq!(guard().query(text), Err(GuardFault::Forbidden), "{text}");
            assert_eq!(
                guard().body(&headers(&[FORM]), text.as_bytes()),
                Err(GuardFault::Forbidden),
                "{text}"
            );
        }
        assert_eq!(guard().body(&headers(&[FORM]), b"a=1\r\nisInternal=1"), Err(GuardFault::Forbidden));
        for text in ["username=isInternal&password=x", "a=isInternal=true", "notInternal=1", ""] {
            assert_eq!(guard().query(text), Ok(()), "{text}");
            assert_eq!(guard().body(&headers(&[FORM]), text.as_bytes()), Ok(()), "{text}");
        }
        for json in
            [r#"{"isInternal":1}"#, r#"{"a":[{"is\u0049nternal":1}]}"#, r#"{"isInternal":1,"isInternal":2}"#]
        {
            assert_eq!(
                guard().body(&headers(&[JSON]), json.as_bytes()),
                Err(GuardFault::Forbidden),
                "{json}"
            );
        }
        assert_eq!(guard().body(&headers(&[JSON]), br#"{"a":"isInternal"}"#), Ok(()));
    }

    #[test]
    fn what_cannot_be_looked_into_does_not_pass() {
        let utf16 = ("content-type", "application/x-www-form-urlencoded; charset=utf-16");
        let multipart = ("content-type", "multipart/form-data; boundary=x");
        let gzip = ("content-encoding", "gzip");
        for lines in [&[][..], &[utf16], &[multipart], &[FORM, JSON], &[FORM, gzip]] {
            assert_eq!(guard().body(&headers(lines), b"a=1"), Err(GuardFault::Kind), "{lines:?}");
            assert_eq!(guard().body(&headers(lines), b""), Ok(()), "nothing is there to look into");
        }
        assert_eq!(guard().body(&headers(&[JSON]), b"{"), Err(GuardFault::Unreadable));
        assert_eq!(guard().body(&headers(&[FORM]), b"\xff\xfe"), Err(GuardFault::Unreadable));
    }
}
