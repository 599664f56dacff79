//! The network of a container, which netd makes.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use slipway_proto::{
    netd::v1::{
        CreateEndpointRequest, Endpoint, ListEndpointsRequest, ReleaseEndpointRequest,
        RenameEndpointRequest, SyncRequest, network_client::NetworkClient, sync_request::Live,
    },
    runtime::v1::NetworkConfig,
    types::v1::Page,
};
use tonic::transport::Channel;

use crate::error::{Error, Tried as _};

/// netd.
#[derive(Debug, Clone)]
pub struct Netd {
    client: NetworkClient<Channel>,
}

/// An endpoint, and the namespace that it is in.
#[derive(Debug)]
pub struct Attached {
    /// What netd says of it.
    pub endpoint: Endpoint,
    /// The network namespace.
    pub namespace: OwnedFd,
}

impl Netd {
    /// Over a channel.
    pub fn new(channel: Channel) -> Self {
        Self {
            client: NetworkClient::new(channel),
        }
    }

    /// Attaches a container to its network.
    pub async fn attach(
        &self,
        id: &str,
        name: &str,
        hostname: &str,
        config: &NetworkConfig,
    ) -> Result<Attached, Error> {
        let request = CreateEndpointRequest {
            network: if config.mode == "default" {
                String::new()
            } else {
                config.mode.clone()
            },
            container_id: id.to_owned(),
            container_name: name.to_owned(),
            hostname: hostname.to_owned(),
            aliases: config.aliases.clone(),
            ports: config.ports.clone(),
            ipv4_address: config.ipv4_address.clone(),
            ipv6_address: config.ipv6_address.clone(),
            mac_address: config.mac_address.clone(),
            dns: config.dns.clone(),
            dns_search: config.dns_search.clone(),
            dns_options: config.dns_options.clone(),
            ..CreateEndpointRequest::default()
        };
        let answer = self.client.clone().create_endpoint(request).await;
        let endpoint = answer
            .map_err(|status| Error::Network {
                container: name.to_owned(),
                status: Box::new(crate::registry::remote("netd", &status)),
            })?
            .into_inner();
        match rustix::fs::open(
            &*endpoint.netns_path,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(namespace) => Ok(Attached {
                endpoint,
                namespace,
            }),
            Err(e) => {
                self.release(id).await;
                Err(e)
                    .tried(|| format!("cannot open the network namespace {}", endpoint.netns_path))
            }
        }
    }

    /// Gives everything of a container back. A netd that is away finds out by itself at the next sync.
    pub async fn release(&self, id: &str) {
        let request = ReleaseEndpointRequest {
            endpoint_id: String::new(),
            container_id: id.to_owned(),
        };
        if let Err(status) = self.client.clone().release_endpoint(request).await {
            tracing::warn!(
                container = id,
                error = status.message(),
                "the endpoint was not released"
            );
        }
    }

    /// Has a container found by another name. A netd that is away answers with the old one until the
    /// container is started again.
    pub async fn rename(&self, id: &str, name: &str) {
        let request = RenameEndpointRequest {
            container_id: id.to_owned(),
            container_name: name.to_owned(),
        };
        if let Err(status) = self.client.clone().rename_endpoint(request).await {
            tracing::warn!(
                container = id,
                error = status.message(),
                "its new name is not known on its network"
            );
        }
    }

    /// All endpoints of this host, to know the ports of containers that outlived us.
    pub async fn endpoints(&self) -> Vec<Endpoint> {
        let mut all = Vec::new();
        let mut page = Page {
            size: 1000,
            token: String::new(),
        };
        loop {
            let request = ListEndpointsRequest {
                page: Some(page.clone()),
                ..ListEndpointsRequest::default()
            };
            match self.client.clone().list_endpoints(request).await {
                Ok(answer) => {
                    let answer = answer.into_inner();
                    all.extend(answer.endpoints);
                    if answer.next_page_token.is_empty() {
                        return all;
                    }
                    page.token = answer.next_page_token;
                }
                Err(status) => {
                    tracing::warn!(error = status.message(), "netd did not tell its endpoints");
                    return all;
                }
            }
        }
    }

    /// Tells which containers live.
    pub async fn sync(&self, live: Vec<(String, i32)>) -> Result<(), tonic::Status> {
        let live = live
            .into_iter()
            .map(|(container_id, pid)| Live {
                container_id,
                netns: format!("/proc/{pid}/ns/net"),
            })
            .collect();
        let answer = self
            .client
            .clone()
            .sync(SyncRequest { live })
            .await?
            .into_inner();
        for id in answer.lost {
            tracing::warn!(endpoint = id, "a running container has lost its network");
        }
        Ok(())
    }
}
