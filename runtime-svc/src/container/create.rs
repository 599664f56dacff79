//! Making a container: image, name, volumes, folder; nothing runs yet.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use slipway_proto::{
    registry::v1::pull_request::Policy,
    runtime::v1::{ContainerSpec, Mount},
    types::v1::RegistryAuth,
};

use tokio::sync::{OwnedMutexGuard, OwnedRwLockReadGuard};

use super::{
    confinement::{self, Modules},
    early::{self, Early},
    manager::{Manager, ReleaseName},
    merge, mounts, plan,
    record::Record,
    resources, sources,
    state::Container,
    stop::parse_signal,
    unsupported,
};
use crate::{
    disk::remove_tree,
    error::{Error, Tried as _},
    ids,
    layers::{Holder, Kept},
    logs,
    registry::{Image, Notices},
    volumes::{Name, Pin, Volumes, copy_up},
};

/// A container that was made.
pub struct Created {
    /// The container.
    pub container: Arc<Container>,
    /// Nobody removes it while this is held.
    pub opening: OwnedRwLockReadGuard<()>,
    /// What was left out of what was asked for.
    pub warnings: Vec<String>,
}

/// What a new container is made with.
#[derive(Default)]
pub struct Creation {
    /// As asked for.
    pub spec: ContainerSpec,
    /// Whether the image is fetched.
    pub pull: Policy,
    /// For fetching it.
    pub auth: Option<RegistryAuth>,
    /// It is started as soon as it is there.
    pub starts: bool,
}

impl Manager {
    /// Makes a container; nothing runs yet. Returns warnings with it.
    pub async fn create(
        &self,
        creation: Creation,
        notices: Option<&Notices>,
    ) -> Result<Created, Error> {
        let mut spec = creation.spec;
        unsupported::check(&spec)?;
        self.name_peers_by_id(&mut spec);
        let mut warnings = resources::settle(&mut spec, &self.0.host)?;
        warnings.extend(super::connect::warning(spec.network.as_ref()));
        for mount in &mut spec.mounts {
            mount.target = mounts::clean_target(&mount.target)?;
        }
        spec.log = Some(self.0.log_defaults.complete(spec.log.take()));
        logs::config::check(&spec)?;
        let id = ids::new_id();
        let name = self.take_name(&spec.name, &id)?;
        let release = ReleaseName::unless_kept(self, &name);
        slipway_fault::point("runtime.create.named");
        let config = spec.network.clone().unwrap_or_default();
        let early = (creation.starts && early::is_plain(&config)).then(|| {
            let hostname = merge::hostname(&id, &spec);
            Early::ask(&self.0.netd, &id, &name, &hostname, config)
        });
        let (image, arriving) = self
            .0
            .registry
            .arriving(&spec.image, creation.pull, creation.auth, notices)
            .await?;
        self.add_volumes_from(&mut spec)?;
        let effective = merge::merge(&id, &spec, &image.config)?;
        if !effective.stop_signal.is_empty() {
            parse_signal(&effective.stop_signal)?;
        }
        add_image_volumes(&mut spec, &effective.volumes);
        check_mounts(&spec.mounts)?;
        let granted = self.grant_ids(&spec)?;
        // Other images that are mounted, held like its own.
        let (image_mounts, _kept_images) = self
            .prepare_images(&id, &spec, &creation.pull, notices)
            .await?;
        let own_volumes = prepare_mounts(&mut spec)?;
        let container_mounts = spec.mounts.clone();
        let mut record = record(&id, &name, spec, effective, &image);
        record.own_volumes = own_volumes;
        record.image_mounts = image_mounts;
        record.user_map = granted.as_ref().map(|granted| granted.map.clone());
        // What is not there yet is said at the start.
        if let Ok(Some(peer)) = self.network_peer(&record) {
            record.effective.go_by(&peer.record().effective.hostname);
        }
        // Checked now, so that a container that can never start is never made.
        let places = plan::Places {
            folder: Path::new("/"),
            run_folder: Path::new("/"),
            lower: Vec::new(),
            volatile: false,
            volume: &|_| PathBuf::new(),
            layer: &|_| PathBuf::new(),
        };
        plan::plan(&record, &places, false)?;
        confinement::label(&record.spec, &Modules::now())?;
        let folder = self.0.state.join("containers").join(&id);
        // Before anything is made for it: what is left of that, should we end, is found by this.
        let making = Making::begin(&folder, &record)
            .tried(|| format!("cannot make the folder of container {name}"))?;
        let pins = self.pin_volumes(&container_mounts)?;
        slipway_fault::point("runtime.create.pinned");
        // Held until the container is there: from then on its record keeps them.
        let holder = Holder::Container(id.clone());
        let kept = self.0.layers.ensure(&image.layers, holder).await?;
        if let Some(arriving) = arriving {
            arriving.let_go(notices).await;
        }
        slipway_fault::point("runtime.create.held");
        // Before anybody waits for our turn: a device may take long to answer.
        let devices = self.open_devices(&container_mounts).await?;
        // One container with volumes after the other: two that begin together fill a volume once, and
        // none finds it exchanged for a filled one while it runs.
        let turn = match container_mounts.iter().any(|m| m.r#type == "volume") {
            true => Some(Arc::new(self.0.filling.clone().lock_owned().await)),
            false => None,
        };
        let kept = Arc::new(kept);
        self.fill_volumes(&container_mounts, kept.clone(), devices, turn.clone())
            .await?;
        slipway_fault::point("runtime.create.filled");
        making
            .finish(&folder)
            .tried(|| format!("cannot make the folder of container {name}"))?;
        let run_folder = self.0.run.join("containers").join(&id);
        let container = Arc::new(Container::new(record, folder, run_folder));
        // Before anybody can find it: whoever prunes what does not run must not take it from its start.
        let opening = container.opening.clone().read_owned().await;
        container.set_early(early);
        self.insert(container.clone());
        slipway_fault::point("runtime.create.inserted");
        // From now on its record has them.
        drop(granted);
        // Its id is told at once, and a moment later it survives a power cut too: behind its start, if it is
        // started.
        if !creation.starts {
            container.sync_soon();
        }
        drop(turn);
        release.keep();
        pins.into_iter().for_each(Pin::keep);
        self.tell(&container, "create", &[]);
        Ok(Created {
            container,
            opening,
            warnings,
        })
    }

