//! Interleavings: who presents what, when, and what is left when somebody hangs up, an answer is lost, or time passes.

use std::collections::VecDeque;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;
use tokio::sync::Notify;

use super::*;
use crate::admit::AdmitRules;
use crate::admit::buckets::BucketRules;
use crate::backend::{Reply, SignIn};
use crate::clock::ManualClock;
use crate::identity::Identity;
use crate::network::Network;
use crate::outcome::{Ahead, Capabilities, Freshness, TokenState};
use crate::outcome::{Answer, Loss, Revocation};
use crate::secret::Secret;
use crate::session::carrier::{Carrier, CookieSettings};
use crate::session::cookies::{CookieNames, Presented};
use crate::session::drill::Drills;
use crate::session::judge::{Policy, RenewMode};
use crate::session::keys::VerificationKey;
use crate::session::seal::{Sealer, SessionKeys};
use crate::session::verifier::{Supply, TokenRules, Verifier};
use crate::token::{AccessToken, Credentials, Ending, TokenSet};
use crate::token::{RefreshToken, SessionId};

const START: u64 = 1_800_000_000;
pub(super) const KEY: &[u8] = b"the key of the tests, long enough for HS256";
const LIFE: u64 = 60;

/// A backend that rotates and ends a session at the second presentation of a token, with faults on order.
#[derive(Debug)]
struct Rotating {
    clock: Arc<ManualClock>,
    state: Mutex<State>,
    /// Held back until told.
    gate: Notify,
    /// The same for ends of sessions.
    revoking: Notify,
}

#[derive(Debug, Default)]
struct State {
    presented: Vec<String>,
    revoked: Vec<String>,
    current: u32,
    ended: bool,
    faults: VecDeque<Fault>,
    gated: bool,
    slow_to_revoke: bool,
    subject: Option<&'static str>,
    session: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The token is spent, the answer does not arrive.
    SpentAndLost(Loss),
    /// Nothing happens at the backend.
    Only(&'static str),
    /// Tokens that do not verify.
    BadToken,
    Panic,
}

impl Rotating {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    fn access(&self, n: u32, subject: &str) -> String {
        access(n, subject, self.clock.now().as_secs())
    }

    async fn answer(&self, pair: &Pair) -> Answer {
        let (fault, gated) = {
            let mut state = self.state();
            state.presented.push(pair.refresh.expose().to_owned());
            (state.faults.pop_front(), state.gated)
        };
        if gated {
            self.gate.notified().await;
        }
        match fault {
            Some(Fault::Only("connect")) => return Answer::Unavailable(BackendFault::Connect),
            Some(Fault::Only("500")) => return no_decision(500, None),
            Some(Fault::Only("429")) => return no_decision(429, Some(4)),
            Some(Fault::Only("silence")) => return std::future::pending().await,
            Some(Fault::Only(other)) => panic!("no such fault: {other}"),
            Some(Fault::Panic) => panic!("on order"),
            Some(Fault::SpentAndLost(_) | Fault::BadToken) | None => {}
        }
        let mut state = self.state();
        if state.ended || pair.refresh.expose() != format!("R{}", state.current) {
            state.ended = true;
            return Answer::Refused(RefusalReason::ByBackend);
        }
        state.current += 1;
        let (n, subject) = (state.current, state.subject.unwrap_or("ana"));
        if let Some(Fault::SpentAndLost(loss)) = fault {
            return Answer::Unavailable(BackendFault::Lost(loss));
        }
        let token = match fault {
            Some(Fault::BadToken) => format!("{}x", self.access(n, subject)),
            Some(_) | None => self.access(n, subject),
        };
        Answer::Issued(TokenSet {
            access: AccessToken::parse(&token).expect("a token"),
            refresh: RefreshToken::parse(&format!("R{n}")).expect("a token"),
            rotated: true,
            session: SessionId::parse(state.session.unwrap_or("s1")),
            access_expires: None,
            refresh_expires: Some(self.clock.now().saturating_add(Duration::from_secs(3600))),
            received_at: self.clock.now(),
        })
    }
}

impl SessionBackend for Rotating {
    fn capabilities(&self) -> Capabilities {
        crate::backend::directory::Directory::CAPABILITIES
    }

    fn renew<'a>(&'a self, pair: &'a Pair) -> Reply<'a, Answer> {
        Box::pin(self.answer(pair))
    }

    fn revoke<'a>(&'a self, ending: &'a Ending) -> Reply<'a, Revocation> {
        let refresh = ending.refresh.as_ref().map(|token| token.expose().to_owned());
        Box::pin(async move {
            if self.state().slow_to_revoke {
                self.revoking.notified().await;
            }
            let mut state = self.state();
            state.revoked.extend(refresh);
            state.ended = true;
            Revocation::Ended
        })
    }

    /// Hands out the current pair, the same again where nothing happened in between.
    fn sign_in<'a>(&'a self, credentials: &'a Credentials) -> Reply<'a, SignIn> {
        let mut state = self.state();
        let fault = state.faults.pop_front();
        let (n, subject) = (state.current, state.subject.unwrap_or("ana"));
        let token = access(n, subject, START);
        let token = if let Some(Fault::BadToken) = fault { format!("{token}x") } else { token };
        let tokens = TokenSet {
            access: AccessToken::parse(&token).expect("a token"),
            refresh: RefreshToken::parse(&format!("R{n}")).expect("a token"),
            rotated: true,
            session: None,
            access_expires: None,
            refresh_expires: Some(self.clock.now().saturating_add(Duration::from_secs(3600))),
            received_at: self.clock.now(),
        };
        let known = credentials.user == "ana";
        if known {
            state.ended = false;
        }
        Box::pin(async move {
            match fault {
                Some(Fault::Only("silence")) => std::future::pending().await,
                Some(Fault::Only(_)) => SignIn::Unavailable(BackendFault::Connect),
                Some(_) | None if known => SignIn::Issued(tokens),
                Some(_) | None => SignIn::Refused,
            }
        })
    }
}

fn no_decision(status: u16, retry_after: Option<u64>) -> Answer {
    let retry_after = retry_after.map(Duration::from_secs);
    Answer::Unavailable(BackendFault::NoDecision { status, retry_after })
}

fn access(n: u32, subject: &str, now: u64) -> String {
    let claims = json!({"userId": subject, "sessionId": "s1", "iat": now, "exp": now + LIFE, "n": n});
    encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(KEY)).expect("signed")
}

struct House {
    backend: Arc<Rotating>,
    renewer: Renewer,
    sessions: Arc<Sessions>,
    clock: Arc<ManualClock>,
    meters: Arc<Meters>,
}

fn house() -> House {
    house_with(None)
}

