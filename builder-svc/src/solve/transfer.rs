//! Streams of files into a snapshot: from the context, and from other layers.

use std::{
    io::{self, Write as _},
    sync::Arc,
};

use slipway_image::{
    archive,
    layer::{self as tar, limits::Limits, pack::Plain, pack::Sink as _, tar_read::TarReader},
};
use slipway_pattern::{PatternList, has_wildcards};
use slipway_service::chunks::{ChunkReader, ChunkWriter};
use tokio::sync::mpsc;

use super::{
    Solver,
    copy::{Arrangement, Names, Part, Pivot, attributes, folder, missing_in, place_of_file},
    rewrite::Rewrite,
};
use crate::{
    context::{ContentStore, Entry, Kind, content::Checked},
    error::{Error, Result, Tried as _},
    layer::Layer,
    plan::{CopyAction, copy::Origin},
    worker::{CHUNKS, Lease, Snapshot, Target},
};

impl Solver {
    /// Copies files that this service has.
    pub(super) async fn copy_files(
        &self,
        copy: &CopyAction,
        arrangement: &Arc<Arrangement>,
        snapshot: &Snapshot,
    ) -> Result<()> {
        let parts = &arrangement.parts;
        let mut is_folder = self.is_folder(copy, snapshot).await?;
        let mut target = Target {
            folder: folder(&copy.destination),
            owner: copy.chown.clone(),
            ..Target::default()
        };
        // Wildcards that stand for nothing: as docker, the folder is made all the same.
        if parts.is_empty() && copy.destination.ends_with('/') {
            let (send, receive) = mpsc::channel(1);
            drop(send);
            return snapshot.apply(&target, receive).await;
        }
        let mut at = 0;
        while at < parts.len() {
            let mut end = at;
            while end < parts.len() && !self.is_archive(&parts[end]).await? {
                end += 1;
                // One after the other, until one makes a folder of the destination: as BuildKit, where a file
                // takes the place of the one before.
                if !is_folder {
                    break;
                }
            }
            let unpack = end == at;
            let (send, receive) = mpsc::channel(CHUNKS);
            let mut work = Work {
                store: self.context.store.clone(),
                arrangement: arrangement.clone(),
                parts: at..end.max(at + 1),
                name: None,
            };
            target.archive = unpack;
            target.folder = folder(&copy.destination);
            if let ([only], false) = (&parts[work.parts.clone()], unpack)
                && !only.found.folder
            {
                let place = place_of_file(&copy.destination, is_folder);
                (target.folder, work.name) = (place.folder, place.name);
            }
            is_folder |= unpack || parts[at].found.folder;
            at = work.parts.end;
            let writing = tokio::task::spawn_blocking(move || {
                let writer = ChunkWriter::new(send);
                match unpack {
                    true => work.unpacked(writer),
                    false => work.tar(writer),
                }
            });
            both(writing, snapshot.apply(&target, receive)).await?;
        }
        Ok(())
    }

    /// Copies from other layers.
    pub(super) async fn copy_layers(
        &self,
        copy: &CopyAction,
        from: &[Layer],
        snapshot: &Snapshot,
        lease: &Arc<Lease>,
    ) -> Result<()> {
        let name = copy.from.as_deref().unwrap_or_default();
        let source = lease.prepare(from).await?;
        let exclude =
            PatternList::new(&copy.exclude).map_err(|e| Error::Dockerfile(e.to_string()))?;
        let plain = Rewrite {
            exclude,
            chmod: copy.chmod.clone(),
            ..Rewrite::default()
        };
        let mut paths = Vec::new();
        for origin in &copy.origins {
            let Origin::Path(wanted) = origin else {
                continue;
            };
            if copy.parents {
                self.copy_parents(copy, wanted, &plain, &source, snapshot)
                    .await?;
                continue;
            }
            let absolute = crate::plan::values::join("/", wanted);
            if has_wildcards(&absolute) {
                paths.extend(source.expand(&absolute).await?);
            } else {
                paths.push(absolute);
            }
        }
        let mut found = Vec::new();
        for path in paths {
            let at = source
                .find(&path)
                .await?
                .ok_or_else(|| missing_in(name, &path))?;
            // A link's own name is the one that counts.
            let own = path.rsplit('/').next().unwrap_or_default().to_owned();
            if at.folder || !plain.exclude.matches(&own) {
                found.push((at, own));
            }
        }
        let mut is_folder = self.is_folder(copy, snapshot).await?;
        for (at, own) in found {
            let mut rewrite = plain.clone();
            is_folder |= at.folder;
            let mut into = folder(&copy.destination);
            if !at.folder {
                let place = place_of_file(&copy.destination, is_folder);
                into = place.folder;
                rewrite.name = Some(place.name.unwrap_or(own));
                // It was judged by its own name.
                rewrite.exclude = PatternList::default();
            }
            self.copy_path(copy, &at.path, rewrite, &into, &source, snapshot)
                .await?;
        }
        Ok(())
    }

