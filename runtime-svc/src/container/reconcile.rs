//! `ctl network reconcile`: containers and their endpoints, compared in both directions.

use std::sync::Arc;

use slipway_proto::{netd::v1::Endpoint, runtime::v1::AdditionalNetwork};

use super::{etc::Own, manager::Manager, ports, state::Container};
use crate::error::{Error, Tried as _};

/// What was wrong, as a sentence, and why it still is.
type Finding = (String, Result<(), String>);

impl Manager {
    /// Takes back what belongs to no container, and gives those that run the networks again that they have lost.
    pub async fn reconcile_networks(&self) -> Result<Vec<Finding>, Error> {
        let refused = |status| crate::registry::remote("netd", &status).into_netd();
        let unheld = self.0.netd.release_unheld().await.map_err(refused)?;
        let mut found: Vec<Finding> = Vec::new();
        for (endpoint, released) in unheld {
            let name = endpoint.dns_names.first();
            let what = format!(
                "the endpoint of container {} on network {} belongs to nobody",
                name.unwrap_or(&endpoint.container_id),
                endpoint.network_name
            );
            let released = released.map_err(|status| status.message().to_owned());
            tracing::warn!(?released, "{what}; it is taken back");
            found.push((what, released));
        }
        for container in self.all() {
            if container.running().is_some() {
                found.extend(self.regain(&container).await);
            }
        }
        Ok(found)
    }

    /// Connects a container that runs to those of its networks that it is not on any more.
    async fn regain(&self, container: &Arc<Container>) -> Vec<Finding> {
        let _turn = container.operation.lock().await;
        match self.try_to_regain(container).await {
            Ok(found) => found,
            // It has ended meanwhile.
            Err(_) if container.running().is_none() => Vec::new(),
            Err(error) => {
                let what = format!("container {} may lack networks", container.name());
                vec![(what, Err(error.to_string()))]
            }
        }
    }

    async fn try_to_regain(&self, container: &Arc<Container>) -> Result<Vec<Finding>, Error> {
        let change = self.change(container).await?;
        let Some((netns, there)) = &change.running else {
            return Ok(Vec::new());
        };
        let is_there = |network: &str| there.iter().any(|e| e.network_name == network);
        let wanted = self.resolved(&change.config).await.into_iter();
        let missing: Vec<_> = wanted.filter(|n| !is_there(&n.network)).collect();
        if missing.is_empty() {
            return Ok(Vec::new());
        }
        let had = container.endpoints();
        let record = change.record.clone();
        // Its files say what it had.
        let before = Own::of(&record, &had);
        let what = || format!("cannot record the networks of {}", record.name);
        let noted = container.update(|record| record.changing = Some(before));
        noted.await.tried(what)?;
        let mut ports = match there.iter().any(|e| !e.ports.is_empty()) {
            true => Vec::new(),
            false => {
                let had = had.iter().flat_map(|e| e.ports.clone()).collect::<Vec<_>>();
                match had.is_empty() {
                    true => ports::asked(&record),
                    false => had,
                }
            }
        };
        let mut found = Vec::new();
        for network in missing {
            let what = format!(
                "container {} had no endpoint on network {}",
                record.name, network.network
            );
            let network = as_it_was(network, &had);
            let connected = self.join(&change, &network, &mut ports, netns).await;
            let connected = connected.map_err(|error| error.to_string());
            tracing::warn!(container = container.id, ?connected, "{what}");
            found.push((what, connected.map(drop)));
        }
        self.follow(container).await?;
        Ok(found)
    }
}

/// With the addresses that it had.
fn as_it_was(network: AdditionalNetwork, had: &[Endpoint]) -> AdditionalNetwork {
    let Some(before) = had.iter().find(|e| e.network_name == network.network) else {
        return network;
    };
    AdditionalNetwork {
        ipv4_address: before.ipv4_address.clone(),
        ipv6_address: before.ipv6_address.clone(),
        mac_address: before.mac_address.clone(),
        ..network
    }
}
