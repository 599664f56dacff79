//! `update`: limits of containers that are there.

use clap::Args;
use slipway_proto::runtime::v1::{Resources, UpdateRequest};

use super::super::each;
use crate::{
    client::Site,
    failure::Outcome,
    spec::{options::restart_policy, units},
};

/// `ctl update`
#[derive(Debug, Args)]
pub struct Update {
    /// Memory limit
    #[arg(short, long)]
    memory: Option<String>,
    /// Swap limit equal to memory plus swap
    #[arg(long, allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Memory soft limit
    #[arg(long)]
    memory_reservation: Option<String>,
    /// Number of CPUs
    #[arg(long)]
    cpus: Option<String>,
    /// CPU shares (relative weight)
    #[arg(short, long, default_value_t = 0)]
    cpu_shares: u64,
    /// Limit CPU CFS period
    #[arg(long, default_value_t = 0)]
    cpu_period: i64,
    /// Limit CPU CFS quota
    #[arg(allow_hyphen_values = true, long, default_value_t = 0)]
    cpu_quota: i64,
    /// Limit the CPU real-time period in microseconds
    #[arg(long, default_value_t = 0)]
    cpu_rt_period: i64,
    /// Limit the CPU real-time runtime in microseconds
    #[arg(long, default_value_t = 0)]
    cpu_rt_runtime: i64,
    /// CPUs in which to allow execution
    #[arg(long, default_value = "")]
    cpuset_cpus: String,
    /// MEMs in which to allow execution
    #[arg(long, default_value = "")]
    cpuset_mems: String,
    /// Block IO weight
    #[arg(long, default_value_t = 0)]
    blkio_weight: u32,
    /// Tune container pids limit (set -1 for unlimited)
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    pids_limit: i64,
    /// Restart policy to apply when a container exits
    #[arg(long)]
    restart: Option<String>,
    #[arg(required = true)]
    containers: Vec<String>,
}

impl Update {
    pub async fn run(&self, site: &Site) -> Outcome {
        let size = |text: &Option<String>| text.as_deref().map(units::memory).transpose();
        let resources = Resources {
            memory: size(&self.memory)?.unwrap_or(0),
            memory_swap: self
                .memory_swap
                .as_deref()
                .map(units::memory_swap)
                .transpose()?
                .unwrap_or(0),
            memory_reservation: size(&self.memory_reservation)?.unwrap_or(0),
            nano_cpus: self
                .cpus
                .as_deref()
                .map(units::nano_cpus)
                .transpose()?
                .unwrap_or(0),
            cpu_shares: self.cpu_shares,
            cpu_period: self.cpu_period,
            cpu_quota: self.cpu_quota,
            cpuset_cpus: self.cpuset_cpus.clone(),
            cpuset_mems: self.cpuset_mems.clone(),
            pids_limit: self.pids_limit,
            blkio_weight: self.blkio_weight,
            cpu_rt_period: self.cpu_rt_period,
            cpu_rt_runtime: self.cpu_rt_runtime,
            ..Resources::default()
        };
        let restart = self.restart.as_deref().map(restart_policy).transpose()?;
        let (resources, restart) = (&resources, &restart);
        each(&self.containers, |container| async move {
            let request = UpdateRequest {
                container: container.clone(),
                resources: Some(resources.clone()),
                restart: restart.clone(),
            };
            for warning in site
                .containers()
                .update(request)
                .await?
                .into_inner()
                .warnings
            {
                eprintln!("WARNING: {warning}");
            }
            Ok(container)
        })
        .await
    }
}
