//! Which devices a container may open and make: docker's default list, as v1 rules and as an eBPF
//! program for v2 (BPF_PROG_TYPE_CGROUP_DEVICE, Linux 4.15).
//!
//! Without it a container could make the host's disk with mknod, which docker's default capabilities
//! allow, and read it.

use std::{fmt, io, path::Path};

use crate::sys::ebpf::{self, Instruction};

/// A rule: what is allowed.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    kind: Kind,
    major: Option<u32>,
    minor: Option<u32>,
    /// Bits of [`MKNOD`], [`READ`], [`WRITE`].
    access: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Block = 1,
    Character = 2,
}

/// `BPF_DEVCG_ACC_*`
const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const ALL: u32 = MKNOD | READ | WRITE;

const fn character(major: u32, minor: Option<u32>) -> Rule {
    Rule {
        kind: Kind::Character,
        major: Some(major),
        minor,
        access: ALL,
    }
}

/// docker's default: nodes may be made of all devices, but only these may be used.
pub const ALLOWED: [Rule; 11] = [
    Rule {
        kind: Kind::Character,
        major: None,
        minor: None,
        access: MKNOD,
    },
    Rule {
        kind: Kind::Block,
        major: None,
        minor: None,
        access: MKNOD,
    },
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

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        let kind = if self.kind == Kind::Block { 'b' } else { 'c' };
        write!(f, "{kind} {}:{} ", number(self.major), number(self.minor))?;
        for (bit, letter) in [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')] {
            if self.access & bit != 0 {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

/// Attaches the default list to a v2 group.
pub fn restrict(group: &Path) -> io::Result<()> {
    ebpf::attach_device_filter(group, &program(&ALLOWED))
}

/// The program: 1 when a rule allows the access, else 0. Its context is `struct bpf_cgroup_dev_ctx`
/// {u32 access_type (kind in the low half, access in the high one), major, minor}.
fn program(rules: &[Rule]) -> Vec<Instruction> {
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
        let mut test = vec![Instruction::skip_unless_equal(KIND, rule.kind as i32)];
        if rule.access != ALL {
            test.push(Instruction::copy(SCRATCH, ACCESS));
            test.push(Instruction::and(SCRATCH, !(rule.access as i32)));
            test.push(Instruction::skip_unless_equal(SCRATCH, 0));
        }
        test.extend(
            rule.major
                .map(|n| Instruction::skip_unless_equal(MAJOR, n as i32)),
        );
        test.extend(
            rule.minor
                .map(|n| Instruction::skip_unless_equal(MINOR, n as i32)),
        );
        test.push(Instruction::set(0, 1));
        test.push(Instruction::exit());
        let length = test.len();
        for (i, instruction) in test.iter_mut().enumerate() {
            instruction.aim_at((length - i - 1) as i16);
        }
        program.extend(test);
    }
    program.push(Instruction::set(0, 0));
    program.push(Instruction::exit());
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_read_as_dockers() {
        let text: Vec<String> = ALLOWED.iter().map(ToString::to_string).collect();
        assert_eq!(text[0], "c *:* m");
        assert_eq!(text[2], "c 1:3 rwm");
        assert_eq!(text[10], "c 136:* rwm");
    }

    #[test]
    fn the_kernel_takes_the_program() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: loading eBPF needs root");
            return;
        }
        ebpf::load_device_filter(&program(&ALLOWED)).unwrap();
    }
}
