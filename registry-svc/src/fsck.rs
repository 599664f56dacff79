//! Opening and mending: the index is rebuilt from the files when it is missing, torn, not the one that the service
//! left (somebody put an older copy back), or when the service did not end cleanly (sled keeps the last writes in
//! memory; the files do not).

mod blobs;
pub mod check;
mod names;
mod tag_names;

use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use slipway_image::Digest;
use tracing::{info, warn};

use crate::{
    blobs::BlobStore,
    error::{Error, Result},
    files, links, manifests,
    names::{Repository, Tag},
    registry::now,
    store::{Index, ManifestRecord, TagRecord},
    tags,
};

/// There when the index was written out at the end, with the name of that end, which the index has, too; removed as
/// soon as it is opened.
const CLEAN: &str = "index.clean";
const INDEX: &str = "index";

/// Opens the index, rebuilding it when need be. Also returns what people should know.
pub async fn open_index(
    root: &Path,
    repositories: &Path,
    blobs: &dyn BlobStore,
) -> Result<(Index, Vec<String>)> {
    let (index, whole, mut warnings) = open(root)?;
    if !whole || index.is_damaged()? {
        index.set_uses_known_since(now())?;
        let count = rebuild(&index, repositories, blobs, &mut warnings).await?;
        slipway_fault::point("registry.open.rebuilt");
        index.set_current()?;
        if index.is_damaged()? {
            warnings.push(
                "nothing is collected as long as manifests cannot be read: pull or push them again, or remove them"
                    .to_owned(),
            );
        }
        index.flush()?;
        info!(manifests = count, "index rebuilt from the files");
    }
    Ok((index, warnings))
}

/// Opens the index as it is, and says whether that is all that it should be. One that is damaged is made anew.
pub fn open(root: &Path) -> Result<(Index, bool, Vec<String>)> {
    let path = root.join(INDEX);
    let clean = root.join(CLEAN);
    let ended = fs::read_to_string(&clean).ok();
    let was_clean = path.exists()
        && files::remove_durably(&clean).map_err(Error::io("cannot remove", &clean))?;
    // sled 0.34 panics on some kinds of damage where it should return an error.
    let mut opened = catch_unwind(AssertUnwindSafe(|| Index::open(&path)));
    let mut warnings = Vec::new();
    if !matches!(opened, Ok(Ok(_))) {
        warn!("the index is damaged: making a new one from the files");
        warnings.push("the index was damaged and was rebuilt from the files".to_owned());
        fs::remove_dir_all(&path).map_err(Error::io("cannot remove", &path))?;
        opened = Ok(Index::open(&path));
    }
    let index = opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let is_what_was_left = was_clean && ended.is_some() && index.last_end()? == ended;
    let whole = is_what_was_left && warnings.is_empty() && !index.is_outdated()?;
    Ok((index, whole, warnings))
}

/// Writes the index out and marks it as whole.
pub fn mark_clean(index: &Index, root: &Path) -> Result<()> {
    let name = files::random_name();
    index.set_last_end(&name)?;
    index.flush()?;
    slipway_fault::point("registry.close.flushed");
    let path = root.join(CLEAN);
    files::write_durably(&path, name.as_bytes()).map_err(Error::io("cannot write", &path))
}

/// Takes the mark back: something changes after all.
pub fn mark_dirty(root: &Path) -> Result<()> {
    let path = root.join(CLEAN);
    files::remove_durably(&path).map_err(Error::io("cannot remove", &path))?;
    Ok(())
}

/// Makes the index anew from link files, tag files and manifests. Returns the number of manifests.
async fn rebuild(
    index: &Index,
    repositories: &Path,
    blobs: &dyn BlobStore,
    warnings: &mut Vec<String>,
) -> Result<usize> {
    index.clear()?;
    slipway_fault::point("registry.open.cleared");
    let mut count = 0;
    let mut tag_files = Vec::new();
    let mut link_files = Vec::new();
    let mut folders = vec![repositories.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in list(&folder)? {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = entry.path();
            if name.starts_with(files::TEMPORARY) {
                // Never acknowledged.
                let _ = fs::remove_file(&path);
            } else if name == tags::FOLDER {
                let repository = repository_of(repositories, &folder)?;
                tag_files.push((repository, path));
            } else if name == links::FOLDER {
                link_files.push((repository_of(repositories, &folder)?, path));
            } else if name == manifests::FOLDER {
                let repository = repository_of(repositories, &folder)?;
                count += rebuild_manifests(index, &repository, &path, blobs, warnings).await?;
            } else if entry.file_type().is_ok_and(|t| t.is_dir()) {
                folders.push(path);
            }
        }
    }
    for (repository, folder) in tag_files {
        for entry in list(&folder)? {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(files::TEMPORARY) {
                let _ = fs::remove_file(entry.path());
                continue;
            }
            let record: Option<TagRecord> = read_json(&entry.path())?;
            match (Tag::parse(&name), record) {
                (Ok(tag), Some(record))
                    if index.manifest(&repository, &record.digest)?.is_some() =>
                {
                    index.set_tag(&repository, &tag, &record)?;
                }
                _ => warnings.push(format!("{repository}:{name} names nothing that is here")),
            }
        }
    }
    for (repository, folder) in link_files {
        rebuild_links(index, &repository, &folder, blobs).await?;
    }
    // Content that nothing names may be an upload whose manifest is still to come: the sweep decides.
    for blob in blobs.list().await? {
        if !index.is_held(&blob.digest)? {
            index.set_pending(&blob.digest)?;
        }
    }
    Ok(count)
}

