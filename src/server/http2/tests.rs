//! Streams that are given up by their own answer, and answers that go out together.

use std::io::{self, IoSlice};

use tokio::io::{DuplexStream, ReadBuf};
use tokio::sync::Semaphore;

use super::*;
use crate::server::By;

/// Counts the pieces that are written.
struct Counted(DuplexStream, Arc<AtomicUsize>);

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write(cx, &bufs.iter().map(|buf| &**buf).collect::<Vec<_>>().concat())
    }
}

/// Answers once it may.
#[derive(Clone)]
struct Released(Arc<Semaphore>, Arc<AtomicUsize>);

impl Handler for Released {
    async fn handle(&self, _request: Asking, _came: &Came) -> Replying {
        self.1.fetch_add(1, Ordering::Relaxed);
        drop(self.0.acquire().await);
        Box::new(Response::new(ReplyBody::from("x".repeat(1024))))
    }
}

#[tokio::test]
async fn answers_that_are_ready_at_the_same_time_go_out_in_one_piece() {
    const STREAMS: usize = 10;
    let (written, came_in) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let gate = Arc::new(Semaphore::new(0));
    let (ours, theirs) = tokio::io::duplex(1024 * 1024);
    let http2 = Http2 {
        came: Came { peer: ([127, 0, 0, 1], 1).into(), by: By::Plain, certificate: None },
        handler: Released(Arc::clone(&gate), Arc::clone(&came_in)),
        limits: ConnectionLimits::default(),
        http2: Http2Limits::default(),
        life: Life::default(),
    };
    let tasks = TaskTracker::new();
    tasks.spawn(http2.serve(Counted(ours, Arc::clone(&written))));
    let (mut client, connection) = h2::client::handshake(theirs).await.expect("HTTP/2");
    tasks.spawn(connection);
    let ask = |client: &mut h2::client::SendRequest<Bytes>| {
        let request = Request::get("https://a/").body(()).expect("a request");
        client.send_request(request, true).expect("sent").0
    };
    let answers: Vec<_> = (0..STREAMS).map(|_| ask(&mut client)).collect();
    while came_in.load(Ordering::Relaxed) < STREAMS {
        tokio::task::yield_now().await;
    }
    let count = Arc::clone(&written);
    let released = tasks.spawn(async move {
        gate.add_permits(STREAMS);
        count.load(Ordering::Relaxed)
    });
    let before = released.await.expect("released");
    for answer in answers {
        let mut body = answer.await.expect("an answer").into_body();
        let mut bytes = 0;
        while let Some(piece) = body.data().await {
            bytes += piece.expect("whole").len();
        }
        assert_eq!(bytes, 1024);
    }
    let pieces = written.load(Ordering::Relaxed) - before;
    assert!(pieces <= 3, "{STREAMS} answers in {pieces} pieces");
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_given_up_by_its_own_answer_whatever_begins_beside_it() {
    let life = Life::default();
    let streams = Streams::new(&life, Duration::from_secs(1));
    let untaken = async {
        let progress = Progress::of_this_stream();
        progress.waits.store(true, Ordering::Release);
        std::future::pending::<()>().await;
    };
    streams.execute(std::future::pending());
    streams.execute(untaken);
    streams.execute(std::future::pending());
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(life.tasks.len(), 3);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(life.tasks.len(), 2, "the one that waits for its client");
}
