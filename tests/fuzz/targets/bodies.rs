//! Bodies that are read: JSON that says who asks, what a guarded endpoint must not be sent, and the sign-in form.
//! Input: a letter for which of these, then the body.
#![no_main]

use std::cell::LazyCell;
use std::time::Duration;

use bytes::Bytes;
use doorkeep::forward::{Guard, with_request_info};
use doorkeep::outcome::Guarded;
use doorkeep::secret::Secret;
use doorkeep::session::seal::{Sealer, SessionKeys};
use doorkeep::sign_in::{Choice, Desk, Entry, Field, FormSettings, Rate, Template};
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use url::form_urlencoded;

thread_local! {
    static DESK: LazyCell<Desk> = LazyCell::new(desk);
}

fn desk() -> Desk {
    let choice = |value: &str| Choice { value: value.into(), label: value.into() };
    let fields = vec![
        Field { name: "tenantId".into(), entry: Entry::Fixed("pb".into()) },
        Field {
            name: "type".into(),
            entry: Entry::Chosen { label: "As".into(), choices: vec![choice("a"), choice("b")] },
        },
        Field { name: "city".into(), entry: Entry::Typed { label: "City".into(), preset: String::new() } },
    ];
    let rate = Rate::new(10, Duration::from_secs(60)).expect("a rate");
    let settings = FormSettings { fields, template: Template::default(), per_client: rate, per_user: rate };
    let secret = Secret::new(vec![7; 32]);
    let keys = SessionKeys::new(&secret, "backend");
    Desk::new(settings, Sealer::new(&[secret]), keys, Duration::from_secs(1))
}

fn of_type(media: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(media))])
}

/// A name as a lenient reader of JSON sees it.
fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase()
}

fn members(text: &str) -> Vec<(String, String)> {
    let read: std::collections::BTreeMap<String, Box<RawValue>> =
        serde_json::from_str(text).expect("an object");
    read.into_iter().map(|(name, value)| (name, value.get().to_owned())).collect()
}

fn says_who_asks(body: &[u8]) {
    let claims = Map::from_iter([("uuid".to_owned(), json!("u-1"))]);
    for who in [None, Some(("the-token", &claims))] {
        let came = Bytes::copy_from_slice(body);
        let Ok(sent) = with_request_info(&of_type("application/json"), came, who) else { continue };
        if body.is_empty() {
            assert!(sent.is_empty());
            continue;
        }
        let (sent, came) =
            (std::str::from_utf8(&sent).expect("text"), std::str::from_utf8(body).expect("text"));
        let (sent, came) = (members(sent), members(came));
        let infos: Vec<&(String, String)> =
            sent.iter().filter(|(name, _)| plain(name) == "requestinfo").collect();
        assert!(infos.len() <= 1 && (who.is_none() || infos.len() == 1), "one reading of who asks");
        for (_, info) in infos {
            let info = members(info);
            let said = |wanted: &str| -> Vec<Value> {
                let named = info.iter().filter(|(name, _)| plain(name) == wanted);
                named.map(|(_, value)| serde_json::from_str(value).expect("JSON")).collect()
            };
            assert_eq!(said("authtoken"), who.map(|(token, _)| json!(token)).into_iter().collect::<Vec<_>>());
            assert_eq!(
                said("userinfo"),
                who.map(|(_, claims)| json!(claims)).into_iter().collect::<Vec<_>>()
            );
        }
        let rest = |members: &[(String, String)]| -> Vec<(String, String)> {
            members.iter().filter(|(name, _)| plain(name) != "requestinfo").cloned().collect()
        };
        assert_eq!(rest(&sent), rest(&came), "all else byte for byte");
    }
}

/// Whether a member of that name stands anywhere.
fn holds(json: &Value) -> bool {
    match json {
        Value::Object(members) => {
            members.iter().any(|(name, value)| name.eq_ignore_ascii_case("isInternal") || holds(value))
        }
        Value::Array(items) => items.iter().any(holds),
        _ => false,
    }
}

fn keeps_what_is_guarded(body: &[u8]) {
    let guard = Guard::new(&Guarded { path: "/user/oauth/token".into(), parameters: &["isinternal"] });
    let of = |pairs: form_urlencoded::Parse<'_>| {
        // JavaScript's `trim` takes blanks, Java's all up to U+0020.
        let trimmed = |name: &str| name.trim().trim_matches(|c| c <= ' ').eq_ignore_ascii_case("isInternal");
        pairs.into_iter().any(|(name, _)| trimmed(&name))
    };
    if guard.body(&of_type("application/x-www-form-urlencoded"), body).is_ok() {
        assert!(!of(form_urlencoded::parse(body)));
    }
    if guard.body(&of_type("application/json"), body).is_ok() && !body.is_empty() {
        assert!(!holds(&serde_json::from_slice(body).expect("JSON")));
    }
    if let Ok(text) = std::str::from_utf8(body) {
        if guard.query(text).is_ok() {
            assert!(!of(form_urlencoded::parse(body)));
        }
        if text.to_ascii_lowercase().replace("//", "/").starts_with("/user/oauth/token") {
            assert!(guard.covers(text));
        }
    }
}

fn reads_the_form(body: &[u8]) {
    let Ok(read) = DESK.with(|desk| desk.read(body)) else { return };
    let pairs: Vec<(String, String)> = form_urlencoded::parse(body).into_owned().collect();
    let one = |wanted: &str| -> String {
        let values: Vec<&String> =
            pairs.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value).collect();
        assert!(values.len() <= 1, "{wanted} came twice");
        values.first().map(|value| (*value).clone()).unwrap_or_default()
    };
    assert_eq!(read.user, one("user").trim());
    assert!(read.user.len() <= 256 && !read.user.chars().any(char::is_control));
    assert_eq!(read.password.expose(), &one("password"));
    assert_eq!(read.form, one("form"));
    assert_eq!(read.further[0], ("tenantId".to_owned(), "pb".to_owned()));
    assert!(["a", "b"].contains(&read.further[1].1.as_str()));
    assert_eq!(read.further[2].1, one("further.city").trim());
}

fuzz_target!(|data: &[u8]| match data.split_first() {
    Some((b'j', body)) => says_who_asks(body),
    Some((b'g', body)) => keeps_what_is_guarded(body),
    Some((b'f', body)) => reads_the_form(body),
    Some(_) | None => {}
});
