//! Where browsers are sent: back to a page, to a page that a `Referer` names, and to the login.
//! Input: the text that a client gives.
#![no_main]

use doorkeep::reply::LoginSettings;
use doorkeep::route::{Ambiguous, MAX_RETURN, Origin, Site, referer_page, return_target};
use libfuzzer_sys::fuzz_target;
use url::Url;

const OWN: &str = "https://app.example";
const LISTED: &str = "https://listed.example:8443";

/// Where a browser on a page of `base` goes that gets this text.
fn gone(text: &str, base: &str) -> Option<Url> {
    Url::parse(base).unwrap().join(text).ok()
}

fn is_a_plain_location(text: &str) {
    assert!(
        text.bytes().all(|byte| byte.is_ascii_graphic()),
        "no blank, no control, no other letters: {text:?}"
    );
    assert!(!text.contains('\\'));
    // Whatever page the browser is on, and however often it is read, it leads to one place.
    let read = Url::parse(text).expect("a URL");
    assert_eq!(read.as_str(), text, "already in the form that browsers bring it to");
    assert_eq!(gone(text, "https://elsewhere.example/x/y?z"), Some(read));
}

fn is_on(text: &str, origins: &[&str]) {
    let url = Url::parse(text).expect("a URL");
    let origin = url.origin().ascii_serialization();
    assert!(origins.contains(&origin.as_str()), "{text:?} leads to {origin}");
    assert!(url.username().is_empty() && url.password().is_none());
    assert!(origins.iter().any(|origin| text.starts_with(&format!("{origin}/"))), "{text:?}");
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let origin = |text| Origin::parse(text).expect("an origin");
    let site = Site {
        host: "app.example".into(),
        origin: origin(OWN),
        rules: Vec::new(),
        ambiguous: Ambiguous::Refuse,
        trusted_origins: vec![origin(LISTED)],
    };
    if let Some(back) = return_target(text, &site) {
        assert!(text.len() <= MAX_RETURN);
        is_a_plain_location(&back);
        is_on(&back, &[OWN, LISTED]);
        // Nobody who reads what the client gave, on the site itself, comes to another place.
        assert_eq!(
            gone(text, &format!("{OWN}/.doorkeep/sign-in")).map(String::from).as_deref(),
            Some(back.as_str())
        );
        // Once more through the form and the login, and it is still the same.
        assert_eq!(return_target(&back, &site).as_deref(), Some(back.as_str()));
        for login in [
            LoginSettings::Form,
            LoginSettings::Redirect {
                url: Url::parse("https://id.example/in?a=1#/x").unwrap(),
                parameter: "r d".into(),
            },
        ] {
            let to = login.for_page(OWN, &back);
            is_a_plain_location(&to);
            let (parameter, at) = match &login {
                LoginSettings::Form => ("redirect", OWN),
                LoginSettings::Redirect { .. } => ("r d", "https://id.example"),
            };
            let read = Url::parse(&to).unwrap();
            assert_eq!(read.origin().ascii_serialization(), at);
            let told: Vec<String> = read
                .query_pairs()
                .filter(|(name, _)| name == parameter)
                .map(|(_, value)| value.into())
                .collect();
            assert_eq!(told, [back.as_str()], "the page is told once, whole");
        }
    }
    if let Some(page) = referer_page(text, &site.origin) {
        is_a_plain_location(&page);
        is_on(&page, &[OWN]);
        assert!(!page.contains('#'));
    }
    if let Some(read) = Origin::parse(text) {
        assert_eq!(Origin::parse(read.as_str()).as_ref(), Some(&read));
        assert_eq!(Url::parse(text).unwrap().origin().ascii_serialization(), read.as_str());
    }
});
