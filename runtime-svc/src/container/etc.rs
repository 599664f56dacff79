//! /etc/hosts, /etc/hostname and /etc/resolv.conf of a container.

use std::{fmt::Write as _, fs, io, path::Path};

use slipway_proto::{netd::v1::Endpoint, runtime::v1::NetworkConfig};

use super::merge::Effective;

/// Writes the three files into the container's folder.
pub fn write(
    folder: &Path,
    effective: &Effective,
    domain: &str,
    network: &NetworkConfig,
    endpoint: Option<&Endpoint>,
) -> io::Result<()> {
    fs::write(folder.join("hostname"), format!("{}\n", effective.hostname))?;
    fs::write(
        folder.join("hosts"),
        hosts(effective, domain, network, endpoint),
    )?;
    let resolv = match (endpoint, network.mode.as_str()) {
        (Some(endpoint), _) => resolv_conf(
            &endpoint.nameservers,
            &endpoint.search,
            &endpoint.resolv_options,
        ),
        (None, "host") if network.dns.is_empty() => {
            fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
        }
        (None, _) => resolv_conf(&network.dns, &network.dns_search, &network.dns_options),
    };
    fs::write(folder.join("resolv.conf"), resolv)
}

/// For a container that shares another's network: the three files are the other's, now and later.
pub fn share(folder: &Path, with: &Path) -> io::Result<()> {
    for name in ["hostname", "hosts", "resolv.conf"] {
        let file = folder.join(name);
        match fs::remove_file(&file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        std::os::unix::fs::symlink(with.join(name), file)?;
    }
    Ok(())
}

fn resolv_conf(nameservers: &[String], search: &[String], options: &[String]) -> String {
    let mut text = String::new();
    for server in nameservers {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "nameserver {server}");
    }
    for (key, words) in [("search", search), ("options", options)] {
        if !words.is_empty() && words != ["."] {
            let _ = writeln!(text, "{key} {}", words.join(" "));
        }
    }
    text
}

fn hosts(
    effective: &Effective,
    domain: &str,
    network: &NetworkConfig,
    endpoint: Option<&Endpoint>,
) -> String {
    let mut text =
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
        ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
            .to_owned();
    for entry in &network.extra_hosts {
        if let Some((name, address)) = entry.split_once([':', '=']) {
            let gateway = endpoint.map_or("127.0.0.1", |e| e.ipv4_gateway.as_str());
            let address = if address == "host-gateway" {
                gateway
            } else {
                address.trim_matches(['[', ']'])
            };
            let _ = writeln!(text, "{address}\t{name}");
        }
    }
    if let Some(endpoint) = endpoint {
        let full = if domain.is_empty() {
            String::new()
        } else {
            format!("{}.{domain} ", effective.hostname)
        };
        let own = [&endpoint.ipv4_address, &endpoint.ipv6_address];
        for address in own.into_iter().filter(|address| !address.is_empty()) {
            let _ = writeln!(text, "{address}\t{full}{}", effective.hostname);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_say_what_docker_writes() {
        let effective = Effective {
            hostname: "web".into(),
            ..Effective::default()
        };
        let network = NetworkConfig {
            extra_hosts: vec!["db:10.0.0.5".into(), "me:host-gateway".into()],
            ..NetworkConfig::default()
        };
        let endpoint = Endpoint {
            ipv4_address: "172.17.0.2".into(),
            ipv4_gateway: "172.17.0.1".into(),
            ipv6_address: "fd00::2".into(),
            ..Endpoint::default()
        };
        let text = hosts(&effective, "", &network, Some(&endpoint));
        assert!(
            text.contains("10.0.0.5\tdb\n172.17.0.1\tme\n172.17.0.2\tweb\nfd00::2\tweb\n"),
            "{text}"
        );
        assert_eq!(
            resolv_conf(&["1.1.1.1".into()], &["a".into(), "b".into()], &[]),
            "nameserver 1.1.1.1\nsearch a b\n"
        );
    }
}
