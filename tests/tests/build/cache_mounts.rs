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

/// A builder with a worker of its own, at the registry of another site.
async fn second_builder(site: &Site) -> Site {
    let mut other = Site::bare();
    let registry = site.path("run/registry.sock");
    let text = format!("registry = \"unix://{}\"\n", registry.display());
    other.configure("runtime.toml", &text);
    other.configure("builder.toml", &text);
    for service in ["netd", "runtime", "builder"] {
        other.start_service(service).await;
    }
    fs::create_dir_all(other.path("context")).unwrap();
    other
}

/// Builds a step with the cache mount, which is never cached.
fn step(site: &Site, command: &str, arguments: &[&str]) -> Said {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let run = format!("RUN --mount=type=cache,id=pip,target=/c : {number}; {command}");
    let file = format!("FROM busybox\n{run}\n");
    write(&site.path("context"), &[("Dockerfile", &file)]);
    built(site, "app", arguments)
}

fn prune_mounts(site: &Site) {
    let filter = ["builder", "prune", "-f", "--filter", "type=exec.cachemount"];
    site.ctl(&filter).ok();
}

#[tokio::test]
async fn cache_mounts_travel_by_a_registry_and_a_folder() {
    if !ready() {
        return;
    }
    let site = site().await;
    let from = "type=registry,ref=localhost:5000/mounts:1,mounts=true";
    let fill = "mkdir /c/d && echo downloaded > /c/wheel && busybox ln -s ../wheel /c/d/link && busybox chown -h 7:8 /c/wheel";
    let folder = site.path("carried").display().to_string();
    let local = format!("type=local,dest={folder},mounts=true");
    let to = ["--cache-to", from, "--cache-to", &local];
    step(&site, fill, &to);

    let other = second_builder(&site).await;
    let uses = "cat /c/wheel /c/d/link > /got; busybox stat -c %u:%g /c/wheel >> /got; busybox stat -c %a /c >> /got";
    let said = step(&other, uses, &["--cache-from", from]);
    assert!(said.err.contains("bytes were imported"), "{}", said.err);
    assert_eq!(
        shell(&other, "app", "cat /got"),
        "downloaded\ndownloaded\n7:8\n755\n"
    );
    // What is there stays, unless it is to be replaced.
    step(&other, "echo own > /c/wheel", &[]);
    let said = step(
        &other,
        "test $(cat /c/wheel) = own",
        &["--cache-from", from],
    );
    assert!(!said.err.contains("imported"), "{}", said.err);
    let replace = from.replace("true", "replace");
    step(
        &other,
        "test $(cat /c/wheel) = downloaded",
        &["--cache-from", &replace],
    );
    // It is asked for by name.
    prune_mounts(&other);
    step(
        &other,
        "test ! -e /c/wheel",
        &["--cache-from", "localhost:5000/mounts:1"],
    );
    // A build that is cached passes on what it was given.
    let again = "test $(cat /c/wheel) = downloaded";
    prune_mounts(&other);
    step(&other, again, &["--cache-from", from]);
    prune_mounts(&other);
    let next = "type=registry,ref=localhost:5000/mounts:2,mounts=true";
    let said = built(&other, "app", &["--cache-from", from, "--cache-to", next]);
    assert_eq!(cached(&said), (1, 1));
    step(&other, again, &["--cache-from", next]);
    // By a folder.
    prune_mounts(&other);
    let copy = site.path("carried").display().to_string();
    let local = format!("type=local,src={copy},mounts=true");
    // ctl puts its layers into the registry of its own site.
    step(&site, "rm -rf /c/wheel /c/d", &[]);
    step(&site, again, &["--cache-from", &local]);
    for (option, sentence) in [
        (
            "--cache-to=type=inline,mounts=true",
            "mounts=true is not supported",
        ),
        ("--cache-from=type=registry,ref=a,mounts=some", "mounts"),
    ] {
        let said = build(&site, "x", &[option]);
        assert!(
            said.code != 0 && said.err.contains(sentence),
            "{}",
            said.err
        );
    }
}
