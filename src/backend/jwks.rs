//! Keeps the keys of access tokens as their issuer publishes them: a JWK set behind a URL, or in a file.
//! In: the verifier's desk, a pause. Out: new keys for the verifier. Errors: none; a fault keeps the keys that are there, but
//! for a set without any key that can be used, which takes them all back.
//! I/O: HTTP to the issuer, or a file. Source: RFC 7517 §5 (JWK set), RFC 8725 §3.10 (where keys may come from).

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use jsonwebtoken::Algorithm;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::backend::call::{Body, CAP, Caller};
use crate::clock::Clock;
use crate::dial::Dialer;
use crate::meter::Meters;
use crate::outcome::{BackendFault, Loss};
use crate::session::keys::{KeySet, LeftOut, NoSet, read_set};
use crate::session::verifier::{Replaced, Verifier};
use crate::text::with_causes;

/// Between two fetches where nobody misses a key.
pub const REFRESH: Duration = Duration::from_secs(600);

/// Between two looks at a file.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Fewest time from the beginning of a fetch to the next one.
pub const SPACING: Duration = Duration::from_secs(1);

/// Longest time to get connected.
pub const CONNECT: Duration = Duration::from_secs(3);

/// Longest time for a fetch, the connection included.
const FETCH: Duration = Duration::from_secs(4);

/// Longest pause after a fetch that failed.
const AGAIN: Duration = Duration::from_secs(10);

/// Most keys of a set of which the log is told why they are not used.
const MOST_TOLD: usize = 16;

/// Where keys are published, and how often they are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwksSettings {
    /// Where.
    pub place: JwksPlace,
    /// How often.
    pub refresh: Duration,
}

/// Where keys are published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwksPlace {
    /// Behind a URL.
    Url(Url),
    /// In a file of this machine.
    File(PathBuf),
}

impl JwksPlace {
    /// The URL, where it is behind one.
    #[must_use]
    pub const fn url(&self) -> Option<&Url> {
        match self {
            Self::Url(url) => Some(url),
            Self::File(_) => None,
        }
    }
}

/// Why no keys came.
#[derive(Debug, thiserror::Error)]
pub enum KeysFault {
    /// They could not be asked for.
    #[error(transparent)]
    Call(BackendFault),
    /// The file cannot be read.
    #[error("{path} cannot be read")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// What came is more than any key set.
    #[error("the key set is larger than {CAP} bytes")]
    Large,
    /// What came is no JSON.
    #[error("the key set is no JSON")]
    NoJson(#[source] serde_json::Error),
    /// What came holds no keys.
    #[error("the key set cannot be used: {0}")]
    Set(#[from] NoSet),
}

impl KeysFault {
    /// The fault as those see it who wait for keys.
    fn as_backend_fault(&self) -> BackendFault {
        match self {
            Self::Call(fault) => fault.clone(),
            Self::File { .. } | Self::Large | Self::NoJson(_) | Self::Set(_) => {
                BackendFault::Lost(Loss::Unreadable)
            }
        }
    }
}

/// The key set in a file.
///
/// # Errors
/// [`KeysFault`] where it cannot be used.
pub fn read_file(path: &Path, listed: &[Algorithm]) -> Result<KeySet, KeysFault> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(CAP as u64 + 1).read_to_end(&mut bytes))
        .map_err(|source| KeysFault::File { path: path.to_owned(), source })?;
    if bytes.len() > CAP {
        return Err(KeysFault::Large);
    }
    let json: Value = serde_json::from_slice(&bytes).map_err(KeysFault::NoJson)?;
    Ok(read_set(&json, listed)?)
}

/// Fetches keys for the verifier.
#[derive(Debug)]
pub struct KeyKeeper {
    settings: JwksSettings,
    caller: Caller,
    verifier: Arc<Verifier>,
    clock: Arc<dyn Clock>,
    meters: Arc<Meters>,
}

impl KeyKeeper {
    /// A keeper of this verifier's keys.
    #[must_use]
    pub fn new(
        settings: JwksSettings,
        dialer: Dialer,
        verifier: Arc<Verifier>,
        clock: Arc<dyn Clock>,
        meters: Arc<Meters>,
    ) -> Self {
        Self { settings, caller: Caller::new(dialer), verifier, clock, meters }
    }

