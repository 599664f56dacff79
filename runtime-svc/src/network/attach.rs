//! Attaching a container to its networks: all of them or none.

use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::fs::{Mode, OFlags};
use slipway_proto::{
    netd::v1::{CreateEndpointRequest, Endpoint, PortBinding},
    runtime::v1::{AdditionalNetwork, NetworkConfig},
};
use tonic::Status;

use super::{Netd, is_away};
use crate::error::{Error, Tried as _};

/// The name of the default network.
pub const DEFAULT: &str = "bridge";

/// The endpoints of a container, and the namespace that they are in.
#[derive(Debug)]
pub struct Attached {
    /// What netd says of them, by the names of their interfaces.
    pub endpoints: Vec<Endpoint>,
    /// The network namespace.
    pub namespace: OwnedFd,
}

/// Who is attached.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its own idea of its name.
    pub hostname: &'a str,
}

/// The networks that a container is on. None of a mode that is no network.
pub fn networks(config: &NetworkConfig) -> Vec<AdditionalNetwork> {
    if let Some(connected) = &config.connected {
        return connected.networks.clone();
    }
    let first = AdditionalNetwork {
        network: match config.mode.as_str() {
            "host" | "none" => return Vec::new(),
            mode if mode.starts_with("container:") => return Vec::new(),
            "" | "default" => DEFAULT.to_owned(),
            mode => mode.to_owned(),
        },
        aliases: config.aliases.clone(),
        ipv4_address: config.ipv4_address.clone(),
        ipv6_address: config.ipv6_address.clone(),
        mac_address: config.mac_address.clone(),
        gateway_priority: config.gateway_priority,
    };
    std::iter::once(first)
        .chain(config.additional.iter().cloned())
        .collect()
}

/// By the names of their interfaces: in the order in which it came to its networks.
pub(super) fn in_order(endpoints: &mut [Endpoint]) {
    let key = |e: &Endpoint| (e.interface_name.len(), e.interface_name.clone());
    endpoints.sort_by_key(key);
}

fn request(
    who: Who<'_>,
    network: &AdditionalNetwork,
    config: &NetworkConfig,
) -> CreateEndpointRequest {
    CreateEndpointRequest {
        network: network.network.clone(),
        container_id: who.id.to_owned(),
        container_name: who.name.to_owned(),
        hostname: who.hostname.to_owned(),
        aliases: network.aliases.clone(),
        ipv4_address: network.ipv4_address.clone(),
        ipv6_address: network.ipv6_address.clone(),
        mac_address: network.mac_address.clone(),
        gateway_priority: network.gateway_priority,
        dns: config.dns.clone(),
        dns_search: config.dns_search.clone(),
        dns_options: config.dns_options.clone(),
        ..CreateEndpointRequest::default()
    }
}

