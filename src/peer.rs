//! Who is on the other end of a connection, and whom to believe about earlier hops.
//! In: socket address, header lines, the listed networks. Out: [`Hops`]. Errors: none; what cannot be read is not believed.
//! I/O: none. Source: RFC 7239 §4 and §6 (`Forwarded`), §8.1 (why it is not believed from anybody).

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

/// Most addresses of a header that are read.
const MOST_HOPS: usize = 20;

/// The networks of the proxies before this gateway, none unless the settings list them, and the header that these write.
#[derive(Clone, Debug, Default)]
pub struct TrustedNetworks {
    networks: Vec<IpNet>,
    told: Told,
}

/// In which header listed proxies tell of earlier hops. The other one is never read: a proxy that writes one of them passes the
/// other on as its client sent it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Told {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

impl Told {
    /// The hops of a request, each as far as it can be read.
    fn hops(self, headers: &HeaderMap) -> Vec<Option<IpAddr>> {
        match self {
            Self::XForwardedFor => {
                lines(headers, "x-forwarded-for").flat_map(|line| line.split(',').map(address)).collect()
            }
            Self::Forwarded => lines(headers, "forwarded").flat_map(nodes).collect(),
        }
    }
}

fn lines<'h>(headers: &'h HeaderMap, name: &'static str) -> impl Iterator<Item = &'h str> {
    headers.get_all(name).iter().map(|line| line.to_str().unwrap_or_default())
}

/// The hops that a `Forwarded` line tells of. One that ends within quotes tells of none: its first writer may have opened
/// them so that what others added counts as his.
fn nodes(line: &str) -> Vec<Option<IpAddr>> {
    split(line, ',').map_or_else(|| vec![None], |elements| elements.into_iter().map(node).collect())
}

/// The parts of a text between separators, those in quotes not counted (RFC 7239 §4). `None`: quotes are left open.
fn split(text: &str, at: char) -> Option<Vec<&str>> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = text
        .split(|c: char| {
            let separates = c == at && !quoted;
            match c {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                _ => {}
            }
            separates
        })
        .collect();
    if quoted { None } else { Some(parts) }
}

/// The address that an element says its hop came `for`; names that hide it, and what says it twice, are none (§6).
fn node(element: &str) -> Option<IpAddr> {
    let pairs = split(element, ';')?.into_iter().filter_map(|pair| pair.trim().split_once('='));
    let mut named = pairs.filter(|(name, _)| name.eq_ignore_ascii_case("for")).map(|(_, value)| value);
    let (value, None) = (named.next()?, named.next()) else { return None };
    match value.strip_prefix('"') {
        None => address(value),
        Some(rest) => address(rest.strip_suffix('"')?),
    }
}

/// The way of a request to this gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hops {
    /// The client, as far as believed proxies tell.
    pub client: IpAddr,
    /// The addresses after the client, ending with the one on the socket; empty where the client itself is there.
    pub proxies: Vec<IpAddr>,
    /// Whether a listed proxy is on the socket.
    pub through: Through,
}

/// Whether the other end is a listed proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// A listed proxy.
    Listed,
    /// Anybody else.
    Anybody,
}

impl TrustedNetworks {
    /// Networks whose hosts are believed about what they write in that header.
    #[must_use]
    pub const fn new(networks: Vec<IpNet>, told: Told) -> Self {
        Self { networks, told }
    }

    fn lists(&self, ip: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&ip))
    }

    /// The way of a request: the header is read from its end for as long as listed proxies wrote it.
    #[must_use]
    pub fn hops(&self, socket: SocketAddr, headers: &HeaderMap) -> Hops {
        let end = socket.ip().to_canonical();
        if !self.lists(end) {
            return Hops { client: end, proxies: Vec::new(), through: Through::Anybody };
        }
        let told = self.told.hops(headers);
        let mut way = vec![end];
        for hop in told.into_iter().rev().take(MOST_HOPS) {
            let Some(ip) = hop else { break };
            way.push(ip);
            if !self.lists(ip) {
                break;
            }
        }
        let client = way.pop().unwrap_or(end);
        way.reverse();
        Hops { client, proxies: way, through: Through::Listed }
    }
}

