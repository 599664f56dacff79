//! The `Network` service.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use slipway_proto::netd::v1::network_server::Network;
use slipway_proto::netd::v1::*;
use slipway_proto::types::v1::{Page, ServiceInfo};
use tonic::{Request, Response, Status};

use crate::dns::ResolvConf;
use crate::error::Error;
use crate::host::Host;
use crate::id::EndpointId;

use super::{convert, filter, modes};

type Answer<T> = Result<Response<T>, Status>;

/// All networks, and whether nobody made them.
fn listed(host: &Host, conf: &ResolvConf) -> Vec<(NetworkDetails, bool)> {
    let own = host.networks().into_iter().map(|details| {
        let builtin = details.network.is_default();
        (convert::network(details, conf), builtin)
    });
    let modes = modes_of(host, conf).into_iter().map(|mode| (mode, true));
    own.chain(modes).collect()
}

/// None while there is no default network.
fn modes_of(host: &Host, conf: &ResolvConf) -> Vec<NetworkDetails> {
    let default = host
        .network("")
        .map(|default| convert::network(default, conf));
    default.iter().flat_map(modes::all).collect()
}

/// Serves a host.
#[derive(Debug, Clone)]
pub struct NetworkService {
    host: Arc<Host>,
    resolv_conf: PathBuf,
    started: SystemTime,
}

impl NetworkService {
    /// `resolv_conf` is the host's: containers get its search domains and options.
    pub fn new(host: Arc<Host>, resolv_conf: PathBuf, started: SystemTime) -> Self {
        Self {
            host,
            resolv_conf,
            started,
        }
    }

    /// The domain is synchronous, and a request once begun is finished even if its caller goes.
    async fn on_pool<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Host, &ResolvConf) -> Result<T, Error> + Send + 'static,
    ) -> Answer<T> {
        let (host, path) = (Arc::clone(&self.host), self.resolv_conf.clone());
        let done = tokio::task::spawn_blocking(move || {
            // A host without the file has neither search domains nor options.
            let text = std::fs::read_to_string(path).unwrap_or_default();
            work(&host, &ResolvConf::parse(&text))
        });
        match done.await {
            Ok(result) => Ok(Response::new(result?)),
            Err(error) => Err(Status::internal(format!(
                "netd failed at this request: {error}"
            ))),
        }
    }
}

/// Cuts a page out of a list sorted by key; the token is the last key of the page before.
fn page<T>(mut items: Vec<T>, page: Option<&Page>, key: impl Fn(&T) -> String) -> (Vec<T>, String) {
    let size = match page.map_or(0, |page| page.size) {
        0 => 100,
        size => (size as usize).min(1000),
    };
    items.sort_by_key(&key);
    if let Some(token) = page
        .map(|page| &page.token)
        .filter(|token| !token.is_empty())
    {
        items.retain(|item| key(item) > *token);
    }
    let more = items.len() > size;
    items.truncate(size);
    let token = items.last().filter(|_| more).map(&key).unwrap_or_default();
    (items, token)
}

#[tonic::async_trait]
impl Network for NetworkService {
    async fn create_endpoint(&self, request: Request<CreateEndpointRequest>) -> Answer<Endpoint> {
        let request = convert::endpoint_request(request.into_inner())?;
        if self.host.has_ready(&request) {
            // A small file in memory and a few maps: quicker done than given to another thread.
            let text = std::fs::read_to_string(&self.resolv_conf).unwrap_or_default();
            let attached = self.host.attach(request)?;
            let conf = ResolvConf::parse(&text);
            return Ok(Response::new(convert::endpoint(attached, &conf)));
        }
        self.on_pool(|host, conf| Ok(convert::endpoint(host.attach(request)?, conf)))
            .await
    }

