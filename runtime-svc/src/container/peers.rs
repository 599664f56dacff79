//! `container:X`: namespaces of other containers, and what docker refuses beside them.
//!
//! A namespace is joined through a pidfd of X's first process that X's monitor hands out. The monitor
//! is that process's parent: as long as it answers, the number has not been given to another.

use std::{os::fd::OwnedFd, sync::Arc};

use slipway_proto::runtime::v1::ContainerSpec;

use super::{
    manager::Manager,
    record::Record,
    state::{Container, Status},
};
use crate::{
    error::{Error, Tried as _},
    executor::plan::Namespace,
    monitor::client::{self, Connection},
};

const PREFIX: &str = "container:";

/// The container that a mode names.
pub fn of(mode: &str) -> Option<&str> {
    mode.strip_prefix(PREFIX)
}

fn network(spec: &ContainerSpec) -> &str {
    spec.network.as_ref().map_or("", |n| n.mode.as_str())
}

/// The containers whose first processes are needed, each once.
pub fn wanted(spec: &ContainerSpec) -> Vec<&str> {
    let mut wanted = Vec::new();
    for mode in [network(spec), &spec.pid_mode, &spec.ipc_mode] {
        if let Some(id) = of(mode)
            && !wanted.contains(&id)
        {
            wanted.push(id);
        }
    }
    wanted
}

/// The namespace that a mode means.
pub fn namespace(spec: &ContainerSpec, mode: &str) -> Namespace {
    match (mode, of(mode)) {
        ("host", _) => Namespace::Host,
        (_, Some(id)) => {
            let position = wanted(spec).iter().position(|w| *w == id).unwrap_or(0);
            // There are three modes.
            Namespace::Peer(u8::try_from(position).unwrap_or(0))
        }
        _ => Namespace::New,
    }
}

/// Checks the modes and what contradicts them, by the rules and in the words of moby's
/// runconfig/hostconfig_unix.go and api/types/container/errors.go.
pub fn check(spec: &ContainerSpec) -> Result<(), Error> {
    let refuse = |why: String| Err(Error::Invalid(why));
    let named = |mode: &str| of(mode).is_some_and(|id| !id.is_empty());
    if !matches!(&*spec.pid_mode, "" | "private" | "host") && !named(&spec.pid_mode) {
        return refuse(format!("invalid PID mode: {}", spec.pid_mode));
    }
    if !matches!(
        &*spec.ipc_mode,
        "" | "private" | "shareable" | "none" | "host"
    ) && !named(&spec.ipc_mode)
    {
        return refuse(format!("invalid IPC mode: {}", spec.ipc_mode));
    }
    if !matches!(&*spec.uts_mode, "" | "private" | "host") {
        return refuse(format!("invalid UTS mode: {}", spec.uts_mode));
    }
    if !matches!(&*spec.cgroupns_mode, "" | "private" | "host") {
        return refuse(format!(
            "invalid cgroup namespace mode: {}",
            spec.cgroupns_mode
        ));
    }
    let conflict = |what: &str| Err(Error::Invalid(format!("conflicting options: {what}")));
    if spec.uts_mode == "host" && !spec.hostname.is_empty() {
        return conflict("hostname and the UTS mode");
    }
    let Some(n) = spec.network.as_ref().filter(|n| of(&n.mode).is_some()) else {
        return match &spec.network {
            Some(n) if n.mode == "host" && !n.mac_address.is_empty() => {
                conflict("mac-address and the network mode")
            }
            _ => Ok(()),
        };
    };
    if !named(&n.mode) {
        return refuse("invalid container format container:<name|id>".to_owned());
    }
    for (asked, what) in [
        (
            spec.uts_mode == "host",
            "the network mode container:<name|id> and the UTS mode host",
        ),
        (!spec.hostname.is_empty(), "hostname and the network mode"),
        (
            !n.dns.is_empty() || !n.dns_search.is_empty() || !n.dns_options.is_empty(),
            "dns and the network mode",
        ),
        (
            !n.extra_hosts.is_empty(),
            "custom host-to-IP mapping and the network mode",
        ),
        (
            !n.mac_address.is_empty(),
            "mac-address and the network mode",
        ),
        (
            !n.ports.is_empty() || n.publish_all,
            "port publishing and the container type network mode",
        ),
        (
            !n.expose.is_empty(),
            "port exposing and the container type network mode",
        ),
        (
            !n.additional.is_empty(),
            "several networks and the container type network mode",
        ),
    ] {
        if asked {
            return conflict(what);
        }
    }
    if !n.ipv4_address.is_empty() || !n.ipv6_address.is_empty() {
        return refuse(
            "user specified IP address is supported on user defined networks only".to_owned(),
        );
    }
    if !n.aliases.is_empty() {
        return refuse(
            "network-scoped alias is supported only for containers in user defined networks"
                .to_owned(),
        );
    }
    Ok(())
}

impl Manager {
    /// Puts ids in the places of names, so that the containers may be renamed. What is not there is said
    /// at the start, as docker does.
    pub(super) fn name_peers_by_id(&self, spec: &mut ContainerSpec) {
        let modes = [&mut spec.pid_mode, &mut spec.ipc_mode]
            .into_iter()
            .chain(spec.network.as_mut().map(|n| &mut n.mode));
        for mode in modes {
            if let Some(found) = of(mode).and_then(|name| self.find(name).ok()) {
                *mode = format!("{PREFIX}{}", found.id);
            }
        }
    }

