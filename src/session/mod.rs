//! From cookies to a session, and back: what was presented, whether it is genuine, and what follows from it.
//! In: request heads and settings. Out: [`Judgement`](judge::Judgement), `Set-Cookie` lines. Errors: none. I/O: random numbers.

pub mod carrier;
pub mod cookies;
mod freshness;
pub mod judge;
mod jwt;
pub mod seal;
mod sealed_notes;
pub mod verifier;

use http::HeaderMap;

use crate::clock::UnixTime;
use crate::identity::Identity;
use crate::notes::Notes;
use crate::outcome::{Ahead, Freshness, Lineage, SessionKey, TokenState};
use crate::session::carrier::Carrier;
use crate::session::cookies::{KnownNotes, Presented};
use crate::session::judge::{Blind, Policy, RenewRequest};
use crate::session::verifier::{Seen, Verified, Verifier};
use crate::token::{Ending, Pair};

/// Everything that reads a session.
#[derive(Debug)]
pub struct Sessions {
    /// Checks access tokens.
    pub verifier: Verifier,
    /// Reads and writes cookies.
    pub carrier: Carrier,
    /// What the decisions have to know.
    pub policy: Policy,
    /// How early a token is due.
    pub ahead: Ahead,
}

impl Sessions {
    /// What a request head presents, what its access token turned out to be, and whether this token is new here.
    /// A fresh token that says itself how long it lives needs no notes, so they stay sealed.
    #[must_use]
    pub fn look(&self, headers: &HeaderMap, host: &str, now: UnixTime) -> (Presented, TokenState, Seen) {
        let mut presented = cookies::read(headers, self.carrier.names());
        let Some(access) = &presented.access else {
            presented.notes = self.notes(&presented, None, host);
            return (presented, TokenState::Absent, Seen::First);
        };
        let (verified, seen) = self.verifier.verify(access, now);
        let state = match verified {
            Verified::Live(identity) => {
                let mut freshness = self.freshness(&identity, None, now);
                if freshness == Freshness::Due || identity.issued_at().is_none() {
                    presented.notes = self.notes_or_first_sight(&presented, &identity, host, now);
                    freshness = self.freshness(&identity, presented.notes.notes(), now);
                }
                TokenState::Live(identity, freshness)
            }
            Verified::Expired(identity) => {
                presented.notes = self.notes(&presented, Some(&identity), host);
                TokenState::Expired(identity)
            }
            Verified::Invalid(fault) => {
                presented.notes = self.notes(&presented, None, host);
                TokenState::Invalid(fault)
            }
        };
        (presented, state, seen)
    }

    /// The pair that a client presents, with the session id from its verified token where that names one.
    #[must_use]
    pub fn pair(presented: &Presented, who: Option<&Identity>) -> Option<Pair> {
        Some(Pair {
            refresh: presented.refresh.clone()?,
            access: presented.access.clone(),
            session: who.and_then(Identity::session).or(presented.session.as_ref()).cloned(),
        })
    }

    /// The key of what a client presents, and the notes that it brought about it.
    fn key(
        &self,
        presented: &Presented,
        state: &TokenState,
        host: &str,
    ) -> Option<(SessionKey, Option<Notes>)> {
        let who = known(state);
        let key = self.policy.key(&Self::pair(presented, who)?);
        let notes = match &presented.notes {
            KnownNotes::Held(notes) | KnownNotes::Noted(notes) => Some(notes.clone()),
            KnownNotes::None => self.notes_about(presented, key, host).notes().cloned(),
        };
        Some((key, notes))
    }

    /// Every name under which the presented session may have been signed out, its family among them.
    #[must_use]
    pub fn marks(&self, presented: &Presented, state: &TokenState, host: &str) -> Vec<SessionKey> {
        let who = known(state);
        let (key, notes) = self.key(presented, state, host).unzip();
        // The pair's own name is made already.
        let beside = Ending {
            refresh: None,
            access: who.and(presented.access.clone()),
            session: who.and_then(Identity::session).or(presented.session.as_ref()).cloned(),
            subject: None,
        };
        let family = notes.flatten().map(|notes| notes.lineage.family);
        key.into_iter().chain(self.policy.marks(&beside)).chain(family).collect()
    }

    /// What has to be ended when a client signs out: the session of its refresh token, where it has one.
    #[must_use]
    pub fn sign_out_request(
        &self,
        presented: &Presented,
        state: &TokenState,
        host: &str,
    ) -> Option<RenewRequest> {
        let (key, notes) = self.key(presented, state, host)?;
        let who = known(state);
        let pair = Self::pair(presented, who)?;
        if self.policy.capabilities.needs_session && pair.session.is_none() {
            return None;
        }
        let refresh_expires = notes.as_ref().and_then(|notes| notes.refresh_expires);
        let lineage = notes.map(|notes| notes.lineage);
        Some(RenewRequest {
            pair,
            key,
            family: lineage.as_ref().map(|lineage| lineage.family),
            started_at: lineage.as_ref().map(|lineage| lineage.started_at),
            subject: who.map(|who| who.subject().to_owned()).or(lineage.and_then(|lineage| lineage.subject)),
            blind: Blind::Allowed,
            access_ends: None,
            refresh_expires,
        })
    }

    fn freshness(&self, identity: &Identity, notes: Option<&Notes>, now: UnixTime) -> Freshness {
        freshness::freshness(identity, notes, now, self.ahead)
    }

    /// The notes that the client brought about what it presents.
    fn notes(&self, presented: &Presented, who: Option<&Identity>, host: &str) -> KnownNotes {
        // Most clients bring either none or the right ones: the key is made for those who bring some.
        let about = presented.sealed_notes.as_ref().and_then(|_| Self::pair(presented, who));
        about.map_or(KnownNotes::None, |pair| self.notes_about(presented, self.policy.key(&pair), host))
    }

    /// The notes that the client brought, if they open and are about the tokens with this key.
    fn notes_about(&self, presented: &Presented, about: SessionKey, host: &str) -> KnownNotes {
        let opened =
            presented.sealed_notes.as_ref().and_then(|sealed| self.carrier.open_notes(sealed, host, about));
        opened.map_or(KnownNotes::None, KnownNotes::Held)
    }

    /// The client's notes; for a token that does not say when it was issued, else notes of the moment it was first seen.
    fn notes_or_first_sight(
        &self,
        presented: &Presented,
        who: &Identity,
        host: &str,
        now: UnixTime,
    ) -> KnownNotes {
        let held = self.notes(presented, Some(who), host);
        if held.notes().is_some() || who.issued_at().is_some() {
            return held;
        }
        let Some(pair) = Self::pair(presented, Some(who)) else { return KnownNotes::None };
        let about = self.policy.key(&pair);
        KnownNotes::Noted(Notes {
            lineage: Lineage { family: about, started_at: now, subject: Some(who.subject().to_owned()) },
            received_at: now,
            expires_in: Some(who.expires_at().since(now)),
            refresh_expires: None,
            about,
        })
    }
}

/// Who is there, as far as a genuine token tells.
fn known(state: &TokenState) -> Option<&Identity> {
    match state {
        TokenState::Live(who, _) | TokenState::Expired(who) => Some(who),
        TokenState::Absent | TokenState::Invalid(_) | TokenState::Unchecked(_) => None,
    }
}
