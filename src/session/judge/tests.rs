//! The two tables, row by row.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::need::Require;
use crate::outcome::{Ahead, Issued, Lineage, Loss, RefusalReason, Renewed};
use crate::secret::Secret;
use crate::token::{AccessToken, RefreshToken, SessionId, TokenSet};

fn policy() -> Policy {
    Policy {
        capabilities: Capabilities {
            rotates: true,
            needs_session: true,
            needs_access: false,
            revokes_with_live_access: true,
            kills_access: false,
            renews_on_401: false,
            introspects: crate::outcome::Introspects::Never,
            ahead: Ahead::Percent(50),
        },
        mode: RenewMode::Auto,
        keys: SessionKeys::new(&Secret::new(vec![1; 32]), "directory"),
        leeway: Duration::from_secs(5),
    }
}

fn need(access: Access) -> Need {
    Need { access, ..Need::default() }
}

fn admins() -> Require {
    Require::new(vec![("role".into(), vec!["admin".into()])])
}

fn who(role: &str) -> Identity {
    let Value::Object(claims) = json!({"role": role}) else { panic!("an object") };
    Identity::new(
        "ana".into(),
        SessionId::parse("from-token"),
        Some(UnixTime::from_secs(1)),
        UnixTime::from_secs(100),
        claims,
    )
}

/// What the cookies hold: `a`ccess token, `r`efresh token, `s`ession id.
fn cookies(held: &str) -> Presented {
    Presented {
        access: held.contains('a').then(|| AccessToken::parse("A1").expect("a token")),
        refresh: held.contains('r').then(|| RefreshToken::parse("R1").expect("a token")),
        session: held.contains('s').then(|| SessionId::parse("from-cookie").expect("an id")),
        ..Presented::default()
    }
}

fn live(freshness: Freshness) -> TokenState {
    TokenState::Live(who("clerk"), freshness)
}

const BOTH: [Access; 2] = [Access::Optional, Access::Required];

#[test]
fn live_and_fresh_is_admitted_with_or_without_a_refresh_token() {
    for access in BOTH {
        for held in ["ars", "as"] {
            let got = judge(&need(access), Asker::Script, &cookies(held), live(Freshness::Fresh), &policy());
            let Judgement::Settled(Verdict::Admit(Caller::Known(id, _), CookieChange::Keep)) = got else {
                panic!("{got:?}")
            };
            assert_eq!(id.subject(), "ana");
        }
    }
}

#[test]
fn due_without_a_refresh_token_is_admitted_and_nothing_else() {
    let got = judge(&need(Access::Required), Asker::Script, &cookies("as"), live(Freshness::Due), &policy());
    assert!(
        matches!(got, Judgement::Settled(Verdict::Admit(Caller::Known(..), CookieChange::Keep))),
        "{got:?}"
    );
}

#[test]
fn due_with_a_refresh_token_is_admitted_with_a_flight_beside() {
    for access in BOTH {
        let got = judge(&need(access), Asker::Script, &cookies("ars"), live(Freshness::Due), &policy());
        let Judgement::Beside(Verdict::Admit(Caller::Known(..), CookieChange::Keep), request) = got else {
            panic!("{got:?}")
        };
        assert_eq!(request.access_ends, Some(UnixTime::from_secs(105)), "expiry and leeway");
        assert_eq!(request.subject.as_deref(), Some("ana"));
        assert_eq!(
            request.pair.session,
            SessionId::parse("from-token"),
            "the verified token names the session"
        );
    }
}

#[test]
fn an_unmet_requirement_is_forbidden_without_renewal() {
    for access in BOTH {
        for freshness in [Freshness::Fresh, Freshness::Due] {
            let need = Need { access, require: admins(), ..Need::default() };
            let got = judge(&need, Asker::Navigation, &cookies("ars"), live(freshness), &policy());
            let wanted = Verdict::Decline(Decline::Forbidden("role".into()), CookieChange::Keep);
            assert_eq!(got, Judgement::Settled(wanted));
        }
    }
}

#[test]
fn what_is_not_live_is_renewed_where_a_refresh_token_came_with_all_its_wire_presents() {
    let states =
        [TokenState::Absent, TokenState::Expired(who("clerk")), TokenState::Invalid(TokenFault::Signature)];
    for access in BOTH {
        for state in &states {
            let got = judge(&need(access), Asker::Navigation, &cookies("ars"), state.clone(), &policy());
            let Judgement::Renew(request) = got else { panic!("{got:?}") };
            let expired = matches!(state, TokenState::Expired(_));
            assert_eq!(
                request.subject.as_deref(),
                expired.then_some("ana"),
                "never from an unverified token"
            );
            let session = if expired { "from-token" } else { "from-cookie" };
            assert_eq!(request.pair.session, SessionId::parse(session));
            assert_eq!(request.blind, Blind::Allowed);
        }
    }
    let by_script =
        judge(&need(Access::Required), Asker::Script, &cookies("rs"), TokenState::Absent, &policy());
    let Judgement::Renew(request) = by_script else { panic!("{by_script:?}") };
    assert_eq!(request.blind, Blind::Refused);
}

