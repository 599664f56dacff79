//! What only a registry that shares its store with others has to know: where in the bucket a blob is, who may still
//! count on it, and how far the journal was followed.

use serde::{Deserialize, Serialize};
use slipway_image::Digest;

use super::{Index, Names, get, key, put, split};
use crate::{
    error::Result,
    names::{Repository, Tag},
    store::TagRecord,
};

/// Where a blob is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Its name in the bucket. Never the same twice, whatever the content.
    pub name: String,
    /// Bytes.
    pub size: u64,
}

/// Who may count on a blob that no manifest names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Waiting {
    /// Whoever stored it, until some manifest names it.
    First,
    /// Anybody, for the time.
    Anybody,
    /// Who pushes to a repository, until a manifest there names it.
    Repository(Repository),
}

impl Waiting {
    fn text(&self) -> &str {
        match self {
            Self::First => "",
            Self::Anybody => "*",
            Self::Repository(repository) => repository.as_str(),
        }
    }

    fn of(text: &str) -> Result<Self> {
        Ok(match text {
            "" => Self::First,
            "*" => Self::Anybody,
            name => Self::Repository(Repository::from_key(name)?),
        })
    }
}

impl Index {
    /// Which bucket this is about.
    pub fn bucket(&self) -> Result<Option<String>> {
        get(&self.db, b"bucket")
    }

    /// Forgets everything: it is about another bucket, or nobody knows how far it was written.
    pub fn begin_again(&self, bucket: &str) -> Result<()> {
        self.clear()?;
        for tree in [
            &self.objects,
            &self.promises,
            &self.named,
            &self.leaving,
            &self.own,
        ] {
            tree.clear()?;
        }
        put(&self.db, b"applied", &0_u64)?;
        put(&self.db, b"bucket", &bucket)
    }

    /// The last entry of the journal that is in here.
    pub fn applied(&self) -> Result<u64> {
        Ok(get(&self.db, b"applied")?.unwrap_or_default())
    }

    /// It is in here now.
    pub fn set_applied(&self, number: u64) -> Result<()> {
        put(&self.db, b"applied", &number)
    }

    /// Where a blob is, if it is.
    pub fn object(&self, digest: &Digest) -> Result<Option<Object>> {
        get(&self.objects, &key(&[&digest.to_string()]))
    }

