//! The settings of the `oauth2` backend.
//! In: `[backend.oauth2]`. Out: [`BackendSettings::OAuth2`]. Errors: noted problems. I/O: files with secrets.

use std::time::Duration;

use jsonwebtoken::Algorithm;
use url::{Host, Url};

use crate::backend::oauth2::{Assertion, Client, ClientAuth, OAuth2Settings, Rotation, default_answers};
use crate::config::backend::{BackendSettings, InUse, answers};
use crate::config::read::{Field, Section};
use crate::config::session::web_url;
use crate::config::value;

/// Form fields that are not for `extra`: they are set from what is presented and from other settings.
const TAKEN: &[&str] = &[
    "grant_type",
    "refresh_token",
    "scope",
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
    "token",
    "token_type_hint",
];

/// Signatures of assertions (RFC 7518 §3.1, RFC 8037 §3.1).
const ALGORITHMS: &[(&str, Algorithm)] = &[
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Auth {
    Basic,
    Post,
    PrivateKey,
    None,
}

/// Whether endpoints may be asked in the clear.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clear {
    ToThisMachine,
    ToAnywhere,
}

pub(super) fn read(backends: &Section<'_, '_>, in_use: InUse) -> Option<BackendSettings> {
    let section = backends.section("oauth2");
    let clear = match section.take("allow_http").and_then(|f| f.flag()) {
        Some(true) => Clear::ToAnywhere,
        Some(false) | None => Clear::ToThisMachine,
    };
    let token_url = in_use
        .need(&section, "token_url", "\"https://id.example.com/token\"")
        .and_then(|f| endpoint(&f, clear));
    let revocation_url = section.take("revocation_url").and_then(|f| endpoint(&f, clear));
    let introspection_url = section.take("introspection_url").and_then(|f| endpoint(&f, clear));
    let client = client(&section, in_use, token_url.as_ref());
    let scope = section.take("scope").and_then(|f| f.text()).map(str::to_owned);
    let extra = extra(&section);
    let rotation = section.take("rotates").and_then(|f| rotation(&f)).unwrap_or(Rotation::Maybe);
    let connect = section.take("connect").and_then(|f| value::duration(&f)).unwrap_or(Duration::from_secs(3));
    let rows = section.take("answer").map(|f| answers(&f)).unwrap_or_default();
    section.finish();
    let settings = Box::new(OAuth2Settings {
        token_url: token_url?,
        revocation_url,
        introspection_url,
        client: client?,
        scope,
        extra,
        rotation,
        answers: default_answers().after(rows),
    });
    Some(BackendSettings::OAuth2 { settings, connect })
}

/// Tokens and secrets go there, so it is asked by TLS (RFC 6749 §3.2), on this machine also without.
fn endpoint(field: &Field<'_, '_>, clear: Clear) -> Option<Url> {
    let url = web_url(field)?;
    if url.fragment().is_some() {
        field.problem("must have no fragment");
        return None;
    }
    let here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(addr)) => addr.is_loopback(),
        Some(Host::Ipv6(addr)) => addr.is_loopback(),
        None => false,
    };
    if url.scheme() != "https" && !here && clear == Clear::ToThisMachine {
        field.problem(
            "is no https URL: tokens and this gateway's secret would travel readable; \
             set allow_http = true where nobody else is on the way",
        );
        return None;
    }
    Some(url)
}

fn client(section: &Section<'_, '_>, in_use: InUse, token_url: Option<&Url>) -> Option<Client> {
    let id = in_use.need(section, "client_id", "\"gateway\"").and_then(|f| f.text()).map(str::to_owned);
    let kinds = [
        ("client_secret_basic", Auth::Basic),
        ("client_secret_post", Auth::Post),
        ("private_key_jwt", Auth::PrivateKey),
        ("none", Auth::None),
    ];
    let auth = section.take("auth").map_or(Some(Auth::Basic), |f| f.word(&kinds));
    let with_secret = matches!(auth, Some(Auth::Basic | Auth::Post));
    let with_key = auth == Some(Auth::PrivateKey);
    let secret = "client_secret";
    let secret = if with_secret {
        in_use.need(section, secret, "\"file:/etc/doorkeep/client.secret\"").and_then(|f| value::secret(&f))
    } else {
        of_no_use(section, secret, auth);
        None
    };
    let assertion = if with_key {
        assertion(section, in_use, token_url)
    } else {
        for key in ["private_key", "algorithm", "key_id", "assertion_audience"] {
            of_no_use(section, key, auth);
        }
        None
    };
    let auth = match auth? {
        Auth::Basic => ClientAuth::Basic(secret?),
        Auth::Post => ClientAuth::Post(secret?),
        Auth::PrivateKey => ClientAuth::PrivateKey(Box::new(assertion?)),
        Auth::None => ClientAuth::None,
    };
    Some(Client { id: id?, auth })
}

