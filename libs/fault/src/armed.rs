//! What debug builds do at a point.

use std::{io, os::fd::OwnedFd, path::Path, sync::OnceLock, time::Duration};

use rustix::{
    fs::{AtFlags, Mode, OFlags},
    process::Signal,
};

use crate::{Action, VARIABLE, inventory};

/// Where points are armed; none = nowhere. Open from the first point on: a process that goes into a
/// container takes it along to where no path leads back.
static FOLDER: OnceLock<Option<OwnedFd>> = OnceLock::new();

/// Does what the point is armed for, if it is.
pub fn reach(name: &str) -> io::Result<()> {
    match FOLDER.get_or_init(|| open(std::env::var_os(VARIABLE)?.as_ref())) {
        Some(folder) => reach_in(folder, name),
        None => Ok(()),
    }
}

fn open(folder: &Path) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty()).ok()?;
    // Above what processes give fixed numbers to.
    rustix::io::fcntl_dupfd_cloexec(&folder, 200).ok()
}

fn reach_in(folder: &OwnedFd, name: &str) -> io::Result<()> {
    debug_assert!(
        inventory::all().any(|point| point.name == name),
        "{name} is not listed"
    );
    let fired = format!("{name}.fired");
    if rustix::fs::renameat(folder, name, folder, &fired).is_err() {
        return Ok(());
    }
    let mut text = [0; 32];
    let length = rustix::fs::openat(
        folder,
        &fired,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .and_then(|file| rustix::io::read(&file, &mut text))?;
    let text = String::from_utf8_lossy(&text[..length]);
    match text.trim().parse() {
        Ok(Action::Kill) => die(),
        Ok(Action::Wait) => {
            while rustix::fs::statat(folder, &fired, AtFlags::empty()).is_ok() {
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok(())
        }
        Ok(Action::Fail(number)) => Err(io::Error::from_raw_os_error(number)),
        Err(()) => panic!("{name} is armed for {text:?}, which is nothing that can be done"),
    }
}

fn die() -> ! {
    // Cannot fail for oneself; but the first process of a process namespace does not hear signals of its
    // own, only the end that abort(3) brings about after them.
    let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_armed_point_fires_once() {
        let folder = tempfile::tempdir().unwrap();
        let open = open(folder.path()).unwrap();
        let name = "runtime.create.record";
        reach_in(&open, name).unwrap();
        let armed = folder.path().join(name);
        std::fs::write(&armed, Action::Fail(28).to_string()).unwrap();
        assert_eq!(reach_in(&open, name).unwrap_err().raw_os_error(), Some(28));
        assert!(!armed.exists() && folder.path().join(format!("{name}.fired")).exists());
        reach_in(&open, name).unwrap();
        std::fs::write(&armed, Action::Wait.to_string()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let fired = folder.path().join(format!("{name}.fired"));
                while armed.exists() {
                    std::thread::yield_now();
                }
                std::fs::remove_file(fired).unwrap();
            });
            reach_in(&open, name).unwrap();
        });
    }

    #[test]
    fn actions_are_written_as_they_are_read() {
        for action in [Action::Kill, Action::Wait, Action::Fail(28)] {
            assert_eq!(action.to_string().parse(), Ok(action));
        }
        assert_eq!("dance".parse::<Action>(), Err(()));
    }
}
