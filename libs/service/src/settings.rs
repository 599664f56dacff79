//! Settings of a service: flags beat environment, environment beats file.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::{Address, Identity, roles::Role, tls::TlsFiles};

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
    /// Authorities that clients must show a certificate from (PEM); what they may do stands in it
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
    /// Lists of certificates that these authorities have revoked (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_client_ca")]
    pub tls_crl: Option<PathBuf>,
    /// What callers of the unix socket may do that are neither root nor this service's own user: read, pull, build,
    /// operate or admin [default: admin; they can call only where who made the socket lets them open it]
    #[arg(long, value_name = "ROLE")]
    pub unix_role: Option<Role>,
    /// Allow tcp listeners off loopback without client certificates: anybody who reaches the port is root here
    #[arg(long)]
    pub allow_plain_tcp: bool,
    /// Serve Prometheus metrics over HTTP on this address
    #[arg(long, value_name = "HOST:PORT")]
    pub metrics: Option<std::net::SocketAddr>,
    /// Allow metrics off loopback: anybody who reaches the port may read them
    #[arg(long)]
    pub allow_plain_metrics: bool,
    /// Where it is written who did what, one JSON object a line, or "off" [default: audit.log in the service's
    /// folder]
    #[arg(long, value_name = "FILE")]
    pub audit_log: Option<PathBuf>,
    /// Most bytes of that file and the three before it [default: 64 MiB]
    #[arg(long, value_name = "BYTES")]
    pub audit_max_bytes: Option<u64>,
    /// Write calls that only look there, too
    #[arg(long)]
    pub audit_reads: bool,
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
    tls_crl: Option<PathBuf>,
    unix_role: Option<Role>,
    allow_plain_tcp: bool,
    metrics: Option<std::net::SocketAddr>,
    allow_plain_metrics: bool,
    audit_log: Option<PathBuf>,
    audit_max_bytes: Option<u64>,
    audit_reads: bool,
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
    /// What callers of the unix socket may do that are neither root nor our own user.
    pub unix_role: Role,
    /// Tcp off loopback without client certificates was asked for by name.
    pub allow_plain_tcp: bool,
    /// Address of the metrics endpoint.
    pub metrics: Option<std::net::SocketAddr>,
    /// Metrics off loopback were asked for by name.
    pub allow_plain_metrics: bool,
    /// Where it is written who did what.
    pub audit: AuditSettings,
    /// Log filter.
    pub log: String,
    /// JSON logs.
    pub log_json: bool,
}

/// What is written down of who did what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditSettings {
    /// The file; `None`: nowhere.
    pub file: Option<PathBuf>,
    /// Most bytes, with the files before it.
    pub bytes: u64,
    /// Calls that only look, too.
    pub reads: bool,
}

impl AuditSettings {
    /// Most bytes, where nothing else is said.
    const BYTES: u64 = 64 << 20;
    /// Less would not hold what may be on its way at once.
    const LEAST: u64 = 8 << 20;

    fn new(
        file: Option<PathBuf>,
        bytes: Option<u64>,
        reads: bool,
        default: PathBuf,
    ) -> Result<Self, SettingsError> {
        let bytes = bytes.unwrap_or(Self::BYTES);
        if bytes < Self::LEAST {
            return Err(SettingsError::AuditTooSmall { bytes });
        }
        let file = file.unwrap_or(default);
        Ok(Self {
            file: Some(file).filter(|file| file.as_os_str() != "off"),
            bytes,
            reads,
        })
    }
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
        "tls_cert and tls_key go together, tls_client_ca with both, and tls_crl with all: {path} has only some of them"
    )]
    HalfTls {
        /// The file.
        path: PathBuf,
    },
    /// A log that could not hold what comes at once.
    #[error("audit_max_bytes = {bytes}: 8388608 (8 MiB) at least; audit_log = \"off\" is none")]
    AuditTooSmall {
        /// What was asked for.
        bytes: u64,
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
        args.tls_crl.clone().or(common.tls_crl),
    )
    .map_err(|()| SettingsError::HalfTls { path })?;
    let paths = Paths::from(args);
    let audit = AuditSettings::new(
        args.audit_log.clone().or(common.audit_log),
        args.audit_max_bytes.or(common.audit_max_bytes),
        args.audit_reads || common.audit_reads,
        paths.state_of(identity.name).join("audit.log"),
    )?;
    let settings = Settings {
        paths,
        audit,
        listen: if args.listen.is_empty() {
            common.listen
        } else {
            args.listen.clone()
        },
        tls,
        unix_role: (args.unix_role.or(common.unix_role)).unwrap_or(Role::Admin),
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
    fn roles_are_known_ones() {
        let role = |name: &str| {
            let text = format!("[service]\nunix_role = \"{name}\"\n");
            parse::<Own>(&text, Path::new("x.toml")).map(|(common, _)| common.unix_role)
        };
        assert_eq!(role("operate").unwrap(), Some(Role::Operate));
        let refused = role("boss").unwrap_err().to_string();
        assert!(refused.contains("\"boss\" is not a role"), "{refused}");
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
    fn the_audit_log_is_on_unless_it_is_switched_off() {
        let new = |file: Option<&str>, bytes| {
            AuditSettings::new(
                file.map(Into::into),
                bytes,
                false,
                "/state/x/audit.log".into(),
            )
        };
        let file = |file| new(file, None).unwrap().file;
        assert_eq!(file(None), Some("/state/x/audit.log".into()));
        assert_eq!(file(Some("/log")), Some("/log".into()));
        assert_eq!(file(Some("off")), None);
        assert!(
            new(None, Some(1 << 20))
                .unwrap_err()
                .to_string()
                .contains("audit_max_bytes")
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
