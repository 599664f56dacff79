//! The ledger: what the registry knows beside content, and how that changes.
//!
//! Which manifests a repository has, what its tags name, which blobs may be read through it. Every change goes the
//! same way: somebody *decides* it, a pure function from the [`Index`] to a list of [`Change`]s, and the ledger makes
//! it durable and applies it to the index. Within one [`Scope`] nothing changes between a decision and what comes of
//! it; a decision may therefore be asked for again, with another state of the index.
//!
//! Where the truth lies is the ledger's own affair: in small files ([`files`]), or in a journal in a bucket that several
//! processes share ([`journal`]).

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use serde::{Deserialize, Serialize};
use slipway_image::Digest;

use crate::{
    error::Result,
    names::{Repository, Tag},
    registry::now,
    store::{Index, ManifestRecord, Names, Object, Origin, TagRecord, Waiting},
};

pub mod files;
pub mod journal;

/// One step of a change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Change {
    /// A repository has a manifest.
    SetManifest {
        /// Which.
        repository: Repository,
        /// What.
        digest: Digest,
        /// What is known of it.
        record: ManifestRecord,
        /// What it names.
        names: Names,
    },
    /// It has it no more.
    RemoveManifest {
        /// Which.
        repository: Repository,
        /// What.
        digest: Digest,
        /// What it named, where that is known.
        names: Option<Names>,
    },
    /// A tag names a manifest.
    SetTag {
        /// Of which repository.
        repository: Repository,
        /// Which.
        tag: Tag,
        /// What it names.
        record: TagRecord,
    },
    /// It names nothing.
    RemoveTag {
        /// Of which repository.
        repository: Repository,
        /// Which.
        tag: Tag,
    },
    /// A blob may be read through a repository.
    Link {
        /// Which.
        repository: Repository,
        /// What.
        digest: Digest,
        /// Whether it was put there, or the repository's upstream has it.
        #[serde(default, skip_serializing_if = "Origin::is_local")]
        origin: Origin,
    },
    /// It may no more.
    Unlink {
        /// Which.
        repository: Repository,
        /// What.
        digest: Digest,
    },
    /// It waits for no manifest: one that was there before names it.
    Held {
        /// Which.
        repository: Repository,
        /// What.
        digest: Digest,
    },
    /// A blob is not here any more: it may be read through no repository.
    Gone {
        /// What.
        digest: Digest,
    },
    /// An object is not what the blob is that it was: the blob is not here, and whoever named it needs it again.
    Broken {
        /// What.
        digest: Digest,
        /// Where it was.
        object: String,
    },
    /// No upstream is told of a repository.
    Own {
        /// Which.
        repository: Repository,
    },
    /// Upstream has it too.
    NotOwn {
        /// Which.
        repository: Repository,
    },
    /// A blob is in the bucket.
    Stored {
        /// What.
        digest: Digest,
        /// Where.
        object: Object,
    },
    /// Somebody counts on a blob for [`GRACE`](crate::leases::GRACE).
    Wait {
        /// What.
        digest: Digest,
        /// Who.
        who: Waiting,
        /// Since when, Unix milliseconds.
        since: u64,
    },
    /// All entries up to one are written down elsewhere.
    Checkpoint {
        /// Up to which.
        entry: u64,
        /// Bytes that it takes.
        size: u64,
    },
}

/// What a decision looks at and changes: two of the same scope are never made at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// A repository: its manifests and tags, and whether a blob that it has may go.
    Repository(Repository),
    /// Whether a blob is here, and that it may be read through a repository.
    Blob(Digest),
    /// Nothing that anybody decides on.
    Nothing,
}

/// Decides what is to change.
pub type Decide = Box<dyn FnMut(&Index) -> Result<Vec<Change>> + Send>;

/// Writes down that the index has all that the ledger says.
pub type Seal = Box<dyn FnOnce() -> Result<()> + Send>;

/// See the module's page.
pub trait Ledger: Send + Sync + 'static {
    /// The folder of its files, where it has them there.
    fn files(&self) -> Option<&Path> {
        None
    }

    /// Makes a decision and what comes of it; afterwards that survives a power cut.
    fn commit(&self, scope: Scope, decide: Decide) -> BoxFuture<'_, Result<()>>;

    /// Notes that a blob of a repository is about to be made durable, where that saves to wait for the disk once more
    /// when [`Change::Link`] is made of it.
    fn announce<'a>(
        &'a self,
        repository: &'a Repository,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<()>>;

    /// Brings the index to what everybody was told until now, whoever told it.
    fn refresh(&self) -> BoxFuture<'_, Result<()>> {
        std::future::ready(Ok(())).boxed()
    }

    /// Ends: `seal` is called once no change is being made. A change that comes afterwards is refused, or takes back
    /// first what the seal says.
    fn close(&self, seal: Seal) -> BoxFuture<'_, Result<()>>;

    /// The time that all who change the same go by, Unix milliseconds.
    fn now(&self) -> u64 {
        now()
    }

    /// Other processes change the same.
    fn is_shared(&self) -> bool {
        false
    }
}

/// As [`Ledger::commit`], for a decision that also has something to tell.
pub async fn commit<T: Send + 'static>(
    ledger: &dyn Ledger,
    scope: Scope,
    mut decide: impl FnMut(&Index) -> Result<(Vec<Change>, T)> + Send + 'static,
) -> Result<T> {
    let told = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&told);
    let decide = move |index: &Index| {
        let (changes, tells) = decide(index)?;
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(tells);
        Ok(changes)
    };
    ledger.commit(scope, Box::new(decide)).await?;
    let told = told.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok(told.expect("what was committed was decided"))
}
