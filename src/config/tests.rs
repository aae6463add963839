//! What operators write, and what they are told.

use std::time::Duration;

use super::*;
use crate::backend::oauth2::ClientAuth;
use crate::backend::sanic_jwt::TokenPlace;
use crate::config::session::TokenCheck;
use crate::sign_in::{Choice, Entry, Rate};

const WHOLE: &str = r#"
secret = "0123456789abcdef0123456789abcdef"
[listen]
http = "127.0.0.1:0"
[session]
backend = "directory"
[session.token]
algorithms = ["HS256"]
key = "the key of the tokens"
[login]
url = "https://id.example.com/login"
[backend.directory]
url = "https://api.example.com"
[[site]]
host = "app.example.com"
origin = "https://app.example.com"
upstream = ["http://127.0.0.1:8000"]
"#;

fn problems(text: &str) -> Vec<String> {
    match Settings::parse(text) {
        Ok(_) => Vec::new(),
        Err(ConfigError::Problems(problems)) => problems.iter().map(ToString::to_string).collect(),
        Err(other) => vec![other.to_string()],
    }
}

#[test]
fn the_least_that_is_needed_is_enough() {
    let settings = Settings::parse(WHOLE).expect("usable");
    assert_eq!(settings.sites.len(), 1);
    assert_eq!(settings.renew.timeout.as_secs(), 5);
    assert_eq!(
        settings.session.ahead,
        crate::outcome::Ahead::Percent(50),
        "a directory's sessions are renewed early"
    );
}

#[test]
fn an_empty_file_tells_everything_that_is_missing() {
    let told = problems("").join("\n");
    for path in
        ["listen.http", "session.backend", "session.token.key", "login.url", "backend.directory.url", "site"]
    {
        assert!(told.contains(&format!("{path}: is missing")), "{path} in\n{told}");
    }
}

#[test]
fn unknown_keys_and_wrong_values_are_told_together_with_their_lines() {
    let text = WHOLE
        .replace("[session.token]", "[session.renew]\ntimeot = \"5s\"\nreplay = \"60\"\n[session.token]")
        .replace("upstream =", "csrf = \"no\"\nupstream =");
    let told = problems(&text);
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(
        told[0].starts_with("line 8: session.renew.timeot: is no setting; did you mean timeout?"),
        "{told:?}"
    );
    assert!(told[1].starts_with("line 9: session.renew.replay: \"60\" is no duration"), "{told:?}");
    assert!(told[2].contains("site[1].csrf: \"no\" is not known here"), "{told:?}");
}

#[test]
fn settings_that_contradict_each_other_are_told() {
    let with = |from: &str, to: &str| problems(&WHOLE.replace(from, to)).join("\n");
    let told = with("[login]", "[session.renew]\ngive_up = \"60s\"\n[login]");
    assert!(told.contains("drain.timeout: is shorter than session.renew.give_up"), "{told}");
    let told = with("[login]", "[session.renew]\ntimeout = \"31s\"\n[login]");
    assert!(told.contains("session.renew.timeout: is longer than give_up"), "{told}");
    let told = with("[session.token]", "[session.cookies]\naccess = \"x\"\nrefresh = \"x\"\n[session.token]");
    assert!(told.contains("the name x is used twice"), "{told}");
    let told = with(
        "[session.token]",
        "[session.cookies]\naccess = \"__Host-x\"\ndomain = \"a.b\"\n[session.token]",
    );
    assert!(told.contains("may have no domain"), "{told}");
    let told = with("algorithms = [\"HS256\"]", "algorithms = [\"HS256\", \"HS512\"]");
    assert!(told.contains("one key is used with one algorithm"), "{told}");
    let rule = "[[site.rule]]\npath = \"/x/*\"\naccess = \"public\"\nrequire = { a = [\"b\"] }\n";
    let told = problems(&format!("{WHOLE}{rule}")).join("\n");
    assert!(told.contains("needs a session, and this rule is public"), "{told}");
    let told =
        problems(&WHOLE.replace("secret = \"0123456789abcdef0123456789abcdef\"", "state_dir = \"/nowhere\""));
    assert!(told.join("\n").contains("secret: is missing"), "{told:?}");
    let told = problems(&format!(
        "{WHOLE}{}",
        WHOLE.split("[[site]]").nth(1).map(|s| format!("[[site]]{s}")).expect("a site")
    ));
    assert!(told.join("\n").contains("is another site's host already"), "{told:?}");
}

#[test]
fn a_backend_that_cannot_be_asked_about_tokens_is_told_before_it_is() {
    let told = problems(&WHOLE.replace("[session.token]", "[session.token]\nmode = \"introspect\""));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("session.token.mode: cannot be \"introspect\": this backend cannot be asked"));
    let told = problems(&WHOLE.replace("[login]", "[session.token.introspect]\nconcurrency = 0\n[login]"));
    assert!(told.iter().any(|t| t.contains("session.token.introspect.concurrency: is 0")), "{told:?}");
}

