//! The bytes of a connection: whatever passes the strict reader, HTTP library and a plain reader find the same messages in it.
//! Input: what a client sends. The first byte says how large the pieces are in which it comes.
#![no_main]

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use doorkeep::server::framing::Framing;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Request line and body.
type Message = (String, Vec<u8>);

/// The whole messages at the start of what passed, told apart in the plainest way.
fn plainly(mut rest: &[u8]) -> Vec<Message> {
    let mut found = Vec::new();
    loop {
        rest = rest.strip_prefix(b"\r\n").unwrap_or(rest);
        let Some(end) = rest.windows(4).position(|four| four == b"\r\n\r\n") else { return found };
        let head = String::from_utf8_lossy(&rest[..end]).into_owned();
        rest = &rest[end + 4..];
        let mut lines = head.split("\r\n");
        let asked = lines.next().unwrap_or_default().to_owned();
        let fields: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| {
                (name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_ascii_lowercase())
            })
            .collect();
        let values = |wanted: &str| -> Vec<&str> {
            fields.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.as_str()).collect()
        };
        let body = match (values("content-length").as_slice(), values("transfer-encoding").as_slice()) {
            ([], []) => Vec::new(),
            ([length], []) => {
                assert!(
                    !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()),
                    "{length:?} passed"
                );
                let Some((body, after)) = length.parse().ok().and_then(|n: usize| rest.split_at_checked(n))
                else {
                    return found;
                };
                rest = after;
                body.to_vec()
            }
            ([], ["chunked"]) => match chunks(rest) {
                Some((body, after)) => {
                    rest = after;
                    body
                }
                None => return found,
            },
            other => panic!("{other:?} passed"),
        };
        found.push((asked, body));
    }
}

/// The chunks at the start, where they come whole with their trailers.
fn chunks(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let line = |rest: &[u8]| rest.windows(2).position(|two| two == b"\r\n");
    let mut body = Vec::new();
    loop {
        let end = line(rest)?;
        let text: String = rest[..end].iter().map(|byte| char::from(*byte)).collect();
        let digits = text.split(';').next()?.trim_end_matches([' ', '\t']);
        let size =
            usize::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("{digits:?} passed as a size"));
        assert!(!digits.starts_with('+'));
        rest = &rest[end + 2..];
        if size == 0 {
            break;
        }
        let (data, after) = rest.split_at_checked(size)?;
        if after.len() < 2 {
            return None;
        }
        assert!(after.starts_with(b"\r\n"), "data ends where its size says");
        body.extend_from_slice(data);
        rest = &after[2..];
    }
    loop {
        let end = line(rest)?;
        rest = &rest[end + 2..];
        if end == 0 {
            return Some((body, rest));
        }
    }
}

/// What the HTTP library takes for whole messages in these bytes.
async fn served(bytes: Vec<u8>) -> Vec<Message> {
    let taken: Rc<RefCell<Vec<Message>>> = Rc::default();
    let (ours, theirs) = tokio::io::duplex(1024 * 1024);
    let told = Rc::clone(&taken);
    let service = service_fn(move |request: Request<Incoming>| {
        let told = Rc::clone(&told);
        async move {
            let asked = format!("{} {}", request.method(), request.uri());
            if let Ok(body) = request.into_body().collect().await {
                told.borrow_mut().push((asked, body.to_bytes().to_vec()));
            }
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }
    });
    let serving = http1::Builder::new().half_close(true).serve_connection(TokioIo::new(ours), service);
    let (mut answers, mut sending) = tokio::io::split(theirs);
    let sent = async {
        let _gone = sending.write_all(&bytes).await;
        let _gone = sending.shutdown().await;
    };
    let mut said = Vec::new();
    let (_served, (), _heard) = tokio::join!(serving, sent, answers.read_to_end(&mut said));
    drop(said);
    taken.take()
}

fuzz_target!(|data: &[u8]| {
    let Some((first, bytes)) = data.split_first() else { return };
    let mut framing = Framing::new();
    let whole = framing.scan(bytes).map_err(|refused| (refused.good, refused.fault));
    // In whatever pieces it comes, the same comes of it; and at the same byte, but in a line that has no end.
    let mut again = Framing::new();
    let mut before = 0;
    let mut pieces = Ok(());
    for piece in bytes.chunks(usize::from(*first).max(1)) {
        if let Err(refused) = again.scan(piece) {
            pieces = Err((before + refused.good, refused.fault));
            break;
        }
        before += piece.len();
    }
    match (pieces, whole) {
        (Err((one, fault)), Err((other, same))) => {
            assert_eq!(fault, same);
            let between = &bytes[one.min(other)..one.max(other)];
            assert!(!between.contains(&b'\n'), "refused at {one} and at {other}");
        }
        (pieces, whole) => assert_eq!(pieces, whole),
    }
    let good = whole.map_or_else(|(good, _)| good, |()| bytes.len());
    let passed = &bytes[..good];
    let found = plainly(passed);
    // The library is given what passed, and behind it what it takes nowhere.
    let poison: &[u8] = if whole.is_ok() {
        b""
    } else if framing.in_head() {
        b"\0\r\n\r\n"
    } else {
        b"\r\0"
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let taken = runtime.expect("a runtime").block_on(served([passed, poison].concat()));
    assert!(taken.len() <= found.len(), "{taken:?} of {found:?}");
    for ((asked, body), (line, own)) in taken.iter().zip(&found) {
        let line = line.trim_start_matches("\r\n");
        let (method, _) = asked.split_once(' ').expect("two words");
        assert!(line.starts_with(method), "{line:?} is {asked:?}");
        assert_eq!(body, own, "{line:?}");
    }
});
