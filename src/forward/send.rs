//! Sends a request to an app and streams its answer back.
//! In: [`Outbound`], the only form in which a request can get here. Out: the answer. Errors: [`ForwardError`]. I/O: sockets.
//! Source: RFC 9110 §7.6.1 (connection-specific fields), §9.2.2 (what may be sent again: nothing is, once a byte is out).

use std::ops::DerefMut;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, ready};
use std::time::Duration;

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri, Version};
use hyper::upgrade::OnUpgrade;
use tokio::time::Sleep;
use url::Url;

use crate::body::{BodyLimits, Early, Limited, Progress, ReplyBody, Replying, TrailerLimits};
use crate::clock::Deadline;
use crate::dial::{Authorities, Dialer, RootsError};
use crate::fields::Names;
use crate::forward::clean::clean_trailer_names;
use crate::forward::http1::{Http1Client, Http1Fault};
use crate::forward::http2::{Http2Client, Http2Fault};
use crate::forward::names::Authorization;
use crate::forward::outbound::{Handshake, Outbound};

const X_ACCESS_TOKEN: HeaderName = HeaderName::from_static("x-access-token");

/// An app and how to talk to it.
#[derive(Clone, Debug)]
pub struct UpstreamSettings {
    /// Its servers, used in turn.
    pub servers: Vec<Url>,
    /// Longest time to get connected.
    pub connect: Duration,
    /// Longest wait for the answer's head while nothing of the request is moving.
    pub head: Duration,
    /// Longest time without a byte of the answer's body.
    pub idle: Duration,
    /// How long a connection is kept for the next request. Shorter than the app's own limit, or requests are lost.
    pub pool_idle: Duration,
    /// Which host the app is told.
    pub host: HostRule,
    /// In which header the app gets the access token.
    pub token: TokenHeader,
    /// What becomes of a client's `Authorization`.
    pub authorization: Authorization,
    /// Whether WebSocket tunnels are opened to it: by HTTP/1.1 only.
    pub websocket: Tunnels,
    /// What it speaks.
    pub spoken: Spoken,
}

/// What is spoken with an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2: by ALPN where its servers are `https://`, else without asking (RFC 9113 §3.3).
    Http2,
}

/// Whether a client's WebSocket handshake goes on as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnels {
    /// It does.
    Open,
    /// It does not: the app gets a plain request.
    Closed,
}

/// What an app answered.
#[derive(Debug)]
pub struct Answer {
    /// The answer.
    pub response: Replying,
    /// Its end of a tunnel, where it has switched to the WebSocket protocol because it was asked to.
    pub switched: Option<OnUpgrade>,
}

/// Which `Host` an app sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostRule {
    /// The site's own, as browsers see it: links that the app makes from it work.
    Origin,
    /// The app server's.
    Upstream,
}

/// In which header an app gets the verified access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenHeader {
    /// In none.
    None,
    /// `x-access-token`.
    XAccessToken,
    /// `Authorization: Bearer` (RFC 6750 §2.1).
    Bearer,
}

impl TokenHeader {
    /// The header's name: the gateway's to set, so no client's.
    #[must_use]
    pub const fn name(self) -> Option<HeaderName> {
        match self {
            Self::None => None,
            Self::XAccessToken => Some(X_ACCESS_TOKEN),
            Self::Bearer => Some(AUTHORIZATION),
        }
    }
}

/// Why an app gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// No answer by HTTP/1.1.
    #[error("no answer by HTTP/1.1")]
    Http1(#[from] Http1Fault),
    /// No answer by HTTP/2.
    #[error("no answer by HTTP/2")]
    Http2(#[from] Http2Fault),
    /// An answer that was not asked for, such as a protocol switch.
    #[error("the upstream answered {0}, which was not asked for")]
    Unasked(StatusCode),
    /// No answer head within `head`.
    #[error("the upstream takes too long")]
    HeadTimeout,
    /// The request's own body ended early.
    #[error("the request body ended early")]
    Body(Early),
}

/// A way to an app, with its pool of connections.
#[derive(Debug)]
pub struct Upstream {
    servers: Vec<Server>,
    next: AtomicUsize,
    client: Client,
    head: Duration,
    patience: Patience,
    limits: BodyLimits,
}

/// Timers of answers that came in time: to make one is dear, and so is to move one, so each is taken as it is. It goes off before
/// its time is over, or when it is.
#[derive(Debug, Default)]
struct Patience(Mutex<Vec<Pin<Box<Sleep>>>>);

/// Most timers that are kept.
const MOST_TIMERS: usize = 1024;

impl Patience {
    fn take(&self, until: Deadline) -> Pin<Box<Sleep>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match kept {
            Some(mut timer) => {
                until.limit(timer.as_mut());
                timer
            }
            None => Box::pin(until.sleep()),
        }
    }

    fn put(&self, timer: Pin<Box<Sleep>>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < MOST_TIMERS {
            kept.push(timer);
        }
    }
}

