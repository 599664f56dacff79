//! Network namespaces: made, opened and entered without running any other program.
//!
//! A namespace is kept alive by an open file descriptor only, never by a bind mount: when the last
//! holder dies, the kernel takes it and the links in it back by itself.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// Threads that only make a few system calls need no more.
const STACK: usize = 128 << 10;

/// An open network namespace.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
}

impl Netns {
    /// Makes a namespace, on a thread that lives no longer than that.
    pub fn create() -> io::Result<Self> {
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Self::current()
        })
    }

    /// The calling thread's namespace.
    pub fn current() -> io::Result<Self> {
        // thread-self, not self: a thread that has unshared differs from its process (proc(5)).
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Opens a namespace by path and makes sure that it is one.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // ioctl_ns(2) would need unsafe; setns(2) itself refuses everything but a network namespace,
        // and it is what this descriptor is for.
        Ok(Self { fd: file.into() })
    }

    /// Runs `work` on a thread inside this namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        on_thread(|| {
            setns(&self.fd, CloneFlags::CLONE_NEWNET)?;
            work()
        })
    }

    /// The same, open once more.
    pub fn try_clone(&self) -> io::Result<Self> {
        let fd = self.fd.try_clone()?;
        Ok(Self { fd })
    }

    /// Its inode in nsfs, of which there is one: no two namespaces that are there have the same.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(File::from(self.fd.try_clone()?).metadata()?.ino())
    }

    /// Whether both are the same namespace.
    pub fn same_as(&self, other: &Netns) -> io::Result<bool> {
        Ok(self.inode()? == other.inode()?)
    }

    /// Where another process finds this namespace while we hold it open.
    pub fn proc_path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name("netns".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, work)?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the namespace thread panicked")))
    })
}
