//! Where missing keys are asked for: by those who hold a token of an unknown key, answered by whoever fetches keys.
//! In: askers. Out: rounds of fetching, numbered from 1. Errors: none. I/O: none; askers wait, at most [`PATIENCE`].
//!
//! Anybody can send a token that names a key of no issuer. So such tokens start a round at most every ten seconds, all of
//! them together, and join the round that is under way. Tokens that the session backend issued just now start one at once.
//! Where even that does not bring their key, the published keys are behind, and the key is expected: whoever presents a token
//! of it asks anew each time, and is told to wait rather than that it is nobody's key. Its session is not renewed for that.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::clock::UnixTime;
use crate::outcome::BackendFault;

/// Longest wait of an asker. A round that is begun when the one before it has just ended fits in.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How long a key is expected that was never published.
const EXPECTED_FOR: Duration = Duration::from_secs(600);

/// Most keys that are expected.
const MOST_EXPECTED: usize = 16;

/// Between rounds that presented tokens start.
const PRESENTED_EVERY: Duration = Duration::from_secs(10);

/// Whose key is missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// That of a token which a client brought.
    Presented,
    /// The same, and the session backend has issued a token of that key.
    Expected,
    /// That of a token which the session backend issued just now.
    Issued,
}

/// What asking led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The key is there now.
    Found,
    /// The keys are as the issuer publishes them, and it is not among them.
    Missing,
    /// The issuer's keys could not be had, so nobody knows.
    Away(BackendFault),
}

/// The desk.
#[derive(Debug)]
pub struct KeyDesk {
    rounds: Mutex<Rounds>,
    wanted: Notify,
    ended: watch::Sender<Ended>,
}

#[derive(Debug, Default)]
struct Rounds {
    started: u64,
    wanted: u64,
    last: Option<UnixTime>,
    /// Names of keys with which the backend signs and which are not published, and since when.
    expected: Vec<(String, UnixTime)>,
}

/// The last round that ended, and how.
#[derive(Clone, Debug)]
struct Ended {
    round: u64,
    fault: Option<BackendFault>,
}

impl Default for KeyDesk {
    fn default() -> Self {
        let none_yet = Ended { round: 0, fault: Some(BackendFault::Connect) };
        Self { rounds: Mutex::default(), wanted: Notify::new(), ended: watch::Sender::new(none_yet) }
    }
}

