//! A flight that the other replicas see: claimed once it has its place at the backend, stored before the claim ends.
//! In: [`Leg`]. Out: [`Landed`]. Errors: none; a fault is an outcome. I/O: the share, the session backend.
//!
//! Only the owner of a claim presents. All others wait for what comes of it, told by the share and asking again by
//! themselves. `sent` is written, with the doubt, before the first byte; so whoever takes over a claim whose owner died
//! finds either nothing, and nothing was presented, or the doubt, and goes by the rules for lost answers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::admit::Place;
use crate::clock::{Deadline, Stopwatch, UnixTime};
use crate::outcome::{Answer, BackendFault, RefusalReason, RenewOutcome, SessionKey};
use crate::renew::Inner;
use crate::renew::flight::{Landed, Leg};
use crate::renew::memory::{Lane, Slot};
use crate::renew::shared::letters::{Letter, again, post};
use crate::renew::shared::{ASK_AGAIN, ShareAway, Shared, Word};
use crate::share::{Away, Claim, Kind, Owner, Record, Standing, Stands, Stored};

/// How often a claim is extended.
const EXTEND: Duration = Duration::from_millis(500);

/// How old the word may be that a presentation has been written down; a claim lives three times as long.
const SOON: Duration = Duration::from_secs(5);

/// How long those who wait here are kept waiting for the store of a result, which goes on behind.
const STORE: Duration = Duration::from_millis(300);

/// Where a flight stands before it presents.
enum Approach {
    /// It may.
    Present(Presenting),
    /// There is nothing to present.
    Landed(Landed),
}

/// What a presentation begins with.
struct Presenting {
    place: Place,
    /// Whether the other replicas know of it.
    claim: Claimed,
    /// The doubt that an earlier presentation left.
    doubt: Option<Record>,
    /// The record that this flight was started to replace.
    dead: Option<Record>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claimed {
    Yes,
    /// The share is away, and this replica renews alone.
    No,
}

/// A flight that seeks its claim.
struct Seeking<'a> {
    leg: &'a Leg,
    told: &'a watch::Sender<Option<Landed>>,
    owner: Owner,
    /// The doubt that it would leave.
    own_doubt: Option<Record>,
    /// How long it waits for a share that gives no answer.
    patience: Deadline,
    /// When it ends without having presented.
    end: Deadline,
}

impl Inner {
    /// Makes a flight under a claim. Presents at most once.
    pub(in crate::renew) async fn fly_shared(
        &self,
        shared: &Shared,
        leg: &Leg,
        (place, told): (Place, &watch::Sender<Option<Landed>>),
    ) -> Landed {
        let seeking = Seeking {
            leg,
            told,
            owner: Owner::random(),
            own_doubt: self.doubt(leg),
            patience: Deadline::after(self.settings.timeout),
            end: Deadline::after(self.settings.give_up),
        };
        let (owner, own_doubt) = (seeking.owner, seeking.own_doubt.as_ref());
        let mut place = place;
        let mut unsent: Option<Option<Record>> = None;
        loop {
            let presenting = match self.approach(shared, &seeking, place).await {
                Approach::Present(presenting) => presenting,
                Approach::Landed(landed) => {
                    let Some(doubt) = unsent else { return landed };
                    self.release_behind(shared, leg.key, owner, doubt);
                    return landed;
                }
            };
            if presenting.claim == Claimed::Yes
                && self.mark_sent(shared, leg, owner, (own_doubt, presenting.dead.as_ref())).await
                    == Stands::No
            {
                // It is the share that takes so long to take a claim.
                if seeking.patience.passed() {
                    self.release_behind(shared, leg.key, owner, presenting.doubt);
                    return unavailable(BackendFault::ShareAway);
                }
                (place, unsent) = (presenting.place, Some(presenting.doubt));
                continue;
            }
            let claim = (presenting.claim, own_doubt);
            let answer = self.present_claimed(shared, (leg, &presenting.place), owner, claim).await;
            let outcome = self.conclude(leg, answer).await;
            return self.hand_over(shared, leg, (owner, presenting, own_doubt), outcome).await;
        }
    }

