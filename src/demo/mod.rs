//! Real counterparts for the gateway to stand between, in one process: a session backend, a login page, an upstream.
//! In: bound listeners and settings. Out: running servers, and lines for a spectator. Errors: as the parts say.
//! I/O: loopback sockets. Nothing here is used when the gateway serves for real.
//!
//! The three know nothing of each other but what HTTP carries, as in a real set-up: the login page asks the
//! [`Directory`] over a socket, the [`App`] reads headers. [`Counterparts::start`] starts them together.

mod app;
mod counterparts;
mod directory;
mod event;
mod exchange;
mod html;
mod login;
mod people;
mod run;
mod serve;

pub use crate::demo::app::{App, AppSettings};
pub use crate::demo::counterparts::{CounterpartSettings, Counterparts, Listeners};
pub use crate::demo::directory::{Directory, DirectorySettings};
pub use crate::demo::event::{Event, Narrator, Refusal};
pub use crate::demo::exchange::{Answer, BoxError};
pub use crate::demo::login::{CookieSettings, Login, LoginSettings};
pub use crate::demo::people::{PEOPLE, Person};
pub use crate::demo::run::{DemoError, Options, SignInAt, run};
