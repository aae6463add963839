//! The page as HTML with places for what changes: built in, or an operator's own.
//! In: HTML with `{{name}}`. Out: [`Template`]. Errors: [`TemplateFault`], every one at once. I/O: none.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const BUILT_IN: &str = include_str!("page.html");

/// A place in the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Title,
    Site,
    Alert,
    Action,
    Form,
    User,
    Fields,
    FocusUser,
    FocusPassword,
    Invalid,
    RequestId,
}

const SLOTS: [(&str, Slot); 11] = [
    ("title", Slot::Title),
    ("site", Slot::Site),
    ("alert", Slot::Alert),
    ("action", Slot::Action),
    ("form", Slot::Form),
    ("user", Slot::User),
    ("fields", Slot::Fields),
    ("focus_user", Slot::FocusUser),
    ("focus_password", Slot::FocusPassword),
    ("invalid", Slot::Invalid),
    ("request_id", Slot::RequestId),
];

/// Without these nobody can sign in, or learns why not.
const NEEDED: [Slot; 3] = [Slot::Alert, Slot::Action, Slot::Form];
const NEEDED_TEXT: [&str; 4] = ["method=\"post\"", "name=\"user\"", "name=\"password\"", "name=\"form\""];

/// What is wrong with a page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateFault {
    /// A place that does not exist.
    #[error("{{{{{name}}}}} is no place; there are {}", names())]
    Unknown {
        /// Its name.
        name: String,
    },
    /// `{{` without its end.
    #[error("a {{{{ has no }}}} in its line")]
    Unfinished,
    /// A place that has to be there.
    #[error("{{{{{name}}}}} is missing")]
    Missing {
        /// Its name.
        name: &'static str,
    },
    /// A text that has to be there.
    #[error("{text} is missing: the form has to be sent by post, and to have inputs of these names")]
    MissingText {
        /// The text.
        text: &'static str,
    },
}

fn names() -> String {
    SLOTS.map(|(name, _)| name).join(", ")
}

#[derive(Clone, Debug)]
pub(super) enum Piece {
    Text(String),
    Slot(Slot),
}

/// Where the page's styles may come from.
#[derive(Clone, Debug)]
pub(super) enum Styles {
    /// From the page itself, and they are these (CSP 3 §2.3.1, `hash-source`).
    Hash(String),
    /// From the page itself and from the site.
    OwnPage,
}

/// A page.
#[derive(Clone, Debug)]
pub struct Template {
    pub(super) pieces: Vec<Piece>,
    pub(super) styles: Styles,
}

impl Default for Template {
    /// The page that is built in.
    fn default() -> Self {
        let style = BUILT_IN.split_once("<style>").and_then(|(_, rest)| rest.split_once("</style>"));
        let hash = digest(&SHA256, style.map_or("", |(style, _)| style).as_bytes());
        let hash = format!("'sha256-{}'", STANDARD.encode(hash));
        let (pieces, faults) = pieces(BUILT_IN);
        debug_assert!(faults.is_empty(), "{faults:?}");
        Self { pieces, styles: Styles::Hash(hash) }
    }
}

impl Template {
    /// An operator's own page.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(html: &str) -> Result<Self, Vec<TemplateFault>> {
        let (pieces, mut faults) = pieces(html);
        let has =
            |wanted: Slot| pieces.iter().any(|piece| matches!(piece, Piece::Slot(slot) if *slot == wanted));
        let missing = SLOTS.into_iter().filter(|(_, slot)| NEEDED.contains(slot) && !has(*slot));
        faults.extend(missing.map(|(name, _)| TemplateFault::Missing { name }));
        let missing = NEEDED_TEXT.into_iter().filter(|text| !html.contains(text));
        faults.extend(missing.map(|text| TemplateFault::MissingText { text }));
        if faults.is_empty() { Ok(Self { pieces, styles: Styles::OwnPage }) } else { Err(faults) }
    }

    /// Whether it has a place for further fields.
    #[must_use]
    pub fn has_fields(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Slot(Slot::Fields)))
    }

    /// The page, each place filled in one pass: what fills one is not looked at again.
    pub(super) fn fill(&self, fill: impl Fn(Slot) -> String) -> String {
        let mut page = String::new();
        for piece in &self.pieces {
            let written = match piece {
                Piece::Text(text) => page.write_str(text),
                Piece::Slot(slot) => page.write_str(&fill(*slot)),
            };
            debug_assert!(written.is_ok(), "writing to a String does not fail");
        }
        page
    }
}

fn pieces(html: &str) -> (Vec<Piece>, Vec<TemplateFault>) {
    let (mut pieces, mut faults) = (Vec::new(), Vec::new());
    let mut rest = html;
    while let Some((before, after)) = rest.split_once("{{") {
        pieces.push(Piece::Text(before.to_owned()));
        let Some((name, behind)) = after.split_once("}}").filter(|(name, _)| !name.contains('\n')) else {
            faults.push(TemplateFault::Unfinished);
            rest = after;
            continue;
        };
        match SLOTS.iter().find(|(known, _)| *known == name.trim()) {
            Some((_, slot)) => pieces.push(Piece::Slot(*slot)),
            None => faults.push(TemplateFault::Unknown { name: name.trim().chars().take(40).collect() }),
        }
        rest = behind;
    }
    pieces.push(Piece::Text(rest.to_owned()));
    (pieces, faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "{{alert}}<form method=\"post\" action=\"{{action}}\"><input name=\"form\" value=\"{{ form }}\">\
        <input name=\"user\"><input name=\"password\"></form>";

    #[test]
    fn the_page_that_is_built_in_could_be_an_operators() {
        assert!(Template::parse(BUILT_IN).is_ok_and(|template| template.has_fields()));
        let Styles::Hash(hash) = Template::default().styles else { panic!("it knows its styles") };
        assert_eq!(hash.len(), "'sha256-'".len() + 44);
        for bad in ["<script", "style=\"", "onload", "http:", "https:"] {
            assert!(!BUILT_IN.contains(bad), "{bad}");
        }
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let faults = Template::parse("<p>{{usr}} {{title}} {{ open\n}} {{").expect_err("useless");
        let told: Vec<_> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(faults.len(), 10, "{told:?}");
        assert!(told[0].starts_with("{{usr}} is no place; there are title, site, "), "{told:?}");
        assert!(told.contains(&"{{action}} is missing".to_owned()), "{told:?}");
        assert!(told.iter().any(|t| t.starts_with("name=\"password\" is missing")), "{told:?}");
        assert!(Template::parse(LEAST).is_ok_and(|template| !template.has_fields()));
    }

    #[test]
    fn what_fills_a_place_is_no_template() {
        let filled = Template::parse(LEAST).expect("enough").fill(|slot| format!("<{slot:?} {{{{user}}}}>"));
        assert!(
            filled.starts_with("<Alert {{user}}><form method=\"post\" action=\"<Action {{user}}>\">"),
            "{filled}"
        );
        assert!(filled.ends_with("</form>"));
    }
}
