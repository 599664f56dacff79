//! The index in sled: the one module that knows it. The files are the truth; everything here can be
//! rebuilt from them ([`crate::fsck`]), so no write here waits for the disk.

mod blobs;
mod bulk;
mod catalog;
mod shared;
mod tags;
mod upkeep;

use std::path::Path;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use slipway_image::Digest;

use crate::{error::Result, names::Repository};

pub use bulk::Bulk;
pub use shared::{Object, Waiting};

/// Where a tag or manifest came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Pushed, built or tagged here: upstream is never asked about it.
    #[default]
    Local,
    /// Mirrored from the upstream that the repository's host names.
    Upstream,
}

impl Origin {
    /// Not from an upstream.
    pub fn is_local(&self) -> bool {
        *self == Self::Local
    }
}

/// What a tag names. Also the content of the tag's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagRecord {
    /// Manifest or index.
    pub digest: Digest,
    /// Where it came from.
    pub origin: Origin,
    /// When it was put here, Unix milliseconds.
    pub tagged: u64,
}

/// A manifest in a repository. Also the content of its link file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestRecord {
    /// As it was sent with.
    pub media_type: String,
    /// Bytes.
    pub size: u64,
    /// Where it came from.
    pub origin: Origin,
    /// When it was put here, Unix milliseconds.
    pub stored: u64,
    /// Somebody asked for it by its digest: kept without a tag, and shown as `name@digest`.
    #[serde(default)]
    pub by_digest: bool,
    /// Of a manifest whose form is not known: what it named that was there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<Digest>,
    /// Of one that came without all that it names: what is not to be read through the repository because of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unproven: Vec<Digest>,
}

impl ManifestRecord {
    /// What the manifest names may be read through its repository: that an upstream names something does not say that
    /// it has it, and neither does an archive.
    pub fn shows(&self, named: &Digest) -> bool {
        self.origin.is_local() && !self.unproven.contains(named)
    }
}

/// What a manifest names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// What it is made of.
    pub references: Vec<Digest>,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Digest>,
    /// Its entry in the list of its subject's referrers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub referrer: Option<serde_json::Value>,
}

/// See the module's page.
pub struct Index {
    db: sled::Db,
    tags: sled::Tree,
    /// Which tags name a manifest: the same the other way round.
    tagged: sled::Tree,
    manifests: sled::Tree,
    refs: sled::Tree,
    links: sled::Tree,
    linked: sled::Tree,
    referrers: sled::Tree,
    pending: sled::Tree,
    waiting: sled::Tree,
    damaged: sled::Tree,
    checked: sled::Tree,
    uses: sled::Tree,
    touched: upkeep::Touched,
    objects: sled::Tree,
    promises: sled::Tree,
    named: sled::Tree,
    leaving: sled::Tree,
    own: sled::Tree,
}

/// Form of the keys and records. One of another form is rebuilt from the files.
const FORMAT: &[u8] = b"5";

impl Index {
    /// Opens or makes the database.
    pub fn open(path: &Path) -> Result<Self> {
        let db = sled::Config::new()
            .path(path)
            // An index of a few megabytes: the files' page cache does the rest.
            .cache_capacity(2 * 1024 * 1024)
            .mode(sled::Mode::LowSpace)
            .flush_every_ms(Some(2000))
            .open()?;
        Ok(Self {
            tags: db.open_tree("tags")?,
            tagged: db.open_tree("tagged")?,
            manifests: db.open_tree("manifests")?,
            refs: db.open_tree("refs")?,
            links: db.open_tree("links")?,
            linked: db.open_tree("linked")?,
            referrers: db.open_tree("referrers")?,
            pending: db.open_tree("pending")?,
            waiting: db.open_tree("waiting")?,
            damaged: db.open_tree("damaged")?,
            checked: db.open_tree("checked")?,
            uses: db.open_tree("uses")?,
            touched: upkeep::Touched::default(),
            objects: db.open_tree("objects")?,
            promises: db.open_tree("promises")?,
            named: db.open_tree("named")?,
            leaving: db.open_tree("leaving")?,
            own: db.open_tree("own")?,
            db,
        })
    }

