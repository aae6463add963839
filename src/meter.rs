//! What is counted.
//! In: events. Out: Prometheus text. Errors: none. I/O: none.
//! Source: the `OpenMetrics` text format, which `prometheus-client` writes.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

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

/// Every counter of the gateway.
#[derive(Debug)]
pub struct Meters {
    registry: Registry,
    requests: Family<Served, Counter>,
    request_seconds: Histogram,
    renewals: Family<Outcome, Counter>,
    renewal_seconds: Histogram,
    /// Answers that a renewal's result was repeated for, without asking the backend.
    pub replays: Counter,
    /// Refusals of tokens whose earlier answer was lost.
    pub lost_answers: Counter,
    /// Results dropped for want of memory before any answer carried them.
    pub evicted_undelivered: Counter,
    /// Results in memory.
    pub remembered: Gauge,
    /// Bytes of the results in memory.
    pub remembered_bytes: Gauge,
    /// Renewals under way.
    pub flights: Gauge,
    /// Open client connections.
    pub connections: Gauge,
    /// Client connections refused because too many were open.
    pub connections_refused: Counter,
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
        let steps = || Histogram::new([0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 30.0]);
        let mut meters = Self {
            registry: Registry::with_prefix("doorkeep"),
            requests: Family::default(),
            request_seconds: steps(),
            renewals: Family::default(),
            renewal_seconds: steps(),
            replays: Counter::default(),
            lost_answers: Counter::default(),
            evicted_undelivered: Counter::default(),
            remembered: Gauge::default(),
            remembered_bytes: Gauge::default(),
            flights: Gauge::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
        };
        meters.register();
        meters
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("requests", "Requests by verdict and status", self.requests.clone());
        r.register("request_seconds", "Time to the response head", self.request_seconds.clone());
        r.register("renewals", "Renewals by outcome", self.renewals.clone());
        r.register("renewal_seconds", "Time a renewal took", self.renewal_seconds.clone());
        r.register("renewal_replays", "Answers given a remembered renewal", self.replays.clone());
        r.register("renewal_lost_answers", "Refusals after an unknown result", self.lost_answers.clone());
        r.register(
            "renewal_evicted_undelivered",
            "Undelivered results dropped for want of memory",
            self.evicted_undelivered.clone(),
        );
        r.register("renewal_remembered", "Results in memory", self.remembered.clone());
        r.register("renewal_remembered_bytes", "Bytes of results in memory", self.remembered_bytes.clone());
        r.register("renewal_flights", "Renewals under way", self.flights.clone());
        r.register("connections", "Open client connections", self.connections.clone());
        r.register("connections_refused", "Connections over the cap", self.connections_refused.clone());
    }

    /// Counts an answered request.
    pub fn served(&self, verdict: &'static str, status: u16, took: std::time::Duration) {
        self.requests.get_or_create(&Served { verdict, status }).inc();
        self.request_seconds.observe(took.as_secs_f64());
    }

    /// Counts a renewal that ended.
    pub fn renewal(&self, outcome: &'static str, took: std::time::Duration) {
        self.renewals.get_or_create(&Outcome { outcome }).inc();
        self.renewal_seconds.observe(took.as_secs_f64());
    }

    /// How many renewals ended so.
    #[must_use]
    pub fn renewals(&self, outcome: &'static str) -> u64 {
        self.renewals.get_or_create(&Outcome { outcome }).get()
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
        meters.renewal("renewed", std::time::Duration::from_millis(3));
        let text = meters.text();
        assert!(text.contains("doorkeep_requests_total{verdict=\"admit\",status=\"200\"} 1"), "{text}");
        assert!(text.contains("doorkeep_renewals_total{outcome=\"renewed\"} 1"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
