//! `stats`: what containers use, refreshed every second.

use std::{collections::BTreeMap, io::IsTerminal as _};

use clap::Args;
use slipway_proto::runtime::v1::{ListRequest, StatsRequest, StatsSample};

use super::list_all;
use crate::{
    client::Site,
    failure::Outcome,
    output::{
        self,
        human::{self, short_id},
        table::{self, Columns, Row},
    },
};

/// `ctl stats`
#[derive(Debug, Args)]
pub struct Stats {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    all: bool,
    /// Format output using a custom template
    #[arg(long)]
    format: Option<String>,
    /// Disable streaming stats and only pull the first result
    #[arg(long)]
    no_stream: bool,
    /// Do not truncate output
    #[arg(long)]
    no_trunc: bool,
    containers: Vec<String>,
}

const COLUMNS: Columns = Columns {
    shown: &[
        ("ID", "CONTAINER ID"),
        ("Name", "NAME"),
        ("CPUPerc", "CPU %"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("MemPerc", "MEM %"),
        ("NetIO", "NET I/O"),
        ("BlockIO", "BLOCK I/O"),
        ("PIDs", "PIDS"),
    ],
    hidden: &[("Container", "CONTAINER")],
};

/// A container's last two samples.
#[derive(Debug, Default)]
struct Pair {
    before: Option<StatsSample>,
    now: StatsSample,
}

impl Stats {
    pub async fn run(self, site: &Site) -> Outcome {
        let mut containers = self.containers.clone();
        if self.all && containers.is_empty() {
            let all = ListRequest {
                all: true,
                ..ListRequest::default()
            };
            containers = list_all(site, all)
                .await?
                .into_iter()
                .map(|c| c.id)
                .collect();
            if containers.is_empty() {
                return self.show(&[]);
            }
        }
        let request = StatsRequest {
            containers,
            stream: !self.no_stream,
        };
        let mut samples = site.containers().stats(request).await?.into_inner();
        let mut last: BTreeMap<String, StatsSample> = BTreeMap::new();
        let mut round: Vec<Pair> = Vec::new();
        while let Some(sample) = samples.message().await? {
            if round.first().is_some_and(|p| p.now.time != sample.time) {
                if !self.no_stream {
                    self.show(&round)?;
                }
                round.clear();
            }
            let before = last.insert(sample.container_id.clone(), sample.clone());
            round.push(Pair {
                before,
                now: sample,
            });
        }
        self.show(&round)
    }

    fn show(&self, round: &[Pair]) -> Outcome {
        let one = |pair| row(pair, self.named(pair), self.no_trunc);
        let rows: Vec<Row> = round.iter().map(one).collect();
        let mut text = table::render(COLUMNS, &rows, self.format.as_deref())?;
        if !self.no_stream && std::io::stdout().is_terminal() {
            // A clean screen, as docker does it.
            text.insert_str(0, "\x1b[2J\x1b[H");
        }
        output::print(&text)?;
        Ok(0)
    }
}

impl Stats {
    /// What the user called it.
    fn named(&self, pair: &Pair) -> Option<&str> {
        let (id, name) = (&pair.now.container_id, &pair.now.name);
        let mut words = self.containers.iter().map(String::as_str);
        words.find(|w| w.trim_start_matches('/') == name || id.starts_with(w))
    }
}

fn row(pair: &Pair, named: Option<&str>, whole: bool) -> Row {
    let s = &pair.now;
    // What the kernel can take back at once is not used.
    let memory = s.memory_usage.saturating_sub(s.memory_cache);
    let id = if whole {
        s.container_id.clone()
    } else {
        short_id(&s.container_id).to_owned()
    };
    let two = |a: u64, b: u64| format!("{} / {}", human::size(a), human::size(b));
    let (used, limit) = (
        human::binary_size(memory),
        human::binary_size(s.memory_limit),
    );
    Row::new([
        ("Container", named.unwrap_or(&id).to_owned()),
        ("ID", id),
        ("Name", s.name.clone()),
        ("CPUPerc", format!("{:.2}%", processor(pair))),
        ("MemUsage", format!("{used} / {limit}")),
        (
            "MemPerc",
            format!("{:.2}%", percent(memory, s.memory_limit)),
        ),
        ("NetIO", two(s.net_rx, s.net_tx)),
        ("BlockIO", two(s.block_read, s.block_write)),
        ("PIDs", s.pids.to_string()),
    ])
}

/// Of one processor, as docker counts: two busy ones are 200 %.
fn processor(pair: &Pair) -> f64 {
    let Some(before) = &pair.before else {
        return 0.0;
    };
    let used = pair.now.cpu_usage_ns.saturating_sub(before.cpu_usage_ns);
    let all = pair.now.system_cpu_ns.saturating_sub(before.system_cpu_ns);
    percent(used, all) * f64::from(pair.now.online_cpus)
}

#[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64 * 100.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stats() {
        let before = StatsSample {
            container_id: "0123456789abcdef".into(),
            name: "web".into(),
            cpu_usage_ns: 1_000_000_000,
            system_cpu_ns: 10_000_000_000,
            online_cpus: 2,
            ..StatsSample::default()
        };
        let now = StatsSample {
            cpu_usage_ns: 1_500_000_000,
            system_cpu_ns: 12_000_000_000,
            memory_usage: 3 << 20,
            memory_cache: 1 << 20,
            memory_limit: 64 << 20,
            net_rx: 1200,
            pids: 2,
            ..before.clone()
        };
        let pair = Pair {
            before: Some(before),
            now,
        };
        let text = table::render(COLUMNS, &[row(&pair, None, false)], None).unwrap();
        assert_eq!(
            text,
            "CONTAINER ID   NAME      CPU %     MEM USAGE / LIMIT   MEM %     NET I/O      BLOCK I/O   PIDS\n\
             0123456789ab   web       50.00%    2MiB / 64MiB        3.12%     1.2kB / 0B   0B / 0B     2\n"
        );
    }
}
