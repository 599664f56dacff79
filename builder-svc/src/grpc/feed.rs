//! The caller's messages behind the start: the manifest of its context, then content.

use std::{collections::HashMap, io, sync::Arc};

use prost::Message as _;
use sha2::{Digest as _, Sha256};
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
    context::{ContentStore, Entry, Feed, Kind, Manifest, Offered, content::Incoming, tarball},
    error::Error,
    events::{Event, WeakEvents},
    worker::CHUNKS,
};

/// Files that may be on their way at the same time: each is open. Callers send one after the other.
const AT_ONCE: usize = 256;

/// What contexts that are offered are looked for in, and where those that are not there are asked for.
pub struct Offers {
    /// Those that were sent before.
    pub offered: Arc<Offered>,
    /// The caller is told what is needed, while the build goes on: it may end before the caller does.
    pub events: WeakEvents,
}

/// A manifest that comes.
#[derive(Default)]
struct Arriving {
    manifest: Manifest,
    /// Of what has come, where the caller offered it.
    hasher: Option<Sha256>,
}

impl Arriving {
    fn add(&mut self, item: ContextEntry) -> Result<(), String> {
        if let Some(hasher) = &mut self.hasher {
            hasher.update(item.encode_length_delimited_to_vec());
        }
        let path = item.path.clone();
        self.manifest.insert(&path, entry(item)?)
    }

    fn end(self, offered: &Arc<Offered>) -> Arc<Manifest> {
        let manifest = Arc::new(self.manifest);
        if let Some(hasher) = self.hasher {
            offered.keep(hasher.finalize().into(), manifest.clone());
        }
        manifest
    }
}

/// Takes everything in until the caller ends its side.
pub async fn feed(
    mut parts: impl Stream<Item = Result<BuildRequest, Status>> + Unpin,
    mut feed: Feed,
    store: Arc<ContentStore>,
    asked: Arc<Asked>,
    offers: Offers,
) -> Result<(), Status> {
    let mut manifests: HashMap<String, Arriving> = HashMap::new();
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
            Some(Part::ManifestOffer(offer)) => {
                let name = offer.context;
                let begun = manifests.contains_key(&name) || streams.contains_key(&name);
                if begun || !feed.manifests.contains_key(&name) {
                    return refuse(
                        "an offer of a context that was not announced, or has begun to come",
                    );
                }
                let digest = raw(&offer.digest).map_err(Error::Invalid)?;
                if let Some(manifest) = offers.offered.find(&digest) {
                    if let Some(sender) = feed.manifests.remove(&name) {
                        sender.send_replace(Some(Ok(manifest)));
                    }
                } else {
                    let arriving = Arriving {
                        hasher: Some(Sha256::new()),
                        ..Arriving::default()
                    };
                    manifests.insert(name.clone(), arriving);
                    offers.events.tell(Event::NeedManifest(name)).await;
                }
            }
            Some(Part::Entries(entries)) => {
                let name = entries.context;
                if !feed.manifests.contains_key(&name) || streams.contains_key(&name) {
                    return refuse("entries of a context that was not announced");
                }
                let arriving = manifests.entry(name).or_default();
                for item in entries.entries {
                    arriving.add(item).map_err(Error::Invalid)?;
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
                    Some(unpacking) => unpacking.end().await.map(Arc::new),
                    None => {
                        let arriving = manifests.remove(&name).unwrap_or_default();
                        Ok(arriving.end(&offers.offered))
                    }
                };
                sender.send_replace(Some(outcome));
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

fn raw(digest: &[u8]) -> Result<[u8; 32], String> {
    let raw = digest.try_into();
    raw.map_err(|_| "a digest of the context has not 32 bytes".to_owned())
}

fn digest(digest: &[u8]) -> Result<Digest, String> {
    raw(digest).map(Digest::from_sha256)
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

#[cfg(test)]
mod tests;
