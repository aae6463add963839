//! Names that belong to the gateway, compared so that no spelling of them gets through.
//! In: names from settings and requests. Out: [`OwnedNames`], [`OwnedParameters`]. Errors: none. I/O: none.
//! Source: RFC 3875 §4.1.18 (header fields become variables, `-` becomes `_`); PHP manual, "Variables From External Sources".

use http::HeaderName;
use http::header::CONTENT_LENGTH;

use crate::outcome::Believed;

/// Names up to this length are folded without allocating.
const ON_STACK: usize = 64;

/// Header names that a client must not use whatever the settings are: what we say ourselves about a request,
/// and what is between two neighbours only.
const BASE: [&str; 16] = [
    "connection",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy",
    "remote-user",
    "te",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "upgrade",
    "x-forwarded",
    "x-real-ip",
    "x-request-id",
];
const BASE_PREFIXES: [&str; 4] = ["proxy-", "x-forwarded-", "x-original-", "x-rewrite-"];

/// Fields that mean something in a head only, beside those that are owned (RFC 9110 §6.5.1).
const HEAD_ONLY: [&str; 11] = [
    "authorization",
    "cache-control",
    "cookie",
    "max-forwards",
    "origin",
    "pragma",
    "range",
    "referer",
    "set-cookie",
    "trailer",
    "www-authenticate",
];
const HEAD_ONLY_PREFIXES: [&str; 3] = ["content-", "if-", "sec-"];

/// A name in the form in which readers confuse it with others: lower case, every non-alphanumeric as `_`.
#[must_use]
pub fn folded(name: &str) -> String {
    name.bytes().map(|b| char::from(fold(b))).collect()
}

/// Names and beginnings of names, compared folded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameSet {
    /// Sorted.
    exact: Vec<Vec<u8>>,
    prefixes: Vec<Vec<u8>>,
    glance: Glance,
}

/// What a glance at a name's first byte and length tells: most names of requests are none of the set's.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Glance {
    /// For each [`kind`] of first byte, a bit for each length of the exact names that begin so, 63 standing for all longer ones.
    lengths: [u64; KINDS],
    /// A bit for each kind that a prefix begins with.
    prefixes: u64,
}

/// So many kinds of bytes are left once they are folded.
const KINDS: usize = 37;

/// The kind of a byte: a digit, a letter in any case, or anything else.
const fn kind(byte: u8) -> usize {
    (match fold(byte) {
        digit @ b'0'..=b'9' => digit - b'0',
        letter @ b'a'..=b'z' => letter - b'a' + 10,
        _ => 36,
    }) as usize
}

impl Default for Glance {
    fn default() -> Self {
        Self { lengths: [0; KINDS], prefixes: 0 }
    }
}

impl Glance {
    fn at(exact: &[Vec<u8>], prefixes: &[Vec<u8>]) -> Self {
        let mut glance = Self::default();
        for name in exact {
            let lengths = name.first().and_then(|first| glance.lengths.get_mut(kind(*first)));
            if let Some(lengths) = lengths {
                *lengths |= 1 << name.len().min(63);
            }
        }
        for first in prefixes.iter().filter_map(|prefix| prefix.first()) {
            glance.prefixes |= 1 << kind(*first);
        }
        glance
    }

    /// Whether it takes a closer look.
    fn may_hold(&self, name: &[u8]) -> bool {
        let Some(first) = name.first().map(|first| kind(*first)) else { return false };
        let lengths = self.lengths.get(first).copied().unwrap_or_default();
        self.prefixes >> first & 1 == 1 || lengths >> name.len().min(63) & 1 == 1
    }
}

