//! What is on the disk of a host that builds: whole, counted, and nothing else.

use std::{fs, path::PathBuf};

use slipway_proto::{
    registry::v1::StatBlobsRequest,
    runtime::v1::{self as pb, DiskUsageRequest, DiskUsageResponse},
};
use slipway_tests::{Site, eventually};

use super::scenarios::COMMITTED;

/// Names of the cache mounts; what is said of each is what is on the disk.
pub async fn caches(site: &Site) -> Vec<String> {
    eventually("cache mounts are counted", async || {
        let answer = site.worker().list_caches(pb::ListCachesRequest {}).await;
        let caches = answer.unwrap().into_inner().caches;
        let folder = site.path("state/runtime/caches");
        let exact = |c: &pb::CacheMount| c.size == disk(&folder.join(&c.name));
        let mut names: Vec<String> = caches.iter().map(|c| c.name.clone()).collect();
        names.sort();
        (caches.iter().all(exact) && names == on_disk(&folder)).then_some(names)
    })
    .await
}

pub fn on_disk(folder: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// The folders of an image's layers that are there; each is whole, which [`layers_are_whole`] sees to.
pub async fn is_whole(site: &Site, image: &str) -> bool {
    let folder = site.path("state/runtime/layers");
    let layers = site.layers_of(image).await;
    let home = |layer: &pb::Layer| folder.join(layer.diff_id.trim_start_matches("sha256:"));
    layers.iter().all(|layer| home(layer).exists())
}

/// A layer that was made here.
pub fn has_built_layer(site: &Site) -> bool {
    let folder = site.path("state/runtime/layers");
    let built = |name: &String| {
        let text = fs::read(folder.join(name).join("layer.json")).unwrap_or_default();
        let note: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        note["built"] == true
    };
    on_disk(&folder).iter().any(built)
}

pub async fn is_stored(site: &Site, digest: &str) -> bool {
    let request = StatBlobsRequest {
        repository: COMMITTED.to_owned(),
        digests: vec![digest.to_owned()],
    };
    let answer = site.registry().stat_blobs(request).await.unwrap();
    !answer.into_inner().present.is_empty()
}

/// Nothing in the folder of layers but layers: no temporary one, none without its note.
pub async fn layers_are_whole(site: &Site) {
    let folder = site.path("state/runtime/layers");
    let is_whole = |name: &String| {
        let text = fs::read(folder.join(name).join("layer.json")).unwrap_or_default();
        let note: Option<serde_json::Value> = serde_json::from_slice(&text).ok();
        note.is_some() && folder.join(name).join("fs").is_dir()
    };
    eventually("the layers are whole", async || {
        on_disk(&folder).iter().all(is_whole).then_some(())
    })
    .await;
}

pub async fn nothing_of_a_lease_is_left(site: &Site) {
    assert!(site.leases().await.is_empty());
    let folder = site.path("state/runtime/snapshots");
    eventually("the snapshots are gone", async || {
        on_disk(&folder).is_empty().then_some(())
    })
    .await;
}

pub fn disk(path: &std::path::Path) -> u64 {
    let said = std::process::Command::new("du")
        .args(["-sx", "-B1"])
        .arg(path)
        .output();
    let text = String::from_utf8(said.unwrap().stdout).unwrap();
    text.split_whitespace()
        .next()
        .map_or(0, |n| n.parse().unwrap())
}

/// What is told of the disk is what is on it.
pub async fn the_disk_is_accounted(site: &Site) {
    let state: PathBuf = site.path("state/runtime");
    eventually("all parts together are all there is", async || {
        let request = DiskUsageRequest { verbose: true };
        let told: DiskUsageResponse = site.host().disk_usage(request).await.unwrap().into_inner();
        let parts = [
            &told.containers,
            &told.volumes,
            &told.layers,
            &told.snapshots,
            &told.cache_mounts,
        ];
        let parts = parts.iter().map(|u| u.unwrap_or_default().size);
        let sum = parts.sum::<u64>() + told.temporary + told.other;
        let each = told.each_layer.iter().all(|layer| {
            let name = layer.diff_id.trim_start_matches("sha256:");
            layer.size == disk(&state.join("layers").join(name))
        });
        (sum == disk(&state) && told.temporary == 0 && each).then_some(())
    })
    .await;
}
