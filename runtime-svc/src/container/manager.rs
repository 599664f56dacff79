//! All containers of this host: finding, creating, listing, recovering.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak},
};

use slipway_image::layer::limits::Limits;
use slipway_proto::runtime::v1::Mount;
use tokio::signal::unix::{SignalKind, signal};

use super::{resources, state::Container, userns::UserNamespaces};
use crate::{
    cgroup::Hierarchies,
    error::Error,
    events::Events,
    ids,
    layers::Layers,
    logs::config::Defaults,
    monitor::spawner::{self, Spawner},
    network::Netd,
    registry::Registry,
    volumes::Volumes,
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
    pub user_namespaces: UserNamespaces,
    /// Held while volumes get their first content.
    pub filling: Arc<tokio::sync::Mutex<()>>,
    pub hierarchies: Hierarchies,
    pub host: resources::Host,
    pub spawner: Mutex<Spawner>,
    pub events: Events,
    pub log_defaults: Defaults,
    containers: RwLock<HashMap<String, Arc<Container>>>,
    /// Ids of containers whose records cannot be read. Nobody knows what they use: it all stays.
    pub(super) unreadable: Mutex<HashSet<String>>,
    /// Names that are taken, by containers or by creations that are under way: name to id.
    pub(super) names: Mutex<HashMap<String, String>>,
}

/// Takes notice of the spawner's end, whoever brings it about; another one is started when it is needed.
fn spawner_is_reaped(inner: Weak<Inner>) -> io::Result<impl Future<Output = ()>> {
    let mut ended = signal(SignalKind::child())?;
    Ok(async move {
        while ended.recv().await.is_some() {
            let Some(inner) = inner.upgrade() else { return };
            let mut spawner = inner.spawner.lock().unwrap_or_else(PoisonError::into_inner);
            // Asking is what reaps it.
            spawner.is_alive();
        }
    })
}

impl Manager {
    /// Opens the state folder and recovers what is there.
    pub async fn open(
        state: PathBuf,
        run: PathBuf,
        registry: Registry,
        netd: Netd,
        user_namespaces: UserNamespaces,
        log_defaults: Defaults,
        unpack: Limits,
    ) -> anyhow::Result<Self> {
        log_defaults.check()?;
        fs::create_dir_all(state.join("containers"))?;
        fs::create_dir_all(run.join("containers"))?;
        fs::set_permissions(&run, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        let lock = run.join("spawner.lock");
        {
            let lock = lock.clone();
            tokio::task::spawn_blocking(move || spawner::wait_for_last(&lock)).await??;
        }
        let spawner = Spawner::start(Path::new("/proc/self/exe"), &lock)?;
        slipway_fault::point("runtime.recover.spawner");
        let layers = Layers::open(state.join("layers"), registry.clone(), unpack)?;
        let volumes = Volumes::open(state.join("volumes"))?;
        let hierarchies = Hierarchies::detect()?;
        tracing::info!(cgroup = hierarchies.version(), controllers = ?hierarchies.v2_controllers, "host");
        let host = resources::Host::of(&hierarchies);
        let manager = Self(Arc::new(Inner {
            state,
            run,
            registry,
            netd,
            layers,
            volumes,
            user_namespaces,
            filling: Arc::default(),
            unreadable: Mutex::default(),
            hierarchies,
            host,
            spawner: Mutex::new(spawner),
            events: Events::default(),
            log_defaults,
            containers: RwLock::default(),
            names: Mutex::default(),
        }));
        tokio::spawn(spawner_is_reaped(Arc::downgrade(&manager.0))?);
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

    /// What happens on this host.
    pub fn events(&self) -> &Events {
        &self.0.events
    }

    /// By name, id, or unique prefix of the id; docker's order.
    pub fn find(&self, word: &str) -> Result<Arc<Container>, Error> {
        let name = word.strip_prefix('/').unwrap_or(word);
        let named = self.lock_names().get(name).cloned();
        let containers = self
            .0
            .containers
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = containers.get(word) {
            return Ok(found.clone());
        }
        // A name may be taken for a container that is not there yet, or not called so any more.
        if let Some(found) = named.and_then(|id| containers.get(&id))
            && found.name() == name
        {
            return Ok(found.clone());
        }
        match slipway_image::id_prefix::resolve(word, containers.keys().map(String::as_str)) {
            Ok(id) => Ok(containers[id].clone()),
            Err(slipway_image::id_prefix::PrefixError::NotFound(_)) => Err(self.not_found(word)),
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
        all.sort_unstable_by(|a, b| (b.created, &b.id).cmp(&(a.created, &a.id)));
        all
    }

    /// The volumes of this host.
    pub fn volumes(&self) -> &Volumes {
        &self.0.volumes
    }

    /// Ids of the containers that have a volume.
    pub fn users_of_volume(&self, name: &str) -> Vec<String> {
        let has = |m: &Mount| m.r#type == "volume" && m.source == name;
        let unreadable = self.unreadable();
        if !unreadable.is_empty() {
            return unreadable.into_iter().collect();
        }
        self.all()
            .iter()
            .filter(|c| c.record().spec.mounts.iter().any(has))
            .map(|c| c.id.clone())
            .collect()
    }

    pub(super) fn lock_names(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.0.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take_name(&self, asked: &str, id: &str) -> Result<String, Error> {
        let mut names = self.lock_names();
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
        self.lock_names().remove(&container.name());
    }
}

/// Gives a name back unless it is kept.
pub(super) struct ReleaseName<'a> {
    manager: &'a Manager,
    name: &'a str,
    keep: bool,
}

impl<'a> ReleaseName<'a> {
    pub(super) const fn unless_kept(manager: &'a Manager, name: &'a str) -> Self {
        Self {
            manager,
            name,
            keep: false,
        }
    }

    pub(super) fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for ReleaseName<'_> {
    fn drop(&mut self) {
        if !self.keep {
            self.manager.lock_names().remove(self.name);
        }
    }
}
