//! Connections to `http://` and `https://` servers, with one limit on all of getting connected.
//! In: a URL. Out: a stream. Errors: a connect error, before any byte of a request was written. I/O: sockets.
//! Source: RFC 9110 §4.3.4 (the certificate has to name the host).

use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_rustls::builderstates::WantsSchemes;
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tower_service::Service;
use url::Url;

type Stream = <HttpsConnector<HttpConnector> as Service<Uri>>::Response;
type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Which certificate authorities are believed on outgoing connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Roots {
    /// The machine's.
    #[default]
    System,
    /// These and no others.
    Only(Vec<CertificateDer<'static>>),
}

/// The machine's or the configured certificate authorities cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the certificate authorities for outgoing TLS cannot be used")]
pub struct RootsError(#[from] rustls::Error);

/// The certificate authorities of all outgoing connections of one gateway. Those of the machine are read once, when the first
/// dialer comes that needs them; the next gateway reads them again.
#[derive(Debug)]
pub struct Authorities {
    roots: Roots,
    tls: OnceLock<ClientConfig>,
}

impl Authorities {
    /// These, not read yet.
    #[must_use]
    pub const fn new(roots: Roots) -> Self {
        Self { roots, tls: OnceLock::new() }
    }

    /// TLS with servers that these authorities vouch for. Sessions are resumed by those alone who began them.
    fn tls(&self) -> Result<ClientConfig, RootsError> {
        let mut tls = match self.tls.get() {
            Some(shared) => shared.clone(),
            None => {
                let made = self.roots.tls()?;
                drop(self.tls.set(made.clone()));
                made
            }
        };
        tls.resumption = Resumption::default();
        Ok(tls)
    }
}

impl Roots {
    fn tls(&self) -> Result<ClientConfig, RootsError> {
        let config = match self {
            Self::System => ClientConfig::builder().try_with_platform_verifier()?,
            Self::Only(certificates) => {
                let mut store = RootCertStore::empty();
                store.add_parsable_certificates(certificates.iter().cloned());
                ClientConfig::builder().with_root_certificates(store)
            }
        };
        Ok(config.with_no_client_auth())
    }
}

/// Connects by TCP and, for `https`, TLS 1.2 or 1.3 with HTTP/1.1, or with HTTP/2 alone.
#[derive(Clone, Debug)]
pub struct Dialer {
    connector: HttpsConnector<HttpConnector>,
    limit: Duration,
}

impl Dialer {
    /// A dialer to these servers that gives up after `limit`, name look-up and TLS handshake included. Where none of them is
    /// `https`, it needs no certificate authority and believes none.
    ///
    /// # Errors
    /// [`RootsError`] where no certificate authority can be used.
    pub fn new<'a>(
        authorities: &Authorities,
        servers: impl IntoIterator<Item = &'a Url>,
        limit: Duration,
    ) -> Result<Self, RootsError> {
        let (tls, tcp) = parts(authorities, servers, limit)?;
        Ok(Self { connector: tls.https_or_http().enable_http1().wrap_connector(tcp), limit })
    }

    /// The same, offering HTTP/2 alone by ALPN.
    ///
    /// # Errors
    /// [`RootsError`] where no certificate authority can be used.
    pub fn for_http2<'a>(
        authorities: &Authorities,
        servers: impl IntoIterator<Item = &'a Url>,
        limit: Duration,
    ) -> Result<Self, RootsError> {
        let (tls, tcp) = parts(authorities, servers, limit)?;
        Ok(Self { connector: tls.https_or_http().enable_http2().wrap_connector(tcp), limit })
    }
}

fn parts<'a>(
    authorities: &Authorities,
    servers: impl IntoIterator<Item = &'a Url>,
    limit: Duration,
) -> Result<(HttpsConnectorBuilder<WantsSchemes>, HttpConnector), RootsError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(limit));
    let tls = match servers.into_iter().any(|server| server.scheme() != "http") {
        true => authorities.tls()?,
        false => Roots::Only(Vec::new()).tls()?,
    };
    Ok((HttpsConnectorBuilder::new().with_tls_config(tls), tcp))
}

impl Service<Uri> for Dialer {
    type Response = Stream;
    type Error = AnyError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, AnyError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AnyError>> {
        self.connector.poll_ready(cx)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connected = self.connector.call(to);
        let limit = self.limit;
        Box::pin(async move { tokio::time::timeout(limit, connected).await? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialer(authorities: &Authorities, server: &str) -> Result<Dialer, RootsError> {
        Dialer::new(authorities, [&server.parse().expect("a URL")], Duration::from_secs(5))
    }

    #[test]
    fn authorities_are_read_for_the_first_https_server_and_for_no_other() {
        let authority = rcgen::generate_simple_self_signed(["ca.example".to_owned()]).expect("a certificate");
        let authorities = Authorities::new(Roots::Only(vec![authority.cert.der().clone()]));
        dialer(&authorities, "http://app.example").expect("a dialer");
        assert!(authorities.tls.get().is_none(), "nothing needs them");
        dialer(&authorities, "https://app.example").expect("a dialer");
        let first = std::ptr::from_ref(authorities.tls.get().expect("they were read"));
        dialer(&authorities, "https://other.example").expect("a dialer");
        assert_eq!(authorities.tls.get().map(std::ptr::from_ref), Some(first), "once");
    }

    #[tokio::test]
    async fn a_dialer_to_http_servers_believes_no_https_server() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let (cert, key) =
            (own.cert.der().clone(), own.signing_key.serialize_der().try_into().expect("a key"));
        let server =
            rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert.clone()], key);
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(server.expect("usable")));
        let authorities = Authorities::new(Roots::Only(vec![cert]));
        let url = || format!("https://localhost:{}/", addr.port()).parse::<Uri>().expect("a URL");
        let serve = async {
            for _ in 0..2 {
                let (stream, _) = listener.accept().await.expect("a client");
                drop(acceptor.accept(stream).await);
            }
        };
        let connect = async {
            let mut one = dialer(&authorities, "http://localhost").expect("a dialer");
            assert!(one.call(url()).await.is_err(), "it was made for none");
            let mut other = dialer(&authorities, "https://localhost").expect("a dialer");
            assert!(other.call(url()).await.is_ok(), "and this one was");
        };
        tokio::join!(serve, connect);
    }
}
