//! Step 6: from an admitted request to the upstream's answer.
//! In: request, caller. Out: the answer, or one of our own where there is none. Errors: none. I/O: the upstream.

use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;

use crate::asker::Asker;
use crate::body::{Early, Limited, ReplyBody};
use crate::forward::{
    Answer, ForwardError, ForwardedChain, HeaderFault, NewTrace, Sampled, TokenHeader, Tunnels, Via, clean,
    tunnel,
};
use crate::gateway::{App, Asked, Gateway, malformed};
use crate::reply;
use crate::route::{CookieRule, RuleAccess};
use crate::session::cookies;
use crate::text::with_causes;
use crate::verdict::Caller;

impl Gateway {
    /// Step 6: cleans the request, says who asks, and sends it.
    pub(super) async fn forward(
        &self,
        asked: &Asked<'_>,
        mut request: Request<Incoming>,
        caller: &Caller,
    ) -> Response<ReplyBody> {
        let Some(app) = self.0.apps.get(asked.route.index) else {
            return reply::plain(StatusCode::INTERNAL_SERVER_ERROR, "Our fault", "", asked.reader());
        };
        // Only a WebSocket handshake leads to a tunnel (RFC 6455 §4.1: a GET, nothing after its head), and only once the
        // app has switched.
        let handshake = asked.asker == Asker::WebSocket
            && request.method() == Method::GET
            && request.body().is_end_stream();
        let client = (handshake && app.websocket == Tunnels::Open).then(|| hyper::upgrade::on(&mut request));
        let (mut head, body) = request.into_parts();
        if declared_length(&head).is_some_and(|length| length > app.body.size) {
            return too_large(asked);
        }
        // An app that may see session cookies still sees none of a session that was set aside.
        let set_aside =
            matches!(asked.route.rule.access, RuleAccess::Session(_)) && *caller == Caller::Anonymous;
        if asked.route.rule.cookies == CookieRule::Strip || set_aside {
            cookies::strip(&mut head.headers, self.0.sessions.carrier.names());
        }
        let told = match self.told(app, caller) {
            Ok(told) => told,
            Err(fault) => {
                tracing::warn!(%fault, request_id = asked.request_id, "a user cannot be named to the upstream");
                return reply::forbidden(
                    "Your account cannot be passed on to this application.",
                    asked.reader(),
                );
            }
        };
        let body = Limited::new(body, app.body.clone());
        let cleaned = match clean(head, &app.owned, &app.parameters) {
            Ok(cleaned) => cleaned,
            Err(fault) => return malformed(StatusCode::BAD_REQUEST, &fault.to_string(), &asked.request_id),
        };
        let outbound = cleaned.for_caller(told, &via(asked, app), body);
        let outbound = if client.is_some() { outbound.as_websocket() } else { outbound };
        match app.upstream.send(outbound, app.host).await {
            Ok(Answer { response, switched }) => {
                if let (Some(client), Some(app_end)) = (client, switched) {
                    self.open_tunnel(client, app_end, app.tunnel_idle);
                }
                self.returned(asked, response)
            }
            Err(error) => failed(asked, &error),
        }
    }

    /// Lets a tunnel run as a task that the drain waits for, and ends at its limit.
    fn open_tunnel(&self, client: OnUpgrade, app: OnUpgrade, idle: Duration) {
        let cut = self.0.life.cut.clone();
        self.0.life.tasks.spawn(async move {
            tokio::select! {
                () = tunnel(client, app, idle) => {}
                () = cut.cancelled() => {}
            }
        });
    }

    /// The headers that name the caller, and hand on the access token where the app wants it.
    fn told(&self, app: &App, caller: &Caller) -> Result<Vec<(HeaderName, HeaderValue)>, HeaderFault> {
        let Caller::Known(identity, access) = caller else { return Ok(Vec::new()) };
        let mut told = self.0.identity.render(identity)?;
        let (name, text) = match app.token {
            TokenHeader::None => return Ok(told),
            TokenHeader::XAccessToken => {
                (HeaderName::from_static("x-access-token"), access.expose().to_owned())
            }
            TokenHeader::Bearer => (http::header::AUTHORIZATION, format!("Bearer {}", access.expose())),
        };
        if let Ok(mut value) = HeaderValue::try_from(text) {
            value.set_sensitive(true);
            told.push((name, value));
        }
        Ok(told)
    }

    /// The upstream's answer, without cookies that are ours to set.
    fn returned(&self, asked: &Asked<'_>, mut response: Response<ReplyBody>) -> Response<ReplyBody> {
        let names = self.0.sessions.carrier.names();
        if asked.route.rule.cookies == CookieRule::Strip {
            reply::drop_own_cookies(response.headers_mut(), |name| names.owns(name));
        }
        response
    }
}

/// How the request came, as the upstream is told.
fn via(asked: &Asked<'_>, app: &App) -> Via {
    let (peer_ip, earlier) = match asked.hops.proxies.split_last() {
        None => (asked.hops.client, None),
        Some((peer, between)) => {
            let chain = std::iter::once(asked.hops.client).chain(between.iter().copied()).collect();
            (*peer, Some(ForwardedChain::new(chain)))
        }
    };
    let (scheme, authority) = app.seen_as.clone();
    let (trace_id, span_id) = asked.trace;
    Via {
        client_ip: asked.hops.client,
        peer_ip,
        earlier,
        scheme,
        authority,
        port: asked.route.site.origin.port(),
        request_id: HeaderValue::from_str(&asked.request_id).unwrap_or_else(|_| HeaderValue::from_static("")),
        trace: NewTrace { trace_id, span_id, sampled: Sampled::No },
    }
}

fn declared_length(head: &http::request::Parts) -> Option<u64> {
    head.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(asked: &Asked<'_>) -> Response<ReplyBody> {
    let detail = "The request's body is larger than this server takes.";
    let mut response = reply::plain(StatusCode::PAYLOAD_TOO_LARGE, "Too large", detail, asked.reader());
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

fn failed(asked: &Asked<'_>, error: &ForwardError) -> Response<ReplyBody> {
    let (status, title, detail) = match error {
        ForwardError::Body(Early::TooLarge) => return too_large(asked),
        ForwardError::Body(Early::Stalled | Early::Cut) => (
            StatusCode::REQUEST_TIMEOUT,
            "Request incomplete",
            "The rest of the request did not come in time.",
        ),
        ForwardError::HeadTimeout => (
            StatusCode::GATEWAY_TIMEOUT,
            "No answer in time",
            "The application behind this site takes too long.",
        ),
        ForwardError::Connect(_) | ForwardError::Broken(_) | ForwardError::Unasked(_) => {
            (StatusCode::BAD_GATEWAY, "No answer", "The application behind this site cannot be reached.")
        }
    };
    if status.is_server_error() {
        let cause = with_causes(error);
        tracing::warn!(cause, request_id = asked.request_id, site = asked.route.site.host, "upstream");
    }
    reply::plain(status, title, detail, asked.reader())
}
