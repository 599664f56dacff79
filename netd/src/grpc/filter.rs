//! docker's filters of networks.

use slipway_proto::netd::v1::NetworkDetails;
use slipway_proto::types::v1::Filter;

use crate::error::Error;

/// Whether a network fits. Keys must all hold, values of a key are alternatives; but labels must all be there, and none
/// of those behind `label!`. `until` is a time in seconds, a fraction allowed.
///
/// `builtin` ones nobody made, and so they are never dangling.
pub(super) fn fits(
    network: &NetworkDetails,
    builtin: bool,
    filters: &[Filter],
) -> Result<bool, Error> {
    for filter in filters {
        let any = |test: &dyn Fn(&str) -> bool| filter.values.iter().any(|v| test(v));
        let held = match filter.key.as_str() {
            "name" => any(&|v| network.name.contains(v)),
            "id" => any(&|v| network.id.starts_with(v)),
            "driver" => any(&|v| v == network.driver),
            "scope" => any(&|v| v == network.scope),
            "type" => any(&|v| (v == "builtin") == builtin),
            "dangling" => {
                let dangling = !builtin && network.endpoints.is_empty();
                any(&|v| v.parse() == Ok(dangling))
            }
            "label" => filter.values.iter().all(|v| has_label(network, v)),
            "label!" => !any(&|v| has_label(network, v)),
            "until" => {
                let created = network.created.unwrap_or_default();
                let created = created.seconds as f64 + f64::from(created.nanos) / 1e9;
                let mut before = false;
                for value in &filter.values {
                    let seconds: f64 = value.parse().map_err(|_| {
                        Error::Invalid(format!("until={value:?} is not a time in seconds"))
                    })?;
                    before |= created < seconds;
                }
                before
            }
            key => {
                return Err(Error::Invalid(format!(
                    "invalid filter '{key}': use name, id, driver, scope, type, dangling, label or until"
                )));
            }
        };
        if !held {
            return Ok(false);
        }
    }
    Ok(true)
}

fn has_label(network: &NetworkDetails, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => network.labels.get(key).is_some_and(|v| v == value),
        None => network.labels.contains_key(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_dockers() {
        let network = NetworkDetails {
            id: "0123".to_owned(),
            name: "front".to_owned(),
            driver: "bridge".to_owned(),
            labels: [("a".to_owned(), "1".to_owned())].into(),
            ..NetworkDetails::default()
        };
        for (text, fit) in [
            ("name=ron", true),
            ("name=x", false),
            ("id=01", true),
            ("driver=host", false),
            ("type=custom", true),
            ("type=builtin", false),
            ("dangling=true", true),
            ("label=a", true),
            ("label=a=2", false),
            ("label!=a", false),
            ("until=1", true),
        ] {
            let (key, value) = match text.split_once("!=") {
                Some((key, value)) => (format!("{key}!"), value),
                None => {
                    let (key, value) = text.split_once('=').unwrap();
                    (key.to_owned(), value)
                }
            };
            let filter = Filter {
                key,
                values: vec![value.to_owned()],
            };
            assert_eq!(fits(&network, false, &[filter]).unwrap(), fit, "{text}");
        }
        let dangling = Filter {
            key: "dangling".to_owned(),
            values: vec!["true".to_owned()],
        };
        assert!(!fits(&network, true, &[dangling]).unwrap());
    }
}
