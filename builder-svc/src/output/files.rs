//! The files of a result, streamed as tar: the worker reads them, nothing is unpacked here. What is attested of
//! them is a file beside them, about each of them by its digest.

use std::io::{self, Write as _};

use slipway_image::{
    Digester,
    digest::DigestReader,
    layer::{
        Entry, Kind,
        pack::{Plain, Sink as _},
        tar_read::TarReader,
    },
};
use slipway_service::chunks::{ChunkReader, ChunkWriter};
use tokio::sync::mpsc;

use super::{CHUNKS, Exporter, archive::tell};
use crate::{
    attest::{
        Predicate,
        statement::{Subject, statement},
    },
    error::{Error, Result},
};

/// Most files that a statement is about.
const MAX_SUBJECTS: usize = 1_000_000;

impl Exporter<'_> {
    /// Streams the root filesystems as output `number`: one platform's as it is, those of several in a
    /// folder each (`linux_amd64`), as BuildKit does.
    pub(super) async fn files(&self, number: u32) -> Result<()> {
        let (send, receive) = mpsc::channel(CHUNKS);
        // Each platform's stream, in turn, with the folder that it goes to.
        let (hand, mut take) = mpsc::channel::<(String, Vec<Predicate>, ChunkReader)>(1);
        let latest = self.latest;
        let writing = tokio::task::spawn_blocking(move || {
            let mut out = Plain::new(ChunkWriter::new(send));
            while let Some((folder, predicates, stream)) = take.blocking_recv() {
                let mut subjects = (!predicates.is_empty()).then(Vec::new);
                copy(&mut out, &folder, latest, stream, subjects.as_mut())?;
                for predicate in &predicates {
                    let subjects = subjects.as_deref().unwrap_or_default();
                    attest(&mut out, &folder, latest, (predicate, subjects))?;
                }
            }
            out.finish()?.flush()
        });
        let reading = async {
            for (made, predicates) in self.results.iter().zip(self.predicates) {
                let mut predicates = predicates.clone();
                predicates.retain(|p| p.file.is_some());
                let folder = match self.results.len() {
                    1 => String::new(),
                    _ => made.platform.to_string().replace('/', "_") + "/",
                };
                let (chunks, stream) = mpsc::channel(CHUNKS);
                let stream = ChunkReader::new(stream);
                if hand.send((folder, predicates, stream)).await.is_err() {
                    break;
                }
                if made.built.layers.is_empty() {
                    continue;
                }
                let (snapshot, _place) = made.solver.root(&made.built.layers).await?;
                snapshot.read("/", chunks).await?;
            }
            drop(hand);
            Ok(())
        };
        let (read, (), written) = tokio::join!(reading, tell(self, number, receive), writing);
        // A reader that failed cut the stream off: its error is the cause.
        read?;
        written
            .map_err(io::Error::other)
            .and_then(|r| r)
            .map_err(|e| Error::Invalid(format!("the files could not be written: {e}")))?;
        self.end(number).await;
        Ok(())
    }
}

/// Writes a stream's entries below a folder ("" = none), no time later than `latest`.
fn copy(
    out: &mut Plain<ChunkWriter>,
    folder: &str,
    latest: Option<i64>,
    stream: ChunkReader,
    mut subjects: Option<&mut Vec<Subject>>,
) -> io::Result<()> {
    let mut reader = TarReader::new(stream);
    while let Some(mut entry) = reader.next_entry().map_err(io::Error::other)? {
        let below = |path: &[u8]| {
            let path = path.strip_prefix(b"./").unwrap_or(path);
            let path = path.strip_prefix(b"/").unwrap_or(path);
            [folder.as_bytes(), path].concat()
        };
        // The root's own entry: a folder of the caller's keeps its own mode.
        if matches!(&entry.path[..], b"." | b"./" | b"" | b"/") {
            continue;
        }
        entry.path = below(&entry.path);
        if let Some(latest) = latest.filter(|l| entry.mtime.0 >= *l) {
            entry.mtime = (latest, 0);
        }
        if let Kind::HardLink(target) = &mut entry.kind {
            *target = below(target);
        }
        let Some(subjects) = subjects.as_mut().filter(|_| entry.kind == Kind::File) else {
            out.append(&entry, &mut Content(&mut reader))?;
            continue;
        };
        if subjects.len() >= MAX_SUBJECTS {
            return Err(io::Error::other(format!(
                "the result has more than {MAX_SUBJECTS} files, which is too many to attest"
            )));
        }
        let mut content = DigestReader::new(Content(&mut reader), Digester::default());
        out.append(&entry, &mut content)?;
        let name = String::from_utf8_lossy(&entry.path[folder.len()..]).into_owned();
        subjects.push((name, content.into_parts().1.finish()));
    }
    Ok(())
}

/// Writes a statement about these files (BuildKit, exporter/local/fs.go).
fn attest(
    out: &mut Plain<ChunkWriter>,
    folder: &str,
    latest: Option<i64>,
    (predicate, subjects): (&Predicate, &[Subject]),
) -> io::Result<()> {
    let name = predicate.file.as_deref().unwrap_or_default();
    if subjects.iter().any(|(taken, _)| taken == name) {
        return Err(io::Error::other(format!(
            "the result has a file {name} already: choose another with filename="
        )));
    }
    let content = format!("{:#}", statement(predicate, subjects));
    let entry = Entry {
        path: format!("{folder}{name}").into_bytes(),
        kind: Kind::File,
        mode: 0o600,
        uid: 0,
        gid: 0,
        mtime: (
            latest.unwrap_or_else(|| jiff::Timestamp::now().as_second()),
            0,
        ),
        size: content.len() as u64,
        xattrs: Vec::new(),
    };
    out.append(&entry, &mut content.as_bytes())
}

/// The content of a reader's current entry.
struct Content<'a>(&'a mut TarReader<ChunkReader>);

impl io::Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_content(buffer).map_err(io::Error::other)
    }
}
