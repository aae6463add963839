//! Step 6: from an admitted request to the upstream's answer.
//! In: request, caller. Out: the answer, or one of our own where there is none. Errors: none. I/O: the upstream.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Body as _;
use hyper::upgrade::OnUpgrade;

use crate::asker::Asker;
use crate::body::{Early, Limited, ReplyBody, Replying};
use crate::forward::{
    Answer, ForwardError, ForwardedChain, HeaderFault, NewTrace, Outbound, Sampled, TokenHeader, Tunnels,
    Via, clean, tunnel,
};
use crate::gateway::bound::{Admitted, parting};
use crate::gateway::{App, Asked, Gateway, malformed};
use crate::identity::Line;
use crate::renew::Bond;
use crate::reply;
use crate::route::{CookieRule, RuleAccess};
use crate::server::Asking;
use crate::session::cookies;
use crate::text::with_causes;
use crate::verdict::Caller;

/// The client's end of a tunnel that may come, and what ends it.
type ClientEnd = (OnUpgrade, Option<Bond>);

impl Gateway {
    /// Step 6: cleans the request, says who asks, and sends it.
    pub(super) async fn forward(
        &self,
        asked: &Asked<'_>,
        mut request: Asking,
        admitted: Admitted<'_>,
    ) -> Replying {
        let Some(app) = self.0.apps.get(asked.route.index) else {
            return Box::new(our_fault(asked));
        };
        // Only a WebSocket handshake leads to a tunnel (RFC 6455 §4.1: a GET, nothing after its head), and only once the
        // app has switched.
        let handshake = asked.asker == Asker::WebSocket
            && request.method() == Method::GET
            && request.body().is_end_stream();
        let client = (handshake && app.websocket == Tunnels::Open)
            .then(|| Box::new((hyper::upgrade::on(&mut *request), self.bond(asked, admitted))));
        let size = asked.route.rule.body.unwrap_or(app.body.size);
        if asked.names.may_hold(&CONTENT_LENGTH)
            && declared_length(request.headers()).is_some_and(|length| length > size)
        {
            return Box::new(too_large(asked));
        }
        let request = Box::new(request.map(|body| Limited::new(body, &app.body).at_most(size)));
        let outbound = if self.is_screened(asked, &request) {
            Box::pin(self.screened_outbound(asked, app, request, admitted.caller)).await
        } else {
            self.outbound(asked, app, request, admitted.caller)
        };
        match outbound {
            Ok(outbound) => self.send(asked, app, (outbound, client)).await,
            Err(answer) => answer,
        }
    }

    /// The same for a head alone, whose body has gone before or never was.
    pub(super) async fn forward_head(&self, asked: &Asked<'_>, head: Parts, caller: &Caller) -> Replying {
        let Some(app) = self.0.apps.get(asked.route.index) else {
            return Box::new(our_fault(asked));
        };
        let request = Box::new(Request::from_parts(head, Limited::whole(Bytes::new(), &app.body)));
        match self.screened_outbound(asked, app, request, caller).await {
            Ok(outbound) => self.send(asked, app, (outbound, None)).await,
            Err(answer) => answer,
        }
    }

    /// What the app is sent once the body was looked into, where anything wants that. The head counts as it came: what is judged is what goes on.
    async fn screened_outbound(
        &self,
        asked: &Asked<'_>,
        app: &App,
        request: Box<Request<Limited>>,
        caller: &Caller,
    ) -> Result<Outbound<Limited>, Replying> {
        let (mut head, body) = request.into_parts();
        let body = self.screened(asked, app, (&mut head, body), caller).await?;
        self.outbound(asked, app, Box::new(Request::from_parts(head, body)), caller)
    }

    /// What the app is sent: the request without what is ours to say, and then what we say.
    fn outbound(
        &self,
        asked: &Asked<'_>,
        app: &App,
        mut request: Box<Request<Limited>>,
        caller: &Caller,
    ) -> Result<Outbound<Limited>, Replying> {
        // An app that may see session cookies still sees none of a session that was set aside.
        let set_aside =
            matches!(asked.route.rule.access, RuleAccess::Session(_)) && *caller == Caller::Anonymous;
        let names = self.0.sessions.carrier.names();
        if asked.route.rule.cookies == CookieRule::Strip || set_aside {
            if asked.names.may_hold(&COOKIE) {
                cookies::strip(request.headers_mut(), names);
            }
        } else if let Caller::Known(_, access) = caller {
            cookies::bring_up_to_date(request.headers_mut(), names, access);
        }
        let (told, lines) = self.told(asked, app, caller).map_err(|fault| {
            tracing::warn!(%fault, request_id = &*asked.request_id, "a user cannot be named to the upstream");
            let detail = "Your account cannot be passed on to this application.";
            Box::new(reply::forbidden(detail, asked.reader()))
        })?;
        let cleaned = clean(request, &app.owned, &app.parameters).map_err(|fault| {
            Box::new(malformed(StatusCode::BAD_REQUEST, &fault.to_string(), &asked.request_id))
        })?;
        Ok(cleaned.for_caller(lines.into_iter().chain(told.iter().cloned()), via(asked, app)))
    }

