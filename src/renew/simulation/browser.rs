//! A browser: cookies that all its tabs share, answers that are cut or overtake each other.

use super::*;
use crate::session::judge::Blind;
use crate::token::TokenSet;

/// A browser with one person.
#[derive(Debug)]
pub(super) struct Browser {
    world: Arc<World>,
    number: usize,
    jar: Mutex<Jar>,
}

#[derive(Clone, Debug)]
struct Jar {
    /// The cookies; none: signed out.
    tokens: Option<TokenSet>,
    /// Which session at the backend.
    session: usize,
    /// How often this browser signed in.
    sign_ins: usize,
    /// Whether the session was ended behind the gateway's back.
    ended: bool,
}

impl Browser {
    pub(super) fn signed_in(world: Arc<World>, number: usize) -> Self {
        let (tokens, session) = world.backend.sign_in(number);
        let jar = Jar { tokens: Some(tokens), session, sign_ins: 1, ended: false };
        Self { world, number, jar: Mutex::new(jar) }
    }

    fn jar(&self) -> MutexGuard<'_, Jar> {
        self.jar.lock().expect("not poisoned")
    }

    fn sign_in(&self) {
        let (tokens, session) = self.world.backend.sign_in(self.number);
        let mut jar = self.jar();
        *jar = Jar { tokens: Some(tokens), session, sign_ins: jar.sign_ins + 1, ended: false };
    }

    /// Uses the site until the day is over.
    pub(super) async fn used(self: Arc<Self>, fleet: Fleet, day: Deadline, tasks: TaskTracker) {
        while !day.passed() {
            let idle = if self.world.one_in(6) { 100_000 } else { 9_000 };
            tokio::time::sleep(self.world.millis(idle)).await;
            if self.world.one_in(15) {
                self.end_session();
            }
            let tabs = self.world.random().usize(1..=4);
            for _ in 0..tabs {
                let (this, site) = (Arc::clone(&self), pick(&self.world, &fleet));
                tasks.spawn(async move { this.tab(site).await });
            }
            if self.jar().tokens.is_none() {
                tokio::time::sleep(self.world.millis(3_000)).await;
                self.sign_in();
            }
        }
        // Answers that are still on their way arrive.
        tokio::time::sleep(Duration::from_secs(40)).await;
        if self.jar().tokens.is_none() {
            self.sign_in();
        }
    }

    fn end_session(&self) {
        let mut jar = self.jar();
        jar.ended = true;
        self.world.backend.end(jar.session);
    }

    /// One request of one tab, with the cookies of the moment.
    async fn tab(&self, site: Arc<Site>) {
        if *site.still.borrow() != Moves::Yes {
            return;
        }
        let before = self.jar().clone();
        let Some(tokens) = before.tokens.clone() else { return };
        let change = self.change(&site, &tokens).await;
        let change = site.renewer.at_head_or_bug(change, self.world.bug);
        tokio::time::sleep(self.world.millis(2_500)).await;
        if self.world.one_in(4) {
            return;
        }
        self.take(change, &before);
    }

    /// What an answer would do to the cookies.
    async fn change(&self, site: &Site, tokens: &TokenSet) -> CookieChange {
        let request = self.request(tokens);
        if request.access_ends.is_some() {
            site.renewer.confirm(&request.pair);
            return match self.due(tokens) {
                false => CookieChange::Keep,
                true => match site.renewer.beside(&request).await {
                    Beside::Ready(issued) => CookieChange::Store(issued),
                    Beside::Started(flight) => {
                        site.renewer.attached(flight).await.map_or(CookieChange::Keep, CookieChange::Store)
                    }
                    Beside::Nothing => CookieChange::Keep,
                },
            };
        }
        let Ok(outcome) = tokio::time::timeout(Duration::from_secs(6), site.renewer.renew(&request)).await
        else {
            self.world.wrong("a request was not answered within its limit".to_owned());
            return CookieChange::Keep;
        };
        match outcome {
            RenewOutcome::Renewed(renewed) => CookieChange::Store(Box::new(renewed.issued)),
            RenewOutcome::Refused(_) => CookieChange::Clear(request.key),
            RenewOutcome::Unavailable(BackendFault::Unverifiable { issued, .. }) => {
                CookieChange::Store(issued)
            }
            RenewOutcome::Unavailable(_) => CookieChange::Keep,
            RenewOutcome::Withheld => {
                self.world.wrong("a sign-in was asked for".to_owned());
                CookieChange::Keep
            }
        }
    }

    fn request(&self, tokens: &TokenSet) -> RenewRequest {
        let pair = tokens.pair();
        let ends = tokens.received_at.saturating_add(Duration::from_secs(backend::LIFE));
        RenewRequest {
            key: self.world.sessions.policy.key(&pair),
            pair,
            family: None,
            started_at: None,
            subject: Some(format!("user-{}", self.number)),
            blind: Blind::Refused,
            access_ends: (self.world.clock.now() < ends).then_some(ends),
            refresh_expires: None,
            network: crate::network::Network::None,
            stale: None,
        }
    }

    fn due(&self, tokens: &TokenSet) -> bool {
        self.world.clock.now().since(tokens.received_at) > Duration::from_secs(backend::LIFE / 2)
    }

    /// The browser gets an answer to a request that was made with the cookies of `before`.
    fn take(&self, change: CookieChange, before: &Jar) {
        let mut jar = self.jar();
        match change {
            CookieChange::Keep | CookieChange::Note(_) => {}
            // What an answer to an earlier sign-in's request sets is a matter of the browser alone.
            CookieChange::Store(issued) if jar.sign_ins == before.sign_ins => {
                jar.tokens = Some(issued.tokens);
            }
            CookieChange::Store(_) => {}
            CookieChange::Clear(_) if jar.sign_ins != before.sign_ins => {
                self.world.wrong("a late answer cleared a fresh sign-in".to_owned());
                jar.tokens = None;
            }
            CookieChange::Clear(_) => {
                let excused = self.world.excused.lock().expect("not poisoned").contains(&jar.session);
                if !jar.ended && !excused {
                    self.world.wrong(format!("session {} was cleared without reason", jar.session));
                }
                jar.tokens = None;
            }
        }
    }

    /// The trouble is over: every replica serves this browser.
    pub(super) async fn has_to_work(&self, fleet: &Fleet) {
        let jar = self.jar().clone();
        let excused = self.world.excused.lock().expect("not poisoned").contains(&jar.session);
        if jar.ended || excused {
            return;
        }
        let sites = fleet.lock().expect("not poisoned").clone();
        for site in sites {
            let mut served = false;
            for _ in 0..60 {
                let Some(tokens) = self.jar().tokens.clone() else { break };
                let request = self.request(&tokens);
                served = request.access_ends.is_some();
                if served {
                    break;
                }
                let change = self.change(&site, &tokens).await;
                let change = site.renewer.at_head(change, Asker::Script);
                self.take(change, &jar);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            if !served {
                self.world.wrong(format!("session {} does not work at replica {}", jar.session, site.number));
            }
            // The next replica gets expired tokens again.
            tokio::time::sleep(Duration::from_secs(backend::LIFE + 5)).await;
        }
    }
}

impl Renewer {
    /// What [`Renewer::at_head`] decides, unless that is what is planted wrong.
    fn at_head_or_bug(&self, change: CookieChange, bug: Bug) -> CookieChange {
        match change {
            CookieChange::Clear(_) if bug == Bug::ClearsAfterSignIn => change,
            CookieChange::Keep | CookieChange::Store(_) | CookieChange::Clear(_) | CookieChange::Note(_) => {
                self.at_head(change, Asker::Script)
            }
        }
    }
}
