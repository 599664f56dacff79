//! TLS of the listeners: the certificate as its file is now.

use std::path::{Path, PathBuf};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use serde::Deserialize;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

use slipway_service::watched::Watched;

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
