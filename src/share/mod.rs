//! What replicas share about renewals: who presents a token, what came of it, and which sessions are over.
//! In: keys, owners, sealed records. Out: what stands. Errors: [`Away`]. I/O: the store behind the trait.
//!
//! A *claim* says that one flight, its owner, presents what a key names. It has two phases: `claimed`, and `sent`, which
//! is written before the first byte goes to the backend. A claim ends with its lease, so the phase tells the next owner
//! what an owner that died had done: after `claimed` nothing was presented; after `sent` the outcome is unknown, and the
//! *doubt* that was written with the phase stands in place of a result. A claim is extended and released by its owner
//! only, and released in one step with the storing of the *record*.

mod link;
mod redis;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

pub use crate::share::link::{Kind as ServerKind, LinkError, Servers};
pub use crate::share::redis::RedisShare;

use crate::clock::UnixTime;
use crate::outcome::SessionKey;

/// The store gave no usable answer in time; what was asked of it may have been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the replicas' share gives no answer")]
pub struct Away;

/// An operation under way.
pub type Op<'a, T> = Pin<Box<dyn Future<Output = Result<T, Away>> + Send + 'a>>;

/// Who holds a claim: one flight of one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(u128);

impl Owner {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        Self(fastrand::u128(1..))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What a record says, readable without opening it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Tokens were issued.
    Issued,
    /// The backend refused.
    Refused,
    /// The session was signed out: nothing replaces this.
    SignedOut,
    /// It was presented, and what came of it is not known.
    Doubt,
}

impl Kind {
    const fn letter(self) -> char {
        match self {
            Self::Issued => 'i',
            Self::Refused => 'r',
            Self::SignedOut => 't',
            Self::Doubt => 'd',
        }
    }
}

/// What came of presenting what a key names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it says.
    pub kind: Kind,
    /// Tells it from every other record.
    version: u64,
    /// The rest, sealed.
    pub sealed: String,
}

/// Bytes before the sealed part: the letter and the version.
const HEAD: usize = 17;

impl Record {
    /// A new record.
    #[must_use]
    pub fn new(kind: Kind, sealed: String) -> Self {
        Self { kind, version: fastrand::u64(1..), sealed }
    }

    /// Letter and version: what a store compares.
    #[must_use]
    pub fn head(&self) -> String {
        format!("{}{:016x}", self.kind.letter(), self.version)
    }

    /// The record as a store keeps it.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}{}", self.head(), self.sealed)
    }

    /// The record in `text`, or `None` where that is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (head, sealed) = text.split_at_checked(HEAD)?;
        let (letter, version) = head.split_at_checked(1)?;
        let kinds = [Kind::Issued, Kind::Refused, Kind::SignedOut, Kind::Doubt];
        let kind = kinds.into_iter().find(|kind| letter.starts_with(kind.letter()))?;
        Some(Self { kind, version: u64::from_str_radix(version, 16).ok()?, sealed: sealed.to_owned() })
    }
}

/// What asking for a claim leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is the asker's. The record that stands is a doubt, or the one that was called dead.
    Granted(Option<Record>),
    /// Another flight's, somewhere.
    Held,
    /// Nothing to present: this came of it.
    Answered(Record),
}

/// Whether something is still the asker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stands {
    /// It is.
    Yes,
    /// It is not any more.
    No,
}

/// What became of a record that was to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It stands.
    Yes,
    /// Another one stands, which it does not replace.
    Other(Record),
}

/// What stands under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The record.
    pub record: Option<Record>,
    /// Whether a flight presents it now.
    pub claimed: bool,
}

/// What a store may have lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gap {
    /// What it was told last: it was restarted, or a replica of it took over.
    Recent,
    /// Everything, or a part of it: it came back empty.
    All,
}

/// What replicas tell each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A flight that somebody waits for has landed.
    Landed(SessionKey),
    /// A session was signed out: these names of it are over until then.
    SignedOut(Vec<SessionKey>, UnixTime),
    /// A pair that had been signed out or refused was handed out anew: these names of it are good again.
    SignedIn(Vec<SessionKey>),
    /// The backend refused what the first of these names, a pair's key, stands for; the others are its session's.
    Refused(Vec<SessionKey>),
    /// A renewal ended the access token of this name: what its backend said of it before counts no more.
    Spent(SessionKey),
}

/// How far a replica has read what the others told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    landed: String,
    signed_out: String,
    /// Whether anything was read yet: the first answer is not waited for.
    begun: bool,
    /// Whether all that had been told was read.
    caught_up: bool,
}

impl Default for Position {
    fn default() -> Self {
        let start = || "0-0".to_owned();
        Self { landed: start(), signed_out: start(), begun: false, caught_up: false }
    }
}

