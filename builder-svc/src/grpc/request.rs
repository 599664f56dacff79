//! A `BuildStart` as a request of the domain.

use std::collections::BTreeMap;

use slipway_image::Platform;
use slipway_proto::{
    builder::v1::{BuildStart, CacheSource, PruneRequest},
    types::v1::Filter,
};

use super::unsupported;
use crate::{
    attest::Wanted,
    build::{Call, Request},
    cache::{Filters, Prune},
    error::{Error, Result},
    plan::epoch::EPOCH,
    solve::NoCache,
    worker::{Entitlement, StepSettings},
};

/// Translates; what we don't support yet is refused with a sentence.
pub fn request(start: BuildStart, grants: &[Entitlement]) -> Result<Request> {
    if !["", "default", "none", "host", "bridge"].contains(&start.network.as_str()) {
        return Err(unsupported(format!(
            "--network {:?} of a build is not supported: default, none or host",
            start.network
        )));
    }
    let allowed = allowed(&start, grants)?;
    let platforms = start.platforms.into_iter().map(|p| {
        let host = Platform::host();
        let or = |text: String, other: String| if text.is_empty() { other } else { text };
        Platform::new(
            &or(p.os, host.os),
            &or(p.architecture, host.architecture),
            &p.variant,
        )
    });
    let mut platforms: Vec<Platform> = platforms.collect();
    let mut seen = std::collections::HashSet::new();
    platforms.retain(|p| seen.insert(p.clone()));
    let source = |s: CacheSource| (s.r#type, s.attributes.into_iter().collect());
    let sorted = |map: std::collections::HashMap<String, String>| -> BTreeMap<String, String> {
        map.into_iter().collect()
    };
    let name = match start.dockerfile_name.as_str() {
        "" => "Dockerfile".to_owned(),
        name if name.len() <= 4096 => name.to_owned(),
        _ => {
            return Err(Error::Invalid(
                "the Dockerfile's name is too long".to_owned(),
            ));
        }
    };
    let network = match start.network.as_str() {
        "bridge" => "default".to_owned(),
        other => other.to_owned(),
    };
    let mut build_args = sorted(start.build_args);
    // buildx: what stands in the environment is a build argument, too.
    if let Some(epoch) = start.source_date_epoch {
        let said = build_args.entry(EPOCH.to_owned());
        said.or_insert_with(|| epoch.to_string());
    }
    let attests = start.attests.into_iter();
    let attests: Vec<_> = attests.map(|a| (a.r#type, sorted(a.attributes))).collect();
    let attest = Wanted::parse(attests.iter().map(|(kind, a)| (kind.as_str(), a)))?;
    Ok(Request {
        dockerfile: start.dockerfile,
        dockerfile_name: name,
        tags: start.tags,
        build_args,
        target: start.target,
        no_cache: NoCache {
            all: start.no_cache,
            stages: start.no_cache_filter,
        },
        pull: start.pull,
        platforms,
        labels: sorted(start.labels),
        annotations: sorted(start.annotations),
        cache_from: start.cache_from.into_iter().map(source).collect(),
        cache_to: start.cache_to.into_iter().map(source).collect(),
        outputs: start
            .outputs
            .into_iter()
            .map(|o| (o.r#type, sorted(o.attributes)))
            .collect(),
        settings: StepSettings {
            network,
            extra_hosts: start.extra_hosts,
            shm_size: start.shm_size,
            ulimits: start.ulimits.into_iter().map(ulimit).collect(),
            allowed,
        },
        auths: start.auths,
        call: match start.call.as_str() {
            "" | "build" if start.check => Call::Check,
            "" | "build" => Call::Build,
            "check" | "lint" => Call::Check,
            "targets" => Call::Targets,
            "outline" => Call::Outline,
            other => {
                return Err(unsupported(format!(
                    "--call={other} is not supported: build, check, outline or targets"
                )));
            }
        },
        ignore: start.ignore,
        dockerfile_path: start.dockerfile_path,
        contexts: start.named_contexts.into_iter().collect(),
        remote_contexts: sorted(start.remote_contexts),
        attest,
    })
}

/// What the caller allows, as far as this service does. `--network host` allows its own, as buildx.
fn allowed(start: &BuildStart, grants: &[Entitlement]) -> Result<Vec<Entitlement>> {
    let mut wanted = Vec::new();
    for name in &start.allow {
        wanted.push(Entitlement::from_name(name).ok_or_else(|| {
            unsupported(format!(
                "--allow {name} is not supported: network.host and security.insecure are"
            ))
        })?);
    }
    if start.network == "host" {
        wanted.push(Entitlement::NetworkHost);
    }
    // BuildKit's sentence (util/entitlements/entitlements.go).
    match wanted.iter().find(|e| !grants.contains(e)) {
        Some(entitlement) => Err(unsupported(format!(
            "granting entitlement {} is not allowed by build daemon configuration \
             (entitlements in builder.toml)",
            entitlement.name()
        ))),
        None => Ok(wanted),
    }
}

fn ulimit(limit: slipway_proto::builder::v1::Ulimit) -> slipway_proto::runtime::v1::Ulimit {
    slipway_proto::runtime::v1::Ulimit {
        name: limit.name,
        soft: limit.soft,
        hard: limit.hard,
    }
}

/// What is to be pruned. `--all` or not is the same: every record can be made again.
pub fn prune(request: &PruneRequest) -> Result<Prune> {
    Ok(Prune {
        filters: filters(&request.filters)?,
        reserved: request.keep_bytes,
        most: request.max_used_bytes,
    })
}

/// Which records are meant.
pub fn filters(filters: &[Filter]) -> Result<Filters> {
    Filters::parse(filters.iter().map(|f| (f.key.as_str(), &f.values[..])))
}
