//! Whether an upstream has what its manifests name.
//!
//! Content is stored once for all repositories, and a manifest may name any digest. So an upstream that knows the digest
//! of somebody's private blob could have it read through a repository of its own. What is here and did not come for a
//! repository is therefore read through that one only after its upstream has sent pieces of it that nobody can guess;
//! that it did is remembered ([`crate::links`]), and nobody is asked again.

use std::{
    collections::HashMap,
    io::ErrorKind::NotFound,
    ops::RangeInclusive,
    sync::{Arc, Mutex},
};

use bytes::{Buf as _, Bytes};
use futures_util::StreamExt as _;
use slipway_image::{Algorithm, Digest};
use tracing::warn;

use super::{Client, Credentials, has_upstream, lock};
use crate::{
    blobs::{Range, staging::blocking},
    error::{Error, Result},
    files,
    links::MIRRORED,
    names::Repository,
    registry::Registry,
};

/// Bytes of a piece. A blob that has no more is compared as a whole.
const PIECE: u64 = 16 << 10;

/// Pieces of a larger one. Who has a part of it only would have to be lucky as often.
const PIECES: usize = 4;

/// Different bytes that a piece must have, or anybody could guess it: long runs of zeros are common.
const VARIETY: usize = 16;

/// How often a piece of variety is looked for before the whole is compared.
const LOOKS: usize = 16;

/// Who is asking for a proof; whoever wants the same waits for the answer.
pub type Proving = Mutex<HashMap<(Repository, Digest), Arc<tokio::sync::Mutex<()>>>>;

impl Registry {
    /// A blob was pushed to the repository, or a manifest of it names it.
    pub fn is_visible(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        Ok(self.index.is_linked(repository, digest)?
            || self.index.is_held_in(repository, digest)?)
    }

    /// Whether a blob of a repository may be read through it from here: if only a mirrored manifest names it, its
    /// upstream is asked. False: it is not here, and that manifest promises that it can be fetched.
    pub async fn may_read(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        if self.index.is_linked(repository, digest)? {
            return Ok(true);
        }
        if !self.is_visible(repository, digest)? || !self.can_prove(repository) {
            return Err(Error::BlobNotFound(digest.clone()));
        }
        let _lease = self.leases.hold(digest).await;
        if self.blobs.stat(digest).await?.is_none() {
            return Ok(false);
        }
        self.not_at_rest(repository)?;
        self.prove(repository, digest, None).await?;
        Ok(true)
    }

    /// Somebody can be asked whether he has what only a manifest of the repository names.
    fn can_prove(&self, repository: &Repository) -> bool {
        has_upstream(repository) && !self.ours.has(repository)
    }

    /// Whoever is told that an image was pulled has it after a power cut, too: what its upstream was seen to have is
    /// still known then. Once for all blobs.
    pub(crate) async fn keep_proofs(&self, repository: &Repository) -> Result<()> {
        let Some(root) = self.ledger.files() else {
            return Ok(());
        };
        let own = root.join(repository.as_str());
        let mirrored = own.join(MIRRORED);
        let [short, long] =
            [Algorithm::Sha256, Algorithm::Sha512].map(|a| mirrored.join(a.as_str()));
        blocking(move || {
            for folder in [short, long, mirrored, own] {
                match files::sync_folder(&folder) {
                    Err(e) if e.kind() == NotFound => {}
                    synced => synced.map_err(Error::io("cannot sync", &folder))?,
                }
            }
            Ok(())
        })
        .await
    }

    /// The upstream did not ask to be left in peace.
    pub(super) fn not_at_rest(&self, repository: &Repository) -> Result<()> {
        let host = repository.host();
        let Some(error) = self.mirror.rests.blobs(host) else {
            return Ok(());
        };
        let label = self.mirror.upstreams.label(host);
        self.mirror.counts().put_off(&label);
        Err(error)
    }

