//! What is counted.
//! In: events. Out: Prometheus text. Errors: none. I/O: none.
//! Source: the `OpenMetrics` text format, which `prometheus-client` writes.

use std::hash::Hash;
use std::sync::OnceLock;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::clock::UnixTime;

/// One label: what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    outcome: &'static str,
}

/// The labels of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Served {
    verdict: &'static str,
    status: u16,
}

/// One label: whose turn it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Lane {
    lane: &'static str,
}

/// The labels of an exchange that was not begun.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct NotBegun {
    lane: &'static str,
    reason: &'static str,
}

/// One label: why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Why {
    reason: &'static str,
}

/// What the backend is asked for in turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turns {
    /// Renewals, and sign-outs with them.
    Renewals,
    /// What opaque tokens are.
    Questions,
}

/// What is counted of turns at the backend.
#[derive(Debug)]
struct Lanes {
    waiting: Family<Lane, Gauge>,
    wait_seconds: Family<Lane, Histogram, fn() -> Histogram>,
    turned_away: Family<NotBegun, Counter>,
}

impl Default for Lanes {
    fn default() -> Self {
        Self {
            waiting: Family::default(),
            wait_seconds: Family::new_with_constructor(steps),
            turned_away: Family::default(),
        }
    }
}

/// Why an exchange was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnedAway {
    /// Too many wait.
    Full,
    /// Its network brings too many strangers.
    Rate,
    /// The queue was full, and nobody waited for it any more.
    Unwanted,
    /// The backend is spared.
    Resting,
    /// The gateway stops.
    Closed,
}

impl TurnedAway {
    const fn word(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Rate => "rate",
            Self::Unwanted => "unwanted",
            Self::Resting => "resting",
            Self::Closed => "closed",
        }
    }
}

/// One label: the version of HTTP that a client speaks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Spoken {
    version: &'static str,
}

/// Counters of what happens with each request: those that are counted often are found without a lock and without a hash.
#[derive(Debug)]
struct Often<L> {
    family: Family<L, Counter>,
    /// Each at its place, if that was free.
    found: [OnceLock<(L, Counter)>; 64],
}

impl<L: Clone + Hash + Eq> Default for Often<L> {
    fn default() -> Self {
        Self { family: Family::default(), found: [const { OnceLock::new() }; 64] }
    }
}

impl<L: Clone + Hash + Eq> Often<L> {
    /// `place`: any number that others are unlikely to have.
    fn count(&self, label: &L, place: usize) {
        let counter = || self.family.get_or_create(label).clone();
        let slot = self.found.get(place % self.found.len());
        match slot.map(|slot| slot.get_or_init(|| (label.clone(), counter()))) {
            Some((its, known)) if its == label => known.inc(),
            Some(_) | None => counter().inc(),
        };
    }
}

/// Every counter of the gateway.
#[derive(Debug)]
pub struct Meters {
    registry: Registry,
    requests: Often<Served>,
    request_seconds: Histogram,
    spoken: Often<Spoken>,
    renewals: Family<Outcome, Counter>,
    renewal_seconds: Histogram,
    introspections: Family<Outcome, Counter>,
    sign_ins: Family<Outcome, Counter>,
    refusals: Family<Why, Counter>,
    /// Requests that waited for a renewal which another request had begun.
    pub joined: Counter,
    renewal_turns: Lanes,
    question_turns: Lanes,
    /// Whether the session backend is spared: 0 asked, 1 tried again, 2 left alone.
    pub breaker: Gauge,
    /// How often it came to be spared.
    pub breaker_opened: Counter,
    /// Requests served on an access token that was over, while the backend was away.
    pub stale: Counter,
    /// Answers that a renewal's result was repeated for, without asking the backend.
    pub replays: Counter,
    /// Refusals of tokens whose earlier answer was lost.
    pub lost_answers: Counter,
    /// What was dropped for want of memory before every browser surely had what is newer.
    pub evicted: Counter,
    /// Results in memory that no answer has carried yet.
    pub undelivered: Gauge,
    /// Results in memory.
    pub remembered: Gauge,
    /// Bytes of the results in memory.
    pub remembered_bytes: Gauge,
    /// Renewals under way.
    pub flights: Gauge,
    /// Tunnels and event streams that are bound to a session.
    pub bound: Gauge,
    /// Tunnels and event streams that ended because their session did.
    pub bound_ended: Counter,
    /// Whether the replicas' share answers: 1 or 0.
    pub share_up: Gauge,
    /// Results of other replicas that were taken over.
    pub share_taken_over: Counter,
    /// Results that were not stored in the share in time, so those who waited here did not wait for that.
    pub share_late: Counter,
    /// Renewals under way whose claim another replica took.
    pub share_overtaken: Counter,
    /// Records of the share that do not open.
    pub share_unreadable: Counter,
    key_fetches: Family<Outcome, Counter>,
    keys_fetched_at: Gauge,
    reloads: Family<Outcome, Counter>,
    settings_from: Gauge,
    /// Open client connections.
    pub connections: Gauge,
    /// Client connections refused because too many were open.
    pub connections_refused: Counter,
    /// Requests refused before they could be read: these leave no line in the log.
    pub refused_unread: Counter,
    /// Log lines that were dropped because the log's output took none.
    pub log_dropped: Counter,
}

