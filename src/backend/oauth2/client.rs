//! How this gateway proves who it is to an OAuth 2 server.
//! In: its id and a secret or a key. Out: [`Proof`], for one call. Errors: [`UnusableKey`]. I/O: random numbers.
//! Source: RFC 6749 §2.3.1 and appendix B (secrets), RFC 7523 §2.2 and §3 (assertions).

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use url::form_urlencoded;

use crate::clock::UnixTime;
use crate::random;
use crate::secret::Secret;

/// How long an assertion is good for: as long as a slow call may be on its way, with clocks that differ a little.
const ASSERTION_LIFE: std::time::Duration = std::time::Duration::from_secs(60);

/// This gateway as a client of the server.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its id there.
    pub id: String,
    /// How it proves that.
    pub auth: ClientAuth,
}

/// How a client proves who it is.
#[derive(Clone, Debug)]
pub enum ClientAuth {
    /// `client_secret_basic`: id and secret in `Authorization`.
    Basic(Secret<String>),
    /// `client_secret_post`: id and secret in the form.
    Post(Secret<String>),
    /// `private_key_jwt`: a token signed for each call.
    PrivateKey(Box<Assertion>),
    /// `none`: the id alone, for clients that have no secret.
    None,
}

/// What assertions are signed with, and for whom.
#[derive(Clone)]
pub struct Assertion {
    header: Header,
    key: EncodingKey,
    audience: String,
}

impl std::fmt::Debug for Assertion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Assertion")
            .field("algorithm", &self.header.alg)
            .field("key_id", &self.header.kid)
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

/// No signature can be made with a key.
#[derive(Debug, thiserror::Error)]
pub enum UnusableKey {
    /// It is no private key in PEM for this algorithm.
    #[error("no private key in PEM for {0:?}")]
    NotFor(Algorithm),
    /// The assertion could not be made.
    #[error("no assertion could be made")]
    Signature(#[from] jsonwebtoken::errors::Error),
    /// No assertion's id could be made.
    #[error(transparent)]
    Random(#[from] random::NoRandom),
}

impl Assertion {
    /// Signs for `audience` with the private key in `pem`.
    ///
    /// # Errors
    /// [`UnusableKey::NotFor`] where that is no private key for the algorithm: a trial signature is made here.
    pub fn new(
        algorithm: Algorithm,
        pem: &Secret<String>,
        key_id: Option<String>,
        audience: String,
    ) -> Result<Self, UnusableKey> {
        let pem = pem.expose().as_bytes();
        let key = match algorithm {
            Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512 => EncodingKey::from_rsa_pem(pem),
            Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(pem),
            Algorithm::EdDSA => EncodingKey::from_ed_pem(pem),
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 | _ => {
                return Err(UnusableKey::NotFor(algorithm));
            }
        };
        let key = key.map_err(|_not_such_a_key| UnusableKey::NotFor(algorithm))?;
        let mut header = Header::new(algorithm);
        header.kid = key_id;
        let made = Self { header, key, audience };
        let trial = made.sign("trial", UnixTime::from_secs(0));
        trial.map_err(|_not_such_a_key| UnusableKey::NotFor(algorithm)).map(|_signed| made)
    }

    fn sign(&self, client: &str, now: UnixTime) -> Result<String, UnusableKey> {
        let mut id = [0; 16];
        random::fill(&mut id)?;
        let claims = json!({
            "iss": client,
            "sub": client,
            "aud": self.audience,
            "jti": URL_SAFE_NO_PAD.encode(id),
            "iat": now.as_secs(),
            "exp": now.saturating_add(ASSERTION_LIFE).as_secs(),
        });
        Ok(jsonwebtoken::encode(&self.header, &claims, &self.key)?)
    }
}

/// What proves it in one call.
pub(super) struct Proof {
    /// The value of `Authorization`.
    pub(super) authorization: Option<Secret<String>>,
    /// Form fields.
    pub(super) fields: Vec<(&'static str, Secret<String>)>,
}

impl Client {
    pub(super) fn prove(&self, now: UnixTime) -> Result<Proof, UnusableKey> {
        let id = ("client_id", Secret::new(self.id.clone()));
        Ok(match &self.auth {
            ClientAuth::Basic(secret) => Proof {
                authorization: Some(Secret::new(basic(&self.id, secret.expose()))),
                fields: Vec::new(),
            },
            ClientAuth::Post(secret) => {
                Proof { authorization: None, fields: vec![id, ("client_secret", secret.clone())] }
            }
            ClientAuth::PrivateKey(assertion) => {
                let signed = Secret::new(assertion.sign(&self.id, now)?);
                let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer".to_owned();
                let kind = ("client_assertion_type", Secret::new(kind));
                Proof { authorization: None, fields: vec![id, kind, ("client_assertion", signed)] }
            }
            ClientAuth::None => Proof { authorization: None, fields: vec![id] },
        })
    }
}

/// Both are encoded as form fields before they are joined by the colon that an id may hold (RFC 6749 §2.3.1).
fn basic(id: &str, secret: &str) -> String {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    format!("Basic {}", STANDARD.encode(format!("{}:{}", encoded(id), encoded(secret))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_and_secret_are_form_encoded_before_they_are_joined() {
        let decoded = |line: String| {
            let encoded = line.strip_prefix("Basic ").expect("the scheme").to_owned();
            String::from_utf8(STANDARD.decode(encoded).expect("base64")).expect("text")
        };
        assert_eq!(decoded(basic("gateway", "s3cr3t")), "gateway:s3cr3t");
        assert_eq!(decoded(basic("a:b c", "p%&+/=\u{e9}")), "a%3Ab+c:p%25%26%2B%2F%3D%C3%A9");
    }

    #[test]
    fn nothing_of_it_prints() {
        let secret = Secret::new("hidden-secret".to_owned());
        for auth in [ClientAuth::Basic(secret.clone()), ClientAuth::Post(secret)] {
            let client = Client { id: "gateway".into(), auth };
            assert!(!format!("{client:?}").contains("hidden"));
        }
    }
}
