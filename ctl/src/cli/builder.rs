//! The build cache: `builder prune`.

use clap::Subcommand;
use slipway_proto::builder::v1::PruneRequest;

use super::{confirm, prune};
use crate::{client::Site, failure::Outcome, spec::units};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Remove build cache
    Prune {
        /// Remove all unused build cache, not just dangling ones (all of it is unused between builds)
        #[arg(short, long)]
        all: bool,
        /// Provide filter values (e.g. "until=24h")
        #[arg(long)]
        filter: Vec<String>,
        /// Do not prompt for confirmation
        #[arg(short, long)]
        force: bool,
        /// Amount of disk space to keep for cache
        #[arg(long, alias = "reserved-space")]
        keep_storage: Option<String>,
    },
    /// Build an image from a Dockerfile
    Build(Box<super::build::Build>),
    /// Commands to work on build records
    #[command(subcommand)]
    History(super::history::Command),
}

impl Command {
    pub async fn run(self, site: &Site) -> Outcome {
        let (all, filter, force, keep) = match self {
            Self::Build(build) => return build.run(site).await,
            Self::History(command) => return command.run(site).await,
            Self::Prune {
                all,
                filter,
                force,
                keep_storage,
            } => (all, filter, force, keep_storage),
        };
        let keep = keep.as_deref().map(units::memory).transpose()?;
        if !confirm("This will remove all build cache.", force)? {
            return Ok(0);
        }
        let request = PruneRequest {
            all,
            filters: units::filters(&filter)?,
            keep_bytes: keep.unwrap_or(0).unsigned_abs(),
            ..PruneRequest::default()
        };
        prune::build_cache(site, request).await?.print()
    }
}
