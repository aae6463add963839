//! A signed token, read strictly: what two readers could read differently is refused.
//! In: compact text. Out: header and claims, not verified yet. Errors: [`TokenFault`]. I/O: none.
//! Source: RFC 7515 §3.1 (compact form), §4.1 (header); RFC 8725 §3 (best practices); RFC 8259 §4 (names are unique).

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::outcome::TokenFault;

/// What a token's header says, and how it is written: an issuer writes the same one before token after token.
#[derive(Debug)]
pub(crate) struct Header {
    /// The token's text before its first dot.
    written: Box<str>,
    /// `alg`, as written.
    pub(crate) algorithm: String,
    /// `kid`, where there is one: it only selects among the configured keys.
    pub(crate) key_id: Option<String>,
}

impl Header {
    fn read(written: &str) -> Result<Self, TokenFault> {
        let header = object(written)?;
        if ["crit", "zip", "b64", "cty", "enc", "epk"].iter().any(|name| header.contains_key(*name)) {
            return Err(TokenFault::Header);
        }
        match header.get("typ") {
            None => {}
            Some(Value::String(typ))
                if ["JWT", "at+jwt"].iter().any(|known| typ.eq_ignore_ascii_case(known)) => {}
            Some(_) => return Err(TokenFault::Header),
        }
        let Some(Value::String(algorithm)) = header.get("alg") else { return Err(TokenFault::Header) };
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err(TokenFault::Header),
        };
        Ok(Self { written: written.into(), algorithm: algorithm.clone(), key_id })
    }
}

/// A token taken apart. Nothing in it may be believed before its signature is verified.
#[derive(Debug)]
pub(crate) struct Unverified<'a> {
    /// The header.
    pub(crate) header: Arc<Header>,
    /// The claims.
    pub(crate) claims: Map<String, Value>,
    /// What the signature covers: header and claims as sent.
    pub(crate) signed: &'a str,
    /// The signature.
    pub(crate) signature: Vec<u8>,
}

impl<'a> Unverified<'a> {
    /// Takes `text` apart. A header that is written as the one `before`, whole, is not read again.
    ///
    /// # Errors
    /// `Malformed` for anything but three canonical base64url parts of which two are JSON objects without a member twice;
    /// `Header` for a header that asks for something this gateway does not do.
    pub(crate) fn parse(text: &'a str, before: Option<&Arc<Header>>) -> Result<Self, TokenFault> {
        let (signed, signature) = text.rsplit_once('.').ok_or(TokenFault::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenFault::Malformed)?;
        if claims.contains('.') || signature.is_empty() {
            return Err(TokenFault::Malformed);
        }
        let header = match before {
            Some(before) if *before.written == *header => Arc::clone(before),
            Some(_) | None => Arc::new(Header::read(header)?),
        };
        let claims = object(claims)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_not_canonical| TokenFault::Malformed)?;
        Ok(Self { header, claims, signed, signature })
    }
}

fn object(part: &str) -> Result<Map<String, Value>, TokenFault> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_not_canonical| TokenFault::Malformed)?;
    // All of it is text or none (RFC 8259 §8.1): looked at once, and not string by string.
    let text = std::str::from_utf8(&bytes).map_err(|_no_text| TokenFault::Malformed)?;
    match serde_json::from_str(text) {
        Ok(Strict(Value::Object(members))) => Ok(members),
        Ok(Strict(_)) | Err(_) => Err(TokenFault::Malformed),
    }
}