#[test]
fn secrets_are_read_from_where_they_are_and_never_shown() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("key");
    std::fs::write(&path, "a very secret key of tokens\r\n").expect("written");
    let text = WHOLE.replace("the key of the tokens", &format!("file:{}", path.display()));
    let settings = Settings::parse(&text).expect("usable");
    let shown = format!("{settings:?}");
    assert!(!shown.contains("very secret") && !shown.contains("0123456789abcdef"), "{shown}");
    let told = problems(&WHOLE.replace("the key of the tokens", "env:NO_SUCH_VARIABLE_HERE"));
    assert!(
        told[0].contains("session.token.key: the environment has no variable NO_SUCH_VARIABLE_HERE"),
        "{told:?}"
    );
    let told = problems(&WHOLE.replace("0123456789abcdef0123456789abcdef", "too-short-a-secret"));
    assert!(told[0].contains("shorter than 32 bytes") && !told[0].contains("too-short"), "{told:?}");
    let told = problems(&text.replace(&path.display().to_string(), "/no/such/file"));
    assert!(told[0].contains("/no/such/file cannot be read"), "{told:?}");
}

/// Shipped settings as they are, as they are once every commented line counts, and that text.
/// What is commented out is true as well: every key is one, and every value that is called the default is it.
fn shipped(text: &str) -> (Settings, Settings, String) {
    let dir = tempfile::tempdir().expect("a folder");
    for name in ["secret", "secret.old", "access.key", "client.secret"] {
        std::fs::write(dir.path().join(name), "0123456789abcdef0123456789abcdef\n").expect("written");
    }
    let certificate =
        rcgen::generate_simple_self_signed(["app.example.com".to_owned()]).expect("a certificate");
    std::fs::write(dir.path().join("site.crt"), certificate.cert.pem()).expect("written");
    std::fs::write(dir.path().join("site.key"), certificate.signing_key.serialize_pem()).expect("written");
    let here = text.replace("/etc/doorkeep", &dir.path().display().to_string());
    let settings = Settings::parse(&here).expect("usable");
    let is_setting = |text: &str| {
        let key = text.split(" = ").next().filter(|key| key.len() < text.len());
        text.starts_with('[')
            || key.is_some_and(|key| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
    };
    let uncomment = |line: &str| match line.strip_prefix("# ") {
        Some(rest) if is_setting(rest) => format!("{rest}\n"),
        Some(_) | None => format!("{line}\n"),
    };
    let uncommented: String = here.lines().map(uncomment).collect();
    assert!(uncommented.contains("\nstate_dir = ") && uncommented.contains("\nahead = "));
    (settings, Settings::parse(&uncommented).expect("usable"), uncommented)
}

#[test]
fn the_shipped_settings_are_usable() {
    for text in [
        include_str!("../../config/directory.toml"),
        include_str!("../../config/oauth2.toml"),
        include_str!("../../config/sanic-jwt.toml"),
    ] {
        let (settings, whole, _) = shipped(text);
        assert_eq!(settings.sites.len(), 1);
        // What is commented out is true as well: every key is one, and every value that is called the default is it.
        assert_eq!(whole.renew.timeout, settings.renew.timeout);
        assert_eq!(whole.renew.give_up, settings.renew.give_up);
        assert_eq!(whole.renew.attach, settings.renew.attach);
        assert_eq!(whole.session.ahead, settings.session.ahead);
        assert_eq!(whole.session.token.leeway(), settings.session.token.leeway());
        assert_eq!(whole.session.cookies.refresh_life, settings.session.cookies.refresh_life);
        assert!(whole.listen.https.is_some() && settings.listen.https.is_none());
        match (&whole.backend, &settings.backend) {
            (
                BackendSettings::Directory { settings: whole, .. },
                BackendSettings::Directory { settings, .. },
            ) => assert_eq!(whole.paths, settings.paths),
            (
                BackendSettings::SanicJwt { settings: whole, .. },
                BackendSettings::SanicJwt { settings, .. },
            ) => {
                assert_eq!((&whole.prefix, &whole.members), (&settings.prefix, &settings.members));
                assert!(matches!(whole.tokens, TokenPlace::Cookies { signature: Some(_), .. }));
                assert!(matches!(settings.tokens, TokenPlace::Header { .. }));
            }
            (BackendSettings::OAuth2 { settings: whole, .. }, BackendSettings::OAuth2 { settings, .. }) => {
                assert_eq!(whole.rotation, settings.rotation);
                assert_eq!(whole.answers.rows().len(), settings.answers.rows().len() + 1);
                let basic = |auth: &ClientAuth| matches!(auth, ClientAuth::Basic(_));
                assert!(basic(&whole.client.auth) && basic(&settings.client.auth));
            }
            (_, _) => {
                panic!("another backend")
            }
        }
    }
}

#[test]
fn a_sanic_app_is_told_what_it_lacks() {
    let sanic = WHOLE.replace("backend = \"directory\"", "backend = \"sanic_jwt\"");
    let told = problems(&sanic).join("\n");
    assert!(told.contains("backend.sanic_jwt.url: is missing"), "{told}");
    assert!(!told.contains("backend.directory"), "another backend's table may stay: {told}");
    let with = |lines: &str| {
        let table = format!("[backend.sanic_jwt]\nurl = \"https://api.example.com\"\n{lines}\n[[site]]");
        problems(&sanic.replace("[[site]]", &table)).join("\n")
    };
    assert_eq!(with(""), "");
    assert_eq!(with("prefix = \"\"\nscheme = \"\""), "");
    for (lines, told) in [
        ("prefix = \"auth\"", "prefix: is no path"),
        ("sign_out_path = \"/x?y\"", "sign_out_path: is no path"),
        ("header = \"cookie\"", "header: is no header for a token"),
        ("scheme = \"a b\"", "scheme: is one word"),
        ("cookies = { access = \"x\" }", "cookies: are looked for where tokens = \"cookies\""),
        ("tokens = \"cookies\"\ncookies = { access = \"a b\" }", "cookies.access: is no cookie name"),
        ("tokens = \"query\"", "tokens: \"query\" is not known here"),
        ("urll = \"x\"", "urll: is no setting; did you mean url?"),
    ] {
        assert!(with(lines).contains(told), "{lines}: {}", with(lines));
    }
    let settings = Settings::parse(&sanic.replace("backend.directory", "backend.sanic_jwt")).expect("usable");
    let TokenCheck::Signed(rules) = &settings.session.token else { panic!("its tokens are signed") };
    assert_eq!(rules.subject, "user_id");
    assert_eq!(settings.session.cookies.names.session, None, "the app's own session cookie stays the app's");
    assert_eq!(settings.session.ahead, crate::outcome::Ahead::Span(Duration::from_secs(30)));
}

#[test]
fn the_shipped_settings_for_egov_user_are_usable() {
    let (settings, whole, uncommented) = shipped(include_str!("../../config/egov-user.toml"));
    let wire = |settings: &Settings| match &settings.backend {
        BackendSettings::EgovUser { settings, .. } => (settings.paths.clone(), settings.client_id.clone()),
        BackendSettings::Directory { .. }
        | BackendSettings::OAuth2 { .. }
        | BackendSettings::SanicJwt { .. } => {
            panic!("an egov-user")
        }
    };
    assert_eq!(wire(&whole), wire(&settings));
    let rules = |settings: &Settings| match &settings.session.token {
        TokenCheck::Opaque(rules) => rules.clone(),
        TokenCheck::Signed(_) => panic!("opaque tokens"),
    };
    assert_eq!(rules(&whole), rules(&settings));
    assert_eq!(settings.session.cookies.names.session, None, "no session has an id there");
    assert!(uncommented.contains("\nstate_dir = ") && uncommented.contains("\ncache = "));
    let sites = |settings: &Settings| settings.sites[0].site.rules[0].renew_on_401;
    assert_eq!(sites(&settings), crate::route::RenewOn401::No, "the app never sees the token");
    assert_eq!(sites(&whole), crate::route::RenewOn401::Yes);
    let jwt = include_str!("../../config/egov-user.toml")
        .replace("[session.token.introspect]", "[session.token]\nmode = \"jwt\"");
    assert!(problems(&jwt).iter().any(|t| t.contains("session.token.mode: cannot be \"jwt\"")));
}

#[test]
fn likely_mistakes_are_told_before_they_hurt() {
    let with = |from: &str, to: &str| problems(&WHOLE.replace(from, to)).join("\n");
    let told = with("the key of the tokens", "/etc/doorkeep/access.key");
    assert!(
        told.contains("session.token.key: looks like a path; write \"file:\" before it")
            && !told.contains("access.key"),
        "{told}"
    );
    let told = with("[session.token]", "[session.cookies]\ndomain = \"other.org\"\n[session.token]");
    assert!(told.contains("session.cookies.domain: does not cover app.example.com"), "{told}");
    let told = with("[session.token]", "[session.cookies]\ndomain = \"ample.com\"\n[session.token]");
    assert!(told.contains("does not cover"), "a label is whole: {told}");
    let told = with("http = \"127.0.0.1:0\"", "http = \"127.0.0.1:80\"\nadmin = \"127.0.0.1:80\"");
    assert!(told.contains("listen.admin: is the address of http already"), "{told}");
    let rule = "[[site.rule]]\npath = \"/x/*\"\n";
    let told = problems(&format!("{WHOLE}{rule}{rule}")).join("\n");
    assert!(told.contains("/x/* has two rules"), "{told}");
    let cookies = "[session.cookies]\nsecure = false\nsame_site = \"none\"\n[session.token]";
    assert!(with("[session.token]", cookies).contains("from secure cookies only"));
}

#[test]
fn advice_is_given_with_its_place() {
    let text = WHOLE.replace("[session.token]", "[session.cookies]\nsecure = false\n[session.token]");
    let text = text.replace("https://app.example.com", "https://www.example.com");
    let advice = Settings::parse(&text).expect("usable").advice;
    let told: Vec<String> = advice.iter().map(ToString::to_string).collect();
    assert!(told.iter().any(|t| t.starts_with("line 8: session.cookies.secure: is off")), "{told:?}");
    assert!(told.iter().any(|t| t.contains("session.token.key: is shorter than 32 bytes")), "{told:?}");
    assert!(told.iter().any(|t| t.contains("site.host: app.example.com is not the host")), "{told:?}");
    assert!(!told.join("").contains("the key of the tokens"));
}

#[test]
fn hostile_text_is_a_problem_and_no_panic() {
    for text in
        ["\u{0}", "[", "[[site]]\nhost=1", "site = 3", "session = []", "a.b.c = {}", "[listen]\nhttp = {}"]
    {
        assert!(!problems(text).is_empty(), "{text:?}");
    }
}

/// The settings with these lines for keys.
fn with_keys(lines: &str) -> String {
    WHOLE.replace("algorithms = [\"HS256\"]\nkey = \"the key of the tokens\"", lines)
}

fn public_pem() -> String {
    use rcgen::PublicKeyData as _;
    let key = rcgen::KeyPair::generate().expect("a key");
    assert_eq!(key.subject_public_key_info().len(), 91, "P-256");
    key.public_key_pem()
}

#[test]
fn there_is_one_source_of_keys() {
    let told = problems(&with_keys("algorithms = [\"HS256\"]"));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("session.token.key: is missing; write for example key = "), "{told:?}");
    let told = problems(&with_keys(
        "algorithms = [\"RS256\"]\npem = \"x\"\njwks = \"https://a.example\"\njwks_file = \"/f\"",
    ));
    assert!(told.contains(
        &"line 10: session.token.jwks: is a second source of keys beside pem; keep one of them".into()
    ));
    assert!(
        told.iter().any(|t| t.starts_with("line 11: session.token.jwks_file: is a second source")),
        "{told:?}"
    );
    let told = problems(&with_keys("algorithms = [\"HS256\"]\nkey = \"k\"\njwks_refresh = \"5m\""));
    assert_eq!(told, ["line 10: session.token.jwks_refresh: is for jwks, which is not set; remove it"]);
}

