//! All containers of this host: finding, creating, listing, recovering.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use slipway_proto::{
    registry::v1::pull_request::Policy,
    runtime::v1::{ContainerSpec, Mount},
    types::v1::RegistryAuth,
};
use tokio::sync::broadcast;

use super::{
    merge,
    record::Record,
    state::{Container, Status},
    unsupported,
};
use crate::{
    cgroup::Hierarchies,
    error::{Error, Tried as _},
    events::{self, Events},
    ids,
    layers::Layers,
    monitor::spawner::{self, Spawner},
    network::Netd,
    registry::{Image, Notices, Registry},
    volumes::{Pin, Volumes, copy_up},
};

/// The containers of this host. Cheap to clone.
#[derive(Clone)]
pub struct Manager(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub state: PathBuf,
    pub run: PathBuf,
    pub registry: Registry,
    pub netd: Netd,
    pub layers: Layers,
    pub volumes: Volumes,
    filling: tokio::sync::Mutex<()>,
    pub hierarchies: Hierarchies,
    pub spawner: Mutex<Spawner>,
    pub events: Events,
    containers: RwLock<HashMap<String, Arc<Container>>>,
    /// Names that are taken, by containers or by creations that are under way: name to id.
    pub(super) names: Mutex<HashMap<String, String>>,
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
}

