//! The workers: runtime-svcs that prepare root filesystems, run steps in them and make layers.
//!
//! This file is one of them; `fleet` all of them, `choice` which of them does a step, `placing` a step's way
//! to one that has done it. Everything that a build has at one belongs to a lease (`lease`). It is renewed
//! while the build goes on, ended with it, and lapses by itself when this service dies.

mod choice;
pub mod fleet;
pub mod import;
mod lease;
mod lost;
pub mod mounts;
pub mod placing;
mod survey;

use std::{sync::Arc, time::Duration};

use slipway_image::Descriptor;
use slipway_proto::{
    runtime::v1 as pb,
    runtime::v1::{
        ApplyRequest, CommitSnapshotRequest, PrepareRequest, ReadPathRequest, ReleaseRequest,
        ResolvePathRequest, RunStepRequest, StepMount, Stream, apply_request, prepare_event,
        run_step_event, worker_client::WorkerClient,
    },
    types::v1 as types,
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::transport::Channel;
use zeroize::Zeroizing;

use crate::{
    caller::Caller,
    error::{Error, Result},
    events::{Event, Events},
    layer::Layer,
    plan::RunAction,
};

pub use fleet::Fleet;
use import::WorkerFiles;
pub use lease::Lease;
use lost::failed;
pub use survey::{Standing, StandingFolder};

/// Chunks that wait between two services.
pub const CHUNKS: usize = 8;

/// A connection to a worker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Worker {
    client: WorkerClient<Channel>,
    /// How long a lease lives without being renewed.
    ttl: Duration,
    /// Large content that it has.
    files: Arc<WorkerFiles>,
}

/// A root filesystem at the worker; given back when dropped.
pub struct Snapshot {
    lease: Arc<Lease>,
    id: String,
    committed: bool,
}

/// Where and as whose files are applied.
#[derive(Debug, Clone, Default)]
pub struct Target {
    /// Folder inside the snapshot; made when it is not there.
    pub folder: String,
    /// `user[:group]`, "" = as in the stream.
    pub owner: String,
    /// 0 = as in the stream.
    pub mode: u32,
    /// The stream is an archive that ADD unpacks.
    pub archive: bool,
}

/// Something inside a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it is, links resolved.
    pub path: String,
    /// It is a folder.
    pub folder: bool,
}

/// What all steps of a build have in common.
#[derive(Debug, Clone, Default)]
pub struct StepSettings {
    /// `default`, `none` or `host`.
    pub network: String,
    /// `name:address`
    pub extra_hosts: Vec<String>,
    /// Bytes; 0 = the worker's default.
    pub shm_size: u64,
    /// Limits of processes.
    pub ulimits: Vec<pb::Ulimit>,
    /// What the caller allows (`--allow`), as far as this service does.
    pub allowed: Vec<Entitlement>,
}

/// Something that a step may do only where the caller and this service's settings allow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entitlement {
    /// `RUN --network=host`
    NetworkHost,
    /// `RUN --security=insecure`
    SecurityInsecure,
}

impl Entitlement {
    /// Its name in BuildKit (util/entitlements/entitlements.go).
    pub const fn name(self) -> &'static str {
        match self {
            Self::NetworkHost => "network.host",
            Self::SecurityInsecure => "security.insecure",
        }
    }

    /// By its name.
    pub fn from_name(name: &str) -> Option<Self> {
        let all = [Self::NetworkHost, Self::SecurityInsecure];
        all.into_iter().find(|e| e.name() == name)
    }
}

impl StepSettings {
    /// Refuses what is not allowed.
    pub fn check(&self, wanted: Entitlement) -> Result<()> {
        let name = wanted.name();
        match self.allowed.contains(&wanted) {
            true => Ok(()),
            false => Err(Error::Unsupported(format!(
                "{name} is not allowed: build with --allow {name}"
            ))),
        }
    }
}

/// A RUN with all that it takes.
pub struct Running<'a> {
    /// What runs.
    pub action: &'a RunAction,
    /// What all steps have in common.
    pub settings: &'a StepSettings,
    /// What it sees besides.
    pub mounts: Vec<pb::StepMount>,
    /// Secrets among its variables.
    pub env: &'a [Zeroizing<String>],
    /// Who has the ssh agents.
    pub caller: &'a Arc<Caller>,
}

