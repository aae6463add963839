//! The sessions the directory remembers, and what one presented refresh token does to one of them.
//! In: session ids, token ids, moments. Out: [`Turn`], [`Ending`]. Errors: none. I/O: none.

use std::collections::HashMap;

use serde::Serialize;

use crate::clock::UnixTime;
use crate::demo::people::Person;

/// Whether a session still stands, in the directory's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Active,
    Expired,
}

/// One sign-in and what followed from it.
#[derive(Clone, Debug)]
pub(super) struct Session {
    /// Counted up from 1 by [`Sessions::open`]: names the session where its id must not be shown.
    pub(super) number: u64,
    pub(super) person: &'static Person,
    pub(super) purpose: String,
    pub(super) app: String,
    pub(super) status: Status,
    pub(super) access_expires: UnixTime,
    pub(super) refresh_expires: UnixTime,
    /// The one refresh token that has not been spent.
    pub(super) refresh_jti: String,
    pub(super) renewals: u64,
}

impl Session {
    /// Nothing can be done with it any more.
    fn over(&self, now: UnixTime) -> bool {
        match self.status {
            Status::Expired => true,
            Status::Active => self.refresh_expires <= now,
        }
    }
}

/// What a refresh token that verified is worth.
pub(super) enum Turn<'a> {
    /// It is the unspent one: the session may be renewed.
    Current(&'a mut Session),
    /// It had been spent: the session has just been ended.
    Reused { person: &'static Person, number: u64 },
    /// The session had ended before, or is not known.
    Over,
}

/// What ending a session came to.
pub(super) enum Ending {
    Ended(Session),
    AlreadyOver,
    Unknown,
}

/// All sessions by id, at most `kept` of them.
pub(super) struct Sessions {
    by_id: HashMap<String, Session>,
    kept: usize,
    opened: u64,
}

impl Sessions {
    pub(super) fn keeping(kept: usize) -> Self {
        Self { by_id: HashMap::new(), kept, opened: 0 }
    }

    /// Adds a session and returns its number. Where the memory is full, the oldest session that is over makes room;
    /// where none is, the oldest of all.
    pub(super) fn open(&mut self, id: String, mut session: Session, now: UnixTime) -> u64 {
        while self.by_id.len() >= self.kept.max(1) {
            let oldest = self.by_id.iter().min_by_key(|(_, held)| (!held.over(now), held.number));
            let Some(id) = oldest.map(|(id, _)| id.clone()) else { break };
            self.by_id.remove(&id);
        }
        self.opened = self.opened.saturating_add(1);
        session.number = self.opened;
        self.by_id.insert(id, session);
        self.opened
    }

    /// The session, if it still stands.
    pub(super) fn active(&self, id: &str) -> Option<&Session> {
        self.by_id.get(id).filter(|session| session.status == Status::Active)
    }

    /// The session, whatever became of it.
    pub(super) fn find(&self, id: &str) -> Option<&Session> {
        self.by_id.get(id)
    }

    /// Judges the refresh token `jti` of session `id`, and ends the session if it had been spent.
    pub(super) fn present(&mut self, id: &str, jti: &str) -> Turn<'_> {
        match self.by_id.get_mut(id) {
            Some(session) if session.status == Status::Expired => Turn::Over,
            Some(session) if session.refresh_jti == jti => Turn::Current(session),
            Some(session) => {
                session.status = Status::Expired;
                Turn::Reused { person: session.person, number: session.number }
            }
            None => Turn::Over,
        }
    }

    /// Ends one session.
    pub(super) fn end(&mut self, id: &str, now: UnixTime) -> Ending {
        match self.by_id.get_mut(id) {
            Some(session) if session.over(now) => {
                session.status = Status::Expired;
                Ending::AlreadyOver
            }
            Some(session) => {
                session.status = Status::Expired;
                Ending::Ended(session.clone())
            }
            None => Ending::Unknown,
        }
    }

    /// Ends every session of one person that still stands, and returns their numbers in order.
    pub(super) fn end_all(&mut self, person: &Person, now: UnixTime) -> Vec<u64> {
        let mut ended = Vec::new();
        for session in self.by_id.values_mut().filter(|session| session.person == person) {
            if !session.over(now) {
                ended.push(session.number);
            }
            session.status = Status::Expired;
        }
        ended.sort_unstable();
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::people::PEOPLE;

    fn session(refresh_expires: u64) -> Session {
        Session {
            number: 0,
            person: &PEOPLE[0],
            purpose: "login".to_owned(),
            app: "chrome".to_owned(),
            status: Status::Active,
            access_expires: UnixTime::from_secs(10),
            refresh_expires: UnixTime::from_secs(refresh_expires),
            refresh_jti: "first".to_owned(),
            renewals: 0,
        }
    }

    #[test]
    fn a_full_memory_forgets_what_is_over_before_what_stands() {
        let now = UnixTime::from_secs(100);
        let mut sessions = Sessions::keeping(2);
        sessions.open("standing".to_owned(), session(500), now);
        sessions.open("over".to_owned(), session(50), now);
        sessions.open("new".to_owned(), session(500), now);
        assert!(sessions.find("standing").is_some());
        assert!(sessions.find("over").is_none());
        sessions.open("newer".to_owned(), session(500), now);
        assert!(sessions.find("standing").is_none(), "the oldest goes where nothing is over");
        assert_eq!(sessions.by_id.len(), 2);
    }

    #[test]
    fn a_spent_token_ends_the_session_and_then_counts_no_more() {
        let mut sessions = Sessions::keeping(2);
        sessions.open("a".to_owned(), session(500), UnixTime::from_secs(0));
        assert!(matches!(sessions.present("a", "first"), Turn::Current(_)));
        assert!(matches!(sessions.present("a", "older"), Turn::Reused { number: 1, .. }));
        assert!(matches!(sessions.present("a", "first"), Turn::Over));
        assert!(matches!(sessions.present("a", "older"), Turn::Over));
    }
}
