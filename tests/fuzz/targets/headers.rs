//! A request head on its way to an app: no name of ours survives in any spelling, and all else arrives as it was sent.
//! Input: a path with its query, then fields.
#![no_main]

use std::collections::BTreeSet;

use doorkeep::backend::directory::Directory;
use doorkeep::forward::{
    Authorization, HeaderFault, IdentityHeaders, NameSet, OwnedNames, OwnedParameters, clean,
};
use doorkeep::identity::Identity;
use doorkeep_fuzz::{folded, head, lines, seen_as, unescaped, via};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};

const USER: HeaderName = HeaderName::from_static("x-auth-user");
const ROLES: HeaderName = HeaderName::from_static("x_auth.roles");

/// What no client may say, folded; written down once more, so that a gap in the gateway's own list shows.
const OURS: [&str; 21] = [
    "authorization",
    "connection",
    "expect",
    "forwarded",
    "host",
    "http2_settings",
    "keep_alive",
    "proxy",
    "proxy_authorization",
    "remote_user",
    "te",
    "traceparent",
    "tracestate",
    "transfer_encoding",
    "upgrade",
    "x_access_token",
    "x_auth_roles",
    "x_auth_user",
    "x_forwarded",
    "x_real_ip",
    "x_request_id",
];
const BEGINNINGS: [&str; 9] = [
    "x_forwarded_",
    "x_original_",
    "x_rewrite_",
    "x_role_",
    "x_session_",
    "x_context_",
    "x_organization_",
    "x_tenant_",
    "proxy_",
];
/// What we say ourselves.
const SAID: [&str; 13] = [
    "host",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "forwarded",
    "x-real-ip",
    "x-request-id",
    "traceparent",
    "tracestate",
    "te",
    "connection",
    "x-auth-user",
];
const PARAMETERS: [&str; 3] = ["x_access_token", "access_token", "token"];
const PARAMETER_BEGINNINGS: [&str; 5] = ["role_", "session_", "context_", "organization_", "tenant_"];

fn is_ours(name: &str) -> bool {
    OURS.contains(&name) || BEGINNINGS.iter().any(|begin| name.starts_with(begin))
}

fn named_by_connection(headers: &HeaderMap) -> BTreeSet<String> {
    let lines = headers.get_all("connection").iter();
    let items = lines.flat_map(|line| line.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii));
    let names = items.filter_map(|item| Some(std::str::from_utf8(item).ok()?.to_ascii_lowercase()));
    names.filter(|name| !["host", "cookie", "content-length"].contains(&name.as_str())).collect()
}

/// The names under which the parameters of a query are known to some reader.
fn parameters(query: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for piece in query.split('&').flat_map(|piece| [vec![piece], piece.split(';').collect()].concat()) {
        let name = piece.split('=').next().unwrap_or_default().replace('+', " ");
        let name = unescaped(name.as_bytes());
        // Java's `trim` takes all up to U+0020, that of others blanks alone.
        let plain =
            String::from_utf8_lossy(&name).trim().trim_matches(|c| ('\u{1}'..=' ').contains(&c)).to_owned();
        // PHP: blanks and dots become `_`, a NUL ends it. `x[y]` is a member of `x`.
        let php = plain.split('\0').next().unwrap_or_default().trim_start().to_owned();
        let root = php.split('[').next().unwrap_or_default().to_owned();
        // Rack and qs: the first brackets may be the name.
        let bare = php.trim_start_matches('[').split(']').next().unwrap_or_default().to_owned();
        // PHP: one that is never closed is a `_`. Any other bracket stays a part of the name, and no name of ours is spelled with one.
        let without_brackets =
            |name: String| Some(name).filter(|name| !name.contains(['[', ']'])).unwrap_or_default();
        let (plain, root) = (without_brackets(plain), without_brackets(root));
        let bare = if php.contains(']') { without_brackets(bare) } else { bare };
        for name in [plain, root, bare] {
            names.extend([folded(name.as_bytes()), folded(name.trim().as_bytes())]);
        }
    }
    names
}

fn everything_else_arrives(sent: &HeaderMap, got: &HeaderMap) {
    let gone = named_by_connection(sent);
    for name in sent.keys() {
        let plain = folded(name.as_str().as_bytes());
        let length = plain == "content_length" && name != "content-length";
        if is_ours(&plain) || length || gone.contains(name.as_str()) || name == "trailer" {
            continue;
        }
        let values = |headers: &HeaderMap| headers.get_all(name).iter().cloned().collect::<Vec<_>>();
        assert_eq!(values(got), values(sent), "{name}");
    }
    let trailers = got.get_all("trailer").iter().flat_map(|line| line.as_bytes().split(|b| *b == b','));
    for item in trailers.map(<[u8]>::trim_ascii).filter(|item| !item.is_empty()) {
        let name = folded(item);
        assert!(!is_ours(&name) && !name.starts_with("content_") && name != "cookie", "{name} as a trailer");
    }
}

