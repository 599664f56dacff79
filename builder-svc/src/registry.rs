//! registry-svc as this service sees it: base images in, built images and cache records out.

use std::{collections::HashMap, time::SystemTime};

use slipway_image::{Descriptor, Digest, ImageConfig, Platform, Reference};
use slipway_proto::{
    registry::v1::{
        DiskUsageRequest, GetManifestRequest, ListTagsRequest, PullRequest, PushEvent, PushRequest,
        PutManifestRequest, ReadBlobRequest, RemoveImageRequest, ResolveRequest, ResolvedImage,
        WriteBlobRequest, pull_event::Event as PullStep, pull_request::Policy,
        push_event::Event as PushStep, registry_client::RegistryClient, write_blob_request,
    },
    types::v1 as types,
};
use slipway_service::{
    error::{SERVICE_UNAVAILABLE, is_away, reason},
    whole::{Piece, Whole},
};
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::{
    error::{Error, Result},
    layer::Layer,
};

/// An image to build upon.
#[derive(Debug, Clone)]
pub struct Image {
    /// How to run it.
    pub config: ImageConfig,
    /// Its layers, base first.
    pub layers: Vec<Layer>,
    /// What its name stands for: an index where there is one.
    pub digest: String,
}

/// How base images are fetched.
#[derive(Debug, Clone, Default)]
pub struct Fetch {
    /// Ask the upstream even if the image is here.
    pub always: bool,
    /// None = this host's.
    pub platform: Option<Platform>,
    /// Credentials by registry host; used for this build only.
    pub auths: HashMap<String, types::RegistryAuth>,
}

/// registry-svc.
#[derive(Debug, Clone)]
pub struct Registry {
    client: RegistryClient<Channel>,
}

impl Registry {
    /// Over a channel.
    pub fn new(channel: Channel) -> Self {
        let limit = slipway_service::MAX_MESSAGE_SIZE;
        let client = RegistryClient::new(channel)
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit);
        Self { client }
    }

    /// Finds an image, fetched from its upstream when it is not here. Layers stay where they are until
    /// somebody reads them.
    pub async fn image(&self, name: &str, fetch: &Fetch) -> Result<Image> {
        let what = || format!("cannot use the image {name}");
        let mut client = self.client.clone();
        let platform = fetch.platform.as_ref().map(|p| types::Platform {
            os: p.os.clone(),
            architecture: p.architecture.clone(),
            variant: p.variant.clone(),
            ..types::Platform::default()
        });
        if !fetch.always {
            let request = ResolveRequest {
                reference: name.to_owned(),
                platform: platform.clone(),
            };
            match client.resolve(request).await {
                Ok(found) => return image(name, found.into_inner()),
                Err(status) if status.code() == Code::NotFound => {}
                Err(status) => return Err(remote(what(), &status)),
            }
        }
        let reference: Reference = name
            .parse()
            .map_err(|e| Error::Invalid(format!("{}: {e}", what())))?;
        let request = PullRequest {
            reference: name.to_owned(),
            platform,
            policy: if fetch.always {
                Policy::Always
            } else {
                Policy::Missing
            }
            .into(),
            auth: fetch.auths.get(reference.domain()).cloned(),
            manifest_only: true,
            ..PullRequest::default()
        };
        let answer = client.pull(request).await;
        let mut events = answer.map_err(|s| remote(what(), &s))?.into_inner();
        let mut resolved = None;
        while let Some(event) = events.message().await.map_err(|s| remote(what(), &s))? {
            if let Some(PullStep::Resolved(found)) = event.event {
                resolved = Some(found);
            }
        }
        let resolved = resolved.ok_or_else(|| {
            Error::Invalid(format!("{}: registry-svc did not resolve it", what()))
        })?;
        image(name, resolved)
    }

    /// Stores a small blob.
    pub async fn put_blob(&self, repository: &str, content: bytes::Bytes) -> Result<Digest> {
        let digest = Digest::of(&content);
        let header = write_blob_request::Header {
            repository: repository.to_owned(),
            digest: digest.to_string(),
            size: content.len() as u64,
            ..write_blob_request::Header::default()
        };
        let mut parts = vec![WriteBlobRequest {
            part: Some(write_blob_request::Part::Header(header)),
        }];
        let mut rest = content;
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(slipway_service::CHUNK_SIZE));
            parts.push(WriteBlobRequest {
                part: Some(write_blob_request::Part::Data(piece)),
            });
        }
        self.client
            .clone()
            .write_blob(tokio_stream::iter(parts))
            .await
            .map_err(|s| remote("cannot store a blob".to_owned(), &s))?;
        Ok(digest)
    }

    /// Stores a manifest and points tags at it; durable when it returns.
    pub async fn put_manifest(
        &self,
        repository: &str,
        tags: Vec<String>,
        media_type: &str,
        content: Vec<u8>,
    ) -> Result<String> {
        let request = PutManifestRequest {
            repository: repository.to_owned(),
            tags,
            media_type: media_type.to_owned(),
            content: content.into(),
        };
        let answer = self.client.clone().put_manifest(request).await;
        let answer =
            answer.map_err(|s| remote(format!("cannot store a manifest in {repository}"), &s))?;
        Ok(answer.into_inner().digest)
    }

    /// The bytes of a manifest, if it is there.
    pub async fn manifest(&self, repository: &str, reference: &str) -> Result<Option<Vec<u8>>> {
        let request = GetManifestRequest {
            repository: repository.to_owned(),
            reference: reference.to_owned(),
        };
        match self.client.clone().get_manifest(request).await {
            Ok(found) => Ok(Some(found.into_inner().content.into())),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(remote(format!("cannot look into {repository}"), &status)),
        }
    }
}

