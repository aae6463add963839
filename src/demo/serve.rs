//! The gateway's own server loop, with one of the counterparts behind it.
//! In: a bound listener and a handler. Out: answers on its connections. Errors: none. I/O: sockets.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::TcpListener;

use crate::body::ReplyBody;
use crate::demo::exchange::Answer;
use crate::meter::Meters;
use crate::server::{self, ConnectionLimits, Handler, Life};

/// Starts to answer every request on `listener` with `answer`, until `life` says to finish.
pub(super) fn serve<A, F>(listener: TcpListener, answer: A, life: &Life)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send,
{
    let limits = ConnectionLimits { connections: 256, ..ConnectionLimits::default() };
    let serving = server::serve(listener, Answering(answer), limits, Arc::new(Meters::new()), life.clone());
    life.tasks.spawn(serving);
}

#[derive(Clone)]
struct Answering<A>(A);

impl<A, F> Handler for Answering<A>
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send,
{
    async fn handle(&self, request: Request<Incoming>, _peer: SocketAddr) -> Response<ReplyBody> {
        (self.0)(request).await.map(ReplyBody::Own)
    }
}
