//! Admission to the session backend: how many exchanges it gets at a time, who goes next, and whether it is asked at all.
//! In: [`Class`], client network. Out: a [`Place`], or the fault to answer with. Errors: [`BackendFault::Busy`],
//! [`BackendFault::Resting`]: nothing was presented. I/O: none; waits.
//!
//! Three parts, each a state machine without time or I/O of its own: [`queue`] for the order, [`buckets`] for what each
//! network may bring of sessions that could be anybody's, [`breaker`] for the backend's health. Only exchanges for
//! sessions that are somebody's tell of its health: what strangers send opens nothing.

pub mod breaker;
pub mod buckets;
mod health;
pub mod queue;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::admit::breaker::{BreakerRules, Pass};
use crate::admit::buckets::{BucketRules, Buckets};
pub use crate::admit::health::{Health, sign_of};
use crate::admit::queue::{Bounds, Came, Class, Queue, TurnId};
use crate::clock::Uptime;
use crate::meter::{Meters, TurnedAway, Turns};
use crate::network::Network;
use crate::outcome::BackendFault;

/// Between looks for those who wait and are no longer wanted, while the queue is full.
const SWEEP: Duration = Duration::from_millis(100);

/// What the session backend is asked at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmitRules {
    /// Most exchanges at a time; a tenth of it for strangers.
    pub concurrency: usize,
    /// Most that wait for their turn; a tenth of it strangers.
    pub queue: usize,
    /// What each client network may bring of strangers.
    pub strangers: BucketRules,
    /// When the backend is spared.
    pub breaker: BreakerRules,
}

impl Default for AdmitRules {
    fn default() -> Self {
        Self {
            concurrency: 64,
            queue: 4096,
            strangers: BucketRules::default(),
            breaker: BreakerRules::default(),
        }
    }
}

impl Bounds {
    fn of(rules: AdmitRules) -> Self {
        Self { places: rules.concurrency.max(1), waiting: rules.queue.max(1) }
    }
}

/// Admits exchanges. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Admission(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    doors: Mutex<Doors>,
    health: Arc<Health>,
    uptime: Uptime,
    turns: Turns,
    meters: Arc<Meters>,
}

#[derive(Debug)]
struct Doors {
    queue: Queue<Waiter>,
    buckets: Buckets,
    swept: Duration,
    /// Nobody waits any more: the gateway stops.
    closed: bool,
}

/// Somebody who waits.
struct Waiter {
    tell: oneshot::Sender<Result<Place, BackendFault>>,
    /// Whether anybody still waits for it.
    wanted: Box<dyn Fn() -> bool + Send>,
    since: Duration,
}

impl std::fmt::Debug for Waiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiter").field("since", &self.since).finish_non_exhaustive()
    }
}

/// Whether somebody comes for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coming {
    First,
    /// It had a place before, and did nothing with it.
    Again,
}

/// Who is told what, once no lock is held.
type Told = Vec<(Waiter, Result<Place, BackendFault>)>;

/// A turn that is waited for.
#[derive(Debug)]
pub struct Turn {
    id: TurnId,
    place: oneshot::Receiver<Result<Place, BackendFault>>,
}

/// Names a turn, for as long as it is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(TurnId);

impl Turn {
    /// Its name.
    #[must_use]
    pub const fn ticket(&self) -> Ticket {
        Ticket(self.id)
    }

    /// Waits for the place, at most `limit`.
    ///
    /// # Errors
    /// [`BackendFault`] where there is none: nothing may be presented.
    pub async fn come(self, limit: Duration) -> Result<Place, BackendFault> {
        match tokio::time::timeout(limit, self.place).await {
            Ok(Ok(place)) => place,
            Ok(Err(_closed)) => Err(BackendFault::Internal),
            Err(_elapsed) => Err(BackendFault::Busy),
        }
    }
}

impl Admission {
    /// Admission by these rules, to a backend whose health may be known from elsewhere too.
    #[must_use]
    pub fn new(rules: AdmitRules, health: Arc<Health>, (turns, meters): (Turns, Arc<Meters>)) -> Self {
        let doors = Doors {
            queue: Queue::new(Bounds::of(rules)),
            buckets: Buckets::new(rules.strangers),
            swept: Duration::ZERO,
            closed: false,
        };
        Self(Arc::new(Inner { doors: Mutex::new(doors), health, uptime: Uptime::start(), turns, meters }))
    }

    /// The backend's health, as everybody sees it who asks here.
    #[must_use]
    pub fn health(&self) -> &Arc<Health> {
        &self.0.health
    }

