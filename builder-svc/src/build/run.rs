//! From a request to its outputs, one after the other.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use slipway_dockerfile::{
    Dockerfile,
    lint::{Config, Warning, violation},
};
use slipway_image::{Platform, Reference};
use tokio::task::JoinSet;

use super::{Builder, Call, Outcome, Request, outcome::metadata};
use crate::{
    attest::{
        Predicate, provenance,
        sbom::{self, Scanner},
    },
    cache::carried,
    caller::Caller,
    check::{self, Walk, report},
    context::BuildContext,
    error::{Error, Result},
    events::{Event, Events},
    output::{self, Exporter, Made, Output, annotation::Annotations},
    plan::{self, Base, Options, epoch::epoch, stage::Given},
    registry::Fetch,
    solve::{Progress, Solver},
    worker::placing::Leases,
};

impl Builder {
    /// Looks at all stages, or those of the target.
    async fn check(
        &self,
        file: &Dockerfile,
        request: &Request,
        contexts: &BTreeMap<String, Base>,
        config: Config,
    ) -> (Vec<Warning>, Option<Error>) {
        let options = Self::looked_at(request, contexts);
        self.walk(file, request, &options, config)
            .run(&self.registry)
            .await
    }

    /// What a call that builds nothing looks at.
    fn looked_at(request: &Request, contexts: &BTreeMap<String, Base>) -> Options {
        Options {
            build_args: request.build_args.clone(),
            target: request.target.clone(),
            platform: request.platforms.first().cloned(),
            every: request.target.is_empty() && request.call == Call::Check,
            contexts: contexts.clone(),
        }
    }

