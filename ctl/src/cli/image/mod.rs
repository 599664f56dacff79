//! Images: their [`list`], their way here and there ([`transfer`], [`archive`]), their removal ([`remove`]).

mod archive;
mod history;
mod import;
mod list;
mod remove;
mod search;
mod transfer;

use clap::Subcommand;
use slipway_proto::registry::v1::TagImageRequest;

pub use list::{HIDDEN, rows};
pub use search::Search;

use self::{
    archive::{Load, Save},
    history::History,
    import::Import,
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
    /// Import the contents from a tarball to create a filesystem image
    Import(Import),
    /// Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
    Tag { source: String, target: String },
    /// Remove one or more images
    Rmi(Rm),
    /// Show the history of an image
    History(History),
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
    Inspect(crate::inspect::InspectImage),
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
            Self::Inspect(inspect) => inspect.run(site).await,
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
            Self::Import(import) => import.run(site).await,
            Self::Rmi(rm) => rm.run(site).await,
            Self::Tag { source, target } => {
                site.registry()
                    .tag_image(TagImageRequest { source, target })
                    .await?;
                Ok(0)
            }
            Self::Push(push) => push.run(site).await,
            Self::History(history) => history.run(site).await,
        }
    }
}
