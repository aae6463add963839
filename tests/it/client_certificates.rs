//! Certificates of clients: who shows the right one is told to the app, by the gateway alone.

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::http2::H2;
use crate::support::{Ask, Conn, HOST, House, within};
use crate::tls::{Authority, with_tls};

async fn connect(house: &House, client: &TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(house.door().https.unwrap()).await?;
    within("a handshake", client.connect(HOST.try_into().unwrap(), tcp)).await
}

/// The status that a client gets for a request in which it says itself who it is; `None`: the gateway does not talk to it.
async fn asked(house: &House, client: &TlsConnector) -> Option<u16> {
    let mut conn = Conn::over(connect(house, client).await.ok()?);
    conn.send_if_wanted(&forged("/public/x").bytes()).await;
    conn.try_answer("GET").await.map(|answer| answer.status)
}

/// A request that claims to be somebody's, in several spellings.
fn forged(path: &str) -> Ask {
    Ask::page(path)
        .line("X-Client-Subject", "CN=root")
        .line("x_client_subject", "CN=root")
        .line("X.Client.Names", "DNS:root.test.example")
        .line("X-Client_Fingerprint", "00")
        .line("Connection", "X-Client-Subject, close")
}

/// What the app was told of the client's certificate last, whatever the spelling.
fn told(house: &House) -> Vec<String> {
    let seen = house.upstream.last();
    let ours = |name: &&String| name.starts_with("x_client_");
    seen.head.folded_names().iter().filter(ours).cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_app_is_told_whom_a_certificate_is_for_and_nobody_else_tells_it() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (house, _folder) = with_tls(&authority, &[HOST], &authority.of_clients("optional")).await;
    assert_eq!(asked(&house, &authority.client(&[], "ana")).await, Some(200));
    let seen = house.upstream.last();
    assert_eq!(seen.line("x-client-subject"), Some("CN=ana,O=Caf%C3%A9"));
    assert_eq!(seen.line("x-client-names"), Some("DNS:ana.test.example"));
    assert_eq!(seen.line("x-client-fingerprint").map(str::len), Some(64));
    assert_eq!(told(&house).len(), 3, "{:?}", told(&house));
    // Without a certificate, and without TLS, nothing is told.
    assert_eq!(asked(&house, &authority.browser(&[])).await, Some(200));
    assert_eq!(told(&house), Vec::<String>::new());
    house.ask(&forged("/public/plain")).await.expect(200);
    assert_eq!(told(&house), Vec::<String>::new());
    let count = house.upstream.count();
    assert_eq!(asked(&house, &other.client(&[], "ana")).await, None);
    assert_eq!(house.upstream.count(), count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_one_is_required_nothing_is_served_without_and_a_session_is_told_beside_it() {
    let authority = Authority::new();
    let (house, _folder) = with_tls(&authority, &[HOST], &authority.of_clients("required")).await;
    assert_eq!(asked(&house, &authority.browser(&[])).await, None);
    assert_eq!(asked(&house, &authority.browser(&["h2"])).await, None);
    assert_eq!(house.upstream.count(), 0);
    let stream = connect(&house, &authority.client(&["h2"], "ana")).await.unwrap();
    let jar = house.signed_in().await;
    let mut h2 = H2::over(stream).await;
    let ask = Ask::page("/page").line("x-client-subject", "CN=root").line("x_client_names", "x").jar(&jar);
    h2.ask(&ask).await.expect(200);
    let seen = house.upstream.last();
    assert_eq!(seen.line("x-client-subject"), Some("CN=ana,O=Caf%C3%A9"));
    assert_eq!((told(&house).len(), seen.line("x-auth-role")), (3, Some("admin")));
}
