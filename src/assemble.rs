//! From settings to a running gateway, to the next settings, and to its orderly stop.
//! In: [`Settings`], sockets. Out: [`Doorkeep`]. Errors: [`StartError`], before anything is served. I/O: listeners.
//!
//! A reload builds everything anew from the new settings, beside what runs, and hands on what is remembered of sessions. Only
//! when all of it stands is it put in the place of the old, in steps that cannot fail.

mod build;
mod reload;
mod sockets;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::DropGuard;

use crate::admin::{Admin, Readiness, Ready};
use crate::assemble::build::{Generation, Keeping, build};
pub use crate::assemble::reload::{ReloadError, Reloaded};
use crate::assemble::sockets::Doors;
pub use crate::assemble::sockets::{Passed, PassedError, Sockets};
use crate::assemble::watch::Watched;
use crate::clock::Clock;
use crate::config::{DrainSettings, Fixed, ListenSettings, LogSettings, Settings};
use crate::dial::RootsError;
use crate::gateway::current::Current;
use crate::meter::Meters;
use crate::random::NoRandom;
use crate::renew::PersistError;
use crate::server::tls::{Tls, TlsError};
use crate::server::{By, Door, Drained, Entrance, Hall, Life, ListenError, Seats, Welcome, Workers};
use crate::share::LinkError;

/// Most open connections of operators.
const OPERATORS: usize = 64;

