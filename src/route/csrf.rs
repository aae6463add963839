//! Whether another site makes the user's browser ask.
//! In: request head, site, rule. Out: [`CrossSite`]. Errors: none. I/O: none.
//! Source: W3C Fetch Metadata §2.4 (`Sec-Fetch-Site`); RFC 6454 §7 (`Origin`); RFC 6455 §10.2 (handshakes need the check too).

use http::header::ORIGIN;
use http::{HeaderMap, HeaderValue, Method};

use crate::asker::Asker;
use crate::route::origin::Origin;
use crate::route::rule::{Csrf, Site};

/// What the check says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrossSite {
    /// The request goes on.
    Fine,
    /// The request comes from elsewhere and could change something: 403 where a session is required,
    /// nobody where it is optional.
    Refused,
}

/// How often a field came.
enum Lines<'a> {
    None,
    One(&'a HeaderValue),
    Many,
}

/// Checks a request for a session route.
///
/// Cookies come along whoever makes the browser ask, so every method but GET, HEAD and OPTIONS, and every WebSocket
/// handshake, has to come from the site's own pages or from a listed origin. What the browser says in `Sec-Fetch-Site` counts,
/// without it `Origin`. A request with neither is from no browser that sends cookies across sites, and passes.
#[must_use]
pub fn cross_site(method: &Method, headers: &HeaderMap, asker: Asker, site: &Site, csrf: Csrf) -> CrossSite {
    let safe = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    if csrf == Csrf::Off || safe && asker != Asker::WebSocket {
        return CrossSite::Fine;
    }
    let origin = match lines(headers, ORIGIN.as_str()) {
        Lines::None => None,
        Lines::One(value) => Some(value),
        Lines::Many => return CrossSite::Refused,
    };
    let is = |own: &Origin| origin.is_some_and(|value| value == own.as_str());
    if site.trusted_origins.iter().any(is) {
        return CrossSite::Fine;
    }
    let fine = match lines(headers, "sec-fetch-site") {
        // A page with `Referrer-Policy: no-referrer` posts to itself with `Origin: null`: this field knows better.
        Lines::One(value) if value == "same-origin" || value == "none" => true,
        Lines::One(value) if value == "same-site" => csrf != Csrf::SameSite,
        Lines::One(_) | Lines::Many => false,
        Lines::None => origin.is_none() || is(&site.origin),
    };
    if fine { CrossSite::Fine } else { CrossSite::Refused }
}

/// Checks a form that the site's own pages alone may send, whoever is signed in: what the browser says of its origin has to
/// name the site, in both fields where both came. Neither sibling hosts nor listed origins pass.
#[must_use]
pub fn own_form(headers: &HeaderMap, site: &Site) -> CrossSite {
    let fetched = match lines(headers, "sec-fetch-site") {
        Lines::None => None,
        Lines::One(value) if value == "same-origin" || value == "none" => Some(()),
        Lines::One(_) | Lines::Many => return CrossSite::Refused,
    };
    match (fetched, lines(headers, ORIGIN.as_str())) {
        (_, Lines::None) => CrossSite::Fine,
        (_, Lines::One(value)) if value == site.origin.as_str() => CrossSite::Fine,
        // Privacy settings hide an origin as "null": then the browser's other word counts.
        (Some(()), Lines::One(value)) if value == "null" => CrossSite::Fine,
        (_, Lines::One(_) | Lines::Many) => CrossSite::Refused,
    }
}

