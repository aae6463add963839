//! Who is on the other end of a connection, and whom to believe about earlier hops.
//! In: socket address, header lines, the listed networks. Out: [`Hops`]. Errors: none; what cannot be read is not believed.
//! I/O: none. Source: RFC 7239 §8.1 (why forwarded addresses are not believed from anybody).

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

/// Most addresses of an `X-Forwarded-For` that are read.
const MOST_HOPS: usize = 20;

/// The networks of the proxies before this gateway. None unless the settings list them.
#[derive(Clone, Debug, Default)]
pub struct TrustedNetworks(Vec<IpNet>);

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
    /// Networks whose hosts are believed.
    #[must_use]
    pub const fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    fn lists(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&ip))
    }

    /// The way of a request: `X-Forwarded-For` is read from its end for as long as listed proxies wrote it.
    #[must_use]
    pub fn hops(&self, socket: SocketAddr, headers: &HeaderMap) -> Hops {
        let end = socket.ip().to_canonical();
        if !self.lists(end) {
            return Hops { client: end, proxies: Vec::new(), through: Through::Anybody };
        }
        let told: Vec<Option<IpAddr>> = headers
            .get_all("x-forwarded-for")
            .iter()
            .flat_map(|line| line.to_str().unwrap_or_default().split(',').map(address))
            .collect();
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
        let hops =
            TrustedNetworks::new(networks).hops(SocketAddr::new(socket.parse().expect("an IP"), 1), &headers);
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

    #[test]
    fn what_cannot_be_read_ends_the_way() {
        let got = hops(&["10.0.0.0/8"], "10.0.0.1", &["1.1.1.1, unknown, 10.0.0.2"]);
        assert_eq!(got, ("10.0.0.2".into(), vec!["10.0.0.1".into()]));
    }
}
