//! Mounts of config.json as the executor's.

use std::path::Path;

use oci_spec::runtime::Mount as Asked;

use super::{
    idmap,
    mount_options::{self, Words},
};
use crate::{
    executor::plan::{Mount, MountSource, UserMap},
    oci::Error,
};

/// All of them, in their order. Maps of their own are added to `mappings`.
pub fn all(
    asked: &[Asked],
    user: Option<&UserMap>,
    mappings: &mut Vec<UserMap>,
) -> Result<Vec<Mount>, Error> {
    asked
        .iter()
        .map(|mount| one(mount, user, mappings))
        .collect()
}

fn one(asked: &Asked, user: Option<&UserMap>, mappings: &mut Vec<UserMap>) -> Result<Mount, Error> {
    let target = target(asked.destination())?;
    let refuse = |why: &str| Error::Invalid(format!("mounts: {target}: {why}"));
    let words = mount_options::parse(asked.options().as_deref().unwrap_or_default())
        .map_err(|why| refuse(&why))?;
    let kind = asked.typ().as_deref().unwrap_or_default();
    let bind = match (words.bind, kind) {
        (Some(recursive), _) => Some(recursive),
        (None, "bind") => Some(false),
        (None, "rbind") => Some(true),
        _ => None,
    };
    let source = match (bind, kind) {
        (Some(_), _) => MountSource::Bind(match asked.source() {
            Some(source) if source.is_absolute() => source.clone(),
            _ => {
                return Err(refuse(
                    "the source of a bind mount must be an absolute path",
                ));
            }
        }),
        (None, "") => return Err(refuse("it has no type")),
        (None, "cgroup" | "cgroup2") => MountSource::Cgroups {
            writable: words.attributes.0 & libc::MOUNT_ATTR_RDONLY == 0,
            own: true,
        },
        (None, kind) => MountSource::Filesystem {
            kind: kind.to_owned(),
            options: options(asked, kind, &words, user),
        },
    };
    if words.copy_up && kind != "tmpfs" {
        return Err(refuse("tmpcopyup is for a tmpfs"));
    }
    if bind.is_some() && !words.data.is_empty() && asked.typ().as_deref() != Some("bind") {
        let (word, _) = &words.data[0];
        return Err(refuse(&format!(
            "option {word} means nothing to a bind mount"
        )));
    }
    let mapping = mapping(asked, &words, user, mappings).map_err(|e| refuse(&e.to_string()))?;
    Ok(Mount {
        attributes: words.attributes.0,
        cleared: words.attributes.1,
        deep: words.deep,
        recursive: bind == Some(true),
        only_top: true,
        propagation: words.propagation,
        keep_mode: kind == "tmpfs" && bind.is_none(),
        mapping,
        copy_up: words.copy_up,
        ..Mount::new(target, source)
    })
}

/// Always inside: ".." is resolved as in a root (config.md, "Mounts"; relative ones are taken from the root).
fn target(destination: &Path) -> Result<String, Error> {
    let text = destination
        .to_str()
        .filter(|text| !text.is_empty() && !text.contains('\0'))
        .ok_or_else(|| Error::Invalid(format!("mounts: destination {destination:?} is no path")))?;
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    if parts.is_empty() {
        return Err(Error::Invalid(format!(
            "mounts: {text}: mounting upon the root is not supported"
        )));
    }
    Ok(format!("/{}", parts.join("/")))
}

/// A new file system's own options, numbers of owners as the host's, and its name.
fn options(
    asked: &Asked,
    kind: &str,
    words: &Words,
    user: Option<&UserMap>,
) -> Vec<(String, Option<String>)> {
    let mut options = words.data.clone();
    // An instance is always new since Linux 4.7, and the new mount API does not know the word.
    options.retain(|(key, _)| !(kind == "devpts" && key == "newinstance"));
    for (key, value) in &mut options {
        let number = value.as_ref().and_then(|value| value.parse().ok());
        let (Some(map), Some(number)) = (user, number) else {
            continue;
        };
        let mapped = match key.as_str() {
            "uid" => map.uid(number),
            "gid" => map.gid(number),
            _ => None,
        };
        if let Some(mapped) = mapped {
            *value = Some(mapped.to_string());
        }
    }
    let name = asked
        .source()
        .as_ref()
        .map(|source| source.to_string_lossy().into_owned());
    if let Some(name) = name.filter(|name| !name.is_empty()) {
        options.insert(0, ("source".to_owned(), Some(name)));
    }
    options
}

/// config.md: `idmap` takes the mount's own map, or the container's.
fn mapping(
    asked: &Asked,
    words: &Words,
    user: Option<&UserMap>,
    mappings: &mut Vec<UserMap>,
) -> Result<Option<(usize, bool)>, Error> {
    let own = idmap::map(
        asked.uid_mappings().as_deref(),
        asked.gid_mappings().as_deref(),
    )?;
    let map = match (words.idmap, own) {
        (None, None) => return Ok(None),
        (_, Some(own)) => own,
        (Some(_), None) => user
            .cloned()
            .ok_or_else(|| Error::invalid("idmap without uidMappings and gidMappings"))?,
    };
    let number = mappings
        .iter()
        .position(|known| *known == map)
        .unwrap_or_else(|| {
            mappings.push(map);
            mappings.len() - 1
        });
    Ok(Some((number, words.idmap.unwrap_or(false))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(json: &str) -> Result<Mount, String> {
        let asked: Asked = serde_json::from_str(json).map_err(|e| e.to_string())?;
        one(&asked, None, &mut Vec::new()).map_err(|e| e.to_string())
    }

    #[test]
    fn destinations_stay_inside() {
        assert_eq!(target(Path::new("/a/../../b/./c//")).unwrap(), "/b/c");
        assert_eq!(target(Path::new("proc")).unwrap(), "/proc");
        for bad in ["", "/", "..", "/a/.."] {
            assert!(target(Path::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn sources_are_told_apart() {
        let made = mount(r#"{"destination":"/proc","type":"proc","source":"proc"}"#).unwrap();
        assert!(matches!(made.source, MountSource::Filesystem { ref kind, .. } if kind == "proc"));
        let made =
            mount(r#"{"destination":"/x","type":"none","source":"/y","options":["rbind","ro"]}"#)
                .unwrap();
        assert!(made.recursive && made.only_top && made.attributes == libc::MOUNT_ATTR_RDONLY);
        let made =
            mount(r#"{"destination":"/sys/fs/cgroup","type":"cgroup","options":["ro"]}"#).unwrap();
        assert_eq!(
            made.source,
            MountSource::Cgroups {
                writable: false,
                own: true
            }
        );
        for bad in [
            r#"{"destination":"/x","type":"bind","source":"y","options":["bind"]}"#,
            r#"{"destination":"/x"}"#,
            r#"{"destination":"/x","type":"proc","options":["tmpcopyup"]}"#,
            r#"{"destination":"/x","type":"bind","source":"/y","options":["idmap"]}"#,
        ] {
            assert!(mount(bad).is_err(), "{bad}");
        }
    }
}
