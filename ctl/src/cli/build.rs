//! `build`.

use std::{
    collections::{BTreeMap, HashMap},
    io::IsTerminal as _,
    path::PathBuf,
};

use clap::Args;
use slipway_image::Platform;
use slipway_proto::builder::v1::{BuildResult, BuildStart, Ulimit};

use crate::{
    build::{
        self,
        call::Call,
        loaded::Loaded,
        offer::Offer,
        output::{self, Place},
        progress::Style,
        source::Sources,
    },
    client::Site,
    failure::{Failure, Outcome},
    spec::{env, options::platform, units},
};

/// `ctl build`
#[derive(Debug, Args)]
pub struct Build {
    /// Name of the Dockerfile ("-" = stdin) [default: PATH/Dockerfile]
    #[arg(short, long)]
    file: Option<String>,
    /// Name and optionally a tag (format: "name:tag")
    #[arg(short, long)]
    tag: Vec<String>,
    /// Set build-time variables
    #[arg(long)]
    build_arg: Vec<String>,
    /// Set the target build stage to build
    #[arg(long, default_value = "")]
    target: String,
    /// Do not use cache when building the image
    #[arg(long)]
    no_cache: bool,
    /// Do not cache specified stages
    #[arg(long, value_delimiter = ',')]
    no_cache_filter: Vec<String>,
    /// Add annotation to the image
    #[arg(long)]
    annotation: Vec<String>,
    /// Always attempt to pull all referenced images
    #[arg(long)]
    pull: bool,
    /// Set metadata for an image
    #[arg(long)]
    label: Vec<String>,
    /// Set the networking mode for the RUN instructions during build
    #[arg(long, default_value = "")]
    network: String,
    /// Set target platform for build
    #[arg(long)]
    platform: Vec<String>,
    /// Set type of progress output (auto, none, plain, tty, quiet, rawjson) [default: $BUILDKIT_PROGRESS, or auto]
    #[arg(long)]
    progress: Option<String>,
    /// Suppress the build output and print image ID on success
    #[arg(short, long)]
    quiet: bool,
    /// Write the image ID to a file
    #[arg(long)]
    iidfile: Option<String>,
    /// Write build result metadata to a file
    #[arg(long)]
    metadata_file: Option<String>,
    /// Attestation parameters (format: "type=provenance,mode=max")
    #[arg(long)]
    attest: Vec<String>,
    /// Shorthand for "--attest=type=provenance"
    #[arg(long)]
    provenance: Option<String>,
    /// Shorthand for "--attest=type=sbom"
    #[arg(long)]
    sbom: Option<String>,
    /// Output destination (format: "type=local,dest=path")
    #[arg(short, long)]
    output: Vec<String>,
    /// Shorthand for "--output=type=registry"
    #[arg(long)]
    push: bool,
    /// Shorthand for "--output=type=docker"
    #[arg(long)]
    load: bool,
    /// External cache sources (e.g., "user/app:cache", "type=local,src=path/to/dir")
    #[arg(long)]
    cache_from: Vec<String>,
    /// Cache export destinations (e.g., "user/app:cache", "type=local,dest=path/to/dir")
    #[arg(long)]
    cache_to: Vec<String>,
    /// Add a custom host-to-IP mapping (format: "host:ip")
    #[arg(long)]
    add_host: Vec<String>,
    /// Shared memory size for build containers
    #[arg(long)]
    shm_size: Option<String>,
    /// Ulimit options
    #[arg(long)]
    ulimit: Vec<String>,
    /// Secret to expose to the build (format: "id=mysecret[,src=/local/secret]")
    #[arg(long)]
    secret: Vec<String>,
    /// SSH agent socket or keys to expose to the build
    #[arg(long)]
    ssh: Vec<String>,
    /// Shorthand for "--call=check"
    #[arg(long, conflicts_with = "call")]
    check: bool,
    /// Set method for evaluating build ("check", "outline", "targets")
    #[arg(long)]
    call: Option<String>,
    /// What buildx called "--call" before
    #[arg(long, hide = true, conflicts_with_all = ["call", "check"])]
    print: Option<String>,
    /// Additional build contexts (e.g., name=path)
    #[arg(long)]
    build_context: Vec<String>,
    /// Allow extra privileged entitlement (e.g., "network.host", "security.insecure")
    #[arg(long)]
    allow: Vec<String>,
    /// Set the parent cgroup for the RUN instructions during build
    #[arg(long)]
    cgroup_parent: Option<String>,
    /// Context: a directory, the URL of an archive or git repository, "-" = stdin
    path: String,
}

