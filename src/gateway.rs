//! The way of a request through every room: route, session, judge, renew, settle, forward, reply.
//! In: a request and the address it came from. Out: a response. Errors: none; every fault has its answer. I/O: the rooms'.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, REFERER, SET_COOKIE};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::access_log::{self, Visit};
use crate::asker::Asker;
use crate::body::{BodyLimits, Early, Limited, ReplyBody};
use crate::clock::{Clock, Stopwatch};
use crate::forward::{
    ForwardError, ForwardedChain, HeaderFault, HostRule, IdentityHeaders, NewTrace, OwnedNames,
    OwnedParameters, Sampled, TokenHeader, Upstream, Via, clean,
};
use crate::meter::Meters;
use crate::need::{Access, Need};
use crate::outcome::{BackendFault, RefusalReason, RenewOutcome, Revocation, TokenState};
use crate::peer::{Hops, TrustedNetworks};
use crate::renew::{Beside, Flight, Liveness, Renewer};
use crate::reply::{self, LoginSettings, Reader, Stored};
use crate::route::{
    CacheRule, CookieRule, Cors, CrossSite, Csrf, NoRoute, Preflight, Route, Routes, RuleAccess, Target,
    cors, cross_site, listed_origin, referer_page, return_target,
};
use crate::server::Handler;
use crate::session::Sessions;
use crate::session::cookies::{self, Presented};
use crate::session::judge::{Judgement, judge, settle};
use crate::session::verifier::Seen;
use crate::token::Ending;
use crate::verdict::{Caller, CookieChange, Decline, LoginReason, Verdict};

/// Paths that the gateway answers itself, on every site.
const OWN_PATHS: &str = "/.doorkeep/";

/// How long a client is asked to wait when the session backend gives no answer.
const RETRY_AFTER: Duration = Duration::from_secs(3);

/// A gateway. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gateway(Arc<Parts>);

/// What a gateway is made of.
#[derive(Debug)]
pub struct Parts {
    /// Finds site and rule.
    pub routes: Routes,
    /// For each site, in the order of the routes, the way to its app.
    pub apps: Vec<App>,
    /// Reads and writes sessions.
    pub sessions: Arc<Sessions>,
    /// Renews them.
    pub renewer: Renewer,
    /// Where people sign in.
    pub login: LoginSettings,
    /// What upstreams are told of a user.
    pub identity: IdentityHeaders,
    /// Proxies that are believed.
    pub trusted: TrustedNetworks,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The counters.
    pub meters: Arc<Meters>,
}

/// The app behind a site.
#[derive(Debug)]
pub struct App {
    /// The way to it.
    pub upstream: Upstream,
    /// Which host it is told.
    pub host: HostRule,
    /// In which header it gets the access token.
    pub token: TokenHeader,
    /// The header names that no client may send to it.
    pub owned: Arc<OwnedNames>,
    /// The limits of request bodies.
    pub body: BodyLimits,
    /// The query parameters that no client may send to it.
    pub parameters: OwnedParameters,
}

/// What is known about a request once it has a route.
struct Asked<'a> {
    route: Route<'a>,
    target: &'a Target,
    asker: Asker,
    hops: Hops,
    cors: Option<HeaderValue>,
    /// The page to come back to after a sign-in.
    page: String,
    request_id: String,
    /// Trace id and span id for a trace that begins here.
    trace: (u128, u64),
}

impl Asked<'_> {
    fn reader(&self) -> Reader<'_> {
        Reader { asker: self.asker, page: &self.page, request_id: &self.request_id, cors: self.cors.as_ref() }
    }
}

/// A verdict, and what goes with it to the answer.
struct Decided {
    verdict: Verdict,
    flight: Option<Flight>,
    /// Two cookies of one name came: the copies of this host alone are deleted.
    conflict: bool,
    returns: Option<String>,
}

impl From<Verdict> for Decided {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, flight: None, conflict: false, returns: None }
    }
}

impl Gateway {
    /// A gateway of these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// The renewals, for the drain.
    #[must_use]
    pub fn renewer(&self) -> &Renewer {
        &self.0.renewer
    }

