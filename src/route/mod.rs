//! Which site and which rule a request belongs to, and what follows from its origin.
//! In: request heads, sites from the settings. Out: [`Target`], [`Route`], [`CrossSite`], [`Cors`], return targets.
//! Errors: [`TargetFault`], [`NoRoute`]. I/O: none.

mod csrf;
mod host;
mod origin;
mod pattern;
mod preflight;
mod reading;
mod redirect;
mod returns;
mod routes;
mod rule;
mod target;

pub use csrf::{CrossSite, cross_site, own_form};
pub use host::canonical_host;
pub use origin::{Origin, Scheme};
pub use pattern::{Pattern, PatternFault};
pub use preflight::{Cors, cors, listed_origin};
pub use reading::Ambiguity;
pub use redirect::Redirect;
pub use returns::{MAX_RETURN, referer_page, return_target};
pub use routes::{NoRoute, Route, Routes};
pub use rule::{
    Ambiguous, CacheRule, CookieRule, Csrf, OnSessionEnd, Preflight, RenewOn401, Rule, RuleAccess, Site,
};
pub use target::{MAX_TARGET, Target, TargetFault};

#[cfg(test)]
mod hostile;
