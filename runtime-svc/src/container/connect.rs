//! `network connect` and `disconnect`: a container that is there comes to a network or leaves one, running or not.
//!
//! The record comes first, with what the container's files had of ours before; then netd, then the files, then the
//! record once more. Whoever is killed in between finishes the change at the next start.

mod rules;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use slipway_proto::{
    netd::v1::{Endpoint, PortBinding},
    runtime::v1::{AdditionalNetwork, ConnectedNetworks, NetworkConfig},
};

use super::{
    etc::{self, Own},
    manager::Manager,
    ports,
    record::Record,
    state::{Container, Status},
};
use crate::{
    error::{Error, Tried as _},
    network::networks,
};

use rules::may_change;
pub use rules::{check, warning};

/// How long it takes at least until netd is asked again that was away.
const AGAIN: Duration = Duration::from_secs(1);

/// A container whose networks are changed: where it runs, if it does.
pub(super) struct Change<'a> {
    container: &'a Arc<Container>,
    pub record: Record,
    pub config: NetworkConfig,
    /// "/proc/<pid>/ns/net", and what it has there.
    pub running: Option<(String, Vec<Endpoint>)>,
}

impl Change<'_> {
    /// The record with other networks; while it runs, as one whose files have to follow.
    async fn record(&self, networks: Vec<AdditionalNetwork>) -> Result<(), Error> {
        let mut config = self.config.clone();
        config.connected = Some(ConnectedNetworks { networks });
        let before = self.running.as_ref();
        let before = before.map(|(_, endpoints)| Own::of(&self.record, endpoints));
        let changed = self.container.update(|record| {
            record.spec.network = Some(config);
            record.changing = before;
        });
        let what = || format!("cannot record the networks of {}", self.record.name);
        changed.await.tried(what)
    }

    /// Its published ports if none of those endpoints has them: once they have one network, they go by whatever leads out.
    fn unpublished(&self, on: &[Endpoint]) -> Vec<PortBinding> {
        match on.iter().any(|e| !e.ports.is_empty()) {
            true => Vec::new(),
            false => ports::asked(&self.record),
        }
    }

    /// The record as it was.
    async fn take_back(&self) {
        let config = self.record.spec.network.clone();
        let taken = self.container.update(|record| {
            record.spec.network = config;
            record.changing = None;
        });
        if let Err(error) = taken.await {
            tracing::warn!(container = self.record.id, %error, "its record has a network that it is not on");
        }
    }
}

impl Manager {
    /// Has a container on one more network.
    pub async fn connect(
        &self,
        container: &Arc<Container>,
        asked: AdditionalNetwork,
    ) -> Result<(), Error> {
        let _turn = container.operation.lock().await;
        let change = self.change(container).await?;
        may_change(&change.config, &asked.network)?;
        if asked.network == "none"
            || change.config.mode == "none" && change.config.connected.is_none()
        {
            return Err(Error::Conflict(
                "container cannot be connected to multiple networks with one of the networks in private (none) mode"
                    .to_owned(),
            ));
        }
        let found = self.0.netd.network(&asked.network).await?;
        let mut networks = self.resolved(&change.config).await;
        if networks.iter().any(|n| n.network == found.name) {
            return Err(Error::Conflict(format!(
                "endpoint with name {} already exists in network {}",
                change.record.name, found.name
            )));
        }
        let joined = AdditionalNetwork {
            network: found.name.clone(),
            ..asked
        };
        networks.push(joined.clone());
        slipway_fault::fallible("runtime.connect.begun")
            .tried(|| format!("cannot record the networks of {}", change.record.name))?;
        change.record(networks).await?;
        slipway_fault::point("runtime.connect.recorded");
        let Some((netns, before)) = &change.running else {
            return Ok(());
        };
        let mut ports = change.unpublished(before);
        let connected = self.join(&change, &joined, &mut ports, netns);
        let endpoint = match connected.await {
            Ok(endpoint) => endpoint,
            Err(error) => {
                change.take_back().await;
                return Err(error);
            }
        };
        slipway_fault::point("runtime.connect.connected");
        let mut on = before.clone();
        on.push(endpoint.clone());
        container.set_endpoints(on);
        self.follow(container).await?;
        slipway_fault::point("runtime.connect.followed");
        self.tell_network(
            container,
            "connect",
            &endpoint.network_id,
            &endpoint.network_name,
        );
        Ok(())
    }

