//! Sends a request to an app and streams its answer back.
//! In: [`Outbound`], the only form in which a request can get here. Out: the answer. Errors: [`ForwardError`]. I/O: sockets.
//! Source: RFC 9110 §7.6.1 (connection-specific fields), §9.2.2 (what may be sent again: nothing is, once a byte is out).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use url::Url;

use crate::body::{BodyLimits, Early, Limited, Progress, ReplyBody};
use crate::dial::{Dialer, Roots, RootsError};
use crate::forward::names::Authorization;
use crate::forward::outbound::Outbound;

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
    /// Whether WebSocket tunnels are opened to it.
    pub websocket: Tunnels,
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
    pub response: Response<ReplyBody>,
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

/// Why an app gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// No connection.
    #[error("no connection to the upstream")]
    Connect(#[source] hyper_util::client::legacy::Error),
    /// The connection broke, or what came back is no HTTP.
    #[error("the upstream broke off")]
    Broken(#[source] hyper_util::client::legacy::Error),
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
    client: Client<Dialer, Limited>,
    head: Duration,
    limits: BodyLimits,
}

#[derive(Debug)]
struct Server {
    scheme: Scheme,
    authority: Authority,
}

impl Upstream {
    /// A way to the app's servers.
    ///
    /// # Errors
    /// [`RootsError`] where no certificate authority can be used.
    pub fn new(settings: &UpstreamSettings, roots: &Roots) -> Result<Self, RootsError> {
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(settings.pool_idle)
            .pool_timer(TokioTimer::new())
            .http1_max_headers(200)
            .build(Dialer::new(roots, settings.connect)?);
        Ok(Self {
            servers: settings.servers.iter().filter_map(Server::of).collect(),
            next: AtomicUsize::new(0),
            client,
            head: settings.head,
            limits: BodyLimits {
                idle: settings.idle,
                size: u64::MAX,
                trailers: Arc::new(answer_trailer_is_clean),
            },
        })
    }

    /// Sends a request to the next server.
    ///
    /// # Errors
    /// [`ForwardError`]; nothing is sent a second time once a byte of it is out.
    pub async fn send(&self, outbound: Outbound<Limited>, host: HostRule) -> Result<Answer, ForwardError> {
        let mut request = outbound.into_request();
        let asked_to_switch = request.headers().contains_key(UPGRADE);
        let progress = request.body().progress();
        if let Some(server) = self.server() {
            *request.uri_mut() = server.uri(request.uri());
            if host == HostRule::Upstream
                && let Ok(value) = HeaderValue::from_str(server.authority.as_str())
            {
                request.headers_mut().insert(HOST, value);
            }
        }
        *request.version_mut() = Version::HTTP_11;
        let answer = self.client.request(request);
        match self.head_of(answer, &progress).await? {
            Ok(mut response) if asked_to_switch && has_switched(&response) => {
                let switched = Some(hyper::upgrade::on(&mut response));
                let mut response = self.reply(response).map(|_no_body| ReplyBody::empty());
                let headers = response.headers_mut();
                headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
                headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                Ok(Answer { response, switched })
            }
            Ok(response) if response.status().is_informational() => {
                Err(ForwardError::Unasked(response.status()))
            }
            Ok(response) => Ok(Answer { response: self.reply(response), switched: None }),
            Err(error) => Err(match progress.fault() {
                Some(early) => ForwardError::Body(early),
                None if error.is_connect() => ForwardError::Connect(error),
                None => ForwardError::Broken(error),
            }),
        }
    }

    /// The answer's head, given up once nothing has moved for `head`: neither the request's body nor an answer.
    async fn head_of<T>(
        &self,
        answer: impl Future<Output = T>,
        progress: &Arc<Progress>,
    ) -> Result<T, ForwardError> {
        tokio::pin!(answer);
        loop {
            let before = progress.count();
            match tokio::time::timeout(self.head, answer.as_mut()).await {
                Ok(answer) => return Ok(answer),
                Err(_elapsed) if progress.count() > before => {}
                Err(_elapsed) => return Err(ForwardError::HeadTimeout),
            }
        }
    }

    fn reply(&self, response: Response<Incoming>) -> Response<ReplyBody> {
        let (mut head, body) = response.into_parts();
        // Of two framings the chunks count (RFC 9112 §6.3), so the length beside them is none.
        if head.headers.contains_key(TRANSFER_ENCODING) {
            head.headers.remove(CONTENT_LENGTH);
        }
        drop_hop_by_hop(&mut head.headers);
        head.version = Version::HTTP_11;
        head.extensions.clear();
        Response::from_parts(head, ReplyBody::Upstream(Limited::new(body, self.limits.clone())))
    }

    fn server(&self) -> Option<&Server> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        self.servers.get(turn.checked_rem(self.servers.len())?)
    }
}

/// Whether an app has switched to the WebSocket protocol (RFC 6455 §4.2.2).
fn has_switched(response: &Response<Incoming>) -> bool {
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

/// Removes what is between this gateway and the upstream alone (RFC 9110 §7.6.1).
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
    for name in [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authentication-info"] {
        headers.remove(name);
    }
}

/// Whether a field may come after an answer's body (RFC 9110 §6.5.1).
fn answer_trailer_is_clean(name: &HeaderName) -> bool {
    ![CONNECTION, CONTENT_LENGTH, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE].contains(name)
}
