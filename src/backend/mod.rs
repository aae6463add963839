//! The session backends, each behind the same three answers: issued, refused, unavailable.
//! In: what a client presented. Out: [`Answer`], [`Revocation`], [`SignIn`]. Errors: none; a fault is an answer.
//! I/O: HTTP to the backend.

mod call;
mod classify;
pub mod directory;

use std::fmt;
use std::future::Future;
use std::pin::Pin;

pub use crate::backend::classify::{Meaning, Row, Table};
use crate::outcome::{Answer, BackendFault, Capabilities, Revocation};
use crate::secret::Secret;
use crate::token::{Ending, Pair, TokenSet};

/// An answer under way.
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Who issues, renews and ends sessions.
pub trait SessionBackend: fmt::Debug + Send + Sync {
    /// What it can and needs.
    fn capabilities(&self) -> Capabilities;

    /// Presents a pair for new tokens, once. Unverified: the caller verifies what is issued.
    fn renew<'a>(&'a self, pair: &'a Pair) -> Reply<'a, Answer>;

    /// Ends a session.
    fn revoke<'a>(&'a self, ending: &'a Ending) -> Reply<'a, Revocation>;

    /// Starts a session for a user's name and password.
    fn sign_in<'a>(&'a self, user: &'a str, password: &'a Secret<String>) -> Reply<'a, SignIn>;
}

/// What came of a sign-in.
#[derive(Clone, Debug)]
pub enum SignIn {
    /// A new session's tokens.
    Issued(TokenSet),
    /// Not with this name and password.
    Refused,
    /// No decision.
    Unavailable(BackendFault),
}
