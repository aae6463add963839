//! Message bodies on their way through: never waiting for ever, never longer than allowed, with clean trailers.
//! In: a body. Out: the same body under limits. Errors: [`BodyFault`], which ends the message. I/O: what the body does.

use std::fmt;
use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderName, Response};
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
    /// More came after it than is allowed.
    #[error("the trailers are larger than allowed")]
    Trailers,
    /// The framing was wrong.
    #[error("the body is malformed")]
    Malformed(#[source] hyper::Error),
    /// The connection broke.
    #[error("the body was cut")]
    Cut(#[source] hyper::Error),
}

/// Says of a field whether it may come after a body.
pub type TrailerFilter = Arc<dyn Fn(&HeaderName) -> bool + Send + Sync>;

/// How much may come after a body, before any of it is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrailerLimits {
    /// Most bytes of all names and values.
    pub bytes: usize,
    /// Most fields.
    pub fields: usize,
}

impl Default for TrailerLimits {
    fn default() -> Self {
        Self { bytes: 8 * 1024, fields: 64 }
    }
}

impl TrailerLimits {
    fn hold(&self, trailers: &HeaderMap) -> bool {
        let bytes: usize = trailers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        bytes <= self.bytes && trailers.len() <= self.fields
    }
}

/// The limits of a body.
#[derive(Clone)]
pub struct BodyLimits {
    /// Longest time without a byte, while somebody waits for one.
    pub idle: Duration,
    /// Most bytes.
    pub size: u64,
    /// The trailers that pass.
    pub trailers: TrailerFilter,
    /// How much of them may come.
    pub trailer_limits: TrailerLimits,
}

impl fmt::Debug for BodyLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyLimits")
            .field("idle", &self.idle)
            .field("size", &self.size)
            .field("trailers", &self.trailer_limits)
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
            3 => Some(Early::Malformed),
            5 => Some(Early::Trailers),
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
    /// More came after it than is allowed.
    Trailers,
    /// The framing was wrong.
    Malformed,
    /// The connection broke.
    Cut,
}

impl From<hyper::Error> for BodyFault {
    /// What cannot be decoded is told from what did not come by the kind of the cause (chunks).
    fn from(error: hyper::Error) -> Self {
        let cause = std::error::Error::source(&error);
        let kind = cause.and_then(|cause| cause.downcast_ref::<std::io::Error>()).map(std::io::Error::kind);
        match kind {
            Some(ErrorKind::InvalidInput | ErrorKind::InvalidData) => Self::Malformed(error),
            Some(_) | None => Self::Cut(error),
        }
    }
}

/// A connection that a body comes by. Dropped before the body is whole it is closed.
pub trait Lease: fmt::Debug + Send {
    /// The body has come whole: the connection may be used again.
    fn give_back(self: Box<Self>);
}

/// A body under limits. One of which nothing is to come takes no room.
#[derive(Debug)]
pub struct Limited(Option<Box<Flow>>);

/// A body of which something is to come.
#[derive(Debug)]
struct Flow {
    source: Source,
    limits: BodyLimits,
    left: u64,
    /// Where somebody watches it.
    progress: Option<Arc<Progress>>,
    lease: Option<Box<dyn Lease>>,
    /// Made when the body first has to be waited for: most bodies come with their head.
    patience: Option<Pin<Box<Sleep>>>,
}

/// Where a body comes from.
#[derive(Debug)]
enum Source {
    /// A connection.
    Stream(Incoming),
    /// It is here already.
    Whole(Full<Bytes>),
}

impl Source {
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Stream(inner) => inner.is_end_stream(),
            Self::Whole(inner) => inner.is_end_stream(),
        }
    }
}

impl Limited {
    /// Puts `inner` under limits.
    #[must_use]
    pub fn new(inner: Incoming, limits: &BodyLimits) -> Self {
        Self::of(Source::Stream(inner), limits)
    }

    /// A body that is here already.
    #[must_use]
    pub fn whole(bytes: Bytes, limits: &BodyLimits) -> Self {
        Self::of(Source::Whole(Full::new(bytes)), limits)
    }

    fn of(source: Source, limits: &BodyLimits) -> Self {
        if source.is_end_stream() {
            return Self(None);
        }
        let (limits, left) = (limits.clone(), limits.size);
        Self(Some(Box::new(Flow { source, limits, left, progress: None, lease: None, patience: None })))
    }

