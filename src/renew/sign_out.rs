//! Signing out: a session is ended at its backend, and remembered as over until its last token would have ended.
//! In: what a client presented. Out: [`Revocation`]. Errors: none; a fault is an answer. I/O: the session backend.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::admit::breaker::Sign;
use crate::admit::queue::Class;
use crate::admit::sign_of;
use crate::clock::UnixTime;
use crate::network::Network;
use crate::outcome::{BackendFault, Loss, RenewOutcome, Revocation, SessionKey};
use crate::renew::flight::landed;
use crate::renew::memory::{Known, Lane};
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
    /// Ends a session at its backend, and here once the backend has confirmed it. While the backend is spared it is not
    /// asked, and the session stays what it is.
    /// `live`: whether the presented access token is; where the backend wants a live one, the session is renewed first.
    pub async fn sign_out(&self, request: RenewRequest, live: Liveness) -> Revocation {
        let wants_live = self.0.backend.capabilities().revokes_with_live_access;
        let request = RenewRequest { blind: Blind::Allowed, ..request };
        if let Some(fault) = self.0.spared() {
            return Revocation::Unavailable(fault);
        }
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

    /// Ends a session of which no refresh token came, and whose access token lives.
    pub async fn sign_out_bare(&self, ending: Ending, network: Network) -> Revocation {
        let inner = Arc::clone(&self.0);
        self.detached(async move {
            let revocation = inner.revoke_in_turn(&ending, (Lane::Known, network)).await;
            if revocation == Revocation::Ended {
                inner.bury(inner.sessions.policy.marks(&ending), (inner.last_end(), Lane::Known));
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

/// Most renewals of one session that a sign-out ends one after the other.
const LINKS: usize = 8;

/// What a backend says that says nothing within `give_up`.
pub(super) const UNANSWERED: Revocation = Revocation::Unavailable(BackendFault::Lost(Loss::GaveUp));

const LEFT_OVER: &str = "tokens that came while a session was signed out could not be revoked";

impl Inner {
    /// Ends the newest tokens of a session at the backend, with no renewal of them under way.
    async fn end(&self, request: &RenewRequest) -> Revocation {
        self.catch_up(request.key).await;
        let newest = tokio::time::timeout(self.settings.give_up, self.newest(request)).await;
        let (pair, subject) = match newest {
            Ok(newest) => newest,
            Err(_elapsed) => return Revocation::Unavailable(BackendFault::Slow),
        };
        let lane = self.first_leg(request, self.clock.now()).lane();
        let ending = Ending::of(pair.clone(), subject.clone());
        let revocation = self.revoke_in_turn(&ending, (lane, request.network)).await;
        if revocation == Revocation::Ended {
            let until = self.bury_session(request, pair.clone(), lane);
            let pair = self.end_what_came(request, pair, lane).await;
            // What anybody can sign out takes no room at the other replicas.
            if lane == Lane::Known {
                self.bury_everywhere(request, pair, (subject, until)).await;
            }
        }
        revocation
    }

    /// Ends what a renewal brought while the backend was asked to end what came before: it began before the sign-out was
    /// remembered. None begins after that. The newest pair.
    async fn end_what_came(&self, request: &RenewRequest, ended: Pair, lane: Lane) -> Pair {
        let mut last = ended;
        for _ in 0..LINKS {
            let newest = tokio::time::timeout(self.settings.give_up, self.newest(request)).await;
            let Ok((pair, subject)) = newest else { return last };
            if pair == last {
                return last;
            }
            self.bury_session(request, pair.clone(), lane);
            let ended = self.revoke(&Ending::of(pair.clone(), subject)).await;
            if let Revocation::Unavailable(fault) = ended {
                tracing::warn!(%fault, "{LEFT_OVER}");
            }
            last = pair;
        }
        last
    }

    /// The newest pair of a session and its user, once no flight of it is under way here.
    async fn newest(&self, request: &RenewRequest) -> (Pair, Option<String>) {
        loop {
            let (pair, subject, flight) = {
                let ledger = self.ledger();
                let (issued, key) = match ledger.memory.look(request.key) {
                    Known::Newest(issued, next) => (Some(issued), next),
                    Known::Nothing | Known::Refused(_) | Known::Unknown { .. } | Known::TooOld => {
                        (None, request.key)
                    }
                };
                let pair =
                    issued.as_ref().map_or_else(|| request.pair.clone(), |issued| issued.tokens.pair());
                let subject = issued.and_then(|issued| issued.lineage.subject.clone());
                (
                    pair,
                    subject.or_else(|| request.subject.clone()),
                    ledger.flights.get(&key).map(|flight| flight.landing.clone()),
                )
            };
            match flight {
                Some(flight) => drop(landed(flight).await),
                None => return (pair, subject),
            }
        }
    }

    /// Tells the other replicas. A flight of theirs that landed after the look at it is found in the sign-out's place: what
    /// it brought is ended too; one that lands later finds the sign-out.
    async fn bury_everywhere(
        &self,
        request: &RenewRequest,
        newest: Pair,
        (subject, until): (Option<String>, UnixTime),
    ) {
        let mut pairs = vec![newest, request.pair.clone()];
        let mut buried = Vec::new();
        while let Some(pair) = pairs.pop() {
            let key = self.sessions.policy.key(&pair);
            if buried.contains(&key) || buried.len() >= LINKS {
                continue;
            }
            buried.push(key);
            let names = self.sessions.policy.marks(&Ending::of(pair, None));
            let names: Vec<SessionKey> = names.into_iter().chain(request.family).collect();
            let Some(issued) = self.bury_shared(key, &names, until).await else { continue };
            let pair = issued.tokens.pair();
            if !buried.contains(&self.sessions.policy.key(&pair)) && !pairs.contains(&pair) {
                self.bury(names, (until, Lane::Known));
                let ended = self.revoke(&Ending::of(pair.clone(), subject.clone())).await;
                if let Revocation::Unavailable(fault) = ended {
                    tracing::warn!(%fault, "{LEFT_OVER}");
                }
                pairs.push(pair);
            }
        }
    }

    /// While the backend is spared: why it is not asked to end a session.
    fn spared(&self) -> Option<BackendFault> {
        self.admission.health().rest().map(|after| BackendFault::Resting { after })
    }

    /// Asks the backend to end a session, in turn with renewals: what hangs there is counted, and bounded.
    async fn revoke_in_turn(&self, ending: &Ending, (lane, network): (Lane, Network)) -> Revocation {
        let class = match lane {
            Lane::Known => Class::Expired,
            Lane::Stranger => Class::Stranger,
        };
        // It is wanted even if its client is gone.
        let place = match self.admission.ask(class, network, || true) {
            Ok(turn) => turn.come(self.settings.timeout).await,
            Err(fault) => Err(fault),
        };
        let place = match place {
            Ok(place) => place,
            Err(fault) => return Revocation::Unavailable(fault),
        };
        let mut exchange = std::pin::pin!(self.revoke(ending));
        let revocation = match tokio::time::timeout(self.settings.timeout, exchange.as_mut()).await {
            Ok(revocation) => revocation,
            Err(_elapsed) => {
                place.is_late();
                exchange.await
            }
        };
        place.ended(match &revocation {
            Revocation::Ended => Sign::Good,
            Revocation::Unavailable(fault) => sign_of(fault),
        });
        revocation
    }

    pub(super) async fn revoke(&self, ending: &Ending) -> Revocation {
        tokio::time::timeout(self.settings.give_up, self.backend.revoke(ending)).await.unwrap_or(UNANSWERED)
    }

    /// Remembers that a session was signed out, from the pair that was presented to the newest one. `lane`: whether anything
    /// tells whose it was.
    pub(super) fn bury_session(&self, request: &RenewRequest, newest: Pair, lane: Lane) -> UnixTime {
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
            .unwrap_or_else(|| self.last_end());
        let family = known
            .map(|issued| issued.lineage.family)
            .or_else(|| lineage.map(|lineage| lineage.family))
            .or(request.family);
        let pairs =
            [request.pair.clone(), newest].map(|pair| self.sessions.policy.marks(&Ending::of(pair, None)));
        self.bury(pairs.into_iter().flatten().chain(family), (until, lane));
        until
    }

    /// When a session that ends now can last come back, where nobody says when its refresh token ends: not before what is
    /// kept of it, and not before its cookies.
    fn last_end(&self) -> UnixTime {
        let life = self.sessions.carrier.refresh_life().max(self.settings.undelivered);
        self.clock.now().saturating_add(life)
    }

    /// Remembers these names of a signed-out session until the last of its tokens would have ended.
    pub(super) fn bury(&self, names: impl IntoIterator<Item = SessionKey>, (until, lane): (UnixTime, Lane)) {
        let now = self.clock.now();
        let names: Vec<SessionKey> = names.into_iter().collect();
        {
            let mut ledger = self.ledger();
            names.iter().for_each(|name| ledger.tombstones.bury(*name, until, (lane, now)));
            self.sign_outs.store(true, Ordering::Release);
        }
        self.bonds.wake(&names);
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
