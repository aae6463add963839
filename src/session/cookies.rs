//! Reads what a client's cookies hold, and takes our own out of what goes on to the upstream.
//! In: `Cookie` lines. Out: [`Presented`], the other cookies byte for byte. Errors: none. I/O: none.
//! Source: RFC 6265 §4.2 (`Cookie`), §5.4; RFC 9113 §8.2.3 (crumbs).

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

use crate::network::Network;
use crate::notes::Notes;
use crate::token::{AccessToken, RefreshToken, SessionId};

/// Holds the browser's half of what makes a sign-in form its own, where cookies are not secure.
pub const FORM: &str = "doorkeep_form";
/// The same where they are: no other host can set it (RFC 6265bis §4.1.3.2).
pub const FORM_OF_HOST: &str = "__Host-doorkeep_form";

/// The names of the cookies that are ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieNames {
    /// Holds the access token; where `signature` is a name, all of it before its last dot.
    pub access: String,
    /// Holds what comes after the access token's last dot: a JWT's signature; `None`: the token is in one cookie.
    pub signature: Option<String>,
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
            .chain(&self.signature)
            .chain(&self.session)
            .map(String::as_str)
    }

    /// Whether a cookie of this name is ours.
    #[must_use]
    pub fn owns(&self, name: &[u8]) -> bool {
        self.all().chain([FORM, FORM_OF_HOST]).any(|own| own.as_bytes() == name)
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
    /// From where they came.
    pub network: Network,
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
    read_with(headers, names, |_| None)
}

/// The same where some access tokens are known: `known` gives the one of a text, which then is not read again.
pub fn read_with(
    headers: &HeaderMap,
    names: &CookieNames,
    known: impl FnOnce(&[u8]) -> Option<AccessToken>,
) -> Presented {
    let mut found = Found::default();
    for line in headers.get_all(COOKIE) {
        for (name, value) in parts(line.as_bytes()).filter_map(name_and_value) {
            found.take(name, value, names);
        }
    }
    if found.copies == Copies::Differ {
        let returns = text(found.returns).map(str::to_owned);
        return Presented { returns, copies: Copies::Differ, ..Presented::default() };
    }
    let access = match &names.signature {
        None => found.access.and_then(known).or_else(|| text(found.access).and_then(AccessToken::parse)),
        // Half a token is none.
        Some(_) => text(found.access)
            .zip(text(found.signature))
            .and_then(|(signed, signature)| AccessToken::parse(&format!("{signed}.{signature}"))),
    };
    Presented {
        access,
        refresh: text(found.refresh).and_then(RefreshToken::parse),
        session: text(found.session).and_then(SessionId::parse),
        sealed_notes: text(found.notes).map(str::to_owned),
        notes: KnownNotes::None,
        returns: text(found.returns).map(str::to_owned),
        copies: Copies::Agree,
        network: Network::None,
    }
}

/// The value of the one cookie of this name; `None` where there is none, or two that differ.
#[must_use]
pub fn one(headers: &HeaderMap, name: &str) -> Option<String> {
    let lines = headers.get_all(COOKIE).iter();
    let cookies = lines.flat_map(|line| parts(line.as_bytes()).filter_map(name_and_value));
    let mut values = cookies.filter(|(own, _)| *own == name.as_bytes()).map(|(_, value)| value);
    let first = values.next()?;
    if values.all(|other| other == first) { text(Some(first)).map(str::to_owned) } else { None }
}

/// Removes our cookies from a request head. Other cookies stay as they were sent; a line left empty goes.
pub fn strip(headers: &mut HeaderMap, names: &CookieNames) {
    strip_where(headers, |name| names.owns(name));
}

/// Puts the caller's access token, which may have been renewed on the way, where an app that sees our cookies looks for it.
/// Other cookies stay as they were sent.
pub fn bring_up_to_date(headers: &mut HeaderMap, names: &CookieNames, access: &AccessToken) {
    if read(headers, names).access.as_ref() == Some(access) {
        return;
    }
    let signature = names.signature.as_deref();
    strip_where(headers, |name| {
        names.access.as_bytes() == name || signature.is_some_and(|own| own.as_bytes() == name)
    });
    let token = access.expose();
    let own = match signature.zip(token.rsplit_once('.')) {
        Some((name, (signed, signature))) => format!("{}={signed}; {name}={signature}", names.access),
        None => format!("{}={token}", names.access),
    };
    // One line: an app need not read more (RFC 6265 §5.4).
    let lines = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).chain([own.as_bytes()]);
    let line = lines.collect::<Vec<_>>().join(&b"; "[..]);
    if let Ok(mut line) = HeaderValue::from_bytes(&line) {
        line.set_sensitive(true);
        headers.insert(COOKIE, line);
    }
}

