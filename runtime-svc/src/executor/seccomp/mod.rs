//! docker's default filter of system calls, compiled to BPF.
//!
//! Everything that is not allowed answers EPERM, except calls newer than the profile knows, which
//! answer ENOSYS so that programs fall back to what they did before (as runc does since 1.0-rc93).
//! `profile` says what is allowed, this file turns it into instructions.

mod profile;

use crate::sys::bpf::Instruction;

pub use profile::{Argument, Rule, rules};

const EPERM: u32 = libc::EPERM as u32;
const ENOSYS: u32 = libc::ENOSYS as u32;

const LOAD_WORD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

const RETURN_ALLOW: u32 = 0x7fff_0000;
const RETURN_ERRNO: u32 = 0x0005_0000;

/// Offsets in `struct seccomp_data`.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

/// Bit of x32 system calls, which share the architecture's number with the usual ones.
const X32_BIT: u32 = 0x4000_0000;

/// The default profile for a process with these capabilities.
pub fn default_program(capabilities: u64) -> Vec<Instruction> {
    compile(&rules(capabilities))
}

/// A filter for these rules, sorted by number.
///
/// Linear in ranges, not in calls: neighbours with the same answer are one range, found by bisection,
/// so that a call costs some seven comparisons.
pub fn compile(rules: &[(u32, Rule)]) -> Vec<Instruction> {
    let mut sorted = rules.to_vec();
    sorted.sort_by_key(|(number, _)| *number);
    sorted.dedup_by_key(|(number, _)| *number);
    let highest = sorted.last().map_or(0, |(number, _)| *number);
    let ranges = ranges(&sorted, highest);

    let mut program = vec![
        op(LOAD_WORD, OFFSET_ARCH),
        branch(JUMP_EQUAL, ARCH, 1, 0),
        op(RETURN, RETURN_ERRNO | ENOSYS),
        op(LOAD_WORD, OFFSET_NUMBER),
        // Before the bisection: x32 numbers are above all others.
        branch(JUMP_GREATER_EQUAL, X32_BIT, 0, 1),
        op(RETURN, RETURN_ERRNO | EPERM),
    ];
    bisect(&mut program, &ranges);
    program
}

/// From which number on which rule holds.
fn ranges(sorted: &[(u32, Rule)], highest: u32) -> Vec<(u32, Rule)> {
    let mut ranges: Vec<(u32, Rule)> = Vec::new();
    let mut push = |from: u32, rule: Rule| {
        if ranges.last().is_none_or(|(_, last)| *last != rule) {
            ranges.push((from, rule));
        }
    };
    let mut next = 0;
    for (number, rule) in sorted {
        if *number > next {
            push(next, Rule::Errno(EPERM));
        }
        push(*number, rule.clone());
        next = number + 1;
    }
    push(highest + 1, Rule::Errno(ENOSYS));
    ranges
}

fn bisect(program: &mut Vec<Instruction>, ranges: &[(u32, Rule)]) {
    if let [(_, rule)] = ranges {
        return leaf(program, rule);
    }
    let middle = ranges.len() / 2;
    let at = program.len();
    // Below the middle: fall through. From it on: a long jump, since a conditional one reaches only
    // 255 instructions far.
    program.push(branch(JUMP_GREATER_EQUAL, ranges[middle].0, 0, 1));
    program.push(op(JUMP, 0));
    bisect(program, &ranges[..middle]);
    program[at + 1].k = (program.len() - at - 2) as u32;
    bisect(program, &ranges[middle..]);
}

fn leaf(program: &mut Vec<Instruction>, rule: &Rule) {
    match rule {
        Rule::Allow => program.push(op(RETURN, RETURN_ALLOW)),
        Rule::Errno(errno) => program.push(op(RETURN, RETURN_ERRNO | errno)),
        Rule::AllowIf(alternatives) => {
            for argument in alternatives {
                test(program, argument);
            }
            program.push(op(RETURN, RETURN_ERRNO | EPERM));
        }
    }
}

/// Returns ALLOW when the argument is as wanted, else goes on behind.
fn test(program: &mut Vec<Instruction>, argument: &Argument) {
    let low = OFFSET_ARGS + 8 * argument.index;
    match argument.not_equal {
        // Only the low half counts for these (int arguments); the kernel ignores the high one.
        false => program.extend([
            op(LOAD_WORD, low),
            op(AND, argument.mask),
            branch(JUMP_EQUAL, argument.value, 0, 1),
            op(RETURN, RETURN_ALLOW),
        ]),
        true => program.extend([
            op(LOAD_WORD, low),
            op(AND, argument.mask),
            branch(JUMP_EQUAL, argument.value, 1, 0),
            op(RETURN, RETURN_ALLOW),
        ]),
    }
}

