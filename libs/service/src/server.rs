//! From parsed flags to a running service and back to a clean end.

use std::{future::Future, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::{
    StreamExt as _,
    wrappers::{TcpListenerStream, UnixListenerStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    service::Routes,
    transport::{Server, server::Router},
};
use tower::layer::util::Stack;
use tracing::{info, warn};

use crate::{
    Address, Identity, Paths, ServiceArgs,
    audit::AuditLog,
    authorize::{Audit, AuthorizeLayer},
    connection::Connection,
    instance, listen,
    metrics::{self, CountLayer, Metrics},
    settings::{self, Settings},
    sys::memory,
    systemd::{self, Inherited},
    tls::{accept, server::Acceptor},
    trace,
};

/// How long calls may go on after the signal to stop, before they are cut off.
const GRACE: Duration = Duration::from_secs(5);

/// How long after it is ready a service has done what only its start needs.
const AFTER_THE_START: Duration = Duration::from_secs(3);

/// How long nobody asks for anything until what only calls need is forgotten, too.
const IDLE: Duration = Duration::from_secs(60);

/// How old a connection with a certificate gets before its client is asked to make another one, with what its
/// certificate is then. Calls on the old one go on.
const AGE: Duration = Duration::from_secs(30 * 60);

/// What a service gets to build itself from.
#[derive(Clone)]
pub struct Context {
    /// Which service this is.
    pub identity: Identity,
    /// Folders of the installation.
    pub paths: Paths,
    /// Cancelled when the service is to stop: streams that have no end of their own must end then.
    pub shutdown: CancellationToken,
    /// Work that begins when the service is to stop; the process waits for it, for a few seconds at most.
    pub closing: TaskTracker,
    /// Where to register metrics.
    pub metrics: Metrics,
    /// When this process started.
    pub started: std::time::SystemTime,
}

impl Context {
    /// Folder of this service's durable state; made on first use with mode 0700.
    pub fn state_dir(&self) -> std::io::Result<std::path::PathBuf> {
        let path = self.paths.state_of(self.identity.name);
        create_folder(&path, 0o700)?;
        Ok(path)
    }
}

/// Runs a service to its end: settings, logs, lock, `open`, listeners, signals.
///
/// `open` gets the service's own part of the configuration file and returns what to serve. Returns
/// success after SIGTERM or SIGINT, and failure with a sentence on stderr when it could not start.
/// `workers` is the number of tokio's threads: few, since the services idle most of the time.
pub fn run<T, F, R>(identity: Identity, args: &ServiceArgs, workers: usize, open: F) -> ExitCode
where
    T: DeserializeOwned,
    F: FnOnce(Context, T) -> R,
    R: Future<Output = anyhow::Result<Routes>>,
{
    match try_run(identity, args, workers, open) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {}: {error:#}", identity.program);
            ExitCode::FAILURE
        }
    }
}

fn try_run<T, F, R>(
    identity: Identity,
    args: &ServiceArgs,
    workers: usize,
    open: F,
) -> anyhow::Result<()>
where
    T: DeserializeOwned,
    F: FnOnce(Context, T) -> R,
    R: Future<Output = anyhow::Result<Routes>>,
{
    let inherited = Inherited::take()?;
    memory::settle_heaps();
    let (settings, own) = settings::load::<T>(identity, args)?;
    trace::install(&settings.log, settings.log_json);
    // The services may run as users of their own: they pass through here, each into its own folder.
    create_folder(&settings.paths.state, 0o711)?;
    std::fs::create_dir_all(&settings.paths.run)
        .with_context(|| format!("cannot make {}", settings.paths.run.display()))?;
    let _lock = instance::lock(&settings.paths.pid_file_of(identity.name))?;
    let context = Context {
        identity,
        paths: settings.paths.clone(),
        shutdown: CancellationToken::new(),
        closing: TaskTracker::new(),
        metrics: Metrics::default(),
        started: std::time::SystemTime::now(),
    };
    let audit = open_audit(&context, &settings)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(64)
        .thread_keep_alive(Duration::from_secs(2))
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        cancel_on_signal(context.shutdown.clone())?;
        let served = match open(context.clone(), own).await {
            Ok(routes) => {
                let audit = audit.clone();
                serve(&context, &settings, audit, routes, inherited).await
            }
            Err(error) => Err(error),
        };
        context.shutdown.cancel();
        context.closing.close();
        if tokio::time::timeout(GRACE, context.closing.wait())
            .await
            .is_err()
        {
            warn!("what was to be done at the end was not: the next start makes up for it");
        }
        served
    });
    // Blocking work that hangs (a dead disk) must not keep the process alive.
    runtime.shutdown_timeout(Duration::from_secs(2));
    // After the runtime, with which the calls have gone that were cut off: they are told of, too.
    if let Some(audit) = audit {
        audit.log.finish(Duration::from_secs(2));
    }
    result
}

fn cancel_on_signal(shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        shutdown.cancel();
    });
    Ok(())
}

