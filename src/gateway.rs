//! The way of a request through every room: route, session, judge, renew, settle, forward, reply.
//! In: a request and the address it came from. Out: a response. Errors: none; every fault has its answer. I/O: the rooms'.

mod again;
mod bound;
pub mod current;
mod declined;
mod drill;
mod onward;
mod own;
mod screened;
mod sign_in;
pub mod under_way;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, REFERER, SET_COOKIE, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio_util::sync::DropGuard;

use crate::access_log::{self, Visit};
use crate::asker::Asker;
use crate::body::{BodyLimits, ReplyBody, Replying};
use crate::certificate::ClientCertificate;
use crate::check::Checker;
use crate::clock::{Clock, Stopwatch, UnixTime};
use crate::fields::{Head, Names};
use crate::forward::{
    CertificateHeaders, Guard, HostRule, IdentityHeaders, OwnedNames, OwnedParameters, SeenAs, TokenHeader,
    Tunnels, Upstream,
};
use crate::gateway::bound::Admitted;
use crate::gateway::under_way::{OnItsWay, UnderWay};
use crate::meter::Meters;
use crate::need::{Access, Need};
use crate::network::Network;
use crate::outcome::{BackendFault, RefusalReason, RenewOutcome, SessionKey, TokenState};
use crate::peer::{Hops, TrustedNetworks};
use crate::random::RequestId;
use crate::renew::{Beside, Flight, Renewer};
use crate::reply::{self, LoginSettings, Reader, Stored};
use crate::route::{
    CacheRule, Cors, CrossSite, NoRoute, Preflight, Redirect, Route, Routes, RuleAccess, Target, cors,
    cross_site, listed_origin, referer_page,
};
use crate::server::{Asking, Came, Handler, Life};
use crate::session::Sessions;
use crate::session::cookies::{Copies, Presented};
use crate::session::judge::{Judgement, RenewRequest, judge, settle, stale};
use crate::session::verifier::{Seen, Verifier};
use crate::sign_in::Desk;
use crate::token::{AccessToken, RefreshToken};
use crate::verdict::{Caller, CookieChange, Verdict};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Largest cookie that browsers keep, attributes included (RFC 6265 §6.1).
const COOKIE_BYTES: usize = 4096;

/// With less than this left of its life, a token is renewed although requests are upstream with it.
const LAST_MOMENT: Duration = Duration::from_secs(5);

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
    /// Tells what access tokens are.
    pub checker: Arc<Checker>,
    /// Renews them.
    pub renewer: Renewer,
    /// Where people sign in.
    pub login: LoginSettings,
    /// The gateway's own sign-in page, where that is where.
    pub desk: Option<Desk>,
    /// What upstreams are told of a user.
    pub identity: IdentityHeaders,
    /// What upstreams are told of a client's certificate.
    pub certificate_headers: CertificateHeaders,
    /// Proxies that are believed.
    pub trusted: TrustedNetworks,
    /// Whether browsers that come without TLS are sent to it.
    pub redirect: Redirect,
    /// The life of the connections: tunnels are part of it.
    pub life: Life,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The counters.
    pub meters: Arc<Meters>,
    /// The session backend's endpoint that not everything may be sent to.
    pub guard: Option<Guard>,
    /// The sessions whose requests are upstream.
    pub under_way: UnderWay,
    /// Ends what runs beside this gateway alone, such as the keeping of its keys, once its last request is answered.
    pub beside: DropGuard,
}

/// The app behind a site.
#[derive(Debug)]
pub struct App {
    /// The way to it.
    pub upstream: Upstream,
    /// Which host it is told.
    pub host: HostRule,
    /// The site as browsers see it.
    pub seen_as: SeenAs,
    /// In which header it gets the access token.
    pub token: TokenHeader,
    /// Whether WebSocket tunnels are opened to it.
    pub websocket: Tunnels,
    /// How long a tunnel may be still.
    pub tunnel_idle: Duration,
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
    arrival: Arrival,
    referer: Option<HeaderValue>,
    /// The page to come back to after a sign-in, once somebody needs it: most requests do not.
    page: OnceLock<String>,
    request_id: RequestId,
    certificate: Option<Arc<ClientCertificate>>,
    /// Trace id and span id for a trace that begins here.
    trace: (u128, u64),
    /// The names of the fields that came.
    names: Names,
}

