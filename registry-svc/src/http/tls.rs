//! TLS of the listeners: the certificate as its file is now, and who a client's certificate says he is.

use std::path::{Path, PathBuf};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use serde::Deserialize;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

use crate::access::watched::Watched;

/// `[http_tls]`: PEM files.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// Own certificate, and those between it and its authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities whose certificates say who a client is; who shows none is not turned away.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
}

/// Files that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("registry.toml: http_tls: {}: {message}", path.display())]
pub struct TlsError {
    path: PathBuf,
    message: String,
}

/// See the module's page.
pub struct Tls(Watched<ServerConfig>);

impl Tls {
    /// Reads the files; again whenever one of them is another.
    pub fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let paths = [&files.cert, &files.key]
            .into_iter()
            .chain(&files.client_ca);
        let paths = paths.cloned().collect();
        let config = Watched::new("the certificate", paths, move || config(&files))?;
        Ok(Self(config))
    }

    /// For one connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.0.get().into()
    }
}

fn config(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let chain = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(fail(&files.key))?;
    let builder = ServerConfig::builder();
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path)? {
                roots.add(authority).map_err(fail(path))?;
            }
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated();
            builder.with_client_cert_verifier(verifier.build().map_err(fail(path))?)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(fail(&files.cert))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let found: Vec<_> = read.map_err(fail(path))?;
    match found.is_empty() {
        true => Err(fail(path)("there is no certificate in it")),
        false => Ok(found),
    }
}

fn fail<E: ToString>(path: &Path) -> impl FnOnce(E) -> TlsError {
    let path = path.to_owned();
    move |error| TlsError {
        path,
        message: error.to_string(),
    }
}

/// The common name of a certificate's subject (RFC 5280, 4.1.2.6); `None` when it has none, or several.
pub fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    // id-at-commonName, 2.5.4.3
    const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
    const SEQUENCE: u8 = 0x30;
    const SET: u8 = 0x31;
    const OBJECT: u8 = 0x06;
    /// UTF8String, PrintableString, IA5String
    const STRINGS: [u8; 3] = [0x0c, 0x13, 0x16];
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    // The contents of the outermost SEQUENCE.
    let mut names = certificate.subject();
    let mut found = None;
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
            let (string, value) = element(&mut pair)?;
            if kind != COMMON_NAME {
                continue;
            }
            let value = str::from_utf8(value).ok()?;
            let plain = STRINGS.contains(&string) && !value.chars().any(char::is_control);
            if !plain || value.is_empty() || found.replace(value.to_owned()).is_some() {
                return None;
            }
        }
    }
    found
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
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    fn named(names: &[(DnType, &str)]) -> Option<String> {
        let mut subject = DistinguishedName::new();
        for (kind, value) in names {
            subject.push(kind.clone(), *value);
        }
        let mut params = CertificateParams::new(vec!["other.example".to_owned()]).unwrap();
        params.distinguished_name = subject;
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        common_name(certificate.der())
    }

    #[test]
    fn a_client_is_who_the_subject_of_his_certificate_says() {
        use DnType::{CommonName, OrganizationName};
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
        assert_eq!(common_name(&CertificateDer::from(vec![0x30, 0x82])), None);
    }
}
