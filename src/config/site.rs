//! The settings of sites, their rules, and what upstreams are told.
//! In: `[[site]]`, `[identity]`, `[trust]`. Out: their values. Errors: noted problems. I/O: certificate files.

use std::collections::BTreeSet;
use std::time::Duration;

use http::HeaderName;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::config::backend::BackendSettings;
use crate::config::read::{Field, Section};
use crate::config::session::base_url;
use crate::config::value;
use crate::dial::Roots;
use crate::forward::{
    Authorization, CertificateHeaders, HostRule, Spoken, TokenHeader, Tunnels, UpstreamSettings, folded,
};
use crate::need::{Access, Need, Require};
use crate::outcome::Capabilities;
use crate::route::{
    Ambiguous, CacheRule, CookieRule, Csrf, OnSessionEnd, Origin, Pattern, Preflight, RenewOn401, Rule,
    RuleAccess, Site, canonical_host,
};

/// Longest time for which a session is served past its end: a refusal is remembered as long, and forgotten refusals would be
/// overlooked.
const LONGEST_STALE: Duration = Duration::from_secs(600);

/// What upstreams are told of a user.
#[derive(Clone, Debug)]
pub struct IdentitySettings {
    /// Path of the claim that names the user.
    pub subject: String,
    /// Header and the path of the claim that it carries.
    pub headers: Vec<(HeaderName, String)>,
    /// Most bytes of one header's value.
    pub max: usize,
    /// The headers for what a client's certificate says.
    pub client: CertificateHeaders,
}

/// A site and the app behind it.
#[derive(Clone, Debug)]
pub struct SiteSettings {
    /// Host, origin and rules.
    pub site: Site,
    /// The app.
    pub upstream: UpstreamSettings,
    /// Most bytes of a request body; `None`: the listeners'.
    pub body: Option<u64>,
}

pub(super) fn roots(root: &Section<'_, '_>) -> Option<Roots> {
    let section = root.section("trust");
    let roots = match section.take("ca") {
        None => Some(Roots::System),
        Some(field) => field.text().and_then(|path| {
            let path = path.strip_prefix("file:").unwrap_or(path);
            field.reads(path);
            let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            match read {
                Ok(certificates) if !certificates.is_empty() => Some(Roots::Only(certificates)),
                Ok(_) => {
                    field.problem(format!(
                        "{path} holds no certificate; write the PEM file of your authority"
                    ));
                    None
                }
                Err(error) => {
                    field.problem(format!("{path} cannot be read as PEM ({error})"));
                    None
                }
            }
        }),
    };
    section.finish();
    roots
}

pub(super) fn identity(
    root: &Section<'_, '_>,
    backend: &Option<BackendSettings>,
) -> Option<IdentitySettings> {
    let section = root.section("identity");
    let usual = backend.as_ref().map_or("userId", BackendSettings::subject);
    let subject = section.take("subject").and_then(|f| f.text()).unwrap_or(usual).to_owned();
    let max = section.take("max").and_then(|f| value::size(&f)).unwrap_or(4096);
    let table = section.section("headers");
    let mut headers = Vec::new();
    let mut whole = true;
    // Many apps' servers read names that differ in `-` and `_` alone as one.
    let mut taken = BTreeSet::new();
    let mut own = |name: &str| identity_header(name).filter(|header| taken.insert(folded(header.as_str())));
    for (name, field) in table.entries() {
        match (own(&name), field.text()) {
            (Some(header), Some(claim)) => headers.push((header, claim.to_owned())),
            (None, _) => {
                field.problem(
                    "is no name for an identity header of its own; write for example \"X-Auth-User\"",
                );
                whole = false;
            }
            (Some(_), None) => whole = false,
        }
    }
    table.finish();
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    let client = section.section("client");
    let mut named = |key: &str| {
        let field = client.take(key)?;
        let header = own(field.text()?);
        if header.is_none() {
            field.problem(
                "is no name for an identity header of its own; write for example \"X-Client-Subject\"",
            );
            whole = false;
        }
        header
    };
    let client_headers = CertificateHeaders {
        subject: named("subject"),
        names: named("names"),
        fingerprint: named("fingerprint"),
        cap: max,
    };
    client.finish();
    section.finish();
    whole.then_some(IdentitySettings { subject, headers, max, client: client_headers })
}

