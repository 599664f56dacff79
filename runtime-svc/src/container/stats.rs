//! `stats`: what containers use, a sample at a time.

use std::fs;

use super::{manager::Manager, state::Container};
use crate::cgroup::{Group, Usage};

/// What a container uses at one moment; all 0 for one that does not run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// By its groups.
    pub usage: Usage,
    /// Bytes that it received and sent, over all its devices but the loopback.
    pub network: (u64, u64),
}

/// The host beside it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Host {
    /// Nanoseconds of time of all processors together so far.
    pub cpu: u64,
    /// Processors.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
}

impl Host {
    /// Reads it.
    pub fn now() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        Self {
            cpu: ticks(&text).saturating_mul(10_000_000),
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
            memory: rustix::system::sysinfo().totalram as u64,
        }
    }
}

impl Manager {
    /// Takes a sample of a container.
    pub fn sample(&self, container: &Container) -> Sample {
        let Some(running) = container.running() else {
            return Sample::default();
        };
        let group = Group::open(self.hierarchies(), &container.record().cgroup());
        let devices = fs::read_to_string(format!("/proc/{}/net/dev", running.pid));
        Sample {
            usage: group.usage(),
            network: traffic(&devices.unwrap_or_default()),
        }
    }
}

/// Ticks of all processors (proc_stat(5)): user to steal; guests are counted in user already.
fn ticks(text: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix("cpu "))
        .map(|line| {
            line.split_whitespace()
                .take(8)
                .filter_map(|n| n.parse::<u64>().ok())
                .sum()
        })
        .unwrap_or_default()
}

/// /proc/net/dev (proc_pid_net(5)): received bytes are the first number, sent ones the ninth.
fn traffic(text: &str) -> (u64, u64) {
    let mut sum = (0, 0);
    for (name, numbers) in text.lines().filter_map(|line| line.split_once(':')) {
        let numbers: Vec<u64> = numbers
            .split_whitespace()
            .filter_map(|n| n.parse().ok())
            .collect();
        if let (false, Some(received), Some(sent)) =
            (name.trim() == "lo", numbers.first(), numbers.get(8))
        {
            sum.0 += received;
            sum.1 += sent;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_files() {
        assert_eq!(ticks("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3\n"), 36);
        let dev = "Inter-|   Receive |  Transmit\n face |bytes packets\n    lo: 5 0 0 0 0 0 0 0 5 0\n  \
            eth0: 100 1 0 0 0 0 0 0 200 2 0 0 0 0 0 0\n";
        assert_eq!(traffic(dev), (100, 200));
    }
}
