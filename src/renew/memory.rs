//! What became of each presented refresh token. Until a browser has them, this is the only copy of a session's new tokens.
//! In: keys, results, moments. Out: what is known. Errors: none. I/O: none; the caller holds the lock.
//!
//! An entry maps what was presented to what was issued. It is kept
//! - while no client has come back with what was issued: until the new refresh token ends;
//! - once one has: `replay` longer, and that long after the older token was last set, since answers overtake each other.
//!
//! Entries chain, old to new to newest. A refusal is kept so that nothing is presented twice. Over the byte budget what
//! matters least goes first: what strangers sent, then refusals, then delivered results, then doubts, then undelivered results.
//! Confirmed ones go last: other tabs are on their way with the old tokens at that very moment, and in a moment the entry ends
//! by itself.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::UnixTime;
use crate::marks::Stamps;
use crate::outcome::{Issued, Lineage, RefusalReason, SessionKey};
use crate::token::AccessToken;

/// The longest chain that is followed.
const LINKS: usize = 8;

/// Bytes that an entry takes beside its tokens, roughly.
const OVERHEAD: usize = 512;

/// How long what is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    /// A confirmed result.
    pub(crate) replay: Duration,
    /// A result whose refresh token's end is not known.
    pub(crate) undelivered: Duration,
    /// Bytes in all.
    pub(crate) budget: usize,
}

/// What is known about a presented pair.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Known {
    /// Nothing.
    Nothing,
    /// The newest tokens of its session, and the key of the pair that presents them.
    Newest(Arc<Issued>, SessionKey),
    /// Its session is over.
    Refused(RefusalReason),
    /// What came of presenting it is not known.
    Unknown {
        /// It must not be presented again before.
        not_before: UnixTime,
    },
    /// More renewals lie behind it than are followed: whoever presents it never took its new cookies.
    TooOld,
}

/// What is kept under a key.
#[derive(Clone, Debug)]
pub(crate) enum Slot {
    Issued(Entry),
    Refused { reason: RefusalReason, ends: UnixTime, told: Told, lane: Lane },
    Unknown { not_before: UnixTime, ends: UnixTime, lane: Lane },
}

/// Whether anything told whose session a pair was. What is remembered of strangers never costs a user anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Lane {
    /// Something did.
    Known,
    /// Nothing did: anybody can send such a pair.
    Stranger,
}

/// Whether an answer has told a client of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Yes,
    No,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) issued: Arc<Issued>,
    /// The key of the issued pair.
    pub(crate) next: SessionKey,
    /// When an answer last carried it.
    pub(crate) delivered: Option<UnixTime>,
    /// When it was first presented by a client.
    pub(crate) confirmed: Option<UnixTime>,
    /// When an answer last set the older pair that this one replaced.
    pub(crate) older_set: Option<UnixTime>,
    pub(crate) ends: UnixTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Strange,
    Refused,
    Delivered,
    Doubtful,
    Undelivered,
    Confirmed,
}

impl Slot {
    pub(crate) const fn ends(&self) -> UnixTime {
        match self {
            Self::Issued(entry) => entry.ends,
            Self::Refused { ends, .. } | Self::Unknown { ends, .. } => *ends,
        }
    }

    const fn rank(&self) -> Rank {
        match self {
            Self::Refused { lane: Lane::Stranger, .. } | Self::Unknown { lane: Lane::Stranger, .. } => {
                Rank::Strange
            }
            Self::Refused { .. } => Rank::Refused,
            Self::Unknown { .. } => Rank::Doubtful,
            Self::Issued(Entry { confirmed: Some(_), .. }) => Rank::Confirmed,
            Self::Issued(Entry { delivered: Some(_), .. }) => Rank::Delivered,
            Self::Issued(_) => Rank::Undelivered,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Issued(entry) => {
                let tokens = &entry.issued.tokens;
                let subject = entry.issued.lineage.subject.as_deref().unwrap_or_default();
                OVERHEAD + tokens.access.expose().len() + tokens.refresh.expose().len() + subject.len()
            }
            Self::Refused { .. } | Self::Unknown { .. } => OVERHEAD / 2,
        }
    }
}

