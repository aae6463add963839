//! What an upstream's answer becomes on a route that knows sessions.
//! In: response headers. Out: the same, private. Errors: none. I/O: none.
//! Source: RFC 9111 §5.2.2 (`public`, `private`, `s-maxage`, `no-store`), RFC 9213 (`CDN-Cache-Control`).

use http::header::{CACHE_CONTROL, SET_COOKIE};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::fields::{Head, Names};

/// Fields that only caches on the way read.
const FOR_CACHES: [&str; 4] = ["cdn-cache-control", "surrogate-control", "edge-control", "x-accel-expires"];
const FOR_CACHES_NAMES: Names = Names::listed(&FOR_CACHES);

/// Makes an answer nobody's but this client's. `stored`: it carries our cookies, so it is not stored at all, unless it is
/// a 304, which would take that over into the stored answer that it refreshes.
pub fn keep_private(headers: &mut HeaderMap, status: StatusCode, stored: Stored) {
    let names = Names::of(headers);
    if names.may_meet(FOR_CACHES_NAMES) {
        for name in FOR_CACHES {
            headers.remove(name);
        }
    }
    if stored == Stored::No && !(names.may_hold(&CACHE_CONTROL) && headers.contains_key(CACHE_CONTROL)) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private"));
        return;
    }
    let mut kept: Vec<String> = Vec::new();
    for line in headers.get_all(CACHE_CONTROL) {
        let Ok(line) = line.to_str() else { continue };
        for directive in split_directives(line) {
            let name = directive.split('=').next().unwrap_or_default().trim().to_ascii_lowercase();
            if !matches!(name.as_str(), "public" | "s-maxage" | "private" | "") {
                kept.push(directive.trim().to_owned());
            }
        }
    }
    kept.insert(0, "private".into());
    let has_no_store = kept.iter().any(|directive| directive.eq_ignore_ascii_case("no-store"));
    if stored == Stored::Yes && status != StatusCode::NOT_MODIFIED && !has_no_store {
        kept.push("no-store".into());
    }
    if let Ok(value) = HeaderValue::from_str(&kept.join(", ")) {
        headers.insert(CACHE_CONTROL, value);
    }
}

/// Whether an answer carries our cookies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It does.
    Yes,
    /// It does not.
    No,
}

/// Takes an upstream's cookies of our names out of its answer; its others pass.
pub fn drop_own_cookies(headers: &mut HeaderMap, owns: impl Fn(&[u8]) -> bool) {
    let ours = |line: &HeaderValue| {
        let mut parts = line.as_bytes().split(|b| matches!(b, b'=' | b';')).map(<[u8]>::trim_ascii);
        // A browser sends back a cookie without a name as its value alone, which may look like one of ours.
        parts.find(|part| !part.is_empty()).is_some_and(&owns)
    };
    if !Head::of(headers).get_all(&SET_COOKIE).any(ours) {
        return;
    }
    let kept: Vec<HeaderValue> =
        headers.get_all(SET_COOKIE).iter().filter(|line| !ours(line)).cloned().collect();
    headers.remove(SET_COOKIE);
    for line in kept {
        headers.append(SET_COOKIE, line);
    }
}

/// Splits at commas outside quotes.
fn split_directives(line: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    line.split(move |c| {
        if c == '"' {
            quoted = !quoted;
        }
        c == ',' && !quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(lines: &[&str], status: u16, stored: Stored) -> String {
        let mut headers = HeaderMap::new();
        headers.insert("surrogate-control", HeaderValue::from_static("max-age=9"));
        for line in lines {
            headers.append(CACHE_CONTROL, HeaderValue::from_str(line).expect("a value"));
        }
        keep_private(&mut headers, StatusCode::from_u16(status).expect("a status"), stored);
        assert!(!headers.contains_key("surrogate-control"));
        headers[CACHE_CONTROL].to_str().expect("text").to_owned()
    }

    #[test]
    fn answers_become_private_and_keep_what_else_they_say() {
        assert_eq!(after(&[], 200, Stored::No), "private");
        assert_eq!(after(&["public, max-age=60", "S-MaxAge=9"], 200, Stored::No), "private, max-age=60");
        assert_eq!(
            after(&["private=\"set-cookie, x\", no-cache=\"a,b\""], 200, Stored::No),
            "private, no-cache=\"a,b\""
        );
    }

    #[test]
    fn with_our_cookies_they_are_not_stored_but_for_304() {
        assert_eq!(after(&["public, max-age=60"], 200, Stored::Yes), "private, max-age=60, no-store");
        assert_eq!(after(&["No-Store"], 200, Stored::Yes), "private, No-Store");
        assert_eq!(after(&["max-age=60"], 304, Stored::Yes), "private, max-age=60");
    }

    #[test]
    fn an_upstream_cannot_set_our_cookies() {
        let mut headers = HeaderMap::new();
        for line in ["theirs=1", "ours=x; Path=/", " ours =y", "ours", "=ours=x", "= = ours=x", "ours2=z"] {
            headers.append(SET_COOKIE, HeaderValue::from_static(line));
        }
        drop_own_cookies(&mut headers, |name| name == b"ours");
        let left: Vec<_> = headers.get_all(SET_COOKIE).iter().map(|l| l.to_str().expect("text")).collect();
        assert_eq!(left, ["theirs=1", "ours2=z"]);
    }
}
