//! The little of bpf(2) that a device filter needs.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
};

use rustix::fs::{Mode, OFlags};

const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_ATTACH: i32 = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// A container's own children may add filters of theirs.
const ALLOW_MULTI: u32 = 2;

/// An eBPF instruction (Documentation/bpf/standardization/instruction-set.rst).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    const fn new(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Self {
        Self {
            code,
            registers: from << 4 | to,
            offset,
            immediate,
        }
    }
    /// `to = *(u32 *)(from + offset)`
    pub const fn load_word(to: u8, from: u8, offset: i16) -> Self {
        Self::new(0x61, to, from, offset, 0)
    }
    /// `to = from`
    pub const fn copy(to: u8, from: u8) -> Self {
        Self::new(0xbf, to, from, 0, 0)
    }
    /// `to = value`
    pub const fn set(to: u8, value: i32) -> Self {
        Self::new(0xb7, to, 0, 0, value)
    }
    /// 32-bit `to &= mask`
    pub const fn and(to: u8, mask: i32) -> Self {
        Self::new(0x54, to, 0, 0, mask)
    }
    /// 32-bit `to >>= bits`
    pub const fn shift_right(to: u8, bits: i32) -> Self {
        Self::new(0x74, to, 0, 0, bits)
    }
    /// `if register != value goto` what [`Self::aim_at`] says.
    pub const fn skip_unless_equal(register: u8, value: i32) -> Self {
        Self::new(0x55, register, 0, 0, value)
    }
    /// `if register == value goto` what [`Self::aim_at`] says.
    pub const fn skip_if_equal(register: u8, value: i32) -> Self {
        Self::new(0x15, register, 0, 0, value)
    }
    /// Returns register 0.
    pub const fn exit() -> Self {
        Self::new(0x95, 0, 0, 0, 0)
    }
    /// Sets how far a conditional jump goes; nothing for others.
    pub const fn aim_at(&mut self, distance: i16) {
        if self.code == 0x55 || self.code == 0x15 {
            self.offset = distance;
        }
    }
}

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
}

#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// Loads a device filter; the kernel checks it.
pub fn load_device_filter(program: &[Instruction]) -> io::Result<OwnedFd> {
    let attr = LoadAttr {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..LoadAttr::default()
    };
    // SAFETY: the pointers in `attr` live through the call; its size is given.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const attr,
            std::mem::size_of::<LoadAttr>(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Loads a device filter and attaches it to a v2 group; it lives as long as the group.
pub fn attach_device_filter(group: &Path, program: &[Instruction]) -> io::Result<()> {
    let program = load_device_filter(program)?;
    let group = rustix::fs::open(
        group,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let attr = AttachAttr {
        target_fd: group.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: ALLOW_MULTI,
    };
    // SAFETY: `attr` lives through the call; its size is given.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_ATTACH,
            &raw const attr,
            std::mem::size_of::<AttachAttr>(),
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