impl KeyDesk {
    /// Asks for keys, and waits until `found` or until the round that this asker may have is over.
    pub async fn ask(&self, missed: Missed, now: UnixTime, found: impl Fn() -> bool) -> Asked {
        let mut ended = self.ended.subscribe();
        let Some(round) = self.want(missed, now) else {
            // What the last round came to is read first: keys that come after that are found.
            let last = ended.borrow().clone();
            return if found() { Asked::Found } else { Self::missing(missed, &last) };
        };
        let waiting = async {
            loop {
                // The sender lives as long as this desk.
                let now = ended.borrow_and_update().clone();
                if found() {
                    return Asked::Found;
                }
                if now.round >= round || ended.changed().await.is_err() {
                    return Self::missing(missed, &now);
                }
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or(Asked::Away(BackendFault::Slow))
    }

    fn missing(missed: Missed, ended: &Ended) -> Asked {
        match (&ended.fault, missed) {
            (Some(fault), _) => Asked::Away(fault.clone()),
            (None, Missed::Expected) => Asked::Away(BackendFault::Slow),
            (None, Missed::Presented | Missed::Issued) => Asked::Missing,
        }
    }

    /// The session backend signs with a key of this name, and it is not published yet.
    pub fn expect(&self, key_id: String, now: UnixTime) {
        let mut rounds = self.rounds();
        rounds.expected.retain(|(expected, since)| *expected != key_id && is_recent(*since, now));
        if rounds.expected.len() == MOST_EXPECTED {
            rounds.expected.remove(0);
        }
        rounds.expected.push((key_id, now));
    }

    /// Keys of these names are there, and expected no longer.
    pub fn published(&self, is_there: impl Fn(&str) -> bool) {
        self.rounds().expected.retain(|(expected, _)| !is_there(expected));
    }

    /// Whether a key of this name is expected.
    #[must_use]
    pub fn expects(&self, key_id: &str, now: UnixTime) -> bool {
        let rounds = self.rounds();
        rounds.expected.iter().any(|(expected, since)| expected == key_id && is_recent(*since, now))
    }

    /// The round to wait for; `None`: the last one has to do.
    fn want(&self, missed: Missed, now: UnixTime) -> Option<u64> {
        let mut rounds = self.rounds();
        let under_way = rounds.started > self.ended.borrow().round;
        let round = match missed {
            // What is being fetched now may have been sent before the token was issued.
            Missed::Issued => rounds.started + 1,
            Missed::Presented | Missed::Expected if under_way => return Some(rounds.started),
            Missed::Presented | Missed::Expected if rounds.wanted > rounds.started => {
                return Some(rounds.wanted);
            }
            Missed::Expected => rounds.started + 1,
            Missed::Presented => {
                // A clock that was set back must not silence the desk.
                let rested = |last: UnixTime| now < last || now.since(last) >= PRESENTED_EVERY;
                if !rounds.last.is_none_or(rested) {
                    return None;
                }
                rounds.started + 1
            }
        };
        rounds.wanted = round;
        self.wanted.notify_one();
        Some(round)
    }

    /// Waits until somebody wants a round that has not begun.
    pub async fn wanted(&self) {
        loop {
            let notified = self.wanted.notified();
            {
                let rounds = self.rounds();
                if rounds.wanted > rounds.started {
                    return;
                }
            }
            notified.await;
        }
    }

    /// A round begins: the fetching of keys.
    pub fn begin(&self, now: UnixTime) {
        let mut rounds = self.rounds();
        rounds.started += 1;
        rounds.last = Some(now);
    }

    /// It ended, the new keys in use or not.
    pub fn end(&self, result: Result<(), BackendFault>) {
        let round = self.rounds().started;
        self.ended.send_replace(Ended { round, fault: result.err() });
    }

    fn rounds(&self) -> MutexGuard<'_, Rounds> {
        // Every change under the lock is complete in itself.
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A clock that was set back makes nothing last for ever.
fn is_recent(since: UnixTime, now: UnixTime) -> bool {
    since <= now && now.since(since) < EXPECTED_FOR
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    fn at(secs: u64) -> UnixTime {
        UnixTime::from_secs(1000 + secs)
    }

    /// A desk after one round that brought keys at 0.
    fn desk() -> KeyDesk {
        let desk = KeyDesk::default();
        desk.begin(at(0));
        desk.end(Ok(()));
        desk
    }

    #[tokio::test(start_paused = true)]
    async fn before_the_first_round_askers_wait_for_it() {
        let desk = KeyDesk::default();
        let known = AtomicBool::new(false);
        let asking = desk.ask(Missed::Presented, at(0), || known.load(Ordering::SeqCst));
        let fetching = async {
            desk.wanted().await;
            desk.begin(at(0));
            known.store(true, Ordering::SeqCst);
            desk.end(Ok(()));
        };
        assert_eq!(tokio::join!(asking, fetching).0, Asked::Found);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_who_fetches_is_no_reason_to_wait_for_ever() {
        let desk = KeyDesk::default();
        assert_eq!(desk.ask(Missed::Presented, at(0), || false).await, Asked::Away(BackendFault::Slow));
        assert_eq!(desk.ask(Missed::Issued, at(0), || false).await, Asked::Away(BackendFault::Slow));
    }

    #[tokio::test(start_paused = true)]
    async fn presented_tokens_start_a_round_every_ten_seconds_whatever_the_clock_does() {
        let desk = desk();
        assert_eq!(desk.want(Missed::Presented, at(9)), None);
        assert_eq!(desk.want(Missed::Presented, at(10)), Some(2));
        assert_eq!(desk.want(Missed::Presented, at(10)), Some(2), "the same one");
        desk.begin(at(10));
        assert_eq!(desk.want(Missed::Presented, at(10)), Some(2), "it is under way");
        desk.end(Ok(()));
        assert_eq!(desk.want(Missed::Presented, at(11)), None);
        let before = UnixTime::from_secs(5);
        assert_eq!(desk.want(Missed::Presented, before), Some(3), "the clock was set back");
    }

    #[tokio::test(start_paused = true)]
    async fn issued_tokens_want_a_round_that_begins_after_them() {
        let desk = desk();
        assert_eq!(desk.want(Missed::Issued, at(0)), Some(2));
        assert_eq!(desk.want(Missed::Issued, at(0)), Some(2), "all of them the same one");
        desk.begin(at(0));
        assert_eq!(desk.want(Missed::Issued, at(0)), Some(3), "that one may have been sent before");
        let known = AtomicBool::new(false);
        let asking = desk.ask(Missed::Issued, at(0), || known.load(Ordering::SeqCst));
        let fetching = async {
            known.store(true, Ordering::SeqCst);
            desk.end(Ok(()));
        };
        assert_eq!(tokio::join!(asking, fetching).0, Asked::Found, "although it was the earlier one");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_last_round_came_to_is_told_to_those_who_may_start_none() {
        let desk = desk();
        assert_eq!(desk.ask(Missed::Presented, at(1), || false).await, Asked::Missing);
        assert_eq!(desk.ask(Missed::Presented, at(1), || true).await, Asked::Found);
        desk.begin(at(2));
        desk.end(Err(BackendFault::NoDecision { status: 500, retry_after: None }));
        let away = Asked::Away(BackendFault::NoDecision { status: 500, retry_after: None });
        assert_eq!(desk.ask(Missed::Presented, at(3), || false).await, away);
    }

    #[tokio::test(start_paused = true)]
    async fn an_expected_key_is_asked_for_each_time_and_not_for_ever() {
        let desk = desk();
        desk.expect("new".to_owned(), at(0));
        assert!(desk.expects("new", at(599)) && !desk.expects("new", at(600)) && !desk.expects("x", at(0)));
        assert_eq!(desk.want(Missed::Expected, at(1)), Some(2), "although there was a round just now");
        assert_eq!(desk.want(Missed::Expected, at(1)), Some(2));
        let asking = desk.ask(Missed::Expected, at(1), || false);
        let fetching = async {
            desk.wanted().await;
            desk.begin(at(1));
            desk.end(Ok(()));
        };
        let (asked, ()) = tokio::join!(asking, fetching);
        assert_eq!(asked, Asked::Away(BackendFault::Slow), "it is somebody's, so its bearer waits");
        desk.published(|name| name == "new");
        assert!(!desk.expects("new", at(1)));
        for n in 0..100 {
            desk.expect(n.to_string(), at(2));
        }
        assert_eq!(desk.rounds().expected.len(), MOST_EXPECTED);
    }

    /// Askers of both kinds beside rounds that come and go: none waits past its time, none is forgotten.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_asker_is_forgotten() {
        let desk = Arc::new(KeyDesk::default());
        let rounds = Arc::new(AtomicUsize::new(0));
        let tasks = tokio_util::task::TaskTracker::new();
        let stop = tokio_util::sync::CancellationToken::new();
        {
            let (desk, rounds, stop) = (Arc::clone(&desk), Arc::clone(&rounds), stop.clone());
            tasks.spawn(async move {
                while stop.run_until_cancelled(desk.wanted()).await.is_some() {
                    desk.begin(at(0));
                    tokio::task::yield_now().await;
                    rounds.fetch_add(1, Ordering::SeqCst);
                    desk.end(Ok(()));
                }
            });
        }
        let mut asking = tokio::task::JoinSet::new();
        for n in 0..200 {
            let desk = Arc::clone(&desk);
            asking.spawn(async move {
                for _ in 0..50 {
                    let missed = if n % 2 == 0 { Missed::Issued } else { Missed::Presented };
                    assert_eq!(desk.ask(missed, at(0), || false).await, Asked::Missing);
                }
            });
        }
        asking.join_all().await;
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        assert!(rounds.load(Ordering::SeqCst) >= 50, "each asker of the first kind saw a new one each time");
    }
}
