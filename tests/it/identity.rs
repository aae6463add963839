//! What the app is told of a caller comes from the gateway alone, and nothing that only the gateway should have gets there.

use serde_json::json;

use crate::support::{Ask, House, Jar, Plan, Seen, token};

const SPOOF: &str = "spoofed-7f3a";

/// Names that the app or something before it could take for what the gateway says.
const SPOOFED: &[&str] = &[
    "X-Auth-User",
    "x_auth_user",
    "X.Auth.User",
    "X~Auth!User",
    "X-AUTH_user",
    "X-Auth-Role",
    "x_auth_role",
    "X-Auth-Nothing",
    "x_auth_nothing",
    "X-Access-Token",
    "x_access_token",
    "Authorization",
    "X-Role-Key",
    "x_session_id",
    "X-Tenant-Code",
    "X-Organization-Code",
    "X-Context-Id",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X_Forwarded_Host",
    "X-Forwarded-User",
    "Forwarded",
    "X-Real-IP",
    "x_real_ip",
    "X-Original-URL",
    "X-Rewrite-Url",
    "Remote-User",
    "REMOTE_USER",
    "Proxy-Authorization",
    "Proxy",
    "X-Request-Id",
];

fn spoofed(mut ask: Ask) -> Ask {
    for name in SPOOFED {
        ask = ask.line(name, SPOOF).line(name, SPOOF);
    }
    ask
}

fn nothing_of_it_arrived(seen: &Seen, user: Option<&str>) {
    let head = String::from_utf8_lossy(&seen.head.raw);
    assert!(!head.contains(SPOOF), "{head}");
    let names = seen.head.folded_names();
    for name in SPOOFED {
        let folded = name.to_ascii_lowercase().replace(['-', '.', '~', '!'], "_");
        assert!(names.iter().filter(|n| **n == folded).count() <= 1, "{name} twice:\n{head}");
    }
    assert_eq!(seen.line("x-auth-user"), user, "{head}");
    assert!(!names.iter().any(|name| name == "x_auth_nothing"), "its claim is missing: deleted");
}

