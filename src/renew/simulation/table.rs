//! The store behind the share: a table with the steps of the real one, and a way to it that fails.

use std::future::Future;
use std::pin::Pin;

use super::*;
use crate::share::{
    Away, Claim, Event, Gap, Keeping, Kind, Op, Owner, Position, Record, Share, Standing, Stands, Stored,
};

const CLAIMED: Duration = Duration::from_secs(3);
const SENT: Duration = Duration::from_secs(15);
const SETTLE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Claimed,
    Sent,
}

#[derive(Debug, Default)]
struct Place {
    claim: Option<(Phase, Owner, Deadline)>,
    record: Option<(Record, Deadline)>,
}

/// What is stored.
#[derive(Debug, Default)]
pub(super) struct Table {
    places: HashMap<SessionKey, Place>,
    came_from: HashMap<SessionKey, SessionKey>,
    events: Vec<Event>,
    /// Keys whose presentation came to something that was stored.
    pub(super) stored: std::collections::HashSet<SessionKey>,
    pub(super) away: bool,
    /// Counts how often it came back empty.
    emptied: usize,
}

impl Table {
    pub(super) fn empty(&mut self) {
        self.places.clear();
        self.came_from.clear();
        self.emptied += 1;
    }

    fn place(&mut self, key: SessionKey) -> &mut Place {
        let place = self.places.entry(key).or_default();
        place.claim = place.claim.filter(|(_, _, ends)| !ends.passed());
        if place.record.as_ref().is_some_and(|(_, ends)| ends.passed()) {
            place.record = None;
        }
        place
    }
}

/// A result, and no doubt, and not the one that was called dead.
fn is_result(record: &Record, dead: Option<&Record>) -> bool {
    record.kind != Kind::Doubt && dead.is_none_or(|dead| dead.head() != record.head())
}

/// A replica's way to the table.
pub(super) struct Replica {
    world: Arc<World>,
    still: watch::Sender<Moves>,
    seen_empty: Mutex<(usize, usize)>,
    trusted_from: Mutex<Deadline>,
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica").finish_non_exhaustive()
    }
}

impl Replica {
    pub(super) fn new(world: Arc<World>, still: watch::Sender<Moves>) -> Self {
        let emptied = world.table.lock().expect("not poisoned").emptied;
        Self {
            world,
            still,
            seen_empty: Mutex::new((emptied, emptied)),
            trusted_from: Mutex::new(Deadline::after(Duration::ZERO)),
        }
    }

    /// One step, with what can happen to it on its way and on its answer's.
    async fn step<T>(&self, act: impl FnOnce(&mut Table) -> T) -> Result<T, Away> {
        let world = &self.world;
        moving(&self.still).await;
        tokio::time::sleep(world.millis(30)).await;
        if world.table.lock().expect("not poisoned").away {
            tokio::time::sleep(Duration::from_millis(300)).await;
            return Err(Away);
        }
        let lossy = world.is_bad(Trouble::ShareAway) && world.one_in(12);
        if lossy && world.one_in(2) {
            return Err(Away);
        }
        let done = {
            let mut table = world.table.lock().expect("not poisoned");
            let mut seen = self.seen_empty.lock().expect("not poisoned");
            if seen.0 != table.emptied {
                seen.0 = table.emptied;
                *self.trusted_from.lock().expect("not poisoned") = Deadline::after(SETTLE);
                return Err(Away);
            }
            act(&mut table)
        };
        tokio::time::sleep(world.millis(30)).await;
        moving(&self.still).await;
        if lossy { Err(Away) } else { Ok(done) }
    }