/// A key that the chosen `auth` does not look at was meant for another one.
fn of_no_use(section: &Section<'_, '_>, key: &str, auth: Option<Auth>) {
    if section.take(key).is_some() && auth.is_some() {
        section.problem(key, "is of no use with this auth; remove it, or choose another auth");
    }
}

fn assertion(section: &Section<'_, '_>, in_use: InUse, token_url: Option<&Url>) -> Option<Assertion> {
    let field = in_use.need(section, "private_key", "\"file:/etc/doorkeep/client.pem\"");
    let pem = field.as_ref().and_then(value::secret);
    let algorithm = section.take("algorithm").map_or(Some(Algorithm::RS256), |f| f.word(ALGORITHMS));
    let key_id = section.take("key_id").and_then(|f| f.text()).map(str::to_owned);
    let audience = section.take("assertion_audience").and_then(|f| f.text()).map(str::to_owned);
    let audience = audience.or_else(|| token_url.map(ToString::to_string))?;
    match Assertion::new(algorithm?, &pem?, key_id, audience) {
        Ok(assertion) => Some(assertion),
        Err(unusable) => {
            let what =
                format!("cannot be used ({unusable}); write the PEM file of this client's private key");
            section.problem("private_key", what);
            None
        }
    }
}

fn extra(section: &Section<'_, '_>) -> Vec<(String, String)> {
    let table = section.section("extra");
    let mut fields = Vec::new();
    for (name, field) in table.entries() {
        if TAKEN.contains(&name.as_str()) {
            field.problem("is set by this wire itself; remove it");
        } else {
            fields.extend(field.text().map(|text| (name, text.to_owned())));
        }
    }
    table.finish();
    fields
}

fn rotation(field: &Field<'_, '_>) -> Option<Rotation> {
    if field.is_text() {
        return field.word(&[("maybe", Rotation::Maybe)]);
    }
    field.flag().map(|rotates| if rotates { Rotation::Always } else { Rotation::Never })
}

#[cfg(test)]
mod tests {
    use crate::config::{BackendSettings, ConfigError, Settings, TokenCheck};
    use crate::outcome::Ahead;

    const WHOLE: &str = r#"
[listen]
http = "127.0.0.1:0"
[session]
backend = "oauth2"
[session.token]
algorithms = ["HS256"]
key = "the key of the tokens, long enough for it"
[login]
url = "https://id.example.com/login"
[backend.oauth2]
token_url = "https://id.example.com/token"
client_id = "gateway"
client_secret = "a secret of the client"
[[site]]
host = "app.example.com"
origin = "https://app.example.com"
upstream = ["http://127.0.0.1:8000"]
"#;

    fn told(text: &str) -> String {
        match Settings::parse(text) {
            Ok(_) => String::new(),
            Err(ConfigError::Problems(problems)) => {
                problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
            }
            Err(other) => other.to_string(),
        }
    }

    fn with(from: &str, to: &str) -> String {
        assert!(WHOLE.contains(from));
        told(&WHOLE.replace(from, to))
    }

    #[test]
    fn the_least_that_is_needed_is_enough_and_rotation_is_assumed() {
        let settings = Settings::parse(WHOLE).expect("usable");
        assert_eq!(settings.backend.id(), "oauth2");
        let wire = settings.backend.capabilities();
        assert!(wire.rotates && !wire.needs_session && !wire.needs_access);
        assert_eq!(settings.session.ahead, Ahead::Span(std::time::Duration::from_secs(30)));
        assert!(!format!("{settings:?}").contains("secret of the client"));
        for (written, rotates) in [("true", true), ("false", false), ("\"maybe\"", true)] {
            let text = WHOLE.replace("client_id", &format!("rotates = {written}\nclient_id"));
            let settings = Settings::parse(&text).expect("usable");
            assert_eq!(settings.backend.capabilities().rotates, rotates, "{written}");
        }
        assert!(with("client_id", "rotates = \"perhaps\"\nclient_id").contains("rotates: \"perhaps\""));
        assert!(with("client_id", "rotates = 3\nclient_id").contains("write true or false"));
    }

    #[test]
    fn what_is_missing_is_told_for_the_chosen_backend_only() {
        let told = told("[session]\nbackend = \"oauth2\"");
        for key in ["token_url", "client_id", "client_secret"] {
            assert!(told.contains(&format!("backend.oauth2.{key}: is missing")), "{key} in\n{told}");
        }
        assert!(!told.contains("backend.directory"), "{told}");
        let unused = with("[[site]]", "[backend.directory]\nurl = \"https://x.example\"\nurll = 1\n[[site]]");
        assert!(unused.contains("backend.directory.urll: is no setting"), "{unused}");
    }

