//! Log drivers and their options, as docker checks them (moby, daemon/logger).

use std::path::Path;

use slipway_proto::runtime::v1::{ContainerSpec, LogConfig};

use super::attributes;
use crate::{error::Error, executor::plan::LogLimits};

/// Where journald listens.
pub const JOURNAL: &str = "/run/systemd/journal/socket";

/// Who gets the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// The log itself.
    Local,
    /// Nobody.
    None,
    /// docker's file of JSON lines.
    JsonFile,
    /// The journal.
    Journald,
}

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// Who gets the lines.
    pub driver: Driver,
    /// How much of the log itself is kept.
    pub limits: LogLimits,
    /// Complete parts are made small.
    pub compress: bool,
    /// docker's json-file: bytes a file; absent = one file without an end.
    pub json_size: Option<u64>,
    /// docker's json-file: how many files.
    pub json_files: u32,
}

/// The defaults of a host, from `runtime.toml`.
#[derive(Debug, Clone, Default)]
pub struct Defaults {
    /// `log-driver`, `log-opts`.
    pub config: LogConfig,
    /// `log-hold`: bytes beyond the cap for attached clients that are behind.
    pub hold: Option<u64>,
}

impl Defaults {
    /// What a container gets that asks for this: the host's driver unless it names one, and the host's
    /// options unless it names another driver, as docker's daemon.json.
    pub fn complete(&self, asked: Option<LogConfig>) -> LogConfig {
        let mut config = asked.unwrap_or_default();
        let own = match &*self.config.driver {
            "" => "local",
            own => own,
        };
        if config.driver.is_empty() {
            own.clone_into(&mut config.driver);
        }
        if config.driver == own {
            for (key, value) in &self.config.options {
                if !config.options.contains_key(key) {
                    config.options.insert(key.clone(), value.clone());
                }
            }
        }
        config
    }

    /// Checks them.
    pub fn check(&self) -> Result<(), Error> {
        let spec = ContainerSpec {
            log: Some(self.complete(None)),
            ..ContainerSpec::default()
        };
        check(&spec)
    }
}

/// What of the log is kept for those who are attached when nobody is to keep it.
const NONE: LogLimits = LogLimits {
    max_size: 1 << 20,
    max_files: 2,
    hold: 256 << 20,
};

/// Checks what a new container asks for.
pub fn check(spec: &ContainerSpec) -> Result<(), Error> {
    let driver = logging(spec)?.driver;
    if driver == Driver::Journald && !Path::new(JOURNAL).exists() {
        return Err(Error::Invalid(
            "journald is not enabled on this host".to_owned(),
        ));
    }
    Ok(())
}

/// From what was asked for.
pub fn logging(spec: &ContainerSpec) -> Result<Logging, Error> {
    let config = spec.log.clone().unwrap_or_default();
    let options = &config.options;
    let (driver, known): (_, &[&str]) = match &*config.driver {
        "" | "local" => (Driver::Local, &["max-size", "max-file", "compress"]),
        "none" => (Driver::None, &[]),
        "json-file" => (
            Driver::JsonFile,
            &[
                "max-size",
                "max-file",
                "compress",
                "labels",
                "labels-regex",
                "env",
                "env-regex",
                "tag",
            ],
        ),
        "journald" => (
            Driver::Journald,
            &["labels", "labels-regex", "env", "env-regex", "tag"],
        ),
        other => {
            return Err(Error::Invalid(format!(
                "logger: no log driver named '{other}' is registered: there are local, json-file, \
                 journald and none"
            )));
        }
    };
    let mut keys: Vec<&String> = options.keys().collect();
    keys.sort();
    for key in keys {
        if driver == Driver::None {
            return Err(Error::Invalid(
                "invalid logging opts for driver none".to_owned(),
            ));
        }
        // The container never waits for a driver here: both modes of docker's are this one.
        let mode = key == "mode" && matches!(&*options[key], "blocking" | "non-blocking");
        if !mode && !known.contains(&key.as_str()) {
            return Err(Error::Invalid(match driver {
                Driver::Local | Driver::None => {
                    format!("unknown log opt '{key}' for log driver local")
                }
                Driver::JsonFile => format!("unknown log opt '{key}' for json-file log driver"),
                Driver::Journald => format!("unknown log opt '{key}' for journald log driver"),
            }));
        }
    }
    attributes::check(options)?;
    let size = options.get("max-size").map(|s| size(s)).transpose()?;
    let files = options.get("max-file").map(|s| files(s)).transpose()?;
    let compress = options.get("compress").map(|s| truth(s)).transpose()?;
    let mut logging = Logging {
        driver,
        limits: LogLimits::default(),
        compress: true,
        json_size: None,
        json_files: 1,
    };
    match driver {
        Driver::Local => {
            logging.limits.max_size = size.unwrap_or(logging.limits.max_size);
            logging.limits.max_files = files.unwrap_or(logging.limits.max_files);
            let single = logging.limits.max_files == 1;
            if single && compress == Some(true) {
                return Err(Error::Invalid(
                    "compression cannot be enabled when max file count is 1".to_owned(),
                ));
            }
            logging.compress = compress.unwrap_or(true) && !single;
        }
        Driver::JsonFile => {
            logging.json_size = size;
            logging.json_files = files.unwrap_or(1);
            if logging.json_files > 1 && size.is_none() {
                return Err(Error::Invalid(
                    "max-file cannot be set if max-size is not".to_owned(),
                ));
            }
            logging.compress = compress.unwrap_or(false);
            if logging.compress && logging.json_files < 2 {
                return Err(Error::Invalid(
                    "compress cannot be true when max-file is less than 2 or max-size is not set"
                        .to_owned(),
                ));
            }
        }
        Driver::Journald => {}
        Driver::None => logging.limits = NONE,
    }
    Ok(logging)
}

