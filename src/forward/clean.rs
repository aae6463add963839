//! Removes what a client must not send upstream.
//! In: request head. Out: [`Cleaned`]. Errors: [`CleanFault`]. I/O: none.
//! Source: RFC 9110 §7.6.1 (connection-specific fields), §10.1.4 (`TE`), §6.5 (trailers); RFC 3875 §4.1.18 (why `_` counts as `-`).

use std::fmt;

use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, TE, TRAILER};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};

use crate::fields::Head;
use crate::forward::names::{OwnedNames, OwnedParameters};
use crate::forward::query::{CleanQuery, clean_query};
use crate::forward::trace::Incoming;

/// A request whose head holds nothing that is ours to say but for `Host`, its target in origin form. [`Cleaned::for_caller`] says
/// it, and says `Host` in the client's place.
pub struct Cleaned<B> {
    pub(super) request: Box<Request<B>>,
    pub(super) trace: Option<Incoming>,
    pub(super) trailers: Trailers,
}

/// What `Connection` cannot name: the app has to read the request as it was judged.
const STAYS: [HeaderName; 5] = [HOST, COOKIE, CONTENT_LENGTH, CONTENT_TYPE, CONTENT_ENCODING];

/// Whether the client reads trailers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trailers {
    Wanted,
    NotWanted,
}

/// Why a head cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CleanFault {
    /// The target has no path, or what is left of it is none. What routing lets through always has one.
    #[error("the request target has no path")]
    NoPath,
}

impl<B> Cleaned<B> {
    /// The path and query that will be sent, in origin form. The path is the one that came, byte for byte.
    #[must_use]
    pub fn target(&self) -> &Uri {
        self.request.uri()
    }

    /// The headers that stayed.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        self.request.headers()
    }
}

impl<B> fmt::Debug for Cleaned<B> {
    /// Header values and queries hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cleaned")
            .field("method", self.request.method())
            .field("path", &self.request.uri().path())
            .field("headers", &self.request.headers().len())
            .finish_non_exhaustive()
    }
}

/// Removes connection-specific fields and those that `Connection` names, every header and query parameter of ours however it
/// is spelled, and `Expect`. `Host` keeps its place, the first one mostly, until ours is written there. `Connection` can name
/// neither `Host`, `Cookie` nor what says how a body is read (`Content-Length`, `Content-Type`, `Content-Encoding`), by which it
/// was judged. Session cookies are removed before; extensions are dropped, so an upgrade is taken from them before too. All of it
/// happens where the request is.
///
/// # Errors
/// [`CleanFault`]: only for a head that is no [request for a path](CleanFault::NoPath).
pub fn clean<B>(
    mut request: Box<Request<B>>,
    owned: &OwnedNames,
    parameters: &OwnedParameters,
) -> Result<Cleaned<B>, CleanFault> {
    let uri = request.uri();
    let target = clean_target(uri.path_and_query().ok_or(CleanFault::NoPath)?, parameters)?;
    let absolute = uri.authority().is_some() || uri.scheme().is_some();
    if absolute || matches!(target, CleanTarget::Changed(_)) {
        let target = match target {
            CleanTarget::Changed(target) => Some(target),
            CleanTarget::AsSent => uri.path_and_query().cloned(),
        };
        *request.uri_mut() = target.map(Uri::from).unwrap_or_default();
    }
    request.extensions_mut().clear();
    let headers = request.headers_mut();
    let head = Head::of(headers);
    let trace = Incoming::read(head);
    let trailers = trailers(head);
    let announced = head.names().may_hold(&TRAILER);
    for name in doomed(head, owned) {
        headers.remove(name);
    }
    if announced {
        clean_trailer_names(headers, |name| owned.trailer_is_clean(name));
    }
    Ok(Cleaned { request, trace, trailers })
}

/// What is left of a path and its query.
enum CleanTarget {
    AsSent,
    Changed(PathAndQuery),
}

