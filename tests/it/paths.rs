//! One reading of a request: what two readers could take for two things is refused, and no spelling opens a protected path.

use crate::support::{Ask, HOST, House, Plan};

/// Sends these bytes and expects the answer and then the end of the connection.
async fn refused(house: &House, bytes: &[u8], statuses: &[u16]) {
    let mut conn = house.conn().await;
    conn.send(bytes).await;
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
    let answer = conn.try_answer("GET").await.unwrap_or_else(|| panic!("an answer to {shown}"));
    assert!(statuses.contains(&answer.status), "{shown}\n{}", String::from_utf8_lossy(&answer.head.raw));
    assert_eq!(answer.line("connection"), Some("close"), "{shown}");
    conn.closed().await;
    assert_eq!(house.upstream.count(), 0, "{shown}");
}

fn get(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\nAccept: text/html\r\n\r\n").into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ambiguous_paths_are_refused_where_rules_differ() {
    let house = House::usual().await;
    for target in [
        "/public/../admin/x",
        "/public/..",
        "/public/./x",
        "/public/%2e%2e/admin/x",
        "/public/.%2E/admin/x",
        "/public/%2e%2e%2fadmin",
        "/public%2fx",
        "/public/..;/admin/x",
        "/public/;/x",
        "/public;x=1/y",
        "/public//x",
        "//public/x",
        "/public/%5c..%5cadmin",
        "/public/%00",
        "/public/%0d%0a",
        "/public/x%23y",
        "/public/x%3fy",
        "/public/%252e%252e/admin",
        "/public/%2",
        "/public/%zz",
        "/public/%c0%ae%c0%ae/admin",
        "/public/%ff",
        "/public/%u002e%u002e/admin",
        "/public/%20/x",
    ] {
        refused(&house, &get(target), &[400]).await;
    }
    refused(&house, &get("/public/\\..\\admin"), &[400]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_spelling_opens_a_protected_path_to_nobody() {
    let house = House::usual().await;
    for target in [
        "/PUBLIC/x",
        "/Public/x",
        "/%70ublic/x",
        "/public",
        "/publicx",
        "/public./x",
        "/public%20/x",
        "/xpublic/x",
        "/admin/x?/public/x",
        "/admin/x?path=/../public/",
        "/%61dmin/x",
        "/ADMIN/x",
        "/admin./x",
        "/x/../public/y",
        "/.doorkeep/../public/x",
    ] {
        let answer = house.ask(&Ask::page(target)).await;
        let shut = match target {
            "/public" => answer.status == 200,
            _ => matches!(answer.status, 302 | 400 | 404),
        };
        assert!(shut, "{target}: {}", answer.status);
    }
    assert_eq!(
        house.upstream.seen().iter().map(|seen| seen.target.as_str()).collect::<Vec<_>>(),
        ["/public"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bytes_that_were_judged_are_the_bytes_that_are_sent() {
    let house = House::usual().await;
    for target in [
        "/public/a%20b/%C3%BC?x=%zz&y=+;z#",
        "/public/x.y~z!$&'()*,=:@",
        "/public/",
        "/public/%41?",
        "/public/x?%2e%2e/",
    ] {
        let target = target.trim_end_matches('#');
        house.ask(&Ask::page(target)).await.expect(200);
        assert_eq!(house.upstream.last().target, target);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_settings_allow_it_ambiguous_paths_need_everything_at_once() {
    let house = House::start(Plan { site: r#"ambiguous_paths = "protect""#, ..Plan::default() }).await;
    let target = "/public//x/..%2f;y";
    house.ask(&Ask::page(target)).await.expect(302);
    let clerk = house.backend.sign_in("ravi").await;
    house.ask(&Ask::page(target).jar(&clerk)).await.expect(403);
    assert_eq!(house.upstream.count(), 0);
    let admin = house.signed_in().await;
    house.ask(&Ask::page(target).jar(&admin)).await.expect(200);
    assert_eq!(house.upstream.last().target, target);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_host_is_told_so() {
    let house = House::usual().await;
    for host in ["other.example", "127.0.0.1", "test.example", "app.test.example.evil.example"] {
        let bytes = format!("GET /public/x HTTP/1.1\r\nHost: {host}\r\n\r\n");
        refused(&house, bytes.as_bytes(), &[421]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_is_named_once_and_well() {
    let house = House::usual().await;
    for head in [
        "GET /public/x HTTP/1.1\r\nHost: app.test.example\r\nHost: app.test.example\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost: app.test.example\r\nHost: evil.example\r\n\r\n",
        "GET /public/x HTTP/1.1\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost:\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost: app.test.example@evil.example\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost: app.test.example/x\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost: app.test.example:x\r\n\r\n",
        "GET /public/x HTTP/1.1\r\nHost: app.test.example, evil.example\r\n\r\n",
        "GET http://evil.example/public/x HTTP/1.1\r\nHost: app.test.example\r\n\r\n",
        "GET http://app.test.example/public/x HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        "GET http://app.test.example/public/x HTTP/1.1\r\n\r\n",
        "GET ftp://app.test.example/public/x HTTP/1.1\r\nHost: app.test.example\r\n\r\n",
        "CONNECT app.test.example:443 HTTP/1.1\r\nHost: app.test.example\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: app.test.example\r\n\r\n",
        "GET public/x HTTP/1.1\r\nHost: app.test.example\r\n\r\n",
    ] {
        refused(&house, head.as_bytes(), &[400]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absolute_target_is_sent_on_as_a_path() {
    let house = House::usual().await;
    for target in ["http://app.test.example/public/x?y", "https://APP.test.example:443/public/x?y"] {
        let host = target.split('/').nth(2).unwrap();
        house.ask(&Ask::page(target).with("Host", Some(host))).await.expect(200);
        let seen = house.upstream.last();
        assert_eq!(seen.target, "/public/x?y");
        assert_eq!(seen.line("host"), Some(HOST));
    }
    // Nobody wrote a path, and a fragment is none.
    let jar = house.signed_in().await;
    house.ask(&Ask::page(&format!("http://{HOST}#/public/x")).jar(&jar)).await.expect(200);
    let seen = house.upstream.last();
    assert_eq!((seen.target.as_str(), seen.line("host")), ("/", Some(HOST)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn framing_that_two_readers_could_read_differently_is_refused() {
    let house = House::usual().await;
    let smuggled = "GET /admin/x HTTP/1.1\r\nHost: app.test.example\r\n\r\n";
    for lines in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked;q=1\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding:\u{b}chunked\r\n",
        "Content-Length : 5\r\n",
        "Content Length: 5\r\n",
        "X: 1\r\n Content-Length: 5\r\n",
        "X: a\u{0}b\r\n",
        "X: a\rContent-Length: 5\r\n",
        ": nothing\r\n",
    ] {
        let bytes = format!("POST /public/x HTTP/1.1\r\nHost: {HOST}\r\n{lines}\r\n0\r\n\r\n{smuggled}");
        refused(&house, bytes.as_bytes(), &[400]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_framings_the_chunks_count_and_the_connection_ends() {
    let house = House::usual().await;
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    ] {
        let mut conn = house.conn().await;
        let head = format!("POST /public/x HTTP/1.1\r\nHost: {HOST}\r\n{lines}\r\n");
        conn.send(format!("{head}0\r\n\r\nGET /public/smuggled HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes())
            .await;
        let answer = conn.answer("POST").await;
        assert!(matches!(answer.status, 200 | 400), "{}", answer.status);
        assert_eq!(answer.line("connection"), Some("close"));
        conn.closed().await;
    }
    for seen in house.upstream.seen() {
        assert_eq!(seen.target, "/public/x");
        assert_eq!(seen.line("content-length"), None, "one framing goes on");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_that_are_none_end_the_request() {
    let house = House::usual().await;
    let smuggled = "GET /public/smuggled HTTP/1.1\r\nHost: app.test.example\r\n\r\n";
    for body in [
        "x\r\n",
        "5;\n\r\nabcde\r\n0\r\n\r\n",
        "-1\r\nab",
        "fffffffffffffffff\r\nab",
        "3\r\nabcde\r\n0\r\n\r\n",
    ] {
        let mut conn = house.conn().await;
        let head = format!("POST /public/x HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n");
        conn.send(format!("{head}{body}{smuggled}").as_bytes()).await;
        if let Some(answer) = conn.try_answer("POST").await {
            assert!(answer.status >= 400, "{body:?}: {}", answer.status);
        }
    }
    let seen = house.upstream.seen();
    assert!(seen.iter().all(|seen| seen.target == "/public/x"), "{seen:?}");
    assert!(seen.iter().all(|seen| seen.state != crate::support::State::Whole), "{seen:?}");
}
