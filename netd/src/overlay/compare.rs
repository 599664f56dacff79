//! How a tunnel that is there differs from what it should be, as a pure function.

use std::collections::HashSet;

use ipnet::IpNet;

use crate::netlink::neigh::{self, Known};
use crate::netlink::vxlan::{self, Carried};
use crate::netlink::wire::Message;
use crate::netlink::{Link, link};

use super::Tunnel;

/// What of a tunnel leads somewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Led {
    /// Destinations of its routes.
    pub routes: HashSet<IpNet>,
    /// Addresses inside whose Ethernet addresses are known.
    pub neighbours: HashSet<Known>,
    /// Hosts that have Ethernet addresses inside.
    pub entries: HashSet<Known>,
}

impl Tunnel {
    /// Why a link is not this one, and cannot become it.
    pub fn refuses(&self, found: &Link) -> Option<String> {
        let wanted = Carried {
            vni: self.vni,
            local: Some(self.local),
            port: vxlan::PORT,
        };
        let (mac, kind) = (self.mac(), &found.kind);
        match found.vxlan {
            None => Some(format!("is a link of kind \"{kind}\"")),
            Some(has) if has.vni != wanted.vni => {
                Some(format!("has number {} instead of {}", has.vni, wanted.vni))
            }
            Some(has) if has != wanted => Some(format!("does not send from {}", self.local)),
            Some(_) if found.mac != Some(mac) => Some(format!("has another MAC than {mac}")),
            Some(_) => None,
        }
    }

    /// What leads elsewhere, or nowhere, each as the end of a sentence and with what puts it right. The link is on.
    pub fn differences(&self, index: u32, there: &Led) -> Vec<(String, Message)> {
        let mut differ = Vec::new();
        let mut wanted = Led::default();
        for way in &self.ways {
            let entry = Known {
                mac: way.mac,
                address: way.host,
            };
            if !there.entries.contains(&entry) {
                let what = format!("does not lead to host {}", way.host);
                differ.push((what, neigh::tunnel_entry(index, way.mac, way.host)));
            }
            let neighbour = Known {
                mac: way.mac,
                address: way.gateway,
            };
            if !there.neighbours.contains(&neighbour) {
                let what = format!("does not know the MAC of {}", way.gateway);
                differ.push((what, neigh::neighbour(index, way.gateway, way.mac)));
            }
            if !there.routes.contains(&way.slice) {
                let what = format!("is without its route to {}", way.slice);
                let route = vxlan::replace_route(way.slice, way.gateway, self.gateway, index);
                differ.push((what, route));
            }
            wanted.entries.insert(entry);
            wanted.neighbours.insert(neighbour);
            wanted.routes.insert(way.slice);
        }
        for to in there.routes.difference(&wanted.routes) {
            let what = format!("has a route to {to} that is not its own");
            differ.push((what, link::remove_route(*to, index)));
        }
        // What leads to a host of its list now took the place of what was there.
        let gateways: HashSet<_> = wanted
            .neighbours
            .iter()
            .map(|known| known.address)
            .collect();
        for known in there.neighbours.difference(&wanted.neighbours) {
            if !gateways.contains(&known.address) {
                let what = format!("knows a MAC of {}, who is none of its hosts", known.address);
                differ.push((what, known.forget_neighbour(index)));
            }
        }
        let macs: HashSet<_> = wanted.entries.iter().map(|known| known.mac).collect();
        for known in there.entries.difference(&wanted.entries) {
            if !macs.contains(&known.mac) {
                let what = format!("leads to {}, which is none of its hosts", known.address);
                differ.push((what, known.forget_tunnel_entry(index)));
            }
        }
        differ
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Mac;
    use crate::overlay::definition::tests::{on, request};
    use crate::overlay::plan;

    fn tunnel(peers: &str) -> Tunnel {
        Tunnel::of(&plan(request(peers), &on("192.0.2.1")).unwrap()).unwrap()
    }

    fn led(tunnel: &Tunnel) -> Led {
        let known = |address| {
            move |way: &super::super::Way| Known {
                mac: way.mac,
                address: match address {
                    true => way.gateway,
                    false => way.host,
                },
            }
        };
        Led {
            routes: tunnel.ways.iter().map(|way| way.slice).collect(),
            neighbours: tunnel.ways.iter().map(known(true)).collect(),
            entries: tunnel.ways.iter().map(known(false)).collect(),
        }
    }

    #[test]
    fn what_is_missing_is_made_and_what_is_too_much_goes() {
        let (two, three) = (
            tunnel("a=192.0.2.1,b=192.0.2.2"),
            tunnel("a=192.0.2.1,b=192.0.2.2,c=192.0.2.3"),
        );
        let said = |tunnel: &Tunnel, there: &Led| {
            let differ = tunnel.differences(7, there).into_iter();
            differ.map(|(what, _)| what).collect::<Vec<_>>()
        };
        assert_eq!(said(&three, &led(&three)), [""; 0]);
        assert_eq!(
            said(&three, &led(&two)),
            [
                "does not lead to host 192.0.2.3",
                "does not know the MAC of 10.20.2.1",
                "is without its route to 10.20.2.0/24"
            ]
        );
        assert_eq!(
            said(&two, &led(&three)),
            [
                "has a route to 10.20.2.0/24 that is not its own",
                "knows a MAC of 10.20.2.1, who is none of its hosts",
                "leads to 192.0.2.3, which is none of its hosts"
            ]
        );
        // Somebody said something else of a host: one message puts that right.
        let mut other = led(&two);
        let elsewhere = |known: &Known| Known {
            address: [192, 0, 2, 9].into(),
            ..*known
        };
        other.entries = other.entries.iter().map(elsewhere).collect();
        let imposter = |known: &Known| Known {
            mac: Mac([2; 6]),
            ..*known
        };
        other.neighbours = other.neighbours.iter().map(imposter).collect();
        assert_eq!(
            said(&two, &other),
            [
                "does not lead to host 192.0.2.2",
                "does not know the MAC of 10.20.1.1"
            ]
        );
    }
}
