//! Renewal among replicas: what one of them presents and gets, all of them know.
//! In: settings. Out: the share as flights, sign-outs and confirmations use it. Errors: none. I/O: the share.

mod claimed;
mod follow;
mod letters;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, watch};

use crate::outcome::SessionKey;
use crate::renew::shared::letters::{Letter, SignOut};
use crate::share::Share;

/// What is done while the share gives no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareAway {
    /// Nothing is presented to a backend that rotates: who can be served without a renewal is, others wait.
    Wait,
    /// This replica renews on its own: right where each session always comes to the same replica.
    Alone,
}

/// The share, and what is done without it.
#[derive(Clone, Debug)]
pub struct ShareSettings {
    /// What all replicas use.
    pub store: Arc<dyn Share>,
    /// What is done while it gives no answer.
    pub away: ShareAway,
}

/// Between questions about a flight of another replica, at first and at most.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));

/// Words that wait to be told.
const WORDS: usize = 4096;

/// What is told beside a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Word {
    /// A client came back with the pair of this key.
    Confirmed(SessionKey),
    /// A renewal ended the opaque access token of this name.
    Spent(SessionKey),
    /// The backend refused the pair of the first key; the second is its family.
    Refused(SessionKey, SessionKey),
}

/// The share, as a renewer uses it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Arc<dyn Share>,
    away: ShareAway,
    landed: broadcast::Sender<SessionKey>,
    words: mpsc::Sender<Word>,
    untold_words: Mutex<Option<mpsc::Receiver<Word>>>,
    unposted: Arc<Mutex<Vec<Letter>>>,
    untold: Mutex<Vec<SignOut>>,
    /// Whether all sign-outs were heard that were told before this replica began to listen.
    caught_up: watch::Sender<bool>,
}

impl Shared {
    pub(super) fn new(settings: ShareSettings) -> Self {
        let (words, receiver) = mpsc::channel(WORDS);
        Self {
            store: settings.store,
            away: settings.away,
            landed: broadcast::Sender::new(1024),
            words,
            untold_words: Mutex::new(Some(receiver)),
            unposted: Arc::new(Mutex::new(Vec::new())),
            untold: Mutex::new(Vec::new()),
            caught_up: watch::Sender::new(false),
        }
    }

    /// Tells the other replicas beside the request. Over the bound nothing is lost: records stay until their own end, and what
    /// was said of an opaque token counts for seconds.
    pub(super) fn tell(&self, word: Word) {
        if self.words.try_send(word).is_err() {
            tracing::debug!("a word is not told to the other replicas");
        }
    }
}
