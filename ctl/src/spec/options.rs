//! The options of `run` and `create`, and the [`ContainerSpec`] that they mean.

use std::{fs, path::Path};

use clap::Args;
use slipway_proto::{
    registry::v1::pull_request::Policy,
    runtime::v1::{
        AdditionalNetwork, ContainerSpec, Device, Entrypoint, HealthCheck, LogConfig,
        NetworkConfig, Resources, RestartPolicy,
    },
    types::v1::Platform,
};

use super::{env, mount, port, units};

/// Options that `run` and `create` share.
#[derive(Debug, Clone, Args)]
pub struct ContainerOptions {
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    pub help: Option<bool>,
    /// Assign a name to the container
    #[arg(long)]
    pub name: Option<String>,
    /// Keep STDIN open even if not attached
    #[arg(short, long)]
    pub interactive: bool,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    pub tty: bool,
    /// Automatically remove the container when it exits
    #[arg(long)]
    pub rm: bool,
    /// Attach to STDIN, STDOUT or STDERR
    #[arg(short, long, value_name = "STREAM")]
    pub attach: Vec<String>,
    /// Set environment variables
    #[arg(short, long)]
    pub env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long)]
    pub env_file: Vec<String>,
    /// Bind mount a volume
    #[arg(short, long)]
    pub volume: Vec<String>,
    /// Attach a filesystem mount to the container
    #[arg(long)]
    pub mount: Vec<String>,
    /// Mount a tmpfs directory
    #[arg(long)]
    pub tmpfs: Vec<String>,
    /// Mount volumes from the specified container(s)
    #[arg(long)]
    pub volumes_from: Vec<String>,
    /// Working directory inside the container
    #[arg(short, long, default_value = "")]
    pub workdir: String,
    /// Username or UID (format: <name|uid>[:<group|gid>])
    #[arg(short, long, default_value = "")]
    pub user: String,
    /// Add additional groups to join
    #[arg(long)]
    pub group_add: Vec<String>,
    /// Publish a container's port(s) to the host
    #[arg(short, long)]
    pub publish: Vec<String>,
    /// Publish all exposed ports to random ports
    #[arg(short = 'P', long)]
    pub publish_all: bool,
    /// Expose a port or a range of ports
    #[arg(long)]
    pub expose: Vec<String>,
    /// Connect a container to a network
    #[arg(long, alias = "net")]
    pub network: Vec<String>,
    /// Add network-scoped alias for the container
    #[arg(long, alias = "net-alias")]
    pub network_alias: Vec<String>,
    /// IPv4 address
    #[arg(long, default_value = "")]
    pub ip: String,
    /// IPv6 address
    #[arg(long, default_value = "")]
    pub ip6: String,
    /// Container MAC address
    #[arg(long, default_value = "")]
    pub mac_address: String,
    /// Set custom DNS servers
    #[arg(long)]
    pub dns: Vec<String>,
    /// Set custom DNS search domains
    #[arg(long)]
    pub dns_search: Vec<String>,
    /// Set DNS options
    #[arg(long, alias = "dns-opt")]
    pub dns_option: Vec<String>,
    /// Add a custom host-to-IP mapping (host:ip)
    #[arg(long)]
    pub add_host: Vec<String>,
    /// Container host name
    #[arg(short = 'h', long, default_value = "")]
    pub hostname: String,
    /// Container NIS domain name
    #[arg(long, default_value = "")]
    pub domainname: String,
    /// Overwrite the default ENTRYPOINT of the image
    #[arg(long)]
    pub entrypoint: Option<String>,
    /// Memory limit
    #[arg(short, long)]
    pub memory: Option<String>,
    /// Swap limit equal to memory plus swap: '-1' to enable unlimited swap
    #[arg(long, allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Memory soft limit
    #[arg(long)]
    pub memory_reservation: Option<String>,
    /// Tune container memory swappiness (0 to 100)
    #[arg(long, allow_hyphen_values = true)]
    pub memory_swappiness: Option<i32>,
    /// Number of CPUs
    #[arg(long)]
    pub cpus: Option<String>,
    /// CPU shares (relative weight)
    #[arg(short, long, default_value_t = 0)]
    pub cpu_shares: u64,
    /// Limit CPU CFS period
    #[arg(long, default_value_t = 0)]
    pub cpu_period: i64,
    /// Limit CPU CFS quota
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    pub cpu_quota: i64,
    /// CPUs in which to allow execution (0-3, 0,1)
    #[arg(long, default_value = "")]
    pub cpuset_cpus: String,
    /// MEMs in which to allow execution (0-3, 0,1)
    #[arg(long, default_value = "")]
    pub cpuset_mems: String,
    /// Block IO (relative weight), between 10 and 1000
    #[arg(long, default_value_t = 0)]
    pub blkio_weight: u32,
    /// Tune container pids limit (set -1 for unlimited)
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    pub pids_limit: i64,
    /// Ulimit options
    #[arg(long)]
    pub ulimit: Vec<String>,
    /// Add Linux capabilities
    #[arg(long)]
    pub cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long)]
    pub cap_drop: Vec<String>,
    /// Give extended privileges to this container
    #[arg(long)]
    pub privileged: bool,
    /// Security Options
    #[arg(long)]
    pub security_opt: Vec<String>,
    /// Mount the container's root filesystem as read only
    #[arg(long)]
    pub read_only: bool,
    /// Restart policy to apply when a container exits
    #[arg(long)]
    pub restart: Option<String>,
    /// Command to run to check health
    #[arg(long)]
    pub health_cmd: Option<String>,
    /// Time between running the check
    #[arg(long)]
    pub health_interval: Option<String>,
    /// Maximum time to allow one check to run
    #[arg(long)]
    pub health_timeout: Option<String>,
    /// Start period for the container to initialize before starting health-retries countdown
    #[arg(long)]
    pub health_start_period: Option<String>,
    /// Time between running the check during the start period
    #[arg(long)]
    pub health_start_interval: Option<String>,
    /// Consecutive failures needed to report unhealthy
    #[arg(long)]
    pub health_retries: Option<u32>,
    /// Disable any container-specified HEALTHCHECK
    #[arg(long)]
    pub no_healthcheck: bool,
    /// Run an init inside the container that forwards signals and reaps processes
    #[arg(long)]
    pub init: bool,
    /// Signal to stop the container
    #[arg(long, default_value = "")]
    pub stop_signal: String,
    /// Timeout (in seconds) to stop a container
    #[arg(long, allow_hyphen_values = true)]
    pub stop_timeout: Option<i32>,
    /// Set meta data on a container
    #[arg(short, long)]
    pub label: Vec<String>,
    /// Read in a line delimited file of labels
    #[arg(long)]
    pub label_file: Vec<String>,
    /// Add an annotation to the container
    #[arg(long)]
    pub annotation: Vec<String>,
    /// Logging driver for the container
    #[arg(long)]
    pub log_driver: Option<String>,
    /// Log driver options
    #[arg(long)]
    pub log_opt: Vec<String>,
    /// Pull image before running ("always", "missing", "never")
    #[arg(long, default_value = "missing")]
    pub pull: String,
    /// Suppress the pull output
    #[arg(short, long)]
    pub quiet: bool,
    /// Set platform if server is multi-platform capable
    #[arg(long)]
    pub platform: Option<String>,
    /// Add a host device to the container
    #[arg(long)]
    pub device: Vec<String>,
    /// Add a rule to the cgroup allowed devices list
    #[arg(long)]
    pub device_cgroup_rule: Vec<String>,
    /// Sysctl options
    #[arg(long)]
    pub sysctl: Vec<String>,
    /// Size of /dev/shm
    #[arg(long)]
    pub shm_size: Option<String>,
    /// PID namespace to use
    #[arg(long, default_value = "")]
    pub pid: String,
    /// IPC mode to use
    #[arg(long, default_value = "")]
    pub ipc: String,
    /// UTS namespace to use
    #[arg(long, default_value = "")]
    pub uts: String,
    /// User namespace to use
    #[arg(long, default_value = "")]
    pub userns: String,
    /// Cgroup namespace to use (host|private)
    #[arg(long, default_value = "")]
    pub cgroupns: String,
    /// Optional parent cgroup for the container
    #[arg(long, default_value = "")]
    pub cgroup_parent: String,
    /// Tune host's OOM preferences (-1000 to 1000)
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    pub oom_score_adj: i32,
    /// Disable OOM Killer
    #[arg(long)]
    pub oom_kill_disable: bool,
    /// Storage driver options for the container
    #[arg(long)]
    pub storage_opt: Vec<String>,
    /// Runtime to use for this container
    #[arg(long, default_value = "")]
    pub runtime: String,
    /// Write the container ID to the file
    #[arg(long)]
    pub cidfile: Option<String>,
    /// GPU devices to add to the container
    #[arg(long)]
    pub gpus: Option<String>,
    /// Runtime host to run on
    #[arg(long, value_name = "HOST")]
    pub on: Option<String>,
    /// Add link to another container
    #[arg(long, hide = true)]
    pub link: Vec<String>,
    #[arg(long, hide = true)]
    pub isolation: Option<String>,
    #[arg(long, hide = true)]
    pub volume_driver: Option<String>,
    /// Image, then its command
    #[arg(required = true, num_args = 1.., trailing_var_arg = true, value_name = "IMAGE [COMMAND] [ARG...]")]
    pub words: Vec<String>,
}