fn clean_target(target: &PathAndQuery, parameters: &OwnedParameters) -> Result<CleanTarget, CleanFault> {
    if !target.as_str().starts_with('/') {
        return Err(CleanFault::NoPath);
    }
    let Some(query) = target.query() else {
        // A path that nobody wrote is empty to some who read it, and a slash to others.
        let slash = target.as_str() == "/";
        return Ok(if slash {
            CleanTarget::Changed(PathAndQuery::from_static("/"))
        } else {
            CleanTarget::AsSent
        });
    };
    let changed = match clean_query(query, parameters.names()) {
        CleanQuery::AsSent => return Ok(CleanTarget::AsSent),
        CleanQuery::Changed(rest) if rest.is_empty() => target.path().to_owned(),
        CleanQuery::Changed(rest) => format!("{}?{rest}", target.path()),
    };
    PathAndQuery::try_from(changed).map(CleanTarget::Changed).ok().ok_or(CleanFault::NoPath)
}

/// Whether `TE` lists `trailers`; nothing else in it goes on (RFC 9110 §10.1.4).
fn trailers(head: Head<'_>) -> Trailers {
    let wanted = head.get_all(&TE).flat_map(items).any(|item| item.eq_ignore_ascii_case(b"trailers"));
    if wanted { Trailers::Wanted } else { Trailers::NotWanted }
}

fn doomed(head: Head<'_>, owned: &OwnedNames) -> Vec<HeaderName> {
    let goes = |name: &&HeaderName| **name != HOST && owned.owns(name);
    let mut doomed: Vec<HeaderName> = head.keys().filter(goes).cloned().collect();
    for item in head.get_all(&CONNECTION).flat_map(items) {
        let usual = [&b"close"[..], b"keep-alive", b"upgrade", b"te"];
        if usual.iter().any(|word| item.eq_ignore_ascii_case(word)) {
            continue;
        }
        if let Ok(name) = HeaderName::from_bytes(item)
            && !STAYS.contains(&name)
        {
            doomed.push(name);
        }
    }
    doomed
}

/// Takes names out of `Trailer` that no trailer may have; most heads have no such field, which whoever calls this has seen.
pub(super) fn clean_trailer_names(headers: &mut HeaderMap, is_clean: impl Fn(&HeaderName) -> bool) {
    let clean = |item: &[u8]| HeaderName::from_bytes(item).is_ok_and(|name| is_clean(&name));
    if headers.get_all(TRAILER).iter().flat_map(items).all(clean) {
        return;
    }
    let lines: Vec<HeaderValue> = headers
        .get_all(TRAILER)
        .iter()
        .filter_map(|line| {
            let kept: Vec<&[u8]> = items(line).filter(|item| clean(item)).collect();
            if kept.is_empty() { None } else { HeaderValue::from_bytes(&kept.join(&b", "[..])).ok() }
        })
        .collect();
    headers.remove(TRAILER);
    for line in lines {
        headers.append(TRAILER, line);
    }
}

