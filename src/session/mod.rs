//! From cookies to a session, and back: what was presented, whether it is genuine, and what follows from it.
//! In: request heads and settings. Out: [`Judgement`](judge::Judgement), `Set-Cookie` lines. Errors: none. I/O: random numbers.

pub mod carrier;
pub mod cookies;
pub mod desk;
pub mod drill;
mod freshness;
pub mod judge;
mod jwt;
pub mod keys;
pub mod seal;
mod sealed_notes;
pub mod verifier;

use std::sync::Arc;

use http::HeaderMap;

use crate::clock::UnixTime;
use crate::identity::Identity;
use crate::marks::{Brought, Marks};
use crate::network::Network;
use crate::notes::Notes;
use crate::outcome::{Ahead, Freshness, Lineage, SessionKey, TokenState};
use crate::session::carrier::Carrier;
use crate::session::cookies::{KnownNotes, Presented};
use crate::session::drill::Drills;
use crate::session::judge::{Blind, Policy, RenewRequest};
use crate::session::verifier::Verified;
use crate::token::{AccessToken, Ending, Pair};

/// Everything that reads a session.
#[derive(Debug)]
pub struct Sessions {
    /// Reads and writes cookies.
    pub carrier: Carrier,
    /// What the decisions have to know.
    pub policy: Policy,
    /// How early a token is due.
    pub ahead: Ahead,
    /// Tokens that an operator declared over.
    pub drills: Drills,
}

impl Sessions {
    /// What a request head presents that came from there; `known` gives the access token of a text, where it is a known one.
    pub fn read(
        &self,
        headers: &HeaderMap,
        network: Network,
        known: impl FnOnce(&[u8]) -> Option<AccessToken>,
    ) -> Presented {
        Presented { network, ..cookies::read_with(headers, self.carrier.names(), known) }
    }

    /// What the notes of ours are about that came beside what is presented: then it was somebody's session here.
    #[must_use]
    pub fn noted(&self, presented: &Presented, host: &str) -> Option<SessionKey> {
        self.notes(presented, None, host).notes().map(|notes| notes.about)
    }

    /// The state of a presented access token, from what it turned out to be (`None`: there is none) and from our notes.
    /// A fresh token that says itself how long it lives needs no notes, so they stay sealed.
    #[must_use]
    pub fn state(
        &self,
        presented: &mut Presented,
        verified: Option<Verified>,
        host: &str,
        now: UnixTime,
    ) -> TokenState {
        match verified {
            None => {
                presented.notes = self.notes(presented, None, host);
                TokenState::Absent
            }
            Some(Verified::Live(identity)) if !self.is_over_by_hand(presented, now) => {
                self.live(presented, identity, host, now)
            }
            Some(Verified::Live(identity) | Verified::Expired(identity)) => {
                presented.notes = self.notes(presented, Some(&identity), host);
                TokenState::Expired(identity)
            }
            Some(Verified::Invalid(fault)) => {
                presented.notes = self.notes(presented, None, host);
                TokenState::Invalid(fault)
            }
        }
    }

    /// What an operator's drill calls an access token.
    #[must_use]
    pub fn drill_name(&self, access: &AccessToken) -> SessionKey {
        self.policy.keys.digest(&["drill", access.expose()])
    }

    fn is_over_by_hand(&self, presented: &Presented, now: UnixTime) -> bool {
        let access = presented.access.as_ref();
        access.is_some_and(|access| self.drills.covers(|| self.drill_name(access), now))
    }

    fn live(&self, presented: &mut Presented, identity: Identity, host: &str, now: UnixTime) -> TokenState {
        let freshness = self.freshness(&identity, None, now);
        if freshness == Freshness::Fresh && identity.issued_at().is_some() && identity.expires_at().is_some()
        {
            return TokenState::Live(identity, freshness);
        }
        presented.notes = self.notes_or_first_sight(presented, &identity, host, now);
        let notes = presented.notes.notes();
        let noted = notes.and_then(|notes| Some(notes.received_at.saturating_add(notes.expires_in?)));
        let identity = match noted {
            Some(end) => identity.until(end),
            None => identity,
        };
        let freshness = self.freshness(&identity, notes, now);
        TokenState::Live(identity, freshness)
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

    /// The key of the pair that this user's client presents; `None` where it brings no refresh token.
    #[must_use]
    pub fn pair_key(&self, presented: &Presented, who: &Identity) -> Option<SessionKey> {
        Self::pair(presented, Some(who)).map(|pair| self.policy.key(&pair))
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
        let refresh = presented.refresh.as_ref().and_then(|refresh| self.policy.refresh_mark(refresh));
        key.into_iter().chain(refresh).chain(self.policy.marks(&beside)).chain(family).collect()
    }

    /// The same, kept beside the access token: who brings the same again has them at once.
    #[must_use]
    pub fn kept_marks(&self, presented: &Presented, state: &TokenState, host: &str) -> Arc<Marks> {
        let make = || self.marks(presented, state, host);
        let Some(who) = known(state) else { return Arc::new(Marks::new(make(), None)) };
        let settings = self.policy.keys.number();
        let fit = |marks: &Marks| {
            marks.brought().is_some_and(|brought| {
                brought.settings == settings
                    && brought.access == presented.access
                    && brought.refresh == presented.refresh
                    && brought.session == presented.session
                    && brought.notes == presented.sealed_notes
                    && (brought.notes.is_none() || brought.host == host)
            })
        };
        who.marks(fit, || {
            let brought = Brought {
                access: presented.access.clone(),
                refresh: presented.refresh.clone(),
                session: presented.session.clone(),
                notes: presented.sealed_notes.clone(),
                host: host.to_owned(),
                settings,
            };
            Marks::new(make(), Some(brought).filter(Brought::is_short))
        })
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
        let wire = self.policy.capabilities;
        if (wire.needs_session && pair.session.is_none()) || (wire.needs_access && who.is_none()) {
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
            network: presented.network,
            stale: None,
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
            expires_in: who.expires_at().map(|end| end.since(now)),
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
