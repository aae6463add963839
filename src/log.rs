//! Where log lines go: written by a thread of their own, bounded, so that a slow disk or terminal stops no request.
//! In: settings. Out: lines on standard output. Errors: none; a second start of the log is ignored. I/O: standard output.

use std::io::IsTerminal as _;

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::EnvFilter;

use crate::config::{LogFormat, LogSettings};

/// Most lines that wait to be written; more are dropped.
const WAITING: usize = 50_000;

/// Starts the log. What is returned writes the last lines when it is dropped.
pub fn start(settings: &LogSettings) -> WorkerGuard {
    let (writer, guard): (NonBlocking, WorkerGuard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING).finish(std::io::stdout());
    let filter = settings.level.parse().unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = std::io::stdout().is_terminal();
    let json = match settings.format {
        LogFormat::Auto => !terminal,
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(terminal);
    let started = if json {
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    } else {
        lines.compact().try_init()
    };
    if let Err(error) = started {
        tracing::debug!(%error, "the log has started already");
    }
    guard
}
