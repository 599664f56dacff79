//! `ctl port add` and `rm`: other published ports for a container that is there, running or not.
//!
//! The record comes first, with a mark that netd may not have all of it yet; then netd is made to have what the record
//! says, and the mark goes. What netd refuses leaves the record as it was. Whoever is killed in between finds the mark.

mod plan;

use std::{sync::Arc, time::Duration};

use slipway_proto::{
    netd::v1::{Endpoint, PortBinding},
    runtime::v1::NetworkConfig,
};

use super::{manager::Manager, peers, ports, state::Container};
use crate::error::{Error, Tried as _};

use plan::{Difference, changed};

/// How long it takes until netd is asked again that was away.
const AGAIN: Duration = Duration::from_secs(1);

impl Manager {
    /// Publishes further ports and withdraws others. A port that is published already gets the clients that are named.
    /// Returns what is published then; while it does not run, what will be.
    pub async fn update_ports(
        &self,
        container: &Arc<Container>,
        add: &[PortBinding],
        remove: &[PortBinding],
    ) -> Result<Vec<PortBinding>, Error> {
        let _turn = container.operation.lock().await;
        let record = container.record();
        let before = record.spec.network.clone().unwrap_or_default();
        may_publish(&before, &record.name)?;
        let runs = container.running().is_some();
        let there = match runs {
            true => self.published(container).await?,
            false => Vec::new(),
        };
        let mut after = before.clone();
        if !remove.is_empty() {
            // What -P stands for has to be said one by one when some of it goes.
            after.ports = ports::asked(&record);
            after.publish_all = false;
        }
        let (asked, doomed) = changed(after.ports, &there, add, remove)?;
        after.ports = asked;
        slipway_fault::fallible("runtime.ports.begun")
            .tried(|| format!("cannot record the ports of {}", record.name))?;
        self.record_ports(container, &after, runs).await?;
        slipway_fault::point("runtime.ports.recorded");
        if !runs {
            return Ok(ports::asked(&container.record()));
        }
        if let Err(error) = self.settle_ports(container, &doomed).await {
            // The record as it was, and whatever netd has done of it with it.
            self.record_ports(container, &before, true).await?;
            if let Err(error) = self.settle_ports(container, &[]).await {
                tracing::warn!(container = container.id, %error, "its ports are not what they were yet");
                self.settle_ports_later(container);
            }
            return Err(error);
        }
        slipway_fault::point("runtime.ports.settled");
        let all = container.endpoints().into_iter();
        Ok(all.flat_map(|endpoint| endpoint.ports).collect())
    }

    async fn record_ports(
        &self,
        container: &Container,
        config: &NetworkConfig,
        runs: bool,
    ) -> Result<(), Error> {
        let recorded = container.update(|record| {
            record.spec.network = Some(config.clone());
            record.publishing = runs;
        });
        recorded
            .await
            .tried(|| format!("cannot record the ports of {}", container.name()))
    }

    async fn published(&self, container: &Container) -> Result<Vec<PortBinding>, Error> {
        let endpoints = self.endpoints_now(container).await?;
        Ok(endpoints.into_iter().flat_map(|e| e.ports).collect())
    }

    async fn endpoints_now(&self, container: &Container) -> Result<Vec<Endpoint>, Error> {
        let told = self.0.netd.endpoints_of(&container.id).await;
        told.map_err(|status| crate::registry::remote("netd", &status).into_netd())
    }

    /// Has netd publish what the record says, and nothing else; of what says the same, `doomed` goes.
    async fn settle_ports(
        &self,
        container: &Container,
        doomed: &[PortBinding],
    ) -> Result<(), Error> {
        let asked = ports::asked(&container.record());
        let endpoints = self.endpoints_now(container).await?;
        let there: Vec<_> = endpoints.iter().flat_map(|e| e.ports.clone()).collect();
        let Difference { missing, surplus } = Difference::of(&asked, &there, doomed);
        for endpoint in &endpoints {
            let of_it = |port: &&PortBinding| endpoint.ports.contains(port);
            let ports: Vec<_> = surplus.iter().filter(of_it).cloned().collect();
            if !ports.is_empty() {
                self.0.netd.remove_ports(&endpoint.id, ports).await?;
            }
        }
        slipway_fault::point("runtime.ports.withdrawn");
        let out = endpoints.iter().find(|e| e.default_route);
        // One that is on no network publishes nothing until it is.
        if let Some(endpoint) = out.or(endpoints.first())
            && !missing.is_empty()
        {
            self.0.netd.add_ports(&endpoint.id, missing).await?;
        }
        slipway_fault::point("runtime.ports.told");
        container.set_endpoints(self.endpoints_now(container).await?);
        let done = container.update(|record| record.publishing = false).await;
        done.tried(|| format!("cannot record the ports of {}", container.name()))
    }

    fn settle_ports_later(&self, container: &Arc<Container>) {
        let (manager, container) = (self.clone(), container.clone());
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(AGAIN).await;
                let _turn = container.operation.lock().await;
                // Another change has come in between, or its end.
                if container.running().is_none() || !container.record().publishing {
                    return;
                }
                match manager.settle_ports(&container, &[]).await {
                    Ok(()) => return,
                    Err(error) if error.is_away() => {}
                    Err(error) => {
                        tracing::warn!(container = container.id, %error, "its ports are not what was asked for");
                        return;
                    }
                }
            }
        });
    }

    /// Finishes changes that were cut off; netd is there.
    pub(super) async fn finish_ports(&self) {
        for container in self.all() {
            if !container.record().publishing || container.running().is_none() {
                continue;
            }
            let _turn = container.operation.lock().await;
            if let Err(error) = self.settle_ports(&container, &[]).await {
                tracing::warn!(container = container.id, %error, "its ports are not what was asked for yet");
                self.settle_ports_later(&container);
            }
        }
    }
}

/// Without a network of its own there is nothing to publish on.
fn may_publish(config: &NetworkConfig, name: &str) -> Result<(), Error> {
    let shares = peers::of(&config.mode).is_some();
    let alone = matches!(config.mode.as_str(), "host" | "none") && config.connected.is_none();
    match shares || alone {
        true => Err(Error::Conflict(format!(
            "container {name} runs in network mode {}: it has no ports of its own to publish",
            config.mode
        ))),
        false => Ok(()),
    }
}
