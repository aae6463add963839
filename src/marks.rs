//! The names under which a presented session may have been signed out, kept beside its access token, and what tells without a
//! lock that nothing was learnt of them since they were looked up.
//! In: names. Out: [`Marks`], and the stamps. Errors: none. I/O: none.
//!
//! Every name has a stamp, which goes up with each thing that is learnt of it. Whoever finds that nothing is known of a session
//! notes what its stamps came to; while they come to the same, nothing is known of it still. Many names share a stamp: then a
//! look-up is made once too often, and never once too seldom.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;

use crate::outcome::SessionKey;
use crate::token::{AccessToken, RefreshToken, SessionId};

/// How many stamps there are: so many that what is learnt of one session seldom concerns another.
const STAMPS: usize = 4096;

/// Bytes that may be kept beside an access token, beyond as many as it has itself.
const BESIDE: usize = 256;

/// What a client brought: all that its marks are made of, under the settings with this number.
#[derive(PartialEq, Eq)]
pub struct Brought {
    /// The access token.
    pub access: Option<AccessToken>,
    /// The refresh token.
    pub refresh: Option<RefreshToken>,
    /// The session id.
    pub session: Option<SessionId>,
    /// Our notes, sealed.
    pub notes: Option<String>,
    /// The host that they are sealed for.
    pub host: String,
    /// The settings.
    pub settings: u64,
}

/// The names of a presented session.
#[derive(Debug)]
pub struct Marks {
    names: Vec<SessionKey>,
    /// `None`: these are for one request alone.
    brought: Option<Brought>,
    clear: ArcSwapOption<Clear>,
}

/// What the stamps came to when nothing was known of the session: those of its names, and of the families that these led to.
#[derive(Debug)]
struct Clear {
    families: Vec<SessionKey>,
    stamp: Stamp,
}

impl fmt::Debug for Brought {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Brought").finish_non_exhaustive()
    }
}

impl Brought {
    /// Whether it may be kept: the memory of a token has room for as much beside it, and some more.
    #[must_use]
    pub fn is_short(&self) -> bool {
        let access = self.access.as_ref().map_or(0, |token| token.expose().len());
        let refresh = self.refresh.as_ref().map_or(0, |token| token.expose().len());
        let session = self.session.as_ref().map_or(0, |id| id.expose().len());
        let notes = self.notes.as_ref().map_or(0, String::len);
        refresh + session + notes + self.host.len() <= access + BESIDE
    }
}

impl Marks {
    /// These names.
    #[must_use]
    pub fn new(names: Vec<SessionKey>, brought: Option<Brought>) -> Self {
        Self { names, brought, clear: ArcSwapOption::empty() }
    }

    /// The names.
    #[must_use]
    pub fn names(&self) -> &[SessionKey] {
        &self.names
    }

    /// What they are made of.
    #[must_use]
    pub const fn brought(&self) -> Option<&Brought> {
        self.brought.as_ref()
    }

    /// Whether it was seen that nothing is known of these names, and nothing was learnt since.
    pub(crate) fn are_clear(&self, stamps: &Stamps) -> bool {
        let clear = self.clear.load();
        clear
            .as_ref()
            .is_some_and(|clear| stamps.of(self.names.iter().chain(&clear.families)) == Some(clear.stamp))
    }

    /// Notes that nothing is known of these names, nor of the families that they lead to. Whoever says so holds the lock
    /// under which everything is learnt.
    pub(crate) fn cleared(&self, families: Vec<SessionKey>, stamps: &Stamps) {
        stamps.begin();
        if let Some(stamp) = stamps.of(self.names.iter().chain(&families)) {
            self.clear.store(Some(Arc::new(Clear { families, stamp })));
        }
    }
}

/// What the stamps of some names come to, and whose they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp(u64, u64);

/// The stamps. There are none before anybody asks for one.
#[derive(Debug, Default)]
pub(crate) struct Stamps(OnceLock<Table>);

#[derive(Debug)]
struct Table {
    number: u64,
    stamps: Vec<AtomicU64>,
}

/// How many tables there have been.
static TABLES: AtomicU64 = AtomicU64::new(0);

impl Stamps {
    fn begin(&self) {
        self.0.get_or_init(|| Table {
            number: TABLES.fetch_add(1, Ordering::Relaxed),
            stamps: (0..STAMPS).map(|_| AtomicU64::new(0)).collect(),
        });
    }

    /// Something was learnt of this name.
    pub(crate) fn touch(&self, name: &SessionKey) {
        if let Some(stamp) = self.0.get().and_then(|table| table.of(name)) {
            stamp.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// What the stamps of these names come to: each goes up and never down, so the same sum is the same stamps.
    fn of<'a>(&self, names: impl Iterator<Item = &'a SessionKey>) -> Option<Stamp> {
        let table = self.0.get()?;
        let stamps = names.filter_map(|name| table.of(name)).map(|stamp| stamp.load(Ordering::SeqCst));
        Some(Stamp(table.number, stamps.fold(0, u64::wrapping_add)))
    }
}

impl Table {
    /// Names are digests, or random: any two bytes of them spread well.
    fn of(&self, name: &SessionKey) -> Option<&AtomicU64> {
        let [one, other, ..] = name.0;
        self.stamps.get(usize::from(u16::from_be_bytes([one, other])) % STAMPS)
    }
}
