//! Plain pages for people: what happened, what to do, and the request's id.
//! In: texts. Out: HTML responses that nobody stores, frames or scripts. Errors: none. I/O: none.

use std::fmt::Write as _;

use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Response, StatusCode};

use crate::body::ReplyBody;
use crate::reply::Reader;
use crate::text::html_escaped;

const STYLE: &str = "body{font:17px/1.5 system-ui,sans-serif;color:#1c2430;background:#f4f6f8;margin:0;display:grid;\
min-height:100vh;place-items:center}main{background:#fff;max-width:32rem;margin:1rem;padding:2rem 2.2rem;\
border-radius:14px;box-shadow:0 1px 3px #0002,0 12px 40px #0001}h1{font-size:1.4rem;margin:0 0 .6rem}\
a{color:#0b5cad}small{color:#687585}code{font-size:.85em}@media(prefers-color-scheme:dark){body{background:#12161c;\
color:#e6ebf2}main{background:#1b222c}a{color:#7db7f5}small{color:#94a1b2}}";

/// A page with a title, a text and perhaps a link.
pub(super) fn page(
    status: StatusCode,
    title: &str,
    detail: &str,
    link: Option<(&str, String)>,
    reader: Reader<'_>,
) -> Response<ReplyBody> {
    let mut body = String::new();
    if let Some((text, to)) = link {
        write_all(
            &mut body,
            format_args!("<p><a href=\"{}\">{}</a></p>", html_escaped(&to), html_escaped(text)),
        );
    }
    html(status, title, detail, "", &body, reader)
}

/// A page that asks again after some seconds.
pub(super) fn retrying(
    status: StatusCode,
    title: &str,
    detail: &str,
    secs: u64,
    reader: Reader<'_>,
) -> Response<ReplyBody> {
    let head = format!("<meta http-equiv=\"refresh\" content=\"{secs}\">");
    let body = format!("<p>This page tries again by itself in {secs} s.</p>");
    html(status, title, detail, &head, &body, reader)
}

#[allow(clippy::too_many_arguments, reason = "the parts of one page")]
fn html(
    status: StatusCode,
    title: &str,
    detail: &str,
    head: &str,
    body: &str,
    reader: Reader<'_>,
) -> Response<ReplyBody> {
    let title = html_escaped(title);
    let text = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width\">{head}<style>{STYLE}</style></head>\
         <body><main><h1>{title}</h1><p>{}</p>{body}<small>Request <code>{}</code></small></main></body></html>\n",
        html_escaped(detail),
        html_escaped(reader.request_id),
    );
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'";
    let mut response = form(status, text, HeaderValue::from_static(policy));
    let none = HeaderValue::from_static("no-referrer");
    response.headers_mut().insert(HeaderName::from_static("referrer-policy"), none);
    response
}

/// A page with a form that is sent to its own origin: a browser that hid where it comes from would write its `Origin` as
/// `null` (Fetch standard, "append a request `Origin` header").
#[must_use]
pub fn form(status: StatusCode, html: String, policy: HeaderValue) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::from(html));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    headers.insert(HeaderName::from_static("x-frame-options"), HeaderValue::from_static("DENY"));
    headers.insert(HeaderName::from_static("referrer-policy"), HeaderValue::from_static("same-origin"));
    response
}

fn write_all(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    let written = text.write_fmt(arguments);
    debug_assert!(written.is_ok(), "writing to a String does not fail");
}
