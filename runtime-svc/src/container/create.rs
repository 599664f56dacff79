//! Making a container: image, name, volumes, folder; nothing runs yet.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use slipway_proto::{
    registry::v1::pull_request::Policy,
    runtime::v1::{ContainerSpec, Mount},
    types::v1::RegistryAuth,
};

use tokio::sync::OwnedMutexGuard;

use super::{
    confinement::{self, Modules},
    manager::{Manager, ReleaseName},
    merge, plan,
    record::{Life, Record},
    resources,
    state::{Container, Status},
    stop::parse_signal,
    unsupported,
};
use crate::{
    error::{Error, Tried as _},
    ids,
    layers::Kept,
    registry::{Image, Notices},
    volumes::{Pin, copy_up},
};

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
    /// Makes a container; nothing runs yet. Returns warnings with it.
    pub async fn create(
        &self,
        creation: Creation,
        notices: Option<&Notices>,
    ) -> Result<(Arc<Container>, Vec<String>), Error> {
        let mut spec = creation.spec;
        unsupported::check(&spec)?;
        self.name_peers_by_id(&mut spec);
        let warnings = resources::settle(&mut spec, &self.0.host)?;
        let id = ids::new_id();
        let name = self.take_name(&spec.name, &id)?;
        let release = ReleaseName::unless_kept(self, &name);
        let image = self
            .0
            .registry
            .image(&spec.image, creation.pull, creation.auth, notices)
            .await?;
        self.add_volumes_from(&mut spec)?;
        let effective = merge::merge(&id, &spec, &image.config)?;
        if !effective.stop_signal.is_empty() {
            parse_signal(&effective.stop_signal)?;
        }
        add_image_volumes(&mut spec, &effective.volumes);
        let (pins, own_volumes) = self.prepare_mounts(&mut spec)?;
        let container_mounts = spec.mounts.clone();
        let mut record = record(&id, &name, spec, effective, &image);
        record.own_volumes = own_volumes;
        // Checked now, so that a container that can never start is never made.
        let places = plan::Places {
            folder: Path::new("/"),
            run_folder: Path::new("/"),
            lower: Vec::new(),
            volume: &|_| PathBuf::new(),
        };
        plan::plan(&record, &places, false)?;
        confinement::label(&record.spec, &Modules::now())?;
        // Held until the container is there: from then on its record keeps them.
        let kept = self.0.layers.ensure(&image.layers).await?;
        // One container with volumes after the other: two that begin together fill a volume once, and
        // none finds it exchanged for a filled one while it runs.
        let turn = match container_mounts.iter().any(|m| m.r#type == "volume") {
            true => Some(Arc::new(self.0.filling.clone().lock_owned().await)),
            false => None,
        };
        let kept = Arc::new(kept);
        self.fill_volumes(&container_mounts, kept.clone(), turn.clone())
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
        drop(turn);
        release.keep();
        pins.into_iter().for_each(Pin::keep);
        self.tell(&container, "create", &[]);
        Ok((container, warnings))
    }

    /// Named volumes are made when first used; anonymous ones get a name. Returns those apart.
    fn prepare_mounts(&self, spec: &mut ContainerSpec) -> Result<(Vec<Pin>, Vec<String>), Error> {
        let (mut pins, mut own) = (Vec::new(), Vec::new());
        for mount in &mut spec.mounts {
            match mount.r#type.as_str() {
                "volume" => {
                    let labels = mount.volume_labels.clone().into_iter().collect();
                    let pin = self.0.volumes.create(&mount.source, labels)?;
                    if mount.source.is_empty() {
                        own.push(pin.name().to_owned());
                    }
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
        Ok((pins, own))
    }

    /// Empty volumes get what the image has in their places. The caller may go in the middle: what the
    /// work counts on goes with the work.
    async fn fill_volumes(
        &self,
        mounts: &[Mount],
        kept: Arc<Kept>,
        turn: Option<Arc<OwnedMutexGuard<()>>>,
    ) -> Result<(), Error> {
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
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            wanted.iter().try_for_each(|(target, data, in_place)| {
                copy_up(&kept.folders, target, data, *in_place)
            })
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
        starting: false,
        life: Life::default(),
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
