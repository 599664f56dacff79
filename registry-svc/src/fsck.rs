//! Opening and mending: the index is rebuilt from the files when it is missing, torn, not the one that the service
//! left (somebody put an older copy back), or when the service did not end cleanly (sled keeps the last writes in
//! memory; the files do not).

mod blobs;
pub mod check;
mod names;
mod patience;
mod rebuild;
mod report;
mod tag_names;

use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use tracing::{info, warn};

use crate::{
    blobs::BlobStore,
    error::{Error, Result},
    files,
    names::Repository,
    registry::now,
    store::Index,
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
) -> Result<(Arc<Index>, Vec<String>)> {
    let (index, whole, mut warnings) = open(root)?;
    let mut index = Arc::new(index);
    if !whole || index.is_damaged()? {
        index.set_uses_known_since(now())?;
        let cleared = Arc::into_inner(index)
            .expect("nobody else has it yet")
            .cleared();
        index = Arc::new(cleared?);
        slipway_fault::point("registry.open.cleared");
        let count = rebuild::rebuild(&index, repositories, blobs, &mut warnings).await?;
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

/// Opens the index as it was left, and says whether that is all that it should be. One that was not left whole, or is
/// damaged, is a new one.
pub fn open(root: &Path) -> Result<(Index, bool, Vec<String>)> {
    let path = root.join(INDEX);
    let clean = root.join(CLEAN);
    let ended = fs::read_to_string(&clean).ok();
    let was_clean = path.exists()
        && files::remove_durably(&clean).map_err(Error::io("cannot remove", &clean))?;
    if !was_clean {
        // It lacks what sled had in memory, and nobody knows what: that is made anew from nothing, which takes less
        // time and memory than to empty it.
        remove_folder(&path)?;
    }
    // sled 0.34 panics on some kinds of damage where it should return an error.
    let mut opened = catch_unwind(AssertUnwindSafe(|| Index::open(&path)));
    let mut warnings = Vec::new();
    if !matches!(opened, Ok(Ok(_))) {
        warn!("the index is damaged: making a new one from the files");
        warnings.push("the index was damaged and was rebuilt from the files".to_owned());
        remove_folder(&path)?;
        opened = Ok(Index::open(&path));
    }
    let index = opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let is_what_was_left = was_clean && ended.is_some() && index.last_end()? == ended;
    let whole = is_what_was_left && warnings.is_empty() && !index.is_outdated()?;
    Ok((index, whole, warnings))
}

fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("cannot remove", path)(e)),
        _ => Ok(()),
    }
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
