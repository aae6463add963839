//! Log lines on their way out: gathered in memory, and written many at a time by a thread of their own, so that a slow disk or
//! terminal stops no request.
//! In: lines. Out: the same lines, in order and whole. Errors: none; lines over the cap are dropped and counted. I/O: the output.

use std::io::{self, Write};
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::Level;

/// Most bytes that wait to be written; further lines are dropped.
const WAITING: usize = 8 * 1024 * 1024;
/// With so many bytes waiting they are written at once.
const ENOUGH: usize = 256 * 1024;
/// Longest time for which a line waits for company.
const COMPANY: Duration = Duration::from_millis(100);
/// Longest wait for the last lines at the end: the output may be stuck.
const LAST: Duration = Duration::from_secs(1);

/// Where the lines of the access log go at once in the form in which they are written; unset: they are events like others.
static ACCESS: OnceLock<Lines> = OnceLock::new();

/// Takes lines. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lines(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    dropped: AtomicU64,
    /// Whether lines of the access log are wanted.
    access: AtomicBool,
    /// Tells the writer that there is something to do.
    work: Condvar,
    /// Tells whoever ends the log that the writer has ended.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    text: Vec<u8>,
    haste: Option<Haste>,
    life: Life,
}

/// How far the writer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Life {
    #[default]
    Writing,
    /// It is to write what is left and end.
    Ending,
    Ended,
}

/// Whether a line may wait for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Haste {
    /// It may, for a tenth of a second.
    None,
    /// It is written at once, and those before it: somebody should look.
    Now,
}

/// Writes the last lines when it is dropped.
#[derive(Debug)]
pub struct LastLines(Lines);

impl Lines {
    /// Lines that are written to `out`.
    ///
    /// # Errors
    /// Those of starting a thread.
    pub fn to(out: impl Write + Send + 'static) -> io::Result<(Self, LastLines)> {
        let shared = Shared {
            waiting: Mutex::default(),
            dropped: AtomicU64::new(0),
            access: AtomicBool::new(true),
            work: Condvar::new(),
            ended: Condvar::new(),
        };
        let lines = Self(Arc::new(shared));
        let writer = lines.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || writer.write_all(out))?;
        Ok((lines.clone(), LastLines(lines)))
    }

    /// Adds a whole line, its end included.
    pub fn add(&self, line: &[u8], haste: Haste) {
        let mut waiting = self.waiting();
        if waiting.text.len() + line.len() > WAITING {
            drop(waiting);
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let before = waiting.text.len();
        waiting.text.extend_from_slice(line);
        let full = before < ENOUGH && waiting.text.len() >= ENOUGH;
        if haste == Haste::Now || full {
            waiting.haste = Some(Haste::Now);
        }
        // The writer sleeps while nothing waits, and wakes by itself a moment after something does.
        let wake = before == 0 || waiting.haste == Some(Haste::Now);
        drop(waiting);
        if wake {
            self.0.work.notify_one();
        }
    }

    /// How many lines were dropped since this was asked last.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        match self.0.dropped.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.0.dropped.swap(0, Ordering::Relaxed),
        }
    }

    /// From now on the access log goes here. Only the first call counts.
    pub fn take_access_log(&self) {
        drop(ACCESS.set(self.clone()));
    }

    /// Where the access log goes; `None`: it is made of events.
    #[must_use]
    pub fn of_access_log() -> Option<&'static Self> {
        ACCESS.get()
    }

    /// Whether anybody reads those lines.
    #[must_use]
    pub fn wants_access_log(&self) -> bool {
        self.0.access.load(Ordering::Relaxed)
    }

    /// Asks that anew: what is told has changed.
    pub fn ask_who_reads(&self) {
        self.0.access.store(tracing::enabled!(target: "access", Level::INFO), Ordering::Relaxed);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes until the end is told. What cannot be written is lost: there is nobody to tell.
    fn write_all(&self, mut out: impl Write) {
        let mut batch = Vec::new();
        loop {
            let life = self.next(&mut batch);
            drop(out.write_all(&batch));
            drop(out.flush());
            batch.clear();
            batch.shrink_to(2 * ENOUGH);
            if life == Life::Ending {
                self.waiting().life = Life::Ended;
                self.0.ended.notify_all();
                return;
            }
        }
    }

    /// Waits for lines, and for a little company for them.
    fn next(&self, batch: &mut Vec<u8>) -> Life {
        let idle = |waiting: &mut Waiting| waiting.text.is_empty() && waiting.life == Life::Writing;
        let waiting = self.0.work.wait_while(self.waiting(), idle).unwrap_or_else(PoisonError::into_inner);
        let alone = |waiting: &mut Waiting| waiting.haste.is_none() && waiting.life == Life::Writing;
        let (mut waiting, _timed) =
            self.0.work.wait_timeout_while(waiting, COMPANY, alone).unwrap_or_else(PoisonError::into_inner);
        waiting.haste = None;
        mem::swap(batch, &mut waiting.text);
        waiting.life
    }
}

