//! A small HTTP/1.1 server loop, the same for the three counterparts.
//! In: a bound listener and a handler. Out: answers on its connections. Errors: none; a broken connection is logged at
//! `debug`, a failing accept at `warn`. I/O: sockets. Every task is on the [`Owner`]'s tracker.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::demo::exchange::Answer;

/// Who waits for the tasks and tells them to stop.
#[derive(Clone, Debug)]
pub struct Owner {
    /// Every accept loop and connection runs on it; closing it and waiting for it is the drain.
    pub tasks: TaskTracker,
    /// Once cancelled, nothing is accepted any more and connections end after their current answer.
    pub stop: CancellationToken,
}

/// Most connections at once; the next ones wait in the listener's queue.
const CONNECTIONS: usize = 256;
/// Longest wait for a whole request head, idle time between two requests included.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// Largest request head, and read buffer, in bytes.
const HEAD_CAP: usize = 64 * 1024;
/// Longest life of one connection: bounds a peer that does not read its answers.
const CONNECTION_LIFE: Duration = Duration::from_secs(600);
/// How long a connection may take to end once it has been asked to.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// Pause after a failed accept, so that running out of file descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Starts to answer every request on `listener` with `handler`, until the owner says stop.
pub(super) fn serve<H, F>(listener: TcpListener, handler: H, owner: &Owner)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    owner.tasks.spawn(accept(listener, handler, owner.clone()));
}

async fn accept<H, F>(listener: TcpListener, handler: H, owner: Owner)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
            let (stream, _) = listener.accept().await?;
            Ok::<_, io::Error>((place, stream))
        };
        let accepted = tokio::select! {
            biased;
            () = owner.stop.cancelled() => return,
            accepted = next => accepted,
        };
        match accepted {
            Ok((place, stream)) => {
                let answering = converse(stream, handler.clone(), owner.stop.clone());
                owner.tasks.spawn(async move {
                    answering.await;
                    drop(place);
                });
            }
            Err(fault) => {
                tracing::warn!(%fault, "demo: a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers one connection's requests until it ends, its life is over or `stop` is cancelled.
async fn converse<H, F>(stream: TcpStream, handler: H, stop: CancellationToken)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answering = handler(request);
        async move { Ok::<_, Infallible>(answering.await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(HEAD_CAP)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = stop.cancelled() => None,
        () = tokio::time::sleep(CONNECTION_LIFE) => None,
    };
    let ended = match ended {
        Some(ended) => Ok(ended),
        None => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(DRAIN_TIME, connection).await
        }
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(fault)) => tracing::debug!(%fault, "demo: a connection broke"),
        Err(_) => tracing::debug!("demo: a connection was cut at the end of the drain"),
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::demo::exchange::plain;

    async fn started() -> (std::net::SocketAddr, Owner) {
        let owner = Owner { tasks: TaskTracker::new(), stop: CancellationToken::new() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        serve(listener, |_| async { plain(StatusCode::OK, "hello") }, &owner);
        (address, owner)
    }

    #[tokio::test]
    async fn stop_ends_an_idle_connection_and_every_task() {
        let (address, owner) = started().await;
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut some = [0; 1024];
        let read = client.read(&mut some).await.unwrap();
        assert!(some[..read].starts_with(b"HTTP/1.1 200"));
        owner.stop.cancel();
        owner.tasks.close();
        owner.tasks.wait().await;
        assert_eq!(client.read(&mut some).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_is_not_http_is_answered_with_400_and_closed() {
        let (address, _owner) = started().await;
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"what is this\r\n\r\n").await.unwrap();
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert!(all.starts_with(b"HTTP/1.1 400"));
    }
}
