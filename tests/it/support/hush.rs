//! What must be read nowhere, in whatever form it could be written.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::jar::Jar;

/// Secrets, and each form in which one could slip out.
#[derive(Clone, Debug, Default)]
pub struct Hushed(Vec<(String, Vec<String>)>);

impl Hushed {
    pub fn add(&mut self, secret: &str) {
        if !self.0.iter().any(|(known, _)| known == secret) {
            self.0.push((secret.to_owned(), forms(secret)));
        }
    }

    pub fn all<'a>(&mut self, secrets: impl IntoIterator<Item = &'a str>) {
        secrets.into_iter().for_each(|secret| self.add(secret));
    }

    /// Every cookie of ours.
    pub fn jar(&mut self, jar: &Jar) {
        for name in ["access_token", "refresh_token", "session_id", "doorkeep_state", "__Host-doorkeep_form"]
        {
            self.all(jar.get(name));
        }
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Fails where any of them is in a text.
    #[track_caller]
    pub fn are_not_in(&self, what: &str, text: &str) {
        for (secret, forms) in &self.0 {
            for form in forms {
                if let Some(line) = text.lines().find(|line| line.contains(form.as_str())) {
                    panic!("{secret} is in {what}, as {form}:\n{line}");
                }
            }
        }
    }
}

/// As it is; escaped for URLs, forms, JSON and Rust; as base64 in whatever text it stands; as hexadecimal; as a list of bytes.
fn forms(secret: &str) -> Vec<String> {
    let bytes = secret.as_bytes();
    let listed = |bytes: &[u8], sep: &str| bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(sep);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let escaped = |keeps: fn(u8) -> bool| {
        let one =
            |byte: &u8| if keeps(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") };
        bytes.iter().map(one).collect::<String>()
    };
    let json = serde_json::to_string(secret).unwrap();
    let mut forms = vec![
        secret.to_owned(),
        escaped(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)),
        escaped(|byte| byte.is_ascii_alphanumeric()),
        url::form_urlencoded::byte_serialize(bytes).collect(),
        json.trim_matches('"').to_owned(),
        secret.escape_debug().to_string(),
        hex(bytes),
        hex(bytes).to_ascii_uppercase(),
        listed(bytes, ", "),
        listed(bytes, ","),
    ];
    // Base64 of a text that holds it, wherever in its groups of three it begins: without what its neighbours change.
    for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
        for before in 0..3_usize {
            let text = engine.encode([&vec![0; before][..], bytes].concat());
            let end = text.len() - usize::from(!(before + bytes.len()).is_multiple_of(3));
            forms.extend(text.get((before * 4).div_ceil(3)..end).map(str::to_owned));
        }
    }
    // The parts of a token that anybody can read.
    forms.extend(secret.split('.').filter(|part| part.len() > 40).map(str::to_owned));
    // What is too short stands in any text.
    forms.retain(|form| form.len() >= 6);
    forms.sort_unstable();
    forms.dedup();
    forms
}

#[test]
fn every_form_is_found() {
    let mut hushed = Hushed::default();
    hushed.add("a+b c\"%\u{e9}secret");
    for text in [
        "a+b c\"%\u{e9}secret",
        "a%2Bb%20c%22%25%C3%A9secret",
        "a%2Bb+c%22%25%C3%A9secret",
        "a+b c\\\"%\u{e9}secret",
        "[97, 43, 98, 32, 99, 34, 37, 195, 169, 115, 101, 99, 114, 101, 116]",
        "612b62206322",
        &STANDARD_NO_PAD.encode("x:a+b c\"%\u{e9}secret and more"),
        &URL_SAFE_NO_PAD.encode("xy:a+b c\"%\u{e9}secret"),
        &STANDARD_NO_PAD.encode("xyz:a+b c\"%\u{e9}secret"),
    ] {
        let line = format!(
            "some line with {text}{} in it",
            if text.starts_with("612b") { "25c3a9736563726574" } else { "" }
        );
        let found = std::panic::catch_unwind(|| hushed.are_not_in("a text", &line));
        assert!(found.is_err(), "{text}");
    }
    hushed.are_not_in("a text", "a b c secret");
}
