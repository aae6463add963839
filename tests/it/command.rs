//! The command line: what it says about settings, and what it never says.

use std::process::Output;

use doorkeep::config::Settings;

use crate::support::Plan;
use crate::support::house::{ACCESS_SECRET, OWN_SECRET, toml};
use crate::support::issuer::directory_lines;
use crate::support::program::output;
use crate::support::{Program, within};

fn usual() -> String {
    toml(Plan::default(), &directory_lines("127.0.0.1:1".parse().unwrap()), "127.0.0.1:2".parse().unwrap())
}

fn check(text: &str) -> (i32, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let got = output(&["check", "--config", file.path().to_str().unwrap()]);
    (got.status.code().unwrap(), both(&got))
}

fn both(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The line of a file, counted from 1, that begins so.
fn line_of(text: &str, begin: &str) -> usize {
    text.lines().position(|line| line.starts_with(begin)).expect(begin) + 1
}

#[test]
fn usable_settings_are_told_to_be() {
    let (code, said) = check(&usual());
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("app.test.example"), "{said}");
    assert!(!said.contains(OWN_SECRET) && !said.contains(ACCESS_SECRET), "{said}");
}

#[test]
fn every_problem_is_told_at_once_with_its_place() {
    let text = usual()
        .replace("http = \"127.0.0.1:0\"", "http = \"somewhere\"\nhtpp = 1")
        .replace("algorithms = [\"HS256\"]", "algorithms = [\"none\"]")
        .replace("url = \"https://id.test.example/login\"", "url = \"/login\"")
        .replace("origin = \"https://app.test.example\"", "origin = \"https://app.test.example/\"")
        .replace("access = \"optional\"", "access = \"maybe\"")
        .replace("path = \"/admin/*\"", "path = \"/admin/../*\"")
        .replace("[session.renew]", "[session.renew]\ntimeout = \"5 parsecs\"\nahead = \"80%\"")
        + "\n[sesion]\nx = 1\n";
    let (code, said) = check(&text);
    assert_eq!(code, 78, "{said}");
    for (begin, path) in [
        ("http =", "listen.http"),
        ("htpp =", "listen.htpp"),
        ("algorithms =", "session.token.algorithms"),
        ("url = \"/login\"", "login.url"),
        ("origin =", "site[1].origin"),
        ("access = \"maybe\"", "site[1].rule[2].access"),
        ("path = \"/admin/../*\"", "site[1].rule[3].path"),
        ("timeout =", "session.renew.timeout"),
        ("ahead =", "session.renew.ahead"),
        ("[sesion]", "sesion"),
    ] {
        let place = format!("line {}: {path}", line_of(&text, begin));
        assert!(said.contains(&place), "{place}\n{said}");
    }
    assert!(said.contains("did you mean http?"), "{said}");
    assert!(!said.contains(OWN_SECRET) && !said.contains(ACCESS_SECRET), "{said}");
}

#[test]
fn secrets_are_never_shown_whatever_is_wrong_with_them() {
    let short = "s3cret-too-short";
    for text in [
        usual().replace(OWN_SECRET, short),
        usual().replace(
            &format!("secret = \"{OWN_SECRET}\""),
            &format!("secret = [\"{OWN_SECRET}\", \"{short}\"]"),
        ),
        usual().replace(&format!("secret = \"{OWN_SECRET}\""), &format!("secert = \"{OWN_SECRET}\"")),
        usual().replace("algorithms = [\"HS256\"]", "algorithms = []"),
        usual().replace(&format!("key = \"{ACCESS_SECRET}\""), &format!("key = [[\"{ACCESS_SECRET}\"]]")),
        usual().replace("algorithms = [\"HS256\"]", "algorithms = [\"RS256\"]"),
        usual().replace(&format!("key = \"{ACCESS_SECRET}\""), "key = \"env:NO_SUCH_VARIABLE\""),
        usual().replace(&format!("key = \"{ACCESS_SECRET}\""), "key = \"file:/no/such/file\""),
    ] {
        let (code, said) = check(&text);
        assert_eq!(code, 78, "{said}");
        for secret in [short, OWN_SECRET, ACCESS_SECRET] {
            assert!(!said.contains(secret), "{said}");
        }
    }
    let settings = Settings::parse(&usual()).unwrap();
    let shown = format!("{settings:?} {settings:#?}");
    for secret in [OWN_SECRET, ACCESS_SECRET] {
        assert!(!shown.contains(secret));
        assert!(!shown.contains(&format!("{:?}", secret.as_bytes())), "not as bytes either");
    }
}

