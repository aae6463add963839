//! Whether the session backend is asked at all: a backend that is down is spared, and found to be back soon.
//! In: what came of exchanges, and when. Out: whether another may begin. Errors: none. I/O: none; time is a parameter.
//!
//! ```text
//!            faults in a row, too many of all,
//!            or the backend asks for a pause
//!   closed ────────────────────────────────────► open ◄───────────────┐
//!     ▲                                           │ pause is over     │ fault
//!     │                 success                   ▼                   │
//!     └─────────────────────────────────────── half open ─────────────┘
//!                                        one exchange each pause
//! ```

use std::time::Duration;

/// How far back results count, in whole seconds.
const WINDOW: u64 = 10;

/// Fewest results of which half have to be faults.
const ENOUGH: u32 = 20;

/// When a backend is spared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerRules {
    /// So many faults in a row, none of them more than ten seconds after the one before; 0: it never is.
    pub faults: u32,
    /// How long it is left alone before one exchange tries again.
    pub pause: Duration,
    /// The longest pause that the backend may ask for; zero: it is not heard.
    pub retry_after: Duration,
}

impl Default for BreakerRules {
    fn default() -> Self {
        Self { faults: 5, pause: Duration::from_secs(1), retry_after: Duration::from_secs(10) }
    }
}

/// What an exchange tells of the backend's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It decides.
    Good,
    /// It gives no decision, and where it said so, wants to be left alone for so long.
    Fault(Option<Duration>),
    /// Nothing.
    Neither,
}

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The backend is asked.
    Closed,
    /// One exchange tries.
    HalfOpen,
    /// Nothing is asked.
    Open,
}

/// Allows one exchange. What came of it is told with it; one from before the last change tells nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    epoch: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    /// Until then nothing is asked. `tried`: an exchange has been let through since the last fault.
    Open {
        until: Duration,
        tried: bool,
    },
}

/// Results of one second.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    at: u64,
    good: u32,
    faults: u32,
}

/// The breaker. Moments are durations since one that never changes.
#[derive(Debug)]
pub(crate) struct Breaker {
    rules: BreakerRules,
    state: State,
    epoch: u64,
    in_a_row: u32,
    last_fault: Duration,
    seconds: Vec<Second>,
}

impl Breaker {
    pub(crate) fn new(rules: BreakerRules) -> Self {
        Self {
            rules,
            state: State::Closed,
            epoch: 0,
            in_a_row: 0,
            last_fault: Duration::ZERO,
            seconds: Vec::new(),
        }
    }

    /// Other rules from now on; where it stands, and what it counted, stays.
    pub(crate) const fn change(&mut self, rules: BreakerRules) {
        self.rules = rules;
        // Results do not count then, so none would close it.
        if rules.faults == 0 && matches!(self.state, State::Open { .. }) {
            self.epoch += 1;
            self.state = State::Closed;
        }
    }

    /// Where it stands.
    pub(crate) const fn condition(&self) -> Condition {
        match self.state {
            State::Closed => Condition::Closed,
            State::Open { tried: true, .. } => Condition::HalfOpen,
            State::Open { tried: false, .. } => Condition::Open,
        }
    }

    /// How long nothing is asked from now on; `None`: an exchange may begin.
    pub(crate) fn rest(&self, now: Duration) -> Option<Duration> {
        match self.state {
            State::Open { until, .. } if now < until => Some(until - now),
            State::Open { .. } | State::Closed => None,
        }
    }

    /// Lets an exchange begin, or says how long it has to wait.
    pub(crate) fn begin(&mut self, now: Duration) -> Result<Pass, Duration> {
        if let Some(after) = self.rest(now) {
            return Err(after);
        }
        if let State::Open { .. } = self.state {
            // One that brings no result holds up the next one no longer than this.
            let until = now.saturating_add(self.rules.pause);
            self.state = State::Open { until, tried: true };
        }
        Ok(Pass { epoch: self.epoch })
    }

