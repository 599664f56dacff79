//! `process` of config.json, and of `exec --process`.

use oci_spec::runtime::{
    Capabilities, IOPriorityClass, LinuxSchedulerFlag, LinuxSchedulerPolicy, PosixRlimit,
    PosixRlimitType, Process as Given,
};

use crate::{
    executor::{
        capabilities,
        plan::{CapabilitySets, Identity, Label, Process, Rlimit, Scheduler, Seccomp, Tuning},
    },
    oci::Error,
};

/// The process; its filter and personality are the container's.
pub fn process(given: &Given, descriptors: u32) -> Result<Process, Error> {
    let args = given.args().clone().unwrap_or_default();
    if args.first().is_none_or(String::is_empty) {
        return Err(Error::invalid(
            "process.args is empty: there is no program to run",
        ));
    }
    let cwd = given.cwd().to_string_lossy().into_owned();
    if !cwd.starts_with('/') {
        return Err(Error::Invalid(format!(
            "process.cwd must be an absolute path, not {cwd:?}"
        )));
    }
    if given
        .selinux_label()
        .as_ref()
        .is_some_and(|label| !label.is_empty())
    {
        return Err(Error::Unsupported(
            "selinuxLabel: SELinux is not supported".to_owned(),
        ));
    }
    if given
        .exec_cpu_affinity()
        .as_ref()
        .is_some_and(|a| a.initial().is_some())
    {
        return Err(Error::Unsupported(
            "execCPUAffinity.initial is not supported".to_owned(),
        ));
    }
    let env = given.env().clone().unwrap_or_default();
    if let Some(bad) = env.iter().find(|entry| !entry.contains('=')) {
        return Err(Error::Invalid(format!(
            "process.env: {bad:?} is not NAME=value"
        )));
    }
    let user = given.user();
    let sets = sets(given)?;
    Ok(Process {
        args,
        env,
        working_dir: cwd,
        user: String::new(),
        groups: Vec::new(),
        capabilities: sets.effective,
        no_new_privs: given.no_new_privileges().unwrap_or(false),
        seccomp: Seccomp::Unconfined,
        rlimits: rlimits(given.rlimits().as_deref().unwrap_or_default())?,
        oom_score_adj: given.oom_score_adj(),
        init: false,
        label: label(given.apparmor_profile().as_deref()),
        identity: Some(Identity {
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            umask: user.umask().unwrap_or(0o022),
        }),
        sets: Some(sets),
        tuning: tuning(given)?,
        descriptors,
        outlives: true,
    })
}

/// An AppArmor profile; where the kernel has none, applying it fails.
pub fn label(profile: Option<&str>) -> Label {
    match profile {
        None | Some("" | "unconfined") => Label::None,
        Some(profile) => Label::AppArmor(profile.to_owned()),
    }
}

fn sets(given: &Given) -> Result<CapabilitySets, Error> {
    let Some(asked) = given.capabilities() else {
        return Ok(CapabilitySets::default());
    };
    let bits = |set: &Option<Capabilities>| {
        set.iter().flatten().try_fold(0, |bits, capability| {
            let bit = capabilities::bit(&capability.to_string()).map_err(Error::invalid)?;
            Ok::<u64, Error>(bits | bit)
        })
    };
    Ok(CapabilitySets {
        bounding: bits(asked.bounding())?,
        effective: bits(asked.effective())?,
        inheritable: bits(asked.inheritable())?,
        permitted: bits(asked.permitted())?,
        ambient: bits(asked.ambient())?,
    })
}

fn rlimits(given: &[PosixRlimit]) -> Result<Vec<Rlimit>, Error> {
    let mut limits: Vec<Rlimit> = Vec::new();
    for limit in given {
        let made = Rlimit {
            resource: resource(limit.typ()),
            soft: limit.soft(),
            hard: limit.hard(),
        };
        if limits.iter().any(|known| known.resource == made.resource) {
            return Err(Error::Invalid(format!(
                "process.rlimits: {} is there twice",
                limit.typ()
            )));
        }
        if made.soft > made.hard {
            return Err(Error::Invalid(format!(
                "process.rlimits: {}: the soft limit is above the hard one",
                limit.typ()
            )));
        }
        limits.push(made);
    }
    Ok(limits)
}

