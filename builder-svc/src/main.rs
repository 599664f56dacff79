//! builder-svc: builds Dockerfiles into images.

use std::process::ExitCode;

use builder_svc::grpc::BuilderService;
use clap::Parser as _;
use slipway_proto::builder::v1::builder_server::BuilderServer;
use slipway_service::{Context, Identity, ServiceArgs};
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

/// `builder.toml` has no settings of its own yet.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {}

fn main() -> ExitCode {
    let args = Args::parse();
    slipway_service::run(IDENTITY, &args.service, 2, open)
}

async fn open(context: Context, _: File) -> anyhow::Result<Routes> {
    Ok(Routes::new(BuilderServer::new(BuilderService::new(
        context.started,
    ))))
}
