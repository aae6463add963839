//! The parts of a request's way by themselves: `parts SETTINGS TOKENS PART count=N` does one of them N times, for a run under
//! callgrind, and `parts SETTINGS TOKENS PART seconds=S` prints the microseconds of processor time that one costs.
//!
//! Settings are those of a gateway whose tokens are signed. The file TOKENS holds such as it takes, one a line: they are verified
//! in turns, for a processor learns the way through one that it sees again and again. The head is a browser's, with the first.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "what is missing or wrong here has to end the run at once"
)]

use std::hint::black_box;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use doorkeep::asker::Asker;
use doorkeep::clock::{Clock as _, SystemClock, UnixTime};
use doorkeep::config::{Settings, TokenCheck};
use doorkeep::forward::{
    Authorization, IdentityHeaders, NameSet, NewTrace, OwnedNames, OwnedParameters, Sampled, SeenAs, Via,
    clean,
};
use doorkeep::identity::Identity;
use doorkeep::need::Need;
use doorkeep::outcome::{Freshness, TokenState};
use doorkeep::route::Target;
use doorkeep::secret::Secret;
use doorkeep::session::cookies;
use doorkeep::session::judge::{Policy, judge};
use doorkeep::session::seal::SessionKeys;
use doorkeep::session::verifier::{Verified, Verifier};
use doorkeep::token::AccessToken;
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{HeaderName, HeaderValue, Request};

/// What the parts need.
struct Bench {
    settings: Settings,
    verifier: Verifier,
    policy: Policy,
    identity: Identity,
    headers: IdentityHeaders,
    seen_as: SeenAs,
    owned: OwnedNames,
    parameters: OwnedParameters,
    tokens: Vec<AccessToken>,
    head: Parts,
    now: UnixTime,
    need: Need,
}

