//! Which ids of the host a container gets: one map for all by the setting `userns_remap`, as docker's
//! `userns-remap`, or ranges of its own by `--userns=auto`, as podman's.

use std::{
    fs,
    sync::{Arc, Mutex, PoisonError},
};

use slipway_proto::runtime::v1::ContainerSpec;

use super::manager::Manager;
use crate::{
    error::Error,
    executor::plan::{IdRange, UserMap},
};

/// Ids that nobody else uses: systemd leaves 0x70000000 to 0x7ffeffff free (systemd.io, UIDS-GIDS).
const FREE: IdRange = IdRange {
    inside: 0,
    host: 0x7000_0000,
    size: 0x0fff_0000,
};
/// How many ids a container gets: all that 16 bits can say, as docker's default.
const USUAL: u32 = 65_536;
/// Whose lines in /etc/subuid and /etc/subgid count when nothing else is said.
const OWNER: &str = "slipway";

/// The ranges of this host.
#[derive(Debug, Clone)]
pub struct UserNamespaces {
    remap: Option<UserMap>,
    pool: IdRange,
    /// Taken by containers that are being made.
    pending: Arc<Mutex<Vec<IdRange>>>,
}

/// A map that is nobody else's while this lives.
#[derive(Debug)]
pub struct Granted {
    /// The map.
    pub map: UserMap,
    taken: Option<(IdRange, UserNamespaces)>,
}

impl Drop for Granted {
    fn drop(&mut self) {
        if let Some((range, all)) = &self.taken {
            all.lock().retain(|other| other != range);
        }
    }
}