/// Whether another page led to this one: only then can it be a return from the login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    /// A page did, or the browser does not tell.
    Led,
    /// The person typed or chose the address (`Sec-Fetch-Site: none`, W3C Fetch Metadata §2.4).
    Typed,
}

impl Arrival {
    fn read(head: Head<'_>) -> Self {
        if head.get(&SEC_FETCH_SITE).is_some_and(|site| site == "none") { Self::Typed } else { Self::Led }
    }
}

impl Asked<'_> {
    /// A page view comes back to itself; everything else to the page that it was made on, or the site's root.
    fn page(&self) -> &str {
        let origin = &self.route.site.origin;
        self.page.get_or_init(|| match self.asker {
            Asker::Navigation => format!("{}{}", origin.as_str(), self.target.path_and_query()),
            Asker::FormPost | Asker::Script | Asker::WebSocket => self
                .referer
                .as_ref()
                .and_then(|referer| referer_page(referer.to_str().ok()?, origin))
                .unwrap_or_else(|| format!("{}/", origin.as_str())),
        })
    }

    fn network(&self) -> Network {
        Network::of(self.hops.client)
    }

    fn reader(&self) -> Reader<'_> {
        Reader {
            asker: self.asker,
            page: self.page(),
            request_id: &self.request_id,
            cors: self.cors.as_ref(),
        }
    }
}

/// A verdict, and what goes with it to the answer.
struct Decided {
    verdict: Verdict,
    flight: Option<Flight>,
    /// Where our cookies differ and a domain is shared, the copies of this host alone are deleted.
    copies: Copies,
    returns: Option<String>,
    /// What was presented, should the app refuse it.
    presented: Option<Arc<Presented>>,
    /// Holds back a renewal that would end the token which this request is sent with.
    on_its_way: Option<OnItsWay>,
}

impl Decided {
    fn about(presented: Arc<Presented>, verdict: Verdict, flight: Option<Flight>) -> Self {
        let (copies, returns) = (presented.copies, presented.returns.clone());
        Self { verdict, flight, copies, returns, presented: Some(presented), on_its_way: None }
    }

    /// Whether a browser that was sent to the login is seen to come back with a session.
    fn comes_back(&self, asker: Asker) -> bool {
        let arrived = matches!(self.verdict, Verdict::Admit(Caller::Known(..), _));
        self.returns.is_some() && arrived && asker == Asker::Navigation
    }
}

impl From<Verdict> for Decided {
    fn from(verdict: Verdict) -> Self {
        Self {
            verdict,
            flight: None,
            copies: Copies::Agree,
            returns: None,
            presented: None,
            on_its_way: None,
        }
    }
}

impl Gateway {
    /// A gateway of these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// What it is made of, for whoever makes the next one of it.
    #[must_use]
    pub fn parts(&self) -> &Parts {
        &self.0
    }

    /// The renewals, for the drain.
    #[must_use]
    pub fn renewer(&self) -> &Renewer {
        &self.0.renewer
    }

    /// What verifies signed access tokens, for whoever keeps its keys.
    #[must_use]
    pub fn verifier(&self) -> Option<&Arc<Verifier>> {
        self.0.checker.verifier()
    }

