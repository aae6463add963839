//! What a route asks of whoever comes.
//! In: settings. Out: [`Need`]. Errors: none. I/O: none.

use std::time::Duration;

use serde_json::Value;

use crate::identity::Identity;

/// What a session route needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Whether a session has to be there.
    pub access: Access,
    /// What its claims have to say.
    pub require: Require,
    /// How long after its access token's end a session is served while its backend is away; zero: not at all.
    pub stale: Duration,
}

/// Whether a route can do without a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// With a session the upstream is told who is there, without one it is told nothing.
    Optional,
    /// Only with a session.
    #[default]
    Required,
}

/// Claims that have to hold one of the listed values, each claim by its path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Require(Vec<(String, Vec<String>)>);

impl Require {
    /// Requirements: claim path and the values of which one has to be there. All of them count.
    #[must_use]
    pub const fn new(claims: Vec<(String, Vec<String>)>) -> Self {
        Self(claims)
    }

    /// The path of the first claim that the identity lacks.
    #[must_use]
    pub fn lacking(&self, identity: &Identity) -> Option<&str> {
        let meets = |(path, wanted): &&(String, Vec<String>)| {
            identity.claim(path).is_some_and(|claim| match &*claim {
                Value::Array(items) => items.iter().any(|item| is_one_of(item, wanted)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
                    is_one_of(&claim, wanted)
                }
            })
        };
        self.0.iter().find(|entry| !meets(entry)).map(|(path, _)| path.as_str())
    }

    /// Whether nothing is required.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These requirements and those.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(self.0.iter().chain(&other.0).cloned().collect())
    }
}

fn is_one_of(claim: &Value, wanted: &[String]) -> bool {
    match claim {
        Value::String(text) => wanted.iter().any(|w| w == text),
        Value::Number(number) => wanted.contains(&number.to_string()),
        Value::Bool(flag) => wanted.iter().any(|w| w == if *flag { "true" } else { "false" }),
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::clock::UnixTime;

    #[test]
    fn all_claims_are_required_and_one_value_of_each() {
        let Value::Object(claims) = json!({"roles": ["clerk", "admin"], "level": 3, "o": {}}) else {
            panic!()
        };
        let who = Identity::new("u".into(), None, None, UnixTime::from_secs(1), claims);
        let require = |path: &str, values: &[&str]| {
            Require::new(vec![(path.into(), values.iter().map(|v| (*v).to_owned()).collect())])
        };
        assert_eq!(require("roles", &["root", "admin"]).lacking(&who), None);
        assert_eq!(require("level", &["3"]).lacking(&who), None);
        assert_eq!(require("roles", &["root"]).lacking(&who), Some("roles"));
        assert_eq!(require("o", &["{}"]).lacking(&who), Some("o"));
        assert_eq!(require("none", &[]).lacking(&who), Some("none"));
        assert_eq!(require("level", &["3"]).and(&require("roles", &["root"])).lacking(&who), Some("roles"));
    }
}