    /// Connects it to a network; by that one come its ports that have no network yet, if they can.
    pub(super) async fn join(
        &self,
        change: &Change<'_>,
        network: &AdditionalNetwork,
        ports: &mut Vec<PortBinding>,
        netns: &str,
    ) -> Result<Endpoint, Error> {
        let netd = &self.0.netd;
        let with_ports = !ports.is_empty() && netd.may_publish_on(&network.network).await;
        let of_it = if with_ports { &ports[..] } else { &[] };
        let who = change.record.who();
        let connected = netd.connect(who, network, &change.config, of_it, netns);
        let endpoint = connected.await?;
        if with_ports {
            ports.clear();
        }
        Ok(endpoint)
    }

    /// Takes a container from a network.
    pub async fn disconnect(&self, container: &Arc<Container>, network: &str) -> Result<(), Error> {
        let _turn = container.operation.lock().await;
        let change = self.change(container).await?;
        may_change(&change.config, network)?;
        let none = network == "none" && change.config.mode == "none";
        if none && change.config.connected.is_none() {
            return change.record(Vec::new()).await;
        }
        // A network that is gone is known by its name.
        let found = self.0.netd.network(network).await;
        let name = found.as_ref().map_or(network, |found| &found.name);
        let mut networks = self.resolved(&change.config).await;
        let before = networks.len();
        networks.retain(|n| n.network != name);
        if networks.len() == before {
            found?;
            return Err(Error::Conflict(format!(
                "container {} is not connected to network {network}",
                container.id
            )));
        }
        slipway_fault::fallible("runtime.disconnect.begun")
            .tried(|| format!("cannot record the networks of {}", change.record.name))?;
        change.record(networks).await?;
        slipway_fault::point("runtime.disconnect.recorded");
        if let Some((netns, there)) = &change.running {
            let left = self.0.netd.leave(&container.id, name, netns).await;
            slipway_fault::point("runtime.disconnect.left");
            match left {
                true => self.follow(container).await?,
                // It is owed: until then nobody knows who leads out.
                false => {
                    let stay = there.iter().filter(|e| e.network_name != name);
                    container.set_endpoints(stay.cloned().collect());
                    self.follow_later(container);
                }
            }
            slipway_fault::point("runtime.disconnect.followed");
        }
        if let Ok(found) = &found {
            self.tell_network(container, "disconnect", &found.id, &found.name);
        }
        Ok(())
    }

    /// Takes what is left on a network of a container that is not known here.
    pub async fn disconnect_stranger(&self, word: &str, network: &str) -> Result<(), Error> {
        match self.0.netd.release_stranger(network, word).await? {
            true => Ok(()),
            false => Err(Error::NoSuchContainer(word.to_owned())),
        }
    }

