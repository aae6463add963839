//! Says in a JSON body who asks, the way DIGIT's services read it: `RequestInfo.authToken` and `RequestInfo.userInfo`.
//! In: a body, who asks. Out: the body to send. Errors: [`InfoFault`]. I/O: none.
//! Source: RFC 8259 §4 (members of one name: readers differ, so none passes).
//!
//! Both members are set or deleted, whatever the client wrote there, and in every spelling that a lenient reader takes for
//! them. All other bytes of values stay as they came.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::forward::guard::Kind;

/// Why a body cannot be sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InfoFault {
    /// It is not of type `application/json` in UTF-8, or it is packed.
    #[error("only JSON in UTF-8 is taken here")]
    Kind,
    /// It is no JSON object, or its `RequestInfo` is none.
    #[error("the request's body is no JSON object with a RequestInfo")]
    Unreadable,
    /// A member stands there twice.
    #[error("a member of the request's body stands there twice")]
    Twice,
}

impl InfoFault {
    /// What the client is told.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Kind => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Unreadable | Self::Twice => StatusCode::BAD_REQUEST,
        }
    }
}

/// The body with what is known of who asks (token and claims), or without anything where nobody is known.
///
/// # Errors
/// [`InfoFault`]: the request must not be sent on.
pub fn with_request_info(
    headers: &HeaderMap,
    body: Bytes,
    who: Option<(&str, &Map<String, Value>)>,
) -> Result<Bytes, InfoFault> {
    if body.is_empty() {
        return Ok(body);
    }
    if Kind::of(headers) != Some(Kind::Json) {
        return Err(InfoFault::Kind);
    }
    let Members(members) = read(&body)?;
    let mut written = Vec::with_capacity(members.len() + 1);
    let mut found = false;
    for (name, value) in members {
        if folded(&name) != "requestinfo" {
            written.push(member(&name, value.get()));
            continue;
        }
        if std::mem::replace(&mut found, true) {
            return Err(InfoFault::Twice);
        }
        written.push(member(&name, &request_info(value.get(), who)?));
    }
    if !found && who.is_some() {
        written.push(member("RequestInfo", &request_info("null", who)?));
    }
    Ok(Bytes::from(format!("{{{}}}", written.join(","))))
}

/// The object `RequestInfo`, with our two members or without them.
fn request_info(text: &str, who: Option<(&str, &Map<String, Value>)>) -> Result<String, InfoFault> {
    let members = if text == "null" { Members(Vec::new()) } else { read(text.as_bytes())? };
    let mut written: Vec<String> = Vec::with_capacity(members.0.len() + 2);
    for (name, value) in &members.0 {
        if !matches!(folded(name).as_str(), "authtoken" | "userinfo") {
            written.push(member(name, value.get()));
        }
    }
    if let Some((token, claims)) = who {
        written.push(member("authToken", &json!(token).to_string()));
        written.push(member("userInfo", &json!(claims).to_string()));
    }
    Ok(format!("{{{}}}", written.join(",")))
}

fn member(name: &str, value: &str) -> String {
    format!("{}:{value}", json!(name))
}

/// Lower case, letters and digits alone: how lenient readers compare names.
fn folded(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

fn read(bytes: &[u8]) -> Result<Members<'_>, InfoFault> {
    let members: Members<'_> = serde_json::from_slice(bytes).ok().ok_or(InfoFault::Unreadable)?;
    let mut names: Vec<&str> = members.0.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| matches!(pair, [one, other] if one == other)) {
        return Err(InfoFault::Twice);
    }
    Ok(members)
}

/// An object's members in their order, values untouched.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Reader).map(Members)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::CONTENT_TYPE;

    use super::*;

    fn headers(media: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(media))])
    }

    fn told(body: &str, known: Option<(&str, &Map<String, Value>)>) -> Result<String, InfoFault> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        with_request_info(&headers("application/json"), body, known)
            .map(|bytes| String::from_utf8(bytes.to_vec()).expect("text"))
    }

    fn claims() -> Map<String, Value> {
        let Value::Object(claims) = json!({"uuid": "u"}) else { panic!("an object") };
        claims
    }

    #[test]
    fn both_members_are_set_whatever_came() {
        let claims = claims();
        let ours = r#""authToken":"T","userInfo":{"uuid":"u"}"#;
        for (came, goes) in [
            (r#"{"a":1}"#, format!(r#"{{"a":1,"RequestInfo":{{{ours}}}}}"#)),
            (r#"{"RequestInfo":null,"a":1.50}"#, format!(r#"{{"RequestInfo":{{{ours}}},"a":1.50}}"#)),
            (
                r#"{"RequestInfo":{"apiId":"R","authToken":"x","userInfo":{"uuid":"root"}}, "n": 12345678901234567890123}"#,
                format!(r#"{{"RequestInfo":{{"apiId":"R",{ours}}},"n":12345678901234567890123}}"#),
            ),
            (
                r#"{"requestInfo":{"AuthToken":"x","user_info":1,"userInf\u006f":2}}"#,
                format!(r#"{{"requestInfo":{{{ours}}}}}"#),
            ),
        ] {
            assert_eq!(told(came, Some(("T", &claims))), Ok(goes), "{came}");
        }
    }

    #[test]
    fn nobody_is_told_of_nobody() {
        for (came, goes) in [
            (r#"{"a":1}"#, r#"{"a":1}"#),
            (
                r#"{"RequestInfo":{"authToken":"x","userInfo":{"uuid":"root"},"ts":1}}"#,
                r#"{"RequestInfo":{"ts":1}}"#,
            ),
            (r#"{"R\u0065questInfo":{"authToken":"x"}}"#, r#"{"RequestInfo":{}}"#),
            ("", ""),
        ] {
            assert_eq!(told(came, None), Ok(goes.to_owned()), "{came}");
        }
    }

    #[test]
    fn what_readers_could_differ_about_does_not_pass() {
        for (came, fault) in [
            (r#"{"RequestInfo":{},"RequestInfo":{}}"#, InfoFault::Twice),
            (r#"{"RequestInfo":{},"requestInfo":{}}"#, InfoFault::Twice),
            (r#"{"RequestInfo":{"a":1,"a":2}}"#, InfoFault::Twice),
            (r#"{"a":1,"\u0061":2}"#, InfoFault::Twice),
            (r#"{"RequestInfo":[]}"#, InfoFault::Unreadable),
            (r#"{"RequestInfo":"x"}"#, InfoFault::Unreadable),
            ("[]", InfoFault::Unreadable),
            ("{", InfoFault::Unreadable),
            ("{} {}", InfoFault::Unreadable),
            ("\u{feff}{}", InfoFault::Unreadable),
        ] {
            assert_eq!(told(came, None), Err(fault), "{came}");
        }
        let utf16: Vec<u8> = "{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let sent = with_request_info(&headers("application/json"), Bytes::from(utf16), None);
        assert_eq!(sent, Err(InfoFault::Unreadable));
        for media in ["text/json", "application/json; charset=utf-16", "multipart/form-data; boundary=x"] {
            let sent = with_request_info(&headers(media), Bytes::from_static(b"{}"), None);
            assert_eq!(sent, Err(InfoFault::Kind), "{media}");
        }
    }
}