    /// As [`Self::begin`] while the backend is spared; `None`: it is not.
    pub(crate) fn probe(&mut self, now: Duration) -> Result<Option<Pass>, Duration> {
        match self.state {
            State::Closed => Ok(None),
            State::Open { .. } => self.begin(now).map(Some),
        }
    }

    /// What came of an exchange.
    pub(crate) fn end(&mut self, pass: Pass, sign: Sign, now: Duration) {
        if pass.epoch != self.epoch || self.rules.faults == 0 {
            return;
        }
        match (self.state, sign) {
            (_, Sign::Neither) => {}
            (State::Closed, Sign::Good) => {
                self.in_a_row = 0;
                self.second(now).good += 1;
            }
            (State::Closed, Sign::Fault(asked)) => {
                self.count_fault(now);
                let asked = asked.filter(|_| !self.rules.retry_after.is_zero());
                if asked.is_some() || self.in_a_row >= self.rules.faults || self.mostly_faults(now) {
                    self.epoch += 1;
                    self.state = State::Open { until: self.until(asked, now), tried: false };
                }
            }
            (State::Open { .. }, Sign::Good) => {
                self.epoch += 1;
                self.state = State::Closed;
                self.in_a_row = 0;
                self.seconds.clear();
            }
            (State::Open { .. }, Sign::Fault(asked)) => {
                self.state = State::Open { until: self.until(asked, now), tried: false };
            }
        }
    }

    fn until(&self, asked: Option<Duration>, now: Duration) -> Duration {
        let asked = asked.map_or(Duration::ZERO, |asked| asked.min(self.rules.retry_after));
        now.saturating_add(self.rules.pause.max(asked))
    }

    fn count_fault(&mut self, now: Duration) {
        let near = now.saturating_sub(self.last_fault) <= Duration::from_secs(WINDOW);
        self.in_a_row = if near { self.in_a_row.saturating_add(1) } else { 1 };
        self.last_fault = now;
        self.second(now).faults += 1;
    }

    fn mostly_faults(&self, now: Duration) -> bool {
        let recent = self.seconds.iter().filter(|second| now.as_secs() < second.at + WINDOW);
        let (good, faults) = recent.fold((0, 0), |(good, faults), s| (good + s.good, faults + s.faults));
        good + faults >= ENOUGH && faults >= good
    }

