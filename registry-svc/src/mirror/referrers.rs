//! What refers to a mirrored image: asked of the upstream, since what nobody pulled yet is only there.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Instant,
};

use serde::{Deserialize, de::IgnoredAny};
use slipway_image::{Descriptor, Digest, manifest, media_type};

use super::{Client, lock};
use crate::{
    blobs::staging::blocking,
    error::{Error, Result},
    large::{self, Turn},
    names::Repository,
    registry::Registry,
    store::Origin,
};

/// Descriptors by digest, as JSON.
type Referrers = BTreeMap<Digest, String>;

/// What is asked for of a list of referrers.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What comes behind this one.
    pub after: Option<Digest>,
    /// Only of this kind.
    pub kind: Option<String>,
    /// Bytes of a page, unless the first one alone has more.
    pub most: usize,
}

/// A part of a list of referrers.
pub struct Page {
    /// As JSON, by digest.
    pub descriptors: Vec<String>,
    /// The last one, when there are more.
    pub more: Option<Digest>,
    /// Why an upstream could not be asked.
    pub trouble: Option<String>,
    /// To be kept as long as the page is.
    pub turn: Turn,
}

/// Answers that are remembered at once.
const REMEMBERED: usize = 256;

/// Most pages of one answer, and most bytes of all of them.
const PAGES: usize = 16;
const MOST_BYTES: usize = 2 * slipway_image::manifest::MAX_SIZE;

/// Most bytes of an answer that is remembered: in memory it takes several times as much.
const REMEMBERED_BYTES: usize = 32 << 10;

/// The last answers of upstreams, and when they came.
#[derive(Default)]
pub struct Answers(Mutex<HashMap<(Repository, Digest), (Instant, Referrers)>>);

impl Registry {
    /// What refers to a manifest: what is here, and of a mirrored one what its upstream says. The client has the turn.
    pub async fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        wanted: Wanted,
        client: Arc<dyn large::Client>,
    ) -> Result<Page> {
        let (told, trouble) = match self.is_mirrored(repository, subject)? {
            true => match self.ask_for_referrers(repository, subject).await {
                Ok(told) => (told, None),
                // What refers to an image is worth less than the image: whoever may have that gets what is known.
                Err(error) => {
                    let known = self.mirror.referrers.last(repository, subject);
                    let known = known.map(|(_, told)| told);
                    (known.unwrap_or_default(), Some(error.to_string()))
                }
            },
            false => (Referrers::new(), None),
        };
        let turn = self.large.list(client).await?;
        let (index, repository) = (Arc::clone(&self.index), repository.clone());
        let subject = subject.clone();
        blocking(move || {
            let ours = index.referrers(&repository, &subject, wanted.after.as_ref());
            let (descriptors, more) = page(ours, told, &wanted)?;
            Ok(Page {
                descriptors,
                more,
                trouble,
                turn,
            })
        })
        .await
    }

    /// A manifest came from upstream, or an index that did names it: it is what clients ask for whose image is one of
    /// several platforms, before they fetch it.
    fn is_mirrored(&self, repository: &Repository, subject: &Digest) -> Result<bool> {
        let came = |digest: &Digest| -> Result<Option<bool>> {
            let record = self.index.manifest(repository, digest)?;
            Ok(record.map(|record| record.origin == Origin::Upstream))
        };
        if let Some(came) = came(subject)? {
            return Ok(came);
        }
        for (place, holder) in self.index.holders(subject)? {
            if place == *repository && came(&holder)? == Some(true) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn ask_for_referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
    ) -> Result<Referrers> {
        let ttl = self.mirror.tag_ttl(repository.host());
        if let Some((at, told)) = self.mirror.referrers.last(repository, subject)
            && at.elapsed() < ttl
        {
            return Ok(told);
        }
        if let Some(error) = self.mirror.rests(repository) {
            return Err(error);
        }
        let client = self.mirror.client(repository.host(), None)?;
        let told = of_upstream(&client, repository.path(), subject).await;
        // An upstream that cannot answer this may well serve all the rest: it is not let rest for it.
        let (told, bytes) = told?;
        if bytes > REMEMBERED_BYTES {
            return Ok(told);
        }
        let mut answers = lock(&self.mirror.referrers.0);
        if answers.len() >= REMEMBERED {
            answers.clear();
        }
        let key = (repository.clone(), subject.clone());
        answers.insert(key, (Instant::now(), told.clone()));
        Ok(told)
    }
}

impl Answers {
    fn last(&self, repository: &Repository, subject: &Digest) -> Option<(Instant, Referrers)> {
        let key = (repository.clone(), subject.clone());
        lock(&self.0).get(&key).cloned()
    }
}

/// The page that is wanted, and its last one when there are more. Of ours no more is read than it takes.
fn page(
    ours: impl Iterator<Item = Result<(Digest, String)>>,
    theirs: Referrers,
    wanted: &Wanted,
) -> Result<(Vec<String>, Option<Digest>)> {
    let (mut found, mut size, mut more) = (Referrers::new(), 0, false);
    for entry in ours {
        let (digest, descriptor) = entry?;
        if !wanted.is_of_kind(&descriptor) {
            continue;
        }
        size += descriptor.len() + 1;
        more = size > wanted.most && !found.is_empty();
        if more {
            break;
        }
        found.insert(digest, descriptor);
    }
    // What is behind the last of ours is for the next page, theirs too.
    let end = found.last_key_value().filter(|_| more);
    let end = end.map(|(digest, _)| digest.clone());
    for (digest, descriptor) in theirs {
        let inside = wanted.after.as_ref().is_none_or(|last| digest > *last)
            && end.as_ref().is_none_or(|end| digest <= *end);
        if inside && wanted.is_of_kind(&descriptor) {
            found.entry(digest).or_insert(descriptor);
        }
    }
    let (mut descriptors, mut size, mut last) = (Vec::new(), 0, None);
    for (digest, descriptor) in found {
        size += descriptor.len() + 1;
        if size > wanted.most && last.is_some() {
            more = true;
            break;
        }
        descriptors.push(descriptor);
        last = Some(digest);
    }
    Ok((descriptors, last.filter(|_| more)))
}