fn lines<'a>(headers: &'a HeaderMap, name: &str) -> Lines<'a> {
    let mut all = headers.get_all(name).iter();
    match (all.next(), all.next()) {
        (None, _) => Lines::None,
        (Some(one), None) => Lines::One(one),
        (Some(_), Some(_)) => Lines::Many,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    const OWN: (&str, &str) = ("origin", "https://app.example");
    const SIBLING: (&str, &str) = ("origin", "https://other.example");
    const LISTED: (&str, &str) = ("origin", "https://listed.example");
    const NULL: (&str, &str) = ("origin", "null");

    fn site() -> Site {
        Site::for_tests("https://listed.example")
    }

    fn head(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
        }
        headers
    }

    fn fetched(from: &'static str) -> (&'static str, &'static str) {
        ("sec-fetch-site", from)
    }

    fn fine(csrf: Csrf, lines: &[(&str, &str)]) -> bool {
        cross_site(&Method::POST, &head(lines), Asker::Script, &site(), csrf) == CrossSite::Fine
    }

    #[test]
    fn what_changes_nothing_passes_from_anywhere() {
        let headers = head(&[fetched("cross-site"), SIBLING]);
        for (method, wanted) in [
            (Method::GET, CrossSite::Fine),
            (Method::HEAD, CrossSite::Fine),
            (Method::OPTIONS, CrossSite::Fine),
            (Method::POST, CrossSite::Refused),
            (Method::DELETE, CrossSite::Refused),
            (Method::TRACE, CrossSite::Refused),
            (Method::from_bytes(b"get").expect("a method"), CrossSite::Refused),
        ] {
            assert_eq!(
                cross_site(&method, &headers, Asker::FormPost, &site(), Csrf::CrossSite),
                wanted,
                "{method}"
            );
        }
    }

    #[test]
    fn a_websocket_handshake_is_checked_though_it_is_a_get() {
        let handshake =
            |lines: &[_]| cross_site(&Method::GET, &head(lines), Asker::WebSocket, &site(), Csrf::CrossSite);
        assert_eq!(handshake(&[SIBLING]), CrossSite::Refused);
        assert_eq!(handshake(&[fetched("cross-site")]), CrossSite::Refused);
        assert_eq!(handshake(&[OWN]), CrossSite::Fine);
        assert_eq!(handshake(&[LISTED]), CrossSite::Fine);
    }

    #[test]
    fn fetch_metadata_counts_before_the_origin() {
        use Csrf::{CrossSite, Off, SameSite};
        for (lines, wanted) in [
            (vec![fetched("same-origin")], [true, true, true]),
            (vec![fetched("same-origin"), NULL], [true, true, true]),
            (vec![fetched("none")], [true, true, true]),
            (vec![fetched("same-site"), SIBLING], [true, true, false]),
            (vec![fetched("cross-site"), OWN], [true, false, false]),
            (vec![fetched("cross-site"), LISTED], [true, true, true]),
            (vec![fetched("Same-Origin")], [true, false, false]),
            (vec![fetched("")], [true, false, false]),
            (vec![fetched("same-origin"), fetched("same-origin")], [true, false, false]),
            (vec![fetched("same-origin, same-origin")], [true, false, false]),
        ] {
            assert_eq!([Off, CrossSite, SameSite].map(|csrf| fine(csrf, &lines)), wanted, "{lines:?}");
        }
    }

    #[test]
    fn a_form_of_the_sites_own_comes_from_nowhere_else() {
        for (lines, wanted) in [
            (vec![], true),
            (vec![OWN], true),
            (vec![fetched("same-origin")], true),
            (vec![fetched("none"), OWN], true),
            (vec![fetched("same-origin"), NULL], true),
            (vec![NULL], false),
            (vec![LISTED], false),
            (vec![fetched("same-origin"), LISTED], false),
            (vec![fetched("same-origin"), SIBLING], false),
            (vec![fetched("same-site"), OWN], false),
            (vec![fetched("cross-site"), OWN], false),
            (vec![fetched("cross-site")], false),
            (vec![fetched("same-origin"), fetched("same-origin")], false),
            (vec![OWN, OWN], false),
            (vec![("origin", "http://app.example")], false),
        ] {
            let fine = own_form(&head(&lines), &site()) == CrossSite::Fine;
            assert_eq!(fine, wanted, "{lines:?}");
        }
    }

    #[test]
    fn without_it_the_origin_has_to_be_ours_or_listed() {
        for (lines, wanted) in [
            (vec![], true),
            (vec![OWN], true),
            (vec![LISTED], true),
            (vec![SIBLING], false),
            (vec![NULL], false),
            (vec![("origin", "")], false),
            (vec![("origin", "\u{e9}")], false),
            (vec![("origin", "https://app.example.evil")], false),
            (vec![("origin", "https://app.example, https://evil")], false),
            (vec![("origin", "http://app.example")], false),
            (vec![OWN, OWN], false),
            (vec![LISTED, SIBLING], false),
        ] {
            assert_eq!(fine(Csrf::CrossSite, &lines), wanted, "{lines:?}");
        }
    }
}