impl Worker {
    /// Over a channel; a lease lives so long without being renewed.
    pub fn new(channel: Channel, ttl: Duration) -> Self {
        let limit = slipway_service::MAX_MESSAGE_SIZE;
        let client = WorkerClient::new(channel)
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit);
        Self {
            client,
            ttl,
            files: Arc::default(),
        }
    }

    /// Asks whether it is there, which changes nothing.
    async fn is_there(&self) -> Result<()> {
        // A lease that is not there is fine.
        let nothing = pb::EndLeaseRequest::default();
        let answer = self.client.clone().end_lease(nothing).await;
        answer
            .map(drop)
            .map_err(|s| failed("cannot use the worker".to_owned(), &s))
    }

    /// The cache mounts that it has, the one that was used last first.
    pub async fn caches(&self) -> Result<Vec<pb::CacheMount>> {
        let answer = self
            .client
            .clone()
            .list_caches(pb::ListCachesRequest {})
            .await;
        let answer = answer.map_err(|s| failed("cannot list cache mounts".to_owned(), &s))?;
        Ok(answer.into_inner().caches)
    }

    /// Makes a cache mount a layer in a repository.
    async fn export_cache(&self, name: &str, repository: &str) -> Result<Layer> {
        let request = pb::ExportCacheRequest {
            name: name.to_owned(),
            repository: repository.to_owned(),
        };
        let answer = self.client.clone().export_cache(request).await;
        let answer = answer.map_err(|s| failed("cannot export a cache mount".to_owned(), &s))?;
        layer(answer.into_inner().layer.unwrap_or_default())
    }

    /// Removes those of these cache mounts that no step uses; names and bytes of those that went.
    pub async fn remove_caches(&self, names: Vec<String>) -> Result<Vec<pb::CacheMount>> {
        let request = pb::RemoveCachesRequest { names };
        let answer = self.client.clone().remove_caches(request).await;
        let answer = answer.map_err(|s| failed("cannot remove cache mounts".to_owned(), &s))?;
        Ok(answer.into_inner().removed)
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        let mut client = self.lease.client.clone();
        let snapshot_id = std::mem::take(&mut self.id);
        let lease = self.lease.clone();
        give_back(async move {
            // What cannot be released goes with the lease.
            let _ = client.release(ReleaseRequest { snapshot_id }).await;
            drop(lease);
        });
    }
}

/// Does something after a drop, if there is a runtime still: a service that stops leaves it to the
/// lease's end.
fn give_back(work: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(work);
    }
}

impl Lease {
    /// Lets a cache mount begin as a layer; its bytes, or none where there is one already.
    pub async fn import_cache(
        &self,
        mount: &StepMount,
        from: &Layer,
        replace: bool,
    ) -> Result<Option<u64>> {
        let request = pb::ImportCacheRequest {
            id: mount.cache_id.clone(),
            base: mount.cache_base.clone(),
            layer: Some(layer_message(from)),
            replace,
            uid: mount.uid,
            gid: mount.gid,
            mode: mount.mode,
        };
        let answer = self.client.clone().import_cache(request).await;
        let answer = answer.map_err(|s| failed("cannot import a cache mount".to_owned(), &s))?;
        let answer = answer.into_inner();
        Ok(answer.imported.then_some(answer.bytes))
    }

    /// Its id at the worker.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A writable snapshot upon these layers.
    pub async fn prepare(self: &Arc<Self>, layers: &[Layer]) -> Result<Snapshot> {
        let fail = |s| failed("cannot prepare a root filesystem".to_owned(), &s);
        let request = PrepareRequest {
            lease_id: self.id.clone(),
            layers: layers.iter().map(layer_message).collect(),
            ..PrepareRequest::default()
        };
        let mut events = self
            .client
            .clone()
            .prepare(request)
            .await
            .map_err(fail)?
            .into_inner();
        while let Some(event) = events.message().await.map_err(fail)? {
            if let Some(prepare_event::Event::SnapshotId(id)) = event.event {
                return Ok(Snapshot {
                    lease: self.clone(),
                    id,
                    committed: false,
                });
            }
        }
        Err(Error::Invalid(
            "the worker did not prepare a root filesystem".to_owned(),
        ))
    }
}

impl Snapshot {
    /// Runs a step, its output told as events of step `index`; returns its exit code. Dropping the
    /// future kills it.
    pub async fn run(&self, running: Running<'_>, events: &Events, index: u32) -> Result<i32> {
        let Running {
            action,
            settings,
            mounts,
            env,
            caller,
        } = running;
        let fail = |s| failed("the step could not be run".to_owned(), &s);
        let network = match action.network.as_str() {
            "" => settings.network.clone(),
            own => own.to_owned(),
        };
        let request = RunStepRequest {
            snapshot_id: self.id.clone(),
            args: action.args.clone(),
            env: {
                let open = action.env.iter().chain(&action.hidden_env).cloned();
                open.chain(env.iter().map(|e| String::clone(e))).collect()
            },
            working_dir: action.working_dir.clone(),
            user: action.user.clone(),
            network,
            extra_hosts: settings.extra_hosts.clone(),
            shm_size: settings.shm_size,
            mounts,
            insecure: action.insecure,
            ulimits: settings.ulimits.clone(),
            ..RunStepRequest::default()
        };
        let answer = self.lease.client.clone().run_step(request).await;
        let mut told = answer.map_err(fail)?.into_inner();
        while let Some(event) = told.message().await.map_err(fail)? {
            match event.event {
                Some(run_step_event::Event::Output(output)) => {
                    let stderr = output.stream() == Stream::Stderr;
                    let data = output.data;
                    events
                        .tell(Event::Log {
                            index,
                            stderr,
                            data,
                        })
                        .await;
                }
                Some(run_step_event::Event::Agent(question)) => {
                    self.forward(question, caller.clone());
                }
                Some(run_step_event::Event::Exited(exited)) => return Ok(exited.exit_code),
                None => {}
            }
        }
        Err(Error::Invalid(
            "the worker ended the step without an exit code".to_owned(),
        ))
    }

