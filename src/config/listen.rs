//! The settings of listeners, the drain and the log.
//! In: `[listen]`, `[drain]`, `[log]`. Out: their values. Errors: noted problems. I/O: none.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};

use crate::body::TrailerLimits;
use crate::config::read::{Field, Section};
use crate::config::value;
use crate::peer::{Told, TrustedNetworks};
use crate::route::Redirect;
use crate::server::tls::{CertificateFiles, ClientSettings, Offer, Tls, TlsSettings, WithoutCertificate};
use crate::server::{ConnectionLimits, Http2Limits, ProxySenders, SeatLimits, WithoutTls};

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
    /// How many connections there may be.
    pub seats: SeatLimits,
    /// Load balancers that say first whose a connection is.
    pub senders: ProxySenders,
    /// Most bytes of a request body.
    pub body: u64,
    /// What may come after a body, a request's or an answer's.
    pub trailers: TrailerLimits,
    /// Longest time without a byte of a request body.
    pub body_idle: Duration,
    /// Proxies that are believed about earlier hops.
    pub trusted: TrustedNetworks,
    /// Whether browsers that come without TLS are sent to it.
    pub redirect: Redirect,
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
    let http = section.need("http", "\"127.0.0.1:8080\"").and_then(|f| address(&f));
    let https = section.take("https").map(|f| address(&f));
    let handshake = span("handshake", Duration::from_secs(10));
    let admin = section.take("admin").map(|f| address(&f));
    let head_bytes = section.take("head_bytes").and_then(|f| value::size(&f));
    let limits = ConnectionLimits {
        head: span("head", defaults.head),
        idle: span("idle", defaults.idle),
        write: span("write", defaults.write),
        head_bytes: head_bytes.map_or(defaults.head_bytes, |n| usize::try_from(n).unwrap_or(usize::MAX)),
        head_fields: count(&section, "head_fields", defaults.head_fields),
        http2: http2(&section.section("http2")),
    };
    let body = section.take("body").and_then(|f| value::size(&f)).unwrap_or(100 << 20);
    let body_idle = span("body_idle", Duration::from_secs(30));
    let trailers = trailers(&section);
    let redirect = redirect(&section);
    let clients = clients(&section.section("client"));
    let (trusted, senders, seats) = neighbours(&section, limits.head);
    section.finish();
    let certificates = certificates(root);
    if https.is_some() && certificates.is_empty() {
        section
            .problem("https", "needs a certificate; write [[tls]] with cert and key, the paths of PEM files");
    }
    // What was written has to be an address; what was left out need not be there.
    let https = match https {
        None => None,
        Some(read) => {
            let offer = if limits.http2.is_some() { Offer::Http2 } else { Offer::Http1 };
            Some((read?, TlsSettings { certificates, handshake, offer, clients }))
        }
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
        seats,
        senders,
        body,
        trailers,
        body_idle,
        trusted,
        redirect,
    })
}

fn count(section: &Section<'_, '_>, key: &str, default: usize) -> usize {
    let number = section.take(key).and_then(|f| f.number());
    number.map_or(default, |n| usize::try_from(n).unwrap_or(usize::MAX))
}

/// Proxies and load balancers, and how many connections there may be with and without them.
fn neighbours(section: &Section<'_, '_>, patience: Duration) -> (TrustedNetworks, ProxySenders, SeatLimits) {
    let trusted = section.take("trusted").map(|f| networks(&f)).unwrap_or_default();
    let told = [("x-forwarded-for", Told::XForwardedFor), ("forwarded", Told::Forwarded)];
    let told = section.take("trusted_header").and_then(|f| f.word(&told)).unwrap_or_default();
    let senders = section.take("proxy_protocol").map(|f| networks(&f)).unwrap_or_default();
    let seats = SeatLimits {
        connections: count(section, "connections", 10_000),
        per_client: count(section, "connections_per_client", 1000),
        unlimited: trusted.iter().chain(&senders).copied().collect(),
    };
    (TrustedNetworks::new(trusted, told), ProxySenders { networks: senders, patience }, seats)
}

fn redirect(section: &Section<'_, '_>) -> Redirect {
    let wanted = section.take("redirect").and_then(|f| f.flag()).unwrap_or(false);
    let except = match section.take("redirect_except") {
        None => vec!["/.well-known/acme-challenge/".to_owned()],
        Some(field) => field.texts().into_iter().map(str::to_owned).collect(),
    };
    if except.iter().any(|path| !path.starts_with('/') || !path.ends_with('/')) {
        section.problem("redirect_except", "lists beginnings of paths: each begins and ends with \"/\"");
    }
    if wanted { Redirect::ToOrigin { except } } else { Redirect::Nowhere }
}

