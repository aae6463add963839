//! CORS: whether a browser asks if a script may ask, and which origins may.
//! In: request head, site. Out: [`Cors`], the listed origin. Errors: none. I/O: none.
//! Source: WHATWG Fetch §3.3.2 (`Origin`, `Access-Control-Request-Method`), §4.8 (CORS-preflight fetch).

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use http::{HeaderMap, Method};

use crate::fields::Head;
use crate::route::origin::Origin;
use crate::route::rule::Site;

/// Whether a request is a CORS preflight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cors<'a> {
    /// It is none.
    NoPreflight,
    /// One for a script of this origin, which is the site's own or listed.
    Listed(&'a Origin),
    /// One for a script of another origin.
    Unlisted,
}

/// Tells preflights from other requests. A preflight carries no cookies, so nothing can be said about its session.
#[must_use]
pub fn cors<'a>(method: &Method, headers: &HeaderMap, site: &'a Site) -> Cors<'a> {
    let is_preflight = *method == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if !is_preflight {
        return Cors::NoPreflight;
    }
    match listed_origin(Head::of(headers), site) {
        Some(origin) => Cors::Listed(origin),
        None => Cors::Unlisted,
    }
}

/// The request's `Origin`, if it came once and is the site's own or listed: answers may be read by its scripts.
#[must_use]
pub fn listed_origin<'a>(head: Head<'_>, site: &'a Site) -> Option<&'a Origin> {
    let mut lines = head.get_all(&ORIGIN);
    let (Some(value), None) = (lines.next(), lines.next()) else { return None };
    std::iter::once(&site.origin).chain(&site.trusted_origins).find(|origin| value == origin.as_str())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn site() -> Site {
        Site::for_tests("https://listed.example")
    }

    fn plain(origins: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for origin in origins {
            headers.append(ORIGIN, HeaderValue::from_static(origin));
        }
        headers
    }

    fn asking(origins: &[&'static str]) -> HeaderMap {
        let mut headers = plain(origins);
        headers.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("PUT"));
        headers
    }

    #[test]
    fn a_preflight_has_three_marks() {
        let listed = &["https://listed.example"][..];
        let site = site();
        let Cors::Listed(origin) = cors(&Method::OPTIONS, &asking(listed), &site) else {
            panic!("a preflight")
        };
        assert_eq!(origin.as_str(), "https://listed.example");
        assert_eq!(cors(&Method::GET, &asking(listed), &site), Cors::NoPreflight);
        assert_eq!(cors(&Method::OPTIONS, &plain(listed), &site), Cors::NoPreflight);
        assert_eq!(cors(&Method::OPTIONS, &asking(&[]), &site), Cors::NoPreflight);
    }

    #[test]
    fn an_origin_is_listed_exactly_or_not_at_all() {
        let site = site();
        assert!(listed_origin(Head::of(&plain(&["https://app.example"])), &site).is_some());
        for origins in [
            &["null"][..],
            &["https://listed.example."],
            &["https://listed.example:443"],
            &["http://listed.example"],
            &["https://listed.example", "https://listed.example"],
        ] {
            assert_eq!(cors(&Method::OPTIONS, &asking(origins), &site), Cors::Unlisted, "{origins:?}");
        }
    }
}
