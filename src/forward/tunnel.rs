//! A tunnel: after both ends have switched protocols, bytes are copied as they come.
//! In: both upgrades, and what ends them. Out: nothing. Errors: none; a tunnel that breaks is over. I/O: both connections.
//! Source: RFC 9110 §7.8 (`Upgrade`), RFC 6455 §1.3 (the opening handshake), §5.5.1 and §7 (closing), §7.4 (why).
//!
//! What ends a tunnel from here is told to the client by a close frame of ours, which may stand between frames of the app and
//! nowhere else. Where the app's frame under way takes too long, the connection is closed without one.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::forward::frames::Frames;

/// Longest wait for both ends to be switched over: their heads have been written or read by then.
const SWITCH: Duration = Duration::from_secs(10);

/// Longest wait for the end of the app's frame under way, and for the client to take it.
const FRAME: Duration = Duration::from_millis(400);

/// Longest wait for the client to close in turn.
const LEAVE: Duration = Duration::from_millis(500);

/// Bytes held in each direction.
const BUFFER: usize = 8 * 1024;

/// Why a tunnel is ended from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// Its session is over.
    SessionOver,
    /// The gateway stops.
    GoingAway,
}

impl Parting {
    /// A whole close frame: code and reason (RFC 6455 §5.5.1; §7.4.2: codes from 4000 on are for such uses).
    const fn frame(self) -> &'static [u8] {
        match self {
            Self::SessionOver => b"\x88\x0f\x11\x31session ended",
            Self::GoingAway => b"\x88\x0c\x03\xe9going away",
        }
    }
}

/// Copies between a client and an app until one of them ends, nothing has moved for `idle`, one of them has taken nothing of what
/// it is sent for as long, or it is `over`.
pub async fn tunnel(
    client: OnUpgrade,
    app: OnUpgrade,
    idle: Duration,
    over: impl Future<Output = Parting> + Send,
) {
    let switched = tokio::time::timeout(SWITCH, async { tokio::try_join!(client, app) }).await;
    let (client, app) = match switched {
        Ok(Ok(both)) => both,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a connection could not be switched over");
            return;
        }
        Err(_elapsed) => {
            tracing::debug!("a connection was not switched over in time");
            return;
        }
    };
    let moved = Arc::new(AtomicU64::new(0));
    let (from_client, to_client) = tokio::io::split(TokioIo::new(client));
    let (from_app, to_app) = tokio::io::split(TokioIo::new(app));
    let mut down = Way::new(from_app, to_client, &moved, idle);
    let mut up = Way::new(from_client, to_app, &moved, idle);
    let mut over = pin!(over);
    let parting = {
        let mut copying = pin!(async { tokio::try_join!(down.run(), up.run()) });
        loop {
            let before = moved.load(Ordering::Relaxed);
            let copied = tokio::select! {
                parting = over.as_mut() => break parting,
                copied = tokio::time::timeout(idle, copying.as_mut()) => copied,
            };
            match copied {
                Ok(Ok(_)) => return,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a tunnel broke");
                    return;
                }
                Err(_elapsed) if moved.load(Ordering::Relaxed) > before => {}
                Err(_elapsed) => return,
            }
        }
    };
    part(down, up, parting).await;
}

/// Says goodbye to the client, and gives it a moment to do so in turn.
async fn part<A, C, D, E>(mut down: Way<A, C>, mut up: Way<D, E>, parting: Parting)
where
    A: AsyncRead + Unpin,
    C: AsyncWrite + Unpin,
    D: AsyncRead + Unpin,
    E: AsyncWrite + Unpin,
{
    let said = tokio::time::timeout(FRAME, down.close_with(parting.frame())).await;
    if !matches!(said, Ok(Ok(Said::Yes))) {
        return;
    }
    let Way { from: from_app, to: mut to_client, .. } = down;
    let answered = match parting {
        // Nothing more of the client reaches the app.
        Parting::SessionOver => {
            drop(from_app);
            let Way { from, to, frames, pending, .. } = up;
            drop(to);
            drained(from, frames, &pending).await
        }
        // The app hears of the close from the client itself.
        Parting::GoingAway => tokio::time::timeout(LEAVE, up.run_to_close()).await.is_ok(),
    };
    tracing::debug!(?parting, answered, "a tunnel was closed");
    // The client may be gone: then there is nothing to close.
    drop(tokio::time::timeout(LEAVE, to_client.shutdown()).await);
}

