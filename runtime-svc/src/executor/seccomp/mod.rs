//! Filters of system calls: docker's default one, and profiles in docker's format.
//!
//! `format` reads a profile, `profile` is the default one, `rules` says what either means for a
//! process, `compile` makes instructions of that. `table` knows the numbers.

mod compile;
mod format;
mod profile;
mod rules;
mod table;

use std::sync::LazyLock;

use crate::{executor::capabilities, sys::bpf::Instruction};

pub use format::{KNOWN_FLAGS, Listener, NEW_LISTENER, ProfileError, supported_flags};

/// The default profile for the default capabilities, which most processes have. Made once in the process
/// that all others are forked from: see [`prepare`].
static USUAL: LazyLock<(u64, Vec<Instruction>)> = LazyLock::new(|| {
    let usual = capabilities::effective(&[], &[]).unwrap_or_default();
    (usual, fresh(usual))
});

/// Makes what the processes that are forked from this one share.
pub fn prepare() {
    LazyLock::force(&USUAL);
}

/// The default profile for a process with these capabilities.
pub fn default_program(capabilities: u64) -> Vec<Instruction> {
    if capabilities == USUAL.0 {
        return USUAL.1.clone();
    }
    fresh(capabilities)
}

fn fresh(capabilities: u64) -> Vec<Instruction> {
    compile::compile(&rules::of(&profile::default(), capabilities, kernel()))
}

/// A profile of the caller's for a process with these capabilities: instructions, and the flags to install
/// them with.
pub fn custom(json: &str, capabilities: u64) -> Result<(Vec<Instruction>, u32), ProfileError> {
    match with_agent(json, capabilities)? {
        (program, flags, None) => Ok((program, flags)),
        (_, _, Some(_)) => Err(ProfileError(
            "SCMP_ACT_NOTIFY needs an agent that listens, which is not supported".to_owned(),
        )),
    }
}

/// The same where an agent may answer.
pub fn with_agent(
    json: &str,
    capabilities: u64,
) -> Result<(Vec<Instruction>, u32, Option<Listener>), ProfileError> {
    let profile = format::parse(json)?;
    let program = compile::compile(&rules::of(&profile, capabilities, kernel()));
    // BPF_MAXINSNS
    if program.len() > 4096 {
        return Err(ProfileError(format!(
            "it makes {} instructions, the kernel takes 4096",
            program.len()
        )));
    }
    Ok((program, profile.flags, profile.listener))
}

/// Version of the running kernel, for `minKernel`.
fn kernel() -> (u32, u32) {
    let release = rustix::system::uname();
    let text = release.release().to_string_lossy();
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests;
