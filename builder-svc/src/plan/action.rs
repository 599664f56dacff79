//! What an instruction asks to be done to the files.

use slipway_dockerfile::mount::Mount;

use super::copy::CopyAction;

/// What an instruction asks to be done to the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing: it changed the config only.
    None,
    /// A folder must be there; one that is made belongs to the user.
    MakeFolder {
        /// Absolute.
        path: String,
        /// `user[:group]`, "" = root.
        user: String,
    },
    /// A process runs.
    Run(RunAction),
    /// Files are copied.
    Copy(CopyAction),
}

/// A RUN, all decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunAction {
    /// Program and arguments.
    pub args: Vec<String>,
    /// Environment; part of the cache's key.
    pub env: Vec<String>,
    /// Proxies: environment that is no part of the key.
    pub hidden_env: Vec<String>,
    /// Absolute.
    pub working_dir: String,
    /// `user[:group]`, "" = root.
    pub user: String,
    /// `--network`, "" = the build's.
    pub network: String,
    /// Name and content of a file that is there while it runs.
    pub script: Option<(String, String)>,
    /// `--mount`
    pub mounts: Vec<Mount>,
    /// `--security=insecure`
    pub insecure: bool,
}