    fn walk<'a>(
        &self,
        file: &'a Dockerfile,
        request: &'a Request,
        options: &'a Options,
        config: Config,
    ) -> Walk<'a> {
        Walk {
            file,
            options,
            config,
            fetch: Fetch {
                always: request.pull,
                platform: None,
                auths: request.auths.clone(),
            },
            ignore: &request.ignore,
        }
    }

    /// Does what a request asks for.
    pub(super) async fn run(
        &self,
        id: &str,
        request: Request,
        context: BuildContext,
        caller: Arc<Caller>,
        events: Events,
    ) -> Result<Outcome> {
        let names = output::spec::names(request.tags.iter().map(String::as_str))?;
        let tags: Vec<String> = names.iter().map(ToString::to_string).collect();
        let started = SystemTime::now();
        let sources = request.cache_from.iter().map(|(k, a)| carried::from(k, a));
        let sources = sources.collect::<Result<Vec<_>>>()?;
        let cache_to = request.cache_to.iter().map(|(k, a)| carried::to(k, a));
        let cache_to = cache_to.collect::<Result<Vec<_>>>()?;
        let dockerfile = match request.dockerfile_path.as_str() {
            "" => request.dockerfile.to_vec(),
            path => context
                .read(path, slipway_dockerfile::MAX_SIZE)
                .await?
                .ok_or_else(|| {
                    Error::Dockerfile(format!(
                        "failed to read dockerfile: open {path}: no such file or directory"
                    ))
                })?,
        };
        let mut contexts = BTreeMap::new();
        for name in &request.contexts {
            contexts.insert(name.clone(), Base::Context(name.clone()));
        }
        for (name, url) in request
            .remote_contexts
            .iter()
            .filter(|(n, _)| !n.is_empty())
        {
            let base = match url.strip_prefix("docker-image://") {
                Some(image) => Base::Image(image.to_owned()),
                None => Base::Context(name.clone()),
            };
            contexts.insert(name.clone(), base);
        }
        let file =
            Dockerfile::parse(&request.dockerfile_name, &dockerfile).map_err(Error::Dockerfile)?;
        if let Some(syntax) = request.build_args.get("BUILDKIT_SYNTAX")
            && !Dockerfile::understands(syntax)
        {
            return Err(Error::Unsupported(format!(
                "the front end BUILDKIT_SYNTAX={syntax} is not supported: only docker/dockerfile is, and it is built in"
            )));
        }
        let latest = epoch(&file, &Self::looked_at(&request, &contexts))?;
        let outputs = outputs(&request, &names, latest)?;
        if request.attest.any() {
            outputs.iter().try_for_each(Output::takes_attestations)?;
        }
        if request.call == Call::Targets {
            return Ok(Outcome::answer(report::targets(&file)));
        }
        if request.call == Call::Outline {
            let options = Self::looked_at(&request, &contexts);
            let walk = self.walk(&file, &request, &options, Config::default());
            let outline = walk.outline(&self.registry).await?;
            return Ok(Outcome::answer(outline.answer(&file)));
        }
        if request.attest.sbom {
            sbom::check(&file, &request.build_args)?;
        }
        let lint = check::config(&file, &request.build_args)?;
        if request.call == Call::Check || lint.error {
            let (found, failed) = self.check(&file, &request, &contexts, lint.clone()).await;
            if request.call == Call::Check {
                let failed = failed.map(|e| e.to_string());
                return Ok(Outcome::answer(report::check(
                    &file,
                    &found,
                    failed.as_deref(),
                )));
            }
            if !found.is_empty() {
                let message = violation(&found);
                events.advise(found).await;
                return Err(Error::Invalid(message));
            }
        }
        let title = match tags.first() {
            Some(tag) => format!("build of {tag}"),
            None => format!("build of {}", request.dockerfile_name),
        };
        let progress = Arc::new(Progress::new(
            Leases::new(self.fleet.clone(), title),
            self.permits.clone(),
            self.turns.clone(),
            self.cache.uses.held(),
        ));
        let several = request.platforms.len() > 1;
        let mut platforms: Vec<Option<Platform>> =
            request.platforms.iter().cloned().map(Some).collect();
        if platforms.is_empty() {
            platforms.push(None);
        }
        let fetch = Fetch {
            always: request.pull,
            platform: None,
            auths: request.auths.clone(),
        };
        let imported = Arc::new(self.import(&sources, &fetch, &events).await);
        let mut solvers = Vec::new();
        for (number, platform) in platforms.into_iter().enumerate() {
            let options = Options {
                build_args: request.build_args.clone(),
                target: request.target.clone(),
                platform,
                every: false,
                contexts: contexts.clone(),
            };
            let plan = plan::plan(&file, &options)?;
            if number == 0 {
                events
                    .advise(check::of_file(&file, &options, lint.clone())?)
                    .await;
            }
            let unused = plan::unused_arguments(&file, &options);
            if number == 0 && !unused.is_empty() {
                let message = format!("One or more build-args {unused:?} were not consumed");
                let warning = Event::Warning {
                    rule: "UnusedBuildArg",
                    message,
                    line: 0,
                };
                events.tell(warning).await;
            }
            let shown = options.platform.as_ref().filter(|_| several);
            solvers.push(Arc::new(Solver {
                given: Given {
                    build_args: options.build_args,
                    global: plan.global.clone(),
                },
                file: file.clone(),
                lint: (number == 0).then(|| lint.clone()),
                plan,
                fetch: fetch.clone(),
                imported: imported.clone(),
                settings: request.settings.clone(),
                no_cache: request.no_cache.clone(),
                latest,
                registry: self.registry.clone(),
                cache: self.cache.clone(),
                context: context.clone(),
                caller: caller.clone(),
                events: events.for_platform(shown),
                progress: progress.clone(),
                platform: options.platform,
                sources: request.attest.any().then(Arc::default),
            }));
        }
        let results = solve(solvers).await?;
        events.tell(Event::NeedNoMore).await;
        let records = progress.records();
        let asked = provenance::Asked::of(&request, &context, &file, (id, started));
        let predicates = self.predicates(&request, &asked, &results, &progress, &events);
        let predicates = predicates.await?;
        let exporter = Exporter {
            predicates: &predicates,
            registry: &self.registry,
            cache: &self.cache,
            events: &events,
            results: &results,
            labels: &request.labels,
            inline: match cache_to.iter().any(|to| to.kind == carried::Kind::Inline) {
                true => &records,
                false => &[],
            },
            auths: &request.auths,
            latest,
        };
        let mut image = None;
        for (number, output) in (0..).zip(&outputs) {
            let index = progress.indexes(1);
            let exported = exporter.export(output, number, index).await?;
            if image.is_none()
                && let Some(exported) = exported
            {
                image = Some((exported, output.names.clone()));
            }
        }
        let mut mounts = Vec::new();
        if cache_to.iter().any(|to| to.mounts) {
            let index = progress.indexes(1);
            let mounts_of_build = progress.mounts();
            mounts = self
                .carry_mounts(&mounts_of_build, &imported, &events, index)
                .await?;
        }
        // Behind those that the caller numbered.
        let first = u32::try_from(request.outputs.len()).unwrap_or(u32::MAX);
        for (number, to) in (first..).zip(&cache_to) {
            let index = progress.indexes(1);
            exporter
                .cache(to, &records, &mounts, (number, index))
                .await?;
        }
        let (steps, cached) = progress.counts();
        let (image, names) = image.map_or((None, names), |(image, names)| (Some(image), names));
        Ok(Outcome {
            metadata: metadata(id, image.as_ref(), &names),
            image,
            tags: names.iter().map(ToString::to_string).collect(),
            steps,
            cached,
        })
    }

    /// What is said of each result.
    async fn predicates(
        &self,
        request: &Request,
        asked: &provenance::Asked<'_>,
        results: &[Made],
        progress: &Progress,
        events: &Events,
    ) -> Result<Vec<Vec<Predicate>>> {
        let name = request.tags.first().unwrap_or(&request.dockerfile_name);
        let scanner = Scanner {
            registry: &self.registry,
            cache: &self.cache,
        };
        let mut all = Vec::new();
        for made in results {
            let mut of = Vec::new();
            if request.attest.sbom {
                let built = &made.built;
                let created = built.config.created.as_deref().unwrap_or_default();
                let name_of_step = match results.len() {
                    1 => "generating sbom".to_owned(),
                    _ => format!("[{}] generating sbom", made.platform),
                };
                let listing = scanner.predicate(&built.layers, name, created);
                let step = (progress.indexes(1), name_of_step);
                of.push(events.step(step, listing).await?);
            }
            if let Some(wanted) = &request.attest.provenance {
                let notes = made.solver.sources.as_ref().map(|s| s.notes());
                let notes = notes.unwrap_or_default();
                of.push(provenance::predicate(wanted, asked, &notes));
            }
            all.push(of);
        }
        Ok(all)
    }
}

