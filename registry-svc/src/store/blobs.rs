//! Who names a blob, where it may be read, and whether the sweep is to look at it.

use slipway_image::Digest;

use super::{Index, key, split};
use crate::{error::Result, names::Repository};

impl Index {
    /// Which manifests (repository, digest) name this content; a manifest names itself.
    pub fn holders(&self, digest: &Digest) -> Result<Vec<(Repository, Digest)>> {
        let mut found = Vec::new();
        for k in self
            .refs
            .scan_prefix(key(&[&digest.to_string(), ""]))
            .keys()
        {
            let k = k?;
            if let Some([_, repository, manifest]) = split(&k)
                && let Ok(manifest) = manifest.parse()
            {
                found.push((Repository::from_key(repository)?, manifest));
            }
        }
        Ok(found)
    }

    /// Some manifest names this content.
    pub fn is_held(&self, digest: &Digest) -> Result<bool> {
        let prefix = key(&[&digest.to_string(), ""]);
        Ok(self.refs.scan_prefix(prefix).next().transpose()?.is_some())
    }

    /// Some manifest of this repository names this content.
    pub fn is_held_in(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        let prefix = key(&[&digest.to_string(), repository.as_str(), ""]);
        Ok(self.refs.scan_prefix(prefix).next().transpose()?.is_some())
    }

    /// The manifests of this repository say by themselves that the blob may be read through it.
    pub fn is_link_implied(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        let prefix = key(&[&digest.to_string(), repository.as_str(), ""]);
        for k in self.refs.scan_prefix(prefix).keys() {
            let k = k?;
            let Some([_, _, manifest]) = split(&k) else {
                continue;
            };
            let Ok(manifest) = manifest.parse() else {
                continue;
            };
            let record = self.manifest(repository, &manifest)?;
            if manifest == *digest || record.is_some_and(|record| record.shows(digest)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The blob may be read through this repository.
    pub fn is_linked(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        Ok(self
            .links
            .contains_key(key(&[repository.as_str(), &digest.to_string()]))?)
    }

    /// Lets the blob be read through this repository.
    pub fn link(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        self.touch(digest);
        let (repository, digest) = (repository.as_str(), digest.to_string());
        self.links.insert(key(&[repository, &digest]), &[])?;
        self.linked.insert(key(&[&digest, repository]), &[])?;
        Ok(())
    }

    /// The repositories that the blob may be read through, in no useful order.
    pub fn linked_in(&self, digest: &Digest) -> impl Iterator<Item = Result<Repository>> {
        let prefix = key(&[&digest.to_string(), ""]);
        self.linked.scan_prefix(prefix).keys().filter_map(|k| {
            let repository = k.map(|k| split(&k).map(|[_, name]: [&str; 2]| name.to_owned()));
            match repository {
                Ok(name) => name.map(|name| Repository::from_key(&name)),
                Err(e) => Some(Err(e.into())),
            }
        })
    }

    /// Takes the blob out of this repository; false when it was not there.
    pub fn unlink(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        let (repository, digest) = (repository.as_str(), digest.to_string());
        self.linked.remove(key(&[&digest, repository]))?;
        Ok(self.links.remove(key(&[repository, &digest]))?.is_some())
    }

    /// The blob was pushed to this repository, and no manifest of it names it yet.
    pub fn set_waiting(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        let key = key(&[repository.as_str(), &digest.to_string()]);
        self.waiting.insert(key, &[])?;
        Ok(())
    }

    /// A manifest names it, or none will.
    pub fn clear_waiting(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        let key = key(&[repository.as_str(), &digest.to_string()]);
        self.waiting.remove(key)?;
        Ok(())
    }

    /// All blobs that wait for a manifest, and where.
    pub fn waiting(&self) -> Result<Vec<(Repository, Digest)>> {
        let mut found = Vec::new();
        for k in self.waiting.iter().keys() {
            if let Some([repository, digest]) = split(&k?)
                && let Ok(digest) = digest.parse()
            {
                found.push((Repository::from_key(repository)?, digest));
            }
        }
        Ok(found)
    }

    /// The blob may have lost its last holder, or never had one: the sweep looks at it.
    pub fn set_pending(&self, digest: &Digest) -> Result<()> {
        self.pending.insert(digest.to_string().as_bytes(), &[])?;
        Ok(())
    }

    /// The sweep is done with it.
    pub fn clear_pending(&self, digest: &Digest) -> Result<()> {
        self.pending.remove(digest.to_string().as_bytes())?;
        Ok(())
    }

    /// What the sweep has to look at.
    pub fn pending(&self) -> Result<Vec<Digest>> {
        let mut found = Vec::new();
        for k in self.pending.iter().keys() {
            if let Ok(digest) = String::from_utf8_lossy(&k?).parse() {
                found.push(digest);
            }
        }
        Ok(found)
    }
}
