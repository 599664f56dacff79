//! SLSA provenance of a build: versions 0.2 and 1 of the predicate, with BuildKit's fields
//! (docs/attestations/slsa-definitions.md in moby/buildkit).
//!
//! Version 0.2 is version 1 told in other words, as in BuildKit (solver/llbsolver/provenance/types).

use std::{collections::BTreeMap, time::SystemTime};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};
use slipway_dockerfile::Dockerfile;
use slipway_image::Platform;

use super::{
    Predicate,
    request::{Provenance, Version},
    sources::{Input, Notes},
    statement::digest_set,
};
use crate::context::Material;

/// Of version 0.2.
const KIND_02: &str = "https://slsa.dev/provenance/v0.2";
/// Of version 1.
const KIND_1: &str = "https://slsa.dev/provenance/v1";
const TYPE_02: &str = "https://mobyproject.org/buildkit@v1";
const TYPE_1: &str =
    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
const FRONTEND: &str = "dockerfile.v0";

/// What a build was asked for and with, as far as provenance tells it.
#[derive(Debug, Clone)]
pub struct Asked<'a> {
    /// The build's id.
    pub id: &'a str,
    /// When it began.
    pub started: SystemTime,
    /// Options as BuildKit's front end has them: `build-arg:X`, `label:X`, `target`.
    pub options: BTreeMap<String, String>,
    /// Contexts that the caller sends.
    pub locals: Vec<String>,
    /// The main context, where it is elsewhere: its URL without a password, and what it gave.
    pub context: Option<(String, Material)>,
    /// Other contexts that are elsewhere.
    pub contexts: Vec<(String, Material)>,
    /// The Dockerfile.
    pub file: &'a Dockerfile,
}

/// The predicate for one platform's result.
pub fn predicate(wanted: &Provenance, asked: &Asked<'_>, notes: &Notes) -> Predicate {
    let mut notes = notes.clone();
    for (url, material) in asked.context.iter().chain(&asked.contexts) {
        match material.clone() {
            Material::Git(commit) => notes.add_git(url.clone(), commit),
            Material::Http(digest) => drop(notes.http.insert(url.clone(), digest)),
        }
    }
    let materials = materials(&notes);
    let mut options = asked.options.clone();
    let all = options.len();
    if !wanted.max {
        options.retain(|key, _| !key.starts_with("build-arg:") && !key.starts_with("label:"));
    }
    let complete_request = options.len() == all;
    let complete_materials = asked.locals.is_empty();
    let mut request = json!({"frontend": FRONTEND, "args": options});
    if wanted.max {
        put_names(&mut request, "secrets", &notes.secrets);
        put_names(&mut request, "ssh", &notes.agents);
    }
    if !asked.locals.is_empty() {
        let locals = asked.locals.iter().map(|name| json!({"name": name}));
        request["locals"] = locals.collect();
    }
    let mut extra = json!({});
    let mut config = None;
    if wanted.max {
        let steps = steps(&notes);
        extra["source"] = json!({
            "locations": steps.locations,
            "infos": [{
                "filename": asked.file.name,
                "language": "Dockerfile",
                "data": BASE64_STANDARD.encode(&asked.file.source),
            }],
        });
        if !steps.layers.is_empty() {
            extra["layers"] = steps.layers.into();
        }
        config = Some(json!({"llbDefinition": steps.definition}));
    }
    let told = Told {
        source: source(asked),
        request,
        config,
        materials,
        extra,
        complete_request,
        complete_materials,
        hermetic: complete_materials && !notes.network,
        platform: Platform::host().to_string(),
        started: time(asked.started),
        finished: time(SystemTime::now()),
    };
    let (kind, content) = match wanted.version {
        Version::V02 => (KIND_02, told.version_02(wanted, asked.id)),
        Version::V1 => (KIND_1, told.version_1(wanted, asked.id)),
    };
    Predicate {
        kind,
        file: (!wanted.inline_only).then(|| wanted.filename.clone()),
        content,
    }
}

