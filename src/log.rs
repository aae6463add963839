//! Where log lines go: to standard output, by [`Lines`].
//! In: settings. Out: lines on standard output. Errors: none; a second start of the log is ignored. I/O: standard output.
//!
//! Whatever the settings ask for, a library is not asked for what it could only tell by printing what clients send.

use std::io::{self, IsTerminal as _, Write};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tracing::subscriber::Interest;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::{EnvFilter, LevelFilter, filter_fn};
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{LogFormat, LogSettings};
use crate::lines::{Haste, LastLines, Lines};

/// Libraries that print what clients send, and the most that each may tell: of a malformed request `h2` prints path, query
/// and authority at `debug`.
const TALKATIVE: [(&str, Level); 1] = [("h2", Level::INFO)];

/// A running log.
#[derive(Debug)]
pub struct Log {
    told: Told,
    lines: Lines,
    /// Writes the last lines when it is dropped.
    _writer: LastLines,
}

impl Log {
    /// Tells from now on what these settings want told. Lines look as they did.
    pub fn change(&self, settings: &LogSettings) {
        self.told.0.store(Arc::new(filter(settings)));
        tracing::callsite::rebuild_interest_cache();
        self.lines.ask_who_reads();
    }
}

/// Starts the log. Its last lines are written when it is dropped.
///
/// # Errors
/// Those of starting a thread.
pub fn start(settings: &LogSettings) -> io::Result<Log> {
    let (lines, last) = Lines::to(io::stdout())?;
    let told = Told(Arc::new(ArcSwap::from_pointee(filter(settings))));
    let terminal = io::stdout().is_terminal();
    let json = match settings.format {
        LogFormat::Auto => !terminal,
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let events = fmt::layer().with_writer(Out(lines.clone())).with_ansi(terminal);
    let wanted = tracing_subscriber::registry().with(told.clone());
    let started = if json {
        lines.take_access_log();
        let events = events.json().flatten_event(true).with_current_span(false).with_span_list(false);
        wanted.with(events).with(filter_fn(may_be_told)).try_init()
    } else {
        wanted.with(events.compact()).with(filter_fn(may_be_told)).try_init()
    };
    if let Err(error) = started {
        tracing::debug!(%error, "the log has started already");
    }
    lines.ask_who_reads();
    Ok(Log { told, lines, _writer: last })
}

fn filter(settings: &LogSettings) -> EnvFilter {
    settings.level.parse().unwrap_or_else(|_| EnvFilter::new("info"))
}

/// What is told, until other settings come. Each place in the code that tells something asks once, not with each line.
#[derive(Clone, Debug)]
struct Told(Arc<ArcSwap<EnvFilter>>);

impl<S: Subscriber> Layer<S> for Told {
    fn register_callsite(&self, place: &'static Metadata<'static>) -> Interest {
        Layer::<S>::register_callsite(&**self.0.load(), place)
    }

    fn enabled(&self, place: &Metadata<'_>, context: Context<'_, S>) -> bool {
        self.0.load().enabled(place, context)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        self.0.load().max_level_hint()
    }
}

fn may_be_told(about: &Metadata<'_>) -> bool {
    let library = about.target().split("::").next().unwrap_or_default();
    !TALKATIVE.iter().any(|(name, most)| *name == library && about.level() > most)
}

/// Hands events on as lines.
struct Out(Lines);

/// One event on its way.
struct Event<'a>(&'a Lines, Haste);

impl<'a> MakeWriter<'a> for Out {
    type Writer = Event<'a>;

    fn make_writer(&'a self) -> Event<'a> {
        Event(&self.0, Haste::None)
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Event<'a> {
        let haste = if *meta.level() <= Level::WARN { Haste::Now } else { Haste::None };
        Event(&self.0, haste)
    }
}

impl Write for Event<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.add(line, self.1);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
