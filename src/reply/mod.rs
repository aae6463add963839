//! From a verdict, a fault or an upstream's answer to what the client gets.
//! In: what was decided, and who asks. Out: responses. Errors: none. I/O: none.
//! Source: RFC 9110 §15 (status codes), RFC 9457 (problem details), RFC 9111 §5.2.2 (`private`, `no-store`).

mod page;
mod returns;
mod session_answer;

use std::time::Duration;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE, LOCATION,
    RETRY_AFTER, VARY, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;
use url::Url;

use crate::asker::Asker;
use crate::body::ReplyBody;
pub use crate::reply::page::form;
pub use crate::reply::returns::Returns;
pub use crate::reply::session_answer::{Stored, drop_own_cookies, keep_private};
use crate::verdict::LoginReason;

/// What stays as it is in a query value: the unreserved characters (RFC 3986 §2.3).
const QUERY_VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The path of the gateway's own sign-in page, on every site.
pub const SIGN_IN_PATH: &str = "/.doorkeep/sign-in";

/// The query parameter of that page for the page to come back to.
pub const SIGN_IN_PARAMETER: &str = "redirect";

/// Where people sign in.
#[derive(Clone, Debug)]
pub enum LoginSettings {
    /// At an id app.
    Redirect {
        /// The login page.
        url: Url,
        /// The query parameter that carries the page to come back to.
        parameter: String,
    },
    /// At the gateway itself, on the site that they came to.
    Form,
}

impl LoginSettings {
    /// The login page's URL for somebody who wants to come back to `page`, an absolute URL on the site with this origin.
    #[must_use]
    pub fn for_page(&self, origin: &str, page: &str) -> String {
        let (mut text, parameter) = match self {
            Self::Redirect { url, parameter } => (url.as_str().to_owned(), parameter.as_str()),
            Self::Form => (format!("{origin}{SIGN_IN_PATH}"), SIGN_IN_PARAMETER),
        };
        let fragment = text.find('#').map(|at| text.split_off(at)).unwrap_or_default();
        text.push(if text.contains('?') { '&' } else { '?' });
        text.extend(utf8_percent_encode(parameter, QUERY_VALUE));
        text.push('=');
        text.extend(utf8_percent_encode(page, QUERY_VALUE));
        text + &fragment
    }
}

/// Who gets an answer.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// What kind of answer it can use.
    pub asker: Asker,
    /// The page to come back to after a sign-in, as an absolute URL.
    pub page: &'a str,
    /// Names the request in logs and pages.
    pub request_id: &'a str,
    /// The origin that may read the answer across origins, where it is an allowed one.
    pub cors: Option<&'a HeaderValue>,
}

/// Sends a page view to the login at `url`, and tells a script where it is.
#[must_use]
pub fn login(url: &str, reader: Reader<'_>) -> Response<ReplyBody> {
    match reader.asker {
        Asker::Navigation => redirect(StatusCode::FOUND, url),
        Asker::FormPost => redirect(StatusCode::SEE_OTHER, url),
        Asker::Script | Asker::WebSocket => {
            let mut response = problem(
                StatusCode::UNAUTHORIZED,
                "Sign-in required",
                "There is no session. Open the address in `login` in a page to sign in.",
                &[("login", url)],
                reader,
            );
            let challenge = HeaderValue::from_static("Bearer realm=\"session\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            response
        }
    }
}

/// Stops somebody who is sent back and forth between the login and a page, and says why.
#[must_use]
pub fn login_loop(url: &str, reason: LoginReason, reader: Reader<'_>) -> Response<ReplyBody> {
    let (cause, remedy) = match reason {
        LoginReason::NoSession => (
            "The login page sent you back, but the session cookies did not come back with you.",
            "They may be set for another domain, without this site's scheme, or be too large for the browser.",
        ),
        LoginReason::TwoCookies => (
            "Your browser sends two different session cookies under one name.",
            "Try again; if it comes back, delete this browser's cookies for this site and for its parent domain.",
        ),
        LoginReason::BadToken(_) => (
            "The login page sent you back with a token that this site does not accept.",
            "The clocks of the login and of this site may differ, or the token is made for another site or with another key.",
        ),
        LoginReason::Over => (
            "The token that you were sent back with is already over.",
            "The clocks of the login and of this site may differ.",
        ),
        LoginReason::Withheld | LoginReason::SessionEnded => {
            ("The session that you are sent back with is ended each time.", "The session backend refuses it.")
        }
    };
    let detail = format!("{cause} {remedy}");
    let again = Some(("Sign in once more", url.to_owned()));
    page::page(StatusCode::FORBIDDEN, "Signing in does not hold", &detail, again, reader)
}

/// The user lacks what a rule requires, or the request may not be made from where it comes.
#[must_use]
pub fn forbidden(detail: &str, reader: Reader<'_>) -> Response<ReplyBody> {
    plain(StatusCode::FORBIDDEN, "Not allowed", detail, reader)
}

/// The session backend gives no answer: the session stands, and the page tries again by itself.
#[must_use]
pub fn unavailable(after: Duration, reader: Reader<'_>) -> Response<ReplyBody> {
    let secs = after.as_secs().clamp(1, 60);
    let detail = "Your session cannot be renewed at the moment. You are still signed in.";
    let mut response = match reader.asker {
        Asker::Navigation => {
            page::retrying(StatusCode::SERVICE_UNAVAILABLE, "One moment", detail, secs, reader)
        }
        Asker::FormPost | Asker::Script | Asker::WebSocket => {
            plain(StatusCode::SERVICE_UNAVAILABLE, "One moment", detail, reader)
        }
    };
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(secs));
    response
}