    /// Answers a request: the steps of the picture in the crate's documentation.
    async fn answer(
        &self,
        request: Request<Incoming>,
        socket: SocketAddr,
        visit: &mut Visit,
    ) -> Response<ReplyBody> {
        let target = match Target::parse(request.method(), request.uri(), request.headers()) {
            Ok(target) => target,
            Err(fault) => return malformed(fault.status(), &fault.to_string(), &visit.request_id),
        };
        let route = match self.0.routes.find(&target) {
            Ok(route) => route,
            Err(NoRoute::UnknownHost) => {
                let detail = "This server serves no site of that name.";
                return malformed(StatusCode::MISDIRECTED_REQUEST, detail, &visit.request_id);
            }
            Err(fault @ NoRoute::Ambiguous(_)) => {
                return malformed(StatusCode::BAD_REQUEST, &fault.to_string(), &visit.request_id);
            }
        };
        let asked = self.asked(&request, route, &target, socket, visit);
        visit.route(&asked.route.site.host, &asked.route.rule.name);
        if let Some(answer) = self.answer_own(&asked, &request, visit).await {
            return answer;
        }
        let decided = match self.decide(&asked, &request, visit).await {
            Ok(decided) => decided,
            Err(answer) => return *answer,
        };
        visit.verdict(&decided.verdict);
        let (response, change) = match decided.verdict {
            Verdict::Admit(caller, change) => {
                let response = self.forward(&asked, request, &caller).await;
                (response, self.attach(change, decided.flight).await)
            }
            Verdict::Decline(decline, change) => {
                (self.decline(&asked, decline, decided.returns.as_deref()), change)
            }
        };
        self.at_head(&asked, response, change, decided.conflict)
    }

