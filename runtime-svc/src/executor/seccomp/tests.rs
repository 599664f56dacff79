use super::{
    compile::*,
    format::{Action, Architecture, NATIVE},
    *,
};

const EPERM: u32 = Action::errno(libc::EPERM as u32).0;
const ENOSYS: u32 = Action::errno(libc::ENOSYS as u32).0;
const ALLOW: u32 = Action::ALLOW.0;

/// Runs a program as the kernel would, and as its checker insists: forwards, inside, to a return.
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
        let way = |holds: bool| if holds { i.jt } else { i.jf } as usize;
        match i.code {
            LOAD_WORD => a = word(i.k),
            AND => a &= i.k,
            JUMP => pc += i.k as usize,
            JUMP_EQUAL => pc += way(a == i.k),
            JUMP_GREATER => pc += way(a > i.k),
            JUMP_GREATER_EQUAL => pc += way(a >= i.k),
            RETURN => return i.k,
            other => panic!("unknown operation {other:#x}"),
        }
    }
}

fn verdict(capabilities: u64, number: i64, args: [u64; 6]) -> u32 {
    let program = default_program(capabilities);
    run(&program, audit_number(NATIVE), number as u32, args)
}

fn first(value: u64) -> [u64; 6] {
    [value, 0, 0, 0, 0, 0]
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
        libc::SYS_ptrace,
        // cachestat, futex_requeue, statmount, removexattrat
        451,
        456,
        457,
        466,
    ] {
        assert_eq!(call(allowed), ALLOW, "{allowed}");
    }
    for refused in [
        libc::SYS_mount,
        libc::SYS_unshare,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_bpf,
        libc::SYS_reboot,
        libc::SYS_init_module,
        libc::SYS_open_by_handle_at,
        libc::SYS_io_uring_setup,
        libc::SYS_setns,
        libc::SYS_userfaultfd,
        libc::SYS_perf_event_open,
        libc::SYS_kexec_load,
        libc::SYS_pivot_root,
        libc::SYS_swapon,
        libc::SYS_move_pages,
        libc::SYS_fsopen,
        // lsm_set_self_attr
        460,
    ] {
        assert_eq!(call(refused), EPERM, "{refused}");
    }
    // glibc falls back to clone() on ENOSYS only.
    assert_eq!(call(libc::SYS_clone3), ENOSYS);
    // Newer than the profile.
    assert_eq!((call(467), call(5000)), (ENOSYS, ENOSYS));
}

#[test]
fn arguments_count() {
    let new_user = libc::CLONE_NEWUSER as u64;
    let clone = |flags| verdict(DEFAULT_CAPS, libc::SYS_clone, first(flags));
    assert_eq!(clone(new_user), EPERM);
    assert_eq!(clone(libc::SIGCHLD as u64), ALLOW);
    let socket = |family: i32| verdict(DEFAULT_CAPS, libc::SYS_socket, first(family as u64));
    for family in [
        libc::AF_UNIX,
        libc::AF_INET,
        libc::AF_INET6,
        libc::AF_NETLINK,
        libc::AF_PACKET,
    ] {
        assert_eq!(socket(family), ALLOW, "{family}");
    }
    for family in [
        libc::AF_VSOCK,
        libc::AF_ALG,
        libc::AF_DECnet,
        libc::AF_CAIF,
        46,
        -1,
    ] {
        assert_eq!(socket(family), EPERM, "{family}");
    }
    // The kernel takes an int: what is above it must not hide the family.
    let hidden = libc::AF_VSOCK as u64 | 1 << 40;
    assert_eq!(
        verdict(DEFAULT_CAPS, libc::SYS_socket, first(hidden)),
        EPERM
    );
    let personality = |value| verdict(DEFAULT_CAPS, libc::SYS_personality, first(value));
    assert_eq!((personality(0x8), personality(0x4)), (ALLOW, EPERM));
}