impl ContainerOptions {
    /// `--pull`.
    pub fn policy(&self) -> Result<Policy, String> {
        match self.pull.as_str() {
            "always" => Ok(Policy::Always),
            "missing" => Ok(Policy::Missing),
            "never" => Ok(Policy::Never),
            other => Err(format!(
                "invalid pull option: '{other}': must be one of \"always\", \"missing\" or \"never\""
            )),
        }
    }

    /// The message. Whatever the contract has no field for is refused here.
    pub fn spec(&self, here: &Path) -> Result<ContainerSpec, String> {
        self.refuse_what_cannot_be_sent()?;
        let (image, command) = self.words.split_first().ok_or("an image is required")?;
        if image.is_empty() {
            return Err("invalid reference format".to_owned());
        }
        let mut mounts = Vec::new();
        for text in &self.volume {
            mounts.push(mount::volume(text, here)?);
        }
        for text in &self.mount {
            mounts.push(mount::mount(text, here)?);
        }
        for text in &self.tmpfs {
            mounts.push(mount::tmpfs(text)?);
        }
        for (n, mount) in mounts.iter().enumerate() {
            if mounts[..n].iter().any(|m| m.target == mount.target) {
                return Err(format!("Duplicate mount point: {}", mount.target));
            }
        }
        let restart = self.restart.as_deref().map(restart_policy).transpose()?;
        if self.rm && restart.as_ref().is_some_and(|r| r.name != "no") {
            return Err("conflicting options: cannot specify both --restart and --rm".to_owned());
        }
        Ok(ContainerSpec {
            name: self.name.clone().unwrap_or_default(),
            image: image.clone(),
            command: command.to_vec(),
            entrypoint: self
                .entrypoint
                .clone()
                .map(|word| Entrypoint { words: vec![word] }),
            env: env::env(&self.env, &self.env_file)?,
            working_dir: self.workdir.clone(),
            user: self.user.clone(),
            group_add: self.group_add.clone(),
            hostname: self.hostname.clone(),
            domainname: self.domainname.clone(),
            labels: env::labels(&self.label, &self.label_file)?,
            tty: self.tty,
            open_stdin: self.interactive,
            stdin_once: false,
            auto_remove: self.rm,
            read_only: self.read_only,
            privileged: self.privileged,
            init: self.init,
            stop_signal: self.stop_signal.clone(),
            stop_timeout: self.stop_timeout,
            restart,
            health: self.health()?,
            mounts,
            volumes_from: self.volumes_from.clone(),
            resources: Some(self.resources()?),
            ulimits: self
                .ulimit
                .iter()
                .map(|t| units::ulimit(t))
                .collect::<Result<_, _>>()?,
            cap_add: self.cap_add.clone(),
            cap_drop: self.cap_drop.clone(),
            security_opt: self
                .security_opt
                .iter()
                .map(|t| security(t))
                .collect::<Result<_, _>>()?,
            sysctls: env::pairs(&self.sysctl)?,
            devices: self
                .device
                .iter()
                .map(|t| device(t))
                .collect::<Result<_, _>>()?,
            device_cgroup_rules: self.device_cgroup_rule.clone(),
            pid_mode: self.pid.clone(),
            ipc_mode: self.ipc.clone(),
            uts_mode: self.uts.clone(),
            userns_mode: self.userns.clone(),
            cgroupns_mode: self.cgroupns.clone(),
            cgroup_parent: self.cgroup_parent.clone(),
            shm_size: self
                .shm_size
                .as_deref()
                .map(units::memory)
                .transpose()?
                .unwrap_or(0)
                .unsigned_abs(),
            oom_score_adj: self.oom_score_adj,
            oom_kill_disable: self.oom_kill_disable,
            log: self.log()?,
            network: Some(self.network_config()?),
            platform: self.platform.as_deref().map(platform).transpose()?,
            runtime: self.runtime.clone(),
            terminal_size: None,
            storage_opt: env::pairs(&self.storage_opt)?,
            annotations: env::pairs(&self.annotation)?,
        })
    }

