//! One gateway from its settings, and the next one from that: what is remembered of sessions goes on.
//! In: [`Settings`], the gateway before. Out: [`Generation`]. Errors: [`StartError`]; nothing has changed then. I/O: random
//! numbers.

use std::sync::Arc;

use http::HeaderName;
use tokio_util::sync::CancellationToken;

use crate::admit::{Admission, AdmitRules, Health};
use crate::assemble::{Common, StartError};
use crate::backend::SessionBackend;
use crate::backend::directory::Directory;
use crate::backend::egov_user::EgovUser;
use crate::backend::jwks::{self, JwksSettings, KeyKeeper};
use crate::backend::oauth2::OAuth2;
use crate::backend::sanic_jwt::SanicJwt;
use crate::body::BodyLimits;
use crate::check::Checker;
use crate::check::introspector::{self, Introspector};
use crate::clock::Clock;
use crate::config::{
    BackendSettings, ListenSettings, SessionSettings, Settings, SharePlan, SiteSettings, TokenCheck,
};
use crate::dial::{Authorities, Dialer, RootsError};
use crate::forward::{
    CertificateHeaders, Guard, IdentityHeaders, NameSet, OwnedNames, OwnedParameters, SeenAs, Upstream,
};
use crate::gateway::under_way::UnderWay;
use crate::gateway::{App, Gateway, Parts};
use crate::meter::Turns;
use crate::outcome::Believed;
use crate::random::{self, NoRandom};
use crate::renew::{RenewSettings, Renewer, ShareSettings};
use crate::route::Routes;
use crate::secret::Secret;
use crate::session::Sessions;
use crate::session::carrier::Carrier;
use crate::session::drill::Drills;
use crate::session::judge::Policy;
use crate::session::seal::{Sealer, SessionKeys};
use crate::session::verifier::{Source, TokenRules, Verifier};
use crate::share::{LinkError, RedisShare};
use crate::sign_in::{Desk, FormSettings};

/// A gateway, and what has to be known of its settings once others come.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) gateway: Gateway,
    secrets: Secrets,
    backend: BackendSettings,
    jwks: Option<JwksSettings>,
}

/// What keeps a gateway's keys, not begun yet.
#[derive(Debug)]
pub(super) struct Keeping {
    pub(super) keeper: KeyKeeper,
    /// Ends with the gateway.
    pub(super) stop: CancellationToken,
}

type Key = Secret<Vec<u8>>;

/// What seals, and what names sessions.
#[derive(Clone, Debug)]
struct Secrets {
    sealing: Vec<Key>,
    naming: Key,
}

impl Secrets {
    fn of(mut configured: Vec<Key>, before: Option<&Self>) -> Result<Self, NoRandom> {
        // The oldest secret is the one that every gateway has while secrets are changed one gateway after the other.
        let naming = match (configured.last(), before) {
            (Some(oldest), _) => oldest.clone(),
            (None, Some(before)) => return Ok(before.clone()),
            (None, None) => {
                let mut bytes = vec![0; 32];
                random::fill(&mut bytes)?;
                let made = Secret::new(bytes);
                configured.push(made.clone());
                made
            }
        };
        Ok(Self { sealing: configured, naming })
    }
}

/// The settings of tokens, and who tells of them.
struct Telling<'a> {
    how: TokenCheck,
    backend: &'a Arc<dyn SessionBackend>,
    source: Source,
}

/// A gateway of these settings, without its listeners. Beside the one `before` it changes nothing until it takes over.
pub(super) fn build(
    settings: Settings,
    common: &Common,
    before: Option<&Generation>,
) -> Result<(Generation, Option<Keeping>), StartError> {
    let Settings { secrets, listen, session, renew, share, login, form, backend, identity, .. } = settings;
    let (sites, roots) = (settings.sites, Authorities::new(settings.roots));
    let (wire, believed) = wire(&backend, &roots, &common.clock)?;
    let secrets = Secrets::of(secrets, before.map(|before| &before.secrets))?;
    let jwks = session.jwks.clone();
    let source = match (&session.token, before) {
        (TokenCheck::Signed(_), Some(before)) if place(&before.jwks) == place(&jwks) => Source::Same,
        (TokenCheck::Opaque(_), Some(before)) if before.backend.tells_as(&backend) => Source::Same,
        (TokenCheck::Signed(_) | TokenCheck::Opaque(_), _) => Source::Other,
    };
    let keys = SessionKeys::new(&secrets.naming, backend.id());
    let earlier = before.map(|before| before.gateway.parts());
    let (sessions, how) = sessions(session, wire.as_ref(), (&secrets, keys), earlier);
    let telling = Telling { how, backend: &wire, source };
    let (patience, guard) = (renew.timeout, wire.guarded().as_ref().map(Guard::new));
    let (checker, renewer) = renewer((renew, share), telling, &sessions, common, earlier)?;
    let desk = form.map(|form| desk(form, &sessions, patience, earlier));
    let certificate_headers = identity.client;
    let identity = IdentityHeaders::new(identity.headers, identity.max);
    let named = (&identity, &certificate_headers);
    let app = |site: &SiteSettings| app(site, (&listen, &roots), believed, named);
    let stop = common.admin_life.finish.child_token();
    let keeping = keeping(jwks.as_ref(), &checker, &roots, (common, &stop))?;
    let gateway = Gateway::new(Parts {
        apps: sites.iter().map(app).collect::<Result<_, _>>()?,
        routes: Routes::new(sites.into_iter().map(|site| site.site).collect()),
        sessions,
        checker,
        renewer,
        login,
        desk,
        identity,
        certificate_headers,
        trusted: listen.trusted,
        redirect: listen.redirect,
        life: common.life.clone(),
        clock: Arc::clone(&common.clock),
        meters: Arc::clone(&common.meters),
        under_way: earlier.map_or_else(UnderWay::default, |earlier| earlier.under_way.clone()),
        guard,
        beside: stop.drop_guard(),
    });
    Ok((Generation { gateway, secrets, backend, jwks }, keeping))
}

