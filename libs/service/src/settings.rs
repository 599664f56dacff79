//! Settings of a service: flags beat environment, environment beats file.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::{Address, Identity, tls::TlsFiles};

/// Flags that every service has.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Service")]
pub struct ServiceArgs {
    /// Folder of all durable state; the service uses a folder of its own name below it
    #[arg(long, env = "SLIPWAY_STATE_DIR", value_name = "DIR", default_value = Paths::STATE)]
    pub state_dir: PathBuf,
    /// Folder of sockets, pid files and live state
    #[arg(long, env = "SLIPWAY_RUN_DIR", value_name = "DIR", default_value = Paths::RUN)]
    pub run_dir: PathBuf,
    /// Folder of the configuration files
    #[arg(long, env = "SLIPWAY_CONFIG_DIR", value_name = "DIR", default_value = Paths::CONFIG)]
    pub config_dir: PathBuf,
    /// Where to listen besides the unix socket in the run folder: unix:///PATH or tcp://HOST:PORT
    #[arg(long = "listen", value_name = "ADDR")]
    pub listen: Vec<Address>,
    /// Certificate chain of this service (PEM), for tcp listeners
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of this service (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Authorities that clients must show a certificate from (PEM): whoever has one may do everything
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
    /// Allow tcp listeners off loopback without client certificates: anybody who reaches the port is root here
    #[arg(long)]
    pub allow_plain_tcp: bool,
    /// Serve Prometheus metrics over HTTP on this address
    #[arg(long, value_name = "HOST:PORT")]
    pub metrics: Option<std::net::SocketAddr>,
    /// Allow metrics off loopback: anybody who reaches the port may read them
    #[arg(long)]
    pub allow_plain_metrics: bool,
    /// What to log: error, warn, info, debug, trace, or tracing's filter syntax
    #[arg(long, env = "SLIPWAY_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// Write logs as one JSON object a line
    #[arg(long)]
    pub log_json: bool,
}

/// The folders of an installation.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Durable state of all services.
    pub state: PathBuf,
    /// Sockets, pid files, live state.
    pub run: PathBuf,
    /// Configuration files.
    pub config: PathBuf,
}

impl Paths {
    /// Default of `SLIPWAY_STATE_DIR`.
    pub const STATE: &'static str = "/var/lib/slipway";
    /// Default of `SLIPWAY_RUN_DIR`.
    pub const RUN: &'static str = "/run/slipway";
    /// Default of `SLIPWAY_CONFIG_DIR`.
    pub const CONFIG: &'static str = "/etc/slipway";

    /// The folders as the environment gives them, for programs without [`ServiceArgs`].
    pub fn from_env() -> Self {
        let get = |name: &str, default: &str| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map_or_else(|| PathBuf::from(default), PathBuf::from)
        };
        Self {
            state: get("SLIPWAY_STATE_DIR", Self::STATE),
            run: get("SLIPWAY_RUN_DIR", Self::RUN),
            config: get("SLIPWAY_CONFIG_DIR", Self::CONFIG),
        }
    }

    /// Folder of a service's durable state.
    pub fn state_of(&self, service: &str) -> PathBuf {
        self.state.join(service)
    }

    /// Unix socket of a service's gRPC listener.
    pub fn socket_of(&self, service: &str) -> PathBuf {
        self.run.join(format!("{service}.sock"))
    }

    /// Pid file of a service; a running instance holds a lock on it.
    pub fn pid_file_of(&self, service: &str) -> PathBuf {
        self.run.join(format!("{service}.pid"))
    }
}

impl From<&ServiceArgs> for Paths {
    fn from(args: &ServiceArgs) -> Self {
        Self {
            state: args.state_dir.clone(),
            run: args.run_dir.clone(),
            config: args.config_dir.clone(),
        }
    }
}

/// The `[service]` table of a configuration file: the same settings as [`ServiceArgs`].
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceFile {
    listen: Vec<Address>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    tls_client_ca: Option<PathBuf>,
    allow_plain_tcp: bool,
    metrics: Option<std::net::SocketAddr>,
    allow_plain_metrics: bool,
    log: Option<String>,
    log_json: bool,
}

