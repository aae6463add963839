//! The settings that cannot change while a gateway runs.
//! In: the settings that it began with, and others. Out: a [`Problem`] for each that differs. Errors: none. I/O: none.
//!
//! A socket stays open on its address. What is remembered of a session names its user by one claim: by another one, each would be
//! somebody else. The last secret gives names to sessions in the memory of renewals, and the share holds
//! claims on them: with others, what is remembered would not be found, and a token could be presented twice.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::config::Settings;
use crate::config::listen::LogFormat;
use crate::config::read::{Problem, Section};
use crate::config::share::SharePlan;
use crate::secret::Secret;

/// What cannot change.
#[derive(Debug)]
pub struct Fixed {
    http: SocketAddr,
    https: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    /// The secret that names sessions; `None`: one that was made for this run.
    naming: Option<Secret<Vec<u8>>>,
    share: Option<SharePlan>,
    /// The claim that names users.
    subject: String,
    log: LogFormat,
}

/// The lines of these settings in their file.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<&'static str, usize>);

impl Places {
    pub(super) fn of(root: &Section<'_, '_>) -> Self {
        let (listen, log) = (root.section("listen"), root.section("log"));
        let places = [
            ("secret", root.line("secret")),
            ("share", root.line("share")),
            ("listen.http", listen.line("http")),
            ("listen.https", listen.line("https")),
            ("listen.admin", listen.line("admin")),
            ("identity.subject", root.section("identity").line("subject")),
            ("log.format", log.line("format")),
        ];
        Self(places.into())
    }
}

impl Fixed {
    /// Those of the settings that a gateway begins with.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        Self {
            http: settings.listen.http,
            https: settings.listen.https.as_ref().map(|(addr, _)| *addr),
            admin: settings.listen.admin,
            naming: settings.secrets.last().cloned(),
            share: settings.share.clone(),
            subject: settings.identity.subject.clone(),
            log: settings.log.format,
        }
    }

    /// A problem for each of them that is another one in these settings.
    #[must_use]
    pub fn differing(&self, next: &Settings) -> Vec<Problem> {
        let new = Self::of(next);
        let addr = "is another address; restart to change it";
        let checks = [
            ("listen.http", self.http == new.http, addr),
            ("listen.https", self.https == new.https, addr),
            ("listen.admin", self.admin == new.admin, addr),
            (
                "secret",
                self.naming == new.naming,
                "ends with another secret than before: the last one names sessions, so put a new one in front of it; or \
                 restart to change it",
            ),
            ("share", self.share == new.share, "is another share, or used otherwise; restart to change it"),
            (
                "identity.subject",
                self.subject == new.subject,
                "names users by another claim than before, so that nobody is who he was: restart to change it, with another \
                 secret and an empty state_dir",
            ),
            ("log.format", self.log == new.log, "is another format; restart to change it"),
        ];
        let differing = checks.into_iter().filter(|(_, same, _)| !same);
        let problem = |(key, _, what): (&str, bool, &str)| Problem {
            line: next.places.0.get(key).copied().unwrap_or(1),
            path: key.to_owned(),
            what: what.to_owned(),
        };
        let mut problems: Vec<Problem> = differing.map(problem).collect();
        problems.sort_by_key(|problem| problem.line);
        problems
    }
}
