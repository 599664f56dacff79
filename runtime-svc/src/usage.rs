//! What this host's state folder holds, part by part: every block of it belongs to exactly one part.
//!
//! Layers know how much they take; everything else is walked. Nothing is locked meanwhile, so what is made
//! or removed in the middle may be in the sum or not.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::Path,
    time::SystemTime,
};

use slipway_image::Digest;

use crate::{
    container::{manager::Manager, state::Container},
    disk,
    layers::{Holder, Layers, Present},
    worker::Worker,
};

/// Everything below the state folder.
#[derive(Debug, Default)]
pub struct DiskUsage {
    /// Containers.
    pub containers: Vec<ContainerUsage>,
    /// Volumes.
    pub volumes: Vec<VolumeUsage>,
    /// Unpacked layers.
    pub layers: Vec<LayerUsage>,
    /// Who works with layers, and their snapshots.
    pub leases: Vec<Lease>,
    /// Cache mounts of builds: bytes, and whether a step has it.
    pub caches: Vec<(u64, bool)>,
    /// Bytes of what is half made or half removed.
    pub temporary: u64,
    /// Bytes of folders that hold all this, and of what else is there.
    pub other: u64,
    /// Paths of what is none of ours, below the state folder.
    pub foreign: Vec<String>,
}

/// A container's bytes.
#[derive(Debug, Default)]
pub struct ContainerUsage {
    /// Its id.
    pub id: String,
    /// Of its own layer.
    pub writable: u64,
    /// Of its logs.
    pub logs: u64,
    /// Of its record and what belongs to the mount.
    pub other: u64,
    /// Whether it runs.
    pub running: bool,
}

impl ContainerUsage {
    /// All of them: what its removal gives back.
    pub const fn bytes(&self) -> u64 {
        self.writable + self.logs + self.other
    }
}

/// A volume's bytes.
#[derive(Debug)]
pub struct VolumeUsage {
    /// Its name.
    pub name: String,
    /// Of its data and its record. What is mounted on it is not its own.
    pub bytes: u64,
    /// Containers that have it.
    pub links: u32,
}

/// A layer's bytes.
#[derive(Debug)]
pub struct LayerUsage {
    /// The layer.
    pub present: Present,
    /// On disk.
    pub bytes: u64,
    /// Containers that use it.
    pub containers: u32,
    /// Somebody works with it.
    pub held: bool,
}

/// Somebody who works with layers.
#[derive(Debug)]
pub struct Lease {
    /// "" for a container that is being made.
    pub id: String,
    /// Who.
    pub holder: String,
    /// Since when.
    pub created: SystemTime,
    /// When it lapses; none = with the work itself.
    pub until: Option<SystemTime>,
    /// Its holder keeps a call open for it.
    pub attached: bool,
    /// What stays for it.
    pub layers: Vec<Digest>,
    /// What it has.
    pub snapshots: Vec<Snapshot>,
}

/// A snapshot's bytes.
#[derive(Debug)]
pub struct Snapshot {
    /// Its id.
    pub id: String,
    /// Since when.
    pub created: SystemTime,
    /// What it is based upon, if that is a snapshot.
    pub parent: String,
    /// On disk, once it was measured.
    pub bytes: u64,
}

/// Everybody who works with layers at this moment.
pub fn leases(worker: &Worker) -> Vec<Lease> {
    let mut held: HashMap<String, Vec<Digest>> = HashMap::new();
    let mut all = Vec::new();
    for hold in worker.layers().held() {
        match hold.holder {
            Holder::Snapshot(id) => held.entry(id).or_default().extend(hold.layers),
            Holder::Container(id) => all.push(Lease {
                id: String::new(),
                holder: format!("container {} that is being made", &id[..12.min(id.len())]),
                created: hold.since,
                until: None,
                attached: false,
                layers: hold.layers,
                snapshots: Vec::new(),
            }),
        }
    }
    for lease in worker.leases.list() {
        let mut layers: Vec<Digest> = Vec::new();
        for snapshot in &lease.snapshots {
            for layer in held.remove(&snapshot.id).unwrap_or_default() {
                if !layers.contains(&layer) {
                    layers.push(layer);
                }
            }
        }
        let snapshot = |s: &std::sync::Arc<crate::worker::Snapshot>| Snapshot {
            id: s.id.clone(),
            created: s.created,
            parent: s.parent().map(|p| p.id.clone()).unwrap_or_default(),
            bytes: 0,
        };
        all.push(Lease {
            id: lease.id,
            holder: lease.holder,
            created: lease.created,
            until: Some(lease.until),
            attached: lease.attached,
            layers,
            snapshots: lease.snapshots.iter().map(snapshot).collect(),
        });
    }
    // Being prepared, or kept by a snapshot upon it: a moment later it has a lease, or none any more.
    let mut rest: Vec<_> = held.into_iter().collect();
    rest.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    all.extend(rest.into_iter().map(|(id, layers)| Lease {
        id: String::new(),
        holder: format!("snapshot {}", &id[..12.min(id.len())]),
        created: SystemTime::now(),
        until: None,
        attached: false,
        layers,
        snapshots: Vec::new(),
    }));
    all
}

