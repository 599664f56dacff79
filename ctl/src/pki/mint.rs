//! Keys, certificates and lists, as RFC 5280 wants them.

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::record::{Record, after};
use crate::failure::{Failure, Outcome};

/// How far behind another host's clock may be: what is issued now is good there, too.
const SKEW: SignedDuration = SignedDuration::from_mins(5);

/// How long a list says that it is good for. Who checks does not look at that: a list that was not renewed is
/// better than none, and one that keeps everybody out would be switched off.
const LIST_DAYS: u32 = 3650;

/// What an authority is, but for its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    pub name: String,
    pub made: Timestamp,
    pub ends: Timestamp,
}

impl About {
    /// Without a name it gets one that no other has: of two authorities of the same name, errors would be hard to
    /// tell apart.
    pub fn new(name: Option<String>, now: Timestamp, days: u32) -> Outcome<Self> {
        let name = match name {
            Some(name) if name.is_empty() || name.len() > 64 || name.contains(char::is_control) => {
                return Err(Failure::new(
                    "the name of an authority has 1 to 64 characters",
                ));
            }
            Some(name) => name,
            None => {
                let mut random = [0; 4];
                SystemRandom::new()
                    .fill(&mut random)
                    .map_err(|_| Failure::new("the system gives no random numbers"))?;
                format!("Slipway {}", hex::encode(random))
            }
        };
        Ok(Self {
            name,
            made: now,
            ends: after(now, days)?,
        })
    }

    fn params(&self) -> Outcome<CertificateParams> {
        let mut params = empty();
        params
            .distinguished_name
            .push(DnType::CommonName, self.name.as_str());
        params.not_before = date(self.made - SKEW)?;
        params.not_after = date(self.ends)?;
        // Nobody below it may be an authority himself.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(params)
    }
}

/// On the curve P-256: all that speak TLS know it.
pub fn key() -> Outcome<KeyPair> {
    KeyPair::generate().map_err(failed)
}

/// The authority's own certificate (PEM).
pub fn authority(about: &About, key: &KeyPair) -> Outcome<String> {
    let certificate = about.params()?.self_signed(key).map_err(failed)?;
    Ok(certificate.pem())
}

/// Somebody's certificate (PEM).
pub fn certificate(
    about: &About,
    authority: &KeyPair,
    record: &Record,
    key: &KeyPair,
) -> Outcome<String> {
    let mut params = empty();
    let names = &mut params.distinguished_name;
    if let Some(role) = &record.to.role {
        names.push(DnType::OrganizationName, role.as_str());
        // Who has no role calls nobody.
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        params.extended_key_usages.push(usage);
    }
    names.push(DnType::CommonName, record.to.name.as_str());
    for host in &record.to.hosts {
        let name = match host.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(host.as_str().try_into().map_err(failed)?),
        };
        params.subject_alt_names.push(name);
    }
    if !record.to.hosts.is_empty() {
        let usage = ExtendedKeyUsagePurpose::ServerAuth;
        params.extended_key_usages.push(usage);
    }
    params.serial_number = Some(serial(record)?);
    params.not_before = date(record.issued - SKEW)?;
    params.not_after = date(record.ends)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let issuer = Issuer::new(about.params()?, authority);
    let certificate = params.signed_by(key, &issuer).map_err(failed)?;
    Ok(certificate.pem())
}

/// The list of those that were revoked (PEM).
pub fn list(
    about: &About,
    authority: &KeyPair,
    records: &[Record],
    now: Timestamp,
) -> Outcome<String> {
    let mut revoked_certs = Vec::new();
    for record in records {
        if let Some(at) = record.revoked {
            revoked_certs.push(RevokedCertParams {
                serial_number: serial(record)?,
                revocation_time: date(at)?,
                reason_code: None,
                invalidity_date: None,
            });
        }
    }
    let params = CertificateRevocationListParams {
        this_update: date(now - SKEW)?,
        next_update: date(after(now, LIST_DAYS)?)?,
        // Each is above the one before it (RFC 5280, 5.2.3).
        crl_number: SerialNumber::from_slice(&now.as_nanosecond().to_be_bytes()[8..]),
        issuing_distribution_point: None,
        revoked_certs,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let issuer = Issuer::new(about.params()?, authority);
    let list = params.signed_by(&issuer).map_err(failed)?;
    list.pem().map_err(failed)
}

fn empty() -> CertificateParams {
    let mut params = CertificateParams::default();
    // It has a name of its own.
    params.distinguished_name = DistinguishedName::new();
    params
}

fn serial(record: &Record) -> Outcome<SerialNumber> {
    let bytes = hex::decode(&record.serial).map_err(|_| {
        let serial = &record.serial;
        Failure::new(format!(
            "{serial:?} is no serial number: the record is damaged"
        ))
    })?;
    Ok(SerialNumber::from_slice(&bytes))
}

fn date(time: Timestamp) -> Outcome<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(time.as_second()).map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(format!("cannot make the certificate: {error}"))
}
