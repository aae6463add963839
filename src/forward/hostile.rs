//! What hostile clients send, against the ways in which upstreams turn headers and queries into variables.
#![allow(clippy::string_slice, reason = "tests, and the readers are written as their models are")]

use crate::backend::directory::Directory;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use proptest::prelude::*;

use crate::forward::{Authorization, Cleaned, NameSet, OwnedNames, OwnedParameters, clean};

const IDENTITY: [&str; 3] = ["x-auth-user", "x-auth-roles", "x-user2"];

/// Names of ours, as an upstream looks them up.
const OURS: [&str; 18] = [
    "x-auth-user",
    "x-auth-roles",
    "x-user2",
    "x-role-key",
    "x-session-id",
    "x-tenant-code",
    "x-access-token",
    "x-forwarded-for",
    "x-forwarded-user",
    "x-real-ip",
    "x-original-url",
    "x-rewrite-url",
    "x-request-id",
    "forwarded",
    "remote-user",
    "proxy-authorization",
    "authorization",
    "transfer-encoding",
];

/// How upstreams make a variable of a header name.
const FOLDINGS: [fn(&str) -> String; 4] = [
    // CGI, WSGI and Rack.
    |name| format!("HTTP_{}", name.to_uppercase().replace('-', "_")),
    // PHP, which has no dots and blanks in names either.
    |name| format!("HTTP_{}", name.to_uppercase().replace(['-', '.', ' '], "_")),
    // IIS and whatever else has letters, digits and `_` only.
    |name| name.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_"),
    // Those that keep names as they are.
    str::to_lowercase,
];

/// Fields of an old application, which nobody takes for ours.
const LEGACY: [&str; 6] = ["my_app_user", "x_auth", "x_auth_userid", "soap_action", "user_id", "x-role"];

fn owned() -> OwnedNames {
    let identity = IDENTITY.map(HeaderName::from_static);
    OwnedNames::new(&identity, NameSet::headers_of(Directory::BELIEVED), Authorization::Strip)
}

fn cleaned(uri: &str, lines: &[(String, String)]) -> Option<Cleaned<()>> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::try_from(uri).ok()?;
    for (name, value) in lines {
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
        else {
            continue;
        };
        request.headers_mut().append(name, value);
    }
    let parameters = OwnedParameters::new(NameSet::parameters_of(Directory::BELIEVED));
    Some(clean(Box::new(request), &owned(), &parameters).expect("a path"))
}

/// One of our names with its separators exchanged and its case changed.
fn disguised() -> impl Strategy<Value = String> {
    let separators = prop::collection::vec(prop::sample::select(&b"-_.!#$%&'*+^`|~"[..]), 6);
    (prop::sample::select(&OURS[..]), separators, any::<u64>()).prop_map(|(name, separators, case)| {
        let mut separators = separators.into_iter().cycle();
        name.bytes()
            .enumerate()
            .map(|(at, byte)| match byte {
                b'-' => separators.next().map_or('-', char::from),
                _ if case >> (at % 64) & 1 == 1 => char::from(byte.to_ascii_uppercase()),
                _ => char::from(byte),
            })
            .collect()
    })
}

