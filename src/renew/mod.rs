//! Renewal: one flight per presented refresh token, and a memory of what each one brought.
//! In: [`RenewRequest`]. Out: [`RenewOutcome`]. Errors: none; a fault is an outcome. I/O: the session backend; tasks.
//!
//! The first to ask starts a flight, a task that nobody's closed tab ends; all others wait for its result, and none of
//! them presents the token. What it brought is kept until the browser has shown that it has it, so an answer that is cut
//! on its way loses nothing. Where an answer of the backend is lost, the token is presented again once, not before the
//! access token has ended, and later at most every thirty seconds: to a backend that detects reuse a second presentation
//! is what ends the session.

mod bonds;
mod flight;
mod memory;
mod persist;
mod record;
mod shared;
mod sign_in;
mod sign_out;
mod tombstones;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::admit::queue::Class;
use crate::admit::{Admission, AdmitRules, Health, Ticket, Turn};
use crate::asker::Asker;
use crate::backend::SessionBackend;
use crate::check::Checker;
use crate::clock::{Clock, UnixTime};
use crate::marks::{Marks, Stamps};
use crate::meter::{Meters, Turns};
use crate::outcome::{
    BackendFault, Issued, Lineage, RefusalReason, RenewOutcome, Renewed, SessionKey, TokenFault,
};
use crate::renew::bonds::Bonds;
pub use crate::renew::bonds::{Bond, Tied};
use crate::renew::flight::{Landed, Leg, landed};
use crate::renew::memory::{Keep, Known, Lane, Memory, Size, Slot, Told};
pub use crate::renew::persist::PersistError;
pub use crate::renew::shared::{ShareAway, ShareSettings};
use crate::renew::shared::{Shared, Word};
pub use crate::renew::sign_in::SignedIn;
pub use crate::renew::sign_out::Liveness;
use crate::renew::tombstones::Tombstones;
use crate::session::Sessions;
use crate::session::judge::{Blind, RenewRequest};
use crate::session::verifier::Verified;
use crate::token::{AccessToken, Pair};
use crate::verdict::CookieChange;

/// Most times that somebody who waits looks again because another's flight landed meanwhile.
const TURNS: usize = 16;

/// How long new tokens are taken for the newest ones without asking the other replicas, and an end for the end.
const JUST_NOW: Duration = Duration::from_secs(5);

/// Most tokens remembered that an upstream refused.
const REFUSED_UPSTREAM: usize = 10_000;

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
    /// What the backend is asked at a time.
    pub admission: AdmitRules,
    /// What replicas share; `None`: this gateway is the only one that renews these sessions.
    pub share: Option<ShareSettings>,
}

impl RenewSettings {
    const fn keep(&self) -> Keep {
        Keep { replay: self.replay, undelivered: self.undelivered, budget: self.memory }
    }
}

/// Renews sessions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Renewer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: RenewSettings,
    backend: Arc<dyn SessionBackend>,
    sessions: Arc<Sessions>,
    checker: Arc<Checker>,
    clock: Arc<dyn Clock>,
    meters: Arc<Meters>,
    tasks: TaskTracker,
    // What follows is one for all settings that a process ever has.
    ledger: Arc<Mutex<Ledger>>,
    /// Goes up with what the ledger learns of sessions, and is read without its lock.
    stamps: Arc<Stamps>,
    admission: Admission,
    share: Option<Arc<Shared>>,
    /// What ends with its session.
    bonds: Arc<Bonds>,
    /// Tokens that an upstream refused although they live: each is worth one renewal.
    refused_upstream: Arc<Cache<SessionKey, ()>>,
    /// Whether any session was ever signed out: spares every other request the lock.
    sign_outs: Arc<AtomicBool>,
    latest: Latest,
}

/// The renewer of the settings in force, for whatever lives longer than the settings that it began with. It keeps none alive.
#[derive(Clone, Debug, Default)]
struct Latest(Arc<Mutex<Weak<Inner>>>);

impl Latest {
    /// `None`: the gateway is gone.
    fn get(&self) -> Option<Arc<Inner>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    fn set(&self, inner: &Arc<Inner>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(inner);
    }
}

