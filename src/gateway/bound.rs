//! Tunnels and event streams of a session end with it.
//! In: an admitted request. Out: its bond, or its answer bound. Errors: none. I/O: none.

use std::mem;
use std::sync::Arc;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Response};

use crate::body::ReplyBody;
use crate::forward::Parting;
use crate::gateway::{Asked, Gateway};
use crate::outcome::{Freshness, TokenState};
use crate::renew::{Bond, Tied};
use crate::route::OnSessionEnd;
use crate::server::Life;
use crate::session::cookies::Presented;
use crate::token::Ending;
use crate::verdict::{Caller, CookieChange};

/// For whom a request goes on, and of which session.
#[derive(Clone, Copy)]
pub(super) struct Admitted<'a> {
    pub(super) caller: &'a Caller,
    pub(super) presented: Option<&'a Presented>,
    pub(super) change: &'a CookieChange,
}

impl<'a> Admitted<'a> {
    pub(super) fn of(
        caller: &'a Caller,
        presented: &'a Option<Arc<Presented>>,
        change: &'a CookieChange,
    ) -> Self {
        Self { caller, presented: presented.as_deref(), change }
    }
}

impl Gateway {
    /// A bond to the session of a request, where it has one and its rule says so.
    pub(super) fn bond(&self, asked: &Asked<'_>, admitted: Admitted<'_>) -> Option<Bond> {
        let Caller::Known(who, _) = admitted.caller else { return None };
        if asked.route.rule.on_session_end == OnSessionEnd::Keep {
            return None;
        }
        let (sessions, presented) = (&self.0.sessions, admitted.presented?);
        let policy = &sessions.policy;
        let state = TokenState::Live(who.clone(), Freshness::Fresh);
        let mut names = sessions.marks(presented, &state, &asked.route.site.host);
        let key = match admitted.change {
            CookieChange::Store(issued) => {
                names.extend(policy.marks(&Ending::of(issued.tokens.pair(), None)));
                names.extend([issued.lineage.family, issued.presented]);
                Some(issued.presented)
            }
            CookieChange::Keep | CookieChange::Clear(_) | CookieChange::Note(_) => {
                sessions.pair_key(presented, who)
            }
        };
        Some(self.0.renewer.bind(Tied { names, key, who: who.clone() }))
    }

    /// Lets an answer come to its end with the session, where it is an event stream.
    pub(super) fn bind(&self, asked: &Asked<'_>, admitted: Admitted<'_>, response: &mut Response<ReplyBody>) {
        if matches!(admitted.caller, Caller::Known(..))
            && is_event_stream(response.headers())
            && let Some(bond) = self.bond(asked, admitted)
        {
            let body = mem::replace(response.body_mut(), ReplyBody::empty());
            *response.body_mut() = body.until(bond.over());
        }
    }
}

/// Waits for what ends a tunnel from here.
pub(super) async fn parting(bond: Option<Bond>, life: Life) -> Parting {
    let Some(bond) = bond else {
        life.leave.cancelled().await;
        return Parting::GoingAway;
    };
    tokio::select! {
        () = bond.over() => Parting::SessionOver,
        () = life.leave.cancelled() => Parting::GoingAway,
    }
}

/// Whether an answer goes on as long as somebody listens (HTML standard, §9.2 server-sent events).
fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let media = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        media.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
    })
}
