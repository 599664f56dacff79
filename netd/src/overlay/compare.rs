//! How a tunnel that is there differs from what it should be, as a pure function.

use std::collections::HashSet;

use ipnet::IpNet;

use crate::netlink::neigh::{self, Known};
use crate::netlink::vxlan::{self, Carried};
use crate::netlink::wire::Message;
use crate::netlink::wireguard::{self, Device};
use crate::netlink::{Link, link};

use super::{Carrier, PublicKey, Tunnel};

/// What of a tunnel leads somewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Led {
    /// Destinations of its routes.
    pub routes: HashSet<IpNet>,
    /// Addresses inside whose Ethernet addresses are known.
    pub neighbours: HashSet<Known>,
    /// Hosts that have Ethernet addresses inside.
    pub entries: HashSet<Known>,
    /// What an encrypted one has been told.
    pub told: Device,
    /// Whether nothing for other hosts leaves by another way.
    pub fenced: bool,
}

impl Tunnel {
    /// Why a link is not this one, and cannot become it.
    pub fn refuses(&self, found: &Link) -> Option<String> {
        let vni = match self.carrier {
            Carrier::Vxlan { vni } => vni,
            Carrier::WireGuard { .. } => {
                let other = found.kind != wireguard::KIND;
                return other.then(|| format!("is a link of kind \"{}\"", found.kind));
            }
        };
        let wanted = Carried {
            vni,
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

    /// Why this host, whose key is `own`, is not the one that an encrypted one is for. The kernel goes on with the key that it
    /// was told, and nobody tells it anew.
    pub fn disowns(&self, own: PublicKey) -> Option<String> {
        let is_other = self.is_encrypted() && self.key != Some(own);
        is_other.then(|| format!("is for another key than this host's, which is {own}"))
    }

    /// Why an encrypted one has to be told who it is and who its hosts are.
    pub fn mistold(&self, there: &Led) -> Option<String> {
        let Carrier::WireGuard { port } = self.carrier else {
            return None;
        };
        let told = &there.told;
        let mut wanted: Vec<_> = self.ends().iter().map(wireguard::Known::from).collect();
        let mut has = told.peers.clone();
        wanted.sort();
        has.sort();
        if told.key.as_ref() != self.key.as_ref().map(PublicKey::bytes) {
            Some("has another key than this host".to_owned())
        } else if told.port != port {
            Some(format!("listens to port {} instead of {port}", told.port))
        } else {
            (wanted != has).then(|| "has other peers than its hosts".to_owned())
        }
    }

    /// What leads elsewhere, or nowhere, each as the end of a sentence and with what puts it right. The link is on.
    pub fn differences(&self, index: u32, there: &Led) -> Vec<(String, Message)> {
        let mut differ = Vec::new();
        let mut wanted = Led::default();
        if let Some(fence) = self.fence()
            && !there.fenced
        {
            let what = format!("lets what is for {} leave by other ways", self.subnet);
            differ.push((what, fence));
        }
        for way in &self.ways {
            wanted.routes.insert(way.slice);
            if !there.routes.contains(&way.slice) {
                let what = format!("is without its route to {}", way.slice);
                differ.push((what, self.route(way, index)));
            }
            if self.is_encrypted() {
                continue;
            }
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
            wanted.entries.insert(entry);
            wanted.neighbours.insert(neighbour);
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
            ..Led::default()
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
                "is without its route to 10.20.2.0/24",
                "does not lead to host 192.0.2.3",
                "does not know the MAC of 10.20.2.1"
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

    #[test]
    fn an_encrypted_one_is_told_what_it_lacks_and_nothing_else() {
        let list = |keys: [&str; 2]| {
            let entry = |(place, key): (usize, &&str)| {
                format!("h{place}=192.0.2.{}@{}=", place + 1, key.repeat(43))
            };
            let entries: Vec<_> = keys.iter().enumerate().map(entry).collect();
            let mut request = request(&entries.join(","));
            request.options.insert("encrypted".into(), String::new());
            Tunnel::of(&plan(request, &on("192.0.2.1")).unwrap()).unwrap()
        };
        let (tunnel, other) = (list(["M", "E"]), list(["M", "I"]));
        let right = Led {
            routes: tunnel.ways.iter().map(|way| way.slice).collect(),
            told: Device {
                key: tunnel.key.map(|key| *key.bytes()),
                port: 51820,
                peers: tunnel.ends().iter().map(wireguard::Known::from).collect(),
            },
            fenced: true,
            ..Led::default()
        };
        assert_eq!(tunnel.mistold(&right), None);
        assert_eq!(tunnel.disowns(tunnel.key.unwrap()), None);
        let said = tunnel.disowns(tunnel.ways[0].key.unwrap()).unwrap();
        let sentence = "is for another key than this host's, which is EEEE";
        assert!(said.starts_with(sentence), "{said}");
        assert_eq!(tunnel.differences(7, &right), []);
        let said = other.mistold(&right).unwrap();
        assert_eq!(said, "has other peers than its hosts");
        let with = |change: fn(&mut Led)| {
            let mut led = right.clone();
            change(&mut led);
            tunnel.mistold(&led).unwrap_or_else(|| {
                let differ = tunnel.differences(7, &led).into_iter();
                differ.map(|(what, _)| what).collect()
            })
        };
        for (change, said) in [
            (
                (|led| led.told = Device::default()) as fn(&mut Led),
                "has another key than this host",
            ),
            (
                |led| led.told.key = Some([9; 32]),
                "has another key than this host",
            ),
            (
                |led| led.told.port = 7,
                "listens to port 7 instead of 51820",
            ),
            (
                |led| led.told.peers.clear(),
                "has other peers than its hosts",
            ),
            (
                |led| led.told.peers[0].at = Some([192, 0, 2, 9].into()),
                "has other peers than its hosts",
            ),
            (
                |led| {
                    led.told.peers[0]
                        .allowed
                        .push("10.20.9.0/24".parse().unwrap())
                },
                "has other peers than its hosts",
            ),
            (
                |led| led.fenced = false,
                "lets what is for 10.20.0.0/16 leave by other ways",
            ),
            (
                |led| led.routes.clear(),
                "is without its route to 10.20.1.0/24",
            ),
        ] {
            assert_eq!(with(change), said);
        }
        let link = |kind: &str| Link {
            index: 7,
            name: tunnel.name.clone(),
            master: None,
            alias: String::new(),
            up: true,
            running: true,
            mtu: 1440,
            mac: None,
            hairpin: false,
            kind: kind.to_owned(),
            vxlan: None,
        };
        assert_eq!(tunnel.refuses(&link("wireguard")), None);
        assert!(tunnel.refuses(&link("vxlan")).is_some());
    }
}