/// Steps of seconds.
fn steps() -> Histogram {
    Histogram::new([0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 30.0])
}

impl Default for Meters {
    fn default() -> Self {
        Self::new()
    }
}

impl Meters {
    /// Counters at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut meters = Self {
            registry: Registry::with_prefix("doorkeep"),
            requests: Often::default(),
            request_seconds: steps(),
            spoken: Often::default(),
            renewals: Family::default(),
            renewal_seconds: steps(),
            introspections: Family::default(),
            sign_ins: Family::default(),
            refusals: Family::default(),
            joined: Counter::default(),
            renewal_turns: Lanes::default(),
            question_turns: Lanes::default(),
            breaker: Gauge::default(),
            breaker_opened: Counter::default(),
            stale: Counter::default(),
            replays: Counter::default(),
            lost_answers: Counter::default(),
            evicted: Counter::default(),
            undelivered: Gauge::default(),
            remembered: Gauge::default(),
            remembered_bytes: Gauge::default(),
            flights: Gauge::default(),
            bound: Gauge::default(),
            bound_ended: Counter::default(),
            share_up: Gauge::default(),
            share_taken_over: Counter::default(),
            share_late: Counter::default(),
            share_overtaken: Counter::default(),
            share_unreadable: Counter::default(),
            key_fetches: Family::default(),
            keys_fetched_at: Gauge::default(),
            reloads: Family::default(),
            settings_from: Gauge::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            refused_unread: Counter::default(),
            log_dropped: Counter::default(),
        };
        meters.register();
        meters
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("requests", "Requests by verdict and status", self.requests.family.clone());
        r.register("request_seconds", "Time to the response head", self.request_seconds.clone());
        r.register("requests_by_version", "Requests by version of HTTP", self.spoken.family.clone());
        r.register("renewals", "Renewals by outcome", self.renewals.clone());
        r.register("renewal_seconds", "Time a renewal took", self.renewal_seconds.clone());
        r.register("renewal_refusals", "Renewals refused by reason", self.refusals.clone());
        r.register("renewal_joined", "Requests that waited for another's renewal", self.joined.clone());
        r.register("introspections", "Questions about opaque tokens by answer", self.introspections.clone());
        r.register("sign_ins", "Sign-ins at the gateway's own form by outcome", self.sign_ins.clone());
        r.register("renewal_replays", "Answers given a remembered renewal", self.replays.clone());
        r.register("renewal_lost_answers", "Refusals after an unknown result", self.lost_answers.clone());
        r.register(
            "renewal_evicted",
            "Results and doubts dropped for want of memory that may still be needed",
            self.evicted.clone(),
        );
        r.register("renewal_undelivered", "Results that no answer has carried yet", self.undelivered.clone());
        r.register("renewal_remembered", "Results in memory", self.remembered.clone());
        r.register("renewal_remembered_bytes", "Bytes of results in memory", self.remembered_bytes.clone());
        r.register("renewal_flights", "Renewals under way", self.flights.clone());
        r.register("bound", "Tunnels and event streams bound to a session", self.bound.clone());
        r.register(
            "bound_ended",
            "Tunnels and event streams ended with their session",
            self.bound_ended.clone(),
        );
        r.register("key_fetches", "Fetches of token keys by outcome", self.key_fetches.clone());
        r.register(
            "keys_fetched_at_seconds",
            "When token keys were last fetched, as Unix time; 0: never",
            self.keys_fetched_at.clone(),
        );
        r.register("reloads", "Times the settings were read again, by outcome", self.reloads.clone());
        r.register(
            "settings_from_seconds",
            "Since when the settings in force are, as Unix time",
            self.settings_from.clone(),
        );
        self.register_admission();
        self.register_share();
        let r = &mut self.registry;
        r.register("connections", "Open client connections", self.connections.clone());
        r.register("connections_refused", "Connections over the cap", self.connections_refused.clone());
        r.register(
            "requests_refused_unread",
            "Requests refused before they could be read",
            self.refused_unread.clone(),
        );
        r.register("log_dropped", "Log lines that nobody took", self.log_dropped.clone());
    }

    fn register_admission(&mut self) {
        let r = &mut self.registry;
        let turns = &self.renewal_turns;
        r.register("renewal_waiting", "Renewals that wait for their turn", turns.waiting.clone());
        r.register("renewal_wait_seconds", "Time until a renewal's turn", turns.wait_seconds.clone());
        r.register("renewal_turned_away", "Renewals not begun", turns.turned_away.clone());
        let turns = &self.question_turns;
        r.register("introspection_waiting", "Questions that wait for their turn", turns.waiting.clone());
        r.register("introspection_wait_seconds", "Time until a question's turn", turns.wait_seconds.clone());
        r.register("introspection_turned_away", "Questions not put", turns.turned_away.clone());
        r.register("backend_breaker", "0 asked, 1 tried again, 2 left alone", self.breaker.clone());
        r.register(
            "backend_breaker_opened",
            "Times the backend came to be spared",
            self.breaker_opened.clone(),
        );
        r.register("stale", "Requests served on a token that was over", self.stale.clone());
    }

    fn register_share(&mut self) {
        let r = &mut self.registry;
        r.register("share_up", "Whether the replicas' share answers", self.share_up.clone());
        r.register("share_taken_over", "Results of other replicas taken over", self.share_taken_over.clone());
        r.register("share_late", "Results stored in the share too late", self.share_late.clone());
        r.register("share_overtaken", "Renewals whose claim was taken", self.share_overtaken.clone());
        r.register("share_unreadable", "Records that do not open", self.share_unreadable.clone());
    }

    /// Counts an answered request.
    pub fn served(&self, verdict: &'static str, status: u16, took: std::time::Duration) {
        // Verdicts differ in their length, mostly, and statuses in their last digits.
        self.requests.count(&Served { verdict, status }, usize::from(status) ^ (verdict.len() << 3));
        self.request_seconds.observe(took.as_secs_f64());
    }

    /// Counts a request by the version of HTTP that it came in.
    pub fn spoken(&self, version: &'static str) {
        let last = version.bytes().last().unwrap_or_default();
        self.spoken.count(&Spoken { version }, last.into());
    }

    /// Counts a renewal that ended.
    pub fn renewal(&self, outcome: &'static str, took: std::time::Duration) {
        self.renewals.get_or_create(&Outcome { outcome }).inc();
        self.renewal_seconds.observe(took.as_secs_f64());
    }

    /// Counts a refusal of the backend.
    pub fn refused(&self, reason: &'static str) {
        self.refusals.get_or_create(&Why { reason }).inc();
    }

    /// How many refusals had this reason.
    #[must_use]
    pub fn refusals(&self, reason: &'static str) -> u64 {
        self.refusals.get_or_create(&Why { reason }).get()
    }

    const fn turns(&self, turns: Turns) -> &Lanes {
        match turns {
            Turns::Renewals => &self.renewal_turns,
            Turns::Questions => &self.question_turns,
        }
    }

    /// Notes how many wait for their turn.
    pub fn waiting(&self, turns: Turns, lane: &'static str, waiting: usize) {
        let waiting = i64::try_from(waiting).unwrap_or(i64::MAX);
        self.turns(turns).waiting.get_or_create(&Lane { lane }).set(waiting);
    }

    /// How many renewals wait for their turn.
    #[must_use]
    pub fn waits(&self, lane: &'static str) -> i64 {
        self.renewal_turns.waiting.get_or_create(&Lane { lane }).get()
    }

    /// Counts an exchange whose turn came.
    pub fn admitted(&self, turns: Turns, lane: &'static str, waited: std::time::Duration) {
        self.turns(turns).wait_seconds.get_or_create(&Lane { lane }).observe(waited.as_secs_f64());
    }

    /// Counts an exchange that was not begun.
    pub fn turned_away(&self, turns: Turns, lane: &'static str, reason: TurnedAway) {
        self.turns(turns).turned_away.get_or_create(&NotBegun { lane, reason: reason.word() }).inc();
    }

    /// How many exchanges were not begun for this reason.
    #[must_use]
    pub fn turned_away_for(&self, turns: Turns, lane: &'static str, reason: TurnedAway) -> u64 {
        self.turns(turns).turned_away.get_or_create(&NotBegun { lane, reason: reason.word() }).get()
    }

    /// Counts a fetch of keys; `at`: when, where they came.
    pub fn keys_fetched(&self, outcome: &'static str, at: Option<UnixTime>) {
        self.key_fetches.get_or_create(&Outcome { outcome }).inc();
        if let Some(at) = at {
            self.keys_fetched_at.set(i64::try_from(at.as_secs()).unwrap_or(i64::MAX));
        }
    }

    /// Notes since when the settings in force are.
    pub fn settings_from(&self, at: UnixTime) {
        self.settings_from.set(i64::try_from(at.as_secs()).unwrap_or(i64::MAX));
    }

    /// Counts that the settings were read again.
    pub fn reload(&self, outcome: &'static str) {
        self.reloads.get_or_create(&Outcome { outcome }).inc();
    }

    /// How often that ended so.
    #[must_use]
    pub fn reloads(&self, outcome: &'static str) -> u64 {
        self.reloads.get_or_create(&Outcome { outcome }).get()
    }

    /// Counts a question about an opaque token.
    pub fn introspection(&self, outcome: &'static str) {
        self.introspections.get_or_create(&Outcome { outcome }).inc();
    }

    /// How many questions about opaque tokens were answered so.
    #[must_use]
    pub fn introspections(&self, outcome: &'static str) -> u64 {
        self.introspections.get_or_create(&Outcome { outcome }).get()
    }

    /// How many renewals ended so.
    #[must_use]
    pub fn renewals(&self, outcome: &'static str) -> u64 {
        self.renewals.get_or_create(&Outcome { outcome }).get()
    }

    /// Counts a form that was sent to sign in.
    pub fn sign_in(&self, outcome: &'static str) {
        self.sign_ins.get_or_create(&Outcome { outcome }).inc();
    }

    /// How many forms that were sent to sign in ended so.
    #[must_use]
    pub fn sign_ins(&self, outcome: &'static str) -> u64 {
        self.sign_ins.get_or_create(&Outcome { outcome }).get()
    }

    /// Everything, as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(std::fmt::Error) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_each_counter() {
        let meters = Meters::new();
        meters.served("admit", 200, std::time::Duration::from_millis(3));
        // All statuses and verdicts there are, more than have places, each as often as it came.
        for status in 300..500 {
            for verdict in ["admit", "login", "anonymous"] {
                meters.served(verdict, status, std::time::Duration::ZERO);
                meters.served(verdict, status, std::time::Duration::ZERO);
            }
        }
        for version in ["1.1", "2", "1.0", "2"] {
            meters.spoken(version);
        }
        meters.renewal("renewed", std::time::Duration::from_millis(3));
        let text = meters.text();
        assert!(text.contains("doorkeep_requests_total{verdict=\"admit\",status=\"200\"} 1"), "{text}");
        assert_eq!(text.matches("\"} 2\n").count(), 200 * 3 + 1, "{text}");
        assert!(text.contains("doorkeep_requests_by_version_total{version=\"2\"} 2"), "{text}");
        assert!(text.contains("doorkeep_renewals_total{outcome=\"renewed\"} 1"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
