//! Hearing what the other replicas tell, and telling them what can wait.
//! In: events of the share. Out: sign-outs, landings. Errors: none. I/O: the share.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, UnixTime};
use crate::meter::Meters;
use crate::outcome::SessionKey;
use crate::renew::memory::{Lane, Slot};
use crate::renew::shared::letters::{Letter, PATIENCE, SignOut, post};
use crate::renew::shared::{ASK_AGAIN, Shared, Word};
use crate::renew::{Inner, Latest, Renewer};
use crate::share::{Away, Event, Gap, Position};

/// How far back a store that failed over or was restarted is told again what it was told.
const RECENT: Duration = Duration::from_secs(120);

/// The key of no session: to ask for it tells whether the share answers.
const NOBODY: SessionKey = SessionKey([0; 32]);

/// Most names of sessions in one announcement.
const NAMES: usize = 16;

/// Most records that are told again at a time.
const TOGETHER: usize = 32;

/// Hears and tells. It lives longer than any settings, and goes by those that are in force.
struct Follower {
    shared: Arc<Shared>,
    latest: Latest,
    meters: Arc<Meters>,
    clock: Arc<dyn Clock>,
}

impl Renewer {
    /// Hears what the other replicas tell, and tells them what can wait, until `finish`: once for this renewer and all its
    /// successors.
    pub async fn follow(self, finish: CancellationToken) {
        let Some(shared) = self.0.share.clone() else { return };
        let receiver = shared.untold_words.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(receiver) = receiver else { return };
        let follower = Follower {
            shared: Arc::clone(&shared),
            latest: self.0.latest.clone(),
            meters: Arc::clone(&self.0.meters),
            clock: Arc::clone(&self.0.clock),
        };
        drop(self);
        tokio::select! {
            () = follower.hear(&shared) => {}
            () = follower.mend(&shared) => {}
            () = follower.tell_words(receiver) => {}
            () = finish.cancelled() => {}
        }
    }
}

impl Renewer {
    /// Waits until all is known that the other replicas had told of sign-outs when this one began to [follow](Self::follow),
    /// at most `limit`: a replica that starts must not let in whoever was signed out before.
    pub async fn caught_up(&self, limit: Duration) {
        let Some(shared) = &self.0.share else { return };
        let mut caught_up = shared.caught_up.subscribe();
        if tokio::time::timeout(limit, caught_up.wait_for(|yes| *yes)).await.is_err() {
            tracing::warn!(
                "the replicas' share gives no answer: sessions that were signed out before may be let in until it does"
            );
        }
    }
}

impl Follower {
    async fn hear(&self, shared: &Shared) {
        let mut position = Position::default();
        loop {
            match shared.store.listen(&position).await {
                Ok((events, read)) => {
                    self.meters.share_up.set(1);
                    self.tell_again(shared).await;
                    events.into_iter().for_each(|event| self.heard(shared, event));
                    if read.is_caught_up() {
                        shared.caught_up.send_replace(true);
                    }
                    position = read;
                }
                Err(Away) => {
                    if self.meters.share_up.set(0) == 1 {
                        tracing::warn!("the replicas' share gives no answer");
                    }
                    tokio::time::sleep(ASK_AGAIN.1).await;
                    // To wait for news takes a while where there are none, and the others should not go on without ours.
                    if shared.store.look(NOBODY).await.is_ok() {
                        self.tell_again(shared).await;
                    }
                }
            }
        }
    }

    /// The share is back: it gets what it missed.
    async fn tell_again(&self, shared: &Shared) {
        let letters: Vec<Letter> =
            std::mem::take(&mut *shared.unposted.lock().unwrap_or_else(PoisonError::into_inner));
        let untold = std::mem::take(&mut *shared.untold.lock().unwrap_or_else(PoisonError::into_inner));
        for SignOut { key, names, until, record } in untold {
            let keep = until.since(self.clock.now());
            let told = shared.store.announce(&names, until).await;
            if told.and(shared.store.bury(key, &record, keep).await.map(drop)).is_err() {
                let mut untold = shared.untold.lock().unwrap_or_else(PoisonError::into_inner);
                untold.push(SignOut { key, names, until, record });
            }
        }
        post_all(shared, letters).await;
    }

    /// What the share may have lost is told to it again.
    async fn mend(&self, shared: &Shared) {
        loop {
            let gap = shared.store.loses().await;
            let since = match gap {
                Gap::Recent => self.clock.now().saturating_sub(RECENT),
                Gap::All => UnixTime::from_secs(0),
            };
            let Some(inner) = self.latest.get() else { continue };
            let letters = inner.remembered(since);
            tracing::warn!(
                records = letters.len(),
                "the replicas' share may have lost something: what is remembered here is told to it again"
            );
            post_all(shared, letters).await;
            if gap == Gap::All {
                announce_all(shared, inner.buried()).await;
            }
        }
    }

