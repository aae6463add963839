//! The tokens of a session, as a client presents them and as a session backend issues them.
//! In: text from cookies and backend answers. Out: values that do not print. Errors: none; what does not fit is no value.
//! I/O: none. Source: RFC 6749 §1.4 and §1.5 (access and refresh token).

use std::sync::Arc;
use std::time::Duration;

use crate::clock::UnixTime;
use crate::secret::Secret;

macro_rules! opaque {
    ($(#[$doc:meta])* $name:ident, $fits:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub struct $name(Secret<Arc<str>>);

        impl $name {
            /// The value in `text`, or `None` where the text is empty or holds what such a value cannot.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                let fits: fn(&str) -> bool = $fits;
                (!text.is_empty() && fits(text)).then(|| Self(Secret::new(text.into())))
            }

            /// The text itself.
            #[must_use]
            pub fn expose(&self) -> &str {
                self.0.expose()
            }
        }
    };
}

/// What a cookie can hold (`cookie-octet`, RFC 6265 §4.1.1).
fn cookie_octets(text: &str) -> bool {
    // Every byte is looked at, whatever the one before was: so many are looked at together.
    text.bytes().fold(0, |unfit, b| {
        let reserved = u8::from(b == b'"') | u8::from(b == b',') | u8::from(b == b';') | u8::from(b == b'\\');
        unfit | reserved | u8::from(!b.is_ascii_graphic())
    }) == 0
}

/// One URL segment that no reader takes for anything else.
fn plain_segment(text: &str) -> bool {
    text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

opaque! {
    /// What proves who is asking, for a short time.
    AccessToken, cookie_octets
}
opaque! {
    /// What a new access token is asked for with. Where the backend rotates, it may be presented once.
    RefreshToken, cookie_octets
}
opaque! {
    /// Names a session at its backend. It enters backend URLs, so it is one segment of `[A-Za-z0-9_-]{1,64}`.
    SessionId, plain_segment
}

/// What a wire presents to its backend to renew a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The refresh token.
    pub refresh: RefreshToken,
    /// The access token that came with it, valid or not.
    pub access: Option<AccessToken>,
    /// The session's id, where there is one.
    pub session: Option<SessionId>,
}

/// What ends a session at its backend: whatever of it is at hand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// The refresh token.
    pub refresh: Option<RefreshToken>,
    /// The access token.
    pub access: Option<AccessToken>,
    /// The session's id, where there is one.
    pub session: Option<SessionId>,
    /// The user, where known.
    pub subject: Option<String>,
}

impl Ending {
    /// Ends the session of this pair and user.
    #[must_use]
    pub fn of(pair: Pair, subject: Option<String>) -> Self {
        Self { refresh: Some(pair.refresh), access: pair.access, session: pair.session, subject }
    }
}

/// What a person signs in with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name, as the backend knows it.
    pub user: String,
    /// The password.
    pub password: Secret<String>,
    /// What else the backend asks for, such as a tenant, by the name that it has there.
    pub further: Vec<(String, String)>,
}

/// What a session backend issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSet {
    /// The new access token.
    pub access: AccessToken,
    /// The refresh token to present next: the new one, or the old one where the backend does not rotate.
    pub refresh: RefreshToken,
    /// Whether the refresh token is a new one, so that its cookie has to be set.
    pub rotated: bool,
    /// The session's id, where there is one.
    pub session: Option<SessionId>,
    /// When the access token ends, as the backend says beside the token.
    pub access_expires: Option<UnixTime>,
    /// When the refresh token ends, where the backend says so.
    pub refresh_expires: Option<UnixTime>,
    /// When the answer came.
    pub received_at: UnixTime,
}

impl TokenSet {
    /// The pair that a client which holds this set presents.
    #[must_use]
    pub fn pair(&self) -> Pair {
        Pair {
            refresh: self.refresh.clone(),
            access: Some(self.access.clone()),
            session: self.session.clone(),
        }
    }

    /// How long the access token lives from its receipt, as the backend said beside it.
    #[must_use]
    pub fn expires_in(&self) -> Option<Duration> {
        self.access_expires.map(|end| end.since(self.received_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_is_one_harmless_segment() {
        for bad in ["", ".", "..", "a/b", "a%2fb", "a b", "a\u{e9}", "a?b", "a#b", &"x".repeat(65)] {
            assert_eq!(SessionId::parse(bad), None, "{bad:?}");
        }
        assert!(SessionId::parse("65f0c0ffee0123456789abcd").is_some());
    }

    #[test]
    fn a_token_is_what_a_cookie_can_hold() {
        for bad in ["", "a b", "a;b", "a,b", "a\"b", "a\\b", "a\tb", "a\u{7f}b", "\u{e9}"] {
            assert_eq!(RefreshToken::parse(bad), None, "{bad:?}");
        }
        assert!(RefreshToken::parse("eyJhbGciOi.J9-_~+/=").is_some());
        assert_eq!(format!("{:?}", AccessToken::parse("abc")), "Some(AccessToken(<redacted>))");
    }
}
