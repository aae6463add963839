//! When a token that still lives should be renewed.
//! In: a verified token, our notes, the moment. Out: [`Freshness`]. Errors: none. I/O: none.

use std::time::Duration;

use crate::clock::UnixTime;
use crate::identity::Identity;
use crate::notes::Notes;
use crate::outcome::{Ahead, Freshness};

/// A token is due once less than `ahead` (at most half of its life) is left and a tenth of its life has passed since it
/// came. Its life is `exp − iat`, or what our notes say, counted from when it came; where neither tells, or nobody knows
/// its end, it is never due. So that sessions which began together are not renewed together, each has its own `ahead`, up to
/// a tenth more or less; whoever reads a token comes to the same.
#[must_use]
pub(super) fn freshness(
    identity: &Identity,
    notes: Option<&Notes>,
    now: UnixTime,
    ahead: Ahead,
) -> Freshness {
    let Some(end) = identity.expires_at() else { return Freshness::Fresh };
    let life = match (identity.issued_at(), notes) {
        (Some(iat), _) => end.since(iat),
        // Where the backend did not say it beside the token, the token itself does.
        (None, Some(notes)) => notes.expires_in.unwrap_or_else(|| end.since(notes.received_at)),
        (None, None) => return Freshness::Fresh,
    };
    let received = notes.map(|notes| notes.received_at);
    let Some(renewed_at) = identity.issued_at().max(received) else { return Freshness::Fresh };
    let window = match ahead {
        Ahead::Span(span) => span.min(life / 2),
        Ahead::Percent(percent) => Duration::from_secs(life.as_secs() / 100 * u64::from(percent.min(50)))
            .saturating_add(Duration::from_secs(life.as_secs() % 100 * u64::from(percent.min(50)) / 100)),
    };
    let left = end.since(now);
    if left > window.saturating_mul(2) {
        return Freshness::Fresh;
    }
    if left < spread(window, identity, end) && now.since(renewed_at) >= tenth(life) {
        Freshness::Due
    } else {
        Freshness::Fresh
    }
}

/// A window a tenth longer or shorter, by what the token is: the same wherever it is read.
fn spread(window: Duration, identity: &Identity, end: UnixTime) -> Duration {
    let tenth = window.as_secs() / 10;
    if tenth == 0 {
        return window;
    }
    // FNV-1a: nobody gains by choosing where in the window a session is renewed, so this needs no key.
    let session = identity.session().map_or("", |id| id.expose());
    let parts = [identity.subject().as_bytes(), session.as_bytes(), &end.as_secs().to_be_bytes()];
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.into_iter().flatten() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    // The upper half is the better mixed one.
    let steps = tenth.saturating_mul(2).saturating_add(1);
    let step = (hash >> 32) % steps;
    Duration::from_secs(window.as_secs() - tenth).saturating_add(Duration::from_secs(step))
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
        for (ahead, window) in [(ahead, 50), (Ahead::Percent(90), 50), (Ahead::Percent(20), 20)] {
            let due = due_from(&token(Some(0), 100), None, ahead).expect("due some time");
            let least = 100 - window - window / 10 + 1;
            assert!((least..=least + window / 5).contains(&due), "{ahead:?}: {due}");
        }
    }

    /// From when on a token is due.
    fn due_from(token: &Identity, notes: Option<&Notes>, ahead: Ahead) -> Option<u64> {
        (0..10_000).find(|secs| freshness(token, notes, at(*secs), ahead) == Freshness::Due)
    }

    #[test]
    fn sessions_that_began_together_come_due_apart_and_each_for_all_who_look_at_once() {
        let ahead = Ahead::Span(Duration::from_secs(300));
        let user = |n: u32| Identity::new(format!("u{n}"), None, Some(at(0)), at(1000), Map::new());
        let due: Vec<u64> = (0..2000).map(|n| due_from(&user(n), None, ahead).expect("due")).collect();
        let again: Vec<u64> = (0..2000).map(|n| due_from(&user(n), None, ahead).expect("due")).collect();
        assert_eq!(due, again);
        assert!(due.iter().all(|secs| (671..=731).contains(secs)), "a tenth of the window more or less");
        let busiest = (671..=731).map(|secs| due.iter().filter(|d| **d == secs).count()).max();
        assert!(busiest.is_some_and(|most| most < 100), "even enough: {busiest:?} of 2000 over 61 seconds");
        let sessions = (0..50).map(|n| {
            let id = crate::token::SessionId::parse(&format!("s{n}"));
            due_from(&Identity::new("u".into(), id, Some(at(0)), at(1000), Map::new()), None, ahead)
        });
        assert!(sessions.collect::<std::collections::BTreeSet<_>>().len() > 20, "those of one user, too");
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
        let unsaid = Notes { expires_in: None, ..notes(20, 0) };
        let due = due_from(&token(None, 100), Some(&unsaid), ahead).expect("due some time");
        assert!((57..=65).contains(&due), "half of what is left since it came: {due}");
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
