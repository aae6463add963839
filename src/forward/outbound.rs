//! Says what we know about a request, after everything like it was removed.
//! In: [`Cleaned`], who asks, how they came. Out: [`Outbound`]. Errors: none. I/O: none.
//! Source: RFC 7239 §4 and §6 (`Forwarded`); RFC 9110 §7.6.1 (`Connection`), §10.1.4 (`TE`); RFC 6455 §4.1 (handshake).

use std::cell::RefCell;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::header::{CONNECTION, FORWARDED, HOST, TE, UPGRADE};
use http::uri::{Authority, Scheme};
use http::{HeaderName, HeaderValue, Request, Version};
use quick_cache::unsync::Cache;

use crate::forward::clean::{Cleaned, Trailers};
use crate::forward::trace::{self, NewTrace, TRACEPARENT, TRACESTATE};
use crate::random::said_once;
use crate::text::put_address;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// So many peers are remembered by each worker, to be introduced in the same words again.
const INTRODUCTIONS: usize = 512;

/// So many headers are said about a request, those about its caller counted as they mostly are.
const SAID: usize = 14;

/// A site as browsers see it, in the words in which apps are told.
#[derive(Clone, Debug)]
pub struct SeenAs {
    host: HeaderValue,
    scheme: HeaderValue,
    port: HeaderValue,
    /// The last parameters of a `Forwarded` element: what we saw ourselves belongs to the last hop (RFC 7239 §4).
    forwarded: String,
    /// No other one has this number.
    place: u64,
}

impl SeenAs {
    /// What clients speak, host and port unless it is the default one as they know them, and the port that they come to.
    #[must_use]
    pub fn new(scheme: &Scheme, authority: &Authority, port: u16) -> Self {
        static PLACES: AtomicU64 = AtomicU64::new(0);
        let host = authority.as_str();
        let quote = if host.bytes().all(is_token_byte) { "" } else { "\"" };
        Self {
            host: value(host.to_owned()),
            scheme: value(scheme.as_str().to_owned()),
            port: HeaderValue::from(port),
            forwarded: format!(";host={quote}{host}{quote};proto={scheme}"),
            place: PLACES.fetch_add(1, Ordering::Relaxed),
        }
    }
}

/// How a request came here.
#[derive(Clone, Debug)]
pub struct Via<'a> {
    /// Who asks: `X-Real-IP`.
    pub client_ip: IpAddr,
    /// The other end of the socket: the last hop in `X-Forwarded-For` and `Forwarded`.
    pub peer_ip: IpAddr,
    /// The hops before the peer, where the peer is trusted and told of them.
    pub earlier: Option<ForwardedChain>,
    /// The site that it came to.
    pub seen_as: &'a SeenAs,
    /// Names the request in logs here and there.
    pub request_id: HeaderValue,
    /// Ids for the trace.
    pub trace: NewTrace,
}

/// Addresses that trusted peers told of, the client's first, the trusted peer's own not among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardedChain(Vec<IpAddr>);

impl ForwardedChain {
    /// A chain of these hops.
    #[must_use]
    pub const fn new(hops: Vec<IpAddr>) -> Self {
        Self(hops)
    }
}

/// A request that may be sent upstream. [`Cleaned::for_caller`] is the only way to one.
pub struct Outbound<B> {
    request: Box<Request<B>>,
    handshake: Handshake,
}

/// Whether a request asks to switch to the WebSocket protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handshake {
    Yes,
    No,
}

impl<B> Cleaned<B> {
    /// Adds what the upstream is told: the headers about the caller (none for nobody), and how the request came.
    /// What is added replaces; nothing that the client sent under these names is left to be joined with.
    #[must_use]
    pub fn for_caller(
        self,
        caller: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
        via: Via<'_>,
    ) -> Outbound<B> {
        let Self { mut request, trace, trailers } = self;
        let Introduction { forwarded_for, forwarded, real_ip } = Introduction::of(&via);
        let headers = request.headers_mut();
        headers.reserve(SAID);
        let seen_as = via.seen_as;
        headers.insert(HOST, seen_as.host.clone());
        headers.insert(X_FORWARDED_HOST, seen_as.host.clone());
        headers.insert(X_FORWARDED_PROTO, seen_as.scheme.clone());
        headers.insert(X_FORWARDED_PORT, seen_as.port.clone());
        headers.insert(X_REQUEST_ID, via.request_id);
        headers.insert(X_FORWARDED_FOR, forwarded_for);
        headers.insert(FORWARDED, forwarded);
        headers.insert(X_REAL_IP, real_ip);
        let (parent, state) = trace::next(trace, via.trace);
        headers.insert(TRACEPARENT, said_once(value(parent.to_vec())));
        for line in state {
            headers.append(TRACESTATE, line);
        }
        if trailers == Trailers::Wanted {
            headers.insert(TE, HeaderValue::from_static("trailers"));
            headers.insert(CONNECTION, HeaderValue::from_static("te"));
        }
        for (name, value) in caller {
            headers.insert(name, value);
        }
        *request.version_mut() = Version::HTTP_11;
        Outbound { request, handshake: Handshake::No }
    }
}

