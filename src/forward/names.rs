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
        let mut exact = fold_all(&mut exact.into_iter());
        exact.sort_unstable();
        exact.dedup();
        Self { exact, prefixes: fold_all(&mut prefixes.into_iter()) }
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
        self.exact.sort_unstable();
        self.exact.dedup();
        self.prefixes.extend(other.prefixes);
        self
    }

    /// Whether nothing is in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty()
    }

    /// Whether a name, once folded, is in it.
    #[must_use]
    pub fn holds(&self, name: &[u8]) -> bool {
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
    fn an_empty_prefix_is_not_everything() {
        let set = NameSet::new([""], [""]);
        assert!(set.is_empty());
        assert!(!set.holds(b"x"));
    }
}
