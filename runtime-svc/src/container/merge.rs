//! A container's options and its image's config, merged by docker's rules.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use slipway_image::ImageConfig;
use slipway_proto::runtime::v1::ContainerSpec;

use super::health::Check;
use crate::{error::Error, executor::launch::DEFAULT_PATH};

/// What runs, after merging.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effective {
    /// ENTRYPOINT or its replacement.
    pub entrypoint: Vec<String>,
    /// CMD or its replacement.
    pub command: Vec<String>,
    /// `KEY=value`
    pub env: Vec<String>,
    /// Absolute.
    pub working_dir: String,
    /// `user[:group]`
    pub user: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Signal name or number for stop.
    pub stop_signal: String,
    /// `80/tcp`
    pub exposed: Vec<String>,
    /// Paths that the image declares as volumes.
    pub volumes: Vec<String>,
    /// Host name inside.
    pub hostname: String,
    /// How its health is looked after.
    #[serde(default)]
    pub health: Option<Check>,
    /// What was asked for of it; not in records of older versions.
    #[serde(default)]
    pub asked: Option<Asked>,
}

/// Merged as docker shows it: without what every container gets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The caller's variables, then those of the image that it did not override.
    pub env: Vec<String>,
    /// "" = nobody named one.
    pub working_dir: String,
}

impl Effective {
    /// Program and arguments.
    pub fn args(&self) -> Vec<String> {
        self.entrypoint
            .iter()
            .chain(&self.command)
            .cloned()
            .collect()
    }

    /// Takes another host name: that of the container whose network it shares.
    pub fn go_by(&mut self, hostname: &str) {
        let old = format!("HOSTNAME={}", self.hostname);
        for variable in self.env.iter_mut().filter(|v| **v == old) {
            *variable = format!("HOSTNAME={hostname}");
        }
        hostname.clone_into(&mut self.hostname);
    }
}

/// Merges. `id` gives the host name where none is asked for.
pub fn merge(id: &str, spec: &ContainerSpec, image: &ImageConfig) -> Result<Effective, Error> {
    let config = &image.config;
    let (entrypoint, default_command) = match &spec.entrypoint {
        // An entrypoint of the caller's drops the image's CMD as well.
        Some(own) if own.words == [""] => (Vec::new(), Vec::new()),
        Some(own) => (own.words.clone(), Vec::new()),
        None => (
            config.entrypoint.clone().unwrap_or_default(),
            config.cmd.clone().unwrap_or_default(),
        ),
    };
    let command = if spec.command.is_empty() {
        default_command
    } else {
        spec.command.clone()
    };
    if entrypoint.is_empty() && command.is_empty() {
        return Err(Error::Invalid("no command specified".to_owned()));
    }
    let hostname = hostname(id, spec);
    let mut labels = config.labels.clone();
    labels.extend(spec.labels.clone());
    let or = |own: &str, other: &str| {
        if own.is_empty() {
            other.to_owned()
        } else {
            own.to_owned()
        }
    };
    let working_dir = or(&spec.working_dir, &config.working_dir);
    check_working_dir(&working_dir)?;
    let mut exposed: Vec<String> = config.exposed_ports.keys().cloned().collect();
    if let Some(network) = &spec.network {
        exposed.extend(network.expose.iter().cloned());
        exposed.extend(network.ports.iter().map(|p| {
            let protocol =
                slipway_proto::netd::v1::Protocol::try_from(p.protocol).unwrap_or_default();
            let protocol = protocol.as_str_name().to_lowercase();
            format!(
                "{}/{}",
                p.container_port,
                if protocol.contains('_') {
                    "tcp"
                } else {
                    &protocol
                }
            )
        }));
    }
    exposed
        .iter_mut()
        .filter(|p| !p.contains('/'))
        .for_each(|p| p.push_str("/tcp"));
    exposed.sort_unstable();
    exposed.dedup();
    Ok(Effective {
        entrypoint,
        command,
        env: environment(&spec.env, &config.env, &hostname, spec.tty),
        asked: Some(Asked {
            env: asked_environment(&spec.env, &config.env),
            working_dir: working_dir.clone(),
        }),
        working_dir: or(&working_dir, "/"),
        user: or(&spec.user, &config.user),
        labels,
        stop_signal: or(&spec.stop_signal, &config.stop_signal),
        exposed,
        volumes: config.volumes.keys().cloned().collect(),
        hostname,
        health: Check::merge(spec.health.as_ref(), config)?,
    })
}

