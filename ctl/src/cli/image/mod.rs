//! Images: their [`list`], their way here and there ([`transfer`], [`archive`]), their removal ([`remove`]).

mod archive;
mod list;
mod remove;
mod transfer;

use clap::Subcommand;
use slipway_proto::registry::v1::TagImageRequest;

pub use list::{HIDDEN, rows};

use self::{
    archive::{Load, Save},
    list::Ls,
    remove::Rm,
    transfer::{Pull, Push},
};
use super::{confirm, prune};
use crate::{client::Site, failure::Outcome, spec::units};

/// Commands that stand at the top and below `image`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List images
    Images(Ls),
    /// Download an image from a registry
    Pull(Pull),
    /// Upload an image to a registry
    Push(Push),
    /// Save one or more images to a tar archive (streamed to STDOUT by default)
    Save(Save),
    /// Load an image from a tar archive or STDIN
    Load(Load),
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
                prune::images(site, all, filters).await?.print()
            }
        }
    }
}

impl Command {
    pub async fn run(self, site: &Site) -> Outcome {
        match self {
            Self::Images(ls) => ls.run(site).await,
            Self::Pull(pull) => pull.run(site).await,
            Self::Save(save) => save.run(site).await,
            Self::Load(load) => load.run(site).await,
            Self::Rmi(rm) => rm.run(site).await,
            Self::Tag { source, target } => {
                site.registry()
                    .tag_image(TagImageRequest { source, target })
                    .await?;
                Ok(0)
            }
            Self::Push(push) => push.run(site).await,
            Self::History {
                human: readable,
                no_trunc,
                quiet,
                format,
                image,
            } => list::history(site, image, readable, no_trunc, quiet, format.as_deref()).await,
        }
    }
}
