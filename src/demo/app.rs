//! The sample upstream: an app from before tokens. It believes the identity headers and knows nothing else.
//! In: requests that the gateway has judged. Out: pages, a status in JSON, its own style and script. Errors: none.
//! I/O: reads posted forms. It must only be reachable through a gateway: it believes whoever connects.

#[cfg(test)]
mod tests;
mod visits;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::header::{ALLOW, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body::Body;
use serde::Serialize;

use crate::clock::{Clock, UnixTime};
use crate::demo::app::visits::{Happening, Visit, Visits, What};
use crate::demo::exchange::{Answer, BoxError, asset, json, page, plain, read_body};
use crate::demo::html::Markup;

const FRAME: &str = include_str!("assets/app.html");
const HOME: &str = include_str!("assets/home.html");
const NOBODY: &str = include_str!("assets/nobody.html");
const HEADERS: &str = include_str!("assets/headers.html");
const NOTE: &str = include_str!("assets/note.html");
const ADMIN: &str = include_str!("assets/admin.html");
const STYLE: &str = include_str!("assets/app.css");
const SCRIPT: &str = include_str!("assets/app.js");
const MARK: &str = include_str!("assets/mark.svg");

/// Most sessions remembered.
const SESSIONS_KEPT: usize = 256;

/// No `form-action`: browsers would hold the redirects after a form against it, and both forms of this app may end at a
/// login page on an origin that the app does not know.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; frame-ancestors 'none'",
);

/// Under which header names the app is told who is there.
#[derive(Clone, Debug)]
pub struct AppSettings {
    /// Names the user.
    pub user: HeaderName,
    /// The user's address.
    pub email: HeaderName,
    /// The user's role.
    pub role: HeaderName,
    /// When the access token ends, as a `NumericDate` (RFC 7519 §2).
    pub expires: HeaderName,
    /// A value that stays the same for as long as the session lasts.
    pub session: HeaderName,
    /// Where the sign-out form is posted to: a path that the gateway answers.
    pub sign_out: String,
}

/// The sample app.
pub struct App {
    settings: AppSettings,
    clock: Arc<dyn Clock>,
    visits: Mutex<Visits>,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Who is there, in the words of the headers.
struct Guest {
    user: String,
    email: String,
    role: String,
    session: Vec<u8>,
    expires: Option<UnixTime>,
}

impl Guest {
    /// What to call them: user ids are often nothing to read.
    fn name(&self) -> &str {
        if self.email.is_empty() { &self.user } else { &self.email }
    }
}

/// What the script asks for each second.
#[derive(Serialize)]
struct Now<'a> {
    user: &'a str,
    role: &'a str,
    now: UnixTime,
    expires: Option<UnixTime>,
    left: u64,
    life: u64,
    renewals: u64,
    happened: Vec<Happening>,
}

impl App {
    /// An app that has seen nobody yet.
    #[must_use]
    pub fn new(settings: AppSettings, clock: Arc<dyn Clock>) -> Self {
        Self { settings, clock, visits: Mutex::new(Visits::keeping(SESSIONS_KEPT)) }
    }

