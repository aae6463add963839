//! Whom a client certificate is for.
//! In: a certificate that was verified. Out: [`ClientCertificate`]. Errors: [`Unreadable`]. I/O: none.
//! Source: RFC 5280 §4.1.2.6 and §4.2.1.6 (subject and its other names), RFC 4514 (a subject as text).

use std::fmt::Write as _;
use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// Whom a client certificate is for. Only what was verified becomes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Its subject as RFC 4514 writes it, the most specific part first: `CN=ana,O=Example`.
    pub subject: String,
    /// Its other names that have a form everybody knows: `DNS:…`, `email:…`, `URI:…`, `IP:…`.
    pub names: Vec<String>,
    /// SHA-256 of the whole certificate, in lower-case hexadecimal digits.
    pub fingerprint: String,
}

/// What was verified cannot be read all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a client certificate cannot be read")]
pub struct Unreadable;

impl ClientCertificate {
    /// Reads a certificate (DER).
    ///
    /// # Errors
    /// [`Unreadable`] where it is none, or its other names are malformed.
    pub fn read(der: &[u8]) -> Result<Self, Unreadable> {
        let certificate = Certificate::from_der(der).map_err(|_what| Unreadable)?.tbs_certificate;
        let names = certificate.get::<SubjectAltName>().map_err(|_what| Unreadable)?;
        let names = names.map_or_else(Vec::new, |(_critical, names)| names.0);
        let mut fingerprint = String::with_capacity(64);
        for byte in digest(&SHA256, der).as_ref() {
            write!(fingerprint, "{byte:02x}").map_err(|_what| Unreadable)?;
        }
        Ok(Self {
            subject: certificate.subject.to_string(),
            names: names.iter().filter_map(text).collect(),
            fingerprint,
        })
    }
}

/// A name with its kind before it; `None`: one of a kind that has no usual text.
fn text(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(format!("DNS:{}", name.as_str())),
        GeneralName::Rfc822Name(name) => Some(format!("email:{}", name.as_str())),
        GeneralName::UniformResourceIdentifier(name) => Some(format!("URI:{}", name.as_str())),
        GeneralName::IpAddress(bytes) => {
            let ip = match bytes.as_bytes() {
                v4 if v4.len() == 4 => IpAddr::from(<[u8; 4]>::try_from(v4).ok()?),
                v6 => IpAddr::from(<[u8; 16]>::try_from(v6).ok()?),
            };
            Some(format!("IP:{ip}"))
        }
        GeneralName::OtherName(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EdiPartyName(_)
        | GeneralName::RegisteredId(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType, string::Ia5String};

    use super::*;

    fn certificate(parts: &[(DnType, &str)], names: Vec<SanType>) -> ClientCertificate {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in parts {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.subject_alt_names = names;
        let certificate = params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate");
        ClientCertificate::read(certificate.der()).expect("readable")
    }

    #[test]
    fn a_subject_is_written_so_that_no_part_can_be_taken_for_another() {
        let parts = [(DnType::OrganizationName, "Example"), (DnType::CommonName, "ana,O=Root+CN=\"x\"\\")];
        let ana = certificate(&parts, Vec::new());
        assert_eq!(ana.subject, r#"CN=ana\,O=Root\+CN=\"x\"\\,O=Example"#);
        assert_eq!(ana.names, Vec::<String>::new());
        assert_eq!(certificate(&[], Vec::new()).subject, "");
    }

    #[test]
    fn other_names_say_of_what_kind_they_are() {
        let text = |text: &str| Ia5String::try_from(text).expect("ASCII");
        let names = vec![
            SanType::DnsName(text("a.example")),
            SanType::Rfc822Name(text("ana@a.example")),
            SanType::URI(text("spiffe://a/b")),
            SanType::IpAddress([10, 0, 0, 1].into()),
            SanType::IpAddress(std::net::Ipv6Addr::LOCALHOST.into()),
        ];
        let ana = certificate(&[(DnType::CommonName, "ana")], names);
        let expected = ["DNS:a.example", "email:ana@a.example", "URI:spiffe://a/b", "IP:10.0.0.1", "IP:::1"];
        assert_eq!(ana.names, expected);
        assert_eq!(ana.fingerprint.len(), 64);
    }

    #[test]
    fn what_is_no_certificate_is_not_read() {
        assert_eq!(ClientCertificate::read(b"0"), Err(Unreadable));
    }
}