    /// Asks for a place. `wanted`: whether anybody waits for what comes of it; where the queue is full, those go first for
    /// whom nobody does.
    ///
    /// # Errors
    /// [`BackendFault::Resting`] while the backend is spared, [`BackendFault::Busy`] where too many wait.
    pub fn ask(
        &self,
        class: Class,
        network: Network,
        wanted: impl Fn() -> bool + Send + 'static,
    ) -> Result<Turn, BackendFault> {
        self.come(Coming::First, class, network, wanted)
    }

    /// Asks once more for somebody who had a place and gave it up without an exchange: its network is not charged again.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn ask_again(
        &self,
        class: Class,
        network: Network,
        wanted: impl Fn() -> bool + Send + 'static,
    ) -> Result<Turn, BackendFault> {
        self.come(Coming::Again, class, network, wanted)
    }

    fn come(
        &self,
        coming: Coming,
        class: Class,
        network: Network,
        wanted: impl Fn() -> bool + Send + 'static,
    ) -> Result<Turn, BackendFault> {
        let inner = &self.0;
        let now = inner.uptime.now();
        let (tell, place) = oneshot::channel();
        let waiter = Waiter { tell, wanted: Box::new(wanted), since: now };
        let mut told = Told::new();
        let asked = {
            let mut doors = inner.doors();
            let asked = inner.join(&mut doors, (coming, class), (network, waiter), &mut told);
            inner.fill(&mut doors, &mut told);
            inner.measure(&doors);
            asked
        };
        inner.deliver(told);
        match asked {
            Ok(id) => Ok(Turn { id, place }),
            Err((why, fault)) => {
                inner.turned_away(class, why);
                Err(fault)
            }
        }
    }

    /// Admits by these rules from now on. Who has a place keeps it, and who waits goes on waiting.
    pub fn change(&self, rules: AdmitRules) {
        let mut told = Told::new();
        self.0.health.change_rules(rules.breaker);
        {
            let mut doors = self.0.doors();
            doors.queue.change(Bounds::of(rules));
            doors.buckets.change(rules.strangers);
            self.0.fill(&mut doors, &mut told);
            self.0.measure(&doors);
        }
        self.0.deliver(told);
    }

    /// A turn turns out to be waited for by somebody of a class further ahead.
    pub fn promote(&self, ticket: Ticket, class: Class) {
        let mut doors = self.0.doors();
        doors.queue.promote(ticket.0, class);
        self.0.measure(&doors);
    }

    /// Turns away all who wait, and all who come.
    pub fn close(&self) {
        let mut told = Told::new();
        {
            let mut doors = self.0.doors();
            doors.closed = true;
            self.0.turn_away_all(&mut doors, &mut told, (TurnedAway::Closed, &BackendFault::Busy));
            self.0.measure(&doors);
        }
        self.0.deliver(told);
    }
}

impl Inner {
    fn doors(&self) -> MutexGuard<'_, Doors> {
        // Every change under the lock is complete in itself, so a panic elsewhere leaves nothing half done.
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(
        self: &Arc<Self>,
        doors: &mut Doors,
        (coming, class): (Coming, Class),
        (network, waiter): (Network, Waiter),
        told: &mut Told,
    ) -> Result<TurnId, (TurnedAway, BackendFault)> {
        let now = waiter.since;
        if doors.closed {
            return Err((TurnedAway::Closed, BackendFault::Busy));
        }
        if let Some(pass) = self.probe(class).map_err(|fault| (TurnedAway::Resting, fault))? {
            // Nobody waits while the backend is spared: one who may try goes at once, over the limit where need be, since
            // those who hold the places may never get an answer.
            doors.queue.take(class);
            self.admitted(class, Duration::ZERO);
            told.push((waiter, Ok(self.place(class, Some(pass)))));
            return Ok(TurnId::NONE);
        }
        let charged = class == Class::Stranger && coming == Coming::First;
        if charged && !doors.buckets.take(network, now) {
            return Err((TurnedAway::Rate, BackendFault::Busy));
        }
        if doors.queue.is_full() && now.saturating_sub(doors.swept) >= SWEEP {
            doors.swept = now;
            let gone = doors.queue.sweep(|waiter| !waiter.tell.is_closed() && (waiter.wanted)());
            for (class, waiter) in gone {
                self.turned_away(class, TurnedAway::Unwanted);
                told.push((waiter, Err(BackendFault::Busy)));
            }
        }
        match doors.queue.join(class, network, waiter) {
            Came::Waits(id, gone) => {
                if let Some((class, waiter)) = gone {
                    self.turned_away(class, TurnedAway::Full);
                    told.push((waiter, Err(BackendFault::Busy)));
                }
                Ok(id)
            }
            Came::Full(_) => Err((TurnedAway::Full, BackendFault::Busy)),
        }
    }

