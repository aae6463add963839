//! The PROXY protocol: a load balancer that passes bytes on says first whose they are.
//! In: a connection of a listed proxy. Out: the client's address, and the stream behind the head. Errors: [`ProxyFault`]; the
//! connection is closed, for there is nobody to tell. I/O: the connection.
//! Source: the PROXY protocol, versions 1 and 2 (`proxy-protocol.txt` of `HAProxy`, §2): listed senders have to send a head, no
//! others may, and the two are never guessed apart.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::server::rewound::Rewound;

/// Longest head of version 1, CRLF included (§2.1).
const LONGEST_V1: usize = 107;
/// Longest head of version 2 that is taken: addresses and what proxies add to them.
const LONGEST_V2: usize = 4096;
/// The fixed part of a head of version 2 (§2.2).
const FIXED_V2: usize = 16;

/// Who sends PROXY protocol heads.
#[derive(Clone, Debug, Default)]
pub struct ProxySenders {
    /// The networks of the load balancers that do.
    pub networks: Vec<IpNet>,
    /// Longest wait for a head.
    pub patience: Duration,
}

/// Why a connection of a listed proxy is closed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyFault {
    /// It did not come in time.
    #[error("no PROXY protocol head in time")]
    Late(#[from] tokio::time::error::Elapsed),
    /// What came is none.
    #[error("no PROXY protocol head")]
    Malformed,
    /// The connection broke.
    #[error("the connection broke before its PROXY protocol head")]
    Cut(#[from] io::Error),
}

impl ProxySenders {
    /// Whether connections from there begin with a head.
    pub(super) fn lists(&self, socket: SocketAddr) -> bool {
        let ip = socket.ip().to_canonical();
        self.networks.iter().any(|network| network.contains(&ip))
    }

    /// The client of a connection: the one that the head names, or the proxy itself where it speaks for itself.
    pub(super) async fn client<S: AsyncRead + Unpin>(
        &self,
        stream: S,
        socket: SocketAddr,
    ) -> Result<(SocketAddr, Rewound<S>), ProxyFault> {
        let mut stream = stream;
        let mut seen = BytesMut::with_capacity(256);
        let (length, client) = tokio::time::timeout(self.patience, async {
            loop {
                if stream.read_buf(&mut seen).await? == 0 {
                    return Err(ProxyFault::Malformed);
                }
                if let Some(head) = parse(&seen)? {
                    return Ok(head);
                }
            }
        })
        .await??;
        seen.advance(length);
        let mut stream = Rewound::new(stream);
        stream.unread(seen);
        Ok((client.unwrap_or(socket), stream))
    }
}

/// A whole head's length and the client that it names; `None`: more has to come.
fn parse(seen: &[u8]) -> Result<Option<(usize, Option<SocketAddr>)>, ProxyFault> {
    if begins(seen, ppp::v2::PROTOCOL_PREFIX) {
        parse_v2(seen)
    } else if begins(seen, b"PROXY ") {
        parse_v1(seen)
    } else {
        Err(ProxyFault::Malformed)
    }
}

/// Whether what came is the beginning of `prefix`, or begins with it.
fn begins(seen: &[u8], prefix: &[u8]) -> bool {
    seen.starts_with(prefix) || prefix.starts_with(seen)
}

fn parse_v1(seen: &[u8]) -> Result<Option<(usize, Option<SocketAddr>)>, ProxyFault> {
    let Some(end) = seen.iter().take(LONGEST_V1).position(|byte| *byte == b'\n') else {
        return if seen.len() < LONGEST_V1 { Ok(None) } else { Err(ProxyFault::Malformed) };
    };
    let line = seen.get(..=end).and_then(|line| std::str::from_utf8(line).ok());
    let head = ppp::v1::Header::try_from(line.ok_or(ProxyFault::Malformed)?);
    let client = match head.map_err(|_what| ProxyFault::Malformed)?.addresses {
        ppp::v1::Addresses::Tcp4(ip) => Some(SocketAddr::from((ip.source_address, ip.source_port))),
        ppp::v1::Addresses::Tcp6(ip) => Some(SocketAddr::from((ip.source_address, ip.source_port))),
        ppp::v1::Addresses::Unknown => None,
    };
    Ok(Some((end + 1, client)))
}

fn parse_v2(seen: &[u8]) -> Result<Option<(usize, Option<SocketAddr>)>, ProxyFault> {
    let Some([high, low]) = seen.get(14..FIXED_V2) else { return Ok(None) };
    let length = FIXED_V2 + usize::from(u16::from_be_bytes([*high, *low]));
    if length > LONGEST_V2 {
        return Err(ProxyFault::Malformed);
    }
    let Some(head) = seen.get(..length) else { return Ok(None) };
    let head = ppp::v2::Header::try_from(head).map_err(|_what| ProxyFault::Malformed)?;
    let client = match (head.command, head.protocol, head.addresses) {
        // A proxy's own connection, such as a health check (§2.2).
        (ppp::v2::Command::Local, _, _) => None,
        (_, ppp::v2::Protocol::Stream, ppp::v2::Addresses::IPv4(ip)) => {
            Some(SocketAddr::from((ip.source_address, ip.source_port)))
        }
        (_, ppp::v2::Protocol::Stream, ppp::v2::Addresses::IPv6(ip)) => {
            Some(SocketAddr::from((ip.source_address, ip.source_port)))
        }
        (_, _, ppp::v2::Addresses::Unspecified) => None,
        (_, _, _) => return Err(ProxyFault::Malformed),
    };
    Ok(Some((length, client)))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let mut head = ppp::v2::PROTOCOL_PREFIX.to_vec();
        head.extend([0x20 | command, family]);
        head.extend(u16::try_from(addresses.len()).expect("short").to_be_bytes());
        head.extend(addresses);
        head
    }

    /// Whose a connection is that begins so, and what is left of it; sent in pieces of that size.
    async fn client(bytes: &[u8], piece: usize) -> Result<(String, String), ProxyFault> {
        let senders = ProxySenders { networks: Vec::new(), patience: Duration::from_secs(5) };
        let (ours, mut theirs) = tokio::io::duplex(piece);
        let socket = "192.0.2.9:9".parse().expect("an address");
        let sending = async move {
            let _refused = theirs.write_all(bytes).await;
        };
        let reading = async {
            let (client, mut stream) = senders.client(ours, socket).await?;
            let mut rest = String::new();
            stream.read_to_string(&mut rest).await?;
            Ok((client.to_string(), rest))
        };
        tokio::join!(sending, reading).1
    }

    #[tokio::test]
    async fn both_versions_name_the_client_and_nothing_behind_them_is_lost() {
        let rest = "GET / HTTP/1.1\r\n";
        let v4 = [198, 51, 100, 7, 10, 0, 0, 1, 0x1f, 0x90, 0, 80];
        let mut v6 = vec![0; 36];
        v6[..2].copy_from_slice(&[0x20, 0x01]);
        v6[33] = 7;
        for (head, expected) in [
            (b"PROXY TCP4 198.51.100.7 10.0.0.1 8080 80\r\n".to_vec(), "198.51.100.7:8080"),
            (b"PROXY TCP6 2001:db8::7 ::1 8080 80\r\n".to_vec(), "[2001:db8::7]:8080"),
            (b"PROXY UNKNOWN\r\n".to_vec(), "192.0.2.9:9"),
            (v2(1, 0x11, &v4), "198.51.100.7:8080"),
            (v2(1, 0x11, &[&v4[..], &[4, 0, 1, 42]].concat()), "198.51.100.7:8080"),
            (v2(1, 0x21, &v6), "[2001::]:7"),
            (v2(0, 0x00, &[]), "192.0.2.9:9"),
            (v2(1, 0x00, &[]), "192.0.2.9:9"),
        ] {
            for piece in [1, 7, 4096] {
                let whole = [&head[..], rest.as_bytes()].concat();
                let got = client(&whole, piece).await.expect("a head");
                assert_eq!(got, (expected.to_owned(), rest.to_owned()), "{head:?}");
            }
        }
    }

    #[tokio::test]
    async fn anything_else_closes() {
        for head in [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            b"PROXY TCP4 198.51.100.7 10.0.0.1 8080\r\n".to_vec(),
            b"PROXY TCP4 198.51.100.777 10.0.0.1 8080 80\r\n".to_vec(),
            b"PROXY TCP4 198.51.100.7 10.0.0.1 8080 80\n".to_vec(),
            format!("PROXY UNKNOWN {}\r\n", "x".repeat(200)).into_bytes(),
            v2(1, 0x11, &[1, 2, 3]),
            v2(3, 0x11, &[0; 12]),
            v2(1, 0x12, &[0; 12]),
            v2(1, 0x31, &[0; 216]),
            v2(1, 0x11, &[0; 60_000]),
            b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\x0c".to_vec(),
            b"PROXY TCP4".to_vec(),
            Vec::new(),
        ] {
            let got = client(&head, 4096).await;
            assert!(matches!(got, Err(ProxyFault::Malformed)), "{got:?} {head:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_does_not_come_is_not_waited_for() {
        let senders = ProxySenders { networks: Vec::new(), patience: Duration::from_secs(5) };
        let (ours, _silent) = tokio::io::duplex(64);
        let got = senders.client(ours, "192.0.2.9:9".parse().expect("an address")).await;
        assert!(matches!(got.map(|_| ()), Err(ProxyFault::Late(_))));
    }
}
