//! Taking away what is not used: `system prune`, and one kind at a time.

use clap::Args;
use slipway_proto::{
    builder, netd,
    registry::v1::PruneImagesRequest,
    runtime::v1::{ListRequest, PruneLayersRequest, PruneRequest, PruneVolumesRequest},
    types::v1::Filter,
};

use super::{confirm, container};
use crate::{
    client::Site,
    failure::{Failure, Outcome},
    output::{self, human},
    spec::units,
};

/// What one kind gave.
#[derive(Debug, Default)]
pub struct Pruned {
    /// What is told of it; "" when nothing was removed.
    told: String,
    /// Bytes that are free now.
    bytes: u64,
}

impl Pruned {
    fn new(heading: &str, names: &[String], bytes: u64) -> Self {
        let told = match names {
            [] => String::new(),
            names => format!("{heading}:\n{}\n\n", names.join("\n")),
        };
        Self { told, bytes }
    }

    /// Tells it, with the sum that docker's commands end with.
    pub fn print(self) -> Outcome {
        let size = human::size(self.bytes);
        output::print(&format!("{}Total reclaimed space: {size}\n", self.told))?;
        Ok(0)
    }

    /// Tells it without: networks take no space.
    pub fn print_names(self) -> Outcome {
        output::print(&self.told)?;
        Ok(0)
    }
}

/// `until` in the form that services take.
fn in_seconds(filters: Vec<Filter>) -> Outcome<Vec<Filter>> {
    let all = filters.into_iter().map(units::until_in_seconds);
    Ok(all.collect::<Result<_, _>>()?)
}

/// Removes containers that do not run.
pub async fn containers(site: &Site, filters: Vec<Filter>) -> Outcome<Pruned> {
    let filters = in_seconds(filters)?;
    let answer = site.containers().prune(PruneRequest { filters }).await?;
    let answer = answer.into_inner();
    Ok(Pruned::new(
        "Deleted Containers",
        &answer.removed,
        answer.reclaimed,
    ))
}

/// Removes networks that nothing is attached to.
pub async fn networks(site: &Site, filters: Vec<Filter>) -> Outcome<Pruned> {
    let request = netd::v1::PruneNetworksRequest {
        filters: in_seconds(filters)?,
    };
    let answer = site.networks().prune_networks(request).await?.into_inner();
    Ok(Pruned::new("Deleted Networks", &answer.removed, 0))
}

/// Removes volumes that no container has: anonymous ones, or all.
pub async fn volumes(site: &Site, all: bool, filters: Vec<Filter>) -> Outcome<Pruned> {
    let request = PruneVolumesRequest { all, filters };
    let answer = site.volumes().prune_volumes(request).await?.into_inner();
    Ok(Pruned::new(
        "Deleted Volumes",
        &answer.removed,
        answer.reclaimed,
    ))
}

/// Removes images that no container uses, dangling ones or all, and what the runtime host has unpacked
/// that nobody needs. What containers use is asked first.
pub async fn images(site: &Site, all: bool, filters: Vec<Filter>) -> Outcome<Pruned> {
    let request = ListRequest {
        all: true,
        ..ListRequest::default()
    };
    let used = container::list_all(site, request).await?;
    // With a filter some images stay, and their layers with them.
    let layers = PruneLayersRequest {
        all: all && filters.is_empty(),
    };
    let request = PruneImagesRequest {
        all,
        filters,
        in_use: used.into_iter().map(|c| c.image_id).collect(),
        dry_run: false,
    };
    let answer = site.registry().prune_images(request).await?.into_inner();
    let unpacked = site.host().prune_layers(layers).await?.into_inner();
    let untagged = answer.untagged.iter();
    let untagged = untagged.map(|n| format!("untagged: {}", super::run::familiar_kept(n)));
    let deleted = answer.deleted.iter().map(|n| format!("deleted: {n}"));
    Ok(Pruned::new(
        "Deleted Images",
        &untagged.chain(deleted).collect::<Vec<_>>(),
        answer.reclaimed + unpacked.reclaimed,
    ))
}

/// Removes records of the build cache and files of contexts.
pub async fn build_cache(site: &Site, request: builder::v1::PruneRequest) -> Outcome<Pruned> {
    let filters = request.filters.into_iter().map(whole_seconds);
    let request = builder::v1::PruneRequest {
        filters: filters.collect::<Outcome<_>>()?,
        ..request
    };
    let answer = site.builder().prune(request).await?.into_inner();
    warn(&answer.warnings);
    Ok(Pruned::new(
        "Deleted build cache objects",
        &answer.removed,
        answer.reclaimed,
    ))
}