/// The common settings, merged.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folders of the installation.
    pub paths: Paths,
    /// Listeners besides the unix socket in the run folder.
    pub listen: Vec<Address>,
    /// Certificate files for tcp listeners.
    pub tls: Option<TlsFiles>,
    /// Tcp off loopback without client certificates was asked for by name.
    pub allow_plain_tcp: bool,
    /// Address of the metrics endpoint.
    pub metrics: Option<std::net::SocketAddr>,
    /// Metrics off loopback were asked for by name.
    pub allow_plain_metrics: bool,
    /// Log filter.
    pub log: String,
    /// JSON logs.
    pub log_json: bool,
}

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file is there but cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file says something that is not a setting.
    #[error("{path}: {message}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What and where.
        message: String,
    },
    /// TLS settings that do not belong together.
    #[error(
        "tls_cert and tls_key go together, and tls_client_ca with both: {path} has only some of them"
    )]
    HalfTls {
        /// The file.
        path: PathBuf,
    },
}

/// Reads `<config>/<name>.toml` (absent = all defaults) and merges it with the flags.
///
/// The file's `[service]` table holds the common settings, everything else is the service's own `T`.
pub fn load<T: DeserializeOwned>(
    identity: Identity,
    args: &ServiceArgs,
) -> Result<(Settings, T), SettingsError> {
    let path = args.config_dir.join(format!("{}.toml", identity.name));
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(source) => return Err(SettingsError::Read { path, source }),
    };
    let (common, own) = parse::<T>(&text, &path)?;
    let tls = TlsFiles::from_parts(
        args.tls_cert.clone().or(common.tls_cert),
        args.tls_key.clone().or(common.tls_key),
        args.tls_client_ca.clone().or(common.tls_client_ca),
    )
    .map_err(|()| SettingsError::HalfTls { path })?;
    let settings = Settings {
        paths: Paths::from(args),
        listen: if args.listen.is_empty() {
            common.listen
        } else {
            args.listen.clone()
        },
        tls,
        allow_plain_tcp: args.allow_plain_tcp || common.allow_plain_tcp,
        metrics: args.metrics.or(common.metrics),
        allow_plain_metrics: args.allow_plain_metrics || common.allow_plain_metrics,
        log: args
            .log
            .clone()
            .or(common.log)
            .unwrap_or_else(|| "info".to_owned()),
        log_json: args.log_json || common.log_json,
    };
    Ok((settings, own))
}

fn parse<T: DeserializeOwned>(text: &str, path: &Path) -> Result<(ServiceFile, T), SettingsError> {
    let invalid = |message: String| SettingsError::Invalid {
        path: path.to_owned(),
        message,
    };
    let mut table: toml::Table = text
        .parse()
        .map_err(|e: toml::de::Error| invalid(e.to_string()))?;
    let common = match table.remove("service") {
        Some(value) => value
            .try_into()
            .map_err(|e| invalid(format!("[service] {e}")))?,
        None => ServiceFile::default(),
    };
    let own = toml::Value::Table(table)
        .try_into()
        .map_err(|e: toml::de::Error| invalid(e.to_string()))?;
    Ok((common, own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, serde::Deserialize, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    struct Own {
        color: String,
    }

    #[test]
    fn the_service_table_is_common_and_the_rest_is_the_services_own() {
        let text = "color = \"red\"\n[service]\nlisten = [\"tcp://127.0.0.1:7000\"]\n";
        let (common, own) = parse::<Own>(text, Path::new("x.toml")).unwrap();
        assert_eq!(
            own,
            Own {
                color: "red".into()
            }
        );
        assert_eq!(
            common.listen,
            ["tcp://127.0.0.1:7000".parse::<Address>().unwrap()]
        );
    }

    #[test]
    fn an_unknown_setting_is_an_error_that_names_it() {
        for text in ["colour = \"red\"", "[service]\nlisten_on = 3"] {
            let error = parse::<Own>(text, Path::new("x.toml"))
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("x.toml") && error.contains("unknown field"),
                "{error}"
            );
        }
    }
}
