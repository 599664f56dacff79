//! What `inspect` answers, key by key.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::lines::CURRENT;

/// Values that differ, by the ends of their paths, with the reason. Keys and types are the same all the same.
const VALUES: [(&str, &str); 32] = [
    ("Pid", "another process"),
    ("SandboxID", "there are no sandboxes"),
    ("SandboxKey", "the network namespace is netd's"),
    ("LogPath", "a folder of our own"),
    ("ResolvConfPath", "a folder of our own"),
    ("HostnamePath", "a folder of our own"),
    ("HostsPath", "a folder of our own"),
    ("Mountpoint", "a folder of our own"),
    ("Mounts/*/Source", "a folder of our own"),
    (
        "Mounts/*/Propagation",
        "docker's is rslave below its own folders",
    ),
    ("GraphDriver/Data/LowerDir", "a folder of our own"),
    ("GraphDriver/Data/UpperDir", "a folder of our own"),
    ("GraphDriver/Data/WorkDir", "a folder of our own"),
    (
        "GraphDriver/Data/MergedDir",
        "the way to its root while it runs",
    ),
    ("LogConfig/Type", "logs are compact by default"),
    ("HostConfig/Runtime", "there is one"),
    ("HostConfig/CgroupnsMode", "private with v1 cgroups, too"),
    ("HostConfig/MaskedPaths/*", "docker 28 hides more"),
    (
        "NetworkID",
        "of a network that it will be on: told when it is",
    ),
    ("DNSNames/*", "in another order"),
    ("IPAddress", "as many containers as there were before"),
    ("IPv4Address", "as many containers as there were before"),
    ("MacAddress", "as many containers as there were before"),
    ("SizeRw", "on the disk, folders too"),
    ("SizeRootFs", "on the disk, folders too"),
    ("Size", "of what the registry has"),
    ("LastTagTime", "when it was pushed"),
    ("com.docker.network.bridge.name", "ours"),
    ("RepoDigests", "there is a registry, so there is a digest"),
    ("GraphDriver/Data", "an image is mounted nowhere"),
    ("Healthcheck/Test/0", "the words are the user's"),
    ("Created", "the image's config tells none"),
];

/// Keys that one side alone has, with the reason.
const KEYS: [(&str, &str); 13] = [
    (
        "Ports/*/tcp/1/*",
        "docker tells of IPv6 where there is none",
    ),
    ("EnableIPv4", "docker 28 has it"),
    ("GwPriority", "docker 28 has it"),
    ("MaskedPaths/*", "docker 28 hides more"),
    ("RepoDigests", "there is a registry, so there is a digest"),
    ("RepoDigests/*", "there is a registry, so there is a digest"),
    ("0/Created", "the image's config tells none"),
    ("0/GraphDriver/Data", "an image is mounted nowhere"),
    ("Options/com.docker.network.bridge.*", "said of docker0"),
    ("Options/com.docker.network.driver.mtu", "said of docker0"),
    (
        "Config/Hostname",
        "docker 29 shows an image's config as it is",
    ),
    ("GraphDriver/Data/*", "of an image: it is mounted nowhere"),
    ("IPRange", "only where there is one"),
];

/// Keys and values that dockers before 25 had otherwise.
const OLD: [&str; 10] = [
    "0/Container",
    "ContainerConfig/*",
    "VirtualSize",
    "HostConfig/KernelMemory",
    "HostConfig/KernelMemoryTCP",
    "HostConfig/NetworkMode",
    "DNSNames",
    "DNSNames/*",
    "0/IPAM/Config/0/Gateway",
    "Aliases/*",
];

/// What docker fills an image's config up with; from 29 on it shows it as it is, as we do.
const FILLED: [&str; 15] = [
    "AttachStderr",
    "AttachStdin",
    "AttachStdout",
    "Domainname",
    "Entrypoint",
    "Env",
    "Image",
    "Labels",
    "OnBuild",
    "OpenStdin",
    "StdinOnce",
    "Tty",
    "User",
    "Volumes",
    "WorkingDir",
];

/// Every value under its path: "/0/State/Running".
fn flatten(path: &str, value: &Value, all: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                flatten(&format!("{path}/{}", crate::lines::ids(key)), value, all);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            // docker gives mounts in no order.
            let mut list = list.clone();
            list.sort_by_key(|v| v["Destination"].as_str().map(str::to_owned));
            if path.ends_with("/Binds") {
                list.sort_by_key(Value::to_string);
            }
            for (n, value) in list.iter().enumerate() {
                flatten(&format!("{path}/{n}"), value, all);
            }
        }
        other => drop(all.insert(path.to_owned(), other.clone())),
    }
}

/// Texts that are ids or times count as such.
fn plain(value: &Value) -> Value {
    let Value::String(text) = value else {
        return value.clone();
    };
    let bytes = text.as_bytes();
    let is_time = bytes.len() >= 20 && bytes[4] == b'-' && bytes[10] == b'T';
    match is_time && !text.starts_with("0001-") {
        true => "<time>".into(),
        false => crate::lines::ids(text).into(),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Whether a path ends as a pattern does; a part of it may end with `*`.
fn fits(pattern: &str, path: &str) -> bool {
    let (mut parts, mut words) = (pattern.rsplit('/'), path.rsplit('/'));
    parts.all(|part| match (part.strip_suffix('*'), words.next()) {
        (Some(begin), Some(word)) => word.starts_with(begin),
        (None, Some(word)) => word == part,
        (_, None) => false,
    })
}

fn known(list: &[(&str, &str)], path: &str) -> bool {
    list.iter().any(|(pattern, _)| fits(pattern, path))
}

/// What is not the same and not known to be so.
pub fn differences(docker: &str, ctl: &str, version: u32) -> Vec<String> {
    let old = |path: &str| version < CURRENT && OLD.iter().any(|pattern| fits(pattern, path));
    let read = |text: &str| {
        let mut all = BTreeMap::new();
        let value: Value = serde_json::from_str(text).expect("inspect answers with JSON");
        flatten("", &value, &mut all);
        all
    };
    let (docker, ctl) = (read(docker), read(ctl));
    let mut wrong = Vec::new();
    let is_image = docker.contains_key("/0/RootFS/Type");
    let filled = |path: &str| {
        let key = path.strip_prefix("/0/Config/").unwrap_or_default();
        is_image && FILLED.contains(&key)
    };
    for (path, theirs) in &docker {
        match ctl.get(path) {
            None if known(&KEYS, path) || filled(path) || old(path) => {}
            None => wrong.push(format!("only docker has {path}: {theirs}")),
            Some(ours) if plain(theirs) == plain(ours) || old(path) => {}
            Some(ours) if known(&VALUES, path) && kind(theirs) == kind(ours) => {}
            Some(ours) => wrong.push(format!("{path}: docker {theirs}, ctl {ours}")),
        }
    }
    for (path, ours) in &ctl {
        if !(docker.contains_key(path) || known(&KEYS, path) || old(path)) {
            wrong.push(format!("only ctl has {path}: {ours}"));
        }
    }
    wrong
}
