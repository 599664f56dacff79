//! builder-svc: builds Dockerfiles into images.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use builder_svc::{
    build::{Builder, parallel},
    context::{
        ContentStore, Fetcher,
        fetch::{self, Limits},
        git::ssh::Hosts,
    },
    grpc::BuilderService,
    history::History,
    registry::Registry,
    settings,
    worker::Fleet,
};
use clap::Parser as _;
use slipway_proto::builder::v1::builder_server::BuilderServer;
use slipway_service::{Context, Identity, MAX_MESSAGE_SIZE, ServiceArgs, secrecy};
use tonic::service::Routes;

const IDENTITY: Identity = Identity {
    name: "builder",
    program: "builder-svc",
    version: env!("CARGO_PKG_VERSION"),
};

/// Builds Dockerfiles into images
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

async fn open(context: Context, file: settings::File) -> anyhow::Result<Routes> {
    // Secrets and credentials of callers go through here.
    secrecy::forbid_core_dumps().context("cannot keep core dumps from being made")?;
    let state = context
        .state_dir()
        .context("cannot make the state folder")?;
    let paths = &context.paths;
    let registry = Registry::new(file.registry(paths)?);
    let fleet = Fleet::new(file.members(paths)?, parallel());
    let store =
        ContentStore::open(state.join("content")).context("cannot open the context files")?;
    let limits = Limits {
        guard: fetch::guard(file.fetch_allow.clone()),
        bytes: file.fetch_max_bytes,
        silence: Duration::from_secs(60),
    };
    let hosts = match &file.ssh_known_hosts {
        Some(file) => Hosts::of_file(file.clone()),
        None => Hosts::met(state.join("ssh_known_hosts")),
    };
    let fetcher = Fetcher::new(Arc::new(store), limits, hosts)?;
    let history = History::open(state.join("history"), file.history())
        .context("cannot open the history of builds")?;
    let builder = Builder::new(
        registry,
        fleet,
        fetcher,
        (file.content_bytes, file.cache_bytes),
        history,
        file.grants()?,
    );
    let builder = Arc::new(builder);
    let service = BuilderService::new(builder, context.started, context.shutdown);
    Ok(Routes::new(
        BuilderServer::new(service)
            .max_decoding_message_size(MAX_MESSAGE_SIZE)
            .max_encoding_message_size(MAX_MESSAGE_SIZE),
    ))
}
