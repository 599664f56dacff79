//! Who has which host port: conflicts are found before anything starts.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};

use tokio::runtime::Handle;

use crate::error::Error;
use crate::id::EndpointId;
use crate::ipam::DualStack;

use super::relay::{Clients, Relay, Relays};
use super::reserve::{Reservation, reserve};
use super::{Binding, HostAddress, Protocol, Published, Taken};

const EPHEMERAL: std::ops::RangeInclusive<u16> = 32768..=60999;

#[derive(Debug)]
struct Held {
    endpoint: EndpointId,
    published: Published,
    taken: Taken,
    _hold: Hold,
}

/// What keeps other programs off a port, and serves those whom the kernel cannot lead.
#[derive(Debug, Default)]
struct Hold {
    _reservations: Vec<Reservation>,
    _relay: Option<Relay>,
}

/// All published ports of the host.
#[derive(Debug)]
pub struct PortTable {
    held: BTreeMap<(Protocol, u16), Vec<Held>>,
    relays: Relays,
    next: u16,
}

/// Why a port is not held.
enum NotHeld {
    Kernel(io::Error),
    Unsupported(String),
}

impl From<io::Error> for NotHeld {
    fn from(error: io::Error) -> Self {
        Self::Kernel(error)
    }
}

impl PortTable {
    /// An empty table; relays run on `runtime`.
    pub fn new(runtime: Handle) -> Self {
        let mut seed = [0; 2];
        // A start that nobody relies on: without random numbers the range's first port is as good.
        let _ = getrandom::fill(&mut seed);
        let span = EPHEMERAL.end() - EPHEMERAL.start();
        let next = EPHEMERAL.start() + u16::from_ne_bytes(seed) % span;
        Self {
            held: BTreeMap::new(),
            relays: Relays::new(runtime),
            next,
        }
    }

    /// Takes ports for an endpoint, all or none, and tells which host ports they became.
    pub fn take(
        &mut self,
        endpoint: &EndpointId,
        to: DualStack,
        bindings: &[Binding],
    ) -> Result<Vec<Published>, Error> {
        let mut taken = Vec::with_capacity(bindings.len());
        for binding in bindings {
            let result = match (binding.host_port, binding.host_port_last) {
                (0, _) => self.take_ephemeral(endpoint, to, binding),
                (first, Some(last)) => self.take_one_of(endpoint, to, binding, first..=last),
                (port, None) => self.take_one(endpoint, to, binding, port),
            };
            match result {
                Ok(published) => taken.push(published),
                Err(error) => {
                    self.give_back(endpoint, &taken);
                    return Err(error);
                }
            }
        }
        Ok(taken)
    }

    /// Takes a port again that an endpoint had before netd was started. It has it still, whoever else sits on it: the
    /// packet filter comes first. The error says that nothing keeps others off it.
    pub fn take_again(
        &mut self,
        endpoint: &EndpointId,
        to: DualStack,
        port: &Published,
    ) -> Result<(), Error> {
        let binding = Binding {
            protocol: port.protocol,
            container_port: port.container_port,
            host: port.host,
            host_port: port.host_port,
            host_port_last: None,
            from: port.from.clone(),
        };
        let taken = self.take_one(endpoint, to, &binding, port.host_port);
        if taken.is_err() {
            let held = Held {
                endpoint: endpoint.clone(),
                published: port.clone(),
                taken: port.host.taken(to),
                _hold: Hold::default(),
            };
            let key = (port.protocol, port.host_port);
            self.held.entry(key).or_default().push(held);
        }
        taken.map(drop)
    }

    /// Gives certain ports of an endpoint back.
    pub fn give_back(&mut self, endpoint: &EndpointId, ports: &[Published]) {
        for port in ports {
            let key = (port.protocol, port.host_port);
            if let Some(holders) = self.held.get_mut(&key) {
                holders.retain(|held| held.endpoint != *endpoint || !held.published.is_at(port));
                if holders.is_empty() {
                    self.held.remove(&key);
                }
            }
        }
    }

    fn take_ephemeral(
        &mut self,
        endpoint: &EndpointId,
        to: DualStack,
        binding: &Binding,
    ) -> Result<Published, Error> {
        for _ in EPHEMERAL {
            let port = self.next;
            self.next = if port == *EPHEMERAL.end() {
                *EPHEMERAL.start()
            } else {
                port + 1
            };
            match self.take_one(endpoint, to, binding, port) {
                Err(Error::PortAllocated { .. }) => {}
                other => return other,
            }
        }
        Err(Error::PortsExhausted {
            first: *EPHEMERAL.start(),
            last: *EPHEMERAL.end(),
        })
    }

