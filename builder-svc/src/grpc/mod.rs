//! The gRPC edge: translates, and nothing else.
//!
//! `request` reads the caller's options and refuses what is not supported, `feed` takes its context in,
//! `view` turns events and results into messages, `status` errors.

pub mod feed;
mod request;
mod status;
mod view;

use std::{
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
    time::SystemTime,
};

use prost::Message as _;
use slipway_proto::{
    builder::v1::{
        BuildEvent, BuildLogsRequest, BuildRequest, DiskUsageRequest, DiskUsageResponse,
        InfoRequest, ListBuildsRequest, ListBuildsResponse, PruneRequest, PruneResponse,
        RemoveBuildsRequest, RemoveBuildsResponse, build_request::Part,
        builder_server::Builder as Service,
    },
    types::v1::ServiceInfo,
};
use slipway_service::{CancellationToken, authorize::ROLE_REQUIRED, identity::Peer, roles::Role};
use tokio::{sync::mpsc, task::AbortHandle};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::{
    build::Builder,
    caller::Caller,
    context::{Announced, BuildContext, Offered},
    error::{Error, Tried as _},
    events::Events,
    worker::Entitlement,
};

/// Messages that wait for a caller.
const QUEUE: usize = 64;

/// Translates calls to the builder.
pub struct BuilderService {
    builder: Arc<Builder>,
    /// Contexts that callers have sent.
    offered: Arc<Offered>,
    started: SystemTime,
    shutdown: CancellationToken,
}

impl BuilderService {
    /// Over this builder.
    pub fn new(builder: Arc<Builder>, started: SystemTime, shutdown: CancellationToken) -> Self {
        let offered = Arc::<Offered>::default();
        tokio::spawn(Offered::forget(Arc::downgrade(&offered)));
        Self {
            builder,
            offered,
            started,
            shutdown,
        }
    }
}

/// What a build may be allowed reaches beyond it, to listeners of the worker's loopback or all of its host: it is for
/// those who might run a container there.
fn may_have(allowed: &[Entitlement], peer: Option<&Peer>) -> Result<(), Status> {
    let Some(entitlement) = allowed.first() else {
        return Ok(());
    };
    match peer.map(Peer::caller) {
        Some(caller) if caller.role >= Some(Role::Operate) => Ok(()),
        caller => Err(slipway_service::error::status(
            Code::PermissionDenied,
            ROLE_REQUIRED,
            format!(
                "granting entitlement {} needs the role operate, which {} has not: build without it, or ask whoever \
                 keeps the site's certificates for one with that role",
                entitlement.name(),
                caller.map_or("who calls", |caller| caller.name.as_str())
            ),
        )),
    }
}

/// A build's events. When the caller goes away the stream is dropped, and with it the build.
pub struct BuildStream {
    events: ReceiverStream<Result<BuildEvent, Status>>,
    build: AbortHandle,
}

impl Stream for BuildStream {
    type Item = Result<BuildEvent, Status>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.events).poll_next(cx)
    }
}

impl Drop for BuildStream {
    fn drop(&mut self) {
        self.build.abort();
    }
}

