//! `--check`: what a Dockerfile does that is allowed and yet not advisable, without building anything.
//!
//! * this file: the walk over all stages, with the configs of their bases;
//! * [`report`]: findings as docker prints them;
//! * [`outline`]: what a build takes.

pub mod outline;
pub mod report;

use std::collections::BTreeMap;

use slipway_dockerfile::{
    Dockerfile, Located, Place,
    lint::{
        Config, Findings, Warning, file, froms,
        stage::{StageLint, Surroundings},
    },
    parse,
};
use slipway_image::{Platform, Reference};
use slipway_pattern::PatternList;

use crate::{
    error::{Error, Result},
    plan::{
        self, Options, StageState,
        stage::Given,
        variables::{self, DISABLE_ONBUILD, says_yes},
    },
    registry::{Fetch, Registry},
};

/// Which rules count: what the caller says counts before the file.
pub fn config(file: &Dockerfile, build_args: &BTreeMap<String, String>) -> Result<Config> {
    let config = match (build_args.get("BUILDKIT_DOCKERFILE_CHECK"), &file.check) {
        (Some(text), _) => Config::parse(text).map_err(Error::Invalid)?,
        (None, Some((text, line))) => {
            let place = Place {
                first: *line,
                last: *line,
            };
            Config::parse(text).map_err(|e| Error::Dockerfile(file.error(place, &e)))?
        }
        (None, None) => Config::default(),
    };
    Ok(config.with_comments(file))
}

/// What the file and its FROMs tell.
pub fn of_file(file: &Dockerfile, options: &Options, config: Config) -> Result<Vec<Warning>> {
    let mut findings = Findings::new(config);
    file::check(file, &mut findings);
    let globals = froms::Globals {
        predefined: &variables::platform_arguments(file, options),
        values: &variables::global(file, options)?,
        is_image: &|name| name == "scratch" || name.parse::<Reference>().is_ok(),
        platform: &|text| {
            let platform: Platform = text.parse().ok()?;
            Some((platform.os, platform.architecture))
        },
    };
    froms::check(file, &globals, &mut findings);
    Ok(findings.take())
}

/// What the next instruction of a stage tells; `state` is as it was in front of it.
pub fn of_instruction(
    lint: &mut StageLint,
    located: &Located,
    state: &StageState,
    given: &BTreeMap<String, String>,
    escape: char,
    ignored: &dyn Fn(&str) -> bool,
    findings: &mut Findings,
) {
    let variables = state.variables();
    let around = Surroundings {
        lookup: &|name| variables.get(name).map(str::to_owned),
        names: &|| variables.names().into_iter().map(str::to_owned).collect(),
        declares: &|name| variables.declares(name),
        given: &|name| given.contains_key(name),
        own_shell: !state.config.config.shell.is_empty(),
        ignored,
    };
    lint.see(located, &around, escape, findings);
}

/// Everything, stage by stage: all of them when no target is named, as BuildKit does.
pub struct Walk<'a> {
    /// The Dockerfile.
    pub file: &'a Dockerfile,
    /// The caller's options.
    pub options: &'a Options,
    /// Which rules count.
    pub config: Config,
    /// How base images are fetched.
    pub fetch: Fetch,
    /// The context's `.dockerignore`.
    pub ignore: &'a str,
}

impl Walk<'_> {
    /// The findings, and why the file cannot be built if it cannot.
    pub async fn run(&self, registry: &Registry) -> (Vec<Warning>, Option<Error>) {
        let mut found = match of_file(self.file, self.options, self.config.clone()) {
            Ok(found) => found,
            Err(error) => return (Vec::new(), Some(error)),
        };
        let failed = self.stages(registry, &mut found).await.err();
        found.sort_by_key(|w| w.place.first);
        (found, failed)
    }

    async fn stages(&self, registry: &Registry, found: &mut Vec<Warning>) -> Result<()> {
        let plan = plan::plan(self.file, self.options)?;
        let patterns = PatternList::of_file(self.ignore).ok();
        // What a pattern brings back is beyond a look at names.
        let back = self.ignore.lines().any(|p| p.trim().starts_with('!'));
        let ignored = |path: &str| {
            let path = path.trim_start_matches("./").trim_matches('/');
            !back && patterns.as_ref().is_some_and(|list| list.matches(path))
        };
        let given = Given {
            build_args: self.options.build_args.clone(),
            global: plan.global.clone(),
        };
        let mut findings = Findings::new(self.config.clone());
        let mut done = BTreeMap::new();
        for stage in &plan.stages {
            let written = &self.file.stages[stage.index];
            let (mut config, inherited) = self.base(stage, &done, registry).await?;
            let mut triggers = Vec::new();
            let mut texts = std::mem::take(&mut config.config.on_build);
            if says_yes(&given.build_args, DISABLE_ONBUILD) {
                texts.clear();
            }
            for text in texts {
                let (text, instruction) = parse::trigger(&text).map_err(|e| {
                    at(
                        self.file,
                        written.place,
                        &format!("the base's trigger ONBUILD {text}: {e}"),
                    )
                })?;
                triggers.push(Located {
                    place: written.place,
                    text,
                    instruction,
                    around: slipway_dockerfile::Around::default(),
                });
            }
            let mut lint = StageLint::new(inherited.workdir_set);
            let mut state = StageState::new(config, inherited, self.file.escape);
            for located in triggers.iter().chain(&written.instructions) {
                let args = &self.options.build_args;
                of_instruction(
                    &mut lint,
                    located,
                    &state,
                    args,
                    self.file.escape,
                    &ignored,
                    &mut findings,
                );
                found.extend(findings.take());
                state
                    .read(&located.instruction, &given)
                    .map_err(|e| at(self.file, located.place, &e))?;
            }
            done.insert(stage.index, state.finish());
        }
        Ok(())
    }
}

fn at(file: &Dockerfile, place: Place, message: &str) -> Error {
    Error::Dockerfile(file.error(place, message))
}
