//! What the fuzz targets have in common: plain readers that are not the gateway's own, to hold it against.

use std::net::IpAddr;

use doorkeep::forward::{NewTrace, Sampled, SeenAs, Via};
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The site `https://app.example`.
pub fn seen_as() -> SeenAs {
    SeenAs::new(&Scheme::HTTPS, &"app.example".parse().expect("an authority"), 443)
}

/// The way of a request from 192.0.2.1 to a site, with the id `r`.
pub fn via(seen_as: &SeenAs) -> Via<'_> {
    let client = IpAddr::from([192, 0, 2, 1]);
    let trace = NewTrace { trace_id: 1, span_id: 2, sampled: Sampled::No };
    Via {
        client_ip: client,
        peer_ip: client,
        earlier: None,
        seen_as,
        request_id: HeaderValue::from_static("r"),
        trace,
    }
}

/// The lines of an input.
pub fn lines(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    data.split(|byte| *byte == b'\n')
}

/// A head of the lines that are fields, `name: value`.
pub fn head<'a>(lines: impl Iterator<Item = &'a [u8]>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some(at) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..at], line[at + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    headers
}

/// A name as a reader sees it to whom only letters and digits count.
pub fn folded(name: &[u8]) -> String {
    name.iter()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte.to_ascii_lowercase()) } else { '_' })
        .collect()
}

/// `%XX` taken away once.
pub fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let digits = text.get(at + 1..at + 3).filter(|_| text[at] == b'%');
        let byte = digits
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        out.push(byte.unwrap_or(text[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    out
}

/// Numbers that follow from an input, so that it fails the same way each time.
pub struct Dice(u64);

impl Dice {
    /// Dice for this input.
    pub fn of(data: &[u8]) -> Self {
        // FNV-1a.
        let mix = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        Self(data.iter().fold(0xcbf2_9ce4_8422_2325, mix) | 1)
    }

    /// A number below `sides`.
    pub fn below(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or_default() % sides
    }
}
