//! runtime-svc: runs containers on one host.

use std::{path::PathBuf, process::ExitCode};

use runtime_svc::monitor::spawner;

fn main() -> ExitCode {
    // Before anything else: the spawner must have one thread and little memory.
    let mut arguments = std::env::args_os().skip(1);
    if arguments
        .next()
        .is_some_and(|first| first == spawner::ARGUMENT)
    {
        let lock = PathBuf::from(arguments.next().unwrap_or_default());
        return ExitCode::from(u8::try_from(spawner::main(&lock)).unwrap_or(1));
    }
    ExitCode::SUCCESS
}
