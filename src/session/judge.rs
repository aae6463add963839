//! The first decision: from what a route needs and what a client presented to a verdict, or to a renewal.
//! In: need, asker, cookies, token state, policy. Out: [`Judgement`]. Errors: none. I/O: none; it never waits.
//!
//! | need | token state | refresh token | judgement |
//! | --- | --- | --- | --- |
//! | any | live and fresh, or due without a refresh token | any | admit, cookies kept |
//! | any | live and due | present | admit, with a flight beside, or renew first where that ends the old token |
//! | any | live, requirement unmet | any | forbidden, cookies kept, no renewal |
//! | any | absent, expired, invalid | present with all its wire presents | renew |
//! | optional | absent, expired, invalid | none, or not all of it | admit anonymously, cookies kept |
//! | required | absent, expired, invalid | none, or not all of it | login, cookies kept; the backend is not asked |
//! | optional / required | not checkable now | any | admit anonymously / unavailable, cookies kept |

use crate::asker::Asker;
use crate::clock::UnixTime;
use crate::identity::Identity;
use crate::need::{Access, Need};
use crate::network::Network;
use crate::outcome::{
    BackendFault, Capabilities, Freshness, RenewOutcome, SessionKey, TokenFault, TokenState,
};
use crate::session::Sessions;
use crate::session::cookies::{Copies, KnownNotes, Presented};
use crate::session::seal::SessionKeys;
use crate::token::{AccessToken, Ending, Pair, RefreshToken};
use crate::verdict::{Caller, CookieChange, Decline, LoginReason, Verdict};

/// What [`judge`] says.
#[derive(Clone, Debug, PartialEq)]
pub enum Judgement {
    /// Decided.
    Settled(Verdict),
    /// Decided, and a renewal goes on beside the request.
    Beside(Verdict, Box<RenewRequest>),
    /// Decided, but a renewal would end the token: it is made first, and where nothing comes of it the decision stands.
    First(Verdict, Box<RenewRequest>),
    /// Not decided before a renewal.
    Renew(Box<RenewRequest>),
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
    /// The network of the client that asks.
    pub network: Network,
    /// Who is served although their access token is over, should the backend be away.
    pub stale: Option<Box<Stale>>,
}

/// Somebody whose access token verifies but for its expiry, on a rule that serves such while the backend is away.
#[derive(Clone, Debug, PartialEq)]
pub struct Stale {
    /// Who it is.
    pub identity: Identity,
    /// The access token.
    pub access: AccessToken,
    /// Until when.
    pub until: UnixTime,
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
        self.keys.of(pair, &self.capabilities)
    }

    /// Every name under which the session of these tokens is remembered once it was signed out: what its wire presents,
    /// the access token alone, for a client that brings no more than that, and its id where the wire presents one. Elsewhere
    /// an id may be that of a sign-on which outlives this session, and comes back with the next.
    #[must_use]
    pub fn marks(&self, ending: &Ending) -> Vec<SessionKey> {
        let pair = ending.refresh.as_ref().map(|refresh| {
            let (access, session) = (ending.access.clone(), ending.session.clone());
            self.key(&Pair { refresh: refresh.clone(), access, session })
        });
        let refresh = ending.refresh.as_ref().and_then(|refresh| self.refresh_mark(refresh));
        let session = ending.session.as_ref().filter(|_| self.capabilities.needs_session);
        let session = session.map(|id| self.keys.digest(&["session", id.expose()]));
        let access = ending.access.as_ref().map(|token| self.keys.digest(&["access", token.expose()]));
        [pair, refresh, session, access].into_iter().flatten().collect()
    }

    /// The name of a refresh token alone, where the key of a pair also depends on its access token: an older access token
    /// of a signed-out session would renew it.
    #[must_use]
    pub fn refresh_mark(&self, refresh: &RefreshToken) -> Option<SessionKey> {
        self.capabilities.needs_access.then(|| self.keys.digest(&["refresh", refresh.expose()]))
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
    let ends = identity.expires_at().map(|end| end.saturating_add(policy.leeway));
    let verdict = Verdict::Admit(Caller::Known(identity, access), change);
    match request {
        Some(request) => {
            let request = Box::new(RenewRequest { access_ends: ends, ..request });
            if policy.capabilities.kills_access {
                Judgement::First(verdict, request)
            } else {
                Judgement::Beside(verdict, request)
            }
        }
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
        Some(request) => {
            let stale = stand_in(need, asker, presented, identity);
            Judgement::Renew(Box::new(RenewRequest { stale, ..request }))
        }
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

/// Who is served on an access token that is over, should the backend be away. A tunnel outlives every answer, so nobody
/// opens one so.
fn stand_in(need: &Need, asker: Asker, presented: &Presented, who: Option<&Identity>) -> Option<Box<Stale>> {
    if need.stale.is_zero() || asker == Asker::WebSocket {
        return None;
    }
    let (identity, access) = who.cloned().zip(presented.access.clone())?;
    let until = identity.expires_at()?.saturating_add(need.stale);
    Some(Box::new(Stale { identity, access, until }))
}

/// The renewal of a session whose token lives, because somebody refuses it.
#[must_use]
pub fn live_renewal(presented: &Presented, who: &Identity, policy: &Policy) -> Option<RenewRequest> {
    let request = renewal(presented, Some(who), Blind::Refused, policy)?;
    Some(RenewRequest {
        access_ends: who.expires_at().map(|end| end.saturating_add(policy.leeway)),
        ..request
    })
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
        network: presented.network,
        stale: None,
    })
}