impl Build {
    pub async fn run(self, site: &Site) -> Outcome {
        let mut sources = Sources::of(&self.path, self.file.as_deref(), &self.build_context)?;
        let dockerfile = std::mem::take(&mut sources.dockerfile);
        if dockerfile.content.len() > slipway_dockerfile::MAX_SIZE {
            return Err(Failure::new(format!(
                "{} is larger than {} KiB",
                dockerfile.name,
                slipway_dockerfile::MAX_SIZE / 1024
            )));
        }
        if let Some(call) = self.call()? {
            let main = sources.folders.iter().find(|f| f.name.is_empty());
            if sources.stream.is_some() {
                return Err(Failure::new(
                    "--call and --check take no archive as their context: give a folder, a URL or a Dockerfile",
                ));
            }
            let ignore = |path: PathBuf| std::fs::read_to_string(path).ok();
            let own = main.and_then(|main| main.dockerfile.as_ref()).map(|path| {
                let mut name = path.as_os_str().to_owned();
                name.push(".dockerignore");
                PathBuf::from(name)
            });
            let start = BuildStart {
                dockerfile: dockerfile.content.clone().into(),
                build_args: self.arguments()?,
                target: self.target.clone(),
                pull: self.pull,
                platforms: self
                    .platform
                    .iter()
                    .flat_map(|p| p.split(','))
                    .map(platform)
                    .collect::<Result<_, _>>()?,
                ignore: own
                    .and_then(ignore)
                    .or_else(|| ignore(main?.root.join(".dockerignore")))
                    .unwrap_or_default(),
                dockerfile_path: match dockerfile.in_context {
                    true => dockerfile.name.clone(),
                    false => String::new(),
                },
                dockerfile_name: dockerfile.name.clone(),
                remote_contexts: sources.remote.clone(),
                // An image of a layout is looked at as little as a folder.
                named_contexts: {
                    let layouts = sources.layouts.iter().map(|(name, _)| name.clone());
                    named(&sources).into_iter().chain(layouts).collect()
                },
                auths: crate::auth::for_all().await,
                ..BuildStart::default()
            };
            return call.run(site, start).await;
        }
        // As buildx: the environment's choice, where the command line makes none.
        let progress = match &self.progress {
            Some(chosen) => chosen.clone(),
            None => std::env::var("BUILDKIT_PROGRESS").unwrap_or_default(),
        };
        let progress = match progress.as_str() {
            "" => "auto",
            other => other,
        };
        let style = match (self.quiet, progress) {
            (true, _) | (_, "quiet") => Style::Quiet,
            (_, "auto") if crate::output::draws_bars() => Style::Terminal,
            (_, "tty") if crate::output::draws_bars() => Style::Terminal,
            (_, "tty") => {
                return Err(Failure::new(
                    "--progress tty needs a terminal on stderr: use plain",
                ));
            }
            (_, "auto" | "plain") => Style::Plain,
            (_, "rawjson") => Style::RawJson,
            (_, "none") => Style::Nothing,
            (_, other) => {
                return Err(Failure::new(format!(
                    "invalid value {other:?} for --progress: auto, none, plain, tty, quiet or rawjson"
                )));
            }
        };
        if let Some(parent) = &self.cgroup_parent {
            return Err(Failure::new(format!(
                "--cgroup-parent {parent:?} is not supported: steps have cgroups of their own below slipway/"
            )));
        }
        let agents = build::source::agents(&self.ssh, &self.path);
        let offer = Offer::new(&self.secret, &agents)?;
        let (provenance, sbom) = (self.provenance.as_deref(), self.sbom.as_deref());
        let attests = build::attest::attestations(&self.attest, provenance, sbom)?;
        let stdout = std::io::stdout().is_terminal();
        let outputs = output::outputs(&self.output, self.push, self.load, stdout)?;
        let mut places: Vec<_> = outputs.iter().map(|o| o.place.clone()).collect();
        let mut cache_to = Vec::new();
        for (to, place) in build::cache::destinations(&self.cache_to)? {
            cache_to.push(to);
            places.push(place);
        }
        let mut start = BuildStart {
            auths: crate::auth::for_all().await,
            cache_from: build::cache::sources(site, &self.cache_from).await?,
            cache_to,
            outputs: outputs.iter().map(|o| o.asked.clone()).collect(),
            dockerfile: dockerfile.content.clone().into(),
            dockerfile_name: dockerfile.name.clone(),
            dockerfile_path: match dockerfile.in_context {
                true => dockerfile.name.clone(),
                false => String::new(),
            },
            remote_contexts: sources.remote.clone(),
            named_contexts: named(&sources),
            tags: self.tag.clone(),
            build_args: self.arguments()?,
            target: self.target.clone(),
            no_cache: self.no_cache,
            no_cache_filter: self.no_cache_filter.clone(),
            annotations: env::pairs(&self.annotation)?,
            pull: self.pull,
            platforms: self
                .platform
                .iter()
                .flat_map(|p| p.split(','))
                .map(platform)
                .collect::<Result<_, _>>()?,
            labels: env::pairs(&self.label)?,
            network: self.network.clone(),
            extra_hosts: self
                .add_host
                .iter()
                .map(|h| h.replacen('=', ":", 1))
                .collect(),
            shm_size: self
                .shm_size
                .as_deref()
                .map(units::memory)
                .transpose()?
                .unwrap_or(0)
                .unsigned_abs(),
            ulimits: self
                .ulimit
                .iter()
                .map(|t| {
                    units::ulimit(t).map(|u| Ulimit {
                        name: u.name,
                        soft: u.soft,
                        hard: u.hard,
                    })
                })
                .collect::<Result<_, _>>()?,
            secrets: offer.secrets(),
            ssh: offer.agents(),
            allow: self.allow.clone(),
            source_date_epoch: epoch()?,
            attests,
            ..BuildStart::default()
        };
        let mut loaded = Loaded::default();
        let result = async {
            let platforms = self.platforms()?;
            for (name, layout) in &sources.layouts {
                let image = loaded.add(site, layout, &platforms).await?;
                start.remote_contexts.insert(name.clone(), image);
            }
            build::session::run(site, start, offer, sources, style, &places).await
        };
        let result = result.await;
        loaded.forget(site).await;
        let result = result?;
        if let Some(path) = &self.iidfile {
            std::fs::write(path, &result.image_id)
                .map_err(|e| Failure::new(format!("cannot write {path}: {e}")))?;
        }
        if let Some(path) = &self.metadata_file {
            std::fs::write(path, metadata(&result)?)
                .map_err(|e| Failure::new(format!("cannot write {path}: {e}")))?;
        }
        let streams = outputs.iter().any(|o| o.place == Some(Place::Stdout));
        if style == Style::Quiet && !streams {
            crate::output::print(&format!("{}\n", result.image_id))?;
        }
        Ok(0)
    }