impl UserNamespaces {
    /// From the settings: `default`, `USER[:GROUP]` of /etc/subuid and /etc/subgid, `range:FIRST:COUNT`.
    pub fn new(remap: Option<&str>, pool: Option<&str>) -> Result<Self, String> {
        let remap = match remap.unwrap_or_default() {
            "" | "none" => None,
            text => Some(parse(text)?),
        };
        // Behind the range that is "default".
        let rest = IdRange {
            host: FREE.host + USUAL,
            size: FREE.size - USUAL,
            ..FREE
        };
        let pool = match pool {
            None => rest,
            Some(text) => {
                let map = parse(text)?;
                match (&*map.uids, &*map.gids) {
                    ([users], [groups]) if users == groups => *users,
                    _ => {
                        return Err(format!(
                            "userns_pool {text:?}: users and groups must be the same one range"
                        ));
                    }
                }
            }
        };
        Ok(Self {
            remap,
            pool,
            pending: Arc::default(),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<IdRange>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A range of the pool that nobody has.
    fn take(&self, size: u32, used: impl Fn() -> Vec<IdRange>) -> Result<Granted, Error> {
        let mut pending = self.lock();
        let mut used = used();
        used.extend(pending.iter());
        let range = free(self.pool, &used, size).ok_or_else(|| {
            Error::Conflict(format!(
                "--userns auto: {size} ids in a row are not free any more: remove containers, or set userns_pool in runtime.toml"
            ))
        })?;
        pending.push(range);
        drop(pending);
        Ok(Granted {
            map: UserMap {
                uids: vec![range],
                gids: vec![range],
            },
            taken: Some((range, self.clone())),
        })
    }
}

impl Manager {
    /// Whether containers have other ids unless they ask for the host's.
    pub fn remaps_ids(&self) -> bool {
        self.0.user_namespaces.remap.is_some()
    }

    /// The map of a container that is being made; `None` = the host's ids.
    pub(super) fn grant_ids(&self, spec: &ContainerSpec) -> Result<Option<Granted>, Error> {
        let all = &self.0.user_namespaces;
        let size = match spec.userns_mode.as_str() {
            "host" => return Ok(None),
            "" => {
                let Some(map) = &all.remap else {
                    return Ok(None);
                };
                conflicts(spec)?;
                return Ok(Some(Granted {
                    map: map.clone(),
                    taken: None,
                }));
            }
            "auto" => USUAL,
            mode => mode
                .strip_prefix("auto:size=")
                .and_then(|size| size.parse().ok())
                .filter(|size| *size > 0)
                .ok_or_else(|| {
                    Error::Invalid(format!(
                        "--userns: invalid USER mode {mode:?}: it is \"host\", \"auto\" or \"auto:size=COUNT\""
                    ))
                })?,
        };
        conflicts(spec)?;
        let used = || {
            let all = self.all();
            let maps = all.iter().filter_map(|c| c.record().user_map);
            maps.flat_map(|map| map.uids.into_iter().chain(map.gids))
                .collect()
        };
        all.take(size, used).map(Some)
    }
}

/// What cannot be together with other ids, in docker's words (moby, daemon_unix.go).
fn conflicts(spec: &ContainerSpec) -> Result<(), Error> {
    let network = spec.network.as_ref().map(|n| n.mode.as_str());
    let sentence = if spec.privileged {
        "privileged mode is incompatible with user namespaces. You must run the container in the host namespace when running privileged mode"
    } else if network == Some("host") {
        "cannot share the host's network namespace when user namespaces are enabled"
    } else if spec.pid_mode == "host" {
        "cannot share the host PID namespace when user namespaces are enabled"
    } else {
        return Ok(());
    };
    Err(Error::Invalid(sentence.to_owned()))
}

/// The first gap of that size.
fn free(pool: IdRange, used: &[IdRange], size: u32) -> Option<IdRange> {
    let end = |range: &IdRange| u64::from(range.host) + u64::from(range.size);
    let fits = |first: u64| {
        let last = first + u64::from(size);
        first >= u64::from(pool.host)
            && last <= end(&pool)
            && used
                .iter()
                .all(|range| last <= u64::from(range.host) || first >= end(range))
    };
    let candidates = std::iter::once(u64::from(pool.host)).chain(used.iter().map(end));
    let host = candidates.filter(|first| fits(*first)).min()?;
    Some(IdRange {
        inside: 0,
        host: u32::try_from(host).ok()?,
        size,
    })
}

fn parse(text: &str) -> Result<UserMap, String> {
    if let Some(range) = text.strip_prefix("range:") {
        let range = range
            .split_once(':')
            .and_then(|(host, size)| Some((host.parse().ok()?, size.parse().ok()?)))
            .filter(|(host, size): &(u32, u32)| *host > 0 && *size > 0)
            .filter(|(host, size)| host.checked_add(*size).is_some())
            .ok_or_else(|| format!("{text:?} is not range:FIRST:COUNT"))?;
        let (host, size) = range;
        return Ok(same(IdRange {
            inside: 0,
            host,
            size,
        }));
    }
    let (user, group) = text.split_once(':').unwrap_or((text, text));
    let (user, group) = match text {
        "default" => (OWNER, OWNER),
        _ => (user, group),
    };
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let uids = subordinate(&read("/etc/subuid"), &names(user, &read("/etc/passwd")))?;
    let gids = subordinate(&read("/etc/subgid"), &names(group, &read("/etc/group")))?;
    match (uids.is_empty(), gids.is_empty()) {
        (false, false) => Ok(UserMap { uids, gids }),
        (true, true) if text == "default" => Ok(same(IdRange {
            size: USUAL,
            ..FREE
        })),
        (no_users, _) => {
            let (path, name) = match no_users {
                true => ("/etc/subuid", user),
                false => ("/etc/subgid", group),
            };
            Err(format!(
                "{path} has no ids for {name}: add a line such as {name}:100000:65536"
            ))
        }
    }
}

fn same(range: IdRange) -> UserMap {
    UserMap {
        uids: vec![range],
        gids: vec![range],
    }
}

/// A name and its number, whichever is given: /etc/subuid may have either.
fn names(word: &str, file: &str) -> Vec<String> {
    let mut names = vec![word.to_owned()];
    for line in file.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(id)) = (fields.next(), fields.nth(1)) {
            if name == word {
                names.push(id.to_owned());
            } else if id == word {
                names.push(name.to_owned());
            }
        }
    }
    names
}

/// All ranges of somebody (subuid(5)), one after the other inside.
fn subordinate(file: &str, names: &[String]) -> Result<Vec<IdRange>, String> {
    let mut inside = 0u32;
    let mut ranges = Vec::new();
    for line in file.lines() {
        let fields: Vec<&str> = line.trim().split(':').collect();
        let [name, host, size] = fields[..] else {
            continue;
        };
        if !names.iter().any(|n| n == name) {
            continue;
        }
        let broken = || format!("{line:?} is no range of ids");
        let (host, size): (u32, u32) = match (host.parse(), size.parse()) {
            (Ok(host), Ok(size)) => (host, size),
            _ => return Err(broken()),
        };
        ranges.push(IdRange { inside, host, size });
        inside = inside.checked_add(size).ok_or_else(broken)?;
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn range(inside: u32, host: u32, size: u32) -> IdRange {
        IdRange { inside, host, size }
    }

    #[test]
    fn ranges_come_from_the_settings() {
        assert_eq!(parse("range:5000:10").unwrap(), same(range(0, 5000, 10)));
        for wrong in ["range:0:10", "range:5", "range:4294967295:2", "range:a:b"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        let file = "# no\nme:100:10\nother:7:7\n1000:500:5\n";
        let found = subordinate(file, &names("me", "me:x:1000:1000::/:\n")).unwrap();
        assert_eq!(found, [range(0, 100, 10), range(10, 500, 5)]);
        assert!(subordinate("me:x:5\n", &["me".into()]).is_err());
        assert_eq!(names("1000", "me:x:1000:\n"), ["1000", "me"]);
        let all = UserNamespaces::new(None, None).unwrap();
        assert!(all.remap.is_none() && all.pool.host > FREE.host);
    }

    #[test]
    fn every_container_gets_ids_of_its_own() {
        let all = UserNamespaces::new(None, Some("range:100:30")).unwrap();
        let none = Vec::new;
        let first = all.take(10, none).unwrap();
        let second = all.take(10, none).unwrap();
        assert_eq!(first.map.uids, [range(0, 100, 10)]);
        assert_eq!(second.map.uids, [range(0, 110, 10)]);
        drop(first);
        let used = || vec![range(0, 95, 7)];
        assert_eq!(all.take(8, used).unwrap().map.uids, [range(0, 102, 8)]);
        assert!(all.take(20, none).is_err());
        drop(second);
        assert!(all.take(30, none).is_ok());
    }

    #[test]
    fn what_needs_the_hosts_ids_is_refused_in_dockers_words() {
        let spec = ContainerSpec {
            privileged: true,
            ..ContainerSpec::default()
        };
        let why = conflicts(&spec).unwrap_err().to_string();
        assert!(why.starts_with("privileged mode is incompatible with user namespaces"));
        assert!(conflicts(&ContainerSpec::default()).is_ok());
    }
}
