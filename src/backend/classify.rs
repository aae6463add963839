//! What a backend's answer means, as a table: from status, field and text to a meaning.
//! In: status and JSON. Out: [`Meaning`]. Errors: none. I/O: none.

use std::fmt;

use http::StatusCode;
use serde_json::Value;

use crate::identity::find_claim;

/// What an answer without tokens means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The backend ended the session.
    Refused,
    /// No decision: the session stands.
    Unavailable,
    /// This gateway's own request or credentials are at fault: the session stands, somebody has to look.
    Ours,
}

/// One row: it applies where everything it names is so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The HTTP status; `None`: any.
    pub status: Option<u16>,
    /// Path of a JSON member and the text that it holds, or one item of it where it is a list; `None`: not looked at.
    pub member: Option<(String, String)>,
    /// What it means.
    pub meaning: Meaning,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(f, "{status}")?,
            None => f.write_str("any status")?,
        }
        if let Some((path, text)) = &self.member {
            write!(f, ", {path} = {text}")?;
        }
        f.write_str(match self.meaning {
            Meaning::Refused => ": refused",
            Meaning::Unavailable => ": unavailable",
            Meaning::Ours => ": ours (this gateway's settings are at fault)",
        })
    }
}

/// Rows in order; the first that applies decides, and none means [`Meaning::Unavailable`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table(Vec<Row>);

impl Table {
    /// A table of these rows.
    #[must_use]
    pub const fn new(rows: Vec<Row>) -> Self {
        Self(rows)
    }

    /// `first`, then this table.
    #[must_use]
    pub fn after(self, mut first: Vec<Row>) -> Self {
        first.extend(self.0);
        Self(first)
    }

    /// What an answer means.
    #[must_use]
    pub fn classify(&self, status: StatusCode, json: &Value) -> Meaning {
        self.find(status, json).unwrap_or(Meaning::Unavailable)
    }

    /// What the first row that applies says.
    pub(crate) fn find(&self, status: StatusCode, json: &Value) -> Option<Meaning> {
        let applies = |row: &&Row| {
            row.status.is_none_or(|wanted| wanted == status.as_u16())
                && row.member.as_ref().is_none_or(|(path, text)| holds(json, path, text))
        };
        self.0.iter().find(applies).map(|row| row.meaning)
    }

    /// The rows, in order.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.0
    }
}

fn holds(json: &Value, path: &str, text: &str) -> bool {
    match json.as_object().and_then(|members| find_claim(members, path)).as_deref() {
        Some(Value::Array(items)) => items.iter().any(|item| is(item, text)),
        Some(value) => is(value, text),
        None => false,
    }
}

fn is(value: &Value, text: &str) -> bool {
    match value {
        Value::String(found) => found == text,
        Value::Bool(found) => text == if *found { "true" } else { "false" },
        Value::Number(found) => found.to_string() == text,
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}