    fn refuse_what_cannot_be_sent(&self) -> Result<(), String> {
        if let Some(gpus) = &self.gpus {
            return Err(format!(
                "--gpus {gpus}: GPUs are not supported. Pass the devices by hand with --device, if their driver needs no more"
            ));
        }
        if let Some(host) = &self.on {
            return Err(format!(
                "--on {host}: contexts with several runtime hosts are not supported yet. Choose a host with SLIPWAY_CONTEXT"
            ));
        }
        if !self.link.is_empty() {
            return Err(
                "--link is not supported: containers of a network find each other by name"
                    .to_owned(),
            );
        }
        if self
            .isolation
            .as_deref()
            .is_some_and(|i| !i.is_empty() && i != "default")
        {
            return Err("--isolation is for Windows containers only".to_owned());
        }
        if self.volume_driver.is_some() {
            return Err(
                "--volume-driver is not supported: write --mount type=volume,volume-driver=..."
                    .to_owned(),
            );
        }
        for stream in &self.attach {
            if !matches!(
                stream.to_ascii_lowercase().as_str(),
                "stdin" | "stdout" | "stderr"
            ) {
                return Err("valid streams are STDIN, STDOUT and STDERR".to_owned());
            }
        }
        Ok(())
    }

    fn health(&self) -> Result<Option<HealthCheck>, String> {
        let span = |text: &Option<String>| text.as_deref().map(units::duration).transpose();
        let others = self.health_interval.is_some()
            || self.health_timeout.is_some()
            || self.health_start_period.is_some()
            || self.health_start_interval.is_some()
            || self.health_retries.is_some();
        if self.no_healthcheck {
            if others || self.health_cmd.is_some() {
                return Err("--no-healthcheck conflicts with --health-* options".to_owned());
            }
            return Ok(Some(HealthCheck {
                test: vec!["NONE".to_owned()],
                ..HealthCheck::default()
            }));
        }
        if !others && self.health_cmd.is_none() {
            return Ok(None);
        }
        Ok(Some(HealthCheck {
            test: self
                .health_cmd
                .iter()
                .flat_map(|cmd| ["CMD-SHELL".to_owned(), cmd.clone()])
                .collect(),
            interval: span(&self.health_interval)?,
            timeout: span(&self.health_timeout)?,
            start_period: span(&self.health_start_period)?,
            start_interval: span(&self.health_start_interval)?,
            retries: self.health_retries.unwrap_or(0),
        }))
    }

