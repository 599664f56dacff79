//! ctl: Slipway's command line, which speaks docker.

#![forbid(unsafe_code)]
// docker's HostConfig is one `json!` of some sixty keys.
#![recursion_limit = "512"]

mod attach;
mod auth;
mod build;
mod cli;
mod client;
mod context;
mod copy;
mod failure;
mod host;
mod inspect;
mod output;
mod pki;
mod spec;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    if words.nth(1).is_some_and(|word| word == host::up::SESSION) {
        let failure = match words.next() {
            Some(program) => host::up::become_service(&program),
            None => failure::Failure::new("no program given"),
        };
        return report(&failure);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => return report(&failure::Failure::new(format!("cannot start: {e}"))),
    };
    let outcome = runtime.block_on(cli::main());
    // A read of stdin may still wait in its thread: it must not keep us.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => report(&failure),
    }
}

fn report(failure: &failure::Failure) -> ExitCode {
    if !failure.text.is_empty() {
        eprintln!("Error: {}", failure.text);
    }
    ExitCode::from(failure.code)
}
