//! Operators' drills: a session is renewed before its time, and nobody else learns or loses anything.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;

use crate::support::program::command;
use crate::support::{Answer, Ask, Conn, House, Plan};

async fn house() -> (House, SocketAddr) {
    let house = House::start(Plan { listen: "admin = \"127.0.0.1:0\"", ..Plan::default() }).await;
    let admin = house.door().admin.unwrap();
    (house, admin)
}

async fn expire(admin: SocketAddr, text: &str) -> Answer {
    let ask = Ask::new("POST", "/sessions/expire").body(text.as_bytes());
    Conn::open(admin).await.ask(&ask).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_declared_over_is_renewed_by_the_next_request() {
    let (house, admin) = house().await;
    let (mut jar, other) = (house.signed_in().await, house.backend.sign_in("ravi").await);
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    expire(admin, &format!("Cookie: {}", jar.line().unwrap())).await.expect(200);
    let old = jar.clone();
    jar.take(&house.ask(&Ask::page("/page").jar(&jar)).await.expect(200));
    assert_ne!(jar.session(), old.session(), "it was renewed");
    assert_eq!(house.backend.renewals().len(), 1);
    // A tab that was late gets the new pair; the new pair itself and other people are as before.
    let late = house.ask(&Ask::script("/data").jar(&old)).await.expect(200);
    assert_eq!(late.cookie("refresh_token"), jar.get("refresh_token"));
    assert!(house.ask(&Ask::page("/page").jar(&jar)).await.expect(200).set_cookies().is_empty());
    assert!(house.ask(&Ask::page("/page").jar(&other)).await.expect(200).set_cookies().is_empty());
    assert_eq!(house.backend.renewals().len(), 1);
    assert_eq!(house.backend.reuses(), 0);
    // The token alone does as well.
    expire(admin, jar.get("access_token").unwrap()).await.expect(200);
    assert_ne!(house.ask(&Ask::page("/page").jar(&jar)).await.expect(200).cookie("access_token"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_live_token_changes_nothing() {
    let (house, admin) = house().await;
    let jar = house.signed_in().await;
    for text in ["", "x", "access_token=x", "\u{e9}", "a=b; c=d"] {
        expire(admin, text).await.expect(422);
    }
    expire(admin, &"x".repeat(40_000)).await.expect(400);
    let line = jar.line().unwrap();
    let page =
        Ask::new("POST", "/sessions/expire").line("Origin", "https://evil.example").body(line.as_bytes());
    Conn::open(admin).await.ask(&page).await.expect(403);
    Conn::open(admin).await.ask(&Ask::new("GET", "/sessions/expire")).await.expect(404);
    Conn::open(house.addr)
        .await
        .ask(&Ask::new("POST", "/sessions/expire").body(line.as_bytes()))
        .await
        .expect(401);
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert!(house.backend.renewals().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_asks_the_admin_listener_and_says_what_came_of_it() {
    let (house, admin) = house().await;
    let jar = house.signed_in().await;
    let run = |text: String| {
        let mut command = command(&["expire", "--admin", &admin.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let done = run(jar.line().unwrap());
    assert!(done.status.success(), "{done:?}");
    assert_eq!(run("nothing".to_owned()).status.code(), Some(1));
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(house.backend.renewals().len(), 1);
}
