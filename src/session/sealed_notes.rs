//! Our notes about a session, sealed in a cookie of ours beside the tokens. They are never needed to admit anybody.
//! In: notes, or sealed text. Out: sealed text, or notes that belong to the presented tokens. Errors: none. I/O: none.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::clock::UnixTime;
use crate::notes::Notes;
use crate::outcome::{Lineage, SessionKey};
use crate::session::seal::Sealer;

/// Seals notes for the cookie `name` on `host`. `None` where the system has no random numbers.
#[must_use]
pub(crate) fn seal(notes: &Notes, sealer: &Sealer, name: &str, host: &str) -> Option<String> {
    sealer.seal(&serde_json::to_vec(&Written::from(notes)).ok()?, &bound_to(name, host))
}

/// Opens notes that were sealed for the same cookie and host.
#[must_use]
pub(crate) fn open(text: &str, sealer: &Sealer, name: &str, host: &str) -> Option<Notes> {
    let plain = sealer.open(text, &bound_to(name, host))?;
    serde_json::from_slice::<Written>(&plain).ok()?.read()
}

/// The notes as they stand inside the seal.
#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(rename = "u", skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(rename = "s")]
    started_at: UnixTime,
    #[serde(rename = "t")]
    received_at: UnixTime,
    #[serde(rename = "i", skip_serializing_if = "Option::is_none")]
    expires_in: Option<u64>,
    #[serde(rename = "r", skip_serializing_if = "Option::is_none")]
    refresh_expires: Option<UnixTime>,
    #[serde(rename = "f")]
    family: String,
    #[serde(rename = "a")]
    about: String,
}

impl From<&Notes> for Written {
    fn from(notes: &Notes) -> Self {
        Self {
            subject: notes.lineage.subject.clone(),
            started_at: notes.lineage.started_at,
            received_at: notes.received_at,
            expires_in: notes.expires_in.map(|span| span.as_secs()),
            refresh_expires: notes.refresh_expires,
            family: URL_SAFE_NO_PAD.encode(notes.lineage.family.0),
            about: URL_SAFE_NO_PAD.encode(notes.about.0),
        }
    }
}

impl Written {
    fn read(self) -> Option<Notes> {
        let key = |text: &str| URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(SessionKey);
        Some(Notes {
            lineage: Lineage {
                family: key(&self.family)?,
                started_at: self.started_at,
                subject: self.subject,
            },
            received_at: self.received_at,
            expires_in: self.expires_in.map(Duration::from_secs),
            refresh_expires: self.refresh_expires,
            about: key(&self.about)?,
        })
    }
}

fn bound_to(name: &str, host: &str) -> Vec<u8> {
    format!("doorkeep state v1\0{name}\0{host}").into_bytes()
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;
    use crate::secret::Secret;

    #[test]
    fn notes_come_back_only_under_their_name_and_host() {
        let sealer = Sealer::new(&[Secret::new(vec![1; 32])]);
        let notes = Notes {
            lineage: Lineage {
                family: SessionKey([7; 32]),
                started_at: UnixTime::from_secs(5),
                subject: Some("ana@example.test".into()),
            },
            received_at: UnixTime::from_secs(6),
            expires_in: Some(Duration::from_secs(60)),
            refresh_expires: None,
            about: SessionKey([9; 32]),
        };
        let text = seal(&notes, &sealer, "s", "app.test").expect("random numbers");
        let bytes = URL_SAFE_NO_PAD.decode(&text).expect("base64url");
        assert!(!String::from_utf8_lossy(&bytes).contains("ana@example.test"));
        assert_eq!(open(&text, &sealer, "s", "app.test"), Some(notes));
        assert_eq!(open(&text, &sealer, "s", "other.test"), None);
        assert_eq!(open(&text, &sealer, "t", "app.test"), None);
        assert_eq!(open("junk", &sealer, "s", "app.test"), None);
    }
}
