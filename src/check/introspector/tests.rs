//! What is asked, how often, and what is made of the answer, with a backend that answers as it is told.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tokio::sync::Notify;

use super::*;
use crate::admit::AdmitRules;
use crate::admit::buckets::BucketRules;
use crate::backend::{Reply, SignIn};
use crate::clock::ManualClock;
use crate::meter::{TurnedAway, Turns};
use crate::outcome::{Answer, Capabilities, Revocation};
use crate::secret::Secret;
use crate::token::{Credentials, Ending, Pair, RefreshToken};

const START: u64 = 1_800_000_000;

/// What the backend says next, and from then on.
#[derive(Clone, Copy, Debug)]
enum Says {
    Active { ends: Option<u64> },
    Nameless,
    Inactive,
    Fault,
    Nothing,
    Panic,
}

#[derive(Debug)]
struct Telling {
    says: Mutex<Says>,
    asked: AtomicUsize,
    busy: AtomicUsize,
    most_busy: AtomicUsize,
    /// Where true, each answer waits to be let go.
    held: Mutex<bool>,
    gate: Notify,
}

impl Telling {
    fn says(&self, says: Says) {
        *self.says.lock().expect("not poisoned") = says;
    }

    fn hold(&self) {
        *self.held.lock().expect("not poisoned") = true;
    }

    fn let_go(&self) {
        *self.held.lock().expect("not poisoned") = false;
        self.gate.notify_waiters();
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    async fn tell(&self) -> Introspection {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let says = *self.says.lock().expect("not poisoned");
        let busy = self.busy.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_busy.fetch_max(busy, Ordering::SeqCst);
        let released = self.gate.notified();
        if *self.held.lock().expect("not poisoned") {
            released.await;
        }
        self.busy.fetch_sub(1, Ordering::SeqCst);
        let Value::Object(claims) = json!({"uuid": "u1", "sid": "s1"}) else { panic!("an object") };
        match says {
            Says::Active { ends } => Introspection::Active {
                claims,
                issued_at: None,
                expires_at: ends.map(|secs| UnixTime::from_secs(START + secs)),
            },
            Says::Nameless => Introspection::Active { claims: Map::new(), issued_at: None, expires_at: None },
            Says::Inactive => Introspection::Inactive,
            Says::Fault => {
                Introspection::Unavailable(BackendFault::NoDecision { status: 500, retry_after: None })
            }
            Says::Nothing => std::future::pending().await,
            Says::Panic => panic!("on order"),
        }
    }
}

impl SessionBackend for Telling {
    fn capabilities(&self) -> Capabilities {
        crate::backend::directory::Directory::CAPABILITIES
    }
    fn renew<'a>(&'a self, _: &'a Pair) -> Reply<'a, Answer> {
        Box::pin(async { panic!("nobody renews here") })
    }
    fn revoke<'a>(&'a self, _: &'a Ending) -> Reply<'a, Revocation> {
        Box::pin(async { panic!("nobody signs out here") })
    }
    fn sign_in<'a>(&'a self, _: &'a Credentials) -> Reply<'a, SignIn> {
        Box::pin(async { panic!("nobody signs in here") })
    }
    fn introspect<'a>(&'a self, _: &'a AccessToken) -> Reply<'a, Introspection> {
        Box::pin(self.tell())
    }
}

struct House {
    backend: Arc<Telling>,
    clock: Arc<ManualClock>,
    introspector: Arc<Introspector>,
    tasks: TaskTracker,
    meters: Arc<Meters>,
}

/// A house in which each network may bring as many strangers as it likes.
fn house(concurrency: usize) -> House {
    house_with(concurrency, BucketRules { burst: 1_000_000, per_second: 0 })
}

fn house_with(concurrency: usize, strangers: BucketRules) -> House {
    let backend = Arc::new(Telling {
        says: Mutex::new(Says::Active { ends: None }),
        asked: AtomicUsize::new(0),
        busy: AtomicUsize::new(0),
        most_busy: AtomicUsize::new(0),
        held: Mutex::new(false),
        gate: Notify::new(),
    });
    let rules = IntrospectRules {
        cache: Duration::from_secs(10),
        timeout: Duration::from_secs(3),
        concurrency,
        issuer: None,
        audience: Vec::new(),
        leeway: Duration::from_secs(5),
        subject: "uuid".into(),
        session: Some("sid".into()),
        max_size: 100,
        memory: 1 << 20,
    };
    let clock = Arc::new(ManualClock::at(UnixTime::from_secs(START)));
    let meters = Arc::new(Meters::new());
    let turns = AdmitRules { concurrency, strangers, ..AdmitRules::default() };
    let health = Arc::new(Health::new(turns.breaker, Arc::clone(&meters)));
    let admission = Admission::new(turns, health, (Turns::Questions, Arc::clone(&meters)));
    let introspector = Introspector::new(
        rules,
        (Arc::clone(&backend) as Arc<dyn SessionBackend>, admission),
        SessionKeys::new(&Secret::new(vec![1; 32]), "tests"),
        Arc::clone(&clock) as Arc<dyn Clock>,
        Arc::clone(&meters),
    );
    House { backend, clock, introspector: Arc::new(introspector), tasks: TaskTracker::new(), meters }
}

fn token(text: &str) -> AccessToken {
    AccessToken::parse(text).expect("a token")
}

impl House {
    async fn ask_as(&self, text: &str, standing: Standing) -> Result<(Verified, Seen), BackendFault> {
        self.ask_from(Network::None, text, standing).await
    }

