//! From settings to a running gateway, and to its orderly stop.
//! In: [`Settings`]. Out: [`Doorkeep`]. Errors: [`StartError`], before anything is served. I/O: listeners.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use tokio::net::TcpListener;

use crate::admin::{Admin, Readiness, Ready};
use crate::backend::SessionBackend;
use crate::backend::directory::Directory;
use crate::body::BodyLimits;
use crate::clock::Clock;
use crate::config::{BackendSettings, ListenSettings, Settings, SiteSettings};
use crate::dial::{Dialer, Roots, RootsError};
use crate::forward::{IdentityHeaders, NameSet, OwnedNames, OwnedParameters, Upstream};
use crate::gateway::{App, Gateway, Parts};
use crate::meter::Meters;
use crate::outcome::Believed;
use crate::random::{self, NoRandom};
use crate::renew::{PersistError, Renewer};
use crate::route::Routes;
use crate::secret::Secret;
use crate::server::tls::{Tls, TlsError};
use crate::server::{self, Door, Drained, Life, ListenError};
use crate::session::Sessions;
use crate::session::carrier::Carrier;
use crate::session::judge::Policy;
use crate::session::seal::{Sealer, SessionKeys};
use crate::session::verifier::Verifier;

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// TLS cannot be served.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No certificate authority for outgoing connections.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// What an earlier run wrote down cannot be read.
    #[error(transparent)]
    Persist(#[from] PersistError),
    /// No secret could be made.
    #[error(transparent)]
    Random(#[from] NoRandom),
    /// A site's origin is none.
    #[error("a site's origin cannot be used")]
    Origin(#[from] http::uri::InvalidUri),
    /// The listener has no address.
    #[error("the listener has no address")]
    Address(#[source] std::io::Error),
}

/// A running gateway.
#[derive(Debug)]
pub struct Doorkeep {
    /// Where browsers come.
    pub http: SocketAddr,
    /// Where browsers come by TLS.
    pub https: Option<SocketAddr>,
    /// Where operators come.
    pub admin: Option<SocketAddr>,
    /// The counters.
    pub meters: Arc<Meters>,
    gateway: Gateway,
    readiness: Arc<Readiness>,
    life: Life,
    admin_life: Life,
    drain_delay: Duration,
    drain_timeout: Duration,
}

impl Doorkeep {
    /// Starts a gateway.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub async fn start(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let listener = server::listen(settings.listen.http).await?;
        Self::start_on(listener, settings, clock).await
    }

    /// Starts a gateway on a socket that listens already.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub async fn start_on(
        listener: TcpListener,
        settings: Settings,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let http = listener.local_addr().map_err(StartError::Address)?;
        let secure = match &settings.listen.https {
            Some((addr, tls)) => Some((server::listen(*addr).await?, Tls::new(tls)?)),
            None => None,
        };
        let https = secure.as_ref().and_then(|(listener, _)| listener.local_addr().ok());
        let admin_listener = match settings.listen.admin {
            Some(addr) => Some(server::listen(addr).await?),
            None => None,
        };
        let admin = admin_listener.as_ref().and_then(|listener| listener.local_addr().ok());
        let (drain, listen) = (settings.drain, settings.listen.clone());
        let meters = Arc::new(Meters::new());
        let (life, admin_life) = (Life::default(), Life::default());
        let gateway = gateway(settings, clock, Arc::clone(&meters), life.clone())?;
        gateway.renewer().restore()?;
        let readiness = Arc::new(Readiness::default());
        let serving =
            server::serve(listener, gateway.clone(), listen.limits, Arc::clone(&meters), life.clone());
        life.tasks.spawn(serving);
        if let Some((listener, tls)) = secure {
            life.tasks.spawn(tls.clone().watch(life.finish.clone()));
            let door = Door { listener, tls: Some(tls) };
            let serving =
                server::accept(door, gateway.clone(), listen.limits, Arc::clone(&meters), life.clone());
            life.tasks.spawn(serving);
        }
        if let Some(listener) = admin_listener {
            let handler = Admin::new(Arc::clone(&meters), Arc::clone(&readiness));
            let limits = server::ConnectionLimits { connections: 64, ..listen.limits };
            // Operators' connections are not counted among the clients'.
            let serving =
                server::serve(listener, handler, limits, Arc::new(Meters::new()), admin_life.clone());
            admin_life.tasks.spawn(serving);
        }
        readiness.set(Ready::Yes);
        Ok(Self {
            http,
            https,
            admin,
            meters,
            gateway,
            readiness,
            life,
            admin_life,
            drain_delay: drain.delay,
            drain_timeout: drain.timeout,
        })
    }

    /// Stops: not ready, then not accepting, then requests and renewals are finished, and what no browser has is kept.
    ///
    /// # Errors
    /// [`PersistError`] where that could not be written.
    pub async fn drain(self) -> Result<Drained, PersistError> {
        self.readiness.set(Ready::No);
        tokio::time::sleep(self.drain_delay).await;
        let drained = self.life.drain(self.drain_timeout).await;
        let kept = self.gateway.renewer().drain().await;
        self.admin_life.drain(Duration::from_millis(100)).await;
        kept.map(|()| drained)
    }
}

/// A gateway of these settings, without its listeners.
fn gateway(
    settings: Settings,
    clock: Arc<dyn Clock>,
    meters: Arc<Meters>,
    life: Life,
) -> Result<Gateway, StartError> {
    let (backend, believed) = backend(&settings.backend, &settings.roots, &clock)?;
    let mut secrets = settings.secrets;
    // The oldest secret is the one that every gateway has while secrets are changed one gateway after the other.
    let naming = match secrets.last() {
        Some(oldest) => oldest.clone(),
        None => {
            let made = ephemeral_secret()?;
            secrets.push(made.clone());
            made
        }
    };
    let verifier = Verifier::new(settings.session.token);
    let policy = Policy {
        capabilities: backend.capabilities(),
        mode: settings.session.mode,
        keys: SessionKeys::new(&naming, settings.backend.id()),
        leeway: verifier.leeway(),
    };
    let sessions = Arc::new(Sessions {
        verifier,
        carrier: Carrier::new(settings.session.cookies, Sealer::new(&secrets)),
        policy,
        ahead: settings.session.ahead,
    });
    let renewer =
        Renewer::new(settings.renew, backend, Arc::clone(&sessions), Arc::clone(&clock), Arc::clone(&meters));
    let identity = IdentityHeaders::new(settings.identity.headers, settings.identity.max);
    let app = |site: &SiteSettings| -> Result<App, StartError> {
        let origin = &site.site.origin;
        let headers = NameSet::headers_of(believed);
        let owned = Arc::new(OwnedNames::new(identity.names(), headers, site.upstream.authorization));
        Ok(App {
            upstream: Upstream::new(&site.upstream, &settings.roots)?,
            host: site.upstream.host,
            seen_as: (origin.scheme().as_str().parse()?, origin.authority().parse()?),
            token: site.upstream.token,
            websocket: site.upstream.websocket,
            tunnel_idle: site.upstream.idle,
            body: body_limits(&settings.listen, &owned),
            owned,
            parameters: OwnedParameters::new(NameSet::parameters_of(believed)),
        })
    };
    Ok(Gateway::new(Parts {
        apps: settings.sites.iter().map(app).collect::<Result<_, _>>()?,
        routes: Routes::new(settings.sites.into_iter().map(|site| site.site).collect()),
        sessions,
        renewer,
        login: settings.login,
        identity,
        trusted: settings.listen.trusted,
        life,
        clock,
        meters,
    }))
}

fn body_limits(listen: &ListenSettings, owned: &Arc<OwnedNames>) -> BodyLimits {
    let owned = Arc::clone(owned);
    let trailers = Arc::new(move |name: &HeaderName| owned.trailer_is_clean(name));
    BodyLimits { idle: listen.body_idle, size: listen.body, trailers }
}

/// The wire to the session backend, and what services of its kind believe unverified.
fn backend(
    settings: &BackendSettings,
    roots: &Roots,
    clock: &Arc<dyn Clock>,
) -> Result<(Arc<dyn SessionBackend>, Believed), RootsError> {
    match settings {
        BackendSettings::Directory { settings, connect } => {
            let dialer = Dialer::new(roots, *connect)?;
            let wire = Directory::new(settings.clone(), dialer, Arc::clone(clock));
            Ok((Arc::new(wire), Directory::BELIEVED))
        }
    }
}

fn ephemeral_secret() -> Result<Secret<Vec<u8>>, StartError> {
    let mut bytes = vec![0; 32];
    random::fill(&mut bytes)?;
    Ok(Secret::new(bytes))
}
