//! The gateway's own sign-in page: `/.doorkeep/sign-in` on every site where `login.mode` is `"form"`.
//! In: a request for it. Out: the page, or 303 back with a new session. Errors: none. I/O: the session backend.
//!
//! | what comes | answer |
//! | --- | --- |
//! | GET without a live session | 200, the page |
//! | GET with one | 303 to the page to come back to |
//! | POST of another page | 403; nothing is read |
//! | … whose form is not this browser's, or too old | 403, the page anew |
//! | … with something left empty, or refused | 422, the page: it is the content that is not accepted, and 401 would need a challenge |
//! | … too often | 429 with `Retry-After`, the page |
//! | … while the backend gives no decision | 503 with `Retry-After`, the page |
//! | … whose tokens do not verify | 500: the settings are wrong |
//! | … that is right | 303 to the page to come back to, with the cookies of a new session |

use std::sync::Arc;
use std::time::Duration;

use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, COOKIE, RETRY_AFTER, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use url::Url;

use crate::access_log::Visit;
use crate::body::{BodyFault, Limited, ReplyBody};
use crate::gateway::own::OWN_PATHS;
use crate::gateway::{Asked, Gateway, declined};
use crate::outcome::{BackendFault, Renewed, TokenFault, TokenState};
use crate::renew::SignedIn;
use crate::reply::{self, Returns};
use crate::route::{CrossSite, own_form, return_target};
use crate::server::Asking;
use crate::session::cookies::{self, Copies, Presented};
use crate::sign_in::{COOKIE_LIFE, Desk, Mark, Outcome, Shown, Submission, Ticket, Turn};
use crate::token::Credentials;

/// Largest form, in bytes.
const FORM_CAP: u64 = 16 * 1024;

/// What the page says, in its own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// Nothing: it is shown for the first time.
    Nothing,
    /// This, under this status, to be tried again after so long.
    Why(StatusCode, &'static str, Option<Duration>),
}

/// The page as it is shown to one browser.
struct View<'a> {
    desk: &'a Desk,
    asked: &'a Asked<'a>,
    back: Option<String>,
    cookie: Option<String>,
}

impl Gateway {
    pub(super) async fn sign_in_page(
        &self,
        desk: &Desk,
        asked: &Asked<'_>,
        request: Asking,
        visit: &mut Visit<'_>,
    ) -> Response<ReplyBody> {
        visit.verdict = "sign_in";
        let cookie = cookies::one(request.headers(), self.0.sessions.carrier.form_name());
        let view = View { desk, asked, back: back(asked), cookie };
        match *request.method() {
            Method::GET | Method::HEAD => self.show_form(&view, request.headers(), visit).await,
            Method::POST => {
                let response = self.take_form(&view, request, visit).await;
                self.0.meters.sign_in(visit.sign_in);
                response
            }
            _ => {
                let detail = "This page is opened, and its form is sent by POST.";
                let mut response =
                    reply::plain(StatusCode::METHOD_NOT_ALLOWED, "Not so", detail, asked.reader());
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
                response
            }
        }
    }

    /// Whoever is signed in already goes on: by the same judgement as on any other page, so that the two never send a
    /// browser back and forth.
    async fn show_form(
        &self,
        view: &View<'_>,
        headers: &HeaderMap,
        visit: &mut Visit<'_>,
    ) -> Response<ReplyBody> {
        let (presented, state) = self.before(view.asked, headers).await;
        if let TokenState::Live(who, _) = &state
            && !self.is_signed_out(view.asked, &presented, &state)
        {
            visit.sign_in = "already";
            visit.signed_in(who.clone());
            return reply::redirect(StatusCode::SEE_OTHER, &view.target());
        }
        visit.sign_in = "shown";
        self.page(view, None, Told::Nothing)
    }

