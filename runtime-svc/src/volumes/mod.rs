//! Volumes: folders that outlive containers, `volumes/<name>/_data`, with a record beside the data.
//!
//! A volume is made and taken away under a name that no volume can have, and renamed: it is there whole
//! or not at all. While a container is being made its volumes are pinned, so that nobody removes them
//! before the container's record says that they are in use.

mod copy_up;
mod device;

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

pub use copy_up::copy_up;
pub use device::check as check_options;
use serde::{Deserialize, Serialize};

use crate::{
    disk::remove_tree,
    error::{Error, Tried as _},
    ids,
};

/// What is known of a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name: that of its folder.
    #[serde(skip)]
    pub name: String,
    /// Nanoseconds since the epoch.
    pub created: u64,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Made for one container, with an id for a name.
    pub anonymous: bool,
    /// Options of the local driver: what is mounted on its folder.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// The volumes of this host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Volumes {
    folder: PathBuf,
    pins: Arc<Mutex<HashMap<String, Pins>>>,
    opened: device::Opened,
}

/// Who has a volume pinned.
#[derive(Debug, Default)]
struct Pins {
    count: usize,
    /// It was made for what is going on now, and goes if that fails. Nobody else counts on it.
    undo: bool,
}

/// What a volume is to be called.
#[derive(Debug, Clone, Copy)]
pub enum Name<'a> {
    /// As somebody has called it.
    Given(&'a str),
    /// By an id, for one container.
    Anonymous(&'a str),
}

/// A volume that stays while this lives.
#[derive(Debug)]
pub struct Pin {
    volumes: Volumes,
    name: String,
    new: bool,
}

impl Pin {
    /// Whether it was not there before.
    pub const fn is_new(&self) -> bool {
        self.new
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it was made for worked: it stays.
    pub fn keep(self) {
        if let Some(pins) = self.volumes.lock().get_mut(&self.name) {
            pins.undo = false;
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut all = self.volumes.lock();
        let Some(pins) = all.get_mut(&self.name) else {
            return;
        };
        pins.count -= 1;
        if pins.count > 0 {
            return;
        }
        let undo = pins.undo;
        all.remove(&self.name);
        if !undo {
            return;
        }
        // Set aside before anybody can pin it again.
        let gone = self.volumes.set_aside(&self.name);
        drop(all);
        if let Err(error) = gone.and_then(|gone| remove_tree(&gone)) {
            tracing::warn!(volume = self.name, %error, "could not be removed");
        }
    }
}

impl Volumes {
    /// Opens the folder; what an earlier instance left half done is removed.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let half_done = if name.starts_with(".new-") || name.starts_with(".gone-") {
                entry.path()
            } else {
                entry.path().join("_data.new")
            };
            // Something immutable in it, say: it takes room, no more.
            match remove_tree(&half_done) {
                Err(error)
                    if !matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) =>
                {
                    tracing::warn!(path = %half_done.display(), %error, "could not be removed");
                }
                _ => {}
            }
        }
        Ok(Self {
            folder,
            pins: Arc::default(),
            opened: device::Opened::default(),
        })
    }

    /// Where the data of a volume is.
    pub fn data(&self, name: &str) -> PathBuf {
        self.folder.join(name).join("_data")
    }

    /// Makes a volume unless it is there, as docker does.
    pub fn create(
        &self,
        name: Name<'_>,
        labels: BTreeMap<String, String>,
        options: BTreeMap<String, String>,
    ) -> Result<Pin, Error> {
        check_options(&options)?;
        let (name, anonymous) = match name {
            Name::Given(name) => (name.to_owned(), false),
            Name::Anonymous(id) => (id.to_owned(), true),
        };
        check_name(&name)?;
        let mut pins = self.lock();
        let undo = !self.data(&name).exists();
        if undo {
            let volume = Volume {
                name: name.clone(),
                created: crate::monitor::now(),
                labels,
                anonymous,
                options,
            };
            self.make(&volume)
                .tried(|| format!("cannot make volume {name}"))?;
        }
        let entry = pins.entry(name.clone()).or_default();
        entry.count += 1;
        // Whoever finds it there has been told that it is.
        entry.undo = undo;
        drop(pins);
        Ok(Pin {
            volumes: self.clone(),
            name,
            new: undo,
        })
    }

    fn make(&self, volume: &Volume) -> io::Result<()> {
        let temporary = self.folder.join(format!(".new-{}", volume.name));
        fs::create_dir_all(temporary.join("_data"))?;
        let file = fs::File::create(temporary.join("volume.json"))?;
        serde_json::to_writer(&file, volume)?;
        // A named volume is a promise; an anonymous one is as durable as its container.
        if !volume.anonymous {
            file.sync_all()?;
            fs::File::open(&temporary)?.sync_all()?;
        }
        slipway_fault::fallible("runtime.volume.made")?;
        fs::rename(&temporary, self.folder.join(&volume.name))?;
        slipway_fault::point("runtime.volume.named");
        if !volume.anonymous {
            fs::File::open(&self.folder)?.sync_all()?;
        }
        Ok(())
    }

    /// A volume by name.
    pub fn find(&self, name: &str) -> Result<Volume, Error> {
        let folder = self.folder.join(name);
        if check_name(name).is_err() || !folder.join("_data").is_dir() {
            return Err(Error::NoSuchVolume(name.to_owned()));
        }
        read(&folder, name).tried(|| format!("cannot read volume {name}"))
    }

    /// All volumes, by name.
    pub fn list(&self) -> Result<Vec<Volume>, Error> {
        let what = || "cannot list the volumes".to_owned();
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.folder).tried(what)? {
            let name = entry.tried(what)?.file_name();
            match name.to_str().map(|name| self.find(name)) {
                Some(Ok(volume)) => all.push(volume),
                // Removed since it was listed, or not a volume.
                Some(Err(Error::NoSuchVolume(_))) | None => {}
                Some(Err(error)) => return Err(error),
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Removes a volume that nothing uses. `users` tells which containers do; it is asked when no pin can
    /// change. Blocks.
    pub fn remove(&self, name: &str, users: impl Fn() -> Vec<String>) -> Result<(), Error> {
        self.find(name)?;
        let pins = self.lock();
        let mut users = users();
        if pins.contains_key(name) && users.is_empty() {
            users.push("a container that is being made".to_owned());
        }
        if !users.is_empty() {
            return Err(Error::VolumeInUse {
                name: name.to_owned(),
                users: users.join(", "),
            });
        }
        // What is mounted there is somebody else's.
        let gone = self.is_plain(name).and_then(|()| self.set_aside(name));
        drop(pins);
        slipway_fault::point("runtime.unvolume.aside");
        gone.and_then(|gone| remove_tree(&gone))
            .tried(|| format!("cannot remove volume {name}"))?;
        slipway_fault::point("runtime.unvolume.gone");
        Ok(())
    }

    fn set_aside(&self, name: &str) -> io::Result<PathBuf> {
        let gone = self.folder.join(format!(".gone-{}", ids::new_id()));
        fs::rename(self.folder.join(name), &gone)?;
        Ok(gone)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Pins>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(folder: &Path, name: &str) -> io::Result<Volume> {
    let mut volume: Volume = match fs::read(folder.join("volume.json")) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Volume::default(),
        Err(e) => return Err(e),
    };
    name.clone_into(&mut volume.name);
    Ok(volume)
}

/// docker's rule, and its words.
fn check_name(name: &str) -> Result<(), Error> {
    if ids::is_name(name) {
        return Ok(());
    }
    Err(Error::Invalid(if name.len() < 2 {
        "volume name is too short, names should be at least two alphanumeric characters".to_owned()
    } else {
        format!(
            "\"{name}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" \
             are allowed. If you intended to pass a host directory, use absolute path"
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_found_listed_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(folder.path().to_owned()).unwrap();
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let pin = volumes
            .create(Name::Given("data"), labels.clone(), BTreeMap::new())
            .unwrap();
        let busy = volumes.remove("data", Vec::new).unwrap_err();
        assert!(busy.to_string().contains("is in use"), "{busy}");
        pin.keep();
        assert_eq!(volumes.find("data").unwrap().labels, labels);
        // There already: it stays as it is, and stays when what wanted it fails.
        drop(
            volumes
                .create(Name::Given("data"), BTreeMap::new(), BTreeMap::new())
                .unwrap(),
        );
        assert_eq!(volumes.list().unwrap().len(), 1);
        let used = volumes.remove("data", || vec!["c".into()]).unwrap_err();
        assert_eq!(used.to_string(), "remove data: volume is in use - [c]");
        volumes.remove("data", Vec::new).unwrap();
        assert!(matches!(volumes.find("data"), Err(Error::NoSuchVolume(_))));
        assert!(
            volumes
                .create(Name::Given("../x"), BTreeMap::new(), BTreeMap::new())
                .is_err()
        );
        assert!(volumes.find("..").is_err());
    }

    #[test]
    fn what_fails_leaves_no_volume() {
        let folder = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(folder.path().to_owned()).unwrap();
        drop(
            volumes
                .create(Name::Anonymous("a0"), BTreeMap::new(), BTreeMap::new())
                .unwrap(),
        );
        assert!(volumes.list().unwrap().is_empty());
        // Somebody else counts on it meanwhile.
        let first = volumes
            .create(Name::Given("shared"), BTreeMap::new(), BTreeMap::new())
            .unwrap();
        let second = volumes
            .create(Name::Given("shared"), BTreeMap::new(), BTreeMap::new())
            .unwrap();
        drop(second);
        drop(first);
        assert_eq!(volumes.list().unwrap().len(), 1);
        volumes.remove("shared", Vec::new).unwrap();
        fs::create_dir_all(folder.path().join(".gone-x/_data")).unwrap();
        Volumes::open(folder.path().to_owned()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
