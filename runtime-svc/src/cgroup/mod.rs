//! Control groups: where a container is accounted, limited, frozen and killed.
//!
//! v2 (one tree) is what users have; v1 and the hybrid of both must work too. A controller that the
//! kernel does not offer is not in [`Support`], which the limits are checked against before they get here.

mod devices;
mod oom;
mod processes;
mod support;
mod usage;
mod v1;
mod v2;

pub use oom::OomWatch;
pub use support::Support;
pub use usage::Usage;

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags},
    io::Errno,
    process::Pid,
};

use crate::executor::plan::{Cgroup as Plan, Limits};

/// The group that containers' groups are in, unless `--cgroup-parent` says another.
pub const PARENT: &str = "slipway";

/// The cgroup trees of this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hierarchies {
    /// v1 trees.
    pub v1: Vec<Hierarchy>,
    /// The v2 tree.
    pub v2: Option<PathBuf>,
    /// Controllers of the v2 tree.
    pub v2_controllers: Vec<String>,
}

/// A v1 tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub path: PathBuf,
    /// What was mounted: controllers, or `name=systemd`.
    pub options: Vec<String>,
}

impl Hierarchies {
    /// Looks at this process's mounts.
    pub fn detect() -> io::Result<Self> {
        let mut found = Self::parse(&fs::read_to_string("/proc/self/mountinfo")?);
        if let Some(root) = &found.v2 {
            let controllers = fs::read_to_string(root.join("cgroup.controllers"))?;
            found.v2_controllers = controllers.split_whitespace().map(str::to_owned).collect();
        }
        Ok(found)
    }

