//! The settings of cookies, tokens and renewal.
//! In: `[session]`. Out: their values. Errors: noted problems. I/O: none.

use std::path::PathBuf;
use std::time::Duration;

use cookie::SameSite;
use url::Url;

use crate::admit::AdmitRules;
use crate::admit::breaker::BreakerRules;
use crate::admit::buckets::BucketRules;
use crate::backend::jwks::JwksSettings;
use crate::check::introspector::IntrospectRules;
use crate::config::backend::BackendSettings;
use crate::config::keys::{self, KeySettings};
use crate::config::listen::DrainSettings;
use crate::config::read::{Field, Section};
use crate::config::site::IdentitySettings;
use crate::config::value;
use crate::outcome::{Ahead, Introspects};
use crate::renew::RenewSettings;
use crate::session::carrier::CookieSettings;
use crate::session::cookies::CookieNames;
use crate::session::judge::RenewMode;
use crate::session::verifier::{Supply, TokenRules};

/// Longest time that a backend which may be back is not tried.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Cookies and tokens.
#[derive(Debug)]
pub struct SessionSettings {
    /// Their names and attributes.
    pub cookies: CookieSettings,
    /// How access tokens are checked.
    pub token: TokenCheck,
    /// Where their keys are published, if they are.
    pub jwks: Option<JwksSettings>,
    /// Where each key comes from and how it is used, for people. No secret.
    pub keys_shown: Vec<String>,
    /// How early they are due.
    pub ahead: Ahead,
    /// Whether this gateway renews.
    pub mode: RenewMode,
    /// Whether the key of the tokens is shorter than it should be.
    pub(super) weak_key: bool,
}

/// How access tokens are checked.
#[derive(Debug)]
pub enum TokenCheck {
    /// By their signature.
    Signed(TokenRules),
    /// By asking the backend.
    Opaque(IntrospectRules),
}

impl TokenCheck {
    /// The allowance for clocks that differ.
    #[must_use]
    pub const fn leeway(&self) -> Duration {
        match self {
            Self::Signed(rules) => rules.leeway,
            Self::Opaque(rules) => rules.leeway,
        }
    }
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
    // A backend without session ids leaves the usual name to the app.
    let has_sessions = backend.as_ref().is_none_or(|b| b.capabilities().needs_session);
    let session_cookie = has_sessions.then_some("session_id");
    let cookies = cookies(&section, session_cookie, refresh_life.unwrap_or(Duration::from_secs(24 * 3600)));
    let token = token_check(&section, backend, identity);
    let renew = section.section("renew");
    let default = backend.as_ref().map_or(Ahead::Span(Duration::from_secs(30)), |b| b.capabilities().ahead);
    let ahead = renew.take("ahead").and_then(|f| ahead(&f)).unwrap_or(default);
    let modes = [("auto", RenewMode::Auto), ("never", RenewMode::Never)];
    let mode = renew.take("mode").and_then(|f| f.word(&modes)).unwrap_or(RenewMode::Auto);
    section.take("renew");
    section.finish();
    let (token, keys) = token?;
    let KeySettings { jwks, shown, weak, .. } = keys;
    Some(SessionSettings { cookies: cookies?, token, jwks, keys_shown: shown, ahead, mode, weak_key: weak })
}

/// The cookie name under `key`: `None` where there is nothing, `Some(None)` where that is no cookie name.
pub(super) fn cookie_name(section: &Section<'_, '_>, key: &str) -> Option<Option<String>> {
    let field = section.take(key)?;
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let name = field.text();
    let fits = name.filter(|text| !text.is_empty() && text.bytes().all(token));
    if name.is_some() && fits.is_none() {
        field.problem("is no cookie name (RFC 6265 §4.1.1); write letters, digits, - and _");
    }
    Some(fits.map(str::to_owned))
}