impl<B> Outbound<B> {
    /// The same request as a WebSocket handshake. The caller has seen that the client asks for one and may.
    #[must_use]
    pub fn as_websocket(mut self) -> Self {
        let headers = self.request.headers_mut();
        headers.remove(TE);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        self.handshake = Handshake::Yes;
        self
    }

    pub(super) const fn handshake(&self) -> Handshake {
        self.handshake
    }

    /// The request as a client library takes it, its target in origin form (RFC 9112 §3.2.1).
    #[must_use]
    pub fn into_request(self) -> Box<Request<B>> {
        self.request
    }
}

impl<B> fmt::Debug for Outbound<B> {
    /// Header values, queries and bodies hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound")
            .field("method", self.request.method())
            .field("path", &self.request.uri().path())
            .field("headers", &self.request.headers().len())
            .finish_non_exhaustive()
    }
}

/// What an app is told of the peer of a request.
#[derive(Clone, Debug)]
struct Introduction {
    forwarded_for: HeaderValue,
    forwarded: HeaderValue,
    real_ip: HeaderValue,
}

thread_local! {
    /// Those of the peers that ask often, for each site: most requests come from one that has asked before.
    static INTRODUCED: RefCell<Cache<(IpAddr, u64), Introduction>> = RefCell::new(Cache::new(INTRODUCTIONS));
}

impl Introduction {
    fn of(via: &Via<'_>) -> Self {
        if via.earlier.is_some() || via.client_ip != via.peer_ip {
            return Self::write(via);
        }
        let key = (via.client_ip, via.seen_as.place);
        INTRODUCED.with_borrow_mut(|introduced| match introduced.get(&key) {
            Some(known) => known.clone(),
            None => {
                let new = Self::write(via);
                introduced.insert(key, new.clone());
                new
            }
        })
    }

    fn write(via: &Via<'_>) -> Self {
        let (mut addresses, mut elements) = (Vec::new(), Vec::new());
        for hop in hops(via) {
            if !addresses.is_empty() {
                addresses.extend_from_slice(b", ");
                elements.extend_from_slice(b", ");
            }
            put_address(&mut addresses, hop);
            // An IPv6 address is bracketed and quoted (RFC 7239 §6).
            let (open, close): (&[u8], &[u8]) = if hop.is_ipv6() { (b"\"[", b"]\"") } else { (b"", b"") };
            elements.extend_from_slice(b"for=");
            elements.extend_from_slice(open);
            put_address(&mut elements, hop);
            elements.extend_from_slice(close);
        }
        elements.extend_from_slice(via.seen_as.forwarded.as_bytes());
        let mut client = Vec::new();
        put_address(&mut client, via.client_ip.to_canonical());
        let [forwarded_for, forwarded, real_ip] = [addresses, elements, client].map(value);
        Self { forwarded_for, forwarded, real_ip }
    }
}

/// What is said is made of addresses, tokens and quoted hosts: it fits in a header.
fn value(text: impl Into<Bytes>) -> HeaderValue {
    HeaderValue::from_maybe_shared(text.into()).unwrap_or(HeaderValue::from_static(""))
}

/// The hops of a request, its client first.
fn hops(via: &Via<'_>) -> impl Iterator<Item = IpAddr> {
    let earlier = via.earlier.iter().flat_map(|chain| &chain.0);
    earlier.chain([&via.peer_ip]).map(IpAddr::to_canonical)
}

