//! What a container's mounts show, on the host: made where it is missing, checked, and for volumes of a
//! device mounted.

use std::{collections::HashSet, fs, path::Path};

use slipway_proto::runtime::v1::Mount;

use super::{manager::Manager, record::Record};
use crate::{
    error::{Error, Tried as _},
    executor::plan::{self, ContainerPlan},
    sys::mountinfo,
};

impl Manager {
    /// Before every start; returns the volumes of a device. What it opens goes with
    /// [`crate::volumes::Volumes::close_devices`].
    pub(super) async fn open_sources(&self, record: &Record) -> Result<HashSet<String>, Error> {
        for mount in &record.spec.mounts {
            if mount.r#type == "bind" {
                bind(mount)?;
            }
        }
        let volumes = record.spec.mounts.iter().filter(|m| m.r#type == "volume");
        let volumes: Vec<String> = volumes.map(|m| m.source.clone()).collect();
        if volumes.is_empty() {
            return Ok(HashSet::new());
        }
        let (all, id) = (self.0.volumes.clone(), record.id.clone());
        // A server that does not answer takes its time.
        tokio::task::spawn_blocking(move || {
            let mut devices = HashSet::new();
            for name in volumes {
                if all.open_device(&name, &id)? {
                    devices.insert(name);
                }
            }
            Ok(devices)
        })
        .await
        .map_err(std::io::Error::other)
        .tried(|| "cannot mount the volumes".to_owned())?
    }
}

/// What a device holds belongs to the host's ids, as what a bind shows: only our own folders are the
/// container's.
pub fn keep_owners(plan: &mut ContainerPlan, record: &Record, devices: &HashSet<String>) {
    for mount in &record.spec.mounts {
        if mount.r#type == "volume" && devices.contains(&mount.source) {
            let of_device = |m: &&mut plan::Mount| m.target == mount.target;
            for mount in plan.mounts.iter_mut().filter(of_device) {
                mount.idmapped = false;
            }
        }
    }
}

/// A bind's source: `-v` makes what is missing, `--mount` refuses.
pub fn bind(mount: &Mount) -> Result<(), Error> {
    let source = Path::new(&mount.source);
    if !source.is_absolute() {
        return Err(Error::Invalid(format!(
            "invalid mount config for type \"bind\": invalid mount path: '{}' mount path must be absolute",
            mount.source
        )));
    }
    if !source.exists() {
        if !mount.create_source {
            return Err(Error::Invalid(format!(
                "invalid mount config for type \"bind\": bind source path does not exist: {}",
                mount.source
            )));
        }
        fs::create_dir_all(source)
            .tried(|| format!("error while creating mount source path '{}'", mount.source))?;
    }
    connected(mount)
}

/// Whether mounts can cross between the source and the container as it is asked for.
fn connected(mount: &Mount) -> Result<(), Error> {
    let wanted = match mount.propagation.as_str() {
        "shared" | "rshared" => "shared",
        "slave" | "rslave" => "shared or slave",
        _ => return Ok(()),
    };
    let source = Path::new(&mount.source);
    let found = mountinfo::of(source).tried(|| format!("cannot look at {}", mount.source))?;
    if found.shared || found.slave && wanted != "shared" {
        return Ok(());
    }
    // docker's words (moby, oci_linux.go, ensureShared).
    Err(Error::Invalid(format!(
        "path {} is mounted on {} but it is not a {wanted} mount",
        mount.source, found.mount_point
    )))
}
