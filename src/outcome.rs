//! What tokens turn out to be and what session backends answer, as values that every decision spells out.
//! In: nothing. Out: enums. Errors: none. I/O: none.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::clock::UnixTime;
use crate::identity::Identity;
use crate::token::TokenSet;

/// What the presented access token turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenState {
    /// None was presented.
    Absent,
    /// Verified, and not yet over.
    Live(Identity, Freshness),
    /// All of it verifies but the expiry, which has passed.
    Expired(Identity),
    /// It does not verify.
    Invalid(TokenFault),
    /// The backend that has to be asked about it could not be asked.
    Unchecked(BackendFault),
}

/// Whether a live token should be renewed soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Enough of its life is left.
    Fresh,
    /// Its end is near: renew beside the request.
    Due,
}

/// Why a token does not verify (RFC 7519 §7.2, RFC 8725 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// Longer than the setting allows.
    #[error("token too long")]
    TooLong,
    /// No three canonical base64url parts, or not JSON objects, or a member twice.
    #[error("token malformed")]
    Malformed,
    /// A header member that is refused: another algorithm, `crit`, `zip`, an unknown `typ` …
    #[error("token header refused")]
    Header,
    /// No configured key made this signature.
    #[error("token signature does not verify")]
    Signature,
    /// It is signed with a key that is not known here, or not yet.
    #[error("token signed with an unknown key")]
    UnknownKey,
    /// `exp` or the configured expiry claim is missing.
    #[error("token has no expiry")]
    NoExpiry,
    /// A claim has the wrong JSON type.
    #[error("token claim of the wrong type")]
    ClaimType,
    /// `nbf` lies in the future.
    #[error("token not valid yet")]
    NotYet,
    /// Another issuer.
    #[error("token of another issuer")]
    Issuer,
    /// Made for somebody else.
    #[error("token for another audience")]
    Audience,
    /// The claim that names the user is missing or empty.
    #[error("token names no subject")]
    NoSubject,
    /// Already over when it was issued.
    #[error("token already over")]
    Over,
    /// Its backend says that it is none, or no longer one.
    #[error("token not active")]
    Inactive,
    /// It was issued just now, and its backend could not be asked about it yet.
    #[error("token not checked yet")]
    Unchecked,
}

/// What the wire said about a renewal.
#[derive(Clone, Debug)]
pub enum Answer {
    /// New tokens, not verified yet.
    Issued(TokenSet),
    /// New tokens, and beside them what introspection would say about the access token: the backend's own word.
    IssuedTo(TokenSet, Map<String, Value>),
    /// The backend ended the session.
    Refused(RefusalReason),
    /// Anything else: the session stands.
    Unavailable(BackendFault),
}

/// What came of a renewal, verified.
#[derive(Clone, Debug)]
pub enum RenewOutcome {
    /// The session goes on with these tokens.
    Renewed(Renewed),
    /// The backend ended the session.
    Refused(RefusalReason),
    /// Anything else: the session stands.
    Unavailable(BackendFault),
    /// Nothing was presented: nobody is known to hold the new subject against, and the request is not a page view.
    Withheld,
}

/// A session that was renewed.
#[derive(Clone, Debug)]
pub struct Renewed {
    /// Who it belongs to, from the new access token.
    pub identity: Identity,
    /// What was issued, and for which session.
    pub issued: Issued,
}

/// Issued tokens with the session that they belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The tokens.
    pub tokens: TokenSet,
    /// What was presented for them.
    pub presented: SessionKey,
    /// Where they belong.
    pub lineage: Lineage,
}

/// What all tokens of one session have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// The family: one id for all tokens that descend from one sign-in.
    pub family: SessionKey,
    /// When this gateway first saw the session.
    pub started_at: UnixTime,
    /// The user, where known.
    pub subject: Option<String>,
}

/// A keyed digest (HMAC-SHA-256) of everything that a wire presents: names a token without being one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey(pub [u8; 32]);

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusalReason {
    /// The backend refused the refresh token.
    #[error("refused by the backend")]
    ByBackend,
    /// The tokens that came back belong to somebody else.
    #[error("renewed for another subject")]
    SubjectChanged,
    /// The session was signed out.
    #[error("signed out")]
    SignedOut,
}

impl RefusalReason {
    /// One word for logs and metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::ByBackend => "backend",
            Self::SubjectChanged => "subject_changed",
            Self::SignedOut => "signed_out",
        }
    }
}

