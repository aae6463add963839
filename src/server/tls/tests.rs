//! Certificates of both sides: who is let in, who is not, and what a change of their files does to handshakes and resumptions.

use rustls::ClientConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
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
        let mut roots = RootCertStore::empty();
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
    Tls::new(&TlsSettings {
        certificates,
        handshake: Duration::from_secs(5),
        offer: Offer::Http2,
        clients: None,
    })
    .expect("usable")
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
    let before = tls.current.load_full();
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
    assert!(!Arc::ptr_eq(&before, &tls.current.load_full()));
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
    let settings = |files| TlsSettings {
        certificates: vec![files],
        handshake: Duration::from_secs(1),
        offer: Offer::Http2,
        clients: None,
    };
    let error = Tls::new(&settings(none)).expect_err("no file").to_string();
    assert!(error.contains("/no/such/file"), "{error}");
    fs::write(&good.cert, "").expect("written");
    assert!(matches!(Tls::new(&settings(good)), Err(TlsError::Empty { .. } | TlsError::Pem { .. })));
}

/// A certificate with those that it was signed with, and its key.
type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Since 1970, so long from now.
fn from_now(after: Duration) -> Duration {
    Duration::from_secs(UnixTime::now().as_secs()) + after
}

/// Longest that something is valid in these tests.
const LONG: Duration = Duration::from_secs(3600);

impl Authority {
    /// A file with this authority's certificate.
    fn file(&self) -> PathBuf {
        let path = self.dir.path().join("authority.crt");
        fs::write(&path, self.issuer.pem()).expect("written");
        path
    }

    /// A client that believes this authority's gateway, and shows a certificate of `signer` with that serial number, which is
    /// over before so much time is.
    fn client(&self, serial: u64, valid: Duration, signer: &Self) -> TlsConnector {
        let mut params = rcgen::CertificateParams::new(vec!["ana.test".to_owned()]).expect("parameters");
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + (from_now(valid) - Duration::from_secs(1));
        params.serial_number = Some(serial.into());
        let key = rcgen::KeyPair::generate().expect("a key");
        let chain = vec![params.signed_by(&key, &signer.issuer).expect("a certificate").der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        self.connector(Some((chain, key)))
    }

    fn connector(&self, shown: Option<Shown>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("an authority");
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let config = match shown {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).expect("a pair"),
            None => builder.with_no_client_auth(),
        };
        TlsConnector::from(Arc::new(config))
    }

    fn without(&self) -> TlsConnector {
        self.connector(None)
    }

    /// What this authority has taken back, as of now and for so long.
    fn revoke(&self, path: &Path, serials: &[u64], valid: Duration) {
        let since = rcgen::date_time_ymd(2000, 1, 1);
        let revoked = |serial: &u64| rcgen::RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: since,
            reason_code: None,
            invalidity_date: None,
        };
        let list = rcgen::CertificateRevocationListParams {
            this_update: since,
            next_update: rcgen::date_time_ymd(1970, 1, 1) + (from_now(valid) - Duration::from_secs(1)),
            crl_number: 1_u64.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).expect("a list");
        fs::write(path, list.pem().expect("PEM")).expect("written");
    }

    fn gateway(&self, clients: ClientSettings) -> Tls {
        Tls::new(&TlsSettings {
            certificates: vec![self.issue("a", "a.test")],
            handshake: Duration::from_secs(30),
            offer: Offer::Http1,
            clients: Some(clients),
        })
        .expect("usable")
    }
}

/// What comes of a handshake: nothing, or whether it resumed an earlier one, and the names in the client's certificate.
async fn meet(tls: &Tls, client: &TlsConnector) -> Option<(Option<HandshakeKind>, Vec<String>)> {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let asked = async {
        let mut stream = client.connect("a.test".try_into().expect("a name"), theirs).await.ok()?;
        // What the client resumes with comes behind the handshake (RFC 8446 §4.6.1).
        stream.read_u8().await.ok()
    };
    let served = async {
        let mut greeted = tls.accept(ours).await?;
        let _gone = greeted.stream.write_u8(1).await;
        let names = greeted.certificate.map_or_else(Vec::new, |shown| shown.names.clone());
        Some((greeted.stream.get_ref().1.handshake_kind(), names))
    };
    let (served, heard) = tokio::join!(served, asked);
    assert_eq!(served.is_some(), heard.is_some(), "who is not served hears nothing");
    served
}

