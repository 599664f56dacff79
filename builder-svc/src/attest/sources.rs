//! What one platform of a build is made of, noted while it is built: images, URLs, repositories, the names of
//! secrets, and its steps. Whether a step was cached makes no difference.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;
use slipway_dockerfile::{
    Place,
    mount::{Kind, Mount},
};
use slipway_image::{Descriptor, Digest, Platform, Reference};

use super::purl;
use crate::context::git::{GitSource, ssh::AGENT};

/// The notes of one platform.
#[derive(Debug, Default)]
pub struct Sources(Mutex<Notes>);

/// See [`Sources`]. Everything is in an order that does not depend on which step was quicker.
#[derive(Debug, Clone, Default)]
pub struct Notes {
    /// Package URL of each image, and the digest that its name stood for.
    pub images: BTreeMap<String, Digest>,
    /// What images are called among steps, by name and platform.
    identifiers: BTreeMap<(String, Option<String>), String>,
    /// Repositories without passwords, and their commits.
    pub git: BTreeMap<String, String>,
    /// URLs without passwords, and what they gave.
    pub http: BTreeMap<String, Digest>,
    /// Names of secrets, and whether no step needs it.
    pub secrets: BTreeMap<String, bool>,
    /// Names of ssh agents, likewise.
    pub agents: BTreeMap<String, bool>,
    /// A step could reach a network.
    pub network: bool,
    /// Steps by stage and number.
    pub steps: BTreeMap<(usize, u32), Step>,
}

/// A step of a stage.
#[derive(Debug, Clone)]
pub struct Step {
    /// What it does, in the words of BuildKit's operations (solver/pb/ops.proto).
    pub op: Value,
    /// What it is done upon, and with.
    pub inputs: Vec<Input>,
    /// Where it stands.
    pub place: Place,
    /// What it made.
    pub layers: Vec<Descriptor>,
}

/// What a step takes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Input {
    /// The step before it in its stage, or what the stage is built upon.
    Before,
    /// A stage's result.
    Stage(usize),
    /// Something from elsewhere: its identifier in BuildKit's words (`docker-image://...`, `local://...`).
    Source(String),
}

impl Notes {
    /// Notes a commit of a repository; over ssh also whose keys were asked for.
    pub fn add_git(&mut self, url: String, commit: String) {
        if GitSource::parse(&url).is_ok_and(|s| s.is_some_and(|s| s.ssh.is_some())) {
            self.agents.entry(AGENT.to_owned()).or_insert(true);
        }
        self.git.insert(url, commit);
    }
}

impl Sources {
    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that was noted.
    pub fn notes(&self) -> Notes {
        self.lock().clone()
    }

    /// An image that is built upon or copied from.
    pub fn image(&self, name: &str, platform: Option<&Platform>, digest: &str) {
        let parsed: Result<Reference, _> = name.parse();
        // What was found by a part of its id has no name; then there is nothing to find it by elsewhere.
        let (Ok(reference), Ok(digest)) = (parsed, digest.parse::<Digest>()) else {
            return;
        };
        let host = Platform::host();
        let url = purl::of_image(&reference, Some(platform.unwrap_or(&host)));
        let named = match reference.digest() {
            Some(_) => reference.to_string(),
            None => format!("{}@{digest}", reference.with_default_tag()),
        };
        let mut notes = self.lock();
        let key = (name.to_owned(), platform.map(ToString::to_string));
        let identifier = format!("docker-image://{named}");
        notes.identifiers.insert(key, identifier);
        notes.images.insert(url, digest);
    }

    /// What an image that was noted is called among steps.
    pub fn identifier(&self, name: &str, platform: Option<&Platform>) -> Option<String> {
        let key = (name.to_owned(), platform.map(ToString::to_string));
        self.lock().identifiers.get(&key).cloned()
    }

    /// A commit of a repository.
    pub fn git(&self, url: String, commit: String) {
        self.lock().add_git(url, commit);
    }

    /// What a URL gave.
    pub fn http(&self, url: String, digest: Digest) {
        self.lock().http.insert(url, digest);
    }

    /// What a RUN may reach. Only names are noted.
    pub fn run(&self, mounts: &[Mount], network: &str) {
        let mut notes = self.lock();
        notes.network |= network != "none";
        for mount in mounts {
            let names = match mount.kind {
                Kind::Secret => &mut notes.secrets,
                Kind::Ssh => &mut notes.agents,
                _ => continue,
            };
            let optional = names.entry(mount.id.clone()).or_insert(true);
            *optional &= !mount.required;
        }
    }

    /// A step that is done.
    pub fn step(&self, stage: usize, number: u32, step: Step) {
        self.lock().steps.insert((stage, number), step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_over_ssh_take_an_agent() {
        let sources = Sources::default();
        sources.git("https://h/r.git#v1".to_owned(), "a".repeat(40));
        assert!(sources.notes().agents.is_empty());
        sources.git("git@h:r.git#v1".to_owned(), "a".repeat(40));
        assert_eq!(
            sources.notes().agents,
            [("default".to_owned(), true)].into()
        );
        assert_eq!(sources.notes().git.len(), 2);
    }

    #[test]
    fn names_are_noted_once_with_what_they_stood_for() {
        let sources = Sources::default();
        let digest = Digest::of("x").to_string();
        let platform: Platform = "linux/arm64".parse().unwrap();
        for _ in 0..2 {
            sources.image("busybox", Some(&platform), &digest);
            assert_eq!(
                sources.identifier("busybox", Some(&platform)).unwrap(),
                format!("docker-image://docker.io/library/busybox:latest@{digest}")
            );
        }
        sources.image("0123", None, "no digest");
        let notes = sources.notes();
        let images: Vec<_> = notes.images.keys().collect();
        assert_eq!(images, ["pkg:docker/busybox@latest?platform=linux%2Farm64"]);
    }
}