    async fn release_endpoint(
        &self,
        request: Request<ReleaseEndpointRequest>,
    ) -> Answer<ReleaseEndpointResponse> {
        let request = request.into_inner();
        self.on_pool(move |host, _| {
            let released = match (request.endpoint_id.as_str(), request.container_id.as_str()) {
                ("", "") => {
                    return Err(Error::Invalid(
                        "name the endpoint or the container to release".to_owned(),
                    ));
                }
                ("", container) => host.release_container(container)?,
                (id, _) if !request.netns.is_empty() => {
                    let id = EndpointId::named(id);
                    usize::from(host.release_from(&id, request.netns.as_ref())?)
                }
                (id, _) => usize::from(host.release(&EndpointId::named(id))?),
            };
            Ok(ReleaseEndpointResponse {
                released: u32::try_from(released).unwrap_or(u32::MAX),
            })
        })
        .await
    }

    async fn sync(&self, request: Request<SyncRequest>) -> Answer<SyncResponse> {
        let live = request.into_inner().live.into_iter();
        let live: HashMap<String, PathBuf> = live
            .map(|live| (live.container_id, live.netns.into()))
            .collect();
        self.on_pool(move |host, _| {
            let synced = host.sync(&live)?;
            let text = |ids: Vec<EndpointId>| ids.iter().map(ToString::to_string).collect();
            Ok(SyncResponse {
                released: text(synced.released),
                lost: text(synced.lost),
            })
        })
        .await
    }

    async fn list_endpoints(
        &self,
        request: Request<ListEndpointsRequest>,
    ) -> Answer<ListEndpointsResponse> {
        let request = request.into_inner();
        self.on_pool(move |host, conf| {
            let all = host.endpoints(&request.network, &request.container_id)?;
            let (some, next_page_token) = page(all, request.page.as_ref(), |attached| {
                attached.endpoint.id.to_string()
            });
            let endpoints = some
                .into_iter()
                .map(|one| convert::endpoint(one, conf))
                .collect();
            Ok(ListEndpointsResponse {
                endpoints,
                next_page_token,
            })
        })
        .await
    }

    async fn add_ports(&self, request: Request<AddPortsRequest>) -> Answer<Endpoint> {
        let request = request.into_inner();
        let bindings = convert::bindings(&request.ports)?;
        self.on_pool(move |host, conf| {
            let attached = host.add_ports(&EndpointId::named(request.endpoint_id), &bindings)?;
            Ok(convert::endpoint(attached, conf))
        })
        .await
    }

    async fn remove_ports(&self, request: Request<RemovePortsRequest>) -> Answer<Endpoint> {
        let request = request.into_inner();
        let bindings = convert::bindings(&request.ports)?;
        self.on_pool(move |host, conf| {
            let attached = host.remove_ports(&EndpointId::named(request.endpoint_id), &bindings)?;
            Ok(convert::endpoint(attached, conf))
        })
        .await
    }

    async fn rename_endpoint(&self, request: Request<RenameEndpointRequest>) -> Answer<Endpoint> {
        let request = request.into_inner();
        self.on_pool(move |host, conf| {
            let attached = host.rename(&request.container_id, &request.container_name)?;
            Ok(convert::endpoint(attached, conf))
        })
        .await
    }

    async fn create_network(
        &self,
        request: Request<CreateNetworkRequest>,
    ) -> Answer<NetworkDetails> {
        let request = convert::network_request(request.into_inner())?;
        self.on_pool(|host, conf| {
            let network = host.create_network(request)?;
            Ok(convert::network(host.network(network.id.as_str())?, conf))
        })
        .await
    }

    async fn remove_network(
        &self,
        request: Request<RemoveNetworkRequest>,
    ) -> Answer<RemoveNetworkResponse> {
        let request = request.into_inner();
        self.on_pool(move |host, _| {
            let network = host.remove_network(&request.network, request.force)?;
            Ok(RemoveNetworkResponse {
                id: network.id.to_string(),
            })
        })
        .await
    }

