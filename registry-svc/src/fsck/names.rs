//! Names against each other: the files of manifests and tags, the index in front of them, and what manifests name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use slipway_image::Digest;

use super::{
    check::{Check, Kind},
    list, read_json, repository_of,
};
use crate::{
    blobs::staging::blocking,
    error::{Error, Result},
    files,
    ledger::{self, Change, Scope},
    links, manifests,
    names::{Repository, Tag},
    store::{Index, ManifestRecord, Origin, TagRecord},
    tags,
};

/// A temporary file that is older is nobody's.
const OLD: Duration = Duration::from_secs(3600);

/// What the files of a repository say; `None` = a file that cannot be read.
#[derive(Default)]
struct Files {
    manifests: BTreeMap<Digest, Option<ManifestRecord>>,
    tags: BTreeMap<Tag, Option<TagRecord>>,
}

impl Check<'_> {
    /// Files that a write which never ended left.
    pub async fn left_overs(&mut self) -> Result<()> {
        let (root, repair) = (self.registry.root.clone(), self.repair);
        let found = blocking(move || {
            let (mut found, mut folders) = (
                Vec::new(),
                vec![root.join("repositories"), root.join("blobs")],
            );
            while let Some(folder) = folders.pop() {
                for entry in list(&folder)? {
                    let path = entry.path();
                    if entry.file_type().is_ok_and(|t| t.is_dir()) {
                        folders.push(path);
                    } else if is_left_over(&path) {
                        if repair {
                            files::remove_durably(&path)
                                .map_err(Error::io("cannot remove", &path))?;
                        }
                        found.push(path);
                    }
                }
            }
            Ok(found)
        });
        let below = found.await?.into_iter().map(|p| p.display().to_string());
        let mut all: Vec<String> = below.collect();
        all.extend(self.registry.blobs.left_overs(repair).await?);
        for what in all {
            let text = "a write that never ended left it";
            self.found(Kind::LeftOver, what, text, repair, Vec::new())
                .await?;
        }
        Ok(())
    }

    /// All repositories.
    pub async fn names(&mut self) -> Result<()> {
        // Where the ledger has no files, what it says is not in two places.
        let root = self.registry.ledger.files().map(Path::to_owned);
        let below = root.clone();
        let found = move || below.map_or_else(|| Ok(BTreeSet::new()), |root| repositories(&root));
        let mut all: BTreeSet<Repository> = blocking(found).await?;
        all.extend(self.registry.index.repositories(None, usize::MAX)?);
        for repository in all {
            let files = match &root {
                None => None,
                Some(root) => {
                    let folder = root.join(repository.as_str());
                    Some(blocking(move || read(&folder)).await?)
                }
            };
            let (manifests, tags) = files.map(|f| (f.manifests, f.tags)).unzip();
            self.manifests(&repository, manifests).await?;
            self.tags(&repository, tags).await?;
        }
        Ok(())
    }

    async fn manifests(
        &mut self,
        repository: &Repository,
        files: Option<BTreeMap<Digest, Option<ManifestRecord>>>,
    ) -> Result<()> {
        let index = &self.registry.index;
        let known: BTreeMap<_, _> = index.manifests_of(repository)?.into_iter().collect();
        let in_files = files.iter().flat_map(BTreeMap::keys);
        let all: BTreeSet<&Digest> = in_files.chain(known.keys()).collect();
        for digest in all {
            if let Some(files) = &files
                && files.get(digest).and_then(Option::as_ref) != known.get(digest)
            {
                self.record(repository, digest).await?;
            }
            self.content(repository, digest).await?;
        }
        Ok(())
    }

    /// The file and the index differ about a manifest, or did when they were read.
    async fn record(&mut self, repository: &Repository, digest: &Digest) -> Result<()> {
        let registry = self.registry;
        let Some(root) = registry.ledger.files() else {
            return Ok(());
        };
        let limit = slipway_image::manifest::MAX_SIZE as u64;
        let content = registry.blobs.read_small(digest, limit).await.ok();
        let (path, repair) = (place(root, repository, digest), self.repair);
        let (repo, name) = (repository.clone(), digest.clone());
        // Who is changing it just now is done then.
        let difference = registry.change(repository, move |index| {
            let file = match path.exists() {
                true => Some(read_json::<ManifestRecord>(&path)?),
                false => None,
            };
            let known = index.manifest(&repo, &name)?;
            let (record, text) = match (file, known) {
                (None, None) => return Ok((Vec::new(), None)),
                (Some(Some(file)), Some(known)) if file == known => return Ok((Vec::new(), None)),
                // The file is what was acknowledged.
                (Some(Some(file)), _) => (file, "the index did not have what its file says"),
                // Nothing but this service takes a file away, and it takes it out of the index, too.
                (_, Some(known)) => (known, "its file was lost, the index has it"),
                (Some(None), None) => {
                    let text = "its file cannot be read: pull or push it again";
                    return Ok((Vec::new(), Some((text, false))));
                }
            };
            let parsed = content.as_ref().and_then(|content| {
                let mut parsed = manifests::parse(&record.media_type, content).ok()?;
                parsed.hold_only(|named| record.held.contains(&named.digest));
                Some(manifests::names_in(&name, &record, &parsed))
            });
            Ok(match parsed {
                // Told as a manifest that cannot be read.
                None => (Vec::new(), None),
                Some(_) if !repair => (Vec::new(), Some((text, false))),
                Some(names) => {
                    let change = Change::SetManifest {
                        repository: repo.clone(),
                        digest: name.clone(),
                        record,
                        names,
                    };
                    (vec![change], Some((text, true)))
                }
            })
        });
        if let Some((text, mended)) = difference.await? {
            let what = format!("{}@{digest}", repository.familiar());
            self.found(Kind::Record, what, text, mended, Vec::new())
                .await?;
        }
        Ok(())
    }

    /// A manifest can be read, and what it names is here.
    async fn content(&mut self, repository: &Repository, digest: &Digest) -> Result<()> {
        let registry = self.registry;
        let path = registry
            .ledger
            .files()
            .map(|root| place(root, repository, digest));
        let record = match registry.index.manifest(repository, digest)? {
            Some(record) => Some(record),
            None => blocking(move || Ok(path.and_then(|path| read_json(&path).ok()?))).await?,
        };
        // Removed meanwhile, or told already.
        let Some(record) = record else { return Ok(()) };
        let limit = slipway_image::manifest::MAX_SIZE as u64;
        let read = registry.blobs.read_small(digest, limit);
        let parsed = match self.patience.wait(read).await {
            Ok(content) => manifests::parse(&record.media_type, &content),
            Err(error) => Err(error),
        };
        let mut parsed = match parsed {
            Ok(parsed) => parsed,
            Err(error) => return self.manifest(repository, digest, &record, error).await,
        };
        parsed.hold_only(|named| record.held.contains(&named.digest));
        // What a mirrored one names comes when somebody wants it.
        if record.origin == Origin::Upstream {
            return Ok(());
        }
        for named in parsed.references() {
            let here = registry.blobs.stat(&named.digest).await?.is_some();
            if !here
                && self.is_lost(&named.digest).await?
                && self.missing.insert(named.digest.clone())
            {
                self.missing_blob(&named.digest).await?;
            }
        }
        Ok(())
    }

    /// Something names content that is not here: both at one moment, while others remove it and store it anew.
    async fn is_lost(&self, digest: &Digest) -> Result<bool> {
        let registry = self.registry;
        // It is stored before something names it, and nobody of this process removes it now.
        let _lease = registry.leases.hold(digest).await;
        if !registry.ledger.is_shared() {
            let held = registry.index.is_held(digest)?;
            return Ok(held && registry.blobs.stat(digest).await?.is_none());
        }
        let named = digest.clone();
        let decide = move |index: &Index| {
            let lost = index.is_held(&named)? && index.object(&named)?.is_none();
            Ok((Vec::new(), lost))
        };
        ledger::commit(&*registry.ledger, Scope::Nothing, decide).await
    }

    async fn manifest(
        &mut self,
        repository: &Repository,
        digest: &Digest,
        record: &ManifestRecord,
        error: Error,
    ) -> Result<()> {
        let registry = self.registry;
        // Its name goes before its content: without one it was removed meanwhile.
        let files = registry.ledger.files();
        let named = match files.map(|root| place(root, repository, digest)) {
            Some(path) => path.exists(),
            None => registry.index.manifest(repository, digest)?.is_some(),
        };
        if !named || self.missing.contains(digest) {
            return Ok(());
        }
        // It was removed, and is stored anew by now.
        let known = registry.index.manifest(repository, digest)?.is_some();
        let gone = matches!(error, Error::BlobNotFound(_));
        if known && gone && !self.is_lost(digest).await? {
            return Ok(());
        }
        self.missing.insert(digest.clone());
        let mut damaged = registry.names_with(digest)?;
        if damaged.is_empty() {
            damaged.push(format!("{}@{digest}", repository.familiar()));
        }
        let (mut text, mut mended) = (error.to_string(), false);
        if matches!(error, Error::Bucket(_)) {
            // One that does not answer at all says nothing of this manifest.
            registry.ledger.refresh().await?;
            text.push_str("; it stays as it is");
        } else if self.repair {
            registry.set_aside(digest).await?;
            if record.origin == Origin::Upstream {
                let wanted = slipway_image::Descriptor::new(
                    record.media_type.clone(),
                    digest.clone(),
                    record.size,
                );
                match registry.find_child(repository, &wanted, None).await {
                    Ok(_) => (mended, text) = (true, format!("{text}; fetched again")),
                    Err(error) => text = format!("{text}; cannot be fetched again: {error}"),
                }
            }
        }
        if mended {
            damaged.clear();
        }
        self.found(Kind::Manifest, digest, text, mended, damaged)
            .await?;
        Ok(())
    }

    async fn missing_blob(&mut self, digest: &Digest) -> Result<()> {
        let registry = self.registry;
        let damaged = registry.names_with(digest)?;
        let (text, mended) = match self.repair {
            false => ("a manifest names it, and it is not here".to_owned(), false),
            true => match registry.fetch_again(digest).await {
                Ok(true) => ("it was not here, and was fetched again".to_owned(), true),
                Ok(false) => ("it is lost: push it again".to_owned(), false),
                Err(error) => (
                    format!("it is not here, and cannot be fetched: {error}"),
                    false,
                ),
            },
        };
        let damaged = if mended { Vec::new() } else { damaged };
        self.found(Kind::MissingBlob, digest, text, mended, damaged)
            .await?;
        Ok(())
    }
}