    async fn send(
        &self,
        asked: &Asked<'_>,
        app: &App,
        (outbound, client): (Outbound<Limited>, Option<Box<ClientEnd>>),
    ) -> Replying {
        let outbound = if client.is_some() { outbound.as_websocket() } else { outbound };
        match app.upstream.send(outbound, app.host).await {
            Ok(Answer { mut response, switched }) => {
                if let (Some(client), Some(app_end)) = (client, switched) {
                    self.open_tunnel(*client, app_end, app.tunnel_idle);
                }
                self.returned(asked, &mut response);
                response
            }
            Err(error) => Box::new(failed(asked, &error)),
        }
    }

    /// Lets a tunnel run as a task that the drain waits for, and ends at its limit.
    fn open_tunnel(&self, (client, bond): ClientEnd, app: OnUpgrade, idle: Duration) {
        let cut = self.0.life.cut.clone();
        let over = parting(bond, self.0.life.clone());
        self.0.life.tasks.spawn(async move {
            tokio::select! {
                () = tunnel(client, app, idle, over) => {}
                () = cut.cancelled() => {}
            }
        });
    }

    /// The headers that name the caller, those about the client's certificate, and the one that hands on the access token where
    /// the app wants it.
    fn told<'a>(
        &self,
        asked: &Asked<'_>,
        app: &App,
        caller: &'a Caller,
    ) -> Result<(Cow<'a, [Line]>, Vec<Line>), HeaderFault> {
        let shown = asked.certificate.as_ref().map(|shown| self.0.certificate_headers.render(shown));
        let mut lines = shown.transpose()?.unwrap_or_default();
        let Caller::Known(identity, access) = caller else {
            return Ok((Cow::Borrowed(&[]), lines));
        };
        let told = self.0.identity.render(identity)?;
        let value = match app.token {
            TokenHeader::None => return Ok((told, lines)),
            TokenHeader::XAccessToken => HeaderValue::from_str(access.expose()),
            TokenHeader::Bearer => HeaderValue::try_from(format!("Bearer {}", access.expose())),
        };
        if let (Some(name), Ok(mut value)) = (app.token.name(), value) {
            value.set_sensitive(true);
            lines.push((name, value));
        }
        Ok((told, lines))
    }

    /// The upstream's answer, without cookies that are ours to set.
    fn returned(&self, asked: &Asked<'_>, response: &mut Response<ReplyBody>) {
        let names = self.0.sessions.carrier.names();
        if asked.route.rule.cookies == CookieRule::Strip {
            reply::drop_own_cookies(response.headers_mut(), |name| names.owns(name));
        }
    }
}

/// How the request came, as the upstream is told.
fn via<'a>(asked: &Asked<'_>, app: &'a App) -> Via<'a> {
    let (peer_ip, earlier) = match asked.hops.proxies.split_last() {
        None => (asked.hops.client, None),
        Some((peer, between)) => {
            let chain = std::iter::once(asked.hops.client).chain(between.iter().copied()).collect();
            (*peer, Some(ForwardedChain::new(chain)))
        }
    };
    let (trace_id, span_id) = asked.trace;
    Via {
        client_ip: asked.hops.client,
        peer_ip,
        earlier,
        seen_as: &app.seen_as,
        request_id: asked.request_id.value(),
        trace: NewTrace { trace_id, span_id, sampled: Sampled::No },
    }
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn our_fault(asked: &Asked<'_>) -> Response<ReplyBody> {
    reply::plain(StatusCode::INTERNAL_SERVER_ERROR, "Our fault", "", asked.reader())
}

pub(super) fn too_large(asked: &Asked<'_>) -> Response<ReplyBody> {
    let detail = "The request's body is larger than this server takes.";
    let mut response = reply::plain(StatusCode::PAYLOAD_TOO_LARGE, "Too large", detail, asked.reader());
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

pub(super) fn failed(asked: &Asked<'_>, error: &ForwardError) -> Response<ReplyBody> {
    let (status, title, detail) = match error {
        ForwardError::Body(Early::TooLarge) => return too_large(asked),
        ForwardError::Body(Early::Trailers) => {
            let (status, detail) =
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "Too much comes after the request's body.");
            return malformed(status, detail, &asked.request_id);
        }
        ForwardError::Body(Early::Malformed) => {
            return malformed(StatusCode::BAD_REQUEST, "The request's body is malformed.", &asked.request_id);
        }
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
        ForwardError::Http1(_) | ForwardError::Http2(_) | ForwardError::Unasked(_) => {
            (StatusCode::BAD_GATEWAY, "No answer", "The application behind this site cannot be reached.")
        }
    };
    if status.is_server_error() {
        let cause = with_causes(error);
        tracing::warn!(cause, request_id = &*asked.request_id, site = asked.route.site.host, "upstream");
    }
    reply::plain(status, title, detail, asked.reader())
}
