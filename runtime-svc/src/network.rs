//! The network of a container, which netd makes.

mod attach;
mod ports;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use slipway_proto::{
    netd::v1::{
        Endpoint, InspectNetworkRequest, ListEndpointsRequest, NetworkDetails,
        ReleaseEndpointRequest, RenameEndpointRequest, SyncRequest, network_client::NetworkClient,
        sync_request::Live,
    },
    types::v1::Page,
};
use tokio::sync::Mutex;
use tonic::{Code, Status, transport::Channel};

pub use attach::{Attached, DEFAULT, Who, networks};

use crate::error::Error;

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
    /// Whose endpoints are in use, or asked for.
    held: Arc<std::sync::Mutex<BTreeSet<String>>>,
}

/// What netd has not been told.
#[derive(Debug, Default)]
struct Owed {
    /// Which containers lived when we started.
    live: Option<Vec<(String, i32)>>,
    /// Containers that need their endpoints no more.
    released: BTreeSet<String>,
    /// Containers that left one network, and their namespaces.
    left: BTreeMap<(String, String), String>,
    /// New names of containers.
    renamed: BTreeMap<String, String>,
    /// Somebody is at it.
    paying: bool,
}

impl Netd {
    /// Over a channel.
    pub fn new(channel: Channel) -> Self {
        Self {
            client: NetworkClient::new(channel),
            owed: Arc::default(),
            owes: Arc::default(),
            held: Arc::default(),
        }
    }

    fn held(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before anything else is asked of it.
    async fn pay_first(&self) -> Result<(), Status> {
        match self.owes.load(Ordering::SeqCst) {
            true => self.pay().await,
            false => Ok(()),
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
        self.held().remove(id);
    }

    /// Takes back what belongs to nobody any more: what a release that was refused has left. Returns what it was.
    pub async fn release_unheld(&self) -> Result<Vec<(Endpoint, Result<(), Status>)>, Status> {
        self.pay_first().await?;
        // Before it is looked who holds any: nobody asks for one that he does not hold.
        let all = self.list(ListEndpointsRequest::default()).await?;
        let mut released = Vec::new();
        for endpoint in all {
            if self.held().contains(&endpoint.container_id) {
                continue;
            }
            let request = ReleaseEndpointRequest {
                endpoint_id: endpoint.id.clone(),
                ..ReleaseEndpointRequest::default()
            };
            let done = self.client.clone().release_endpoint(request).await;
            released.push((endpoint, done.map(drop)));
        }
        Ok(released)
    }

    async fn try_release(&self, id: &str) -> Result<(), Status> {
        let request = ReleaseEndpointRequest {
            container_id: id.to_owned(),
            ..ReleaseEndpointRequest::default()
        };
        self.client.clone().release_endpoint(request).await?;
        Ok(())
    }

    /// Takes a container that runs from one of its networks; when netd is away, as soon as it is there again.
    /// False then.
    pub async fn leave(&self, id: &str, network: &str, netns: &str) -> bool {
        let left = match self.pay_first().await {
            Ok(()) => self.try_leave(id, network, netns).await,
            away => away,
        };
        let Err(status) = left else { return true };
        tracing::warn!(
            container = id,
            network,
            error = status.message(),
            "it has not left the network yet"
        );
        if !is_away(&status) {
            return true;
        }
        self.owe(|owed| {
            let part = (id.to_owned(), network.to_owned());
            owed.left.insert(part, netns.to_owned());
        })
        .await;
        false
    }

    async fn try_leave(&self, id: &str, network: &str, netns: &str) -> Result<(), Status> {
        let all = self.endpoints_of(id).await?;
        let on_it = |e: &Endpoint| e.network_name == network || e.network_id == network;
        for endpoint in all.into_iter().filter(on_it) {
            let request = ReleaseEndpointRequest {
                endpoint_id: endpoint.id,
                container_id: id.to_owned(),
                netns: netns.to_owned(),
            };
            self.client.clone().release_endpoint(request).await?;
        }
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
        while let Some(((id, network), netns)) = owed.left.first_key_value() {
            let part = (id.clone(), network.clone());
            match self.try_leave(id, network, netns).await {
                Err(status) if is_away(&status) => return Err(status),
                // The network is gone, and the endpoint with it.
                _ => drop(owed.left.remove(&part)),
            }
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

    /// A network by name or id.
    pub async fn network(&self, key: &str) -> Result<NetworkDetails, Error> {
        let request = InspectNetworkRequest {
            network: key.to_owned(),
        };
        match self.client.clone().inspect_network(request).await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(crate::registry::remote("netd", &status).into_netd()),
        }
    }

    /// The endpoints of one container.
    pub async fn endpoints_of(&self, id: &str) -> Result<Vec<Endpoint>, Status> {
        self.list(ListEndpointsRequest {
            container_id: id.to_owned(),
            ..ListEndpointsRequest::default()
        })
        .await
    }

    /// The endpoint of a container that nobody here knows, by its id or name.
    pub async fn release_stranger(&self, network: &str, word: &str) -> Result<bool, Error> {
        let request = ListEndpointsRequest {
            network: network.to_owned(),
            ..ListEndpointsRequest::default()
        };
        let refused = |status: Status| crate::registry::remote("netd", &status).into_netd();
        let all = self.list(request).await.map_err(refused)?;
        let is_it = |e: &&Endpoint| {
            e.container_id == word || e.dns_names.first().is_some_and(|name| name == word)
        };
        let Some(endpoint) = all.iter().find(is_it) else {
            return Ok(false);
        };
        let request = ReleaseEndpointRequest {
            endpoint_id: endpoint.id.clone(),
            ..ReleaseEndpointRequest::default()
        };
        let released = self.client.clone().release_endpoint(request).await;
        released.map(|_| true).map_err(refused)
    }

    /// All endpoints of this host, to know the ports of containers that outlived us.
    pub async fn endpoints(&self) -> Vec<Endpoint> {
        match self.list(ListEndpointsRequest::default()).await {
            Ok(all) => all,
            Err(status) => {
                tracing::warn!(error = status.message(), "netd did not tell its endpoints");
                Vec::new()
            }
        }
    }

    async fn list(&self, wanted: ListEndpointsRequest) -> Result<Vec<Endpoint>, Status> {
        let mut all = Vec::new();
        let mut page = Page {
            size: 1000,
            token: String::new(),
        };
        loop {
            let request = ListEndpointsRequest {
                page: Some(page.clone()),
                ..wanted.clone()
            };
            let answer = self.client.clone().list_endpoints(request).await?;
            let answer = answer.into_inner();
            all.extend(answer.endpoints);
            if answer.next_page_token.is_empty() {
                attach::in_order(&mut all);
                return Ok(all);
            }
            page.token = answer.next_page_token;
        }
    }

    /// Tells which containers live; when netd is away, as soon as it is there again. False then.
    pub async fn sync(&self, live: Vec<(String, i32)>) -> bool {
        self.held().extend(live.iter().map(|(id, _)| id.clone()));
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
