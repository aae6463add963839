//! Reads what a request asks for: one host, one path, one reading of it.
//! In: request head. Out: [`Target`]. Errors: [`TargetFault`], the client gets 400 or 414. I/O: none.
//! Source: RFC 9112 §3.2 (request target), §3.2.2 (absolute form); RFC 9113 §8.3.1 (`:authority`); RFC 9110 §7.2 (`Host`).

use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode, Uri};

use crate::route::host::HostPort;
use crate::route::reading::{Ambiguity, Reading};

/// Longest path and query taken together, in bytes. Longer ones are answered with 414.
pub const MAX_TARGET: usize = 16 * 1024;

/// What a request asks for. Having one means: exactly one valid host, and a path that begins with `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    host: HostPort,
    asked: PathAndQuery,
    reading: Reading,
}

/// Why a request head names no target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetFault {
    /// The method is CONNECT.
    #[error("tunnels are not offered")]
    Connect,
    /// `*`, an authority alone, or a path that does not begin with a slash.
    #[error("the request target is no path")]
    NoPath,
    /// An absolute target of another scheme than http and https.
    #[error("the scheme of the request target is not http or https")]
    Scheme,
    /// No host came.
    #[error("the request names no host")]
    NoHost,
    /// More than one `Host` line came.
    #[error("the request names its host more than once")]
    TwoHosts,
    /// The host is not one.
    #[error("the host is malformed")]
    BadHost,
    /// `Host` and the request target name different hosts.
    #[error("the request names two different hosts")]
    HostsDiffer,
    /// Path and query are longer than [`MAX_TARGET`].
    #[error("the request target is too long")]
    TooLong,
}

impl TargetFault {
    /// What the client gets.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::TooLong => StatusCode::URI_TOO_LONG,
            Self::Connect
            | Self::NoPath
            | Self::Scheme
            | Self::NoHost
            | Self::TwoHosts
            | Self::BadHost
            | Self::HostsDiffer => StatusCode::BAD_REQUEST,
        }
    }
}

impl Target {
    /// Reads the target of a request head.
    ///
    /// # Errors
    /// [`TargetFault`]: the head has to be refused, with [`TargetFault::status`].
    pub fn parse(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Self, TargetFault> {
        if *method == Method::CONNECT {
            return Err(TargetFault::Connect);
        }
        let asked = uri.path_and_query().ok_or(TargetFault::NoPath)?;
        if !asked.as_str().starts_with('/') {
            return Err(TargetFault::NoPath);
        }
        if asked.as_str().len() > MAX_TARGET {
            return Err(TargetFault::TooLong);
        }
        let host = one_host(uri, headers)?;
        Ok(Self { host, asked: asked.clone(), reading: Reading::of(asked.path()) })
    }

    /// The host, lower case, without port and final dot; an IPv6 address keeps its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host.name
    }

    /// The port written beside the host.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        self.host.port
    }

    /// The path, byte for byte as it was sent.
    #[must_use]
    pub fn path(&self) -> &str {
        self.asked.path()
    }

    /// The query, byte for byte as it was sent, without `?`.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.asked.query()
    }

    /// Path and query, byte for byte as they were sent.
    #[must_use]
    pub const fn path_and_query(&self) -> &PathAndQuery {
        &self.asked
    }

    /// The path with its escapes decoded once: what rules are matched on.
    #[must_use]
    pub fn reading(&self) -> &[u8] {
        self.reading.decoded.as_deref().unwrap_or(self.asked.path().as_bytes())
    }

    /// The path for a reader who leaves needless escapes alone, where that is another one.
    #[must_use]
    pub fn undecoded(&self) -> Option<&[u8]> {
        self.reading.undecoded.as_deref()
    }

    /// Everything in the path that other readers could take for another path, each kind once.
    #[must_use]
    pub fn ambiguities(&self) -> &[Ambiguity] {
        &self.reading.ambiguities
    }

    /// The first of [`Target::ambiguities`].
    #[must_use]
    pub fn ambiguity(&self) -> Option<Ambiguity> {
        self.ambiguities().first().copied()
    }

    /// Whether other readers could take the path for another one.
    #[must_use]
    pub fn is_ambiguous(&self) -> bool {
        self.ambiguity().is_some()
    }
}

