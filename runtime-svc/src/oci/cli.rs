//! What can be said: runc's verbs and options (its man pages), so far as callers use them.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::Error;

/// Runs containers of OCI bundles
#[derive(Debug, Parser)]
#[command(
    name = "slipway-oci",
    disable_version_flag = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    /// Print the version
    #[arg(short = 'v', long)]
    pub version: bool,
    #[command(subcommand)]
    verb_given: Option<Verb>,
    #[arg(skip = Verb::None)]
    pub verb: Verb,
}

impl Cli {
    /// As clap's; a verb is needed unless the version is asked for.
    pub fn try_parse_from(arguments: &[std::ffi::OsString]) -> Result<Self, clap::Error> {
        let mut cli = <Self as Parser>::try_parse_from(arguments)?;
        match cli.verb_given.take() {
            Some(verb) => cli.verb = verb,
            None if cli.version => {}
            None => {
                use clap::CommandFactory as _;
                let kind = clap::error::ErrorKind::MissingSubcommand;
                return Err(Self::command().error(kind, "a verb is missing: see --help"));
            }
        }
        Ok(cli)
    }
}

/// Help as it is; whatever is wrong as one line.
pub fn explain(said: &clap::Error) -> ExitCode {
    if !said.use_stderr() {
        // Nobody to tell if the terminal is gone.
        let _ = said.print();
        return ExitCode::SUCCESS;
    }
    let text = said.to_string();
    let first = text.split("\n\n").next().unwrap_or(&text);
    let words: Vec<&str> = first.split_whitespace().collect();
    eprintln!("{}", words.join(" ").trim_start_matches("error: "));
    ExitCode::FAILURE
}

/// Options before the verb.
#[derive(Debug, Args)]
pub struct Global {
    /// Folder of the containers' states
    #[arg(long, default_value = "/run/slipway-oci", value_name = "FOLDER")]
    pub root: PathBuf,
    /// File that errors are written to, besides standard error
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Form of that file
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Take cgroupsPath as slice:prefix:name, and place the groups where systemd would
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true", require_equals = true)]
    pub systemd_cgroup: bool,
    /// Say more; there is no more to say
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true", require_equals = true, hide = true)]
    pub debug: bool,
    /// Only "false" and "auto": containers of other users than root are not supported
    #[arg(long, value_name = "auto|true|false")]
    rootless: Option<String>,
    /// The program of checkpoints, which are not supported
    #[arg(long, hide = true)]
    criu: Option<String>,
}

impl Global {
    /// Refuses what cannot be done.
    pub fn check(&self) -> Result<(), Error> {
        match self.rootless.as_deref() {
            None | Some("auto" | "false") => Ok(()),
            Some("true") => Err(Error::Unsupported(
                "--rootless=true: containers of users other than root are not supported".to_owned(),
            )),
            Some(other) => Err(Error::Invalid(format!(
                "--rootless={other}: it is auto, true or false"
            ))),
        }
    }
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Form of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a container, up to its program, which waits for start
    Create(Create),
    /// Make a container, run its program to its end, and delete it
    Run(Run),
    /// Run the program of a container that was made
    Start { id: String },
    /// Print a container's state
    State { id: String },
    /// List containers
    List(List),
    /// List the processes of a container
    Ps(Ps),
    /// Print what a container uses
    Events(Events),
    /// Print what this runtime can do
    Features,
    /// Write an example of a config.json
    Spec {
        /// Folder that it is written to
        #[arg(short, long)]
        bundle: Option<PathBuf>,
    },
    /// Run a further process in a container
    Exec(Box<Exec>),
    /// Send a signal to a container
    Kill(Kill),
    /// Stop all processes of a container until resume
    Pause { id: String },
    /// Continue a container that was paused
    Resume { id: String },
    /// Take away what is left of a container
    Delete {
        /// Kill it first if it runs
        #[arg(short, long)]
        force: bool,
        id: String,
    },
    /// Change a container's limits
    Update(Box<Update>),
    /// Not supported
    #[command(hide = true)]
    Checkpoint {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// Not supported
    #[command(hide = true)]
    Restore {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    #[command(skip)]
    None,
}

impl Verb {
    /// Why it is not done at all.
    pub const fn refused(&self) -> Option<&'static str> {
        match self {
            Self::Checkpoint { .. } => {
                Some("checkpoint: checkpoints of containers are not supported")
            }
            Self::Restore { .. } => Some("restore: checkpoints of containers are not supported"),
            _ => None,
        }
    }

    pub const fn is_exec(&self) -> bool {
        matches!(self, Self::Exec(_))
    }

    pub const fn needs_root(&self) -> bool {
        !matches!(self, Self::Features | Self::Spec { .. } | Self::None)
    }
}

/// What `create` and `run` have in common.
#[derive(Debug, Args)]
pub struct Create {
    /// Folder with config.json
    #[arg(short, long, default_value = ".")]
    pub bundle: PathBuf,
    /// Socket that the master of the terminal is sent to
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// File that the pid of the first process is written to
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Not supported
    #[arg(long)]
    pub no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
    /// So many descriptors from 3 on are handed to the program
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub preserve_fds: u32,
    pub id: String,
}

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub create: Create,
    /// Do not wait for the end of the program
    #[arg(short, long)]
    pub detach: bool,
    /// Keep the container's state when its program has ended
    #[arg(long)]
    pub keep: bool,
    /// Leave orphans of the container to somebody else
    #[arg(long)]
    pub no_subreaper: bool,
}

