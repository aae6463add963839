//! Replicas, browsers and a bad day, simulated: many seeds, time that moves by itself, and a backend that ends a session at
//! the second presentation of a token. The renewers are the real ones; the store behind the share is a table with the
//! steps of the real one. What is planted wrong has to be noticed, or the simulation proves nothing.

mod backend;
mod browser;
mod table;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

use super::tests::{cookies, rules};
use super::*;
use crate::clock::{Deadline, ManualClock};
use crate::outcome::Ahead;
use crate::renew::simulation::backend::Rotating;
use crate::renew::simulation::browser::Browser;
use crate::renew::simulation::table::{Replica, Table};
use crate::secret::Secret;
use crate::session::carrier::Carrier;
use crate::session::drill::Drills;
use crate::session::judge::{Policy, RenewMode};
use crate::session::seal::{Sealer, SessionKeys};
use crate::session::verifier::Verifier;

const START: u64 = 1_800_000_000;
const REPLICAS: usize = 3;
const BROWSERS: usize = 3;

/// How long the bad day lasts, and the quiet after it in which every session has to work.
const DAY: Duration = Duration::from_secs(400);

/// What goes wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// Nothing but parallel tabs, cut answers and answers that overtake each other.
    Quiet,
    /// The backend takes up to twenty-five seconds.
    SlowBackend,
    /// The backend refuses connections, says 500, or breaks before it has acted.
    FaultyBackend,
    /// Replicas stand still for up to ten seconds.
    Pauses,
    /// Replicas end at once, and others start in their place.
    Crashes,
    /// The store gives no answer for up to eight seconds; some of its answers are lost on their way.
    ShareAway,
    /// The store comes back empty.
    ShareEmptied,
}

/// What is planted wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// A claim under way is not extended.
    NotExtended,
    /// A claim is released before its result is stored.
    ReleasedBeforeStored,
    /// A result is the answer although it was called dead: a chain over an equal token.
    DeadIsTheAnswer,
    /// A late refusal clears a browser that has signed in anew.
    ClearsAfterSignIn,
}

/// Everything of a run.
#[derive(Debug)]
struct World {
    random: Mutex<fastrand::Rng>,
    clock: Arc<ManualClock>,
    sessions: Arc<Sessions>,
    table: Mutex<Table>,
    backend: Rotating,
    trouble: Trouble,
    bug: Bug,
    /// Whether anything still goes wrong.
    bad: AtomicBool,
    /// Sessions that were under way at the backend when their replica ended: the exception that nothing can close.
    excused: Mutex<Vec<usize>>,
    /// What should not have been.
    wrong: Mutex<Vec<String>>,
    started: AtomicUsize,
}

impl World {
    fn new(seed: u64, trouble: Trouble, bug: Bug) -> Arc<Self> {
        let clock = Arc::new(ManualClock::at(UnixTime::from_secs(START)));
        let secret = Secret::new(vec![3; 32]);
        let sessions = Arc::new(Sessions {
            carrier: Carrier::new(cookies(), Sealer::new(std::slice::from_ref(&secret))),
            policy: Policy {
                capabilities: Rotating::capabilities_of(bug),
                mode: RenewMode::Auto,
                keys: SessionKeys::new(&secret, "simulated"),
                leeway: Duration::ZERO,
            },
            ahead: Ahead::Percent(50),
            drills: Drills::default(),
        });
        Arc::new(Self {
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
            backend: Rotating::new(Arc::clone(&clock), bug),
            clock,
            sessions,
            table: Mutex::new(Table::default()),
            trouble,
            bug,
            bad: AtomicBool::new(true),
            excused: Mutex::default(),
            wrong: Mutex::default(),
            started: AtomicUsize::new(0),
        })
    }