    /// Answers one request.
    pub async fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        let (head, body) = request.into_parts();
        match (head.uri.path(), &head.method) {
            ("/assets/app.css", &Method::GET | &Method::HEAD) => asset("text/css; charset=utf-8", STYLE),
            ("/assets/app.js", &Method::GET | &Method::HEAD) => {
                asset("text/javascript; charset=utf-8", SCRIPT)
            }
            ("/assets/mark.svg", &Method::GET | &Method::HEAD) => asset("image/svg+xml", MARK),
            ("/", &Method::GET | &Method::HEAD) => self.home(&head),
            ("/status", &Method::GET | &Method::HEAD) => self.status(&head),
            ("/headers", &Method::GET | &Method::HEAD) => self.headers(&head),
            ("/admin/", &Method::GET | &Method::HEAD) => self.admin(&head),
            ("/note", &Method::POST) => self.note(&head, body).await,
            ("/note", _) => not_allowed("POST"),
            ("/" | "/status" | "/headers" | "/admin/", _) => not_allowed("GET, HEAD"),
            (path, _) if path.starts_with("/assets/") => {
                plain(StatusCode::NOT_FOUND, "There is no such file.")
            }
            (_, _) => self.nothing(&head),
        }
    }

    fn home(&self, head: &Parts) -> Answer {
        let Some(guest) = self.guest(&head.headers) else { return self.nobody(&head.headers) };
        let now = self.clock.now();
        let visit = self.see(&guest, now);
        let left = left(&visit, now);
        let slots = [
            ("user", Markup::text(&guest.user)),
            ("email", Markup::text(or_dash(&guest.email))),
            ("role", Markup::text(or_dash(&guest.role))),
            ("left", number(left)),
            ("life", number(visit.life)),
            ("expires", number(visit.expires.map_or(0, UnixTime::as_secs))),
            ("offset", number(100 - percent(left, visit.life))),
            ("renewals", number(visit.renewals)),
            ("renewals-word", Markup::written(renewals_word(visit.renewals))),
            ("happened", happenings(&visit)),
        ];
        self.framed(StatusCode::OK, "Today", Some(&guest), Markup::fill(HOME, &slots))
    }

    fn status(&self, head: &Parts) -> Answer {
        let Some(guest) = self.guest(&head.headers) else {
            return json(StatusCode::OK, r#"{"user":null}"#.to_owned());
        };
        let now = self.clock.now();
        let visit = self.see(&guest, now);
        let status = Now {
            user: &guest.user,
            role: &guest.role,
            now,
            expires: visit.expires,
            left: left(&visit, now),
            life: visit.life,
            renewals: visit.renewals,
            happened: visit.happened.into_iter().collect(),
        };
        match serde_json::to_string(&status) {
            Ok(text) => json(StatusCode::OK, text),
            Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "The status could not be written."),
        }
    }

    /// Every header as it came, so that one sees what the gateway adds and what it holds back.
    fn headers(&self, head: &Parts) -> Answer {
        let guest = self.seen(&head.headers);
        let settings = &self.settings;
        let ours = [&settings.user, &settings.email, &settings.role, &settings.expires, &settings.session];
        let row = |template, (name, value): (&HeaderName, &HeaderValue)| {
            let slots = [
                ("name", Markup::text(name.as_str())),
                ("value", Markup::text(&String::from_utf8_lossy(value.as_bytes()))),
            ];
            Markup::fill(template, &slots)
        };
        let (identity, others): (Vec<_>, Vec<_>) =
            head.headers.iter().partition(|(name, _)| ours.contains(name));
        let identity = identity.into_iter().map(|line| row(IDENTITY_ROW, line));
        let others = others.into_iter().map(|line| row(ROW, line));
        let slots = [("rows", Markup::concat(identity.chain(others)))];
        self.framed(StatusCode::OK, "Headers", guest.as_ref(), Markup::fill(HEADERS, &slots))
    }

    fn admin(&self, head: &Parts) -> Answer {
        let Some(guest) = self.seen(&head.headers) else { return self.nobody(&head.headers) };
        let slots = [("user", Markup::text(guest.name())), ("role", Markup::text(or_dash(&guest.role)))];
        self.framed(StatusCode::OK, "Admin", Some(&guest), Markup::fill(ADMIN, &slots))
    }

    async fn note<B>(&self, head: &Parts, body: B) -> Answer
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        let Some(guest) = self.seen(&head.headers) else { return self.nobody(&head.headers) };
        let bytes = match read_body(body).await {
            Ok(bytes) => bytes,
            Err(fault) => return plain(fault.status(), "The note could not be read."),
        };
        let text = note_in(&head.headers, &bytes);
        self.visits().note(&guest.session, self.clock.now(), What::Note { bytes: text.len() });
        let kind =
            head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("no content type");
        let slots = [
            ("note", Markup::text(&text)),
            ("bytes", number(u64::try_from(bytes.len()).unwrap_or(u64::MAX))),
            ("kind", Markup::text(kind)),
        ];
        self.framed(StatusCode::OK, "Note", Some(&guest), Markup::fill(NOTE, &slots))
    }

    fn nobody(&self, headers: &HeaderMap) -> Answer {
        let guest = self.guest(headers);
        self.framed(StatusCode::OK, "Nobody", guest.as_ref(), Markup::fill(NOBODY, &[]))
    }

    fn nothing(&self, head: &Parts) -> Answer {
        let guest = self.guest(&head.headers);
        let markup = Markup::written(
            r#"<section class="card wide"><h1>Nothing here</h1><p>This app has no such page. <a href="/">Back to today</a></p></section>"#,
        );
        self.framed(StatusCode::NOT_FOUND, "Nothing here", guest.as_ref(), markup)
    }

    fn framed(&self, status: StatusCode, title: &'static str, guest: Option<&Guest>, main: Markup) -> Answer {
        let who = guest.map_or_else(Markup::default, |guest| {
            let slots = [
                ("initial", Markup::text(&guest.name().chars().take(1).collect::<String>().to_uppercase())),
                ("user", Markup::text(guest.name())),
                ("role", Markup::text(or_dash(&guest.role))),
                ("sign-out", Markup::text(&self.settings.sign_out)),
            ];
            Markup::fill(WHO, &slots)
        });
        let here = |page| if page == title { Markup::written(HERE) } else { Markup::default() };
        let slots = [
            ("title", Markup::written(title)),
            ("on-today", here("Today")),
            ("on-headers", here("Headers")),
            ("on-admin", here("Admin")),
            ("who", who),
            ("main", main),
        ];
        page(status, Markup::fill(FRAME, &slots), &POLICY)
    }

    /// Who is there, counted as a visit.
    fn seen(&self, headers: &HeaderMap) -> Option<Guest> {
        let guest = self.guest(headers)?;
        self.see(&guest, self.clock.now());
        Some(guest)
    }

    /// Who the headers say is there. A line that comes twice is not believed, and without a user there is nobody.
    fn guest(&self, headers: &HeaderMap) -> Option<Guest> {
        let line = |name: &HeaderName| {
            let mut lines = headers.get_all(name).iter();
            let first = lines.next()?;
            lines.next().is_none().then(|| String::from_utf8_lossy(first.as_bytes()).into_owned())
        };
        let user = line(&self.settings.user).filter(|user| !user.is_empty())?;
        let session = line(&self.settings.session).unwrap_or_else(|| format!("of {user}"));
        Some(Guest {
            email: line(&self.settings.email).unwrap_or_default(),
            role: line(&self.settings.role).unwrap_or_default(),
            session: session.into_bytes(),
            expires: line(&self.settings.expires).and_then(|secs| secs.parse().ok()).map(UnixTime::from_secs),
            user,
        })
    }

    fn see(&self, guest: &Guest, now: UnixTime) -> Visit {
        self.visits().see(&guest.session, guest.expires, now)
    }

    fn visits(&self) -> MutexGuard<'_, Visits> {
        self.visits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const WHO: &str = r#"<div class="who"><span class="face" aria-hidden="true">{{initial}}</span>
