//! What a registry works on: a folder, or a bucket that it shares with others and what it keeps of that in a folder.

use std::{path::Path, sync::Arc};

use tracing::info;

use crate::{
    blobs::{BlobStore, FsStore, s3::S3Store},
    bucket::{Bucket, BucketConfig},
    error::{Error, Result},
    files, fsck,
    ledger::{Ledger, files::FileLedger, journal::Journal},
    mirror::{Ours, OwnFiles},
    store::Index,
};

/// Content, and what is known of it.
pub struct Opened {
    /// Content.
    pub blobs: Arc<dyn BlobStore>,
    /// What is known.
    pub index: Arc<Index>,
    /// How that changes.
    pub ledger: Arc<dyn Ledger>,
    /// Repositories of this site itself.
    pub ours: Ours,
    /// What people should know.
    pub warnings: Vec<String>,
}

/// Everything is in a folder.
pub async fn folder(root: &Path) -> Result<Opened> {
    let repositories = root.join("repositories");
    files::create_folders(&repositories).map_err(Error::io("cannot make", &repositories))?;
    let blobs: Arc<dyn BlobStore> = Arc::new(FsStore::open(root.join("blobs"))?);
    let (index, warnings) = fsck::open_index(root, &repositories, &*blobs).await?;
    let own = OwnFiles::new(root.join("ours"));
    Ok(Opened {
        blobs,
        ledger: Arc::new(FileLedger::new(
            repositories,
            own.clone(),
            Arc::clone(&index),
        )),
        ours: Ours::Files(own),
        index,
        warnings,
    })
}

/// Everything is in a bucket; the folder has nothing that could not be thrown away while nobody pushes.
pub async fn bucket(root: &Path, config: &BucketConfig) -> Result<Opened> {
    let folder = root.join("bucket");
    let halves = folder.join("halves");
    files::create_folders(&halves).map_err(Error::io("cannot make", &halves))?;
    let bucket = Arc::new(Bucket::new(config)?);
    let id = bucket.claim().await?;
    bucket.forget_halves(&halves).await?;
    let (index, whole, mut warnings) = fsck::open(root)?;
    if !whole || index.bucket()?.as_ref() != Some(&id) {
        index.begin_again(&id)?;
        index.set_current()?;
        // It is made anew in any case: nothing is lost but time.
        warnings.clear();
        info!("the index is made anew from the bucket");
    }
    let index = Arc::new(index);
    let journal = Journal::open(Arc::clone(&bucket), Arc::clone(&index), folder.clone()).await?;
    let ledger: Arc<dyn Ledger> = Arc::new(journal);
    let blobs = S3Store::open(
        bucket,
        Arc::clone(&ledger),
        Arc::clone(&index),
        &folder,
        config.redirect,
    )?;
    Ok(Opened {
        blobs: Arc::new(blobs),
        ours: Ours::Index(Arc::clone(&index)),
        index,
        ledger,
        warnings,
    })
}
