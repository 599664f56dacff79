//! A request as provenance tells it.

use std::{collections::BTreeMap, time::SystemTime};

use slipway_dockerfile::Dockerfile;

use super::provenance::Asked;
use crate::{
    build::Request,
    context::{BuildContext, fetch::redacted},
};

impl<'a> Asked<'a> {
    /// Of a build that is done: what its contexts were is known.
    pub fn of(
        request: &Request,
        context: &BuildContext,
        file: &'a Dockerfile,
        (id, started): (&'a str, SystemTime),
    ) -> Self {
        let mut locals = request.contexts.clone();
        if !request.remote_contexts.contains_key("") {
            // The folder, and what its Dockerfile was read from: BuildKit has two of them.
            locals.extend(["context".to_owned(), "dockerfile".to_owned()]);
        }
        locals.sort();
        let others = request.remote_contexts.keys().filter(|n| !n.is_empty());
        Asked {
            id,
            started,
            options: options(request),
            locals,
            context: context.material(""),
            contexts: others.filter_map(|name| context.material(name)).collect(),
            file,
        }
    }
}

/// Options in the words of BuildKit's front end (frontend/dockerui/config.go). A password in a URL, which is
/// what values of proxies have, is in none of them.
fn options(request: &Request) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut put = |key: String, value: &str| drop(out.insert(key, redacted(value)));
    for (name, value) in &request.build_args {
        put(format!("build-arg:{name}"), value);
    }
    for (name, value) in &request.labels {
        put(format!("label:{name}"), value);
    }
    for name in &request.contexts {
        put(format!("context:{name}"), &format!("local:{name}"));
    }
    for (name, url) in &request.remote_contexts {
        if !name.is_empty() {
            put(format!("context:{name}"), url);
        }
    }
    let settings = &request.settings;
    let no_cache = match request.no_cache.all {
        true => Some(String::new()),
        false => Some(request.no_cache.stages.join(",")).filter(|s| !s.is_empty()),
    };
    if let Some(stages) = no_cache {
        put("no-cache".to_owned(), &stages);
    }
    let network = Some(settings.network.as_str()).filter(|n| !matches!(*n, "" | "default"));
    let shm_size = Some(settings.shm_size.to_string()).filter(|n| n != "0");
    let ulimits = settings.ulimits.iter();
    let ulimits: Vec<_> = ulimits
        .map(|u| format!("{}={}:{}", u.name, u.soft, u.hard))
        .collect();
    for (key, value) in [
        ("target", request.target.as_str()),
        ("force-network-mode", network.unwrap_or_default()),
        ("add-hosts", &settings.extra_hosts.join(",")),
        ("shm-size", shm_size.as_deref().unwrap_or_default()),
        ("ulimit", &ulimits.join(",")),
    ] {
        if !value.is_empty() {
            put(key.to_owned(), value);
        }
    }
    out
}
