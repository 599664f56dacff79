//! What a stage's steps are noted as, where provenance is asked for: in the words of BuildKit's operations
//! (solver/pb/ops.proto), as far as a Dockerfile's have such.

use serde_json::{Value, json};
use slipway_dockerfile::Place;
use slipway_image::Platform;

use super::{Solver, step::Step};
use crate::{
    attest::sources::{Input, Step as Noted},
    context::fetch::redacted,
    layer::Layer,
    plan::{Action, Base, CopyAction, RunAction, StagePlan, copy::Origin},
};

impl Solver {
    /// Notes what a stage is built upon.
    pub(super) fn note_base(
        &self,
        plan: &StagePlan,
        place: Place,
        platform: Option<&Platform>,
        layers: &[Layer],
    ) {
        let Some(sources) = &self.sources else { return };
        let input = match &plan.base {
            Base::Scratch => return,
            base => self.input(base, platform),
        };
        let layers = match plan.base {
            Base::Image(_) => layers.iter().map(|l| l.descriptor.clone()).collect(),
            _ => Vec::new(),
        };
        let step = Noted {
            op: Value::Null,
            inputs: vec![input],
            place,
            layers,
        };
        sources.step(plan.index, 1, step);
    }

    /// Notes a step that is done, whether it was cached or not.
    pub(super) fn note_step(
        &self,
        step: &Step<'_>,
        (number, place): (u32, Place),
        layer: Option<&Layer>,
    ) {
        let Some(sources) = &self.sources else { return };
        let platform = step.plan.platform.as_ref().or(self.platform.as_ref());
        let mut inputs = vec![Input::Before];
        let from = |name: &String| {
            let base = step.plan.sources.get(name)?;
            (*base != Base::Scratch).then(|| self.input(base, platform))
        };
        let op = match step.action {
            Action::None => return,
            Action::MakeFolder { path, .. } => {
                let folder =
                    json!({"path": path, "mode": 0o755, "makeParents": true, "timestamp": -1});
                json!({"Op": {"file": {"actions": [{"Action": {"mkdir": folder}}]}}})
            }
            Action::Run(run) => {
                let network = self.network_of(run);
                sources.run(&run.mounts, network);
                inputs.extend(run.mounts.iter().filter_map(|m| from(m.from.as_ref()?)));
                exec(run, network)
            }
            Action::Copy(copy) => {
                match &copy.from {
                    Some(name) => inputs.extend(from(name)),
                    None => inputs.extend(copy.origins.iter().map(origin)),
                }
                json!({"Op": {"file": {"actions": actions(copy)}}})
            }
        };
        let mut seen = std::collections::BTreeSet::new();
        inputs.retain(|input| seen.insert(input.clone()));
        let noted = Noted {
            op,
            inputs,
            place,
            layers: layer.map(|l| l.descriptor.clone()).into_iter().collect(),
        };
        sources.step(step.plan.index, number, noted);
    }

    fn input(&self, base: &Base, platform: Option<&Platform>) -> Input {
        match base {
            Base::Stage(index) => Input::Stage(*index),
            Base::Context(name) => Input::Source(self.context_identifier(name)),
            Base::Image(name) => {
                let known = self
                    .sources
                    .as_ref()
                    .and_then(|s| s.identifier(name, platform));
                Input::Source(known.unwrap_or_else(|| format!("docker-image://{name}")))
            }
            Base::Scratch => Input::Source("scratch".to_owned()),
        }
    }

    fn context_identifier(&self, name: &str) -> String {
        match self.context.material(name) {
            Some((url, _)) => url,
            None => format!("local://{name}"),
        }
    }
}

fn origin(origin: &Origin) -> Input {
    Input::Source(match origin {
        Origin::Path(_) => "local://context".to_owned(),
        Origin::Content { .. } => "local://dockerfile".to_owned(),
        Origin::Url(url) => redacted(url),
        Origin::Git(source) => format!("git://{}", source.shown()),
    })
}

/// Variables but for those that stay out of history and keys; secrets are none of them.
fn exec(run: &RunAction, network: &str) -> Value {
    let mut meta = json!({"args": run.args, "env": run.env, "cwd": run.working_dir});
    if !run.user.is_empty() {
        meta["user"] = json!(run.user);
    }
    let mut exec = json!({"meta": meta});
    // Of pb.NetMode; UNSET is left out.
    match network {
        "host" => exec["network"] = json!(1),
        "none" => exec["network"] = json!(2),
        _ => {}
    }
    let mounts = run.mounts.iter().map(|mount| {
        let mut told = json!({"dest": mount.target, "mountType": mount.kind.word()});
        if !mount.id.is_empty() {
            told["id"] = json!(mount.id);
        }
        told
    });
    let mounts: Vec<Value> = mounts.collect();
    if !mounts.is_empty() {
        exec["mounts"] = json!(mounts);
    }
    json!({"Op": {"exec": exec}})
}

fn actions(copy: &CopyAction) -> Vec<Value> {
    let action = |origin: &Origin| {
        let source = match origin {
            Origin::Path(path) => path.clone(),
            Origin::Content { name, .. } => name.clone(),
            Origin::Url(url) => redacted(url),
            Origin::Git(source) => source.shown(),
        };
        json!({"Action": {"copy": {"src": source, "dest": copy.destination}}})
    };
    copy.origins.iter().map(action).collect()
}
