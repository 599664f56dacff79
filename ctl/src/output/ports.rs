//! The PORTS column: in docker's order, neighbouring ports as one range.

use slipway_proto::netd::v1::PortBinding;

use crate::cli::container::protocol;

/// A port as docker's API lists it; `host` is nothing for one that is only exposed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Port {
    inside: u32,
    address: String,
    host: u32,
    protocol: String,
}

/// "443/tcp, 0.0.0.0:3000->80/tcp, [::]:3000->80/tcp": ports kept by their number come first, as ranges
/// where they can, then those that have another number outside.
pub fn column(published: &[PortBinding], exposed: &[String]) -> String {
    let mut groups: Vec<Group> = Vec::new();
    let (mut ranges, mut mapped) = (Vec::new(), Vec::new());
    for port in all(published, exposed) {
        if !port.address.is_empty() && port.host != port.inside {
            let outside = joined(&port.address, port.host);
            mapped.push(format!("{outside}->{}/{}", port.inside, port.protocol));
            continue;
        }
        let key = (port.address, port.protocol);
        match groups.iter_mut().find(|g| g.key == key) {
            Some(group) if port.inside == group.last + 1 => group.last = port.inside,
            Some(group) => {
                ranges.push(group.text());
                (group.first, group.last) = (port.inside, port.inside);
            }
            None => groups.push(Group {
                key,
                first: port.inside,
                last: port.inside,
            }),
        }
    }
    ranges.extend(groups.iter().map(Group::text));
    ranges.extend(mapped);
    ranges.join(", ")
}

/// The host's addresses that a port is published on. "Every address" docker lists by version of IP: that of IPv6 is
/// there where the container has IPv6.
pub fn addresses(port: &PortBinding) -> Vec<&str> {
    match port.host_address.as_str() {
        "" if port.covers_ipv6 => vec!["0.0.0.0", "::"],
        "" => vec!["0.0.0.0"],
        one => vec![one],
    }
}

struct Group {
    /// Address and protocol.
    key: (String, String),
    first: u32,
    last: u32,
}

impl Group {
    fn text(&self) -> String {
        let ports = if self.first == self.last {
            self.first.to_string()
        } else {
            format!("{}-{}", self.first, self.last)
        };
        match &self.key {
            (address, protocol) if address.is_empty() => format!("{ports}/{protocol}"),
            (address, protocol) => format!("{}->{ports}/{protocol}", joined(address, &ports)),
        }
    }
}

/// Everything there is, by number.
fn all(published: &[PortBinding], exposed: &[String]) -> Vec<Port> {
    let mut ports = Vec::new();
    for port in published {
        ports.extend(addresses(port).into_iter().map(|address| Port {
            inside: port.container_port,
            address: address.to_owned(),
            host: port.host_port,
            protocol: protocol(port),
        }));
    }
    for text in exposed {
        let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) else {
            continue;
        };
        for inside in u32::from(first)..=u32::from(last) {
            if !ports
                .iter()
                .any(|p| p.inside == inside && p.protocol == protocol)
            {
                ports.push(Port {
                    inside,
                    address: String::new(),
                    host: 0,
                    protocol: protocol.to_owned(),
                });
            }
        }
    }
    ports.sort();
    ports
}

/// An address with a port.
pub fn joined(address: &str, port: impl std::fmt::Display) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(address: &str, host: u32, inside: u32) -> PortBinding {
        PortBinding {
            container_port: inside,
            host_port: host,
            host_address: address.into(),
            protocol: 1,
            ..PortBinding::default()
        }
    }

    fn exposed(ports: &[&str]) -> Vec<String> {
        ports.iter().map(|p| (*p).to_owned()).collect()
    }

    #[test]
    fn as_docker_orders_them() {
        assert_eq!(
            column(&[], &exposed(&["443/tcp", "80/tcp"])),
            "80/tcp, 443/tcp"
        );
        assert_eq!(
            column(&[bound("", 3000, 80)], &exposed(&["443/tcp", "80/tcp"])),
            "443/tcp, 0.0.0.0:3000->80/tcp"
        );
        let both = PortBinding {
            covers_ipv6: true,
            ..bound("", 3000, 80)
        };
        assert_eq!(
            column(&[both], &exposed(&["443/tcp", "80/tcp"])),
            "443/tcp, 0.0.0.0:3000->80/tcp, [::]:3000->80/tcp"
        );
        assert_eq!(
            column(
                &[bound("127.0.0.1", 81, 81), bound("127.0.0.1", 80, 80)],
                &[]
            ),
            "127.0.0.1:80-81->80-81/tcp"
        );
        assert_eq!(
            column(
                &[bound("", 80, 80)],
                &exposed(&["53/udp", "9000-9002/tcp", "9010"])
            ),
            "9000-9002/tcp, 53/udp, 0.0.0.0:80->80/tcp, 9010/tcp"
        );
        assert_eq!(column(&[], &[]), "");
    }
}