    /// Forgets all that is rebuilt from files.
    pub fn clear(&self) -> Result<()> {
        for tree in [
            &self.tags,
            &self.tagged,
            &self.manifests,
            &self.refs,
            &self.links,
            &self.linked,
            &self.referrers,
            &self.pending,
            &self.waiting,
            &self.damaged,
        ] {
            tree.clear()?;
        }
        Ok(())
    }

    /// The same while nobody else has the index: trees go as a whole, and none of their keys is read.
    pub fn cleared(mut self) -> Result<Self> {
        for (name, tree) in [
            ("tags", &mut self.tags),
            ("tagged", &mut self.tagged),
            ("manifests", &mut self.manifests),
            ("refs", &mut self.refs),
            ("links", &mut self.links),
            ("linked", &mut self.linked),
            ("referrers", &mut self.referrers),
            ("pending", &mut self.pending),
            ("waiting", &mut self.waiting),
            ("damaged", &mut self.damaged),
        ] {
            self.db.drop_tree(name)?;
            *tree = self.db.open_tree(name)?;
        }
        Ok(self)
    }

    /// An earlier version of this service made it.
    pub fn is_outdated(&self) -> Result<bool> {
        Ok(self.db.get("format")?.is_none_or(|format| format != FORMAT))
    }

    /// It was rebuilt by this version.
    pub fn set_current(&self) -> Result<()> {
        self.db.insert("format", FORMAT)?;
        Ok(())
    }

    /// Writes everything to disk.
    pub fn flush(&self) -> Result<()> {
        self.db.flush()?;
        Ok(())
    }

    // ---- manifests

    /// A manifest of a repository.
    pub fn manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<ManifestRecord>> {
        get(
            &self.manifests,
            &key(&[repository.as_str(), &digest.to_string()]),
        )
    }