#[tonic::async_trait]
impl Service for BuilderService {
    type BuildStream = BuildStream;
    async fn build(
        &self,
        request: Request<Streaming<BuildRequest>>,
    ) -> Result<Response<Self::BuildStream>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let mut parts = request.into_inner();
        let Some(Part::Start(start)) = parts.message().await?.and_then(|m| m.part) else {
            let sentence = "the first message of a build must be its start".to_owned();
            return Err(Error::Invalid(sentence).into());
        };
        // The main context comes from the caller unless it is elsewhere.
        let mut sent = start.named_contexts.clone();
        sent.push(String::new());
        let (secrets, agents) = (start.secrets.clone(), start.ssh.clone());
        let request = request::request(start, &self.builder.grants)?;
        may_have(&request.settings.allowed, peer.as_ref())?;
        let mut id = [0; 32];
        getrandom::fill(&mut id)
            .map_err(std::io::Error::other)
            .tried(|| "cannot make an id".to_owned())?;
        let id = hex::encode(id);
        let (tell, mut told) = mpsc::channel(QUEUE);
        let (send, receive) = mpsc::channel(QUEUE);
        let events = Events::new(tell);
        let caller = Arc::new(Caller::new(secrets, agents, events.clone()));
        let (context, feed) = BuildContext::new(
            self.builder.fetcher.clone(),
            (events.clone(), caller.clone()),
            &Announced {
                sent: &sent,
                remote: &request.remote_contexts,
                keep_git_dir: request.keeps_git_dir(),
            },
        );
        let (builder, shutdown) = (self.builder.clone(), self.shutdown.clone());
        let offers = feed::Offers {
            offered: self.offered.clone(),
            events: events.downgrade(),
        };
        let task = tokio::spawn(async move {
            // The caller is gone: the stream's end aborts this task.
            let _ = send.send(Ok(view::build_id(&id))).await;
            let store = builder.store.clone();
            let mut log = builder.history.log(&id);
            let feeding = feed::feed(parts, feed, store, caller.asked.clone(), offers);
            let building = builder.build(id, request, context, caller, events);
            let forwarding = async {
                while let Some(event) = told.recv().await {
                    let message = view::event(event);
                    if view::is_kept(&message) {
                        log.add(&message.encode_to_vec());
                    }
                    let _ = send.send(Ok(message)).await;
                }
                log
            };
            let work = async {
                let (done, log) = tokio::join!(building, forwarding);
                // On the disk before the caller is told the end.
                builder.history.settle(log).await;
                done
            };
            tokio::pin!(feeding, work);
            let mut fed = false;
            let done = loop {
                tokio::select! {
                    // The build has begun before anything comes for it.
                    biased;
                    done = &mut work => break done.map(view::result).map_err(Status::from),
                    refused = &mut feeding, if !fed => match refused {
                        Ok(()) => fed = true,
                        Err(status) => break Err(status),
                    },
                    () = shutdown.cancelled() => {
                        break Err(status::shutting_down());
                    }
                }
            };
            let _ = send.send(done).await;
        });
        Ok(Response::new(BuildStream {
            events: ReceiverStream::new(receive),
            build: task.abort_handle(),
        }))
    }

    async fn list_builds(
        &self,
        _: Request<ListBuildsRequest>,
    ) -> Result<Response<ListBuildsResponse>, Status> {
        let builds = self
            .builder
            .history
            .list()
            .into_iter()
            .map(view::entry)
            .collect();
        Ok(Response::new(ListBuildsResponse {
            builds,
            next_page_token: String::new(),
        }))
    }

    type BuildLogsStream = ReceiverStream<Result<BuildEvent, Status>>;
    async fn build_logs(
        &self,
        request: Request<BuildLogsRequest>,
    ) -> Result<Response<Self::BuildLogsStream>, Status> {
        let id = request.into_inner().id;
        let history = self.builder.history.clone();
        if !history.list().iter().any(|e| e.id == id) {
            return Err(Error::Invalid(format!("no build {id} in the history")).into());
        }
        let (send, receive) = mpsc::channel(QUEUE);
        tokio::task::spawn_blocking(move || {
            let read = history.read(&id, |message| {
                // What another version wrote and we cannot read is passed over.
                BuildEvent::decode(&message[..])
                    .map_or(true, |event| send.blocking_send(Ok(event)).is_ok())
            });
            if let Err(error) = read {
                let error = Error::Io {
                    what: format!("cannot read the log of build {id}"),
                    source: error,
                };
                let _ = send.blocking_send(Err(error.into()));
            }
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    async fn remove_builds(
        &self,
        request: Request<RemoveBuildsRequest>,
    ) -> Result<Response<RemoveBuildsResponse>, Status> {
        let request = request.into_inner();
        let history = self.builder.history.clone();
        let removed = tokio::task::spawn_blocking(move || {
            history.remove(
                Some(&request.ids)
                    .filter(|_| !request.all)
                    .map(Vec::as_slice),
            )
        })
        .await
        .map_err(std::io::Error::other)
        .and_then(|r| r)
        .tried(|| "cannot remove builds of the history".to_owned())?;
        Ok(Response::new(RemoveBuildsResponse { removed }))
    }

    async fn prune(
        &self,
        request: Request<PruneRequest>,
    ) -> Result<Response<PruneResponse>, Status> {
        let prune = request::prune(&request.into_inner())?;
        let pruned = self.builder.prune(&prune).await?;
        Ok(Response::new(PruneResponse {
            removed: pruned.removed,
            reclaimed: pruned.bytes,
            warnings: pruned.warnings,
        }))
    }

    async fn disk_usage(
        &self,
        request: Request<DiskUsageRequest>,
    ) -> Result<Response<DiskUsageResponse>, Status> {
        let filters = request::filters(&request.into_inner().filters)?;
        let store = self.builder.store.clone();
        let usage = tokio::task::spawn_blocking(move || store.usage())
            .await
            .map_err(std::io::Error::other)
            .and_then(|r| r)
            .tried(|| "cannot measure the context files".to_owned())?;
        let (records, warnings) = self.builder.records(&filters).await?;
        let worker = |number| self.builder.worker_name(number).to_owned();
        let records = records.into_iter().filter(|r| filters.match_record(r));
        let mut records: Vec<_> = records.map(|r| view::record(r, worker)).collect();
        if filters.match_contexts() {
            records.push(view::content(usage.files));
        }
        Ok(Response::new(DiskUsageResponse {
            records,
            content: usage.files,
            other: usage.other,
            warnings,
        }))
    }

    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<ServiceInfo>, Status> {
        Ok(Response::new(ServiceInfo {
            name: "builder-svc".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            started: Some(self.started.into()),
            ..ServiceInfo::default()
        }))
    }
}

/// A refusal of something that is not supported.
fn unsupported(what: impl Into<String>) -> Error {
    Error::Unsupported(what.into())
}