    #[test]
    fn endpoints_are_asked_by_tls() {
        for url in ["http://id.example.com/token", "http://10.0.0.1/token", "http://localhost.example.com/"] {
            let told = with("https://id.example.com/token", url);
            assert!(told.contains("backend.oauth2.token_url: is no https URL"), "{url}: {told}");
        }
        for url in
            ["http://127.0.0.1:8080/t", "http://[::1]/t", "http://localhost/t", "http://id.localhost/t?a=b"]
        {
            assert_eq!(with("https://id.example.com/token", url), "");
        }
        let text = WHOLE.replace("https://id.example.com/token\"", "http://id/token\"\nallow_http = true");
        assert_eq!(told(&text), "");
        let told = with("client_id", "revocation_url = \"http://id.example.com/revoke\"\nclient_id");
        assert!(told.contains("revocation_url: is no https URL"), "{told}");
        assert!(with("/token\"", "/token#x\"").contains("must have no fragment"));
    }

    #[test]
    fn each_auth_takes_what_it_needs_and_nothing_else() {
        let secret = "client_secret = \"a secret of the client\"";
        let none = with(secret, "auth = \"none\"");
        assert_eq!(none, "");
        assert!(with("client_id", "auth = \"none\"\nclient_id").contains("client_secret: is of no use"));
        assert_eq!(with("client_id", "auth = \"client_secret_post\"\nclient_id"), "");
        assert!(with("client_id", "key_id = \"k\"\nclient_id").contains("key_id: is of no use"));
        assert!(with(secret, "auth = \"private_key_jwt\"").contains("private_key: is missing"));
        let bad = "auth = \"private_key_jwt\"\nprivate_key = \"no key at all\"";
        let told = with(secret, bad);
        assert!(told.contains("private_key: cannot be used") && !told.contains("no key at all"), "{told}");
        assert!(with("client_id", "auth = \"tls_client_auth\"\nclient_id").contains("is not known here"));
    }

    #[test]
    fn a_private_key_is_tried_before_anything_is_served() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("client.pem");
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        std::fs::write(&path, pair.serialize_pem()).expect("written");
        let secret = "client_secret = \"a secret of the client\"";
        let key = |algorithm: &str| {
            let key = format!("private_key = \"file:{}\"", path.display());
            with(secret, &format!("auth = \"private_key_jwt\"\n{key}\nalgorithm = \"{algorithm}\""))
        };
        assert_eq!(key("ES256"), "");
        for other in ["RS256", "ES384", "EdDSA"] {
            assert!(key(other).contains("private_key: cannot be used"), "{other}: {}", key(other));
        }
    }

    #[test]
    fn extra_fields_are_for_what_this_wire_does_not_set() {
        let extra = |line: &str| with("[[site]]", &format!("[backend.oauth2.extra]\n{line}\n[[site]]"));
        assert_eq!(extra("audience = \"https://api.example.com\""), "");
        assert!(extra("refresh_token = \"x\"").contains("extra.refresh_token: is set by this wire itself"));
    }

    #[test]
    fn what_is_told_of_a_token_can_be_held_against_issuer_and_audience() {
        let keys = "algorithms = [\"HS256\"]\nkey = \"the key of the tokens, long enough for it\"";
        let asked = |lines: &str| {
            let url = "introspection_url = \"https://id.example.com/introspect\"\nclient_id";
            WHOLE.replace("client_id", url).replace(keys, &format!("mode = \"introspect\"\n{lines}"))
        };
        let text = asked("issuer = \"https://id.example.com\"\naudience = [\"app\", \"api\"]");
        let settings = Settings::parse(&text).expect("usable");
        let TokenCheck::Opaque(rules) = &settings.session.token else { panic!("they are asked about") };
        assert_eq!(rules.issuer.as_deref(), Some("https://id.example.com"));
        assert_eq!(rules.audience, ["app", "api"]);
        assert!(told(&asked("audience = []")).contains("audience: is empty: it would check nothing"));
        assert!(told(&asked("expiry = \"expiry\"")).contains("expiry: is about signed tokens"));
        // Others tell neither, and a setting that checks nothing is none.
        let sanic = asked("issuer = \"x\"\naudience = \"x\"")
            .replace("\"oauth2\"", "\"sanic_jwt\"")
            .replace("[[site]]", "[backend.sanic_jwt]\nurl = \"https://api.example.com\"\n[[site]]");
        for key in ["issuer", "audience"] {
            assert!(told(&sanic).contains(&format!("{key}: is about signed tokens")), "{}", told(&sanic));
        }
    }

    #[test]
    fn rows_of_the_settings_come_before_the_table() {
        let row = "[[backend.oauth2.answer]]\nstatus = 400\nmeans = \"refused\"\n[[site]]";
        let settings = Settings::parse(&WHOLE.replace("[[site]]", row)).expect("usable");
        let BackendSettings::OAuth2 { settings, .. } = &settings.backend else { panic!("another backend") };
        assert_eq!(settings.answers.rows()[0].to_string(), "400: refused");
    }
}
