//! Checkpoints: all that the journal says up to an entry, as the changes that lead there
//! (`checkpoints/<number>`, a change a line).

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use futures_util::TryStreamExt as _;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::{Change, Commit, Follower, Request, Scope, apply, entry};
use crate::{
    blobs::staging::blocking,
    bucket::{Bucket, Segment},
    error::{Error, Result},
    files,
    store::{Index, Origin},
};

/// A name that nobody else takes for the same.
fn name(number: u64) -> String {
    format!("checkpoints/{number:020}-{}", files::random_name())
}

impl Follower {
    /// Writes a checkpoint when it is worth it, and this process had a part in that: one of all is enough. It is put together here, while nothing is appended, and sent by
    /// itself.
    pub(super) async fn write_checkpoint(&mut self) -> Result<()> {
        let due = self.since_checkpoint >= self.habits.worth.max(self.last_checkpoint);
        if !std::mem::take(&mut self.wrote) || !due {
            return Ok(());
        }
        // Not again before as much was written.
        self.since_checkpoint = 0;
        let path = self.folder.join(files::random_name());
        let (index, file) = (Arc::clone(&self.index), path.clone());
        let size = blocking(move || dump(&index, &file)).await?;
        slipway_fault::point("registry.bucket.dumped");
        let (bucket, requests) = (Arc::clone(&self.bucket), self.requests.clone());
        let (number, folder, kept) = (self.applied, self.folder.clone(), self.habits.kept);
        tokio::spawn(async move {
            let sent = send(&bucket, number, &path, size, &folder).await;
            // Removed at the next start otherwise.
            let _ = fs::remove_file(&path);
            if let Err(error) = sent {
                return warn!(%error, "a checkpoint was not sent");
            }
            slipway_fault::point("registry.bucket.sent");
            info!(entry = number, size, "checkpoint");
            // Everybody counts from here. Nobody waits for it.
            let change = Change::Checkpoint {
                entry: number,
                size,
            };
            if let Some(requests) = requests.upgrade() {
                let (done, _) = oneshot::channel();
                let commit = Commit {
                    scope: Scope::Nothing,
                    decide: Box::new(move |_| Ok(vec![change.clone()])),
                    done,
                };
                // It is stopping.
                let _ = requests.send(Request::Commit(commit)).await;
            }
            if let Err(error) = trim(&bucket, number, kept).await {
                warn!(%error, "old entries of the journal stay for now");
            }
        });
        Ok(())
    }

    /// Begins from the latest checkpoint, if there is one that is further than this is.
    pub(super) async fn read_checkpoint(&mut self) -> Result<bool> {
        let listed: Vec<_> = self.bucket.list("checkpoints", None).try_collect().await?;
        let numbers = listed
            .iter()
            .filter_map(|l| Some((entry::number(&l.name)?, l)));
        let latest = numbers.max_by_key(|(number, _)| *number);
        let Some((number, latest)) = latest.filter(|(n, _)| *n > self.applied) else {
            return Ok(false);
        };
        let size = latest.size;
        let gone = || Error::Bucket(format!("checkpoint {number} went while it was read"));
        let read = self.bucket.read(&latest.name, 0..size).await?;
        let mut content = read.ok_or_else(gone)?.content;
        let bucket = self.index.bucket()?.unwrap_or_default();
        self.index.begin_again(&bucket)?;
        self.applied = 0;
        slipway_fault::point("registry.bucket.cleared");
        let mut rest = Vec::new();
        while let Some(piece) = content.try_next().await? {
            rest.extend_from_slice(&piece);
            let end = rest.iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
            for line in rest[..end].split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
                let change = serde_json::from_slice(line)
                    .map_err(|e| Error::Bucket(format!("checkpoint {number}: {e}")))?;
                apply(&self.index, &change, false)?;
            }
            rest.drain(..end);
        }
        if !rest.is_empty() {
            return Err(Error::Bucket(format!("checkpoint {number} is cut off")));
        }
        self.index.set_applied(number)?;
        (self.applied, self.last_checkpoint, self.since_checkpoint) = (number, size, 0);
        Ok(true)
    }
}

async fn send(
    bucket: &Arc<Bucket>,
    number: u64,
    path: &Path,
    size: u64,
    folder: &Path,
) -> Result<()> {
    let content = Segment {
        path: path.to_owned(),
        offset: 0,
        size,
    };
    let notes = folder.join("halves");
    bucket.put(name(number), vec![content], &notes).await
}

/// Writes all that an index says; returns the bytes.
fn dump(index: &Index, path: &Path) -> Result<u64> {
    let fail = || Error::io("cannot write", path);
    let mut file = BufWriter::new(File::create(path).map_err(fail())?);
    let mut size = 0;
    let mut write = |change: Change| -> Result<()> {
        let mut line = serde_json::to_vec(&change).expect("changes are plain data");
        line.push(b'\n');
        size += line.len() as u64;
        file.write_all(&line).map_err(fail())
    };
    for object in index.objects() {
        let (digest, object) = object?;
        write(Change::Stored { digest, object })?;
    }
    index.each_manifest(|repository, digest, record| {
        let names = index.names(&repository, &digest)?.unwrap_or_default();
        write(Change::SetManifest {
            repository,
            digest,
            record,
            names,
        })
    })?;
    index.each_tag(|repository, tag, record| {
        write(Change::SetTag {
            repository,
            tag,
            record,
        })
    })?;
    index.each_link(
        |repository, digest| match index.is_link_implied(&repository, &digest)? {
            true => Ok(()),
            false => write(Change::Link {
                repository,
                digest,
                origin: Origin::default(),
            }),
        },
    )?;
    index.each_own(|repository| write(Change::Own { repository }))?;
    // After the manifests, which end such.
    for waiting in index.promises() {
        let (digest, who, since) = waiting?;
        write(Change::Wait { digest, who, since })?;
    }
    file.flush().map_err(fail())?;
    Ok(size)
}

/// Removes what was before a checkpoint, when everybody has had time to see it.
async fn trim(bucket: &Bucket, number: u64, kept: Duration) -> Result<()> {
    for folder in ["journal", "checkpoints"] {
        let mut listed = bucket.list(folder, None);
        while let Some(object) = listed.try_next().await? {
            if entry::number(&object.name).is_some_and(|n| n < number)
                && bucket.age(object.made) >= kept
            {
                bucket.delete(&object.name).await?;
            }
        }
    }
    Ok(())
}