    async fn take_form(
        &self,
        view: &View<'_>,
        request: Asking,
        visit: &mut Visit<'_>,
    ) -> Response<ReplyBody> {
        let asked = view.asked;
        if own_form(request.headers(), asked.route.site) == CrossSite::Refused {
            visit.sign_in = "cross_site";
            let detail = "Another site's page asked for this. Open this site itself and sign in there.";
            return closing(reply::shown(StatusCode::FORBIDDEN, "Not allowed", detail, asked.reader()));
        }
        let (head, body) = request.into_parts();
        let (status, title, detail) = match self.read_form(view, &head.headers, body).await {
            Ok(sent) => return self.take(view, &head.headers, sent, visit).await,
            Err(why) => why,
        };
        visit.sign_in = "malformed";
        closing(reply::shown(status, title, detail, asked.reader()))
    }

    /// The form, all of it within the time that a body may pause.
    async fn read_form(
        &self,
        view: &View<'_>,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Submission, (StatusCode, &'static str, &'static str)> {
        let unreadable = (StatusCode::BAD_REQUEST, "Not so", "This is not what the form of this page sends.");
        let slow = (StatusCode::REQUEST_TIMEOUT, "Request incomplete", "The form did not come in time.");
        let large =
            (StatusCode::PAYLOAD_TOO_LARGE, "Too large", "This is more than the form of this page holds.");
        if !is_form(headers) {
            return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, unreadable.1, unreadable.2));
        }
        let Some(app) = self.0.apps.get(view.asked.route.index) else { return Err(unreadable) };
        let body = Limited::new(body, &app.body).at_most(FORM_CAP);
        let bytes = match tokio::time::timeout(app.body.idle, body.collect()).await {
            Ok(Ok(whole)) => whole.to_bytes(),
            Ok(Err(BodyFault::TooLarge | BodyFault::Trailers)) => return Err(large),
            Ok(Err(BodyFault::Malformed(_))) => return Err(unreadable),
            Ok(Err(BodyFault::Stalled | BodyFault::Cut(_))) | Err(_) => return Err(slow),
        };
        view.desk.read(&bytes).map_err(|fault| {
            tracing::debug!(%fault, request_id = &*view.asked.request_id, "a sign-in form");
            unreadable
        })
    }

    /// A form that could be read: what comes of it.
    async fn take(
        &self,
        view: &View<'_>,
        headers: &HeaderMap,
        sent: Submission,
        visit: &mut Visit<'_>,
    ) -> Response<ReplyBody> {
        let (desk, asked) = (view.desk, view.asked);
        let again = |told| self.page(view, Some(&sent), told);
        let (wait, ticket) = match self.admit(view, headers, &sent) {
            Ok(admitted) => admitted,
            Err((word, told)) => {
                visit.sign_in = word;
                return again(told);
            }
        };
        tokio::time::sleep(wait).await;
        let signed_in = self.ask_backend(desk, &sent).await;
        let now = self.0.clock.now();
        match signed_in {
            SignedIn::As(renewed) => {
                desk.settle(&ticket, Outcome::SignedIn, now);
                visit.sign_in = "signed_in";
                visit.signed_in(renewed.identity.clone());
                self.go_back(view, headers, &renewed).await
            }
            SignedIn::Refused => {
                desk.settle(&ticket, Outcome::Failed, now);
                visit.sign_in = "refused";
                again(REFUSED)
            }
            SignedIn::Unavailable(fault) => {
                desk.settle(&ticket, Outcome::Undecided, now);
                visit.sign_in = fault.word();
                tell(asked, &fault);
                again(Told::Why(StatusCode::SERVICE_UNAVAILABLE, AWAY, Some(declined::RETRY_AFTER)))
            }
            SignedIn::Unverifiable(fault) => {
                desk.settle(&ticket, Outcome::Undecided, now);
                visit.sign_in = "unverifiable";
                unverifiable(asked, fault)
            }
        }
    }

    /// Whether the session backend is asked, after which wait; else what the page says, and the word for the log.
    fn admit(
        &self,
        view: &View<'_>,
        headers: &HeaderMap,
        sent: &Submission,
    ) -> Result<(Duration, Ticket), (&'static str, Told)> {
        let (desk, asked) = (view.desk, view.asked);
        let now = self.0.clock.now();
        let mark = desk.mark(view.cookie.as_deref(), &sent.form, &asked.route.site.host, now);
        match mark {
            Mark::Strange if headers.contains_key(COOKIE) => return Err(("stale_form", STALE)),
            Mark::Strange => return Err(("stale_form", NO_COOKIES)),
            Mark::Ours => {}
        }
        if !sent.is_complete() {
            return Err(("incomplete", INCOMPLETE));
        }
        match desk.turn(asked.hops.client, &sent.user, now) {
            Turn::After(wait, ticket) => Ok((wait, ticket)),
            Turn::Refused(wait) => {
                Err(("limited", Told::Why(StatusCode::TOO_MANY_REQUESTS, TOO_OFTEN, Some(wait))))
            }
        }
    }

    async fn ask_backend(&self, desk: &Desk, sent: &Submission) -> SignedIn {
        let Some(_held) = desk.slot() else { return SignedIn::Unavailable(BackendFault::Busy) };
        let credentials = Credentials {
            user: sent.user.clone(),
            password: sent.password.clone(),
            further: sent.further.clone(),
        };
        self.0.renewer.sign_in(&credentials, desk.patience).await
    }

    /// The cookies of a new session, and the way back. Another user's old session is set aside here.
    async fn go_back(&self, view: &View<'_>, headers: &HeaderMap, renewed: &Renewed) -> Response<ReplyBody> {
        let sessions = &self.0.sessions;
        let (asked, now) = (view.asked, self.0.clock.now());
        let host = &asked.route.site.host;
        let (presented, state) = self.before(asked, headers).await;
        if let TokenState::Live(who, _) | TokenState::Expired(who) = &state
            && who.subject() != renewed.identity.subject()
            && let Some(request) = sessions.sign_out_request(&presented, &state, host)
        {
            self.0.renewer.set_aside(&request);
        }
        let target = view.target();
        let mut response = reply::redirect(StatusCode::SEE_OTHER, &target);
        let about = sessions.policy.key(&renewed.issued.tokens.pair());
        // Copies of this host alone would go on contradicting what is set for the shared domain.
        let copies =
            if presented.copies == Copies::Differ { sessions.carrier.clear_host_only() } else { Vec::new() };
        let lines =
            copies.into_iter().chain(sessions.carrier.store((&renewed.issued, None), about, host, now));
        let page = target.split('#').next().unwrap_or_default();
        let returns = Returns::after_sign_in(sessions.policy.keys.digest(&["page", page]), now);
        for line in lines.chain(sessions.carrier.returns(Some(&returns.to_string()))) {
            response.headers_mut().append(SET_COOKIE, line);
        }
        response
    }

    fn page(&self, view: &View<'_>, sent: Option<&Submission>, told: Told) -> Response<ReplyBody> {
        let (desk, asked) = (view.desk, view.asked);
        let site = asked.route.site;
        let Some(held) = desk.hold(view.cookie.as_deref(), &site.host, self.0.clock.now()) else {
            return reply::plain(StatusCode::INTERNAL_SERVER_ERROR, "Our fault", "", asked.reader());
        };
        let (status, alert, after) = match told {
            Told::Nothing => (StatusCode::OK, "", None),
            Told::Why(status, text, after) => (status, text, after),
        };
        let shown = Shown {
            site: &site.host,
            action: &view.action(),
            form: &held.form,
            user: sent.map_or("", |sent| &sent.user),
            further: sent.map_or(&[], |sent| &sent.further),
            alert,
            request_id: &asked.request_id,
        };
        let policy = desk.policy(site.trusted_origins.iter().map(crate::route::Origin::as_str));
        let mut response = reply::form(status, desk.page(&shown), policy);
        let cookie = held.cookie.and_then(|value| self.0.sessions.carrier.form(&value, COOKIE_LIFE));
        response.headers_mut().extend(cookie.map(|line| (SET_COOKIE, line)));
        let after = after.map(|after| (RETRY_AFTER, HeaderValue::from(after.as_secs().max(1))));
        response.headers_mut().extend(after);
        response
    }

    /// The session that the browser has had so far.
    async fn before(&self, asked: &Asked<'_>, headers: &HeaderMap) -> (Arc<Presented>, TokenState) {
        let (host, now) = (&asked.route.site.host, self.0.clock.now());
        let (presented, state, _) =
            self.0.checker.look(&self.0.sessions, (headers, asked.network()), host, now).await;
        (presented, state)
    }

    fn is_signed_out(&self, asked: &Asked<'_>, presented: &Presented, state: &TokenState) -> bool {
        let marks = self.0.sessions.marks(presented, state, &asked.route.site.host);
        self.0.renewer.signed_out(&marks).is_some()
    }
}