/// Everything that is known about sessions, under one lock that is never held across a wait or a verification.
#[derive(Debug)]
struct Ledger {
    memory: Memory,
    flights: HashMap<SessionKey, UnderWay>,
    /// A backend that gave no decision is left alone by those who can wait.
    no_early_before: UnixTime,
    tombstones: Tombstones,
}

impl Ledger {
    fn new(keep: Keep) -> Self {
        let memory = Memory::new(keep);
        let tombstones = Tombstones::new(Arc::clone(memory.stamps()));
        let no_early_before = UnixTime::from_secs(0);
        Self { memory, flights: HashMap::new(), no_early_before, tombstones }
    }

    /// The families that these names lead to, where no sign-out is remembered of any of them, whatever the time.
    fn clear(&self, names: &[SessionKey]) -> Option<Vec<SessionKey>> {
        let lineages = names.iter().filter_map(|name| self.memory.lineage(*name));
        let families: Vec<SessionKey> = lineages.map(|lineage| lineage.family).collect();
        let none = !names.iter().chain(&families).any(|name| self.tombstones.knows(*name));
        none.then_some(families)
    }

    fn signed_out(&self, marks: &[SessionKey], now: UnixTime) -> Option<SessionKey> {
        let covers = |key: &SessionKey| self.tombstones.covers(*key, now);
        let by_family =
            |key: &SessionKey| self.memory.lineage(*key).is_some_and(|lineage| covers(&lineage.family));
        marks.iter().find(|key| covers(key) || by_family(key)).copied()
    }
}

/// A flight, from its place in the queue to its landing.
#[derive(Debug)]
struct UnderWay {
    landing: Landing,
    ticket: Ticket,
    /// The class furthest ahead of those who wait for it.
    class: Class,
}

/// Tells those who wait for a flight what it came to.
type Landing = watch::Receiver<Option<Landed>>;

/// A flight that a request started beside itself, to be joined when its answer's head is due.
#[derive(Debug)]
pub struct Flight {
    landing: Landing,
    request: Box<RenewRequest>,
}

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
    Joined(Landing),
    Started(Landing),
}

/// Whether a flight may start.
enum Begin {
    Go(watch::Sender<Option<Landed>>, Landing, Turn),
    Join(Landing),
    Settled(RenewOutcome),
    /// Somebody's flight landed meanwhile: look again.
    LookAgain,
}

impl Renewer {
    /// A renewer that knows of nothing yet.
    #[must_use]
    pub fn new(
        settings: RenewSettings,
        (backend, checker): (Arc<dyn SessionBackend>, Arc<Checker>),
        sessions: Arc<Sessions>,
        clock: Arc<dyn Clock>,
        meters: Arc<Meters>,
    ) -> Self {
        let ledger = Ledger::new(settings.keep());
        let stamps = Arc::clone(ledger.memory.stamps());
        let share = settings.share.clone().map(Shared::new).map(Arc::new);
        let rules = settings.admission;
        let own = || Arc::new(Health::new(rules.breaker, Arc::clone(&meters)));
        let health = checker.health().unwrap_or_else(own);
        let admission = Admission::new(rules, health, (Turns::Renewals, Arc::clone(&meters)));
        let renewer = Self(Arc::new(Inner {
            settings,
            share,
            admission,
            backend,
            sessions,
            checker,
            clock,
            meters,
            tasks: TaskTracker::new(),
            bonds: Arc::default(),
            ledger: Arc::new(Mutex::new(ledger)),
            stamps,
            refused_upstream: Arc::new(Cache::new(REFUSED_UPSTREAM)),
            sign_outs: Arc::default(),
            latest: Latest::default(),
        }));
        renewer.0.latest.set(&renewer.0);
        renewer
    }

    /// A renewer by other settings that knows all that this one knows and will know: flights, results, sign-outs, places at
    /// the backend and bonds are those of both. The share stays the one that it is. Nothing is changed before
    /// [`take_over`](Self::take_over).
    #[must_use]
    pub fn successor(
        &self,
        settings: RenewSettings,
        (backend, checker): (Arc<dyn SessionBackend>, Arc<Checker>),
        sessions: Arc<Sessions>,
    ) -> Self {
        let old = &self.0;
        Self(Arc::new(Inner {
            settings,
            backend,
            sessions,
            checker,
            clock: Arc::clone(&old.clock),
            meters: Arc::clone(&old.meters),
            tasks: old.tasks.clone(),
            ledger: Arc::clone(&old.ledger),
            stamps: Arc::clone(&old.stamps),
            admission: old.admission.clone(),
            share: old.share.clone(),
            bonds: Arc::clone(&old.bonds),
            refused_upstream: Arc::clone(&old.refused_upstream),
            sign_outs: Arc::clone(&old.sign_outs),
            latest: old.latest.clone(),
        }))
    }

