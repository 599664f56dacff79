//! Disk space comes back: unpacked layers, volumes, containers.

use slipway_tests::{Said, Site, eventually, image};

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
            let mut pruned = 0;
            while runs.iter().any(|run| !run.is_finished()) {
                let request = slipway_proto::runtime::v1::PruneLayersRequest { all: true };
                let done = runtime.block_on(host.prune_layers(request)).unwrap();
                pruned += done.into_inner().removed;
            }
            pruned
        })
    };
    let pruned: u32 = tokio::task::block_in_place(&mut both);
    assert!(pruned > 0, "nothing was ever pruned in between");
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
    let warned = site.ctl(&["image", "inspect", "-s", "-f", "ok", "busybox"]);
    assert!(
        warned.err.contains("--size ignored for images"),
        "{}",
        warned.err
    );
    let pruned = ok(site.ctl(&["container", "prune", "-f"]));
    assert!(pruned.contains("Total reclaimed space: 3"), "{pruned}");
}
