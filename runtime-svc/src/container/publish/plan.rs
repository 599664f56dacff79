//! What has to change, as plain values.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use slipway_proto::netd::v1::{PortBinding, Protocol};

use crate::error::Error;

/// What makes a port of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    protocol: Protocol,
    /// None = all addresses.
    address: Option<IpAddr>,
    /// 0 = one that netd chooses.
    port: u32,
    /// Above it: netd chooses one of these.
    last: u32,
    inside: u32,
}

impl Place {
    /// Whether it leaves the port to netd.
    fn is_open(&self) -> bool {
        self.port == 0 || self.last > self.port
    }

    /// Whether that port may be what came of it.
    fn may_be(&self, port: u32) -> bool {
        self.port == 0 || (self.port..=self.last.max(self.port)).contains(&port)
    }
}

fn place(port: &PortBinding) -> Place {
    Place {
        protocol: match port.protocol() {
            Protocol::Unspecified => Protocol::Tcp,
            protocol => protocol,
        },
        address: port.host_address.parse().ok(),
        port: port.host_port,
        last: port.host_port_last,
        inside: port.container_port,
    }
}

/// "0.0.0.0:3000->80/tcp", or only what was named of it.
fn text(port: &PortBinding) -> String {
    let place = place(port);
    let inside = format!("{}/{}", place.inside, name(place.protocol));
    match (place.address, place.port) {
        (_, 0) => inside,
        (None, port) if place.is_open() => format!("{port}-{}:{inside}", place.last),
        (None, port) => format!("{port}:{inside}"),
        (Some(address), port) => format!(
            "{}:{inside}",
            std::net::SocketAddr::new(address, u16::try_from(port).unwrap_or(0))
        ),
    }
}

fn name(protocol: Protocol) -> String {
    protocol.as_str_name().to_lowercase()
}

/// The ports that are asked for after a change, and those of `there` that go.
pub fn changed(
    asked: Vec<PortBinding>,
    there: &[PortBinding],
    add: &[PortBinding],
    remove: &[PortBinding],
) -> Result<(Vec<PortBinding>, Vec<PortBinding>), Error> {
    let (mut asked, doomed) = without(asked, there, remove)?;
    // By protocol and port of the host, of those that have one.
    let mut fixed: HashMap<(Protocol, u32), Vec<usize>> = HashMap::new();
    let key = |place: &Place| (!place.is_open()).then_some((place.protocol, place.port));
    for (index, place) in asked.iter().map(place).enumerate() {
        if let Some(key) = key(&place) {
            fixed.entry(key).or_default().push(index);
        }
    }
    for port in add {
        let new = place(port);
        // What one of them leaves to netd is no conflict yet.
        if let Some(key) = key(&new) {
            let alike = fixed.entry(key).or_default();
            if let Some(same) = alike.iter().find(|other| place(&asked[**other]) == new) {
                asked[*same].allow_from.clone_from(&port.allow_from);
                continue;
            }
            let overlaps = |other: &usize| {
                let other = place(&asked[*other]).address;
                other.is_none() || new.address.is_none() || other == new.address
            };
            if alike.iter().any(overlaps) {
                return Err(Error::Conflict(format!(
                    "the container publishes port {}/{} of the host already: remove it first",
                    new.port,
                    name(new.protocol)
                )));
            }
            alike.push(asked.len());
        }
        asked.push(port.clone());
    }
    Ok((asked, doomed))
}

/// What is left of the ports that are asked for, and those of `there` that go.
fn without(
    asked: Vec<PortBinding>,
    there: &[PortBinding],
    remove: &[PortBinding],
) -> Result<(Vec<PortBinding>, Vec<PortBinding>), Error> {
    if remove.is_empty() {
        return Ok((asked, Vec::new()));
    }
    let pairs = paired(&asked, there, &[]);
    let places = pairs.iter().zip(&asked);
    let places: Vec<Place> = places
        .map(|(pair, asked)| place(pair.as_ref().unwrap_or(asked)))
        .collect();
    let mut goes = vec![false; asked.len()];
    for port in remove {
        let word = place(port);
        let mut named = false;
        for (goes, place) in goes.iter_mut().zip(&places) {
            if !*goes && names(&word, place) {
                (*goes, named) = (true, true);
            }
        }
        if !named {
            return Err(Error::Invalid(format!(
                "port {} is not published by that container",
                text(port)
            )));
        }
    }
    let (mut left, mut doomed) = (Vec::new(), Vec::new());
    for ((asked, pair), goes) in asked.into_iter().zip(pairs).zip(goes) {
        match goes {
            true => doomed.extend(pair),
            false => left.push(asked),
        }
    }
    Ok((left, doomed))
}

