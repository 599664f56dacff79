//! Signals to a container: kill, stop, pause.

use std::{io, sync::Arc, time::Duration};

use super::{
    manager::Manager,
    start::waits_for_room,
    state::{Container, Status},
};
use crate::{
    cgroup::Group,
    error::{Error, Tried as _},
    monitor::client::{self, Connection},
};

/// docker's default between the signal to stop and SIGKILL.
const STOP_TIMEOUT: i32 = 10;

impl Manager {
    /// Sends a signal to the first process. The one that stops it, or SIGKILL, counts as being stopped by
    /// hand: its restart policy does not bring it back.
    pub async fn kill(&self, container: &Container, signal: &str) -> Result<(), Error> {
        let number = parse_signal(if signal.is_empty() { "KILL" } else { signal })?;
        if !container.is_up() {
            return Err(Error::Conflict(format!(
                "cannot kill container: {}: container {} is not running",
                container.name(),
                container.id
            )));
        }
        let ends = number == libc::SIGKILL || Some(number) == stop_signal(container, "").ok();
        if ends {
            self.stopped_by_hand(container)?;
            if self.stay_down(container).await {
                return stays_stopped(container).await;
            }
            // A restart that was under way has forgotten it again.
            self.stopped_by_hand(container)?;
        }
        self.signal(container, number).await?;
        if ends {
            self.thaw(container).await?;
        }
        self.tell(container, "kill", &[("signal", number.to_string())]);
        match ends {
            true => stays_stopped(container).await,
            false => Ok(()),
        }
    }

    /// Records that its end is wanted, before anything is done to that end: it stays stopped whatever
    /// happens to us.
    fn stopped_by_hand(&self, container: &Container) -> Result<(), Error> {
        if container.life().stopped_by_hand {
            return Ok(());
        }
        let recorded = slipway_fault::fallible("runtime.stop.recorded")
            .and_then(|()| container.stopped_by_hand());
        match recorded {
            // Nobody has to let it run on for that: its record is written when its end is.
            Err(error) if is_full(&error) => {
                tracing::warn!(container = container.id, %error, "it ends all the same");
                container.remember_stopped();
                Ok(())
            }
            recorded => recorded
                .tried(|| format!("cannot record the end of container {}", container.name())),
        }
    }

    /// A frozen process gets no signal: as docker, one that is to end is continued.
    async fn thaw(&self, container: &Container) -> Result<(), Error> {
        if !matches!(container.status(), Status::Running { paused: true, .. }) {
            return Ok(());
        }
        match self.pause(container, false).await {
            // Somebody else continued it, or it has ended.
            Err(Error::Conflict(_)) => Ok(()),
            done => done,
        }
    }

    /// Ends a container that is to be removed, also where the disk is full: removing it makes room.
    pub(super) async fn end_for_good(&self, container: &Container) -> Result<(), Error> {
        if let Err(error) = self.stopped_by_hand(container) {
            tracing::warn!(container = container.id, %error, "it is removed all the same");
            container.remember_stopped();
        }
        self.discard(container).await?;
        self.end(container, libc::SIGKILL, None).await
    }

    /// Of one that has ended and is to be removed: what waits for room on the disk is not written any more.
    pub(super) async fn give_up_output(&self, container: &Container) -> Result<(), Error> {
        // No policy brings back what goes.
        container.remember_stopped();
        self.discard(container).await?;
        container.until_written().await;
        Ok(())
    }

