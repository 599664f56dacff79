//! Domain values as messages.

use std::time::Duration;

use prost_types::Timestamp;
use slipway_proto::{
    runtime::v1::{
        self as pb, ContainerDetails, ContainerState, ContainerStatus, ContainerSummary, Exited,
        Mount, MountPoint, Stream,
    },
    types::v1::Filter,
};

use crate::{
    container::{
        health::{Check, Health, Outcome},
        merge::Asked,
        plan,
        state::{Container, Status as State},
    },
    logs::{config::Driver, sink::json},
    monitor::{log_format, protocol::ExitRecord},
};

/// Nanoseconds since the epoch as a timestamp.
pub fn time(nanoseconds: u64) -> Option<Timestamp> {
    (nanoseconds > 0).then_some(Timestamp {
        seconds: (nanoseconds / 1_000_000_000) as i64,
        nanos: (nanoseconds % 1_000_000_000) as i32,
    })
}

/// A timestamp as nanoseconds since the epoch.
pub fn nanoseconds(time: &Timestamp) -> u64 {
    u64::try_from(time.seconds)
        .unwrap_or(0)
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(time.nanos).unwrap_or(0))
}

/// An end.
pub fn exited(record: &ExitRecord) -> Exited {
    Exited {
        exit_code: record.code,
        oom_killed: record.oom_killed,
        at: time(record.finished),
        error: record.error.clone(),
    }
}

/// A stream.
pub const fn stream(stream: log_format::Stream) -> Stream {
    match stream {
        log_format::Stream::Stdout => Stream::Stdout,
        log_format::Stream::Stderr => Stream::Stderr,
    }
}

fn state(status: &State) -> ContainerState {
    match status {
        State::Created => ContainerState {
            status: ContainerStatus::Created.into(),
            ..Default::default()
        },
        State::Running { running, paused } => ContainerState {
            status: if *paused {
                ContainerStatus::Paused
            } else {
                ContainerStatus::Running
            }
            .into(),
            pid: running.pid.unsigned_abs(),
            started: time(running.started),
            ..Default::default()
        },
        State::Ending { record } | State::Exited { record } => ContainerState {
            status: ContainerStatus::Exited.into(),
            exit_code: record.code,
            error: record.error.clone(),
            oom_killed: record.oom_killed,
            started: time(record.started),
            finished: time(record.finished),
            ..Default::default()
        },
        State::Restarting { record, next } => ContainerState {
            status: ContainerStatus::Restarting.into(),
            exit_code: record.code,
            error: record.error.clone(),
            oom_killed: record.oom_killed,
            started: time(record.started),
            finished: time(record.finished),
            next_restart: time(*next),
            ..Default::default()
        },
        State::Removed => ContainerState {
            status: ContainerStatus::Removing.into(),
            ..Default::default()
        },
    }
}

fn health(health: Health) -> pb::Health {
    let result = |outcome: Outcome| pb::health::Result {
        start: time(outcome.start),
        end: time(outcome.end),
        exit_code: outcome.code,
        output: outcome.output,
    };
    pb::Health {
        status: health.state.word().to_owned(),
        failing_streak: health.streak,
        log: health.log.into_iter().map(result).collect(),
    }
}

fn check(check: Check) -> pb::HealthCheck {
    let span = |span: Duration| {
        // Longer than any: it came from such a message.
        (!span.is_zero()).then(|| span.try_into().unwrap_or_default())
    };
    pb::HealthCheck {
        test: check.test,
        interval: span(check.interval),
        timeout: span(check.timeout),
        start_period: span(check.start_period),
        start_interval: span(check.start_interval),
        retries: check.retries,
    }
}

/// Filters as the domain takes them.
pub fn filters(filters: Vec<Filter>) -> impl Iterator<Item = (String, Vec<String>)> {
    filters.into_iter().map(|f| (f.key, f.values))
}

/// A line of `ps`.
pub fn summary(container: &Container) -> ContainerSummary {
    let record = container.record();
    ContainerSummary {
        id: record.id,
        name: record.name,
        image: record.spec.image.clone(),
        image_id: record.image_id,
        command: record.effective.args().join(" "),
        created: time(record.created),
        state: Some(ContainerState {
            health: container.health().map(health),
            ..state(&container.status())
        }),
        ports: (container.endpoints().into_iter())
            .flat_map(|e| e.ports)
            .collect(),
        exposed: record.effective.exposed.clone(),
        labels: record.effective.labels.into_iter().collect(),
        mounts: record
            .spec
            .mounts
            .iter()
            .map(|m| {
                if m.source.is_empty() {
                    m.target.clone()
                } else {
                    m.source.clone()
                }
            })
            .collect(),
        networks: container.networks(),
        size_rw: 0,
        size_root: 0,
        tty: record.spec.tty,
    }
}

