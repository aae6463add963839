//! Where a browser may be sent after signing in: pages of listed origins and nothing else.
//! In: the `redirect` value as anybody wrote it. Out: a URL that is safe to send. Errors: none; what is not safe becomes
//! the default page. I/O: none.
//! Source: WHATWG URL §4.4 (how a browser reads odd forms); RFC 9700 §4.11 (open redirectors).

use url::{Origin, Url};

/// Longest `redirect` looked at, in bytes.
const LONGEST: usize = 4096;

/// The allow-list and the page for everybody else.
#[derive(Clone, Debug)]
pub(super) struct WayBack {
    app: Url,
    origins: Vec<Origin>,
}

impl WayBack {
    /// Allows the origins of `allowed` and of the default page itself.
    pub(super) fn new(app: Url, allowed: &[Url]) -> Self {
        let origins = allowed.iter().chain([&app]).map(Url::origin).collect();
        Self { app, origins }
    }

    /// The page named by `redirect`, or the default one. What comes back is the parsed URL, never the text: whatever a
    /// browser might have read differently is gone.
    pub(super) fn page(&self, redirect: Option<&str>) -> Url {
        redirect.and_then(|text| self.allowed(text)).unwrap_or_else(|| self.app.clone())
    }

    /// The page named by `redirect`, if its origin is listed.
    pub(super) fn allowed(&self, redirect: &str) -> Option<Url> {
        // A parser drops tabs and line ends, trims blanks and turns `\` into `/`. Nobody honest writes those.
        let plain = redirect.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
        if redirect.len() > LONGEST || !plain {
            return None;
        }
        let (scheme, rest) = redirect.split_once("://")?;
        let known_scheme = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
        if !known_scheme || rest.starts_with('/') {
            return None;
        }
        let url = Url::parse(redirect).ok()?;
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let listed = !authority.contains('@') && self.origins.contains(&url.origin());
        listed.then_some(url)
    }

    /// The listed origins as a content security policy writes them.
    pub(super) fn sources(&self) -> String {
        self.origins.iter().map(Origin::ascii_serialization).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way_back() -> WayBack {
        let url = |text| Url::parse(text).unwrap();
        WayBack::new(url("https://app.domain.com/home"), &[url("http://127.0.0.1:8080")])
    }

    #[test]
    fn pages_of_listed_origins_are_gone_back_to() {
        let fine = [
            ("https://app.domain.com/settings?a=1#b", "https://app.domain.com/settings?a=1#b"),
            ("https://app.domain.com", "https://app.domain.com/"),
            ("https://app.domain.com:443/x", "https://app.domain.com/x"),
            ("HTTPS://APP.Domain.COM/Settings", "https://app.domain.com/Settings"),
            (
                "http://127.0.0.1:8080/?next=https://evil.example/",
                "http://127.0.0.1:8080/?next=https://evil.example/",
            ),
            ("https://app.domain.com/a/../b@c", "https://app.domain.com/b@c"),
        ];
        for (redirect, page) in fine {
            assert_eq!(way_back().page(Some(redirect)).as_str(), page);
        }
    }

    #[test]
    fn everything_else_becomes_the_default_page() {
        let hostile = [
            "",
            "/",
            "/settings",
            "//evil.example",
            "///evil.example",
            "////app.domain.com",
            "https:evil.example",
            "https:/evil.example",
            "https:app.domain.com",
            "https:///app.domain.com/",
            "https://evil.example/",
            "https://app.domain.com.evil.example/",
            "https://evil.example/https://app.domain.com/",
            "https://evil.example?https://app.domain.com/",
            "https://evil.example#https://app.domain.com/",
            "https://app.domain.com@evil.example/",
            "https://evil@app.domain.com/",
            "https://user:word@app.domain.com/",
            "https://@app.domain.com/",
            "https://app.domain.com:8443/",
            "http://app.domain.com/",
            "http://127.0.0.1:8081/",
            "http://127.0.0.1/",
            "https://app.domain.com\\@evil.example/",
            "https:\\\\app.domain.com\\",
            "\\\\evil.example",
            "/\\evil.example",
            "\thttps://app.domain.com/",
            "ht\ttps://app.domain.com/",
            "https://app.domain\n.com/",
            "https://app.domain.com/\r\nSet-Cookie: a=b",
            " https://app.domain.com/",
            "https://app.domain.com/ ",
            "https://app.domain.com/\u{0}",
            "https://app.domain.com./",
            "https://app。domain。com/",
            "https://аpp.domain.com/",
            "javascript:alert(1)",
            "javascript://app.domain.com/%0aalert(1)",
            "JaVaScRiPt:alert(1)",
            "data:text/html,<script>alert(1)</script>",
            "blob:https://app.domain.com/x",
            "view-source:https://app.domain.com/",
            "ftp://app.domain.com/",
            "wss://app.domain.com/",
            "about:blank",
            "null",
        ];
        for redirect in hostile {
            assert_eq!(
                way_back().page(Some(redirect)).as_str(),
                "https://app.domain.com/home",
                "{redirect:?}"
            );
        }
        let long = format!("https://app.domain.com/{}", "x".repeat(LONGEST));
        assert_eq!(way_back().page(Some(&long)).as_str(), "https://app.domain.com/home");
        assert_eq!(way_back().page(None).as_str(), "https://app.domain.com/home");
    }
}
