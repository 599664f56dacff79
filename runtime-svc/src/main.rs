//! runtime-svc: runs containers on one host.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Parser as _;
use runtime_svc::{
    collect,
    container::manager::Manager,
    descriptors,
    grpc::{ContainersService, HostService, VolumesService, WorkerService},
    monitor::spawner,
    network::Netd,
    oci, quiet,
    registry::Registry,
    settings,
    worker::Worker,
};
use slipway_proto::runtime::v1::{
    containers_server::ContainersServer, host_server::HostServer, volumes_server::VolumesServer,
    worker_server::WorkerServer,
};
use slipway_service::{Context, Identity, MAX_MESSAGE_SIZE, ServiceArgs, secrecy};
use tonic::service::Routes;

const IDENTITY: Identity = Identity {
    name: "runtime",
    program: "runtime-svc",
    version: env!("CARGO_PKG_VERSION"),
};

/// Runs containers on this host
#[derive(Debug, clap::Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    service: ServiceArgs,
}

fn main() -> ExitCode {
    let all: Vec<_> = std::env::args_os().collect();
    if let Some(arguments) = oci::arguments(&all) {
        return oci::main(&arguments);
    }
    // Before anything else: the spawner must have one thread and little memory.
    let mut arguments = all.into_iter().skip(1);
    if arguments
        .next()
        .is_some_and(|first| first == spawner::ARGUMENT)
    {
        let lock = PathBuf::from(arguments.next().unwrap_or_default());
        return ExitCode::from(u8::try_from(spawner::main(&lock)).unwrap_or(1));
    }
    let args = Args::parse();
    slipway_service::run(IDENTITY, &args.service, 2, open)
}

async fn open(context: Context, file: settings::File) -> anyhow::Result<Routes> {
    // Secrets of builds' steps go through here.
    secrecy::forbid_core_dumps().context("cannot keep core dumps from being made")?;
    if let Err(error) = descriptors::raise() {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    let state = context
        .state_dir()
        .context("cannot make the state folder")?;
    let run = context.paths.run.join("runtime");
    let registry = Registry::new(file.registry(&context.paths)?);
    let netd = Netd::new(file.netd(&context.paths)?);
    let (ids, logs) = (file.user_namespaces()?, file.log_defaults()?);
    let unpack = file.unpack_limits()?;
    let manager = Manager::open(state, run, registry.clone(), netd, ids, logs, unpack).await?;
    let worker = Worker::open(
        manager.clone(),
        registry,
        file.lease_limits()?,
        file.cache_mounts()?,
    )?;
    let stop = || context.shutdown.clone();
    tokio::spawn(stop().run_until_cancelled_owned(worker.leases.clone().expire()));
    tokio::spawn(stop().run_until_cancelled_owned(collect::run(manager.clone())));
    let keeping = collect::keep_room(manager.clone(), file.layer_limits()?);
    tokio::spawn(stop().run_until_cancelled_owned(keeping));
    tokio::spawn(stop().run_until_cancelled_owned(quiet::give_back(manager.clone())));
    let containers = ContainersServer::new(ContainersService::new(manager.clone()))
        .max_decoding_message_size(MAX_MESSAGE_SIZE)
        .max_encoding_message_size(MAX_MESSAGE_SIZE);
    let volumes = VolumesServer::new(VolumesService::new(manager.clone()));
    let host = HostService::new(manager, worker.clone(), context.started);
    let host = HostServer::new(host);
    let worker = WorkerServer::new(WorkerService::new(worker, context.shutdown.clone()))
        .max_decoding_message_size(MAX_MESSAGE_SIZE)
        .max_encoding_message_size(MAX_MESSAGE_SIZE);
    Ok(Routes::new(containers)
        .add_service(host)
        .add_service(volumes)
        .add_service(worker))
}
