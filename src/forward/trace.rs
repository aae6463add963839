//! Carries a trace on, or begins one.
//! In: a client's trace fields, ids drawn by the caller. Out: what ours say. Errors: none. I/O: none.
//! Source: W3C Trace Context §3.2 (`traceparent`), §3.3 (`tracestate`), §4.3 (mutating).

use http::{HeaderName, HeaderValue};

use crate::fields::Head;
use crate::random;

/// The field that names trace and parent.
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The field that vendors add to.
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Longest `tracestate` passed on, in bytes over all its lines (Trace Context §3.3.1.5).
const MAX_STATE: usize = 512;
/// Sampled, and random (Trace Context level 2): the flags that have a meaning.
const KNOWN_FLAGS: u8 = 0b11;

/// Ids for one request, drawn at random by the caller. An id of zeros is none, so one bit of it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewTrace {
    /// Names the trace, if none came with the request.
    pub trace_id: u128,
    /// Names the gateway's part in it.
    pub span_id: u64,
    /// Whether a trace that begins here is to be recorded.
    pub sampled: Sampled,
}

/// Whether a trace is to be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampled {
    /// It is.
    Yes,
    /// It is not.
    No,
}

/// A trace that came with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Incoming {
    trace_id: u128,
    flags: u8,
    state: Vec<HeaderValue>,
}

impl Incoming {
    /// The trace of a request head; `None` where there is none, more than one, or a malformed one.
    pub(super) fn read(head: Head<'_>) -> Option<Self> {
        let mut lines = head.get_all(&TRACEPARENT);
        let (Some(line), None) = (lines.next(), lines.next()) else { return None };
        let (trace_id, flags) = parse_parent(line.to_str().ok()?)?;
        Some(Self { trace_id, flags, state: read_state(head) })
    }
}

/// A `traceparent`.
pub(super) type Parent = [u8; 55];

/// What the trace fields say: the trace that came, with a new parent, or a new one.
pub(super) fn next(incoming: Option<Incoming>, new: NewTrace) -> (Parent, Vec<HeaderValue>) {
    let begun = || {
        let flags = match new.sampled {
            Sampled::Yes => 1,
            Sampled::No => 0,
        };
        Incoming { trace_id: new.trace_id.max(1), flags, state: Vec::new() }
    };
    let Incoming { trace_id, flags, state } = incoming.unwrap_or_else(begun);
    let mut line = *b"00-................................-................-..";
    let (trace_id, span_id) = (random::hex::<32>(trace_id), random::hex::<16>(new.span_id.max(1).into()));
    let flags = random::hex::<2>(flags.into());
    for (at, part) in [(3, trace_id.as_slice()), (36, span_id.as_slice()), (53, flags.as_slice())] {
        if let Some(place) = line.get_mut(at..at + part.len()) {
            place.copy_from_slice(part);
        }
    }
    (line, state)
}

/// Trace id and flags. Later versions may have more fields behind these (Trace Context §3.2.4).
fn parse_parent(line: &str) -> Option<(u128, u8)> {
    let mut fields = line.splitn(5, '-');
    let version = hex(fields.next()?, 2)?;
    let trace_id = hex(fields.next()?, 32)?;
    let parent = hex(fields.next()?, 16)?;
    let flags = u8::try_from(hex(fields.next()?, 2)?).ok()?;
    let complete = match version {
        0 => fields.next().is_none(),
        0xff => false,
        _ => true,
    };
    (complete && trace_id != 0 && parent != 0).then_some((trace_id, flags & KNOWN_FLAGS))
}

/// Lower-case hexadecimal of exactly this length.
fn hex(text: &str, length: usize) -> Option<u128> {
    let fits = text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if fits { u128::from_str_radix(text, 16).ok() } else { None }
}

fn read_state(head: Head<'_>) -> Vec<HeaderValue> {
    let lines = || head.get_all(&TRACESTATE);
    let fits = lines().map(HeaderValue::len).sum::<usize>() <= MAX_STATE;
    if fits && lines().all(|line| line.to_str().is_ok()) { lines().cloned().collect() } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const NEW: NewTrace = NewTrace { trace_id: 0xab, span_id: 0xcd, sampled: Sampled::Yes };

    fn sent(parents: &[&str], states: &[&str]) -> (String, Vec<String>) {
        let mut headers = HeaderMap::new();
        for line in parents {
            headers.append(TRACEPARENT, HeaderValue::from_str(line).expect("a value"));
        }
        for line in states {
            headers.append(TRACESTATE, HeaderValue::from_str(line).expect("a value"));
        }
        let incoming = Incoming::read(Head::of(&headers));
        let (parent, state) = next(incoming, NEW);
        let text = |value: &HeaderValue| value.to_str().expect("text").to_owned();
        (String::from_utf8(parent.to_vec()).expect("text"), state.iter().map(text).collect())
    }

    #[test]
    fn a_trace_goes_on_with_a_new_parent() {
        let (parent, state) = sent(&[&format!("00-{ID}-00f067aa0ba902b7-01")], &["a=1", "b=2"]);
        assert_eq!(parent, format!("00-{ID}-00000000000000cd-01"));
        assert_eq!(state, ["a=1", "b=2"]);
        let (parent, _) = sent(&[&format!("cc-{ID}-00f067aa0ba902b7-fe-more-x")], &[]);
        assert_eq!(parent, format!("00-{ID}-00000000000000cd-02"));
    }

    #[test]
    fn anything_malformed_begins_a_new_one_without_state() {
        let zeros = "0".repeat(32);
        for line in [
            String::new(),
            ID.to_owned(),
            format!("00-{ID}-00f067aa0ba902b7"),
            format!("00-{ID}-00f067aa0ba902b7-01-x"),
            format!("00-{ID}-00f067aa0ba902b7-1"),
            format!("00-{ID}-0000000000000000-01"),
            format!("00-{zeros}-00f067aa0ba902b7-01"),
            format!("ff-{ID}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", ID.to_uppercase()),
            format!("00-+{}-00f067aa0ba902b7-01", ID.trim_start_matches('4')),
        ] {
            let (parent, state) = sent(&[&line], &["a=1"]);
            assert_eq!(parent, "00-000000000000000000000000000000ab-00000000000000cd-01", "{line}");
            assert!(state.is_empty());
        }
        let good = format!("00-{ID}-00f067aa0ba902b7-01");
        assert!(!sent(&[&good, &good], &[]).0.contains(ID));
    }

    #[test]
    fn a_state_too_long_is_dropped_whole() {
        let good = format!("00-{ID}-00f067aa0ba902b7-01");
        assert!(sent(&[&good], &["a=1", &"x".repeat(MAX_STATE)]).1.is_empty());
    }

    #[test]
    fn ids_of_zeros_are_not_sent() {
        let (parent, _) = next(None, NewTrace { trace_id: 0, span_id: 0, sampled: Sampled::No });
        assert_eq!(&parent, b"00-00000000000000000000000000000001-0000000000000001-00");
    }
}
