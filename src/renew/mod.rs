//! Renewal: one flight per presented refresh token, and a memory of what each one brought.
//! In: [`RenewRequest`]. Out: [`RenewOutcome`]. Errors: none; a fault is an outcome. I/O: the session backend; tasks.
//!
//! The first to ask starts a flight, a task that nobody's closed tab ends; all others wait for its result, and none of
//! them presents the token. What it brought is kept until the browser has shown that it has it, so an answer that is cut
//! on its way loses nothing. Where an answer of the backend is lost, the token is presented again once, not before the
//! access token has ended, and later at most every thirty seconds: to a backend that detects reuse a second presentation
//! is what ends the session.

mod flight;
mod memory;
mod persist;
mod sign_out;
mod tombstones;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::asker::Asker;
use crate::backend::SessionBackend;
use crate::clock::{Clock, UnixTime};
use crate::meter::Meters;
use crate::outcome::{BackendFault, Issued, Lineage, RefusalReason, RenewOutcome, Renewed, SessionKey};
use crate::renew::flight::{Leg, landed};
use crate::renew::memory::{Keep, Known, Lane, Memory, Slot, Told};
pub use crate::renew::persist::PersistError;
pub use crate::renew::sign_out::Liveness;
use crate::renew::tombstones::Tombstones;
use crate::session::Sessions;
use crate::session::judge::{Blind, RenewRequest};
use crate::session::verifier::Verified;
use crate::token::{AccessToken, Pair};
use crate::verdict::CookieChange;

/// Most renewals under way at a time.
const FLIGHTS: usize = 4096;

/// Most renewals under way for tokens of which nothing tells that they are anybody's: anybody can send such tokens.
const STRANGERS: usize = 64;

/// How renewals are made and remembered.
#[derive(Clone, Debug)]
pub struct RenewSettings {
    /// Longest wait of a client for a renewal; the exchange itself goes on.
    pub timeout: Duration,
    /// When an exchange is given up.
    pub give_up: Duration,
    /// How long a result is repeated after a client has come back with it.
    pub replay: Duration,
    /// How long an answer's head is held for an early renewal that it started.
    pub attach: Duration,
    /// How long a result is kept where the backend does not say when its refresh token ends.
    pub undelivered: Duration,
    /// Memory for results, in bytes.
    pub memory: usize,
    /// Where results survive a restart, sealed; `None`: they do not.
    pub state_dir: Option<PathBuf>,
}

/// Renews sessions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Renewer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: RenewSettings,
    backend: Arc<dyn SessionBackend>,
    sessions: Arc<Sessions>,
    clock: Arc<dyn Clock>,
    meters: Arc<Meters>,
    tasks: TaskTracker,
    ledger: Mutex<Ledger>,
    /// Whether any session was ever signed out: spares every other request the lock.
    sign_outs: AtomicBool,
}

/// Everything that is known about sessions, under one lock that is never held across a wait or a verification.
#[derive(Debug)]
struct Ledger {
    memory: Memory,
    flights: HashMap<SessionKey, watch::Receiver<Option<RenewOutcome>>>,
    /// Flights for pairs of which nothing tells that they are anybody's.
    strangers: usize,
    /// A backend that gave no decision is left alone by those who can wait.
    no_early_before: UnixTime,
    tombstones: Tombstones,
}

impl Ledger {
    fn signed_out(&self, marks: &[SessionKey], now: UnixTime) -> Option<SessionKey> {
        let covers = |key: &SessionKey| self.tombstones.covers(*key, now);
        let by_family =
            |key: &SessionKey| self.memory.lineage(*key).is_some_and(|lineage| covers(&lineage.family));
        marks.iter().find(|key| covers(key) || by_family(key)).copied()
    }
}

/// A flight that a request started beside itself, to be joined when its answer's head is due.
#[derive(Debug)]
pub struct Flight(watch::Receiver<Option<RenewOutcome>>);

/// What an early renewal came to at once.
#[derive(Debug)]
pub enum Beside {
    /// It was made before: this answer can carry it.
    Ready(Box<Issued>),
    /// It is under way for this request.
    Started(Flight),
    /// Nothing for this request: another's flight is under way, or nothing may be presented now.
    Nothing,
}

