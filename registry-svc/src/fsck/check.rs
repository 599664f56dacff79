//! A check of everything while the service runs: names, manifests, blobs. Without `repair` it only tells.
//!
//! One runs at a time, and reads no faster than it may, so that pushes and pulls have the disk. Blobs are looked at
//! in the order of their digests; how far it came is written down now and then (`report`), so one that was
//! cut off goes on from there. Each mending is one durable step that may be done again: `kill -9` between two loses
//! nothing.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use slipway_image::{Descriptor, Digest};
use tokio::sync::mpsc;

use super::{
    patience::Patience,
    report::{self, Report},
};
use crate::{
    error::{Error, Result},
    names::Repository,
    registry::Registry,
    store::Origin,
};

/// What is to be done.
#[derive(Debug, Clone, Copy, Default)]
pub struct CheckRequest {
    /// Moves aside what is broken, fetches it again where it came from an upstream, mends records.
    pub repair: bool,
    /// Begins anew where an earlier check was cut off.
    pub restart: bool,
    /// Bytes a second; `None` = as the settings say.
    pub rate: Option<u64>,
}

/// What kind of thing is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A blob is not what its digest says, or cannot be read.
    BrokenBlob,
    /// What a manifest names is not here.
    MissingBlob,
    /// A manifest is not here, or is none.
    Manifest,
    /// The index and the files say different things.
    Record,
    /// A file that nobody works on any more.
    LeftOver,
}

/// Something that is wrong, or was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What kind.
    pub kind: Kind,
    /// A digest, a name or a path.
    pub what: String,
    /// A sentence for people.
    pub text: String,
    /// All is well again.
    pub mended: bool,
    /// Names of the images that are damaged as long as it is not.
    pub damaged: Vec<String>,
}

/// News of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckEvent {
    /// A line for people.
    Status(String),
    /// Bytes of blobs.
    Progress {
        /// Looked at.
        checked: u64,
        /// All of them.
        total: u64,
    },
    /// Something is wrong.
    Found(Finding),
}

/// What came of a check.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Blobs that were looked at.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What was found.
    pub found: u64,
    /// What is still wrong of that.
    pub unmended: u64,
}

/// How often it is written down how far it came.
const WRITE: Duration = Duration::from_secs(10);

/// A check that runs.
pub(super) struct Check<'a> {
    pub registry: &'a Arc<Registry>,
    pub repair: bool,
    pub rate: u64,
    pub report: Report,
    pub patience: Patience,
    /// What was found missing already.
    pub missing: HashSet<Digest>,
    events: &'a mpsc::Sender<CheckEvent>,
    summary: Summary,
    written: Instant,
}

impl Registry {
    /// Checks everything, and mends what it may. Dropped, it stops; the next one goes on.
    pub async fn check(
        self: &Arc<Self>,
        request: CheckRequest,
        events: &mpsc::Sender<CheckEvent>,
    ) -> Result<Summary> {
        let Ok(_turn) = self.checking.try_lock() else {
            return Err(Error::Conflict(
                "a check of the store is running: wait for it, or stop it".to_owned(),
            ));
        };
        self.ledger.refresh().await?;
        let path = report::path(&self.root);
        let (report, before) = match request.restart {
            true => (Report::begin(path, request.repair), Vec::new()),
            false => Report::open(path, request.repair).await?,
        };
        let mut check = Check {
            registry: self,
            repair: request.repair,
            rate: request.rate.unwrap_or(self.fsck_rate),
            report,
            patience: Patience::with(&*self.ledger),
            missing: HashSet::new(),
            events,
            summary: Summary::default(),
            written: Instant::now(),
        };
        if check.report.so_far.after.is_some() {
            let line = format!("going on after {} blobs", check.report.so_far.blobs);
            check.tell(CheckEvent::Status(line)).await?;
            for finding in before {
                check.count(&finding);
                check.tell(CheckEvent::Found(finding)).await?;
            }
        }
        check.left_overs().await?;
        check.names().await?;
        check.blobs().await?;
        check.summary.blobs = check.report.so_far.blobs;
        check.summary.bytes = check.report.so_far.bytes;
        let Check {
            report, summary, ..
        } = check;
        report.remove().await?;
        Ok(summary)
    }

