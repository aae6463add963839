//! Lets those go first who are ready already.
//! In: a task. Out: when it is its turn. Errors: none. I/O: none.

use std::future::Future as _;
use std::pin::pin;
use std::task::{Context, Poll};

use crate::server::bell::Bell;

/// The turn of a task that lets those go first who are ready beside it, at the same worker: it comes once that has nobody else,
/// or has had a few dozen. Whatever else wakes the task meanwhile does not make it earlier.
#[derive(Debug)]
pub(super) struct Turn {
    bell: Bell,
    waits: bool,
}

impl Turn {
    pub(super) fn new() -> Self {
        Self { bell: Bell::new(), waits: false }
    }

    /// Ready when it is its turn, and then waits for the next one.
    pub(super) fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        let rung = self.bell.has_rung(cx);
        if !self.waits {
            // The runtime is told once, and rings.
            let _called = pin!(tokio::task::yield_now()).poll(&mut self.bell.context());
            self.waits = true;
            return Poll::Pending;
        }
        self.waits = !rung;
        if rung { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::{Arc, Mutex};

    use tokio_util::task::TaskTracker;

    use super::*;

    /// Its one worker runs who was woken last first.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn it_comes_after_all_who_are_ready_however_often_they_wake_it() {
        const PATIENT: usize = 0;
        let order = Arc::new(Mutex::new(Vec::new()));
        let tasks = TaskTracker::new();
        let (seen, others) = (Arc::clone(&order), tasks.clone());
        let waits = tasks.spawn(async move {
            let mut turn = Turn::new();
            let mut awaited = 1..=5;
            poll_fn(|cx| {
                for other in awaited.by_ref() {
                    let (seen, patient) = (Arc::clone(&seen), cx.waker().clone());
                    others.spawn(async move {
                        seen.lock().expect("not poisoned").push(other);
                        patient.wake();
                    });
                }
                turn.poll(cx)
            })
            .await;
            seen.lock().expect("not poisoned").push(PATIENT);
            poll_fn(|cx| turn.poll(cx)).await;
        });
        waits.await.expect("its turn comes, and comes again");
        let order = order.lock().expect("not poisoned");
        assert_eq!((order.len(), order.last()), (6, Some(&PATIENT)), "{order:?}");
    }
}
