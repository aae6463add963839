//! The settings of listeners, the drain and the log.
//! In: `[listen]`, `[drain]`, `[log]`. Out: their values. Errors: noted problems. I/O: none.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::config::read::{Field, Section};
use crate::config::value;
use crate::peer::TrustedNetworks;
use crate::server::ConnectionLimits;
use crate::server::tls::{CertificateFiles, Tls, TlsSettings};

/// Listeners and client connections.
#[derive(Clone, Debug)]
pub struct ListenSettings {
    /// Where browsers come.
    pub http: SocketAddr,
    /// Where browsers come by TLS, and with which certificates; `None`: nowhere.
    pub https: Option<(SocketAddr, TlsSettings)>,
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
    let https = section.take("https").map(|f| address(&f));
    let handshake = span("handshake", Duration::from_secs(10));
    let admin = section.take("admin").map(|f| address(&f));
    let head_bytes = section.take("head_bytes").and_then(|f| value::size(&f));
    let limits = ConnectionLimits {
        head: span("head", defaults.head),
        idle: span("idle", defaults.idle),
        write: span("write", defaults.write),
        connections: count("connections", defaults.connections),
        head_bytes: head_bytes.map_or(defaults.head_bytes, |n| usize::try_from(n).unwrap_or(usize::MAX)),
        head_fields: count("head_fields", defaults.head_fields),
    };
    let body = section.take("body").and_then(|f| value::size(&f)).unwrap_or(100 << 20);
    let body_idle = span("body_idle", Duration::from_secs(30));
    let trusted = section.take("trusted").map(|f| networks(&f)).unwrap_or_default();
    section.finish();
    let certificates = certificates(root);
    if https.is_some() && certificates.is_empty() {
        section
            .problem("https", "needs a certificate; write [[tls]] with cert and key, the paths of PEM files");
    }
    // What was written has to be an address; what was left out need not be there.
    let https = match https {
        None => None,
        Some(read) => Some((read?, TlsSettings { certificates, handshake })),
    };
    let admin = match admin {
        None => None,
        Some(read) => Some(read?),
    };
    Some(ListenSettings {
        http: http?,
        https,
        admin,
        limits,
        body,
        body_idle,
        trusted: TrustedNetworks::new(trusted),
    })
}

/// The certificates of `[[tls]]`, their files not opened yet.
fn certificates(root: &Section<'_, '_>) -> Vec<CertificateFiles> {
    let items = root.take("tls").map(|f| f.one_or_many()).unwrap_or_default();
    let read = |item: &Field<'_, '_>| {
        let pair = item.section();
        let path = |key, example| pair.need(key, example).and_then(|f| f.text()).map(PathBuf::from);
        let cert = path("cert", "\"/etc/doorkeep/site.crt\"");
        let key = path("key", "\"/etc/doorkeep/site.key\"");
        pair.finish();
        let files = CertificateFiles { cert: cert?, key: key? };
        if let Err(error) =
            Tls::new(&TlsSettings { certificates: vec![files.clone()], handshake: Duration::ZERO })
        {
            item.problem(format!(
                "{}; put a certificate chain and its key there, both PEM",
                with_cause(&error)
            ));
        }
        Some(files)
    };
    items.iter().filter_map(read).collect()
}

fn with_cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error} ({cause})"))
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

fn address(field: &Field<'_, '_>) -> Option<SocketAddr> {
    let text = field.text()?;
    let addr = text.parse().ok();
    if addr.is_none() {
        field.problem(format!(
            "\"{text}\" is no address; write IP and port, such as \"0.0.0.0:8080\" or \"[::]:8080\""
        ));
    }
    addr
}

fn networks(field: &Field<'_, '_>) -> Vec<IpNet> {
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
