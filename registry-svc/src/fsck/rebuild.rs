//! The index made anew from the files: links of manifests, tags, links of blobs, and what the manifests name.
//!
//! Several repositories are read at once while what others had is written, so neither waits for the other; of all
//! of them no more is in memory than is worth to be written together.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::{StreamExt as _, stream};
use slipway_image::Digest;

use super::{list, names::repositories, read_json};
use crate::{
    blobs::{BlobStore, quarantine::is_damage, staging::blocking},
    error::{Error, Result},
    files, links, manifests,
    names::{Repository, Tag},
    store::{Bulk, Index, ManifestRecord, TagRecord},
    tags,
};

/// Repositories that are read at once.
const AT_ONCE: usize = 32;

/// What the files of a repository say, before what they name was looked at.
struct Files {
    repository: Repository,
    manifests: Vec<(Digest, Result<ManifestRecord>)>,
    tags: Vec<(String, Option<TagRecord>)>,
    waiting: Vec<(Digest, PathBuf)>,
    mirrored: Vec<(Digest, PathBuf)>,
    warnings: Vec<String>,
}

/// What the index is to know of it.
struct Read {
    bulk: Bulk,
    manifests: usize,
    warnings: Vec<String>,
}

/// Fills an index that is empty. Returns the number of manifests.
pub async fn rebuild(
    index: &Arc<Index>,
    root: &Path,
    blobs: &dyn BlobStore,
    warnings: &mut Vec<String>,
) -> Result<usize> {
    let all = root.to_owned();
    let repositories = blocking(move || repositories(&all)).await?;
    let mut reads = stream::iter(repositories)
        .map(|repository| read(root, repository, blobs))
        .buffer_unordered(AT_ONCE);
    let (mut bulk, mut count) = (Bulk::default(), 0);
    while let Some(read) = reads.next().await {
        let read = read?;
        count += read.manifests;
        warnings.extend(read.warnings);
        bulk.append(read.bulk);
        if bulk.is_full() {
            write(index, std::mem::take(&mut bulk)).await?;
        }
    }
    write(index, bulk).await?;
    // Content that nothing names may be an upload whose manifest is still to come: the sweep decides.
    let listed = blobs.list().await?;
    let mut unnamed: Vec<String> = listed.iter().map(|b| b.digest.to_string()).collect();
    drop(listed);
    let index = Arc::clone(index);
    blocking(move || {
        unnamed.sort_unstable();
        unnamed.dedup();
        // Both are in the same order.
        let (mut bulk, mut left) = (Bulk::default(), unnamed.iter().peekable());
        index.each_reference(|named, _, _| {
            while let Some(digest) = left.next_if(|digest| digest.as_str() < named) {
                bulk.pending(digest);
            }
            left.next_if(|digest| *digest == named);
        })?;
        left.for_each(|digest| bulk.pending(digest));
        index.write(bulk)
    })
    .await?;
    Ok(count)
}

async fn write(index: &Arc<Index>, bulk: Bulk) -> Result<()> {
    let index = Arc::clone(index);
    blocking(move || index.write(bulk)).await
}

async fn read(root: &Path, repository: Repository, blobs: &dyn BlobStore) -> Result<Read> {
    let root = root.to_owned();
    let files = blocking(move || Files::of(&root, repository)).await?;
    let Files {
        repository,
        warnings,
        ..
    } = files;
    let mut read = Read {
        bulk: Bulk::default(),
        manifests: 0,
        warnings,
    };
    let mut here = HashSet::new();
    for (digest, record) in files.manifests {
        let known = match record {
            Ok(record) => names(&digest, &record, blobs).await.map(|n| (record, n)),
            Err(error) => Err(error),
        };
        match known {
            Ok((record, names)) => {
                read.bulk.manifest(&repository, &digest, &record, &names);
                here.insert(digest);
            }
            Err(error) => {
                read.bulk.damaged(&repository, &digest);
                let text = format!("{repository}@{digest} cannot be read: {error}");
                read.warnings.push(text);
            }
        }
    }
    read.manifests = here.len();
    for (name, record) in files.tags {
        match (Tag::parse(&name), record) {
            (Ok(tag), Some(record)) if here.contains(&record.digest) => {
                read.bulk.tag(&repository, &tag, &record);
            }
            _ => {
                let text = format!("{repository}:{name} names nothing that is here");
                read.warnings.push(text);
            }
        }
    }
    for (digest, path) in files.waiting {
        match blobs.stat(&digest).await? {
            Some(_) => read.bulk.waiting(&repository, &digest),
            None => remove(&path)?,
        }
    }
    for (digest, path) in files.mirrored {
        match blobs.stat(&digest).await? {
            Some(_) => read.bulk.link(&repository, &digest),
            None => remove(&path)?,
        }
    }
    Ok(read)
}

/// What a manifest names.
async fn names(
    digest: &Digest,
    record: &ManifestRecord,
    blobs: &dyn BlobStore,
) -> Result<crate::store::Names> {
    let limit = slipway_image::manifest::MAX_SIZE as u64;
    let content = blobs.read_small(digest, limit).await?;
    let mut parsed = manifests::parse(&record.media_type, &content)?;
    parsed.hold_only(|named| record.held.contains(&named.digest));
    Ok(manifests::names_in(digest, record, &parsed))
}

impl Files {
    /// Reads them all. What was never acknowledged goes.
    fn of(root: &Path, repository: Repository) -> Result<Self> {
        let folder = root.join(repository.as_str());
        let mut files = Self {
            repository,
            manifests: Vec::new(),
            tags: Vec::new(),
            waiting: Vec::new(),
            mirrored: Vec::new(),
            warnings: Vec::new(),
        };
        for (name, path) in digests(&folder.join(manifests::FOLDER))? {
            let Ok(digest) = name.parse() else {
                files
                    .warnings
                    .push(format!("{} is no digest", path.display()));
                continue;
            };
            let record = read_json(&path).and_then(|record| {
                record.ok_or_else(|| Error::ManifestInvalid("its link is no record".to_owned()))
            });
            files.manifests.push((digest, record));
        }
        for (name, path) in acknowledged(&folder.join(tags::FOLDER))? {
            let record = match read_json(&path) {
                // One that the disk lost is told, as one that is no record.
                Err(Error::Io { source, .. }) if is_damage(&source) => None,
                record => record?,
            };
            files.tags.push((name, record));
        }
        for (folder, found) in [
            (folder.join(links::FOLDER), &mut files.waiting),
            (folder.join(links::MIRRORED), &mut files.mirrored),
        ] {
            for (name, path) in digests(&folder)? {
                match name.parse() {
                    Ok(digest) => found.push((digest, path)),
                    Err(_) => remove(&path)?,
                }
            }
        }
        Ok(files)
    }
}

/// `<algorithm>:<name>` of the files in `<folder>/<algorithm>/`.
fn digests(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for algorithm in list(folder)? {
        let kind = algorithm.file_name().to_string_lossy().into_owned();
        let files = acknowledged(&algorithm.path())?.into_iter();
        found.extend(files.map(|(name, path)| (format!("{kind}:{name}"), path)));
    }
    Ok(found)
}

/// The files of a folder, without those that a write that never ended left: these go.
fn acknowledged(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in list(folder)? {
        let name = entry.file_name().to_string_lossy().into_owned();
        match name.starts_with(files::TEMPORARY) {
            true => drop(fs::remove_file(entry.path())), // it means nothing to anybody
            false => found.push((name, entry.path())),
        }
    }
    Ok(found)
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).map_err(Error::io("cannot remove", path))
}
