//! `-v`, `--mount` and `--tmpfs`.

use std::path::Path;

use slipway_proto::runtime::v1::Mount;

const PROPAGATION: &[&str] = &[
    "shared", "rshared", "slave", "rslave", "private", "rprivate",
];

/// `-v [SOURCE:]TARGET[:OPTIONS]`
pub fn volume(text: &str, here: &Path) -> Result<Mount, String> {
    let invalid = |why: &str| format!("invalid volume specification: '{text}': {why}");
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => ("", *target, ""),
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        _ => return Err(invalid("too many colons")),
    };
    if parts.len() > 1 && source.is_empty() {
        return Err(invalid("the source is empty"));
    }
    check_target(target).map_err(|why| invalid(&why))?;
    // docker's command line takes ./x and ../x as paths since 23.0; other words are volumes.
    let is_path = source.starts_with('/')
        || source == "."
        || source == ".."
        || source.starts_with("./")
        || source.starts_with("../");
    let mut mount = Mount {
        target: target.to_owned(),
        mode: options.to_owned(),
        ..Mount::default()
    };
    if is_path {
        mount.r#type = "bind".to_owned();
        mount.source = absolute(source, here);
        mount.create_source = true;
    } else {
        if source.contains('/') {
            return Err(invalid(&format!(
                "{source:?} includes invalid characters for a local volume name: if you intended to pass a host directory, use an absolute path"
            )));
        }
        mount.r#type = "volume".to_owned();
        mount.source = source.to_owned();
    }
    // One word of a kind, as docker has it (moby, linuxValidMountMode).
    let mut kinds = Vec::new();
    for option in options.split(',').filter(|o| !o.is_empty()) {
        let kind = match option {
            "ro" | "rw" => {
                mount.read_only = option == "ro";
                "rw"
            }
            // These mean something on macOS only.
            "consistent" | "cached" | "delegated" => "consistency",
            "z" | "Z" => {
                mount.relabel = option.to_owned();
                "label"
            }
            "nocopy" if !is_path => {
                mount.no_copy = true;
                "copy"
            }
            p if is_path && PROPAGATION.contains(&p) => {
                mount.propagation = p.to_owned();
                "propagation"
            }
            _ => return Err(invalid(&format!("invalid mode: {options}"))),
        };
        if kinds.contains(&kind) {
            return Err(invalid(&format!("invalid mode: {options}")));
        }
        kinds.push(kind);
    }
    Ok(mount)
}

