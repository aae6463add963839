//! Bodies that are looked into before they go on: what nobody may send is refused, and who asks is said in them.
//! In: a head and its body. Out: the body to send. Errors: the answer to give. I/O: the client's connection.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::request::Parts;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError};

use crate::body::{BodyFault, Early, Limited, Replying};
use crate::forward::{ForwardError, GUARDED_BODY, with_request_info};
use crate::gateway::onward::{failed, too_large};
use crate::gateway::{App, Asked, Gateway};
use crate::reply;
use crate::verdict::Caller;

impl Gateway {
    /// Whether a request's body is looked into.
    pub(super) fn is_screened(&self, asked: &Asked<'_>, request: &Request<Limited>) -> bool {
        let guarded = self.0.guard.as_ref().is_some_and(|guard| guard.covers(request.uri().path()));
        guarded || asked.route.rule.digit_body.is_some()
    }

    /// The body of a request as it goes on.
    pub(super) async fn screened(
        &self,
        asked: &Asked<'_>,
        app: &App,
        (head, mut body): (&mut Parts, Limited),
        caller: &Caller,
    ) -> Result<Limited, Replying> {
        if let Some(guard) = self.0.guard.as_ref().filter(|guard| guard.covers(head.uri.path())) {
            let refuse =
                |fault: crate::forward::GuardFault| refused(asked, fault.status(), &fault.to_string());
            guard.query(head.uri.query().unwrap_or_default()).map_err(refuse)?;
            let bytes = whole(asked, body, GUARDED_BODY).await?;
            guard.body(&head.headers, &bytes).map_err(refuse)?;
            body = written(head, app, bytes);
        }
        if let Some(most) = asked.route.rule.digit_body {
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            let bytes = whole(asked, body, most).await?;
            let who = match caller {
                Caller::Anonymous => None,
                Caller::Known(identity, access) => Some((access.expose(), identity.claims())),
            };
            let bytes = with_request_info(&head.headers, bytes, who)
                .map_err(|fault| refused(asked, fault.status(), &fault.to_string()))?;
            body = written(head, app, bytes);
        }
        Ok(body)
    }
}

/// All of a body, of at most so many bytes.
async fn whole(asked: &Asked<'_>, body: Limited, most: usize) -> Result<Bytes, Replying> {
    match http_body_util::Limited::new(body, most).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Box::new(too_large(asked))),
        Err(error) => {
            let early = match error.downcast_ref::<BodyFault>() {
                Some(BodyFault::TooLarge) => Early::TooLarge,
                Some(BodyFault::Trailers) => Early::Trailers,
                Some(BodyFault::Stalled) => Early::Stalled,
                Some(BodyFault::Malformed(_)) => Early::Malformed,
                Some(BodyFault::Cut(_)) | None => Early::Cut,
            };
            Err(Box::new(failed(asked, &ForwardError::Body(early))))
        }
    }
}

/// A body that is here already, with its length in the head.
fn written(head: &mut Parts, app: &App, bytes: Bytes) -> Limited {
    if !bytes.is_empty() || head.headers.contains_key(CONTENT_LENGTH) {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    }
    Limited::whole(bytes, &app.body)
}

fn refused(asked: &Asked<'_>, status: StatusCode, detail: &str) -> Replying {
    let title = status.canonical_reason().unwrap_or("Bad Request");
    let mut response = reply::plain(status, title, detail, asked.reader());
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Box::new(response)
}
