//! `--call=outline`: what a build of a target takes (BuildKit's `dockerfile2llb/outline.go`, printed as its
//! `frontend/subrequests/outline` does).

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use slipway_dockerfile::{Dockerfile, Instruction, Located, Place, expand::expand, mount};
use slipway_image::ImageConfig;

use super::{
    Walk, at,
    report::{Answer, description, table},
};
use crate::{
    error::Result,
    plan::{self, Base, StagePlan, StageState, stage::Given, variables::Inherited},
    registry::Registry,
};

/// What a build takes, each with the place where it is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    name: String,
    description: String,
    arguments: Vec<Argument>,
    secrets: Vec<Needed>,
    agents: Vec<Needed>,
}

/// A build argument.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Argument {
    name: String,
    value: String,
    description: String,
    place: Place,
}

/// A secret or an ssh agent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Needed {
    name: String,
    required: bool,
    place: Place,
}

/// The `ARG`s in front of the first FROM: what they are, and which others their values take.
struct Globals {
    known: BTreeMap<String, (Argument, BTreeSet<String>)>,
    used: BTreeSet<String>,
}

impl Globals {
    fn of(file: &Dockerfile, values: &BTreeMap<String, String>) -> Result<Self> {
        let mut known = BTreeMap::new();
        for located in &file.arguments {
            let Instruction::Arg(arguments) = &located.instruction else {
                continue;
            };
            for (name, default) in arguments {
                let value = values.get(name).cloned().unwrap_or_default();
                let takes = match default {
                    Some(text) => names(text, file, values, located.place)?,
                    None => BTreeSet::new(),
                };
                let argument = Argument::new(located, name, value);
                known.insert(name.clone(), (argument, takes));
            }
        }
        Ok(Self {
            known,
            used: BTreeSet::new(),
        })
    }

    fn mark(&mut self, names: BTreeSet<String>) {
        let mut todo: Vec<String> = names.into_iter().collect();
        while let Some(name) = todo.pop() {
            if self.used.insert(name.clone())
                && let Some((_, takes)) = self.known.get(&name)
            {
                todo.extend(takes.iter().cloned());
            }
        }
    }
}

impl Argument {
    fn new(located: &Located, name: &str, value: String) -> Self {
        Self {
            name: name.to_owned(),
            value,
            description: description(name, &located.around.comments),
            place: located.place,
        }
    }
}

/// Names of the variables that a word asks for.
fn names(
    text: &str,
    file: &Dockerfile,
    values: &BTreeMap<String, String>,
    place: Place,
) -> Result<BTreeSet<String>> {
    let asked = RefCell::new(BTreeSet::new());
    let lookup = |name: &str| {
        asked.borrow_mut().insert(name.to_owned());
        values.get(name).cloned()
    };
    expand(text, file.escape, &lookup).map_err(|e| at(file, place, &e))?;
    Ok(asked.into_inner())
}

/// Stages that are done: their configs and variables.
type Done = BTreeMap<usize, (ImageConfig, Inherited)>;

impl Walk<'_> {
    /// What the target takes.
    pub async fn outline(&self, registry: &Registry) -> Result<Outline> {
        let plan = plan::plan(self.file, self.options)?;
        let mut globals = Globals::of(self.file, &plan.global)?;
        let mut outline = Outline::default();
        let mut done = Done::new();
        let given = Given {
            build_args: self.options.build_args.clone(),
            global: plan.global.clone(),
        };
        for stage in &plan.stages {
            let written = &self.file.stages[stage.index];
            let words = [Some(&written.from.base), written.from.platform.as_ref()];
            for word in words.into_iter().flatten() {
                globals.mark(names(word, self.file, &plan.global, written.place)?);
            }
            let (config, inherited) = self.base(stage, &done, registry).await?;
            let mut state = StageState::new(config, inherited, self.file.escape);
            for located in &written.instructions {
                state
                    .read(&located.instruction, &given)
                    .map_err(|e| at(self.file, located.place, &e))?;
                match &located.instruction {
                    Instruction::Arg(arguments) => {
                        outline.declare(arguments, located, &state, &given, &mut globals);
                    }
                    Instruction::Run(run) => {
                        let expanded = |text: &str| {
                            let lookup =
                                |name: &str| state.variables().get(name).map(str::to_owned);
                            expand(text, self.file.escape, &lookup)
                        };
                        for text in &run.mounts {
                            let mount = mount::parse(text, &expanded)
                                .map_err(|e| at(self.file, located.place, &e))?;
                            outline.mount(&mount, located.place);
                        }
                    }
                    _ => {}
                }
            }
            done.insert(stage.index, state.finish());
            // The target is the last.
            outline.name = written.from.name.clone().unwrap_or_default();
            outline.description = description(&outline.name, &written.around.comments);
        }
        let Globals { known, used } = globals;
        for (name, (argument, _)) in known {
            if used.contains(&name) && !outline.arguments.iter().any(|a| a.name == name) {
                outline.arguments.push(argument);
            }
        }
        outline.arguments.sort_by_key(|a| a.place.first);
        outline.secrets.sort_by_key(|s| s.place.first);
        outline.agents.sort_by_key(|s| s.place.first);
        Ok(outline)
    }

    /// What a stage begins with.
    pub(super) async fn base(
        &self,
        stage: &StagePlan,
        done: &Done,
        registry: &Registry,
    ) -> Result<(ImageConfig, Inherited)> {
        Ok(match &stage.base {
            Base::Scratch | Base::Context(_) => (ImageConfig::default(), Inherited::default()),
            Base::Stage(other) => done.get(other).cloned().unwrap_or_default(),
            Base::Image(name) => {
                let mut fetch = self.fetch.clone();
                fetch.platform = stage.platform.clone().or(self.options.platform.clone());
                let place = self.file.stages[stage.index].place;
                let image = registry.image(name, &fetch).await;
                let image = image.map_err(|e| at(self.file, place, &e.to_string()))?;
                (image.config, Inherited::default())
            }
        })
    }
}

