//! `-p`: docker's port grammar.

use std::net::IpAddr;

use ipnet::IpNet;
use slipway_proto::netd::v1::{PortBinding, Protocol};

/// `[[ADDRESS:]HOST_PORT[-END]:]CONTAINER_PORT[-END][/PROTOCOL]`, also docker's long form.
pub fn publish(text: &str) -> Result<Vec<PortBinding>, String> {
    let invalid = |why: &str| format!("invalid publish {text:?}: {why}");
    let long;
    let short = if text.contains('=') {
        long = long_form(text)?;
        long.as_str()
    } else {
        text
    };
    let (rest, protocol) = protocol_of(short).map_err(|why| invalid(&why))?;
    let (rest, container) = match rest.rsplit_once(':') {
        Some((rest, container)) => (Some(rest), container),
        None => (None, rest),
    };
    let (address, host) = match rest {
        None => ("", ""),
        Some(rest) => split_address(rest).map_err(|why| invalid(&why))?,
    };
    if !address.is_empty() && address.parse::<IpAddr>().is_err() {
        return Err(invalid(&format!("{address:?} is not an IP address")));
    }
    let (first, last) = range(container).map_err(|why| invalid(&why))?;
    let count = last - first;
    let hosts = match host {
        "" => None,
        host => Some(range(host).map_err(|why| invalid(&why))?),
    };
    if let Some((from, to)) = hosts
        && count > 0
        && to - from != count
    {
        return Err(invalid(
            "the ranges of host and container ports differ in length",
        ));
    }
    // One of a range for a single port inside: which one is found out where it is taken.
    let one_of = hosts.filter(|(from, to)| count == 0 && to > from);
    Ok((0..=count)
        .map(|n| PortBinding {
            protocol: protocol.into(),
            container_port: u32::from(first + n),
            host_address: address.to_owned(),
            host_port: hosts.map_or(0, |(from, _)| u32::from(from + n)),
            host_port_last: one_of.map_or(0, |(_, to)| to.into()),
            ..PortBinding::default()
        })
        .collect())
}

/// `--publish-from`: checked, passed on as written.
pub fn clients(texts: &[String]) -> Result<Vec<String>, String> {
    for text in texts {
        if text.parse::<IpNet>().is_err() && text.parse::<IpAddr>().is_err() {
            return Err(format!(
                "invalid range of clients {text:?} for --publish-from: write 10.0.0.0/8, 2001:db8::/32 or an address"
            ));
        }
    }
    Ok(texts.to_vec())
}

/// `--expose`: checked, passed on as written.
pub fn expose(text: &str) -> Result<String, String> {
    let (ports, protocol) = protocol_of(text)?;
    range(ports).map_err(|why| format!("invalid range format for --expose: {text}: {why}"))?;
    Ok(format!("{ports}/{}", protocol.as_str_name().to_lowercase()))
}

fn protocol_of(text: &str) -> Result<(&str, Protocol), String> {
    let Some((rest, name)) = text.split_once('/') else {
        return Ok((text, Protocol::Tcp));
    };
    Ok((
        rest,
        match name.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            other => return Err(format!("invalid proto: {other}")),
        },
    ))
}

fn split_address(text: &str) -> Result<(&str, &str), String> {
    if let Some(v6) = text.strip_prefix('[') {
        let (address, rest) = v6.split_once(']').ok_or("missing ']'")?;
        let host = rest
            .strip_prefix(':')
            .ok_or("a port must follow the address")?;
        return Ok((address, host));
    }
    Ok(text.rsplit_once(':').unwrap_or(("", text)))
}

fn range(text: &str) -> Result<(u16, u16), String> {
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => Err(format!("invalid port {text:?}")),
    };
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let (from, to) = (port(from)?, port(to)?);
    if from > to {
        return Err(format!("the range {text} runs backwards"));
    }
    Ok((from, to))
}

/// `published=8080,target=80,protocol=tcp`
fn long_form(text: &str) -> Result<String, String> {
    let (mut published, mut target, mut protocol) =
        (String::new(), String::new(), "tcp".to_owned());
    for part in text.split(',') {
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| format!("invalid field {part}"))?;
        match key.trim().to_ascii_lowercase().as_str() {
            "published" => published = format!("{value}:"),
            "target" => value.clone_into(&mut target),
            "protocol" => value.clone_into(&mut protocol),
            "mode" if value == "host" || value == "ingress" => {}
            _ => return Err(format!("invalid field key {key}")),
        }
    }
    Ok(format!("{published}{target}/{protocol}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        publish(text)
            .unwrap_or_else(|e| panic!("{e}"))
            .iter()
            .map(|p| {
                format!(
                    "{}|{}|{}|{}",
                    p.host_address,
                    p.host_port,
                    p.container_port,
                    p.protocol().as_str_name()
                )
            })
            .collect()
    }

    #[test]
    fn every_form() {
        for (text, first) in [
            ("80", "|0|80|TCP"),
            ("3000:80", "|3000|80|TCP"),
            ("53:53/udp", "|53|53|UDP"),
            ("127.0.0.1:3000:80", "127.0.0.1|3000|80|TCP"),
            ("127.0.0.1::80", "127.0.0.1|0|80|TCP"),
            ("[::1]:3000:80", "::1|3000|80|TCP"),
            ("::1:3000:80", "::1|3000|80|TCP"),
            ("[::]::80/sctp", "::|0|80|SCTP"),
            ("published=8080,target=80,protocol=udp", "|8080|80|UDP"),
            ("target=80", "|0|80|TCP"),
        ] {
            assert_eq!(shown(text), [first], "{text}");
        }
        assert_eq!(shown("7000-7001:80-81"), ["|7000|80|TCP", "|7001|81|TCP"]);
        assert_eq!(shown("8000-9000:80"), ["|8000|80|TCP"]);
        assert_eq!(publish("8000-9000:80").unwrap()[0].host_port_last, 9000);
        assert_eq!(publish("7000-7001:80-81").unwrap()[0].host_port_last, 0);
        assert_eq!(shown("80-81"), ["|0|80|TCP", "|0|81|TCP"]);
    }

    #[test]
    fn bad_ones_are_refused() {
        for text in [
            "",
            ":",
            "a",
            "0",
            "65536",
            "1:2:3:4",
            "host:1:2",
            "80/icmp",
            "9-8",
            "3-1:80",
            "1-3:80-81",
            "+80",
            "[::1:80:80",
        ] {
            assert!(publish(text).is_err(), "{text}");
        }
        for text in ["", "lan", "10.0.0.0/33", "10.0.0.0/8:80"] {
            assert!(clients(&[text.to_owned()]).is_err(), "{text}");
        }
        assert_eq!(expose("80").unwrap(), "80/tcp");
        assert_eq!(expose("80-90/udp").unwrap(), "80-90/udp");
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(text in "[0-9a-f:./\\[\\]=,-]{0,20}") {
            let _ = publish(&text);
        }
        #[test]
        fn pairs_are_read(host in 1u16.., container in 1u16..) {
            let ports = publish(&format!("{host}:{container}")).unwrap();
            proptest::prop_assert_eq!((ports[0].host_port, ports[0].container_port), (host.into(), container.into()));
        }
    }
}