pub(super) fn rules() -> TokenRules {
    TokenRules {
        keys: vec![VerificationKey::secret(Algorithm::HS256, KEY).expect("a secret")],
        algorithms: vec![Algorithm::HS256],
        supply: Supply::Fixed,
        issuer: None,
        audience: Vec::new(),
        leeway: Duration::ZERO,
        subject: "userId".into(),
        session: Some("sessionId".into()),
        expiry: None,
        max_size: 4096,
        cache: 1 << 20,
    }
}

pub(super) fn cookies() -> CookieSettings {
    let names = CookieNames {
        signature: None,
        access: "a".into(),
        refresh: "r".into(),
        session: Some("s".into()),
        notes: "n".into(),
        returns: "t".into(),
    };
    CookieSettings {
        names,
        domain: None,
        secure: true,
        same_site: cookie::SameSite::Lax,
        refresh_life: Duration::from_secs(3600),
    }
}

fn settings(state_dir: Option<PathBuf>) -> RenewSettings {
    RenewSettings {
        timeout: Duration::from_secs(5),
        give_up: Duration::from_secs(30),
        replay: Duration::from_secs(60),
        attach: Duration::from_millis(250),
        undelivered: Duration::from_secs(24 * 3600),
        memory: 1 << 20,
        state_dir,
        share: None,
        admission: AdmitRules::default(),
    }
}

fn house_with(state_dir: Option<PathBuf>) -> House {
    let clock = Arc::new(ManualClock::at(UnixTime::from_secs(START)));
    let secret = Secret::new(vec![3; 32]);
    let sessions = Arc::new(Sessions {
        carrier: Carrier::new(cookies(), Sealer::new(std::slice::from_ref(&secret))),
        policy: Policy {
            capabilities: crate::backend::directory::Directory::CAPABILITIES,
            mode: RenewMode::Auto,
            keys: SessionKeys::new(&secret, "directory"),
            leeway: Duration::ZERO,
        },
        ahead: Ahead::Percent(50),
        drills: Drills::default(),
    });
    let backend = Arc::new(Rotating {
        clock: Arc::clone(&clock),
        state: Mutex::default(),
        gate: Notify::new(),
        revoking: Notify::new(),
    });
    let meters = Arc::new(Meters::new());
    let renewer = Renewer::new(
        settings(state_dir),
        (
            Arc::clone(&backend) as Arc<dyn SessionBackend>,
            Arc::new(Checker::Signed(Arc::new(Verifier::new(rules())))),
        ),
        Arc::clone(&sessions),
        Arc::clone(&clock) as Arc<dyn Clock>,
        Arc::clone(&meters),
    );
    House { backend, renewer, sessions, clock, meters }
}

impl House {
    /// Another renewer in the same house.
    fn renewer_with(&self, settings: RenewSettings) -> Renewer {
        Renewer::new(
            settings,
            (
                Arc::clone(&self.backend) as Arc<dyn SessionBackend>,
                Arc::new(Checker::Signed(Arc::new(Verifier::new(rules())))),
            ),
            Arc::clone(&self.sessions),
            Arc::clone(&self.clock) as Arc<dyn Clock>,
            Arc::clone(&self.meters),
        )
    }

    /// A browser that holds pair `n` asks for its renewal. Its access token is `n`'s, made when time began.
    fn request(&self, n: u32) -> RenewRequest {
        let pair = Pair {
            refresh: RefreshToken::parse(&format!("R{n}")).expect("a token"),
            access: AccessToken::parse(&access(n, "ana", START)),
            session: SessionId::parse("s1"),
        };
        RenewRequest {
            key: self.sessions.policy.key(&pair),
            pair,
            family: None,
            started_at: None,
            subject: Some("ana".into()),
            blind: Blind::Refused,
            access_ends: None,
            refresh_expires: None,
            network: Network::None,
            stale: None,
        }
    }

    /// The same while its access token still lives.
    fn early(&self, n: u32) -> RenewRequest {
        RenewRequest { access_ends: Some(UnixTime::from_secs(START + LIFE)), ..self.request(n) }
    }

    fn presented(&self) -> Vec<String> {
        self.backend.state().presented.clone()
    }

    fn order(&self, fault: Fault) {
        self.backend.state().faults.push_back(fault);
    }

    fn later(&self, secs: u64) {
        self.clock.advance(Duration::from_secs(secs));
    }
}

/// The refresh token that a renewal brought.
fn brought(outcome: &RenewOutcome) -> &str {
    match outcome {
        RenewOutcome::Renewed(renewed) => renewed.issued.tokens.refresh.expose(),
        RenewOutcome::Refused(_) | RenewOutcome::Unavailable(_) | RenewOutcome::Withheld => {
            panic!("not renewed: {outcome:?}")
        }
    }
}

