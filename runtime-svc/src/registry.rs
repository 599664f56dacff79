//! Images, as registry-svc knows them.

use std::collections::HashSet;

use slipway_image::{Digest, ImageConfig};
use slipway_proto::{
    registry::v1::{
        EventsRequest, ListImagesRequest, PullDone, PullEvent, PullRequest, PutManifestRequest,
        ReadBlobRequest, ResolveRequest, ResolvedImage, WriteBlobRequest,
        pull_event::Event as PullStep, pull_request::Policy, registry_client::RegistryClient,
        write_blob_request,
    },
    types::v1::{Page, RegistryAuth, progress::Phase},
};
use slipway_service::{
    error::{is_away, reason},
    whole::{Body, Piece, Whole},
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Streaming, transport::Channel};

use crate::error::{Error, Remote};

/// An image that can be run.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of its config.
    pub id: String,
    /// Digest that its name stands for.
    pub digest: String,
    /// Repository of its blobs.
    pub repository: String,
    /// How to run it.
    pub config: ImageConfig,
    /// Layers, base first.
    pub layers: Vec<Layer>,
}

/// A layer of an image.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Digest of the blob.
    pub digest: Digest,
    /// Its size, bytes.
    pub size: u64,
    /// Media type of the blob; "" when only its content is wanted.
    pub media_type: String,
    /// Digest of the plain archive: its name here.
    pub diff_id: Digest,
    /// Repository of registry-svc that holds it.
    pub repository: String,
}

/// What is told while an image is fetched.
pub type Notices = mpsc::Sender<PullStep>;

/// registry-svc.
#[derive(Debug, Clone)]
pub struct Registry {
    client: RegistryClient<Channel>,
}

impl Registry {
    /// Over a channel.
    pub fn new(channel: Channel) -> Self {
        let limit = slipway_service::MAX_MESSAGE_SIZE;
        Self {
            client: RegistryClient::new(channel).max_decoding_message_size(limit),
        }
    }

    /// Finds an image, fetched from its upstream by `policy`.
    pub async fn image(
        &self,
        reference: &str,
        policy: Policy,
        auth: Option<RegistryAuth>,
        notices: Option<&Notices>,
    ) -> Result<Image, Error> {
        let (image, arriving) = self.arriving(reference, policy, auth, notices).await?;
        if let Some(arriving) = arriving {
            arriving.arrived().await?;
        }
        Ok(image)
    }

    /// The same, but while layers of it are still on their way to registry-svc: they can be read meanwhile.
    pub async fn arriving(
        &self,
        reference: &str,
        policy: Policy,
        auth: Option<RegistryAuth>,
        notices: Option<&Notices>,
    ) -> Result<(Image, Option<Arriving>), Error> {
        let mut client = self.client.clone();
        if policy != Policy::Always {
            let request = ResolveRequest {
                reference: reference.to_owned(),
                platform: None,
            };
            match client.resolve(request).await {
                Ok(found) => return Ok((image(found.into_inner())?, None)),
                Err(status) if status.code() == Code::NotFound && policy != Policy::Never => {}
                Err(status) => return Err(failed(&status)),
            }
        }
        let request = PullRequest {
            reference: reference.to_owned(),
            policy: policy.into(),
            auth,
            ..PullRequest::default()
        };
        let mut events = client
            .pull(request)
            .await
            .map_err(|s| failed(&s))?
            .into_inner();
        let mut resolved = None;
        while let Some(event) = events.message().await.map_err(|s| failed(&s))? {
            match event.event {
                Some(PullStep::Resolved(found)) => resolved = Some(found),
                Some(step) => {
                    let moving =
                        matches!(&step, PullStep::Progress(p) if p.phase() == Phase::Downloading);
                    if let Some(notices) = notices {
                        // Nobody listens any more: the pull goes on all the same.
                        let _ = notices.send(step).await;
                    }
                    if moving && let Some(found) = resolved {
                        let done = PullDone {
                            reference: found.reference.clone(),
                            digest: found.digest.clone(),
                            newer: true,
                        };
                        let rest =
                            Arriving::follow(events, notices.map(mpsc::Sender::downgrade), done);
                        return Ok((image(found)?, Some(rest)));
                    }
                }
                None => {}
            }
        }
        let resolved = resolved
            .ok_or_else(|| Error::Invalid(format!("registry-svc did not resolve {reference}")))?;
        Ok((image(resolved)?, None))
    }

