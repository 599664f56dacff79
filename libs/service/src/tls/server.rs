//! The side that listens: handshakes by the files as they are now, and whether a certificate that was shown
//! once is still good.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use rustls::{
    Error, ServerConfig,
    pki_types::{CertificateDer, UnixTime},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::TLS13,
};
use tokio_rustls::TlsAcceptor;

use super::{PROTOCOL, TlsError, TlsFiles, fail, provider};
use crate::watched::Watched;

/// How long a certificate that was found good is not looked at again while the files are the same: it may
/// expire meanwhile.
const AGAIN: Duration = Duration::from_secs(60);

/// How long the files themselves are not looked at for calls on a connection that there is.
const PAUSE: Duration = Duration::from_secs(1);

/// What a listener's handshakes are made with.
#[derive(Debug)]
pub struct Acceptor(Watched<Terms>);

struct Terms {
    config: Arc<ServerConfig>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

impl Acceptor {
    /// Reads the files; again whenever one of them is another.
    pub fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let paths = files.paths();
        let terms = Watched::new("the certificate of the tcp listeners", paths, move || {
            terms(&files)
        })?;
        Ok(Self(terms))
    }

    /// For one handshake.
    pub fn now(&self) -> TlsAcceptor {
        Arc::clone(&self.0.get().config).into()
    }
}

fn terms(files: &TlsFiles) -> Result<Terms, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(fail(&files.cert))?;
    let verifier = match files.roots()? {
        None => None,
        Some((path, roots)) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                .with_crls(files.revoked()?)
                // Lists are of what an authority issued; nobody lists the authorities themselves.
                .only_check_end_entity_revocation();
            Some(verifier.build().map_err(fail(path))?)
        }
    };
    let builder = match &verifier {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
    };
    let mut config = builder
        .with_single_cert(files.chain()?, files.private_key()?)
        .map_err(fail(&files.cert))?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Terms {
        config: Arc::new(config),
        verifier,
    })
}

/// A certificate that a client has shown, for as long as its connection lasts.
pub struct Shown {
    chain: Vec<CertificateDer<'static>>,
    acceptor: Arc<Acceptor>,
    last: Mutex<Option<Looked>>,
}

struct Looked {
    /// When the files were looked at.
    files: Instant,
    /// When the certificate was.
    certificate: Instant,
    /// By what.
    by: Weak<Terms>,
    found: Result<(), Error>,
}

impl Shown {
    /// `chain` begins with the client's own and is not empty.
    pub fn new(chain: Vec<CertificateDer<'static>>, acceptor: Arc<Acceptor>) -> Self {
        Self {
            chain,
            acceptor,
            last: Mutex::default(),
        }
    }

    /// Whether the certificate would be taken now, as well: it may have expired since, or been revoked.
    pub fn is_good(&self) -> Result<(), Error> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(looked) = &*last
            && now - looked.files < PAUSE
        {
            return looked.found.clone();
        }
        let terms = self.acceptor.0.get();
        let by = Arc::downgrade(&terms);
        if let Some(looked) = &mut *last
            && Weak::ptr_eq(&looked.by, &by)
            && now - looked.certificate < AGAIN
        {
            looked.files = now;
            return looked.found.clone();
        }
        let found = terms.judge(&self.chain);
        *last = Some(Looked {
            files: now,
            certificate: now,
            by,
            found: found.clone(),
        });
        found
    }
}

impl Terms {
    fn judge(&self, chain: &[CertificateDer<'static>]) -> Result<(), Error> {
        let (Some(verifier), Some((own, between))) = (&self.verifier, chain.split_first()) else {
            return Ok(());
        };
        let verified = verifier.verify_client_cert(own, between, UnixTime::now());
        verified.map(drop)
    }
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shown").finish_non_exhaustive()
    }
}
