//! What others on the host do that makes our answers less, and what is published for nobody.

use crate::firewall::{TABLE, policy};
use crate::nft::{BaseChain, IpVersion};

use super::Facts;

/// `NF_INET_FORWARD`
const FORWARD: u32 = 2;

/// Sentences, each with what to do.
pub fn warnings(facts: &Facts<'_>) -> Vec<String> {
    let mut all = Vec::new();
    let dropping = facts.foreign.iter().filter(|chain| is_in_the_way(chain));
    for chain in dropping {
        all.push(format!(
            "{chain} drops what none of its rules accepts, docker's way: containers may have no way out, and nobody \
             beyond this host a way to published ports. Let our bridges through there{}",
            by_hand(facts, chain)
        ));
    }
    for version in [IpVersion::V4, IpVersion::V6] {
        if facts.legacy.contains(&version) {
            all.push(format!(
                "tables of {} are in use here, and nobody but it can read them: what they drop is not told",
                match version {
                    IpVersion::V4 => "iptables-legacy",
                    IpVersion::V6 => "ip6tables-legacy",
                }
            ));
        }
        if policy::drops_input(&facts.foreign, false, version) && !facts.closed.contains(&version) {
            all.push(format!(
                "the host drops input over {version}, but published ports are open all the same: packets to them are \
                 forwarded. Set host_policy = \"input\" in netd.toml to close them"
            ));
        }
    }
    for network in facts.networks.iter().filter(|network| network.internal) {
        let on_it = facts.endpoints.iter().filter(|e| e.network == network.id);
        for endpoint in on_it.filter(|e| !e.ports.is_empty()) {
            all.push(format!(
                "{} publishes ports on internal network {}: only this host and that network reach them",
                endpoint.container_name, network.name
            ));
        }
    }
    all
}

fn is_in_the_way(chain: &BaseChain) -> bool {
    let ip = [IpVersion::V4, IpVersion::V6];
    chain.table != TABLE
        && chain.hook == FORWARD
        && chain.drops
        && ip.into_iter().any(|version| chain.sees(version))
}

/// The commands, where the chain is one that iptables knows.
fn by_hand(facts: &Facts<'_>, chain: &BaseChain) -> String {
    let is_iptables = chain.table == "filter" && chain.name == "FORWARD";
    let command = match (is_iptables, chain.sees(IpVersion::V4)) {
        (false, _) => return ".".to_owned(),
        (true, true) => "iptables",
        (true, false) => "ip6tables",
    };
    let bridged = facts.networks.iter().filter(|network| network.is_bridged());
    let lines = bridged.map(|network| {
        let device = &network.device;
        format!(
            "{command} -I FORWARD -i {device} -j ACCEPT; {command} -I FORWARD -o {device} -j ACCEPT"
        )
    });
    format!(": {}", lines.collect::<Vec<_>>().join("; "))
}
