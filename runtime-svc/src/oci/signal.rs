//! `kill`, `pause` and `resume`.

use super::{
    Error, cli,
    foreground::signal,
    state::{Record, Status, Store},
};
use crate::{oci::error::Tried as _, sys::signals};

/// Sends a signal to the first process, or to all.
pub fn kill(store: &Store, options: &cli::Kill) -> Result<u8, Error> {
    let signal = signal(&options.signal)?;
    let id = &options.id;
    let record = store.read(id)?;
    let what = || format!("cannot send signal {signal} to container {id}");
    if options.all {
        let group = record.group()?;
        if signal == libc::SIGKILL {
            group.kill().tried(what)?;
            return thaw(&record);
        }
        for pid in group.processes().tried(what)? {
            // Between the list and this it may have ended, never a process of ours: those are in no group
            // of a container.
            signals::send_to(pid, signal)
                .or_else(|e| match e.raw_os_error() {
                    Some(libc::ESRCH) => Ok(()),
                    _ => Err(e),
                })
                .tried(what)?;
        }
        return Ok(0);
    }
    match store.status(&record) {
        (_, Some(alive)) => {
            signals::send(&alive.pidfd, signal).tried(what)?;
            match signal {
                libc::SIGKILL => thaw(&record),
                _ => Ok(0),
            }
        }
        (_, None) => Err(Error::NotRunning(id.clone())),
    }
}

/// On v1 nobody who is frozen dies of SIGKILL before it is thawed (runc, Container.signal).
fn thaw(record: &Record) -> Result<u8, Error> {
    let group = record.group()?;
    if group.is_frozen() {
        let what = || format!("cannot thaw container {}", record.plan.id);
        group.freeze(false).tried(what)?;
    }
    Ok(0)
}

/// Freezes or thaws all processes.
pub fn freeze(store: &Store, id: &str, frozen: bool) -> Result<u8, Error> {
    let held = store.hold(id)?;
    let record = held
        .record()?
        .ok_or_else(|| Error::Missing(id.to_owned()))?;
    match (store.status(&record).0, frozen) {
        (Status::Running | Status::Created, true) | (Status::Paused, false) => {}
        (Status::Paused, true) => {
            return Err(Error::Conflict(format!("container {id} is paused already")));
        }
        (Status::Running | Status::Created, false) => {
            return Err(Error::Conflict(format!("container {id} is not paused")));
        }
        (Status::Creating | Status::Stopped, _) => return Err(Error::NotRunning(id.to_owned())),
    }
    let word = if frozen { "pause" } else { "resume" };
    record
        .group()?
        .freeze(frozen)
        .tried(|| format!("cannot {word} container {id}"))?;
    Ok(0)
}
