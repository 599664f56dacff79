//! An authority that gives out certificates of every kind, good and bad.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use slipway_service::tls::TlsFiles;

/// See the module's page.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// What a certificate is to be.
#[derive(Default)]
pub struct Wanted<'a> {
    pub organization: Option<&'a str>,
    pub host: Option<IpAddr>,
    pub serial: u8,
    pub expired: bool,
}

impl Authority {
    pub fn new(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        fs::write(
            folder.join("ca.pem"),
            params.self_signed(&key).unwrap().pem(),
        )
        .unwrap();
        let new = Self {
            folder: folder.to_owned(),
            issuer: Issuer::new(params, key),
        };
        new.revoke(&[]);
        new
    }

    /// Writes `<name>.pem` and `<name>.key`.
    pub fn issue(&self, name: &str, wanted: &Wanted<'_>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(organization) = wanted.organization {
            let kind = DnType::OrganizationName;
            params.distinguished_name.push(kind, organization);
        }
        params.subject_alt_names = wanted.host.into_iter().map(SanType::IpAddress).collect();
        params.serial_number = Some(SerialNumber::from_slice(&[wanted.serial]));
        if wanted.expired {
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        self.put(&format!("{name}.key"), &key.serialize_pem());
        self.put(&format!("{name}.pem"), &certificate.pem());
    }

    /// Writes `crl.pem`.
    pub fn revoke(&self, serials: &[u8]) {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&[*serial]),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from_slice(&[1]),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).unwrap();
        self.put("crl.pem", &list.pem().unwrap());
    }

    /// Whole or not at all, as whoever replaces such files should.
    fn put(&self, name: &str, text: &str) {
        let part = self.folder.join("part");
        fs::write(&part, text).unwrap();
        fs::rename(part, self.path(name)).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn files(&self, name: &str) -> TlsFiles {
        TlsFiles {
            cert: self.path(&format!("{name}.pem")),
            key: self.path(&format!("{name}.key")),
            ca: Some(self.path("ca.pem")),
            crl: Some(self.path("crl.pem")),
        }
    }
}
