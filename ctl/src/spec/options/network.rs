//! The options of a container's networks.

use std::net::IpAddr;

use slipway_proto::runtime::v1::{AdditionalNetwork, NetworkConfig};

use super::ContainerOptions;
use crate::spec::{mount, port};

impl ContainerOptions {
    pub(super) fn network_config(&self) -> Result<NetworkConfig, String> {
        let mut networks = Vec::new();
        for text in &self.network {
            networks.push(network(text)?);
        }
        let mut networks = networks.into_iter();
        let first = networks.next().unwrap_or_default();
        let mut aliases = first.aliases;
        aliases.extend(self.network_alias.iter().cloned());
        let ports = self
            .publish
            .iter()
            .map(|t| port::publish(t))
            .collect::<Result<Vec<_>, _>>()?;
        for host in &self.add_host {
            let (name, address) = host
                .split_once([':', '='])
                .ok_or_else(|| format!("bad format for add-host: \"{host}\""))?;
            if name.is_empty() || address.is_empty() {
                return Err(format!("bad format for add-host: \"{host}\""));
            }
            let bare = address.trim_start_matches('[').trim_end_matches(']');
            if bare != "host-gateway" && bare.parse::<IpAddr>().is_err() {
                return Err(format!("invalid IP address in add-host: \"{address}\""));
            }
        }
        if let Some(text) = self.dns.iter().find(|t| t.parse::<IpAddr>().is_err()) {
            return Err(format!("IP address is not correctly formatted: {text}"));
        }
        if !(self.mac_address.is_empty() || is_mac_address(&self.mac_address)) {
            return Err(format!("{} is not a valid mac address", self.mac_address));
        }
        Ok(NetworkConfig {
            mode: first.network,
            aliases,
            ipv4_address: if self.ip.is_empty() {
                first.ipv4_address
            } else {
                self.ip.clone()
            },
            ipv6_address: if self.ip6.is_empty() {
                first.ipv6_address
            } else {
                self.ip6.clone()
            },
            mac_address: self.mac_address.clone(),
            ports: ports.into_iter().flatten().collect(),
            publish_all: self.publish_all,
            expose: self
                .expose
                .iter()
                .map(|t| port::expose(t))
                .collect::<Result<_, _>>()?,
            dns: self.dns.clone(),
            dns_search: self.dns_search.clone(),
            dns_options: self.dns_option.clone(),
            extra_hosts: self
                .add_host
                .iter()
                .map(|h| h.replacen('=', ":", 1))
                .collect(),
            additional: networks.collect(),
        })
    }
}

/// Six numbers of two hex digits.
fn is_mac_address(text: &str) -> bool {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let byte = |p: &&str| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit());
    parts.len() == 6 && parts.iter().all(byte)
}

/// `--network NAME` or `--network name=NAME,alias=A,ip=...`
fn network(text: &str) -> Result<AdditionalNetwork, String> {
    let mut out = AdditionalNetwork::default();
    if !text.contains('=') {
        text.clone_into(&mut out.network);
        return Ok(out);
    }
    for field in mount::fields(text)? {
        match field.split_once('=') {
            Some(("name", value)) => value.clone_into(&mut out.network),
            Some(("alias", value)) => out.aliases.push(value.to_owned()),
            Some(("ip", value)) => value.clone_into(&mut out.ipv4_address),
            Some(("ip6", value)) => value.clone_into(&mut out.ipv6_address),
            _ => {
                return Err(format!(
                    "invalid field {field:?} in --network {text}: name, alias, ip and ip6 are supported"
                ));
            }
        }
    }
    Ok(out)
}