#[test]
fn algorithms_are_of_one_kind() {
    let told = |list: &str| problems(&with_keys(&format!("algorithms = {list}\nkey = \"k\""))).join("\n");
    assert!(told("[\"HS256\", \"RS256\"]").contains("with a secret and with public keys"));
    assert!(told("[\"none\"]").contains("\"none\" is not known here; write \"HS256\" or"));
    assert!(told("[]").contains("session.token.algorithms: is empty; write for example"));
    assert!(told("[\"RS256\"]").contains("session.token.key: is no PEM; write a public key or certificate"));
}

#[test]
fn a_public_key_is_no_secret_and_a_private_one_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let (public, private) = (dir.path().join("public.pem"), dir.path().join("private.pem"));
    std::fs::write(&public, public_pem()).expect("written");
    std::fs::write(&private, rcgen::KeyPair::generate().expect("a key").serialize_pem()).expect("written");
    let with = |algorithm: &str, key: &str, path: &std::path::Path| {
        with_keys(&format!("algorithms = \"{algorithm}\"\n{key} = [\"file:{}\"]", path.display()))
    };
    for key in ["key", "pem"] {
        let settings = Settings::parse(&with("ES256", key, &public)).expect("usable");
        assert_eq!(
            settings.session.keys_shown,
            [format!("public key for ES256 from session.token.{key}[1]")]
        );
        assert!(settings.advice.iter().all(|advice| !advice.to_string().contains("shorter")));
        let told = problems(&with("HS256", key, &public)).join("\n");
        assert!(told.contains("is PEM, and HS256 takes a secret; name the algorithm of that key"), "{told}");
        let told = problems(&with("RS256", key, &public)).join("\n");
        assert!(told.contains("no listed algorithm is for it; name its algorithm in algorithms"), "{told}");
        let told = problems(&with("ES256", key, &private)).join("\n");
        assert!(told.contains("its private part is with it"), "{told}");
        assert!(!told.contains("BEGIN PRIVATE"), "{told}");
    }
}

