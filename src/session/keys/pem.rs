//! A public key or a certificate as PEM (RFC 7468).
//! In: text. Out: [`VerificationKey`]. Errors: [`KeyFault`]. I/O: none.

use jsonwebtoken::Algorithm;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{PemObject as _, SectionKind};

use crate::session::keys::{KeyFault, PublicKey, VerificationKey};

/// Whether a text is meant as PEM: a secret does not begin so.
#[must_use]
pub fn looks_like_pem(text: &str) -> bool {
    text.contains("-----BEGIN ")
}

/// The one public key in a PEM text, or the key of its one certificate. Of a certificate nothing but the key counts.
///
/// # Errors
/// [`KeyFault`] where there is none, more than one, or one that is not used with any of the listed algorithms.
pub fn read_pem(text: &str, listed: &[Algorithm]) -> Result<VerificationKey, KeyFault> {
    let sections: Result<Vec<(SectionKind, Vec<u8>)>, _> =
        <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()).collect();
    let mut found = Vec::new();
    for (kind, der) in sections.map_err(|_no_pem| KeyFault::Unreadable)? {
        match kind {
            SectionKind::PublicKey => found.push(der),
            SectionKind::Certificate => found.push(key_of(der)?),
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                return Err(KeyFault::Private);
            }
            SectionKind::Crl | SectionKind::Csr | SectionKind::EchConfigList | _ => {}
        }
    }
    match found.as_slice() {
        [] => Err(KeyFault::Empty),
        [der] => PublicKey::from_spki(der)?.pin(listed, None, None),
        [_, _, ..] => Err(KeyFault::Several),
    }
}

fn key_of(certificate: Vec<u8>) -> Result<Vec<u8>, KeyFault> {
    let certificate = CertificateDer::from(certificate);
    let read = webpki::EndEntityCert::try_from(&certificate).map_err(|_odd| KeyFault::Certificate)?;
    Ok(read.subject_public_key_info().to_vec())
}
