//! One running instance per run folder: a lock on the pid file.

use std::{
    fs::{File, OpenOptions, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

/// Holds the lock as long as it lives; the kernel drops it with the process, however that ends.
#[derive(Debug)]
pub struct InstanceLock {
    _file: Flock<File>,
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// Somebody holds it.
    #[error("already running (pid {pid}, {})", path.display())]
    Running {
        /// As the pid file says.
        pid: String,
        /// The pid file.
        path: PathBuf,
    },
    /// The file could not be used.
    #[error("cannot write {}: {source}", path.display())]
    Io {
        /// The pid file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Takes the lock and writes our pid.
pub fn lock(path: &Path) -> Result<InstanceLock, InstanceError> {
    let fail = |source| InstanceError::Io {
        path: path.to_owned(),
        source,
    };
    let file = open(path).map_err(fail)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut file) => {
            file.set_len(0).map_err(fail)?;
            writeln!(file, "{}", std::process::id()).map_err(fail)?;
            Ok(InstanceLock { _file: file })
        }
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(fail)?;
            Err(InstanceError::Running {
                pid: pid.trim().to_owned(),
                path: path.to_owned(),
            })
        }
        Err((_, errno)) => Err(fail(errno.into())),
    }
}

/// The pid of the instance that holds the lock, if one does.
pub fn running(path: &Path) -> Result<Option<u32>, InstanceError> {
    let fail = |source| InstanceError::Io {
        path: path.to_owned(),
        source,
    };
    let file = match OpenOptions::new().read(true).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(fail(e)),
    };
    // A shared lock is enough to see whether the exclusive one is held, and two who look at the same
    // time don't take each other for the instance.
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => Ok(None),
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(fail)?;
            Ok(pid.trim().parse().ok())
        }
        Err((_, errno)) => Err(fail(errno.into())),
    }
}

/// Its owner's alone: a file that can be read can be locked (flock(2)), and whoever does that keeps the service from
/// starting.
fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    // One that an earlier version left.
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_instance_is_told_the_pid_of_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pid");
        assert_eq!(running(&path).unwrap(), None);
        let held = lock(&path).unwrap();
        let Err(InstanceError::Running { pid, .. }) = lock(&path) else {
            panic!("locked twice")
        };
        assert_eq!(pid, std::process::id().to_string());
        assert_eq!(running(&path).unwrap(), Some(std::process::id()));
        drop(held);
        assert_eq!(running(&path).unwrap(), None);
    }

    #[test]
    fn nobody_else_can_hold_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pid");
        let mode = || path.metadata().unwrap().permissions().mode() & 0o777;
        let held = lock(&path).unwrap();
        assert_eq!(mode(), 0o600);
        drop(held);
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let _held = lock(&path).unwrap();
        assert_eq!(mode(), 0o600, "left by an earlier version");
    }
}
