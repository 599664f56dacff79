//! Capability sets of the calling thread (capabilities(7)).

use std::io;

const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Drops everything that is not in `keep` from the bounding set.
pub fn limit_bounding(keep: u64) -> io::Result<()> {
    for capability in 0..64u64 {
        if keep & (1 << capability) != 0 {
            continue;
        }
        // SAFETY: takes an integer only.
        let done = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        if done < 0 {
            let error = io::Error::last_os_error();
            // EINVAL: the kernel has no capability of that number, nor of a higher one.
            if error.raw_os_error() == Some(libc::EINVAL) {
                return Ok(());
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Sets effective and permitted to `set`, inheritable to nothing (CVE-2022-24769: inheritable
/// capabilities would let any file capability in the image raise privileges).
pub fn set(set: u64) -> io::Result<()> {
    set_each(set, set, 0)
}

/// Sets each of the three.
pub fn set_each(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let half = |shift: u32| Data {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 takes two data elements; both structures live through the call.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Makes everything effective that is permitted.
pub fn raise() -> io::Result<()> {
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut data = [Data {
        effective: 0,
        permitted: 0,
        inheritable: 0,
    }; 2];
    // SAFETY: version 3 fills two data elements; both structures live through the call.
    let read = unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) };
    if read < 0 {
        return Err(io::Error::last_os_error());
    }
    for half in &mut data {
        half.effective = half.permitted;
    }
    // SAFETY: as above; capset only reads.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// The bounding set of this thread: what could be given at all.
pub fn bounding() -> u64 {
    let mut set = 0;
    for capability in 0..64u64 {
        // SAFETY: takes an integer only.
        match unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) } {
            1 => set |= 1 << capability,
            0 => {}
            _ => break,
        }
    }
    set
}

/// Adds to the ambient set what is both permitted and inheritable.
pub fn raise_ambient(set: u64) -> io::Result<()> {
    for capability in (0..64u64).filter(|n| set & (1 << n) != 0) {
        let raise = libc::PR_CAP_AMBIENT_RAISE;
        // SAFETY: takes integers only.
        let done = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, raise, capability, 0, 0) };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Empties the ambient set.
pub fn clear_ambient() -> io::Result<()> {
    // SAFETY: takes integers only.
    let done = unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
