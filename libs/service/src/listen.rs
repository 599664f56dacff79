//! Addresses of listeners and how they are bound.

use std::{
    fmt, io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    str::FromStr,
};

use tokio::net::{TcpListener, UnixListener};

use crate::tls::TlsFiles;

/// Where a service listens or is reached.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    /// `unix:///run/slipway/registry.sock`
    Unix(PathBuf),
    /// `tcp://host:port`. A name is resolved when it is used.
    Tcp {
        /// Host name or address.
        host: String,
        /// Port.
        port: u16,
    },
}

/// Not an address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not an address: write unix:///PATH or tcp://HOST:PORT")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = || AddressError(text.to_owned());
        if let Some(path) = text.strip_prefix("unix://") {
            return Some(PathBuf::from(path))
                .filter(|p| p.is_absolute())
                .map(Self::Unix)
                .ok_or_else(error);
        }
        let rest = text.strip_prefix("tcp://").ok_or_else(error)?;
        let (host, port) = rest.rsplit_once(':').ok_or_else(error)?;
        let port = port.parse().map_err(|_| error())?;
        let host = match host.strip_prefix('[') {
            Some(v6) => v6.strip_suffix(']').ok_or_else(error)?,
            None if host.contains(':') => return Err(error()),
            None => host,
        };
        if host.is_empty() || host.contains(['/', '@', ' ']) {
            return Err(error());
        }
        Ok(Self::Tcp {
            host: host.to_owned(),
            port,
        })
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
        }
    }
}

/// Why a listener was not opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The socket could not be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// Where.
        address: Address,
        /// Why.
        source: io::Error,
    },
    /// A listener off loopback that asks nobody who he is: whoever reaches it owns the service.
    #[error(
        "refusing to listen on {address} without client certificates: give --tls-cert, --tls-key and \
         --tls-client-ca, or say --allow-plain-tcp if that network is trusted"
    )]
    OpenTcp {
        /// Where.
        address: Address,
    },
    /// Metrics off loopback.
    #[error(
        "refusing to serve metrics on {address}, where others could read them: say \
         --allow-plain-metrics if that network is trusted"
    )]
    OpenMetrics {
        /// Where.
        address: SocketAddr,
    },
}

/// Binds a unix socket that only its owner may use (mode 0600).
///
/// A socket left by an instance that was killed is replaced: the caller holds the instance lock, so
/// nobody can be listening on it.
pub fn bind_unix(path: &Path) -> Result<UnixListener, ListenError> {
    let fail = |source| ListenError::Bind {
        address: Address::Unix(path.to_owned()),
        source,
    };
    // Bound under a temporary name and renamed: clients never see a socket that is not ready, nor one
    // with the wrong mode.
    let temporary = path.with_extension("sock.new");
    remove_if_there(&temporary).map_err(fail)?;
    let listener = UnixListener::bind(&temporary).map_err(fail)?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
    std::fs::rename(&temporary, path).map_err(fail)?;
    Ok(listener)
}

/// Binds a tcp socket; on loopback only, unless clients show certificates or `allow_plain` says otherwise. A
/// certificate of our own says who we are, and nothing of who calls.
pub async fn bind_tcp(
    host: &str,
    port: u16,
    tls: Option<&TlsFiles>,
    allow_plain: bool,
) -> Result<TcpListener, ListenError> {
    let address = Address::Tcp {
        host: host.to_owned(),
        port,
    };
    let bind = |source| ListenError::Bind {
        address: address.clone(),
        source,
    };
    let resolved: Vec<SocketAddr> = tokio::net::lookup_host((host, port))
        .await
        .map_err(bind)?
        .collect();
    let open = !tls.is_some_and(TlsFiles::is_mutual) && !allow_plain;
    if open && resolved.iter().any(|a| !a.ip().is_loopback()) {
        return Err(ListenError::OpenTcp { address });
    }
    TcpListener::bind(&resolved[..]).await.map_err(bind)
}

/// Binds the socket of the metrics; on loopback only, unless `allow_plain` says otherwise. Calls are another matter:
/// neither allows the other.
pub async fn bind_metrics(
    address: SocketAddr,
    allow_plain: bool,
) -> Result<TcpListener, ListenError> {
    if !address.ip().is_loopback() && !allow_plain {
        return Err(ListenError::OpenMetrics { address });
    }
    TcpListener::bind(address)
        .await
        .map_err(|source| ListenError::Bind {
            address: Address::Tcp {
                host: address.ip().to_string(),
                port: address.port(),
            },
            source,
        })
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for text in [
            "unix:///run/x.sock",
            "tcp://127.0.0.1:80",
            "tcp://[::1]:80",
            "tcp://host:1",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "unix://x",
            "tcp://",
            "tcp://h",
            "tcp://:1",
            "tcp://::1:80",
            "http://h:1",
            "tcp://h:70000",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn tcp_off_loopback_is_refused_unless_clients_show_who_they_are_or_it_is_asked_for() {
        let certified = |ca: Option<&str>| TlsFiles {
            cert: "cert.pem".into(),
            key: "key.pem".into(),
            ca: ca.map(Into::into),
            crl: None,
        };
        let (one_sided, mutual) = (certified(None), certified(Some("ca.pem")));
        for (host, tls, allow_plain, opened) in [
            ("0.0.0.0", None, false, false),
            ("0.0.0.0", Some(&one_sided), false, false),
            ("::", Some(&one_sided), false, false),
            ("0.0.0.0", Some(&mutual), false, true),
            ("0.0.0.0", None, true, true),
            ("127.0.0.1", None, false, true),
            ("127.0.0.1", Some(&one_sided), false, true),
        ] {
            let bound = bind_tcp(host, 0, tls, allow_plain).await;
            assert_eq!(bound.is_ok(), opened, "{host} {tls:?} {allow_plain}");
            if let Err(error) = bound {
                assert!(error.to_string().contains("--tls-client-ca"), "{error}");
            }
        }
    }

    #[tokio::test]
    async fn metrics_off_loopback_are_asked_for_by_their_own_name() {
        let bind = async |address: &str, allow| bind_metrics(address.parse().unwrap(), allow).await;
        let refused = bind("0.0.0.0:0", false).await.unwrap_err().to_string();
        assert!(refused.contains("--allow-plain-metrics"), "{refused}");
        assert!(bind("0.0.0.0:0", true).await.is_ok());
        assert!(bind("127.0.0.1:0", false).await.is_ok());
    }
}
