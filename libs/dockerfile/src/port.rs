//! The words of EXPOSE.

/// `8000-8002/udp` as the config's keys.
pub fn exposed(word: &str) -> Result<Vec<String>, String> {
    let invalid = || format!("invalid containerPort: {word}: write PORT[-PORT][/tcp|/udp|/sctp]");
    // The host's part of `-p` is allowed and ignored, as docker does.
    let word = word.rsplit(':').next().unwrap_or(word);
    let (ports, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(invalid());
    }
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last): (u16, u16) = match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first > 0 && first <= last => (first, last),
        _ => return Err(invalid()),
    };
    Ok((first..=last).map(|p| format!("{p}/{protocol}")).collect())
}