impl View<'_> {
    /// Where the browser goes once somebody is signed in.
    fn target(&self) -> String {
        self.back.clone().unwrap_or_else(|| format!("{}/", self.asked.route.site.origin.as_str()))
    }

    /// Where the form is sent: the page to come back to stands in its address, as it was checked.
    fn action(&self) -> String {
        let query = self.back.as_ref().map(|page| {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query.append_pair(reply::SIGN_IN_PARAMETER, page);
            format!("?{}", query.finish())
        });
        format!("{}{}", reply::SIGN_IN_PATH, query.unwrap_or_default())
    }
}

const STALE: Told = Told::Why(
    StatusCode::FORBIDDEN,
    "This page was open for too long, or in another window for somebody else. Please enter your password again.",
    None,
);
const NO_COOKIES: Told = Told::Why(
    StatusCode::FORBIDDEN,
    "Your browser sends no cookies back. Allow cookies for this site, then enter your password again.",
    None,
);
const INCOMPLETE: Told =
    Told::Why(StatusCode::UNPROCESSABLE_ENTITY, "Something is left empty. Please fill in everything.", None);
const REFUSED: Told = Told::Why(
    StatusCode::UNPROCESSABLE_ENTITY,
    "That did not work: user name or password is not right. Please try again.",
    None,
);
const TOO_OFTEN: &str = "There were too many attempts. Please wait a while, then try again.";
const AWAY: &str =
    "Nobody can be signed in at the moment. Nothing is lost but the password: please try again in a moment.";

