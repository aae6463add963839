//! A gateway between counterparts that a test can see into and can break.

pub mod backend;
pub mod client;
pub mod egov;
pub mod gate;
pub mod house;
pub mod http2;
pub mod hush;
pub mod issuer;
pub mod jar;
pub mod keys;
pub mod program;
pub mod redis;
pub mod sanic_app;
pub mod token;
pub mod token_endpoint;
pub mod upstream;
pub mod wire;

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};

pub use backend::{Fault, Spent};
pub use client::{Answer, Ask, Conn};
pub use gate::Gate;
pub use house::{House, Plan};
pub use jar::Jar;
pub use keys::{Signer, key_set};
pub use program::Program;
pub use redis::Redis;
pub use upstream::{Seen, State, Step, Upstream, answer, head_of, ok};

/// Longest wait for anything that should happen.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// The host of the site, and the origin that browsers see.
pub const HOST: &str = "app.test.example";
pub const ORIGIN: &str = "https://app.test.example";
pub const LOGIN: &str = "https://id.test.example/login";

/// A port that nobody listens on and that nobody else gets while the socket is kept.
pub fn closed_port() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = socket.local_addr().unwrap();
    (socket, addr)
}

/// Waits until nobody can connect there.
pub async fn refused(addr: SocketAddr) {
    within("a refused connection", async {
        while TcpStream::connect(addr).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// Waits until something is so.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    within(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// Waits for something, and not for ever.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_elapsed) => panic!("waited too long for: {what}"),
    }
}
