//! Waiting, leaving, being turned away: with paused time.

use super::*;
use crate::admit::breaker::Sign;

const LIMIT: Duration = Duration::from_secs(30);

fn rules(concurrency: usize, queue: usize) -> AdmitRules {
    AdmitRules { concurrency, queue, ..AdmitRules::default() }
}

struct House {
    admission: Admission,
    health: Arc<Health>,
    meters: Arc<Meters>,
}

fn house(rules: AdmitRules) -> House {
    let meters = Arc::new(Meters::new());
    let health = Arc::new(Health::new(rules.breaker, Arc::clone(&meters)));
    let admission = Admission::new(rules, Arc::clone(&health), (Turns::Renewals, Arc::clone(&meters)));
    House { admission, health, meters }
}

impl House {
    fn ask(&self, class: Class, network: u8) -> Result<Turn, BackendFault> {
        self.admission.ask(class, Network::V4([10, 0, network]), || true)
    }

    async fn place(&self, class: Class, network: u8) -> Result<Place, BackendFault> {
        self.ask(class, network)?.come(LIMIT).await
    }

    async fn fails(&self, times: usize) {
        for _ in 0..times {
            self.place(Class::Expired, 1).await.expect("a place").ended(Sign::Fault(None));
        }
    }
}

/// Whether a turn has come.
fn has_come(turn: &mut Turn) -> bool {
    turn.place.try_recv().is_ok_and(|place| place.is_ok())
}

