//! Images of several layers: they arrive and are unpacked beside each other, while they arrive, and each goes on
//! where it was cut off. The upstream holds back what it is not yet to send, so what does not happen beside
//! something else does not happen at all.

use std::{path::PathBuf, process::Child};

use slipway_image::layer::{Entry, Kind};
use slipway_tests::{
    Site, eventually,
    gated::{Gated, Layer, noise},
    image::entry,
    ready,
};

/// Noise of each layer, in files of 128 KiB.
const FILES: u64 = 24;
/// What registry-svc has not written yet when a transfer is cut off comes twice, of each layer: it gathers as much
/// (`registry-svc/src/mirror/flight.rs`, `BATCH`). A twelfth of a layer's three megabytes.
const GATHERED: u64 = 256 * 1024;

const NAMES: [&str; 3] = ["base", "middle", "top"];

fn folder(path: &str) -> (Entry, Vec<u8>) {
    (entry(path, Kind::Folder, 0), Vec::new())
}

fn file(path: &str, content: &[u8]) -> (Entry, Vec<u8>) {
    (
        entry(path, Kind::File, content.len() as u64),
        content.to_vec(),
    )
}

/// Busybox; upon it a layer that hides a file and a folder's content; upon that one that brings some of it back.
fn image() -> Vec<Vec<(Entry, Vec<u8>)>> {
    let mut base = vec![
        folder("bin"),
        file("bin/busybox", &std::fs::read("/bin/busybox").unwrap()),
        folder("etc"),
        file("etc/gone", b"base"),
        file("etc/stays", b"base"),
        folder("shared"),
        file("shared/old", b"base"),
        file("shared/both", b"base"),
    ];
    for name in ["true", "sh", "cat", "echo"] {
        let link = Kind::Symlink(b"busybox".to_vec());
        base.push((entry(&format!("bin/{name}"), link, 0), Vec::new()));
    }
    let middle = vec![
        folder("etc"),
        file("etc/.wh.gone", b""),
        folder("shared"),
        file("shared/.wh..wh..opq", b""),
        file("shared/new", b"middle"),
    ];
    let top = vec![
        folder("shared"),
        file("shared/both", b"top"),
        (
            entry("shared/hard", Kind::HardLink(b"shared/both".to_vec()), 0),
            Vec::new(),
        ),
        folder("etc"),
        file("etc/.wh.stays", b""),
    ];
    let mut layers = vec![base, middle, top];
    for (seed, (layer, name)) in layers.iter_mut().zip(NAMES).enumerate() {
        layer.push(folder(name));
        let seed = 1000 * seed as u64 + 1;
        layer.extend((0..FILES).map(|n| file(&format!("{name}/{n}"), &noise(128 << 10, seed + n))));
    }
    layers
}

const LOOK: &str = "cd /etc; echo *; cd /shared; echo *; cat both hard new; echo; \
                    cd /base; echo *; cd /middle; echo *; cd /top; echo *";

async fn with_site() -> Option<(Site, Gated)> {
    if !ready() {
        return None;
    }
    let mut site = Site::bare();
    let upstream = Gated::start(&site, "many", image());
    site.start_services().await;
    Some((site, upstream))
}

fn run(site: &Site) -> Child {
    site.ctl_start(&["run", "--rm", "many", "sh", "-c", LOOK])
}

/// It runs, and has of every layer what is not hidden by one above.
fn whole(run: Child) {
    let output = run.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let mut numbers: Vec<String> = (0..FILES).map(|n| n.to_string()).collect();
    numbers.sort();
    let all = numbers.join(" ");
    // /etc has what every container gets there, too.
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let (etc, rest) = said.split_once('\n').unwrap();
    assert!(!etc.contains("gone") && !etc.contains("stays"), "{etc}");
    assert_eq!(
        rest,
        format!("both hard new\ntoptopmiddle\n{all}\n{all}\n{all}\n")
    );
}

/// Folders of layers that are being unpacked.
fn halves(site: &Site) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(site.path("state/runtime/layers"));
    let paths = entries.into_iter().flatten().flatten().map(|e| e.path());
    let half = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with("tmp-"))
    };
    paths.filter(half).collect()
}

/// Waits until half of each of these has come, and something of it is unpacked.
async fn half_way(site: &Site, layers: &[(&Layer, &str)]) {
    for (layer, name) in layers {
        // Not only sent: what is in a socket goes with who should have read it.
        eventually("half of each layer has come", async || {
            let written = std::fs::metadata(layer.partial(site)?).ok()?.len();
            (written + GATHERED >= layer.size() / 2).then_some(())
        })
        .await;
        eventually(&format!("some of {name} is unpacked"), async || {
            halves(site)
                .iter()
                .any(|half| half.join(format!("fs/{name}/3")).exists())
                .then_some(())
        })
        .await;
    }
}