#[test]
fn secrets_can_be_changed_one_after_the_other() {
    let settings =
        Settings::parse(&with_keys("algorithms = [\"HS512\"]\nkey = [\"new secret\", \"old secret\"]"))
            .expect("usable");
    let shown = settings.session.keys_shown.join("\n");
    assert_eq!(
        shown,
        "secret for HS512 from session.token.key[1]\nsecret for HS512 from session.token.key[2]"
    );
}

#[test]
fn keys_come_over_a_way_that_nobody_else_can_write_to() {
    let told =
        |url: &str| problems(&with_keys(&format!("algorithms = \"RS256\"\njwks = \"{url}\""))).join("\n");
    for good in [
        "https://id.example/certs?p=1",
        "http://127.0.0.1:8/",
        "http://127.9.9.9/",
        "http://[::1]:8/x",
        "http://localhost/x",
    ] {
        assert_eq!(told(good), "", "{good}");
    }
    for bad in ["http://id.example/certs", "http://localhost.example/", "http://10.0.0.1/", "http://[::2]/"] {
        assert!(told(bad).contains("session.token.jwks: is not https"), "{bad}");
    }
    for bad in ["{\\\"keys\\\": []}", "file:/x", "/etc/x", "https://u:p@id.example/", ""] {
        assert!(told(bad).contains("is no URL to use here"), "{bad}: {}", told(bad));
    }
    assert!(!told("https://u:hunter2@id.example/").contains("hunter2"));
    assert!(told("https://id.example/#x").contains("must have no fragment"));
    let lines = "algorithms = \"HS256\"\njwks = \"https://id.example/\"";
    assert!(
        problems(&with_keys(lines))
            .join("")
            .contains("HS256 takes a secret, and none is taken from a key set")
    );
    let lines = "algorithms = \"RS256\"\njwks = \"https://id.example/\"\njwks_refresh = \"100ms\"";
    assert!(
        problems(&with_keys(lines)).join("").contains("jwks_refresh: is too short; write \"1s\" or more")
    );
    let lines = "algorithms = [\"RS256\", \"ES256\"]\njwks = \"https://id.example/certs?key=hunter2\"";
    let shown = Settings::parse(&with_keys(lines)).expect("usable").session.keys_shown.join("\n");
    assert_eq!(
        shown,
        "public keys from https://id.example/certs, asked every 10m, for RS256, ES256 (not asked now)"
    );
}

