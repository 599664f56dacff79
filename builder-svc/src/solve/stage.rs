//! A stage: its base, then one instruction after the other.

use slipway_dockerfile::{
    Around, Instruction, Located, Place,
    lint::{Findings, Warning, stage::StageLint},
    parse,
    suggest::suggestion,
};
use slipway_image::{ImageConfig, Platform, config::History};

use super::{Built, Results, Solver, result_of, step::Step};
use crate::{
    check::of_instruction,
    error::{Error, Result},
    events::{Event, State, Step as Told},
    layer::Layer,
    plan::{
        Action, Base, StagePlan, StageState,
        variables::{DISABLE_ONBUILD, Inherited, says_yes},
    },
    worker::placing::Home,
};

/// Who is named in a history line's remark.
const COMMENT: &str = "slipway.dockerfile.v1";

impl Solver {
    /// Builds a stage. Its steps have the numbers from `index` on.
    pub(super) async fn stage(
        &self,
        plan: &StagePlan,
        results: &Results,
        mut index: u32,
    ) -> Result<Built> {
        let stage = &self.file.stages[plan.index];
        let platform = plan.platform.as_ref().or(self.platform.as_ref());
        let mut base = self
            .base(plan, results, platform, index)
            .await
            .map_err(|e| self.at(stage.place, e))?;
        self.note_base(plan, stage.place, platform, &base.layers);
        index += 1;
        let mut triggers = std::mem::take(&mut base.config.config.on_build);
        if says_yes(&self.given.build_args, DISABLE_ONBUILD) {
            triggers.clear();
        }
        let triggers = self.triggers(&triggers, stage.place)?;
        let mut extra = self.indexes(files(&triggers));
        let mut layers = base.layers;
        // What a new line of the history says when nothing new was made: the build stays the same.
        // With SOURCE_DATE_EPOCH it is that (reproducible-builds.org), whatever the base says.
        let mut time = match self.latest {
            Some(_) => Some(self.now()),
            None => base.config.created.clone(),
        };
        let mut state = StageState::new(base.config, base.arguments, self.file.escape);
        let mut lint = StageLint::new(state.variables().workdir_set);
        let home = Home::default();
        let mut number = 1;
        let total = plan.steps + files(&triggers);
        let own = stage.instructions.iter().map(|i| (i, false));
        for (located, is_trigger) in triggers.iter().map(|i| (i, true)).chain(own) {
            let fail = |e: Error| self.at(located.place, e);
            let mut shown = state.shown(&located.text, &located.instruction);
            if is_trigger {
                shown.insert_str(0, "ONBUILD ");
            }
            let found = self.advice(&mut lint, located, &state);
            self.events.advise(found).await;
            let (action, text) = state
                .read(&located.instruction, &self.given)
                .map_err(|e| fail(Error::Dockerfile(e)))?;
            let mut line = History {
                created_by: Some(text),
                comment: Some(COMMENT.to_owned()),
                empty_layer: true,
                ..History::default()
            };
            if action != Action::None {
                number += 1;
                let next = if is_trigger { &mut extra } else { &mut index };
                let step = Step {
                    index: *next,
                    name: title(plan, number, total, &shown),
                    action: &action,
                    plan,
                    results,
                    line: line.created_by.as_deref().unwrap_or_default(),
                    home: &home,
                    more: number < total || self.plan.uses(plan.index),
                };
                *next += 1;
                let record = self.step(&step, &layers).await.map_err(fail)?;
                self.note_step(&step, (number, located.place), record.layer.as_ref());
                time = Some(record.created);
                if let Some(layer) = record.layer {
                    layers.push(layer);
                    line.empty_layer = false;
                }
            }
            line.created.clone_from(&time);
            // As BuildKit: a trigger is in the config, and changes nothing here.
            if !matches!(located.instruction, Instruction::OnBuild(_)) {
                state.config.history.push(line);
            }
        }
        let (mut config, arguments) = state.finish();
        config.created = time;
        config.rootfs.diff_ids = layers.iter().map(|l| l.diff_id.clone()).collect();
        Ok(Built {
            config,
            layers,
            arguments,
        })
    }

    /// What the stage is built upon. An image is a step of its own.
    async fn base(
        &self,
        plan: &StagePlan,
        results: &Results,
        platform: Option<&Platform>,
        index: u32,
    ) -> Result<Built> {
        match &plan.base {
            Base::Scratch => Ok(scratch(platform)),
            Base::Stage(other) => Ok((*result_of(results, *other).await?).clone()),
            Base::Context(name) => Ok(Built {
                layers: self.context_layers(name).await?,
                ..scratch(platform)
            }),
            Base::Image(name) => {
                let mut step = Told {
                    index,
                    name: title(plan, 1, plan.steps, &format!("FROM {name}")),
                    state: State::Started,
                    started: std::time::SystemTime::now(),
                };
                self.events.tell(Event::Step(step.clone())).await;
                let begun = std::time::Instant::now();
                let found = self.image(name, platform).await;
                step.state = match &found {
                    Ok(_) => State::Done(begun.elapsed()),
                    Err(error) => State::Failed(begun.elapsed(), error.to_string()),
                };
                self.events.tell(Event::Step(step)).await;
                found
            }
        }
    }