fn fault(outcome: &RenewOutcome) -> &BackendFault {
    match outcome {
        RenewOutcome::Unavailable(fault) => fault,
        RenewOutcome::Renewed(_) | RenewOutcome::Refused(_) | RenewOutcome::Withheld => {
            panic!("not unavailable: {outcome:?}")
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_askers_present_one_token_once() {
    let house = house();
    house.backend.state().gated = true;
    let request = house.request(0);
    let askers: Vec<_> = (0..100)
        .map(|_| {
            let (renewer, request) = (house.renewer.clone(), request.clone());
            house.renewer.0.tasks.spawn(async move { renewer.renew(&request).await })
        })
        .collect();
    tokio::task::yield_now().await;
    house.backend.gate.notify_one();
    for asker in askers {
        assert_eq!(brought(&asker.await.expect("no panic")), "R1");
    }
    assert_eq!(house.presented(), ["R0"]);
}

#[tokio::test(start_paused = true)]
async fn an_asker_that_hangs_up_stops_nothing() {
    let house = house();
    house.backend.state().gated = true;
    let request = house.request(0);
    let hung_up = tokio::time::timeout(Duration::from_millis(1), house.renewer.renew(&request)).await;
    assert!(hung_up.is_err());
    house.backend.gate.notify_one();
    assert_eq!(brought(&house.renewer.renew(&request).await), "R1");
    assert_eq!(house.presented(), ["R0"]);
}

#[tokio::test(start_paused = true)]
async fn what_no_browser_took_is_there_twenty_minutes_later() {
    let house = house();
    assert_eq!(brought(&house.renewer.renew(&house.request(0)).await), "R1");
    house.later(20 * 60);
    // Its access token is over by then: the newest pair is presented, not the old one.
    assert_eq!(brought(&house.renewer.renew(&house.request(0)).await), "R2");
    assert_eq!(house.presented(), ["R0", "R1"]);
    assert_eq!(brought(&house.renewer.renew(&house.request(0)).await), "R2", "and it is repeated");
    assert_eq!(house.presented(), ["R0", "R1"]);
}

#[tokio::test(start_paused = true)]
async fn a_client_waits_no_longer_than_the_limit_and_the_flight_goes_on() {
    let house = house();
    house.backend.state().gated = true;
    let request = house.request(0);
    assert_eq!(*fault(&house.renewer.renew(&request).await), BackendFault::Slow);
    house.backend.gate.notify_one();
    assert_eq!(brought(&house.renewer.renew(&request).await), "R1");
    assert_eq!(house.presented(), ["R0"]);
}

#[tokio::test(start_paused = true)]
async fn without_a_connection_nothing_was_presented_and_the_next_request_tries() {
    for kind in ["connect", "500"] {
        let house = house();
        house.order(Fault::Only(kind));
        fault(&house.renewer.renew(&house.request(0)).await);
        assert_eq!(brought(&house.renewer.renew(&house.request(0)).await), "R1", "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_asked_for_once_more_and_then_every_half_minute() {
    let house = house();
    for _ in 0..3 {
        house.order(Fault::Only("silence"));
    }
    assert_eq!(*fault(&house.renewer.renew(&house.request(0)).await), BackendFault::Slow);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(house.presented().len(), 1);
    // The access token is over, so one more presentation is due at once …
    fault(&house.renewer.renew(&house.request(0)).await);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(house.presented().len(), 2);
    // … and no other within half a minute, however many ask.
    for _ in 0..10 {
        assert!(matches!(
            fault(&house.renewer.renew(&house.request(0)).await),
            BackendFault::HeldBack { .. }
        ));
    }
    house.later(29);
    assert!(matches!(fault(&house.renewer.renew(&house.request(0)).await), BackendFault::HeldBack { .. }));
    assert_eq!(house.presented().len(), 2);
    house.later(1);
    fault(&house.renewer.renew(&house.request(0)).await);
    assert_eq!(house.presented().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_early_renewal_whose_answer_is_lost_waits_for_the_end_of_the_access_token() {
    let house = house();
    house.order(Fault::SpentAndLost(Loss::Broken));
    let Beside::Started(flight) = house.renewer.beside(&house.early(0)).await else { panic!("started") };
    assert!(house.renewer.attached(flight).await.is_none());
    for _ in 0..5 {
        assert!(matches!(house.renewer.beside(&house.early(0)).await, Beside::Nothing));
    }
    house.later(LIFE - 1);
    assert!(matches!(house.renewer.beside(&house.early(0)).await, Beside::Nothing));
    assert_eq!(house.presented().len(), 1);
    house.later(1);
    let outcome = house.renewer.renew(&house.request(0)).await;
    assert!(matches!(outcome, RenewOutcome::Refused(_)), "this backend ends the session then: {outcome:?}");
    assert_eq!(house.presented().len(), 2);
    assert_eq!(house.meters.lost_answers.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_remembered_and_nothing_is_presented_twice() {
    let house = house();
    house.backend.state().ended = true;
    for _ in 0..3 {
        let outcome = house.renewer.renew(&house.request(0)).await;
        assert!(matches!(outcome, RenewOutcome::Refused(RefusalReason::ByBackend)), "{outcome:?}");
    }
    assert_eq!(house.presented().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_early_refusal_outlasts_the_access_token() {
    let house = house();
    house.backend.state().ended = true;
    let long = RenewRequest { access_ends: Some(UnixTime::from_secs(START + 7200)), ..house.request(0) };
    let Beside::Started(flight) = house.renewer.beside(&long).await else { panic!("started") };
    assert!(house.renewer.attached(flight).await.is_none());
    house.later(7200);
    assert!(matches!(house.renewer.renew(&house.request(0)).await, RenewOutcome::Refused(_)));
    assert_eq!(house.presented().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_early_renewal_reaches_the_one_who_started_it_and_then_the_next_answer() {
    let house = house();
    let Beside::Started(flight) = house.renewer.beside(&house.early(0)).await else { panic!("started") };
    assert!(
        matches!(house.renewer.beside(&house.early(0)).await, Beside::Nothing),
        "another request holds nothing"
    );
    let issued = house.renewer.attached(flight).await.expect("in time");
    assert_eq!(issued.tokens.refresh.expose(), "R1");
    let Beside::Ready(issued) = house.renewer.beside(&house.early(0)).await else { panic!("there already") };
    assert_eq!(issued.tokens.refresh.expose(), "R1");
    assert_eq!(house.presented().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_not_held_longer_than_attach() {
    let house = house();
    house.backend.state().gated = true;
    let Beside::Started(flight) = house.renewer.beside(&house.early(0)).await else { panic!("started") };
    let attached = house.renewer.attached(flight);
    tokio::pin!(attached);
    let just_before = tokio::time::timeout(Duration::from_millis(249), attached.as_mut()).await;
    assert!(just_before.is_err(), "held for attach");
    let at_its_end = tokio::time::timeout(Duration::from_millis(1), attached).await;
    assert!(matches!(at_its_end, Ok(None)), "and no longer");
}

#[tokio::test(start_paused = true)]
async fn another_subject_is_refused_and_what_was_issued_is_revoked() {
    let house = house();
    house.backend.state().subject = Some("eve");
    let outcome = house.renewer.renew(&house.request(0)).await;
    assert!(matches!(outcome, RenewOutcome::Refused(RefusalReason::SubjectChanged)), "{outcome:?}");
    assert_eq!(house.backend.state().revoked, ["R1"]);
}

#[tokio::test(start_paused = true)]
async fn whose_session_it_is_must_be_known_or_seen_by_a_person() {
    let house = house();
    let nobody = RenewRequest { subject: None, ..house.request(0) };
    assert!(matches!(house.renewer.renew(&nobody).await, RenewOutcome::Withheld));
    assert_eq!(house.presented().len(), 0);
    let by_page = RenewRequest { blind: Blind::Allowed, ..nobody.clone() };
    assert_eq!(brought(&house.renewer.renew(&by_page).await), "R1");
    // From here on the chain tells who it is.
    let next = RenewRequest { subject: None, ..house.request(1) };
    house.later(LIFE + 1);
    assert_eq!(brought(&house.renewer.renew(&next).await), "R2");
    house.later(LIFE + 1);
    house.backend.state().subject = Some("eve");
    let next = RenewRequest { subject: None, ..house.request(2) };
    assert!(matches!(house.renewer.renew(&next).await, RenewOutcome::Refused(RefusalReason::SubjectChanged)));
}

#[tokio::test(start_paused = true)]
async fn tokens_that_do_not_verify_are_kept_because_the_old_ones_are_spent() {
    let house = house();
    house.order(Fault::BadToken);
    let outcome = house.renewer.renew(&house.request(0)).await;
    let BackendFault::Unverifiable { issued, .. } = fault(&outcome) else { panic!("{outcome:?}") };
    assert_eq!(issued.tokens.refresh.expose(), "R1");
    // Whoever still holds the old pair is given the same, and nothing is presented twice.
    let outcome = house.renewer.renew(&house.request(0)).await;
    assert!(matches!(fault(&outcome), BackendFault::Unverifiable { .. }));
    assert_eq!(house.presented(), ["R0"]);
    assert_eq!(brought(&house.renewer.renew(&house.request(1)).await), "R2");
}

#[tokio::test(start_paused = true)]
async fn cookies_are_always_the_newest_when_the_head_is_written() {
    let house = house();
    let RenewOutcome::Renewed(first) = house.renewer.renew(&house.request(0)).await else {
        panic!("renewed")
    };
    house.later(LIFE + 1);
    assert_eq!(brought(&house.renewer.renew(&house.request(1)).await), "R2");
    let late = CookieChange::Store(Box::new(first.issued));
    let CookieChange::Store(stored) = house.renewer.at_head(late, Asker::Script) else { panic!("stored") };
    assert_eq!(stored.tokens.refresh.expose(), "R2");
}

#[tokio::test(start_paused = true)]
async fn only_the_first_answer_or_a_page_deletes_cookies() {
    let house = house();
    house.backend.state().ended = true;
    let request = house.request(0);
    house.renewer.renew(&request).await;
    let clear = || CookieChange::Clear(request.key);
    assert_eq!(house.renewer.at_head(clear(), Asker::Script), clear(), "the first");
    assert_eq!(house.renewer.at_head(clear(), Asker::Script), CookieChange::Keep, "a late one");
    assert_eq!(house.renewer.at_head(clear(), Asker::Navigation), clear(), "a page");
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_deletes_nothing_and_the_next_one_does() {
    let house = house();
    house.backend.state().ended = true;
    let request = house.request(0);
    house.renewer.renew(&request).await;
    let clear = || CookieChange::Clear(request.key);
    let decided_at = house.clock.now();
    assert_eq!(house.renewer.newest_at_head(clear(), decided_at).await, clear(), "at once");
    house.later(JUST_NOW.as_secs());
    let late = house.renewer.newest_at_head(clear(), decided_at).await;
    assert_eq!(late, CookieChange::Keep, "somebody may have signed in meanwhile");
    let next = house.renewer.newest_at_head(clear(), house.clock.now()).await;
    assert_eq!(house.renewer.at_head(next, Asker::Script), clear(), "the first answer that tells");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_took_very_long_sets_nothing_and_nothing_is_lost_with_it() {
    let house = house();
    let RenewOutcome::Renewed(renewed) = house.renewer.renew(&house.request(0)).await else {
        panic!("renewed")
    };
    let (change, decided_at) = (CookieChange::Store(Box::new(renewed.issued)), house.clock.now());
    house.later(59);
    assert_eq!(house.renewer.newest_at_head(change.clone(), decided_at).await, change);
    house.later(1);
    assert_eq!(house.renewer.newest_at_head(change, decided_at).await, CookieChange::Keep);
    assert_eq!(brought(&house.renewer.renew(&house.request(0)).await), "R2", "by the one that was kept");
    assert_eq!(house.presented(), ["R0", "R1"]);
}

/// Signs in, and comes back as the browser then would.
async fn signed_in(house: &House) -> (Issued, RenewRequest) {
    let credentials =
        Credentials { user: "ana".into(), password: Secret::new("p".into()), further: Vec::new() };
    match house.renewer.sign_in(&credentials, Duration::from_secs(5)).await {
        SignedIn::As(renewed) => {
            let pair = renewed.issued.tokens.pair();
            let request = RenewRequest {
                key: house.sessions.policy.key(&pair),
                pair,
                family: Some(renewed.issued.lineage.family),
                started_at: Some(renewed.issued.lineage.started_at),
                subject: renewed.issued.lineage.subject.clone(),
                blind: Blind::Refused,
                access_ends: None,
                refresh_expires: renewed.issued.tokens.refresh_expires,
                network: Network::None,
                stale: None,
            };
            (renewed.issued, request)
        }
        other @ (SignedIn::Refused | SignedIn::Unavailable(_) | SignedIn::Unverifiable(_)) => {
            panic!("not signed in: {other:?}")
        }
    }
}

fn marks(house: &House, request: &RenewRequest) -> Vec<SessionKey> {
    let marks = house.sessions.policy.marks(&Ending::of(request.pair.clone(), None));
    marks.into_iter().chain(request.family).collect()
}

#[tokio::test(start_paused = true)]
async fn each_sign_in_is_a_family_of_its_own_whatever_is_handed_out() {
    let house = house();
    let ((first, _), (second, request)) = (signed_in(&house).await, signed_in(&house).await);
    assert_eq!(first.tokens, second.tokens, "the backend hands out the same pair");
    assert_ne!(first.lineage.family, second.lineage.family);
    assert_eq!(second.tokens.session, SessionId::parse("s1"), "the id that the token names");
    assert!(matches!(house.renewer.renew(&request).await, RenewOutcome::Renewed(_)));
}

#[tokio::test(start_paused = true)]
async fn a_pair_that_was_signed_out_is_good_again_once_it_is_handed_out_anew() {
    let house = house();
    let (_, old) = signed_in(&house).await;
    assert_eq!(house.renewer.sign_out(old.clone(), Liveness::Live).await, Revocation::Ended);
    assert!(house.renewer.signed_out(&marks(&house, &old)).is_some());
    let (_, new) = signed_in(&house).await;
    assert_eq!(new.key, old.key, "the very pair");
    assert_eq!(house.renewer.signed_out(&marks(&house, &new)), None);
    assert_eq!(house.renewer.signed_out(&marks(&house, &old)), old.family, "its old family stays signed out");
    assert!(matches!(house.renewer.renew(&new).await, RenewOutcome::Renewed(_)));
}

#[tokio::test(start_paused = true)]
async fn so_is_one_that_was_renewed_to_and_signed_out_then() {
    let house = house();
    let (_, first) = signed_in(&house).await;
    let RenewOutcome::Renewed(renewed) = house.renewer.renew(&first).await else { panic!("renewed") };
    let pair = renewed.issued.tokens.pair();
    let old = RenewRequest { key: house.sessions.policy.key(&pair), pair, ..first.clone() };
    assert_eq!(house.renewer.sign_out(old.clone(), Liveness::Live).await, Revocation::Ended);
    let (_, new) = signed_in(&house).await;
    assert_eq!(new.key, old.key, "the pair that the renewal had brought");
    assert_eq!(house.renewer.signed_out(&marks(&house, &new)), None);
    assert!(matches!(house.renewer.renew(&new).await, RenewOutcome::Renewed(_)));
    assert!(matches!(house.renewer.renew(&first).await, RenewOutcome::Refused(RefusalReason::SignedOut)));
}

#[tokio::test(start_paused = true)]
async fn so_is_one_that_was_refused() {
    let house = house();
    house.backend.state().ended = true;
    let refused = house.renewer.renew(&house.request(0)).await;
    assert!(matches!(refused, RenewOutcome::Refused(RefusalReason::ByBackend)));
    let (_, new) = signed_in(&house).await;
    assert_eq!(new.key, house.request(0).key);
    assert!(matches!(house.renewer.renew(&new).await, RenewOutcome::Renewed(_)));
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_session_that_was_set_aside_comes_back() {
    let house = house();
    let (_, old) = signed_in(&house).await;
    house.backend.state().gated = true;
    let early = RenewRequest { access_ends: Some(UnixTime::from_secs(START + LIFE)), ..old.clone() };
    let Beside::Started(flight) = house.renewer.beside(&early).await else { panic!("started") };
    tokio::task::yield_now().await;
    house.renewer.set_aside(&old);
    house.backend.gate.notify_one();
    assert!(house.renewer.attached(flight).await.is_none());
    assert!(house.renewer.signed_out(&marks(&house, &old)).is_some());
    assert!(matches!(house.renewer.renew(&old).await, RenewOutcome::Refused(RefusalReason::SignedOut)));
    assert_eq!(house.presented().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_sign_in_without_an_answer_is_none() {
    let house = house();
    let credentials = |user: &str| Credentials {
        user: user.into(),
        password: Secret::new("p".into()),
        further: Vec::new(),
    };
    let sign_in = |user: &str| {
        let (renewer, credentials) = (house.renewer.clone(), credentials(user));
        async move { renewer.sign_in(&credentials, Duration::from_secs(5)).await }
    };
    assert!(matches!(sign_in("bob").await, SignedIn::Refused));
    house.order(Fault::Only("connect"));
    assert!(matches!(sign_in("ana").await, SignedIn::Unavailable(BackendFault::Connect)));
    house.order(Fault::Only("silence"));
    assert!(matches!(sign_in("ana").await, SignedIn::Unavailable(BackendFault::Lost(Loss::GaveUp))));
    house.order(Fault::BadToken);
    assert!(matches!(sign_in("ana").await, SignedIn::Unverifiable(_)));
}

#[tokio::test(start_paused = true)]
async fn a_sign_out_ends_what_a_flight_still_brings() {
    let house = house();
    house.backend.state().gated = true;
    let Beside::Started(flight) = house.renewer.beside(&house.early(0)).await else { panic!("started") };
    let ending = {
        let (renewer, request) = (house.renewer.clone(), house.request(0));
        house.renewer.0.tasks.spawn(async move { renewer.sign_out(request, Liveness::Live).await })
    };
    tokio::task::yield_now().await;
    house.backend.gate.notify_one();
    assert_eq!(ending.await.expect("no panic"), Revocation::Ended);
    let late = house.renewer.attached(flight).await.expect("it had landed before");
    let change = CookieChange::Store(late);
    assert_eq!(house.renewer.at_head(change, Asker::Script), CookieChange::Keep, "no cookie comes back");
    assert_eq!(house.backend.state().revoked, ["R1"], "the newest pair is what is revoked");
    for n in [0, 1] {
        let outcome = house.renewer.renew(&house.request(n)).await;
        assert!(!matches!(outcome, RenewOutcome::Renewed(_)), "{n}: {outcome:?}");
        assert!(house.renewer.signed_out(&[house.request(n).key]).is_some(), "{n}");
    }
    assert_eq!(house.presented(), ["R0"]);
}

#[tokio::test(start_paused = true)]
async fn a_sign_out_ends_what_came_while_the_backend_was_asked() {
    let house = house();
    house.backend.state().slow_to_revoke = true;
    let ending = {
        let (renewer, request) = (house.renewer.clone(), house.request(0));
        house.renewer.0.tasks.spawn(async move { renewer.sign_out(request, Liveness::Live).await })
    };
    tokio::task::yield_now().await;
    // Another tab renews before anything is known of the sign-out.
    assert_eq!(brought(&house.renewer.renew(&house.request(0)).await), "R1");
    house.backend.state().slow_to_revoke = false;
    house.backend.revoking.notify_one();
    assert_eq!(ending.await.expect("no panic"), Revocation::Ended);
    assert_eq!(house.backend.state().revoked, ["R0", "R1"]);
    for n in [0, 1] {
        assert!(house.renewer.signed_out(&[house.request(n).key]).is_some(), "{n}");
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_of_somebody_else_are_refused_at_once_and_revoked_behind() {
    let house = house();
    house.backend.state().slow_to_revoke = true;
    house.backend.state().subject = Some("bob");
    let refused = tokio::time::timeout(Duration::from_secs(1), house.renewer.renew(&house.request(0))).await;
    assert!(matches!(refused, Ok(RenewOutcome::Refused(RefusalReason::SubjectChanged))));
    assert!(house.backend.state().revoked.is_empty());
    house.backend.revoking.notify_one();
    house.renewer.drain().await.expect("drained");
    assert_eq!(house.backend.state().revoked, ["R1"], "the drain waits for it");
}

#[tokio::test(start_paused = true)]
async fn after_a_sign_out_no_part_of_the_session_gets_in_by_itself() {
    let house = house();
    house.renewer.sign_out(house.request(0), Liveness::Live).await;
    let whole = house.request(0).pair;
    let access = Ending { access: whole.access, ..Ending::default() };
    let session = Ending { session: whole.session, ..Ending::default() };
    for ending in [access, session] {
        let marks = house.sessions.policy.marks(&ending);
        assert!(house.renewer.signed_out(&marks).is_some(), "{ending:?}");
    }
    let other = Ending { session: SessionId::parse("s2"), ..Ending::default() };
    assert!(house.renewer.signed_out(&house.sessions.policy.marks(&other)).is_none());
}

fn named(n: u64) -> SessionKey {
    let mut name = [0; 32];
    name[..8].copy_from_slice(&n.rotate_right(16).to_be_bytes());
    SessionKey(name)
}

fn renewed_from(presented: u64, family: u64, now: UnixTime) -> Issued {
    Issued {
        tokens: TokenSet {
            access: AccessToken::parse("A").expect("a token"),
            refresh: RefreshToken::parse("R").expect("a token"),
            rotated: true,
            session: None,
            access_expires: None,
            refresh_expires: Some(now.saturating_add(Duration::from_secs(20))),
            received_at: now,
        },
        presented: named(presented),
        lineage: Lineage { family: named(family), started_at: now, subject: None },
    }
}

#[tokio::test(start_paused = true)]
async fn each_name_of_a_sign_out_counts_at_once_for_marks_that_were_clear() {
    let house = house();
    let renewer = &house.renewer;
    let end = house.clock.now().saturating_add(Duration::from_secs(60));
    for (n, what) in [(0, "a name"), (1, "another"), (2, "its family")] {
        let of = |at: u64| 100 * n + at;
        renewer.0.ledger().memory.issued(
            renewed_from(of(9), of(2), house.clock.now()),
            named(of(0)),
            house.clock.now(),
        );
        let marks = Marks::new(vec![named(of(0)), named(of(1))], None);
        assert_eq!(renewer.signed_out_by(&marks), None);
        assert!(marks.are_clear(&renewer.0.stamps), "the next look takes no lock");
        renewer.0.bury([named(of(n))], (end, Lane::Known));
        assert!(renewer.signed_out_by(&marks).is_some(), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_turns_out_to_be_of_a_signed_out_family_is_let_in_no_more() {
    let house = house();
    let (renewer, now) = (&house.renewer, house.clock.now());
    renewer.0.bury([named(7)], (now.saturating_add(Duration::from_secs(60)), Lane::Known));
    let marks = Marks::new(vec![named(1)], None);
    assert_eq!(renewer.signed_out_by(&marks), None);
    assert!(marks.are_clear(&renewer.0.stamps));
    renewer.0.ledger().memory.issued(renewed_from(2, 7, now), named(1), now);
    assert_eq!(renewer.signed_out_by(&marks), Some(named(1)));
    // A clock that is set back must not bring it in either.
    house.later(61);
    assert_eq!(renewer.signed_out_by(&marks), None, "its time is over");
    house.clock.set(now);
    assert_eq!(renewer.signed_out_by(&marks), Some(named(1)));
}

#[tokio::test(start_paused = true)]
async fn kept_marks_are_those_of_exactly_what_was_brought() {
    let house = house();
    let sessions = &house.sessions;
    let who = Identity::new("ana".into(), None, None, house.clock.now(), serde_json::Map::new());
    let state = TokenState::Live(who, Freshness::Fresh);
    let pair = house.request(0).pair;
    let brought = Presented {
        access: pair.access,
        refresh: Some(pair.refresh),
        session: pair.session,
        ..Presented::default()
    };
    let first = sessions.kept_marks(&brought, &state, "a.example");
    assert_eq!(first.names(), sessions.marks(&brought, &state, "a.example"));
    assert!(Arc::ptr_eq(&first, &sessions.kept_marks(&brought, &state, "b.example")), "kept: no notes came");
    let others = [
        Presented { access: AccessToken::parse("other"), ..brought.clone() },
        Presented { refresh: RefreshToken::parse("other"), ..brought.clone() },
        Presented { refresh: None, ..brought.clone() },
        Presented { session: SessionId::parse("other"), ..brought.clone() },
    ];
    for other in others {
        let marks = sessions.kept_marks(&other, &state, "a.example");
        assert_eq!(marks.names(), sessions.marks(&other, &state, "a.example"));
        assert_ne!(marks.names(), first.names());
    }
    let noted = Presented { sealed_notes: Some("sealed".to_owned()), ..brought.clone() };
    let marks = |host| sessions.kept_marks(&noted, &state, host);
    assert!(Arc::ptr_eq(&marks("a.example"), &marks("a.example")));
    assert!(!Arc::ptr_eq(&marks("a.example"), &marks("b.example")), "notes open on their own host alone");
    let long = Presented { sealed_notes: Some("n".repeat(4000)), ..brought };
    let marks = || sessions.kept_marks(&long, &state, "a.example");
    assert!(!Arc::ptr_eq(&marks(), &marks()), "so much is not kept");
}

/// Whatever is learnt or forgotten in between, kept marks say what the ledger says.
#[tokio::test(start_paused = true)]
async fn kept_marks_say_at_every_moment_what_the_ledger_says() {
    let house = house();
    let (renewer, clock) = (&house.renewer, &house.clock);
    let mut dice = fastrand::Rng::with_seed(7);
    let all: Vec<Marks> = (0..6).map(|n| Marks::new(vec![named(n), named(n + 6)], None)).collect();
    let (mut over, mut clear) = (0, 0);
    for _ in 0..5000 {
        let (one, other, now) = (dice.u64(..15), dice.u64(..15), clock.now());
        let soon = now.saturating_add(Duration::from_secs(dice.u64(..9)));
        match dice.u8(..12) {
            0 => renewer.0.bury([named(one)], (soon, Lane::Known)),
            1 => renewer.0.lift(&[named(one), named(other)]),
            2 | 3 => {
                let issued = renewed_from(one, dice.u64(..15), now);
                renewer.0.ledger().memory.issued(issued, named(other), now);
            }
            4 => renewer.0.ledger().memory.forget(named(one)),
            5 => renewer.0.ledger().memory.expire(now),
            6 => renewer.0.ledger().memory.confirm(named(one), now),
            7 => renewer.0.ledger().memory.refused(
                named(one),
                RefusalReason::ByBackend,
                soon,
                (Lane::Known, now),
            ),
            8 => clock.set(UnixTime::from_secs(START + dice.u64(..30))),
            _ => {}
        }
        for marks in &all {
            let told = renewer.0.ledger().signed_out(marks.names(), clock.now());
            clear += usize::from(marks.are_clear(&renewer.0.stamps));
            over += usize::from(told.is_some());
            assert_eq!(renewer.signed_out_by(marks), told);
        }
    }
    assert!(over > 500 && clear > 500, "{over} {clear}");
}

/// A sign-out that is over when a look begins is seen by that look, whatever other threads look up and learn meanwhile.
#[test]
fn no_look_that_begins_after_a_sign_out_misses_it() {
    const SESSIONS: u64 = 3000;
    let house = tokio::runtime::Runtime::new().expect("a runtime").block_on(async { house() });
    let (renewer, now) = (&house.renewer, house.clock.now());
    let end = now.saturating_add(Duration::from_secs(60));
    let all: Vec<Marks> =
        (0..SESSIONS).map(|n| Marks::new(vec![named(2 * n), named(2 * n + 1)], None)).collect();
    let buried = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while buried.load(Ordering::Acquire) < SESSIONS {
                    let over = buried.load(Ordering::Acquire);
                    for ahead in 0..8 {
                        let n = (over + ahead).saturating_sub(4).min(SESSIONS - 1);
                        let Some(marks) = all.get(usize::try_from(n).expect("few")) else { continue };
                        assert!(renewer.signed_out_by(marks).is_some() || n >= over, "{n} of {over}");
                    }
                }
            });
        }
        for n in 0..SESSIONS {
            renewer.0.bury([named(2 * n + n % 2)], (end, Lane::Known));
            buried.store(n + 1, Ordering::Release);
        }
    });
    assert!(all.iter().all(|marks| renewer.signed_out_by(marks).is_some()));
}

#[tokio::test(start_paused = true)]
async fn whoever_knows_only_a_session_id_signs_nobody_out() {
    let house = house();
    let stranger = RenewRequest { subject: None, ..house.request(7) };
    assert_eq!(
        house.renewer.sign_out(stranger, Liveness::Over).await,
        Revocation::Ended,
        "nothing was there"
    );
    assert!(house.backend.state().revoked.is_empty());
    let victim = house.sessions.policy.marks(&Ending::of(house.request(0).pair, None));
    assert_eq!(house.renewer.signed_out(&victim), None);
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_never_sets_an_older_pair_over_a_newer_one() {
    let house = house();
    let RenewOutcome::Renewed(first) = house.renewer.renew(&house.request(0)).await else {
        panic!("renewed")
    };
    let late = || CookieChange::Store(Box::new(first.issued.clone()));
    house.later(LIFE + 1);
    brought(&house.renewer.renew(&house.request(1)).await);
    for n in [1, 2] {
        house.renewer.confirm(&house.request(n).pair);
    }
    house.later(61);
    brought(&house.renewer.renew(&house.request(2)).await);
    assert_eq!(house.renewer.at_head(late(), Asker::Script), CookieChange::Keep);
}

#[tokio::test(start_paused = true)]
async fn what_was_dropped_for_want_of_memory_still_reaches_its_browser() {
    let mut house = house();
    house.renewer = house.renewer_with(RenewSettings { memory: 1, ..settings(None) });
    let RenewOutcome::Renewed(renewed) = house.renewer.renew(&house.request(0)).await else {
        panic!("renewed")
    };
    assert_eq!(house.meters.evicted.get(), 1);
    let change = CookieChange::Store(Box::new(renewed.issued));
    assert_eq!(house.renewer.at_head(change.clone(), Asker::Script), change);
}

#[tokio::test(start_paused = true)]
async fn strangers_take_no_place_from_users() {
    let mut house = house();
    let strangers = BucketRules { burst: 20, per_second: 0 };
    let admission = AdmitRules { concurrency: 40, strangers, ..AdmitRules::default() };
    house.renewer = house.renewer_with(RenewSettings { admission, ..settings(None) });
    house.backend.state().gated = true;
    let stranger = |n| RenewRequest { subject: None, blind: Blind::Allowed, ..house.request(n) };
    for n in 0..200 {
        drop(tokio::time::timeout(Duration::from_millis(1), house.renewer.renew(&stranger(1000 + n))).await);
    }
    assert_eq!(house.presented().len(), 4, "as many as there are places for strangers");
    assert_eq!(house.meters.waits("stranger"), 16, "of those that a network may bring");
    assert_eq!(*fault(&house.renewer.renew(&stranger(5000)).await), BackendFault::Busy);
    house.backend.state().gated = false;
    assert_eq!(brought(&house.renewer.renew(&house.request(0)).await), "R1", "a user is served");
}

#[tokio::test(start_paused = true)]
async fn a_pair_is_found_by_the_session_id_of_its_token() {
    let house = house();
    house.backend.state().session = Some("another-id");
    brought(&house.renewer.renew(&house.request(0)).await);
    house.later(LIFE + 1);
    // The client presents the id that its token names; a late tab still holds the first pair.
    assert_eq!(brought(&house.renewer.renew(&house.request(1)).await), "R2");
    assert_eq!(brought(&house.renewer.renew(&house.request(0)).await), "R2");
    assert_eq!(house.presented(), ["R0", "R1"]);
}

#[tokio::test(start_paused = true)]
async fn a_backend_without_an_answer_is_left_alone_by_those_who_can_wait() {
    let house = house();
    house.order(Fault::Only("500"));
    let Beside::Started(flight) = house.renewer.beside(&house.early(0)).await else { panic!("started") };
    assert!(house.renewer.attached(flight).await.is_none());
    for _ in 0..5 {
        assert!(matches!(house.renewer.beside(&house.early(0)).await, Beside::Nothing));
    }
    assert_eq!(house.presented().len(), 1);
    house.later(2);
    assert!(matches!(house.renewer.beside(&house.early(0)).await, Beside::Started(_)));
}

#[tokio::test(start_paused = true)]
async fn another_sessions_fault_does_not_keep_a_result_from_its_browser() {
    let house = house();
    let Beside::Started(flight) = house.renewer.beside(&house.early(0)).await else { panic!("started") };
    assert!(house.renewer.attached(flight).await.is_some());
    house.order(Fault::Only("500"));
    let Beside::Started(flight) = house.renewer.beside(&house.early(7)).await else { panic!("started") };
    assert!(house.renewer.attached(flight).await.is_none());
    assert!(matches!(house.renewer.beside(&house.early(8)).await, Beside::Nothing), "who can wait, waits");
    assert!(
        matches!(house.renewer.beside(&house.early(0)).await, Beside::Ready(_)),
        "what is there is carried"
    );
}

#[tokio::test(start_paused = true)]
async fn a_sign_out_that_has_to_renew_first_outlives_its_client() {
    let house = house();
    house.backend.state().gated = true;
    let ending = house.renewer.sign_out(house.request(0), Liveness::Over);
    assert!(tokio::time::timeout(Duration::from_millis(1), ending).await.is_err(), "the client hangs up");
    house.backend.gate.notify_one();
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert_eq!(house.backend.state().revoked, ["R1"]);
}

#[tokio::test(start_paused = true)]
async fn signing_out_with_a_dead_access_token_renews_first_and_hands_nothing_out() {
    let house = house();
    let revocation = house.renewer.sign_out(house.request(0), Liveness::Over).await;
    assert_eq!(revocation, Revocation::Ended);
    assert_eq!(house.backend.state().revoked, ["R1"]);
    assert!(!matches!(house.renewer.renew(&house.request(0)).await, RenewOutcome::Renewed(_)));
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_flight_is_a_lost_answer_and_nothing_hangs() {
    let house = house();
    house.order(Fault::Panic);
    assert_eq!(*fault(&house.renewer.renew(&house.request(0)).await), BackendFault::Internal);
    assert_eq!(house.meters.flights.get(), 0);
    assert_eq!(brought(&house.renewer.renew(&house.request(0)).await), "R1", "asked for once more");
}

#[tokio::test(start_paused = true)]
async fn a_confirmed_result_is_forgotten_after_the_replay_window() {
    let house = house();
    brought(&house.renewer.renew(&house.request(0)).await);
    house.renewer.confirm(&house.request(1).pair);
    house.later(59);
    assert_eq!(brought(&house.renewer.renew(&house.request(0)).await), "R1");
    house.later(1);
    let outcome = house.renewer.renew(&house.request(0)).await;
    assert!(matches!(outcome, RenewOutcome::Refused(_)), "presented again: {outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn results_and_sign_outs_survive_a_restart_sealed() {
    let dir = tempfile::tempdir().expect("a folder");
    let first = house_with(Some(dir.path().to_owned()));
    brought(&first.renewer.renew(&first.request(0)).await);
    first.renewer.drain().await.expect("written");
    let file = dir.path().join("renewals.sealed");
    let sealed = std::fs::read_to_string(&file).expect("there");
    assert!(!sealed.contains("Issued") && !sealed.contains("lineage") && !sealed.contains("eyJ0eXAi"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    }

    let second = house_with(Some(dir.path().to_owned()));
    second.renewer.restore().expect("read");
    assert!(!file.exists(), "its tokens are spent by the time it could be read again");
    assert_eq!(brought(&second.renewer.renew(&second.request(0)).await), "R1");
    assert!(second.presented().is_empty());
    second.renewer.sign_out(second.request(0), Liveness::Live).await;
    second.renewer.drain().await.expect("written");

    let third = house_with(Some(dir.path().to_owned()));
    third.renewer.restore().expect("read");
    assert!(third.renewer.signed_out(&[third.request(0).key]).is_some());
    std::fs::write(&file, "damaged").expect("written");
    assert!(matches!(third.renewer.restore(), Err(PersistError::Sealed { .. })));
    assert!(file.exists(), "what cannot be read is left alone");
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_is_down_is_spared_and_found_again() {
    let house = house();
    for n in 0..5 {
        house.order(Fault::Only("connect"));
        assert_eq!(*fault(&house.renewer.renew(&house.request(100 + n)).await), BackendFault::Connect);
    }
    assert_eq!(house.meters.breaker_opened.get(), 1);
    for n in 0..10 {
        let outcome = house.renewer.renew(&house.request(200 + n)).await;
        assert!(matches!(fault(&outcome), BackendFault::Resting { .. }), "{outcome:?}");
    }
    assert_eq!(house.presented().len(), 5, "nothing was presented");
    house.later(2);
    assert!(matches!(house.renewer.beside(&house.early(300)).await, Beside::Nothing), "nor early");
    tokio::time::sleep(Duration::from_secs(1)).await;
    house.order(Fault::Only("500"));
    assert!(matches!(fault(&house.renewer.renew(&house.request(0)).await), BackendFault::NoDecision { .. }));
    let outcome = house.renewer.renew(&house.request(0)).await;
    assert!(matches!(fault(&outcome), BackendFault::Resting { .. }), "{outcome:?}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(brought(&house.renewer.renew(&house.request(0)).await), "R1", "the one that tried");
    assert_eq!(house.meters.breaker.get(), 0);
    assert_eq!(house.presented().len(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_asks_for_a_pause_gets_it_and_its_clients_are_told() {
    let house = house();
    house.order(Fault::Only("429"));
    let outcome = house.renewer.renew(&house.request(0)).await;
    let asked = Some(Duration::from_secs(4));
    assert_eq!(*fault(&outcome), BackendFault::NoDecision { status: 429, retry_after: asked });
    tokio::time::sleep(Duration::from_millis(3900)).await;
    let outcome = house.renewer.renew(&house.request(0)).await;
    assert!(matches!(fault(&outcome), BackendFault::Resting { .. }), "{outcome:?}");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(brought(&house.renewer.renew(&house.request(0)).await), "R1");
}

#[tokio::test(start_paused = true)]
async fn refusals_and_rejections_of_this_gateway_open_nothing() {
    let house = house();
    house.backend.state().ended = true;
    for n in 0..50 {
        let outcome = house.renewer.renew(&house.request(100 + n)).await;
        assert!(matches!(outcome, RenewOutcome::Refused(_)), "{outcome:?}");
    }
    assert_eq!(house.meters.breaker_opened.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn silence_counts_once_clients_have_stopped_waiting_for_it() {
    let house = house();
    let waiting: Vec<_> = (0..5)
        .map(|n| {
            house.order(Fault::Only("silence"));
            let (renewer, request) = (house.renewer.clone(), house.request(100 + n));
            house.renewer.0.tasks.spawn(async move { renewer.renew(&request).await })
        })
        .collect();
    for waits in waiting {
        assert_eq!(*fault(&waits.await.expect("no panic")), BackendFault::Slow);
    }
    let outcome = house.renewer.renew(&house.request(0)).await;
    assert!(
        matches!(fault(&outcome), BackendFault::Resting { .. }),
        "not after another five seconds: {outcome:?}"
    );
}

/// A house whose backend takes one at a time, and somebody holds it.
async fn narrow_house() -> House {
    let mut house = house();
    let admission = AdmitRules { concurrency: 1, ..AdmitRules::default() };
    house.renewer = house.renewer_with(RenewSettings { admission, ..settings(None) });
    house.backend.state().gated = true;
    drop(tokio::time::timeout(Duration::from_millis(1), house.renewer.renew(&house.request(900))).await);
    assert_eq!(house.presented(), ["R900"]);
    house
}

#[tokio::test(start_paused = true)]
async fn early_renewals_give_way_to_expired_ones_and_one_that_is_waited_for_is_early_no_more() {
    let house = narrow_house().await;
    for n in [1, 2, 3] {
        let beside = house.renewer.beside(&house.early(n)).await;
        assert!(matches!(beside, Beside::Started(_)), "{n}");
    }
    for n in [11, 12] {
        drop(tokio::time::timeout(Duration::from_millis(1), house.renewer.renew(&house.request(n))).await);
    }
    drop(tokio::time::timeout(Duration::from_millis(1), house.renewer.renew(&house.request(3))).await);
    house.backend.state().gated = false;
    house.backend.gate.notify_one();
    house.renewer.0.tasks.close();
    house.renewer.0.tasks.wait().await;
    assert_eq!(house.presented(), ["R900", "R11", "R12", "R3", "R1", "R2"]);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_turn_counts_in_the_clients_patience_and_the_renewal_is_made_all_the_same() {
    let house = narrow_house().await;
    assert_eq!(*fault(&house.renewer.renew(&house.request(0)).await), BackendFault::Slow);
    house.backend.state().gated = false;
    house.backend.state().ended = false;
    house.backend.gate.notify_one();
    house.renewer.0.tasks.close();
    house.renewer.0.tasks.wait().await;
    assert_eq!(house.presented(), ["R900", "R0"]);
}

#[tokio::test(start_paused = true)]
async fn a_drain_presents_nothing_that_still_waits_and_finishes_what_was_presented() {
    let house = narrow_house().await;
    for n in 0..50 {
        drop(tokio::time::timeout(Duration::from_millis(1), house.renewer.renew(&house.request(n))).await);
    }
    assert_eq!(house.meters.waits("expired"), 50);
    house.backend.gate.notify_one();
    house.renewer.drain().await.expect("drained");
    assert_eq!(house.presented(), ["R900"]);
    assert_eq!(house.meters.flights.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_strangers_bring_about_holds_up_nobody() {
    let house = house();
    for n in 0..50 {
        house.order(Fault::Only("500"));
        let stranger = RenewRequest { subject: None, blind: Blind::Allowed, ..house.request(100 + n) };
        assert!(matches!(fault(&house.renewer.renew(&stranger).await), BackendFault::NoDecision { .. }));
    }
    assert_eq!(house.meters.breaker_opened.get(), 0);
    assert!(matches!(house.renewer.beside(&house.early(0)).await, Beside::Started(_)), "nor early renewals");
}
