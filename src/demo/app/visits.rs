//! What the sample app remembers of each session that came by: when its expiry moved on, and what happened.
//! In: a session value and the expiry that came with it. Out: [`Visit`]. Errors: none. I/O: none.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Serialize, Serializer};

use crate::clock::UnixTime;

/// Most happenings kept per session; the oldest goes first.
const HAPPENINGS_KEPT: usize = 12;

/// Something that the app noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Arrived,
    Renewed { times: u64 },
    Returned,
    Note { bytes: usize },
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arrived => f.write_str("First request of this session"),
            Self::Renewed { times } => write!(f, "Token renewed (renewal {times})"),
            Self::Returned => f.write_str("Token renewed on return, after it ran out"),
            Self::Note { bytes } => write!(f, "A note of {bytes} bytes arrived whole"),
        }
    }
}

impl Serialize for What {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One line of the list on the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Happening {
    pub(super) at: UnixTime,
    pub(super) what: What,
}

/// What is known of one session.
#[derive(Clone, Debug, Default)]
pub(super) struct Visit {
    /// The latest expiry any request of the session came with.
    pub(super) expires: Option<UnixTime>,
    /// Seconds that were left when this expiry was first seen: the full circle on the page.
    pub(super) life: u64,
    /// How often the expiry moved on.
    pub(super) renewals: u64,
    /// Newest first.
    pub(super) happened: VecDeque<Happening>,
    touched: u64,
}

impl Visit {
    fn note(&mut self, at: UnixTime, what: What) {
        self.happened.push_front(Happening { at, what });
        self.happened.truncate(HAPPENINGS_KEPT);
    }

    /// Requests overtake each other, so an earlier expiry than the one known means nothing.
    fn see(&mut self, expires: UnixTime, now: UnixTime) {
        match self.expires {
            Some(known) if expires <= known => return,
            Some(known) => {
                self.renewals = self.renewals.saturating_add(1);
                let times = self.renewals;
                self.note(now, if known <= now { What::Returned } else { What::Renewed { times } });
            }
            None => {}
        }
        self.expires = Some(expires);
        self.life = expires.since(now).as_secs();
    }
}

/// All sessions seen, by digest of their value; of more than `kept` the one that was quiet for longest is forgotten.
#[derive(Debug)]
pub(super) struct Visits {
    by_session: HashMap<[u8; 32], Visit>,
    kept: usize,
    turn: u64,
}

impl Visits {
    pub(super) fn keeping(kept: usize) -> Self {
        Self { by_session: HashMap::new(), kept, turn: 0 }
    }

    /// Counts one request of a session and says what is known of it now.
    pub(super) fn see(&mut self, session: &[u8], expires: Option<UnixTime>, now: UnixTime) -> Visit {
        let visit = self.visit(session, now);
        if let Some(expires) = expires {
            visit.see(expires, now);
        }
        visit.clone()
    }

    /// Adds a line to a session's list.
    pub(super) fn note(&mut self, session: &[u8], now: UnixTime, what: What) {
        self.visit(session, now).note(now, what);
    }

    fn visit(&mut self, session: &[u8], now: UnixTime) -> &mut Visit {
        let mut key = [0; 32];
        for (to, from) in key.iter_mut().zip(digest(&SHA256, session).as_ref()) {
            *to = *from;
        }
        if !self.by_session.contains_key(&key) {
            self.make_room();
        }
        self.turn = self.turn.saturating_add(1);
        let visit = self.by_session.entry(key).or_insert_with(|| {
            let mut visit = Visit::default();
            visit.note(now, What::Arrived);
            visit
        });
        visit.touched = self.turn;
        visit
    }

    fn make_room(&mut self) {
        while self.by_session.len() >= self.kept.max(1) {
            let quiet = self.by_session.iter().min_by_key(|(_, visit)| visit.touched);
            let Some(key) = quiet.map(|(key, _)| *key) else { return };
            self.by_session.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(secs: u64) -> UnixTime {
        UnixTime::from_secs(secs)
    }

    #[test]
    fn only_a_later_expiry_is_a_renewal() {
        let mut visits = Visits::keeping(8);
        assert_eq!(visits.see(b"one", Some(at(160)), at(100)).renewals, 0);
        assert_eq!(visits.see(b"one", Some(at(160)), at(110)).renewals, 0);
        let renewed = visits.see(b"one", Some(at(190)), at(130));
        assert_eq!((renewed.renewals, renewed.life), (1, 60));
        let overtaken = visits.see(b"one", Some(at(160)), at(131));
        assert_eq!((overtaken.renewals, overtaken.expires), (1, Some(at(190))));
        assert_eq!(visits.see(b"two", Some(at(500)), at(131)).renewals, 0, "sessions are counted apart");
    }

    #[test]
    fn a_renewal_after_the_expiry_reads_as_a_return() {
        let mut visits = Visits::keeping(8);
        visits.see(b"one", Some(at(160)), at(100));
        let back = visits.see(b"one", Some(at(230)), at(170));
        assert_eq!(back.happened.front().map(|happening| happening.what), Some(What::Returned));
    }

    #[test]
    fn sessions_and_their_lists_are_bounded() {
        let mut visits = Visits::keeping(2);
        visits.see(b"one", Some(at(160)), at(100));
        visits.see(b"two", None, at(100));
        visits.see(b"one", None, at(100));
        visits.see(b"three", None, at(100));
        assert_eq!(visits.by_session.len(), 2);
        assert!(visits.see(b"one", None, at(100)).expires.is_some(), "the quiet one went, not the busy one");
        for bytes in 0..100 {
            visits.note(b"one", at(100), What::Note { bytes });
        }
        let visit = visits.see(b"one", None, at(100));
        assert_eq!(visit.happened.len(), HAPPENINGS_KEPT);
        assert_eq!(visit.happened.front().map(|happening| happening.what), Some(What::Note { bytes: 99 }));
    }
}
