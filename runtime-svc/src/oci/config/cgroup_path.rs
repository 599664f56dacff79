//! Where a container's groups are (`linux.cgroupsPath`).

use std::path::{Component, Path};

use crate::oci::Error;

/// The group that containers are in whose config.json does not say, or says a relative path.
const PARENT: &str = "slipway-oci";

/// The path below each tree's root, without a slash in front.
pub fn parse(path: Option<&Path>, id: &str, systemd: bool) -> Result<String, Error> {
    let given = path.map(|path| path.to_string_lossy().into_owned());
    let given = given.unwrap_or_default();
    if systemd {
        return slice(&given, id);
    }
    let refuse = |why: &str| Err(Error::Invalid(format!("cgroupsPath {given:?}: {why}")));
    if given.contains(['\0', '\n']) {
        return refuse("it holds a sign that no path may hold");
    }
    let mut parts = Vec::new();
    for part in Path::new(&given).components() {
        match part {
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            Component::ParentDir => return refuse("\"..\" is not allowed in it"),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if parts.is_empty() {
        if given.starts_with('/') {
            return refuse("a container cannot be in the root group");
        }
        return Ok(format!("{PARENT}/{id}"));
    }
    let path = parts.join("/");
    Ok(match given.starts_with('/') {
        true => path,
        false => format!("{PARENT}/{path}"),
    })
}

/// `slice:prefix:name`, the group where systemd would make its scope: `a-b.slice` is in `a.slice`
/// (systemd.slice(5)).
fn slice(given: &str, id: &str) -> Result<String, Error> {
    let refuse = |why: &str| {
        Err(Error::Invalid(format!(
            "cgroupsPath {given:?}: {why}; with --systemd-cgroup it is slice:prefix:name"
        )))
    };
    let default = format!("system.slice:slipway-oci:{id}");
    let text = if given.is_empty() { &default } else { given };
    let [slice, prefix, name] = text.split(':').collect::<Vec<_>>()[..] else {
        return refuse("it has not three parts");
    };
    let valid = |word: &str| {
        word.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.\\@".contains(&b))
    };
    if !valid(slice) || !valid(prefix) || !valid(name) || name.is_empty() {
        return refuse("a part is no name of a unit");
    }
    let slice = if slice.is_empty() {
        "system.slice"
    } else {
        slice
    };
    let scope = match prefix {
        "" => format!("{name}.scope"),
        prefix => format!("{prefix}-{name}.scope"),
    };
    let unit = if name.ends_with(".slice") {
        name.to_owned()
    } else {
        scope
    };
    match slice.strip_suffix(".slice") {
        Some("-") => Ok(unit),
        Some(words) if !words.is_empty() && words.split('-').all(|word| !word.is_empty()) => {
            let words: Vec<&str> = words.split('-').collect();
            let parents = (1..=words.len()).map(|n| format!("{}.slice", words[..n].join("-")));
            let path: Vec<String> = parents.chain([unit]).collect();
            Ok(path.join("/"))
        }
        _ => refuse("the first part is no slice"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_both_forms() {
        let plain =
            |path: &str| parse(Some(Path::new(path)), "id", false).map_err(|e| e.to_string());
        assert_eq!(plain("/docker/abc").unwrap(), "docker/abc");
        assert_eq!(plain("/a//b/./c/").unwrap(), "a/b/c");
        assert_eq!(plain("mine").unwrap(), "slipway-oci/mine");
        assert_eq!(parse(None, "id", false).unwrap(), "slipway-oci/id");
        for bad in ["/", "/a/../../b", "..", "/a\nb"] {
            assert!(plain(bad).is_err(), "{bad}");
        }
        let systemd =
            |path: &str| parse(Some(Path::new(path)), "id", true).map_err(|e| e.to_string());
        assert_eq!(
            systemd("machine.slice:libpod:abc").unwrap(),
            "machine.slice/libpod-abc.scope"
        );
        assert_eq!(
            systemd("user-1000.slice:docker:abc").unwrap(),
            "user.slice/user-1000.slice/docker-abc.scope"
        );
        assert_eq!(systemd("-.slice::abc").unwrap(), "abc.scope");
        assert_eq!(
            parse(None, "id", true).unwrap(),
            "system.slice/slipway-oci-id.scope"
        );
        for bad in [
            "/docker/abc",
            "a:b",
            "a.slice:b:../c",
            "x:y:z",
            "a--b.slice:p:n",
        ] {
            assert!(systemd(bad).is_err(), "{bad}");
        }
    }
}
