//! The network of a container, which netd makes.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::fs::{Mode, OFlags};
use slipway_proto::{
    netd::v1::{
        CreateEndpointRequest, Endpoint, ListEndpointsRequest, ReleaseEndpointRequest,
        RenameEndpointRequest, SyncRequest, network_client::NetworkClient, sync_request::Live,
    },
    runtime::v1::NetworkConfig,
    types::v1::Page,
};
use tokio::sync::Mutex;
use tonic::{Code, Status, transport::Channel};

use crate::error::{Error, Tried as _};

/// How often netd is tried when it is owed something.
const AGAIN: Duration = Duration::from_secs(1);

/// netd.
///
/// It may be away, killed or being restarted, when it is to be told something. What it was not told it is
/// owed: told as soon as it is there again, and in any case before anything else is asked of it.
#[derive(Debug, Clone)]
pub struct Netd {
    client: NetworkClient<Channel>,
    owed: Arc<Mutex<Owed>>,
    owes: Arc<AtomicBool>,
}

/// What netd has not been told.
#[derive(Debug, Default)]
struct Owed {
    /// Which containers lived when we started.
    live: Option<Vec<(String, i32)>>,
    /// Containers that need their endpoints no more.
    released: BTreeSet<String>,
    /// New names of containers.
    renamed: BTreeMap<String, String>,
    /// Somebody is at it.
    paying: bool,
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
            owed: Arc::default(),
            owes: Arc::default(),
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
        let refused = |status: Status| Error::Network {
            container: name.to_owned(),
            status: Box::new(crate::registry::remote("netd", &status)),
        };
        if self.owes.load(Ordering::SeqCst) {
            self.pay().await.map_err(refused)?;
        }
        let mut answer = self.client.clone().create_endpoint(request.clone()).await;
        if let Err(status) = &answer
            && slipway_service::error::reason(status) == "ALREADY_ATTACHED"
        {
            // Of a start that was cut off: this one begins anew.
            self.release(id).await;
            answer = self.client.clone().create_endpoint(request).await;
        }
        let endpoint = match answer {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                // It may have been killed when the endpoint was there already.
                if is_away(&status) {
                    self.owe(|owed| {
                        owed.released.insert(id.to_owned());
                    })
                    .await;
                }
                return Err(refused(status));
            }
        };
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

    /// Gives everything of a container back; when netd is away, as soon as it is there again.
    pub async fn release(&self, id: &str) {
        if let Err(status) = self.try_release(id).await {
            tracing::warn!(
                container = id,
                error = status.message(),
                "the endpoint is not released yet"
            );
            if is_away(&status) {
                self.owe(|owed| {
                    owed.released.insert(id.to_owned());
                })
                .await;
            }
        }
    }

    async fn try_release(&self, id: &str) -> Result<(), Status> {
        let request = ReleaseEndpointRequest {
            container_id: id.to_owned(),
            ..ReleaseEndpointRequest::default()
        };
        self.client.clone().release_endpoint(request).await?;
        Ok(())
    }

    /// Notes what netd is to be told, and sees that it is.
    async fn owe(&self, note: impl FnOnce(&mut Owed)) {
        let mut owed = self.owed.lock().await;
        note(&mut owed);
        self.owes.store(true, Ordering::SeqCst);
        if std::mem::replace(&mut owed.paying, true) {
            return;
        }
        let netd = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(AGAIN).await;
                // Nobody else says that it is over: who paid before us leaves us nothing to do.
                if netd.pay().await.is_ok() {
                    return;
                }
            }
        });
    }

    /// Tells netd all that it is owed.
    async fn pay(&self) -> Result<(), Status> {
        let mut owed = self.owed.lock().await;
        if let Some(live) = &owed.live {
            self.tell_live(live.clone()).await?;
            owed.live = None;
        }
        while let Some(id) = owed.released.first().cloned() {
            self.try_release(&id).await?;
            owed.released.remove(&id);
        }
        while let Some((id, name)) = owed.renamed.first_key_value() {
            let (id, name) = (id.clone(), name.clone());
            match self.try_rename(&id, &name).await {
                Err(status) if is_away(&status) => return Err(status),
                // It has ended meanwhile.
                _ => drop(owed.renamed.remove(&id)),
            }
        }
        self.owes.store(false, Ordering::SeqCst);
        owed.paying = false;
        Ok(())
    }

    /// Has a container found by another name; when netd is away, as soon as it is there again.
    pub async fn rename(&self, id: &str, name: &str) {
        if let Err(status) = self.try_rename(id, name).await {
            tracing::warn!(
                container = id,
                error = status.message(),
                "its new name is not known on its network yet"
            );
            if is_away(&status) {
                self.owe(|owed| {
                    owed.renamed.insert(id.to_owned(), name.to_owned());
                })
                .await;
            }
        }
    }

    async fn try_rename(&self, id: &str, name: &str) -> Result<(), Status> {
        let request = RenameEndpointRequest {
            container_id: id.to_owned(),
            container_name: name.to_owned(),
        };
        self.client.clone().rename_endpoint(request).await?;
        Ok(())
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

    /// Tells which containers live; when netd is away, as soon as it is there again. False then.
    pub async fn sync(&self, live: Vec<(String, i32)>) -> bool {
        match self.tell_live(live.clone()).await {
            Ok(()) => true,
            Err(status) => {
                tracing::warn!(
                    error = status.message(),
                    "netd does not know yet which containers live"
                );
                self.owe(|owed| owed.live = Some(live)).await;
                false
            }
        }
    }

    /// Waits until netd is owed nothing.
    pub async fn settled(&self) {
        while self.owes.load(Ordering::SeqCst) {
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn tell_live(&self, live: Vec<(String, i32)>) -> Result<(), Status> {
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

/// Nobody has answered, or not to its end: what was asked for may be done or not.
fn is_away(status: &Status) -> bool {
    !matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::ResourceExhausted
    )
}
