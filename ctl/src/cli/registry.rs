//! The store of images, for whoever runs the site: `registry ...`.

use clap::Subcommand;
use serde_json::json;
use slipway_proto::registry::v1::{
    CheckDone, CheckFinding, CheckRequest, CollectGarbageRequest, RepositoryUsageRequest,
    RetainRequest, RetainStep, StoreUsage, check_event, check_finding::Kind,
    repository_usage_event::Repository, retain_event,
};

use super::{confirm, run::familiar_kept};
use crate::{
    client::Site,
    failure::{Failure, Outcome},
    output::{
        self, human,
        table::{self, Columns, Row},
    },
    spec::units,
};

/// `ctl registry ...`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check all content of the store while it is in use; exits 1 when something is wrong and not mended
    Fsck {
        /// Move broken content aside, fetch it again where it came from an upstream, and mend records
        #[arg(long)]
        repair: bool,
        /// Begin anew where an earlier check was cut off
        #[arg(long)]
        restart: bool,
        /// Bytes to read a second (e.g. "200m"), in place of what registry.toml says
        #[arg(long)]
        rate: Option<String>,
        /// Only show what is wrong
        #[arg(short, long)]
        quiet: bool,
    },
    /// Remove content that nothing names, which happens by itself each minute too
    Gc {
        /// Only show what would go
        #[arg(long)]
        dry_run: bool,
    },
    /// Apply the rules of retention in registry.toml, which happens by itself each hour too
    #[command(alias = "retention")]
    Prune {
        /// Only show what would go, and why
        #[arg(long)]
        dry_run: bool,
        /// Do not prompt for confirmation
        #[arg(short, long)]
        force: bool,
    },
    /// Show what each repository takes on disk
    #[command(alias = "usage")]
    Df {
        /// Format output using a custom template
        #[arg(long)]
        format: Option<String>,
    },
}

impl Command {
    pub async fn run(self, site: &Site) -> Outcome {
        match self {
            Self::Fsck {
                repair,
                restart,
                rate,
                quiet,
            } => {
                let rate = rate.as_deref().map(units::memory).transpose()?;
                let request = CheckRequest {
                    repair,
                    restart,
                    rate: rate.unwrap_or(0).unsigned_abs(),
                };
                fsck(site, request, quiet).await
            }
            Self::Gc { dry_run } => gc(site, dry_run).await,
            Self::Prune { dry_run, force } => prune(site, dry_run, force).await,
            Self::Df { format } => df(site, format.as_deref()).await,
        }
    }
}

async fn fsck(site: &Site, request: CheckRequest, quiet: bool) -> Outcome {
    let mut events = site.upkeep().check(request).await?.into_inner();
    let bar = (!quiet && output::draws_bars()).then(output::progress::bytes);
    let say = |text: &str| match &bar {
        Some(bar) => bar.suspend(|| output::print(text)),
        None => output::print(text),
    };
    while let Some(event) = events.message().await? {
        match event.event {
            Some(check_event::Event::Status(line)) if !quiet => eprintln!("{line}"),
            Some(check_event::Event::Progress(progress)) => {
                if let Some(bar) = &bar {
                    bar.set_length(progress.total);
                    bar.set_position(progress.checked);
                }
            }
            Some(check_event::Event::Finding(finding)) => say(&told(&finding))?,
            Some(check_event::Event::Done(done)) => {
                if let Some(bar) = &bar {
                    bar.finish_and_clear();
                }
                if !quiet {
                    output::print(&ended(&done))?;
                }
                return match done.unmended {
                    0 => Ok(0),
                    _ => Err(Failure::silent(1)),
                };
            }
            _ => {}
        }
    }
    Err(Failure::new(
        "the check ended early: start it again, it goes on",
    ))
}

