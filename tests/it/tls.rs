//! TLS on both sides: apps are known by their certificate or not asked at all, browsers get the certificate that they ask for.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, ServerConfig};
use tempfile::NamedTempFile;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::task::TaskTracker;

use crate::support::{Ask, Conn, Gate, HOST, House, Plan, Step, Upstream, ok, refused, within};

/// A certificate authority, and its certificate in a file.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: NamedTempFile,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(certificate.pem().as_bytes()).unwrap();
        Self { issuer: Issuer::new(params, key), file }
    }

    /// A certificate for a name that is valid until the end of that year, with its key.
    fn issue(&self, name: &str, last_year: i32) -> (Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(last_year, 1, 1);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn acceptor(&self, name: &str, last_year: i32) -> TlsAcceptor {
        TlsAcceptor::from(Arc::new(self.server(name, last_year)))
    }

    /// An app's end that agrees to these protocols.
    pub fn acceptor_for(&self, name: &str, protocols: &[&str]) -> TlsAcceptor {
        let mut config = self.server(name, 2090);
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    fn server(&self, name: &str, last_year: i32) -> ServerConfig {
        let (certificate, key) = self.issue(name, last_year);
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap()
    }

    /// Settings for a listener with certificates of these names.
    pub fn listener(&self, folder: &Path, names: &[&str]) -> String {
        let mut tables = String::new();
        for name in names {
            let (certificate, key) = self.issue(name, 2090);
            let (cert_file, key_file) =
                (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
            std::fs::write(&cert_file, certificate.pem()).unwrap();
            std::fs::write(&key_file, key.serialize_pem()).unwrap();
            let table = format!("[[tls]]\ncert = {cert_file:?}\nkey = {key_file:?}\n");
            tables.push_str(&table);
        }
        tables
    }

    /// Settings for certificates of clients that this authority signs.
    pub fn of_clients(&self, need: &str) -> String {
        format!("[listen.client]\ncertificate = \"{need}\"\nca = \"{}\"\n", self.file.path().display())
    }

    /// A client that believes this authority alone, speaks these protocols, and shows a certificate of that subject.
    pub fn client(&self, protocols: &[&str], name: &str) -> TlsConnector {
        let mut params = CertificateParams::new(vec![format!("{name}.test.example")]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "Caf\u{e9}");
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let chain = vec![params.signed_by(&key, &self.issuer).unwrap().der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let builder = ClientConfig::builder().with_root_certificates(self.roots());
        let mut config = builder.with_client_auth_cert(chain, key).unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        let pem = std::fs::read(self.file.path()).unwrap();
        roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
        roots
    }

    /// A browser that believes this authority alone, and speaks these protocols.
    pub fn browser(&self, protocols: &[&str]) -> TlsConnector {
        let mut config = ClientConfig::builder().with_root_certificates(self.roots()).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }

    pub fn trust(&self) -> String {
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
    let mut conn = house.conn().await;
    let answer = conn.ask(&Ask::script("/x").method("POST").body(b"hello").jar(&jar)).await.expect(200);
    assert_eq!(answer.text(), "app: /x\n");
    let seen = house.upstream.last();
    assert_eq!((seen.body.as_slice(), seen.line("x-auth-role")), (&b"hello"[..], Some("admin")));
    conn.ask(&Ask::script("/y").jar(&jar)).await.expect(200);
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
    let mut conn = Conn::open(door.http).await;
    conn.send(&Ask::page("/public/x").bytes()).await;
    conn.answer("GET").await.expect(502);
    assert_eq!(house.upstream.count(), 0);
}

/// A gateway whose second listener speaks TLS for these names.
pub async fn with_tls(authority: &Authority, names: &[&str], listen: &str) -> (House, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let rules = authority.listener(folder.path(), names);
    let listen = format!("https = \"127.0.0.1:0\"\n{listen}");
    let identity = "[identity.client]\nsubject = \"X-Client-Subject\"\nnames = \"X-Client-Names\"\n\
                    fingerprint = \"X-Client-Fingerprint\"";
    let identity = if listen.contains("[listen.client]") { identity } else { "" };
    let house = House::start(Plan { listen: &listen, rules: &rules, identity, ..Plan::default() }).await;
    (house, folder)
}

async fn browse(house: &House, authority: &Authority, name: &str) -> std::io::Result<Conn> {
    handshake(house, authority, name, &[]).await.map(Conn::over)
}

/// A TLS connection to the gateway of a client that speaks these protocols.
pub async fn handshake(
    house: &House,
    authority: &Authority,
    name: &str,
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(house.door().https.unwrap()).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    within("a handshake", authority.browser(protocols).connect(name, tcp)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn browsers_come_by_tls_and_get_the_certificate_of_the_name_they_ask_for() {
    let authority = Authority::new();
    let (house, _folder) = with_tls(&authority, &["other.test.example", HOST], "").await;
    let jar = house.expired().await;
    let mut conn = browse(&house, &authority, HOST).await.unwrap();
    let answer = conn.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert!(answer.cookie("access_token").is_some());
    let again =
        conn.ask(&Ask::script("/x").method("POST").body(&[b'x'; 100_000]).jar(&jar)).await.expect(200);
    assert!(again.whole);
    browse(&house, &authority, "other.test.example").await.unwrap();
    let stranger = Authority::new();
    assert!(browse(&house, &stranger, HOST).await.is_err());
    assert!(browse(&house, &authority, "elsewhere.example").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_finish_its_handshake_is_not_waited_for() {
    let authority = Authority::new();
    let (house, _folder) = with_tls(&authority, &[HOST], "handshake = \"300ms\"").await;
    let mut silent = Conn::open(house.door().https.unwrap()).await;
    let mut other = browse(&house, &authority, HOST).await.unwrap();
    other.ask(&Ask::page("/public/x")).await.expect(200);
    silent.closed().await;
    let mut plain = Conn::open(house.door().https.unwrap()).await;
    plain.send(&Ask::page("/public/plain").bytes()).await;
    within("the end", async {
        while matches!(plain.reader.more(&mut plain.stream).await, Ok(n) if n > 0) {}
    })
    .await;
    assert!(!plain.reader.buf.starts_with(b"HTTP/"), "plain HTTP is not answered there");
    assert_eq!(house.upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_and_drain_hold_by_tls_too() {
    let authority = Authority::new();
    let (mut house, _folder) = with_tls(&authority, &[HOST], "idle = \"300ms\"").await;
    let mut idle = browse(&house, &authority, HOST).await.unwrap();
    idle.ask(&Ask::page("/public/x")).await.expect(200);
    idle.closed().await;
    let gate = Gate::closed();
    house.upstream.on("/public/slow", vec![Step::Wait(gate.clone()), Step::Send(ok("slow but whole"))]);
    let mut busy = browse(&house, &authority, HOST).await.unwrap();
    busy.send(&Ask::page("/public/slow").bytes()).await;
    gate.reached_by(1).await;
    let tls = house.door().https.unwrap();
    let draining = house.tasks.spawn(house.door.take().unwrap().drain());
    refused(tls).await;
    gate.open();
    assert_eq!(busy.answer("GET").await.expect(200).text(), "slow but whole");
    assert_eq!(within("the drain", draining).await.unwrap().unwrap(), doorkeep::server::Drained::All);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_that_comes_back_resumes_its_session() {
    let authority = Authority::new();
    let (house, _folder) = with_tls(&authority, &[HOST], "").await;
    let browser = authority.browser(&["http/1.1"]);
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let tcp = TcpStream::connect(house.door().https.unwrap()).await.unwrap();
        let name = ServerName::try_from(HOST).unwrap();
        let stream = within("a handshake", browser.connect(name, tcp)).await.unwrap();
        kinds.push(stream.get_ref().1.handshake_kind());
        // The ticket comes with the answer (RFC 8446 §4.6.1).
        Conn::over(stream).ask(&Ask::page("/public/x")).await.expect(200);
    }
    assert_eq!(kinds, [Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_to_a_body_that_is_still_being_sent_is_not_lost() {
    let authority = Authority::new();
    let (house, _folder) = with_tls(&authority, &[HOST], "body = \"1KiB\"").await;
    let head = format!("POST /public/x HTTP/1.1\r\nHost: {HOST}\r\n");
    for framing in ["Content-Length: 100000000", "Transfer-Encoding: chunked"] {
        for size in [64 * 1024, 2 * 1024 * 1024] {
            let mut conn = browse(&house, &authority, HOST).await.unwrap();
            conn.send(format!("{head}{framing}\r\n\r\n").as_bytes()).await;
            // All of it is sent before anything is read, as simple clients do.
            for _ in 0..4 {
                conn.send(format!("{size:x}\r\n").as_bytes()).await;
                conn.send(&vec![b'x'; size]).await;
                conn.send(b"\r\n").await;
            }
            conn.answer("POST").await.expect(413);
        }
    }
}
