//! A backend that rotates and ends a session at the second presentation of a token, and a replica's wire to it.

use std::collections::BTreeSet;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;

use super::*;
use crate::backend::{Reply, SignIn};
use crate::outcome::{Answer, Capabilities, Loss, Revocation};
use crate::token::{AccessToken, Credentials, Ending, RefreshToken, SessionId, TokenSet};

/// How long access tokens live, in seconds.
pub(super) const LIFE: u64 = 60;

/// The backend.
#[derive(Debug)]
pub(super) struct Rotating {
    clock: Arc<ManualClock>,
    rotates: bool,
    sessions: Mutex<Vec<Session>>,
}

#[derive(Debug, Default)]
struct Session {
    current: usize,
    ended: bool,
    /// Presented and not answered yet.
    under_way: BTreeSet<String>,
}

impl Rotating {
    pub(super) fn new(clock: Arc<ManualClock>, bug: Bug) -> Self {
        Self { clock, rotates: bug != Bug::DeadIsTheAnswer, sessions: Mutex::default() }
    }

    /// Only one planted bug shows where tokens are not rotated.
    pub(super) fn capabilities_of(bug: Bug) -> Capabilities {
        Capabilities {
            rotates: bug != Bug::DeadIsTheAnswer,
            needs_session: false,
            ..crate::backend::directory::Directory::CAPABILITIES
        }
    }

    pub(super) fn renewals(&self) -> usize {
        self.sessions.lock().expect("not poisoned").iter().map(|session| session.current).sum()
    }

    /// A new session for browser `n`; an earlier one of it is another session.
    pub(super) fn sign_in(&self, n: usize) -> (TokenSet, usize) {
        let mut sessions = self.sessions.lock().expect("not poisoned");
        sessions.push(Session::default());
        let id = sessions.len() - 1;
        (self.tokens(id, 0, n), id)
    }

    fn tokens(&self, id: usize, count: usize, n: usize) -> TokenSet {
        let now = self.clock.now();
        let claims = json!({"userId": format!("user-{n}"), "iat": now.as_secs(), "exp": now.as_secs() + LIFE,
            "sessionId": format!("s{id}"), "count": count});
        let key = EncodingKey::from_secret(tests::KEY);
        let access = encode(&Header::new(Algorithm::HS256), &claims, &key).expect("signed");
        let shown = if self.rotates { count } else { 0 };
        TokenSet {
            access: AccessToken::parse(&access).expect("a token"),
            refresh: RefreshToken::parse(&format!("R-{n}-{id}-{shown}")).expect("a token"),
            rotated: self.rotates,
            session: SessionId::parse(&format!("s{id}")),
            access_expires: None,
            refresh_expires: Some(now.saturating_add(Duration::from_secs(3600))),
            received_at: now,
        }
    }

    /// One presentation. What is wrong about it comes back beside the answer.
    fn present(&self, refresh: &str) -> (Answer, Option<String>) {
        let parts: Vec<usize> = refresh.split('-').filter_map(|part| part.parse().ok()).collect();
        let [n, id, count] = parts[..] else { panic!("no token of ours: {refresh}") };
        let mut sessions = self.sessions.lock().expect("not poisoned");
        let session = &mut sessions[id];
        if !self.rotates {
            session.current += 1;
            let count = session.current;
            return (Answer::Issued(self.tokens(id, count, n)), None);
        }
        let parallel = !session.under_way.insert(refresh.to_owned());
        let wrong = match (session.current == count, session.ended) {
            (_, true) => None,
            (true, false) if !parallel => None,
            (_, false) => Some(format!("{refresh} was presented twice")),
        };
        if session.ended || session.current != count {
            session.ended = true;
            return (Answer::Refused(RefusalReason::ByBackend), wrong);
        }
        session.current += 1;
        (Answer::Issued(self.tokens(id, session.current, n)), wrong)
    }

    pub(super) fn end(&self, id: usize) {
        self.sessions.lock().expect("not poisoned")[id].ended = true;
    }
}

/// A replica's wire.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) world: Arc<World>,
    pub(super) still: watch::Sender<Moves>,
    /// What this replica presented, and for which sessions.
    pub(super) presenting: Mutex<Vec<(SessionKey, usize)>>,
}

impl Wire {
    async fn renew_pair(&self, pair: &Pair) -> Answer {
        let world = &self.world;
        moving(&self.still).await;
        tokio::time::sleep(world.millis(40)).await;
        if world.is_bad(Trouble::FaultyBackend) {
            let fault = world.random().u32(0..6);
            match fault {
                0 => return Answer::Unavailable(BackendFault::Connect),
                1 => return Answer::Unavailable(BackendFault::NoDecision { status: 500, retry_after: None }),
                2 => return Answer::Unavailable(BackendFault::Lost(Loss::Broken)),
                _ => {}
            }
        }
        moving(&self.still).await;
        let refresh = pair.refresh.expose();
        let id = refresh.split('-').nth(2).and_then(|id| id.parse().ok()).expect("a token of ours");
        let key = world.sessions.policy.key(pair);
        self.presenting.lock().expect("not poisoned").push((key, id));
        let (answer, wrong) = world.backend.present(refresh);
        let excused = world.excused.lock().expect("not poisoned").contains(&id);
        wrong.filter(|_| !excused).into_iter().for_each(|wrong| world.wrong(wrong));
        let slow = if world.is_bad(Trouble::SlowBackend) { 25_000 } else { 1_500 };
        tokio::time::sleep(world.millis(slow)).await;
        moving(&self.still).await;
        answer
    }
}

impl SessionBackend for Wire {
    fn capabilities(&self) -> Capabilities {
        Rotating::capabilities_of(self.world.bug)
    }

    fn renew<'a>(&'a self, pair: &'a Pair) -> Reply<'a, Answer> {
        Box::pin(self.renew_pair(pair))
    }

    fn revoke<'a>(&'a self, ending: &'a Ending) -> Reply<'a, Revocation> {
        Box::pin(async move {
            moving(&self.still).await;
            let refresh = ending.refresh.as_ref().expect("a refresh token").expose();
            let id = refresh.split('-').nth(2).and_then(|id| id.parse().ok()).expect("a token of ours");
            self.world.backend.end(id);
            Revocation::Ended
        })
    }

    fn sign_in<'a>(&'a self, _: &'a Credentials) -> Reply<'a, SignIn> {
        Box::pin(async { SignIn::Refused })
    }
}
