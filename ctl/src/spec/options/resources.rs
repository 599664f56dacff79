//! Limits: what `run`, `create` and `update` share.

use clap::Args;
use slipway_proto::runtime::v1::Resources;

use crate::spec::units;

/// Options of a container's limits. What is not named is 0 or "" in the message.
#[derive(Debug, Clone, Args)]
pub struct ResourceOptions {
    /// Memory limit
    #[arg(short, long)]
    memory: Option<String>,
    /// Swap limit equal to memory plus swap: '-1' to enable unlimited swap
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
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    cpu_quota: i64,
    /// CPUs in which to allow execution (0-3, 0,1)
    #[arg(long, default_value = "")]
    cpuset_cpus: String,
    /// MEMs in which to allow execution (0-3, 0,1)
    #[arg(long, default_value = "")]
    cpuset_mems: String,
    /// Block IO (relative weight), between 10 and 1000
    #[arg(long, default_value_t = 0)]
    blkio_weight: u32,
    /// Limit CPU real-time period in microseconds
    #[arg(long, default_value_t = 0)]
    cpu_rt_period: i64,
    /// Limit CPU real-time runtime in microseconds
    #[arg(long, default_value_t = 0)]
    cpu_rt_runtime: i64,
    /// Tune container pids limit (set -1 for unlimited)
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    pids_limit: i64,
}

impl ResourceOptions {
    /// The message.
    pub fn message(&self) -> Result<Resources, String> {
        let size = |text: &Option<String>| text.as_deref().map(units::memory).transpose();
        let swap = self.memory_swap.as_deref().map(units::memory_swap);
        let cpus = self.cpus.as_deref().map(units::nano_cpus);
        if self.cpus.is_some() && (self.cpu_period != 0 || self.cpu_quota != 0) {
            return Err("conflicting options: --cpus with --cpu-period or --cpu-quota".to_owned());
        }
        Ok(Resources {
            memory: size(&self.memory)?.unwrap_or(0),
            memory_swap: swap.transpose()?.unwrap_or(0),
            memory_reservation: size(&self.memory_reservation)?.unwrap_or(0),
            nano_cpus: cpus.transpose()?.unwrap_or(0),
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
        })
    }
}
