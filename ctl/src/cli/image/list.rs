//! `images`.

use clap::Args;
use slipway_proto::{
    registry::v1::{ImageSummary, ListImagesRequest},
    types::v1::Page,
};

use crate::{
    client::Site,
    failure::{Failure, Outcome},
    output::{
        self,
        human::{self, short_id},
        table::{self, Columns, Row},
    },
    spec::units,
};

#[derive(Debug, Args)]
pub struct Ls {
    /// Show all images (default hides intermediate images)
    #[arg(short, long)]
    all: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Filter output based on conditions provided
    #[arg(short, long)]
    filter: Vec<String>,
    /// Format output using a custom template
    #[arg(long)]
    format: Option<String>,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only show image IDs
    #[arg(short, long)]
    quiet: bool,
    /// List multi-platform images as a tree (EXPERIMENTAL)
    #[arg(long)]
    tree: bool,
    #[arg(default_value = "")]
    repository: String,
}

impl Ls {
    pub async fn run(self, site: &Site) -> Outcome {
        if self.tree {
            return Err(Failure::new(
                "--tree is not supported, it is an experiment of docker's: the platforms of an image are told by \
                 ctl image inspect --platform OS/ARCH NAME",
            ));
        }
        let mut request = ListImagesRequest {
            all: self.all,
            filters: units::filters(&self.filter)?,
            page: None,
            reference: self.repository.clone(),
        };
        let mut images = Vec::new();
        loop {
            let answer = site
                .registry()
                .list_images(request.clone())
                .await?
                .into_inner();
            images.extend(answer.images);
            if answer.next_page_token.is_empty() {
                break;
            }
            request.page = Some(Page {
                size: 1000,
                token: answer.next_page_token,
            });
        }
        let id = |i: &ImageSummary| {
            if self.no_trunc {
                i.id.clone()
            } else {
                short_id(&i.id).to_owned()
            }
        };
        if self.quiet {
            output::print(&images.iter().map(|i| id(i) + "\n").collect::<String>())?;
            return Ok(0);
        }
        let rows: Vec<Row> = images.iter().flat_map(|i| rows(i, &id(i))).collect();
        let columns = Columns {
            shown: if self.digests { &WITH_DIGEST } else { &SHOWN },
            hidden: &HIDDEN,
        };
        output::print(&table::render(columns, &rows, self.format.as_deref())?)?;
        Ok(0)
    }
}

const SHOWN: [(&str, &str); 5] = [
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("Size", "SIZE"),
];

const WITH_DIGEST: [(&str, &str); 6] = [
    SHOWN[0],
    SHOWN[1],
    ("Digest", "DIGEST"),
    SHOWN[2],
    SHOWN[3],
    SHOWN[4],
];

pub const HIDDEN: [(&str, &str); 6] = [
    ("Digest", "DIGEST"),
    ("CreatedAt", "CREATED AT"),
    ("Containers", "CONTAINERS"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "VIRTUAL SIZE"),
];

/// A line for each tag.
pub fn rows(image: &ImageSummary, id: &str) -> Vec<Row> {
    let none = || "<none>".to_owned();
    let mut names: Vec<(String, String)> = image
        .repo_tags
        .iter()
        .filter_map(|t| t.parse::<slipway_image::Reference>().ok())
        .map(|r| (r.familiar_name(), r.tag().map_or_else(none, str::to_owned)))
        .collect();
    if names.is_empty() {
        let digest = image
            .repo_digests
            .first()
            .and_then(|d| d.parse::<slipway_image::Reference>().ok());
        names.push((digest.map_or_else(none, |r| r.familiar_name()), none()));
    }
    let size = if image.unpacked_size > 0 {
        image.unpacked_size
    } else {
        image.size
    };
    names
        .into_iter()
        .map(|(repository, tag)| {
            let digest = image
                .repo_digests
                .iter()
                .filter_map(|d| d.split_once('@'))
                .find(|(name, _)| {
                    name.parse::<slipway_image::Reference>()
                        .is_ok_and(|r| r.familiar_name() == repository)
                })
                .map_or_else(none, |(_, digest)| digest.to_owned());
            Row::new([
                ("Repository", repository),
                ("Tag", tag),
                ("ID", id.to_owned()),
                ("Digest", digest),
                ("CreatedSince", human::ago(image.created.as_ref())),
                ("CreatedAt", human::created_at(image.created.as_ref())),
                ("Size", human::size(size)),
                ("Containers", "N/A".to_owned()),
                ("SharedSize", "N/A".to_owned()),
                ("UniqueSize", "N/A".to_owned()),
                ("VirtualSize", human::size(size)),
            ])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_tag_and_none_for_dangling() {
        let mut image = ImageSummary {
            id: "sha256:0123456789abcdef".into(),
            repo_tags: vec![
                "docker.io/library/goals:latest".into(),
                "quay.io/a/b:1".into(),
            ],
            size: 187_000_000,
            ..ImageSummary::default()
        };
        let show = |i: &ImageSummary| {
            table::render(
                Columns {
                    shown: &SHOWN,
                    hidden: &HIDDEN,
                },
                &rows(i, "0123456789ab"),
                None,
            )
            .unwrap()
        };
        assert_eq!(
            show(&image),
            "REPOSITORY    TAG       IMAGE ID       CREATED   SIZE\n\
             goals         latest    0123456789ab   N/A       187MB\n\
             quay.io/a/b   1         0123456789ab   N/A       187MB\n"
        );
        image.repo_tags.clear();
        assert!(show(&image).contains("<none>       <none>"));
    }
}
