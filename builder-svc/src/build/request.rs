//! What a caller asks a build for.

use std::collections::{BTreeMap, HashMap};

use slipway_image::Platform;
use slipway_proto::types::v1::RegistryAuth;

use crate::{attest::Wanted, plan::variables::says_yes, solve::NoCache, worker::StepSettings};

/// What a caller asks for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The Dockerfile.
    pub dockerfile: bytes::Bytes,
    /// Its name, for messages.
    pub dockerfile_name: String,
    /// `-t`
    pub tags: Vec<String>,
    /// `--build-arg`
    pub build_args: BTreeMap<String, String>,
    /// `--target`
    pub target: String,
    /// `--no-cache`
    pub no_cache: NoCache,
    /// `--pull`
    pub pull: bool,
    /// `--platform`; none = this host's.
    pub platforms: Vec<Platform>,
    /// `--label`
    pub labels: BTreeMap<String, String>,
    /// `--annotation`, with the part that each is for.
    pub annotations: BTreeMap<String, String>,
    /// `--cache-from`: type and attributes.
    pub cache_from: Vec<(String, BTreeMap<String, String>)>,
    /// `--cache-to`
    pub cache_to: Vec<(String, BTreeMap<String, String>)>,
    /// `--output`: type and attributes; none = an image.
    pub outputs: Vec<(String, BTreeMap<String, String>)>,
    /// For all RUNs.
    pub settings: StepSettings,
    /// Credentials by registry host.
    pub auths: HashMap<String, RegistryAuth>,
    /// What is asked for in place of a build.
    pub call: Call,
    /// The context's `.dockerignore`, for a check.
    pub ignore: String,
    /// Where in the main context the Dockerfile is; "" = `dockerfile` is it.
    pub dockerfile_path: String,
    /// Named contexts that the caller sends.
    pub contexts: Vec<String>,
    /// Contexts that are elsewhere, by name; "" is the main one.
    pub remote_contexts: BTreeMap<String, String>,
    /// What is attested of the result.
    pub attest: Wanted,
}

impl Request {
    /// Whether `.git` of a main context that is a repository is kept.
    pub fn keeps_git_dir(&self) -> bool {
        says_yes(&self.build_args, "BUILDKIT_CONTEXT_KEEP_GIT_DIR")
    }
}

/// What a caller wants to have done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Call {
    /// A build.
    #[default]
    Build,
    /// `--check`
    Check,
    /// `--call=targets`
    Targets,
    /// `--call=outline`
    Outline,
}