#[tokio::test(start_paused = true)]
async fn a_place_is_free_for_the_next_when_its_exchange_ends_or_its_flight_is_gone() {
    let house = house(rules(1, 10));
    let first = house.place(Class::Expired, 1).await.expect("a place");
    let second = house.ask(Class::Expired, 1).expect("room");
    let third = house.ask(Class::Expired, 1).expect("room");
    assert_eq!(house.meters.waits("expired"), 2);
    first.ended(Sign::Good);
    let second = second.come(LIMIT).await.expect("its turn");
    drop(first);
    drop(second);
    let third = third.come(LIMIT).await.expect("its turn");
    let mut fourth = house.ask(Class::Expired, 1).expect("room");
    assert!(!has_come(&mut fourth), "given back once, not twice");
    drop((third, fourth));
    house.place(Class::Expired, 1).await.expect("whoever went away took nothing along");
    assert_eq!(house.meters.waits("expired"), 0);
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_is_told_and_takes_no_place() {
    let house = house(rules(1, 10));
    let held = house.place(Class::Expired, 1).await.expect("a place");
    assert_eq!(house.place(Class::Expired, 1).await.err(), Some(BackendFault::Busy));
    drop(held);
    house.place(Class::Expired, 1).await.expect("a place");
}

#[tokio::test(start_paused = true)]
async fn when_it_is_full_those_go_for_whom_nobody_waits() {
    let house = house(rules(1, 2));
    let _held = house.place(Class::Expired, 1).await.expect("a place");
    let nobody = house.admission.ask(Class::Expired, Network::V4([10, 0, 1]), || false).expect("room");
    let somebody = house.ask(Class::Expired, 1).expect("room");
    tokio::time::sleep(SWEEP).await;
    let mut third = house.ask(Class::Expired, 1).expect("room was made");
    assert_eq!(nobody.come(LIMIT).await.err(), Some(BackendFault::Busy));
    assert_eq!(house.meters.turned_away_for(Turns::Renewals, "expired", TurnedAway::Unwanted), 1);
    assert!(matches!(house.ask(Class::Expired, 1), Err(BackendFault::Busy)));
    assert!(!has_come(&mut third));
    drop(somebody);
}

#[tokio::test(start_paused = true)]
async fn a_network_brings_so_many_strangers_and_another_has_its_own_count() {
    let strangers = BucketRules { burst: 2, per_second: 1 };
    let house = house(AdmitRules { strangers, ..rules(100, 100) });
    for _ in 0..2 {
        house.place(Class::Stranger, 1).await.expect("a place").ended(Sign::Good);
    }
    assert!(matches!(house.ask(Class::Stranger, 1), Err(BackendFault::Busy)));
    assert_eq!(house.meters.turned_away_for(Turns::Renewals, "stranger", TurnedAway::Rate), 1);
    house.place(Class::Stranger, 2).await.expect("another network's");
    house.place(Class::Expired, 1).await.expect("a user's");
    tokio::time::sleep(Duration::from_secs(1)).await;
    house.place(Class::Stranger, 1).await.expect("one more a second");
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_is_away_is_tried_once_each_pause_and_nobody_waits() {
    let house = house(rules(2, 10));
    house.fails(4).await;
    let hung = house.place(Class::Expired, 1).await.expect("a place");
    let also = house.place(Class::Expired, 1).await.expect("a place");
    let waits = house.ask(Class::Early, 1).expect("room");
    hung.is_late();
    assert!(matches!(waits.come(LIMIT).await, Err(BackendFault::Resting { .. })), "nobody waits any more");
    for class in Class::ALL {
        assert!(matches!(house.ask(class, 1), Err(BackendFault::Resting { .. })), "{class:?}");
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(matches!(house.ask(Class::Stranger, 1), Err(BackendFault::Resting { .. })), "no stranger tries");
    let probe = house.place(Class::Expired, 1).await.expect("one tries, though no place is free");
    assert!(matches!(house.ask(Class::Expired, 2), Err(BackendFault::Resting { .. })));
    probe.ended(Sign::Good);
    assert!(house.health.is_closed());
    let mut waits = house.ask(Class::Expired, 1).expect("room");
    assert!(!has_come(&mut waits), "the places are still held");
    hung.ended(Sign::Fault(None));
    assert!(has_come(&mut waits));
    drop(also);
    assert!(house.health.is_closed(), "what began before tells nothing");
}

#[tokio::test(start_paused = true)]
async fn strangers_open_nothing() {
    let house = house(rules(100, 100));
    for _ in 0..50 {
        house.place(Class::Stranger, 1).await.expect("a place").ended(Sign::Fault(None));
    }
    assert!(house.health.is_closed());
    house.fails(5).await;
    assert!(!house.health.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_late_exchange_counts_once() {
    let house = house(rules(10, 10));
    for _ in 0..4 {
        let place = house.place(Class::Expired, 1).await.expect("a place");
        place.is_late();
        place.is_late();
        place.ended(Sign::Fault(None));
    }
    assert!(house.health.is_closed(), "four faults");
    house.fails(1).await;
    assert!(!house.health.is_closed());
}

#[tokio::test(start_paused = true)]
async fn once_closed_nobody_waits_and_what_is_under_way_is_finished() {
    let house = house(rules(1, 100));
    let held = house.place(Class::Expired, 1).await.expect("a place");
    let turns: Vec<Turn> = (0..50).map(|n| house.ask(Class::Expired, n).expect("room")).collect();
    house.admission.close();
    for turn in turns {
        assert_eq!(turn.come(LIMIT).await.err(), Some(BackendFault::Busy));
    }
    assert!(matches!(house.ask(Class::Expired, 1), Err(BackendFault::Busy)));
    held.ended(Sign::Good);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_never_more_than_the_limit_are_inside_and_all_come_through() {
    use std::sync::atomic::AtomicUsize;
    let house = Arc::new(house(rules(5, 1000)));
    let (inside, most, done) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let tasks = tokio_util::task::TaskTracker::new();
    for n in 0..400_u16 {
        let (house, inside, most, done) =
            (Arc::clone(&house), Arc::clone(&inside), Arc::clone(&most), Arc::clone(&done));
        tasks.spawn(async move {
            let class = if n % 3 == 0 { Class::Early } else { Class::Expired };
            let place = house.place(class, u8::try_from(n % 7).expect("small")).await.expect("a place");
            most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            inside.fetch_sub(1, Ordering::SeqCst);
            place.ended(Sign::Good);
            done.fetch_add(1, Ordering::SeqCst);
        });
    }
    tasks.close();
    tasks.wait().await;
    assert_eq!(done.load(Ordering::SeqCst), 400);
    assert!(most.load(Ordering::SeqCst) <= 5);
    for class in Class::ALL {
        assert_eq!(house.meters.waits(class.word()), 0);
    }
}