impl Wanted {
    fn is_of_kind(&self, descriptor: &str) -> bool {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Kind {
            artifact_type: Option<String>,
        }
        let Some(wanted) = &self.kind else {
            return true;
        };
        let kind = serde_json::from_str::<Kind>(descriptor).ok();
        let kind = kind.and_then(|kind| kind.artifact_type);
        kind.unwrap_or_default() == *wanted
    }
}

/// By the referrers API, or where there is none by the tag that its clients keep (distribution-spec, "Unavailable
/// Referrers API"), and how many bytes that were.
async fn of_upstream(client: &Client, path: &str, subject: &Digest) -> Result<(Referrers, usize)> {
    let (mut found, mut bytes) = (Referrers::new(), 0);
    let mut next = Some(client.referrers(path, subject)?);
    for page in 0..PAGES {
        let Some(place) = next.take() else {
            return Ok((found, bytes));
        };
        match client.index(path, place).await? {
            Some((index, after)) => {
                bytes += index.len();
                if bytes > MOST_BYTES {
                    break;
                }
                read(client, &index, &mut found)?;
                next = after;
            }
            None if page == 0 => {
                let tag = fallback_tag(subject);
                if let Some(manifest) = client.manifest(path, &tag).await?
                    && media_type::is_index(&manifest.media_type)
                {
                    bytes = manifest.content.len();
                    read(client, &manifest.content, &mut found)?;
                }
                return Ok((found, bytes));
            }
            None => return Ok((found, bytes)),
        }
    }
    Err(Error::TooLarge {
        what: "the upstream's list of referrers",
        limit: MOST_BYTES as u64,
    })
}

/// `<alg>-<ref>`, the latter of at most 64 characters (distribution-spec, "Referrers Tag Schema").
pub(super) fn fallback_tag(subject: &Digest) -> String {
    let (algorithm, encoded) = (subject.algorithm().as_str(), subject.encoded());
    format!("{algorithm}-{}", &encoded[..encoded.len().min(64)])
}

/// Takes what is a descriptor, with all that the specification knows of one.
fn read(client: &Client, index: &[u8], found: &mut Referrers) -> Result<()> {
    #[derive(Deserialize)]
    struct List {
        // Programs in Go write a list of nothing as null. No list at all is an error.
        #[serde(deserialize_with = "Option::deserialize")]
        manifests: Option<Vec<Entry>>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Entry {
        Descriptor(Box<Descriptor>),
        Other(IgnoredAny),
    }
    let list = match manifest::check_values(index) {
        Ok(()) => serde_json::from_slice::<List>(index).ok(),
        Err(_) => None,
    };
    let nonsense = || client.nonsense("a list of referrers that is none");
    let list = list.ok_or_else(nonsense)?;
    for entry in list.manifests.into_iter().flatten() {
        if let Entry::Descriptor(descriptor) = entry
            && let Ok(text) = serde_json::to_string(&descriptor)
        {
            found.insert(descriptor.digest, text);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_of_a_list_is_read_than_its_page_takes() {
        let mut digests: Vec<_> = (0..9).map(|n: u8| Digest::of([n])).collect();
        digests.sort();
        let text = |n: usize| format!(r#"{{"n":{n},"artifactType":"{}"}}"#, n % 2);
        let entry = |n: usize| (digests[n].clone(), text(n));
        let size = text(0).len() + 1;
        let read = std::cell::Cell::new(0);
        let list = |after: Option<usize>, kind: Option<&str>, most: usize| {
            let wanted = Wanted {
                after: after.map(|n| digests[n].clone()),
                kind: kind.map(ToOwned::to_owned),
                most,
            };
            // Ours are 0, 2, 3, 4, 6, 8; theirs 1, 2, 5, 7.
            let ours = [0, 2, 3, 4, 6, 8].into_iter();
            let ours = ours.filter(|n| after.is_none_or(|after| *n > after));
            read.set(0);
            let ours = ours.map(|n| {
                read.set(read.get() + 1);
                Ok(entry(n))
            });
            let theirs = [1, 2, 5, 7].into_iter().map(entry).collect();
            let (found, more) = page(ours, theirs, &wanted).unwrap();
            let more = more.map(|last| digests.iter().position(|d| *d == last).unwrap());
            let of = |found: &String| (0..9).position(|n| text(n) == *found).unwrap();
            (found.iter().map(of).collect::<Vec<_>>(), more)
        };
        let all: Vec<_> = (0..9).collect();
        assert_eq!(list(None, None, 100 * size), (all, None));
        assert_eq!(list(None, None, 2 * size), (vec![0, 1], Some(1)));
        assert_eq!(read.get(), 3);
        assert_eq!(list(Some(1), None, 3 * size), (vec![2, 3, 4], Some(4)));
        assert_eq!(list(Some(4), None, 4 * size), (vec![5, 6, 7, 8], None));
        assert_eq!(list(Some(4), None, 1), (vec![5], Some(5)));
        assert_eq!(list(None, Some("1"), 3 * size), (vec![1, 3, 5], Some(5)));
        assert_eq!(list(Some(8), None, size), (vec![], None));
    }
}
