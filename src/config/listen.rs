//! The settings of listeners, the drain and the log.
//! In: `[listen]`, `[drain]`, `[log]`. Out: their values. Errors: noted problems. I/O: none.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::config::read::Section;
use crate::config::value;
use crate::peer::TrustedNetworks;
use crate::server::ConnectionLimits;

/// Listeners and client connections.
#[derive(Clone, Debug)]
pub struct ListenSettings {
    /// Where browsers come.
    pub http: SocketAddr,
    /// Where operators come; `None`: nowhere.
    pub admin: Option<SocketAddr>,
    /// What a connection may take.
    pub limits: ConnectionLimits,
    /// Most bytes of a request body.
    pub body: u64,
    /// Longest time without a byte of a request body.
    pub body_idle: Duration,
    /// Proxies that are believed about earlier hops.
    pub trusted: TrustedNetworks,
}

/// The orderly stop.
#[derive(Clone, Copy, Debug)]
pub struct DrainSettings {
    /// Between not being ready and not accepting.
    pub delay: Duration,
    /// For requests and renewals under way.
    pub timeout: Duration,
}

/// The log.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// How lines look.
    pub format: LogFormat,
    /// What is told, in the form of `tracing`'s directives.
    pub level: String,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Readable on a terminal, JSON elsewhere.
    Auto,
    /// JSON, one object a line.
    Json,
    /// For people.
    Text,
}

pub(super) fn listen(root: &Section<'_, '_>) -> Option<ListenSettings> {
    let section = root.section("listen");
    let defaults = ConnectionLimits::default();
    let span = |key: &str, default| section.take(key).and_then(|f| value::duration(&f)).unwrap_or(default);
    let count = |key: &str, default: usize| {
        section
            .take(key)
            .and_then(|f| f.number())
            .map_or(default, |n| usize::try_from(n).unwrap_or(usize::MAX))
    };
    let http = section.need("http", "\"127.0.0.1:8080\"").and_then(|f| address(&f));
    let admin = section.take("admin").map(|f| address(&f));
    let head_bytes = section.take("head_bytes").and_then(|f| value::size(&f));
    let limits = ConnectionLimits {
        head: span("head", defaults.head),
        idle: span("idle", defaults.idle),
        connections: count("connections", defaults.connections),
        head_bytes: head_bytes.map_or(defaults.head_bytes, |n| usize::try_from(n).unwrap_or(usize::MAX)),
        head_fields: count("head_fields", defaults.head_fields),
    };
    let body = section.take("body").and_then(|f| value::size(&f)).unwrap_or(100 << 20);
    let body_idle = span("body_idle", Duration::from_secs(30));
    let trusted = section.take("trusted").map(|f| networks(&f)).unwrap_or_default();
    section.finish();
    let admin = match admin {
        None => None,
        Some(read) => Some(read?),
    };
    Some(ListenSettings {
        http: http?,
        admin,
        limits,
        body,
        body_idle,
        trusted: TrustedNetworks::new(trusted),
    })
}

pub(super) fn drain(root: &Section<'_, '_>) -> DrainSettings {
    let section = root.section("drain");
    let span = |key: &str, secs| {
        section.take(key).and_then(|f| value::duration(&f)).unwrap_or(Duration::from_secs(secs))
    };
    let settings = DrainSettings { delay: span("delay", 0), timeout: span("timeout", 35) };
    section.finish();
    settings
}

pub(super) fn log(root: &Section<'_, '_>) -> LogSettings {
    let section = root.section("log");
    let formats = [("auto", LogFormat::Auto), ("json", LogFormat::Json), ("text", LogFormat::Text)];
    let format = section.take("format").and_then(|f| f.word(&formats)).unwrap_or(LogFormat::Auto);
    let level = match section.take("level") {
        None => "info".to_owned(),
        Some(field) => {
            let text = field.text().unwrap_or("info");
            if text.parse::<tracing_subscriber::filter::EnvFilter>().is_err() {
                field.problem(format!("\"{text}\" is no level; write \"info\", \"debug\" or \"warn\""));
            }
            text.to_owned()
        }
    };
    section.finish();
    LogSettings { format, level }
}

fn address(field: &crate::config::read::Field<'_, '_>) -> Option<SocketAddr> {
    let text = field.text()?;
    let addr = text.parse().ok();
    if addr.is_none() {
        field.problem(format!(
            "\"{text}\" is no address; write IP and port, such as \"0.0.0.0:8080\" or \"[::]:8080\""
        ));
    }
    addr
}

fn networks(field: &crate::config::read::Field<'_, '_>) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for item in field.one_or_many() {
        let Some(text) = item.text() else { continue };
        let parsed = text.parse::<IpNet>().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
        match parsed {
            Ok(network) if network.prefix_len() == 0 => {
                item.problem("would believe everybody; list the networks of your own proxies");
            }
            Ok(network) => networks.push(network),
            Err(_) => item.problem(format!("\"{text}\" is no network; write for example \"10.0.0.0/8\"")),
        }
    }
    networks
}