    /// Streams a blob from `offset` into `chunks`, and counts what it has sent, also when it fails.
    pub async fn read_blob(
        &self,
        layer: &Layer,
        offset: &mut u64,
        chunks: &mpsc::Sender<bytes::Bytes>,
    ) -> Result<(), Error> {
        let request = ReadBlobRequest {
            repository: layer.repository.clone(),
            digest: layer.digest.to_string(),
            offset: *offset,
            length: 0,
        };
        let mut stream = self
            .client
            .clone()
            .read_blob(request)
            .await
            .map_err(|s| failed(&s))?
            .into_inner();
        while let Some(chunk) = stream.message().await.map_err(|s| failed(&s))? {
            let length = chunk.data.len() as u64;
            if chunks.send(chunk.data).await.is_err() {
                break;
            }
            *offset += length;
        }
        Ok(())
    }
}

/// A pull whose layers are on their way. Dropped, it ends.
#[derive(Debug)]
pub struct Arriving {
    rest: Option<JoinHandle<Result<(), Error>>>,
    done: PullDone,
}

impl Arriving {
    fn follow(
        mut events: Streaming<PullEvent>,
        notices: Option<mpsc::WeakSender<PullStep>>,
        done: PullDone,
    ) -> Self {
        let rest = tokio::spawn(async move {
            while let Some(event) = events.message().await.map_err(|s| failed(&s))? {
                // How far it is, as long as somebody wants to know. The end is told by `let_go`.
                if let Some(step @ PullStep::Progress(_)) = event.event
                    && let Some(notices) = notices.as_ref().and_then(mpsc::WeakSender::upgrade)
                {
                    let _ = notices.send(step).await;
                }
            }
            Ok(())
        });
        Self {
            rest: Some(rest),
            done,
        }
    }

    /// Waits until registry-svc has all of it, durably.
    pub async fn arrived(mut self) -> Result<(), Error> {
        match &mut self.rest {
            Some(rest) => rest
                .await
                .map_err(|e| Error::Invalid(format!("the pull was interrupted: {e}")))?,
            None => Ok(()),
        }
    }

    /// All bytes were read: what registry-svc still does for itself goes on by itself.
    pub async fn let_go(mut self, notices: Option<&Notices>) {
        self.rest = None;
        if let Some(notices) = notices {
            // Nobody listens any more.
            let _ = notices.send(PullStep::Done(self.done.clone())).await;
        }
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if let Some(rest) = &self.rest {
            rest.abort();
        }
    }
}

impl Registry {
    /// The layers of all images, by diff id.
    pub async fn layers_of_images(&self) -> Result<HashSet<Digest>, Error> {
        let mut client = self.client.clone();
        let mut layers = HashSet::new();
        let mut request = ListImagesRequest {
            all: true,
            ..ListImagesRequest::default()
        };
        loop {
            let listed = client
                .list_images(request.clone())
                .await
                .map_err(|s| failed(&s))?
                .into_inner();
            for image in listed.images {
                let resolve = ResolveRequest {
                    reference: image.id,
                    platform: None,
                };
                match client.resolve(resolve).await {
                    Ok(found) => layers.extend(
                        found
                            .into_inner()
                            .diff_ids
                            .iter()
                            .filter_map(|d| d.parse().ok()),
                    ),
                    // Removed since it was listed.
                    Err(status) if status.code() == Code::NotFound => {}
                    Err(status) => return Err(failed(&status)),
                }
            }
            if listed.next_page_token.is_empty() {
                return Ok(layers);
            }
            request.page = Some(Page {
                size: 1000,
                token: listed.next_page_token,
            });
        }
    }

    /// Something each time an image is removed; ends with registry-svc.
    pub async fn removals(&self) -> Result<impl Stream<Item = ()> + use<>, Error> {
        let events = self
            .client
            .clone()
            .events(EventsRequest::default())
            .await
            .map_err(|s| failed(&s))?
            .into_inner();
        Ok(events
            .take_while(Result::is_ok)
            .filter_map(Result::ok)
            .filter(|event| event.action == "delete")
            .map(drop))
    }

