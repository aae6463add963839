//! Finds the site and the rule of a request, so that no reading of its path gets past a rule.
//! In: [`Target`]. Out: [`Route`]. Errors: [`NoRoute`]. I/O: none.

use std::collections::BTreeMap;

use crate::route::pattern::{Fit, Pattern};
use crate::route::reading::Ambiguity;
use crate::route::rule::{Ambiguous, Rule, Site};
use crate::route::target::Target;

/// Name of the rule for paths that no rule of the site fits.
const DEFAULT: &str = "default";
/// Name of the rule for paths that readers differ about.
const STRICTEST: &str = "strictest";

/// All sites.
#[derive(Clone, Debug)]
pub struct Routes {
    sites: Vec<Entry>,
    by_host: BTreeMap<String, usize>,
}

/// Where a request belongs.
#[derive(Clone, Copy, Debug)]
pub struct Route<'a> {
    /// The site's place in the list that [`Routes::new`] was given.
    pub index: usize,
    /// The site.
    pub site: &'a Site,
    /// The rule: one of the site's, its default, or for ambiguous paths all of them together.
    pub rule: &'a Rule,
}

/// Why a request belongs nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    /// No site has this host.
    #[error("no site has this host")]
    UnknownHost,
    /// Readers differ about the path, and the site's rules differ by path. The client gets 400.
    #[error("the path holds {0}")]
    Ambiguous(Ambiguity),
}

impl Routes {
    /// Routes to these sites. Of two sites with one host the first counts, of two rules with equal patterns the last:
    /// the settings are to refuse both.
    #[must_use]
    pub fn new(sites: Vec<Site>) -> Self {
        let mut by_host = BTreeMap::new();
        for (index, site) in sites.iter().enumerate() {
            by_host.entry(site.host.to_ascii_lowercase()).or_insert(index);
        }
        Self { sites: sites.into_iter().map(Entry::new).collect(), by_host }
    }

    /// The site and rule of a target.
    ///
    /// # Errors
    /// [`NoRoute`]: the request cannot be let through.
    pub fn find(&self, target: &Target) -> Result<Route<'_>, NoRoute> {
        let index = *self.by_host.get(target.host()).ok_or(NoRoute::UnknownHost)?;
        let entry = self.sites.get(index).ok_or(NoRoute::UnknownHost)?;
        let rule = entry.rule(target).map_err(NoRoute::Ambiguous)?;
        Ok(Route { index, site: &entry.site, rule })
    }
}

#[derive(Clone, Debug)]
struct Entry {
    site: Site,
    /// Holds where no rule fits.
    default: Rule,
    /// All rules that some path falls under, taken together.
    strictest: Rule,
    spread: Spread,
    /// For each rule, the default last, the places of those that ask for more in any respect.
    stricter: Vec<Vec<usize>>,
}

/// The rule that a path falls under as it is written.
#[derive(Clone, Copy)]
struct Closest {
    /// The rule's place among the site's; the default comes after the last.
    place: usize,
    /// `None`: it is the default, which fits every path, but less than any other.
    fit: Option<Fit>,
}

/// How much depends on the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spread {
    /// Nothing: the same holds for the whole site.
    Nothing,
    /// Who is let in is the same everywhere, other settings differ.
    Details,
    /// Who is let in.
    Access,
}

impl Spread {
    fn of(rules: &[&Rule]) -> Self {
        let all = |same: fn(&Rule, &Rule) -> bool| {
            rules.iter().zip(rules.iter().skip(1)).all(|(one, next)| same(one, next))
        };
        if !all(|one, next| one.access == next.access) {
            Self::Access
        } else if all(|one, next| one.is_at_least(next) && next.is_at_least(one)) {
            Self::Nothing
        } else {
            Self::Details
        }
    }
}

impl Entry {
    fn new(site: Site) -> Self {
        let default = Rule::new(DEFAULT, Pattern::everything());
        let covered = site.rules.iter().any(|rule| rule.pattern.is_everything());
        let reached: Vec<&Rule> = site.rules.iter().chain((!covered).then_some(&default)).collect();
        let strictest = Rule::strictest(STRICTEST, &reached);
        let spread = Spread::of(&reached);
        let all: Vec<&Rule> = site.rules.iter().chain([&default]).collect();
        let stricter = |rule: &Rule| -> Vec<usize> {
            let others = all.iter().enumerate();
            others.filter(|(_, other)| !rule.is_at_least(other)).map(|(place, _)| place).collect()
        };
        let stricter = all.iter().map(|rule| stricter(rule)).collect();
        Self { site, default, strictest, spread, stricter }
    }

    fn at(&self, place: usize) -> &Rule {
        self.site.rules.get(place).unwrap_or(&self.default)
    }