const fn place(jwks: &Option<JwksSettings>) -> Option<&jwks::JwksPlace> {
    match jwks {
        Some(jwks) => Some(&jwks.place),
        None => None,
    }
}

/// What reads sessions, and how their tokens are checked.
fn sessions(
    session: SessionSettings,
    backend: &dyn SessionBackend,
    (secrets, keys): (&Secrets, SessionKeys),
    earlier: Option<&Parts>,
) -> (Arc<Sessions>, TokenCheck) {
    let policy = Policy {
        capabilities: backend.capabilities(),
        mode: session.mode,
        keys,
        leeway: session.token.leeway(),
    };
    let sessions = Sessions {
        carrier: Carrier::new(session.cookies, Sealer::new(&secrets.sealing)),
        policy,
        ahead: session.ahead,
        drills: earlier.map_or_else(Drills::default, |earlier| earlier.sessions.drills.clone()),
    };
    (Arc::new(sessions), session.token)
}

/// What tells what access tokens are, and what renews them.
fn renewer(
    (renew, share): (RenewSettings, Option<SharePlan>),
    telling: Telling<'_>,
    sessions: &Arc<Sessions>,
    common: &Common,
    earlier: Option<&Parts>,
) -> Result<(Arc<Checker>, Renewer), StartError> {
    let Common { clock, meters, .. } = common;
    let health = match earlier {
        Some(earlier) => earlier.renewer.health(),
        None => Arc::new(Health::new(renew.admission.breaker, Arc::clone(meters))),
    };
    let backend = Arc::clone(telling.backend);
    let checker = Arc::new(checker(telling, (&renew.admission, &health), sessions, common, earlier));
    let wire = (backend, Arc::clone(&checker));
    let sessions = Arc::clone(sessions);
    let renewer = match earlier {
        Some(earlier) => earlier.renewer.successor(renew, wire, sessions),
        None => {
            let share = share.map(|plan| store(&plan, &sessions.policy.keys)).transpose()?;
            let renew = RenewSettings { share, ..renew };
            Renewer::new(renew, wire, sessions, Arc::clone(clock), Arc::clone(meters))
        }
    };
    Ok((checker, renewer))
}

fn checker(
    telling: Telling<'_>,
    (renewals, health): (&AdmitRules, &Arc<Health>),
    sessions: &Sessions,
    common: &Common,
    earlier: Option<&Parts>,
) -> Checker {
    let Telling { how, backend, source } = telling;
    let earlier = earlier.map(|earlier| earlier.checker.as_ref());
    match (how, earlier) {
        (TokenCheck::Signed(rules), Some(Checker::Signed(before))) => {
            Checker::Signed(Arc::new(Verifier::successor(rules, before, source)))
        }
        (TokenCheck::Signed(rules), Some(Checker::Opaque(_)) | None) => signed(rules),
        (TokenCheck::Opaque(rules), Some(Checker::Opaque(before))) => {
            let asked = (Arc::clone(backend), sessions.policy.keys.clone());
            Checker::Opaque(Introspector::successor(rules, asked, before, source))
        }
        (TokenCheck::Opaque(rules), Some(Checker::Signed(_)) | None) => {
            let (clock, meters) = (Arc::clone(&common.clock), Arc::clone(&common.meters));
            let turns = introspector::turns(&rules, renewals);
            let turns = Admission::new(turns, Arc::clone(health), (Turns::Questions, Arc::clone(&meters)));
            let asked = (Arc::clone(backend), turns);
            Checker::Opaque(Introspector::new(rules, asked, sessions.policy.keys.clone(), clock, meters))
        }
    }
}

