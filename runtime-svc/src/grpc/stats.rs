//! Usage of containers as a stream of samples.

use std::{sync::Arc, time::Duration};

use slipway_proto::runtime::v1 as pb;
use tonic::Status;

use super::{
    streams::{self, Client},
    view,
};
use crate::container::{
    manager::Manager,
    state::Container,
    stats::{Host, Sample},
};

/// Between two rounds of samples.
const ROUND: Duration = Duration::from_secs(1);

/// Sends a sample of each container every second: of those that are named, or of all that run. Those of a
/// round have the same time. Without `stream` it is two rounds, from which a rate can be told.
pub async fn serve(
    manager: Manager,
    request: pb::StatsRequest,
    client: Client<pb::StatsSample>,
) -> Result<(), Status> {
    let mut named = Vec::new();
    for word in &request.containers {
        named.push(manager.find(word)?);
    }
    let mut ticks = tokio::time::interval(ROUND);
    for round in 0.. {
        if !request.stream && round == 2 {
            break;
        }
        tokio::select! {
            _ = ticks.tick() => {}
            () = client.closed() => break,
        }
        let containers: Vec<Arc<Container>> = if request.containers.is_empty() {
            let all = manager.all().into_iter();
            all.filter(|c| c.running().is_some()).collect()
        } else {
            named.clone()
        };
        let (host, now) = (Host::now(), crate::monitor::now());
        for container in containers {
            // A dozen files of each: of a thousand they would hold up everybody else's calls.
            let manager = manager.clone();
            let sampled = streams::blocking(move || {
                let sample = manager.sample(&container);
                Ok(message(&container, &sample, &host, now))
            });
            if !streams::send(&client, sampled.await?).await {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn message(container: &Container, sample: &Sample, host: &Host, now: u64) -> pb::StatsSample {
    let usage = &sample.usage;
    let runs = container.running().is_some();
    let limit = match usage.memory_limit {
        0 if runs => host.memory,
        limit => limit.min(host.memory),
    };
    pb::StatsSample {
        container_id: container.id.clone(),
        name: container.name(),
        time: view::time(now),
        cpu_usage_ns: usage.cpu,
        system_cpu_ns: host.cpu,
        online_cpus: host.cpus,
        memory_usage: usage.memory,
        memory_limit: limit,
        memory_cache: usage.memory_cache,
        net_rx: sample.network.0,
        net_tx: sample.network.1,
        block_read: usage.block_read,
        block_write: usage.block_write,
        pids: usage.pids,
        pids_limit: usage.pids_limit,
    }
}