/// The image's variables, overridden by the caller's; `KEY` without `=` takes one away. PATH, HOSTNAME
/// and, with a terminal, TERM come first as docker has them.
/// The name that it has for itself.
pub fn hostname(id: &str, spec: &ContainerSpec) -> String {
    let on_host =
        spec.uts_mode == "host" || spec.network.as_ref().is_some_and(|n| n.mode == "host");
    if spec.hostname.is_empty() && on_host {
        // As docker: who shares the host's network goes by its name.
        rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned()
    } else if spec.hostname.is_empty() {
        id[..12].to_owned()
    } else {
        spec.hostname.clone()
    }
}

fn environment(own: &[String], image: &[String], hostname: &str, tty: bool) -> Vec<String> {
    let mut merged: Vec<String> = Vec::new();
    let mut set = |variable: &str| {
        let key = variable.split('=').next().unwrap_or(variable);
        let same = |v: &String| v.split('=').next() == Some(key);
        match (merged.iter().position(same), variable.contains('=')) {
            (Some(at), true) => merged[at] = variable.to_owned(),
            (Some(at), false) => drop(merged.remove(at)),
            (None, true) => merged.push(variable.to_owned()),
            (None, false) => {}
        }
    };
    set(&format!("PATH={DEFAULT_PATH}"));
    set(&format!("HOSTNAME={hostname}"));
    if tty {
        set("TERM=xterm");
    }
    image.iter().chain(own).for_each(|variable| set(variable));
    merged
}

/// moby, runconfig's Merge: the caller's come first.
fn asked_environment(own: &[String], image: &[String]) -> Vec<String> {
    let key = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let overridden = |variable: &&String| own.iter().any(|o| key(o) == key(variable));
    let kept = image.iter().filter(|v| !overridden(v));
    own.iter().chain(kept).cloned().collect()
}

/// A working folder is absolute, or nothing is said.
pub fn check_working_dir(folder: &str) -> Result<(), Error> {
    match folder.is_empty() || folder.starts_with('/') {
        true => Ok(()),
        false => Err(Error::Invalid(format!(
            "the working directory '{folder}' is invalid, it needs to be an absolute path"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipway_proto::runtime::v1::Entrypoint;

    const ID: &str = "0123456789abcdef";

    fn image() -> ImageConfig {
        ImageConfig::parse(
            br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},
            "config":{"Entrypoint":["entry"],"Cmd":["a","b"],"Env":["PATH=/x","K=image"],"User":"web","WorkingDir":"/srv"}}"#,
        )
        .unwrap()
    }

    fn args(command: &[&str], entrypoint: Option<&[&str]>) -> Vec<String> {
        let words = |w: &[&str]| w.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let spec = ContainerSpec {
            command: words(command),
            entrypoint: entrypoint.map(|e| Entrypoint { words: words(e) }),
            ..ContainerSpec::default()
        };
        merge(ID, &spec, &image())
            .map(|e| e.args())
            .unwrap_or_default()
    }

    #[test]
    fn entrypoint_and_command_as_docker() {
        assert_eq!(args(&[], None), ["entry", "a", "b"]);
        assert_eq!(args(&["c"], None), ["entry", "c"]);
        assert_eq!(args(&[], Some(&["own"])), ["own"]);
        assert_eq!(args(&["c"], Some(&["own"])), ["own", "c"]);
        assert_eq!(args(&["c"], Some(&[""])), ["c"]);
        assert!(args(&[], Some(&[""])).is_empty(), "no command specified");
    }

    #[test]
    fn variables_override_and_go() {
        let spec = ContainerSpec {
            env: vec!["K=own".into(), "PATH".into(), "N=1".into()],
            tty: true,
            ..ContainerSpec::default()
        };
        let effective = merge(ID, &spec, &image()).unwrap();
        assert_eq!(
            effective.env,
            ["HOSTNAME=0123456789ab", "TERM=xterm", "K=own", "N=1"]
        );
        assert_eq!(effective.asked.unwrap().env, ["K=own", "PATH", "N=1"]);
        assert_eq!(
            (effective.user.as_str(), effective.working_dir.as_str()),
            ("web", "/srv")
        );
    }
}
