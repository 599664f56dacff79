//! `run`, `create`, `start`, `attach`: containers and their streams.

use clap::Args;
use slipway_proto::{
    registry::v1::{ResolveRequest, pull_request::Policy},
    runtime::v1::{
        AttachEvent, AttachRequest, ContainerSpec, CreateRequest, RunEvent, RunRequest,
        StartRequest, Stream, StreamInput, attach_event, attach_request, run_event, run_request,
    },
    types::v1::RegistryAuth,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    attach::{
        detach::Keys,
        session::{self, Ended, Io, Proxy, Seen},
        terminal,
    },
    auth,
    client::Site,
    failure::{Failure, Outcome},
    output::{
        self,
        progress::{Show, What},
    },
    spec::options::ContainerOptions,
};

/// `ctl run`
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Run {
    /// Run container in background and print container ID
    #[arg(short, long)]
    detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, default_value = "")]
    detach_keys: String,
    /// Proxy received signals to the process
    #[arg(long, default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    sig_proxy: bool,
    #[command(flatten)]
    options: ContainerOptions,
}

/// `ctl create`
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Create {
    #[command(flatten)]
    options: ContainerOptions,
}

/// `ctl start`
#[derive(Debug, Args)]
pub struct Start {
    /// Attach STDOUT/STDERR and forward signals
    #[arg(short, long)]
    attach: bool,
    /// Attach container's STDIN
    #[arg(short, long)]
    interactive: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, default_value = "")]
    detach_keys: String,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// `ctl attach`
#[derive(Debug, Args)]
pub struct Attach {
    /// Do not attach STDIN
    #[arg(long)]
    no_stdin: bool,
    /// Proxy all received signals to the process
    #[arg(long, default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    sig_proxy: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, default_value = "")]
    detach_keys: String,
    container: String,
}

impl Run {
    /// Exit code: the container's own; 125 when it is ours.
    pub async fn run(self, site: &Site) -> Outcome {
        self.go(site).await.map_err(|failure| match failure.code {
            1 => failure.exits(125),
            _ => failure,
        })
    }

    async fn go(self, site: &Site) -> Outcome {
        let o = &self.options;
        if self.detach && !o.attach.is_empty() {
            return Err(Failure::new(
                "conflicting options: cannot specify both --attach and --detach",
            ));
        }
        let mut spec = o.spec(&std::env::current_dir()?)?;
        let keys = Keys::parse(&self.detach_keys)?;
        let streams = streams(&o.attach, o.interactive);
        let stdin = !self.detach && o.interactive && streams.contains(&Stream::Stdin);
        session::check_terminal(o.tty, stdin)?;
        // docker: an attached container's stdin ends with the client that started it.
        spec.stdin_once = stdin;
        let attached = |stream| !self.detach && streams.contains(&stream);
        spec.attach_stdin = stdin;
        spec.attach_stdout = attached(Stream::Stdout);
        spec.attach_stderr = attached(Stream::Stderr);
        spec.terminal_size = terminal::size().filter(|_| o.tty);
        reserve_cidfile(o.cidfile.as_deref())?;
        let image = spec.image.clone();
        let pull = o.policy()?;
        let auth = account(site, &image, pull).await;
        let start = run_request::Start {
            spec: Some(spec),
            detach: self.detach,
            attach: streams.iter().map(|s| (*s).into()).collect(),
            pull: pull.into(),
            auth,
            quiet: o.quiet,
        };
        let (sender, receiver) = mpsc::channel(16);
        queue(
            &sender,
            RunRequest {
                part: Some(run_request::Part::Start(start)),
            },
        )?;
        let events = site
            .containers()
            .run(ReceiverStream::new(receiver))
            .await?
            .into_inner();
        let mut watch = Watch::new(image, o.quiet, o.cidfile.clone());
        let proxy = Proxy {
            site: site.clone(),
            container: watch.id.subscribe(),
        };
        let io = Io {
            tty: o.tty && !self.detach,
            stdin,
            proxy: (self.sig_proxy && !self.detach).then_some(proxy),
            detach_keys: keys,
        };
        let mut started = false;
        let ended = session::pump(io, sender, wrap_run, events, |event| {
            watch.see(event, &mut started)
        })
        .await?;
        if self.detach {
            return match (ended, started) {
                (Ended::Exited(exited), _) if !exited.error.is_empty() => {
                    Err(Failure::new(exited.error.clone()).exits(session::exit_code(&exited)))
                }
                (_, true) => {
                    output::print(&format!("{}\n", *watch.id.borrow()))?;
                    Ok(0)
                }
                _ => Err(Failure::new(
                    "the runtime ended the call before the container ran: see ctl ps -a and its log",
                )),
            };
        }
        finish(ended)
    }
}