#[test]
fn a_file_of_keys_is_read_and_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("keys.json");
    let settings = with_keys(&format!("algorithms = \"EdDSA\"\njwks_file = \"{}\"", path.display()));
    let told = || problems(&settings).join("\n");
    assert!(told().contains("cannot be read: "), "{}", told());
    std::fs::write(&path, "{").expect("written");
    assert!(told().contains("the key set is no JSON"), "{}", told());
    std::fs::write(&path, r#"{"keys": [{"kty": "oct", "k": "AAAA"}]}"#).expect("written");
    assert!(told().contains("it holds no key that can be used"), "{}", told());
    std::fs::write(&path, " ".repeat(100_000)).expect("written");
    assert!(told().contains("larger than 65536 bytes"), "{}", told());
    // The key of RFC 8037 §A.2.
    let key = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"1"}"#;
    std::fs::write(&path, format!(r#"{{"keys": [{key}, {{"kty":"oct","kid":"2"}}]}}"#)).expect("written");
    let shown = Settings::parse(&settings).expect("usable").session.keys_shown;
    assert!(shown[0].starts_with("public key EdDSA \"1\" from "), "{shown:?}");
    assert!(shown[1].contains("not used from") && shown[1].contains("\"2\": it is a secret"), "{shown:?}");
}

#[test]
fn what_the_backend_is_asked_at_a_time_is_read_and_its_mistakes_are_told() {
    let with = |lines: &str| WHOLE.replace("[login]", &format!("[session.renew]\n{lines}\n[login]"));
    let lines = "concurrency = 8\nqueue = 100\nstrangers = { burst = 5, per_second = 1 }\n\
                 breaker = { faults = 0, pause = \"2s\", retry_after = \"0s\" }";
    let rules = Settings::parse(&with(lines)).expect("usable").renew.admission;
    assert_eq!((rules.concurrency, rules.queue), (8, 100));
    assert_eq!((rules.strangers.burst, rules.strangers.per_second), (5, 1));
    assert_eq!((rules.breaker.faults, rules.breaker.pause.as_secs()), (0, 2));
    let lines = "concurrency = 0\nqueue = 0\nstrangers = { bursts = 5 }\nbreaker = { pause = \"3s\" }";
    let told = problems(&with(lines)).join("\n");
    for path in ["concurrency", "queue", "strangers.bursts", "breaker.pause"] {
        assert!(told.contains(&format!("session.renew.{path}: ")), "{path} in\n{told}");
    }
}

#[test]
fn a_public_rule_serves_no_stale_sessions() {
    let rule = |access: &str| {
        format!(
            "{WHOLE}[[site.rule]]\npath = \"/x/*\"\naccess = \"{access}\"\nstale_while_unavailable = \"10m\""
        )
    };
    assert_eq!(problems(&rule("required")), Vec::<String>::new());
    let told = problems(&rule("public")).join("\n");
    assert!(told.contains("stale_while_unavailable: is about sessions"), "{told}");
}

#[test]
fn no_session_is_served_past_its_end_for_longer_than_a_refusal_is_remembered() {
    let rule = |span: &str| {
        problems(&format!("{WHOLE}[[site.rule]]\npath = \"/x/*\"\nstale_while_unavailable = \"{span}\""))
    };
    assert_eq!(rule("600s"), Vec::<String>::new());
    for span in ["601s", "1h", "30days"] {
        let told = rule(span).join("\n");
        assert!(told.contains("site[1].rule[1].stale_while_unavailable: is longer than \"10m\""), "{told}");
    }
}

#[test]
fn settings_that_would_check_nothing_are_told() {
    let token =
        |lines: &str| problems(&WHOLE.replace("[session.token]", &format!("[session.token]\n{lines}")));
    assert_eq!(token("audience = [\"app\"]"), Vec::<String>::new());
    assert_eq!(token("audience = \"app\""), Vec::<String>::new());
    let told = token("audience = []");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("session.token.audience: is empty: it would check nothing"), "{told:?}");
    let told = problems(&WHOLE.replace("[login]", "[session.token.introspect]\ncache = \"1s\"\n[login]"));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("session.token.introspect: is about tokens that are asked about"), "{told:?}");
}

