//! Message bodies on their way through: never waiting for ever, never longer than allowed, with clean trailers.
//! In: a body. Out: the same body under limits. Errors: [`BodyFault`], which ends the message. I/O: what the body does.

use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::HeaderName;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::Sleep;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyFault {
    /// Nothing came for too long.
    #[error("the body stalled")]
    Stalled,
    /// More came than is allowed.
    #[error("the body is larger than allowed")]
    TooLarge,
    /// The connection broke or the framing was wrong.
    #[error("the body was cut")]
    Cut(#[from] hyper::Error),
}

/// Says of a field whether it may come after a body.
pub type TrailerFilter = Arc<dyn Fn(&HeaderName) -> bool + Send + Sync>;

/// The limits of a body.
#[derive(Clone)]
pub struct BodyLimits {
    /// Longest time without a byte, while somebody waits for one.
    pub idle: Duration,
    /// Most bytes.
    pub size: u64,
    /// The trailers that pass.
    pub trailers: TrailerFilter,
}

impl fmt::Debug for BodyLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyLimits")
            .field("idle", &self.idle)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// How far a body has come, seen from outside.
#[derive(Debug, Default)]
pub struct Progress {
    frames: AtomicU64,
    fault: AtomicU64,
}

impl Progress {
    /// A number that grows with each piece that passed.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.frames.load(Ordering::Acquire)
    }

    /// Why the body ended early, where its reader was told so.
    #[must_use]
    pub fn fault(&self) -> Option<Early> {
        match self.fault.load(Ordering::Acquire) {
            0 => None,
            1 => Some(Early::Stalled),
            2 => Some(Early::TooLarge),
            _ => Some(Early::Cut),
        }
    }
}

/// [`BodyFault`] without its cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Early {
    /// Nothing came for too long.
    Stalled,
    /// More came than is allowed.
    TooLarge,
    /// The connection broke.
    Cut,
}

/// A body under limits.
#[derive(Debug)]
pub struct Limited {
    inner: Incoming,
    limits: BodyLimits,
    left: u64,
    progress: Arc<Progress>,
    /// Made when the body first has to be waited for: most bodies come with their head.
    patience: Option<Pin<Box<Sleep>>>,
}

impl Limited {
    /// Puts `inner` under limits.
    #[must_use]
    pub fn new(inner: Incoming, limits: BodyLimits) -> Self {
        let left = limits.size;
        Self { inner, limits, left, progress: Arc::default(), patience: None }
    }

    /// The view of its progress from outside.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    fn fail(&self, fault: BodyFault) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let code = match fault {
            BodyFault::Stalled => 1,
            BodyFault::TooLarge => 2,
            BodyFault::Cut(_) => 3,
        };
        self.progress.fault.store(code, Ordering::Release);
        Poll::Ready(Some(Err(fault)))
    }

    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let idle = self.limits.idle;
        let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        patience.as_mut().poll(cx)
    }
}

impl Body for Limited {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let frame = match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                ready!(self.poll_patience(cx));
                return self.fail(BodyFault::Stalled);
            }
        };
        self.patience = None;
        self.progress.frames.fetch_add(1, Ordering::AcqRel);
        match frame {
            None => Poll::Ready(None),
            Some(Err(error)) => self.fail(BodyFault::Cut(error)),
            Some(Ok(mut frame)) => {
                if let Some(data) = frame.data_ref() {
                    let Some(left) = self.left.checked_sub(data.remaining() as u64) else {
                        return self.fail(BodyFault::TooLarge);
                    };
                    self.left = left;
                } else if let Some(trailers) = frame.trailers_mut() {
                    let dirty: Vec<_> =
                        trailers.keys().filter(|name| !(self.limits.trailers)(name)).cloned().collect();
                    for name in dirty {
                        trailers.remove(name);
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The body of an answer: written here, or on its way from the upstream.
#[derive(Debug)]
pub enum ReplyBody {
    /// Written here.
    Own(Full<Bytes>),
    /// From the upstream.
    Upstream(Limited),
}

impl ReplyBody {
    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self::Own(Full::default())
    }
}

impl From<String> for ReplyBody {
    fn from(text: String) -> Self {
        Self::Own(Full::from(text))
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match self.get_mut() {
            Self::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Upstream(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Upstream(body) => body.size_hint(),
        }
    }
}
