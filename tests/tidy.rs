//! Holds the direction of imports that the crate's documentation promises, and a few promises about the text itself.

#![allow(clippy::expect_used, reason = "a test may fail where it stands")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const WORDS: &[&str] = &[
    "clock",
    "secret",
    "token",
    "identity",
    "outcome",
    "notes",
    "need",
    "asker",
    "verdict",
    "body",
    "meter",
    "text",
    "random",
    "network",
    "certificate",
    "lines",
    "marks",
    "fields",
    "gather",
];

/// Which rooms each room may see beside the words and itself.
const MAY_SEE: &[(&str, &[&str])] = &[
    ("dial", &[]),
    ("share", &["dial"]),
    ("peer", &[]),
    ("route", &[]),
    ("session", &[]),
    ("backend", &["dial", "session"]),
    ("admit", &[]),
    ("check", &["session", "backend", "admit"]),
    ("renew", &["session", "backend", "check", "share", "admit"]),
    ("forward", &["dial"]),
    ("reply", &[]),
    ("sign_in", &["session"]),
    ("server", &[]),
    ("admin", &["server"]),
    ("access_log", &["session"]),
    (
        "gateway",
        &[
            "admin",
            "check",
            "route",
            "peer",
            "session",
            "renew",
            "forward",
            "reply",
            "server",
            "sign_in",
            "access_log",
        ],
    ),
    (
        "config",
        &[
            "admit", "backend", "check", "dial", "forward", "peer", "renew", "reply", "route", "server",
            "session", "share", "sign_in",
        ],
    ),
    ("log", &["config"]),
    (
        "assemble",
        &[
            "admin", "admit", "backend", "check", "config", "dial", "forward", "gateway", "renew", "route",
            "server", "session", "share", "sign_in",
        ],
    ),
    ("demo", &["assemble", "backend", "config", "dial", "renew", "server"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join("src"), &mut found);
    found.sort();
    found
}

/// The room that a file belongs to: its first folder or its own name below `src`.
fn room(path: &Path) -> String {
    let below = path.strip_prefix(root().join("src")).expect("below src");
    let first = below.components().next().expect("a name").as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// A file without its comments, and without its tests: they may look wherever they like.
fn code(path: &Path) -> String {
    let name = path.file_name().expect("a name").to_string_lossy().into_owned();
    if name == "tests.rs" || name == "hostile.rs" {
        return String::new();
    }
    let text = fs::read_to_string(path).expect("readable");
    let before_tests = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = before_tests.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The rooms that a file's `crate::` paths name, those in braces too.
fn seen(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for (_, rest) in
        code.match_indices("crate::").filter_map(|(at, found)| code.split_at_checked(at + found.len()))
    {
        let names: Vec<&str> = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or_default().split(',').collect(),
            None => vec![rest],
        };
        for name in names {
            let letters = name.trim().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_');
            let name: String = letters.collect();
            if name.chars().next().is_some_and(|c| c.is_ascii_lowercase()) {
                rooms.insert(name);
            }
        }
    }
    rooms
}

#[test]
fn imports_go_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = MAY_SEE.iter().copied().collect();
    let mut faults = Vec::new();
    for path in sources() {
        let room = room(&path);
        if matches!(room.as_str(), "lib" | "main") {
            continue;
        }
        for other in seen(&code(&path)) {
            let word = WORDS.contains(&other.as_str());
            let own = other == room;
            let listed = allowed.get(room.as_str()).is_some_and(|rooms| rooms.contains(&other.as_str()));
            if !word && !own && !listed {
                faults.push(format!("{}: {room} may not see {other}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_room_stands_in_the_table() {
    let rooms = WORDS.iter().copied().chain(MAY_SEE.iter().map(|(room, _)| *room)).chain(["lib", "main"]);
    let known: BTreeSet<&str> = rooms.collect();
    for path in sources() {
        assert!(known.contains(room(&path).as_str()), "{} is in no row of the table", path.display());
    }
}

#[test]
fn the_check_sees_what_it_should() {
    assert_eq!(seen("use crate::{route, config::Settings};"), ["config", "route"].map(String::from).into());
    assert_eq!(seen("fn f() -> crate::gateway::Gateway"), ["gateway"].map(String::from).into());
    assert!(seen("pub(crate) fn f()").is_empty());
}

#[test]
fn each_file_says_what_it_does() {
    for path in sources() {
        let text = fs::read_to_string(&path).expect("readable");
        assert!(text.starts_with("//! "), "{} has no head", path.display());
    }
}

#[test]
fn every_direct_dependency_says_what_it_saves() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("readable");
    let mut in_dependencies = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_dependencies = line.ends_with("dependencies]");
        } else if in_dependencies && line.contains(" = ") {
            assert!(line.contains(" # "), "no reason: {line}");
        }
    }
}

/// Every key of the settings stands in the README's table, and every key of the table is one.
#[test]
fn the_table_of_settings_is_true() {
    let readme = fs::read_to_string(root().join("README.md")).expect("readable");
    let table =
        readme.split("## Settings").nth(1).expect("the section").split("\n## ").next().expect("its text");
    let cells = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let told: BTreeSet<String> = cells.map(str::to_owned).collect();
    let known = doorkeep::config::Settings::keys();
    // A table's own name is no setting where its keys are.
    let is_table = |key: &String| {
        known.iter().any(|other| other.starts_with(&format!("{key}.")))
            || known.iter().any(|other| other.starts_with(&format!("{key}[]")))
    };
    let settings: BTreeSet<String> = known.iter().filter(|key| !is_table(key)).cloned().collect();
    let missing: Vec<_> = settings.difference(&told).collect();
    let invented: Vec<_> = told.difference(&settings).collect();
    assert!(missing.is_empty(), "not in the README: {missing:?}");
    assert!(invented.is_empty(), "in the README, but no settings: {invented:?}");
}

/// Every figure about renewals, turns and replicas is explained, and no other.
#[test]
fn the_page_of_figures_is_true() {
    let page = fs::read_to_string(root().join("deploy/metrics.md")).expect("readable");
    let meters = fs::read_to_string(root().join("src/meter.rs")).expect("readable");
    let names = meters
        .split("register(")
        .skip(1)
        .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next());
    let counted: BTreeSet<&str> = names.collect();
    let cells = page.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let bare = |name: &str| {
        name.trim_matches('`').split('{').next().unwrap_or_default().trim_end_matches("_total").to_owned()
    };
    let told: BTreeSet<String> = cells.flat_map(|cell| cell.split(", `").map(bare)).collect();
    let mine = ["renewal", "introspection", "backend_", "share_"];
    let missing: Vec<_> = counted
        .iter()
        .filter(|name| mine.iter().any(|begin| name.starts_with(begin)) && !told.contains(**name))
        .collect();
    let invented: Vec<_> = told.iter().filter(|name| !counted.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "not in deploy/metrics.md: {missing:?}");
    assert!(invented.is_empty(), "in deploy/metrics.md, but not counted: {invented:?}");
}
