//! Keeping small what idles most of its life: heaps, and what of the program is in memory.

#![expect(
    unsafe_code,
    reason = "the allocator's settings and madvise(2) have no safe form"
)]

use std::ffi::{c_int, c_void};

/// Lets all threads share two heaps, which keep 4 MiB of what is freed for the next who needs it. To be called
/// before there are threads.
///
/// glibc would give each thread, of up to eight times as many as there are processors, a heap of its own, and what
/// dozens of threads have freed in those stays there. At the end of a heap it would keep 128 KiB only: a body that
/// comes in by pieces of 512 KiB gives its pages back at each piece and has the next ones cleared by the kernel,
/// a sixth of what a large push costs. Blocks of 1 MiB go back to the kernel as soon as they are freed. (mallopt(3).)
pub fn settle_heaps() {
    #[cfg(target_env = "gnu")]
    // SAFETY: changes numbers of the allocator before there are threads. It can only refuse.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 4 << 20);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
    }
}

/// Gives free memory back to the kernel, of whatever size the pieces are (malloc_trim(3)): after work whose
/// memory nothing else needs. The allocator by itself gives back only what lies at a heap's end.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only free memory goes; anything that is in use stays where it is.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Forgets what is not being used: free memory goes back to the kernel, and so do the pages of the
/// program, which come back from the page cache one by one as they are used again.
///
/// Half of an idle service's memory is pages that its start or some call has touched, or that lie beside those
/// (the kernel maps sixteen at a time).
pub fn forget_what_rests() {
    give_back();
    // SAFETY: the callback is of the form that dl_iterate_phdr(3) asks for and uses no data of ours.
    unsafe {
        libc::dl_iterate_phdr(Some(forget_code), std::ptr::null_mut());
    }
}

/// Called for every object, the program itself first, which is the only one that is looked at.
///
/// SAFETY (of callers): `info` is valid for the time of the call, as dl_iterate_phdr(3) says.
unsafe extern "C" fn forget_code(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut c_void,
) -> c_int {
    // SAFETY: dl_iterate_phdr gives a pointer that is valid during this call, and with it the program's own
    // headers, of which there are `dlpi_phnum`.
    let (base, headers) = unsafe {
        let info = &*info;
        let count = usize::from(info.dlpi_phnum);
        (
            info.dlpi_addr,
            std::slice::from_raw_parts(info.dlpi_phdr, count),
        )
    };
    // SAFETY: asks for a number.
    let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    for header in headers {
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        // What shares a page with data that was written to stays.
        let (start, end) = (
            base + header.p_vaddr,
            base + header.p_vaddr + header.p_memsz,
        );
        let (start, end) = (start.next_multiple_of(page), end / page * page);
        if start < end {
            // SAFETY: a segment that is not writable is a private mapping of the program's file that nobody
            // has written to: its pages are read from there again, the same as before (madvise(2),
            // MADV_DONTNEED). It can only refuse, and then they stay.
            unsafe {
                libc::madvise(
                    start as *mut c_void,
                    (end - start) as usize,
                    libc::MADV_DONTNEED,
                );
            }
        }
    }
    1
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_forgotten_comes_back() {
        let text = String::from("still here");
        let before = std::env::args().next();
        super::forget_what_rests();
        assert_eq!(text, "still here");
        assert_eq!(std::env::args().next(), before);
    }
}
