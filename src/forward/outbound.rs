//! Says what we know about a request, after everything like it was removed.
//! In: [`Cleaned`], who asks, how they came. Out: [`Outbound`]. Errors: none. I/O: none.
//! Source: RFC 7239 §4 and §6 (`Forwarded`); RFC 9110 §7.6.1 (`Connection`), §10.1.4 (`TE`); RFC 6455 §4.1 (handshake).

use std::fmt;
use std::net::IpAddr;

use http::header::{CONNECTION, FORWARDED, HOST, TE, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

use crate::forward::clean::{Cleaned, Trailers};
use crate::forward::trace::{self, NewTrace};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How a request came here.
#[derive(Clone, Debug)]
pub struct Via {
    /// Who asks: `X-Real-IP`.
    pub client_ip: IpAddr,
    /// The other end of the socket: the last hop in `X-Forwarded-For` and `Forwarded`.
    pub peer_ip: IpAddr,
    /// The hops before the peer, where the peer is trusted and told of them.
    pub earlier: Option<ForwardedChain>,
    /// What the client speaks.
    pub scheme: Scheme,
    /// Host, and port unless it is the default one, as the client knows them: `Host` and `X-Forwarded-Host`.
    pub authority: Authority,
    /// The port that the client came to.
    pub port: u16,
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
    method: Method,
    target: PathAndQuery,
    headers: HeaderMap,
    body: B,
}

impl Cleaned {
    /// Adds what the upstream is told: the headers about the caller (none for nobody), and how the request came.
    /// What is added replaces; nothing that the client sent under these names is left to be joined with.
    #[must_use]
    pub fn for_caller<B>(self, caller: Vec<(HeaderName, HeaderValue)>, via: &Via, body: B) -> Outbound<B> {
        let Self { method, target, mut headers, trace, trailers } = self;
        set_hops(&mut headers, via);
        set(&mut headers, HOST, via.authority.to_string());
        set(&mut headers, X_FORWARDED_HOST, via.authority.to_string());
        set(&mut headers, X_FORWARDED_PROTO, via.scheme.to_string());
        headers.insert(X_FORWARDED_PORT, HeaderValue::from(via.port));
        headers.insert(X_REQUEST_ID, via.request_id.clone());
        trace::set(&mut headers, trace, via.trace);
        if trailers == Trailers::Wanted {
            headers.insert(TE, HeaderValue::from_static("trailers"));
            headers.insert(CONNECTION, HeaderValue::from_static("te"));
        }
        for (name, value) in caller {
            headers.insert(name, value);
        }
        Outbound { method, target, headers, body }
    }
}

impl<B> Outbound<B> {
    /// The same request as a WebSocket handshake. The caller has seen that the client asks for one and may.
    #[must_use]
    pub fn as_websocket(mut self) -> Self {
        self.headers.remove(TE);
        self.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        self.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        self
    }

    /// The method.
    #[must_use]
    pub const fn method(&self) -> &Method {
        &self.method
    }

    /// Path and query.
    #[must_use]
    pub const fn path_and_query(&self) -> &PathAndQuery {
        &self.target
    }

    /// Everything that will be sent as header.
    #[must_use]
    pub const fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The request as a client library takes it, its target in origin form (RFC 9112 §3.2.1).
    #[must_use]
    pub fn into_request(self) -> Request<B> {
        let mut request = Request::new(self.body);
        *request.method_mut() = self.method;
        *request.uri_mut() = Uri::from(self.target);
        *request.headers_mut() = self.headers;
        request
    }
}

impl<B> fmt::Debug for Outbound<B> {
    /// Header values, queries and bodies hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound")
            .field("method", &self.method)
            .field("path", &self.target.path())
            .field("headers", &self.headers.len())
            .finish_non_exhaustive()
    }
}

fn set_hops(headers: &mut HeaderMap, via: &Via) {
    let earlier = via.earlier.iter().flat_map(|chain| &chain.0);
    let (mut addresses, mut elements) = (String::new(), String::new());
    for hop in earlier.chain([&via.peer_ip]).map(IpAddr::to_canonical) {
        if !addresses.is_empty() {
            addresses.push_str(", ");
            elements.push_str(", ");
        }
        let address = hop.to_string();
        elements.push_str("for=");
        // An IPv6 address is bracketed and quoted (RFC 7239 §6).
        match hop {
            IpAddr::V4(_) => elements.push_str(&address),
            IpAddr::V6(_) => elements.extend(["\"[", &address, "]\""]),
        }
        addresses.push_str(&address);
    }
    // What we saw ourselves belongs to the last hop (RFC 7239 §4).
    let host = via.authority.as_str();
    let quote = if host.bytes().all(is_token_byte) { "" } else { "\"" };
    elements.extend([";host=", quote, host, quote, ";proto=", via.scheme.as_str()]);
    set(headers, X_FORWARDED_FOR, addresses);
    set(headers, FORWARDED, elements);
    set(headers, X_REAL_IP, via.client_ip.to_canonical().to_string());
}

/// `tchar` of RFC 9110 §5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Sets a header, or deletes it where its value is none.
fn set(headers: &mut HeaderMap, name: HeaderName, value: String) {
    match HeaderValue::try_from(value) {
        Ok(value) => drop(headers.insert(name, value)),
        Err(_) => drop(headers.remove(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::clean::clean;
    use crate::forward::names::{Authorization, NameSet, OwnedNames, OwnedParameters};
    use crate::forward::trace::Sampled;

    fn via(peer: &str, earlier: Option<&[&str]>, authority: &str) -> Via {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let earlier = earlier.map(|hops| hops.iter().map(|hop| ip(hop)).collect::<Vec<_>>());
        Via {
            client_ip: earlier.as_ref().and_then(|hops| hops.first().copied()).unwrap_or(ip(peer)),
            peer_ip: ip(peer),
            earlier: earlier.map(ForwardedChain::new),
            scheme: Scheme::HTTPS,
            authority: authority.parse().expect("an authority"),
            port: 443,
            request_id: HeaderValue::from_static("r1"),
            trace: NewTrace { trace_id: 1, span_id: 2, sampled: Sampled::No },
        }
    }

    fn outbound(lines: &[(&'static str, &'static str)], via: &Via) -> Outbound<&'static str> {
        let mut request = Request::new(());
        *request.uri_mut() = Uri::from_static("https://ignored/a?b");
        for (name, value) in lines {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        let user = HeaderName::from_static("x-auth-user");
        let owned = OwnedNames::new([&user], NameSet::default(), Authorization::Strip);
        clean(request.into_parts().0, &owned, &OwnedParameters::none()).expect("a path").for_caller(
            vec![(user, HeaderValue::from_static("ana"))],
            via,
            "body",
        )
    }

    fn lines(outbound: &Outbound<&str>, name: &str) -> Vec<String> {
        outbound.headers.get_all(name).iter().map(|v| v.to_str().expect("text").to_owned()).collect()
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
            &via("10.0.0.9", None, "app.example"),
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
        assert_eq!(sent.headers.len(), 10);
    }

    #[test]
    fn earlier_hops_come_first() {
        let hops = ["2001:db8::1", "::ffff:10.0.0.1"];
        let sent = outbound(&[], &via("fd00::2", Some(&hops), "app.example:8443"));
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
        let sent = outbound(&asked, &via("10.0.0.9", None, "a"));
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
        let request = outbound(&[], &via("10.0.0.9", None, "a")).into_request();
        assert_eq!((request.uri().to_string().as_str(), *request.body()), ("/a?b", "body"));
    }
}
