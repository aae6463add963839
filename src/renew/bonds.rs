//! What lives as long as its session: tunnels and event streams hold a [`Bond`], which tells them when the session is over.
//! In: sessions, and what becomes of them. Out: [`Bond`]. Errors: none. I/O: the share, once before a session counts as ended.
//!
//! A session is over once it is refused or signed out, here or at another replica, or once its newest access token that is
//! known here has ended. Whatever is learnt of a session wakes its bonds by any of the names that it goes by; they look then
//! in the memory of renewals for themselves.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::{Clock, UnixTime};
use crate::identity::Identity;
use crate::meter::Meters;
use crate::network::Network;
use crate::outcome::{Issued, SessionKey};
use crate::renew::memory::Known;
use crate::renew::{Inner, Latest, Renewer};
use crate::session::verifier::Verified;
use crate::token::{Ending, Pair};

/// Most bonds that are told of changes; beyond, they end with the token that they began with.
const MOST: usize = 65_536;

/// The names that a session had at first and that stay known.
const FIRST: usize = 8;

/// Most names of a session: the first ones, and those of its last renewals.
const NAMES: usize = 24;

/// How often the clock is looked at.
const TICK: Duration = Duration::from_millis(400);

/// Longest wait for the share's word that another replica has renewed a session.
const LAST_LOOK: Duration = Duration::from_millis(400);

/// A session to be bound to.
#[derive(Debug)]
pub struct Tied {
    /// Every name that it goes by.
    pub names: Vec<SessionKey>,
    /// The key of what was presented for its newest tokens, or will be; `None`: it has no refresh token.
    pub key: Option<SessionKey>,
    /// Who is there, from the access token.
    pub who: Identity,
}

/// All bonds.
#[derive(Debug, Default)]
pub(super) struct Bonds {
    /// Spares every request the lock while there are none.
    count: AtomicUsize,
    ties: Mutex<Ties>,
}

#[derive(Debug, Default)]
struct Ties {
    next: u64,
    by_id: HashMap<u64, Tie>,
    by_name: HashMap<SessionKey, Vec<u64>>,
}

#[derive(Clone, Debug)]
struct Tie {
    names: Vec<SessionKey>,
    key: Option<SessionKey>,
    subject: String,
    /// When the newest known access token ends, leeway counted. `None`: nobody says.
    ends: Option<UnixTime>,
    changed: Arc<Notify>,
}

/// Tells when a session is over.
#[derive(Debug)]
pub struct Bond {
    all: Arc<Bonds>,
    latest: Latest,
    clock: Arc<dyn Clock>,
    meters: Arc<Meters>,
    id: u64,
    /// What stands where there were too many bonds to be told of changes.
    tie: Tie,
}

/// Whether a session goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    Yes,
    No,
}

impl Ties {
    fn named(&mut self, id: u64, names: impl IntoIterator<Item = SessionKey>) {
        for name in names {
            let Some(tie) = self.by_id.get_mut(&id) else { return };
            if tie.names.contains(&name) {
                continue;
            }
            if tie.names.len() >= NAMES {
                let old = tie.names.remove(FIRST);
                self.unname(id, old);
            }
            if let Some(tie) = self.by_id.get_mut(&id) {
                tie.names.push(name);
                self.by_name.entry(name).or_default().push(id);
            }
        }
    }

    fn unname(&mut self, id: u64, name: SessionKey) {
        if let Some(ids) = self.by_name.get_mut(&name) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_name.remove(&name);
            }
        }
    }

    fn called(&self, names: &[SessionKey]) -> Vec<u64> {
        let mut ids: Vec<u64> =
            names.iter().filter_map(|name| self.by_name.get(name)).flatten().copied().collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

impl Bonds {
    fn ties(&self) -> MutexGuard<'_, Ties> {
        self.ties.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something was learnt of the sessions that go by these names.
    pub(super) fn wake(&self, names: &[SessionKey]) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let ties = self.ties();
        ties.called(names)
            .iter()
            .filter_map(|id| ties.by_id.get(id))
            .for_each(|tie| tie.changed.notify_one());
    }

    /// Whether any session goes by one of these names.
    pub(super) fn any(&self, names: &[SessionKey]) -> bool {
        self.count.load(Ordering::Acquire) > 0 && !self.ties().called(names).is_empty()
    }

    /// What stands under `key` is remembered now: that is where the sessions of these names have come to.
    pub(super) fn refused(&self, names: &[SessionKey], key: SessionKey) {
        let mut ties = self.ties();
        for id in ties.called(names) {
            if let Some(tie) = ties.by_id.get_mut(&id) {
                tie.key = Some(key);
                tie.changed.notify_one();
            }
        }
    }

    fn add(&self, tie: &Tie) -> u64 {
        let mut ties = self.ties();
        ties.next += 1;
        let id = ties.next;
        if ties.by_id.len() < MOST {
            ties.by_id.insert(id, Tie { names: Vec::new(), ..tie.clone() });
            ties.named(id, tie.names.iter().copied());
        }
        self.count.store(ties.by_id.len(), Ordering::Release);
        id
    }

    fn remove(&self, id: u64) {
        let mut ties = self.ties();
        if let Some(tie) = ties.by_id.remove(&id) {
            tie.names.into_iter().for_each(|name| ties.unname(id, name));
        }
        self.count.store(ties.by_id.len(), Ordering::Release);
    }

    /// The session lives at least so long, and goes by these names as well.
    fn extend(&self, id: u64, ends: Option<UnixTime>, names: &[SessionKey]) {
        let mut ties = self.ties();
        if let Some(tie) = ties.by_id.get_mut(&id) {
            tie.ends = later(tie.ends, ends);
        }
        ties.named(id, names.iter().copied());
    }
}