    pub(super) async fn change<'a>(
        &self,
        container: &'a Arc<Container>,
    ) -> Result<Change<'a>, Error> {
        let record = container.record();
        let running = match container.status() {
            Status::Removed => return Err(Error::NoSuchContainer(container.id.clone())),
            Status::Running { running, .. } if running.pid == 0 => {
                return Err(Error::Conflict(format!(
                    "the monitor of container {} does not answer: try again",
                    record.name
                )));
            }
            Status::Running { running, .. } => {
                let refused = |status| crate::registry::remote("netd", &status).into_netd();
                let endpoints = self.0.netd.endpoints_of(&container.id).await;
                let endpoints = endpoints.map_err(refused)?;
                Some((format!("/proc/{}/ns/net", running.pid), endpoints))
            }
            _ => None,
        };
        Ok(Change {
            container,
            config: record.spec.network.clone().unwrap_or_default(),
            record,
            running,
        })
    }

    /// Its networks by the names that netd knows them by; one that is gone by what it was called.
    pub(super) async fn resolved(&self, config: &NetworkConfig) -> Vec<AdditionalNetwork> {
        let mut networks = networks(config);
        for network in &mut networks {
            if let Ok(found) = self.0.netd.network(&network.network).await {
                network.network = found.name;
            }
        }
        networks
    }

    /// The files of a container that runs say what its networks are now, and so do we; when netd is away, as soon as
    /// it is there again.
    pub(super) async fn follow(&self, container: &Arc<Container>) -> Result<(), Error> {
        let Ok(endpoints) = self.0.netd.endpoints_of(&container.id).await else {
            self.follow_later(container);
            return Ok(());
        };
        let record = container.record();
        let what = || format!("cannot write the hosts file of {}", record.name);
        if let Some(before) = &record.changing {
            let after = Own::of(&record, &endpoints);
            etc::renew(&container.folder, before, &after, &endpoints).tried(what)?;
        }
        container.set_endpoints(endpoints);
        let changed = container.update(|record| record.changing = None);
        changed.await.tried(what)
    }

    fn follow_later(&self, container: &Arc<Container>) {
        let (manager, container) = (self.clone(), container.clone());
        tokio::spawn(async move {
            tokio::time::sleep(AGAIN).await;
            manager.0.netd.settled().await;
            let _turn = container.operation.lock().await;
            // Another change has come in between, or its end.
            if container.running().is_none() || container.record().changing.is_none() {
                return;
            }
            if let Err(error) = manager.follow(&container).await {
                tracing::warn!(container = container.id, %error, "its files say what its networks were");
            }
        });
    }

    /// Finishes changes that were cut off; netd is there.
    pub(super) async fn finish_changes(&self) {
        for container in self.all() {
            if container.record().changing.is_none() {
                continue;
            }
            let _turn = container.operation.lock().await;
            if let Err(error) = self.finish_change(&container).await {
                tracing::warn!(container = container.id, %error, "its networks are not what was asked for");
            }
        }
    }

    async fn finish_change(&self, container: &Arc<Container>) -> Result<(), Error> {
        let change = self.change(container).await?;
        let Some((netns, there)) = &change.running else {
            // Its next start writes all of it.
            let what = || format!("cannot record the networks of {}", change.record.name);
            return container
                .update(|record| record.changing = None)
                .await
                .tried(what);
        };
        let mut wanted = self.resolved(&change.config).await;
        for endpoint in there {
            if !wanted.iter().any(|n| n.network == endpoint.network_name) {
                self.0
                    .netd
                    .leave(&container.id, &endpoint.network_name, netns)
                    .await;
                let (id, name) = (&endpoint.network_id, &endpoint.network_name);
                self.tell_network(container, "disconnect", id, name);
            }
        }
        let missing = |n: &&AdditionalNetwork| !there.iter().any(|e| e.network_name == n.network);
        let mut refused = BTreeSet::new();
        // What it left may have had them, and netd may have led them by another.
        let refused_by = |status| crate::registry::remote("netd", &status).into_netd();
        let stay = self.0.netd.endpoints_of(&container.id).await;
        let mut ports = change.unpublished(&stay.map_err(refused_by)?);
        for network in wanted.iter().filter(missing) {
            let connected = self.join(&change, network, &mut ports, netns).await;
            match connected {
                Ok(e) => self.tell_network(container, "connect", &e.network_id, &e.network_name),
                // Nobody was told that it is on it.
                Err(error) => {
                    tracing::warn!(container = container.id, %error, "a connection that was cut off is given up");
                    refused.insert(network.network.clone());
                }
            }
        }
        if !refused.is_empty() {
            wanted.retain(|n| !refused.contains(&n.network));
            let networks = Some(ConnectedNetworks { networks: wanted });
            let taken = container.update(|record| {
                if let Some(config) = &mut record.spec.network {
                    config.connected = networks;
                }
            });
            taken
                .await
                .tried(|| format!("cannot record the networks of {}", change.record.name))?;
        }
        self.follow(container).await
    }
}
