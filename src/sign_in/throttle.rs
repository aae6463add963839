//! How often somebody may try to sign in.
//! In: who tries, moments. Out: [`Turn`]. Errors: none. I/O: none.
//!
//! Three counts of failed attempts, each a bucket that leaks:
//! - per client network: strict. Whoever tries many names from one place is stopped there.
//! - per user and client network: strict. Whoever guesses one user's password from one place is stopped there, and only
//!   there: the user signs in from everywhere else.
//! - per user: never refuses. Once guesses come for one user from many places, each further attempt waits, longer with each
//!   failure and never longer than five seconds, so that nobody is locked out by who knows no more than his name.
//!
//! An attempt is charged before the session backend is asked, so parallel ones count at once; what succeeds, and what the
//! backend did not decide, is given back. Names and networks are known by keyed digests alone. A full table forgets those
//! first who would be forgiven first.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::Ipv6Net;

use crate::clock::UnixTime;
use crate::outcome::SessionKey;

/// Most buckets of each kind.
const MOST: usize = 50_000;

/// The bits of an IPv6 address that name a network: one customer has all that follows.
const IPV6_NETWORK: u8 = 64;

/// Longest wait before an attempt, in seconds, and most failures that make it longer.
const LONGEST_WAIT: u64 = 5;

/// So many in so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    count: u32,
    secs: u32,
}

impl Rate {
    /// `count` in `span`; `None` where one of them is nothing, or too much to count.
    #[must_use]
    pub fn new(count: u32, span: Duration) -> Option<Self> {
        let secs = u32::try_from(span.as_secs()).ok()?;
        (count > 0 && secs > 0).then_some(Self { count, secs })
    }

    /// One attempt takes as many units as there are seconds; `count` units leak each second.
    fn one(self) -> u64 {
        u64::from(self.secs)
    }

    fn leak(self) -> u64 {
        u64::from(self.count)
    }

    fn full(self) -> u64 {
        self.one().saturating_mul(self.leak())
    }

    fn drained_in(self, level: u64) -> Duration {
        Duration::from_secs(level.div_ceil(self.leak()))
    }
}

/// The client network of an address, as text.
pub(super) fn network(client: IpAddr) -> String {
    match client {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => {
            Ipv6Net::new(ip, IPV6_NETWORK).map_or_else(|_| ip.to_string(), |net| net.trunc().to_string())
        }
    }
}

/// Who tries, by keyed digests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trier {
    pub(super) client: SessionKey,
    pub(super) pair: SessionKey,
    pub(super) user: SessionKey,
}

/// An admitted attempt, charged until it is settled. One that never is counts as failed.
#[derive(Debug)]
pub struct Ticket(Trier);

/// Whether an attempt may be made.
#[derive(Debug)]
pub enum Turn {
    /// It may, after this wait.
    After(Duration, Ticket),
    /// It may not, for this long.
    Refused(Duration),
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The backend refused it.
    Failed,
    /// The user is signed in.
    SignedIn,
    /// The backend said neither.
    Undecided,
}

/// The three counts. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Throttle(Arc<Mutex<Counts>>);

#[derive(Debug)]
struct Counts {
    clients: Buckets,
    pairs: Buckets,
    users: Buckets,
}

impl Throttle {
    pub(super) fn new(per_client: Rate, per_user: Rate) -> Self {
        let buckets = |rate| Buckets::new(rate, MOST);
        Self(Arc::new(Mutex::new(Counts {
            clients: buckets(per_client),
            pairs: buckets(per_user),
            users: buckets(per_user),
        })))
    }

    /// Counts by these rates from now on. Attempts that count stay as many as they are.
    pub(super) fn change(&self, per_client: Rate, per_user: Rate, now: UnixTime) {
        let mut counts = self.counts();
        counts.clients.change(per_client, now);
        counts.pairs.change(per_user, now);
        counts.users.change(per_user, now);
    }

