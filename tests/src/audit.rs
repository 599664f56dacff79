//! Everything that containers take of a host, in a form that can be compared: what was there before an
//! operation that was cut off must be there after it was made good, and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::{Site, leaks, watchdog};

/// How long a monitor or the kernel may take for its last steps.
const PATIENCE: Duration = Duration::from_secs(10);

/// What there is of a site: by kind, how often what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit(BTreeMap<String, usize>);

impl Audit {
    /// Looks at a site. Names that are made anew each time count by their kind.
    pub fn of(site: &Site) -> Self {
        let mut found = Self(BTreeMap::new());
        let containers = site.known_containers();
        let folder = site.path("");
        let folder = folder.to_string_lossy();
        let folder = folder.trim_end_matches('/');
        found.mounts(folder);
        for group in leaks::cgroups(&containers) {
            found.add("cgroup", &group.display().to_string());
        }
        let processes = processes(site, folder, &containers);
        found.processes(site, &processes);
        found.network(site);
        for (part, depth) in [
            ("state/runtime/containers", 2),
            ("state/runtime/volumes", 2),
            ("state/runtime/snapshots", 1),
            ("state/runtime/layers", 2),
            ("state/runtime/caches", 2),
            ("state/runtime", 1),
            ("state/registry/uploads", 2),
            ("state/netd", 1),
            ("run", 4),
        ] {
            found.files(&site.path(part), part, depth);
        }
        found
    }

    /// Waits until a site looks like this again; gives the differences that stay.
    pub fn differences(&self, site: &Site) -> Vec<String> {
        let begun = Instant::now();
        loop {
            let differences = self.compare(&Self::of(site));
            if differences.is_empty() || begun.elapsed() > PATIENCE {
                return differences;
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    fn compare(&self, now: &Self) -> Vec<String> {
        let all: BTreeSet<&String> = self.0.keys().chain(now.0.keys()).collect();
        let count = |audit: &Self, what: &str| audit.0.get(what).copied().unwrap_or(0);
        all.into_iter()
            .map(|what| (what, count(self, what), count(now, what)))
            .filter(|(_, before, after)| before != after)
            .map(|(what, before, after)| format!("{what}: {before} before, {after} now"))
            .collect()
    }

    fn add(&mut self, kind: &str, what: &str) {
        *self.0.entry(format!("{kind} {what}")).or_default() += 1;
    }

    fn mounts(&mut self, folder: &str) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for line in mounts.lines().filter(|line| line.contains(folder)) {
            let place = line.split(' ').nth(4).unwrap_or_default();
            self.add("mount", place);
        }
    }

    fn processes(&mut self, site: &Site, processes: &BTreeSet<String>) {
        let mut namespaces = BTreeSet::new();
        let mut alone = BTreeSet::from(["slipway-spawner", "slipway-taker"]);
        for pid in processes {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let namespace = fs::metadata(format!("/proc/{pid}/ns/net"));
            // Gone meanwhile.
            let (false, Ok(namespace)) = (name.is_empty(), namespace) else {
                continue;
            };
            // One of each, made when it is needed.
            if !alone.remove(name.trim()) {
                self.add("process", name.trim());
            }
            namespaces.insert(namespace.ino());
        }
        for service in ["netd", "runtime"] {
            let pid = site.service_pid(service);
            for entry in fs::read_dir(format!("/proc/{pid}/fd"))
                .into_iter()
                .flatten()
                .flatten()
            {
                let Ok(target) = fs::read_link(entry.path()) else {
                    continue;
                };
                let target = target.to_string_lossy().into_owned();
                if let Some(number) = target.strip_prefix("net:[") {
                    namespaces.insert(number.trim_end_matches(']').parse().unwrap());
                }
                // Connections come and go with those who ask, and a netd that was started again holds
                // only namespaces that it made.
                if !target.starts_with("socket:") && !target.starts_with("net:") {
                    self.add(
                        &format!("descriptor of {service}"),
                        &without_numbers(&target),
                    );
                }
            }
        }
        self.0
            .insert("network namespaces".to_owned(), namespaces.len());
        self.zombies(processes);
    }

    /// Children that ended and that nobody took notice of. A container's own are its own affair.
    fn zombies(&mut self, processes: &BTreeSet<String>) {
        let ours = |pid: &str| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let name = name.trim();
            name.starts_with("slipway-") || matches!(name, "runtime-svc" | "netd")
        };
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // pid (comm) state ppid; the comm may have anything in it.
            let Some((head, tail)) = stat.rsplit_once(") ") else {
                continue;
            };
            let mut rest = tail.split(' ');
            let (state, parent) = (rest.next(), rest.next().unwrap_or_default());
            if state == Some("Z") && processes.contains(parent) && ours(parent) {
                let name = head.split_once('(').map_or("", |(_, name)| name);
                self.add("zombie", name);
            }
        }
    }

