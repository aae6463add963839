//! Asks the backend what an opaque access token is: once for all who ask at a time, and not again for a few seconds.
//! In: access tokens. Out: [`Verified`], or a fault. Errors: [`BackendFault`]. I/O: the session backend; tasks.
//! Source: RFC 7662 §2.2 (what is told), §4 (answers that are kept).
//!
//! Positive answers are kept for `cache` at most, and never longer than the token lives; negative ones for five seconds, in
//! a memory of their own, so that nobody can push users' answers out with tokens made up. Questions have their turns as
//! renewals have ([`admit`](crate::admit)), in places of their own: about tokens of which nothing tells that they are
//! anybody's few are asked at a time, and few from each client network; when these are too many, only such tokens wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::admit::breaker::Sign;
use crate::admit::queue::Class;
use crate::admit::{Admission, AdmitRules, Health, Place, Turn, sign_of};
use crate::backend::SessionBackend;
use crate::clock::{Clock, Deadline, UnixTime};
use crate::identity::{Identity, session_at, subject_at};
use crate::meter::Meters;
use crate::network::Network;
use crate::outcome::{BackendFault, Introspection, SessionKey, TokenFault};
use crate::session::seal::SessionKeys;
use crate::session::verifier::{Seen, Source, Verified};
use crate::token::{AccessToken, TokenSet};

/// How long a token is taken for inactive without asking again.
const NEGATIVE_KEPT: Duration = Duration::from_secs(5);

/// Most tokens remembered as inactive.
const NEGATIVES: usize = 10_000;

/// How long notes that vouched for a token vouch for no other one, and most of them that are remembered.
const VOUCHED_FOR: Duration = Duration::from_secs(60);
const VOUCHED: usize = 10_000;

/// How opaque tokens are asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntrospectRules {
    /// How long a positive answer is kept, in whole seconds; zero: every request asks.
    pub cache: Duration,
    /// Longest wait for an answer, the wait for its turn included.
    pub timeout: Duration,
    /// Most questions at a time about tokens that are somebody's; a tenth of it about all others.
    pub concurrency: usize,
    /// `iss` of what is told, exactly; `None`: not checked.
    pub issuer: Option<String>,
    /// One of these has to be in `aud` of what is told; empty: not checked.
    pub audience: Vec<String>,
    /// Allowance for clocks that differ.
    pub leeway: Duration,
    /// Path of the claim that names the user.
    pub subject: String,
    /// Path of the claim that names the session, where the backend has one.
    pub session: Option<String>,
    /// Longest token asked about, in bytes.
    pub max_size: usize,
    /// Memory for positive answers, in bytes.
    pub memory: u64,
}

impl IntrospectRules {
    /// Whether what is told of a token says that it is from the issuer and for the audience that are wanted, as far as any are.
    fn are_met_by(&self, claims: &Map<String, Value>) -> bool {
        let issued = self
            .issuer
            .as_deref()
            .is_none_or(|wanted| claims.get("iss").and_then(Value::as_str) == Some(wanted));
        let ours = |aud: &Value| aud.as_str().is_some_and(|aud| self.audience.iter().any(|own| own == aud));
        let meant = match claims.get("aud") {
            Some(Value::Array(listed)) => listed.iter().all(Value::is_string) && listed.iter().any(ours),
            Some(one) => ours(one),
            None => false,
        };
        issued && (self.audience.is_empty() || meant)
    }
}

/// Whether anything tells that a token is anybody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It was active before.
    Known,
    /// Our notes came beside it, about what this key names. They vouch for one token at a time: once somebody had a session, they
    /// can be sent beside any.
    Vouched(SessionKey),
    /// Anybody can send it.
    Stranger,
}

impl Standing {
    /// When a question about such a token has its turn: somebody waits for the answer.
    const fn class(self) -> Class {
        match self {
            Self::Known | Self::Vouched(_) => Class::Expired,
            Self::Stranger => Class::Stranger,
        }
    }
}

/// The turns of questions: in places of their own, and otherwise by the rules for renewals.
#[must_use]
pub const fn turns(rules: &IntrospectRules, renewals: &AdmitRules) -> AdmitRules {
    AdmitRules { concurrency: rules.concurrency, ..*renewals }
}

/// Asks about tokens.
#[derive(Debug)]
pub struct Introspector(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rules: IntrospectRules,
    backend: Arc<dyn SessionBackend>,
    admission: Admission,
    keys: SessionKeys,
    clock: Arc<dyn Clock>,
    meters: Arc<Meters>,
    tasks: TaskTracker,
    positives: Arc<Cache<SessionKey, Positive, PositiveWeight>>,
    negatives: Arc<Cache<SessionKey, UnixTime>>,
    /// For which token notes vouched, and until when for no other one.
    vouched: Arc<Cache<SessionKey, (SessionKey, UnixTime)>>,
    questions: Arc<Mutex<Questions>>,
}

