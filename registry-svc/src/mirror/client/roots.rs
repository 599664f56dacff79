//! Who is believed to be who he says: the authorities of this host, read once for all upstreams.

use std::sync::{Mutex, PoisonError};

use rustls::ClientConfig;
use rustls_platform_verifier::ConfigVerifierExt as _;
use tracing::warn;

/// See the module's page. To read them takes as long as many requests, and anybody may name new hosts.
pub struct Roots {
    read: fn() -> Result<ClientConfig, rustls::Error>,
    kept: Mutex<Option<ClientConfig>>,
}

impl Default for Roots {
    fn default() -> Self {
        Self::new(ClientConfig::with_platform_verifier)
    }
}

impl Roots {
    /// Read by `read` when they are wanted first.
    pub const fn new(read: fn() -> Result<ClientConfig, rustls::Error>) -> Self {
        Self {
            read,
            kept: Mutex::new(None),
        }
    }

    /// TLS for a client. The error is a sentence; they are read again then, when somebody asks again.
    pub fn tls(&self) -> Result<ClientConfig, String> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tls) = &*kept {
            return Ok(tls.clone());
        }
        let mut tls = (self.read)().map_err(|error| {
            warn!(%error, "the authorities of this host cannot be read");
            format!("the certificate authorities of this host cannot be read: {error}")
        })?;
        // What reqwest would offer if it made this itself (RFC 7301).
        tls.alpn_protocols = vec!["h2".into(), "http/1.1".into()];
        *kept = Some(tls.clone());
        Ok(tls)
    }
}
