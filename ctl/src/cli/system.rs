//! The site as a whole: `up`, `down`, `version`, `info`, `inspect`, `system`.

use std::{collections::BTreeMap, time::Duration};

use clap::Subcommand;
use serde_json::{Map, json};
use slipway_proto::{builder, netd, registry, runtime, types::v1::ServiceInfo};
use slipway_service::Paths;

use crate::{
    client::Site,
    failure::{Failure, Outcome},
    host,
    output::{self, human, template::Template},
};

/// Commands at the top.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the services of this host
    Up {
        /// Say nothing when it worked
        #[arg(short, long)]
        quiet: bool,
    },
    /// Stop the services of this host; containers go on running
    Down {
        /// Stop all containers and take their networks away too
        #[arg(long)]
        containers: bool,
        /// Seconds until a service that does not end is killed
        #[arg(short, long, default_value_t = 20)]
        timeout: u64,
    },
    /// Show the versions of ctl and of the services
    Version {
        /// Show ctl's own version only
        #[arg(long)]
        client: bool,
        /// Format output using a custom template
        #[arg(short, long)]
        format: Option<String>,
    },
    /// Display system-wide information
    Info {
        /// Format output using a custom template
        #[arg(short, long)]
        format: Option<String>,
    },
    /// Return low-level information on Slipway objects
    Inspect(crate::inspect::Inspect),
    /// Get real time events from the services
    Events(super::events::Events),
}

/// `ctl system ...`
#[derive(Debug, Subcommand)]
pub enum Group {
    #[command(flatten)]
    Common(Command),
    /// Show disk usage
    Df(super::disk::Df),
    /// Remove unused data
    Prune(super::prune::Everything),
}

impl Group {
    pub async fn run(self, site: &Site, context: &str) -> Outcome {
        match self {
            Self::Common(command) => command.run(site, context).await,
            Self::Df(df) => df.run(site).await,
            Self::Prune(prune) => prune.run(site).await,
        }
    }
}

impl Command {
    pub async fn run(self, site: &Site, context: &str) -> Outcome {
        match self {
            Self::Up { quiet } => host::up::up(&Paths::from_env(), quiet).await,
            Self::Down {
                containers,
                timeout,
            } => {
                host::down::down(&Paths::from_env(), containers, Duration::from_secs(timeout)).await
            }
            Self::Version { client, format } => {
                version(site, context, client, format.as_deref()).await
            }
            Self::Info { format } => info(site, context, format.as_deref()).await,
            Self::Inspect(inspect) => inspect.run(site, None).await,
            Self::Events(events) => events.run(site).await,
        }
    }
}

/// What each service says of itself, asked at once; a sentence for those that do not answer.
async fn services(site: &Site) -> Vec<(&'static str, Outcome<ServiceInfo>)> {
    let (mut r, mut n, mut h, mut b) = (
        site.registry(),
        site.networks(),
        site.host(),
        site.builder(),
    );
    let (r, n, h, b) = tokio::join!(
        r.info(registry::v1::InfoRequest {}),
        n.info(netd::v1::InfoRequest {}),
        h.info(runtime::v1::InfoRequest {}),
        b.info(builder::v1::InfoRequest {}),
    );
    let plain = |a: Result<tonic::Response<ServiceInfo>, tonic::Status>| {
        a.map(tonic::Response::into_inner).map_err(Failure::from)
    };
    vec![
        ("registry-svc", plain(r)),
        ("netd", plain(n)),
        (
            "runtime-svc",
            h.map(|a| a.into_inner().service.unwrap_or_default())
                .map_err(Failure::from),
        ),
        ("builder-svc", plain(b)),
    ]
}

async fn version(site: &Site, context: &str, client: bool, format: Option<&str>) -> Outcome {
    let own = env!("CARGO_PKG_VERSION");
    let services = if client {
        Vec::new()
    } else {
        services(site).await
    };
    let reached = client || services.iter().any(|(_, answer)| answer.is_ok());
    if let Some(format) = format {
        let components: Vec<_> = services
            .iter()
            .filter_map(|(name, answer)| {
                answer
                    .as_ref()
                    .ok()
                    .map(|info| json!({"Name": name, "Version": info.version}))
            })
            .collect();
        let server = if components.is_empty() {
            serde_json::Value::Null
        } else {
            json!({"Version": components[0]["Version"], "Components": components})
        };
        let value = json!({"Client": {"Version": own, "Os": std::env::consts::OS, "Arch": arch(), "Context": context}, "Server": server});
        show(&value, format)?;
    } else {
        let mut out = format!(
            "Client: Slipway\n Version:    {own}\n OS/Arch:    {}/{}\n Context:    {context}\n",
            std::env::consts::OS,
            arch()
        );
        if !client {
            out.push_str("\nServices:\n");
        }
        for (name, answer) in &services {
            if let Ok(info) = answer {
                out.push_str(&format!(" {name:<12} {}\n", info.version));
            }
        }
        output::print(&out)?;
    }
    for (_, answer) in &services {
        if let Err(failure) = answer {
            eprintln!("Error: {}", failure.text);
        }
    }
    if reached {
        Ok(0)
    } else {
        Err(Failure::silent(1))
    }
}

