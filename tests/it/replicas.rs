//! Several replicas share renewals through a real Redis: no session is lost by where its requests come to.

use std::net::SocketAddr;
use std::time::Duration;

use doorkeep::assemble::Doorkeep;
use tokio::task::JoinSet;

use crate::support::{
    Answer, Ask, Conn, Fault, Gate, House, Jar, Plan, Redis, Spent, Step, Upstream, ok, until,
};

/// Three gateways with one backend, one app and one Redis.
struct Fleet {
    house: House,
    redis: Redis,
    doors: Vec<Doorkeep>,
}

impl Fleet {
    async fn start() -> Self {
        Self::with("", "").await
    }

    /// `renew`: lines of `[session.renew]`; `share`: further lines of `[share]`.
    async fn with(renew: &str, share: &str) -> Self {
        let redis = Redis::start().await;
        let tasks = tokio_util::task::TaskTracker::new();
        let upstream = Upstream::start(&tasks).await;
        let house = House::without_door(crate::support::house::START, upstream, tasks);
        let rules = format!("{}{share}\n", redis.table());
        let mut doors = Vec::new();
        for _ in 0..3 {
            doors.push(house.another(Plan { renew, rules: &rules, ..Plan::default() }).await);
        }
        let fleet = Self { house, redis, doors };
        // A store that is new is trusted after a moment: owners of claims could be on their way back.
        fleet.up().await;
        tokio::time::sleep(Duration::from_millis(2100)).await;
        fleet
    }

    async fn up(&self) {
        for door in &self.doors {
            until("the share to be up", || door.meters.share_up.get() == 1).await;
        }
    }

    fn addr(&self, n: usize) -> SocketAddr {
        self.doors[n % self.doors.len()].http
    }

    async fn ask(&self, n: usize, ask: &Ask) -> Answer {
        Conn::open(self.addr(n)).await.ask(ask).await
    }

    /// A tab that the first replica serves and whose app answers once the gate is open.
    async fn slow_tab(&self, jar: &Jar) -> (Gate, Conn) {
        let gate = Gate::closed();
        let app = vec![Step::ReadBody, Step::Wait(gate.clone()), Step::Send(ok("late"))];
        self.house.upstream.on("/slow", app);
        let mut tab = Conn::open(self.addr(0)).await;
        tab.send(&Ask::script("/slow").jar(jar).bytes()).await;
        gate.reached_by(1).await;
        (gate, tab)
    }

    /// The same request `count` times at once, spread over the replicas.
    async fn crowd(&self, jar: &Jar, count: usize) -> JoinSet<Answer> {
        let mut waiting = JoinSet::new();
        for n in 0..count {
            let mut conn = Conn::open(self.addr(n)).await;
            conn.send(&Ask::script("/data").jar(jar).bytes()).await;
            waiting.spawn(async move { conn.answer("GET").await });
        }
        waiting
    }

    fn counted(&self, outcome: &'static str) -> u64 {
        self.doors.iter().map(|door| door.meters.renewals(outcome)).sum()
    }

    /// No token was presented twice, and the session of this jar goes on wherever it comes to.
    async fn nothing_is_lost(&self, jar: &Jar) {
        assert_eq!(self.house.backend.reuses(), 0, "a token was presented twice");
        for n in 0..self.doors.len() {
            self.ask(n, &Ask::page("/after").jar(jar)).await.expect(200);
        }
        assert_eq!(self.house.backend.reuses(), 0);
    }
}

