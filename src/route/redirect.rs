//! Where browsers are sent that come without TLS.
//! In: the setting, site and target of a request. Out: an address, or none. Errors: none. I/O: none.
//! Source: RFC 9110 §15.4.9 (308); RFC 8555 §8.3 (who has to be let in by plain HTTP).

use crate::route::origin::Scheme;
use crate::route::rule::Site;
use crate::route::target::Target;

/// What browsers get that come without TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redirect {
    /// What others get.
    Nowhere,
    /// The address of the same page at the site's own origin, but for paths that begin so.
    ToOrigin {
        /// For those who fetch by plain HTTP only, such as certificate authorities.
        except: Vec<String>,
    },
}

impl Redirect {
    /// The address: made from the site's own origin, never from what the request calls it.
    #[must_use]
    pub fn to(&self, site: &Site, target: &Target) -> Option<String> {
        let Self::ToOrigin { except } = self else { return None };
        let exempt = !target.is_ambiguous() && except.iter().any(|path| target.path().starts_with(path));
        (site.origin.scheme() == Scheme::Https && !exempt)
            .then(|| format!("{}{}", site.origin.as_str(), target.path_and_query()))
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;

    #[test]
    fn the_same_page_of_the_sites_own_origin() {
        let redirect = Redirect::ToOrigin { except: vec!["/.well-known/acme-challenge/".into()] };
        let site = Site::for_tests("https://other.example");
        let to = |asked: &str| {
            let uri = format!("http://APP.example:8080{asked}").parse().expect("a target");
            redirect.to(&site, &Target::parse(&Method::GET, &uri, &HeaderMap::new()).expect("a target"))
        };
        assert_eq!(to("/a%2Fb?c=d").as_deref(), Some("https://app.example/a%2Fb?c=d"));
        assert_eq!(to("//evil.example/").as_deref(), Some("https://app.example//evil.example/"));
        assert_eq!(to("/.well-known/acme-challenge/x"), None);
        assert!(to("/.well-known/acme-challenge/../../x").is_some());
        assert!(to("/.well-known/acme-challenge").is_some());
    }
}