    fn resources(&self) -> Result<Resources, String> {
        let size = |text: &Option<String>| text.as_deref().map(units::memory).transpose();
        if self.cpus.is_some() && (self.cpu_period != 0 || self.cpu_quota != 0) {
            return Err("conflicting options: --cpus with --cpu-period or --cpu-quota".to_owned());
        }
        Ok(Resources {
            memory: size(&self.memory)?.unwrap_or(0),
            memory_swap: self
                .memory_swap
                .as_deref()
                .map(units::memory_swap)
                .transpose()?
                .unwrap_or(0),
            memory_reservation: size(&self.memory_reservation)?.unwrap_or(0),
            // docker's default of -1 means "not set".
            memory_swappiness: self.memory_swappiness.filter(|s| *s != -1),
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
        })
    }

    fn log(&self) -> Result<Option<LogConfig>, String> {
        if self.log_driver.is_none() && self.log_opt.is_empty() {
            return Ok(None);
        }
        Ok(Some(LogConfig {
            driver: self.log_driver.clone().unwrap_or_default(),
            options: env::pairs(&self.log_opt)?,
        }))
    }

    fn network_config(&self) -> Result<NetworkConfig, String> {
        let mut networks = Vec::new();
        for text in &self.network {
            networks.push(network(text)?);
        }
        let mut networks = networks.into_iter();
        let first = networks.next().unwrap_or_default();
        let mut aliases = first.aliases;
        aliases.extend(self.network_alias.iter().cloned());
        let ports = self
            .publish
            .iter()
            .map(|t| port::publish(t))
            .collect::<Result<Vec<_>, _>>()?;
        for host in &self.add_host {
            let (name, address) = host
                .split_once([':', '='])
                .ok_or_else(|| format!("bad format for add-host: \"{host}\""))?;
            if name.is_empty() || address.is_empty() {
                return Err(format!("bad format for add-host: \"{host}\""));
            }
        }
        Ok(NetworkConfig {
            mode: first.network,
            aliases,
            ipv4_address: if self.ip.is_empty() {
                first.ipv4_address
            } else {
                self.ip.clone()
            },
            ipv6_address: if self.ip6.is_empty() {
                first.ipv6_address
            } else {
                self.ip6.clone()
            },
            mac_address: self.mac_address.clone(),
            ports: ports.into_iter().flatten().collect(),
            publish_all: self.publish_all,
            expose: self
                .expose
                .iter()
                .map(|t| port::expose(t))
                .collect::<Result<_, _>>()?,
            dns: self.dns.clone(),
            dns_search: self.dns_search.clone(),
            dns_options: self.dns_option.clone(),
            extra_hosts: self
                .add_host
                .iter()
                .map(|h| h.replacen('=', ":", 1))
                .collect(),
            additional: networks.collect(),
        })
    }
}

