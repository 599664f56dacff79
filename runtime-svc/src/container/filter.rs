//! docker's filters of containers (moby, daemon/list.go and daemon/prune.go).

use std::sync::Arc;

use regex::Regex;
use slipway_image::Reference;

use super::{
    manager::Manager,
    state::{Container, Status},
};
use crate::error::Error;

/// What `ps` filters by.
const LIST: [&str; 15] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "isolation",
    "is-task",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];
/// What `container prune` filters by.
const PRUNE: [&str; 3] = ["label", "label!", "until"];
const STATES: [&str; 7] = [
    "created",
    "dead",
    "exited",
    "paused",
    "removing",
    "restarting",
    "running",
];

/// docker's word for a state.
pub const fn word(status: &Status) -> &'static str {
    match status {
        Status::Created => "created",
        Status::Running { paused: false, .. } => "running",
        Status::Running { paused: true, .. } => "paused",
        Status::Restarting { .. } => "restarting",
        Status::Ending { .. } | Status::Exited { .. } => "exited",
        Status::Removed => "removing",
    }
}

/// One key with its values, of which one must fit.
#[derive(Debug)]
enum Test {
    Id(Vec<Regex>),
    Name(Vec<Regex>),
    Status(Vec<String>),
    Health(Vec<String>),
    Exited(Vec<i32>),
    Ancestor(Vec<String>),
    /// Made before (or after) these.
    Before(Vec<(u64, String)>),
    Since(Vec<(u64, String)>),
    /// All of them must fit.
    Labels(Vec<String>),
    /// None of them may.
    NotLabels(Vec<String>),
    Network(Vec<String>),
    Volume(Vec<String>),
    Expose(Vec<Ports>),
    Publish(Vec<Ports>),
    /// Made before this, nanoseconds since the epoch.
    Until(u64),
    Never,
}

/// `80`, `80/udp`, `8000-8010/tcp`
#[derive(Debug, PartialEq, Eq)]
struct Ports {
    first: u16,
    last: u16,
    protocol: String,
}

impl Ports {
    fn parse(text: &str) -> Option<Self> {
        let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        let known = matches!(protocol, "tcp" | "udp" | "sctp");
        (known && first <= last).then(|| Self {
            first,
            last,
            protocol: protocol.to_owned(),
        })
    }

    fn has(&self, port: u32, protocol: &str) -> bool {
        (u32::from(self.first)..=u32::from(self.last)).contains(&port) && self.protocol == protocol
    }
}

/// Which containers are wanted: all keys must hold.
#[derive(Debug)]
pub struct Filters(Vec<Test>);

impl Filters {
    /// Filters of a list. Containers that they name are looked up now.
    pub fn list(
        manager: &Manager,
        filters: impl IntoIterator<Item = (String, Vec<String>)>,
    ) -> Result<Self, Error> {
        Self::new(filters, &LIST, |name| manager.find(name))
    }

    /// Filters of `container prune`.
    pub fn prune(filters: impl IntoIterator<Item = (String, Vec<String>)>) -> Result<Self, Error> {
        Self::new(filters, &PRUNE, |name| {
            Err(Error::NoSuchContainer(name.to_owned()))
        })
    }

    fn new(
        filters: impl IntoIterator<Item = (String, Vec<String>)>,
        known: &[&str],
        find: impl Fn(&str) -> Result<Arc<Container>, Error>,
    ) -> Result<Self, Error> {
        let tests = filters.into_iter().map(|(key, values)| {
            if known.contains(&&*key) {
                test(&key, values, &find)
            } else {
                Err(Error::Invalid(format!("invalid filter '{key}'")))
            }
        });
        Ok(Self(tests.collect::<Result<_, _>>()?))
    }

    /// Whether a filter asks for containers that do not run, which are not shown without.
    pub fn shows_stopped(&self) -> bool {
        self.0
            .iter()
            .any(|t| matches!(t, Test::Status(_) | Test::Exited(_)))
    }

