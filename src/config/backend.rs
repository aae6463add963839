//! Which session backend, and its own settings: one file for each kind.
//! In: `session.backend`, `[backend.*]`. Out: [`BackendSettings`]. Errors: noted problems. I/O: none.

mod directory;
mod egov_user;
mod oauth2;
mod sanic_jwt;

use std::time::Duration;

use crate::backend::directory::{Directory, DirectorySettings};
use crate::backend::egov_user::{EgovUser, EgovUserSettings};
use crate::backend::oauth2::OAuth2Settings;
use crate::backend::sanic_jwt::SanicJwtSettings;
use crate::backend::{Further, Meaning, Row, Table};
use crate::config::read::{Field, Section};
use crate::outcome::Capabilities;

/// Who issues sessions.
#[derive(Clone, Debug)]
pub enum BackendSettings {
    /// OpenAge's JSON sessions API.
    Directory {
        /// Where it is and what it answers.
        settings: DirectorySettings,
        /// Longest time to get connected.
        connect: Duration,
    },
    /// DIGIT's egov-user.
    EgovUser {
        /// Where it is, as whom it is asked, and what it answers.
        settings: EgovUserSettings,
        /// Longest time to get connected.
        connect: Duration,
    },
    /// The token endpoint of any OAuth 2 server.
    OAuth2 {
        /// Where it is, as whom it is asked, and what it answers.
        settings: Box<OAuth2Settings>,
        /// Longest time to get connected.
        connect: Duration,
    },
    /// An app with sanic-jwt's endpoints.
    SanicJwt {
        /// Where it is, how it wants its tokens, and what it answers.
        settings: SanicJwtSettings,
        /// Longest time to get connected.
        connect: Duration,
    },
}

impl BackendSettings {
    /// Its name in the settings.
    #[must_use]
    pub const fn id(&self) -> &'static str {
        match self {
            Self::Directory { .. } => "directory",
            Self::EgovUser { .. } => "egov_user",
            Self::OAuth2 { .. } => "oauth2",
            Self::SanicJwt { .. } => "sanic_jwt",
        }
    }

    /// Whether people can be signed in there with name and password.
    #[must_use]
    pub const fn signs_in(&self) -> bool {
        match self {
            Self::Directory { .. } | Self::EgovUser { .. } | Self::SanicJwt { .. } => true,
            Self::OAuth2 { .. } => false,
        }
    }

    /// What a sign-in there carries beside name and password.
    #[must_use]
    pub fn further(&self) -> Further<'_> {
        match self {
            Self::Directory { .. } => Further::Only(&Directory::FURTHER),
            Self::EgovUser { .. } => Further::Only(&EgovUser::FURTHER),
            Self::OAuth2 { .. } => Further::Only(&[]),
            Self::SanicJwt { settings, .. } => settings.members.further(),
        }
    }

    /// What a sign-in there has to carry beside name and password, where these settings do not bring it themselves.
    #[must_use]
    pub fn needs_further(&self) -> Vec<&'static str> {
        match self {
            Self::EgovUser { settings, .. } => {
                let fields = EgovUser::FURTHER.into_iter().zip(settings.defaults());
                fields.filter(|(_, default)| default.is_none()).map(|(name, _)| name).collect()
            }
            Self::Directory { .. } | Self::OAuth2 { .. } | Self::SanicJwt { .. } => Vec::new(),
        }
    }

    /// Whether what it tells of a token that it is asked about names the token's issuer and audience (RFC 7662 §2.2).
    #[must_use]
    pub const fn tells_issuer_and_audience(&self) -> bool {
        match self {
            Self::OAuth2 { .. } => true,
            Self::Directory { .. } | Self::EgovUser { .. } | Self::SanicJwt { .. } => false,
        }
    }

    /// Whether a word about a token is the same, asked of this backend or of another one.
    #[must_use]
    pub fn tells_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Directory { settings: one, .. }, Self::Directory { settings: two, .. }) => one == two,
            (Self::EgovUser { settings: one, .. }, Self::EgovUser { settings: two, .. }) => one == two,
            (Self::SanicJwt { settings: one, .. }, Self::SanicJwt { settings: two, .. }) => one == two,
            (Self::OAuth2 { settings: one, .. }, Self::OAuth2 { settings: two, .. }) => {
                one.introspection_url == two.introspection_url && one.client.id == two.client.id
            }
            (
                Self::Directory { .. } | Self::EgovUser { .. } | Self::SanicJwt { .. } | Self::OAuth2 { .. },
                _,
            ) => false,
        }
    }

    /// What its answers mean.
    #[must_use]
    pub const fn answers(&self) -> &Table {
        match self {
            Self::Directory { settings, .. } => &settings.answers,
            Self::EgovUser { settings, .. } => &settings.answers,
            Self::OAuth2 { settings, .. } => &settings.answers,
            Self::SanicJwt { settings, .. } => &settings.answers,
        }
    }

    /// What it can and needs.
    #[must_use]
    pub const fn capabilities(&self) -> Capabilities {
        match self {
            Self::Directory { .. } => Directory::CAPABILITIES,
            Self::EgovUser { .. } => EgovUser::CAPABILITIES,
            Self::OAuth2 { settings, .. } => settings.capabilities(),
            Self::SanicJwt { settings, .. } => settings.capabilities(),
        }
    }

    /// The claim that names the user, where the settings do not say.
    #[must_use]
    pub const fn subject(&self) -> &'static str {
        match self {
            Self::Directory { .. } => "userId",
            Self::EgovUser { .. } => "uuid",
            Self::OAuth2 { .. } => "sub",
            Self::SanicJwt { .. } => "user_id",
        }
    }
}

