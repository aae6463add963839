//! Connections that come to rest between their requests: nothing that is sent is lost, whenever it is sent, and the limits go on.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Response;
use http_body_util::BodyExt as _;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, DuplexStream};
use tokio::time::Instant;

use super::*;
use crate::body::{ReplyBody, Replying};
use crate::server::{Asking, ConnectionLimits, Drained, Http2Limits, Life};

/// Takes requests down.
#[derive(Clone, Debug, Default)]
struct Scribe(Arc<Mutex<Vec<(String, usize)>>>);

impl Handler for Scribe {
    async fn handle(&self, request: Asking, _came: &Came) -> Replying {
        let path = request.uri().path().to_owned();
        let size = request.into_body().collect().await.map_or(usize::MAX, |body| body.to_bytes().len());
        self.0.lock().expect("no panic").push((path, size));
        Box::new(Response::new(ReplyBody::from("x".repeat(size))))
    }
}

/// A connection that is served, with so much time for a head, and what it was asked.
fn connection(life: &Life, head: Duration) -> (DuplexStream, Scribe, Stages) {
    let scribe = Scribe::default();
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let limits = ConnectionLimits { head, ..ConnectionLimits::default() };
    let hall = Hall::new(scribe.clone(), limits, 1, Arc::default(), life.clone());
    let pacer = Pacer::new(limits.head, limits.idle);
    let stream = Rewound::new(Paced::new(ours, pacer.clone(), limits.write, None));
    let came = Came { peer: ([127, 0, 0, 1], 1).into(), by: By::Plain, certificate: None };
    let first = Talk { came, hall, pacer }.serve(Protocol::Http1, stream);
    (theirs, scribe, Stages::new(first, life.cut.clone()))
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
        .block_on(future)
}

fn post(n: usize, size: usize) -> Vec<u8> {
    let head = format!("POST /{n} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n");
    [head.as_bytes(), &vec![b'y'; size]].concat()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_however_long_the_pauses_are(
        sizes in prop::collection::vec(0_usize..300, 1..6),
        pieces in prop::collection::vec((1_usize..200, 0_u64..700), 1..8),
    ) {
        let bytes: Vec<u8> = sizes.iter().enumerate().flat_map(|(n, size)| post(n, *size)).collect();
        let (said, taken) = run(async {
            let (theirs, scribe, served) = connection(&Life::default(), Duration::from_secs(3600));
            let (mut answers, mut sending) = tokio::io::split(theirs);
            let sent = async {
                let mut rest = &bytes[..];
                for (size, pause) in pieces.iter().cycle() {
                    let (now, later) = rest.split_at(rest.len().min(*size));
                    if now.is_empty() {
                        break;
                    }
                    sending.write_all(now).await.expect("taken");
                    rest = later;
                    tokio::time::sleep(Duration::from_millis(*pause)).await;
                }
                // Longer than any nap: the end comes to a connection at rest.
                tokio::time::sleep(Duration::from_secs(2)).await;
                sending.shutdown().await.expect("shut");
            };
            let mut said = Vec::new();
            let (_served, (), _heard) = tokio::join!(served, sent, answers.read_to_end(&mut said));
            let taken = scribe.0.lock().expect("no panic").clone();
            (said, taken)
        });
        let expected: Vec<_> = sizes.iter().enumerate().map(|(n, size)| (format!("/{n}"), *size)).collect();
        prop_assert_eq!(taken, expected);
        let said = String::from_utf8(said).expect("text");
        prop_assert_eq!(said.matches("HTTP/1.1 200 OK\r\n").count(), sizes.len());
        prop_assert_eq!(said.matches('x').count(), sizes.iter().sum::<usize>());
    }
}

/// After how long a connection ends whose client sends this after its first answer, and then nothing.
#[allow(clippy::disallowed_methods, reason = "the paused time of the test's runtime")]
async fn ends_after(rest: &[u8]) -> Duration {
    let (mut theirs, scribe, served) = connection(&Life::default(), ConnectionLimits::default().head);
    let asked = async {
        theirs.write_all(&[&post(1, 0)[..], rest].concat()).await.expect("taken");
        let mut said = Vec::new();
        let since = Instant::now();
        theirs.read_to_end(&mut said).await.expect("an end");
        assert!(said.starts_with(b"HTTP/1.1 200 OK\r\n"));
        since.elapsed()
    };
    let ((), took) = tokio::join!(served, asked);
    assert_eq!(scribe.0.lock().expect("no panic").len(), 1);
    took
}

