//! The one line that each request leaves in the log.
//! In: what happened. Out: an event at `info`, target `access`, or its JSON text at once. Errors: none. I/O: none here; the log is
//! written elsewhere. Source: RFC 8259 §7 (JSON strings).
//! A line holds no query, no cookie, no token and no claim; the user stands in it as a keyed digest.

use std::cell::RefCell;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{Method, Request, StatusCode, Version};

use crate::clock::{UnixTime, iso, stamp};
use crate::identity::Identity;
use crate::lines::{Haste, Lines};
use crate::outcome::TokenState;
use crate::random::{self, RequestId};
use crate::session::seal::SessionKeys;
use crate::text::put_address;
use crate::verdict::{Decline, LoginReason, Verdict};

/// What is remembered of a request for its line.
pub(crate) struct Visit<'a> {
    pub(crate) request_id: RequestId,
    pub(crate) verdict: &'static str,
    pub(crate) renewal: &'static str,
    /// What came of a visit to the gateway's own sign-in page.
    pub(crate) sign_in: &'static str,
    /// Trace id (the request's own) and span id.
    pub(crate) trace: (u128, u64),
    /// What the client speaks.
    pub(crate) version: &'static str,
    method: Method,
    /// Of which the path alone is told; `None`: the head could not be read, or holds none.
    target: Option<PathAndQuery>,
    peer: SocketAddr,
    site: &'a str,
    rule: &'a str,
    who: Option<Identity>,
}

impl<'a> Visit<'a> {
    fn path(&self) -> &str {
        self.target.as_ref().map_or("", PathAndQuery::path)
    }

    pub(crate) fn begin<B>(request: &Request<B>, peer: SocketAddr) -> Self {
        let trace = random::trace_ids();
        Self {
            request_id: RequestId::of(trace.0),
            trace,
            verdict: "none",
            renewal: "",
            sign_in: "",
            version: word(request.version()),
            method: request.method().clone(),
            target: request.uri().path_and_query().filter(|_| !request.uri().path().is_empty()).cloned(),
            peer,
            site: "",
            rule: "",
            who: None,
        }
    }

    /// A request of which nothing can be told, for its head could not be read.
    pub(crate) fn unread(peer: SocketAddr) -> Self {
        let mut visit = Self::begin(&Request::new(()), peer);
        visit.method = Method::from_bytes(b"-").unwrap_or_default();
        (visit.version, visit.target) = ("", None);
        visit
    }

    pub(crate) const fn route(&mut self, site: &'a str, rule: &'a str) {
        (self.site, self.rule) = (site, rule);
    }

    pub(crate) fn caller(&mut self, state: &TokenState) {
        if let TokenState::Live(who, _) | TokenState::Expired(who) = state {
            self.who = Some(who.clone());
        }
    }

    pub(crate) fn signed_in(&mut self, who: Identity) {
        self.who = Some(who);
    }

    pub(crate) fn verdict(&mut self, verdict: &Verdict) {
        if self.verdict != "none" {
            return;
        }
        self.verdict = match verdict {
            Verdict::Admit(crate::verdict::Caller::Anonymous, _) => "anonymous",
            Verdict::Admit(crate::verdict::Caller::Known(..), _) => "admit",
            Verdict::Decline(Decline::Login(LoginReason::SessionEnded), _) => "session_ended",
            Verdict::Decline(Decline::Login(_), _) => "login",
            Verdict::Decline(Decline::Forbidden(_), _) => "forbidden",
            Verdict::Decline(Decline::Unavailable(_), _) => "unavailable",
        };
    }
}

/// A version as the line and the counters have it.
fn word(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2",
        Version::HTTP_11 => "1.1",
        _ => "1.0",
    }
}

/// Writes the line, and tells how many lines of the log were lost since the last.
pub(crate) fn tell(visit: &Visit<'_>, keys: &SessionKeys, status: StatusCode, took: Duration) -> u64 {
    let subject =
        || visit.who.as_ref().map_or("", |who| who.label(|| keys.digest(&["subject", who.subject()])));
    let Some(lines) = Lines::of_access_log() else {
        tell_event(visit, subject(), status, took);
        return 0;
    };
    if !lines.wants_access_log() {
        return 0;
    }
    LINE.with_borrow_mut(|line| {
        line.write(visit, subject(), status, took);
        lines.add(&line.text, Haste::None);
    });
    lines.dropped()
}

