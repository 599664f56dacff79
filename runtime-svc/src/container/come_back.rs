//! Containers that their restart policy brings back.

use std::{sync::Arc, time::Duration};

use super::{
    life::Life,
    manager::Manager,
    restart::{self, Ending, Policy},
    state::{Container, Status},
};
use crate::{error::Error, monitor::protocol::ExitRecord};

impl Manager {
    /// Starts a container again after a while, unless somebody stops, starts or removes it before.
    pub(super) fn bring_back(
        &self,
        container: &Arc<Container>,
        record: ExitRecord,
        delay: Duration,
    ) {
        let wait = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        let next = crate::monitor::now().saturating_add(wait);
        container.set_delay(Some(delay));
        container.set_status(Status::Restarting { record, next });
        slipway_fault::point("runtime.restart.waiting");
        let (manager, container) = (self.clone(), container.clone());
        tokio::spawn(async move { manager.come_back(container, next, delay).await });
    }

    async fn come_back(self, container: Arc<Container>, planned: u64, delay: Duration) {
        let waits = |s: &Status| matches!(s, Status::Restarting { next, .. } if *next == planned);
        let mut status = container.watch();
        let cancelled = status.wait_for(|s| !waits(s));
        if tokio::time::timeout(delay, cancelled).await.is_ok() {
            return;
        }
        let _turn = container.operation.lock().await;
        let now = container.status();
        let (true, Status::Restarting { mut record, .. }) = (waits(&now), now) else {
            return;
        };
        slipway_fault::point("runtime.restart.due");
        let (policy, ending) = verdict(&container, record.code);
        if policy == Policy::No {
            // It was taken away from it meanwhile.
            container.set_status(Status::Exited { record });
            return;
        }
        let life = Life {
            stopped_by_hand: false,
            restarts: ending.restarts + 1,
        };
        let begun = self.begin(&container, None, life).await;
        container.sync_soon();
        match begun {
            Ok(()) => {}
            // What it needs may be away for a moment only.
            Err(error @ (Error::Network { .. } | Error::Io { .. })) => {
                tracing::warn!(container = container.id, %error, "not restarted yet");
                let delay = restart::delay(Some(delay), Duration::ZERO);
                record.error = error.to_string();
                self.bring_back(&container, record, delay);
            }
            Err(error) => {
                tracing::warn!(container = container.id, %error, "not restarted");
                if container.is_up() {
                    record.error = error.to_string();
                    container.set_status(Status::Exited { record });
                }
            }
        }
    }

    /// Ends the wait for a restart. True when there was one: the container has ended for good.
    pub(super) async fn stay_down(&self, container: &Container) -> bool {
        let _turn = container.operation.lock().await;
        match container.status() {
            Status::Restarting { record, .. } => {
                container.set_status(Status::Exited { record });
                true
            }
            _ => false,
        }
    }
}

/// What its policy has to judge.
pub(super) fn verdict(container: &Container, code: i32) -> (Policy, Ending) {
    let (record, life) = (container.record(), container.life());
    // It was checked when it was given.
    let policy = Policy::parse(record.spec.restart.as_ref()).unwrap_or(Policy::No);
    let ending = Ending {
        code,
        by_hand: life.stopped_by_hand,
        restarts: life.restarts,
    };
    (policy, ending)
}