/// Why a backend gave no usable answer. None of these ends a session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendFault {
    /// No connection: nothing was presented.
    #[error("no connection to the session backend")]
    Connect,
    /// A whole answer that is neither tokens nor a refusal: 5xx, 429, a redirect, a page.
    #[error("the session backend answered {status} and no decision")]
    NoDecision {
        /// The HTTP status.
        status: u16,
        /// How long the backend asks to be left alone (`Retry-After` in seconds, RFC 9110 §10.2.3).
        retry_after: Option<Duration>,
    },
    /// The backend rejected this gateway's own credentials or request: the settings are wrong, not the session.
    #[error("the session backend rejected this gateway (status {status})")]
    ClientRejected {
        /// The HTTP status.
        status: u16,
    },
    /// The request went out and what came of it is not known.
    #[error("the session backend's answer was lost: {0}")]
    Lost(Loss),
    /// An earlier answer was lost and the token must not be presented again before this moment.
    #[error("an earlier answer was lost; the token is not presented again yet")]
    HeldBack {
        /// When it may be presented again.
        until: UnixTime,
    },
    /// The exchange goes on, but this client waited long enough.
    #[error("the session backend takes too long")]
    Slow,
    /// Tokens were issued that do not verify (yet); they are kept, the old ones are spent.
    #[error("issued tokens do not verify: {fault}")]
    Unverifiable {
        /// What does not verify.
        fault: TokenFault,
        /// What was issued.
        issued: Box<Issued>,
    },
    /// A new access token was issued that does not verify (yet). The old tokens are as good as before: it is dropped.
    #[error("an issued token does not verify: {fault}")]
    Unusable {
        /// What does not verify.
        fault: TokenFault,
    },
    /// Too many renewals are under way: nothing was presented.
    #[error("too many renewals are under way")]
    Busy,
    /// The backend is spared for a while, since it gave no decisions: nothing was presented.
    #[error("the session backend is spared for a while")]
    Resting {
        /// For how long.
        after: Duration,
    },
    /// What the other replicas renew is not known now: nothing was presented.
    #[error("the replicas' share gives no answer")]
    ShareAway,
    /// A fault of our own on the way.
    #[error("internal fault during the renewal")]
    Internal,
}

impl BackendFault {
    /// Whether the outcome is unknown although the token was presented (RFC 9110 §9.2.2: not safe to repeat).
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        match self {
            Self::Lost(_) | Self::Internal => true,
            Self::Connect
            | Self::NoDecision { .. }
            | Self::ClientRejected { .. }
            | Self::HeldBack { .. }
            | Self::Slow
            | Self::Busy
            | Self::Resting { .. }
            | Self::ShareAway
            | Self::Unverifiable { .. }
            | Self::Unusable { .. } => false,
        }
    }

    /// One word for logs and metrics.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::NoDecision { .. } => "no_decision",
            Self::ClientRejected { .. } => "client_rejected",
            Self::Lost(_) => "lost",
            Self::HeldBack { .. } => "held_back",
            Self::Slow => "slow",
            Self::Unverifiable { .. } | Self::Unusable { .. } => "unverifiable",
            Self::Busy => "busy",
            Self::Resting { .. } => "resting",
            Self::ShareAway => "share_away",
            Self::Internal => "internal",
        }
    }
}

/// How an answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// The connection broke before the answer was whole.
    #[error("the connection broke")]
    Broken,
    /// The answer came and could not be read: cut, too large, or tokens missing.
    #[error("the answer was unreadable")]
    Unreadable,
    /// No answer within `give_up`.
    #[error("no answer in time")]
    GaveUp,
}

/// What a backend says about an access token.
#[derive(Clone, Debug)]
pub enum Introspection {
    /// It may be used.
    Active {
        /// What is known of whom it was issued to.
        claims: Map<String, Value>,
        /// When it was issued, where the backend says so.
        issued_at: Option<UnixTime>,
        /// When it ends, where the backend says so.
        expires_at: Option<UnixTime>,
    },
    /// It may not be used: unknown, over, or ended. Which of them cannot be told.
    Inactive,
    /// No decision: nothing follows from it.
    Unavailable(BackendFault),
}

/// Whether a backend can be asked about an access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Introspects {
    /// It cannot: its tokens are signed and tell everything themselves.
    Never,
    /// It can, and signed tokens can be verified without it.
    Offered,
    /// It has to be: its tokens are opaque.
    Needed,
}

/// What came of ending a session at its backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// The session is over, now or already before.
    Ended,
    /// Not known to be over.
    Unavailable(BackendFault),
}

/// What a kind of session backend can and needs: data that `judge` and `renew` read, so that neither knows a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Each refresh token may be presented once.
    pub rotates: bool,
    /// A renewal presents the session id.
    pub needs_session: bool,
    /// A renewal presents the access token.
    pub needs_access: bool,
    /// Ending a session takes an access token that is live.
    pub revokes_with_live_access: bool,
    /// A renewal ends the old access token at once, so a due one is renewed before its request goes on, not beside it.
    pub kills_access: bool,
    /// An upstream's 401 although the session lives is worth a renewal and one more try, where the settings do not say.
    pub renews_on_401: bool,
    /// Whether it can be asked about an access token.
    pub introspects: Introspects,
    /// How long before a token's end it becomes due, where the settings do not say.
    pub ahead: Ahead,
}

/// What services of a backend's kind believe of whoever sends it, unverified: no client may send it.
/// Names are folded (lower case, every other character than letters and digits as `_`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Believed {
    /// Names of headers and of query parameters.
    pub names: &'static [&'static str],
    /// Beginnings of header names.
    pub prefixes: &'static [&'static str],
    /// Further names of query parameters.
    pub parameters: &'static [&'static str],
    /// Beginnings of names of query parameters.
    pub parameter_prefixes: &'static [&'static str],
}

/// A sign-in endpoint of a backend, and the parameters that would skip its checks: where an app's way leads there, no client
/// may send them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guarded {
    /// Its path.
    pub path: String,
    /// The parameters' names, folded.
    pub parameters: &'static [&'static str],
}

/// How early a token is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// This long before its end, at most half of its life.
    Span(Duration),
    /// Once no more than this many hundredths of its life are left, at most half.
    Percent(u8),
}
