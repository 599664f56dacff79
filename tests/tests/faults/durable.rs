//! Killed while unpacked layers are synced, and while those that a reboot made doubtful are given up.

use std::{fs, path::PathBuf, time::Duration};

use slipway_fault::{
    Action,
    inventory::{self, Point},
};
use slipway_tests::{Site, eventually, eventually_within};

use crate::{bench::Bench, builds, wanted};

/// What is driven here.
pub const DRIVEN: &[&str] = &["runtime.sync", "runtime.reboot"];

/// The disk is left to others for a while before layers are synced.
const SYNCED: Duration = Duration::from_secs(60);

fn points(operation: &str) -> Vec<&'static Point> {
    let all = inventory::all().filter(|p| crate::operation(p) == operation && wanted(p.name));
    all.collect()
}

/// Layers that came with the image of these tests.
async fn layers(site: &Site) -> Vec<PathBuf> {
    let layers = site.layers_of(builds::IMAGE).await.into_iter();
    let name = |id: &str| id.trim_start_matches("sha256:").to_owned();
    let folder = site.path("state/runtime/layers");
    layers.map(|l| folder.join(name(&l.diff_id))).collect()
}

fn note(layer: &std::path::Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(layer.join("layer.json")).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runtime_is_killed_while_it_syncs() {
    let points = points("runtime.sync");
    if points.is_empty() {
        return;
    }
    let Some(mut bench) = Bench::start().await else {
        return;
    };
    builds::store_image(&bench.site).await;
    for point in points {
        eprintln!("--- {}", point.name);
        bench
            .site
            .ctl(&["create", "--name", "one", builds::IMAGE])
            .ok();
        // After that: the layers are synced a while later, and on a busy host that is while it is created.
        bench.site.arm(point.name, Action::Kill);
        let fired = async || bench.site.fired(point.name).then_some(());
        eventually_within(SYNCED, "layers are synced", fired).await;
        bench.dies("runtime").await;
        bench.restart_dead().await;
        let site = &bench.site;
        for layer in layers(site).await {
            // The disk may have it, but nobody has written so.
            assert!(note(&layer)["unsynced"].is_string(), "{}", note(&layer));
            assert!(!layer.join("layer.json.new").exists());
        }
        builds::layers_are_whole(site).await;
        builds::the_disk_is_accounted(site).await;
        bench.nothing_contradicts(point.name);
        bench.site.ctl(&["start", "-a", "one"]).ok();
        bench.beside_is_unharmed().await;
        bench.clean(point.name).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runtime_is_killed_while_it_gives_layers_up() {
    let points = points("runtime.reboot");
    if points.is_empty() {
        return;
    }
    let Some(mut bench) = Bench::start().await else {
        return;
    };
    builds::store_image(&bench.site).await;
    for point in points {
        eprintln!("--- {}", point.name);
        bench
            .site
            .ctl(&["create", "--name", "one", builds::IMAGE])
            .ok();
        let layers = layers(&bench.site).await;
        bench.site.kill_service("runtime");
        for layer in &layers {
            let mut note = note(layer);
            note["unsynced"] = "00000000000000000000000000000001".into();
            fs::write(layer.join("layer.json"), note.to_string()).unwrap();
        }
        bench.site.arm(point.name, Action::Kill);
        bench.site.spawn_service("runtime");
        bench.fires(point).await;
        bench.dies("runtime").await;
        bench.restart_dead().await;
        let site = &bench.site;
        eventually("what is doubtful is gone", async || {
            layers.iter().all(|layer| !layer.exists()).then_some(())
        })
        .await;
        builds::layers_are_whole(site).await;
        builds::the_disk_is_accounted(site).await;
        bench.nothing_contradicts(point.name);
        bench.beside_is_unharmed().await;
        // Fetched again for the container that was made upon them.
        bench.site.ctl(&["start", "-a", "one"]).ok();
        assert!(layers.iter().all(|layer| layer.exists()));
        bench.clean(point.name).await;
    }
}
