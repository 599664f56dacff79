//! Several that mirror into one bucket, and tell no upstream what is their own.

use std::sync::{Arc, atomic::Ordering};

use futures_util::TryStreamExt as _;
use registry_svc::bucket::Bucket;
use reqwest::StatusCode;

use crate::{
    server::Server,
    service::{Service, eventually},
    support::{TestImage, Upstream},
};

#[tokio::test(flavor = "multi_thread")]
async fn mirrored_content_is_fetched_once_for_all() {
    let Some(server) = Server::shared() else {
        return;
    };
    let upstream = Upstream::start().await;
    let image = TestImage::new("mirrored", 200_000);
    upstream.add("app:1", &image);
    let more = format!(
        "[[upstream]]\nhost = \"docker.io\"\nurl = \"http://{}\"\ninsecure = true\n",
        upstream.address
    );
    let a = Arc::new(Service::start(server, "mirror", &more).await);
    let b = Service::start(server, "mirror", &more).await;
    assert_eq!(
        a.tag("library/app", "1").await,
        Some(image.digest().to_string())
    );
    let pulls: Vec<_> = (0..8)
        .map(|_| {
            let (a, image) = (Arc::clone(&a), image.clone());
            tokio::spawn(async move { a.has("library/app", &image).await })
        })
        .collect();
    for pull in pulls {
        pull.await.unwrap();
    }
    // Who pulls has it before it is stored.
    let config = server.settings("mirror").check().unwrap().unwrap();
    let bucket = Bucket::new(&config).unwrap();
    let stored = async || {
        let journal: Vec<_> = bucket.list("journal", None).try_collect().await.unwrap();
        let (mut stored, mut linked) = (0, 0);
        for entry in journal {
            let entry = bucket.get(&entry.name, 1 << 20).await.unwrap().unwrap();
            let entry = String::from_utf8_lossy(&entry);
            stored += entry.matches(r#""do":"stored""#).count();
            linked += entry.matches(r#""do":"link""#).count();
        }
        // With the manifest, whose own link goes without saying.
        stored == 3 && linked >= 2
    };
    eventually("all is in the bucket", stored).await;
    let before = upstream.state.blob_requests.lock().unwrap().len();
    b.has("library/app", &image).await;
    a.has("library/app", &image).await;
    // Two who come one after the other, before it is stored, may both ask.
    let asked = upstream.state.blob_requests.lock().unwrap().len();
    assert!(asked == before && asked < 2 * 8, "{asked}");
    upstream.state.answer.store(503, Ordering::SeqCst);
    assert_eq!(
        b.tag("library/app", "1").await,
        Some(image.digest().to_string())
    );
    b.has("library/app", &image).await;
}

/// Its name tells who makes what: nobody else is to hear of it, whichever of several is asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_of_ours_is_told_to_no_upstream_by_any() {
    let Some(server) = Server::shared() else {
        return;
    };
    let upstream = Upstream::start().await;
    let more = format!(
        "grace = '0s'\n[[upstream]]\nhost = \"docker.io\"\nurl = \"http://{}\"\ninsecure = true\n",
        upstream.address
    );
    let a = Service::start(server, "ours", &more).await;
    let b = Service::start(server, "ours", &more).await;
    let image = TestImage::new("ours", 100);
    a.push("team/secret", "v1", &image).await;
    let gone = format!("team/secret/manifests/{}", image.digest());
    assert_eq!(a.delete(&gone).await, StatusCode::ACCEPTED);
    let asked = || upstream.state.manifest_requests.load(Ordering::SeqCst);
    let before = asked();
    for path in ["team/secret/manifests/v1", &gone] {
        for service in [&a, &b] {
            assert_eq!(service.status(path).await, StatusCode::NOT_FOUND);
        }
    }
    // Also who knows it from the journal only.
    let folder = b.kill();
    std::fs::remove_dir_all(folder.path().join("state")).unwrap();
    let b = Service::on(folder).await;
    assert_eq!(b.status(&gone).await, StatusCode::NOT_FOUND);
    assert_eq!(asked(), before);
    // Any other name is asked for.
    assert_eq!(
        b.status("team/other/manifests/v1").await,
        StatusCode::NOT_FOUND
    );
    assert!(asked() > before);
}
