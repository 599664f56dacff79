//! The config of a committed image: the container's own, with the caller's changes upon it.

use serde_json::json;
use slipway_image::config::{
    Healthcheck, RunConfig,
    change::{Change, Command},
};
use slipway_proto::runtime::v1::{
    ConfigChange, HealthCheck,
    config_change::{self as message, Change as Message},
};

use super::super::{record::Record, stop::parse_signal};
use crate::error::Error;

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

/// A change as it came. Errors say what is wrong with it.
pub fn change(message: &ConfigChange) -> Result<Change, Error> {
    let Some(message) = &message.change else {
        return Err(Error::Invalid("an empty change of the config".to_owned()));
    };
    let command = |command: &message::Command| match command.shell {
        true => Command::Shell(command.words.join(" ")),
        false => Command::Exec(command.words.clone()),
    };
    Ok(match message.clone() {
        Message::Cmd(words) => Change::Cmd(command(&words)),
        Message::Entrypoint(words) => Change::Entrypoint(command(&words)),
        Message::Env(pair) => Change::Env(pair.key, pair.value),
        Message::Label(pair) => Change::Label(pair.key, pair.value),
        Message::Expose(port) => Change::Expose(port),
        Message::User(user) => Change::User(user),
        Message::WorkingDir(path) => Change::WorkingDir(path),
        Message::Volume(path) => Change::Volume(path),
        Message::StopSignal(signal) => {
            parse_signal(&signal)?;
            Change::StopSignal(signal)
        }
        Message::OnBuild(line) => Change::OnBuild(line),
        Message::Health(check) => {
            let span = |span: Option<prost_types::Duration>| {
                span.and_then(|s| s.try_into().ok()).map_or(0, nanoseconds)
            };
            Change::Health(Healthcheck {
                test: check.test,
                interval: span(check.interval),
                timeout: span(check.timeout),
                start_period: span(check.start_period),
                start_interval: span(check.start_interval),
                retries: check.retries,
            })
        }
    })
}

fn nanoseconds(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_is_none_is_refused() {
        let signal = |text: &str| ConfigChange {
            change: Some(Message::StopSignal(text.into())),
        };
        assert!(change(&signal("nonsense")).is_err());
        let made = change(&signal("SIGQUIT")).unwrap();
        assert_eq!(made, Change::StopSignal("SIGQUIT".into()));
    }
}
