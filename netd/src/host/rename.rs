//! Other names for containers that are there.

use crate::error::Error;
use crate::id::EndpointId;

use super::{Attached, Host};

impl Host {
    /// Changes a container's name in DNS, on all its networks.
    pub fn rename(&self, container: &str, name: &str) -> Result<Attached, Error> {
        let mut state = self.state();
        let ids: Vec<EndpointId> = state
            .endpoints
            .values()
            .filter(|endpoint| endpoint.container == container)
            .map(|endpoint| endpoint.id.clone())
            .collect();
        for id in &ids {
            let mut endpoint = state.known(id)?.clone();
            endpoint.container_name = name.to_owned();
            self.store.put_endpoint(&endpoint)?;
            slipway_fault::point("netd.rename.recorded");
            if let Some(zone) = state.zone(&endpoint.network) {
                let mut zone = zone
                    .write()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                zone.remove(id);
                zone.insert(&endpoint);
            }
            state.endpoints.insert(id.clone(), endpoint);
        }
        state.tell_zones(container);
        match ids.first() {
            Some(id) => state.answer(id),
            None => Err(Error::NoEndpoint(format!("of container {container}"))),
        }
    }
}