    /// Stores a blob whose chunks come over `data`; returns its digest. Nothing is stored unless it was said
    /// to be whole before the chunks ended, or when this future is dropped before that.
    pub async fn write_blob(
        &self,
        repository: &str,
        data: mpsc::Receiver<bytes::Bytes>,
        whole: Whole,
    ) -> Result<String, Error> {
        let header = write_blob_request::Header {
            repository: repository.to_owned(),
            ..Default::default()
        };
        let _dropped = whole.until_dropped();
        let stream = blob_parts(header, whole.body(data));
        let answer = self
            .client
            .clone()
            .write_blob(stream)
            .await
            .map_err(|s| failed(&s))?;
        Ok(answer.into_inner().digest)
    }
}

impl Registry {
    /// Stores a manifest and points tags at it; durable when it returns.
    pub async fn put_manifest(
        &self,
        repository: &str,
        tags: Vec<String>,
        content: Vec<u8>,
    ) -> Result<String, Error> {
        let request = PutManifestRequest {
            repository: repository.to_owned(),
            tags,
            media_type: slipway_image::media_type::OCI_MANIFEST.to_owned(),
            content: content.into(),
        };
        let answer = self.client.clone().put_manifest(request).await;
        Ok(answer.map_err(|s| failed(&s))?.into_inner().digest)
    }
}

/// The messages of an upload. A blob has one header: a second one is refused.
fn blob_parts(
    header: write_blob_request::Header,
    body: Body<bytes::Bytes>,
) -> impl Stream<Item = WriteBlobRequest> + use<> {
    use write_blob_request::Part;
    let rest = body.map(|piece| match piece {
        Piece::Data(data) => Part::Data(data),
        Piece::CutOff => Part::Header(write_blob_request::Header::default()),
    });
    let parts = tokio_stream::iter([Part::Header(header)]).chain(rest);
    parts.map(|part| WriteBlobRequest { part: Some(part) })
}

/// What a service answered, or that it did not.
pub fn remote(program: &str, status: &tonic::Status) -> Remote {
    if !is_away(status) {
        let message = status.message().to_owned();
        return Remote::new(status.code() as i32, reason(status), message);
    }
    Remote::away(match status.code() {
        Code::Unavailable => {
            format!("cannot reach {program}: is it running? Start it with: ctl up")
        }
        _ => format!(
            "{program} went away before it answered: see its log, and start it with: ctl up"
        ),
    })
}

fn failed(status: &tonic::Status) -> Error {
    Error::Registry(Box::new(remote("registry-svc", status)))
}

fn image(resolved: ResolvedImage) -> Result<Image, Error> {
    let invalid =
        |what: &dyn std::fmt::Display| Error::Invalid(format!("the image is broken: {what}"));
    let config = ImageConfig::parse(&resolved.config_json).map_err(|e| invalid(&e))?;
    if resolved.layers.len() != resolved.diff_ids.len() {
        return Err(invalid(&"it has not as many layers as diff ids"));
    }
    let layers = resolved
        .layers
        .iter()
        .zip(&resolved.diff_ids)
        .map(|(layer, diff_id)| {
            Ok(Layer {
                digest: layer.digest.parse().map_err(|e| invalid(&e))?,
                size: layer.size,
                media_type: layer.media_type.clone(),
                diff_id: diff_id.parse().map_err(|e| invalid(&e))?,
                repository: resolved.repository.clone(),
            })
        })
        .collect::<Result<_, Error>>()?;
    Ok(Image {
        id: resolved.image_id,
        digest: resolved.digest,
        repository: resolved.repository,
        config,
        layers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_the_end_of_a_service_cut_off_says_so() {
        let cut_off = remote("registry-svc", &tonic::Status::unknown("transport error"));
        assert_eq!(cut_off.code, Code::Unavailable as i32);
        assert_eq!(cut_off.reason, "SERVICE_UNAVAILABLE");
        assert!(cut_off.message().starts_with("registry-svc went away"));
        let refused = slipway_service::error::status(Code::NotFound, "BLOB_NOT_FOUND", "no");
        assert_eq!(remote("registry-svc", &refused).reason, "BLOB_NOT_FOUND");
    }
}