fn named(upstream: &Gated) -> Vec<(&Layer, &str)> {
    upstream.layers.iter().map(|l| &**l).zip(NAMES).collect()
}

/// Bytes of a layer that were sent more than once.
fn twice(layer: &Layer) -> u64 {
    layer.state().sent().saturating_sub(layer.size())
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_arrive_and_are_unpacked_beside_each_other() {
    let Some((site, upstream)) = with_site().await else {
        return;
    };
    let run = run(&site);
    // None of them has its last byte: all are on their way, and files of all are there.
    half_way(&site, &named(&upstream)).await;
    assert_eq!(halves(&site).len(), 3);
    // Each is done while those beside it wait: above and below it, and in neither order.
    for (at, waiting) in [(1, 2), (2, 1), (0, 0)] {
        let layer = &upstream.layers[at];
        assert!(!layer.home(&site).exists());
        layer.open();
        eventually("a layer is unpacked beside those that wait", async || {
            (layer.home(&site).exists() && halves(&site).len() == waiting).then_some(())
        })
        .await;
    }
    whole(run);
    for layer in &upstream.layers {
        assert_eq!(layer.state().transfers, [(0, layer.size())]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_layer_goes_on_where_its_connection_broke() {
    let Some((site, upstream)) = with_site().await else {
        return;
    };
    let run = run(&site);
    half_way(&site, &named(&upstream)).await;
    for layer in &upstream.layers {
        layer.break_at(layer.size() * 2 / 3);
    }
    whole(run);
    for layer in &upstream.layers {
        let transfers = layer.state().transfers;
        assert_eq!(transfers.len(), 2, "{transfers:?}");
        assert!(
            twice(layer) <= GATHERED,
            "{transfers:?} of {}",
            layer.size()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_layer_goes_on_where_registry_svc_was_killed() {
    let Some((mut site, upstream)) = with_site().await else {
        return;
    };
    let run = run(&site);
    half_way(&site, &named(&upstream)).await;
    let begun: Vec<PathBuf> = halves(&site);
    site.kill_and_restart("registry").await;
    for layer in &upstream.layers {
        layer.open();
    }
    whole(run);
    for layer in &upstream.layers {
        let transfers = layer.state().transfers;
        assert!(transfers.len() == 2 && transfers[1].0 > 0, "{transfers:?}");
        assert!(
            twice(layer) <= GATHERED,
            "{transfers:?} of {}",
            layer.size()
        );
    }
    // The runtime went on as well: with the bytes that it had, in the folders that it had begun.
    let log = std::fs::read_to_string(site.path("runtime.log")).unwrap();
    let on: Vec<&str> = log
        .lines()
        .filter(|l| l.contains("transfer broke off"))
        .collect();
    for line in &on {
        assert!(!line.contains("offset=0 "), "{line}");
    }
    assert!(on.len() >= begun.len(), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_runtime_svc_was_killed_only_what_lacks_is_fetched() {
    let Some((mut site, upstream)) = with_site().await else {
        return;
    };
    let run = run(&site);
    half_way(&site, &named(&upstream)).await;
    let done = &upstream.layers[1];
    done.open();
    eventually("one layer is unpacked", async || {
        done.home(&site).exists().then_some(())
    })
    .await;
    site.kill_service("runtime");
    let waiting = [&upstream.layers[0], &upstream.layers[2]];
    eventually("nobody fetches for nobody", async || {
        waiting.iter().all(|l| l.state().going == 0).then_some(())
    })
    .await;
    site.start_service("runtime").await;
    assert!(!run.wait_with_output().unwrap().status.success());
    eventually("the halves are gone", async || {
        halves(&site).is_empty().then_some(())
    })
    .await;
    for layer in waiting {
        layer.open();
    }
    whole(self::run(&site));
    for layer in waiting {
        let transfers = layer.state().transfers;
        assert!(transfers.len() == 2 && transfers[1].0 > 0, "{transfers:?}");
        assert!(
            twice(layer) <= GATHERED,
            "{transfers:?} of {}",
            layer.size()
        );
    }
    // registry-svc has it: it may be unpacked again, and is not fetched again.
    assert_eq!(done.state().transfers, [(0, done.size())]);
}
