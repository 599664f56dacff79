//! Keeping the heaps of processes small that live long and do little.

/// Large buffers go back to the kernel as soon as they are dropped. glibc would keep the room of one that was
/// freed for the next, as it takes it for a habit (mallopt(3), "dynamic mmap threshold").
#[cfg(target_env = "gnu")]
pub fn let_large_blocks_go() {
    const LARGE: i32 = 64 * 1024;
    // SAFETY: changes two numbers of the allocator; this process has one thread. It can only refuse, and
    // then there is more memory in use.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE);
    }
}

/// Gives what is free of the heap back to the kernel.
#[cfg(target_env = "gnu")]
pub fn give_back() {
    // SAFETY: only free memory goes; anything that is in use stays where it is.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Others have no such habit.
#[cfg(not(target_env = "gnu"))]
pub fn let_large_blocks_go() {}

/// Others do that by themselves.
#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}