/// The memory.
#[derive(Debug)]
pub(crate) struct Memory {
    keep: Keep,
    /// Goes up with what is learnt of whose session a pair is.
    stamps: Arc<Stamps>,
    slots: HashMap<SessionKey, Slot>,
    /// From the key of an issued pair to the key of the pair presented for it.
    came_from: HashMap<SessionKey, SessionKey>,
    by_end: BTreeSet<(UnixTime, SessionKey)>,
    by_rank: BTreeSet<(Rank, UnixTime, SessionKey)>,
    bytes: usize,
    undelivered: usize,
    evicted: u64,
}

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) entries: usize,
    /// Those of them that no answer has carried yet.
    pub(crate) undelivered: usize,
    pub(crate) bytes: usize,
    /// Those that were dropped for want of memory so far and may cost a session: all that no browser surely has the newer
    /// tokens of.
    pub(crate) evicted: u64,
}

impl Memory {
    pub(crate) fn new(keep: Keep) -> Self {
        Self {
            keep,
            stamps: Arc::default(),
            slots: HashMap::new(),
            came_from: HashMap::new(),
            by_end: BTreeSet::new(),
            by_rank: BTreeSet::new(),
            bytes: 0,
            undelivered: 0,
            evicted: 0,
        }
    }

    /// The stamps of all that is learnt here.
    pub(crate) const fn stamps(&self) -> &Arc<Stamps> {
        &self.stamps
    }

    /// Keeps what comes from now on so long.
    pub(crate) const fn keep(&mut self, keep: Keep) {
        self.keep = keep;
    }

    /// What is known about the pair with this key, its chain followed to the end.
    pub(crate) fn look(&self, key: SessionKey) -> Known {
        let mut entry = match self.slots.get(&key) {
            None => return Known::Nothing,
            Some(Slot::Refused { reason, .. }) => return Known::Refused(*reason),
            Some(Slot::Unknown { not_before, .. }) => return Known::Unknown { not_before: *not_before },
            Some(Slot::Issued(entry)) => entry,
        };
        let mut at = key;
        for _ in 0..LINKS {
            if entry.next == at {
                return Known::Newest(Arc::clone(&entry.issued), entry.next);
            }
            at = entry.next;
            entry = match self.slots.get(&at) {
                Some(Slot::Issued(newer)) => newer,
                Some(Slot::Refused { reason, .. }) => return Known::Refused(*reason),
                Some(Slot::Unknown { .. }) | None => {
                    return Known::Newest(Arc::clone(&entry.issued), entry.next);
                }
            };
        }
        Known::TooOld
    }

    /// What is kept under this very key.
    pub(crate) fn slot(&self, key: SessionKey) -> Option<&Slot> {
        self.slots.get(&key)
    }

    /// The access token that presenting the pair with this very key brought.
    pub(crate) fn brought(&self, key: SessionKey) -> Option<AccessToken> {
        match self.slots.get(&key) {
            Some(Slot::Issued(entry)) => Some(entry.issued.tokens.access.clone()),
            Some(Slot::Refused { .. } | Slot::Unknown { .. }) | None => None,
        }
    }

    /// Whether the result under this key, if any, brought another access token than `dead`.
    pub(crate) fn supersedes(&self, key: SessionKey, dead: Option<&AccessToken>) -> bool {
        match self.slots.get(&key) {
            Some(Slot::Issued(entry)) => dead != Some(&entry.issued.tokens.access),
            Some(Slot::Refused { .. } | Slot::Unknown { .. }) | None => false,
        }
    }

    /// The session that the pair with this key belongs to, as far as earlier renewals tell.
    pub(crate) fn lineage(&self, key: SessionKey) -> Option<&Lineage> {
        let of = |key: &SessionKey| match self.slots.get(key) {
            Some(Slot::Issued(entry)) => Some(&entry.issued.lineage),
            Some(Slot::Refused { .. } | Slot::Unknown { .. }) | None => None,
        };
        self.came_from.get(&key).and_then(of).or_else(|| of(&key))
    }

    /// Keeps what was issued; `next`: the key of the pair that presents it.
    pub(crate) fn issued(&mut self, issued: Issued, next: SessionKey, now: UnixTime) {
        let key = issued.presented;
        let entry = self.entry(issued, next, now);
        self.put(key, Slot::Issued(entry), now);
    }