#[derive(Debug)]
enum Client {
    Http1(Http1Client),
    Http2(Box<Http2Client>),
}

#[derive(Debug)]
struct Server {
    scheme: Scheme,
    authority: Authority,
}

impl Upstream {
    /// A way to the app's servers, whose answers have trailers under these limits.
    ///
    /// # Errors
    /// [`RootsError`] where no certificate authority can be used.
    pub fn new(
        settings: &UpstreamSettings,
        trailer_limits: TrailerLimits,
        authorities: &Authorities,
    ) -> Result<Self, RootsError> {
        let servers: Vec<Server> = settings.servers.iter().filter_map(Server::of).collect();
        let client = match settings.spoken {
            Spoken::Http1 => {
                let dialer = Dialer::new(authorities, &settings.servers, settings.connect)?;
                let uris = servers.iter().map(|server| server.uri(&Uri::from_static("/")));
                Client::Http1(Http1Client::new(dialer, uris, settings.pool_idle))
            }
            Spoken::Http2 => {
                let dialer = Dialer::for_http2(authorities, &settings.servers, settings.connect)?;
                let names = servers.iter().map(|server| server.authority.clone());
                Client::Http2(Box::new(Http2Client::new(dialer, names)))
            }
        };
        // The limits go with each answer's body: what carries the body lives as long as it.
        let hold = match &client {
            Client::Http2(client) => Some(client.hold()),
            Client::Http1(_) => None,
        };
        let trailers = move |name: &HeaderName| {
            let _held = &hold;
            answer_trailer_is_clean(name)
        };
        Ok(Self {
            servers,
            next: AtomicUsize::new(0),
            client,
            head: settings.head,
            patience: Patience::default(),
            limits: BodyLimits {
                idle: settings.idle,
                size: u64::MAX,
                trailers: Arc::new(trailers),
                trailer_limits,
            },
        })
    }

    /// Sends a request to the next server.
    ///
    /// # Errors
    /// [`ForwardError`]; nothing is sent a second time once a byte of it is out.
    pub async fn send(&self, outbound: Outbound<Limited>, host: HostRule) -> Result<Answer, ForwardError> {
        let handshake = outbound.handshake();
        let mut request = outbound.into_request();
        let progress = request.body_mut().progress();
        let (place, server) = self.server();
        if host == HostRule::Upstream
            && let Some(server) = server
            && let Ok(value) = HeaderValue::from_str(server.authority.as_str())
        {
            request.headers_mut().insert(HOST, value);
        }
        let now = Deadline::now();
        let early = || progress.as_ref().and_then(|progress| progress.fault());
        match &self.client {
            Client::Http2(client) => {
                if let Some(server) = server {
                    *request.uri_mut() = server.uri(request.uri());
                }
                let answer = Box::pin(client.request(request));
                match (self.head_of(answer, progress.as_deref(), now).await?, early()) {
                    (Ok(response), _) => {
                        let body = |body| ReplyBody::Upstream(Limited::new(body, &self.limits));
                        Ok(Answer { response: cleaned(Box::new(response.map(body))), switched: None })
                    }
                    (Err(fault), Some(early)) if !fault.is_connect() => Err(ForwardError::Body(early)),
                    (Err(fault), _) => Err(fault.into()),
                }
            }
            Client::Http1(client) => {
                let answer = pin!(client.request(place, request, &self.limits, now));
                match (self.head_of(answer, progress.as_deref(), now).await?, early()) {
                    (Ok(response), _) => answered(response, handshake),
                    (Err(Http1Fault::Broken(_)), Some(early)) => Err(ForwardError::Body(early)),
                    (Err(fault), _) => Err(fault.into()),
                }
            }
        }
    }