    async fn list_networks(
        &self,
        request: Request<ListNetworksRequest>,
    ) -> Answer<ListNetworksResponse> {
        let request = request.into_inner();
        self.on_pool(move |host, conf| {
            let mut fitting = Vec::new();
            for (network, builtin) in listed(host, conf) {
                if filter::fits(&network, builtin, &request.filters)? {
                    fitting.push(network);
                }
            }
            let (networks, next_page_token) = page(fitting, request.page.as_ref(), |network| {
                network.name.clone()
            });
            Ok(ListNetworksResponse {
                networks,
                next_page_token,
            })
        })
        .await
    }

    async fn inspect_network(
        &self,
        request: Request<InspectNetworkRequest>,
    ) -> Answer<NetworkDetails> {
        let key = request.into_inner().network;
        self.on_pool(move |host, conf| {
            let found = match host.network(&key) {
                Ok(details) => return Ok(convert::network(details, conf)),
                Err(error) => error,
            };
            let mode = modes_of(host, conf)
                .into_iter()
                .find(|mode| mode.name == key || !key.is_empty() && mode.id.starts_with(&key));
            mode.ok_or(found)
        })
        .await
    }

    async fn prune_networks(
        &self,
        request: Request<PruneNetworksRequest>,
    ) -> Answer<PruneNetworksResponse> {
        let filters = request.into_inner().filters;
        self.on_pool(move |host, conf| {
            let mut fitting = Vec::new();
            for (network, builtin) in listed(host, conf) {
                if filter::fits(&network, builtin, &filters)? {
                    fitting.push(network.id);
                }
            }
            let removed =
                host.prune_networks(|network| fitting.iter().any(|id| id == network.id.as_str()))?;
            let removed = removed.into_iter().map(|network| network.name).collect();
            Ok(PruneNetworksResponse { removed })
        })
        .await
    }

    async fn audit(&self, _: Request<AuditRequest>) -> Answer<AuditResponse> {
        self.on_pool(|host, _| {
            let (reaches, warnings) = host.audit()?;
            let reaches = reaches.into_iter().map(|reach| Reach {
                who: reach.who.to_string(),
                to: reach.to.to_string(),
                by: reach.by,
                because: reach.because,
            });
            Ok(AuditResponse {
                reaches: reaches.collect(),
                warnings,
            })
        })
        .await
    }

    async fn reconcile(&self, _: Request<ReconcileRequest>) -> Answer<ReconcileResponse> {
        self.on_pool(|host, _| {
            let findings = host.reconcile()?.into_iter().map(|finding| Finding {
                what: finding.what,
                trouble: finding.trouble.unwrap_or_default(),
            });
            Ok(ReconcileResponse {
                findings: findings.collect(),
            })
        })
        .await
    }

    async fn teardown(&self, _: Request<TeardownRequest>) -> Answer<TeardownResponse> {
        self.on_pool(|host, _| host.teardown().map(|()| TeardownResponse {}))
            .await
    }

    async fn info(&self, _: Request<InfoRequest>) -> Answer<ServiceInfo> {
        let started = self.started;
        self.on_pool(move |host, _| {
            let networks = host.networks();
            let facts = [
                ("networks", networks.len().to_string()),
                (
                    "endpoints",
                    networks
                        .iter()
                        .map(|d| d.endpoints.len())
                        .sum::<usize>()
                        .to_string(),
                ),
                ("prepared namespaces", host.prepared().to_string()),
                ("nftables table", host.table_state().to_owned()),
                ("anti-spoofing", host.anti_spoofing().to_owned()),
            ];
            let default = networks.iter().find(|details| details.network.is_default());
            // Where it cannot be kept, networks that are encrypted say so.
            let key = host.public_key().ok();
            let key = key.map(|key| ("wireguard key", key.to_string()));
            let subnet = default.map(|d| ("default subnet", d.network.v4.subnet.to_string()));
            Ok(ServiceInfo {
                name: "netd".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                started: Some(started.into()),
                facts: facts
                    .into_iter()
                    .chain(subnet)
                    .chain(key)
                    .map(|(k, v)| (k.to_owned(), v))
                    .collect(),
                warnings: host.audit()?.1,
            })
        })
        .await
    }
}
