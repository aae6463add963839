//! A flight: one presentation of one pair, from the call to what is kept of it.
//! In: [`Leg`]. Out: [`RenewOutcome`], in the ledger and to all who wait. Errors: none. I/O: the session backend.

use std::time::Duration;

use tokio::sync::watch;

use crate::clock::{Stopwatch, UnixTime};
use crate::outcome::{
    Answer, BackendFault, Issued, Lineage, Loss, RefusalReason, RenewOutcome, Renewed, Revocation,
    SessionKey, TokenFault,
};
use crate::renew::memory::{Lane, Slot};
use crate::renew::{Inner, word};
use crate::session::verifier::Verified;
use crate::token::{Ending, Pair, TokenSet};

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
}

impl Leg {
    /// Whether anything tells whose session this is: a verified token, our notes, or an earlier renewal.
    pub(super) const fn lane(&self) -> Lane {
        if self.lineage.subject.is_some() { Lane::Known } else { Lane::Stranger }
    }
}

impl Inner {
    pub(super) async fn fly(&self, leg: Leg, sender: watch::Sender<Option<RenewOutcome>>) {
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
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
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
pub(super) async fn landed(
    mut flight: watch::Receiver<Option<RenewOutcome>>,
    limit: Duration,
) -> Option<RenewOutcome> {
    match tokio::time::timeout(limit, flight.wait_for(Option::is_some)).await {
        Ok(Ok(outcome)) => outcome.clone(),
        Ok(Err(_closed)) => Some(RenewOutcome::Unavailable(BackendFault::Internal)),
        Err(_elapsed) => None,
    }
}