/// A name that an identity header may have.
fn identity_header(name: &str) -> Option<HeaderName> {
    let taken = ["host", "cookie", "content-length", "transfer-encoding", "connection", "upgrade"];
    HeaderName::from_bytes(name.as_bytes()).ok().filter(|header| !taken.contains(&header.as_str()))
}

pub(super) fn sites(root: &Section<'_, '_>, wire: Option<Capabilities>) -> Option<Vec<SiteSettings>> {
    let fields = root.take("site").map(|f| f.items()).unwrap_or_default();
    if fields.is_empty() {
        root.problem(
            "site",
            "is missing: a gateway serves sites; write [[site]] with host, origin and upstream",
        );
        return None;
    }
    let read: Vec<Option<SiteSettings>> = fields.iter().map(|field| site(&field.section(), wire)).collect();
    let sites: Vec<SiteSettings> = read.into_iter().collect::<Option<_>>()?;
    for (n, (site, field)) in sites.iter().zip(&fields).enumerate() {
        if sites.iter().take(n).any(|earlier| earlier.site.host == site.site.host) {
            field.section().problem("host", "is another site's host already; give each host one [[site]]");
        }
    }
    Some(sites)
}

fn site(section: &Section<'_, '_>, wire: Option<Capabilities>) -> Option<SiteSettings> {
    let host = section.need("host", "\"app.example.com\"").and_then(|f| host(&f));
    let origin = section.need("origin", "\"https://app.example.com\"").and_then(|f| origin(&f));
    let csrf = section.take("csrf").and_then(|f| csrf(&f)).unwrap_or(Csrf::CrossSite);
    let trusted = section.take("trusted_origins").map(|f| f.one_or_many()).unwrap_or_default();
    let trusted: Option<Vec<Origin>> = trusted.iter().map(|field| self::origin(field)).collect();
    let ambiguous = [("refuse", Ambiguous::Refuse), ("protect", Ambiguous::Protect)];
    let ambiguous =
        section.take("ambiguous_paths").and_then(|f| f.word(&ambiguous)).unwrap_or(Ambiguous::Refuse);
    let upstream = upstream(section);
    let body = section.take("body").and_then(|f| value::size(&f));
    let rules = section.take("rule").map(|f| f.items()).unwrap_or_default();
    // An app that never sees the token refuses nobody because of it.
    let sees_token = upstream.as_ref().is_some_and(|upstream| upstream.token != TokenHeader::None);
    let renews = sees_token && wire.is_some_and(|wire| wire.renews_on_401);
    let on_401 = if renews { RenewOn401::Yes } else { RenewOn401::No };
    let own = SiteRule { csrf, on_401 };
    let rules: Vec<Option<Rule>> = rules.iter().map(|field| rule(&field.section(), own)).collect();
    for (n, rule) in rules.iter().enumerate() {
        let earlier = rules.iter().take(n).flatten();
        if let Some(rule) = rule
            && earlier.into_iter().any(|earlier| earlier.pattern == rule.pattern)
        {
            section.problem("rule", format!("{} has two rules; put them together", rule.pattern.as_str()));
        }
    }
    let rules = rules.into_iter().collect::<Option<Vec<Rule>>>().map(|rules| with_default(rules, own));
    section.finish();
    Some(SiteSettings {
        site: Site { host: host?, origin: origin?, rules: rules?, ambiguous, trusted_origins: trusted? },
        upstream: upstream?,
        body,
    })
}

