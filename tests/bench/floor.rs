//! The floor: the least that a reverse proxy of the same libraries costs. It is a measuring stick and no gateway: no limits,
//! no time-outs, no settings, one worker.
//!
//! `floor LISTEN UPSTREAM [key=FILE algorithm=RS256] [cert=FILE tls=FILE] [pool=library]`: HTTP/1.1, or HTTP/2 by ALPN where it
//! has a certificate. With a key it takes the token of the cookie `access_token`, verifies it, remembers it, and tells the
//! upstream the subject. With `pool=library` connections to the upstream are those of hyper-util's pooled client.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what is missing or wrong here has to end the run at once"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "a measuring stick has no drain, and its clock need not stand still"
)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CONNECTION, COOKIE, HOST, HeaderName, TE, UPGRADE};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{self as client, SendRequest};
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::{LocalSet, spawn_local};
use tokio_rustls::TlsAcceptor;

const USER: HeaderName = HeaderName::from_static("x-auth-user");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Connections to the upstream that nobody uses now.
struct Pool {
    upstream: SocketAddr,
    idle: RefCell<Vec<SendRequest<Incoming>>>,
    library: Option<(Authority, Client<HttpConnector, Incoming>)>,
}

impl Pool {
    async fn connection(&self) -> SendRequest<Incoming> {
        loop {
            let Some(mut sender) = self.idle.borrow_mut().pop() else { break };
            if sender.is_ready() || (!sender.is_closed() && sender.ready().await.is_ok()) {
                return sender;
            }
        }
        let stream = TcpStream::connect(self.upstream).await.expect("the upstream is there");
        stream.set_nodelay(true).unwrap();
        let (sender, connection) =
            client::Builder::new().writev(false).handshake(TokioIo::new(stream)).await.unwrap();
        spawn_local(connection);
        sender
    }

    async fn send(self: &Rc<Self>, mut request: Request<Incoming>) -> Response<Reply> {
        if let Some((authority, client)) = &self.library {
            let mut parts = http::uri::Parts::default();
            parts.scheme = Some(Scheme::HTTP);
            parts.authority = Some(authority.clone());
            parts.path_and_query = request.uri().path_and_query().cloned();
            *request.uri_mut() = Uri::from_parts(parts).unwrap();
            let answer = client.request(request).await.expect("the upstream answers");
            return answer.map(|body| Reply::Upstream(body, None));
        }
        let mut sender = self.connection().await;
        let answer = sender.send_request(request).await.expect("the upstream answers");
        let lent = Some((Rc::clone(self), sender));
        answer.map(|body| Reply::Upstream(body, lent))
    }
}

/// The library's pooled client, whose connections are driven as ours are.
fn library(upstream: SocketAddr) -> (Authority, Client<HttpConnector, Incoming>) {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(Here).http1_writev(false).build(connector);
    (upstream.to_string().parse().unwrap(), client)
}

/// An answer's body. Once it is read to its end, its connection goes back to the pool.
enum Reply {
    Upstream(Incoming, Option<(Rc<Pool>, SendRequest<Incoming>)>),
    Empty,
}

impl Body for Reply {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Upstream(body, _) => Pin::new(body).poll_frame(cx),
            Self::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Upstream(body, _) => body.is_end_stream(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Upstream(body, _) => body.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Self::Upstream(body, lent) = self
            && body.is_end_stream()
            && let Some((pool, sender)) = lent.take()
        {
            pool.idle.borrow_mut().push(sender);
        }
    }
}

/// Until when a token lives, and whose it is.
type Known = (u64, HeaderValue);

/// Verifies tokens, each once.
struct Check {
    key: DecodingKey,
    rules: Validation,
    known: RefCell<HashMap<Box<[u8]>, Known>>,
}

impl Check {
    fn user(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let line = headers.get(COOKIE)?.as_bytes();
        let token = line
            .split(|byte| *byte == b';')
            .find_map(|part| part.trim_ascii_start().strip_prefix(b"access_token="))?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
        if let Some((ends, user)) = self.known.borrow().get(token) {
            return (*ends > now).then(|| user.clone());
        }
        let claims = jsonwebtoken::decode::<Map<String, Value>>(token, &self.key, &self.rules).ok()?.claims;
        let user = HeaderValue::from_str(claims.get("sub")?.as_str()?).ok()?;
        self.known.borrow_mut().insert(token.into(), (claims.get("exp")?.as_u64()?, user.clone()));
        Some(user)
    }
}