    /// Answers a request: the steps of the picture in the crate's documentation.
    async fn answer<'a>(&'a self, request: Asking, came: &Came, visit: &mut Visit<'a>) -> Replying {
        let head = Head::of(request.headers());
        if let Some(fault) = head_fault(request.version(), head) {
            return Box::new(malformed(StatusCode::BAD_REQUEST, fault, &visit.request_id));
        }
        let target = match Target::parse(request.method(), request.uri(), request.headers()) {
            Ok(target) => target,
            Err(fault) => {
                return Box::new(malformed(fault.status(), &fault.to_string(), &visit.request_id));
            }
        };
        let route = match self.route(&target, &visit.request_id) {
            Ok(route) => route,
            Err(answer) => return answer,
        };
        visit.route(&route.site.host, &route.rule.name);
        let asked = self.asked((request.method(), head), (route, &target), came, visit);
        if let Some(answer) = self.to_tls(&asked, came.by) {
            return Box::new(answer);
        }
        if own::is_own(&asked) {
            return Box::new(Box::pin(self.answer_own(&asked, request, visit)).await);
        }
        let decided = match self.decide(&asked, &request, visit).await {
            Ok(decided) => decided,
            Err(answer) => return answer,
        };
        let decided_at = self.0.clock.now();
        visit.verdict(&decided.verdict);
        let counted = decided.comes_back(asked.asker);
        let (mut response, change) = match decided.verdict {
            Verdict::Admit(caller, mut change) => {
                let again = again::again(&asked, &request, &caller, decided.presented.clone());
                let admitted = Admitted::of(&caller, &decided.presented, &change);
                let mut response = self.forward(&asked, request, admitted).await;
                drop(decided.on_its_way);
                if let Some(again) = again.filter(|_| again::is_refusal(&response)) {
                    visit.renewal = "refused_upstream";
                    let (answer, new) = Box::pin(self.second_try(&asked, &caller, response, *again)).await;
                    (response, change) = (answer, new.unwrap_or(change));
                }
                self.bind(&asked, Admitted::of(&caller, &decided.presented, &change), &mut response);
                // Whoever opens a tunnel waits for its first bytes: that head is not held.
                let flight = decided.flight.filter(|_| response.status() != StatusCode::SWITCHING_PROTOCOLS);
                (response, self.attach(change, flight).await)
            }
            Verdict::Decline(decline, change) => {
                (Box::new(self.decline(&asked, decline, decided.returns.as_deref())), change)
            }
        };
        let held = decided.presented.as_deref().and_then(|presented| presented.refresh.as_ref());
        let mut lines = self.cookies_at_head(&asked, (change, decided_at), (decided.copies, held)).await;
        if counted {
            lines.extend(self.0.sessions.carrier.returns(None));
        }
        finish(&asked, &mut response, lines);
        response
    }

    /// Step 1: where a request belongs. `Err` is the answer to one that belongs nowhere.
    fn route(&self, target: &Target, request_id: &str) -> Result<Route<'_>, Replying> {
        self.0.routes.find(target).map_err(|fault| {
            let (status, detail) = match fault {
                NoRoute::UnknownHost => {
                    (StatusCode::MISDIRECTED_REQUEST, "This server serves no site of that name.".to_owned())
                }
                NoRoute::Ambiguous(_) => (StatusCode::BAD_REQUEST, fault.to_string()),
            };
            Box::new(malformed(status, &detail, request_id))
        })
    }

    fn asked<'a>(
        &self,
        (method, head): (&Method, Head<'_>),
        (route, target): (Route<'a>, &'a Target),
        came: &Came,
        visit: &Visit<'_>,
    ) -> Asked<'a> {
        let asker = Asker::read(method, head);
        Asked {
            route,
            target,
            asker,
            arrival: Arrival::read(head),
            hops: self.0.trusted.hops(came.peer, head.headers()),
            cors: listed_origin(head, route.site).and_then(|own| HeaderValue::from_str(own.as_str()).ok()),
            referer: head.get(&REFERER).cloned(),
            page: OnceLock::new(),
            request_id: visit.request_id,
            certificate: came.certificate.clone(),
            trace: visit.trace,
            names: head.names(),
        }
    }

    /// Steps 2 to 5: who asks, and what follows. `Err` is an answer that needs no session.
    async fn decide(
        &self,
        asked: &Asked<'_>,
        request: &Request<Incoming>,
        visit: &mut Visit<'_>,
    ) -> Result<Decided, Replying> {
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
        visit: &mut Visit<'_>,
    ) -> Decided {
        let (sessions, renewer) = (&self.0.sessions, &self.0.renewer);
        let now = self.0.clock.now();
        let (headers, host) = (request.headers(), &asked.route.site.host);
        let (presented, state, seen) =
            self.0.checker.look(sessions, (headers, asked.network()), host, now).await;
        visit.caller(&state);
        if let (TokenState::Live(who, _), Seen::First) = (&state, seen)
            && let Some(pair) = Sessions::pair(&presented, Some(who))
        {
            renewer.confirm(&pair);
            renewer.carry(&pair, who);
        }
        if renewer.remembers_sign_outs() {
            let marks = sessions.kept_marks(&presented, &state, host);
            if let Some(key) = renewer.signed_out_by(&marks) {
                let outcome = RenewOutcome::Refused(RefusalReason::SignedOut);
                return Decided::about(presented, settle(need, key, outcome), None);
            }
        }
        let (verdict, flight) = match judge(need, asked.asker, &presented, state, &sessions.policy) {
            Judgement::Settled(verdict) => (verdict, None),
            Judgement::Beside(verdict, request) => match Box::pin(renewer.beside(&request)).await {
                Beside::Ready(issued) => {
                    visit.renewal = "replayed";
                    (with_change(verdict, CookieChange::Store(issued)), None)
                }
                Beside::Started(flight) => {
                    visit.renewal = "beside";
                    (verdict, Some(flight))
                }
                Beside::Nothing => (verdict, None),
            },
            Judgement::Renew(request) => (Box::pin(self.renew_over(need, &request, visit)).await, None),
            Judgement::First(verdict, request) => {
                (Box::pin(self.renew_first(need, verdict, &request, visit)).await, None)
            }
        };
        let on_its_way = self.on_its_way(&verdict);
        Decided { on_its_way, ..Decided::about(presented, verdict, flight) }
    }

    /// Renews a session whose token is over; where the backend is away, its rule may serve it a while longer.
    async fn renew_over(&self, need: &Need, request: &RenewRequest, visit: &mut Visit<'_>) -> Verdict {
        let outcome = self.0.renewer.renew(request).await;
        visit.renewal = crate::renew::word(&outcome);
        if let Some(verdict) = stale(need, request, &outcome, self.0.clock.now()) {
            visit.verdict = "stale";
            self.0.meters.stale.inc();
            return verdict;
        }
        settle(need, request.key, outcome)
    }

    /// Renews a live session before its request goes on, because that ends its token. Where others are upstream with it, that
    /// waits for them as long as it can; where nothing comes of it, the token still lives.
    async fn renew_first(
        &self,
        need: &Need,
        verdict: Verdict,
        request: &RenewRequest,
        visit: &mut Visit<'_>,
    ) -> Verdict {
        let now = self.0.clock.now();
        if let Verdict::Admit(Caller::Known(who, access), _) = &verdict
            && who.expires_at().is_none_or(|end| end.since(now) >= LAST_MOMENT)
            && self.0.under_way.any(self.under_way_as(access))
        {
            return verdict;
        }
        let outcome = self.0.renewer.renew(request).await;
        visit.renewal = crate::renew::word(&outcome);
        match outcome {
            RenewOutcome::Renewed(_)
            | RenewOutcome::Refused(_)
            | RenewOutcome::Unavailable(BackendFault::Unverifiable { .. }) => {
                settle(need, request.key, outcome)
            }
            RenewOutcome::Unavailable(_) | RenewOutcome::Withheld => verdict,
        }
    }

    /// Where a renewal ends the old token, requests that are upstream with it are known.
    fn on_its_way(&self, verdict: &Verdict) -> Option<OnItsWay> {
        let Verdict::Admit(Caller::Known(_, access), _) = verdict else { return None };
        let kills = self.0.sessions.policy.capabilities.kills_access;
        kills.then(|| self.0.under_way.enter(self.under_way_as(access)))
    }

    fn under_way_as(&self, access: &AccessToken) -> SessionKey {
        self.0.sessions.policy.keys.digest(&["under way", access.expose()])
    }

    /// Writes a request's line, and counts those that were lost.
    fn tell(&self, visit: &Visit<'_>, status: StatusCode, took: Duration) {
        let dropped = access_log::tell(visit, &self.0.sessions.policy.keys, status, took);
        if dropped > 0 {
            self.0.meters.log_dropped.inc_by(dropped);
        }
    }

    /// What an early renewal brought while the upstream was answering, if it is there in time.
    async fn attach(&self, change: CookieChange, flight: Option<Flight>) -> CookieChange {
        let Some(flight) = flight else { return change };
        match Box::pin(self.0.renewer.attached(flight)).await {
            Some(issued) => CookieChange::Store(issued),
            None => change,
        }
    }

    /// What the cookies of a client that presented this refresh token become, decided when the head is written.
    async fn cookies_at_head(
        &self,
        asked: &Asked<'_>,
        (change, decided_at): (CookieChange, UnixTime),
        (copies, held): (Copies, Option<&RefreshToken>),
    ) -> Vec<HeaderValue> {
        let change = self.0.renewer.newest_at_head(change, decided_at).await;
        let carrier = &self.0.sessions.carrier;
        let (host, now) = (&asked.route.site.host, || self.0.clock.now());
        let mut lines = match self.0.renewer.at_head(change, asked.asker) {
            CookieChange::Keep => Vec::new(),
            CookieChange::Store(issued) => {
                let about = self.0.sessions.policy.key(&issued.tokens.pair());
                carrier.store((&*issued, held), about, host, now())
            }
            CookieChange::Clear(_) => carrier.clear(),
            CookieChange::Note(notes) => carrier.note_line(&notes, host, now()).into_iter().collect(),
        };
        if copies == Copies::Differ {
            lines.extend(carrier.clear_host_only());
        }
        lines
    }
}