/// Whether somebody who says this means that one.
fn names(word: &Place, port: &Place) -> bool {
    (word.protocol, word.inside) == (port.protocol, port.inside)
        && word.may_be(port.port)
        && (word.address.is_none() || word.address == port.address)
}

/// What there is of each that is asked for: those with a port of their own first, then those for which netd chose one.
fn paired(
    asked: &[PortBinding],
    there: &[PortBinding],
    doomed: &[PortBinding],
) -> Vec<Option<PortBinding>> {
    let doomed: HashSet<&PortBinding> = doomed.iter().collect();
    // What may be the same, by port of the host.
    let mut left: HashMap<_, BTreeMap<u32, Vec<&PortBinding>>> = HashMap::new();
    let key = |place: &Place| (place.protocol, place.address, place.inside);
    for port in there.iter().filter(|port| !doomed.contains(port)) {
        let place = place(port);
        let alike = left.entry(key(&place)).or_default();
        alike.entry(place.port).or_default().push(port);
    }
    let places: Vec<Place> = asked.iter().map(place).collect();
    let mut pairs = vec![None; asked.len()];
    for chosen in [false, true] {
        for (wanted, pair) in places.iter().zip(&mut pairs) {
            if wanted.is_open() != chosen {
                continue;
            }
            let Some(alike) = left.get_mut(&key(wanted)) else {
                continue;
            };
            let last = match wanted.port {
                0 => u32::MAX,
                first => wanted.last.max(first),
            };
            let found = alike.range_mut(wanted.port..=last).next();
            let Some((port, ports)) = found.map(|(port, ports)| (*port, ports)) else {
                continue;
            };
            *pair = ports.pop().cloned();
            if ports.is_empty() {
                alike.remove(&port);
            }
        }
    }
    pairs
}

/// What netd has to be told.
#[derive(Debug, PartialEq)]
pub struct Difference {
    /// To be published; also what is, for its clients may be others.
    pub missing: Vec<PortBinding>,
    /// To be withdrawn.
    pub surplus: Vec<PortBinding>,
}

