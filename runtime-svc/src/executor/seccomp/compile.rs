//! From rules to classic BPF.

use super::{
    format::{Action, Architecture, NATIVE, Operator},
    rules::{Answer, Rules, Section, Test},
};
use crate::sys::bpf::Instruction;

pub const LOAD_WORD: u16 = 0x20;
pub const JUMP: u16 = 0x05;
pub const JUMP_EQUAL: u16 = 0x15;
pub const JUMP_GREATER: u16 = 0x25;
pub const JUMP_GREATER_EQUAL: u16 = 0x35;
pub const AND: u16 = 0x54;
pub const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
pub const OFFSET_NUMBER: u32 = 0;
pub const OFFSET_ARCH: u32 = 4;
pub const OFFSET_ARGS: u32 = 16;

/// Bit of x32 system calls, which share the architecture's number with the usual ones.
pub const X32_BIT: u32 = 0x4000_0000;

/// `AUDIT_ARCH_*`
pub const fn audit_number(architecture: Architecture) -> u32 {
    match architecture {
        Architecture::X86_64 => 0xc000_003e,
        Architecture::X86 => 0x4000_0003,
        Architecture::Aarch64 => 0xc000_00b7,
    }
}

/// A filter for these rules.
///
/// Linear in ranges, not in calls: neighbours with the same answer are one range, found by bisection,
/// so that a call costs some seven comparisons.
pub fn compile(rules: &Rules) -> Vec<Instruction> {
    let mut program = vec![op(LOAD_WORD, OFFSET_ARCH)];
    for section in &rules.sections {
        let mut part = vec![op(LOAD_WORD, OFFSET_NUMBER)];
        if section.architecture == Architecture::X86_64 {
            // Before the bisection: x32 numbers are above all others. Few kernels have them, and those
            // that have not answer the same.
            part.push(branch(JUMP_GREATER_EQUAL, X32_BIT, 0, 1));
            part.push(op(RETURN, Action::errno(libc::ENOSYS as u32).0));
        }
        bisect(&mut part, &ranges(section));
        // A long jump: a conditional one reaches only 255 instructions far.
        program.push(branch(JUMP_EQUAL, audit_number(section.architecture), 1, 0));
        program.push(op(JUMP, part.len() as u32));
        program.extend(part);
    }
    debug_assert_eq!(rules.sections[0].architecture, NATIVE);
    // libseccomp's answer to calls of an architecture that the filter is not about.
    program.push(op(RETURN, Action::KILL_THREAD.0));
    program
}

/// From which number on what is answered.
fn ranges(section: &Section) -> Vec<(u32, Answer)> {
    let plain = |action: Action| Answer {
        cases: Vec::new(),
        otherwise: action,
    };
    let mut ranges: Vec<(u32, Answer)> = Vec::new();
    let mut push = |from: u32, answer: Answer| {
        if ranges.last().is_none_or(|(_, last)| *last != answer) {
            ranges.push((from, answer));
        }
    };
    let mut next = 0;
    for (number, answer) in &section.answers {
        if *number > next {
            push(next, plain(section.default));
        }
        push(*number, answer.clone());
        next = number + 1;
    }
    push(next, plain(section.newer));
    ranges
}

fn bisect(program: &mut Vec<Instruction>, ranges: &[(u32, Answer)]) {
    if let [(_, answer)] = ranges {
        return leaf(program, answer);
    }
    let middle = ranges.len() / 2;
    let at = program.len();
    // Below the middle: fall through. From it on: a long jump.
    program.push(branch(JUMP_GREATER_EQUAL, ranges[middle].0, 0, 1));
    program.push(op(JUMP, 0));
    bisect(program, &ranges[..middle]);
    program[at + 1].k = (program.len() - at - 2) as u32;
    bisect(program, &ranges[middle..]);
}

fn leaf(program: &mut Vec<Instruction>, answer: &Answer) {
    for (tests, action) in &answer.cases {
        let mut case = Vec::new();
        for test in tests {
            add_test(&mut case, test);
        }
        case.push(op(RETURN, action.0));
        // Whoever fails goes on behind the case. Six conditions have 42 instructions at most.
        let length = case.len();
        for (i, instruction) in case.iter_mut().enumerate() {
            let rest = (length - i - 1) as u8;
            for way in [&mut instruction.jt, &mut instruction.jf] {
                if *way == FAILS {
                    *way = rest;
                }
            }
        }
        program.extend(case);
    }
    program.push(op(RETURN, answer.otherwise.0));
}

/// A jump whose distance is known when the case is complete.
const FAILS: u8 = u8::MAX;

/// Falls through when the condition holds.
fn add_test(case: &mut Vec<Instruction>, test: &Test) {
    let condition = &test.condition;
    let low_at = OFFSET_ARGS + 8 * condition.index;
    let high_at = low_at + 4;
    let split = |n: u64| ((n >> 32) as u32, n as u32);
    let (high, low) = split(condition.value);
    let narrow = test.narrow;
    match condition.operator {
        Operator::Equal => {
            if !narrow {
                case.push(op(LOAD_WORD, high_at));
                case.push(branch(JUMP_EQUAL, high, 0, FAILS));
            }
            case.push(op(LOAD_WORD, low_at));
            case.push(branch(JUMP_EQUAL, low, 0, FAILS));
        }
        Operator::NotEqual => {
            if !narrow {
                case.push(op(LOAD_WORD, high_at));
                // Different already: past the other two.
                case.push(branch(JUMP_EQUAL, high, 0, 2));
            }
            case.push(op(LOAD_WORD, low_at));
            case.push(branch(JUMP_EQUAL, low, FAILS, 0));
        }
        Operator::MaskedEqual => {
            let (high_value, low_value) = split(condition.value_two);
            if !narrow {
                case.push(op(LOAD_WORD, high_at));
                case.push(op(AND, high));
                case.push(branch(JUMP_EQUAL, high_value, 0, FAILS));
            }
            case.push(op(LOAD_WORD, low_at));
            case.push(op(AND, low));
            case.push(branch(JUMP_EQUAL, low_value, 0, FAILS));
        }
        Operator::Greater | Operator::GreaterOrEqual => {
            if !narrow {
                case.push(op(LOAD_WORD, high_at));
                // Above: past the rest. Below: not. Equal: the low half decides.
                case.push(branch(JUMP_GREATER, high, 3, 0));
                case.push(branch(JUMP_EQUAL, high, 0, FAILS));
            }
            let code = match condition.operator {
                Operator::Greater => JUMP_GREATER,
                _ => JUMP_GREATER_EQUAL,
            };
            case.push(op(LOAD_WORD, low_at));
            case.push(branch(code, low, 0, FAILS));
        }
        Operator::Less | Operator::LessOrEqual => {
            if !narrow {
                case.push(op(LOAD_WORD, high_at));
                case.push(branch(JUMP_GREATER, high, FAILS, 0));
                // Below: past the rest.
                case.push(branch(JUMP_EQUAL, high, 0, 2));
            }
            let code = match condition.operator {
                Operator::Less => JUMP_GREATER_EQUAL,
                _ => JUMP_GREATER,
            };
            case.push(op(LOAD_WORD, low_at));
            case.push(branch(code, low, FAILS, 0));
        }
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
