//! The session backends, each behind the same three answers: issued, refused, unavailable.
//! In: what a client presented. Out: [`Answer`], [`Introspection`], [`Revocation`], [`SignIn`]. Errors: none; a fault is an answer.
//! I/O: HTTP to the backend.

mod call;
mod classify;
pub mod directory;
pub mod egov_user;
pub mod jwks;
pub mod oauth2;
pub mod sanic_jwt;

use std::fmt;
use std::future::Future;
use std::pin::Pin;

pub use crate::backend::classify::{Meaning, Row, Table};
use crate::outcome::{Answer, BackendFault, Capabilities, Guarded, Introspection, Revocation};
use crate::token::{AccessToken, Credentials, Ending, Pair, TokenSet};

/// An answer under way.
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Who issues, renews and ends sessions.
pub trait SessionBackend: fmt::Debug + Send + Sync {
    /// What it can and needs.
    fn capabilities(&self) -> Capabilities;

    /// An endpoint of its own that clients may reach through the gateway, but not with every parameter.
    fn guarded(&self) -> Option<Guarded> {
        None
    }

    /// Presents a pair for new tokens, once. Unverified: the caller verifies what is issued.
    fn renew<'a>(&'a self, pair: &'a Pair) -> Reply<'a, Answer>;

    /// Asks about an access token. Settings see to it that a backend that cannot be asked never is: see
    /// [`Capabilities::introspects`].
    fn introspect<'a>(&'a self, _access: &'a AccessToken) -> Reply<'a, Introspection> {
        Box::pin(std::future::ready(Introspection::Unavailable(BackendFault::Internal)))
    }

    /// Ends a session.
    fn revoke<'a>(&'a self, ending: &'a Ending) -> Reply<'a, Revocation>;

    /// Starts a session.
    fn sign_in<'a>(&'a self, credentials: &'a Credentials) -> Reply<'a, SignIn>;
}

/// What a sign-in carries beside name and password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Further<'a> {
    /// Fields of these names, and no others.
    Only(&'a [&'a str]),
    /// Fields of any name but these, under which it sends the user's name and the password.
    AllBut([&'a str; 2]),
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
    /// This kind of backend takes no names and passwords: people sign in at its own pages.
    NotOffered,
}
