//! Two programs killed at the same instant.

use slipway_fault::{Action, inventory};

use crate::{bench::Bench, operations, wanted};

/// At every step of runtime-svc, with it, another one.
async fn runtime_and(other: &str, operations: &[&str]) {
    let Some(mut bench) = Bench::start().await else {
        return;
    };
    let points = inventory::RUNTIME
        .iter()
        .filter(|point| operations.contains(&crate::operation(point)) && wanted(point.name));
    for point in points {
        let operation = operations::of(point);
        eprintln!("--- {} ({}) with {other}", point.name, operation.name);
        (operation.prepare)(&bench.site);
        bench.site.arm(point.name, Action::Wait);
        let caller = bench.begin(&operation);
        bench.fires(point).await;
        match other {
            "netd" => bench.site.kill_service("netd"),
            _ => bench.kill_other_monitors(),
        }
        bench.site.kill_service("runtime");
        bench.site.disarm(point.name);
        bench.answered(caller);
        bench.restart_dead().await;
        operations::is_consistent(&bench.site).await;
        bench.nothing_contradicts(point.name);
        bench.beside_is_unharmed().await;
        (operation.again)(&bench.site).await;
        bench.clean(point.name).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runtime_and_netd_are_killed() {
    let operations = [
        "runtime.start",
        "runtime.end",
        "runtime.rm",
        "runtime.rename",
    ];
    runtime_and("netd", &operations).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runtime_and_a_monitor_are_killed() {
    let operations = [
        "runtime.start",
        "runtime.exec",
        "runtime.stop",
        "runtime.end",
        "runtime.commit",
    ];
    runtime_and("monitor", &operations).await;
}
