//! Doorkeep is a reverse proxy that keeps sessions. It stands before web apps, checks the access token in each request's
//! cookies, renews it with the refresh token without anybody noticing, sends browsers to the login when the session is
//! over, and tells the app in headers who is there.
//!
//! **Nobody is ever signed out by parallel tabs, a closed tab, or a backend that is briefly away.** Only a refusal by the
//! session backend ends a session; a time-out, a 5xx, an answer that was lost on the way or a mistake in our own settings
//! never does.
//!
//! # The way of a request
//!
//! ```text
//!  browser or script
//!    │ TCP · HTTP/1.1
//!    ▼
//!  server     listens, limits, drains
//!    ▼
//!  gateway    the only file that sees every room
//!    1 route      one host, one reading of the path ─► site and rule          pure
//!    2 session    cookies ─► what was presented ─► is the access token live?  pure
//!    3 judge      need × presented × token ─► a verdict, or: renew first      pure
//!    4 renew      one flight per refresh token ─► session backend             waits
//!    5 settle     need × what came of it ─► a verdict                         pure
//!    6 forward    clean ─► for_caller ─► send ─► the app                      waits
//!    7 reply      the app's answer, or a redirect, 401, 403, 503, 502, 504    pure
//!    ▼
//!  answer, with new cookies where the session was renewed
//! ```
//!
//! A request body is not read before the verdict, so none is ever sent twice.
//!
//! # The rooms
//!
//! Imports go one way, and a test holds this table (`tests/tidy.rs`):
//!
//! | room | may see | job |
//! | --- | --- | --- |
//! | words: [`clock`], [`secret`], [`token`], [`identity`], [`outcome`], [`notes`], [`need`], [`asker`], [`verdict`], [`body`], [`meter`], [`text`], [`random`] | words | the nouns |
//! | [`dial`] | words | connections to `http://` and `https://` servers |
//! | [`peer`] | words | who is on the socket, and whom to believe about earlier hops |
//! | [`route`] | words | site and rule of a request; cross-site checks; where a browser may be sent |
//! | [`session`] | words | cookies, tokens, and the two decisions [`judge`](session::judge::judge) and [`settle`](session::judge::settle) |
//! | [`backend`] | words, dial | the wires to session backends |
//! | [`renew`] | words, session, backend | flights and the memory of what they brought |
//! | [`forward`] | words, dial | clean, say who asks, send |
//! | [`reply`] | words | what clients get |
//! | [`gateway`] | all of these | the picture above |
//! | [`server`], [`admin`] | words | listeners, limits, drain; health and metrics |
//! | [`config`] | the rooms whose settings it builds | a file as written → settings as used |
//! | [`assemble`], [`log`] | all of these | from settings to a running gateway |
//! | [`demo`] | all of these | a real counterpart on each side, and the gateway between them |
//!
//! # Renewal
//!
//! The rules of [`renew`], each with its reason:
//!
//! 1. *One flight per presented refresh token.* A backend that rotates ends the session when a token comes twice, so of a
//!    hundred parallel requests one presents it and ninety-nine wait. A flight is named by an HMAC over everything that its
//!    wire presents, so no table holds a token as a key.
//! 2. *A flight belongs to the gateway, not to its client.* A closed tab ends nothing; the drain waits for it.
//! 3. *What was issued is kept until the browser has it.* A delivered answer can still be lost, so an entry stays until its
//!    new token is presented (then [`replay`](renew::RenewSettings::replay) longer), else until the refresh token ends.
//!    Entries chain, old to new to newest, at most eight links; a replay is judged as if its tokens had been presented.
//! 4. *A refusal is remembered, a fault never.* Nothing that was refused is presented again.
//! 5. *Early.* A live token is due once less than [`ahead`](outcome::Ahead) is left. It is served at once, the flight runs
//!    beside the upstream's answer, and only the request that started it holds its head for it, at most `attach`.
//! 6. *Lost answers.* Once a byte is out, what came of it is unknown until an answer of the backend is read; a 502 or 504 is
//!    the word of a proxy before it. The token is presented again once, not before the access token has ended, and later
//!    at most every thirty seconds. A backend that gave no decision is left alone for two seconds by those who can wait.
//! 7. *Who.* What was issued is verified like any token, and its subject is the old one: from a verified token, from the
//!    chain, or from our sealed notes. Another subject is refused and revoked. Where nobody knows the subject, only a page
//!    view renews.
//! 8. *Families.* All tokens that descend from one sign-in are a family. Signing out remembers the family until its last
//!    token would have ended; whether an answer stores or clears cookies is decided when its head is written.
//! 9. *Strangers.* A pair of which nothing tells that it is anybody's (no verified token, no notes, no earlier renewal) can
//!    be sent by anybody: few flights at a time are for such, and what is remembered of them goes first.
//!
//! # What always holds
//!
//! 1. A request reaches an app only as [`forward::Outbound`], and [`forward::clean`] is the only way to one.
//! 2. No identity header, session cookie or connection-specific field of a client reaches an app, on any route, in any
//!    spelling that an app's server could take for ours. Identity headers are set or deleted, never "set if present".
//! 3. The path that was judged is the path that is sent. Where readers could differ about it, no protected path opens.
//! 4. `judge`, `settle`, `clean` and `reply` never wait, read the clock or log.
//! 5. Only a refusal clears cookies, and the repair of two cookies under one name.
//! 6. A renewal once begun is finished and its result kept, whatever the client does.
//! 7. A token counts only after the verifier: one algorithm per key, expiry mandatory, fresh ones too.
//! 8. Nothing that says it was forwarded is believed except from listed networks.
//! 9. No secret prints or serialises; no log line, page or metric shows a token, cookie, query or secret.
//! 10. Every wait has a limit, every buffer a cap, every task an owner.

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
pub mod random;
pub mod renew;
pub mod reply;
pub mod route;
pub mod secret;
pub mod server;
pub mod session;
pub mod text;
pub mod token;
pub mod verdict;