/// The page to come back to, where one is named once and is one of ours: not the gateway's own.
fn back(asked: &Asked<'_>) -> Option<String> {
    let query = asked.target.query()?;
    let pairs = url::form_urlencoded::parse(query.as_bytes());
    let mut wanted = pairs.filter(|(name, _)| name == reply::SIGN_IN_PARAMETER).map(|(_, value)| value);
    let target = wanted.next().and_then(|text| return_target(&text, asked.route.site))?;
    let own = Url::parse(&target).is_ok_and(|url| url.path().starts_with(OWN_PATHS));
    (wanted.next().is_none() && !own).then_some(target)
}

fn is_form(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter().map(|kind| kind.to_str().unwrap_or_default());
    let form = "application/x-www-form-urlencoded";
    let first = types.next().and_then(|kind| kind.split(';').next());
    first.is_some_and(|kind| kind.trim().eq_ignore_ascii_case(form)) && types.next().is_none()
}

/// What is not read is not taken for the next request.
fn closing(mut response: Response<ReplyBody>) -> Response<ReplyBody> {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The backend says yes, and nothing that it issues counts here.
fn unverifiable(asked: &Asked<'_>, fault: TokenFault) -> Response<ReplyBody> {
    let request_id = &*asked.request_id;
    tracing::error!(%fault, request_id, "people sign in at the session backend with tokens that do not verify here: check session.token");
    let detail = "Name and password were right, but this site cannot read what the session backend issued. \
                  Its settings have to be corrected; trying again does not help.";
    reply::shown(StatusCode::INTERNAL_SERVER_ERROR, "Signed in, but not here", detail, asked.reader())
}

fn tell(asked: &Asked<'_>, fault: &BackendFault) {
    let request_id = &*asked.request_id;
    if let BackendFault::ClientRejected { .. } = fault {
        tracing::error!(%fault, request_id, "sign-in: check this gateway's settings for the backend");
    } else {
        tracing::warn!(%fault, request_id, "sign-in");
    }
}
