//! Layers that a builder gives to a worker by itself: believed by their digest alone, and counted while they come.

use std::{fs, io::Write as _, path::Path, time::Duration};

use slipway_image::{
    Digest,
    layer::{Kind, gzip::GzipWriter},
};
use slipway_proto::runtime::v1::{self as pb, import_layer_request::Part};
use slipway_tests::{
    Site, eventually,
    image::entry,
    worker::{Build, given, known, reason, tar},
};

const LONG: Duration = Duration::from_secs(60);
/// More than half of a megabyte.
const LARGE: usize = 600_000;

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut gzip = GzipWriter::new(Vec::new(), 1);
    gzip.write_all(plain).unwrap();
    gzip.finish().unwrap()
}

fn digest(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

/// A layer with a large file, all of one byte, under each of these names.
fn large(names: &[&str], byte: u8) -> Vec<u8> {
    let file = |name: &&str| {
        let content = vec![byte; LARGE];
        (entry(name, Kind::File, LARGE as u64), content)
    };
    tar(&names.iter().map(file).collect::<Vec<_>>())
}

/// The same without the files' content, which another layer has as `file`.
fn named(archive: &[u8], byte: u8, layer: &str) -> Vec<Part> {
    let content = vec![byte; LARGE];
    let (mut parts, mut rest) = (Vec::new(), archive);
    while let Some(at) = rest.windows(LARGE).position(|part| part == content) {
        parts.extend([given(&rest[..at]), known(layer, "file", LARGE as u64)]);
        rest = &rest[at + LARGE..];
    }
    parts.push(given(rest));
    parts
}

/// Entries in the folder of layers.
fn layers(site: &Site) -> usize {
    let folder = site.path("state/runtime/layers");
    fs::read_dir(folder).unwrap().count()
}

async fn has_layers(site: &Site, count: usize) {
    eventually("nothing but these layers is there", async || {
        (layers(site) == count).then_some(())
    })
    .await;
}

/// A site without an image, with these settings of its runtime.
async fn with_settings(settings: &str) -> Option<(Site, Build)> {
    if !slipway_tests::ready() {
        return None;
    }
    let mut site = Site::bare();
    site.configure("runtime.toml", settings);
    site.start_services().await;
    let build = site.begin_build("a test", LONG).await;
    Some((site, build))
}

#[tokio::test]
async fn a_layer_that_the_builder_has_is_believed_by_its_digest_alone() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let build = site.begin_build("a test", LONG).await;
    let archive = tar(&[(entry("given", Kind::File, 5), b"hello".to_vec())]);
    let (diff_id, other) = (digest(&archive), digest(b"other"));
    let gzip = gzip(&archive);
    let of_gzip = digest(&gzip);
    let before = layers(&site);
    for (archive, diff_id, why) in [
        (&archive[..], Some(&*other), "LAYER_INVALID"),
        (&gzip, Some(&*diff_id), "LAYER_INVALID"),
        (&gzip, Some(&*of_gzip), "LAYER_INVALID"),
        (&archive, Some("sha256:x"), "INVALID_ARGUMENT"),
        (&archive, None, "INVALID_ARGUMENT"),
    ] {
        let refused = build.import(vec![given(archive)], diff_id).await;
        assert_eq!(reason(&refused.unwrap_err()), why, "{diff_id:?}");
    }
    let nobody = Build {
        lease: "none".to_owned(),
        ..build.clone()
    };
    let unknown = nobody.import(vec![given(&archive)], Some(&diff_id)).await;
    assert_eq!(reason(&unknown.unwrap_err()), "LEASE_NOT_FOUND");
    has_layers(&site, before).await;
    // No registry has it: only what was sent can be what is there.
    build
        .import(archive.chunks(1000).map(given).collect(), Some(&diff_id))
        .await
        .unwrap();
    let mut all = site.layers_of("busybox").await;
    all.push(pb::Layer {
        diff_id: diff_id.clone(),
        ..all[0].clone()
    });
    let snapshot = build.prepare(&all).await.unwrap();
    let (code, text) = build.run(&snapshot, "cat /given").await.unwrap();
    assert_eq!((code, &*text), (0, "hello"));
    // Again is fine.
    build
        .import(vec![given(&archive)], Some(&diff_id))
        .await
        .unwrap();
}