/// The members of a comma-separated line.
fn items(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::directory::Directory;
    use crate::forward::names::{Authorization, NameSet};

    fn cleaned(target: &str, lines: &[(&str, &str)]) -> Cleaned<()> {
        let mut request = Request::new(());
        *request.uri_mut() = target.parse().expect("a target");
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            request.headers_mut().append(name, HeaderValue::from_str(value).expect("a value"));
        }
        let identity = [HeaderName::from_static("x-auth-user")];
        let owned =
            OwnedNames::new(&identity, NameSet::headers_of(Directory::BELIEVED), Authorization::Strip);
        let parameters = OwnedParameters::new(NameSet::parameters_of(Directory::BELIEVED));
        clean(Box::new(request), &owned, &parameters).expect("a path")
    }

    /// Sorted: the order of fields with different names has no meaning.
    fn left(lines: &[(&str, &str)]) -> Vec<String> {
        let cleaned = cleaned("/", lines);
        let mut left: Vec<String> =
            cleaned.headers().iter().map(|(n, v)| format!("{n}: {}", v.to_str().expect("text"))).collect();
        left.sort();
        left
    }

    #[test]
    fn ours_and_hop_by_hop_go_and_the_rest_stays() {
        let left = left(&[
            ("Host", "a"),
            ("X-Auth-User", "root"),
            ("X_Auth_User", "root"),
            ("x_auth-user", "root"),
            ("X-Role-Key", "admin"),
            ("Authorization", "Basic eA=="),
            ("Keep-Alive", "5"),
            ("Transfer-Encoding", "chunked"),
            ("Upgrade", "h2c"),
            ("HTTP2-Settings", "AA"),
            ("Expect", "100-continue"),
            ("Content_Length", "7"),
            ("Content-Length", "3"),
            ("My_App_Field", "1"),
            ("Cookie", "a=b"),
        ]);
        assert_eq!(left, ["content-length: 3", "cookie: a=b", "host: a", "my_app_field: 1"]);
    }

    #[test]
    fn every_connection_line_counts_but_cannot_name_what_must_stay() {
        let left = left(&[
            ("Connection", "close, X-One"),
            ("Connection", " x-two ,,Cookie,Content-Length, host, \"x"),
            ("Connection", "content-type, Content-Encoding"),
            ("X-One", "1"),
            ("X-Two", "2"),
            ("X-Three", "3"),
            ("Cookie", "a=b"),
            ("Content-Length", "0"),
            ("Content-Type", "application/json"),
            ("Content-Encoding", "gzip"),
        ]);
        let body = ["content-encoding: gzip", "content-length: 0", "content-type: application/json"];
        assert_eq!(left, [&body[..], &["cookie: a=b", "x-three: 3"]].concat());
    }

    #[test]
    fn the_path_stays_and_the_query_loses_our_parameters() {
        let target = |text| cleaned(text, &[]).target().to_string();
        assert_eq!(target("/%61//..;x?a=1&access_token=t&b"), "/%61//..;x?a=1&b");
        assert_eq!(target("/x?token=t"), "/x");
        assert_eq!(target("/x?"), "/x?");
        assert_eq!(target("https://a/x?y=%2e"), "/x?y=%2e");
    }

    #[test]
    fn a_path_that_nobody_wrote_is_a_slash() {
        for target in ["https://a", "https://a#x/y"] {
            let cleaned = cleaned(target, &[]);
            assert_eq!(
                (cleaned.target().path(), cleaned.target().to_string().as_str()),
                ("/", "/"),
                "{target}"
            );
        }
    }

    #[test]
    fn trailers_are_announced_without_our_names() {
        assert_eq!(left(&[("Trailer", "Digest,  X-Sum")]), ["trailer: Digest,  X-Sum"]);
        assert_eq!(left(&[("Trailer", "Digest, X_Auth_User, Cookie, X-Sum")]), ["trailer: Digest, X-Sum"]);
        assert!(left(&[("Trailer", "Content-Length")]).is_empty());
    }

    #[test]
    fn a_client_that_reads_trailers_is_noticed() {
        let wanted = |value| cleaned("/", &[("TE", value)]).trailers == Trailers::Wanted;
        assert!(wanted("gzip, Trailers"));
        assert!(!wanted("gzip"));
    }

    #[test]
    fn what_has_no_path_is_not_sent() {
        let mut request = Request::new(());
        *request.uri_mut() = "a.example:443".parse().expect("an authority");
        let owned = OwnedNames::new([], NameSet::default(), Authorization::Strip);
        let got = clean(Box::new(request), &owned, &OwnedParameters::none());
        assert_eq!(got.map(|_| ()), Err(CleanFault::NoPath));
    }

    #[test]
    fn debug_shows_no_header_and_no_query() {
        let text = format!("{:?}", cleaned("/x?secret", &[("Cookie", "secret")]));
        assert!(!text.contains("secret"), "{text}");
    }
}