fn signed(rules: TokenRules) -> Checker {
    Checker::Signed(Arc::new(Verifier::new(rules)))
}

fn keeping(
    jwks: Option<&JwksSettings>,
    checker: &Checker,
    roots: &Authorities,
    (common, stop): (&Common, &CancellationToken),
) -> Result<Option<Keeping>, RootsError> {
    let (Some(jwks), Some(verifier)) = (jwks, checker.verifier()) else { return Ok(None) };
    let dialer = Dialer::new(roots, jwks.place.url(), jwks::CONNECT)?;
    let (clock, meters) = (Arc::clone(&common.clock), Arc::clone(&common.meters));
    let keeper = KeyKeeper::new(jwks.clone(), dialer, Arc::clone(verifier), clock, meters);
    Ok(Some(Keeping { keeper, stop: stop.clone() }))
}

/// The gateway's own sign-in page.
fn desk(
    form: FormSettings,
    sessions: &Sessions,
    patience: std::time::Duration,
    earlier: Option<&Parts>,
) -> Desk {
    let (sealer, keys) = (sessions.carrier.sealer().clone(), sessions.policy.keys.clone());
    match earlier.and_then(|earlier| earlier.desk.as_ref()) {
        Some(before) => before.successor(form, sealer, keys, patience),
        None => Desk::new(form, sealer, keys, patience),
    }
}

fn store(plan: &SharePlan, keys: &SessionKeys) -> Result<ShareSettings, LinkError> {
    let store = RedisShare::new(&plan.servers, keys.digest(&["share"]), plan.acks)?;
    Ok(ShareSettings { store: Arc::new(store), away: plan.away })
}

/// The app behind a site.
fn app(
    site: &SiteSettings,
    (listen, roots): (&ListenSettings, &Authorities),
    believed: Believed,
    (identity, certificate): (&IdentityHeaders, &CertificateHeaders),
) -> Result<App, StartError> {
    let origin = &site.site.origin;
    let headers = NameSet::headers_of(believed);
    let token = site.upstream.token.name();
    let named = identity.names().chain(certificate.header_names()).chain(&token);
    let owned = Arc::new(OwnedNames::new(named, headers, site.upstream.authorization));
    Ok(App {
        upstream: Upstream::new(&site.upstream, listen.trailers, roots)?,
        host: site.upstream.host,
        seen_as: SeenAs::new(&origin.scheme().as_str().parse()?, &origin.authority().parse()?, origin.port()),
        token: site.upstream.token,
        websocket: site.upstream.websocket,
        tunnel_idle: site.upstream.idle,
        body: body_limits(listen, site.body, &owned),
        owned,
        parameters: OwnedParameters::new(NameSet::parameters_of(believed)),
    })
}

fn body_limits(listen: &ListenSettings, site: Option<u64>, owned: &Arc<OwnedNames>) -> BodyLimits {
    let owned = Arc::clone(owned);
    let trailers = Arc::new(move |name: &HeaderName| owned.trailer_is_clean(name));
    let (idle, size) = (listen.body_idle, site.unwrap_or(listen.body));
    BodyLimits { idle, size, trailers, trailer_limits: listen.trailers }
}

/// The wire to the session backend, and what services of its kind believe unverified.
fn wire(
    settings: &BackendSettings,
    roots: &Authorities,
    clock: &Arc<dyn Clock>,
) -> Result<(Arc<dyn SessionBackend>, Believed), RootsError> {
    match settings {
        BackendSettings::Directory { settings, connect } => {
            let dialer = Dialer::new(roots, [&settings.url], *connect)?;
            let wire = Directory::new(settings.clone(), dialer, Arc::clone(clock));
            Ok((Arc::new(wire), Directory::BELIEVED))
        }
        BackendSettings::EgovUser { settings, connect } => {
            let dialer = Dialer::new(roots, [&settings.url], *connect)?;
            let wire = EgovUser::new(settings.clone(), dialer, Arc::clone(clock));
            Ok((Arc::new(wire), EgovUser::BELIEVED))
        }
        BackendSettings::OAuth2 { settings, connect } => {
            let dialer = Dialer::new(roots, settings.servers(), *connect)?;
            let wire = OAuth2::new((**settings).clone(), dialer, Arc::clone(clock));
            Ok((Arc::new(wire), OAuth2::BELIEVED))
        }
        BackendSettings::SanicJwt { settings, connect } => {
            let dialer = Dialer::new(roots, [&settings.url], *connect)?;
            let wire = SanicJwt::new(settings.clone(), dialer, Arc::clone(clock));
            Ok((Arc::new(wire), SanicJwt::BELIEVED))
        }
    }
}
