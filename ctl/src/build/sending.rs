//! Our side of the call: the offer of each context's manifest, the manifest if the builder does not know it, and
//! the content that it lacks.

use std::{cell::LazyCell, collections::HashMap, fs::File, io::Read};

use prost::Message as _;
use sha2::{Digest as _, Sha256};
use slipway_proto::builder::v1::{
    BuildRequest, BuildStart, ContentChunks, ContextEntries, ContextEntry, ContextStream,
    ManifestOffer, build_request::Part, content_chunks::Chunk,
};
use slipway_service::CHUNK_SIZE;
use tokio::sync::mpsc;

use super::{
    context::{self, Context, Source},
    source::Folder,
};
use crate::failure::Outcome;

/// Entries in one message: far below the limit of 4 MiB with the longest paths.
const ENTRIES: usize = 500;

/// What the builder wants.
pub enum Want {
    /// The manifest of this context.
    Manifest(String),
    /// Content by its digests.
    Content(Vec<bytes::Bytes>),
}

/// Manifests by name, and where all their content is.
#[derive(Default)]
pub struct Contexts {
    manifests: Vec<Manifest>,
    files: Vec<([u8; 32], Source)>,
}

struct Manifest {
    context: String,
    entries: Vec<ContextEntry>,
    digest: [u8; 32],
}

impl Contexts {
    /// Reads folders.
    pub fn read(folders: Vec<Folder>) -> Outcome<Self> {
        let mut all = Self::default();
        for folder in folders {
            let Context { entries, files } =
                context::read(&folder.root, folder.dockerfile.as_deref())?;
            all.add(folder.name, entries);
            all.files.extend(files);
        }
        Ok(all)
    }

    /// Adds a context whose content is elsewhere, or that has none.
    pub fn add(&mut self, context: String, entries: Vec<ContextEntry>) {
        let digest = digest(&entries);
        self.manifests.push(Manifest {
            context,
            entries,
            digest,
        });
    }
}

/// By what a builder knows a manifest again: see `ManifestOffer` in builder.proto.
fn digest(entries: &[ContextEntry]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    let mut buffer = Vec::new();
    for entry in entries {
        buffer.clear();
        // A vector takes whatever there is.
        let _ = entry.encode_length_delimited(&mut buffer);
        hasher.update(&buffer);
    }
    hasher.finalize().into()
}

/// Sends until the builder wants no more, or is gone.
pub async fn send(
    sender: mpsc::Sender<BuildRequest>,
    start: BuildStart,
    contexts: Contexts,
    stream: Option<Box<dyn Read + Send>>,
    wants: mpsc::Receiver<Want>,
) {
    // The receiver tells why the call is over.
    let _ = send_all(sender, start, contexts, stream, wants).await;
}

async fn send_all(
    sender: mpsc::Sender<BuildRequest>,
    start: BuildStart,
    contexts: Contexts,
    stream: Option<Box<dyn Read + Send>>,
    mut wants: mpsc::Receiver<Want>,
) -> Result<(), ()> {
    let Contexts { manifests, files } = contexts;
    put(&sender, Part::Start(start)).await?;
    for manifest in &manifests {
        let offer = ManifestOffer {
            context: manifest.context.clone(),
            digest: manifest.digest.to_vec().into(),
        };
        put(&sender, Part::ManifestOffer(offer)).await?;
    }
    if let Some(stream) = stream {
        pass_on(&sender, stream).await?;
    }
    let manifests = manifests.into_iter().map(|m| (m.context, m.entries));
    let mut manifests: HashMap<_, _> = manifests.collect();
    // Nothing is looked for in a build that finds everything.
    let files = LazyCell::new(|| files.into_iter().collect::<HashMap<_, _>>());
    while let Some(want) = wants.recv().await {
        match want {
            Want::Manifest(name) => {
                // What was not offered, or was asked for twice, ends the call.
                let entries = manifests.remove(&name).ok_or(())?;
                send_manifest(&sender, name, entries).await?;
            }
            Want::Content(digests) => send_content(&sender, &files, digests).await?,
        }
    }
    Ok(())
}

