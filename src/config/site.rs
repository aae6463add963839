//! The settings of sites, their rules, and what upstreams are told.
//! In: `[[site]]`, `[identity]`, `[trust]`. Out: their values. Errors: noted problems. I/O: certificate files.

use std::time::Duration;

use http::HeaderName;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::config::read::{Field, Section};
use crate::config::session::base_url;
use crate::config::value;
use crate::dial::Roots;
use crate::forward::{Authorization, HostRule, TokenHeader, Tunnels, UpstreamSettings};
use crate::need::{Access, Need, Require};
use crate::route::{
    Ambiguous, CacheRule, CookieRule, Csrf, Origin, Pattern, Preflight, Rule, RuleAccess, Site,
    canonical_host,
};

/// What upstreams are told of a user.
#[derive(Clone, Debug)]
pub struct IdentitySettings {
    /// Path of the claim that names the user.
    pub subject: String,
    /// Header and the path of the claim that it carries.
    pub headers: Vec<(HeaderName, String)>,
    /// Most bytes of one header's value.
    pub max: usize,
}

/// A site and the app behind it.
#[derive(Clone, Debug)]
pub struct SiteSettings {
    /// Host, origin and rules.
    pub site: Site,
    /// The app.
    pub upstream: UpstreamSettings,
}

pub(super) fn roots(root: &Section<'_, '_>) -> Option<Roots> {
    let section = root.section("trust");
    let roots = match section.take("ca") {
        None => Some(Roots::System),
        Some(field) => field.text().and_then(|path| {
            let path = path.strip_prefix("file:").unwrap_or(path);
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

pub(super) fn identity(root: &Section<'_, '_>) -> Option<IdentitySettings> {
    let section = root.section("identity");
    let subject = section.take("subject").and_then(|f| f.text()).unwrap_or("userId").to_owned();
    let max = section.take("max").and_then(|f| value::size(&f)).unwrap_or(4096);
    let table = section.section("headers");
    let mut headers = Vec::new();
    let mut whole = true;
    for (name, field) in table.entries() {
        let read = HeaderName::from_bytes(name.as_bytes()).ok().filter(|header| {
            let taken = ["host", "cookie", "content-length", "transfer-encoding", "connection", "upgrade"];
            !taken.contains(&header.as_str())
        });
        match (read, field.text()) {
            (Some(header), Some(claim)) => headers.push((header, claim.to_owned())),
            (None, _) => {
                field.problem("is no name for an identity header; write for example \"X-Auth-User\"");
                whole = false;
            }
            (Some(_), None) => whole = false,
        }
    }
    table.finish();
    section.finish();
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    whole.then_some(IdentitySettings { subject, headers, max })
}

pub(super) fn sites(root: &Section<'_, '_>) -> Option<Vec<SiteSettings>> {
    let fields = root.take("site").map(|f| f.items()).unwrap_or_default();
    if fields.is_empty() {
        root.problem(
            "site",
            "is missing: a gateway serves sites; write [[site]] with host, origin and upstream",
        );
        return None;
    }
    let read: Vec<Option<SiteSettings>> = fields.iter().map(|field| site(&field.section())).collect();
    let sites: Vec<SiteSettings> = read.into_iter().collect::<Option<_>>()?;
    for (n, (site, field)) in sites.iter().zip(&fields).enumerate() {
        if sites.iter().take(n).any(|earlier| earlier.site.host == site.site.host) {
            field.section().problem("host", "is another site's host already; give each host one [[site]]");
        }
    }
    Some(sites)
}

fn site(section: &Section<'_, '_>) -> Option<SiteSettings> {
    let host = section.need("host", "\"app.example.com\"").and_then(|f| host(&f));
    let origin = section.need("origin", "\"https://app.example.com\"").and_then(|f| origin(&f));
    let csrf = section.take("csrf").and_then(|f| csrf(&f)).unwrap_or(Csrf::CrossSite);
    let trusted = section.take("trusted_origins").map(|f| f.one_or_many()).unwrap_or_default();
    let trusted: Option<Vec<Origin>> = trusted.iter().map(|field| self::origin(field)).collect();
    let ambiguous = [("refuse", Ambiguous::Refuse), ("protect", Ambiguous::Protect)];
    let ambiguous =
        section.take("ambiguous_paths").and_then(|f| f.word(&ambiguous)).unwrap_or(Ambiguous::Refuse);
    let upstream = upstream(section);
    let rules = section.take("rule").map(|f| f.items()).unwrap_or_default();
    let rules: Vec<Option<Rule>> = rules.iter().map(|field| rule(&field.section(), csrf)).collect();
    for (n, rule) in rules.iter().enumerate() {
        let earlier = rules.iter().take(n).flatten();
        if let Some(rule) = rule
            && earlier.into_iter().any(|earlier| earlier.pattern == rule.pattern)
        {
            section.problem("rule", format!("{} has two rules; put them together", rule.pattern.as_str()));
        }
    }
    let rules = rules.into_iter().collect::<Option<Vec<Rule>>>().map(|rules| with_default(rules, csrf));
    section.finish();
    Some(SiteSettings {
        site: Site { host: host?, origin: origin?, rules: rules?, ambiguous, trusted_origins: trusted? },
        upstream: upstream?,
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

fn rule(section: &Section<'_, '_>, site_csrf: Csrf) -> Option<Rule> {
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
    let csrf = section.take("csrf").and_then(|f| csrf(&f)).unwrap_or(site_csrf);
    let preflights = [("answer", Preflight::Answer), ("upstream", Preflight::Upstream)];
    let preflight = section.take("preflight").and_then(|f| f.word(&preflights)).unwrap_or(Preflight::Answer);
    let caches = [("private", CacheRule::Private), ("upstream", CacheRule::Upstream)];
    let cache = section.take("cache").and_then(|f| f.word(&caches)).unwrap_or(CacheRule::Private);
    let cookies = [("strip", CookieRule::Strip), ("pass", CookieRule::Pass)];
    let cookies = section.take("cookies").and_then(|f| f.word(&cookies)).unwrap_or(CookieRule::Strip);
    section.finish();
    let access = match (access, require.is_empty()) {
        (None, true) => RuleAccess::Public,
        (None, false) => {
            section.problem("require", "needs a session, and this rule is public; remove one of the two");
            return None;
        }
        (Some(access), _) => RuleAccess::Session(Need { access, require }),
    };
    Some(Rule { name, pattern: pattern?, access, csrf, preflight, cache, cookies })
}

/// The rule for paths that no other names is the site's own: a session is required, with the site's `csrf`.
fn with_default(mut rules: Vec<Rule>, csrf: Csrf) -> Vec<Rule> {
    if !rules.iter().any(|rule| rule.pattern.is_everything()) {
        rules.push(Rule { csrf, ..Rule::new("default", Pattern::everything()) });
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
