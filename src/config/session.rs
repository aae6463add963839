//! The settings of cookies, tokens, renewal, the login and the session backend.
//! In: `[session]`, `[login]`, `[backend.*]`. Out: their values. Errors: noted problems. I/O: none.

use std::path::PathBuf;
use std::time::Duration;

use cookie::SameSite;
use jsonwebtoken::{Algorithm, DecodingKey};
use url::Url;

use crate::backend::directory::{Directory, DirectoryPaths, DirectorySettings, default_answers};
use crate::backend::{Meaning, Row, Table};
use crate::config::listen::DrainSettings;
use crate::config::read::{Field, Section};
use crate::config::site::IdentitySettings;
use crate::config::value;
use crate::outcome::{Ahead, Capabilities};
use crate::renew::RenewSettings;
use crate::reply::LoginSettings;
use crate::session::carrier::CookieSettings;
use crate::session::cookies::CookieNames;
use crate::session::judge::RenewMode;
use crate::session::verifier::{TokenRules, VerificationKey};

/// Cookies and tokens.
#[derive(Debug)]
pub struct SessionSettings {
    /// Their names and attributes.
    pub cookies: CookieSettings,
    /// How access tokens are checked.
    pub token: TokenRules,
    /// How early they are due.
    pub ahead: Ahead,
    /// Whether this gateway renews.
    pub mode: RenewMode,
    /// Whether the key of the tokens is shorter than it should be.
    pub(super) weak_key: bool,
}

/// Who issues sessions.
#[derive(Clone, Debug)]
pub enum BackendSettings {
    /// OpenAge's JSON sessions API.
    Directory {
        /// Where it is and what it answers.
        settings: DirectorySettings,
        /// Longest time to get connected.
        connect: Duration,
    },
}

impl BackendSettings {
    /// Its name in the settings.
    #[must_use]
    pub const fn id(&self) -> &'static str {
        match self {
            Self::Directory { .. } => "directory",
        }
    }

    /// What its answers mean.
    #[must_use]
    pub const fn answers(&self) -> &Table {
        match self {
            Self::Directory { settings, .. } => &settings.answers,
        }
    }

    /// What it can and needs.
    #[must_use]
    pub const fn capabilities(&self) -> Capabilities {
        match self {
            Self::Directory { .. } => Directory::CAPABILITIES,
        }
    }
}

pub(super) fn backend(root: &Section<'_, '_>) -> Option<BackendSettings> {
    let session = root.section("session");
    let chosen = session.need("backend", "\"directory\"").and_then(|f| f.word(&[("directory", ())]));
    let backends = root.section("backend");
    let directory = directory(&backends);
    backends.finish();
    chosen.and(directory)
}

fn directory(backends: &Section<'_, '_>) -> Option<BackendSettings> {
    let section = backends.section("directory");
    let defaults = DirectoryPaths::default();
    let path = |key: &str, default: String| match section.take(key) {
        None => default,
        Some(field) => match field.text() {
            Some(text) if text.starts_with('/') => text.to_owned(),
            Some(_) => {
                field.problem("must begin with a slash");
                default
            }
            None => default,
        },
    };
    let paths = DirectoryPaths {
        renew: path("renew_path", defaults.renew),
        sign_out: path("sign_out_path", defaults.sign_out),
        sign_in: path("sign_in_path", defaults.sign_in),
    };
    if !paths.renew.contains("{session}") {
        section.problem("renew_path", "has no {session}: the session's id has to stand in it");
    }
    let app = section.take("app").and_then(|f| f.text()).unwrap_or("doorkeep").to_owned();
    let connect = section.take("connect").and_then(|f| value::duration(&f)).unwrap_or(Duration::from_secs(3));
    let rows = section.take("answer").map(|f| answers(&f)).unwrap_or_default();
    let url = section.need("url", "\"https://api.example.com\"").and_then(|f| base_url(&f));
    section.finish();
    let settings = DirectorySettings { url: url?, paths, app, answers: default_answers().after(rows) };
    Some(BackendSettings::Directory { settings, connect })
}