async fn rebuild_manifests(
    index: &Index,
    repository: &Repository,
    folder: &Path,
    blobs: &dyn BlobStore,
    warnings: &mut Vec<String>,
) -> Result<usize> {
    let mut count = 0;
    for algorithm in list(folder)? {
        for link in list(&algorithm.path())? {
            let name = link.file_name().to_string_lossy().into_owned();
            if name.starts_with(files::TEMPORARY) {
                let _ = fs::remove_file(link.path());
                continue;
            }
            let text = format!("{}:{name}", algorithm.file_name().to_string_lossy());
            let Ok(digest) = text.parse::<Digest>() else {
                warnings.push(format!("{} is no digest", link.path().display()));
                continue;
            };
            let record = match read_json(&link.path()) {
                Ok(Some(record)) => record,
                other => {
                    let reason = match other {
                        Err(error) => error.to_string(),
                        _ => "its link is no record".to_owned(),
                    };
                    warnings.push(format!("{repository}@{digest} cannot be read: {reason}"));
                    index.set_damaged(repository, &digest)?;
                    continue;
                }
            };
            let record: ManifestRecord = record;
            let limit = slipway_image::manifest::MAX_SIZE as u64;
            let parsed = match blobs.read_small(&digest, limit).await {
                Ok(content) => {
                    manifests::parse(&record.media_type, &content).map(|parsed| (parsed, content))
                }
                Err(e) => Err(e),
            };
            match parsed {
                Ok((mut parsed, content)) => {
                    parsed.hold_only(|named| record.held.contains(&named.digest));
                    let names = manifests::names_in(&digest, &record, &parsed, &content);
                    index.set_manifest(repository, &digest, &record, &names)?;
                    count += 1;
                }
                Err(error) => {
                    index.set_damaged(repository, &digest)?;
                    warnings.push(format!("{repository}@{digest} cannot be read: {error}"));
                }
            }
        }
    }
    Ok(count)
}

/// Blobs of a repository whose manifest is still to come.
async fn rebuild_links(
    index: &Index,
    repository: &Repository,
    folder: &Path,
    blobs: &dyn BlobStore,
) -> Result<()> {
    for algorithm in list(folder)? {
        for link in list(&algorithm.path())? {
            let text = format!(
                "{}:{}",
                algorithm.file_name().to_string_lossy(),
                link.file_name().to_string_lossy()
            );
            let digest = text.parse::<Digest>().ok();
            let useful = match &digest {
                Some(digest) => blobs.stat(digest).await?.is_some(),
                None => false,
            };
            match digest.filter(|_| useful) {
                Some(digest) => {
                    index.link(repository, &digest)?;
                    index.set_waiting(repository, &digest)?;
                }
                None => {
                    fs::remove_file(link.path()).map_err(Error::io("cannot remove", link.path()))?
                }
            }
        }
    }
    Ok(())
}

/// Removes the staged files that a crash left.
pub fn remove_left_overs(staging: &Path) -> Result<()> {
    for entry in list(staging)? {
        fs::remove_file(entry.path()).map_err(Error::io("cannot remove", entry.path()))?;
    }
    Ok(())
}

fn repository_of(repositories: &Path, folder: &Path) -> Result<Repository> {
    let key = folder.strip_prefix(repositories).unwrap_or(folder);
    Repository::from_key(&key.to_string_lossy())
}

fn list(folder: &Path) -> Result<Vec<fs::DirEntry>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries
            .collect::<io::Result<_>>()
            .map_err(Error::io("cannot list", folder)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io("cannot list", folder)(e)),
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let content = fs::read(path).map_err(Error::io("cannot read", path))?;
    Ok(serde_json::from_slice(&content).ok())
}