#[test]
fn a_syntax_error_is_told_with_its_line_and_without_the_line_itself() {
    let text = usual().replace(&format!("key = \"{ACCESS_SECRET}\""), &format!("key = \"{ACCESS_SECRET}"));
    let (code, said) = check(&text);
    assert_eq!(code, 78, "{said}");
    assert!(said.contains(&format!("line {}", line_of(&text, "key ="))), "{said}");
    assert!(!said.contains(ACCESS_SECRET), "{said}");
}

#[test]
fn settings_that_cannot_be_read_or_used_do_not_start_anything() {
    for word in ["check", "run"] {
        let got = output(&[word, "--config", "/no/such/file.toml"]);
        assert_eq!(got.status.code(), Some(78), "{}", both(&got));
        assert!(both(&got).contains("/no/such/file.toml"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "nonsense").unwrap();
        let got = output(&[word, "--config", file.path().to_str().unwrap()]);
        assert_eq!(got.status.code(), Some(78), "{}", both(&got));
    }
}

#[test]
fn an_address_that_is_taken_is_a_fault() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), usual().replace("127.0.0.1:0", &addr)).unwrap();
    let got = output(&["run", "--config", file.path().to_str().unwrap()]);
    assert_eq!(got.status.code(), Some(1), "{}", both(&got));
    assert!(both(&got).contains(&addr), "{}", both(&got));
}

#[test]
fn a_command_line_that_makes_no_sense_is_told_so() {
    for words in
        [&[][..], &["chek"], &["check"], &["check", "--config"], &["run", "--confg", "x"], &["check", "x"]]
    {
        let got = output(words);
        assert_eq!(got.status.code(), Some(64), "{words:?}: {}", both(&got));
        assert!(!got.stderr.is_empty());
    }
    for words in [&["--help"][..], &["check", "--help"], &["--version"]] {
        let got = output(words);
        assert_eq!(got.status.code(), Some(0), "{words:?}");
        assert!(!got.stdout.is_empty());
    }
}

#[tokio::test]
async fn a_service_manager_is_told_of_readiness_life_and_stop() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
    let settings = format!("{}[log]\nformat = \"json\"\n", usual());
    let variables = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "200000")];
    let mut program = Program::run_with(&settings, &variables).await;
    let mut told = Vec::new();
    let mut bytes = [0; 256];
    while told.iter().filter(|line: &&String| line.starts_with("WATCHDOG=1")).count() < 3 {
        let n = within("word from the program", socket.recv(&mut bytes)).await.unwrap();
        told.push(String::from_utf8_lossy(&bytes[..n]).into_owned());
    }
    assert!(told[0].starts_with("READY=1"), "{told:?}");
    program.terminate();
    while !told.last().unwrap().starts_with("STOPPING=1") {
        let n = within("word of the stop", socket.recv(&mut bytes)).await.unwrap();
        told.push(String::from_utf8_lossy(&bytes[..n]).into_owned());
    }
    assert!(program.ended().await.success());
}

#[tokio::test]
async fn a_health_check_tells_whether_a_gateway_is_ready() {
    let (socket, nobody) = crate::support::closed_port();
    let code = |addr: std::net::SocketAddr| {
        let got = output(&["health", "--admin", &addr.to_string()]);
        (got.status.code().unwrap(), both(&got))
    };
    assert_eq!(code(nobody).0, 1);
    drop(socket);
    let listen = "[listen]\nadmin = \"127.0.0.1:0\"\n";
    let settings =
        usual().replace("[listen]\n", listen) + "[drain]\ndelay = \"60s\"\n[log]\nformat = \"json\"\n";
    let program = Program::run(&settings).await;
    let admin = program.admin.expect("it listens for operators");
    assert_eq!(code(admin), (0, "ready\n".to_owned()));
    program.terminate();
    crate::support::until("it to be no longer ready", || code(admin).0 == 1).await;
    assert!(code(admin).1.contains("not ready"), "{}", code(admin).1);
}