/// The second decision: from what a route needs and what came of the renewal of `key` to a verdict.
///
/// | need | outcome | verdict |
/// | --- | --- | --- |
/// | any | renewed | admit, store; requirement unmet: forbidden, store |
/// | optional / required | refused | admit anonymously, clear / login, clear |
/// | optional / required | unavailable | admit anonymously, keep / unavailable, keep |
/// | optional / required | issued but not verifiable | as above, but stored where the refresh token is new: the old one is spent |
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
                BackendFault::Unusable { .. }
                | BackendFault::Connect
                | BackendFault::NoDecision { .. }
                | BackendFault::ClientRejected { .. }
                | BackendFault::Lost(_)
                | BackendFault::HeldBack { .. }
                | BackendFault::Slow
                | BackendFault::Busy
                | BackendFault::Resting { .. }
                | BackendFault::ShareAway
                | BackendFault::Internal => CookieChange::Keep,
            };
            without_answer(need, fault, change)
        }
        RenewOutcome::Withheld => without_session(need, LoginReason::Withheld, CookieChange::Keep),
    }
}

/// Before the second decision: whom a rule serves although the access token is over, while the backend is away. It sets no
/// cookie, and the method does not matter: the rule says for which paths it is right.
///
/// | outcome | stand-in of the request | verdict |
/// | --- | --- | --- |
/// | renewed, refused, withheld | any | none: [`settle`] decides |
/// | unavailable: our own settings or faults, tokens that do not verify | any | none |
/// | unavailable: no answer, no decision, lost, held back, too slow, too many, spared, share away | none, or its time is over | none |
/// | the same | there, requirement met | admit, cookies kept |
/// | the same | there, requirement unmet | forbidden, cookies kept |
#[must_use]
pub fn stale(need: &Need, request: &RenewRequest, outcome: &RenewOutcome, now: UnixTime) -> Option<Verdict> {
    let away = match outcome {
        RenewOutcome::Unavailable(fault) => match fault {
            BackendFault::Connect
            | BackendFault::NoDecision { .. }
            | BackendFault::Lost(_)
            | BackendFault::HeldBack { .. }
            | BackendFault::Slow
            | BackendFault::Busy
            | BackendFault::Resting { .. }
            | BackendFault::ShareAway => true,
            BackendFault::ClientRejected { .. }
            | BackendFault::Unusable { .. }
            | BackendFault::Unverifiable { .. }
            | BackendFault::Internal => false,
        },
        RenewOutcome::Renewed(_) | RenewOutcome::Refused(_) | RenewOutcome::Withheld => false,
    };
    let Stale { identity, access, .. } =
        request.stale.as_deref().filter(|stale| away && now < stale.until)?;
    Some(match need.require.lacking(identity) {
        Some(lacking) => Verdict::Decline(Decline::Forbidden(lacking.to_owned()), CookieChange::Keep),
        None => Verdict::Admit(Caller::Known(identity.clone(), access.clone()), CookieChange::Keep),
    })
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
