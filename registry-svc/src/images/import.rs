//! `docker import`: an image of one layer, the files of an archive.
//!
//! The layer has the archive's own bytes, which give its diff id, compressed anew: whatever it came in, everybody can
//! pull it. That it is a tar archive from its beginning to its end is looked at while it streams by.

use std::{
    collections::BTreeMap,
    io::{self, BufReader, Read, Write},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use slipway_egress::{
    Guard,
    web::{Web, cause, redacted},
};
use slipway_image::{
    Algorithm, Descriptor, Digest, Digester, ImageConfig, Platform, archive as compressed,
    config::{History, RunConfig},
    layer::{gzip, limits::Limits, tar_read::TarReader},
    manifest::ImageManifest,
    media_type,
};
use tokio::{runtime::Handle, sync::mpsc};

use super::load::UNNAMED;
use crate::{
    blobs::{Staged, staging::blocking},
    error::{Error, Result},
    manifests::{Put, Require},
    names::{Pointer, Repository, Tag},
    registry::Registry,
    store::Origin,
};

/// Bytes that are written at once.
const BATCH: usize = 512 * 1024;
/// How long a server may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// What is to become of an archive.
#[derive(Debug, Clone, Default)]
pub struct Import {
    /// docker's grammar; "" = no name.
    pub reference: String,
    /// For the history; "" = where it came from.
    pub message: String,
    /// How to run it.
    pub config: RunConfig,
    /// `None`: the host's.
    pub platform: Option<Platform>,
}

/// Where an archive comes from.
pub enum Source {
    /// The caller sends it; fails when it ends before its end.
    Stream(Box<dyn Read + Send>),
    /// It is fetched.
    Url(String),
}

/// How an import goes on.
pub enum ImportEvent {
    /// A line for people.
    Status(String),
    /// Bytes that were fetched, of how many; 0 = nobody said.
    Fetched(u64, u64),
    /// The image is here: its name or none, its id.
    Imported(Option<String>, Digest),
}

type Sink = mpsc::Sender<ImportEvent>;

/// Where archives may be fetched from: public addresses, and what `fetch_allow` of `registry.toml` names.
pub fn guard(allow: Vec<ipnet::IpNet>) -> Guard {
    Guard {
        allow,
        advice: "where nothing may be imported from: fetch_allow in registry.toml could allow it"
            .to_owned(),
        ..Guard::default()
    }
}

impl Registry {
    /// Imports, telling `events` how far it is. When the receiver is gone a fetch stops.
    pub async fn import(
        self: &Arc<Self>,
        source: Source,
        import: Import,
        events: &Sink,
    ) -> Result<()> {
        let (repository, tags) = self.place(&import.reference)?;
        let (archive, place) = match source {
            Source::Stream(archive) => (archive, "-".to_owned()),
            Source::Url(url) => (self.fetch(&url, events).await?, redacted(&url)),
        };
        let staged = Staged::create(&self.staging, Algorithm::Sha256).await?;
        let runtime = Handle::current();
        let (staged, diff_id) = blocking(move || {
            let out = Writer {
                staged,
                runtime,
                batch: Vec::with_capacity(BATCH),
            };
            let (out, diff_id) = compress(archive, out)?;
            Ok((out.staged, diff_id))
        })
        .await?;
        let verified = staged.finish(None, None).await?;
        let layer = Descriptor::new(
            media_type::OCI_LAYER_GZIP,
            verified.digest().clone(),
            verified.size(),
        );
        self.admit(&repository, verified).await?;
        let config = config(&import, &place, diff_id);
        let id = self.store_image(&repository, &tags, &config, layer).await?;
        let name = tags
            .first()
            .map(|tag| format!("{}:{tag}", repository.familiar()));
        let told = name.clone().unwrap_or_default();
        self.events.tell("import", id.to_string(), told);
        // Who asked may be gone: what it sent is here all the same.
        let _ = events.send(ImportEvent::Imported(name, id)).await;
        Ok(())
    }

    fn place(&self, reference: &str) -> Result<(Repository, Vec<Tag>)> {
        if reference.is_empty() {
            return Ok((self.own.from_name(UNNAMED)?, Vec::new()));
        }
        let name = self.own.parse_image(reference)?;
        if name.repository.is_internal() {
            return Err(Error::InvalidArgument(format!(
                "{name} is a name of this site's own"
            )));
        }
        match name.pointer {
            Pointer::Tag(tag) => Ok((name.repository, vec![tag])),
            Pointer::Digest(_) => Err(Error::InvalidArgument(
                "cannot import digest reference".to_owned(),
            )),
        }
    }

    async fn fetch(&self, url: &str, events: &Sink) -> Result<Box<dyn Read + Send>> {
        let shown = redacted(url);
        let failed = |why: String| Error::InvalidArgument(format!("cannot fetch {shown}: {why}"));
        let web = Web::new(self.fetch_guard.clone(), SILENCE).map_err(failed)?;
        let response = web.get(url, &[], None).await.map_err(failed)?;
        let line = format!("Downloading from {shown}");
        // Who does not listen is found out below.
        let _ = events.send(ImportEvent::Status(line)).await;
        Ok(Box::new(Download {
            total: response.content_length().unwrap_or(0),
            response,
            came: 0,
            chunk: Bytes::new(),
            events: events.clone(),
            runtime: Handle::current(),
        }))
    }

    async fn store_image(
        self: &Arc<Self>,
        repository: &Repository,
        tags: &[Tag],
        config: &ImageConfig,
        layer: Descriptor,
    ) -> Result<Digest> {
        let content: Bytes = config.to_bytes().into();
        let id = Digest::of(&content);
        let size = content.len() as u64;
        let staged = Staged::create(&self.staging, Algorithm::Sha256).await?;
        staged.write(vec![content]).await?;
        let verified = staged.finish(Some(&id), Some(size)).await?;
        self.admit(repository, verified).await?;
        let manifest = ImageManifest {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.to_owned()),
            artifact_type: None,
            config: Descriptor::new(media_type::OCI_CONFIG, id.clone(), size),
            layers: vec![layer],
            subject: None,
            annotations: BTreeMap::new(),
        };
        self.put_manifest(Put {
            repository: repository.clone(),
            tags: tags.to_vec(),
            media_type: media_type::OCI_MANIFEST.to_owned(),
            content: serde_json::to_vec(&manifest).expect("plain data").into(),
            expected: None,
            origin: Origin::Local,
            by_digest: false,
            require: Require::Site,
        })
        .await?;
        Ok(id)
    }
}