    /// From now on this renewer's settings count for what all of them share. Flights under way end by those they began with.
    pub fn take_over(&self) {
        let inner = &self.0;
        inner.ledger().memory.keep(inner.settings.keep());
        inner.admission.change(inner.settings.admission);
        inner.checker.take_over(&inner.settings.admission);
        inner.latest.set(inner);
    }

    /// The health of the session backend.
    #[must_use]
    pub fn health(&self) -> Arc<Health> {
        Arc::clone(self.0.admission.health())
    }

    /// Renews a session, or repeats what its renewal brought. Waits at most `timeout`; the flight goes on after that.
    pub async fn renew(&self, request: &RenewRequest) -> RenewOutcome {
        let renewed = async {
            // Each turn ends unless another replica's result was taken over: then the next one goes on from there.
            for _ in 0..TURNS {
                let flight = match self.enter(request).await {
                    Entered::Settled(outcome) => return outcome,
                    Entered::Joined(flight) => {
                        self.0.meters.joined.inc();
                        flight
                    }
                    Entered::Started(flight) => flight,
                };
                match landed(flight).await {
                    Landed::Outcome(outcome) => return *outcome,
                    Landed::Again => {}
                }
            }
            RenewOutcome::Unavailable(BackendFault::Slow)
        };
        tokio::time::timeout(self.0.settings.timeout, renewed)
            .await
            .unwrap_or(RenewOutcome::Unavailable(BackendFault::Slow))
    }

    /// Renews a session whose access token still lives, without waiting for it.
    pub async fn beside(&self, request: &RenewRequest) -> Beside {
        match self.enter(request).await {
            Entered::Settled(RenewOutcome::Renewed(renewed)) => Beside::Ready(Box::new(renewed.issued)),
            Entered::Settled(
                RenewOutcome::Refused(_) | RenewOutcome::Unavailable(_) | RenewOutcome::Withheld,
            )
            | Entered::Joined(_) => Beside::Nothing,
            Entered::Started(landing) => {
                Beside::Started(Flight { landing, request: Box::new(request.clone()) })
            }
        }
    }

    /// What follows from an upstream's refusal of `sent`, the live token of this request: the session's newest tokens where
    /// `sent` is not of them, else what its renewal brings, once for each token. `None`: nothing.
    pub async fn rejected(&self, request: &RenewRequest, sent: &AccessToken) -> Option<RenewOutcome> {
        // What its backend said of it may be seconds old.
        self.0.checker.forget(sent);
        let is_worth_it = {
            let ledger = self.0.ledger();
            let (replaced, key) = match ledger.memory.look(request.key) {
                Known::Newest(issued, next) => (issued.tokens.access != *sent, next),
                Known::Nothing | Known::Refused(_) | Known::Unknown { .. } | Known::TooOld => {
                    (false, request.key)
                }
            };
            replaced || ledger.flights.contains_key(&key)
        };
        if !is_worth_it && self.0.refused_upstream.get(&self.0.name_of(sent)).is_some() {
            return None;
        }
        // Noted once it is over: all who are refused meanwhile join it.
        let outcome = self.renew(request).await;
        self.refused_again(sent);
        Some(outcome)
    }

    /// Notes that an upstream refused even what such a renewal brought: it is not the token that it dislikes.
    pub fn refused_again(&self, sent: &AccessToken) {
        self.0.refused_upstream.insert(self.0.name_of(sent), ());
    }

