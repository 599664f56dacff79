//! /etc/hosts, /etc/hostname and /etc/resolv.conf of a container.

use std::{fmt::Write as _, fs, io, path::Path};

use serde::{Deserialize, Serialize};
use slipway_proto::{netd::v1::Endpoint, runtime::v1::NetworkConfig};

use super::{merge::Effective, record::Record};

/// Writes the three files into the container's folder.
pub fn write(
    folder: &Path,
    effective: &Effective,
    domain: &str,
    network: &NetworkConfig,
    endpoints: &[Endpoint],
) -> io::Result<()> {
    fs::write(folder.join("hostname"), format!("{}\n", effective.hostname))?;
    fs::write(
        folder.join("hosts"),
        hosts(effective, domain, network, endpoints),
    )?;
    let resolv = match (way_out(endpoints), network.mode.as_str()) {
        (Some(endpoint), _) => of_endpoint(endpoint),
        (None, "host") => {
            let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
            as_the_host_s(&host, network)
        }
        (None, _) => resolv_conf(&network.dns, &network.dns_search, &network.dns_options),
    };
    fs::write(folder.join("resolv.conf"), resolv)
}

/// What is ours in the files of a container, by its networks; the rest is its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Own {
    /// Lines of /etc/hosts.
    hosts: Vec<String>,
    /// Name servers in /etc/resolv.conf.
    servers: Vec<String>,
}

impl Own {
    /// With these endpoints.
    pub fn of(record: &Record, endpoints: &[Endpoint]) -> Self {
        let (effective, domain) = (&record.effective, record.spec.domainname.as_str());
        let of = |endpoint| lines(effective, domain, endpoint);
        Self {
            hosts: endpoints.iter().flat_map(of).collect(),
            servers: way_out(endpoints).map_or_else(Vec::new, |e| e.nameservers.clone()),
        }
    }
}

/// Changes what is ours in the files of a container that runs. They are mounted in it: another file in their place
/// would not be seen.
pub fn renew(folder: &Path, before: &Own, after: &Own, endpoints: &[Endpoint]) -> io::Result<()> {
    let hosts = |text: &str| exchange(text, &before.hosts, &after.hosts);
    rewrite(&folder.join("hosts"), hosts)?;
    let has_servers = |text: &str| text.lines().any(|line| line.starts_with("nameserver"));
    rewrite(&folder.join("resolv.conf"), |text| {
        match way_out(endpoints) {
            // It was on no network before.
            Some(endpoint) if before.servers.is_empty() && !has_servers(text) => {
                of_endpoint(endpoint)
            }
            _ => {
                let lines = |servers: &[String]| -> Vec<String> {
                    servers.iter().map(|s| format!("nameserver {s}")).collect()
                };
                exchange(text, &lines(&before.servers), &lines(&after.servers))
            }
        }
    })
}

/// Lines that are no longer to be there give their place to those that are new; without such a place they come last.
/// Who took ours away has his reasons: what was there before comes back only by a start.
fn exchange(text: &str, before: &[String], after: &[String]) -> String {
    let goes = |line: &str| before.iter().any(|b| b == line) && !after.iter().any(|a| a == line);
    let has = |line: &String| text.lines().any(|there| there == line);
    let is_new = |line: &&String| !before.contains(line) && !has(line);
    let mut new: Vec<&str> = after.iter().filter(is_new).map(String::as_str).collect();
    let mut lines = Vec::new();
    for line in text.lines() {
        match goes(line) {
            true => lines.append(&mut new),
            false => lines.push(line),
        }
    }
    lines.append(&mut new);
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// In place, and never empty in between.
fn rewrite(file: &Path, change: impl FnOnce(&str) -> String) -> io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    let file = fs::File::options().read(true).write(true).open(file)?;
    let now = io::read_to_string(&file)?;
    let new = change(&now);
    if new != now {
        file.write_all_at(new.as_bytes(), 0)?;
        file.set_len(new.len() as u64)?;
    }
    Ok(())
}

/// The endpoint that leads out, or else the first: its resolver knows the names on all of them.
fn way_out(endpoints: &[Endpoint]) -> Option<&Endpoint> {
    let out = endpoints.iter().find(|e| e.default_route);
    out.or(endpoints.first())
}

fn of_endpoint(endpoint: &Endpoint) -> String {
    resolv_conf(
        &endpoint.nameservers,
        &endpoint.search,
        &endpoint.resolv_options,
    )
}

