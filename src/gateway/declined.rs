//! Step 7 for a request that is answered here: login, 403, 503.
//! In: why it is declined. Out: a response. Errors: none. I/O: none.

use std::time::Duration;

use http::Response;
use http::header::SET_COOKIE;

use crate::asker::Asker;
use crate::body::ReplyBody;
use crate::gateway::{Arrival, Asked, Gateway};
use crate::outcome::BackendFault;
use crate::reply;
use crate::verdict::{Decline, LoginReason};

/// How long a client is asked to wait when the session backend gives no answer.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(3);

impl Gateway {
    /// Step 7 for a request that is answered here.
    pub(super) fn decline(
        &self,
        asked: &Asked<'_>,
        decline: Decline,
        returns: Option<&str>,
    ) -> Response<ReplyBody> {
        let reader = asked.reader();
        match decline {
            Decline::Login(reason) => self.send_to_login(asked, reason, returns),
            Decline::Forbidden(claim) => reply::forbidden(
                &format!("Your account may not open this: it lacks what is required of {claim}."),
                reader,
            ),
            Decline::Unavailable(fault) => {
                tracing::debug!(%fault, request_id = &*asked.request_id, "no decision about a session");
                reply::unavailable(self.again(&fault), reader)
            }
        }
    }

    /// When it is worth coming again.
    pub(super) fn again(&self, fault: &BackendFault) -> Duration {
        match fault {
            BackendFault::HeldBack { until } => until.since(self.0.clock.now()),
            BackendFault::Resting { after } => after.saturating_add(Duration::from_millis(999)),
            BackendFault::NoDecision { retry_after, .. } => retry_after.unwrap_or(RETRY_AFTER),
            BackendFault::Connect
            | BackendFault::ClientRejected { .. }
            | BackendFault::Lost(_)
            | BackendFault::Slow
            | BackendFault::Busy
            | BackendFault::ShareAway
            | BackendFault::Unverifiable { .. }
            | BackendFault::Unusable { .. }
            | BackendFault::Internal => RETRY_AFTER,
        }
    }

    fn send_to_login(
        &self,
        asked: &Asked<'_>,
        reason: LoginReason,
        returns: Option<&str>,
    ) -> Response<ReplyBody> {
        let reader = asked.reader();
        let url = self.0.login.for_page(asked.route.site.origin.as_str(), asked.page());
        if asked.asker != Asker::Navigation {
            return reply::login(&url, reader);
        }
        let carrier = &self.0.sessions.carrier;
        let page = self.0.sessions.policy.keys.digest(&["page", asked.page()]);
        let returns = returns.filter(|_| asked.arrival == Arrival::Led);
        let count = reply::Returns::read(returns, page, self.0.clock.now());
        let (mut response, line) = if count.is_loop() {
            tracing::warn!(
                ?reason,
                request_id = &*asked.request_id,
                "a browser keeps coming back from the login without a session"
            );
            (reply::login_loop(&url, reason, reader), carrier.returns(None))
        } else {
            let response = reply::login(&url, reader);
            (response, carrier.returns(Some(&count.next().to_string())))
        };
        response.headers_mut().extend(line.map(|line| (SET_COOKIE, line)));
        response
    }
}
