//! Access tokens that an operator declared over, to see a session renewed.
//! In: names of tokens, moments. Out: whether a token is among them. Errors: none. I/O: none.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::UnixTime;
use crate::outcome::SessionKey;

/// Most tokens that are over by hand at a time; beyond, one that would end first counts again.
const MOST: usize = 1024;

/// Tokens that are over by hand, each until it would have ended by itself. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Drills(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Spares every request the lock where there are none.
    any: AtomicBool,
    until: Mutex<BTreeMap<SessionKey, UnixTime>>,
}

impl Drills {
    /// Declares the token of this name over until then.
    pub fn expire(&self, name: SessionKey, until: UnixTime, now: UnixTime) {
        let mut all = self.all();
        all.retain(|_, until| now < *until);
        if all.len() >= MOST
            && let Some(first) = all.iter().min_by_key(|(_, until)| **until).map(|(name, _)| *name)
        {
            all.remove(&first);
        }
        all.insert(name, until);
        self.0.any.store(true, Ordering::Release);
    }

    /// Whether the token is over by hand. Its name is made only where there are such tokens.
    #[must_use]
    pub fn covers(&self, name: impl FnOnce() -> SessionKey, now: UnixTime) -> bool {
        self.0.any.load(Ordering::Acquire) && self.all().get(&name()).is_some_and(|until| now < *until)
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<SessionKey, UnixTime>> {
        // Each change is one step, so a panic elsewhere leaves nothing half done.
        self.0.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_over_until_it_would_have_been_and_there_are_never_many() {
        let at = UnixTime::from_secs;
        let name = |n: usize| {
            SessionKey(
                [u8::try_from(n % 251).expect("small"), u8::try_from(n / 251).expect("small")]
                    .repeat(16)
                    .try_into()
                    .expect("32"),
            )
        };
        let drills = Drills::default();
        assert!(!drills.covers(|| panic!("no name is made"), at(0)));
        for n in 0..2 * MOST {
            drills.expire(name(n), at(100 + n as u64), at(0));
        }
        assert_eq!(drills.all().len(), MOST);
        assert!(!drills.covers(|| name(0), at(0)), "what ends first went first");
        assert!(drills.covers(|| name(2 * MOST - 1), at(0)));
        assert!(!drills.covers(|| name(2 * MOST - 1), at(100 + 2 * MOST as u64)));
    }
}
