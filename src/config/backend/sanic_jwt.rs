//! The settings of the `sanic_jwt` backend.
//! In: `[backend.sanic_jwt]`. Out: [`BackendSettings::SanicJwt`]. Errors: noted problems. I/O: none.

use std::time::Duration;

use http::HeaderName;

use crate::backend::sanic_jwt::{Members, Profile, SanicJwtSettings, TokenPlace, default_answers};
use crate::config::backend::{BackendSettings, InUse, answers};
use crate::config::read::Section;
use crate::config::session::{base_url, cookie_name};
use crate::config::value;

/// Where the app looks for tokens.
#[derive(Clone, Copy)]
enum Place {
    Header,
    Cookies,
}

pub(super) fn read(backends: &Section<'_, '_>, in_use: InUse) -> Option<BackendSettings> {
    let section = backends.section("sanic_jwt");
    let prefix = match section.take("prefix") {
        None => Some("/auth".to_owned()),
        Some(field) => field.text().and_then(|text| {
            let prefix = text.trim_end_matches('/');
            let fits = prefix.is_empty() || is_path(prefix);
            if !fits {
                field.problem("is no path; write for example \"/auth\", or \"\" where there is none");
            }
            fits.then(|| prefix.to_owned())
        }),
    };
    let sign_out = section.take("sign_out_path").and_then(|field| {
        let text = field.text()?;
        if !is_path(text) {
            field.problem("is no path; write for example \"/auth/logout\"");
            return None;
        }
        Some(text.to_owned())
    });
    let tokens = tokens(&section);
    let profiles = [("claims", Profile::Claims), ("me", Profile::Me)];
    let profile = section.take("profile").and_then(|f| f.word(&profiles)).unwrap_or(Profile::Claims);
    let members = members(&section);
    let connect = section.take("connect").and_then(|f| value::duration(&f)).unwrap_or(Duration::from_secs(3));
    let rows = section.take("answer").map(|f| answers(&f)).unwrap_or_default();
    let url = in_use.need(&section, "url", "\"https://api.example.com\"").and_then(|f| base_url(&f));
    section.finish();
    let settings = SanicJwtSettings {
        url: url?,
        prefix: prefix?,
        sign_out,
        tokens: tokens?,
        profile,
        members,
        answers: default_answers().after(rows),
    };
    Some(BackendSettings::SanicJwt { settings, connect })
}

fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && !b"?#\\".contains(&b))
}

fn tokens(section: &Section<'_, '_>) -> Option<TokenPlace> {
    let places = [("header", Place::Header), ("cookies", Place::Cookies)];
    let place = section.take("tokens").map_or(Some(Place::Header), |f| f.word(&places));
    let name = match section.take("header") {
        None => Some("authorization".to_owned()),
        Some(field) => field.text().and_then(|text| {
            let taken =
                ["host", "cookie", "content-length", "content-type", "transfer-encoding", "connection"];
            let read = HeaderName::from_bytes(text.as_bytes()).ok();
            let read = read.filter(|name| !taken.contains(&name.as_str()));
            if read.is_none() {
                field.problem("is no header for a token; write for example \"authorization\"");
            }
            read.map(|name| name.to_string())
        }),
    };
    let scheme = match section.take("scheme") {
        None => Some("Bearer".to_owned()),
        Some(field) => field.text().and_then(|text| {
            let fits = text.bytes().all(|b| b.is_ascii_graphic());
            if !fits {
                field.problem("is one word before the token, such as \"Bearer\", or \"\" for none");
            }
            fits.then(|| text.to_owned())
        }),
    };
    if let (Some(Place::Header), Some(field)) = (place, section.take("cookies")) {
        field.problem("are looked for where tokens = \"cookies\"; write that, or leave them out");
    }
    let cookies = section.section("cookies");
    let access = cookie_name(&cookies, "access").unwrap_or_else(|| Some("access_token".to_owned()));
    let refresh = cookie_name(&cookies, "refresh").unwrap_or_else(|| Some("refresh_token".to_owned()));
    let signature = cookie_name(&cookies, "signature");
    cookies.finish();
    match place? {
        Place::Header => Some(TokenPlace::Header { name: name?, scheme: scheme? }),
        Place::Cookies => Some(TokenPlace::Cookies {
            access: access?,
            refresh: refresh?,
            // A name that is none was noted.
            signature: signature.flatten(),
        }),
    }
}

fn members(section: &Section<'_, '_>) -> Members {
    let table = section.section("members");
    let name =
        |key: &str, default: String| table.take(key).and_then(|f| f.text()).map_or(default, str::to_owned);
    let defaults = Members::default();
    let members = Members {
        access: name("access", defaults.access),
        refresh: name("refresh", defaults.refresh),
        user: name("user", defaults.user),
        password: name("password", defaults.password),
    };
    table.finish();
    members
}
