//! The folders of `RUN --mount=type=cache` of a builder's workers: seen, and removed.

use slipway_tests::ready;

use super::*;

fn mounts(site: &Site, filter: &str) -> Vec<String> {
    let arguments = ["builder", "du", "--filter", "type=exec.cachemount"];
    let mut arguments = arguments.to_vec();
    if !filter.is_empty() {
        arguments.extend(["--filter", filter]);
    }
    let all = site.ctl(&arguments).ok();
    let lines = all.lines().skip(1).filter(|l| !l.contains(": "));
    let ids = lines.filter_map(|l| l.split_whitespace().next());
    ids.filter(|id| id.len() >= 64).map(str::to_owned).collect()
}

#[tokio::test]
async fn cache_mounts_are_seen_and_pruned() {
    if !ready() {
        return;
    }
    let site = site().await;
    let file = "FROM busybox\nRUN --mount=type=cache,id=pip,target=/c busybox dd if=/dev/zero of=/c/one bs=1k count=300\nRUN --mount=type=cache,id=npm,target=/c echo small > /c/two\n";
    write(&site.path("context"), &[("Dockerfile", file)]);
    built(&site, "app", &[]);
    // Their sizes are counted when the steps are over.
    eventually("both are counted", async || {
        let all = site
            .ctl(&["builder", "du", "--verbose", "--filter", "id=pip"])
            .ok();
        all.contains("Size:         3").then_some(())
    })
    .await;
    let all = site
        .ctl(&["builder", "du", "--verbose", "--filter", "id=pip"])
        .ok();
    for line in [
        "Type:         exec.cachemount",
        "Description:  cached mount pip",
        "Mutable:      true",
        "Worker:       unix://",
    ] {
        assert!(all.contains(line), "{line}: {all}");
    }
    assert_eq!(mounts(&site, "").len(), 2);
    assert_eq!(mounts(&site, "description=npm").len(), 1);
    assert_eq!(mounts(&site, "until=24h").len(), 0);
    assert_eq!(mounts(&site, "inuse=true").len(), 0);
    let df = site
        .ctl(&["system", "df", "--format", "{{.Type}} {{.Size}}"])
        .ok();
    assert!(df.contains("Build Cache"), "{df}");

    let prune = |filters: &[&str]| {
        let mut all = vec!["builder", "prune", "-f"];
        for filter in filters {
            all.extend(["--filter", filter]);
        }
        site.ctl(&all).ok()
    };
    prune(&["type=exec.cachemount", "until=24h"]);
    assert_eq!(mounts(&site, "").len(), 2, "they were used just now");
    let said = prune(&["id=npm"]);
    assert!(said.contains("Deleted build cache objects:"), "{said}");
    assert_eq!(mounts(&site, "id=npm").len(), 0);
    assert_eq!(mounts(&site, "id=pip").len(), 1);
    let said = prune(&["type=exec.cachemount"]);
    assert!(said.contains("Total reclaimed space: 3"), "{said}");
    assert_eq!(mounts(&site, "").len(), 0);
    assert_eq!(cached(&built(&site, "app", &[])), (2, 2), "records stayed");

    // A worker that is away is left out, with a warning.
    let mut site = site;
    site.kill_service("runtime");
    let said = site.ctl(&["builder", "du"]);
    assert_eq!(said.code, 0);
    assert!(said.err.contains("are left out"), "{}", said.err);
    site.start_service("runtime").await;
}
