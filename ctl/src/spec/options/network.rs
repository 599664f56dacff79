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
        let first = self.first(networks.next().unwrap_or_default())?;
        let publish_from = port::clients(&self.publish_from)?;
        if self.publish.is_empty() && !self.publish_all && !publish_from.is_empty() {
            return Err(
                "--publish-from says who may use published ports: publish some with -p or -P"
                    .to_owned(),
            );
        }
        let mut ports = Vec::new();
        for text in &self.publish {
            ports.extend(port::publish(text)?);
        }
        for port in &mut ports {
            port.allow_from.clone_from(&publish_from);
        }
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
        Ok(NetworkConfig {
            mode: first.network,
            aliases: first.aliases,
            ipv4_address: first.ipv4_address,
            ipv6_address: first.ipv6_address,
            mac_address: first.mac_address,
            gateway_priority: first.gateway_priority,
            ports,
            publish_from,
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
            connected: None,
        })
    }

    /// `--ip` and the like mean the first network, unless that says it itself (docker/cli, container/opts.go).
    fn first(&self, mut first: AdditionalNetwork) -> Result<AdditionalNetwork, String> {
        let both = |option: &str, what: &str| {
            Err(format!(
                "conflicting options: cannot specify both {option} and per-network {what}"
            ))
        };
        if !first.aliases.is_empty() && !self.network_alias.is_empty() {
            return both("--network-alias", "alias");
        }
        first.aliases.extend(self.network_alias.iter().cloned());
        for (option, what, own, said) in [
            ("--ip", "IPv4 address", &mut first.ipv4_address, &self.ip),
            ("--ip6", "IPv6 address", &mut first.ipv6_address, &self.ip6),
            (
                "--mac-address",
                "MAC address",
                &mut first.mac_address,
                &self.mac_address,
            ),
        ] {
            if said.is_empty() {
                continue;
            }
            if !own.is_empty() {
                return both(option, what);
            }
            own.clone_from(said);
        }
        check(&first)?;
        Ok(first)
    }
}

/// Checks what can be checked here of how a container is to be on a network.
pub fn check(network: &AdditionalNetwork) -> Result<(), String> {
    let mac = &network.mac_address;
    if !(mac.is_empty() || is_mac_address(mac)) {
        return Err(format!("{mac} is not a valid mac address"));
    }
    Ok(())
}

/// Six numbers of two hex digits.
fn is_mac_address(text: &str) -> bool {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let byte = |p: &&str| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit());
    parts.len() == 6 && parts.iter().all(byte)
}

/// `--network NAME` or `--network name=NAME,alias=A,ip=...,gw-priority=N`
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
            Some(("mac-address", value)) => value.clone_into(&mut out.mac_address),
            Some(("gw-priority", value)) => {
                let number = value.parse();
                out.gateway_priority =
                    number.map_err(|_| format!("invalid gw-priority: {value} is not a number"))?;
            }
            _ => {
                return Err(format!(
                    "invalid field {field:?} in --network {text}: name, alias, ip, ip6, mac-address and \
                     gw-priority are supported"
                ));
            }
        }
    }
    if out.network.is_empty() {
        return Err(format!("network name is missing in --network {text}"));
    }
    check(&out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(words: &str) -> Result<NetworkConfig, String> {
        use clap::Parser as _;
        #[derive(clap::Parser)]
        #[command(disable_help_flag = true)]
        struct Line {
            #[command(flatten)]
            options: ContainerOptions,
        }
        let words = ["ctl"].into_iter().chain(words.split_whitespace());
        let words = words.chain(["image"]);
        Line::try_parse_from(words)
            .unwrap()
            .options
            .network_config()
    }

    #[test]
    fn each_network_says_how_it_is_joined() {
        let config = options(
            "--network name=front,ip=10.1.0.9,gw-priority=-2,mac-address=02:00:00:00:00:01 --network-alias a \
             --network name=back,alias=x,alias=y,gw-priority=7 --network plain",
        )
        .unwrap();
        assert_eq!(
            (config.mode.as_str(), config.gateway_priority),
            ("front", -2)
        );
        assert_eq!(
            (config.ipv4_address.as_str(), &config.aliases[..]),
            ("10.1.0.9", &["a".to_owned()][..])
        );
        assert_eq!(config.mac_address, "02:00:00:00:00:01");
        let back = &config.additional[0];
        assert_eq!((back.network.as_str(), back.gateway_priority), ("back", 7));
        assert_eq!(back.aliases, ["x", "y"]);
        assert_eq!(config.additional[1].network, "plain");
    }

    #[test]
    fn what_is_said_twice_or_wrong_is_refused() {
        for (words, why) in [
            (
                "--network name=a,alias=x --network-alias y",
                "per-network alias",
            ),
            (
                "--network name=a,ip=10.0.0.2 --ip 10.0.0.3",
                "per-network IPv4 address",
            ),
            ("--network name=a,mac-address=x", "not a valid mac address"),
            ("--network name=a,gw-priority=high", "not a number"),
            ("--network alias=x", "name is missing"),
            ("--network name=a,driver-opt=x", "invalid field"),
        ] {
            let said = options(words).unwrap_err();
            assert!(said.contains(why), "{words}: {said}");
        }
    }
}
