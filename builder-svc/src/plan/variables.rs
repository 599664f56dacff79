//! `ARG` and `ENV`: which names have which value where.

use std::collections::BTreeMap;

use slipway_dockerfile::{Dockerfile, Instruction, expand::expand};
use slipway_image::Platform;

use super::Options;
use crate::error::{Error, Result};

/// Arguments that every RUN may have without an `ARG` (docker's reference, "Predefined ARGs"), in any
/// case of letters. They are in no history and in no cache key.
const PROXIES: [&str; 5] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// `ARG`s that speak to the builder: they never become variables.
pub const NO_VARIABLES: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// The argument that leaves out what bases trigger (dockerfile/1.29).
pub const DISABLE_ONBUILD: &str = "BUILDKIT_DISABLE_ONBUILD";

/// Whether a build argument says yes, as Go's strconv.ParseBool reads it.
pub fn says_yes(given: &BTreeMap<String, String>, name: &str) -> bool {
    let yes = ["1", "t", "T", "true", "TRUE", "True"];
    given
        .get(name)
        .is_some_and(|text| yes.contains(&text.as_str()))
}

/// Whether an argument needs no `ARG`.
pub fn is_predefined(name: &str) -> bool {
    PROXIES.contains(&name.to_ascii_uppercase().as_str())
}

/// The proxies among these, each under both of its names.
pub fn proxies(given: &BTreeMap<String, String>) -> impl Iterator<Item = (String, &str)> {
    let named = |name: &'static str| {
        let found = given.iter().find(|(n, _)| n.eq_ignore_ascii_case(name))?;
        Some((name, found.1.as_str()))
    };
    PROXIES
        .into_iter()
        .filter_map(named)
        .flat_map(|(name, value)| [(name.to_owned(), value), (name.to_ascii_lowercase(), value)])
}

/// `ARG` and `ENV` of a stage: the one that came last counts, as in BuildKit. Stages that are built
/// upon it begin with them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inherited {
    order: Vec<String>,
    values: BTreeMap<String, String>,
    declared: Vec<String>,
    /// Those of the stage itself.
    own: Vec<String>,
    bytes: usize,
    /// A WORKDIR stood in this file; for the linter.
    pub workdir_set: bool,
}

impl Inherited {
    /// A variable's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: &str) {
        self.bytes += value.len();
        match self.values.insert(name.to_owned(), value.to_owned()) {
            Some(old) => self.bytes -= old.len(),
            None => {
                self.bytes += name.len();
                self.order.push(name.to_owned());
            }
        }
    }

    /// Notes an `ARG`.
    pub fn declare(&mut self, name: &str) {
        if !self.declares(name) {
            self.declared.push(name.to_owned());
        }
        if !self.own.iter().any(|n| n == name) {
            self.own.push(name.to_owned());
        }
    }

    /// Begins a stage. As BuildKit: it has the values of the one that it is built upon, but its history does
    /// not name them.
    pub fn begin_stage(&mut self) {
        self.own.clear();
    }

    /// Whether there was an `ARG` of that name.
    pub fn declares(&self, name: &str) -> bool {
        self.declared.iter().any(|n| n == name)
    }

    /// `NAME=VALUE` of each `ARG` of the stage, in their order.
    pub fn declared(&self) -> Vec<String> {
        let value = |name: &String| self.get(name).unwrap_or_default().to_owned();
        self.own
            .iter()
            .map(|name| format!("{name}={}", value(name)))
            .collect()
    }

    /// All as an environment.
    pub fn all(&self) -> Vec<String> {
        let entry = |name: &String| Some(format!("{name}={}", self.values.get(name)?));
        self.order.iter().filter_map(entry).collect()
    }

    /// Names of all.
    pub fn names(&self) -> Vec<&str> {
        self.order.iter().map(String::as_str).collect()
    }

    /// Bytes of all.
    pub const fn size(&self) -> usize {
        self.bytes
    }
}

/// What a RUN's programs find when an image sets no PATH.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `TARGETPLATFORM` and its kin; `--build-arg` wins over them.
pub fn platform_arguments(file: &Dockerfile, options: &Options) -> BTreeMap<String, String> {
    let build = Platform::host();
    let target = options.platform.clone().unwrap_or_else(Platform::host);
    let last = file.stages.last().and_then(|s| s.from.name.clone());
    let stage = Some(options.target.clone())
        .filter(|t| !t.is_empty())
        .or(last)
        .unwrap_or_else(|| "default".to_owned());
    let mut out = BTreeMap::from([("TARGETSTAGE".to_owned(), stage)]);
    for (prefix, platform) in [("BUILD", &build), ("TARGET", &target)] {
        for (name, value) in [
            ("PLATFORM", platform.to_string()),
            ("OS", platform.os.clone()),
            ("OSVERSION", String::new()),
            ("ARCH", platform.architecture.clone()),
            ("VARIANT", platform.variant.clone()),
        ] {
            out.insert(format!("{prefix}{name}"), value);
        }
    }
    for (name, value) in &mut out {
        if let Some(given) = options.build_args.get(name) {
            value.clone_from(given);
        }
    }
    out
}

/// The `ARG`s in front of the first FROM, and the platform's.
pub fn global(file: &Dockerfile, options: &Options) -> Result<BTreeMap<String, String>> {
    let mut values = platform_arguments(file, options);
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