    /// The count of this second; those that are too old go.
    fn second(&mut self, now: Duration) -> &mut Second {
        let at = now.as_secs();
        self.seconds.retain(|second| at < second.at + WINDOW);
        let place = self.seconds.iter().position(|second| second.at == at).unwrap_or_else(|| {
            self.seconds.push(Second { at, ..Second::default() });
            self.seconds.len() - 1
        });
        #[allow(clippy::indexing_slicing, reason = "the place was just found or made")]
        &mut self.seconds[place]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FAULT: Sign = Sign::Fault(None);

    fn rules() -> BreakerRules {
        BreakerRules { faults: 3, pause: ms(1000), retry_after: ms(10_000) }
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn breaker() -> Breaker {
        Breaker::new(rules())
    }

    /// One whole exchange.
    fn one(breaker: &mut Breaker, sign: Sign, at: u64) {
        let pass = breaker.begin(ms(at)).expect("it may begin");
        breaker.end(pass, sign, ms(at));
    }

    fn opened(at: u64) -> Breaker {
        let mut breaker = breaker();
        for _ in 0..3 {
            one(&mut breaker, FAULT, at);
        }
        assert_eq!(breaker.condition(), Condition::Open);
        breaker
    }

    #[test]
    fn faults_in_a_row_open_it_and_a_success_between_them_does_not() {
        let mut breaker = breaker();
        for sign in [FAULT, FAULT, Sign::Good, FAULT, FAULT] {
            one(&mut breaker, sign, 0);
        }
        assert_eq!(breaker.condition(), Condition::Closed);
        one(&mut breaker, Sign::Neither, 0);
        assert_eq!(breaker.condition(), Condition::Closed, "what tells nothing counts nothing");
        one(&mut breaker, FAULT, 0);
        assert_eq!(breaker.condition(), Condition::Open);
        assert_eq!(breaker.begin(ms(300)), Err(ms(700)));
    }

    #[test]
    fn other_rules_keep_what_was_counted_and_none_at_all_close_it() {
        let mut breaker = breaker();
        one(&mut breaker, FAULT, 0);
        one(&mut breaker, FAULT, 0);
        breaker.change(BreakerRules { faults: 4, ..rules() });
        one(&mut breaker, FAULT, 0);
        assert_eq!(breaker.condition(), Condition::Closed);
        one(&mut breaker, FAULT, 0);
        assert_eq!(breaker.condition(), Condition::Open);
        breaker.change(BreakerRules { faults: 0, ..rules() });
        assert!(breaker.begin(ms(1)).is_ok() && breaker.begin(ms(1)).is_ok());
        assert_eq!(breaker.condition(), Condition::Closed);
    }

    #[test]
    fn faults_far_apart_are_no_row() {
        let mut breaker = breaker();
        for n in 0..50 {
            one(&mut breaker, FAULT, n * 10_001);
            assert_eq!(breaker.condition(), Condition::Closed);
        }
    }

    #[test]
    fn half_of_twenty_results_open_it() {
        let mut breaker = breaker();
        for n in 0..10 {
            assert_eq!(breaker.condition(), Condition::Closed);
            one(&mut breaker, Sign::Good, n * 100);
            one(&mut breaker, FAULT, n * 100);
        }
        assert_eq!(breaker.condition(), Condition::Open);
    }

    #[test]
    fn results_older_than_the_window_do_not_count() {
        let mut breaker = breaker();
        for n in 0..10 {
            one(&mut breaker, Sign::Good, n * 1000);
            one(&mut breaker, FAULT, n * 1000 + 500);
        }
        assert_eq!(breaker.condition(), Condition::Open, "twenty within ten seconds");
        let mut slow = self::breaker();
        for n in 0..200 {
            one(&mut slow, Sign::Good, n * 1200);
            one(&mut slow, FAULT, n * 1200 + 600);
        }
        assert_eq!(slow.condition(), Condition::Closed, "never twenty within ten seconds");
    }

    #[test]
    fn after_the_pause_one_tries_and_its_success_closes() {
        let mut breaker = opened(0);
        assert_eq!(breaker.rest(ms(999)), Some(ms(1)));
        let probe = breaker.begin(ms(1000)).expect("one may try");
        assert_eq!(breaker.condition(), Condition::HalfOpen);
        assert_eq!(breaker.begin(ms(1000)), Err(ms(1000)), "and no other");
        breaker.end(probe, Sign::Good, ms(1200));
        assert_eq!(breaker.condition(), Condition::Closed);
        assert!(breaker.begin(ms(1200)).is_ok() && breaker.begin(ms(1200)).is_ok());
        one(&mut breaker, FAULT, 1200);
        assert_eq!(breaker.condition(), Condition::Closed, "it starts counting anew");
    }

    #[test]
    fn a_fault_of_the_one_that_tries_opens_it_again() {
        let mut breaker = opened(0);
        let probe = breaker.begin(ms(1000)).expect("one may try");
        breaker.end(probe, FAULT, ms(1500));
        assert_eq!(breaker.condition(), Condition::Open);
        assert_eq!(breaker.begin(ms(1600)), Err(ms(900)));
        assert!(breaker.begin(ms(2500)).is_ok());
    }

    #[test]
    fn one_that_hangs_or_tells_nothing_holds_up_the_next_for_one_pause() {
        let mut breaker = opened(0);
        let hangs = breaker.begin(ms(1000)).expect("one may try");
        let next = breaker.begin(ms(2000)).expect("the next one may");
        breaker.end(next, Sign::Neither, ms(2100));
        assert_eq!(breaker.condition(), Condition::HalfOpen);
        assert!(breaker.begin(ms(3000)).is_ok());
        breaker.end(hangs, Sign::Good, ms(3100));
        assert_eq!(breaker.condition(), Condition::Closed, "late, and still a success");
    }

    #[test]
    fn what_began_before_the_change_changes_nothing() {
        let mut breaker = breaker();
        let early = breaker.begin(ms(0)).expect("closed");
        for _ in 0..3 {
            one(&mut breaker, FAULT, 0);
        }
        breaker.end(early, Sign::Good, ms(10));
        assert_eq!(breaker.condition(), Condition::Open);
        let probe = breaker.begin(ms(1000)).expect("one may try");
        breaker.end(probe, Sign::Good, ms(1001));
        for _ in 0..9 {
            breaker.end(early, FAULT, ms(1002));
        }
        assert_eq!(breaker.condition(), Condition::Closed);
    }

    #[test]
    fn a_backend_that_asks_for_a_pause_gets_it_up_to_the_cap() {
        for (asked, gets) in [(4, 4000), (0, 1000), (3600, 10_000)] {
            let mut breaker = breaker();
            one(&mut breaker, Sign::Fault(Some(Duration::from_secs(asked))), 0);
            assert_eq!(breaker.rest(ms(0)), Some(ms(gets)), "{asked}");
        }
        let mut deaf = Breaker::new(BreakerRules { retry_after: Duration::ZERO, ..rules() });
        one(&mut deaf, Sign::Fault(Some(Duration::from_secs(4))), 0);
        assert_eq!(deaf.condition(), Condition::Closed);
    }

    #[test]
    fn switched_off_it_never_opens() {
        let mut breaker = Breaker::new(BreakerRules { faults: 0, ..rules() });
        for n in 0..1000 {
            one(&mut breaker, Sign::Fault(Some(ms(5000))), n);
        }
        assert_eq!(breaker.condition(), Condition::Closed);
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Wait(u64),
        Begin,
        End(usize, Sign),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let sign = prop_oneof![
            Just(Sign::Good),
            Just(FAULT),
            (0..60_u64).prop_map(|secs| Sign::Fault(Some(Duration::from_secs(secs)))),
            Just(Sign::Neither),
        ];
        let step = prop_oneof![
            (0..3000_u64).prop_map(Step::Wait),
            Just(Step::Begin),
            (0..8_usize, sign).prop_map(|(n, sign)| Step::End(n, sign)),
        ];
        prop::collection::vec(step, 0..400)
    }

    proptest! {
        /// Whatever happens in whatever order: while it is not closed at most one begins in each pause, it never rests
        /// longer than it may, and a success of one that tried closes it.
        #[test]
        fn it_spares_the_backend_and_never_for_long(steps in steps()) {
            let mut breaker = breaker();
            let mut now = Duration::ZERO;
            let mut passes: Vec<Pass> = Vec::new();
            let mut last_try: Option<Duration> = None;
            for step in steps {
                match step {
                    Step::Wait(millis) => now += ms(millis),
                    Step::Begin => {
                        let closed = breaker.condition() == Condition::Closed;
                        match breaker.begin(now) {
                            Ok(pass) => {
                                if !closed {
                                    prop_assert!(last_try.is_none_or(|last| now >= last + rules().pause));
                                    last_try = Some(now);
                                }
                                passes.push(pass);
                            }
                            Err(after) => {
                                prop_assert!(!closed && after > Duration::ZERO);
                                prop_assert!(after <= rules().retry_after.max(rules().pause));
                            }
                        }
                    }
                    Step::End(n, sign) if n < passes.len() => {
                        let pass = passes.swap_remove(n);
                        let current = pass.epoch == breaker.epoch;
                        breaker.end(pass, sign, now);
                        if current && sign == Sign::Good {
                            prop_assert_eq!(breaker.condition(), Condition::Closed);
                        }
                    }
                    Step::End(..) => {}
                }
                if breaker.condition() == Condition::Closed {
                    last_try = None;
                }
                prop_assert!(breaker.seconds.len() <= 10);
            }
        }
    }
}
