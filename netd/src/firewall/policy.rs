//! What the host's own firewall says, and what follows of it for published ports.
//!
//! A packet to a published port is translated before it is routed, and then it is forwarded: no rule of an input chain
//! ever sees it, whoever wrote it, and nothing in one table can ask a chain of another. So a host that drops input is
//! followed in what it says as a whole, its policy, and not rule by rule.

use std::path::Path;

use serde::Deserialize;

use crate::network::Network;
use crate::nft::{BaseChain, IpVersion};
use crate::ports::Limit;

use super::TABLE;

/// What the host's policy for input means for published ports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostPolicy {
    /// Nothing, as with docker.
    #[default]
    Ignore,
    /// While it drops, ports without `--publish-from` are for this host and its containers only.
    Input,
}

/// `NF_INET_LOCAL_IN`
const INPUT: u32 = 1;

/// Whether somebody else's policy drops what comes to the host over a version of IP.
///
/// `legacy` says that the tables of `iptables-legacy` are in use, whose policy nobody can read without a `getsockopt`
/// of its own format: they are taken as dropping.
pub fn drops_input(chains: &[BaseChain], legacy: bool, version: IpVersion) -> bool {
    let foreign = chains.iter().filter(|chain| chain.table != TABLE);
    legacy
        || foreign
            .filter(|chain| chain.sees(version))
            .any(|chain| chain.hook == INPUT && chain.drops)
}

/// Whether `iptables-legacy` has a filter table here.
pub fn has_legacy_filter(version: IpVersion) -> bool {
    let path = match version {
        IpVersion::V4 => "/proc/self/net/ip_tables_names",
        IpVersion::V6 => "/proc/self/net/ip6_tables_names",
    };
    // Not there: the kernel knows no such tables.
    let names = std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    names.lines().any(|name| name == "filter")
}

/// Who may use published ports of which nothing else was said, where the host drops input of some versions.
pub fn clients(said: &Limit, networks: &[&Network], closed: &[IpVersion]) -> Limit {
    if closed.is_empty() {
        return said.clone();
    }
    let mut ranges = Vec::new();
    for version in [IpVersion::V4, IpVersion::V6] {
        if closed.contains(&version) {
            let pools = networks.iter().flat_map(|network| network.pools());
            let subnets = pools.map(|pool| pool.subnet);
            ranges.extend(subnets.filter(|net| IpVersion::of(net.addr()) == version));
        } else if said.is_unsaid() {
            ranges.push(version.everywhere());
        } else {
            ranges.extend(said.ranges(version));
        }
    }
    // No range at all would let everybody in.
    match ranges.is_empty() {
        true => Limit::nobody(),
        false => Limit::of(ranges),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use IpVersion::{V4, V6};

    fn chain(family: u8, table: &str, hook: u32, drops: bool) -> BaseChain {
        BaseChain {
            family,
            table: table.to_owned(),
            name: "INPUT".to_owned(),
            hook,
            priority: 0,
            drops,
        }
    }

    #[test]
    fn only_others_policies_for_input_count() {
        let drops =
            |chains: &[BaseChain]| [V4, V6].map(|version| drops_input(chains, false, version));
        assert_eq!(drops(&[chain(2, "filter", 1, true)]), [true, false]);
        assert_eq!(drops(&[chain(10, "filter", 1, true)]), [false, true]);
        assert_eq!(drops(&[chain(1, "site", 1, true)]), [true, true]);
        let others = [
            chain(1, "site", 2, true),
            chain(1, "site", 1, false),
            chain(1, TABLE, 1, true),
            chain(7, "filter", 1, true),
        ];
        assert_eq!(drops(&others), [false, false]);
        assert!(drops_input(&[], true, V4));
    }

    #[test]
    fn a_closed_host_leaves_its_own_containers() {
        let request = crate::network::Request {
            name: "front".to_owned(),
            ..Default::default()
        };
        let network = request
            .plan("10.7.0.0/24".parse().unwrap(), None, 1500)
            .unwrap();
        let said = Limit::parse(&["192.0.2.0/24"]).unwrap();
        let who =
            |said: &Limit, closed: &[IpVersion]| clients(said, &[&network], closed).to_string();
        assert_eq!(who(&said, &[]), "192.0.2.0/24");
        assert_eq!(who(&said, &[V4]), "10.7.0.0/24");
        assert_eq!(who(&Limit::default(), &[V4]), "10.7.0.0/24, ::/0");
        assert_eq!(who(&Limit::default(), &[V4, V6]), "10.7.0.0/24");
        // Only clients of a version that the host drops, and no network has it.
        let six = Limit::parse(&["fd00::/8"]).unwrap();
        let nobody = clients(&six, &[&network], &[V6]);
        for client in ["192.0.2.1", "10.7.0.2", "fd00::1"] {
            assert!(!nobody.contains(client.parse().unwrap()), "{client}");
        }
    }
}
