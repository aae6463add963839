//! Tells which of the things that a task waits for has woken it.
//! In: a task. Out: whether the bell has rung. Errors: none. I/O: none.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

/// Wakes a task as its own waker does, and remembers that it has.
#[derive(Debug)]
pub(super) struct Bell {
    rope: Arc<Rope>,
    /// The same, as what is waited for has it.
    waker: Waker,
    /// Whom it wakes.
    task: Option<Waker>,
}

#[derive(Debug)]
struct Rope {
    rung: AtomicBool,
    task: Mutex<Waker>,
}

impl Wake for Rope {
    fn wake(self: Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.lock().unwrap_or_else(PoisonError::into_inner).wake_by_ref();
    }
}

impl Bell {
    /// A bell that has rung: what is waited for is asked at once.
    pub(super) fn new() -> Self {
        let rope = Arc::new(Rope { rung: AtomicBool::new(true), task: Mutex::new(Waker::noop().clone()) });
        Self { waker: Waker::from(Arc::clone(&rope)), rope, task: None }
    }

    /// Whether it has rung since this was asked last. From now on it wakes this task.
    pub(super) fn has_rung(&mut self, cx: &Context<'_>) -> bool {
        if self.task.as_ref().is_none_or(|task| !task.will_wake(cx.waker())) {
            self.task = Some(cx.waker().clone());
            self.rope.task.lock().unwrap_or_else(PoisonError::into_inner).clone_from(cx.waker());
        }
        // Who rings between this and the next line is heard; who rings after it wakes the task.
        self.rope.rung.load(Ordering::Acquire) && self.rope.rung.swap(false, Ordering::AcqRel)
    }

    /// What rings it.
    pub(super) fn context(&self) -> Context<'_> {
        Context::from_waker(&self.waker)
    }
}
