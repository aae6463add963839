//! When a token that still lives should be renewed.
//! In: a verified token, our notes, the moment. Out: [`Freshness`]. Errors: none. I/O: none.

use std::time::Duration;

use crate::clock::UnixTime;
use crate::identity::Identity;
use crate::notes::Notes;
use crate::outcome::{Ahead, Freshness};

/// A token is due once less than `ahead` (at most half of its life) is left and a tenth of its life has passed since it
/// came. Its life is `exp − iat`, or what our notes say; where neither tells, it is never due.
#[must_use]
pub(super) fn freshness(
    identity: &Identity,
    notes: Option<&Notes>,
    now: UnixTime,
    ahead: Ahead,
) -> Freshness {
    let life = match (identity.issued_at(), notes) {
        (Some(iat), _) => identity.expires_at().since(iat),
        (None, Some(notes)) => match notes.expires_in {
            Some(life) => life,
            None => return Freshness::Fresh,
        },
        (None, None) => return Freshness::Fresh,
    };
    let received = notes.map(|notes| notes.received_at);
    let Some(renewed_at) = identity.issued_at().max(received) else { return Freshness::Fresh };
    let window = match ahead {
        Ahead::Span(span) => span.min(life / 2),
        Ahead::Percent(percent) => Duration::from_secs(life.as_secs() / 100 * u64::from(percent.min(50)))
            .saturating_add(Duration::from_secs(life.as_secs() % 100 * u64::from(percent.min(50)) / 100)),
    };
    let left = identity.expires_at().since(now);
    if left < window && now.since(renewed_at) >= tenth(life) { Freshness::Due } else { Freshness::Fresh }
}

/// A tenth, in whole seconds and at least one: the clock has no finer ones.
fn tenth(life: Duration) -> Duration {
    Duration::from_secs((life.as_secs() / 10).max(1))
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::outcome::{Lineage, SessionKey};

    const T: u64 = 1_000_000;

    fn at(secs: u64) -> UnixTime {
        UnixTime::from_secs(T + secs)
    }

    fn token(iat: Option<u64>, exp: u64) -> Identity {
        Identity::new("u".into(), None, iat.map(at), at(exp), Map::new())
    }

    fn notes(received: u64, life: u64) -> Notes {
        Notes {
            lineage: Lineage { family: SessionKey([0; 32]), started_at: at(0), subject: None },
            received_at: at(received),
            expires_in: Some(Duration::from_secs(life)),
            refresh_expires: None,
            about: SessionKey([0; 32]),
        }
    }

    #[test]
    fn half_of_its_life_bounds_the_window() {
        let ahead = Ahead::Span(Duration::from_secs(600));
        assert_eq!(freshness(&token(Some(0), 100), None, at(50), ahead), Freshness::Fresh);
        assert_eq!(freshness(&token(Some(0), 100), None, at(51), ahead), Freshness::Due);
        assert_eq!(freshness(&token(Some(0), 100), None, at(51), Ahead::Percent(90)), Freshness::Due);
        assert_eq!(freshness(&token(Some(0), 100), None, at(80), Ahead::Percent(20)), Freshness::Fresh);
        assert_eq!(freshness(&token(Some(0), 100), None, at(81), Ahead::Percent(20)), Freshness::Due);
    }

    #[test]
    fn a_token_that_was_short_when_it_came_waits_a_tenth_of_its_life() {
        let ahead = Ahead::Span(Duration::from_secs(30));
        // issued with 100 s, handed out again when 20 were left
        assert_eq!(freshness(&token(Some(0), 100), Some(&notes(80, 100)), at(85), ahead), Freshness::Fresh);
        assert_eq!(freshness(&token(Some(0), 100), Some(&notes(80, 100)), at(90), ahead), Freshness::Due);
    }

    #[test]
    fn without_iat_the_notes_tell_and_without_both_it_is_never_due() {
        let ahead = Ahead::Percent(50);
        assert_eq!(freshness(&token(None, 100), Some(&notes(0, 100)), at(60), ahead), Freshness::Due);
        assert_eq!(freshness(&token(None, 100), None, at(99), ahead), Freshness::Fresh);
    }

    #[test]
    fn a_token_that_never_ends_is_no_panic() {
        let forever = Identity::new("u".into(), None, Some(at(0)), UnixTime::from_secs(u64::MAX), Map::new());
        assert_eq!(freshness(&forever, None, at(99), Ahead::Percent(50)), Freshness::Fresh);
        assert_eq!(freshness(&forever, None, at(99), Ahead::Span(Duration::MAX)), Freshness::Fresh);
    }

    #[test]
    fn ahead_of_nothing_is_never_due() {
        assert_eq!(
            freshness(&token(Some(0), 100), None, at(99), Ahead::Span(Duration::ZERO)),
            Freshness::Fresh
        );
    }
}
