//! `ctl down`: stops the services; containers go on unless asked otherwise.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use rustix::process::{Pid, Signal, kill_process};
use slipway_proto::{
    netd::v1::TeardownRequest,
    runtime::v1::{ContainerSummary, ListRequest, StopRequest},
};
use slipway_service::Paths;

use super::{SERVICES, up::pid};
use crate::{
    client::Site,
    context::Context,
    failure::{Failure, Outcome},
};

/// How many containers are asked to end at the same time. All of them, for as good as everybody: each may
/// take its ten seconds.
const AT_ONCE: usize = 1024;

/// Stops everything, last started first.
pub async fn down(paths: &Paths, containers: bool, grace: Duration) -> Outcome {
    if containers {
        stop_containers(paths).await?;
    }
    let mut stopped = 0;
    for service in SERVICES.iter().rev() {
        // The lock on the pid file proves that the pid is this service's: the kernel drops the lock
        // with the process, so a reused pid cannot hold it.
        let Some(number) = pid(paths, *service)? else {
            continue;
        };
        let Some(target) = i32::try_from(number).ok().and_then(Pid::from_raw) else {
            return Err(Failure::new(format!(
                "{} names no process",
                paths.pid_file_of(service.name).display()
            )));
        };
        let fail = |e: rustix::io::Errno| {
            Failure::new(format!(
                "cannot stop {} (pid {number}): {e}",
                service.program
            ))
        };
        send(target, Signal::TERM).map_err(fail)?;
        let begun = Instant::now();
        let mut killed = false;
        while pid(paths, *service)? == Some(number) {
            if !killed && begun.elapsed() > grace {
                send(target, Signal::KILL).map_err(fail)?;
                killed = true;
            }
            if begun.elapsed() > grace + Duration::from_secs(10) {
                return Err(Failure::new(format!(
                    "{} (pid {number}) does not end: see what it waits for in /proc/{number}/stack",
                    service.program
                )));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stopped += 1;
    }
    match stopped {
        0 => println!("Slipway is not running."),
        _ => println!("Slipway is stopped."),
    }
    Ok(0)
}

fn send(pid: Pid, signal: Signal) -> rustix::io::Result<()> {
    match kill_process(pid, signal) {
        // It ended meanwhile.
        Err(rustix::io::Errno::SRCH) => Ok(()),
        other => other,
    }
}

async fn stop_containers(paths: &Paths) -> Outcome<()> {
    let site = Site {
        context: Context::local(&paths.run),
    };
    let running = crate::cli::container::list_all(&site, ListRequest::default()).await?;
    let client = &site.containers();
    let stop = |container: ContainerSummary| async move {
        let request = StopRequest {
            container: container.id,
            ..StopRequest::default()
        };
        client.clone().stop(request).await
    };
    // Each may take its ten seconds: the next one's must not wait for that.
    let mut stopped = pin!(stream::iter(running).map(stop).buffer_unordered(AT_ONCE));
    let mut trouble = None;
    while let Some(answer) = stopped.next().await {
        match answer {
            // Somebody else has removed it.
            Err(status) if status.code() == tonic::Code::NotFound => {}
            Err(status) => trouble = Some(status),
            Ok(_) => {}
        }
    }
    if let Some(status) = trouble {
        return Err(status.into());
    }
    site.networks().teardown(TeardownRequest {}).await?;
    Ok(())
}
