//! Reads a path: its bytes once decoded, and everything in it that another reader could take for another path.
//! In: the path as sent. Out: [`Reading`]. Errors: none. I/O: none.
//! Source: RFC 3986 §2.1 (escapes), §2.3 (unreserved), §3.3 (segments), §5.2.4 (dot segments), §6.2.2 (equivalence).

use std::fmt;

/// What makes a path mean different things to different readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ambiguity {
    /// A segment of dots or blanks alone, such as `..`, written plainly or escaped.
    DotSegment,
    /// `%2f`.
    EncodedSlash,
    /// `\`, plain or escaped.
    Backslash,
    /// Two slashes in a row.
    DoubleSlash,
    /// `;`, plain or escaped: some readers cut the segment there.
    Semicolon,
    /// An escaped `#`.
    Hash,
    /// An escaped `?`.
    QuestionMark,
    /// An escaped control character, such as `%00`.
    Control,
    /// A `%` without two hexadecimal digits.
    BrokenEscape,
    /// An escape that shows up once the path is decoded, such as `%252f`.
    DoubleEscape,
    /// Bytes that are no UTF-8 once decoded.
    NotUtf8,
    /// A path that falls under a stricter rule when case, final dots or slashes, or needless escapes are read otherwise.
    Spelling,
}

impl Ambiguity {
    const fn text(self) -> &'static str {
        match self {
            Self::DotSegment => "a dot segment",
            Self::EncodedSlash => "an encoded slash",
            Self::Backslash => "a backslash",
            Self::DoubleSlash => "two slashes in a row",
            Self::Semicolon => "a semicolon",
            Self::Hash => "an encoded number sign",
            Self::QuestionMark => "an encoded question mark",
            Self::Control => "a control character",
            Self::BrokenEscape => "a broken percent escape",
            Self::DoubleEscape => "a doubly encoded character",
            Self::NotUtf8 => "bytes that are not UTF-8",
            Self::Spelling => "a spelling that other readers take for a protected path",
        }
    }
}

impl fmt::Display for Ambiguity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// What a path says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    /// The decoded bytes; `None`: the path holds no escape and is read as it was sent.
    pub(super) decoded: Option<Vec<u8>>,
    /// The bytes for a reader who leaves escapes of letters, digits and `-._~` as they are; `None`: there are none.
    pub(super) undecoded: Option<Vec<u8>>,
    /// Everything ambiguous in it, each kind once.
    pub(super) ambiguities: Vec<Ambiguity>,
}

impl Reading {
    pub(super) fn of(path: &str) -> Self {
        let sent = path.as_bytes();
        if is_plain(sent) { Self::default() } else { Self::of_bytes(sent) }
    }

    fn of_bytes(sent: &[u8]) -> Self {
        let mut reading = Self::default();
        for piece in pieces(sent) {
            reading.note_piece(piece);
        }
        if !sent.contains(&b'%') {
            reading.note_whole(sent);
            return reading;
        }
        let decoded: Vec<u8> = pieces(sent).map(Piece::byte).collect();
        reading.note_whole(&decoded);
        reading.decoded = Some(decoded);
        let needless = |piece| matches!(piece, Piece::Escaped(byte, _) if is_unreserved(byte));
        reading.undecoded = pieces(sent).any(needless).then(|| decode_but_unreserved(sent));
        reading
    }

    fn note_piece(&mut self, piece: Piece) {
        match piece {
            Piece::Escaped(b'/', _) => self.note(Ambiguity::EncodedSlash),
            Piece::Escaped(b'#', _) => self.note(Ambiguity::Hash),
            Piece::Escaped(b'?', _) => self.note(Ambiguity::QuestionMark),
            Piece::Plain(b'\\') | Piece::Escaped(b'\\', _) => self.note(Ambiguity::Backslash),
            Piece::Plain(b';') | Piece::Escaped(b';', _) => self.note(Ambiguity::Semicolon),
            Piece::Plain(byte) | Piece::Escaped(byte, _) if byte.is_ascii_control() => {
                self.note(Ambiguity::Control);
            }
            Piece::Plain(b'%') => self.note(Ambiguity::BrokenEscape),
            Piece::Plain(_) | Piece::Escaped(..) => {}
        }
    }

