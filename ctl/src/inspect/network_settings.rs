//! docker's `NetworkSettings` of a container.

use serde_json::{Map, Value, json};
use slipway_proto::{
    netd::v1::{Endpoint, PortBinding},
    runtime::v1::{AdditionalNetwork, ContainerDetails, NetworkConfig},
};

use crate::cli::container::protocol;
use crate::output::ports::addresses;

/// `{"80/tcp": [{"HostIp": "", "HostPort": "3000"}], "443/tcp": null}`; with `PublishFrom` where only some clients may.
pub fn port_map(
    published: &[PortBinding],
    exposed: &[String],
    addresses: impl Fn(&PortBinding) -> Vec<&str>,
) -> Value {
    let mut map: Map<String, Value> = exposed.iter().map(|p| (p.clone(), Value::Null)).collect();
    for port in published {
        let host_port = match (port.host_port, port.host_port_last) {
            (0, _) => String::new(),
            (first, 0) => first.to_string(),
            // As it was asked for; the one that was chosen is among the network settings.
            (first, last) => format!("{first}-{last}"),
        };
        let entry = map
            .entry(format!("{}/{}", port.container_port, protocol(port)))
            .or_insert(Value::Null);
        for address in addresses(port) {
            let mut binding = json!({"HostIp": address, "HostPort": host_port});
            if !port.allow_from.is_empty() {
                binding["PublishFrom"] = json!(port.allow_from);
            }
            match entry.as_array_mut() {
                Some(list) => list.push(binding),
                None => *entry = Value::Array(vec![binding]),
            }
        }
    }
    Value::Object(map)
}

pub fn json(d: &ContainerDetails) -> Value {
    let summary = d.summary.clone().unwrap_or_default();
    let asked = d.spec.clone().and_then(|s| s.network).unwrap_or_default();
    let first = d.endpoints.first().cloned().unwrap_or_default();
    // Of the default bridge only, as docker: the others are found by their names.
    let bridge = d.endpoints.iter().find(|e| e.network_name == "bridge");
    let bridge = bridge.cloned().unwrap_or_default();
    // Nothing is published while it does not run.
    let ports = match d.endpoints.is_empty() {
        true => json!({}),
        false => port_map(&summary.ports, &summary.exposed, addresses),
    };
    json!({
        "Bridge": "", "SandboxID": "", "SandboxKey": first.netns_path, "Ports": ports, "HairpinMode": false,
        "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0, "SecondaryIPAddresses": null, "SecondaryIPv6Addresses": null,
        "EndpointID": bridge.id, "Gateway": bridge.ipv4_gateway, "GlobalIPv6Address": bridge.ipv6_address,
        "GlobalIPv6PrefixLen": bridge.ipv6_prefix_len, "IPAddress": bridge.ipv4_address, "IPPrefixLen": bridge.ipv4_prefix_len,
        "IPv6Gateway": bridge.ipv6_gateway, "MacAddress": bridge.mac_address, "Networks": networks(d, &asked),
    })
}

/// The networks that it is on by its record, with how it is on each.
fn asked_for(asked: &NetworkConfig) -> Vec<AdditionalNetwork> {
    if let Some(connected) = &asked.connected {
        return connected.networks.clone();
    }
    let first = AdditionalNetwork {
        network: match asked.mode.as_str() {
            "" | "default" => "bridge".to_owned(),
            mode if mode.starts_with("container:") => return Vec::new(),
            mode => mode.to_owned(),
        },
        aliases: asked.aliases.clone(),
        ipv4_address: asked.ipv4_address.clone(),
        ipv6_address: asked.ipv6_address.clone(),
        mac_address: asked.mac_address.clone(),
        gateway_priority: asked.gateway_priority,
    };
    let more = asked.additional.iter().cloned();
    std::iter::once(first).chain(more).collect()
}

/// Those that it is on; while it does not run, those that it will be on.
fn networks(d: &ContainerDetails, asked: &NetworkConfig) -> Map<String, Value> {
    let wanted = asked_for(asked);
    if d.endpoints.is_empty() {
        let none = Endpoint::default();
        return wanted
            .iter()
            .map(|n| (n.network.clone(), one(n, &none)))
            .collect();
    }
    let told = d.endpoints.iter().map(|endpoint| {
        let of_it = |n: &&AdditionalNetwork| {
            n.network == endpoint.network_name || endpoint.network_id.starts_with(&n.network)
        };
        // What was asked for by another name of it is the first.
        let network = wanted.iter().find(of_it).or(wanted.first());
        let network = network.cloned().unwrap_or_default();
        (endpoint.network_name.clone(), one(&network, endpoint))
    });
    told.collect()
}

