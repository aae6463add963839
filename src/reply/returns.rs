//! How often a browser came back from the login to the same page without a session.
//! In: the cookie that counts, the page, the moment. Out: the next count. Errors: none; what cannot be read counts as none.
//! I/O: none.

use std::fmt;

use crate::clock::UnixTime;
use crate::outcome::SessionKey;

/// So many returns within so many seconds are a loop.
const MOST: u32 = 3;
const WITHIN: u64 = 30;

/// The redirects to the login that one page has led to since `first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Returns {
    redirects: u32,
    first: UnixTime,
    page: [u8; 8],
}

impl Returns {
    /// What the cookie counts for this page now.
    #[must_use]
    pub fn read(cookie: Option<&str>, page: SessionKey, now: UnixTime) -> Self {
        let mut mark = [0; 8];
        mark.iter_mut().zip(page.0).for_each(|(to, from)| *to = from);
        let none = Self { redirects: 0, first: now, page: mark };
        let read = || {
            let mut parts = cookie?.split('.');
            let redirects = parts.next()?.parse().ok()?;
            let first = UnixTime::from_secs(parts.next()?.parse().ok()?);
            let same = parts.next()? == hex(mark) && parts.next().is_none();
            let recent = first <= now && now.since(first).as_secs() <= WITHIN;
            (same && recent).then_some(Self { redirects, first, page: mark })
        };
        read().unwrap_or(none)
    }

    /// The count once a sign-in here leads to the page: nobody has to come back more often, for if this browser comes there
    /// without a session now, the next sign-in will not hold either.
    #[must_use]
    pub fn after_sign_in(page: SessionKey, now: UnixTime) -> Self {
        Self { redirects: MOST, ..Self::read(None, page, now) }
    }

    /// Whether the browser has come back so often that another redirect would not help.
    #[must_use]
    pub const fn is_loop(self) -> bool {
        self.redirects >= MOST
    }

    /// The count after one more redirect.
    #[must_use]
    pub const fn next(self) -> Self {
        Self { redirects: self.redirects.saturating_add(1), ..self }
    }
}

impl fmt::Display for Returns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.redirects, self.first.as_secs(), hex(self.page))
    }
}

fn hex(bytes: [u8; 8]) -> String {
    format!("{:016x}", u64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: SessionKey = SessionKey([7; 32]);

    fn at(secs: u64) -> UnixTime {
        UnixTime::from_secs(1000 + secs)
    }

    #[test]
    fn the_third_return_to_a_page_within_half_a_minute_is_a_loop() {
        let mut cookie: Option<String> = None;
        for turn in 0..3 {
            let count = Returns::read(cookie.as_deref(), PAGE, at(turn * 5));
            assert!(!count.is_loop(), "redirect {turn}");
            cookie = Some(count.next().to_string());
        }
        assert!(Returns::read(cookie.as_deref(), PAGE, at(30)).is_loop());
        assert!(!Returns::read(cookie.as_deref(), PAGE, at(31)).is_loop());
        assert!(!Returns::read(cookie.as_deref(), SessionKey([8; 32]), at(1)).is_loop());
    }

    #[test]
    fn who_comes_back_from_a_sign_in_here_without_a_session_is_told_at_once() {
        let cookie = Returns::after_sign_in(PAGE, at(0)).to_string();
        assert!(Returns::read(Some(&cookie), PAGE, at(2)).is_loop());
        assert!(!Returns::read(Some(&cookie), SessionKey([8; 32]), at(2)).is_loop());
        assert!(!Returns::read(Some(&cookie), PAGE, at(31)).is_loop());
    }

    #[test]
    fn hostile_counts_count_as_none() {
        for text in
            ["", ".", "9", "9.1000", "-1.1000.0707070707070707", "9.9999999.0707070707070707", "a.b.c.d"]
        {
            assert!(!Returns::read(Some(text), PAGE, at(1)).is_loop(), "{text}");
        }
        assert!(Returns::read(Some("4294967295.1000.0707070707070707"), PAGE, at(1)).next().is_loop());
    }
}