    /// Remembers a manifest and what it names.
    pub fn set_manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
        record: &ManifestRecord,
        names: &Names,
    ) -> Result<()> {
        let (repo, name) = (repository.as_str(), digest.to_string());
        // One of an unknown form may hold less than it did.
        let before = self.manifest(repository, digest)?;
        for child in before.iter().flat_map(|before| &before.held) {
            if !names.references.contains(child) {
                self.refs.remove(key(&[&child.to_string(), repo, &name]))?;
                self.set_pending(child)?;
            }
        }
        self.damaged.remove(key(&[repo, &name]))?;
        for (place, key, value) in bulk::of_manifest(repository, digest, record, names) {
            self.tree(place).insert(key, value)?;
        }
        self.touch(digest);
        names.references.iter().for_each(|named| self.touch(named));
        Ok(())
    }

    /// A manifest of a repository is there and cannot be read.
    pub fn set_damaged(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        let key = key(&[repository.as_str(), &digest.to_string()]);
        self.damaged.insert(key, &[])?;
        Ok(())
    }

    /// Some manifest cannot be read, so nobody knows all that is named.
    pub fn is_damaged(&self) -> Result<bool> {
        Ok(self.damaged.iter().next().transpose()?.is_some())
    }

    /// This manifest cannot be read.
    pub fn is_damaged_at(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        let key = key(&[repository.as_str(), &digest.to_string()]);
        Ok(self.damaged.contains_key(key)?)
    }

    /// Forgets a manifest; its children lose this one holder.
    pub fn remove_manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
        names: Option<&Names>,
    ) -> Result<()> {
        let name = digest.to_string();
        let repo = repository.as_str();
        self.manifests.remove(key(&[repo, &name]))?;
        self.damaged.remove(key(&[repo, &name]))?;
        self.uses.remove(key(&[repo, &name]))?;
        self.refs.remove(key(&[&name, repo, &name]))?;
        self.touch(digest);
        let Some(names) = names else {
            return self.forget_references(repo, &name);
        };
        for child in &names.references {
            self.refs.remove(key(&[&child.to_string(), repo, &name]))?;
            self.touch(child);
        }
        if let Some(subject) = &names.subject {
            self.referrers
                .remove(key(&[repo, &subject.to_string(), &name]))?;
        }
        Ok(())
    }

    /// Of a manifest that cannot be read any more only this index knows what it named.
    fn forget_references(&self, repository: &str, manifest: &str) -> Result<()> {
        for k in self.refs.iter().keys() {
            let k = k?;
            if let Some([child, r, m]) = split(&k)
                && (r, m) == (repository, manifest)
                && let Ok(child) = child.parse()
            {
                self.refs.remove(&k)?;
                self.touch(&child);
                self.set_pending(&child)?;
            }
        }
        Ok(())
    }

    /// All manifests of all repositories.
    pub fn all_manifests(&self) -> Result<Vec<(Repository, Digest, ManifestRecord)>> {
        let mut found = Vec::new();
        self.each_manifest(|repository, digest, record| {
            found.push((repository, digest, record));
            Ok(())
        })?;
        Ok(found)
    }

    /// Repositories in lexical order, after `last`, at most `limit`.
    pub fn repositories(&self, last: Option<&str>, limit: usize) -> Result<Vec<Repository>> {
        let mut found: Vec<Repository> = Vec::new();
        let mut from = last.map_or_else(Vec::new, |last| key(&[last, "\u{10ffff}"]));
        while found.len() < limit {
            // Skips from one repository to the next instead of walking all manifests.
            let Some(entry) = self.manifests.range(from..).next() else {
                break;
            };
            let (k, _) = entry?;
            let Some([repository, _]) = split(&k) else {
                break;
            };
            from = key(&[repository, "\u{10ffff}"]);
            found.push(Repository::from_key(repository)?);
        }
        Ok(found)
    }

    /// The repository holds at least one manifest.
    pub fn has_repository(&self, repository: &Repository) -> Result<bool> {
        let prefix = key(&[repository.as_str(), ""]);
        Ok(self
            .manifests
            .scan_prefix(prefix)
            .next()
            .transpose()?
            .is_some())
    }

    /// Something of the repository came from upstream.
    pub fn has_from_upstream(&self, repository: &Repository) -> Result<bool> {
        let prefix = key(&[repository.as_str(), ""]);
        for entry in self.manifests.scan_prefix(prefix) {
            let record = serde_json::from_slice::<ManifestRecord>(&entry?.1);
            if record.is_ok_and(|record| record.origin == Origin::Upstream) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Descriptors of the manifests whose subject is this digest as JSON, in the order of theirs, behind `last`. Each
    /// is read when it is asked for: together they may be larger than the memory.
    pub fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        last: Option<&Digest>,
    ) -> impl Iterator<Item = Result<(Digest, String)>> + use<> {
        let prefix = key(&[repository.as_str(), &subject.to_string(), ""]);
        let mut from = prefix.clone();
        if let Some(last) = last {
            from.extend_from_slice(last.to_string().as_bytes());
            from.push(0);
        }
        let entries = self.referrers.range(from..);
        let all = entries.take_while(move |entry| match entry {
            Ok((k, _)) => k.starts_with(&prefix),
            Err(_) => true,
        });
        all.filter_map(|entry| {
            let (k, v) = match entry {
                Ok(entry) => entry,
                Err(error) => return Some(Err(error.into())),
            };
            let [_, _, digest] = split(&k)?;
            let descriptor = String::from_utf8(v.to_vec()).ok()?;
            Some(Ok((digest.parse().ok()?, descriptor)))
        })
    }
}

/// Parts with a NUL between them: no name has one, so that prefixes are whole parts.
fn key(parts: &[&str]) -> Vec<u8> {
    parts.join("\0").into_bytes()
}

fn split<const N: usize>(key: &[u8]) -> Option<[&str; N]> {
    let text = std::str::from_utf8(key).ok()?;
    text.split('\0').collect::<Vec<_>>().try_into().ok()
}

fn get<T: DeserializeOwned>(tree: &sled::Tree, key: &[u8]) -> Result<Option<T>> {
    // A record that cannot be read is as good as none: fsck makes it anew.
    Ok(tree
        .get(key)?
        .and_then(|value| serde_json::from_slice(&value).ok()))
}

fn put<T: Serialize>(tree: &sled::Tree, key: &[u8], value: &T) -> Result<()> {
    let value = serde_json::to_vec(value).expect("records are plain data");
    tree.insert(key, value)?;
    Ok(())
}
