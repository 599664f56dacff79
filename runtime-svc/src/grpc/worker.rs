//! The `Worker` service.

use std::{io, pin::Pin, time::Duration};

use slipway_proto::{
    runtime::v1::{self as pb, worker_server::Worker as Service},
    types::v1::{Descriptor, Platform, Progress, progress::Phase},
};
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    step::{self, Questions},
    streams::{self, CopyWriter, blocking},
    view,
};
use crate::{
    error::Error,
    registry::Layer,
    usage,
    worker::{Found, Owner, QUESTIONS, Sharing, Standing, Survey, Target, Wanted, Worker, survey},
};

/// Messages that wait for a client.
const QUEUE: usize = 16;

/// Translates calls to the worker.
pub struct WorkerService {
    worker: Worker,
    /// Ends calls that would stay open.
    shutdown: CancellationToken,
    questions: Questions,
}

impl WorkerService {
    /// Over this host's worker.
    pub fn new(worker: Worker, shutdown: CancellationToken) -> Self {
        Self {
            worker,
            shutdown,
            questions: Questions::default(),
        }
    }
}

/// Changes in one message.
const CHANGES: usize = 1000;

type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn layer(layer: pb::Layer) -> Result<Layer, Error> {
    let invalid = |e: slipway_image::digest::DigestError| Error::Invalid(e.to_string());
    let descriptor = layer.descriptor.unwrap_or_default();
    Ok(Layer {
        digest: descriptor.digest.parse().map_err(invalid)?,
        size: descriptor.size,
        media_type: descriptor.media_type,
        diff_id: layer.diff_id.parse().map_err(invalid)?,
        repository: layer.repository,
    })
}

#[tonic::async_trait]
impl Service for WorkerService {
    async fn lease(
        &self,
        request: Request<pb::LeaseRequest>,
    ) -> Result<Response<pb::LeaseResponse>, Status> {
        let request = request.into_inner();
        let ttl = match request.ttl {
            None => None,
            Some(ttl) => Some(
                Duration::try_from(ttl)
                    .map_err(|_| Error::Invalid("the time of a lease is negative".to_owned()))?,
            ),
        };
        let leases = &self.worker.leases;
        let (lease_id, expires) = match &*request.lease_id {
            "" => leases.begin(&request.holder, ttl)?,
            id => (id.to_owned(), leases.renew(id, ttl)?),
        };
        let mut response = pb::LeaseResponse {
            lease_id,
            expires: Some(expires.into()),
            ..pb::LeaseResponse::default()
        };
        if request.lease_id.is_empty() {
            let told = |p: slipway_image::Platform| Platform {
                os: p.os,
                architecture: p.architecture,
                variant: p.variant,
                os_version: p.os_version,
            };
            let all = crate::worker::platforms().into_iter();
            response.platforms = all.map(told).collect();
            let processors = std::thread::available_parallelism();
            response.processors = processors.map_or(0, |n| u32::try_from(n.get()).unwrap_or(0));
        }
        Ok(Response::new(response))
    }

    type HoldLeaseStream = Events<pb::HoldLeaseEvent>;
    async fn hold_lease(
        &self,
        request: Request<pb::HoldLeaseRequest>,
    ) -> Result<Response<Self::HoldLeaseStream>, Status> {
        let attached = self.worker.leases.attach(&request.into_inner().lease_id)?;
        let first = tokio_stream::iter([Ok(pb::HoldLeaseEvent {})]);
        let (shutdown, ended) = (self.shutdown.clone(), attached.ended.clone());
        let (send, receive) = mpsc::channel(1);
        tokio::spawn(async move {
            let _attached = attached;
            tokio::select! {
                () = send.closed() => {}
                () = shutdown.cancelled() => {}
                () = ended.cancelled() => {}
            }
        });
        Ok(Response::new(Box::pin(
            first.chain(ReceiverStream::new(receive)),
        )))
    }

    async fn end_lease(
        &self,
        request: Request<pb::EndLeaseRequest>,
    ) -> Result<Response<pb::EndLeaseResponse>, Status> {
        self.worker.leases.end(&request.into_inner().lease_id);
        Ok(Response::new(pb::EndLeaseResponse {}))
    }

