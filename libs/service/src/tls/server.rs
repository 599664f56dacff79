//! The side that listens: handshakes by the files as they are now, and whether a certificate that was shown
//! once is still good.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use rustls::{
    Error, ServerConfig,
    pki_types::{CertificateDer, UnixTime},
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
        danger::ClientCertVerifier,
    },
    sign::CertifiedKey,
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

/// What a listener's handshakes are made with. Who we are and whom we let in are read apart: a key that is being
/// replaced does not keep a list of revoked certificates from being taken.
#[derive(Debug)]
pub struct Acceptor(Watched<Terms>);

struct Terms {
    config: Arc<ServerConfig>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

/// Our own certificate and its key.
#[derive(Debug)]
struct Own(Watched<CertifiedKey>);

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.get())
    }
}

impl Acceptor {
    /// Reads the files; again whenever one of them is another.
    pub fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let own = {
            let (files, paths) = (files.clone(), vec![files.cert.clone(), files.key.clone()]);
            let make = move || files.pair();
            Watched::new("the certificate of the tcp listeners", paths, make)?
        };
        let own = Arc::new(Own(own));
        let others = files.ca.iter().chain(&files.crl).cloned().collect();
        let make = move || terms(&files, &own);
        let what = "the authority of the tcp listeners' clients";
        Ok(Self(Watched::new(what, others, make)?))
    }

    /// For one handshake.
    pub fn now(&self) -> TlsAcceptor {
        Arc::clone(&self.0.get().config).into()
    }
}

fn terms(files: &TlsFiles, own: &Arc<Own>) -> Result<Terms, TlsError> {
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
    let mut config = builder.with_cert_resolver(Arc::clone(own) as _);
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