struct Told {
    source: (Option<String>, Option<Value>, String),
    request: Value,
    config: Option<Value>,
    materials: Vec<Value>,
    extra: Value,
    complete_request: bool,
    complete_materials: bool,
    hermetic: bool,
    platform: String,
    started: String,
    finished: String,
}

impl Told {
    fn source(&self, path: &str) -> Value {
        let mut out = Map::new();
        let (uri, digest, file) = &self.source;
        if let Some(uri) = uri {
            out.insert("uri".to_owned(), json!(uri));
        }
        if let Some(digest) = digest {
            out.insert("digest".to_owned(), digest.clone());
        }
        out.insert(path.to_owned(), json!(file));
        Value::Object(out)
    }

    fn version_1(&self, wanted: &Provenance, id: &str) -> Value {
        let mut internal = json!({"builderPlatform": self.platform});
        if let Some(config) = &self.config {
            internal["buildConfig"] = config.clone();
        }
        let mut metadata = json!({
            "invocationId": id,
            "startedOn": self.started,
            "finishedOn": self.finished,
            "buildkit_metadata": self.extra,
            "buildkit_completeness": {
                "request": self.complete_request,
                "resolvedDependencies": self.complete_materials,
            },
        });
        for (key, set) in [
            ("buildkit_hermetic", self.hermetic),
            ("buildkit_reproducible", wanted.reproducible),
        ] {
            if set {
                metadata[key] = json!(true);
            }
        }
        json!({
            "buildDefinition": {
                "buildType": TYPE_1,
                "externalParameters": {
                    "configSource": self.source("path"),
                    "request": self.request,
                },
                "internalParameters": internal,
                "resolvedDependencies": self.materials,
            },
            "runDetails": {
                "builder": {"id": wanted.builder_id},
                "metadata": metadata,
            },
        })
    }

    fn version_02(&self, wanted: &Provenance, id: &str) -> Value {
        let mut metadata = json!({
            "buildInvocationID": id,
            "buildStartedOn": self.started,
            "buildFinishedOn": self.finished,
            "completeness": {
                "parameters": self.complete_request,
                "environment": true,
                "materials": self.complete_materials,
            },
            "reproducible": wanted.reproducible,
            "https://mobyproject.org/buildkit@v1#metadata": self.extra,
        });
        if self.hermetic {
            metadata["https://mobyproject.org/buildkit@v1#hermetic"] = json!(true);
        }
        let mut out = json!({
            "builder": {"id": wanted.builder_id},
            "buildType": TYPE_02,
            "materials": self.materials,
            "invocation": {
                "configSource": self.source("entryPoint"),
                "parameters": self.request,
                "environment": {"platform": self.platform},
            },
            "metadata": metadata,
        });
        if let Some(config) = &self.config {
            out["buildConfig"] = config.clone();
        }
        out
    }
}

fn source(asked: &Asked<'_>) -> (Option<String>, Option<Value>, String) {
    let name = asked.file.name.clone();
    match &asked.context {
        Some((url, material)) => (Some(url.clone()), Some(material_digest(material)), name),
        None => (None, None, name),
    }
}

fn material_digest(material: &Material) -> Value {
    match material {
        Material::Git(commit) => json!({"sha1": commit}),
        Material::Http(digest) => digest_set(digest),
    }
}

/// Everything from elsewhere: images, repositories, URLs.
fn materials(notes: &Notes) -> Vec<Value> {
    let one = |uri: &String, digest: Value| json!({"uri": uri, "digest": digest});
    let images = notes.images.iter().map(|(u, d)| one(u, digest_set(d)));
    let git = notes.git.iter().map(|(u, c)| one(u, json!({"sha1": c})));
    let http = notes.http.iter().map(|(u, d)| one(u, digest_set(d)));
    images.chain(git).chain(http).collect()
}

