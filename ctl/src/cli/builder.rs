//! The build cache and the history of builds: `builder ...`.

use clap::Subcommand;
use slipway_proto::builder::v1::PruneRequest;

use super::{cache_usage, confirm, history, prune};
use crate::{
    client::Site,
    failure::{Failure, Outcome},
    spec::units,
};

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
        /// Amount of disk space always allowed to keep for cache
        #[arg(long, alias = "keep-storage")]
        reserved_space: Option<String>,
        /// Maximum amount of disk space allowed to keep for cache
        #[arg(long)]
        max_used_space: Option<String>,
        /// Target amount of free disk space after pruning (not supported)
        #[arg(long)]
        min_free_space: Option<String>,
    },
    /// Disk usage
    Du {
        /// Provide filter values
        #[arg(long)]
        filter: Vec<String>,
        /// Shows a more verbose output
        #[arg(long)]
        verbose: bool,
    },
    /// Build an image from a Dockerfile
    Build(Box<super::build::Build>),
    /// Manage several builders (not supported)
    #[command(aliases = ["create", "use", "inspect", "bake", "imagetools", "stop"], hide = true)]
    Ls {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        rest: Vec<String>,
    },
    /// Commands to work on build records
    #[command(subcommand)]
    History(history::Command),
}

impl Command {
    pub async fn run(self, site: &Site) -> Outcome {
        match self {
            Self::Ls { .. } => Err(Failure::new(
                "there is one builder, builder-svc of the context: choose another with ctl context use",
            )),
            Self::Build(build) => build.run(site).await,
            Self::History(command) => command.run(site).await,
            Self::Du { filter, verbose } => cache_usage::show(site, verbose, &filter).await,
            Self::Prune {
                all,
                filter,
                force,
                reserved_space,
                max_used_space,
                min_free_space,
            } => {
                if min_free_space.is_some() {
                    return Err(Failure::new(
                        "--min-free-space is not supported: the cache is on registry-svc's disk; use --max-used-space",
                    ));
                }
                let bytes = |text: Option<String>| -> Outcome<u64> {
                    let bytes = text.as_deref().map(units::memory).transpose()?;
                    Ok(bytes.unwrap_or(0).unsigned_abs())
                };
                let request = PruneRequest {
                    all,
                    filters: units::filters(&filter)?,
                    keep_bytes: bytes(reserved_space)?,
                    max_used_bytes: bytes(max_used_space)?,
                };
                if !confirm("This will remove all build cache.", force)? {
                    return Ok(0);
                }
                prune::build_cache(site, request).await?.print()
            }
        }
    }
}