/// What asking for a renewal leads to.
enum Entered {
    Settled(RenewOutcome),
    Joined(watch::Receiver<Option<RenewOutcome>>),
    Started(watch::Receiver<Option<RenewOutcome>>),
}

/// Whether a flight may start.
enum Begin {
    Go(watch::Sender<Option<RenewOutcome>>, watch::Receiver<Option<RenewOutcome>>),
    Join(watch::Receiver<Option<RenewOutcome>>),
    Settled(RenewOutcome),
    /// Somebody's flight landed meanwhile: look again.
    LookAgain,
}

impl Renewer {
    /// A renewer that knows of nothing yet.
    #[must_use]
    pub fn new(
        settings: RenewSettings,
        backend: Arc<dyn SessionBackend>,
        sessions: Arc<Sessions>,
        clock: Arc<dyn Clock>,
        meters: Arc<Meters>,
    ) -> Self {
        let keep =
            Keep { replay: settings.replay, undelivered: settings.undelivered, budget: settings.memory };
        let ledger = Ledger {
            memory: Memory::new(keep),
            flights: HashMap::new(),
            strangers: 0,
            no_early_before: UnixTime::from_secs(0),
            tombstones: Tombstones::default(),
        };
        let tasks = TaskTracker::new();
        Self(Arc::new(Inner {
            settings,
            backend,
            sessions,
            clock,
            meters,
            tasks,
            ledger: Mutex::new(ledger),
            sign_outs: AtomicBool::new(false),
        }))
    }

    /// Renews a session, or repeats what its renewal brought. Waits at most `timeout`; the flight goes on after that.
    pub async fn renew(&self, request: &RenewRequest) -> RenewOutcome {
        match self.enter(request) {
            Entered::Settled(outcome) => outcome,
            Entered::Joined(flight) | Entered::Started(flight) => landed(flight, self.0.settings.timeout)
                .await
                .unwrap_or(RenewOutcome::Unavailable(BackendFault::Slow)),
        }
    }

    /// Renews a session whose access token still lives, without waiting.
    #[must_use]
    pub fn beside(&self, request: &RenewRequest) -> Beside {
        match self.enter(request) {
            Entered::Settled(RenewOutcome::Renewed(renewed)) => Beside::Ready(Box::new(renewed.issued)),
            Entered::Settled(
                RenewOutcome::Refused(_) | RenewOutcome::Unavailable(_) | RenewOutcome::Withheld,
            )
            | Entered::Joined(_) => Beside::Nothing,
            Entered::Started(flight) => Beside::Started(Flight(flight)),
        }
    }

    /// What a flight beside a request brought, waiting for it at most `attach`.
    pub async fn attached(&self, flight: Flight) -> Option<Box<Issued>> {
        match landed(flight.0, self.0.settings.attach).await {
            Some(RenewOutcome::Renewed(renewed)) => Some(Box::new(renewed.issued)),
            Some(RenewOutcome::Refused(_) | RenewOutcome::Unavailable(_) | RenewOutcome::Withheld) | None => {
                None
            }
        }
    }

    /// Notes that a client presented this pair with an access token that is new here.
    pub fn confirm(&self, pair: &Pair) {
        let key = self.0.sessions.policy.key(pair);
        let now = self.0.clock.now();
        self.0.ledger().memory.confirm(key, now);
    }

    /// What becomes of the cookies of an answer whose head is written now: always the newest tokens of the session,
    /// nothing for one that was signed out meanwhile, and no deletion by a late answer that nobody sees as a page.
    #[must_use]
    pub fn at_head(&self, change: CookieChange, asker: Asker) -> CookieChange {
        match change {
            CookieChange::Keep | CookieChange::Note(_) => change,
            CookieChange::Store(issued) => {
                let now = self.0.clock.now();
                let mut ledger = self.0.ledger();
                if ledger.tombstones.covers(issued.lineage.family, now) {
                    return CookieChange::Keep;
                }
                match ledger.memory.deliver(issued.presented, now) {
                    Known::Newest(newest, _) => CookieChange::Store(Box::new((*newest).clone())),
                    // Forgotten so soon, it was dropped for want of memory: this is the only copy left.
                    Known::Nothing if now.since(issued.tokens.received_at) < self.0.settings.replay => {
                        CookieChange::Store(issued)
                    }
                    // Forgotten after its time, the browser has had something newer since; or it is over.
                    Known::Nothing | Known::Refused(_) | Known::Unknown { .. } | Known::TooOld => {
                        CookieChange::Keep
                    }
                }
            }
            CookieChange::Clear(key) => {
                let first = self.0.ledger().memory.tell(key) == Told::No;
                if first || asker.sees_pages() { change } else { CookieChange::Keep }
            }
        }
    }

