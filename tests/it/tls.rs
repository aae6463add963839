//! Apps that speak TLS: known by their certificate, or not asked at all.

use std::io::Write as _;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::NamedTempFile;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::support::{Ask, House, Plan, Upstream};

/// A certificate authority, and its certificate in a file.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: NamedTempFile,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(certificate.pem().as_bytes()).unwrap();
        Self { issuer: Issuer::new(params, key), file }
    }

    fn acceptor(&self, name: &str, last_year: i32) -> TlsAcceptor {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(last_year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    fn trust(&self) -> String {
        format!("[trust]\nca = \"{}\"", self.file.path().display())
    }
}

async fn behind(acceptor: TlsAcceptor, trust: &str) -> House {
    let tasks = TaskTracker::new();
    let upstream = Upstream::start_with(&tasks, Some(acceptor)).await;
    let url = format!("https://{}", upstream.addr);
    let plan = Plan { upstream: Some(&url), rules: trust, ..Plan::default() };
    House::start_before(plan, upstream, tasks).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_with_a_certificate_of_the_trusted_authority_is_asked() {
    let authority = Authority::new();
    let house = behind(authority.acceptor("127.0.0.1", 2090), &authority.trust()).await;
    let jar = house.signed_in().await;
    let answer = house.ask(&Ask::script("/x").method("POST").body(b"hello").jar(&jar)).await.expect(200);
    assert_eq!(answer.text(), "app: /x\n");
    let seen = house.upstream.last();
    assert_eq!((seen.body.as_slice(), seen.line("x-auth-role")), (&b"hello"[..], Some("admin")));
    house.ask(&Ask::script("/y").jar(&jar)).await.expect(200);
    assert_eq!(house.upstream.connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_other_certificate_is_a_502_and_nothing_is_sent() {
    let (own, other) = (Authority::new(), Authority::new());
    for (acceptor, trust) in [
        (other.acceptor("127.0.0.1", 2090), own.trust()),
        (own.acceptor("app.internal.example", 2090), own.trust()),
        (own.acceptor("127.0.0.1", 2020), own.trust()),
        (own.acceptor("127.0.0.1", 2090), String::new()),
    ] {
        let house = behind(acceptor, &trust).await;
        let jar = house.signed_in().await;
        let answer = house.ask(&Ask::page("/x").jar(&jar)).await.expect(502);
        assert!(answer.line("x-request-id").is_some());
        assert_eq!(house.upstream.count(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_turns_out_not_to_speak_tls_is_a_502() {
    let house = House::usual().await;
    let url = format!("https://{}", house.upstream.addr);
    let authority = Authority::new();
    let plan = Plan {
        upstream: Some(&url),
        site: "connect = \"300ms\"",
        rules: &authority.trust(),
        ..Plan::default()
    };
    let door = house.another(plan).await;
    let mut conn = crate::support::Conn::open(door.http).await;
    conn.send(&Ask::page("/public/x").bytes()).await;
    conn.answer("GET").await.expect(502);
    assert_eq!(house.upstream.count(), 0);
}
