//! Doorkeep: a reverse proxy that keeps sessions.

mod access_log;
pub mod admin;
pub mod asker;
pub mod assemble;
pub mod backend;
pub mod body;
pub mod clock;
pub mod config;
pub mod demo;
pub mod dial;
pub mod forward;
pub mod gateway;
pub mod identity;
pub mod log;
pub mod meter;
pub mod need;
pub mod notes;
pub mod outcome;
pub mod peer;
pub mod renew;
pub mod reply;
pub mod route;
pub mod secret;
pub mod server;
pub mod session;
pub mod token;
pub mod verdict;
