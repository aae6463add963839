//! A flight: one presentation of one pair, from the call to what is kept of it.
//! In: [`Leg`]. Out: [`RenewOutcome`], in the ledger and to all who wait. Errors: none. I/O: the session backend.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::admit::breaker::Sign;
use crate::admit::queue::Class;
use crate::admit::{Place, Turn, sign_of};
use crate::clock::{Deadline, Stopwatch, UnixTime};
use crate::network::Network;
use crate::outcome::{
    Answer, BackendFault, Issued, Lineage, Loss, RefusalReason, RenewOutcome, Renewed, Revocation,
    SessionKey, TokenFault,
};
use crate::renew::memory::{Lane, Slot};
use crate::renew::shared::Word;
use crate::renew::sign_out::UNANSWERED;
use crate::renew::{Inner, word};
use crate::session::verifier::Verified;
use crate::token::{AccessToken, Ending, Pair, TokenSet};

/// How long a refusal is remembered, counted from now or from the end of the access token that still lived.
const REFUSAL_KEPT: Duration = Duration::from_secs(600);

/// After a backend gave no decision, how long no renewal is begun whose access token still lives.
const EARLY_PAUSE: Duration = Duration::from_secs(2);

/// Between presentations of a token whose answers were lost.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// What a flight presents, and for whom.
#[derive(Debug)]
pub(super) struct Leg {
    pub(super) key: SessionKey,
    pub(super) pair: Pair,
    pub(super) lineage: Lineage,
    /// From when on the access token is no longer taken; `None`: it is not now.
    pub(super) access_ends: Option<UnixTime>,
    /// The access token that an earlier flight for the same brought, where that is over: its result is none any more.
    pub(super) dead: Option<AccessToken>,
    /// The network of the client that asked first.
    pub(super) network: Network,
}

/// What a flight came to.
#[derive(Clone, Debug)]
pub(super) enum Landed {
    /// This.
    Outcome(Box<RenewOutcome>),
    /// Another replica had presented: what it stored is remembered here now, so look again.
    Again,
}

impl Leg {
    /// Whether anything tells whose session this is: a verified token, our notes, or an earlier renewal.
    pub(super) const fn lane(&self) -> Lane {
        if self.lineage.subject.is_some() { Lane::Known } else { Lane::Stranger }
    }

    /// When its turn is.
    pub(super) const fn class(&self) -> Class {
        match (self.lane(), self.access_ends) {
            (Lane::Stranger, _) => Class::Stranger,
            (Lane::Known, None) => Class::Expired,
            (Lane::Known, Some(_)) => Class::Early,
        }
    }
}

impl Inner {
    pub(super) async fn fly(&self, leg: Leg, sender: watch::Sender<Option<Landed>>, turn: Turn) {
        let mut landing = Landing {
            inner: self,
            key: leg.key,
            lane: leg.lane(),
            access_ends: leg.access_ends,
            sender,
            landed: None,
        };
        let place = match turn.come(self.settings.give_up).await {
            Ok(place) => place,
            Err(fault) => {
                landing.landed = Some(Landed::Outcome(Box::new(RenewOutcome::Unavailable(fault))));
                return;
            }
        };
        let stopwatch = Stopwatch::start();
        let came_to = match &self.share {
            Some(shared) => {
                let told = landing.sender.clone();
                Box::pin(self.fly_shared(shared, &leg, (place, &told))).await
            }
            None => {
                let answer = self.exchange(&leg, &place).await;
                Landed::Outcome(Box::new(self.conclude(&leg, answer).await))
            }
        };
        if let Landed::Outcome(outcome) = &came_to {
            self.report(outcome, stopwatch.elapsed());
        }
        landing.landed = Some(came_to);
    }

    /// Another place for a flight that gave its own up while it waited, until `end`.
    pub(super) async fn place_again(
        &self,
        leg: &Leg,
        told: &watch::Sender<Option<Landed>>,
        end: Deadline,
    ) -> Result<Place, BackendFault> {
        let told = told.clone();
        let wanted = move || told.receiver_count() > 1;
        let turn = {
            let mut ledger = self.ledger();
            let class = ledger.flights.get(&leg.key).map_or_else(|| leg.class(), |flight| flight.class);
            let turn = self.admission.ask_again(class, leg.network, wanted)?;
            if let Some(flight) = ledger.flights.get_mut(&leg.key) {
                flight.ticket = turn.ticket();
            }
            turn
        };
        tokio::select! {
            place = turn.come(self.settings.give_up) => place,
            () = end.wait() => Err(BackendFault::Busy),
        }
    }

