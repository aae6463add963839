//! The settings of the `directory` backend.
//! In: `[backend.directory]`. Out: [`BackendSettings::Directory`]. Errors: noted problems. I/O: none.

use std::time::Duration;

use crate::backend::directory::{DirectoryPaths, DirectorySettings, default_answers};
use crate::config::backend::{BackendSettings, InUse, answers};
use crate::config::read::Section;
use crate::config::session::base_url;
use crate::config::value;

pub(super) fn read(backends: &Section<'_, '_>, in_use: InUse) -> Option<BackendSettings> {
    let section = backends.section("directory");
    let defaults = DirectoryPaths::default();
    let path = |key: &str, default: String| match section.take(key) {
        None => default,
        Some(field) => match field.text() {
            Some(text) if text.starts_with('/') => text.to_owned(),
            Some(_) => {
                field.problem("must begin with a slash");
                default
            }
            None => default,
        },
    };
    let paths = DirectoryPaths {
        renew: path("renew_path", defaults.renew),
        sign_out: path("sign_out_path", defaults.sign_out),
        sign_in: path("sign_in_path", defaults.sign_in),
    };
    if !paths.renew.contains("{session}") {
        section.problem("renew_path", "has no {session}: the session's id has to stand in it");
    }
    let app = section.take("app").and_then(|f| f.text()).unwrap_or("doorkeep").to_owned();
    let connect = section.take("connect").and_then(|f| value::duration(&f)).unwrap_or(Duration::from_secs(3));
    let rows = section.take("answer").map(|f| answers(&f)).unwrap_or_default();
    let url = in_use.need(&section, "url", "\"https://api.example.com\"").and_then(|f| base_url(&f));
    section.finish();
    let settings = DirectorySettings { url: url?, paths, app, answers: default_answers().after(rows) };
    Some(BackendSettings::Directory { settings, connect })
}
