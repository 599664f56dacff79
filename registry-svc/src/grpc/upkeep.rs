//! What keeps the store in order (`proto/slipway/registry/v1/upkeep.proto`).

use std::sync::Arc;

use slipway_proto::registry::v1::{
    check_event, check_finding::Kind as KindMessage, repository_usage_event, retain_event,
    upkeep_server::Upkeep as Api, *,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Answer, transfer::forward};
use crate::{
    fsck::check::{self, Kind},
    registry::{Registry, now},
    retention::plan::Step,
};

/// Messages on their way to a caller.
const QUEUE: usize = 32;

/// Repositories in one message.
const PAGE: usize = 500;

/// Answers calls.
pub struct Upkeep {
    registry: Arc<Registry>,
}

impl Upkeep {
    /// The upkeep of a registry.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }
}

type Streamed<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl Api for Upkeep {
    type CheckStream = Streamed<CheckEvent>;
    type RetainStream = Streamed<RetainEvent>;
    type RepositoryUsageStream = Streamed<RepositoryUsageEvent>;

    async fn check(&self, request: Request<CheckRequest>) -> Answer<Self::CheckStream> {
        let request = request.into_inner();
        let wanted = check::CheckRequest {
            repair: request.repair,
            restart: request.restart,
            rate: Some(request.rate).filter(|rate| *rate > 0),
        };
        let (sender, mut events) = mpsc::channel(QUEUE);
        let (out, stream) = mpsc::channel(QUEUE);
        let registry = Arc::clone(&self.registry);
        tokio::spawn(async move {
            let work = registry.check(wanted, &sender);
            // Dropped with the caller.
            let result = tokio::select! {
                result = work => result,
                () = forward(&mut events, &out, message) => return,
            };
            drop(sender);
            while let Some(event) = events.recv().await {
                if out.send(Ok(message(event))).await.is_err() {
                    return;
                }
            }
            let last = result.map_err(Status::from).map(|summary| CheckEvent {
                event: Some(check_event::Event::Done(CheckDone {
                    blobs: summary.blobs,
                    bytes: summary.bytes,
                    found: summary.found,
                    unmended: summary.unmended,
                })),
            });
            // The caller may be gone.
            let _ = out.send(last).await;
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn collect_garbage(
        &self,
        request: Request<CollectGarbageRequest>,
    ) -> Answer<CollectGarbageResponse> {
        let collected = self
            .registry
            .collect_garbage(request.into_inner().dry_run)
            .await?;
        Ok(Response::new(CollectGarbageResponse {
            blobs: collected.blobs,
            reclaimed: collected.freed,
            held: collected.held,
            refused: collected.refused.unwrap_or_default().to_owned(),
        }))
    }

    async fn retain(&self, request: Request<RetainRequest>) -> Answer<Self::RetainStream> {
        let retained = self
            .registry
            .retain(now(), request.into_inner().dry_run)
            .await?;
        let no_rules = self.registry.has_no_rules();
        let step = |step: Step, skipped: &str| {
            retain_event::Event::Step(RetainStep {
                repository: step.repository.to_string(),
                digest: step.digest.to_string(),
                tags: step.tags.iter().map(|(tag, _)| tag.to_string()).collect(),
                manifest: step.manifest,
                why: step.why,
                reclaimed: step.freed,
                skipped: skipped.to_owned(),
            })
        };
        let done = retain_event::Event::Done(RetainDone {
            reclaimed: retained.freed,
            no_rules,
        });
        let gone = retained.steps.into_iter().map(move |gone| step(gone, ""));
        let skipped = retained.skipped.into_iter();
        let events = gone
            .chain(skipped.map(move |(kept, why)| step(kept, why)))
            .chain([done])
            .map(|event| RetainEvent { event: Some(event) });
        Ok(Response::new(send(events)))
    }

    async fn repository_usage(
        &self,
        _: Request<RepositoryUsageRequest>,
    ) -> Answer<Self::RepositoryUsageStream> {
        let usage = self.registry.repository_usage().await?;
        let store = StoreUsage {
            shared: usage.shared,
            unneeded: usage.unneeded,
            uploads: usage.uploads,
            partial: usage.partial,
            staged: usage.staged,
            quarantined: usage.quarantined,
        };
        let message = |r: &crate::usage::RepositoryUsage| repository_usage_event::Repository {
            name: r.repository.to_string(),
            exclusive: r.exclusive,
            shared: r.shared,
        };
        let pages: Vec<Vec<_>> = usage
            .repositories
            .chunks(PAGE)
            .map(|page| page.iter().map(message).collect())
            .collect();
        let pages = pages.into_iter().map(|repositories| RepositoryUsageEvent {
            repositories,
            store: None,
        });
        let last = RepositoryUsageEvent {
            repositories: Vec::new(),
            store: Some(store),
        };
        Ok(Response::new(send(pages.chain([last]))))
    }
}

/// Sends what is there as fast as the caller takes it.
fn send<T: Send + 'static>(events: impl Iterator<Item = T> + Send + 'static) -> Streamed<T> {
    let (out, stream) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        for event in events {
            if out.send(Ok(event)).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(stream)
}

fn message(event: check::CheckEvent) -> CheckEvent {
    use check_event::Event as E;
    let event = match event {
        check::CheckEvent::Status(line) => E::Status(line),
        check::CheckEvent::Progress { checked, total } => {
            E::Progress(CheckProgress { checked, total })
        }
        check::CheckEvent::Found(finding) => {
            let kind = match finding.kind {
                Kind::BrokenBlob => KindMessage::BrokenBlob,
                Kind::MissingBlob => KindMessage::MissingBlob,
                Kind::Manifest => KindMessage::Manifest,
                Kind::Record => KindMessage::Record,
                Kind::LeftOver => KindMessage::LeftOver,
            };
            E::Finding(CheckFinding {
                kind: kind.into(),
                what: finding.what,
                text: finding.text,
                mended: finding.mended,
                damaged: finding.damaged,
            })
        }
    };
    CheckEvent { event: Some(event) }
}