/// Whether a backend's table is the one that counts: another one may be there and has to be right, but lacks nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InUse {
    Yes,
    No,
}

impl InUse {
    /// The value under `key`; its absence is a problem where the table counts.
    pub(super) fn need<'s, 'a>(
        self,
        section: &Section<'s, 'a>,
        key: &str,
        example: &str,
    ) -> Option<Field<'s, 'a>> {
        match self {
            Self::Yes => section.need(key, example),
            Self::No => section.take(key),
        }
    }
}

/// The kinds of backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Directory,
    EgovUser,
    OAuth2,
    SanicJwt,
}

pub(super) fn backend(root: &Section<'_, '_>) -> Option<BackendSettings> {
    let session = root.section("session");
    let kinds = [
        ("directory", Kind::Directory),
        ("egov_user", Kind::EgovUser),
        ("oauth2", Kind::OAuth2),
        ("sanic_jwt", Kind::SanicJwt),
    ];
    let chosen = session.need("backend", "\"directory\"").and_then(|f| f.word(&kinds));
    // Whoever has not chosen yet is told what the usual one needs.
    let counts = |kind| if chosen.unwrap_or(Kind::Directory) == kind { InUse::Yes } else { InUse::No };
    let backends = root.section("backend");
    let directory = directory::read(&backends, counts(Kind::Directory));
    let egov_user = egov_user::read(&backends, counts(Kind::EgovUser));
    let oauth2 = oauth2::read(&backends, counts(Kind::OAuth2));
    let sanic_jwt = sanic_jwt::read(&backends, counts(Kind::SanicJwt));
    backends.finish();
    match chosen? {
        Kind::Directory => directory,
        Kind::EgovUser => egov_user,
        Kind::OAuth2 => oauth2,
        Kind::SanicJwt => sanic_jwt,
    }
}

pub(super) fn answers(field: &Field<'_, '_>) -> Vec<Row> {
    let meanings =
        [("refused", Meaning::Refused), ("unavailable", Meaning::Unavailable), ("ours", Meaning::Ours)];
    let mut rows = Vec::new();
    for item in field.items() {
        let row = item.section();
        let status = row.take("status").and_then(|f| status(&f));
        let member = row.take("member").and_then(|f| f.text());
        let text = row.take("text").and_then(|f| f.text());
        let meaning = row.need("means", "\"refused\"").and_then(|f| f.word(&meanings));
        if member.is_some() != text.is_some() {
            row.problem("member", "and text belong together: write both or none");
        }
        if !row.has("status") && member.is_none() {
            row.problem("status", "or member and text: a row has to name something");
        }
        row.finish();
        let member = member.zip(text).map(|(path, text)| (path.to_owned(), text.to_owned()));
        rows.extend(meaning.map(|meaning| Row { status, member, meaning }));
    }
    rows
}

/// A status of HTTP (RFC 9110 §15).
fn status(field: &Field<'_, '_>) -> Option<u16> {
    let number = field.number()?;
    let status = u16::try_from(number).ok().filter(|status| (100..600).contains(status));
    if status.is_none() {
        field.problem("is no status of HTTP; write a number from 100 to 599");
    }
    status
}
