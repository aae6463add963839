//! Everything together: clock, session backend, app and the gateway between them.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use doorkeep::assemble::{Doorkeep, Sockets};
use doorkeep::clock::{ManualClock, UnixTime};
use doorkeep::config::Settings;
use doorkeep::demo::{Directory, DirectorySettings};
use doorkeep::secret::Secret;
use doorkeep::server::{Crew, Workers};
use tokio_util::task::TaskTracker;

use super::backend::Backend;
use super::client::{Answer, Ask, Conn};
use super::issuer::{BackendLines, Issuer};
use super::jar::Jar;
use super::upstream::Upstream;

/// Signs access tokens.
pub const ACCESS_SECRET: &str = "access-secret-of-these-tests-0123456789";
/// Signs refresh tokens.
pub const REFRESH_SECRET: &str = "refresh-secret-of-these-tests-012345678";
/// The gateway's own.
pub const OWN_SECRET: &str = "own-secret-of-these-tests-0123456789abcdef";
/// When each test begins.
pub const START: UnixTime = UnixTime::from_secs(1_800_000_000);
/// So many threads serve the gateways' connections: as many as race for everything that they share.
pub const WORKERS: usize = 2;
/// How long access tokens live.
pub const ACCESS_LIFE: Duration = Duration::from_secs(600);
/// How long refresh tokens live.
pub const REFRESH_LIFE: Duration = Duration::from_secs(3600);

/// Lines of settings beside the usual ones, by their table.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan<'a> {
    pub top: &'a str,
    pub listen: &'a str,
    pub cookies: &'a str,
    pub token: &'a str,
    pub renew: &'a str,
    /// Lines of `[session.lifetime]`.
    pub lifetime: &'a str,
    /// Instead of the login page's address.
    pub login: &'a str,
    pub identity: &'a str,
    pub identity_headers: &'a str,
    pub site: &'a str,
    /// Further tables: `[[site.rule]]` and what comes after.
    pub rules: &'a str,
    /// Another app's base URL.
    pub upstream: Option<&'a str>,
    /// Another key for access tokens.
    pub key: Option<&'a str>,
}

/// The lot.
#[derive(Debug)]
pub struct House {
    pub clock: Arc<ManualClock>,
    pub backend: Backend,
    pub upstream: Upstream,
    pub door: Option<Doorkeep>,
    pub addr: SocketAddr,
    pub tasks: TaskTracker,
    /// Who serves the gateways' connections.
    crew: Crew,
}

impl House {
    pub async fn usual() -> Self {
        Self::start(Plan::default()).await
    }

    pub async fn start(plan: Plan<'_>) -> Self {
        Self::start_with(directory, plan).await
    }

    /// Starts before an app that is there already.
    pub async fn start_before(plan: Plan<'_>, upstream: Upstream, tasks: TaskTracker) -> Self {
        Self::without_door(START, upstream, tasks).opened(plan).await
    }

    /// Starts before another kind of session backend, made with the clock that everybody has here.
    pub async fn start_with(
        issuer: impl FnOnce(Arc<ManualClock>) -> Arc<dyn Issuer>,
        plan: Plan<'_>,
    ) -> Self {
        let tasks = TaskTracker::new();
        let upstream = Upstream::start(&tasks).await;
        let clock = Arc::new(ManualClock::at(START));
        let issuer = issuer(Arc::clone(&clock));
        Self::between(clock, issuer, upstream, tasks).opened(plan).await
    }

    async fn opened(mut self, plan: Plan<'_>) -> Self {
        let door = self.another(plan).await;
        self.addr = door.http;
        self.door = Some(door);
        self
    }

    /// The counterparts alone; whoever starts a gateway says where it is.
    pub fn without_door(now: UnixTime, upstream: Upstream, tasks: TaskTracker) -> Self {
        let clock = Arc::new(ManualClock::at(now));
        let issuer = directory(Arc::clone(&clock));
        Self::between(clock, issuer, upstream, tasks)
    }

    /// The same with another kind of session backend.
    pub async fn of_issuer(now: UnixTime, issuer: impl FnOnce(Arc<ManualClock>) -> Arc<dyn Issuer>) -> Self {
        let tasks = TaskTracker::new();
        let upstream = Upstream::start(&tasks).await;
        let clock = Arc::new(ManualClock::at(now));
        let issuer = issuer(Arc::clone(&clock));
        Self::between(clock, issuer, upstream, tasks)
    }

    fn between(
        clock: Arc<ManualClock>,
        issuer: Arc<dyn Issuer>,
        upstream: Upstream,
        tasks: TaskTracker,
    ) -> Self {
        let backend = Backend::start(issuer, Arc::clone(&clock), &tasks);
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        let crew = Crew::of(NonZeroUsize::new(WORKERS).unwrap()).unwrap();
        Self { addr, clock, backend, upstream, door: None, tasks, crew }
    }

