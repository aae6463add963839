//! A real Redis that a test starts, stops, pauses and empties.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{closed_port, within};

/// The server. It ends with the test.
#[derive(Debug)]
pub struct Redis {
    pub addr: SocketAddr,
    folder: tempfile::TempDir,
    /// What ends the server even where this process is ended first.
    child: Option<Child>,
    /// The server itself.
    pid: String,
}

impl Redis {
    pub async fn start() -> Self {
        let (socket, addr) = closed_port();
        drop(socket);
        let folder = tempfile::tempdir().unwrap();
        let mut redis = Self { addr, folder, child: None, pid: String::new() };
        redis.restart().await;
        redis
    }

    /// Starts it again, empty.
    pub async fn restart(&mut self) {
        let child = Command::new("timeout")
            .args(["600", "redis-server"])
            .args([
                "--port",
                &self.addr.port().to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .arg("--dir")
            .arg(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed (tests/run does)");
        self.child = Some(child);
        within("Redis to answer", async {
            while self.say("PING").await.is_none_or(|answer| !answer.starts_with("+PONG")) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        let told = self.say("INFO server").await.expect("it runs");
        let pid = told.lines().find_map(|line| line.strip_prefix("process_id:"));
        pid.expect("its id").clone_into(&mut self.pid);
    }

    /// Ends it at once, with all that it holds.
    pub fn kill(&mut self) {
        self.signal("-KILL");
        self.child.take().expect("it runs").wait().unwrap();
    }

    /// Stops it where it is, connections open.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.pid]).status().unwrap().success());
    }

    /// One inline command; its raw answer.
    pub async fn say(&self, command: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.addr).await.ok()?;
        stream.write_all(format!("{command}\r\n").as_bytes()).await.ok()?;
        let mut bytes = vec![0; 65536];
        let n = stream.read(&mut bytes).await.ok()?;
        Some(String::from_utf8_lossy(&bytes[..n]).into_owned())
    }

    /// The settings that share through it.
    pub fn table(&self) -> String {
        format!("[share]\nurl = \"redis://{}\"\n", self.addr)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(Command::new("kill").args(["-KILL", &self.pid]).status());
            drop(child.wait());
        }
    }
}