    fn network(&mut self, site: &Site) {
        let mut links = BTreeSet::new();
        for link in lines(site, &["ip", "-o", "link"]) {
            let name = link.split([':', '@']).nth(1).unwrap_or_default().trim();
            links.insert(name.to_owned());
            if site.own_links().iter().any(|own| own == name) {
                continue;
            }
            let bridge = link
                .split_whitespace()
                .skip_while(|w| *w != "master")
                .nth(1);
            match bridge {
                Some(bridge) => self.add("link of bridge", bridge),
                None => self.add("link", name),
            }
        }
        for line in lines(site, &["nft", "list", "ruleset"]) {
            // A map with several elements has them on lines of their own, in no certain order.
            for part in line.split(", ").map(|p| p.trim().trim_end_matches(',')) {
                match element_of(part) {
                    // Of another link, with another address, when it is another one of those that are prepared.
                    Some((link, fields)) if links.contains(link) => {
                        self.add("nftables elements of a link, fields", &fields.to_string());
                    }
                    _ => self.add("nftables", part),
                }
            }
        }
    }

    fn files(&mut self, folder: &Path, name: &str, depth: usize) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let file = entry.file_name().to_string_lossy().into_owned();
            let label = format!("{name}/{file}");
            // One that a packer, a rotation or a probe makes, of a container that goes on.
            if !file.ends_with(".tmp") {
                self.add("file", &shortened(&label));
            }
            if depth > 1 && entry.file_type().is_ok_and(|t| t.is_dir()) {
                self.files(&entry.path(), &label, depth - 1);
            }
        }
    }
}

/// The host's end that an element of a set begins with, and of how many fields that is.
fn element_of(part: &str) -> Option<(&str, usize)> {
    let element = part.trim_start_matches("elements = {").trim();
    let (link, _) = element.strip_prefix('"')?.split_once('"')?;
    let fields = element.split(" . ").count();
    link.starts_with("sw").then_some((link, fields))
}

/// Names of endpoints, which a container has a new one of at each start, count as one.
fn shortened(label: &str) -> String {
    match label.split_once("/netd/endpoints/") {
        Some((run, name)) => {
            let kind = Path::new(name).extension().unwrap_or_default();
            format!("{run}/netd/endpoints/*.{}", kind.to_string_lossy())
        }
        None => label.to_owned(),
    }
}

fn without_numbers(text: &str) -> String {
    text.split(|c: char| c.is_ascii_digit())
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("#")
}

/// Processes in the site's network namespace, in cgroups of its containers, or upon its files.
fn processes(site: &Site, folder: &str, containers: &BTreeSet<String>) -> BTreeSet<String> {
    let mut found: BTreeSet<String> = watchdog::processes(site.namespace()).into_iter().collect();
    let own = fs::metadata("/proc/self/ns/mnt").unwrap().ino();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if !pid.bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        let path: PathBuf = entry.path();
        let elsewhere = fs::metadata(path.join("ns/mnt")).is_ok_and(|m| m.ino() != own);
        let read = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
        let upon_files = || elsewhere && read("mountinfo").contains(folder);
        let in_group = || {
            let groups = read("cgroup");
            groups.contains("slipway") && containers.iter().any(|id| groups.contains(id.as_str()))
        };
        if upon_files() || in_group() {
            found.insert(pid);
        }
    }
    found
}

fn lines(site: &Site, command: &[&str]) -> Vec<String> {
    let output = Command::new("nsenter")
        .arg(format!("--net={}", site.namespace_path().display()))
        .args(command)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect()
}