/// As docker's (moby, daemon/images/image_import.go).
fn config(import: &Import, place: &str, diff_id: Digest) -> ImageConfig {
    let platform = import.platform.clone().unwrap_or_else(Platform::host);
    let now = jiff::Timestamp::now().to_string();
    let comment = match &*import.message {
        "" => format!("Imported from {place}"),
        message => message.to_owned(),
    };
    let mut config = ImageConfig {
        created: Some(now.clone()),
        architecture: platform.architecture,
        variant: Some(platform.variant).filter(|variant| !variant.is_empty()),
        os: platform.os,
        config: import.config.clone(),
        history: vec![History {
            created: Some(now),
            comment: Some(comment.clone()),
            ..History::default()
        }],
        other: BTreeMap::from([("comment".to_owned(), comment.into())]),
        ..ImageConfig::default()
    };
    config.rootfs.diff_ids.push(diff_id);
    config
}

/// Writes an archive as a layer, and says what its digest is when it is not compressed.
fn compress<W: Write>(archive: impl Read, out: W) -> Result<(W, Digest)> {
    let broken = |e: io::Error| Error::ArchiveInvalid(format!("it cannot be read: {e}"));
    let plain = compressed::plain(archive, Limits::default()).map_err(broken)?;
    let passing = Passing {
        plain,
        digester: Digester::new(Algorithm::Sha256),
        out: gzip::GzipWriter::new(out, gzip::LEVEL),
        failure: None,
    };
    let mut tar = TarReader::new(BufReader::with_capacity(BATCH, passing));
    let mut read = || -> io::Result<()> {
        while tar.next_entry().map_err(io::Error::other)?.is_some() {}
        Ok(())
    };
    let read = read();
    let mut rest = tar.into_inner();
    // What follows the end of an archive is part of its bytes.
    let read = read.and_then(|()| io::copy(&mut rest, &mut io::sink()).map(drop));
    let passed = rest.into_inner();
    if let Some(e) = passed.failure {
        return Err(unwritten(e));
    }
    read.map_err(broken)?;
    if passed.digester.bytes() == 0 {
        return Err(Error::ArchiveInvalid("it is empty".to_owned()));
    }
    let out = passed.out.finish().and_then(|mut out| {
        out.flush()?;
        Ok(out)
    });
    Ok((out.map_err(unwritten)?, passed.digester.finish()))
}

