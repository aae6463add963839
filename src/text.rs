//! Texts for people and logs.
//! In: texts and errors. Out: texts. Errors: none. I/O: none.

use std::io::Write as _;
use std::net::IpAddr;

/// Text as it may stand in HTML, between tags or in a quoted attribute value (WHATWG HTML §13.1.2, §13.1.4).
#[must_use]
pub fn html_escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Writes an address as people and headers have it.
pub fn put_address(text: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            let mut digits = itoa::Buffer::new();
            for (at, octet) in ip.octets().into_iter().enumerate() {
                if at > 0 {
                    text.push(b'.');
                }
                text.extend_from_slice(digits.format(octet).as_bytes());
            }
        }
        // Memory takes every text.
        IpAddr::V6(ip) => drop(write!(text, "{ip}")),
    }
}

/// An error and its causes, in one line.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        text.push_str(": ");
        text.push_str(&deeper.to_string());
        cause = deeper.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_they_are_read() {
        for text in ["0.0.0.0", "192.0.2.17", "255.255.255.255", "::1", "2001:db8::7", "::ffff:10.0.0.1"] {
            let mut written = b"before ".to_vec();
            put_address(&mut written, text.parse().expect("an address"));
            assert_eq!(written, format!("before {text}").into_bytes());
        }
    }

    #[test]
    fn nothing_that_is_shown_is_markup() {
        assert_eq!(html_escaped("<a href='x'>\"&"), "&lt;a href=&#39;x&#39;&gt;&quot;&amp;");
    }
}
