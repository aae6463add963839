//! Doorkeep: a reverse proxy that keeps sessions.

pub mod asker;
pub mod backend;
pub mod body;
pub mod clock;
pub mod dial;
pub mod identity;
pub mod meter;
pub mod need;
pub mod notes;
pub mod outcome;
pub mod renew;
pub mod reply;
pub mod demo;
pub mod route;
pub mod secret;
pub mod session;
pub mod token;
pub mod verdict;
