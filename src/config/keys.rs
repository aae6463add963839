//! The settings of the keys that access tokens are verified with.
//! In: the keys of `[session.token]`. Out: [`KeySettings`]. Errors: noted problems. I/O: files and environment variables
//! that hold keys.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use url::{Host, Url};

use crate::backend::jwks::{self, JwksPlace, JwksSettings};
use crate::config::read::{Field, Section};
use crate::config::session::web_url;
use crate::config::value;
use crate::session::keys::{
    ALGORITHMS, KeyFault, VerificationKey, looks_like_pem, name_of, read_pem, takes_secret,
};

/// The keys of access tokens.
#[derive(Debug, Default)]
pub(super) struct KeySettings {
    /// The keys at the start.
    pub(super) keys: Vec<VerificationKey>,
    /// Every algorithm that a key may have.
    pub(super) algorithms: Vec<Algorithm>,
    /// Where further keys come from.
    pub(super) jwks: Option<JwksSettings>,
    /// Whether a secret is shorter than it should be.
    pub(super) weak: bool,
    /// Where each key comes from and how it is used, for people. No secret.
    pub(super) shown: Vec<String>,
}

/// Every setting of keys.
pub(super) const SETTINGS: [&str; 6] = ["algorithms", "key", "pem", "jwks_file", "jwks", "jwks_refresh"];

/// The settings that name a source of keys: one of them is used.
const SOURCES: [&str; 4] = ["key", "pem", "jwks_file", "jwks"];

pub(super) fn keys(section: &Section<'_, '_>) -> Option<KeySettings> {
    let algorithms = algorithms(section);
    let [secret, pem, file, url] = SOURCES.map(|key| section.take(key));
    let refresh = section.take("jwks_refresh");
    let given = || [("key", &secret), ("pem", &pem), ("jwks_file", &file), ("jwks", &url)].into_iter();
    let mut named = given().filter_map(|(key, field)| field.as_ref().map(|field| (key, field)));
    let first = named.next();
    for (_, field) in named {
        let first = first.as_ref().map_or("", |(key, _)| key);
        field.problem(format!("is a second source of keys beside {first}; keep one of them"));
    }
    if first.is_none() {
        let what = "is missing; write for example key = \"file:/etc/doorkeep/access.key\" for the secret of HS256, or \
                    where public keys are: pem, jwks_file or jwks";
        section.problem("key", what);
    }
    if let (Some(field), None) = (&refresh, &url) {
        field.problem("is for jwks, which is not set; remove it");
    }
    let refresh = refresh.map_or(Some(jwks::REFRESH), |field| span(&field));
    let (source, field) = first?;
    let algorithms = algorithms?;
    let read = KeySettings { algorithms, ..KeySettings::default() };
    match source {
        "jwks" => from_url(read, field, refresh?),
        "jwks_file" => from_file(read, field),
        _ => from_texts(read, field),
    }
}

fn algorithms(section: &Section<'_, '_>) -> Option<Vec<Algorithm>> {
    let field = section.need("algorithms", "[\"HS256\"]")?;
    let items = field.one_or_many();
    let read: Vec<Algorithm> = items.iter().filter_map(|item| item.word(&ALGORITHMS)).collect();
    if items.is_empty() {
        field.problem("is empty; write for example [\"RS256\"]");
    }
    let secret = read.iter().filter(|algorithm| takes_secret(**algorithm)).count();
    if secret > 1 {
        field.problem("one key is used with one algorithm; name exactly one of HS256, HS384 and HS512");
    }
    if secret > 0 && secret < read.len() {
        field.problem("names algorithms with a secret and with public keys; keep those of one kind");
    }
    let usable = secret == 0 || (secret == 1 && read.len() == 1);
    (usable && !read.is_empty() && read.len() == items.len()).then_some(read)
}

fn span(field: &Field<'_, '_>) -> Option<Duration> {
    let span = value::duration(field)?;
    if span < jwks::SPACING {
        field.problem("is too short; write \"1s\" or more");
        return None;
    }
    Some(span)
}

