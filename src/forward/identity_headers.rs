//! Writes who is asking into headers.
//! In: verified claims. Out: header lines. Errors: [`HeaderFault`], the request is refused. I/O: none.
//! Source: RFC 9110 §5.5 (field values); RFC 3986 §2.1 (escapes).

use std::borrow::Cow;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::certificate::ClientCertificate;
use crate::identity::{Identity, Line};

/// The headers that tell an upstream who is asking, each with the claim it is filled from.
#[derive(Clone, Debug)]
pub struct IdentityHeaders {
    claims: Vec<(HeaderName, String)>,
    cap: usize,
    /// Tells these settings from others: what was written by others is not taken for theirs.
    number: u64,
}

/// How many such settings there have been.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// Why an identity cannot be told: what it holds fits in no header. It names the header, never the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// The claim holds a control character.
    #[error("the claim for {0} holds a control character")]
    Control(HeaderName),
    /// The value is longer than the settings allow. Nothing is ever cut.
    #[error("the value for {0} is too long")]
    TooLong(HeaderName),
}

impl IdentityHeaders {
    /// Headers, each with the path of its claim, and the most bytes that one value may have once written.
    #[must_use]
    pub fn new(claims: Vec<(HeaderName, String)>, cap: usize) -> Self {
        Self { claims, cap, number: NUMBERS.fetch_add(1, Ordering::Relaxed) }
    }

    /// The headers' names.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.claims.iter().map(|(name, _)| name)
    }

    /// The header lines for an identity. Texts, numbers and truth values are written as they are, arrays of them joined by commas.
    /// Bytes outside ASCII and `%` are percent-encoded as UTF-8, and so are commas inside a member of an array, and blanks
    /// at either end of a value or member, which readers would drop. A claim that is missing, null, an object, an empty
    /// array, or an array that holds anything else gives no header.
    ///
    /// # Errors
    /// [`HeaderFault`]: the request must not be sent on.
    pub fn render<'a>(&self, identity: &'a Identity) -> Result<Cow<'a, [Line]>, HeaderFault> {
        identity.told(self.number, || {
            let texts =
                self.claims.iter().filter_map(|(name, path)| Some((name, written(&*identity.claim(path)?)?)));
            lines(texts, self.cap)
        })
    }
}

/// The headers that tell an upstream whom a client's certificate is for. Those that are named are set or deleted.
#[derive(Clone, Debug, Default)]
pub struct CertificateHeaders {
    /// Carries its subject (RFC 4514).
    pub subject: Option<HeaderName>,
    /// Carries its other names, joined by commas.
    pub names: Option<HeaderName>,
    /// Carries its SHA-256.
    pub fingerprint: Option<HeaderName>,
    /// Most bytes of one value.
    pub cap: usize,
}

impl CertificateHeaders {
    /// The headers' names.
    pub fn header_names(&self) -> impl Iterator<Item = &HeaderName> {
        [&self.subject, &self.names, &self.fingerprint].into_iter().flatten()
    }

    /// The header lines for a certificate, written as [`IdentityHeaders::render`] writes texts and lists of them.
    ///
    /// # Errors
    /// [`HeaderFault`]: the request must not be sent on.
    pub fn render(&self, of: &ClientCertificate) -> Result<Vec<Line>, HeaderFault> {
        let names: Vec<String> = of.names.iter().map(|name| escaped(name, Place::InList)).collect();
        let texts = [
            (&self.subject, escaped(&of.subject, Place::Alone)),
            (&self.names, names.join(",")),
            (&self.fingerprint, of.fingerprint.clone()),
        ];
        let named = texts.into_iter().filter_map(|(name, text)| Some((name.as_ref()?, text)));
        lines(named.filter(|(_, text)| !text.is_empty()), self.cap)
    }
}

/// Header lines of texts that hold nothing but visible ASCII, blanks, and controls that are refused here. All of them lie in one
/// piece of memory: who sends them on finds them side by side.
fn lines<'a>(
    texts: impl Iterator<Item = (&'a HeaderName, String)>,
    cap: usize,
) -> Result<Vec<Line>, HeaderFault> {
    let (mut together, mut places) = (String::new(), Vec::new());
    for (name, text) in texts {
        if text.chars().any(char::is_control) {
            return Err(HeaderFault::Control(name.clone()));
        }
        if text.len() > cap {
            return Err(HeaderFault::TooLong(name.clone()));
        }
        let begin = together.len();
        together.push_str(&text);
        places.push((name, begin..together.len()));
    }
    let together = Bytes::from(together);
    let line = |(name, place): (&HeaderName, Range<usize>)| {
        let value = HeaderValue::from_maybe_shared(together.slice(place)).ok();
        Ok((name.clone(), value.ok_or_else(|| HeaderFault::Control(name.clone()))?))
    };
    places.into_iter().map(line).collect()
}