<span class="name">{{user}}<small>{{role}}</small></span>
<form method="post" action="{{sign-out}}"><button class="quiet" type="submit">Sign out</button></form></div>"#;

const HERE: &str = r#"aria-current="page""#;

const ROW: &str = "<tr><th scope=\"row\">{{name}}</th><td>{{value}}</td></tr>";

const IDENTITY_ROW: &str =
    "<tr class=\"identity\"><th scope=\"row\">{{name}} <em>identity</em></th><td>{{value}}</td></tr>";

const HAPPENING: &str = "<li><time data-at=\"{{at}}\">{{utc}}</time><span>{{what}}</span></li>";

/// The `note` field of a form, or the whole body of anything else.
fn note_in(headers: &HeaderMap, bytes: &[u8]) -> String {
    let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], |kind| kind.as_bytes());
    if !kind.to_ascii_lowercase().starts_with(b"application/x-www-form-urlencoded") {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let mut fields = url::form_urlencoded::parse(bytes);
    fields.find(|(name, _)| name == "note").map(|(_, note)| note.into_owned()).unwrap_or_default()
}

fn happenings(visit: &Visit) -> Markup {
    Markup::concat(visit.happened.iter().map(|happening| {
        let day = happening.at.as_secs() % 86_400;
        let utc = format!("{:02}:{:02}:{:02}Z", day / 3600, day / 60 % 60, day % 60);
        let slots = [
            ("at", number(happening.at.as_secs())),
            ("utc", Markup::text(&utc)),
            ("what", Markup::text(&happening.what.to_string())),
        ];
        Markup::fill(HAPPENING, &slots)
    }))
}

/// The script says the same.
const fn renewals_word(renewals: u64) -> &'static str {
    match renewals {
        0 => "renewals so far",
        1 => "renewal, and you did not notice",
        _ => "renewals, and you noticed none",
    }
}

fn left(visit: &Visit, now: UnixTime) -> u64 {
    visit.expires.map_or(0, |expires| expires.since(now).as_secs())
}

/// `part` of `whole` in whole per cent, at most 100.
const fn percent(part: u64, whole: u64) -> u64 {
    match part.saturating_mul(100).checked_div(whole) {
        Some(percent) if percent < 100 => percent,
        Some(_) => 100,
        None => 0,
    }
}

fn number(number: u64) -> Markup {
    Markup::text(&number.to_string())
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "–" } else { text }
}

fn not_allowed(methods: &'static str) -> Answer {
    let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "This page does not know that method.");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    answer
}
