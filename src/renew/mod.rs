//! Renewal: one flight per presented refresh token, and a memory of what each one brought.
//! In: [`RenewRequest`]. Out: [`RenewOutcome`]. Errors: none; a fault is an outcome. I/O: the session backend; tasks.
//!
//! The first to ask starts a flight, a task that nobody's closed tab ends; all others wait for its result, and none of
//! them presents the token. What it brought is kept until the browser has shown that it has it, so an answer that is cut
//! on its way loses nothing. Where an answer of the backend is lost, the token is presented again once, not before the
//! access token has ended, and later at most every thirty seconds: to a backend that detects reuse a second presentation
//! is what ends the session.

mod memory;
mod persist;
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
use crate::clock::{Clock, Stopwatch, UnixTime};
use crate::meter::Meters;
use crate::outcome::{
    Answer, BackendFault, Issued, Lineage, Loss, RefusalReason, RenewOutcome, Renewed, Revocation,
    SessionKey, TokenFault,
};
use crate::renew::memory::{Keep, Known, Lane, Memory, Slot, Told};
pub use crate::renew::persist::PersistError;
use crate::renew::tombstones::Tombstones;
use crate::session::Sessions;
use crate::session::judge::{Blind, RenewRequest};
use crate::session::verifier::Verified;
use crate::token::{AccessToken, Ending, Pair, TokenSet};
use crate::verdict::CookieChange;

/// How long a refusal is remembered, counted from now or from the end of the access token that still lived.
const REFUSAL_KEPT: Duration = Duration::from_secs(600);

/// Most renewals under way at a time.
const FLIGHTS: usize = 4096;

/// Most renewals under way for tokens of which nothing tells that they are anybody's: anybody can send such tokens.
const STRANGERS: usize = 64;

/// After a backend gave no decision, how long no renewal is begun whose access token still lives.
const EARLY_PAUSE: Duration = Duration::from_secs(2);

/// Between presentations of a token whose answers were lost.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

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

/// What a flight presents, and for whom.
#[derive(Debug)]
struct Leg {
    key: SessionKey,
    pair: Pair,
    lineage: Lineage,
    /// From when on the access token is no longer taken; `None`: it is not now.
    access_ends: Option<UnixTime>,
}