    /// The same body, of so many bytes at most.
    #[must_use]
    pub fn at_most(mut self, size: u64) -> Self {
        if let Some(flow) = &mut self.0 {
            flow.left = size;
        }
        self
    }

    /// The same body, which gives back the connection that it comes by.
    #[must_use]
    pub fn leased(mut self, lease: Box<dyn Lease>) -> Self {
        match &mut self.0 {
            Some(flow) => flow.lease = Some(lease),
            None => lease.give_back(),
        }
        self
    }

    /// The view of its progress from outside; `None`: it has come whole already.
    #[must_use]
    pub fn progress(&mut self) -> Option<Arc<Progress>> {
        let flow = self.0.as_mut().filter(|flow| !flow.source.is_end_stream())?;
        Some(Arc::clone(flow.progress.get_or_insert_default()))
    }
}

impl Flow {
    fn give_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }

    fn fail(&self, fault: BodyFault) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let code = match fault {
            BodyFault::Stalled => 1,
            BodyFault::TooLarge => 2,
            BodyFault::Malformed(_) => 3,
            BodyFault::Cut(_) => 4,
            BodyFault::Trailers => 5,
        };
        if let Some(progress) = &self.progress {
            progress.fault.store(code, Ordering::Release);
        }
        Poll::Ready(Some(Err(fault)))
    }

    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let idle = self.limits.idle;
        let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        patience.as_mut().poll(cx)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let polled = match &mut self.source {
            Source::Stream(inner) => Pin::new(inner).poll_frame(cx),
            Source::Whole(inner) => Pin::new(inner).poll_frame(cx).map_err(|never| match never {}),
        };
        let frame = match polled {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                ready!(self.poll_patience(cx));
                return self.fail(BodyFault::Stalled);
            }
        };
        self.patience = None;
        if let Some(progress) = &self.progress {
            progress.frames.fetch_add(1, Ordering::AcqRel);
        }
        if self.source.is_end_stream() {
            self.give_back();
        }
        match frame {
            None => {
                self.give_back();
                Poll::Ready(None)
            }
            Some(Err(error)) => self.fail(error.into()),
            Some(Ok(mut frame)) => {
                if let Some(data) = frame.data_ref() {
                    let Some(left) = self.left.checked_sub(data.remaining() as u64) else {
                        return self.fail(BodyFault::TooLarge);
                    };
                    self.left = left;
                } else if let Some(trailers) = frame.trailers_mut() {
                    if !self.limits.trailer_limits.hold(trailers) {
                        return self.fail(BodyFault::Trailers);
                    }
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
}

impl Body for Limited {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match &mut self.0 {
            Some(flow) => flow.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|flow| flow.source.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match self.0.as_deref().map(|flow| &flow.source) {
            Some(Source::Stream(inner)) => inner.size_hint(),
            Some(Source::Whole(inner)) => inner.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

/// An answer on its way to its client. In a box, for it is handed on through many steps.
pub type Replying = Box<Response<ReplyBody>>;

/// The body of an answer: written here, or on its way from the upstream.
#[derive(Debug)]
pub enum ReplyBody {
    /// Written here.
    Own(Full<Bytes>),
    /// From the upstream.
    Upstream(Limited),
    /// From the upstream, and no longer than something else lasts.
    Bound(Box<Bound>),
}

/// A body that comes to a proper end once something is over.
pub struct Bound {
    body: Option<Limited>,
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound").field("body", &self.body).finish_non_exhaustive()
    }
}

impl Bound {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        if self.over.as_mut().poll(cx).is_ready() {
            // The upstream's end goes at once.
            self.body = None;
            return Poll::Ready(None);
        }
        Pin::new(body).poll_frame(cx)
    }
}

impl ReplyBody {
    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self::Own(Full::default())
    }

    /// The same body, which ends once `over` does; one that is here already stays as it is.
    #[must_use]
    pub fn until(self, over: impl Future<Output = ()> + Send + 'static) -> Self {
        match self {
            Self::Upstream(body) => Self::Bound(Box::new(Bound { body: Some(body), over: Box::pin(over) })),
            Self::Own(_) | Self::Bound(_) => self,
        }
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
            Self::Bound(bound) => bound.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Upstream(body) => body.is_end_stream(),
            Self::Bound(bound) => bound.body.as_ref().is_none_or(Body::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Upstream(body) => body.size_hint(),
            // It may end before.
            Self::Bound(_) => SizeHint::new(),
        }
    }
}
