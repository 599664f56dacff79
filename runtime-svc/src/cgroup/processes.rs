//! Who is in a container's groups: how processes get in, are found, and are killed.

use std::{
    fs, io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    process::Pid,
};

use super::{Group, write};
use crate::sys::fork::{self, Clone};

/// How often processes of a group are looked for to be killed, a millisecond apart.
const ROUNDS: usize = 100;

impl Group {
    /// Makes a process that begins in the v2 group where that can be, and says whether it did; else it
    /// is to be [added](Self::add_unified).
    pub fn begin_inside(&self, flags: i32) -> io::Result<(Clone, bool)> {
        let Some(path) = self.unified_folder() else {
            return Ok((fork::clone3(flags, None)?, false));
        };
        match begin_in(path, flags) {
            // A v2 tree beside v1 ones may be set up so that nobody can begin there (threaded groups).
            Err(e) if self.has_others() && !is_inner(&e) => Ok((fork::clone3(flags, None)?, false)),
            cloned => Ok((cloned?, true)),
        }
    }

    /// The same for a process that joins others, of which `first` is the first one. Who manages groups in a
    /// container (systemd, docker in docker) leaves none in the outermost, and the kernel lets nobody in there
    /// ("no internal processes", cgroups(7)): then it begins where that one is (runc, setnsProcess.addIntoCgroupV2).
    pub fn begin_beside(&self, first: Pid) -> io::Result<(Clone, bool)> {
        match self.begin_inside(0) {
            Err(e) if is_inner(&e) => match self.folder_of(first) {
                Some(folder) => Ok((begin_in(&folder, 0)?, true)),
                None => Err(e),
            },
            done => done,
        }
    }

    /// The v2 group of a process of the container, if that is below the container's.
    fn folder_of(&self, process: Pid) -> Option<PathBuf> {
        let text = fs::read_to_string(format!("/proc/{}/cgroup", process.as_raw_pid())).ok()?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let below = Path::new(path).strip_prefix(&self.path).ok()?;
        Some(self.v2.as_ref()?.join(below))
    }

    /// Kills every process in the group.
    pub fn kill(&self) -> io::Result<()> {
        if let Some(path) = &self.v2 {
            // Linux 5.14.
            match write(&path.join("cgroup.kill"), "1") {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => return other,
            }
        }
        // Who forks while we look has a child that we have not seen: until nobody is there. What the kernel
        // cannot end (in a system call that waits for a disk) does not hold us for ever.
        for _ in 0..ROUNDS {
            let processes = self.processes()?;
            if processes.is_empty() {
                break;
            }
            for pid in processes {
                match rustix::process::kill_process(pid, rustix::process::Signal::KILL) {
                    Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Ok(())
    }

    /// Processes in the group and those that the container made in it, as seen from this process namespace.
    pub fn processes(&self) -> io::Result<Vec<Pid>> {
        let mut found = Vec::new();
        let mut left: Vec<PathBuf> = self
            .folders()
            .next()
            .map(Path::to_owned)
            .into_iter()
            .collect();
        while let Some(folder) = left.pop() {
            let text = match fs::read_to_string(folder.join("cgroup.procs")) {
                Ok(text) => text,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                // A group of threads: their processes are in a group above it (cgroups(7)).
                Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => String::new(),
                Err(e) => return Err(e),
            };
            found.extend(
                text.lines()
                    .filter_map(|l| l.parse().ok().and_then(Pid::from_raw)),
            );
            // Gone meanwhile: nobody is in it.
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            let folders = entries.filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()));
            left.extend(folders.map(|entry| entry.path()));
        }
        Ok(found)
    }
}

fn begin_in(group: &Path, flags: i32) -> io::Result<Clone> {
    let flags_of_folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(group, flags_of_folder, Mode::empty())?;
    fork::clone3(flags, Some(folder.as_raw_fd()))
}

/// Whether a group takes no process since it hands controllers on to groups in it.
fn is_inner(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBUSY)
}