    /// The first of these names of a session under which it was signed out here.
    #[must_use]
    pub fn signed_out(&self, marks: &[SessionKey]) -> Option<SessionKey> {
        let now = self.0.clock.now();
        self.0.ledger().signed_out(marks, now)
    }

    /// Whether any session was signed out here that could still come back.
    #[must_use]
    pub fn remembers_sign_outs(&self) -> bool {
        self.0.sign_outs.load(Ordering::Acquire)
    }

    /// Waits until every flight has landed, then writes down what no client has yet.
    ///
    /// # Errors
    /// [`PersistError`] where that could not be written: those sessions end with the process.
    pub async fn drain(&self) -> Result<(), PersistError> {
        self.0.tasks.close();
        self.0.tasks.wait().await;
        match &self.0.settings.state_dir {
            Some(dir) => persist::write(dir, &self.0.sessions, &self.0.ledger()),
            None => Ok(()),
        }
    }

    /// Reads what an earlier run wrote down.
    ///
    /// # Errors
    /// [`PersistError`] where something is there that cannot be read, or nothing could be written later.
    pub fn restore(&self) -> Result<(), PersistError> {
        let Some(dir) = &self.0.settings.state_dir else { return Ok(()) };
        persist::prepare(dir)?;
        let mut ledger = self.0.ledger();
        persist::read(dir, &self.0.sessions, &mut ledger, self.0.clock.now())?;
        self.0.sign_outs.store(!ledger.tombstones.is_empty(), Ordering::Release);
        self.0.measure(&ledger);
        Ok(())
    }

    fn enter(&self, request: &RenewRequest) -> Entered {
        // Each turn ends unless another flight of the same session landed in between.
        for _ in 0..16 {
            if let Some(entered) = self.try_enter(request) {
                return entered;
            }
        }
        Entered::Settled(RenewOutcome::Unavailable(BackendFault::Slow))
    }

    fn try_enter(&self, request: &RenewRequest) -> Option<Entered> {
        let inner = &self.0;
        let now = inner.clock.now();
        let marks = inner.marks(request);
        let known = {
            let mut ledger = inner.ledger();
            ledger.memory.expire(now);
            if ledger.signed_out(&marks, now).is_some() {
                return Some(Entered::Settled(RenewOutcome::Refused(RefusalReason::SignedOut)));
            }
            ledger.memory.look(request.key)
        };
        let (leg, dead) = match known {
            Known::Refused(reason) => return Some(Entered::Settled(RenewOutcome::Refused(reason))),
            Known::TooOld => return Some(Entered::Settled(RenewOutcome::Withheld)),
            Known::Nothing | Known::Unknown { .. } => (inner.first_leg(request, now), None),
            Known::Newest(issued, next) => {
                let taken =
                    !issued.tokens.rotated && request.pair.access.as_ref() == Some(&issued.tokens.access);
                match inner.sessions.verifier.verify_fresh(&issued.tokens.access, now) {
                    Verified::Live(identity) if !taken => {
                        inner.meters.replays.inc();
                        return Some(Entered::Settled(inner.replay(&issued, identity)));
                    }
                    Verified::Invalid(fault) if !taken => {
                        let fault = BackendFault::Unverifiable { fault, issued: Box::new((*issued).clone()) };
                        return Some(Entered::Settled(RenewOutcome::Unavailable(fault)));
                    }
                    Verified::Live(_) | Verified::Expired(_) | Verified::Invalid(_) => {
                        let leg = Leg {
                            key: next,
                            pair: issued.tokens.pair(),
                            lineage: issued.lineage.clone(),
                            access_ends: request.access_ends.filter(|_| taken),
                        };
                        (leg, Some(issued.tokens.access.clone()))
                    }
                }
            }
        };
        match self.begin(&leg, dead.as_ref(), request.blind, now) {
            Begin::Go(sender, receiver) => {
                let inner = Arc::clone(&self.0);
                self.0.tasks.spawn(async move { inner.fly(leg, sender).await });
                Some(Entered::Started(receiver))
            }
            Begin::Join(receiver) => Some(Entered::Joined(receiver)),
            Begin::Settled(outcome) => Some(Entered::Settled(outcome)),
            Begin::LookAgain => None,
        }
    }

