//! Which records are meant by `builder du --filter` and `builder prune`, and how many of them go.

use std::time::SystemTime;

use super::OnDisk;
use crate::error::{Error, Result};

/// Every one must hold; of several values of one, any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters {
    ids: Vec<String>,
    kinds: Vec<String>,
    descriptions: Vec<String>,
    /// Not used since.
    pub until: Option<SystemTime>,
    in_use: Option<bool>,
    shared: Option<bool>,
}

/// What kind of record this service's own files of contexts are.
pub const CONTEXTS: &str = "source.local";
/// What kind a cache mount is (BuildKit, client/diskusage.go).
pub const MOUNT: &str = "exec.cachemount";
/// What kind the result of a step is.
pub const REGULAR: &str = "regular";

impl Filters {
    /// Reads them.
    pub fn parse<'a>(filters: impl IntoIterator<Item = (&'a str, &'a [String])>) -> Result<Self> {
        let mut out = Self::default();
        for (key, values) in filters {
            for value in values {
                out.add(key, value)?;
            }
        }
        Ok(out)
    }

    fn add(&mut self, key: &str, value: &str) -> Result<()> {
        let truth = || crate::output::spec::truth(key, value);
        match key {
            "id" => self.ids.push(value.to_owned()),
            "type" => self.kinds.push(value.to_owned()),
            "description" => self.descriptions.push(value.to_owned()),
            "inuse" => self.in_use = Some(truth()?),
            "shared" => self.shared = Some(truth()?),
            "private" => self.shared = Some(!truth()?),
            // Records of one host's builders only; everything here can be made again.
            "until" | "unused-for" => {
                let seconds: i64 = value.parse().map_err(|_| {
                    Error::Invalid(format!("until={value:?} is not a time in seconds"))
                })?;
                let time = jiff::Timestamp::from_second(seconds)
                    .map_err(|e| Error::Invalid(format!("until={value}: {e}")))?;
                self.until = Some(time.into());
            }
            other => {
                return Err(Error::Unsupported(format!(
                    "the filter {other}={value} of the build cache is not supported: id, type, description, inuse, shared, private, until and unused-for are"
                )));
            }
        }
        Ok(())
    }

    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a cache mount can be meant: if not, nobody needs to ask the workers for them.
    pub fn want_mounts(&self) -> bool {
        self.kinds.is_empty() || self.kinds.iter().any(|k| k == MOUNT)
    }

    /// Whether a record is meant.
    pub fn match_record(&self, on_disk: &OnDisk) -> bool {
        let kind = match &on_disk.mount {
            Some(mount) => {
                // Dockerfiles know it by its own id.
                let known = self.ids.contains(&mount.id);
                if known {
                    let others = Self {
                        ids: Vec::new(),
                        ..self.clone()
                    };
                    return others.match_record(on_disk);
                }
                MOUNT
            }
            None => REGULAR,
        };
        self.matches(
            &on_disk.record.key,
            kind,
            &on_disk.record.step,
            on_disk.last_used,
            on_disk.in_use,
            on_disk.shared > 0,
        )
    }

    /// Whether the files of contexts are meant.
    pub fn match_contexts(&self) -> bool {
        let never = SystemTime::now();
        self.matches(
            "context-files",
            CONTEXTS,
            "files of build contexts",
            never,
            false,
            false,
        )
    }

    fn matches(
        &self,
        id: &str,
        kind: &str,
        description: &str,
        used: SystemTime,
        in_use: bool,
        shared: bool,
    ) -> bool {
        let any = |values: &[String], holds: &dyn Fn(&str) -> bool| {
            values.is_empty() || values.iter().any(|v| holds(v))
        };
        any(&self.ids, &|v| !v.is_empty() && id.starts_with(v))
            && any(&self.kinds, &|v| v == kind)
            && any(&self.descriptions, &|v| description.contains(v))
            && self.until.is_none_or(|until| used < until)
            && self.in_use.is_none_or(|wanted| wanted == in_use)
            && self.shared.is_none_or(|wanted| wanted == shared)
    }
}