    async fn discard(&self, container: &Container) -> Result<(), Error> {
        let discarded = match self.monitor(container) {
            Ok(Some(monitor)) => monitor.discard().await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        discarded.tried(|| format!("cannot end container {}", container.name()))
    }

    /// Ends a container that runs or is about to: by `signal`, and by SIGKILL after `patience` (none =
    /// as long as it takes).
    pub(super) async fn end(
        &self,
        container: &Container,
        signal: i32,
        patience: Option<Duration>,
    ) -> Result<(), Error> {
        loop {
            self.stopped_by_hand(container)?;
            // Before looking: an end that comes after that is not missed.
            let mut exits = container.exits();
            if self.stay_down(container).await || container.running().is_none() {
                return Ok(());
            }
            // A restart that was under way has forgotten it again.
            self.stopped_by_hand(container)?;
            self.signal(container, signal).await?;
            slipway_fault::point("runtime.stop.signalled");
            self.tell(container, "kill", &[("signal", signal.to_string())]);
            self.thaw(container).await?;
            // The sender lives as long as the container.
            let Some(patience) = patience else {
                let _ = exits.changed().await;
                continue;
            };
            if tokio::time::timeout(patience, exits.changed())
                .await
                .is_err()
            {
                self.signal(container, libc::SIGKILL).await?;
                slipway_fault::point("runtime.stop.killed");
                let killed = libc::SIGKILL.to_string();
                self.tell(container, "kill", &[("signal", killed)]);
                let _ = exits.changed().await;
            }
        }
    }

    pub(super) async fn signal(&self, container: &Container, signal: i32) -> Result<(), Error> {
        let what = || format!("cannot signal container {}", container.name());
        match self.monitor(container).tried(what)? {
            Some(monitor) => monitor.signal(signal).await.tried(what),
            // It has just ended.
            None => Ok(()),
        }
    }

    /// A connection to its monitor; none when that has ended.
    fn monitor(&self, container: &Container) -> io::Result<Option<Connection>> {
        match Connection::open(&container.socket()) {
            Ok(connection) => Ok(Some(connection)),
            Err(e) if client::is_none(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Asks a container to end, and kills it when it does not in time. False when it did not run. That it was
    /// stopped survives a power cut when this is done.
    pub async fn stop(
        &self,
        container: &Container,
        signal: &str,
        timeout: Option<i32>,
    ) -> Result<bool, Error> {
        let ran = self.stop_for_now(container, signal, timeout).await?;
        stays_stopped(container).await?;
        Ok(ran)
    }

    async fn stop_for_now(
        &self,
        container: &Container,
        signal: &str,
        timeout: Option<i32>,
    ) -> Result<bool, Error> {
        let number = stop_signal(container, signal)?;
        if matches!(container.status(), Status::Ending { .. }) {
            // Its policy has not judged yet.
            self.stopped_by_hand(container)?;
        }
        if !container.is_up() {
            return Ok(false);
        }
        let seconds = timeout
            .or(container.record().spec.stop_timeout)
            .unwrap_or(STOP_TIMEOUT);
        // Negative = wait for ever.
        let patience = u64::try_from(seconds).ok().map(Duration::from_secs);
        self.end(container, number, patience).await?;
        self.tell(container, "stop", &[]);
        Ok(true)
    }

    /// Stops a container, if it runs, and starts it. One of `--rm` stays.
    pub async fn restart(
        &self,
        container: &Arc<Container>,
        signal: &str,
        timeout: Option<i32>,
    ) -> Result<(), Error> {
        if matches!(container.status(), Status::Ending { .. }) {
            // Before the stop: its restart policy stays as it is.
            return Err(waits_for_room(container));
        }
        let _kept = container.keep_over_restart();
        self.stop_for_now(container, signal, timeout).await?;
        self.start(container, None).await?;
        self.tell(container, "restart", &[]);
        Ok(())
    }

    /// Freezes or continues a container.
    pub async fn pause(&self, container: &Container, pause: bool) -> Result<(), Error> {
        let _turn = container.operation.lock().await;
        let name = container.name();
        let paused = match container.status() {
            Status::Running { paused, .. } => paused,
            Status::Restarting { .. } => {
                return Err(Error::Conflict(format!(
                    "Container {name} is restarting, wait until the container is running"
                )));
            }
            _ => return Err(Error::Conflict(format!("Container {name} is not running"))),
        };
        if paused == pause {
            let state = if pause { "already" } else { "not" };
            return Err(Error::Conflict(format!(
                "Container {name} is {state} paused"
            )));
        }
        let group = Group::open(&self.0.hierarchies, &container.record().cgroup());
        tokio::task::spawn_blocking(move || group.freeze(pause))
            .await
            .map_err(io::Error::other)
            .and_then(|r| r)
            .tried(|| format!("cannot pause container {name}"))?;
        container.set_paused(pause);
        self.tell(container, if pause { "pause" } else { "unpause" }, &[]);
        Ok(())
    }
}

/// Waits until the disk has it that somebody asked for the end of a container. Many that are stopped at the same
/// time wait for the disk together.
async fn stays_stopped(container: &Container) -> Result<(), Error> {
    match container.synced().await {
        // It is written when its end is.
        Err(error) if is_full(&error) => Ok(()),
        synced => {
            synced.tried(|| format!("the end of container {} is not on disk", container.name()))
        }
    }
}

/// Whether the disk takes nothing more: it is full, for us or for all, or was made read-only after an error.
fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::ReadOnlyFilesystem
    )
}

/// The signal that ends a container: the one asked for, its own, or TERM.
fn stop_signal(container: &Container, asked: &str) -> Result<i32, Error> {
    let own = container.record().effective.stop_signal;
    let name = [asked, &own, "TERM"].into_iter().find(|s| !s.is_empty());
    parse_signal(name.unwrap_or("TERM"))
}

/// `TERM`, `SIGTERM` or `15`.
pub fn parse_signal(text: &str) -> Result<i32, Error> {
    if let Ok(number) = text.parse::<i32>()
        && (1..=64).contains(&number)
    {
        return Ok(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = format!("SIG{}", upper.strip_prefix("SIG").unwrap_or(&upper));
    if let Some(offset) = name.strip_prefix("SIGRTMIN") {
        let offset: i32 = if offset.is_empty() {
            0
        } else {
            offset.trim_start_matches('+').parse().unwrap_or(-1)
        };
        if (0..=30).contains(&offset) {
            // 34 is what glibc leaves of the kernel's 32.
            return Ok(34 + offset);
        }
    }
    name.parse::<nix::sys::signal::Signal>()
        .map(|signal| signal as i32)
        .map_err(|_| Error::Invalid(format!("invalid signal: {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigkill", 9),
            ("1", 1),
            ("SIGRTMIN+3", 37),
        ] {
            assert_eq!(parse_signal(text).unwrap(), number, "{text}");
        }
        for text in ["", "0", "65", "NONSENSE", "SIGRTMIN+99"] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }
}
