//! Signals to a container: kill, stop, pause.

use std::{io, time::Duration};

use super::{
    manager::Manager,
    state::{Container, Status},
};
use crate::{
    cgroup::Group,
    error::{Error, Tried as _},
    monitor::client::Connection,
};

/// docker's default between the signal to stop and SIGKILL.
const STOP_TIMEOUT: i32 = 10;

impl Manager {
    /// Sends a signal to the first process.
    pub async fn kill(&self, container: &Container, signal: &str) -> Result<(), Error> {
        let signal = parse_signal(if signal.is_empty() { "KILL" } else { signal })?;
        if container.running().is_none() {
            return Err(Error::Conflict(format!(
                "cannot kill container: {}: container {} is not running",
                container.name(),
                container.id
            )));
        }
        self.signal(container, signal).await?;
        self.tell(container, "kill", &[("signal", signal.to_string())]);
        Ok(())
    }

    pub(super) async fn signal(&self, container: &Container, signal: i32) -> Result<(), Error> {
        let what = || format!("cannot signal container {}", container.name());
        match Connection::open(&container.socket()) {
            Ok(connection) => connection.signal(signal).await.tried(what),
            // It has just ended.
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(())
            }
            Err(e) => Err(e).tried(what),
        }
    }

    /// Asks a container to end, and kills it when it does not in time. False when it did not run.
    pub async fn stop(
        &self,
        container: &Container,
        signal: &str,
        timeout: Option<i32>,
    ) -> Result<bool, Error> {
        if container.running().is_none() {
            return Ok(false);
        }
        let record = container.record();
        let name = [signal, &record.effective.stop_signal, "TERM"]
            .into_iter()
            .find(|s| !s.is_empty())
            .unwrap_or("TERM")
            .to_owned();
        let signal = parse_signal(&name)?;
        let seconds = timeout.or(record.spec.stop_timeout).unwrap_or(STOP_TIMEOUT);
        let mut watch = container.watch();
        self.signal(container, signal).await?;
        let ended = watch.wait_for(|s| !matches!(s, Status::Running { .. }));
        match u64::try_from(seconds) {
            Ok(seconds) => {
                if tokio::time::timeout(Duration::from_secs(seconds), ended)
                    .await
                    .is_err()
                {
                    let mut watch = container.watch();
                    self.signal(container, libc::SIGKILL).await?;
                    // The sender lives as long as the container.
                    let _ = watch
                        .wait_for(|s| !matches!(s, Status::Running { .. }))
                        .await;
                }
            }
            Err(_) => drop(ended.await),
        }
        self.tell(container, "stop", &[]);
        Ok(true)
    }

    /// Freezes or continues a container.
    pub async fn pause(&self, container: &Container, pause: bool) -> Result<(), Error> {
        let _turn = container.operation.lock().await;
        let name = container.name();
        let Status::Running { running, paused } = container.status() else {
            return Err(Error::Conflict(format!("Container {name} is not running")));
        };
        if paused == pause {
            let state = if pause { "already" } else { "not" };
            return Err(Error::Conflict(format!(
                "Container {name} is {state} paused"
            )));
        }
        let group = Group::open(&self.0.hierarchies, &format!("slipway/{}", container.id));
        tokio::task::spawn_blocking(move || group.freeze(pause))
            .await
            .map_err(io::Error::other)
            .and_then(|r| r)
            .tried(|| format!("cannot pause container {name}"))?;
        container.set_status(Status::Running {
            running,
            paused: pause,
        });
        self.tell(container, if pause { "pause" } else { "unpause" }, &[]);
        Ok(())
    }
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
        .map_err(|_| Error::Invalid(format!("Invalid signal: {text}")))
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