/// `--network NAME` or `--network name=NAME,alias=A,ip=...`
fn network(text: &str) -> Result<AdditionalNetwork, String> {
    let mut out = AdditionalNetwork::default();
    if !text.contains('=') {
        text.clone_into(&mut out.network);
        return Ok(out);
    }
    for field in mount::fields(text)? {
        match field.split_once('=') {
            Some(("name", value)) => value.clone_into(&mut out.network),
            Some(("alias", value)) => out.aliases.push(value.to_owned()),
            Some(("ip", value)) => value.clone_into(&mut out.ipv4_address),
            Some(("ip6", value)) => value.clone_into(&mut out.ipv6_address),
            _ => {
                return Err(format!(
                    "invalid field {field:?} in --network {text}: name, alias, ip and ip6 are supported"
                ));
            }
        }
    }
    Ok(out)
}

/// "on-failure:3"
pub fn restart_policy(text: &str) -> Result<RestartPolicy, String> {
    let (name, count) = text
        .split_once(':')
        .map_or((text, None), |(n, c)| (n, Some(c)));
    let maximum = count
        .map(|c| {
            c.parse().map_err(|_| {
                format!(
                    "invalid restart policy format: maximum retry count must be an integer: {text}"
                )
            })
        })
        .transpose()?
        .unwrap_or(0);
    match name {
        "" | "no" | "always" | "unless-stopped" if maximum == 0 => {}
        "on-failure" => {}
        "" | "no" | "always" | "unless-stopped" => {
            return Err(format!(
                "invalid restart policy: maximum retry count can only be used with 'on-failure': {text}"
            ));
        }
        _ => {
            return Err(format!(
                "invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
            ));
        }
    }
    let name = if name.is_empty() { "no" } else { name };
    Ok(RestartPolicy {
        name: name.to_owned(),
        maximum_retry_count: maximum,
    })
}

/// A profile is a file here, but its content is what the runtime needs.
fn security(text: &str) -> Result<String, String> {
    let Some((key, value)) = text.split_once(['=', ':']) else {
        return match text {
            "no-new-privileges" => Ok(text.to_owned()),
            _ => Err(format!("invalid --security-opt: {text:?}")),
        };
    };
    if key != "seccomp" || matches!(value, "unconfined" | "builtin") {
        return Ok(format!("{key}={value}"));
    }
    let profile = fs::read_to_string(value)
        .map_err(|e| format!("opening seccomp profile ({value}) failed: {e}"))?;
    let parsed: serde_json::Value = serde_json::from_str(&profile)
        .map_err(|e| format!("the seccomp profile {value} is not JSON: {e}"))?;
    Ok(format!("seccomp={parsed}"))
}

