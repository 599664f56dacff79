//! The config of a committed image: the container's own, with the caller's changes upon it.

use serde_json::json;
use slipway_image::config::{Healthcheck, RunConfig};
use slipway_proto::runtime::v1::{
    ConfigChange, HealthCheck,
    config_change::{Change, Command},
};

use super::super::{record::Record, stop::parse_signal};
use crate::error::Error;

/// The shell of images that name none.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// How a container runs, as an image's config. What only its image knows comes from there.
pub fn of_container(record: &Record, image: &RunConfig) -> RunConfig {
    let effective = &record.effective;
    // These two are of this container, not of what somebody set.
    let own = |variable: &String| {
        *variable == format!("HOSTNAME={}", effective.hostname)
            || record.spec.tty && variable == "TERM=xterm"
    };
    let some = |words: &[String]| (!words.is_empty()).then(|| words.to_vec());
    let empty = |keys: Vec<String>| keys.into_iter().map(|k| (k, json!({}))).collect();
    let anonymous = record
        .spec
        .mounts
        .iter()
        .filter(|m| record.own_volumes.contains(&m.source))
        .map(|m| m.target.clone());
    let volumes = effective.volumes.iter().cloned().chain(anonymous);
    let no_check = |h: &HealthCheck| h.test == ["NONE"];
    let healthcheck = match &effective.health {
        Some(check) => Some(Healthcheck {
            test: check.test.clone(),
            interval: nanoseconds(check.interval),
            timeout: nanoseconds(check.timeout),
            start_period: nanoseconds(check.start_period),
            start_interval: nanoseconds(check.start_interval),
            retries: check.retries,
        }),
        None if record.spec.health.as_ref().is_some_and(no_check) => Some(Healthcheck {
            test: vec!["NONE".to_owned()],
            ..Healthcheck::default()
        }),
        None => None,
    };
    RunConfig {
        user: effective.user.clone(),
        exposed_ports: empty(effective.exposed.clone()),
        env: effective.env.iter().filter(|v| !own(v)).cloned().collect(),
        entrypoint: some(&effective.entrypoint),
        cmd: some(&effective.command),
        healthcheck,
        args_escaped: false,
        volumes: empty(volumes.collect()),
        working_dir: match effective.working_dir.as_str() {
            "/" => String::new(),
            path => path.to_owned(),
        },
        labels: effective.labels.clone(),
        stop_signal: effective.stop_signal.clone(),
        on_build: image.on_build.clone(),
        shell: image.shell.clone(),
        other: image.other.clone(),
    }
}

/// Makes one change, as the instruction of a Dockerfile would.
pub fn apply(config: &mut RunConfig, change: &ConfigChange) -> Result<(), Error> {
    let Some(change) = &change.change else {
        return Err(Error::Invalid("an empty change of the config".to_owned()));
    };
    match change {
        Change::Cmd(command) => config.cmd = Some(words(command, config)),
        Change::Entrypoint(command) => config.entrypoint = Some(words(command, config)),
        Change::Env(pair) => {
            let variable = format!("{}={}", pair.key, pair.value);
            let same = |v: &String| v.split('=').next() == Some(pair.key.as_str());
            match config.env.iter().position(same) {
                Some(at) => config.env[at] = variable,
                None => config.env.push(variable),
            }
        }
        Change::Label(pair) => {
            config.labels.insert(pair.key.clone(), pair.value.clone());
        }
        Change::Expose(port) => {
            config.exposed_ports.insert(port.clone(), json!({}));
        }
        Change::User(user) => config.user.clone_from(user),
        Change::WorkingDir(path) => {
            let base = if path.starts_with('/') {
                ""
            } else {
                &config.working_dir
            };
            let mut parts: Vec<&str> = Vec::new();
            for part in base.split('/').chain(path.split('/')) {
                match part {
                    "" | "." => {}
                    ".." => drop(parts.pop()),
                    part => parts.push(part),
                }
            }
            config.working_dir = format!("/{}", parts.join("/"));
        }
        Change::Volume(path) => {
            config.volumes.insert(path.clone(), json!({}));
        }
        Change::StopSignal(signal) => {
            parse_signal(signal)?;
            config.stop_signal.clone_from(signal);
        }
        Change::OnBuild(line) => config.on_build.push(line.clone()),
        Change::Health(check) => {
            let span = |span: &Option<prost_types::Duration>| {
                span.and_then(|s| s.try_into().ok()).map_or(0, nanoseconds)
            };
            config.healthcheck = Some(Healthcheck {
                test: check.test.clone(),
                interval: span(&check.interval),
                timeout: span(&check.timeout),
                start_period: span(&check.start_period),
                start_interval: span(&check.start_interval),
                retries: check.retries,
            });
        }
    }
    Ok(())
}

fn words(command: &Command, config: &RunConfig) -> Vec<String> {
    if !command.shell {
        return command.words.clone();
    }
    let shell = match config.shell.as_slice() {
        [] => SHELL.map(str::to_owned).to_vec(),
        own => own.to_vec(),
    };
    [shell.as_slice(), &command.words].concat()
}

fn nanoseconds(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipway_proto::runtime::v1::config_change::Pair;

    #[test]
    fn changes_are_those_of_a_dockerfile() {
        let mut config = RunConfig {
            env: vec!["A=1".into(), "B=2".into()],
            working_dir: "/srv".into(),
            ..RunConfig::default()
        };
        let pair = |key: &str, value: &str| Pair {
            key: key.into(),
            value: value.into(),
        };
        let command = |words: &[&str], shell| Command {
            words: words.iter().map(|w| (*w).to_owned()).collect(),
            shell,
        };
        for change in [
            Change::Env(pair("A", "9")),
            Change::Env(pair("C", "3")),
            Change::Cmd(command(&["echo hi"], true)),
            Change::Entrypoint(command(&["a", "b"], false)),
            Change::WorkingDir("sub/../x".into()),
            Change::Expose("80/tcp".into()),
            Change::StopSignal("SIGQUIT".into()),
        ] {
            let change = ConfigChange {
                change: Some(change),
            };
            apply(&mut config, &change).unwrap();
        }
        assert_eq!(config.env, ["A=9", "B=2", "C=3"]);
        assert_eq!(config.cmd.unwrap(), ["/bin/sh", "-c", "echo hi"]);
        assert_eq!(config.entrypoint.unwrap(), ["a", "b"]);
        assert_eq!(config.working_dir, "/srv/x");
        assert_eq!(config.stop_signal, "SIGQUIT");
        let bad = ConfigChange {
            change: Some(Change::StopSignal("nonsense".into())),
        };
        assert!(apply(&mut RunConfig::default(), &bad).is_err());
    }
}
