//! Fault points: named steps at which a test lets a program die, wait or fail.
//!
//! A program says `point("runtime.create.record")` where a step is done. A test arms that point by
//! writing a file of that name into the folder that [`VARIABLE`] names to the programs of its site; the
//! file's content is the [`Action`]. Whoever comes by first takes the file away by renaming it (to
//! `<name>.fired`, which is how the test knows), so that it happens once.
//!
//! All points are listed in [`inventory`]; the end-to-end tests `faults` drive each, and fail when a
//! point is not listed, or a listed one is never come by.
//!
//! In a release build there is none of this: the functions are empty and no program looks at the variable.

#![forbid(unsafe_code)]

#[cfg(debug_assertions)]
mod armed;
pub mod inventory;

use std::io;

/// The environment variable that names the folder.
pub const VARIABLE: &str = "SLIPWAY_FAULTS";

/// What happens at a point that is armed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The process is gone, as by `kill -9`.
    Kill,
    /// It stands still until `<name>.fired` is removed: somebody else can be killed meanwhile.
    Wait,
    /// The step fails with this number; only where it [can](fallible).
    Fail(i32),
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kill => f.write_str("kill"),
            Self::Wait => f.write_str("wait"),
            Self::Fail(number) => write!(f, "fail {number}"),
        }
    }
}

impl std::str::FromStr for Action {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.split_once(' ') {
            None if text == "kill" => Ok(Self::Kill),
            None if text == "wait" => Ok(Self::Wait),
            Some(("fail", number)) => number.parse().map(Self::Fail).map_err(drop),
            _ => Err(()),
        }
    }
}

/// A step is done.
#[inline]
pub fn point(name: &'static str) {
    #[cfg(debug_assertions)]
    // A step that cannot fail does not: only its listing as such would have it asked to.
    let _ = armed::reach(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

/// A step is about to be done that may fail for want of room, say.
#[inline]
pub fn fallible(name: &'static str) -> io::Result<()> {
    #[cfg(debug_assertions)]
    return armed::reach(name);
    #[cfg(not(debug_assertions))]
    {
        let _ = name;
        Ok(())
    }
}

/// What a child process that begins with an empty environment needs to have points, too.
pub fn environment() -> Option<(&'static str, std::ffi::OsString)> {
    #[cfg(debug_assertions)]
    return std::env::var_os(VARIABLE).map(|folder| (VARIABLE, folder));
    #[cfg(not(debug_assertions))]
    None
}