#[tokio::test]
async fn clients_show_the_right_certificate_or_none() {
    let (own, other) = (Authority::new(), Authority::new());
    for without in [WithoutCertificate::Served, WithoutCertificate::Refused] {
        let clients = ClientSettings { authorities: vec![own.file()], revoked: Vec::new(), without };
        let tls = own.gateway(clients);
        let full = Some(HandshakeKind::Full);
        let right = meet(&tls, &own.client(1, LONG, &own)).await;
        assert_eq!(right, Some((full, vec!["DNS:ana.test".to_owned()])));
        let none = meet(&tls, &own.without()).await;
        let served = (without == WithoutCertificate::Served).then(|| (full, Vec::new()));
        assert_eq!(none, served, "{without:?}");
        assert_eq!(meet(&tls, &own.client(1, LONG, &other)).await, None, "another authority's");
        assert_eq!(meet(&tls, &own.client(1, Duration::ZERO, &own)).await, None, "it is over");
    }
}

#[tokio::test]
async fn a_certificate_that_is_over_is_not_resumed() {
    let own = Authority::new();
    let without = WithoutCertificate::Served;
    let tls = own.gateway(ClientSettings { authorities: vec![own.file()], revoked: Vec::new(), without });
    // On a busy machine two handshakes may take longer than a short life.
    for secs in [4, 10, 30] {
        let end = from_now(Duration::from_secs(secs));
        let client = own.client(1, Duration::from_secs(secs), &own);
        let before = [meet(&tls, &client).await, meet(&tls, &client).await];
        if from_now(Duration::ZERO) >= end {
            continue;
        }
        let kinds = before.map(|met| met.and_then(|(kind, names)| Some((kind?, names.len()))));
        assert_eq!(kinds, [Some((HandshakeKind::Full, 1)), Some((HandshakeKind::Resumed, 1))]);
        while from_now(Duration::ZERO) <= end {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(meet(&tls, &client).await, None);
        return;
    }
    panic!("no two handshakes within half a minute");
}

#[tokio::test]
async fn what_was_taken_back_is_refused_from_the_reload_on() {
    let (own, other) = (Authority::new(), Authority::new());
    let list = own.dir.path().join("revoked.pem");
    own.revoke(&list, &[9], LONG);
    let clients = ClientSettings {
        authorities: vec![own.file()],
        revoked: vec![list.clone()],
        without: WithoutCertificate::Refused,
    };
    let tls = own.gateway(clients);
    let (seven, nine) = (own.client(7, LONG, &own), own.client(9, LONG, &own));
    assert!(meet(&tls, &seven).await.is_some());
    assert_eq!(meet(&tls, &nine).await, None);
    fs::write(&list, "nothing").expect("written");
    assert_eq!(tls.reload(), Reloaded::Kept);
    assert!(meet(&tls, &seven).await.is_some(), "it resumes");
    own.revoke(&list, &[7], LONG);
    assert_eq!(tls.reload(), Reloaded::New);
    assert_eq!(meet(&tls, &seven).await, None, "nor is it resumed");
    assert!(meet(&tls, &nine).await.is_some());
    own.revoke(&list, &[], Duration::ZERO);
    assert_eq!(tls.reload(), Reloaded::New);
    assert_eq!(meet(&tls, &nine).await, None, "a list that is out of date tells nothing");
    own.revoke(&list, &[], LONG);
    fs::write(own.dir.path().join("authority.crt"), other.issuer.pem()).expect("written");
    assert_eq!(tls.reload(), Reloaded::New);
    assert_eq!(meet(&tls, &nine).await, None, "its authority is believed no more");
}

#[test]
fn an_authority_that_is_none_is_told() {
    let own = Authority::new();
    let check = |authorities, revoked| {
        ClientSettings { authorities, revoked, without: WithoutCertificate::Refused }.check()
    };
    assert!(check(vec![own.file()], Vec::new()).is_ok());
    assert!(matches!(check(Vec::new(), Vec::new()), Err(TlsError::Clients(_))));
    assert!(check(vec!["/no/such/file".into()], Vec::new()).is_err());
    assert!(check(vec![own.file()], vec![own.file()]).is_err(), "no list is in it");
}