    /// From the text of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
    fn parse(mountinfo: &str) -> Self {
        let mut found = Self::default();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let (Some(path), mut right) = (left.split(' ').nth(4), right.split(' ')) else {
                continue;
            };
            let path = PathBuf::from(path.replace("\\040", " "));
            match right.next() {
                Some("cgroup2") => {
                    found.v2.get_or_insert(path);
                }
                Some("cgroup") => {
                    let options = right.nth(1).unwrap_or_default();
                    let options: Vec<String> = options
                        .split(',')
                        .filter(|o| {
                            !matches!(*o, "rw" | "ro" | "xattr" | "clone_children" | "none")
                                && !o.starts_with("release_agent=")
                        })
                        .map(str::to_owned)
                        .collect();
                    // The same tree may be mounted several times; the first place is the usual one.
                    if !found.v1.iter().any(|h| h.options == options) {
                        found.v1.push(Hierarchy { path, options });
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// "2", "1" or "hybrid".
    pub const fn version(&self) -> &'static str {
        match (self.v1.is_empty(), self.v2.is_some()) {
            (true, true) => "2",
            (false, true) => "hybrid",
            (false, false) => "1",
            (true, false) => "none",
        }
    }

    /// Processors and memory nodes that groups may be given, as lists; "" = not known.
    pub fn cpuset(&self) -> (String, String) {
        let v2 = self.v2_controllers.iter().any(|c| c == "cpuset");
        let root = match &self.v2 {
            Some(root) if v2 => Some(root.as_path()),
            _ => self.v1_of("cpuset"),
        };
        let read = |name: &str| {
            let file = root.map(|root| match v2 {
                true => root.join(format!("{name}.effective")),
                false => root.join(name),
            });
            let text = file.and_then(|file| fs::read_to_string(file).ok());
            text.unwrap_or_default().trim().to_owned()
        };
        (read("cpuset.cpus"), read("cpuset.mems"))
    }

    /// The v1 tree of a controller.
    pub fn v1_of(&self, controller: &str) -> Option<&Path> {
        self.v1
            .iter()
            .find(|h| h.options.iter().any(|o| o == controller))
            .map(|h| h.path.as_path())
    }
}

/// The groups of one container, one in each tree.
#[derive(Debug, Clone)]
pub struct Group {
    /// Below each tree's root.
    path: String,
    v1: Vec<(PathBuf, Hierarchy)>,
    v2: Option<PathBuf>,
}

/// A number of processes as the kernel takes it.
fn pids(limit: u64) -> String {
    match limit {
        u64::MAX => "max".to_owned(),
        limit => limit.to_string(),
    }
}

impl Group {
    /// Names the groups of a container without making them.
    pub fn open(hierarchies: &Hierarchies, path: &str) -> Self {
        Self {
            path: path.to_owned(),
            v1: hierarchies
                .v1
                .iter()
                .map(|h| (h.path.join(path), h.clone()))
                .collect(),
            v2: hierarchies.v2.as_ref().map(|root| root.join(path)),
        }
    }

    /// Makes the groups and sets the limits.
    pub fn create(hierarchies: &Hierarchies, plan: &Plan) -> io::Result<Self> {
        let group = Self::create_first(hierarchies, plan)?;
        group.create_others(plan)?;
        Ok(group)
    }

    /// Makes the group that a process can [begin in](Self::begin_inside) and sets its limits; a process
    /// may [join](Self::join) after [`Self::create_others`].
    pub fn create_first(hierarchies: &Hierarchies, plan: &Plan) -> io::Result<Self> {
        let group = Self::open(hierarchies, &plan.path);
        if let (Some(path), Some(root)) = (&group.v2, &hierarchies.v2) {
            v2::create(root, path)?;
            v2::create_for(root, path, &plan.limits)?;
            v2::limit(path, &plan.limits, &hierarchies.v2_controllers)?;
            if hierarchies.v1_of("devices").is_none() {
                if !plan.all_devices {
                    devices::restrict(path, &plan.devices)?;
                } else if !plan.denied_devices.is_empty() {
                    devices::deny(path, &plan.denied_devices)?;
                }
            }
        }
        Ok(group)
    }

    /// Makes the groups of the v1 trees and sets the limits: many system calls, while the first process
    /// does its own.
    pub fn create_others(&self, plan: &Plan) -> io::Result<()> {
        for (path, hierarchy) in &self.v1 {
            v1::create(path, hierarchy)?;
            v1::limit(path, hierarchy, &plan.limits)?;
            if hierarchy.options.iter().any(|o| o == "devices") {
                if !plan.all_devices {
                    v1::restrict_devices(path, &plan.devices)?;
                } else if !plan.denied_devices.is_empty() {
                    v1::deny_devices(path, &plan.denied_devices)?;
                }
            }
        }
        Ok(())
    }

    /// Sets other limits for groups that are there.
    pub fn limit(&self, hierarchies: &Hierarchies, limits: &Limits) -> io::Result<()> {
        for (path, hierarchy) in &self.v1 {
            v1::limit(path, hierarchy, limits)?;
        }
        match &self.v2 {
            Some(path) => v2::limit(path, limits, &hierarchies.v2_controllers),
            None => Ok(()),
        }
    }

    /// The folder for CLONE_INTO_CGROUP. On hosts with v1 trees too the process [joins](Self::join)
    /// those itself.
    pub fn unified_folder(&self) -> Option<&Path> {
        self.v2.as_deref()
    }

    /// The group in one of the v1 trees.
    pub fn folder_in(&self, hierarchy: &Hierarchy) -> Option<&Path> {
        let found = self.v1.iter().find(|(_, h)| h == hierarchy);
        found.map(|(path, _)| path.as_path())
    }

    /// Whether there are trees besides the one that a process can begin in.
    pub fn has_others(&self) -> bool {
        !self.v1.is_empty()
    }

    /// Puts the calling process, which has one thread, into the v1 groups.
    ///
    /// Moving somebody else, or by `cgroup.procs`, waits until all processors have noticed
    /// (cgroup_attach_lock in kernel/cgroup/cgroup.c): some 8 ms for eight trees. A thread that moves
    /// itself by `tasks` needs no such lock.
    pub fn join(&self) -> io::Result<()> {
        for (path, _) in &self.v1 {
            write(&path.join("tasks"), "0")?;
        }
        Ok(())
    }

    /// Puts a process into the v2 group.
    pub fn add_unified(&self, pid: Pid) -> io::Result<()> {
        match &self.v2 {
            Some(path) => write(
                &path.join("cgroup.procs"),
                &pid.as_raw_nonzero().to_string(),
            ),
            None => Ok(()),
        }
    }

    /// Stops or continues all processes; returns when the kernel has done it.
    pub fn freeze(&self, frozen: bool) -> io::Result<()> {
        if let Some(path) = self
            .v2
            .as_ref()
            .filter(|p| p.join("cgroup.freeze").exists())
        {
            return v2::freeze(path, frozen);
        }
        match self
            .v1
            .iter()
            .find(|(_, h)| h.options.iter().any(|o| o == "freezer"))
        {
            Some((path, _)) => v1::freeze(path, frozen),
            None => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this host has no freezer cgroup controller",
            )),
        }
    }

    /// Whether its processes were stopped.
    pub fn is_frozen(&self) -> bool {
        let says = |file: PathBuf, word: &str| {
            fs::read_to_string(file).is_ok_and(|text| text.trim() == word)
        };
        self.v2
            .iter()
            .any(|path| says(path.join("cgroup.freeze"), "1"))
            || self
                .v1
                .iter()
                .any(|(path, _)| says(path.join("freezer.state"), "FROZEN"))
    }

    /// Whether the kernel killed a process of it for want of memory.
    pub fn oom_killed(&self) -> bool {
        let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
        let from_v2 = self
            .v2
            .as_ref()
            .map(|p| read(p.join("memory.events")))
            .unwrap_or_default();
        let from_v1 = self
            .v1
            .iter()
            .find(|(_, h)| h.options.iter().any(|o| o == "memory"))
            .map(|(p, _)| read(p.join("memory.oom_control")))
            .unwrap_or_default();
        from_v2.lines().chain(from_v1.lines()).any(|line| {
            line.strip_prefix("oom_kill ")
                .and_then(|n| n.trim().parse::<u64>().ok())
                .is_some_and(|n| n > 0)
        })
    }

    /// Watches for that. `None` where the kernel has no way to tell.
    pub fn watch_oom(&self) -> Option<OomWatch> {
        let v1 = self
            .v1
            .iter()
            .find(|(_, h)| h.options.iter().any(|o| o == "memory"));
        let watch = match (v1, &self.v2) {
            (Some((path, _)), _) => OomWatch::v1(path),
            (None, Some(path)) => OomWatch::v2(path),
            (None, None) => return None,
        };
        watch.ok()
    }

    /// Takes the groups away. Groups of processes that are just ending are tried again for a moment;
    /// not there is fine.
    pub fn remove(&self) -> io::Result<()> {
        for path in self.folders() {
            remove_tree(path)?;
        }
        Ok(())
    }

    fn folders(&self) -> impl Iterator<Item = &Path> {
        self.v1
            .iter()
            .map(|(path, _)| path.as_path())
            .chain(self.v2.as_deref())
    }
}

/// Removes a group and the groups that the container made in it, which may be nested deeper than a path is long
/// or a stack is deep.
fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(top)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut folder = match subfolder(CWD, parent.as_os_str()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    // From `top` to the one that goes next; `folder` is where that is.
    let mut names = vec![top.to_owned()];
    let mut attempt = 0;
    while let Some(name) = names.last() {
        match rustix::fs::unlinkat(&folder, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {
                names.pop();
                attempt = 0;
                if !names.is_empty() {
                    folder = subfolder(folder.as_fd(), "..".as_ref())?;
                }
            }
            Err(Errno::BUSY | Errno::NOTEMPTY) => {
                let group = match subfolder(folder.as_fd(), name) {
                    Err(Errno::NOENT) => continue,
                    opened => opened?,
                };
                match first_group(&group)? {
                    Some(inner) => {
                        folder = group;
                        names.push(inner);
                    }
                    // The kernel empties a group a little after its last process was reaped: a millisecond or
                    // two, unless the host is so busy that who was killed does not get to its end.
                    None if attempt < 600 => {
                        let wait = if attempt < 100 { 1 } else { 10 };
                        std::thread::sleep(std::time::Duration::from_millis(wait));
                        attempt += 1;
                    }
                    None => return Err(Errno::BUSY.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn subfolder(folder: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

/// Some group in this one.
fn first_group(group: &OwnedFd) -> io::Result<Option<OsString>> {
    for entry in rustix::fs::Dir::read_from(group)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if entry.file_type() == FileType::Directory && name != "." && name != ".." {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    fs::write(path, value).map_err(|e| {
        io::Error::new(
            e.kind(),
            format!("cannot write {value:?} to {}: {e}", path.display()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_nested_deeper_than_a_path_is_long_go() {
        let home = tempfile::tempdir().unwrap();
        let name = "a".repeat(100);
        let mut folder = subfolder(CWD, home.path().as_os_str()).unwrap();
        for depth in 0..500 {
            let name: &str = if depth == 0 { "top" } else { &name };
            rustix::fs::mkdirat(&folder, name, Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&folder, format!("{name}-beside"), Mode::RWXU).unwrap();
            folder = subfolder(folder.as_fd(), name.as_ref()).unwrap();
        }
        remove_tree(&home.path().join("top")).unwrap();
        assert!(!home.path().join("top").exists());
        assert!(home.path().join("top-beside").exists());
        remove_tree(&home.path().join("top")).unwrap();
        remove_tree(&home.path().join("nowhere/top")).unwrap();
    }

    #[test]
    fn hybrid_hosts_are_understood() {
        let text = "\
25 18 0:22 / /sys/fs/cgroup ro - tmpfs tmpfs rw\n\
26 25 0:23 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
27 25 0:24 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
28 25 0:25 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
29 25 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = Hierarchies::parse(text);
        assert_eq!(found.version(), "hybrid");
        assert_eq!(
            found.v2.as_deref(),
            Some(Path::new("/sys/fs/cgroup/unified"))
        );
        assert_eq!(
            found.v1_of("cpuacct"),
            Some(Path::new("/sys/fs/cgroup/cpu,cpuacct"))
        );
        assert_eq!(found.v1[1].options, ["name=systemd"]);
    }

    #[test]
    fn a_pure_v2_host() {
        let found = Hierarchies::parse(
            "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
        );
        assert_eq!(found.version(), "2");
        assert!(Group::open(&found, "slipway/x").unified_folder().is_some());
    }
}