fn tell_event(visit: &Visit<'_>, subject: &str, status: StatusCode, took: Duration) {
    tracing::info!(
        target: "access",
        http = visit.version,
        method = %visit.method,
        site = visit.site,
        path = visit.path(),
        status = status.as_u16(),
        verdict = visit.verdict,
        renewal = visit.renewal,
        sign_in = visit.sign_in,
        rule = visit.rule,
        subject,
        peer = %visit.peer.ip(),
        millis = took.as_secs_f64() * 1000.0,
        request_id = &*visit.request_id,
    );
}

thread_local! {
    /// One line after the other is made in the same memory.
    static LINE: RefCell<Line> = const { RefCell::new(Line::new()) };
}

/// A line in the making: the same members as the event has, and those that every event has.
struct Line {
    text: Vec<u8>,
    /// The second that was written last, and how: most lines begin like the one before.
    second: (UnixTime, String),
    /// The other end that was written last, and how: it is a proxy before this one, often.
    peer: (IpAddr, Vec<u8>),
}

impl Line {
    const fn new() -> Self {
        let second = (UnixTime::from_secs(0), String::new());
        Self { text: Vec::new(), second, peer: (IpAddr::V4(Ipv4Addr::UNSPECIFIED), Vec::new()) }
    }

    fn write(&mut self, visit: &Visit<'_>, subject: &str, status: StatusCode, took: Duration) {
        let (now, micros) = stamp();
        if self.second.0 != now || self.second.1.is_empty() {
            self.second = (now, iso(now));
        }
        self.text.clear();
        self.put(b"{\"timestamp\":\"");
        self.text.extend_from_slice(self.second.1.as_bytes());
        self.put(b".");
        self.fraction(micros);
        self.put(b"Z\",\"level\":\"INFO\",\"http\":\"");
        self.put(visit.version.as_bytes());
        // A method is a token, and a site a host: neither holds what JSON escapes (RFC 9110 §5.6.2, §4.2.1).
        debug_assert!(!visit.site.contains(['"', '\\']) && !visit.site.contains(char::is_control));
        self.put(b"\",\"method\":\"");
        self.put(visit.method.as_str().as_bytes());
        self.put(b"\",\"site\":\"");
        self.put(visit.site.as_bytes());
        self.put(b"\",\"path\":");
        self.string(visit.path());
        self.put(b",\"status\":");
        self.number(u64::from(status.as_u16()));
        self.put(b",\"verdict\":\"");
        self.put(visit.verdict.as_bytes());
        self.put(b"\",\"renewal\":\"");
        self.put(visit.renewal.as_bytes());
        self.put(b"\",\"sign_in\":\"");
        self.put(visit.sign_in.as_bytes());
        self.put(b"\",\"rule\":");
        self.string(visit.rule);
        self.put(b",\"subject\":\"");
        self.put(subject.as_bytes());
        self.put(b"\",\"peer\":\"");
        self.address(visit.peer.ip());
        self.put(b"\",\"millis\":");
        self.number(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        self.put(b".");
        self.fraction(took.subsec_nanos() % 1_000_000);
        self.put(b",\"request_id\":\"");
        self.text.extend_from_slice(visit.request_id.as_bytes());
        self.put(b"\",\"target\":\"access\"}\n");
    }

    fn put(&mut self, bytes: &[u8]) {
        self.text.extend_from_slice(bytes);
    }

    fn number(&mut self, number: u64) {
        self.text.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }

    fn address(&mut self, ip: IpAddr) {
        let (last, written) = &mut self.peer;
        if *last != ip || written.is_empty() {
            *last = ip;
            written.clear();
            put_address(written, ip);
        }
        self.text.extend_from_slice(written);
    }

    /// Millionths, with the zeros before them.
    fn fraction(&mut self, millionths: u32) {
        let mut buffer = itoa::Buffer::new();
        let digits = buffer.format(millionths).as_bytes();
        self.text.extend_from_slice(b"000000".get(digits.len()..).unwrap_or_default());
        self.text.extend_from_slice(digits);
    }

    /// Text that others chose: of plain letters, mostly.
    fn string(&mut self, text: &str) {
        let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
        // All of it is looked at, for that takes fewer steps than to stop in time.
        if text.as_bytes().iter().fold(true, |all, byte| all & plain(byte)) {
            self.text.push(b'"');
            self.text.extend_from_slice(text.as_bytes());
            self.text.push(b'"');
            return;
        }
        self.text.push(b'"');
        for letter in text.chars() {
            if is_unseen(letter) {
                // Memory can always be written to.
                drop(write!(self.text, "\\u{:04x}", u32::from(letter)));
                continue;
            }
            if matches!(letter, '"' | '\\') {
                self.text.push(b'\\');
            }
            self.text.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
        }
        self.text.push(b'"');
    }
}

/// Whether a letter does something to whoever reads the log instead of being seen: controls (C1 too, which terminals obey),
/// ends of lines, and what turns the direction of writing round. All of them take four digits (RFC 8259 §7).
fn is_unseen(letter: char) -> bool {
    letter.is_control()
        || matches!(
            letter,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::Value;

    use super::*;
    use crate::outcome::Freshness;
    use crate::secret::Secret;

    /// What turns the direction of writing round, or ends a line, without being a control.
    const OBEYED: &str = "\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\
                          \u{2066}\u{2067}\u{2068}\u{2069}";

    /// What the log writes of an event.
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Seen {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// The same line by both ways.
    fn both(visit: &Visit<'_>, status: u16, took: Duration) -> (Value, Value) {
        let status = StatusCode::from_u16(status).expect("a status");
        let keys = SessionKeys::new(&Secret::new(vec![7; 32]), "backend");
        let subject =
            visit.who.as_ref().map_or("", |who| who.label(|| keys.digest(&["subject", who.subject()])));
        let seen = Seen::default();
        let out = seen.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_writer(move || out.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || tell_event(visit, subject, status, took));
        let event = seen.0.lock().expect("not poisoned").clone();
        let mut line = Line { text: b"left from before".to_vec(), ..Line::new() };
        let other = SocketAddr::from(([192, 0, 2, 1], 1));
        line.write(&Visit::unread(other), "", status, took);
        line.write(visit, subject, status, took);
        let text = std::str::from_utf8(&line.text).expect("UTF-8");
        let unseen = |letter: &char| letter.is_control() || OBEYED.contains(*letter);
        assert!(text.ends_with("}\n") && text.chars().filter(unseen).count() == 1, "{text:?}");
        (serde_json::from_slice(&event).expect("JSON"), serde_json::from_slice(&line.text).expect("JSON"))
    }

    fn visit(target: &str, peer: &str) -> Visit<'static> {
        let mut request = Request::new(());
        *request.uri_mut() = target.parse().expect("a target");
        Visit::begin(&request, peer.parse().expect("an address"))
    }

    #[test]
    fn a_line_says_what_the_event_says() {
        let mut known = visit("/page?secret", "192.0.2.17:5000");
        let controls: String = ('\0'..' ').chain('\u{7f}'..'\u{a0}').collect();
        let rule =
            format!("quotes \" back\\slash \u{e9}\u{2027}\u{202f}\u{1f512} \u{1b}[2J {controls}{OBEYED}");
        known.route("app.example", &rule);
        let claims = serde_json::Map::new();
        let who = Identity::new("asha".to_owned(), None, None, UnixTime::from_secs(1), claims);
        known.caller(&TokenState::Live(who, Freshness::Fresh));
        (known.verdict, known.renewal, known.sign_in) = ("admit", "beside", "shown");
        for (visit, status, took) in [
            (known, 200, Duration::from_micros(1_835_431)),
            (visit("/%1b%22;x", "[2001:db8::1]:1"), 503, Duration::from_nanos(90)),
            (visit("http://a.example/", "[::ffff:10.1.2.3]:1"), 404, Duration::from_secs(70)),
        ] {
            let (mut event, mut line) = both(&visit, status, took);
            let millis = |line: &mut Value| {
                line.as_object_mut().and_then(|line| line.remove("millis")).and_then(|m| m.as_f64())
            };
            let (one, other) = (millis(&mut event).expect("a number"), millis(&mut line).expect("a number"));
            assert!((one - other).abs() < 1e-6, "{one} {other}");
            let stamp = |line: &mut Value| {
                line.as_object_mut()
                    .and_then(|line| line.remove("timestamp"))
                    .and_then(|at| at.as_str().map(str::to_owned))
            };
            let (one, other) = (stamp(&mut event).expect("a text"), stamp(&mut line).expect("a text"));
            assert_eq!(
                (one.len(), humantime::parse_rfc3339(&other).is_ok()),
                (other.len(), true),
                "{one} {other}"
            );
            assert_eq!(event, line);
            assert!(!line.to_string().contains("secret"));
        }
    }
}
