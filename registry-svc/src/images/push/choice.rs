//! What is pushed of a name: all that its manifest names, or, where an index is not all here, the one image that
//! can be meant, as docker does with the store of containerd.

use std::collections::HashSet;

use slipway_image::{Descriptor, Digest, Manifest, Platform};

use super::{Part, no_such};
use crate::{
    error::{Error, Result},
    manifests::Stored,
    names::{ImageName, Pointer, Repository},
    registry::Registry,
};

/// Manifests for the remote.
pub struct Choice {
    /// What the name names there.
    pub top: Stored,
    /// Manifests below it, each behind those that it names.
    pub below: Vec<Stored>,
    /// Where the top is one image of an index.
    pub part: Option<Part>,
}

impl Registry {
    /// Chooses; an error where several images of an index could be meant.
    pub(super) async fn choose_pushed(
        &self,
        name: &ImageName,
        platform: Option<&Platform>,
    ) -> Result<Choice> {
        let image = |top| Choice {
            top,
            below: Vec::new(),
            part: None,
        };
        if platform.is_some() {
            return Ok(image(self.image_of(name, platform).await?.manifest));
        }
        let top = self.stored(name).await?.ok_or_else(|| no_such(name))?;
        let Manifest::Index(index) = top.parse()? else {
            return Ok(image(top));
        };
        if let Some(mut below) = self.all_below(&name.repository, &top.digest).await? {
            below.pop();
            return Ok(Choice {
                top,
                below,
                part: None,
            });
        }
        let (mut here, mut missing) = (Vec::new(), Vec::new());
        for child in &index.manifests {
            let platform = child.platform.as_ref().filter(|p| p.os != "unknown");
            let stored = self.stored(&named(&name.repository, &child.digest)).await?;
            match (stored, platform) {
                (Some(stored), Some(platform))
                    if self.is_whole_enough(&name.repository, &stored).await =>
                {
                    here.push((child, platform.clone(), stored));
                }
                // Attestations and the like are no image that could be meant.
                (Some(_), None) => {}
                (_, Some(platform)) => missing.push(platform.to_string()),
                (None, None) => missing.push(child.digest.to_string()),
            }
        }
        let host = index.select(&Platform::host());
        let is_hosts = |(child, ..): &(&Descriptor, Platform, Stored)| Some(*child) == host;
        let at = match here.iter().position(is_hosts) {
            Some(at) => at,
            None if here.len() == 1 => 0,
            None => return Err(unclear(name, here.iter().map(|(_, p, _)| p), &missing)),
        };
        let (_, platform, image) = here.swap_remove(at);
        Ok(Choice {
            top: image,
            below: Vec::new(),
            part: Some(Part {
                index: top.digest,
                platform,
                missing,
            }),
        })
    }

    /// The manifest and all below it, each behind those that it names; `None` when one of them is not here. An
    /// index may name another one, and several the same.
    async fn all_below(
        &self,
        repository: &Repository,
        top: &Digest,
    ) -> Result<Option<Vec<Stored>>> {
        enum Step {
            Enter(Digest),
            Leave(Stored),
        }
        let (mut order, mut seen) = (Vec::new(), HashSet::new());
        let mut todo = vec![Step::Enter(top.clone())];
        while let Some(step) = todo.pop() {
            match step {
                Step::Leave(stored) => order.push(stored),
                Step::Enter(digest) => {
                    if !seen.insert(digest.clone()) {
                        continue;
                    }
                    let Some(stored) = self.stored(&named(repository, &digest)).await? else {
                        return Ok(None);
                    };
                    let children = match stored.parse()? {
                        Manifest::Index(index) => index.manifests,
                        _ => Vec::new(),
                    };
                    todo.push(Step::Leave(stored));
                    todo.extend(children.into_iter().map(|c| Step::Enter(c.digest)));
                }
            }
        }
        Ok(Some(order))
    }
}

fn named(repository: &Repository, digest: &Digest) -> ImageName {
    ImageName {
        repository: repository.clone(),
        pointer: Pointer::Digest(digest.clone()),
    }
}

fn unclear<'a>(
    name: &ImageName,
    here: impl Iterator<Item = &'a Platform>,
    missing: &[String],
) -> Error {
    let here: Vec<String> = here.map(ToString::to_string).collect();
    let (name, missing) = (name.familiar(), missing.join(", "));
    Error::InvalidArgument(match &here[..] {
        [] => format!(
            "{name}: no image of its index is here, so nothing can be pushed; not here: {missing}. Pull it first"
        ),
        _ => format!(
            "{name}: not all of its index is here, and several images are: {}; say which one is meant with \
             --platform, or pull the others first: {missing}",
            here.join(", ")
        ),
    })
}
