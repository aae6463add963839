//! Cookie lines: whose session they are, what of them goes on to an app, and what comes back once they are written anew.
//! Input: lines, each a `Cookie` field. The first one's length, odd or even, says whether the token is in two cookies.
#![no_main]

use std::collections::BTreeSet;
use std::time::Duration;

use cookie::SameSite;
use doorkeep::clock::UnixTime;
use doorkeep::outcome::{Issued, Lineage, SessionKey};
use doorkeep::secret::Secret;
use doorkeep::session::carrier::{Carrier, CookieSettings};
use doorkeep::session::cookies::{self, CookieNames, Copies, Presented};
use doorkeep::session::seal::Sealer;
use doorkeep::token::{AccessToken, TokenSet};
use doorkeep_fuzz::lines;
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

const ACCESS: &str = "access_token";
const SIGNATURE: &str = "access_signature";
const REFRESH: &str = "refresh_token";
const SESSION: &str = "session_id";
const NOTES: &str = "doorkeep_state";
const RETURNS: &str = "doorkeep_returns";
const FORMS: [&str; 2] = ["doorkeep_form", "__Host-doorkeep_form"];

fn names(two: bool) -> CookieNames {
    CookieNames {
        access: ACCESS.into(),
        signature: two.then(|| SIGNATURE.into()),
        refresh: REFRESH.into(),
        session: Some(SESSION.into()),
        notes: NOTES.into(),
        returns: RETURNS.into(),
    }
}

fn trimmed(bytes: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let from = bytes.iter().position(|byte| !blank(byte)).unwrap_or(bytes.len());
    let to = bytes.iter().rposition(|byte| !blank(byte)).map_or(from, |at| at + 1);
    &bytes[from..to]
}

/// Every piece between semicolons, with its name where it has one.
fn pieces(headers: &HeaderMap) -> Vec<(Option<Vec<u8>>, Vec<u8>)> {
    let lines = headers.get_all(COOKIE).iter().map(|line| line.as_bytes().to_vec());
    let pieces =
        lines.flat_map(|line| line.split(|byte| *byte == b';').map(<[u8]>::to_vec).collect::<Vec<_>>());
    pieces
        .map(|piece| {
            let piece = trimmed(&piece).to_vec();
            let at = piece.iter().position(|byte| *byte == b'=');
            (at.map(|at| trimmed(&piece[..at]).to_vec()), piece)
        })
        .filter(|(_, piece)| !piece.is_empty())
        .collect()
}

/// The different values of one name.
fn values(headers: &HeaderMap, name: &str) -> BTreeSet<Vec<u8>> {
    let named = pieces(headers).into_iter().filter(|(own, _)| own.as_deref() == Some(name.as_bytes()));
    named
        .map(|(_, piece)| trimmed(&piece[piece.iter().position(|b| *b == b'=').unwrap() + 1..]).to_vec())
        .collect()
}

fn others(headers: &HeaderMap, ours: &[&str]) -> Vec<Vec<u8>> {
    let is_ours = |name: &Option<Vec<u8>>| {
        name.as_ref().is_some_and(|name| ours.iter().any(|own| own.as_bytes() == name.as_slice()))
    };
    pieces(headers).into_iter().filter(|(name, _)| !is_ours(name)).map(|(_, piece)| piece).collect()
}

fn octets(bytes: &[u8]) -> Option<String> {
    let octet = |b: &u8| matches!(b, 0x21 | 0x23..=0x2b | 0x2d..=0x3a | 0x3c..=0x5b | 0x5d..=0x7e);
    (!bytes.is_empty() && bytes.iter().all(octet)).then(|| String::from_utf8(bytes.to_vec()).unwrap())
}

fn is_read_plainly(headers: &HeaderMap, names: &CookieNames, got: &Presented) {
    let session: Vec<&str> =
        [ACCESS, REFRESH, SESSION, NOTES].into_iter().chain(names.signature.as_deref()).collect();
    let differ = session.iter().any(|name| values(headers, name).len() > 1);
    assert_eq!(got.copies == Copies::Differ, differ);
    if differ {
        assert!(got.access.is_none() && got.refresh.is_none() && got.session.is_none());
        assert!(got.sealed_notes.is_none(), "whose notes these are cannot be told either");
        return;
    }
    let one = |name: &str| values(headers, name).into_iter().next();
    let access = match &names.signature {
        None => one(ACCESS),
        Some(name) => {
            one(ACCESS).zip(one(name)).map(|(signed, rest)| [&signed[..], b".", &rest[..]].concat())
        }
    };
    let access = access.and_then(|value| octets(&value));
    assert_eq!(got.access.as_ref().map(|token| token.expose().to_owned()), access);
    let refresh = one(REFRESH).and_then(|value| octets(&value));
    assert_eq!(got.refresh.as_ref().map(|token| token.expose().to_owned()), refresh);
    if let Some(id) = &got.session {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        assert!(id.expose().bytes().all(plain) && (1..=64).contains(&id.expose().len()));
    }
}