/// All that `inspect` shows.
pub fn details(
    container: &Container,
    lower: String,
    volume: impl Fn(&str) -> String,
) -> ContainerDetails {
    let record = container.record();
    let args = record.effective.args();
    let file = |name: &str| container.folder.join(name).display().to_string();
    // As docker: --tmpfs is told by the options only.
    let told = |m: &&Mount| m.r#type != "tmpfs" || m.long_form;
    let mounts = record.spec.mounts.iter().filter(told).map(|m| MountPoint {
        r#type: m.r#type.clone(),
        name: if m.r#type == "volume" {
            m.source.clone()
        } else {
            String::new()
        },
        source: if m.r#type == "volume" {
            volume(&m.source)
        } else {
            m.source.clone()
        },
        destination: m.target.clone(),
        driver: if m.r#type == "volume" {
            "local".into()
        } else {
            String::new()
        },
        // docker's default for volumes with a name, whether the host has SELinux or not.
        mode: if m.r#type == "volume" && m.mode.is_empty() && !m.anonymous {
            "z".into()
        } else {
            m.mode.clone()
        },
        read_write: !m.read_only,
        propagation: if m.r#type == "bind" && m.propagation.is_empty() {
            "rprivate".into()
        } else {
            m.propagation.clone()
        },
    });
    let (masked_paths, readonly_paths) = plan::protected(&record.spec);
    let asked = record.effective.asked.clone().unwrap_or_else(|| Asked {
        env: record.effective.env.clone(),
        working_dir: record.effective.working_dir.clone(),
    });
    // Its root is mounted nowhere on the host; this is the way to it while it runs.
    let merged = container
        .running()
        .map_or_else(String::new, |r| format!("/proc/{}/root", r.pid));
    let graph = [
        ("LowerDir", lower),
        ("MergedDir", merged),
        ("UpperDir", file("upper")),
        ("WorkDir", file("work")),
    ];
    ContainerDetails {
        summary: Some(summary(container)),
        path: args.first().cloned().unwrap_or_default(),
        args: args.into_iter().skip(1).collect(),
        env: asked.env,
        working_dir: asked.working_dir,
        user: record.effective.user.clone(),
        entrypoint: record.effective.entrypoint.clone(),
        command: record.effective.command.clone(),
        labels: record.effective.labels.clone().into_iter().collect(),
        stop_signal: record.effective.stop_signal.clone(),
        hostname: record.effective.hostname.clone(),
        endpoints: container.endpoints(),
        mounts: mounts.collect(),
        log_path: match container.logging().map(|l| l.driver) {
            Ok(Driver::JsonFile) => json::path(&container.folder, &record.id)
                .display()
                .to_string(),
            _ => String::new(),
        },
        exec_ids: container.execs(),
        resolv_conf_path: file("resolv.conf"),
        hostname_path: file("hostname"),
        hosts_path: file("hosts"),
        image_digest: record.image_digest.clone(),
        graph_driver: graph
            .iter()
            .map(|(k, v)| ((*k).to_owned(), v.clone()))
            .collect(),
        volumes: record.effective.volumes.clone(),
        masked_paths,
        readonly_paths,
        // The host's: its caller knows it.
        cgroup_version: 0,
        monitor_pid: container
            .running()
            .map_or(0, |r| r.monitor_pid.unsigned_abs()),
        // The one that is being waited for counts, as docker's does.
        restart_count: container.life().restarts
            + u32::from(matches!(container.status(), State::Restarting { .. })),
        health: record.effective.health.clone().map(check),
        spec: Some(record.spec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_nobody_lives_to_see_is_a_time() {
        let of = |seconds, nanos| nanoseconds(&Timestamp { seconds, nanos });
        assert_eq!(of(1, 5), 1_000_000_005);
        assert_eq!((of(i64::MAX, i32::MAX), of(-1, -1)), (u64::MAX, 0));
    }
}
