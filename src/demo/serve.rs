//! The gateway's own server loop, with one of the counterparts behind it.
//! In: a bound listener and a handler. Out: answers on its connections. Errors: none. I/O: sockets.

use std::future::Future;
use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;
use tokio::net::TcpListener;

use crate::body::{ReplyBody, Replying};
use crate::demo::exchange::Answer;
use crate::meter::Meters;
use crate::server::{
    Asking, By, Came, ConnectionLimits, Door, Entrance, Hall, Handler, Life, Welcome, Workers,
};

/// Starts to answer every request on `listener` with `answer`, until `life` says to finish.
pub(super) fn serve<A, F>(listener: TcpListener, answer: A, life: &Life)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send,
{
    let limits = ConnectionLimits::default();
    let hall = Hall::new(Answering(answer), limits, 256, Arc::new(Meters::new()), life.clone());
    let entrance = Entrance::new(Welcome { hall, tls: None });
    Door::new(listener, By::Plain, Workers::here()).open(&entrance);
}

#[derive(Clone)]
struct Answering<A>(A);

impl<A, F> Handler for Answering<A>
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send,
{
    async fn handle(&self, request: Asking, _came: &Came) -> Replying {
        Box::new((self.0)(*request).await.map(ReplyBody::Own))
    }
}
