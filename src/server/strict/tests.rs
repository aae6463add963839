//! The strict reader before the HTTP library itself: whatever comes, the two agree about where each message begins and ends.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const NAP: Duration = Duration::from_millis(250);

/// Answers of a kind that the library does not make.
fn wording() -> Wording {
    Box::new(|status| format!("HTTP/1.1 {status}\r\nconnection: close\r\nx-ours: 1\r\n\r\n").into())
}

/// What the library took for a request: its path and its body, where that came whole.
type Taken = (String, Option<Vec<u8>>);

/// Serves a stream of these bytes, sent in pieces of such sizes, as the gateway does.
async fn served(bytes: &[u8], pieces: &[usize]) -> (Vec<Taken>, Vec<u8>, Option<Fault>) {
    let taken: Arc<Mutex<Vec<Taken>>> = Arc::default();
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let pacer = Pacer::new(Duration::from_secs(5), Duration::from_secs(5));
    let (strict, left) = Strict::new(ours, pacer.clone(), NAP, wording());
    let told = Arc::clone(&taken);
    let service = service_fn(move |request: Request<Incoming>| {
        let (told, busy) = (Arc::clone(&told), pacer.request());
        async move {
            let _busy = busy;
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect().await.ok().map(|body| body.to_bytes().to_vec());
            told.lock().expect("no panic").push((path, body));
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }
    });
    let serving = http1::Builder::new().half_close(true).serve_connection(TokioIo::new(strict), service);
    let (mut answers, mut sending) = tokio::io::split(theirs);
    let sent = async {
        let mut rest = bytes;
        for size in pieces.iter().cycle() {
            let (now, later) = rest.split_at(rest.len().min((*size).max(1)));
            if now.is_empty() || sending.write_all(now).await.is_err() {
                break;
            }
            rest = later;
            tokio::task::yield_now().await;
        }
        let _gone = sending.shutdown().await;
    };
    let mut said = Vec::new();
    let heard = answers.read_to_end(&mut said);
    let (_ended, (), _heard) = tokio::join!(
        async {
            let _ended = serving.await;
        },
        sent,
        heard
    );
    let taken = taken.lock().expect("no panic").clone();
    (taken, said, left.fault())
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
        .block_on(future)
}

/// A message that is in order, and what it is.
#[derive(Clone, Debug)]
struct Message {
    bytes: Vec<u8>,
    taken: Taken,
}

fn message() -> impl Strategy<Value = Message> {
    let body = prop::collection::vec(any::<u8>(), 0..200);
    let chunks = prop::collection::vec(prop::collection::vec(any::<u8>(), 1..60), 0..4);
    let fields = prop::sample::subsequence(
        vec![
            "X-Long: ".to_owned() + &"y".repeat(90),
            "Content_Length: 7".into(),
            "X-Empty:".into(),
            "A:b".into(),
        ],
        0..4,
    );
    let head = |n: u16, fields: &[String]| {
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        format!("POST /{n} HTTP/1.1\r\nHost: a\r\n{fields}")
    };
    prop_oneof![
        (any::<u16>(), fields.clone(), body, any::<bool>()).prop_map(move |(n, fields, body, blank)| {
            let blank = if blank { "\r\n" } else { "" };
            let head = format!("{blank}{}content-length:\t{} \r\n\r\n", head(n, &fields), body.len());
            Message { bytes: [head.as_bytes(), &body].concat(), taken: (format!("/{n}"), Some(body)) }
        }),
        (any::<u16>(), fields, chunks).prop_map(move |(n, fields, chunks)| {
            let mut bytes = format!("{}Transfer-Encoding: Chunked\r\n\r\n", head(n, &fields)).into_bytes();
            for chunk in &chunks {
                bytes.extend(format!("{:X} ;x=\"{n}\"\r\n", chunk.len()).bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\nX-Sum: 1\r\n\r\n");
            Message { bytes, taken: (format!("/{n}"), Some(chunks.concat())) }
        }),
    ]
}

/// Pieces that hostile streams are made of.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    const TOLD: &[&str] = &[
        "\r\n",
        "\n",
        "\r",
        "\r\n\r\n",
        "0\r\n\r\n",
        "3\r\nabc\r\n",
        "5;\r\n",
        ";",
        ":",
        " ",
        "\t",
        "\0",
        "GET /a HTTP/1.1\r\n",
        "POST /b HTTP/1.1\r\nHost: a\r\n",
        "GET /c HTTP/1.0\r\n",
        "HEAD /d HTTP/1.1\r\n",
        "CONNECT a:1 HTTP/1.1\r\n",
        "Host: a\r\n",
        "Content-Length: 3\r\n",
        "content-length: 0\r\n",
        "Content-Length : 3\r\n",
        "Content-Length: 3",
        "Content-Length: 30\r\n\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\n\r\n",
        "Transfer-Encoding:chunked",
        "Transfer-Encoding: x, chunked\r\n",
        "Connection: keep-alive\r\n",
        "Connection: close\r\n",
        "Upgrade: x\r\n",
        "Expect: 100-continue\r\n",
        "X: y\r\n",
        "abc",
        "0",
        "f",
        "\u{e9}",
    ];
    prop_oneof![
        12 => prop::sample::select(TOLD).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ]
}

