//! A blob whose object is gone, or is not what its digest says, is not here from then on ([`Change::Broken`]), for all
//! who share the bucket: so it can be fetched or pushed again, as another object.
//!
//! What is there of it is kept, where it is: S3 cannot move an object, copies none above 5 GiB, and none that it cannot
//! read. A note says so, `quarantine/...` with the rest of the object's name. Who removes the note lets the object go.

use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use slipway_image::Digest;

use super::S3Store;
use crate::{
    blobs::{Range, staging::blocking},
    error::{Error, Result},
    ledger::{self, Change, Scope},
    registry::now,
    store::{Index, Object},
};

/// Bytes of a note, at most.
const LIMIT: u64 = 64 << 10;

/// What a note says of an object that is kept.
#[derive(Debug, Serialize, Deserialize)]
pub struct Aside {
    /// Which.
    object: String,
    /// A sentence for people.
    why: String,
    /// Bytes that it has.
    size: u64,
    /// When it was found, Unix milliseconds.
    found: u64,
}

impl Aside {
    /// Of the notes.
    pub const FOLDER: &str = "quarantine";

    fn name_of(object: &str) -> String {
        let (_, rest) = object.split_once('/').unwrap_or(("", object));
        format!("{}/{rest}", Self::FOLDER)
    }

    /// What the note of that name is about.
    pub fn object_of(note: &str) -> String {
        let (_, rest) = note.split_once('/').unwrap_or(("", note));
        format!("blobs/{rest}")
    }
}

impl S3Store {
    /// See [`crate::blobs::BlobStore::quarantine`].
    pub(super) async fn take_out_if_broken(&self, digest: &Digest) -> Result<bool> {
        let Some(object) = self.index.object(digest)? else {
            return Ok(false);
        };
        let Some(why) = self.what_is_wrong(digest).await? else {
            return Ok(false);
        };
        if let Some(size) = self.bucket.size(&object.name).await? {
            let aside = Aside {
                object: object.name.clone(),
                why,
                size,
                found: now(),
            };
            let note = serde_json::to_vec(&aside).expect("notes are plain data");
            // There is one already when another one found it, or a crash was in between.
            let name = Aside::name_of(&object.name);
            self.bucket.create(&name, note.into()).await?;
        }
        slipway_fault::point("registry.bucket.kept");
        let Object { name, .. } = object;
        let named = digest.clone();
        let decide = move |index: &Index| {
            // Somebody may have stored it anew meanwhile.
            let still = index
                .object(&named)?
                .is_some_and(|known| known.name == name);
            let broken = Change::Broken {
                digest: named.clone(),
                object: name.clone(),
            };
            Ok((still.then_some(broken).into_iter().collect(), still))
        };
        let out = ledger::commit(&*self.ledger, Scope::Blob(digest.clone()), decide).await?;
        let (parts, named) = (self.parts.clone(), digest.clone());
        blocking(move || parts.delete(&named)).await?;
        Ok(out)
    }

    /// Why a blob cannot be what its digest says; none: it is, or is not here.
    async fn what_is_wrong(&self, digest: &Digest) -> Result<Option<String>> {
        let mut content = match self.open_at(digest, Range::default()).await {
            Ok((_, _, content)) => content,
            Err(Error::BlobNotFound(_)) => return Ok(None),
            Err(Error::Damaged { why, .. }) => return Ok(Some(why)),
            Err(error) => return Err(error),
        };
        let mut digester = digest.digester();
        while let Some(piece) = content.try_next().await? {
            digester = blocking(move || {
                digester.update(&piece);
                Ok(digester)
            })
            .await?;
        }
        let whole = digester.finish() == *digest;
        Ok((!whole).then(|| "its content is not what its digest says".to_owned()))
    }

    /// What is said of an object that is kept.
    pub(super) async fn aside(&self, object: &str) -> Result<Option<Aside>> {
        let note = self.bucket.get(&Aside::name_of(object), LIMIT).await?;
        let Some(note) = note else { return Ok(None) };
        // Whatever it says, it is there.
        Ok(Some(serde_json::from_slice(&note).unwrap_or(Aside {
            object: object.to_owned(),
            why: String::new(),
            size: 0,
            found: 0,
        })))
    }

    /// Bytes of all that is kept.
    pub(super) async fn bytes_aside(&self) -> Result<u64> {
        let mut bytes = 0;
        let mut listed = self.bucket.list(Aside::FOLDER, None);
        while let Some(note) = listed.try_next().await? {
            let aside = self.aside(&Aside::object_of(&note.name)).await?;
            bytes += aside.map_or(0, |aside| aside.size);
        }
        Ok(bytes)
    }
}