fn is_left_over(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let old = || {
        let touched = fs::metadata(path).and_then(|m| m.modified());
        let age = touched
            .ok()
            .and_then(|at| SystemTime::now().duration_since(at).ok());
        age.is_some_and(|age| age > OLD)
    };
    name.starts_with(files::TEMPORARY) && old()
}

/// The repositories that have a folder.
pub(super) fn repositories(root: &Path) -> Result<BTreeSet<Repository>> {
    let (mut found, mut folders) = (BTreeSet::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in list(&folder)? {
            let name = entry.file_name().to_string_lossy().into_owned();
            let ours = [
                tags::FOLDER,
                manifests::FOLDER,
                links::FOLDER,
                links::MIRRORED,
            ];
            if ours.contains(&&*name) {
                found.insert(repository_of(root, &folder)?);
            } else if !name.starts_with('_') && entry.file_type().is_ok_and(|t| t.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    Ok(found)
}

fn place(root: &Path, repository: &Repository, digest: &Digest) -> PathBuf {
    root.join(repository.as_str())
        .join(manifests::FOLDER)
        .join(digest.algorithm().as_str())
        .join(digest.encoded())
}

/// Reads a repository's files. What cannot be read now may have been removed meanwhile.
fn read(folder: &Path) -> Result<Files> {
    let mut files = Files::default();
    for algorithm in list(&folder.join(manifests::FOLDER))? {
        for link in list(&algorithm.path())? {
            let (algorithm, hex) = (algorithm.file_name(), link.file_name());
            let text = format!("{}:{}", algorithm.to_string_lossy(), hex.to_string_lossy());
            if let Ok(digest) = text.parse() {
                let record = read_json(&link.path()).ok().flatten();
                files.manifests.insert(digest, record);
            }
        }
    }
    for file in list(&folder.join(tags::FOLDER))? {
        if let Ok(tag) = Tag::parse(&file.file_name().to_string_lossy()) {
            files
                .tags
                .insert(tag, read_json(&file.path()).ok().flatten());
        }
    }
    Ok(files)
}
