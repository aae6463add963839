//! Where a browser may be sent back to.
//! In: text from a request, site. Out: an absolute URL on the site or on a listed origin. Errors: anything else is `None`.
//! I/O: none. Source: WHATWG URL §4.4 (what browsers strip and how they read backslashes).

use url::Url;

use crate::route::origin::Origin;
use crate::route::rule::Site;

/// Longest return target read, in bytes.
pub const MAX_RETURN: usize = 8 * 1024;

/// The page to return to: a path of the site, or a URL that begins with the site's origin or a listed one, as an absolute URL.
///
/// Text that browsers would tidy up before they read it (controls, tabs, newlines, backslashes, blanks around it) is none,
/// and so is a path that begins with two slashes, which names a host.
#[must_use]
pub fn return_target(text: &str, site: &Site) -> Option<String> {
    if !is_tidy(text) {
        return None;
    }
    if text.starts_with('/') {
        if text.starts_with("//") {
            return None;
        }
        let url = Url::parse(site.origin.as_str()).ok()?.join(text).ok()?;
        return is_on(&url, &site.origin).then(|| url.into());
    }
    let origins = || std::iter::once(&site.origin).chain(&site.trusted_origins);
    origins().find_map(|origin| absolute(text, origin)).map(Url::into)
}

/// The page that a `Referer` names, if it is one of this origin: made anew from the origin, its path and its query.
#[must_use]
pub fn referer_page(referer: &str, origin: &Origin) -> Option<String> {
    if !is_tidy(referer) {
        return None;
    }
    let mut url = absolute(referer, origin)?;
    url.set_fragment(None);
    Some(url.into())
}

/// The URL in `text`, if it is written with exactly this origin in front.
fn absolute(text: &str, origin: &Origin) -> Option<Url> {
    let rest = text.strip_prefix(origin.as_str())?;
    if !rest.is_empty() && !rest.starts_with(['/', '?', '#']) {
        return None;
    }
    Url::parse(text).ok().filter(|url| is_on(url, origin))
}

fn is_on(url: &Url, origin: &Origin) -> bool {
    url.origin().ascii_serialization() == origin.as_str()
        && url.username().is_empty()
        && url.password().is_none()
}

fn is_tidy(text: &str) -> bool {
    text.len() <= MAX_RETURN
        && !text.chars().any(|c| c.is_control() || c == '\\')
        && text.trim().len() == text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site() -> Site {
        Site::for_tests("https://listed.example:8443")
    }

    #[test]
    fn paths_of_the_site_and_listed_origins_are_targets() {
        for (text, wanted) in [
            ("/", "https://app.example/"),
            ("/a/b?c=d#e", "https://app.example/a/b?c=d#e"),
            ("/a?next=//evil.example", "https://app.example/a?next=//evil.example"),
            ("/a/../b", "https://app.example/b"),
            ("/.//evil.example", "https://app.example//evil.example"),
            ("/\u{fc}", "https://app.example/%C3%BC"),
            ("https://app.example", "https://app.example/"),
            ("https://app.example/x", "https://app.example/x"),
            ("https://listed.example:8443?x", "https://listed.example:8443/?x"),
        ] {
            assert_eq!(return_target(text, &site()).as_deref(), Some(wanted), "{text}");
        }
    }

    #[test]
    fn nothing_that_a_browser_takes_elsewhere_is_one() {
        for text in [
            "",
            "a",
            "//evil",
            "///evil",
            "/\\evil",
            "\\/evil",
            "\\\\evil",
            "/\t/evil",
            "/\n/evil",
            "\t//evil",
            " //evil",
            "/ \u{0}",
            " /x",
            "/x ",
            "\u{a0}/x",
            "?x",
            "#x",
            "javascript:alert(1)",
            "data:,x",
            "https:evil",
            "https:/evil",
            "https:///evil",
            "https://evil",
            "https://app.example.evil",
            "https://app.example@evil",
            "https://app.example:444/",
            "http://app.example/",
            "https://u@app.example/",
            "HTTPS://app.example/",
            "https://app.example\\@evil",
            "https://listed.example/",
            "blob:https://app.example/x",
        ] {
            assert_eq!(return_target(text, &site()), None, "{text:?}");
        }
        assert_eq!(return_target(&format!("/{}", "a".repeat(MAX_RETURN)), &site()), None);
    }

    #[test]
    fn a_referer_of_the_origin_is_a_page() {
        let page = |text| referer_page(text, &site().origin);
        assert_eq!(page("https://app.example/form?x=1#y").as_deref(), Some("https://app.example/form?x=1"));
        for text in ["/form", "https://listed.example:8443/", "https://app.example.evil/", "about:blank", ""]
        {
            assert_eq!(page(text), None, "{text:?}");
        }
    }
}