#[tokio::test(start_paused = true)]
async fn the_limits_hold_at_rest_and_for_a_head_that_came_too_early() {
    let limits = ConnectionLimits::default();
    let near = |took: Duration, limit: Duration| took >= limit && took < limit + Duration::from_secs(1);
    let idle = ends_after(b"").await;
    assert!(near(idle, limits.idle), "{idle:?}");
    let head = ends_after(b"GET /2 HTT").await;
    assert!(near(head, limits.head), "{head:?}");
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_what_is_at_rest() {
    let life = Life::default();
    let (mut theirs, _scribe, served) = connection(&life, ConnectionLimits::default().head);
    let asked = async {
        theirs.write_all(&post(1, 0)).await.expect("taken");
        tokio::time::sleep(Duration::from_secs(2)).await;
        life.finish.cancel();
        let mut said = Vec::new();
        theirs.read_to_end(&mut said).await.expect("an end");
        assert!(said.starts_with(b"HTTP/1.1 200 OK\r\n"));
    };
    let drained = async { tokio::join!(served, asked) };
    tokio::time::timeout(Duration::from_secs(5), drained).await.expect("before any limit");
}

#[test]
fn a_stage_takes_little_memory_where_connections_wait() {
    let size = |stage: &Stage| size_of_val(&*stage.0);
    let hall = Hall::new(Scribe::default(), ConnectionLimits::default(), 1, Arc::default(), Life::default());
    let pacer = Pacer::new(Duration::ZERO, Duration::ZERO);
    let came = Came { peer: ([127, 0, 0, 1], 1).into(), by: By::Plain, certificate: None };
    let (ours, _theirs) = tokio::io::duplex(64);
    let ours = Rewound::new(ours);
    let paced = Paced::new(ours, pacer.clone(), Duration::ZERO, hall.seats.take());
    let at_rest = Talk { came, hall, pacer }.rest(Rewound::new(paced));
    assert!(size(&at_rest) <= 1500, "{}", size(&at_rest));
    let begun = |speaker: Speaker<Scribe>, stream| speaker.plain(stream);
    fn made<A, B, F>(_by: &impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }
    assert!(made(&begun) <= 2000, "{}", made(&begun));
}

/// Answers nothing, or more than is taken.
#[derive(Clone, Debug)]
struct Unfinished;

impl Handler for Unfinished {
    async fn handle(&self, request: Asking, _came: &Came) -> Replying {
        if request.uri().path() == "/silent" {
            return std::future::pending().await;
        }
        Box::new(Response::new(ReplyBody::from("x".repeat(1024 * 1024))))
    }
}

#[tokio::test]
async fn streams_end_with_their_connection() {
    for cut in [true, false] {
        let life = Life::default();
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let limits = ConnectionLimits { http2: Some(Http2Limits::default()), ..ConnectionLimits::default() };
        let hall = Hall::new(Unfinished, limits, 1, Arc::default(), life.clone());
        let came = Came { peer: ([127, 0, 0, 1], 1).into(), by: By::Plain, certificate: None };
        let talk = Talk { came, hall, pacer: Pacer::new(limits.head, limits.idle) };
        let first = talk.serve(Protocol::Http2, Rewound::new(ours));
        life.tasks.spawn(Stages::new(first, life.cut.clone()));
        let (mut client, connection) = h2::client::handshake(theirs).await.expect("HTTP/2");
        let client_end = tokio_util::task::TaskTracker::new().spawn(connection);
        let mut answers = Vec::new();
        for path in ["/silent", "/large", "/silent"] {
            let request = Request::get(format!("https://a{path}")).body(()).expect("a request");
            answers.push(client.send_request(request, true).expect("sent").0);
        }
        let large = answers.swap_remove(1).await.expect("an answer");
        assert_eq!(life.tasks.len(), 4, "three streams and their connection");
        match cut {
            true => life.cut.cancel(),
            false => client_end.abort(),
        }
        life.tasks.close();
        tokio::time::timeout(Duration::from_secs(5), life.tasks.wait()).await.expect("all have ended");
        drop((client, answers, large));
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_even_where_a_task_does_not() {
    let life = Life::default();
    life.tasks.spawn(std::future::pending::<()>());
    let drained = tokio::time::timeout(Duration::from_secs(60), life.drain(Duration::from_secs(10))).await;
    assert_eq!(drained.expect("it ends"), Drained::Cut);
}
