//! The strict reader of framing, with every head cut at every byte.

use super::*;

/// Scans in one piece; where it is refused: after how many bytes, and why.
fn scan(bytes: &[u8]) -> Result<Framing, Refused> {
    let mut framing = Framing::new();
    framing.scan(bytes).map(|()| framing)
}

fn fault(head: &str) -> Option<Fault> {
    let whole = scan(head.as_bytes()).err();
    // However it is cut, the same comes of it at the same byte.
    for cut in 1..head.len() {
        let (one, two) = head.as_bytes().split_at(cut);
        let mut framing = Framing::new();
        let cut_result = match framing.scan(one) {
            Ok(()) => framing.scan(two).map_err(|refused| Refused { good: refused.good + cut, ..refused }),
            Err(refused) => Err(refused),
        };
        assert_eq!(cut_result.err(), whole, "cut at {cut}: {head:?}");
    }
    whole.map(|refused| refused.fault)
}

fn with(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

#[test]
fn one_framing_passes() {
    for fields in [
        "",
        "Content-Length: 3\r\n",
        "content-length:\t 3 \t\r\n",
        "Transfer-Encoding: chunked\r\n",
        "TRANSFER-ENCODING:Chunked\r\n",
        "Content-Lengths: x\r\n",
        "Content_Length: 3\r\nX-Transfer-Encoding: gzip\r\n",
        "Content-Length: 0003\r\n",
    ] {
        assert_eq!(fault(&with(fields)), None, "{fields:?}");
    }
}

#[test]
fn two_framings_and_malformed_ones_do_not() {
    for (fields, expected) in [
        ("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", Fault::Both),
        ("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", Fault::Both),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", Fault::Both),
        ("Content-Length: 3\r\nContent-Length: 3\r\n", Fault::Length),
        ("Content-Length: 3\r\ncontent-length: 4\r\n", Fault::Length),
        ("Content-Length: 3, 3\r\n", Fault::Length),
        ("Content-Length: +3\r\n", Fault::Length),
        ("Content-Length: -3\r\n", Fault::Length),
        ("Content-Length: 0x3\r\n", Fault::Length),
        ("Content-Length: 3 3\r\n", Fault::Length),
        ("Content-Length:\r\n", Fault::Length),
        ("Content-Length: 18446744073709551616\r\n", Fault::Length),
        ("Content-Length: 3\u{b}\r\n", Fault::Length),
        ("Content-Length:                                                              3\r\n", Fault::Length),
        ("Transfer-Encoding: gzip, chunked\r\n", Fault::Coding),
        ("Transfer-Encoding: chunked, chunked\r\n", Fault::Coding),
        ("Transfer-Encoding: chunked, identity\r\n", Fault::Coding),
        ("Transfer-Encoding: identity\r\n", Fault::Coding),
        ("Transfer-Encoding: xchunked\r\n", Fault::Coding),
        ("Transfer-Encoding: \"chunked\"\r\n", Fault::Coding),
        ("Transfer-Encoding: chunked;q=1\r\n", Fault::Coding),
        ("Transfer-Encoding: \u{b}chunked\r\n", Fault::Coding),
        ("Transfer-Encoding:\r\n", Fault::Coding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Fault::Coding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", Fault::Coding),
        ("X: y\n", Fault::LineEnd),
    ] {
        assert_eq!(fault(&with(fields)), Some(expected), "{fields:?}");
    }
}

#[test]
fn lines_end_with_crlf_everywhere() {
    for text in [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "\nGET / HTTP/1.1\r\n\r\n",
    ] {
        assert_eq!(fault(text), Some(Fault::LineEnd), "{text:?}");
    }
    assert_eq!(
        fault("\r\nGET / HTTP/1.1\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
        None,
        "one empty line is passed over"
    );
    assert_eq!(fault("\r\n\r\nGET / HTTP/1.1\r\n\r\n"), Some(Fault::Blank));
}

#[test]
fn chunks_are_counted() {
    let chunked = |rest: &str| format!("{}{rest}", with("Transfer-Encoding: chunked\r\n"));
    for good in [
        "0\r\n\r\n",
        "3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "00003\r\nabc\r\nA ; a=\"\n".trim_end_matches('\n'),
        "3;x=y\r\nabc\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "3 \t\r\nabc\r\n",
    ] {
        assert_eq!(fault(&chunked(good)), None, "{good:?}");
    }
    for bad in [
        "\r\n",
        "x\r\n",
        "-1\r\n",
        "+1\r\n",
        "0x1\r\n",
        " 1\r\n",
        "1 1\r\n",
        "1;\u{1}\r\n",
        "10000000000000000\r\n",
        "3\r\nabcd\r\n",
        "3\r\nabc\rx",
        "3\r\nabc0\r\n",
        ";\r\n",
        "1_0\r\n",
        "3,4\r\n",
    ] {
        assert_eq!(fault(&chunked(bad)), Some(Fault::Chunk), "{bad:?}");
    }
    let far = "x".repeat(2 * KEPT);
    for bad in ["\u{1b}", "\r", "\u{7f}", "\0"] {
        assert_eq!(fault(&chunked(&format!("3;{far}{bad}y\r\nabc\r\n"))), Some(Fault::Chunk), "{bad:?}");
    }
    for bad in ["3\nabc\r\n", "0\r\nX: y\n\r\n", "0\r\n\n", "3;a\nb\r\n"] {
        assert_eq!(fault(&chunked(bad)), Some(Fault::LineEnd), "{bad:?}");
    }
    assert_eq!(fault(&chunked("3\r\nabc\n0\r\n\r\n")), Some(Fault::Chunk));
    let endless = format!("3;{}", "x".repeat(SIZE_LINE));
    assert_eq!(scan(chunked(&endless).as_bytes()).map(|_| ()).map_err(|r| r.fault), Err(Fault::Chunk));
}

#[test]
fn the_end_of_a_message_is_known() {
    let within = |text: &str| scan(text.as_bytes()).expect("in order").within();
    assert!(!within(""));
    assert!(within("G"));
    assert!(within("GET / HTTP/1.1\r\n\r"));
    assert!(!within("GET / HTTP/1.1\r\n\r\n"));
    assert!(within(&format!("{}ab", with("Content-Length: 3\r\n"))));
    assert!(!within(&format!("{}abc", with("Content-Length: 3\r\n"))));
    assert!(within(&format!("{}3\r\nabc\r\n0\r\n", with("Transfer-Encoding: chunked\r\n"))));
    assert!(!within(&format!("{}3\r\nabc\r\n0\r\n\r\n", with("Transfer-Encoding: chunked\r\n"))));
}
