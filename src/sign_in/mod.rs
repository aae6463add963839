//! The gateway's own sign-in page, for sites that have no id app: what its form brings, who may try how often, how it looks.
//! In: settings, forms, moments. Out: HTML, [`Submission`], [`Turn`]. Errors: [`FormFault`]. I/O: random numbers.
//!
//! Nothing here asks the session backend: the gateway does that between [`Desk::turn`] and [`Desk::settle`].

mod form;
mod form_token;
mod page;
mod template;
mod throttle;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clock::UnixTime;
use crate::session::seal::{Sealer, SessionKeys};
pub use crate::sign_in::form::{Choice, Entry, Field, FormFault, Submission};
use crate::sign_in::form_token::FormTokens;
pub use crate::sign_in::form_token::{COOKIE_LIFE, Held, Mark};
pub use crate::sign_in::page::Shown;
pub use crate::sign_in::template::{Template, TemplateFault};
pub use crate::sign_in::throttle::{Outcome, Rate, Ticket, Turn};
use crate::sign_in::throttle::{Throttle, Trier};

/// Most sign-ins that the session backend is asked for at a time.
const AT_A_TIME: usize = 64;

/// How people sign in here.
#[derive(Clone, Debug)]
pub struct FormSettings {
    /// What the backend asks for beside name and password.
    pub fields: Vec<Field>,
    /// The page.
    pub template: Template,
    /// Failed attempts from one client network.
    pub per_client: Rate,
    /// Failed attempts to sign in as one user from one client network.
    pub per_user: Rate,
}

/// Where people sign in.
#[derive(Debug)]
pub struct Desk {
    settings: FormSettings,
    tokens: FormTokens,
    keys: SessionKeys,
    throttle: Throttle,
    slots: Arc<Semaphore>,
    /// Longest wait for the session backend.
    pub patience: Duration,
}

impl Desk {
    /// A desk that seals with `sealer` and names people and networks by `keys`.
    #[must_use]
    pub fn new(settings: FormSettings, sealer: Sealer, keys: SessionKeys, patience: Duration) -> Self {
        Self {
            tokens: FormTokens::new(sealer),
            throttle: Throttle::new(settings.per_client, settings.per_user),
            settings,
            keys,
            slots: Arc::new(Semaphore::new(AT_A_TIME)),
            patience,
        }
    }

    /// A desk by other settings at which the attempts made at this one count. Nothing is changed before
    /// [`take_over`](Self::take_over).
    #[must_use]
    pub fn successor(
        &self,
        settings: FormSettings,
        sealer: Sealer,
        keys: SessionKeys,
        patience: Duration,
    ) -> Self {
        Self {
            throttle: self.throttle.clone(),
            slots: Arc::clone(&self.slots),
            ..Self::new(settings, sealer, keys, patience)
        }
    }

    /// Attempts are counted by this desk's rates from now on.
    pub fn take_over(&self, now: UnixTime) {
        self.throttle.change(self.settings.per_client, self.settings.per_user, now);
    }

    /// What the browser holds that shows the form, and what it has to be given.
    #[must_use]
    pub fn hold(&self, cookie: Option<&str>, host: &str, now: UnixTime) -> Option<Held> {
        self.tokens.hold(cookie, host, now)
    }

    /// Whether this form was shown to this browser, on this host, not too long ago.
    #[must_use]
    pub fn mark(&self, cookie: Option<&str>, form: &str, host: &str, now: UnixTime) -> Mark {
        self.tokens.check(cookie, form, host, now)
    }

    /// What a form brings.
    ///
    /// # Errors
    /// [`FormFault`] where no form of ours could have brought it.
    pub fn read(&self, body: &[u8]) -> Result<Submission, FormFault> {
        form::read(body, &self.settings.fields)
    }

    /// The page.
    #[must_use]
    pub fn page(&self, shown: &Shown<'_>) -> String {
        page::page(&self.settings.template, &self.settings.fields, shown)
    }

    /// The content security policy of the page. `beside`: origins that a browser may be sent on to after a sign-in.
    #[must_use]
    pub fn policy<'a>(&self, beside: impl Iterator<Item = &'a str>) -> HeaderValue {
        page::policy(&self.settings.template, beside)
    }

    /// Whether somebody may try to sign in as `user` now. What is admitted is charged until it is settled.
    #[must_use]
    pub fn turn(&self, client: IpAddr, user: &str, now: UnixTime) -> Turn {
        let network = throttle::network(client);
        let user = user.to_lowercase();
        let trier = Trier {
            client: self.keys.digest(&["sign-in from", &network]),
            pair: self.keys.digest(&["sign-in from as", &network, &user]),
            user: self.keys.digest(&["sign-in as", &user]),
        };
        self.throttle.turn(trier, now)
    }

    /// Notes what came of an admitted attempt.
    pub fn settle(&self, ticket: &Ticket, outcome: Outcome, now: UnixTime) {
        self.throttle.settle(ticket, outcome, now);
    }

    /// A place among those that the session backend is asked for; `None`: too many are under way.
    #[must_use]
    pub fn slot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.slots).try_acquire_owned().ok()
    }
}
