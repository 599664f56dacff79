//! What has to change, as plain values.

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
    mut asked: Vec<PortBinding>,
    there: &[PortBinding],
    add: &[PortBinding],
    remove: &[PortBinding],
) -> Result<(Vec<PortBinding>, Vec<PortBinding>), Error> {
    let mut doomed = Vec::new();
    for word in remove {
        let pairs = paired(&asked, there, &[]);
        let is_named: Vec<bool> = asked
            .iter()
            .zip(&pairs)
            .map(|(asked, pair)| names(word, pair.as_ref().unwrap_or(asked)))
            .collect();
        if !is_named.contains(&true) {
            return Err(Error::Invalid(format!(
                "port {} is not published by that container",
                text(word)
            )));
        }
        let gone = pairs.into_iter().zip(&is_named);
        doomed.extend(gone.filter_map(|(pair, named)| pair.filter(|_| *named)));
        let mut named = is_named.into_iter();
        asked.retain(|_| !named.next().unwrap_or_default());
    }
    for port in add {
        let new = place(port);
        let same = |other: &&mut PortBinding| !new.is_open() && place(other) == new;
        if let Some(other) = asked.iter_mut().find(same) {
            other.allow_from.clone_from(&port.allow_from);
            continue;
        }
        let overlaps = |other: &PortBinding| {
            let other = place(other);
            let alike = other.address.is_none() || new.address.is_none();
            // What one of them leaves to netd is no conflict yet.
            !new.is_open()
                && !other.is_open()
                && (new.protocol, new.port) == (other.protocol, other.port)
                && (alike || other.address == new.address)
        };
        if asked.iter().any(overlaps) {
            return Err(Error::Conflict(format!(
                "the container publishes port {}/{} of the host already: remove it first",
                new.port,
                name(new.protocol)
            )));
        }
        asked.push(port.clone());
    }
    Ok((asked, doomed))
}

/// Whether somebody who says this means that one.
fn names(word: &PortBinding, port: &PortBinding) -> bool {
    let (word, port) = (place(word), place(port));
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
    let mut left: Vec<&PortBinding> = there.iter().filter(|p| !doomed.contains(p)).collect();
    let mut pairs = vec![None; asked.len()];
    for chosen in [false, true] {
        for (asked, pair) in asked.iter().zip(&mut pairs) {
            let wanted = place(asked);
            if wanted.is_open() != chosen {
                continue;
            }
            let fits = |port: &&PortBinding| {
                let port = place(port);
                wanted.may_be(port.port)
                    && (wanted.protocol, wanted.address, wanted.inside)
                        == (port.protocol, port.address, port.inside)
            };
            if let Some(found) = left.iter().position(fits) {
                *pair = Some(left.swap_remove(found).clone());
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
        let is_kept = |port: &&PortBinding| pairs.iter().flatten().any(|kept| kept == *port);
        let surplus = there
            .iter()
            .filter(|port| !is_kept(port))
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
    fn what_nobody_asks_for_goes_and_what_is_missing_comes() {
        let difference = Difference::of(&[port(1, 80), port(0, 81)], &[port(2, 80)], &[]);
        assert_eq!(shown(&difference.missing), [(1, 80), (0, 81)]);
        assert_eq!(shown(&difference.surplus), [(2, 80)]);
    }
}
