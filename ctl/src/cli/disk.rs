//! `system df`: docker's tables, and below them what a host has besides.

use std::{collections::HashMap, time::Duration};

use clap::Args;
use serde_json::{Map, Value, json};
use slipway_proto::{builder, registry, runtime};

use super::{container, image};
use crate::{
    client::Site,
    failure::{Failure, Outcome},
    output::{
        self,
        human::{self, short_id},
        table::{self, Columns, Row},
        template::Template,
    },
};

/// How long a service has that only looks into its own books. A runtime host walks trees: it has as long as
/// it takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// `ctl system df`
#[derive(Debug, Args)]
pub struct Df {
    /// Show detailed information on space usage
    #[arg(short, long)]
    verbose: bool,
    /// Format output using a custom template
    #[arg(long)]
    format: Option<String>,
}

/// What the services said.
struct Usage {
    containers: Vec<runtime::v1::ContainerSummary>,
    host: runtime::v1::DiskUsageResponse,
    images: registry::v1::DiskUsageResponse,
    cache: builder::v1::DiskUsageResponse,
}

impl Df {
    pub async fn run(self, site: &Site) -> Outcome {
        let usage = Usage::ask(site, self.verbose).await?;
        match self
            .format
            .as_deref()
            .map(str::trim)
            .filter(|f| !f.is_empty())
        {
            None | Some("table") if self.verbose => output::print(&tables(&usage)?)?,
            Some(format) if self.verbose => {
                output::print(&all_as(&usage, format)?)?;
            }
            format => output::print(&table::render(SUMS, &usage.sums(), format)?)?,
        }
        Ok(0)
    }
}

/// An answer, or a sentence when none comes.
async fn within<T>(
    program: &str,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Outcome<T> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(Failure::new(format!(
            "{program} does not answer: is it running? See: ctl version"
        ))),
    }
}

impl Usage {
    async fn ask(site: &Site, verbose: bool) -> Outcome<Self> {
        let request = runtime::v1::ListRequest {
            all: true,
            ..runtime::v1::ListRequest::default()
        };
        let containers = container::list_all(site, request).await?;
        let (mut host, mut images, mut cache) = (site.host(), site.registry(), site.builder());
        let in_use = containers.iter().map(|c| c.image_id.clone()).collect();
        let of_images = registry::v1::DiskUsageRequest {
            in_use,
            verbose,
            tags_of: String::new(),
        };
        let (host, images, cache) = tokio::join!(
            host.disk_usage(runtime::v1::DiskUsageRequest { verbose }),
            within("registry-svc", images.disk_usage(of_images)),
            within(
                "builder-svc",
                cache.disk_usage(builder::v1::DiskUsageRequest::default())
            ),
        );
        Ok(Self {
            containers,
            host: host?.into_inner(),
            images: images?,
            cache: cache?,
        })
    }

