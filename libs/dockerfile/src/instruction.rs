//! Typed instructions.

/// What a line of a Dockerfile asks for. Variables are not expanded yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instruction {
    /// `FROM [--platform=P] IMAGE [AS NAME]`
    From(From),
    /// `ARG NAME[=DEFAULT] ...`
    Arg(Vec<(String, Option<String>)>),
    /// `ENV KEY=VALUE ...`
    Env(Vec<(String, String)>),
    /// `LABEL KEY=VALUE ...`
    Label(Vec<(String, String)>),
    /// `WORKDIR PATH`
    Workdir(String),
    /// `RUN`
    Run(Run),
    /// `COPY` and `ADD`
    Copy(Copy),
    /// `EXPOSE PORT ...`
    Expose(Vec<String>),
    /// `CMD`
    Cmd(Command),
    /// `ENTRYPOINT`
    Entrypoint(Command),
    /// `USER USER[:GROUP]`
    User(String),
    /// `VOLUME PATH ...`
    Volume(Vec<String>),
    /// `SHELL ["program", "argument"]`
    Shell(Vec<String>),
    /// `STOPSIGNAL SIGNAL`
    StopSignal(String),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `ONBUILD INSTRUCTION`
    OnBuild(String),
    /// `MAINTAINER NAME`
    Maintainer(String),
}

/// `FROM`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// Image, earlier stage, or `scratch`.
    pub base: String,
    /// `--platform`
    pub platform: Option<String>,
    /// `AS`, in lower case: stage names are case-insensitive.
    pub name: Option<String>,
}

/// A command in one of its two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// For the shell.
    Shell(String),
    /// Program and arguments.
    Exec(Vec<String>),
}

/// `RUN`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// What runs; here-documents are part of it.
    pub command: Command,
    /// A here-document that names its interpreter (`#!`): it is a file that `command` runs.
    pub script: Option<Script>,
    /// `--network`
    pub network: Option<String>,
    /// Each `--mount`, as it is written ([`crate::mount`]).
    pub mounts: Vec<String>,
    /// `--security=insecure`
    pub insecure: bool,
}

/// A file that a RUN brings along, below [`SCRIPTS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Its name.
    pub name: String,
    /// Its content.
    pub content: String,
}

/// Where scripts are while their RUN runs (BuildKit's place).
pub const SCRIPTS: &str = "/dev/pipes";

/// `COPY` and `ADD`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copy {
    /// `ADD`: archives are unpacked.
    pub add: bool,
    /// With `contents` at least one.
    pub sources: Vec<String>,
    /// Here-documents among the sources.
    pub contents: Vec<Content>,
    /// Where.
    pub destination: String,
    /// `--from`
    pub from: Option<String>,
    /// `--chown`
    pub chown: Option<String>,
    /// `--chmod`
    pub chmod: Option<String>,
    /// `--link`
    pub link: bool,
    /// `--parents`
    pub parents: bool,
    /// `--exclude`, each
    pub exclude: Vec<String>,
    /// `--checksum`
    pub checksum: Option<String>,
    /// `--keep-git-dir`
    pub keep_git_dir: Option<bool>,
    /// `--unpack`
    pub unpack: Option<bool>,
}

/// A here-document that becomes a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// The file's name.
    pub name: String,
    /// What is in it.
    pub body: String,
    /// Variables in it are expanded.
    pub expand: bool,
}

/// `HEALTHCHECK`; times in nanoseconds, 0 = the default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Healthcheck {
    /// None = `NONE`.
    pub command: Option<Command>,
    /// `--interval`
    pub interval: u64,
    /// `--timeout`
    pub timeout: u64,
    /// `--start-period`
    pub start_period: u64,
    /// `--start-interval`
    pub start_interval: u64,
    /// `--retries`
    pub retries: u32,
}
