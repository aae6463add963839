//! Writes a session into the client's cookies: one for each token, and one of ours beside them (the `split` carrier).
//! In: what was issued. Out: `Set-Cookie` values. Errors: none; what no cookie can hold is left out. I/O: none.
//! Source: RFC 6265 §4.1 (`Set-Cookie`); RFC 6265bis §4.1.3 (`__Host-`, `__Secure-`).

use std::time::Duration;

use cookie::{Cookie, SameSite};
use http::HeaderValue;

use crate::clock::UnixTime;
use crate::notes::Notes;
use crate::outcome::{Issued, SessionKey};
use crate::session::cookies::{self, CookieNames};
use crate::session::seal::Sealer;
use crate::session::sealed_notes;
use crate::token::RefreshToken;

/// How long a count of returns from the login is kept.
pub const RETURNS_LIFE: Duration = Duration::from_secs(30);

/// The cookies' names and attributes.
#[derive(Clone, Debug)]
pub struct CookieSettings {
    /// Their names.
    pub names: CookieNames,
    /// The domain that the site shares with the id site; `None`: cookies of one host.
    pub domain: Option<String>,
    /// `Secure`.
    pub secure: bool,
    /// `SameSite`.
    pub same_site: SameSite,
    /// How long the cookies live where the backend does not say when the refresh token ends.
    pub refresh_life: Duration,
}

/// Writes session cookies.
#[derive(Clone, Debug)]
pub struct Carrier {
    settings: CookieSettings,
    sealer: Sealer,
}

impl Carrier {
    /// A carrier with these settings, sealing our notes with `sealer`.
    #[must_use]
    pub const fn new(settings: CookieSettings, sealer: Sealer) -> Self {
        Self { settings, sealer }
    }

    /// The names of our cookies.
    #[must_use]
    pub const fn names(&self) -> &CookieNames {
        &self.settings.names
    }

    /// How long cookies live where the backend does not say when the refresh token ends.
    #[must_use]
    pub const fn refresh_life(&self) -> Duration {
        self.settings.refresh_life
    }

    /// What seals our notes.
    #[must_use]
    pub const fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// Opens the notes that a client of `host` brought, if they are about the tokens with the key `about`.
    #[must_use]
    pub fn open_notes(&self, text: &str, host: &str, about: SessionKey) -> Option<Notes> {
        sealed_notes::open(text, &self.sealer, &self.settings.names.notes, self.bound_to(host))
            .filter(|notes| notes.about == about)
    }

    /// The cookies that make what was issued the session of a client that holds this refresh token. `about`: the key of the
    /// pair that it will present next. All live as long as the refresh token, so that the old access token is there to renew
    /// with; a refresh token that the client holds is not set again.
    #[must_use]
    pub fn store(
        &self,
        (issued, held): (&Issued, Option<&RefreshToken>),
        about: SessionKey,
        host: &str,
        now: UnixTime,
    ) -> Vec<HeaderValue> {
        let names = &self.settings.names;
        let tokens = &issued.tokens;
        let life = self.life(tokens.refresh_expires, now);
        let mut lines = self.access_lines(tokens.access.expose(), life);
        // Not whether the last renewal brought another one: an earlier one may have, whose answer never came.
        if held != Some(&tokens.refresh) {
            lines.push(self.line(&names.refresh, tokens.refresh.expose(), life));
        }
        if let (Some(name), Some(id)) = (&names.session, &tokens.session) {
            lines.push(self.line(name, id.expose(), life));
        }
        lines.extend(self.note(&Notes::of(issued, about), host, now));
        lines.into_iter().filter_map(|line| HeaderValue::from_str(&line).ok()).collect::<Vec<_>>()
    }

