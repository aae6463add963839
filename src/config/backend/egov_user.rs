//! The settings of the `egov_user` backend.
//! In: `[backend.egov_user]`. Out: [`BackendSettings::EgovUser`]. Errors: noted problems. I/O: files and environment, for
//! the secret.

use std::time::Duration;

use crate::backend::egov_user::{EgovUserPaths, EgovUserSettings, default_answers};
use crate::config::backend::{BackendSettings, InUse, answers};
use crate::config::read::Section;
use crate::config::session::base_url;
use crate::config::value;
use crate::secret::Secret;

pub(super) fn read(backends: &Section<'_, '_>, in_use: InUse) -> Option<BackendSettings> {
    let section = backends.section("egov_user");
    let defaults = EgovUserPaths::default();
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
    let paths = EgovUserPaths {
        token: path("token_path", defaults.token),
        details: path("details_path", defaults.details),
        logout: path("logout_path", defaults.logout),
    };
    let text = |key: &str| section.take(key).and_then(|f| f.text()).map(str::to_owned);
    let client_id = text("client_id").unwrap_or_else(|| "egov-user-client".to_owned());
    let client_secret = match section.take("client_secret") {
        // The service's own client has none.
        None => Some(Secret::new(String::new())),
        Some(field) if field.text() == Some("") => Some(Secret::new(String::new())),
        Some(field) => value::secret(&field),
    };
    let (tenant, user_type) = (text("tenant"), text("user_type"));
    let connect = section.take("connect").and_then(|f| value::duration(&f)).unwrap_or(Duration::from_secs(3));
    let rows = section.take("answer").map(|f| answers(&f)).unwrap_or_default();
    let url = in_use.need(&section, "url", "\"https://digit.example.com\"").and_then(|f| base_url(&f));
    section.finish();
    let settings = EgovUserSettings {
        url: url?,
        paths,
        client_id,
        client_secret: client_secret?,
        tenant,
        user_type,
        answers: default_answers().after(rows),
    };
    Some(BackendSettings::EgovUser { settings, connect })
}
