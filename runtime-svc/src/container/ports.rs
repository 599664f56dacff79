//! `-P`: exposed ports, each published on a port of the host that netd chooses.

use slipway_proto::netd::v1::{PortBinding, Protocol};

use super::record::Record;

/// All ports that a container is to have.
pub fn asked(record: &Record) -> Vec<PortBinding> {
    let config = record.spec.network.as_ref();
    let mut ports = config.map_or_else(Vec::new, |n| n.ports.clone());
    if let Some(config) = config.filter(|n| n.publish_all) {
        let mut more = publish_all(&record.effective.exposed, &ports);
        for port in &mut more {
            port.allow_from.clone_from(&config.publish_from);
        }
        ports.extend(more);
    }
    ports
}

/// Bindings for what is exposed (`80/tcp`, `1000-1010/udp`) and not published yet.
fn publish_all(exposed: &[String], published: &[PortBinding]) -> Vec<PortBinding> {
    let mut all = Vec::new();
    for text in exposed {
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol {
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => Protocol::Tcp,
        };
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        // An image may declare nonsense: there is nothing to publish then.
        let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) else {
            continue;
        };
        for port in first..=last {
            let same = |p: &PortBinding| {
                p.container_port == u32::from(port)
                    && (p.protocol() == protocol
                        || (protocol == Protocol::Tcp && p.protocol() == Protocol::Unspecified))
            };
            if !published.iter().chain(&all).any(same) {
                all.push(PortBinding {
                    protocol: protocol.into(),
                    container_port: port.into(),
                    ..PortBinding::default()
                });
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_exposed_is_published_once() {
        let explicit = PortBinding {
            container_port: 80,
            host_port: 8080,
            ..PortBinding::default()
        };
        let exposed = ["80/tcp", "53/udp", "90-91/tcp", "90", "x/tcp"].map(str::to_owned);
        let made: Vec<_> = publish_all(&exposed, &[explicit])
            .iter()
            .map(|p| (p.container_port, p.protocol(), p.host_port))
            .collect();
        assert_eq!(
            made,
            [
                (53, Protocol::Udp, 0),
                (90, Protocol::Tcp, 0),
                (91, Protocol::Tcp, 0)
            ]
        );
    }
}
