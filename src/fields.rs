//! Which fields a head surely lacks, told by one glance at all its names: most of the fields that a gateway asks for are in no
//! head, and each search for one costs more than the glance.
//! In: header maps. Out: [`Head`], [`Names`]. Errors: none. I/O: none.

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

/// A bit for each name of a set; names share bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names(u64);

impl Names {
    /// No names.
    pub const NONE: Self = Self(0);

    /// The names of a head.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        headers.keys().fold(Self::NONE, |names, name| names.and(name.as_str()))
    }

    /// These names, written in lower case.
    #[must_use]
    pub const fn listed(mut list: &[&str]) -> Self {
        let mut names = Self::NONE;
        while let [first, rest @ ..] = list {
            names = names.and(first);
            list = rest;
        }
        names
    }

    /// The same names and one more.
    #[must_use]
    pub const fn and(self, name: &str) -> Self {
        Self(self.0 | bit(name))
    }

    /// Whether the name may be among them; `false`: it surely is not.
    #[must_use]
    pub fn may_hold(self, name: &HeaderName) -> bool {
        self.0 & bit(name.as_str()) != 0
    }

    /// Whether a name may be in both sets; `false`: none is.
    #[must_use]
    pub const fn may_meet(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }
}

/// Told by length, first and last byte. The factors are such that among the fields of browsers and of usual answers those
/// that are asked for seldom share a bit with another one.
const fn bit(name: &str) -> u64 {
    match name.as_bytes() {
        [first, .., last] => {
            let mixed = name.len().wrapping_mul(15).wrapping_add(*first as usize * 55 + *last as usize);
            1 << (mixed % 64)
        }
        [] | [_] => 1,
    }
}

/// The fields of a head, to be asked for by name.
#[derive(Clone, Copy, Debug)]
pub struct Head<'h> {
    headers: &'h HeaderMap,
    names: Names,
}

impl<'h> Head<'h> {
    /// The fields of this head.
    #[must_use]
    pub fn of(headers: &'h HeaderMap) -> Self {
        Self { headers, names: Names::of(headers) }
    }

    /// The head itself.
    #[must_use]
    pub const fn headers(self) -> &'h HeaderMap {
        self.headers
    }

    /// Their names.
    #[must_use]
    pub const fn names(self) -> Names {
        self.names
    }

    /// The names of the fields, each once.
    pub fn keys(self) -> impl Iterator<Item = &'h HeaderName> {
        self.headers.keys()
    }

    /// Whether there is a field of that name.
    #[must_use]
    pub fn has(self, name: &HeaderName) -> bool {
        self.names.may_hold(name) && self.headers.contains_key(name)
    }

    /// The first field of that name.
    #[must_use]
    pub fn get(self, name: &HeaderName) -> Option<&'h HeaderValue> {
        if self.names.may_hold(name) { self.headers.get(name) } else { None }
    }

    /// All fields of that name, in their order.
    pub fn get_all(self, name: &HeaderName) -> impl Iterator<Item = &'h HeaderValue> + use<'h> {
        let all = self.names.may_hold(name).then(|| self.headers.get_all(name));
        all.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Nothing that is there is missed.
        #[test]
        fn a_glance_finds_what_a_search_finds(
            names in prop::collection::vec("[a-z0-9!#$%&'*+.^_`|~-]{1,24}", 0..24),
            other in "[a-z-]{1,12}",
        ) {
            let mut headers = HeaderMap::new();
            for (name, at) in names.iter().zip(0_u16..) {
                let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
                headers.append(name, HeaderValue::from(at));
            }
            let head = Head::of(&headers);
            for name in names.iter().chain([&other]) {
                let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
                prop_assert_eq!(head.has(&name), headers.contains_key(&name));
                prop_assert_eq!(head.get(&name), headers.get(&name));
                let all = |values: Vec<&HeaderValue>| values.into_iter().cloned().collect::<Vec<_>>();
                let searched = headers.get_all(&name).iter().collect();
                prop_assert_eq!(all(head.get_all(&name).collect()), all(searched));
                let listed = Names::listed(&["upgrade", name.as_str(), "te"]);
                prop_assert!(!headers.contains_key(&name) || head.names().may_meet(listed));
            }
        }
    }

    #[test]
    fn a_short_head_lacks_what_is_asked_for_seldom() {
        let names = Names::listed(&["host", "user-agent", "accept", "cookie"]);
        for absent in ["te", "trailer", "upgrade", "connection", "traceparent", "origin", "transfer-encoding"]
        {
            assert!(!names.may_hold(&HeaderName::from_static(absent)), "{absent}");
        }
    }
}
