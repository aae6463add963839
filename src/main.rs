//! The `doorkeep` program: reads the command line and the settings, runs the gateway, and stops it in order.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Parser, Subcommand};
use doorkeep::assemble::{Doorkeep, Passed, Reloaded, Sockets};
use doorkeep::clock::SystemClock;
use doorkeep::config::{ConfigError, Settings};
use doorkeep::demo;
use doorkeep::log::Log;
use doorkeep::server::{Crew, Drained, Workers};
use doorkeep::text::with_causes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use sd_notify::NotifyState;
use tikv_jemallocator::Jemalloc;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Gives the memory of ten thousand connections back within seconds of their end, which the system's allocator does not.
/// `.cargo/config.toml` says how soon.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// The command line could not be read (`EX_USAGE` of sysexits.h).
const USAGE: u8 = 64;
/// The settings cannot be used (`EX_CONFIG`).
const SETTINGS: u8 = 78;

/// A reverse proxy that keeps sessions.
///
/// Doorkeep stands before a web app. It checks the access token in each request's cookies, renews it with the refresh
/// token when it ends, sends browsers to the login when the session is over, and tells the app in headers who is there.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
Start here:   doorkeep demo
Your own app: copy config/directory.toml, change the lines marked with <-, then
              doorkeep check --config FILE
              doorkeep run --config FILE
Exit codes:   0 done, 64 wrong command line, 78 settings that cannot be used, 1 any other fault."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the sites of a settings file until told to stop.
    ///
    /// SIGTERM or Ctrl-C stops it in order: it is no longer ready, accepts nothing more, finishes the requests and
    /// renewals under way (at most drain.timeout), keeps what no browser has yet in `state_dir`, and exits with 0.
    /// SIGHUP makes it read the settings again, and the files they name: all of them come into force, or, where anything
    /// is wrong with them, none.
    Run(ConfigFile),
    /// Read a settings file and tell every problem in it, each with its line, key and remedy.
    ///
    /// Nothing is started and nobody is asked. Secrets are read, to see that they are there, and never shown.
    Check(ConfigFile),
    /// Try it all on this machine: a session backend, a login page, a sample app, and the gateway before it.
    ///
    /// Everything listens on loopback, unless --listen says otherwise, and nothing has to be installed. Open the address that
    /// is printed, sign in, and watch the session being renewed.
    Demo(DemoArgs),
    /// Declare the access token of a session over, as a drill: its next request renews it.
    ///
    /// Standard input holds the session's cookies (a Cookie line) or its access token. The refresh token stays as it is, and
    /// nobody is signed out. Asked is the admin listener of the gateway that the session comes to.
    Expire(AdminArgs),
    /// Ask a gateway on this machine whether it is ready: exit code 0 if it is, else 1.
    ///
    /// For health checks of containers, in which there is no other program to ask with.
    Health(AdminArgs),
}

#[derive(Args)]
struct AdminArgs {
    /// The admin listener (`listen.admin` in the settings).
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9900")]
    admin: SocketAddr,
}

/// Longest Cookie line of a drill, in bytes.
const LONGEST_LINE: u64 = 32 * 1024;

