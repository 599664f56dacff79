//! registry-svc: see the library's page.

use std::{net::SocketAddr, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use clap::Parser;
use registry_svc::{
    Registry,
    access::Access,
    config::{Config, DEFAULT_HTTP, RegistryFile},
    grpc, http,
    names::OwnNames,
    retention::Rules,
};
use slipway_proto::registry::v1::{registry_server::RegistryServer, upkeep_server::UpkeepServer};
use slipway_service::{Context, Identity, MAX_MESSAGE_SIZE, ServiceArgs, secrecy};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

/// The image store of a site, and the mirror of upstream registries
#[derive(Debug, Parser)]
#[command(name = "registry-svc", version)]
struct Args {
    #[command(flatten)]
    service: ServiceArgs,
    /// Serve the OCI Distribution API here; may be given several times [default: 127.0.0.1:5000]
    #[arg(long, value_name = "HOST:PORT")]
    http: Vec<SocketAddr>,
    /// Allow http off loopback without TLS or without an access policy: whoever reaches the port can read
    /// what is sent, or push and delete images
    #[arg(long)]
    allow_plain_http: bool,
}

const IDENTITY: Identity = Identity {
    name: "registry",
    program: "registry-svc",
    version: env!("CARGO_PKG_VERSION"),
};

fn main() -> ExitCode {
    let args = Args::parse();
    let service = args.service.clone();
    slipway_service::run(
        IDENTITY,
        &service,
        2,
        |context, file: RegistryFile| async move { open(args, context, file).await },
    )
}

async fn open(args: Args, context: Context, file: RegistryFile) -> anyhow::Result<Routes> {
    // Credentials of upstream registries go through here.
    secrecy::forbid_core_dumps().context("cannot keep core dumps from being made")?;
    // Fails only when something in this process chose a provider already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let grace = file.grace()?;
    let bucket = file.store.clone().check()?;
    let mut addresses = if args.http.is_empty() {
        file.http
    } else {
        args.http
    };
    if addresses.is_empty() {
        addresses.push(DEFAULT_HTTP.parse().expect("an address"));
    }
    let allow_plain = args.allow_plain_http || file.allow_plain_http;
    let guarded = file.http_tls.is_some() && !file.access.is_empty();
    let mut listeners = Vec::new();
    for address in addresses {
        listeners.push(http::bind(address, guarded, allow_plain).await?);
    }
    let bound = listeners
        .iter()
        .map(tokio::net::TcpListener::local_addr)
        .collect::<Result<Vec<_>, _>>()?;
    let upstreams = file
        .upstream
        .into_iter()
        .map(registry_svc::config::UpstreamFile::check)
        .collect::<Result<Vec<_>, _>>()?;
    let own = OwnNames::new(&bound, &file.names);
    let root = context.state_dir()?;
    let authority = file
        .http_tls
        .as_ref()
        .is_some_and(|t| t.client_ca.is_some());
    let (users, key) = (file.htpasswd.as_ref(), file.token_key.as_ref());
    let access = Access::open(&file.access, users, authority, &own, &root, key)?;
    if let Some(access) = &access {
        access.refusals().register(&context.metrics);
    }
    let tls = file.http_tls.map(http::Tls::open).transpose()?;
    let front = http::Front::new(access, tls, file.limits.connections());
    let front = Arc::new(front.trusting(file.trusted_proxies));
    let config = Config {
        own,
        upstreams,
        mirror: file.mirror.check()?,
        grace,
        retention: Rules::check(file.retention)?,
        fsck_rate: file.fsck.rate()?,
        uploads: file.limits.uploads(),
        bucket,
        fetch_allow: file.fetch_allow,
    };
    let registry = Registry::open(&root, config)
        .await
        .with_context(|| format!("cannot open the store in {}", root.display()))?;
    registry.mirror.counts().register(&context.metrics);
    let mut serving = JoinSet::new();
    for listener in listeners {
        let (registry, front) = (Arc::clone(&registry), Arc::clone(&front));
        serving.spawn(http::serve(
            registry,
            listener,
            front,
            context.shutdown.clone(),
        ));
    }
    tokio::spawn(Arc::clone(&registry).sweep_until(context.shutdown.clone()));
    tokio::spawn(Arc::clone(&registry).retain_until(context.shutdown.clone()));
    context.closing.spawn(close_at_the_end(
        Arc::clone(&registry),
        serving,
        context.shutdown.clone(),
    ));
    let upkeep = UpkeepServer::new(grpc::Upkeep::new(Arc::clone(&registry)));
    let service = grpc::Service::new(registry, context);
    let server = RegistryServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE_SIZE)
        .max_encoding_message_size(MAX_MESSAGE_SIZE);
    Ok(Routes::new(server).add_service(upkeep))
}

async fn close_at_the_end(
    registry: Arc<Registry>,
    mut serving: JoinSet<()>,
    shutdown: CancellationToken,
) {
    shutdown.cancelled().await;
    match registry.ledger.is_shared() {
        // What comes to its end now is still acknowledged: a journal that is closed takes nothing more.
        true => while serving.join_next().await.is_some() {},
        // Files do, and the index needs the time to be written out.
        false => serving.detach_all(),
    }
    if let Err(error) = registry.close().await {
        tracing::warn!(%error, "the index was not written out: it is rebuilt at the next start");
    }
}