    /// The answer's head, given up once nothing has moved for `head`: neither the request's body nor an answer.
    async fn head_of<T>(
        &self,
        mut answer: Pin<impl DerefMut<Target: Future<Output = T>>>,
        progress: Option<&Progress>,
        now: Deadline,
    ) -> Result<T, ForwardError> {
        let count = || progress.map_or(0, Progress::count);
        let mut before = count();
        let mut until = now.later(self.head);
        let mut timer = self.patience.take(until);
        let answer = std::future::poll_fn(|cx| {
            loop {
                if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                    return Poll::Ready(Some(answer));
                }
                ready!(timer.as_mut().poll(cx));
                if until.reached() {
                    let counted = count();
                    if counted == before {
                        return Poll::Ready(None);
                    }
                    before = counted;
                    until = Deadline::after(self.head);
                }
                until.set(timer.as_mut());
            }
        })
        .await;
        self.patience.put(timer);
        answer.ok_or(ForwardError::HeadTimeout)
    }

    /// The server whose turn it is, and its place.
    fn server(&self) -> (usize, Option<&Server>) {
        let turn = if self.servers.len() > 1 { self.next.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let place = turn.checked_rem(self.servers.len()).unwrap_or_default();
        (place, self.servers.get(place))
    }
}

/// An answer by HTTP/1.1, which may be a switch to another protocol.
fn answered(mut response: Replying, handshake: Handshake) -> Result<Answer, ForwardError> {
    if handshake == Handshake::Yes && has_switched(&response) {
        let switched = Some(hyper::upgrade::on(&mut *response));
        let mut response = cleaned(response);
        *response.body_mut() = ReplyBody::empty();
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        return Ok(Answer { response, switched });
    }
    if response.status().is_informational() {
        return Err(ForwardError::Unasked(response.status()));
    }
    Ok(Answer { response: cleaned(response), switched: None })
}

/// An app's answer without what is between the app and this gateway alone.
fn cleaned(mut response: Replying) -> Replying {
    *response.version_mut() = Version::HTTP_11;
    response.extensions_mut().clear();
    let headers = response.headers_mut();
    let names = Names::of(headers);
    if names.may_meet(HOP_BY_HOP_NAMES) {
        // Of two framings the chunks count (RFC 9112 §6.3), so the length beside them is none.
        if headers.contains_key(TRANSFER_ENCODING) {
            headers.remove(CONTENT_LENGTH);
        }
        drop_hop_by_hop(headers);
    }
    if names.may_hold(&TRAILER) {
        // What is named here passes to clients of HTTP/1.1, and nothing else (RFC 9110 §6.6.2).
        clean_trailer_names(headers, answer_trailer_is_clean);
    }
    response
}

/// Whether an app has switched to the WebSocket protocol (RFC 6455 §4.2.2).
fn has_switched<B>(response: &Response<B>) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS
        && response.headers().get(UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

impl Server {
    fn of(url: &Url) -> Option<Self> {
        let uri: Uri = url.as_str().parse().ok()?;
        Some(Self { scheme: uri.scheme()?.clone(), authority: uri.authority()?.clone() })
    }

    /// The same path and query at this server.
    fn uri(&self, target: &Uri) -> Uri {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = target.path_and_query().cloned();
        Uri::from_parts(parts).unwrap_or_default()
    }
}

/// Fields that are between this gateway and the upstream alone (RFC 9110 §7.6.1).
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "te",
    "transfer-encoding",
    "upgrade",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authentication-info",
];
const HOP_BY_HOP_NAMES: Names = Names::listed(&HOP_BY_HOP);

/// Removes what is between this gateway and the upstream alone, and what `Connection` names.
fn drop_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|line| line.as_bytes().split(|b| *b == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .filter(|name| *name != CONTENT_LENGTH)
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Whether a field may come after an answer's body (RFC 9110 §6.5.1).
fn answer_trailer_is_clean(name: &HeaderName) -> bool {
    ![CONNECTION, CONTENT_LENGTH, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE].contains(name)
}
