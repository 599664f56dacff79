//! Layers on their way: transfers that break, services that die in the middle, callers that go away, and
//! what a power cut leaves.

use std::{os::unix::fs::MetadataExt as _, path::PathBuf, process::Child};

use slipway_image::layer::Kind;
use slipway_tests::{
    Site, eventually,
    gated::{self, Gated, noise},
    image::entry,
    ready,
};

/// An upstream with one image, `big`, of one layer.
struct Slow(Gated);

impl Slow {
    async fn with_site() -> Option<(Site, Self)> {
        if !ready() {
            return None;
        }
        let mut site = Site::bare();
        let busybox = std::fs::read("/bin/busybox").unwrap();
        let mut layer = vec![
            (entry("bin", Kind::Folder, 0), Vec::new()),
            (
                entry("bin/busybox", Kind::File, busybox.len() as u64),
                busybox,
            ),
        ];
        for name in ["true", "sha256sum", "cat", "sleep"] {
            let link = Kind::Symlink(b"busybox".to_vec());
            layer.push((entry(&format!("bin/{name}"), link, 0), Vec::new()));
        }
        for number in 0..40 {
            let content = noise(128 * 1024, number + 1);
            let path = format!("noise{number}");
            layer.push((entry(&path, Kind::File, content.len() as u64), content));
        }
        let slow = Self(Gated::start(&site, "big", vec![layer]));
        site.start_services().await;
        Some((site, slow))
    }

    fn layer(&self) -> &gated::Layer {
        &self.0.layers[0]
    }

    fn transfers(&self) -> Vec<(u64, u64)> {
        self.layer().state().transfers
    }

    fn open(&self) {
        self.layer().open();
    }

    /// Waits until the runtime has unpacked some of the layer.
    async fn half_way(&self, site: &Site) {
        eventually("half of the layer is sent", async || {
            (self.transfers().last()?.1 >= self.layer().size() / 2).then_some(())
        })
        .await;
        eventually("some of it is unpacked", async || {
            halves(site)
                .iter()
                .any(|tmp| tmp.join("fs/noise3").exists())
                .then_some(())
        })
        .await;
    }
}

fn layers(site: &Site) -> Vec<PathBuf> {
    std::fs::read_dir(site.path("state/runtime/layers"))
        .into_iter()
        .flatten()
        .map(|e| e.unwrap().path())
        .collect()
}

/// Layers that are being unpacked.
fn halves(site: &Site) -> Vec<PathBuf> {
    let name = |path: &PathBuf| {
        path.file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("tmp-")
    };
    layers(site).into_iter().filter(name).collect()
}

fn ended_well(child: Child) {
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
}