impl Outline {
    /// An `ARG` of a stage. One that takes its value from in front of the first FROM is told as that one.
    fn declare(
        &mut self,
        arguments: &[(String, Option<String>)],
        located: &Located,
        state: &StageState,
        given: &Given,
        globals: &mut Globals,
    ) {
        for (name, default) in arguments {
            globals.mark([name.clone()].into());
            let inherited = default.is_none()
                && !given.build_args.contains_key(name)
                && given.global.contains_key(name);
            if inherited || self.arguments.iter().any(|a| a.name == *name) {
                continue;
            }
            let value = state.variables().get(name).unwrap_or_default();
            self.arguments
                .push(Argument::new(located, name, value.to_owned()));
        }
    }

    fn mount(&mut self, mount: &mount::Mount, place: Place) {
        let (list, name) = match mount.kind {
            // As the step names it.
            mount::Kind::Secret => {
                let own = mount.target.rsplit('/').next();
                let names = [&mount.source, &mount.id].map(String::as_str);
                let given = names.into_iter().find(|name| !name.is_empty());
                (&mut self.secrets, given.or(own).unwrap_or_default())
            }
            mount::Kind::Ssh if mount.id.is_empty() => (&mut self.agents, "default"),
            mount::Kind::Ssh => (&mut self.agents, mount.id.as_str()),
            _ => return,
        };
        if !list.iter().any(|n| n.name == name) {
            list.push(Needed {
                name: name.to_owned(),
                required: mount.required,
                place,
            });
        }
    }

    /// As docker prints it.
    pub fn answer(&self, file: &Dockerfile) -> Answer {
        let mut text = String::new();
        if !self.name.is_empty() {
            let mut rows = vec![["TARGET:", &self.name]];
            if !self.description.is_empty() {
                rows.push(["DESCRIPTION:", &self.description]);
            }
            text.push_str(&(table(&rows, 1) + "\n"));
        }
        if !self.arguments.is_empty() {
            let mut rows = vec![["BUILD ARG", "VALUE", "DESCRIPTION"]];
            rows.extend(
                self.arguments
                    .iter()
                    .map(|a| [a.name.as_str(), &a.value, &a.description]),
            );
            text.push_str(&(table(&rows, 3) + "\n"));
        }
        for (title, list) in [("SECRET", &self.secrets), ("SSH", &self.agents)] {
            if !list.is_empty() {
                let mut rows = vec![[title, "REQUIRED"]];
                let required = |n: &Needed| if n.required { "true" } else { "" };
                rows.extend(list.iter().map(|n| [n.name.as_str(), required(n)]));
                text.push_str(&(table(&rows, 3) + "\n"));
            }
        }
        let mut out = json!({});
        for (key, value) in [("name", &self.name), ("description", &self.description)] {
            if !value.is_empty() {
                out[key] = json!(value);
            }
        }
        for (key, list) in [
            (
                "args",
                self.arguments
                    .iter()
                    .map(Argument::json)
                    .collect::<Vec<_>>(),
            ),
            ("secrets", self.secrets.iter().map(Needed::json).collect()),
            ("ssh", self.agents.iter().map(Needed::json).collect()),
        ] {
            if !list.is_empty() {
                out[key] = Value::Array(list);
            }
        }
        out["sources"] = json!([BASE64_STANDARD.encode(&file.source)]);
        Answer {
            text,
            json: format!("{out:#}"),
            status: 0,
        }
    }
}

fn location(place: Place) -> Value {
    json!({"ranges": [{"start": {"line": place.first}, "end": {"line": place.last}}]})
}

impl Argument {
    fn json(&self) -> Value {
        let mut out = json!({"name": self.name, "location": location(self.place)});
        for (key, value) in [("description", &self.description), ("value", &self.value)] {
            if !value.is_empty() {
                out[key] = json!(value);
            }
        }
        out
    }
}

impl Needed {
    fn json(&self) -> Value {
        let mut out = json!({"name": self.name, "location": location(self.place)});
        if self.required {
            out["required"] = json!(true);
        }
        out
    }
}