/// The last step: an answer becomes this client's own, and carries its cookies.
fn finish(asked: &Asked<'_>, response: &mut Response<ReplyBody>, lines: Vec<HeaderValue>) {
    let rule = asked.route.rule;
    let of_session = matches!(rule.access, RuleAccess::Session(_)) && rule.cache == CacheRule::Private;
    if of_session || !lines.is_empty() {
        let stored = if lines.is_empty() { Stored::No } else { Stored::Yes };
        let status = response.status();
        reply::keep_private(response.headers_mut(), status, stored);
    }
    for line in lines {
        if line.len() > COOKIE_BYTES {
            let bytes = line.len();
            tracing::warn!(
                bytes,
                request_id = &*asked.request_id,
                "a session cookie is too large: browsers drop it"
            );
        }
        response.headers_mut().append(SET_COOKIE, line);
    }
}

impl Handler for Gateway {
    async fn handle(&self, request: Asking, came: &Came) -> Replying {
        let stopwatch = Stopwatch::start();
        let mut visit = Visit::begin(&request, came.peer);
        let mut response = self.answer(request, came, &mut visit).await;
        response.headers_mut().insert(X_REQUEST_ID, visit.request_id.value());
        let took = stopwatch.elapsed();
        self.0.meters.served(visit.verdict, response.status().as_u16(), took);
        self.0.meters.spoken(visit.version);
        self.tell(&visit, response.status(), took);
        response
    }