    /// The volumes among these, which are made when first used.
    fn pin_volumes(&self, mounts: &[Mount]) -> Result<Vec<Pin>, Error> {
        let mut pins = Vec::new();
        for mount in mounts.iter().filter(|m| m.r#type == "volume") {
            let labels = mount.volume_labels.clone().into_iter().collect();
            let options = mount.volume_options.clone().into_iter().collect();
            let name = match mount.anonymous && !mount.inherited {
                true => Name::Anonymous(&mount.source),
                false => Name::Given(&mount.source),
            };
            let pin = self.0.volumes.create(name, labels, options)?;
            if pin.is_new() {
                self.tell_volume(pin.name(), "create");
            }
            pins.push(pin);
        }
        Ok(pins)
    }

    /// The layers of images that are mounted, top first, by target; they stay while the answer lives.
    async fn prepare_images(
        &self,
        id: &str,
        spec: &ContainerSpec,
        pull: &Policy,
        notices: Option<&Notices>,
    ) -> Result<(BTreeMap<String, Vec<String>>, Vec<Kept>), Error> {
        let (mut layers, mut kept) = (BTreeMap::new(), Vec::new());
        for mount in spec.mounts.iter().filter(|m| m.r#type == "image") {
            let image = self.0.registry.image(&mount.source, *pull, None, notices);
            let image = image.await?;
            let holder = Holder::Container(id.to_owned());
            kept.push(self.0.layers.ensure(&image.layers, holder).await?);
            let mut ids: Vec<String> = Vec::new();
            for layer in image.layers.iter().rev() {
                let id = layer.diff_id.to_string();
                if !ids.contains(&id) {
                    ids.push(id);
                }
            }
            if ids.is_empty() {
                return Err(Error::Invalid(format!(
                    "image {} has no files to be mounted",
                    mount.source
                )));
            }
            layers.insert(mount.target.clone(), ids);
        }
        Ok((layers, kept))
    }

