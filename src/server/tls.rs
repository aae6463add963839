//! TLS for clients: certificates by the name that a client asks for, read again when their files change.
//! In: PEM files. Out: an acceptor. Errors: [`TlsError`]; after the start a bad file keeps the old certificates.
//! I/O: files, the handshake. Source: RFC 8446 (TLS 1.3), RFC 5246 (TLS 1.2), RFC 6066 §3 (server name), RFC 9525 (names).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

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
    /// A file holds no certificate.
    #[error("{path}: holds no certificate")]
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
    /// The TLS library refuses its own defaults.
    #[error("TLS cannot be set up")]
    Setup(#[from] rustls::Error),
}

/// Turns TCP streams into TLS streams. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    handshake: Duration,
    certificates: Arc<Certificates>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("handshake", &self.handshake).finish_non_exhaustive()
    }
}

impl Tls {
    /// An acceptor for TLS 1.2 and 1.3 with HTTP/1.1.
    ///
    /// # Errors
    /// [`TlsError`], naming the file that cannot be used.
    pub fn new(settings: &TlsSettings) -> Result<Self, TlsError> {
        let loaded = load(&settings.certificates)?;
        let files = settings.certificates.clone();
        let certificates = Arc::new(Certificates { files, current: ArcSwap::from_pointee(loaded) });
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&certificates) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            handshake: settings.handshake,
            certificates,
        })
    }

    /// Makes the handshake with a client. `None` where it fails or takes too long: there is nobody to tell then.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> Option<TlsStream<S>> {
        match tokio::time::timeout(self.handshake, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => Some(stream),
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
        let mut seen = self.certificates.stamps();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return,
            }
            let now = self.certificates.stamps();
            if now != seen {
                seen = now;
                self.reload();
            }
        }
    }

    /// Reads the files again. Where one of them cannot be used, all certificates stay as they are.
    pub fn reload(&self) -> Reloaded {
        match load(&self.certificates.files) {
            Ok(loaded) => {
                self.certificates.current.store(Arc::new(loaded));
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

#[derive(Debug)]
struct Certificates {
    files: Vec<CertificateFiles>,
    current: ArcSwap<Vec<Arc<CertifiedKey>>>,
}

impl Certificates {
    /// What tells whether a file has changed.
    fn stamps(&self) -> Vec<Option<(SystemTime, u64)>> {
        let stamp = |path: &Path| {
            let about = fs::metadata(path).ok()?;
            Some((about.modified().ok()?, about.len()))
        };
        self.files.iter().flat_map(|files| [stamp(&files.cert), stamp(&files.key)]).collect()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.load();
        let named = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let fits = |key: &&Arc<CertifiedKey>| {
            let leaf = key.cert.first().and_then(|leaf| webpki::EndEntityCert::try_from(leaf).ok());
            let valid = |leaf: webpki::EndEntityCert<'_>| {
                named.as_ref().is_some_and(|name| leaf.verify_is_valid_for_subject_name(name).is_ok())
            };
            leaf.is_some_and(valid)
        };
        current.iter().find(fits).or_else(|| current.first()).cloned()
    }
}

fn load(files: &[CertificateFiles]) -> Result<Vec<Arc<CertifiedKey>>, TlsError> {
    files.iter().map(load_pair).collect()
}

fn load_pair(files: &CertificateFiles) -> Result<Arc<CertifiedKey>, TlsError> {
    let CertificateFiles { cert, key } = files;
    let pem = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Pem { path, source }
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect).map_err(pem(cert))?;
    if chain.is_empty() {
        return Err(TlsError::Empty { path: cert.clone() });
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(pem(key))?;
    CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider())
        .map(Arc::new)
        .map_err(|source| TlsError::Pair { cert: cert.clone(), key: key.clone(), source })
}

#[cfg(test)]
mod tests {
    use rustls::ClientConfig;
    use tokio_rustls::TlsConnector;

    use super::*;

    struct Authority {
        dir: tempfile::TempDir,
        issuer: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
    }

    impl Authority {
        fn new() -> Self {
            let mut params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let key = rcgen::KeyPair::generate().expect("a key");
            let issuer = rcgen::CertifiedIssuer::self_signed(params, key).expect("a certificate");
            Self { dir: tempfile::tempdir().expect("a folder"), issuer }
        }

        fn issue(&self, file: &str, name: &str) -> CertificateFiles {
            let key = rcgen::KeyPair::generate().expect("a key");
            let params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("parameters");
            let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
            let path = |end: &str| self.dir.path().join(format!("{file}.{end}"));
            fs::write(path("crt"), cert.pem()).expect("written");
            fs::write(path("key"), key.serialize_pem()).expect("written");
            CertificateFiles { cert: path("crt"), key: path("key") }
        }

        /// The certificate that a client gets who asks for `name`, or `None` where it does not accept it.
        async fn asked_for(&self, tls: &Tls, name: &str) -> Option<Vec<u8>> {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(self.issuer.der().clone()).expect("an authority");
            let provider = Arc::new(aws_lc_rs::default_provider());
            let config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_root_certificates(roots)
                .with_no_client_auth();
            let (ours, theirs) = tokio::io::duplex(16 * 1024);
            let connector = TlsConnector::from(Arc::new(config));
            let name = ServerName::try_from(name.to_owned()).expect("a name");
            let (_, client) = tokio::join!(tls.accept(ours), connector.connect(name, theirs));
            let client = client.ok()?;
            client.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.to_vec())
        }
    }

    fn tls(certificates: Vec<CertificateFiles>) -> Tls {
        Tls::new(&TlsSettings { certificates, handshake: Duration::from_secs(5) }).expect("usable")
    }

    #[tokio::test]
    async fn each_name_gets_its_own_certificate() {
        let authority = Authority::new();
        let tls = tls(vec![authority.issue("a", "a.test"), authority.issue("b", "*.b.test")]);
        let a = authority.asked_for(&tls, "a.test").await.expect("accepted");
        let b = authority.asked_for(&tls, "x.b.test").await.expect("accepted");
        assert_ne!(a, b);
        assert!(authority.asked_for(&tls, "other.test").await.is_none(), "the first is for another name");
    }

    #[tokio::test]
    async fn a_changed_file_is_taken_and_a_bad_one_is_not() {
        let authority = Authority::new();
        let files = authority.issue("a", "a.test");
        let tls = tls(vec![files.clone()]);
        let old = authority.asked_for(&tls, "a.test").await.expect("accepted");
        fs::write(&files.cert, "no certificate").expect("written");
        assert_eq!(tls.reload(), Reloaded::Kept);
        assert_eq!(authority.asked_for(&tls, "a.test").await.expect("accepted"), old);
        let other = authority.issue("other", "a.test");
        fs::copy(&other.cert, &files.cert).expect("copied");
        assert_eq!(tls.reload(), Reloaded::Kept, "the key is still the old one's");
        assert_eq!(authority.asked_for(&tls, "a.test").await.expect("accepted"), old);
        fs::copy(&other.key, &files.key).expect("copied");
        assert_eq!(tls.reload(), Reloaded::New);
        assert_ne!(authority.asked_for(&tls, "a.test").await.expect("accepted"), old);
    }

    #[tokio::test(start_paused = true)]
    async fn changed_files_are_noticed() {
        let authority = Authority::new();
        let files = authority.issue("a", "a.test");
        let tls = tls(vec![files.clone()]);
        let before = tls.certificates.current.load_full();
        let stop = CancellationToken::new();
        let watching = tls.clone().watch(stop.clone());
        let looking = async {
            tokio::time::sleep(LOOK_EVERY / 2).await;
            let longer = authority.issue("other", "another-and-longer-name.a.test");
            fs::copy(&longer.cert, &files.cert).expect("copied");
            fs::copy(&longer.key, &files.key).expect("copied");
            tokio::time::sleep(LOOK_EVERY).await;
            stop.cancel();
        };
        tokio::join!(watching, looking);
        assert!(!Arc::ptr_eq(&before, &tls.certificates.current.load_full()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unfinished_handshake_ends() {
        let authority = Authority::new();
        let tls = tls(vec![authority.issue("a", "a.test")]);
        let (ours, _silent) = tokio::io::duplex(64);
        assert!(tls.accept(ours).await.is_none());
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let authority = Authority::new();
        let good = authority.issue("a", "a.test");
        let none = CertificateFiles { cert: "/no/such/file".into(), ..good.clone() };
        let settings = |files| TlsSettings { certificates: vec![files], handshake: Duration::from_secs(1) };
        let error = Tls::new(&settings(none)).expect_err("no file").to_string();
        assert!(error.contains("/no/such/file"), "{error}");
        fs::write(&good.cert, "").expect("written");
        assert!(matches!(Tls::new(&settings(good)), Err(TlsError::Empty { .. } | TlsError::Pem { .. })));
    }
}