    /// Presents, and gives the place back.
    pub(super) async fn exchange(&self, leg: &Leg, place: &Place) -> Answer {
        let mut exchange =
            std::pin::pin!(tokio::time::timeout(self.settings.give_up, self.backend.renew(&leg.pair)));
        let answer = match tokio::time::timeout(self.settings.timeout, exchange.as_mut()).await {
            Ok(answer) => answer,
            Err(_elapsed) => {
                place.is_late();
                exchange.await
            }
        };
        let answer = answer.unwrap_or(Answer::Unavailable(BackendFault::Lost(Loss::GaveUp)));
        place.ended(match &answer {
            Answer::Issued(_) | Answer::IssuedTo(..) | Answer::Refused(_) => Sign::Good,
            Answer::Unavailable(fault) => sign_of(fault),
        });
        answer
    }

    /// One line and one count for each renewal.
    fn report(&self, outcome: &RenewOutcome, took: Duration) {
        let word = word(outcome);
        self.meters.renewal(word, took);
        if let RenewOutcome::Refused(reason) = outcome {
            self.meters.refused(reason.word());
        }
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        match outcome {
            RenewOutcome::Unavailable(fault @ BackendFault::ClientRejected { .. }) => {
                tracing::error!(outcome = word, %fault, millis, "renewal: check this gateway's settings for the backend");
            }
            // Nothing was presented, as often as a client asks; why not has been said once.
            RenewOutcome::Unavailable(fault @ (BackendFault::HeldBack { .. } | BackendFault::ShareAway)) => {
                tracing::debug!(outcome = word, %fault, millis, "renewal");
            }
            RenewOutcome::Unavailable(fault) => tracing::warn!(outcome = word, %fault, millis, "renewal"),
            RenewOutcome::Refused(reason) => tracing::info!(outcome = word, %reason, millis, "renewal"),
            RenewOutcome::Renewed(_) | RenewOutcome::Withheld => {
                tracing::info!(outcome = word, millis, "renewal");
            }
        }
    }