/// The questions under way. What one of them brings is kept only while it stands here.
#[derive(Debug, Default)]
struct Questions {
    asked: u64,
    under_way: HashMap<SessionKey, (u64, watch::Receiver<Option<Told>>)>,
}

/// What a question brought.
type Told = Result<Verified, BackendFault>;

/// A positive answer. Past `until` it tells only that the token was somebody's.
#[derive(Clone, Debug)]
struct Positive {
    identity: Identity,
    until: UnixTime,
    bytes: u64,
}

#[derive(Clone, Debug)]
struct PositiveWeight;

impl Weighter<SessionKey, Positive> for PositiveWeight {
    fn weight(&self, _: &SessionKey, positive: &Positive) -> u64 {
        positive.bytes
    }
}

impl Introspector {
    /// An introspector that knows of no token yet. `admission`: the turns of its questions.
    #[must_use]
    pub fn new(
        rules: IntrospectRules,
        (backend, admission): (Arc<dyn SessionBackend>, Admission),
        keys: SessionKeys,
        clock: Arc<dyn Clock>,
        meters: Arc<Meters>,
    ) -> Self {
        Self(Arc::new(Inner::new(rules, (backend, admission), keys, clock, meters)))
    }

    /// An introspector with these rules that goes on where `before` is. What its backend said counts on where the backend is
    /// the same and the rules say the same of its word; questions under way end as they began.
    #[must_use]
    pub fn successor(
        rules: IntrospectRules,
        (backend, keys): (Arc<dyn SessionBackend>, SessionKeys),
        before: &Self,
        source: Source,
    ) -> Self {
        let old = &before.0;
        let alike =
            IntrospectRules { timeout: rules.timeout, concurrency: rules.concurrency, ..old.rules.clone() }
                == rules;
        let goes_on = alike && source == Source::Same;
        let asked = (backend, old.admission.clone());
        let mut inner = Inner::new(rules, asked, keys, Arc::clone(&old.clock), Arc::clone(&old.meters));
        inner.tasks = old.tasks.clone();
        inner.vouched = Arc::clone(&old.vouched);
        if goes_on {
            inner.positives = Arc::clone(&old.positives);
            inner.negatives = Arc::clone(&old.negatives);
            inner.questions = Arc::clone(&old.questions);
        }
        Self(Arc::new(inner))
    }

    /// Questions have their turns by this introspector's rules from now on, and otherwise by those for renewals.
    pub(super) fn take_over(&self, renewals: &AdmitRules) {
        self.0.admission.change(turns(&self.0.rules, renewals));
    }

    /// What a token is that somebody in a network presents.
    pub(super) async fn presented(
        &self,
        token: &AccessToken,
        (standing, network): (impl FnOnce() -> Standing, Network),
        now: UnixTime,
    ) -> Result<(Verified, Seen), BackendFault> {
        let inner = &self.0;
        if token.expose().len() > inner.rules.max_size {
            return Ok((Verified::Invalid(TokenFault::TooLong), Seen::First));
        }
        let name = self.name(token);
        let remembered = inner.positives.get(&name);
        if let Some(positive) = &remembered
            && now < positive.until
        {
            return Ok((Verified::Live(positive.identity.clone()), Seen::Before));
        }
        if inner.negatives.get(&name).is_some_and(|until| now < until) {
            return Ok((Verified::Invalid(TokenFault::Inactive), Seen::Before));
        }
        let standing = match remembered {
            Some(_) => Standing::Known,
            None => inner.held_to_one(standing(), name, now),
        };
        self.ask(token, name, (standing, network)).await.map(|verified| (verified, Seen::First))
    }

    /// What a token is that was issued just now: nothing that was known before counts.
    pub(super) async fn issued(
        &self,
        tokens: &TokenSet,
        told: Option<Map<String, Value>>,
        (network, now): (Network, UnixTime),
    ) -> Result<Verified, BackendFault> {
        let (inner, name) = (&self.0, self.name(&tokens.access));
        self.forget(name);
        let verified = match told {
            None => self.ask(&tokens.access, name, (Standing::Known, network)).await?,
            Some(claims) => {
                let (issued_at, expires_at) = (None, tokens.access_expires);
                inner.read(name, now, Introspection::Active { claims, issued_at, expires_at })?
            }
        };
        // What came beside the token tells its end where its introspection does not.
        let verified = match (verified, tokens.access_expires) {
            (Verified::Live(identity), Some(end)) => Verified::Live(identity.until(end)),
            (verified, _) => verified,
        };
        inner.keep(name, &verified, now);
        Ok(verified)
    }