#[test]
fn without_a_refresh_token_or_its_companion_nobody_is_asked() {
    for presented in [cookies("as"), cookies("ar")] {
        for (state, reason) in [
            (TokenState::Absent, LoginReason::NoSession),
            (TokenState::Invalid(TokenFault::Issuer), LoginReason::BadToken(TokenFault::Issuer)),
        ] {
            let got = judge(&need(Access::Required), Asker::Navigation, &presented, state.clone(), &policy());
            let login = Verdict::Decline(Decline::Login(reason), CookieChange::Keep);
            assert_eq!(got, Judgement::Settled(login));
            let got = judge(&need(Access::Optional), Asker::Navigation, &presented, state, &policy());
            assert_eq!(got, Judgement::Settled(Verdict::Admit(Caller::Anonymous, CookieChange::Keep)));
        }
    }
}

#[test]
fn an_expired_token_alone_asks_for_a_login() {
    let got = judge(
        &need(Access::Required),
        Asker::Script,
        &cookies("as"),
        TokenState::Expired(who("clerk")),
        &policy(),
    );
    let login = Verdict::Decline(Decline::Login(LoginReason::Over), CookieChange::Keep);
    assert_eq!(got, Judgement::Settled(login));
}

#[test]
fn what_cannot_be_checked_now_keeps_the_session() {
    let fault = BackendFault::Connect;
    let presented = cookies("ars");
    let state = TokenState::Unchecked(fault.clone());
    let got = judge(&need(Access::Required), Asker::Navigation, &presented, state.clone(), &policy());
    let unavailable = Verdict::Decline(Decline::Unavailable(fault), CookieChange::Keep);
    assert_eq!(got, Judgement::Settled(unavailable));
    let got = judge(&need(Access::Optional), Asker::Navigation, &presented, state, &policy());
    assert_eq!(got, Judgement::Settled(Verdict::Admit(Caller::Anonymous, CookieChange::Keep)));
}

#[test]
fn where_somebody_else_renews_nothing_is_presented() {
    let never = Policy { mode: RenewMode::Never, ..policy() };
    let presented = cookies("ars");
    let got = judge(&need(Access::Required), Asker::Script, &presented, live(Freshness::Due), &never);
    assert!(matches!(got, Judgement::Settled(Verdict::Admit(..))), "{got:?}");
    let expired = TokenState::Expired(who("clerk"));
    let got = judge(&need(Access::Required), Asker::Script, &presented, expired, &never);
    let login = Verdict::Decline(Decline::Login(LoginReason::Over), CookieChange::Keep);
    assert_eq!(got, Judgement::Settled(login));
}

#[test]
fn a_wire_that_presents_the_access_token_presents_a_genuine_one() {
    let mut wire = policy();
    wire.capabilities.needs_access = true;
    let presented = cookies("ars");
    let tampered = TokenState::Invalid(TokenFault::Signature);
    let got = judge(&need(Access::Required), Asker::Navigation, &presented, tampered, &wire);
    assert!(matches!(got, Judgement::Settled(Verdict::Decline(Decline::Login(_), CookieChange::Keep))));
    let expired = TokenState::Expired(who("clerk"));
    let got = judge(&need(Access::Required), Asker::Navigation, &presented, expired, &wire);
    assert!(matches!(got, Judgement::Renew(_)), "{got:?}");
}

const KEY: SessionKey = SessionKey([5; 32]);

fn issued() -> Issued {
    Issued {
        tokens: TokenSet {
            access: AccessToken::parse("A2").expect("a token"),
            refresh: RefreshToken::parse("R2").expect("a token"),
            rotated: true,
            session: None,
            access_expires: None,
            refresh_expires: None,
            received_at: UnixTime::from_secs(50),
        },
        presented: KEY,
        lineage: Lineage { family: KEY, started_at: UnixTime::from_secs(1), subject: None },
    }
}

fn renewed(role: &str) -> RenewOutcome {
    RenewOutcome::Renewed(Renewed { identity: who(role), issued: issued() })
}

fn store() -> CookieChange {
    CookieChange::Store(Box::new(issued()))
}

#[test]
fn renewed_is_admitted_and_stored() {
    for access in BOTH {
        let got = settle(&need(access), KEY, renewed("clerk"));
        let caller = Caller::Known(who("clerk"), AccessToken::parse("A2").expect("a token"));
        assert_eq!(got, Verdict::Admit(caller, store()));
        let got = settle(&Need { access, require: admins(), ..Need::default() }, KEY, renewed("clerk"));
        assert_eq!(got, Verdict::Decline(Decline::Forbidden("role".into()), store()));
    }
}

