//! The login page: asks for name and password, and puts the session into three cookies.
//! In: browser requests. Out: the page; 303 back to the app with cookies; 401, 403, 503 pages. Errors: none.
//! I/O: reads the form; one HTTP exchange with the directory per sign-in.
//! Source: RFC 6265 §4.1 (Set-Cookie); W3C Fetch Metadata and RFC 6454 §7 (whose form it was).

mod back;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cookie::{Cookie, SameSite};
use http::header::{ALLOW, CONTENT_TYPE, ORIGIN, RETRY_AFTER, SET_COOKIE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body::Body;
use url::Url;

use crate::backend::{SessionBackend, SignIn};
use crate::clock::Clock;
use crate::demo::event::{Event, Narrator};
use crate::demo::exchange::{Answer, BoxError, asset, page, plain, read_body, see_other};
use crate::demo::html::Markup;
use crate::demo::login::back::WayBack;
use crate::demo::people::PEOPLE;
use crate::secret::Secret;
use crate::token::{Credentials, TokenSet};

const PAGE: &str = include_str!("assets/login.html");
const STYLE: &str = include_str!("assets/login.css");
const MARK: &str = include_str!("assets/mark.svg");

/// Longest wait for the session backend.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest name shown again after a refused sign-in, in bytes.
const NAME_CAP: usize = 256;

/// Where the login page lives, whom it sends where, and how it names its cookies.
#[derive(Clone, Debug)]
pub struct LoginSettings {
    /// The page's own origin as browsers see it; forms from anywhere else are refused.
    pub origin: Url,
    /// Where browsers go that bring no usable `redirect`.
    pub app: Url,
    /// Whose pages browsers may be sent back to: only the origin counts. The origin of `app` need not be repeated.
    pub allowed: Vec<Url>,
    /// The cookies that hold the session.
    pub cookies: CookieSettings,
}

/// Names and attributes of the session cookies. They are always `HttpOnly`, `SameSite=Lax`, `Path=/`.
#[derive(Clone, Debug)]
pub struct CookieSettings {
    /// Name of the cookie with the access token.
    pub access: String,
    /// Name of the cookie with the refresh token.
    pub refresh: String,
    /// Name of the cookie with the session id.
    pub session: String,
    /// `Domain` attribute; `None` keeps the cookies on the host of the login page (all its ports).
    pub domain: Option<String>,
    /// Whether the cookies get `Secure`: they then travel over HTTPS only (and, in most browsers, to loopback).
    pub secure: bool,
}

/// The login page.
pub struct Login {
    settings: LoginSettings,
    back: WayBack,
    policy: HeaderValue,
    backend: Arc<dyn SessionBackend>,
    clock: Arc<dyn Clock>,
    narrator: Narrator,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// What a form brought. A field that came twice is no field.
struct Form {
    name: String,
    password: Secret<String>,
    redirect: Option<String>,
}

impl Login {
    /// A login page that signs people in at this session backend.
    #[must_use]
    pub fn new(
        settings: LoginSettings,
        backend: Arc<dyn SessionBackend>,
        clock: Arc<dyn Clock>,
        narrator: Narrator,
    ) -> Self {
        let back = WayBack::new(settings.app.clone(), &settings.allowed);
        let policy = policy(&back);
        Self { back, policy, backend, settings, clock, narrator }
    }

    /// Answers one request.
    pub async fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        let (head, body) = request.into_parts();
        match (head.uri.path(), &head.method) {
            ("/login", &Method::GET | &Method::HEAD) => self.show(&head),
            ("/login", &Method::POST) => self.sign_in(&head, body).await,
            ("/", &Method::GET | &Method::HEAD) => see_other(HeaderValue::from_static("/login")),
            ("/assets/login.css", &Method::GET | &Method::HEAD) => asset("text/css; charset=utf-8", STYLE),
            ("/assets/mark.svg", &Method::GET | &Method::HEAD) => asset("image/svg+xml", MARK),
            ("/login", _) => not_allowed("GET, HEAD, POST"),
            ("/" | "/assets/login.css" | "/assets/mark.svg", _) => not_allowed("GET, HEAD"),
            (_, _) => plain(StatusCode::NOT_FOUND, "There is nothing here. The login page is at /login."),
        }
    }

    fn show(&self, head: &Parts) -> Answer {
        let redirect = only(head.uri.query().unwrap_or_default().as_bytes(), "redirect");
        if let Some(wanted) = redirect.as_deref().and_then(|text| self.back.allowed(text)) {
            let place = format!("{}{}", wanted.origin().ascii_serialization(), wanted.path());
            (self.narrator)(Event::Redirected { to_login_for: place });
        }
        self.form(StatusCode::OK, &self.back.page(redirect.as_deref()), "", "")
    }

    async fn sign_in<B>(&self, head: &Parts, body: B) -> Answer
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        if !self.own_form(&head.headers) {
            let why = "This sign-in did not come from this page. Please sign in here.";
            return self.form(StatusCode::FORBIDDEN, &self.settings.app, "", why);
        }
        if !is_form(&head.headers) {
            return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Please send the form of this page.");
        }
        let form = match read_body(body).await {
            Ok(bytes) => Form::read(&bytes),
            Err(fault) => return plain(fault.status(), "The form could not be read."),
        };
        let back = self.back.page(form.redirect.as_deref());
        let credentials =
            Credentials { user: form.name.clone(), password: form.password.clone(), further: Vec::new() };
        match tokio::time::timeout(PATIENCE, self.backend.sign_in(&credentials)).await {
            Ok(SignIn::Issued(tokens)) => self.send_back(&back, &tokens),
            Ok(SignIn::Refused) => {
                let why = "Name or password is not right.";
                self.form(StatusCode::UNAUTHORIZED, &back, &form.name, why)
            }
            Ok(SignIn::Unavailable(_) | SignIn::NotOffered) | Err(_) => self.try_later(&back, &form.name),
        }
    }

    /// A browser says where a form came from: both lines, where they are there, must name this page's own origin.
    /// A client that sends neither has no cookies of others to abuse.
    fn own_form(&self, headers: &HeaderMap) -> bool {
        let own = self.settings.origin.origin().ascii_serialization();
        let same_site =
            headers.get_all("sec-fetch-site").iter().all(|site| site == "same-origin" || site == "none");
        same_site && headers.get_all(ORIGIN).iter().all(|origin| origin == own.as_str())
    }

    fn send_back(&self, back: &Url, tokens: &TokenSet) -> Answer {
        let names = &self.settings.cookies;
        let cookies = [
            (&names.access, tokens.access.expose()),
            (&names.refresh, tokens.refresh.expose()),
            (&names.session, tokens.session.as_ref().map_or("", |id| id.expose())),
        ];
        let Ok(location) = HeaderValue::try_from(back.as_str()) else {
            return self.try_later(&self.settings.app, "");
        };
        let mut answer = see_other(location);
        for (name, value) in cookies {
            let Ok(line) = HeaderValue::try_from(self.cookie(name, value, tokens)) else {
                return self.try_later(back, "");
            };
            answer.headers_mut().append(SET_COOKIE, line);
        }
        answer
    }

    /// All three live as long as the refresh token: the access token in its cookie is still needed once it has expired.
    fn cookie(&self, name: &str, value: &str, tokens: &TokenSet) -> String {
        let left = tokens.refresh_expires.map_or(0, |end| end.since(self.clock.now()).as_secs());
        let left = cookie::time::Duration::seconds(i64::try_from(left).unwrap_or(i64::MAX));
        let settings = &self.settings.cookies;
        let mut cookie = Cookie::build((name, value))
            .http_only(true)
            .same_site(SameSite::Lax)
            .path("/")
            .max_age(left)
            .build();
        if settings.secure {
            cookie.set_secure(true);
        }
        if let Some(domain) = &settings.domain {
            cookie.set_domain(domain.as_str());
        }
        cookie.to_string()
    }

    fn try_later(&self, back: &Url, name: &str) -> Answer {
        let why = "The session backend does not answer just now. Nothing is lost: please try again.";
        let mut answer = self.form(StatusCode::SERVICE_UNAVAILABLE, back, name, why);
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("2"));
        answer
    }

    fn form(&self, status: StatusCode, back: &Url, name: &str, why: &str) -> Answer {
        let alert = match why {
            "" => Markup::default(),
            why => Markup::fill(ALERT, &[("why", Markup::text(why))]),
        };
        let host = back.origin().ascii_serialization();
        let host = host.split_once("://").map_or(host.as_str(), |(_, host)| host);
        let name = if name.len() > NAME_CAP { "" } else { name };
        // Who typed the name already goes on with the password.
        let focus = Markup::written("autofocus");
        let (focus_name, focus_password) =
            if name.is_empty() { (focus, Markup::default()) } else { (Markup::default(), focus) };
        let slots = [
            ("alert", alert),
            ("back", Markup::text(back.as_str())),
            ("host", Markup::text(host)),
            ("path", Markup::text(back.path())),
            ("name", Markup::text(name)),
            ("people", people()),
            ("focus-name", focus_name),
            ("focus-password", focus_password),
        ];
        page(status, Markup::fill(PAGE, &slots), &self.policy)
    }
}

