//! `rmi` and `image prune`.

use clap::Args;
use slipway_proto::{
    registry::v1::{InspectImageRequest, PruneImagesRequest, RemoveImageRequest},
    runtime::v1::{ListRequest, PruneLayersRequest},
};

use super::super::{container, each};
use crate::{
    client::Site,
    failure::{Failure, Outcome},
    output::{
        self,
        human::{self, short_id},
    },
};

#[derive(Debug, Args)]
pub struct Rm {
    /// Force removal of the image
    #[arg(short, long)]
    force: bool,
    /// Do not delete untagged parents
    #[arg(long)]
    no_prune: bool,
    #[arg(required = true)]
    images: Vec<String>,
}

/// Removes unused images, and what the runtime host unpacked of them; what containers use is asked
/// first. `before` was reclaimed already.
pub async fn prune(
    site: &Site,
    all: bool,
    filters: Vec<slipway_proto::types::v1::Filter>,
    before: u64,
) -> Outcome {
    let used = container::list_all(
        site,
        ListRequest {
            all: true,
            ..ListRequest::default()
        },
    )
    .await?;
    let in_use = used.into_iter().map(|c| c.image_id).collect();
    let answer = site
        .registry()
        .prune_images(PruneImagesRequest {
            all,
            filters,
            in_use,
            dry_run: false,
        })
        .await?
        .into_inner();
    let unpacked = site
        .host()
        .prune_layers(PruneLayersRequest { all })
        .await?
        .into_inner();
    let mut out = String::new();
    if !answer.untagged.is_empty() || !answer.deleted.is_empty() {
        out.push_str("Deleted Images:\n");
        answer.untagged.iter().for_each(|n| {
            out.push_str(&format!(
                "untagged: {}\n",
                crate::cli::run::familiar_kept(n)
            ))
        });
        answer
            .deleted
            .iter()
            .for_each(|n| out.push_str(&format!("deleted: {n}\n")));
        out.push('\n');
    }
    out.push_str(&format!(
        "Total reclaimed space: {}\n",
        human::size(before + answer.reclaimed + unpacked.reclaimed)
    ));
    output::print(&out)?;
    Ok(0)
}

/// As docker: the last name of an image that a container uses stays, unless that is forced.
async fn refuse_used(site: &Site, name: &str) -> Outcome<()> {
    let request = InspectImageRequest {
        image: name.to_owned(),
        platform: None,
    };
    // What cannot be looked at is the removal's to complain of.
    let Ok(found) = site.registry().inspect_image(request).await else {
        return Ok(());
    };
    let image = found.into_inner().summary.unwrap_or_default();
    if image.repo_tags.len() > 1 && !image.id.contains(name) {
        return Ok(());
    }
    let all = ListRequest {
        all: true,
        ..ListRequest::default()
    };
    // A site without a runtime has no containers.
    let containers = container::list_all(site, all).await.unwrap_or_default();
    match containers.iter().find(|c| c.image_id == image.id) {
        None => Ok(()),
        Some(user) => Err(Failure::new(format!(
            "conflict: unable to remove repository reference \"{name}\" (must force) - container {} is using its referenced image {}",
            short_id(&user.id),
            short_id(&image.id)
        ))),
    }
}

impl Rm {
    pub async fn run(self, site: &Site) -> Outcome {
        let (force, no_prune) = (self.force, self.no_prune);
        each(&self.images, |image| async move {
            if !force {
                refuse_used(site, &image).await?;
            }
            let answer = site
                .registry()
                .remove_image(RemoveImageRequest {
                    image,
                    force,
                    no_prune,
                })
                .await?
                .into_inner();
            let untagged = answer
                .untagged
                .iter()
                .map(|n| format!("Untagged: {}", crate::cli::run::familiar_kept(n)));
            Ok(untagged
                .chain(answer.deleted.iter().map(|d| format!("Deleted: {d}")))
                .collect::<Vec<_>>()
                .join("\n"))
        })
        .await
    }
}
