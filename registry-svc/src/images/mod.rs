//! Images as docker's users know them: an id (the digest of the config), names, a platform; seen
//! through the manifests and tags of all repositories.

use std::collections::BTreeMap;

use slipway_image::{Descriptor, Digest, Manifest, Platform, manifest::ImageManifest};

use crate::{
    error::{Error, Result},
    manifests::Stored,
    names::{ImageName, Pointer, Repository, Tag},
    registry::Registry,
};

pub mod archive;
pub mod filter;
pub mod import;
pub mod list;
pub mod load;
pub mod pull;
pub mod push;
pub mod remove;
pub mod save;
pub mod search;
pub mod usage;

/// An image that is here: everything that is needed to run it or build upon it.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of the config.
    pub id: Digest,
    /// The name that it was found by, if by name.
    pub name: Option<ImageName>,
    /// Where its blobs are found.
    pub repository: Repository,
    /// What the name names: an index when there is one.
    pub top: Digest,
    /// The manifest of the platform.
    pub manifest: Stored,
    /// Parsed.
    pub parsed: ImageManifest,
    /// The config's bytes.
    pub config_json: bytes::Bytes,
    /// The parts of the config that lists and filters need.
    pub config: ConfigView,
}

/// What lists, filters and unpackers need of a config.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default)]
pub struct ConfigView {
    /// RFC 3339.
    pub created: Option<String>,
    /// `linux`
    pub os: String,
    /// `amd64`
    pub architecture: String,
    /// `v7`
    pub variant: String,
    /// Labels are below.
    pub config: Option<ConfigPart>,
    /// Layers.
    pub rootfs: RootFs,
}

/// The `config` object of a config.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ConfigPart {
    /// Labels.
    pub labels: Option<BTreeMap<String, String>>,
}

/// The `rootfs` object of a config.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// Digests of the uncompressed layers, base first.
    pub diff_ids: Option<Vec<String>>,
}

impl Image {
    /// Labels.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let part = self.config.config.clone().unwrap_or_default();
        part.labels.unwrap_or_default()
    }

    /// When it was made.
    pub fn created(&self) -> Option<jiff::Timestamp> {
        self.config.created.as_deref()?.parse().ok()
    }

    /// Platform.
    pub fn platform(&self) -> Platform {
        Platform::new(
            &self.config.os,
            &self.config.architecture,
            &self.config.variant,
        )
    }

    /// Compressed size of all its blobs.
    pub fn size(&self) -> u64 {
        let layers: u64 = self.parsed.layers.iter().map(|l| l.size).sum();
        layers + self.parsed.config.size + self.manifest.record.size
    }

    /// Config and layers.
    pub fn blobs(&self) -> Vec<Descriptor> {
        Manifest::Image(self.parsed.clone())
            .references()
            .into_iter()
            .cloned()
            .collect()
    }
}

impl Registry {
    /// Finds an image that is here with all its layers, by docker's rules: a name, else a unique prefix
    /// of an id.
    pub async fn find_image(&self, text: &str, platform: Option<&Platform>) -> Result<Image> {
        let named = self.own.parse_image(text);
        if let Ok(name) = &named {
            match self.image_of(name, platform).await {
                Ok(image) if self.has_all(&image.repository, &image.blobs()).await? => {
                    return Ok(image);
                }
                Ok(_) | Err(Error::ImageNotFound(_)) => {}
                Err(e) => return Err(e),
            }
        }
        let prefix = text.strip_prefix("sha256:").unwrap_or(text);
        let hex = prefix
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !prefix.is_empty() && prefix.len() <= 64 && hex {
            let mut images = self.images().await?;
            images.retain(|image| image.image.id.encoded().starts_with(prefix));
            match images.len() {
                0 => {}
                1 => return Ok(images.remove(0).image),
                matches => {
                    return Err(Error::AmbiguousId {
                        prefix: prefix.to_owned(),
                        matches,
                    });
                }
            }
        } else {
            named?;
        }
        Err(Error::ImageNotFound(text.to_owned()))
    }

