//! Reads what a client's cookies hold, and takes our own out of what goes on to the upstream.
//! In: `Cookie` lines. Out: [`Presented`], the other cookies byte for byte. Errors: none. I/O: none.
//! Source: RFC 6265 §4.2 (`Cookie`), §5.4; RFC 9113 §8.2.3 (crumbs).

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

use crate::notes::Notes;
use crate::token::{AccessToken, RefreshToken, SessionId};

/// The names of the cookies that are ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieNames {
    /// Holds the access token.
    pub access: String,
    /// Holds the refresh token.
    pub refresh: String,
    /// Holds the session id, where the backend has one.
    pub session: Option<String>,
    /// Holds our sealed notes about the session.
    pub notes: String,
    /// Counts returns from the login, to notice loops.
    pub returns: String,
}

impl CookieNames {
    /// Every name.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        [&self.access, &self.refresh, &self.notes, &self.returns]
            .into_iter()
            .chain(self.session.as_ref())
            .map(String::as_str)
    }

    /// Whether a cookie of this name is ours.
    #[must_use]
    pub fn owns(&self, name: &[u8]) -> bool {
        self.all().any(|own| own.as_bytes() == name)
    }
}

/// What the cookies of a request hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Presented {
    /// The access token.
    pub access: Option<AccessToken>,
    /// The refresh token.
    pub refresh: Option<RefreshToken>,
    /// The session id.
    pub session: Option<SessionId>,
    /// The sealed notes, unopened.
    pub sealed_notes: Option<String>,
    /// Our notes about the session, once opened and found to belong to these tokens.
    pub notes: KnownNotes,
    /// The returns from login that were counted.
    pub returns: Option<String>,
    /// Whether our cookies agree with each other.
    pub copies: Copies,
}

/// Whether each of our names came with one value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Copies {
    /// It did.
    #[default]
    Agree,
    /// One came with different values: whose session this is cannot be told, so it is none.
    Differ,
}

/// Our notes about the presented session.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum KnownNotes {
    /// None came, or none that belongs to these tokens.
    #[default]
    None,
    /// The client brought them.
    Held(Notes),
    /// Made for this request, because the tokens alone do not tell enough: the answer brings them to the client.
    Noted(Notes),
}

impl KnownNotes {
    /// The notes, wherever they come from.
    #[must_use]
    pub const fn notes(&self) -> Option<&Notes> {
        match self {
            Self::None => None,
            Self::Held(notes) | Self::Noted(notes) => Some(notes),
        }
    }
}

/// Reads our cookies. Names are compared byte for byte; values are taken as they are.
#[must_use]
pub fn read(headers: &HeaderMap, names: &CookieNames) -> Presented {
    let mut found = Found::default();
    for line in headers.get_all(COOKIE) {
        for (name, value) in line.as_bytes().split(|b| *b == b';').filter_map(name_and_value) {
            found.take(name, value, names);
        }
    }
    if found.copies == Copies::Differ {
        return Presented { returns: text(found.returns), copies: Copies::Differ, ..Presented::default() };
    }
    Presented {
        access: text(found.access).and_then(|t| AccessToken::parse(&t)),
        refresh: text(found.refresh).and_then(|t| RefreshToken::parse(&t)),
        session: text(found.session).and_then(|t| SessionId::parse(&t)),
        sealed_notes: text(found.notes),
        notes: KnownNotes::None,
        returns: text(found.returns),
        copies: Copies::Agree,
    }
}

/// Removes our cookies from a request head. Other cookies stay as they were sent; a line left empty goes.
pub fn strip(headers: &mut HeaderMap, names: &CookieNames) {
    let ours = |part: &[u8]| name_and_value(part).is_some_and(|(name, _)| names.owns(name));
    let lines = || headers.get_all(COOKIE).iter();
    if !lines().any(|line| line.as_bytes().split(|b| *b == b';').any(ours)) {
        return;
    }
    let kept: Vec<HeaderValue> = lines()
        .filter_map(|line| {
            let parts: Vec<&[u8]> =
                line.as_bytes().split(|b| *b == b';').filter(|part| !ours(part)).collect();
            let joined = parts.join(&b';');
            let rest = trim(&joined);
            if rest.is_empty() { None } else { HeaderValue::from_bytes(rest).ok() }
        })
        .collect();
    headers.remove(COOKIE);
    for line in kept {
        headers.append(COOKIE, line);
    }
}

#[derive(Default)]
struct Found<'a> {
    access: Option<&'a [u8]>,
    refresh: Option<&'a [u8]>,
    session: Option<&'a [u8]>,
    notes: Option<&'a [u8]>,
    returns: Option<&'a [u8]>,
    copies: Copies,
}

impl<'a> Found<'a> {
    fn take(&mut self, name: &[u8], value: &'a [u8], names: &CookieNames) {
        let is = |own: &str| own.as_bytes() == name;
        let slot = if is(&names.access) {
            &mut self.access
        } else if is(&names.refresh) {
            &mut self.refresh
        } else if names.session.as_deref().is_some_and(is) {
            &mut self.session
        } else if is(&names.notes) {
            &mut self.notes
        } else if is(&names.returns) {
            &mut self.returns
        } else {
            return;
        };
        match slot {
            None => *slot = Some(value),
            Some(earlier) if *earlier == value => {}
            Some(_) if is(&names.returns) => {}
            Some(_) => self.copies = Copies::Differ,
        }
    }
}

