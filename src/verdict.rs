//! What is decided about a request: for whom it goes on or why it does not, and what becomes of the cookies.
//! In: nothing. Out: enums. Errors: none. I/O: none.

use crate::identity::Identity;
use crate::notes::Notes;
use crate::outcome::{BackendFault, Issued, SessionKey, TokenFault};
use crate::token::AccessToken;

/// What happens to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It goes to the upstream.
    Admit(Caller, CookieChange),
    /// It is answered here.
    Decline(Decline, CookieChange),
}

/// For whom a request goes upstream.
#[derive(Clone, Debug, PartialEq)]
pub enum Caller {
    /// Nobody that we know.
    Anonymous,
    /// The user of this verified token.
    Known(Identity, AccessToken),
}

/// Why a request is answered here.
#[derive(Clone, Debug, PartialEq)]
pub enum Decline {
    /// The user has to sign in.
    Login(LoginReason),
    /// The user lacks a required claim, named here by its path.
    Forbidden(String),
    /// The session backend gave no usable answer; the session stands.
    Unavailable(BackendFault),
}

/// Why a sign-in is asked for: shown where somebody keeps landing there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginReason {
    /// No session cookie came.
    NoSession,
    /// Cookies came that make no session: the access token has this fault and there is no refresh token.
    BadToken(TokenFault),
    /// The access token is over and there is nothing to renew it with.
    Over,
    /// Two cookies of one name with different values came.
    TwoCookies,
    /// A refresh token came, but nothing tells whose it is: only a page view may renew it.
    Withheld,
    /// The session was ended.
    SessionEnded,
}

/// What happens to the client's cookies.
#[derive(Clone, Debug, PartialEq)]
pub enum CookieChange {
    /// Nothing.
    Keep,
    /// They become what was issued.
    Store(Box<Issued>),
    /// They are deleted: the session with this key is over.
    Clear(SessionKey),
    /// Our notes about the session are added.
    Note(Box<Notes>),
}