    /// Lets a blob that is here be read through a mirrored repository, when the upstream of that shows that it has it.
    /// The caller holds a lease.
    ///
    /// # Errors
    ///
    /// `BlobNotFound`: it has not.
    pub(super) async fn prove(
        &self,
        repository: &Repository,
        digest: &Digest,
        credentials: Option<&Credentials>,
    ) -> Result<()> {
        if self.index.is_linked(repository, digest)? {
            return Ok(());
        }
        if !self.can_prove(repository) {
            return Err(Error::BlobNotFound(digest.clone()));
        }
        // What came just now is not known to have come until the end.
        self.mirror.flights.settled(repository, digest).await;
        let turn = {
            let mut proving = lock(&self.mirror.proving);
            proving.retain(|_, turn| Arc::strong_count(turn) > 1);
            let key = (repository.clone(), digest.clone());
            Arc::clone(proving.entry(key).or_default())
        };
        let _turn = turn.lock().await;
        if self.index.is_linked(repository, digest)? {
            return Ok(());
        }
        let client = self
            .mirror
            .client(repository.host(), credentials.cloned())?;
        let shown = self.shows(&client, repository, digest).await;
        self.mirror.rests.note_blob(repository.host(), &shown);
        shown?;
        self.arrived(repository, digest).await
    }

    async fn shows(&self, client: &Client, repository: &Repository, digest: &Digest) -> Result<()> {
        for piece in self.pieces(digest).await? {
            self.shows_piece(client, repository, digest, piece).await?;
        }
        Ok(())
    }

    /// What an upstream is to show of a blob.
    async fn pieces(&self, digest: &Digest) -> Result<Vec<RangeInclusive<u64>>> {
        let unknown = || Error::BlobNotFound(digest.clone());
        let total = self.blobs.stat(digest).await?.ok_or_else(unknown)?;
        if total == 0 {
            return Ok(Vec::new());
        }
        let whole = 0..=total - 1;
        if total <= PIECE * PIECES as u64 {
            return Ok(vec![whole]);
        }
        let mut pieces = Vec::new();
        for _ in 0..LOOKS {
            let first = random_below(total - PIECE + 1);
            let piece = Range {
                offset: first,
                length: Some(PIECE),
            };
            let mut content = self.blobs.read(digest, piece).await?.stream;
            let mut seen = [false; 256];
            while let Some(bytes) = content.next().await.transpose()? {
                bytes
                    .iter()
                    .for_each(|byte| seen[usize::from(*byte)] = true);
            }
            if seen.iter().filter(|seen| **seen).count() >= VARIETY {
                pieces.push(first..=first + PIECE - 1);
            }
            if pieces.len() == PIECES {
                return Ok(pieces);
            }
        }
        Ok(vec![whole])
    }

    async fn shows_piece(
        &self,
        client: &Client,
        repository: &Repository,
        digest: &Digest,
        piece: RangeInclusive<u64>,
    ) -> Result<()> {
        let unlike = || {
            warn!(%repository, %digest, "its upstream names it and has something else");
            Error::BlobNotFound(digest.clone())
        };
        let (mut response, begins) = client
            .piece(repository.path(), digest, piece.clone())
            .await?;
        let range = Range {
            offset: begins,
            length: Some(piece.end() + 1 - begins),
        };
        // Who knows no ranges sends it from its beginning, which says even more.
        let reader = self.blobs.read(digest, range).await?;
        let (mut left, mut ours) = (reader.length, reader.stream);
        let mut expected = Bytes::new();
        let compared = async {
            while left > 0 {
                let chunk = response.chunk().await.map_err(|e| client.broken(&e))?;
                let Some(mut chunk) = chunk.filter(|chunk| !chunk.is_empty()) else {
                    return Err(unlike());
                };
                chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                left -= chunk.len() as u64;
                while !chunk.is_empty() {
                    if expected.is_empty() {
                        expected = ours.next().await.transpose()?.ok_or_else(unlike)?;
                    }
                    let same = chunk.len().min(expected.len());
                    if chunk[..same] != expected[..same] {
                        return Err(unlike());
                    }
                    chunk.advance(same);
                    expected.advance(same);
                }
            }
            Ok(())
        };
        // Whoever sends a byte now and then is never silent.
        let patience = client.patience(range.length.unwrap_or_default());
        let compared = tokio::time::timeout(patience, compared).await;
        compared.unwrap_or_else(|_| Err(client.too_slow()))
    }
}

fn random_below(end: u64) -> u64 {
    let mut bytes = [0; 8];
    // getrandom(2) cannot fail once the system is up.
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    u64::from_ne_bytes(bytes) % end
}