    /// Verifies an answer and keeps what follows from it.
    pub(super) async fn conclude(&self, leg: &Leg, answer: Answer) -> RenewOutcome {
        match answer {
            Answer::Issued(tokens) => self.conclude_issued(leg, tokens, None).await,
            Answer::IssuedTo(tokens, told) => self.conclude_issued(leg, tokens, Some(told)).await,
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

    async fn conclude_issued(
        &self,
        leg: &Leg,
        tokens: TokenSet,
        told: Option<Map<String, Value>>,
    ) -> RenewOutcome {
        if let Some(old) = &leg.pair.access {
            self.checker.forget(old);
            if let (Some(shared), Some(name)) = (&self.share, self.checker.name(old)) {
                shared.tell(Word::Spent(name));
            }
        }
        let now = self.clock.now();
        // Nobody could tell just now: what was issued is kept all the same, the old tokens are spent.
        let checked = self.checker.issued(&tokens, told, (leg.network, now)).await;
        let verified = checked.unwrap_or(Verified::Invalid(TokenFault::Unchecked));
        let mut issued = Issued { tokens, presented: leg.key, lineage: leg.lineage.clone() };
        if let Verified::Live(identity) | Verified::Expired(identity) = &verified {
            match &leg.lineage.subject {
                Some(subject) if subject != identity.subject() => {
                    return self.reject(leg, &issued, RefusalReason::SubjectChanged);
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
        // Where renewing takes a genuine access token and nothing is spent, the old one is worth more than one that is not.
        let useless = unverifiable.is_some()
            && !issued.tokens.rotated
            && self.sessions.policy.capabilities.needs_access;
        let signed_out = {
            let mut ledger = self.ledger();
            let signed_out = ledger.tombstones.covers(leg.lineage.family, now);
            if !signed_out && !useless {
                ledger.memory.issued(issued.clone(), next, now);
                self.measure(&ledger);
            }
            signed_out
        };
        self.bonds.wake(&[leg.key, leg.lineage.family]);
        if signed_out {
            return self.reject(leg, &issued, RefusalReason::SignedOut);
        }
        match (verified, unverifiable) {
            (Verified::Live(identity), None) => RenewOutcome::Renewed(Renewed { identity, issued }),
            (Verified::Live(_) | Verified::Expired(_) | Verified::Invalid(_), fault) => {
                let fault = fault.unwrap_or(TokenFault::Over);
                if useless {
                    return RenewOutcome::Unavailable(BackendFault::Unusable { fault });
                }
                RenewOutcome::Unavailable(BackendFault::Unverifiable { fault, issued: Box::new(issued) })
            }
        }
    }

    /// Refuses what was issued: nothing of it is kept, and it is revoked behind those who wait for this.
    pub(super) fn reject(&self, leg: &Leg, issued: &Issued, reason: RefusalReason) -> RenewOutcome {
        self.refuse(leg, reason);
        let ending = Ending::of(issued.tokens.pair(), issued.lineage.subject.clone());
        let (backend, limit) = (Arc::clone(&self.backend), self.settings.give_up);
        self.tasks.spawn(async move {
            let revoked = tokio::time::timeout(limit, backend.revoke(&ending)).await;
            if let Revocation::Unavailable(fault) = revoked.unwrap_or(UNANSWERED) {
                tracing::warn!(%fault, %reason, "issued tokens that are not used could not be revoked");
            }
        });
        RenewOutcome::Refused(reason)
    }

    /// Remembers a refusal. Says whether an earlier answer for this token had been lost.
    pub(super) fn refuse(&self, leg: &Leg, reason: RefusalReason) -> bool {
        let now = self.clock.now();
        let ends = leg.access_ends.map_or(now, |end| end.max(now)).saturating_add(REFUSAL_KEPT);
        let was_lost = {
            let mut ledger = self.ledger();
            let was_lost = matches!(ledger.memory.slot(leg.key), Some(Slot::Unknown { .. }));
            ledger.memory.refused(leg.key, reason, ends, (leg.lane(), now));
            self.measure(&ledger);
            was_lost
        };
        self.bonds.wake(&[leg.key, leg.lineage.family]);
        was_lost
    }

    /// Remembers that it is not known what came of presenting a token, and when it may be presented again. Where the backend
    /// does not rotate, presenting it again harms nobody.
    fn remember_doubt(&self, leg: &Leg, fault: &BackendFault) {
        let now = self.clock.now();
        let mut ledger = self.ledger();
        // What anybody can bring about holds up nobody.
        if leg.lane() == Lane::Known {
            ledger.no_early_before = now.saturating_add(EARLY_PAUSE);
        }
        if !self.backend.capabilities().rotates {
            return;
        }
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
}

/// Ends a flight whatever happens: the entry goes, those who wait are told, and a panic counts as a lost answer.
struct Landing<'a> {
    inner: &'a Inner,
    key: SessionKey,
    lane: Lane,
    access_ends: Option<UnixTime>,
    sender: watch::Sender<Option<Landed>>,
    landed: Option<Landed>,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let now = self.inner.clock.now();
        {
            let mut ledger = self.inner.ledger();
            ledger.flights.remove(&self.key);
            if self.landed.is_none() && self.inner.backend.capabilities().rotates {
                let not_before = self.access_ends.map_or(now, |end| end.max(now));
                ledger.memory.lost(self.key, not_before, self.lane, now);
            }
        }
        self.inner.meters.flights.dec();
        let internal = || Landed::Outcome(Box::new(RenewOutcome::Unavailable(BackendFault::Internal)));
        let landed = self.landed.take().unwrap_or_else(internal);
        self.sender.send_replace(Some(landed));
    }
}

/// Waits for what a flight comes to.
pub(super) async fn landed(mut flight: watch::Receiver<Option<Landed>>) -> Landed {
    match flight.wait_for(Option::is_some).await.map(|landed| landed.clone()) {
        Ok(Some(landed)) => landed,
        Ok(None) | Err(_) => Landed::Outcome(Box::new(RenewOutcome::Unavailable(BackendFault::Internal))),
    }
}