/// Longest wait of a replica that starts for what the others know of sign-outs.
const CATCH_UP: Duration = Duration::from_secs(3);

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
    /// The replicas' share has no usable address.
    #[error(transparent)]
    Share(#[from] LinkError),
    /// No secret could be made.
    #[error(transparent)]
    Random(#[from] NoRandom),
    /// A site's origin is none.
    #[error("a site's origin cannot be used")]
    Origin(#[from] http::uri::InvalidUri),
    /// The listener has no address.
    #[error("the listener has no address")]
    Address(#[source] std::io::Error),
    /// A listening socket cannot be handed to who lets people in.
    #[error("a listening socket cannot be handed to who lets people in")]
    Door(#[source] std::io::Error),
    /// A socket that was passed has no place in the settings.
    #[error(transparent)]
    Passed(#[from] PassedError),
}

/// What all gateways of a process have in common.
#[derive(Clone, Debug)]
struct Common {
    clock: Arc<dyn Clock>,
    meters: Arc<Meters>,
    life: Life,
    /// Ends last: renewals that the drain waits for may still miss a key.
    admin_life: Life,
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
    common: Common,
    readiness: Arc<Readiness>,
    fixed: Fixed,
    current: Current,
    entrance: Entrance<Current>,
    admin_entrance: Entrance<Admin>,
    in_force: Mutex<InForce>,
}

impl Doorkeep {
    /// Starts a gateway.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub async fn start(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        Self::start_with(Sockets::default(), Workers::here(), settings, clock).await
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
        let sockets = Sockets { http: Some(listener), ..Sockets::default() };
        Self::start_with(sockets, Workers::here(), settings, clock).await
    }

    /// Starts a gateway on these sockets; those that are missing are opened where the settings say. These workers serve the
    /// sites' connections; what runs beside them, and operators', is the affair of whoever calls.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub async fn start_with(
        sockets: Sockets,
        workers: Workers,
        settings: Settings,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let doors = sockets.fill(&settings.listen, &workers).await?;
        let doorkeep = Box::new(Self::behind(&doors, &workers, settings, clock)?);
        doorkeep.current.now().renewer().caught_up(CATCH_UP).await;
        doorkeep.open(doors, &workers);
        Ok(*doorkeep)
    }

    /// A gateway behind doors that nobody is let in by yet.
    fn behind(
        doors: &Doors,
        workers: &Workers,
        settings: Settings,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let http = doors.http.local_addr().map_err(StartError::Address)?;
        let place = |door: &Option<TcpListener>| door.as_ref().and_then(|door| door.local_addr().ok());
        let (https, admin) = (place(&doors.https), place(&doors.admin));
        let meters = Arc::new(Meters::new());
        let common =
            Common { clock, meters: Arc::clone(&meters), life: Life::default(), admin_life: Life::default() };
        let (fixed, surroundings) = (Fixed::of(&settings), Surroundings::of(&settings)?);
        let (generation, keeping) = build(settings, &common, None)?;
        let renewer = generation.gateway.renewer().clone();
        renewer.restore()?;
        // What replicas tell each other goes on while settings are read.
        common.life.tasks.spawn_on(renewer.follow(common.life.finish.clone()), workers.first());
        let (readiness, current) = (Arc::new(Readiness::default()), Current::new(generation.gateway.clone()));
        let drill = Arc::new(current.clone());
        let handler = Admin::new(Arc::clone(&meters), Arc::clone(&readiness), workers.clone(), drill);
        let listen = &surroundings.listen;
        // Operators' connections are not counted among the clients'.
        let counted = Arc::new(Meters::new());
        let hall = Hall::new(handler, listen.limits, OPERATORS, counted, common.admin_life.clone());
        let admin_entrance = Entrance::new(Welcome { hall, tls: None });
        let seats = Seats::new(listen.seats.clone(), Arc::clone(&meters));
        let entrance = Entrance::new(surroundings.welcome(current.clone(), seats, &common));
        let in_force = Mutex::new(InForce::begin(generation, keeping, surroundings, &common));
        Ok(Self {
            http,
            https,
            admin,
            meters,
            common,
            readiness,
            fixed,
            current,
            entrance,
            admin_entrance,
            in_force,
        })
    }

    /// Lets everybody in.
    fn open(&self, doors: Doors, workers: &Workers) {
        Door::new(doors.http, By::Plain, workers.clone()).open(&self.entrance);
        if let Some(listener) = doors.https {
            Door::new(listener, By::Tls, workers.clone()).open(&self.entrance);
        }
        if let Some(listener) = doors.admin {
            Door::new(listener, By::Plain, Workers::here()).open(&self.admin_entrance);
        }
        self.readiness.set(Ready::Yes);
    }

    /// Stops: not ready, then not accepting, then requests and renewals are finished, and what no browser has is kept.
    ///
    /// # Errors
    /// [`PersistError`] where that could not be written.
    pub async fn drain(self) -> Result<Drained, PersistError> {
        self.readiness.set(Ready::No);
        let drain = self.in_force().surroundings.drain;
        tokio::time::sleep(drain.delay).await;
        let drained = self.common.life.drain(drain.timeout).await;
        let kept = self.current.now().renewer().drain().await;
        self.common.admin_life.drain(Duration::from_millis(100)).await;
        kept.map(|()| drained)
    }

    fn in_force(&self) -> MutexGuard<'_, InForce> {
        // What is in force is replaced whole, so a panic elsewhere leaves nothing half done.
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What settings say of everything around the gateway itself.
#[derive(Debug)]
struct Surroundings {
    listen: ListenSettings,
    drain: DrainSettings,
    state_dir: Option<PathBuf>,
    tls: Option<Tls>,
    watched: Watched,
    log: LogSettings,
}

impl Surroundings {
    fn of(settings: &Settings) -> Result<Self, TlsError> {
        Ok(Self {
            listen: settings.listen.clone(),
            drain: settings.drain,
            state_dir: settings.renew.state_dir.clone(),
            tls: settings.listen.https.as_ref().map(|(_, tls)| Tls::new(tls)).transpose()?,
            watched: Watched::of(settings),
            log: settings.log.clone(),
        })
    }

    /// What connections get that come to the sites' listeners.
    fn welcome(&self, handler: Current, seats: Seats, common: &Common) -> Welcome<Current> {
        let hall = Hall {
            handler,
            limits: self.listen.limits,
            seats,
            senders: Arc::new(self.listen.senders.clone()),
            meters: Arc::clone(&common.meters),
            life: common.life.clone(),
        };
        Welcome { hall, tls: self.tls.clone() }
    }
}

/// What is in force.
#[derive(Debug)]
struct InForce {
    generation: Generation,
    surroundings: Surroundings,
    /// Ends what looks after the certificates.
    _certificates: DropGuard,
}

impl InForce {
    /// Begins what runs beside the requests: for the keys and certificates of these settings, as long as these are in force.
    fn begin(
        generation: Generation,
        keeping: Option<Keeping>,
        surroundings: Surroundings,
        common: &Common,
    ) -> Self {
        if let Some(Keeping { keeper, stop }) = keeping {
            common.admin_life.tasks.spawn(keeper.keep(stop));
        }
        let stop = common.life.finish.child_token();
        if let Some(tls) = surroundings.tls.clone() {
            common.life.tasks.spawn(tls.watch(stop.clone()));
        }
        common.meters.settings_from(common.clock.now());
        Self { generation, surroundings, _certificates: stop.drop_guard() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, UnixTime};

    const SETTINGS: &str = r#"
[listen]
http = "127.0.0.1:0"
[session]
backend = "directory"
[session.token]
algorithms = ["ES256"]
jwks = "http://127.0.0.1:1/keys"
[login]
url = "https://id.test/login"
[backend.directory]
url = "http://127.0.0.1:1"
[[site]]
host = "a.test"
origin = "https://a.test"
upstream = ["http://127.0.0.1:1"]
"#;

    #[tokio::test]
    async fn what_was_in_force_goes_and_what_ran_beside_it_ends() {
        let clock = Arc::new(ManualClock::at(UnixTime::from_secs(1_800_000_000)));
        let settings = || Settings::parse(SETTINGS).expect("usable");
        let doorkeep = Doorkeep::start(settings(), clock).await.expect("started");
        // What ends at once has ended: without replicas there is nobody to listen to.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let running = (doorkeep.common.life.tasks.len(), doorkeep.common.admin_life.tasks.len());
        for _ in 0..20 {
            let under_way = doorkeep.current.now();
            let before = Arc::downgrade(&under_way.parts().checker);
            doorkeep.change(settings()).expect("changed");
            assert!(before.upgrade().is_some(), "a request is under way by it");
            drop(under_way);
            assert!(before.upgrade().is_none());
        }
        let ended = async {
            while (doorkeep.common.life.tasks.len(), doorkeep.common.admin_life.tasks.len()) != running {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(15), ended).await.expect("one keeper of keys is left");
        doorkeep.drain().await.expect("drained");
    }
}
