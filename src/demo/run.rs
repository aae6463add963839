//! The whole of it on one machine: directory, login page, sample app, and the gateway before the app.
//! In: ports and lifetimes. Out: lines on the terminal. Errors: [`DemoError`]. I/O: loopback sockets, standard output.
//!
//! The gateway runs with the settings of `config/directory.toml`, in which only addresses, secrets and the cookies'
//! `secure` differ: browsers on this machine come by plain HTTP.

use std::future::Future;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderName;
use tokio::net::TcpListener;
use toml::{Table, Value};
use url::Url;

use crate::assemble::{Doorkeep, StartError};
use crate::clock::{Clock, SystemClock};
use crate::config::{ConfigError, Settings};
use crate::demo::app::AppSettings;
use crate::demo::counterparts::{CounterpartSettings, Counterparts, Listeners};
use crate::demo::directory::DirectorySettings;
use crate::demo::event::Narrator;
use crate::demo::login::{CookieSettings, LoginSettings};
use crate::demo::people::PEOPLE;
use crate::random::{self, NoRandom};
use crate::renew::PersistError;
use crate::secret::Secret;
use crate::server::Life;

/// The settings that the demo runs with.
const SETTINGS: &str = include_str!("../../config/directory.toml");

/// For the counterparts' last answers.
const STOP_TIME: Duration = Duration::from_secs(2);

/// What a person can choose.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Where gateway and login page listen; directory and app stay on loopback.
    pub listen: IpAddr,
    /// Where health and metrics are.
    pub admin: SocketAddr,
    /// Port of the gateway; login page, directory and app take the next three.
    pub port: u16,
    /// Life of an access token.
    pub access_life: Duration,
    /// Life of a refresh token.
    pub refresh_life: Duration,
    /// Where people sign in.
    pub sign_in: SignInAt,
}

/// Where people sign in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignInAt {
    /// At the demo's login page, a server of its own.
    LoginPage,
    /// At the gateway.
    Gateway,
}

