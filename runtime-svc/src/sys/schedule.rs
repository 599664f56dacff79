//! How the kernel runs this process: scheduling, priority of its input and output, execution domain.

use std::io;

use crate::executor::plan::Scheduler;

/// `struct sched_attr` of its first version (sched_setattr(2)).
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

fn outcome(done: libc::c_long) -> io::Result<()> {
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// sched_setattr(2)
pub fn set_scheduler(scheduler: &Scheduler) -> io::Result<()> {
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: scheduler.policy,
        flags: scheduler.flags,
        nice: scheduler.nice,
        priority: scheduler.priority,
        runtime: scheduler.runtime,
        deadline: scheduler.deadline,
        period: scheduler.period,
    };
    // SAFETY: the structure says its own size and lives through the call.
    outcome(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) })
}

/// ioprio_set(2), whose values no header of the C library has.
pub fn set_io_priority(class: u32, priority: u32) -> io::Result<()> {
    const WHO_PROCESS: i32 = 1;
    // SAFETY: takes integers only.
    outcome(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, class << 13 | priority) })
}

/// personality(2)
pub fn set_personality(persona: u64) -> io::Result<()> {
    // SAFETY: takes an integer only.
    outcome(unsafe { libc::syscall(libc::SYS_personality, persona) })
}

/// sched_setaffinity(2)
pub fn set_processors(processors: &[usize]) -> io::Result<()> {
    let mut set = nix::sched::CpuSet::new();
    for processor in processors {
        set.set(*processor)?;
    }
    Ok(nix::sched::sched_setaffinity(
        nix::unistd::Pid::from_raw(0),
        &set,
    )?)
}
