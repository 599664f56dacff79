//! The caller's messages behind the start: the manifest of its context, then content.

use std::{collections::HashMap, io, sync::Arc};

use slipway_image::{Digest, layer::limits::Limits};
use slipway_proto::builder::v1::{
    BuildRequest, ContextEntry, build_request::Part, content_chunks::Chunk, context_entry::Type,
};
use slipway_service::chunks::ChunkReader;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;

use crate::{
    caller::Asked,
    context::{ContentStore, Entry, Feed, Kind, Manifest, content::Incoming, tarball},
    error::Error,
    worker::CHUNKS,
};

/// Files that may be on their way at the same time: each is open. Callers send one after the other.
const AT_ONCE: usize = 256;

/// Takes everything in until the caller ends its side.
pub async fn feed(
    mut parts: impl Stream<Item = Result<BuildRequest, Status>> + Unpin,
    mut feed: Feed,
    store: Arc<ContentStore>,
    asked: Arc<Asked>,
) -> Result<(), Status> {
    let mut manifests: HashMap<String, Manifest> = HashMap::new();
    let mut streams: HashMap<String, Unpacking> = HashMap::new();
    let mut files = Files::default();
    loop {
        let message = match parts.next().await.transpose() {
            Ok(Some(message)) => message,
            Ok(None) => break,
            Err(status) => {
                feed.arrivals.close();
                asked.close();
                return Err(status);
            }
        };
        match message.part {
            Some(Part::Entries(entries)) => {
                let name = entries.context;
                if !feed.manifests.contains_key(&name) || streams.contains_key(&name) {
                    return refuse("entries of a context that was not announced");
                }
                let manifest = manifests.entry(name).or_default();
                for item in entries.entries {
                    let path = item.path.clone();
                    let taken = entry(item).and_then(|entry| manifest.insert(&path, entry));
                    taken.map_err(Error::Invalid)?;
                }
            }
            Some(Part::Stream(stream)) => {
                let name = stream.context;
                if !feed.manifests.contains_key(&name) || manifests.contains_key(&name) {
                    return refuse("a context that was not announced");
                }
                let unpacking = streams
                    .entry(name)
                    .or_insert_with(|| Unpacking::begin(&store));
                // Whoever does not take it any more has found something wrong: told at the end.
                let _ = unpacking.sender.send(stream.data).await;
            }
            Some(Part::ManifestEnd(name)) => {
                let Some(sender) = feed.manifests.remove(&name) else {
                    return refuse("the end of a context's manifest twice");
                };
                let outcome = match streams.remove(&name) {
                    Some(unpacking) => unpacking.end().await,
                    None => Ok(manifests.remove(&name).unwrap_or_default()),
                };
                sender.send_replace(Some(outcome.map(Arc::new)));
            }
            Some(Part::Content(content)) => {
                let (store, arrivals) = (store.clone(), feed.arrivals.clone());
                let work = tokio::task::spawn_blocking(move || {
                    for chunk in content.chunks {
                        if let Some((digest, outcome)) =
                            files.take(&store, chunk, |d| arrivals.is_awaited(d))
                        {
                            arrivals.arrived(&digest, outcome);
                        }
                    }
                    files
                });
                files = work
                    .await
                    .map_err(|e| Error::Invalid(format!("interrupted: {e}")))?;
            }
            Some(Part::Secret(secret)) => match &*secret.error {
                "" => asked.secret_came(&secret.id, Ok(&secret.data)),
                why => asked.secret_came(&secret.id, Err(why.to_owned())),
            },
            Some(Part::AgentAnswer(answer)) => {
                asked.agent_answered(answer.number, answer.message.to_vec());
            }
            Some(Part::Start(_)) => return refuse("a second start"),
            None => {}
        }
    }
    feed.arrivals.close();
    asked.close();
    Ok(())
}

/// A context that comes as a stream.
struct Unpacking {
    sender: mpsc::Sender<bytes::Bytes>,
    work: JoinHandle<Result<Manifest, String>>,
}

impl Unpacking {
    fn begin(store: &Arc<ContentStore>) -> Self {
        let (sender, chunks) = mpsc::channel(CHUNKS);
        let store = store.clone();
        let work = tokio::task::spawn_blocking(move || {
            tarball::read(&store, ChunkReader::new(chunks), Limits::default())
        });
        Self { sender, work }
    }

    async fn end(self) -> Result<Manifest, String> {
        drop(self.sender);
        self.work.await.map_err(|e| format!("interrupted: {e}"))?
    }
}

fn refuse<T>(what: &str) -> Result<T, Status> {
    Err(Error::Invalid(format!("the caller sent {what}")).into())
}

fn digest(raw: &[u8]) -> Result<Digest, String> {
    let raw: [u8; 32] = raw
        .try_into()
        .map_err(|_| "a digest of the context has not 32 bytes".to_owned())?;
    Ok(Digest::from_sha256(raw))
}

fn entry(item: ContextEntry) -> Result<Entry, String> {
    let kind = match item.r#type() {
        Type::File => Kind::File {
            size: item.size,
            digest: digest(&item.digest)?,
        },
        Type::Directory => Kind::Folder,
        Type::Symlink => Kind::Symlink(item.link_target),
        Type::Unspecified => return Err(format!("{:?} of the context has no type", item.path)),
    };
    Ok(Entry {
        kind,
        mode: item.mode & 0o7777,
        mtime: item.mtime,
        same: item.same_file,
        capability: None,
    })
}

/// Files that are on their way.
#[derive(Default)]
struct Files(HashMap<Digest, Incoming>);

impl Files {
    /// Takes a piece; says so when it was the last one of its file.
    fn take(
        &mut self,
        store: &ContentStore,
        chunk: Chunk,
        awaited: impl Fn(&Digest) -> bool,
    ) -> Option<(Digest, Result<(), String>)> {
        let digest = digest(&chunk.digest).ok()?;
        // What nobody asked for fills no disk.
        if !awaited(&digest) {
            return None;
        }
        if !chunk.error.is_empty() {
            self.0.remove(&digest);
            return Some((digest, Err(chunk.error)));
        }
        match self.write(store, &digest, &chunk) {
            Ok(true) => Some((digest, Ok(()))),
            Ok(false) => None,
            Err(e) => {
                self.0.remove(&digest);
                Some((digest, Err(e.to_string())))
            }
        }
    }

    fn write(&mut self, store: &ContentStore, digest: &Digest, chunk: &Chunk) -> io::Result<bool> {
        let mut incoming = match self.0.remove(digest) {
            Some(incoming) => incoming,
            None if self.0.len() >= AT_ONCE => {
                return Err(io::Error::other("too many files were sent at once"));
            }
            None => store.begin(digest)?,
        };
        incoming.write(chunk.offset, &chunk.data)?;
        if chunk.last {
            store.finish(incoming)?;
        } else {
            self.0.insert(digest.clone(), incoming);
        }
        Ok(chunk.last)
    }
}