/// The outputs that were asked for; an image when there are none.
fn outputs(request: &Request, names: &[Reference], latest: Option<i64>) -> Result<Vec<Output>> {
    let mut annotations = Annotations::default();
    for (key, value) in &request.annotations {
        annotations.option(key, value)?;
    }
    let parse = |(kind, attributes): &(String, BTreeMap<String, String>)| {
        Output::parse(kind, attributes, names, annotations.clone(), latest)
    };
    match request.outputs.is_empty() {
        true => Ok(vec![parse(&(String::new(), BTreeMap::new()))?]),
        false => request.outputs.iter().map(parse).collect(),
    }
}

/// Builds all platforms at once. Dropping the future stops them.
async fn solve(solvers: Vec<Arc<Solver>>) -> Result<Vec<Made>> {
    let mut running = JoinSet::new();
    for (number, solver) in solvers.into_iter().enumerate() {
        running.spawn(async move {
            let built = solver.solve().await?;
            let config = &built.config;
            let platform = Platform::new(
                &config.os,
                &config.architecture,
                config.variant.as_deref().unwrap_or_default(),
            );
            let platform = solver.platform.clone().unwrap_or(platform);
            let made = Made {
                platform,
                built,
                solver,
            };
            Ok::<_, Error>((number, made))
        });
    }
    let mut done = BTreeMap::new();
    while let Some(ended) = running.join_next().await {
        let ended = ended.map_err(|e| Error::Invalid(format!("the build was interrupted: {e}")))?;
        let (number, made) = ended?;
        done.insert(number, made);
    }
    Ok(done.into_values().collect())
}
