//! The `Containers` service.

use std::{pin::Pin, sync::Arc};

use slipway_proto::runtime::v1::{
    self as pb, containers_server::Containers, wait_request::Condition,
};
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::{copy, exec, list, logs, run, stats, view};
use crate::{
    container::{
        commit::Commit,
        filter::Filters,
        manager::Manager,
        state::{Container, Status as State},
        top,
    },
    disk,
    error::{Error, Tried as _},
};

/// Messages that wait for a client.
const QUEUE: usize = 16;

/// Translates calls to the manager.
pub struct ContainersService {
    manager: Manager,
}

impl ContainersService {
    /// Over the host's containers.
    pub const fn new(manager: Manager) -> Self {
        Self { manager }
    }

    fn find(&self, word: &str) -> Result<Arc<Container>, Status> {
        Ok(self.manager.find(word)?)
    }

    /// Bytes of the writable layer, and of that and the image together.
    async fn sizes(&self, container: &Container) -> Result<(u64, u64), Error> {
        let writable = used(container, "upper").await?;
        let layers: Vec<_> = container
            .record()
            .layers
            .iter()
            .filter_map(|layer| layer.parse().ok())
            .collect();
        Ok((
            writable,
            writable + self.manager.layers().size_of(layers.iter()),
        ))
    }
}

/// Bytes on disk of a container's folder, or of a part of it. Gone meanwhile is none.
async fn used(container: &Container, part: &str) -> Result<u64, Error> {
    let folder = container.folder.join(part);
    disk::measure(move || disk::usage(&folder))
        .await
        .tried(|| format!("cannot measure container {}", container.name()))
}

type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Runs a streaming call in a task that ends with it; its error is the stream's last item.
fn stream<T, F>(serve: impl FnOnce(mpsc::Sender<Result<T, Status>>) -> F) -> Response<Events<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (send, receive) = mpsc::channel(QUEUE);
    let work = serve(send.clone());
    tokio::spawn(async move {
        if let Err(status) = work.await {
            // The client is gone: nobody is to be told.
            let _ = send.send(Err(status)).await;
        }
    });
    Response::new(Box::pin(ReceiverStream::new(receive)))
}

/// Does something to its end, also when the caller goes away in the middle: half a start or half a
/// removal would be left behind.
async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(work)
        .await
        .map_err(std::io::Error::other)
        .tried(|| "interrupted".to_owned())?
}

#[tonic::async_trait]
impl Containers for ContainersService {
    type RunStream = Events<pb::RunEvent>;
    async fn run(
        &self,
        request: Request<Streaming<pb::RunRequest>>,
    ) -> Result<Response<Self::RunStream>, Status> {
        let (manager, requests) = (self.manager.clone(), request.into_inner());
        Ok(stream(|client| run::run(manager, requests, client)))
    }

    type CreateStream = Events<pb::RunEvent>;
    async fn create(
        &self,
        request: Request<pb::CreateRequest>,
    ) -> Result<Response<Self::CreateStream>, Status> {
        let manager = self.manager.clone();
        Ok(stream(|client| {
            run::create_only(manager, request.into_inner(), client)
        }))
    }

    async fn start(
        &self,
        request: Request<pb::StartRequest>,
    ) -> Result<Response<pb::StartResponse>, Status> {
        let request = request.into_inner();
        let container = self.find(&request.container)?;
        let (manager, id) = (self.manager.clone(), container.id.clone());
        let start = async move {
            let started = manager.start(&container, request.terminal_size).await;
            if started.is_err() {
                manager.remove_unstarted(&container).await;
            }
            started
        };
        let already = !whole(start).await?;
        Ok(Response::new(pb::StartResponse { id, already }))
    }

    type AttachStream = Events<pb::AttachEvent>;
    async fn attach(
        &self,
        request: Request<Streaming<pb::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (manager, requests) = (self.manager.clone(), request.into_inner());
        Ok(stream(|client| run::attach(manager, requests, client)))
    }

    type ExecStream = Events<pb::ExecEvent>;
    async fn exec(
        &self,
        request: Request<Streaming<pb::ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let (manager, requests) = (self.manager.clone(), request.into_inner());
        Ok(stream(|client| exec::exec(manager, requests, client)))
    }

    async fn stop(
        &self,
        request: Request<pb::StopRequest>,
    ) -> Result<Response<pb::StopResponse>, Status> {
        let request = request.into_inner();
        let container = self.find(&request.container)?;
        let (manager, id) = (self.manager.clone(), container.id.clone());
        let already = !whole(async move {
            let (signal, timeout) = (request.signal, request.timeout_seconds);
            manager.stop(&container, &signal, timeout).await
        })
        .await?;
        Ok(Response::new(pb::StopResponse { id, already }))
    }

