//! The first decision: from what a route needs and what a client presented to a verdict, or to a renewal.
//! In: need, asker, cookies, token state, policy. Out: [`Judgement`]. Errors: none. I/O: none; it never waits.
//!
//! | need | token state | refresh token | judgement |
//! | --- | --- | --- | --- |
//! | any | live and fresh, or due without a refresh token | any | admit, cookies kept |
//! | any | live and due | present | admit, with a flight beside |
//! | any | live, requirement unmet | any | forbidden, cookies kept, no renewal |
//! | any | absent, expired, invalid | present with all its wire presents | renew |
//! | optional | absent, expired, invalid | none, or not all of it | admit anonymously, cookies kept |
//! | required | absent, expired, invalid | none, or not all of it | login, cookies kept; the backend is not asked |
//! | optional / required | not checkable now | any | admit anonymously / unavailable, cookies kept |

use crate::asker::Asker;
use crate::clock::UnixTime;
use crate::identity::Identity;
use crate::need::{Access, Need};
use crate::outcome::{
    BackendFault, Capabilities, Freshness, RenewOutcome, SessionKey, TokenFault, TokenState,
};
use crate::session::Sessions;
use crate::session::cookies::{Copies, KnownNotes, Presented};
use crate::session::seal::{SessionKeys, WithAccess};
use crate::token::{Ending, Pair};
use crate::verdict::{Caller, CookieChange, Decline, LoginReason, Verdict};

/// What [`judge`] says.
#[derive(Clone, Debug, PartialEq)]
pub enum Judgement {
    /// Decided.
    Settled(Verdict),
    /// Decided, and a renewal goes on beside the request.
    Beside(Verdict, RenewRequest),
    /// Not decided before a renewal.
    Renew(RenewRequest),
}

/// A renewal to make.
#[derive(Clone, Debug, PartialEq)]
pub struct RenewRequest {
    /// What to present.
    pub pair: Pair,
    /// Its key.
    pub key: SessionKey,
    /// The family, where our notes name it.
    pub family: Option<SessionKey>,
    /// When the session started, where our notes say so.
    pub started_at: Option<UnixTime>,
    /// Whose session it is, from a verified token or our notes.
    pub subject: Option<String>,
    /// Whether to present although nobody knows whose session it is.
    pub blind: Blind,
    /// From when on the access token is no longer taken; `None`: it is not now.
    pub access_ends: Option<UnixTime>,
    /// When the refresh token ends, where our notes say so.
    pub refresh_expires: Option<UnixTime>,
}

/// Whether a refresh token of an unknown user may be presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blind {
    /// On page views: the person sees as whom they come back.
    Allowed,
    /// On everything else.
    Refused,
}

/// Whether this gateway renews.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewMode {
    /// It does.
    Auto,
    /// Somebody else renews the shared cookies.
    Never,
}

/// What the decisions have to know of the settings.
#[derive(Clone, Debug)]
pub struct Policy {
    /// What the session backend can and needs.
    pub capabilities: Capabilities,
    /// Whether this gateway renews.
    pub mode: RenewMode,
    /// Names sessions.
    pub keys: SessionKeys,
    /// Allowance for clocks that differ.
    pub leeway: std::time::Duration,
}

impl Policy {
    /// The key of what a pair's wire presents.
    #[must_use]
    pub fn key(&self, pair: &Pair) -> SessionKey {
        let with = if self.capabilities.needs_access { WithAccess::Yes } else { WithAccess::No };
        self.keys.of(pair, with)
    }

    /// Every name under which the session of these tokens is remembered once it was signed out: what its wire presents,
    /// its id, and the access token alone, for a client that brings no more than that.
    #[must_use]
    pub fn marks(&self, ending: &Ending) -> Vec<SessionKey> {
        let pair = ending.refresh.as_ref().map(|refresh| {
            let (access, session) = (ending.access.clone(), ending.session.clone());
            self.key(&Pair { refresh: refresh.clone(), access, session })
        });
        let session = ending.session.as_ref().map(|id| self.keys.digest(&["session", id.expose()]));
        let access = ending.access.as_ref().map(|token| self.keys.digest(&["access", token.expose()]));
        [pair, session, access].into_iter().flatten().collect()
    }
}

/// Decides, or says what has to be renewed first. See the table above.
#[must_use]
pub fn judge(
    need: &Need,
    asker: Asker,
    presented: &Presented,
    state: TokenState,
    policy: &Policy,
) -> Judgement {
    match state {
        TokenState::Live(identity, freshness) => judge_live(need, presented, identity, freshness, policy),
        TokenState::Unchecked(fault) => Judgement::Settled(without_answer(need, fault, CookieChange::Keep)),
        TokenState::Absent => judge_dead(need, asker, presented, &Dead::Absent, policy),
        TokenState::Expired(identity) => judge_dead(need, asker, presented, &Dead::Expired(identity), policy),
        TokenState::Invalid(fault) => judge_dead(need, asker, presented, &Dead::Invalid(fault), policy),
    }
}

enum Dead {
    Absent,
    Expired(Identity),
    Invalid(TokenFault),
}

