//! What this gateway notes about a session beside its tokens.
//! In: what was issued. Out: [`Notes`]. Errors: none. I/O: none.

use std::time::Duration;

use crate::clock::UnixTime;
use crate::outcome::{Issued, Lineage, SessionKey};

/// What the tokens alone do not tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notes {
    /// The session: user, family and start.
    pub lineage: Lineage,
    /// When the access token came.
    pub received_at: UnixTime,
    /// How long it lives from then.
    pub expires_in: Option<Duration>,
    /// When the refresh token ends.
    pub refresh_expires: Option<UnixTime>,
    /// The tokens that these notes are about: notes beside other tokens are not believed.
    pub about: SessionKey,
}

impl Notes {
    /// Notes about what was just issued; `about` is the key of the pair that the client will present next.
    #[must_use]
    pub fn of(issued: &Issued, about: SessionKey) -> Self {
        Self {
            lineage: issued.lineage.clone(),
            received_at: issued.tokens.received_at,
            expires_in: issued.tokens.expires_in(),
            refresh_expires: issued.tokens.refresh_expires,
            about,
        }
    }
}