/// The account with which the image is pulled, should it have to be.
async fn account(site: &Site, image: &str, pull: Policy) -> Option<RegistryAuth> {
    match pull {
        Policy::Never => None,
        Policy::Always => auth::for_image(image).await,
        _ => {
            auth::if_missing(image, async || {
                let request = ResolveRequest {
                    reference: image.to_owned(),
                    platform: None,
                };
                site.registry().resolve(request).await.is_ok()
            })
            .await
        }
    }
}

impl Create {
    pub async fn run(self, site: &Site) -> Outcome {
        let o = &self.options;
        let spec = o.spec(&std::env::current_dir()?)?;
        let pull = o.policy()?;
        reserve_cidfile(o.cidfile.as_deref())?;
        let mut watch = Watch::new(spec.image.clone(), o.quiet, o.cidfile.clone());
        let streams = streams(&o.attach, o.interactive);
        let auth = account(site, &spec.image, pull).await;
        let request = CreateRequest {
            spec: Some(ContainerSpec {
                stdin_once: o.interactive,
                attach_stdin: streams.contains(&Stream::Stdin),
                attach_stdout: streams.contains(&Stream::Stdout),
                attach_stderr: streams.contains(&Stream::Stderr),
                ..spec
            }),
            pull: pull.into(),
            auth,
            quiet: o.quiet,
        };
        let mut events = site.containers().create(request).await?.into_inner();
        let mut started = false;
        while let Some(event) = events.message().await? {
            watch.see(event, &mut started)?;
        }
        if watch.id.borrow().is_empty() {
            return Err(Failure::new(
                "the runtime ended the call before the container was made: see its log",
            ));
        }
        output::print(&format!("{}\n", *watch.id.borrow()))?;
        Ok(0)
    }
}

impl Start {
    pub async fn run(self, site: &Site) -> Outcome {
        if !self.attach && !self.interactive {
            return super::each(&self.containers, |container| async move {
                let request = StartRequest {
                    container: container.clone(),
                    terminal_size: terminal::size(),
                };
                site.containers().start(request).await?;
                Ok(container)
            })
            .await;
        }
        let [container] = self.containers.as_slice() else {
            return Err(Failure::new(
                "you cannot start and attach multiple containers at once",
            ));
        };
        attach(
            site,
            container,
            self.interactive,
            true,
            true,
            Keys::parse(&self.detach_keys)?,
        )
        .await
    }
}

impl Attach {
    pub async fn run(self, site: &Site) -> Outcome {
        attach(
            site,
            &self.container,
            !self.no_stdin,
            self.sig_proxy,
            false,
            Keys::parse(&self.detach_keys)?,
        )
        .await
    }
}

async fn attach(
    site: &Site,
    container: &str,
    stdin: bool,
    sig_proxy: bool,
    start: bool,
    keys: Keys,
) -> Outcome {
    // Terminal or not must be known before the first byte is read.
    let request = slipway_proto::runtime::v1::InspectRequest {
        container: container.to_owned(),
        size: false,
    };
    let details = site.containers().inspect(request).await?.into_inner();
    let spec = details.spec.unwrap_or_default();
    let id = details.summary.unwrap_or_default().id;
    let stdin = stdin && spec.open_stdin;
    session::check_terminal(spec.tty, stdin)?;
    let mut streams = vec![Stream::Stdout.into(), Stream::Stderr.into()];
    if stdin {
        streams.push(Stream::Stdin.into());
    }
    let first = attach_request::Start {
        container: container.to_owned(),
        streams,
        logs: start,
        terminal_size: terminal::size().filter(|_| spec.tty),
        start,
    };
    let (sender, receiver) = mpsc::channel(16);
    queue(
        &sender,
        AttachRequest {
            part: Some(attach_request::Part::Start(first)),
        },
    )?;
    let events = site
        .containers()
        .attach(ReceiverStream::new(receiver))
        .await?
        .into_inner();
    let io = Io {
        tty: spec.tty,
        stdin,
        // As docker: with a terminal it is the keys that make signals.
        proxy: (sig_proxy && !spec.tty).then(|| Proxy::to(site, &id)),
        detach_keys: keys,
    };
    finish(session::pump(io, sender, wrap_attach, events, see_attach).await?)
}

fn see_attach(event: AttachEvent) -> Outcome<Seen> {
    Ok(match event.event {
        Some(attach_event::Event::Output(output)) => Seen::Output(output),
        Some(attach_event::Event::Exited(exited)) => Seen::Exited(exited),
        Some(attach_event::Event::Attached(_)) | None => Seen::Nothing,
    })
}