fn answers(field: &Field<'_, '_>) -> Vec<Row> {
    let meanings =
        [("refused", Meaning::Refused), ("unavailable", Meaning::Unavailable), ("ours", Meaning::Ours)];
    let mut rows = Vec::new();
    for item in field.items() {
        let row = item.section();
        let status = row.take("status").and_then(|f| f.number()).and_then(|n| u16::try_from(n).ok());
        let member = row.take("member").and_then(|f| f.text());
        let text = row.take("text").and_then(|f| f.text());
        let meaning = row.need("means", "\"refused\"").and_then(|f| f.word(&meanings));
        if member.is_some() != text.is_some() {
            row.problem("member", "and text belong together: write both or none");
        }
        if status.is_none() && member.is_none() {
            row.problem("status", "or member and text: a row has to name something");
        }
        row.finish();
        let member = member.zip(text).map(|(path, text)| (path.to_owned(), text.to_owned()));
        rows.extend(meaning.map(|meaning| Row { status, member, meaning }));
    }
    rows
}

pub(super) fn session(
    root: &Section<'_, '_>,
    backend: &Option<BackendSettings>,
    identity: &Option<IdentitySettings>,
) -> Option<SessionSettings> {
    let section = root.section("session");
    section.take("backend");
    section.take("carrier").and_then(|f| f.word(&[("split", ())]));
    let lifetime = section.section("lifetime");
    let refresh_life = lifetime.take("refresh").and_then(|f| value::duration(&f));
    lifetime.finish();
    let cookies = cookies(&section, refresh_life.unwrap_or(Duration::from_secs(24 * 3600)));
    let token = token(&section, identity);
    let renew = section.section("renew");
    let default = backend.as_ref().map_or(Ahead::Span(Duration::from_secs(30)), |b| b.capabilities().ahead);
    let ahead = renew.take("ahead").and_then(|f| ahead(&f)).unwrap_or(default);
    let modes = [("auto", RenewMode::Auto), ("never", RenewMode::Never)];
    let mode = renew.take("mode").and_then(|f| f.word(&modes)).unwrap_or(RenewMode::Auto);
    section.take("renew");
    section.finish();
    let (token, weak_key) = token?;
    Some(SessionSettings { cookies: cookies?, token, ahead, mode, weak_key })
}

fn cookies(session: &Section<'_, '_>, refresh_life: Duration) -> Option<CookieSettings> {
    let section = session.section("cookies");
    let name = |key: &str, default: &str| match section.take(key) {
        None => Some(default.to_owned()),
        Some(field) => field.text().and_then(|text| {
            let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            if text.is_empty() || !text.bytes().all(token) {
                field.problem("is no cookie name (RFC 6265 §4.1.1); write letters, digits, - and _");
                return None;
            }
            Some(text.to_owned())
        }),
    };
    let names = (|| {
        Some(CookieNames {
            access: name("access", "access_token")?,
            refresh: name("refresh", "refresh_token")?,
            session: Some(name("session", "session_id")?),
            notes: name("state", "doorkeep_state")?,
            returns: name("returns", "doorkeep_returns")?,
        })
    })();
    let domain = section.take("domain").and_then(|f| {
        let text = f.text()?.trim_start_matches('.').to_ascii_lowercase();
        let fits =
            text.contains('.') && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-');
        if !fits {
            f.problem(
                "is no domain that hosts can share; write for example \"example.com\", or leave it out",
            );
        }
        fits.then_some(text)
    });
    let secure = section.take("secure").and_then(|f| f.flag()).unwrap_or(true);
    let sites = [("lax", SameSite::Lax), ("strict", SameSite::Strict), ("none", SameSite::None)];
    let same_site = section.take("same_site").and_then(|f| f.word(&sites)).unwrap_or(SameSite::Lax);
    if let Some(names) = &names {
        let all: Vec<&str> = names.all().collect();
        for (n, name) in all.iter().enumerate() {
            if all.iter().skip(n + 1).any(|other| other == name) {
                section
                    .problem("access", format!("the name {name} is used twice; every cookie needs its own"));
            }
            if name.starts_with("__Host-") && (domain.is_some() || !secure) {
                section
                    .problem("domain", format!("{name} may have no domain and has to be secure; rename it"));
            }
            if name.starts_with("__Secure-") && !secure {
                section.problem("secure", format!("{name} has to be secure; rename it"));
            }
        }
    }
    section.finish();
    Some(CookieSettings { names: names?, domain, secure, same_site, refresh_life })
}

