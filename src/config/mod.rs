//! Settings: from a TOML file as written to values as used.
//! In: a file. Out: [`Settings`]. Errors: every [`Problem`] at once, each with line, key path and what to do.
//! I/O: the file, and files and environment variables that hold secrets.
//!
//! Unknown keys are problems. Durations and sizes carry units. A secret is `env:NAME`, `file:PATH` or the text itself,
//! and is shown by nothing here.

mod backend;
mod fixed;
mod keys;
mod listen;
mod login;
mod read;
mod session;
mod share;
mod site;
mod value;

use std::collections::BTreeSet;
use std::path::PathBuf;

pub use crate::config::backend::BackendSettings;
pub use crate::config::fixed::Fixed;
use crate::config::fixed::Places;
pub use crate::config::listen::{DrainSettings, ListenSettings, LogFormat, LogSettings};
pub use crate::config::read::Problem;
use crate::config::read::{Section, Source};
pub use crate::config::session::{SessionSettings, TokenCheck};
pub use crate::config::share::SharePlan;
pub use crate::config::site::{IdentitySettings, SiteSettings};
use crate::dial::Roots;
use crate::renew::RenewSettings;
use crate::reply::LoginSettings;
use crate::route::Redirect;
use crate::secret::Secret;
use crate::server::tls::WithoutCertificate;
use crate::sign_in::FormSettings;

/// Fewest bytes of a secret: as many as the keys made from it have (RFC 5869 §3.3).
const SECRET_BYTES: usize = 32;

/// Everything that a gateway is built from.
#[derive(Debug)]
pub struct Settings {
    /// Secrets to seal with, the newest first; empty: one is made for this run.
    pub secrets: Vec<Secret<Vec<u8>>>,
    /// Listeners and client connections.
    pub listen: ListenSettings,
    /// The orderly stop.
    pub drain: DrainSettings,
    /// Cookies and tokens.
    pub session: SessionSettings,
    /// Renewal.
    pub renew: RenewSettings,
    /// What replicas share; `None`: this gateway is the only one that renews these sessions.
    pub share: Option<SharePlan>,
    /// Where people sign in.
    pub login: LoginSettings,
    /// How people sign in at the gateway itself, where they do.
    pub form: Option<FormSettings>,
    /// Who issues sessions.
    pub backend: BackendSettings,
    /// What upstreams are told.
    pub identity: IdentitySettings,
    /// The sites.
    pub sites: Vec<SiteSettings>,
    /// Which certificate authorities are believed on outgoing connections.
    pub roots: Roots,
    /// The log.
    pub log: LogSettings,
    /// Whether they are read again when a file of theirs changes.
    pub watch: bool,
    /// The files, beside their own, whose content is part of them; without those that are watched anyway.
    pub files: Vec<PathBuf>,
    /// What works but deserves a look.
    pub advice: Vec<Problem>,
    /// Where those stand that cannot change while the gateway runs.
    places: Places,
}

/// A settings file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It was read and has problems.
    #[error("{} {} in the settings", .0.len(), if .0.len() == 1 { "problem" } else { "problems" })]
    Problems(Vec<Problem>),
}

impl Settings {
    /// Reads a settings file.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem at once.
    pub fn load(path: &std::path::Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    /// Reads settings from text.
    ///
    /// # Errors
    /// [`ConfigError::Problems`] with every problem at once.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let source = Source::new(text);
        let advice = Source::new(text);
        let table = source.parse();
        if !source.problems().is_empty() {
            return Err(ConfigError::Problems(source.problems()));
        }
        let root = Section::root(&source, &table);
        let settings = read(&root, &advice);
        root.finish();
        match settings {
            Some(settings) if source.problems().is_empty() => {
                Ok(Self { advice: advice.problems(), files: source.files(), ..settings })
            }
            Some(_) | None => Err(ConfigError::Problems(source.problems())),
        }
    }

    /// Every key that settings may have, as dotted paths: `[]` stands for a list's items, `*` for a name of your own.
    #[must_use]
    pub fn keys() -> BTreeSet<String> {
        let every_table = "[[tls]]\n[[site]]\n[[site.rule]]\n[[backend.directory.answer]]\n\
             [[login.field]]\n[[login.field.option]]\n\
             [[backend.egov_user.answer]]\n[[backend.oauth2.answer]]\n[[backend.sanic_jwt.answer]]\n";
        let source = Source::new(every_table);
        let table = source.parse();
        let root = Section::root(&source, &table);
        let _unusable = read(&root, &source);
        source.known()
    }
}

fn read(root: &Section<'_, '_>, advice: &Source<'_>) -> Option<Settings> {
    let secrets = secrets(root);
    let roots = site::roots(root);
    let listen = listen::listen(root);
    let drain = listen::drain(root);
    let log = listen::log(root);
    let backend = backend::backend(root);
    let identity = site::identity(root, &backend);
    let session = session::session(root, &backend, &identity);
    let renew = session::renew(root, &drain);
    let share = share::share(root, roots.as_ref());
    let login = login::login(root);
    let sites = site::sites(root, backend.as_ref().map(BackendSettings::capabilities));
    let watch = root.take("watch").and_then(|f| f.flag()).unwrap_or(false);
    let (login, form) = login?;
    let settings = Settings {
        secrets: secrets?,
        listen: listen?,
        drain,
        session: session?,
        renew,
        share: share?,
        login,
        form,
        backend: backend?,
        identity: identity?,
        sites: sites?,
        roots: roots?,
        log,
        watch,
        files: Vec::new(),
        advice: Vec::new(),
        places: Places::of(root),
    };
    settings.advise(root, advice);
    settings.hold_together(root);
    Some(settings)
}

