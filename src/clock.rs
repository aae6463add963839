//! Time as a parameter: who needs to know what time it is asks a [`Clock`].
//! In: nothing. Out: [`UnixTime`], [`Stopwatch`]. Errors: none. I/O: the system clock, here and nowhere else.

use std::fmt;
use std::future::Future as _;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::time::Sleep;

/// Whole seconds since 1970-01-01T00:00:00Z, leap seconds not counted (`NumericDate` of RFC 7519 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixTime(u64);

impl UnixTime {
    /// The moment that many seconds after the epoch.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs)
    }

    /// Seconds since the epoch.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0
    }

    /// This moment and `span` later, in whole seconds; the far end of time where that overflows.
    #[must_use]
    pub const fn saturating_add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span.as_secs()))
    }

    /// This moment and `span` earlier, in whole seconds; the epoch where that underflows.
    #[must_use]
    pub const fn saturating_sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(span.as_secs()))
    }

    /// How long after `earlier` this is; zero where it is not after it.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }
}

/// The moment in an ISO 8601 text such as `2026-11-21T10:00:00.000Z`; fractions of a second are dropped.
#[must_use]
pub fn parse_iso(text: &str) -> Option<UnixTime> {
    let moment: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(moment.as_second()).ok().map(UnixTime::from_secs)
}

/// Tells the time of day. One clock serves a whole gateway, so tests can move it.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The present moment.
    fn now(&self) -> UnixTime;
}

/// The machine's clock. A clock set before 1970 reads as 1970.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place that asks the system for the time of day")]
    fn now(&self) -> UnixTime {
        UnixTime(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |span| span.as_secs()))
    }
}

/// A clock that stands still until it is moved: for tests and drills.
#[derive(Debug)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// A clock that stands at `now`.
    #[must_use]
    pub const fn at(now: UnixTime) -> Self {
        Self(AtomicU64::new(now.0))
    }

    /// Moves the clock `span` on.
    pub fn advance(&self, span: Duration) {
        self.0.fetch_add(span.as_secs(), Ordering::SeqCst);
    }

    /// Sets the clock, backwards too.
    pub fn set(&self, now: UnixTime) {
        self.0.store(now.0, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixTime {
        UnixTime(self.0.load(Ordering::SeqCst))
    }
}

/// The machine's time of day, and the microseconds of its second: for the log, which nothing is decided by.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "the one place that asks the system for the time of day")]
pub fn stamp() -> (UnixTime, u32) {
    let span = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (UnixTime(span.as_secs()), span.subsec_micros())
}

/// A moment as ISO 8601 text, in UTC and whole seconds, without the `Z` at its end.
#[must_use]
pub fn iso(at: UnixTime) -> String {
    let text = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(at.0)).to_string();
    text.trim_end_matches('Z').to_owned()
}

/// Measures how long something took, on the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts measuring.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A moment on the runtime's monotonic clock until which something may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(tokio::time::Instant);

impl Deadline {
    /// The present moment.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the runtime's clock")]
    pub fn now() -> Self {
        Self(tokio::time::Instant::now())
    }

    /// The moment `span` from now.
    #[must_use]
    pub fn after(span: Duration) -> Self {
        Self::now().later(span)
    }

    /// The moment `span` after this one.
    #[must_use]
    pub fn later(self, span: Duration) -> Self {
        Self(self.0 + span)
    }

    /// Whether it has passed.
    #[must_use]
    pub fn passed(self) -> bool {
        self.0.elapsed() > Duration::ZERO
    }

    /// Whether it is there: a timer that was set to it may go off.
    #[must_use]
    pub fn reached(self) -> bool {
        Self::now() >= self
    }

    /// Waits for it.
    pub async fn wait(self) {
        tokio::time::sleep_until(self.0).await;
    }

    /// A timer that goes off then.
    pub fn sleep(self) -> Sleep {
        tokio::time::sleep_until(self.0)
    }

    /// Lets a timer go off then. To move one that waits to a later moment costs next to nothing.
    pub fn set(self, timer: Pin<&mut Sleep>) {
        timer.reset(self.0);
    }

    /// Lets a timer go off no later than then: one that has gone off is set anew. Whether it was moved.
    pub fn limit(self, timer: Pin<&mut Sleep>) -> bool {
        let moves = timer.is_elapsed() || self.0 < timer.deadline();
        if moves {
            self.set(timer);
        }
        moves
    }
}

