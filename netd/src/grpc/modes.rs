//! What docker lists among the networks although nothing is ever attached to it: a container on the host's own network
//! and one on none.

use prost_types::Timestamp;
use sha2::{Digest as _, Sha256};
use slipway_proto::netd::v1::NetworkDetails;

/// Their names, and docker's drivers of them.
const MODES: [(&str, &str); 2] = [("host", "host"), ("none", "null")];

/// Both, on a host whose default network is this one.
pub(super) fn all(default: &NetworkDetails) -> impl Iterator<Item = NetworkDetails> {
    let (id, created) = (default.id.clone(), default.created);
    MODES
        .into_iter()
        .map(move |(name, driver)| details(name, driver, &id, created))
}

fn details(name: &str, driver: &str, default: &str, created: Option<Timestamp>) -> NetworkDetails {
    // Of this host alone, and the same for as long as its default network is.
    let id = Sha256::digest(format!("{default} {name}"));
    NetworkDetails {
        id: hex::encode(id),
        name: name.to_owned(),
        driver: driver.to_owned(),
        scope: "local".to_owned(),
        created,
        ..NetworkDetails::default()
    }
}
