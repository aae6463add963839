//! A browser's cookies for the one site of these tests.

use std::collections::BTreeMap;

use super::client::Answer;

/// Cookies by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Jar(BTreeMap<String, String>);

impl Jar {
    pub fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }

    pub fn without(mut self, name: &str) -> Self {
        self.0.remove(name);
        self
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the cookies of an answer.
    pub fn take(&mut self, answer: &Answer) {
        for line in answer.set_cookies() {
            self.take_line(line);
        }
    }

    fn take_line(&mut self, line: &str) {
        let mut parts = line.split(';').map(str::trim);
        let (name, value) = parts.next().and_then(|pair| pair.split_once('=')).expect("a cookie");
        let over = parts.any(|part| part.eq_ignore_ascii_case("max-age=0"));
        if over {
            self.0.remove(name);
        } else {
            self.set(name, value);
        }
    }

    /// The line that a browser sends.
    pub fn line(&self) -> Option<String> {
        let pairs: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }

    /// The three cookies of the session, our notes not among them.
    pub fn session(&self) -> [Option<&str>; 3] {
        ["access_token", "refresh_token", "session_id"].map(|name| self.get(name))
    }
}
