//! The build cache: `builder prune`.

use clap::Subcommand;
use slipway_proto::{builder::v1::PruneRequest, types::v1::Filter};

use super::confirm;
use crate::{
    client::Site,
    failure::Outcome,
    output::{self, human},
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
        /// Amount of disk space to keep for cache
        #[arg(long, alias = "reserved-space")]
        keep_storage: Option<String>,
    },
    /// Build an image from a Dockerfile
    Build(Box<super::build::Build>),
}

impl Command {
    pub async fn run(self, site: &Site) -> Outcome {
        let (all, filter, force, keep) = match self {
            Self::Build(build) => return build.run(site).await,
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
            filters: units::filters(&filter)?
                .into_iter()
                .map(in_seconds)
                .collect::<Outcome<_>>()?,
            keep_bytes: keep.unwrap_or(0).unsigned_abs(),
        };
        let answer = site.builder().prune(request).await?.into_inner();
        let mut out = String::new();
        if !answer.removed.is_empty() {
            out.push_str("Deleted build cache objects:\n");
            for id in &answer.removed {
                out.push_str(&format!("{id}\n"));
            }
            out.push('\n');
        }
        let size = human::size(answer.reclaimed);
        out.push_str(&format!("Total reclaimed space: {size}\n"));
        output::print(&out)?;
        Ok(0)
    }
}

/// `until=24h` as a time in seconds since the epoch, as the builder wants it.
fn in_seconds(mut filter: Filter) -> Outcome<Filter> {
    if filter.key == "until" {
        for value in &mut filter.values {
            *value = units::moment(value)?.seconds.to_string();
        }
    }
    Ok(filter)
}