impl Leg {
    /// Whether anything tells whose session this is: a verified token, our notes, or an earlier renewal.
    const fn lane(&self) -> Lane {
        if self.lineage.subject.is_some() { Lane::Known } else { Lane::Stranger }
    }
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
        if self.0.clock.now() < self.0.ledger().no_early_before {
            return Beside::Nothing;
        }
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
                let over = matches!(ledger.memory.look(issued.presented), Known::Refused(_));
                if over || ledger.tombstones.covers(issued.lineage.family, now) {
                    return CookieChange::Keep;
                }
                match ledger.memory.deliver(issued.presented, now) {
                    Some((newest, _)) => CookieChange::Store(Box::new((*newest).clone())),
                    // Forgotten so soon, it was dropped for want of memory: this is the only copy left.
                    None if now.since(issued.tokens.received_at) < self.0.settings.replay => {
                        CookieChange::Store(issued)
                    }
                    // Forgotten after its time: the browser has had something newer since.
                    None => CookieChange::Keep,
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

    /// Ends a session at its backend, and here once the backend has confirmed it.
    /// `live`: whether the presented access token is; where the backend wants a live one, the session is renewed first.
    pub async fn sign_out(&self, request: RenewRequest, live: Liveness) -> Revocation {
        let wants_live = self.0.backend.capabilities().revokes_with_live_access;
        let request = RenewRequest { blind: Blind::Allowed, ..request };
        if wants_live && live == Liveness::Over {
            match self.renew(&request).await {
                RenewOutcome::Renewed(_) | RenewOutcome::Withheld => {}
                // Over, or never a session: a refusal proves nothing about whose it was, so nobody's is remembered.
                RenewOutcome::Refused(_) => return Revocation::Ended,
                RenewOutcome::Unavailable(fault) => return Revocation::Unavailable(fault),
            }
        }
        let inner = Arc::clone(&self.0);
        self.detached(async move { inner.end(&request).await }).await
    }

    /// Ends a session of which no refresh token came.
    pub async fn sign_out_bare(&self, ending: Ending) -> Revocation {
        let inner = Arc::clone(&self.0);
        self.detached(async move {
            let revocation = inner.revoke(&ending).await;
            if revocation == Revocation::Ended {
                let now = inner.clock.now();
                let until = now.saturating_add(inner.settings.undelivered);
                let marks = inner.sessions.policy.marks(&ending);
                let mut ledger = inner.ledger();
                marks.into_iter().for_each(|key| ledger.tombstones.bury(key, until, now));
                inner.sign_outs.store(true, Ordering::Release);
            }
            revocation
        })
        .await
    }

    /// Runs a sign-out as a task of its own: a client that hangs up does not stop half of it.
    async fn detached(&self, ending: impl Future<Output = Revocation> + Send + 'static) -> Revocation {
        match tokio::time::timeout(self.0.settings.timeout, self.0.tasks.spawn(ending)).await {
            Ok(Ok(revocation)) => revocation,
            Ok(Err(_panicked)) => Revocation::Unavailable(BackendFault::Internal),
            Err(_elapsed) => Revocation::Unavailable(BackendFault::Slow),
        }
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
    /// [`PersistError`] where something is there that cannot be read.
    pub fn restore(&self) -> Result<(), PersistError> {
        let Some(dir) = &self.0.settings.state_dir else { return Ok(()) };
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

/// Whether a presented access token is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It is.
    Live,
    /// It is not, or none came.
    Over,
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

    async fn fly(&self, leg: Leg, sender: watch::Sender<Option<RenewOutcome>>) {
        let stopwatch = Stopwatch::start();
        let mut landing = Landing {
            inner: self,
            key: leg.key,
            lane: leg.lane(),
            access_ends: leg.access_ends,
            sender,
            outcome: None,
        };
        let answer = tokio::time::timeout(self.settings.give_up, self.backend.renew(&leg.pair))
            .await
            .unwrap_or(Answer::Unavailable(BackendFault::Lost(Loss::GaveUp)));
        let outcome = self.conclude(&leg, answer).await;
        let word = word(&outcome);
        let took = stopwatch.elapsed();
        self.meters.renewal(word, took);
        let millis = took.as_millis();
        match &outcome {
            RenewOutcome::Unavailable(fault @ BackendFault::ClientRejected { .. }) => {
                tracing::error!(outcome = word, %fault, millis, "renewal: check this gateway's settings for the backend");
            }
            RenewOutcome::Unavailable(fault) => tracing::warn!(outcome = word, %fault, millis, "renewal"),
            RenewOutcome::Refused(reason) => tracing::info!(outcome = word, %reason, millis, "renewal"),
            RenewOutcome::Renewed(_) | RenewOutcome::Withheld => {
                tracing::info!(outcome = word, millis, "renewal");
            }
        }
        landing.outcome = Some(outcome);
    }

    /// Verifies an answer and keeps what follows from it.
    async fn conclude(&self, leg: &Leg, answer: Answer) -> RenewOutcome {
        match answer {
            Answer::Issued(tokens) => self.conclude_issued(leg, tokens).await,
            Answer::Refused(reason) => {
                let was_lost = self.refuse(leg, reason);
                if was_lost {
                    self.meters.lost_answers.inc();
                    tracing::warn!("a session was refused after an answer of the backend had been lost");
                }
                RenewOutcome::Refused(reason)
            }
            Answer::Unavailable(fault) => {
                self.remember_doubt(leg, &fault);
                RenewOutcome::Unavailable(fault)
            }
        }
    }

    async fn conclude_issued(&self, leg: &Leg, tokens: TokenSet) -> RenewOutcome {
        let now = self.clock.now();
        let verified = self.sessions.verifier.verify_fresh(&tokens.access, now);
        let mut issued = Issued { tokens, presented: leg.key, lineage: leg.lineage.clone() };
        if let Verified::Live(identity) | Verified::Expired(identity) = &verified {
            match &leg.lineage.subject {
                Some(subject) if subject != identity.subject() => {
                    return self.reject(leg, &issued, RefusalReason::SubjectChanged).await;
                }
                Some(_) => {}
                None => issued.lineage.subject = Some(identity.subject().to_owned()),
            }
            // The client will present the id that its token names, so that is the one to find it by.
            if let Some(session) = identity.session() {
                issued.tokens.session = Some(session.clone());
            }
        }
        let unverifiable = match &verified {
            Verified::Live(_) => None,
            Verified::Expired(_) => Some(TokenFault::Over),
            Verified::Invalid(fault) => Some(*fault),
        };
        let next = self.sessions.policy.key(&issued.tokens.pair());
        let signed_out = {
            let mut ledger = self.ledger();
            let signed_out = ledger.tombstones.covers(leg.lineage.family, now);
            if !signed_out {
                ledger.memory.issued(issued.clone(), next, now);
                self.measure(&ledger);
            }
            signed_out
        };
        if signed_out {
            return self.reject(leg, &issued, RefusalReason::SignedOut).await;
        }
        match (verified, unverifiable) {
            (Verified::Live(identity), None) => RenewOutcome::Renewed(Renewed { identity, issued }),
            (Verified::Live(_) | Verified::Expired(_) | Verified::Invalid(_), fault) => {
                let fault = fault.unwrap_or(TokenFault::Over);
                RenewOutcome::Unavailable(BackendFault::Unverifiable { fault, issued: Box::new(issued) })
            }
        }
    }

    /// Refuses what was issued: it is revoked, nothing of it is kept.
    async fn reject(&self, leg: &Leg, issued: &Issued, reason: RefusalReason) -> RenewOutcome {
        self.refuse(leg, reason);
        let ending = Ending::of(issued.tokens.pair(), issued.lineage.subject.clone());
        if let Revocation::Unavailable(fault) = self.revoke(&ending).await {
            tracing::warn!(%fault, %reason, "issued tokens that are not used could not be revoked");
        }
        RenewOutcome::Refused(reason)
    }

    /// Remembers a refusal. Says whether an earlier answer for this token had been lost.
    fn refuse(&self, leg: &Leg, reason: RefusalReason) -> bool {
        let now = self.clock.now();
        let ends = leg.access_ends.map_or(now, |end| end.max(now)).saturating_add(REFUSAL_KEPT);
        let mut ledger = self.ledger();
        let was_lost = matches!(ledger.memory.slot(leg.key), Some(Slot::Unknown { .. }));
        ledger.memory.refused(leg.key, reason, ends, (leg.lane(), now));
        self.measure(&ledger);
        was_lost
    }

    /// Remembers that it is not known what came of presenting a token, and when it may be presented again.
    fn remember_doubt(&self, leg: &Leg, fault: &BackendFault) {
        let now = self.clock.now();
        let mut ledger = self.ledger();
        ledger.no_early_before = now.saturating_add(EARLY_PAUSE);
        let doubted = matches!(ledger.memory.slot(leg.key), Some(Slot::Unknown { .. }));
        let not_before = match (fault.is_unknown(), doubted) {
            (true, false) => leg.access_ends.map_or(now, |end| end.max(now)),
            (true, true) => now.saturating_add(AGAIN_AFTER),
            // Presented again without a decision: the first answer is as lost as before.
            (false, true) if *fault != BackendFault::Connect => now.saturating_add(AGAIN_AFTER),
            (false, _) => return,
        };
        ledger.memory.lost(leg.key, not_before, leg.lane(), now);
        self.measure(&ledger);
    }

    /// Ends the newest tokens of a session at the backend, with no renewal of them under way.
    async fn end(&self, request: &RenewRequest) -> Revocation {
        let (pair, subject, flight) = {
            let ledger = self.ledger();
            match ledger.memory.look(request.key) {
                Known::Newest(issued, next) => {
                    let subject = issued.lineage.subject.clone().or_else(|| request.subject.clone());
                    (issued.tokens.pair(), subject, ledger.flights.get(&next).cloned())
                }
                Known::Nothing | Known::Refused(_) | Known::Unknown { .. } | Known::TooOld => {
                    (request.pair.clone(), request.subject.clone(), ledger.flights.get(&request.key).cloned())
                }
            }
        };
        let mut pair = pair;
        if let Some(flight) = flight {
            match landed(flight, self.settings.give_up).await {
                Some(RenewOutcome::Renewed(renewed)) => pair = renewed.issued.tokens.pair(),
                Some(RenewOutcome::Unavailable(BackendFault::Unverifiable { issued, .. })) => {
                    pair = issued.tokens.pair();
                }
                Some(RenewOutcome::Refused(_) | RenewOutcome::Unavailable(_) | RenewOutcome::Withheld)
                | None => {}
            }
        }
        let revocation = self.revoke(&Ending::of(pair.clone(), subject)).await;
        if revocation == Revocation::Ended {
            self.bury(request, Some(&pair));
        }
        revocation
    }

    async fn revoke(&self, ending: &Ending) -> Revocation {
        tokio::time::timeout(self.settings.give_up, self.backend.revoke(ending))
            .await
            .unwrap_or(Revocation::Unavailable(BackendFault::Lost(Loss::GaveUp)))
    }

    /// Remembers that a session was signed out, until the last of its tokens would have ended.
    fn bury(&self, request: &RenewRequest, newest: Option<&Pair>) {
        let now = self.clock.now();
        let mut ledger = self.ledger();
        let known = match ledger.memory.look(request.key) {
            Known::Newest(issued, _) => Some(issued),
            Known::Nothing | Known::Refused(_) | Known::Unknown { .. } | Known::TooOld => None,
        };
        let until = known
            .as_ref()
            .and_then(|issued| issued.tokens.refresh_expires)
            .or(request.refresh_expires)
            .unwrap_or_else(|| now.saturating_add(self.settings.undelivered));
        let family = known
            .map(|issued| issued.lineage.family)
            .or_else(|| ledger.memory.lineage(request.key).map(|lineage| lineage.family))
            .or(request.family);
        let newest = newest.map(|pair| self.sessions.policy.marks(&Ending::of(pair.clone(), None)));
        let marks = self.sessions.policy.marks(&Ending::of(request.pair.clone(), None));
        for key in marks.into_iter().chain(newest.into_iter().flatten()).chain(family) {
            ledger.tombstones.bury(key, until, now);
        }
        self.sign_outs.store(true, Ordering::Release);
    }

    /// The names under which the session of a request may have been signed out; none where nobody ever signed out.
    fn marks(&self, request: &RenewRequest) -> Vec<SessionKey> {
        if !self.sign_outs.load(Ordering::Acquire) {
            return Vec::new();
        }
        let marks = self.sessions.policy.marks(&Ending::of(request.pair.clone(), None));
        marks.into_iter().chain(request.family).collect()
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

/// Ends a flight whatever happens: the entry goes, those who wait are told, and a panic counts as a lost answer.
struct Landing<'a> {
    inner: &'a Inner,
    key: SessionKey,
    lane: Lane,
    access_ends: Option<UnixTime>,
    sender: watch::Sender<Option<RenewOutcome>>,
    outcome: Option<RenewOutcome>,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let now = self.inner.clock.now();
        {
            let mut ledger = self.inner.ledger();
            ledger.flights.remove(&self.key);
            if self.lane == Lane::Stranger {
                ledger.strangers = ledger.strangers.saturating_sub(1);
            }
            if self.outcome.is_none() {
                let not_before = self.access_ends.map_or(now, |end| end.max(now));
                ledger.memory.lost(self.key, not_before, self.lane, now);
            }
        }
        self.inner.meters.flights.dec();
        let outcome = self.outcome.take().unwrap_or(RenewOutcome::Unavailable(BackendFault::Internal));
        self.sender.send_replace(Some(outcome));
    }
}

/// What a flight came to, or `None` where that takes longer than `limit`.
async fn landed(mut flight: watch::Receiver<Option<RenewOutcome>>, limit: Duration) -> Option<RenewOutcome> {
    match tokio::time::timeout(limit, flight.wait_for(Option::is_some)).await {
        Ok(Ok(outcome)) => outcome.clone(),
        Ok(Err(_closed)) => Some(RenewOutcome::Unavailable(BackendFault::Internal)),
        Err(_elapsed) => None,
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
