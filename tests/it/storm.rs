//! Browsers with several tabs, bad networks and long pauses: whatever they do, a session that stands at the backend stands
//! for its browser, and no spent token comes back.

use tokio::task::JoinSet;

use crate::support::{Answer, Ask, Fault, House, Jar, Plan, Spent, until};

/// Numbers that are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// One moment of a browser: up to four tabs ask at once, some answers are lost, the others arrive in any order.
async fn moment(house: &House, jar: &mut Jar, dice: &mut Dice) -> Vec<u16> {
    let mut tabs = JoinSet::new();
    for n in 0..=dice.roll(4) {
        let ask = match dice.roll(3) {
            0 => Ask::page("/page").jar(jar),
            1 => Ask::script("/data").jar(jar),
            _ => Ask::form("/form", "a=1").jar(jar),
        };
        let mut conn = house.conn().await;
        let lost = dice.roll(4) == 0;
        tabs.spawn(async move {
            conn.send(&ask.bytes()).await;
            if lost { (n, None) } else { (n, Some(conn.answer(&ask.method).await)) }
        });
    }
    let mut answers: Vec<(u64, Option<Answer>)> = tabs.join_all().await;
    answers.sort_by_key(|(n, _)| n.wrapping_mul(dice.0));
    let mut statuses = Vec::new();
    for (_, answer) in answers {
        if let Some(answer) = answer {
            jar.take(&answer);
            statuses.push(answer.status);
        }
    }
    statuses
}

/// Lets every request that was hung up on come to its end: the clock must not move under it.
async fn settled(house: &House) {
    until("every connection to end", || house.door().meters.connections.get() == 0).await;
    until("every flight to land", || house.door().meters.flights.get() == 0).await;
}

async fn storm(seed: u64, plan: Plan<'_>, weather: impl Fn(&mut Dice) -> Fault, fine: &[u16]) -> House {
    let house = House::start(plan).await;
    let mut dice = Dice(seed);
    let mut jars = [house.signed_in().await, house.signed_in().await, house.backend.sign_in("ravi").await];
    for turn in 0..60 {
        house.backend.fails(weather(&mut dice));
        for jar in &mut jars {
            let statuses = moment(&house, jar, &mut dice).await;
            let all_fine = statuses.iter().all(|status| fine.contains(status));
            assert!(all_fine, "seed {seed}, turn {turn}: {statuses:?}");
        }
        settled(&house).await;
        house.later([0, 1, 30, 200, 320, 700][usize::try_from(dice.roll(6)).unwrap()]);
    }
    house.backend.fails(Fault::None);
    house.later(60);
    for jar in &mut jars {
        let answer = house.ask(&Ask::page("/page").jar(jar)).await.expect(200);
        jar.take(&answer);
    }
    assert_eq!(house.backend.reuses(), 0, "seed {seed}");
    house
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_bad_networks_every_session_goes_on() {
    for seed in [0x1234_5678_9abc_def1, 0x0dd0_beef_0dd0_beef] {
        let house = storm(seed, Plan::default(), |_| Fault::None, &[200]).await;
        assert!(house.backend.renewals().len() > 20, "there was something to renew");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_bad_backend_too_nobody_is_signed_out() {
    let weather = |dice: &mut Dice| match dice.roll(6) {
        0 => Fault::Says(500, Vec::new(), String::new()),
        1 => Fault::Cut(Spent::No),
        2 => Fault::HalfJson(Spent::No),
        _ => Fault::None,
    };
    let house = storm(0x5eed_5eed_5eed_5eed, Plan::default(), weather, &[200, 503]).await;
    assert!(house.door().meters.renewals("lost") > 0 && house.door().meters.renewals("no_decision") > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_are_renewed_once_each() {
    let house = House::usual().await;
    let mut jars = Vec::new();
    for _ in 0..40 {
        jars.push(house.signed_in().await);
    }
    house.later(610);
    let mut asking = JoinSet::new();
    for jar in jars.iter().cycle().take(160) {
        let (mut conn, ask) = (house.conn().await, Ask::script("/data").jar(jar));
        asking.spawn(async move { conn.ask(&ask).await.expect(200) });
    }
    asking.join_all().await;
    assert_eq!(house.backend.renewals().len(), 40);
    assert_eq!(house.backend.reuses(), 0);
}