#[test]
fn refused_ends_the_session_and_only_that_clears() {
    for reason in [RefusalReason::ByBackend, RefusalReason::SubjectChanged, RefusalReason::SignedOut] {
        let got = settle(&need(Access::Required), KEY, RenewOutcome::Refused(reason));
        let ended = Decline::Login(LoginReason::SessionEnded);
        assert_eq!(got, Verdict::Decline(ended, CookieChange::Clear(KEY)));
        let got = settle(&need(Access::Optional), KEY, RenewOutcome::Refused(reason));
        assert_eq!(got, Verdict::Admit(Caller::Anonymous, CookieChange::Clear(KEY)));
    }
}

#[test]
fn no_fault_clears_a_cookie() {
    let faults = [
        BackendFault::Connect,
        BackendFault::NoDecision { status: 500, retry_after: None },
        BackendFault::ClientRejected { status: 401 },
        BackendFault::Lost(Loss::Broken),
        BackendFault::Lost(Loss::Unreadable),
        BackendFault::Lost(Loss::GaveUp),
        BackendFault::HeldBack { until: UnixTime::from_secs(9) },
        BackendFault::Slow,
        BackendFault::Busy,
        BackendFault::Internal,
    ];
    for fault in faults {
        let got = settle(&need(Access::Required), KEY, RenewOutcome::Unavailable(fault.clone()));
        let unavailable = Decline::Unavailable(fault.clone());
        assert_eq!(got, Verdict::Decline(unavailable, CookieChange::Keep));
        let got = settle(&need(Access::Optional), KEY, RenewOutcome::Unavailable(fault));
        assert_eq!(got, Verdict::Admit(Caller::Anonymous, CookieChange::Keep));
    }
}

#[test]
fn issued_but_not_verifiable_is_stored_because_the_old_pair_is_spent() {
    let fault = BackendFault::Unverifiable { fault: TokenFault::Signature, issued: Box::new(issued()) };
    let got = settle(&need(Access::Required), KEY, RenewOutcome::Unavailable(fault.clone()));
    assert_eq!(got, Verdict::Decline(Decline::Unavailable(fault.clone()), store()));
    let got = settle(&need(Access::Optional), KEY, RenewOutcome::Unavailable(fault));
    assert_eq!(got, Verdict::Admit(Caller::Anonymous, store()));
}

#[test]
fn what_does_not_verify_is_not_stored_where_the_old_tokens_are_worth_more() {
    let fault = BackendFault::Unusable { fault: TokenFault::Signature };
    let got = settle(&need(Access::Required), KEY, RenewOutcome::Unavailable(fault.clone()));
    assert_eq!(got, Verdict::Decline(Decline::Unavailable(fault), CookieChange::Keep));
}

#[test]
fn a_wire_that_presents_the_access_token_presents_a_genuine_one_only() {
    let mut policy = policy();
    policy.capabilities.needs_session = false;
    policy.capabilities.needs_access = true;
    for state in [TokenState::Absent, TokenState::Invalid(TokenFault::Signature)] {
        for access in BOTH {
            let got = judge(&need(access), Asker::Navigation, &cookies("ar"), state.clone(), &policy);
            assert!(matches!(got, Judgement::Settled(_)), "{got:?}");
        }
    }
    let expired = TokenState::Expired(who("clerk"));
    let got = judge(&need(Access::Required), Asker::Script, &cookies("ar"), expired, &policy);
    let Judgement::Renew(request) = got else { panic!("{got:?}") };
    let newer = Pair { session: None, ..request.pair };
    let older = Pair { access: AccessToken::parse("A0"), ..newer.clone() };
    assert_ne!(policy.key(&older), policy.key(&newer), "which renewal it is depends on both tokens");
    let marks = |pair: &Pair| policy.marks(&Ending::of(pair.clone(), None));
    let common = marks(&older).into_iter().filter(|mark| marks(&newer).contains(mark)).count();
    assert_eq!(common, 1, "and a sign-out with one is one with the other");
}

#[test]
fn withheld_keeps_the_cookies_and_asks_for_a_page_view() {
    let got = settle(&need(Access::Required), KEY, RenewOutcome::Withheld);
    let login = Decline::Login(LoginReason::Withheld);
    assert_eq!(got, Verdict::Decline(login, CookieChange::Keep));
    let got = settle(&need(Access::Optional), KEY, RenewOutcome::Withheld);
    assert_eq!(got, Verdict::Admit(Caller::Anonymous, CookieChange::Keep));
}

fn stale_need(require: Require) -> Need {
    Need { access: Access::Required, require, stale: Duration::from_secs(60) }
}

