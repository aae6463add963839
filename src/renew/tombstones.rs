//! Sessions that were signed out, remembered until the last of their tokens would have ended.
//! In: keys and moments. Out: whether a session is among them. Errors: none. I/O: none.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::clock::UnixTime;
use crate::marks::Stamps;
use crate::outcome::SessionKey;

/// Most sign-outs remembered; beyond, those that end first are forgotten first.
const MOST: usize = 200_000;

/// Signed-out sessions.
#[derive(Debug, Default)]
pub(crate) struct Tombstones {
    stamps: Arc<Stamps>,
    until: HashMap<SessionKey, UnixTime>,
    by_end: BTreeSet<(UnixTime, SessionKey)>,
}

impl Tombstones {
    /// None yet. What is learnt is stamped.
    pub(crate) fn new(stamps: Arc<Stamps>) -> Self {
        Self { stamps, ..Self::default() }
    }

    pub(crate) fn bury(&mut self, key: SessionKey, until: UnixTime, now: UnixTime) {
        if let Some(earlier) = self.until.get(&key).copied() {
            self.by_end.remove(&(earlier, key));
        }
        self.until.insert(key, until);
        self.stamps.touch(&key);
        self.by_end.insert((until, key));
        while let Some((end, first)) = self.by_end.first().copied()
            && (end <= now || self.until.len() > MOST)
        {
            self.by_end.remove(&(end, first));
            self.until.remove(&first);
        }
    }

    /// Forgets that this name was signed out.
    pub(crate) fn lift(&mut self, key: SessionKey) {
        if let Some(until) = self.until.remove(&key) {
            self.by_end.remove(&(until, key));
        }
    }

    pub(crate) fn covers(&self, key: SessionKey, now: UnixTime) -> bool {
        self.until.get(&key).is_some_and(|until| now < *until)
    }

    /// Whether anything is remembered under this name, be it over by now: a clock can be set back.
    pub(crate) fn knows(&self, key: SessionKey) -> bool {
        self.until.contains_key(&key)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.until.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&SessionKey, &UnixTime)> {
        self.until.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_out_is_remembered_until_its_end_and_no_longer() {
        let at = UnixTime::from_secs;
        let mut stones = Tombstones::default();
        stones.bury(SessionKey([1; 32]), at(50), at(0));
        assert!(stones.covers(SessionKey([1; 32]), at(49)));
        assert!(!stones.covers(SessionKey([1; 32]), at(50)));
        assert!(!stones.covers(SessionKey([2; 32]), at(0)));
        stones.bury(SessionKey([2; 32]), at(90), at(60));
        assert_eq!(stones.iter().count(), 1, "what has ended is gone");
        stones.lift(SessionKey([2; 32]));
        stones.lift(SessionKey([3; 32]));
        assert!(!stones.covers(SessionKey([2; 32]), at(60)) && stones.is_empty() && stones.by_end.is_empty());
    }
}