    /// Copies one path of another snapshot; says how many entries that were.
    async fn copy_path(
        &self,
        copy: &CopyAction,
        path: &str,
        rewrite: Rewrite,
        into: &str,
        source: &Snapshot,
        snapshot: &Snapshot,
    ) -> Result<u64> {
        let target = Target {
            folder: into.to_owned(),
            owner: copy.chown.clone(),
            ..Target::default()
        };
        let (send, receive) = mpsc::channel(CHUNKS);
        let (rewritten, out) = mpsc::channel(CHUNKS);
        let (counted, count) = tokio::sync::oneshot::channel();
        let rewriting = tokio::task::spawn_blocking(move || {
            let mut tar = Plain::new(ChunkWriter::new(rewritten));
            let written = rewrite.stream(ChunkReader::new(receive), &mut tar)?;
            // Whoever asked has gone: then nobody needs the number.
            let _ = counted.send(written);
            tar.finish()?.flush()
        });
        let (read, applied) = tokio::join!(
            source.read(path, send),
            both(rewriting, snapshot.apply(&target, out))
        );
        // A reader that failed cut the stream off: its error is the cause.
        read.and(applied)?;
        Ok(count.await.unwrap_or(0))
    }

    /// `COPY --parents --from`: what fits, below the folders that it is in, which are as in the source.
    async fn copy_parents(
        &self,
        copy: &CopyAction,
        wanted: &str,
        plain: &Rewrite,
        source: &Snapshot,
        snapshot: &Snapshot,
    ) -> Result<()> {
        let from = copy.from.as_deref().unwrap_or_default();
        let Pivot {
            folder: pivot,
            pattern,
        } = Pivot::of(wanted);
        let parts: Vec<&str> = pattern.split('/').collect();
        let literal = parts.iter().take_while(|p| !has_wildcards(p)).count();
        // Only what is below the folders without wildcards is read.
        let above = literal.min(parts.len() - 1);
        let into = folder(&copy.destination);
        let pivots = match has_wildcards(&pivot) {
            true => source.expand(&pivot).await?,
            false => vec![pivot],
        };
        for pivot in pivots {
            let whole = format!("{}/{pattern}", pivot.trim_end_matches('/'));
            let exact = literal == parts.len();
            let prefix = parts[..above].join("/");
            let top = format!("{}/{prefix}", pivot.trim_end_matches('/'));
            let Some(found) = source.find(if exact { &whole } else { &top }).await? else {
                if exact && !has_wildcards(wanted) {
                    return Err(missing_in(from, wanted));
                }
                continue;
            };
            for end in 1..=above {
                let name = parts[..end].join("/");
                let path = format!("{}/{name}", pivot.trim_end_matches('/'));
                self.copy_folder_only(copy, &path, &name, plain, &into, source, snapshot)
                    .await?;
            }
            let mut rewrite = plain.clone();
            if exact && found.folder {
                rewrite.prefix.clone_from(&pattern);
            } else if exact {
                rewrite.name = Some(pattern.clone());
            } else {
                rewrite.prefix = prefix;
                rewrite.include = Some(
                    PatternList::new(&[&pattern]).map_err(|e| Error::Dockerfile(e.to_string()))?,
                );
            }
            self.copy_path(copy, &found.path, rewrite, &into, source, snapshot)
                .await?;
        }
        Ok(())
    }

    /// A folder with its owner and mode, without what is in it.
    async fn copy_folder_only(
        &self,
        copy: &CopyAction,
        path: &str,
        name: &str,
        plain: &Rewrite,
        into: &str,
        source: &Snapshot,
        snapshot: &Snapshot,
    ) -> Result<()> {
        let target = Target {
            folder: into.to_owned(),
            owner: copy.chown.clone(),
            ..Target::default()
        };
        let (send, receive) = mpsc::channel(CHUNKS);
        let (sent, out) = mpsc::channel(CHUNKS);
        let (name, chmod) = (name.to_owned(), plain.chmod.clone());
        let first = tokio::task::spawn_blocking(move || {
            let mut reader = TarReader::new(ChunkReader::new(receive));
            let mut tar = Plain::new(ChunkWriter::new(sent));
            // A folder's stream begins with itself. Nobody reads the rest: that ends it.
            if let Some(mut entry) = reader.next_entry().map_err(io::Error::other)?
                && entry.kind == tar::Kind::Folder
            {
                entry.path = name.into_bytes();
                entry.mode = chmod.map_or(entry.mode, |c| c.apply(entry.mode, true));
                tar.append(&entry, &mut io::empty())?;
            }
            drop(reader);
            tar.finish()?.flush()
        });
        let (read, applied) = tokio::join!(
            source.read(path, send),
            both(first, snapshot.apply(&target, out))
        );
        read.and(applied)
    }