impl DiskUsage {
    /// Measures. Blocks.
    pub fn of(manager: &Manager, worker: &Worker) -> io::Result<Self> {
        let mut usage = Self {
            leases: leases(worker),
            ..Self::default()
        };
        let state = manager.state_folder();
        usage.other += disk::of_folder(state)?;
        for entry in fs::read_dir(state)? {
            let path = entry?.path();
            match path.file_name().and_then(|n| n.to_str()) {
                Some("containers") => usage.add_containers(manager, &path)?,
                Some("volumes") => usage.add_volumes(manager, &path)?,
                Some("layers") => usage.add_layers(manager)?,
                Some("snapshots") => usage.add_snapshots(&path)?,
                Some("caches") => usage.add_caches(worker, &path)?,
                _ => usage.other += disk::usage(&path)?,
            }
        }
        Ok(usage)
    }

    fn add_containers(&mut self, manager: &Manager, folder: &Path) -> io::Result<()> {
        self.other += disk::of_folder(folder)?;
        let mut known: HashSet<_> = HashSet::new();
        for container in manager.all() {
            known.insert(container.folder.clone());
            self.containers.push(of_container(&container)?);
        }
        for path in entries(folder)? {
            if known.contains(&path) {
                continue;
            }
            // `<id>.new` and `<id>.removed`, one that was made since, and those whose records are broken.
            match path.extension() {
                Some(_) => self.temporary += disk::usage(&path)?,
                None => self.other += disk::usage(&path)?,
            }
        }
        Ok(())
    }

    fn add_volumes(&mut self, manager: &Manager, folder: &Path) -> io::Result<()> {
        self.other += disk::of_folder(folder)?;
        let volumes = manager.volumes().list().map_err(io::Error::other)?;
        let known: HashSet<String> = volumes.iter().map(|v| v.name.clone()).collect();
        for volume in volumes {
            self.volumes.push(VolumeUsage {
                bytes: disk::usage(&folder.join(&volume.name))?,
                links: manager.users_of_volume(&volume.name).len() as u32,
                name: volume.name,
            });
        }
        for path in entries(folder)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if known.contains(&*name) {
                continue;
            }
            match name.starts_with(".new-") || name.starts_with(".gone-") {
                true => self.temporary += disk::usage(&path)?,
                false => self.other += disk::usage(&path)?,
            }
        }
        Ok(())
    }

    fn add_layers(&mut self, manager: &Manager) -> io::Result<()> {
        let layers: &Layers = manager.layers();
        self.other += disk::of_folder(layers.folder())?;
        let mut users: HashMap<Digest, u32> = HashMap::new();
        for container in manager.all() {
            for layer in crate::collect::layers_of(&container) {
                *users.entry(layer).or_default() += 1;
            }
        }
        let held: HashSet<Digest> = layers.held().into_iter().flat_map(|h| h.layers).collect();
        let listed = layers.list()?;
        for present in listed.layers {
            let layer = present.layer.clone();
            self.layers.push(LayerUsage {
                bytes: layers.bytes_of(&layer)?,
                containers: users.get(&layer).copied().unwrap_or(0),
                held: held.contains(&layer),
                present,
            });
        }
        for path in listed.temporary {
            self.temporary += disk::usage(&path)?;
        }
        let broken = listed.broken.iter().map(|l| l.encoded().to_owned());
        for name in broken.chain(listed.foreign) {
            self.other += disk::usage(&layers.folder().join(&name))?;
            self.foreign.push(format!("layers/{name}"));
        }
        Ok(())
    }

    fn add_caches(&mut self, worker: &Worker, folder: &Path) -> io::Result<()> {
        self.other += disk::of_folder(folder)?;
        let known = worker.caches.list();
        for path in entries(folder)? {
            let bytes = disk::usage(&path)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            match known.iter().find(|told| told.name == name) {
                Some(told) => self.caches.push((bytes, told.in_use)),
                None => self.temporary += bytes,
            }
        }
        Ok(())
    }

    fn add_snapshots(&mut self, folder: &Path) -> io::Result<()> {
        self.other += disk::of_folder(folder)?;
        for path in entries(folder)? {
            let bytes = disk::usage(&path)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let mut snapshots = self.leases.iter_mut().flat_map(|l| &mut l.snapshots);
            match snapshots.find(|s| s.id == name) {
                Some(snapshot) => snapshot.bytes = bytes,
                None => self.temporary += bytes,
            }
        }
        Ok(())
    }
}

/// What is in a folder that may go meanwhile.
fn entries(folder: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|e| e.map(|e| e.path())).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

fn of_container(container: &Container) -> io::Result<ContainerUsage> {
    let mut usage = ContainerUsage {
        id: container.id.clone(),
        running: container.is_up(),
        other: disk::of_folder(&container.folder)?,
        ..ContainerUsage::default()
    };
    for path in entries(&container.folder)? {
        let bytes = disk::usage(&path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match &*name {
            "upper" => usage.writable += bytes,
            n if is_log(n) => usage.logs += bytes,
            _ => usage.other += bytes,
        }
    }
    Ok(usage)
}

/// The log's segments and marks, and the files of docker's json-file.
fn is_log(name: &str) -> bool {
    name == "log"
        || name.starts_with("log.")
        || name.starts_with("index")
        || name.contains("-json.log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_log_is() {
        for name in [
            "log",
            "log.4096",
            "log.4096.z",
            "index.0",
            "abc-json.log",
            "abc-json.log.1",
        ] {
            assert!(is_log(name), "{name}");
        }
        for name in ["config.json", "upper", "work", "exit.json"] {
            assert!(!is_log(name), "{name}");
        }
    }
}