    fn unread(&self, status: StatusCode, came: &Came) -> Response<ReplyBody> {
        let visit = Visit::unread(came.peer);
        let mut response =
            malformed(status, "The request cannot be read, or is too large.", &visit.request_id);
        response.headers_mut().insert(X_REQUEST_ID, visit.request_id.value());
        self.0.meters.served(visit.verdict, status.as_u16(), Duration::ZERO);
        self.tell(&visit, status, Duration::ZERO);
        response
    }
}

fn with_change(verdict: Verdict, change: CookieChange) -> Verdict {
    match verdict {
        Verdict::Admit(caller, _) => Verdict::Admit(caller, change),
        Verdict::Decline(decline, _) => Verdict::Decline(decline, change),
    }
}

/// What is wrong with a head that hyper takes.
fn head_fault(version: Version, head: Head<'_>) -> Option<&'static str> {
    // RFC 9112 §3.2: HTTP/1.1 names its host in `Host`, whatever the request target says.
    if version == Version::HTTP_11 && !head.has(&HOST) {
        return Some("the request names no host");
    }
    // Exactly one framing may come (RFC 9112 §6.3, RFC 9113 §8.1.1). HTTP/1.1 heads have been read for this before.
    let mut lengths = head.get_all(&CONTENT_LENGTH);
    match (lengths.next(), lengths.next()) {
        (None, _) => {}
        (Some(one), None) if one.as_bytes().iter().all(u8::is_ascii_digit) && !one.is_empty() => {}
        (Some(_), _) => return Some("the length of the body is not one number"),
    }
    // The body goes on in chunks: a coding beside them would be lost, and the app would read its bytes as something else.
    let mut codings = head.get_all(&TRANSFER_ENCODING);
    match (codings.next(), codings.next()) {
        (None, _) => None,
        (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"chunked") => None,
        (Some(_), _) => Some("no other transfer coding than one \"chunked\" is taken"),
    }
}

/// A request that no two readers may read differently: refused, and its connection with it.
fn malformed(status: StatusCode, detail: &str, request_id: &str) -> Response<ReplyBody> {
    let reader = Reader { asker: Asker::Script, page: "", request_id, cors: None };
    let title = status.canonical_reason().unwrap_or("Bad Request");
    let mut response = reply::plain(status, title, detail, reader);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
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
