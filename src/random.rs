//! Random numbers: the system's where they guard something, fast ones where they only have to differ.
//! In: nothing. Out: bytes, ids. Errors: [`NoRandom`]. I/O: the system's random numbers.

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
}