/// The host's own file with what the container has of its own.
fn as_the_host_s(host: &str, network: &NetworkConfig) -> String {
    let words = |key: &str| -> Vec<String> {
        let mut of_key = host.lines().filter_map(|line| line.strip_prefix(key));
        let last = of_key.rfind(|rest| rest.starts_with([' ', '\t']));
        let words = last.unwrap_or_default().split_whitespace();
        words.map(str::to_owned).collect()
    };
    let or = |own: &[String], other: Vec<String>| match own {
        [] => other,
        own => own.to_vec(),
    };
    if network.dns.is_empty() && network.dns_search.is_empty() && network.dns_options.is_empty() {
        return host.to_owned();
    }
    let servers = host
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver"));
    let servers = servers.map(|server| server.trim().to_owned()).collect();
    resolv_conf(
        &or(&network.dns, servers),
        &or(&network.dns_search, words("search")),
        &or(&network.dns_options, words("options")),
    )
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
    endpoints: &[Endpoint],
) -> String {
    let mut text =
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
        ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
            .to_owned();
    for entry in &network.extra_hosts {
        if let Some((name, address)) = entry.split_once([':', '=']) {
            let host = way_out(endpoints).map_or("127.0.0.1", |e| e.host_address.as_str());
            let address = if address == "host-gateway" {
                host
            } else {
                address.trim_matches(['[', ']'])
            };
            let _ = writeln!(text, "{address}\t{name}");
        }
    }
    for line in (endpoints.iter()).flat_map(|endpoint| lines(effective, domain, endpoint)) {
        let _ = writeln!(text, "{line}");
    }
    text
}

/// Its own name with its addresses on one network.
fn lines<'a>(
    effective: &'a Effective,
    domain: &str,
    endpoint: &'a Endpoint,
) -> impl Iterator<Item = String> + use<'a> {
    let full = if domain.is_empty() {
        String::new()
    } else {
        format!("{}.{domain} ", effective.hostname)
    };
    let addresses = [&endpoint.ipv4_address, &endpoint.ipv6_address];
    let has = addresses.into_iter().filter(|address| !address.is_empty());
    has.map(move |address| format!("{address}\t{full}{}", effective.hostname))
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
            host_address: "172.17.0.1".into(),
            ..Endpoint::default()
        };
        let other = Endpoint {
            ipv4_address: "172.18.0.2".into(),
            ipv6_address: "fd00::2".into(),
            ..Endpoint::default()
        };
        let text = hosts(&effective, "", &network, &[endpoint, other]);
        let lines =
            "10.0.0.5\tdb\n172.17.0.1\tme\n172.17.0.2\tweb\n172.18.0.2\tweb\nfd00::2\tweb\n";
        assert!(text.contains(lines), "{text}");
        assert_eq!(
            resolv_conf(&["1.1.1.1".into()], &["a".into(), "b".into()], &[]),
            "nameserver 1.1.1.1\nsearch a b\n"
        );
    }

    #[test]
    fn only_what_is_ours_is_exchanged() {
        let words = |all: &[&str]| -> Vec<String> { all.iter().map(|w| (*w).to_owned()).collect() };
        let exchanged = |text: &str, before: &[&str], after: &[&str]| {
            exchange(text, &words(before), &words(after))
        };
        assert_eq!(exchanged("mine\na\n", &["a"], &["a", "b"]), "mine\na\nb\n");
        assert_eq!(exchanged("a\nmine", &["a"], &["b"]), "b\nmine\n");
        assert_eq!(exchanged("a\nb\na b\n", &["a", "b"], &["b"]), "b\na b\n");
        // Done already, or taken out by its owner.
        assert_eq!(exchanged("a\nb\n", &["a"], &["a", "b"]), "a\nb\n");
        assert_eq!(exchanged("mine\n", &["a"], &["a", "b"]), "mine\nb\n");
    }

    #[test]
    fn files_that_are_mounted_stay_the_same_files() {
        use std::os::unix::fs::MetadataExt as _;
        let folder = tempfile::tempdir().unwrap();
        let (hosts, resolv) = (
            folder.path().join("hosts"),
            folder.path().join("resolv.conf"),
        );
        fs::write(
            &hosts,
            "127.0.0.1\tlocalhost\n10.0.0.2\tweb\n9.9.9.9 mine\n",
        )
        .unwrap();
        fs::write(
            &resolv,
            "nameserver 10.0.0.1\nnameserver 9.9.9.9\noptions mine\n",
        )
        .unwrap();
        let inode = |file| fs::metadata(file).unwrap().ino();
        let inodes = [inode(&hosts), inode(&resolv)];
        let own = |host: &str, server: &str| Own {
            hosts: vec![format!("{host}\tweb")],
            servers: vec![server.to_owned()],
        };
        let (before, after) = (own("10.0.0.2", "10.0.0.1"), own("10.1.0.2", "10.1.0.1"));
        renew(folder.path(), &before, &after, &[]).unwrap();
        let read = |file| fs::read_to_string(file).unwrap();
        assert_eq!(
            read(&hosts),
            "127.0.0.1\tlocalhost\n10.1.0.2\tweb\n9.9.9.9 mine\n"
        );
        assert_eq!(
            read(&resolv),
            "nameserver 10.1.0.1\nnameserver 9.9.9.9\noptions mine\n"
        );
        assert_eq!([inode(&hosts), inode(&resolv)], inodes);
    }

    #[test]
    fn the_host_s_resolvers_with_search_domains_of_ones_own() {
        let host = "# made by hand\nnameserver 192.0.2.1\nsearch a b\noptions ndots:2\n";
        let mut network = NetworkConfig::default();
        assert_eq!(as_the_host_s(host, &network), host);
        network.dns_search = vec!["c".into()];
        let text = "nameserver 192.0.2.1\nsearch c\noptions ndots:2\n";
        assert_eq!(as_the_host_s(host, &network), text);
    }
}
