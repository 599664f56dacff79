//! `--build-context NAME=oci-layout://FOLDER[:TAG|@DIGEST]`: an image of a layout, put into registry-svc for the
//! time of a build.
//!
//! It has a tag of its own in a repository of the platform's, which is listed nowhere and not served. The tag is
//! taken away after the build; one that a killed ctl left goes with a later build of this kind, after a day.

use std::time::{SystemTime, UNIX_EPOCH};

use slipway_image::{Descriptor, Digest, Platform, manifest::ImageIndex, media_type};
use slipway_proto::registry::v1::{ListTagsRequest, RemoveImageRequest};

use super::layout::{Layout, broken, put};
use crate::{
    client::Site,
    failure::{Failure, Outcome},
};

const REPOSITORY: &str = "slipway.internal/oci-layout";
/// How old a tag is that nobody uses any more, seconds.
const OLD: u64 = 24 * 3600;
/// What a name begins with that means a layout.
pub const SCHEME: &str = "oci-layout://";

/// What stands behind `oci-layout://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    folder: String,
    tag: String,
    digest: Option<Digest>,
}

impl Wanted {
    /// Reads a name as buildx does (build/opt.go, loadInputs).
    pub fn parse(text: &str) -> Outcome<Self> {
        let (path, digest) = match text.split_once('@') {
            Some((path, digest)) => (path, Some(digest)),
            None => (text, None),
        };
        let digest = digest.map(|d| {
            d.parse::<Digest>()
                .map_err(|e| unresolved(text, &e.to_string()))
        });
        let (folder, tag) = match path.rsplit_once(':') {
            Some((folder, tag)) if !tag.contains('/') => (folder, tag),
            _ => (path, "latest"),
        };
        Ok(Self {
            folder: folder.to_owned(),
            tag: tag.to_owned(),
            digest: digest.transpose()?,
        })
    }
}

fn unresolved(text: &str, why: &str) -> Failure {
    Failure::new(format!(
        "oci-layout reference {:?} could not be resolved: {why}",
        format!("{SCHEME}{text}")
    ))
}

/// Images that are there as long as a build.
#[derive(Default)]
pub struct Loaded {
    tags: Vec<String>,
}

impl Loaded {
    /// Puts an image there, and says its name. Of an index only the wanted platforms, when the layout does not
    /// hold all of it.
    pub async fn add(
        &mut self,
        site: &Site,
        text: &str,
        platforms: &[Platform],
    ) -> Outcome<String> {
        let wanted = Wanted::parse(text)?;
        if self.tags.is_empty() {
            forget_old(site).await;
        }
        let added = self.put(site, &wanted, platforms).await;
        let digest = added.map_err(|e| unresolved(text, &e.text))?;
        Ok(format!("docker-image://{REPOSITORY}@{digest}"))
    }

    async fn put(
        &mut self,
        site: &Site,
        wanted: &Wanted,
        platforms: &[Platform],
    ) -> Outcome<Digest> {
        let layout = Layout::new(wanted.folder.as_ref());
        let digest = match &wanted.digest {
            Some(digest) => digest.clone(),
            None => {
                let named = layout.named(&wanted.tag)?;
                named
                    .ok_or_else(|| Failure::new("failed to resolve digest"))?
                    .digest
            }
        };
        let random: u64 = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        let tag = format!("{}-{random:016x}", now());
        let text = layout.text(&digest)?;
        let index: Option<ImageIndex> = match text.contains("\"manifests\"") {
            true => Some(serde_json::from_str(&text).map_err(|e| broken("its index", &e))?),
            false => None,
        };
        self.tags.push(tag.clone());
        let place = (REPOSITORY, Some(&*tag));
        let Some(index) = index else {
            layout.put_image(site, place, &digest).await?;
            return Ok(digest);
        };
        if index.manifests.iter().all(|m| layout.has(&m.digest)) {
            for image in &index.manifests {
                layout
                    .put_image(site, (REPOSITORY, None), &image.digest)
                    .await?;
            }
            let kind = index.media_type.as_deref().unwrap_or(media_type::OCI_INDEX);
            put(site, place, kind, text).await?;
            return Ok(digest);
        }
        let image = chosen(&index.manifests, platforms)?;
        layout.put_image(site, place, &image.digest).await?;
        Ok(image.digest.clone())
    }

    /// Takes all of them away again.
    pub async fn forget(self, site: &Site) {
        for tag in self.tags {
            remove(site, &tag).await;
        }
    }
}

/// The image of the wanted platform, or of this one.
fn chosen<'a>(images: &'a [Descriptor], platforms: &[Platform]) -> Outcome<&'a Descriptor> {
    let host = [Platform::host()];
    let wanted = if platforms.is_empty() {
        &host
    } else {
        platforms
    };
    let [wanted] = wanted else {
        return Err(Failure::new(
            "it does not hold all images of its index, and several platforms are built for",
        ));
    };
    let fits = |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| p.satisfies(wanted));
    let found = images.iter().find(fits);
    found.ok_or_else(|| Failure::new(format!("it has no image for {wanted}")))
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |d| d.as_secs())
}

async fn remove(site: &Site, tag: &str) {
    let request = RemoveImageRequest {
        image: format!("{REPOSITORY}:{tag}"),
        ..RemoveImageRequest::default()
    };
    // It goes another time.
    let _ = site.registry().remove_image(request).await;
}

/// Takes tags away whose ctl was killed.
async fn forget_old(site: &Site) {
    let request = ListTagsRequest {
        repository: REPOSITORY.to_owned(),
        ..ListTagsRequest::default()
    };
    let Ok(found) = site.registry().list_tags(request).await else {
        return;
    };
    for tag in found.into_inner().tags.into_iter().map(|t| t.name) {
        let made = tag
            .split_once('-')
            .and_then(|(time, _)| time.parse::<u64>().ok());
        if made.is_none_or(|made| made + OLD < now()) {
            remove(site, &tag).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_layouts_are_read() {
        let digest = Digest::of("x");
        let of = |text: &str| Wanted::parse(text).unwrap();
        let wanted = |folder: &str, tag: &str, digest: Option<&Digest>| Wanted {
            folder: folder.to_owned(),
            tag: tag.to_owned(),
            digest: digest.cloned(),
        };
        assert_eq!(of("a/b"), wanted("a/b", "latest", None));
        assert_eq!(of("a:b/c"), wanted("a:b/c", "latest", None));
        assert_eq!(of("/a:v1"), wanted("/a", "v1", None));
        assert_eq!(
            of(&format!("/a@{digest}")),
            wanted("/a", "latest", Some(&digest))
        );
        let error = Wanted::parse("/a@sha256:1").unwrap_err().text;
        assert!(
            error.contains(
                "oci-layout reference \"oci-layout:///a@sha256:1\" could not be resolved"
            ),
            "{error}"
        );
    }
}