fn show(value: &serde_json::Value, format: &str) -> Outcome<()> {
    match format {
        "json" => output::print(&format!("{value}\n")),
        text => output::print(&format!(
            "{}\n",
            Template::parse(text)?.render(value, &Map::new())?
        )),
    }
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The upstreams of a registry: host, and where it is and how it does.
fn upstreams(registry: &ServiceInfo) -> BTreeMap<&str, &str> {
    let facts = registry.facts.iter();
    facts
        .filter_map(|(fact, state)| Some((fact.strip_prefix("upstream ")?, state.as_str())))
        .collect()
}

async fn info(site: &Site, context: &str, format: Option<&str>) -> Outcome {
    let host = site
        .host()
        .info(runtime::v1::InfoRequest {})
        .await?
        .into_inner();
    let images = site
        .registry()
        .disk_usage(registry::v1::DiskUsageRequest::default())
        .await
        .map(|a| a.into_inner().images);
    // What it does not say is left out: the images' line tells why.
    let registry = site.registry().info(registry::v1::InfoRequest {}).await;
    let registry = registry.map_or_else(|_| ServiceInfo::default(), tonic::Response::into_inner);
    let upstreams = upstreams(&registry);
    let network = site.networks().info(netd::v1::InfoRequest {}).await;
    let network = network.map_or_else(|_| ServiceInfo::default(), tonic::Response::into_inner);
    let key = network.facts.get("wireguard key");
    let mut service = host.service.clone().unwrap_or_default();
    service.warnings.extend(registry.warnings.iter().cloned());
    if let Some(format) = format {
        let labels: Vec<_> = host
            .labels
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        let value = json!({
            "ServerVersion": service.version, "Name": host.hostname, "Containers": host.containers,
            "ContainersRunning": host.running, "ContainersPaused": host.paused, "ContainersStopped": host.stopped,
            "Images": images.as_ref().ok(), "KernelVersion": host.kernel, "OperatingSystem": host.operating_system,
            "OSType": "linux", "Architecture": host.architecture, "NCPU": host.cpus, "MemTotal": host.memory,
            "CgroupVersion": host.cgroup_version, "DockerRootDir": host.state_dir, "SecurityOptions": host.security_options,
            "Labels": labels, "Warnings": service.warnings, "ClientInfo": {"Version": env!("CARGO_PKG_VERSION"), "Context": context},
            "Slipway": {"Upstreams": upstreams, "WireGuardKey": key},
        });
        show(&value, format)?;
        return Ok(0);
    }
    let mut lines = vec![
        "Client: Slipway".to_owned(),
        format!(" Version:    {}", env!("CARGO_PKG_VERSION")),
        format!(" Context:    {context}"),
        String::new(),
        "Server:".to_owned(),
        format!(" Containers: {}", host.containers),
        format!("  Running: {}", host.running),
        format!("  Paused: {}", host.paused),
        format!("  Stopped: {}", host.stopped),
        format!(
            " Images: {}",
            images.map_or_else(|e| Failure::from(e).text, |n| n.to_string())
        ),
        format!(" Server Version: {}", service.version),
        format!(" Cgroup Version: {}", host.cgroup_version),
        format!(" Security Options: {}", host.security_options.join(" ")),
        format!(" Kernel Version: {}", host.kernel),
        format!(" Operating System: {}", host.operating_system),
        format!(" Architecture: {}", host.architecture),
        format!(" CPUs: {}", host.cpus),
        format!(" Total Memory: {}", human::binary_size(host.memory)),
        format!(" Name: {}", host.hostname),
        format!(" State Folder: {}", host.state_dir),
    ];
    lines.extend(key.map(|key| format!(" WireGuard Key: {key}")));
    let facts: BTreeMap<_, _> = service.facts.iter().collect();
    lines.extend(facts.iter().map(|(k, v)| format!(" {k}: {v}")));
    if !upstreams.is_empty() {
        lines.push(" Upstreams:".to_owned());
        let upstreams = upstreams.iter();
        lines.extend(upstreams.map(|(host, state)| format!("  {host}: {state}")));
    }
    output::print(&(lines.join("\n") + "\n"))?;
    for warning in service.warnings {
        eprintln!("WARNING: {warning}");
    }
    Ok(0)
}
