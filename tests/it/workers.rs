//! Several threads that serve: connections are spread over them, and each keeps to its own.

use std::num::NonZeroUsize;
use std::time::Duration;

use doorkeep::server::{Crew, Drained};

use crate::support::{Ask, Conn, Gate, House, Plan, Step, ok, until, within};

const WORKERS: usize = 3;

fn crew() -> Crew {
    Crew::of(NonZeroUsize::new(WORKERS).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_spread_and_each_worker_keeps_its_own_to_the_app() {
    let (house, crew) = (House::usual().await, crew());
    let door = house.served_by(crew.workers(), Plan::default()).await;
    let jar = house.signed_in().await;
    let mut conns = Vec::new();
    for _ in 0..WORKERS * 3 {
        let mut conn = Conn::open(door.http).await;
        conn.ask(&Ask::page("/x").jar(&jar)).await.expect(200);
        conns.push(conn);
    }
    for _ in 0..5 {
        for conn in &mut conns {
            conn.ask(&Ask::page("/x").jar(&jar)).await.expect(200);
        }
    }
    assert_eq!(house.upstream.connections(), WORKERS);
    door.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_all_workers_have_under_way_is_finished_before_they_end() {
    let (house, crew) = (House::usual().await, crew());
    let door = house.served_by(crew.workers(), Plan::default()).await;
    let gate = Gate::closed();
    house.upstream.on("/public/slow", vec![Step::Wait(gate.clone()), Step::Send(ok("slow but whole"))]);
    let (mut busy, mut idle) = (Vec::new(), Vec::new());
    for _ in 0..WORKERS * 2 {
        let mut conn = Conn::open(door.http).await;
        conn.ask(&Ask::page("/public/x")).await.expect(200);
        idle.push(conn);
        let mut conn = Conn::open(door.http).await;
        conn.send(&Ask::page("/public/slow").bytes()).await;
        busy.push(conn);
    }
    gate.reached_by(busy.len()).await;
    let draining = house.tasks.spawn(door.drain());
    for conn in &mut idle {
        conn.closed().await;
    }
    assert!(!draining.is_finished());
    gate.open();
    for conn in &mut busy {
        assert_eq!(conn.answer("GET").await.expect(200).text(), "slow but whole");
    }
    assert_eq!(within("the drain", draining).await.unwrap().unwrap(), Drained::All);
}

/// Those who serve are gone at once, as in a process that ends; nobody waits for what they had under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_workers_end_so_does_all_that_they_have() {
    let (house, crew) = (House::usual().await, crew());
    let door = house.served_by(crew.workers(), Plan::default()).await;
    house.upstream.on("/public/never", vec![Step::Hang]);
    let mut conns = Vec::new();
    for n in 0..WORKERS * 2 {
        let mut conn = Conn::open(door.http).await;
        conn.send(&Ask::page("/public/never").bytes()).await;
        until("it is upstream", || house.upstream.count() == n + 1).await;
        conns.push(conn);
    }
    drop(crew);
    for conn in &mut conns {
        conn.closed().await;
    }
    until("the app's connections have ended", || house.upstream.ended() == house.upstream.connections())
        .await;
    tokio::time::timeout(Duration::from_secs(10), door.drain()).await.unwrap().unwrap();
}
