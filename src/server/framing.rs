//! Where each message of an HTTP/1.1 connection begins and ends, read more strictly than the HTTP library reads it.
//! In: a connection's bytes in any pieces. Out: nothing, as long as they are framed in the one way that every reader agrees
//! about. Errors: [`Fault`], with the place of the byte that must not go on. I/O: none.
//! Source: RFC 9112 §2.2 (line ends), §6.1 and §6.3 (length of a message), §7.1 (chunks); RFC 9110 §8.6 (`Content-Length`).
//!
//! What is not looked at here (tokens, control characters, folding) the library refuses itself. It reads a head after these
//! bytes have passed, so wherever it finds the end of a message, this has found the same one before.

/// So much of a line is kept where it comes in pieces. A line that frames a message has to fit.
const KEPT: usize = 64;
/// Most hexadecimal digits of a chunk's size.
const SIZE_DIGITS: usize = 16;
/// Most decimal digits of a length: all of them fit 64 bits.
const LENGTH_DIGITS: usize = 19;
/// Most bytes of a chunk's size line: sizes are short, and nobody reads extensions (RFC 9112 §7.1.1).
const SIZE_LINE: usize = 1024;

/// Why bytes are not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A line ends with LF alone.
    #[error("a line does not end with CRLF")]
    LineEnd,
    /// More than one empty line before a request.
    #[error("empty lines before a request")]
    Blank,
    /// `Content-Length` is no number, or comes more than once.
    #[error("a malformed or repeated Content-Length")]
    Length,
    /// `Transfer-Encoding` is not `chunked` alone, or comes more than once.
    #[error("another Transfer-Encoding than one chunked")]
    Coding,
    /// Both came.
    #[error("Content-Length beside Transfer-Encoding")]
    Both,
    /// A chunk's size line is none, or data does not end where it says.
    #[error("a malformed chunk")]
    Chunk,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// A request line, or one empty line before it.
    Start,
    /// The fields of a head.
    Fields,
    /// A body of so many bytes more.
    Body(u64),
    /// The line with a chunk's size.
    Size,
    /// A chunk of so many bytes more.
    Chunk(u64),
    /// The CR after a chunk.
    ChunkCr,
    /// The LF after a chunk.
    ChunkLf,
    /// The fields after the last chunk.
    Trailers,
}

/// What the head says about the body's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framed {
    Nothing,
    Length(u64),
    Chunked,
}

/// Reads along with a connection.
#[derive(Debug)]
pub struct Framing {
    at: At,
    framed: Framed,
    blank: bool,
    line: Line,
    /// Heads that have come whole.
    heads: u64,
}

/// The line that has begun.
#[derive(Debug)]
struct Line {
    kept: [u8; KEPT],
    len: usize,
    last: u8,
    /// Whether a control stands in it, its last byte not counted: what is not kept is not looked at again.
    control: bool,
}

impl Line {
    const fn new() -> Self {
        Self { kept: [0; KEPT], len: 0, last: 0, control: false }
    }

    fn push(&mut self, bytes: &[u8]) {
        let Some((_, before)) = bytes.split_last() else { return };
        self.control |= self.len > 0 && is_control(self.last) || before.iter().copied().any(is_control);
        if let Some(room) = self.kept.get_mut(self.len.min(KEPT)..) {
            let count = room.len().min(bytes.len());
            if let (Some(to), Some(from)) = (room.get_mut(..count), bytes.get(..count)) {
                to.copy_from_slice(from);
            }
        }
        self.len = self.len.saturating_add(bytes.len());
        if let Some(last) = bytes.last() {
            self.last = *last;
        }
    }
}

/// A message's bytes that must not go on, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// So many bytes of the piece are in order.
    pub good: usize,
    /// Why the next one is not.
    pub fault: Fault,
}

impl Default for Framing {
    fn default() -> Self {
        Self::new()
    }
}

impl Framing {
    /// At the beginning of a connection.
    #[must_use]
    pub const fn new() -> Self {
        Self { at: At::Start, framed: Framed::Nothing, blank: false, line: Line::new(), heads: 0 }
    }

    /// Whether a message has begun and not ended.
    #[must_use]
    pub fn within(&self) -> bool {
        self.at != At::Start || self.line.len > 0
    }

    /// Heads that have come whole so far.
    pub(super) const fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether what comes belongs to a head.
    #[must_use]
    pub fn in_head(&self) -> bool {
        matches!(self.at, At::Start | At::Fields)
    }

    /// Whether a request line has come whose message has not ended.
    #[cfg(test)]
    pub(super) fn in_message(&self) -> bool {
        self.at != At::Start
    }

    /// Whether the next byte is content.
    #[cfg(test)]
    pub(super) fn is_content(&self) -> bool {
        matches!(self.at, At::Body(_) | At::Chunk(_))
    }

    /// Reads the next piece.
    ///
    /// # Errors
    /// [`Refused`]: its first byte that must not go on.
    pub fn scan(&mut self, piece: &[u8]) -> Result<(), Refused> {
        let mut rest = piece;
        while !rest.is_empty() {
            let here = piece.len() - rest.len();
            rest = match self.at {
                At::Body(left) => self.skip(left, rest),
                At::Chunk(left) => self.skip(left, rest),
                At::ChunkCr => self.expect(b'\r', rest, here)?,
                At::ChunkLf => self.expect(b'\n', rest, here)?,
                At::Start | At::Fields | At::Size | At::Trailers => self.scan_line(rest, here)?,
            };
        }
        Ok(())
    }

