//! The paths that a rule is about: one, or one and everything below it.
//! In: text from the settings, decoded paths. Out: [`Pattern`]. Errors: [`PatternFault`]. I/O: none.

use std::fmt;

use crate::route::reading::{Ambiguity, Reading, lenient_segments, same_but_case};

/// Paths: `/x` is that one alone, `/x/*` is `/x` and everything below it, `/*` is every path.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    path: Vec<u8>,
    fit: Fit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    Below,
    Exact,
}

/// How closely a pattern fits: an exact one beats one for everything below, then the one with more segments wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fit(Reach, usize);

/// Why a text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternFault {
    /// It does not begin with a slash.
    #[error("a path begins with a slash")]
    NoSlash,
    /// `*` stands elsewhere than at the end, after a slash.
    #[error("`*` stands for everything below a path: it comes last, after a slash")]
    Star,
    /// It holds `?` or `#`.
    #[error("rules are about paths: `?` and `#` have no place in them")]
    Query,
    /// Readers differ about it.
    #[error("readers differ about {0}: no rule can be given for it")]
    Ambiguous(Ambiguity),
}

impl Pattern {
    /// Reads a pattern. Escapes are decoded, so `/b%C3%BCro` and `/büro` are one.
    ///
    /// # Errors
    /// [`PatternFault`]: what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PatternFault> {
        if !text.starts_with('/') {
            return Err(PatternFault::NoSlash);
        }
        let (path, reach) = match text.strip_suffix("/*") {
            Some(path) => (path, Reach::Below),
            None => (text, Reach::Exact),
        };
        if path.contains('*') {
            return Err(PatternFault::Star);
        }
        if path.contains(['?', '#']) {
            return Err(PatternFault::Query);
        }
        // With the slash that `*` follows, so that `//*` and `/x//*` show their two slashes.
        let whole = if reach == Reach::Below { format!("{path}/") } else { path.to_owned() };
        let reading = Reading::of(&whole);
        if let Some(ambiguity) = reading.ambiguities.first() {
            return Err(PatternFault::Ambiguous(*ambiguity));
        }
        let mut path = reading.decoded.unwrap_or_else(|| whole.into_bytes());
        if reach == Reach::Below {
            path.pop();
        }
        let fit = Fit(reach, lenient_segments(&path).count());
        Ok(Self { text: text.to_owned(), path, fit })
    }

    /// The pattern `/*`.
    #[must_use]
    pub fn everything() -> Self {
        Self { text: "/*".to_owned(), path: Vec::new(), fit: Fit(Reach::Below, 0) }
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether every path falls under it.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.fit.0 == Reach::Below && self.path.is_empty()
    }

    /// How closely it fits this path; `None`: not at all.
    pub(super) fn fit(&self, path: &[u8]) -> Option<Fit> {
        let rest = path.strip_prefix(self.path.as_slice())?;
        let fits = match self.fit.0 {
            Reach::Exact => rest.is_empty(),
            Reach::Below => rest.is_empty() || rest.starts_with(b"/"),
        };
        fits.then_some(self.fit)
    }

    /// How closely it fits this path for a reader to whom case and what ends a segment or the path mean nothing.
    /// Whatever fits literally fits such a reader too.
    pub(super) fn lenient_fit(&self, path: &[u8]) -> Option<Fit> {
        let mut segments = lenient_segments(path);
        for own in lenient_segments(&self.path) {
            if !same_but_case(own, segments.next()?) {
                return None;
            }
        }
        let fits = match self.fit.0 {
            Reach::Exact => segments.next().is_none(),
            Reach::Below => true,
        };
        fits.then_some(self.fit)
    }
}

/// Patterns are equal if they are about the same paths.
impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path && self.fit == other.fit
    }
}

impl Eq for Pattern {}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, path: &str) -> bool {
        Pattern::parse(pattern).expect(pattern).fit(path.as_bytes()).is_some()
    }

    #[test]
    fn everything_below_ends_at_a_segment() {
        assert!(fits("/x/*", "/x"));
        assert!(fits("/x/*", "/x/"));
        assert!(fits("/x/*", "/x/y/z"));
        assert!(!fits("/x/*", "/xy"));
        assert!(!fits("/x/*", "/X"));
        assert!(!fits("/x/*", "/"));
        assert!(fits("/x", "/x"));
        assert!(!fits("/x", "/x/"));
        assert!(fits("/*", "/"));
        assert!(fits("/*", "/any/thing"));
        assert!(Pattern::parse("/*").expect("a pattern").is_everything());
    }

    #[test]
    fn exact_beats_below_and_long_beats_short() {
        let fit = |pattern: &str| Pattern::parse(pattern).expect(pattern).fit(b"/a/b").expect(pattern);
        assert!(fit("/a/b") > fit("/a/b/*"));
        assert!(fit("/a/b/*") > fit("/a/*"));
        assert!(fit("/a/*") > fit("/*"));
    }

    #[test]
    fn lenient_readers_see_more() {
        let lenient = |pattern: &str, path: &str| {
            Pattern::parse(pattern).expect(pattern).lenient_fit(path.as_bytes()).is_some()
        };
        for path in ["/admin", "/ADMIN", "/admin/", "/Admin./x", "/admin /"] {
            assert!(lenient("/admin/*", path), "{path}");
        }
        assert!(lenient("/x", "/X/"));
        assert!(!lenient("/x", "/x/y"));
        assert!(!lenient("/admin/*", "/administer"));
    }

    #[test]
    fn escapes_in_patterns_are_decoded() {
        assert_eq!(Pattern::parse("/b%C3%BCro/*"), Pattern::parse("/b\u{fc}ro/*"));
        assert!(fits("/a%20b", "/a b"));
    }

    #[test]
    fn unclear_patterns_are_refused() {
        use Ambiguity as A;
        for (text, wanted) in [
            ("", PatternFault::NoSlash),
            ("*", PatternFault::NoSlash),
            ("x/*", PatternFault::NoSlash),
            ("/x*", PatternFault::Star),
            ("/*/x", PatternFault::Star),
            ("/x/*/*", PatternFault::Star),
            ("/x?y", PatternFault::Query),
            ("/x#y", PatternFault::Query),
            ("//*", PatternFault::Ambiguous(A::DoubleSlash)),
            ("/x//*", PatternFault::Ambiguous(A::DoubleSlash)),
            ("/a/../*", PatternFault::Ambiguous(A::DotSegment)),
            ("/a%2fb", PatternFault::Ambiguous(A::EncodedSlash)),
            ("/a;b", PatternFault::Ambiguous(A::Semicolon)),
            ("/a%", PatternFault::Ambiguous(A::BrokenEscape)),
        ] {
            assert_eq!(Pattern::parse(text), Err(wanted), "{text}");
        }
    }
}