/// A JSON value in which no object has a member twice (`serde_json` alone would keep the last).
pub(crate) struct Strict(pub(crate) Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without a member twice")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Strict(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some((name, Strict(value))) = map.next_entry::<String, Strict>()? {
            if members.insert(name, value).is_some() {
                return Err(de::Error::custom("a member twice"));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, claims: &str) -> String {
        let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
        format!("{}.{}.{}", part(header), part(claims), part("signature"))
    }

    fn fault(text: &str) -> TokenFault {
        Unverified::parse(text, None).map(|_| ()).expect_err(text)
    }

    #[test]
    fn a_plain_token_is_read() {
        let text = token(r#"{"alg":"HS256","typ" : "JWT","kid":"k","jku":"https://evil"}"#, r#"{"sub":"a"}"#);
        let read = Unverified::parse(&text, None).expect("well-formed");
        assert_eq!((read.header.algorithm.as_str(), read.header.key_id.as_deref()), ("HS256", Some("k")));
        assert_eq!(format!("{}.{}", read.signed, URL_SAFE_NO_PAD.encode(&read.signature)), text);
    }

    #[test]
    fn a_header_stands_for_those_alone_that_are_written_the_same() {
        let good = token(r#"{"alg":"HS256","kid":"k"}"#, "{}");
        let before = Unverified::parse(&good, None).expect("well-formed").header;
        let again = Unverified::parse(&good, Some(&before)).expect("well-formed").header;
        assert!(Arc::ptr_eq(&before, &again), "it is not read again");
        for (header, key_id) in [
            (r#"{"alg":"HS256","kid":"K"}"#, Some("K")),
            (r#"{"alg":"HS256","kid":"k" }"#, Some("k")),
            (r#"{"alg":"HS256"}"#, None),
        ] {
            let text = token(header, "{}");
            let other = Unverified::parse(&text, Some(&before)).expect("well-formed").header;
            assert!(!Arc::ptr_eq(&before, &other) && other.key_id.as_deref() == key_id, "{header}");
        }
        let longer = good.replacen('.', "A.", 1);
        assert_eq!(Unverified::parse(&longer, Some(&before)).map(|_| ()), Err(TokenFault::Malformed));
        let none = token(r#"{"alg":"HS256","crit":["exp"]}"#, "{}");
        assert_eq!(Unverified::parse(&none, Some(&before)).map(|_| ()), Err(TokenFault::Header));
    }

    #[test]
    fn what_could_be_read_two_ways_is_refused() {
        let ok = r#"{"alg":"HS256"}"#;
        assert_eq!(fault(&token(ok, r#"{"sub":"a","sub":"b"}"#)), TokenFault::Malformed);
        assert_eq!(fault(&token(ok, r#"{"a":{"b":1,"b":2}}"#)), TokenFault::Malformed);
        assert_eq!(fault(&token(r#"{"alg":"HS256","alg":"none"}"#, "{}")), TokenFault::Malformed);
        assert_eq!(fault(&token(ok, "[]")), TokenFault::Malformed);
        assert_eq!(fault(&token(ok, "{} {}")), TokenFault::Malformed);
        let no_text =
            format!("{}.{}.AA", URL_SAFE_NO_PAD.encode(ok), URL_SAFE_NO_PAD.encode(b"{\"a\":\"\xff\"}"));
        assert_eq!(fault(&no_text), TokenFault::Malformed);
        for text in ["", ".", "..", "a.b", "a.b.c.d.e", "a.b.c"] {
            assert_eq!(fault(text), TokenFault::Malformed, "{text:?}");
        }
        let good = token(ok, "{}");
        assert_eq!(fault(&format!("{good}=")), TokenFault::Malformed, "padding");
        assert_eq!(fault(&format!("{good}.x")), TokenFault::Malformed);
        // "e30" is {}; "e31" decodes to the same bytes with other spare bits
        assert_eq!(fault(&good.replace(".e30.", ".e31.")), TokenFault::Malformed, "spare bits");
    }

    #[test]
    fn headers_that_ask_for_more_are_refused() {
        for header in [
            r#"{"alg":"HS256","crit":["exp"]}"#,
            r#"{"alg":"HS256","zip":"DEF"}"#,
            r#"{"alg":"HS256","b64":false}"#,
            r#"{"alg":"HS256","cty":"JWT"}"#,
            r#"{"alg":"dir","enc":"A128GCM"}"#,
            r#"{"alg":"HS256","typ":"logout+jwt"}"#,
            r#"{"alg":"HS256","typ":7}"#,
            r#"{"alg":["HS256"]}"#,
            r#"{"alg":"HS256","kid":1}"#,
            "{}",
        ] {
            assert_eq!(fault(&token(header, "{}")), TokenFault::Header, "{header}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_not_followed() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(fault(&token(r#"{"alg":"HS256"}"#, &deep)), TokenFault::Malformed);
    }
}
