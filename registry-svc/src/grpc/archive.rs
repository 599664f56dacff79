//! Archives that are streamed: load, import and save.

use std::{io, sync::Arc};

use bytes::Bytes;
use slipway_image::config::RunConfig;
use slipway_proto::{
    registry::v1::{import_event, import_request, load_event, load_request::Part, *},
    types::v1::{Progress, progress::Phase},
};
use slipway_service::chunks::ChunkWriter;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use super::{Answer, convert};
use crate::{
    error::Error,
    images::{
        import::{Import, ImportEvent as Importing, Source},
        load::LoadEvent as Loading,
    },
    registry::Registry,
};

/// Chunks, and events, on their way.
const QUEUE: usize = 8;

pub async fn load(
    registry: &Arc<Registry>,
    mut parts: Streaming<LoadRequest>,
) -> Answer<ReceiverStream<Result<LoadEvent, Status>>> {
    let first = parts.message().await?.and_then(|m| m.part);
    let Some(Part::Header(header)) = first else {
        return Err(Error::InvalidArgument("the first message must be the header".into()).into());
    };
    let platform = convert::platform(header.platform);
    let (chunks, archive) = body();
    let (sender, mut events) = mpsc::channel(QUEUE);
    let (out, stream) = mpsc::channel(QUEUE);
    let registry = Arc::clone(registry);
    tokio::spawn(async move {
        let feed = feed(parts, chunks, |message| match message.part {
            Some(Part::Data(data)) => Some(Some(data)),
            Some(Part::End(_)) => Some(None),
            Some(Part::Header(_)) | None => None,
        });
        let tell = async {
            loop {
                let event = tokio::select! {
                    event = events.recv() => event,
                    () = out.closed() => None,
                };
                let Some(event) = event else { break };
                // Who asked may be gone: then nobody listens from the next one on.
                let _ = out.send(Ok(load_message(event))).await;
            }
            drop(events);
        };
        let (result, (), ()) = tokio::join!(registry.load(archive, platform, sender), feed, tell);
        if let Err(error) = result {
            // As above.
            let _ = out.send(Err(error.into())).await;
        }
    });
    Ok(Response::new(ReceiverStream::new(stream)))
}

fn load_message(event: Loading) -> LoadEvent {
    use load_event::Event as E;
    let event = match event {
        Loading::Progress(progress) => E::Progress(convert::progress(&progress)),
        Loading::Loaded(name, id) => E::Loaded(Loaded {
            reference: name.unwrap_or_default(),
            id: id.to_string(),
        }),
    };
    LoadEvent { event: Some(event) }
}

pub async fn import(
    registry: &Arc<Registry>,
    mut parts: Streaming<ImportRequest>,
) -> Answer<ReceiverStream<Result<ImportEvent, Status>>> {
    use import_request::Part;
    let invalid = |why: String| Error::InvalidArgument(why);
    let first = parts.message().await?.and_then(|m| m.part);
    let Some(Part::Header(header)) = first else {
        return Err(invalid("the first message must be the header".into()).into());
    };
    let config = match &header.config_json[..] {
        [] => RunConfig::default(),
        json => serde_json::from_slice(json)
            .map_err(|e| invalid(format!("the config of the image: {e}")))?,
    };
    let import = Import {
        reference: header.reference,
        message: header.message,
        config,
        platform: convert::platform(header.platform),
    };
    let (chunks, archive) = body();
    let (source, follows) = match header.url {
        url if url.is_empty() => (Source::Stream(Box::new(archive)), true),
        url => (Source::Url(url), false),
    };
    let (sender, mut events) = mpsc::channel(QUEUE);
    let (out, stream) = mpsc::channel(QUEUE);
    let registry = Arc::clone(registry);
    tokio::spawn(async move {
        let feed = async {
            if follows {
                feed(parts, chunks, |message| match message.part {
                    Some(Part::Data(data)) => Some(Some(data)),
                    Some(Part::End(_)) => Some(None),
                    Some(Part::Header(_)) | None => None,
                })
                .await;
            }
        };
        let work = async {
            let result = registry.import(source, import, &sender).await;
            drop(sender);
            result
        };
        // Who asked may be gone: then a fetch ends, and an archive that was sent has no end either.
        let tell = async move {
            super::transfer::forward(&mut events, &out, import_message).await;
            out
        };
        let (result, (), out) = tokio::join!(work, feed, tell);
        if let Err(error) = result {
            // As above.
            let _ = out.send(Err(error.into())).await;
        }
    });
    Ok(Response::new(ReceiverStream::new(stream)))
}

fn import_message(event: Importing) -> ImportEvent {
    use import_event::Event as E;
    let event = match event {
        Importing::Status(line) => E::Status(line),
        Importing::Fetched(current, total) => E::Progress(Progress {
            id: String::new(),
            phase: Phase::Downloading.into(),
            current,
            total,
        }),
        Importing::Imported(name, id) => E::Imported(Loaded {
            reference: name.unwrap_or_default(),
            id: id.to_string(),
        }),
    };
    ImportEvent { event: Some(event) }
}

pub async fn save(
    registry: &Arc<Registry>,
    request: SaveRequest,
) -> Answer<ReceiverStream<Result<SaveChunk, Status>>> {
    let platform = convert::platform(request.platform);
    let archive = registry.archive(&request.images, platform.as_ref()).await?;
    let (out, stream) = mpsc::channel(QUEUE);
    let registry = Arc::clone(registry);
    tokio::spawn(async move {
        let (chunks, mut written) = mpsc::channel::<Bytes>(QUEUE);
        let forward = async {
            while let Some(data) = written.recv().await {
                if out.send(Ok(SaveChunk { data })).await.is_err() {
                    // Nobody listens: the writer notices when nobody takes what it writes.
                    break;
                }
            }
            drop(written);
        };
        let writing = registry.write_archive(archive, ChunkWriter::new(chunks));
        let (result, ()) = tokio::join!(writing, forward);
        if let Err(error) = result {
            // The caller may be gone.
            let _ = out.send(Err(error.into())).await;
        }
    });
    Ok(Response::new(ReceiverStream::new(stream)))
}

/// Hands the messages of a body on. A call that was cut off sends no more, and no end.
async fn feed<M>(
    mut parts: Streaming<M>,
    chunks: mpsc::Sender<Option<Bytes>>,
    part: fn(M) -> Option<Option<Bytes>>,
) {
    while let Ok(Some(message)) = parts.message().await {
        let Some(chunk) = part(message) else { break };
        let ends = chunk.is_none();
        if chunks.send(chunk).await.is_err() || ends {
            break;
        }
    }
}

/// A body that comes in chunks, with `None` at its end, as a reader that blocks.
pub fn body() -> (mpsc::Sender<Option<Bytes>>, Body) {
    let (sender, chunks) = mpsc::channel(QUEUE);
    let body = Body {
        chunks,
        chunk: Bytes::new(),
        ended: false,
    };
    (sender, body)
}

/// See [`body`]: one that was cut off must not pass for a shorter one.
pub struct Body {
    chunks: mpsc::Receiver<Option<Bytes>>,
    chunk: Bytes,
    ended: bool,
}

impl io::Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            if self.ended {
                return Ok(0);
            }
            match self.chunks.blocking_recv() {
                Some(Some(chunk)) => self.chunk = chunk,
                Some(None) => self.ended = true,
                None => {
                    let why = "it was cut off before its end";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
                }
            }
        }
        let n = buffer.len().min(self.chunk.len());
        buffer[..n].copy_from_slice(&self.chunk.split_to(n));
        Ok(n)
    }
}
