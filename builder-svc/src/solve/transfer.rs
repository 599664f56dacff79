//! Streams of files into a snapshot: from the context, and from other layers.

use std::{
    io::{self, Read, Write as _},
    sync::Arc,
};

use slipway_image::layer::{
    self as tar, compression::decompress, pack::Plain, pack::Sink as _, tar_read::TarReader,
};
use slipway_pattern::has_wildcards;
use slipway_service::chunks::{ChunkReader, ChunkWriter};
use tokio::sync::mpsc;

use super::{
    Solver,
    copy::{Arrangement, Place, check_destination, folder, missing_in, place_of_file},
};
use crate::{
    context::{ContentStore, Kind, Manifest, Match, content::Checked},
    error::{Error, Result, Tried as _},
    layer::Layer,
    plan::CopyAction,
    worker::{CHUNKS, Snapshot, Target},
};

impl Solver {
    /// Copies from the context.
    pub(super) async fn copy_context(
        &self,
        copy: &CopyAction,
        arrangement: &Arrangement,
        snapshot: &Snapshot,
    ) -> Result<()> {
        self.context.fetch(content(arrangement)).await?;
        let is_folder = self.is_folder(copy, snapshot).await?;
        for found in &arrangement.matches {
            let archive = copy.add && self.is_archive(arrangement, found).await?;
            let place = if found.folder || archive {
                Place {
                    folder: folder(&copy.destination),
                    name: None,
                }
            } else {
                place_of_file(&copy.destination, is_folder)
            };
            let target = Target {
                folder: place.folder.clone(),
                owner: copy.chown.clone(),
                mode: copy.chmod,
                archive,
            };
            let (send, receive) = mpsc::channel(CHUNKS);
            let work = Work {
                store: self.context.store.clone(),
                manifest: arrangement.manifest.clone(),
                found: found.clone(),
                name: place.name,
            };
            let writing = tokio::task::spawn_blocking(move || {
                let writer = ChunkWriter::new(send);
                if archive {
                    work.raw(writer)
                } else {
                    work.tar(writer)
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
    ) -> Result<()> {
        let name = copy.from.as_deref().unwrap_or_default();
        let source = self.lease().await?.prepare(from).await?;
        let mut paths = Vec::new();
        for wanted in &copy.sources {
            let absolute = crate::plan::values::join("/", wanted);
            if has_wildcards(&absolute) {
                let matches = source.expand(&absolute).await?;
                if matches.is_empty() {
                    return Err(missing_in(name, wanted));
                }
                paths.extend(matches);
            } else {
                paths.push(absolute);
            }
        }
        check_destination(copy, paths.len())?;
        let is_folder = self.is_folder(copy, snapshot).await?;
        for path in paths {
            let found = source
                .find(&path)
                .await?
                .ok_or_else(|| missing_in(name, &path))?;
            let mut target = Target {
                folder: folder(&copy.destination),
                owner: copy.chown.clone(),
                mode: copy.chmod,
                archive: false,
            };
            let (send, receive) = mpsc::channel(CHUNKS);
            if found.folder {
                let (read, applied) = tokio::join!(
                    source.read(&found.path, send),
                    snapshot.apply(&target, receive)
                );
                // A reader that failed cut the stream off: its error is the cause.
                read.and(applied)?;
                continue;
            }
            let place = place_of_file(&copy.destination, is_folder);
            target.folder = place.folder;
            // The stream has the file's real name; a link's own name is the one that counts.
            let own = path.rsplit('/').next().unwrap_or_default().to_owned();
            let name = place.name.unwrap_or(own);
            let (renamed, out) = mpsc::channel(CHUNKS);
            let renaming = tokio::task::spawn_blocking(move || {
                rename(ChunkReader::new(receive), &name, ChunkWriter::new(renamed))
            });
            let (read, applied) = tokio::join!(
                source.read(&found.path, send),
                both(renaming, snapshot.apply(&target, out))
            );
            read.and(applied)?;
        }
        Ok(())
    }

    /// Whether a destination that does not look like a folder is one.
    async fn is_folder(&self, copy: &CopyAction, snapshot: &Snapshot) -> Result<bool> {
        if copy.destination.ends_with('/') {
            return Ok(true);
        }
        Ok(snapshot
            .find(&copy.destination)
            .await?
            .is_some_and(|f| f.folder))
    }

    async fn is_archive(&self, arrangement: &Arrangement, found: &Match) -> Result<bool> {
        let Some(Kind::File { digest, size }) =
            arrangement.manifest.get(&found.path).map(|e| &e.kind)
        else {
            return Ok(false);
        };
        if *size == 0 {
            return Ok(false);
        }
        let (store, digest, name) = (
            self.context.store.clone(),
            digest.clone(),
            found.path.clone(),
        );
        tokio::task::spawn_blocking(move || {
            let what = || format!("cannot look into {name}");
            let file = store.read(&digest).tried(what)?;
            archive(file).tried(what)?.map_err(|compression| {
                Error::Unsupported(format!(
                    "ADD of {name:?}, which is compressed with {compression}, is not supported yet: use gzip or zstd, or COPY it and unpack it in a RUN"
                ))
            })
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

/// Digest and size of every file that a copy needs.
fn content(arrangement: &Arrangement) -> Vec<(slipway_image::Digest, u64)> {
    let of = |entry: &crate::context::Entry| match &entry.kind {
        Kind::File { digest, size } => Some((digest.clone(), *size)),
        _ => None,
    };
    let manifest = &arrangement.manifest;
    let mut wanted = Vec::new();
    for found in &arrangement.matches {
        if found.folder {
            wanted.extend(
                manifest
                    .below(&found.path)
                    .filter_map(|(_, entry)| of(entry)),
            );
        } else {
            wanted.extend(manifest.get(&found.path).and_then(of));
        }
    }
    wanted
}

/// A source of the context on its way to a snapshot.
struct Work {
    store: Arc<ContentStore>,
    manifest: Arc<Manifest>,
    found: Match,
    /// Another name for a single file.
    name: Option<String>,
}

impl Work {
    /// The bytes of a single file.
    fn raw(&self, mut writer: ChunkWriter) -> io::Result<()> {
        if let Some(Kind::File { digest, size }) =
            self.manifest.get(&self.found.path).map(|e| &e.kind)
        {
            io::copy(&mut Checked::open(&self.store, digest, *size)?, &mut writer)?;
        }
        writer.flush()
    }

    /// A tar stream: a folder's content, or a single file.
    fn tar(&self, writer: ChunkWriter) -> io::Result<()> {
        let mut out = Plain::new(writer);
        if self.found.folder {
            // The context's own root has no entry: what is copied from it goes into a plain folder.
            if let Some(own) = self.manifest.get(&self.found.path) {
                self.entry(&mut out, ".", own)?;
            }
            for (path, entry) in self.manifest.below(&self.found.path) {
                self.entry(&mut out, path, entry)?;
            }
        } else if let Some(entry) = self.manifest.get(&self.found.path) {
            let name = self.name.as_deref().unwrap_or(&self.found.name);
            self.entry(&mut out, name, entry)?;
        }
        out.finish()?.flush()
    }

    fn entry(
        &self,
        out: &mut Plain<ChunkWriter>,
        path: &str,
        entry: &crate::context::Entry,
    ) -> io::Result<()> {
        let second = 1_000_000_000;
        let mut header = tar::Entry {
            path: path.as_bytes().to_vec(),
            kind: tar::Kind::Folder,
            mode: entry.mode,
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
                let mut content = Checked::open(&self.store, digest, *size)?;
                out.append(&header, &mut content)?;
                content.finish()
            }
        }
    }
}

/// Gives the one entry of a stream another name.
fn rename(stream: ChunkReader, name: &str, writer: ChunkWriter) -> io::Result<()> {
    let mut reader = TarReader::new(stream);
    let mut out = Plain::new(writer);
    while let Some(mut entry) = reader.next_entry().map_err(io::Error::other)? {
        entry.path = name.as_bytes().to_vec();
        out.append(&entry, &mut Content(&mut reader))?;
    }
    out.finish()?.flush()
}

/// The content of a reader's current entry.
struct Content<'a, R>(&'a mut TarReader<R>);

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_content(buffer).map_err(io::Error::other)
    }
}

/// Whether a file is an archive that ADD unpacks, told by its content; `Err` names a compression that
/// we cannot read.
fn archive(mut file: impl Read) -> io::Result<std::result::Result<bool, &'static str>> {
    let mut start = [0; 6];
    let mut filled = 0;
    while filled < start.len() {
        match file.read(&mut start[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    match &start[..filled] {
        [b'B', b'Z', b'h', ..] => return Ok(Err("bzip2")),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => return Ok(Err("xz")),
        _ => {}
    }
    let whole = io::Cursor::new(start).take(filled as u64).chain(file);
    let Ok(mut plain) = decompress(whole) else {
        return Ok(Ok(false));
    };
    let mut header = [0; 512];
    // What cannot be inflated is no archive: it is copied as it is.
    Ok(Ok(
        plain.read_exact(&mut header).is_ok() && is_tar_header(&header)
    ))
}

/// A block with the checksum of a tar header (POSIX pax, "ustar Interchange Format"): any variant of
/// tar has it.
fn is_tar_header(block: &[u8; 512]) -> bool {
    let text = std::str::from_utf8(&block[148..156]).unwrap_or_default();
    let digits = text.trim_matches([' ', '\0']);
    let Ok(expected) = u32::from_str_radix(digits, 8) else {
        return false;
    };
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(i, b)| u32::from(if (148..156).contains(&i) { b' ' } else { *b }))
        .sum();
    sum == expected && block[0] != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_told_by_their_content() {
        let mut out = Plain::new(Vec::new());
        let entry = tar::Entry {
            path: b"a".to_vec(),
            kind: tar::Kind::Folder,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            size: 0,
            xattrs: Vec::new(),
        };
        out.append(&entry, &mut io::empty()).unwrap();
        let plain = out.finish().unwrap();
        assert_eq!(archive(&plain[..]).unwrap(), Ok(true));
        assert_eq!(archive(&b"#!/bin/sh"[..]).unwrap(), Ok(false));
        assert_eq!(archive(&b"x"[..]).unwrap(), Ok(false));
        assert_eq!(archive(&[0; 1024][..]).unwrap(), Ok(false));
        assert_eq!(archive(&b"BZh91AY"[..]).unwrap(), Err("bzip2"));
        assert_eq!(archive(&[0x1f, 0x8b, 0, 0][..]).unwrap(), Ok(false));
    }
}