    /// The cookie with our notes alone.
    #[must_use]
    pub fn note_line(&self, notes: &Notes, host: &str, now: UnixTime) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.note(notes, host, now)?).ok()
    }

    /// Lines that delete every session cookie.
    #[must_use]
    pub fn clear(&self) -> Vec<HeaderValue> {
        self.session_names().map(|name| self.line(name, "", Duration::ZERO)).filter_map(to_value).collect()
    }

    /// Lines that delete copies of our cookies that belong to the site's host alone, beside those of the shared domain: where
    /// two came, one of them is such. Without a shared domain there are none, for there the host's own cookies are the real
    /// ones, and deleting them would let those win that a sibling host planted.
    #[must_use]
    pub fn clear_host_only(&self) -> Vec<HeaderValue> {
        match &self.settings.domain {
            Some(_) => self
                .session_names()
                .map(|name| self.host_line(name, "", Duration::ZERO))
                .filter_map(to_value)
                .collect(),
            None => Vec::new(),
        }
    }

    /// The line that counts returns from the login, or forgets them.
    #[must_use]
    pub fn returns(&self, count: Option<&str>) -> Option<HeaderValue> {
        let name = &self.settings.names.returns;
        to_value(match count {
            Some(count) => self.host_line(name, count, RETURNS_LIFE),
            None => self.host_line(name, "", Duration::ZERO),
        })
    }

    /// The name of the cookie by which a browser's sign-in forms are known.
    #[must_use]
    pub const fn form_name(&self) -> &'static str {
        if self.settings.secure { cookies::FORM_OF_HOST } else { cookies::FORM }
    }

    /// The line that sets it: for this host alone, and never sent along with another site's form.
    #[must_use]
    pub fn form(&self, value: &str, life: Duration) -> Option<HeaderValue> {
        let mut cookie = self.bare(self.form_name(), value, life);
        cookie.set_same_site(SameSite::Lax);
        to_value(cookie.to_string())
    }

    fn session_names(&self) -> impl Iterator<Item = &str> {
        self.settings.names.all().filter(|name| *name != self.settings.names.returns)
    }

    /// One cookie, or two: then scripts may read the claims, and cannot use them without the signature.
    fn access_lines(&self, token: &str, life: Duration) -> Vec<String> {
        let names = &self.settings.names;
        match (&names.signature, token.rsplit_once('.')) {
            (None, _) => vec![self.line(&names.access, token, life)],
            (Some(name), Some((signed, signature))) => {
                let mut readable = self.shared(&names.access, signed, life);
                readable.set_http_only(false);
                vec![readable.to_string(), self.line(name, signature, life)]
            }
            // No token that a verifier takes.
            (Some(_), None) => Vec::new(),
        }
    }

    fn note(&self, notes: &Notes, host: &str, now: UnixTime) -> Option<String> {
        let name = &self.settings.names.notes;
        let sealed = sealed_notes::seal(notes, &self.sealer, name, self.bound_to(host))?;
        Some(self.line(name, &sealed, self.life(notes.refresh_expires, now)))
    }

    fn life(&self, refresh_expires: Option<UnixTime>, now: UnixTime) -> Duration {
        refresh_expires.map_or(self.settings.refresh_life, |end| end.since(now))
    }

    /// The host that notes are bound to: the shared domain, or the one host.
    fn bound_to<'a>(&'a self, host: &'a str) -> &'a str {
        self.settings.domain.as_deref().unwrap_or(host)
    }

    fn line(&self, name: &str, value: &str, life: Duration) -> String {
        self.shared(name, value, life).to_string()
    }

    /// A cookie of the shared domain, where there is one.
    fn shared<'a>(&'a self, name: &'a str, value: &'a str, life: Duration) -> Cookie<'a> {
        let mut cookie = self.bare(name, value, life);
        if let Some(domain) = &self.settings.domain {
            cookie.set_domain(domain.as_str());
        }
        cookie
    }

    fn host_line(&self, name: &str, value: &str, life: Duration) -> String {
        self.bare(name, value, life).to_string()
    }

    fn bare<'a>(&self, name: &'a str, value: &'a str, life: Duration) -> Cookie<'a> {
        let secs = i64::try_from(life.as_secs()).unwrap_or(i64::MAX);
        Cookie::build((name, value))
            .path("/")
            .http_only(true)
            .secure(self.settings.secure)
            .same_site(self.settings.same_site)
            .max_age(cookie::time::Duration::seconds(secs))
            .build()
    }
}

