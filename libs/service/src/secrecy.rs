//! Keeping what a process has in memory out of files.

use std::io;

/// From now on no core dump is made of this process, whatever limits and the host's core_pattern say, and only
/// root may look into its memory (PR_SET_DUMPABLE, prctl(2)): of somebody's secrets, copies may be left in what
/// was freed. Its files in /proc become root's; it may go on reading those that are not for owners alone.
pub fn forbid_core_dumps() -> io::Result<()> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}