#[test]
fn an_answer_has_a_status_that_there_is() {
    let row = |status: &str| {
        let row = format!(
            "[[backend.directory.answer]]\nstatus = {status}\nmember = \"a\"\ntext = \"b\"\nmeans = \"refused\"\n[[site]]"
        );
        problems(&WHOLE.replace("[[site]]", &row))
    };
    for status in ["100", "409", "599"] {
        assert_eq!(row(status), Vec::<String>::new(), "{status}");
    }
    for status in ["0", "99", "600", "70000", "99999999999"] {
        let told = row(status);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("backend.directory.answer[1].status: is no status of HTTP"), "{told:?}");
    }
    let alone = WHOLE
        .replace("[[site]]", "[[backend.directory.answer]]\nstatus = 700\nmeans = \"refused\"\n[[site]]");
    assert_eq!(problems(&alone).len(), 1, "{:?}", problems(&alone));
}

#[test]
fn a_mistyped_level_is_told_before_it_switches_the_log_off() {
    let level =
        |text: &str| problems(&WHOLE.replace("[login]", &format!("[log]\nlevel = \"{text}\"\n[login]")));
    for good in ["off", "error", "warn", "info", "debug", "trace", "info,access=off", "doorkeep=debug,warn"] {
        assert_eq!(level(good), Vec::<String>::new(), "{good}");
    }
    for bad in ["warning", "inof", "", "info,", "info,acess", "info,access=of", "a=off, warn"] {
        let told = level(bad);
        assert_eq!(told.len(), 1, "{bad}: {told:?}");
        assert!(told[0].contains("log.level: "), "{told:?}");
        assert!(told[0].contains("off, error, warn, info, debug or trace"), "{told:?}");
    }
}

fn with_login(lines: &str) -> String {
    WHOLE.replace("url = \"https://id.example.com/login\"", lines)
}

#[test]
fn people_may_sign_in_here_with_what_the_backend_asks_for() {
    let settings = Settings::parse(&with_login("mode = \"form\"")).expect("usable");
    assert!(
        matches!(settings.login, LoginSettings::Form) && settings.form.is_some_and(|f| f.fields.is_empty())
    );
    let settings = Settings::parse(WHOLE).expect("usable");
    assert!(matches!(settings.login, LoginSettings::Redirect { .. }) && settings.form.is_none());
    let app = |lines: &str| {
        let table = "[backend.sanic_jwt]\nurl = \"https://api.example.com\"\n[[site]]";
        with_login(lines)
            .replace("backend = \"directory\"", "backend = \"sanic_jwt\"")
            .replace("[[site]]", table)
    };
    let lines = "mode = \"form\"\nlimit = { client = \"5 per 30s\", user = \"2 per 1h\" }\n\
        field = [{ name = \"tenantId\", value = \"pb\" }, { name = \"city\", label = \"City\" },\n\
        { name = \"userType\", label = \"As\", option = [{ value = \"A\", label = \"Ann\" }, { value = \"B\" }] }]";
    let form = Settings::parse(&app(lines)).expect("usable").form.expect("a form");
    assert_eq!(Some(form.per_client), Rate::new(5, Duration::from_secs(30)));
    assert_eq!(Some(form.per_user), Rate::new(2, Duration::from_secs(3600)));
    let choice = |value: &str, label: &str| Choice { value: value.into(), label: label.into() };
    let entries: Vec<Entry> = form.fields.into_iter().map(|field| field.entry).collect();
    assert_eq!(
        entries,
        [
            Entry::Fixed("pb".into()),
            Entry::Typed { label: "City".into(), preset: String::new() },
            Entry::Chosen { label: "As".into(), choices: vec![choice("A", "Ann"), choice("B", "B")] },
        ]
    );
}

