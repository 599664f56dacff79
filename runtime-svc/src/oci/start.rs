//! `start`.

use super::{
    Error, agent, make,
    notify::Listener,
    state::{Status, Store},
};
use crate::{executor::hooks, oci::error::Tried as _, sys::signals};

/// Lets the program of a container that was made begin.
pub fn start(store: &Store, id: &str) -> Result<u8, Error> {
    let held = store.hold(id)?;
    let record = held
        .record()?
        .ok_or_else(|| Error::Missing(id.to_owned()))?;
    let alive = match store.status(&record) {
        (Status::Created, Some(alive)) => alive,
        (Status::Paused, _) => {
            return Err(Error::Conflict(format!(
                "cannot start a paused container: {id}"
            )));
        }
        (Status::Running, _) => {
            return Err(Error::Conflict(format!(
                "cannot start a container that has been started: {id}"
            )));
        }
        (Status::Creating, _) => {
            return Err(Error::Conflict(format!(
                "the making of container {id} was cut off: delete it"
            )));
        }
        (Status::Stopped | Status::Created, _) => {
            return Err(Error::Conflict(format!(
                "cannot start a container that has stopped: {id}"
            )));
        }
    };
    // Before there is a program that may say something.
    let notify = Listener::bind(held.folder())?;
    let what = || format!("cannot start container {id}");
    let agent = record.outside.agent.as_ref();
    let patience = agent.and_then(|agent| agent.patience(&record.plan.hooks));
    let said = match (held.begin(patience), agent) {
        (Err(e), Some(agent)) if agent::late(&e) => {
            signals::send(&alive.pidfd, libc::SIGKILL).tried(what)?;
            return Err(agent.held_up());
        }
        (said, _) => said.tried(what)?,
    };
    make::answered(&said)?;
    let about = &record.plan.hooks.about;
    let run = &record.outside.poststart;
    let done = hooks::run_all("poststart", run, about, "running", alive.pid.as_raw_pid());
    if let Err(error) = done {
        // runtime.md, "Lifecycle": the container is stopped; its caller deletes it.
        signals::send(&alive.pidfd, libc::SIGKILL)
            .tried(|| format!("cannot stop container {id}"))?;
        return Err(error.into());
    }
    if let Some(notify) = notify {
        // Others may ask for it meanwhile, or kill it.
        drop(held);
        notify.until_ready(alive.pid.as_raw_pid(), &alive.pidfd)?;
    }
    Ok(0)
}
