//! Blobs: fetched from upstream when somebody wants one, and read while they arrive.

use std::{sync::Arc, time::Instant};

use futures_util::future::BoxFuture;
use slipway_image::Digest;

use super::{Credentials, Flight, has_upstream, transfer::Plan};
use crate::{
    blobs::{BlobReader, Range},
    error::{Error, Result},
    names::{ImageName, Pointer, Repository},
    registry::Registry,
    store::Origin,
};

impl Registry {
    /// The transfer of a blob that some manifest of a mirrored repository names; `None` when it is
    /// here already.
    pub async fn fetch_blob(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        size: Option<u64>,
        credentials: Option<&Credentials>,
    ) -> Result<Option<Arc<Flight>>> {
        let since = Instant::now();
        let lease = self.leases.hold(digest).await;
        if self.blobs.stat(digest).await?.is_some() {
            self.keep_for_now(digest)?;
            self.prove(repository, digest, credentials).await?;
            return Ok(None);
        }
        if !has_upstream(repository) {
            return Err(Error::BlobNotFound(digest.clone()));
        }
        let client = self
            .mirror
            .client(repository.host(), credentials.cloned())?;
        let plan = Plan {
            digest: digest.clone(),
            size,
            repository: repository.clone(),
            client,
            since,
            partial: self.mirror.incoming.path(repository, digest),
            incoming: Arc::clone(&self.mirror.incoming),
            blobs: Arc::clone(&self.blobs),
        };
        let registry = Arc::clone(self);
        let (repo, named) = (repository.clone(), digest.clone());
        let ended = move |outcome| {
            registry.mirror.rests.note_blob(repo.host(), &outcome);
            Box::pin(async move {
                outcome?;
                registry.arrived(&repo, &named).await?;
                drop(lease);
                Ok(())
            }) as BoxFuture<'static, Result<()>>
        };
        let registry = Arc::clone(self);
        let (repo, named) = (repository.clone(), digest.clone());
        let here = async move {
            // What came for others only is for its upstream to show.
            match registry.index.is_linked(&repo, &named)? {
                true => registry.blobs.stat(&named).await,
                false => Ok(None),
            }
        };
        Ok(Some(self.mirror.flights.join(plan, here, ended)))
    }

    /// Opens a blob as whoever may read through a repository, and nothing else, may read it: from here, or from
    /// upstream while it arrives. What only a mirrored manifest names is read when that upstream has it.
    pub async fn open_blob_through(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        range: Range,
    ) -> Result<BlobReader> {
        loop {
            if self.may_read(repository, digest).await? {
                return self.open_blob(repository, digest, range).await;
            }
            let Some((source, size)) = self.source_of(repository, digest).await? else {
                return Err(Error::BlobNotFound(digest.clone()));
            };
            if source != *repository {
                return Err(Error::BlobNotFound(digest.clone()));
            }
            let Some(flight) = self.begin(repository, digest, size).await? else {
                continue;
            };
            let read = self.read_along(flight, digest, range).await;
            return read.map_err(|e| e.of_upstream(repository.host()));
        }
    }

    /// Opens a blob for another service of this site, which is trusted with all there is, and acts for whoever wrote a
    /// manifest: what nothing but such a name says to be the repository's, its upstream must show that it has.
    pub async fn open_blob_for(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        range: Range,
    ) -> Result<BlobReader> {
        match self.index.is_held_in(repository, digest)? {
            true => self.open_blob_through(repository, digest, range).await,
            // The service's own word: a container outlives the name of its image.
            false => self.open_blob(repository, digest, range).await,
        }
    }

    /// Opens a blob whoever named it: from here, or from upstream while it arrives.
    pub async fn open_blob(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        range: Range,
    ) -> Result<BlobReader> {
        match self.blobs.read(digest, range).await {
            Err(Error::BlobNotFound(_)) => {}
            Err(Error::Damaged { .. }) => drop(self.broken(digest).await?),
            other => return other,
        }
        // Only what a manifest of that repository names: a client cannot make us ask for anything else.
        let Some((repository, size)) = self.source_of(repository, digest).await? else {
            return Err(Error::BlobNotFound(digest.clone()));
        };
        let Some(flight) = self.begin(&repository, digest, size).await? else {
            return self.blobs.read(digest, range).await;
        };
        let read = self.read_along(flight, digest, range).await;
        read.map_err(|e| e.of_upstream(repository.host()))
    }

    /// As [`Self::fetch_blob`], unless the upstream is to be left in peace.
    async fn begin(
        self: &Arc<Self>,
        repository: &Repository,
        digest: &Digest,
        size: Option<u64>,
    ) -> Result<Option<Arc<Flight>>> {
        if !self.mirror.flights.is_going(repository, digest) {
            self.not_at_rest(repository)?;
        }
        self.fetch_blob(repository, digest, size, None).await
    }

    async fn read_along(
        &self,
        flight: Arc<Flight>,
        digest: &Digest,
        range: Range,
    ) -> Result<BlobReader> {
        match Arc::clone(&flight).read(range).await {
            // It arrived between two steps and has its final name now.
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                flight.done().await?;
                self.blobs.read(digest, range).await
            }
            other => other,
        }
    }

    /// From which repository a blob that is not here can be fetched, and its size: the given one when
    /// a manifest of it names the blob, else any other with an upstream that does.
    pub async fn source_of(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<(Repository, Option<u64>)>> {
        let mut holders = self.index.holders(digest)?;
        holders.sort_by_key(|(r, _)| r != repository);
        for (holder, manifest) in holders {
            let record = self.index.manifest(&holder, &manifest)?;
            if !has_upstream(&holder) || record.is_none_or(|r| r.origin != Origin::Upstream) {
                continue;
            }
            let name = ImageName {
                repository: holder.clone(),
                pointer: Pointer::Digest(manifest),
            };
            let Some(stored) = self.stored(&name).await? else {
                continue;
            };
            let size = stored
                .parse()?
                .references()
                .iter()
                .find(|d| d.digest == *digest)
                .map(|d| d.size);
            return Ok(Some((holder, size)));
        }
        Ok(None)
    }
}
