//! Browsers with several tabs, bad networks and long pauses: whatever they do, a session that stands at the backend stands
//! for its browser, and no spent token comes back.

use std::sync::Arc;

use tokio::task::JoinSet;

use crate::support::issuer::Issuer;
use crate::support::sanic_app::{Mode, SanicApp};
use crate::support::{Answer, Ask, Fault, House, Jar, Plan, Spent, until, within};

/// Hours pass within a real second here: a backend that is back is found at once.
pub const QUICK: &str = "breaker = { pause = \"1ms\" }";

/// Numbers that are the same in each run.
pub struct Dice(u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
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

/// The first answer that is no 503, for as long as the backend is spared after its bad days.
async fn once_it_is_asked_again(house: &House, jar: &Jar) -> Answer {
    within("the backend to be asked again", async {
        loop {
            let answer = house.ask(&Ask::page("/page").jar(jar)).await;
            if answer.status != 503 {
                return answer.expect(200);
            }
            assert_eq!(answer.line("retry-after"), Some("1"));
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await
}

pub async fn storm_in(house: House, seed: u64, weather: impl Fn(&mut Dice) -> Fault, fine: &[u16]) -> House {
    storm(seed, house, &["asha", "asha", "ravi"], weather, fine).await
}

async fn storm(
    seed: u64,
    house: House,
    people: &[&str],
    weather: impl Fn(&mut Dice) -> Fault,
    fine: &[u16],
) -> House {
    let mut dice = Dice(seed);
    let mut jars = Vec::new();
    for user in people {
        jars.push(house.backend.sign_in(user).await);
    }
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
        let answer = once_it_is_asked_again(&house, jar).await;
        jar.take(&answer);
    }
    assert_eq!(house.backend.reuses(), 0, "seed {seed}");
    house
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_bad_networks_every_session_goes_on() {
    for seed in [0x1234_5678_9abc_def1, 0x0dd0_beef_0dd0_beef] {
        let people = ["asha", "asha", "ravi"];
        let house = storm(seed, House::usual().await, &people, |_| Fault::None, &[200]).await;
        assert!(house.backend.renewals().len() > 20, "there was something to renew");
    }
}

fn bad_days(dice: &mut Dice) -> Fault {
    match dice.roll(6) {
        0 => Fault::Says(500, Vec::new(), String::new()),
        1 => Fault::Cut(Spent::No),
        2 => Fault::HalfJson(Spent::No),
        _ => Fault::None,
    }
}

/// Here a user has one session, and each renewal presents the access token that the browser happens to hold.
async fn storm_without_rotation(weather: impl Fn(&mut Dice) -> Fault, fine: &[u16]) {
    let app = |clock| -> Arc<dyn Issuer> { Arc::new(Arc::new(SanicApp::new(Mode::Split, clock))) };
    let house = House::start_with(app, Plan { renew: QUICK, ..Plan::default() }).await;
    let house = storm(0xface_0ff5_face_0ff5, house, &["asha", "ravi"], weather, fine).await;
    let renewed = house.door().meters.renewals("renewed");
    assert!((20..=120).contains(&renewed), "in each of 60 turns at most one for each of two: {renewed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nothing_rotates_every_session_goes_on_too() {
    storm_without_rotation(|_| Fault::None, &[200]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nothing_rotates_a_bad_backend_signs_nobody_out_either() {
    storm_without_rotation(bad_days, &[200, 503]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_bad_backend_too_nobody_is_signed_out() {
    let people = ["asha", "asha", "ravi"];
    let house = storm(
        0x5eed_5eed_5eed_5eed,
        House::start(Plan { renew: QUICK, ..Plan::default() }).await,
        &people,
        bad_days,
        &[200, 503],
    )
    .await;
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
