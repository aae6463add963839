//! The mark by which a form is known as one that was shown to this very browser: the same random value, sealed apart, in a
//! cookie and in the form.
//! In: cookie, form field, host, moment. Out: [`Held`], [`Mark`]. Errors: none. I/O: random numbers.
//! Source: W3C Fetch Metadata §1 (browsers that do not tell); the double-submit cookie, sealed so that none can be made.
//!
//! What is at stake is a sign-in that somebody else's page makes a browser do: its user would then act in a stranger's
//! account. The mark names nobody and opens nothing; a page and all its copies in other tabs share the browser's value.

use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;

use crate::clock::UnixTime;
use crate::random;
use crate::session::seal::Sealer;

/// How long a form that is open can be sent.
const FORM_LIFE: Duration = Duration::from_secs(3600);

/// How long a browser keeps its value: a form shown at the last moment can still be sent.
pub const COOKIE_LIFE: Duration = Duration::from_secs(2 * 3600);

const VALUE: usize = 16;

/// What a browser holds.
#[derive(Debug)]
pub struct Held {
    /// What the cookie becomes; `None`: it stays.
    pub cookie: Option<String>,
    /// What the form carries.
    pub form: String,
}

/// Whether a form was shown to the browser that sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It was.
    Ours,
    /// It was not, or long ago.
    Strange,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Cookie,
    Form,
}

impl Place {
    fn bound_to(self, host: &str) -> Vec<u8> {
        let place = match self {
            Self::Cookie => "cookie",
            Self::Form => "form",
        };
        format!("doorkeep sign-in v1\0{place}\0{host}").into_bytes()
    }
}

/// Makes and checks marks.
#[derive(Debug)]
pub(super) struct FormTokens(Sealer);

impl FormTokens {
    pub(super) const fn new(sealer: Sealer) -> Self {
        Self(sealer)
    }

    /// `None` where the system has no random numbers.
    pub(super) fn hold(&self, cookie: Option<&str>, host: &str, now: UnixTime) -> Option<Held> {
        let held = cookie.and_then(|text| self.open(text, Place::Cookie, host));
        // A form lives at most as long as the cookie that it needs.
        let kept = held.filter(|(_, made)| *made <= now && now.since(*made) <= COOKIE_LIFE - FORM_LIFE);
        let (value, cookie) = match kept {
            Some((value, _)) => (value, None),
            None => {
                let mut value = [0; VALUE];
                random::fill(&mut value).ok()?;
                (value, Some(self.seal(value, Place::Cookie, host, now)?))
            }
        };
        Some(Held { cookie, form: self.seal(value, Place::Form, host, now)? })
    }

    pub(super) fn check(&self, cookie: Option<&str>, form: &str, host: &str, now: UnixTime) -> Mark {
        let within = |life: Duration, made: UnixTime| made <= now && now.since(made) < life;
        let held = cookie.and_then(|text| self.open(text, Place::Cookie, host));
        match (held, self.open(form, Place::Form, host)) {
            (Some((held, held_since)), Some((sent, shown)))
                if within(COOKIE_LIFE, held_since)
                    && within(FORM_LIFE, shown)
                    && verify_slices_are_equal(&held, &sent).is_ok() =>
            {
                Mark::Ours
            }
            (Some(_) | None, Some(_) | None) => Mark::Strange,
        }
    }

    fn seal(&self, value: [u8; VALUE], place: Place, host: &str, now: UnixTime) -> Option<String> {
        let plain = [value.as_slice(), &now.as_secs().to_be_bytes()].concat();
        self.0.seal(&plain, &place.bound_to(host))
    }

    fn open(&self, text: &str, place: Place, host: &str) -> Option<([u8; VALUE], UnixTime)> {
        let plain = self.0.open(text, &place.bound_to(host))?;
        let (value, made) = plain.split_at_checked(VALUE)?;
        Some((value.try_into().ok()?, UnixTime::from_secs(u64::from_be_bytes(made.try_into().ok()?))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    const HOST: &str = "app.example";

    fn tokens(secret: u8) -> FormTokens {
        FormTokens::new(Sealer::new(&[Secret::new(vec![secret; 32])]))
    }

    fn at(secs: u64) -> UnixTime {
        UnixTime::from_secs(1_000_000 + secs)
    }

    fn shown(tokens: &FormTokens, secs: u64) -> (String, String) {
        let held = tokens.hold(None, HOST, at(secs)).expect("random numbers");
        (held.cookie.expect("a new cookie"), held.form)
    }

    #[test]
    fn a_form_goes_with_the_cookie_of_its_browser_alone() {
        let (tokens, another) = (tokens(1), tokens(2));
        let ((cookie, form), (other, theirs)) = (shown(&tokens, 0), shown(&tokens, 0));
        let check = |cookie: Option<&str>, form: &str| tokens.check(cookie, form, HOST, at(5));
        assert_eq!(check(Some(&cookie), &form), Mark::Ours);
        for (cookie, form) in [
            (None, form.as_str()),
            (Some(other.as_str()), form.as_str()),
            (Some(cookie.as_str()), theirs.as_str()),
            (Some(cookie.as_str()), cookie.as_str()),
            (Some(form.as_str()), form.as_str()),
            (Some(cookie.as_str()), ""),
            (Some(""), ""),
            (Some("junk"), "junk"),
        ] {
            assert_eq!(check(cookie, form), Mark::Strange);
        }
        assert_eq!(tokens.check(Some(&cookie), &form, "other.example", at(5)), Mark::Strange);
        assert_eq!(another.check(Some(&cookie), &form, HOST, at(5)), Mark::Strange);
    }

    #[test]
    fn it_ends() {
        let tokens = tokens(1);
        let (cookie, form) = shown(&tokens, 0);
        assert_eq!(tokens.check(Some(&cookie), &form, HOST, at(3599)), Mark::Ours);
        assert_eq!(tokens.check(Some(&cookie), &form, HOST, at(3600)), Mark::Strange);
        let before = UnixTime::from_secs(999_999);
        assert_eq!(tokens.check(Some(&cookie), &form, HOST, before), Mark::Strange, "made in the future");
    }

    #[test]
    fn tabs_share_a_cookie_and_each_of_them_can_be_sent() {
        let tokens = tokens(1);
        let (cookie, first) = shown(&tokens, 0);
        let second = tokens.hold(Some(&cookie), HOST, at(3600)).expect("random numbers");
        assert!(second.cookie.is_none() && second.form != first);
        assert_eq!(tokens.check(Some(&cookie), &second.form, HOST, at(7199)), Mark::Ours);
        let third = tokens.hold(Some(&cookie), HOST, at(3601)).expect("random numbers");
        assert!(third.cookie.is_some(), "an old one is replaced");
    }
}