fn to_value(line: String) -> Option<HeaderValue> {
    HeaderValue::try_from(line).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Lineage;
    use crate::secret::Secret;
    use crate::token::{AccessToken, SessionId, TokenSet};

    fn carrier(domain: Option<&str>) -> Carrier {
        carrier_with(domain, None)
    }

    fn carrier_with(domain: Option<&str>, signature: Option<&str>) -> Carrier {
        let names = CookieNames {
            access: "at".into(),
            signature: signature.map(str::to_owned),
            refresh: "rt".into(),
            session: Some("sid".into()),
            notes: "st".into(),
            returns: "re".into(),
        };
        let settings = CookieSettings {
            names,
            domain: domain.map(str::to_owned),
            secure: true,
            same_site: SameSite::Lax,
            refresh_life: Duration::from_secs(3600),
        };
        Carrier::new(settings, Sealer::new(&[Secret::new(vec![1; 32])]))
    }

    fn issued(ends: Option<u64>) -> Issued {
        Issued {
            tokens: TokenSet {
                access: AccessToken::parse("A2").expect("a token"),
                refresh: RefreshToken::parse("R2").expect("a token"),
                rotated: true,
                session: SessionId::parse("s1"),
                access_expires: None,
                refresh_expires: ends.map(UnixTime::from_secs),
                received_at: UnixTime::from_secs(1000),
            },
            presented: SessionKey([1; 32]),
            lineage: Lineage {
                family: SessionKey([2; 32]),
                started_at: UnixTime::from_secs(1),
                subject: Some("u".into()),
            },
        }
    }

    fn lines(values: &[HeaderValue]) -> Vec<&str> {
        values.iter().map(|v| v.to_str().expect("text")).collect()
    }

    #[test]
    fn every_cookie_lives_as_long_as_the_refresh_token() {
        let carrier = carrier(Some("test.example"));
        let values =
            carrier.store((&issued(Some(1600)), None), SessionKey([3; 32]), "a", UnixTime::from_secs(1000));
        let lines = lines(&values);
        assert_eq!(lines.len(), 4);
        assert!(lines[0].starts_with("at=A2; "), "{}", lines[0]);
        assert!(lines[1].starts_with("rt=R2; "));
        assert!(lines[2].starts_with("sid=s1; "));
        assert!(lines[3].starts_with("st="));
        for line in &lines {
            for attribute in
                ["HttpOnly", "Secure", "SameSite=Lax", "Path=/", "Domain=test.example", "Max-Age=600"]
            {
                assert!(line.split("; ").any(|part| part == attribute), "{attribute} in {line}");
            }
        }
    }

    #[test]
    fn a_refresh_token_that_the_client_holds_is_not_set_again() {
        let mut issued = issued(None);
        issued.tokens.rotated = false;
        let stored = |held: &str| {
            let held = RefreshToken::parse(held);
            carrier(None).store((&issued, held.as_ref()), SessionKey([3; 32]), "a", UnixTime::from_secs(1000))
        };
        let held = stored("R2");
        assert!(!lines(&held).iter().any(|line| line.starts_with("rt=")));
        assert!(lines(&held).iter().all(|line| line.contains("Max-Age=3600") && !line.contains("Domain")));
        // An earlier renewal rotated it, and the last one did not.
        for other in ["R1", ""] {
            assert!(lines(&stored(other)).iter().any(|line| line.starts_with("rt=R2; ")), "{other}");
        }
    }

    #[test]
    fn a_token_in_two_cookies_leaves_its_claims_readable_and_its_signature_not() {
        let mut issued = issued(None);
        issued.tokens.access = AccessToken::parse("head.claims.sig").expect("a token");
        let carrier = carrier_with(Some("test.example"), Some("as"));
        let values = carrier.store((&issued, None), SessionKey([3; 32]), "a", UnixTime::from_secs(1000));
        let lines = lines(&values);
        assert!(lines[0].starts_with("at=head.claims; ") && !lines[0].contains("HttpOnly"), "{}", lines[0]);
        assert!(lines[1].starts_with("as=sig; ") && lines[1].contains("HttpOnly"), "{}", lines[1]);
        for attribute in ["Secure", "SameSite=Lax", "Path=/", "Domain=test.example", "Max-Age=3600"] {
            assert!(lines[0].contains(attribute), "{attribute} in {}", lines[0]);
        }
        assert!(lines[2..].iter().all(|line| line.contains("HttpOnly")));
        let cleared = carrier.clear();
        assert!(cleared.iter().any(|line| line.to_str().expect("text").starts_with("as=; ")));
    }

    #[test]
    fn notes_are_believed_beside_their_own_tokens_only() {
        let carrier = carrier(None);
        let about = SessionKey([3; 32]);
        let values = carrier.store((&issued(None), None), about, "a", UnixTime::from_secs(1000));
        let line = lines(&values)[3];
        let text = line.split(['=', ';']).nth(1).expect("a value");
        assert!(carrier.open_notes(text, "a", about).is_some());
        assert!(carrier.open_notes(text, "a", SessionKey([4; 32])).is_none());
        assert!(carrier.open_notes(text, "b", about).is_none());
    }

    #[test]
    fn deleting_names_the_same_domain_and_path() {
        let cleared = carrier(Some("x.example")).clear();
        assert_eq!(lines(&cleared).len(), 4);
        assert!(lines(&cleared).iter().all(|l| l.contains("Max-Age=0") && l.contains("Domain=x.example")));
        let host_only = carrier(Some("x.example")).clear_host_only();
        assert_eq!(lines(&host_only).len(), 4);
        assert!(lines(&host_only).iter().all(|l| l.contains("Max-Age=0") && !l.contains("Domain")));
    }

    #[test]
    fn without_a_shared_domain_the_copies_of_the_host_are_the_real_ones_and_stay() {
        assert!(carrier(None).clear_host_only().is_empty());
    }
}
