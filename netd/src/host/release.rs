//! Taking endpoints back, one, a container's, or all whose container is gone.

use std::collections::HashSet;
use std::io;
use std::net::Ipv4Addr;
use std::sync::mpsc::{Receiver, TrySendError};

use crate::error::Error;
use crate::firewall;
use crate::id::EndpointId;
use crate::netlink::{Route, conntrack, link};
use crate::ports::Published;

use super::{Host, State};

/// What a comparison with the living containers led to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Synced {
    /// Taken back, because nobody lives there any more.
    pub released: Vec<EndpointId>,
    /// Endpoints of living containers whose link had vanished.
    pub lost: Vec<EndpointId>,
}

impl Host {
    /// Takes an endpoint back; that there is none is fine. Returns whether there was one.
    pub fn release(&self, id: &EndpointId) -> Result<bool, Error> {
        self.release_in(&mut self.state(), id)
    }

    /// Takes all endpoints of a container back.
    pub fn release_container(&self, container: &str) -> Result<usize, Error> {
        let mut state = self.state();
        let ids = state.ids(|owner| owner == container);
        for id in &ids {
            self.release_in(&mut state, id)?;
        }
        Ok(ids.len())
    }

    /// Takes back what belongs to no living container.
    pub fn sync(&self, live: &HashSet<String>) -> Result<Synced, Error> {
        let mut state = self.state();
        let released = state.ids(|owner| !live.contains(owner));
        for id in &released {
            self.release_in(&mut state, id)?;
        }
        let lost = std::mem::take(&mut state.lost);
        let lost = lost
            .into_iter()
            .filter(|(_, owner)| live.contains(owner))
            .map(|(id, _)| id);
        Ok(Synced {
            released,
            lost: lost.collect(),
        })
    }

    pub(super) fn release_in(&self, state: &mut State, id: &EndpointId) -> Result<bool, Error> {
        let Some(endpoint) = state.endpoints.remove(id) else {
            return Ok(false);
        };
        // Ports first: nobody may be led to an address that is about to become somebody else's.
        self.withdraw(&endpoint.ports, endpoint.address);
        state.ports.give_back(id, &endpoint.ports);
        if let Some(live) = state.networks.get_mut(&endpoint.network) {
            live.zone
                .write()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .remove(id);
            live.addresses.release(endpoint.address);
        }
        state.namespaces.remove(id);
        self.store.remove_endpoint(id)?;
        self.reap(Doomed {
            link: id.host_link(),
            address: Some(endpoint.address),
        });
        Ok(true)
    }

    /// Takes ports out of the maps. What is not there needs no taking out: then the rest is put
    /// right by writing the whole table at the next change or start.
    pub(super) fn withdraw(&self, ports: &[Published], to: Ipv4Addr) {
        for forward in ports.iter().filter_map(|port| port.forward(to)) {
            match self.kernel().nft.apply(firewall::withdraw(&[forward])) {
                Err(refused) if !refused.is_missing() => {
                    tracing::warn!(error = %refused, "cannot withdraw a port");
                }
                _ => {}
            }
        }
    }

    /// Deletes a link later: the kernel waits tens of milliseconds for its readers. If we die
    /// before, the next start finds an orphan.
    pub(super) fn reap(&self, doomed: Doomed) {
        match self.reaper.try_send(doomed) {
            Ok(()) => {}
            Err(TrySendError::Full(doomed) | TrySendError::Disconnected(doomed)) => {
                self.delete_link(&doomed.link);
            }
        }
    }
}

/// How many the reaper takes at once.
const BATCH: usize = 256;

/// What the reaper takes out of the kernel.
#[derive(Debug)]
pub(super) struct Doomed {
    /// A host's end of a veth pair.
    pub link: String,
    /// Whose connections are to be forgotten.
    pub address: Option<Ipv4Addr>,
}

impl State {
    fn ids(&self, fits: impl Fn(&str) -> bool) -> Vec<EndpointId> {
        let fitting = self
            .endpoints
            .values()
            .filter(|endpoint| fits(&endpoint.container));
        fitting.map(|endpoint| endpoint.id.clone()).collect()
    }
}

/// Deletes links on a socket of its own, so that nobody waits for it. Ends with the host.
pub(super) fn start_reaper(doomed: Receiver<Doomed>) -> io::Result<()> {
    let mut route = Route::open()?;
    std::thread::Builder::new()
        .name("reaper".to_owned())
        .stack_size(128 << 10)
        .spawn(move || {
            while let Ok(first) = doomed.recv() {
                // Those that wait already go together: one look at the connections serves all.
                let batch: Vec<Doomed> = std::iter::once(first)
                    .chain(doomed.try_iter().take(BATCH))
                    .collect();
                let addresses: Vec<Ipv4Addr> = batch.iter().filter_map(|d| d.address).collect();
                if !addresses.is_empty()
                    && let Err(error) = conntrack::forget_addresses(&addresses)
                {
                    tracing::warn!(%error, "cannot forget the connections of released addresses");
                }
                for Doomed { link: name, .. } in batch {
                    let gone = match route.link(&name) {
                        Ok(Some(found)) => route.apply_idempotent(&[link::delete(found.index)]),
                        other => other.map(drop),
                    };
                    if let Err(error) = gone {
                        tracing::warn!(link = name, %error, "cannot delete a link");
                    }
                }
            }
        })?;
    Ok(())
}