fn wrap_run(input: StreamInput) -> RunRequest {
    RunRequest {
        part: Some(run_request::Part::Input(input)),
    }
}

fn wrap_attach(input: StreamInput) -> AttachRequest {
    AttachRequest {
        part: Some(attach_request::Part::Input(input)),
    }
}

/// Puts the first message into an empty channel.
pub fn queue<T>(sender: &mpsc::Sender<T>, message: T) -> Outcome<()> {
    sender
        .try_send(message)
        .map_err(|_| Failure::new("the call ended before it began"))
}

/// What a session's end means for our exit code.
pub fn finish(ended: Ended) -> Outcome {
    match ended {
        Ended::Exited(exited) if !exited.error.is_empty() => Err(Failure::new(exited.error.clone()).exits(session::exit_code(&exited))),
        Ended::Exited(exited) => Ok(session::exit_code(&exited)),
        Ended::Detached => {
            eprintln!("read escape sequence");
            Ok(0)
        }
        Ended::Closed => Err(Failure::new("the connection to the container is lost; it goes on running. Join it again with: ctl attach").exits(125)),
    }
}

fn streams(named: &[String], interactive: bool) -> Vec<Stream> {
    let mut streams: Vec<Stream> = named
        .iter()
        .filter_map(|name| Stream::from_str_name(&name.to_ascii_uppercase()))
        .collect();
    if streams.is_empty() {
        streams = vec![Stream::Stdout, Stream::Stderr];
        if interactive {
            streams.push(Stream::Stdin);
        }
    }
    streams
}

/// docker refuses an existing file before anything is made.
fn reserve_cidfile(path: Option<&str>) -> Outcome<()> {
    match path {
        Some(path) if std::path::Path::new(path).exists() => Err(Failure::new(format!(
            "container ID file found, make sure the other container isn't running or delete {path}"
        ))),
        _ => Ok(()),
    }
}

/// Follows the events of `run` and `create` up to the container's start.
struct Watch {
    image: String,
    /// Empty until it is made.
    id: watch::Sender<String>,
    cidfile: Option<String>,
    show: Show,
    pulling: bool,
}

impl Watch {
    fn new(image: String, quiet: bool, cidfile: Option<String>) -> Self {
        Self {
            image,
            id: watch::Sender::default(),
            cidfile,
            show: Show::new(What::Beside, quiet),
            pulling: false,
        }
    }

    fn announce(&mut self) {
        if !std::mem::replace(&mut self.pulling, true) {
            self.show.line(&format!(
                "Unable to find image '{}' locally",
                familiar(&self.image)
            ));
        }
    }

    fn see(&mut self, event: RunEvent, started: &mut bool) -> Outcome<Seen> {
        use run_event::Event;
        match event.event {
            Some(Event::Status(text)) => {
                self.announce();
                self.show.line(&text);
            }
            Some(Event::Progress(progress)) => {
                self.announce();
                self.show.update(&progress);
            }
            Some(Event::Pulled(done)) if self.pulling => {
                self.show.line(&format!("Digest: {}", done.digest));
                let what = if done.newer {
                    "Downloaded newer image for"
                } else {
                    "Image is up to date for"
                };
                self.show
                    .line(&format!("Status: {what} {}", familiar(&done.reference)));
            }
            // The image was here: docker says nothing.
            Some(Event::Pulled(_)) => {}
            Some(Event::Created(created)) => {
                for warning in created.warnings {
                    eprintln!("WARNING: {warning}");
                }
                if let Some(path) = &self.cidfile {
                    std::fs::write(path, &created.id)
                        .map_err(|e| Failure::new(format!("cannot write {path}: {e}")))?;
                }
                self.id.send_replace(created.id);
            }
            Some(Event::Started(_)) => *started = true,
            Some(Event::Output(output)) => return Ok(Seen::Output(output)),
            Some(Event::Exited(exited)) => return Ok(Seen::Exited(exited)),
            None => {}
        }
        Ok(Seen::Nothing)
    }
}

/// As people write it; what is no reference (an id) stays as it is.
pub fn familiar(name: &str) -> String {
    name.parse::<slipway_image::Reference>()
        .map_or_else(|_| name.to_owned(), |r| r.with_default_tag().familiar())
}

/// As it was asked for: docker's lists show no ":latest" that nobody wrote, ids stay.
pub fn familiar_kept(name: &str) -> String {
    name.parse::<slipway_image::Reference>()
        .map_or_else(|_| name.to_owned(), |r| r.familiar())
}