    /// Ends a claim under which nothing was presented, as soon as the share can be reached.
    fn release_behind(&self, shared: &Shared, key: SessionKey, owner: Owner, doubt: Option<Record>) {
        let (store, keep, limit) =
            (Arc::clone(&shared.store), self.settings.undelivered, self.settings.give_up);
        self.tasks.spawn(async move {
            if again(|| store.release(key, owner, doubt.as_ref(), keep), limit).await.is_err() {
                tracing::debug!("a claim was left to its end");
            }
        });
    }

    /// Waits until the claim is this flight's, or another's flight has landed. A place is held only while the claim is
    /// sought: those who wait for another replica, or for the share, hold up nobody else's renewal here.
    async fn approach(&self, shared: &Shared, seeking: &Seeking<'_>, place: Place) -> Approach {
        let (leg, owner) = (seeking.leg, seeking.owner);
        let mut landings = shared.landed.subscribe();
        let alone = shared.away == ShareAway::Alone || !self.backend.capabilities().rotates;
        let mut place = Some(place);
        let mut dead: Option<Record> = None;
        while !seeking.end.passed() {
            let held = match place.take() {
                Some(place) => place,
                None => match self.place_again(leg, seeking.told, seeking.end).await {
                    Ok(place) => place,
                    Err(fault) => return Approach::Landed(unavailable(fault)),
                },
            };
            match shared.store.claim(leg.key, owner, dead.as_ref()).await {
                Ok(Claim::Answered(record)) => match self.answered(leg, &record) {
                    Some(landed) => return Approach::Landed(landed),
                    None => (place, dead) = (Some(held), Some(record)),
                },
                Ok(Claim::Granted(record)) => {
                    let other = |record: &Record| {
                        record.kind == Kind::Doubt && Some(record) != seeking.own_doubt.as_ref()
                    };
                    return self.granted(shared, seeking, (held, record.filter(other), dead));
                }
                Err(Away) if alone => {
                    let presenting = Presenting { place: held, claim: Claimed::No, doubt: None, dead };
                    return Approach::Present(presenting);
                }
                // Whose token still lives loses nothing by waiting for the share.
                Err(Away) if leg.access_ends.is_some() || seeking.patience.passed() => {
                    return Approach::Landed(unavailable(BackendFault::ShareAway));
                }
                Ok(Claim::Held) | Err(Away) => {
                    drop(held);
                    if let Some(landed) = self.look_on(shared, seeking, &mut landings, dead.as_ref()).await {
                        return Approach::Landed(landed);
                    }
                }
            }
        }
        Approach::Landed(unavailable(BackendFault::Slow))
    }

    /// Waits, without a place, until there is a result, or the claim is to be sought again: `None`.
    async fn look_on(
        &self,
        shared: &Shared,
        seeking: &Seeking<'_>,
        landings: &mut broadcast::Receiver<SessionKey>,
        dead: Option<&Record>,
    ) -> Option<Landed> {
        let leg = seeking.leg;
        let mut pause = ASK_AGAIN.0;
        while !seeking.end.passed() {
            wait(landings, leg.key, pause).await;
            pause = pause.saturating_mul(2).min(ASK_AGAIN.1);
            match shared.store.look(leg.key).await {
                Ok(Standing { record: Some(record), .. })
                    if record.kind != Kind::Doubt && dead.is_none_or(|dead| dead.head() != record.head()) =>
                {
                    // A result that this flight was started to replace is told apart with the claim.
                    return self.answered(leg, &record);
                }
                Ok(Standing { claimed: true, .. }) => {}
                Ok(Standing { claimed: false, .. }) => return None,
                Err(Away) if seeking.patience.passed() => return Some(unavailable(BackendFault::ShareAway)),
                Err(Away) => {}
            }
        }
        Some(unavailable(BackendFault::Slow))
    }

    /// What follows from a result that stands; `None`: it is the one that this flight was started to replace.
    fn answered(&self, leg: &Leg, record: &Record) -> Option<Landed> {
        match self.open(leg.key, record) {
            Some(Slot::Issued(entry)) if leg.dead.as_ref() == Some(&entry.issued.tokens.access) => None,
            Some(slot) => {
                self.take_over(leg.key, slot);
                Some(Landed::Again)
            }
            None => Some(unavailable(BackendFault::ShareAway)),
        }
    }