    async fn ask_from(
        &self,
        network: Network,
        text: &str,
        standing: Standing,
    ) -> Result<(Verified, Seen), BackendFault> {
        self.introspector.presented(&token(text), (|| standing, network), self.clock.now()).await
    }

    /// A task that asks, and what it is told.
    fn asking(
        &self,
        text: &str,
        standing: Standing,
    ) -> tokio::task::JoinHandle<Result<Verified, BackendFault>> {
        let (introspector, token) = (Arc::clone(&self.introspector), token(text));
        let now = self.clock.now();
        self.tasks.spawn(async move {
            let told = introspector.presented(&token, (|| standing, Network::None), now).await;
            told.map(|(verified, _)| verified)
        })
    }

    async fn ask(&self, text: &str) -> Result<Verified, BackendFault> {
        self.ask_as(text, Standing::Known).await.map(|(verified, _)| verified)
    }

    fn later(&self, secs: u64) {
        self.clock.advance(Duration::from_secs(secs));
    }
}

fn is_live(told: &Result<Verified, BackendFault>) -> bool {
    matches!(told, Ok(Verified::Live(identity)) if identity.subject() == "u1")
}

const INACTIVE: Result<Verified, BackendFault> = Ok(Verified::Invalid(TokenFault::Inactive));

/// Lets every task that can go on do so.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

impl House {
    /// The same house by other rules.
    fn by(&self, change: impl FnOnce(&mut IntrospectRules), source: Source) -> Self {
        let inner = &self.introspector.0;
        let mut rules = inner.rules.clone();
        change(&mut rules);
        let asked = (Arc::clone(&self.backend) as Arc<dyn SessionBackend>, inner.keys.clone());
        let introspector = Introspector::successor(rules, asked, &self.introspector, source);
        Self {
            backend: Arc::clone(&self.backend),
            clock: Arc::clone(&self.clock),
            introspector: Arc::new(introspector),
            tasks: self.tasks.clone(),
            meters: Arc::clone(&self.meters),
        }
    }
}

#[tokio::test]
async fn what_was_told_counts_on_by_other_settings_where_it_means_the_same() {
    let before = house(64);
    assert!(is_live(&before.ask("a").await));
    let after = before.by(|rules| rules.timeout = Duration::from_secs(1), Source::Same);
    assert!(is_live(&after.ask("a").await));
    assert_eq!(after.backend.asked(), 1, "its word still counts");
    // What one of them forgets, both forget.
    before.introspector.forget(before.introspector.name(&token("a")));
    assert!(is_live(&after.ask("a").await));
    assert_eq!(after.backend.asked(), 2);
    for other in [
        before.by(|_| (), Source::Other),
        before.by(|rules| rules.subject = "sid".into(), Source::Same),
        before.by(|rules| rules.cache = Duration::ZERO, Source::Same),
    ] {
        let asked = other.backend.asked();
        assert!(other.ask("a").await.is_ok());
        assert_eq!(other.backend.asked(), asked + 1, "it is asked anew");
    }
}

#[test]
fn what_is_told_of_a_token_is_held_against_issuer_and_audience() {
    let rules = house(1).introspector.0.rules.clone();
    let met = |issuer: Option<&str>, audience: &[&str], claims: Value| {
        let audience = audience.iter().map(|&text| text.to_owned()).collect();
        let rules = IntrospectRules { issuer: issuer.map(str::to_owned), audience, ..rules.clone() };
        rules.are_met_by(claims.as_object().expect("an object"))
    };
    let id = Some("https://id.example");
    for (issuer, audience, claims, wanted) in [
        (None, &[][..], json!({}), true),
        (None, &[], json!({"iss": 3, "aud": 3}), true),
        (id, &[], json!({"iss": "https://id.example"}), true),
        (id, &[], json!({"iss": "https://id.example/"}), false),
        (id, &[], json!({"iss": ["https://id.example"]}), false),
        (id, &[], json!({"aud": "https://id.example"}), false),
        (None, &["app", "api"], json!({"aud": "api"}), true),
        (None, &["app", "api"], json!({"aud": ["x", "app"]}), true),
        (None, &["app"], json!({"aud": "App"}), false),
        (None, &["app"], json!({"aud": "app x"}), false),
        (None, &["app"], json!({"aud": ["x", "y"]}), false),
        (None, &["app"], json!({"aud": []}), false),
        (None, &["app"], json!({"aud": ["app", 3]}), false),
        (None, &["app"], json!({"aud": {"app": "app"}}), false),
        (None, &["app"], json!({"aud": null}), false),
        (None, &["app"], json!({"iss": "https://id.example"}), false),
        (id, &["app"], json!({"iss": "https://id.example", "aud": "app"}), true),
        (id, &["app"], json!({"iss": "https://other.example", "aud": "app"}), false),
        (id, &["app"], json!({"aud": "app"}), false),
    ] {
        assert_eq!(met(issuer, audience, claims.clone()), wanted, "{issuer:?} {audience:?} {claims}");
    }
}

#[tokio::test]
async fn an_active_token_that_is_not_for_us_is_as_good_as_inactive() {
    let before = house(64);
    assert!(is_live(&before.ask("a").await));
    let after = before.by(|rules| rules.audience = vec!["app".into()], Source::Same);
    assert_eq!(after.ask("a").await, INACTIVE, "what was told by other rules does not count");
    assert_eq!(after.ask("a").await, INACTIVE);
    assert_eq!(after.backend.asked(), 2, "it is remembered as one");
}

#[tokio::test]
async fn a_question_under_way_is_joined_by_those_who_come_by_other_settings() {
    let before = house(64);
    before.backend.hold();
    let asking = {
        let introspector = Arc::clone(&before.introspector);
        let now = before.clock.now();
        before.tasks.spawn(async move {
            introspector.presented(&token("a"), (|| Standing::Known, Network::None), now).await
        })
    };
    settle().await;
    let after = before.by(|_| (), Source::Same);
    let joining = {
        let (introspector, now) = (Arc::clone(&after.introspector), after.clock.now());
        after.tasks.spawn(async move {
            introspector.presented(&token("a"), (|| Standing::Known, Network::None), now).await
        })
    };
    settle().await;
    before.backend.let_go();
    assert!(asking.await.expect("no panic").is_ok() && joining.await.expect("no panic").is_ok());
    assert_eq!(after.backend.asked(), 1);
    after.introspector.drain().await;
}

#[tokio::test]
async fn a_positive_answer_is_kept_ten_seconds_and_a_revoked_token_is_refused_after_them() {
    let house = house(64);
    assert!(is_live(&house.ask("a").await));
    house.backend.says(Says::Inactive);
    house.later(9);
    assert!(is_live(&house.ask("a").await));
    assert_eq!(house.backend.asked(), 1);
    house.later(1);
    assert_eq!(house.ask("a").await, INACTIVE);
    assert_eq!(house.backend.asked(), 2);
}

#[tokio::test]
async fn a_positive_answer_is_never_kept_longer_than_the_token_lives() {
    let house = house(64);
    house.backend.says(Says::Active { ends: Some(4) });
    assert!(is_live(&house.ask("a").await));
    house.backend.says(Says::Inactive);
    house.later(3);
    assert!(is_live(&house.ask("a").await));
    house.later(1);
    assert_eq!(house.ask("a").await, INACTIVE);
}

#[tokio::test]
async fn a_token_that_the_backend_takes_beyond_its_own_end_is_over_after_the_leeway() {
    let house = house(64);
    house.backend.says(Says::Active { ends: Some(4) });
    house.later(8);
    assert!(is_live(&house.ask("a").await));
    house.later(1);
    assert!(matches!(house.ask("a").await, Ok(Verified::Expired(_))));
}

#[tokio::test]
async fn a_negative_answer_is_kept_five_seconds() {
    let house = house(64);
    house.backend.says(Says::Inactive);
    assert_eq!(house.ask("a").await, INACTIVE);
    house.backend.says(Says::Active { ends: None });
    house.later(4);
    assert_eq!(house.ask("a").await, INACTIVE);
    assert_eq!(house.backend.asked(), 1);
    house.later(1);
    assert!(is_live(&house.ask("a").await));
}

#[tokio::test]
async fn a_fault_is_told_never_kept_and_never_let_in() {
    let house = house(64);
    house.backend.says(Says::Fault);
    for n in 1..4 {
        assert_eq!(house.ask("a").await, Err(BackendFault::NoDecision { status: 500, retry_after: None }));
        assert_eq!(house.backend.asked(), n);
    }
    house.backend.says(Says::Active { ends: None });
    assert!(is_live(&house.ask("a").await), "as soon as it is back");
    house.later(10);
    house.backend.says(Says::Fault);
    assert!(house.ask("a").await.is_err(), "what was told once lets nobody in for ever");
}

#[tokio::test]
async fn claims_that_name_nobody_let_nobody_in() {
    let house = house(64);
    house.backend.says(Says::Nameless);
    assert_eq!(house.ask("a").await, Ok(Verified::Invalid(TokenFault::NoSubject)));
}

#[tokio::test]
async fn a_token_too_long_is_not_asked_about() {
    let house = house(64);
    assert_eq!(house.ask(&"x".repeat(101)).await, Ok(Verified::Invalid(TokenFault::TooLong)));
    assert_eq!(house.backend.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn all_who_ask_at_a_time_share_one_question_and_silence_ends() {
    let house = house(64);
    house.backend.says(Says::Nothing);
    let asking: Vec<_> = (0..50)
        .map(|_| {
            let introspector = Arc::clone(&house.introspector);
            house.tasks.spawn(async move {
                introspector
                    .presented(&token("a"), (|| Standing::Known, Network::None), UnixTime::from_secs(START))
                    .await
            })
        })
        .collect();
    for told in asking {
        assert_eq!(told.await.expect("no panic"), Err(BackendFault::Slow));
    }
    assert_eq!(house.backend.asked(), 1);
    house.backend.says(Says::Active { ends: None });
    assert!(is_live(&house.ask("a").await));
}

#[tokio::test]
async fn who_hangs_up_does_not_stop_the_question_for_others() {
    let house = house(64);
    house.backend.hold();
    let first = {
        let introspector = Arc::clone(&house.introspector);
        house.tasks.spawn(async move {
            let _told = introspector
                .presented(&token("a"), (|| Standing::Known, Network::None), UnixTime::from_secs(START))
                .await;
        })
    };
    settle().await;
    first.abort();
    settle().await;
    house.backend.let_go();
    assert!(is_live(&house.ask("a").await));
    assert_eq!(house.backend.asked(), 1);
}

#[tokio::test]
async fn strangers_have_a_tenth_and_only_they_wait_when_it_is_full() {
    let house = house(20);
    house.backend.hold();
    let strangers: Vec<_> = (0..5).map(|n| house.asking(&format!("s{n}"), Standing::Stranger)).collect();
    settle().await;
    assert_eq!(house.backend.asked(), 2, "a tenth of twenty");
    let users: Vec<_> = (0..5).map(|n| house.asking(&format!("u{n}"), Standing::Known)).collect();
    settle().await;
    assert_eq!(house.backend.asked(), 7, "no user waits");
    let text = house.meters.text();
    for line in [
        "doorkeep_introspection_waiting{lane=\"stranger\"} 3",
        "doorkeep_introspection_waiting{lane=\"known\"} 0",
        "doorkeep_introspection_wait_seconds_count{lane=\"known\"} 5",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    house.backend.let_go();
    for told in strangers.into_iter().chain(users) {
        assert!(is_live(&told.await.expect("no panic")));
    }
}

#[tokio::test(start_paused = true)]
async fn a_network_may_bring_few_strangers_and_takes_nothing_from_users_or_other_networks() {
    let house = house_with(64, BucketRules { burst: 3, per_second: 2 });
    let (crowd, lonely) = (Network::V4([192, 0, 2]), Network::V4([198, 51, 100]));
    let mut asked = 0;
    for n in 0..10 {
        match house.ask_from(crowd, &format!("s{n}"), Standing::Stranger).await {
            Ok(_) => asked += 1,
            Err(fault) => assert_eq!(fault, BackendFault::Busy),
        }
    }
    assert_eq!((asked, house.backend.asked()), (3, 3));
    assert_eq!(house.meters.turned_away_for(Turns::Questions, "stranger", TurnedAway::Rate), 7);
    assert_eq!(house.meters.introspections("busy"), 7);
    assert!(house.ask_from(crowd, "user", Standing::Known).await.is_ok(), "a user of that network");
    assert!(house.ask_from(lonely, "s", Standing::Stranger).await.is_ok(), "a stranger of another one");
    assert!(house.ask_from(crowd, "s0", Standing::Stranger).await.is_ok(), "what is known costs nothing");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(house.ask_from(crowd, "more", Standing::Stranger).await.is_ok());
    assert_eq!(house.ask_from(crowd, "and-more", Standing::Stranger).await, Err(BackendFault::Busy));
}

#[tokio::test]
async fn users_wait_for_their_turn_and_never_more_than_the_limit_are_asked_about() {
    let house = house(2);
    house.backend.hold();
    let asking: Vec<_> = (0..6)
        .map(|n| {
            let introspector = Arc::clone(&house.introspector);
            house.tasks.spawn(async move {
                let token = token(&format!("t{n}"));
                introspector
                    .presented(&token, (|| Standing::Known, Network::None), UnixTime::from_secs(START))
                    .await
            })
        })
        .collect();
    settle().await;
    assert_eq!(house.backend.asked(), 2);
    house.backend.let_go();
    for told in asking {
        assert!(told.await.expect("no panic").is_ok());
    }
    assert_eq!(house.backend.most_busy.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_token_that_was_active_before_is_nobody_stranger() {
    let house = house(10);
    assert!(is_live(&house.ask("user").await));
    house.later(11);
    house.backend.hold();
    let strangers = ["x", "y"].map(|text| house.asking(text, Standing::Stranger));
    settle().await;
    assert_eq!(house.backend.asked(), 2, "one of them waits");
    let user = house.asking("user", Standing::Stranger);
    settle().await;
    assert_eq!(house.backend.asked(), 3, "and this one does not");
    house.backend.let_go();
    assert!(user.await.expect("no panic").is_ok());
    for told in strangers {
        assert!(told.await.expect("no panic").is_ok());
    }
}

#[tokio::test]
async fn made_up_tokens_push_no_users_answer_out() {
    let house = house(64);
    assert!(is_live(&house.ask("user").await));
    house.backend.says(Says::Inactive);
    for n in 0..(2 * NEGATIVES) {
        assert_eq!(
            house.ask_as(&format!("x{n}"), Standing::Stranger).await,
            Ok((Verified::Invalid(TokenFault::Inactive), Seen::First))
        );
    }
    assert!(is_live(&house.ask("user").await));
    assert_eq!(house.backend.asked(), 2 * NEGATIVES + 1);
    assert!(house.introspector.0.negatives.len() <= NEGATIVES);
}

#[tokio::test]
async fn what_was_asked_before_a_token_was_forgotten_is_not_kept() {
    let house = house(64);
    house.backend.hold();
    let early = {
        let introspector = Arc::clone(&house.introspector);
        house.tasks.spawn(async move {
            introspector
                .presented(&token("a"), (|| Standing::Known, Network::None), UnixTime::from_secs(START))
                .await
        })
    };
    settle().await;
    // A renewal has replaced it meanwhile.
    house.introspector.forget(house.introspector.name(&token("a")));
    house.backend.let_go();
    assert!(early.await.expect("no panic").is_ok());
    house.backend.says(Says::Inactive);
    assert_eq!(house.ask("a").await, INACTIVE);
    assert_eq!(house.backend.asked(), 2);
}

#[tokio::test]
async fn a_panic_on_the_way_is_a_fault_for_those_who_wait_and_for_nobody_else() {
    let house = house(1);
    house.backend.says(Says::Panic);
    assert_eq!(house.ask("a").await, Err(BackendFault::Internal));
    house.backend.says(Says::Active { ends: None });
    assert!(is_live(&house.ask("a").await), "its turn was given back");
}

#[tokio::test]
async fn what_the_answer_says_of_an_issued_token_is_taken_and_its_end_with_it() {
    let house = house(64);
    let tokens = TokenSet {
        access: token("new"),
        refresh: RefreshToken::parse("r").expect("a token"),
        rotated: false,
        session: None,
        access_expires: Some(UnixTime::from_secs(START + 4)),
        refresh_expires: None,
        received_at: UnixTime::from_secs(START),
    };
    house.backend.says(Says::Inactive);
    // It was unknown a moment ago, and that is remembered.
    assert_eq!(house.ask("new").await, INACTIVE);
    let Value::Object(claims) = json!({"uuid": "u1"}) else { panic!("an object") };
    let told = house.introspector.issued(&tokens, Some(claims), (Network::None, house.clock.now())).await;
    assert!(is_live(&told));
    assert!(is_live(&house.ask("new").await));
    assert_eq!(house.backend.asked(), 1, "nobody is asked about what was told already");
    house.later(4);
    assert_eq!(house.ask("new").await, INACTIVE);
    // Without a word about it the backend is asked; its end is known from beside it all the same.
    house.backend.says(Says::Active { ends: None });
    let told = house.introspector.issued(&tokens, None, (Network::None, UnixTime::from_secs(START))).await;
    let Ok(Verified::Live(identity)) = told else { panic!("live") };
    assert_eq!(identity.expires_at(), Some(UnixTime::from_secs(START + 4)));
}

#[tokio::test]
async fn notes_vouch_for_one_token_at_a_time() {
    let house = house_with(64, BucketRules { burst: 3, per_second: 0 });
    *house.backend.says.lock().expect("not poisoned") = Says::Inactive;
    let vouched = Standing::Vouched(SessionKey([7; 32]));
    let crowd = Network::of("192.0.2.1".parse().expect("an address"));
    let answers = |from: usize| {
        let house = &house;
        async move {
            let mut busy = 0;
            for n in from..from + 50 {
                let told = house.ask_from(crowd, &format!("made-up-{n}"), vouched).await;
                busy += usize::from(told == Err(BackendFault::Busy));
            }
            busy
        }
    };
    assert_eq!(answers(0).await, 46, "one that they vouch for, and as many as strangers may bring");
    house.clock.advance(NEGATIVE_KEPT);
    let again = house.ask_from(crowd, "made-up-0", vouched).await;
    assert!(again.is_ok(), "the same token as often as it comes");
    house.clock.advance(VOUCHED_FOR);
    assert_eq!(answers(100).await, 49, "another one after a while");
    let other = Standing::Vouched(SessionKey([8; 32]));
    assert!(
        house.ask_from(crowd, "somebody-else", other).await.is_ok(),
        "each session's notes count for themselves"
    );
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_tells_nothing_is_spared_and_tried_again_for_users_only() {
    let house = house(64);
    house.backend.says(Says::Fault);
    for n in 0..50 {
        assert!(house.ask_as(&format!("s{n}"), Standing::Stranger).await.is_err());
    }
    assert_eq!(house.meters.breaker_opened.get(), 0, "strangers open nothing");
    for n in 0..5 {
        assert!(house.ask(&format!("u{n}")).await.is_err());
    }
    assert_eq!((house.meters.breaker_opened.get(), house.backend.asked()), (1, 55));
    for standing in [Standing::Known, Standing::Stranger] {
        let told = house.ask_as("another", standing).await;
        assert!(matches!(told, Err(BackendFault::Resting { .. })), "{told:?}");
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    house.backend.says(Says::Active { ends: None });
    assert!(house.ask_as("another", Standing::Stranger).await.is_err(), "no stranger tries");
    assert_eq!(house.backend.asked(), 55);
    assert!(is_live(&house.ask("u0").await));
    assert!(house.ask_as("another", Standing::Stranger).await.is_ok());
    assert_eq!(house.meters.breaker.get(), 0);
}
