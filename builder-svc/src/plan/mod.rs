//! From a Dockerfile to what must be done: which stages, in which order, and what each line means.
//!
//! * this file: the graph of stages that a target needs;
//! * [`copy`] and [`chmod`]: COPY and ADD;
//! * [`stage`]: a stage's state while its instructions are read, and the [`action`] that each asks for;
//! * [`mounts`]: those of a RUN;
//! * [`variables`]: arguments and environment;
//! * [`epoch`]: the time of a reproducible build;
//! * [`values`]: paths, modes, ports.
//!
//! Architecture invariant: everything here is a pure function of the Dockerfile, the caller's options
//! and the configs of base images. Nothing is fetched or run.

pub mod action;
pub mod chmod;
pub mod copy;
pub mod epoch;
pub mod mounts;
pub mod stage;
pub mod values;
pub mod variables;

use std::collections::{BTreeMap, BTreeSet};

use slipway_dockerfile::{Dockerfile, Instruction, expand::expand, mount, suggest::suggestion};
use slipway_image::{Platform, Reference};

pub use action::{Action, RunAction};
pub use chmod::Chmod;
pub use copy::CopyAction;
pub use stage::StageState;

use crate::error::{Error, Result};

/// What the caller chose.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `--build-arg`
    pub build_args: BTreeMap<String, String>,
    /// `--target`; "" = the last stage.
    pub target: String,
    /// Platform to build for.
    pub platform: Option<Platform>,
    /// All stages are planned, not only those that the target needs; for checks.
    pub every: bool,
    /// `--build-context`, by name.
    pub contexts: BTreeMap<String, Base>,
}

/// What a stage is built upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// An image.
    Image(String),
    /// The files of a named context.
    Context(String),
}

/// A stage that the target needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagePlan {
    /// Place in the Dockerfile's list.
    pub index: usize,
    /// As in `[build 2/5]`; "" when the Dockerfile has a single, unnamed stage.
    pub title: String,
    /// What it is built upon.
    pub base: Base,
    /// `--platform` of its FROM.
    pub platform: Option<Platform>,
    /// Where the files of each `COPY --from` come from, by the text of the option.
    pub sources: BTreeMap<String, Base>,
    /// Steps that are shown: the base and what changes files.
    pub steps: u32,
}

/// What must be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Stages in an order in which each comes after those that it needs; the target is the last.
    pub stages: Vec<StagePlan>,
    /// Values of the `ARG`s in front of the first FROM.
    pub global: BTreeMap<String, String>,
}

impl Plan {
    /// Whether another stage is built upon this one, or takes files from it.
    pub fn uses(&self, index: usize) -> bool {
        let this = Base::Stage(index);
        let mut stages = self.stages.iter();
        stages.any(|s| s.base == this || s.sources.values().any(|source| *source == this))
    }
}

/// Plans a build.
pub fn plan(file: &Dockerfile, options: &Options) -> Result<Plan> {
    let global = variables::global(file, options)?;
    let names: BTreeMap<&str, usize> = file
        .stages
        .iter()
        .enumerate()
        .filter_map(|(i, s)| Some((s.from.name.as_deref()?, i)))
        .collect();
    let target = target(file, &names, &options.target)?;
    let mut wanted = vec![target];
    if options.every {
        wanted.extend(0..file.stages.len());
    }
    let mut planned: BTreeMap<usize, StagePlan> = BTreeMap::new();
    while let Some(index) = wanted.pop() {
        if planned.contains_key(&index) {
            continue;
        }
        let stage = stage_plan(file, &names, &global, &options.contexts, index)?;
        let needs = std::iter::once(&stage.base).chain(stage.sources.values());
        wanted.extend(needs.filter_map(|base| match base {
            Base::Stage(other) => Some(*other),
            _ => None,
        }));
        planned.insert(index, stage);
    }
    // Stages refer to earlier ones only, so the order of the file serves; the target is the highest.
    Ok(Plan {
        stages: planned.into_values().collect(),
        global,
    })
}

fn target(file: &Dockerfile, names: &BTreeMap<&str, usize>, wanted: &str) -> Result<usize> {
    let last = file.stages.len() - 1;
    if wanted.is_empty() {
        return Ok(last);
    }
    let lower = wanted.to_ascii_lowercase();
    names
        .get(lower.as_str())
        .copied()
        .or_else(|| lower.parse().ok().filter(|n| *n <= last))
        .ok_or_else(|| {
            let options: Vec<&str> = file.stage_names().collect();
            let near = suggestion(&lower, &options)
                .map_or_else(String::new, |near| format!(" (did you mean {near}?)"));
            Error::Invalid(format!("target stage {wanted:?} could not be found{near}"))
        })
}