/// "/dev/a[:/dev/b[:rwm]]"
fn device(text: &str) -> Result<Device, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let is_mode = |t: &str| !t.is_empty() && t.chars().all(|c| "rwm".contains(c));
    let (host, inside, permissions) = match parts.as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, mode] if is_mode(mode) => (*host, *host, *mode),
        [host, inside] => (*host, *inside, "rwm"),
        [host, inside, mode] if is_mode(mode) => (*host, *inside, *mode),
        _ => return Err(format!("invalid device specification: {text}")),
    };
    if !host.starts_with('/') || !inside.starts_with('/') {
        return Err(format!(
            "invalid device specification: {text}: paths must be absolute"
        ));
    }
    Ok(Device {
        host_path: host.to_owned(),
        container_path: inside.to_owned(),
        permissions: permissions.to_owned(),
    })
}

/// "linux/arm64"
pub fn platform(text: &str) -> Result<Platform, String> {
    let parsed: slipway_image::Platform = text
        .parse()
        .map_err(|e: slipway_image::platform::PlatformError| e.to_string())?;
    let shown = parsed.to_string();
    let mut parts = shown.split('/').map(str::to_owned);
    Ok(Platform {
        os: parts.next().unwrap_or_default(),
        architecture: parts.next().unwrap_or_default(),
        variant: parts.next().unwrap_or_default(),
        os_version: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    #[command(disable_help_flag = true)]
    struct Line {
        #[command(flatten)]
        options: ContainerOptions,
    }

    fn spec(line: &str) -> Result<ContainerSpec, String> {
        let words = std::iter::once("run").chain(line.split(' '));
        Line::try_parse_from(words)
            .map_err(|e| e.to_string())?
            .options
            .spec(Path::new("/here"))
    }

    #[test]
    fn options_after_the_image_belong_to_the_command() {
        let spec = spec("--rm -it -e A=1 alpine sh -c --rm -p 80").unwrap();
        assert_eq!(spec.image, "alpine");
        assert_eq!(spec.command, ["sh", "-c", "--rm", "-p", "80"]);
        assert!(spec.auto_remove && spec.tty && spec.open_stdin);
        assert!(spec.network.unwrap().ports.is_empty());
    }

    #[test]
    fn options_land_in_their_fields() {
        let s = spec("-h box -m 64m --cpus 0.5 --memory-swap -1 --pids-limit -1 --restart on-failure:3 --ulimit nofile=1:2 --device /dev/fuse:rw --sysctl a.b=1 --shm-size 1g --entrypoint=/x --stop-timeout 3 --oom-score-adj -5 --health-cmd true --health-interval 5s -p 3000:80 -P --expose 90 --network name=n,alias=a --network m --add-host a:1.2.3.4 -l k=v --log-opt max-size=1m --cap-add ALL --security-opt seccomp=unconfined i").unwrap();
        let r = s.resources.unwrap();
        assert_eq!(
            (r.memory, r.memory_swap, r.nano_cpus, r.pids_limit),
            (64 << 20, -1, 500_000_000, -1)
        );
        assert_eq!(s.restart.unwrap().maximum_retry_count, 3);
        assert_eq!(s.devices[0].permissions, "rw");
        assert_eq!(
            (
                s.hostname.as_str(),
                s.shm_size,
                s.stop_timeout,
                s.oom_score_adj
            ),
            ("box", 1 << 30, Some(3), -5)
        );
        assert_eq!(s.health.unwrap().test, ["CMD-SHELL", "true"]);
        let n = s.network.unwrap();
        assert_eq!(
            (
                n.mode.as_str(),
                n.aliases.as_slice(),
                n.additional[0].network.as_str()
            ),
            ("n", ["a".to_owned()].as_slice(), "m")
        );
        assert_eq!(
            (n.ports[0].host_port, n.publish_all, n.expose[0].as_str()),
            (3000, true, "90/tcp")
        );
        assert_eq!(s.security_opt, ["seccomp=unconfined"]);
        assert_eq!(s.log.unwrap().options["max-size"], "1m");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for line in [
            "--gpus all i",
            "--on h i",
            "--link a i",
            "--rm --restart always i",
            "--restart sometimes i",
            "--restart always:3 i",
            "-a what i",
            "--no-healthcheck --health-cmd x i",
            "--cpus 1 --cpu-quota 5 i",
            "-v /a -v /a i",
            "--device fuse i",
            "--security-opt seccomp=/none i",
            "--nope i",
            "",
        ] {
            assert!(spec(line).is_err(), "{line}");
        }
    }
}