    /// Lets the caller's agent answer. Waiting for that must not keep the step's output back.
    fn forward(&self, question: pb::AgentQuestion, caller: Arc<Caller>) {
        let (mut client, snapshot_id) = (self.lease.client.clone(), self.id.clone());
        tokio::spawn(async move {
            let message = caller.ask_agent(&question.agent, question.message).await;
            let answer = pb::AnswerAgentRequest {
                snapshot_id,
                number: question.number,
                message: message.unwrap_or_default().into(),
            };
            // A worker that is gone is noticed by the step's own call.
            let _ = client.answer_agent(answer).await;
        });
    }

    /// Its id at the worker.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Applies a tar stream.
    pub async fn apply(&self, target: &Target, chunks: mpsc::Receiver<bytes::Bytes>) -> Result<()> {
        let start = apply_request::Start {
            snapshot_id: self.id.clone(),
            path: target.folder.clone(),
            owner: target.owner.clone(),
            mode: target.mode,
            archive: target.archive,
        };
        let request = |part| ApplyRequest { part: Some(part) };
        let first = request(apply_request::Part::Start(start));
        let rest =
            ReceiverStream::new(chunks).map(move |data| request(apply_request::Part::Data(data)));
        let stream = tokio_stream::iter([first]).chain(rest);
        let answer = self.lease.client.clone().apply(stream).await;
        answer
            .map(drop)
            .map_err(|s| failed(format!("cannot copy to {}", target.folder), &s))
    }

    /// What a path is, links followed.
    pub async fn find(&self, path: &str) -> Result<Option<Found>> {
        let found = self.resolve(path).await?;
        let mode = found.stat.as_ref().map_or(0, |s| s.mode);
        Ok(found.exists.then_some(Found {
            // S_IFMT and S_IFDIR (inode(7)).
            folder: mode & 0o170_000 == 0o040_000,
            path: found.path,
        }))
    }

    /// What wildcards match, sorted.
    pub async fn expand(&self, pattern: &str) -> Result<Vec<String>> {
        Ok(self.resolve(pattern).await?.matches)
    }

    async fn resolve(&self, path: &str) -> Result<pb::ResolvePathResponse> {
        let request = ResolvePathRequest {
            snapshot_id: self.id.clone(),
            path: path.to_owned(),
            follow: true,
        };
        let answer = self.lease.client.clone().resolve(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|s| failed(format!("cannot look up {path}"), &s))
    }

    /// Streams a path as tar into `chunks`: a folder's content relative to it, anything else under its
    /// own name.
    pub async fn read(&self, path: &str, chunks: mpsc::Sender<bytes::Bytes>) -> Result<()> {
        let fail = |s| failed(format!("cannot read {path}"), &s);
        let request = ReadPathRequest {
            snapshot_id: self.id.clone(),
            path: path.to_owned(),
            follow_links: true,
        };
        let answer = self.lease.client.clone().read_path(request).await;
        let mut stream = answer.map_err(fail)?.into_inner();
        while let Some(chunk) = stream.message().await.map_err(fail)? {
            if chunks.send(chunk.data).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Makes what changed a layer of registry-svc's; none when nothing did.
    pub async fn commit(mut self, repository: &str, latest: Option<i64>) -> Result<Option<Layer>> {
        let request = CommitSnapshotRequest {
            snapshot_id: self.id.clone(),
            repository: repository.to_owned(),
            source_date_epoch: latest,
            ..CommitSnapshotRequest::default()
        };
        let answer = self.lease.client.clone().commit_snapshot(request).await;
        let answer = answer.map_err(|s| failed("cannot make a layer".to_owned(), &s))?;
        self.committed = true;
        answer.into_inner().layer.map(layer).transpose()
    }
}

fn layer_message(layer: &Layer) -> pb::Layer {
    pb::Layer {
        descriptor: Some(types::Descriptor {
            media_type: layer.descriptor.media_type.clone(),
            digest: layer.descriptor.digest.to_string(),
            size: layer.descriptor.size,
            ..types::Descriptor::default()
        }),
        diff_id: layer.diff_id.to_string(),
        repository: layer.repository.clone(),
    }
}

fn layer(layer: pb::Layer) -> Result<Layer> {
    let broken = |e: slipway_image::digest::DigestError| {
        Error::Invalid(format!("the worker's layer is broken: {e}"))
    };
    let blob = layer.descriptor.unwrap_or_default();
    let digest = blob.digest.parse().map_err(broken)?;
    Ok(Layer {
        descriptor: Descriptor::new(blob.media_type, digest, blob.size),
        diff_id: layer.diff_id.parse().map_err(broken)?,
        repository: layer.repository,
    })
}
