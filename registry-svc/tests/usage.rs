//! What each repository takes on disk, to the block, whatever happens to it.

mod support;

use std::os::unix::fs::MetadataExt as _;

use registry_svc::{
    store::{ManifestRecord, Names, Origin},
    usage::{RepositoryUsage, StoreUsage},
};
use support::{Site, TestImage, Upstream, client};

fn on_disk(path: &std::path::Path) -> u64 {
    let files = support::files_below(path);
    files
        .iter()
        .map(|p| p.metadata().unwrap().blocks() * 512)
        .sum()
}

/// The sums are what the files take, and what a service finds that counts anew.
async fn exact(site: &Site) -> StoreUsage {
    let usage = site.registry.repository_usage().await.unwrap();
    let exclusive: u64 = usage.repositories.iter().map(|r| r.exclusive).sum();
    let blobs = site.dir.path().join("blobs");
    let all = on_disk(&blobs) - on_disk(&blobs.join("quarantine"));
    assert_eq!(exclusive + usage.shared + usage.unneeded, all, "{usage:?}");
    site.registry.index.unwatch();
    let anew = site.registry.repository_usage().await.unwrap();
    assert_eq!(usage, anew);
    anew
}

fn of<'a>(usage: &'a StoreUsage, name: &str) -> &'a RepositoryUsage {
    let mut all = usage.repositories.iter();
    all.find(|r| r.repository.familiar() == name).unwrap()
}

#[tokio::test]
async fn what_several_repositories_have_counts_once() {
    let site = Site::start().await;
    assert_eq!(exact(&site).await, StoreUsage::default());
    let (one, two) = (
        TestImage::new("one", 100_000),
        TestImage::new("two", 50_000),
    );
    site.push_image("team/app", "v1", &one).await;
    site.push_image("team/app", "v2", &two).await;
    let alone = exact(&site).await;
    assert_eq!((alone.repositories.len(), alone.shared), (1, 0));
    site.push_image("team/other", "v1", &one).await;
    let both = exact(&site).await;
    let (app, other) = (of(&both, "team/app"), of(&both, "team/other"));
    assert_eq!((other.exclusive, other.shared), (0, both.shared));
    assert_eq!(app.exclusive + app.shared, of(&alone, "team/app").exclusive);
    assert!(both.shared >= 100_000);
    // A blob whose manifest is still to come is nobody's, and an upload no blob.
    site.push_blob("team/app", &[1; 9000]).await;
    let started = client()
        .post(site.url("team/app/blobs/uploads/"))
        .send()
        .await
        .unwrap();
    let location = started.headers()["location"].to_str().unwrap().to_owned();
    let url = format!("http://{}{location}", site.address);
    client()
        .patch(url)
        .body(vec![2; 30_000])
        .send()
        .await
        .unwrap();
    let more = exact(&site).await;
    assert!(more.unneeded >= 9000 && more.uploads >= 30_000, "{more:?}");
    site.registry
        .remove_image("team/other:v1", false)
        .await
        .unwrap();
    let left = exact(&site).await;
    assert_eq!((left.repositories.len(), left.shared), (1, 0));
    site.registry
        .remove_image("team/app:v2", false)
        .await
        .unwrap();
    assert!(of(&exact(&site).await, "team/app").exclusive < app.exclusive + app.shared);
}

#[tokio::test]
async fn blobs_count_when_they_arrive_and_not_when_they_are_moved_aside() {
    let upstream = Upstream::start().await;
    let image = TestImage::new("arrives", 80_000);
    upstream.add("app:latest", &image);
    let site = Site::with_upstream(Some(&upstream), 300).await;
    exact(&site).await;
    let get = async |path: String| {
        client()
            .get(site.url(&path))
            .send()
            .await
            .unwrap()
            .bytes()
            .await
    };
    get("app/manifests/latest".to_owned()).await.unwrap();
    let manifest = exact(&site).await;
    assert_eq!(manifest.repositories.len(), 1);
    let layer = format!("app/blobs/{}", image.layer_digest());
    assert_eq!(get(layer.clone()).await.unwrap(), image.layer);
    // Who asked has it before the disk.
    let flown = async || loop {
        let usage = site.registry.repository_usage().await.unwrap();
        if of(&usage, "app").exclusive >= 80_000 {
            return;
        }
        tokio::task::yield_now().await;
    };
    flown().await;
    exact(&site).await;
    let hex = image.layer_digest();
    let path = site
        .dir
        .path()
        .join("blobs/sha256")
        .join(&hex.encoded()[..2]);
    std::fs::write(path.join(hex.encoded()), "rust").unwrap();
    assert!(site.registry.set_aside(&hex).await.unwrap());
    let aside = exact(&site).await;
    assert_eq!(of(&aside, "app").exclusive, of(&manifest, "app").exclusive);
    assert!(aside.quarantined > 0);
    assert_eq!(get(layer).await.unwrap(), image.layer);
    flown().await;
}

/// What a question costs with 10,000 repositories and 100,000 tags: the first, and one after a push.
#[tokio::test]
#[ignore = "a measurement of a minute"]
async fn a_question_about_ten_thousand_repositories() {
    let site = Site::start().await;
    let registry = &site.registry;
    let shared = site.push_blob("team/base", &[1; 100]).await;
    let blobs = site.dir.path().join("blobs/sha256");
    for number in 0..100_000 {
        let name = format!("team/app-{}", number / 10);
        let name = registry.own.from_name(&name).unwrap();
        let content = number.to_string();
        let digest = slipway_image::Digest::of(&content);
        let record = ManifestRecord {
            media_type: slipway_image::media_type::OCI_MANIFEST.to_owned(),
            size: content.len() as u64,
            origin: Origin::Local,
            stored: 0,
            by_digest: false,
            held: Vec::new(),
            unproven: Vec::new(),
        };
        let names = Names {
            references: vec![shared.clone(), slipway_image::Digest::of("missing")],
            subject: None,
            referrer: None,
        };
        let index = &registry.index;
        index.set_manifest(&name, &digest, &record, &names).unwrap();
        let folder = blobs.join(&digest.encoded()[..2]);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(digest.encoded()), content).unwrap();
    }
    let began = std::time::Instant::now();
    let first = registry.repository_usage().await.unwrap();
    println!(
        "first: {:?}, {} repositories",
        began.elapsed(),
        first.repositories.len()
    );
    site.push_image("team/new", "v1", &TestImage::new("new", 1000))
        .await;
    let began = std::time::Instant::now();
    let next = registry.repository_usage().await.unwrap();
    println!(
        "next: {:?}, {} repositories",
        began.elapsed(),
        next.repositories.len()
    );
}
