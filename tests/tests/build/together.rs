//! Builds beside each other: the same step runs once, and a prune leaves alone what is in use.

use std::process::Child;

use super::*;

fn start(site: &Site, tag: &str) -> Child {
    let folder = site.path("context").display().to_string();
    site.ctl_start(&["build", "-t", tag, &folder])
}

#[tokio::test]
async fn a_step_of_several_builds_runs_once_and_a_prune_disturbs_nobody() {
    let site = site().await;
    // The step says which run it was, in the layer; and takes until we let it go.
    write(
        &site.path("context"),
        &[(
            "Dockerfile",
            "FROM busybox\nRUN echo first > /first\nRUN --network=none cat /proc/sys/kernel/random/uuid > /which; sleep 2\nRUN cat /which > /same\n",
        )],
    );
    let mut builds: Vec<_> = (0..3).map(|n| start(&site, &format!("t{n}"))).collect();
    eventually("a build counts on its first step", async || {
        let said = site.ctl(&["builder", "du", "--filter", "inuse=true"]).ok();
        said.contains('*').then_some(())
    })
    .await;
    site.ctl(&["builder", "prune", "-af"]).ok();
    // One that is cancelled does not take the others with it.
    let mut gone = builds.remove(0);
    slipway_tests::ctl::signal(&gone, rustix::process::Signal::INT);
    assert_eq!(gone.wait().unwrap().code(), Some(130));
    for build in builds {
        let done = build.wait_with_output().unwrap();
        let err = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{err}");
    }
    assert_eq!(
        shell(&site, "t1", "cat /which /same"),
        shell(&site, "t2", "cat /which /same")
    );
    nothing_is_left(&site, "after builds beside each other").await;
    let all = site.ctl(&["builder", "du", "--verbose"]).ok();
    assert!(all.contains("Type:") && all.contains("Total:"), "{all}");
    for (words, sentence) in [
        (
            &["prune", "-f", "--min-free-space", "1g"][..],
            "--min-free-space is not supported",
        ),
        (
            &["prune", "-f", "--filter", "mutable=true"],
            "mutable=true of the build cache is not",
        ),
        (&["du", "--filter", "x=y"], "x=y of the build cache is not"),
    ] {
        let mut all = vec!["builder"];
        all.extend(words);
        let error = site.ctl(&all).error(1);
        assert!(error.contains(sentence), "{error}");
    }
    site.ctl(&["builder", "prune", "-f", "--filter", "id=none"])
        .ok();
    assert_eq!(cached(&built(&site, "t3", &[])), (3, 3));
    site.ctl(&["builder", "prune", "-f", "--max-used-space", "1"])
        .ok();
    assert_eq!(cached(&built(&site, "t3", &[])), (0, 3));
}