#[derive(Debug, Args)]
pub struct List {
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct Ps {
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    pub id: String,
    /// Options of ps(1)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub options: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Events {
    /// Once, instead of again and again
    #[arg(long)]
    pub stats: bool,
    /// Time between two, as 5s
    #[arg(long, default_value = "5s")]
    pub interval: String,
    pub id: String,
}

#[derive(Debug, Args)]
pub struct Kill {
    /// All processes of the container
    #[arg(short, long)]
    pub all: bool,
    pub id: String,
    /// Name or number
    #[arg(default_value = "SIGTERM")]
    pub signal: String,
}

#[derive(Debug, Args)]
pub struct Exec {
    /// Socket that the master of the terminal is sent to
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Working directory
    #[arg(long)]
    pub cwd: Option<String>,
    /// Further variables
    #[arg(short, long)]
    pub env: Vec<String>,
    /// With a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// UID[:GID]
    #[arg(short, long)]
    pub user: Option<String>,
    /// Further groups
    #[arg(short = 'g', long)]
    pub additional_gids: Vec<u32>,
    /// A file with the process of a config.json
    #[arg(short, long, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// Do not wait for its end
    #[arg(short, long)]
    pub detach: bool,
    /// File that its pid is written to
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Not supported
    #[arg(long)]
    pub process_label: Option<String>,
    /// AppArmor profile
    #[arg(long)]
    pub apparmor: Option<String>,
    /// No exec gives it more privileges
    #[arg(long)]
    pub no_new_privs: bool,
    /// Further capabilities
    #[arg(short, long)]
    pub cap: Vec<String>,
    /// So many descriptors from 3 on are handed to the program
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub preserve_fds: u32,
    /// Not supported
    #[arg(long)]
    pub cgroup: Vec<String>,
    /// Also in a container that is paused
    #[arg(long)]
    pub ignore_paused: bool,
    pub id: String,
    /// Program and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// Sizes in bytes; the system refuses what makes no sense.
#[derive(Debug, Args, Default, PartialEq, Eq)]
pub struct Update {
    /// File with the resources of a config.json; - is standard input
    #[arg(short, long, value_name = "FILE")]
    pub resources: Option<PathBuf>,
    #[arg(long)]
    pub blkio_weight: Option<u16>,
    #[arg(long)]
    pub cpu_period: Option<u64>,
    #[arg(long, allow_negative_numbers = true)]
    pub cpu_quota: Option<i64>,
    #[arg(long)]
    pub cpu_burst: Option<u64>,
    #[arg(long)]
    pub cpu_rt_period: Option<u64>,
    #[arg(long, allow_negative_numbers = true)]
    pub cpu_rt_runtime: Option<i64>,
    #[arg(long, visible_alias = "cpu-shares")]
    pub cpu_share: Option<u64>,
    #[arg(long)]
    pub cpuset_cpus: Option<String>,
    #[arg(long)]
    pub cpuset_mems: Option<String>,
    #[arg(long)]
    pub cpu_idle: Option<i64>,
    #[arg(long, allow_negative_numbers = true)]
    pub memory: Option<i64>,
    #[arg(long, allow_negative_numbers = true)]
    pub memory_reservation: Option<i64>,
    #[arg(long, allow_negative_numbers = true)]
    pub memory_swap: Option<i64>,
    #[arg(long, allow_negative_numbers = true)]
    pub pids_limit: Option<i64>,
    pub id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, String> {
        let words: Vec<_> = line.split_whitespace().map(Into::into).collect();
        Cli::try_parse_from(&words).map_err(|e| e.to_string())
    }

    #[test]
    fn callers_words_are_understood() {
        for line in [
            "slipway-oci --root /r --log /l --log-format json create --bundle /b --pid-file /p --console-socket /s --no-new-keyring --preserve-fds 2 id",
            "slipway-oci --systemd-cgroup --root /r create -b /b id",
            "slipway-oci --systemd-cgroup=false --rootless false state id",
            "slipway-oci --root /r exec --process /f --detach --tty --pid-file /p --console-socket /s id",
            "slipway-oci exec -e A=b --cap CAP_KILL id sh -c -x",
            "slipway-oci kill --all id 9",
            "slipway-oci kill id",
            "slipway-oci delete --force id",
            "slipway-oci update --resources - id",
            "slipway-oci update --resources=/f id",
            "slipway-oci update --memory -1 id",
            "slipway-oci ps --format json id",
            "slipway-oci ps id -ef",
            "slipway-oci events --stats id",
            "slipway-oci list --format=json",
            "slipway-oci --version",
            "slipway-oci -v",
            "slipway-oci checkpoint --image-path /x id",
        ] {
            parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
        for line in [
            "slipway-oci",
            "slipway-oci fly",
            "slipway-oci start",
            "slipway-oci create --nonsense id",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