const fn resource(typ: PosixRlimitType) -> u32 {
    use PosixRlimitType as Type;
    match typ {
        Type::RlimitCpu => libc::RLIMIT_CPU,
        Type::RlimitFsize => libc::RLIMIT_FSIZE,
        Type::RlimitData => libc::RLIMIT_DATA,
        Type::RlimitStack => libc::RLIMIT_STACK,
        Type::RlimitCore => libc::RLIMIT_CORE,
        Type::RlimitRss => libc::RLIMIT_RSS,
        Type::RlimitNproc => libc::RLIMIT_NPROC,
        Type::RlimitNofile => libc::RLIMIT_NOFILE,
        Type::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        Type::RlimitAs => libc::RLIMIT_AS,
        Type::RlimitLocks => libc::RLIMIT_LOCKS,
        Type::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        Type::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        Type::RlimitNice => libc::RLIMIT_NICE,
        Type::RlimitRtprio => libc::RLIMIT_RTPRIO,
        Type::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

fn tuning(given: &Given) -> Result<Tuning, Error> {
    let io_priority = given.io_priority().as_ref().map(|asked| {
        let class = match asked.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        match u32::try_from(asked.priority()) {
            Ok(priority @ 0..8) => Ok((class, priority)),
            _ => Err(Error::Invalid(format!(
                "process.ioPriority: priority {} is not 0 to 7",
                asked.priority()
            ))),
        }
    });
    Ok(Tuning {
        scheduler: given.scheduler().as_ref().map(scheduler).transpose()?,
        io_priority: io_priority.transpose()?,
        personality: None,
        processors: None,
    })
}

/// The processors of `execCPUAffinity.final`, for processes that join.
pub fn processors(given: &Given) -> Result<Option<Vec<usize>>, Error> {
    let Some(affinity) = given.exec_cpu_affinity() else {
        return Ok(None);
    };
    affinity
        .cpu_affinity_final()
        .as_deref()
        .map(list)
        .transpose()
}

/// `0-3,7`
fn list(text: &str) -> Result<Vec<usize>, Error> {
    const MOST: usize = 1024;
    let bad = || {
        Error::Invalid(format!(
            "execCPUAffinity: {text:?} is no list of processors"
        ))
    };
    let mut all = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.parse().map_err(|_| bad())?;
        let last: usize = last.parse().map_err(|_| bad())?;
        if first > last || last >= MOST {
            return Err(bad());
        }
        all.extend(first..=last);
    }
    Ok(all)
}

/// sched_setattr(2); `SCHED_*` and `SCHED_FLAG_*` of `<linux/sched.h>`.
fn scheduler(given: &oci_spec::runtime::Scheduler) -> Result<Scheduler, Error> {
    use LinuxSchedulerFlag as Flag;
    use LinuxSchedulerPolicy as Policy;
    let policy = match given.policy() {
        Policy::SchedOther => 0,
        Policy::SchedFifo => 1,
        Policy::SchedRr => 2,
        Policy::SchedBatch => 3,
        Policy::SchedIso => 4,
        Policy::SchedIdle => 5,
        Policy::SchedDeadline => 6,
    };
    let mut flags = 0;
    for flag in given.flags().iter().flatten() {
        flags |= match flag {
            Flag::SchedResetOnFork => 0x01,
            Flag::SchedFlagReclaim => 0x02,
            Flag::SchedFlagDLOverrun => 0x04,
            Flag::SchedFlagKeepPolicy => 0x08,
            Flag::SchedFlagKeepParams => 0x10,
            Flag::SchedFlagUtilClampMin | Flag::SchedFlagUtilClampMax => {
                return Err(Error::Unsupported(
                    "process.scheduler: flags of utilization clamps are not supported".to_owned(),
                ));
            }
        };
    }
    let priority = given.priority().unwrap_or(0);
    Ok(Scheduler {
        policy,
        flags,
        nice: given.nice().unwrap_or(0),
        priority: u32::try_from(priority).map_err(|_| {
            Error::Invalid(format!(
                "process.scheduler: priority {priority} is not possible"
            ))
        })?,
        runtime: given.runtime().unwrap_or(0),
        deadline: given.deadline().unwrap_or(0),
        period: given.period().unwrap_or(0),
    })
}
