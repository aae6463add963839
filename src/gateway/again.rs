//! A live session that an app refuses: its tokens are renewed, or the newest taken, and the request is sent once more.
//! In: a request without a body. Out: the app's second answer, or its first. Errors: none. I/O: the rooms'.
//! Source: RFC 9110 §9.2.1 (safe methods), §15.5.2 (401).

use std::sync::Arc;

use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};

use crate::asker::Asker;
use crate::body::{ReplyBody, Replying};
use crate::gateway::{Asked, Gateway};
use crate::outcome::{BackendFault, RenewOutcome};
use crate::route::{RenewOn401, RuleAccess};
use crate::session::cookies::Presented;
use crate::session::judge::{live_renewal, settle};
use crate::verdict::{Caller, CookieChange, Verdict};

/// What a request is sent with a second time.
pub(super) struct Again {
    head: Parts,
    presented: Arc<Presented>,
    /// The returns from the login that were counted, should the session turn out to be over.
    returns: Option<String>,
}

/// What it takes to send a request twice, where it may be. Only a request that came with a live token of its own may.
pub(super) fn again(
    asked: &Asked<'_>,
    request: &Request<Incoming>,
    caller: &Caller,
    presented: Option<Arc<Presented>>,
) -> Option<Box<Again>> {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD) && asked.asker != Asker::WebSocket;
    let may = asked.route.rule.renew_on_401 == RenewOn401::Yes && safe && request.body().is_end_stream();
    let presented = presented.filter(|presented| may && presented.refresh.is_some())?;
    let Caller::Known(_, sent) = caller else { return None };
    if presented.access.as_ref() != Some(sent) {
        return None;
    }
    let mut head = Request::new(()).into_parts().0;
    head.method = request.method().clone();
    head.uri = request.uri().clone();
    head.headers = request.headers().clone();
    let returns = presented.returns.clone();
    Some(Box::new(Again { head, presented, returns }))
}

impl Gateway {
    /// What an app's 401 to a live session comes to: the answer that counts, and what becomes of the cookies where that is not
    /// what was decided before.
    pub(super) async fn second_try(
        &self,
        asked: &Asked<'_>,
        caller: &Caller,
        refused: Replying,
        again: Again,
    ) -> (Replying, Option<CookieChange>) {
        let policy = &self.0.sessions.policy;
        let (Caller::Known(identity, sent), RuleAccess::Session(need)) = (caller, &asked.route.rule.access)
        else {
            return (refused, None);
        };
        let Some(request) = live_renewal(&again.presented, identity, policy) else { return (refused, None) };
        let outcome = match self.0.renewer.rejected(&request, sent).await {
            // Nobody could tell: the app's own word stands, and what was issued all the same is kept.
            Some(RenewOutcome::Unavailable(BackendFault::Unverifiable { issued, .. })) => {
                return (refused, Some(CookieChange::Store(issued)));
            }
            None | Some(RenewOutcome::Unavailable(_) | RenewOutcome::Withheld) => return (refused, None),
            Some(RenewOutcome::Renewed(renewed)) if renewed.issued.tokens.access == *sent => {
                return (refused, None);
            }
            Some(outcome @ (RenewOutcome::Renewed(_) | RenewOutcome::Refused(_))) => outcome,
        };
        match settle(need, request.key, outcome) {
            Verdict::Admit(caller, change) => {
                let response = self.forward_head(asked, again.head, &caller).await;
                if let (true, Caller::Known(_, access)) = (is_refusal(&response), &caller) {
                    self.0.renewer.refused_again(access);
                }
                (response, Some(change))
            }
            Verdict::Decline(decline, change) => {
                (Box::new(self.decline(asked, decline, again.returns.as_deref())), Some(change))
            }
        }
    }
}

/// Whether an app refuses whoever asks.
pub(super) fn is_refusal(response: &Response<ReplyBody>) -> bool {
    response.status() == StatusCode::UNAUTHORIZED
}