    /// Gives the free places to those whose turn it is.
    fn fill(self: &Arc<Self>, doors: &mut Doors, told: &mut Told) {
        if let Some(after) = self.health.rest() {
            let why = (TurnedAway::Resting, &BackendFault::Resting { after });
            self.turn_away_all(doors, told, why);
            return;
        }
        let now = self.uptime.now();
        while let Some((class, waiter)) = doors.queue.next() {
            if waiter.tell.is_closed() {
                doors.queue.give_back(class);
                continue;
            }
            match self.pass(class) {
                Ok(pass) => {
                    self.admitted(class, now.saturating_sub(waiter.since));
                    told.push((waiter, Ok(self.place(class, pass))));
                }
                Err(fault) => {
                    doors.queue.give_back(class);
                    self.turned_away(class, TurnedAway::Resting);
                    told.push((waiter, Err(fault)));
                }
            }
        }
    }

    /// Only sessions that are somebody's try whether the backend is back; `None`: it is not away.
    fn probe(&self, class: Class) -> Result<Option<Pass>, BackendFault> {
        let came = match class {
            Class::Expired | Class::Early => self.health.probe(),
            Class::Stranger => self.health.away().map_or(Ok(None), Err),
        };
        came.map_err(|after| BackendFault::Resting { after })
    }

    fn pass(&self, class: Class) -> Result<Option<Pass>, BackendFault> {
        match class {
            Class::Expired | Class::Early => {
                self.health.begin().map(Some).map_err(|after| BackendFault::Resting { after })
            }
            Class::Stranger => self.probe(class),
        }
    }

    fn place(self: &Arc<Self>, class: Class, pass: Option<Pass>) -> Place {
        Place {
            inner: Arc::clone(self),
            class,
            pass,
            late: AtomicBool::new(false),
            left: AtomicBool::new(false),
        }
    }

    fn turn_away_all(&self, doors: &mut Doors, told: &mut Told, (why, fault): (TurnedAway, &BackendFault)) {
        for (class, waiter) in doors.queue.sweep(|_| false) {
            self.turned_away(class, why);
            told.push((waiter, Err(fault.clone())));
        }
    }

    /// Tells everybody. A place whose flight is gone goes back by being dropped.
    fn deliver(&self, told: Told) {
        for (waiter, answer) in told {
            drop(waiter.tell.send(answer));
        }
    }

    fn leave(self: &Arc<Self>, class: Class) {
        let mut told = Told::new();
        {
            let mut doors = self.doors();
            doors.queue.give_back(class);
            self.fill(&mut doors, &mut told);
            self.measure(&doors);
        }
        self.deliver(told);
    }

    fn measure(&self, doors: &Doors) {
        for class in Class::ALL {
            let waiting = doors.queue.waiting(class);
            // Nobody asks early what a token is.
            if self.turns == Turns::Renewals || class != Class::Early {
                self.meters.waiting(self.turns, self.lane(class), waiting);
            }
        }
    }

    fn turned_away(&self, class: Class, why: TurnedAway) {
        self.meters.turned_away(self.turns, self.lane(class), why);
    }

    fn admitted(&self, class: Class, waited: Duration) {
        self.meters.admitted(self.turns, self.lane(class), waited);
    }

    /// One word for metrics.
    const fn lane(&self, class: Class) -> &'static str {
        match (self.turns, class) {
            (Turns::Questions, Class::Expired | Class::Early) => "known",
            (Turns::Renewals, Class::Expired | Class::Early) | (_, Class::Stranger) => class.word(),
        }
    }
}

/// A place at the backend: one exchange may be made. It is given back when the exchange ends, or when it is dropped.
#[derive(Debug)]
pub struct Place {
    inner: Arc<Inner>,
    class: Class,
    /// None for strangers: what comes of theirs says nothing of the backend's health.
    pass: Option<Pass>,
    /// Whether it was counted as late.
    late: AtomicBool,
    left: AtomicBool,
}

impl Place {
    /// The exchange takes longer than anybody waits: that is a fault of the backend, whatever comes of it later.
    pub fn is_late(&self) {
        if let Some(pass) = self.pass
            && !self.late.swap(true, Ordering::AcqRel)
        {
            self.inner.health.end(pass, breaker::Sign::Fault(None));
            let mut told = Told::new();
            {
                let mut doors = self.inner.doors();
                self.inner.fill(&mut doors, &mut told);
                self.inner.measure(&doors);
            }
            self.inner.deliver(told);
        }
    }

    /// The exchange has ended: it tells of the backend's health, and the place is free.
    pub fn ended(&self, sign: breaker::Sign) {
        let counted = self.late.load(Ordering::Acquire) && matches!(sign, breaker::Sign::Fault(_));
        if let Some(pass) = self.pass
            && !counted
        {
            self.inner.health.end(pass, sign);
        }
        self.leave();
    }

    fn leave(&self) {
        if !self.left.swap(true, Ordering::AcqRel) {
            self.inner.leave(self.class);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests;