/// An address as proxies write it: bare, with a port, or IPv6 in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let ip = text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|socket| socket.ip());
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok();
    ip.or_else(with_port).or_else(bracketed).map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hops(trusted: &[&str], socket: &str, lines: &[&'static str]) -> (String, Vec<String>) {
        let networks = trusted.iter().map(|n| n.parse().expect("a network")).collect();
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", http::HeaderValue::from_static(line));
        }
        let hops = TrustedNetworks::new(networks, Told::XForwardedFor)
            .hops(SocketAddr::new(socket.parse().expect("an IP"), 1), &headers);
        (hops.client.to_string(), hops.proxies.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn nobody_is_believed_by_default() {
        assert_eq!(hops(&[], "9.9.9.9", &["1.1.1.1"]), ("9.9.9.9".into(), vec![]));
        assert_eq!(hops(&["10.0.0.0/8"], "9.9.9.9", &["1.1.1.1"]), ("9.9.9.9".into(), vec![]));
    }

    #[test]
    fn listed_proxies_are_believed_one_hop_each() {
        let got = hops(&["10.0.0.0/8"], "10.0.0.1", &["6.6.6.6, 1.1.1.1", "10.0.0.7:1234"]);
        assert_eq!(got, ("1.1.1.1".into(), vec!["10.0.0.7".into(), "10.0.0.1".into()]));
        assert_eq!(hops(&["10.0.0.0/8"], "::ffff:10.0.0.1", &["[2001:db8::1]:99"]).0, "2001:db8::1");
        assert_eq!(hops(&["10.0.0.0/8"], "10.0.0.1", &[]), ("10.0.0.1".into(), vec![]));
    }

    fn forwarded(lines: &[&'static str]) -> (String, Vec<String>) {
        let networks = vec!["10.0.0.0/8".parse().expect("a network")];
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", http::HeaderValue::from_static("6.6.6.6"));
        for line in lines {
            headers.append("forwarded", http::HeaderValue::from_static(line));
        }
        let socket = SocketAddr::from(([10, 0, 0, 1], 1));
        let hops = TrustedNetworks::new(networks, Told::Forwarded).hops(socket, &headers);
        (hops.client.to_string(), hops.proxies.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn forwarded_is_read_where_the_proxies_write_it() {
        let got = forwarded(&[
            "for=6.6.6.6, for=\"[2001:db8::1]:99\";proto=https",
            "proto=http;For=10.0.0.7;by=_x",
        ]);
        assert_eq!(got, ("2001:db8::1".into(), vec!["10.0.0.7".into(), "10.0.0.1".into()]));
        assert_eq!(forwarded(&["for=1.1.1.1;host=\"a,for=6.6.6.6;b\""]).0, "1.1.1.1");
        assert_eq!(forwarded(&["for=1.1.1.1;host=\"a\\\",for=6.6.6.6\""]).0, "1.1.1.1");
        for unreadable in
            ["for=_hidden", "for=unknown", "by=1.1.1.1", "for=1.1.1.1;for=2.2.2.2", "for=\"1.1.1.1", ""]
        {
            assert_eq!(forwarded(&[unreadable]).0, "10.0.0.1", "{unreadable}");
        }
        assert_eq!(forwarded(&[]).0, "10.0.0.1", "the other header is not read");
    }

    #[test]
    fn quotes_that_a_client_leaves_open_swallow_nothing_of_what_proxies_add() {
        for line in [
            "for=6.6.6.6;host=\"x, for=198.51.100.7",
            "for=6.6.6.6;host=\"x, for=\"[2001:db8::1]:99\"",
            "for=6.6.6.6;host=\"x\\, for=198.51.100.7;proto=https",
            "for=6.6.6.6;host=\"a\" \"b, for=10.0.0.7",
        ] {
            assert_eq!(forwarded(&[line]).0, "10.0.0.1", "{line}");
            assert_eq!(forwarded(&["for=6.6.6.6", line]).0, "10.0.0.1", "{line}");
        }
        assert_eq!(
            forwarded(&["for=6.6.6.6;host=\"x", "for=198.51.100.7"]).0,
            "198.51.100.7",
            "lines are apart"
        );
    }

    #[test]
    fn what_cannot_be_read_ends_the_way() {
        let got = hops(&["10.0.0.0/8"], "10.0.0.1", &["1.1.1.1, unknown, 10.0.0.2"]);
        assert_eq!(got, ("10.0.0.2".into(), vec!["10.0.0.1".into()]));
    }
}
