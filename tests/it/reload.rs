//! Other settings while the gateway runs: they come into force whole or not at all, and no session notices.

use std::path::Path;
use std::time::Duration;

use doorkeep::assemble::{ReloadError, Reloaded};
use doorkeep::config::Settings;

use crate::bound::{OVER, rest};
use crate::support::house::{ACCESS_SECRET, OWN_SECRET};
use crate::support::{
    Ask, Conn, Fault, Gate, House, Plan, Program, Signer, Step, Upstream, answer, key_set, ok, until, within,
};
use crate::websocket::{Echo, switching};

const MEMBERS: &str = "[[site.rule]]\npath = \"/public/members/*\"\naccess = \"required\"";
const EXTRA: &str = "\"X-Auth-Extra\" = \"userId\"";

/// Nothing but the rules differs.
fn other() -> Plan<'static> {
    Plan { rules: MEMBERS, identity_headers: EXTRA, ..Plan::default() }
}

fn why(house: &House, text: &str) -> ReloadError {
    house.door().change(Settings::parse(text).unwrap()).expect_err("it is refused")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_made_before_is_repeated_after_it() {
    let house = House::usual().await;
    let old = house.expired().await;
    // Its answer never comes to this browser.
    house.ask(&Ask::page("/page").jar(&old)).await.expect(200);
    house.change(other());
    let mut jar = old.clone();
    jar.take(&house.ask(&Ask::page("/page").jar(&old)).await.expect(200));
    assert_ne!(jar.session(), old.session());
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(house.backend.renewals().len(), 1, "nothing was presented again");
    assert_eq!(house.backend.reuses(), 0);
    assert_eq!(house.door().meters.replays.get(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flight_under_way_delivers_to_those_before_and_after() {
    let house = House::usual().await;
    let old = house.expired().await;
    let gate = Gate::closed();
    house.backend.fails_next(Fault::Slow(gate.clone()));
    let mut before = house.conn().await;
    before.send(&Ask::page("/page").jar(&old).bytes()).await;
    gate.reached_by(1).await;
    house.change(other());
    house.change(Plan { renew: "timeout = \"9s\"\nreplay = \"90s\"", ..other() });
    let mut after = house.conn().await;
    after.send(&Ask::page("/page").jar(&old).bytes()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(house.backend.renewals().len(), 1, "it waits for the flight that is under way");
    gate.open();
    let mut jars = [old.clone(), old.clone()];
    for (conn, jar) in [&mut before, &mut after].into_iter().zip(&mut jars) {
        jar.take(&conn.answer("GET").await.expect(200));
    }
    assert_ne!(jars[0].session(), old.session());
    assert_eq!(jars[0].session(), jars[1].session());
    assert_eq!((house.backend.renewals().len(), house.backend.reuses()), (1, 0));
    // Each was answered by the settings that it began with.
    let with_extra = |seen: &crate::support::Seen| seen.line("x-auth-extra").is_some();
    let seen = house.upstream.seen();
    assert_eq!(seen.iter().filter(|seen| with_extra(seen)).count(), 1, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_was_signed_out_stays_signed_out() {
    let house = House::usual().await;
    let jar = house.signed_in().await;
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    house.ask(&Ask::script("/.doorkeep/sign-out").method("POST").jar(&jar)).await.expect(204);
    house.change(other());
    let reached = house.upstream.count();
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(302);
    house.later(4000);
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(302);
    assert_eq!(house.upstream.count(), reached);
    assert!(house.backend.renewals().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_connection_sees_the_new_rules_with_its_next_request() {
    let house = House::usual().await;
    let gate = Gate::closed();
    house.upstream.on("/public/slow", vec![Step::Wait(gate.clone()), Step::Send(ok("slow but whole"))]);
    let mut busy = house.conn().await;
    busy.send(&Ask::page("/public/slow").bytes()).await;
    gate.reached_by(1).await;
    let mut kept = house.conn().await;
    kept.ask(&Ask::page("/public/members/x")).await.expect(200);
    house.change(other());
    kept.ask(&Ask::page("/public/members/x")).await.expect(302);
    kept.ask(&Ask::page("/public/x")).await.expect(200);
    gate.open();
    let answer = busy.answer("GET").await.expect(200);
    assert!(answer.whole && answer.text() == "slow but whole");
    busy.ask(&Ask::page("/public/members/x")).await.expect(302);
    house.change(Plan::default());
    busy.ask(&Ask::page("/public/members/x")).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels_stay_and_still_end_with_their_session() {
    let echo = Echo::start(switching()).await;
    let url = echo.url();
    let plan = Plan { upstream: Some(&url), ..Plan::default() };
    let house = House::start(plan).await;
    let jar = house.signed_in().await;
    let mut conn = house.conn().await;
    conn.send(&Ask::websocket("/socket").jar(&jar).bytes()).await;
    conn.answer("GET").await.expect(101);
    for lines in ["replay = \"61s\"", "replay = \"62s\""] {
        house.change(Plan { renew: lines, ..plan });
        conn.send(b"\x81\x05hello").await;
        let mut back = Vec::new();
        let echoed = conn.reader.exactly(&mut conn.stream, 7, |piece| back.extend_from_slice(piece));
        assert!(within("an echo", echoed).await && back == b"\x81\x05hello");
    }
    assert_eq!(house.door().meters.bound.get(), 1);
    house.ask(&Ask::script("/.doorkeep/sign-out").method("POST").jar(&jar)).await.expect(204);
    assert_eq!(rest(&mut conn).await, OVER);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_cannot_be_used_changes_nothing() {
    let house = House::usual().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let jar = house.expired().await;
    let good = house.toml(Plan { rules: MEMBERS, ..Plan::default() });
    for bad in [
        "nonsense".to_owned(),
        good.replace("access = \"required\"", "access = \"maybe\""),
        good.replace(&format!("key = \"{ACCESS_SECRET}\""), "key = \"file:/no/such/file\""),
        good.replace("http = \"127.0.0.1:0\"", "http = \"127.0.0.1:1\""),
        format!("state_dir = \"{}/below/a/file\"\n{good}", file.path().display()),
    ] {
        std::fs::write(file.path(), bad).unwrap();
        assert_eq!(house.door().reload(file.path()), Reloaded::Kept);
    }
    assert_eq!(house.door().reload(Path::new("/no/such/file")), Reloaded::Kept);
    house.ask(&Ask::page("/public/members/x")).await.expect(200);
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    let metrics = house.door().meters.text();
    assert!(metrics.contains("doorkeep_reloads_total{outcome=\"kept\"} 6"), "{metrics}");
    let since = |secs: u64| format!("doorkeep_settings_from_seconds {}", 1_800_000_000 + secs);
    assert!(metrics.contains(&since(0)), "{metrics}");

    std::fs::write(file.path(), good).unwrap();
    assert_eq!(house.door().reload(file.path()), Reloaded::New);
    house.ask(&Ask::page("/public/members/x")).await.expect(302);
    let metrics = house.door().meters.text();
    assert!(metrics.contains("doorkeep_reloads_total{outcome=\"new\"} 1"), "{metrics}");
    assert!(metrics.contains(&since(610)), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_change_is_named_with_its_line() {
    let house = House::start(Plan { rules: "[log]\nformat = \"json\"", ..Plan::default() }).await;
    let text = house.toml(Plan { rules: "[log]\nformat = \"json\"", ..Plan::default() });
    let line = |text: &str, begin: &str| text.lines().position(|line| line.starts_with(begin)).unwrap() + 1;
    for (from, to, key, begin) in [
        ("http = \"127.0.0.1:0\"", "http = \"127.0.0.2:0\"", "listen.http", "http ="),
        (
            "http = \"127.0.0.1:0\"",
            "http = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"",
            "listen.admin",
            "admin =",
        ),
        (OWN_SECRET, "another-secret-of-these-tests-0123456789abcdef", "secret", "secret ="),
        ("[log]", "[share]\nurl = \"redis://127.0.0.1:1\"\n[log]", "share", "[share]"),
        ("subject = \"userId\"", "subject = \"email\"", "identity.subject", "subject ="),
        ("format = \"json\"", "format = \"text\"", "log.format", "format ="),
    ] {
        let text = text.replace(from, to);
        let ReloadError::Fixed(problems) = why(&house, &text) else { panic!("{key}") };
        let [problem] = problems.as_slice() else { panic!("{problems:?}") };
        assert_eq!((problem.path.as_str(), problem.line), (key, line(&text, begin)), "{problem}");
        assert!(problem.what.contains("restart to change it"), "{problem}");
        assert!(!format!("{problem:?}").contains("another-secret"));
    }
    let both = text.replace("127.0.0.1:0", "127.0.0.2:0").replace("format = \"json\"", "format = \"text\"");
    let ReloadError::Fixed(problems) = why(&house, &both) else { panic!("both") };
    assert_eq!(problems.len(), 2, "all at once: {problems:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_secret_in_front_seals_from_now_on_and_the_old_one_still_opens() {
    let house = House::usual().await;
    let old = house.expired().await;
    let mut jar = old.clone();
    jar.take(&house.ask(&Ask::page("/page").jar(&old)).await.expect(200));
    let fresh = "a-new-secret-of-these-tests-0123456789abcdef";
    let rotated = house
        .toml(other())
        .replace(&format!("secret = \"{OWN_SECRET}\""), &format!("secret = [\"{fresh}\", \"{OWN_SECRET}\"]"));
    house.door().change(Settings::parse(&rotated).unwrap()).unwrap();
    house.later(610);
    let mut next = jar.clone();
    next.take(&house.ask(&Ask::page("/page").jar(&jar)).await.expect(200));
    assert_ne!(next.get("doorkeep_state"), jar.get("doorkeep_state"));
    assert_ne!(next.session(), jar.session());
    house.ask(&Ask::page("/page").jar(&old)).await.expect(200);
    assert_eq!(
        (house.backend.renewals().len(), house.backend.reuses()),
        (2, 0),
        "the old pair leads to the newest"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_secrets_and_keys_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("access.key");
    std::fs::write(&key, ACCESS_SECRET).unwrap();
    let place = format!("file:{}", key.display());
    let plan = Plan { key: Some(&place), ..Plan::default() };
    let house = House::start(plan).await;
    let settings = folder.path().join("doorkeep.toml");
    std::fs::write(&settings, house.toml(plan)).unwrap();
    let jar = house.signed_in().await;
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    std::fs::write(&key, "another-key-of-access-tokens-0123456789abcdef").unwrap();
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(house.door().reload(&settings), Reloaded::New);
    let bare = jar.clone().without("refresh_token").without("session_id");
    house.ask(&Ask::page("/page").jar(&bare)).await.expect(302);
    std::fs::write(&key, "").unwrap();
    assert_eq!(house.door().reload(&settings), Reloaded::Kept);
    std::fs::write(&key, ACCESS_SECRET).unwrap();
    assert_eq!(house.door().reload(&settings), Reloaded::New);
    house.ask(&Ask::page("/page").jar(&bare)).await.expect(200);

    let signers = [Signer::new("1"), Signer::new("2")];
    let set = folder.path().join("jwks.json");
    let publish = |signer: &Signer| std::fs::write(&set, key_set(&[signer])).unwrap();
    publish(&signers[0]);
    let usual = format!("algorithms = [\"HS256\"]\nkey = \"{place}\"");
    let text = house.toml(plan);
    assert!(text.contains(&usual));
    let lines = format!("algorithms = [\"ES256\"]\njwks_file = \"{}\"", set.display());
    std::fs::write(&settings, text.replace(&usual, &lines)).unwrap();
    for signer in &signers {
        house.backend.signs_with(signer);
        publish(signer);
        assert_eq!(house.door().reload(&settings), Reloaded::New);
        let jar = house.signed_in().await;
        house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_were_fetched_are_kept_while_their_issuer_is_away() {
    let house = House::usual().await;
    let server = Upstream::start(&house.tasks).await;
    let signer = Signer::new("1");
    let publish = answer("200 OK", &[("Content-Type", "application/jwk-set+json")], &key_set(&[&signer]));
    server.answers("/jwks", publish);
    house.backend.signs_with(&signer);
    let usual = format!("algorithms = [\"HS256\"]\nkey = \"{ACCESS_SECRET}\"");
    let lines = format!("algorithms = [\"ES256\"]\njwks = \"http://{}/jwks\"", server.addr);
    let settings = |plan| Settings::parse(&house.toml(plan).replace(&usual, &lines)).unwrap();
    house.door().change(settings(Plan::default())).unwrap();
    let jar = house.signed_in().await;
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    server.answers("/jwks", answer("503 Service Unavailable", &[], "later"));
    let fetched = server.count();
    house.door().change(settings(other())).unwrap();
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    until("the keys to be asked for again", || server.count() > fetched).await;
    house.ask(&Ask::page("/page").jar(&house.backend.sign_in("ravi").await)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_connections_count_for_those_that_come_and_those_that_are_there() {
    let house = House::usual().await;
    let mut kept = [house.conn().await, house.conn().await];
    for conn in &mut kept {
        conn.ask(&Ask::page("/public/x")).await.expect(200);
    }
    house.change(Plan { listen: "connections = 2", ..Plan::default() });
    house.conn().await.closed().await;
    for conn in &mut kept {
        conn.ask(&Ask::page("/public/x")).await.expect(200);
    }
    let [one, _two] = kept;
    drop(one);
    within("a free place", async {
        loop {
            let mut conn = house.conn().await;
            conn.send(&Ask::page("/public/x").bytes()).await;
            if conn.reader.head(&mut conn.stream).await.is_some() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_new_state_dir_holds_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let top = format!("state_dir = \"{}\"", folder.path().display());
    let mut house = House::usual().await;
    let jar = house.signed_in().await;
    house.change(Plan { top: &top, ..Plan::default() });
    house.ask(&Ask::form("/.doorkeep/sign-out", "").jar(&jar)).await.expect(303);
    let door = house.door.take().unwrap();
    within("the drain", door.drain()).await.unwrap();
    let next = house.another(Plan::default()).await;
    house.addr = next.http;
    house.door = Some(next);
    house.change(Plan { top: &top, ..Plan::default() });
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(302);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "it is taken over once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_reads_its_settings_again_when_told_to_and_when_they_change() {
    let house = House::usual().await;
    let log = "[log]\nformat = \"json\"\n";
    let folder = tempfile::tempdir().unwrap();
    let notify = folder.path().join("notify");
    let socket = tokio::net::UnixDatagram::bind(&notify).unwrap();
    let plan = |rules| Plan { top: "watch = true", rules, ..Plan::default() };
    let variables = [("NOTIFY_SOCKET", notify.to_str().unwrap())];
    let program = Program::run_with(&house.toml(plan(log)), &variables).await;
    let ask = || async { Conn::open(program.addr).await.ask(&Ask::page("/public/members/x")).await.status };
    let word = || async {
        let mut bytes = [0; 256];
        let n = within("word from the program", socket.recv(&mut bytes)).await.unwrap();
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    };
    assert!(word().await.starts_with("READY=1"));
    assert_eq!(ask().await, 200);

    std::fs::write(program.settings(), house.toml(plan("nonsense = 1\n[log]\nformat = \"text\""))).unwrap();
    program.hang_up();
    let begun = word().await;
    assert!(begun.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{begun}");
    assert!(word().await.starts_with("READY=1"));
    assert_eq!(ask().await, 200);
    until("the problem to be told", || program.said().contains("those before stay in force")).await;
    let said = program.said();
    assert!(
        said.contains("nonsense") && !said.contains(OWN_SECRET) && !said.contains(ACCESS_SECRET),
        "{said}"
    );

    // Without a word: the file alone.
    let quiet = format!("{MEMBERS}\n{log}level = \"info,access=off\"\n");
    let told = || program.said().matches("\"target\":\"access\"").count();
    until("the log to tell of both requests", || told() == 2).await;
    std::fs::write(program.settings(), house.toml(plan(&quiet))).unwrap();
    assert!(word().await.starts_with("RELOADING=1"));
    assert!(word().await.starts_with("READY=1"));
    assert_eq!(ask().await, 302);
    std::fs::write(program.settings(), house.toml(plan(log))).unwrap();
    assert!(word().await.starts_with("RELOADING=1") && word().await.starts_with("READY=1"));
    assert_eq!(ask().await, 200);
    until("the log to tell of requests again", || told() > 2).await;
    assert_eq!(told(), 3, "the one between left no line: {}", program.said());
}