    /// Mounts the devices of volumes that are to be filled.
    async fn open_devices(&self, mounts: &[Mount]) -> Result<OpenDevices, Error> {
        let mut devices = OpenDevices {
            volumes: self.0.volumes.clone(),
            opener: format!("copy {}", ids::new_id()),
            mounted: HashSet::new(),
        };
        let names: Vec<String> = to_fill(mounts).map(|m| m.source.clone()).collect();
        if names.is_empty() {
            return Ok(devices);
        }
        // It closes them when nobody waits for it any more.
        tokio::task::spawn_blocking(move || {
            for name in names {
                if devices.volumes.open_device(&name, &devices.opener)? {
                    devices.mounted.insert(name);
                }
            }
            Ok(devices)
        })
        .await
        .map_err(io::Error::other)
        .tried(|| "cannot open the volumes".to_owned())?
    }

    /// Empty volumes get what the image has in their places. The caller may go in the middle: what the
    /// work counts on goes with the work.
    async fn fill_volumes(
        &self,
        mounts: &[Mount],
        kept: Arc<Kept>,
        devices: OpenDevices,
        turn: Option<Arc<OwnedMutexGuard<()>>>,
    ) -> Result<(), Error> {
        let wanted: Vec<(String, String, bool)> = to_fill(mounts)
            .map(|m| {
                // What is mounted there cannot be exchanged.
                let in_place = devices.mounted.contains(&m.source)
                    || !self.users_of_volume(&m.source).is_empty();
                (m.target.clone(), m.source.clone(), in_place)
            })
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let volumes = self.0.volumes.clone();
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let _devices = devices;
            wanted.iter().try_for_each(|(target, name, in_place)| {
                copy_up(&kept.folders, target, &volumes.data(name), *in_place)
            })
        })
        .await
        .map_err(io::Error::other)
        .tried(|| "cannot fill the volumes".to_owned())?
    }

    /// `--volumes-from`: the volumes and binds of other containers, unless something of its own is there.
    fn add_volumes_from(&self, spec: &mut ContainerSpec) -> Result<(), Error> {
        for text in &spec.volumes_from {
            let (name, mode) = text.split_once(':').unwrap_or((text, ""));
            let mut read_only = false;
            for word in mode.split(',').filter(|w| !w.is_empty()) {
                match word {
                    "ro" => read_only = true,
                    // Without SELinux docker relabels nothing either.
                    "rw" | "z" | "Z" => {}
                    _ => {
                        return Err(Error::Invalid(format!(
                            "invalid mode for volumes-from: {mode}"
                        )));
                    }
                }
            }
            for mount in self.find(name)?.record().spec.mounts {
                let taken = spec.mounts.iter().any(|m| m.target == mount.target);
                if mount.r#type != "tmpfs" && !taken {
                    let read_only = read_only || mount.read_only;
                    spec.mounts.push(Mount {
                        read_only,
                        inherited: true,
                        ..mount
                    });
                }
            }
        }
        Ok(())
    }
}

fn record(
    id: &str,
    name: &str,
    spec: ContainerSpec,
    effective: merge::Effective,
    image: &Image,
) -> Record {
    Record {
        id: id.to_owned(),
        name: name.to_owned(),
        created: crate::monitor::now(),
        spec,
        effective,
        image_id: image.id.clone(),
        image_digest: image.digest.clone(),
        layers: image.layers.iter().map(|l| l.diff_id.to_string()).collect(),
        own_volumes: Vec::new(),
        user_map: None,
        image_mounts: Default::default(),
        updating: false,
        publishing: false,
        changing: None,
    }
}

