//! Random numbers: the system's where they guard something, fast ones where they only have to differ.
//! In: nothing. Out: bytes, ids. Errors: [`NoRandom`]. I/O: the system's random numbers.

use std::ops::Deref;

use http::HeaderValue;

/// The system has no random numbers.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the system has no random numbers: {0}")]
pub struct NoRandom(getrandom::Error);

/// Fills `bytes` from the system: for secrets, keys and nonces.
///
/// # Errors
/// [`NoRandom`]; nothing may be sealed or issued then.
pub fn fill(bytes: &mut [u8]) -> Result<(), NoRandom> {
    getrandom::fill(bytes).map_err(NoRandom)
}

/// A trace id and a span id (W3C Trace Context §3.2.2). They have to differ, not to be secret.
#[must_use]
pub fn trace_ids() -> (u128, u64) {
    (fastrand::u128(1..), fastrand::u64(1..))
}

/// An id as lower-case hexadecimal, leading zeros included.
#[must_use]
pub fn hex<const DIGITS: usize>(id: u128) -> [u8; DIGITS] {
    let mut text = [b'0'; DIGITS];
    // Each byte as two digits, the last ones first.
    for (slots, byte) in text.rchunks_exact_mut(2).zip(id.to_le_bytes()) {
        if let [high, low] = slots {
            [*high, *low] = HEX_DIGITS.get(usize::from(byte)).copied().unwrap_or_default();
        }
    }
    text
}

/// Each byte's two digits.
const HEX_DIGITS: [[u8; 2]; 256] = {
    let mut digits = [[0; 2]; 256];
    let mut byte = 0_u8;
    let mut rest: &mut [[u8; 2]] = &mut digits;
    while let [first, others @ ..] = rest {
        *first = [digit(byte >> 4), digit(byte & 0xf)];
        byte = byte.wrapping_add(1);
        rest = others;
    }
    digits
};

const fn digit(half: u8) -> u8 {
    if half < 10 { b'0' + half } else { b'a' - 10 + half }
}

/// What a request is called in logs, here and at its app: its trace id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId([u8; 32]);

impl RequestId {
    /// The name of a request with this trace id.
    #[must_use]
    pub fn of(trace_id: u128) -> Self {
        Self(hex(trace_id))
    }

    /// The same as bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same as a header has it.
    #[must_use]
    pub fn value(&self) -> HeaderValue {
        said_once(HeaderValue::from_bytes(&self.0).unwrap_or(HeaderValue::from_static("")))
    }
}

/// A value that is said once, and so has no place among those that HTTP/2 says again by number: there it would be looked through
/// for each of its like, and drive out others (RFC 7541 §7.1.3, literals that are never indexed).
pub(crate) fn said_once(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

impl Deref for RequestId {
    type Target = str;

    fn deref(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_differ_and_are_never_zero() {
        let ids: HashSet<_> = (0..10_000).map(|_| trace_ids()).collect();
        assert_eq!(ids.len(), 10_000);
        assert!(ids.iter().all(|(trace, span)| *trace != 0 && *span != 0));
        let (mut one, mut other) = ([0; 32], [0; 32]);
        assert!(fill(&mut one).is_ok() && fill(&mut other).is_ok());
        assert_ne!(one, other);
    }

    #[test]
    fn ids_are_written_whole() {
        for id in [0, 1, 0xabc, u128::MAX, 0x0123_4567_89ab_cdef_0f1e_2d3c_4b5a_6978] {
            assert_eq!(hex::<32>(id).as_slice(), format!("{id:032x}").as_bytes());
        }
        assert_eq!(hex::<16>(0xcd).as_slice(), b"00000000000000cd");
    }
}