    /// The build cache: layers and records in registry-svc that no image has, files of contexts, and the cache
    /// mounts of all workers.
    fn cache_bytes(&self) -> u64 {
        let mounts = self.cache.records.iter();
        let mounts = mounts.filter(|r| r.r#type == "exec.cachemount");
        self.images.internal + self.cache.content + mounts.map(|r| r.size).sum::<u64>()
    }

    /// A line a kind: docker's, then ours.
    fn sums(&self) -> Vec<Row> {
        let of =
            |usage: &Option<runtime::v1::disk_usage_response::Usage>| usage.unwrap_or_default();
        let line = |name: &str, u: runtime::v1::disk_usage_response::Usage| {
            let free = human::size(u.reclaimable);
            let reclaimable = match (u.reclaimable * 100).checked_div(u.size) {
                // docker has no percentage for the build cache.
                Some(percent) if name != BUILD_CACHE => format!("{free} ({percent}%)"),
                _ => free,
            };
            sum(
                name,
                &u.total.to_string(),
                &u.active.to_string(),
                u.size,
                reclaimable,
            )
        };
        let images = runtime::v1::disk_usage_response::Usage {
            total: self.images.images,
            active: self.images.active,
            size: self.images.size,
            reclaimable: self.images.reclaimable,
        };
        let records = &self.cache.records;
        let cache = runtime::v1::disk_usage_response::Usage {
            total: records.len() as u64,
            active: records.iter().filter(|r| r.in_use).count() as u64,
            size: self.cache_bytes(),
            reclaimable: self.cache_bytes(),
        };
        let going = self.host.temporary + self.images.unneeded + self.images.transfers;
        let rest = going
            + self.host.other
            + self.images.records
            + self.images.artifacts
            + self.cache.other;
        vec![
            line("Images", images),
            line("Containers", of(&self.host.containers)),
            line("Local Volumes", of(&self.host.volumes)),
            line(BUILD_CACHE, cache),
            line("Unpacked Layers", of(&self.host.layers)),
            line("Builds", of(&self.host.snapshots)),
            sum("Other", "-", "-", rest, human::size(going)),
        ]
    }

    /// Everything one by one, as templates see it.
    fn all(&self, whole: bool) -> Value {
        let fields = |rows: Vec<Row>| {
            rows.into_iter()
                .map(|r| Value::Object(r.fields))
                .collect::<Vec<_>>()
        };
        json!({
            "Images": fields(self.image_rows(whole)),
            "Containers": fields(self.container_rows(whole)),
            "Volumes": fields(self.volume_rows()),
            "BuildCache": fields(self.cache_rows(whole)),
            "Layers": fields(self.layer_rows(whole)),
            "Leases": fields(self.lease_rows(whole)),
        })
    }

    fn image_rows(&self, whole: bool) -> Vec<Row> {
        let mut rows = Vec::new();
        for usage in &self.images.each {
            let Some(summary) = &usage.image else {
                continue;
            };
            let id = match whole {
                true => &summary.id,
                false => short_id(&summary.id),
            };
            // As docker: the first name only.
            let Some(mut row) = image::rows(summary, id).into_iter().next() else {
                continue;
            };
            for (key, text) in [
                ("Size", human::size(usage.size)),
                ("VirtualSize", human::size(usage.size)),
                ("SharedSize", human::size(usage.shared)),
                ("UniqueSize", human::size(usage.unique)),
                ("Containers", usage.containers.to_string()),
            ] {
                row.fields.insert(key.to_owned(), text.into());
            }
            rows.push(row);
        }
        rows
    }

    fn container_rows(&self, whole: bool) -> Vec<Row> {
        let sizes: HashMap<_, _> = self
            .host
            .each_container
            .iter()
            .map(|c| (&c.id, c))
            .collect();
        let mut rows = Vec::new();
        for container in &self.containers {
            // One that was removed or made since.
            let Some(size) = sizes.get(&container.id) else {
                continue;
            };
            let mut row = container::row(container, whole);
            let bytes = size.writable + size.logs + size.other;
            for (key, bytes) in [
                ("Size", bytes),
                ("SizeRw", size.writable),
                ("Logs", size.logs),
            ] {
                row.fields.insert(key.to_owned(), human::size(bytes).into());
            }
            rows.push(row);
        }
        rows
    }

    fn volume_rows(&self) -> Vec<Row> {
        let row = |v: &runtime::v1::VolumeUsage| {
            Row::new([
                ("Name", v.name.clone()),
                ("Links", v.links.to_string()),
                ("Size", human::size(v.size)),
            ])
        };
        self.host.each_volume.iter().map(row).collect()
    }

    fn cache_rows(&self, whole: bool) -> Vec<Row> {
        let row = |r: &builder::v1::disk_usage_response::Record| {
            let id = match whole {
                true => &r.id,
                false => short_id(&r.id),
            };
            let used = if r.in_use { "*" } else { "" };
            Row::new([
                ("ID", format!("{id}{used}")),
                ("CacheType", r.r#type.clone()),
                ("Description", r.description.clone()),
                ("Size", human::size(r.size)),
                ("CreatedAt", human::created_at(r.created.as_ref())),
                ("CreatedSince", human::ago(r.created.as_ref())),
                (
                    "LastUsedSince",
                    human::ago(r.last_used.as_ref().or(r.created.as_ref())),
                ),
                ("UsageCount", r.use_count.to_string()),
                ("InUse", r.in_use.to_string()),
                ("Shared", r.shared.to_string()),
            ])
        };
        self.cache.records.iter().map(row).collect()
    }

    fn layer_rows(&self, whole: bool) -> Vec<Row> {
        let row = |l: &runtime::v1::LayerUsage| {
            let id = match whole {
                true => &l.diff_id,
                false => short_id(&l.diff_id),
            };
            Row::new([
                ("ID", id.to_owned()),
                ("Size", human::size(l.size)),
                ("Content", human::size(l.content)),
                ("Containers", l.containers.to_string()),
                ("Held", l.held.to_string()),
                ("Built", l.built.to_string()),
                ("LastUsedSince", human::ago(l.last_used.as_ref())),
            ])
        };
        self.host.each_layer.iter().map(row).collect()
    }

    fn lease_rows(&self, whole: bool) -> Vec<Row> {
        let row = |l: &runtime::v1::WorkLease| {
            let id = match (&*l.id, whole) {
                ("", _) => "-",
                (id, true) => id,
                (id, false) => short_id(id),
            };
            let expires = match &l.expires {
                None => "-".to_owned(),
                Some(then) => {
                    let left = then.seconds - jiff::Timestamp::now().as_second();
                    format!("in {}", human::span(left.max(0)))
                }
            };
            Row::new([
                ("ID", id.to_owned()),
                ("Holder", l.holder.clone()),
                ("CreatedSince", human::ago(l.created.as_ref())),
                ("Expires", expires),
                ("Connected", l.attached.to_string()),
                ("Layers", l.layers.len().to_string()),
                ("Snapshots", l.snapshots.len().to_string()),
                (
                    "Size",
                    human::size(l.snapshots.iter().map(|s| s.size).sum()),
                ),
            ])
        };
        self.host.leases.iter().map(row).collect()
    }
}

fn sum(name: &str, total: &str, active: &str, size: u64, reclaimable: String) -> Row {
    Row::new([
        ("Type", name.to_owned()),
        ("TotalCount", total.to_owned()),
        ("Active", active.to_owned()),
        ("Size", human::size(size)),
        ("Reclaimable", reclaimable),
    ])
}

const BUILD_CACHE: &str = "Build Cache";

const SUMS: Columns = Columns {
    shown: &[
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ],
    hidden: &[],
};

const IMAGES: Columns = Columns {
    shown: &[
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("ID", "IMAGE ID"),
        ("CreatedSince", "CREATED"),
        ("Size", "SIZE"),
        ("SharedSize", "SHARED SIZE"),
        ("UniqueSize", "UNIQUE SIZE"),
        ("Containers", "CONTAINERS"),
    ],
    hidden: &image::HIDDEN,
};

const CONTAINERS: Columns = Columns {
    shown: &[
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("Size", "SIZE"),
        ("RunningFor", "CREATED"),
        ("Status", "STATUS"),
        ("Names", "NAMES"),
    ],
    hidden: &[],
};

const VOLUMES: Columns = Columns {
    shown: &[
        ("Name", "VOLUME NAME"),
        ("Links", "LINKS"),
        ("Size", "SIZE"),
    ],
    hidden: &[],
};

const CACHE: Columns = Columns {
    shown: &[
        ("ID", "CACHE ID"),
        ("CacheType", "CACHE TYPE"),
        ("Size", "SIZE"),
        ("CreatedSince", "CREATED"),
        ("LastUsedSince", "LAST USED"),
        ("UsageCount", "USAGE"),
        ("Shared", "SHARED"),
    ],
    hidden: &[],
};

const LAYERS: Columns = Columns {
    shown: &[
        ("ID", "LAYER ID"),
        ("Size", "SIZE"),
        ("Content", "CONTENT"),
        ("Containers", "CONTAINERS"),
        ("Held", "HELD"),
        ("Built", "BUILT"),
        ("LastUsedSince", "LAST USED"),
    ],
    hidden: &[],
};

const LEASES: Columns = Columns {
    shown: &[
        ("ID", "LEASE ID"),
        ("Holder", "HOLDER"),
        ("CreatedSince", "CREATED"),
        ("Expires", "EXPIRES"),
        ("Connected", "CONNECTED"),
        ("Layers", "LAYERS"),
        ("Snapshots", "SNAPSHOTS"),
        ("Size", "SIZE"),
    ],
    hidden: &[],
};

/// docker's four tables, then ours.
fn tables(usage: &Usage) -> Outcome<String> {
    let build_cache = format!("Build cache usage: {}", human::size(usage.cache_bytes()));
    let mut parts = Vec::new();
    for (heading, columns, rows) in [
        ("Images space usage:", IMAGES, usage.image_rows(false)),
        (
            "Containers space usage:",
            CONTAINERS,
            usage.container_rows(false),
        ),
        ("Local Volumes space usage:", VOLUMES, usage.volume_rows()),
        (&build_cache, CACHE, usage.cache_rows(false)),
        (
            "Unpacked layers space usage:",
            LAYERS,
            usage.layer_rows(false),
        ),
        (
            "Leases (who works with layers):",
            LEASES,
            usage.lease_rows(false),
        ),
    ] {
        parts.push(format!(
            "{heading}\n\n{}",
            table::render(columns, &rows, None)?
        ));
    }
    let mut rest = String::from("Other space usage:\n\n");
    for (name, bytes) in [
        (
            "Half made or half removed on this host, goes by itself",
            usage.host.temporary,
        ),
        ("Folders and records of this host", usage.host.other),
        (
            "Blobs in registry-svc that nothing names, go by themselves",
            usage.images.unneeded,
        ),
        ("On its way into registry-svc", usage.images.transfers),
        (
            "Signatures and other artifacts in registry-svc",
            usage.images.artifacts,
        ),
        ("Names and index of registry-svc", usage.images.records),
        ("Folders of builder-svc", usage.cache.other),
    ] {
        rest.push_str(&format!("{name}: {}\n", human::size(bytes)));
    }
    for path in &usage.host.foreign {
        rest.push_str(&format!("None of ours, left alone: {path}\n"));
    }
    parts.push(rest);
    Ok(parts.join("\n"))
}

/// Everything in a format. `table TEMPLATE` is the template alone, as with docker: there are several tables, so
/// there can be no headings.
fn all_as(usage: &Usage, format: &str) -> Outcome<String> {
    let all = usage.all(true);
    let text = match format {
        "json" => all.to_string(),
        text => {
            let text = text.strip_prefix("table").unwrap_or(text).trim();
            Template::parse(text)?.render(&all, &Map::new())?
        }
    };
    Ok(text + "\n")
}

#[cfg(test)]
mod tests {
    use slipway_proto::runtime::v1::disk_usage_response::Usage as Sum;

    use super::*;

    fn usage() -> Usage {
        let image = registry::v1::ImageSummary {
            id: "sha256:0123456789abcdef".to_owned(),
            repo_tags: vec!["docker.io/library/goals:latest".to_owned()],
            ..Default::default()
        };
        Usage {
            containers: vec![runtime::v1::ContainerSummary {
                id: "c".repeat(64),
                name: "web".to_owned(),
                command: "sleep 10".to_owned(),
                image: "goals".to_owned(),
                ..Default::default()
            }],
            host: runtime::v1::DiskUsageResponse {
                containers: Some(Sum {
                    total: 1,
                    active: 0,
                    size: 3000,
                    reclaimable: 3000,
                }),
                temporary: 500,
                other: 1500,
                each_container: vec![runtime::v1::ContainerUsage {
                    id: "c".repeat(64),
                    writable: 1000,
                    logs: 500,
                    other: 1500,
                    running: false,
                }],
                ..Default::default()
            },
            images: registry::v1::DiskUsageResponse {
                images: 2,
                active: 1,
                size: 3_000_000,
                reclaimable: 1_000_000,
                internal: 2_000_000,
                each: vec![registry::v1::ImageUsage {
                    image: Some(image),
                    size: 2_000_000,
                    shared: 500_000,
                    unique: 1_500_000,
                    containers: 1,
                }],
                ..Default::default()
            },
            cache: builder::v1::DiskUsageResponse {
                content: 100_000,
                ..Default::default()
            },
        }
    }

    #[test]
    fn sums_are_dockers_and_then_ours() {
        let text = table::render(SUMS, &usage().sums(), None).unwrap();
        assert_eq!(
            text,
            "TYPE              TOTAL     ACTIVE    SIZE      RECLAIMABLE\n\
             Images            2         1         3MB       1MB (33%)\n\
             Containers        1         0         3kB       3kB (100%)\n\
             Local Volumes     0         0         0B        0B\n\
             Build Cache       0         0         2.1MB     2.1MB\n\
             Unpacked Layers   0         0         0B        0B\n\
             Builds            0         0         0B        0B\n\
             Other             -         -         2kB       500B\n"
        );
        let json = table::render(SUMS, &usage().sums(), Some("json")).unwrap();
        assert_eq!(
            json.lines().next().unwrap(),
            r#"{"Active":"1","Reclaimable":"1MB (33%)","Size":"3MB","TotalCount":"2","Type":"Images"}"#
        );
        let format = Some("{{.Type}}: {{.Size}}");
        let text = table::render(SUMS, &usage().sums(), format).unwrap();
        assert!(text.starts_with("Images: 3MB\nContainers: 3kB\n"), "{text}");
    }

    #[test]
    fn each_by_itself() {
        let text = tables(&usage()).unwrap();
        let image = "goals        latest    0123456789ab   N/A       2MB       500kB         1.5MB         1";
        assert!(text.contains(image), "{text}");
        assert!(text.contains("0               3kB"), "{text}");
        assert!(text.contains("Build cache usage: 2.1MB\n"), "{text}");
        let all = usage().all(true);
        assert_eq!(all["Images"][0]["UniqueSize"], "1.5MB");
        assert_eq!(all["Containers"][0]["Logs"], "500B");
        for format in ["", "table "] {
            let format = format!("{format}{{{{range .Containers}}}}{{{{.Names}}}}{{{{end}}}}");
            assert_eq!(all_as(&usage(), &format).unwrap(), "web\n");
        }
        assert!(
            all_as(&usage(), "json")
                .unwrap()
                .contains(r#""Logs":"500B""#)
        );
        assert!(all_as(&usage(), "{{nonsense").is_err());
    }
}