/// Rules between and within mounts, in docker's words (moby, linux_parser.go).
fn check_mounts(all: &[Mount]) -> Result<(), Error> {
    for (number, mount) in all.iter().enumerate() {
        let refuse = |why: &str| {
            let kind = &mount.r#type;
            Err(Error::Invalid(format!(
                "invalid mount config for type \"{kind}\": {why}"
            )))
        };
        if all[..number].iter().any(|m| m.target == mount.target) {
            return Err(Error::Invalid(format!(
                "Duplicate mount point: {}",
                mount.target
            )));
        }
        let leaves = mount.subpath.starts_with('/') || mount.subpath.split('/').any(|p| p == "..");
        if leaves {
            return refuse("subpath must be a relative path within the volume");
        }
        if mount.r#type == "volume" && mount.source.is_empty() {
            if !mount.subpath.is_empty() {
                return refuse("must not set Subpath when using anonymous volumes");
            }
            if mount.read_only {
                return refuse("must not set ReadOnly mode when using anonymous volumes");
            }
        }
    }
    Ok(())
}

/// VOLUME of the image: an anonymous volume where the caller mounts nothing.
fn add_image_volumes(spec: &mut ContainerSpec, volumes: &[String]) {
    // A VOLUME that names no place has none.
    let targets = volumes.iter().filter_map(|v| mounts::clean_target(v).ok());
    for target in targets {
        if !spec.mounts.iter().any(|m| m.target == target) {
            spec.mounts.push(Mount {
                r#type: "volume".into(),
                target,
                ..Default::default()
            });
        }
    }
}

/// Volumes of devices that are mounted to be filled, until this goes.
struct OpenDevices {
    volumes: Volumes,
    opener: String,
    mounted: HashSet<String>,
}

impl Drop for OpenDevices {
    fn drop(&mut self) {
        self.volumes.close_devices(&self.opener);
    }
}

/// Volumes that get what the image has in their places, if they are empty. A part of a volume is there
/// already, or cannot be mounted.
fn to_fill(mounts: &[Mount]) -> impl Iterator<Item = &Mount> {
    mounts
        .iter()
        .filter(|m| m.r#type == "volume" && !m.no_copy && m.subpath.is_empty())
}

/// Anonymous volumes get their names, which are returned; binds their sources.
fn prepare_mounts(spec: &mut ContainerSpec) -> Result<Vec<String>, Error> {
    let mut own = Vec::new();
    for mount in &mut spec.mounts {
        match mount.r#type.as_str() {
            "volume" if mount.source.is_empty() => {
                mount.anonymous = true;
                mount.source = ids::new_id();
                own.push(mount.source.clone());
            }
            "volume" => mount.anonymous &= mount.inherited,
            "bind" => sources::bind(mount)?,
            _ => {}
        }
    }
    Ok(own)
}

/// The folder of a container that is being made, under a temporary name: it is there whole or not at
/// all. Its record says which volumes are made for it; when this goes unfinished, or the service does,
/// both go.
struct Making(Option<PathBuf>);

impl Making {
    fn begin(folder: &Path, record: &Record) -> io::Result<Self> {
        let making = Self(Some(folder.with_extension("new")));
        if let Some(folder) = &making.0 {
            fill_folder(folder, record)?;
        }
        Ok(making)
    }

    fn finish(mut self, folder: &Path) -> io::Result<()> {
        if let Some(temporary) = &self.0 {
            fs::rename(temporary, folder)?;
        }
        self.0 = None;
        slipway_fault::point("runtime.create.renamed");
        Ok(())
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if let Some(folder) = &self.0
            && let Err(error) = remove_tree(folder)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %folder.display(), %error, "could not be removed");
        }
    }
}

fn fill_folder(temporary: &Path, record: &Record) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().mode(0o700).create(temporary)?;
    slipway_fault::point("runtime.create.folder");
    for name in ["upper", "work"] {
        // The upper folder's mode is that of the container's root.
        fs::DirBuilder::new()
            .mode(0o755)
            .create(temporary.join(name))?;
    }
    slipway_fault::point("runtime.create.upper");
    slipway_fault::fallible("runtime.create.record")?;
    record.write(temporary)
}
