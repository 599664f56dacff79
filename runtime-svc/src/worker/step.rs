//! RUN: one process in a snapshot, confined like a container, streamed, and killed with its caller.

use std::{collections::HashSet, fs, path::PathBuf, sync::Arc, time::Duration};

use slipway_proto::runtime::v1::{ContainerSpec, NetworkConfig, Ulimit};
use tokio::sync::mpsc;

use super::{Ask, Snapshot, StepMount, Worker, stubs::Stubs};
use crate::{
    cgroup::Group,
    container::{
        confinement, etc,
        manager::Manager,
        merge::Effective,
        plan::{self, Places},
        record::Record,
    },
    error::{Error, Tried as _},
    ids,
    logs::{Piece, reader::LogReader},
    monitor::{
        client::Connection,
        log_files,
        protocol::{Event, ExitRecord, Request},
    },
    network::Who,
};

/// How often, and after which pause, a run folder is tried to be removed: ten seconds.
const ATTEMPTS: u32 = 200;
const PAUSE: Duration = Duration::from_millis(50);

/// What runs.
#[derive(Debug, Default)]
pub struct Step {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `KEY=value`
    pub env: Vec<String>,
    /// Absolute; "" = /.
    pub working_dir: String,
    /// `user[:group]`
    pub user: String,
    /// "", `default`, `none` or `host`.
    pub network: String,
    /// `name:address`
    pub extra_hosts: Vec<String>,
    /// Bytes; 0 = docker's default.
    pub shm_size: u64,
    /// "" = `buildkitsandbox`, as docker.
    pub hostname: String,
    /// What it sees besides.
    pub mounts: Vec<StepMount>,
    /// As a privileged container.
    pub insecure: bool,
    /// Limits of its processes.
    pub ulimits: Vec<Ulimit>,
}

impl Worker {
    /// Runs a step; hands its output to `output` and returns how it ended. Dropping the future kills it.
    pub async fn run(
        &self,
        snapshot: &Arc<Snapshot>,
        step: Step,
        output: mpsc::Sender<Piece>,
        ask: &Ask,
    ) -> Result<ExitRecord, Error> {
        let _turn = snapshot.turn_to_change().await?;
        tokio::select! {
            ended = snapshot.while_there(self.run_alone(snapshot, step, output, ask)) => ended,
            error = snapshot.too_large() => Err(error),
        }
    }

    /// Runs a step in a snapshot that is taken. Dropping the future kills it.
    async fn run_alone(
        &self,
        snapshot: &Arc<Snapshot>,
        mut step: Step,
        output: mpsc::Sender<Piece>,
        ask: &Ask,
    ) -> Result<ExitRecord, Error> {
        let id = ids::new_id();
        let mounts = std::mem::take(&mut step.mounts);
        let record = record(&id, step);
        let mut stubs = Stubs::usual(snapshot);
        if !mounts.is_empty() {
            let root = snapshot.open()?;
            let targets = mounts.iter().map(|m| &*m.target);
            stubs
                .add(&root, targets)
                .tried(|| "cannot look at the mount points".to_owned())?;
        }
        // The sources stay as long as the step may use them.
        let mut ready = self.make_ready(snapshot, mounts, ask).await?;
        slipway_fault::point("runtime.step.ready");
        let clean = CleanUp {
            worker: self.clone(),
            id: id.clone(),
            run_folder: self.manager.run_folder(&id),
        };
        fs::create_dir_all(clean.run_folder.join("rootfs"))
            .tried(|| "cannot make a run folder".to_owned())?;
        slipway_fault::point("runtime.step.run-folder");
        let network = record.spec.network.clone().unwrap_or_default();
        let who = Who {
            id: &id,
            name: &id[..12],
            hostname: &record.effective.hostname,
        };
        let attached = self.manager.netd().attach(who, &network).await?;
        slipway_fault::point("runtime.step.endpoint");
        let written = slipway_fault::fallible("runtime.step.etc").and_then(|()| {
            etc::write(
                &snapshot.folder,
                &record.effective,
                "",
                &network,
                attached.as_ref().map_or(&[], |a| &a.endpoints),
            )
        });
        written.tried(|| "cannot write the hosts file".to_owned())?;
        let places = Places {
            folder: &snapshot.folder,
            run_folder: &clean.run_folder,
            lower: snapshot.lower.clone(),
            volatile: true,
            volume: &|_| PathBuf::new(),
            layer: &|_| PathBuf::new(),
        };
        snapshot.forget_mount()?;
        let mut plan = plan::plan(&record, &places, attached.is_some())?;
        plan.mounts.append(&mut ready.mounts);
        plan.process.label = confinement::label(&record.spec, &confinement::Modules::now())?;
        let what = || "cannot run a step".to_owned();
        let socket = self
            .manager
            .spawn(&plan, attached.as_ref(), &[], &ready.given)
            .tried(what)?;
        slipway_fault::point("runtime.step.asked");
        // What it does not have open it cannot keep.
        ready.given.clear();
        let connection = Connection::new(socket).tried(what)?;
        let ended = follow(&connection, &snapshot.folder, &output).await;
        slipway_fault::point("runtime.step.ended");
        drop(clean);
        slipway_fault::point("runtime.step.cleaned");
        for base in log_files::list(&snapshot.folder).unwrap_or_default() {
            log_files::remove(&snapshot.folder, base);
        }
        for name in ["exit.json", "resolv.conf", "hostname", "hosts"] {
            // Not there when the step did not come so far.
            let _ = fs::remove_file(snapshot.folder.join(name));
        }
        stubs.remove(snapshot);
        slipway_fault::point("runtime.step.bared");
        drop(ready);
        let measured = snapshot.clone();
        tokio::task::spawn_blocking(move || measured.check_quota())
            .await
            .map_err(std::io::Error::other)
            .tried(what)??;
        ended
    }
}

