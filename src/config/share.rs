//! The settings of what replicas share.
//! In: `[share]`. Out: [`SharePlan`]. Errors: noted problems. I/O: files and variables that hold secrets.

use crate::config::read::{Field, Section};
use crate::config::value;
use crate::dial::Roots;
use crate::renew::ShareAway;
use crate::share::{ServerKind, Servers};

/// Where replicas share renewals, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct SharePlan {
    /// The store.
    pub servers: Servers,
    /// What is done while it gives no answer.
    pub away: ShareAway,
    /// How many of its own replicas have to have a claim before anything is presented.
    pub acks: u32,
}

impl SharePlan {
    /// What this way of sharing risks, in a sentence for operators.
    #[must_use]
    pub fn risk(&self) -> String {
        let away = match self.away {
            ShareAway::Wait => {
                "while the share is away, expired sessions wait and get 503, nobody is signed out"
            }
            ShareAway::Alone => {
                "while the share is away, each replica renews alone: a session that comes to two replicas then is lost \
                 where the backend detects reuse; right only where each session keeps to one replica"
            }
        };
        let failover = match (&self.servers.kind, self.acks) {
            (ServerKind::Single, _) => "a server that comes back empty is told again what replicas remember",
            (ServerKind::Sentinel { .. } | ServerKind::Cluster, 0) => {
                "a fail-over that loses a claim just made can lose that session; set share.acks = 1 to close this"
            }
            (ServerKind::Sentinel { .. } | ServerKind::Cluster, _) => {
                "claims are on a replica of the store before anything is presented; with too few replicas nothing is renewed"
            }
        };
        format!("{away}; {failover}")
    }
}

pub(super) fn share(root: &Section<'_, '_>, roots: Option<&Roots>) -> Option<Option<SharePlan>> {
    let table = root.take("share");
    let present = table.is_some();
    let section = table.map_or_else(|| root.section("share"), |table| table.section());
    let kinds = [("single", 0_u8), ("sentinel", 1), ("cluster", 2)];
    let kind = section.take("kind").and_then(|f| f.word(&kinds)).unwrap_or(0);
    let primary = section.take("primary").and_then(|f| f.text()).map(str::to_owned);
    let username = section.take("username").and_then(|f| f.text()).map(str::to_owned);
    let password = section.take("password").map(|f| value::secret(&f));
    let away = [("wait", ShareAway::Wait), ("alone", ShareAway::Alone)];
    let away = section.take("away").and_then(|f| f.word(&away)).unwrap_or(ShareAway::Wait);
    let acks = section.take("acks").and_then(|f| f.number()).map_or(0, |n| u32::try_from(n).unwrap_or(0));
    let example = "\"redis://127.0.0.1:6379\"";
    let urls = if present { section.need("url", example) } else { section.take("url") };
    let urls: Option<Vec<url::Url>> = urls.and_then(|field| field.one_or_many().iter().map(server).collect());
    let kind = match (kind, primary) {
        (1, Some(primary)) => Some(ServerKind::Sentinel { primary }),
        (1, None) => {
            section.problem("primary", "is missing: the name under which the Sentinels know the primary");
            None
        }
        (_, Some(_)) => {
            section.problem("primary", "is for kind = \"sentinel\" only; leave it out");
            None
        }
        (2, None) => Some(ServerKind::Cluster),
        (_, None) => Some(ServerKind::Single),
    };
    if kind == Some(ServerKind::Single) && urls.as_ref().is_some_and(|urls| urls.len() > 1) {
        section.problem("url", "names several servers; write kind = \"sentinel\" or \"cluster\", or one URL");
    }
    if kind == Some(ServerKind::Single) && acks > 0 {
        section.problem("acks", "is for Sentinel and Cluster: a single server has no replicas to wait for");
    }
    section.finish();
    if !present {
        return Some(None);
    }
    let password = match password {
        None => None,
        Some(read) => Some(read?),
    };
    let mut servers = Servers { kind: kind?, urls: urls?, username, password, roots: roots?.clone() };
    if !servers.by_tls() {
        servers.roots = Roots::System;
    }
    Some(Some(SharePlan { servers, away, acks }))
}

fn server(field: &Field<'_, '_>) -> Option<url::Url> {
    let text = field.text()?;
    let url = url::Url::parse(text).ok().filter(|url| {
        matches!(url.scheme(), "redis" | "rediss") && url.host().is_some() && url.query().is_none()
    });
    if url.as_ref().is_some_and(|url| url.password().is_some() || !url.username().is_empty()) {
        field.problem(
            "holds a user or a password; write them as share.username and share.password = \"file:…\"",
        );
        return None;
    }
    if url.is_none() {
        field.problem("is no server; write redis://host:port or, with TLS, rediss://host:port");
    }
    url
}
