//! The connection to Redis or Valkey: a single server, the primary that Sentinels name, or a Cluster.
//! In: addresses. Out: a connection that is shared and made anew when it fails. Errors: [`Away`], within a second or so.
//! I/O: sockets.

use std::sync::Mutex as StdMutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, IntoConnectionInfo as _, Pipeline, RedisError,
    RedisFuture, TlsCertificates, TlsMode, Value,
};
use rustls::pki_types::CertificateDer;
use tokio::sync::Mutex;

use crate::clock::Deadline;
use crate::dial::Roots;
use crate::secret::Secret;
use crate::share::Away;

/// After a failed attempt, how long nobody tries to connect.
const PAUSE: Duration = Duration::from_millis(200);

/// Where the store is.
#[derive(Clone, Debug, PartialEq)]
pub struct Servers {
    /// What they are.
    pub kind: Kind,
    /// Their URLs: `redis://host:port/db` or, with TLS, `rediss://…`; of Sentinels or of Cluster nodes, some of them.
    pub urls: Vec<url::Url>,
    /// The ACL user (Redis: ACL SETUSER).
    pub username: Option<String>,
    /// The password.
    pub password: Option<Secret<String>>,
    /// Which certificate authorities are believed.
    pub roots: Roots,
}

/// What the servers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One server.
    Single,
    /// Sentinels that name the primary of this name.
    Sentinel {
        /// The primary's name.
        primary: String,
    },
    /// Nodes of a Cluster.
    Cluster,
}

impl Servers {
    /// Whether any of them is spoken with by TLS.
    #[must_use]
    pub fn by_tls(&self) -> bool {
        self.urls.iter().any(|url| url.scheme() == "rediss")
    }
}

/// The store's address cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the share's servers cannot be used: {0}")]
pub struct LinkError(#[from] RedisError);

enum Target {
    Single(Client),
    Sentinel(Mutex<SentinelClient>),
    Cluster(ClusterClient),
}

/// A connection that all users share.
#[derive(Clone)]
pub(super) enum Connection {
    Plain(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Plain(one) => one.req_packed_command(cmd),
            Self::Cluster(many) => many.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Plain(one) => one.req_packed_commands(pipeline, offset, count),
            Self::Cluster(many) => many.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Plain(one) => one.get_db(),
            Self::Cluster(many) => many.get_db(),
        }
    }
}

/// The way to the store.
pub(super) struct Link {
    target: Target,
    config: AsyncConnectionConfig,
    limit: Duration,
    current: Mutex<Current>,
    /// The connection that was made last.
    latest: AtomicU64,
    /// The connection that failed last: its user does not have to wait for the others to say so.
    failed: StdMutex<u64>,
}

struct Current {
    number: u64,
    connection: Option<Connection>,
    not_before: Option<Deadline>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Link {
    /// A way to these servers; each answer may take `limit`.
    pub(super) fn new(servers: &Servers, limit: Duration) -> Result<Self, LinkError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(1).min(limit)))
            .set_response_timeout(Some(limit));
        Ok(Self {
            target: target(servers, limit)?,
            config,
            limit,
            current: Mutex::new(Current { number: 0, connection: None, not_before: None }),
            latest: AtomicU64::new(0),
            failed: StdMutex::new(0),
        })
    }

    /// The connection, made where there is none, and its number.
    pub(super) async fn connection(&self) -> Result<(Connection, u64), Away> {
        let mut current = self.current.lock().await;
        let failed = *self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = &current.connection
            && current.number > failed
        {
            return Ok((connection.clone(), current.number));
        }
        if current.not_before.is_some_and(|moment| !moment.passed()) {
            return Err(Away);
        }
        current.connection = None;
        // Longer than one answer: a Sentinel is asked first, and a Cluster for its slots.
        let connected = tokio::time::timeout(self.limit.saturating_mul(2), self.connect()).await;
        let Ok(Ok(connection)) = connected else {
            current.not_before = Some(Deadline::after(PAUSE));
            if let Ok(Err(error)) = connected {
                tracing::debug!(cause = error.category(), "no connection to the replicas' share");
            }
            return Err(Away);
        };
        current.number += 1;
        self.latest.store(current.number, Ordering::Release);
        current.not_before = None;
        current.connection = Some(connection.clone());
        Ok((connection, current.number))
    }

    /// Notes that the connection with this number gave no usable answer.
    pub(super) fn failed(&self, number: u64, error: &RedisError) {
        tracing::debug!(cause = error.category(), "the replicas' share gave no answer");
        // A Cluster's connection finds its way by itself, unless it is beyond repair.
        if matches!(self.target, Target::Cluster(_)) && !error.is_unrecoverable_error() {
            return;
        }
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        *failed = number.max(*failed);
    }

    /// Notes that the server may have been replaced: where Sentinels know which one counts, they are asked again.
    pub(super) fn doubted(&self) {
        if matches!(self.target, Target::Sentinel(_)) {
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            *failed = self.latest.load(Ordering::Acquire).max(*failed);
        }
    }

    async fn connect(&self) -> Result<Connection, RedisError> {
        Ok(match &self.target {
            Target::Single(client) => {
                Connection::Plain(client.get_multiplexed_async_connection_with_config(&self.config).await?)
            }
            Target::Sentinel(client) => {
                let connection = client.lock().await.get_async_connection_with_config(&self.config).await?;
                Connection::Plain(connection)
            }
            Target::Cluster(client) => Connection::Cluster(client.get_async_connection().await?),
        })
    }
}

