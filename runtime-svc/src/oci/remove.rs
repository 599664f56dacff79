//! `delete`, and what is taken away at the end of `run`.

use std::os::fd::AsFd as _;

use rustix::event::{PollFd, PollFlags};

use super::{
    Error,
    log::Log,
    state::{Alive, Held, Record, Status, Store},
};
use crate::{cgroup::Group, executor::hooks, oci::error::Tried as _, sys::signals};

/// Takes away a container that has stopped; with `force` any, and none at all is fine then.
pub fn delete(store: &Store, id: &str, force: bool, log: &Log) -> Result<u8, Error> {
    let held = match store.hold(id) {
        Err(Error::Missing(_)) if force => return Ok(0),
        held => held?,
    };
    let Some(record) = held.record()? else {
        // Its making was cut off before anything was made.
        return held.forget().map(|()| 0);
    };
    let (status, alive) = store.status(&record);
    match (status, alive) {
        // Nobody counts on a container that never ran (runc).
        (Status::Created, Some(alive)) => end(&record, &alive)?,
        (_, Some(alive)) if force => end(&record, &alive)?,
        (status, Some(_)) => {
            return Err(Error::Conflict(format!(
                "cannot delete container {id} that is not stopped: {}",
                status.word()
            )));
        }
        (_, None) => {}
    }
    destroy(held, &record, log)?;
    Ok(0)
}

/// Kills the first process and waits until it is gone.
fn end(record: &Record, alive: &Alive) -> Result<(), Error> {
    let what = || format!("cannot kill container {}", record.plan.id);
    let group = record.group()?;
    signals::send(&alive.pidfd, libc::SIGKILL).tried(what)?;
    if group.is_frozen() {
        // On v1 nobody who is frozen dies.
        group.freeze(false).tried(what)?;
    }
    let mut polled = [PollFd::from_borrowed_fd(alive.pidfd.as_fd(), PollFlags::IN)];
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, None)).tried(what)?;
    Ok(())
}

/// Kills what is left in the groups and waits until nothing is: a group that somebody dies in cannot be
/// removed. Each round kills again what was forked meanwhile.
pub fn empty(group: &Group) -> std::io::Result<()> {
    for _ in 0..2000 {
        if group.processes()?.is_empty() {
            return Ok(());
        }
        group.kill()?;
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    Err(std::io::Error::new(
        std::io::ErrorKind::TimedOut,
        "its processes did not end within ten seconds of being killed",
    ))
}

/// Takes everything away, and tells the hooks.
pub fn destroy(held: Held, record: &Record, log: &Log) -> Result<(), Error> {
    let id = &record.plan.id;
    let what = || format!("cannot remove the cgroups of container {id}");
    let group = record.group()?;
    // Those that share a process namespace do not go with its first process; nor does one whose making
    // was cut off.
    if group.is_frozen() {
        group.freeze(false).tried(what)?;
    }
    empty(&group).tried(what)?;
    group.remove().tried(what)?;
    held.forget()?;
    // A hook that fails keeps nothing from going on (runtime.md, "Lifecycle").
    let about = &record.plan.hooks.about;
    for (number, hook) in record.outside.poststop.iter().enumerate() {
        if let Err(error) = hooks::run("poststop", number, hook, &about.state("stopped", 0)) {
            log.warn(&error.to_string());
        }
    }
    Ok(())
}