    /// What was issued just now as it is kept, should there be room for it.
    pub(crate) fn entry(&self, issued: Issued, next: SessionKey, now: UnixTime) -> Entry {
        let ends = issued.tokens.refresh_expires.unwrap_or_else(|| now.saturating_add(self.keep.undelivered));
        let older_set = self.came_from.get(&issued.presented).and_then(|older| match self.slots.get(older) {
            Some(Slot::Issued(entry)) => entry.delivered,
            Some(Slot::Refused { .. } | Slot::Unknown { .. }) | None => None,
        });
        Entry {
            issued: Arc::new(issued),
            next,
            delivered: None,
            confirmed: None,
            older_set,
            ends: ends.max(now.saturating_add(self.keep.replay)),
        }
    }

    /// Keeps a refusal until `ends`.
    pub(crate) fn refused(
        &mut self,
        key: SessionKey,
        reason: RefusalReason,
        ends: UnixTime,
        (lane, now): (Lane, UnixTime),
    ) {
        self.put(key, Slot::Refused { reason, ends, told: Told::No, lane }, now);
    }

    /// Keeps that what came of presenting this pair is not known.
    pub(crate) fn lost(&mut self, key: SessionKey, not_before: UnixTime, lane: Lane, now: UnixTime) {
        let ends = not_before.max(now).saturating_add(self.keep.undelivered);
        self.put(key, Slot::Unknown { not_before, ends, lane }, now);
    }

    /// What is known about the pair with this key; its newest tokens are noted as carried by an answer that is written now.
    pub(crate) fn deliver(&mut self, key: SessionKey, now: UnixTime) -> Known {
        let known = self.look(key);
        if let Known::Newest(newest, _) = &known
            && let Some(Slot::Issued(entry)) = self.slots.get(&newest.presented)
        {
            let entry = Entry { delivered: Some(now), ..entry.clone() };
            self.put(newest.presented, Slot::Issued(entry), now);
        }
        known
    }

    /// Notes that a client presented the pair with this key: it has it, so what was kept for it can go soon.
    pub(crate) fn confirm(&mut self, key: SessionKey, now: UnixTime) {
        let mut at = key;
        for _ in 0..LINKS {
            let Some(older) = self.came_from.get(&at).copied().filter(|older| *older != at) else { return };
            let Some(Slot::Issued(entry)) = self.slots.get(&older) else { return };
            if entry.confirmed.is_some() {
                return;
            }
            let last = entry.older_set.map_or(now, |set| set.max(now));
            let ends = last.saturating_add(self.keep.replay);
            let entry = Entry { confirmed: Some(now), ends, ..entry.clone() };
            self.put(older, Slot::Issued(entry), now);
            at = older;
        }
    }

    /// Notes that an answer tells of the refusal under this key. The first one to do so gets `Told::No`.
    pub(crate) fn tell(&mut self, key: SessionKey) -> Told {
        match self.slots.get_mut(&key) {
            Some(Slot::Refused { told, .. }) => std::mem::replace(told, Told::Yes),
            Some(Slot::Issued(_) | Slot::Unknown { .. }) | None => Told::Yes,
        }
    }

    /// Drops what has ended.
    pub(crate) fn expire(&mut self, now: UnixTime) {
        while let Some((ends, key)) = self.by_end.first().copied()
            && ends <= now
        {
            self.take(key);
        }
    }

    pub(crate) fn size(&self) -> Size {
        let Self { bytes, undelivered, evicted, .. } = *self;
        Size { entries: self.slots.len(), undelivered, bytes, evicted }
    }