impl Settings {
    /// Problems that only two settings together have.
    fn hold_together(&self, root: &Section<'_, '_>) {
        if self.secrets.is_empty() && self.renew.state_dir.is_some() {
            let what =
                "is missing: what state_dir keeps has to open after a restart; write secret = \"file:…\"";
            root.problem("secret", what);
        }
        if self.secrets.is_empty() && self.share.is_some() {
            let what = "is missing: replicas share renewals under one secret; write the same secret = \"file:…\" for all";
            root.problem("secret", what);
        }
        match &self.form {
            Some(form) if self.backend.signs_in() => login::fields_fit(root, form, &self.backend),
            Some(_) => {
                let what = "\"form\" takes a backend that signs people in with name and password; write \"redirect\" and url";
                root.section("login").problem("mode", what);
            }
            None => {}
        }
        if self.renew.give_up > self.drain.timeout {
            let what =
                "is shorter than session.renew.give_up: a renewal under way could not finish; raise it";
            root.section("drain").problem("timeout", what);
        }
        if self.listen.admin == Some(self.listen.http) && self.listen.http.port() != 0 {
            root.section("listen")
                .problem("admin", "is the address of http already; give it a port of its own");
        }
        let https = self.listen.https.as_ref();
        if https.is_none_or(|(_, tls)| tls.clients.is_none()) {
            let client = root.section("identity").section("client");
            for (key, named) in [
                ("subject", &self.identity.client.subject),
                ("names", &self.identity.client.names),
                ("fingerprint", &self.identity.client.fingerprint),
            ] {
                if named.is_some() {
                    client.problem(key, "is never filled: no client is asked for a certificate; write [listen.client] and https");
                }
            }
        }
        let cookies = root.section("session").section("cookies");
        if let Some(domain) = &self.session.cookies.domain {
            let below = |host: &str| {
                host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
            };
            for site in self.sites.iter().filter(|site| !below(&site.site.host)) {
                let what = format!("does not cover {}: its browsers would drop the cookies", site.site.host);
                cookies.problem("domain", what);
            }
        }
        if self.session.cookies.same_site == cookie::SameSite::None && !self.session.cookies.secure {
            cookies.problem(
                "same_site",
                "\"none\" is taken by browsers from secure cookies only; set secure = true",
            );
        }
    }

    fn advise(&self, root: &Section<'_, '_>, advice: &Source<'_>) {
        let note = |section: &Section<'_, '_>, key: &str, path: &str, what: &str| {
            advice.problem(section.place(key), path, what);
        };
        let cookies = root.section("session").section("cookies");
        if self.secrets.is_empty() {
            let what = "is missing: one is made for this run, so what browsers hold of ours does not open after a restart";
            note(root, "secret", "secret", what);
        }
        if self.session.cookies.domain.is_some() && self.share.is_none() {
            let what = "is set: every gateway that renews these cookies has to know of the others' renewals, \
                        so let one gateway serve all sites of this domain, or give all of them one [share]";
            note(&cookies, "domain", "session.cookies.domain", what);
        }
        if !self.session.cookies.secure {
            let what = "is off: sessions travel readable; only for trying out on this machine";
            note(&cookies, "secure", "session.cookies.secure", what);
        }
        if self.session.weak_key {
            let what = "is shorter than 32 bytes, the least for HS256 (RFC 7518 §3.2): it can be guessed";
            note(&root.section("session").section("token"), "key", "session.token.key", what);
        }
        if self.listen.admin.is_some_and(|addr| !addr.ip().is_loopback()) {
            let what = "is no loopback address: see that only operators reach it";
            note(&root.section("listen"), "admin", "listen.admin", what);
        }
        let required = self.listen.https.as_ref().and_then(|(_, tls)| tls.clients.as_ref());
        if required.is_some_and(|clients| clients.without == WithoutCertificate::Refused)
            && !self.listen.http.ip().is_loopback()
            && self.listen.redirect == Redirect::Nowhere
        {
            let what =
                "serves the same sites without any certificate; put it on loopback, or write redirect = true";
            note(&root.section("listen"), "http", "listen.http", what);
        }
        for site in self.sites.iter().filter(|site| site.site.origin.host() != site.site.host) {
            let what =
                format!("{} is not the host of the site's origin: redirects lead elsewhere", site.site.host);
            note(root, "site", "site.host", &what);
        }
    }
}

fn secrets(root: &Section<'_, '_>) -> Option<Vec<Secret<Vec<u8>>>> {
    let Some(field) = root.take("secret") else { return Some(Vec::new()) };
    let mut secrets = Vec::new();
    for item in field.one_or_many() {
        let secret = value::secret(&item)?;
        if secret.expose().len() < SECRET_BYTES {
            item.problem(format!(
                "is shorter than {SECRET_BYTES} bytes; make one with: openssl rand -base64 33"
            ));
            return None;
        }
        secrets.push(Secret::new(secret.expose().as_bytes().to_vec()));
    }
    Some(secrets)
}

#[cfg(test)]
mod tests;