/// Any other status: a page for people, problem details for the rest.
#[must_use]
pub fn plain(status: StatusCode, title: &str, detail: &str, reader: Reader<'_>) -> Response<ReplyBody> {
    if reader.asker.sees_pages() {
        page::page(status, title, detail, None, reader)
    } else {
        problem(status, title, detail, &[], reader)
    }
}

/// Any other status as a page, whoever asks: for addresses that only people open.
#[must_use]
pub fn shown(status: StatusCode, title: &str, detail: &str, reader: Reader<'_>) -> Response<ReplyBody> {
    page::page(status, title, detail, None, reader)
}

/// A redirect that nobody stores.
#[must_use]
pub fn redirect(status: StatusCode, to: &str) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::empty());
    *response.status_mut() = status;
    if let Ok(location) = HeaderValue::from_str(to) {
        response.headers_mut().insert(LOCATION, location);
    }
    never_stored(response.headers_mut());
    response
}

/// An answer without a body that nobody stores.
#[must_use]
pub fn bare(status: StatusCode) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::empty());
    *response.status_mut() = status;
    never_stored(response.headers_mut());
    response
}

/// Lets a script of an allowed origin read an answer (Fetch standard, CORS protocol).
pub fn allow_origin(headers: &mut HeaderMap, origin: &HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    headers.append(VARY, HeaderValue::from_static("Origin"));
}

fn problem(
    status: StatusCode,
    title: &str,
    detail: &str,
    more: &[(&str, &str)],
    reader: Reader<'_>,
) -> Response<ReplyBody> {
    let mut json = json!({
        "type": "about:blank",
        "title": title,
        "status": status.as_u16(),
        "detail": detail,
        "request_id": reader.request_id,
    });
    if let Some(members) = json.as_object_mut() {
        members.extend(more.iter().map(|(name, value)| ((*name).to_owned(), json!(value))));
    }
    let mut response = Response::new(ReplyBody::from(json.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    never_stored(headers);
    if let Some(origin) = reader.cors {
        allow_origin(headers, origin);
    }
    response
}

fn never_stored(headers: &mut HeaderMap) {
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_comes_back_whole_from_the_login_url() {
        let page = "https://app.example/a%20b/?q=1&r=a+b#frag;\u{e9}\"<";
        for base in ["https://id.example/login", "https://id.example/login?x=1", "https://id.example/#/login"]
        {
            let settings = LoginSettings::Redirect {
                url: Url::parse(base).expect("a URL"),
                parameter: "redirect".into(),
            };
            let made = Url::parse(&settings.for_page("https://app.example", page)).expect("a URL");
            let (_, value) = made.query_pairs().find(|(name, _)| name == "redirect").expect("the parameter");
            assert_eq!(value, page);
            assert_eq!(made.origin(), Url::parse(base).expect("a URL").origin());
            assert!(!made.query().unwrap_or_default().contains(['"', '<', ' ', '+']));
        }
        let own = LoginSettings::Form.for_page("https://app.example:8443", page);
        assert!(
            own.starts_with("https://app.example:8443/.doorkeep/sign-in?redirect=https%3A%2F%2F"),
            "{own}"
        );
    }
}
