//! `update`: other limits for a container that is there, running or not.

use std::io;

use slipway_proto::runtime::v1::{Resources, RestartPolicy};

use super::{manager::Manager, resources as rules, restart::Policy, state::Container, unsupported};
use crate::{
    cgroup::Group,
    error::{Error, Tried as _},
    executor::plan::Limits,
    monitor::{client::Connection, protocol::Request},
};

impl Manager {
    /// Changes what is named and leaves the rest as it is. Returns warnings.
    pub async fn update(
        &self,
        container: &Container,
        asked: &Resources,
        restart: Option<RestartPolicy>,
    ) -> Result<Vec<String>, Error> {
        let _turn = container.operation.lock().await;
        let old_spec = container.record().spec;
        let mut spec = old_spec.clone();
        let old = spec.resources.clone().unwrap_or_default();
        // docker: whoever lowers swap below memory without saying so would not get what he thinks.
        if asked.memory > old.memory_swap && old.memory_swap > 0 && asked.memory_swap == 0 {
            return Err(Error::Invalid("Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time".to_owned()));
        }
        let mut resources = merged(old, asked);
        let warnings = rules::check(&mut resources, &self.0.host, true)?;
        let limits = changed(&resources)?;
        spec.resources = Some(resources);
        if let Some(restart) = restart {
            if Policy::parse(Some(&restart))? != Policy::No && spec.auto_remove {
                return Err(Error::Invalid(
                    "Restart policy cannot be updated because AutoRemove is enabled for the container"
                        .to_owned(),
                ));
            }
            spec.restart = Some(restart);
        }
        unsupported::check(&spec)?;
        let name = container.name();
        let what = || format!("cannot record the limits of {name}");
        let runs = container.running().is_some();
        // The record first: should we end before the kernel has all of it, the next instance goes on.
        slipway_fault::fallible("runtime.update.recorded").tried(what)?;
        container
            .update(|record| {
                record.spec = spec;
                record.updating = runs;
            })
            .await
            .tried(what)?;
        if runs {
            slipway_fault::point("runtime.update.asked");
            let done = self.limit(container, &limits).await;
            slipway_fault::point("runtime.update.limited");
            if done.is_err() {
                // What the kernel has taken of it goes back, as far as it can.
                if let Ok(limits) = old_spec
                    .resources
                    .as_ref()
                    .map_or(Ok(Limits::default()), changed)
                {
                    drop(self.limit(container, &limits).await);
                }
            }
            let refused = done.is_err();
            container
                .update(|record| {
                    record.updating = false;
                    if refused {
                        record.spec = old_spec;
                    }
                })
                .await
                .tried(what)?;
            done.tried(|| format!("Cannot update container {name}"))?;
        }
        Ok(warnings)
    }
}

impl Manager {
    async fn limit(&self, container: &Container, limits: &Limits) -> io::Result<()> {
        let group = Group::open(self.hierarchies(), &container.record().cgroup());
        group.limit(self.hierarchies(), limits)?;
        if limits.memory.is_some() {
            watch_memory(container).await;
        }
        Ok(())
    }

    /// Finishes an update that was cut off.
    pub(super) async fn finish_update(&self, container: &Container) {
        let record = container.record();
        if !record.updating {
            return;
        }
        let resources = record.spec.resources.unwrap_or_default();
        let finished = match changed(&resources) {
            Ok(limits) => self.limit(container, &limits).await,
            Err(error) => Err(io::Error::other(error)),
        };
        let finished = match finished {
            Ok(()) => container.update(|record| record.updating = false).await,
            refused => refused,
        };
        if let Err(error) = finished {
            tracing::warn!(container = container.id, %error, "its limits are not what was asked for");
        }
    }
}

/// Limits for a group that is there: nothing said is no limit for a new one; an old one must be told.
fn changed(resources: &Resources) -> Result<Limits, Error> {
    let mut limits = rules::limits(resources);
    rules::add_devices(&mut limits, resources)?;
    if resources.pids_limit < 0 {
        limits.pids = Some(u64::MAX);
    }
    if resources.cpu_quota < 0 {
        limits.cpu_quota = Some(u64::MAX);
        limits.cpu_period = limits.cpu_period.or(Some(100_000));
    }
    Ok(limits)
}

/// Has the monitor tell when memory runs out: it watches for that only with a limit.
async fn watch_memory(container: &Container) {
    let asked = match Connection::open(&container.socket()) {
        Ok(connection) => connection.request(&Request::WatchMemory, &[]).await,
        Err(error) => Err(error),
    };
    if let Err(error) = asked {
        // It has just ended, or its end tells it.
        tracing::debug!(container = container.id, %error, "its memory is not watched");
    }
}

/// The old limits with the new ones in their places; 0 and "" = as it was.
fn merged(old: Resources, new: &Resources) -> Resources {
    let number = |old: i64, new: i64| if new == 0 { old } else { new };
    let text = |old: String, new: &String| if new.is_empty() { old } else { new.clone() };
    // Two ways to say the same: the newer one counts.
    let (by_cpus, by_quota) = (
        new.nano_cpus != 0,
        new.cpu_quota != 0 || new.cpu_period != 0,
    );
    Resources {
        memory: number(old.memory, new.memory),
        memory_swap: number(old.memory_swap, new.memory_swap),
        memory_reservation: number(old.memory_reservation, new.memory_reservation),
        memory_swappiness: new.memory_swappiness.or(old.memory_swappiness),
        nano_cpus: if by_quota {
            0
        } else {
            number(old.nano_cpus, new.nano_cpus)
        },
        cpu_shares: if new.cpu_shares == 0 {
            old.cpu_shares
        } else {
            new.cpu_shares
        },
        cpu_period: if by_cpus {
            0
        } else {
            number(old.cpu_period, new.cpu_period)
        },
        cpu_quota: if by_cpus {
            0
        } else {
            number(old.cpu_quota, new.cpu_quota)
        },
        cpuset_cpus: text(old.cpuset_cpus, &new.cpuset_cpus),
        cpuset_mems: text(old.cpuset_mems, &new.cpuset_mems),
        pids_limit: number(old.pids_limit, new.pids_limit),
        blkio_weight: if new.blkio_weight == 0 {
            old.blkio_weight
        } else {
            new.blkio_weight
        },
        cpu_rt_period: number(old.cpu_rt_period, new.cpu_rt_period),
        cpu_rt_runtime: number(old.cpu_rt_runtime, new.cpu_rt_runtime),
        // docker updates none of single devices.
        blkio_weight_device: old.blkio_weight_device,
        device_read_bps: old.device_read_bps,
        device_write_bps: old.device_write_bps,
        device_read_iops: old.device_read_iops,
        device_write_iops: old.device_write_iops,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_changes() {
        let old = Resources {
            memory: 64 << 20,
            cpu_quota: 5000,
            cpu_period: 10_000,
            cpuset_cpus: "0".into(),
            ..Resources::default()
        };
        let new = Resources {
            nano_cpus: 500_000_000,
            pids_limit: 7,
            ..Resources::default()
        };
        let both = merged(old.clone(), &new);
        assert_eq!(
            (both.memory, both.cpuset_cpus.as_str(), both.pids_limit),
            (64 << 20, "0", 7)
        );
        assert_eq!(
            (both.nano_cpus, both.cpu_quota, both.cpu_period),
            (500_000_000, 0, 0)
        );
        assert_eq!(merged(old.clone(), &Resources::default()), old);
    }
}
