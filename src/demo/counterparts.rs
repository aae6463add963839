//! Starts the three counterparts together and says where they are.
//! In: bound listeners and settings. Out: [`Counterparts`]. Errors: a listener without an address. I/O: loopback sockets.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use url::Url;

use crate::backend::SessionBackend;
use crate::backend::directory::{
    Directory as Wire, DirectoryPaths, DirectorySettings as WireSettings, default_answers,
};
use crate::clock::Clock;
use crate::demo::app::{App, AppSettings};
use crate::demo::directory::{Directory, DirectorySettings};
use crate::demo::event::Narrator;
use crate::demo::login::{Login, LoginSettings};
use crate::demo::serve::serve;
use crate::dial::{Authorities, Dialer, Roots};
use crate::server::Life;

/// Longest wait for a connection to the directory.
const CONNECT_TIME: Duration = Duration::from_secs(2);

/// One bound listener each. They should be on loopback: none of the three is made for the open net.
#[derive(Debug)]
pub struct Listeners {
    /// For the directory.
    pub directory: TcpListener,
    /// For the login page.
    pub login: TcpListener,
    /// For the sample app.
    pub app: TcpListener,
}

impl Listeners {
    /// Listeners on three free ports of 127.0.0.1.
    ///
    /// # Errors
    /// Whatever the system says where it has no port left.
    pub async fn on_free_ports() -> io::Result<Self> {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        Ok(Self {
            directory: TcpListener::bind(free).await?,
            login: TcpListener::bind(free).await?,
            app: TcpListener::bind(free).await?,
        })
    }
}

/// What each of the three is told.
#[derive(Clone, Debug)]
pub struct CounterpartSettings {
    /// For the directory.
    pub directory: DirectorySettings,
    /// For the login page.
    pub login: LoginSettings,
    /// For the sample app.
    pub app: AppSettings,
}

/// The three running counterparts. They run on after this is dropped, until their life says to finish.
#[derive(Clone, Debug)]
pub struct Counterparts {
    directory: Arc<Directory>,
    directory_url: Url,
    login_url: Url,
    app_url: Url,
}

impl Counterparts {
    /// Starts all three on their listeners. The login page signs in at this directory.
    ///
    /// # Errors
    /// What the system says where a listener has no address to be reached at; nothing has been started then.
    pub fn start(
        listeners: Listeners,
        settings: CounterpartSettings,
        clock: &Arc<dyn Clock>,
        narrator: &Narrator,
        life: &Life,
    ) -> io::Result<Self> {
        let directory_url = base_url(&listeners.directory)?;
        let login_url = base_url(&listeners.login)?;
        let app_url = base_url(&listeners.app)?;

        let directory = Arc::new(Directory::new(settings.directory, Arc::clone(clock), Arc::clone(narrator)));
        let wire = wire(&directory_url, clock)?;
        let login = Login::new(settings.login, wire, Arc::clone(clock), Arc::clone(narrator));
        let login = Arc::new(login);
        let app = Arc::new(App::new(settings.app, Arc::clone(clock)));

        let answering = Arc::clone(&directory);
        let answer = move |request: Request<Incoming>| {
            let directory = Arc::clone(&answering);
            async move { directory.answer(request).await }
        };
        serve(listeners.directory, answer, life);
        let answer = move |request: Request<Incoming>| {
            let login = Arc::clone(&login);
            async move { login.answer(request).await }
        };
        serve(listeners.login, answer, life);
        let answer = move |request: Request<Incoming>| {
            let app = Arc::clone(&app);
            async move { app.answer(request).await }
        };
        serve(listeners.app, answer, life);

        Ok(Self { directory, directory_url, login_url, app_url })
    }

    /// The running directory, for its counters.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Base URL of the directory: `http`, address and port, path `/`.
    #[must_use]
    pub const fn directory_url(&self) -> &Url {
        &self.directory_url
    }

    /// Base URL of the login page's server, by address. Browsers should use the origin of the settings.
    #[must_use]
    pub const fn login_url(&self) -> &Url {
        &self.login_url
    }

    /// Base URL of the sample app: the upstream.
    #[must_use]
    pub const fn app_url(&self) -> &Url {
        &self.app_url
    }
}

/// The way to the directory, the same that the gateway uses.
pub(super) fn wire(directory: &Url, clock: &Arc<dyn Clock>) -> io::Result<Arc<dyn SessionBackend>> {
    let settings = WireSettings {
        url: directory.clone(),
        paths: DirectoryPaths::default(),
        app: "doorkeep-demo".to_owned(),
        answers: default_answers(),
    };
    let authorities = Authorities::new(Roots::System);
    let dialer = Dialer::new(&authorities, [directory], CONNECT_TIME).map_err(io::Error::other)?;
    Ok(Arc::new(Wire::new(settings, dialer, Arc::clone(clock))))
}

fn base_url(listener: &TcpListener) -> io::Result<Url> {
    let address = listener.local_addr()?;
    Url::parse(&format!("http://{address}/")).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::clock::{ManualClock, UnixTime};
    use crate::demo::login::CookieSettings;
    use crate::secret::Secret;

    fn settings() -> CounterpartSettings {
        CounterpartSettings {
            directory: DirectorySettings {
                access_secret: Secret::new("a".repeat(32)),
                refresh_secret: Secret::new("b".repeat(32)),
                access_life: Duration::from_secs(60),
                refresh_life: Duration::from_secs(90),
            },
            login: LoginSettings {
                origin: Url::parse("http://id.localhost:9000").unwrap(),
                app: Url::parse("http://app.localhost:8080").unwrap(),
                allowed: vec![],
                cookies: CookieSettings {
                    access: "access_token".to_owned(),
                    refresh: "refresh_token".to_owned(),
                    session: "session_id".to_owned(),
                    domain: None,
                    secure: false,
                },
            },
            app: AppSettings {
                user: HeaderName::from_static("x-auth-user"),
                email: HeaderName::from_static("x-auth-email"),
                role: HeaderName::from_static("x-auth-roles"),
                expires: HeaderName::from_static("x-auth-expires"),
                session: HeaderName::from_static("x-auth-session"),
                sign_out: "/.doorkeep/sign-out".to_owned(),
            },
        }
    }

    async fn ask(url: &Url, request: &str) -> String {
        let mut stream = TcpStream::connect((url.host_str().unwrap(), url.port().unwrap())).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_three_work_together_and_stop_together() {
        let life = Life::default();
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(UnixTime::from_secs(1_800_000_000)));
        let narrator: Narrator = Arc::new(|_| {});
        let listeners = Listeners::on_free_ports().await.unwrap();
        let three = Counterparts::start(listeners, settings(), &clock, &narrator, &life).unwrap();

        let form = "name=asha&password=demo-asha";
        let head = "POST /login HTTP/1.1\r\nHost: id\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded";
        let signed_in =
            ask(three.login_url(), &format!("{head}\r\nContent-Length: {}\r\n\r\n{form}", form.len())).await;
        assert!(signed_in.starts_with("HTTP/1.1 303"), "{signed_in}");
        assert_eq!(signed_in.matches("set-cookie: ").count(), 3);

        let page = "GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\nX-Auth-User: Asha\r\n\r\n";
        assert!(ask(three.app_url(), page).await.contains("Asha"));
        let nowhere = "GET / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n";
        assert!(ask(three.directory_url(), nowhere).await.starts_with("HTTP/1.1 404"));
        assert_eq!(three.directory().presentations(), 0);

        life.drain(Duration::from_secs(5)).await;
    }
}