/// Why the demo does not run.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A port is taken.
    #[error("port {port} cannot be listened on; choose others with --port")]
    Port {
        /// The port.
        port: u16,
        /// Why not.
        source: io::Error,
    },
    /// The last ports are beyond the end.
    #[error("--port {0} leaves no room for the three ports after it; choose a lower one")]
    PortTooHigh(u16),
    /// The settings do not fit the gateway.
    #[error("config/directory.toml does not fit")]
    Settings(#[from] ConfigError),
    /// It is no TOML.
    #[error("config/directory.toml cannot be read")]
    Toml(#[from] toml::de::Error),
    /// The gateway does not start.
    #[error("the gateway does not start")]
    Start(#[from] StartError),
    /// The counterparts do not start.
    #[error("the counterparts do not start")]
    Counterparts(#[source] io::Error),
    /// An address made of the ports is none.
    #[error("an address of the demo cannot be used")]
    Address(#[from] url::ParseError),
    /// The system has no random numbers.
    #[error(transparent)]
    Random(#[from] NoRandom),
    /// The end was not orderly.
    #[error("stopping failed")]
    Stop(#[from] PersistError),
}

/// Runs the demo until `stop` is ready.
///
/// # Errors
/// [`DemoError`] where it cannot start.
pub async fn run(options: Options, stop: impl Future<Output = ()>) -> Result<(), DemoError> {
    let secrets = Secrets::make()?;
    let last = options.port.checked_add(3).ok_or(DemoError::PortTooHigh(options.port))?;
    let inside = IpAddr::from(Ipv4Addr::LOCALHOST);
    let gateway_socket = bind(options.listen, options.port).await?;
    let listeners = Listeners {
        login: bind(options.listen, options.port.saturating_add(1)).await?,
        directory: bind(inside, options.port.saturating_add(2)).await?,
        app: bind(inside, last).await?,
    };
    let app = Url::parse(&format!("http://localhost:{}/", options.port))?;
    let login = Url::parse(&format!("http://localhost:{}/", options.port.saturating_add(1)))?;
    let narrator: Narrator = Arc::new(|event| say(&format!("  {event}")));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let life = Life::default();
    let counterparts = Counterparts::start(
        listeners,
        counterparts(&options, &secrets, &app, &login),
        &clock,
        &narrator,
        &life,
    )
    .map_err(DemoError::Counterparts)?;
    let login = (options.sign_in == SignInAt::LoginPage).then_some(&login);
    let mut settings = settings(&secrets, &app, login, &counterparts)?;
    set(&mut settings, &["listen", "admin"], options.admin.to_string().into());
    let text = settings.to_string();
    let doorkeep = Doorkeep::start_on(gateway_socket, Settings::parse(&text)?, clock).await?;
    greet(&options, &app);
    stop.await;
    say("\n  Stopping.");
    doorkeep.drain().await?;
    life.drain(STOP_TIME).await;
    Ok(())
}

struct Secrets {
    gateway: String,
    access: String,
    refresh: String,
}

impl Secrets {
    fn make() -> Result<Self, DemoError> {
        let one = || -> Result<String, DemoError> {
            let mut bytes = [0_u8; 48];
            random::fill(&mut bytes)?;
            Ok(URL_SAFE_NO_PAD.encode(bytes))
        };
        Ok(Self { gateway: one()?, access: one()?, refresh: one()? })
    }
}

fn counterparts(options: &Options, secrets: &Secrets, app: &Url, login: &Url) -> CounterpartSettings {
    CounterpartSettings {
        directory: DirectorySettings {
            access_secret: Secret::new(secrets.access.clone()),
            refresh_secret: Secret::new(secrets.refresh.clone()),
            access_life: options.access_life,
            refresh_life: options.refresh_life,
        },
        login: LoginSettings {
            origin: login.clone(),
            app: app.clone(),
            allowed: vec![app.clone()],
            cookies: CookieSettings {
                access: "access_token".into(),
                refresh: "refresh_token".into(),
                session: "session_id".into(),
                domain: None,
                secure: false,
            },
        },
        app: AppSettings {
            user: HeaderName::from_static("x-auth-user"),
            email: HeaderName::from_static("x-auth-email"),
            role: HeaderName::from_static("x-auth-role"),
            expires: HeaderName::from_static("x-auth-expires"),
            session: HeaderName::from_static("x-auth-session"),
            sign_out: "/.doorkeep/sign-out".into(),
        },
    }
}

/// `config/directory.toml` with the demo's addresses and secrets. `login`: the login page, where there is one.
fn settings(
    secrets: &Secrets,
    app: &Url,
    login: Option<&Url>,
    counterparts: &Counterparts,
) -> Result<Table, DemoError> {
    let mut settings: Table = SETTINGS.parse()?;
    settings.insert("secret".into(), Value::String(secrets.gateway.clone()));
    set(&mut settings, &["session", "cookies", "secure"], false.into());
    set(&mut settings, &["session", "token", "key"], secrets.access.clone().into());
    match login {
        Some(login) => set(&mut settings, &["login", "url"], format!("{login}login").into()),
        None => set(&mut settings, &["login"], Table::from_iter([("mode".to_owned(), "form".into())]).into()),
    }
    set(&mut settings, &["backend", "directory", "url"], counterparts.directory_url().as_str().into());
    if let Some(cookies) = table_at(&mut settings, &["session", "cookies"]) {
        cookies.remove("domain");
    }
    if let Some(Value::Array(sites)) = settings.get_mut("site")
        && let Some(Value::Table(site)) = sites.first_mut()
    {
        site.insert("host".into(), "localhost".into());
        site.insert("origin".into(), app.as_str().trim_end_matches('/').into());
        site.insert("upstream".into(), counterparts.app_url().as_str().into());
    }
    Ok(settings)
}

fn set(table: &mut Table, path: &[&str], value: Value) {
    if let Some((key, above)) = path.split_last()
        && let Some(table) = table_at(table, above)
    {
        table.insert((*key).to_owned(), value);
    }
}

fn table_at<'a>(table: &'a mut Table, path: &[&str]) -> Option<&'a mut Table> {
    path.iter().try_fold(table, |table, key| table.get_mut(*key)?.as_table_mut())
}

async fn bind(ip: IpAddr, port: u16) -> Result<TcpListener, DemoError> {
    TcpListener::bind((ip, port)).await.map_err(|source| DemoError::Port { port, source })
}

fn greet(options: &Options, app: &Url) {
    let access = humantime::format_duration(options.access_life);
    let refresh = humantime::format_duration(options.refresh_life);
    say("");
    say(&format!("  Doorkeep demo: open  {app}"));
    say("");
    for person in &PEOPLE {
        say(&format!("    user {:6} password {:12} ({})", person.code, person.password, person.role_name));
    }
    say("");
    say(&format!(
        "  A token lives {access}; who is away for more than {refresh} signs in again. Ctrl-C stops."
    ));
    say("");
}

/// A line on the terminal; nobody may be there to read it.
fn say(line: &str) {
    drop(writeln!(io::stdout(), "{line}"));
}
