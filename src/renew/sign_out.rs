//! Signing out: a session is ended at its backend, and remembered as over until its last token would have ended.
//! In: what a client presented. Out: [`Revocation`]. Errors: none; a fault is an answer. I/O: the session backend.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::clock::UnixTime;
use crate::outcome::{BackendFault, Loss, RenewOutcome, Revocation, SessionKey};
use crate::renew::flight::landed;
use crate::renew::memory::Known;
use crate::renew::{Inner, Renewer};
use crate::session::judge::{Blind, RenewRequest};
use crate::token::{Ending, Pair};

/// Whether a presented access token is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It is.
    Live,
    /// It is not, or none came.
    Over,
}

impl Renewer {
    /// Ends a session at its backend, and here once the backend has confirmed it.
    /// `live`: whether the presented access token is; where the backend wants a live one, the session is renewed first.
    pub async fn sign_out(&self, request: RenewRequest, live: Liveness) -> Revocation {
        let wants_live = self.0.backend.capabilities().revokes_with_live_access;
        let request = RenewRequest { blind: Blind::Allowed, ..request };
        let this = self.clone();
        self.detached(async move {
            if wants_live && live == Liveness::Over {
                match this.renew(&request).await {
                    RenewOutcome::Renewed(_) | RenewOutcome::Withheld => {}
                    // Over, or never a session: a refusal proves nothing about whose it was, so nobody's is remembered.
                    RenewOutcome::Refused(_) => return Revocation::Ended,
                    RenewOutcome::Unavailable(fault) => return Revocation::Unavailable(fault),
                }
            }
            this.0.end(&request).await
        })
        .await
    }

    /// Ends a session of which no refresh token came.
    pub async fn sign_out_bare(&self, ending: Ending) -> Revocation {
        let inner = Arc::clone(&self.0);
        self.detached(async move {
            let revocation = inner.revoke(&ending).await;
            if revocation == Revocation::Ended {
                let until = inner.clock.now().saturating_add(inner.settings.undelivered);
                inner.bury(inner.sessions.policy.marks(&ending), until);
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
}

impl Inner {
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
            self.bury_session(request, pair);
        }
        revocation
    }

    pub(super) async fn revoke(&self, ending: &Ending) -> Revocation {
        tokio::time::timeout(self.settings.give_up, self.backend.revoke(ending))
            .await
            .unwrap_or(Revocation::Unavailable(BackendFault::Lost(Loss::GaveUp)))
    }

    /// Remembers that a session was signed out, from the pair that was presented to the newest one.
    fn bury_session(&self, request: &RenewRequest, newest: Pair) {
        let (known, lineage) = {
            let ledger = self.ledger();
            (ledger.memory.look(request.key), ledger.memory.lineage(request.key).cloned())
        };
        let known = match known {
            Known::Newest(issued, _) => Some(issued),
            Known::Nothing | Known::Refused(_) | Known::Unknown { .. } | Known::TooOld => None,
        };
        let until = known
            .as_ref()
            .and_then(|issued| issued.tokens.refresh_expires)
            .or(request.refresh_expires)
            .unwrap_or_else(|| self.clock.now().saturating_add(self.settings.undelivered));
        let family = known
            .map(|issued| issued.lineage.family)
            .or_else(|| lineage.map(|lineage| lineage.family))
            .or(request.family);
        let pairs =
            [request.pair.clone(), newest].map(|pair| self.sessions.policy.marks(&Ending::of(pair, None)));
        self.bury(pairs.into_iter().flatten().chain(family), until);
    }

    /// Remembers these names of a signed-out session until the last of its tokens would have ended.
    fn bury(&self, names: impl IntoIterator<Item = SessionKey>, until: UnixTime) {
        let now = self.clock.now();
        let mut ledger = self.ledger();
        names.into_iter().for_each(|name| ledger.tombstones.bury(name, until, now));
        self.sign_outs.store(true, Ordering::Release);
    }

    /// The names under which the session of a request may have been signed out; none where nobody ever signed out.
    pub(super) fn marks(&self, request: &RenewRequest) -> Vec<SessionKey> {
        if !self.sign_outs.load(Ordering::Acquire) {
            return Vec::new();
        }
        let marks = self.sessions.policy.marks(&Ending::of(request.pair.clone(), None));
        marks.into_iter().chain(request.family).collect()
    }
}