impl Difference {
    /// Between what is asked for and what is there; of what says the same, `doomed` goes.
    pub fn of(asked: &[PortBinding], there: &[PortBinding], doomed: &[PortBinding]) -> Self {
        let pairs = paired(asked, there, doomed);
        let kept: HashSet<&PortBinding> = pairs.iter().flatten().collect();
        let surplus = there
            .iter()
            .filter(|port| !kept.contains(port))
            .cloned()
            .collect();
        let missing = asked.iter().zip(&pairs).map(|(asked, pair)| PortBinding {
            host_port: pair.as_ref().map_or(asked.host_port, |pair| pair.host_port),
            host_port_last: pair.as_ref().map_or(asked.host_port_last, |_| 0),
            ..asked.clone()
        });
        Self {
            missing: missing.collect(),
            surplus,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(host: u32, inside: u32) -> PortBinding {
        PortBinding {
            protocol: 1,
            host_port: host,
            container_port: inside,
            ..PortBinding::default()
        }
    }

    fn shown(ports: &[PortBinding]) -> Vec<(u32, u32)> {
        let pair = |p: &PortBinding| (p.host_port, p.container_port);
        ports.iter().map(pair).collect()
    }

    #[test]
    fn a_port_is_named_by_the_containers_or_by_both() {
        let asked = vec![port(3000, 80), port(3001, 80), port(0, 81), port(0, 81)];
        let there = [
            port(3000, 80),
            port(3001, 80),
            port(40000, 81),
            port(40001, 81),
        ];
        let remove = |words: &[PortBinding]| changed(asked.clone(), &there, &[], words);
        let (left, gone) = remove(&[port(0, 80)]).unwrap();
        assert_eq!(shown(&left), [(0, 81), (0, 81)]);
        assert_eq!(shown(&gone), [(3000, 80), (3001, 80)]);
        let (left, gone) = remove(&[port(3001, 80), port(40000, 81)]).unwrap();
        assert_eq!(shown(&left), [(3000, 80), (0, 81)]);
        assert_eq!(shown(&gone), [(3001, 80), (40000, 81)]);
        // The one that was not named stays, although the record says the same of both.
        let difference = Difference::of(&left, &there, &gone);
        assert_eq!(shown(&difference.surplus), [(3001, 80), (40000, 81)]);
        assert_eq!(shown(&difference.missing), [(3000, 80), (40001, 81)]);
        let error = remove(&[port(3002, 80)]).unwrap_err().to_string();
        assert_eq!(error, "port 3002:80/tcp is not published by that container");
    }

    #[test]
    fn one_of_a_range_is_whichever_netd_chose() {
        let range = PortBinding {
            host_port_last: 9000,
            ..port(8000, 80)
        };
        let asked = [range.clone(), range.clone(), port(8000, 81)];
        let there = [port(8001, 80), port(8000, 81)];
        let difference = Difference::of(&asked, &there, &[]);
        assert_eq!(difference.surplus, []);
        // The second has none yet.
        assert_eq!(difference.missing[0], port(8001, 80));
        assert_eq!(difference.missing[1..], [range.clone(), port(8000, 81)]);
        let remove = |word| changed(asked.to_vec(), &there, &[], &[word]).unwrap();
        assert_eq!(remove(port(8001, 80)).1, [port(8001, 80)]);
        assert_eq!(remove(range.clone()).0, [port(8000, 81)]);
        let (all, _) = changed(asked.to_vec(), &there, &[range], &[]).unwrap();
        assert_eq!(all.len(), 4, "another one of them");
    }

    #[test]
    fn what_is_published_gets_other_clients_and_no_second_time() {
        let limited = PortBinding {
            allow_from: vec!["10.0.0.0/8".into()],
            ..port(3000, 80)
        };
        let add = |add: PortBinding| changed(vec![port(3000, 80)], &[], &[add], &[]);
        let (after, _) = add(limited.clone()).unwrap();
        assert_eq!(after, std::slice::from_ref(&limited));
        let difference = Difference::of(&after, &[port(3000, 80)], &[]);
        assert_eq!(
            (difference.missing, difference.surplus),
            (vec![limited], vec![])
        );
        assert_eq!(shown(&add(port(0, 80)).unwrap().0), [(3000, 80), (0, 80)]);
        assert!(add(port(3000, 81)).is_err());
        let udp = PortBinding {
            protocol: 2,
            ..port(3000, 81)
        };
        assert_eq!(add(udp).unwrap().0.len(), 2);
    }

    #[test]
    fn a_container_may_have_every_port_there_is() {
        let asked: Vec<_> = (1..=65535).map(|number| port(number, number)).collect();
        let others: Vec<_> = asked
            .iter()
            .cloned()
            .map(|port| PortBinding {
                protocol: 2,
                ..port
            })
            .collect();
        let (all, _) = changed(asked.clone(), &asked, &others, &[]).unwrap();
        assert_eq!(all.len(), 2 * 65535);
        let difference = Difference::of(&all, &asked, &others);
        assert_eq!(
            (difference.missing.len(), difference.surplus.len()),
            (2 * 65535, 0)
        );
        let (left, gone) = changed(asked.clone(), &asked, &[], &asked[1000..1100]).unwrap();
        assert_eq!((left.len(), gone.as_slice()), (65435, &asked[1000..1100]));
    }

    #[test]
    fn what_nobody_asks_for_goes_and_what_is_missing_comes() {
        let difference = Difference::of(&[port(1, 80), port(0, 81)], &[port(2, 80)], &[]);
        assert_eq!(shown(&difference.missing), [(1, 80), (0, 81)]);
        assert_eq!(shown(&difference.surplus), [(2, 80)]);
    }
}