    /// What is built for; none = this host's.
    fn platforms(&self) -> Outcome<Vec<Platform>> {
        let names = self.platform.iter().flat_map(|p| p.split(','));
        names
            .map(|name| {
                name.parse()
                    .map_err(|e: slipway_image::platform::PlatformError| {
                        Failure::new(e.to_string())
                    })
            })
            .collect()
    }

    fn call(&self) -> Outcome<Option<Call>> {
        Call::parse(match self.call.as_ref().or(self.print.as_ref()) {
            Some(text) => text,
            None if self.check => "check",
            None => "",
        })
    }

    /// "K" takes our environment's value; unset = not given, so that the Dockerfile's default holds.
    fn arguments(&self) -> Outcome<HashMap<String, String>> {
        let mut out = HashMap::new();
        for word in &self.build_arg {
            match word.split_once('=') {
                Some((key, value)) if !key.is_empty() => {
                    drop(out.insert(key.to_owned(), value.to_owned()))
                }
                Some(_) => {
                    return Err(Failure::new(format!(
                        "invalid build argument {word:?}: write KEY=VALUE"
                    )));
                }
                None => {
                    if let Ok(value) = std::env::var(word) {
                        out.insert(word.clone(), value);
                    }
                }
            }
        }
        Ok(out)
    }
}

/// Names of the folders besides the main context.
fn named(sources: &Sources) -> Vec<String> {
    let names = sources.folders.iter().map(|f| &f.name);
    names.filter(|n| !n.is_empty()).cloned().collect()
}

/// The result as `--metadata-file` has it: strings, but for what is JSON itself.
fn metadata(result: &BuildResult) -> Outcome<Vec<u8>> {
    let value = |key: &str, text: &str| {
        let parsed = match key {
            "containerimage.descriptor" | "buildx.build.provenance" => {
                serde_json::from_str(text).ok()
            }
            _ => None,
        };
        parsed.unwrap_or_else(|| serde_json::Value::from(text))
    };
    let all: BTreeMap<&str, serde_json::Value> = result
        .metadata
        .iter()
        .map(|(key, text)| (key.as_str(), value(key, text)))
        .collect();
    serde_json::to_vec_pretty(&all)
        .map_err(|e| Failure::new(format!("cannot write the metadata: {e}")))
}

/// SOURCE_DATE_EPOCH of our environment (reproducible-builds.org).
fn epoch() -> Outcome<Option<i64>> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Err(_) => Ok(None),
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) => text.parse().map(Some).map_err(|_| {
            Failure::new(format!(
                "SOURCE_DATE_EPOCH={text:?} is not a time in seconds"
            ))
        }),
    }
}
