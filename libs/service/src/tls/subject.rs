//! Whom a certificate is for: the names of its subject.

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// id-at-commonName, 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// id-at-organizationName, 2.5.4.10
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];

/// What a certificate says of whom it is for (RFC 5280, 4.1.2.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Its common name; `None` when it has none, or several: whoever signs such a one means none of them.
    pub name: Option<String>,
    /// Its organizations, in their order.
    pub organizations: Vec<String>,
    /// Its number at its authority, in hex.
    pub serial: String,
}

impl Subject {
    /// `None` when it cannot be read, or has control characters or empty names in it.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = EndEntityCert::try_from(certificate).ok()?;
        let serial = certificate.serial().iter();
        let mut commons = Vec::new();
        let mut organizations = Vec::new();
        // The contents of the outermost SEQUENCE.
        let mut names = certificate.subject();
        while !names.is_empty() {
            let (SET, mut set) = element(&mut names)? else {
                return None;
            };
            while !set.is_empty() {
                let (SEQUENCE, mut pair) = element(&mut set)? else {
                    return None;
                };
                let (OBJECT, kind) = element(&mut pair)? else {
                    return None;
                };
                let value = element(&mut pair)?;
                match kind {
                    COMMON_NAME => commons.push(text(value)?),
                    ORGANIZATION => organizations.push(text(value)?),
                    _ => {}
                }
            }
        }
        Some(Self {
            name: commons.pop().filter(|_| commons.is_empty()),
            organizations,
            serial: serial.map(|byte| format!("{byte:02x}")).collect(),
        })
    }
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT: u8 = 0x06;
/// UTF8String, PrintableString, IA5String
const STRINGS: [u8; 3] = [0x0c, 0x13, 0x16];

fn text((tag, value): (u8, &[u8])) -> Option<String> {
    let value = str::from_utf8(value).ok()?;
    let plain = STRINGS.contains(&tag) && !value.is_empty() && !value.chars().any(char::is_control);
    plain.then(|| value.to_owned())
}

/// The first element of some DER, and what it contains (X.690, 8.1); a subject is below 64 KiB.
fn element<'a>(der: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match (first, rest) {
        (0..=0x7f, _) => (usize::from(first), rest),
        (0x81, [length, rest @ ..]) => (usize::from(*length), rest),
        (0x82, [high, low, rest @ ..]) => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    *der = rest;
    Some((tag, content))
}

#[cfg(test)]
mod tests {
    use rcgen::{
        CertificateParams, DistinguishedName, DnType,
        DnType::{CommonName, OrganizationName},
        KeyPair, SerialNumber,
    };

    use super::*;

    fn subject(names: &[(DnType, &str)]) -> Option<Subject> {
        let mut subject = DistinguishedName::new();
        for (kind, value) in names {
            subject.push(kind.clone(), *value);
        }
        let mut params = CertificateParams::new(vec!["other.example".to_owned()]).unwrap();
        params.distinguished_name = subject;
        params.serial_number = Some(SerialNumber::from_slice(&[0x0a, 0xff]));
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Subject::of(certificate.der())
    }

    fn named(names: &[(DnType, &str)]) -> Option<String> {
        subject(names)?.name
    }

    #[test]
    fn a_client_is_who_the_subject_of_his_certificate_says() {
        assert_eq!(named(&[(CommonName, "ci")]).as_deref(), Some("ci"));
        let long = "x".repeat(200);
        let got = named(&[(OrganizationName, "cert:CN=admin"), (CommonName, &long)]);
        assert_eq!(got, Some(long));
        assert_eq!(named(&[(OrganizationName, "ci")]), None);
        assert_eq!(named(&[]), None);
        assert_eq!(named(&[(CommonName, "ci\nadmin")]), None);
        assert_eq!(named(&[(CommonName, "")]), None);
        // Two of them: whoever signs one of such does not mean one of the names.
        let twice = DnType::CustomDnType(vec![2, 5, 4, 3]);
        assert_eq!(named(&[(CommonName, "ci"), (twice, "admin")]), None);
        assert_eq!(Subject::of(&CertificateDer::from(vec![0x30, 0x82])), None);
    }

    #[test]
    fn organizations_are_read_all_and_apart_from_the_name() {
        let second = DnType::CustomDnType(vec![2, 5, 4, 10]);
        let names = [
            (OrganizationName, "build"),
            (CommonName, "admin"),
            (second.clone(), "read"),
        ];
        let found = subject(&names).unwrap();
        assert_eq!(found.name.as_deref(), Some("admin"));
        assert_eq!(found.organizations, ["build", "read"]);
        assert_eq!(found.serial, "0aff");
        assert_eq!(subject(&[(OrganizationName, "a\0dmin")]), None);
    }
}
