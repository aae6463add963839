//! What a presented or just issued access token turns out to be: by its signature, or by asking its backend.
//! In: access tokens. Out: [`Verified`], or the fault for which nobody could tell. Errors: [`BackendFault`]; it admits
//! nobody and ends no session. I/O: the session backend, for tokens that are not signed.
//!
//! A signed token is verified here and now. An opaque one is asked about, and the answer is kept for a few seconds: see
//! [`introspector`].

pub mod introspector;

use std::sync::Arc;

use http::HeaderMap;

use crate::admit::{AdmitRules, Health};
use crate::check::introspector::{Introspector, Standing};
use crate::clock::UnixTime;
use crate::network::Network;
use crate::outcome::{BackendFault, SessionKey, TokenState};
use crate::session::Sessions;
use crate::session::cookies::Presented;
use crate::session::verifier::{Seen, Verified, Verifier};
use crate::token::{AccessToken, TokenSet};

/// Tells what access tokens are.
#[derive(Debug)]
pub enum Checker {
    /// They are signed.
    Signed(Arc<Verifier>),
    /// They are opaque: their backend tells.
    Opaque(Introspector),
}

impl Checker {
    /// What a request head presents that came from a network, what its access token turned out to be, and whether this token is new here.
    pub async fn look(
        &self,
        sessions: &Sessions,
        (headers, network): (&HeaderMap, Network),
        host: &str,
        now: UnixTime,
    ) -> (Arc<Presented>, TokenState, Seen) {
        let mut known = None;
        let mut presented = sessions.read(headers, network, |text| {
            let (token, verified) = self.known(text, now)?;
            known = Some(verified);
            Some(token)
        });
        let checked = match (&presented.access, known) {
            (None, _) => None,
            (Some(_), Some(verified)) => Some(Ok((verified, Seen::Before))),
            (Some(access), None) => {
                let noted = || sessions.noted(&presented, host);
                let standing = || noted().map_or(Standing::Stranger, Standing::Vouched);
                Some(self.presented(access, (standing, network), now).await)
            }
        };
        let (verified, seen) = match checked {
            None => (None, Seen::First),
            Some(Ok((verified, seen))) => (Some(verified), seen),
            Some(Err(fault)) => return (Arc::new(presented), TokenState::Unchecked(fault), Seen::First),
        };
        let state = sessions.state(&mut presented, verified, host, now);
        (Arc::new(presented), state, seen)
    }

    /// The token of this text and what it is now, where it was verified before.
    fn known(&self, text: &[u8], now: UnixTime) -> Option<(AccessToken, Verified)> {
        match self {
            Self::Signed(verifier) => verifier.known(text, now),
            Self::Opaque(_) => None,
        }
    }

    /// What a token is that a client in a network presents. `standing` is asked for where nothing else
    /// tells whether the token is anybody's.
    ///
    /// # Errors
    /// [`BackendFault`] where the backend could not be asked or gave no decision.
    pub async fn presented(
        &self,
        token: &AccessToken,
        who: (impl FnOnce() -> Standing, Network),
        now: UnixTime,
    ) -> Result<(Verified, Seen), BackendFault> {
        match self {
            Self::Signed(verifier) => verifier.verify_asking(token, now).await,
            Self::Opaque(introspector) => Box::pin(introspector.presented(token, who, now)).await,
        }
    }

    /// What a token is that was remembered for a client in a network which does not present it yet. Another replica may have
    /// got it that has keys which are not here yet.
    ///
    /// # Errors
    /// As [`Self::presented`].
    pub async fn remembered(
        &self,
        token: &AccessToken,
        network: Network,
        now: UnixTime,
    ) -> Result<Verified, BackendFault> {
        match self {
            Self::Signed(verifier) => Ok(verifier.verify_issued(token, now).await),
            Self::Opaque(introspector) => {
                let known = (|| Standing::Known, network);
                introspector.presented(token, known, now).await.map(|(verified, _)| verified)
            }
        }
    }

