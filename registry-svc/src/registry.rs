//! The registry: blobs, manifests, tags, uploads and the mirror as one value, opened once.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use slipway_egress::Guard;
use slipway_image::Digest;
use tracing::warn;

use crate::{
    blobs::{
        BlobStore,
        staging::{blocking, digest_of},
    },
    cache::Cache,
    config::Config,
    error::{Error, Result},
    events::Events,
    files, fsck,
    images::import,
    large::{LARGE, Large},
    leases::Leases,
    ledger::{self, Change, Ledger, Scope},
    mirror::{Mirror, Ours},
    names::{OwnNames, Repository},
    opening::{self, Opened},
    retention::{Rules, Uses},
    store::Index,
    uploads::Uploads,
    usage::Account,
};

/// Bytes of manifests and configs kept in memory.
const CACHE_SIZE: usize = 2 * 1024 * 1024;

/// See the module's page.
pub struct Registry {
    /// Content.
    pub blobs: Arc<dyn BlobStore>,
    /// Index in front of the files.
    pub index: Arc<Index>,
    /// How what the index knows changes.
    pub ledger: Arc<dyn Ledger>,
    /// Upload sessions.
    pub uploads: Arc<Uploads>,
    /// Content in use by work in progress.
    pub leases: Arc<Leases>,
    /// When manifests were used last.
    pub uses: Arc<Uses>,
    /// Which hosts are this registry.
    pub own: OwnNames,
    /// Upstreams.
    pub mirror: Mirror,
    /// Repositories of this site itself.
    pub ours: Arc<Ours>,
    /// What happened.
    pub events: Events,
    /// Turns for large manifests.
    pub large: Large,
    /// Found at start-up; shown by `ctl info`.
    pub warnings: Vec<String>,
    /// What is taken away because nobody needs it any more.
    pub(crate) rules: Arc<Rules>,
    /// Who applies them.
    pub(crate) retaining: tokio::sync::Mutex<()>,
    /// What each repository takes, since somebody asked.
    pub(crate) account: tokio::sync::Mutex<Option<Account>>,
    /// Who checks the store.
    pub(crate) checking: tokio::sync::Mutex<()>,
    /// Bytes a second that a check reads.
    pub(crate) fsck_rate: u64,
    /// Where archives may be imported from.
    pub(crate) fetch_guard: Guard,
    pub(crate) staging: PathBuf,
    pub(crate) root: PathBuf,
    cache: Cache,
    /// Nobody else works on the folder.
    _lock: File,
}

impl Registry {
    /// Opens the registry below `root`, and mends its index if it must.
    pub async fn open(root: &Path, config: Config) -> Result<Arc<Self>> {
        let lock = files::lock(&root.join("lock"))
            .map_err(Error::io("cannot lock", root.join("lock")))?
            .ok_or_else(|| {
                let root = root.display();
                Error::Conflict(format!(
                    "another registry-svc works on {root}: stop it, or give this one another state folder"
                ))
            })?;
        let staging = root.join("tmp");
        let partial = root.join("partial");
        let upload_files = root.join("uploads");
        for folder in [&staging, &partial, &upload_files] {
            files::create_folders(folder).map_err(Error::io("cannot make", folder))?;
        }
        let Opened {
            blobs,
            index,
            ledger,
            ours,
            warnings,
        } = match &config.bucket {
            Some(bucket) => opening::bucket(root, bucket).await?,
            None => opening::folder(root).await?,
        };
        fsck::remove_left_overs(&staging)?;
        let leases = Arc::new(Leases::new(config.grace));
        // Who was told before this start that content is here may still be about to name it.
        for digest in index.pending()? {
            leases.grace(&digest, None);
        }
        for (repository, digest) in index.waiting()? {
            leases.grace(&digest, Some(&repository));
        }
        Ok(Arc::new(Self {
            ledger,
            uploads: Arc::new(Uploads::new(upload_files, config.uploads)),
            leases,
            uses: Arc::new(Uses::new(Arc::clone(&index))),
            rules: Arc::new(config.retention),
            retaining: tokio::sync::Mutex::default(),
            account: tokio::sync::Mutex::default(),
            checking: tokio::sync::Mutex::default(),
            fsck_rate: config.fsck_rate,
            fetch_guard: import::guard(config.fetch_allow),
            own: config.own,
            ours: Arc::new(ours),
            mirror: Mirror::new(config.upstreams, partial, config.mirror),
            events: Events::default(),
            large: Large::default(),
            warnings,
            staging,
            root: root.to_owned(),
            cache: Cache::new(CACHE_SIZE),
            _lock: lock,
            blobs,
            index,
        }))
    }

    /// Writes the index out and says so, so that the next start need not rebuild it.
    pub async fn close(&self) -> Result<()> {
        let index = Arc::clone(&self.index);
        let root = self.root.clone();
        let uses = Arc::clone(&self.uses);
        blocking(move || uses.write(true)).await?;
        let seal = Box::new(move || fsck::mark_clean(&index, &root));
        self.ledger.close(seal).await
    }

    /// Content of a manifest or config, from memory where it is.
    pub async fn small_blob(&self, digest: &Digest) -> Result<Bytes> {
        if let Some(content) = self.cache.get(digest) {
            return Ok(content);
        }
        let limit = slipway_image::manifest::MAX_SIZE as u64;
        let content = match self.blobs.read_small(digest, limit).await {
            Err(Error::Damaged { .. }) => return Err(self.broken(digest).await?),
            content => content?,
        };
        let (read, like) = (content.clone(), digest.clone());
        let actual = match content.len() > LARGE {
            true => blocking(move || Ok(digest_of(&read, Some(&like)))).await?,
            false => digest_of(&content, Some(digest)),
        };
        match actual == *digest {
            true => {
                self.cache.put(digest, &content);
                Ok(content)
            }
            false => Err(self.broken(digest).await?),
        }
    }

    /// A blob turned out to be broken: it is not here from now on, so that it is pulled or pushed again.
    pub(crate) async fn broken(&self, digest: &Digest) -> Result<Error> {
        if self.set_aside(digest).await? {
            warn!(%digest, "a broken blob was moved aside");
        }
        Ok(Error::BlobNotFound(digest.clone()))
    }

    /// As [`Self::small_blob`], but only what is in memory.
    pub fn cached(&self, digest: &Digest) -> Option<Bytes> {
        self.cache.get(digest)
    }

    pub(crate) fn forget(&self, digest: &Digest) {
        self.cache.remove(digest);
    }

    /// Changes a repository as is decided; nobody else changes it meanwhile. A decision may be asked for again.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        repository: &Repository,
        decide: impl FnMut(&Index) -> Result<(Vec<Change>, T)> + Send + 'static,
    ) -> Result<T> {
        let scope = Scope::Repository(repository.clone());
        ledger::commit(&*self.ledger, scope, decide).await
    }
}

/// Unix milliseconds.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as u64)
}