    /// Fetches content again that came from an upstream; false when it did not.
    pub(super) async fn fetch_again(self: &Arc<Self>, digest: &Digest) -> Result<bool> {
        for (repository, manifest) in self.index.holders(digest)? {
            let record = self.index.manifest(&repository, &manifest)?;
            let Some(record) = record.filter(|r| r.origin == Origin::Upstream) else {
                continue;
            };
            if manifest == *digest {
                let wanted = Descriptor::new(record.media_type, manifest, record.size);
                self.find_child(&repository, &wanted, None).await?;
                return Ok(true);
            }
        }
        let Some(repository) = self.index.holders(digest)?.into_iter().next() else {
            return Ok(false);
        };
        let Some((source, size)) = self.source_of(&repository.0, digest).await? else {
            return Ok(false);
        };
        if let Some(flight) = self.fetch_blob(&source, digest, size, None).await? {
            flight.done().await?;
        }
        Ok(self.blobs.stat(digest).await?.is_some())
    }

    /// Names of the images that a blob or manifest is part of.
    pub(super) fn names_with(&self, digest: &Digest) -> Result<Vec<String>> {
        let mut names = BTreeSet::new();
        let (mut left, mut seen) = (vec![(None::<Repository>, digest.clone())], HashSet::new());
        while let Some((within, digest)) = left.pop() {
            for (repository, manifest) in self.index.holders(&digest)? {
                let elsewhere = within.as_ref().is_some_and(|within| *within != repository);
                if elsewhere || !seen.insert((repository.clone(), manifest.clone())) {
                    continue;
                }
                let tags = self.index.tags_naming(&repository, &manifest)?;
                let name = repository.familiar();
                names.extend(tags.iter().map(|tag| format!("{name}:{tag}")));
                let parents = self.index.holders(&manifest)?;
                let top = parents
                    .iter()
                    .all(|(r, m)| *r != repository || *m == manifest);
                if tags.is_empty() && top {
                    names.insert(format!("{name}@{manifest}"));
                }
                left.push((Some(repository), manifest));
            }
        }
        Ok(names.into_iter().collect())
    }
}

impl Check<'_> {
    /// Tells of something that is wrong.
    pub async fn found(
        &mut self,
        kind: Kind,
        what: impl ToString,
        text: impl Into<String>,
        mended: bool,
        damaged: Vec<String>,
    ) -> Result<Finding> {
        let finding = Finding {
            kind,
            what: what.to_string(),
            text: text.into(),
            mended,
            damaged,
        };
        self.count(&finding);
        self.tell(CheckEvent::Found(finding.clone())).await?;
        Ok(finding)
    }

    fn count(&mut self, finding: &Finding) {
        self.summary.found += 1;
        self.summary.unmended += u64::from(!finding.mended);
    }

    pub async fn tell(&self, event: CheckEvent) -> Result<()> {
        let gone = |_| Error::Interrupted("nobody waits for the check any more".to_owned());
        self.events.send(event).await.map_err(gone)
    }

    /// A blob was looked at: with a finding it is written down at once, else now and then.
    pub async fn checked(
        &mut self,
        digest: &Digest,
        size: u64,
        found: Option<Finding>,
    ) -> Result<()> {
        let so_far = &mut self.report.so_far;
        so_far.after = Some(digest.clone());
        so_far.blobs += 1;
        so_far.bytes += size;
        if found.is_none() && self.written.elapsed() < WRITE {
            return Ok(());
        }
        self.report.write(found).await?;
        slipway_fault::point("registry.aside.reported");
        self.written = Instant::now();
        Ok(())
    }
}