async fn serve(
    context: &Context,
    settings: &Settings,
    audit: Option<Audit>,
    routes: Routes,
    mut inherited: Inherited,
) -> anyhow::Result<()> {
    let name = context.identity.name;
    let routes = with_standard_services(context, routes).await?;
    let mut servers = tokio::task::JoinSet::new();

    let socket = settings.paths.socket_of(name);
    let mut unix = vec![socket.clone()];
    let mut tcp = Vec::new();
    for address in &settings.listen {
        match address {
            Address::Unix(path) => unix.push(path.clone()),
            Address::Tcp { host, port } => tcp.push((host.clone(), *port)),
        }
    }
    let authorize = AuthorizeLayer { audit };
    // Who made a socket takes it away.
    let mut ours = Vec::new();
    for path in &unix {
        let listener = match inherited.socket(path)? {
            Some(listener) => listener,
            None => {
                ours.push(path);
                listen::bind_unix(path)?
            }
        };
        let others = settings.unix_role;
        let incoming = UnixListenerStream::new(listener)
            .map(move |stream| stream.map(|stream| Connection::unix(stream, others)));
        let server = router(context, &authorize, routes.clone(), false);
        let stop = context.shutdown.clone();
        servers.spawn(server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()));
        info!(address = %Address::Unix(path.clone()), "listening");
    }
    inherited.done(&unix)?;
    // Read once for all of them, and whenever one of the files is another.
    let acceptor = match &settings.tls {
        Some(files) if !tcp.is_empty() => Some(Arc::new(Acceptor::open(files.clone())?)),
        _ => None,
    };
    for (host, port) in tcp {
        let plain = settings.allow_plain_tcp;
        let listener = listen::bind_tcp(&host, port, settings.tls.as_ref(), plain).await?;
        info!(address = %listener.local_addr()?, tls = acceptor.is_some(), "listening");
        let server = router(context, &authorize, routes.clone(), acceptor.is_some());
        let stop = context.shutdown.clone().cancelled_owned();
        match &acceptor {
            Some(acceptor) => {
                let incoming = accept::incoming(listener, Arc::clone(acceptor));
                servers.spawn(server.serve_with_incoming_shutdown(incoming, stop));
            }
            None => {
                let incoming = TcpListenerStream::new(listener)
                    .map(|stream| stream.and_then(Connection::plain));
                servers.spawn(server.serve_with_incoming_shutdown(incoming, stop));
            }
        }
    }
    if let Some(address) = settings.metrics {
        let listener = listen::bind_metrics(address, settings.allow_plain_metrics).await?;
        info!(address = %listener.local_addr()?, "serving metrics");
        tokio::spawn(metrics::serve(context.metrics.clone(), listener));
    }
    info!(service = name, version = context.identity.version, "ready");
    systemd::ready();
    tokio::spawn(forget_while_idle(context.metrics.clone()));

    // A listener that ends before we are told to stop is a failure of the whole service.
    tokio::select! {
        () = context.shutdown.cancelled() => {}
        Some(ended) = servers.join_next() => {
            context.shutdown.cancel();
            ended.context("a listener died")?.context("a listener failed")?;
        }
    }
    info!(service = name, "stopping");
    systemd::stopping();
    let all = async { while servers.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, all).await.is_err() {
        warn!(
            seconds = GRACE.as_secs(),
            "calls still going on were cut off"
        );
    }
    for path in ours {
        // Whoever connects now is told that nobody is here. Gone already is fine.
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// Keeps a service small that nobody asks for anything. Never ends by itself.
async fn forget_while_idle(metrics: Metrics) {
    let (mut before, mut forgotten) = (None, None);
    tokio::time::sleep(AFTER_THE_START).await;
    loop {
        let answered = Some(metrics.answered());
        if forgotten.is_none() || (before == answered && forgotten != answered) {
            // It fails only when the service ends.
            let _ = tokio::task::spawn_blocking(memory::forget_what_rests).await;
            forgotten = answered;
        }
        before = answered;
        tokio::time::sleep(IDLE).await;
    }
}

async fn with_standard_services(context: &Context, routes: Routes) -> anyhow::Result<Routes> {
    let (health, health_service) = tonic_health::server::health_reporter();
    // "" is the whole server, which is what ctl and orchestrators ask for.
    health
        .set_service_status("", tonic_health::ServingStatus::Serving)
        .await;
    let stop = context.shutdown.clone();
    tokio::spawn(async move {
        stop.cancelled().await;
        health
            .set_service_status("", tonic_health::ServingStatus::NotServing)
            .await;
    });
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(slipway_proto::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    Ok(routes
        .add_service(health_service)
        .add_service(reflection)
        .prepare())
}

type Layered = Stack<AuthorizeLayer, Stack<CountLayer, tower::layer::util::Identity>>;

/// The log of who did what, unless it is switched off.
fn open_audit(context: &Context, settings: &Settings) -> anyhow::Result<Option<Audit>> {
    let Some(file) = &settings.audit.file else {
        return Ok(None);
    };
    context
        .state_dir()
        .context("cannot make the state folder")?;
    let log = AuditLog::open(file.clone(), settings.audit.bytes)
        .with_context(|| format!("cannot write the audit log {}", file.display()))?;
    let reads = settings.audit.reads;
    Ok(Some(Audit { log, reads }))
}

fn router(
    context: &Context,
    authorize: &AuthorizeLayer,
    routes: Routes,
    encrypted: bool,
) -> Router<Layered> {
    let server = match encrypted {
        true => Server::builder().max_connection_age(AGE),
        false => Server::builder(),
    };
    server
        .concurrency_limit_per_connection(512)
        .initial_stream_window_size(2 * 1024 * 1024)
        .initial_connection_window_size(8 * 1024 * 1024)
        .max_frame_size(crate::MAX_FRAME_SIZE)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .layer(CountLayer(context.metrics.clone()))
        .layer(authorize.clone())
        .add_routes(routes)
}

/// Makes a folder with this mode, and its parents.
fn create_folder(path: &std::path::Path, mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(mode).create(path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}