impl Drop for LastLines {
    fn drop(&mut self) {
        let Self(lines) = self;
        let mut waiting = lines.waiting();
        waiting.life = Life::Ending;
        lines.0.work.notify_one();
        let writing = |waiting: &mut Waiting| waiting.life != Life::Ended;
        drop(lines.0.ended.wait_timeout_while(waiting, LAST, writing));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// An output that takes each batch when the test lets it.
    struct Gate {
        open: Receiver<()>,
        out: SyncSender<Vec<u8>>,
    }

    impl Write for Gate {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.open.recv().map_err(io::Error::other)?;
            self.out.send(buf.to_vec()).map_err(io::Error::other)?;
            Ok(buf.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gate() -> (Gate, SyncSender<()>, Receiver<Vec<u8>>) {
        let (open, opened) = sync_channel(1000);
        let (out, came) = sync_channel(1000);
        (Gate { open: opened, out }, open, came)
    }

    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn lines_come_whole_and_in_order_and_the_last_ones_too() {
        let (gate, open, came) = gate();
        let (lines, last) = Lines::to(gate).expect("a thread");
        for _ in 0..1000 {
            open.send(()).expect("open");
        }
        let tellers: Vec<_> = (0..4)
            .map(|teller| {
                let lines = lines.clone();
                thread::spawn(move || {
                    for n in 0..500 {
                        lines.add(format!("{teller} {n}\n").as_bytes(), Haste::None);
                    }
                })
            })
            .collect();
        for teller in tellers {
            teller.join().expect("it ends");
        }
        drop(last);
        let text = String::from_utf8(came.try_iter().flatten().collect()).expect("text");
        let mut next = [0; 4];
        for line in text.lines() {
            let (teller, n) = line.split_once(' ').expect("a whole line");
            let (teller, n): (usize, u32) = (teller.parse().expect("whole"), n.parse().expect("whole"));
            assert_eq!(n, next[teller], "in order");
            next[teller] += 1;
        }
        assert_eq!((next, lines.dropped()), ([500; 4], 0));
    }

    #[test]
    fn a_stuck_output_stops_nobody_and_what_is_lost_is_counted() {
        let (gate, open, came) = gate();
        let (lines, last) = Lines::to(gate).expect("a thread");
        let line = [b'x'; 1024];
        // The first batch is stuck in the output; behind it as many wait as may.
        lines.add(&line, Haste::Now);
        while !lines.waiting().text.is_empty() {
            thread::yield_now();
        }
        for _ in 0..WAITING / line.len() + 7 {
            lines.add(&line, Haste::None);
        }
        assert_eq!((lines.dropped(), lines.dropped()), (7, 0), "each is told once");
        open.send(()).expect("open");
        open.send(()).expect("open");
        drop(last);
        let got: usize = came.iter().map(|batch| batch.len()).sum();
        assert_eq!(got, line.len() + WAITING);
    }

    #[test]
    fn an_end_does_not_wait_for_a_stuck_output() {
        let (gate, open, came) = gate();
        let (lines, last) = Lines::to(gate).expect("a thread");
        lines.add(b"never\n", Haste::Now);
        drop(last);
        assert!(came.try_recv().is_err());
        drop(open);
    }

    #[test]
    fn a_line_that_is_urgent_does_not_wait_for_company() {
        let (gate, open, came) = gate();
        let (lines, last) = Lines::to(gate).expect("a thread");
        open.send(()).expect("open");
        lines.add(b"a\n", Haste::None);
        lines.add(b"b\n", Haste::Now);
        let got = came.recv_timeout(PATIENCE).expect("a batch");
        assert!(got.starts_with(b"a\n"), "in order, together or apart");
        open.send(()).expect("open");
        drop(last);
    }
}
