//! Watches for something that hardly ever happens, beside work that goes on all the time.
//! In: a future. Out: its output. Errors: none. I/O: the future's.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::server::bell::Bell;

/// A future that is asked once, and again when it has woken its task: not each time that something else has. What is asked may
/// take a lock that all connections share.
#[derive(Debug)]
pub(super) struct Seldom<F> {
    future: Pin<Box<F>>,
    bell: Bell,
}

impl<F: Future> Seldom<F> {
    pub(super) fn new(future: F) -> Self {
        Self { future: Box::pin(future), bell: Bell::new() }
    }
}

impl<F: Future> Future for Seldom<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        if this.bell.has_rung(cx) {
            this.future.as_mut().poll(&mut this.bell.context())
        } else {
            Poll::Pending
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn it_is_asked_once_and_when_it_woke() {
        let asked = AtomicUsize::new(0);
        let token = CancellationToken::new();
        let mut cancelled = Box::pin(token.cancelled());
        let mut seldom = Seldom::new(std::future::poll_fn(|cx| {
            asked.fetch_add(1, Ordering::Relaxed);
            cancelled.as_mut().poll(cx)
        }));
        let (one, other) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
        let wakers = [Waker::from(Arc::clone(&one)), Waker::from(Arc::clone(&other))];
        let mut poll = |which: usize| Pin::new(&mut seldom).poll(&mut Context::from_waker(&wakers[which]));
        assert!((0..10).all(|_| poll(0).is_pending()));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        // It goes on in another task, and that one is woken.
        assert!(poll(1).is_pending());
        token.cancel();
        assert_eq!((one.0.load(Ordering::Relaxed), other.0.load(Ordering::Relaxed)), (0, 1));
        assert!(poll(1).is_ready());
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_call_is_missed_from_another_thread() {
        for _ in 0..2000 {
            let token = CancellationToken::new();
            let inner = token.clone();
            let waits = TaskTracker::new().spawn(async move {
                let mut seldom = Seldom::new(inner.cancelled());
                let yields = async {
                    loop {
                        tokio::task::yield_now().await;
                    }
                };
                tokio::select! {
                    biased;
                    () = &mut seldom => {}
                    () = yields => {}
                }
            });
            token.cancel();
            tokio::time::timeout(std::time::Duration::from_secs(20), waits)
                .await
                .expect("told")
                .expect("ended");
        }
    }
}