    /// Everything kept, for writing it down.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (&SessionKey, &Slot)> {
        self.slots.iter()
    }

    /// Puts back what was written down.
    pub(crate) fn put(&mut self, key: SessionKey, slot: Slot, now: UnixTime) {
        self.take(key);
        self.expire(now);
        self.bytes += slot.bytes();
        self.undelivered += usize::from(slot.rank() == Rank::Undelivered);
        self.by_end.insert((slot.ends(), key));
        self.by_rank.insert((slot.rank(), slot.ends(), key));
        self.learnt(key, &slot);
        if let Slot::Issued(entry) = &slot {
            self.came_from.insert(entry.next, key);
        }
        self.slots.insert(key, slot);
        while self.bytes > self.keep.budget
            && let Some((rank, _, least)) = self.by_rank.first().copied()
        {
            if rank >= Rank::Doubtful {
                self.evicted += 1;
            }
            self.take(least);
        }
    }

    /// Forgets what became of the pair with this key, and which pair it came from.
    pub(crate) fn forget(&mut self, key: SessionKey) {
        if let Some(older) = self.came_from.get(&key).copied() {
            self.take(older);
        }
        self.take(key);
    }

    /// The lineage of these pairs is another one now, or none.
    fn learnt(&self, key: SessionKey, slot: &Slot) {
        self.stamps.touch(&key);
        if let Slot::Issued(entry) = slot {
            self.stamps.touch(&entry.next);
        }
    }

    fn take(&mut self, key: SessionKey) {
        let Some(slot) = self.slots.remove(&key) else { return };
        self.learnt(key, &slot);
        self.bytes -= slot.bytes();
        self.undelivered -= usize::from(slot.rank() == Rank::Undelivered);
        self.by_end.remove(&(slot.ends(), key));
        self.by_rank.remove(&(slot.rank(), slot.ends(), key));
        if let Slot::Issued(entry) = &slot
            && self.came_from.get(&entry.next) == Some(&key)
        {
            self.came_from.remove(&entry.next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{RefreshToken, TokenSet};

    const T: u64 = 1000;
    const KEEP: Keep =
        Keep { replay: Duration::from_secs(60), undelivered: Duration::from_secs(86_400), budget: 1 << 20 };

    fn at(secs: u64) -> UnixTime {
        UnixTime::from_secs(T + secs)
    }

    fn key(n: u8) -> SessionKey {
        SessionKey([n; 32])
    }

    /// What pair `n` was renewed to: pair `n + 1`, whose refresh token ends after `life` seconds.
    fn step(n: u8, life: u64) -> Issued {
        Issued {
            tokens: TokenSet {
                access: AccessToken::parse(&format!("A{}", n + 1)).expect("a token"),
                refresh: RefreshToken::parse(&format!("R{}", n + 1)).expect("a token"),
                rotated: true,
                session: None,
                access_expires: None,
                refresh_expires: Some(at(life)),
                received_at: at(0),
            },
            presented: key(n),
            lineage: Lineage { family: key(0), started_at: at(0), subject: None },
        }
    }

    fn newest(memory: &Memory, n: u8) -> Option<String> {
        match memory.look(key(n)) {
            Known::Newest(issued, _) => Some(issued.tokens.access.expose().to_owned()),
            Known::Nothing | Known::Refused(_) | Known::Unknown { .. } | Known::TooOld => None,
        }
    }

    fn chain(links: u8) -> Memory {
        let mut memory = Memory::new(KEEP);
        for n in 1..=links {
            memory.issued(step(n, 10_000), key(n + 1), at(0));
        }
        memory
    }

    #[test]
    fn an_old_pair_leads_to_the_newest() {
        assert_eq!(newest(&chain(3), 1).as_deref(), Some("A4"));
        assert_eq!(newest(&chain(3), 3).as_deref(), Some("A4"));
        assert_eq!(newest(&chain(3), 4), None);
        assert_eq!(newest(&chain(8), 1).as_deref(), Some("A9"));
        assert_eq!(chain(9).look(key(1)), Known::TooOld, "its pair is long spent: never presented again");
    }

    #[test]
    fn a_pair_that_is_renewed_to_itself_is_no_endless_chain() {
        let mut memory = Memory::new(KEEP);
        memory.issued(step(1, 100), key(1), at(0));
        assert_eq!(newest(&memory, 1).as_deref(), Some("A2"));
        memory.confirm(key(1), at(1));
        assert_eq!(newest(&memory, 1).as_deref(), Some("A2"));
    }

    #[test]
    fn a_loop_of_pairs_ends() {
        let mut memory = Memory::new(KEEP);
        memory.issued(step(1, 100), key(2), at(0));
        memory.issued(step(2, 100), key(1), at(0));
        assert_eq!(memory.look(key(1)), Known::TooOld);
        memory.confirm(key(1), at(1));
    }

    #[test]
    fn what_nobody_has_presented_is_kept_until_its_refresh_token_ends() {
        let mut memory = Memory::new(KEEP);
        memory.issued(step(1, 5000), key(2), at(0));
        assert!(matches!(memory.deliver(key(1), at(0)), Known::Newest(..)));
        memory.expire(at(4999));
        assert_eq!(newest(&memory, 1).as_deref(), Some("A2"), "delivered is not received");
        memory.expire(at(5000));
        assert_eq!(newest(&memory, 1), None);
    }

    #[test]
    fn what_a_client_has_presented_goes_after_the_replay_window() {
        let mut memory = Memory::new(KEEP);
        memory.issued(step(1, 5000), key(2), at(0));
        memory.confirm(key(2), at(10));
        memory.expire(at(69));
        assert!(newest(&memory, 1).is_some());
        memory.expire(at(70));
        assert!(newest(&memory, 1).is_none());
    }

    #[test]
    fn confirming_the_newest_confirms_all_before_it() {
        let mut memory = chain(3);
        memory.confirm(key(4), at(10));
        memory.expire(at(70));
        assert_eq!(memory.size().entries, 0);
    }

    #[test]
    fn a_refusal_ends_the_whole_chain_and_is_told_once() {
        let mut memory = chain(2);
        memory.refused(key(3), RefusalReason::ByBackend, at(600), (Lane::Known, at(0)));
        assert_eq!(memory.look(key(1)), Known::Refused(RefusalReason::ByBackend));
        assert_eq!(memory.tell(key(3)), Told::No);
        assert_eq!(memory.tell(key(3)), Told::Yes);
        assert_eq!(memory.tell(key(9)), Told::Yes);
    }

    #[test]
    fn over_the_budget_the_undelivered_go_last_and_are_counted() {
        let one = Slot::Issued(Entry {
            issued: Arc::new(step(1, 10)),
            next: key(2),
            delivered: None,
            confirmed: None,
            older_set: None,
            ends: at(10),
        })
        .bytes()
            + 8;
        let mut memory = Memory::new(Keep { budget: 3 * one, ..KEEP });
        memory.issued(step(10, 100), key(11), at(0));
        memory.issued(step(20, 5000), key(21), at(0));
        memory.issued(step(30, 5000), key(31), at(0));
        memory.deliver(key(20), at(0));
        memory.issued(step(40, 5000), key(41), at(0));
        assert_eq!(newest(&memory, 20), None, "the delivered one went");
        assert_eq!(memory.size().evicted, 0);
        memory.issued(step(50, 5000), key(51), at(0));
        assert_eq!(newest(&memory, 10), None, "then the one that ends first");
        assert_eq!(memory.size().evicted, 1);
        assert!(memory.size().bytes <= 3 * one);
    }

    #[test]
    fn over_the_budget_what_other_tabs_are_about_to_need_stays() {
        let room = chain(1).size().bytes;
        let mut memory = Memory::new(Keep { budget: 4 * room, ..KEEP });
        memory.issued(step(10, 5000), key(11), at(0));
        memory.deliver(key(10), at(0));
        memory.confirm(key(11), at(0));
        memory.lost(key(20), at(0), Lane::Known, at(0));
        memory.refused(key(30), RefusalReason::ByBackend, at(5000), (Lane::Known, at(0)));
        for n in 40..=42 {
            memory.issued(step(n, 5000), key(n + 100), at(0));
            memory.deliver(key(n), at(0));
        }
        assert_eq!(memory.look(key(30)), Known::Nothing, "a refusal goes first");
        assert_eq!(memory.size().evicted, 0);
        for n in 50..=60 {
            memory.issued(step(n, 5000), key(n + 100), at(0));
        }
        assert_eq!(newest(&memory, 42), None, "then what a browser most likely has");
        assert_eq!(memory.look(key(20)), Known::Nothing, "then a doubt");
        assert!(
            newest(&memory, 10).is_some(),
            "the old tokens of a browser that has come back with the new ones"
        );
        assert!(memory.size().evicted >= 8, "the doubt, and undelivered ones");
        memory.expire(at(60));
        assert_eq!(newest(&memory, 10), None, "for a moment");
    }

    #[test]
    fn lineage_is_found_from_either_side() {
        let memory = chain(1);
        assert_eq!(memory.lineage(key(1)).map(|l| l.family), Some(key(0)));
        assert_eq!(memory.lineage(key(2)).map(|l| l.family), Some(key(0)));
        assert_eq!(memory.lineage(key(3)), None);
    }
}
