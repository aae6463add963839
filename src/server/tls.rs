//! TLS for clients: certificates by the name that a client asks for, and certificates of clients, read again when their files
//! change.
//! In: PEM files. Out: an acceptor. Errors: [`TlsError`]; after the start a bad file keeps all of the old ones.
//! I/O: files, the handshake. Source: RFC 8446 (TLS 1.3), RFC 5246 (TLS 1.2), RFC 6066 §3 (server name), RFC 9525 (names).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoClientAuth, ProducesTickets, ResolvesServerCert, ServerConfig, VerifierBuilderError,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{HandshakeKind, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::certificate::ClientCertificate;

/// Between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Where a certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, followed by those that it was signed with (PEM).
    pub cert: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
}

/// How clients get TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// The certificates; a client that asks for none of their names gets the first.
    pub certificates: Vec<CertificateFiles>,
    /// Longest time for a handshake.
    pub handshake: Duration,
    /// What clients may choose to speak (RFC 7301).
    pub offer: Offer,
    /// Which certificates clients are asked for; `None`: none.
    pub clients: Option<ClientSettings>,
}

/// Which certificates clients show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// The authorities that sign them (PEM).
    pub authorities: Vec<PathBuf>,
    /// What these have taken back (PEM); with any, each authority that signs clients needs one that is not out of date.
    pub revoked: Vec<PathBuf>,
    /// What becomes of clients without one.
    pub without: WithoutCertificate,
}

/// What becomes of a client that shows no certificate. One that shows a bad one is refused in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithoutCertificate {
    /// It is served.
    Served,
    /// Its handshake fails.
    Refused,
}

/// The versions of HTTP that are offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// HTTP/2 and HTTP/1.1.
    Http2,
    /// HTTP/1.1 alone.
    Http1,
}

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read as PEM.
    #[error("{path}: cannot be read as PEM")]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: rustls::pki_types::pem::Error,
    },
    /// A file holds nothing of what it is for.
    #[error("{path}: holds no certificate, or no revocation list where one belongs")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Key and certificate do not belong together, or the key is of a kind that is not supported.
    #[error("{cert} and {key}: cannot be used together")]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// What a file holds is no certificate authority.
    #[error("{path}: holds no certificate authority")]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// The authorities and revocation lists for clients cannot be used.
    #[error("client certificates cannot be verified with these files")]
    Clients(#[from] VerifierBuilderError),
    /// The TLS library refuses its own defaults.
    #[error("TLS cannot be set up")]
    Setup(#[from] rustls::Error),
}

/// Turns TCP streams into TLS streams. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    settings: Arc<TlsSettings>,
    current: Arc<ArcSwap<Loaded>>,
    /// Seals what clients resume with, as long as no certificates of theirs are asked for.
    tickets: Arc<dyn ProducesTickets>,
}

/// What the files held.
struct Loaded {
    acceptor: TlsAcceptor,
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A client that has made its handshake.
#[derive(Debug)]
pub struct Greeted<S> {
    /// The connection.
    pub stream: TlsStream<S>,
    /// Whom the certificate is for that it has shown.
    pub certificate: Option<Arc<ClientCertificate>>,
}

impl Tls {
    /// An acceptor for TLS 1.2 and 1.3. What is spoken by it the client chooses: HTTP/2 where `settings` offer it, or HTTP/1.1.
    ///
    /// # Errors
    /// [`TlsError`], naming the file that cannot be used.
    pub fn new(settings: &TlsSettings) -> Result<Self, TlsError> {
        let tickets = aws_lc_rs::Ticketer::new()?;
        let loaded = Loaded::read(settings, &tickets)?;
        let current = Arc::new(ArcSwap::from_pointee(loaded));
        Ok(Self { settings: Arc::new(settings.clone()), current, tickets })
    }

    /// Makes the handshake with a client. `None` where it fails or takes too long: there is nobody to tell then.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> Option<Greeted<S>> {
        let loaded = self.current.load_full();
        let handshake = loaded.acceptor.accept(stream);
        match tokio::time::timeout(self.settings.handshake, handshake).await {
            Ok(Ok(stream)) => match loaded.client(&stream) {
                Ok(certificate) => Some(Greeted { stream, certificate }),
                Err(fault) => {
                    tracing::debug!(fault, "a client certificate was refused");
                    None
                }
            },
            Ok(Err(error)) => {
                tracing::debug!(%error, "a TLS handshake failed");
                None
            }
            Err(_elapsed) => {
                tracing::debug!("a TLS handshake took too long");
                None
            }
        }
    }

    /// Reads the files again whenever they have changed, until `stop`. New handshakes see the new certificates.
    pub async fn watch(self, stop: CancellationToken) {
        let mut seen = self.settings.stamps();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return,
            }
            let now = self.settings.stamps();
            if now != seen {
                seen = now;
                self.reload();
            }
        }
    }

    /// Reads the files again. Where one of them cannot be used, all certificates stay as they are.
    pub fn reload(&self) -> Reloaded {
        match Loaded::read(&self.settings, &self.tickets) {
            Ok(loaded) => {
                self.current.store(Arc::new(loaded));
                tracing::info!("TLS certificates were read again");
                Reloaded::New
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, cause, "TLS certificates could not be read again; the old ones stay");
                Reloaded::Kept
            }
        }
    }
}

