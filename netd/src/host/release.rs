//! Taking endpoints back, one, a container's, or all whose container is gone.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::id::EndpointId;

use super::attach::REAPING;
use super::reaper::Doomed;
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

    /// Takes one endpoint of a container back that goes on in its namespace. Others take over what led there, and
    /// nothing of it is left inside when this returns.
    pub fn release_from(&self, id: &EndpointId, netns: &Path) -> Result<bool, Error> {
        let mut state = self.state();
        let Some(container) = state.endpoints.get(id).map(|e| e.container.clone()) else {
            return Ok(false);
        };
        // One that has just ended needs no route.
        let led = self
            .remember_namespace(&mut state, &container, netns)
            .and_then(|()| self.settle(&mut state, &container, Some(id)));
        if let Err(error) = led {
            tracing::warn!(container, %error, "nothing takes the place of a network that it leaves");
        }
        let released = self.release_in(&mut state, id);
        drop(state);
        self.reaper.wait(REAPING);
        released
    }

    /// Takes all endpoints of a container back.
    pub fn release_container(&self, container: &str) -> Result<usize, Error> {
        let mut state = self.state();
        let ids = state.ids(|owner| owner == container);
        // One that fails keeps no other.
        let mut released = Ok(ids.len());
        for id in &ids {
            if let Err(error) = self.release_in(&mut state, id) {
                released = Err(error);
            }
        }
        released
    }

    /// Takes back what belongs to no living container, and finishes changes of the networks of those that live in
    /// the namespaces that are told.
    pub fn sync(&self, live: &HashMap<String, PathBuf>) -> Result<Synced, Error> {
        let mut state = self.state();
        let released = state.ids(|owner| !live.contains_key(owner));
        for id in &released {
            self.release_in(&mut state, id)?;
        }
        slipway_fault::point("netd.sync.released");
        let swept = std::mem::replace(&mut state.swept, true);
        for (container, netns) in live {
            if !swept {
                self.sweep_told(&state, container, netns);
            }
            if state.of(container).count() < 2 {
                continue;
            }
            let settled = self
                .remember_namespace(&mut state, container, netns)
                .and_then(|()| self.settle(&mut state, container, None));
            if let Err(error) = settled {
                tracing::warn!(container, %error, "it may be led out by the wrong one of its networks");
            }
        }
        slipway_fault::point("netd.sync.settled");
        let lost = std::mem::take(&mut state.lost);
        let lost = lost
            .into_iter()
            .filter(|(_, owner)| live.contains_key(owner))
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
        slipway_fault::point("netd.release.begun");
        // Ports first: nobody may be led to an address that is about to become somebody else's.
        self.withdraw(state, &endpoint.ports, &[], endpoint.address);
        state.ports.give_back(id, &endpoint.ports);
        slipway_fault::point("netd.release.withdrawn");
        self.direct_down(state, &endpoint);
        if let Some(live) = state.networks.get_mut(&endpoint.network) {
            live.zone
                .write()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .remove(id);
            live.addresses.leave(endpoint.address);
        }
        state.namespaces.remove(id);
        state.tell_zones(&endpoint.container);
        self.store.remove_endpoint(id)?;
        slipway_fault::point("netd.release.forgotten");
        self.reap(Doomed {
            link: id.host_link(),
            address: Some((endpoint.network, endpoint.address)),
        });
        Ok(true)
    }
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