    async fn restart(
        &self,
        request: Request<pb::RestartRequest>,
    ) -> Result<Response<pb::RestartResponse>, Status> {
        let request = request.into_inner();
        let container = self.find(&request.container)?;
        let (manager, id) = (self.manager.clone(), container.id.clone());
        whole(async move {
            let (signal, timeout) = (request.signal, request.timeout_seconds);
            manager.restart(&container, &signal, timeout).await
        })
        .await?;
        Ok(Response::new(pb::RestartResponse { id }))
    }

    async fn kill(
        &self,
        request: Request<pb::KillRequest>,
    ) -> Result<Response<pb::KillResponse>, Status> {
        let request = request.into_inner();
        let container = self.find(&request.container)?;
        let (manager, own) = (self.manager.clone(), container.clone());
        whole(async move { manager.kill(&own, &request.signal).await }).await?;
        Ok(Response::new(pb::KillResponse {
            id: container.id.clone(),
        }))
    }

    async fn pause(
        &self,
        request: Request<pb::PauseRequest>,
    ) -> Result<Response<pb::PauseResponse>, Status> {
        let container = self.find(&request.into_inner().container)?;
        let (manager, own) = (self.manager.clone(), container.clone());
        whole(async move { manager.pause(&own, true).await }).await?;
        Ok(Response::new(pb::PauseResponse {
            id: container.id.clone(),
        }))
    }

    async fn unpause(
        &self,
        request: Request<pb::UnpauseRequest>,
    ) -> Result<Response<pb::UnpauseResponse>, Status> {
        let container = self.find(&request.into_inner().container)?;
        let (manager, own) = (self.manager.clone(), container.clone());
        whole(async move { manager.pause(&own, false).await }).await?;
        Ok(Response::new(pb::UnpauseResponse {
            id: container.id.clone(),
        }))
    }

    async fn remove(
        &self,
        request: Request<pb::RemoveRequest>,
    ) -> Result<Response<pb::RemoveResponse>, Status> {
        let request = request.into_inner();
        let manager = self.manager.clone();
        let container = match manager.find(&request.container) {
            Err(Error::Unreadable(id)) if request.force => {
                let removed = id.clone();
                whole(async move { manager.remove_unreadable(&id).await }).await?;
                return Ok(Response::new(pb::RemoveResponse { id: removed }));
            }
            found => found?,
        };
        let id = container.id.clone();
        let (force, volumes) = (request.force, request.volumes);
        whole(async move { manager.remove(&container, force, volumes).await }).await?;
        Ok(Response::new(pb::RemoveResponse { id }))
    }