    /// Pidfds of the first processes that the plan names by number.
    pub(super) async fn peers(&self, record: &Record) -> Result<Vec<OwnedFd>, Error> {
        let spec = &record.spec;
        let (net, pid, ipc) = (of(network(spec)), of(&spec.pid_mode), of(&spec.ipc_mode));
        let mut peers = Vec::new();
        for id in wanted(spec) {
            let what = match () {
                () if net == Some(id) => "network",
                () if pid == Some(id) => "PID",
                () => "IPC",
            };
            if id == record.id {
                return Err(Error::Invalid(format!(
                    "cannot join own {} namespace",
                    what.to_lowercase()
                )));
            }
            let peer = self.find(id)?;
            if ipc == Some(id) {
                self.check_shareable(&peer)?;
            }
            peers.push(first_process(&peer, what).await?);
        }
        Ok(peers)
    }

    /// docker: what is private is mounted inside of the container alone.
    fn check_shareable(&self, peer: &Container) -> Result<(), Error> {
        match peer.record().spec.ipc_mode.as_str() {
            "shareable" | "host" => Ok(()),
            mode if of(mode).is_some() => Ok(()),
            _ => Err(Error::Invalid(
                "failed to join IPC namespace: non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
                    .to_owned(),
            )),
        }
    }

    /// The container whose network, names and files for them this one shares, if any; through others that
    /// share a network themselves.
    pub(super) fn network_peer(&self, record: &Record) -> Result<Option<Arc<Container>>, Error> {
        let mut found = None;
        let mut mode = network(&record.spec).to_owned();
        // A circle cannot be: each must run for the next one to start.
        for _ in 0..64 {
            let Some(id) = of(&mode) else { break };
            let peer = self.find(id)?;
            mode = network(&peer.record().spec).to_owned();
            found = Some(peer);
        }
        Ok(found)
    }
}

/// The monitor knows of an end before the service does: a container whose monitor is gone, or says that
/// the process has ended, does not run.
async fn first_process(peer: &Container, what: &str) -> Result<OwnedFd, Error> {
    let ended = || {
        Error::Conflict(format!(
            "cannot join {what} of a non running container: {}",
            peer.id
        ))
    };
    if !matches!(peer.status(), Status::Running { .. }) {
        return Err(ended());
    }
    let trouble = || {
        format!(
            "cannot join the {what} namespace of container {}",
            peer.name()
        )
    };
    let connection = match Connection::open(&peer.socket()) {
        Err(e) if client::is_none(&e) => return Err(ended()),
        opened => opened.tried(trouble)?,
    };
    let process = connection.first_process().await.tried(trouble)?;
    process.ok_or_else(ended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipway_proto::{netd::v1::PortBinding, runtime::v1::NetworkConfig};

    #[test]
    fn each_container_is_asked_once() {
        let spec = ContainerSpec {
            pid_mode: "container:b".into(),
            ipc_mode: "container:a".into(),
            network: Some(NetworkConfig {
                mode: "container:a".into(),
                ..NetworkConfig::default()
            }),
            ..ContainerSpec::default()
        };
        assert_eq!(wanted(&spec), ["a", "b"]);
        assert_eq!(namespace(&spec, &spec.pid_mode), Namespace::Peer(1));
        assert_eq!(namespace(&spec, &spec.ipc_mode), Namespace::Peer(0));
        assert_eq!(namespace(&spec, ""), Namespace::New);
        assert_eq!(namespace(&spec, "host"), Namespace::Host);
    }

    #[test]
    fn modes_that_there_are_not() {
        let check = |change: fn(&mut ContainerSpec)| {
            let mut spec = ContainerSpec::default();
            change(&mut spec);
            check(&spec).map_err(|e| e.to_string())
        };
        for change in [
            (|s| s.pid_mode = "shareable".into()) as fn(&mut ContainerSpec),
            |s| s.pid_mode = "container:".into(),
            |s| s.ipc_mode = "what".into(),
            |s| s.uts_mode = "container:a".into(),
            |s| s.cgroupns_mode = "none".into(),
        ] {
            assert!(check(change).unwrap_err().starts_with("invalid "));
        }
        assert!(check(|s| s.ipc_mode = "shareable".into()).is_ok());
        assert!(check(|s| (s.uts_mode, s.hostname) = ("host".into(), "x".into())).is_err());
    }

    #[test]
    fn a_shared_network_takes_no_settings_of_its_own() {
        let n = || NetworkConfig {
            mode: "container:a".into(),
            ..NetworkConfig::default()
        };
        let words = |word: &str| vec![word.to_owned()];
        for network in [
            NetworkConfig {
                ports: vec![PortBinding::default()],
                ..n()
            },
            NetworkConfig {
                publish_all: true,
                ..n()
            },
            NetworkConfig {
                expose: words("80"),
                ..n()
            },
            NetworkConfig {
                dns: words("1.1.1.1"),
                ..n()
            },
            NetworkConfig {
                extra_hosts: words("a:1.1.1.1"),
                ..n()
            },
            NetworkConfig {
                ipv4_address: "10.0.0.1".into(),
                ..n()
            },
            NetworkConfig {
                mac_address: "x".into(),
                ..n()
            },
            NetworkConfig {
                aliases: words("x"),
                ..n()
            },
        ] {
            let spec = ContainerSpec {
                network: Some(network),
                ..ContainerSpec::default()
            };
            assert!(check(&spec).is_err(), "{spec:?}");
        }
        let spec = ContainerSpec {
            network: Some(n()),
            ..ContainerSpec::default()
        };
        assert!(check(&spec).is_ok());
    }
}
