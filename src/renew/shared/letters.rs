//! What replicas tell each other: sealed records, and sign-outs.
//! In: what is remembered. Out: records of the share, and back. Errors: what does not open is `None`. I/O: the share.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{Deadline, UnixTime};
use crate::outcome::{Issued, RefusalReason, SessionKey};
use crate::renew::Inner;
use crate::renew::memory::{Entry, Known, Lane, Slot, Told};
use crate::renew::record::{put_down, take_up, text};
use crate::renew::shared::ASK_AGAIN;
use crate::renew::shared::claimed::wait;
use crate::share::{Away, Keeping, Kind, Op, Owner, Record, Share, Stored};

/// Records that wait for the share to be back.
const UNPOSTED: usize = 16_384;

/// Most replicas' flights looked behind for a session's newest tokens.
const LINKS: usize = 8;

/// How long one who waits for it tries to reach the share.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// Repeats an operation until it is answered, at most for `limit`.
pub(super) async fn again<'a, T>(operation: impl Fn() -> Op<'a, T>, limit: Duration) -> Result<T, Away> {
    let deadline = Deadline::after(limit);
    let mut pause = ASK_AGAIN.0;
    loop {
        match operation().await {
            Ok(done) => return Ok(done),
            Err(Away) if deadline.passed() => return Err(Away),
            Err(Away) => tokio::time::sleep(pause).await,
        }
        pause = pause.saturating_mul(2).min(ASK_AGAIN.1);
    }
}

/// A sign-out that the others do not know of yet.
#[derive(Debug)]
pub(super) struct SignOut {
    pub(super) key: SessionKey,
    pub(super) names: Vec<SessionKey>,
    pub(super) until: UnixTime,
    pub(super) record: Record,
}

/// A record on its way.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) key: SessionKey,
    pub(super) owner: Owner,
    pub(super) record: Record,
    pub(super) keep: Duration,
    pub(super) dead: Option<Record>,
    pub(super) next: Option<SessionKey>,
}

impl Letter {
    /// A record that nobody's claim stands for.
    pub(super) fn of(key: SessionKey, slot: &Slot, record: Record, now: UnixTime) -> Self {
        let next = match slot {
            Slot::Issued(entry) => Some(entry.next),
            Slot::Refused { .. } | Slot::Unknown { .. } => None,
        };
        Self { key, owner: Owner::random(), record, keep: slot.ends().since(now), dead: None, next }
    }
}

/// Stores a record; in vain, it is kept for when the share is back.
pub(super) async fn post(
    store: Arc<dyn Share>,
    unposted: Arc<Mutex<Vec<Letter>>>,
    letter: Letter,
    limit: Duration,
) -> Stored {
    let rest = Keeping { keep: letter.keep, dead: letter.dead.as_ref(), next: letter.next };
    match again(|| store.store(letter.key, letter.owner, &letter.record, rest), limit).await {
        Ok(stored) => stored,
        Err(Away) => {
            let mut unposted = unposted.lock().unwrap_or_else(PoisonError::into_inner);
            if unposted.is_empty() {
                tracing::warn!("what renewals brought is told to the other replicas once the share is back");
            }
            if unposted.len() < UNPOSTED {
                unposted.push(letter);
            }
            Stored::Yes
        }
    }
}

fn bound_to(key: SessionKey) -> String {
    format!("doorkeep share v1 {}", text(key))
}

impl Inner {
    /// Remembers what another replica stored.
    pub(super) fn take_over(&self, key: SessionKey, slot: Slot) {
        let now = self.clock.now();
        let at_least = now.saturating_add(self.settings.replay);
        let slot = match slot {
            Slot::Issued(entry) => Slot::Issued(Entry { ends: entry.ends.max(at_least), ..entry }),
            // The replica that was refused tells its client: told by each, a late one could clear a fresh sign-in.
            Slot::Refused { reason, ends, lane, .. } => {
                Slot::Refused { reason, ends: ends.max(at_least), told: Told::Yes, lane }
            }
            Slot::Unknown { not_before, ends, lane } => {
                Slot::Unknown { not_before, ends: ends.max(at_least), lane }
            }
        };
        {
            let mut ledger = self.ledger();
            ledger.memory.put(key, slot, now);
            self.measure(&ledger);
        }
        self.meters.share_taken_over.inc();
        self.bonds.wake(&[key]);
    }

    pub(super) fn seal(&self, key: SessionKey, slot: &Slot) -> Option<Record> {
        let kind = match slot {
            Slot::Issued(_) => Kind::Issued,
            Slot::Refused { reason: RefusalReason::SignedOut, .. } => Kind::SignedOut,
            Slot::Refused { .. } => Kind::Refused,
            Slot::Unknown { .. } => Kind::Doubt,
        };
        let plain = serde_json::to_vec(&put_down(slot)).ok()?;
        let sealed = self.sessions.carrier.sealer().seal(&plain, bound_to(key).as_bytes())?;
        Some(Record::new(kind, sealed))
    }

