//! Sites and their rules, as the settings describe them.
//! In: settings. Out: [`Site`], [`Rule`]. Errors: none. I/O: none.

use crate::need::{Access, Need};
use crate::route::origin::Origin;
use crate::route::pattern::Pattern;

/// A host behind the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The host that requests name, as [`crate::route::canonical_host`] gives it.
    pub host: String,
    /// What browsers see: redirects are made from it.
    pub origin: Origin,
    /// Rules for paths, in any order. No two have equal patterns. Where none fits, a session is required.
    pub rules: Vec<Rule>,
    /// What happens to paths that readers differ about, where the rules differ.
    pub ambiguous: Ambiguous,
    /// Other origins whose scripts and forms may act with the user's session.
    pub trusted_origins: Vec<Origin>,
}

/// What happens to ambiguous paths on a site whose rules let some in more easily than others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ambiguous {
    /// They are answered with 400.
    #[default]
    Refuse,
    /// They need a session that meets the requirements of all the site's rules together.
    Protect,
}

/// What holds for some paths of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What logs call it.
    pub name: String,
    /// Its paths.
    pub pattern: Pattern,
    /// Who is let in.
    pub access: RuleAccess,
    /// What other sites may have the user's browser do here.
    pub csrf: Csrf,
    /// Who answers CORS preflights.
    pub preflight: Preflight,
    /// What caches are told.
    pub cache: CacheRule,
    /// Whether the upstream sees session cookies.
    pub cookies: CookieRule,
    /// What an upstream's 401 to a live session leads to.
    pub renew_on_401: RenewOn401,
    /// What becomes of its tunnels and event streams when their session ends.
    pub on_session_end: OnSessionEnd,
    /// JSON bodies say who asks, the way DIGIT's services read it; at most so many bytes of them.
    pub digit_body: Option<u64>,
    /// Most bytes of a request body; `None`: the site's.
    pub body: Option<u64>,
}

/// Who is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleAccess {
    /// Everybody; the session is not looked at.
    Public,
    /// Whoever meets the need.
    Session(Need),
}

/// Which requests from other pages are refused on session routes. In order of strictness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Csrf {
    /// None.
    Off,
    /// Those from other sites that could change something.
    #[default]
    CrossSite,
    /// Those from sibling hosts of the same site too.
    SameSite,
}

/// Who answers CORS preflights on session routes. In order of strictness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Preflight {
    /// The upstream, which is told of nobody.
    Upstream,
    /// The gateway: yes to listed origins, no to all others.
    #[default]
    Answer,
}

/// What caches are told about answers on session routes. In order of strictness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum CacheRule {
    /// What the upstream says.
    Upstream,
    /// That they are for this user alone.
    #[default]
    Private,
}

/// What an upstream's 401 to a live session leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RenewOn401 {
    /// The client gets it.
    #[default]
    No,
    /// Once for each access token, the session is renewed and a GET or HEAD sent once more.
    Yes,
}

/// What becomes of tunnels and event streams when their session ends. In order of strictness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum OnSessionEnd {
    /// They go on.
    Keep,
    /// They are closed.
    #[default]
    Close,
}

/// Whether the upstream sees session cookies. In order of strictness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum CookieRule {
    /// It does.
    Pass,
    /// It does not.
    #[default]
    Strip,
}

impl Rule {
    /// The rule for these paths with everything else at its default: a session is required.
    #[must_use]
    pub fn new(name: impl Into<String>, pattern: Pattern) -> Self {
        Self {
            name: name.into(),
            pattern,
            access: RuleAccess::Session(Need::default()),
            csrf: Csrf::default(),
            preflight: Preflight::default(),
            cache: CacheRule::default(),
            cookies: CookieRule::default(),
            renew_on_401: RenewOn401::default(),
            on_session_end: OnSessionEnd::default(),
            digit_body: None,
            body: None,
        }
    }

    /// Whether nobody gets more under this rule than under that one. `false` also where they cannot be compared.
    pub(super) fn is_at_least(&self, other: &Self) -> bool {
        let session_settings = match other.access {
            RuleAccess::Public => true,
            RuleAccess::Session(_) => {
                self.csrf >= other.csrf
                    && self.preflight >= other.preflight
                    && self.cache >= other.cache
                    && self.on_session_end >= other.on_session_end
            }
        };
        let says_who = self.digit_body.is_some() || other.digit_body.is_none();
        session_settings
            && says_who
            && self.access.is_at_least(&other.access)
            && self.cookies >= other.cookies
    }

    /// A rule for every path that is as strict as all of these together.
    pub(super) fn strictest(name: &str, rules: &[&Self]) -> Self {
        let mut access: Option<RuleAccess> = None;
        for (index, rule) in rules.iter().enumerate() {
            if rules.iter().take(index).all(|earlier| earlier.access != rule.access) {
                access = Some(access.map_or_else(|| rule.access.clone(), |sum| sum.and(&rule.access)));
            }
        }
        let start = Self::new(name, Pattern::everything());
        Self {
            access: access.unwrap_or(start.access),
            csrf: rules.iter().map(|rule| rule.csrf).max().unwrap_or_default(),
            preflight: rules.iter().map(|rule| rule.preflight).max().unwrap_or_default(),
            cache: rules.iter().map(|rule| rule.cache).max().unwrap_or_default(),
            cookies: rules.iter().map(|rule| rule.cookies).max().unwrap_or_default(),
            on_session_end: rules.iter().map(|rule| rule.on_session_end).max().unwrap_or_default(),
            digit_body: rules.iter().filter_map(|rule| rule.digit_body).min(),
            body: rules.iter().map(|rule| rule.body).min().flatten(),
            ..start
        }
    }
}

impl RuleAccess {
    fn is_at_least(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Public) => true,
            (Self::Public, Self::Session(_)) => false,
            (Self::Session(own), Self::Session(other)) => {
                let covers_access = match (own.access, other.access) {
                    (Access::Required, _) | (Access::Optional, Access::Optional) => true,
                    (Access::Optional, Access::Required) => false,
                };
                covers_access
                    && own.stale <= other.stale
                    && (other.require.is_empty() || own.require == other.require)
            }
        }
    }

    fn and(&self, other: &Self) -> Self {
        match (self, other) {
            (one, Self::Public) | (Self::Public, one) => one.clone(),
            (Self::Session(own), Self::Session(other)) => {
                let access = match (own.access, other.access) {
                    (Access::Optional, Access::Optional) => Access::Optional,
                    (Access::Required, _) | (_, Access::Required) => Access::Required,
                };
                // Whoever the stricter of the two turns away is turned away.
                let stale = own.stale.min(other.stale);
                Self::Session(Need { access, require: own.require.and(&other.require), stale })
            }
        }
    }
}

#[cfg(test)]
impl Site {
    /// `https://app.example`, which trusts one other origin.
    pub(super) fn for_tests(trusted: &str) -> Self {
        Self {
            host: "app.example".into(),
            origin: Origin::parse("https://app.example").expect("an origin"),
            rules: vec![],
            ambiguous: Ambiguous::Refuse,
            trusted_origins: vec![Origin::parse(trusted).expect("an origin")],
        }
    }
}