impl Netd {
    /// Attaches a container to its networks; `None` when it is on none.
    pub async fn attach(
        &self,
        who: Who<'_>,
        config: &NetworkConfig,
    ) -> Result<Option<Attached>, Error> {
        let wanted = networks(config);
        let Some((first, more)) = wanted.split_first() else {
            return Ok(None);
        };
        let with_ports = self.with_ports(&wanted, config).await;
        let ports = |place: usize| match place == with_ports {
            true => &config.ports[..],
            false => &[],
        };
        self.held().insert(who.id.to_owned());
        let mut attached = match self.attach_first(who, first, config, ports(0)).await {
            Ok(attached) => attached,
            Err(error) => {
                self.held().remove(who.id);
                return Err(error);
            }
        };
        if more.is_empty() {
            return Ok(Some(attached));
        }
        // The same for netd whenever it was started.
        let netns = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            attached.namespace.as_raw_fd()
        );
        for (network, place) in more.iter().zip(1..) {
            let connected = self.connect(who, network, config, ports(place), &netns);
            if let Err(error) = connected.await {
                self.release(who.id).await;
                return Err(error);
            }
        }
        // Who leads out, and has the ports, may be another than the first.
        match self.endpoints_of(who.id).await {
            Ok(endpoints) => attached.endpoints = endpoints,
            Err(status) => {
                self.release(who.id).await;
                return Err(refused(who, &status));
            }
        }
        Ok(Some(attached))
    }

    /// Which of its networks netd is given a container's ports with: the first that can have any, or the first for netd
    /// to say why there is none. It leads them by whichever is right when the container is on all of them.
    async fn with_ports(&self, wanted: &[AdditionalNetwork], config: &NetworkConfig) -> usize {
        if config.ports.is_empty() || wanted.len() == 1 {
            return 0;
        }
        for (place, network) in wanted.iter().enumerate() {
            if self.may_publish_on(&network.network).await {
                return place;
            }
        }
        0
    }

    async fn attach_first(
        &self,
        who: Who<'_>,
        network: &AdditionalNetwork,
        config: &NetworkConfig,
        ports: &[PortBinding],
    ) -> Result<Attached, Error> {
        let request = CreateEndpointRequest {
            ports: ports.to_vec(),
            ..request(who, network, config)
        };
        self.pay_first()
            .await
            .map_err(|status| refused(who, &status))?;
        let mut answer = self.client.clone().create_endpoint(request.clone()).await;
        if let Err(status) = &answer
            && slipway_service::error::reason(status) == "ALREADY_ATTACHED"
        {
            // Of a start that was cut off: this one begins anew.
            self.release(who.id).await;
            self.held().insert(who.id.to_owned());
            answer = self.client.clone().create_endpoint(request).await;
        }
        let endpoint = match answer {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                // It may have been killed when the endpoint was there already.
                if is_away(&status) {
                    self.owe(|owed| {
                        owed.released.insert(who.id.to_owned());
                    })
                    .await;
                }
                return Err(refused(who, &status));
            }
        };
        match rustix::fs::open(
            &*endpoint.netns_path,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(namespace) => Ok(Attached {
                endpoints: vec![endpoint],
                namespace,
            }),
            Err(e) => {
                self.release(who.id).await;
                Err(e)
                    .tried(|| format!("cannot open the network namespace {}", endpoint.netns_path))
            }
        }
    }

    /// Attaches a container to one more network, in the namespace that it has.
    pub async fn connect(
        &self,
        who: Who<'_>,
        network: &AdditionalNetwork,
        config: &NetworkConfig,
        ports: &[PortBinding],
        netns: &str,
    ) -> Result<Endpoint, Error> {
        // Also of one that was on none so far.
        self.held().insert(who.id.to_owned());
        self.pay_first()
            .await
            .map_err(|status| refused(who, &status))?;
        let request = CreateEndpointRequest {
            netns: netns.to_owned(),
            ports: ports.to_vec(),
            ..request(who, network, config)
        };
        match self.client.clone().create_endpoint(request).await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => {
                if is_away(&status) {
                    self.owe(|owed| {
                        let part = (who.id.to_owned(), network.network.clone());
                        owed.left.insert(part, netns.to_owned());
                    })
                    .await;
                }
                Err(refused(who, &status))
            }
        }
    }
}

fn refused(who: Who<'_>, status: &Status) -> Error {
    Error::Network {
        container: who.name.to_owned(),
        status: Box::new(crate::registry::remote("netd", status)),
    }
}

#[cfg(test)]
mod tests {
    use slipway_proto::runtime::v1::ConnectedNetworks;

    use super::*;

    fn names(config: &NetworkConfig) -> Vec<String> {
        networks(config).into_iter().map(|n| n.network).collect()
    }

    #[test]
    fn what_was_asked_for_counts_until_it_was_changed() {
        let more = |name: &str| AdditionalNetwork {
            network: name.into(),
            ..Default::default()
        };
        let mut config = NetworkConfig::default();
        assert_eq!(names(&config), ["bridge"]);
        config.mode = "front".into();
        config.additional = vec![more("back")];
        assert_eq!(names(&config), ["front", "back"]);
        for mode in ["host", "none", "container:a"] {
            let mode = NetworkConfig {
                mode: mode.into(),
                ..Default::default()
            };
            assert!(names(&mode).is_empty());
        }
        let networks = vec![more("other")];
        config.connected = Some(ConnectedNetworks { networks });
        assert_eq!(names(&config), ["other"]);
        config.connected = Some(ConnectedNetworks::default());
        assert!(names(&config).is_empty());
    }
}
