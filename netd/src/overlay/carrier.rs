//! What the packets of a network travel in between its hosts: chosen by its options, the same everywhere.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::network::Request;

use super::Peer;
use super::definition::{hash, invalid};

/// Options that choose it.
const VNI: &str = "vni";
const ENCRYPTED: &str = "encrypted";
const PORT: &str = "port";

/// Numbers of networks have 24 bits (RFC 7348, 5); those chosen here leave the small ones to people.
const VNIS: std::ops::Range<u32> = 1..1 << 24;
const CHOSEN_VNIS: std::ops::Range<u32> = 4096..1 << 24;

/// Where WireGuard usually listens.
const WIREGUARD_PORT: u16 = 51820;

/// Bytes of outer IP and UDP headers, and of what a carrier puts behind them: VXLAN's header and that of Ethernet, or
/// WireGuard's header and its authentication.
pub(super) fn overhead(outer: IpAddr, carrier: Carrier) -> u32 {
    let ip = match outer {
        IpAddr::V4(_) => 20,
        IpAddr::V6(_) => 40,
    };
    let own = match carrier {
        Carrier::Vxlan { .. } => 8 + 14,
        Carrier::WireGuard { .. } => 16 + 16,
    };
    ip + 8 + own
}

/// What packets between hosts travel in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Carrier {
    /// Frames of a network's number, for everybody on the way to read.
    Vxlan {
        /// The number.
        vni: u32,
    },
    /// Datagrams that only the host with the right key can read or make.
    WireGuard {
        /// Where all hosts hear them, udp.
        port: u16,
    },
}

/// Networks that differ in it are different networks.
pub(super) fn sign(carrier: Carrier) -> String {
    match carrier {
        Carrier::Vxlan { vni } => vni.to_string(),
        Carrier::WireGuard { port } => format!("{ENCRYPTED} {port}"),
    }
}

/// What the options say.
pub(super) fn carrier(request: &mut Request, subnet: IpNet) -> Result<Carrier, Error> {
    let encrypted = request.options.remove(ENCRYPTED);
    let asked_vni = request.options.remove(VNI);
    let port = request.options.remove(PORT);
    match encrypted.as_deref() {
        None | Some("false") if port.is_some() => invalid(
            "only an encrypted network has a port of its own: leave --opt port= out, or add --opt encrypted",
        ),
        None | Some("false") => Ok(Carrier::Vxlan {
            vni: vni(asked_vni.as_deref(), &request.name, subnet)?,
        }),
        Some("" | "true") if asked_vni.is_some() => invalid(
            "an encrypted network has no number: leave --opt vni= out; another port than 51820 is chosen by --opt port=",
        ),
        Some("" | "true") => match port.as_deref().map(str::parse) {
            None => Ok(Carrier::WireGuard {
                port: WIREGUARD_PORT,
            }),
            Some(Ok(port)) if port > 0 => Ok(Carrier::WireGuard { port }),
            Some(_) => invalid("that is no port of udp: use --opt port=1 to 65535"),
        },
        Some(other) => invalid(format!(
            "\"{other}\" does not say whether the network is encrypted: use --opt encrypted, or leave it out"
        )),
    }
}

/// Where hosts are known by keys, each has one, and one of its own.
pub(super) fn check_keys(all: &[Peer], carrier: Carrier) -> Result<(), Error> {
    for (place, peer) in all.iter().enumerate() {
        let Peer { name, address, .. } = peer;
        match (carrier, peer.key) {
            (Carrier::Vxlan { .. }, None) => {}
            (Carrier::Vxlan { .. }, Some(_)) => {
                return invalid(format!(
                    "host {name} has a key, and the network is not encrypted: add --opt encrypted, or leave keys out"
                ));
            }
            (Carrier::WireGuard { .. }, None) => {
                return invalid(format!(
                    "host {name} has no key, and the network is encrypted: write {name}={address}@KEY; `ctl info` on \
                     that host shows it"
                ));
            }
            (Carrier::WireGuard { .. }, key) => {
                if let Some(other) = all[..place].iter().find(|other| other.key == key) {
                    return invalid(format!(
                        "hosts {} and {name} have the same key: `ctl info` on each shows its own",
                        other.name
                    ));
                }
            }
        }
    }
    Ok(())
}