/// A request whose access token ended at 100, on a rule that serves such for a minute.
fn stand_in_request(need: &Need, asker: Asker, state: TokenState) -> Option<RenewRequest> {
    match judge(need, asker, &cookies("ars"), state, &policy()) {
        Judgement::Renew(request) => Some(*request),
        Judgement::First(..) | Judgement::Beside(..) | Judgement::Settled(_) => None,
    }
}

fn away() -> Vec<BackendFault> {
    vec![
        BackendFault::Connect,
        BackendFault::NoDecision { status: 500, retry_after: None },
        BackendFault::Lost(Loss::Broken),
        BackendFault::HeldBack { until: UnixTime::from_secs(9) },
        BackendFault::Slow,
        BackendFault::Busy,
        BackendFault::Resting { after: Duration::from_secs(1) },
        BackendFault::ShareAway,
    ]
}

#[test]
fn while_the_backend_is_away_a_token_that_is_over_serves_where_its_rule_says_so_and_so_long() {
    let need = stale_need(Require::default());
    let request = stand_in_request(&need, Asker::Script, TokenState::Expired(who("clerk"))).expect("renew");
    for fault in away() {
        let outcome = RenewOutcome::Unavailable(fault);
        let served = stale(&need, &request, &outcome, UnixTime::from_secs(159));
        let caller = Caller::Known(who("clerk"), AccessToken::parse("A1").expect("a token"));
        assert_eq!(served, Some(Verdict::Admit(caller, CookieChange::Keep)), "{outcome:?}");
        assert_eq!(stale(&need, &request, &outcome, UnixTime::from_secs(160)), None, "its time is over");
    }
}

#[test]
fn nobody_is_served_stale_after_a_decision_or_a_fault_of_our_own() {
    let need = stale_need(Require::default());
    let request = stand_in_request(&need, Asker::Script, TokenState::Expired(who("clerk"))).expect("renew");
    let unverifiable =
        BackendFault::Unverifiable { fault: TokenFault::Signature, issued: Box::new(issued()) };
    for outcome in [
        RenewOutcome::Refused(RefusalReason::ByBackend),
        RenewOutcome::Refused(RefusalReason::SignedOut),
        RenewOutcome::Refused(RefusalReason::SubjectChanged),
        RenewOutcome::Withheld,
        renewed("clerk"),
        RenewOutcome::Unavailable(BackendFault::ClientRejected { status: 401 }),
        RenewOutcome::Unavailable(unverifiable),
        RenewOutcome::Unavailable(BackendFault::Internal),
    ] {
        assert_eq!(stale(&need, &request, &outcome, UnixTime::from_secs(101)), None, "{outcome:?}");
    }
}

#[test]
fn only_a_token_that_verifies_but_for_its_expiry_serves_stale() {
    let stands = stale_need(Require::default());
    let states = [
        TokenState::Absent,
        TokenState::Invalid(TokenFault::Inactive),
        TokenState::Invalid(TokenFault::Signature),
    ];
    for state in states {
        let request = stand_in_request(&stands, Asker::Navigation, state.clone()).expect("renew");
        assert_eq!(request.stale, None, "{state:?}");
    }
    let expired = || TokenState::Expired(who("clerk"));
    let usual = need(Access::Required);
    let by_default = stand_in_request(&usual, Asker::Script, expired());
    assert_eq!(by_default.expect("renew").stale, None, "the rule does not say so");
    let tunnel = stand_in_request(&stands, Asker::WebSocket, expired());
    assert_eq!(tunnel.expect("renew").stale, None, "a tunnel would outlive it");
}

#[test]
fn stale_or_not_what_a_rule_requires_it_requires() {
    let need = stale_need(admins());
    let request = stand_in_request(&need, Asker::Script, TokenState::Expired(who("clerk"))).expect("renew");
    let outcome = RenewOutcome::Unavailable(BackendFault::Connect);
    let forbidden = Verdict::Decline(Decline::Forbidden("role".into()), CookieChange::Keep);
    assert_eq!(stale(&need, &request, &outcome, UnixTime::from_secs(101)), Some(forbidden));
}

#[test]
fn where_a_renewal_ends_the_old_token_a_due_one_is_renewed_first() {
    let mut wire = policy();
    wire.capabilities.kills_access = true;
    let asked = |wire: &Policy| {
        judge(&need(Access::Required), Asker::Script, &cookies("ars"), live(Freshness::Due), wire)
    };
    let Judgement::First(verdict, request) = asked(&wire) else { panic!("renewed first") };
    let Judgement::Beside(beside, same) = asked(&policy()) else { panic!("renewed beside") };
    assert_eq!((verdict, request.access_ends), (beside, same.access_ends));
    let fresh = judge(&need(Access::Required), Asker::Script, &cookies("ars"), live(Freshness::Fresh), &wire);
    assert!(matches!(fresh, Judgement::Settled(_)));
}
