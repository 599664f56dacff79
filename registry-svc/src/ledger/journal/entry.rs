//! An entry of the journal, and what it does to the index.

use serde::{Deserialize, Serialize};

use super::super::Change;
use crate::{
    error::{Error, Result},
    store::{Index, Waiting},
};

/// Form of entries. Those of an earlier one say less; one of a later form cannot be followed.
pub const FORMAT: u32 = 2;
/// Bytes of an entry, at most: what a few manifests name, of 4 MiB each.
pub const LIMIT: u64 = 64 << 20;

/// What one append says.
#[derive(Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Its form.
    pub format: u32,
    /// Nobody else's: whoever does not know whether his entry got there looks for it.
    pub by: String,
    /// In their order.
    pub changes: Vec<Change>,
}

impl Entry {
    /// Reads one.
    pub fn parse(number: u64, content: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Form {
            format: u32,
        }
        let broken = |e| Error::Bucket(format!("entry {number} of its journal: {e}"));
        // First: nobody knows what else there is in one of a later form.
        match serde_json::from_slice::<Form>(content).map_err(broken)? {
            Form { format } if format <= FORMAT => serde_json::from_slice(content).map_err(broken),
            Form { format } => Err(Error::Bucket(format!(
                "entry {number} of its journal has form {format}: a newer registry-svc writes there"
            ))),
        }
    }
}

/// The name of an entry in the bucket.
pub fn name(number: u64) -> String {
    format!("journal/{number:020}")
}

/// The number in a name.
pub fn number(name: &str) -> Option<u64> {
    let last = name.rsplit('/').next()?;
    last.split('-').next()?.parse().ok()
}

/// Makes a change in the index. It may be made again: the state after some entries is the same, however often the
/// first of them were applied. `own`: this process decided it.
pub fn apply(index: &Index, change: &Change, own: bool) -> Result<()> {
    match change {
        Change::SetManifest {
            repository,
            digest,
            record,
            names,
        } => {
            index.set_manifest(repository, digest, record, names)?;
            index.set_names(repository, digest, Some(names))?;
            for named in std::iter::once(digest).chain(&names.references) {
                index.end_promised(named, &Waiting::First)?;
                index.end_promised(named, &Waiting::Repository(repository.clone()))?;
            }
            Ok(())
        }
        Change::RemoveManifest {
            repository, digest, ..
        } => {
            let names = index.names(repository, digest)?;
            index.remove_manifest(repository, digest, names.as_ref())?;
            index.set_names(repository, digest, None)?;
            let named = names.iter().flat_map(|names| &names.references);
            named
                .chain([digest])
                .try_for_each(|named| index.set_pending(named))
        }
        Change::SetTag {
            repository,
            tag,
            record,
        } => index.set_tag(repository, tag, record),
        Change::RemoveTag { repository, tag } => index.remove_tag(repository, tag),
        Change::Link {
            repository, digest, ..
        } => {
            index.set_pending(digest)?;
            index.link(repository, digest)
        }
        Change::Unlink { repository, digest } => {
            index.set_pending(digest)?;
            index.end_promised(digest, &Waiting::Repository(repository.clone()))?;
            index.end_promised(digest, &Waiting::First)?;
            index.unlink(repository, digest).map(|_| ())
        }
        Change::Stored { digest, object } => {
            // Two who stored it at once: the first.
            if index.object(digest)?.is_none() {
                index.set_pending(digest)?;
                index.set_object(digest, object)?;
                index.touch(digest);
            }
            Ok(())
        }
        Change::Wait { digest, who, since } => {
            let before = index.promised_since(digest, who)?;
            index.set_pending(digest)?;
            index.set_promised(digest, who, before.unwrap_or_default().max(*since))
        }
        Change::Held { repository, digest } => {
            index.end_promised(digest, &Waiting::First)?;
            index.end_promised(digest, &Waiting::Repository(repository.clone()))
        }
        Change::Gone { digest } => {
            if let (true, Some(object)) = (own, index.object(digest)?) {
                index.set_leaving(digest, &object)?;
            }
            let linked: Vec<_> = index.linked_in(digest).collect::<Result<_>>()?;
            for repository in linked {
                index.unlink(&repository, digest)?;
            }
            index.remove_object(digest)?;
            index.touch(digest);
            index.clear_pending(digest)
        }
        Change::Broken { digest, object } => {
            if index
                .object(digest)?
                .is_some_and(|known| known.name == *object)
            {
                index.set_pending(digest)?;
                index.forget_object(digest)?;
                index.touch(digest);
            }
            Ok(())
        }
        Change::Own { repository } => index.set_own(repository, true),
        Change::NotOwn { repository } => index.set_own(repository, false),
        Change::Checkpoint { .. } => Ok(()),
    }
}