    fn take_one_of(
        &mut self,
        endpoint: &EndpointId,
        to: DualStack,
        binding: &Binding,
        ports: std::ops::RangeInclusive<u16>,
    ) -> Result<Published, Error> {
        for port in ports.clone() {
            match self.take_one(endpoint, to, binding, port) {
                Err(Error::PortAllocated { .. }) => {}
                other => return other,
            }
        }
        Err(Error::PortsExhausted {
            first: *ports.start(),
            last: *ports.end(),
        })
    }

    fn take_one(
        &mut self,
        endpoint: &EndpointId,
        to: DualStack,
        binding: &Binding,
        port: u16,
    ) -> Result<Published, Error> {
        let refused = |by| Error::PortAllocated {
            address: binding.host.to_string(),
            port,
            by,
        };
        let key = (binding.protocol, port);
        let holders = self.held.get(&key).map(Vec::as_slice).unwrap_or_default();
        let taken = binding.host.taken(to);
        if holders.iter().any(|held| held.taken.overlaps(taken)) {
            return Err(refused(""));
        }
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => refused(" by another program on this host"),
            io::ErrorKind::AddrNotAvailable => Error::Invalid(format!(
                "Bind for {}:{port} failed: this host has no such address",
                binding.host
            )),
            _ => Error::System {
                what: format!(
                    "take host port {}:{port}/{}",
                    binding.host, binding.protocol
                ),
                source: error,
            },
        };
        let hold = self.hold(to, binding, port).map_err(|error| match error {
            NotHeld::Kernel(error) => failed(error),
            NotHeld::Unsupported(sentence) => Error::Unsupported(sentence),
        })?;
        let published = Published {
            protocol: binding.protocol,
            container_port: binding.container_port,
            host: binding.host,
            host_port: port,
            from: binding.from.clone(),
        };
        self.held.entry(key).or_default().push(Held {
            endpoint: endpoint.clone(),
            published: published.clone(),
            taken,
            _hold: hold,
        });
        Ok(published)
    }

    fn hold(&mut self, to: DualStack, binding: &Binding, port: u16) -> Result<Hold, NotHeld> {
        let Binding {
            protocol,
            container_port,
            host,
            ..
        } = *binding;
        let taken = host.taken(to);
        let mut hold = Hold::default();
        if let Some(address) = taken.v4 {
            hold._reservations
                .push(reserve(protocol, address.into(), port)?);
        }
        // A program may listen on one version of IP only.
        let inside = to.v6.into_iter().chain([to.v4]);
        let inside = inside.map(|address| SocketAddr::new(address, container_port));
        let relay = |address, clients| {
            let inside = inside.collect();
            self.relays.start(address, port, inside, clients).map(Some)
        };
        let is_tcp = protocol == Protocol::Tcp;
        match taken.v6 {
            Some(address) if to.v6.is_some() => match is_tcp {
                // That of all addresses keeps the port as well.
                true if address.is_loopback() || address.is_unspecified() => {
                    hold._relay = relay(address, Clients::OnThisHost)?;
                }
                false if address.is_loopback() => {
                    return Err(NotHeld::Unsupported(format!(
                        "{protocol} on {host} cannot be published: Linux cannot translate there; use 127.0.0.1"
                    )));
                }
                _ => hold
                    ._reservations
                    .push(reserve(protocol, address.into(), port)?),
            },
            Some(address) if is_tcp => hold._relay = relay(address, Clients::All)?,
            Some(_) => {
                return Err(NotHeld::Unsupported(format!(
                    "{protocol} on IPv6 host address {host} cannot be published for a container without IPv6: \
                     give it a network with --ipv6, or publish it on an IPv4 address"
                )));
            }
            None if is_tcp && host == HostAddress::Any => {
                // Hosts without IPv6, and programs that listen on ::1 alone, take nothing from those who ask for
                // "all addresses": IPv4 is what they mean. The world is never relayed without being asked for.
                hold._relay =
                    relay(Ipv6Addr::LOCALHOST, Clients::OnThisHost).unwrap_or_else(|error| {
                        tracing::debug!(port, %error, "not relaying from ::1");
                        None
                    });
            }
            None => {}
        }
        Ok(hold)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Limit;
    use super::*;

    fn binding(host: &str, host_port: u16) -> Binding {
        let host = HostAddress::parse(host).unwrap();
        Binding {
            protocol: Protocol::Tcp,
            container_port: 80,
            host,
            host_port,
            host_port_last: None,
            from: Limit::default(),
        }
    }

    fn container() -> DualStack {
        DualStack {
            v4: [172, 17, 0, 2].into(),
            v6: None,
        }
    }

    #[tokio::test]
    async fn conflicts_speak_dockers_words() {
        let mut table = PortTable::new(Handle::current());
        let (one, two) = (EndpointId::random(), EndpointId::random());
        let to = container();
        let port = table.take(&one, to, &[binding("", 0)]).unwrap()[0].host_port;
        assert!(EPHEMERAL.contains(&port));
        let error = table
            .take(&two, to, &[binding("", port)])
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            format!("Bind for 0.0.0.0:{port} failed: port is already allocated")
        );
        assert!(table.take(&two, to, &[binding("127.0.0.1", port)]).is_err());
        let mine = [Published {
            protocol: Protocol::Tcp,
            container_port: 80,
            host: HostAddress::Any,
            host_port: port,
            from: Limit::default(),
        }];
        table.give_back(&one, &mine);
        assert!(table.take(&two, to, &[binding("127.0.0.1", port)]).is_ok());
    }

    #[tokio::test]
    async fn of_a_range_the_first_that_is_free_is_taken() {
        let mut table = PortTable::new(Handle::current());
        let to = container();
        let first = table.take(&EndpointId::random(), to, &[binding("127.0.0.1", 0)]);
        let first = first.unwrap()[0].host_port;
        let range = Binding {
            host_port_last: Some(first + 20),
            ..binding("127.0.0.1", first)
        };
        let id = EndpointId::random();
        let mut taken = Vec::new();
        while let Ok(published) = table.take(&id, to, std::slice::from_ref(&range)) {
            assert!(published[0].is_one_of(&range));
            taken.push(published[0].host_port);
        }
        assert!(!taken.is_empty() && taken.is_sorted() && !taken.contains(&first));
        let error = table.take(&id, to, &[range]).unwrap_err().to_string();
        let last = first + 20;
        assert_eq!(
            error,
            format!("all host ports of the range {first}-{last} are taken: name another one")
        );
    }

    #[tokio::test]
    async fn another_programs_port_is_refused_and_nothing_is_kept() {
        let foreign = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = foreign.local_addr().unwrap().port();
        let mut table = PortTable::new(Handle::current());
        let to = container();
        let id = EndpointId::random();
        let error = table.take(
            &id,
            to,
            &[binding("127.0.0.1", 0), binding("127.0.0.1", port)],
        );
        let text = error.unwrap_err().to_string();
        assert!(
            text.contains("port is already allocated by another program"),
            "{text}"
        );
        assert!(table.held.is_empty());
    }

    #[test]
    fn overlap() {
        let (four, both) = (
            container(),
            DualStack {
                v6: Some("fd00::2".parse().unwrap()),
                ..container()
            },
        );
        let overlap = |a: (&str, DualStack), b: (&str, DualStack)| {
            let [a, b] = [a, b].map(|(host, to)| HostAddress::parse(host).unwrap().taken(to));
            a.overlaps(b)
        };
        assert!(overlap(("", four), ("10.0.0.1", four)));
        assert!(overlap(("0.0.0.0", four), ("", both)));
        assert!(!overlap(("10.0.0.1", four), ("10.0.0.2", four)));
        assert!(!overlap(("0.0.0.0", both), ("::", both)));
        assert!(overlap(("[::1]", both), ("::", four)));
        assert!(overlap(("", both), ("[2001:db8::1]", both)));
        assert!(!overlap(("", four), ("[2001:db8::1]", both)));
    }

    #[test]
    fn the_kernel_leads_all_but_the_hosts_own_loopback_of_ipv6() {
        let both = DualStack {
            v6: Some("fd00::2".parse().unwrap()),
            ..container()
        };
        let led = |host: &str, to: DualStack| -> Vec<String> {
            let published = Published {
                protocol: Protocol::Tcp,
                container_port: 80,
                host: HostAddress::parse(host).unwrap(),
                host_port: 3000,
                from: Limit::default(),
            };
            let said = |f: crate::firewall::Forward| match f.host {
                None => f.to.to_string(),
                Some(host) => format!("{host} {}", f.to),
            };
            published.forwards(to).map(said).collect()
        };
        assert_eq!(led("", both), ["172.17.0.2", "fd00::2"]);
        assert_eq!(led("", container()), ["172.17.0.2"]);
        assert_eq!(led("::", both), ["fd00::2"]);
        assert_eq!(led("2001:db8::1", both), ["2001:db8::1 fd00::2"]);
        assert!(led("::1", both).is_empty() && led("::", container()).is_empty());
    }
}