    pub(super) fn turn(&self, trier: Trier, now: UnixTime) -> Turn {
        let mut counts = self.counts();
        let full = [counts.clients.full_for(trier.client, now), counts.pairs.full_for(trier.pair, now)];
        if let Some(wait) = full.into_iter().flatten().max() {
            return Turn::Refused(wait);
        }
        counts.clients.charge(trier.client, now);
        counts.pairs.charge(trier.pair, now);
        let beyond = counts.users.beyond(trier.user, now);
        counts.users.charge(trier.user, now);
        Turn::After(Duration::from_secs(beyond.min(LONGEST_WAIT)), Ticket(trier))
    }

    pub(super) fn settle(&self, ticket: &Ticket, outcome: Outcome, now: UnixTime) {
        let trier = ticket.0;
        let mut counts = self.counts();
        match outcome {
            Outcome::Failed => {}
            Outcome::Undecided => {
                counts.clients.give_back(trier.client, now);
                counts.pairs.give_back(trier.pair, now);
                counts.users.give_back(trier.user, now);
            }
            // Whoever knows the password has not been guessing it from here. What others do elsewhere still counts.
            Outcome::SignedIn => {
                counts.clients.give_back(trier.client, now);
                counts.pairs.put(trier.pair, 0, now);
                counts.users.give_back(trier.user, now);
            }
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    level: u64,
    at: UnixTime,
    ends: UnixTime,
}

/// Buckets of one kind.
#[derive(Debug)]
struct Buckets {
    rate: Rate,
    most: usize,
    filled: HashMap<SessionKey, Bucket>,
    by_end: BTreeSet<(UnixTime, SessionKey)>,
}

impl Buckets {
    fn new(rate: Rate, most: usize) -> Self {
        Self { rate, most, filled: HashMap::new(), by_end: BTreeSet::new() }
    }

    fn change(&mut self, rate: Rate, now: UnixTime) {
        if rate == self.rate {
            return;
        }
        let keys: Vec<SessionKey> = self.filled.keys().copied().collect();
        let counted: Vec<(SessionKey, u64)> =
            keys.into_iter().map(|key| (key, self.level(key, now).div_ceil(self.rate.one()))).collect();
        *self = Self::new(rate, self.most);
        let most = rate.full().saturating_add(rate.one().saturating_mul(LONGEST_WAIT));
        for (key, attempts) in counted {
            self.put(key, attempts.saturating_mul(rate.one()).min(most), now);
        }
    }

    fn level(&self, key: SessionKey, now: UnixTime) -> u64 {
        self.filled.get(&key).map_or(0, |bucket| {
            bucket.level.saturating_sub(now.since(bucket.at).as_secs().saturating_mul(self.rate.leak()))
        })
    }

    /// How long until one more fits; `None`: it does now.
    fn full_for(&self, key: SessionKey, now: UnixTime) -> Option<Duration> {
        let over = (self.level(key, now) + self.rate.one())
            .checked_sub(self.rate.full())
            .filter(|over| *over > 0)?;
        Some(self.rate.drained_in(over))
    }

    /// How many more there are than fit, were one added.
    fn beyond(&self, key: SessionKey, now: UnixTime) -> u64 {
        (self.level(key, now) + self.rate.one()).saturating_sub(self.rate.full()).div_ceil(self.rate.one())
    }

    /// Adds one. A bucket holds no more beyond its rate than makes anybody wait: what is over is forgiven soon.
    fn charge(&mut self, key: SessionKey, now: UnixTime) {
        let most = self.rate.full().saturating_add(self.rate.one().saturating_mul(LONGEST_WAIT));
        let level = (self.level(key, now) + self.rate.one()).min(most);
        self.put(key, level, now);
    }

    fn give_back(&mut self, key: SessionKey, now: UnixTime) {
        self.put(key, self.level(key, now).saturating_sub(self.rate.one()), now);
    }

    fn put(&mut self, key: SessionKey, level: u64, now: UnixTime) {
        self.take(key);
        if level > 0 {
            let ends = now.saturating_add(self.rate.drained_in(level));
            self.filled.insert(key, Bucket { level, at: now, ends });
            self.by_end.insert((ends, key));
        }
        while let Some((ends, first)) = self.by_end.first().copied()
            && (ends <= now || self.filled.len() > self.most)
        {
            self.take(first);
        }
    }

    fn take(&mut self, key: SessionKey) {
        if let Some(bucket) = self.filled.remove(&key) {
            self.by_end.remove(&(bucket.ends, key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> UnixTime {
        UnixTime::from_secs(1000 + secs)
    }

    fn key(n: u16) -> SessionKey {
        let mut key = [0; 32];
        key[..2].copy_from_slice(&n.to_be_bytes());
        SessionKey(key)
    }

    fn rate(count: u32, secs: u64) -> Rate {
        Rate::new(count, Duration::from_secs(secs)).expect("a rate")
    }

    fn from(client: u16, user: u16) -> Trier {
        Trier { client: key(client), pair: key(client * 100 + user), user: key(user) }
    }

    fn wait(turn: &Turn) -> Option<u64> {
        match turn {
            Turn::After(wait, _) => Some(wait.as_secs()),
            Turn::Refused(_) => None,
        }
    }

    fn refused(turn: &Turn) -> Option<u64> {
        match turn {
            Turn::After(..) => None,
            Turn::Refused(wait) => Some(wait.as_secs()),
        }
    }

    #[test]
    fn so_many_fit_at_once_and_the_rest_as_time_goes_by() {
        let throttle = Throttle::new(rate(100, 60), rate(3, 60));
        for n in 0..3 {
            assert_eq!(wait(&throttle.turn(from(1, 1), at(0))), Some(0), "attempt {n}");
        }
        assert_eq!(refused(&throttle.turn(from(1, 1), at(0))), Some(20));
        assert_eq!(refused(&throttle.turn(from(1, 1), at(19))), Some(1));
        assert_eq!(wait(&throttle.turn(from(1, 1), at(20))), Some(0));
        assert!(refused(&throttle.turn(from(1, 1), at(20))).is_some());
    }

    #[test]
    fn attempts_count_on_by_other_rates_and_tickets_from_before_are_settled() {
        let throttle = Throttle::new(rate(100, 60), rate(3, 60));
        let mut tickets = Vec::new();
        for _ in 0..3 {
            let Turn::After(_, ticket) = throttle.turn(from(1, 1), at(0)) else { panic!("it fits") };
            tickets.push(ticket);
        }
        throttle.change(rate(100, 60), rate(5, 600), at(0));
        for _ in 0..2 {
            assert!(wait(&throttle.turn(from(1, 1), at(0))).is_some(), "three of five were made");
        }
        assert_eq!(refused(&throttle.turn(from(1, 1), at(0))), Some(120));
        throttle.settle(&tickets[0], Outcome::Undecided, at(0));
        assert!(wait(&throttle.turn(from(1, 1), at(0))).is_some());
        throttle.change(rate(100, 60), rate(2, 60), at(0));
        assert!(refused(&throttle.turn(from(1, 1), at(0))).is_some());
        assert!(refused(&throttle.turn(from(1, 1), at(59))).is_some(), "five of two are forgiven later");
        throttle.settle(&tickets[1], Outcome::SignedIn, at(59));
        assert!(wait(&throttle.turn(from(1, 1), at(59))).is_some());
    }

    #[test]
    fn a_client_is_stopped_whatever_names_it_tries() {
        let throttle = Throttle::new(rate(5, 60), rate(3, 60));
        for user in 0..5 {
            assert!(wait(&throttle.turn(from(1, user), at(0))).is_some());
        }
        assert_eq!(refused(&throttle.turn(from(1, 9), at(0))), Some(12));
        assert!(wait(&throttle.turn(from(2, 9), at(0))).is_some());
    }

    #[test]
    fn guessing_from_elsewhere_makes_a_user_wait_and_never_locks_him_out() {
        let throttle = Throttle::new(rate(100, 60), rate(3, 60));
        let mut waits = Vec::new();
        for client in 1..=12 {
            waits.push(wait(&throttle.turn(from(client, 7), at(0))));
        }
        let wanted = [0, 0, 0, 1, 2, 3, 4, 5, 5, 5, 5, 5].map(Some);
        assert_eq!(waits, wanted);
        assert_eq!(wait(&throttle.turn(from(99, 7), at(0))), Some(5), "the user himself");
        assert_eq!(wait(&throttle.turn(from(99, 8), at(0))), Some(0), "another user");
        assert_eq!(wait(&throttle.turn(from(98, 7), at(170))), Some(0), "it is forgiven soon");
    }

    #[test]
    fn only_failures_count() {
        let throttle = Throttle::new(rate(3, 60), rate(3, 60));
        for n in 0..50 {
            for outcome in [Outcome::SignedIn, Outcome::Undecided] {
                let Turn::After(wait, ticket) = throttle.turn(from(1, 1), at(0)) else {
                    panic!("attempt {n}")
                };
                assert_eq!(wait, Duration::ZERO);
                throttle.settle(&ticket, outcome, at(0));
            }
        }
        let counts = throttle.counts();
        assert!(
            counts.clients.filled.is_empty()
                && counts.pairs.filled.is_empty()
                && counts.users.filled.is_empty()
        );
        assert!(counts.clients.by_end.is_empty() && counts.pairs.by_end.is_empty());
    }

    #[test]
    fn attempts_under_way_count_before_they_have_failed() {
        let throttle = Throttle::new(rate(100, 60), rate(3, 60));
        let under_way: Vec<_> = (0..10).map(|_| throttle.turn(from(1, 1), at(0))).collect();
        assert_eq!(under_way.iter().filter(|turn| wait(turn).is_some()).count(), 3);
    }

    #[test]
    fn a_sign_in_forgives_its_own_slips_and_nobody_elses() {
        let throttle = Throttle::new(rate(100, 60), rate(3, 60));
        let slip = |client| throttle.turn(from(client, 1), at(0));
        assert!(wait(&slip(1)).is_some() && wait(&slip(1)).is_some());
        assert!(wait(&slip(2)).is_some() && wait(&slip(2)).is_some());
        let Turn::After(_, ticket) = slip(1) else { panic!("there is one left") };
        throttle.settle(&ticket, Outcome::SignedIn, at(0));
        assert!((0..3).all(|_| wait(&slip(1)).is_some()));
        assert!(wait(&slip(2)).is_some());
        assert!(wait(&slip(2)).is_none(), "the other network's slips are not forgiven");
    }

    #[test]
    fn a_full_table_forgets_the_lightest() {
        let mut buckets = Buckets::new(rate(10, 60), 100);
        for _ in 0..10 {
            buckets.charge(key(0), at(0));
        }
        for n in 1..1000 {
            buckets.charge(key(n), at(0));
        }
        assert_eq!((buckets.filled.len(), buckets.by_end.len()), (100, 100));
        assert!(buckets.full_for(key(0), at(0)).is_some(), "who tried most is not forgotten");
        buckets.charge(key(2000), at(61));
        assert_eq!(buckets.filled.len(), 1, "what has ended is gone");
    }

    #[test]
    fn a_clock_set_back_forgives_nothing_and_holds_nobody_for_ever() {
        let throttle = Throttle::new(rate(100, 60), rate(1, 60));
        assert!(wait(&throttle.turn(from(1, 1), at(500))).is_some());
        assert_eq!(refused(&throttle.turn(from(1, 1), at(0))), Some(60));
        assert!(wait(&throttle.turn(from(1, 1), at(560))).is_some());
    }

    #[test]
    fn a_network_is_an_address_or_the_first_half_of_one() {
        let name = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(name("192.0.2.7"), "192.0.2.7");
        assert_eq!(name("2001:db8:1:2:3:4:5:6"), name("2001:db8:1:2::9"));
        assert_ne!(name("2001:db8:1:2::1"), name("2001:db8:1:3::1"));
    }

    #[test]
    fn rates_that_count_nothing_are_none() {
        let secs = Duration::from_secs;
        for (count, span) in
            [(0, secs(60)), (1, secs(0)), (1, Duration::from_millis(999)), (1, secs(u64::MAX))]
        {
            assert_eq!(Rate::new(count, span), None);
        }
        assert_eq!(rate(u32::MAX, u64::from(u32::MAX)).full(), u64::from(u32::MAX) * u64::from(u32::MAX));
    }
}
