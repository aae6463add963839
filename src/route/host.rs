//! Reads a host, with or without a port, in the one form that all its spellings share.
//! In: text of a `Host` field or an authority. Out: [`HostPort`]. Errors: what is no host is `None`. I/O: none.
//! Source: RFC 9110 §7.2 (`Host`); RFC 3986 §3.2.2 (host); RFC 1123 §2.1 (names); RFC 5952 (IPv6 text).

use std::cell::RefCell;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Longest name taken (RFC 1035 §2.3.4, without the final dot).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// A host name or address in lower case, without final dot, and the port written beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostPort {
    pub(super) name: Arc<str>,
    pub(super) port: Option<u16>,
}

thread_local! {
    /// How the last host was written, and that host: most requests to a worker name the same one as the request before.
    static LAST: RefCell<(String, Option<HostPort>)> = const { RefCell::new((String::new(), None)) };
}

impl HostPort {
    /// Takes a name, a dotted IPv4 address or a bracketed IPv6 address. User info, zones, escapes, empty labels,
    /// numbers that only some readers take for an address, and an empty port are no host.
    pub(super) fn parse(text: &str) -> Option<Self> {
        LAST.with_borrow_mut(|(written, host)| {
            if host.is_none() || written != text {
                *host = Some(Self::read(text)?);
                written.clear();
                written.push_str(text);
            }
            host.clone()
        })
    }

    fn read(text: &str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix('[') {
            let (inside, after) = rest.split_once(']')?;
            let address: Ipv6Addr = inside.parse().ok()?;
            let port = match after {
                "" => None,
                after => Some(parse_port(after.strip_prefix(':')?)?),
            };
            return Some(Self { name: format!("[{address}]").into(), port });
        }
        let colon = text.bytes().rposition(|byte| byte == b':');
        let (name, port) = match colon.and_then(|at| text.split_at_checked(at)) {
            None => (text, None),
            Some((name, port)) => (name, Some(parse_port(port.get(1..)?)?)),
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        is_name(name).then(|| Self { name: name.to_ascii_lowercase().into(), port })
    }
}

/// A site's host as requests are compared with it: lower case, no final dot. `None` where `text` is no host, or has a port.
#[must_use]
pub fn canonical_host(text: &str) -> Option<String> {
    HostPort::read(text).filter(|host| host.port.is_none()).map(|host| host.name.to_string())
}

fn parse_port(text: &str) -> Option<u16> {
    let digits = (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

fn is_name(name: &str) -> bool {
    // Every request names a host: its bytes are looked at once.
    let mut label = 0;
    for (at, byte) in name.bytes().enumerate() {
        if byte == b'.' {
            if !(1..=MAX_LABEL).contains(&(at - label)) {
                return false;
            }
            label = at + 1;
        } else if !is_name_byte(byte) {
            return false;
        }
    }
    let last = name.as_bytes().get(label..).unwrap_or_default();
    let number = last.first().is_some_and(u8::is_ascii_digit) && ends_in_number(last);
    (1..=MAX_LABEL).contains(&last.len())
        && name.len() <= MAX_NAME
        && (!number || name.parse::<Ipv4Addr>().is_ok())
}

const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// Whether a browser would take a name with this last label for an IPv4 address (WHATWG URL, "ends in a number").
fn ends_in_number(last: &[u8]) -> bool {
    let hex = last.strip_prefix(b"0x").or_else(|| last.strip_prefix(b"0X"));
    last.iter().all(u8::is_ascii_digit) || hex.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<(String, Option<u16>)> {
        HostPort::parse(text).map(|host| (host.name.to_string(), host.port))
    }

    #[test]
    fn the_host_before_stands_for_those_alone_that_are_written_the_same() {
        let texts = [
            "a.example",
            "a.example:80",
            "A.EXAMPLE",
            "a.example",
            "a..example",
            "a.example",
            "",
            "[::1]",
            "b",
        ];
        for (at, text) in texts.iter().enumerate() {
            for before in texts {
                let _remembered = HostPort::parse(before);
                assert_eq!(HostPort::parse(text), HostPort::read(text), "{before:?} before {text:?}");
            }
            let again = [HostPort::parse(text), HostPort::parse(text)].map(|host| host.map(|host| host.name));
            let [Some(one), Some(other)] = again else { continue };
            assert!(Arc::ptr_eq(&one, &other), "{at}: it is not read again");
        }
    }

    #[test]
    fn spellings_of_one_host_become_one() {
        for text in ["app.example", "APP.Example", "app.example."] {
            assert_eq!(parsed(text), Some(("app.example".into(), None)), "{text}");
        }
        assert_eq!(parsed("App.Example.:8443"), Some(("app.example".into(), Some(8443))));
        assert_eq!(parsed("legacy_app"), Some(("legacy_app".into(), None)));
        assert_eq!(parsed("10.0.0.1:80"), Some(("10.0.0.1".into(), Some(80))));
        assert_eq!(parsed("[0:0::1]:80"), Some(("[::1]".into(), Some(80))));
        assert_eq!(parsed("[2001:DB8::1]"), Some(("[2001:db8::1]".into(), None)));
    }

    #[test]
    fn what_readers_disagree_about_is_no_host() {
        let long = format!("{}.example", "a".repeat(64));
        for text in [
            "",
            ".",
            "a..b",
            ".a",
            "a..",
            "a b",
            "a,b",
            "a/b",
            "a@b",
            "u:p@a",
            "a%2eb",
            "a\\b",
            "a:",
            "a:x",
            "a:+80",
            "a:65536",
            "a:000080",
            "a:80:80",
            "127.1",
            "1",
            "0x7f.1",
            "a.0x1",
            "256.0.0.1",
            "01.2.3.4",
            "::1",
            "[::1",
            "[::1]x",
            "[::1]:",
            "[fe80::1%25eth0]",
            "[v1.x]",
            "b\u{fc}cher",
            "a#",
            "a?b",
            "*",
            &long,
        ] {
            assert_eq!(parsed(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_site_has_no_port() {
        assert_eq!(canonical_host("App.example").as_deref(), Some("app.example"));
        assert_eq!(canonical_host("app.example:80"), None);
    }
}