#[test]
fn a_field_that_the_backend_is_never_sent_is_told() {
    let of = |backend: &str, more: &str, fields: &str| {
        let table = format!("[backend.{backend}]\nurl = \"https://api.example.com\"\n{more}\n");
        let text = with_login(&format!("mode = \"form\"\nfield = [{fields}]"))
            .replace("backend = \"directory\"", &format!("backend = \"{backend}\""))
            .replace("[backend.directory]\nurl = \"https://api.example.com\"\n", &table);
        // An egov-user's tokens are asked about.
        let key = "algorithms = [\"HS256\"]\nkey = \"the key of the tokens\"\n";
        problems(&if backend == "egov_user" { text.replace(key, "") } else { text }).join("\n")
    };
    let field = |name: &str| format!("{{ name = \"{name}\", label = \"X\" }},");
    assert_eq!(of("directory", "", ""), "");
    let told = of("directory", "", &field("tenant"));
    assert!(told.contains("login.field[1].name: tenant is never sent: a sign-in at directory"), "{told}");
    let both = field("tenantId") + &field("userType");
    assert_eq!(of("egov_user", "", &both), "");
    let told = of("egov_user", "", &(both + &field("city")));
    assert!(told.contains("login.field[3].name: city is never sent: a sign-in at egov_user"), "{told}");
    assert!(told.contains("tenantId, userType"), "{told}");
    assert_eq!(of("sanic_jwt", "", &field("city")), "");
    let told = of("sanic_jwt", "members = { user = \"login\" }", &field("login"));
    assert!(
        told.contains("login.field[1].name: login is what the user's name or the password is sent as"),
        "{told}"
    );
    assert_eq!(of("sanic_jwt", "members = { user = \"login\" }", &field("username")), "");
}

#[test]
fn an_egov_user_signs_nobody_in_without_tenant_and_kind_of_user() {
    let egov = |more: &str, fields: &str| {
        let text = with_login(&format!("mode = \"form\"\nfield = [{fields}]"))
            .replace("\"directory\"", "\"egov_user\"")
            .replace("algorithms = [\"HS256\"]\nkey = \"the key of the tokens\"\n", "")
            .replace("[backend.directory]\n", &format!("[backend.egov_user]\n{more}\n"));
        problems(&text).join("\n")
    };
    let told = egov("", "");
    assert!(told.contains("login.field: lacks tenantId"), "{told}");
    assert!(told.contains("login.field: lacks userType"), "{told}");
    let told = egov("tenant = \"pb\"", "");
    assert!(!told.contains("tenantId") && told.contains("lacks userType"), "{told}");
    assert_eq!(egov("tenant = \"pb\"", "{ name = \"userType\", value = \"CITIZEN\" }"), "");
    assert_eq!(egov("tenant = \"pb\"\nuser_type = \"CITIZEN\"", ""), "");
}

#[test]
fn what_does_not_fit_a_login_is_told() {
    for (lines, wanted) in [
        ("mode = \"from\"", "login.mode: \"from\" is not known here; write \"redirect\" or \"form\""),
        ("mode = \"form\"\nurl = \"https://a.b\"", "login.url: is for mode = \"redirect\""),
        ("mode = \"form\"\nparameter = \"x\"", "login.parameter: is for mode = \"redirect\""),
        ("url = \"https://a.b\"\ntemplate = \"x.html\"", "login.template: is for mode = \"form\""),
        ("url = \"https://a.b\"\nlimit = {}", "login.limit: is for mode = \"form\""),
        ("mode = \"form\"\nlimit = { client = \"10\" }", "login.limit.client: \"10\" is no rate; write"),
        ("mode = \"form\"\nlimit = { user = \"0 per 1m\" }", "login.limit.user: \"0 per 1m\" is no rate"),
        (
            "mode = \"form\"\nlimit = { users = \"1 per 1m\" }",
            "login.limit.users: is no setting; did you mean user?",
        ),
        ("mode = \"form\"\nfield = [{ label = \"x\" }]", "login.field[1].name: is missing"),
        ("mode = \"form\"\nfield = [{ name = \"x\" }]", "login.field[1].label: is missing: write label"),
        ("mode = \"form\"\nfield = [{ name = \"x\", value = \"\" }]", "login.field[1].value: must be a text"),
        (
            "mode = \"form\"\nfield = [{ name = \"x\", value = \"a\" }, { name = \"x\", value = \"b\" }]",
            "x is there twice",
        ),
        (
            "mode = \"form\"\nfield = [{ name = \"x\", label = \"X\", option = [] }]",
            "option: offers nothing to choose",
        ),
        (
            "mode = \"form\"\nfield = [{ name = \"x\", label = \"X\", value = \"a\", option = [{ value = \"a\" }] }]",
            "login.field[1].value: and option contradict each other",
        ),
        ("mode = \"form\"\ntemplate = \"/no/such/file\"", "login.template: /no/such/file cannot be read"),
    ] {
        let told = problems(&with_login(lines)).join("\n");
        assert!(told.contains(wanted), "{lines}:\n{told}");
    }
    assert!(problems(&with_login("")).join("\n").contains("login.url: is missing"));
}