    fn heard(&self, shared: &Shared, event: Event) {
        let Some(inner) = self.latest.get() else { return };
        match event {
            // Nobody waits: nothing to tell.
            Event::Landed(key) => drop(shared.landed.send(key)),
            Event::SignedOut(names, until) => {
                let now = self.clock.now();
                if now < until {
                    inner.bury(names, (until, Lane::Known));
                }
            }
            Event::SignedIn(names) => inner.lift(&names),
            Event::Spent(name) => inner.checker.forget_named(name),
            Event::Refused(names) => {
                let Some(key) = names.first().copied() else { return };
                if inner.bonds.any(&names) {
                    let tasks = inner.tasks.clone();
                    tasks.spawn(async move {
                        inner.catch_up(key).await;
                        inner.bonds.refused(&names, key);
                    });
                }
            }
        }
    }

    async fn tell_words(&self, mut receiver: mpsc::Receiver<Word>) {
        while let Some(word) = receiver.recv().await {
            let store = &self.shared.store;
            let told = match word {
                Word::Confirmed(key) => store.confirm(key, self.confirmed_for()).await,
                Word::Spent(name) => store.tell(&Event::Spent(name)).await,
                Word::Refused(key, family) => store.tell(&Event::Refused(vec![key, family])).await,
            };
            if told.is_err() {
                tracing::debug!("a word is not told to the other replicas");
            }
        }
        std::future::pending::<()>().await;
    }

    /// An answer that set the older tokens may still be on its way, as long as its renewal could take.
    fn confirmed_for(&self) -> Duration {
        let settings = |inner: Arc<Inner>| inner.settings.replay.saturating_add(inner.settings.give_up);
        self.latest.get().map(settings).unwrap_or_default()
    }
}

impl Inner {
    /// The names of sessions that were signed out, by their end. What strangers signed out is not among them.
    fn buried(&self) -> BTreeMap<UnixTime, Vec<SessionKey>> {
        let now = self.clock.now();
        let mut by_end: BTreeMap<UnixTime, Vec<SessionKey>> = BTreeMap::new();
        for (name, until, lane) in self.ledger().tombstones.iter() {
            if lane == Lane::Known && now < until {
                by_end.entry(until).or_default().push(name);
            }
        }
        by_end
    }

    /// What was issued since then, the latest first, with every refusal and doubt.
    fn remembered(&self, since: UnixTime) -> Vec<Letter> {
        let now = self.clock.now();
        let issued_at = |slot: &Slot| match slot {
            Slot::Issued(entry) => Some(entry.issued.tokens.received_at),
            Slot::Refused { lane: Lane::Known, .. } | Slot::Unknown { lane: Lane::Known, .. } => Some(now),
            // Anybody can present such tokens: nothing of them goes there.
            Slot::Refused { lane: Lane::Stranger, .. } | Slot::Unknown { lane: Lane::Stranger, .. } => None,
        };
        let mut slots: Vec<(UnixTime, SessionKey, Slot)> = {
            let ledger = self.ledger();
            let all = ledger.memory.slots();
            let dated = all.filter_map(|(key, slot)| Some((issued_at(slot)?, *key, slot.clone())));
            dated.filter(|(at, _, _)| *at >= since).collect()
        };
        slots.sort_by_key(|(at, _, _)| Reverse(*at));
        let seal = |(_, key, slot): (UnixTime, SessionKey, Slot)| {
            self.seal(key, &slot).map(|record| Letter::of(key, &slot, record, now))
        };
        slots.into_iter().filter_map(seal).collect()
    }
}

/// Announces sign-outs to those who learn of them first now: replicas that start.
async fn announce_all(shared: &Shared, by_end: BTreeMap<UnixTime, Vec<SessionKey>>) {
    for (until, names) in by_end {
        for some in names.chunks(NAMES) {
            if shared.store.announce(some, until).await.is_err() {
                tracing::warn!("sign-outs could not be told again to the replicas' share");
                return;
            }
        }
    }
}

/// Stores many records, several at a time.
async fn post_all(shared: &Shared, letters: Vec<Letter>) {
    let mut under_way = JoinSet::new();
    for letter in letters {
        if under_way.len() >= TOGETHER {
            under_way.join_next().await;
        }
        under_way.spawn(post(Arc::clone(&shared.store), Arc::clone(&shared.unposted), letter, PATIENCE));
    }
    while under_way.join_next().await.is_some() {}
}
