//! Settings of `netd.toml`.

use std::path::PathBuf;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::Deserialize;

use crate::firewall::policy::HostPolicy;
use crate::ports::Limit;

/// netd's own part of the configuration file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Device of the default network.
    pub bridge: String,
    /// Subnet of the default network; unset = the first of docker's default pools that is free here.
    pub subnet: Option<Ipv4Net>,
    /// The default network has IPv6 as well.
    pub ipv6: bool,
    /// Its subnet of IPv6; unset = one of this host's unique local addresses.
    pub subnet6: Option<Ipv6Net>,
    /// MTU of bridges and containers' links; unset = what the host's own way out takes, 1500 at most.
    pub mtu: Option<u32>,
    /// Network namespaces prepared ahead of need; 0 = none.
    pub prepared_namespaces: usize,
    /// Clients that may use published ports of which nothing else is said; empty = all.
    pub publish_from: Limit,
    /// What the host's policy for input means for published ports.
    pub host_policy: HostPolicy,
    /// Where the host's resolvers stand.
    pub resolv_conf: PathBuf,
    /// Other programs cannot change or flush our nftables table while netd runs (Linux 6.9). Without it, it is put
    /// back whenever they do.
    pub own_table: bool,
    /// Where netd had to switch net.ipv4.ip_forward on, the host forwards for everybody, not for its containers only.
    pub ip_forward_no_drop: bool,
    /// Containers send frames and packets as themselves only.
    pub anti_spoofing: bool,
    /// Connections that a container may have open at once, of those that this host tracks; 0 = any number, unset = an
    /// eighth of `net.netfilter.nf_conntrack_max`, and 16,384 at most.
    pub connections_per_container: Option<u32>,
    /// What a container may ask this host's resolvers in a second over udp; 0 = anything.
    pub dns_queries_per_second: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bridge: "slipway0".to_owned(),
            subnet: None,
            ipv6: false,
            subnet6: None,
            mtu: None,
            prepared_namespaces: 2,
            publish_from: Limit::default(),
            host_policy: HostPolicy::Ignore,
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            own_table: true,
            ip_forward_no_drop: false,
            anti_spoofing: true,
            connections_per_container: None,
            dns_queries_per_second: 1000,
        }
    }
}
