//! The words of EXPOSE (BuildKit's `dockerfile2llb/convert_expose.go`).

use std::net::IpAddr;

/// `8000-8002/udp` as the config's keys.
pub fn exposed(word: &str) -> Result<Vec<String>, String> {
    // The host's part of `-p` is allowed and ignored, as docker does; the linter speaks of it.
    let mut parts = word.rsplitn(3, ':');
    let container = parts.next().unwrap_or_default();
    let (host, address) = (parts.next().unwrap_or_default(), parts.next());
    let (ports, protocol) = container.split_once('/').unwrap_or((container, ""));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "" => "tcp".to_owned(),
        known @ ("tcp" | "udp" | "sctp") => known.to_owned(),
        _ => return Err(format!("invalid port: {word:?}: invalid proto: {protocol}")),
    };
    if let Some(address) = address.filter(|a| !a.is_empty()) {
        let plain = address
            .strip_prefix('[')
            .and_then(|a| a.strip_suffix(']'))
            .unwrap_or(address);
        if plain.parse::<IpAddr>().is_err() {
            return Err(format!("invalid IP address: {address}"));
        }
    }
    let (first, last) = range(ports).ok_or_else(|| {
        format!("invalid containerPort: {ports}: write PORT[-PORT][/tcp|/udp|/sctp]")
    })?;
    if !host.is_empty() {
        let (from, to) = range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
        if to - from != last - first && last != first {
            return Err(format!(
                "invalid ranges specified for container and host Ports: {ports} and {host}"
            ));
        }
    }
    Ok((first..=last).map(|p| format!("{p}/{protocol}")).collect())
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_expose() {
        for (word, expected) in [
            ("80", Some("80/tcp")),
            ("80/UDP", Some("80/udp")),
            ("80/", Some("80/tcp")),
            ("8000-8002/sctp", Some("8000/sctp 8001/sctp 8002/sctp")),
            ("8080:80", Some("80/tcp")),
            ("127.0.0.1:8080:80/udp", Some("80/udp")),
            ("[::1]:8080:80", Some("80/tcp")),
            ("1-2:80", Some("80/tcp")),
            ("1-3:80-81", None),
            ("x:80", None),
            ("a.b:1:80", None),
            ("80/x", None),
            ("", None),
            ("82-80", None),
            ("65536", None),
            ("-1", None),
        ] {
            let found = exposed(word).ok().map(|p| p.join(" "));
            assert_eq!(found.as_deref(), expected, "{word}");
        }
    }
}