fn target(servers: &Servers, limit: Duration) -> Result<Target, LinkError> {
    let infos: Vec<ConnectionInfo> =
        servers.urls.iter().map(|url| info(servers, url)).collect::<Result<_, _>>()?;
    let certificates = certificates(&servers.roots);
    let password = servers.password.as_ref().map(|password| password.expose().as_str());
    match &servers.kind {
        Kind::Single => {
            let first = infos.into_iter().next().ok_or_else(no_server)?;
            Ok(Target::Single(match (first.addr(), certificates) {
                (redis::ConnectionAddr::TcpTls { .. }, Some(own)) => Client::build_with_tls(first, own)?,
                (_, _) => Client::open(first)?,
            }))
        }
        Kind::Sentinel { primary } => {
            let secure = servers.urls.iter().any(|url| url.scheme() == "rediss");
            let mode = if secure { Some(TlsMode::Secure) } else { None };
            let db = infos.first().map_or(0, |info| info.redis_settings().db());
            let addresses = infos.iter().map(|info| info.addr().clone());
            let mut builder = SentinelClientBuilder::new(addresses, primary, SentinelServerType::Master)?
                .set_client_to_redis_db(db);
            if let Some(mode) = mode {
                builder = builder.set_client_to_redis_tls_mode(mode).set_client_to_sentinel_tls_mode(mode);
                if let Some(own) = certificates {
                    builder = builder
                        .set_client_to_redis_certificates(own.clone())
                        .set_client_to_sentinel_certificates(own);
                }
            }
            if let Some(user) = &servers.username {
                builder = builder.set_client_to_redis_username(user);
            }
            if let Some(password) = password {
                builder = builder.set_client_to_redis_password(password);
            }
            Ok(Target::Sentinel(Mutex::new(builder.build()?)))
        }
        Kind::Cluster => {
            let mut builder = ClusterClientBuilder::new(infos)
                .connection_timeout(Duration::from_secs(1).min(limit))
                .response_timeout(limit)
                .overall_response_timeout(Some(limit.saturating_mul(2)))
                .retries(4);
            if let Some(own) = certificates {
                builder = builder.certs(own);
            }
            Ok(Target::Cluster(builder.build()?))
        }
    }
}

fn info(servers: &Servers, url: &url::Url) -> Result<ConnectionInfo, RedisError> {
    let info = url.as_str().into_connection_info()?;
    let mut settings = info.redis_settings().clone().set_lib_name("doorkeep", env!("CARGO_PKG_VERSION"));
    if let Some(user) = &servers.username {
        settings = settings.set_username(user);
    }
    if let Some(password) = &servers.password {
        settings = settings.set_password(password.expose());
    }
    Ok(info.set_redis_settings(settings))
}

fn no_server() -> RedisError {
    RedisError::from((redis::ErrorKind::InvalidClientConfig, "no server is named"))
}

fn certificates(roots: &Roots) -> Option<TlsCertificates> {
    match roots {
        Roots::System => None,
        Roots::Only(certificates) => {
            let pem: String = certificates.iter().map(pem).collect();
            Some(TlsCertificates { client_tls: None, root_cert: Some(pem.into_bytes()) })
        }
    }
}

fn pem(certificate: &CertificateDer<'static>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}
