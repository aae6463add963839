//! What a request asks for: what was judged is what is sent, and no reader of the path gets past a rule.
//! Input: the request target, then a line for each `Host` field.
#![no_main]

use doorkeep::forward::{Authorization, NameSet, OwnedNames, OwnedParameters, clean};
use doorkeep::identity::Identity;
use doorkeep::need::{Access, Need, Require};
use doorkeep::reply::LoginSettings;
use doorkeep::route::{
    Ambiguous, MAX_TARGET, NoRoute, Origin, Pattern, Redirect, Routes, Rule, RuleAccess, Site, Target,
};
use doorkeep_fuzz::{Dice, lines, seen_as, unescaped, via};
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use libfuzzer_sys::fuzz_target;
use url::Url;

const OWN: &str = "https://app.example";

/// One habit of a reader of paths.
type Habit = fn(Vec<u8>) -> Vec<u8>;

const HABITS: [Habit; 13] = [
    |path| unescaped(&path),
    |path| unescaped(&path),
    |path| path.iter().map(|b| if *b == b'\\' { b'/' } else { *b }).collect(),
    |mut path| {
        path.dedup_by(|a, b| *a == b'/' && *b == b'/');
        path
    },
    |path| {
        let mut kept: Vec<&[u8]> = Vec::new();
        for segment in path.split(|b| *b == b'/').skip(1) {
            match segment {
                b"." => {}
                b".." => drop(kept.pop()),
                other => kept.push(other),
            }
        }
        [b"/", kept.join(&b'/').as_slice()].concat()
    },
    |path| path.split(|b| *b == b'/').map(|s| before(s, b';')).collect::<Vec<_>>().join(&b'/'),
    |path| before(&path, b';').to_vec(),
    |path| before(before(&path, b'#'), b'?').to_vec(),
    |path| before(&path, 0).to_vec(),
    |path| path.to_ascii_lowercase(),
    |path| {
        let end = |s: &[u8]| s.iter().rposition(|b| !matches!(b, b'.' | b' ' | b'\t')).map_or(0, |at| at + 1);
        path.split(|b| *b == b'/').map(|s| &s[..end(s)]).collect::<Vec<_>>().join(&b'/')
    },
    |mut path| {
        if path.len() > 1 && path.ends_with(b"/") {
            path.pop();
        }
        path
    },
    |path| String::from_utf8_lossy(&path).to_lowercase().into_bytes(),
];

fn before(bytes: &[u8], at: u8) -> &[u8] {
    bytes.split(|b| *b == at).next().unwrap_or_default()
}

fn session(access: Access, claims: &[&str]) -> RuleAccess {
    let claims = claims.iter().map(|claim| ((*claim).to_owned(), vec!["yes".to_owned()])).collect();
    RuleAccess::Session(Need { access, require: Require::new(claims), ..Need::default() })
}

fn rule(path: &str, access: RuleAccess) -> Rule {
    Rule { access, ..Rule::new(path, Pattern::parse(path).expect(path)) }
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
            rule("/a/*", session(Access::Optional, &[])),
            rule("/a/admin/*", admin()),
            rule("/a/b\u{fc}ro", session(Access::Required, &[])),
            rule("/pub", RuleAccess::Public),
        ],
    ]
}

/// How much is asked of somebody.
fn strength(access: &RuleAccess) -> u8 {
    let nobody = Identity::new("u".into(), None, None, None, serde_json::Map::new());
    match access {
        RuleAccess::Public => 0,
        RuleAccess::Session(need) => match (need.access, need.require.lacking(&nobody)) {
            (Access::Optional, None) => 1,
            (Access::Required, None) => 2,
            (_, Some(_)) => 3,
        },
    }
}

/// The rule for what a reader came to, told apart in the plainest way.
fn plainly(rules: &[Rule], path: &[u8]) -> u8 {
    let fits = |rule: &&Rule| match rule.pattern.as_str().strip_suffix("/*") {
        None => path == rule.pattern.as_str().as_bytes(),
        Some(above) => path.strip_prefix(above.as_bytes()).is_some_and(|r| r.is_empty() || r[0] == b'/'),
    };
    let closeness = |rule: &&Rule| (!rule.pattern.as_str().ends_with('*'), rule.pattern.as_str().len());
    let default = session(Access::Required, &[]);
    strength(rules.iter().filter(fits).max_by_key(closeness).map_or(&default, |rule| &rule.access))
}

