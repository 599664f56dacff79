//! `docker save`: images as an archive.

use std::{collections::BTreeMap, io, io::Write, sync::Arc};

use futures_util::StreamExt as _;
use slipway_image::{Descriptor, Digest, Manifest, Platform, Reference};
use tokio::runtime::Handle;

use super::{
    Image,
    archive::write::{Contents, Saved},
};
use crate::{
    blobs::{Range, staging::blocking},
    error::{Error, Result},
    leases::Guard,
    manifests::Stored,
    names::{ImageName, Pointer, Repository, Tag},
    registry::Registry,
};

/// An archive that can be written: nothing of it goes meanwhile.
pub struct Archive {
    contents: Contents,
    _held: Vec<Guard>,
}

impl Registry {
    /// What an archive of these images is to hold: names, names of repositories with all their tags, ids. Of an
    /// index, all that is here of it or one platform.
    pub async fn archive(&self, images: &[String], platform: Option<&Platform>) -> Result<Archive> {
        let mut gathered = Gathered::default();
        for text in images {
            for (name, image) in self.named_images(text, platform).await? {
                self.events.tell(
                    "save",
                    image.id.to_string(),
                    name.as_ref().map_or_else(String::new, |(repository, tag)| {
                        format!("{}:{tag}", repository.familiar())
                    }),
                );
                self.gather(&mut gathered, name, &image, platform).await?;
            }
        }
        let mut held = Vec::new();
        for (digest, size) in &gathered.blobs {
            held.push(self.leases.hold(digest).await);
            if self.blobs.stat(digest).await? != Some(*size) {
                return Err(Error::BlobNotFound(digest.clone()));
            }
        }
        Ok(Archive {
            contents: Contents::with_lists(gathered.blobs, &gathered.images),
            _held: held,
        })
    }

    /// Writes an archive.
    pub async fn write_archive<W: Write + Send + 'static>(
        self: &Arc<Self>,
        archive: Archive,
        out: W,
    ) -> Result<()> {
        let (registry, runtime) = (Arc::clone(self), Handle::current());
        blocking(move || {
            let written = archive.contents.write(out, |digest, out| {
                let opened = registry.blobs.read(digest, Range::default());
                let mut content = runtime.block_on(opened).map_err(io::Error::other)?.stream;
                let mut written = 0;
                while let Some(piece) = runtime.block_on(content.next()) {
                    let piece = piece.map_err(io::Error::other)?;
                    out.write_all(&piece)?;
                    written += piece.len() as u64;
                }
                Ok(written)
            });
            let written = written.and_then(|mut out| out.flush());
            written.map_err(|e| Error::Interrupted(e.to_string()))
        })
        .await
    }

    /// The images that a word of `docker save` means, with the names that they are saved under.
    async fn named_images(
        &self,
        text: &str,
        platform: Option<&Platform>,
    ) -> Result<Vec<(Option<(Repository, Tag)>, Image)>> {
        let bare = text
            .parse::<Reference>()
            .is_ok_and(|name| name.tag().is_none() && name.digest().is_none());
        if bare {
            let repository = self.own.parse_image(text)?.repository;
            let mut found = Vec::new();
            for (tag, _) in self.index.tags_of(&repository, None, usize::MAX)? {
                let name = ImageName {
                    repository: repository.clone(),
                    pointer: Pointer::Tag(tag.clone()),
                };
                match self.image_of(&name, platform).await {
                    Ok(image) if self.has_all(&image.repository, &image.blobs()).await? => {
                        found.push((Some((repository.clone(), tag)), image));
                    }
                    // An artifact, or an image that was never fetched.
                    Ok(_) | Err(Error::ImageNotFound(_) | Error::ManifestInvalid(_)) => {}
                    Err(e) => return Err(e),
                }
            }
            if !found.is_empty() {
                return Ok(found);
            }
        }
        let image = self.find_image(text, platform).await?;
        let name = match &image.name {
            // Found by its id: an image without a name, as docker has it, whatever names it has.
            Some(name) if self.own.parse_image(text).ok().as_ref() == Some(name) => {
                match &name.pointer {
                    Pointer::Tag(tag) => Some((name.repository.clone(), tag.clone())),
                    Pointer::Digest(_) => None,
                }
            }
            _ => None,
        };
        Ok(vec![(name, image)])
    }

    /// Adds an image with all that is here of it.
    async fn gather(
        &self,
        gathered: &mut Gathered,
        name: Option<(Repository, Tag)>,
        image: &Image,
        platform: Option<&Platform>,
    ) -> Result<()> {
        let stored = |digest: &Digest| ImageName {
            repository: image.repository.clone(),
            pointer: Pointer::Digest(digest.clone()),
        };
        let top = self
            .stored(&stored(&image.top))
            .await?
            .ok_or_else(|| Error::ManifestNotFound(image.top.to_string()))?;
        gathered.add(&top);
        match top.parse()? {
            Manifest::Index(index) => {
                for child in &index.manifests {
                    if platform.is_some() && child.digest != image.manifest.digest {
                        continue;
                    }
                    let Some(child) = self.stored(&stored(&child.digest)).await? else {
                        continue;
                    };
                    let parsed = child.parse()?;
                    let blobs: Vec<Descriptor> = parsed.references().into_iter().cloned().collect();
                    if self.has_all(&image.repository, &blobs).await? {
                        gathered.add(&child);
                        gathered.add_all(&blobs);
                    }
                }
            }
            Manifest::Image(_) | Manifest::Other(_) => gathered.add_all(&image.blobs()),
        }
        gathered.images.push(Saved {
            name,
            top: Descriptor::new(top.record.media_type, top.digest, top.record.size),
            image: image.parsed.clone(),
        });
        Ok(())
    }
}

#[derive(Default)]
struct Gathered {
    blobs: BTreeMap<Digest, u64>,
    images: Vec<Saved>,
}

impl Gathered {
    fn add(&mut self, manifest: &Stored) {
        self.blobs
            .insert(manifest.digest.clone(), manifest.record.size);
    }

    fn add_all(&mut self, blobs: &[Descriptor]) {
        let sizes = blobs.iter().map(|b| (b.digest.clone(), b.size));
        self.blobs.extend(sizes);
    }
}