    fn asked<'a>(
        &self,
        request: &Request<Incoming>,
        route: Route<'a>,
        target: &'a Target,
        socket: SocketAddr,
        visit: &Visit,
    ) -> Asked<'a> {
        let headers = request.headers();
        let asker = Asker::read(request.method(), headers);
        let origin = &route.site.origin;
        let page = match asker {
            Asker::Navigation => format!("{}{}", origin.as_str(), target.path_and_query()),
            Asker::FormPost | Asker::Script | Asker::WebSocket => headers
                .get(REFERER)
                .and_then(|referer| referer_page(referer.to_str().ok()?, origin))
                .unwrap_or_else(|| format!("{}/", origin.as_str())),
        };
        Asked {
            route,
            target,
            asker,
            hops: self.0.trusted.hops(socket, headers),
            cors: listed_origin(headers, route.site).and_then(|own| HeaderValue::from_str(own.as_str()).ok()),
            page,
            request_id: visit.request_id.clone(),
            trace: visit.trace,
        }
    }

    /// Steps 2 to 5: who asks, and what follows. `Err` is an answer that needs no session.
    async fn decide(
        &self,
        asked: &Asked<'_>,
        request: &Request<Incoming>,
        visit: &mut Visit,
    ) -> Result<Decided, Box<Response<ReplyBody>>> {
        let rule = asked.route.rule;
        let RuleAccess::Session(need) = &rule.access else {
            return Ok(Verdict::Admit(Caller::Anonymous, CookieChange::Keep).into());
        };
        let (method, headers) = (request.method(), request.headers());
        match (cors(method, headers, asked.route.site), rule.preflight) {
            (Cors::NoPreflight, _) => {}
            (Cors::Listed(_) | Cors::Unlisted, Preflight::Upstream) => {
                return Ok(Verdict::Admit(Caller::Anonymous, CookieChange::Keep).into());
            }
            (Cors::Listed(_), Preflight::Answer) => return Err(Box::new(preflight_answer(asked, request))),
            (Cors::Unlisted, Preflight::Answer) => {
                let detail = "Scripts of that origin may not ask here.";
                return Err(Box::new(reply::forbidden(detail, asked.reader())));
            }
        }
        if cross_site(method, headers, asked.asker, asked.route.site, rule.csrf) == CrossSite::Refused {
            visit.verdict = "cross_site";
            return match need.access {
                Access::Optional => Ok(Verdict::Admit(Caller::Anonymous, CookieChange::Keep).into()),
                Access::Required => {
                    let detail =
                        "Another site's page asked for this. Open this site itself and try again there.";
                    Err(Box::new(reply::forbidden(detail, asked.reader())))
                }
            };
        }
        Ok(self.judge(asked, need, request, visit).await)
    }

    async fn judge(
        &self,
        asked: &Asked<'_>,
        need: &Need,
        request: &Request<Incoming>,
        visit: &mut Visit,
    ) -> Decided {
        let (sessions, renewer) = (&self.0.sessions, &self.0.renewer);
        let now = self.0.clock.now();
        let (presented, state, seen) = sessions.look(request.headers(), &asked.route.site.host, now);
        visit.subject(&state, &sessions.policy.keys);
        if let (TokenState::Live(who, _), Seen::First) = (&state, seen)
            && let Some(pair) = Sessions::pair(&presented, Some(who))
        {
            renewer.confirm(&pair);
        }
        let (conflict, returns) = (presented.conflict, presented.returns.clone());
        let decided = |verdict, flight| Decided { verdict, flight, conflict, returns: returns.clone() };
        if renewer.remembers_sign_outs()
            && let Some((key, notes)) = sessions.key(&presented, &state, &asked.route.site.host)
            && renewer.signed_out(key, notes.map(|notes| notes.lineage.family))
        {
            let outcome = RenewOutcome::Refused(RefusalReason::SignedOut);
            return decided(settle(need, key, outcome), None);
        }
        match judge(need, asked.asker, &presented, state, &sessions.policy) {
            Judgement::Settled(verdict) => decided(verdict, None),
            Judgement::Beside(verdict, request) => match renewer.beside(&request) {
                Beside::Ready(issued) => {
                    visit.renewal = "replayed";
                    decided(with_change(verdict, CookieChange::Store(issued)), None)
                }
                Beside::Started(flight) => {
                    visit.renewal = "beside";
                    decided(verdict, Some(flight))
                }
                Beside::Nothing => decided(verdict, None),
            },
            Judgement::Renew(request) => {
                let outcome = renewer.renew(&request).await;
                visit.renewal = crate::renew::word(&outcome);
                decided(settle(need, request.key, outcome), None)
            }
        }
    }

    /// What an early renewal brought while the upstream was answering, if it is there in time.
    async fn attach(&self, change: CookieChange, flight: Option<Flight>) -> CookieChange {
        let Some(flight) = flight else { return change };
        match self.0.renewer.attached(flight).await {
            Some(issued) => CookieChange::Store(issued),
            None => change,
        }
    }

    /// Step 6: cleans the request, says who asks, and sends it.
    async fn forward(
        &self,
        asked: &Asked<'_>,
        request: Request<Incoming>,
        caller: &Caller,
    ) -> Response<ReplyBody> {
        let Some(app) = self.0.apps.get(asked.route.index) else {
            return reply::plain(StatusCode::INTERNAL_SERVER_ERROR, "Our fault", "", asked.reader());
        };
        let (mut head, body) = request.into_parts();
        if declared_length(&head).is_some_and(|length| length > app.body.size) {
            return too_large(asked);
        }
        if asked.route.rule.cookies == CookieRule::Strip {
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
        let Some(via) = via(asked) else {
            return reply::plain(StatusCode::INTERNAL_SERVER_ERROR, "Our fault", "", asked.reader());
        };
        let cleaned = match clean(head, &app.owned, &app.parameters) {
            Ok(cleaned) => cleaned,
            Err(fault) => return malformed(StatusCode::BAD_REQUEST, &fault.to_string(), &asked.request_id),
        };
        match app.upstream.send(cleaned.for_caller(told, &via, body), app.host).await {
            Ok(response) => self.returned(asked, response),
            Err(error) => failed(asked, &error),
        }
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

    /// Step 7 for a request that is answered here.
    fn decline(&self, asked: &Asked<'_>, decline: Decline, returns: Option<&str>) -> Response<ReplyBody> {
        let reader = asked.reader();
        match decline {
            Decline::Login(reason) => self.send_to_login(asked, reason, returns),
            Decline::Forbidden(claim) => reply::forbidden(
                &format!("Your account may not open this: it lacks what is required of {claim}."),
                reader,
            ),
            Decline::Unavailable(fault) => {
                tracing::debug!(%fault, request_id = asked.request_id, "no decision about a session");
                let after = match fault {
                    BackendFault::HeldBack { until } => until.since(self.0.clock.now()),
                    BackendFault::Connect
                    | BackendFault::NoDecision { .. }
                    | BackendFault::ClientRejected { .. }
                    | BackendFault::Lost(_)
                    | BackendFault::Slow
                    | BackendFault::Unverifiable { .. }
                    | BackendFault::Internal => RETRY_AFTER,
                };
                reply::unavailable(after, reader)
            }
        }
    }

    fn send_to_login(
        &self,
        asked: &Asked<'_>,
        reason: LoginReason,
        returns: Option<&str>,
    ) -> Response<ReplyBody> {
        let reader = asked.reader();
        if asked.asker != Asker::Navigation {
            return reply::login(&self.0.login, reader);
        }
        let carrier = &self.0.sessions.carrier;
        let page = self.0.sessions.policy.keys.digest(&["page", &asked.page]);
        let count = reply::Returns::read(returns, page, self.0.clock.now());
        let (mut response, line) = if count.is_loop() {
            tracing::warn!(
                ?reason,
                request_id = asked.request_id,
                "a browser keeps coming back from the login without a session"
            );
            (reply::login_loop(&self.0.login, reason, reader), carrier.returns(None))
        } else {
            let response = reply::login(&self.0.login, reader);
            (response, carrier.returns(Some(&count.next().to_string())))
        };
        response.headers_mut().extend(line.map(|line| (SET_COOKIE, line)));
        response
    }

    /// The last step: what the cookies become, decided when the head is written.
    fn at_head(
        &self,
        asked: &Asked<'_>,
        mut response: Response<ReplyBody>,
        change: CookieChange,
        conflict: bool,
    ) -> Response<ReplyBody> {
        let carrier = &self.0.sessions.carrier;
        let (host, now) = (&asked.route.site.host, self.0.clock.now());
        let mut lines = match self.0.renewer.at_head(change, asked.asker) {
            CookieChange::Keep => Vec::new(),
            CookieChange::Store(issued) => {
                let about = self.0.sessions.policy.key(&issued.tokens.pair());
                carrier.store(&issued, about, host, now)
            }
            CookieChange::Clear(_) => carrier.clear(),
            CookieChange::Note(notes) => carrier.note_line(&notes, host, now).into_iter().collect(),
        };
        if conflict {
            lines.extend(carrier.clear_host_only());
        }
        let rule = asked.route.rule;
        if matches!(rule.access, RuleAccess::Session(_)) && rule.cache == CacheRule::Private
            || !lines.is_empty()
        {
            let stored = if lines.is_empty() { Stored::No } else { Stored::Yes };
            let status = response.status();
            reply::keep_private(response.headers_mut(), status, stored);
        }
        for line in lines {
            response.headers_mut().append(SET_COOKIE, line);
        }
        response
    }

    /// Requests for the gateway itself.
    async fn answer_own(
        &self,
        asked: &Asked<'_>,
        request: &Request<Incoming>,
        visit: &mut Visit,
    ) -> Option<Response<ReplyBody>> {
        if !asked.target.path().starts_with(OWN_PATHS) {
            return None;
        }
        if asked.target.path() != "/.doorkeep/sign-out" {
            return Some(reply::plain(
                StatusCode::NOT_FOUND,
                "Not found",
                "There is nothing here.",
                asked.reader(),
            ));
        }
        if request.method() != Method::POST {
            let detail = "Signing out takes a POST: a form's button, not a link.";
            let mut response = reply::plain(StatusCode::METHOD_NOT_ALLOWED, "Not so", detail, asked.reader());
            response.headers_mut().insert(http::header::ALLOW, HeaderValue::from_static("POST"));
            return Some(response);
        }
        let csrf = asked.route.rule.csrf.max(Csrf::CrossSite);
        if cross_site(request.method(), request.headers(), asked.asker, asked.route.site, csrf)
            == CrossSite::Refused
        {
            let detail = "Another site's page asked for this. Open this site itself and sign out there.";
            return Some(reply::forbidden(detail, asked.reader()));
        }
        visit.verdict = "sign_out";
        Some(self.sign_out(asked, request).await)
    }

    async fn sign_out(&self, asked: &Asked<'_>, request: &Request<Incoming>) -> Response<ReplyBody> {
        let sessions = &self.0.sessions;
        let host = &asked.route.site.host;
        let (presented, state, _) = sessions.look(request.headers(), host, self.0.clock.now());
        let revocation = self.revoke(&presented, &state, host).await;
        if let Revocation::Unavailable(fault) = revocation {
            tracing::warn!(%fault, request_id = asked.request_id, "a sign-out was not confirmed by the session backend");
            let detail = "Signing out did not work: the session backend gives no answer. You are still signed in; try again.";
            let mut response =
                reply::plain(StatusCode::SERVICE_UNAVAILABLE, "Still signed in", detail, asked.reader());
            response
                .headers_mut()
                .insert(http::header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER.as_secs()));
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

    async fn revoke(&self, presented: &Presented, state: &TokenState, host: &str) -> Revocation {
        let live = match state {
            TokenState::Live(..) => Liveness::Live,
            TokenState::Absent
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
                self.0.renewer.sign_out_bare(ending).await
            }
            // Nothing that the backend would know: what is left is to delete the cookies.
            (
                None,
                TokenState::Absent
                | TokenState::Expired(_)
                | TokenState::Invalid(_)
                | TokenState::Unchecked(_),
            ) => Revocation::Ended,
        }
    }
}

impl Handler for Gateway {
    async fn handle(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<ReplyBody> {
        let stopwatch = Stopwatch::start();
        let mut visit = Visit::begin(&request, peer);
        let mut response = self.answer(request, peer, &mut visit).await;
        if let Ok(id) = HeaderValue::from_str(&visit.request_id) {
            response.headers_mut().insert(HeaderName::from_static("x-request-id"), id);
        }
        let took = stopwatch.elapsed();
        self.0.meters.served(visit.verdict, response.status().as_u16(), took);
        access_log::tell(&visit, response.status(), took);
        response
    }
}

/// How the request came, as the upstream is told. `None` where an origin is no authority: the settings are checked for that.
fn via(asked: &Asked<'_>) -> Option<Via> {
    let origin = &asked.route.site.origin;
    let (peer_ip, earlier) = match asked.hops.proxies.split_last() {
        None => (asked.hops.client, None),
        Some((peer, between)) => {
            let chain = std::iter::once(asked.hops.client).chain(between.iter().copied()).collect();
            (*peer, Some(ForwardedChain::new(chain)))
        }
    };
    Some(Via {
        client_ip: asked.hops.client,
        peer_ip,
        earlier,
        scheme: origin.scheme().as_str().parse().ok()?,
        authority: origin.authority().parse().ok()?,
        port: origin.port(),
        request_id: HeaderValue::from_str(&asked.request_id).ok()?,
        trace: NewTrace { trace_id: asked.trace.0, span_id: asked.trace.1, sampled: Sampled::No },
    })
}

fn with_change(verdict: Verdict, change: CookieChange) -> Verdict {
    match verdict {
        Verdict::Admit(caller, _) => Verdict::Admit(caller, change),
        Verdict::Decline(decline, _) => Verdict::Decline(decline, change),
    }
}

/// A request that no two readers may read differently: refused, and its connection with it.
fn malformed(status: StatusCode, detail: &str, request_id: &str) -> Response<ReplyBody> {
    let reader = Reader { asker: Asker::Script, page: "", request_id, cors: None };
    let mut response = reply::plain(status, "Bad request", detail, reader);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
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
        let cause = access_log::chain(error);
        tracing::warn!(cause, request_id = asked.request_id, site = asked.route.site.host, "upstream");
    }
    reply::plain(status, title, detail, asked.reader())
}

/// The answer to a preflight of a listed origin: what it asks for is allowed (Fetch standard, CORS-preflight fetch).
fn preflight_answer(asked: &Asked<'_>, request: &Request<Incoming>) -> Response<ReplyBody> {
    let mut response = reply::bare(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    if let Some(origin) = &asked.cors {
        reply::allow_origin(headers, origin);
    }
    for (asked_for, allowed) in [
        ("access-control-request-method", "access-control-allow-methods"),
        ("access-control-request-headers", "access-control-allow-headers"),
    ] {
        if let Some(value) = request.headers().get(asked_for) {
            headers.insert(HeaderName::from_static(allowed), value.clone());
        }
    }
    headers.insert(HeaderName::from_static("access-control-max-age"), HeaderValue::from_static("600"));
    response
}