/// Says what was left out.
pub fn warn(sentences: &[String]) {
    for sentence in sentences {
        eprintln!("WARNING: {sentence}");
    }
}

/// `until=24h` as whole seconds since the epoch, as the builder wants it.
pub fn whole_seconds(mut filter: Filter) -> Outcome<Filter> {
    if matches!(&*filter.key, "until" | "unused-for") {
        for value in &mut filter.values {
            *value = units::moment(value)?.seconds.to_string();
        }
    }
    Ok(filter)
}

/// `ctl system prune`
#[derive(Debug, Args)]
pub struct Everything {
    /// Remove all unused images not just dangling ones
    #[arg(short, long)]
    all: bool,
    /// Prune anonymous volumes
    #[arg(long)]
    volumes: bool,
    /// Provide filter values (e.g. "label=<key>=<value>")
    #[arg(long)]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

/// Filters that all kinds know.
const KNOWN: [&str; 3] = ["label", "label!", "until"];

impl Everything {
    pub async fn run(self, site: &Site) -> Outcome {
        let filters = units::filters(&self.filter)?;
        if let Some(filter) = filters.iter().find(|f| !KNOWN.contains(&&*f.key)) {
            return Err(Failure::new(format!("invalid filter '{}'", filter.key)));
        }
        let has = |key: &str| filters.iter().any(|f| f.key == key);
        if self.volumes && has("until") {
            return Err(Failure::new(
                "ERROR: The \"until\" filter is not supported with \"--volumes\"",
            ));
        }
        // A time that cannot be understood is found before anything is gone.
        in_seconds(filters.clone())?;
        if !confirm(&self.question(&filters), self.force)? {
            return Ok(0);
        }
        let mut reclaimed = 0;
        let mut tell = |pruned: Pruned| {
            reclaimed += pruned.bytes;
            output::print(&pruned.told)
        };
        tell(containers(site, filters.clone()).await?)?;
        tell(networks(site, filters.clone()).await?)?;
        if self.volumes {
            tell(volumes(site, false, filters.clone()).await?)?;
        }
        tell(images(site, self.all, filters.clone()).await?)?;
        // The build cache has no labels: none of it has the one that is asked for.
        if !has("label") {
            let request = builder::v1::PruneRequest {
                all: self.all,
                filters: filters.into_iter().filter(|f| f.key == "until").collect(),
                keep_bytes: 0,
                max_used_bytes: 0,
            };
            tell(build_cache(site, request).await?)?;
            // What only the cache's layers had unpacked is needless now.
            let request = PruneLayersRequest { all: false };
            let layers = site.host().prune_layers(request).await?.into_inner();
            reclaimed += layers.reclaimed;
        }
        let size = human::size(reclaimed);
        output::print(&format!("Total reclaimed space: {size}\n"))?;
        Ok(0)
    }

    /// docker's words (cli/command/system/prune.go).
    fn question(&self, filters: &[Filter]) -> String {
        let mut all = vec![
            "all stopped containers",
            "all networks not used by at least one container",
        ];
        if self.volumes {
            all.push("all anonymous volumes not used by at least one container");
        }
        all.extend(match self.all {
            true => [
                "all images without at least one container associated to them",
                "all build cache",
            ],
            false => ["all dangling images", "unused build cache"],
        });
        let mut text = "This will remove:\n".to_owned();
        all.iter()
            .for_each(|line| text.push_str(&format!("  - {line}\n")));
        if !filters.is_empty() {
            text.push_str("\n  Items to be pruned will be filtered with:\n");
            let lines = filters
                .iter()
                .flat_map(|f| f.values.iter().map(|v| format!("{}={v}", f.key)));
            let mut lines: Vec<String> = lines.collect();
            lines.sort();
            lines
                .iter()
                .for_each(|line| text.push_str(&format!("  - {line}\n")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_is_dockers() {
        let prune = |all, volumes| Everything {
            all,
            volumes,
            filter: Vec::new(),
            force: false,
        };
        assert_eq!(
            prune(false, false).question(&[]),
            "This will remove:\n  - all stopped containers\n  - all networks not used by at least one \
             container\n  - all dangling images\n  - unused build cache\n"
        );
        let filters = units::filters(&["until=1h".to_owned(), "label=b".to_owned()]).unwrap();
        assert_eq!(
            prune(true, true).question(&filters),
            "This will remove:\n  - all stopped containers\n  - all networks not used by at least one \
             container\n  - all anonymous volumes not used by at least one container\n  - all images \
             without at least one container associated to them\n  - all build cache\n\n  Items to be \
             pruned will be filtered with:\n  - label=b\n  - until=1h\n"
        );
    }
}