impl NameSet {
    /// The set of these names and of all names that begin so. Empty texts count for nothing.
    pub fn new<'a>(
        exact: impl IntoIterator<Item = &'a str>,
        prefixes: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let fold_all = |names: &mut dyn Iterator<Item = &'a str>| -> Vec<Vec<u8>> {
            names.filter(|name| !name.is_empty()).map(|name| folded(name).into_bytes()).collect()
        };
        Self::of(fold_all(&mut exact.into_iter()), fold_all(&mut prefixes.into_iter()))
    }

    fn of(mut exact: Vec<Vec<u8>>, prefixes: Vec<Vec<u8>>) -> Self {
        exact.sort_unstable();
        exact.dedup();
        let glance = Glance::at(&exact, &prefixes);
        Self { exact, prefixes, glance }
    }

    /// Headers that an app's services believe without checking.
    #[must_use]
    pub fn headers_of(believed: Believed) -> Self {
        Self::new(believed.names.iter().copied(), believed.prefixes.iter().copied())
    }

    /// Query parameters that an app's services believe without checking.
    #[must_use]
    pub fn parameters_of(believed: Believed) -> Self {
        let names = believed.names.iter().chain(believed.parameters).copied();
        Self::new(names, believed.parameter_prefixes.iter().copied())
    }

    /// Both sets.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.exact.extend(other.exact);
        self.prefixes.extend(other.prefixes);
        Self::of(self.exact, self.prefixes)
    }

    /// Whether nothing is in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty()
    }

    /// Whether a name, once folded, is in it.
    #[must_use]
    pub fn holds(&self, name: &[u8]) -> bool {
        if !self.glance.may_hold(name) {
            return false;
        }
        let mut buffer = [0; ON_STACK];
        if let Some(room) = buffer.get_mut(..name.len()) {
            for (slot, byte) in room.iter_mut().zip(name) {
                *slot = fold(*byte);
            }
            return self.holds_folded(room);
        }
        let long: Vec<u8> = name.iter().map(|b| fold(*b)).collect();
        self.holds_folded(&long)
    }

    fn holds_folded(&self, name: &[u8]) -> bool {
        self.exact.binary_search_by(|own| own.as_slice().cmp(name)).is_ok()
            || self.prefixes.iter().any(|prefix| name.starts_with(prefix))
    }
}

/// Whether an upstream gets the client's `Authorization`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Authorization {
    /// It does not.
    #[default]
    Strip,
    /// It does.
    Pass,
}

/// The header names of a site that are never a client's to set.
#[derive(Clone, Debug)]
pub struct OwnedNames {
    head: NameSet,
    trailers: NameSet,
}

impl OwnedNames {
    /// The names that are always ours, those of the identity headers, and `more`: what the session backend's family of
    /// services believes, and what the settings add.
    pub fn new<'a>(
        identity: impl IntoIterator<Item = &'a HeaderName>,
        more: NameSet,
        authorization: Authorization,
    ) -> Self {
        let credentials = match authorization {
            Authorization::Strip => Some("authorization"),
            Authorization::Pass => None,
        };
        let head = NameSet::new(BASE.into_iter().chain(credentials), BASE_PREFIXES)
            .and(NameSet::new(identity.into_iter().map(HeaderName::as_str), []))
            .and(more);
        let trailers = head.clone().and(NameSet::new(HEAD_ONLY, HEAD_ONLY_PREFIXES));
        Self { head, trailers }
    }

    /// Whether a client's header of this name is deleted.
    #[must_use]
    pub fn owns(&self, name: &HeaderName) -> bool {
        // Another spelling of Content-Length could become the same variable and lie about the body.
        self.head.holds(name.as_str().as_bytes()) || is_other_content_length(name)
    }

    /// Whether a client's trailer of this name may go on: it is none of ours, and no field that belongs in a head.
    #[must_use]
    pub fn trailer_is_clean(&self, name: &HeaderName) -> bool {
        !self.trailers.holds(name.as_str().as_bytes())
    }
}

/// The query parameters of a site that are never a client's to set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnedParameters(NameSet);

impl OwnedParameters {
    /// Parameters with these names.
    #[must_use]
    pub const fn new(names: NameSet) -> Self {
        Self(names)
    }

