//! What a profile means for one process: for each architecture, what is answered to which number.

use std::collections::BTreeMap;

use super::{
    format::{Action, Architecture, Call, Condition, NATIVE, Operator, Profile},
    table::SYSCALLS,
};

/// The rules of one filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The host's own architecture first.
    pub sections: Vec<Section>,
}

/// Those of one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Which.
    pub architecture: Architecture,
    /// By number.
    pub answers: BTreeMap<u32, Answer>,
    /// For numbers that are not there.
    pub default: Action,
    /// For numbers above all that the profile knows.
    pub newer: Action,
}

/// What is answered to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The first whose conditions all hold counts.
    pub cases: Vec<(Vec<Test>, Action)>,
    /// When none does.
    pub otherwise: Action,
}

/// A condition, and how much of the argument counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Test {
    /// What is compared.
    pub condition: Condition,
    /// The kernel takes this argument as an int: what a program puts above its 32 bits is not looked at,
    /// and must not make it another number here.
    pub narrow: bool,
}

/// The rules of a profile for a process with these capabilities on this kernel.
pub fn of(profile: &Profile, capabilities: u64, kernel: (u32, u32)) -> Rules {
    let here = |call: &&Call| is_there(call, capabilities, kernel);
    let calls: Vec<&Call> = profile.calls.iter().filter(here).collect();
    let architectures = std::iter::once(NATIVE).chain(profile.architectures.iter().copied());
    Rules {
        sections: architectures
            .map(|architecture| section(architecture, profile.default, &calls))
            .collect(),
    }
}

/// moby, seccomp_linux.go (setupSeccomp): the order of these tests makes no difference.
fn is_there(call: &Call, capabilities: u64, kernel: (u32, u32)) -> bool {
    let native = match NATIVE {
        Architecture::Aarch64 => "arm64",
        _ => "amd64",
    };
    let (only, not) = (&call.includes, &call.excludes);
    let at_least = |minimum: (u32, u32)| kernel >= minimum;
    (only.arches.is_empty() || only.arches.iter().any(|a| a == native))
        && !not.arches.iter().any(|a| a == native)
        && only.capabilities & !capabilities == 0
        && not.capabilities & capabilities == 0
        && only.min_kernel.is_none_or(at_least)
        && !not.min_kernel.is_some_and(at_least)
}

fn section(architecture: Architecture, default: Action, calls: &[&Call]) -> Section {
    let mut answers: BTreeMap<u32, Answer> = BTreeMap::new();
    let mut highest = 0;
    for call in calls {
        for name in &call.names {
            let Some(number) = number(name, architecture) else {
                continue;
            };
            highest = highest.max(number);
            // What would be answered anyhow is no rule (runc, libcontainer/seccomp: matchCall).
            if call.action == default {
                continue;
            }
            let answer = answers.entry(number).or_insert_with(|| Answer {
                cases: Vec::new(),
                otherwise: default,
            });
            add(answer, name, call, default);
        }
    }
    // A program that gets ENOSYS for a call that it knows and the profile does not falls back to an
    // older one; with EPERM it would give up (runc, patchbpf).
    let newer = if default.permits() {
        default
    } else {
        Action::errno(libc::ENOSYS as u32)
    };
    if highest == 0 {
        // Nothing is known of what the profile knows.
        return Section {
            architecture,
            answers,
            default,
            newer: default,
        };
    }
    // Up to there it is the default that answers.
    answers.entry(highest).or_insert_with(|| Answer {
        cases: Vec::new(),
        otherwise: default,
    });
    Section {
        architecture,
        answers,
        default,
        newer,
    }
}

/// As libseccomp has it: a rule without conditions replaces those with, and stays.
fn add(answer: &mut Answer, name: &str, call: &Call, default: Action) {
    if answer.otherwise != default {
        return;
    }
    if call.conditions.is_empty() {
        answer.cases.clear();
        answer.otherwise = call.action;
        return;
    }
    let tests: Vec<Test> = call
        .conditions
        .iter()
        .map(|condition| Test {
            condition: *condition,
            narrow: is_int(name, condition),
        })
        .collect();
    let twice = call.conditions.iter().enumerate().any(|(n, c)| {
        call.conditions[..n]
            .iter()
            .any(|other| other.index == c.index)
    });
    // runc: libseccomp takes one condition an argument, so several are alternatives.
    if twice {
        let alternatives = tests.into_iter().map(|test| (vec![test], call.action));
        answer.cases.extend(alternatives);
    } else {
        answer.cases.push((tests, call.action));
    }
}

/// Arguments that the kernel cuts to 32 bits: with all 64 compared, `socket(40 | 1 << 32)` would pass as
/// another family than 40, and make one of 40.
fn is_int(name: &str, condition: &Condition) -> bool {
    let fits = condition.value <= u64::from(u32::MAX)
        && (condition.operator != Operator::MaskedEqual
            || condition.value_two <= u64::from(u32::MAX));
    fits && match name {
        "socket" | "socketpair" => condition.index < 3,
        "socketcall" | "personality" | "prctl" | "unshare" | "setns" => condition.index == 0,
        "ioctl" | "fcntl" => condition.index < 2,
        _ => false,
    }
}

/// The number of a call.
fn number(name: &str, architecture: Architecture) -> Option<u32> {
    let at = SYSCALLS.binary_search_by_key(&name, |entry| entry.0).ok()?;
    let (_, x86_64, x86, aarch64) = SYSCALLS[at];
    let number = match architecture {
        Architecture::X86_64 => x86_64,
        Architecture::X86 => x86,
        Architecture::Aarch64 => aarch64,
    };
    u32::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        assert!(SYSCALLS.is_sorted_by_key(|entry| entry.0));
        let number = |name| number(name, NATIVE).map(i64::from);
        for (name, expected) in [
            ("read", libc::SYS_read),
            ("openat2", libc::SYS_openat2),
            ("clone3", libc::SYS_clone3),
            ("seccomp", libc::SYS_seccomp),
            ("mmap", libc::SYS_mmap),
            ("newfstatat", libc::SYS_newfstatat),
        ] {
            assert_eq!(number(name), Some(expected), "{name}");
        }
        assert_eq!(number("nonsense"), None);
    }
}
