//! Images.

use clap::{Args, Subcommand};
use slipway_proto::{
    registry::v1::{
        ImageSummary, InspectImageRequest, ListImagesRequest, PruneImagesRequest, PullRequest,
        PushRequest, RemoveImageRequest, TagImageRequest, pull_event, pull_request::Policy,
        push_event,
    },
    runtime::v1::{ListRequest, PruneLayersRequest},
    types::v1::Page,
};

use super::{confirm, container, each, run::familiar};
use crate::{
    client::Site,
    failure::{Failure, Outcome},
    output::{
        self,
        human::{self, short_id},
        progress::Show,
        table::{self, Columns, Row},
    },
    spec::{options::platform, units},
};

/// Commands that stand at the top and below `image`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List images
    Images(Ls),
    /// Download an image from a registry
    Pull(Pull),
    /// Upload an image to a registry
    Push {
        /// Push all tags of an image to the repository
        #[arg(short, long)]
        all_tags: bool,
        /// Suppress verbose output
        #[arg(short, long)]
        quiet: bool,
        /// Push a platform-specific manifest as a single-platform image
        #[arg(long)]
        platform: Option<String>,
        name: String,
    },
    /// Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
    Tag { source: String, target: String },
    /// Remove one or more images
    Rmi(Rm),
    /// Show the history of an image
    History {
        /// Print sizes and dates in human readable format
        #[arg(short = 'H', long, default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
        human: bool,
        /// Don't truncate output
        #[arg(long)]
        no_trunc: bool,
        /// Only show image IDs
        #[arg(short, long)]
        quiet: bool,
        /// Format output using a custom template
        #[arg(long)]
        format: Option<String>,
        image: String,
    },
}

/// `ctl image ...`
#[derive(Debug, Subcommand)]
pub enum Group {
    #[command(flatten)]
    Common(Command),
    /// List images
    #[command(alias = "list")]
    Ls(Ls),
    /// Remove one or more images
    #[command(alias = "remove")]
    Rm(Rm),
    /// Build an image from a Dockerfile
    Build(Box<super::build::Build>),
    /// Display detailed information on one or more images
    Inspect(crate::inspect::Inspect),
    /// Remove unused images
    Prune {
        /// Remove all unused images, not just dangling ones
        #[arg(short, long)]
        all: bool,
        /// Provide filter values
        #[arg(long)]
        filter: Vec<String>,
        /// Do not prompt for confirmation
        #[arg(short, long)]
        force: bool,
    },
}

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
    #[arg(default_value = "")]
    repository: String,
}

#[derive(Debug, Args)]
pub struct Pull {
    /// Download all tagged images in the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Suppress verbose output
    #[arg(short, long)]
    quiet: bool,
    /// Set platform if server is multi-platform capable
    #[arg(long)]
    platform: Option<String>,
    name: String,
}

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

impl Group {
    pub async fn run(self, site: &Site) -> Outcome {
        match self {
            Self::Common(command) => command.run(site).await,
            Self::Ls(ls) => ls.run(site).await,
            Self::Rm(rm) => rm.run(site).await,
            Self::Build(build) => build.run(site).await,
            Self::Inspect(inspect) => inspect.run(site, Some("image")).await,
            Self::Prune { all, filter, force } => {
                let filters = units::filters(&filter)?;
                let what = if all {
                    "all images without at least one container associated to them"
                } else {
                    "all dangling images"
                };
                if !confirm(&format!("This will remove {what}."), force)? {
                    return Ok(0);
                }
                prune(site, all, filters, 0).await
            }
        }
    }
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
        answer
            .untagged
            .iter()
            .for_each(|n| out.push_str(&format!("untagged: {}\n", super::run::familiar_kept(n))));
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
    async fn run(self, site: &Site) -> Outcome {
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
                .map(|n| format!("Untagged: {}", super::run::familiar_kept(n)));
            Ok(untagged
                .chain(answer.deleted.iter().map(|d| format!("Deleted: {d}")))
                .collect::<Vec<_>>()
                .join("\n"))
        })
        .await
    }
}

impl Pull {
    async fn run(self, site: &Site) -> Outcome {
        if !self.quiet
            && !self.all_tags
            && !self.name.contains('@')
            && !self.name.rsplit('/').next().unwrap_or("").contains(':')
        {
            println!("Using default tag: latest");
        }
        let request = PullRequest {
            reference: self.name.clone(),
            platform: self.platform.as_deref().map(platform).transpose()?,
            policy: Policy::Always.into(),
            all_tags: self.all_tags,
            ..PullRequest::default()
        };
        let mut events = site.registry().pull(request).await?.into_inner();
        let mut show = Show::new(self.quiet);
        let mut done = false;
        while let Some(event) = events.message().await? {
            match event.event {
                Some(pull_event::Event::Status(text)) => show.line(&text),
                Some(pull_event::Event::Progress(progress)) => show.update(&progress),
                Some(pull_event::Event::Warning(text)) => eprintln!("WARNING: {text}"),
                Some(pull_event::Event::Done(end)) => {
                    done = true;
                    let name = end
                        .reference
                        .parse::<slipway_image::Reference>()
                        .map_or_else(|_| end.reference.clone(), |r| r.to_string());
                    if !self.quiet {
                        let what = if end.newer {
                            "Downloaded newer image for"
                        } else {
                            "Image is up to date for"
                        };
                        output::print(&format!(
                            "Digest: {}\nStatus: {what} {}\n",
                            end.digest,
                            familiar(&end.reference)
                        ))?;
                    }
                    output::print(&format!("{name}\n"))?;
                }
                Some(pull_event::Event::Resolved(_)) | None => {}
            }
        }
        if done {
            Ok(0)
        } else {
            Err(Failure::new(
                "the registry ended the pull before it was complete: see its log",
            ))
        }
    }
}

