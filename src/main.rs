//! The `doorkeep` program: reads the command line and the settings, runs the gateway, and stops it in order.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use doorkeep::assemble::Doorkeep;
use doorkeep::clock::SystemClock;
use doorkeep::config::{ConfigError, Settings};
use doorkeep::demo;
use doorkeep::server::Drained;
use doorkeep::text::with_causes;
use tokio::signal::unix::{SignalKind, signal};

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
    Run(ConfigFile),
    /// Read a settings file and tell every problem in it, each with its line, key and remedy.
    ///
    /// Nothing is started and nobody is asked. Secrets are read, to see that they are there, and never shown.
    Check(ConfigFile),
    /// Try it all on this machine: a session backend, a login page, a sample app, and the gateway before it.
    ///
    /// Everything listens on loopback only and nothing has to be installed. Open the address that is printed, sign in,
    /// and watch the session being renewed.
    Demo(DemoArgs),
}

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
    /// How long an access token lives.
    #[arg(long, default_value = "20s", value_parser = humantime::parse_duration)]
    access_life: Duration,
    /// How long a refresh token lives: whoever is away for longer has to sign in again.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    refresh_life: Duration,
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
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fault(&error),
    };
    match cli.command {
        Command::Check(file) => check(&file.config),
        Command::Run(file) => match load(&file.config) {
            Ok(settings) => runtime.block_on(run(settings)),
            Err(code) => code,
        },
        Command::Demo(args) => {
            let options = demo::Options {
                port: args.port,
                access_life: args.access_life,
                refresh_life: args.refresh_life,
            };
            match runtime.block_on(demo::run(options, told_to_stop())) {
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
    for row in settings.backend.answers().rows() {
        say(&format!("  an answer of the session backend with {row}"));
    }
    say("  any other answer without tokens: unavailable (the session stands)");
    ExitCode::SUCCESS
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

async fn run(settings: Settings) -> ExitCode {
    let log = doorkeep::log::start(&settings.log);
    for advice in &settings.advice {
        tracing::info!(%advice, "settings");
    }
    let doorkeep = match Doorkeep::start(settings, Arc::new(SystemClock)).await {
        Ok(doorkeep) => doorkeep,
        Err(error) => {
            drop(log);
            return fault(&error);
        }
    };
    let shown =
        |addr: Option<std::net::SocketAddr>| addr.map_or_else(|| "none".to_owned(), |addr| addr.to_string());
    tracing::info!(http = %doorkeep.http, https = shown(doorkeep.https), admin = shown(doorkeep.admin), "serving");
    told_to_stop().await;
    tracing::info!("stopping");
    let drained = doorkeep.drain().await;
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

/// Waits for SIGTERM or SIGINT.
async fn told_to_stop() {
    let signals = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    let [Ok(mut term), Ok(mut int), Ok(mut hang_up)] = signals else {
        tracing::error!("signals cannot be received: stop this process by other means");
        return std::future::pending().await;
    };
    loop {
        tokio::select! {
            _ = term.recv() => return,
            _ = int.recv() => return,
            _ = hang_up.recv() => tracing::warn!("SIGHUP: settings are read at the start only; restart to change them"),
        }
    }
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
