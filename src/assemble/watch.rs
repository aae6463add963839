//! Whether the files that settings were read from have changed since.
//! In: files. Out: whether they have, and rest. Errors: none; a file that is gone is a change. I/O: files' metadata.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::Settings;

/// Between two looks. What changes is taken once it looks the same twice.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What tells whether a file is the one that was read: its place on the disk, its length, and when it was written.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// The files of settings, as they were when these were read.
#[derive(Debug)]
pub(super) struct Watched {
    wanted: Wanted,
    files: Vec<PathBuf>,
    /// Nothing before the first look.
    read: BTreeMap<PathBuf, Stamp>,
    last: Option<BTreeMap<PathBuf, Stamp>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Yes,
    No,
}

impl Watched {
    pub(super) fn of(settings: &Settings) -> Self {
        let wanted = if settings.watch { Wanted::Yes } else { Wanted::No };
        Self { wanted, files: settings.files.clone(), read: BTreeMap::new(), last: None }
    }

    /// The files are read now, the settings' own at `path` among them.
    pub(super) fn look(&mut self, path: &Path) {
        self.read = self.stamps(path);
        self.last = None;
    }

    /// These settings were read after the last look of those before: what was seen then counts.
    pub(super) fn goes_on_from(&mut self, before: &Self) {
        self.read = before.read.clone();
        for file in &self.files {
            self.read.entry(file.clone()).or_insert_with(|| stamp(file));
        }
        let named = |file: &PathBuf| self.files.contains(file) || !before.files.contains(file);
        self.read.retain(|file, _| named(file));
    }

    /// Whether they have changed since they were read, and not between the last look and this one.
    pub(super) fn has_changed(&mut self, path: &Path) -> bool {
        if self.wanted == Wanted::No {
            return false;
        }
        let now = self.stamps(path);
        if self.read.is_empty() {
            self.read = now;
            return false;
        }
        let rests = self.last.as_ref() == Some(&now);
        let changed = now != self.read;
        self.last = Some(now);
        changed && rests
    }

    fn stamps(&self, path: &Path) -> BTreeMap<PathBuf, Stamp> {
        let files = self.files.iter().map(PathBuf::as_path).chain([path]);
        files.map(|file| (file.to_owned(), stamp(file))).collect()
    }
}

fn stamp(path: &Path) -> Stamp {
    let about = fs::metadata(path).ok()?;
    Some((about.dev(), about.ino(), about.len(), about.mtime(), about.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(files: &[&Path]) -> Watched {
        let files = files.iter().map(|file| (*file).to_owned()).collect();
        Watched { wanted: Wanted::Yes, files, read: BTreeMap::new(), last: None }
    }

    #[test]
    fn a_change_is_taken_once_it_rests_and_once_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let (own, key) = (folder.path().join("own"), folder.path().join("key"));
        fs::write(&own, "1").expect("written");
        fs::write(&key, "1").expect("written");
        let mut watched = watched(&[&key]);
        assert!(!watched.has_changed(&own) && !watched.has_changed(&own));
        fs::write(&key, "22").expect("written");
        assert!(!watched.has_changed(&own), "it may be written still");
        fs::write(&key, "333").expect("written");
        assert!(!watched.has_changed(&own));
        assert!(watched.has_changed(&own));
        watched.look(&own);
        assert!(!watched.has_changed(&own) && !watched.has_changed(&own), "it was read, whatever came of it");
        fs::rename(&own, folder.path().join("gone")).expect("renamed");
        assert!(!watched.has_changed(&own) && watched.has_changed(&own));
    }

    #[test]
    fn other_settings_name_other_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let [own, one, two] = ["own", "one", "two"].map(|name| folder.path().join(name));
        for file in [&own, &one, &two] {
            fs::write(file, "1").expect("written");
        }
        let mut before = watched(&[&one]);
        before.look(&own);
        let mut after = watched(&[&two]);
        after.goes_on_from(&before);
        fs::write(&one, "22").expect("written");
        assert!(!after.has_changed(&own) && !after.has_changed(&own), "it is no file of theirs any more");
        fs::write(&own, "22").expect("written");
        assert!(!after.has_changed(&own) && after.has_changed(&own));
        let mut off = Watched { wanted: Wanted::No, ..after };
        assert!(!off.has_changed(&own) && !off.has_changed(&own));
    }
}