/// `tchar` of RFC 9110 §5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use http::Uri;

    use super::*;
    use crate::forward::clean::clean;
    use crate::forward::names::{Authorization, NameSet, OwnedNames, OwnedParameters};
    use crate::forward::trace::Sampled;

    fn seen_as(authority: &str) -> SeenAs {
        SeenAs::new(&Scheme::HTTPS, &authority.parse().expect("an authority"), 443)
    }

    fn via<'a>(peer: &str, earlier: Option<&[&str]>, seen_as: &'a SeenAs) -> Via<'a> {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let earlier = earlier.map(|hops| hops.iter().map(|hop| ip(hop)).collect::<Vec<_>>());
        Via {
            client_ip: earlier.as_ref().and_then(|hops| hops.first().copied()).unwrap_or(ip(peer)),
            peer_ip: ip(peer),
            earlier: earlier.map(ForwardedChain::new),
            seen_as,
            request_id: HeaderValue::from_static("r1"),
            trace: NewTrace { trace_id: 1, span_id: 2, sampled: Sampled::No },
        }
    }

    fn outbound(lines: &[(&'static str, &'static str)], via: Via<'_>) -> Outbound<&'static str> {
        let mut request = Request::new("body");
        *request.uri_mut() = Uri::from_static("https://ignored/a?b");
        for (name, value) in lines {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        let user = HeaderName::from_static("x-auth-user");
        let owned = OwnedNames::new([&user], NameSet::default(), Authorization::Strip);
        let cleaned = clean(Box::new(request), &owned, &OwnedParameters::none()).expect("a path");
        cleaned.for_caller([(user, HeaderValue::from_static("ana"))], via)
    }

    fn lines(outbound: &Outbound<&str>, name: &str) -> Vec<String> {
        outbound
            .request
            .headers()
            .get_all(name)
            .iter()
            .map(|v| v.to_str().expect("text").to_owned())
            .collect()
    }

    #[test]
    fn what_we_say_replaces_what_the_client_said() {
        let sent = outbound(
            &[
                ("host", "evil"),
                ("x-forwarded-for", "6.6.6.6"),
                ("x-forwarded-for", "7.7.7.7"),
                ("x-forwarded-host", "evil"),
                ("x-auth-user", "root"),
                ("x_auth_user", "root"),
                ("forwarded", "for=6.6.6.6"),
                ("x-request-id", "theirs"),
            ],
            via("10.0.0.9", None, &seen_as("app.example")),
        );
        for (name, value) in [
            ("host", "app.example"),
            ("x-forwarded-for", "10.0.0.9"),
            ("x-forwarded-host", "app.example"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "443"),
            ("x-real-ip", "10.0.0.9"),
            ("forwarded", "for=10.0.0.9;host=app.example;proto=https"),
            ("x-request-id", "r1"),
            ("x-auth-user", "ana"),
            ("traceparent", "00-00000000000000000000000000000001-0000000000000002-00"),
        ] {
            assert_eq!(lines(&sent, name), [value], "{name}");
        }
        assert_eq!(sent.request.headers().len(), 10);
    }

    #[test]
    fn our_host_stands_where_the_clients_stood_and_alone() {
        let came = [("host", "evil"), ("accept", "*/*"), ("connection", "close"), ("host", "other")];
        let sent = outbound(&came, via("10.0.0.9", None, &seen_as("app.example")));
        let first =
            sent.request.headers().iter().next().map(|(name, value)| (name.as_str(), value.as_bytes()));
        assert_eq!(first, Some(("host", &b"app.example"[..])));
        assert_eq!(lines(&sent, "host"), ["app.example"]);
    }

    #[test]
    fn earlier_hops_come_first() {
        let hops = ["2001:db8::1", "::ffff:10.0.0.1"];
        let sent = outbound(&[], via("fd00::2", Some(&hops), &seen_as("app.example:8443")));
        assert_eq!(lines(&sent, "x-forwarded-for"), ["2001:db8::1, 10.0.0.1, fd00::2"]);
        assert_eq!(lines(&sent, "x-real-ip"), ["2001:db8::1"]);
        assert_eq!(
            lines(&sent, "forwarded"),
            ["for=\"[2001:db8::1]\", for=10.0.0.1, for=\"[fd00::2]\";host=\"app.example:8443\";proto=https"]
        );
    }

    #[test]
    fn connection_fields_are_made_anew() {
        let asked = [("te", "trailers, deflate"), ("connection", "upgrade, te"), ("upgrade", "websocket")];
        let sent = outbound(&asked, via("10.0.0.9", None, &seen_as("a")));
        assert_eq!(
            (lines(&sent, "te"), lines(&sent, "connection")),
            (vec!["trailers".into()], vec!["te".into()])
        );
        assert!(lines(&sent, "upgrade").is_empty());
        let sent = sent.as_websocket();
        assert_eq!(lines(&sent, "connection"), ["upgrade"]);
        assert_eq!(lines(&sent, "upgrade"), ["websocket"]);
    }

    #[test]
    fn a_request_is_made_from_it() {
        let request = outbound(&[], via("10.0.0.9", None, &seen_as("a"))).into_request();
        assert_eq!((request.uri().to_string().as_str(), *request.body()), ("/a?b", "body"));
    }
}