fn stage_plan(
    file: &Dockerfile,
    names: &BTreeMap<&str, usize>,
    global: &BTreeMap<String, String>,
    contexts: &BTreeMap<String, Base>,
    index: usize,
) -> Result<StagePlan> {
    let stage = &file.stages[index];
    let fail = |message: &str| Error::Dockerfile(file.error(stage.place, message));
    let lookup = |name: &str| global.get(name).cloned();
    let expanded = |text: &str| expand(text, file.escape, &lookup).map_err(|e| fail(&e));
    let base = expanded(&stage.from.base)?;
    if base.is_empty() {
        return Err(fail(&format!(
            "base name ({}) should not be blank: an ARG in front of the first FROM, or --build-arg, must give it a value",
            stage.from.base
        )));
    }
    let platform = match &stage.from.platform {
        None => None,
        Some(text) => Some(
            expanded(text)?
                .parse()
                .map_err(|e| fail(&format!("failed to parse platform {text}: {e}")))?,
        ),
    };
    // A name stands for the last stage of it before this one.
    let earlier = |name: &str| {
        file.stages[..index]
            .iter()
            .rposition(|s| s.from.name.as_deref() == Some(&name.to_ascii_lowercase()))
    };
    let base = match (
        named_context(contexts, &base),
        earlier(&base),
        base.as_str(),
    ) {
        (Some(context), _, _) => context,
        (None, Some(stage), _) => Base::Stage(stage),
        (None, None, "scratch") => Base::Scratch,
        (None, None, name) => Base::Image(name.to_owned()),
    };
    let mut sources = BTreeMap::new();
    let mut steps = 1;
    for located in &stage.instructions {
        let fail = |message: &str| Error::Dockerfile(file.error(located.place, message));
        match &located.instruction {
            Instruction::Workdir(_) => steps += 1,
            Instruction::Run(run) => {
                steps += 1;
                for text in &run.mounts {
                    if let Some(from) = mount::from(text).map_err(|e| fail(&e))? {
                        let source = match named_context(contexts, &from) {
                            Some(context) => context,
                            None => copied_from(file, names, index, &from).map_err(|e| fail(&e))?,
                        };
                        sources.insert(from, source);
                    }
                }
            }
            Instruction::Copy(copy) => {
                steps += 1;
                let Some(from) = &copy.from else { continue };
                if let Some(context) = named_context(contexts, from) {
                    sources.insert(from.clone(), context);
                    continue;
                }
                let source = copied_from(file, names, index, from).map_err(|e| fail(&e))?;
                sources.insert(from.clone(), source);
            }
            _ => {}
        }
    }
    let title = match &stage.from.name {
        Some(name) => name.clone(),
        None if file.stages.len() == 1 => String::new(),
        None => format!("stage-{index}"),
    };
    Ok(StagePlan {
        index,
        title,
        base,
        platform,
        sources,
        steps,
    })
}

/// What a `--from` of a stage means (BuildKit: `toCommand`): the last stage of a name, wherever it
/// stands, or a number; anything else is an image.
fn copied_from(
    file: &Dockerfile,
    names: &BTreeMap<&str, usize>,
    index: usize,
    from: &str,
) -> std::result::Result<Base, String> {
    if expand(from, file.escape, &|_| None)? != from {
        return Err("variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround".to_owned());
    }
    let stage = match from.parse::<usize>() {
        Ok(number) if number < file.stages.len() => number,
        Ok(number) => {
            return Err(format!(
                "invalid stage index {number}: there are {} stages, from 0 on",
                file.stages.len()
            ));
        }
        Err(_) => match names.get(from.to_ascii_lowercase().as_str()) {
            Some(stage) => *stage,
            None if from == "scratch" => return Ok(Base::Scratch),
            None => return Ok(Base::Image(from.to_owned())),
        },
    };
    let title = |index: usize| {
        let name = file.stages[index].from.name.clone();
        name.unwrap_or_else(|| format!("stage-{index}"))
    };
    if stage == index {
        return Err(format!(
            "circular dependency detected on stage: {}",
            title(index)
        ));
    }
    if stage > index {
        return Err(format!(
            "cannot copy from stage {from:?}, it needs to be defined before current stage {:?}",
            title(index)
        ));
    }
    Ok(Base::Stage(stage))
}

/// A named context takes the place of an image or stage of its name; an image may be written in any way.
fn named_context(contexts: &BTreeMap<String, Base>, name: &str) -> Option<Base> {
    if contexts.is_empty() {
        return None;
    }
    if let Some(found) = contexts.get(&name.to_ascii_lowercase()) {
        return Some(found.clone());
    }
    let wanted: Reference = name.parse().ok()?;
    let same = |other: &String| {
        other
            .parse::<Reference>()
            .is_ok_and(|r| r.to_string() == wanted.to_string())
    };
    let mut found = contexts.iter().filter(|(other, _)| same(other));
    found.next().map(|(_, base)| base.clone())
}