fn strip_where(headers: &mut HeaderMap, goes: impl Fn(&[u8]) -> bool) {
    let ours = |part: &[u8]| name_and_value(part).is_some_and(|(name, _)| goes(name));
    let lines = || headers.get_all(COOKIE).iter();
    if !lines().any(|line| parts(line.as_bytes()).any(ours)) {
        return;
    }
    let kept: Vec<HeaderValue> = lines()
        .filter_map(|line| {
            let kept: Vec<&[u8]> = parts(line.as_bytes()).filter(|part| !ours(part)).collect();
            let joined = kept.join(&b';');
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
    signature: Option<&'a [u8]>,
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
        } else if names.signature.as_deref().is_some_and(is) {
            &mut self.signature
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

fn text(bytes: Option<&[u8]>) -> Option<&str> {
    bytes.and_then(|b| std::str::from_utf8(b).ok())
}

/// What stands between the semicolons of a line. Tokens are long, so their ends are searched for many bytes at a time.
fn parts(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let line = rest?;
        match memchr::memchr(b';', line) {
            Some(end) => {
                rest = line.get(end + 1..);
                line.get(..end)
            }
            None => rest.take(),
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names() -> CookieNames {
        CookieNames {
            access: "access_token".into(),
            signature: None,
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

    proptest! {
        #[test]
        fn parts_are_those_between_semicolons(line in "[a; =]{0,12}") {
            let split: Vec<&[u8]> = line.as_bytes().split(|b| *b == b';').collect();
            prop_assert_eq!(parts(line.as_bytes()).collect::<Vec<_>>(), split);
        }
    }

    #[test]
    fn a_known_token_is_asked_for_whole_and_once() {
        let known = AccessToken::parse("a.b.c").expect("a token");
        let head = head(&["x=1; access_token= a.b.c ; refresh_token=RT; access_token=a.b.c"]);
        let mut asked = Vec::new();
        let got = read_with(&head, &names(), |text| {
            asked.push(text.to_vec());
            Some(known.clone())
        });
        assert_eq!((got, asked), (read(&head, &names()), vec![b"a.b.c".to_vec()]));
        // Nothing is asked about a session that cannot be told.
        let differing = self::head(&["access_token=a.b.c; access_token=a.b.d"]);
        assert_eq!(read_with(&differing, &names(), |_| panic!("two tokens")).access, None);
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
    fn a_token_in_two_cookies_is_put_together() {
        let names = CookieNames { signature: Some("access_token_signature".into()), ..names() };
        let got = |line: &str| read(&head(&[line]), &names);
        let whole = got("access_token=head.claims; refresh_token=R; access_token_signature=sig");
        assert_eq!(whole.access, AccessToken::parse("head.claims.sig"));
        assert_eq!(got("access_token=head.claims; refresh_token=R").access, None, "half of it is none");
        assert_eq!(got("access_token_signature=sig; refresh_token=R").access, None);
        let two = got("access_token=head.claims; access_token_signature=a; access_token_signature=b");
        assert_eq!((two.access, two.copies), (None, Copies::Differ));
        let mut headers =
            head(&["access_token=a.b; k=v; access_token_signature=c; access_token_signature=d"]);
        strip(&mut headers, &names);
        assert_eq!(headers.get(COOKIE).expect("the rest"), "k=v");
    }

    #[test]
    fn an_app_that_sees_our_cookies_sees_the_token_as_it_is_now() {
        let new = AccessToken::parse("head.claims.new").expect("a token");
        let passed = |lines: &[&str], names: &CookieNames| {
            let mut headers = head(lines);
            bring_up_to_date(&mut headers, names, &new);
            assert_eq!(read(&headers, names).access.as_ref(), Some(&new));
            headers.get_all(COOKIE).iter().map(|l| l.to_str().expect("text").to_owned()).collect::<Vec<_>>()
        };
        let split = CookieNames { signature: Some("as".into()), ..names() };
        assert_eq!(
            passed(&["a=1; access_token=old; refresh_token=R", "b=2"], &names()),
            ["a=1; refresh_token=R; b=2; access_token=head.claims.new"]
        );
        assert_eq!(
            passed(&["a=1; access_token=head.claims.new"], &names()),
            ["a=1; access_token=head.claims.new"]
        );
        assert_eq!(
            passed(&["as=old; access_token=head.claims; k=v"], &split),
            ["k=v; access_token=head.claims; as=new"]
        );
        assert_eq!(passed(&[], &names()), ["access_token=head.claims.new"]);
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
