//! Garbage collection: content that no manifest names and nobody is about to name leaves the disk.
//! It is online: nobody waits for it but who wants the very blob that goes ([`crate::leases`]).

use std::{sync::Arc, time::Duration};

use slipway_image::Digest;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    error::Result,
    ledger::{self, Change, Scope},
    registry::{Registry, now},
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
        let (named, since) = (
            digest.clone(),
            now().saturating_sub(self.leases.period().as_millis() as u64),
        );
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
        slipway_fault::point("registry.collect.deleted");
        self.forget(digest);
        self.index.clear_pending(digest)?;
        Ok(freed)
    }

    /// Looks at all that may be unneeded, once. Returns the bytes that became free.
    pub async fn sweep(self: &Arc<Self>) -> Result<u64> {
        self.ledger.refresh().await?;
        self.leases.expire();
        for (repository, digest) in self.index.waiting()? {
            // Nobody waits any more, and a manifest that was there before holds it.
            if !self.leases.is_promised(&digest, &repository)
                && self.index.is_held_in(&repository, &digest)?
            {
                let scope = Scope::Repository(repository.clone());
                let decide = move |index: &Index| {
                    let held = Change::Held {
                        repository: repository.clone(),
                        digest: digest.clone(),
                    };
                    let still = index.is_held_in(&repository, &digest)?;
                    Ok((still.then_some(held).into_iter().collect(), ()))
                };
                ledger::commit(&*self.ledger, scope, decide).await?;
            }
        }
        self.uploads.expire()?;
        self.mirror.expire()?;
        self.blobs.tidy().await?;
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