    fn rule(&self, target: &Target) -> Result<&Rule, Ambiguity> {
        if let Some(ambiguity) = target.ambiguity() {
            return self.rule_for_ambiguous(ambiguity);
        }
        let path = target.reading();
        let closest = self.literal(path);
        let safe = self.spread == Spread::Nothing
            || self.holds_for_lenient_readers(closest.place, closest, path)
                && target.undecoded().is_none_or(|path| {
                    self.holds_for_lenient_readers(closest.place, self.literal(path), path)
                });
        if safe { Ok(self.at(closest.place)) } else { self.rule_for_ambiguous(Ambiguity::Spelling) }
    }

    /// Whether nobody who reads these bytes, strictly or leniently in any way, comes to a rule that asks for more.
    /// Where rules are spelled so that lenient readers take them for one, the literal one is what the operator meant.
    /// `literal`: the rule that these bytes come to when they are read strictly, and how closely it fits.
    fn holds_for_lenient_readers(&self, rule: usize, literal: Closest, path: &[u8]) -> bool {
        self.stricter.get(rule).is_some_and(|stricter| {
            stricter.iter().all(|other| {
                let fits = self
                    .site
                    .rules
                    .get(*other)
                    .is_some_and(|rule| rule.pattern.lenient_fit(path) > literal.fit);
                *other != literal.place && !fits
            })
        })
    }

    fn rule_for_ambiguous(&self, ambiguity: Ambiguity) -> Result<&Rule, Ambiguity> {
        match (self.spread, self.site.ambiguous) {
            (Spread::Access, Ambiguous::Refuse) => Err(ambiguity),
            (Spread::Access, Ambiguous::Protect) | (Spread::Nothing | Spread::Details, _) => {
                Ok(&self.strictest)
            }
        }
    }

    /// The rule that fits a path closest.
    fn literal(&self, path: &[u8]) -> Closest {
        let fitting = self.site.rules.iter().enumerate();
        let fitting = fitting.map(|(place, rule)| Closest { place, fit: rule.pattern.fit(path) });
        let closest = fitting.filter(|one| one.fit.is_some()).max_by_key(|one| one.fit);
        closest.unwrap_or(Closest { place: self.site.rules.len(), fit: None })
    }
}

#[cfg(test)]
mod tests {
    use http::header::HOST;
    use http::{HeaderMap, HeaderValue, Method};

    use super::*;
    use crate::need::{Access, Need, Require};
    use crate::route::origin::Origin;
    use crate::route::rule::{Csrf, RuleAccess};

    fn rule(path: &str, access: RuleAccess) -> Rule {
        Rule { access, ..Rule::new(path, Pattern::parse(path).expect(path)) }
    }

    fn session(claim: Option<&str>) -> RuleAccess {
        let claims = claim.map(|name| (name.to_owned(), vec!["yes".to_owned()]));
        RuleAccess::Session(Need {
            access: Access::Required,
            require: Require::new(claims.into_iter().collect()),
            ..Need::default()
        })
    }

    fn routes(ambiguous: Ambiguous, rules: Vec<Rule>) -> Routes {
        let origin = Origin::parse("https://a.example").expect("an origin");
        Routes::new(vec![Site {
            host: "a.example".into(),
            origin,
            rules,
            ambiguous,
            trusted_origins: vec![],
        }])
    }

