//! `builder history`: builds that run and that ended, kept by builder-svc.

use clap::Subcommand;
use slipway_proto::builder::v1::{
    BuildLogsRequest, ListBuildsRequest, RemoveBuildsRequest, build_event::Event,
    list_builds_response::Build,
};

use crate::{
    build::progress::{Lines, Style},
    client::Site,
    failure::{Failure, Outcome},
    output::{self, human},
};

/// As many characters of an id are shown as buildx' ids have.
const SHOWN: usize = 25;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List build records
    Ls {
        /// Only display build IDs
        #[arg(short, long)]
        quiet: bool,
        /// Don't truncate output
        #[arg(long)]
        no_trunc: bool,
    },
    /// Inspect a build record
    Inspect {
        /// ID, its beginning, or ^N for the one N before the latest [default: the latest]
        #[arg(default_value = "^0")]
        build: String,
    },
    /// Print the logs of a build record
    Logs {
        /// Set type of progress output (plain, rawjson)
        #[arg(long, default_value = "plain")]
        progress: String,
        /// ID, its beginning, or ^N for the one N before the latest [default: the latest]
        #[arg(default_value = "^0")]
        build: String,
    },
    /// Remove build records
    Rm {
        /// Remove all build records
        #[arg(long)]
        all: bool,
        build: Vec<String>,
    },
    /// Export build records (not supported)
    Export {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        rest: Vec<String>,
    },
}

impl Command {
    pub async fn run(self, site: &Site) -> Outcome {
        match self {
            Self::Ls { quiet, no_trunc } => ls(&list(site).await?, quiet, no_trunc),
            Self::Inspect { build } => inspect(&find(&list(site).await?, &build)?),
            Self::Logs { progress, build } => {
                let build = find(&list(site).await?, &build)?;
                logs(site, build.id, &progress).await
            }
            Self::Rm { all, build } => rm(site, all, &build).await,
            Self::Export { .. } => Err(Failure::new(
                "builder history export is not supported: use builder history logs and inspect",
            )),
        }
    }
}

async fn list(site: &Site) -> Outcome<Vec<Build>> {
    let request = ListBuildsRequest::default();
    let answer = site.builder().list_builds(request).await?;
    Ok(answer.into_inner().builds)
}

/// The build that a word means: newest first, `builds` are.
fn find(builds: &[Build], word: &str) -> Outcome<Build> {
    if let Some(back) = word.strip_prefix('^') {
        let back: usize = match back {
            "" => 1,
            back => back
                .parse()
                .map_err(|_| Failure::new(format!("invalid offset {word:?}: write ^N")))?,
        };
        let found = builds.get(back).cloned();
        return found.ok_or_else(|| Failure::new(format!("no build record found for {word}")));
    }
    // buildx' references have builder and node in front.
    let id = word.rsplit('/').next().unwrap_or(word);
    let mut found = builds
        .iter()
        .filter(|b| !id.is_empty() && b.id.starts_with(id));
    match (found.next(), found.next()) {
        (Some(build), None) => Ok(build.clone()),
        (None, _) => Err(Failure::new(format!("no build record found for {word}"))),
        (Some(_), Some(_)) => Err(Failure::new(format!(
            "several build records begin with {word}: give more of it"
        ))),
    }
}

fn took(build: &Build) -> String {
    let Some(took) = &build.took else {
        return "-".to_owned();
    };
    match took.seconds {
        s @ 3600.. => format!("{}h {:02}m", s / 3600, s % 3600 / 60),
        s @ 60.. => format!("{}m {:02}s", s / 60, s % 60),
        s => format!("{s}.{}s", took.nanos / 100_000_000),
    }
}

fn status(build: &Build) -> String {
    let mut name = build.status.clone();
    if let Some(first) = name.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    name
}