fn cookie_names(section: &Section<'_, '_>, session: Option<&str>) -> Option<CookieNames> {
    let optional = |key: &str, default: Option<&str>| {
        cookie_name(section, key).map_or(Some(default.map(str::to_owned)), |read| read.map(Some))
    };
    let name = |key: &str, default: &str| optional(key, Some(default)).flatten();
    let (access, signature) = (name("access", "access_token"), optional("signature", None));
    let (refresh, session) = (name("refresh", "refresh_token"), optional("session", session));
    let (notes, returns) = (name("state", "doorkeep_state"), name("returns", "doorkeep_returns"));
    Some(CookieNames {
        access: access?,
        signature: signature?,
        refresh: refresh?,
        session: session?,
        notes: notes?,
        returns: returns?,
    })
}

fn cookies(
    session: &Section<'_, '_>,
    session_cookie: Option<&str>,
    refresh_life: Duration,
) -> Option<CookieSettings> {
    let section = session.section("cookies");
    let names = cookie_names(&section, session_cookie);
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

/// How tokens are checked, and what is to be told of their keys.
fn token_check(
    session: &Section<'_, '_>,
    backend: &Option<BackendSettings>,
    identity: &Option<IdentitySettings>,
) -> Option<(TokenCheck, KeySettings)> {
    let section = session.section("token");
    let introspects = backend.as_ref().map_or(Introspects::Offered, |b| b.capabilities().introspects);
    let mode =
        section.take("mode").and_then(|f| f.word(&[("jwt", Mode::Jwt), ("introspect", Mode::Introspect)]));
    let asking = section.section("introspect");
    let rules = opaque(&section, &asking, identity);
    asking.finish();
    let mode = match (mode, introspects) {
        (Some(Mode::Jwt), Introspects::Needed) => {
            section
                .problem("mode", "cannot be \"jwt\": this backend's tokens are opaque; write \"introspect\"");
            return None;
        }
        (Some(Mode::Introspect), Introspects::Never) => {
            section.problem("mode", "cannot be \"introspect\": this backend cannot be asked; write \"jwt\"");
            return None;
        }
        (Some(mode), _) => mode,
        (None, Introspects::Needed) => Mode::Introspect,
        (None, Introspects::Never | Introspects::Offered) => Mode::Jwt,
    };
    match mode {
        Mode::Jwt => {
            // Where the backend is not known yet, neither is what its tokens are.
            if backend.is_some() && section.has("introspect") {
                let what = "is about tokens that are asked about, and these are verified by their signature; remove it";
                section.problem("introspect", what);
            }
            token(&section, identity).map(|(rules, keys)| (TokenCheck::Signed(rules), keys))
        }
        Mode::Introspect => {
            let told = backend.as_ref().is_some_and(BackendSettings::tells_issuer_and_audience);
            let not_told = if told { &[][..] } else { &["issuer", "audience"] };
            for key in keys::SETTINGS.iter().chain(&["expiry"]).chain(not_told) {
                if section.take(key).is_some() {
                    section.problem(key, "is about signed tokens, and these are asked about; remove it");
                }
            }
            let (issuer, audience) =
                if told { (issuer(&section), audience(&section)) } else { (None, Vec::new()) };
            section.finish();
            let rules = IntrospectRules { issuer, audience, ..rules };
            Some((TokenCheck::Opaque(rules), KeySettings::default()))
        }
    }
}

#[derive(Clone, Copy)]
enum Mode {
    Jwt,
    Introspect,
}

/// How opaque tokens are asked about.
fn opaque(
    section: &Section<'_, '_>,
    asking: &Section<'_, '_>,
    identity: &Option<IdentitySettings>,
) -> IntrospectRules {
    let span = |section: &Section<'_, '_>, key: &str, default: u64| {
        section.take(key).and_then(|f| value::duration(&f)).unwrap_or(Duration::from_secs(default))
    };
    let concurrency = asking.take("concurrency").and_then(|f| f.number()).unwrap_or(64);
    if concurrency == 0 {
        asking.problem("concurrency", "is 0: nobody could ever be asked about; write at least 1");
    }
    let max_size = section.take("max_size").and_then(|f| value::size(&f)).unwrap_or(8 * 1024);
    IntrospectRules {
        cache: span(asking, "cache", 10),
        timeout: span(asking, "timeout", 3),
        concurrency: usize::try_from(concurrency).unwrap_or(usize::MAX),
        issuer: None,
        audience: Vec::new(),
        leeway: span(section, "leeway", 5),
        subject: identity.as_ref().map_or_else(String::new, |identity| identity.subject.clone()),
        session: section.take("session").and_then(|f| f.text()).map(str::to_owned),
        max_size: usize::try_from(max_size).unwrap_or(usize::MAX),
        memory: section.take("cache").and_then(|f| value::size(&f)).unwrap_or(64 << 20),
    }
}

fn token(
    section: &Section<'_, '_>,
    identity: &Option<IdentitySettings>,
) -> Option<(TokenRules, KeySettings)> {
    let keys = keys::keys(section);
    let text = |key: &str| section.take(key).and_then(|f| f.text()).map(str::to_owned);
    let rules = TokenRules {
        keys: Vec::new(),
        algorithms: Vec::new(),
        supply: Supply::Fixed,
        issuer: issuer(section),
        audience: audience(section),
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
    let mut keys = keys?;
    let supply = if keys.jwks.is_some() { Supply::Fetched } else { Supply::Fixed };
    let taken = std::mem::take(&mut keys.keys);
    Some((TokenRules { keys: taken, algorithms: keys.algorithms.clone(), supply, ..rules }, keys))
}

/// Who issues tokens; `None`: not checked.
fn issuer(section: &Section<'_, '_>) -> Option<String> {
    section.take("issuer").and_then(|f| f.text()).map(str::to_owned)
}

/// Whom tokens are for; nobody named: not checked.
fn audience(section: &Section<'_, '_>) -> Vec<String> {
    let Some(field) = section.take("audience") else { return Vec::new() };
    if field.one_or_many().is_empty() {
        field.problem("is empty: it would check nothing; write for example [\"app\"], or leave it out");
    }
    field.texts().into_iter().map(str::to_owned).collect()
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
        share: None,
        admission: admission(&section),
    };
    section.take("ahead");
    section.take("mode");
    if settings.timeout > settings.give_up {
        section.problem("timeout", "is longer than give_up: nobody waits for what was given up; lower it");
    }
    section.finish();
    settings
}

/// What the backend is asked at a time, and when it is spared.
fn admission(renew: &Section<'_, '_>) -> AdmitRules {
    let number = |section: &Section<'_, '_>, key: &str, default: u64| {
        section.take(key).and_then(|f| f.number()).unwrap_or(default)
    };
    let whole = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let count = |key: &str, default: u64| {
        let read = number(renew, key, default);
        if read == 0 {
            renew.problem(key, "is 0: nothing could ever be renewed; write at least 1");
        }
        usize::try_from(read).unwrap_or(usize::MAX)
    };
    let (concurrency, queue) = (count("concurrency", 64), count("queue", 4096));
    let section = renew.section("strangers");
    let usual = BucketRules::default();
    let strangers = BucketRules {
        burst: whole(number(&section, "burst", usual.burst.into())),
        per_second: whole(number(&section, "per_second", usual.per_second.into())),
    };
    section.finish();
    let section = renew.section("breaker");
    let usual = BreakerRules::default();
    let breaker = BreakerRules {
        faults: whole(number(&section, "faults", usual.faults.into())),
        pause: section.take("pause").and_then(|f| value::duration(&f)).unwrap_or(usual.pause),
        retry_after: section
            .take("retry_after")
            .and_then(|f| value::duration(&f))
            .unwrap_or(usual.retry_after),
    };
    if breaker.pause.is_zero() || breaker.pause > LONGEST_PAUSE {
        section.problem(
            "pause",
            "is not between \"1ms\" and \"2s\": a backend that is back has to be found soon",
        );
    }
    section.finish();
    AdmitRules { concurrency, queue, strangers, breaker }
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
        // What it holds may be a password: it is not repeated then.
        let shown = if text.contains('@') { "this".to_owned() } else { format!("\"{text}\"") };
        field.problem(format!(
            "{shown} is no URL to use here; write for example \"https://id.example.com/login\""
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