    /// Another gateway with the same counterparts, and served by the same threads.
    pub async fn another(&self, plan: Plan<'_>) -> Doorkeep {
        self.served_by(self.crew.workers(), plan).await
    }

    /// The same, served by these.
    pub async fn served_by(&self, workers: Workers, plan: Plan<'_>) -> Doorkeep {
        let text = toml(plan, &self.backend.settings(), self.upstream.addr);
        let settings = Settings::parse(&text).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
        let clock = Arc::<ManualClock>::clone(&self.clock);
        Doorkeep::start_with(Sockets::default(), workers, settings, clock).await.unwrap()
    }

    /// The settings of a gateway with these counterparts, as a file has them.
    pub fn toml(&self, plan: Plan<'_>) -> String {
        toml(plan, &self.backend.settings(), self.upstream.addr)
    }

    /// Gives the running gateway other settings.
    pub fn change(&self, plan: Plan<'_>) {
        let settings = Settings::parse(&self.toml(plan)).unwrap();
        self.door().change(settings).unwrap();
    }

    pub fn later(&self, secs: u64) {
        self.clock.advance(Duration::from_secs(secs));
    }

    pub fn door(&self) -> &Doorkeep {
        self.door.as_ref().expect("it has not been drained")
    }

    pub async fn conn(&self) -> Conn {
        Conn::open(self.addr).await
    }

    /// Makes a request on a connection of its own.
    pub async fn ask(&self, ask: &Ask) -> Answer {
        self.conn().await.ask(ask).await
    }

    /// A session, just begun.
    pub async fn signed_in(&self) -> Jar {
        self.backend.sign_in("asha").await
    }

    /// A session whose access token has just ended.
    pub async fn expired(&self) -> Jar {
        let jar = self.signed_in().await;
        self.later(ACCESS_LIFE.as_secs() + 10);
        jar
    }

    /// A session whose access token lives and is due, wherever in the window its turn is.
    pub async fn due(&self) -> Jar {
        let jar = self.signed_in().await;
        self.later(ACCESS_LIFE.as_secs() / 2 + 40);
        jar
    }
}

/// The directory of the demo, as the session backend of these tests.
fn directory(clock: Arc<ManualClock>) -> Arc<dyn Issuer> {
    let settings = DirectorySettings {
        access_secret: Secret::new(ACCESS_SECRET.to_owned()),
        refresh_secret: Secret::new(REFRESH_SECRET.to_owned()),
        access_life: ACCESS_LIFE,
        refresh_life: REFRESH_LIFE,
    };
    Arc::new(Arc::new(Directory::new(settings, clock, Arc::new(|_| ()))))
}

/// The settings as a file has them.
pub fn toml(plan: Plan<'_>, backend: &BackendLines, upstream: SocketAddr) -> String {
    let Plan {
        top, listen, cookies, token, renew, lifetime, identity, identity_headers, site, rules, ..
    } = plan;
    let key = plan.key.unwrap_or(ACCESS_SECRET);
    let app = plan.upstream.map_or_else(|| format!("http://{upstream}"), str::to_owned);
    let (host, origin) = (super::HOST, super::ORIGIN);
    let login = match plan.login {
        "" => format!("url = \"{}\"", super::LOGIN),
        login => login.to_owned(),
    };
    let BackendLines { id, tables, cookies: own_cookies, subject, role, .. } = backend;
    let checked =
        backend.token.map_or_else(|| format!("algorithms = [\"HS256\"]\nkey = \"{key}\""), str::to_owned);
    format!(
        r#"
secret = "{OWN_SECRET}"
{top}
[listen]
http = "127.0.0.1:0"
{listen}
[session]
backend = "{id}"
[session.cookies]
{own_cookies}
{cookies}
[session.token]
{checked}
{token}
[session.lifetime]
{lifetime}
[session.renew]
{renew}
[login]
{login}
{tables}
[identity]
subject = "{subject}"
{identity}
[identity.headers]
"X-Auth-User" = "{subject}"
"X-Auth-Role" = "{role}"
"X-Auth-Nothing" = "no.such.claim"
{identity_headers}
[[site]]
host = "{host}"
origin = "{origin}"
upstream = ["{app}"]
{site}
[[site.rule]]
path = "/public/*"
access = "public"
[[site.rule]]
path = "/optional/*"
access = "optional"
[[site.rule]]
path = "/admin/*"
require = {{ "{role}" = ["admin"] }}
{rules}
"#
    )
}