/// How tokens are checked, and whether their key is shorter than it should be.
fn token(session: &Section<'_, '_>, identity: &Option<IdentitySettings>) -> Option<(TokenRules, bool)> {
    let section = session.section("token");
    let algorithms = [("HS256", Algorithm::HS256), ("HS384", Algorithm::HS384), ("HS512", Algorithm::HS512)];
    let algorithm = section.need("algorithms", "[\"HS256\"]").and_then(|field| {
        let items = field.one_or_many();
        if items.len() != 1 {
            field.problem("one key is used with one algorithm; name exactly one");
        }
        items.first().and_then(|item| item.word(&algorithms))
    });
    let key = section.need("key", "\"file:/etc/doorkeep/access.key\"").and_then(|f| value::secret(&f));
    let text = |key: &str| section.take(key).and_then(|f| f.text()).map(str::to_owned);
    let rules = TokenRules {
        keys: Vec::new(),
        issuer: text("issuer"),
        audience: section
            .take("audience")
            .map(|f| f.texts().into_iter().map(str::to_owned).collect())
            .unwrap_or_default(),
        leeway: section.take("leeway").and_then(|f| value::duration(&f)).unwrap_or(Duration::from_secs(5)),
        subject: identity.as_ref().map_or_else(String::new, |identity| identity.subject.clone()),
        session: Some(text("session").unwrap_or_else(|| "sessionId".to_owned())),
        expiry: Some(text("expiry").unwrap_or_else(|| "expiry".to_owned())),
        max_size: section
            .take("max_size")
            .and_then(|f| value::size(&f))
            .map_or(8 * 1024, |n| usize::try_from(n).unwrap_or(usize::MAX)),
        cache: section.take("cache").and_then(|f| value::size(&f)).unwrap_or(64 << 20),
    };
    section.finish();
    let key = key?;
    let weak = key.expose().len() < 32;
    let key = VerificationKey {
        algorithm: algorithm?,
        key_id: None,
        key: DecodingKey::from_secret(key.expose().as_bytes()),
    };
    Some((TokenRules { keys: vec![key], ..rules }, weak))
}

pub(super) fn renew(root: &Section<'_, '_>, drain: &DrainSettings) -> RenewSettings {
    let session = root.section("session");
    let section = session.section("renew");
    let span =
        |key: &str, default: Duration| section.take(key).and_then(|f| value::duration(&f)).unwrap_or(default);
    let give_up = span("give_up", Duration::from_secs(30).min(drain.timeout));
    let settings = RenewSettings {
        timeout: span("timeout", Duration::from_secs(5)),
        give_up,
        replay: span("replay", Duration::from_secs(60)),
        attach: span("attach", Duration::from_millis(250)),
        undelivered: span("undelivered", Duration::from_secs(24 * 3600)),
        memory: section
            .take("memory")
            .and_then(|f| value::size(&f))
            .map_or(64 << 20, |n| usize::try_from(n).unwrap_or(usize::MAX)),
        state_dir: root.take("state_dir").and_then(|f| f.text()).map(PathBuf::from),
    };
    section.take("ahead");
    section.take("mode");
    if settings.timeout > settings.give_up {
        section.problem("timeout", "is longer than give_up: nobody waits for what was given up; lower it");
    }
    section.finish();
    settings
}

pub(super) fn login(root: &Section<'_, '_>) -> Option<LoginSettings> {
    let section = root.section("login");
    let url = section.need("url", "\"https://id.example.com/login\"").and_then(|f| web_url(&f));
    let parameter = section.take("parameter").and_then(|f| f.text()).unwrap_or("redirect").to_owned();
    section.finish();
    Some(LoginSettings { url: url?, parameter })
}

fn ahead(field: &Field<'_, '_>) -> Option<Ahead> {
    let text = field.text()?;
    match text.strip_suffix('%') {
        None => value::duration(field).map(Ahead::Span),
        Some(number) => match number.trim().parse::<u8>() {
            Ok(percent) if percent <= 50 => Some(Ahead::Percent(percent)),
            Ok(_) | Err(_) => {
                field.problem(format!(
                    "\"{text}\" is neither a duration nor a percentage from \"0%\" to \"50%\""
                ));
                None
            }
        },
    }
}

/// An absolute `http` or `https` URL without user information.
pub(super) fn web_url(field: &Field<'_, '_>) -> Option<Url> {
    let text = field.text()?;
    let url = Url::parse(text).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none()
    });
    if url.is_none() {
        field.problem(format!(
            "\"{text}\" is no URL to use here; write for example \"https://id.example.com/login\""
        ));
    }
    url
}

/// Such a URL without query and fragment.
pub(super) fn base_url(field: &Field<'_, '_>) -> Option<Url> {
    let url = web_url(field)?;
    if url.query().is_some() || url.fragment().is_some() {
        field.problem("must have no query and no fragment");
        return None;
    }
    Some(url)
}