fn one(network: &AdditionalNetwork, e: &Endpoint) -> Value {
    let mut fixed = Map::new();
    for (key, value) in [
        ("IPv4Address", &network.ipv4_address),
        ("IPv6Address", &network.ipv6_address),
    ] {
        if !value.is_empty() {
            fixed.insert(key.to_owned(), value.clone().into());
        }
    }
    let or_null = |words: &[String], none: bool| match none {
        true => Value::Null,
        false => json!(words),
    };
    let is_default = [&network.network, &e.network_name]
        .iter()
        .any(|n| *n == "bridge");
    json!({
        "IPAMConfig": if fixed.is_empty() { Value::Null } else { fixed.into() }, "Links": null,
        "Aliases": or_null(&network.aliases, network.aliases.is_empty()), "MacAddress": e.mac_address, "DriverOpts": null,
        "GwPriority": network.gateway_priority,
        "NetworkID": e.network_id, "EndpointID": e.id, "Gateway": e.ipv4_gateway, "IPAddress": e.ipv4_address,
        "IPPrefixLen": e.ipv4_prefix_len, "IPv6Gateway": e.ipv6_gateway, "GlobalIPv6Address": e.ipv6_address,
        "GlobalIPv6PrefixLen": e.ipv6_prefix_len,
        // docker's default bridge has no names.
        "DNSNames": or_null(&e.dns_names, e.dns_names.is_empty() || is_default),
    })
}

#[cfg(test)]
mod tests {
    use slipway_proto::runtime::v1::ConnectedNetworks;

    use super::*;

    #[test]
    fn ports_are_mapped_as_docker_does() {
        let port = PortBinding {
            container_port: 80,
            host_port: 3000,
            protocol: 1,
            covers_ipv6: true,
            ..PortBinding::default()
        };
        assert_eq!(
            port_map(&[port], &["80/tcp".into(), "443/tcp".into()], addresses).to_string(),
            r#"{"443/tcp":null,"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"3000"},{"HostIp":"::","HostPort":"3000"}]}"#
        );
    }

    #[test]
    fn who_may_use_a_port_is_told_where_not_everybody_may() {
        let port = PortBinding {
            container_port: 80,
            host_port: 3000,
            allow_from: vec!["10.0.0.0/8".into()],
            ..PortBinding::default()
        };
        assert_eq!(
            port_map(&[port], &[], addresses).to_string(),
            r#"{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"3000","PublishFrom":["10.0.0.0/8"]}]}"#
        );
    }

    #[test]
    fn a_container_that_does_not_run_tells_its_network() {
        let value = json(&ContainerDetails::default());
        assert_eq!(value["Ports"], json!({}));
        assert_eq!(value["Networks"]["bridge"]["IPAddress"], "");
    }

    #[test]
    fn each_network_is_told_as_it_was_joined() {
        let on = |name: &str, priority| AdditionalNetwork {
            network: name.into(),
            aliases: vec![format!("in-{name}")],
            gateway_priority: priority,
            ..AdditionalNetwork::default()
        };
        let endpoint = |name: &str| Endpoint {
            network_name: name.into(),
            network_id: "0123".into(),
            ..Endpoint::default()
        };
        let asked = NetworkConfig {
            mode: "front".into(),
            additional: vec![on("back", 7)],
            ..NetworkConfig::default()
        };
        let mut d = ContainerDetails {
            endpoints: vec![endpoint("front"), endpoint("back")],
            ..ContainerDetails::default()
        };
        let told = networks(&d, &asked);
        assert_eq!(
            (&told["front"]["GwPriority"], &told["back"]["GwPriority"]),
            (&json!(0), &json!(7))
        );
        assert_eq!(told["back"]["Aliases"], json!(["in-back"]));
        // Changed since, and not running.
        let changed = NetworkConfig {
            connected: Some(ConnectedNetworks {
                networks: vec![on("other", 0)],
            }),
            ..asked
        };
        d.endpoints.clear();
        let told = networks(&d, &changed);
        assert_eq!(told.keys().collect::<Vec<_>>(), ["other"]);
    }
}
