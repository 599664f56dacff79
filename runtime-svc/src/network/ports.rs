//! Published ports of an endpoint that is there.

use slipway_proto::netd::v1::{AddPortsRequest, PortBinding, RemovePortsRequest};
use tonic::Status;

use super::Netd;
use crate::error::Error;

impl Netd {
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