const fn op(code: u16, k: u32) -> Instruction {
    Instruction {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

const fn branch(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    fn run(program: &[Instruction], arch: u32, number: u32, args: [u64; 6]) -> u32 {
        let word = |offset: u32| match offset {
            OFFSET_NUMBER => number,
            OFFSET_ARCH => arch,
            _ => {
                let i = offset - OFFSET_ARGS;
                (args[(i / 8) as usize] >> (8 * (i % 8))) as u32
            }
        };
        let (mut pc, mut a) = (0, 0);
        loop {
            let i = program[pc];
            pc += 1;
            match i.code {
                LOAD_WORD => a = word(i.k),
                AND => a &= i.k,
                JUMP => pc += i.k as usize,
                JUMP_EQUAL => pc += if a == i.k { i.jt } else { i.jf } as usize,
                JUMP_GREATER_EQUAL => pc += if a >= i.k { i.jt } else { i.jf } as usize,
                RETURN => return i.k,
                other => panic!("unknown operation {other:#x}"),
            }
        }
    }

    fn verdict(capabilities: u64, number: i64, args: [u64; 6]) -> u32 {
        run(&default_program(capabilities), ARCH, number as u32, args)
    }

    const DEFAULT_CAPS: u64 = 0xa804_25fb;

    #[test]
    fn the_default_profile_answers_as_dockers() {
        let call = |number: i64| verdict(DEFAULT_CAPS, number, [0; 6]);
        for allowed in [
            libc::SYS_read,
            libc::SYS_execve,
            libc::SYS_openat2,
            libc::SYS_chroot,
            libc::SYS_close_range,
        ] {
            assert_eq!(call(allowed), RETURN_ALLOW, "{allowed}");
        }
        for refused in [
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_keyctl,
            libc::SYS_bpf,
            libc::SYS_reboot,
            libc::SYS_init_module,
            libc::SYS_open_by_handle_at,
            libc::SYS_io_uring_setup,
            libc::SYS_setns,
        ] {
            assert_eq!(call(refused), RETURN_ERRNO | EPERM, "{refused}");
        }
        // glibc falls back to clone() on ENOSYS only.
        assert_eq!(call(libc::SYS_clone3), RETURN_ERRNO | ENOSYS);
        assert_eq!(call(5000), RETURN_ERRNO | ENOSYS);
    }

    #[test]
    fn arguments_count() {
        let new_user = libc::CLONE_NEWUSER as u64;
        assert_eq!(
            verdict(DEFAULT_CAPS, libc::SYS_clone, [new_user, 0, 0, 0, 0, 0]),
            RETURN_ERRNO | EPERM
        );
        assert_eq!(
            verdict(
                DEFAULT_CAPS,
                libc::SYS_clone,
                [libc::SIGCHLD as u64, 0, 0, 0, 0, 0]
            ),
            RETURN_ALLOW
        );
        let vsock = libc::AF_VSOCK as u64;
        assert_eq!(
            verdict(DEFAULT_CAPS, libc::SYS_socket, [vsock, 0, 0, 0, 0, 0]),
            RETURN_ERRNO | EPERM
        );
        assert_eq!(
            verdict(DEFAULT_CAPS, libc::SYS_socket, [2, 1, 0, 0, 0, 0]),
            RETURN_ALLOW
        );
        assert_eq!(
            verdict(DEFAULT_CAPS, libc::SYS_personality, [0x8, 0, 0, 0, 0, 0]),
            RETURN_ALLOW
        );
        assert_eq!(
            verdict(DEFAULT_CAPS, libc::SYS_personality, [0x4, 0, 0, 0, 0, 0]),
            RETURN_ERRNO | EPERM
        );
    }

    #[test]
    fn capabilities_open_what_they_need() {
        let admin = DEFAULT_CAPS | 1 << 21;
        assert_eq!(verdict(admin, libc::SYS_mount, [0; 6]), RETURN_ALLOW);
        assert_eq!(verdict(admin, libc::SYS_clone3, [0; 6]), RETURN_ALLOW);
        assert_eq!(
            verdict(DEFAULT_CAPS | 1 << 25, libc::SYS_settimeofday, [0; 6]),
            RETURN_ALLOW
        );
        assert_eq!(
            verdict(DEFAULT_CAPS & !(1 << 18), libc::SYS_chroot, [0; 6]),
            RETURN_ERRNO | EPERM
        );
    }

    #[test]
    fn other_architectures_and_x32_are_refused() {
        let program = default_program(DEFAULT_CAPS);
        assert_eq!(run(&program, 0x4000_0003, 4, [0; 6]), RETURN_ERRNO | ENOSYS);
        assert_eq!(run(&program, ARCH, X32_BIT, [0; 6]), RETURN_ERRNO | EPERM);
    }

    #[test]
    fn the_program_fits_the_kernels_limit() {
        let length = default_program(u64::MAX).len();
        assert!(length < 4096, "{length}");
    }
}
