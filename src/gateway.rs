//! The way of a request through every room: route, session, judge, renew, settle, forward, reply.
//! In: a request and the address it came from. Out: a response. Errors: none; every fault has its answer. I/O: the rooms'.

mod declined;
mod onward;
mod own;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::header::{CONNECTION, HOST, REFERER, SET_COOKIE, TRANSFER_ENCODING};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use crate::access_log::{self, Visit};
use crate::asker::Asker;
use crate::body::{BodyLimits, ReplyBody};
use crate::clock::{Clock, Stopwatch};
use crate::forward::{
    HostRule, IdentityHeaders, OwnedNames, OwnedParameters, TokenHeader, Tunnels, Upstream,
};
use crate::meter::Meters;
use crate::need::{Access, Need};
use crate::outcome::{RefusalReason, RenewOutcome, TokenState};
use crate::peer::{Hops, TrustedNetworks};
use crate::renew::{Beside, Flight, Renewer};
use crate::reply::{self, LoginSettings, Reader, Stored};
use crate::route::{
    CacheRule, Cors, CrossSite, NoRoute, Preflight, Route, Routes, RuleAccess, Target, cors, cross_site,
    listed_origin, referer_page,
};
use crate::server::{Handler, Life};
use crate::session::Sessions;
use crate::session::cookies::Copies;
use crate::session::judge::{Judgement, judge, settle};
use crate::session::verifier::Seen;
use crate::verdict::{Caller, CookieChange, Verdict};

/// Largest cookie that browsers keep, attributes included (RFC 6265 §6.1).
const COOKIE_BYTES: usize = 4096;

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
    /// The life of the connections: tunnels are part of it.
    pub life: Life,
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
    /// Scheme and authority of the site, as browsers see it.
    pub seen_as: (Scheme, Authority),
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
    request_id: String,
    /// Trace id and span id for a trace that begins here.
    trace: (u128, u64),
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
    fn read(headers: &HeaderMap) -> Self {
        if headers.get("sec-fetch-site").is_some_and(|site| site == "none") { Self::Typed } else { Self::Led }
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
    /// Where our cookies differ, the copies of this host alone are deleted.
    copies: Copies,
    returns: Option<String>,
}

impl From<Verdict> for Decided {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, flight: None, copies: Copies::Agree, returns: None }
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
        if let Some(fault) = head_fault(&request) {
            return malformed(StatusCode::BAD_REQUEST, fault, &visit.request_id);
        }
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
        let asked = self.asked(&request, (route, &target), socket, visit);
        visit.route(&asked.route.site.host, &asked.route.rule.name);
        if let Some(answer) = self.answer_own(&asked, &request, visit).await {
            return answer;
        }
        let decided = match self.decide(&asked, &request, visit).await {
            Ok(decided) => decided,
            Err(answer) => return *answer,
        };
        visit.verdict(&decided.verdict);
        let arrived = matches!(decided.verdict, Verdict::Admit(Caller::Known(..), _));
        let counted = decided.returns.is_some() && arrived && asked.asker == Asker::Navigation;
        let (response, change) = match decided.verdict {
            Verdict::Admit(caller, change) => {
                let response = self.forward(&asked, request, &caller).await;
                // Whoever opens a tunnel waits for its first bytes: that head is not held.
                let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
                let flight = decided.flight.filter(|_| !switched);
                (response, self.attach(change, flight).await)
            }
            Verdict::Decline(decline, change) => {
                (self.decline(&asked, decline, decided.returns.as_deref()), change)
            }
        };
        let mut lines = self.cookies_at_head(&asked, change, decided.copies);
        if counted {
            lines.extend(self.0.sessions.carrier.returns(None));
        }
        finish(&asked, response, lines)
    }

    fn asked<'a>(
        &self,
        request: &Request<Incoming>,
        (route, target): (Route<'a>, &'a Target),
        socket: SocketAddr,
        visit: &Visit,
    ) -> Asked<'a> {
        let headers = request.headers();
        let asker = Asker::read(request.method(), headers);
        Asked {
            route,
            target,
            asker,
            arrival: Arrival::read(headers),
            hops: self.0.trusted.hops(socket, headers),
            cors: listed_origin(headers, route.site).and_then(|own| HeaderValue::from_str(own.as_str()).ok()),
            referer: headers.get(REFERER).cloned(),
            page: OnceLock::new(),
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
        visit.caller(&state);
        if let (TokenState::Live(who, _), Seen::First) = (&state, seen)
            && let Some(pair) = Sessions::pair(&presented, Some(who))
        {
            renewer.confirm(&pair);
        }
        let (copies, returns) = (presented.copies, presented.returns.clone());
        let decided = |verdict, flight| Decided { verdict, flight, copies, returns };
        if renewer.remembers_sign_outs() {
            let marks = sessions.marks(&presented, &state, &asked.route.site.host);
            if let Some(key) = renewer.signed_out(&marks) {
                let outcome = RenewOutcome::Refused(RefusalReason::SignedOut);
                return decided(settle(need, key, outcome), None);
            }
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

    /// What the cookies become, decided when the head is written.
    fn cookies_at_head(&self, asked: &Asked<'_>, change: CookieChange, copies: Copies) -> Vec<HeaderValue> {
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
        if copies == Copies::Differ {
            lines.extend(carrier.clear_host_only());
        }
        lines
    }
}

/// The last step: an answer becomes this client's own, and carries its cookies.
fn finish(
    asked: &Asked<'_>,
    mut response: Response<ReplyBody>,
    lines: Vec<HeaderValue>,
) -> Response<ReplyBody> {
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
                request_id = asked.request_id,
                "a session cookie is too large: browsers drop it"
            );
        }
        response.headers_mut().append(SET_COOKIE, line);
    }
    response
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
        access_log::tell(&visit, &self.0.sessions.policy.keys, response.status(), took);
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
fn head_fault<B>(request: &Request<B>) -> Option<&'static str> {
    let headers = request.headers();
    // RFC 9112 §3.2: HTTP/1.1 names its host in `Host`, whatever the request target says.
    if request.version() == Version::HTTP_11 && !headers.contains_key(HOST) {
        return Some("the request names no host");
    }
    // The body goes on in chunks: a coding beside them would be lost, and the app would read its bytes as something else.
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
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