/// The store's own error, where it is one.
fn unwritten(error: io::Error) -> Error {
    let other = |e| Error::Interrupted(format!("the layer was not written: {e}"));
    error.downcast::<Error>().unwrap_or_else(other)
}

/// Bytes that are hashed and compressed while somebody reads them.
struct Passing<R, W: Write> {
    plain: R,
    digester: Digester,
    out: gzip::GzipWriter<W>,
    /// Of `out`: that is not the archive's fault.
    failure: Option<io::Error>,
}

impl<R: Read, W: Write> Read for Passing<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.plain.read(buffer)?;
        self.digester.update(&buffer[..n]);
        if let Err(e) = self.out.write_all(&buffer[..n]) {
            let told = io::Error::other(e.to_string());
            self.failure = Some(e);
            return Err(told);
        }
        Ok(n)
    }
}

/// A staged file, for writers that block.
struct Writer {
    staged: Staged,
    runtime: Handle,
    batch: Vec<u8>,
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.batch.extend_from_slice(bytes);
        if self.batch.len() >= BATCH {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH));
        let write = self.staged.write(vec![batch.into()]);
        let written = self.runtime.block_on(write);
        written.map(drop).map_err(io::Error::other)
    }
}

/// What a server sends, for readers that block.
struct Download {
    response: reqwest::Response,
    came: u64,
    total: u64,
    chunk: Bytes,
    events: Sink,
    runtime: Handle,
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            let (response, events) = (&mut self.response, &self.events);
            let next = self.runtime.block_on(async {
                tokio::select! {
                    next = response.chunk() => next.map_err(|e| io::Error::other(cause(&e))),
                    () = events.closed() => Err(io::Error::other("the caller went away")),
                }
            });
            match next? {
                None => return Ok(0),
                Some(chunk) => self.chunk = chunk,
            }
            self.came += self.chunk.len() as u64;
            // Progress may be lost when the listener is slow.
            let _ = events.try_send(ImportEvent::Fetched(self.came, self.total));
        }
        let n = buffer.len().min(self.chunk.len());
        buffer[..n].copy_from_slice(&self.chunk.split_to(n));
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use slipway_image::layer::{Entry, Kind, tar_write::TarWriter};

    use super::*;

    fn tar(content: &[u8]) -> Vec<u8> {
        let mut tar = TarWriter::new(Vec::new());
        let entry = Entry {
            path: b"file".to_vec(),
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            size: content.len() as u64,
            xattrs: Vec::new(),
        };
        tar.append(&entry, &mut &content[..]).unwrap();
        tar.finish().unwrap()
    }

    fn plain(layer: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        compressed::plain(layer, Limits::default())
            .and_then(|mut reader| reader.read_to_end(&mut plain))
            .unwrap();
        plain
    }

    #[test]
    fn a_layer_has_the_archives_own_bytes() {
        let mut archive = tar(b"content");
        // What follows the end of an archive is a part of it, and so is no entry at all.
        archive.extend([0; 4096]);
        for archive in [archive, vec![0; 1024]] {
            let (layer, diff_id) = compress(&archive[..], Vec::new()).unwrap();
            assert_eq!(plain(&layer), archive);
            assert_eq!(diff_id, Digest::of(&archive));
            let (again, same) = compress(&layer[..], Vec::new()).unwrap();
            assert_eq!((again, same), (layer, diff_id));
        }
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        let whole = tar(b"content");
        for (archive, why) in [
            (&b""[..], "it is empty"),
            (b"#!/bin/sh\n", "cannot be read"),
            (&whole[..515], "cannot be read"),
            (&[7; 2048], "cannot be read"),
        ] {
            let error = compress(archive, Vec::new()).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_written_is_not_the_archives_fault() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let large = tar(&vec![1; 8 << 20]);
        let Err(Error::Interrupted(why)) = compress(&large[..], Full) else {
            panic!("it was written");
        };
        assert!(why.contains("not written"), "{why}");
    }
}