impl Position {
    /// Whether all was read that had been told by the last answer.
    #[must_use]
    pub const fn is_caught_up(&self) -> bool {
        self.caught_up
    }
}

#[cfg(test)]
impl Position {
    /// How many events were read, for a store that counts them.
    pub(crate) fn count(&self) -> usize {
        self.landed.parse().unwrap_or(0)
    }

    pub(crate) fn counted(read: usize) -> Self {
        Self { landed: read.to_string(), ..Self::default() }
    }
}

/// A store that all replicas use. Each operation is one step for all of them.
pub trait Share: fmt::Debug + Send + Sync {
    /// Claims what `key` names for `owner`. A record other than a doubt is the answer, unless it is `dead`.
    fn claim<'a>(&'a self, key: SessionKey, owner: Owner, dead: Option<&'a Record>) -> Op<'a, Claim>;

    /// Writes that the presentation begins now, with the doubt that stands until a record replaces it, for at most `keep`.
    /// `No` where the claim ended, or a record stands by now that is not the `dead` one.
    fn sent<'a>(
        &'a self,
        key: SessionKey,
        owner: Owner,
        doubt_and_dead: (Option<&'a Record>, Option<&'a Record>),
        keep: Duration,
    ) -> Op<'a, Stands>;

    /// Extends the claim under which something was sent; where it is gone, or another's under which nothing was, it is
    /// taken back, and the doubt with it. `No`: another has sent.
    fn extend<'a>(
        &'a self,
        key: SessionKey,
        owner: Owner,
        doubt: Option<&'a Record>,
        keep: Duration,
    ) -> Op<'a, Stands>;

    /// Stores what came of it and ends the claim, in one step. Tokens replace everything but a sign-out and, once the claim
    /// is another's, other tokens; a refusal or a doubt replaces a doubt only, and what was called `dead`.
    fn store<'a>(
        &'a self,
        key: SessionKey,
        owner: Owner,
        record: &'a Record,
        rest: Keeping<'a>,
    ) -> Op<'a, Stored>;

    /// Ends a claim without a record; a doubt that stands becomes `back_to`.
    fn release<'a>(
        &'a self,
        key: SessionKey,
        owner: Owner,
        back_to: Option<&'a Record>,
        keep: Duration,
    ) -> Op<'a, ()>;

    /// What stands under `key`.
    fn look(&self, key: SessionKey) -> Op<'_, Standing>;

    /// Puts a sign-out in the place of whatever stands under `key`, which comes back.
    fn bury<'a>(&'a self, key: SessionKey, record: &'a Record, keep: Duration) -> Op<'a, Option<Record>>;

    /// Notes that a client came back with the tokens that present `next`: what led to them is kept only `keep` longer.
    fn confirm(&self, next: SessionKey, keep: Duration) -> Op<'_, ()>;

    /// Tells the other replicas that a session was signed out.
    fn announce<'a>(&'a self, names: &'a [SessionKey], until: UnixTime) -> Op<'a, ()>;

    /// Tells the other replicas.
    fn tell<'a>(&'a self, event: &'a Event) -> Op<'a, ()>;

    /// Takes a sign-out or a refusal away from `key`, and tells the other replicas that these names of it are good again.
    fn revive<'a>(&'a self, key: SessionKey, names: &'a [SessionKey]) -> Op<'a, ()>;

    /// Waits until the store may have lost something that it was told.
    fn loses(&self) -> Pin<Box<dyn Future<Output = Gap> + Send + '_>>;

    /// What replicas told since `position`; waits a while where that is nothing.
    fn listen<'a>(&'a self, position: &'a Position) -> Op<'a, (Vec<Event>, Position)>;
}

/// How a record is kept.
#[derive(Clone, Copy, Debug)]
pub struct Keeping<'a> {
    /// How long.
    pub keep: Duration,
    /// The earlier record that it replaces in any case.
    pub dead: Option<&'a Record>,
    /// The key of the pair that presents the issued tokens.
    pub next: Option<SessionKey>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_nothing_else_does() {
        let record = Record::new(Kind::Issued, "sealed-\u{e9}".to_owned());
        assert_eq!(Record::parse(&record.text()), Some(record.clone()));
        assert!(record.text().starts_with(&record.head()));
        for bad in
            ["", "i", "i0123456789abcde", "x0123456789abcdef", "i0123456789abcdeg", "\u{e9}0123456789abcdef"]
        {
            assert_eq!(Record::parse(bad), None, "{bad:?}");
        }
        assert_ne!(
            Record::new(Kind::Doubt, String::new()).head(),
            Record::new(Kind::Doubt, String::new()).head()
        );
    }
}
