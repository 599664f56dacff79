//! `ARG` and `ENV`: which names have which value where.

use std::collections::BTreeMap;

use slipway_dockerfile::{Dockerfile, Instruction, expand::expand};
use slipway_image::Platform;

use super::Options;
use crate::error::{Error, Result};

/// Arguments that every RUN may have without an `ARG` (docker's reference, "Predefined ARGs"). They
/// are in no history and in no cache key.
pub const PREDEFINED: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// What a RUN's programs find when an image sets no PATH.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `TARGETPLATFORM` and its kin.
pub fn platform_arguments(options: &Options) -> BTreeMap<String, String> {
    let build = Platform::host();
    let target = options.platform.clone().unwrap_or_else(Platform::host);
    let mut out = BTreeMap::new();
    for (prefix, platform) in [("BUILD", &build), ("TARGET", &target)] {
        for (name, value) in [
            ("PLATFORM", platform.to_string()),
            ("OS", platform.os.clone()),
            ("ARCH", platform.architecture.clone()),
            ("VARIANT", platform.variant.clone()),
        ] {
            out.insert(format!("{prefix}{name}"), value);
        }
    }
    out
}

/// The `ARG`s in front of the first FROM, and the platform's.
pub fn global(file: &Dockerfile, options: &Options) -> Result<BTreeMap<String, String>> {
    let mut values = platform_arguments(options);
    for located in &file.arguments {
        let Instruction::Arg(arguments) = &located.instruction else {
            continue;
        };
        for (name, default) in arguments {
            let value = match (options.build_args.get(name), default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(text)) => {
                    let lookup = |name: &str| values.get(name).cloned();
                    let value = expand(text, file.escape, &lookup)
                        .map_err(|e| Error::Dockerfile(file.error(located.place, &e)))?;
                    Some(value)
                }
                (None, None) => None,
            };
            if let Some(value) = value {
                values.insert(name.clone(), value);
            }
        }
    }
    Ok(values)
}

/// Sets a variable in a config's list, in place when it is there.
pub fn set_env(env: &mut Vec<String>, name: &str, value: &str) {
    let entry = format!("{name}={value}");
    match env.iter_mut().find(|e| e.split('=').next() == Some(name)) {
        Some(old) => *old = entry,
        None => env.push(entry),
    }
}

/// A variable of a config's list.
pub fn get_env<'a>(env: &'a [String], name: &str) -> Option<&'a str> {
    env.iter()
        .filter_map(|e| e.split_once('='))
        .find(|(n, _)| *n == name)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_replaced_in_place() {
        let mut env = vec!["A=1".to_owned(), "B=2".to_owned()];
        set_env(&mut env, "A", "x=y");
        set_env(&mut env, "C", "");
        assert_eq!(env, ["A=x=y", "B=2", "C="]);
        assert_eq!(get_env(&env, "A"), Some("x=y"));
        assert_eq!(get_env(&env, "D"), None);
    }

    #[test]
    fn global_arguments_build_upon_each_other() {
        let file = Dockerfile::parse("D", b"ARG A=1\nARG B=${A}2 C\nFROM x").unwrap();
        let options = Options {
            build_args: [("C".to_owned(), "3".to_owned())].into(),
            ..Options::default()
        };
        let values = global(&file, &options).unwrap();
        assert_eq!((values["B"].as_str(), values["C"].as_str()), ("12", "3"));
        assert!(values.contains_key("TARGETARCH"));
    }
}