    async fn list_leases(
        &self,
        _: Request<pb::ListLeasesRequest>,
    ) -> Result<Response<pb::ListLeasesResponse>, Status> {
        let leases = usage::leases(&self.worker);
        let leases = leases.into_iter().map(super::host::lease).collect();
        Ok(Response::new(pb::ListLeasesResponse { leases }))
    }

    type PrepareStream = Events<pb::PrepareEvent>;
    async fn prepare(
        &self,
        request: Request<pb::PrepareRequest>,
    ) -> Result<Response<Self::PrepareStream>, Status> {
        let request = request.into_inner();
        let layers = request
            .layers
            .into_iter()
            .map(layer)
            .collect::<Result<Vec<_>, _>>()?;
        let worker = self.worker.clone();
        let (send, receive) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            for layer in &layers {
                let progress = Progress {
                    id: layer.digest.to_string(),
                    phase: Phase::Waiting.into(),
                    current: 0,
                    total: layer.size,
                };
                streams::send(
                    &send,
                    pb::PrepareEvent {
                        event: Some(pb::prepare_event::Event::Progress(progress)),
                    },
                )
                .await;
            }
            let parent = &request.parent_snapshot_id;
            let prepared = match (&**parent, &*layers) {
                ("", _) => worker.prepare(&request.lease_id, &layers).await,
                (parent, []) => worker.prepare_upon(&request.lease_id, parent).await,
                _ => Err(Error::Invalid(
                    "a snapshot is based upon layers or upon another snapshot, not upon both"
                        .to_owned(),
                )),
            };
            let event = prepared.map(|id| pb::PrepareEvent {
                event: Some(pb::prepare_event::Event::SnapshotId(id)),
            });
            // The client is gone: its lease takes the snapshot back.
            let _ = send.send(event.map_err(Status::from)).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    type RunStepStream = Events<pb::RunStepEvent>;
    async fn run_step(
        &self,
        request: Request<pb::RunStepRequest>,
    ) -> Result<Response<Self::RunStepStream>, Status> {
        let request = request.into_inner();
        let snapshot = self.worker.find(&request.snapshot_id)?;
        let step = step::step(&self.worker, request)?;
        let mut asked = self.questions.of(&snapshot.id);
        let worker = self.worker.clone();
        let (send, receive) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let (output, mut pieces) = mpsc::channel(QUEUE);
            let (ask, mut questions) = mpsc::channel(QUESTIONS);
            let forward = async {
                loop {
                    let event = tokio::select! {
                        piece = pieces.recv() => {
                            let Some(piece) = piece else { return };
                            let output = pb::run_step_event::Event::Output(streams::output(piece));
                            pb::RunStepEvent { event: Some(output) }
                        }
                        Some(question) = questions.recv() => asked.event(question),
                    };
                    if !streams::send(&send, event).await {
                        return;
                    }
                }
            };
            let run = worker.run(&snapshot, step, output, &ask);
            let work = async { tokio::join!(run, forward).0 };
            // Dropping the work kills the step.
            tokio::select! {
                () = send.closed() => {}
                ended = work => {
                    let event = ended.map(|record| pb::RunStepEvent {
                        event: Some(pb::run_step_event::Event::Exited(view::exited(&record))),
                    });
                    // The client is gone: nobody is to be told.
                    let _ = send.send(event.map_err(Status::from)).await;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn apply(
        &self,
        request: Request<Streaming<pb::ApplyRequest>>,
    ) -> Result<Response<pb::ApplyResponse>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|r| r.part);
        let Some(pb::apply_request::Part::Start(start)) = first else {
            return Err(Error::Invalid(
                "the first message of an apply must be its start".to_owned(),
            )
            .into());
        };
        let snapshot = self.worker.find(&start.snapshot_id)?;
        let turn = snapshot.turn_to_change().await?;
        let target = Target {
            path: start.path,
            owner: start.owner,
            mode: start.mode,
            archive: start.archive,
            // As BuildKit: an archive's folder takes the place of a file, a copied one does not.
            keep_kinds: !start.archive,
            ids: None,
        };
        let (send, receive) = mpsc::channel(QUEUE);
        let work = {
            let snapshot = snapshot.clone();
            blocking(move || {
                // The call may end before the work does: the snapshot stays taken until then.
                let _turn = turn;
                let root = snapshot.open()?;
                let stream = slipway_service::chunks::ChunkReader::new(receive);
                let mut stream = snapshot.limit(stream);
                let applied = crate::worker::apply(&root, &target, &mut stream);
                stream.check()?;
                // What was refused in the middle is there, too.
                snapshot.check_quota()?;
                applied
            })
        };
        let feed = async {
            while let Some(request) = requests.message().await? {
                let data = match request.part {
                    Some(pb::apply_request::Part::Data(data)) => data,
                    Some(pb::apply_request::Part::Start(_)) => {
                        return Err(Error::Invalid(
                            "an apply has only one start: its first message".to_owned(),
                        )
                        .into());
                    }
                    None => continue,
                };
                if send.send(data).await.is_err() {
                    break;
                }
            }
            drop(send);
            Ok::<_, Status>(())
        };
        // When the lease ends, feeding does, and with it the work.
        let both = async { Ok::<_, Error>(tokio::join!(work, feed)) };
        let (applied, fed) = snapshot.while_there(both).await?;
        fed?;
        let applied = applied?;
        Ok(Response::new(pb::ApplyResponse {
            bytes: applied.bytes,
            entries: applied.entries,
        }))
    }

    type ReadPathStream = Events<pb::CopyChunk>;
    async fn read_path(
        &self,
        request: Request<pb::ReadPathRequest>,
    ) -> Result<Response<Self::ReadPathStream>, Status> {
        let request = request.into_inner();
        let snapshot = self.worker.find(&request.snapshot_id)?;
        let (send, receive) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let (turns, chunks) = (snapshot.clone(), send.clone());
            let turn = match turns.turn().await {
                Ok(turn) => turn,
                Err(error) => {
                    // The client is gone: nobody is to be told.
                    let _ = send.send(Err(error.into())).await;
                    return;
                }
            };
            let read = blocking(move || {
                let _turn = turn;
                let root = snapshot.open()?;
                let writer =
                    io::BufWriter::with_capacity(slipway_service::CHUNK_SIZE, CopyWriter(chunks));
                crate::worker::read_path(&root, &request.path, request.follow_links, writer)
            });
            if let Err(error) = read.await {
                // The client is gone: nobody is to be told.
                let _ = send.send(Err(error.into())).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn resolve(
        &self,
        request: Request<pb::ResolvePathRequest>,
    ) -> Result<Response<pb::ResolvePathResponse>, Status> {
        let request = request.into_inner();
        let snapshot = self.worker.find(&request.snapshot_id)?;
        let turn = snapshot.turn().await?;
        let answer = blocking(move || {
            let _turn = turn;
            let root = snapshot.open()?;
            if slipway_pattern::has_wildcards(&request.path) {
                let matches = crate::worker::expand(&root, &request.path)?;
                return Ok(pb::ResolvePathResponse {
                    exists: !matches.is_empty(),
                    matches,
                    ..Default::default()
                });
            }
            let found = crate::worker::find_path(&root, &request.path, request.follow)?;
            Ok(found.map(found_message).unwrap_or_default())
        });
        Ok(Response::new(answer.await?))
    }

    async fn survey(
        &self,
        request: Request<pb::SurveyRequest>,
    ) -> Result<Response<pb::SurveyResponse>, Status> {
        let request = request.into_inner();
        let snapshot = self.worker.find(&request.snapshot_id)?;
        let turn = snapshot.turn().await?;
        let asked = Survey {
            path: request.path,
            owner: request.owner,
            names: request.names,
            folders: request.folders,
        };
        let answer = blocking(move || {
            let _turn = turn;
            survey(&snapshot.open()?, &asked)
        });
        Ok(Response::new(standing_message(answer.await?)))
    }

    async fn import_layer(
        &self,
        request: Request<Streaming<pb::ImportLayerRequest>>,
    ) -> Result<Response<pb::ImportLayerResponse>, Status> {
        use pb::import_layer_request::Part;
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|r| r.part);
        let Some(Part::LeaseId(lease)) = first else {
            let sentence = "the first message of an import must name a lease";
            return Err(Error::Invalid(sentence.to_owned()).into());
        };
        let (_, ended) = self.worker.leases.room_for_snapshot(&lease)?;
        let (send, receive) = mpsc::channel(QUEUE);
        let import = self.worker.layers().import(receive)?;
        let feed = async {
            while let Some(request) = requests.message().await? {
                match request.part {
                    Some(Part::Data(data)) => {
                        // An unpacker that has ended says why.
                        if send.send(data).await.is_err() {
                            return Ok(None);
                        }
                    }
                    Some(Part::DiffId(text)) => {
                        let diff_id = text
                            .parse()
                            .map_err(|e| Error::Invalid(format!("{text:?} is no digest: {e}")))?;
                        return Ok(Some(diff_id));
                    }
                    Some(Part::LeaseId(_)) | None => {}
                }
            }
            let sentence = "an import ends with the digest of what was sent";
            Err(Status::from(Error::Invalid(sentence.to_owned())))
        };
        let diff_id = tokio::select! {
            fed = feed => fed?,
            () = ended.cancelled() => {
                return Err(Error::NoSuchLease(lease).into());
            }
        };
        drop(send);
        import.keep(diff_id.as_ref()).await?;
        Ok(Response::new(pb::ImportLayerResponse {}))
    }

    type DiffStream = Events<pb::DiffSnapshotEvent>;
    async fn diff(
        &self,
        request: Request<pb::DiffSnapshotRequest>,
    ) -> Result<Response<Self::DiffStream>, Status> {
        let snapshot = self.worker.find(&request.into_inner().snapshot_id)?;
        let turn = snapshot.turn().await?;
        let changes = blocking(move || {
            let _turn = turn;
            snapshot.changes()
        });
        let mut changes = changes.await?.into_iter().map(|(path, change)| {
            let kind = super::copy::letter(change).to_owned();
            pb::diff_snapshot_event::Change { kind, path }
        });
        let events = std::iter::from_fn(move || {
            let changes: Vec<_> = changes.by_ref().take(CHANGES).collect();
            (!changes.is_empty()).then_some(Ok(pb::DiffSnapshotEvent { changes }))
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(events))))
    }

    async fn commit_snapshot(
        &self,
        request: Request<pb::CommitSnapshotRequest>,
    ) -> Result<Response<pb::CommitSnapshotResponse>, Status> {
        let request = request.into_inner();
        if !matches!(&*request.compression, "" | "gzip") {
            return Err(Error::Unsupported(format!("compression {}", request.compression)).into());
        }
        let level = match request.level {
            0 => slipway_image::layer::gzip::LEVEL,
            level @ 1..=9 => level.unsigned_abs(),
            level => {
                let sentence = format!("{level} is no level of gzip: they go from 1 to 9");
                return Err(Error::Invalid(sentence).into());
            }
        };
        let committed = self
            .worker
            .commit(
                &request.snapshot_id,
                &request.repository,
                level,
                request.source_date_epoch,
            )
            .await?;
        let Some(packed) = committed.packed else {
            return Ok(Response::new(pb::CommitSnapshotResponse::default()));
        };
        let descriptor = Descriptor {
            media_type: slipway_image::media_type::OCI_LAYER_GZIP.to_owned(),
            digest: packed.digest.to_string(),
            size: packed.compressed_size,
            ..Descriptor::default()
        };
        let layer = pb::Layer {
            descriptor: Some(descriptor),
            diff_id: packed.diff_id.to_string(),
            repository: request.repository,
        };
        Ok(Response::new(pb::CommitSnapshotResponse {
            layer: Some(layer),
            uncompressed_size: packed.size,
        }))
    }

    async fn answer_agent(
        &self,
        request: Request<pb::AnswerAgentRequest>,
    ) -> Result<Response<pb::AnswerAgentResponse>, Status> {
        self.questions.answer(request.into_inner());
        Ok(Response::new(pb::AnswerAgentResponse {}))
    }

    async fn list_caches(
        &self,
        _: Request<pb::ListCachesRequest>,
    ) -> Result<Response<pb::ListCachesResponse>, Status> {
        let caches = self.worker.caches.list();
        let caches = caches.into_iter().map(step::cache).collect();
        Ok(Response::new(pb::ListCachesResponse { caches }))
    }

    async fn remove_caches(
        &self,
        request: Request<pb::RemoveCachesRequest>,
    ) -> Result<Response<pb::RemoveCachesResponse>, Status> {
        let names = request.into_inner().names;
        let gone = self.worker.caches.remove(&names);
        let gone = gone.into_iter().map(|(name, size)| pb::CacheMount {
            name,
            size,
            ..Default::default()
        });
        Ok(Response::new(pb::RemoveCachesResponse {
            removed: gone.collect(),
        }))
    }

    async fn export_cache(
        &self,
        request: Request<pb::ExportCacheRequest>,
    ) -> Result<Response<pb::ExportCacheResponse>, Status> {
        let request = request.into_inner();
        let exporting = self.worker.export_cache(&request.name, &request.repository);
        let packed = exporting.await?;
        Ok(Response::new(pb::ExportCacheResponse {
            layer: Some(pb::Layer {
                descriptor: Some(Descriptor {
                    media_type: slipway_image::media_type::OCI_LAYER_GZIP.to_owned(),
                    digest: packed.digest.to_string(),
                    size: packed.compressed_size,
                    ..Descriptor::default()
                }),
                diff_id: packed.diff_id.to_string(),
                repository: request.repository,
            }),
        }))
    }

    async fn import_cache(
        &self,
        request: Request<pb::ImportCacheRequest>,
    ) -> Result<Response<pb::ImportCacheResponse>, Status> {
        let request = request.into_inner();
        let wanted = Wanted {
            id: request.id,
            base: request.base,
            sharing: Sharing::Shared,
        };
        let owner = Owner {
            uid: request.uid,
            gid: request.gid,
            mode: match request.mode {
                0 => 0o755,
                mode => mode & 0o7777,
            },
        };
        let layer = layer(request.layer.unwrap_or_default())?;
        let importing = self
            .worker
            .import_cache(&wanted, &layer, owner, request.replace);
        let bytes = importing.await?;
        Ok(Response::new(pb::ImportCacheResponse {
            imported: bytes.is_some(),
            bytes: bytes.unwrap_or(0),
        }))
    }

    async fn release(
        &self,
        request: Request<pb::ReleaseRequest>,
    ) -> Result<Response<pb::ReleaseResponse>, Status> {
        self.worker.release(&request.into_inner().snapshot_id);
        Ok(Response::new(pb::ReleaseResponse {}))
    }
}

fn standing_message(standing: Standing) -> pb::SurveyResponse {
    let folder = |(stat, has_xattrs): (rustix::fs::Stat, bool)| pb::survey_response::Folder {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified: Some(prost_types::Timestamp {
            seconds: stat.st_mtime,
            nanos: stat.st_mtime_nsec as i32,
        }),
        has_xattrs,
    };
    pb::SurveyResponse {
        folders: standing.folders.into_iter().map(folder).collect(),
        blocked: standing.blocked,
        taken: standing.taken,
        uid: standing.owner.0,
        gid: standing.owner.1,
    }
}

fn found_message(found: Found) -> pb::ResolvePathResponse {
    let name = found.path.rsplit('/').next().unwrap_or_default().to_owned();
    let modified = prost_types::Timestamp {
        seconds: found.stat.st_mtime,
        nanos: found.stat.st_mtime_nsec as i32,
    };
    pb::ResolvePathResponse {
        exists: true,
        path: found.path,
        stat: Some(pb::PathStat {
            name,
            size: u64::try_from(found.stat.st_size).unwrap_or_default(),
            mode: found.stat.st_mode,
            modified: Some(modified),
            link_target: found.link_target,
        }),
        matches: Vec::new(),
    }
}
