//! `update`.

use oci_spec::runtime::LinuxResources;

use super::{
    Error, cli,
    config::{self, resources},
    state::{Status, Store},
};
use crate::{
    cgroup::{Group, Hierarchies},
    oci::error::Tried as _,
};

/// Sets other limits.
pub fn update(store: &Store, options: &cli::Update) -> Result<u8, Error> {
    let id = &options.id;
    let held = store.hold(id)?;
    let record = held
        .record()?
        .ok_or_else(|| Error::Missing(id.to_owned()))?;
    if matches!(store.status(&record).0, Status::Stopped | Status::Creating) {
        return Err(Error::NotRunning(id.clone()));
    }
    let given = match &options.resources {
        None => from_options(options)?,
        Some(path) => {
            if *options != only_file(options) {
                return Err(Error::invalid(
                    "--resources and other options do not go together",
                ));
            }
            let text = match path.to_str() {
                Some("-") => {
                    config::read_from(std::io::stdin().lock(), "cannot read the resources")?
                }
                _ => config::read(path)?,
            };
            serde_json::from_str(&text)
                .map_err(|e| Error::Invalid(format!("the resources are not understood: {e}")))?
        }
    };
    // A container's devices are settled when it is made; docker and podman send the same ones again.
    let limits = resources::limits(&given)?;
    let hierarchies = Hierarchies::detect().tried(|| "cannot find the cgroup trees".to_owned())?;
    resources::check(&limits, &hierarchies)?;
    Group::open(&hierarchies, &record.plan.cgroup.path)
        .limit(&hierarchies, &limits)
        .tried(|| format!("cannot update container {id}"))?;
    Ok(0)
}

/// What was said, if that was only where the resources are.
fn only_file(options: &cli::Update) -> cli::Update {
    cli::Update {
        resources: options.resources.clone(),
        id: options.id.clone(),
        ..cli::Update::default()
    }
}

/// Options as config.json would have them.
fn from_options(options: &cli::Update) -> Result<LinuxResources, Error> {
    let mut json = serde_json::json!({
        "memory": {
            "limit": options.memory,
            "reservation": options.memory_reservation,
            "swap": options.memory_swap,
        },
        "cpu": {
            "shares": options.cpu_share,
            "quota": options.cpu_quota,
            "burst": options.cpu_burst,
            "period": options.cpu_period,
            "realtimeRuntime": options.cpu_rt_runtime,
            "realtimePeriod": options.cpu_rt_period,
            "cpus": options.cpuset_cpus,
            "mems": options.cpuset_mems,
            "idle": options.cpu_idle,
        },
        "blockIO": {"weight": options.blkio_weight},
    });
    if let Some(limit) = options.pids_limit {
        json["pids"] = serde_json::json!({"limit": limit});
    }
    serde_json::from_value(json).map_err(Error::invalid)
}
