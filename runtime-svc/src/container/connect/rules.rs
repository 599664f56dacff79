//! What may be asked of a container's networks, by docker's rules.

use std::collections::BTreeSet;

use slipway_proto::runtime::v1::NetworkConfig;

use crate::{container::peers, error::Error, network::DEFAULT};

/// Checks what is asked for when a container is made.
pub fn check(network: Option<&NetworkConfig>) -> Result<(), Error> {
    let Some(network) = network else {
        return Ok(());
    };
    let refuse = |why: String| Err(Error::Invalid(why));
    if network.connected.is_some() {
        return refuse("the networks of a container are changed after it was made".to_owned());
    }
    let mode = match network.mode.as_str() {
        "" | "default" => DEFAULT,
        mode => mode,
    };
    let mut seen = BTreeSet::from([mode]);
    for more in &network.additional {
        let name = match more.network.as_str() {
            "default" => DEFAULT,
            name => name,
        };
        // docker's words (moby, runconfig/errors.go; cli, opts.go).
        if [mode, name].iter().any(|n| is_no_network(n)) {
            return refuse(
                "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
                    .to_owned(),
            );
        }
        if !seen.insert(name) {
            return refuse(format!("network \"{name}\" is specified multiple times"));
        }
    }
    Ok(())
}

/// What of it is left out: without a network of its own nothing is published.
pub fn warning(network: Option<&NetworkConfig>) -> Option<String> {
    let network = network.filter(|n| n.publish_all || !n.ports.is_empty())?;
    match network.mode.as_str() {
        mode @ ("host" | "none") => Some(format!(
            "Published ports are discarded when using {mode} network mode"
        )),
        _ => None,
    }
}

fn is_no_network(mode: &str) -> bool {
    matches!(mode, "host" | "none") || peers::of(mode).is_some()
}

/// What docker refuses, in its words (moby, runconfig/errors.go).
pub(super) fn may_change(config: &NetworkConfig, network: &str) -> Result<(), Error> {
    let refuse = |why: &str| Err(Error::Conflict(why.to_owned()));
    if config.mode == "host" || network == "host" {
        return refuse(
            "container cannot be disconnected from host network or connected to host network",
        );
    }
    if peers::of(&config.mode).is_some() {
        return refuse(
            "container sharing network namespace with another container or host cannot be connected to any other network",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use slipway_proto::runtime::v1::AdditionalNetwork;

    use super::*;

    fn config(mode: &str, more: &[&str]) -> NetworkConfig {
        let more = more.iter().map(|name| AdditionalNetwork {
            network: (*name).to_owned(),
            ..AdditionalNetwork::default()
        });
        NetworkConfig {
            mode: mode.to_owned(),
            additional: more.collect(),
            ..NetworkConfig::default()
        }
    }

    #[test]
    fn what_is_no_network_has_no_company_and_none_is_named_twice() {
        let check =
            |mode, more: &[&str]| check(Some(&config(mode, more))).map_err(|e| e.to_string());
        assert!(check("front", &["back", "bridge"]).is_ok());
        for (mode, more) in [
            ("host", "a"),
            ("none", "a"),
            ("a", "host"),
            ("a", "container:b"),
        ] {
            assert!(
                check(mode, &[more])
                    .unwrap_err()
                    .contains("cannot attach both")
            );
        }
        for (mode, more) in [("a", "a"), ("", "bridge"), ("bridge", "default")] {
            assert!(check(mode, &[more]).unwrap_err().contains("multiple times"));
        }
    }

    #[test]
    fn what_is_no_network_of_its_own_cannot_be_changed() {
        let may =
            |mode, network| may_change(&config(mode, &[]), network).map_err(|e| e.to_string());
        assert!(may("", "front").is_ok());
        assert!(may("host", "front").unwrap_err().contains("host network"));
        assert!(may("", "host").unwrap_err().contains("host network"));
        assert!(
            may("container:a", "front")
                .unwrap_err()
                .contains("sharing network namespace")
        );
    }
}