fn line() -> impl Strategy<Value = (String, String)> {
    let name = prop_oneof![
        4 => disguised(),
        2 => prop::sample::select(&OURS[..]).prop_map(str::to_owned),
        2 => "[-A-Za-z0-9!#$%&'*+.^_`|~]{1,80}",
        1 => Just("connection".to_owned()),
        1 => Just("te".to_owned()),
    ];
    let named = prop::collection::vec(prop_oneof![disguised(), "[ -~]{0,20}"], 0..4);
    (name, named.prop_map(|names| names.join(",")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_disguise_of_our_names_survives(mut lines in prop::collection::vec(line(), 0..12)) {
        for name in LEGACY {
            lines.push((name.to_owned(), "kept".to_owned()));
        }
        let names_legacy = lines.iter().any(|(name, value)| {
            name.eq_ignore_ascii_case("connection")
                && value.split(',').any(|item| LEGACY.iter().any(|own| item.trim().eq_ignore_ascii_case(own)))
        });
        let cleaned = cleaned("/", &lines).expect("a target");
        for left in cleaned.headers().keys() {
            for fold in FOLDINGS {
                for ours in OURS {
                    prop_assert_ne!(fold(left.as_str()), fold(ours), "{} is read as {}", left, ours);
                }
            }
        }
        for name in LEGACY {
            prop_assert!(names_legacy || cleaned.headers().contains_key(name), "{name} is gone");
        }
    }

    #[test]
    fn no_reader_finds_our_parameters(pieces in prop::collection::vec(piece(), 0..8)) {
        let query: String = pieces.iter().map(|(name, value, end)| format!("{name}{value}{end}")).collect();
        let Some(cleaned) = cleaned(&format!("/p?{query}"), &[]) else { return Ok(()) };
        prop_assert_eq!(cleaned.target().path(), "/p");
        let rest = cleaned.target().query().unwrap_or_default();
        for reader in READERS {
            for name in reader(rest) {
                prop_assert!(!is_ours(&name), "{name:?} is read out of {rest:?}, left of {query:?}");
            }
        }
        let left: Vec<&str> = rest.split(['&', ';']).collect();
        let mut kept = left.iter();
        for piece in query.split(['&', ';']).filter(|piece| HARMLESS.iter().any(|own| piece.starts_with(own))) {
            prop_assert!(kept.any(|own| own == &piece), "{piece:?} is gone from {rest:?}, left of {query:?}");
        }
    }

    #[test]
    fn queries_without_our_parameters_stay_as_sent(query in "[ac-jl-mp-qu-z0-9%+=&;.~-]{0,40}") {
        if let Some(cleaned) = cleaned(&format!("/p?{query}"), &[]) {
            let read = READERS.iter().flat_map(|reader| reader(&query)).any(|name| is_ours(&name));
            let sent = cleaned.target().query();
            prop_assert!(read || sent == Some(query.as_str()), "{query:?} became {sent:?}");
        }
    }
}

/// Beginnings of pieces that no reader takes for ours, whatever follows.
const HARMLESS: [&str; 5] = ["a1=", "tokens=", "x[token]=", "role=", "q=%2e%2"];

#[rustfmt::skip]
const PIECES: [&str; 40] = [
    "token", "access-token", "access_token", "access.token", "role-key", "role_", "session-id", "tenant.code", "Token",
    "t%6fken", "%74oken", "%u0074oken", "access", "_token", "-token", "tok", "en", "[", "]", "%5b", "%5D", "[]", "[x]", "%00",
    "+", "%20", "%09", "%", "%2", "=", "%3d", "%26", "%3b", "?", "x", "a1", "access[token", "role%5bkey", "%25", "'",
];

fn piece() -> impl Strategy<Value = (String, String, &'static str)> {
    let tokens = || prop::collection::vec(prop::sample::select(&PIECES[..]), 0..5).prop_map(|t| t.concat());
    let hostile =
        (tokens(), prop_oneof![Just(String::new()), tokens().prop_map(|value| format!("={value}"))]);
    let harmless = (prop::sample::select(&HARMLESS[..]).prop_map(str::to_owned), tokens());
    let end = prop::sample::select(vec!["&", "&", "&", ";", "&&", ""]);
    (prop_oneof![3 => hostile, 1 => harmless], end).prop_map(|((name, value), end)| (name, value, end))
}

/// Whether an upstream that looks parameters up by name, case and separators aside, takes this one for ours.
fn is_ours(name: &str) -> bool {
    let name = name.to_lowercase().replace(['-', '.', ' '], "_");
    let families = ["role_", "session_", "context_", "organization_", "tenant_"];
    ["token", "access_token"].contains(&name.as_str())
        || families.iter().any(|family| name.starts_with(family))
}

/// Readers of queries: each gives the names under which an upstream finds parameters.
type QueryReader = fn(&str) -> Vec<String>;

const READERS: [QueryReader; 7] = [
    |query| split(query, "&").map(|p| decode(before(p, '='))).collect(),
    // Older urllib and Rack part at `;` too.
    |query| split(query, "&;").map(|p| decode(before(p, '='))).collect(),
    |query| split(query, "&").filter_map(qs).collect(),
    |query| split(query, "&;").filter_map(qs).collect(),
    |query| split(query, "&").filter_map(php).collect(),
    |query| split(query, "&;").filter_map(rack).collect(),
    |query| split(query, "&").map(|p| iis(before(p, '='))).collect(),
];

fn split<'a>(query: &'a str, at: &'a str) -> impl Iterator<Item = &'a str> {
    query.split(move |c| at.contains(c)).filter(|piece| !piece.is_empty())
}

fn before(piece: &str, at: char) -> &str {
    piece.split(at).next().unwrap_or_default()
}

fn decode(text: &str) -> String {
    let blanks = text.replace('+', " ");
    percent_encoding::percent_decode_str(&blanks).decode_utf8_lossy().into_owned()
}

/// `%uXXXX` beside `%XX`.
fn iis(text: &str) -> String {
    let mut out = String::new();
    let mut parts = text.split("%u");
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        match part.get(..4).and_then(|digits| u32::from_str_radix(digits, 16).ok()).and_then(char::from_u32) {
            Some(c) => {
                out.push(c);
                out.push_str(&part[4..]);
            }
            None => {
                out.push_str("%u");
                out.push_str(part);
            }
        }
    }
    decode(&out)
}

/// `qs` of Node.js: `]=` ends a name before `=` does; `x[y]` is a member of `x`, `[x]` is `x`.
fn qs(piece: &str) -> Option<String> {
    let piece = piece.replace("%5B", "[").replace("%5b", "[").replace("%5D", "]").replace("%5d", "]");
    let end = piece.find("]=").map(|at| at + 1).or_else(|| piece.find('=')).unwrap_or(piece.len());
    let key = decode(&piece[..end]);
    // The first bracketed part: `[` and what follows without brackets up to `]`.
    let bracketed = key.match_indices('[').find_map(|(open, _)| {
        let rest = &key[open + 1..];
        let close = rest.find(['[', ']'])?;
        rest[close..].starts_with(']').then_some((open, &rest[..close]))
    });
    match bracketed {
        None => Some(key),
        Some((0, inside)) => Some(inside.to_owned()),
        Some((open, _)) => Some(key[..open].to_owned()),
    }
}

/// PHP: blanks in front go, a NUL ends the name, blank and dot become `_`, `[` opens a member or, never closed, becomes `_`.
fn php(piece: &str) -> Option<String> {
    let name = decode(before(piece, '='));
    let name = before(&name, '\0').trim_start_matches(' ');
    let replaced = |text: &str| text.replace([' ', '.'], "_");
    match name.find('[') {
        Some(0) => None,
        Some(open) if name[open..].contains(']') => Some(replaced(&name[..open])),
        Some(open) => Some(format!("{}_{}", replaced(&name[..open]), replaced(&name[open + 1..]))),
        None => Some(replaced(name)),
    }
}

/// Rack: the name is what follows any brackets in front, up to the next one.
fn rack(piece: &str) -> Option<String> {
    let name = decode(before(piece.trim_start(), '='));
    let root = name.trim_start_matches(['[', ']']);
    Some(root.split(['[', ']']).next()?.to_owned())
}
