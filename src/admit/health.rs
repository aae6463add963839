//! The health of the session backend, as all who ask it see and tell it.
//! In: what came of exchanges. Out: whether another may begin. Errors: none. I/O: a log line for each change.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::admit::breaker::{Breaker, BreakerRules, Condition, Pass, Sign};
use crate::clock::Uptime;
use crate::meter::Meters;
use crate::outcome::BackendFault;

/// The breaker, its clock and its voice.
#[derive(Debug)]
pub struct Health {
    breaker: Mutex<Breaker>,
    uptime: Uptime,
    meters: Arc<Meters>,
}

impl Health {
    /// A backend that is taken for well.
    #[must_use]
    pub fn new(rules: BreakerRules, meters: Arc<Meters>) -> Self {
        Self { breaker: Mutex::new(Breaker::new(rules)), uptime: Uptime::start(), meters }
    }

    /// Spares the backend by these rules from now on.
    pub(super) fn change_rules(&self, rules: BreakerRules) {
        self.change(|breaker| breaker.change(rules));
    }

    /// Lets an exchange begin.
    ///
    /// # Errors
    /// How long it has to wait.
    pub fn begin(&self) -> Result<Pass, Duration> {
        let now = self.uptime.now();
        self.change(|breaker| breaker.begin(now))
    }

    /// While the backend is spared, lets one exchange try; `None`: it is not spared.
    ///
    /// # Errors
    /// How long it has to wait.
    pub fn probe(&self) -> Result<Option<Pass>, Duration> {
        let now = self.uptime.now();
        self.change(|breaker| breaker.probe(now))
    }

    /// How long a stranger has to wait, who never tries; `None`: the backend is asked as usual.
    #[must_use]
    pub fn away(&self) -> Option<Duration> {
        let breaker = self.breaker();
        let soon = || breaker.rest(self.uptime.now()).unwrap_or(Duration::from_secs(1));
        (breaker.condition() != Condition::Closed).then(soon)
    }

    /// How long nothing is asked from now on; `None`: somebody may.
    #[must_use]
    pub fn rest(&self) -> Option<Duration> {
        self.breaker().rest(self.uptime.now())
    }

    /// Whether the backend is taken for well.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.breaker().condition() == Condition::Closed
    }

    /// What came of an exchange.
    pub fn end(&self, pass: Pass, sign: Sign) {
        let now = self.uptime.now();
        self.change(|breaker| breaker.end(pass, sign, now));
    }

    fn change<T>(&self, act: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut breaker = self.breaker();
        let before = breaker.condition();
        let came = act(&mut breaker);
        let after = breaker.condition();
        if before != after {
            self.tell(before, after);
        }
        came
    }

    /// One line for each change; told under the lock, so that the lines stand in the order of the changes.
    fn tell(&self, before: Condition, after: Condition) {
        match (before, after) {
            (Condition::Closed, _) => {
                self.meters.breaker_opened.inc();
                tracing::warn!("the session backend gives no decisions: it is spared, and tried again soon");
            }
            (_, Condition::Closed) => tracing::info!("the session backend decides again"),
            (_, Condition::HalfOpen) => tracing::info!("the session backend is tried again"),
            (_, Condition::Open) => tracing::info!("the session backend still gives no decisions"),
        }
        self.meters.breaker.set(match after {
            Condition::Closed => 0,
            Condition::HalfOpen => 1,
            Condition::Open => 2,
        });
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a fault of an exchange tells of the backend's health. A backend that rejects this gateway's own request decides.
#[must_use]
pub const fn sign_of(fault: &BackendFault) -> Sign {
    match fault {
        BackendFault::NoDecision { status: 429 | 503, retry_after } => Sign::Fault(*retry_after),
        BackendFault::NoDecision { status: 500.., .. } | BackendFault::Connect | BackendFault::Lost(_) => {
            Sign::Fault(None)
        }
        BackendFault::ClientRejected { .. } | BackendFault::Unusable { .. } => Sign::Good,
        // Another page, status or redirect: something answers, and whether the backend does is not said.
        BackendFault::NoDecision { .. }
        | BackendFault::HeldBack { .. }
        | BackendFault::Slow
        | BackendFault::Unverifiable { .. }
        | BackendFault::Busy
        | BackendFault::Resting { .. }
        | BackendFault::ShareAway
        | BackendFault::Internal => Sign::Neither,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Loss;

    #[test]
    fn faults_of_the_way_and_of_the_backend_count_and_our_own_do_not() {
        let no_decision = |status, secs: Option<u64>| BackendFault::NoDecision {
            status,
            retry_after: secs.map(Duration::from_secs),
        };
        let asked = Sign::Fault(Some(Duration::from_secs(7)));
        for (fault, sign) in [
            (BackendFault::Connect, Sign::Fault(None)),
            (BackendFault::Lost(Loss::GaveUp), Sign::Fault(None)),
            (no_decision(500, None), Sign::Fault(None)),
            (no_decision(500, Some(7)), Sign::Fault(None)),
            (no_decision(503, Some(7)), asked),
            (no_decision(429, Some(7)), asked),
            (no_decision(429, None), Sign::Fault(None)),
            (no_decision(404, Some(7)), Sign::Neither),
            (no_decision(302, None), Sign::Neither),
            (BackendFault::ClientRejected { status: 401 }, Sign::Good),
            (BackendFault::Busy, Sign::Neither),
            (BackendFault::ShareAway, Sign::Neither),
            (BackendFault::Internal, Sign::Neither),
        ] {
            assert_eq!(sign_of(&fault), sign, "{fault:?}");
        }
    }

    #[test]
    fn each_change_is_counted_and_shown() {
        let meters = Arc::new(Meters::new());
        let rules = BreakerRules { faults: 1, pause: Duration::ZERO, retry_after: Duration::ZERO };
        let health = Health::new(rules, Arc::clone(&meters));
        let pass = health.begin().expect("closed");
        health.end(pass, Sign::Fault(None));
        assert_eq!((meters.breaker.get(), meters.breaker_opened.get()), (2, 1));
        let probe = health.begin().expect("the pause is over");
        assert_eq!(meters.breaker.get(), 1);
        health.end(probe, Sign::Good);
        assert_eq!((meters.breaker.get(), meters.breaker_opened.get()), (0, 1));
    }
}