fn judge_live(
    need: &Need,
    presented: &Presented,
    identity: Identity,
    freshness: Freshness,
    policy: &Policy,
) -> Judgement {
    let Some(access) = presented.access.clone() else {
        return Judgement::Settled(without_session(need, LoginReason::NoSession, CookieChange::Keep));
    };
    let change = match &presented.notes {
        KnownNotes::Noted(notes) => CookieChange::Note(Box::new(notes.clone())),
        KnownNotes::None | KnownNotes::Held(_) => CookieChange::Keep,
    };
    if let Some(lacking) = need.require.lacking(&identity) {
        return Judgement::Settled(Verdict::Decline(
            Decline::Forbidden(lacking.to_owned()),
            CookieChange::Keep,
        ));
    }
    let request = match freshness {
        Freshness::Fresh => None,
        Freshness::Due => renewal(presented, Some(&identity), Blind::Refused, policy),
    };
    let ends = identity.expires_at().saturating_add(policy.leeway);
    let verdict = Verdict::Admit(Caller::Known(identity, access), change);
    match request {
        Some(request) => Judgement::Beside(verdict, RenewRequest { access_ends: Some(ends), ..request }),
        None => Judgement::Settled(verdict),
    }
}

fn judge_dead(need: &Need, asker: Asker, presented: &Presented, dead: &Dead, policy: &Policy) -> Judgement {
    let identity = match dead {
        Dead::Expired(identity) => Some(identity),
        Dead::Absent | Dead::Invalid(_) => None,
    };
    let blind = if asker == Asker::Navigation { Blind::Allowed } else { Blind::Refused };
    match renewal(presented, identity, blind, policy) {
        Some(request) => Judgement::Renew(request),
        None => {
            let reason = match dead {
                _ if presented.copies == Copies::Differ => LoginReason::TwoCookies,
                Dead::Absent => LoginReason::NoSession,
                Dead::Expired(_) => LoginReason::Over,
                Dead::Invalid(fault) => LoginReason::BadToken(*fault),
            };
            Judgement::Settled(without_session(need, reason, CookieChange::Keep))
        }
    }
}

/// The renewal that the cookies allow. `None` without a refresh token or without what its wire presents beside it.
fn renewal(
    presented: &Presented,
    who: Option<&Identity>,
    blind: Blind,
    policy: &Policy,
) -> Option<RenewRequest> {
    if policy.mode == RenewMode::Never {
        return None;
    }
    let pair = Sessions::pair(presented, who)?;
    let wire = policy.capabilities;
    // A wire that presents the access token presents a genuine one only: the backend refuses any other.
    if (wire.needs_session && pair.session.is_none()) || (wire.needs_access && who.is_none()) {
        return None;
    }
    let notes = presented.notes.notes();
    Some(RenewRequest {
        key: policy.key(&pair),
        pair,
        family: notes.map(|notes| notes.lineage.family),
        started_at: notes.map(|notes| notes.lineage.started_at),
        subject: who
            .map(|identity| identity.subject().to_owned())
            .or_else(|| notes.and_then(|notes| notes.lineage.subject.clone())),
        blind,
        access_ends: None,
        refresh_expires: notes.and_then(|notes| notes.refresh_expires),
    })
}

/// The second decision: from what a route needs and what came of the renewal of `key` to a verdict.
///
/// | need | outcome | verdict |
/// | --- | --- | --- |
/// | any | renewed | admit, store; requirement unmet: forbidden, store |
/// | optional / required | refused | admit anonymously, clear / login, clear |
/// | optional / required | unavailable | admit anonymously, keep / unavailable, keep |
/// | optional / required | issued but not verifiable | as above, but stored: the old tokens are spent |
/// | optional / required | withheld | admit anonymously, keep / login, keep |
#[must_use]
pub fn settle(need: &Need, key: SessionKey, outcome: RenewOutcome) -> Verdict {
    match outcome {
        RenewOutcome::Renewed(renewed) => {
            let access = renewed.issued.tokens.access.clone();
            let store = CookieChange::Store(Box::new(renewed.issued));
            match need.require.lacking(&renewed.identity) {
                Some(lacking) => Verdict::Decline(Decline::Forbidden(lacking.to_owned()), store),
                None => Verdict::Admit(Caller::Known(renewed.identity, access), store),
            }
        }
        RenewOutcome::Refused(_) => {
            without_session(need, LoginReason::SessionEnded, CookieChange::Clear(key))
        }
        RenewOutcome::Unavailable(fault) => {
            let change = match &fault {
                BackendFault::Unverifiable { issued, .. } => CookieChange::Store(issued.clone()),
                BackendFault::Connect
                | BackendFault::NoDecision { .. }
                | BackendFault::ClientRejected { .. }
                | BackendFault::Lost(_)
                | BackendFault::HeldBack { .. }
                | BackendFault::Slow
                | BackendFault::Busy
                | BackendFault::Internal => CookieChange::Keep,
            };
            without_answer(need, fault, change)
        }
        RenewOutcome::Withheld => without_session(need, LoginReason::Withheld, CookieChange::Keep),
    }
}

fn without_session(need: &Need, reason: LoginReason, change: CookieChange) -> Verdict {
    match need.access {
        Access::Optional => Verdict::Admit(Caller::Anonymous, change),
        Access::Required => Verdict::Decline(Decline::Login(reason), change),
    }
}

fn without_answer(need: &Need, fault: BackendFault, change: CookieChange) -> Verdict {
    match need.access {
        Access::Optional => Verdict::Admit(Caller::Anonymous, change),
        Access::Required => Verdict::Decline(Decline::Unavailable(fault), change),
    }
}

#[cfg(test)]
mod tests;
