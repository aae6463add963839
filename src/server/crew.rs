//! The threads that serve connections. Each has a runtime for itself, and a connection stays with one of them from its beginning
//! to its end, so that its requests wake nobody else.
//! In: how many. Out: [`Workers`]. Errors: those of the system, at the start; [`Stuck`]. I/O: threads.

use std::fmt;
use std::io;
use std::iter;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// So many tasks have had their turn before a thread looks what else has come, where there are as many: what comes in the meantime
/// is seen in one call then.
const TURNS: u32 = 128;

/// The threads. They end with it, and whatever task is left on them then.
#[derive(Debug)]
pub struct Crew {
    workers: Workers,
    stop: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

/// Those who serve connections: a new one goes to whoever has the fewest tasks. Cheap to clone.
#[derive(Clone)]
pub struct Workers {
    first: Handle,
    others: Arc<[Handle]>,
}

/// One of them did not come to a new task in time.
#[derive(Debug, thiserror::Error)]
#[error("a thread that serves connections does not answer")]
pub struct Stuck;

impl Crew {
    /// So many threads. It is called outside of any runtime, where what the system refuses can be an error.
    ///
    /// # Errors
    /// [`io::Error`] where the system has no room for them.
    pub fn of(count: NonZeroUsize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let (first, thread) = begin(1, stop.clone())?;
        let mut crew = Self { workers: Workers { first, others: Arc::new([]) }, stop, threads: vec![thread] };
        let mut others = Vec::new();
        for number in 2..=count.get() {
            let (worker, thread) = begin(number, crew.stop.clone())?;
            crew.threads.push(thread);
            others.push(worker);
        }
        crew.workers.others = others.into();
        Ok(crew)
    }

    /// Who they are.
    #[must_use]
    pub fn workers(&self) -> Workers {
        self.workers.clone()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            // Tasks that panic end by themselves, so a thread does not.
            drop(thread.join());
        }
    }
}

/// A thread that runs the tasks that are given to it until it is told to stop.
fn begin(number: usize, stop: CancellationToken) -> io::Result<(Handle, JoinHandle<()>)> {
    let runtime = Builder::new_current_thread().enable_all().event_interval(TURNS).build()?;
    let handle = runtime.handle().clone();
    let work = move || {
        runtime.block_on(stop.cancelled_owned());
        // A name that is still looked up holds nobody up.
        runtime.shutdown_background();
    };
    Ok((handle, thread::Builder::new().name(format!("worker-{number}")).spawn(work)?))
}

impl Workers {
    /// Nobody but the runtime that this is called in.
    ///
    /// # Panics
    /// Outside of one.
    #[must_use]
    pub fn here() -> Self {
        Self { first: Handle::current(), others: Arc::new([]) }
    }

    /// Whether all of them turn: whether each comes to a new task within this time.
    ///
    /// # Errors
    /// [`Stuck`] where one does not.
    pub async fn turn(&self, limit: Duration) -> Result<(), Stuck> {
        let asked = TaskTracker::new();
        for worker in iter::once(&self.first).chain(&*self.others) {
            asked.spawn_on(async {}, worker);
        }
        asked.close();
        tokio::time::timeout(limit, asked.wait()).await.map_err(|_elapsed| Stuck)
    }

    /// A listening socket in the care of the first of them.
    ///
    /// # Errors
    /// [`io::Error`] where it cannot be handed over.
    pub(crate) fn adopt(&self, listener: TcpListener) -> io::Result<TcpListener> {
        let socket = listener.into_std()?;
        let _there = self.first.enter();
        TcpListener::from_std(socket)
    }

    /// The one who lets everybody in.
    pub(crate) const fn first(&self) -> &Handle {
        &self.first
    }

    /// Who has the least to do, where that is one of the others.
    pub(super) fn freer(&self) -> Option<&Handle> {
        let tasks = |worker: &Handle| worker.metrics().num_alive_tasks();
        let least = self.others.iter().min_by_key(|worker| tasks(worker))?;
        (tasks(least) < tasks(&self.first)).then_some(least)
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("others", &self.others.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_new_connection_goes_to_whom_has_the_fewest_tasks() {
        let crew = Crew::of(NonZeroUsize::MIN.saturating_add(2)).expect("threads");
        let (workers, tasks) = (crew.workers(), TaskTracker::new());
        let [one, other] = &*workers.others else { panic!("there are two others") };
        let is = |worker: &Handle| workers.freer().is_some_and(|freer| freer.id() == worker.id());
        assert!(workers.freer().is_none(), "nobody has anything to do");
        tasks.spawn_on(pending::<()>(), workers.first());
        assert!(is(one));
        tasks.spawn_on(pending::<()>(), one);
        assert!(is(other));
        tasks.spawn_on(pending::<()>(), other);
        assert!(workers.freer().is_none(), "all have the same");
    }

    #[test]
    fn a_thread_that_does_not_come_to_its_tasks_is_noticed() {
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
        let crew = Crew::of(NonZeroUsize::MIN.saturating_add(1)).expect("threads");
        let (workers, tasks, (release, released)) = (crew.workers(), TaskTracker::new(), mpsc::channel());
        let turn = |limit| runtime.block_on(workers.turn(Duration::from_millis(limit)));
        turn(10_000).expect("all turn");
        tasks.spawn_on(async move { released.recv() }, &workers.others[0]);
        turn(50).expect_err("one hangs");
        release.send(()).expect("it waits");
        turn(10_000).expect("all turn again");
    }

    #[test]
    fn what_is_left_on_them_ends_with_them() {
        let crew = Crew::of(NonZeroUsize::MIN).expect("a thread");
        let (held, tasks) = (Arc::new(()), TaskTracker::new());
        let holds = Arc::clone(&held);
        tasks.spawn_on(async move { pending::<Arc<()>>().await == holds }, crew.workers().first());
        drop(crew);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