    /// The claim is ours. Where an earlier presentation left a doubt, here or there, its time has to have come.
    fn granted(
        &self,
        shared: &Shared,
        seeking: &Seeking<'_>,
        (place, doubt, dead): (Place, Option<Record>, Option<Record>),
    ) -> Approach {
        let leg = seeking.leg;
        if let Some(slot) = doubt.as_ref().and_then(|record| self.open(leg.key, record)) {
            self.take_over(leg.key, slot);
        }
        let now = self.clock.now();
        let held_back = match self.ledger().memory.slot(leg.key) {
            Some(Slot::Unknown { not_before, .. }) if now < *not_before => Some(*not_before),
            Some(Slot::Unknown { .. } | Slot::Issued(_) | Slot::Refused { .. }) | None => None,
        };
        match held_back {
            Some(until) => {
                self.release_behind(shared, leg.key, seeking.owner, doubt);
                Approach::Landed(unavailable(BackendFault::HeldBack { until }))
            }
            None => Approach::Present(Presenting { place, claim: Claimed::Yes, doubt, dead }),
        }
    }

    /// Writes that the presentation begins. `No`: nothing may be presented, and the claim has to be sought anew.
    async fn mark_sent(
        &self,
        shared: &Shared,
        leg: &Leg,
        owner: Owner,
        records: (Option<&Record>, Option<&Record>),
    ) -> Stands {
        let keep = self.settings.undelivered;
        // An answer that was lost on its way is asked for again: the claim is compared, so that changes nothing.
        let mut pause = ASK_AGAIN.0;
        for _ in 0..3 {
            let asked = Stopwatch::start();
            match shared.store.sent(leg.key, owner, records, keep).await {
                // Whoever was stopped meanwhile may have lost the claim to another one since.
                Ok(Stands::Yes) if asked.elapsed() > SOON => {}
                Ok(stands) => return stands,
                Err(Away) => tokio::time::sleep(pause).await,
            }
            pause = ASK_AGAIN.1;
        }
        match shared.away {
            ShareAway::Alone => Stands::Yes,
            ShareAway::Wait if !self.backend.capabilities().rotates => Stands::Yes,
            ShareAway::Wait => Stands::No,
        }
    }

    /// Presents, and extends the claim meanwhile.
    async fn present_claimed(
        &self,
        shared: &Shared,
        (leg, place): (&Leg, &Place),
        owner: Owner,
        (claim, doubt): (Claimed, Option<&Record>),
    ) -> Answer {
        let (store, meters) = (Arc::clone(&shared.store), Arc::clone(&self.meters));
        let (key, doubt, keep) = (leg.key, doubt.cloned(), self.settings.undelivered);
        let extending = async move {
            if claim == Claimed::No {
                return;
            }
            loop {
                tokio::time::sleep(EXTEND).await;
                if store.extend(key, owner, doubt.as_ref(), keep).await == Ok(Stands::No) {
                    meters.share_overtaken.inc();
                    tracing::warn!("a renewal under way lost its claim to another replica");
                    return;
                }
            }
        };
        // A task of its own: a share that gives no answer holds up no answer of the backend.
        let _extending = AbortOnDropHandle::new(self.tasks.spawn(extending));
        self.exchange(leg, place).await
    }

    /// Tells the other replicas what came of it.
    async fn hand_over(
        &self,
        shared: &Shared,
        leg: &Leg,
        (owner, presenting, own_doubt): (Owner, Presenting, Option<&Record>),
        outcome: RenewOutcome,
    ) -> Landed {
        let now = self.clock.now();
        let slot = self.slot_of(leg, &outcome, now);
        let record = slot.as_ref().and_then(|slot| Some((slot, self.seal(leg.key, slot)?)));
        let Some((slot, record)) = record else {
            let doubt = match &outcome {
                RenewOutcome::Unavailable(fault) if fault.is_unknown() => own_doubt.cloned(),
                RenewOutcome::Renewed(_)
                | RenewOutcome::Refused(_)
                | RenewOutcome::Unavailable(_)
                | RenewOutcome::Withheld => presenting.doubt,
            };
            self.release_behind(shared, leg.key, owner, doubt);
            return Landed::Outcome(Box::new(outcome));
        };
        let letter = Letter { owner, dead: presenting.dead, ..Letter::of(leg.key, slot, record, now) };
        match self.store(shared, letter).await {
            Stored::Yes => {
                if matches!(slot, Slot::Refused { .. }) {
                    shared.tell(Word::Refused(leg.key, leg.lineage.family));
                }
                Landed::Outcome(Box::new(outcome))
            }
            Stored::Other(record) => self.yield_to(leg, &record, (slot, outcome)),
        }
    }