async fn send_manifest(
    sender: &mpsc::Sender<BuildRequest>,
    context: String,
    entries: Vec<ContextEntry>,
) -> Result<(), ()> {
    let mut entries = entries.into_iter().peekable();
    while entries.peek().is_some() {
        let some = ContextEntries {
            context: context.clone(),
            entries: entries.by_ref().take(ENTRIES).collect(),
        };
        put(sender, Part::Entries(some)).await?;
    }
    put(sender, Part::ManifestEnd(context)).await
}

async fn send_content(
    sender: &mpsc::Sender<BuildRequest>,
    files: &HashMap<[u8; 32], Source>,
    digests: Vec<bytes::Bytes>,
) -> Result<(), ()> {
    let mut batch = Vec::new();
    let mut filled = 0;
    for digest in digests {
        let Some(mut file) = open(files, &digest, &mut batch) else {
            continue;
        };
        let mut offset = 0;
        loop {
            let mut data = Vec::new();
            let read = file.by_ref().take(CHUNK_SIZE as u64).read_to_end(&mut data);
            let last = read.as_ref().map_or(true, |n| *n < CHUNK_SIZE);
            let error = read.err().map(|e| e.to_string()).unwrap_or_default();
            let size = data.len();
            batch.push(Chunk {
                digest: digest.clone(),
                offset,
                data: data.into(),
                last,
                error,
            });
            offset += size as u64;
            filled += size;
            if filled >= CHUNK_SIZE || batch.len() >= ENTRIES {
                filled = 0;
                let chunks = std::mem::take(&mut batch);
                put(sender, Part::Content(ContentChunks { chunks })).await?;
            }
            if last {
                break;
            }
        }
    }
    match batch.is_empty() {
        true => Ok(()),
        false => put(sender, Part::Content(ContentChunks { chunks: batch })).await,
    }
}

/// Sends a tar stream as it comes; what it is worth is the builder's to say.
async fn pass_on(
    sender: &mpsc::Sender<BuildRequest>,
    stream: Box<dyn Read + Send>,
) -> Result<(), ()> {
    let mut stream = stream;
    loop {
        let read = tokio::task::spawn_blocking(move || {
            let mut data = Vec::with_capacity(CHUNK_SIZE);
            let n = stream
                .by_ref()
                .take(CHUNK_SIZE as u64)
                .read_to_end(&mut data);
            n.map(|_| (stream, data))
        });
        // What cannot be read ends the call without the context's end, which the builder reports.
        let (rest, data) = read.await.map_err(drop)?.map_err(drop)?;
        stream = rest;
        if data.is_empty() {
            return put(sender, Part::ManifestEnd(String::new())).await;
        }
        let part = Part::Stream(ContextStream {
            context: String::new(),
            data: data.into(),
        });
        put(sender, part).await?;
    }
}

/// A file that went away since it was hashed is told to the builder, which names it.
fn open(
    files: &HashMap<[u8; 32], Source>,
    digest: &bytes::Bytes,
    batch: &mut Vec<Chunk>,
) -> Option<File> {
    let source = digest[..].try_into().ok();
    let error = match source.and_then(|digest: [u8; 32]| files.get(&digest)) {
        None => "the context does not hold this content".to_owned(),
        Some(source) => match source.open() {
            Ok(file) => return Some(file),
            Err(e) => format!("{}: {e}", source.path.display()),
        },
    };
    batch.push(Chunk {
        digest: digest.clone(),
        last: true,
        error,
        ..Chunk::default()
    });
    None
}

/// Sends a part; fails when the call is over.
pub async fn put(sender: &mpsc::Sender<BuildRequest>, part: Part) -> Result<(), ()> {
    sender
        .send(BuildRequest { part: Some(part) })
        .await
        .map_err(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same entry and digest stand in builder-svc's tests.
    #[test]
    fn builders_know_a_manifest_by_all_that_is_in_it() {
        let entry = ContextEntry {
            path: "folder".into(),
            r#type: 2,
            mode: 0o755,
            mtime: 7,
            ..ContextEntry::default()
        };
        assert_eq!(
            hex::encode(digest(&[entry.clone(), entry])),
            "147580241d8a5464ff843fdd2a7a414a75eded6d75714a80267f19db0d7e176f"
        );
    }
}
