//! Sealing of what leaves the process and has to come back unread and unchanged.
//! In: bytes and what they are bound to. Out: base64url text. Errors: what does not open is `None`. I/O: random numbers.
//! Source: RFC 8439 (AEAD) with the 192-bit nonce of XChaCha20-Poly1305; RFC 5869 (HKDF).

use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::{hkdf, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use crate::outcome::{Capabilities, SessionKey};
use crate::random;
use crate::secret::Secret;
use crate::token::Pair;

const NONCE: usize = 24;

/// Seals with its first key, opens with any: keys are rotated by putting a new one in front.
#[derive(Clone)]
pub struct Sealer {
    keys: Vec<XChaCha20Poly1305>,
}

impl Sealer {
    /// A sealer with one key per secret.
    #[must_use]
    pub fn new(secrets: &[Secret<Vec<u8>>]) -> Self {
        let key =
            |secret: &Secret<Vec<u8>>| XChaCha20Poly1305::new(&derive(secret, b"doorkeep seal v1").into());
        Self { keys: secrets.iter().map(key).collect() }
    }

    /// Seals `plain`, bound to `bound_to`: it opens only beside the same. `None` where the system has no random numbers.
    #[must_use]
    pub fn seal(&self, plain: &[u8], bound_to: &[u8]) -> Option<String> {
        let mut nonce = [0_u8; NONCE];
        random::fill(&mut nonce).ok()?;
        let sealed = self
            .keys
            .first()?
            .encrypt(XNonce::from_slice(&nonce), Payload { msg: plain, aad: bound_to })
            .ok()?;
        Some(URL_SAFE_NO_PAD.encode([nonce.as_slice(), &sealed].concat()))
    }

    /// What was sealed in `text`, or `None` where it was not sealed here, for this purpose, unchanged.
    #[must_use]
    pub fn open(&self, text: &str, bound_to: &[u8]) -> Option<Vec<u8>> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE)?;
        let payload = || Payload { msg: sealed, aad: bound_to };
        self.keys.iter().find_map(|key| key.decrypt(XNonce::from_slice(nonce), payload()).ok())
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").field("keys", &self.keys.len()).finish()
    }
}

/// Names what a client presents by a keyed digest, so that no table, log line or store has to hold a token.
#[derive(Clone, Debug)]
pub struct SessionKeys {
    mac: hmac::Key,
    backend: String,
    /// Tells these keys from others.
    number: u64,
}

/// How many such keys there have been.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

impl SessionKeys {
    /// Keys for the sessions of the backend with this id.
    #[must_use]
    pub fn new(secret: &Secret<Vec<u8>>, backend: &str) -> Self {
        let mac = hmac::Key::new(hmac::HMAC_SHA256, &derive(secret, b"doorkeep session key v1"));
        Self { mac, backend: backend.to_owned(), number: NUMBERS.fetch_add(1, Ordering::Relaxed) }
    }

    /// Another one for each that was made: what they named is not taken for what others name.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The key of a presented pair: of its refresh token, and of its session id and access token where its wire presents those.
    /// What a wire does not present is not in it: a browser may bring it with one request and not with the next.
    #[must_use]
    pub fn of(&self, pair: &Pair, presents: &Capabilities) -> SessionKey {
        let session = pair.session.as_ref().filter(|_| presents.needs_session);
        let access = pair.access.as_ref().filter(|_| presents.needs_access);
        let session = session.map_or("", |id| id.expose());
        self.digest(&[&self.backend, session, pair.refresh.expose(), access.map_or("", |t| t.expose())])
    }

    /// The digest of these values, each preceded by its length so that none can run into the next.
    #[must_use]
    pub fn digest(&self, values: &[&str]) -> SessionKey {
        let mut mac = hmac::Context::with_key(&self.mac);
        for value in values {
            mac.update(&(value.len() as u64).to_be_bytes());
            mac.update(value.as_bytes());
        }
        let mut key = [0_u8; 32];
        key.copy_from_slice(mac.sign().as_ref());
        SessionKey(key)
    }
}

