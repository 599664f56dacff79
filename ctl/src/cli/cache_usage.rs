//! `builder du`: what the build cache takes, as buildx shows it.

use slipway_proto::builder::v1::{
    DiskUsageRequest, DiskUsageResponse, disk_usage_response::Record,
};

use super::prune;
use crate::{
    client::Site,
    failure::Outcome,
    output::{self, human},
    spec::units,
};

/// Prints it.
pub async fn show(site: &Site, verbose: bool, filters: &[String]) -> Outcome {
    let filters = units::filters(filters)?
        .into_iter()
        .map(prune::whole_seconds);
    let request = DiskUsageRequest {
        filters: filters.collect::<Outcome<_>>()?,
    };
    let usage = site.builder().disk_usage(request).await?.into_inner();
    let mut text = match verbose {
        true => usage.records.iter().map(whole).collect(),
        false => table(&usage.records),
    };
    text.push_str(&sums(&usage));
    output::print(&text)?;
    prune::warn(&usage.warnings);
    Ok(0)
}

fn used(record: &Record) -> String {
    human::ago(record.last_used.as_ref().or(record.created.as_ref()))
}

fn table(records: &[Record]) -> String {
    let mut text = format!(
        "{:<65} {:<11} {:<11} LAST ACCESSED\n",
        "ID", "RECLAIMABLE", "SIZE"
    );
    for record in records {
        // As docker: a star at what is in use.
        let star = if record.in_use { "*" } else { "" };
        let id = format!("{}{star}", record.id);
        let (free, size) = (!record.in_use, human::size(record.size));
        let line = format!("{id:<65} {free:<11} {size:<11} {}", used(record));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn whole(record: &Record) -> String {
    let lines = [
        ("ID", record.id.clone()),
        ("Created at", human::created_at(record.created.as_ref())),
        // As BuildKit: what steps change is.
        ("Mutable", (record.r#type == "exec.cachemount").to_string()),
        ("Reclaimable", (!record.in_use).to_string()),
        ("Shared", record.shared.to_string()),
        ("Size", human::size(record.size)),
        ("Description", record.description.clone()),
        ("Usage count", record.use_count.to_string()),
        ("Last used", used(record)),
        ("Type", record.r#type.clone()),
        ("Worker", record.worker.clone()),
    ];
    let lines = lines.iter().filter(|(_, value)| !value.is_empty());
    let text: String = lines
        .map(|(name, value)| format!("{:<14}{value}\n", format!("{name}:")))
        .collect();
    text + "\n"
}

fn sums(usage: &DiskUsageResponse) -> String {
    let sum = |wanted: &dyn Fn(&Record) -> bool| -> String {
        let all = usage.records.iter().filter(|r| wanted(r));
        human::size(all.map(|r| r.size).sum())
    };
    let lines = [
        ("Shared", sum(&|r| r.shared)),
        ("Private", sum(&|r| !r.shared)),
        ("Reclaimable", sum(&|r| !r.in_use)),
        ("Total", sum(&|_| true)),
    ];
    lines
        .iter()
        .map(|(name, value)| format!("{:<14}{value}\n", format!("{name}:")))
        .collect()
}
