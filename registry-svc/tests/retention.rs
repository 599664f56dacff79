//! Rules of retention on a registry that works, and what it knows about last uses.

mod support;

use std::sync::Arc;

use registry_svc::{
    config::{Config, RegistryFile},
    registry::now,
    retention::{Retained, Rules},
};
use support::{Site, TestImage, Upstream, client};

const DAY: u64 = 24 * 3600 * 1000;

fn rules(text: &str) -> Config {
    let file: RegistryFile = toml::from_str(text).unwrap();
    Config {
        retention: Rules::check(file.retention).unwrap(),
        ..Config::default()
    }
}

async fn status(site: &Site, path: &str) -> u16 {
    let got = client().get(site.url(path)).send().await.unwrap();
    got.status().as_u16()
}

async fn retain(site: &Site, days: u64) -> Retained {
    site.registry
        .retain(now() + days * DAY, false)
        .await
        .unwrap()
}

fn blobs_on_disk(site: &Site) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let files = support::files_below(&site.dir.path().join("blobs"));
    files
        .iter()
        .map(|p| p.metadata().unwrap().blocks() * 512)
        .sum()
}

#[tokio::test]
async fn a_dry_run_says_what_then_goes_to_the_byte() {
    let config = rules("[[retention]]\nof = 'own'\nkeep = 2\nprotect = ['stable']\n");
    let site = Site::with_config(config).await;
    for tag in ["stable", "one", "two", "three", "four"] {
        site.push_image("team/app", tag, &TestImage::new(tag, 9000))
            .await;
    }
    let at = now() + DAY;
    let told = site.registry.retain(at, true).await.unwrap();
    let mut tags: Vec<String> = told.steps.iter().map(|s| s.tags[0].0.to_string()).collect();
    tags.sort();
    assert_eq!(tags, ["one", "two"]);
    assert_eq!(status(&site, "team/app/manifests/one").await, 200);
    let before = blobs_on_disk(&site);
    // Just pushed: somebody may be pulling it.
    let again = site.registry.retain(now(), true).await.unwrap();
    assert!(again.steps.is_empty());
    let done = site.registry.retain(at, false).await.unwrap();
    assert!(done.skipped.is_empty());
    assert_eq!(
        (done.freed, told.freed),
        (before - blobs_on_disk(&site), done.freed)
    );
    for (tag, expected) in [("stable", 200), ("one", 404), ("two", 404), ("three", 200)] {
        assert_eq!(
            status(&site, &format!("team/app/manifests/{tag}")).await,
            expected,
            "{tag}"
        );
    }
    assert!(retain(&site, 1).await.steps.is_empty());
}

#[tokio::test]
async fn what_somebody_has_in_hand_stays_until_he_is_done() {
    let site = Site::with_config(rules("[[retention]]\nof = 'own'\nmax_age = '1d'\n")).await;
    let image = TestImage::new("held", 1000);
    site.push_image("team/app", "old", &image).await;
    let lease = site.registry.leases.hold(&image.layer_digest()).await;
    let kept = retain(&site, 2).await;
    assert_eq!((kept.steps.len(), kept.skipped.len()), (0, 1));
    drop(lease);
    assert_eq!(retain(&site, 2).await.steps.len(), 1);
    assert_eq!(blobs_on_disk(&site), 0);
}

#[tokio::test]
async fn mirrored_images_go_when_nobody_pulls_them_and_come_again() {
    let upstream = Upstream::start().await;
    let (used, idle) = (TestImage::new("used", 5000), TestImage::new("idle", 5000));
    upstream.add("used:latest", &used);
    upstream.add("idle:latest", &idle);
    let config = rules("[[retention]]\nof = 'mirrored'\nunused = '30d'\n");
    let site = Site::with(
        config,
        Arc::new(tempfile::tempdir().unwrap()),
        Some(upstream.address),
        300,
    )
    .await;
    for (name, image) in [("used", &used), ("idle", &idle)] {
        assert_eq!(
            status(&site, &format!("{name}/manifests/latest")).await,
            200
        );
        let layer = format!("{name}/blobs/{}", image.layer_digest());
        assert_eq!(status(&site, &layer).await, 200);
    }
    let registry = &site.registry;
    // As if one of them had been pulled a month later, and written down.
    let name = registry.own.parse_image("used").unwrap().repository;
    let later = now() + 29 * DAY;
    registry
        .index
        .set_last_use(&name, &used.digest(), later)
        .unwrap();
    // Who pulled it has it before the disk, which has it in hand a moment longer.
    let gone = loop {
        let gone = retain(&site, 31).await;
        match &gone.skipped[..] {
            [] => break gone,
            [(_, why)] => assert_eq!(*why, "somebody is pulling or pushing it"),
            more => panic!("{more:?}"),
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(gone.steps.len(), 1);
    assert_eq!(gone.steps[0].digest, idle.digest());
    assert!(
        gone.steps[0].why.starts_with("not pulled for 31 days"),
        "{}",
        gone.steps[0].why
    );
    assert_eq!(registry.images().await.unwrap().len(), 0);
    assert_eq!(status(&site, "idle/manifests/latest").await, 200);
}

#[tokio::test]
async fn uses_outlive_a_restart_and_what_a_crash_lost_counts_as_used() {
    let config = || rules("[[retention]]\nof = 'own'\nkeep = 1\n");
    let site = Site::with_config(config()).await;
    let image = TestImage::new("use", 100);
    site.push_image("team/app", "v1", &image).await;
    let began = now();
    assert_eq!(status(&site, "team/app/manifests/v1").await, 200);
    let name = site
        .registry
        .own
        .parse_image("team/app")
        .unwrap()
        .repository;
    let last = |site: &Site| site.registry.uses.last(&name, &image.digest()).unwrap();
    let used = last(&site);
    assert!(used >= began);
    site.registry.close().await.unwrap();
    let site = Site::with(config(), site.crash().await, None, 0).await;
    assert_eq!(last(&site), used);
    // Another pull, and kill -9: nobody knows who else pulled.
    let crashed = now();
    let site = Site::with(config(), site.crash().await, None, 0).await;
    assert!(last(&site) >= crashed);
}
