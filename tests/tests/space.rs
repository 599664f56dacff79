//! Disk space comes back: unpacked layers, volumes, containers.

use std::time::Duration;

use slipway_service::error::SERVICE_UNAVAILABLE;
use slipway_tests::{Said, Site, eventually, eventually_within, image};

/// How long the removal of thousands of files may take from a disk that others keep busy: each is some milliseconds.
const REMOVAL: Duration = Duration::from_secs(120);

/// Names of the unpacked layers.
fn layers(site: &Site) -> Vec<String> {
    std::fs::read_dir(site.path("state/runtime/layers"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn ok(said: Said) -> String {
    assert_eq!(said.code, 0, "{}", said.err);
    said.out
}

async fn none_left(site: &Site) {
    eventually("the unpacked layers are gone", async || {
        layers(site).is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn layers_go_with_their_image_and_last_container() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    ok(site.ctl(&["run", "-d", "--name", "box", "busybox", "sleep", "100"]));
    assert_eq!(layers(&site).len(), 1);
    let used = site.ctl(&["rmi", "busybox"]);
    assert!(
        used.code == 1 && used.err.contains("container") && used.err.contains("is using"),
        "{}",
        used.err
    );
    // Nothing that is in use goes, whatever is asked for.
    ok(site.ctl(&["rmi", "-f", "busybox"]));
    ok(site.ctl(&["system", "prune", "-af"]));
    assert_eq!(layers(&site).len(), 1);
    ok(site.ctl(&["exec", "box", "ls", "/bin/busybox"]));
    ok(site.ctl(&["restart", "-t", "0", "box"]));
    ok(site.ctl(&["rm", "-f", "box"]));
    none_left(&site).await;

    // The other way round.
    image::busybox(&site).await;
    ok(site.ctl(&["run", "--rm", "busybox", "true"]));
    assert_eq!(
        layers(&site).len(),
        1,
        "an image that is there keeps its layers"
    );
    ok(site.ctl(&["rmi", "busybox"]));
    none_left(&site).await;
}

#[tokio::test]
async fn what_an_image_loses_while_nobody_looks_goes_later() {
    let Some(mut site) = Site::with_busybox().await else {
        return;
    };
    ok(site.ctl(&["run", "--rm", "busybox", "true"]));
    // A removal of layers that was cut off by the kill below.
    let half = site.path("state/runtime/layers/tmp-half");
    std::fs::create_dir_all(half.join("fs")).unwrap();
    site.kill_service("runtime");
    let mut registry = site.registry();
    let removal = slipway_proto::registry::v1::RemoveImageRequest {
        image: "busybox".into(),
        ..Default::default()
    };
    registry.remove_image(removal).await.unwrap();
    site.start_service("runtime").await;
    none_left(&site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_and_running_at_the_same_time() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let runtime = tokio::runtime::Handle::current();
    let mut host = site.host();
    let site = &site;
    let mut both = || {
        std::thread::scope(|scope| {
            let runs: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..8 {
                            let said = site.ctl(&["run", "--rm", "busybox", "echo", "x"]);
                            assert_eq!((said.out.as_str(), said.err.as_str()), ("x\n", ""));
                        }
                    })
                })
                .collect();
            let mut pruned = 0_u32;
            while runs.iter().any(|run| !run.is_finished()) {
                let request = slipway_proto::runtime::v1::PruneLayersRequest { all: true };
                let done = runtime.block_on(host.prune_layers(request)).unwrap();
                pruned += done.into_inner().removed;
            }
            pruned
        })
    };
    // Three at once may always have one that uses the layer.
    let rounds = tokio::task::block_in_place(|| (0..20).find(|_| both() > 0));
    assert!(rounds.is_some(), "nothing was ever pruned in between");
}

#[tokio::test]
async fn sizes_are_told_and_given_back() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let script = "head -c 3000000 /dev/zero > /big";
    ok(site.ctl(&["run", "--name", "big", "busybox", "sh", "-c", script]));
    let sized = ok(site.ctl(&["ps", "-as", "--format", "{{.Size}}"]));
    assert!(
        sized.starts_with("3") && sized.contains("MB (virtual "),
        "{sized}"
    );
    let inspected = ok(site.ctl(&["inspect", "-s", "-f", "{{.SizeRw}}", "big"]));
    assert!(inspected.trim().parse::<u64>().unwrap() >= 3_000_000);
    let warned = site.ctl(&["inspect", "-s", "-f", "ok", "busybox"]);
    assert!(
        warned.err.contains("--size ignored for images"),
        "{}",
        warned.err
    );
    let pruned = ok(site.ctl(&["container", "prune", "-f"]));
    assert!(pruned.contains("Total reclaimed space: 3"), "{pruned}");
}

fn pid_of(site: &Site, service: &str) -> rustix::process::Pid {
    let text = std::fs::read_to_string(site.path(&format!("run/{service}.pid"))).unwrap();
    rustix::process::Pid::from_raw(text.trim().parse().unwrap()).unwrap()
}

/// An image of many small files.
async fn many_files(site: &Site, name: &str, count: usize) {
    use slipway_image::{config::RunConfig, layer::Kind};
    let mut entries = vec![(image::entry("d", Kind::Folder, 0), vec![])];
    for number in 0..count {
        let path = format!("d/{name}-{number}");
        entries.push((image::entry(&path, Kind::File, 100), vec![1; 100]));
    }
    image::store(site, name, RunConfig::default(), &entries).await;
}

async fn prune_layers(site: &Site, all: bool) -> Result<u32, tonic::Status> {
    let request = slipway_proto::runtime::v1::PruneLayersRequest { all };
    let pruned = site.host().prune_layers(request).await?;
    Ok(pruned.into_inner().removed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_is_killed_in_the_middle_is_finished() {
    let Some(mut site) = Site::with_busybox().await else {
        return;
    };
    site.allow(3 * REMOVAL);
    many_files(&site, "many", 5000).await;
    ok(site.ctl(&["create", "--name", "made", "many", "/x"]));
    ok(site.ctl(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"]));
    ok(site.ctl(&["rm", "made"]));
    let mut host = site.host();
    let pruning = tokio::spawn(async move {
        let request = slipway_proto::runtime::v1::PruneLayersRequest { all: true };
        host.prune_layers(request).await.is_ok()
    });
    let going = |site: &Site| layers(site).iter().any(|l| l.starts_with("tmp-"));
    eventually("the removal has begun", async || going(&site).then_some(())).await;
    site.kill_service("runtime");
    let whole = pruning.await.unwrap();
    assert!(!whole && going(&site), "it was not in the middle");
    site.start_service("runtime").await;
    let finished = async || (!going(&site)).then_some(());
    eventually_within(REMOVAL, "it is finished", finished).await;
    // What is in use was never touched, and what went is fetched again.
    assert_eq!(layers(&site).len(), 1);
    ok(site.ctl(&["exec", "box", "ls", "/bin/busybox"]));
    ok(site.ctl(&["create", "--name", "again", "many", "/x"]));
    assert_eq!(layers(&site).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_while_the_registry_is_away() {
    let Some(mut site) = Site::with_busybox().await else {
        return;
    };
    ok(site.ctl(&["run", "--rm", "busybox", "true"]));
    // It is there and does not answer.
    let registry = pid_of(&site, "registry");
    rustix::process::kill_process(registry, rustix::process::Signal::STOP).unwrap();
    let tasks = format!("/proc/{}/task", registry.as_raw_nonzero());
    eventually("all of it stands still", async || {
        let mut tasks = std::fs::read_dir(&tasks).unwrap().flatten();
        let stopped = |task: std::fs::DirEntry| {
            let status = std::fs::read_to_string(task.path().join("status"));
            status.is_ok_and(|s| s.contains("State:\tT"))
        };
        tasks.all(stopped).then_some(())
    })
    .await;
    let error = prune_layers(&site, false).await.unwrap_err();
    rustix::process::kill_process(registry, rustix::process::Signal::CONT).unwrap();
    assert!(error.message().contains("did not answer"), "{error}");
    assert_eq!(layers(&site).len(), 1);
    // It is not there.
    site.kill_service("registry");
    // Also when its end has cut a call off.
    let error = prune_layers(&site, false).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unavailable, "{error}");
    assert_eq!(slipway_service::error::reason(&error), SERVICE_UNAVAILABLE);
    assert!(error.message().contains("registry-svc"), "{error}");
    assert_eq!(layers(&site).len(), 1);
    let said = site.ctl(&["system", "prune", "-f"]);
    assert!(
        said.code == 1 && said.err.contains("registry-svc"),
        "{}",
        said.err
    );
    site.start_service("registry").await;
    assert_eq!(prune_layers(&site, false).await.unwrap(), 0);
    assert_eq!(prune_layers(&site, true).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_limit_what_was_used_longest_ago_goes() {
    if !slipway_tests::ready() {
        return;
    }
    let mut site = Site::bare();
    site.configure("runtime.toml", "layers_max_bytes = \"6m\"\n");
    site.start_services().await;
    // 4 MB each: a block for each file.
    for name in ["first", "second", "third"] {
        many_files(&site, name, 1000).await;
    }
    image::busybox(&site).await;
    ok(site.ctl(&["create", "--name", "in-use", "first", "/x"]));
    ok(site.ctl(&["create", "--name", "short", "second", "/x"]));
    // Both together are too much, but in use.
    assert_eq!(layers(&site).len(), 2);
    ok(site.ctl(&["rm", "short"]));
    ok(site.ctl(&["create", "--name", "other", "busybox", "sh"]));
    eventually("what is not used has gone", async || {
        (layers(&site).len() == 2).then_some(())
    })
    .await;
    ok(site.ctl(&["rm", "in-use"]));
    ok(site.ctl(&["create", "--name", "last", "third", "/x"]));
    eventually("the first one has gone", async || {
        let left = layers(&site);
        (left.len() == 2 && !left.iter().any(|l| l.starts_with("tmp-"))).then_some(())
    })
    .await;
    // It is there again as soon as it is wanted.
    ok(site.ctl(&["create", "--name", "back", "first", "/x"]));
}

#[tokio::test]
async fn what_is_no_layer_is_never_taken_for_one() {
    let Some(mut site) = Site::with_busybox().await else {
        return;
    };
    ok(site.ctl(&["run", "--rm", "busybox", "true"]));
    let home = site.path("state/runtime/layers").join(&layers(&site)[0]);
    // Somebody's own folder under the name of a layer, and other things.
    std::fs::remove_dir_all(&home).unwrap();
    std::fs::create_dir_all(home.join("fs/bin")).unwrap();
    std::fs::write(home.join("fs/bin/sh"), "not a shell").unwrap();
    let foreign = site.path("state/runtime/layers/lost+found");
    std::fs::create_dir(&foreign).unwrap();
    site.kill_and_restart("runtime").await;
    let said = ok(site.ctl(&["system", "df", "-v"]));
    assert!(said.contains("left alone: layers/lost+found"), "{said}");
    eventually("the image runs", async || {
        let said = site.ctl(&["run", "--rm", "busybox", "echo", "fine"]);
        (said.out == "fine\n").then_some(())
    })
    .await;
    assert!(foreign.exists());
    std::fs::remove_dir(foreign).unwrap();
}

#[tokio::test]
async fn prune_asks_and_tells_as_docker_does() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    ok(site.ctl(&[
        "run", "--name", "old", "-v", "/data", "--label", "a=b", "busybox", "true",
    ]));
    ok(site.ctl(&["create", "--name", "other", "busybox", "sh"]));
    ok(site.ctl(&["network", "create", "lonely"]));
    let id = site.inspect("old", "{{.Id}}");
    let question = "WARNING! This will remove:\n  - all stopped containers\n  - all networks not used by at \
                    least one container\n  - all anonymous volumes not used by at least one container\n  \
                    - all dangling images\n  - unused build cache\n\n  Items to be pruned will be \
                    filtered with:\n  - label=a=b\n\nAre you sure you want to continue? [y/N] ";
    let prune = ["system", "prune", "--volumes", "--filter", "label=a=b"];
    for no in ["n\n", "", "yes\n"] {
        let said = site.ctl_with(&prune, no.as_bytes());
        assert_eq!(
            (said.code, &*said.out, &*said.err),
            (0, question, ""),
            "{no:?}"
        );
    }
    let said = site.ctl_with(&prune, b"Y\n");
    let told = said.out.strip_prefix(question).unwrap();
    // The volume has no label, and neither has the network.
    let expected = format!("Deleted Containers:\n{id}\n\nTotal reclaimed space: ");
    assert!(told.starts_with(&expected), "{told}");
    assert_eq!(
        ok(site.ctl(&["ps", "-aq", "-f", "name=other"]))
            .lines()
            .count(),
        1
    );
    assert_eq!(ok(site.ctl(&["volume", "ls", "-q"])).lines().count(), 1);
    let refused = site.ctl(&["system", "prune", "-f", "--volumes", "--filter", "until=1h"]);
    assert!(
        refused
            .err
            .contains("\"until\" filter is not supported with \"--volumes\""),
        "{}",
        refused.err
    );
    let refused = site.ctl(&["system", "prune", "-f", "--filter", "name=x"]);
    assert!(
        refused.code == 1 && refused.err.contains("invalid filter"),
        "{}",
        refused.err
    );
    // What is younger stays.
    let said = ok(site.ctl(&["system", "prune", "-af", "--filter", "until=1h"]));
    assert_eq!(said, "Total reclaimed space: 0B\n");
    let said = ok(site.ctl(&["system", "prune", "-af", "--volumes"]));
    for part in [
        "Deleted Containers:\n",
        "\nDeleted Networks:\nlonely\n\n",
        "Deleted Volumes:\n",
        "Deleted Images:\nuntagged: busybox:latest\n",
    ] {
        assert!(said.contains(part), "{part:?}: {said}");
    }
    assert!(layers(&site).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_at_once() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    many_files(&site, "spare", 300).await;
    std::fs::create_dir_all(site.path("context")).unwrap();
    let file = "FROM busybox\nARG N\nRUN echo $N > /n\n";
    std::fs::write(site.path("context/Dockerfile"), file).unwrap();
    let context = site.path("context").display().to_string();
    let site = &site;
    let until = std::time::Instant::now() + std::time::Duration::from_secs(8);
    let on = || std::time::Instant::now() < until;
    // Kept by a container from the beginning to the end.
    ok(site.ctl(&["run", "-d", "--name", "kept", "busybox", "sleep", "1000"]));
    let work = || {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while on() {
                    let said = site.ctl(&["run", "--rm", "busybox", "echo", "x"]);
                    assert_eq!((said.out.as_str(), said.err.as_str()), ("x\n", ""));
                }
            });
            scope.spawn(|| {
                for number in 0.. {
                    if !on() {
                        break;
                    }
                    let name = format!("made-{number}");
                    let argument = format!("N={number}");
                    ok(site.ctl(&[
                        "build",
                        "-q",
                        "-t",
                        &name,
                        "--build-arg",
                        &argument,
                        &context,
                    ]));
                    let said = site.ctl(&["run", "--rm", &name, "cat", "/n"]);
                    // Somebody may have pruned an image that has no container yet.
                    if said.code == 0 {
                        assert_eq!(said.out, format!("{number}\n"));
                    }
                    let _ = site.ctl(&["rmi", "-f", &name]);
                }
            });
            scope.spawn(|| {
                while on() {
                    ok(site.ctl(&["create", "--name", "short", "spare", "/x"]));
                    // Pruned already, perhaps.
                    let _ = site.ctl(&["rm", "-f", "short"]);
                }
            });
            scope.spawn(|| {
                while on() {
                    ok(site.ctl(&["system", "df", "-v"]));
                    ok(site.ctl(&["container", "prune", "-f", "--filter", "label=never"]));
                    // Images too, but none of those that others run.
                    ok(site.ctl(&["image", "prune", "-f"]));
                }
            });
            let runtime = tokio::runtime::Handle::current();
            while on() {
                runtime.block_on(prune_layers(site, true)).unwrap();
            }
        });
    };
    tokio::task::block_in_place(work);
    // What was in use all the time is whole.
    ok(site.ctl(&["exec", "kept", "sh", "-c", "ls /bin/busybox && echo fine"]));
    let _ = site.ctl(&["rm", "-f", "short"]);
    eventually("what nobody uses is gone", async || {
        prune_layers(site, true).await.unwrap();
        (layers(site).len() == 1).then_some(())
    })
    .await;
    assert!(site.leases().await.is_empty());
    assert_eq!(
        std::fs::read_dir(site.path("state/runtime/snapshots"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_started_is_never_pruned() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let site = &site;
    let work = || {
        std::thread::scope(|scope| {
            let runs: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..15 {
                            let said =
                                site.ctl(&["run", "-v", "/v", "--rm", "busybox", "echo", "x"]);
                            assert_eq!((said.out.as_str(), said.err.as_str()), ("x\n", ""));
                        }
                    })
                })
                .collect();
            while runs.iter().any(|run| !run.is_finished()) {
                ok(site.ctl(&["system", "prune", "-f", "--volumes"]));
            }
        });
    };
    tokio::task::block_in_place(work);
}
