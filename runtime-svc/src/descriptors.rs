//! How many files runtime-svc may have open: a few for each container, so the usual 1024 is too few. The
//! containers get the limit that runtime-svc was started with.

use std::{io, sync::OnceLock};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

/// The limit that we were started with.
static BEFORE: OnceLock<Rlimit> = OnceLock::new();

/// Allows this process as many as it may have.
pub fn raise() -> io::Result<()> {
    let before = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: before.maximum,
        maximum: before.maximum,
    };
    setrlimit(Resource::Nofile, most)?;
    // Raised twice changes nothing.
    let _ = BEFORE.set(before);
    Ok(())
}

/// Gives a child of ours the limit from before that, and so all that it begins.
pub fn restore(child: Pid) -> io::Result<()> {
    match BEFORE.get() {
        Some(before) => prlimit(Some(child), Resource::Nofile, *before).map(drop),
        None => Ok(()),
    }
    .map_err(Into::into)
}