fn user_id(jar: &Jar) -> String {
    token::claims(jar.get("access_token").unwrap())["userId"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_spelling_of_an_identity_header_reaches_the_app_on_any_route() {
    let rules = "[[site.rule]]\npath = \"/cors/*\"\npreflight = \"upstream\"";
    let house = House::start(Plan { rules, ..Plan::default() }).await;
    let jar = house.signed_in().await;
    let user = user_id(&jar);
    let preflight = || {
        Ask::new("OPTIONS", "/cors/x")
            .line("Origin", "https://elsewhere.example")
            .line("Access-Control-Request-Method", "PUT")
    };
    for (ask, known) in [
        (Ask::page("/public/x"), None),
        (Ask::page("/public/x").jar(&jar), None),
        (Ask::script("/public/x").method("POST").body(b"x"), None),
        (Ask::page("/optional/x"), None),
        (Ask::page("/optional/x").jar(&jar), Some(user.as_str())),
        (Ask::page("/page").jar(&jar), Some(user.as_str())),
        (Ask::script("/data").method("PUT").body(b"x").jar(&jar), Some(user.as_str())),
        (Ask::page("/admin/x").jar(&jar), Some(user.as_str())),
        (preflight(), None),
        (preflight().jar(&jar), None),
    ] {
        house.ask(&spoofed(ask)).await.expect(200);
        nothing_of_it_arrived(&house.upstream.last(), known);
    }
    assert_eq!(house.upstream.last().method, "OPTIONS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_cannot_take_an_identity_header_away() {
    let house = House::usual().await;
    let jar = house.signed_in().await;
    let ask = Ask::page("/page")
        .line("Connection", "X-Auth-User, x_auth_role, X-Forwarded-For, Host, Cookie, My-Hop")
        .line("Connection", "keep-alive, X-Auth-Role")
        .line("My-Hop", "1")
        .line("My-Field", "2")
        .line("Cookie", &format!("{}; theirs=1", jar.line().unwrap()));
    house.ask(&ask).await.expect(200);
    let seen = house.upstream.last();
    assert_eq!(seen.line("x-auth-user"), Some(user_id(&jar).as_str()));
    assert_eq!(seen.line("x-auth-role"), Some("admin"));
    assert_eq!(seen.line("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.line("cookie"), Some("theirs=1"));
    assert_eq!(seen.line("my-hop"), None, "what it may name goes");
    assert_eq!(seen.line("my-field"), Some("2"));
    assert!(!seen.head.all("connection").iter().any(|line| line.contains("auth")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_cannot_say_who_is_there() {
    let house = House::usual().await;
    let jar = house.signed_in().await;
    for target in ["/public/x", "/page"] {
        let head = Ask::script(target)
            .method("POST")
            .jar(&jar)
            .line("Trailer", "X-Auth-User, x_auth_user, Authorization, Cookie, X-Sum")
            .line("Transfer-Encoding", "chunked");
        let mut bytes = head.bytes();
        bytes.extend_from_slice(b"3\r\nabc\r\n0\r\n");
        for name in [
            "X-Auth-User",
            "x_auth_user",
            "X.Auth.User",
            "Authorization",
            "X-Forwarded-For",
            "Content-Length",
        ] {
            bytes.extend_from_slice(format!("{name}: {SPOOF}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"X-Sum: 42\r\n\r\n");
        let mut conn = house.conn().await;
        conn.send(&bytes).await;
        conn.answer("POST").await.expect(200);
        let seen = house.upstream.last();
        assert_eq!(seen.body, b"abc");
        assert_eq!(seen.trailers, [("x-sum".to_owned(), "42".to_owned())]);
        assert!(!String::from_utf8_lossy(&seen.head.raw).contains(SPOOF));
        assert_eq!(seen.line("trailer"), Some("X-Sum"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_the_gateways_passes_untouched() {
    let house = House::usual().await;
    let jar = house.signed_in().await;
    let ask = Ask::page("/page")
        .jar(&jar)
        .line("My_App_Field", "1")
        .line("X-Auth-Users", "a")
        .line("X-Auth", "b")
        .line("X-Role", "c")
        .line("X-Multi", "one")
        .line("X-Multi", "two, three")
        .line("User-Agent", "it/1");
    house.ask(&ask).await.expect(200);
    let seen = house.upstream.last();
    for (name, value) in [
        ("my_app_field", "1"),
        ("x-auth-users", "a"),
        ("x-auth", "b"),
        ("x-role", "c"),
        ("user-agent", "it/1"),
    ] {
        assert_eq!(seen.line(name), Some(value), "{name}");
    }
    assert_eq!(seen.head.all("x-multi"), ["one", "two, three"]);
    assert_eq!(seen.line("host"), Some("app.test.example"));
    assert_eq!(seen.line("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.line("x-forwarded-host"), Some("app.test.example"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_access_token_is_handed_on_where_the_settings_say_so() {
    for (site, name, begin) in [
        (r#"token = "x-access-token""#, "x-access-token", ""),
        (r#"token = "bearer""#, "authorization", "Bearer "),
    ] {
        let house = House::start(Plan { site, ..Plan::default() }).await;
        let mut jar = house.signed_in().await;
        let handed = |jar: &Jar| format!("{begin}{}", jar.get("access_token").unwrap());
        house.ask(&spoofed(Ask::page("/page").jar(&jar))).await.expect(200);
        assert_eq!(house.upstream.last().line(name), Some(handed(&jar).as_str()));
        house.later(610);
        let answer = house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
        jar.take(&answer);
        assert_eq!(house.upstream.last().line(name), Some(handed(&jar).as_str()), "the new one");
        for ask in [Ask::page("/public/x").jar(&jar), Ask::page("/optional/x")] {
            house.ask(&spoofed(ask)).await.expect(200);
            nothing_of_it_arrived(&house.upstream.last(), None);
            assert_eq!(house.upstream.last().line(name), None);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clients_own_authorization_passes_only_where_the_settings_say_so() {
    let house = House::start(Plan { site: r#"authorization = "pass""#, ..Plan::default() }).await;
    let jar = house.signed_in().await;
    house.ask(&Ask::page("/page").jar(&jar).line("Authorization", "Basic eDp5")).await.expect(200);
    assert_eq!(house.upstream.last().line("authorization"), Some("Basic eDp5"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn query_parameters_that_services_believe_are_taken_out_and_the_rest_stays() {
    let house = House::usual().await;
    let jar = house.signed_in().await;
    for (query, left) in [
        ("?a=1&access-token=s&b=%20", "?a=1&b=%20"),
        ("?access_token=s", ""),
        ("?ACCESS_TOKEN=s&x", "?x"),
        ("?token=s&token=t&q=%C3%BC", "?q=%C3%BC"),
        ("?access%2Dtoken=s&%74oken=s&z=+", "?z=+"),
        ("?role-key=s&session-id=s&tenant-code=s&organization-code=s&context-id=s&ok=1", "?ok=1"),
        ("?tokens=1&my-token=2&x_token=3", "?tokens=1&my-token=2&x_token=3"),
        ("?a=%2f&&b==&c;d&=&%zz", "?a=%2f&&b==&c;d&=&%zz"),
        ("?", "?"),
    ] {
        for path in ["/public/x", "/page"] {
            house.ask(&Ask::page(&format!("{path}{query}")).jar(&jar)).await.expect(200);
            assert_eq!(house.upstream.last().target, format!("{path}{left}"), "{query}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_cookies_stay_here_and_others_pass_byte_for_byte() {
    let rules = "[[site.rule]]\npath = \"/legacy/*\"\ncookies = \"pass\"";
    let house = House::start(Plan { rules, ..Plan::default() }).await;
    let jar = house.signed_in().await;
    let ours = |name: &str| jar.get(name).unwrap().to_owned();
    let line = format!(
        "first=1; access_token={};other=\"a b\" ; refresh_token={}; x; session_id={}; access_tokens=keep; \
         doorkeep_state=s; =y;ACCESS_TOKEN=theirs; doorkeep_returns=1.2.3; b=%3B=",
        ours("access_token"),
        ours("refresh_token"),
        ours("session_id"),
    );
    for target in ["/public/x", "/optional/x", "/page"] {
        house.ask(&Ask::page(target).line("Cookie", &line)).await.expect(200);
        let seen = house.upstream.last();
        let kept = seen.line("cookie").expect("the others").to_owned();
        let parts: Vec<&str> = kept.split(';').collect();
        assert_eq!(
            parts.iter().map(|part| part.trim()).collect::<Vec<_>>(),
            ["first=1", "other=\"a b\"", "x", "access_tokens=keep", "=y", "ACCESS_TOKEN=theirs", "b=%3B="]
        );
        assert!(kept.contains("other=\"a b\" ;"), "blanks stay too: {kept}");
    }
    house.ask(&Ask::page("/page").jar(&jar)).await.expect(200);
    assert_eq!(house.upstream.last().line("cookie"), None, "a line of ours alone goes");
    house.ask(&Ask::page("/legacy/x").line("Cookie", &line)).await.expect(200);
    assert_eq!(house.upstream.last().line("cookie"), Some(line.as_str()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_are_written_so_that_every_reader_finds_the_same() {
    let identity_headers =
        "\"X-Auth-Name\" = \"name\"\n\"X-Auth-List\" = \"list\"\n\"X-Auth-Deep\" = \"a.b\"";
    let house = House::start(Plan { identity_headers, identity: "max = \"64B\"", ..Plan::default() }).await;
    let asks = |more: serde_json::Value| {
        let mut claims = json!({"userId": "u1", "exp": 1_800_000_600, "iat": 1_800_000_000});
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Ask::page("/page").line("Cookie", &format!("access_token={}", token::signed(&claims)))
    };
    let claims = json!({"name": "Jürgen 100%", "list": ["a", "b,c"], "a": {"b": 7}});
    house.ask(&asks(claims)).await.expect(200);
    let seen = house.upstream.last();
    assert_eq!(seen.line("x-auth-name"), Some("J%C3%BCrgen 100%25"));
    assert_eq!(seen.line("x-auth-list"), Some("a,b%2Cc"));
    assert_eq!(seen.line("x-auth-deep"), Some("7"));
    let before = house.upstream.count();
    for bad in ["a\r\nX-Evil: 1", "a\u{0}b", "tab\there", &"x".repeat(65)] {
        let answer = house.ask(&asks(json!({"name": bad}))).await.expect(403);
        assert!(!answer.text().contains("X-Evil"));
    }
    assert_eq!(house.upstream.count(), before, "such a request is refused, not mended");
    house.ask(&asks(json!({"name": null, "list": [], "a": "flat"}))).await.expect(200);
    let seen = house.upstream.last();
    for name in ["x-auth-name", "x-auth-list", "x-auth-deep"] {
        assert_eq!(seen.line(name), None, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forwarded_addresses_are_believed_from_listed_proxies_only() {
    let ask =
        || Ask::page("/public/x").line("X-Forwarded-For", "6.6.6.6, 1.2.3.4").line("X-Real-IP", "6.6.6.6");
    let house = House::usual().await;
    house.ask(&ask()).await.expect(200);
    let seen = house.upstream.last();
    assert_eq!(seen.line("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.line("x-real-ip"), Some("127.0.0.1"));
    let house = House::start(Plan { listen: r#"trusted = ["127.0.0.0/8"]"#, ..Plan::default() }).await;
    house.ask(&ask()).await.expect(200);
    let seen = house.upstream.last();
    assert_eq!(seen.line("x-forwarded-for"), Some("1.2.3.4, 127.0.0.1"), "one hop is believed");
    assert_eq!(seen.line("x-real-ip"), Some("1.2.3.4"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_app_sees_the_host_that_the_settings_say() {
    let house = House::start(Plan { site: r#"upstream_host = "upstream""#, ..Plan::default() }).await;
    house.ask(&Ask::page("/public/x")).await.expect(200);
    let seen = house.upstream.last();
    assert_eq!(seen.line("host"), Some(house.upstream.addr.to_string().as_str()));
    assert_eq!(seen.line("x-forwarded-host"), Some("app.test.example"));
}