    /// What the other replicas are to know of a flight: what is remembered of it here, or, where there was no room for that, what it
    /// brought.
    fn slot_of(&self, leg: &Leg, outcome: &RenewOutcome, now: UnixTime) -> Option<Slot> {
        let ledger = self.ledger();
        let issued = match (ledger.memory.slot(leg.key), outcome) {
            // Anybody can send what is refused: it is remembered here, and takes no room there.
            (Some(Slot::Refused { lane: Lane::Stranger, .. }), _) => return None,
            (Some(slot @ (Slot::Refused { .. } | Slot::Unknown { .. })), _) => return Some(slot.clone()),
            (Some(slot @ Slot::Issued(entry)), _)
                if leg.dead.as_ref() != Some(&entry.issued.tokens.access) =>
            {
                return Some(slot.clone());
            }
            (None, RenewOutcome::Renewed(renewed)) => &renewed.issued,
            (None, RenewOutcome::Unavailable(BackendFault::Unverifiable { issued, .. })) => &**issued,
            (Some(Slot::Issued(_)), _)
            | (None, RenewOutcome::Refused(_) | RenewOutcome::Unavailable(_) | RenewOutcome::Withheld) => {
                return None;
            }
        };
        let next = self.sessions.policy.key(&issued.tokens.pair());
        Some(Slot::Issued(ledger.memory.entry(issued.clone(), next, now)))
    }

    /// Stores a record; where that takes longer than those who wait here should, it goes on behind.
    async fn store(&self, shared: &Shared, letter: Letter) -> Stored {
        let head = letter.record.head();
        let (store, unposted) = (Arc::clone(&shared.store), Arc::clone(&shared.unposted));
        let mut posted = self.tasks.spawn(post(store, unposted, letter, self.settings.give_up));
        match tokio::time::timeout(STORE, &mut posted).await {
            Ok(Ok(Stored::Other(other))) if other.head() != head => Stored::Other(other),
            Ok(Ok(_)) => Stored::Yes,
            Ok(Err(_)) | Err(_) => {
                self.meters.share_late.inc();
                Stored::Yes
            }
        }
    }

    /// Another record stands and is not replaced: what is remembered here becomes what it says.
    fn yield_to(&self, leg: &Leg, record: &Record, (slot, outcome): (&Slot, RenewOutcome)) -> Landed {
        if record.kind == Kind::SignedOut {
            return Landed::Outcome(Box::new(match slot {
                Slot::Issued(entry) => self.reject(leg, &entry.issued, RefusalReason::SignedOut),
                Slot::Refused { .. } | Slot::Unknown { .. } => {
                    self.refuse(leg, RefusalReason::SignedOut);
                    RenewOutcome::Refused(RefusalReason::SignedOut)
                }
            }));
        }
        match self.open(leg.key, record) {
            Some(other) => {
                self.take_over(leg.key, other);
                Landed::Again
            }
            None => Landed::Outcome(Box::new(outcome)),
        }
    }

    /// The doubt that stands for a presentation of this leg until its result is stored; a backend that does not rotate
    /// needs none.
    fn doubt(&self, leg: &Leg) -> Option<Record> {
        let now = self.clock.now();
        let not_before = leg.access_ends.map_or(now, |end| end.max(now));
        let ends = not_before.saturating_add(self.settings.undelivered);
        let slot = Slot::Unknown { not_before, ends, lane: leg.lane() };
        if self.backend.capabilities().rotates { self.seal(leg.key, &slot) } else { None }
    }
}

/// Waits for a landing, at most `limit`.
pub(super) async fn wait(landings: &mut broadcast::Receiver<SessionKey>, key: SessionKey, limit: Duration) {
    let told = async {
        loop {
            match landings.recv().await {
                Ok(landed) if landed != key => {}
                // Told, or too many to read: ask again now.
                Ok(_) | Err(_) => return,
            }
        }
    };
    // Not told within the limit, it is time to ask again as well.
    drop(tokio::time::timeout(limit, told).await);
}

fn unavailable(fault: BackendFault) -> Landed {
    Landed::Outcome(Box::new(RenewOutcome::Unavailable(fault)))
}