async fn follow(
    connection: &Connection,
    folder: &std::path::Path,
    output: &mpsc::Sender<Piece>,
) -> Result<ExitRecord, Error> {
    let what = || "cannot hear from the step's monitor".to_owned();
    let mut reader = None;
    loop {
        let event = connection.next().await.tried(what)?;
        let ended = match event {
            Some((Event::Running(_), _)) => {
                slipway_fault::point("runtime.step.running");
                reader = Some(LogReader::open(folder.to_owned(), 0));
                connection.follow().await.tried(what)?;
                None
            }
            Some((Event::Failed(error), _)) => return Err(error.into()),
            Some((Event::Exited(record), _)) => Some(record),
            Some((Event::Rotated(_), _)) => {
                // What was read need not be kept. A monitor that has just ended keeps everything.
                let read = reader.as_ref().map(LogReader::position);
                let _ = connection.request(&Request::Hold(read), &[]).await;
                None
            }
            Some(_) => None,
            None => return Err(Error::Conflict("the step's monitor was killed".to_owned())),
        };
        while let Some(piece) = reader
            .as_mut()
            .map_or(Ok(None), LogReader::next_piece)
            .tried(what)?
        {
            if reader.as_mut().is_some_and(|r| r.take_lost() > 0) {
                return Err(Error::Conflict(
                    "the step wrote faster than its output was read, and part of that is lost"
                        .to_owned(),
                ));
            }
            if output.send(piece).await.is_err() {
                return Err(Error::Conflict("the caller is gone".to_owned()));
            }
        }
        if let Some(record) = ended {
            return Ok(record);
        }
    }
}

/// Ends whatever is left of a step, also when its call was dropped in the middle.
struct CleanUp {
    worker: Worker,
    id: String,
    run_folder: PathBuf,
}

impl Drop for CleanUp {
    fn drop(&mut self) {
        let group = Group::open(
            self.worker.manager.hierarchies(),
            &format!("{}/{}", crate::cgroup::PARENT, self.id),
        );
        // Gone already after a step that ended by itself.
        if let Err(error) = group.kill().and_then(|()| group.remove()) {
            tracing::warn!(%error, "the cgroups of a build step could not be removed");
        }
        let (netd, id) = (self.worker.manager.netd().clone(), self.id.clone());
        let folder = std::mem::take(&mut self.run_folder);
        tokio::spawn(async move {
            remove(&folder).await;
            slipway_fault::point("runtime.step.unfoldered");
            netd.release(&id).await;
            slipway_fault::point("runtime.step.released");
        });
    }
}

/// Takes a run folder away. A monitor that has only just begun may still be writing there, and leaves when it sees
/// that its step is gone.
async fn remove(folder: &std::path::Path) {
    for _ in 0..ATTEMPTS {
        match fs::remove_dir_all(folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {}
            _ => return,
        }
        tokio::time::sleep(PAUSE).await;
    }
    tracing::warn!(
        ?folder,
        "the run folder of a build step could not be removed"
    );
}

fn record(id: &str, step: Step) -> Record {
    let or = |text: String, other: &str| {
        if text.is_empty() {
            other.to_owned()
        } else {
            text
        }
    };
    let network = NetworkConfig {
        mode: step.network,
        extra_hosts: step.extra_hosts,
        ..NetworkConfig::default()
    };
    Record {
        id: id.to_owned(),
        name: id[..12].to_owned(),
        created: crate::monitor::now(),
        spec: ContainerSpec {
            network: Some(network),
            shm_size: step.shm_size,
            privileged: step.insecure,
            ulimits: step.ulimits,
            ..ContainerSpec::default()
        },
        effective: Effective {
            command: step.args,
            env: step.env,
            working_dir: or(step.working_dir, "/"),
            user: step.user,
            hostname: or(step.hostname, "buildkitsandbox"),
            ..Effective::default()
        },
        image_id: String::new(),
        image_digest: String::new(),
        layers: Vec::new(),
        own_volumes: Vec::new(),
        user_map: None,
        image_mounts: Default::default(),
        updating: false,
        publishing: false,
        changing: None,
    }
}

/// Ends the steps of an instance that was killed: their monitors live on, and no container has their
/// id. Whatever else has a run folder and no container is taken away with them.
pub fn end_orphans(manager: &Manager) {
    let mut known: HashSet<String> = manager.all().iter().map(|c| c.id.clone()).collect();
    known.extend(manager.unreadable());
    let folder = manager.run_folder("");
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let id = entry.file_name().to_string_lossy().into_owned();
        if known.contains(&id) || !ids::is_id(&id) {
            continue;
        }
        let group = Group::open(manager.hierarchies(), &format!("slipway/{id}"));
        if let Err(error) = group.kill().and_then(|()| group.remove()) {
            tracing::warn!(%error, id, "the cgroups of an unknown container could not be removed");
        }
        // Its monitor may still be writing there; it leaves when it sees that nothing is left.
        let _ = fs::remove_dir_all(entry.path());
        let (netd, id) = (manager.netd().clone(), id);
        tokio::spawn(async move { netd.release(&id).await });
    }
}