fn vni(asked: Option<&str>, name: &str, subnet: IpNet) -> Result<u32, Error> {
    let Some(text) = asked else {
        let hash = hash(&[name, &subnet.to_string()]);
        let number = u32::from_be_bytes([0, hash[0], hash[1], hash[2]]);
        return Ok(CHOSEN_VNIS.start + number % (CHOSEN_VNIS.end - CHOSEN_VNIS.start));
    };
    match text.parse() {
        Ok(vni) if VNIS.contains(&vni) => Ok(vni),
        _ => invalid(format!(
            "\"{text}\" is not the number of a VXLAN network: use 1 to {}",
            VNIS.end - 1
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{Driver, Network};
    use crate::overlay::definition::tests::{on, request};
    use crate::overlay::{Overlay, plan};

    const PEERS: &str = "peers";

    fn overlay(network: &Network) -> &Overlay {
        match &network.driver {
            Driver::Overlay(overlay) => overlay,
            _ => panic!("an overlay was asked for"),
        }
    }

    fn refused(request: Request) -> String {
        plan(request, &on("192.0.2.1")).unwrap_err().to_string()
    }

    fn with(mut request: Request, options: &[(&str, &str)]) -> Request {
        let text = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        request.options.extend(options.iter().map(text));
        request
    }

    const KEYS: [&str; 3] = [
        "BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "AwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    ];

    fn keyed(hosts: &[&str]) -> Request {
        let entry =
            |(place, name): (usize, &&str)| format!("{name}=192.0.2.{}@{}", place + 1, KEYS[place]);
        let entries: Vec<_> = hosts.iter().enumerate().map(entry).collect();
        request(&entries.join(","))
    }

    fn encrypted(options: &[(&str, &str)]) -> Request {
        let request = with(keyed(&["a", "b", "c"]), &[(ENCRYPTED, "")]);
        with(request, options)
    }

    #[test]
    fn an_encrypted_network_has_a_port_and_keys_instead_of_a_number() {
        let [a, b] = ["192.0.2.1", "192.0.2.2"].map(|own| plan(encrypted(&[]), &on(own)).unwrap());
        assert_eq!(a.id, b.id);
        assert_eq!(overlay(&a).carrier, Carrier::WireGuard { port: 51820 });
        assert_eq!(overlay(&a).here.key.unwrap().to_string(), KEYS[0]);
        assert_eq!(overlay(&a).peers(), overlay(&b).peers());
        assert_eq!(a.mtu, 1440);
        let text = serde_json::to_string(&a).unwrap();
        assert_eq!(serde_json::from_str::<Network>(&text).unwrap(), a);
        // Neither is the other's network, nor is one at another port.
        let clear = request("a=192.0.2.1,b=192.0.2.2,c=192.0.2.3");
        let clear = plan(clear, &on("192.0.2.1")).unwrap();
        let elsewhere = plan(encrypted(&[(PORT, "51821")]), &on("192.0.2.1")).unwrap();
        assert!(a.id != clear.id && a.id != elsewhere.id);
        assert_eq!(
            overlay(&elsewhere).carrier,
            Carrier::WireGuard { port: 51821 }
        );
        for (options, reason) in [
            ((VNI, "7"), "has no number"),
            ((ENCRYPTED, "maybe"), "use --opt encrypted"),
            ((PORT, "0"), "no port of udp"),
            ((PORT, "65536"), "no port of udp"),
            (("com.docker.network.driver.mtu", "1441"), "leaves 1440"),
        ] {
            let said = refused(encrypted(&[options]));
            assert!(said.contains(reason), "{reason}: {said}");
        }
    }

    #[test]
    fn keys_are_for_encrypted_networks_one_a_host() {
        let clear = || request("a=192.0.2.1,b=192.0.2.2");
        let list = encrypted(&[]).options[PEERS].clone();
        let twice = list.replace(KEYS[2], KEYS[0]);
        for (request, reason) in [
            (with(clear(), &[(ENCRYPTED, "")]), "host a has no key"),
            (with(clear(), &[(PORT, "51821")]), "only an encrypted"),
            (with(clear(), &[(VNI, "16777216")]), "1 to 16777215"),
            (keyed(&["a"]), "host a has a key"),
            (encrypted(&[(PEERS, &twice)]), "hosts a and c have the same"),
        ] {
            let said = refused(request);
            assert!(said.contains(reason), "{reason}: {said}");
        }
    }

    #[test]
    fn encrypted_tunnels_over_ipv6_leave_less() {
        let peers = format!("a=2001:db8::1@{},b=2001:db8::2@{}", KEYS[0], KEYS[1]);
        let request = with(request(&peers), &[(ENCRYPTED, "true")]);
        assert_eq!(plan(request, &on("2001:db8::1")).unwrap().mtu, 1420);
    }

    /// Those of versions that knew no encryption.
    #[test]
    fn older_records_are_read() {
        let old = r#"{"subnet":"10.20.0.0/16","vni":7,"others":[],
            "here":{"name":"a","address":"192.0.2.1","slice":"10.20.0.0/24"}}"#;
        let old: Overlay = serde_json::from_str(old).unwrap();
        assert_eq!(old.carrier, Carrier::Vxlan { vni: 7 });
        assert_eq!(old.here.key, None);
    }
}
