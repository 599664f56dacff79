//! netd: networks, addresses, names and published ports of the containers of one host.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use netd::{Config, Host, grpc::NetworkService, host};
use slipway_proto::netd::v1::network_server::NetworkServer;
use slipway_service::{Context, Identity, MAX_MESSAGE_SIZE, ServiceArgs};
use tonic::service::Routes;

const IDENTITY: Identity = Identity {
    name: "netd",
    program: "netd",
    version: env!("CARGO_PKG_VERSION"),
};

/// Bridge networks, addresses, names and published ports for the containers of this host
#[derive(Debug, clap::Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    service: ServiceArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    slipway_service::run(IDENTITY, &args.service, 2, open)
}

async fn open(context: Context, config: Config) -> anyhow::Result<Routes> {
    let state = context
        .state_dir()
        .context("cannot make the state folder")?;
    let run = context.paths.run.join("netd");
    let resolv_conf = config.resolv_conf.clone();
    raise_descriptor_limit();
    let runtime = tokio::runtime::Handle::current();
    // Before anything is made: what somebody does to it from then on is seen.
    let watch = host::Watch::open().context("cannot watch the kernel's tables and links")?;
    let host = Host::open(config, &state, &run, runtime)?;
    let guard = host::guard(host.clone(), watch);
    let stop = context.shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = guard => {}
        }
    });
    let service = NetworkService::new(host, resolv_conf, context.started);
    let server = NetworkServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE_SIZE)
        .max_encoding_message_size(MAX_MESSAGE_SIZE);
    Ok(Routes::new(server))
}

/// A descriptor for each container's namespace and each published port: the usual 1024 is too few.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    // The most that any process may have, for whoever may raise its hard limit (CAP_SYS_RESOURCE).
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open").unwrap_or_default();
    let most = most.trim().parse().unwrap_or(0);
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| {
        let all = most.max(hard);
        let fallback = |_| setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        setrlimit(Resource::RLIMIT_NOFILE, all, all).or_else(fallback)
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}