    fn note_whole(&mut self, decoded: &[u8]) {
        if decoded.windows(2).any(|pair| pair == b"//") {
            self.note(Ambiguity::DoubleSlash);
        }
        if decoded.split(|b| *b == b'/').any(|s| !s.is_empty() && trim_end(s).is_empty()) {
            self.note(Ambiguity::DotSegment);
        }
        if decoded.windows(2).any(|pair| matches!(pair, [b'%', b'u' | b'U']))
            || decoded.windows(3).any(|three| unescape(three).is_some())
        {
            self.note(Ambiguity::DoubleEscape);
        }
        if std::str::from_utf8(decoded).is_err() {
            self.note(Ambiguity::NotUtf8);
        }
    }

    fn note(&mut self, ambiguity: Ambiguity) {
        if !self.ambiguities.contains(&ambiguity) {
            self.ambiguities.push(ambiguity);
        }
    }
}

/// The segments as a lenient reader sees them: without empty ones, and without dots and blanks at their end.
pub(super) fn lenient_segments(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|b| *b == b'/').map(trim_end).filter(|segment| !segment.is_empty())
}

/// Whether two segments are one to a reader who does not tell upper from lower case.
pub(super) fn same_but_case(a: &[u8], b: &[u8]) -> bool {
    if a.is_ascii() && b.is_ascii() {
        return a.eq_ignore_ascii_case(b);
    }
    let fold = |text: &str| -> String {
        text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
    };
    match (std::str::from_utf8(a), std::str::from_utf8(b)) {
        (Ok(a), Ok(b)) => fold(a) == fold(b),
        (Err(_), _) | (_, Err(_)) => a == b,
    }
}

#[derive(Clone, Copy)]
enum Piece {
    Plain(u8),
    /// The byte, and its two digits as written.
    Escaped(u8, [u8; 2]),
}

impl Piece {
    const fn byte(self) -> u8 {
        match self {
            Self::Plain(byte) | Self::Escaped(byte, _) => byte,
        }
    }
}

fn pieces(path: &[u8]) -> impl Iterator<Item = Piece> {
    let mut rest = path;
    std::iter::from_fn(move || {
        if let (Some(byte), [_, hi, lo, tail @ ..]) = (unescape(rest), rest) {
            rest = tail;
            return Some(Piece::Escaped(byte, [*hi, *lo]));
        }
        let (first, tail) = rest.split_first()?;
        rest = tail;
        Some(Piece::Plain(*first))
    })
}

/// The byte that `%` and two hexadecimal digits at the start of `bytes` stand for.
fn unescape(bytes: &[u8]) -> Option<u8> {
    let [b'%', hi, lo, ..] = bytes else { return None };
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some(digit(*hi)? << 4 | digit(*lo)?)
}

