//! What operators write, and what they are told.

use super::*;

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

#[test]
fn the_shipped_settings_are_usable() {
    let dir = tempfile::tempdir().expect("a folder");
    for name in ["secret", "secret.old", "access.key"] {
        std::fs::write(dir.path().join(name), "0123456789abcdef0123456789abcdef\n").expect("written");
    }
    let certificate =
        rcgen::generate_simple_self_signed(["app.example.com".to_owned()]).expect("a certificate");
    std::fs::write(dir.path().join("site.crt"), certificate.cert.pem()).expect("written");
    std::fs::write(dir.path().join("site.key"), certificate.signing_key.serialize_pem()).expect("written");
    let shipped = include_str!("../../config/directory.toml");
    let here = shipped.replace("/etc/doorkeep", &dir.path().display().to_string());
    let settings = Settings::parse(&here).expect("usable");
    assert_eq!(settings.sites.len(), 1);
    // What is commented out is true as well: every key is one, and every value that is called the default is it.
    let is_setting = |text: &str| {
        let key = text.split(" = ").next().filter(|key| key.len() < text.len());
        text.starts_with("[[")
            || key.is_some_and(|key| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
    };
    let uncomment = |line: &str| match line.strip_prefix("# ") {
        Some(rest) if is_setting(rest) => format!("{rest}\n"),
        Some(_) | None => format!("{line}\n"),
    };
    let uncommented: String = here.lines().map(uncomment).collect();
    let whole = Settings::parse(&uncommented).expect("usable");
    assert_eq!(whole.renew.timeout, settings.renew.timeout);
    assert_eq!(whole.renew.give_up, settings.renew.give_up);
    assert_eq!(whole.renew.attach, settings.renew.attach);
    assert_eq!(whole.session.ahead, settings.session.ahead);
    assert_eq!(whole.session.token.leeway, settings.session.token.leeway);
    let paths = |settings: &Settings| match &settings.backend {
        BackendSettings::Directory { settings, .. } => settings.paths.clone(),
    };
    assert_eq!(paths(&whole), paths(&settings));
    assert!(uncommented.contains("\nstate_dir = ") && uncommented.contains("\nahead = "));
    assert!(whole.listen.https.is_some() && settings.listen.https.is_none());
}

#[test]
fn likely_mistakes_are_told_before_they_hurt() {
    let with = |from: &str, to: &str| problems(&WHOLE.replace(from, to)).join("\n");
    let told = with("the key of the tokens", "/etc/doorkeep/access.key");
    assert!(
        told.contains("session.token.key: looks like a path; write \"file:/etc/doorkeep/access.key\""),
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