    /// Whether this one is wanted.
    pub fn pass(&self, container: &Container) -> bool {
        self.0.iter().all(|test| test.holds(container))
    }
}

fn test(
    key: &str,
    values: Vec<String>,
    find: &impl Fn(&str) -> Result<Arc<Container>, Error>,
) -> Result<Test, Error> {
    let invalid = |value: &str| Error::Invalid(format!("invalid filter '{key}={value}'"));
    let patterns = || {
        values
            .iter()
            .map(|v| Regex::new(v.trim_start_matches('/')).map_err(|_| invalid(v)))
            .collect::<Result<Vec<_>, _>>()
    };
    let known = |words: &[&str]| match values.iter().find(|v| !words.contains(&v.as_str())) {
        Some(value) => Err(invalid(value)),
        None => Ok(values.clone()),
    };
    let others = || {
        values
            .iter()
            .map(|v| Ok((find(v)?.record().created, find(v)?.id.clone())))
            .collect::<Result<Vec<_>, Error>>()
    };
    let ports = || {
        values
            .iter()
            .map(|v| Ports::parse(v).ok_or_else(|| invalid(v)))
            .collect::<Result<Vec<_>, _>>()
    };
    Ok(match key {
        "id" => Test::Id(patterns()?),
        "name" => Test::Name(patterns()?),
        "status" => Test::Status(known(&STATES)?),
        "health" => Test::Health(known(&["none", "starting", "healthy", "unhealthy"])?),
        "exited" => Test::Exited(
            values
                .iter()
                .map(|v| v.parse().map_err(|_| invalid(v)))
                .collect::<Result<_, _>>()?,
        ),
        "ancestor" => Test::Ancestor(values),
        "before" => Test::Before(others()?),
        "since" => Test::Since(others()?),
        "label" => Test::Labels(values),
        "label!" => Test::NotLabels(values),
        "network" => Test::Network(values),
        "volume" => Test::Volume(values),
        "expose" => Test::Expose(ports()?),
        "publish" => Test::Publish(ports()?),
        "until" => match values.as_slice() {
            [one] => Test::Until(seconds(one).ok_or_else(|| invalid(one))?),
            _ => {
                return Err(Error::Invalid(
                    "more than one until filter specified".to_owned(),
                ));
            }
        },
        "is-task" => {
            return Err(Error::Unsupported(
                "the filter is-task: there is no swarm here, so that filter".to_owned(),
            ));
        }
        // "isolation" is for Windows: docker shows nothing then.
        _ => Test::Never,
    })
}

/// Unix seconds with a fraction as nanoseconds: what the caller makes of any form of time.
fn seconds(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let nanos: u64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    whole
        .parse::<u64>()
        .ok()?
        .checked_mul(1_000_000_000)?
        .checked_add(nanos)
}

