//! What is remembered about a pair, as text for a file or for the share.
//! In: [`Slot`]. Out: what serde writes, and back. Errors: what does not read is `None`. I/O: none.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::clock::UnixTime;
use crate::outcome::{Issued, Lineage, RefusalReason, SessionKey};
use crate::renew::memory::{Entry, Lane, Slot, Told};
use crate::token::{AccessToken, RefreshToken, SessionId, TokenSet};

#[derive(Serialize, Deserialize)]
pub(super) enum WrittenSlot {
    Issued(Box<WrittenEntry>),
    Refused { reason: String, ends: UnixTime, lane: Lane },
    Unknown { not_before: UnixTime, ends: UnixTime, lane: Lane },
}

#[derive(Serialize, Deserialize)]
pub(super) struct WrittenEntry {
    access: String,
    refresh: String,
    rotated: bool,
    session: Option<String>,
    access_expires: Option<UnixTime>,
    refresh_expires: Option<UnixTime>,
    received_at: UnixTime,
    family: String,
    started_at: UnixTime,
    subject: Option<String>,
    next: String,
    confirmed: Option<UnixTime>,
    delivered: Option<UnixTime>,
    older_set: Option<UnixTime>,
    ends: UnixTime,
}

pub(super) fn put_down(slot: &Slot) -> WrittenSlot {
    match slot {
        Slot::Issued(Entry { issued, next, delivered, confirmed, older_set, ends }) => {
            let Issued { tokens, lineage, .. } = &**issued;
            WrittenSlot::Issued(Box::new(WrittenEntry {
                access: tokens.access.expose().to_owned(),
                refresh: tokens.refresh.expose().to_owned(),
                rotated: tokens.rotated,
                session: tokens.session.as_ref().map(|id| id.expose().to_owned()),
                access_expires: tokens.access_expires,
                refresh_expires: tokens.refresh_expires,
                received_at: tokens.received_at,
                family: text(lineage.family),
                started_at: lineage.started_at,
                subject: lineage.subject.clone(),
                next: text(*next),
                confirmed: *confirmed,
                delivered: *delivered,
                older_set: *older_set,
                ends: *ends,
            }))
        }
        Slot::Refused { reason, ends, lane, .. } => {
            WrittenSlot::Refused { reason: reason.word().to_owned(), ends: *ends, lane: *lane }
        }
        Slot::Unknown { not_before, ends, lane } => {
            WrittenSlot::Unknown { not_before: *not_before, ends: *ends, lane: *lane }
        }
    }
}

pub(super) fn take_up(presented: SessionKey, slot: WrittenSlot) -> Option<Slot> {
    Some(match slot {
        WrittenSlot::Issued(written) => {
            let written = *written;
            let tokens = TokenSet {
                access: AccessToken::parse(&written.access)?,
                refresh: RefreshToken::parse(&written.refresh)?,
                rotated: written.rotated,
                session: written.session.as_deref().and_then(SessionId::parse),
                access_expires: written.access_expires,
                refresh_expires: written.refresh_expires,
                received_at: written.received_at,
            };
            let lineage = Lineage {
                family: key(&written.family)?,
                started_at: written.started_at,
                subject: written.subject,
            };
            Slot::Issued(Entry {
                issued: Arc::new(Issued { tokens, presented, lineage }),
                next: key(&written.next)?,
                delivered: written.delivered,
                confirmed: written.confirmed,
                older_set: written.older_set,
                ends: written.ends,
            })
        }
        WrittenSlot::Refused { reason, ends, lane } => {
            let reason = [RefusalReason::ByBackend, RefusalReason::SubjectChanged, RefusalReason::SignedOut]
                .into_iter()
                .find(|known| known.word() == reason)?;
            Slot::Refused { reason, ends, told: Told::No, lane }
        }
        WrittenSlot::Unknown { not_before, ends, lane } => Slot::Unknown { not_before, ends, lane },
    })
}

pub(super) fn text(key: SessionKey) -> String {
    URL_SAFE_NO_PAD.encode(key.0)
}

pub(super) fn key(text: &str) -> Option<SessionKey> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(SessionKey)
}