/// Gives a layer in these parts; the reason where it is refused.
async fn import(build: &Build, parts: Vec<Part>, archive: &[u8]) -> Result<(), String> {
    let imported = build.import(parts, Some(&digest(archive))).await;
    imported.map_err(|error| reason(&error))
}

#[tokio::test]
async fn what_comes_counts_for_its_lease_until_it_is_a_layer() {
    let Some((site, build)) = with_settings("lease_max_bytes = \"1m\"\n").await else {
        return;
    };
    // What was refused counts until it is gone: nothing of that is another lease's.
    let another = async || site.begin_build("another test", LONG).await;
    let limit = Err("LEASE_LIMIT".to_owned());
    // Each is given back when it is a layer.
    let first = large(&["file"], 1);
    import(&build, vec![given(&first)], &first).await.unwrap();
    let layer = digest(&first);
    for name in ["a", "b", "c"] {
        let archive = large(&[name], 1);
        let parts = named(&archive, 1, &layer);
        import(&build, parts, &archive).await.unwrap();
    }
    // What is sent, and what is only named: it is written all the same.
    let two = large(&["a", "b"], 1);
    let pieces = two.chunks(100_000).map(given).collect();
    assert_eq!(import(&another().await, pieces, &two).await, limit);
    let parts = named(&two, 1, &layer);
    assert_eq!(import(&another().await, parts, &two).await, limit);
    has_layers(&site, 4).await;
    // Beside what snapshots have.
    let other = large(&["file"], 2);
    let build = another().await;
    let snapshot = build.prepare(&[]).await.unwrap();
    build.apply(&snapshot, "/", &first).await.unwrap();
    let beside = import(&build, vec![given(&other)], &other).await;
    assert_eq!(beside, limit);
    // Beside what else is on its way, until that is gone.
    let build = another().await;
    let (send, requests) = tokio::sync::mpsc::channel(4);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    for part in [Part::LeaseId(build.lease.clone()), given(&other)] {
        let request = pb::ImportLayerRequest { part: Some(part) };
        send.send(request).await.unwrap();
    }
    let mut client = build.client.clone();
    let under_way = tokio::spawn(async move { client.import_layer(requests).await.map(drop) });
    eventually("some of it is written", async || {
        let entries = fs::read_dir(site.path("state/runtime/layers")).unwrap();
        let mut paths = entries.map(|entry| entry.unwrap().path());
        let is_half = |path: &Path| path.to_string_lossy().contains("/tmp-");
        paths
            .any(|path| is_half(&path) && path.join("fs/file").exists())
            .then_some(())
    })
    .await;
    let third = large(&["file"], 3);
    let beside = import(&build, vec![given(&third)], &third).await;
    assert_eq!(beside, limit);
    drop(send);
    let cut_off = under_way.await.unwrap().unwrap_err();
    assert_eq!(reason(&cut_off), "INVALID_ARGUMENT", "{cut_off}");
    eventually("what was cut off counts no more", async || {
        let parts = vec![given(&third)];
        import(&build, parts, &third).await.ok()
    })
    .await;
}

#[tokio::test]
async fn what_is_compressed_is_not_inflated() {
    let Some((site, build)) = with_settings("").await else {
        return;
    };
    // Little comes, and much would be written that nobody counted.
    let small = gzip(&large(&["a", "b", "c"], 0));
    for diff_id in [digest(&small), digest(&large(&["a", "b", "c"], 0))] {
        let refused = build.import(vec![given(&small)], Some(&diff_id)).await;
        let refused = refused.unwrap_err();
        assert_eq!(reason(&refused), "LAYER_INVALID");
        assert!(!refused.message().contains("has the digest"), "{refused}");
    }
    has_layers(&site, 0).await;
}

#[tokio::test]
async fn what_has_come_makes_older_layers_go_at_once() {
    let Some((site, build)) = with_settings("layers_max_bytes = \"1m\"\n").await else {
        return;
    };
    // The room is looked at every minute, too, which nobody waits for here.
    for byte in 1..=4 {
        let archive = large(&["file"], byte);
        let diff_id = digest(&archive);
        build
            .import(vec![given(&archive)], Some(&diff_id))
            .await
            .unwrap();
        has_layers(&site, 1).await;
    }
}
