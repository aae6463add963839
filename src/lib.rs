//! Doorkeep is a reverse proxy that keeps sessions. It stands before web apps, checks the access token in each request's
//! cookies, renews it with the refresh token without anybody noticing, sends browsers to the login when the session is
//! over, and tells the app in headers who is there.
//!
//! **Nobody is ever signed out by parallel tabs, a closed tab, several replicas, or a backend that is briefly away.** Only a refusal by the
//! session backend ends a session; a time-out, a 5xx, an answer that was lost on the way or a mistake in our own settings
//! never does.
//!
//! # The way of a request
//!
//! ```text
//!  browser or script
//!    │ TCP · TLS · HTTP/1.1 · HTTP/2
//!    ▼
//!  server     listens, limits, drains
//!    ▼
//!  gateway    the only file that sees every room
//!    1 route      one host, one reading of the path ─► site and rule          pure
//!    2 session    cookies ─► what was presented
//!      check      is the access token live? signed: pure; opaque: asked      waits
//!    3 judge      need × presented × token ─► a verdict, or: renew first      pure
//!    4 renew      one flight per refresh token ─► session backend             waits
//!    5 settle     need × what came of it ─► a verdict                         pure
//!    6 forward    clean ─► for_caller ─► send ─► the app                      waits
//!    7 reply      the app's answer, or a redirect, 401, 403, 503, 502, 504    pure
//!    ▼
//!  answer, with new cookies where the session was renewed
//! ```
//!
//! A request body is not read before the verdict, so none is ever sent twice.
//!
//! # The rooms
//!
//! Imports go one way, and a test holds this table (`tests/tidy.rs`):
//!
//! | room | may see | job |
//! | --- | --- | --- |
//! | words: [`clock`], [`secret`], [`token`], [`identity`], [`outcome`], [`notes`], [`need`], [`asker`], [`certificate`], [`verdict`], [`body`], [`meter`], [`text`], [`random`], [`network`], [`lines`], [`marks`], [`fields`], [`gather`] | words | the nouns |
//! | [`dial`] | words | connections to `http://` and `https://` servers |
//! | [`share`] | words, dial | what replicas tell each other about renewals |
//! | [`peer`] | words | who is on the socket, and whom to believe about earlier hops |
//! | [`route`] | words | site and rule of a request; cross-site checks; where a browser may be sent |
//! | [`session`] | words | cookies, tokens, and the two decisions [`judge`](session::judge::judge) and [`settle`](session::judge::settle) |
//! | [`backend`] | words, dial, session | the wires to session backends, and to the issuer's keys |
//! | [`admit`] | words | how many exchanges the session backend gets, who goes next, whether it is asked at all |
//! | [`check`] | words, session, backend, admit | what an access token is: by its signature, or by asking its backend |
//! | [`renew`] | words, session, backend, check, share, admit | flights and the memory of what they brought |
//! | [`forward`] | words, dial | clean, say who asks, send |
//! | [`reply`] | words | what clients get |
//! | [`sign_in`] | words, session | the gateway's own sign-in page: its form, who may try how often |
//! | [`gateway`] | all of these | the picture above |
//! | [`server`], [`admin`] | words | listeners, TLS, HTTP/1.1 and HTTP/2 in one strict framing, limits, drain; health and metrics |
//! | [`config`] | the rooms whose settings it builds | a file as written → settings as used |
//! | [`assemble`], [`log`] | all of these | from settings to a running gateway |
//! | [`demo`] | all of these | a real counterpart on each side, and the gateway between them |
//!
//! # Renewal
//!
//! The rules of [`renew`], each with its reason:
//!
//! 1. *One flight per presented refresh token.* A backend that rotates ends the session when a token comes twice, so of a
//!    hundred parallel requests one presents it and ninety-nine wait. A flight is named by an HMAC over everything that its
//!    wire presents, and nothing else, so no table holds a token as a key, and what else a browser brings makes no second name.
//! 2. *A flight belongs to the gateway, not to its client.* A closed tab ends nothing; the drain waits for it.
//! 3. *What was issued is kept until the browser has it.* A delivered answer can still be lost, so an entry stays until its
//!    new token is presented (then [`replay`](renew::RenewSettings::replay) longer), else until the refresh token ends.
//!    Entries chain, old to new to newest, at most eight links; a replay is judged as if its tokens had been presented. Where
//!    there is no room for all, those go first that a browser most likely has.
//! 4. *A refusal is remembered, a fault never.* Nothing that was refused is presented again.
//! 5. *Early.* A live token is due once less than [`ahead`](outcome::Ahead) is left. It is served at once, the flight runs
//!    beside the upstream's answer, and only the request that started it holds its head for it, at most `attach`.
//! 6. *Lost answers.* Once a byte is out, what came of it is unknown until an answer of the backend is read; a 502 or 504 is
//!    the word of a proxy before it. The token is presented again once, not before the access token has ended, and later
//!    at most every thirty seconds; where refresh tokens do not rotate, whoever asks presents it again. A backend that gave no decision is left alone for two seconds by those who can wait.
//! 7. *Who.* What was issued is verified like any token, and its subject is the old one: from a verified token, from the
//!    chain, or from our sealed notes. Another subject is refused and revoked. Where nobody knows the subject, only a page
//!    view renews.
//! 8. *Families.* All tokens that descend from one sign-in are a family. Signing out remembers the family until its last
//!    token would have ended, once the backend has ended it: while that is spared, a sign-out is answered with 503 at once and
//!    changes nothing; what a renewal brought meanwhile is ended too. Whether an answer stores or clears cookies is decided
//!    when its head is written; one that took seconds clears none, for somebody may have signed in since. What strangers sign
//!    out takes no place from what users do.
//! 9. *Strangers.* A pair of which nothing tells that it is anybody's (no verified token, no notes, no earlier renewal) can
//!    be sent by anybody: a tenth of the places is for such, each client network may bring few of them, they wait behind
//!    everybody else, and what is remembered of them goes first.
//! 10. *Where a renewal ends the old token* (a capability of the backend), a due token is renewed before its request goes on,
//!     not beside it, and not while another request is upstream with that token, unless less than five seconds are left.
//! 11. *Refused upstream.* An app's 401 to a live session may mean that its token died early: once for each token the session
//!     is renewed, or its newest token taken, and a GET or HEAD without a body is sent once more.
//! 12. *Replicas.* Where several gateways renew the same cookies they share a store ([`share`]). Before a token is presented
//!     its flight holds a claim there, and has written `sent` with a doubt; afterwards it stores the sealed result and ends
//!     the claim in one step. All others wait for that result and never present. A claim is extended and ended by its owner
//!     only, and ends by itself when its owner dies: before `sent` nothing was presented, after it rule 6 applies. While the
//!     store is away, live tokens are served, and nothing is presented to a backend that rotates. Each claim sees in the same
//!     step whether the store came back empty, was restarted or failed over: then it is told again what each replica
//!     remembers, and claims are taken back, before anything new is presented; so it is after each connection that was lost. A
//!     replica that starts lets nobody in before it knows who was signed out, for a few seconds at most. An answer sets no tokens that another replica
//!     has renewed meanwhile, as far as anybody still knows of it: it sets the newest ones, or none.
//! 13. *Turns.* The backend gets a limited number of exchanges at a time ([`admit`]); all others wait, in the client's
//!     `timeout`, and a claim among replicas is sought only with a place in hand, which is given up while another replica holds
//!     the claim. Who waits for an expired session goes before early renewals; within a class client networks take turns. Over
//!     the bound somebody is asked to wait (503) who loses least by it. Sign-outs have turns with the renewals.
//! 14. *A backend that is down is spared.* After several faults in a row, or when most fail, or when it asks for a pause,
//!     nothing is presented; one exchange for a session that is somebody's tries again each second or two. Meanwhile expired
//!     sessions get 503 at once. What strangers send never changes this, and it never ends a session.
//! 15. *Spread.* Sessions that began together come due apart, each at a moment of its own.
//! 16. *Stale.* Where its rule says so ([`need::Need::stale`]), a session whose access token verifies but for its expiry is
//!     served a while longer while the backend gives no decision: never after a refusal or a sign-out, and not with tokens
//!     that its backend has to tell about.
//!
//! # What lives as long as its session
//!
//! WebSocket tunnels and event streams (`text/event-stream`) hold a [`Bond`](renew::Bond) to their session, unless their rule
//! says otherwise. They are closed once the session is refused or signed out here, once another replica tells of either, and
//! once its newest access token that is known here has ended, leeway counted; before that the share is asked once whether another
//! replica renewed it. They renew nothing themselves; whatever else renews the session carries them over.
//! A client's tunnel is closed with 4401, or 1001 in a drain, between frames of the
//! app, and without a word where the app's frame under way does not end in time (RFC 6455 §5.5.1); an event stream comes to the
//! proper end of its body.
//!
//! # Signing in
//!
//! Where there is no id app, the gateway shows a page of its own ([`sign_in`], `login.mode = "form"`):
//!
//! 1. *Each sign-in is a new session.* Its family is random, never one that a browser brought, so no session can be fixed
//!    beforehand. What the backend issued is verified like any token before a cookie is set. A pair that was signed out here
//!    is good again once the backend hands it out anew: its tombstone is lifted, its old family's is not.
//! 2. *Another user's old session is set aside* where the backend rotates, so that no late answer brings it back. It is not
//!    ended at the backend: there, ending one session can end all of a user's, the new one among them.
//! 3. *Nobody else's page signs anybody in.* What the browser says of the form's origin has to name the site, and the form
//!    has to carry the mark that this browser's cookie holds, on this host, for an hour.
//! 4. *Only failures count*, per client network, and per user within it. Per user alone they make attempts slower and never
//!    stop them: a limit that locks is one that strangers can set off. An attempt is charged before the backend is asked.
//! 5. *Nothing tells who exists.* A wrong name and a wrong password get the same page, status and limits.
//!
//! # Connections
//!
//! 1. *Most connections wait.* One without a request under way comes to rest within half a second, sooner in a crowd: what the
//!    HTTP library holds for its next request goes, and comes back with that request's first bytes. What waits is the stream, its
//!    place, and its limit. Each stage of a connection has memory of its own, which goes with it.
//! 2. *Memory comes back.* What a rush took is given back to the system within seconds, by the allocator of the program.
//! 3. *A client's certificate is verified each time.* The TLS library does so in full handshakes; one that resumes an earlier
//!    one is held against the authorities, the lists of what they took back, and the clock again, and nothing is resumed
//!    across a change of these files. Whom it is for is told in headers that are set or deleted like those of a session.
//! 4. *A connection stays with its thread* ([`server::Crew`]). There are as many as processors, each with a runtime for itself, and
//!    a new connection goes to whoever has the fewest tasks. The same thread drives what the app gets for it, on connections that
//!    no other thread uses, so a request wakes nobody else. What belongs to all sessions, such as a flight, runs where it was
//!    first needed; signals, reloads, keys and operators have the main thread. Who asks whether all is well is told so only if
//!    each thread turns.
//!
//! # Opaque tokens
//!
//! A token that is not signed is asked about at its backend ([`check`]). The word that it is active is kept for seconds, and
//! never longer than the token lives. No word is no admission: while the backend cannot be asked, clients are asked to wait
//! (503) and nobody is signed out. A token that is not active may be over or revoked, which nobody can tell apart: it is
//! renewed where a refresh token is there. When it ends is what its backend says, else what our notes say; where neither
//! does, it is never renewed early and lives until its backend says otherwise. Whose it was is then in our notes alone, so
//! the first answer of such a session brings them.
//!
//! Questions have turns as renewals have (rules 9, 13 and 14), in places of their own. A token that was active before, or that
//! comes with our notes, is somebody's; any other could be made up, and waits behind those, few at a time and few from each
//! client network. Notes vouch for one token at a time.
//!
//! # Keys
//!
//! Keys come to the [`verifier`](session::verifier) as a snapshot, each pinned to one algorithm, together with the memory of
//! what they verified: a change of keys forgets all of it at once, and a verification under way cannot bring it back. Where
//! keys are published ([`backend::jwks`]), one task fetches them. Only a token of a key that is not known waits for it, at the
//! [`desk`](session::desk): ten seconds apart where clients bring such tokens, at once where a renewal brought one. What could
//! not be asked is unchecked, which renews nothing and sends nobody to the login.
//!
//! # Other settings
//!
//! A reload ([`assemble`]) builds everything anew beside what runs, and puts it in its place once all of it stands, in steps that
//! cannot fail; a file that cannot be used changes nothing. A request asks once, at its beginning, which
//! [gateway](gateway::current) is in force, and keeps that one to its end; a connection keeps the limits that it began with.
//! What is known of sessions belongs to no settings and is handed on: flights, results, sign-outs, places at the backend and its health,
//! bonds, failed sign-ins, requests that are upstream. A flight ends by the settings that it began with, and its
//! result is there for all; whatever lives longer than that, a tunnel or the ear for other replicas, looks up the settings in force.
//! What verifies tokens goes on with its keys and its memory where the rules are the same. What runs beside a gateway alone ends with it.
//!
//! # What always holds
//!
//! 1. A request reaches an app only as [`forward::Outbound`], and [`forward::clean`] is the only way to one.
//! 2. No identity header, session cookie or connection-specific field of a client reaches an app, on any route, in any
//!    spelling that an app's server could take for ours. Identity headers are set or deleted, never "set if present".
//! 3. The path that was judged is the path that is sent. Where readers could differ about it, no protected path opens.
//! 4. `judge`, `settle`, `clean` and `reply` never wait, read the clock or log.
//! 5. Only a refusal clears cookies, and, with a shared domain, the repair of two cookies under one name.
//! 6. A renewal once begun is finished and its result kept, whatever the client does.
//! 7. A token counts only after the verifier (one algorithm per key, expiry mandatory) or after its backend's word, fresh
//!    ones too.
//! 8. Nothing that says it was forwarded is believed except from listed networks.
//! 9. No secret prints or serialises; no log line, page or metric shows a token, cookie, query or secret.
//! 10. Every wait has a limit, every buffer a cap, every task an owner.
//! 11. Settings come into force whole or not at all, and no session ends by that.

mod access_log;
pub mod admin;
pub mod admit;
pub mod asker;
pub mod assemble;
pub mod backend;
pub mod body;
pub mod certificate;
pub mod check;
pub mod clock;
pub mod config;
pub mod demo;
pub mod dial;
pub mod fields;
pub mod forward;
pub mod gateway;
pub mod gather;
pub mod identity;
pub mod lines;
pub mod log;
pub mod marks;
pub mod meter;
pub mod need;
pub mod network;
pub mod notes;
pub mod outcome;
pub mod peer;
pub mod random;
pub mod renew;
pub mod reply;
pub mod route;
pub mod secret;
pub mod server;
pub mod session;
pub mod share;
pub mod sign_in;
pub mod text;
pub mod token;
pub mod verdict;