/// What is to be pruned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prune {
    /// Only these.
    pub filters: Filters,
    /// So many bytes stay in any case: `--reserved-space`, `--keep-storage`.
    pub reserved: u64,
    /// Not more than so many stay, 0 = no such limit: `--max-used-space`.
    pub most: u64,
}

/// Those that go, the ones that were not used for the longest time first. What is in use stays.
/// How much stays is BuildKit's rule (cache/manager.go, `calculateKeepBytes`).
pub fn to_remove<'a>(records: &'a [OnDisk], prune: &Prune) -> Vec<&'a OnDisk> {
    let mut all: Vec<&OnDisk> = records.iter().collect();
    all.sort_by_key(|r| r.last_used);
    let mut total: u64 = all.iter().map(|r| r.record.size).sum();
    let keep = match (prune.most, prune.reserved) {
        (0, 0) => None,
        (most, reserved) => Some(most.max(reserved)),
    };
    let mut gone = Vec::new();
    for record in all {
        if keep.is_some_and(|keep| total <= keep) {
            break;
        }
        if !record.in_use && prune.filters.match_record(record) {
            total -= record.record.size;
            gone.push(record);
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cache::Listed;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn records() -> Vec<OnDisk> {
        [
            ("old", 5, 1, false),
            ("mid", 3, 2, false),
            ("new", 4, 3, true),
        ]
        .map(|(key, size, time, in_use)| OnDisk {
            record: Listed {
                key: key.to_owned(),
                step: format!("RUN {key}"),
                size,
                created: at(time),
            },
            bytes: size,
            shared: 0,
            last_used: at(time),
            uses: 0,
            in_use,
            mount: (key == "mid").then(|| crate::cache::Mount {
                worker: 0,
                id: "pip".to_owned(),
                whole: crate::cache::carried::MountId {
                    id: "/pip".to_owned(),
                    base: String::new(),
                },
            }),
        })
        .into()
    }

    fn filter(key: &str, value: &str) -> Filters {
        Filters::parse([(key, &[value.to_owned()][..])]).unwrap()
    }

    #[test]
    fn the_last_used_stay_and_what_is_in_use() {
        let on = |filters: Filters, reserved, most| {
            let prune = Prune {
                filters,
                reserved,
                most,
            };
            let records = records();
            let gone = to_remove(&records, &prune).into_iter();
            gone.map(|r| r.record.key.clone()).collect::<Vec<_>>()
        };
        assert_eq!(on(Filters::default(), 0, 0), ["old", "mid"]);
        assert_eq!(on(Filters::default(), 7, 0), ["old"]);
        assert_eq!(on(Filters::default(), 0, 12), [""; 0]);
        assert_eq!(on(Filters::default(), 8, 3), ["old"]);
        assert_eq!(on(filter("until", "2"), 0, 0), ["old"]);
        assert_eq!(on(filter("id", "mi"), 0, 0), ["mid"]);
        assert_eq!(on(filter("description", "old"), 0, 0), ["old"]);
        assert_eq!(on(filter("inuse", "true"), 0, 0), [""; 0]);
        assert_eq!(on(filter("type", "source.local"), 0, 0), [""; 0]);
        assert_eq!(on(filter("type", MOUNT), 0, 0), ["mid"]);
        assert_eq!(on(filter("type", REGULAR), 0, 0), ["old"]);
        assert_eq!(on(filter("id", "pip"), 0, 0), ["mid"]);
        assert_eq!(on(filter("id", "pi"), 0, 0), [""; 0]);
    }

    #[test]
    fn unknown_filters_are_refused() {
        for (key, value) in [("mutable", "true"), ("inuse", "maybe"), ("until", "24h")] {
            assert!(Filters::parse([(key, &[value.to_owned()][..])]).is_err());
        }
        assert!(filter("type", "source.local").match_contexts());
        assert!(!filter("type", "regular").match_contexts());
    }
}
