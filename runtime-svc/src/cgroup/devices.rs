//! Which devices a container may open and make: docker's default list and what is granted besides, as
//! v1 rules and as an eBPF program for v2 (BPF_PROG_TYPE_CGROUP_DEVICE, Linux 4.15).
//!
//! Without it a container could make the host's disk with mknod, which docker's default capabilities
//! allow, and read it.

use std::{io, path::Path};

use crate::{
    executor::plan::{DeviceKind, DeviceRule},
    sys::ebpf::{self, Instruction},
};

/// Numbers of the kernel's `BPF_DEVCG_DEV_*`.
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;

const fn character(major: u32, minor: Option<u32>) -> DeviceRule {
    DeviceRule {
        kind: DeviceKind::Character,
        major: Some(major),
        minor,
        access: DeviceRule::ALL,
    }
}

const fn nodes(kind: DeviceKind) -> DeviceRule {
    DeviceRule {
        kind,
        major: None,
        minor: None,
        access: DeviceRule::MKNOD,
    }
}

/// docker's default: nodes may be made of all devices, but only these may be used.
pub const ALLOWED: [DeviceRule; 11] = [
    nodes(DeviceKind::Character),
    nodes(DeviceKind::Block),
    character(1, Some(3)),
    character(1, Some(5)),
    character(1, Some(7)),
    character(1, Some(8)),
    character(1, Some(9)),
    character(5, Some(0)),
    character(5, Some(1)),
    character(5, Some(2)),
    character(136, None),
];

/// Rules as `devices.allow` takes them (Documentation/admin-guide/cgroup-v1/devices.rst). There `a`
/// would mean everything, whatever the numbers say, so a rule for both kinds becomes two.
pub fn lines(rule: &DeviceRule) -> Vec<String> {
    let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
    let (major, minor) = (number(rule.major), number(rule.minor));
    let access: String = [
        (DeviceRule::READ, 'r'),
        (DeviceRule::WRITE, 'w'),
        (DeviceRule::MKNOD, 'm'),
    ]
    .into_iter()
    .filter(|(bit, _)| rule.access & bit != 0)
    .map(|(_, letter)| letter)
    .collect();
    let kinds: &[char] = match rule.kind {
        DeviceKind::Block => &['b'],
        DeviceKind::Character => &['c'],
        DeviceKind::All => &['b', 'c'],
    };
    kinds
        .iter()
        .map(|kind| format!("{kind} {major}:{minor} {access}"))
        .collect()
}

/// Attaches the default list and these rules to a v2 group.
pub fn restrict(group: &Path, granted: &[DeviceRule]) -> io::Result<()> {
    let rules: Vec<DeviceRule> = ALLOWED.iter().chain(granted).copied().collect();
    ebpf::attach_device_filter(group, &program(&rules, 1))
}

/// Attaches a filter that forbids these and allows all others.
pub fn deny(group: &Path, denied: &[DeviceRule]) -> io::Result<()> {
    ebpf::attach_device_filter(group, &program(denied, 0))
}

/// The program: `answer` when a rule is about the access, else the opposite; 1 allows. A rule that allows is
/// about an access that it allows all of; one that forbids about an access that it forbids a part of. Its context is `struct bpf_cgroup_dev_ctx`
/// {u32 access_type (kind in the low half, access in the high one), major, minor}.
fn program(rules: &[DeviceRule], answer: i32) -> Vec<Instruction> {
    const KIND: u8 = 2;
    const ACCESS: u8 = 3;
    const MAJOR: u8 = 4;
    const MINOR: u8 = 5;
    const SCRATCH: u8 = 6;
    let mut program = vec![
        Instruction::load_word(KIND, 1, 0),
        Instruction::copy(ACCESS, KIND),
        Instruction::and(KIND, 0xffff),
        Instruction::shift_right(ACCESS, 16),
        Instruction::load_word(MAJOR, 1, 4),
        Instruction::load_word(MINOR, 1, 8),
    ];
    for rule in rules {
        let mut test = Vec::new();
        match rule.kind {
            DeviceKind::Block => test.push(Instruction::skip_unless_equal(KIND, BLOCK)),
            DeviceKind::Character => test.push(Instruction::skip_unless_equal(KIND, CHARACTER)),
            DeviceKind::All => {}
        }
        if rule.access != DeviceRule::ALL {
            test.push(Instruction::copy(SCRATCH, ACCESS));
            match answer {
                1 => {
                    test.push(Instruction::and(SCRATCH, !(rule.access as i32)));
                    test.push(Instruction::skip_unless_equal(SCRATCH, 0));
                }
                _ => {
                    test.push(Instruction::and(SCRATCH, rule.access as i32));
                    test.push(Instruction::skip_if_equal(SCRATCH, 0));
                }
            }
        }
        test.extend(
            rule.major
                .map(|n| Instruction::skip_unless_equal(MAJOR, n as i32)),
        );
        test.extend(
            rule.minor
                .map(|n| Instruction::skip_unless_equal(MINOR, n as i32)),
        );
        test.push(Instruction::set(0, answer));
        test.push(Instruction::exit());
        let length = test.len();
        for (i, instruction) in test.iter_mut().enumerate() {
            instruction.aim_at((length - i - 1) as i16);
        }
        program.extend(test);
        // Everything is allowed: the verifier takes no instructions that are never reached.
        if *rule
            == (DeviceRule {
                kind: DeviceKind::All,
                major: None,
                minor: None,
                access: DeviceRule::ALL,
            })
        {
            return program;
        }
    }
    program.push(Instruction::set(0, 1 - answer));
    program.push(Instruction::exit());
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: DeviceRule = DeviceRule {
        kind: DeviceKind::All,
        major: None,
        minor: None,
        access: DeviceRule::ALL,
    };

    #[test]
    fn rules_read_as_dockers() {
        let text: Vec<String> = ALLOWED.iter().flat_map(lines).collect();
        assert_eq!(text[0], "c *:* m");
        assert_eq!(text[2], "c 1:3 rwm");
        assert_eq!(text[10], "c 136:* rwm");
        assert_eq!(lines(&EVERYTHING), ["b *:* rwm", "c *:* rwm"]);
    }

    #[test]
    fn the_kernel_takes_the_programs() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: loading eBPF needs root");
            return;
        }
        let disk = DeviceRule {
            kind: DeviceKind::Block,
            major: Some(8),
            minor: Some(0),
            access: DeviceRule::READ,
        };
        let many = vec![disk; 200];
        for granted in [&[][..], &[disk], &[disk, EVERYTHING, disk], &many] {
            let rules: Vec<DeviceRule> = ALLOWED.iter().chain(granted).copied().collect();
            ebpf::load_device_filter(&program(&rules, 1)).unwrap();
            ebpf::load_device_filter(&program(&rules, 0)).unwrap();
        }
    }
}