fn log(site: &Site, service: &str) -> String {
    std::fs::read_to_string(site.path(&format!("{service}.log"))).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_on_where_registry_svc_was_killed() {
    let Some((mut site, slow)) = Slow::with_site().await else {
        return;
    };
    let run = site.ctl_start(&["run", "--rm", "big", "true"]);
    slow.half_way(&site).await;
    site.kill_and_restart("registry").await;
    slow.open();
    ended_well(run);
    let (transfers, sent) = (slow.transfers(), slow.layer().state().sent());
    // What was in the killed process' hands and not in its file yet is sent again, and no more.
    assert!(transfers.len() >= 2 && transfers[1].0 > 0, "{transfers:?}");
    assert!(
        sent < slow.layer().size() + 2 * 1024 * 1024,
        "{transfers:?} of {}",
        slow.layer().size()
    );
    // And the runtime went on in the middle, too.
    let log = log(&site, "runtime");
    let line = log
        .lines()
        .find(|l| l.contains("transfer broke off"))
        .expect("it broke off");
    let offset = line
        .split("offset=")
        .nth(1)
        .and_then(|l| l.split([' ', '\u{1b}']).next());
    assert!(
        offset
            .and_then(|o| o.parse::<u64>().ok())
            .is_none_or(|o| o > 0),
        "{line}"
    );
    assert!(halves(&site).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_on_where_upstream_broke_off() {
    let Some((site, slow)) = Slow::with_site().await else {
        return;
    };
    slow.layer().break_at(slow.layer().size() / 3);
    ended_well(site.ctl_start(&["run", "--rm", "big", "true"]));
    let (transfers, sent) = (slow.transfers(), slow.layer().state().sent());
    assert_eq!(transfers.len(), 2, "{transfers:?}");
    assert!(
        sent < slow.layer().size() + 2 * 1024 * 1024,
        "{transfers:?} of {}",
        slow.layer().size()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_stops_the_work_and_leaves_nothing() {
    let Some((site, slow)) = Slow::with_site().await else {
        return;
    };
    let mut run = site.ctl_start(&["run", "--rm", "big", "true"]);
    slow.half_way(&site).await;
    run.kill().unwrap();
    run.wait().unwrap();
    eventually("what was unpacked is gone", async || {
        layers(&site).is_empty().then_some(())
    })
    .await;
    eventually("the transfer ends", async || {
        (slow.layer().state().going == 0).then_some(())
    })
    .await;
    assert_eq!(site.ctl(&["ps", "-aq"]).out, "");
    // The next one takes up what registry-svc has.
    slow.open();
    ended_well(site.ctl_start(&["run", "--rm", "big", "true"]));
    let transfers = slow.transfers();
    assert!(transfers.last().unwrap().0 > 0, "{transfers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_at_once_fetch_and_unpack_once() {
    let Some((site, slow)) = Slow::with_site().await else {
        return;
    };
    let runs = [0, 1, 2].map(|_| site.ctl_start(&["run", "--rm", "big", "true"]));
    slow.half_way(&site).await;
    slow.open();
    runs.into_iter().for_each(ended_well);
    assert_eq!(slow.transfers().len(), 1);
    assert_eq!(log(&site, "runtime").matches("unpacked").count(), 1);
    let blobs = slow.0.server.requests();
    let gets = blobs
        .iter()
        .filter(|r| r.starts_with("GET") && r.contains("/blobs/"));
    assert_eq!(gets.count(), 2, "{blobs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn runtime_svc_killed_in_the_middle_leaves_nothing() {
    let Some((mut site, slow)) = Slow::with_site().await else {
        return;
    };
    let run = site.ctl_start(&["run", "--rm", "big", "true"]);
    slow.half_way(&site).await;
    site.kill_and_restart("runtime").await;
    assert!(!run.wait_with_output().unwrap().status.success());
    eventually("the half of the layer is gone", async || {
        layers(&site).is_empty().then_some(())
    })
    .await;
    slow.open();
    ended_well(site.ctl_start(&["run", "--rm", "big", "true"]));
    assert_eq!(layers(&site).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_power_cut_tore_is_fetched_again() {
    let Some((mut site, slow)) = Slow::with_site().await else {
        return;
    };
    slow.open();
    let sum = |site: &Site| {
        let said = site.ctl(&["run", "--rm", "big", "sha256sum", "/noise7"]);
        assert_eq!(said.code, 0, "{}", said.err);
        said.out
    };
    let whole = sum(&site);
    assert_eq!(
        site.ctl(&["create", "--name", "box", "big", "sha256sum", "/noise7"])
            .code,
        0
    );
    let layer = layers(&site).pop().unwrap();
    let note = layer.join("layer.json");
    let unpacked = std::fs::metadata(&layer).unwrap().ino();
    eventually("the layer is on the disk", async || {
        (!std::fs::read_to_string(&note).unwrap().contains("unsynced")).then_some(())
    })
    .await;

    // In the same boot all of it is there, synced or not.
    let torn = |id: &str| {
        let text = std::fs::read_to_string(&note).unwrap();
        let text = text.replacen('{', &format!("{{\"unsynced\":\"{id}\","), 1);
        std::fs::write(&note, text).unwrap();
    };
    let own = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    site.kill_service("runtime");
    torn(own.trim());
    site.start_service("runtime").await;
    assert_eq!(sum(&site), whole);
    assert_eq!(std::fs::metadata(&layer).unwrap().ino(), unpacked);

    // As a power cut leaves it: half of a file, and a note of another boot.
    eventually("the layer is on the disk again", async || {
        (!std::fs::read_to_string(&note).unwrap().contains("unsynced")).then_some(())
    })
    .await;
    site.kill_service("runtime");
    torn("00000000-0000-0000-0000-000000000001");
    std::fs::File::options()
        .write(true)
        .open(layer.join("fs/noise7"))
        .unwrap()
        .set_len(5)
        .unwrap();
    site.start_service("runtime").await;
    // A container of before has its image, too.
    let said = site.ctl(&["start", "-a", "box"]);
    assert_eq!((said.code, said.out), (0, whole.clone()), "{}", said.err);
    assert_eq!(sum(&site), whole);

    // A note that was lost, and another boot since.
    site.kill_service("runtime");
    std::fs::write(
        site.path("state/runtime/boot"),
        "00000000000000000000000000000001",
    )
    .unwrap();
    std::fs::write(&note, "").unwrap();
    site.start_service("runtime").await;
    assert_eq!(sum(&site), whole);
}