    /// Passes over bytes that nobody reads as anything but content.
    fn skip<'b>(&mut self, left: u64, rest: &'b [u8]) -> &'b [u8] {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
        let left = left - count as u64;
        self.at = match (self.at, left) {
            (At::Chunk(_), 0) => At::ChunkCr,
            (At::Chunk(_), _) => At::Chunk(left),
            (_, 0) => At::Start,
            (_, _) => At::Body(left),
        };
        rest.get(count..).unwrap_or_default()
    }

    fn expect<'b>(&mut self, byte: u8, rest: &'b [u8], here: usize) -> Result<&'b [u8], Refused> {
        if rest.first() != Some(&byte) {
            return Err(Refused { good: here, fault: Fault::Chunk });
        }
        self.at = if byte == b'\r' { At::ChunkLf } else { At::Size };
        Ok(rest.get(1..).unwrap_or_default())
    }

    /// Reads to the end of a line, or keeps what has come of it.
    fn scan_line<'b>(&mut self, rest: &'b [u8], here: usize) -> Result<&'b [u8], Refused> {
        let Some(end) = memchr::memchr(b'\n', rest) else {
            self.line.push(rest);
            // The size line of a chunk is short; heads and trailers have limits of their own.
            return match self.at == At::Size && self.line.len > SIZE_LINE {
                true => Err(Refused { good: here, fault: Fault::Chunk }),
                false => Ok(&[]),
            };
        };
        let refused = |fault| Refused { good: here + end, fault };
        let (piece, after) = rest.split_at_checked(end).unwrap_or((rest, &[]));
        let whole = if self.line.len == 0 {
            let line = piece.strip_suffix(b"\r").ok_or(refused(Fault::LineEnd))?;
            self.end_line(line, line.len())
        } else {
            self.line.push(piece);
            if self.line.last != b'\r' {
                return Err(refused(Fault::LineEnd));
            }
            let Line { len, kept, control, .. } = std::mem::replace(&mut self.line, Line::new());
            match self.at == At::Size && control {
                true => Err(Fault::Chunk),
                false => self.end_line(kept.get(..(len - 1).min(KEPT)).unwrap_or_default(), len - 1),
            }
        };
        whole.map_err(refused)?;
        Ok(after.get(1..).unwrap_or_default())
    }

    /// A line has ended, `len` bytes long without CRLF; of a longer one the beginning is enough.
    fn end_line(&mut self, line: &[u8], len: usize) -> Result<(), Fault> {
        match self.at {
            At::Start if len == 0 && self.blank => return Err(Fault::Blank),
            At::Start if len == 0 => self.blank = true,
            At::Start => {
                self.blank = false;
                self.framed = Framed::Nothing;
                self.at = At::Fields;
            }
            At::Fields if len == 0 => {
                self.heads += 1;
                self.at = match self.framed {
                    Framed::Nothing | Framed::Length(0) => At::Start,
                    Framed::Length(length) => At::Body(length),
                    Framed::Chunked => At::Size,
                }
            }
            At::Fields => return self.field(line, len),
            At::Size => {
                self.at = match chunk_size(line, len)? {
                    0 => At::Trailers,
                    size => At::Chunk(size),
                }
            }
            At::Trailers if len == 0 => self.at = At::Start,
            At::Trailers | At::Body(_) | At::Chunk(_) | At::ChunkCr | At::ChunkLf => {}
        }
        Ok(())
    }

    /// A field of a head: only two names frame a message.
    fn field(&mut self, line: &[u8], len: usize) -> Result<(), Fault> {
        if let Some(value) = value_of(line, b"content-length") {
            let length = (len <= KEPT).then(|| decimal(value)).flatten().ok_or(Fault::Length)?;
            self.framed = match self.framed {
                Framed::Nothing => Framed::Length(length),
                Framed::Length(_) => return Err(Fault::Length),
                Framed::Chunked => return Err(Fault::Both),
            };
        } else if let Some(value) = value_of(line, b"transfer-encoding") {
            if len > KEPT || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Fault::Coding);
            }
            self.framed = match self.framed {
                Framed::Nothing => Framed::Chunked,
                Framed::Length(_) => return Err(Fault::Both),
                Framed::Chunked => return Err(Fault::Coding),
            };
        }
        Ok(())
    }
}

/// Nothing that a line may hold (RFC 9110 §5.5).
const fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

/// The value of a field of that name, without blanks around it.
fn value_of<'l>(line: &'l [u8], name: &[u8]) -> Option<&'l [u8]> {
    let (begin, value) = line.split_at_checked(name.len())?;
    let value = value.strip_prefix(b":")?;
    begin.eq_ignore_ascii_case(name).then(|| trim(value))
}

fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let plain = (1..=LENGTH_DIGITS).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    if plain { std::str::from_utf8(digits).ok()?.parse().ok() } else { None }
}

/// `chunk-size [ BWS ";" … ]`; what stands after the size is bytes of text.
fn chunk_size(line: &[u8], len: usize) -> Result<u64, Fault> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, after) = line.split_at_checked(digits).ok_or(Fault::Chunk)?;
    let text = !after.iter().copied().any(is_control);
    let ends = matches!(trim(after), [] | [b';', ..]);
    if !text || !ends || len > SIZE_LINE || !(1..=SIZE_DIGITS).contains(&digits) {
        return Err(Fault::Chunk);
    }
    let size = std::str::from_utf8(size).ok().and_then(|size| u64::from_str_radix(size, 16).ok());
    size.ok_or(Fault::Chunk)
}

#[cfg(test)]
mod tests;
