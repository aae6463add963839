//! Listening sockets: those that a service manager passed, and those that are opened here.
//! In: the environment, addresses. Out: [`Sockets`]. Errors: [`PassedError`]. I/O: sockets.
//! Source: `sd_listen_fds(3)`: `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES`.

use std::io;

use listenfd::ListenFd;
use tokio::net::TcpListener;

use crate::assemble::StartError;
use crate::config::ListenSettings;
use crate::server::{self, Workers};

/// Sockets that listen already; what is missing is opened where the settings say.
#[derive(Debug, Default)]
pub struct Sockets {
    /// For `listen.http`.
    pub http: Option<TcpListener>,
    /// For `listen.https`.
    pub https: Option<TcpListener>,
    /// For `listen.admin`.
    pub admin: Option<TcpListener>,
}

/// Sockets that a service manager passed, by name.
#[derive(Debug, Default)]
pub struct Passed(Vec<(String, std::net::TcpListener)>);

/// Sockets that were passed cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PassedError {
    /// What the environment says of them makes no sense, or one is no TCP socket.
    #[error("the sockets that the service manager passes cannot be used")]
    Unusable(#[from] io::Error),
    /// One is for nothing here.
    #[error(
        "a socket named \"{0}\" was passed; name it by FileDescriptorName=, as http, https or admin, each once"
    )]
    Name(String),
    /// One is for a listener that is not set.
    #[error("a socket named \"{0}\" was passed, and listen.{0} is not set; set it, or leave the socket out")]
    NotSet(&'static str),
}

/// All the sockets that settings name.
#[derive(Debug)]
pub(super) struct Doors {
    pub(super) http: TcpListener,
    pub(super) https: Option<TcpListener>,
    pub(super) admin: Option<TcpListener>,
}

impl Passed {
    /// Takes them over from the service manager that started this process, if there is one. It takes them out of the
    /// environment as well, so it is called once, before there is any other thread.
    ///
    /// # Errors
    /// [`PassedError::Unusable`].
    pub fn take() -> Result<Self, PassedError> {
        let names: Vec<String> = sd_notify::listen_fds_with_names()?.map(|(_, name)| name).collect();
        if names.is_empty() {
            return Ok(Self::default());
        }
        let mut sockets = ListenFd::from_env();
        let mut passed = Vec::new();
        for (n, name) in names.into_iter().enumerate() {
            passed.extend(sockets.take_tcp_listener(n)?.map(|socket| (name, socket)));
        }
        Ok(Self(passed))
    }
}

impl Sockets {
    /// Those that were passed, each in its place.
    ///
    /// # Errors
    /// [`PassedError`] where one has none.
    pub fn of(passed: Passed) -> Result<Self, PassedError> {
        let mut sockets = Self::default();
        for (name, socket) in passed.0 {
            let place = match name.as_str() {
                "http" => &mut sockets.http,
                "https" => &mut sockets.https,
                "admin" => &mut sockets.admin,
                _ => return Err(PassedError::Name(name)),
            };
            if place.is_some() {
                return Err(PassedError::Name(name));
            }
            *place = Some(server::adopt(socket)?);
        }
        Ok(sockets)
    }

    /// Those for browsers are in the care of these workers.
    pub(super) async fn fill(self, listen: &ListenSettings, workers: &Workers) -> Result<Doors, StartError> {
        let Self { http, https, admin } = self;
        let http = match http {
            Some(there) => there,
            None => server::listen(listen.http).await?,
        };
        let adopt = |listener| workers.adopt(listener).map_err(StartError::Door);
        let https_at = listen.https.as_ref().map(|(addr, _)| *addr);
        Ok(Doors {
            http: adopt(http)?,
            https: beside("https", https, https_at).await?.map(adopt).transpose()?,
            admin: beside("admin", admin, listen.admin).await?,
        })
    }
}

async fn beside(
    name: &'static str,
    there: Option<TcpListener>,
    at: Option<std::net::SocketAddr>,
) -> Result<Option<TcpListener>, StartError> {
    match (there, at) {
        (Some(there), Some(_)) => Ok(Some(there)),
        (Some(_), None) => Err(PassedError::NotSet(name).into()),
        (None, Some(addr)) => Ok(Some(server::listen(addr).await?)),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn passed(names: &[&str]) -> Passed {
        let socket = || std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
        Passed(names.iter().map(|name| ((*name).to_owned(), socket())).collect())
    }

    fn listen(lines: &str) -> ListenSettings {
        let text = format!(
            "[listen]\nhttp = \"127.0.0.1:0\"\n{lines}\n[session]\nbackend = \"directory\"\n[session.token]\n\
             algorithms = [\"HS256\"]\nkey = \"a key of these tests, 32 bytes long\"\n[login]\n\
             url = \"https://id.test/login\"\n[backend.directory]\nurl = \"http://127.0.0.1:1\"\n[[site]]\n\
             host = \"a.test\"\norigin = \"https://a.test\"\nupstream = [\"http://127.0.0.1:1\"]\n"
        );
        Settings::parse(&text).expect("usable").listen
    }

    #[tokio::test]
    async fn each_socket_goes_to_its_place_and_the_others_are_opened() {
        let given = passed(&["admin"]);
        let addr = given.0.first().map(|(_, socket)| socket.local_addr().expect("an address"));
        let sockets = Sockets::of(given).expect("usable");
        let doors = sockets.fill(&listen("admin = \"127.0.0.1:0\""), &Workers::here()).await.expect("opened");
        assert_eq!(doors.admin.and_then(|door| door.local_addr().ok()), addr);
        assert!(doors.https.is_none() && doors.http.local_addr().is_ok());
    }

    #[tokio::test]
    async fn a_socket_without_a_place_is_told_by_its_name() {
        for names in [&["doorkeep.socket"][..], &["http", "http"], &["http", "unknown"]] {
            let fault = Sockets::of(passed(names)).expect_err("no place");
            assert!(matches!(&fault, PassedError::Name(name) if name == names[names.len() - 1]), "{fault}");
        }
        for name in ["https", "admin"] {
            let sockets = Sockets::of(passed(&[name])).expect("a name");
            let fault = sockets.fill(&listen(""), &Workers::here()).await.expect_err("not set");
            assert!(fault.to_string().contains(&format!("listen.{name} is not set")), "{fault}");
        }
    }
}