/// `broken blob sha256:...: its content is not what its digest says`, and what it damages.
fn told(finding: &CheckFinding) -> String {
    let kind = match finding.kind() {
        Kind::Unspecified => "trouble with",
        Kind::BrokenBlob => "broken blob",
        Kind::MissingBlob => "missing blob",
        Kind::Manifest => "manifest",
        Kind::Record => "record of",
        Kind::LeftOver => "left-over",
    };
    let state = if finding.mended {
        "mended"
    } else {
        "NOT MENDED"
    };
    let mut text = format!("{kind} {}: {} [{state}]\n", finding.what, finding.text);
    for name in &finding.damaged {
        text.push_str(&format!("  damaged: {}\n", name));
    }
    text
}

fn ended(done: &CheckDone) -> String {
    let all = format!(
        "Checked: {} blobs, {}\n",
        done.blobs,
        human::size(done.bytes)
    );
    match done.found {
        0 => format!("{all}Nothing is wrong\n"),
        found => format!("{all}Found: {found}, not mended: {}\n", done.unmended),
    }
}

async fn gc(site: &Site, dry_run: bool) -> Outcome {
    let request = CollectGarbageRequest { dry_run };
    let answer = site.upkeep().collect_garbage(request).await?.into_inner();
    if !answer.refused.is_empty() {
        return Err(Failure::new(answer.refused));
    }
    let (removed, reclaimed) = match dry_run {
        true => ("Blobs that would go", "Space that would be reclaimed"),
        false => ("Removed blobs", "Total reclaimed space"),
    };
    let mut text = format!("{removed}: {}\n", answer.blobs);
    if answer.held > 0 {
        text.push_str(&format!("In somebody's hand: {}\n", answer.held));
    }
    let size = human::size(answer.reclaimed);
    output::print(&format!("{text}{reclaimed}: {size}\n"))?;
    Ok(0)
}

async fn prune(site: &Site, dry_run: bool, force: bool) -> Outcome {
    let question = "This will remove all images that the rules of retention do not keep.";
    if !dry_run && !confirm(question, force)? {
        return Ok(0);
    }
    let mut events = site
        .upkeep()
        .retain(RetainRequest { dry_run })
        .await?
        .into_inner();
    while let Some(event) = events.message().await? {
        match event.event {
            Some(retain_event::Event::Step(step)) => output::print(&taken(&step))?,
            Some(retain_event::Event::Done(done)) => {
                if done.no_rules {
                    eprintln!("registry.toml has no [[retention]]: nothing goes by itself");
                }
                let heading = match dry_run {
                    true => "Space that would be reclaimed",
                    false => "Total reclaimed space",
                };
                let size = human::size(done.reclaimed);
                output::print(&format!("{heading}: {size}\n"))?;
                return Ok(0);
            }
            None => {}
        }
    }
    Err(Failure::new("registry-svc ended early: see its log"))
}

/// `untagged team/app:v1 (4.1kB): not among the newest 3 of *`
fn taken(step: &RetainStep) -> String {
    let name = familiar_kept(&step.repository);
    let what = match (&step.tags[..], step.manifest) {
        ([], _) => format!("deleted {name}@{}", step.digest),
        (tags, manifest) => {
            let verb = if manifest { "deleted" } else { "untagged" };
            format!("{verb} {name}:{}", tags.join(","))
        }
    };
    match &*step.skipped {
        "" => format!("{what} ({}): {}\n", human::size(step.reclaimed), step.why),
        skipped => format!("kept {name}@{} for now: {skipped}\n", step.digest),
    }
}

async fn df(site: &Site, format: Option<&str>) -> Outcome {
    let request = RepositoryUsageRequest {};
    let mut events = site.upkeep().repository_usage(request).await?.into_inner();
    let (mut repositories, mut store) = (Vec::new(), StoreUsage::default());
    while let Some(event) = events.message().await? {
        repositories.extend(event.repositories);
        store = event.store.unwrap_or(store);
    }
    // The largest first: who looks for room looks there.
    repositories.sort_by_key(|r| std::cmp::Reverse(r.exclusive + r.shared));
    let rows: Vec<Row> = repositories.iter().map(row).collect();
    let mut text = table::render(REPOSITORIES, &rows, format)?;
    if format.is_none() {
        text.push_str(&sums(&repositories, &store));
    }
    output::print(&text)?;
    Ok(0)
}

