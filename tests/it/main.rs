//! The gateway as a whole: started for real, between an app that records what reaches it and a session backend that fails
//! on demand. Nothing here looks inside; what counts is what went over the wire.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "what is missing or wrong here has to fail the test at once"
)]
#![allow(unreachable_pub, reason = "a test binary has no outside")]

mod backend_away;
mod bodies;
mod bound;
mod caching;
mod client_certificates;
mod command;
mod cookies;
mod cross_site;
mod desync;
mod drain;
mod drill;
mod early;
mod egov_user;
mod ended;
mod form;
mod http1;
mod http2;
mod http2_upstream;
mod identity;
mod keys;
mod lanes;
mod limits;
mod oauth2;
mod one_flight;
mod paths;
mod quiet;
mod reload;
mod replicas;
mod sanic_jwt;
mod sign_out;
mod storm;
mod support;
mod tls;
mod tokens;
mod websocket;
mod workers;