impl Ls {
    async fn run(self, site: &Site) -> Outcome {
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
const HIDDEN: [(&str, &str); 6] = [
    ("Digest", "DIGEST"),
    ("CreatedAt", "CREATED AT"),
    ("Containers", "CONTAINERS"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "VIRTUAL SIZE"),
];

/// A line for each tag.
fn rows(image: &ImageSummary, id: &str) -> Vec<Row> {
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

impl Command {
    pub async fn run(self, site: &Site) -> Outcome {
        match self {
            Self::Images(ls) => ls.run(site).await,
            Self::Pull(pull) => pull.run(site).await,
            Self::Rmi(rm) => rm.run(site).await,
            Self::Tag { source, target } => {
                site.registry()
                    .tag_image(TagImageRequest { source, target })
                    .await?;
                Ok(0)
            }
            Self::Push {
                all_tags,
                quiet,
                platform: wanted,
                name,
            } => {
                let platform = wanted.as_deref().map(platform).transpose()?;
                let mut events = site
                    .registry()
                    .push(PushRequest {
                        reference: name,
                        auth: None,
                        all_tags,
                        platform,
                    })
                    .await?
                    .into_inner();
                let mut show = Show::new(quiet);
                let mut done = false;
                while let Some(event) = events.message().await? {
                    match event.event {
                        Some(push_event::Event::Status(text)) => show.line(&text),
                        Some(push_event::Event::Progress(progress)) => show.update(&progress),
                        Some(push_event::Event::Done(end)) => {
                            done = true;
                            let reference = end.reference.parse::<slipway_image::Reference>().ok();
                            let tag = reference
                                .as_ref()
                                .and_then(|r| r.tag())
                                .unwrap_or("latest")
                                .to_owned();
                            if quiet {
                                output::print(&format!("{}\n", end.reference))?;
                            } else {
                                output::print(&format!(
                                    "{tag}: digest: {} size: {}\n",
                                    end.digest, end.size
                                ))?;
                            }
                        }
                        None => {}
                    }
                }
                if done {
                    Ok(0)
                } else {
                    Err(Failure::new(
                        "the registry ended the push before it was complete: see its log",
                    ))
                }
            }
            Self::History {
                human: readable,
                no_trunc,
                quiet,
                format,
                image,
            } => history(site, image, readable, no_trunc, quiet, format.as_deref()).await,
        }
    }
}

async fn history(
    site: &Site,
    image: String,
    readable: bool,
    whole: bool,
    quiet: bool,
    format: Option<&str>,
) -> Outcome {
    let answer = site
        .registry()
        .inspect_image(InspectImageRequest {
            image,
            platform: None,
        })
        .await?
        .into_inner();
    let resolved = answer.resolved.unwrap_or_default();
    let config = slipway_image::ImageConfig::parse(&resolved.config_json)
        .map_err(|e| Failure::new(format!("the image's config is not JSON: {e}")))?;
    let mut layers = resolved.layers.iter();
    let mut rows = Vec::new();
    for line in &config.history {
        // Compressed sizes: what the registry holds.
        let size = if line.empty_layer {
            0
        } else {
            layers.next().map_or(0, |l| l.size)
        };
        let at = line
            .created
            .as_deref()
            .and_then(|t| t.parse::<jiff::Timestamp>().ok());
        let stamp = at.map(|t| prost_types::Timestamp {
            seconds: t.as_second(),
            nanos: 0,
        });
        let by = line
            .created_by
            .clone()
            .unwrap_or_default()
            .replace('\t', " ");
        rows.push(Row::new([
            ("ID", "<missing>".to_owned()),
            (
                "CreatedSince",
                if readable {
                    human::ago(stamp.as_ref())
                } else {
                    human::rfc3339(stamp.as_ref())
                },
            ),
            ("CreatedAt", human::rfc3339(stamp.as_ref())),
            (
                "CreatedBy",
                if whole { by } else { human::ellipsis(&by, 45) },
            ),
            (
                "Size",
                if readable {
                    human::size(size)
                } else {
                    size.to_string()
                },
            ),
            ("Comment", line.comment.clone().unwrap_or_default()),
        ]));
    }
    rows.reverse();
    let id = if whole {
        resolved.image_id.clone()
    } else {
        short_id(&resolved.image_id).to_owned()
    };
    if let Some(first) = rows.first_mut() {
        first.fields.insert("ID".to_owned(), id.into());
    }
    if quiet {
        let ids = rows
            .iter()
            .filter_map(|r| r.fields.get("ID").and_then(|v| v.as_str()));
        output::print(&ids.map(|id| format!("{id}\n")).collect::<String>())?;
        return Ok(0);
    }
    let columns = Columns {
        shown: &[
            ("ID", "IMAGE"),
            ("CreatedSince", "CREATED"),
            ("CreatedBy", "CREATED BY"),
            ("Size", "SIZE"),
            ("Comment", "COMMENT"),
        ],
        hidden: &[("CreatedAt", "CREATED AT")],
    };
    output::print(&table::render(columns, &rows, format)?)?;
    Ok(0)
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