fn upstream(section: &Section<'_, '_>) -> Option<UpstreamSettings> {
    let servers: Option<Vec<_>> = section
        .need("upstream", "[\"http://127.0.0.1:8000\"]")
        .and_then(|field| field.one_or_many().iter().map(base_url).collect());
    let span =
        |key: &str, default: Duration| section.take(key).and_then(|f| value::duration(&f)).unwrap_or(default);
    let hosts = [("origin", HostRule::Origin), ("upstream", HostRule::Upstream)];
    let tokens = [
        ("none", TokenHeader::None),
        ("x-access-token", TokenHeader::XAccessToken),
        ("bearer", TokenHeader::Bearer),
    ];
    let authorizations = [("strip", Authorization::Strip), ("pass", Authorization::Pass)];
    let spoken = [("http1", Spoken::Http1), ("http2", Spoken::Http2)];
    let settings = UpstreamSettings {
        servers: Vec::new(),
        connect: span("connect", Duration::from_secs(5)),
        head: span("head", Duration::from_secs(60)),
        idle: span("idle", Duration::from_secs(300)),
        pool_idle: span("pool_idle", Duration::from_secs(4)),
        host: section.take("upstream_host").and_then(|f| f.word(&hosts)).unwrap_or(HostRule::Origin),
        token: section.take("token").and_then(|f| f.word(&tokens)).unwrap_or(TokenHeader::None),
        authorization: section
            .take("authorization")
            .and_then(|f| f.word(&authorizations))
            .unwrap_or(Authorization::Strip),
        websocket: match section.take("websocket").and_then(|f| f.flag()) {
            Some(false) => Tunnels::Closed,
            Some(true) | None => Tunnels::Open,
        },
        spoken: section.take("upstream_protocol").and_then(|f| f.word(&spoken)).unwrap_or(Spoken::Http1),
    };
    // A WebSocket begins with an upgrade, which HTTP/2 does not have.
    let settings = match settings.spoken {
        Spoken::Http1 => settings,
        Spoken::Http2 => UpstreamSettings { websocket: Tunnels::Closed, ..settings },
    };
    if settings.authorization == Authorization::Pass && settings.token == TokenHeader::Bearer {
        section.problem("authorization", "\"pass\" and token = \"bearer\" both want this header; choose one");
    }
    let servers = servers?;
    if servers.is_empty() {
        section.problem("upstream", "names no server; write for example [\"http://127.0.0.1:8000\"]");
        return None;
    }
    if let Some(url) = servers.iter().find(|url| !matches!(url.path(), "/" | "")) {
        section.problem(
            "upstream",
            format!("{url} has a path: requests are sent on with their own paths; remove it"),
        );
        return None;
    }
    Some(UpstreamSettings { servers, ..settings })
}

/// What rules are where they do not say otherwise.
#[derive(Clone, Copy)]
struct SiteRule {
    csrf: Csrf,
    on_401: RenewOn401,
}

