//! The OCI runtime command line: what podman, conmon, docker and containerd's shim call to run containers
//! of a bundle (OCI Runtime Specification 1.2).
//!
//! `cli` says what can be said, [`config`] makes the executor's plan of a `config.json`, [`state`] remembers
//! containers below `--root`, and each verb has a file: `create` (also for `run`), `start`, `exec`,
//! `signal`, `remove`, `update`, `show`; `notify` is what they tell systemd.
//!
//! Architecture invariants: one thread, no runtime-svc, no daemon and no process that stays behind; a
//! container's first process is a child of the caller's, as soon as this program has ended. What is not
//! supported is refused with a sentence.

mod agent;
mod cli;
pub mod config;
mod console;
mod create;
mod error;
mod exec;
mod features;
mod foreground;
mod log;
mod make;
mod notify;
mod protect;
mod remove;
mod show;
mod signal;
mod start;
pub mod state;
mod update;

use std::{ffi::OsString, process::ExitCode};

pub use error::Error;

/// First argument of a runtime-svc that is to be an OCI runtime.
pub const ARGUMENT: &str = "oci";
/// What the program's name ends with when it is to be one without that argument.
pub const NAME: &str = "slipway-oci";

/// Whether the arguments, the program's name included, are for [`main`]; then those that are.
pub fn arguments(all: &[OsString]) -> Option<Vec<OsString>> {
    let name = all.first()?;
    let named = name.as_encoded_bytes().ends_with(NAME.as_bytes());
    match all.get(1) {
        _ if named => Some(all.to_vec()),
        Some(first) if first == ARGUMENT => {
            let rest = all.iter().skip(2).cloned();
            Some(std::iter::once(NAME.into()).chain(rest).collect())
        }
        _ => None,
    }
}

/// The whole program.
pub fn main(arguments: &[OsString]) -> ExitCode {
    // Not root: that is said below.
    if protect::is_needed(arguments) && rustix::process::geteuid().is_root() {
        eprintln!("{}", protect::protect());
        return ExitCode::FAILURE;
    }
    // What the caller left open is no hook's, and no container's that does not ask for it
    // (CVE-2024-21626).
    if let Err(error) = crate::sys::fork::cloexec_from(3) {
        eprintln!("cannot keep descriptors from containers: {error}");
        return ExitCode::FAILURE;
    }
    let cli = match cli::Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(said) => return cli::explain(&said),
    };
    let log = log::Log::new(&cli.global);
    let code = match dispatch(&cli, &log) {
        Ok(code) => code,
        Err(error) => {
            log.error(&error.to_string());
            if cli.verb.is_exec() { 255 } else { 1 }
        }
    };
    ExitCode::from(code)
}

fn dispatch(cli: &cli::Cli, log: &log::Log) -> Result<u8, Error> {
    use cli::Verb;
    if cli.version {
        show::version();
        return Ok(0);
    }
    if let Some(why) = cli.verb.refused() {
        return Err(Error::Unsupported(why.to_owned()));
    }
    cli.global.check()?;
    if cli.verb.needs_root() && !rustix::process::geteuid().is_root() {
        return Err(Error::Unsupported(
            "containers of users other than root are not supported: run this as root".to_owned(),
        ));
    }
    let store = state::Store::new(&cli.global.root);
    match &cli.verb {
        Verb::Create(options) => create::create(&store, options, cli.global.systemd_cgroup),
        Verb::Run(options) => create::run(&store, options, cli.global.systemd_cgroup, log),
        Verb::Start { id } => start::start(&store, id),
        Verb::State { id } => show::state(&store, id),
        Verb::List(options) => show::list(&store, options),
        Verb::Ps(options) => show::ps(&store, options),
        Verb::Events(options) => show::events(&store, options),
        Verb::Features => features::print(),
        Verb::Spec { bundle } => config::example::write(bundle.as_deref()),
        Verb::Exec(options) => exec::exec(&store, options),
        Verb::Kill(options) => signal::kill(&store, options),
        Verb::Pause { id } => signal::freeze(&store, id, true),
        Verb::Resume { id } => signal::freeze(&store, id, false),
        Verb::Delete { force, id } => remove::delete(&store, id, *force, log),
        Verb::Update(options) => update::update(&store, options),
        Verb::Checkpoint { .. } | Verb::Restore { .. } | Verb::None => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_called_by_argument_or_by_name() {
        let words = |words: &[&str]| -> Vec<OsString> { words.iter().map(Into::into).collect() };
        let asked = |given: &[&str]| arguments(&words(given));
        assert_eq!(
            asked(&["runtime-svc", "oci", "state", "x"]),
            Some(words(&["slipway-oci", "state", "x"]))
        );
        assert_eq!(
            asked(&["/x/my-slipway-oci", "oci"]),
            Some(words(&["/x/my-slipway-oci", "oci"]))
        );
        assert_eq!(asked(&["runtime-svc", "--oci"]), None);
        assert_eq!(asked(&[]), None);
    }
}