const ALERT: &str = r#"<p class="alert" role="alert" id="why">{{why}}</p>"#;

const PERSON: &str =
    "<tr><td><code>{{code}}</code></td><td><code>{{password}}</code></td><td>{{role}}</td></tr>";

impl Form {
    fn read(bytes: &[u8]) -> Self {
        Self {
            name: only(bytes, "name").unwrap_or_default().trim().to_owned(),
            password: Secret::new(only(bytes, "password").unwrap_or_default()),
            redirect: only(bytes, "redirect"),
        }
    }
}

/// The one field of that name; `None` where there is none, or more than one.
fn only(encoded: &[u8], name: &str) -> Option<String> {
    let mut values = url::form_urlencoded::parse(encoded).filter(|(field, _)| field == name);
    let first = values.next()?.1.into_owned();
    values.next().is_none().then_some(first)
}

fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], |kind| kind.as_bytes());
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    kind.eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
}

fn people() -> Markup {
    Markup::concat(PEOPLE.iter().map(|person| {
        let slots = [
            ("code", Markup::text(person.code)),
            ("password", Markup::text(person.password)),
            ("role", Markup::text(person.role_name)),
        ];
        Markup::fill(PERSON, &slots)
    }))
}

/// Browsers hold the redirect after a form against `form-action` too, so the origins people go back to are listed.
fn policy(back: &WayBack) -> HeaderValue {
    let policy = format!(
        "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'; \
         form-action 'self' {}",
        back.sources()
    );
    HeaderValue::try_from(policy).unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"))
}

fn not_allowed(methods: &'static str) -> Answer {
    let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "This page does not know that method.");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    answer
}