/// `--mount type=bind,source=/x,target=/y,readonly`
pub fn mount(text: &str, here: &Path) -> Result<Mount, String> {
    let invalid = |why: String| format!("invalid argument {text:?} for \"--mount\" flag: {why}");
    let mut mount = Mount {
        r#type: "volume".to_owned(),
        long_form: true,
        ..Mount::default()
    };
    let mut recursively_read_only = false;
    let mut families: Vec<&str> = Vec::new();
    for field in fields(text).map_err(invalid)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value.to_owned())),
            None => (field.to_ascii_lowercase(), None),
        };
        // Words of Go's ParseBool.
        let flag = || match value.as_deref() {
            None | Some("true" | "1" | "t" | "T" | "TRUE" | "True") => Ok(true),
            Some("false" | "0" | "f" | "F" | "FALSE" | "False") => Ok(false),
            Some(other) => Err(invalid(format!("invalid value for {key}: {other}"))),
        };
        let need = || {
            value
                .clone()
                .ok_or_else(|| invalid(format!("invalid field '{field}' must be a key=value pair")))
        };
        let pair = || {
            let value = need()?;
            let (k, v) = value.split_once('=').unwrap_or((&value, ""));
            Ok::<_, String>((k.to_owned(), v.to_owned()))
        };
        for family in ["bind", "volume", "image", "tmpfs"] {
            if key.strip_prefix(family).is_some_and(|k| k.starts_with('-')) {
                families.push(family);
            }
        }
        match key.as_str() {
            "type" => mount.r#type = need()?.to_ascii_lowercase(),
            "source" | "src" => mount.source = need()?,
            "target" | "dst" | "destination" => mount.target = need()?,
            "readonly" | "ro" => mount.read_only = flag()?,
            "consistency" => drop(need()?),
            "bind-propagation" => {
                mount.propagation = need()?;
                if !PROPAGATION.contains(&mount.propagation.as_str()) {
                    return Err(invalid(format!(
                        "invalid propagation {}",
                        mount.propagation
                    )));
                }
            }
            "bind-nonrecursive" => mount.non_recursive = flag()?,
            "bind-create-src" => mount.create_source = flag()?,
            "bind-recursive" => match need()?.as_str() {
                "enabled" => {}
                "readonly" => recursively_read_only = true,
                "disabled" => mount.non_recursive = true,
                "writable" => mount.read_only_non_recursive = true,
                other => {
                    return Err(invalid(format!(
                        "invalid value for bind-recursive: {other} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
                    )));
                }
            },
            "volume-nocopy" => mount.no_copy = flag()?,
            "volume-driver" => mount.volume_driver = need()?,
            "volume-subpath" | "image-subpath" => mount.subpath = need()?,
            "volume-label" => {
                let (k, v) = pair()?;
                mount.volume_labels.insert(k, v);
            }
            "volume-opt" => {
                let (k, v) = pair()?;
                mount.volume_options.insert(k, v);
            }
            "tmpfs-size" => {
                mount.tmpfs_size = super::units::memory(&need()?)
                    .map_err(invalid)?
                    .unsigned_abs()
            }
            "tmpfs-mode" => {
                let value = need()?;
                mount.tmpfs_mode = u32::from_str_radix(&value, 8)
                    .map_err(|_| invalid(format!("invalid mode {value}")))?;
            }
            other => return Err(invalid(format!("unexpected key '{other}' in '{field}'"))),
        }
    }
    check_target(&mount.target).map_err(invalid)?;
    if let Some(family) = families.iter().find(|family| **family != mount.r#type) {
        let kind = &mount.r#type;
        return Err(invalid(format!(
            "cannot mix '{family}-*' options with mount type '{kind}'"
        )));
    }
    let together = |option: &str, other: &str| {
        Err(invalid(format!(
            "option 'bind-recursive={option}' requires '{other}' to be specified in conjunction"
        )))
    };
    if mount.read_only_non_recursive && !mount.read_only {
        return together("writable", "readonly");
    }
    // What is below a read-only bind is read-only anyway where the kernel can do it, and ours must.
    if recursively_read_only && !mount.read_only {
        return together("readonly", "readonly");
    }
    if recursively_read_only && mount.propagation != "rprivate" {
        return together("readonly", "bind-propagation=rprivate");
    }
    match mount.r#type.as_str() {
        "bind" | "image" if mount.source.is_empty() => {
            return Err(invalid(format!(
                "invalid mount config for type {:?}: field Source must not be empty",
                mount.r#type
            )));
        }
        // docker's command line makes only these absolute.
        "bind" if mount.source.starts_with('.') => {
            mount.source = absolute(&mount.source, here);
        }
        "tmpfs" if !mount.source.is_empty() => {
            return Err(invalid(
                "invalid mount config for type \"tmpfs\": field Source must not be specified"
                    .to_owned(),
            ));
        }
        "volume" | "tmpfs" | "image" | "bind" => {}
        other => {
            return Err(invalid(format!(
                "invalid mount config for type {other:?}: mount type unknown"
            )));
        }
    }
    Ok(mount)
}

/// `--tmpfs TARGET[:OPTIONS]`
pub fn tmpfs(text: &str) -> Result<Mount, String> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    check_target(target)?;
    Ok(Mount {
        r#type: "tmpfs".to_owned(),
        target: target.to_owned(),
        tmpfs_options: options.to_owned(),
        ..Mount::default()
    })
}