    fn begin(&self, leg: &Leg, dead: Option<&AccessToken>, blind: Blind, now: UnixTime) -> Begin {
        let mut ledger = self.0.ledger();
        if let Some(flight) = ledger.flights.get(&leg.key) {
            return Begin::Join(flight.clone());
        }
        if ledger.tombstones.covers(leg.lineage.family, now) {
            return Begin::Settled(RenewOutcome::Refused(RefusalReason::SignedOut));
        }
        if ledger.memory.supersedes(leg.key, dead) {
            return Begin::LookAgain;
        }
        match ledger.memory.slot(leg.key) {
            Some(Slot::Refused { reason, .. }) => return Begin::Settled(RenewOutcome::Refused(*reason)),
            Some(Slot::Unknown { not_before, .. }) if now < *not_before => {
                let fault = BackendFault::HeldBack { until: *not_before };
                return Begin::Settled(RenewOutcome::Unavailable(fault));
            }
            Some(Slot::Unknown { .. } | Slot::Issued(_)) | None => {}
        }
        // What was renewed already is still carried: only new flights that can wait do.
        if leg.access_ends.is_some() && now < ledger.no_early_before {
            let fault = BackendFault::HeldBack { until: ledger.no_early_before };
            return Begin::Settled(RenewOutcome::Unavailable(fault));
        }
        let lane = leg.lane();
        if lane == Lane::Stranger && blind == Blind::Refused {
            return Begin::Settled(RenewOutcome::Withheld);
        }
        let full = lane == Lane::Stranger && ledger.strangers >= STRANGERS || ledger.flights.len() >= FLIGHTS;
        if full {
            return Begin::Settled(RenewOutcome::Unavailable(BackendFault::Busy));
        }
        if lane == Lane::Stranger {
            ledger.strangers += 1;
        }
        let (sender, receiver) = watch::channel(None);
        ledger.flights.insert(leg.key, receiver.clone());
        self.0.meters.flights.inc();
        Begin::Go(sender, receiver)
    }
}

impl Inner {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Every change under the lock is complete in itself, so a panic elsewhere leaves nothing half done.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The leg that presents what the client presented.
    fn first_leg(&self, request: &RenewRequest, now: UnixTime) -> Leg {
        let ledger = self.ledger();
        let chain = ledger.memory.lineage(request.key);
        let lineage = Lineage {
            family: chain.map(|l| l.family).or(request.family).unwrap_or(request.key),
            started_at: chain.map(|l| l.started_at).or(request.started_at).unwrap_or(now),
            subject: request.subject.clone().or_else(|| chain.and_then(|l| l.subject.clone())),
        };
        Leg { key: request.key, pair: request.pair.clone(), lineage, access_ends: request.access_ends }
    }

    /// A remembered result, judged as if its tokens had been presented.
    fn replay(&self, issued: &Issued, identity: crate::identity::Identity) -> RenewOutcome {
        match &issued.lineage.subject {
            Some(subject) if subject != identity.subject() => {
                RenewOutcome::Refused(RefusalReason::SubjectChanged)
            }
            Some(_) | None => RenewOutcome::Renewed(Renewed { identity, issued: issued.clone() }),
        }
    }

    fn measure(&self, ledger: &Ledger) {
        let (entries, bytes, evicted) = ledger.memory.size();
        self.meters.remembered.set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.meters.remembered_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        let counted = self.meters.evicted_undelivered.get();
        if evicted > counted {
            self.meters.evicted_undelivered.inc_by(evicted - counted);
            tracing::warn!(
                evicted,
                "renewed sessions that no browser has yet were dropped: raise session.renew.memory"
            );
        }
    }
}

/// One word for logs and metrics.
#[must_use]
pub const fn word(outcome: &RenewOutcome) -> &'static str {
    match outcome {
        RenewOutcome::Renewed(_) => "renewed",
        RenewOutcome::Refused(_) => "refused",
        RenewOutcome::Unavailable(fault) => fault.word(),
        RenewOutcome::Withheld => "withheld",
    }
}

#[cfg(test)]
mod tests;