/// Secrets, or public keys as PEM: the algorithms say which.
fn from_texts(mut read: KeySettings, field: &Field<'_, '_>) -> Option<KeySettings> {
    let items = field.one_or_many();
    if items.is_empty() {
        field.problem("is empty; write a key, or where it is: env:NAME or file:PATH");
    }
    for item in &items {
        let text = value::secret(item)?;
        let key = match (read.algorithms.as_slice(), looks_like_pem(text.expose())) {
            ([one], false) if takes_secret(*one) => {
                read.weak |= text.expose().len() < 32;
                VerificationKey::secret(*one, text.expose().as_bytes())
            }
            ([one, ..], true) if takes_secret(*one) => {
                // Whoever has the public key could sign with it as if it were a secret (RFC 8725 §2.1).
                item.problem(format!(
                    "is PEM, and {} takes a secret; name the algorithm of that key in algorithms",
                    name_of(*one)
                ));
                None
            }
            (_, false) => {
                item.problem("is no PEM; write a public key or certificate that begins with -----BEGIN");
                None
            }
            (listed, true) => match read_pem(text.expose(), listed) {
                Ok(key) => Some(key),
                Err(fault) => {
                    item.problem(format!("{fault}; {}", remedy(&fault)));
                    None
                }
            },
        }?;
        let kind = if takes_secret(key.algorithm()) { "secret" } else { "public key" };
        read.shown.push(format!("{kind} for {} from {}", name_of(key.algorithm()), item.path()));
        read.keys.push(key);
    }
    (!read.keys.is_empty()).then_some(read)
}

const fn remedy(fault: &KeyFault) -> &'static str {
    match fault {
        KeyFault::Unreadable | KeyFault::Empty | KeyFault::Certificate => {
            "write one section BEGIN PUBLIC KEY or BEGIN CERTIFICATE"
        }
        KeyFault::Kind | KeyFault::Use | KeyFault::Secret | KeyFault::OtherKind | KeyFault::TooMany => {
            "use an RSA, P-256, P-384 or Ed25519 key"
        }
        KeyFault::Weak { .. } => "have the issuer make a longer one",
        KeyFault::Private => {
            "keep it with the issuer and write the public one, made with: openssl pkey -pubout"
        }
        KeyFault::NoAlgorithm => "name its algorithm in algorithms",
        KeyFault::Ambiguous => "name exactly one algorithm of its kind in algorithms",
        KeyFault::Several => "write each as an item of the list",
    }
}

fn from_file(mut read: KeySettings, field: &Field<'_, '_>) -> Option<KeySettings> {
    let path = PathBuf::from(field.text()?);
    if !public_only(&read, field) {
        return None;
    }
    let place = JwksPlace::File(path.clone());
    match jwks::read_file(&path, &read.algorithms) {
        Ok(set) => {
            let shown = path.display();
            read.shown.extend(set.keys.iter().map(|key| format!("public key {key} from {shown}")));
            read.shown.extend(set.left_out.iter().map(|left| format!("not used from {shown}: {left}")));
            read.keys = set.keys;
        }
        Err(fault) => {
            field.problem(format!("{}; put a JWK set there", crate::text::with_causes(&fault)));
            return None;
        }
    }
    read.jwks = Some(JwksSettings { place, refresh: jwks::LOOK_EVERY });
    Some(read)
}

fn from_url(mut read: KeySettings, field: &Field<'_, '_>, refresh: Duration) -> Option<KeySettings> {
    let url = web_url(field)?;
    if url.fragment().is_some() {
        field.problem("must have no fragment");
        return None;
    }
    if url.scheme() != "https" && !is_loopback(&url) {
        field
            .problem("is not https: whoever is on the way could put keys of their own there; write https://");
        return None;
    }
    if !public_only(&read, field) {
        return None;
    }
    let mut shown = format!("public keys from {}{}", url.origin().ascii_serialization(), url.path());
    let names: Vec<_> = read.algorithms.iter().map(|algorithm| name_of(*algorithm)).collect();
    let every = humantime::format_duration(refresh);
    write!(shown, ", asked every {every}, for {} (not asked now)", names.join(", ")).ok()?;
    read.shown.push(shown);
    read.jwks = Some(JwksSettings { place: JwksPlace::Url(url), refresh });
    Some(read)
}

fn public_only(read: &KeySettings, field: &Field<'_, '_>) -> bool {
    let secret = read.algorithms.iter().find(|algorithm| takes_secret(**algorithm));
    if let Some(secret) = secret {
        let what = "takes a secret, and none is taken from a key set; write it under key";
        field.problem(format!("{} {what}", name_of(*secret)));
    }
    secret.is_none()
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}