fn derive(secret: &Secret<Vec<u8>>, purpose: &[u8]) -> [u8; 32] {
    let mut key = [0_u8; 32];
    let purposes = [purpose];
    let filled = hkdf::Salt::new(hkdf::HKDF_SHA256, b"doorkeep")
        .extract(secret.expose())
        .expand(&purposes, hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut key));
    debug_assert!(filled.is_ok(), "32 bytes are one block of HKDF-SHA-256");
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Ahead, Introspects};
    use crate::token::{AccessToken, RefreshToken, SessionId};

    fn secret(byte: u8) -> Secret<Vec<u8>> {
        Secret::new(vec![byte; 32])
    }

    #[test]
    fn what_is_sealed_opens_only_unchanged_and_in_its_place() {
        let sealer = Sealer::new(&[secret(1)]);
        let text = sealer.seal(b"hello", b"cookie a").expect("random numbers");
        assert_eq!(sealer.open(&text, b"cookie a").as_deref(), Some(&b"hello"[..]));
        assert_eq!(sealer.open(&text, b"cookie b"), None);
        assert_eq!(Sealer::new(&[secret(2)]).open(&text, b"cookie a"), None);
        for i in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[i] = if changed[i] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("ASCII");
            if changed != text {
                assert_eq!(sealer.open(&changed, b"cookie a"), None, "byte {i}");
            }
        }
        assert_eq!(sealer.open("", b"cookie a"), None);
        assert_eq!(sealer.open("AAAA", b"cookie a"), None);
    }

    #[test]
    fn an_old_key_still_opens_after_rotation() {
        let text = Sealer::new(&[secret(1)]).seal(b"x", b"").expect("random numbers");
        assert!(Sealer::new(&[secret(2), secret(1)]).open(&text, b"").is_some());
        let fresh = Sealer::new(&[secret(2), secret(1)]).seal(b"x", b"").expect("random numbers");
        assert!(Sealer::new(&[secret(1)]).open(&fresh, b"").is_none());
    }

    /// What a wire presents beside the refresh token.
    fn presents(session: Beside, access: Beside) -> Capabilities {
        Capabilities {
            rotates: true,
            needs_session: session == Beside::Yes,
            needs_access: access == Beside::Yes,
            revokes_with_live_access: false,
            kills_access: false,
            renews_on_401: false,
            introspects: Introspects::Never,
            ahead: Ahead::Percent(50),
        }
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Beside {
        Yes,
        No,
    }

    fn pair(session: &str, refresh: &str, access: &str) -> Pair {
        Pair {
            refresh: RefreshToken::parse(refresh).expect("a token"),
            access: AccessToken::parse(access),
            session: SessionId::parse(session),
        }
    }

    #[test]
    fn keys_do_not_run_into_each_other() {
        let (keys, wire) = (SessionKeys::new(&secret(1), "d"), presents(Beside::Yes, Beside::No));
        let one = keys.of(&pair("ab", "c", ""), &wire);
        assert_ne!(one, keys.of(&pair("a", "bc", ""), &wire));
        assert_eq!(one, keys.of(&pair("ab", "c", ""), &wire));
        assert_ne!(one, SessionKeys::new(&secret(1), "e").of(&pair("ab", "c", ""), &wire));
    }

    #[test]
    fn what_a_wire_does_not_present_is_not_in_its_key() {
        let keys = SessionKeys::new(&secret(1), "d");
        for session in [Beside::Yes, Beside::No] {
            for access in [Beside::Yes, Beside::No] {
                let of = |pair: Pair| keys.of(&pair, &presents(session, access));
                let whole = of(pair("s", "r", "a"));
                assert_eq!(whole == of(pair("", "r", "a")), session == Beside::No);
                assert_eq!(whole == of(pair("s", "r", "")), access == Beside::No);
                assert_ne!(whole, of(pair("s", "q", "a")));
            }
        }
    }
}