    fn random(&self) -> MutexGuard<'_, fastrand::Rng> {
        self.random.lock().expect("not poisoned")
    }

    fn millis(&self, most: u64) -> Duration {
        Duration::from_millis(self.random().u64(0..=most))
    }

    fn one_in(&self, n: u32) -> bool {
        self.random().u32(0..n) == 0
    }

    fn is_bad(&self, trouble: Trouble) -> bool {
        self.trouble == trouble && self.bad.load(Ordering::SeqCst)
    }

    fn wrong(&self, what: String) {
        self.wrong.lock().expect("not poisoned").push(what);
    }

    /// A replica with nothing in its memory.
    fn replica(self: &Arc<Self>) -> Arc<Site> {
        let number = self.started.fetch_add(1, Ordering::SeqCst);
        let (still, _) = watch::channel(Moves::Yes);
        let replica = Arc::new(Replica::new(Arc::clone(self), still.clone()));
        let settings = RenewSettings {
            timeout: Duration::from_secs(5),
            give_up: Duration::from_secs(30),
            replay: Duration::from_secs(60),
            attach: Duration::from_millis(250),
            undelivered: Duration::from_secs(24 * 3600),
            memory: 1 << 20,
            state_dir: None,
            share: Some(ShareSettings { store: Arc::<Replica>::clone(&replica), away: ShareAway::Wait }),
            // Moments of the simulation are not those of the breaker.
            admission: AdmitRules {
                breaker: crate::admit::breaker::BreakerRules { faults: 0, ..Default::default() },
                ..Default::default()
            },
        };
        let wire =
            backend::Wire { world: Arc::clone(self), still: still.clone(), presenting: Mutex::default() };
        let wire = Arc::new(wire);
        let renewer = Renewer::new(
            settings,
            (
                Arc::<backend::Wire>::clone(&wire) as Arc<dyn SessionBackend>,
                Arc::new(Checker::Signed(Arc::new(Verifier::new(rules())))),
            ),
            Arc::clone(&self.sessions),
            Arc::<ManualClock>::clone(&self.clock),
            Arc::new(Meters::new()),
        );
        Arc::new(Site { number, renewer, still, wire })
    }
}

/// Whether a replica moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moves {
    Yes,
    /// Stopped for a while.
    No,
    /// Gone for good.
    Never,
}

/// Goes on once the replica moves; never where it is gone.
async fn moving(still: &watch::Sender<Moves>) {
    let mut moves = still.subscribe();
    if moves.wait_for(|moves| *moves == Moves::Yes).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A replica that runs.
#[derive(Debug)]
struct Site {
    number: usize,
    renewer: Renewer,
    still: watch::Sender<Moves>,
    wire: Arc<backend::Wire>,
}

type Fleet = Arc<Mutex<Vec<Arc<Site>>>>;

fn pick(world: &World, fleet: &Fleet) -> Arc<Site> {
    let fleet = fleet.lock().expect("not poisoned");
    let n = world.random().usize(0..fleet.len());
    Arc::clone(&fleet[n])
}

/// Stops, ends and starts replicas, takes the store away and empties it, as long as the day is bad.
async fn make_trouble(
    world: Arc<World>,
    fleet: Fleet,
    tasks: TaskTracker,
    stop: tokio_util::sync::CancellationToken,
) {
    loop {
        tokio::time::sleep(Duration::from_secs(3) + world.millis(9_000)).await;
        match world.trouble {
            Trouble::Quiet | Trouble::SlowBackend | Trouble::FaultyBackend => {}
            Trouble::Pauses => {
                let site = pick(&world, &fleet);
                site.still.send_replace(Moves::No);
                tokio::time::sleep(world.millis(10_000)).await;
                site.still.send_replace(Moves::Yes);
            }
            Trouble::Crashes => {
                let n = world.random().usize(0..REPLICAS);
                let fresh = world.replica();
                tasks.spawn(followed(Arc::clone(&fresh), stop.clone()));
                let gone = std::mem::replace(&mut fleet.lock().expect("not poisoned")[n], fresh);
                gone.still.send_replace(Moves::Never);
                let presented = gone.wire.presenting.lock().expect("not poisoned").clone();
                let table = world.table.lock().expect("not poisoned");
                let lost = presented.into_iter().filter(|(key, _)| !table.stored.contains(key));
                world.excused.lock().expect("not poisoned").extend(lost.map(|(_, session)| session));
            }
            Trouble::ShareAway => {
                world.table.lock().expect("not poisoned").away = true;
                tokio::time::sleep(world.millis(8_000)).await;
                world.table.lock().expect("not poisoned").away = false;
            }
            Trouble::ShareEmptied => world.table.lock().expect("not poisoned").empty(),
        }
    }
}

async fn followed(site: Arc<Site>, stop: tokio_util::sync::CancellationToken) {
    site.renewer.clone().follow(stop).await;
}

/// What a run came to.
struct Report {
    wrong: Vec<String>,
    renewals: usize,
}

/// One run.
fn run(seed: u64, trouble: Trouble, bug: Bug) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let world = World::new(seed, trouble, bug);
        let fleet: Fleet = Arc::new(Mutex::new((0..REPLICAS).map(|_| world.replica()).collect()));
        let stop = tokio_util::sync::CancellationToken::new();
        let tasks = TaskTracker::new();
        for site in fleet.lock().expect("not poisoned").iter() {
            tasks.spawn(followed(Arc::clone(site), stop.clone()));
        }
        let clock = Arc::clone(&world.clock);
        let ticking = tasks.spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                clock.advance(Duration::from_secs(1));
            }
        });
        let trouble =
            tasks.spawn(make_trouble(Arc::clone(&world), Arc::clone(&fleet), tasks.clone(), stop.clone()));
        let browsers: Vec<Arc<Browser>> =
            (0..BROWSERS).map(|n| Arc::new(Browser::signed_in(Arc::clone(&world), n))).collect();
        let day = Deadline::after(DAY);
        let using: Vec<_> = browsers
            .iter()
            .map(|browser| tasks.spawn(Arc::clone(browser).used(Arc::clone(&fleet), day, tasks.clone())))
            .collect();
        for browser in using {
            browser.await.expect("no panic");
        }
        trouble.abort();
        world.bad.store(false, Ordering::SeqCst);
        world.table.lock().expect("not poisoned").away = false;
        for site in fleet.lock().expect("not poisoned").iter() {
            site.still.send_replace(Moves::Yes);
        }
        for browser in &browsers {
            browser.has_to_work(&fleet).await;
        }
        ticking.abort();
        stop.cancel();
        let wrong = world.wrong.lock().expect("not poisoned").clone();
        Report { wrong, renewals: world.backend.renewals() }
    })
}