fn name_and_value(part: &[u8]) -> Option<(&[u8], &[u8])> {
    let part = trim(part);
    let at = part.iter().position(|b| *b == b'=')?;
    let (name, rest) = part.split_at_checked(at)?;
    Some((trim(name), trim(rest.get(1..)?)))
}

/// Without space and tab at both ends; nothing else counts as blank here.
fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

fn text(bytes: Option<&[u8]>) -> Option<String> {
    bytes.and_then(|b| std::str::from_utf8(b).ok()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names() -> CookieNames {
        CookieNames {
            access: "access_token".into(),
            refresh: "refresh_token".into(),
            session: Some("session_id".into()),
            notes: "doorkeep_state".into(),
            returns: "doorkeep_returns".into(),
        }
    }

    fn head(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(COOKIE, HeaderValue::from_bytes(line.as_bytes()).expect("a value"));
        }
        headers
    }

    fn left(lines: &[&str]) -> Vec<String> {
        let mut headers = head(lines);
        strip(&mut headers, &names());
        headers.get_all(COOKIE).iter().map(|l| String::from_utf8_lossy(l.as_bytes()).into_owned()).collect()
    }

    #[test]
    fn our_cookies_are_found_in_any_line() {
        let got = read(&head(&["a=1; access_token=AT;refresh_token=RT", "\tsession_id = 65f ; x"]), &names());
        assert_eq!(got.access, AccessToken::parse("AT"));
        assert_eq!(got.refresh, RefreshToken::parse("RT"));
        assert_eq!(got.session, SessionId::parse("65f"));
        assert_eq!(got.copies, Copies::Agree);
    }

    #[test]
    fn names_are_exact() {
        for line in
            ["Access_Token=x", "access_token%20=x", "$access_token=x", "access_token", "\u{b}access_token=x"]
        {
            if let Ok(value) = HeaderValue::from_bytes(line.as_bytes()) {
                let mut headers = HeaderMap::new();
                headers.append(COOKIE, value);
                assert_eq!(read(&headers, &names()).access, None, "{line:?}");
            }
        }
    }

    #[test]
    fn two_values_under_one_name_are_no_session() {
        let got = read(&head(&["access_token=A; refresh_token=R; access_token=B"]), &names());
        assert_eq!(got.copies, Copies::Differ);
        assert_eq!((got.access, got.refresh), (None, None));
        let same = read(&head(&["access_token=A; refresh_token=R; access_token=A"]), &names());
        assert_eq!(same.copies, Copies::Agree);
        assert_eq!(read(&head(&["refresh_token=R", "refresh_token="]), &names()).copies, Copies::Differ);
    }

    #[test]
    fn every_copy_of_ours_is_removed_and_the_rest_is_untouched() {
        assert_eq!(left(&["a=1; access_token=x; b=\"q; =z\""]), ["a=1; b=\"q; =z\""]);
        assert_eq!(left(&["access_token=x;access_token=y"]), Vec::<String>::new());
        assert_eq!(left(&["refresh_token=x", "theme=dark;  odd"]), ["theme=dark;  odd"]);
        assert_eq!(left(&["a=%41;;  b"]), ["a=%41;;  b"]);
        assert_eq!(left(&["doorkeep_state=s; doorkeep_returns=1; session_id=2; k=v"]), ["k=v"]);
    }

    /// Pieces that cookie lines of hostile clients are made of.
    fn piece() -> impl Strategy<Value = Vec<u8>> {
        const TOLD: &[&str] = &[
            "access_token",
            "refresh_token",
            "session_id",
            "doorkeep_state",
            "=",
            ";",
            " ",
            "\t",
            "\"",
            ",",
            "a",
            "1",
            "%20",
        ];
        prop_oneof![
            8 => prop::sample::select(TOLD).prop_map(|text| text.as_bytes().to_vec()),
            1 => prop::collection::vec(0x20_u8..=0xff, 0..4),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn no_line_brings_a_session_cookie_past_the_gateway(
            lines in prop::collection::vec(prop::collection::vec(piece(), 0..40), 0..4),
        ) {
            let mut headers = HeaderMap::new();
            for line in &lines {
                if let Ok(value) = HeaderValue::from_bytes(&line.concat()) {
                    headers.append(COOKIE, value);
                }
            }
            let before: Vec<Vec<u8>> = others(&headers);
            strip(&mut headers, &names());
            prop_assert_eq!(read(&headers, &names()), Presented::default());
            prop_assert_eq!(others(&headers), before, "and every other cookie goes on as it was");
        }
    }

    /// The cookies that are not ours, as sent.
    fn others(headers: &HeaderMap) -> Vec<Vec<u8>> {
        let lines = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|b| *b == b';'));
        let theirs = lines.filter(|part| !name_and_value(part).is_some_and(|(name, _)| names().owns(name)));
        theirs.map(trim).filter(|part| !part.is_empty()).map(<[u8]>::to_vec).collect()
    }
}
