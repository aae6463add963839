//! An OpenAge directory in one process: signs people in, renews their sessions, ends them.
//! In: HTTP requests as its clients send them. Out: its envelopes. Errors: none; every failure is an envelope.
//! I/O: reads request bodies. State is in memory and bounded.
//! Source: OpenAge documentation (`renew-a-token`, `session-login`, `api-auth`) and `express-api` for codes and statuses.
//! Where those are silent: a spent refresh token that comes back ends its session (RFC 9700 §4.14.2).

mod envelope;
mod jwt;
mod request;
mod sessions;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::request::Parts;
use http::{Method, Request};
use http_body::Body;
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::demo::directory::envelope::{Failure, envelope};
use crate::demo::directory::jwt::{AccessClaims, Bearer, Pair, Reading, Signer, iso, random_hex};
use crate::demo::directory::request::{
    Place, RenewBody, SessionBody, SignInBody, from_json, label, presented,
};
use crate::demo::directory::sessions::{Ending, Session, Sessions, Status, Turn};
use crate::demo::event::{Event, Narrator, Refusal};
use crate::demo::exchange::{Answer, BoxError};
use crate::demo::people::{Named, ORGANIZATION, Person, TENANT};
use crate::secret::Secret;

/// Most sessions remembered; beyond that the oldest ended one is forgotten, and refused like an ended one.
const SESSIONS_KEPT: usize = 1024;

/// How the directory signs and for how long.
#[derive(Clone, Debug)]
pub struct DirectorySettings {
    /// HS256 secret of access tokens; whoever verifies them needs it too.
    pub access_secret: Secret<String>,
    /// HS256 secret of refresh tokens; nobody else needs it.
    pub refresh_secret: Secret<String>,
    /// Life of an access token, in whole seconds.
    pub access_life: Duration,
    /// Life of a refresh token, in whole seconds, counted from its own issue. Longer than the access token's.
    pub refresh_life: Duration,
}

/// The directory. Two people of [`crate::demo::PEOPLE`] can sign in.
pub struct Directory {
    settings: DirectorySettings,
    signer: Signer,
    clock: Arc<dyn Clock>,
    narrator: Narrator,
    sessions: Mutex<Sessions>,
    presentations: AtomicU64,
    renewals: AtomicU64,
    reuses: AtomicU64,
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// What the lock-holding half of a renewal found out.
enum Renewal {
    Issued { data: Value, event: Event },
    Reused(Event),
    Over,
}

impl Directory {
    /// A directory without sessions.
    #[must_use]
    pub fn new(settings: DirectorySettings, clock: Arc<dyn Clock>, narrator: Narrator) -> Self {
        Self {
            signer: Signer::new(&settings),
            settings,
            clock,
            narrator,
            sessions: Mutex::new(Sessions::keeping(SESSIONS_KEPT)),
            presentations: AtomicU64::new(0),
            renewals: AtomicU64::new(0),
            reuses: AtomicU64::new(0),
        }
    }

    /// Renew calls received, whatever became of them.
    #[must_use]
    pub fn presentations(&self) -> u64 {
        self.presentations.load(Ordering::SeqCst)
    }

    /// Renew calls that were answered with a new pair.
    #[must_use]
    pub fn renewals(&self) -> u64 {
        self.renewals.load(Ordering::SeqCst)
    }

    /// Renew calls that presented a spent refresh token and so ended a session.
    #[must_use]
    pub fn reuses(&self) -> u64 {
        self.reuses.load(Ordering::SeqCst)
    }

    /// Answers one request. Bodies are read up to 64 KiB, for POST and PUT only.
    pub async fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        let (head, body) = request.into_parts();
        envelope(self.act(&head, body).await)
    }

