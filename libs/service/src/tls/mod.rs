//! Mutual TLS for tcp listeners and clients, by files that are read again when they are others.
//!
//! TLS 1.3 and nothing older: all that speak it here are ours. Sessions are never resumed, since what was
//! proven in the last one may have been revoked.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};

pub mod accept;
pub mod client;
pub mod server;
pub mod subject;
mod words;

pub use words::explain;

/// What both sides offer: HTTP/2, which gRPC is upon.
const PROTOCOL: &[u8] = b"h2";

/// The PEM files of one side of a connection.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// Own certificate chain.
    pub cert: PathBuf,
    /// Own private key.
    pub key: PathBuf,
    /// Authorities that the other side's certificate must come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Lists of what they have revoked; without it nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crl: Option<PathBuf>,
}

/// A certificate file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}: {message}", path.display())]
pub struct TlsError {
    path: PathBuf,
    message: String,
}

impl TlsFiles {
    /// All or nothing: `Err` when only one of certificate and key is there, or an authority without them, or
    /// a list of revoked ones without that.
    pub(crate) fn from_parts(
        cert: Option<PathBuf>,
        key: Option<PathBuf>,
        ca: Option<PathBuf>,
        crl: Option<PathBuf>,
    ) -> Result<Option<Self>, ()> {
        match (cert, key) {
            (Some(cert), Some(key)) if ca.is_some() || crl.is_none() => {
                Ok(Some(Self { cert, key, ca, crl }))
            }
            (None, None) if ca.is_none() && crl.is_none() => Ok(None),
            _ => Err(()),
        }
    }

    /// The other side must show a certificate, too.
    pub const fn is_mutual(&self) -> bool {
        self.ca.is_some()
    }

    /// All of them, to be watched.
    fn paths(&self) -> Vec<PathBuf> {
        let own = [&self.cert, &self.key];
        own.into_iter()
            .chain(&self.ca)
            .chain(&self.crl)
            .cloned()
            .collect()
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        certificates(&self.cert)
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_file(&self.key).map_err(fail(&self.key))
    }

    /// The certificate and its key, which must be of each other.
    fn pair(&self) -> Result<CertifiedKey, TlsError> {
        CertifiedKey::from_der(self.chain()?, self.private_key()?, &provider())
            .map_err(fail(&self.cert))
    }

    /// The authorities, where there are any.
    fn roots(&self) -> Result<Option<(&Path, Arc<RootCertStore>)>, TlsError> {
        let Some(path) = &self.ca else {
            return Ok(None);
        };
        let mut roots = RootCertStore::empty();
        for authority in certificates(path)? {
            roots.add(authority).map_err(fail(path))?;
        }
        Ok(Some((path, Arc::new(roots))))
    }

    fn revoked(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
        let Some(path) = &self.crl else {
            return Ok(Vec::new());
        };
        let read = CertificateRevocationListDer::pem_file_iter(path).and_then(Iterator::collect);
        let found: Vec<_> = read.map_err(fail(path))?;
        match found.is_empty() {
            true => Err(fail(path)("there is no list of revoked certificates in it")),
            false => Ok(found),
        }
    }
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

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_without_a_certificate_of_our_own_is_not_ignored() {
        let path = || Some(PathBuf::from("x.pem"));
        let parts = TlsFiles::from_parts;
        assert_eq!(parts(None, None, None, None), Ok(None));
        assert!(parts(None, None, path(), None).is_err());
        assert!(parts(path(), None, path(), None).is_err());
        assert!(parts(path(), path(), None, path()).is_err());
        assert!(parts(None, None, None, path()).is_err());
        let both = parts(path(), path(), None, None).unwrap().unwrap();
        assert!(!both.is_mutual());
        let all = parts(path(), path(), path(), path()).unwrap().unwrap();
        assert!(all.is_mutual());
    }
}
