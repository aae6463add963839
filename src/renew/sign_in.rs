//! Signing in here: new tokens from the session backend, verified, as a session that has nothing to do with any before it.
//! In: [`Credentials`], what the browser presented before. Out: [`SignedIn`]. Errors: none; a fault is an answer.
//! I/O: the session backend.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::SignIn;
use crate::network::Network;
use crate::outcome::{BackendFault, Issued, Lineage, Loss, Renewed, SessionKey, TokenFault};
use crate::random;
use crate::renew::memory::{Known, Lane, Slot};
use crate::renew::{Inner, Renewer};
use crate::session::judge::RenewRequest;
use crate::session::verifier::Verified;
use crate::token::{Credentials, Ending, TokenSet};

/// What came of a sign-in.
#[derive(Debug)]
pub enum SignedIn {
    /// A new session.
    As(Box<Renewed>),
    /// Not with this name and password.
    Refused,
    /// No decision.
    Unavailable(BackendFault),
    /// The backend took name and password, and what it issued does not verify here: the settings are wrong.
    Unverifiable(TokenFault),
}

impl Renewer {
    /// Starts a session at the backend, which has `patience` for it. Its family is a new one whatever the backend hands out,
    /// and a pair that was signed out or refused before is good again where it is handed out once more.
    pub async fn sign_in(&self, credentials: &Credentials, patience: Duration) -> SignedIn {
        let answer = tokio::time::timeout(patience, self.0.backend.sign_in(credentials)).await;
        match answer.unwrap_or(SignIn::Unavailable(BackendFault::Lost(Loss::GaveUp))) {
            SignIn::Issued(tokens) => self.0.begin_session(tokens).await,
            SignIn::Refused => SignedIn::Refused,
            SignIn::Unavailable(fault) => SignedIn::Unavailable(fault),
            // The settings refuse a form before such a backend.
            SignIn::NotOffered => SignedIn::Unavailable(BackendFault::Internal),
        }
    }

    /// Sets a session aside whose browser has been given another user's: nothing of it is stored, renewed or let in here any
    /// more, in particular not by an answer that is late. At the backend it goes on.
    ///
    /// Only where the backend rotates: elsewhere the same pair may be another browser's, too.
    pub fn set_aside(&self, request: &RenewRequest) {
        if !self.0.backend.capabilities().rotates {
            return;
        }
        let newest = match self.0.ledger().memory.look(request.key) {
            Known::Newest(issued, _) => issued.tokens.pair(),
            Known::Nothing | Known::Refused(_) | Known::Unknown { .. } | Known::TooOld => {
                request.pair.clone()
            }
        };
        let until = self.0.bury_session(request, newest.clone(), Lane::Known);
        if self.0.share.is_some() {
            let (inner, request) = (Arc::clone(&self.0), request.clone());
            self.0.tasks.spawn(async move {
                for pair in [newest, request.pair] {
                    let key = inner.sessions.policy.key(&pair);
                    let names = inner.sessions.policy.marks(&Ending::of(pair, None));
                    let names: Vec<SessionKey> = names.into_iter().chain(request.family).collect();
                    // Tokens that another replica has for it stay good at the backend: they are not used here any more.
                    drop(inner.bury_shared(key, &names, until).await);
                }
            });
        }
    }
}

impl Inner {
    async fn begin_session(&self, mut tokens: TokenSet) -> SignedIn {
        let now = self.clock.now();
        let identity = match self.checker.issued(&tokens, None, (Network::None, now)).await {
            Ok(Verified::Live(identity)) => identity,
            Ok(Verified::Expired(_)) => return SignedIn::Unverifiable(TokenFault::Over),
            Ok(Verified::Invalid(fault)) => return SignedIn::Unverifiable(fault),
            Err(fault) => return SignedIn::Unavailable(fault),
        };
        let mut family = SessionKey([0; 32]);
        if random::fill(&mut family.0).is_err() {
            return SignedIn::Unavailable(BackendFault::Internal);
        }
        // The client will present the id that its token names, so that is the one to find it by.
        if let Some(session) = identity.session() {
            tokens.session = Some(session.clone());
        }
        let lineage = Lineage { family, started_at: now, subject: Some(identity.subject().to_owned()) };
        // Nothing was presented for it, so it stands under a name that nobody can present.
        let issued = Issued { tokens, presented: family, lineage };
        let (key, marks) = self.revive(&issued);
        // What rotates is new each time.
        if !self.backend.capabilities().rotates {
            self.revive_shared(key, &marks).await;
        }
        SignedIn::As(Box::new(Renewed { identity, issued }))
    }

    /// Forgets that this very pair was signed out or refused. Other pairs of its old family stay what they are.
    fn revive(&self, issued: &Issued) -> (SessionKey, Vec<SessionKey>) {
        let pair = issued.tokens.pair();
        let key = self.sessions.policy.key(&pair);
        let marks = self.sessions.policy.marks(&Ending::of(pair, None));
        self.lift(&marks);
        (key, marks)
    }

    /// Forgets that the pair with these names was signed out or refused. The first one is what its wire presents.
    pub(super) fn lift(&self, names: &[SessionKey]) {
        let Some(key) = names.first().copied() else { return };
        let now = self.clock.now();
        let mut ledger = self.ledger();
        names.iter().for_each(|name| ledger.tombstones.lift(*name));
        let family = ledger.memory.lineage(key).map(|lineage| lineage.family);
        let buried = family.is_some_and(|family| ledger.tombstones.covers(family, now));
        let over = match ledger.memory.slot(key) {
            Some(Slot::Refused { .. } | Slot::Unknown { .. }) => true,
            Some(Slot::Issued(_)) | None => false,
        };
        // A result whose end was a refusal leads there still.
        let leads_nowhere = matches!(ledger.memory.look(key), Known::Refused(_) | Known::TooOld);
        if buried || over || leads_nowhere {
            ledger.memory.forget(key);
        }
        self.measure(&ledger);
    }
}
