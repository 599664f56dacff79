//! `kill -9` of every program at every step of what it does: nothing leaks, states are right, exit codes
//! are known, what callers were told is true, and what was cut off can be done again.
//!
//! The steps are the fault points of `slipway_fault::inventory`; the tests here are generated from it. A
//! new operation needs a way to come by its points in `operations`, or in `builds` when it is asked for by a
//! call; a new point of an old one nothing.

mod bench;
mod builds;
mod chaos;
mod durable;
mod failing;
mod listed;
mod monitors;
mod operations;
mod recovery;
mod registry;
mod repairs;
mod runs;
mod together;
mod told;

use slipway_fault::inventory::{self, Point};

use bench::Bench;

/// Drives all points of these operations, each `<program>.<operation>`.
async fn drive(operations: &[&str]) {
    let points: Vec<&Point> = inventory::all()
        .filter(|point| operations.contains(&operation(point)))
        .filter(|point| wanted(point.name))
        .collect();
    if points.is_empty() {
        return;
    }
    let Some(mut bench) = Bench::start().await else {
        return;
    };
    for point in points {
        bench.kill_at(point).await;
    }
}

fn operation(point: &Point) -> &'static str {
    point
        .name
        .rsplit_once('.')
        .map_or("", |(operation, _)| operation)
}

/// `SLIPWAY_FAULT=monitor.end` drives only the points whose names begin so.
fn wanted(name: &str) -> bool {
    std::env::var("SLIPWAY_FAULT").map_or(true, |only| name.starts_with(&only))
}

/// The tests of killing one program at one point; together they drive all that there is.
macro_rules! groups {
    ($($name:ident: $($operation:literal),+;)+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            drive(&[$($operation),+]).await;
        })+
        /// What they drive.
        const DRIVEN: &[&str] = &[$($($operation),+),+];
    };
}

groups! {
    runtime_is_killed_while_it_creates: "runtime.create", "runtime.volume", "runtime.unvolume";
    runtime_is_killed_while_it_starts: "runtime.start", "runtime.restart";
    runtime_is_killed_while_it_ends: "runtime.stop", "runtime.end", "runtime.rm";
    runtime_is_killed_while_it_changes: "runtime.exec", "runtime.commit", "runtime.rename", "runtime.update";
    runtime_is_killed_while_networks_change: "runtime.connect", "runtime.disconnect";
    runtime_is_killed_while_ports_change: "runtime.ports";
    monitors_are_killed: "monitor.start", "monitor.exec", "monitor.end";
    processes_are_killed_on_their_way_in: "spawner.start", "taker.start", "init.start", "join.exec";
    netd_is_killed_while_networks_span_hosts: "netd.overlay", "netd.peers", "netd.unoverlay";
    netd_is_killed_while_a_container_is_put_on_a_wire: "netd.direct";
    netd_is_killed: "netd.attach", "netd.release", "netd.network", "netd.unnetwork", "netd.rename", "netd.settle";
    netd_is_killed_while_ports_change: "netd.ports", "netd.unports";
}
