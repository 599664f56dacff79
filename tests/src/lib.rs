//! The end-to-end harness: a [`Site`] is a host of its own, with the real programs on it.
//!
//! Every site has a network namespace, state and run folders of its own, so that tests run beside each
//! other, and takes everything back when it is dropped, also when its test failed; when it did not fail,
//! whatever the programs left behind fails it (`leaks`). Tests wait for conditions with
//! [`eventually`], never for a time, and no test goes on for ever (`watchdog`).

mod alive;
pub mod audit;
pub mod authority;
mod calls;
pub mod ctl;
pub mod disk;
pub mod docker;
pub mod dockerd;
mod faults;
pub mod fixtures;
pub mod gated;
mod http;
pub mod image;
pub mod lan;
mod leaks;
pub mod oci;
pub mod pusher;
mod request;
pub mod secured;
pub mod site;
pub mod terminal;
pub mod tree;
pub mod uplink;
mod watchdog;
pub mod worker;

use std::time::{Duration, Instant};

pub use audit::Audit;
pub use ctl::Said;
pub use http::{Reply, Request, Server, listen};
pub use oci::Oci;
pub use request::{Answer, Ask};
pub use site::Site;
pub use terminal::Terminal;
pub use uplink::Neighbour;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether these tests can run here; says why not.
pub fn ready() -> bool {
    let root =
        std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    let busybox = std::path::Path::new("/bin/busybox").exists();
    if !root || !busybox {
        skipped("needs root and /bin/busybox (busybox-static)");
    }
    root && busybox
}

/// Straight to the terminal, past libtest's capture: a test that was not run must not look like one that
/// passed.
pub fn skipped(why: &str) {
    use std::io::Write as _;
    let test = std::thread::current();
    // A terminal that is gone needs no telling.
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: {}: {why}",
        test.name().unwrap_or("a test")
    );
}

/// Whether these programs are installed, too; says which is not.
pub fn installed(programs: &[&str]) -> bool {
    let missing: Vec<&&str> = programs
        .iter()
        .filter(|p| {
            !["/usr/bin", "/usr/sbin", "/bin", "/sbin"]
                .iter()
                .any(|folder| std::path::Path::new(folder).join(p).exists())
        })
        .collect();
    if !missing.is_empty() {
        skipped(&format!(
            "{missing:?} not installed; tests/run installs what most tests need"
        ));
    }
    missing.is_empty()
}

/// Waits until `look` finds something; panics with `what` when it does not in time.
pub async fn eventually<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, look).await
}

/// The same for what takes longer than most things.
pub async fn eventually_within<T>(
    patience: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < patience, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