fn rule(section: &Section<'_, '_>, own: SiteRule) -> Option<Rule> {
    let path = section.need("path", "\"/admin/*\"");
    let pattern = path.as_ref().and_then(|field| match Pattern::parse(field.text()?) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            field.problem(error.to_string());
            None
        }
    });
    let name = section
        .take("name")
        .and_then(|f| f.text())
        .or_else(|| path.as_ref().and_then(Field::text))
        .unwrap_or_default()
        .to_owned();
    let words =
        [("public", None), ("optional", Some(Access::Optional)), ("required", Some(Access::Required))];
    let access = section.take("access").and_then(|f| f.word(&words)).unwrap_or(Some(Access::Required));
    let require = require(&section.section("require"));
    let csrf = section.take("csrf").and_then(|f| csrf(&f)).unwrap_or(own.csrf);
    let preflights = [("answer", Preflight::Answer), ("upstream", Preflight::Upstream)];
    let preflight = section.take("preflight").and_then(|f| f.word(&preflights)).unwrap_or(Preflight::Answer);
    let caches = [("private", CacheRule::Private), ("upstream", CacheRule::Upstream)];
    let cache = section.take("cache").and_then(|f| f.word(&caches)).unwrap_or(CacheRule::Private);
    let stale = stale(section);
    let cookies = [("strip", CookieRule::Strip), ("pass", CookieRule::Pass)];
    let cookies = section.take("cookies").and_then(|f| f.word(&cookies)).unwrap_or(CookieRule::Strip);
    let renew_on_401 = match section.take("renew_on_401").and_then(|f| f.flag()) {
        None => own.on_401,
        Some(true) => RenewOn401::Yes,
        Some(false) => RenewOn401::No,
    };
    let on_session_end = on_session_end(section);
    let digit_body = section.take("digit_body").and_then(|f| value::size(&f));
    let body = section.take("body").and_then(|f| value::size(&f));
    section.finish();
    let access = match (access, require.is_empty()) {
        (None, true) if !stale.is_zero() => {
            let what = "is about sessions, and this rule is public; remove one of the two";
            section.problem("stale_while_unavailable", what);
            return None;
        }
        (None, false) => {
            section.problem("require", "needs a session, and this rule is public; remove one of the two");
            return None;
        }
        (None, true) => RuleAccess::Public,
        (Some(access), _) => RuleAccess::Session(Need { access, require, stale }),
    };
    Some(Rule {
        name,
        pattern: pattern?,
        access,
        csrf,
        preflight,
        cache,
        cookies,
        renew_on_401,
        on_session_end,
        digit_body,
        body,
    })
}

fn stale(section: &Section<'_, '_>) -> Duration {
    let Some(field) = section.take("stale_while_unavailable") else { return Duration::ZERO };
    let span = value::duration(&field).unwrap_or_default();
    if span > LONGEST_STALE {
        field.problem(
            "is longer than \"10m\": a refusal is remembered for ten minutes, and a session that was refused \
             before would be served again; write \"10m\" or less",
        );
    }
    span
}

fn on_session_end(section: &Section<'_, '_>) -> OnSessionEnd {
    let words = [("close", OnSessionEnd::Close), ("keep", OnSessionEnd::Keep)];
    section.take("on_session_end").and_then(|f| f.word(&words)).unwrap_or_default()
}

/// The rule for paths that no other names is the site's own: a session is required, with the site's `csrf`.
fn with_default(mut rules: Vec<Rule>, own: SiteRule) -> Vec<Rule> {
    if !rules.iter().any(|rule| rule.pattern.is_everything()) {
        rules.push(Rule {
            csrf: own.csrf,
            renew_on_401: own.on_401,
            ..Rule::new("default", Pattern::everything())
        });
    }
    rules
}

fn require(section: &Section<'_, '_>) -> Require {
    let entries = section.entries().into_iter();
    let claims = entries.map(|(path, field)| {
        let values: Vec<String> = field.texts().into_iter().map(str::to_owned).collect();
        if values.is_empty() {
            field.problem("lists no value; nobody could meet it");
        }
        (path, values)
    });
    Require::new(claims.collect())
}

fn csrf(field: &Field<'_, '_>) -> Option<Csrf> {
    field.word(&[("cross-site", Csrf::CrossSite), ("same-site", Csrf::SameSite), ("off", Csrf::Off)])
}

fn origin(field: &Field<'_, '_>) -> Option<Origin> {
    let text = field.text()?;
    let origin = Origin::parse(text);
    if origin.is_none() {
        field.problem(format!(
            "\"{text}\" is no origin; write scheme and host alone, such as \"https://app.example.com\""
        ));
    }
    origin
}

fn host(field: &Field<'_, '_>) -> Option<String> {
    let text = field.text()?;
    let host = canonical_host(text);
    if host.is_none() {
        field.problem(format!("\"{text}\" is no host name; write it without scheme, port and path"));
    }
    host
}