impl Manager {
    /// Opens the state folder and recovers what is there.
    pub async fn open(
        state: PathBuf,
        run: PathBuf,
        registry: Registry,
        netd: Netd,
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(state.join("containers"))?;
        fs::create_dir_all(run.join("containers"))?;
        fs::set_permissions(&run, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        let lock = run.join("spawner.lock");
        {
            let lock = lock.clone();
            tokio::task::spawn_blocking(move || spawner::wait_for_last(&lock)).await??;
        }
        let spawner = Spawner::start(Path::new("/proc/self/exe"), &lock)?;
        let layers = Layers::open(state.join("layers"), registry.clone())?;
        let volumes = Volumes::open(state.join("volumes"))?;
        let hierarchies = Hierarchies::detect()?;
        tracing::info!(cgroup = hierarchies.version(), controllers = ?hierarchies.v2_controllers, "host");
        let manager = Self(Arc::new(Inner {
            state,
            run,
            registry,
            netd,
            layers,
            volumes,
            filling: tokio::sync::Mutex::default(),
            hierarchies,
            spawner: Mutex::new(spawner),
            events: Events::default(),
            containers: RwLock::default(),
            names: Mutex::default(),
        }));
        manager.recover().await?;
        Ok(manager)
    }

    /// Where unpacked layers are.
    pub fn layers(&self) -> &Layers {
        &self.0.layers
    }

    /// Where images come from.
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// The cgroup trees of this host.
    pub fn hierarchies(&self) -> &Hierarchies {
        &self.0.hierarchies
    }

    /// netd.
    pub fn netd(&self) -> &Netd {
        &self.0.netd
    }

    /// Folder of live state of a process with this id.
    pub fn run_folder(&self, id: &str) -> PathBuf {
        self.0.run.join("containers").join(id)
    }

    /// The state folder.
    pub fn state_folder(&self) -> &Path {
        &self.0.state
    }

    /// Tells subscribers what happened to a volume.
    pub fn tell_volume(&self, name: &str, action: &str) {
        self.0.events.tell("volume", action, name, HashMap::new());
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<events::Happening> {
        self.0.events.subscribe()
    }

    /// By name, id, or unique prefix of the id; docker's order.
    pub fn find(&self, word: &str) -> Result<Arc<Container>, Error> {
        let containers = self
            .0
            .containers
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = containers.get(word) {
            return Ok(found.clone());
        }
        let name = word.strip_prefix('/').unwrap_or(word);
        if let Some(found) = containers.values().find(|c| c.name() == name) {
            return Ok(found.clone());
        }
        match slipway_image::id_prefix::resolve(word, containers.keys().map(String::as_str)) {
            Ok(id) => Ok(containers[id].clone()),
            Err(slipway_image::id_prefix::PrefixError::NotFound(_)) => {
                Err(Error::NoSuchContainer(word.to_owned()))
            }
            Err(_) => Err(Error::AmbiguousId(word.to_owned())),
        }
    }

    /// All containers, newest first.
    pub fn all(&self) -> Vec<Arc<Container>> {
        let containers = self
            .0
            .containers
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = containers.values().cloned().collect();
        drop(containers);
        all.sort_by_cached_key(|c| std::cmp::Reverse((c.record().created, c.id.clone())));
        all
    }

    /// The volumes of this host.
    pub fn volumes(&self) -> &Volumes {
        &self.0.volumes
    }

    /// Ids of the containers that have a volume.
    pub fn users_of_volume(&self, name: &str) -> Vec<String> {
        let has = |m: &Mount| m.r#type == "volume" && m.source == name;
        self.all()
            .iter()
            .filter(|c| c.record().spec.mounts.iter().any(has))
            .map(|c| c.id.clone())
            .collect()
    }

    /// Makes a container; nothing runs yet. Returns warnings with it.
    pub async fn create(
        &self,
        creation: Creation,
        notices: Option<&Notices>,
    ) -> Result<(Arc<Container>, Vec<String>), Error> {
        let mut spec = creation.spec;
        unsupported::check(&spec)?;
        let id = ids::new_id();
        let name = self.take_name(&spec.name, &id)?;
        let release = ReleaseName {
            manager: self,
            name: &name,
            keep: false,
        };
        let image = self
            .0
            .registry
            .image(&spec.image, creation.pull, creation.auth, notices)
            .await?;
        self.add_volumes_from(&mut spec)?;
        let effective = merge::merge(&id, &spec, &image.config)?;
        if !effective.stop_signal.is_empty() {
            super::lifecycle::parse_signal(&effective.stop_signal)?;
        }
        add_image_volumes(&mut spec, &effective.volumes);
        let pins = self.prepare_mounts(&mut spec)?;
        let container_mounts = spec.mounts.clone();
        let record = record(&id, &name, spec, effective, &image);
        // Checked now, so that a container that can never start is never made.
        let places = super::plan::Places {
            folder: Path::new("/"),
            run_folder: Path::new("/"),
            lower: Vec::new(),
            volume: &|_| PathBuf::new(),
        };
        let plan = super::plan::plan(&record, &places, false)?;
        let mut warnings = self.0.hierarchies.missing_for(&plan.cgroup.limits);
        let check = image.config.config.healthcheck.as_ref();
        if record.spec.health.is_none() && check.is_some_and(|h| h.test != ["NONE"]) {
            warnings
                .push("the image's HEALTHCHECK is not run: that is not supported yet".to_owned());
        }
        // Held until the container is there: from then on its record keeps them.
        let kept = self.0.layers.ensure(&image.layers).await?;
        self.fill_volumes(&container_mounts, kept.folders.clone())
            .await?;
        let folder = self.0.state.join("containers").join(&id);
        make_folder(&folder, &record)
            .tried(|| format!("cannot make the folder of container {name}"))?;
        let run_folder = self.0.run.join("containers").join(&id);
        let container = Arc::new(Container::new(record, Status::Created, folder, run_folder));
        self.insert(container.clone());
        // Its id is told at once; a moment later it survives power loss too.
        let folder = container.folder.clone();
        tokio::task::spawn_blocking(move || {
            // Removed already is fine; a disk that fails is noticed by whatever is written next.
            if let Err(error) = super::record::sync(&folder) {
                tracing::debug!(%error, "a container's record could not be synced");
            }
        });
        release.keep();
        pins.into_iter().for_each(Pin::keep);
        self.tell(&container, "create", &[]);
        Ok((container, warnings))
    }

    fn take_name(&self, asked: &str, id: &str) -> Result<String, Error> {
        let mut names = self.0.names.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.is_empty() {
            loop {
                let name = ids::random_name();
                let name = if names.contains_key(&name) {
                    format!("{name}{}", names.len())
                } else {
                    name
                };
                if !names.contains_key(&name) {
                    names.insert(name.clone(), id.to_owned());
                    return Ok(name);
                }
            }
        }
        let name = asked.strip_prefix('/').unwrap_or(asked);
        if !ids::is_name(name) {
            return Err(Error::Invalid(format!(
                "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
            )));
        }
        if let Some(holder) = names.get(name) {
            return Err(Error::NameInUse {
                name: name.to_owned(),
                id: holder.clone(),
            });
        }
        names.insert(name.to_owned(), id.to_owned());
        Ok(name.to_owned())
    }

    /// Named volumes are made when first used; anonymous ones get a name.
    fn prepare_mounts(&self, spec: &mut ContainerSpec) -> Result<Vec<Pin>, Error> {
        let mut pins = Vec::new();
        for mount in &mut spec.mounts {
            match mount.r#type.as_str() {
                "volume" => {
                    let labels = mount.volume_labels.clone().into_iter().collect();
                    let pin = self.0.volumes.create(&mount.source, labels)?;
                    pin.name().clone_into(&mut mount.source);
                    pins.push(pin);
                }
                "bind" if mount.create_source => {
                    fs::create_dir_all(&mount.source)
                        .tried(|| format!("cannot make {}", mount.source))?;
                }
                "bind" if !Path::new(&mount.source).exists() => {
                    return Err(Error::Invalid(format!(
                        "bind source path does not exist: {}",
                        mount.source
                    )));
                }
                _ => {}
            }
        }
        Ok(pins)
    }

    /// Empty volumes get what the image has in their places.
    async fn fill_volumes(&self, mounts: &[Mount], lower: Vec<PathBuf>) -> Result<(), Error> {
        let wanted: Vec<(String, PathBuf, bool)> = mounts
            .iter()
            .filter(|m| m.r#type == "volume" && !m.no_copy)
            .map(|m| {
                let in_place = !self.users_of_volume(&m.source).is_empty();
                (m.target.clone(), self.0.volumes.data(&m.source), in_place)
            })
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        // One after the other, so that two containers that begin together fill a volume once.
        let _turn = self.0.filling.lock().await;
        tokio::task::spawn_blocking(move || {
            wanted
                .iter()
                .try_for_each(|(target, data, in_place)| copy_up(&lower, target, data, *in_place))
        })
        .await
        .map_err(io::Error::other)
        .tried(|| "cannot fill the volumes".to_owned())?
    }

    /// `--volumes-from`: the volumes and binds of other containers, unless something of its own is there.
    fn add_volumes_from(&self, spec: &mut ContainerSpec) -> Result<(), Error> {
        for text in &spec.volumes_from {
            let (name, read_only) = match text.split_once(':') {
                None | Some((_, "rw")) => (text.split(':').next().unwrap_or(text), false),
                Some((name, "ro")) => (name, true),
                Some((_, mode)) => {
                    return Err(Error::Invalid(format!(
                        "invalid mode for volumes-from: {mode}"
                    )));
                }
            };
            for mount in self.find(name)?.record().spec.mounts {
                let taken = spec.mounts.iter().any(|m| m.target == mount.target);
                if mount.r#type != "tmpfs" && !taken {
                    let read_only = read_only || mount.read_only;
                    spec.mounts.push(Mount { read_only, ..mount });
                }
            }
        }
        Ok(())
    }

    pub(super) fn insert(&self, container: Arc<Container>) {
        let mut containers = self
            .0
            .containers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        containers.insert(container.id.clone(), container);
    }

    /// Forgets a container.
    pub(super) fn forget(&self, container: &Container) {
        self.0
            .containers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&container.id);
        let name = container.name();
        self.0
            .names
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&name);
    }

    /// Gives a container another name.
    pub async fn rename(&self, container: &Container, name: &str) -> Result<(), Error> {
        let _turn = container.operation.lock().await;
        let old = container.name();
        let new = self.take_name(name, &container.id)?;
        let release = ReleaseName {
            manager: self,
            name: &new,
            keep: false,
        };
        container
            .update(|r| r.name.clone_from(&new))
            .tried(|| format!("cannot rename {old}"))?;
        release.keep();
        self.0
            .names
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&old);
        Ok(())
    }

    /// Tells subscribers what happened.
    pub(super) fn tell(&self, container: &Container, action: &str, more: &[(&str, String)]) {
        let record = container.record();
        let mut attributes: HashMap<String, String> = record.effective.labels.into_iter().collect();
        attributes.insert("name".into(), record.name);
        attributes.insert("image".into(), record.spec.image);
        attributes.extend(more.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
        self.0
            .events
            .tell("container", action, &container.id, attributes);
    }
}