fn decode_but_unreserved(path: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(path.len());
    for piece in pieces(path) {
        match piece {
            Piece::Escaped(byte, [hi, lo]) if is_unreserved(byte) => bytes.extend([b'%', hi, lo]),
            Piece::Escaped(byte, _) | Piece::Plain(byte) => bytes.push(byte),
        }
    }
    bytes
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Whether nobody can differ about a path, as far as one look at each byte tells, which is enough for most of them: it is of
/// unreserved bytes and slashes alone, never two slashes in a row, and no segment begins with a dot.
fn is_plain(path: &[u8]) -> bool {
    let mut before = b'/';
    path.iter().enumerate().all(|(at, byte)| {
        let fine = is_unreserved(*byte) && (*byte != b'.' || before != b'/')
            || *byte == b'/' && (at == 0 || before != b'/');
        before = *byte;
        fine
    })
}

/// File systems of Windows drop dots and blanks at the end of a name.
fn trim_end(mut segment: &[u8]) -> &[u8] {
    while let [rest @ .., b'.' | b' '] = segment {
        segment = rest;
    }
    segment
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The one look at each byte overlooks nothing.
        #[test]
        fn a_plain_path_is_read_as_any_other(path in "/([a-c/.%;~ 2eE\\\\-]|\u{e4}){0,8}") {
            prop_assert_eq!(Reading::of(&path), Reading::of_bytes(path.as_bytes()), "{}", path);
        }
    }

    fn first(path: &str) -> Option<Ambiguity> {
        Reading::of(path).ambiguities.first().copied()
    }

    #[test]
    fn each_kind_is_found_in_each_spelling() {
        use Ambiguity as A;
        for (path, wanted) in [
            ("/a/../b", A::DotSegment),
            ("/a/.", A::DotSegment),
            ("/a/%2E%2e/b", A::DotSegment),
            ("/a/.%2e", A::DotSegment),
            ("/a/...", A::DotSegment),
            ("/a/..%20/b", A::DotSegment),
            ("/a%2fb", A::EncodedSlash),
            ("/a%2Fb", A::EncodedSlash),
            ("/a\\b", A::Backslash),
            ("/a%5cb", A::Backslash),
            ("//a", A::DoubleSlash),
            ("/a//", A::DoubleSlash),
            ("/a;b", A::Semicolon),
            ("/a%3Bb", A::Semicolon),
            ("/a%23b", A::Hash),
            ("/a%3fb", A::QuestionMark),
            ("/a%00", A::Control),
            ("/a%0d%0a", A::Control),
            ("/a%7f", A::Control),
            ("/a%", A::BrokenEscape),
            ("/a%2", A::BrokenEscape),
            ("/a%zz", A::BrokenEscape),
            ("/a%u002f", A::BrokenEscape),
            ("/a%+1", A::BrokenEscape),
            ("/a%252fb", A::DoubleEscape),
            ("/a%25%32%66", A::DoubleEscape),
            ("/a%25u002f", A::DoubleEscape),
            ("/a%c0%af", A::NotUtf8),
            ("/a%e9", A::NotUtf8),
        ] {
            assert_eq!(first(path), Some(wanted), "{path}");
        }
    }

    #[test]
    fn ordinary_paths_are_not_ambiguous() {
        for path in [
            "/",
            "/a/b/",
            "/a.b/c",
            "/.well-known/x",
            "/..a",
            "/a..",
            "/Washington_D.C.",
            "/a%20b",
            "/%C3%A9t%C3%A9",
            "/100%25",
            "/100%25-off",
            "/a:b@c!$&'()*+,=~",
            "/%61dmin",
        ] {
            assert_eq!(first(path), None, "{path}");
        }
    }

    #[test]
    fn decoding_is_done_once_and_only_where_needed() {
        assert_eq!(Reading::of("/a").decoded, None);
        let reading = Reading::of("/%61%20b");
        assert_eq!(reading.decoded.as_deref(), Some(&b"/a b"[..]));
        assert_eq!(reading.undecoded.as_deref(), Some(&b"/%61 b"[..]));
        assert_eq!(Reading::of("/a%20b").undecoded, None);
    }

    #[test]
    fn lenient_readers_join_what_looks_alike() {
        let segments: Vec<_> = lenient_segments(b"/a./b /c/").collect();
        assert_eq!(segments, [&b"a"[..], b"b", b"c"]);
        assert!(same_but_case(b"Admin", b"aDMIN"));
        assert!(same_but_case("B\u{fc}ro".as_bytes(), "b\u{dc}RO".as_bytes()));
        assert!(same_but_case("to\u{212a}en".as_bytes(), b"token"));
        assert!(!same_but_case(b"a", b"ab"));
    }
}