/// Reads on until the client has closed in turn, and drops what it says.
async fn drained(mut from: impl AsyncRead + Unpin, mut frames: Frames, pending: &Pending) -> bool {
    frames.pass(pending.bytes());
    let closing = async {
        let mut some = [0; 1024];
        while !frames.closed() {
            match from.read(&mut some).await {
                Ok(0) | Err(_) => return,
                Ok(count) => frames.pass(some.get(..count).unwrap_or_default()),
            }
        }
    };
    tokio::time::timeout(LEAVE, closing).await.is_ok()
}

/// Whether a close frame of ours was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Yes,
    /// The app has closed already, or is gone in the middle of a frame.
    No,
}

/// One direction. What was read and not yet written stays in it, so copying can be given up at any wait.
struct Way<R, W> {
    from: R,
    to: W,
    frames: Frames,
    pending: Pending,
    ended: bool,
    shut: bool,
    moved: Arc<AtomicU64>,
    idle: Duration,
}

/// Bytes that were read and not yet written.
struct Pending {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Pending {
    fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Way<R, W> {
    fn new(from: R, to: W, moved: &Arc<AtomicU64>, idle: Duration) -> Self {
        let pending = Pending { buffer: vec![0; BUFFER].into_boxed_slice(), start: 0, end: 0 };
        let (frames, moved) = (Frames::default(), Arc::clone(moved));
        Self { from, to, frames, pending, ended: false, shut: false, moved, idle }
    }

    /// Copies until the end, which is passed on.
    async fn run(&mut self) -> io::Result<()> {
        while !self.ended {
            self.step(usize::MAX).await?;
        }
        if !self.shut {
            in_time(self.idle, self.to.shutdown()).await?;
            self.shut = true;
        }
        Ok(())
    }

    /// Copies until a close frame has passed, or until the end.
    async fn run_to_close(&mut self) -> io::Result<()> {
        while !self.ended && !self.frames.closed() {
            self.step(usize::MAX).await?;
        }
        self.to.flush().await
    }

    /// Writes what is there, at most so many bytes, or reads more.
    async fn step(&mut self, most: usize) -> io::Result<()> {
        let bytes = self.pending.bytes();
        if bytes.is_empty() {
            // What is written may be held back further on until it is told to go.
            in_time(self.idle, self.to.flush()).await?;
            let count = self.from.read(&mut self.pending.buffer).await?;
            (self.pending.start, self.pending.end) = (0, count);
            self.ended = count == 0;
            self.note(count);
            return Ok(());
        }
        let count = in_time(self.idle, self.to.write(bytes.get(..most).unwrap_or(bytes))).await?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.frames.pass(bytes.get(..count).unwrap_or_default());
        self.pending.start += count;
        self.note(count);
        Ok(())
    }

    /// Lets the frame under way pass, and closes after it.
    async fn close_with(&mut self, close: &[u8]) -> io::Result<Said> {
        while !self.frames.between() && !self.ended {
            let most = self.frames.rest_of(self.pending.bytes());
            self.step(most).await?;
        }
        if self.frames.closed() || self.ended {
            return Ok(Said::No);
        }
        self.to.write_all(close).await?;
        self.to.flush().await?;
        Ok(Said::Yes)
    }

    fn note(&self, bytes: usize) {
        self.moved.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// What is there for an end has to be taken, whatever moves the other way: an end that sends a byte now and then and takes none
/// would hold the other one for ever.
async fn in_time<T>(idle: Duration, writing: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(idle, writing).await?
}

#[cfg(test)]
mod tests {
    use tokio::io::{duplex, split};

    use super::*;

    /// A way from an app to a client whose connection holds so many bytes.
    async fn closed_after(app_says: &[u8], holds: usize) -> (Option<Said>, Vec<u8>) {
        let (mut app, from) = duplex(1 << 20);
        let (to, mut client) = duplex(holds);
        let mut way = Way::new(from, to, &Arc::default(), Duration::from_secs(60));
        app.write_all(app_says).await.expect("written");
        // Some of it passes first, in the middle of a frame or not.
        drop(tokio::time::timeout(Duration::from_millis(20), way.run()).await);
        let reading = async {
            let mut got = Vec::new();
            client.read_to_end(&mut got).await.expect("read");
            got
        };
        let closing = async move {
            let frame = Parting::SessionOver.frame();
            tokio::time::timeout(Duration::from_millis(100), way.close_with(frame)).await
        };
        let (said, got) = tokio::join!(closing, reading);
        (said.ok().map(|said| said.expect("no fault")), got)
    }

    #[tokio::test]
    async fn our_close_frame_stands_after_whole_frames_however_little_the_client_takes() {
        let frames = [b"\x81\x05hello".to_vec(), [b"\x82\x7e\x0b\xb8".to_vec(), vec![0x88; 3000]].concat()];
        let all = frames.concat().repeat(5);
        for holds in [1, 2, 5, 9, 11, 100, 3004, 8192, 1 << 20] {
            let (said, got) = closed_after(&all, holds).await;
            assert_eq!(said, Some(Said::Yes), "{holds}");
            let apps = got.strip_suffix(Parting::SessionOver.frame()).expect("our frame at the end");
            assert!(all.starts_with(apps), "{holds}");
            let mut passed = Frames::default();
            passed.pass(apps);
            assert!(passed.between(), "{holds}: nothing of the app's frames is broken");
        }
    }

    #[tokio::test]
    async fn in_the_middle_of_a_frame_and_after_the_apps_own_close_nothing_is_written() {
        let part = [&b"\x82\x7e\xff\xff"[..], &[7; 500]].concat();
        assert_eq!(closed_after(&part, 1 << 20).await, (None, part));
        let close = b"\x88\x02\x03\xe8".to_vec();
        assert_eq!(closed_after(&close, 1 << 20).await, (Some(Said::No), close));
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_takes_nothing_ends_the_tunnel_whatever_it_sends_and_a_slow_one_does_not() {
        const IDLE: Duration = Duration::from_secs(60);
        for (takes, kind) in [(0, Some(io::ErrorKind::TimedOut)), (1, None)] {
            let (mut app, app_end) = duplex(1 << 20);
            let (client_end, mut client) = duplex(64);
            let ((from_app, to_app), (from_client, to_client)) = (split(app_end), split(client_end));
            let moved = Arc::default();
            let mut down = Way::new(from_app, to_client, &moved, IDLE);
            let mut up = Way::new(from_client, to_app, &moved, IDLE);
            app.write_all(&[7; 1000]).await.expect("written");
            let talking = async {
                for _ in 0..20 {
                    client.write_all(b"x").await.expect("written");
                    client.read_exact(&mut [0; 1][..takes]).await.expect("read");
                    tokio::time::sleep(IDLE / 4).await;
                }
            };
            let ended = tokio::select! {
                ended = async { tokio::try_join!(down.run(), up.run()) } => ended.err().map(|error| error.kind()),
                () = talking => None,
            };
            assert_eq!(ended, kind);
        }
    }

    #[test]
    fn our_close_frames_are_whole() {
        for (parting, code) in [(Parting::SessionOver, 4401_u16), (Parting::GoingAway, 1001)] {
            let frame = parting.frame();
            assert_eq!(usize::from(frame[1]) + 2, frame.len());
            assert_eq!(u16::from_be_bytes([frame[2], frame[3]]), code);
        }
    }
}