/// All were served with one new pair; a jar that took it.
fn newest(old: &Jar, answers: &[Answer]) -> Jar {
    let mut jar = old.clone();
    for answer in answers {
        assert_eq!(answer.status, 200, "{}", answer.text());
        let mut own = old.clone();
        own.take(answer);
        assert_ne!(own.session(), old.session());
        jar.take(answer);
        assert_eq!(jar.session(), own.session(), "all bring the same pair");
    }
    jar
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_requests_over_three_replicas_make_one_renewal() {
    let fleet = Fleet::start().await;
    let old = fleet.house.expired().await;
    let gate = Gate::closed();
    fleet.house.backend.fails(Fault::Slow(gate.clone()));
    let waiting = fleet.crowd(&old, 200).await;
    gate.reached_by(1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    gate.open();
    let answers = waiting.join_all().await;
    assert_eq!(fleet.house.backend.renewals().len(), 1);
    fleet.nothing_is_lost(&newest(&old, &answers)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_another_replicas_renewals_holds_up_nobody_elses() {
    let fleet = Fleet::with("concurrency = 2", "").await;
    let mut jars = Vec::new();
    for _ in 0..3 {
        jars.push(fleet.house.signed_in().await);
    }
    fleet.house.later(610);
    let gate = Gate::closed();
    fleet.house.backend.fails(Fault::Slow(gate.clone()));
    let mut waiting = JoinSet::new();
    // Two renewals hang at one replica, and all places of the other one could go to waiting for them.
    for n in 0..2 {
        for jar in &jars[..2] {
            let mut conn = Conn::open(fleet.addr(n)).await;
            conn.send(&Ask::script("/data").jar(jar).bytes()).await;
            waiting.spawn(async move { conn.answer("GET").await });
        }
        if n == 0 {
            gate.reached_by(2).await;
            fleet.house.backend.fails(Fault::None);
        }
    }
    until("they wait there", || fleet.doors[1].meters.flights.get() == 2).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    fleet.ask(1, &Ask::script("/data").jar(&jars[2])).await.expect(200);
    assert_eq!(fleet.doors[1].meters.flights.get(), 2, "the two still wait");
    gate.open();
    assert!(waiting.join_all().await.iter().all(|answer| answer.status == 200));
    assert_eq!(fleet.house.backend.renewals().len(), 3);
    for jar in &jars {
        let answer = fleet.ask(2, &Ask::script("/data").jar(jar)).await.expect(200);
        fleet.nothing_is_lost(&newest(jar, &[answer])).await;
    }
}

/// The first replica renews a session for a request that the app answers late. Meanwhile the browser's other tabs have the
/// second one renew it further, and come back with what that brought. The late answer, and the cookies before and after it.
async fn late_answer(fleet: &Fleet, forgotten: Duration) -> (Answer, Jar, Jar) {
    let old = fleet.house.expired().await;
    let (gate, mut slow) = fleet.slow_tab(&old).await;
    let mut jar = old.clone();
    for _ in 0..2 {
        jar.take(&fleet.ask(1, &Ask::script("/data").jar(&jar)).await.expect(200));
        fleet.house.later(610);
    }
    jar.take(&fleet.ask(1, &Ask::script("/data").jar(&jar)).await.expect(200));
    fleet.ask(1, &Ask::script("/data").jar(&jar)).await.expect(200);
    tokio::time::sleep(forgotten).await;
    gate.open();
    let mut late = jar.clone();
    let answer = slow.answer("GET").await.expect(200);
    late.take(&answer);
    (answer, jar, late)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_answer_sets_nothing_that_other_replicas_have_renewed_and_forgotten() {
    // What was confirmed is forgotten everywhere after three seconds.
    let fleet = Fleet::with("replay = \"1s\"\ntimeout = \"2s\"\ngive_up = \"2s\"", "").await;
    let (answer, _, jar) = late_answer(&fleet, Duration::from_millis(4000)).await;
    assert!(answer.set_cookies().is_empty(), "{:?}", answer.set_cookies());
    fleet.house.later(610);
    let answer = fleet.ask(2, &Ask::page("/page").jar(&jar)).await.expect(200);
    fleet.nothing_is_lost(&newest(&jar, &[answer])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_answer_brings_what_other_replicas_have_renewed_meanwhile() {
    let fleet = Fleet::with("replay = \"1h\"", "").await;
    let (answer, newest_then, own) = late_answer(&fleet, Duration::ZERO).await;
    assert!(answer.cookie("refresh_token").is_some());
    assert_eq!(own.session(), newest_then.session(), "what it sets is the newest pair");
    fleet.nothing_is_lost(&own).await;
    assert_eq!(fleet.house.backend.renewals().len(), 3);
    fleet.house.later(610);
    let answer = fleet.ask(2, &Ask::page("/page").jar(&own)).await.expect(200);
    fleet.nothing_is_lost(&newest(&own, &[answer])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_never_sets_what_another_replica_has_just_replaced() {
    let fleet = Fleet::start().await;
    // An early renewal whose cookies missed the last answer before the browser was idle.
    let old = fleet.house.due().await;
    fleet.ask(0, &Ask::page("/page").jar(&old)).await.expect(200);
    until("the early renewal", || fleet.counted("renewed") == 1).await;
    fleet.house.later(350);
    // What it brought is due in turn. One tab is given it by the first replica, and waits for the app ...
    let (gate, mut slow) = fleet.slow_tab(&old).await;
    // ... and meanwhile the others have the second one renew it.
    let mut jar = old.clone();
    jar.take(&fleet.ask(1, &Ask::script("/data").jar(&jar)).await.expect(200));
    let given = jar.clone();
    assert_ne!(given.session(), old.session());
    crate::support::within("the next renewal", async {
        while jar.session() == given.session() {
            jar.take(&fleet.ask(1, &Ask::script("/data").jar(&jar)).await.expect(200));
        }
    })
    .await;
    fleet.ask(1, &Ask::script("/data").jar(&jar)).await.expect(200);
    gate.open();
    let mut own = jar.clone();
    own.take(&slow.answer("GET").await.expect(200));
    assert_eq!(own.session(), jar.session(), "the browser would be left with tokens that are spent");
    assert_eq!(fleet.house.backend.renewals().len(), 2);
    fleet.nothing_is_lost(&own).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_of_renewals_is_followed_from_any_replica() {
    let fleet = Fleet::start().await;
    let first = fleet.house.expired().await;
    let mut jars = vec![first.clone()];
    for n in 0..5 {
        let mut jar = jars.last().unwrap().clone();
        jar.take(&fleet.ask(n, &Ask::page("/page").jar(&jar)).await.expect(200));
        jars.push(jar);
        fleet.house.later(610);
    }
    // The first cookies come back to each replica: whatever each has seen, all lead to the newest.
    let mut last = jars.last().unwrap().clone();
    for n in 0..3 {
        let answer = fleet.ask(n, &Ask::script("/late").jar(&first)).await.expect(200);
        let mut jar = first.clone();
        jar.take(&answer);
        last = jar;
    }
    fleet.nothing_is_lost(&last).await;
    assert_eq!(fleet.house.backend.renewals().len(), 6, "each pair was presented once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_outlives_the_replica_that_brought_it() {
    let mut fleet = Fleet::start().await;
    let old = fleet.house.expired().await;
    // The client hangs up, so nobody has the new pair; then the replica goes for good.
    let gate = Gate::closed();
    fleet.house.backend.fails_next(Fault::Slow(gate.clone()));
    let mut conn = Conn::open(fleet.addr(0)).await;
    conn.send(&Ask::page("/lost").jar(&old).bytes()).await;
    gate.reached_by(1).await;
    drop(conn);
    gate.open();
    until("the flight's end", || fleet.counted("renewed") == 1).await;
    drop(fleet.doors.remove(0));
    fleet.house.later(1200);
    let answer = fleet.ask(1, &Ask::page("/again").jar(&old)).await.expect(200);
    assert_eq!(
        fleet.house.backend.renewals().len(),
        2,
        "the pair that nobody got was over and was renewed in turn"
    );
    fleet.nothing_is_lost(&newest(&old, &[answer])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_replica_has_no_room_for_the_others_have_all_the_same() {
    let fleet = Fleet::with("memory = \"1B\"", "").await;
    let rules = fleet.redis.table();
    let roomy = fleet.house.another(Plan { rules: &rules, ..Plan::default() }).await;
    let old = fleet.house.expired().await;
    let answer = fleet.ask(0, &Ask::page("/page").jar(&old)).await.expect(200);
    // The answer was cut on its way.
    let again = Conn::open(roomy.http).await.ask(&Ask::page("/page").jar(&old)).await.expect(200);
    assert_eq!((fleet.house.backend.renewals().len(), fleet.house.backend.reuses()), (1, 0));
    newest(&old, &[answer, again]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signing_out_at_one_replica_counts_at_all() {
    let fleet = Fleet::start().await;
    let jar = fleet.house.signed_in().await;
    for n in 0..3 {
        fleet.ask(n, &Ask::page("/page").jar(&jar)).await.expect(200);
    }
    let out = Ask::script("/.doorkeep/sign-out").method("POST").jar(&jar);
    fleet.ask(0, &out).await.expect(204);
    for n in 0..3 {
        let mut over = false;
        for _ in 0..100 {
            over = fleet.ask(n, &Ask::page("/page").jar(&jar)).await.status == 302;
            if over {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(over, "replica {n} knows within a second");
    }
    assert!(fleet.house.backend.renewals().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_hear_of_each_other_by_new_settings_too() {
    let fleet = Fleet::start().await;
    let (old, leaving) = (fleet.house.expired().await, fleet.house.signed_in().await);
    fleet.ask(0, &Ask::page("/page").jar(&old)).await.expect(200);
    let secret = format!("secret = \"{}\"", crate::support::house::OWN_SECRET);
    let both =
        secret.replace("secret = ", "secret = [\"a-new-secret-of-these-tests-0123456789abcdef\", ") + "]";
    let rules = fleet.redis.table();
    let text = fleet.house.toml(Plan { rules: &rules, ..Plan::default() }).replace(&secret, &both);
    for _ in 0..2 {
        for door in &fleet.doors {
            door.change(doorkeep::config::Settings::parse(&text).unwrap()).unwrap();
        }
    }
    let answer = fleet.ask(1, &Ask::page("/page").jar(&old)).await.expect(200);
    assert_eq!(fleet.house.backend.renewals().len(), 1, "what was stored before opens after");
    let jar = newest(&old, &[answer]);
    fleet.house.later(610);
    let renewed = [fleet.ask(2, &Ask::page("/page").jar(&jar)).await.expect(200)];
    let again = [fleet.ask(0, &Ask::page("/page").jar(&jar)).await.expect(200)];
    assert_eq!(newest(&jar, &renewed).session(), newest(&jar, &again).session());
    assert_eq!(fleet.house.backend.renewals().len(), 2);
    fleet.ask(0, &Ask::script("/.doorkeep/sign-out").method("POST").jar(&leaving)).await.expect(204);
    for n in 1..3 {
        crate::support::within("the other replicas to know", async {
            while fleet.ask(n, &Ask::page("/page").jar(&leaving)).await.status != 302 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
    for door in &fleet.doors {
        assert_eq!(door.meters.share_unreadable.get(), 0);
    }
    fleet.nothing_is_lost(&newest(&jar, &again)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sign_out_races_a_renewal_at_another_replica_and_wins() {
    let fleet = Fleet::start().await;
    let old = fleet.house.due().await;
    let gate = Gate::closed();
    fleet.house.backend.fails_next(Fault::Slow(gate.clone()));
    let mut early = Conn::open(fleet.addr(0)).await;
    early.send(&Ask::page("/page").jar(&old).bytes()).await;
    gate.reached_by(1).await;
    let out = Ask::script("/.doorkeep/sign-out").method("POST").jar(&old);
    let mut leaving = Conn::open(fleet.addr(1)).await;
    leaving.send(&out.bytes()).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    gate.open();
    leaving.answer("POST").await.expect(204);
    let answer = early.answer("GET").await;
    let mut jar = old.clone();
    jar.take(&answer);
    fleet.house.later(650);
    for n in 0..3 {
        fleet.ask(n, &Ask::page("/page").jar(&jar)).await.expect(302);
        fleet.ask(n, &Ask::page("/page").jar(&old)).await.expect(302);
    }
    assert_eq!(fleet.house.backend.reuses(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_away_live_sessions_are_served_and_expired_ones_wait() {
    let mut fleet = Fleet::with(r#"timeout = "700ms""#, "").await;
    let (live, old) = (fleet.house.backend.sign_in("ravi").await, fleet.house.signed_in().await);
    fleet.redis.kill();
    for n in 0..3 {
        fleet.ask(n, &Ask::page("/page").jar(&live)).await.expect(200);
    }
    fleet.house.later(610);
    for n in 0..3 {
        let answer = fleet.ask(n, &Ask::page("/page").jar(&old)).await.expect(503);
        assert!(answer.set_cookies().is_empty(), "nobody is signed out");
        assert!(answer.line("retry-after").is_some());
    }
    assert!(fleet.house.backend.renewals().is_empty(), "nothing is presented");
    fleet.redis.restart().await;
    fleet.up().await;
    let mut answers = Vec::new();
    for n in 0..3 {
        let mut answer = fleet.ask(n, &Ask::page("/page").jar(&old)).await;
        while answer.status == 503 {
            answer = fleet.ask(n, &Ask::page("/page").jar(&old)).await;
        }
        answers.push(answer);
    }
    assert_eq!(fleet.house.backend.renewals().len(), 1);
    fleet.nothing_is_lost(&newest(&old, &answers)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_comes_back_empty_in_the_middle_of_a_renewal() {
    let mut fleet = Fleet::start().await;
    let old = fleet.house.expired().await;
    let gate = Gate::closed();
    fleet.house.backend.fails_next(Fault::Slow(gate.clone()));
    let waiting = fleet.crowd(&old, 3).await;
    gate.reached_by(1).await;
    fleet.redis.kill();
    fleet.redis.restart().await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    gate.open();
    let answers = waiting.join_all().await;
    assert_eq!(fleet.house.backend.renewals().len(), 1, "the owner took its claim back");
    fleet.nothing_is_lost(&newest(&old, &answers)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_comes_back_empty_after_a_renewal_that_nobody_took() {
    let mut fleet = Fleet::start().await;
    let old = fleet.house.expired().await;
    let answer = fleet.ask(0, &Ask::page("/page").jar(&old)).await.expect(200);
    fleet.redis.kill();
    fleet.redis.restart().await;
    fleet.up().await;
    // The answer was cut on its way: the old cookies come to another replica.
    let again = fleet.ask(1, &Ask::page("/page").jar(&old)).await.expect(200);
    assert_eq!(fleet.house.backend.renewals().len(), 1, "the replica that remembers told it again");
    fleet.nothing_is_lost(&newest(&old, &[answer, again])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_emptied_in_the_middle_of_a_renewal_and_no_connection_breaks() {
    let fleet = Fleet::start().await;
    let old = fleet.house.expired().await;
    let gate = Gate::closed();
    fleet.house.backend.fails(Fault::Slow(gate.clone()));
    let mut waiting = fleet.crowd(&old, 1).await;
    gate.reached_by(1).await;
    assert!(fleet.redis.say("FLUSHALL").await.unwrap().starts_with("+OK"));
    // At once, before the owner takes its claim back by itself.
    let others = fleet.crowd(&old, 30).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    gate.open();
    let mut answers = others.join_all().await;
    answers.push(waiting.join_next().await.unwrap().unwrap());
    assert_eq!(fleet.house.backend.renewals().len(), 1, "the owner took its claim back");
    fleet.nothing_is_lost(&newest(&old, &answers)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_emptied_after_a_renewal_and_no_connection_breaks() {
    let fleet = Fleet::start().await;
    let old = fleet.house.expired().await;
    let answer = fleet.ask(0, &Ask::page("/page").jar(&old)).await.expect(200);
    assert!(fleet.redis.say("FLUSHALL").await.unwrap().starts_with("+OK"));
    // The answer was cut on its way: the old cookies come to the replicas that know of nothing.
    let again = fleet.ask(1, &Ask::page("/page").jar(&old)).await.expect(200);
    assert_eq!(fleet.house.backend.renewals().len(), 1, "the replica that remembers told it again");
    fleet.nothing_is_lost(&newest(&old, &[answer, again])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_pauses_in_the_middle_of_a_renewal() {
    let fleet = Fleet::start().await;
    let old = fleet.house.expired().await;
    let gate = Gate::closed();
    fleet.house.backend.fails_next(Fault::Slow(gate.clone()));
    let waiting = fleet.crowd(&old, 30).await;
    gate.reached_by(1).await;
    fleet.redis.pause();
    gate.open();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    fleet.redis.resume();
    let answers = waiting.join_all().await;
    assert_eq!(fleet.house.backend.renewals().len(), 1);
    fleet.nothing_is_lost(&newest(&old, &answers)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_hangs_for_longer_than_a_claim_lives() {
    let fleet = Fleet::start().await;
    let mut sessions = Vec::new();
    let gate = Gate::closed();
    fleet.house.backend.fails(Fault::Slow(gate.clone()));
    let mut olds = Vec::new();
    for _ in 0..12 {
        olds.push(fleet.house.signed_in().await);
    }
    fleet.house.later(610);
    for old in &olds {
        sessions.push(fleet.crowd(old, 1).await);
    }
    gate.reached_by(12).await;
    fleet.redis.pause();
    gate.open();
    // The answers were cut on their way, and the claims end before the others can be told.
    for waiting in sessions {
        waiting.join_all().await.remove(0).expect(200);
    }
    tokio::time::sleep(Duration::from_millis(15_500)).await;
    // The tabs are at the other replicas when Redis goes on.
    let mut asking = JoinSet::new();
    for (n, old) in olds.iter().enumerate() {
        let (addr, ask, old) = (fleet.addr(1 + n % 2), Ask::script("/data").jar(old), old.clone());
        asking.spawn(async move {
            for _ in 0..100 {
                let answer = Conn::open(addr).await.ask(&ask).await;
                if answer.status == 200 {
                    return (old, answer);
                }
                assert_eq!(answer.status, 503, "{}", answer.text());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            panic!("no answer but 503");
        });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    fleet.redis.resume();
    let answers = asking.join_all().await;
    assert_eq!(fleet.house.backend.renewals().len(), 12, "what the owners have is waited for");
    for (old, answer) in answers {
        fleet.nothing_is_lost(&newest(&old, &[answer])).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_starts_knows_who_was_signed_out_before() {
    let mut fleet = Fleet::start().await;
    let jar = fleet.house.signed_in().await;
    fleet.ask(0, &Ask::script("/.doorkeep/sign-out").method("POST").jar(&jar)).await.expect(204);
    let rules = fleet.redis.table();
    for emptied in [false, true] {
        if emptied {
            fleet.redis.kill();
            fleet.redis.restart().await;
            fleet.up().await;
            for _ in 0..200 {
                if fleet.redis.say("KEYS *:ends").await.is_some_and(|keys| keys.contains(":ends")) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        let new = fleet.house.another(Plan { rules: &rules, ..Plan::default() }).await;
        let answer = Conn::open(new.http).await.ask(&Ask::page("/page").jar(&jar)).await;
        assert_eq!(answer.status, 302, "Redis was emptied: {emptied}");
        new.drain().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_of_the_backend_is_known_to_all_replicas() {
    let fleet = Fleet::start().await;
    let old = fleet.house.due().await;
    fleet.house.backend.fails_next(Fault::Cut(Spent::No));
    // An early renewal whose answer is lost: nobody presents again while the access token lives, wherever they come.
    fleet.ask(0, &Ask::page("/page").jar(&old)).await.expect(200);
    until("the flight's end", || fleet.counted("lost") == 1).await;
    tokio::time::sleep(Duration::from_millis(2200)).await;
    for n in 0..3 {
        fleet.ask(n, &Ask::page("/page").jar(&old)).await.expect(200);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(fleet.house.backend.renewals().len(), 1, "held back everywhere");
    fleet.house.later(400);
    let answers = fleet.crowd(&old, 30).await.join_all().await;
    assert_eq!(fleet.house.backend.renewals().len(), 2, "presented again once, by one of them");
    fleet.nothing_is_lost(&newest(&old, &answers)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_refused_is_presented_by_no_other_replica() {
    let fleet = Fleet::start().await;
    let old = fleet.house.expired().await;
    fleet.house.backend.end(&old).await;
    for n in 0..3 {
        fleet.ask(n, &Ask::page("/page").jar(&old)).await.expect(302);
    }
    assert_eq!(fleet.house.backend.renewals().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_in_redis_can_be_read_and_what_was_confirmed_goes_soon() {
    let fleet = Fleet::start().await;
    let old = fleet.house.expired().await;
    let answer = fleet.ask(0, &Ask::page("/page").jar(&old)).await.expect(200);
    let jar = newest(&old, &[answer]);
    let keys = fleet.redis.say("KEYS doorkeep:*").await.unwrap();
    let record = keys.lines().find(|line| line.ends_with(":a")).unwrap().to_owned();
    let text = fleet.redis.say(&format!("GET {record}")).await.unwrap();
    for (name, value) in [("access_token", &jar), ("refresh_token", &jar), ("refresh_token", &old)] {
        let secret = value.get(name).unwrap();
        assert!(!text.contains(secret) && !keys.contains(secret), "{name}");
    }
    let ttl = |answer: &str| answer.trim_start_matches(':').trim().parse::<i64>().unwrap();
    let before = ttl(&fleet.redis.say(&format!("TTL {record}")).await.unwrap());
    assert!(before > 600, "kept while nobody came back with it: {before}");
    fleet.ask(1, &Ask::page("/page").jar(&jar)).await.expect(200);
    let mut after = before;
    for _ in 0..200 {
        after = ttl(&fleet.redis.say(&format!("TTL {record}")).await.unwrap());
        if after <= 90 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!((1..=90).contains(&after), "{after}");
}

/// A tunnel at the first replica, which gives no sign of life.
async fn tunnel_at_first(fleet: &Fleet, jar: &Jar) -> Conn {
    let app = vec![Step::Send(crate::websocket::switching()), Step::Hang];
    fleet.house.upstream.on("/socket", app);
    let mut conn = Conn::open(fleet.addr(0)).await;
    conn.send(&Ask::websocket("/socket").jar(jar).bytes()).await;
    conn.answer("GET").await.expect(101);
    conn
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_ends_with_a_sign_out_at_another_replica() {
    let fleet = Fleet::start().await;
    let jar = fleet.house.signed_in().await;
    let mut conn = tunnel_at_first(&fleet, &jar).await;
    let out = Ask::script("/.doorkeep/sign-out").method("POST").jar(&jar);
    fleet.ask(1, &out).await.expect(204);
    assert_eq!(crate::bound::rest(&mut conn).await, crate::bound::OVER);
    assert_eq!(fleet.doors[0].meters.bound.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_ends_with_a_refusal_at_another_replica() {
    let fleet = Fleet::start().await;
    let jar = fleet.house.due().await;
    let mut conn = tunnel_at_first(&fleet, &jar).await;
    until("the early renewal that the tunnel began", || fleet.counted("renewed") == 1).await;
    let mut jar = jar;
    jar.take(&fleet.ask(1, &Ask::page("/page").jar(&jar)).await.expect(200));
    fleet.house.backend.end(&jar).await;
    fleet.house.later(400);
    fleet.ask(1, &Ask::page("/page").jar(&jar)).await.expect(200);
    until("the refusal", || fleet.counted("refused") == 1).await;
    // The token that the tunnel began with lives on for minutes.
    assert_eq!(crate::bound::rest(&mut conn).await, crate::bound::OVER);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_lives_on_with_renewals_at_another_replica() {
    let fleet = Fleet::start().await;
    let mut jar = fleet.house.signed_in().await;
    let mut conn = tunnel_at_first(&fleet, &jar).await;
    for _ in 0..3 {
        fleet.house.later(400);
        let answer = fleet.ask(1, &Ask::page("/page").jar(&jar)).await.expect(200);
        let old = jar.clone();
        jar.take(&answer);
        assert_ne!(jar.session(), old.session());
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert!(conn.stream_is_open().await);
    }
    assert_eq!(fleet.doors[0].meters.bound.get(), 1);
    fleet.house.later(610);
    assert_eq!(crate::bound::rest(&mut conn).await, crate::bound::OVER);
    assert_eq!(fleet.house.backend.reuses(), 0);
}