/// The limits of HTTP/2, where it is spoken at all.
fn http2(section: &Section<'_, '_>) -> Option<Http2Limits> {
    let defaults = Http2Limits::default();
    let count = |key: &str, default: u32| ranged(section, key, default, Field::number);
    let bytes = |key: &str, default: u32| ranged(section, key, default, |f| value::size(f));
    let span = |key: &str, default| section.take(key).and_then(|f| value::duration(&f)).unwrap_or(default);
    let spoken = section.take("enabled").and_then(|f| f.flag()).unwrap_or(true);
    let whole = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    let limits = Http2Limits {
        without_tls: match section.take("without_tls").and_then(|f| f.flag()) {
            Some(false) => WithoutTls::Never,
            Some(true) | None => WithoutTls::ByPreface,
        },
        streams: count("streams", defaults.streams),
        resets: whole(count("resets", 20)),
        error_resets: whole(count("error_resets", 100)),
        frame: bytes("frame", defaults.frame),
        stream_window: bytes("stream_window", defaults.stream_window),
        connection_window: bytes("connection_window", defaults.connection_window),
        send_buffer: whole(bytes("send_buffer", 64 << 10)),
        ping: span("ping", defaults.ping),
        ping_timeout: span("ping_timeout", defaults.ping_timeout),
    };
    section.finish();
    // RFC 9113 §6.5.2 and §6.9.1.
    if !(1 << 14..1 << 24).contains(&limits.frame) {
        section.problem("frame", "must be from \"16KiB\" to less than \"16MiB\"");
    }
    for (key, window) in
        [("stream_window", limits.stream_window), ("connection_window", limits.connection_window)]
    {
        if !(1 << 14..1 << 31).contains(&window) {
            section.problem(key, "must be from \"16KiB\" to less than \"2GiB\"");
        }
    }
    if limits.streams == 0 {
        section.problem("streams", "must be at least 1: nothing could be asked; or set enabled = false");
    }
    spoken.then_some(limits)
}

/// A number that fits 32 bits.
fn ranged<'s, 'a>(
    section: &Section<'s, 'a>,
    key: &str,
    default: u32,
    read: impl Fn(&Field<'s, 'a>) -> Option<u64>,
) -> u32 {
    let Some(field) = section.take(key) else { return default };
    let number = read(&field).map(u32::try_from);
    match number {
        Some(Ok(number)) => number,
        Some(Err(_)) => {
            field.problem("is too large");
            default
        }
        None => default,
    }
}

fn trailers(section: &Section<'_, '_>) -> TrailerLimits {
    let defaults = TrailerLimits::default();
    let bytes = section.take("trailer_bytes").and_then(|f| value::size(&f));
    TrailerLimits {
        bytes: bytes.map_or(defaults.bytes, |n| usize::try_from(n).unwrap_or(usize::MAX)),
        fields: count(section, "trailer_fields", defaults.fields),
    }
}

/// Which certificates clients show, where they are asked for any.
fn clients(section: &Section<'_, '_>) -> Option<ClientSettings> {
    let words = [("optional", WithoutCertificate::Served), ("required", WithoutCertificate::Refused)];
    let without = section.take("certificate").and_then(|f| f.word(&words));
    let paths = |key: &str| -> Vec<PathBuf> {
        let items = section.take(key).map(|f| f.one_or_many()).unwrap_or_default();
        items.iter().filter_map(Field::text).map(PathBuf::from).collect()
    };
    let (authorities, revoked) = (paths("ca"), paths("crl"));
    section.finish();
    let Some(without) = without else {
        if !authorities.is_empty() || !revoked.is_empty() {
            section.problem("certificate", "is missing: write \"optional\" or \"required\"");
        }
        return None;
    };
    let clients = ClientSettings { authorities, revoked, without };
    if clients.authorities.is_empty() {
        let what = "is missing: the PEM files of the authorities that sign the certificates of clients";
        section.problem("ca", what);
    } else if let Err(error) = clients.check() {
        section.problem("ca", format!("{}; put PEM files there", with_cause(&error)));
    }
    Some(clients)
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
        if let Err(error) = Tls::new(&TlsSettings {
            certificates: vec![files.clone()],
            handshake: Duration::ZERO,
            offer: Offer::Http1,
            clients: None,
        }) {
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
            if !text.split(',').all(is_directive) || text.parse::<EnvFilter>().is_err() {
                field.problem(format!(
                    "\"{text}\" is no level; write off, error, warn, info, debug or trace, and what differs \
                     behind it, such as \"info,access=off\""
                ));
            }
            text.to_owned()
        }
    };
    section.finish();
    LogSettings { format, level }
}

/// Whether this is a level, or says of something which level it has. A word alone that is no level, be it for a space around it,
/// would be taken for the only thing that is told at all, so a mistyped level would switch the log off.
fn is_directive(text: &str) -> bool {
    text.contains('=') || (!text.is_empty() && text.parse::<LevelFilter>().is_ok())
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
