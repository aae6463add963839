//! How often each client network may bring sessions that could be anybody's: a token bucket per network.
//! In: a network and the moment. Out: whether it may. Errors: none. I/O: none; time is a parameter. Memory is bounded.

use std::collections::HashMap;
use std::time::Duration;

use crate::network::Network;

/// Most networks that are told apart; all others share one bucket.
const NETWORKS: usize = 16_384;

/// What each network may bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketRules {
    /// So many at once.
    pub burst: u32,
    /// So many more each second.
    pub per_second: u32,
}

impl Default for BucketRules {
    fn default() -> Self {
        Self { burst: 100, per_second: 20 }
    }
}

/// How full a bucket was when, in thousandths.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: u64,
    at: Duration,
}

/// The buckets. Moments are durations since one that never changes.
#[derive(Debug)]
pub(crate) struct Buckets {
    rules: BucketRules,
    networks: HashMap<Network, Bucket>,
    others: Bucket,
    swept: Duration,
}

impl Buckets {
    pub(crate) fn new(rules: BucketRules) -> Self {
        let others = Bucket { left: u64::from(rules.burst) * 1000, at: Duration::ZERO };
        Self { rules, networks: HashMap::new(), others, swept: Duration::ZERO }
    }

    /// Other rules from now on. What is in a bucket stays, up to what it holds now.
    pub(crate) const fn change(&mut self, rules: BucketRules) {
        self.rules = rules;
    }

    /// Whether a network may bring one more now; if so, it has.
    pub(crate) fn take(&mut self, network: Network, now: Duration) -> bool {
        let full = u64::from(self.rules.burst) * 1000;
        if self.networks.len() >= NETWORKS && !self.networks.contains_key(&network) {
            self.sweep(now);
        }
        let bucket = if self.networks.len() < NETWORKS || self.networks.contains_key(&network) {
            self.networks.entry(network).or_insert(Bucket { left: full, at: now })
        } else {
            &mut self.others
        };
        bucket.left = level(*bucket, self.rules, now);
        bucket.at = now;
        let may = bucket.left >= 1000;
        if may {
            bucket.left -= 1000;
        }
        may
    }

    /// Forgets the buckets that are full again, at most once a second.
    fn sweep(&mut self, now: Duration) {
        if now.saturating_sub(self.swept) < Duration::from_secs(1) {
            return;
        }
        self.swept = now;
        let rules = self.rules;
        let full = u64::from(rules.burst) * 1000;
        self.networks.retain(|_, bucket| level(*bucket, rules, now) < full);
    }
}

/// How full a bucket is now.
fn level(bucket: Bucket, rules: BucketRules, now: Duration) -> u64 {
    let millis = u64::try_from(now.saturating_sub(bucket.at).as_millis()).unwrap_or(u64::MAX);
    let gained = millis.saturating_mul(u64::from(rules.per_second));
    bucket.left.saturating_add(gained).min(u64::from(rules.burst) * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: BucketRules = BucketRules { burst: 3, per_second: 2 };

    fn secs(n: f64) -> Duration {
        Duration::from_secs_f64(n)
    }

    fn network(n: u16) -> Network {
        let [a, b] = n.to_be_bytes();
        Network::V4([10, a, b])
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut buckets = Buckets::new(RULES);
        let mut take = |at: f64| buckets.take(network(1), secs(at));
        assert!(take(0.0) && take(0.0) && take(0.0));
        assert!(!take(0.0) && !take(0.49));
        assert!(take(0.5) && !take(0.5));
        assert!(take(100.0) && take(100.0) && take(100.0) && !take(100.0), "never more than the burst");
    }

    #[test]
    fn one_network_takes_nothing_from_another() {
        let mut buckets = Buckets::new(RULES);
        for _ in 0..100 {
            buckets.take(network(1), secs(0.0));
        }
        assert!(buckets.take(network(2), secs(0.0)));
    }

    #[test]
    fn the_memory_is_bounded_and_full_buckets_go_first() {
        let mut buckets = Buckets::new(RULES);
        for n in 0..=u16::MAX {
            buckets.take(network(n), secs(0.0));
        }
        assert_eq!(buckets.networks.len(), NETWORKS);
        assert!(!buckets.take(network(60_000), secs(0.0)), "the bucket of all others is empty");
        assert!(buckets.take(network(60_000), secs(10.0)), "the others are full again and forgotten");
        assert_eq!(buckets.networks.len(), 1);
    }

    #[test]
    fn a_rate_of_nothing_lets_nobody_in() {
        let mut buckets = Buckets::new(BucketRules { burst: 0, per_second: 0 });
        assert!(!buckets.take(network(1), secs(0.0)) && !buckets.take(network(1), secs(9999.0)));
    }
}
