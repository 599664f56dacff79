//! `rmi`.

use clap::Args;
use slipway_proto::{
    registry::v1::{InspectImageRequest, RemoveImageRequest},
    runtime::v1::ListRequest,
};

use super::super::{container, each};
use crate::{
    client::Site,
    failure::{Failure, Outcome},
    output::human::short_id,
};

#[derive(Debug, Args)]
pub struct Rm {
    /// Force removal of the image
    #[arg(short, long)]
    force: bool,
    /// Do not delete untagged parents
    #[arg(long)]
    no_prune: bool,
    /// Remove only the given platform variant. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")
    #[arg(long)]
    platform: Vec<String>,
    #[arg(required = true)]
    images: Vec<String>,
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
        if !self.platform.is_empty() {
            return Err(Failure::new(
                "--platform is not supported: an image goes with all its platforms; only those that were pulled take \
                 any room",
            ));
        }
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
