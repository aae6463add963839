//! Connections to `http://` and `https://` servers, with one limit on all of getting connected.
//! In: a URL. Out: a stream. Errors: a connect error, before any byte of a request was written. I/O: sockets.
//! Source: RFC 9110 §4.3.4 (the certificate has to name the host).

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::pki_types::CertificateDer;
use tower_service::Service;

type Stream = <HttpsConnector<HttpConnector> as Service<Uri>>::Response;
type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Which certificate authorities are believed on outgoing connections.
#[derive(Clone, Debug, Default)]
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

/// Connects by TCP and, for `https`, TLS 1.2 or 1.3 with HTTP/1.1.
#[derive(Clone, Debug)]
pub struct Dialer {
    connector: HttpsConnector<HttpConnector>,
    limit: Duration,
}

impl Dialer {
    /// A dialer that gives up after `limit`, name look-up and TLS handshake included.
    ///
    /// # Errors
    /// [`RootsError`] where no certificate authority can be used.
    pub fn new(roots: &Roots, limit: Duration) -> Result<Self, RootsError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(limit));
        let builder = match roots {
            Roots::System => HttpsConnectorBuilder::new().try_with_platform_verifier()?,
            Roots::Only(certificates) => {
                let mut store = rustls::RootCertStore::empty();
                store.add_parsable_certificates(certificates.iter().cloned());
                let config =
                    rustls::ClientConfig::builder().with_root_certificates(store).with_no_client_auth();
                HttpsConnectorBuilder::new().with_tls_config(config)
            }
        };
        Ok(Self { connector: builder.https_or_http().enable_http1().wrap_connector(tcp), limit })
    }
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