fn nothing_of_ours_goes_on(headers: &HeaderMap, names: &CookieNames) {
    let ours: Vec<&str> = names.all().chain(FORMS).collect();
    let mut left = headers.clone();
    cookies::strip(&mut left, names);
    assert_eq!(cookies::read(&left, names), Presented::default());
    assert_eq!(others(&left, &[]), others(headers, &ours), "all other cookies, and no more");
    let again = {
        let mut again = left.clone();
        cookies::strip(&mut again, names);
        again
    };
    assert_eq!(again, left);
}

fn a_renewed_token_takes_the_old_ones_place(headers: &HeaderMap, names: &CookieNames, before: &Presented) {
    let new = AccessToken::parse("head.claims.new").unwrap();
    let mut passed = headers.clone();
    cookies::bring_up_to_date(&mut passed, names, &new);
    if before.copies == Copies::Agree {
        let after = cookies::read(&passed, names);
        assert_eq!(after, Presented { access: Some(new), ..before.clone() });
    }
    let ours: Vec<&str> = names.all().chain(FORMS).collect();
    assert_eq!(others(&passed, &ours), others(headers, &ours));
}

/// What we write into a browser is what we read when it comes back.
fn what_is_stored_comes_back(got: &Presented, names: &CookieNames) {
    let (Some(access), Some(refresh)) = (got.access.clone(), got.refresh.clone()) else { return };
    if names.signature.is_some() && !access.expose().contains('.') {
        return;
    }
    let two = names.signature.is_some();
    let now = UnixTime::from_secs(1_800_000_000);
    let settings = CookieSettings {
        names: names.clone(),
        domain: Some("example.com".into()),
        secure: true,
        same_site: SameSite::Lax,
        refresh_life: Duration::from_secs(3600),
    };
    let carrier = Carrier::new(settings, Sealer::new(&[Secret::new(vec![7; 32])]));
    let tokens = TokenSet {
        access,
        refresh,
        rotated: true,
        session: got.session.clone(),
        access_expires: None,
        refresh_expires: None,
        received_at: now,
    };
    let lineage = Lineage { family: SessionKey([1; 32]), started_at: now, subject: Some("u".into()) };
    let issued = Issued { tokens, presented: SessionKey([2; 32]), lineage };
    let about = SessionKey([3; 32]);
    let mut kept = Vec::new();
    for line in carrier.store((&issued, None), about, "app.example.com", now) {
        let text = line.to_str().expect("ASCII").to_owned();
        let mut parts = text.split(';').map(str::trim);
        kept.push(parts.next().expect("a cookie").to_owned());
        let attributes: BTreeSet<String> = parts.map(str::to_ascii_lowercase).collect();
        for wanted in ["secure", "samesite=lax", "path=/", "domain=example.com"] {
            assert!(attributes.contains(wanted), "{wanted}");
        }
        // Of a token in two cookies, scripts may read the one without its signature.
        let readable = two && text.starts_with("access_token=");
        assert_eq!(attributes.contains("httponly"), !readable, "{text}");
    }
    let mut headers = HeaderMap::new();
    headers.insert(COOKIE, HeaderValue::from_str(&kept.join("; ")).expect("a value"));
    let back = cookies::read(&headers, names);
    assert_eq!(back.copies, Copies::Agree);
    assert_eq!(back.access.as_ref(), Some(&issued.tokens.access));
    assert_eq!(back.refresh.as_ref(), Some(&issued.tokens.refresh));
    assert_eq!(back.session, issued.tokens.session);
    let notes = back.sealed_notes.expect("notes");
    let opened = carrier.open_notes(&notes, "app.example.com", about).expect("our own notes");
    assert_eq!(opened.lineage, issued.lineage);
}

fuzz_target!(|data: &[u8]| {
    let mut headers = HeaderMap::new();
    for line in lines(data) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(COOKIE, value);
        }
    }
    let two = lines(data).next().unwrap_or_default().len() % 2 == 1;
    let names = names(two);
    let got = cookies::read(&headers, &names);
    is_read_plainly(&headers, &names, &got);
    nothing_of_ours_goes_on(&headers, &names);
    a_renewed_token_takes_the_old_ones_place(&headers, &names, &got);
    what_is_stored_comes_back(&got, &names);
    for name in FORMS {
        let wanted = values(&headers, name);
        let one = wanted.first().filter(|_| wanted.len() == 1);
        let text = one.and_then(|value| String::from_utf8(value.clone()).ok());
        assert_eq!(cookies::one(&headers, name), text);
    }
});
