//! Garbage collection: content that no manifest names and nobody is about to name leaves the disk.
//! It is online: nobody waits for it but who wants the very blob that goes ([`crate::leases`]).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use slipway_image::Digest;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    error::Result,
    ledger::{self, Change, Scope},
    names::Repository,
    registry::Registry,
    store::Index,
    work::to_its_end,
};

/// How often content that was never named, or was leased when it lost its last holder, is looked at.
const SWEEP: Duration = Duration::from_secs(60);

impl Registry {
    /// Takes away what of this is not needed any more; the rest of it that only a lease holds is
    /// looked at again by the sweep, as is what cannot be removed now. Returns the bytes that became free.
    pub async fn release(self: &Arc<Self>, digests: Vec<Digest>) -> Result<u64> {
        let registry = Arc::clone(self);
        to_its_end(async move {
            for digest in &digests {
                registry.index.set_pending(digest)?;
            }
            if registry.index.is_damaged()? {
                // What the unreadable manifests name, nobody knows.
                return Ok(0);
            }
            let mut freed = 0;
            for digest in &digests {
                match registry.collect(digest).await {
                    Ok(bytes) => freed += bytes,
                    Err(error) => warn!(%digest, %error, "cannot remove unneeded content"),
                }
            }
            Ok(freed)
        })
        .await
    }

    async fn collect(&self, digest: &Digest) -> Result<u64> {
        let Some(_doomed) = self.leases.doom(digest) else {
            return Ok(0);
        };
        if self.index.is_held(digest)? {
            self.index.clear_pending(digest)?;
            return Ok(0);
        }
        let period = self.leases.period().as_millis() as u64;
        let (named, since) = (digest.clone(), self.ledger.now().saturating_sub(period));
        if self.index.is_promised(&named, since)? {
            return Ok(0);
        }
        let decide = move |index: &Index| {
            let digest = named.clone();
            // What others did meanwhile counts.
            match index.is_held(&digest)? || index.is_promised(&digest, since)? {
                true => Ok((Vec::new(), false)),
                false => Ok((vec![Change::Gone { digest }], true)),
            }
        };
        let scope = Scope::Blob(digest.clone());
        if !ledger::commit(&*self.ledger, scope, decide).await? {
            return Ok(0);
        }
        let freed = self.blobs.delete(digest).await?;
        self.index.touch(digest);
        slipway_fault::point("registry.collect.deleted");
        self.forget(digest);
        // Unless another process stored it anew: then it is looked at again.
        if self.index.object(digest)?.is_none() {
            self.index.clear_pending(digest)?;
        }
        Ok(freed)
    }

    /// Nobody waits for a manifest of the repository that names this any more: one that was there before does, or it is
    /// not to be read through it.
    async fn end_waiting(&self, repository: Repository, digest: Digest) -> Result<()> {
        let Some(_doomed) = self.leases.doom(&digest) else {
            return Ok(());
        };
        let scope = Scope::Repository(repository.clone());
        let decide = move |index: &Index| {
            let (repository, digest) = (repository.clone(), digest.clone());
            let change = if index.is_held_in(&repository, &digest)? {
                Some(Change::Held { repository, digest })
            } else if index.is_held(&digest)? {
                Some(Change::Unlink { repository, digest })
            } else {
                // It goes from everywhere.
                None
            };
            Ok((change.into_iter().collect(), ()))
        };
        ledger::commit(&*self.ledger, scope, decide).await
    }

    /// Who uploads one layer still needs those that he uploaded before, however long it takes.
    async fn renew_for_uploads(&self) -> Result<()> {
        let active = self.uploads.active(self.leases.period())?;
        for digest in self.index.pending()? {
            if self.index.is_held(&digest)? {
                continue;
            }
            for repository in self.index.linked_in(&digest).collect::<Result<Vec<_>>>()? {
                if active.has(&repository) {
                    let _lease = self.leases.hold(&digest).await;
                    self.promise(&digest, Some(&repository)).await?;
                }
            }
        }
        Ok(())
    }

    /// Looks at all that may be unneeded, once. Returns the bytes that became free.
    pub async fn sweep(self: &Arc<Self>) -> Result<u64> {
        self.ledger.refresh().await?;
        self.leases.expire();
        for (repository, digest) in self.index.waiting()? {
            if !self.leases.is_promised(&digest, &repository) {
                self.end_waiting(repository, digest).await?;
            }
        }
        // What cannot be cleared up now keeps nothing else from being so.
        let expired = self.uploads.expire();
        // Whose upload goes on keeps what he was told of: without that nothing is collected.
        let renewed = self.renew_for_uploads().await;
        let cleared = [expired, self.mirror.expire(), self.blobs.tidy().await];
        for error in cleared.into_iter().filter_map(Result::err) {
            warn!(%error, "cannot clear up");
        }
        renewed?;
        self.release(self.index.pending()?).await
    }

    /// Sweeps until the service stops.
    pub async fn sweep_until(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(SWEEP);
        ticks.tick().await;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            match self.sweep().await {
                Ok(0) => {}
                Ok(bytes) => info!(bytes, "unneeded content removed"),
                Err(error) => warn!(%error, "cannot remove unneeded content"),
            }
        }
    }
}

/// What a sweep took, or would take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs.
    pub blobs: u64,
    /// Bytes on disk.
    pub freed: u64,
    /// Blobs that nothing names, but somebody has in hand or may be about to name.
    pub held: u64,
    /// Why nothing is collected now.
    pub refused: Option<&'static str>,
}

impl Registry {
    /// Looks at all that may be unneeded, by hand: with `dry_run` it only says what would go.
    pub async fn collect_garbage(self: &Arc<Self>, dry_run: bool) -> Result<Collected> {
        let mut collected = Collected::default();
        if self.index.is_damaged()? {
            collected.refused = Some(
                "some manifests cannot be read, so nobody knows what they name: see ctl registry fsck",
            );
            return Ok(collected);
        }
        let mut unneeded = HashSet::new();
        self.leases.expire();
        for digest in self.index.pending()? {
            if self.index.is_held(&digest)? {
                continue;
            }
            match self.leases.is_needed(&digest) {
                true => collected.held += 1,
                false => drop(unneeded.insert(digest)),
            }
        }
        let mut in_parts = false;
        for digest in &unneeded {
            // Taken meanwhile.
            let Some(blob) = self.blobs.info(digest).await? else {
                continue;
            };
            collected.blobs += 1;
            collected.freed += blob.disk;
            in_parts |= !blob.parts.is_empty();
        }
        if in_parts {
            collected.freed += self.parts_with_none_but(&unneeded).await?;
        }
        if !dry_run {
            collected.freed = self.sweep().await?;
        }
        Ok(collected)
    }

    /// Bytes of the parts that none but these blobs have.
    async fn parts_with_none_but(&self, going: &HashSet<Digest>) -> Result<u64> {
        let mut parts: HashMap<Digest, (u64, bool)> = HashMap::new();
        for blob in self.blobs.list().await? {
            let goes = going.contains(&blob.digest);
            for (part, disk) in blob.parts {
                parts.entry(part).or_insert((disk, true)).1 &= goes;
            }
        }
        let gone = parts.values().filter(|(_, goes)| *goes);
        Ok(gone.map(|(disk, _)| disk).sum())
    }
}
