//! Published ports of an endpoint that is there.

use slipway_proto::netd::v1::{AddPortsRequest, PortBinding, RemovePortsRequest};
use tonic::Status;

use super::Netd;
use crate::error::Error;

/// What the drivers are called whose networks are on the wire of a link: netd publishes no ports there.
const ON_THE_WIRE: [&str; 2] = ["macvlan", "ipvlan"];

/// Whether ports can be published of containers on a network of that driver.
fn may_publish(driver: &str) -> bool {
    !ON_THE_WIRE.contains(&driver)
}

impl Netd {
    /// The same of a network by its name. Of one that there is not netd says so when it is asked for an endpoint.
    pub async fn may_publish_on(&self, network: &str) -> bool {
        let found = self.network(network).await;
        found.map_or(true, |found| may_publish(&found.driver))
    }

    /// Publishes ports; one that is published already gets the clients that are named.
    pub async fn add_ports(&self, endpoint_id: &str, ports: Vec<PortBinding>) -> Result<(), Error> {
        let request = AddPortsRequest {
            endpoint_id: endpoint_id.to_owned(),
            ports,
        };
        let added = self.client.clone().add_ports(request).await;
        added.map(drop).map_err(refused)
    }

    /// Withdraws ports, and ends connections by them.
    pub async fn remove_ports(
        &self,
        endpoint_id: &str,
        ports: Vec<PortBinding>,
    ) -> Result<(), Error> {
        let request = RemovePortsRequest {
            endpoint_id: endpoint_id.to_owned(),
            ports,
        };
        let removed = self.client.clone().remove_ports(request).await;
        removed.map(drop).map_err(refused)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn refused(status: Status) -> Error {
    crate::registry::remote("netd", &status).into_netd()
}