    fn target(path: &str) -> Target {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("A.example:8443"));
        Target::parse(&Method::GET, &path.parse().expect(path), &headers).expect(path)
    }

    fn found<'a>(routes: &'a Routes, path: &str) -> Result<&'a str, NoRoute> {
        routes.find(&target(path)).map(|route| route.rule.name.as_str())
    }

    #[test]
    fn the_closest_rule_wins_in_any_order() {
        let mut rules = vec![
            rule("/*", RuleAccess::Public),
            rule("/a/*", session(Some("a"))),
            rule("/a/b/*", session(Some("b"))),
            rule("/a/b", session(Some("c"))),
        ];
        for _ in 0..rules.len() {
            rules.rotate_left(1);
            let routes = routes(Ambiguous::Refuse, rules.clone());
            for (path, wanted) in [
                ("/", "/*"),
                ("/ab", "/*"),
                ("/a", "/a/*"),
                ("/a/c", "/a/*"),
                ("/a/b", "/a/b"),
                ("/a/b/c", "/a/b/*"),
            ] {
                assert_eq!(found(&routes, path), Ok(wanted), "{path}");
            }
        }
    }

    #[test]
    fn rules_are_matched_on_what_escapes_stand_for_and_never_on_the_query() {
        let routes = routes(
            Ambiguous::Refuse,
            vec![rule("/*", RuleAccess::Public), rule("/admin/*", session(Some("a")))],
        );
        assert_eq!(found(&routes, "/%61dmin/x"), Ok("/admin/*"));
        assert_eq!(found(&routes, "/x?/admin/x"), Ok("/*"));
        assert_eq!(found(&routes, "/x?a=../../admin//;%2f"), Ok("/*"));
    }

    #[test]
    fn where_no_rule_fits_a_session_is_required() {
        let routes = routes(Ambiguous::Refuse, vec![rule("/pub/*", RuleAccess::Public)]);
        let target = target("/else");
        let route = routes.find(&target).expect("a route");
        assert_eq!(route.rule.access, RuleAccess::Session(Need::default()));
        assert_eq!(route.site.host, "a.example");
    }

    #[test]
    fn other_hosts_are_unknown() {
        assert_eq!(Routes::new(vec![]).find(&target("/")).map(|r| r.index), Err(NoRoute::UnknownHost));
    }

    #[test]
    fn ambiguous_paths_are_refused_where_access_differs() {
        let routes = routes(Ambiguous::Refuse, vec![rule("/pub/*", RuleAccess::Public)]);
        for path in ["/pub/../x", "/pub//x", "/pub;/x", "/pub%2fx", "/x/%2e%2e/pub"] {
            assert!(matches!(found(&routes, path), Err(NoRoute::Ambiguous(_))), "{path}");
        }
    }

    #[test]
    fn a_site_may_have_them_meet_all_its_requirements() {
        let rules = vec![
            rule("/pub/*", RuleAccess::Public),
            rule("/a/*", session(Some("a"))),
            rule("/b/*", session(Some("b"))),
            rule("/b2/*", session(Some("b"))),
        ];
        let routes = routes(Ambiguous::Protect, rules);
        let target = target("/pub/../a");
        let route = routes.find(&target).expect("a route");
        let both = Require::new(vec![
            ("a".to_owned(), vec!["yes".to_owned()]),
            ("b".to_owned(), vec!["yes".to_owned()]),
        ]);
        assert_eq!(
            route.rule.access,
            RuleAccess::Session(Need { access: Access::Required, require: both, ..Need::default() })
        );
    }

    #[test]
    fn where_one_rule_holds_for_all_paths_they_pass_under_it() {
        let public = routes(Ambiguous::Refuse, vec![rule("/*", RuleAccess::Public)]);
        let route = |routes: &Routes| routes.find(&target("/a/../b")).map(|r| r.rule.access.clone());
        assert_eq!(route(&public), Ok(RuleAccess::Public));
        assert_eq!(route(&routes(Ambiguous::Refuse, vec![])), Ok(session(None)));
    }

    #[test]
    fn an_ambiguous_path_does_not_escape_the_cross_site_check() {
        let hooks = Rule { csrf: Csrf::Off, ..rule("/hooks/*", session(None)) };
        let routes = routes(Ambiguous::Refuse, vec![hooks]);
        let csrf = |path: &str| routes.find(&target(path)).map(|r| r.rule.csrf);
        assert_eq!(csrf("/hooks/x"), Ok(Csrf::Off));
        assert_eq!(csrf("/hooks/..;/transfer"), Ok(Csrf::CrossSite));
    }

    #[test]
    fn lenient_spellings_never_find_a_laxer_rule() {
        let rules =
            vec![rule("/*", RuleAccess::Public), rule("/admin/*", session(None)), rule("/x", session(None))];
        let routes = routes(Ambiguous::Refuse, rules);
        for path in ["/ADMIN", "/Admin/x", "/admin./x", "/admin%20/x", "/x/", "/X"] {
            assert_eq!(found(&routes, path), Err(NoRoute::Ambiguous(Ambiguity::Spelling)), "{path}");
        }
        assert_eq!(found(&routes, "/Washington_D.C."), Ok("/*"));
        assert_eq!(found(&routes, "/admin/X."), Ok("/admin/*"));
    }

    #[test]
    fn needless_escapes_do_not_open_a_public_path() {
        let routes = routes(Ambiguous::Refuse, vec![rule("/pub/*", RuleAccess::Public)]);
        assert_eq!(found(&routes, "/%70ub/x"), Err(NoRoute::Ambiguous(Ambiguity::Spelling)));
        assert_eq!(found(&routes, "/pub/%70/a%20b"), Ok("/pub/*"));
    }

    #[test]
    fn rules_that_differ_by_case_alone_are_told_apart() {
        let rules = vec![rule("/App/*", RuleAccess::Public), rule("/app/*", session(Some("a")))];
        let routes = routes(Ambiguous::Refuse, rules);
        assert_eq!(found(&routes, "/App/x"), Ok("/App/*"));
        assert_eq!(found(&routes, "/app/x"), Ok("/app/*"));
        assert_eq!(found(&routes, "/aPP/x"), Err(NoRoute::Ambiguous(Ambiguity::Spelling)));
    }
}