#[test]
fn a_page_that_nobody_could_sign_in_at_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("page.html");
    let html = "{{alert}}<form method=\"post\" action=\"{{action}}\"><input name=\"form\" value=\"{{form}}\">\
        <input name=\"user\"><input name=\"password\"></form>";
    let lines = format!("mode = \"form\"\ntemplate = \"file:{}\"", path.display());
    let told = |html: &str, lines: &str| {
        std::fs::write(&path, html).expect("written");
        problems(&with_login(lines)).join("\n")
    };
    assert_eq!(told(html, &lines), "");
    let without = told(&html.replace("{{form}}", "{{from}}"), &lines);
    assert!(
        without.contains("{{from}} is no place; there are ") && without.contains("{{form}} is missing"),
        "{without}"
    );
    let shown = format!("{lines}\nfield = [{{ name = \"x\", label = \"X\" }}]");
    assert!(told(html, &shown).contains("login.template: has no {{fields}}"));
    assert!(told(&"x".repeat(300 * 1024), &lines).contains("is larger than 256 KiB"));
    std::fs::write(&path, b"\xff\xfe").expect("written");
    assert!(problems(&with_login(&lines)).join("\n").contains("cannot be read"));
}

#[test]
fn limits_of_http2_that_its_rules_forbid_are_told() {
    let with = |keys: &str| {
        WHOLE.replace("http = \"127.0.0.1:0\"", &format!("http = \"127.0.0.1:0\"\n[listen.http2]\n{keys}"))
    };
    let told = problems(&with("frame = \"1KiB\"\nstreams = 0\nstream_window = \"4GiB\"")).join("\n");
    for key in ["frame: must be from", "streams: must be at least 1", "stream_window: is too large"] {
        assert!(told.contains(&format!("listen.http2.{key}")), "{key} in\n{told}");
    }
    let off = Settings::parse(&with("enabled = false")).expect("usable");
    assert!(off.listen.limits.http2.is_none());
    let except = WHOLE.replace("http = \"127.0.0.1:0\"", "http = \"127.0.0.1:0\"\nredirect_except = [\"x\"]");
    assert!(problems(&except).join("\n").contains("listen.redirect_except: lists beginnings of paths"));
}

#[test]
fn certificates_of_clients_need_an_authority_and_a_listener() {
    let told =
        problems(&WHOLE.replace("[session]\n", "[listen.client]\ncertificate = \"required\"\n[session]\n"));
    assert!(told.join("\n").contains("listen.client.ca: is missing"), "{told:?}");
    let with = "[listen.client]\nca = \"/no/such/file\"\n[session]\n";
    let told = problems(&WHOLE.replace("[session]\n", with));
    assert!(told.join("\n").contains("listen.client.certificate: is missing"), "{told:?}");
    let with = "[listen.client]\ncertificate = \"optional\"\nca = \"/no/such/file\"\n[session]\n";
    let told = problems(&WHOLE.replace("[session]\n", with));
    assert!(told.join("\n").contains("/no/such/file"), "{told:?}");
    let with = "[identity.client]\nsubject = \"X-Client\"\nnames = \"host\"\n[login]";
    let told = problems(&WHOLE.replace("[login]", with)).join("\n");
    assert!(told.contains("identity.client.names: is no name for an identity header"), "{told}");
    let with = "[identity.client]\nsubject = \"X-Client\"\nnames = \"x_client\"\n[login]";
    let told = problems(&WHOLE.replace("[login]", with)).join("\n");
    assert!(told.contains("identity.client.names: is no name for an identity header of its own"), "{told}");
    let told =
        problems(&WHOLE.replace("[login]", "[identity.client]\nsubject = \"X-Client\"\n[login]")).join("\n");
    assert!(told.contains("identity.client.subject: is never filled"), "{told}");
}