impl Registry {
    /// Streams a blob; one that is still upstream comes through.
    pub async fn read_blob(
        &self,
        repository: &str,
        digest: &Digest,
        chunks: mpsc::Sender<bytes::Bytes>,
    ) -> Result<()> {
        let fail = |s| remote(format!("cannot read {digest} of {repository}"), &s);
        let request = ReadBlobRequest {
            repository: repository.to_owned(),
            digest: digest.to_string(),
            ..ReadBlobRequest::default()
        };
        let answer = self.client.clone().read_blob(request).await;
        let mut stream = answer.map_err(fail)?.into_inner();
        while let Some(chunk) = stream.message().await.map_err(fail)? {
            // Who takes it has ended, and says why.
            if chunks.send(chunk.data).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Stores a blob whose digest is not known yet. Nothing is stored unless it was said to be whole before the
    /// chunks ended, or when this future is dropped before that.
    pub async fn write_blob(
        &self,
        repository: &str,
        chunks: mpsc::Receiver<bytes::Bytes>,
        whole: Whole,
    ) -> Result<(Digest, u64)> {
        use write_blob_request::{Header, Part};
        let _dropped = whole.until_dropped();
        let body = whole.body(chunks).map(|piece| match piece {
            Piece::Data(data) => Part::Data(data),
            // A blob has one header: a second one is refused.
            Piece::CutOff => Part::Header(Header::default()),
        });
        let stored = self.send_blob(repository, false, body).await?;
        Ok((stored.digest, stored.size))
    }

    /// The same for a blob of which registry-svc may have parts. When it has not one that is named, the reason is
    /// [`PART_UNKNOWN`].
    pub async fn write_parts(
        &self,
        repository: &str,
        pieces: mpsc::Receiver<BlobPiece>,
        whole: Whole,
    ) -> Result<Stored> {
        use write_blob_request::{BeginPart, EndPart, Header, Part, PartName};
        let _dropped = whole.until_dropped();
        let body = whole.body(pieces).map(|piece| match piece {
            Piece::Data(BlobPiece::Data(data)) => Part::Data(data),
            Piece::Data(BlobPiece::Begin) => Part::BeginPart(BeginPart {}),
            Piece::Data(BlobPiece::End) => Part::EndPart(EndPart {}),
            Piece::Data(BlobPiece::Known(digest, size)) => {
                let digest = digest.to_string();
                Part::KnownPart(PartName { digest, size })
            }
            // As above.
            Piece::CutOff => Part::Header(Header::default()),
        });
        self.send_blob(repository, true, body).await
    }

    async fn send_blob(
        &self,
        repository: &str,
        in_parts: bool,
        body: impl Stream<Item = write_blob_request::Part> + Send + 'static,
    ) -> Result<Stored> {
        let header = write_blob_request::Header {
            repository: repository.to_owned(),
            in_parts,
            ..write_blob_request::Header::default()
        };
        let parts = tokio_stream::iter([write_blob_request::Part::Header(header)]).chain(body);
        let stream = parts.map(|part| WriteBlobRequest { part: Some(part) });
        let answer = self.client.clone().write_blob(stream).await;
        let stored = answer
            .map_err(|s| remote("cannot store a blob".to_owned(), &s))?
            .into_inner();
        let said = |e| Error::Invalid(format!("registry-svc said: {e}"));
        let new = stored.parts.iter().map(|part| {
            let digest = part.digest.parse().map_err(said)?;
            Ok((digest, part.size))
        });
        Ok(Stored {
            digest: stored.digest.parse().map_err(said)?,
            size: stored.size,
            new: new.collect::<Result<_>>()?,
        })
    }

    /// What a name means here, without asking anybody else.
    pub async fn digest_of(&self, name: &Reference) -> Result<Option<String>> {
        let request = ResolveRequest {
            reference: name.to_string(),
            platform: None,
        };
        match self.client.clone().resolve(request).await {
            Ok(found) => Ok(Some(found.into_inner().digest)),
            // Also: an index without this host's platform.
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(remote(format!("cannot look up {name}"), &status)),
        }
    }

    /// Pushes an image to the registry that its name says.
    pub async fn push(&self, name: &str, auth: Option<types::RegistryAuth>) -> Result<Pushing> {
        let request = PushRequest {
            reference: name.to_owned(),
            auth,
            ..PushRequest::default()
        };
        let what = format!("failed to push {name}");
        match self.client.clone().push(request).await {
            Ok(events) => Ok(Pushing {
                events: events.into_inner(),
                what,
            }),
            Err(status) => Err(remote(what, &status)),
        }
    }
}

/// The reason when a part is named that registry-svc has not, or not any more.
pub const PART_UNKNOWN: &str = "PART_UNKNOWN";

/// A piece of a blob that comes with parts.
#[derive(Debug)]
pub enum BlobPiece {
    /// Bytes.
    Data(bytes::Bytes),
    /// A part begins.
    Begin,
    /// It ends.
    End,
    /// A part that is there already, and its size.
    Known(Digest, u64),
}

impl From<bytes::Bytes> for BlobPiece {
    fn from(data: bytes::Bytes) -> Self {
        Self::Data(data)
    }
}

/// A blob that was stored.
#[derive(Debug)]
pub struct Stored {
    /// Its digest.
    pub digest: Digest,
    /// Its size, bytes.
    pub size: u64,
    /// Digests and sizes of the parts that were sent, in their order.
    pub new: Vec<(Digest, u64)>,
}

/// A push that goes on.
pub struct Pushing {
    events: Streaming<PushEvent>,
    what: String,
}

impl Pushing {
    /// The next line for people; none = it is done.
    pub async fn next(&mut self) -> Result<Option<String>> {
        loop {
            let event = self.events.message().await;
            let Some(event) = event.map_err(|s| remote(self.what.clone(), &s))? else {
                return Ok(None);
            };
            if let Some(PushStep::Status(line)) = event.event {
                return Ok(Some(line));
            }
        }
    }
}

impl Registry {
    /// All tags of a repository, and when each was put.
    pub async fn tags(&self, repository: &str) -> Result<Vec<(String, SystemTime)>> {
        let mut found = Vec::new();
        let mut token = String::new();
        loop {
            let request = ListTagsRequest {
                repository: repository.to_owned(),
                page: Some(types::Page { size: 1000, token }),
            };
            let answer = self.client.clone().list_tags(request).await;
            let answer =
                answer.map_err(|s| remote(format!("cannot look into {repository}"), &s))?;
            let answer = answer.into_inner();
            found.extend(answer.tags.into_iter().map(|tag| {
                let time = tag.tagged.and_then(|t| t.try_into().ok());
                (tag.name, time.unwrap_or(SystemTime::UNIX_EPOCH))
            }));
            token = answer.next_page_token;
            if token.is_empty() {
                return Ok(found);
            }
        }
    }

    /// Bytes on disk of each tag of a repository: of all its blobs, and of those that images have too.
    pub async fn usage(&self, repository: &str) -> Result<HashMap<String, (u64, u64)>> {
        let request = DiskUsageRequest {
            tags_of: repository.to_owned(),
            ..DiskUsageRequest::default()
        };
        let answer = self.client.clone().disk_usage(request).await;
        let answer = answer.map_err(|s| remote(format!("cannot measure {repository}"), &s))?;
        let tags = answer.into_inner().tags;
        Ok(tags
            .into_iter()
            .map(|t| (t.tag, (t.size, t.shared)))
            .collect())
    }

    /// Takes a tag away, and what it named with it; returns the bytes that became free.
    pub async fn remove(&self, repository: &str, tag: &str) -> Result<u64> {
        let request = RemoveImageRequest {
            image: format!("{repository}:{tag}"),
            ..RemoveImageRequest::default()
        };
        match self.client.clone().remove_image(request).await {
            Ok(answer) => Ok(answer.into_inner().reclaimed),
            // Somebody else was quicker.
            Err(status) if status.code() == Code::NotFound => Ok(0),
            Err(status) => Err(remote(format!("cannot remove {repository}:{tag}"), &status)),
        }
    }
}

/// A status as an error of ours.
pub fn remote(what: String, status: &Status) -> Error {
    let (code, reason, message) = match is_away(status) {
        true => (
            Code::Unavailable,
            SERVICE_UNAVAILABLE.to_owned(),
            format!("cannot reach the service: {}", status.message()),
        ),
        false => (status.code(), reason(status), status.message().to_owned()),
    };
    Error::Remote {
        what,
        code: code as i32,
        reason,
        message,
    }
}

fn image(name: &str, resolved: ResolvedImage) -> Result<Image> {
    let broken =
        |why: &dyn std::fmt::Display| Error::Invalid(format!("the image {name} is broken: {why}"));
    let config = ImageConfig::parse(&resolved.config_json).map_err(|e| broken(&e))?;
    if resolved.layers.len() != resolved.diff_ids.len() {
        return Err(broken(&"it has not as many layers as diff ids"));
    }
    let layers = resolved
        .layers
        .into_iter()
        .zip(&resolved.diff_ids)
        .map(|(blob, diff_id)| {
            let digest = blob.digest.parse().map_err(|e| broken(&e))?;
            Ok(Layer {
                descriptor: Descriptor::new(blob.media_type, digest, blob.size),
                diff_id: diff_id.parse().map_err(|e| broken(&e))?,
                repository: resolved.repository.clone(),
            })
        })
        .collect::<Result<_>>()?;
    Ok(Image {
        config,
        layers,
        digest: resolved.digest,
    })
}
