//! The end-to-end harness: a [`Site`] is a host of its own, with the real programs on it.
//!
//! Every site has a network namespace, state and run folders of its own, so that tests run beside each
//! other, and takes everything back when it is dropped, also when its test failed. Tests wait for
//! conditions with [`eventually`], never for a time.

pub mod ctl;
pub mod image;
pub mod site;
pub mod terminal;

use std::time::{Duration, Instant};

pub use ctl::Said;
pub use site::Site;
pub use terminal::Terminal;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether these tests can run here; says why not.
pub fn ready() -> bool {
    let root =
        std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    let busybox = std::path::Path::new("/bin/busybox").exists();
    if !root || !busybox {
        println!("skipped: needs root and /bin/busybox (busybox-static)");
    }
    root && busybox
}

/// Waits until `look` finds something; panics with `what` when it does not in time.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
