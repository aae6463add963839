//! What hostile clients send, against every reader of paths and URLs that an upstream or a browser might be.

use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method, Uri};
use proptest::prelude::*;
use url::Url;

use crate::need::{Access, Need, Require};
use crate::route::{
    Ambiguous, Csrf, NoRoute, Origin, Pattern, Routes, Rule, RuleAccess, Site, Target, referer_page,
    return_target,
};

/// One habit of a reader.
type Habit = fn(&[u8]) -> Vec<u8>;

const HABITS: [Habit; 12] = [
    decode,
    decode,
    |path| lossy(path).replace('\\', "/").into_bytes(),
    |path| {
        let mut path = path.to_vec();
        path.dedup_by(|a, b| *a == b'/' && *b == b'/');
        path
    },
    |path| {
        let mut kept: Vec<&[u8]> = vec![];
        for segment in path.split(|b| *b == b'/').skip(1) {
            match segment {
                b"." => {}
                b".." => drop(kept.pop()),
                other => kept.push(other),
            }
        }
        [b"/", kept.join(&b'/').as_slice()].concat()
    },
    |path| each_segment(path, |s| cut(s, b';')),
    |path| cut(path, b';').to_vec(),
    |path| cut(cut(path, b'#'), b'?').to_vec(),
    |path| cut(path, 0).to_vec(),
    |path| lossy(path).to_lowercase().into_bytes(),
    |path| each_segment(path, |s| s.trim_ascii_end().strip_suffix(b".").unwrap_or(s).trim_ascii_end()),
    |path| match path {
        [kept @ .., b'/'] if !kept.is_empty() => kept.to_vec(),
        path => path.to_vec(),
    },
];

#[rustfmt::skip]
const TOKENS: [&str; 60] = [
    "/", "/", "/", "/", "admin", "admin", "pub", "pub", "api", "x", "ADMIN", "Pub", "a", "%61dmin",
    "%70ub", "%41pi", "%2f", "%2F", "%5c", "\\", "//", "/./", "/../", "..", ".", "%2e", "%2e%2E", ".%2e",
    "%252e", "%252f", "%25", ";", ";a=b", "%3b", "%00", "%23", "%3f", "%20", "%09", "%0a", "%", "%2",
    "%u002f", "%u0061dmin", "%25u002f", "%c0%af", "%c0%ae", "%e9", "%C3%BC", "\u{fc}", "~", "%7E", ":", "*",
    "&", "=", "+", "%25%32%66", "%%32%66", "%252561",
];

const PATHS: [&str; 12] = [
    "/admin",
    "/pub/admin",
    "/api/admin",
    "/api/x",
    "/admin/a",
    "/x",
    "/x/pub",
    "/pub/a",
    "/pub/admin/a",
    "/api/admin/a",
    "/api/x/a",
    "/pub/../admin/a",
];

#[rustfmt::skip]
const RETURNS: [&str; 44] = [
    "/", "/", "//", "\\", "a", "..", ".", "%2e", "%2f", "%5c", "?", "#", "@", ":", ";", " ", "\t", "\n",
    "\r", "\0", "\u{7f}", "\u{85}", "\u{2028}", "\u{feff}", "\u{ff0f}", "\u{3002}", "\u{ad}", "https:",
    "http:", "HTTPS://", "https://a.example", "https://b.example:8443", "a.example", "evil.example",
    "u:p@", "javascript:", "data:", "%09", "%00", "[::1]", ":8443", "\u{fc}", "blob:", "//evil.example",
];

fn lossy(path: &[u8]) -> String {
    // Latin-1, so that no byte is lost.
    path.iter().map(|b| char::from(*b)).collect()
}

fn cut(bytes: &[u8], at: u8) -> &[u8] {
    bytes.split(|b| *b == at).next().unwrap_or_default()
}

fn each_segment(path: &[u8], f: fn(&[u8]) -> &[u8]) -> Vec<u8> {
    path.split(|b| *b == b'/').map(f).collect::<Vec<_>>().join(&b'/')
}