    async fn act<B>(&self, head: &Parts, body: B) -> Result<Value, Failure>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        let place = Place::of(head.uri.path()).ok_or(Failure::NotFound)?;
        match (&head.method, place) {
            (&Method::POST, Place::SignIn | Place::Sessions) => self.sign_in(from_json(head, body).await?),
            (&Method::POST, Place::Renew(id)) => {
                self.presentations.fetch_add(1, Ordering::SeqCst);
                self.renew(id, &from_json(head, body).await?)
            }
            (&Method::GET | &Method::HEAD, Place::OwnSession) => {
                let claims = self.caller(head)?;
                self.session(&claims.session_id, &claims)
            }
            (&Method::GET | &Method::HEAD, Place::Session(id)) => self.session(id, &self.caller(head)?),
            (&Method::PUT, Place::Session(id)) => self.put_session(head, id, &from_json(head, body).await?),
            (&Method::POST, Place::SignOut(id)) => self.sign_out(head, id),
            (
                _,
                Place::SignIn
                | Place::Sessions
                | Place::Renew(_)
                | Place::OwnSession
                | Place::Session(_)
                | Place::SignOut(_),
            ) => Err(Failure::Method),
        }
    }

    fn sign_in(&self, body: SignInBody) -> Result<Value, Failure> {
        let purpose = label(body.purpose, "login")?;
        let app = label(body.app, "unknown")?;
        let user = body.user;
        let named = match (&user.code, &user.email, &user.mobile) {
            (Some(code), None, None) => Named::Code(code),
            (None, Some(email), None) => Named::Email(email),
            (None, None, Some(phone)) => Named::Mobile(phone),
            (_, _, _) => return Err(Failure::BadRequest("user needs one of code, email, mobile")),
        };
        let Some(person) = Person::by_password(named, &user.password) else {
            self.tell(Event::SignInRefused);
            return Err(Failure::Credentials);
        };
        let now = self.clock.now();
        let id = random_hex::<12>()?;
        let bearer = Bearer { session_id: &id, person, purpose: &purpose };
        let pair = self.signer.issue(&bearer, &self.settings, now)?;
        let mut session = Session {
            number: 0,
            person,
            purpose,
            app,
            status: Status::Active,
            access_expires: pair.access_expires,
            refresh_expires: pair.refresh_expires,
            refresh_jti: pair.refresh_jti.clone(),
            renewals: 0,
        };
        let data = with_tokens(described(&id, &session), &pair);
        session.number = self.sessions().open(id, session.clone(), now);
        self.tell(Event::SignedIn { user: person.name(), session: session.number });
        Ok(data)
    }

    fn renew(&self, id: &str, body: &RenewBody) -> Result<Value, Failure> {
        let claims = match self.signer.refresh(&body.refresh.token, self.clock.now()) {
            Reading::Current(claims) if claims.session_id == id => claims,
            Reading::Expired(claims) if claims.session_id == id => {
                return Err(self.not_renewed(Refusal::Expired));
            }
            Reading::Current(_) | Reading::Expired(_) | Reading::Invalid => {
                return Err(self.not_renewed(Refusal::NotOurs));
            }
        };
        match self.exchange(id, &claims.jti)? {
            Renewal::Issued { data, event } => {
                self.renewals.fetch_add(1, Ordering::SeqCst);
                self.tell(event);
                Ok(data)
            }
            Renewal::Reused(event) => {
                self.reuses.fetch_add(1, Ordering::SeqCst);
                self.tell(event);
                Err(Failure::SessionExpired)
            }
            Renewal::Over => Err(self.not_renewed(Refusal::SessionOver)),
        }
    }

    /// Judges and spends the refresh token under one lock, so that of two calls with one token only the first succeeds.
    fn exchange(&self, id: &str, jti: &str) -> Result<Renewal, Failure> {
        let mut sessions = self.sessions();
        let session = match sessions.present(id, jti) {
            Turn::Current(session) => session,
            Turn::Reused { person, number } => {
                return Ok(Renewal::Reused(Event::ReuseDetected { user: person.name(), session: number }));
            }
            Turn::Over => return Ok(Renewal::Over),
        };
        let bearer = Bearer { session_id: id, person: session.person, purpose: &session.purpose };
        let pair = self.signer.issue(&bearer, &self.settings, self.clock.now())?;
        session.access_expires = pair.access_expires;
        session.refresh_expires = pair.refresh_expires;
        session.refresh_jti.clone_from(&pair.refresh_jti);
        session.renewals = session.renewals.saturating_add(1);
        let user = session.person.name();
        let event = Event::Renewed { user, session: session.number, times: session.renewals };
        let data = with_tokens(json!({ "id": id, "expiry": iso(pair.access_expires) }), &pair);
        Ok(Renewal::Issued { data, event })
    }

    fn not_renewed(&self, reason: Refusal) -> Failure {
        self.tell(Event::RenewalRefused { reason });
        match reason {
            Refusal::NotOurs => Failure::InvalidToken,
            Refusal::Expired | Refusal::SessionOver => Failure::SessionExpired,
        }
    }

    /// Whose current access token came with the request. The session may have ended: see [`Self::session`].
    fn caller(&self, head: &Parts) -> Result<AccessClaims, Failure> {
        let token = presented(head)?.ok_or(Failure::InvalidToken)?;
        match self.signer.access(token.expose(), self.clock.now()) {
            Reading::Current(claims) => Ok(claims),
            Reading::Expired(_) => Err(Failure::SessionExpired),
            Reading::Invalid => Err(Failure::InvalidToken),
        }
    }

    /// Describes session `id` to its own bearer, without tokens.
    fn session(&self, id: &str, claims: &AccessClaims) -> Result<Value, Failure> {
        let sessions = self.sessions();
        let own = sessions.active(&claims.session_id).ok_or(Failure::SessionExpired)?;
        if claims.session_id == id { Ok(described(id, own)) } else { Err(Failure::AccessDenied) }
    }

    fn put_session(&self, head: &Parts, id: &str, body: &SessionBody) -> Result<Value, Failure> {
        if body.status != "expired" {
            return Err(Failure::BadRequest("status can only become expired"));
        }
        self.end_session(head, id)?;
        self.sessions().find(id).map(|session| described(id, session)).ok_or(Failure::NoSuchUser)
    }

    /// `id` is a session's, as today's web client sends it, or a user's, as the older server reads it.
    fn sign_out(&self, head: &Parts, id: &str) -> Result<Value, Failure> {
        let Some(person) = Person::by_id(id) else {
            self.end_session(head, id)?;
            return Ok(json!({ "id": id }));
        };
        // User ids are no secret, so ending everything of a user takes one of that user's tokens.
        let token = presented(head)?.ok_or(Failure::InvalidToken)?;
        self.must_be(&token, person)?;
        let ended = self.sessions().end_all(person, self.clock.now());
        if ended.is_empty() {
            return Err(Failure::NoActiveSessions);
        }
        for session in ended {
            self.tell(Event::SignedOut { user: person.name(), session });
        }
        Ok(json!({ "id": id }))
    }

    /// A session id cannot be guessed and is enough to end the session; a token that comes along must be its user's.
    fn end_session(&self, head: &Parts, id: &str) -> Result<(), Failure> {
        let token = presented(head)?;
        let person = self.sessions().find(id).map(|session| session.person).ok_or(Failure::NoSuchUser)?;
        if let Some(token) = token {
            self.must_be(&token, person)?;
        }
        let ending = self.sessions().end(id, self.clock.now());
        match ending {
            Ending::Ended(session) => {
                self.tell(Event::SignedOut { user: session.person.name(), session: session.number });
                Ok(())
            }
            Ending::AlreadyOver => Err(Failure::NoActiveSessions),
            Ending::Unknown => Err(Failure::NoSuchUser),
        }
    }

    /// Expiry does not matter here: whoever comes late to sign out shall be able to.
    fn must_be(&self, token: &Secret<String>, person: &Person) -> Result<(), Failure> {
        match self.signer.access(token.expose(), self.clock.now()) {
            Reading::Current(claims) | Reading::Expired(claims) if claims.user_id == person.id => Ok(()),
            Reading::Current(_) | Reading::Expired(_) => Err(Failure::AccessDenied),
            Reading::Invalid => Err(Failure::InvalidToken),
        }
    }

    fn tell(&self, event: Event) {
        (self.narrator)(event);
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session as its bearer sees it.
fn described(id: &str, session: &Session) -> Value {
    let person = session.person;
    let organization = json!({ "id": ORGANIZATION.0, "code": ORGANIZATION.1, "name": ORGANIZATION.2 });
    let tenant = json!({ "id": TENANT.0, "code": TENANT.1, "name": TENANT.2 });
    json!({
        "id": id,
        "status": session.status,
        "purpose": session.purpose,
        "app": session.app,
        "expiry": iso(session.access_expires),
        "user": {
            "id": person.id,
            "code": person.code,
            "email": person.email,
            "phone": person.phone,
            "status": "active",
            "profile": { "firstName": person.first_name, "lastName": person.last_name, "pic": { "url": null } },
        },
        "role": {
            "id": person.role_id,
            "key": person.role_key,
            "code": person.role_key,
            "permissions": person.permissions,
            "type": { "id": person.role_id, "code": person.role_key, "name": person.role_name },
            "organization": organization,
            "tenant": tenant,
            "status": "active",
        },
    })
}

/// Adds the pair to what is answered: the only place where a token leaves the directory.
fn with_tokens(mut data: Value, pair: &Pair) -> Value {
    if let Value::Object(members) = &mut data {
        members.insert("token".to_owned(), Value::from(pair.access.expose().as_str()));
        let refresh = json!({ "token": pair.refresh.expose(), "expiry": iso(pair.refresh_expires) });
        members.insert("refresh".to_owned(), refresh);
    }
    data
}