/// Where a text stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Alone,
    InList,
}

fn written(claim: &Value) -> Option<String> {
    let Value::Array(members) = claim else { return scalar(claim, Place::Alone) };
    let texts: Option<Vec<String>> = members.iter().map(|member| scalar(member, Place::InList)).collect();
    texts.filter(|texts| !texts.is_empty()).map(|texts| texts.join(","))
}

fn scalar(claim: &Value, place: Place) -> Option<String> {
    match claim {
        Value::String(text) => Some(escaped(text, place)),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Controls stay as they are, so that they are found.
fn escaped(text: &str, place: Place) -> String {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'%' && (byte != b',' || place == Place::Alone);
    if text.bytes().all(plain) {
        return text.to_owned();
    }
    let inner = text.trim_matches(' ');
    let start = text.len() - text.trim_start_matches(' ').len();
    let end = start + inner.len();
    let mut written = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        let at_edge = c == ' ' && !(start..end).contains(&at);
        let escape =
            c == '%' || at_edge || c == ',' && place == Place::InList || !c.is_ascii() && !c.is_control();
        if !escape {
            written.push(c);
            continue;
        }
        written.extend(utf8_percent_encode(c.encode_utf8(&mut [0; 4]), NON_ALPHANUMERIC));
    }
    written
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::clock::UnixTime;

    fn render(claim: &Value, cap: usize) -> Result<Option<String>, HeaderFault> {
        let Value::Object(claims) = json!({"a": {"b": claim}}) else { panic!("an object") };
        let who = Identity::new("u".into(), None, None, UnixTime::from_secs(1), claims);
        let headers = IdentityHeaders::new(vec![(HeaderName::from_static("x-b"), "a.b".into())], cap);
        let lines = headers.render(&who)?;
        Ok(lines.first().map(|(_, value)| value.to_str().expect("text").to_owned()))
    }

    #[test]
    fn claims_are_written_so_that_they_can_be_read_back() {
        for (claim, wanted) in [
            (json!("ana"), Some("ana")),
            (json!("Ana, Mar\u{ed}a 100%"), Some("Ana, Mar%C3%ADa 100%25")),
            (json!(" ana "), Some("%20ana%20")),
            (json!("   "), Some("%20%20%20")),
            (json!(""), Some("")),
            (json!(7), Some("7")),
            (json!(1.5), Some("1.5")),
            (json!(true), Some("true")),
            (json!(["clerk", "a,b", 3, " x"]), Some("clerk,a%2Cb,3,%20x")),
            (json!([]), None),
            (json!(["a", {"b": 1}]), None),
            (json!(["a", null]), None),
            (json!(null), None),
            (json!({"x": 1}), None),
        ] {
            assert_eq!(render(&claim, 100), Ok(wanted.map(str::to_owned)), "{claim}");
        }
    }

    #[test]
    fn a_control_character_refuses_and_shows_nothing() {
        for text in ["a\nb", "a\r", "\0", "a\tb", "\u{7f}", "\u{85}"] {
            for claim in [json!(text), json!(["x", text])] {
                let fault = render(&claim, 100).expect_err("a fault");
                assert_eq!(fault, HeaderFault::Control(HeaderName::from_static("x-b")));
                assert_eq!(fault.to_string(), "the claim for x-b holds a control character");
            }
        }
    }

    #[test]
    fn what_was_written_for_others_is_not_taken() {
        let claims =
            serde_json::Map::from_iter([("a".to_owned(), json!("one")), ("b".to_owned(), json!("two"))]);
        let who = Identity::new("u".into(), None, None, UnixTime::from_secs(1), claims);
        let settings =
            |claim: &str| IdentityHeaders::new(vec![(HeaderName::from_static("x-b"), claim.to_owned())], 10);
        let (one, other) = (settings("a"), settings("b"));
        for _ in 0..2 {
            assert_eq!(one.render(&who).expect("lines")[0].1, "one");
            assert_eq!(other.render(&who).expect("lines")[0].1, "two");
            assert_eq!(one.clone().render(&who.clone()).expect("lines")[0].1, "one");
        }
    }

    #[test]
    fn nothing_is_cut() {
        assert!(render(&json!("abc"), 3).is_ok());
        assert_eq!(render(&json!("abcd"), 3), Err(HeaderFault::TooLong(HeaderName::from_static("x-b"))));
        assert!(render(&json!("\u{e9}"), 3).is_err());
    }
}