    /// An image to build upon or to copy from.
    async fn image(&self, name: &str, platform: Option<&Platform>) -> Result<Built> {
        let mut fetch = self.fetch.clone();
        fetch.platform = platform.cloned();
        let image = self.registry.image(name, &fetch).await;
        let image = image.map_err(|e| self.perhaps_a_stage(name, e))?;
        if let Some(sources) = &self.sources {
            sources.image(name, platform, &image.digest);
        }
        Ok(Built {
            config: image.config,
            layers: image.layers,
            arguments: Inherited::default(),
        })
    }

    /// The files of a `COPY --from`.
    pub(super) async fn source(
        &self,
        plan: &StagePlan,
        results: &Results,
        from: &str,
    ) -> Result<Vec<Layer>> {
        match plan.sources.get(from) {
            Some(Base::Context(name)) => self.context_layers(name).await,
            Some(Base::Stage(index)) => Ok(result_of(results, *index).await?.layers.clone()),
            Some(Base::Image(name)) => {
                let platform = plan.platform.as_ref().or(self.platform.as_ref());
                Ok(self.image(name, platform).await?.layers)
            }
            // A trigger of the base's, which the plan has not seen.
            None if from != "scratch" => self.source_of_trigger(results, from).await,
            _ => Ok(Vec::new()),
        }
    }

    /// What a `--from` of a trigger means: a stage of this file, if it is built at all, or an image.
    async fn source_of_trigger(&self, results: &Results, from: &str) -> Result<Vec<Layer>> {
        let mut stages = self.file.stages.iter();
        let named =
            stages.rposition(|s| s.from.name.as_deref() == Some(&from.to_ascii_lowercase()));
        match named.or_else(|| from.parse().ok()) {
            Some(index) if results.contains_key(&index) => {
                Ok(result_of(results, index).await?.layers.clone())
            }
            Some(_) => Err(Error::Dockerfile(format!(
                "the base's trigger copies from stage {from:?}, which nothing else in front of this stage needs: name it in a COPY --from of this stage, too"
            ))),
            None => Ok(self.image(from, self.platform.as_ref()).await?.layers),
        }
    }

    /// What is not advisable about an instruction.
    fn advice(&self, lint: &mut StageLint, located: &Located, state: &StageState) -> Vec<Warning> {
        let Some(config) = &self.lint else {
            return Vec::new();
        };
        let mut findings = Findings::new(config.clone());
        let (args, escape) = (&self.given.build_args, self.file.escape);
        // The caller applies the ignore rules: here nobody knows them.
        let ignored = |_: &str| false;
        of_instruction(lint, located, state, args, escape, &ignored, &mut findings);
        findings.take()
    }

    /// An image that is not there was perhaps meant as a stage.
    fn perhaps_a_stage(&self, name: &str, error: Error) -> Error {
        let stages: Vec<&str> = self.file.stage_names().collect();
        match suggestion(name, &stages) {
            Some(near) => Error::Invalid(format!("{error} (did you mean {near}?)")),
            None => error,
        }
    }

    /// The base's ONBUILD lines as instructions of this stage.
    fn triggers(&self, lines: &[String], place: Place) -> Result<Vec<Located>> {
        lines
            .iter()
            .map(|text| {
                let (text, instruction) = parse::trigger(text).map_err(|e| {
                    self.at(
                        place,
                        Error::Dockerfile(format!("the base's trigger ONBUILD {text}: {e}")),
                    )
                })?;
                Ok(Located {
                    place,
                    text,
                    instruction,
                    around: Around::default(),
                })
            })
            .collect()
    }

    /// An error with its place, unless it has one.
    pub(super) fn at(&self, place: Place, source: Error) -> Error {
        if matches!(source, Error::At { .. }) {
            return source;
        }
        Error::At {
            text: self.file.error(place, &source.to_string()),
            source: Box::new(source),
        }
    }
}

/// How many of these change files.
fn files(instructions: &[Located]) -> u32 {
    use slipway_dockerfile::Instruction::{Copy, Run, Workdir};
    let changing = |i: &&Located| matches!(i.instruction, Run(_) | Copy(_) | Workdir(_));
    u32::try_from(instructions.iter().filter(changing).count()).unwrap_or(u32::MAX)
}

fn title(plan: &StagePlan, number: u32, total: u32, text: &str) -> String {
    let space = if plan.title.is_empty() { "" } else { " " };
    format!("[{}{space}{number}/{total}] {text}", plan.title)
}

fn scratch(platform: Option<&Platform>) -> Built {
    let platform = platform.cloned().unwrap_or_else(Platform::host);
    Built {
        config: ImageConfig {
            os: platform.os,
            architecture: platform.architecture,
            variant: Some(platform.variant).filter(|v| !v.is_empty()),
            ..ImageConfig::default()
        },
        layers: Vec::new(),
        arguments: Inherited::default(),
    }
}
