//! Results that outlive the process: written sealed when it drains, read when it starts.
//! In: the ledger. Out: a file. Errors: [`PersistError`]; a file that does not open is left where it is. I/O: files.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::clock::UnixTime;
use crate::renew::Ledger;
use crate::renew::memory::Lane;
use crate::renew::record::{WrittenSlot, key, put_down, take_up, text};
use crate::session::Sessions;

const FILE: &str = "renewals.sealed";
const BOUND_TO: &[u8] = b"doorkeep renewals v1";

/// Results could not be written down or read back.
#[derive(Debug, thiserror::Error)]
pub enum PersistError {
    /// The file cannot be used.
    #[error("{path}: cannot be {act}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        act: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The file was sealed with another secret, or is damaged.
    #[error(
        "{path}: does not open with the configured secret; put the secret that it was sealed with beside the new one, or delete the file (sessions renewed just before the restart then have to sign in again)"
    )]
    Sealed {
        /// The file.
        path: PathBuf,
    },
    /// Nothing to seal with.
    #[error("the results of renewals could not be sealed")]
    Seal,
}

#[derive(Serialize, Deserialize)]
struct Written {
    slots: Vec<(String, WrittenSlot)>,
    tombstones: Vec<(String, UnixTime, Lane)>,
}

/// Sees that results can be written down later: makes the folder, for this user alone, and writes to it.
pub(super) fn prepare(dir: &Path) -> Result<(), PersistError> {
    let probe = dir.join("renewals.probe");
    let fault = |source| PersistError::Io { path: dir.to_owned(), act: "used to keep renewals in", source };
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(fault)?;
    fs::write(&probe, b"").map_err(fault)?;
    fs::remove_file(&probe).map_err(fault)
}

/// Writes everything that is remembered, readable by this user only, in one step.
pub(super) fn write(dir: &Path, sessions: &Sessions, ledger: &Ledger) -> Result<(), PersistError> {
    let written = Written {
        slots: ledger.memory.slots().map(|(key, slot)| (text(*key), put_down(slot))).collect(),
        tombstones: ledger.tombstones.iter().map(|(key, until, lane)| (text(key), until, lane)).collect(),
    };
    let plain = serde_json::to_vec(&written).map_err(|_not_json| PersistError::Seal)?;
    let sealed = sessions.carrier.sealer().seal(&plain, BOUND_TO).ok_or(PersistError::Seal)?;
    let path = dir.join(FILE);
    let fault = |source| PersistError::Io { path: path.clone(), act: "written", source };
    let draft = dir.join("renewals.sealed.new");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&draft).map_err(fault)?;
    file.write_all(sealed.as_bytes()).and_then(|()| file.sync_all()).map_err(fault)?;
    fs::rename(&draft, &path).map_err(fault)
}

/// Takes over what was written, and deletes the file: its tokens are spent by the time it could be read again.
pub(super) fn read(
    dir: &Path,
    sessions: &Sessions,
    ledger: &mut Ledger,
    now: UnixTime,
) -> Result<(), PersistError> {
    let path = dir.join(FILE);
    let sealed = match fs::read_to_string(&path) {
        Ok(sealed) => sealed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(PersistError::Io { path, act: "read", source }),
    };
    let plain = sessions.carrier.sealer().open(&sealed, BOUND_TO);
    let written: Option<Written> = plain.and_then(|plain| serde_json::from_slice(&plain).ok());
    let Some(written) = written else { return Err(PersistError::Sealed { path }) };
    for (name, slot) in written.slots {
        if let Some(presented) = key(&name)
            && ledger.memory.slot(presented).is_none()
            && let Some(slot) = take_up(presented, slot)
        {
            ledger.memory.put(presented, slot, now);
        }
    }
    ledger.memory.expire(now);
    for (name, until, lane) in written.tombstones {
        if let Some(name) = key(&name) {
            ledger.tombstones.bury(name, until, (lane, now));
        }
    }
    fs::remove_file(&path).map_err(|source| PersistError::Io { path, act: "deleted", source })
}