fn later(one: Option<UnixTime>, other: Option<UnixTime>) -> Option<UnixTime> {
    Some(one?.max(other?))
}

impl Renewer {
    /// Binds something to a session, from now until the bond is dropped.
    #[must_use]
    pub fn bind(&self, tied: Tied) -> Bond {
        let inner = &self.0;
        let Tied { mut names, key, who } = tied;
        {
            let ledger = inner.ledger();
            names.extend(key.and_then(|key| ledger.memory.lineage(key)).map(|lineage| lineage.family));
            names.extend(key);
        }
        let tie = Tie {
            names,
            key,
            subject: who.subject().to_owned(),
            ends: inner.end_of(&who),
            changed: Arc::new(Notify::new()),
        };
        let id = inner.bonds.add(&tie);
        inner.meters.bound.inc();
        Bond {
            all: Arc::clone(&inner.bonds),
            latest: inner.latest.clone(),
            clock: Arc::clone(&inner.clock),
            meters: Arc::clone(&inner.meters),
            id,
            tie,
        }
    }

    /// A client presented a live token that is new here: what is bound to its session lives as long, whoever renewed it.
    pub fn carry(&self, pair: &Pair, who: &Identity) {
        let bonds = &self.0.bonds;
        if bonds.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let policy = &self.0.sessions.policy;
        let mut names = policy.marks(&Ending::of(pair.clone(), None));
        let key = policy.key(pair);
        names.extend(self.0.ledger().memory.lineage(key).map(|lineage| lineage.family));
        let ends = self.0.end_of(who);
        let mut ties = bonds.ties();
        for id in ties.called(&names) {
            let Some(tie) = ties.by_id.get_mut(&id).filter(|tie| tie.subject == who.subject()) else {
                continue;
            };
            // Of two tokens of one session the later one is the newer.
            if tie.ends < ends {
                tie.key = Some(key);
            }
            tie.ends = later(tie.ends, ends);
            ties.named(id, names.iter().copied());
        }
    }
}

impl Bond {
    /// Waits until the session is over.
    pub async fn over(self) {
        while self.stands().await == Stands::Yes {
            self.changed_or_ended().await;
        }
        self.meters.bound_ended.inc();
    }

    /// Looks by the settings that are in force by then: a bond may live longer than those that it began with.
    async fn stands(&self) -> Stands {
        match self.latest.get() {
            Some(inner) => inner.stands(self.id, &self.tie).await,
            None => Stands::No,
        }
    }

    async fn changed_or_ended(&self) {
        loop {
            tokio::select! {
                () = self.tie.changed.notified() => return,
                () = tokio::time::sleep(TICK) => {}
            }
            let ends = self.all.ties().by_id.get(&self.id).map_or(self.tie.ends, |tie| tie.ends);
            if ends.is_some_and(|end| end <= self.clock.now()) {
                return;
            }
        }
    }
}

impl Drop for Bond {
    fn drop(&mut self) {
        self.all.remove(self.id);
        self.meters.bound.dec();
    }
}

impl Inner {
    fn end_of(&self, who: &Identity) -> Option<UnixTime> {
        who.expires_at().map(|end| end.saturating_add(self.sessions.policy.leeway))
    }

    /// Whether the session of a bond goes on, by what is known now.
    async fn stands(&self, id: u64, begun: &Tie) -> Stands {
        let now_of = || self.bonds.ties().by_id.get(&id).cloned().unwrap_or_else(|| begun.clone());
        let tie = now_of();
        if self.look(id, &tie).await == Stands::No {
            return Stands::No;
        }
        let lives = |tie: &Tie| tie.ends.is_none_or(|end| self.clock.now() < end);
        if lives(&now_of()) {
            return Stands::Yes;
        }
        // Another replica may have renewed it.
        let Some(key) = tie.key.filter(|_| self.share.is_some()) else { return Stands::No };
        drop(tokio::time::timeout(LAST_LOOK, self.catch_up(key)).await);
        if self.look(id, &now_of()).await == Stands::Yes && lives(&now_of()) {
            Stands::Yes
        } else {
            Stands::No
        }
    }