/// Longest wait for the admin listener.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Args)]
struct ConfigFile {
    /// The settings (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Args)]
struct DemoArgs {
    /// Port of the gateway; the login page, the directory and the app take the next three.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Where gateway and login page listen. Anything but loopback is for a container whose ports are published: the demo's
    /// passwords are known to everybody.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    listen: IpAddr,
    /// Where health and metrics are.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    admin: SocketAddr,
    /// How long an access token lives.
    #[arg(long, default_value = "20s", value_parser = humantime::parse_duration)]
    access_life: Duration,
    /// How long a refresh token lives: whoever is away for longer has to sign in again.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    refresh_life: Duration,
    /// People sign in at the gateway's own page instead of a login page beside it.
    #[arg(long)]
    form: bool,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let asked_for_help = !error.use_stderr();
            drop(error.print());
            return if asked_for_help { ExitCode::SUCCESS } else { ExitCode::from(USAGE) };
        }
    };
    // Before there is any other thread.
    let passed = match &cli.command {
        Command::Run(_) => Passed::take(),
        Command::Check(_) | Command::Demo(_) | Command::Expire(_) | Command::Health(_) => {
            Ok(Passed::default())
        }
    };
    let passed = match passed {
        Ok(passed) => passed,
        Err(error) => return fault(&error),
    };
    // Those who serve have runtimes of their own.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fault(&error),
    };
    match cli.command {
        Command::Check(file) => check(&file.config),
        Command::Run(file) => match load(&file.config) {
            Ok(settings) => match Crew::of(available_parallelism().unwrap_or(NonZeroUsize::MIN)) {
                Ok(crew) => runtime.block_on(run(settings, &file.config, passed, &crew.workers())),
                Err(error) => fault(&error),
            },
            Err(code) => code,
        },
        Command::Expire(args) => runtime.block_on(expire(args.admin)),
        Command::Health(args) => {
            let asked = http::Request::get(format!("http://{}/readyz", args.admin)).body(Full::default());
            runtime.block_on(ask(args.admin, asked))
        }
        Command::Demo(args) => {
            let options = demo::Options {
                listen: args.listen,
                admin: args.admin,
                port: args.port,
                access_life: args.access_life,
                refresh_life: args.refresh_life,
                sign_in: if args.form { demo::SignInAt::Gateway } else { demo::SignInAt::LoginPage },
            };
            match runtime.block_on(demo::run(options, stopped())) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fault(&error),
            }
        }
    }
}

fn check(path: &Path) -> ExitCode {
    let settings = match load(path) {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    for advice in &settings.advice {
        say(&format!("{}: note: {advice}", path.display()));
    }
    let sites: Vec<_> = settings.sites.iter().map(|site| site.site.host.as_str()).collect();
    say(&format!("{}: usable; it serves {}", path.display(), sites.join(", ")));
    for key in &settings.session.keys_shown {
        say(&format!("  access tokens: {key}"));
    }
    for row in settings.backend.answers().rows() {
        say(&format!("  an answer of the session backend with {row}"));
    }
    if let Some(share) = &settings.share {
        say(&format!("  renewals are shared: {}", share.risk()));
    }
    say("  any other answer without tokens: unavailable (the session stands)");
    ExitCode::SUCCESS
}

async fn expire(admin: SocketAddr) -> ExitCode {
    let mut line = String::new();
    if let Err(error) = std::io::stdin().take(LONGEST_LINE).read_to_string(&mut line) {
        return fault(&error);
    }
    let asked = http::Request::post(format!("http://{admin}/sessions/expire")).body(Full::from(line));
    ask(admin, asked).await
}

/// Asks the admin listener, and says what it says.
async fn ask(admin: SocketAddr, request: http::Result<http::Request<Full<Bytes>>>) -> ExitCode {
    let request = match request {
        Ok(request) => request,
        Err(error) => return fault(&error),
    };
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let asked = async {
        let answer = client.request(request).await.map_err(|error| with_causes(&error))?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(|error| with_causes(&error))?;
        Ok::<_, String>((status, String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()))
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok((status, told))) if status.is_success() => {
            say(&told);
            ExitCode::SUCCESS
        }
        Ok(Ok((_, told)) | Err(told)) => {
            complain(&format!("{admin}: {told}"));
            ExitCode::FAILURE
        }
        Err(_elapsed) => {
            complain(&format!("{admin} gives no answer; is it listen.admin of a gateway?"));
            ExitCode::FAILURE
        }
    }
}

/// The settings, or every problem in them on standard error.
fn load(path: &Path) -> Result<Settings, ExitCode> {
    Settings::load(path).map_err(|error| {
        match &error {
            ConfigError::Problems(problems) => {
                for problem in problems {
                    complain(&format!("{}: {problem}", path.display()));
                }
            }
            ConfigError::Read { .. } => complain(&with_causes(&error)),
        }
        ExitCode::from(SETTINGS)
    })
}

