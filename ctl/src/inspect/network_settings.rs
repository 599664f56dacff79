//! docker's `NetworkSettings` of a container.

use serde_json::{Map, Value, json};
use slipway_proto::{
    netd::v1::{Endpoint, PortBinding},
    runtime::v1::{ContainerDetails, NetworkConfig},
};

use crate::cli::container::protocol;
use crate::output::ports::addresses;

/// `{"80/tcp": [{"HostIp": "", "HostPort": "3000"}], "443/tcp": null}`
pub fn port_map(
    published: &[PortBinding],
    exposed: &[String],
    addresses: impl Fn(&PortBinding) -> Vec<&str>,
) -> Value {
    let mut map: Map<String, Value> = exposed.iter().map(|p| (p.clone(), Value::Null)).collect();
    for port in published {
        let host_port = match port.host_port {
            0 => String::new(),
            number => number.to_string(),
        };
        let entry = map
            .entry(format!("{}/{}", port.container_port, protocol(port)))
            .or_insert(Value::Null);
        for address in addresses(port) {
            let binding = json!({"HostIp": address, "HostPort": host_port});
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

/// Those that it is on; before its start, those that it will be on.
fn networks(d: &ContainerDetails, asked: &NetworkConfig) -> Map<String, Value> {
    let mode = match asked.mode.as_str() {
        "" | "default" => "bridge",
        mode => mode,
    };
    if mode.starts_with("container:") {
        return Map::new();
    }
    let address = |name: &str| -> (String, String, Vec<String>) {
        match asked.additional.iter().find(|a| a.network == name) {
            Some(a) if name != mode => (
                a.ipv4_address.clone(),
                a.ipv6_address.clone(),
                a.aliases.clone(),
            ),
            _ => (
                asked.ipv4_address.clone(),
                asked.ipv6_address.clone(),
                asked.aliases.clone(),
            ),
        }
    };
    let one = |name: &str, e: &Endpoint| {
        let (v4, v6, aliases) = address(name);
        let mut fixed = Map::new();
        for (key, value) in [("IPv4Address", v4), ("IPv6Address", v6)] {
            if !value.is_empty() {
                fixed.insert(key.to_owned(), value.into());
            }
        }
        let or_null = |words: &[String], none: bool| match none {
            true => Value::Null,
            false => json!(words),
        };
        json!({
            "IPAMConfig": if fixed.is_empty() { Value::Null } else { fixed.into() }, "Links": null,
            "Aliases": or_null(&aliases, aliases.is_empty()), "MacAddress": e.mac_address, "DriverOpts": null, "GwPriority": 0,
            "NetworkID": e.network_id, "EndpointID": e.id, "Gateway": e.ipv4_gateway, "IPAddress": e.ipv4_address,
            "IPPrefixLen": e.ipv4_prefix_len, "IPv6Gateway": e.ipv6_gateway, "GlobalIPv6Address": e.ipv6_address,
            "GlobalIPv6PrefixLen": e.ipv6_prefix_len,
            // docker's default bridge has no names.
            "DNSNames": or_null(&e.dns_names, e.dns_names.is_empty() || name == "bridge"),
        })
    };
    if d.endpoints.is_empty() {
        let names =
            std::iter::once(mode).chain(asked.additional.iter().map(|a| a.network.as_str()));
        return names
            .map(|name| (name.to_owned(), one(name, &Endpoint::default())))
            .collect();
    }
    d.endpoints
        .iter()
        .map(|e| (e.network_name.clone(), one(&e.network_name, e)))
        .collect()
}

#[cfg(test)]
mod tests {
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
    fn a_container_that_does_not_run_tells_its_network() {
        let value = json(&ContainerDetails::default());
        assert_eq!(value["Ports"], json!({}));
        assert_eq!(value["Networks"]["bridge"]["IPAddress"], "");
    }
}