    /// What a flight beside a request brought, waiting for it at most `attach`.
    pub async fn attached(&self, flight: Flight) -> Option<Box<Issued>> {
        let landed = tokio::time::timeout(self.0.settings.attach, landed(flight.landing)).await.ok()?;
        let outcome = match landed {
            Landed::Outcome(outcome) => *outcome,
            Landed::Again => match self.enter(&flight.request).await {
                Entered::Settled(outcome) => outcome,
                Entered::Joined(_) | Entered::Started(_) => return None,
            },
        };
        match outcome {
            RenewOutcome::Renewed(renewed) => Some(Box::new(renewed.issued)),
            RenewOutcome::Refused(_) | RenewOutcome::Unavailable(_) | RenewOutcome::Withheld => None,
        }
    }

    /// Notes that a client presented this pair with an access token that is new here.
    pub fn confirm(&self, pair: &Pair) {
        let key = self.0.sessions.policy.key(pair);
        let now = self.0.clock.now();
        self.0.ledger().memory.confirm(key, now);
        if let Some(shared) = &self.0.share {
            shared.tell(Word::Confirmed(key));
        }
    }

    /// What an answer may change in a browser's cookies that was decided on then: the browser may have got others since. What was
    /// found to be over is deleted at once or not at all, for somebody may have signed in anew; whoever has not is told with the
    /// next answer. Where replicas share, another one may have renewed the session further, and the browser may have that: what is
    /// known of it is learned first. Once `replay` is over nobody may know any more, so nothing is set, and the next request
    /// gets what it should have.
    pub async fn newest_at_head(&self, change: CookieChange, decided_at: UnixTime) -> CookieChange {
        let issued = match &change {
            // Most answers: the time is not asked for them.
            CookieChange::Keep | CookieChange::Note(_) => return change,
            CookieChange::Clear(_) => None,
            CookieChange::Store(issued) => Some(issued),
        };
        let now = self.0.clock.now();
        let age = now.since(decided_at);
        let Some(issued) = issued else {
            return if age < JUST_NOW { change } else { CookieChange::Keep };
        };
        // What was issued just now is renewed no further.
        if now.since(issued.tokens.received_at) < JUST_NOW {
            return change;
        }
        if age >= self.0.settings.replay || self.0.learn(issued.presented).await.is_err() {
            return CookieChange::Keep;
        }
        change
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
                let known = ledger.memory.deliver(issued.presented, now);
                self.0.measure(&ledger);
                match known {
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

    /// The same for names that are kept: where nothing was learnt of them since the last look, without a lock.
    #[must_use]
    pub fn signed_out_by(&self, marks: &Marks) -> Option<SessionKey> {
        let inner = &self.0;
        if marks.are_clear(&inner.stamps) {
            return None;
        }
        let now = inner.clock.now();
        let ledger = inner.ledger();
        let key = ledger.signed_out(marks.names(), now);
        if let Some(families) = ledger.clear(marks.names()) {
            marks.cleared(families, &inner.stamps);
        }
        key
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
        // Nobody waits for those that have not begun: nothing of theirs was presented.
        self.0.admission.close();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        self.0.checker.drain().await;
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

    async fn enter(&self, request: &RenewRequest) -> Entered {
        // Each turn ends unless another flight of the same session landed in between.
        for _ in 0..TURNS {
            if let Some(entered) = self.try_enter(request).await {
                return entered;
            }
        }
        Entered::Settled(RenewOutcome::Unavailable(BackendFault::Slow))
    }

    async fn try_enter(&self, request: &RenewRequest) -> Option<Entered> {
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
        let leg = match known {
            Known::Refused(reason) => return Some(Entered::Settled(RenewOutcome::Refused(reason))),
            // What does not rotate is not spent, however often it was presented.
            Known::TooOld if !inner.backend.capabilities().rotates => {
                let dead = inner.ledger().memory.brought(request.key);
                Leg { dead, ..inner.first_leg(request, now) }
            }
            Known::TooOld => return Some(Entered::Settled(RenewOutcome::Withheld)),
            Known::Nothing | Known::Unknown { .. } => inner.first_leg(request, now),
            Known::Newest(issued, next) => {
                let taken =
                    !issued.tokens.rotated && request.pair.access.as_ref() == Some(&issued.tokens.access);
                let access = &issued.tokens.access;
                let verified = match inner.checker.remembered(access, request.network, now).await {
                    Ok(verified) => verified,
                    Err(fault) => return Some(Entered::Settled(RenewOutcome::Unavailable(fault))),
                };
                match verified {
                    Verified::Live(identity) if !taken => {
                        inner.meters.replays.inc();
                        return Some(Entered::Settled(inner.replay(&issued, identity)));
                    }
                    Verified::Invalid(fault) if !taken && fault != TokenFault::Inactive => {
                        let fault = BackendFault::Unverifiable { fault, issued: Box::new((*issued).clone()) };
                        return Some(Entered::Settled(RenewOutcome::Unavailable(fault)));
                    }
                    Verified::Live(_) | Verified::Expired(_) | Verified::Invalid(_) => Leg {
                        key: next,
                        pair: issued.tokens.pair(),
                        lineage: issued.lineage.clone(),
                        access_ends: request.access_ends.filter(|_| taken),
                        dead: Some(issued.tokens.access.clone()),
                        network: request.network,
                    },
                }
            }
        };
        match self.begin(&leg, request, now) {
            Begin::Go(sender, receiver, turn) => {
                let inner = Arc::clone(&self.0);
                self.0.tasks.spawn(async move { inner.fly(leg, sender, turn).await });
                Some(Entered::Started(receiver))
            }
            Begin::Join(receiver) => Some(Entered::Joined(receiver)),
            Begin::Settled(outcome) => Some(Entered::Settled(outcome)),
            Begin::LookAgain => None,
        }
    }

    fn begin(&self, leg: &Leg, request: &RenewRequest, now: UnixTime) -> Begin {
        let mut ledger = self.0.ledger();
        if let Some(flight) = ledger.flights.get_mut(&leg.key) {
            flight.class = flight.class.min(leg.class());
            self.0.admission.promote(flight.ticket, leg.class());
            return Begin::Join(flight.landing.clone());
        }
        if ledger.tombstones.covers(leg.lineage.family, now) {
            return Begin::Settled(RenewOutcome::Refused(RefusalReason::SignedOut));
        }
        if ledger.memory.supersedes(leg.key, leg.dead.as_ref()) {
            return Begin::LookAgain;
        }
        match ledger.memory.slot(leg.key) {
            Some(Slot::Refused { reason, .. }) => return Begin::Settled(RenewOutcome::Refused(*reason)),
            // Where replicas share, another one may know more by now: the flight asks.
            Some(Slot::Unknown { not_before, .. }) if now < *not_before && self.0.share.is_none() => {
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
        if leg.lane() == Lane::Stranger && request.blind == Blind::Refused {
            return Begin::Settled(RenewOutcome::Withheld);
        }
        let (sender, receiver) = watch::channel(None);
        let told = sender.clone();
        // The ledger keeps one receiver itself.
        let wanted = move || told.receiver_count() > 1;
        let turn = match self.0.admission.ask(leg.class(), request.network, wanted) {
            Ok(turn) => turn,
            Err(fault) => return Begin::Settled(RenewOutcome::Unavailable(fault)),
        };
        let (landing, ticket, class) = (receiver.clone(), turn.ticket(), leg.class());
        ledger.flights.insert(leg.key, UnderWay { landing, ticket, class });
        self.0.meters.flights.inc();
        Begin::Go(sender, receiver, turn)
    }
}

impl Inner {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Every change under the lock is complete in itself, so a panic elsewhere leaves nothing half done.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a token that an upstream refused is called.
    fn name_of(&self, sent: &AccessToken) -> SessionKey {
        self.sessions.policy.keys.digest(&["refused upstream", sent.expose()])
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
        Leg {
            key: request.key,
            pair: request.pair.clone(),
            lineage,
            access_ends: request.access_ends,
            dead: None,
            network: request.network,
        }
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
        let Size { entries, undelivered, bytes, evicted } = ledger.memory.size();
        let figure = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.meters.remembered.set(figure(entries));
        self.meters.undelivered.set(figure(undelivered));
        self.meters.remembered_bytes.set(figure(bytes));
        let counted = self.meters.evicted.get();
        if evicted > counted {
            self.meters.evicted.inc_by(evicted - counted);
            tracing::warn!(
                evicted,
                "what renewals brought was dropped before every browser surely had it: raise session.renew.memory"
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
mod simulation;
#[cfg(test)]
mod tests;