fn no_reader_gets_past_a_rule(target: &Target, dice: &mut Dice) {
    for rules in rule_sets() {
        for ambiguous in [Ambiguous::Refuse, Ambiguous::Protect] {
            let site = site(target.host(), ambiguous, rules.clone());
            let routes = Routes::new(vec![site]);
            let found = match routes.find(target) {
                Ok(route) => strength(&route.rule.access),
                Err(NoRoute::Ambiguous(_)) => {
                    assert_eq!(ambiguous, Ambiguous::Refuse);
                    continue;
                }
                Err(NoRoute::UnknownHost) => panic!("the host is the site's"),
            };
            for _ in 0..16 {
                let mut read = target.path().as_bytes().to_vec();
                for _ in 0..=dice.below(5) {
                    read = HABITS[dice.below(HABITS.len())](read);
                }
                let wanted = plainly(&rules, &read);
                let read = String::from_utf8_lossy(&read);
                assert!(found >= wanted, "{:?} is {read:?} to some reader", target.path());
            }
        }
    }
}

fn site(host: &str, ambiguous: Ambiguous, rules: Vec<Rule>) -> Site {
    let origin = Origin::parse(OWN).expect("an origin");
    Site { host: host.into(), origin, rules, ambiguous, trusted_origins: Vec::new() }
}

fn what_is_judged_is_what_is_sent(target: &Target, request: Request<()>, sent: &[u8]) {
    let judged = target.path_and_query().as_str().as_bytes().to_vec();
    // A fragment is nobody's to send (RFC 9112 §3.2.1): whatever comes behind `#` is read by nobody.
    if sent.starts_with(b"/") {
        assert_eq!(judged, before(sent, b'#'));
    }
    let seen_as = seen_as();
    let owned = OwnedNames::new([], NameSet::default(), Authorization::Strip);
    let cleaned = clean(Box::new(request), &owned, &OwnedParameters::none()).expect("a path");
    let outbound = cleaned.for_caller(Vec::new(), via(&seen_as)).into_request();
    assert_eq!(outbound.uri().to_string().as_bytes(), judged);
    assert_eq!(outbound.headers().get_all(HOST).iter().collect::<Vec<_>>(), ["app.example"]);
    // As it stands in the request line, it is one word.
    assert!(!judged.iter().any(|byte| byte.is_ascii_control() || *byte == b' '));
}

/// The host is the one that browsers read in it, and has one spelling.
fn the_host_is_one(target: &Target) {
    let host = target.host();
    assert_eq!(doorkeep::route::canonical_host(host).as_deref(), Some(host));
    if let Ok(url) = Url::parse(&format!("http://{host}/")) {
        assert_eq!(url.host_str(), Some(host));
        assert!(url.username().is_empty() && url.password().is_none() && url.port().is_none());
    }
}

fn redirects_stay_at_the_site(target: &Target) {
    let site = site("app.example", Ambiguous::Refuse, Vec::new());
    let to = Redirect::ToOrigin { except: Vec::new() }.to(&site, target).expect("a redirect");
    let page = format!("{OWN}{}", target.path_and_query());
    assert_eq!(to, page);
    let read = Url::parse(&to).expect("a URL");
    assert_eq!(read.origin().ascii_serialization(), OWN);
    assert!(read.username().is_empty() && read.password().is_none());
    let login = LoginSettings::Redirect {
        url: Url::parse("https://id.example/in").unwrap(),
        parameter: "redirect".into(),
    };
    let to = Url::parse(&login.for_page(OWN, &page)).expect("a URL");
    assert_eq!(to.origin().ascii_serialization(), "https://id.example");
    let told: Vec<String> = to.query_pairs().map(|(_, value)| value.into_owned()).collect();
    assert_eq!(told, [page]);
}

fuzz_target!(|data: &[u8]| {
    let mut lines = lines(data);
    let sent = lines.next().unwrap_or_default();
    let Ok(uri) = Uri::try_from(sent) else { return };
    let mut headers = HeaderMap::new();
    for host in lines {
        if let Ok(value) = HeaderValue::from_bytes(host) {
            headers.append(HOST, value);
        }
    }
    let parsed = Target::parse(&Method::GET, &uri, &headers);
    assert!(Target::parse(&Method::CONNECT, &uri, &headers).is_err());
    let Ok(target) = parsed else { return };
    assert!(headers.get_all(HOST).iter().count() <= 1);
    assert!(target.path().starts_with('/') && target.path_and_query().as_str().len() <= MAX_TARGET);
    the_host_is_one(&target);
    redirects_stay_at_the_site(&target);
    no_reader_gets_past_a_rule(&target, &mut Dice::of(data));
    let mut request = Request::new(());
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    what_is_judged_is_what_is_sent(&target, request, sent);
});