async fn run(settings: Settings, path: &Path, passed: Passed, workers: &Workers) -> ExitCode {
    let log = match doorkeep::log::start(&settings.log) {
        Ok(log) => log,
        Err(error) => return fault(&error),
    };
    for advice in &settings.advice {
        tracing::info!(%advice, "settings");
    }
    let started = match Sockets::of(passed) {
        Ok(sockets) => Doorkeep::start_with(sockets, workers.clone(), settings, Arc::new(SystemClock)).await,
        Err(error) => Err(error.into()),
    };
    let doorkeep = match started {
        Ok(doorkeep) => doorkeep,
        Err(error) => {
            drop(log);
            return fault(&error);
        }
    };
    let shown = |addr: Option<SocketAddr>| addr.map_or_else(|| "none".to_owned(), |addr| addr.to_string());
    tracing::info!(http = %doorkeep.http, https = shown(doorkeep.https), admin = shown(doorkeep.admin), "serving");
    tell_manager(&[NotifyState::Ready]);
    let stopped = async {
        serve(&doorkeep, path, &log).await;
        tracing::info!("stopping");
        tell_manager(&[NotifyState::Stopping]);
        doorkeep.drain().await
    };
    let drained = tokio::select! {
        drained = stopped => drained,
        never = watched(workers) => match never {},
    };
    let code = match &drained {
        Ok(Drained::All) => ExitCode::SUCCESS,
        Ok(Drained::Cut) => {
            tracing::warn!("some requests took longer than drain.timeout and were cut");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(error = with_causes(error), "what no browser has yet could not be kept");
            ExitCode::FAILURE
        }
    };
    tracing::info!("stopped");
    drop(log);
    code
}

/// Tells the service manager, where one asked to be told (systemd: `sd_notify`).
fn tell_manager(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

/// Shows the service manager that this process and all who serve still turn, twice in each of its intervals, where it watches.
async fn watched(workers: &Workers) -> std::convert::Infallible {
    let Some(interval) = sd_notify::watchdog_enabled().filter(|span| !span.is_zero()) else {
        return std::future::pending().await;
    };
    loop {
        match workers.turn(interval / 4).await {
            Ok(()) => tell_manager(&[NotifyState::Watchdog]),
            Err(error) => tracing::error!("{error}"),
        }
        tokio::time::sleep(interval / 2).await;
    }
}

/// What this process can be told.
enum Word {
    Stop,
    Reload,
}

/// The signals that this process hears.
struct Signals {
    term: Signal,
    int: Signal,
    hang_up: Signal,
}

impl Signals {
    /// `None`: there are none to be heard.
    fn listen() -> Option<Self> {
        let signals = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        let [Ok(term), Ok(int), Ok(hang_up)] = signals else {
            tracing::error!("signals cannot be received: stop this process by other means");
            return None;
        };
        Some(Self { term, int, hang_up })
    }

    async fn next(&mut self) -> Word {
        tokio::select! {
            _ = self.term.recv() => Word::Stop,
            _ = self.int.recv() => Word::Stop,
            _ = self.hang_up.recv() => Word::Reload,
        }
    }
}

/// Serves until SIGTERM or SIGINT. SIGHUP, and a changed file where the settings want it, bring other settings.
async fn serve(doorkeep: &Doorkeep, path: &Path, log: &Log) {
    let Some(mut signals) = Signals::listen() else { return std::future::pending().await };
    loop {
        let word = tokio::select! {
            word = signals.next() => word,
            () = doorkeep.changed(path) => Word::Reload,
        };
        match word {
            Word::Stop => return,
            Word::Reload => reload(doorkeep, path, log),
        }
    }
}

/// The service manager is told of the beginning, by its own clock, and of the end, whatever came of it.
fn reload(doorkeep: &Doorkeep, path: &Path, log: &Log) {
    let begun = NotifyState::monotonic_usec_now();
    let states: Vec<NotifyState<'_>> = [NotifyState::Reloading].into_iter().chain(begun).collect();
    tell_manager(&states);
    match doorkeep.reload(path) {
        Reloaded::New => log.change(&doorkeep.log()),
        Reloaded::Kept => {}
    }
    tell_manager(&[NotifyState::Ready]);
}

/// Waits for SIGTERM or SIGINT.
async fn stopped() {
    let Some(mut signals) = Signals::listen() else { return std::future::pending().await };
    while matches!(signals.next().await, Word::Reload) {}
}

fn fault(error: &dyn std::error::Error) -> ExitCode {
    complain(&with_causes(error));
    ExitCode::FAILURE
}

/// A line on standard output; nobody may be there to read it.
fn say(line: &str) {
    drop(writeln!(std::io::stdout(), "{line}"));
}

/// A line on standard error.
fn complain(line: &str) {
    drop(writeln!(std::io::stderr(), "doorkeep: {line}"));
}