    /// Whether a destination that does not look like a folder is one.
    pub(super) async fn is_folder(&self, copy: &CopyAction, snapshot: &Snapshot) -> Result<bool> {
        if copy.destination.ends_with('/') {
            return Ok(true);
        }
        Ok(snapshot
            .find(&copy.destination)
            .await?
            .is_some_and(|f| f.folder))
    }

    pub(super) async fn is_archive(&self, part: &Part) -> Result<bool> {
        let Some(Kind::File { digest, size }) =
            part.manifest.get(&part.found.path).map(|e| &e.kind)
        else {
            return Ok(false);
        };
        if !part.unpack || *size == 0 {
            return Ok(false);
        }
        let (store, digest) = (self.context.store.clone(), digest.clone());
        let name = part.found.path.clone();
        tokio::task::spawn_blocking(move || {
            let file = store
                .read(&digest)
                .tried(|| format!("cannot look into {name}"))?;
            Ok(archive::is_archive(file))
        })
        .await
        .map_err(|e| Error::Invalid(format!("interrupted: {e}")))?
    }
}

/// Runs a writer and who takes its bytes; when the taker failed, its error is the cause.
async fn both(
    writing: tokio::task::JoinHandle<io::Result<()>>,
    taking: impl Future<Output = Result<()>>,
) -> Result<()> {
    let taken = taking.await;
    let written = writing.await.map_err(io::Error::other).and_then(|r| r);
    match (taken, written) {
        (Err(error), Err(e)) if e.kind() == io::ErrorKind::BrokenPipe => Err(error),
        (_, Err(e)) => Err(Error::Context(format!("a file could not be read: {e}"))),
        (taken, Ok(())) => taken,
    }
}

/// Sources on their way to a snapshot.
struct Work {
    store: Arc<ContentStore>,
    arrangement: Arc<Arrangement>,
    parts: std::ops::Range<usize>,
    /// Another name for a single file.
    name: Option<String>,
}

impl Work {
    /// What an archive holds, as a plain tar stream.
    fn unpacked(&self, mut writer: ChunkWriter) -> io::Result<()> {
        let part = &self.arrangement.parts[self.parts.start];
        if let Some(Kind::File { digest, size }) =
            part.manifest.get(&part.found.path).map(|e| &e.kind)
        {
            let file = Checked::open(&self.store, digest, *size)?;
            io::copy(&mut archive::plain(file, Limits::default())?, &mut writer)?;
        }
        writer.flush()
    }

    /// A tar stream of all of them.
    fn tar(&self, writer: ChunkWriter) -> io::Result<()> {
        let mut out = Plain::new(writer);
        for i in self.parts.clone() {
            let part = &self.arrangement.parts[i];
            let mut names = Names::default();
            self.arrangement.each(part, |path, entry| {
                let name = match (&self.name, path) {
                    (Some(name), _) => name,
                    // A target that has to be made is not like its source.
                    (None, "") => return Ok(()),
                    (None, path) => path,
                };
                self.entry(&mut out, name, entry, names.first(name, entry))
            })?;
        }
        out.finish()?.flush()
    }

    /// Writes an entry; `first` is another name of the same file, which was written before.
    fn entry(
        &self,
        out: &mut Plain<ChunkWriter>,
        path: &str,
        entry: &Entry,
        first: Option<&str>,
    ) -> io::Result<()> {
        let second = 1_000_000_000;
        let mut header = tar::Entry {
            path: path.as_bytes().to_vec(),
            kind: tar::Kind::Folder,
            mode: self.arrangement.mode(entry),
            // As docker: what comes from a context belongs to root.
            uid: 0,
            gid: 0,
            mtime: (
                entry.mtime.div_euclid(second),
                u32::try_from(entry.mtime.rem_euclid(second)).unwrap_or_default(),
            ),
            size: 0,
            xattrs: Vec::new(),
        };
        if let Some(first) = first {
            header.kind = tar::Kind::HardLink(first.as_bytes().to_vec());
            return out.append(&header, &mut io::empty());
        }
        match &entry.kind {
            Kind::Folder => out.append(&header, &mut io::empty()),
            Kind::Symlink(target) => {
                header.kind = tar::Kind::Symlink(target.as_bytes().to_vec());
                header.mode = 0o777;
                out.append(&header, &mut io::empty())
            }
            Kind::File { digest, size } => {
                header.kind = tar::Kind::File;
                header.size = *size;
                header.xattrs = attributes(entry);
                let mut content = Checked::open(&self.store, digest, *size)?;
                out.append(&header, &mut content)?;
                content.finish()
            }
        }
    }
}
