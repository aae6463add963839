//! Doorkeep: a reverse proxy that keeps sessions.

pub mod clock;
pub mod secret;