/// A timer of a task that is woken by other things far more often: it is asked when it may have gone off, and not each time that
/// the task is.
#[derive(Debug)]
pub struct Alarm {
    timer: Pin<Box<Sleep>>,
    /// Whom it wakes; `None`: nobody yet.
    wakes: Option<Waker>,
}

impl Alarm {
    /// One that goes off then.
    #[must_use]
    pub fn at(due: Deadline) -> Self {
        Self { timer: Box::pin(due.sleep()), wakes: None }
    }

    /// Lets it go off no later than then, and once more where it has gone off.
    pub fn limit(&mut self, due: Deadline) {
        if due.limit(self.timer.as_mut()) {
            self.wakes = None;
        }
    }

    /// Ready once it has gone off; until then it wakes whoever asked last.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.timer.is_elapsed() && self.wakes.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        // A task that has had its share for now would not be noted down, and is not asked for it here.
        let polled = pin!(tokio::task::unconstrained(self.timer.as_mut())).poll(cx);
        self.wakes = polled.is_pending().then(|| cx.waker().clone());
        polled
    }
}

/// Counts the time since it was started, on the runtime's monotonic clock: no change of the time of day moves it.
#[derive(Clone, Copy, Debug)]
pub struct Uptime(tokio::time::Instant);

impl Uptime {
    /// Starts at zero.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the runtime's clock")]
    pub fn start() -> Self {
        Self(tokio::time::Instant::now())
    }

    /// Time since the start.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.0.elapsed()
    }

    /// The moment at which the count is this.
    #[must_use]
    pub fn at(&self, count: Duration) -> Deadline {
        Deadline(self.0 + count)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn arithmetic_never_wraps() {
        let end = UnixTime::from_secs(u64::MAX);
        assert_eq!(end.saturating_add(Duration::from_secs(5)), end);
        assert_eq!(UnixTime::from_secs(3).saturating_sub(Duration::from_secs(5)), UnixTime::from_secs(0));
        assert_eq!(UnixTime::from_secs(3).since(UnixTime::from_secs(5)), Duration::ZERO);
    }

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = ManualClock::at(UnixTime::from_secs(100));
        assert_eq!(clock.now(), clock.now());
        clock.advance(Duration::from_secs(7));
        assert_eq!(clock.now(), UnixTime::from_secs(107));
        clock.set(UnixTime::from_secs(1));
        assert_eq!(clock.now(), UnixTime::from_secs(1));
    }

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Woken(AtomicU64);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_wakes_who_asked_last_whenever_it_goes_off() {
        let second = Duration::from_secs(1);
        let asked: [Arc<Woken>; 2] = Default::default();
        let wakers = asked.clone().map(Waker::from);
        let woken = || asked.each_ref().map(|woken| woken.0.load(Ordering::SeqCst));
        let mut alarm = Alarm::at(Deadline::after(second * 2));
        let poll = |alarm: &mut Alarm, who: usize| alarm.poll(&mut Context::from_waker(&wakers[who]));
        assert!((0..3).all(|_| poll(&mut alarm, 0).is_pending()));
        // Another task goes on with it.
        assert!(poll(&mut alarm, 1).is_pending());
        tokio::time::sleep(second).await;
        assert!(poll(&mut alarm, 1).is_pending());
        tokio::time::sleep(second * 2).await;
        assert_eq!(woken(), [0, 1]);
        assert!(poll(&mut alarm, 1).is_ready());
        // Set anew after it went off, and earlier again, it wakes whoever asks then; no later limit puts it off.
        for spans in [[1, 1], [1, 5], [5, 1]] {
            let before = woken();
            for span in spans {
                alarm.limit(Deadline::after(second * span));
                assert!(poll(&mut alarm, 0).is_pending());
            }
            tokio::time::sleep(second + Duration::from_millis(2)).await;
            assert_eq!(woken(), [before[0] + 1, before[1]], "{spans:?}");
            assert!(poll(&mut alarm, 0).is_ready());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_has_had_its_share_is_woken_all_the_same() {
        tokio::time::timeout(Duration::from_secs(5), async {
            while tokio::task::coop::has_budget_remaining() {
                tokio::task::coop::consume_budget().await;
            }
        })
        .await
        .expect("the share of a task ends");
        let mut alarm = Alarm::at(Deadline::after(Duration::from_secs(1)));
        tokio::time::timeout(Duration::from_secs(2), std::future::poll_fn(|cx| alarm.poll(cx)))
            .await
            .expect("woken");
    }
}