fn nothing_but_ours_under_our_names(sent: &HeaderMap, got: &HeaderMap, told: &[(HeaderName, HeaderValue)]) {
    let gone = named_by_connection(sent);
    for name in got.keys() {
        let said = SAID.contains(&name.as_str()) || told.iter().any(|(own, _)| own == name);
        let plain = folded(name.as_str().as_bytes());
        assert!(said || !is_ours(&plain), "{name} is left of what the client said");
        assert!(said || sent.contains_key(name), "{name} is made up");
        assert!(said || !gone.contains(name.as_str()), "{name} was for the next hop alone");
        assert!(plain != "content_length" || name == "content-length");
        assert!(!said || name == "tracestate" || got.get_all(name).iter().count() == 1, "{name} once");
    }
    for (name, value) in told {
        assert_eq!(got.get(name), Some(value));
    }
    for name in [USER, ROLES] {
        assert!(told.iter().any(|(own, _)| *own == name) || !got.contains_key(&name), "{name} of nobody");
    }
    assert_eq!(got["host"], "app.example");
    assert_eq!(got["x-forwarded-for"], "192.0.2.1");
    assert_eq!(got["x-forwarded-proto"], "https");
    assert_eq!(got["x-request-id"], "r");
    let trace = got["traceparent"].to_str().expect("text");
    let lengths: Vec<usize> = trace.split('-').map(str::len).collect();
    assert!(lengths == [2, 32, 16, 2] && trace.split('-').nth(2) == Some("0000000000000002"), "{trace}");
    let state: usize = got.get_all("tracestate").iter().map(HeaderValue::len).sum();
    assert!(state <= 512);
    for (name, value) in [("te", "trailers"), ("connection", "te")] {
        assert!(got.get(name).is_none_or(|own| own == value), "{name}");
    }
}

/// The claims are made of what came, so that hostile names and roles are told too.
fn rendered(head: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    let text = |name: &str| head.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    let user =
        text("claim-user").map_or(json!("u"), |text| serde_json::from_str(&text).unwrap_or(json!(text)));
    let roles =
        text("claim-roles").map_or(Value::Null, |text| serde_json::from_str(&text).unwrap_or(Value::Null));
    let claims = Map::from_iter([("user".to_owned(), user.clone()), ("roles".to_owned(), roles)]);
    let identity = Identity::new("u".into(), None, None, None, claims);
    let headers = IdentityHeaders::new(vec![(USER, "user".into()), (ROLES, "roles".into())], 64);
    match headers.render(&identity) {
        Ok(lines) => {
            for (_, value) in lines.iter() {
                assert!(value.len() <= 64);
                assert!(value.as_bytes().iter().all(|b| matches!(b, 0x20..=0x7e)), "{value:?}");
                assert_eq!(value.as_bytes().trim_ascii(), value.as_bytes(), "a reader would drop blanks");
            }
            if let (Value::String(user), Some((_, value))) =
                (&user, lines.iter().find(|(name, _)| *name == USER))
            {
                assert_eq!(unescaped(value.as_bytes()), user.as_bytes(), "nobody is taken for another");
            }
            lines.to_vec()
        }
        Err(HeaderFault::Control(_) | HeaderFault::TooLong(_)) => Vec::new(),
    }
}

fuzz_target!(|data: &[u8]| {
    let mut lines = lines(data);
    let Ok(uri) = Uri::try_from(lines.next().unwrap_or_default()) else { return };
    if !uri.path_and_query().is_some_and(|target| target.as_str().starts_with('/')) {
        return;
    }
    let sent = head(lines);
    let mut request = Request::new(());
    *request.uri_mut() = uri.clone();
    *request.headers_mut() = sent.clone();
    let owned =
        OwnedNames::new(&[USER, ROLES], NameSet::headers_of(Directory::BELIEVED), Authorization::Strip);
    let parameters_owned = OwnedParameters::new(NameSet::parameters_of(Directory::BELIEVED));
    let seen_as = seen_as();
    let told = rendered(&sent);
    let cleaned = clean(Box::new(request), &owned, &parameters_owned).expect("a path");
    let got = cleaned.for_caller(told.clone(), via(&seen_as)).into_request();
    everything_else_arrives(&sent, got.headers());
    nothing_but_ours_under_our_names(&sent, got.headers(), &told);
    assert_eq!(got.uri().path(), uri.path());
    let asked = got.uri().query().unwrap_or_default();
    for name in parameters(asked) {
        let ours =
            PARAMETERS.contains(&name.as_str()) || PARAMETER_BEGINNINGS.iter().any(|b| name.starts_with(b));
        assert!(!ours, "{name} is left in {asked:?}");
    }
    let whole = uri.query().unwrap_or_default();
    let mut pieces = whole.split(['&', ';']);
    let kept = asked
        .split(['&', ';'])
        .filter(|piece| !piece.is_empty())
        .all(|piece| pieces.any(|sent| sent == piece));
    assert!(kept, "{asked:?} is {whole:?} without pieces");
});