fn row(repository: &Repository) -> Row {
    let mut row = Row::new([
        ("Repository", familiar_kept(&repository.name)),
        (
            "Size",
            human::size(repository.exclusive + repository.shared),
        ),
        ("SharedSize", human::size(repository.shared)),
        ("UniqueSize", human::size(repository.exclusive)),
    ]);
    for (key, bytes) in [
        ("SharedBytes", repository.shared),
        ("UniqueBytes", repository.exclusive),
    ] {
        row.fields.insert(key.to_owned(), json!(bytes));
    }
    row
}

fn sums(repositories: &[Repository], store: &StoreUsage) -> String {
    let unique: u64 = repositories.iter().map(|r| r.exclusive).sum();
    let mut text = "\n".to_owned();
    for (name, bytes) in [
        ("All blobs", unique + store.shared + store.unneeded),
        ("Of one repository", unique),
        ("Of several", store.shared),
        ("Of none, or not yet", store.unneeded),
        ("Uploads", store.uploads),
        ("Transfers from upstream", store.partial),
        ("Being written", store.staged),
        ("Broken, moved aside", store.quarantined),
    ] {
        text.push_str(&format!(
            "{:<26}{}\n",
            format!("{name}:"),
            human::size(bytes)
        ));
    }
    text
}

const REPOSITORIES: Columns = Columns {
    shown: &[
        ("Repository", "REPOSITORY"),
        ("Size", "SIZE"),
        ("SharedSize", "SHARED SIZE"),
        ("UniqueSize", "UNIQUE SIZE"),
    ],
    hidden: &[
        ("SharedBytes", "SHARED BYTES"),
        ("UniqueBytes", "UNIQUE BYTES"),
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_name_what_is_damaged() {
        let finding = CheckFinding {
            kind: Kind::BrokenBlob.into(),
            what: "sha256:ab".to_owned(),
            text: "its content is not what its digest says; moved aside, and lost: push it again"
                .to_owned(),
            mended: false,
            damaged: vec!["team/app:v1".to_owned()],
        };
        assert_eq!(
            told(&finding),
            "broken blob sha256:ab: its content is not what its digest says; moved aside, and lost: push it again [NOT MENDED]\n  damaged: team/app:v1\n"
        );
    }

    #[test]
    fn steps_say_what_goes_and_why() {
        let mut step = RetainStep {
            repository: "docker.io/team/app".to_owned(),
            digest: "sha256:ab".to_owned(),
            tags: vec!["v1".to_owned(), "v2".to_owned()],
            manifest: true,
            why: "not among the newest 3 of *".to_owned(),
            reclaimed: 4096,
            skipped: String::new(),
        };
        assert_eq!(
            taken(&step),
            "deleted team/app:v1,v2 (4.1kB): not among the newest 3 of *\n"
        );
        step.skipped = "somebody is pulling or pushing it".to_owned();
        assert!(taken(&step).starts_with("kept team/app@sha256:ab for now: somebody"));
    }

    #[test]
    fn sums_are_those_of_all_blobs() {
        let repository = |name: &str, exclusive, shared| Repository {
            name: name.to_owned(),
            exclusive,
            shared,
        };
        let all = [
            repository("docker.io/a/a", 1000, 500),
            repository("docker.io/b/b", 2000, 500),
        ];
        let store = StoreUsage {
            shared: 500,
            unneeded: 30,
            ..StoreUsage::default()
        };
        let text = sums(&all, &store);
        assert!(
            text.contains("All blobs:                3.53kB\n"),
            "{text}"
        );
        let rows: Vec<Row> = all.iter().map(row).collect();
        let table = table::render(REPOSITORIES, &rows, None).unwrap();
        assert!(
            table.contains("a/a          1.5kB     500B          1kB"),
            "{table}"
        );
        let json = table::render(REPOSITORIES, &rows[..1], Some("json")).unwrap();
        assert!(json.contains("\"UniqueBytes\":1000"), "{json}");
    }
}
