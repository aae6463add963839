//! Sessions that were signed out, remembered until the last of their tokens would have ended.
//! In: keys and moments. Out: whether a session is among them. Errors: none. I/O: none.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::clock::UnixTime;
use crate::marks::Stamps;
use crate::outcome::SessionKey;
use crate::renew::memory::Lane;

/// Most names of signed-out sessions remembered; beyond, those that end first are forgotten first.
const MOST: usize = 200_000;

/// Most names of sessions of which nothing told whose they were: anybody can sign such out, so they cost nobody else's place.
const MOST_STRANGE: usize = 20_000;

/// Signed-out sessions.
#[derive(Debug, Default)]
pub(crate) struct Tombstones {
    stamps: Arc<Stamps>,
    known: Stones,
    strange: Stones,
}

#[derive(Debug, Default)]
struct Stones {
    until: HashMap<SessionKey, UnixTime>,
    by_end: BTreeSet<(UnixTime, SessionKey)>,
}

impl Stones {
    fn put(&mut self, key: SessionKey, until: UnixTime, (now, most): (UnixTime, usize)) {
        self.take(key);
        self.until.insert(key, until);
        self.by_end.insert((until, key));
        while let Some((end, first)) = self.by_end.first().copied()
            && (end <= now || self.until.len() > most)
        {
            self.take(first);
        }
    }

    fn take(&mut self, key: SessionKey) {
        if let Some(until) = self.until.remove(&key) {
            self.by_end.remove(&(until, key));
        }
    }
}

impl Tombstones {
    /// None yet. What is learnt is stamped.
    pub(crate) fn new(stamps: Arc<Stamps>) -> Self {
        Self { stamps, ..Self::default() }
    }

    /// Remembers a name until then; `lane`: whether anything told whose session it was.
    pub(crate) fn bury(&mut self, key: SessionKey, until: UnixTime, (lane, now): (Lane, UnixTime)) {
        match lane {
            Lane::Known => self.known.put(key, until, (now, MOST)),
            Lane::Stranger => self.strange.put(key, until, (now, MOST_STRANGE)),
        }
        self.stamps.touch(&key);
    }

    /// Forgets that this name was signed out.
    pub(crate) fn lift(&mut self, key: SessionKey) {
        self.known.take(key);
        self.strange.take(key);
    }

    pub(crate) fn covers(&self, key: SessionKey, now: UnixTime) -> bool {
        self.ends(key).any(|until| now < until)
    }

    /// Whether anything is remembered under this name, be it over by now: a clock can be set back.
    pub(crate) fn knows(&self, key: SessionKey) -> bool {
        self.ends(key).next().is_some()
    }

    fn ends(&self, key: SessionKey) -> impl Iterator<Item = UnixTime> {
        [&self.known, &self.strange].into_iter().filter_map(move |stones| stones.until.get(&key).copied())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.known.until.is_empty() && self.strange.until.is_empty()
    }

    /// Every name, with its end and its lane.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SessionKey, UnixTime, Lane)> {
        let known = self.known.until.iter().map(|(key, until)| (*key, *until, Lane::Known));
        known.chain(self.strange.until.iter().map(|(key, until)| (*key, *until, Lane::Stranger)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_out_is_remembered_until_its_end_and_no_longer() {
        let at = UnixTime::from_secs;
        let mut stones = Tombstones::default();
        stones.bury(SessionKey([1; 32]), at(50), (Lane::Known, at(0)));
        assert!(stones.covers(SessionKey([1; 32]), at(49)));
        assert!(!stones.covers(SessionKey([1; 32]), at(50)));
        assert!(!stones.covers(SessionKey([2; 32]), at(0)));
        stones.bury(SessionKey([2; 32]), at(90), (Lane::Known, at(60)));
        assert_eq!(stones.iter().count(), 1, "what has ended is gone");
        stones.lift(SessionKey([2; 32]));
        stones.lift(SessionKey([3; 32]));
        assert!(
            !stones.covers(SessionKey([2; 32]), at(60))
                && stones.is_empty()
                && stones.known.by_end.is_empty()
        );
    }

    #[test]
    fn what_strangers_sign_out_costs_nobody_elses_place() {
        let at = UnixTime::from_secs;
        let mut stones = Tombstones::default();
        let named = |n: usize, of: u8| {
            let mut key = [of; 32];
            key[..8].copy_from_slice(&n.to_be_bytes());
            SessionKey(key)
        };
        for n in 0..100 {
            stones.bury(named(n, 1), at(50), (Lane::Known, at(0)));
        }
        for n in 0..MOST_STRANGE + 500 {
            stones.bury(named(n, 2), at(9000 + n as u64), (Lane::Stranger, at(0)));
        }
        assert!((0..100).all(|n| stones.covers(named(n, 1), at(49))));
        assert!(!stones.covers(named(0, 2), at(0)) && stones.covers(named(MOST_STRANGE + 499, 2), at(0)));
        assert_eq!(stones.iter().filter(|(_, _, lane)| *lane == Lane::Stranger).count(), MOST_STRANGE);
    }
}
