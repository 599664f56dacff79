//! What refers to a mirrored image: asked of the upstream, since what nobody pulled yet is only there.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Mutex,
    time::Instant,
};

use serde_json::Value;
use slipway_image::{Descriptor, Digest, media_type};
use tracing::debug;

use super::{Client, lock};
use crate::{
    error::{Error, Result},
    names::Repository,
    registry::Registry,
    store::Origin,
};

/// Descriptors by digest, as they came.
pub type Referrers = BTreeMap<Digest, Value>;

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
    /// What refers to a manifest: what is here, and of a mirrored one what its upstream says. Also why that could
    /// not be asked.
    pub async fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
    ) -> Result<(Referrers, Option<String>)> {
        let mut found = self.index.referrers(repository, subject)?;
        let record = self.index.manifest(repository, subject)?;
        if record.is_none_or(|record| record.origin != Origin::Upstream) {
            return Ok((found, None));
        }
        let (told, trouble) = match self.ask_for_referrers(repository, subject).await {
            Ok(told) => (told, None),
            // What refers to an image is worth less than the image: whoever may have that gets what is known.
            Err(error) => {
                let known = self.mirror.referrers.last(repository, subject);
                let known = known.map(|(_, told)| told);
                (known.unwrap_or_default(), Some(error.to_string()))
            }
        };
        for (digest, descriptor) in told {
            found.entry(digest).or_insert(descriptor);
        }
        Ok((found, trouble))
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
                read(&index, &mut found);
                next = after;
            }
            None if page == 0 => {
                let tag = fallback_tag(subject);
                if let Some(manifest) = client.manifest(path, &tag).await?
                    && media_type::is_index(&manifest.media_type)
                {
                    bytes = manifest.content.len();
                    read(&manifest.content, &mut found);
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
fn fallback_tag(subject: &Digest) -> String {
    let (algorithm, encoded) = (subject.algorithm().as_str(), subject.encoded());
    format!("{algorithm}-{}", &encoded[..encoded.len().min(64)])
}

/// Takes what is a descriptor. Whatever else stands in it is passed on.
fn read(index: &[u8], found: &mut Referrers) {
    let Ok(index) = serde_json::from_slice::<Value>(index) else {
        debug!("an upstream's list of referrers is no JSON");
        return;
    };
    for entry in index["manifests"].as_array().into_iter().flatten() {
        if let Ok(descriptor) = serde_json::from_value::<Descriptor>(entry.clone()) {
            found.insert(descriptor.digest, entry.clone());
        }
    }
}
