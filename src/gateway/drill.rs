//! Operators' drills: a session is renewed before its time.
//! In: an access token or a `Cookie` line. Out: [`Expired`]. Errors: none. I/O: the session backend, for opaque tokens.

use std::future::Future;
use std::pin::Pin;

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

use crate::admin::{Drill, Expired};
use crate::check::introspector::Standing;
use crate::gateway::Gateway;
use crate::network::Network;
use crate::session::cookies;
use crate::session::verifier::Verified;
use crate::token::AccessToken;

impl Gateway {
    async fn expire_now(&self, text: &str) -> Expired {
        let sessions = &self.0.sessions;
        let now = self.0.clock.now();
        let line = text.strip_prefix("Cookie:").unwrap_or(text).trim();
        let from_cookies = HeaderValue::from_str(line).ok().and_then(|line| {
            let headers: HeaderMap = [(COOKIE, line)].into_iter().collect();
            cookies::read(&headers, sessions.carrier.names()).access
        });
        let Some(access) = from_cookies.or_else(|| AccessToken::parse(line)) else { return Expired::NotLive };
        match self.0.checker.presented(&access, (|| Standing::Known, Network::None), now).await {
            Ok((Verified::Live(identity), _)) => {
                let forever = now.saturating_add(DAY);
                sessions.drills.expire(
                    sessions.drill_name(&access),
                    identity.expires_at().unwrap_or(forever),
                    now,
                );
                tracing::info!("a session's access token was declared over by an operator");
                Expired::Yes
            }
            Ok((Verified::Expired(_) | Verified::Invalid(_), _)) | Err(_) => Expired::NotLive,
        }
    }
}

/// How long a token of which nobody says when it ends is over by hand.
const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

impl Drill for Gateway {
    fn expire<'a>(&'a self, text: &'a str) -> Pin<Box<dyn Future<Output = Expired> + Send + 'a>> {
        Box::pin(self.expire_now(text))
    }
}
