//! The gateway of the settings in force: each request is answered by one gateway from its beginning to its end.
//! In: requests. Out: responses. Errors: none. I/O: the rooms'.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::{Response, StatusCode};

use crate::admin::{Drill, Expired};
use crate::body::{ReplyBody, Replying};
use crate::gateway::{Gateway, Parts};
use crate::server::{Asking, Came, Handler};

/// Whichever gateway is in force. Cheap to clone; clones are the same.
#[derive(Clone, Debug)]
pub struct Current(Arc<ArcSwap<Parts>>);

impl Current {
    /// This one.
    #[must_use]
    pub fn new(gateway: Gateway) -> Self {
        Self(Arc::new(ArcSwap::new(gateway.0)))
    }

    /// The one that answers requests which begin now.
    #[must_use]
    pub fn now(&self) -> Gateway {
        Gateway(self.0.load_full())
    }

    /// Requests that begin from now on are answered by this one. The old one goes with the last request that it answers.
    pub fn change(&self, gateway: Gateway) {
        self.0.store(gateway.0);
    }
}

impl Handler for Current {
    async fn handle(&self, request: Asking, came: &Came) -> Replying {
        let gateway = self.now();
        gateway.handle(request, came).await
    }

    fn unread(&self, status: StatusCode, came: &Came) -> Response<ReplyBody> {
        self.now().unread(status, came)
    }
}

impl Drill for Current {
    fn expire<'a>(&'a self, text: &'a str) -> Pin<Box<dyn Future<Output = Expired> + Send + 'a>> {
        Box::pin(async move { self.now().expire(text).await })
    }
}
