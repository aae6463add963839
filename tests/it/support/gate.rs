//! Something to wait at until the test says go.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

/// Holds whoever comes until it is opened.
#[derive(Clone, Debug)]
pub struct Gate {
    open: Arc<watch::Sender<bool>>,
    came: Arc<AtomicUsize>,
}

impl Gate {
    pub fn closed() -> Self {
        Self { open: Arc::new(watch::channel(false).0), came: Arc::default() }
    }

    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// How many have come to it so far.
    pub fn came(&self) -> usize {
        self.came.load(Ordering::SeqCst)
    }

    /// Waits until so many have come.
    pub async fn reached_by(&self, count: usize) {
        super::until("somebody at the gate", || self.came() >= count).await;
    }

    pub async fn pass(&self) {
        self.came.fetch_add(1, Ordering::SeqCst);
        let mut open = self.open.subscribe();
        let _ended = open.wait_for(|open| *open).await;
    }
}