fn put_names(request: &mut Value, key: &str, names: &BTreeMap<String, bool>) {
    if names.is_empty() {
        return;
    }
    let all = names.iter().map(|(id, optional)| match optional {
        true => json!({"id": id, "optional": true}),
        false => json!({"id": id}),
    });
    request[key] = all.collect();
}

#[derive(Default)]
struct Steps {
    definition: Vec<Value>,
    locations: Map<String, Value>,
    layers: Map<String, Value>,
}

/// The steps as BuildKit tells them: each with an id, what it does, and whose results it takes.
fn steps(notes: &Notes) -> Steps {
    let mut out = Steps::default();
    let mut of_source: BTreeMap<&str, usize> = BTreeMap::new();
    let mut of_stage: BTreeMap<usize, usize> = BTreeMap::new();
    for ((stage, _), step) in &notes.steps {
        let mut inputs = Vec::new();
        for input in &step.inputs {
            let found = match input {
                Input::Before => of_stage.get(stage).copied(),
                Input::Stage(other) => of_stage.get(other).copied(),
                Input::Source(identifier) => {
                    Some(*of_source.entry(identifier).or_insert_with(|| {
                        let index = out.definition.len();
                        out.definition.push(json!({
                            "id": format!("step{index}"),
                            "op": {"Op": {"source": {"identifier": identifier}}},
                        }));
                        index
                    }))
                }
            };
            inputs.extend(found.map(|index| format!("step{index}:0")));
        }
        if step.op.is_null() {
            // What the stage is built upon: nothing is done.
            let last = inputs.first().and_then(|i| i.strip_prefix("step"));
            let last = last.and_then(|i| i.strip_suffix(":0")?.parse().ok());
            if let Some(index) = last {
                of_stage.insert(*stage, index);
                locate(&mut out, index, step);
            }
            continue;
        }
        let index = out.definition.len();
        let mut definition = json!({"id": format!("step{index}"), "op": step.op});
        if !inputs.is_empty() {
            definition["inputs"] = json!(inputs);
        }
        out.definition.push(definition);
        locate(&mut out, index, step);
        of_stage.insert(*stage, index);
    }
    out
}

fn locate(out: &mut Steps, index: usize, step: &super::sources::Step) {
    let range = json!({"start": {"line": step.place.first}, "end": {"line": step.place.last}});
    let location = json!({"ranges": [range]});
    let key = format!("step{index}");
    match out.locations.get_mut(&key).map(|l| &mut l["locations"]) {
        Some(Value::Array(known)) if !known.contains(&location) => known.push(location),
        Some(_) => {}
        None => drop(
            out.locations
                .insert(key.clone(), json!({"locations": [location]})),
        ),
    }
    if !step.layers.is_empty() {
        out.layers.insert(format!("{key}:0"), json!([step.layers]));
    }
}

