//! What is built again, and what is not.

use std::{fs, time::Duration};

use slipway_tests::{Said, ready};

use crate::{built, cached, shell, site, write};

#[tokio::test]
async fn the_cache_is_content_not_time() {
    if !ready() {
        return;
    }
    let site = site().await;
    let context = site.path("context");
    let file = "FROM busybox\nWORKDIR /app\nRUN echo first >> /count\nCOPY code /app\nRUN echo second >> /count\nCMD cat /count\n";
    write(
        &context,
        &[
            ("Dockerfile", file),
            ("code/a", "1"),
            ("code/b", "2"),
            ("other", "x"),
        ],
    );
    let id = |said: &Said| {
        said.err
            .split("image ")
            .last()
            .unwrap()
            .lines()
            .next()
            .unwrap()
            .to_owned()
    };

    let first = built(&site, "c", &[]);
    assert_eq!(cached(&first), (0, 4));
    let second = built(&site, "c", &[]);
    assert_eq!(cached(&second), (4, 4));
    assert_eq!(id(&first), id(&second), "the very same image");

    // Touched, and something changed that no COPY names.
    let old = std::time::SystemTime::now() - Duration::from_secs(1000);
    fs::File::options()
        .write(true)
        .open(context.join("code/a"))
        .unwrap()
        .set_modified(old)
        .unwrap();
    write(&context, &[("other", "y")]);
    assert_eq!(cached(&built(&site, "c", &[])), (4, 4));

    write(&context, &[("code/b", "changed")]);
    let third = built(&site, "c", &[]);
    assert_eq!(
        cached(&third),
        (2, 4),
        "only what comes after the COPY runs: {}",
        third.err
    );
    assert_eq!(site.ctl(&["run", "--rm", "c"]).out, "first\nsecond\n");
    assert_eq!(shell(&site, "c", "cat b"), "changed");

    // The cache is the registry's: a builder that lost everything it had finds it.
    fs::remove_dir_all(site.path("state/builder")).unwrap();
    assert_eq!(cached(&built(&site, "c", &[])), (4, 4));
    assert_eq!(cached(&built(&site, "c", &["--no-cache"])), (0, 4));

    // What is pruned is built again, and takes no room until then.
    site.ctl(&["rmi", "c"]).ok();
    let pruned = site.ctl(&["builder", "prune", "-f"]).ok();
    assert!(pruned.contains("Deleted build cache objects:"), "{pruned}");
    assert_eq!(
        site.ctl(&["builder", "prune", "-f"]).ok(),
        "Total reclaimed space: 0B\n"
    );
    assert_eq!(cached(&built(&site, "c", &[])), (0, 4));
}
