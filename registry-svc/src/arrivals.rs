//! How content that came in becomes a blob of a repository, and stays until the manifest that names it comes.

use std::{future::Future, sync::Arc};

use slipway_image::Digest;

use crate::{
    blobs::{Verified, assembly::Assembled},
    error::{Error, Result},
    ledger::{self, Change, Scope},
    names::Repository,
    registry::Registry,
    store::{Index, Origin, Waiting},
    work::to_its_end,
};

impl Registry {
    /// Makes content a blob that may be read through a repository: afterwards it survives a power cut. False when
    /// it was here already.
    pub async fn admit(
        self: &Arc<Self>,
        repository: &Repository,
        verified: Verified,
    ) -> Result<bool> {
        let blobs = Arc::clone(&self.blobs);
        let digest = verified.digest().clone();
        let adopting = async move { blobs.adopt(verified).await };
        self.admitted(repository, digest, adopting).await
    }

    /// The same for content of which the store has parts.
    pub async fn admit_parts(
        self: &Arc<Self>,
        repository: &Repository,
        assembled: Assembled,
    ) -> Result<bool> {
        let blobs = Arc::clone(&self.blobs);
        let digest = assembled.digest.clone();
        let composing = async move { blobs.compose(assembled).await };
        self.admitted(repository, digest, composing).await
    }

    async fn admitted(
        self: &Arc<Self>,
        repository: &Repository,
        digest: Digest,
        storing: impl Future<Output = Result<bool>> + Send + 'static,
    ) -> Result<bool> {
        let (registry, repository) = (Arc::clone(self), repository.clone());
        to_its_end(async move {
            let _lease = registry.leases.hold(&digest).await;
            // First, so that the sweep knows of it whatever comes.
            registry.index.set_pending(&digest)?;
            registry.ledger.announce(&repository, &digest).await?;
            slipway_fault::point("registry.upload.linked");
            let new = storing.await?;
            registry.index.touch(&digest);
            if !new || !registry.index.is_linked(&repository, &digest)? {
                // Nothing was synced that came after it was announced.
                registry.link(&repository, &digest).await?;
            }
            slipway_fault::point("registry.upload.stored");
            registry.leases.grace(&digest, Some(&repository));
            Ok(new)
        })
        .await
    }

    /// Lets a blob that is here be read through another repository too. The caller holds a lease.
    pub async fn share(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        self.index.set_pending(digest)?;
        self.link(repository, digest).await?;
        slipway_fault::point("registry.mount.linked");
        self.leases.grace(digest, Some(repository));
        Ok(())
    }

    /// A blob that a manifest of the repository names came from its upstream, or that one has it, too.
    pub async fn arrived(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        self.keep_for_now(digest)?;
        match self.index.is_linked(repository, digest)? {
            true => Ok(()),
            false => self.link_as(repository, digest, Origin::Upstream).await,
        }
    }

    /// The sweep looks at a blob that somebody wanted and that nothing names any more.
    pub(crate) fn keep_for_now(&self, digest: &Digest) -> Result<()> {
        if !self.index.is_held(digest)? {
            self.index.set_pending(digest)?;
        }
        self.index.touch(digest);
        Ok(())
    }

    /// Lets a blob be read through a repository: it may be, also after a power cut.
    async fn link(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        self.link_as(repository, digest, Origin::Local).await
    }

    async fn link_as(
        &self,
        repository: &Repository,
        digest: &Digest,
        origin: Origin,
    ) -> Result<()> {
        let link = Change::Link {
            repository: repository.clone(),
            digest: digest.clone(),
            origin,
        };
        let wait = Change::Wait {
            digest: digest.clone(),
            who: Waiting::Repository(repository.clone()),
            since: self.ledger.now(),
        };
        let (shared, named) = (self.ledger.is_shared(), digest.clone());
        let decide = move |index: &Index| match shared {
            // Another process may have removed it.
            true if index.object(&named)?.is_none() => Err(Error::BlobNotFound(named.clone())),
            true => Ok((vec![link.clone(), wait.clone()], ())),
            false => Ok((vec![link.clone()], ())),
        };
        let scope = Scope::Blob(digest.clone());
        ledger::commit(&*self.ledger, scope, decide).await
    }

    /// A client is told that a manifest is here: no index that goes takes it along until he may have pushed one that
    /// names it. Its content needs no promise, it holds that itself.
    pub(crate) async fn promise_manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<()> {
        let _lease = self.leases.hold(digest).await;
        self.promise(digest, Some(repository)).await
    }

    /// A client is told that a blob is here: it stays until he may have pushed the manifest that names it. The caller
    /// holds a lease.
    pub(crate) async fn promise(
        &self,
        digest: &Digest,
        repository: Option<&Repository>,
    ) -> Result<()> {
        self.leases.grace(digest, repository);
        if !self.ledger.is_shared() {
            return Ok(());
        }
        let who = repository.map_or(Waiting::Anybody, |r| Waiting::Repository(r.clone()));
        let now = self.ledger.now();
        let enough = now.saturating_sub(self.leases.period().as_millis() as u64 / 3);
        let told = self.index.promised_since(digest, &who)?;
        if told.is_some_and(|since| since >= enough) {
            return Ok(());
        }
        let wait = Change::Wait {
            digest: digest.clone(),
            who,
            since: now,
        };
        let scope = Scope::Blob(digest.clone());
        let decide = move |_: &Index| Ok((vec![wait.clone()], ()));
        ledger::commit(&*self.ledger, scope, decide).await
    }
}