    /// Those of some blobs that are not there.
    pub fn without_object<'a>(
        &self,
        wanted: impl Iterator<Item = &'a Digest>,
    ) -> Result<Vec<Digest>> {
        let mut lacking = Vec::new();
        for digest in wanted {
            if self.object(digest)?.is_none() {
                lacking.push(digest.clone());
            }
        }
        Ok(lacking)
    }

    /// A blob is there.
    pub fn set_object(&self, digest: &Digest, object: &Object) -> Result<()> {
        put(&self.objects, &key(&[&digest.to_string()]), object)
    }

    /// A blob is not there any more, and may come again for whoever waits for it.
    pub fn forget_object(&self, digest: &Digest) -> Result<()> {
        self.objects.remove(key(&[&digest.to_string()]))?;
        Ok(())
    }

    /// A blob is nowhere; nobody waits for it.
    pub fn remove_object(&self, digest: &Digest) -> Result<()> {
        self.forget_object(digest)?;
        for k in self
            .promises
            .scan_prefix(key(&[&digest.to_string(), ""]))
            .keys()
        {
            self.promises.remove(k?)?;
        }
        Ok(())
    }

    /// All blobs.
    pub fn objects(&self) -> impl Iterator<Item = Result<(Digest, Object)>> {
        self.objects.iter().filter_map(|entry| {
            let (k, v) = match entry {
                Ok(entry) => entry,
                Err(e) => return Some(Err(e.into())),
            };
            let digest = std::str::from_utf8(&k).ok()?.parse().ok()?;
            Some(Ok((digest, serde_json::from_slice(&v).ok()?)))
        })
    }

    /// No upstream is told of a repository.
    pub fn is_own(&self, repository: &Repository) -> Result<bool> {
        Ok(self.own.contains_key(repository.as_str())?)
    }

    /// It is so, or not any more.
    pub fn set_own(&self, repository: &Repository, own: bool) -> Result<()> {
        match own {
            true => self.own.insert(repository.as_str(), &[])?,
            false => self.own.remove(repository.as_str())?,
        };
        Ok(())
    }

    /// Calls something for each repository that no upstream is told of.
    pub fn each_own(&self, mut call: impl FnMut(Repository) -> Result<()>) -> Result<()> {
        for k in self.own.iter().keys() {
            if let Some([repository]) = split(&k?) {
                call(Repository::from_key(repository)?)?;
            }
        }
        Ok(())
    }

    /// An object that this process is to remove.
    pub fn set_leaving(&self, digest: &Digest, object: &Object) -> Result<()> {
        put(&self.leaving, &key(&[&digest.to_string()]), object)
    }

    /// Takes over to remove it.
    pub fn take_leaving(&self, digest: &Digest) -> Result<Option<Object>> {
        let taken = self.leaving.remove(key(&[&digest.to_string()]))?;
        Ok(taken.and_then(|value| serde_json::from_slice(&value).ok()))
    }

    /// Since when somebody counts on a blob, Unix milliseconds.
    pub fn promised_since(&self, digest: &Digest, who: &Waiting) -> Result<Option<u64>> {
        get(&self.promises, &key(&[&digest.to_string(), who.text()]))
    }

    /// Somebody does since then.
    pub fn set_promised(&self, digest: &Digest, who: &Waiting, since: u64) -> Result<()> {
        put(
            &self.promises,
            &key(&[&digest.to_string(), who.text()]),
            &since,
        )
    }

    /// He does no more.
    pub fn end_promised(&self, digest: &Digest, who: &Waiting) -> Result<()> {
        self.promises
            .remove(key(&[&digest.to_string(), who.text()]))?;
        Ok(())
    }

    /// Somebody counts on a blob since then or later.
    pub fn is_promised(&self, digest: &Digest, since: u64) -> Result<bool> {
        for value in self
            .promises
            .scan_prefix(key(&[&digest.to_string(), ""]))
            .values()
        {
            if serde_json::from_slice::<u64>(&value?).is_ok_and(|at| at >= since) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// All who count on something.
    pub fn promises(&self) -> impl Iterator<Item = Result<(Digest, Waiting, u64)>> {
        self.promises.iter().filter_map(|entry| {
            let (k, v) = match entry {
                Ok(entry) => entry,
                Err(e) => return Some(Err(e.into())),
            };
            let [digest, who] = split(&k)?;
            let (digest, since) = (digest.parse().ok()?, serde_json::from_slice(&v).ok()?);
            Some(Waiting::of(who).map(|who| (digest, who, since)))
        })
    }

    /// What a manifest names.
    pub fn names(&self, repository: &Repository, digest: &Digest) -> Result<Option<Names>> {
        get(
            &self.named,
            &key(&[repository.as_str(), &digest.to_string()]),
        )
    }

    /// Remembers what a manifest names.
    pub fn set_names(
        &self,
        repository: &Repository,
        digest: &Digest,
        names: Option<&Names>,
    ) -> Result<()> {
        let key = key(&[repository.as_str(), &digest.to_string()]);
        match names {
            Some(names) => put(&self.named, &key, names),
            None => {
                self.named.remove(key)?;
                Ok(())
            }
        }
    }

    /// Calls something for each tag.
    pub fn each_tag(
        &self,
        mut call: impl FnMut(Repository, Tag, TagRecord) -> Result<()>,
    ) -> Result<()> {
        for entry in &self.tags {
            let (k, v) = entry?;
            if let (Some([repository, _, tag]), Ok(record)) =
                (split(&k), serde_json::from_slice(&v))
            {
                call(Repository::from_key(repository)?, Tag::parse(tag)?, record)?;
            }
        }
        Ok(())
    }

    /// Calls something for each blob and repository that it may be read through.
    pub fn each_link(&self, mut call: impl FnMut(Repository, Digest) -> Result<()>) -> Result<()> {
        for k in self.linked.iter().keys() {
            let k = k?;
            if let Some([digest, repository]) = split(&k)
                && let Ok(digest) = digest.parse()
            {
                call(Repository::from_key(repository)?, digest)?;
            }
        }
        Ok(())
    }
}