    /// The image that a name names here, for a platform (`None`: the host's, else the first there is).
    pub async fn image_of(&self, name: &ImageName, platform: Option<&Platform>) -> Result<Image> {
        let missing = || Error::ImageNotFound(name.familiar());
        let top = self.stored(name).await?.ok_or_else(missing)?;
        let manifest = match top.parse()? {
            Manifest::Image(_) | Manifest::Other(_) => top.clone(),
            Manifest::Index(index) => {
                let host = Platform::host();
                let wanted = platform.unwrap_or(&host);
                let mut candidates: Vec<&Descriptor> = index.select(wanted).into_iter().collect();
                if platform.is_none() {
                    candidates.extend(index.manifests.iter());
                }
                let mut found = None;
                for child in candidates {
                    let child = ImageName {
                        repository: name.repository.clone(),
                        pointer: Pointer::Digest(child.digest.clone()),
                    };
                    if let Some(stored) = self.stored(&child).await?
                        && self.is_whole_enough(&name.repository, &stored).await
                    {
                        found = Some(stored);
                        break;
                    }
                }
                found.ok_or_else(missing)?
            }
        };
        let image = self
            .image_from(&name.repository, Some(name.clone()), top.digest, manifest)
            .await
            .map_err(|e| match e {
                // The config is still upstream: not here.
                Error::BlobNotFound(_) => missing(),
                other => other,
            })?;
        match platform.filter(|p| !image.platform().satisfies(p)) {
            Some(platform) => Err(Error::PlatformNotFound {
                name: name.familiar(),
                platform: platform.to_string(),
            }),
            None => Ok(image),
        }
    }

    pub(super) async fn is_whole_enough(&self, repository: &Repository, stored: &Stored) -> bool {
        match stored.parse() {
            Ok(Manifest::Image(m)) if m.is_image() => {
                self.config(repository, &m.config.digest).await.is_ok()
            }
            _ => false,
        }
    }

    /// An image's config, if it is here and the repository's.
    async fn config(&self, repository: &Repository, digest: &Digest) -> Result<bytes::Bytes> {
        match self.index.is_linked(repository, digest)? {
            true => self.small_blob(digest).await,
            false => Err(Error::BlobNotFound(digest.clone())),
        }
    }

    /// Reads the rest of an image whose manifest is known.
    pub async fn image_from(
        &self,
        repository: &Repository,
        name: Option<ImageName>,
        top: Digest,
        manifest: Stored,
    ) -> Result<Image> {
        let Manifest::Image(parsed) = manifest.parse()? else {
            return Err(Error::ManifestInvalid(format!(
                "{} is no image, which was expected",
                manifest.digest
            )));
        };
        if !parsed.is_image() {
            return Err(Error::ManifestInvalid(format!(
                "{} is not an image: its config is {}",
                manifest.digest, parsed.config.media_type
            )));
        }
        let config_json = self.config(repository, &parsed.config.digest).await?;
        let config = serde_json::from_slice(&config_json)
            .map_err(|e| Error::ManifestInvalid(format!("the image's config: {e}")))?;
        Ok(Image {
            id: parsed.config.digest.clone(),
            name,
            repository: repository.clone(),
            top,
            manifest,
            parsed,
            config_json,
            config,
        })
    }

    /// docker tag.
    pub async fn tag_image(&self, source: &str, target: &str) -> Result<Digest> {
        let name = self.own.parse_image(target)?;
        let Pointer::Tag(tag) = &name.pointer else {
            return Err(Error::InvalidArgument(
                "refusing to create a tag with a digest reference".to_owned(),
            ));
        };
        let image = self.find_image(source, None).await?;
        let source = ImageName {
            repository: image.repository.clone(),
            pointer: Pointer::Digest(image.top.clone()),
        };
        self.tag(&source, &name.repository, tag).await?;
        self.events
            .tell("tag", image.id.to_string(), name.familiar());
        Ok(image.id)
    }

    /// Tag and digest names that lead to a manifest in its repository.
    pub(crate) fn names_of(&self, repository: &Repository, top: &Digest) -> Result<Vec<Tag>> {
        self.tags_naming(repository, top)
    }
}
