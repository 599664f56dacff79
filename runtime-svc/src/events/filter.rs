//! docker's filters of events (moby, daemon/events/filter.go).

use super::Happening;
use crate::error::Error;

/// Filters that docker knows. Those of swarms and plugins are refused: nothing would ever pass them.
const KEYS: [&str; 9] = [
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "scope",
    "type",
    "volume",
];

/// Which events somebody wants to hear of. Values of a key are alternatives, all keys must hold.
#[derive(Debug, Clone, Default)]
pub struct Filters(Vec<(String, Vec<String>)>);

impl Filters {
    /// Checked.
    pub fn new(filters: impl IntoIterator<Item = (String, Vec<String>)>) -> Result<Self, Error> {
        let filters: Vec<_> = filters.into_iter().collect();
        match filters.iter().find(|(key, _)| !KEYS.contains(&&**key)) {
            Some((key, _)) => Err(Error::Invalid(format!("invalid filter '{key}'"))),
            None => Ok(Self(filters)),
        }
    }

    /// Whether this one is wanted.
    pub fn pass(&self, event: &Happening) -> bool {
        self.0.iter().all(|(key, values)| holds(event, key, values))
    }
}

fn holds(event: &Happening, key: &str, values: &[String]) -> bool {
    let any = |test: &dyn Fn(&str) -> bool| values.iter().any(|v| test(v));
    let attribute = |name: &str| event.attributes.get(name).map(String::as_str);
    match key {
        "type" => any(&|v| v == event.kind),
        // docker: "exec_create" also means "exec_create: sh -c ...".
        "event" => any(&|v| {
            let short = matches!(v, "health_status" | "exec_create" | "exec_start");
            event.action == v || short && event.action.starts_with(v)
        }),
        "container" | "volume" | "network" => any(&|v| {
            event.kind == key
                && (event.id.starts_with(v) || attribute("name").is_some_and(|n| n == v))
                // What happens to a network or volume names the container that it happens for.
                || attribute(key).is_some_and(|of| of.starts_with(v))
        }),
        "image" => {
            let name = attribute(if event.kind == "image" {
                "name"
            } else {
                "image"
            });
            any(&|v| {
                event.kind == "image" && event.id == v
                    || name.is_some_and(|n| n == v || without_tag(n) == v)
            })
        }
        "label" => values.iter().all(|v| match v.split_once('=') {
            Some((key, value)) => attribute(key) == Some(value),
            None => attribute(v).is_some(),
        }),
        // One host, one service: "local" is all there is.
        "scope" => any(&|v| v == "local"),
        "daemon" => event.kind == "daemon" && any(&|v| event.id.starts_with(v)),
        _ => false,
    }
}

fn without_tag(image: &str) -> &str {
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => image,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(filters: &[(&str, &[&str])], event: &Happening) -> bool {
        let owned = filters.iter().map(|(k, v)| {
            let values = v.iter().map(|v| (*v).to_owned()).collect();
            ((*k).to_owned(), values)
        });
        Filters::new(owned).unwrap().pass(event)
    }

    #[test]
    fn filters_are_dockers() {
        let event = Happening {
            time: 1,
            kind: "container",
            action: "exec_create: sh -c true".into(),
            id: "abcdef".into(),
            attributes: [
                ("name", "web"),
                ("image", "h:5000/goals:1"),
                ("tier", "front"),
            ]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
        };
        for (filters, passed) in [
            (
                &[("type", &["container"] as &[&str])] as &[(&str, &[&str])],
                true,
            ),
            (&[("type", &["network", "container"])], true),
            (&[("type", &["network"])], false),
            (&[("event", &["exec_create"])], true),
            (&[("event", &["exec_create: sh -c true"])], true),
            (&[("event", &["exec"])], false),
            (&[("container", &["web"])], true),
            (&[("container", &["we"])], false),
            (&[("container", &["abc"])], true),
            (&[("container", &["x"])], false),
            (&[("image", &["h:5000/goals"])], true),
            (&[("image", &["h:5000/goals:1"])], true),
            (&[("image", &["goals"])], false),
            (&[("label", &["tier"])], true),
            (&[("label", &["tier=front", "tier=back"])], false),
            (&[("type", &["container"]), ("event", &["die"])], false),
            (&[("scope", &["local"])], true),
        ] {
            assert_eq!(passes(filters, &event), passed, "{filters:?}");
        }
        assert!(Filters::new([("nonsense".to_owned(), vec![])]).is_err());
    }
}