/// What came of reading the files again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// The new certificates are in use.
    New,
    /// A file could not be used: the old ones are.
    Kept,
}

impl TlsSettings {
    /// What tells whether a file has changed.
    fn stamps(&self) -> Vec<Option<(SystemTime, u64)>> {
        let stamp = |path: &PathBuf| {
            let about = fs::metadata(path).ok()?;
            Some((about.modified().ok()?, about.len()))
        };
        let pairs = self.certificates.iter().flat_map(|files| [&files.cert, &files.key]);
        let clients =
            self.clients.iter().flat_map(|clients| clients.authorities.iter().chain(&clients.revoked));
        pairs.chain(clients).map(stamp).collect()
    }
}

impl ClientSettings {
    /// Whether its files can be used.
    ///
    /// # Errors
    /// [`TlsError`], naming the file that cannot.
    pub fn check(&self) -> Result<(), TlsError> {
        self.verifier().map(drop)
    }

    fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let mut roots = RootCertStore::empty();
        for path in &self.authorities {
            for authority in pem_file::<CertificateDer<'static>>(path)? {
                let named = |source| TlsError::Authority { path: path.clone(), source };
                roots.add(authority).map_err(named)?;
            }
        }
        let mut revoked = Vec::new();
        for path in &self.revoked {
            revoked.extend(pem_file::<CertificateRevocationListDer<'static>>(path)?);
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .with_crls(revoked)
            .only_check_end_entity_revocation()
            .enforce_revocation_expiration();
        let builder = match self.without {
            WithoutCertificate::Served => builder.allow_unauthenticated(),
            WithoutCertificate::Refused => builder,
        };
        Ok(builder.build()?)
    }
}

impl Loaded {
    fn read(settings: &TlsSettings, tickets: &Arc<dyn ProducesTickets>) -> Result<Self, TlsError> {
        let certificates = Certificates(load(&settings.certificates)?);
        let clients = settings.clients.as_ref().map(ClientSettings::verifier).transpose()?;
        let verifier = clients.clone().unwrap_or_else(|| Arc::new(NoClientAuth));
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(certificates));
        config.alpn_protocols = match settings.offer {
            Offer::Http2 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Offer::Http1 => vec![b"http/1.1".to_vec()],
        };
        config.ticketer = match clients {
            // What was verified under other authorities is not resumed.
            Some(_) => aws_lc_rs::Ticketer::new()?,
            None => Arc::clone(tickets),
        };
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), clients })
    }

    /// Whom the certificate is for that a client has shown. One from an earlier handshake, which this one resumes, may be over or
    /// taken back by now: the library verifies those of full handshakes alone (RFC 8446 §4.6.1).
    fn client<S>(&self, stream: &TlsStream<S>) -> Result<Option<Arc<ClientCertificate>>, String> {
        let Some(clients) = &self.clients else { return Ok(None) };
        let session = stream.get_ref().1;
        let Some((leaf, chain)) = session.peer_certificates().and_then(<[_]>::split_first) else {
            return match clients.client_auth_mandatory() {
                true => Err("there is none".to_owned()),
                false => Ok(None),
            };
        };
        if session.handshake_kind() == Some(HandshakeKind::Resumed) {
            let verified = clients.verify_client_cert(leaf, chain, UnixTime::now());
            verified.map_err(|error| error.to_string())?;
        }
        let read = ClientCertificate::read(leaf).map_err(|error| error.to_string())?;
        Ok(Some(Arc::new(read)))
    }
}

/// The gateway's own certificates.
#[derive(Debug)]
struct Certificates(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let fits = |key: &&Arc<CertifiedKey>| {
            let leaf = key.cert.first().and_then(|leaf| webpki::EndEntityCert::try_from(leaf).ok());
            let valid = |leaf: webpki::EndEntityCert<'_>| {
                named.as_ref().is_some_and(|name| leaf.verify_is_valid_for_subject_name(name).is_ok())
            };
            leaf.is_some_and(valid)
        };
        self.0.iter().find(fits).or_else(|| self.0.first()).cloned()
    }
}

fn load(files: &[CertificateFiles]) -> Result<Vec<Arc<CertifiedKey>>, TlsError> {
    files.iter().map(load_pair).collect()
}

fn load_pair(files: &CertificateFiles) -> Result<Arc<CertifiedKey>, TlsError> {
    let CertificateFiles { cert, key } = files;
    let chain = pem_file(cert)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(pem_fault(key))?;
    CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider())
        .map(Arc::new)
        .map_err(|source| TlsError::Pair { cert: cert.clone(), key: key.clone(), source })
}

/// Everything of a kind that a file holds: at least one.
fn pem_file<T: PemObject>(path: &Path) -> Result<Vec<T>, TlsError> {
    let all: Vec<T> = T::pem_file_iter(path).and_then(Iterator::collect).map_err(pem_fault(path))?;
    if all.is_empty() { Err(TlsError::Empty { path: path.to_owned() }) } else { Ok(all) }
}

fn pem_fault(path: &Path) -> impl Fn(rustls::pki_types::pem::Error) -> TlsError {
    move |source| TlsError::Pem { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