#[test]
fn capabilities_open_what_they_need() {
    let admin = DEFAULT_CAPS | 1 << 21;
    assert_eq!(verdict(admin, libc::SYS_mount, [0; 6]), ALLOW);
    assert_eq!(verdict(admin, libc::SYS_clone3, [0; 6]), ALLOW);
    let new_user = first(libc::CLONE_NEWUSER as u64);
    assert_eq!(verdict(admin, libc::SYS_clone, new_user), ALLOW);
    let time = DEFAULT_CAPS | 1 << 25;
    assert_eq!(verdict(time, libc::SYS_settimeofday, [0; 6]), ALLOW);
    let no_chroot = DEFAULT_CAPS & !(1 << 18);
    assert_eq!(verdict(no_chroot, libc::SYS_chroot, [0; 6]), EPERM);
}

#[test]
fn other_architectures() {
    let program = default_program(DEFAULT_CAPS);
    if NATIVE == Architecture::X86_64 {
        let x86 = audit_number(Architecture::X86);
        // 4 = write, 21 = mount, 120 = clone, 359 = socket; 386 programs run as with docker.
        assert_eq!(run(&program, x86, 4, [0; 6]), ALLOW);
        assert_eq!(run(&program, x86, 21, [0; 6]), EPERM);
        let new_user = first(libc::CLONE_NEWUSER as u64);
        assert_eq!(run(&program, x86, 120, new_user), EPERM);
        assert_eq!(run(&program, x86, 359, first(40)), EPERM);
        let native = audit_number(NATIVE);
        assert_eq!(run(&program, native, X32_BIT, [0; 6]), ENOSYS);
    }
    // s390x
    assert_eq!(run(&program, 0x8000_0016, 4, [0; 6]), Action::KILL_THREAD.0);
}

#[test]
fn the_program_fits_the_kernels_limit() {
    let length = default_program(u64::MAX >> 1).len();
    assert!(length < 4096, "{length}");
}

/// A profile with one rule about `read`, and what it answers to a first argument.
fn one_rule(arguments: &str) -> impl Fn(u64) -> bool + use<> {
    let json = format!(
        r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"name":"read","action":"SCMP_ACT_ERRNO","args":[{arguments}]}}]}}"#
    );
    let (program, _) = custom(&json, 0).unwrap();
    move |value| {
        run(
            &program,
            audit_number(NATIVE),
            libc::SYS_read as u32,
            first(value),
        ) == EPERM
    }
}

#[test]
fn every_operator_compares_all_of_the_argument() {
    const VALUES: [u64; 12] = [
        0,
        1,
        5,
        6,
        0xffff_ffff,
        0x1_0000_0000,
        0x1_0000_0005,
        0x5_0000_0000,
        0x5_0000_0005,
        0x5_0000_0006,
        0x6_0000_0005,
        u64::MAX,
    ];
    type Compare = fn(u64, u64) -> bool;
    let operators: [(&str, Compare); 6] = [
        ("NE", |a, b| a != b),
        ("LT", |a, b| a < b),
        ("LE", |a, b| a <= b),
        ("EQ", |a, b| a == b),
        ("GE", |a, b| a >= b),
        ("GT", |a, b| a > b),
    ];
    for (name, compare) in operators {
        for against in VALUES {
            let rule = one_rule(&format!(
                r#"{{"index":0,"value":{against},"op":"SCMP_CMP_{name}"}}"#
            ));
            for value in VALUES {
                assert_eq!(
                    rule(value),
                    compare(value, against),
                    "{value:#x} {name} {against:#x}"
                );
            }
        }
    }
    for (mask, wanted) in [(0xff, 5), (0x5_0000_0000, 0x5_0000_0000), (u64::MAX, 6)] {
        let rule = one_rule(&format!(
            r#"{{"index":0,"value":{mask},"valueTwo":{wanted},"op":"SCMP_CMP_MASKED_EQ"}}"#
        ));
        for value in VALUES {
            assert_eq!(
                rule(value),
                value & mask == wanted,
                "{value:#x} & {mask:#x}"
            );
        }
    }
}

