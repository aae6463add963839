//! The one line that each request leaves in the log.
//! In: what happened. Out: an event at `info`, target `access`. Errors: none. I/O: none here; the log is written elsewhere.
//! A line holds no query, no cookie, no token and no claim; the user stands in it as a keyed digest.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, Request, StatusCode};

use crate::identity::Identity;
use crate::outcome::TokenState;
use crate::random;
use crate::session::seal::SessionKeys;
use crate::verdict::{Decline, LoginReason, Verdict};

/// What is remembered of a request for its line.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) request_id: String,
    pub(crate) verdict: &'static str,
    pub(crate) renewal: &'static str,
    /// Trace id (the request's own) and span id.
    pub(crate) trace: (u128, u64),
    method: Method,
    path: String,
    peer: SocketAddr,
    site: String,
    rule: String,
    who: Option<Identity>,
}

impl Visit {
    pub(crate) fn begin<B>(request: &Request<B>, peer: SocketAddr) -> Self {
        let trace = random::trace_ids();
        Self {
            request_id: format!("{:032x}", trace.0),
            trace,
            verdict: "none",
            renewal: "",
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            peer,
            site: String::new(),
            rule: String::new(),
            who: None,
        }
    }

    pub(crate) fn route(&mut self, site: &str, rule: &str) {
        self.site = site.to_owned();
        self.rule = rule.to_owned();
    }

    pub(crate) fn caller(&mut self, state: &TokenState) {
        if let TokenState::Live(who, _) | TokenState::Expired(who) = state {
            self.who = Some(who.clone());
        }
    }

    pub(crate) fn verdict(&mut self, verdict: &Verdict) {
        if self.verdict != "none" {
            return;
        }
        self.verdict = match verdict {
            Verdict::Admit(crate::verdict::Caller::Anonymous, _) => "anonymous",
            Verdict::Admit(crate::verdict::Caller::Known(..), _) => "admit",
            Verdict::Decline(Decline::Login(LoginReason::SessionEnded), _) => "session_ended",
            Verdict::Decline(Decline::Login(_), _) => "login",
            Verdict::Decline(Decline::Forbidden(_), _) => "forbidden",
            Verdict::Decline(Decline::Unavailable(_), _) => "unavailable",
        };
    }
}

/// Writes the line.
pub(crate) fn tell(visit: &Visit, keys: &SessionKeys, status: StatusCode, took: Duration) {
    let subject = visit.who.as_ref().map_or("", |who| who.label(|| keys.digest(&["subject", who.subject()])));
    tracing::info!(
        target: "access",
        method = %visit.method,
        site = visit.site,
        path = visit.path,
        status = status.as_u16(),
        verdict = visit.verdict,
        renewal = visit.renewal,
        rule = visit.rule,
        subject,
        peer = %visit.peer.ip(),
        millis = took.as_secs_f64() * 1000.0,
        request_id = visit.request_id,
    );
}
