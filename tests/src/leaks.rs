//! What programs must not leave behind when everything of a site was removed.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::watchdog;

/// How long a monitor or the kernel may take for its last steps.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is looked for.
pub struct Traces<'a> {
    /// The site's folder.
    pub folder: &'a Path,
    /// Its network namespace.
    pub namespace: &'a str,
    /// Links there that are the harness' own.
    pub links: &'a [String],
    /// Containers that there have been.
    pub containers: &'a BTreeSet<String>,
}

impl Traces<'_> {
    /// Waits until nothing is left; gives what is left after that.
    pub fn wait(&self) -> Vec<String> {
        let begun = Instant::now();
        loop {
            let left = self.look();
            if left.is_empty() || begun.elapsed() > PATIENCE {
                return left;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn look(&self) -> Vec<String> {
        let mut left = Vec::new();
        for pid in watchdog::processes(self.namespace) {
            left.push(format!("process {pid}: {}", command_line(&pid)));
        }
        for link in self.lines(&["ip", "-o", "link"]) {
            let name = link.split([':', '@']).nth(1).unwrap_or_default().trim();
            if name != "lo" && !self.links.iter().any(|l| l == name) {
                left.push(format!("link {name}"));
            }
        }
        for table in self.lines(&["nft", "list", "tables"]) {
            left.push(format!("nftables {table}"));
        }
        let folder = self.folder.to_string_lossy();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        left.extend(
            mounts
                .lines()
                .filter(|line| line.contains(&*folder))
                .map(|line| format!("mount {line}")),
        );
        left.extend(
            cgroups(self.containers)
                .into_iter()
                .map(|path| format!("cgroup {}", path.display())),
        );
        for live in ["run/runtime/containers", "run/netd/endpoints"] {
            for entry in fs::read_dir(self.folder.join(live))
                .into_iter()
                .flatten()
                .flatten()
            {
                left.push(format!("file {}", entry.path().display()));
            }
        }
        left
    }

    fn lines(&self, command: &[&str]) -> Vec<String> {
        let output = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.namespace))
            .args(command)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

/// Control groups of these containers, in v1 trees and in v2's.
pub fn cgroups(containers: &BTreeSet<String>) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let mut bases = vec![root.to_owned()];
    bases.extend(folders(root));
    let ours = bases.iter().flat_map(|base| folders(base)).filter(|path| {
        path.file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with("slipway"))
    });
    ours.flat_map(|slipway| folders(&slipway))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            containers.iter().any(|id| name.contains(id.as_str()))
        })
        .collect()
}

fn folders(path: &Path) -> Vec<PathBuf> {
    fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect()
}

fn command_line(pid: &str) -> String {
    let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&text).replace('\0', " ")
}