struct Proxy {
    pool: Rc<Pool>,
    check: Option<Check>,
    host: HeaderValue,
    scheme: HeaderValue,
}

impl Proxy {
    async fn answer(
        self: Rc<Self>,
        peer: HeaderValue,
        mut request: Request<Incoming>,
    ) -> Result<Response<Reply>, Infallible> {
        let headers = request.headers_mut();
        for name in [CONNECTION, TE, UPGRADE, USER] {
            headers.remove(name);
        }
        if let Some(check) = &self.check {
            let Some(user) = check.user(headers) else {
                let mut refusal = Response::new(Reply::Empty);
                *refusal.status_mut() = StatusCode::UNAUTHORIZED;
                return Ok(refusal);
            };
            headers.insert(USER, user);
            headers.remove(COOKIE);
        }
        headers.insert(FORWARDED_FOR, peer);
        headers.insert(FORWARDED_PROTO, self.scheme.clone());
        headers.entry(HOST).or_insert_with(|| self.host.clone());
        if request.uri().scheme().is_some() {
            *request.uri_mut() = request.uri().path_and_query().cloned().map_or_else(Uri::default, Uri::from);
        }
        *request.version_mut() = Version::HTTP_11;
        let mut answer = self.pool.send(request).await;
        answer.headers_mut().remove(CONNECTION);
        Ok(answer)
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin + 'static>(
        self: Rc<Self>,
        stream: S,
        peer: HeaderValue,
        http2: Http2,
    ) {
        let answer = service_fn(move |request| Rc::clone(&self).answer(peer.clone(), request));
        // A client that goes away is no fault.
        let _gone = match http2 {
            Http2::Yes => http2::Builder::new(Here).serve_connection(TokioIo::new(stream), answer).await,
            Http2::No => {
                http1::Builder::new().writev(false).serve_connection(TokioIo::new(stream), answer).await
            }
        };
    }
}

enum Http2 {
    Yes,
    No,
}

/// Runs a connection's streams on this thread.
#[derive(Clone)]
struct Here;

impl<F: Future<Output = ()> + 'static> Executor<F> for Here {
    fn execute(&self, task: F) {
        spawn_local(task);
    }
}

fn acceptor(cert: &str, key: &str) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(cert).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

fn check(key: &str, algorithm: &str) -> Check {
    let bytes = std::fs::read(key).expect("a key");
    let key = match algorithm {
        "HS256" => DecodingKey::from_secret(&bytes),
        "RS256" => DecodingKey::from_rsa_pem(&bytes).expect("an RSA key"),
        "ES256" => DecodingKey::from_ec_pem(&bytes).expect("an EC key"),
        other => panic!("{other} is not measured"),
    };
    let algorithm: Algorithm = algorithm.parse().expect("an algorithm");
    let mut rules = Validation::new(algorithm);
    rules.set_issuer(&["https://id.bench.example"]);
    rules.set_audience(&["bench"]);
    Check { key, rules, known: RefCell::default() }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| {
        words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
    };
    let addr = |at: usize| words.get(at).expect("an address").parse::<SocketAddr>().expect("IP:PORT");
    let (listen, upstream) = (addr(0), addr(1));
    let tls = option("cert").map(|cert| acceptor(&cert, &option("tls").expect("its key")));
    let proxy = Rc::new(Proxy {
        pool: Rc::new(Pool {
            upstream,
            idle: RefCell::default(),
            library: option("pool").map(|_| library(upstream)),
        }),
        check: option("key").map(|key| check(&key, &option("algorithm").expect("an algorithm"))),
        host: HeaderValue::from_str(&upstream.to_string()).unwrap(),
        scheme: HeaderValue::from_static(if tls.is_some() { "https" } else { "http" }),
    });
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(listen).expect("a free port");
    let listener = socket.listen(4096).unwrap();
    LocalSet::new()
        .run_until(async {
            while let Ok((stream, peer)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let (proxy, tls) = (Rc::clone(&proxy), tls.clone());
                let peer = HeaderValue::from_str(&peer.ip().to_string()).unwrap();
                spawn_local(async move {
                    let Some(tls) = tls else { return proxy.serve(stream, peer, Http2::No).await };
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let http2 = match stream.get_ref().1.alpn_protocol() {
                        Some(b"h2") => Http2::Yes,
                        _ => Http2::No,
                    };
                    proxy.serve(stream, peer, http2).await;
                });
            }
        })
        .await;
}