#[test]
fn conditions_of_a_rule_all_hold_but_two_about_one_argument_are_alternatives() {
    let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":7,"syscalls":[
        {"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":1,"value":2,"op":"SCMP_CMP_EQ"}]},
        {"names":["write"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":0,"value":2,"op":"SCMP_CMP_EQ"}]},
        {"names":["close"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":9,"op":"SCMP_CMP_EQ"}]},
        {"names":["close"],"action":"SCMP_ACT_LOG"},
        {"names":["fsync"],"action":"SCMP_ACT_KILL_PROCESS"},{"names":["sync"],"action":"SCMP_ACT_TRAP"}]}"#;
    let (program, _) = custom(json, 0).unwrap();
    let answer = |number: i64, a: u64, b: u64| {
        let args = [a, b, 0, 0, 0, 0];
        run(&program, audit_number(NATIVE), number as u32, args)
    };
    let refused = Action::errno(7).0;
    assert_eq!(answer(libc::SYS_read, 1, 2), ALLOW);
    assert_eq!(answer(libc::SYS_read, 1, 3), refused);
    assert_eq!(answer(libc::SYS_write, 1, 0), ALLOW);
    assert_eq!(answer(libc::SYS_write, 2, 0), ALLOW);
    assert_eq!(answer(libc::SYS_write, 3, 0), refused);
    assert_eq!(answer(libc::SYS_close, 1, 0), 0x7ffc_0000);
    assert_eq!(answer(libc::SYS_fsync, 0, 0), 0x8000_0000);
    assert_eq!(answer(libc::SYS_sync, 0, 0), 0x0003_0000);
    assert_eq!(answer(libc::SYS_open_by_handle_at, 0, 0), ENOSYS);
}

#[test]
fn conditions_on_the_process_and_the_kernel() {
    let json = |part: &str| {
        format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["read"],"action":"SCMP_ACT_ERRNO",{part}}}]}}"#
        )
    };
    let there = |part: &str, capabilities: u64| {
        let (program, _) = custom(&json(part), capabilities).unwrap();
        let native = audit_number(NATIVE);
        run(&program, native, libc::SYS_read as u32, [0; 6]) == EPERM
    };
    let admin = 1 << 21;
    assert!(there(r#""includes":{"caps":["CAP_SYS_ADMIN"]}"#, admin));
    assert!(!there(
        r#""includes":{"caps":["CAP_SYS_ADMIN","CAP_KILL"]}"#,
        admin
    ));
    assert!(!there(r#""excludes":{"caps":["CAP_SYS_ADMIN"]}"#, admin));
    assert!(there(r#""excludes":{"caps":["CAP_SYS_ADMIN"]}"#, 0));
    assert!(there(r#""includes":{"minKernel":"4.8"}"#, 0));
    assert!(!there(r#""includes":{"minKernel":"99.0"}"#, 0));
    assert!(!there(r#""excludes":{"minKernel":"4.8"}"#, 0));
    assert!(!there(r#""includes":{"arches":["s390x"]}"#, 0));
    assert!(!there(
        r#""includes":{"caps":["CAP_OF_TOMORROW"]}"#,
        capabilities::all()
    ));
}

/// Whatever is done to a profile: it is refused, or makes a program that ends.
#[test]
fn a_broken_profile_never_panics() {
    // A generator of our own: words of the format in any order, cut anywhere.
    let valid = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,"archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],"syscalls":[{"names":["read","socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":18446744073709551615,"valueTwo":3,"op":"SCMP_CMP_LT"}],"includes":{"caps":["CAP_KILL"],"minKernel":"4.8","arches":["amd64"]}}]}"#;
    assert!(custom(valid, 0).is_ok());
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for _ in 0..20_000 {
        let mut bytes = valid.as_bytes().to_vec();
        for _ in 0..=random(4) {
            let at = random(bytes.len());
            match random(4) {
                0 => bytes[at] = random(128) as u8,
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, b"{}[]\",:09-\\u"[random(12)]),
                _ => {
                    let length = random(40).min(bytes.len() - at);
                    let part = bytes[at..at + length].to_vec();
                    bytes.splice(at..at, part);
                }
            }
            if bytes.is_empty() {
                bytes.push(b'{');
            }
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Ok((program, _)) = custom(&text, u64::MAX) {
            // Whatever was made ends, for any call.
            for number in [0, 1, 41, 500, u32::MAX] {
                run(
                    &program,
                    audit_number(NATIVE),
                    number,
                    [random(9) as u64; 6],
                );
            }
        }
    }
}