/// `%XX` and `%uXXXX`; overlong UTF-8 becomes what it stands for.
fn decode(path: &[u8]) -> Vec<u8> {
    let hex = |at: usize, len: usize| {
        let digits = std::str::from_utf8(path.get(at..at + len)?).ok()?;
        u8::from_str_radix(digits.strip_prefix("00").unwrap_or(digits), 16).ok()
    };
    let mut out = vec![];
    let mut at = 0;
    while at < path.len() {
        let wide = path[at..].starts_with(b"%u");
        let (byte, len) = match (path[at], wide) {
            (b'%', true) => hex(at + 2, 4).map_or((b'%', 1), |b| (b, 6)),
            (b'%', false) => hex(at + 1, 2).map_or((b'%', 1), |b| (b, 3)),
            (byte, _) => (byte, 1),
        };
        match (out.last(), byte) {
            (Some(0xc0), 0x80..=0xbf) => *out.last_mut().expect("a byte") = byte & 0x3f,
            _ => out.push(byte),
        }
        at += len;
    }
    out
}

fn rule(path: &str, access: RuleAccess) -> Rule {
    Rule { access, ..Rule::new(path, Pattern::parse(path).expect(path)) }
}

fn session(access: Access, claims: &[&str]) -> RuleAccess {
    let claims = claims.iter().map(|claim| ((*claim).to_owned(), vec!["yes".to_owned()])).collect();
    RuleAccess::Session(Need { access, require: Require::new(claims), ..Need::default() })
}

fn origin(text: &str) -> Origin {
    Origin::parse(text).expect(text)
}

fn site(ambiguous: Ambiguous, rules: Vec<Rule>) -> Site {
    Site {
        host: "a.example".into(),
        origin: origin("https://a.example"),
        rules,
        ambiguous,
        trusted_origins: vec![origin("https://b.example:8443")],
    }
}

fn rule_sets() -> Vec<Vec<Rule>> {
    let admin = || session(Access::Required, &["admin"]);
    vec![
        vec![
            rule("/*", RuleAccess::Public),
            rule("/admin/*", admin()),
            rule("/x", session(Access::Required, &[])),
        ],
        vec![
            rule("/pub/*", RuleAccess::Public),
            rule("/pub/admin/*", session(Access::Required, &[])),
            rule("/x/pub", RuleAccess::Public),
        ],
        vec![
            rule("/api/*", session(Access::Optional, &[])),
            rule("/api/admin/*", admin()),
            rule("/api/x/*", session(Access::Required, &["x"])),
            rule("/pub", RuleAccess::Public),
        ],
        vec![Rule { csrf: Csrf::Off, ..rule("/api/*", session(Access::Required, &[])) }],
    ]
}

/// The rule for what a reader came to, told apart in the plainest way.
fn plainly<'a>(rules: &'a [Rule], default: &'a Rule, path: &[u8]) -> &'a Rule {
    let fits = |rule: &&Rule| match rule.pattern.as_str().strip_suffix("/*") {
        None => path == rule.pattern.as_str().as_bytes(),
        Some(above) => path.strip_prefix(above.as_bytes()).is_some_and(|r| r.is_empty() || r[0] == b'/'),
    };
    let closeness = |rule: &&Rule| (!rule.pattern.as_str().ends_with('*'), rule.pattern.as_str().len());
    rules.iter().filter(fits).max_by_key(closeness).unwrap_or(default)
}

/// Whole hostile paths, and paths of the rules with something hostile put in, most often at their end.
fn hostile_path() -> impl Strategy<Value = String> {
    let token = || prop::sample::select(&TOKENS[..]);
    let place = || prop_oneof![Just(1.0), 0.0..1.0];
    let disturbed = (prop::sample::select(&PATHS[..]), prop::collection::vec((place(), token()), 1..4));
    prop_oneof![
        prop::collection::vec(token(), 0..8).prop_map(|tokens| format!("/{}", tokens.concat())),
        disturbed.prop_map(|(path, changes)| {
            changes.into_iter().fold(path.to_owned(), |path, change| put_in(&path, change))
        }),
    ]
}

/// Puts the token in at this share of the path's length, behind its first slash.
fn put_in(path: &str, (place, token): (f64, &str)) -> String {
    let length = path.chars().count();
    let at = (1..=length).find(|at| *at as f64 >= place * length as f64).unwrap_or(length);
    let (head, tail): (Vec<_>, Vec<_>) = path.chars().enumerate().partition(|(index, _)| *index < at);
    let text = |part: Vec<(usize, char)>| part.into_iter().map(|(_, c)| c).collect::<String>();
    text(head) + token + &text(tail)
}