    /// Looks in the memory of renewals. `No`: the session was signed out or refused.
    async fn look(&self, id: u64, tie: &Tie) -> Stands {
        let now = self.clock.now();
        let known = {
            let ledger = self.ledger();
            if ledger.signed_out(&tie.names, now).is_some() {
                return Stands::No;
            }
            tie.key.map_or(Known::Nothing, |key| ledger.memory.look(key))
        };
        match known {
            Known::Refused(_) => Stands::No,
            Known::Newest(issued, next) => {
                self.follow_on(id, tie, (&issued, next)).await;
                Stands::Yes
            }
            Known::Nothing | Known::Unknown { .. } | Known::TooOld => Stands::Yes,
        }
    }

    /// A bond goes on with what its session was renewed to.
    async fn follow_on(&self, id: u64, tie: &Tie, (issued, next): (&Issued, SessionKey)) {
        let now = self.clock.now();
        let Ok(Verified::Live(who)) =
            self.checker.remembered(&issued.tokens.access, Network::None, now).await
        else {
            return;
        };
        if who.subject() != tie.subject {
            return;
        }
        let noted = issued.tokens.expires_in().map(|life| issued.tokens.received_at.saturating_add(life));
        let who = match noted {
            Some(end) => who.until(end),
            None => who,
        };
        let mut names = self.sessions.policy.marks(&Ending::of(issued.tokens.pair(), None));
        names.extend([issued.presented, issued.lineage.family]);
        self.bonds.extend(id, self.end_of(&who), &names);
        let mut ties = self.bonds.ties();
        if let Some(tie) = ties.by_id.get_mut(&id) {
            tie.key = Some(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u64) -> SessionKey {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&n.to_be_bytes());
        SessionKey(key)
    }

    fn tie(names: &[u64]) -> Tie {
        Tie {
            names: names.iter().copied().map(name).collect(),
            key: None,
            subject: "u".into(),
            ends: Some(UnixTime::from_secs(5)),
            changed: Arc::default(),
        }
    }

    #[test]
    fn a_session_keeps_its_first_names_and_its_last_ones_and_leaves_nothing_behind() {
        let bonds = Bonds::default();
        let (one, two) = (bonds.add(&tie(&[1, 2, 2])), bonds.add(&tie(&[2])));
        for n in 10..1000 {
            bonds.extend(one, Some(UnixTime::from_secs(n)), &[name(n), name(2)]);
        }
        {
            let ties = bonds.ties();
            let known = &ties.by_id[&one];
            assert_eq!(known.names.len(), NAMES);
            assert_eq!(known.ends, Some(UnixTime::from_secs(999)));
            assert_eq!(ties.called(&[name(1), name(999), name(1)]), [one]);
            assert_eq!(ties.called(&[name(2)]), [one, two]);
            assert!(ties.called(&[name(500)]).is_empty(), "a name of long ago");
            assert_eq!(ties.by_name.len(), NAMES, "no name is kept that nothing goes by");
        }
        bonds.extend(one, Some(UnixTime::from_secs(7)), &[]);
        assert_eq!(
            bonds.ties().by_id[&one].ends,
            Some(UnixTime::from_secs(999)),
            "an older token shortens nothing"
        );
        bonds.remove(one);
        bonds.remove(two);
        bonds.extend(one, None, &[name(3)]);
        let ties = bonds.ties();
        assert!(ties.by_id.is_empty() && ties.by_name.is_empty() && bonds.count.load(Ordering::Acquire) == 0);
    }

    #[test]
    fn there_are_never_more_than_so_many() {
        let bonds = Bonds::default();
        let ids: Vec<u64> = (0..MOST as u64 + 10).map(|n| bonds.add(&tie(&[n]))).collect();
        {
            let ties = bonds.ties();
            assert_eq!((ties.by_id.len(), ties.by_name.len()), (MOST, MOST));
        }
        ids.into_iter().for_each(|id| bonds.remove(id));
        let ties = bonds.ties();
        assert!(ties.by_id.is_empty() && ties.by_name.is_empty());
    }

    #[tokio::test]
    async fn whoever_goes_by_a_name_is_woken() {
        let bonds = Bonds::default();
        let (one, two) = (tie(&[1]), tie(&[2]));
        bonds.add(&one);
        bonds.add(&two);
        bonds.wake(&[name(1), name(3)]);
        let woken = |tie: &Tie| {
            let changed = Arc::clone(&tie.changed);
            async move { tokio::time::timeout(Duration::from_millis(10), changed.notified()).await.is_ok() }
        };
        assert!(woken(&one).await && !woken(&two).await);
    }
}
