//! The program itself, as operators run it.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};

use super::{until, within};

/// A command line of the program.
pub fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_doorkeep"));
    command.args(words).env_clear();
    command
}

/// What a command line comes to.
pub fn output(words: &[&str]) -> Output {
    command(words).output().expect("the program runs")
}

/// A running gateway in a process of its own. It is killed with the test that started it.
#[derive(Debug)]
pub struct Program {
    child: Child,
    said: Arc<Mutex<String>>,
    pub addr: SocketAddr,
    /// Where it listens for browsers by TLS, and for operators.
    pub https: Option<SocketAddr>,
    pub admin: Option<SocketAddr>,
    folder: tempfile::TempDir,
}

impl Program {
    /// Runs with these settings, which have to log JSON, and waits until it serves.
    pub async fn run(toml: &str) -> Self {
        Self::run_with(toml, &[]).await
    }

    /// The same with these variables in its environment.
    pub async fn run_with(toml: &str, variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("doorkeep.toml");
        std::fs::write(&path, toml).unwrap();
        let mut command = command(&["run", "--config", path.to_str().unwrap()]);
        command
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let said: Arc<Mutex<String>> = Arc::default();
        let pipes: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for pipe in pipes {
            let said = Arc::clone(&said);
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    let mut said = said.lock().unwrap();
                    said.push_str(&line);
                    said.push('\n');
                }
            });
        }
        let listens = |name: &str| {
            let said = said.lock().unwrap();
            let line = said.lines().find(|line| line.contains("\"serving\""))?;
            let json: serde_json::Value = serde_json::from_str(line).ok()?;
            json[name].as_str()?.parse::<SocketAddr>().ok()
        };
        until("the program to serve", || listens("http").is_some()).await;
        let (addr, https, admin) = (listens("http").unwrap(), listens("https"), listens("admin"));
        Self { child, said, addr, https, admin, folder }
    }

    /// Everything that it has written so far.
    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Its settings file.
    pub fn settings(&self) -> std::path::PathBuf {
        self.folder.path().join("doorkeep.toml")
    }

    /// Asks it to stop, as a service manager does.
    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Asks it to read its settings again.
    pub fn hang_up(&self) {
        self.signal("-HUP");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        within("the program to end", async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ended_before = self.child.kill();
        let _ended_before = self.child.wait();
    }
}