fn head(token: &str) -> Parts {
    let cookies =
        format!("theme=dark; access_token={token}; consent=2026-01-01; _ga=GA1.1.1234567890.1234567890");
    let request = Request::get("/reports/2026/summary?page=2&sort=name")
        .header("host", "app.bench.example")
        .header("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
        .header("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
        .header("accept-language", "en-US,en;q=0.5")
        .header("accept-encoding", "gzip, deflate, br, zstd")
        .header("cookie", cookies)
        .header("connection", "keep-alive")
        .header("upgrade-insecure-requests", "1")
        .header("sec-fetch-dest", "document")
        .header("sec-fetch-mode", "navigate")
        .header("sec-fetch-site", "same-origin")
        .body(());
    request.unwrap().into_parts().0
}

impl Bench {
    fn new(settings: &Path, tokens: &str) -> Self {
        // Once for the rules, which are taken out, and once for what stays.
        let rules = match Settings::load(settings).expect("usable settings").session.token {
            TokenCheck::Signed(rules) => rules,
            TokenCheck::Opaque(_) => panic!("tokens have to be signed"),
        };
        let settings = Settings::load(settings).unwrap();
        let verifier = Verifier::new(rules);
        let tokens: Vec<_> = tokens.lines().map(|line| AccessToken::parse(line).expect("a token")).collect();
        let (token, now) = (tokens.first().expect("a token"), SystemClock.now());
        let Verified::Live(identity) = verifier.verify(token, now).0 else { panic!("the token is not live") };
        let headers = IdentityHeaders::new(settings.identity.headers.clone(), settings.identity.max);
        let names: Vec<HeaderName> = headers.names().cloned().collect();
        let policy = Policy {
            capabilities: settings.backend.capabilities(),
            mode: settings.session.mode,
            keys: SessionKeys::new(&Secret::new(vec![1; 32]), settings.backend.id()),
            leeway: settings.session.token.leeway(),
        };
        let (head, need) = (head(token.expose()), Need::default());
        let owned = OwnedNames::new(&names, NameSet::default(), Authorization::Strip);
        let parameters = OwnedParameters::none();
        let scheme = if settings.listen.https.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        let seen_as = SeenAs::new(&scheme, &Authority::from_static("app.bench.example"), 80);
        Self {
            settings,
            verifier,
            policy,
            identity,
            headers,
            seen_as,
            owned,
            parameters,
            head,
            now,
            need,
            tokens,
        }
    }

    fn via(&self) -> Via<'_> {
        let (client_ip, peer_ip) = ([127, 0, 0, 1].into(), [127, 0, 0, 1].into());
        let trace = NewTrace { trace_id: 0x5f0c, span_id: 0x9a51, sampled: Sampled::No };
        let request_id = HeaderValue::from_static("5f0c7a529f8e4b8e9a510d7f6a3c1b2e");
        Via { client_ip, peer_ip, earlier: None, seen_as: &self.seen_as, request_id, trace }
    }

    /// The part of that name, to be done once.
    fn part(&self, name: &str) -> Box<dyn FnMut() + '_> {
        let names = &self.settings.session.cookies.names;
        let mut tokens = self.tokens.iter().cycle();
        let mut token = move || black_box(tokens.next().expect("a token"));
        match name {
            // Which host and path does the head ask for?
            "target" => Box::new(|| {
                let head = black_box(&self.head);
                black_box(Target::parse(&head.method, &head.uri, &head.headers)).unwrap();
            }),
            // What do its cookies hold?
            "cookies" => Box::new(|| {
                black_box(cookies::read(black_box(&self.head.headers), names));
            }),
            // Is the token genuine? Seen for the first time, and seen before.
            "verify" => Box::new(move || {
                black_box(self.verifier.verify_fresh(token(), self.now));
            }),
            "remember" => Box::new(move || {
                black_box(self.verifier.verify(token(), self.now));
            }),
            // Its signature alone, as the cryptographic library checks it.
            "signature" => self.signature(),
            // What follows?
            "judge" => {
                let presented = cookies::read(&self.head.headers, names);
                Box::new(move || {
                    let state = TokenState::Live(self.identity.clone(), Freshness::Fresh);
                    black_box(judge(
                        black_box(&self.need),
                        Asker::Navigation,
                        &presented,
                        state,
                        &self.policy,
                    ));
                })
            }
            // What the app gets; the copy of the head is the bench's own.
            "forward" => Box::new(move || {
                let mut head = black_box(&self.head).clone();
                cookies::strip(&mut head.headers, names);
                let told = self.headers.render(&self.identity).unwrap();
                let request = Box::new(Request::from_parts(head, ()));
                let cleaned = clean(request, &self.owned, &self.parameters).unwrap();
                black_box(cleaned.for_caller(told.iter().cloned(), self.via()).into_request());
            }),
            other => panic!("{other} is no part"),
        }
    }

    fn signature(&self) -> Box<dyn FnMut() + '_> {
        let TokenCheck::Signed(rules) = &self.settings.session.token else {
            panic!("tokens have to be signed")
        };
        let key = rules.keys.first().expect("a key");
        let parts = |token: &AccessToken| {
            let (signed, signature) = token.expose().rsplit_once('.').unwrap();
            (signed.to_owned(), URL_SAFE_NO_PAD.decode(signature).unwrap())
        };
        let all: Vec<_> = self.tokens.iter().map(parts).collect();
        let mut at = 0;
        Box::new(move || {
            at = (at + 1) % all.len();
            let (signed, signature) = black_box(all.get(at)).expect("a token");
            assert!(key.verifies(signed.as_bytes(), signature));
        })
    }
}

/// Processor time of this process, in nanoseconds; it has one thread.
fn spent() -> u64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").expect("Linux");
    text.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("nanoseconds")
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let [settings, tokens, part, how] = words.as_slice() else {
        panic!("parts SETTINGS TOKENS PART count=N|seconds=S")
    };
    let tokens = std::fs::read_to_string(tokens).expect("a file of tokens");
    let bench = Bench::new(Path::new(settings), &tokens);
    let mut part = bench.part(part);
    if let Some(count) = how.strip_prefix("count=") {
        for _ in 0..count.parse::<u64>().unwrap() {
            part();
        }
        return;
    }
    let seconds: u64 = how.strip_prefix("seconds=").expect("count= or seconds=").parse().unwrap();
    let (mut done, begun) = (0_u64, spent());
    while spent() - begun < seconds * 1_000_000_000 {
        for _ in 0..200 {
            part();
        }
        done += 200;
    }
    println!("{}.{:03}", (spent() - begun) / done / 1000, (spent() - begun) / done % 1000);
}