fn time(time: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time).unwrap_or_default();
    time.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest::sources::{Sources, Step};
    use slipway_dockerfile::Place;
    use slipway_image::{Descriptor, Digest};

    fn notes() -> Notes {
        let sources = Sources::default();
        let digest = Digest::of("base");
        sources.image("alpine", None, &digest.to_string());
        let image = sources.identifier("alpine", None).unwrap();
        sources.http("https://h/x".to_owned(), Digest::of("x"));
        sources.git("https://h/r.git#v1".to_owned(), "a".repeat(40));
        let place = |line| Place {
            first: line,
            last: line,
        };
        let step = |op, inputs, line, layers| Step {
            op,
            inputs,
            place: place(line),
            layers,
        };
        let blob = Descriptor::new("t", Digest::of("l"), 1);
        let from = vec![Input::Source(image)];
        sources.step(0, 1, step(Value::Null, from, 1, vec![blob.clone()]));
        let exec = json!({"Op": {"exec": {"meta": {"args": ["true"]}}}});
        sources.step(0, 2, step(exec, vec![Input::Before], 2, vec![blob]));
        sources.step(1, 1, step(Value::Null, vec![Input::Stage(0)], 3, vec![]));
        let file = json!({"Op": {"file": {}}});
        sources.step(
            1,
            2,
            step(file, vec![Input::Before, Input::Stage(0)], 4, vec![]),
        );
        sources.notes()
    }

    fn asked(file: &Dockerfile) -> Asked<'_> {
        let options = [("build-arg:A", "1"), ("target", "t")];
        Asked {
            id: "id",
            started: SystemTime::UNIX_EPOCH,
            options: options.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            locals: vec!["context".to_owned()],
            context: None,
            contexts: Vec::new(),
            file,
        }
    }

    fn wanted(max: bool, version: Version) -> Provenance {
        Provenance {
            max,
            version,
            builder_id: "https://ci".to_owned(),
            reproducible: true,
            inline_only: true,
            filename: "p".to_owned(),
        }
    }

    #[test]
    fn the_most_and_the_least() {
        let file = Dockerfile::parse("Dockerfile", b"FROM alpine\nRUN true\n").unwrap();
        let all = predicate(&wanted(true, Version::V1), &asked(&file), &notes());
        assert_eq!((all.kind, &all.file), (KIND_1, &None));
        let definition = &all.content["buildDefinition"];
        let internal = &definition["internalParameters"]["buildConfig"]["llbDefinition"];
        let inputs: Vec<_> = (0..3).map(|i| internal[i]["inputs"].clone()).collect();
        assert_eq!(
            inputs,
            [
                json!(null),
                json!(["step0:0"]),
                json!(["step1:0", "step1:0"])
            ]
        );
        let uris: Vec<_> = definition["resolvedDependencies"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["uri"].as_str().unwrap().split('?').next().unwrap())
            .collect();
        assert_eq!(
            uris,
            [
                "pkg:docker/alpine@latest",
                "https://h/r.git#v1",
                "https://h/x"
            ]
        );
        let metadata = &all.content["runDetails"]["metadata"];
        assert_eq!(metadata["buildkit_completeness"]["request"], true);
        assert_eq!(metadata["buildkit_reproducible"], true);
        let source = &metadata["buildkit_metadata"]["source"];
        assert_eq!(
            source["infos"][0]["data"],
            BASE64_STANDARD.encode("FROM alpine\nRUN true\n")
        );
        let lines = &source["locations"]["step1"]["locations"];
        assert_eq!(lines[0]["ranges"][0]["start"]["line"], 2);

        let little = predicate(&wanted(false, Version::V02), &asked(&file), &notes());
        assert_eq!(little.kind, KIND_02);
        let invocation = &little.content["invocation"];
        assert_eq!(invocation["parameters"]["args"], json!({"target": "t"}));
        assert_eq!(
            invocation["configSource"],
            json!({"entryPoint": "Dockerfile"})
        );
        assert_eq!(
            little.content["metadata"]["completeness"]["parameters"],
            false
        );
        assert!(little.content.get("buildConfig").is_none());
    }

    #[test]
    fn a_context_elsewhere_is_a_material_and_the_source() {
        let file = Dockerfile::parse("Dockerfile", b"FROM scratch\n").unwrap();
        let mut asked = asked(&file);
        asked.locals.clear();
        let commit = "b".repeat(40);
        asked.context = Some(("https://h/c.git".to_owned(), Material::Git(commit.clone())));
        let made = predicate(&wanted(false, Version::V1), &asked, &Notes::default());
        let definition = &made.content["buildDefinition"];
        let source = &definition["externalParameters"]["configSource"];
        assert_eq!(source["uri"], "https://h/c.git");
        assert_eq!(source["digest"]["sha1"], commit);
        assert_eq!(
            definition["resolvedDependencies"][0]["uri"],
            "https://h/c.git"
        );
        assert_eq!(
            made.content["runDetails"]["metadata"]["buildkit_hermetic"],
            true
        );
    }
}
