//! Mutual TLS for tcp listeners and clients.

use std::{io, path::PathBuf};

use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

/// The PEM files of one side of a connection.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// Own certificate chain.
    pub cert: PathBuf,
    /// Own private key.
    pub key: PathBuf,
    /// Authorities that the other side's certificate must come from.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

/// A certificate file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {source}", path.display())]
pub struct TlsError {
    path: PathBuf,
    source: io::Error,
}

impl TlsFiles {
    /// All or nothing: `Err` when only one of certificate and key is there, or an authority without them.
    pub(crate) fn from_parts(
        cert: Option<PathBuf>,
        key: Option<PathBuf>,
        ca: Option<PathBuf>,
    ) -> Result<Option<Self>, ()> {
        match (cert, key) {
            (Some(cert), Some(key)) => Ok(Some(Self { cert, key, ca })),
            (None, None) if ca.is_none() => Ok(None),
            _ => Err(()),
        }
    }

    /// The other side must show a certificate, too.
    pub const fn is_mutual(&self) -> bool {
        self.ca.is_some()
    }

    fn read(path: &PathBuf) -> Result<Vec<u8>, TlsError> {
        std::fs::read(path).map_err(|source| TlsError {
            path: path.clone(),
            source,
        })
    }

    fn identity(&self) -> Result<Identity, TlsError> {
        Ok(Identity::from_pem(
            Self::read(&self.cert)?,
            Self::read(&self.key)?,
        ))
    }

    /// For a listener. With `ca` every client must show a certificate from it.
    pub fn server(&self) -> Result<ServerTlsConfig, TlsError> {
        let config = ServerTlsConfig::new().identity(self.identity()?);
        Ok(match &self.ca {
            Some(ca) => config.client_ca_root(Certificate::from_pem(Self::read(ca)?)),
            None => config,
        })
    }

    /// For a client.
    pub fn client(&self) -> Result<ClientTlsConfig, TlsError> {
        let config = ClientTlsConfig::new().identity(self.identity()?);
        Ok(match &self.ca {
            Some(ca) => config.ca_certificate(Certificate::from_pem(Self::read(ca)?)),
            None => config,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_without_a_certificate_of_our_own_is_not_ignored() {
        let path = || Some(PathBuf::from("x.pem"));
        assert_eq!(TlsFiles::from_parts(None, None, None), Ok(None));
        assert!(TlsFiles::from_parts(None, None, path()).is_err());
        assert!(TlsFiles::from_parts(path(), None, path()).is_err());
        let both = TlsFiles::from_parts(path(), path(), None).unwrap().unwrap();
        assert!(!both.is_mutual());
    }
}