    /// Forgets a token; what a question about it that is under way brings is not kept either.
    pub(super) fn forget(&self, name: SessionKey) {
        self.0.questions().under_way.remove(&name);
        self.0.positives.remove(&name);
        self.0.negatives.remove(&name);
    }

    /// What a token is called in every table: a keyed digest of the whole token and its backend.
    #[must_use]
    pub fn name(&self, token: &AccessToken) -> SessionKey {
        self.0.keys.digest(&["introspection", token.expose()])
    }

    pub(super) fn health(&self) -> Arc<Health> {
        Arc::clone(self.0.admission.health())
    }

    pub(super) async fn drain(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Asks the backend, or waits for the answer to a question that is under way.
    async fn ask(&self, token: &AccessToken, name: SessionKey, who: (Standing, Network)) -> Told {
        let mut answer = {
            let mut questions = self.0.questions();
            match questions.under_way.get(&name) {
                Some((_, answer)) => answer.clone(),
                None => {
                    let (sender, answer) = watch::channel(None);
                    let told = sender.clone();
                    // The table keeps one receiver itself.
                    let wanted = move || told.receiver_count() > 1;
                    let (standing, network) = who;
                    let turn = self.0.admission.ask(standing.class(), network, wanted);
                    let turn = turn.inspect_err(|fault| self.0.meters.introspection(fault.word()))?;
                    questions.asked += 1;
                    let number = questions.asked;
                    questions.under_way.insert(name, (number, answer.clone()));
                    let question = Question { inner: Arc::clone(&self.0), name, number, sender, told: None };
                    self.0.tasks.spawn(question.put(token.clone(), turn));
                    answer
                }
            }
        };
        // The question has a limit of its own, and tells even when it breaks off.
        match answer.wait_for(Option::is_some).await {
            Ok(told) => told.clone().unwrap_or(Err(BackendFault::Internal)),
            Err(_closed) => Err(BackendFault::Internal),
        }
    }
}

/// One question to the backend. Whatever becomes of it, those who wait are told and its entry goes.
struct Question {
    inner: Arc<Inner>,
    name: SessionKey,
    number: u64,
    sender: watch::Sender<Option<Told>>,
    told: Option<Told>,
}

impl Question {
    async fn put(mut self, token: AccessToken, turn: Turn) {
        let inner = Arc::clone(&self.inner);
        let until = Deadline::after(inner.rules.timeout);
        let told = match turn.come(inner.rules.timeout).await {
            Ok(place) => self.ask(&token, &place, until).await,
            Err(fault) => Err(fault),
        };
        inner.tell(&told);
        self.told = Some(told);
    }

    /// Asks, and gives the place back.
    async fn ask(&self, token: &AccessToken, place: &Place, until: Deadline) -> Told {
        let inner = &self.inner;
        // What is told may be as old as the question.
        let asked_at = inner.clock.now();
        let answer = tokio::select! {
            biased;
            answer = inner.backend.introspect(token) => answer,
            () = until.wait() => Introspection::Unavailable(BackendFault::Slow),
        };
        place.ended(match &answer {
            Introspection::Active { .. } | Introspection::Inactive => Sign::Good,
            Introspection::Unavailable(BackendFault::Slow) => Sign::Fault(None),
            Introspection::Unavailable(fault) => sign_of(fault),
        });
        let told = inner.read(self.name, asked_at, answer);
        if let Ok(verified) = &told {
            self.keep(verified, asked_at);
        }
        told
    }

    /// Keeps an answer, unless the token was to be forgotten since the question was put.
    fn keep(&self, verified: &Verified, asked_at: UnixTime) {
        let questions = self.inner.questions();
        if questions.under_way.get(&self.name).is_some_and(|(number, _)| *number == self.number) {
            self.inner.keep(self.name, verified, asked_at);
        }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        {
            let mut questions = self.inner.questions();
            if questions.under_way.get(&self.name).is_some_and(|(number, _)| *number == self.number) {
                questions.under_way.remove(&self.name);
            }
        }
        self.sender.send_replace(Some(self.told.take().unwrap_or(Err(BackendFault::Internal))));
    }
}

impl Inner {
    fn new(
        rules: IntrospectRules,
        (backend, admission): (Arc<dyn SessionBackend>, Admission),
        keys: SessionKeys,
        clock: Arc<dyn Clock>,
        meters: Arc<Meters>,
    ) -> Self {
        let items = usize::try_from(rules.memory / 2048).unwrap_or(usize::MAX).max(16);
        Self {
            positives: Arc::new(Cache::with_weighter(items, rules.memory, PositiveWeight)),
            negatives: Arc::new(Cache::new(NEGATIVES)),
            vouched: Arc::new(Cache::new(VOUCHED)),
            rules,
            backend,
            admission,
            keys,
            clock,
            meters,
            tasks: TaskTracker::new(),
            questions: Arc::default(),
        }
    }