    /// Fetches the keys now, then whenever they are missed or their time has come, one fetch at a time, until `stop`.
    pub async fn keep(self, stop: CancellationToken) {
        let Some(desk) = self.verifier.desk() else { return };
        let mut told = Told::default();
        let mut pause = SPACING;
        loop {
            desk.begin(self.clock.now());
            let mut spaced = Box::pin(tokio::time::sleep(SPACING));
            let fetched = tokio::select! {
                fetched = self.fetch() => fetched,
                () = stop.cancelled() => return,
            };
            let result = self.take(fetched, &mut told);
            pause = if result.is_ok() { SPACING } else { (pause * 2).min(AGAIN) };
            let rest = if result.is_ok() { self.settings.refresh } else { self.settings.refresh.min(pause) };
            desk.end(result);
            let missed = async {
                spaced.as_mut().await;
                desk.wanted().await;
            };
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = missed => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn fetch(&self) -> Result<KeySet, KeysFault> {
        let listed = self.verifier.algorithms();
        let url = match &self.settings.place {
            JwksPlace::File(path) => return read_file(path, listed),
            JwksPlace::Url(url) => url,
        };
        let answered = tokio::time::timeout(FETCH, self.caller.read(url))
            .await
            .unwrap_or(Err(BackendFault::Lost(Loss::GaveUp)))
            .map_err(KeysFault::Call)?;
        match (answered.status, answered.body) {
            (StatusCode::OK, Body::Json(json)) => Ok(read_set(&json, listed)?),
            (StatusCode::OK, Body::Other) => Err(KeysFault::Set(NoSet::NoList)),
            (status, _) => Err(KeysFault::Call(BackendFault::NoDecision {
                status: status.as_u16(),
                retry_after: answered.retry_after,
            })),
        }
    }

    /// Hands keys on, and tells what is new about them.
    fn take(&self, fetched: Result<KeySet, KeysFault>, told: &mut Told) -> Result<(), BackendFault> {
        match fetched {
            Ok(set) => {
                if told.left_out != set.left_out {
                    for left_out in set.left_out.iter().take(MOST_TOLD) {
                        tracing::info!(key = %left_out, "a published key is not used");
                    }
                    told.left_out = set.left_out;
                }
                let names: Vec<_> = set.keys.iter().map(ToString::to_string).collect();
                let replaced = self.verifier.replace(set.keys);
                match replaced {
                    Replaced::New => {
                        tracing::info!(keys = names.join(", "), "access tokens are verified with new keys");
                    }
                    Replaced::Same if told.fault.is_some() => tracing::info!("the keys can be fetched again"),
                    Replaced::Same => {}
                }
                told.fault = None;
                let outcome = if replaced == Replaced::New { "new" } else { "same" };
                self.meters.keys_fetched(outcome, Some(self.clock.now()));
                Ok(())
            }
            Err(fault) => {
                let text = with_causes(&fault);
                let what = self.keep_or_drop(&fault);
                if told.fault.as_ref() != Some(&text) {
                    tracing::warn!(fault = text, "{what}");
                    told.fault = Some(text);
                }
                let fault = fault.as_backend_fault();
                self.meters.keys_fetched(fault.word(), None);
                Err(fault)
            }
        }
    }

    /// What becomes of the keys that are there, and what the log is told of it. A set that was read and names none of them
    /// has taken them back; that nobody can be told from it is a fault all the same, so whoever misses a key waits.
    fn keep_or_drop(&self, fault: &KeysFault) -> &'static str {
        match fault {
            KeysFault::Set(NoSet::NoKey) => {
                self.verifier.replace(Vec::new());
                "no published key can be used; those that were there count no longer"
            }
            KeysFault::Call(_)
            | KeysFault::File { .. }
            | KeysFault::Large
            | KeysFault::NoJson(_)
            | KeysFault::Set(NoSet::NoList) => "keys could not be fetched; those that are there stay",
        }
    }
}

/// What the log has been told already.
#[derive(Debug, Default)]
struct Told {
    fault: Option<String>,
    left_out: Vec<LeftOut>,
}
