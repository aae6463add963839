//! The paths that the gateway answers itself, on every site: `POST /.doorkeep/sign-out`, and its own sign-in page.
//! In: a request below `/.doorkeep/`. Out: a response. Errors: none. I/O: the session backend.

use std::time::Duration;

use http::header::{ALLOW, RETRY_AFTER, SET_COOKIE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::access_log::Visit;
use crate::body::ReplyBody;
use crate::gateway::{Asked, Gateway};
use crate::outcome::{Revocation, TokenState};
use crate::peer::Through;
use crate::renew::Liveness;
use crate::reply;
use crate::route::{CrossSite, Csrf, cross_site, return_target};
use crate::server::{Asking, By};
use crate::session::cookies::{Copies, Presented};
use crate::token::Ending;

/// The backend has to find an access token live, by its own clock and without our leeway.
const TIME_TO_REVOKE: Duration = Duration::from_secs(10);

/// Where they begin.
pub(super) const OWN_PATHS: &str = "/.doorkeep/";

/// Whether a request is for the gateway itself.
pub(super) fn is_own(asked: &Asked<'_>) -> bool {
    asked.target.path().starts_with(OWN_PATHS)
}

impl Gateway {
    /// Requests for the gateway itself.
    pub(super) async fn answer_own(
        &self,
        asked: &Asked<'_>,
        request: Asking,
        visit: &mut Visit<'_>,
    ) -> Response<ReplyBody> {
        if asked.target.path() == reply::SIGN_IN_PATH
            && let Some(desk) = &self.0.desk
        {
            return self.sign_in_page(desk, asked, request, visit).await;
        }
        if asked.target.path() != "/.doorkeep/sign-out" {
            return reply::plain(
                StatusCode::NOT_FOUND,
                "Not found",
                "There is nothing here.",
                asked.reader(),
            );
        }
        if request.method() != Method::POST {
            let detail = "Signing out takes a POST: a form's button, not a link.";
            let mut response = reply::plain(StatusCode::METHOD_NOT_ALLOWED, "Not so", detail, asked.reader());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return response;
        }
        let csrf = asked.route.rule.csrf.max(Csrf::CrossSite);
        if cross_site(request.method(), request.headers(), asked.asker, asked.route.site, csrf)
            == CrossSite::Refused
        {
            let detail = "Another site's page asked for this. Open this site itself and sign out there.";
            return reply::forbidden(detail, asked.reader());
        }
        visit.verdict = "sign_out";
        self.sign_out(asked, &request).await
    }

    /// The way to the site's own origin, for those who came without TLS where the settings say so. Listed proxies may have
    /// done TLS themselves, so what comes through them stays.
    pub(super) fn to_tls(&self, asked: &Asked<'_>, by: By) -> Option<Response<ReplyBody>> {
        let plain = by == By::Plain && asked.hops.through == Through::Anybody;
        let to = plain.then(|| self.0.redirect.to(asked.route.site, asked.target)).flatten()?;
        Some(reply::redirect(StatusCode::PERMANENT_REDIRECT, &to))
    }

    async fn sign_out(&self, asked: &Asked<'_>, request: &Request<Incoming>) -> Response<ReplyBody> {
        let sessions = &self.0.sessions;
        let host = &asked.route.site.host;
        let now = self.0.clock.now();
        let (presented, state, _) =
            self.0.checker.look(sessions, (request.headers(), asked.network()), host, now).await;
        if presented.copies == Copies::Differ {
            return self.still_signed_in(asked);
        }
        let revocation = self.revoke(&presented, &state, host).await;
        if let Revocation::Unavailable(fault) = revocation {
            tracing::warn!(%fault, request_id = &*asked.request_id, "a sign-out was not confirmed by the session backend");
            let detail = "Signing out did not work: the session backend gives no answer. You are still signed in; try again.";
            let mut response =
                reply::plain(StatusCode::SERVICE_UNAVAILABLE, "Still signed in", detail, asked.reader());
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from(self.again(&fault).as_secs().max(1)));
            return response;
        }
        let wanted = asked.target.query().and_then(|query| {
            url::form_urlencoded::parse(query.as_bytes())
                .find(|(name, _)| name == "return")
                .map(|(_, value)| value)
        });
        let to =
            wanted.and_then(|text| return_target(&text, asked.route.site)).unwrap_or_else(|| "/".to_owned());
        let mut response = if asked.asker.sees_pages() {
            reply::redirect(StatusCode::SEE_OTHER, &to)
        } else {
            reply::bare(StatusCode::NO_CONTENT)
        };
        for line in sessions.carrier.clear() {
            response.headers_mut().append(SET_COOKIE, line);
        }
        response
    }

    /// For a client that presents two sessions at once: to say that one has ended would be a guess, and the other would go on.
    fn still_signed_in(&self, asked: &Asked<'_>) -> Response<ReplyBody> {
        let detail = "This browser sent two different session cookies of one name, so nobody can tell which session to end. \
                      Try again; if it comes back, delete this browser's cookies for this site and for its parent domain.";
        let mut response = reply::plain(StatusCode::CONFLICT, "Still signed in", detail, asked.reader());
        for line in self.0.sessions.carrier.clear_host_only() {
            response.headers_mut().append(SET_COOKIE, line);
        }
        response
    }

    async fn revoke(&self, presented: &Presented, state: &TokenState, host: &str) -> Revocation {
        let soon = self.0.clock.now().saturating_add(TIME_TO_REVOKE);
        let live = match state {
            TokenState::Live(who, _) if who.expires_at().is_none_or(|end| soon < end) => Liveness::Live,
            TokenState::Live(..)
            | TokenState::Absent
            | TokenState::Expired(_)
            | TokenState::Invalid(_)
            | TokenState::Unchecked(_) => Liveness::Over,
        };
        let sessions = &self.0.sessions;
        match (sessions.sign_out_request(presented, state, host), state) {
            (Some(request), _) => self.0.renewer.sign_out(request, live).await,
            (None, TokenState::Live(who, _)) => {
                let ending = Ending {
                    refresh: None,
                    access: presented.access.clone(),
                    session: who.session().or(presented.session.as_ref()).cloned(),
                    subject: Some(who.subject().to_owned()),
                };
                self.0.renewer.sign_out_bare(ending, presented.network).await
            }
            // It may well be somebody's session, and it would go on.
            (None, TokenState::Unchecked(fault)) => Revocation::Unavailable(fault.clone()),
            // Nothing that the backend would know: what is left is to delete the cookies.
            (None, TokenState::Absent | TokenState::Expired(_) | TokenState::Invalid(_)) => Revocation::Ended,
        }
    }
}
