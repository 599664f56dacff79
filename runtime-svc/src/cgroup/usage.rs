//! What a group uses: processor, memory, block devices, processes.

use std::{fs, path::Path};

use super::Group;

/// Read at one moment. What this host does not count is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Nanoseconds of processor time so far.
    pub cpu: u64,
    /// Bytes, with the page cache.
    pub memory: u64,
    /// Bytes; 0 = none.
    pub memory_limit: u64,
    /// Bytes of the page cache that the kernel can take back at once.
    pub memory_cache: u64,
    /// Bytes so far.
    pub block_read: u64,
    /// Bytes so far.
    pub block_write: u64,
    /// Now.
    pub pids: u64,
    /// 0 = none.
    pub pids_limit: u64,
}

impl Group {
    /// Reads what the group uses now.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        if let Some(path) = &self.v2 {
            usage.read_v2(path);
        }
        for (path, hierarchy) in &self.v1 {
            for controller in &hierarchy.options {
                usage.read_v1(path, controller);
            }
        }
        // "No limit" is the largest number that the kernel can count in pages.
        if usage.memory_limit > i64::MAX as u64 / 2 {
            usage.memory_limit = 0;
        }
        usage
    }
}

impl Usage {
    fn read_v2(&mut self, path: &Path) {
        self.cpu = field(path, "cpu.stat", "usage_usec").saturating_mul(1000);
        self.memory = number(path, "memory.current");
        self.memory_limit = number(path, "memory.max");
        self.memory_cache = field(path, "memory.stat", "inactive_file");
        self.pids = number(path, "pids.current");
        self.pids_limit = number(path, "pids.max");
        let text = fs::read_to_string(path.join("io.stat")).unwrap_or_default();
        (self.block_read, self.block_write) = io_stat(&text);
    }

    fn read_v1(&mut self, path: &Path, controller: &str) {
        match controller {
            "cpuacct" => self.cpu = number(path, "cpuacct.usage"),
            "memory" => {
                self.memory = number(path, "memory.usage_in_bytes");
                self.memory_limit = number(path, "memory.limit_in_bytes");
                self.memory_cache = field(path, "memory.stat", "total_inactive_file");
            }
            "pids" => {
                self.pids = number(path, "pids.current");
                self.pids_limit = number(path, "pids.max");
            }
            "blkio" => {
                let file = path.join("blkio.throttle.io_service_bytes");
                let text = fs::read_to_string(file).unwrap_or_default();
                (self.block_read, self.block_write) = service_bytes(&text);
            }
            _ => {}
        }
    }
}

/// "max" is no number, and no limit.
fn number(path: &Path, file: &str) -> u64 {
    let text = fs::read_to_string(path.join(file)).unwrap_or_default();
    text.trim().parse().unwrap_or_default()
}

/// A line "name number".
fn field(path: &Path, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path.join(file)).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or_default()
}

/// v2: "8:0 rbytes=1 wbytes=2 ..."
fn io_stat(text: &str) -> (u64, u64) {
    let sum = |key: &str| {
        text.split_whitespace()
            .filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok())
            .sum()
    };
    (sum("rbytes="), sum("wbytes="))
}

/// v1: "8:0 Read 1"
fn service_bytes(text: &str) -> (u64, u64) {
    let sum = |kind: &str| {
        text.lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace().skip(1);
                (words.next()? == kind).then(|| words.next()?.parse::<u64>().ok())?
            })
            .sum()
    };
    (sum("Read"), sum("Write"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_block_devices() {
        let v2 = "8:0 rbytes=10 wbytes=5 rios=1 wios=1 dbytes=0\n8:16 rbytes=1 wbytes=2 rios=1\n";
        assert_eq!(io_stat(v2), (11, 7));
        let v1 = "8:0 Read 10\n8:0 Write 5\n8:0 Sync 3\n8:16 Read 1\n8:16 Write 2\nTotal 18\n";
        assert_eq!(service_bytes(v1), (11, 7));
    }

    #[test]
    fn a_v2_group() {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("cpu.stat", "usage_usec 7\nuser_usec 5\n"),
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("memory.stat", "anon 1\ninactive_file 96\n"),
            ("pids.current", "3\n"),
            ("pids.max", "50\n"),
        ] {
            fs::write(folder.path().join(file), text).unwrap();
        }
        let mut usage = Usage::default();
        usage.read_v2(folder.path());
        let expected = Usage {
            cpu: 7000,
            memory: 4096,
            memory_cache: 96,
            pids: 3,
            pids_limit: 50,
            ..Usage::default()
        };
        assert_eq!(usage, expected);
    }
}