    /// What a record says. It is bound to its key, so none can be put in another's place.
    pub(super) fn open(&self, key: SessionKey, record: &Record) -> Option<Slot> {
        let plain = self.sessions.carrier.sealer().open(&record.sealed, bound_to(key).as_bytes());
        let slot = plain.and_then(|plain| take_up(key, serde_json::from_slice(&plain).ok()?));
        if slot.is_none() {
            self.meters.share_unreadable.inc();
            tracing::error!("a record of the share does not open: do all replicas have the same secret?");
        }
        slot
    }

    /// Brings the memory up to what the replicas know of a session, and waits for their flights of it.
    pub(in crate::renew) async fn catch_up(&self, key: SessionKey) {
        let Some(shared) = &self.share else { return };
        let deadline = Deadline::after(self.settings.give_up);
        let mut landings = shared.landed.subscribe();
        let (mut at, mut links) = (key, 0);
        while links < LINKS && !deadline.passed() {
            let Ok(standing) = shared.store.look(at).await else { return };
            if standing.claimed && !self.ledger().flights.contains_key(&at) {
                wait(&mut landings, at, ASK_AGAIN.1).await;
                continue;
            }
            let Some(slot) = standing.record.and_then(|record| self.open(at, &record)) else { return };
            let next = match &slot {
                Slot::Issued(entry) if entry.next != at => Some(entry.next),
                Slot::Issued(_) | Slot::Unknown { .. } => return,
                Slot::Refused { .. } => None,
            };
            self.take_over(at, slot);
            let Some(next) = next else { return };
            (at, links) = (next, links + 1);
        }
    }

    /// Learns what other replicas renewed a session to, and waits for nothing that is under way.
    ///
    /// # Errors
    /// [`Away`] where nobody could tell.
    pub(in crate::renew) async fn learn(&self, key: SessionKey) -> Result<(), Away> {
        let Some(shared) = &self.share else { return Ok(()) };
        for _ in 0..LINKS {
            let at = match self.ledger().memory.look(key) {
                Known::Newest(_, next) => next,
                Known::Nothing | Known::Refused(_) | Known::Unknown { .. } | Known::TooOld => return Ok(()),
            };
            let standing = shared.store.look(at).await?;
            let slot = standing.record.and_then(|record| self.open(at, &record));
            match slot {
                Some(Slot::Issued(entry)) if entry.next == at => return Ok(()),
                Some(slot @ (Slot::Issued(_) | Slot::Refused { .. })) => self.take_over(at, slot),
                Some(Slot::Unknown { .. }) | None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Tells the replicas that a pair which was signed out or refused was handed out anew.
    pub(in crate::renew) async fn revive_shared(&self, key: SessionKey, names: &[SessionKey]) {
        let Some(shared) = &self.share else { return };
        if again(|| shared.store.revive(key, names), PATIENCE).await.is_err() {
            tracing::warn!("a sign-in could not be told to the other replicas: they may ask for another");
        }
    }

    /// Tells the replicas that a session was signed out. Tokens that stood under `key` come back: they have to be ended.
    pub(in crate::renew) async fn bury_shared(
        &self,
        key: SessionKey,
        names: &[SessionKey],
        until: UnixTime,
    ) -> Option<Arc<Issued>> {
        let shared = self.share.as_ref()?;
        let keep = until.since(self.clock.now());
        let reason = RefusalReason::SignedOut;
        let slot = Slot::Refused { reason, ends: until, told: Told::No, lane: Lane::Known };
        let record = self.seal(key, &slot)?;
        let told = again(|| shared.store.announce(names, until), PATIENCE).await;
        match (told, again(|| shared.store.bury(key, &record, keep), PATIENCE).await) {
            (Ok(()), Ok(earlier)) => {
                match self.open(key, &earlier.filter(|record| record.kind == Kind::Issued)?)? {
                    Slot::Issued(entry) => Some(entry.issued),
                    Slot::Refused { .. } | Slot::Unknown { .. } => None,
                }
            }
            (Err(Away), _) | (_, Err(Away)) => {
                tracing::warn!("a sign-out is told to the other replicas once the share is back");
                let mut untold = shared.untold.lock().unwrap_or_else(PoisonError::into_inner);
                if untold.len() < UNPOSTED {
                    untold.push(SignOut { key, names: names.to_vec(), until, record });
                }
                None
            }
        }
    }
}