/// The bodies that the framing by itself finds in a stream, up to where it refuses to go on.
fn framed(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut framing, mut bodies, mut body, mut within) = (Framing::new(), Vec::new(), Vec::new(), false);
    for byte in bytes {
        let content = framing.is_content();
        if framing.scan(&[*byte]).is_err() {
            break;
        }
        if content {
            body.push(*byte);
        }
        let ended = within && !framing.in_message();
        within = framing.in_message();
        if ended {
            bodies.push(std::mem::take(&mut body));
        }
    }
    bodies
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn messages_in_order_pass_as_they_are(
        messages in prop::collection::vec(message(), 1..5),
        pieces in prop::collection::vec(1_usize..300, 1..6),
    ) {
        let bytes: Vec<u8> = messages.iter().flat_map(|message| message.bytes.clone()).collect();
        let (taken, said, fault) = run(served(&bytes, &pieces));
        let expected: Vec<Taken> = messages.into_iter().map(|message| message.taken).collect();
        prop_assert_eq!(fault, None);
        prop_assert_eq!(&taken, &expected);
        prop_assert_eq!(String::from_utf8_lossy(&said).matches("HTTP/1.1 200").count(), expected.len());
    }

    #[test]
    fn nothing_is_a_request_that_the_framing_did_not_find(
        pieces in prop::collection::vec(piece(), 0..40),
        sizes in prop::collection::vec(1_usize..80, 1..4),
    ) {
        let bytes = pieces.concat();
        let (taken, _, _) = run(served(&bytes, &sizes));
        let whole: Vec<Vec<u8>> = taken.into_iter().filter_map(|(_, body)| body).collect();
        let found = framed(&bytes);
        prop_assert!(found.starts_with(&whole), "{:?} not of {:?}: {:?}", whole, found, String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn one_byte_changed_hides_no_request(
        messages in prop::collection::vec(message(), 1..4),
        at in any::<prop::sample::Index>(),
        byte in prop_oneof![Just(b'\n'), Just(b'\r'), Just(b' '), Just(b'0'), any::<u8>()],
    ) {
        let mut bytes: Vec<u8> = messages.iter().flat_map(|message| message.bytes.clone()).collect();
        let place = at.index(bytes.len());
        bytes[place] = byte;
        let (taken, _, _) = run(served(&bytes, &[4096]));
        let whole: Vec<Vec<u8>> = taken.into_iter().filter_map(|(_, body)| body).collect();
        prop_assert!(framed(&bytes).starts_with(&whole), "{:?}", String::from_utf8_lossy(&bytes));
    }
}

#[tokio::test]
async fn what_is_refused_gets_its_400_after_the_answers_before() {
    let good = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
    let bad = "POST /b HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /c HTTP/1.1\r\n\r\n";
    let (taken, said, fault) = served(format!("{good}{bad}").as_bytes(), &[4096]).await;
    let said = String::from_utf8_lossy(&said).into_owned();
    assert_eq!((taken.len(), fault), (1, Some(Fault::Both)));
    assert!(
        said.starts_with("HTTP/1.1 200 OK\r\n") && said.contains("\r\n\r\nHTTP/1.1 400 Bad Request\r\n"),
        "{said}"
    );
    assert!(said.to_ascii_lowercase().contains("connection: close\r\n"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_anything_under_way_comes_to_rest_whole() {
    let serve = |sent: &'static [u8], then: Duration| async move {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let (strict, left) = Strict::new(ours, Pacer::new(NAP * 100, NAP * 100), NAP, wording());
        let pacer = strict.pacer.clone();
        let service = service_fn(move |_request: Request<Incoming>| {
            let busy = pacer.request();
            async move {
                drop(busy);
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }
        });
        let serving = http1::Builder::new().serve_connection(TokioIo::new(strict), service);
        theirs.write_all(sent).await.expect("taken");
        let _ended = tokio::time::timeout(then, serving).await;
        let mut rest = left.at_rest()?;
        theirs.write_all(b"more").await.expect("taken");
        let mut more = [0; 4];
        rest.read_exact(&mut more).await.expect("it is the same stream");
        Some(more)
    };
    let whole = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(serve(whole, NAP / 2).await, None, "too early");
    assert_eq!(serve(whole, NAP * 3).await, Some(*b"more"));
    assert_eq!(serve(b"", NAP * 3).await, Some(*b"more"));
    for begun in [&b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nG"[..], b"GET /a HTTP/1.1\r\nHost: a\r\n", b"G\n"] {
        assert_eq!(serve(begun, NAP * 3).await, None, "a request has begun");
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_answered_in_our_words() {
    let good = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(70_000));
    for (bad, status) in [
        ("GET /a HTTP/1.1\r\nContent-Length: x\r\n\r\n", "400"),
        ("GET /a HTTP/1.1\r\nA B: c\r\n\r\n", "400"),
        ("G\0T /a HTTP/1.1\r\n\r\n", "400"),
        ("GET /a HTTP/9.1\r\n\r\n", "400"),
        (&long, "414"),
    ] {
        for (before, answers) in [("", 0), (good, 1)] {
            // Answers before are out when what cannot be read comes.
            let (taken, said, _) = served_apart(before.as_bytes(), bad.as_bytes()).await;
            let said = String::from_utf8_lossy(&said).into_owned();
            assert_eq!(taken, answers, "{bad:?}");
            assert_eq!(said.matches("HTTP/1.1 200 OK\r\n").count(), answers, "{said}");
            let last = format!("HTTP/1.1 {status} ");
            assert!(said.contains(&last) && said.ends_with("\r\nx-ours: 1\r\n\r\n"), "{bad:?}: {said}");
            assert_eq!(said.matches("HTTP/1.1 ").count(), answers + 1, "{said}");
        }
    }
}

/// Serves what comes at first, and then the rest; how many requests it was.
async fn served_apart(first: &[u8], then: &[u8]) -> (usize, Vec<u8>, Option<Fault>) {
    let (ours, mut theirs) = tokio::io::duplex(256 * 1024);
    let (strict, left) = Strict::new(ours, Pacer::new(NAP * 100, NAP * 100), NAP * 50, wording());
    let (pacer, count) = (strict.pacer.clone(), strict.pacer.clone());
    let service = service_fn(move |_request: Request<Incoming>| {
        let busy = pacer.request();
        async move {
            drop(busy);
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }
    });
    let serving = http1::Builder::new().serve_connection(TokioIo::new(strict), service);
    let asked = async {
        let mut said = Vec::new();
        if !first.is_empty() {
            theirs.write_all(first).await.expect("taken");
            while !said.ends_with(b"\r\n\r\n") {
                theirs.read_buf(&mut said).await.expect("an answer");
            }
        }
        theirs.write_all(then).await.expect("taken");
        theirs.read_to_end(&mut said).await.expect("an end");
        said
    };
    let (_ended, said) = tokio::join!(serving, asked);
    (usize::try_from(count.requests()).expect("few"), said, left.fault())
}
