//! What processes left that ended in the middle of something: objects of which the ledger knows nothing, and such as
//! were never put to their end.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use futures_util::TryStreamExt as _;
use slipway_image::Digest;
use tracing::warn;

use super::{S3Store, broken::Aside};
use crate::error::Result;

/// How often it is looked for.
const EVERY: Duration = Duration::from_secs(6 * 60 * 60);

impl S3Store {
    /// Removes all of that which is so old, if it is time to. What fails is tried the next time.
    pub(super) async fn remove_left(&self, age: Duration) -> Result<()> {
        {
            let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
            if looked.is_some_and(|at| at.elapsed() < EVERY) {
                return Ok(());
            }
            *looked = Some(Instant::now());
        }
        if let Err(error) = self.strangers(age, true).await {
            warn!(%error, "objects that nobody knows stay for now");
        }
        let folders = ["blobs", "checkpoints"];
        if let Err(error) = self.bucket.give_up_old(&folders, age).await {
            warn!(%error, "what was put in part only stays for now");
        }
        Ok(())
    }

    /// Objects that the ledger did not know for so long, and nobody keeps. Removes them, if asked to.
    pub(super) async fn strangers(&self, age: Duration, remove: bool) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let mut listed = self.bucket.list("blobs", None);
        while let Some(object) = listed.try_next().await? {
            if self.bucket.age(object.made) >= age
                && self.is_strange(&object.name)?
                && self.aside(&object.name).await?.is_none()
            {
                if remove {
                    self.bucket.delete(&object.name).await?;
                }
                found.push(object.name);
            }
        }
        let mut listed = self.bucket.list(Aside::FOLDER, None);
        while let Some(note) = listed.try_next().await? {
            let object = Aside::object_of(&note.name);
            // Somebody removed what it is about, by hand or because it was needed no more.
            let is_old = self.bucket.age(note.made) >= age;
            if is_old && self.bucket.size(&object).await?.is_none() {
                if remove {
                    self.bucket.delete(&note.name).await?;
                }
                found.push(note.name);
            }
        }
        Ok(found)
    }

    fn is_strange(&self, object: &str) -> Result<bool> {
        let Some(digest) = digest_in(object) else {
            return Ok(false);
        };
        let known = self.index.object(&digest)?;
        Ok(known.is_none_or(|known| known.name != object))
    }
}

/// The blob that an object holds.
fn digest_in(name: &str) -> Option<Digest> {
    let mut parts = name.split('/').skip(1);
    let (algorithm, _, hex) = (parts.next()?, parts.next()?, parts.next()?);
    format!("{algorithm}:{hex}").parse().ok()
}
