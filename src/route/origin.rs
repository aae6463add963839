//! An origin as browsers write it.
//! In: text. Out: [`Origin`]. Errors: what is no origin in that very form is `None`. I/O: none.
//! Source: RFC 6454 §6.2 (ASCII serialisation); WHATWG URL §4.7.

use std::fmt;

use url::Url;

/// How a site is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`.
    Http,
    /// `https`.
    Https,
}

impl Scheme {
    /// The scheme's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that goes without saying.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Scheme, host and port, written as browsers do: lower case, the default port left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    scheme: Scheme,
    text: String,
    host: String,
    authority: String,
    port: u16,
}

impl Origin {
    /// The origin in `https://host` or `https://host:port`. Nothing may follow, not even a slash; capitals and a needless
    /// default port are taken; names outside ASCII have to come in their `xn--` form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        let serialised = url.origin().ascii_serialization();
        let given = text.to_ascii_lowercase();
        let with_port = format!("{serialised}:{}", scheme.default_port());
        // Whatever the parser normalised away (blanks, escapes, user info, path) shows here.
        if given != serialised && (url.port().is_some() || given != with_port) {
            return None;
        }
        Some(Self {
            scheme,
            host: url.host_str()?.to_owned(),
            authority: url.authority().to_owned(),
            port: url.port_or_known_default()?,
            text: serialised,
        })
    }

    /// The whole origin, such as `https://app.example:8443`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its scheme.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Host, and port unless it is the default one.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The host alone; an IPv6 address keeps its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, also where it goes without saying.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_written_one_way() {
        for text in ["https://app.example", "HTTPS://App.Example", "https://app.example:443"] {
            let origin = Origin::parse(text).expect(text);
            assert_eq!(origin.as_str(), "https://app.example");
            assert_eq!((origin.authority(), origin.port()), ("app.example", 443));
        }
        let origin = Origin::parse("http://[::1]:8080").expect("an origin");
        assert_eq!(origin.scheme(), Scheme::Http);
        assert_eq!((origin.authority(), origin.host(), origin.port()), ("[::1]:8080", "[::1]", 8080));
    }

    #[test]
    fn anything_beside_an_origin_is_none() {
        for text in [
            "",
            "null",
            "app.example",
            "//app.example",
            "https://",
            "https://a/",
            "https://a/x",
            "https://a?x",
            "https://a#x",
            "https://u@a",
            "https://u:p@a",
            "https://a:",
            "https://a:0443",
            "https://a:80:443",
            " https://a",
            "https://a ",
            "https://a\t",
            "https:a",
            "https:/a",
            "https:\\\\a",
            "https://127.1",
            "https://%61",
            "https://b\u{fc}cher",
            "ftp://a",
            "file:///",
            "ws://a",
            "http://a:443:443",
        ] {
            assert_eq!(Origin::parse(text), None, "{text:?}");
        }
    }
}