/// The host that the head names: in `Host`, in the target, or the same in both.
fn one_host(uri: &Uri, headers: &HeaderMap) -> Result<HostPort, TargetFault> {
    let default_port = match uri.scheme_str() {
        None => None,
        Some("http") => Some(80),
        Some("https") => Some(443),
        Some(_) => return Err(TargetFault::Scheme),
    };
    let parse = |text: &str| HostPort::parse(text).ok_or(TargetFault::BadHost);
    let in_target = uri.authority().map(|authority| parse(authority.as_str())).transpose()?;
    let mut lines = headers.get_all(HOST).iter();
    let in_header = match (lines.next(), lines.next()) {
        (None, _) => None,
        (Some(line), None) => Some(parse(std::str::from_utf8(line.as_bytes()).unwrap_or_default())?),
        (Some(_), Some(_)) => return Err(TargetFault::TwoHosts),
    };
    match (in_target, in_header) {
        (None, None) => Err(TargetFault::NoHost),
        (Some(one), None) | (None, Some(one)) => Ok(one),
        (Some(target), Some(header)) => {
            let same_port = target.port.or(default_port) == header.port.or(default_port);
            if target.name == header.name && same_port { Ok(target) } else { Err(TargetFault::HostsDiffer) }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn parse(method: &Method, uri: &str, hosts: &[&str]) -> Result<Target, TargetFault> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_bytes(host.as_bytes()).expect("a value"));
        }
        Target::parse(method, &uri.parse().expect("a target"), &headers)
    }

    fn get(uri: &str, hosts: &[&str]) -> Result<Target, TargetFault> {
        parse(&Method::GET, uri, hosts)
    }

    #[test]
    fn path_and_query_stay_as_sent() {
        let target = get("/%61%2F//x;y?q=%2e&&r", &["App.Example.:8080"]).expect("a target");
        assert_eq!((target.host(), target.port()), ("app.example", Some(8080)));
        assert_eq!(target.path(), "/%61%2F//x;y");
        assert_eq!(target.query(), Some("q=%2e&&r"));
        assert_eq!(target.path_and_query().as_str(), "/%61%2F//x;y?q=%2e&&r");
        assert_eq!(target.reading(), b"/a///x;y");
        assert_eq!(
            target.ambiguities(),
            [Ambiguity::EncodedSlash, Ambiguity::Semicolon, Ambiguity::DoubleSlash]
        );
        assert!(target.is_ambiguous());
    }

    #[test]
    fn exactly_one_host_has_to_come() {
        assert_eq!(get("/", &[]), Err(TargetFault::NoHost));
        assert_eq!(get("/", &["a", "a"]), Err(TargetFault::TwoHosts));
        assert_eq!(get("/", &["a,b"]), Err(TargetFault::BadHost));
        assert_eq!(get("/", &[""]), Err(TargetFault::BadHost));
        assert_eq!(get("/", &["\u{e9}"]), Err(TargetFault::BadHost));
    }

    #[test]
    fn target_and_host_have_to_agree() {
        assert!(get("http://a/x", &["A"]).is_ok());
        assert!(get("http://a/x", &[]).is_ok());
        assert!(get("https://a/x", &["a:443"]).is_ok());
        assert_eq!(get("https://a/x", &["a:80"]), Err(TargetFault::HostsDiffer));
        assert_eq!(get("http://a/x", &["b"]), Err(TargetFault::HostsDiffer));
        assert_eq!(get("http://u@a/x", &["a"]), Err(TargetFault::BadHost));
        assert_eq!(get("ftp://a/x", &["a"]), Err(TargetFault::Scheme));
    }

    #[test]
    fn only_paths_are_targets() {
        assert_eq!(parse(&Method::OPTIONS, "*", &["a"]), Err(TargetFault::NoPath));
        assert_eq!(parse(&Method::CONNECT, "a:443", &["a"]), Err(TargetFault::Connect));
        assert_eq!(get("a:443", &["a:443"]), Err(TargetFault::NoPath));
        assert_eq!(get("http://a?x", &["a"]), Err(TargetFault::NoPath));
        let long = format!("/{}", "a".repeat(MAX_TARGET));
        assert_eq!(get(&long, &["a"]), Err(TargetFault::TooLong));
        assert_eq!(TargetFault::TooLong.status(), StatusCode::URI_TOO_LONG);
        assert_eq!(TargetFault::NoPath.status(), StatusCode::BAD_REQUEST);
    }
}