    async fn store_now(
        &self,
        key: SessionKey,
        owner: Owner,
        record: Record,
        rest: Keeping<'_>,
    ) -> Result<Stored, Away> {
        if self.world.bug == Bug::ReleasedBeforeStored {
            self.step(|table| table.place(key).claim = None).await?;
            self.step(|table| table.place(key).record = None).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let (keep, dead, next) = (rest.keep, rest.dead.cloned(), rest.next);
        self.step(move |table| {
            if let Some(next) = next {
                table.came_from.insert(next, key);
            }
            let place = table.place(key);
            let own = place.claim.is_some_and(|(_, by, _)| by == owner);
            let standing = place.record.as_ref().map(|(record, _)| record.clone());
            let standing = standing.filter(|standing| is_result(standing, dead.as_ref()));
            let write = standing.as_ref().is_none_or(|standing| {
                standing.kind != Kind::SignedOut
                    && record.kind == Kind::Issued
                    && (own || standing.kind != Kind::Issued)
            });
            table.stored.insert(key);
            let place = table.place(key);
            if write {
                place.record = Some((record, Deadline::after(keep)));
            }
            if own {
                place.claim = None;
            }
            table.events.push(Event::Landed(key));
            match standing {
                Some(other) if !write => Stored::Other(other),
                Some(_) | None => Stored::Yes,
            }
        })
        .await
    }

    async fn sent_now(
        &self,
        key: SessionKey,
        owner: Owner,
        (doubt, dead): (Option<Record>, Option<Record>),
        keep: Duration,
    ) -> Result<Stands, Away> {
        let trusted_from = *self.trusted_from.lock().expect("not poisoned");
        trusted_from.wait().await;
        self.step(move |table| {
            let place = table.place(key);
            let own = place.claim.is_some_and(|(_, by, _)| by == owner);
            let result = place.record.as_ref().is_some_and(|(record, _)| is_result(record, dead.as_ref()));
            if !own || result {
                return Stands::No;
            }
            if let Some(doubt) = doubt {
                place.record = Some((doubt, Deadline::after(keep)));
            }
            place.claim = Some((Phase::Sent, owner, Deadline::after(SENT)));
            Stands::Yes
        })
        .await
    }

    async fn confirm_now(&self, next: SessionKey, keep: Duration) -> Result<(), Away> {
        self.step(move |table| {
            let mut at = next;
            for _ in 0..8 {
                let Some(older) = table.came_from.remove(&at) else { return };
                if let Some((_, ends)) = &mut table.place(older).record {
                    *ends = (*ends).min(Deadline::after(keep));
                }
                at = older;
            }
        })
        .await
    }

    async fn listen_now(&self, position: usize) -> Result<(Vec<Event>, usize), Away> {
        for _ in 0..20 {
            let read = self.step(|table| table.events.get(position..).map(<[Event]>::to_vec)).await;
            let events = read?.unwrap_or_default();
            if !events.is_empty() {
                return Ok((events.clone(), position + events.len()));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok((Vec::new(), position))
    }
}

impl Share for Replica {
    fn claim<'a>(&'a self, key: SessionKey, owner: Owner, dead: Option<&'a Record>) -> Op<'a, Claim> {
        let dead = dead.cloned().filter(|_| self.world.bug != Bug::DeadIsTheAnswer);
        Box::pin(self.step(move |table| {
            let place = table.place(key);
            let record = place.record.as_ref().map(|(record, _)| record.clone());
            match (record, place.claim) {
                (Some(record), _) if is_result(&record, dead.as_ref()) => Claim::Answered(record),
                (_, Some((_, by, _))) if by != owner => Claim::Held,
                (record, _) => {
                    place.claim = Some((Phase::Claimed, owner, Deadline::after(CLAIMED)));
                    Claim::Granted(record)
                }
            }
        }))
    }

    fn sent<'a>(
        &'a self,
        key: SessionKey,
        owner: Owner,
        (doubt, dead): (Option<&'a Record>, Option<&'a Record>),
        keep: Duration,
    ) -> Op<'a, Stands> {
        Box::pin(self.sent_now(key, owner, (doubt.cloned(), dead.cloned()), keep))
    }

    fn extend<'a>(
        &'a self,
        key: SessionKey,
        owner: Owner,
        doubt: Option<&'a Record>,
        keep: Duration,
    ) -> Op<'a, Stands> {
        if self.world.bug == Bug::NotExtended {
            return Box::pin(async { Ok(Stands::Yes) });
        }
        let doubt = doubt.cloned();
        Box::pin(self.step(move |table| {
            let place = table.place(key);
            if place.claim.is_some_and(|(phase, by, _)| phase == Phase::Sent && by != owner) {
                return Stands::No;
            }
            if place.record.is_none() {
                place.record = doubt.map(|doubt| (doubt, Deadline::after(keep)));
            }
            place.claim = Some((Phase::Sent, owner, Deadline::after(SENT)));
            Stands::Yes
        }))
    }

    fn store<'a>(
        &'a self,
        key: SessionKey,
        owner: Owner,
        record: &'a Record,
        rest: Keeping<'a>,
    ) -> Op<'a, Stored> {
        Box::pin(self.store_now(key, owner, record.clone(), rest))
    }

    fn release<'a>(
        &'a self,
        key: SessionKey,
        owner: Owner,
        back_to: Option<&'a Record>,
        keep: Duration,
    ) -> Op<'a, ()> {
        let back_to = back_to.cloned();
        Box::pin(self.step(move |table| {
            let place = table.place(key);
            if place.claim.is_none_or(|(_, by, _)| by != owner) {
                return;
            }
            if place.record.as_ref().is_some_and(|(record, _)| record.kind == Kind::Doubt) {
                place.record = back_to.map(|record| (record, Deadline::after(keep)));
            }
            place.claim = None;
            table.events.push(Event::Landed(key));
        }))
    }

    fn look(&self, key: SessionKey) -> Op<'_, Standing> {
        Box::pin(self.step(move |table| {
            let place = table.place(key);
            let record = place.record.as_ref().map(|(record, _)| record.clone());
            Standing { record, claimed: place.claim.is_some() }
        }))
    }

    fn bury<'a>(&'a self, key: SessionKey, record: &'a Record, keep: Duration) -> Op<'a, Option<Record>> {
        let record = record.clone();
        Box::pin(self.step(move |table| {
            let earlier = table.place(key).record.replace((record, Deadline::after(keep)));
            earlier.map(|(record, _)| record)
        }))
    }

    fn confirm(&self, next: SessionKey, keep: Duration) -> Op<'_, ()> {
        Box::pin(self.confirm_now(next, keep))
    }

    fn announce<'a>(&'a self, names: &'a [SessionKey], until: UnixTime) -> Op<'a, ()> {
        let names = names.to_vec();
        Box::pin(self.step(move |table| table.events.push(Event::SignedOut(names, until))))
    }

    fn tell<'a>(&'a self, event: &'a Event) -> Op<'a, ()> {
        let event = event.clone();
        Box::pin(self.step(move |table| table.events.push(event)))
    }

    fn revive<'a>(&'a self, key: SessionKey, names: &'a [SessionKey]) -> Op<'a, ()> {
        let names = names.to_vec();
        Box::pin(self.step(move |table| {
            let place = table.place(key);
            if place.record.as_ref().is_some_and(|(r, _)| matches!(r.kind, Kind::SignedOut | Kind::Refused)) {
                place.record = None;
            }
            table.events.push(Event::SignedIn(names));
        }))
    }

    fn loses(&self) -> Pin<Box<dyn Future<Output = Gap> + Send + '_>> {
        Box::pin(async {
            loop {
                moving(&self.still).await;
                {
                    let mut seen = self.seen_empty.lock().expect("not poisoned");
                    if seen.0 != seen.1 {
                        seen.1 = seen.0;
                        return Gap::All;
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    }

    fn listen<'a>(&'a self, position: &'a Position) -> Op<'a, (Vec<Event>, Position)> {
        Box::pin(async move {
            let (events, read) = self.listen_now(position.count()).await?;
            Ok((events, Position::counted(read)))
        })
    }
}