/// "10m": docker's units.FromHumanSize counts in thousands.
pub fn size(text: &str) -> Result<u64, Error> {
    let invalid = || Error::Invalid(format!("invalid size: '{text}'"));
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| invalid())?;
    let factor: u64 = match &*unit.trim_start().to_ascii_lowercase() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        _ => return Err(invalid()),
    };
    let bytes = number * factor as f64;
    if bytes < 1.0 {
        return Err(Error::Invalid(
            "max-size must be a positive number".to_owned(),
        ));
    }
    Ok(bytes as u64)
}

fn files(text: &str) -> Result<u32, Error> {
    match text.parse::<i64>() {
        Ok(n) if n < 1 => Err(Error::Invalid("max-file cannot be less than 1".to_owned())),
        Ok(n) => u32::try_from(n).map_err(|_| Error::Invalid(format!("max-file {n} is too large"))),
        Err(_) => Err(Error::Invalid(format!(
            "invalid value for max-file: {text:?} is no number"
        ))),
    }
}

fn truth(text: &str) -> Result<bool, Error> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Error::Invalid(format!(
            "invalid value for compress: {text:?} is neither true nor false"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn options(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn asked(driver: &str, pairs: &[(&str, &str)]) -> Result<Logging, String> {
        let spec = ContainerSpec {
            log: Some(LogConfig {
                driver: driver.into(),
                options: options(pairs),
            }),
            ..ContainerSpec::default()
        };
        logging(&spec).map_err(|e| e.to_string())
    }

    #[test]
    fn sizes_and_numbers_are_dockers() {
        let local = asked("", &[("max-size", "1.5m"), ("max-file", "2")]).unwrap();
        assert_eq!(
            (
                local.limits.max_size,
                local.limits.max_files,
                local.compress
            ),
            (1_500_000, 2, true)
        );
        let default = asked("local", &[]).unwrap();
        assert_eq!(
            (default.limits.max_size, default.limits.max_files),
            (10 << 20, 3)
        );
        assert!(!asked("local", &[("max-file", "1")]).unwrap().compress);
        let json = asked("json-file", &[("max-size", "1k"), ("max-file", "3")]).unwrap();
        assert_eq!(
            (json.json_size, json.json_files, json.compress),
            (Some(1000), 3, false)
        );
    }

    #[test]
    fn what_docker_refuses_is_refused() {
        for (driver, option, value, why) in [
            (
                "local",
                "tag",
                "x",
                "unknown log opt 'tag' for log driver local",
            ),
            (
                "json-file",
                "foo",
                "x",
                "unknown log opt 'foo' for json-file log driver",
            ),
            ("json-file", "max-size", "-1", "invalid size: '-1'"),
            (
                "json-file",
                "max-size",
                "0",
                "max-size must be a positive number",
            ),
            ("local", "max-file", "0", "max-file cannot be less than 1"),
            ("json-file", "max-file", "2", "max-file cannot be set"),
            (
                "json-file",
                "compress",
                "true",
                "compress cannot be true when",
            ),
            ("json-file", "tag", "{{.Nope}}", "tag"),
            ("json-file", "labels-regex", "(", "labels-regex"),
            (
                "none",
                "max-size",
                "1m",
                "invalid logging opts for driver none",
            ),
            ("syslog", "", "", "no log driver named 'syslog'"),
        ] {
            let pairs = [(option, value)];
            let error = asked(driver, if option.is_empty() { &[] } else { &pairs }).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_host_has_defaults() {
        let defaults = Defaults {
            config: LogConfig {
                driver: "json-file".into(),
                options: options(&[("max-size", "1m"), ("max-file", "2")]),
            },
            hold: None,
        };
        let own = LogConfig {
            driver: String::new(),
            options: options(&[("max-file", "5")]),
        };
        let full = defaults.complete(Some(own));
        assert_eq!(full.driver, "json-file");
        assert_eq!(
            full.options,
            options(&[("max-size", "1m"), ("max-file", "5")])
        );
        let other = LogConfig {
            driver: "local".into(),
            ..LogConfig::default()
        };
        assert!(defaults.complete(Some(other)).options.is_empty());
        assert_eq!(Defaults::default().complete(None).driver, "local");
    }
}