fn target(path: &str) -> Option<Target> {
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::from_static("a.example"));
    Target::parse(&Method::GET, &path.parse::<Uri>().ok()?, &headers).ok()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_reader_gets_past_a_rule(
        path in hostile_path(),
        readers in prop::collection::vec(prop::collection::vec(0..HABITS.len(), 1..6), 32),
        protect in any::<bool>(),
    ) {
        let Some(target) = target(&path) else { return Ok(()) };
        let ambiguous = if protect { Ambiguous::Protect } else { Ambiguous::Refuse };
        let default = Rule::new("default", Pattern::everything());
        for rules in rule_sets() {
            let routes = Routes::new(vec![site(ambiguous, rules.clone())]);
            let found = match routes.find(&target) {
                Ok(route) => route.rule,
                Err(NoRoute::Ambiguous(_)) => {
                    prop_assert!(!protect);
                    continue;
                }
                Err(NoRoute::UnknownHost) => panic!("the host is known"),
            };
            for habits in &readers {
                let read = habits.iter().fold(target.path().as_bytes().to_vec(), |p, habit| HABITS[*habit](&p));
                let wanted = plainly(&rules, &default, &read);
                prop_assert!(
                    covers(found, wanted),
                    "{path} is taken for {:?}, which needs {:?}, and came under {:?}",
                    String::from_utf8_lossy(&read), wanted.name, found.name,
                );
            }
        }
    }

    #[test]
    fn targets_of_any_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let mut path = b"/".to_vec();
        path.extend(bytes);
        if let Ok(uri) = Uri::try_from(path.as_slice()) {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static("a.example"));
            if let Ok(target) = Target::parse(&Method::GET, &uri, &headers) {
                prop_assert_eq!(target.path_and_query(), uri.path_and_query().expect("a path"));
            }
        }
    }

    #[test]
    fn hosts_of_any_bytes_are_refused_or_plain(bytes in prop::collection::vec(any::<u8>(), 0..30)) {
        let Ok(host) = HeaderValue::from_bytes(&bytes) else { return Ok(()) };
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host);
        if let Ok(target) = Target::parse(&Method::GET, &Uri::from_static("/"), &headers) {
            let url = Url::parse(&format!("http://{}/", target.host())).expect("browsers take it too");
            prop_assert_eq!(url.host_str(), Some(target.host()));
        }
    }

    #[test]
    fn returns_stay_on_listed_origins(text in hostile_return()) {
        let site = site(Ambiguous::Refuse, vec![]);
        let listed = |url: &Url| {
            let found = url.origin().ascii_serialization();
            [&site.origin, &site.trusted_origins[0]].into_iter().any(|origin| origin.as_str() == found)
        };
        if let Some(found) = return_target(&text, &site) {
            let url = Url::parse(&found).expect("an absolute URL");
            prop_assert!(listed(&url), "{text:?} leads to {found}");
            let page = Url::parse("https://a.example/sign/out?x").expect("a page");
            prop_assert_eq!(page.join(&text).expect("a URL"), url, "a browser reads it otherwise");
            prop_assert!(found.bytes().all(|b| b.is_ascii_graphic()));
        }
        if let Some(found) = referer_page(&text, &site.origin) {
            let url = Url::parse(&found).expect("an absolute URL");
            prop_assert_eq!(url.origin().ascii_serialization(), site.origin.as_str());
            prop_assert!(url.fragment().is_none() && url.username().is_empty());
        }
    }
}

/// Whether a caller whom `found` lets in would be let in by `wanted` too, and as carefully.
fn covers(found: &Rule, wanted: &Rule) -> bool {
    let claims = |access: &RuleAccess| match access {
        RuleAccess::Public => (0, vec![]),
        RuleAccess::Session(need) => {
            let names = format!("{:?}", need.require);
            let held = ["admin", "x"].into_iter().filter(|c| names.contains(&format!("{c:?}"))).collect();
            (if need.access == Access::Required { 2 } else { 1 }, held)
        }
    };
    let ((found_level, found_claims), (level, wanted_claims)) =
        (claims(&found.access), claims(&wanted.access));
    let csrf = level == 0 || found.csrf >= wanted.csrf;
    csrf && found_level >= level && wanted_claims.iter().all(|claim| found_claims.contains(claim))
}

fn hostile_return() -> impl Strategy<Value = String> {
    let tokens = || prop::collection::vec(prop::sample::select(&RETURNS[..]), 0..8).prop_map(|t| t.concat());
    prop_oneof![
        tokens(),
        tokens().prop_map(|text| format!("/{text}")),
        tokens().prop_map(|text| format!("https://a.example{text}")),
        any::<String>(),
        any::<String>().prop_map(|text| format!("/{text}")),
        any::<String>().prop_map(|text| format!("https://a.example{text}")),
    ]
}