/// Gives a name back unless it is kept.
struct ReleaseName<'a> {
    manager: &'a Manager,
    name: &'a str,
    keep: bool,
}

impl ReleaseName<'_> {
    fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for ReleaseName<'_> {
    fn drop(&mut self) {
        if !self.keep {
            self.manager
                .0
                .names
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(self.name);
        }
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
        starting: false,
    }
}

/// VOLUME of the image: an anonymous volume where the caller mounts nothing.
fn add_image_volumes(spec: &mut ContainerSpec, volumes: &[String]) {
    for target in volumes {
        if !spec
            .mounts
            .iter()
            .any(|m| m.target.trim_end_matches('/') == target.trim_end_matches('/'))
        {
            spec.mounts.push(Mount {
                r#type: "volume".into(),
                target: target.clone(),
                ..Default::default()
            });
        }
    }
}

/// Makes a container's folder under a temporary name first: it is there whole or not at all.
fn make_folder(folder: &Path, record: &Record) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let temporary = folder.with_extension("new");
    fs::DirBuilder::new().mode(0o700).create(&temporary)?;
    for name in ["upper", "work"] {
        // The upper folder's mode is that of the container's root.
        fs::DirBuilder::new()
            .mode(0o755)
            .create(temporary.join(name))?;
    }
    record.write(&temporary)?;
    fs::rename(&temporary, folder)
}
