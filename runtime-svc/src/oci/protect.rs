//! Keeps containers from getting at the file of this program.

use std::{
    ffi::{CString, OsString},
    io,
    os::{fd::AsRawFd as _, unix::ffi::OsStringExt as _},
};

use super::error::{Error, Tried as _};
use crate::{monitor::spawner, sys::fork};

/// Says which process is behind such a mount already.
const MARK: &str = "SLIPWAY_OCI_PROTECTED";

/// Whether a call makes processes of containers. It is asked before the words are understood, so that
/// nothing is done twice: a container of such a name costs an exec, no more.
pub fn is_needed(arguments: &[OsString]) -> bool {
    let verbs = ["create", "run", "exec"];
    let makes = arguments
        .iter()
        .any(|word| verbs.iter().any(|verb| word == verb));
    // Nobody but ourselves gains or loses by it: a caller that sets it could as well call another program.
    let done = std::env::var_os(MARK);
    makes && done.is_none_or(|pid| pid.to_str() != Some(&std::process::id().to_string()))
}

/// Goes on behind a mount of our own program that is read-only: what runs in the container could write to
/// the file otherwise, by /proc/self/exe (CVE-2019-5736). Returns only when that failed.
pub fn protect() -> Error {
    let Err(error) = execute();
    error
}

fn execute() -> Result<std::convert::Infallible, Error> {
    let what = || "cannot protect this program".to_owned();
    let program = spawner::protected("/proc/self/exe".as_ref()).tried(what)?;
    let string = |bytes: Vec<u8>| CString::new(bytes).map_err(io::Error::from).tried(what);
    let arguments = std::env::args_os()
        .map(|argument| string(argument.into_vec()))
        .collect::<Result<Vec<_>, _>>()?;
    let mut env = std::env::vars_os()
        .filter(|(name, _)| name != MARK)
        .map(|(name, value)| {
            let mut bytes = name.into_vec();
            bytes.push(b'=');
            bytes.extend(value.into_vec());
            string(bytes)
        })
        .collect::<Result<Vec<_>, _>>()?;
    env.push(string(
        format!("{MARK}={}", std::process::id()).into_bytes(),
    )?);
    Err(fork::execveat_fd(program.as_raw_fd(), &arguments, &env)).tried(what)
}
