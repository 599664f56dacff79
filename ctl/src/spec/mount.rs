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
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option {
            "ro" => mount.read_only = true,
            // "rw" is the default; the consistency words mean something on macOS only, as docker has it.
            "rw" | "consistent" | "cached" | "delegated" => {}
            "z" | "Z" => mount.relabel = option.to_owned(),
            "nocopy" if !is_path => mount.no_copy = true,
            p if is_path && PROPAGATION.contains(&p) => mount.propagation = p.to_owned(),
            other => return Err(invalid(&format!("invalid mode: {other}"))),
        }
    }
    Ok(mount)
}

/// `--mount type=bind,source=/x,target=/y,readonly`
pub fn mount(text: &str, here: &Path) -> Result<Mount, String> {
    let invalid = |why: String| format!("invalid argument {text:?} for --mount: {why}");
    let mut mount = Mount {
        r#type: "volume".to_owned(),
        ..Mount::default()
    };
    let mut recursively_read_only = false;
    for field in fields(text).map_err(invalid)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value.to_owned())),
            None => (field.to_ascii_lowercase(), None),
        };
        let flag = || match value.as_deref() {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
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
                        "invalid value for bind-recursive: {other}"
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
    // What is below a read-only bind is read-only anyway where the kernel can do it, and ours must.
    if recursively_read_only && !(mount.r#type == "bind" && mount.read_only) {
        return Err(invalid(
            "option 'bind-recursive=readonly' requires a bind with 'readonly'".to_owned(),
        ));
    }
    match mount.r#type.as_str() {
        "bind" if mount.source.is_empty() => {
            return Err(invalid("a bind needs a source".to_owned()));
        }
        "bind" => mount.source = absolute(&mount.source, here),
        "image" if mount.source.is_empty() => {
            return Err(invalid("an image mount needs a source".to_owned()));
        }
        "tmpfs" if !mount.source.is_empty() => {
            return Err(invalid("a tmpfs has no source".to_owned()));
        }
        "volume" | "tmpfs" | "image" => {}
        other => {
            return Err(invalid(format!(
                "unknown mount type {other}: bind, volume, tmpfs or image"
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
