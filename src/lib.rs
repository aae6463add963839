//! Doorkeep: a reverse proxy that keeps sessions.

pub mod asker;
pub mod clock;
pub mod identity;
pub mod need;
pub mod notes;
pub mod outcome;
pub mod secret;
pub mod session;
pub mod token;
pub mod verdict;
