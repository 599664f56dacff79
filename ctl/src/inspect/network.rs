//! A network as docker inspects it.

use serde_json::{Map, Value, json};
use slipway_proto::{
    netd::v1::{Endpoint, InspectNetworkRequest, NetworkDetails, network_details::Peer},
    runtime::v1::ListRequest,
    types::v1::{Filter, Page},
};
use tonic::Status;

use crate::{client::Site, output::human};

/// By its name or id. netd has never heard of the containers of a mode: they come from runtime-svc.
pub async fn find(site: &Site, name: &str) -> Result<Value, Status> {
    let request = InspectNetworkRequest {
        network: name.to_owned(),
    };
    let answer = site.networks().inspect_network(request).await;
    let mut found = answer?.into_inner();
    if is_mode(&found) {
        let filter = Filter {
            key: "network".to_owned(),
            values: vec![found.name.clone()],
        };
        let mut request = ListRequest {
            filters: vec![filter],
            ..ListRequest::default()
        };
        loop {
            let answer = site.containers().list(request.clone()).await?.into_inner();
            let containers = answer.containers.into_iter();
            found.endpoints.extend(containers.map(|container| Endpoint {
                container_id: container.id,
                dns_names: vec![container.name],
                ..Endpoint::default()
            }));
            if answer.next_page_token.is_empty() {
                break;
            }
            request.page = Some(Page {
                size: 1000,
                token: answer.next_page_token,
            });
        }
    }
    Ok(json(&found))
}

/// Whether it stands for containers on the host's own network, or on none.
fn is_mode(network: &NetworkDetails) -> bool {
    matches!(network.driver.as_str(), "host" | "null")
}

/// docker's JSON of one.
fn json(n: &NetworkDetails) -> Value {
    let pools: Vec<Value> = n
        .pools
        .iter()
        .map(|p| {
            let mut pool = json!({"Subnet": p.subnet, "Gateway": p.gateway});
            if !p.ip_range.is_empty() {
                pool["IPRange"] = p.ip_range.clone().into();
            }
            if !p.reserved.is_empty() {
                pool["AuxiliaryAddresses"] = json!(p.reserved);
            }
            pool
        })
        .collect();
    let containers: Map<String, Value> = n
        .endpoints
        .iter()
        .map(|e| {
            let name = e.dns_names.first().cloned().unwrap_or_default();
            (e.container_id.clone(), json!({
                "Name": name, "EndpointID": e.id, "MacAddress": e.mac_address,
                "IPv4Address": with_prefix(&e.ipv4_address, e.ipv4_prefix_len), "IPv6Address": with_prefix(&e.ipv6_address, e.ipv6_prefix_len),
            }))
        })
        .collect();
    let options = if n.name == "bridge" || is_mode(n) {
        Value::Null
    } else {
        json!({})
    };
    let config = if is_mode(n) {
        Value::Null
    } else {
        Value::from(pools)
    };
    let mut shown = json!({
        "Name": n.name, "Id": n.id, "Created": human::rfc3339(n.created.as_ref()), "Scope": n.scope, "Driver": n.driver,
        "EnableIPv4": true, "EnableIPv6": n.ipv6, "IPAM": {"Driver": "default", "Options": options, "Config": config},
        "Internal": n.internal, "Attachable": n.attachable, "Ingress": false, "ConfigFrom": {"Network": ""}, "ConfigOnly": false,
        "Containers": containers, "Options": n.options, "Labels": n.labels,
    });
    if !n.peers.is_empty() {
        let peer = |p: &Peer| {
            let mut peer =
                json!({"Name": p.name, "IP": p.address, "Subnet": p.subnet, "Here": p.here});
            if !p.key.is_empty() {
                peer["Key"] = p.key.clone().into();
            }
            peer
        };
        shown["Peers"] = n.peers.iter().map(peer).collect();
    }
    shown
}

fn with_prefix(address: &str, length: u32) -> String {
    if address.is_empty() {
        String::new()
    } else {
        format!("{address}/{length}")
    }
}
