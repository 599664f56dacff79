//! Who has which host port: conflicts are found before anything starts.

use std::collections::BTreeMap;
use std::io;

use tokio::runtime::Handle;

use crate::error::Error;
use crate::id::EndpointId;
use crate::ipam::DualStack;

use super::relay::Relay;
use super::reserve::{Reservation, reserve};
use super::{Binding, HostAddress, Protocol, Published};

const EPHEMERAL: std::ops::RangeInclusive<u16> = 32768..=60999;

#[derive(Debug)]
struct Held {
    endpoint: EndpointId,
    published: Published,
    _reservation: Option<Reservation>,
    _relay: Option<Relay>,
}

/// All published ports of the host.
#[derive(Debug)]
pub struct PortTable {
    held: BTreeMap<(Protocol, u16), Vec<Held>>,
    runtime: Handle,
    next: u16,
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
            runtime,
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
            let result = match binding.host_port {
                0 => self.take_ephemeral(endpoint, to, binding),
                port => self.take_one(endpoint, to, binding, port),
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
        port: Published,
    ) -> Result<(), Error> {
        let binding = Binding {
            protocol: port.protocol,
            container_port: port.container_port,
            host: port.host,
            host_port: port.host_port,
        };
        let taken = self.take_one(endpoint, to, &binding, port.host_port);
        if taken.is_err() {
            let held = Held {
                endpoint: endpoint.clone(),
                published: port,
                _reservation: None,
                _relay: None,
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
                holders.retain(|held| held.endpoint != *endpoint || held.published != *port);
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
        Err(Error::PortsExhausted)
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
        if holders
            .iter()
            .any(|held| held.published.host.overlaps(binding.host))
        {
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
        let reservation = match binding.host.v4() {
            Some(address) => Some(reserve(binding.protocol, address, port).map_err(failed)?),
            None => None,
        };
        let relay = match binding.host.v6() {
            Some(address) if binding.protocol == Protocol::Tcp => {
                let to = (to.v4, binding.container_port);
                match Relay::start(&self.runtime, address, port, to) {
                    Ok(relay) => Some(relay),
                    // Hosts without IPv6, and programs that listen on ::1 alone, take nothing from
                    // those who ask for "all addresses": IPv4 is what they mean.
                    Err(error) if binding.host == HostAddress::Any => {
                        tracing::debug!(port, %error, "not relaying from ::1");
                        None
                    }
                    Err(error) => return Err(failed(error)),
                }
            }
            Some(_) if binding.host != HostAddress::Any => {
                return Err(Error::Unsupported(format!(
                    "{} on IPv6 host address {} cannot be published: publish it on an IPv4 address",
                    binding.protocol, binding.host
                )));
            }
            _ => None,
        };
        let published = Published {
            protocol: binding.protocol,
            container_port: binding.container_port,
            host: binding.host,
            host_port: port,
        };
        self.held.entry(key).or_default().push(Held {
            endpoint: endpoint.clone(),
            published,
            _reservation: reservation,
            _relay: relay,
        });
        Ok(published)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(host: &str, host_port: u16) -> Binding {
        let host = HostAddress::parse(host).unwrap();
        Binding {
            protocol: Protocol::Tcp,
            container_port: 80,
            host,
            host_port,
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
        }];
        table.give_back(&one, &mine);
        assert!(table.take(&two, to, &[binding("127.0.0.1", port)]).is_ok());
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
        let host = |text: &str| HostAddress::parse(text).unwrap();
        assert!(host("").overlaps(host("10.0.0.1")));
        assert!(host("0.0.0.0").overlaps(host("")));
        assert!(!host("10.0.0.1").overlaps(host("10.0.0.2")));
        assert!(!host("0.0.0.0").overlaps(host("::")));
        assert!(host("[::1]").overlaps(host("::")));
    }
}