/// Runs of one trouble, with what was wrong in any.
fn runs(trouble: Trouble, seeds: std::ops::Range<u64>) {
    let mut renewals = 0;
    for seed in seeds.clone() {
        let report = run(seed, trouble, Bug::None);
        assert!(report.wrong.is_empty(), "{trouble:?}, seed {seed}: {:#?}", report.wrong);
        renewals += report.renewals;
    }
    let each = renewals / usize::try_from(seeds.end - seeds.start).expect("few");
    assert!(each >= 2 * BROWSERS, "sessions are renewed several times a run: {each}");
}

/// Seeds for each trouble; more of them, by hand: `DOORKEEP_SEEDS=1000 cargo test --release simulation`.
fn seeds() -> std::ops::Range<u64> {
    0..option_env!("DOORKEEP_SEEDS").and_then(|text| text.parse().ok()).unwrap_or(5)
}

#[test]
fn nothing_is_lost_on_a_quiet_day() {
    runs(Trouble::Quiet, seeds());
}

#[test]
fn nothing_is_lost_to_a_slow_backend() {
    runs(Trouble::SlowBackend, seeds());
}

#[test]
fn nothing_is_lost_to_a_faulty_backend() {
    runs(Trouble::FaultyBackend, seeds());
}

#[test]
fn nothing_is_lost_to_replicas_that_stand_still() {
    runs(Trouble::Pauses, seeds());
}

#[test]
fn nothing_is_lost_to_replicas_that_end_at_once() {
    runs(Trouble::Crashes, seeds());
}

#[test]
fn nothing_is_lost_while_the_share_is_away() {
    runs(Trouble::ShareAway, seeds());
}

#[test]
fn nothing_is_lost_when_the_share_comes_back_empty() {
    runs(Trouble::ShareEmptied, seeds());
}

/// The first seed that notices what is planted wrong.
fn noticed(trouble: Trouble, bug: Bug) -> Option<(u64, String)> {
    (0..200).find_map(|seed| run(seed, trouble, bug).wrong.first().map(|wrong| (seed, wrong.clone())))
}

#[test]
fn a_claim_that_is_not_extended_is_noticed() {
    let (_, wrong) = noticed(Trouble::SlowBackend, Bug::NotExtended).expect("noticed");
    assert!(wrong.contains("twice"), "{wrong}");
}

#[test]
fn a_claim_released_before_the_store_is_noticed() {
    let (_, wrong) = noticed(Trouble::Quiet, Bug::ReleasedBeforeStored).expect("noticed");
    assert!(wrong.contains("twice"), "{wrong}");
}

#[test]
fn a_chain_over_an_equal_token_is_noticed() {
    assert!(noticed(Trouble::Quiet, Bug::DeadIsTheAnswer).is_some());
}

#[test]
fn a_clearing_after_a_fresh_sign_in_is_noticed() {
    let (_, wrong) = noticed(Trouble::Quiet, Bug::ClearsAfterSignIn).expect("noticed");
    assert!(wrong.contains("cleared"), "{wrong}");
}