    /// None.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    pub(super) const fn names(&self) -> &NameSet {
        &self.0
    }
}

fn is_other_content_length(name: &HeaderName) -> bool {
    let (own, name) = (CONTENT_LENGTH.as_str(), name.as_str());
    own.len() == name.len() && own != name && own.bytes().zip(name.bytes()).all(|(a, b)| fold(a) == fold(b))
}

const fn fold(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'_' }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::directory::Directory;

    fn owned(authorization: Authorization) -> OwnedNames {
        let identity = [HeaderName::from_static("x-auth-user")];
        OwnedNames::new(&identity, NameSet::headers_of(Directory::BELIEVED), authorization)
    }

    fn owns(name: &'static str) -> bool {
        owned(Authorization::Strip).owns(&HeaderName::from_static(name))
    }

    #[test]
    fn folding_joins_what_readers_confuse() {
        assert_eq!(folded("X-Auth.User!1"), "x_auth_user_1");
    }

    #[test]
    fn every_spelling_of_our_names_is_ours() {
        for name in [
            "x-auth-user",
            "x_auth_user",
            "x.auth-user",
            "x~auth!user",
            "x-role-key",
            "x_tenant.code",
            "x-access_token",
            "x_forwarded_for",
            "x-forwarded-anything",
            "forwarded",
            "x_real_ip",
            "x-original-url",
            "x-rewrite.url",
            "remote_user",
            "proxy-authorization",
            "proxy",
            "authorization",
            "connection",
            "keep_alive",
            "te",
            "upgrade",
            "transfer_encoding",
            "content_length",
            "content.length",
            "host",
            "expect",
            "traceparent",
            "x_request_id",
        ] {
            assert!(owns(name), "{name}");
        }
    }

    #[test]
    fn other_names_are_not() {
        for name in [
            "content-length",
            "content-type",
            "cookie",
            "x_auth_users",
            "x-auth",
            "my_app_user",
            "x-role",
            "user_agent",
            "x-real-ips",
            "xauthuser",
            "x-custom_header",
            "prox",
        ] {
            assert!(!owns(name), "{name}");
        }
        assert!(!owned(Authorization::Pass).owns(&HeaderName::from_static("authorization")));
    }

    #[test]
    fn long_names_are_folded_too() {
        let name = format!("x-forwarded-{}", "a".repeat(200));
        assert!(owned(Authorization::Strip).owns(&HeaderName::from_bytes(name.as_bytes()).expect("a name")));
    }

    #[test]
    fn a_trailer_says_nothing_that_belongs_in_a_head() {
        let owned = owned(Authorization::Pass);
        let clean = |name| owned.trailer_is_clean(&HeaderName::from_static(name));
        for name in
            ["x_auth_user", "cookie", "host", "content-length", "transfer-encoding", "authorization", "te"]
        {
            assert!(!clean(name), "{name}");
        }
        assert!(clean("grpc-status"));
        assert!(clean("digest"));
    }

    #[test]
    fn a_glance_never_overlooks_a_name() {
        let long = format!("z{}", "a".repeat(100));
        let names = ["x-auth-user", "0zero", "~odd", "a", long.as_str()];
        let set = NameSet::new(names, ["_pre-", "9x"]);
        for name in names {
            for spelled in
                [name.to_owned(), name.to_uppercase(), name.replace('-', "_"), name.replace('~', "!")]
            {
                assert!(set.holds(spelled.as_bytes()), "{spelled}");
            }
        }
        for name in ["~pre.fix", "-PRE-", "9X", "9xyz"] {
            assert!(set.holds(name.as_bytes()), "{name}");
        }
        for name in ["", "x", "x-auth-usex", "b", "8x", "za"] {
            assert!(!set.holds(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn an_empty_prefix_is_not_everything() {
        let set = NameSet::new([""], [""]);
        assert!(set.is_empty());
        assert!(!set.holds(b"x"));
    }
}
