//! The gRPC edge (`proto/slipway/registry/v1/registry.proto`): translates messages to the domain and
//! back, and nothing else. Whoever may call it is trusted with the whole store; foreign clients use
//! [`crate::http`].

use std::{pin::Pin, sync::Arc};

use futures_util::Stream;
use slipway_proto::{
    registry::v1::{registry_server::Registry as Api, *},
    types::v1 as types,
};
use slipway_service::Context;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::registry::Registry;

mod archive;
mod content;
mod convert;
mod images;
mod status;
mod transfer;
mod upkeep;

pub use upkeep::Upkeep;

/// Answers calls.
pub struct Service {
    registry: Arc<Registry>,
    context: Context,
}

impl Service {
    /// The service of a registry.
    pub fn new(registry: Arc<Registry>, context: Context) -> Self {
        Self { registry, context }
    }

    /// The registry with all that anybody was told until now.
    async fn registry(&self) -> Result<&Arc<Registry>, Status> {
        self.registry.ledger.refresh().await?;
        Ok(&self.registry)
    }
}

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Api for Service {
    type PullStream = ReceiverStream<Result<PullEvent, Status>>;
    type PushStream = ReceiverStream<Result<PushEvent, Status>>;
    type ReadBlobStream = Boxed<BlobChunk>;
    type LoadStream = ReceiverStream<Result<LoadEvent, Status>>;
    type ImportStream = ReceiverStream<Result<ImportEvent, Status>>;
    type SaveStream = ReceiverStream<Result<SaveChunk, Status>>;
    type EventsStream = Boxed<types::Event>;

    async fn resolve(&self, request: Request<ResolveRequest>) -> Answer<ResolvedImage> {
        images::resolve(self.registry().await?, request.into_inner()).await
    }

    async fn pull(&self, request: Request<PullRequest>) -> Answer<Self::PullStream> {
        transfer::pull(self.registry().await?, request.into_inner())
    }

    async fn push(&self, request: Request<PushRequest>) -> Answer<Self::PushStream> {
        transfer::push(self.registry().await?, request.into_inner())
    }

    async fn read_blob(&self, request: Request<ReadBlobRequest>) -> Answer<Self::ReadBlobStream> {
        content::read_blob(self.registry().await?, request.into_inner()).await
    }

    async fn login(&self, request: Request<LoginRequest>) -> Answer<LoginResponse> {
        transfer::login(&self.registry, request.into_inner()).await
    }

    async fn write_blob(
        &self,
        request: Request<Streaming<WriteBlobRequest>>,
    ) -> Answer<WriteBlobResponse> {
        content::write_blob(self.registry().await?, request.into_inner()).await
    }

    async fn stat_blobs(&self, request: Request<StatBlobsRequest>) -> Answer<StatBlobsResponse> {
        content::stat_blobs(self.registry().await?, request.into_inner()).await
    }

    async fn get_manifest(
        &self,
        request: Request<GetManifestRequest>,
    ) -> Answer<GetManifestResponse> {
        content::get_manifest(self.registry().await?, request.into_inner()).await
    }

    async fn put_manifest(
        &self,
        request: Request<PutManifestRequest>,
    ) -> Answer<PutManifestResponse> {
        content::put_manifest(self.registry().await?, request.into_inner()).await
    }

    async fn list_tags(&self, request: Request<ListTagsRequest>) -> Answer<ListTagsResponse> {
        images::list_tags(self.registry().await?, request.into_inner())
    }

    async fn list_images(&self, request: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        images::list(self.registry().await?, request.into_inner()).await
    }

    async fn search(&self, request: Request<SearchRequest>) -> Answer<SearchResponse> {
        images::search(self.registry().await?, request.into_inner()).await
    }

    async fn inspect_image(
        &self,
        request: Request<InspectImageRequest>,
    ) -> Answer<InspectImageResponse> {
        images::inspect(self.registry().await?, request.into_inner()).await
    }

    async fn tag_image(&self, request: Request<TagImageRequest>) -> Answer<TagImageResponse> {
        let request = request.into_inner();
        let id = self
            .registry()
            .await?
            .tag_image(&request.source, &request.target)
            .await?;
        Ok(Response::new(TagImageResponse { id: id.to_string() }))
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Answer<RemoveImageResponse> {
        images::remove(self.registry().await?, request.into_inner()).await
    }

    async fn prune_images(
        &self,
        request: Request<PruneImagesRequest>,
    ) -> Answer<PruneImagesResponse> {
        images::prune(self.registry().await?, request.into_inner()).await
    }

    async fn load(&self, request: Request<Streaming<LoadRequest>>) -> Answer<Self::LoadStream> {
        archive::load(self.registry().await?, request.into_inner()).await
    }

    async fn import(
        &self,
        request: Request<Streaming<ImportRequest>>,
    ) -> Answer<Self::ImportStream> {
        archive::import(self.registry().await?, request.into_inner()).await
    }

    async fn save(&self, request: Request<SaveRequest>) -> Answer<Self::SaveStream> {
        archive::save(self.registry().await?, request.into_inner()).await
    }

    async fn events(&self, request: Request<EventsRequest>) -> Answer<Self::EventsStream> {
        transfer::events(
            self.registry().await?,
            request.into_inner(),
            self.context.shutdown.clone(),
        )
    }

    async fn disk_usage(&self, request: Request<DiskUsageRequest>) -> Answer<DiskUsageResponse> {
        images::disk_usage(self.registry().await?, request.into_inner()).await
    }

    async fn info(&self, _: Request<InfoRequest>) -> Answer<types::ServiceInfo> {
        Ok(Response::new(transfer::info(&self.registry, &self.context)))
    }
}
