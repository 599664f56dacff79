//! Tags: their files, the index in front of them, and the manifests that they name.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    check::{Check, Kind},
    read_json,
};
use crate::{
    error::Result,
    ledger::Change,
    mirror::Freshness,
    names::{ImageName, Pointer, Repository, Tag},
    registry::Registry,
    store::{Origin, TagRecord},
    tags,
};

impl Check<'_> {
    /// All tags of a repository; `None` = a file that cannot be read.
    pub async fn tags(
        &mut self,
        repository: &Repository,
        files: Option<BTreeMap<Tag, Option<TagRecord>>>,
    ) -> Result<()> {
        let index = &self.registry.index;
        let known = index.tags_of(repository, None, usize::MAX)?;
        let known: BTreeMap<Tag, TagRecord> = known.into_iter().collect();
        let all: BTreeSet<Tag> = files
            .iter()
            .flat_map(BTreeMap::keys)
            .chain(known.keys())
            .cloned()
            .collect();
        for tag in all {
            let file = files
                .as_ref()
                .and_then(|files| files.get(&tag))
                .and_then(Option::as_ref);
            let what = format!("{}:{tag}", repository.familiar());
            if file != known.get(&tag)
                && let Some((text, mended)) = self.tag(repository, &tag).await?
            {
                let damaged = if mended {
                    Vec::new()
                } else {
                    vec![what.clone()]
                };
                self.found(Kind::Record, &what, text, mended, damaged)
                    .await?;
                continue;
            }
            let Some(record) = index.tag(repository, &tag)? else {
                continue;
            };
            // A tag goes before its manifest: one that is still there names something, or should.
            if index.manifest(repository, &record.digest)?.is_none()
                && index.tag(repository, &tag)?.as_ref() == Some(&record)
            {
                let mut mended = false;
                if self.repair && record.origin == Origin::Upstream {
                    let name = ImageName {
                        repository: repository.clone(),
                        pointer: Pointer::Tag(tag),
                    };
                    let found = self.registry.find_manifest(&name, Freshness::Ask, None);
                    mended = found.await.is_ok();
                }
                let text = format!("it names {}, which is not here", record.digest);
                let damaged = if mended {
                    Vec::new()
                } else {
                    vec![what.clone()]
                };
                self.found(Kind::Manifest, &what, text, mended, damaged)
                    .await?;
            }
        }
        Ok(())
    }

    /// The file and the index differ about a tag, or did when they were read.
    async fn tag(
        &self,
        repository: &Repository,
        tag: &Tag,
    ) -> Result<Option<(&'static str, bool)>> {
        let registry: &Registry = self.registry;
        let Some(root) = registry.ledger.files() else {
            return Ok(None);
        };
        let folder = root.join(repository.as_str()).join(tags::FOLDER);
        let (path, repair) = (folder.join(tag.as_str()), self.repair);
        let (repo, name) = (repository.clone(), tag.clone());
        let change = registry.change(repository, move |index| {
            let file = match path.exists() {
                true => Some(read_json::<TagRecord>(&path)?),
                false => None,
            };
            let known = index.tag(&repo, &name)?;
            let nothing = |text| Ok((Vec::new(), text));
            let (record, text) = match (file, known) {
                (None, None) => return nothing(None),
                (Some(Some(file)), Some(known)) if file == known => return nothing(None),
                (Some(Some(file)), _) => (file, "the index did not have what its file says"),
                (_, Some(known)) => (known, "its file was lost, the index has it"),
                (Some(None), None) => {
                    let text = "its file cannot be read: push or pull it again";
                    return nothing(Some((text, false)));
                }
            };
            if index.manifest(&repo, &record.digest)?.is_none() {
                let text = "what it names is not here: push or pull it again";
                return nothing(Some((text, false)));
            }
            if !repair {
                return nothing(Some((text, false)));
            }
            let change = Change::SetTag {
                repository: repo.clone(),
                tag: name.clone(),
                record,
            };
            Ok((vec![change], Some((text, true))))
        });
        change.await
    }
}
