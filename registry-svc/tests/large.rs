//! What upkeep costs with 10,000 repositories and 100,000 tags: measurements, to be run by hand
//! (`cargo test --release -p registry-svc --test large -- --ignored --nocapture`).

mod support;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use registry_svc::{
    config::{Config, RegistryFile},
    fsck::check::CheckRequest,
    registry::now,
    retention::Rules,
    store::{ManifestRecord, Origin, TagRecord},
};
use slipway_image::{Digest, media_type};
use support::{Site, TestImage};

const REPOSITORIES: usize = 10_000;
const TAGS: usize = 10;

/// The files of a catalog as pushes would have left them: a config and a manifest for each repository, one layer
/// for all.
fn fill(root: &Path) {
    let layer = TestImage::new("shared", 100).layer;
    put_blob(root, &layer);
    for number in 0..REPOSITORIES {
        let name = format!("bench/{number:05}");
        let config = serde_json::json!({"os": "linux", "author": name}).to_string();
        let described = |kind: &str, content: &[u8]| {
            let digest = Digest::of(content).to_string();
            serde_json::json!({"mediaType": kind, "digest": digest, "size": content.len()})
        };
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
            "config": described(media_type::OCI_CONFIG, config.as_bytes()),
            "layers": [described(media_type::OCI_LAYER, &layer)],
        })
        .to_string();
        put_blob(root, config.as_bytes());
        put_blob(root, manifest.as_bytes());
        let digest = Digest::of(&manifest);
        let folder = root.join("repositories/docker.io").join(&name);
        let record = ManifestRecord {
            media_type: media_type::OCI_MANIFEST.to_owned(),
            size: manifest.len() as u64,
            origin: Origin::Local,
            stored: 1,
            by_digest: false,
            held: Vec::new(),
            unproven: Vec::new(),
        };
        let links = folder.join("_manifests/sha256");
        write(
            &links.join(digest.encoded()),
            &serde_json::to_vec(&record).unwrap(),
        );
        for tag in 0..TAGS {
            let record = TagRecord {
                digest: digest.clone(),
                origin: Origin::Local,
                tagged: 1 + tag as u64,
            };
            let path = folder.join(format!("_tags/v{tag}"));
            write(&path, &serde_json::to_vec(&record).unwrap());
        }
    }
}

fn put_blob(root: &Path, content: &[u8]) {
    let digest = Digest::of(content);
    let hex = digest.encoded();
    write(
        &root.join("blobs/sha256").join(&hex[..2]).join(hex),
        content,
    );
}

fn write(path: &Path, content: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// Time, and how much more memory it took at most than there was.
async fn measured<T>(what: &str, work: impl Future<Output = T>) -> T {
    // proc(5): 5 sets the peak back.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = resident("VmRSS:");
    let began = Instant::now();
    let told = work.await;
    let (took, peak) = (began.elapsed(), resident("VmHWM:"));
    let more = peak.saturating_sub(before) / 1024;
    println!(
        "{what}: {took:.2?}, {more} MiB more than {} MiB",
        before / 1024
    );
    told
}

/// Of `/proc/self/status`, in KiB.
fn resident(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of minutes"]
async fn upkeep_of_ten_thousand_repositories() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    fill(dir.path());
    let text = "[[retention]]\nof = 'own'\nkeep = 5\n";
    let file: RegistryFile = toml::from_str(text).unwrap();
    let config = Config {
        retention: Rules::check(file.retention).unwrap(),
        ..Config::default()
    };
    let open = |dir| Site::with(config.clone(), dir, None, 0);
    let site = measured("made from nothing", open(dir)).await;
    let dir = site.crash().await;
    let site = measured("made anew", open(dir)).await;
    site.registry.close().await.unwrap();
    let dir = site.crash().await;
    let site = measured("opened", open(dir)).await;
    let registry = &site.registry;
    let check = CheckRequest {
        repair: false,
        restart: true,
        rate: Some(u64::MAX),
    };
    let (sender, mut events) = tokio::sync::mpsc::channel(100);
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let summary = measured("fsck", registry.check(check, &sender))
        .await
        .unwrap();
    assert_eq!(
        (summary.blobs as usize, summary.found),
        (2 * REPOSITORIES + 1, 0)
    );
    let far = now() + Duration::from_secs(365 * 24 * 3600).as_millis() as u64;
    let plan = measured("retain --dry-run", registry.retain(far, true))
        .await
        .unwrap();
    assert_eq!(plan.steps.len(), REPOSITORIES);
    measured("gc --dry-run", registry.collect_garbage(true))
        .await
        .unwrap();
    measured("gc", registry.collect_garbage(false))
        .await
        .unwrap();
    measured("df", registry.repository_usage()).await.unwrap();
    let retained = measured("retain", registry.retain(far, false))
        .await
        .unwrap();
    assert_eq!(retained.steps.len() + retained.skipped.len(), REPOSITORIES);
}