fn ls(builds: &[Build], quiet: bool, whole: bool) -> Outcome {
    let id = |b: &Build| match whole {
        true => b.id.clone(),
        false => b.id.chars().take(SHOWN).collect(),
    };
    if quiet {
        let lines: String = builds.iter().map(|b| id(b) + "\n").collect();
        output::print(&lines)?;
        return Ok(0);
    }
    let mut rows =
        vec![["BUILD ID", "NAME", "STATUS", "CREATED AT", "DURATION"].map(str::to_owned)];
    rows.extend(builds.iter().map(|b| {
        let since = human::ago(b.started.as_ref());
        [id(b), b.name.clone(), status(b), since, took(b)]
    }));
    output::print(&columns(&rows))?;
    Ok(0)
}

/// Rows with their columns below each other.
fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |n: usize| rows.iter().map(|r| r[n].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}   "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn inspect(build: &Build) -> Outcome {
    let mut lines = vec![
        ("Name", build.name.clone()),
        ("Dockerfile", build.dockerfile.clone()),
        ("Target", build.target.clone()),
        ("Platforms", build.platforms.join(", ")),
        ("Created", human::created_at(build.started.as_ref())),
        ("Duration", took(build)),
        (
            "Build Steps",
            format!("{} ({} cached)", build.steps, build.cached_steps),
        ),
        ("Status", status(build)),
        ("Tags", build.tags.join(", ")),
        ("Image", build.image.clone()),
        ("Build ID", build.id.clone()),
    ];
    lines.retain(|(_, value)| !value.is_empty());
    let mut text: String = lines
        .iter()
        .map(|(name, value)| format!("{:<16}{value}\n", format!("{name}:")))
        .collect();
    if !build.error.is_empty() {
        text.push_str(&format!("\nError:\n{}\n", build.error.trim_end()));
    }
    output::print(&text)?;
    Ok(0)
}

async fn logs(site: &Site, id: String, progress: &str) -> Outcome {
    let style = match progress {
        "plain" => Style::Plain,
        "rawjson" => Style::RawJson,
        other => {
            return Err(Failure::new(format!(
                "invalid value {other:?} for --progress: plain or rawjson"
            )));
        }
    };
    let mut lines = Lines::new(style);
    let answer = site.builder().build_logs(BuildLogsRequest { id }).await?;
    let mut events = answer.into_inner();
    while let Some(event) = events.message().await? {
        let text = match event.event {
            Some(Event::Step(step)) => lines.step(&step),
            Some(Event::Log(log)) => lines.log(&log),
            Some(Event::Warning(warning)) => vec![lines.warning(&warning)],
            _ => continue,
        };
        let text: String = text.iter().map(|l| format!("{l}\n")).collect();
        output::print(&text)?;
    }
    Ok(0)
}

async fn rm(site: &Site, all: bool, words: &[String]) -> Outcome {
    if all != words.is_empty() {
        return Err(Failure::new("give build records to remove, or --all"));
    }
    let builds = list(site).await?;
    let ids = words.iter().map(|w| Ok(find(&builds, w)?.id));
    let request = RemoveBuildsRequest {
        ids: ids.collect::<Outcome<_>>()?,
        all,
    };
    let wanted = request.ids.len();
    let removed = site
        .builder()
        .remove_builds(request)
        .await?
        .into_inner()
        .removed;
    if removed.len() < wanted {
        return Err(Failure::new(
            "a build that runs is not removed: cancel it first",
        ));
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_build_is_meant() {
        let builds: Vec<Build> = ["abc", "abd", "xyz"]
            .map(|id| Build {
                id: id.to_owned(),
                ..Build::default()
            })
            .into();
        let of = |word: &str| find(&builds, word).ok().map(|b| b.id);
        assert_eq!(of("^0").as_deref(), Some("abc"));
        assert_eq!(of("^").as_deref(), Some("abd"));
        assert_eq!(of("^2").as_deref(), Some("xyz"));
        assert_eq!(of("default/default/x").as_deref(), Some("xyz"));
        for none in ["ab", "", "q", "^3", "^x"] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn durations_are_short() {
        let of = |seconds, nanos| {
            took(&Build {
                took: Some(prost_types::Duration { seconds, nanos }),
                ..Build::default()
            })
        };
        assert_eq!(of(0, 250_000_000), "0.2s");
        assert_eq!(of(75, 0), "1m 15s");
        assert_eq!(of(3700, 0), "1h 01m");
        assert_eq!(took(&Build::default()), "-");
    }
}