    /// The standing of a token, where its notes have not just vouched for another one.
    fn held_to_one(&self, standing: Standing, token: SessionKey, now: UnixTime) -> Standing {
        let Standing::Vouched(by) = standing else { return standing };
        match self.vouched.get(&by) {
            Some((other, until)) if other != token && now < until => Standing::Stranger,
            Some(_) | None => {
                self.vouched.insert(by, (token, now.saturating_add(VOUCHED_FOR)));
                standing
            }
        }
    }

    fn questions(&self) -> MutexGuard<'_, Questions> {
        // Every change under the lock is complete in itself, so a panic elsewhere leaves nothing half done.
        self.questions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an answer says of the token.
    fn read(&self, name: SessionKey, now: UnixTime, answer: Introspection) -> Told {
        let (claims, issued_at, expires_at) = match answer {
            Introspection::Active { claims, issued_at, expires_at } if self.rules.are_met_by(&claims) => {
                (claims, issued_at, expires_at)
            }
            Introspection::Active { .. } => {
                tracing::debug!(
                    "introspection: a token is active, and not of this issuer or for this audience"
                );
                return Ok(Verified::Invalid(TokenFault::Inactive));
            }
            Introspection::Inactive => return Ok(Verified::Invalid(TokenFault::Inactive)),
            Introspection::Unavailable(fault) => return Err(fault),
        };
        // A token's end that was told when it was issued still holds when the backend does not repeat it.
        let earlier = self.positives.get(&name).and_then(|positive| positive.identity.expires_at());
        let identity = subject_at(&claims, &self.rules.subject).and_then(|subject| {
            let session = match &self.rules.session {
                Some(path) => session_at(&claims, path)?,
                None => None,
            };
            Ok(Identity::new(subject, session, issued_at, expires_at.or(earlier), claims))
        });
        Ok(match identity {
            Err(fault) => Verified::Invalid(fault),
            Ok(identity) => match expires_at {
                // The backend's own word about the end counts; one that was told earlier is only a guess of ours by now.
                Some(end) if now >= end.saturating_add(self.rules.leeway) => Verified::Expired(identity),
                Some(_) | None => Verified::Live(identity),
            },
        })
    }

    /// Remembers what a token is, as it was told about `asked_at`.
    fn keep(&self, name: SessionKey, verified: &Verified, asked_at: UnixTime) {
        match verified {
            Verified::Live(identity) => {
                let kept = asked_at.saturating_add(self.rules.cache);
                // One that is taken a little beyond its end is taken no longer than the leeway; one that outlives what
                // was once said of its end is asked about as usual.
                let end = identity.expires_at();
                let ends = [end, end.map(|end| end.saturating_add(self.rules.leeway))];
                let end = ends.into_iter().flatten().find(|end| asked_at < *end);
                let until = end.map_or(kept, |end| end.min(kept));
                let bytes = 512 + 4 * identity.weight();
                self.negatives.remove(&name);
                self.positives.insert(name, Positive { identity: identity.clone(), until, bytes });
            }
            Verified::Invalid(TokenFault::Inactive) => {
                self.positives.remove(&name);
                self.negatives.insert(name, asked_at.saturating_add(NEGATIVE_KEPT));
            }
            Verified::Expired(_) | Verified::Invalid(_) => {
                self.positives.remove(&name);
            }
        }
    }

    /// Counts an answer; one that decides nothing is worth a line.
    fn tell(&self, told: &Told) {
        let word = match told {
            Ok(Verified::Live(_)) => "active",
            Ok(Verified::Expired(_)) => "expired",
            Ok(Verified::Invalid(TokenFault::Inactive)) => "inactive",
            Ok(Verified::Invalid(_)) => "unusable",
            Err(fault) => fault.word(),
        };
        self.meters.introspection(word);
        match told {
            Ok(Verified::Invalid(fault)) if *fault != TokenFault::Inactive => {
                tracing::error!(%fault, "introspection: check identity.subject and session.token.session");
            }
            Ok(_) => {}
            Err(fault @ BackendFault::ClientRejected { .. }) => {
                tracing::error!(%fault, "introspection: check this gateway's settings for the backend");
            }
            Err(fault) => tracing::warn!(%fault, "introspection"),
        }
    }
}

#[cfg(test)]
mod tests;
