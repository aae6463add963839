//! What the demo tells its spectator, one terminal line each.
//! In: facts from the counterparts. Out: [`Event`], whose `Display` is the line. Errors: none. I/O: none.

use std::fmt;
use std::sync::Arc;

/// Receives every [`Event`] as it happens. It is called on the request's task: it must be quick and must not block.
pub type Narrator = Arc<dyn Fn(Event) + Send + Sync>;

/// Something worth a line while the demo runs. Nothing in it is a secret: no token, no cookie, no session id.
/// Sessions go by a number that the directory counts up from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A browser came to the login page and wants to go back to where it was stopped.
    Redirected {
        /// Origin and path to go back to, without the query.
        to_login_for: String,
    },
    /// Somebody signed in.
    SignedIn {
        /// Their full name.
        user: String,
        /// The number of the new session.
        session: u64,
    },
    /// Name or password were wrong.
    SignInRefused,
    /// A refresh token was exchanged for a new pair.
    Renewed {
        /// Whose session it is.
        user: String,
        /// The session's number.
        session: u64,
        /// How often this session has been renewed, this time included.
        times: u64,
    },
    /// A refresh token was presented and nothing was issued for it.
    RenewalRefused {
        /// Why.
        reason: Refusal,
    },
    /// A refresh token that had been spent came back, so its session was ended.
    ReuseDetected {
        /// Whose session it was.
        user: String,
        /// The session's number.
        session: u64,
    },
    /// A session was ended on request.
    SignedOut {
        /// Whose session it was.
        user: String,
        /// The session's number.
        session: u64,
    },
}

/// Why a renewal was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The token was not issued by this directory for this session.
    NotOurs,
    /// The token's time was over.
    Expired,
    /// The session has ended, or is not known.
    SessionOver,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redirected { to_login_for } => {
                write!(f, "login page    for {}", OneLine(to_login_for))
            }
            Self::SignedIn { user, session } => {
                write!(f, "signed in     {} (session {session})", OneLine(user))
            }
            Self::SignInRefused => f.write_str("not signed in wrong name or password"),
            Self::Renewed { user, session, times } => {
                write!(f, "renewed       {} (session {session}), renewal {times}", OneLine(user))
            }
            Self::RenewalRefused { reason } => write!(f, "not renewed   {reason}"),
            Self::ReuseDetected { user, session } => {
                let user = OneLine(user);
                write!(f, "reuse!        {user} (session {session}) ended: a spent refresh token came back")
            }
            Self::SignedOut { user, session } => {
                write!(f, "signed out    {} (session {session})", OneLine(user))
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotOurs => "the refresh token is not one of this session",
            Self::Expired => "the refresh token has expired",
            Self::SessionOver => "the session is over",
        })
    }
}

/// Shows a text on one short line: control characters escaped, cut at [`OneLine::LONGEST`].
struct OneLine<'a>(&'a str);

impl OneLine<'_> {
    /// Longest text shown, in characters.
    const LONGEST: usize = 120;
}

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut chars = self.0.chars();
        for c in chars.by_ref().take(Self::LONGEST) {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
        }
        if chars.next().is_some() { f.write_str("…") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_without_terminal_tricks() {
        let event = Event::Redirected { to_login_for: "http://app/\u{1b}[2J\r\nforged".to_owned() };
        let line = event.to_string();
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(line.contains("\\u{1b}[2J\\r\\nforged"));
    }

    #[test]
    fn a_long_event_is_cut() {
        let line = Event::Redirected { to_login_for: "x".repeat(5000) }.to_string();
        assert!(line.chars().count() < 160);
        assert!(line.ends_with('…'));
    }

    #[test]
    fn each_event_reads_as_a_sentence_part() {
        let renewed = Event::Renewed { user: "Asha Rao".to_owned(), session: 2, times: 3 };
        assert_eq!(renewed.to_string(), "renewed       Asha Rao (session 2), renewal 3");
        let refused = Event::RenewalRefused { reason: Refusal::Expired };
        assert_eq!(refused.to_string(), "not renewed   the refresh token has expired");
    }
}