fn check_target(target: &str) -> Result<(), String> {
    match target {
        "" => Err("a target is required".to_owned()),
        "/" => Err("destination can't be '/'".to_owned()),
        path if !path.starts_with('/') => Err(format!(
            "invalid mount path: '{path}' mount path must be absolute"
        )),
        _ => Ok(()),
    }
}

fn absolute(path: &str, here: &Path) -> String {
    std::path::absolute(here.join(path))
        .unwrap_or_else(|_| here.join(path))
        .display()
        .to_string()
}

/// CSV with double quotes.
pub fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut out = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let last = out.len() - 1;
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                out[last].push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => out.push(String::new()),
            c => out[last].push(c),
        }
    }
    if quoted {
        return Err("a quote is not closed".to_owned());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes() {
        let here = Path::new("/here");
        let v = |text| volume(text, here).unwrap();
        assert_eq!(
            (v("/data").r#type.as_str(), v("/data").source.as_str()),
            ("volume", "")
        );
        assert_eq!(v("db:/data").source, "db");
        let bind = v("./src:/app:ro,rslave,z");
        assert_eq!(
            (
                bind.r#type.as_str(),
                bind.source.as_str(),
                bind.read_only,
                bind.propagation.as_str(),
                bind.relabel.as_str()
            ),
            ("bind", "/here/src", true, "rslave", "z")
        );
        assert!(bind.create_source);
        assert!(v("db:/data:nocopy").no_copy);
        for text in [
            "",
            ":/x",
            "a:b",
            "/a:/",
            "a/b:/c",
            "/a:/b:what",
            "/a:/b:ro:x",
            "/a:/b:nocopy",
            "v:/b:rshared",
            "/a:/b:ro,rw",
            "/a:/b:z,Z",
            "/a:/b:rshared,rslave",
        ] {
            assert!(volume(text, here).is_err(), "{text}");
        }
    }

    #[test]
    fn mounts() {
        let here = Path::new("/here");
        let m = mount(
            "type=bind,source=/a,target=/b,readonly,bind-propagation=rslave",
            here,
        )
        .unwrap();
        assert!(m.read_only && !m.create_source);
        let recursive =
            "type=bind,src=./a,dst=/b,ro=1,bind-recursive=readonly,bind-propagation=rprivate";
        assert_eq!(mount(recursive, here).unwrap().source, "/here/a");
        let m = mount("type=image,src=i,dst=/b,image-subpath=s", here).unwrap();
        assert_eq!((m.source.as_str(), m.subpath.as_str()), ("i", "s"));
        let m = mount("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1777", here).unwrap();
        assert_eq!((m.tmpfs_size, m.tmpfs_mode), (1 << 20, 0o1777));
        let m = mount("src=v,dst=/t,\"volume-opt=o=a,b\",volume-label=x=y", here).unwrap();
        assert_eq!(m.volume_options["o"], "a,b");
        assert_eq!(m.volume_labels["x"], "y");
        for text in [
            "type=bind,target=/b",
            "type=x,target=/b",
            "source=a",
            "target=/b,nope=1",
            "type=tmpfs,src=a,dst=/t",
            "target=/b,readonly=perhaps",
            "type=bind,src=/a,dst=/b,volume-nocopy",
            "type=tmpfs,dst=/b,bind-propagation=shared",
            "src=v,dst=/b,tmpfs-size=1",
            "type=bind,src=/a,dst=/b,bind-recursive=writable",
            "type=bind,src=/a,dst=/b,bind-recursive=readonly",
            "type=bind,src=/a,dst=/b,ro,bind-recursive=readonly",
            "type=bind,src=/a,dst=/b,bind-recursive=what",
        ] {
            assert!(mount(text, here).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(text in "[a-z/:=,\". -]{0,24}") {
            let here = Path::new("/");
            let _ = (volume(&text, here), mount(&text, here), tmpfs(&text));
        }
    }
}