    /// What a token is that was issued just now to a client in a network. `told`: what the backend said beside an opaque one of whom it belongs to.
    ///
    /// # Errors
    /// As [`Self::presented`].
    pub async fn issued(
        &self,
        tokens: &TokenSet,
        told: Option<serde_json::Map<String, serde_json::Value>>,
        (network, now): (Network, UnixTime),
    ) -> Result<Verified, BackendFault> {
        match self {
            Self::Signed(verifier) => Ok(verifier.verify_issued(&tokens.access, now).await),
            Self::Opaque(introspector) => introspector.issued(tokens, told, (network, now)).await,
        }
    }

    /// Goes by its own rules from now on where it goes on from an earlier one; `renewals`: the rules for renewals.
    pub fn take_over(&self, renewals: &AdmitRules) {
        match self {
            Self::Signed(_) => {}
            Self::Opaque(introspector) => introspector.take_over(renewals),
        }
    }

    /// The backend's health, where questions tell of it.
    #[must_use]
    pub fn health(&self) -> Option<Arc<Health>> {
        match self {
            Self::Signed(_) => None,
            Self::Opaque(introspector) => Some(introspector.health()),
        }
    }

    /// What verifies signed tokens, for whoever keeps its keys.
    #[must_use]
    pub const fn verifier(&self) -> Option<&Arc<Verifier>> {
        match self {
            Self::Signed(verifier) => Some(verifier),
            Self::Opaque(_) => None,
        }
    }

    /// Forgets what is known of a token that a renewal or a sign-out has replaced.
    pub fn forget(&self, token: &AccessToken) {
        match self {
            Self::Signed(_) => {}
            Self::Opaque(introspector) => introspector.forget(introspector.name(token)),
        }
    }

    /// The name of an opaque token, under which its backend's word is kept here and at other replicas.
    #[must_use]
    pub fn name(&self, token: &AccessToken) -> Option<SessionKey> {
        match self {
            Self::Signed(_) => None,
            Self::Opaque(introspector) => Some(introspector.name(token)),
        }
    }

    /// As [`Self::forget`], for a token of which only the [name](Introspector::name) is known, as other replicas tell it.
    pub fn forget_named(&self, name: SessionKey) {
        match self {
            Self::Signed(_) => {}
            Self::Opaque(introspector) => introspector.forget(name),
        }
    }

    /// Waits for the questions under way, each of which has its limit.
    pub async fn drain(&self) {
        match self {
            Self::Signed(_) => {}
            Self::Opaque(introspector) => introspector.drain().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    use serde_json::json;

    use super::*;
    use crate::session::keys::VerificationKey;
    use crate::session::verifier::{Supply, TokenRules};

    #[tokio::test(start_paused = true)]
    async fn a_result_of_another_replica_has_its_key_fetched_at_once() {
        let (secret, now) = (b"a secret of these tests, long enough", UnixTime::from_secs(1_800_000_000));
        let rules = TokenRules {
            keys: Vec::new(),
            algorithms: vec![Algorithm::HS256],
            supply: Supply::Fetched,
            issuer: None,
            audience: Vec::new(),
            leeway: std::time::Duration::ZERO,
            subject: "sub".into(),
            session: None,
            expiry: None,
            max_size: 4096,
            cache: 1 << 20,
        };
        let verifier = Arc::new(Verifier::new(rules));
        let desk = verifier.desk().expect("keys are fetched");
        // A round that has just ended: tokens that clients bring would start none for a while.
        desk.begin(now);
        desk.end(Ok(()));
        let fetching = async {
            desk.wanted().await;
            desk.begin(now);
            verifier.replace(VerificationKey::secret(Algorithm::HS256, secret).into_iter().collect());
            desk.end(Ok(()));
        };
        let claims = json!({"sub": "ana", "exp": now.as_secs() + 60});
        let text = encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret));
        let token = AccessToken::parse(&text.expect("signed")).expect("a token");
        let checker = Checker::Signed(Arc::clone(&verifier));
        let looking = checker.remembered(&token, Network::None, now);
        let both = async { tokio::join!(looking, fetching) };
        let (found, ()) =
            tokio::time::timeout(std::time::Duration::from_secs(1), both).await.expect("a round is wanted");
        assert!(matches!(found, Ok(Verified::Live(_))), "{found:?}");
    }
}