impl Test {
    fn holds(&self, container: &Container) -> bool {
        let record = container.record();
        let status = container.status();
        let made = || (record.created, record.id.clone());
        let label = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => record.effective.labels.get(key).is_some_and(|l| l == value),
            None => record.effective.labels.contains_key(wanted),
        };
        match self {
            Self::Id(patterns) => patterns.iter().any(|p| p.is_match(&record.id)),
            Self::Name(patterns) => patterns.iter().any(|p| p.is_match(&record.name)),
            Self::Status(words) => words.iter().any(|w| w == word(&status)),
            Self::Health(words) => {
                let now = container.health().map_or("none", |h| h.state.word());
                words.iter().any(|w| w == now)
            }
            Self::Exited(codes) => match status {
                Status::Ending { record } | Status::Exited { record } => {
                    codes.contains(&record.code)
                }
                _ => false,
            },
            Self::Ancestor(images) => images
                .iter()
                .any(|i| is_image(i, &record.spec.image, &record.image_id)),
            Self::Before(others) => others.iter().any(|other| made() < *other),
            Self::Since(others) => others.iter().any(|other| made() > *other),
            Self::Labels(wanted) => wanted.iter().all(label),
            Self::NotLabels(unwanted) => !unwanted.iter().any(label),
            Self::Network(names) => {
                let on = container.networks();
                let endpoints = container.endpoints();
                let has_id = |n: &str| endpoints.iter().any(|e| e.network_id.starts_with(n));
                names.iter().any(|n| on.contains(n) || has_id(n))
            }
            Self::Volume(names) => record
                .spec
                .mounts
                .iter()
                .any(|m| names.iter().any(|n| *n == m.source || *n == m.target)),
            Self::Expose(ports) => record.effective.exposed.iter().any(|exposed| {
                Ports::parse(exposed).is_some_and(|e| {
                    (e.first..=e.last)
                        .any(|port| ports.iter().any(|p| p.has(port.into(), &e.protocol)))
                })
            }),
            Self::Publish(ports) => container.endpoints().iter().any(|endpoint| {
                endpoint.ports.iter().any(|published| {
                    let protocol = match published.protocol().as_str_name() {
                        "UDP" => "udp",
                        "SCTP" => "sctp",
                        _ => "tcp",
                    };
                    // docker compares the port inside and the one outside.
                    ports.iter().any(|p| {
                        p.has(published.container_port, protocol)
                            || p.has(published.host_port, protocol)
                    })
                })
            }),
            Self::Until(time) => record.created <= *time,
            Self::Never => false,
        }
    }
}

/// Whether somebody who says `asked` means the image that is called `name` and has this id.
fn is_image(asked: &str, name: &str, id: &str) -> bool {
    let hex = |text: &str| text.trim_start_matches("sha256:").to_owned();
    let whole = |text: &str| {
        text.parse::<Reference>()
            .map(|r| r.with_default_tag().to_string())
    };
    asked == name
        || asked.len() >= 4 && hex(id).starts_with(&hex(asked))
        || matches!((whole(asked), whole(name)), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(key: &str, value: &str) -> String {
        let filters = [(key.to_owned(), vec![value.to_owned()])];
        let nobody = |name: &str| Err(Error::NoSuchContainer(name.to_owned()));
        Filters::new(filters, &LIST, nobody)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn what_no_container_can_be_is_refused_in_dockers_words() {
        assert_eq!(refused("nonsense", "x"), "invalid filter 'nonsense'");
        assert_eq!(refused("status", "x"), "invalid filter 'status=x'");
        assert_eq!(refused("exited", "x"), "invalid filter 'exited=x'");
        assert_eq!(refused("health", "x"), "invalid filter 'health=x'");
        assert_eq!(refused("publish", "9-1"), "invalid filter 'publish=9-1'");
        assert_eq!(refused("before", "x"), "No such container: x");
        assert!(refused("is-task", "true").contains("is-task"));
        let two = [("until".to_owned(), vec!["1".to_owned(), "2".to_owned()])];
        assert!(Filters::prune(two).is_err());
    }

    #[test]
    fn images_by_any_of_their_names() {
        let id = "sha256:0123456789abcdef";
        for asked in [
            "goals",
            "goals:latest",
            "docker.io/library/goals",
            "0123",
            "sha256:01234567",
        ] {
            assert!(is_image(asked, "goals", id), "{asked}");
        }
        for asked in ["goals:1", "goal", "x/goals", "012"] {
            assert!(!is_image(asked, "goals", id), "{asked}");
        }
    }

    #[test]
    fn ports_and_times() {
        let range = Ports::parse("80-90/udp").unwrap();
        assert!(range.has(85, "udp") && !range.has(85, "tcp") && !range.has(91, "udp"));
        assert_eq!(Ports::parse("80").unwrap().protocol, "tcp");
        assert_eq!(Ports::parse("80/what"), None);
        assert_eq!(seconds("1.5"), Some(1_500_000_000));
        assert_eq!(seconds("10m"), None);
    }
}