/// Names of build arguments that nothing asks for.
pub fn unused_arguments<'a>(file: &Dockerfile, options: &'a Options) -> Vec<&'a str> {
    let stages = file.stages.iter().flat_map(|s| &s.instructions);
    let declared: BTreeSet<&str> = file
        .arguments
        .iter()
        .chain(stages)
        .filter_map(|located| match &located.instruction {
            Instruction::Arg(arguments) => Some(arguments.iter().map(|(name, _)| name.as_str())),
            _ => None,
        })
        .flatten()
        .collect();
    let names = options.build_args.keys().map(String::as_str);
    names
        .filter(|n| !declared.contains(n) && !variables::is_predefined(n))
        .filter(|n| !n.starts_with("BUILDKIT_") && *n != epoch::EPOCH)
        .collect()
}

impl Plan {
    /// Images that the plan needs, each once.
    pub fn images(&self) -> BTreeSet<&str> {
        self.stages
            .iter()
            .flat_map(|s| std::iter::once(&s.base).chain(s.sources.values()))
            .filter_map(|base| match base {
                Base::Image(name) => Some(name.as_str()),
                _ => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(text: &str, options: &Options) -> Result<Plan> {
        plan(
            &Dockerfile::parse("Dockerfile", text.as_bytes()).unwrap(),
            options,
        )
    }

    const FILE: &str = "ARG V=12\nFROM debian:$V AS one\nRUN a\nFROM one AS two\nRUN b\nFROM node AS three\n\
        FROM scratch\nCOPY --from=two /x /\nCOPY --from=0 /x /\nCOPY --from=alpine /x /\n";

    #[test]
    fn only_what_the_target_needs_is_planned() {
        let plan = planned(FILE, &Options::default()).unwrap();
        let indexes: Vec<_> = plan.stages.iter().map(|s| s.index).collect();
        assert_eq!(indexes, [0, 1, 3]);
        assert_eq!(plan.stages[0].base, Base::Image("debian:12".into()));
        assert_eq!(plan.stages[1].base, Base::Stage(0));
        assert_eq!(plan.stages[2].sources["two"], Base::Stage(1));
        assert_eq!(
            plan.stages[2].sources["alpine"],
            Base::Image("alpine".into())
        );
        assert_eq!(
            plan.images().into_iter().collect::<Vec<_>>(),
            ["alpine", "debian:12"]
        );
        let options = Options {
            target: "TWO".into(),
            build_args: [("V".to_owned(), "13".to_owned())].into(),
            ..Options::default()
        };
        let plan = planned(FILE, &options).unwrap();
        assert_eq!(plan.stages.len(), 2);
        assert_eq!(plan.stages[0].base, Base::Image("debian:13".into()));
    }

    #[test]
    fn named_contexts_take_the_place_of_images_and_stages() {
        let files = Base::Context("files".into());
        let debian = Base::Image("other".into());
        let options = Options {
            contexts: [
                ("files".to_owned(), files.clone()),
                ("debian:12".to_owned(), debian.clone()),
            ]
            .into(),
            ..Options::default()
        };
        let text = "FROM docker.io/library/debian:12\nCOPY --from=Files a /\nCOPY --from=x a /\n";
        let plan = planned(text, &options).unwrap();
        assert_eq!(plan.stages[0].base, debian);
        assert_eq!(plan.stages[0].sources["Files"], files);
        assert_eq!(plan.stages[0].sources["x"], Base::Image("x".into()));
        let plan = planned("FROM a AS files\nFROM files\n", &options).unwrap();
        assert_eq!((plan.stages.len(), &plan.stages[0].base), (1, &files));
    }

    #[test]
    fn arguments_that_nothing_asks_for_are_named() {
        let file = Dockerfile::parse("D", b"ARG A\nFROM x\nARG B").unwrap();
        let options = Options {
            build_args: ["A", "B", "C", "no_proxy"]
                .map(|n| (n.to_owned(), String::new()))
                .into(),
            ..Options::default()
        };
        assert_eq!(unused_arguments(&file, &options), ["C"]);
    }

    #[test]
    fn what_cannot_be_planned_says_why() {
        for (text, target, part) in [
            ("FROM a", "none", "could not be found"),
            ("ARG X\nFROM $X", "", "should not be blank"),
            ("FROM a\nCOPY --from=3 x y", "", "invalid stage index"),
            (
                "FROM a\nCOPY --from=b x y\nFROM c AS b",
                "0",
                "it needs to be defined before current stage",
            ),
            (
                "FROM a AS b\nCOPY --from=b x y",
                "",
                "circular dependency detected on stage: b",
            ),
            (
                "FROM a\nCOPY --from=$X x y",
                "",
                "variable expansion is not supported for --from",
            ),
            ("FROM a AS build", "biuld", "did you mean build?"),
            ("FROM --platform=a/b/c/d a", "", "platform"),
        ] {
            let options = Options {
                target: target.into(),
                ..Options::default()
            };
            let error = planned(text, &options).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