    async fn prune(
        &self,
        request: Request<pb::PruneRequest>,
    ) -> Result<Response<pb::PruneResponse>, Status> {
        let filters = Filters::prune(view::filters(request.into_inner().filters))?;
        let mut pruned = pb::PruneResponse::default();
        for container in self.manager.all() {
            if !container.is_up() && filters.pass(&container) {
                let size = used(&container, "").await?;
                let (manager, id) = (self.manager.clone(), container.id.clone());
                let remove = async move { manager.remove(&container, false, false).await };
                match whole(remove).await {
                    Ok(()) => {
                        pruned.removed.push(id);
                        pruned.reclaimed += size;
                    }
                    // Somebody started it, or removed it.
                    Err(Error::Conflict(_) | Error::NoSuchContainer(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        self.manager.tell_prune("container", pruned.reclaimed);
        Ok(Response::new(pruned))
    }

    async fn rename(
        &self,
        request: Request<pb::RenameRequest>,
    ) -> Result<Response<pb::RenameResponse>, Status> {
        let request = request.into_inner();
        let container = self.find(&request.container)?;
        let manager = self.manager.clone();
        whole(async move { manager.rename(&container, &request.name).await }).await?;
        Ok(Response::new(pb::RenameResponse {}))
    }

    async fn connect_network(
        &self,
        request: Request<pb::ConnectNetworkRequest>,
    ) -> Result<Response<pb::ConnectNetworkResponse>, Status> {
        let request = request.into_inner();
        let container = self.find(&request.container)?;
        let (manager, network) = (self.manager.clone(), request.network.unwrap_or_default());
        whole(async move { manager.connect(&container, network).await }).await?;
        Ok(Response::new(pb::ConnectNetworkResponse {}))
    }

    async fn disconnect_network(
        &self,
        request: Request<pb::DisconnectNetworkRequest>,
    ) -> Result<Response<pb::DisconnectNetworkResponse>, Status> {
        let request = request.into_inner();
        let manager = self.manager.clone();
        match manager.find(&request.container) {
            Ok(container) => {
                whole(async move { manager.disconnect(&container, &request.network).await })
                    .await?;
            }
            Err(Error::NoSuchContainer(_) | Error::Unreadable(_)) if request.force => {
                let (word, network) = (request.container, request.network);
                let stranger = async move { manager.disconnect_stranger(&word, &network).await };
                whole(stranger).await?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(Response::new(pb::DisconnectNetworkResponse {}))
    }

    async fn reconcile_networks(
        &self,
        _: Request<pb::ReconcileNetworksRequest>,
    ) -> Result<Response<pb::ReconcileNetworksResponse>, Status> {
        let manager = self.manager.clone();
        let findings = whole(async move { manager.reconcile_networks().await }).await?;
        let findings = findings.into_iter().map(|(what, put_right)| {
            pb::reconcile_networks_response::Finding {
                what,
                trouble: put_right.err().unwrap_or_default(),
            }
        });
        Ok(Response::new(pb::ReconcileNetworksResponse {
            findings: findings.collect(),
        }))
    }

    async fn update_ports(
        &self,
        request: Request<pb::UpdatePortsRequest>,
    ) -> Result<Response<pb::UpdatePortsResponse>, Status> {
        let request = request.into_inner();
        let container = self.find(&request.container)?;
        let manager = self.manager.clone();
        let ports = whole(async move {
            manager
                .update_ports(&container, &request.add, &request.remove)
                .await
        })
        .await?;
        Ok(Response::new(pb::UpdatePortsResponse { ports }))
    }

    async fn update(
        &self,
        request: Request<pb::UpdateRequest>,
    ) -> Result<Response<pb::UpdateResponse>, Status> {
        let request = request.into_inner();
        let container = self.find(&request.container)?;
        let resources = request.resources.unwrap_or_default();
        let (manager, own) = (self.manager.clone(), container.clone());
        let update = async move { manager.update(&own, &resources, request.restart).await };
        let warnings = whole(update).await?;
        self.manager.tell(&container, "update", &[]);
        Ok(Response::new(pb::UpdateResponse { warnings }))
    }

    async fn wait(
        &self,
        request: Request<pb::WaitRequest>,
    ) -> Result<Response<pb::WaitResponse>, Status> {
        let request = request.into_inner();
        let container = self.find(&request.container)?;
        let condition = request.condition();
        let (mut status, mut exits) = (container.watch(), container.exits());
        let down = |s: &State| match condition {
            Condition::Removed => *s == State::Removed,
            // What has ended before does not count.
            Condition::NextExit => *s == State::Removed,
            Condition::Unspecified | Condition::NotRunning => !s.is_up(),
        };
        // Both senders live as long as the container, which we hold.
        tokio::select! {
            _ = status.wait_for(down) => {}
            // One that its policy brings back at once has ended, too.
            _ = exits.changed(), if condition != Condition::Removed => {}
        }
        // One of `--rm` may be gone before we look.
        let (exit_code, error) = container
            .last_exit()
            .map_or_else(Default::default, |record| (record.code, record.error));
        Ok(Response::new(pb::WaitResponse { exit_code, error }))
    }

    async fn list(
        &self,
        request: Request<pb::ListRequest>,
    ) -> Result<Response<pb::ListResponse>, Status> {
        let request = request.into_inner();
        let filters = Filters::list(&self.manager, view::filters(request.filters))?;
        let all = request.all || request.last > 0 || filters.shows_stopped();
        let mut containers = Vec::new();
        for container in self.manager.all() {
            if (all || container.is_up()) && filters.pass(&container) {
                containers.push(container);
            }
        }
        if request.last > 0 {
            containers.truncate(request.last as usize);
        }
        let page = request.page.as_ref();
        let first = request.all && page.is_none_or(|page| page.token.is_empty());
        let unreadable = match first {
            true => self.manager.unreadable().into_iter().collect(),
            false => Vec::new(),
        };
        list::skip(&mut containers, page)?;
        let (mut lines, next_page_token) = list::page(&containers, page);
        if request.size {
            for (line, container) in lines.iter_mut().zip(&containers) {
                (line.size_rw, line.size_root) = self.sizes(container).await?;
            }
        }
        Ok(Response::new(pb::ListResponse {
            containers: lines,
            next_page_token,
            unreadable,
        }))
    }

    async fn inspect(
        &self,
        request: Request<pb::InspectRequest>,
    ) -> Result<Response<pb::ContainerDetails>, Status> {
        let request = request.into_inner();
        let container = self.find(&request.container)?;
        let volume = |name: &str| self.manager.volumes().data(name).display().to_string();
        let lower = self.manager.lower(&container.record());
        let lower: Vec<_> = lower.iter().map(|l| l.display().to_string()).collect();
        let mut details = view::details(&container, lower.join(":"), volume);
        details.cgroup_version = if self.manager.hierarchies().v1.is_empty() {
            2
        } else {
            1
        };
        if request.size
            && let Some(summary) = &mut details.summary
        {
            (summary.size_rw, summary.size_root) = self.sizes(&container).await?;
        }
        Ok(Response::new(details))
    }

    type LogsStream = Events<pb::LogEntries>;
    async fn logs(
        &self,
        request: Request<pb::LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        let request = request.into_inner();
        let container = self.find(&request.container)?;
        let log = container.record().spec.log.unwrap_or_default();
        if log.driver == "none" {
            let sentence = "configured logging driver does not support reading".to_owned();
            return Err(Error::Conflict(sentence).into());
        }
        Ok(stream(|client| logs::serve(container, request, client)))
    }

    async fn top(
        &self,
        request: Request<pb::TopRequest>,
    ) -> Result<Response<pb::TopResponse>, Status> {
        let request = request.into_inner();
        let container = self.find(&request.container)?;
        let columns = top::columns(&request.ps_args)?;
        let processes = self.manager.processes(&container)?;
        self.manager.tell(&container, "top", &[]);
        Ok(Response::new(pb::TopResponse {
            titles: columns
                .iter()
                .map(|(_, title)| (*title).to_owned())
                .collect(),
            processes: top::processes(&processes, &columns)
                .into_iter()
                .map(|fields| pb::top_response::Process { fields })
                .collect(),
        }))
    }

    type StatsStream = Events<pb::StatsSample>;
    async fn stats(
        &self,
        request: Request<pb::StatsRequest>,
    ) -> Result<Response<Self::StatsStream>, Status> {
        let (manager, request) = (self.manager.clone(), request.into_inner());
        Ok(stream(|client| stats::serve(manager, request, client)))
    }

    async fn diff(
        &self,
        request: Request<pb::DiffRequest>,
    ) -> Result<Response<pb::DiffResponse>, Status> {
        let container = self.find(&request.into_inner().container)?;
        Ok(Response::new(copy::diff(&self.manager, &container).await?))
    }

    type CopyFromStream = Events<pb::CopyChunk>;
    async fn copy_from(
        &self,
        request: Request<pb::CopyFromRequest>,
    ) -> Result<Response<Self::CopyFromStream>, Status> {
        let request = request.into_inner();
        let (manager, container) = (self.manager.clone(), self.find(&request.container)?);
        manager.tell(&container, "archive-path", &[]);
        Ok(stream(|client| {
            copy::copy_from(manager, container, request, client)
        }))
    }

    async fn copy_to(
        &self,
        request: Request<Streaming<pb::CopyToRequest>>,
    ) -> Result<Response<pb::CopyToResponse>, Status> {
        let copied = copy::copy_to(&self.manager, request.into_inner()).await?;
        Ok(Response::new(copied))
    }

    async fn stat_path(
        &self,
        request: Request<pb::StatPathRequest>,
    ) -> Result<Response<pb::PathStat>, Status> {
        let request = request.into_inner();
        let container = self.find(&request.container)?;
        let stat = copy::stat_path(&self.manager, container, request.path).await?;
        Ok(Response::new(stat))
    }

    type ExportStream = Events<pb::CopyChunk>;
    async fn export(
        &self,
        request: Request<pb::ExportRequest>,
    ) -> Result<Response<Self::ExportStream>, Status> {
        let (manager, container) = (
            self.manager.clone(),
            self.find(&request.into_inner().container)?,
        );
        manager.tell(&container, "export", &[]);
        Ok(stream(|client| copy::export(manager, container, client)))
    }

    async fn commit(
        &self,
        request: Request<pb::CommitRequest>,
    ) -> Result<Response<pb::CommitResponse>, Status> {
        let request = request.into_inner();
        let container = self.find(&request.container)?;
        let commit = Commit {
            reference: request.reference,
            author: request.author,
            message: request.message,
            changes: request.changes,
            pause: request.pause,
        };
        let manager = self.manager.clone();
        let image_id = whole(async move { manager.commit(&container, commit).await }).await?;
        Ok(Response::new(pb::CommitResponse { image_id }))
    }
}
