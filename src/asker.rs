//! Who asks: a person whose browser shows the answer as a page, or a script.
//! In: method and header lines. Out: [`Asker`]. Errors: none. I/O: none.
//! Source: W3C Fetch Metadata (`Sec-Fetch-Mode`); RFC 9110 §12.5.1 (`Accept`); RFC 6455 §4.1 (WebSocket handshake).

use http::header::{ACCEPT, CONNECTION, CONTENT_TYPE, UPGRADE};
use http::{HeaderName, HeaderValue, Method};

use crate::fields::Head;

const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const X_REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");

/// What kind of answer the client can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A page view by GET or HEAD: a redirect brings the person to the login and back.
    Navigation,
    /// A form that was sent by another method and whose answer is shown as a page.
    FormPost,
    /// A script, an image, a tool: it understands a status, not a page.
    Script,
    /// A WebSocket handshake.
    WebSocket,
}

impl Asker {
    /// Reads the asker from a request head.
    #[must_use]
    pub fn read(method: &Method, head: Head<'_>) -> Self {
        if is_websocket(head) {
            return Self::WebSocket;
        }
        let safe = matches!(*method, Method::GET | Method::HEAD);
        let navigates = match head.get(&SEC_FETCH_MODE) {
            Some(mode) => mode == "navigate",
            None => {
                (safe || is_form(method, head))
                    && wants_html(head)
                    && head.get(&X_REQUESTED_WITH).is_none_or(|v| v != "XMLHttpRequest")
            }
        };
        match (navigates, safe) {
            (true, true) => Self::Navigation,
            (true, false) => Self::FormPost,
            (false, _) => Self::Script,
        }
    }

    /// Whether the answer is shown to a person as a page.
    #[must_use]
    pub const fn sees_pages(self) -> bool {
        matches!(self, Self::Navigation | Self::FormPost)
    }
}

/// Whether the head asks to switch to the WebSocket protocol.
#[must_use]
pub fn is_websocket(head: Head<'_>) -> bool {
    let lists = |name: &HeaderName, word: &str| {
        head.get_all(name).any(|line| {
            line.to_str().is_ok_and(|text| text.split(',').any(|item| item.trim().eq_ignore_ascii_case(word)))
        })
    };
    lists(&UPGRADE, "websocket") && lists(&CONNECTION, "upgrade")
}

/// Whether a browser sent a form: the types that forms have (WHATWG HTML, form submission).
fn is_form(method: &Method, head: Head<'_>) -> bool {
    let types = ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"];
    *method == Method::POST
        && head.get(&CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|text| {
            text.split(';')
                .next()
                .is_some_and(|media| types.iter().any(|t| media.trim().eq_ignore_ascii_case(t)))
        })
}

fn wants_html(head: Head<'_>) -> bool {
    const HTML: &str = "text/html";
    let lists_it = |text: &str| {
        text.split(',')
            .any(|item| item.split(';').next().is_some_and(|media| media.trim().eq_ignore_ascii_case(HTML)))
    };
    // Scripts mostly take anything, in fewer letters.
    let lines = head.get_all(&ACCEPT).filter(|line| line.len() >= HTML.len());
    lines.map(HeaderValue::to_str).any(|line| line.is_ok_and(lists_it))
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn asker(method: &Method, lines: &[(&str, &str)]) -> Asker {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).expect("a name"),
                HeaderValue::from_str(value).expect("a value"),
            );
        }
        Asker::read(method, Head::of(&headers))
    }

    #[test]
    fn fetch_metadata_decides_where_it_is_sent() {
        let html = ("accept", "text/html,application/xhtml+xml");
        assert_eq!(asker(&Method::GET, &[("sec-fetch-mode", "navigate")]), Asker::Navigation);
        assert_eq!(asker(&Method::GET, &[("sec-fetch-mode", "cors"), html]), Asker::Script);
        assert_eq!(asker(&Method::POST, &[("sec-fetch-mode", "navigate")]), Asker::FormPost);
        assert_eq!(asker(&Method::POST, &[html]), Asker::Script);
    }

    #[test]
    fn without_it_the_accept_header_does() {
        assert_eq!(
            asker(&Method::GET, &[("accept", "application/json, Text/HTML;q=0.9")]),
            Asker::Navigation
        );
        assert_eq!(asker(&Method::HEAD, &[("accept", "*/*")]), Asker::Script);
        let form = ("content-type", "application/x-www-form-urlencoded; charset=utf-8");
        assert_eq!(asker(&Method::POST, &[("accept", "text/html"), form]), Asker::FormPost);
        assert_eq!(asker(&Method::POST, &[form]), Asker::Script);
        assert_eq!(asker(&Method::PUT, &[("accept", "text/html"), form]), Asker::Script);
        assert_eq!(asker(&Method::GET, &[("accept", "text/htmlx")]), Asker::Script);
        assert_eq!(
            asker(&Method::GET, &[("accept", "text/html"), ("x-requested-with", "XMLHttpRequest")]),
            Asker::Script
        );
    }

    #[test]
    fn a_websocket_handshake_is_no_navigation() {
        let lines =
            [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket"), ("accept", "text/html")];
        assert_eq!(asker(&Method::GET, &lines), Asker::WebSocket);
        assert_eq!(
            asker(&Method::GET, &[("upgrade", "websocket"), ("accept", "text/html")]),
            Asker::Navigation
        );
    }
}
