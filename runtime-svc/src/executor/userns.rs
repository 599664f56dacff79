//! The user namespace of a container: made by the monitor before there is a container, entered by each
//! of its processes last.
//!
//! Root file system and mounts are made with the host's privileges, as for every container; only the
//! file system ids are the container's from the beginning, so that whatever is made on the way belongs
//! to its root. Owners on disk stay the container's own numbers: layers, writable layer and volumes
//! are mounted through idmapped mounts (mount_setattr(2), Linux 5.12; as layers of overlayfs 5.19).

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal, WaitOptions},
    thread::{ThreadNameSpaceType, UnshareFlags},
};

use super::{
    StartError, Step as _,
    plan::{IdRange, Namespace, Namespaces, UserMap},
};
use crate::sys::{
    capability,
    fork::{self, Clone},
    namespaces, prctl,
};

/// A user namespace and what its ids are on the host.
#[derive(Debug)]
pub struct UserNamespace {
    map: UserMap,
    namespace: OwnedFd,
}

impl UserNamespace {
    /// Makes one. For a process with one thread, in the host's process namespace.
    pub fn create(map: &UserMap) -> Result<Self, StartError> {
        Self::create_with(map, &[]).map(|(user, _)| user)
    }

    /// Makes one, and namespaces that it owns: its root has power over those. Of these `kinds`, which are
    /// flags of clone(2) with their names in `/proc/<pid>/ns`; in their order.
    pub fn create_with(
        map: &UserMap,
        kinds: &[(i32, &str)],
    ) -> Result<(Self, Vec<OwnedFd>), StartError> {
        let what = || "cannot make a user namespace".to_owned();
        let flags = kinds
            .iter()
            .fold(libc::CLONE_NEWUSER, |flags, (flag, _)| flags | flag);
        // A namespace needs a process to be born with; its descriptor keeps it alive after that.
        let (pid, _pidfd) = match fork::clone3(flags, None).step(what)? {
            Clone::Child => {
                // It holds copies of all that the monitor has open, and must not outlive it.
                if prctl::set_parent_death_signal(libc::SIGKILL).is_err() {
                    fork::exit_now(1);
                }
                loop {
                    rustix::event::pause();
                }
            }
            Clone::Parent(pid, fd) => (pid, fd),
        };
        let namespace = prepare(pid, map);
        let owned: io::Result<Vec<_>> = kinds.iter().map(|(_, name)| open(pid, name)).collect();
        // Whatever came of it: it has done its duty.
        let ended = rustix::process::kill_process(pid, Signal::KILL)
            .and_then(|()| rustix::process::waitpid(Some(pid), WaitOptions::empty()));
        ended.step(what)?;
        let user = Self {
            map: map.clone(),
            namespace: namespace.step(what)?,
        };
        Ok((user, owned.step(what)?))
    }

    /// For mount_setattr(2).
    pub const fn namespace(&self) -> &OwnedFd {
        &self.namespace
    }

    /// From now on this process makes files as the container's root, with the host's capabilities.
    pub fn own_files(&self) -> Result<(), StartError> {
        own_files(&self.map)
    }

    /// Makes the first process one of the namespace, and mounts, host name and view of the cgroups
    /// the namespace's own: nothing that was mounted can be taken off by the container.
    pub fn begin(&self, namespaces: &Namespaces) -> Result<(), StartError> {
        self.join()?;
        let mut flags = UnshareFlags::NEWNS;
        if namespaces.uts == Namespace::New {
            flags |= UnshareFlags::NEWUTS;
        }
        if namespaces.cgroup == Namespace::New {
            flags |= UnshareFlags::NEWCGROUP;
        }
        namespaces::unshare(flags).step(|| "cannot own the container's mounts".to_owned())
    }

    /// Makes a further process one of the namespace.
    pub fn join(&self) -> Result<(), StartError> {
        let what = || "cannot enter the user namespace".to_owned();
        // setns(2) takes a namespace and, Linux 5.8, a process in it.
        rustix::thread::move_into_thread_name_spaces(
            self.namespace.as_fd(),
            ThreadNameSpaceType::USER,
        )
        .step(what)?;
        become_root().step(what)
    }

    /// The one of a container, whose first process this is by descriptor.
    pub const fn of(process: OwnedFd, map: UserMap) -> Self {
        Self {
            map,
            namespace: process,
        }
    }

    /// The host's number of a user of the container.
    pub fn uid(&self, inside: u32) -> Option<u32> {
        self.map.uid(inside)
    }
}

/// A thread that makes files as a container's root, with the host's capabilities, while this lives.
#[derive(Debug)]
pub struct FilesOfRoot(());

impl FilesOfRoot {
    /// Begins.
    pub fn begin(map: &UserMap) -> Result<Self, StartError> {
        let guard = Self(());
        own_files(map)?;
        Ok(guard)
    }
}

impl Drop for FilesOfRoot {
    fn drop(&mut self) {
        // Never fails for who is root; the kernel gives back the capabilities that concern files.
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(0));
        nix::unistd::setfsgid(nix::unistd::Gid::from_raw(0));
    }
}

fn own_files(map: &UserMap) -> Result<(), StartError> {
    let what = || "cannot act for the container's root".to_owned();
    let (Some(uid), Some(gid)) = (map.uid(0), map.gid(0)) else {
        return Err(StartError::Failed {
            step: what(),
            why: "its user namespace has no root".to_owned(),
        });
    };
    nix::unistd::setfsgid(nix::unistd::Gid::from_raw(gid));
    nix::unistd::setfsuid(nix::unistd::Uid::from_raw(uid));
    // The change took those away that concern files (capabilities(7)).
    capability::raise().step(what)
}

fn prepare(process: Pid, map: &UserMap) -> io::Result<OwnedFd> {
    let pid = process.as_raw_nonzero();
    let lines = |ranges: &[IdRange]| -> String {
        ranges
            .iter()
            .map(|r| format!("{} {} {}\n", r.inside, r.host, r.size))
            .collect()
    };
    std::fs::write(format!("/proc/{pid}/uid_map"), lines(&map.uids))?;
    std::fs::write(format!("/proc/{pid}/gid_map"), lines(&map.gids))?;
    open(process, "user")
}

fn open(pid: Pid, name: &str) -> io::Result<OwnedFd> {
    let path = format!("/proc/{}/ns/{name}", pid.as_raw_nonzero());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// The host's root, under whose number we came, is nobody in there.
fn become_root() -> io::Result<()> {
    prctl::set_keep_capabilities(true)?;
    nix::unistd::setgroups(&[])?;
    let gid = nix::unistd::Gid::from_raw(0);
    nix::unistd::setresgid(gid, gid, gid)?;
    let uid = nix::unistd::Uid::from_raw(0);
    nix::unistd::setresuid(uid, uid, uid)?;
    prctl::set_keep_capabilities(false)?;
    capability::raise()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_counted_from_the_start_of_their_range() {
        let range = |inside, host, size| IdRange { inside, host, size };
        let map = UserMap {
            uids: vec![range(0, 100_000, 10), range(10, 5, 2)],
            gids: vec![],
        };
        let uids: Vec<_> = [0, 9, 10, 11, 12].map(|id| map.uid(id)).into();
        assert_eq!(uids, [Some(100_000), Some(100_009), Some(5), Some(6), None]);
        assert_eq!(map.gid(0), None);
    }
}
